import { describe, expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { delayOf } from './firing-times.ts';
import { calendar, periodic } from './schedule.ts';
import { Scheduler } from './scheduler.ts';
import type { Firing, LastRunStore, RunRecord, ScheduledTask, OverlapPolicy } from './scheduler.ts';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const START = Date.UTC(2026, 0, 1);

class MemoryStore implements LastRunStore {
  readonly values = new Map<string, number>();
  readonly get = (name: string): number | undefined => this.values.get(name);
  readonly set = (name: string, scheduledMs: number): void => void this.values.set(name, scheduledMs);
}

interface Run {
  readonly at: number;
  readonly firing: Firing;
}

interface Setup extends Partial<ScheduledTask> {
  readonly clock?: FakeClock;
  readonly store?: LastRunStore;
  /** How long each run takes. */
  readonly takesMs?: number;
  readonly historyMax?: number;
}

async function started({ clock = new FakeClock({ startMs: START }), store, takesMs = 0, historyMax, ...task }: Setup) {
  const runs: Run[] = [];
  const records: RunRecord[] = [];
  const scheduler = new Scheduler({
    clock,
    ...(store && { store }),
    ...(historyMax !== undefined && { historyMax }),
    onRecord: (record) => records.push(record),
  });
  scheduler.add({
    name: 'task',
    schedule: 'hourly',
    run: async (firing, signal) => {
      runs.push({ at: clock.now(), firing });
      if (takesMs > 0) await clock.sleep(takesMs, signal);
    },
    ...task,
  });
  await scheduler.start();
  const times = (): number[] => runs.map(({ at }) => at);
  const outcomes = (): string[] =>
    scheduler.history('task').map(({ outcome, count }) => (count === undefined ? outcome : `${outcome} ${count}`));
  return { clock, scheduler, runs, records, times, outcomes };
}

describe('a scheduler', () => {
  it('runs a calendar at its times, through a change of the clocks', async () => {
    const clock = new FakeClock({ startMs: Date.UTC(2026, 2, 28) });
    const { times } = await started({ clock, schedule: '9:00 Europe/Berlin' });
    await clock.advance(2 * DAY);
    expect(times()).toEqual([Date.UTC(2026, 2, 28, 8), Date.UTC(2026, 2, 29, 7)]);
  });

  it('leaves out what the clocks leave out, and runs once what they show twice', async () => {
    const spring = await started({ clock: new FakeClock({ startMs: Date.UTC(2026, 2, 28, 12) }), schedule: '2:30 Europe/Berlin' });
    await spring.clock.advance(2 * DAY);
    expect(spring.times()).toEqual([Date.UTC(2026, 2, 30, 0, 30)]);
    const autumn = await started({ clock: new FakeClock({ startMs: Date.UTC(2026, 9, 24, 12) }), schedule: '2:30 Europe/Berlin' });
    await autumn.clock.advance(2 * DAY);
    expect(autumn.times()).toEqual([Date.UTC(2026, 9, 25, 0, 30), Date.UTC(2026, 9, 26, 1, 30)]);
  });

  it('runs more than once a minute, calendars and periods', async () => {
    const often = await started({ schedule: '*:*:0/0.25' });
    await often.clock.advance(SECOND);
    expect(often.times().map((at) => at - START)).toEqual([250, 500, 750, 1_000]);
    const period = await started({ schedule: periodic(0.1) });
    await period.clock.advance(350);
    expect(period.times().map((at) => at - START)).toEqual([100, 200, 300]);
  });

  it('does not drift, however long runs take', async () => {
    const { clock, times } = await started({ schedule: periodic(10), takesMs: 3_333 });
    await clock.advance(HOUR);
    expect(times()).toEqual(Array.from({ length: 360 }, (_, index) => START + (index + 1) * 10 * SECOND));
  });

  it('counts periods from the end of a run where the schedule says so', async () => {
    const { clock, times } = await started({ schedule: periodic(10, { relativeTo: 'finish' }), takesMs: 4_000 });
    await clock.advance(45 * SECOND);
    expect(times().map((at) => at - START)).toEqual([10_000, 24_000, 38_000]);
  });

  it('starts at once what is counted from boot', async () => {
    const { clock, times } = await started({ schedule: periodic(10, { startOn: 'boot' }) });
    await clock.advance(10 * SECOND);
    expect(times().map((at) => at - START)).toEqual([0, 10_000]);
  });
});

describe('runs that overlap', () => {
  it('are skipped by default', async () => {
    const { clock, times, outcomes } = await started({ schedule: periodic(10), takesMs: 25 * SECOND });
    await clock.advance(60 * SECOND);
    expect(times().map((at) => at - START)).toEqual([10_000, 40_000]);
    expect(outcomes()).toEqual(['succeeded', 'skipped', 'skipped', 'running', 'skipped', 'skipped']);
  });

  it('wait where the task says so', async () => {
    const { clock, times } = await started({ schedule: periodic(10), takesMs: 15 * SECOND, overlap: 'queue' });
    await clock.advance(60 * SECOND);
    expect(times().map((at) => at - START)).toEqual([10_000, 25_000, 40_000, 55_000]);
  });

  it('run beside each other where the task says so', async () => {
    const { clock, times, scheduler } = await started({ schedule: periodic(10), takesMs: 25 * SECOND, overlap: 'allow' });
    await clock.advance(40 * SECOND);
    expect(times().map((at) => at - START)).toEqual([10_000, 20_000, 30_000, 40_000]);
    expect(scheduler.status()).toMatchObject([{ running: 3, queued: 0 }]);
  });
});

describe('runs that were missed', () => {
  it('are made up for once after a restart', async () => {
    const store = new MemoryStore();
    const first = await started({ schedule: 'hourly', store });
    await first.clock.advance(2 * HOUR);
    await first.scheduler.close();
    const clock = new FakeClock({ startMs: START + 7 * HOUR + 30 * MINUTE });
    const { runs, outcomes } = await started({ clock, schedule: 'hourly', store });
    await clock.advance(0);
    expect(runs.map(({ firing }) => firing)).toMatchObject([{ scheduledMs: START + 7 * HOUR, isCatchUp: true, missed: 4 }]);
    expect(outcomes()).toEqual(['missed 4', 'succeeded']);
    await clock.advance(30 * MINUTE);
    expect(runs.at(-1)?.firing).toMatchObject({ scheduledMs: START + 8 * HOUR, isCatchUp: false, missed: 0 });
    expect(store.values.get('task')).toBe(START + 8 * HOUR);
  });

  it('are made up for as often as the task says, one after the other', async () => {
    const store = new MemoryStore();
    store.set('task', START);
    const clock = new FakeClock({ startMs: START + 5 * HOUR + 30 * MINUTE });
    const { runs, outcomes } = await started({ clock, store, catchUpMax: 3, takesMs: SECOND });
    await clock.advance(5 * SECOND);
    expect(runs.map(({ firing, at }) => [firing.scheduledMs - START, at - clock.now()])).toEqual([
      [3 * HOUR, -5_000],
      [4 * HOUR, -4_000],
      [5 * HOUR, -3_000],
    ]);
    expect(outcomes()).toEqual(['missed 2', 'succeeded', 'succeeded', 'succeeded']);
  });

  it('are not made up for when the calendar is not persistent', async () => {
    const store = new MemoryStore();
    store.set('task', START);
    const clock = new FakeClock({ startMs: START + 5 * HOUR + 30 * MINUTE });
    const { times, outcomes } = await started({ clock, store, schedule: calendar('hourly', { persistent: false }) });
    await clock.advance(30 * MINUTE);
    expect(times()).toEqual([START + 6 * HOUR]);
    expect(outcomes()).toEqual(['missed 5', 'succeeded']);
  });

  it('are counted no further than a thousand, and the latest is made up for', async () => {
    const store = new MemoryStore();
    store.set('task', START);
    const clock = new FakeClock({ startMs: START + 30 * DAY + 500 });
    const { runs } = await started({ clock, store, schedule: '*:*:*' });
    await clock.advance(0);
    expect(runs.map(({ firing }) => [firing.scheduledMs, firing.missed])).toEqual([[START + 30 * DAY, 1_000]]);
  });

  it('are those that nobody began to wait for when a task is new', async () => {
    const store = new MemoryStore();
    const first = await started({ schedule: 'daily', store });
    await first.scheduler.close();
    const clock = new FakeClock({ startMs: START + DAY + HOUR });
    const { times } = await started({ clock, schedule: 'daily', store });
    await clock.advance(0);
    expect(times()).toEqual([START + DAY + HOUR]);
  });

  it('include a run that was cut off, unless it was acknowledged', async () => {
    const store = new MemoryStore();
    const cut = await started({ schedule: 'hourly', store, takesMs: DAY });
    await cut.clock.advance(HOUR);
    const closing = cut.scheduler.close({ drainMs: 0 });
    await closing;
    expect(cut.outcomes()).toEqual(['cancelled']);
    expect(store.values.get('task')).toBeLessThan(START + HOUR);
    const again = await started({
      clock: new FakeClock({ startMs: START + HOUR + 10 * MINUTE }),
      store,
      run: (firing) => firing.acknowledge(),
    });
    await again.clock.advance(0);
    expect(again.outcomes()).toEqual(['succeeded']);
    expect(store.values.get('task')).toBe(START + HOUR);
  });

  it('are not forgotten because a later one was skipped', async () => {
    const store = new MemoryStore();
    const { clock, outcomes } = await started({ schedule: 'hourly', store, takesMs: DAY, timeoutMs: 2 * DAY });
    await clock.advance(3 * HOUR);
    expect(outcomes()).toEqual(['running', 'skipped', 'skipped']);
    expect(store.values.get('task')).toBeLessThan(START + HOUR);
    await clock.advance(DAY);
    expect(store.values.get('task')).toBeGreaterThanOrEqual(START + DAY);
  });
});

describe('a clock that jumps', () => {
  it('forward is noticed soon, and what was missed is made up for once', async () => {
    const { clock, runs } = await started({ schedule: 'hourly' });
    await clock.advance(MINUTE);
    clock.jump(5 * HOUR);
    await clock.advance(30 * SECOND);
    expect(runs.map(({ firing }) => [firing.scheduledMs - START, firing.missed])).toEqual([[5 * HOUR, 4]]);
  });

  it('back does not run twice what ran', async () => {
    const { clock, runs } = await started({ schedule: 'hourly' });
    await clock.advance(2 * HOUR + MINUTE);
    clock.jump(-90 * MINUTE);
    await clock.advance(3 * HOUR);
    expect(runs.map(({ firing }) => firing.scheduledMs - START)).toEqual([HOUR, 2 * HOUR, 3 * HOUR]);
  });

  it('back does not run twice what ran before a restart', async () => {
    const store = new MemoryStore();
    const first = await started({ schedule: 'hourly', store });
    await first.clock.advance(2 * HOUR + MINUTE);
    await first.scheduler.close();
    const clock = new FakeClock({ startMs: START + 30 * MINUTE });
    const { runs } = await started({ clock, schedule: 'hourly', store });
    await clock.advance(3 * HOUR);
    expect(runs.map(({ firing }) => firing.scheduledMs - START)).toEqual([3 * HOUR]);
  });

  it('back by more than a day begins anew', async () => {
    const clock = new FakeClock({ startMs: START + 400 * DAY });
    const { runs } = await started({ clock, schedule: 'hourly' });
    await clock.advance(HOUR);
    clock.jump(-400 * DAY);
    await clock.advance(HOUR);
    expect(runs.map(({ firing }) => firing.scheduledMs - START)).toEqual([400 * DAY + HOUR, 2 * HOUR]);
  });

  it('does not touch periods', async () => {
    const { clock, runs } = await started({ schedule: periodic(60) });
    await clock.advance(90 * SECOND);
    clock.jump(5 * HOUR);
    await clock.advance(60 * SECOND);
    clock.jump(-5 * HOUR);
    await clock.advance(60 * SECOND);
    expect(runs).toHaveLength(3);
  });
});

describe('a task', () => {
  it('is late by its own part of the randomised delay, always the same', async () => {
    const schedule = calendar('hourly', { randomizedDelayMs: 10 * MINUTE });
    const delay = delayOf('task', schedule);
    expect(delay).toBeGreaterThan(0);
    expect(delay).toBeLessThan(10 * MINUTE);
    const { clock, times, runs, scheduler } = await started({ schedule });
    expect(scheduler.status()[0]?.nextMs).toBe(START + delay);
    await clock.advance(2 * HOUR);
    expect(times()).toEqual([START + delay, START + HOUR + delay]);
    expect(runs.map(({ firing }) => firing.scheduledMs)).toEqual([START, START + HOUR]);
  });

  it('has a delay that is spread over names', () => {
    const schedule = calendar('hourly', { randomizedDelayMs: 1_000 });
    const delays = Array.from({ length: 1_000 }, (_, index) => delayOf(`job-${index}`, schedule));
    for (let part = 0; part < 10; part += 1) {
      const within = delays.filter((delay) => Math.floor(delay / 100) === part).length;
      expect(within).toBeGreaterThan(60);
      expect(within).toBeLessThan(140);
    }
  });

  it('that is paused is neither run nor made up for', async () => {
    const { clock, scheduler, times } = await started({ schedule: 'hourly' });
    await clock.advance(HOUR);
    scheduler.pause('task');
    expect(scheduler.status()).toMatchObject([{ paused: true, nextMs: undefined }]);
    await clock.advance(3 * HOUR);
    scheduler.resume();
    await clock.advance(90 * MINUTE);
    expect(times()).toEqual([START + HOUR, START + 5 * HOUR]);
  });

  it('that was paused is not made up for after a restart either', async () => {
    const store = new MemoryStore();
    const first = await started({ schedule: 'hourly', store });
    await first.clock.advance(HOUR);
    first.scheduler.pause('task');
    await first.clock.advance(3 * HOUR + 10 * MINUTE);
    first.scheduler.resume();
    expect(store.values.get('task')).toBe(START + 4 * HOUR + 10 * MINUTE);
    first.scheduler.pause('task');
    await first.clock.advance(HOUR);
    await first.scheduler.close();
    const clock = new FakeClock({ startMs: START + 5 * HOUR + 20 * MINUTE });
    const { times } = await started({ clock, schedule: 'hourly', store });
    await clock.advance(HOUR);
    expect(times()).toEqual([START + 6 * HOUR]);
  });

  it('that is new is not late by its delay again after a restart', async () => {
    const store = new MemoryStore();
    const delayed = calendar('hourly', { randomizedDelayMs: HOUR });
    const delayMs = delayOf('task', delayed);
    const begin = new FakeClock({ startMs: START + delayMs / 2 });
    const first = await started({ clock: begin, schedule: delayed, store });
    await first.scheduler.close();
    const clock = new FakeClock({ startMs: START + delayMs / 2 + 1 });
    const { runs } = await started({ clock, schedule: delayed, store });
    await clock.advance(HOUR);
    expect(runs.map(({ firing }) => firing.scheduledMs - START)).toEqual([0]);
  });

  it('keeps its phase over a pause', async () => {
    const { clock, scheduler, times } = await started({ schedule: periodic(60) });
    scheduler.pause();
    await clock.advance(150 * SECOND);
    scheduler.resume();
    await clock.advance(60 * SECOND);
    expect(times()).toEqual([START + 180 * SECOND]);
  });

  it('that fails is told, and runs again', async () => {
    const failing = (): Promise<void> => Promise.reject(new Error('no space left'));
    const { clock, scheduler, records } = await started({ schedule: 'hourly', run: failing });
    await clock.advance(2 * HOUR);
    expect(scheduler.history('task')).toMatchObject([
      { scheduledMs: START + HOUR, startedMs: START + HOUR, finishedMs: START + HOUR, outcome: 'failed', error: 'no space left' },
      { scheduledMs: START + 2 * HOUR, outcome: 'failed' },
    ]);
    expect(records.map(({ outcome }) => outcome)).toEqual(['running', 'failed', 'running', 'failed']);
  });

  it('that takes too long is cancelled, even when it does not listen', async () => {
    const deaf = (): Promise<void> => new Promise(() => undefined);
    const { clock, outcomes } = await started({ schedule: 'hourly', run: deaf, timeoutMs: 10 * MINUTE });
    await clock.advance(HOUR + 20 * MINUTE);
    expect(outcomes()).toEqual(['timed-out']);
  });

  it('has a history that ends', async () => {
    const { clock, scheduler } = await started({ schedule: 'minutely', historyMax: 5 });
    await clock.advance(HOUR);
    const history = scheduler.history('task');
    expect(history.map(({ scheduledMs }) => scheduledMs)).toEqual([56, 57, 58, 59, 60].map((minute) => START + minute * MINUTE));
  });
});

describe('closing a scheduler', () => {
  it('waits for what runs, and starts nothing', async () => {
    const { clock, scheduler, outcomes } = await started({ schedule: 'minutely', takesMs: 10 * SECOND });
    await clock.advance(MINUTE);
    const closing = scheduler.close();
    await clock.advance(10 * MINUTE);
    await closing;
    expect(outcomes()).toEqual(['succeeded']);
    expect(clock.pending).toBe(0);
  });

  it('cancels what takes longer than the drain', async () => {
    const { clock, scheduler, outcomes } = await started({ schedule: 'minutely', takesMs: HOUR });
    await clock.advance(MINUTE);
    const closing = scheduler.close({ drainMs: 5 * SECOND });
    await clock.advance(5 * SECOND);
    await closing;
    expect(outcomes()).toEqual(['cancelled']);
  });
});

it('what cannot be scheduled is refused', async () => {
  const scheduler = new Scheduler({ clock: new FakeClock() });
  const run = (): void => undefined;
  scheduler.add({ name: 'a', schedule: 'daily', run });
  expect(() => scheduler.add({ name: 'a', schedule: 'daily', run })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  expect(() => scheduler.add({ name: 'b', schedule: 'dayly', run })).toThrow(expect.objectContaining({ code: 'SCHEDULE_INVALID' }));
  const overlap = 'parallel' as OverlapPolicy; // as: an author without types
  expect(() => scheduler.add({ name: 'b', schedule: 'daily', overlap, run })).toThrow(
    expect.objectContaining({ code: 'CONFIG_INVALID', message: 'overlap of b is parallel; it must be skip, queue, allow' }),
  );
  expect(() => scheduler.add({ name: 'b', schedule: 'daily', timeoutMs: 0, run })).toThrow(
    expect.objectContaining({ code: 'CONFIG_INVALID', message: 'timeoutMs of b is 0; it must be above 0' }),
  );
  expect(() => scheduler.add({ name: 'b', schedule: 'daily', catchUpMax: -1, run })).toThrow(
    expect.objectContaining({ code: 'CONFIG_INVALID' }),
  );
  await scheduler.start();
  expect(() => scheduler.add({ name: 'c', schedule: 'daily', run })).toThrow(expect.objectContaining({ code: 'STATE_INVALID' }));
  await expect(scheduler.start()).rejects.toMatchObject({ code: 'STATE_INVALID' });
  expect(() => scheduler.pause('z')).toThrow(expect.objectContaining({ code: 'NOT_FOUND' }));
  await scheduler.close();
});
