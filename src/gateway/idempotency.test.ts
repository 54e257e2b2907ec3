import { describe, expect, test } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import type { Reply } from './http.ts';
import { IdempotencyKeys } from './idempotency.ts';

const reply =
  (body: string): (() => Promise<Reply>) =>
  async () => ({ status: 200, body });

function keysOf(options: Partial<ConstructorParameters<typeof IdempotencyKeys>[0]> = {}): { keys: IdempotencyKeys; clock: FakeClock } {
  const clock = new FakeClock();
  return { clock, keys: new IdempotencyKeys({ clock, keepMs: 1_000, entriesMax: 2, bytesMax: 100, ...options }) };
}

describe('idempotency keys', () => {
  test('give the answer that was given, and say so', async () => {
    const { keys } = keysOf();
    await keys.once('a', 'h', reply('1'));
    expect(await keys.once('a', 'h', reply('2'))).toEqual({ status: 200, body: '1', headers: { 'idempotent-replayed': 'true' } });
  });

  test('refuse another request, also while the first one runs', async () => {
    const { keys } = keysOf();
    const running = Promise.withResolvers<Reply>();
    const first = keys.once('a', 'h', () => running.promise);
    await expect(keys.once('a', 'other', reply('2'))).rejects.toMatchObject({ code: 'REQUEST_CONFLICT' });
    const second = keys.once('a', 'h', reply('2'));
    running.resolve({ status: 200, body: '1' });
    expect([(await first).body, (await second).body]).toEqual(['1', '1']);
  });

  test('can be used again after a failure, and after their time', async () => {
    const { keys, clock } = keysOf();
    await expect(keys.once('a', 'h', async () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    await keys.once('a', 'h', reply('1'));
    await clock.advance(1_000);
    expect((await keys.once('a', 'other', reply('2'))).body).toBe('2');
  });

  test('the oldest answers make room; what runs does not', async () => {
    const { keys } = keysOf();
    await keys.once('a', 'h', reply('1'));
    const running = Promise.withResolvers<Reply>();
    const pending = [keys.once('b', 'h', () => running.promise), keys.once('c', 'h', () => running.promise)];
    await expect(keys.once('d', 'h', reply('1'))).rejects.toMatchObject({ code: 'RATE_LIMITED' });
    running.resolve({ status: 200, body: 'x'.repeat(200) });
    await Promise.all(pending);
    expect((await keys.once('a', 'other', reply('2'))).body).toBe('2');
  });
});
