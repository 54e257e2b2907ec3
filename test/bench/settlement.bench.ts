/**
 * Results per second on a real local chain, in the same run and interleaved: settlement as it is, settlement with one result per transaction,
 * a bare loop that only signs and sends, and write-and-wait. Median of the rounds; ratios are what counts.
 *
 * `node test/bench/settlement.bench.ts [results] [rounds]`
 */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { privateKeyToAccount } from 'viem/accounts';
import { RpcChainClient } from '../../src/chain/rpc.ts';
import { Settlement } from '../../src/chain/settlement.ts';
import { transactionHash } from '../../src/chain/signed-transaction.ts';
import { systemClock } from '../../src/clock.ts';
import type { ChainCall, Hex } from '../../src/job/call.ts';
import { Metadata } from '../../src/job/call.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import type { LocalAccount } from '../../src/testing/local-chain.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalTangle } from '../../src/testing/tangle.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import { openLedger } from '../support/open-ledger.ts';
import { median } from './measure.ts';

const RESULTS = Number(process.argv[2] ?? 400);
const ROUNDS = Number(process.argv[3] ?? 5);
/** Write-and-wait is slow: fewer results say as much. */
const WAITED_RESULTS = Math.min(RESULTS, 10);
const OUTPUT = new Uint8Array(32).fill(7);
const GAS = 400_000n;
const BLOCK_MS = 100;

interface Surroundings {
  readonly tangle: LocalTangle;
  readonly client: RpcChainClient;
  readonly operator: LocalAccount;
  readonly serviceId: bigint;
}

/** Seconds until the results of `calls` are mined. */
type Way = (surroundings: Surroundings, calls: readonly ChainCall[]) => Promise<number>;

async function timed(work: () => Promise<void>): Promise<number> {
  const start = systemClock.monotonic();
  await work();
  return (systemClock.monotonic() - start) / 1000;
}

async function until(done: () => Promise<boolean>): Promise<void> {
  while (!(await done())) await systemClock.sleep(2);
}

const settle =
  (batchMax: number): Way =>
  async ({ client, operator }, calls) => {
    const folder = await mkdtemp(join(tmpdir(), 'bench-settlement-'));
    const ledger = await openLedger(folder);
    const last = calls.at(-1);
    if (!last) throw new Error('no calls');
    await ledger.recordSeen(calls, {
      chainId: last.chainId,
      contract: last.contract,
      block: { number: last.blockNumber, hash: last.blockHash },
    });
    await Promise.all(
      ledger
        .find({ states: ['seen'], limit: calls.length })
        .map((record) =>
          ledger.recordExecuted(record.seq, { body: OUTPUT, metadata: new Metadata() }, { executor: 'bench', durationMs: 1 }),
        ),
    );
    let mined = 0;
    const settlement = new Settlement({
      chain: client,
      ledger,
      signer: privateKeyToAccount(operator.privateKey),
      clock: systemClock,
      telemetry: silentTelemetry,
      confirmations: 0,
      batchMax,
      inFlightMax: 256,
      pollMs: 20,
      onEvent: (event) => {
        if (event.type === 'mined') mined += event.calls.length;
      },
    });
    const seconds = await timed(async () => {
      await settlement.start();
      await until(async () => mined >= calls.length);
    });
    await settlement.close();
    await ledger.close();
    await rm(folder, { recursive: true, force: true });
    return seconds;
  };

/** Signs and sends one after the other, with gas and fees that are known, and waits for the last to be mined. */
const signAndSend: Way = (surroundings, calls) =>
  timed(async () => {
    const raws = await writer(surroundings);
    for (const call of calls) await surroundings.client.transport.request('eth_sendRawTransaction', [await raws(call)]);
    const account = surroundings.operator.address;
    await until(async () => (await surroundings.client.nonce(account, 'latest')) === (await surroundings.client.nonce(account, 'pending')));
  });

/** Sends one, waits for its receipt, sends the next. */
const writeAndWait: Way = (surroundings, calls) =>
  timed(async () => {
    const raws = await writer(surroundings);
    for (const call of calls) {
      const raw = await raws(call);
      await surroundings.client.send(raw);
      await until(async () => (await surroundings.client.receipts([transactionHash(raw)]))[0] !== undefined);
    }
  });

/** Signs one result after the other with the next nonce. */
async function writer({ client, operator }: Surroundings): Promise<(call: ChainCall) => Promise<Hex>> {
  const account = privateKeyToAccount(operator.privateKey);
  let nonce = await client.nonce(operator.address, 'latest');
  const { baseFeePerGas, maxPriorityFeePerGas } = await client.fees();
  const maxFeePerGas = 2n * baseFeePerGas + maxPriorityFeePerGas;
  return (call) => {
    const { to, data } = client.encodeResults({ serviceId: call.serviceId, callIds: [call.callId], results: [OUTPUT] });
    const raw = account.signTransaction({
      type: 'eip1559',
      chainId: client.chainId,
      nonce,
      to,
      data,
      value: 0n,
      gas: GAS,
      maxFeePerGas,
      maxPriorityFeePerGas,
    });
    nonce += 1;
    return raw;
  };
}

const WAYS: readonly { readonly name: string; readonly results: number; readonly way: Way }[] = [
  { name: 'settlement, batches of 100', results: RESULTS, way: settle(100) },
  { name: 'settlement, one result per transaction', results: RESULTS, way: settle(1) },
  { name: 'bare sign and send', results: RESULTS, way: signAndSend },
  { name: 'write and wait', results: WAITED_RESULTS, way: writeAndWait },
];

async function freshCalls({ tangle, serviceId }: Surroundings, count: number): Promise<ChainCall[]> {
  await tangle.submitMany(
    serviceId,
    Array.from({ length: count }, () => ({ jobIndex: 0, inputs: OUTPUT })),
  );
  return (await tangle.calls(serviceId)).slice(-count);
}

async function main(): Promise<void> {
  const chain = await startLocalChain({ blockTimeMs: BLOCK_MS });
  const tangle = await deployTangle(chain);
  const { serviceId, operators } = await tangle.startService({ jobs: [{ name: 'open' }] });
  const [operator] = operators;
  if (!operator) throw new Error('the service has no operator');
  const client = new RpcChainClient({ rpcUrl: chain.rpcUrl, contract: tangle.contract, chainId: chain.chainId });
  const surroundings: Surroundings = { tangle, client, operator, serviceId };
  const rates = new Map<string, number[]>(WAYS.map(({ name }) => [name, []]));
  for (let round = 0; round <= ROUNDS; round += 1) {
    for (const { name, results, way } of WAYS) {
      const calls = await freshCalls(surroundings, results);
      const rate = results / (await way(surroundings, calls));
      if (round > 0) rates.get(name)?.push(rate); // the first round warms up
    }
  }
  await client.close();
  await chain.stop();
  const bare = median(rates.get('bare sign and send') ?? []);
  const waited = median(rates.get('write and wait') ?? []);
  console.log(`results per second, median of ${ROUNDS} (${RESULTS} results, a block every ${BLOCK_MS} ms)`);
  for (const [name, values] of rates) {
    const rate = median(values);
    console.log(
      `${name.padEnd(42)} ${rate.toFixed(0).padStart(7)}   ${(rate / bare).toFixed(2).padStart(6)} x bare   ${(rate / waited).toFixed(1).padStart(6)} x write-and-wait`,
    );
  }
}

await main();
