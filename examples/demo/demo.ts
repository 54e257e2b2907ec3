/**
 * The whole line on this machine: a local chain with the contract, a service with one job in the runner's process and one in a bundled
 * handler in another process, 300 calls, a runner that is killed in the middle, and a table that counts the results of every call.
 *
 * Exit status 1 unless every call has exactly one result, and the right one.
 */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { encodeAbiParameters } from 'viem/utils';
import { buildHandler } from '../../src/deploy/package.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { deployTangle, startLocalChain } from '../../src/testing/testing.ts';
import type { LocalService, LocalTangle } from '../../src/testing/testing.ts';
import { startHandler, startNode } from './processes.ts';
import type { NodeProcess } from './processes.ts';

const WAVES = 10;
const CALLS_PER_WAVE = 30;
const CALLS = WAVES * CALLS_PER_WAVE;
/** Killed when this many waves are submitted, started again when so many are. */
const KILLED_AFTER = 4;
const RESTARTED_AFTER = 6;
const BLOCK_MS = 200;
const DEADLINE_MS = 60_000;
const JOBS = ['square, in the runner', 'verified_square, in the handler'] as const;

const startedMs = performance.now();
const say = (text: string): void => console.log(`${((performance.now() - startedMs) / 1000).toFixed(1).padStart(5)} s  ${text}`);
const path = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

const inputOf = (index: number): bigint => BigInt(index + 1);
const jobOf = (index: number): number => index % JOBS.length;
const encode = (value: bigint): `0x${string}` => encodeAbiParameters([{ type: 'uint64' }], [value]);

interface Surroundings {
  readonly tangle: LocalTangle;
  readonly service: LocalService;
  readonly startRunner: () => NodeProcess;
}

async function submitWave({ tangle, service }: Surroundings, wave: number): Promise<bigint[]> {
  const indexes = Array.from({ length: CALLS_PER_WAVE }, (_, position) => wave * CALLS_PER_WAVE + position);
  return tangle.submitMany(
    service.serviceId,
    indexes.map((index) => ({ jobIndex: jobOf(index), inputs: encode(inputOf(index)) })),
  );
}

async function settledCalls({ tangle, service }: Surroundings): Promise<number> {
  return new Set((await tangle.results(service.serviceId)).map(({ callId }) => callId)).size;
}

/** Submits all calls and kills the runner on the way; resolves with the ids of the calls and the runner that is left. */
async function drive(surroundings: Surroundings): Promise<{ readonly ids: readonly bigint[]; readonly runner: NodeProcess }> {
  const ids: bigint[] = [];
  let runner = surroundings.startRunner();
  say(`runner started (process ${runner.pid})`);
  for (let wave = 0; wave < WAVES; wave += 1) {
    // It has shown that it works, and is in the middle of this wave.
    if (wave + 1 === KILLED_AFTER) while ((await settledCalls(surroundings)) === 0) await awaitProgress(runner);
    ids.push(...(await submitWave(surroundings, wave)));
    if (wave + 1 === KILLED_AFTER) {
      await runner.end('SIGKILL');
      say(`runner killed with SIGKILL: ${ids.length} calls submitted, ${await settledCalls(surroundings)} settled`);
    } else if (wave + 1 === RESTARTED_AFTER) {
      say(`${ids.length} calls submitted, ${await settledCalls(surroundings)} settled, nobody runs`);
      runner = surroundings.startRunner();
      say(`runner started again (process ${runner.pid}), same ledger`);
    }
  }
  say(`all ${ids.length} calls submitted`);
  let shown = -1;
  for (let settled = await settledCalls(surroundings); settled < CALLS; settled = await settledCalls(surroundings)) {
    if (settled !== shown) say(`${settled} of ${CALLS} settled`);
    shown = settled;
    await awaitProgress(runner);
  }
  say(`${CALLS} of ${CALLS} settled; runner asked to stop`);
  return { ids, runner };
}

async function awaitProgress(runner: NodeProcess): Promise<void> {
  if (performance.now() - startedMs > DEADLINE_MS) throw new Error(`not done after ${DEADLINE_MS / 1000} s\n${runner.stderr()}`);
  const ended = await Promise.race([sleep(BLOCK_MS), runner.exit]);
  if (ended !== undefined) throw new Error(`the runner ended with ${ended}\n${runner.stderr()}`);
}

/** Counts from the logs of the chain, not from what the runner says. */
async function prove({ tangle, service }: Surroundings, ids: readonly bigint[]): Promise<boolean> {
  const resultsOf = Map.groupBy(await tangle.results(service.serviceId), ({ callId }) => callId);
  const rows = JOBS.map((name, job) => {
    const calls = ids.flatMap((callId, index) => (jobOf(index) === job ? [{ callId, expected: encode(inputOf(index) ** 2n) }] : []));
    const counts = calls.map(({ callId }) => resultsOf.get(callId)?.length ?? 0);
    return {
      job: name,
      calls: calls.length,
      results: counts.reduce((sum, count) => sum + count, 0),
      right: calls.filter(({ callId, expected }) => {
        const output = resultsOf.get(callId)?.[0]?.output;
        return output !== undefined && `0x${Buffer.from(output).toString('hex')}` === expected;
      }).length,
      missing: counts.filter((count) => count === 0).length,
      duplicate: counts.filter((count) => count > 1).length,
    };
  });
  console.table(rows);
  return rows.every(({ calls, results, right, missing, duplicate }) => calls === results && calls === right && missing + duplicate === 0);
}

function reportExecutions(path: string): void {
  const ledger = SqliteLedger.open({ path, readonly: true });
  const records = ledger.find({ limit: CALLS * 2 });
  const executors = Object.groupBy(records, ({ executor }) => executor ?? 'nobody');
  const attempts = records.reduce((sum, record) => sum + record.attempts, 0);
  const by = Object.entries(executors).map(([name, list]) => `${list?.length} by ${name}`);
  say(`executed: ${by.join(', ')}; ${attempts} attempts for ${records.length} calls`);
  void ledger.close();
}

async function main(): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), 'blueprint-demo-'));
  const ledger = join(folder, 'ledger.sqlite');
  const chain = await startLocalChain({ blockTimeMs: BLOCK_MS });
  const processes: NodeProcess[] = [];
  try {
    say(`local chain at ${chain.rpcUrl}`);
    const built = await buildHandler({ entry: path('../incredible-squaring/jobs.ts'), outDir: folder });
    const handler = await startHandler(built.file);
    processes.push(handler);
    say(`handler bundle of ${(built.fileBytes / 1000).toFixed(0)} kB serves at ${handler.url} (process ${handler.pid})`);
    const tangle = await deployTangle(chain);
    const service = await tangle.startService({ jobs: [{ name: 'square' }, { name: 'verified_square' }] });
    say(`contract ${tangle.contract}, service ${service.serviceId}`);
    const startRunner = (): NodeProcess => {
      const runner = startNode(path('runner.ts'), {
        HTTP_RPC_URL: chain.rpcUrl,
        WS_RPC_URL: chain.wsUrl,
        CHAIN_ID: String(chain.chainId),
        SERVICE_ID: String(service.serviceId),
        BLUEPRINT_ID: String(service.blueprintId),
        TANGLE_CONTRACT: tangle.contract,
        OPERATOR_PRIVATE_KEY: service.operators[0]?.privateKey ?? '',
        BPR_DATA_DIR: folder,
        DEMO_LEDGER: ledger,
        DEMO_HANDLER_URL: handler.url,
      });
      processes.push(runner);
      return runner;
    };
    const { ids, runner } = await drive({ tangle, service, startRunner });
    await runner.end('SIGTERM');
    reportExecutions(ledger);
    return await prove({ tangle, service, startRunner }, ids);
  } finally {
    await Promise.all(processes.map((each) => each.end('SIGKILL')));
    await chain.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

const proven = await main();
console.log(proven ? `every one of ${CALLS} calls has exactly one result, the right one` : 'NOT PROVEN: see the table');
process.exitCode = proven ? 0 : 1;
