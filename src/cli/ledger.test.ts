import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Metadata } from '../job/call.ts';
import type { ChainCall, Hex } from '../job/call.ts';
import { SqliteLedger } from '../ledger/sqlite.ts';
import { main } from './main.ts';

const CONTRACT = `0x${'c0'.repeat(20)}` as const;
const ACCOUNT = `0x${'0a'.repeat(20)}` as const;
const RAW = `0x02${'5e'.repeat(40)}` as const;
const hash = (byte: number): Hex => `0x${byte.toString(16).padStart(2, '0').repeat(32)}`;

let cwd: string;
let ledger: SqliteLedger;

function call(serviceId: bigint, callId: bigint): ChainCall {
  return {
    chainId: 31337,
    contract: CONTRACT,
    serviceId,
    callId,
    jobIndex: 2,
    caller: `0x${'ca'.repeat(20)}`,
    inputs: Uint8Array.of(1, 2, 3),
    blockNumber: 40n + callId,
    blockHash: hash(Number(callId)),
    transactionHash: hash(0x77),
    logIndex: 0,
  };
}

/** Call 0 of service 1 settled after a fee bump, call 1 failed at its second attempt, call 0 of service 2 just seen. The runner still holds the ledger. */
beforeAll(async () => {
  cwd = mkdtempSync(join(tmpdir(), 'bpr-cli-ledger-'));
  ledger = SqliteLedger.open({ path: join(cwd, 'data', 'ledger.sqlite') });
  const block = { number: 60n, hash: hash(60) };
  await ledger.recordSeen([call(1n, 0n), call(1n, 1n), call(2n, 0n)], { chainId: 31337, contract: CONTRACT, block });
  const [settled, failed] = ledger.find({ serviceId: 1n }).map(({ seq }) => seq) as [number, number];
  await ledger.recordAttempt(settled, { number: 1, executor: 'http', reason: 'routed by job id' });
  await ledger.recordExecuted(
    settled,
    { body: Uint8Array.of(9, 9), metadata: new Metadata() },
    { executor: 'http', durationMs: 12.000_400_000_1 },
  );
  const fees = {
    maxPriorityFeePerGas: 1n,
    gas: 90_000n,
    purpose: 'results',
    calls: [settled],
    account: ACCOUNT,
    nonce: 5,
    raw: RAW,
  } as const;
  await ledger.recordTransaction(31337, { ...fees, hash: hash(0xa1), maxFeePerGas: 2_000_000_000n });
  const bumped = await ledger.recordTransaction(31337, { ...fees, hash: hash(0xa2), maxFeePerGas: 120_450n });
  await ledger.recordMined(bumped.id, { block, success: true, gasUsed: 80_000n, effectiveGasPrice: 1n });
  await ledger.recordFinal(31337, 60n);
  await ledger.recordAttempt(failed, { number: 1, executor: 'local' });
  await ledger.recordAttemptFailed(failed, { number: 1, code: 'EXECUTOR_TIMEOUT', message: 'too slow' });
  await ledger.recordAttempt(failed, { number: 2, executor: 'local', reason: 'the job is idempotent' });
  await ledger.recordFailed(failed, { code: 'JOB_FAILED', message: 'no answer from https://user:hunter22@api.example/' });
});

afterAll(async () => {
  await ledger.close();
  rmSync(cwd, { recursive: true, force: true });
});

interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function bpr(...args: readonly string[]): Promise<Ran> {
  let [stdout, stderr] = ['', ''];
  const io = {
    stdout: { write: (text: string) => (stdout += text) },
    stderr: { write: (text: string) => (stderr += text) },
    env: { BPR_DATA_DIR: 'data' },
    cwd,
  };
  const status = await main(args, io);
  return { status, stdout, stderr };
}

async function document<T>(...args: readonly string[]): Promise<T> {
  const { status, stdout, stderr } = await bpr(...args, '--json');
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return JSON.parse(stdout) as T;
}

interface Listed {
  readonly calls: readonly { readonly serviceId: string; readonly callId: string; readonly state: string }[];
  readonly byState: Readonly<Record<string, number>>;
}

describe('a ledger that holds nothing', () => {
  it('is told as one whose content is gone, and stays as it is', async () => {
    const file = join(cwd, 'empty.sqlite');
    writeFileSync(file, '');
    const { status, stderr } = await bpr('jobs', 'list', '--ledger', file);
    expect({ status, stderr }).toMatchObject({ status: 1, stderr: expect.stringMatching(/^LEDGER_CORRUPT: .* is empty: /) as string });
    expect(readFileSync(file, 'utf8')).toBe('');
  });

  it('is told as no ledger when it is another database', async () => {
    const file = join(cwd, 'other.sqlite');
    const database = new DatabaseSync(file);
    database.exec('CREATE TABLE one (id INTEGER); DROP TABLE one');
    database.close();
    expect((await bpr('why', '7', '--ledger', file)).stderr).toMatch(/^LEDGER_CORRUPT: .* is a database, but not a ledger/);
  });
});

describe('jobs list', () => {
  const names = ({ calls }: Listed): string[] => calls.map(({ serviceId, callId, state }) => `${serviceId}/${callId} ${state}`);

  it('lists the calls, the newest first, beside the runner that owns the ledger', async () => {
    const listed = await document<Listed>('jobs', 'list');
    expect(names(listed)).toEqual(['2/0 seen', '1/1 failed', '1/0 final']);
    expect(names(await document<Listed>('jobs', 'list', '--oldest-first'))).toEqual(['1/0 final', '1/1 failed', '2/0 seen']);
    expect(listed.byState).toMatchObject({ final: 1, failed: 1, seen: 1, mined: 0 });
  });

  it.each([
    [['--state', 'failed'], ['1/1 failed']],
    [
      ['--state', 'failed,seen'],
      ['2/0 seen', '1/1 failed'],
    ],
    [
      ['--service', '1'],
      ['1/1 failed', '1/0 final'],
    ],
    [['--limit', '1'], ['2/0 seen']],
    [['--limit', '1', '--oldest-first'], ['1/0 final']],
    [['--job', '2', '--limit', '1'], ['2/0 seen']],
    [['--job', '3'], []],
    [['--since', '1h', '--limit', '1'], ['2/0 seen']],
    [['--since', '2999-01-01'], []],
    [['--service', '2', '--state', 'final'], []],
  ])('filters with %j', async (flags, expected) => {
    expect(names(await document<Listed>('jobs', 'list', ...flags))).toEqual(expected);
  });

  it('prints a table for people', async () => {
    const { stdout } = await bpr('jobs', 'list');
    expect(stdout).toMatch(/^SEQ +SERVICE +CALL +JOB +STATE/);
    expect(stdout).toMatch(/^2 +1 +1 +2 +failed +2 +local +\S+Z +JOB_FAILED$/m);
    expect((await bpr('jobs', 'list', '--service', '9')).stdout).toBe('no calls\n');
  });

  it.each([
    [['--state', 'lost'], 'lost is not a state'],
    [['--limit', '0'], 'from 1 to 999999'],
    [['--service', '-1'], 'below 2^64'],
    [['--since', 'yesterday'], 'a time span like 30s, 15m, 2h or 7d'],
    [['--since', '2026-13-45'], 'or a date like'],
    [['--job', 'square'], 'below 2^256'],
  ])('refuses %j', async (flags, message) => {
    const { status, stdout, stderr } = await bpr('jobs', 'list', ...flags);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toContain(message);
  });

  it('says so when there is no ledger, and makes none', async () => {
    const { status, stderr } = await bpr('jobs', 'list', '--ledger', 'none.sqlite');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^NOT_FOUND: there is no ledger .*none\.sqlite/);
    expect((await bpr('jobs', 'list', '--ledger', 'none.sqlite')).stderr).toBe(stderr);
  });
});

describe('jobs show', () => {
  it('shows every call of that id, with its bytes', async () => {
    const { calls } = await document<{ calls: Record<string, unknown>[] }>('jobs', 'show', '0');
    expect(calls.map(({ serviceId }) => serviceId)).toEqual(['1', '2']);
    expect(calls[0]).toMatchObject({ inputs: '0x010203', output: '0x0909', executor: 'http', transactionHash: hash(0xa2) });
    expect(calls[0]).toMatchObject({
      origin: { blockNumber: '40', caller: `0x${'ca'.repeat(20)}` },
      metadata: { 'x-tangle-call-id': '0' },
    });
  });

  it('prints what people ask for, without secrets', async () => {
    const { stdout } = await bpr('jobs', 'show', '1', '--service', '1');
    expect(stdout).toMatch(/^call 1 of service 1 \(job 2\)$/m);
    expect(stdout).toMatch(/error +JOB_FAILED no answer/);
    expect(stdout).not.toContain('hunter22');
  });

  it('a call that nobody knows is a failure', async () => {
    const { status, stdout } = await bpr('jobs', 'show', '77', '--service', '1', '--json');
    expect(status).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'NOT_FOUND', message: 'the ledger has no call 77 of service 1' } });
  });
});

interface Why {
  readonly calls: readonly {
    readonly because: string;
    readonly event: object;
    readonly output: object;
    readonly final: boolean;
    readonly feeBumps: number;
    readonly transactions: readonly object[];
    readonly events: readonly { readonly kind: string; readonly detail: object }[];
  }[];
}

describe('why', () => {
  it('tells the chain from the event to the final transaction', async () => {
    const { calls } = await document<Why>('why', '0', '--service', '1');
    const [story] = calls;
    expect(story).toMatchObject({
      event: { blockNumber: '40', blockHash: hash(0), transactionHash: hash(0x77), caller: `0x${'ca'.repeat(20)}` },
      output: { bytes: 2, sha256: createHash('sha256').update(Uint8Array.of(9, 9)).digest('hex') },
      feeBumps: 1,
      final: true,
      because: 'its result is on chain for good',
    });
    expect(story?.transactions).toMatchObject([
      { nonce: 5, state: 'replaced', hash: hash(0xa1), maxFeePerGas: '2000000000' },
      { nonce: 5, state: 'mined', hash: hash(0xa2), maxFeePerGas: '120450', block: { number: '60' }, resultsCarried: 1 },
    ]);
    expect(story?.events.map(({ kind }) => kind)).toEqual(['seen', 'attempt', 'executed', 'signed', 'signed', 'mined']);
    expect(story?.events[1]?.detail).toMatchObject({ executor: 'http', reason: 'routed by job id' });
  });

  it('tells of failed attempts and their reasons, without secrets', async () => {
    const { calls } = await document<Why>('why', '1', '--service', '1');
    expect(calls[0]?.because).toMatch(/^it is not tried again \(JOB_FAILED: no answer/);
    expect(calls[0]?.events.map(({ kind }) => kind)).toEqual(['seen', 'attempt', 'attempt-failed', 'attempt', 'failed']);
    expect(calls[0]?.events[2]?.detail).toMatchObject({ code: 'EXECUTOR_TIMEOUT', message: 'too slow' });
    expect(JSON.stringify(calls)).not.toContain('hunter22');
    expect((await bpr('why', '1')).stdout).not.toContain('hunter22');
  });

  it('does not show the signed bytes', async () => {
    expect((await bpr('why', '0', '--json')).stdout).not.toContain(RAW);
    expect((await bpr('why', '0')).stdout).not.toContain(RAW);
  });

  it('prints the story for people', async () => {
    const { stdout } = await bpr('why', '0', '--service', '1');
    expect(stdout).toContain('durationMs 12,');
    expect(stdout).toMatch(/^call 0 of service 1 \(job 2\)\nfinal: its result is on chain for good\n/);
    expect(stdout).toMatch(/^\S+Z +seen +blockNumber 40/m);
    expect(stdout).toMatch(/^5 +replaced +results +0xa1\S+ +2\.000 +90000 +1 +-$/m);
    expect(stdout).toMatch(/^5 +mined +results +0xa2\S+ +0\.00012045 +90000 +1 +60$/m);
    expect(stdout).toMatch(/fee bumps: 1\n\nfinal: yes\n$/);
  });
});

describe('calls of producers', () => {
  let produced: string;

  beforeAll(async () => {
    produced = join(cwd, 'produced', 'ledger.sqlite');
    const made = SqliteLedger.open({ path: produced });
    for (const id of ['hook:1', 'hook:\u001b[2J2'])
      await made.recordProduced({ id, jobId: 0n, body: new Uint8Array(), metadata: new Metadata() });
    await made.recordAttempt(1, { number: 1, executor: 'local' });
    await made.recordExecuted(1, { body: Uint8Array.of(9), metadata: new Metadata() }, { executor: 'local', durationMs: 1 });
    await made.recordAttempt(2, { number: 1, executor: 'local' });
    const message = 'no symbol \u001b]0;mine\u0007\nfailed: it never was';
    await made.recordAttemptFailed(2, { number: 1, code: 'JOB_FAILED', message, nextAt: 1_795_364_891_444.122 });
    await made.recordAttempt(2, { number: 2, executor: 'local' });
    await made.recordFailed(2, { code: 'JOB_FAILED', message });
    await made.close();
  });

  it.each(['why', 'jobs show'])('%s does not say that their result is on chain', async (command) => {
    const { stdout } = await bpr(...command.split(' '), 'hook:1', '--ledger', produced);
    expect(stdout).toContain('final: its result is journaled; no chain asked for it, so none gets it\n');
    expect(stdout).not.toContain('on chain for good');
  });

  it('what callers wrote neither steers the terminal nor makes lines of its own', async () => {
    const [why, show, list] = await Promise.all([
      bpr('why', 'seq:2', '--ledger', produced),
      bpr('jobs', 'show', 'seq:2', '--ledger', produced),
      bpr('jobs', 'list', '--ledger', produced),
    ]);
    for (const { status, stdout } of [why, show, list]) {
      expect(status).toBe(0);
      expect(stdout).not.toMatch(/(?!\n)\p{Cc}/u);
      expect(stdout).toContain('hook:\\u001b[2J2');
    }
    const text = String.raw`no symbol \u001b]0;mine\u0007\nfailed: it never was`;
    expect(show.stdout).toContain(`JOB_FAILED ${text}\n`);
    expect(why.stdout).toContain(`message ${text}, nextAt 2026-11-22T16:28:11.444Z\n`);
  });
});

describe('jobs retry', () => {
  let other: string;

  /** A ledger that no runner uses: call 0 of services 1 and 2 failed, call 1 of service 1 was executed and rejected, nobody took call 2, call 3 waits. */
  beforeAll(async () => {
    other = join(cwd, 'other', 'ledger.sqlite');
    const made = SqliteLedger.open({ path: other });
    const block = { number: 60n, hash: hash(60) };
    await made.recordSeen([call(1n, 0n), call(2n, 0n), call(1n, 1n), call(1n, 2n), call(1n, 3n)], {
      chainId: 31337,
      contract: CONTRACT,
      block,
    });
    for (const seq of [1, 2, 3]) await made.recordAttempt(seq, { number: 1, executor: 'local' });
    for (const seq of [1, 2]) await made.recordFailed(seq, { code: 'JOB_FAILED', message: 'no' });
    await made.recordExecuted(3, { body: Uint8Array.of(9), metadata: new Metadata() }, { executor: 'local', durationMs: 1 });
    await made.recordRejected(3, { code: 'RESULT_REJECTED', message: 'no' });
    await made.recordIgnored(4, { code: 'JOB_UNKNOWN', message: 'nobody takes it' });
    await made.close();
  });

  const retry = (...args: readonly string[]): Promise<Ran> => bpr('jobs', 'retry', ...args, '--ledger', other);

  it('says that a runner holds the ledger, and what to do', async () => {
    const { status, stdout, stderr } = await bpr('jobs', 'retry', '1', '--service', '1');
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toMatch(
      /^LEDGER_LOCKED: a runner uses the ledger .*ledger\.sqlite, and only it may change calls now: stop it, run this/,
    );
    expect(ledger.get(2)?.state).toBe('failed');
  });

  it.each([
    [['0'], 'CONFIG_INVALID: 0 names several such calls: seq:1 (call 0 of service 1 (job 2)), seq:2 (call 0 of service 2 (job 2))'],
    [
      ['3'],
      'STATE_INVALID: only calls that failed, were rejected or found nobody to run them are tried again; call 3 of service 1 (job 2) is seen: it is journaled',
    ],
    [['77'], 'NOT_FOUND: the ledger has no call 77'],
    [['seq:77'], 'NOT_FOUND: the ledger has no row 77'],
  ])('refuses %j', async (args, message) => {
    const { status, stdout, stderr } = await retry(...args);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain(message);
  });

  it('makes no ledger', async () => {
    const { status, stderr } = await bpr('jobs', 'retry', '0', '--ledger', 'none.sqlite');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^NOT_FOUND: there is no ledger/);
    expect(existsSync(join(cwd, 'none.sqlite'))).toBe(false);
  });

  it('has a failed call executed again, and the result of a rejected one settled again', async () => {
    const failed = await retry('0', '--service', '2');
    expect(failed).toEqual({
      status: 0,
      stdout: 'call 0 of service 2 (job 2) is seen again: it is executed when the runner starts\n',
      stderr: '',
    });
    const rejected = await retry('seq:3', '--json');
    expect(JSON.parse(rejected.stdout)).toMatchObject({ calls: [{ seq: 3, callId: '1', state: 'executed' }] });
    expect((await retry('2')).status).toBe(0);
    const after = SqliteLedger.open({ path: other });
    expect(after.find({}).map(({ state }) => state)).toEqual(['failed', 'seen', 'executed', 'seen', 'seen']);
    await after.close();
  });
});

describe('doctor with a ledger', () => {
  const ledgerCheck = async (...flags: readonly string[]): Promise<unknown> => {
    const { stdout } = await bpr('doctor', '--json', ...flags);
    return (JSON.parse(stdout) as { checks: { name: string }[] }).checks.find(({ name }) => name === 'ledger');
  };

  it('counts what is in it', async () => {
    const detail = `${join(cwd, 'data/ledger.sqlite')}: 3 calls, 0 transactions pending`;
    expect(await ledgerCheck()).toEqual({ name: 'ledger', status: 'ok', detail });
  });

  it('fails on a file that is no ledger', async () => {
    expect(await ledgerCheck('--ledger', import.meta.filename)).toMatchObject({
      status: 'fail',
      detail: expect.stringContaining('LEDGER_CORRUPT') as string,
    });
  });
});
