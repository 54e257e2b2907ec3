/**
 * Proves that nothing an endpoint does to raw transactions loses a result, settles one twice, or leaves a nonce open; that calls which the
 * contract refuses hold up nobody; and that batches save gas. A real chain, a real ledger, an endpoint that lies. Seeded.
 *
 * `npm run prove:nonce -- [seed]`; exit status 1 when something does not hold.
 */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { keccak256 } from 'viem/utils';
import { privateKeyToAccount } from 'viem/accounts';
import { RpcChainClient } from '../../src/chain/rpc.ts';
import type { SettlementEvent } from '../../src/chain/settlement.ts';
import { Settlement } from '../../src/chain/settlement.ts';
import { systemClock } from '../../src/clock.ts';
import type { Hex } from '../../src/job/call.ts';
import { Metadata } from '../../src/job/call.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { Random } from '../../src/testing/fake-clock.ts';
import type { LocalAccount, LocalChain } from '../../src/testing/local-chain.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { ProxyReply, RpcProxy } from '../../src/testing/rpc-proxy.ts';
import { startRpcProxy } from '../../src/testing/rpc-proxy.ts';
import type { LocalTangle } from '../../src/testing/tangle.ts';
import { deployTangle } from '../../src/testing/tangle.ts';
import type { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { openLedger } from '../support/open-ledger.ts';

const RESULTS = 300;
const POISON = 10;
const SINGLES = 20;
const REQUESTS_FAULTY = 1 / 6;
const DEADLINE_MS = 120_000;
/** One field, a uint64: any other result is refused with SchemaValidationFailed. */
const NUMBER_SCHEMA: Hex = '0x0200010800000000016e';

const seed = Number(process.argv[2] ?? 1);
const random = new Random(seed);
const faults: Record<string, number> = { passed: 0, dropped: 0, 'dropped, said sent': 0, delayed: 0, duplicated: 0, 'answered 429': 0 };

/** Does to a third of the raw transactions what endpoints do, and to whole requests of them. */
function misbehave(proxy: RpcProxy): void {
  const planned: string[] = [];
  const count = (fault: string, transactions: number): void => void (faults[fault] = (faults[fault] ?? 0) + transactions);
  proxy.onHttp = (calls) => {
    const sends = calls.filter((call) => call.method === 'eth_sendRawTransaction').length;
    if (sends === 0 || !random.chance(REQUESTS_FAULTY)) return undefined;
    const fault = random.pick(['dropped', 'answered 429']);
    count(fault, sends);
    return fault === 'dropped' ? 'drop' : { status: 429, body: 'too many requests' };
  };
  proxy.onCall = async (call, forward): Promise<ProxyReply> => {
    if (call.method !== 'eth_sendRawTransaction') return forward();
    const raw = String(call.params[0]) as Hex; // of our own client
    if (planned.length === 0)
      planned.push(...random.shuffled([random.pick(['dropped, said sent', 'delayed', 'duplicated']), 'passed', 'passed']));
    const fault = planned.pop() ?? 'passed';
    count(fault, 1);
    if (fault === 'dropped, said sent') return { result: keccak256(raw) };
    if (fault === 'delayed') await systemClock.sleep(random.int(200, 2_000));
    if (fault === 'duplicated') await forward();
    return forward();
  };
}

/** Calls of two jobs on the chain and in the ledger, executed; the poison ones have a result that the contract refuses. */
async function executeCalls(tangle: LocalTangle, ledger: SqliteLedger, serviceId: bigint): Promise<void> {
  const poisoned = new Set(random.shuffled(Array.from({ length: RESULTS }, (_, index) => index)).slice(0, POISON));
  const jobs = Array.from({ length: RESULTS }, (_, index) => ({ jobIndex: poisoned.has(index) ? 1 : 0, inputs: random.bytes(32) }));
  const from = (await tangle.calls(serviceId)).length;
  await tangle.submitMany(serviceId, jobs);
  const calls = (await tangle.calls(serviceId)).slice(from);
  const last = calls.at(-1);
  if (!last) throw new Error('the chain has no calls');
  await ledger.recordSeen(calls, {
    chainId: last.chainId,
    contract: last.contract,
    block: { number: last.blockNumber, hash: last.blockHash },
  });
  const records = ledger.find({ states: ['seen'], limit: RESULTS });
  await Promise.all(
    records.map(({ seq, call }) =>
      ledger.recordExecuted(seq, { body: call.body, metadata: new Metadata() }, { executor: 'prove', durationMs: 1 }),
    ),
  );
}

async function measureSingles(tangle: LocalTangle, serviceId: bigint, operator: LocalAccount): Promise<number> {
  const ids = await tangle.submitMany(
    serviceId,
    Array.from({ length: SINGLES }, () => ({ jobIndex: 0, inputs: random.bytes(32) })),
  );
  let gas = 0;
  for (const id of ids) gas += Number((await tangle.submitResult({ serviceId, callId: id }, random.bytes(32), operator)).gasUsed);
  return gas / SINGLES;
}

interface Outcome {
  readonly seconds: number;
  readonly events: readonly SettlementEvent[];
  readonly ledger: SqliteLedger;
}

async function settleAll(
  chain: LocalChain,
  client: RpcChainClient,
  settlementOf: (onEvent: (event: SettlementEvent) => void) => Settlement,
  ledger: SqliteLedger,
): Promise<Outcome> {
  const events: SettlementEvent[] = [];
  const settlement = settlementOf((event) => events.push(event));
  const startedMs = systemClock.monotonic();
  await settlement.start();
  const open = (): number => ledger.find({ states: ['executed', 'submitted'], limit: RESULTS }).length;
  while (open() > 0 && systemClock.monotonic() - startedMs < DEADLINE_MS) {
    settlement.onHead(await client.head());
    await systemClock.sleep(100);
  }
  const seconds = (systemClock.monotonic() - startedMs) / 1000;
  await settlement.drain(systemClock.now() + 10_000);
  await chain.mine(1);
  return { seconds, events, ledger };
}

async function main(): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), 'prove-nonce-'));
  const chain = await startLocalChain({ blockTimeMs: 1_000 });
  const proxy = await startRpcProxy({ upstream: chain.rpcUrl });
  const ledger = await openLedger(folder);
  try {
    const tangle = await deployTangle(chain);
    const { serviceId, operators } = await tangle.startService({
      jobs: [{ name: 'open' }, { name: 'strict', resultSchema: NUMBER_SCHEMA }],
    });
    const [operator] = operators;
    if (!operator) throw new Error('the service has no operator');
    const single = await measureSingles(tangle, serviceId, operator);
    await executeCalls(tangle, ledger, serviceId);
    const client = new RpcChainClient({ rpcUrl: proxy.url, contract: tangle.contract, chainId: chain.chainId });
    const nonceBefore = await client.nonce(operator.address, 'latest');
    misbehave(proxy);
    const signer = privateKeyToAccount(operator.privateKey);
    const outcome = await settleAll(
      chain,
      client,
      (onEvent) =>
        new Settlement({
          chain: client,
          ledger,
          signer,
          clock: systemClock,
          telemetry: silentTelemetry,
          batchMax: 10,
          inFlightMax: 8,
          pollMs: 200,
          resendAfterMs: 800,
          resubmitAfterMs: 5_000,
          onEvent,
        }),
      ledger,
    );
    proxy.onHttp = undefined;
    proxy.onCall = undefined;
    const holds = await report({ chain, tangle, serviceId, account: operator.address, nonceBefore, single, outcome });
    await client.close();
    return holds;
  } finally {
    await ledger.close();
    await proxy.close();
    await chain.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

interface Report {
  readonly chain: LocalChain;
  readonly tangle: LocalTangle;
  readonly serviceId: bigint;
  readonly account: Hex;
  readonly nonceBefore: number;
  readonly single: number;
  readonly outcome: Outcome;
}

async function report({ chain, tangle, serviceId, account, nonceBefore, single, outcome }: Report): Promise<boolean> {
  const { ledger, events } = outcome;
  const onChain = (await tangle.results(serviceId)).slice(SINGLES);
  const good = ledger.find({ states: ['mined', 'final'], limit: RESULTS });
  const rejected = ledger.find({ states: ['rejected'], limit: RESULTS });
  const expected = new Map(good.map((record) => [record.call.origin?.callId, Buffer.from(record.output ?? []).toString('hex')]));
  const right = onChain.filter((result) => expected.get(result.callId) === Buffer.from(result.output).toString('hex'));
  const mined = events.flatMap((event) => (event.type === 'mined' ? [event] : []));
  const gas = mined.reduce((sum, event) => sum + Number(event.receipt.gasUsed), 0) / Math.max(1, onChain.length);
  const latest = Number(await chain.request('eth_getTransactionCount', [account, 'latest']));
  const pending = Number(await chain.request('eth_getTransactionCount', [account, 'pending']));
  const used = new Set(mined.map((event) => event.nonce));
  const saved = 1 - gas / single;
  const poisonReported = rejected.filter(
    (record) =>
      record.errorCode === 'RESULT_REJECTED' && record.errorMessage?.startsWith('SchemaValidationFailed') && record.call.jobId === 1n,
  );
  const checks: [string, boolean, string][] = [
    [
      'good results mined',
      good.length === RESULTS - POISON && onChain.length === RESULTS - POISON,
      `${onChain.length} of ${RESULTS - POISON}`,
    ],
    [
      'each once, with its own output',
      new Set(onChain.map((result) => result.callId)).size === onChain.length && right.length === onChain.length,
      `${right.length}`,
    ],
    ['poison calls reported', poisonReported.length === POISON && rejected.length === POISON, `${poisonReported.length} of ${POISON}`],
    [
      'no nonce open',
      latest === pending && latest - nonceBefore === used.size && ledger.pendingTransactions(chain.chainId, account).length === 0,
      `${nonceBefore}..${latest - 1}`,
    ],
    [
      'gas per result at least 20 % below singles',
      saved >= 0.2,
      `${Math.round(gas)} against ${Math.round(single)}: ${(saved * 100).toFixed(1)} % less`,
    ],
    [
      'a third of the sends was disturbed',
      faults['passed'] !== undefined && faultShare() > 0.2,
      `${(faultShare() * 100).toFixed(0)} % of ${total()}`,
    ],
  ];
  console.log(`seed ${seed}: ${RESULTS} results, ${mined.length} transactions, ${outcome.seconds.toFixed(1)} s`);
  console.log(
    `sends: ${Object.entries(faults)
      .map(([name, count]) => `${name} ${count}`)
      .join(', ')}`,
  );
  console.log(
    `settlement: ${Object.entries(Object.groupBy(events, (event) => (event.type === 'healed' ? `healed (${event.how})` : event.type)))
      .map(([type, list]) => `${type} ${list?.length}`)
      .join(', ')}`,
  );
  for (const [name, holds, figure] of checks) console.log(`${holds ? 'ok  ' : 'FAIL'}  ${name.padEnd(46)} ${figure}`);
  return checks.every(([, holds]) => holds);
}

function total(): number {
  return Object.values(faults).reduce((sum, count) => sum + count, 0);
}

function faultShare(): number {
  return 1 - (faults['passed'] ?? 0) / Math.max(1, total());
}

process.exitCode = (await main()) ? 0 : 1;
