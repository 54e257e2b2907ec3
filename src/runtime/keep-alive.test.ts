import { describe, expect, test } from 'vitest';
import { versionOf } from '../../test/support/fake-backend.ts';
import type { RunnerError } from '../errors.ts';
import { Deadlines } from '../executor/deadline.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { IdleHistogram, fixedKeepAlive, greedyDualKeepAlive, histogramKeepAlive } from './keep-alive.ts';
import type { KeepAlive } from './keep-alive.ts';
import { Pool } from './pool.ts';
import { Waiter } from './pool-group.ts';
import type { Member, PoolInstance } from './pool-group.ts';

const MINUTE = 60_000;

function histogramOf(...idleMinutes: readonly number[]): IdleHistogram {
  const histogram = new IdleHistogram();
  for (const minutes of idleMinutes) histogram.add(minutes * MINUTE);
  return histogram;
}

const times = (count: number, minutes: number): number[] => Array.from({ length: count }, () => minutes);

describe('the histogram of idle times', () => {
  test('says nothing of few samples, of samples all over the place, and of samples out of range', () => {
    expect(histogramOf(...times(9, 30)).windows()).toBe(undefined);
    expect(histogramOf(...Array.from({ length: 240 }, (_, minutes) => minutes)).windows()).toBe(undefined);
    expect(histogramOf(...times(10, 30), ...times(11, 300)).windows()).toBe(undefined);
  });

  test('a function that is called every few seconds stays until the tail', () => {
    expect(histogramOf(...times(99, 0.1), 4.5).windows()).toEqual({ keepMs: expect.closeTo(1.1 * MINUTE) });
    expect(histogramOf(...times(90, 0.1), ...times(10, 4.5)).windows()).toEqual({ keepMs: expect.closeTo(5.5 * MINUTE) });
  });

  test('a function that is called every half hour is ended and started again shortly before', () => {
    expect(histogramOf(...times(20, 30.2)).windows()).toEqual({
      keepMs: 0,
      again: { startAfterMs: 27 * MINUTE, keepMs: expect.closeTo((31 * 1.1 - 27) * MINUTE) },
    });
  });
});

/** Minutes of calls in nine hours: recorded from a timer, from a web hook, and from people. */
const TRACE: Readonly<Record<string, readonly number[]>> = {
  timer: Array.from({ length: 18 }, (_, index) => index * 30),
  hook: [
    3, 4, 4.2, 5, 61, 61.1, 62, 118, 119, 119.5, 121, 183, 184, 185, 240, 241, 242, 242.4, 300, 301, 303, 362, 363, 420, 421, 421.5, 481,
  ],
  people: [12, 13, 13.5, 15, 15.2, 19, 22, 22.1, 23, 25, 31, 33, 34, 36, 200, 202, 203, 207, 208, 209, 210.5, 214, 218, 219, 220, 222, 226],
};

interface Outcome {
  readonly coldStarts: number;
  /** Minutes that instances were up. */
  readonly upMinutes: number;
}

class Call extends Waiter<PoolInstance> {
  readonly #done: (member: Member<PoolInstance>) => void;

  constructor(done: (member: Member<PoolInstance>) => void) {
    super(Infinity);
    this.#done = done;
  }

  leased(member: Member<PoolInstance>): void {
    this.#done(member);
  }

  refused(error: RunnerError): void {
    throw error;
  }

  protected waitedTooLong(): void {
    throw new Error('it waits for ever');
  }
}

/** Plays the trace through a pool: a start takes 2 s, a call 1 s. */
async function play(keepAlive: KeepAlive, trace: Readonly<Record<string, readonly number[]>> = TRACE): Promise<Outcome> {
  const clock = new FakeClock();
  const launched: { from: number; to: number; calls: number }[] = [];
  const pool = new Pool<PoolInstance>({
    async launch() {
      const life = { from: clock.monotonic(), to: -1, calls: 0 };
      await clock.sleep(2_000);
      launched.push(life);
      const end = Promise.withResolvers<void>();
      return {
        id: `i${launched.length}`,
        isAsking: true,
        isOver: false,
        startMs: 2_000,
        ended: end.promise,
        async stop() {
          if (life.to < 0) life.to = clock.monotonic();
          end.resolve();
        },
      };
    },
    clock,
    deadlines: new Deadlines(clock),
    limits: { instancesMax: 10, instancesPerFunctionMax: 1, startsMax: 4, queueMax: 10 },
    keepAlive,
  });
  let coldStarts = 0;
  const at = Object.entries(trace)
    .flatMap(([name, minutes]) => minutes.map((minute) => ({ name, at: minute * MINUTE })))
    .toSorted((one, other) => one.at - other.at);
  for (const { name, at: due } of at) {
    await clock.advance(Math.max(0, due - clock.monotonic()));
    const arrived = clock.monotonic();
    const call = new Call((member) => {
      if (clock.monotonic() > arrived + 1_500) coldStarts += 1;
      clock.after(1_000, () => pool.release(member));
    });
    pool.acquire(versionOf({ name, fingerprint: name }), call);
  }
  await clock.advance(600 * MINUTE - clock.monotonic());
  await pool.close(0);
  return { coldStarts, upMinutes: launched.reduce((sum, { from, to }) => sum + (to - from) / MINUTE, 0) };
}

describe('a recorded trace', () => {
  test('a timer: few cold starts once it is learned, for a fraction of keeping it all the time', async () => {
    const timer = { timer: TRACE['timer'] ?? [] };
    const short = await play(fixedKeepAlive({ keepMs: 10 * MINUTE }), timer);
    const long = await play(fixedKeepAlive({ keepMs: 31 * MINUTE }), timer);
    const learned = await play(histogramKeepAlive({ keepMs: 10 * MINUTE }), timer);
    expect([short.coldStarts, long.coldStarts, learned.coldStarts]).toEqual([18, 1, 11]);
    // Ten times 10 minutes until the histogram says enough; then from 3 minutes before each call.
    expect(learned.upMinutes).toBeLessThan(long.upMinutes / 2);
  });

  test('all functions: what is learned lies between a short and a long time for all', async () => {
    const short = await play(fixedKeepAlive({ keepMs: 10 * MINUTE }));
    const long = await play(fixedKeepAlive({ keepMs: 60 * MINUTE }));
    const learned = await play(histogramKeepAlive({ keepMs: 10 * MINUTE }));
    expect([short.coldStarts, learned.coldStarts, long.coldStarts]).toEqual([29, 16, 5]);
    expect([short.upMinutes, learned.upMinutes, long.upMinutes].map(Math.round)).toEqual([357, 912, 1276]);
  });

  test('an instance that was started again in vain ends, and is not started once more', async () => {
    const keepAlive: KeepAlive = { windows: () => ({ keepMs: 0, again: { startAfterMs: 5 * MINUTE, keepMs: 2 * MINUTE } }) };
    const clock = new FakeClock();
    const ups: number[] = [];
    const downs: number[] = [];
    const pool = new Pool<PoolInstance>({
      async launch() {
        ups.push(Math.round(clock.monotonic() / MINUTE));
        const end = Promise.withResolvers<void>();
        let isUp = true;
        const stop = async (): Promise<void> => {
          if (isUp) downs.push(Math.round(clock.monotonic() / MINUTE));
          isUp = false;
          end.resolve();
        };
        return { id: 'i', isAsking: true, isOver: false, startMs: 0, ended: end.promise, stop };
      },
      clock,
      deadlines: new Deadlines(clock),
      limits: { instancesMax: 10, instancesPerFunctionMax: 1, startsMax: 4, queueMax: 10 },
      keepAlive,
    });
    pool.acquire(versionOf(), new Call((member) => pool.release(member)));
    await clock.advance(60 * MINUTE);
    expect([ups, downs]).toEqual([
      [0, 5],
      [0, 7],
    ]);
    pool.acquire(versionOf(), new Call((member) => pool.release(member)));
    await clock.advance(MINUTE);
    pool.retire('cook', []);
    await clock.advance(60 * MINUTE);
    expect([ups, downs]).toEqual([
      [0, 5, 60],
      [0, 7, 60],
    ]);
    await pool.close(0);
  });
});

describe('a budget of memory', () => {
  const stats = (name: string, memoryMb: number, startMs: number) => ({ name, memoryMb, startMs, idleSince: 0 });

  test('seldom called, quickly started, large: these go first', () => {
    const keepAlive = greedyDualKeepAlive({ memoryMbMax: 1_000 });
    const rank = (name: string, memoryMb: number, startMs: number): number => keepAlive.rank?.(stats(name, memoryMb, startMs)) ?? NaN;
    for (const name of ['often', 'often', 'often', 'seldom', 'slow', 'large']) keepAlive.started?.(name, 0);
    expect(rank('seldom', 128, 100)).toBeLessThan(rank('often', 128, 100));
    expect(rank('seldom', 128, 100)).toBeLessThan(rank('slow', 128, 900));
    expect(rank('large', 900, 100)).toBeLessThan(rank('seldom', 128, 100));
  });

  test('fame fades: what is not called falls behind what is', () => {
    const keepAlive = greedyDualKeepAlive({ memoryMbMax: 1_000 });
    const rank = (name: string): number => keepAlive.rank?.(stats(name, 100, 100)) ?? NaN;
    for (let call = 0; call < 10; call += 1) keepAlive.started?.('old', 0);
    keepAlive.started?.('new', 0);
    expect(rank('new')).toBeLessThan(rank('old'));
    for (let eviction = 0; eviction < 10; eviction += 1) keepAlive.evicted?.(rank('old'));
    keepAlive.started?.('new', 1);
    expect(rank('new')).toBeGreaterThan(rank('old'));
  });
});
