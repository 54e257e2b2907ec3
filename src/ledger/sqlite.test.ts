import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RunnerError } from '../errors.ts';
import type { ChainCall, Hex } from '../job/call.ts';
import { Metadata, TANGLE } from '../job/call.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import type { Cursor, NewTransaction } from './ledger.ts';
import { SqliteLedger } from './sqlite.ts';

const CONTRACT: Hex = `0x${'aa'.repeat(20)}`;
const ACCOUNT: Hex = `0x${'Cc'.repeat(20)}`;
const hash = (byte: number): Hex => `0x${byte.toString(16).padStart(2, '0').repeat(32)}`;

const chainCall = (callId: number, changes: Partial<ChainCall> = {}): ChainCall => ({
  chainId: 31337,
  contract: CONTRACT,
  serviceId: 0n,
  callId: BigInt(callId),
  jobIndex: 0,
  caller: `0x${'bb'.repeat(20)}`,
  inputs: Uint8Array.of(callId),
  blockNumber: BigInt(callId),
  blockHash: hash(callId),
  transactionHash: hash(0x7f),
  logIndex: callId,
  ...changes,
});
const cursor = (block: number): Cursor => ({ chainId: 31337, contract: CONTRACT, block: { number: BigInt(block), hash: hash(block) } });
const result = (byte: number): { body: Uint8Array; metadata: Metadata } => ({ body: Uint8Array.of(byte), metadata: new Metadata() });
const ran = { executor: 'in-process', durationMs: 2 };
const transaction = (nonce: number, calls: readonly number[]): NewTransaction => ({
  account: ACCOUNT,
  nonce,
  hash: hash(nonce + 16),
  raw: '0x02',
  maxFeePerGas: 20n,
  maxPriorityFeePerGas: 1n,
  gas: 100_000n,
  purpose: 'results',
  calls,
});
const mined = (block: number, success = true): Parameters<SqliteLedger['recordMined']>[1] => ({
  block: cursor(block).block,
  success,
  gasUsed: 1n,
  effectiveGasPrice: 1n,
});

let folder: string;
let path: string;
let clock: FakeClock;
let ledger: SqliteLedger;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'ledger-'));
  path = join(folder, 'sub', 'ledger.db');
  clock = new FakeClock();
  ledger = SqliteLedger.open({ path, clock });
});
afterEach(async () => {
  await ledger.close();
  rmSync(folder, { recursive: true, force: true });
});

const stateOf = (seq: number): string | undefined => ledger.get(seq)?.state;
async function executed(count: number): Promise<void> {
  await ledger.recordSeen(
    Array.from({ length: count }, (_, index) => chainCall(index + 1)),
    cursor(count),
  );
  for (let seq = 1; seq <= count; seq += 1) await ledger.recordExecuted(seq, result(seq), ran);
}

describe('attempts that the process did not survive', () => {
  const crashes = async (): Promise<unknown> => [...(await ledger.recordCrashes('in-process'))];
  const begin = async (seq: number, number: number, executor = 'in-process'): Promise<void> => {
    await clock.advance(1);
    await ledger.recordAttempt(seq, { number, executor });
    await clock.advance(1);
  };

  it('are counted for calls that are open, and told in their story', async () => {
    await ledger.recordSeen([chainCall(1), chainCall(2), chainCall(3), chainCall(4)], cursor(4));
    expect(await crashes()).toEqual([]);
    await begin(1, 1);
    await begin(2, 1);
    await begin(3, 1, 'http');
    await begin(4, 1);
    await ledger.recordAttemptFailed(4, { number: 1, code: 'JOB_FAILED', message: 'no', nextAt: 9 });
    expect(await crashes()).toEqual([[1, 1], [2, 1]]); // prettier-ignore
    await begin(1, 2);
    await ledger.recordExecuted(2, result(2), ran);
    expect(await crashes()).toEqual([[1, 2]]);
    expect(ledger.events(1).map(({ kind, detail }) => [kind, detail['number']])).toEqual([
      ['seen', undefined],
      ['attempt', 1],
      ['crashed', 1],
      ['attempt', 2],
      ['crashed', 2],
    ]);
  });

  it('are forgotten when somebody asks for another try', async () => {
    await ledger.recordSeen([chainCall(1)], cursor(1));
    await begin(1, 1);
    expect(await crashes()).toEqual([[1, 1]]);
    await ledger.recordFailed(1, { code: 'FUNCTION_CRASHED', message: 'too often' });
    expect(await crashes()).toEqual([]);
    await ledger.retry(1);
    expect(await crashes()).toEqual([]);
    await begin(1, 2);
    expect(await crashes()).toEqual([[1, 1]]);
  });

  it('are not lost when a command opens the ledger in between', async () => {
    await ledger.recordSeen([chainCall(1)], cursor(1));
    await begin(1, 1);
    await ledger.close();
    ledger = SqliteLedger.open({ path, clock });
    expect(await crashes()).toEqual([[1, 1]]);
  });

  it('are none of a process that was about to end', async () => {
    await ledger.recordSeen([chainCall(1)], cursor(1));
    await begin(1, 1);
    await ledger.recordStopping();
    expect(await crashes()).toEqual([]);
    expect(ledger.waiting(0, 9)).toMatchObject([{ seq: 1, state: 'seen', attempts: 1 }]);
  });
});

describe('calls of the chain', () => {
  it('come back after a restart as they were seen, with the cursor', async () => {
    const call = chainCall(3, {
      serviceId: 2n ** 64n - 1n,
      timestamp: 1_700_000_000n,
      quotedOperators: [CONTRACT, ACCOUNT],
      jobIndex: 255,
    });
    expect(await ledger.recordSeen([call], cursor(3))).toEqual(['new']);
    await ledger.close();
    ledger = SqliteLedger.open({ path, clock });
    expect(ledger.cursor(31337, CONTRACT)).toEqual(cursor(3));
    const [record] = ledger.waiting(0, 10);
    expect(record?.call.origin).toEqual(call);
    expect(record?.call.jobId).toBe(255n);
    expect(record?.call.metadata.get(TANGLE.serviceId)).toBe('18446744073709551615');
    expect(record?.call.metadata.get(TANGLE.timestamp)).toBe('1700000000');
  });

  it('are known by chain, contract, service, call, job, caller and inputs', async () => {
    await ledger.recordSeen([chainCall(1)], cursor(1));
    const others: Partial<ChainCall>[] = [
      { chainId: 1 },
      { contract: `0x${'ab'.repeat(20)}` },
      { serviceId: 1n },
      { callId: 2n },
      { jobIndex: 1 },
      { caller: `0x${'bc'.repeat(20)}` },
      { inputs: Uint8Array.of(9) },
    ];
    expect(
      await ledger.recordSeen(
        others.map((change) => chainCall(1, change)),
        cursor(1),
      ),
    ).toEqual(others.map(() => 'new'));
    expect(await ledger.recordSeen([chainCall(1, { blockNumber: 9n, blockHash: hash(9) })], cursor(9))).toEqual(['known']);
    expect(ledger.get(1)?.call.origin?.blockHash).toBe(hash(9));
  });

  it('are closed at once when they were completed before, and only when they are new', async () => {
    await ledger.recordSeen([chainCall(1)], cursor(1));
    const both = [chainCall(1), chainCall(2), chainCall(3)];
    expect(await ledger.recordSeen(both, cursor(3), [true, true, false])).toEqual(['known', 'completed', 'new']);
    expect(ledger.find({}).map(({ call, state }) => [call.origin?.callId, state])).toEqual([
      [1n, 'seen'],
      [2n, 'closed'],
      [3n, 'seen'],
    ]);
    expect(ledger.waiting(0, 10).map(({ call }) => call.origin?.callId)).toEqual([1n, 3n]);
  });

  it('wait in order of arrival until they are executed', async () => {
    await ledger.recordSeen([chainCall(1), chainCall(2), chainCall(3)], cursor(3));
    await ledger.recordAttempt(1, { number: 1, executor: 'http' });
    await ledger.recordExecuted(2, result(2), ran);
    expect(ledger.waiting(0, 10).map(({ seq, state }) => [seq, state])).toEqual([
      [1, 'executing'],
      [3, 'seen'],
    ]);
    expect(ledger.waiting(1, 10).map(({ seq }) => seq)).toEqual([3]);
    expect(ledger.waiting(0, 1).map(({ seq }) => seq)).toEqual([1]);
    expect(ledger.waiting(1, 10, BigInt(chainCall(3).jobIndex)).map(({ seq }) => seq)).toEqual([3]);
    expect(ledger.waiting(0, 10, 99n)).toEqual([]);
  });

  it('are executed once: a second result is refused', async () => {
    await ledger.recordSeen([chainCall(1)], cursor(1));
    expect(await ledger.recordExecuted(1, result(1), ran)).toBe(true);
    expect(await ledger.recordExecuted(1, result(2), ran)).toBe(false);
    expect(ledger.get(1)?.output).toEqual(Uint8Array.of(1));
  });

  it('without a result are ignored, and failed ones can be tried again', async () => {
    await ledger.recordSeen([chainCall(1), chainCall(2)], cursor(2));
    await ledger.recordExecuted(1, undefined, ran);
    await ledger.recordFailed(2, new RunnerError('JOB_FAILED', 'boom'));
    expect([stateOf(1), stateOf(2)]).toEqual(['ignored', 'failed']);
    expect(ledger.get(2)).toMatchObject({ errorCode: 'JOB_FAILED', errorMessage: 'boom' });
    expect(await ledger.retry(1)).toBe(false);
    expect(await ledger.retry(2)).toBe(true);
    expect(ledger.waiting(0, 9).map(({ seq }) => seq)).toEqual([2]);
  });
});

describe('calls of a producer', () => {
  it('remembers which values of a call of a producer must not be logged', async () => {
    const metadata = new Metadata([['x-a', 'b']]).set('x-key', 'secret', { sensitive: true });
    await ledger.recordProduced({ id: 'hook:1', jobId: 0n, body: new Uint8Array(), metadata });
    const [record] = ledger.waiting(0, 1);
    expect(record?.call.metadata.get('x-key')).toBe('secret');
    expect(JSON.stringify(record?.call.metadata)).toBe('{"x-a":"b","x-key":"[redacted]"}');
  });

  it('are taken once and end when they are executed', async () => {
    const call = { id: 'timer:1', jobId: 2n ** 200n, body: Uint8Array.of(1), metadata: new Metadata([['x-a', 'b']]) };
    expect(await Promise.all([ledger.recordProduced(call), ledger.recordProduced(call)])).toEqual([true, false]);
    expect(ledger.waiting(0, 1)[0]?.call).toEqual(call);
    await ledger.recordExecuted(1, result(1), ran);
    expect(stateOf(1)).toBe('final');
    expect(ledger.settleable(10n ** 9n, 10)).toEqual([]);
  });
});

describe('reorgs', () => {
  it('orphan what is above the ancestor and set the cursor back in one step', async () => {
    await executed(3);
    expect(await ledger.recordReorg(cursor(1))).toEqual([2, 3]);
    expect([1, 2, 3].map(stateOf)).toEqual(['executed', 'orphaned', 'orphaned']);
    expect(ledger.cursor(31337, CONTRACT)?.block.number).toBe(1n);
    expect(ledger.settleable(9n, 9).map(({ seq }) => seq)).toEqual([1]);
  });

  it('restore a call that is mined again with the result it had', async () => {
    await executed(1);
    await ledger.recordReorg(cursor(0));
    expect(await ledger.recordSeen([chainCall(1, { blockNumber: 7n, blockHash: hash(7) })], cursor(7))).toEqual(['restored']);
    expect(ledger.settleable(6n, 9)).toEqual([]);
    expect(ledger.settleable(7n, 9)).toMatchObject([{ seq: 1, output: Uint8Array.of(1), origin: { blockHash: hash(7) } }]);
  });

  it('restore what the contract had ended as what it was before: on another branch the contract may need the result', async () => {
    await executed(2);
    await ledger.recordClosed(1, 'JobAlreadyCompleted(0, 1)');
    await ledger.recordRejected(2, { code: 'RESULT_REJECTED', message: 'NotQuotedOperator()' });
    await ledger.recordReorg(cursor(0));
    const again = [1, 2].map((callId) => chainCall(callId, { blockNumber: 7n, blockHash: hash(7) }));
    expect(await ledger.recordSeen(again, cursor(7))).toEqual(['restored', 'restored']);
    expect(ledger.settleable(7n, 9)).toMatchObject([
      { seq: 1, output: Uint8Array.of(1) },
      { seq: 2, output: Uint8Array.of(2) },
    ]);
    expect(ledger.get(2)).not.toHaveProperty('errorCode');
  });

  it('refuse the result of an attempt that was running, and run it again when it comes back', async () => {
    await ledger.recordSeen([chainCall(1)], cursor(1));
    await ledger.recordAttempt(1, { number: 1, executor: 'http' });
    await ledger.recordReorg(cursor(0));
    expect(await ledger.recordExecuted(1, result(1), ran)).toBe(false);
    await ledger.recordSeen([chainCall(1)], cursor(1));
    expect(ledger.waiting(0, 9)).toMatchObject([{ seq: 1, state: 'seen', attempts: 1 }]);
  });

  it('leave final calls alone', async () => {
    await executed(1);
    const { id } = await ledger.recordTransaction(31337, transaction(0, [1]));
    await ledger.recordMined(id, mined(2));
    expect(await ledger.recordFinal(31337, 1n)).toBe(0);
    expect(await ledger.recordFinal(31337, 2n)).toBe(1);
    expect(await ledger.recordReorg(cursor(0))).toEqual([]);
    expect(stateOf(1)).toBe('final');
  });
});

describe('transactions', () => {
  it('carry their calls through submitted and mined to final', async () => {
    await executed(2);
    const sent = await ledger.recordTransaction(31337, transaction(5, [1, 2]));
    expect(ledger.pendingTransactions(31337, ACCOUNT.toLowerCase() as Hex)).toEqual([sent]);
    expect([stateOf(1), stateOf(2)]).toEqual(['submitted', 'submitted']);
    await ledger.recordMined(sent.id, mined(3));
    expect(ledger.pendingTransactions(31337, ACCOUNT)).toEqual([]);
    expect(ledger.minedTransactions(31337, ACCOUNT)).toMatchObject([
      { id: sent.id, state: 'mined', block: cursor(3).block, calls: [1, 2] },
    ]);
    expect(ledger.get(1)).toMatchObject({ state: 'mined', transactionHash: sent.hash });
    await ledger.recordFinal(31337, 3n);
    expect(ledger.minedTransactions(31337, ACCOUNT)).toEqual([]);
  });

  it('give the calls back when they revert or their nonce is lost', async () => {
    await executed(2);
    const first = await ledger.recordTransaction(31337, transaction(0, [1]));
    const second = await ledger.recordTransaction(31337, transaction(1, [2]));
    await ledger.recordMined(first.id, mined(3, false));
    await ledger.recordDropped(second.id, 'the nonce was used by another transaction');
    expect([stateOf(1), stateOf(2)]).toEqual(['executed', 'executed']);
    expect(ledger.minedTransactions(31337, ACCOUNT)).toMatchObject([{ state: 'reverted' }]);
  });

  it('of one nonce: whichever is mined counts, and calls that only another version carried go back', async () => {
    await executed(3);
    const first = await ledger.recordTransaction(31337, transaction(0, [1, 2, 3]));
    const second = await ledger.recordTransaction(31337, { ...transaction(0, [1, 2]), hash: hash(0x33) });
    await ledger.recordMined(second.id, mined(4));
    expect([1, 2, 3].map(stateOf)).toEqual(['mined', 'mined', 'executed']);
    expect(ledger.transactionsOf(1).map(({ id, state }) => [id, state])).toEqual([
      [first.id, 'replaced'],
      [second.id, 'mined'],
    ]);
    await ledger.recordUnmined(second.id);
    expect([1, 2, 3].map(stateOf)).toEqual(['submitted', 'submitted', 'executed']);
    expect(ledger.pendingTransactions(31337, ACCOUNT).map(({ id }) => id)).toEqual([first.id, second.id]);
  });

  it('never revive an orphaned call, but move the state it comes back with', async () => {
    await executed(1);
    const { id } = await ledger.recordTransaction(31337, transaction(0, [1]));
    await ledger.recordReorg(cursor(0));
    await ledger.recordDropped(id, 'replaced by a cancel');
    expect(stateOf(1)).toBe('orphaned');
    await ledger.recordSeen([chainCall(1)], cursor(1));
    expect(stateOf(1)).toBe('executed');
  });
});

describe('the story of a call', () => {
  it('tells event, attempts, failures, result and transactions in order', async () => {
    await ledger.recordSeen([chainCall(1)], cursor(1));
    for (const step of [
      () => ledger.recordAttempt(1, { number: 1, executor: 'http' }),
      () => ledger.recordAttemptFailed(1, { number: 1, code: 'EXECUTOR_UNREACHABLE', message: 'refused', nextAt: 5 }),
      () => ledger.recordAttempt(1, { number: 2, executor: 'in-process', reason: 'fallback' }),
      () => ledger.recordExecuted(1, result(1), ran),
      () => ledger.recordTransaction(31337, transaction(0, [1])),
      () => ledger.recordMined(1, mined(2)),
    ]) {
      await clock.advance(10);
      await step();
    }
    expect(ledger.events(1).map(({ kind }) => kind)).toEqual([
      'seen',
      'attempt',
      'attempt-failed',
      'attempt',
      'executed',
      'signed',
      'mined',
    ]);
    expect(ledger.events(1)[1]?.detail).toEqual({ number: 1, executor: 'http', reason: null });
    expect(ledger.events(1)[3]?.detail).toEqual({ number: 2, executor: 'in-process', reason: 'fallback' });
  });
});

it('what nobody took can be tried again; what ran without a result cannot', async () => {
  await ledger.recordSeen([chainCall(1), chainCall(2)], cursor(2));
  await ledger.recordIgnored(1, { code: 'JOB_UNKNOWN', message: 'no route' });
  await ledger.recordExecuted(2, undefined, ran);
  expect([1, 2].map((seq) => ledger.get(seq)?.state)).toEqual(['ignored', 'ignored']);
  expect(ledger.get(1)).toMatchObject({ errorCode: 'JOB_UNKNOWN', errorMessage: 'no route' });
  expect([await ledger.retry(1), await ledger.retry(2)]).toEqual([true, false]);
  expect([1, 2].map((seq) => ledger.get(seq)?.state)).toEqual(['seen', 'ignored']);
});

describe('find, stats, values and compaction', () => {
  it('find by call, service, id and state', async () => {
    await executed(3);
    expect(ledger.find({ callId: 2n, serviceId: 0n }).map(({ seq }) => seq)).toEqual([2]);
    expect(ledger.find({ states: ['seen', 'executed'], limit: 2 }).map(({ seq }) => seq)).toEqual([1, 2]);
    expect(ledger.find({ newestFirst: true, limit: 2 }).map(({ seq }) => seq)).toEqual([3, 2]);
    const { jobId } = ledger.get(1)?.call ?? {};
    expect(ledger.find({ jobId: jobId ?? -1n }).map(({ seq }) => seq)).toEqual([1, 2, 3]);
    expect(ledger.find({ jobId: (jobId ?? 0n) + 1n })).toEqual([]);
    const seenAt = ledger.get(3)?.seenAt ?? 0;
    expect(ledger.find({ seenSince: seenAt }).map(({ seq }) => seq)).toContain(3);
    expect(ledger.find({ seenSince: seenAt + 1 })).toEqual([]);
    expect(ledger.find({ id: ledger.get(3)?.call.id ?? '' }).map(({ seq }) => seq)).toEqual([3]);
    expect(ledger.stats().byState.executed).toBe(3);
  });

  it('keep values', async () => {
    await ledger.setValue('a', '1');
    await ledger.setValue('a', '2');
    expect([ledger.getValue('a'), ledger.getValue('b')]).toEqual(['2', undefined]);
  });

  it('compaction removes only what ended long enough ago', async () => {
    await ledger.recordSeen([chainCall(1), chainCall(2), chainCall(3)], cursor(3));
    await ledger.recordFailed(1, { code: 'JOB_FAILED', message: 'x' });
    await clock.advance(1_000);
    await ledger.recordFailed(2, { code: 'JOB_FAILED', message: 'x' });
    expect(await ledger.compact(1_000)).toBe(1);
    expect(ledger.find({}).map(({ seq }) => seq)).toEqual([2, 3]);
    expect(ledger.events(1)).toEqual([]);
  });

  it('compaction leaves room for others, and ends when the ledger is closed', async () => {
    const call = { jobId: 0n, body: new Uint8Array(), metadata: new Metadata() };
    await Promise.all(Array.from({ length: 600 }, (_, index) => ledger.recordProduced({ ...call, id: `call:${index}` })));
    for (const { seq } of ledger.waiting(0, 600)) void ledger.recordFailed(seq, { code: 'JOB_FAILED', message: 'x' });
    const compacting = ledger.compact(0);
    await ledger.setValue('a', '1');
    expect(ledger.stats().byState.failed).toBe(350);
    await ledger.close();
    expect(await compacting).toBeLessThan(600);
  });

  it('compaction leaves the calls of a transaction in flight, however long ago they ended', async () => {
    await executed(2);
    await ledger.recordTransaction(31337, transaction(0, [1, 2]));
    await ledger.recordReorg(cursor(1));
    await clock.advance(1_000);
    expect(await ledger.compact(0)).toBe(0);
    expect(ledger.pendingTransactions(31337, ACCOUNT)).toMatchObject([{ calls: [1, 2] }]);
    expect(stateOf(2)).toBe('orphaned');
  });
});

describe('the file', () => {
  const code = async (act: () => unknown): Promise<unknown> => {
    try {
      await act();
    } catch (error) {
      return (error as { code?: unknown }).code;
    }
    return 'nothing was thrown';
  };

  it('counts the calls without reading them, which are as large as their inputs', () => {
    const reader = new DatabaseSync(path, { readOnly: true });
    const [step] = reader.prepare('EXPLAIN QUERY PLAN SELECT state, count(*) FROM calls GROUP BY state').all();
    reader.close();
    expect(step?.['detail']).toContain('USING COVERING INDEX calls_state');
  });

  it('is locked against a second runner, but can be read beside it', async () => {
    expect(await code(() => SqliteLedger.open({ path }))).toBe('LEDGER_LOCKED');
    await executed(1);
    const reader = SqliteLedger.open({ path, readonly: true });
    expect(reader.get(1)?.state).toBe('executed');
    await reader.close();
  });

  it('that is no database, another database, or damaged is refused and left as it is', async () => {
    const other = join(folder, 'other.db');
    writeFileSync(other, 'this is not a database, but long enough to look like a file of one'.repeat(20));
    expect(await code(() => SqliteLedger.open({ path: other }))).toBe('LEDGER_CORRUPT');
    const foreign = new DatabaseSync(join(folder, 'foreign.db'));
    foreign.exec('CREATE TABLE t (a)');
    foreign.close();
    expect(await code(() => SqliteLedger.open({ path: join(folder, 'foreign.db') }))).toBe('LEDGER_CORRUPT');
    await executed(200);
    await ledger.close();
    const file = openSync(path, 'r+');
    for (let page = 1; page < 12; page += 1) writeSync(file, Buffer.alloc(512, 0xff), 0, 512, page * 4096);
    expect(await code(() => SqliteLedger.open({ path }))).toBe('LEDGER_CORRUPT');
  });

  it('that lost its content, or its place beside its log, is not taken for a new one', async () => {
    await executed(1);
    await ledger.close();
    const [emptied, gone] = [join(folder, 'emptied.db'), join(folder, 'gone.db')];
    writeFileSync(emptied, '');
    writeFileSync(`${gone}-wal`, 'the log of a ledger');
    expect(await code(() => SqliteLedger.open({ path: emptied }))).toBe('LEDGER_CORRUPT');
    expect(await code(() => SqliteLedger.open({ path: gone }))).toBe('LEDGER_CORRUPT');
    expect(existsSync(gone)).toBe(false);
    expect(statSync(emptied).size).toBe(0);
  });

  it('comes into being complete: what a crash left of the attempt before is replaced', async () => {
    const path = join(folder, 'fresh.db');
    for (const end of ['', '-wal', '-shm']) writeFileSync(`${path}.new${end}`, 'half of it');
    const fresh = SqliteLedger.open({ path });
    await fresh.setValue('a', '1');
    await fresh.close();
    expect(existsSync(`${path}.new`)).toBe(false);
    const again = SqliteLedger.open({ path });
    expect(again.getValue('a')).toBe('1');
    await again.close();
  });

  it('where nothing can be made is CONFIG_INVALID', async () => {
    const file = join(folder, 'file');
    writeFileSync(file, 'no folder');
    expect(await code(() => SqliteLedger.open({ path: join(file, 'ledger.db') }))).toBe('CONFIG_INVALID');
    expect(await code(() => SqliteLedger.open({ path: folder }))).toBe('CONFIG_INVALID');
    expect(existsSync(`${folder}.lock`)).toBe(false);
  });

  it('takes no value above the limit of SQLite', async () => {
    await ledger.recordSeen([chainCall(1)], cursor(1));
    const huge = { body: new Uint8Array(1_000_000_001), metadata: new Metadata() };
    expect(await code(() => ledger.recordExecuted(1, huge, ran))).toBe('PAYLOAD_TOO_LARGE');
    expect(ledger.get(1)?.state).toBe('seen');
  });

  it('of a newer version is refused', async () => {
    await ledger.close();
    const file = new DatabaseSync(path);
    file.exec('PRAGMA user_version = 99');
    file.close();
    expect(await code(() => SqliteLedger.open({ path }))).toBe('LEDGER_VERSION');
  });

  it('a change that fails does not take its neighbours with it', async () => {
    const outcomes = await Promise.allSettled([ledger.setValue('a', '1'), ledger.recordMined(77, mined(1)), ledger.setValue('b', '2')]);
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect([ledger.getValue('a'), ledger.getValue('b')]).toEqual(['1', '2']);
  });

  it('after close nothing is taken, and what was taken before is on disk', async () => {
    const writing = ledger.setValue('a', '1');
    await ledger.close();
    await writing;
    expect(await code(() => ledger.setValue('b', '1'))).toBe('STATE_INVALID');
    ledger = SqliteLedger.open({ path });
    expect(ledger.getValue('a')).toBe('1');
  });

  it('has everything that was acknowledged before the process was killed', async () => {
    await ledger.close();
    const script = `
      import { SqliteLedger } from ${JSON.stringify(new URL('./sqlite.ts', import.meta.url).href)};
      const ledger = SqliteLedger.open({ path: ${JSON.stringify(path)} });
      for (let n = 1; ; n += 1) { await Promise.all([ledger.setValue('a', String(n)), ledger.setValue('b', String(n))]); process.stdout.write(n + '\\n'); }`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    let told = '';
    await new Promise<void>((resolve) => {
      child.stdout.on('data', (chunk: Buffer) => {
        told += chunk.toString();
        if (told.length > 2_000) child.kill('SIGKILL');
      });
      child.on('close', () => resolve());
    });
    const acknowledged = Number(told.slice(0, told.lastIndexOf('\n')).split('\n').at(-1));
    ledger = SqliteLedger.open({ path });
    expect(Number(ledger.getValue('a'))).toBeGreaterThanOrEqual(acknowledged);
    expect(ledger.getValue('a')).toBe(ledger.getValue('b'));
  });
});
