/** Jobs that run by a schedule: a producer of calls. */

import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { encodeAbi, requireCount } from '../job/abi.ts';
import { Metadata, toJobId } from '../job/call.ts';
import type { JobCall, JobIdLike } from '../job/call.ts';
import type { JobInfo } from '../job/job.ts';
import { parseParameters } from '../job/solidity.ts';
import type { Schedule } from '../schedule/schedule.ts';
import { Scheduler } from '../schedule/scheduler.ts';
import type { Firing, LastRunStore, OverlapPolicy, RunRecord, ScheduledTask, TaskStatus } from '../schedule/scheduler.ts';
import type { Producer } from './parts.ts';

/** Metadata names of a call that a schedule made. */
export const SCHEDULED = {
  /** The name of the schedule. */
  name: 'x-blueprint-schedule',
  /** When it was to run, ISO 8601. */
  at: 'x-blueprint-scheduled-at',
} as const;

export interface ScheduledJob {
  /** Unique; part of the ids of its calls. */
  readonly name: string;
  readonly jobId: JobIdLike;
  readonly schedule: Schedule | string;
  /** Of every call, in the order of the job's parameters. */
  readonly args?: readonly unknown[];
  /** The encoded arguments instead. */
  readonly body?: Uint8Array;
  readonly overlap?: OverlapPolicy;
  readonly catchUpMax?: number;
  /** Then the next may begin, whatever became of this one. Default one hour. */
  readonly timeoutMs?: number;
}

export interface ScheduledJobsOptions {
  readonly jobs: readonly ScheduledJob[];
  /** Tells which arguments the jobs take: the router of the runner. */
  readonly router: { definition(jobId: JobIdLike): JobInfo | undefined };
  readonly clock?: Clock;
  /** Remembers over restarts what ran; without it nothing is made up for. */
  readonly store?: LastRunStore;
  /** Of the producer. Default `schedule`. */
  readonly name?: string;
  readonly onRecord?: (record: RunRecord) => void;
  readonly onError?: (error: RunnerError, name: string) => void;
}

/** What `scheduledJobs` makes. */
export interface ScheduleProducer extends Producer {
  /** Empty while the runner does not run. */
  status(): TaskStatus[];
  /** One job, or all. Throws `NOT_FOUND`, `STATE_INVALID` while the runner does not run. */
  pause(name?: string): void;
  resume(name?: string): void;
  history(name: string): readonly RunRecord[];
}

/**
 * A producer that calls jobs by their schedules.
 *
 * The id of a call is made of name and time, so that a runner with a ledger runs each firing once, also one that is made up for after a crash.
 * A firing counts as seen to when its call is journaled, or without a ledger when the runner has taken it. Periods that are counted from the end
 * of a run, and `overlap`, go by when the call was executed or failed.
 *
 * Throws `CONFIG_INVALID` for a job that takes arguments and gets none, that is unknown to the router and gets no body, or whose name is taken;
 * `JOB_ARGS_INVALID`, `JOB_ID_INVALID`, `SCHEDULE_INVALID`.
 *
 * @example
 * builder.router(router).producer(scheduledJobs({ router, jobs: [{ name: 'report', jobId: 3, schedule: 'Mon-Fri 09:00 Europe/Berlin' }] }));
 */
export function scheduledJobs(options: ScheduledJobsOptions): ScheduleProducer {
  return new ScheduledJobs(options);
}

class ScheduledJobs implements ScheduleProducer {
  readonly name: string;
  readonly #options: ScheduledJobsOptions;
  readonly #bodies = new Map<string, Uint8Array>();
  /** Calls whose end is awaited, by id. */
  readonly #open = new Map<string, () => void>();
  readonly #waiting: { readonly call: JobCall; readonly firing: Firing }[] = [];
  #wake: (() => void) | undefined;
  #scheduler: Scheduler | undefined;

  constructor(options: ScheduledJobsOptions) {
    this.name = options.name ?? 'schedule';
    this.#options = options;
    for (const job of options.jobs) this.#bodies.set(job.name, bodyOf(job, options.router.definition(job.jobId)));
    this.#newScheduler();
  }

  status(): TaskStatus[] {
    return this.#scheduler?.status() ?? [];
  }

  pause(name?: string): void {
    this.#running().pause(name);
  }

  resume(name?: string): void {
    this.#running().resume(name);
  }

  history(name: string): readonly RunRecord[] {
    return this.#running().history(name);
  }

  ended({ id }: JobCall): void {
    this.#open.get(id)?.();
  }

  async *calls(signal: AbortSignal): AsyncGenerator<readonly JobCall[], void, undefined> {
    const scheduler = this.#newScheduler();
    this.#scheduler = scheduler;
    const stop = (): void => this.#wake?.();
    signal.addEventListener('abort', stop);
    try {
      await scheduler.start();
      while (!signal.aborted) {
        const taken = this.#waiting.splice(0);
        if (taken.length > 0) {
          yield taken.map(({ call }) => call);
          await Promise.all(taken.map(({ firing }) => firing.acknowledge()));
        } else await new Promise<void>((resolve) => (this.#wake = resolve));
      }
    } finally {
      signal.removeEventListener('abort', stop);
      this.#scheduler = undefined;
      this.#waiting.length = 0;
      await scheduler.close({ drainMs: 0 });
      this.#open.clear();
    }
  }

  #newScheduler(): Scheduler {
    const { jobs, clock = systemClock, store, onRecord, onError } = this.#options;
    const scheduler = new Scheduler({ clock, ...(store && { store }), ...(onRecord && { onRecord }), ...(onError && { onError }) });
    for (const job of jobs) scheduler.add(this.#task(job));
    return scheduler;
  }

  #task({ name, schedule, jobId, overlap, catchUpMax, timeoutMs }: ScheduledJob): ScheduledTask {
    const id = toJobId(jobId);
    return {
      name,
      schedule,
      ...(overlap && { overlap }),
      ...(catchUpMax !== undefined && { catchUpMax }),
      ...(timeoutMs !== undefined && { timeoutMs }),
      run: (firing, signal) => this.#call(id, firing, signal),
    };
  }

  /** Resolves when the call has ended. */
  #call(jobId: bigint, firing: Firing, signal: AbortSignal): Promise<void> {
    const at = new Date(firing.scheduledMs).toISOString();
    const fraction = firing.scheduledMs % 1;
    const id = `schedule:${firing.name}:${at}${fraction === 0 ? '' : `+${Math.round(fraction * 1_000)}us`}`;
    const metadata = new Metadata([
      [SCHEDULED.name, firing.name],
      [SCHEDULED.at, at],
    ]);
    const body = this.#bodies.get(firing.name) ?? new Uint8Array();
    return new Promise((resolve) => {
      const end = (): void => {
        this.#open.delete(id);
        resolve();
      };
      this.#open.set(id, end);
      signal.addEventListener('abort', end, { once: true });
      this.#waiting.push({ call: { id, jobId, body, metadata }, firing });
      this.#wake?.();
    });
  }

  #running(): Scheduler {
    if (this.#scheduler) return this.#scheduler;
    throw new RunnerError('STATE_INVALID', `the producer ${this.name} does not run`);
  }
}

function bodyOf({ name, jobId, args, body }: ScheduledJob, info: JobInfo | undefined): Uint8Array {
  const details = { schedule: name, jobId: String(jobId) };
  if (body && args)
    throw new RunnerError('CONFIG_INVALID', `the schedule ${name} has args and a body; it must be one of them`, { details });
  if (body) return body;
  if (!info) {
    const message = `the schedule ${name} calls job ${String(jobId)}, which the router does not know; give the body of its calls`;
    throw new RunnerError('CONFIG_INVALID', message, { details });
  }
  if (args) {
    if (info.raw)
      throw new RunnerError('CONFIG_INVALID', `job ${info.name} of the schedule ${name} is raw: it takes a body, no arguments`, {
        details,
      });
    return encoded(args, { name, info });
  }
  if (info.params === '') return new Uint8Array();
  const message = `job ${info.name} takes (${info.params}), and a schedule has nobody to ask: give the schedule ${name} args, or schedule a job without inputs`;
  throw new RunnerError('CONFIG_INVALID', message, { details: { ...details, params: info.params } });
}

function encoded(args: readonly unknown[], { name, info }: { readonly name: string; readonly info: JobInfo }): Uint8Array {
  try {
    const parameters = parseParameters(info.params);
    requireCount(parameters, args);
    return encodeAbi(parameters, args);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RunnerError('JOB_ARGS_INVALID', `the arguments of the schedule ${name} are not (${info.params}): ${reason}`, { cause });
  }
}
