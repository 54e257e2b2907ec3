import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { RunnerError } from '../errors.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import type { Reply } from './http.ts';
import { IdempotencyKeys } from './idempotency.ts';
import type { KeyedRequest } from './idempotency.ts';

const request = (hash: string, body: string | (() => Promise<Reply>), mayRunAgain = false): KeyedRequest => ({
  hash,
  work: typeof body === 'string' ? async () => ({ status: 200, headers: { a: 'b' }, body }) : body,
  mayRunAgain: () => mayRunAgain,
});

const textOf = ({ body }: Reply): string => Buffer.from(body as Uint8Array | string).toString();

let folder: string;
let open: IdempotencyKeys[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-keys-'));
});

afterEach(() => {
  for (const keys of open) keys.close();
  open = [];
  rmSync(folder, { recursive: true, force: true });
});

function keysOf(options: Partial<ConstructorParameters<typeof IdempotencyKeys>[0]> = {}): { keys: IdempotencyKeys; clock: FakeClock } {
  const clock = new FakeClock();
  const keys = new IdempotencyKeys({ path: ':memory:', clock, keepMs: 1_000, entriesMax: 2, bytesMax: 100, ...options });
  open.push(keys);
  return { clock, keys };
}

describe('idempotency keys', () => {
  test('give the answer that was given, and say so', async () => {
    const { keys } = keysOf();
    expect(await keys.once('a', request('h', '1'))).toEqual({ status: 200, headers: { a: 'b' }, body: '1' });
    const again = await keys.once('a', request('h', '2'));
    expect([again.status, again.headers, textOf(again)]).toEqual([200, { a: 'b', 'idempotent-replayed': 'true' }, '1']);
  });

  test('refuse another request, also while the first one runs', async () => {
    const { keys } = keysOf();
    const running = Promise.withResolvers<Reply>();
    const first = keys.once(
      'a',
      request('h', () => running.promise),
    );
    await expect(keys.once('a', request('other', '2'))).rejects.toMatchObject({ code: 'REQUEST_CONFLICT' });
    const second = keys.once('a', request('h', '2'));
    running.resolve({ status: 200, body: '1' });
    expect([textOf(await first), textOf(await second)]).toEqual(['1', '1']);
    await expect(keys.once('a', request('other', '2'))).rejects.toMatchObject({ code: 'REQUEST_CONFLICT' });
  });

  test('can be used again after a failure, and after their time', async () => {
    const { keys, clock } = keysOf();
    const failing = request('h', async () => Promise.reject(new RunnerError('FUNCTION_FAILED', 'no')));
    await expect(keys.once('a', failing)).rejects.toThrow('no');
    await keys.once('a', request('h', '1'));
    await clock.advance(999);
    await expect(keys.once('a', request('other', '2'))).rejects.toMatchObject({ code: 'REQUEST_CONFLICT' });
    await clock.advance(1);
    expect(textOf(await keys.once('a', request('other', '2')))).toBe('2');
  });

  test('the oldest answers make room; what runs does not', async () => {
    const { keys } = keysOf();
    await keys.once('a', request('h', '1'));
    const running = Promise.withResolvers<Reply>();
    const work = (): Promise<Reply> => running.promise;
    const pending = [keys.once('b', request('h', work)), keys.once('c', request('h', work))];
    await expect(keys.once('d', request('h', '1'))).rejects.toMatchObject({ code: 'RATE_LIMITED' });
    running.resolve({ status: 200, body: 'x'.repeat(60) });
    await Promise.all(pending);
    expect(textOf(await keys.once('a', request('other', '2')))).toBe('2');
  });

  test('large answers make room for newer ones', async () => {
    const { keys } = keysOf({ entriesMax: 100 });
    for (const key of ['a', 'b', 'c']) await keys.once(key, request('h', 'x'.repeat(60)));
    await keys.once('d', request('h', ''));
    expect((await keys.once('c', request('h', '2'))).headers).toMatchObject({ 'idempotent-replayed': 'true' });
    expect(textOf(await keys.once('b', request('h', '2')))).toBe('2');
  });

  test('what was cut off is neither answered nor run again, unless that does no harm', async () => {
    const { keys } = keysOf();
    const cutOff = request('h', async () => Promise.reject(new RunnerError('ABORTED', 'the instance was stopped')));
    await expect(keys.once('a', cutOff)).rejects.toMatchObject({ code: 'ABORTED' });
    await expect(keys.once('a', request('h', '1'))).rejects.toMatchObject({ code: 'OUTCOME_UNKNOWN' });
    await expect(keys.once('a', request('other', '1', true))).rejects.toMatchObject({ code: 'REQUEST_CONFLICT' });
    expect(await keys.once('a', request('h', '2', true))).toMatchObject({ body: '2' });
    expect(textOf(await keys.once('a', request('h', '3')))).toBe('2');
    const notBegun = request('h', async () => Promise.reject(new RunnerError('ABORTED', 'before it started', { retry: 'safe' })));
    await expect(keys.once('b', notBegun)).rejects.toMatchObject({ code: 'ABORTED' });
    expect(textOf(await keys.once('b', request('h', '4')))).toBe('4');
  });

  test('the next process knows what was answered, and what had begun', async () => {
    const path = join(folder, 'keys.db');
    const first = keysOf({ path });
    await first.keys.once('answered', request('h', '1'));
    const running = first.keys.once(
      'running',
      request('h', () => new Promise<never>(() => {})),
    );
    void running.catch(() => {});
    await new Promise((resolve) => setImmediate(resolve));
    first.keys.close();
    const { keys } = keysOf({ path });
    expect(textOf(await keys.once('answered', request('h', '2')))).toBe('1');
    await expect(keys.once('running', request('h', '2'))).rejects.toMatchObject({ code: 'OUTCOME_UNKNOWN' });
    expect(textOf(await keys.once('running', request('h', '2', true)))).toBe('2');
  });
});
