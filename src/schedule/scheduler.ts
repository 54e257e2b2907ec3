/** Runs tasks by their schedules in this process. */

import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import { delayOf, firingTimes } from './firing-times.ts';
import type { DueFiring, FiringTimes } from './firing-times.ts';
import { parseSchedule } from './schedule.ts';
import type { Schedule } from './schedule.ts';

/** One time at which a task is to run. */
export interface Firing {
  readonly name: string;
  /** When the schedule says, milliseconds since the epoch. Name and time together are the same over restarts for a Calendar. */
  readonly scheduledMs: number;
  /** It was missed, and is made up for. */
  readonly isCatchUp: boolean;
  /** Firings before it that were missed and are not made up for, at most 1,000. */
  readonly missed: number;
  /** From now on it is not made up for when the process ends. Without, that is so when the run has ended. */
  readonly acknowledge: () => Promise<void>;
}

/** What happens to a firing while the run before it goes on. */
export type OverlapPolicy = 'skip' | 'queue' | 'allow';

export interface ScheduledTask {
  /** Unique within the scheduler. */
  readonly name: string;
  readonly schedule: Schedule | string;
  /** Throws or rejects when it failed; that changes nothing for the next. */
  readonly run: (firing: Firing, signal: AbortSignal) => void | Promise<void>;
  /** Default `skip`. */
  readonly overlap?: OverlapPolicy;
  /** So many firings that were missed are made up for, the latest ones. Default 1; nothing when the Calendar is not persistent. */
  readonly catchUpMax?: number;
  /** Then the signal fires and the run is over. Default one hour. */
  readonly timeoutMs?: number;
}

export type RunOutcome = 'running' | 'succeeded' | 'failed' | 'timed-out' | 'cancelled' | 'skipped' | 'missed';

export interface RunRecord {
  readonly name: string;
  readonly scheduledMs: number;
  /** Absent when it never started. */
  readonly startedMs?: number;
  readonly finishedMs?: number;
  readonly outcome: RunOutcome;
  /** Of `missed`: how many in a row, at most 1,000. */
  readonly count?: number;
  readonly error?: string;
}

/** Remembers until when the firings of a Calendar were seen to, over restarts. */
export interface LastRunStore {
  readonly get: (name: string) => number | undefined | Promise<number | undefined>;
  readonly set: (name: string, scheduledMs: number) => void | Promise<void>;
}

export interface SchedulerOptions {
  readonly clock: Clock;
  /** Without it nothing is made up for that was missed before `start`. */
  readonly store?: LastRunStore;
  /** Records kept of each task. Default 100. */
  readonly historyMax?: number;
  /** Hears of every record, when it is made and when it ends. */
  readonly onRecord?: (record: RunRecord) => void;
  /** Hears what the store and `onRecord` throw. */
  readonly onError?: (error: RunnerError, name: string) => void;
}

export interface TaskStatus {
  readonly name: string;
  readonly schedule: Schedule;
  readonly paused: boolean;
  readonly running: number;
  readonly queued: number;
  /** Undefined: never again, paused, or not known before the run ends. */
  readonly nextMs: number | undefined;
}

interface Run {
  readonly scheduledMs: number;
  readonly controller: AbortController;
  ended: Promise<void>;
  isAcknowledged: boolean;
}

interface Task extends Required<Omit<ScheduledTask, 'schedule'>> {
  readonly schedule: Schedule;
  readonly times: FiringTimes;
  readonly running: Set<Run>;
  readonly queue: DueFiring[];
  readonly history: RunRecord[];
  isPaused: boolean;
  /** The latest firing that was looked at. */
  seenMs: number;
  /** The first firing that was cut off: the store is told of nothing from there on. */
  cutMs: number;
  cancelTimer: CancelTimer | undefined;
}

/** Wall clocks are set and machines sleep: nobody waits longer without looking at the clock. */
const LOOK_EVERY_MS = 30_000;
const TIMEOUT_MS = 3_600_000;
const OVERLAPS: readonly OverlapPolicy[] = ['skip', 'queue', 'allow'];
const QUEUE_MAX = 1_000;
const CONCURRENCY_MAX = 100;
const CATCH_UP_MAX = 1_000;
const DRAIN_MS = 30_000;

/**
 * Runs tasks by their schedules.
 *
 * A Calendar follows the wall clock, a Periodic the monotonic one; neither drifts. What was missed while the process did not run, the machine
 * slept or the clock was set forward is made up for, once unless the task says more; when the clock is set back by less than a day, nothing
 * runs twice. The randomised delay is a fixed part of each name's own. A run counts for the store when it has ended: one that a crash cut off
 * is made up for, so that a persistent task runs at least once.
 *
 * @example
 * const scheduler = new Scheduler({ clock: systemClock });
 * scheduler.add({ name: 'report', schedule: 'Mon-Fri 09:00 Europe/Berlin', run: (_firing, signal) => report(signal) });
 * await scheduler.start();
 */
export class Scheduler {
  readonly #options: SchedulerOptions;
  readonly #tasks = new Map<string, Task>();
  #state: 'created' | 'running' | 'closed' = 'created';
  #closing: Promise<void> | undefined;

  constructor(options: SchedulerOptions) {
    this.#options = options;
  }

  /** Throws `SCHEDULE_INVALID`, `CONFIG_INVALID` (the name is taken), `STATE_INVALID` (started already). */
  add(task: ScheduledTask): this {
    if (this.#state !== 'created') throw new RunnerError('STATE_INVALID', 'tasks are added before the scheduler is started');
    const { name, catchUpMax = 1, overlap = 'skip', timeoutMs = TIMEOUT_MS } = task;
    if (this.#tasks.has(name)) throw new RunnerError('CONFIG_INVALID', `there is a task ${name} already`, { details: { name } });
    if (!(catchUpMax >= 0 && catchUpMax <= CATCH_UP_MAX))
      throw new RunnerError('CONFIG_INVALID', `catchUpMax of ${name} is ${catchUpMax}; it must be between 0 and ${CATCH_UP_MAX}`);
    if (!OVERLAPS.includes(overlap))
      throw new RunnerError('CONFIG_INVALID', `overlap of ${name} is ${String(overlap)}; it must be ${OVERLAPS.join(', ')}`);
    if (!(timeoutMs > 0)) throw new RunnerError('CONFIG_INVALID', `timeoutMs of ${name} is ${timeoutMs}; it must be above 0`);
    const schedule = parseSchedule(task.schedule);
    this.#tasks.set(name, {
      ...task,
      overlap,
      timeoutMs,
      schedule,
      catchUpMax,
      times: firingTimes(schedule, { name, catchUpMax, clock: this.#options.clock }),
      running: new Set(),
      queue: [],
      history: [],
      isPaused: false,
      seenMs: -Infinity,
      cutMs: Infinity,
      cancelTimer: undefined,
    });
    return this;
  }

  /** Rejects with what the store throws. */
  async start(): Promise<void> {
    if (this.#state !== 'created') throw new RunnerError('STATE_INVALID', `a ${this.#state} scheduler cannot be started`);
    this.#state = 'running';
    const { store, clock } = this.#options;
    for (const task of this.#tasks.values()) {
      const isKept = store !== undefined && task.schedule.kind === 'calendar';
      const lastMs = isKept ? await store.get(task.name) : undefined;
      if (isKept && lastMs === undefined) await store.set(task.name, clock.now() - delayOf(task.name, task.schedule));
      task.times.begin(lastMs);
    }
    for (const task of this.#tasks.values()) this.#look(task);
  }

  /** One task, or all. What fires meanwhile is neither run nor made up for; runs go on. */
  pause(name?: string): void {
    for (const task of this.#named(name)) {
      task.isPaused = true;
      task.cancelTimer?.();
      task.queue.length = 0;
    }
  }

  resume(name?: string): void {
    for (const task of this.#named(name)) {
      if (!task.isPaused) continue;
      task.isPaused = false;
      void this.#skip(task);
      this.#look(task);
    }
  }

  status(): TaskStatus[] {
    return [...this.#tasks.values()].map(({ name, schedule, isPaused, running, queue, times }) => ({
      name,
      schedule,
      paused: isPaused,
      running: running.size,
      queued: queue.length,
      nextMs: isPaused || this.#state !== 'running' ? undefined : times.nextMs(),
    }));
  }

  /** Oldest first. Throws `NOT_FOUND`. */
  history(name: string): readonly RunRecord[] {
    const [task] = this.#named(name);
    return [...(task?.history ?? [])];
  }

  /** Nothing starts any more; waits for what runs, and cancels it after `drainMs` (default 30 s). Idempotent. */
  close(options: { readonly drainMs?: number } = {}): Promise<void> {
    this.#state = 'closed';
    this.#closing ??= this.#drain(options.drainMs ?? DRAIN_MS);
    return this.#closing;
  }

  async #drain(drainMs: number): Promise<void> {
    for (const task of this.#tasks.values()) {
      task.cancelTimer?.();
      task.queue.length = 0;
      if (task.isPaused) await this.#skip(task);
    }
    const runs = [...this.#tasks.values()].flatMap((task) => [...task.running]);
    const cancelAll = (): void => runs.forEach(({ controller }) => controller.abort(CANCELLED));
    const cancelTimer = this.#options.clock.after(drainMs, cancelAll);
    if (drainMs === 0) cancelAll();
    await Promise.all(runs.map(({ ended }) => ended));
    cancelTimer();
  }

  #named(name: string | undefined): Task[] {
    if (name === undefined) return [...this.#tasks.values()];
    const task = this.#tasks.get(name);
    if (!task) throw new RunnerError('NOT_FOUND', `there is no task ${name}`, { details: { name } });
    return [task];
  }

  /** What fired in a pause is not made up for after a restart either. */
  #skip(task: Task): Promise<void> {
    task.seenMs = Math.max(task.seenMs, task.times.skipToNow());
    return this.#tell(task);
  }

  /** Starts what is due, and looks again when the next is. */
  #look(task: Task): void {
    if (this.#state !== 'running' || task.isPaused) return;
    task.cancelTimer?.();
    const { due, missed } = task.times.due();
    if (missed && missed.count > 0) {
      this.#record(task, { name: task.name, scheduledMs: missed.lastMs, outcome: 'missed', count: missed.count });
      task.seenMs = Math.max(task.seenMs, missed.lastMs);
    }
    // Several at once are made up for: one firing for the policy, and they run one after the other.
    let isTaken = false;
    for (const firing of due) {
      task.seenMs = Math.max(task.seenMs, firing.scheduledMs);
      if (isTaken) task.queue.push(firing);
      else isTaken = this.#fire(task, firing);
    }
    if (missed && due.length === 0) void this.#tell(task);
    const delayMs = task.times.delayMs();
    if (delayMs !== undefined) task.cancelTimer = this.#options.clock.after(Math.min(delayMs, LOOK_EVERY_MS), () => this.#look(task));
  }

  #fire(task: Task, firing: DueFiring): boolean {
    const { running, queue, overlap, name } = task;
    if (running.size === 0 || (overlap === 'allow' && running.size < CONCURRENCY_MAX)) {
      this.#run(task, firing);
      return true;
    }
    if (overlap === 'queue' && queue.length < QUEUE_MAX) {
      queue.push(firing);
      return true;
    }
    this.#record(task, { name, scheduledMs: firing.scheduledMs, outcome: 'skipped' });
    return false;
  }

  #run(task: Task, firing: DueFiring): void {
    const { scheduledMs } = firing;
    const run: Run = { scheduledMs, controller: new AbortController(), ended: Promise.resolve(), isAcknowledged: false };
    task.running.add(run);
    task.times.started();
    run.ended = this.#attempt(task, firing, run);
  }

  async #attempt(task: Task, firing: DueFiring, run: Run): Promise<void> {
    const { clock } = this.#options;
    const { name } = task;
    const { controller } = run;
    const acknowledge = (): Promise<void> => {
      run.isAcknowledged = true;
      return this.#tell(task);
    };
    const record = { name, scheduledMs: firing.scheduledMs, startedMs: clock.now() };
    const place = this.#record(task, { ...record, outcome: 'running' });
    const cancelTimeout = clock.after(task.timeoutMs, () => controller.abort(TIMED_OUT));
    const ended = await ending(() => task.run({ ...firing, name, acknowledge }, controller.signal), controller.signal);
    cancelTimeout();
    task.running.delete(run);
    task.times.finished();
    this.#replace(task, place, { ...record, finishedMs: clock.now(), ...ended });
    if (ended.outcome === 'cancelled' && !run.isAcknowledged) task.cutMs = Math.min(task.cutMs, firing.scheduledMs);
    await this.#tell(task);
    const next = this.#state === 'running' && task.running.size === 0 ? task.queue.shift() : undefined;
    if (next) this.#run(task, next);
    else this.#look(task);
  }

  /** Tells the store until when everything is seen to; it never goes back. */
  async #tell(task: Task): Promise<void> {
    const { store, onError } = this.#options;
    if (!store || task.schedule.kind !== 'calendar') return;
    const open = [...[...task.running].filter(({ isAcknowledged }) => !isAcknowledged), ...task.queue].map(
      ({ scheduledMs }) => scheduledMs,
    );
    const untilMs = Math.min(task.seenMs, ...[...open, task.cutMs].map((scheduledMs) => scheduledMs - 1));
    if (!task.times.remember(untilMs)) return;
    try {
      await store.set(task.name, untilMs);
    } catch (error) {
      onError?.(toRunnerError(error), task.name);
    }
  }

  #record({ history }: Task, record: RunRecord): RunRecord {
    history.push(record);
    if (history.length > (this.#options.historyMax ?? 100)) history.shift();
    this.#notify(record);
    return record;
  }

  #replace({ history }: Task, place: RunRecord, record: RunRecord): void {
    const index = history.indexOf(place);
    if (index >= 0) history[index] = record;
    this.#notify(record);
  }

  #notify(record: RunRecord): void {
    const { onRecord, onError } = this.#options;
    try {
      onRecord?.(record);
    } catch (error) {
      onError?.(toRunnerError(error), record.name);
    }
  }
}

const TIMED_OUT = 'timed-out';
const CANCELLED = 'cancelled';

/** How a run ends. One that does not heed its signal is over all the same. */
async function ending(run: () => void | Promise<void>, signal: AbortSignal): Promise<Pick<RunRecord, 'outcome' | 'error'>> {
  const interrupted = new Promise<never>((_, reject) => {
    signal.addEventListener('abort', () => reject(new RunnerError('ABORTED', `the run is ${String(signal.reason)}`)), { once: true });
  });
  try {
    await Promise.race([(async () => run())(), interrupted]);
    return { outcome: 'succeeded' };
  } catch (error) {
    const outcome = !signal.aborted ? 'failed' : signal.reason === TIMED_OUT ? 'timed-out' : 'cancelled';
    return { outcome, error: toRunnerError(error).message };
  }
}
