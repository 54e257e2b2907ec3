import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { systemClock } from './clock.ts';

const DAY_MS = 86_400_000;

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('waits as long as it is told, also for longer than a timer of Node can', async () => {
  const ended: string[] = [];
  systemClock.after(60 * DAY_MS, () => ended.push('after'));
  const cancel = systemClock.after(61 * DAY_MS, () => ended.push('cancelled'));
  systemClock.after(Number.POSITIVE_INFINITY, () => ended.push('never'));
  void systemClock.sleep(60 * DAY_MS).then(() => ended.push('sleep'));
  const stop = new AbortController();
  const stopped = expect(systemClock.sleep(Number.MAX_SAFE_INTEGER, stop.signal)).rejects.toMatchObject({ code: 'ABORTED' });
  await vi.advanceTimersByTimeAsync(60 * DAY_MS - 1);
  expect(ended).toEqual([]);
  await vi.advanceTimersByTimeAsync(1);
  expect(ended).toEqual(['after', 'sleep']);
  cancel();
  stop.abort();
  await stopped;
  await vi.advanceTimersByTimeAsync(400 * DAY_MS);
  expect(ended).toEqual(['after', 'sleep']);
});
