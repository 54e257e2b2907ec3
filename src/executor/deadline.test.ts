import { expect, test } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { Deadlines, Expiring } from './deadline.ts';

class Entry extends Expiring {
  readonly #expired: () => void;

  constructor(deadline: number, expired: () => void) {
    super(deadline);
    this.#expired = expired;
  }

  expire(): void {
    this.#expired();
  }
}

test('each entry expires once, never early and within 5 ms', async () => {
  const clock = new FakeClock();
  const deadlines = new Deadlines(clock);
  const start = clock.now();
  const expired: [number, number][] = [];
  for (const dueMs of [700, 20, 300, 20, 21, 299, 5_000])
    deadlines.add(new Entry(start + dueMs, () => expired.push([dueMs, clock.now() - start])));
  await clock.advance(6_000);
  expect(expired.map(([due]) => due).toSorted((a, b) => a - b)).toEqual([20, 20, 21, 299, 300, 700, 5_000]);
  for (const [due, at] of expired) {
    expect(at).toBeGreaterThanOrEqual(due);
    expect(at).toBeLessThanOrEqual(due + 5);
  }
});

test('a removed entry does not expire, and removing it twice is harmless', async () => {
  const clock = new FakeClock();
  const deadlines = new Deadlines(clock);
  const expired: string[] = [];
  const entries = ['a', 'b', 'c'].map((name) => new Entry(clock.now() + 10, () => expired.push(name)));
  for (const entry of entries) deadlines.add(entry);
  deadlines.remove(entries[1] as Entry);
  deadlines.remove(entries[1] as Entry);
  await clock.advance(20);
  expect(expired.toSorted()).toEqual(['a', 'c']);
});

test('an entry that another one removes while both expire is left alone', async () => {
  const clock = new FakeClock();
  const deadlines = new Deadlines(clock);
  const expired: string[] = [];
  const first = new Entry(clock.now() + 10, () => expired.push('first'));
  const second = new Entry(clock.now() + 10, () => {
    expired.push('second');
    deadlines.remove(first);
  });
  deadlines.add(first);
  deadlines.add(second);
  await clock.advance(20);
  expect(expired).toEqual(['second']);
});

test.each([-3_600_000, 3_600_000])('a clock that is set by %d ms changes no deadline', async (jumpMs) => {
  const clock = new FakeClock();
  const deadlines = new Deadlines(clock);
  const expired: string[] = [];
  const begun = clock.monotonic();
  const add = (name: string, waitMs: number): void =>
    deadlines.add(new Entry(clock.now() + waitMs, () => expired.push(`${name} ${Math.floor((clock.monotonic() - begun) / 10) * 10}`)));
  add('first', 100);
  add('second', 500);
  clock.jump(jumpMs);
  add('third', 300);
  await clock.advance(1_000);
  expect(expired).toEqual(['first 100', 'third 300', 'second 500']);
});

test('holds one timer for any number of entries, and none when nothing is left to wait for', async () => {
  const clock = new FakeClock();
  const deadlines = new Deadlines(clock);
  const entries = Array.from({ length: 1_000 }, (_, index) => new Entry(clock.now() + 10_000 + index, () => {}));
  for (const entry of entries) deadlines.add(entry);
  expect(clock.pending).toBe(1);
  for (const entry of entries) deadlines.remove(entry);
  await clock.advance(20_000);
  expect(clock.pending).toBe(0);
});

test('a deadline beyond the longest timer of node is not taken for an early one', async () => {
  const clock = new FakeClock();
  const deadlines = new Deadlines(clock);
  let expired = 0;
  deadlines.add(new Entry(clock.now() + 2 ** 32, () => (expired += 1)));
  await clock.advance(2 ** 31);
  expect(expired).toBe(0);
  await clock.advance(2 ** 31 + 5);
  expect(expired).toBe(1);
});
