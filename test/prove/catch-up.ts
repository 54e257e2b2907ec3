/**
 * Proves that a runner takes up the calls that were submitted while it was down: all of them, in order of arrival, with a memory that
 * does not grow with their number: the peak of the calls is compared with that of half as many in the same run.
 *
 * `node test/prove/catch-up.ts [calls, default 5000]`; exit status 1 when something does not hold.
 */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { encodeAbiParameters } from 'viem/utils';
import { startNode } from '../../examples/demo/processes.ts';
import { deployTangle, startLocalChain } from '../../src/testing/testing.ts';

const CALLS = Number(process.argv[2] ?? 5_000);
const DEADLINE_MS = 180_000;
/** Peak of all calls for that of half of them: the garbage collector's slack, not the calls. */
const PEAK_RATIO_MAX = 1.2;

const encode = (value: bigint): `0x${string}` => encodeAbiParameters([{ type: 'uint64' }], [value]);
const squareOf = (index: number): string => encode(BigInt(index) ** 2n);

interface CaughtUp {
  readonly peakMb: number;
  readonly seconds: number;
  readonly right: number;
  readonly settled: number;
  readonly isInOrder: boolean;
}

async function catchUp(calls: number): Promise<CaughtUp> {
  const folder = await mkdtemp(join(tmpdir(), 'catch-up-'));
  const chain = await startLocalChain({ blockTimeMs: 250 });
  try {
    const tangle = await deployTangle(chain);
    const service = await tangle.startService({ jobs: [{ name: 'square' }] });
    const jobs = Array.from({ length: calls }, (_, index) => ({ jobIndex: 0, inputs: encode(BigInt(index)) }));
    await tangle.submitMany(service.serviceId, jobs);
    const started = performance.now();
    const runner = startNode(fileURLToPath(new URL('catch-up-runner.ts', import.meta.url)), {
      PROVE_LEDGER: join(folder, 'ledger.db'),
      HTTP_RPC_URL: chain.rpcUrl,
      TANGLE_CONTRACT: tangle.contract,
      SERVICE_ID: String(service.serviceId),
      OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey ?? '',
    });
    let settled = await tangle.results(service.serviceId);
    while (settled.length < calls && performance.now() - started < DEADLINE_MS) {
      await sleep(250);
      settled = await tangle.results(service.serviceId);
    }
    const seconds = (performance.now() - started) / 1_000;
    const end = runner.logged('peakRssKb');
    await runner.end('SIGTERM');
    const { peakRssKb, isInOrder, began } = JSON.parse(await end) as { peakRssKb: number; isInOrder: boolean; began: number };
    const right = settled.filter(({ callId, output }) => `0x${Buffer.from(output).toString('hex')}` === squareOf(Number(callId))).length;
    return { peakMb: peakRssKb / 1_024, seconds, right, settled: settled.length, isInOrder: isInOrder && began === calls };
  } finally {
    await chain.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

const half = await catchUp(CALLS >> 1);
const all = await catchUp(CALLS);
const ratio = all.peakMb / half.peakMb;
console.log(
  `peak RSS: ${half.peakMb.toFixed(0)} MB with ${CALLS >> 1} calls, ${all.peakMb.toFixed(0)} MB with ${CALLS}; ${all.seconds.toFixed(1)} s`,
);
const checks: [string, boolean, unknown][] = [
  ['every call settled once', all.settled === CALLS, `${all.settled} of ${CALLS}`],
  ['with the right output', all.right === CALLS, all.right],
  ['executed once, in order of arrival', all.isInOrder, all.isInOrder],
  [`peak at most ${PEAK_RATIO_MAX} x that of half the calls`, ratio <= PEAK_RATIO_MAX, ratio.toFixed(2)],
];
for (const [name, holds, value] of checks) console.log(`${holds ? 'ok   ' : 'FAILS'} ${name.padEnd(44)} ${String(value)}`);
process.exitCode = checks.every(([, holds]) => holds) ? 0 : 1;
