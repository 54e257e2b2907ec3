import { describe, expect, test } from 'vitest';
import { FakeClock, Random } from './fake-clock.ts';

describe('FakeClock', () => {
  test('runs timers in the order of their time, then of their making', async () => {
    const clock = new FakeClock();
    const order: string[] = [];
    clock.after(20, () => order.push('late'));
    clock.after(10, () => order.push('first at 10'));
    clock.after(10, () => order.push('second at 10'));
    clock.after(0, () => order.push('now'));
    await clock.advance(20);
    expect(order).toEqual(['now', 'first at 10', 'second at 10', 'late']);
  });

  test('shows the time of the timer while it runs, and the full advance afterwards', async () => {
    const clock = new FakeClock({ startMs: 1_000 });
    const seen: number[] = [];
    clock.after(7, () => seen.push(clock.now(), clock.monotonic()));
    await clock.advance(50);
    expect(seen).toEqual([1_007, 7]);
    expect(clock.now()).toBe(1_050);
    expect(clock.monotonic()).toBe(50);
  });

  test('does not run what is due after the advance', async () => {
    const clock = new FakeClock();
    let ran = false;
    clock.after(10.5, () => (ran = true));
    await clock.advance(10);
    expect(ran).toBe(false);
    expect(clock.pending).toBe(1);
    await clock.advance(0.5);
    expect(ran).toBe(true);
  });

  test('drains promises, ticks and immediates between two timers', async () => {
    const clock = new FakeClock();
    const order: string[] = [];
    clock.after(1, () => {
      void Promise.resolve()
        .then(() => new Promise<void>((resolve) => setImmediate(resolve)))
        .then(() => new Promise<void>((resolve) => process.nextTick(resolve)))
        .then(() => new Promise<void>((resolve) => setImmediate(resolve)))
        .then(() => order.push(`work of the first at ${clock.monotonic()}`));
    });
    clock.after(2, () => order.push('second'));
    await clock.advance(5);
    expect(order).toEqual(['work of the first at 1', 'second']);
  });

  test('runs timers that timers make, in one advance', async () => {
    const clock = new FakeClock();
    const ticks: number[] = [];
    const tick = (): void => {
      ticks.push(clock.monotonic());
      clock.after(10, tick);
    };
    clock.after(10, tick);
    await clock.advance(35);
    expect(ticks).toEqual([10, 20, 30]);
  });

  test('a cancelled timer does not run, and cancelling twice takes no other', async () => {
    const clock = new FakeClock();
    const order: string[] = [];
    const cancel = clock.after(5, () => order.push('cancelled'));
    clock.after(5, () => order.push('kept'));
    cancel();
    cancel();
    await clock.advance(5);
    expect(order).toEqual(['kept']);
  });

  test('sleep resolves in time and rejects with ABORTED at once when cancelled, leaving no timer', async () => {
    const clock = new FakeClock();
    const abort = new AbortController();
    const slept = clock.sleep(100).then(() => clock.monotonic());
    const cancelled = clock.sleep(100, abort.signal).catch((error: unknown) => error);
    await clock.advance(50);
    abort.abort(new Error('enough'));
    expect(await cancelled).toMatchObject({ code: 'ABORTED', cause: { message: 'enough' } });
    expect(clock.pending).toBe(1);
    await clock.advance(50);
    expect(await slept).toBe(100);
    await expect(clock.sleep(1, abort.signal)).rejects.toMatchObject({ code: 'ABORTED' });
    expect(clock.pending).toBe(0);
  });

  test('runUntilIdle says how long it took, and refuses a timer without an end', async () => {
    const clock = new FakeClock();
    void clock.sleep(40).then(() => clock.sleep(60));
    expect(await clock.runUntilIdle()).toBe(100);
    const forever = (): void => void clock.after(10, forever);
    forever();
    await expect(clock.runUntilIdle({ limitMs: 1_000 })).rejects.toMatchObject({ code: 'STATE_INVALID' });
  });

  test('a jump moves the wall clock and no timer', async () => {
    const clock = new FakeClock({ startMs: 0 });
    let firedAt = -1;
    clock.after(10, () => (firedAt = clock.monotonic()));
    clock.jump(-5_000);
    expect(clock.now()).toBe(-5_000);
    await clock.advance(10);
    expect(firedAt).toBe(10);
  });

  test('refuses to be moved twice at the same time, and back', async () => {
    const clock = new FakeClock();
    const first = clock.advance(1);
    await expect(clock.advance(1)).rejects.toMatchObject({ code: 'STATE_INVALID' });
    await first;
    await expect(clock.advance(-1)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});

describe('Random', () => {
  const draw = (random: Random): number[] => Array.from({ length: 5 }, () => random.uint32());

  test('the same seed gives the same values, another seed others', () => {
    expect(draw(new Random(7))).toEqual(draw(new Random(7)));
    expect(draw(new Random(7))).not.toEqual(draw(new Random(8)));
    expect(draw(new Random(2 ** 40))).not.toEqual(draw(new Random(2 ** 41)));
  });

  test('a fork is a stream of its own', () => {
    const untouched = draw(new Random(7));
    const random = new Random(7);
    const faults = draw(random.fork('faults'));
    expect(draw(random)).toEqual(untouched);
    expect(draw(new Random(7).fork('faults'))).toEqual(faults);
    expect(draw(new Random(7).fork('calls'))).not.toEqual(faults);
  });

  test('values are spread evenly and stay in range', () => {
    const random = new Random(1);
    const counts = [0, 0, 0, 0];
    for (let round = 0; round < 8_000; round += 1) {
      const value = random.int(10, 13);
      counts[value - 10] = (counts[value - 10] ?? 0) + 1;
    }
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(8_000);
    for (const count of counts) expect(Math.abs(count - 2_000)).toBeLessThan(200);
    expect(random.chance(0)).toBe(false);
    expect(random.chance(1)).toBe(true);
  });

  test('shuffled keeps every item, pick refuses an empty list, bytes have their length', () => {
    const random = new Random(3);
    const list = Array.from({ length: 20 }, (_, index) => index);
    const shuffled = random.shuffled(list);
    expect(shuffled).not.toEqual(list);
    expect(shuffled.toSorted((a, b) => a - b)).toEqual(list);
    expect(() => random.pick([])).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    expect(new Set(random.bytes(64)).size).toBeGreaterThan(32);
  });
});
