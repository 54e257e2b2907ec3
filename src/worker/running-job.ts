/** One job on a worker: its lease is extended while it runs, and what became of it is delivered, or given up with the lease. */

import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { ClaimedJob, JobFailure, QueueResult, WorkQueue } from '../queue/queue.ts';
import type { Logger, StartSpan } from '../telemetry/telemetry.ts';
import { backoffMs } from './backoff.ts';
import { JobTrace } from './job-trace.ts';

/** Runs one job. */
export interface JobHandler {
  /**
   * Rejects with an error whose `retry` says whether the job's code was reached: `safe` only when it provably was not. `started` is called
   * before it may be. The signal fires when nobody wants the result any more: it rejects soon, and nothing of the job runs any more then.
   */
  run(job: ClaimedJob, options: { readonly signal: AbortSignal; readonly started: () => void }): Promise<QueueResult>;
}

/**
 * - `completed`, `failed`, `dead`, `requeued`, `released`: as the queue took it
 * - `lost`: the lease was; nothing was reported
 * - `undelivered`: the queue could not be reached, or refused the report
 */
export type JobOutcome = 'completed' | 'failed' | 'dead' | 'requeued' | 'released' | 'lost' | 'undelivered';

export interface EndedJob {
  readonly outcome: JobOutcome;
  /** Why it has no result. */
  readonly error?: RunnerError;
}

export interface RunningJobParts {
  readonly queue: WorkQueue;
  readonly handler: JobHandler;
  readonly leaseMs: number;
  /** The longest that a report is tried to be delivered. */
  readonly deliverMs: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly startSpan?: StartSpan | undefined;
  /** When it was asked for; milliseconds since the epoch. */
  readonly claimingSince: number;
  readonly random: () => number;
  /** Its code has ended: the queue is told of it in the same turn. */
  readonly onReport: () => void;
}

type Report =
  | { readonly kind: 'complete'; readonly result: QueueResult }
  | { readonly kind: 'fail'; readonly failure: JobFailure; readonly error: RunnerError }
  | { readonly kind: 'release'; readonly error: RunnerError; readonly delayMs?: number };

/** When the queue did not answer. */
const EXTEND_AGAIN_MS = 1_000;
/** Nothing took the job: it waits so long at least, twice that at most, and its attempts are not used up by it. */
const UNAVAILABLE_MS = 1_000;
const UNAVAILABLE: ReadonlySet<string> = new Set(['EXECUTOR_UNREACHABLE', 'EXECUTOR_UNAVAILABLE'] satisfies ErrorCode[]);

export class RunningJob {
  readonly job: ClaimedJob;
  readonly #parts: RunningJobParts;
  readonly #stop = new AbortController();
  /** Ends pauses between deliveries. */
  readonly #hurry = new AbortController();
  readonly #trace: JobTrace;
  #extension: CancelTimer | undefined;
  #isStarted = false;
  #isReporting = false;
  #isOver = false;
  #lost: RunnerError | undefined;
  #isAbandoned = false;

  constructor(job: ClaimedJob, parts: RunningJobParts) {
    this.job = job;
    this.#parts = parts;
    this.#trace = new JobTrace(job, parts);
  }

  /** Whether the job's code may have been reached. */
  get isStarted(): boolean {
    return this.#isStarted;
  }

  /** Whether its code has ended, and the queue is being told of it. */
  get isReporting(): boolean {
    return this.#isReporting;
  }

  /** Resolves when it has ended here and its report was delivered, or given up. Never rejects. */
  async run(): Promise<EndedJob> {
    this.#extendIn(this.#parts.leaseMs / 3);
    try {
      const report = await this.#execute();
      this.#trace.begin('report');
      const ended: EndedJob = report ? await this.#deliver(report) : { outcome: 'lost', ...(this.#lost && { error: this.#lost }) };
      this.#trace.end(ended.outcome, ended.error);
      return ended;
    } finally {
      this.#isOver = true;
      this.#extension?.();
    }
  }

  /** There is no time left for it: it ends, and goes back to the queue. */
  abandon(): void {
    if (this.#isAbandoned) return;
    this.#isAbandoned = true;
    this.#stop.abort(new RunnerError('ABORTED', 'the worker stops'));
    this.#hurry.abort();
  }

  async #execute(): Promise<Report | undefined> {
    if (this.#isAbandoned) return { kind: 'release', error: new RunnerError('ABORTED', 'the worker stops', { retry: 'safe' }) };
    this.#trace.begin('fetch');
    try {
      const started = (): void => {
        if (!this.#isStarted) this.#trace.begin('execute');
        this.#isStarted = true;
      };
      const result = await this.#parts.handler.run(this.job, { signal: this.#stop.signal, started });
      return this.#lost ? undefined : { kind: 'complete', result };
    } catch (thrown) {
      const error = toRunnerError(thrown);
      this.#trace.failed(error);
      if (this.#lost) return undefined;
      if (this.#isAbandoned) return this.#reportAbandoned(error);
      if (!UNAVAILABLE.has(error.code) || error.retry !== 'safe') return failureReport(error);
      // The queue is not told why.
      this.#parts.log.warn('a job was given back: nothing took it', { job: this.job.id, code: error.code, error: error.message });
      return { kind: 'release', error, delayMs: Math.round(UNAVAILABLE_MS * (1 + this.#parts.random())) };
    }
  }

  /** The code of a job that may run once only is never begun again when it may have been reached. */
  #reportAbandoned(error: RunnerError): Report {
    const { attemptsMax, id } = this.job;
    if (error.retry === 'safe' || !this.#isStarted || attemptsMax > 1) return { kind: 'release', error };
    return failureReport(new RunnerError('WORKER_LOST', `the worker stopped while job ${id} ran`, { cause: error }));
  }

  async #deliver(first: Report): Promise<EndedJob> {
    const { clock, deliverMs, random, log } = this.#parts;
    const giveUpAt = clock.monotonic() + deliverMs;
    let report = first;
    this.#isReporting = true;
    this.#parts.onReport();
    for (let failures = 0; ; failures += 1) {
      try {
        const outcome = await this.#send(report);
        return { outcome, ...(report.kind !== 'complete' && { error: report.error }) };
      } catch (thrown) {
        const error = toRunnerError(thrown);
        if (error.code === 'LEASE_LOST') return { outcome: 'lost', error };
        if (error.code === 'PAYLOAD_TOO_LARGE' && report.kind === 'complete') {
          report = failureReport(error);
          continue;
        }
        // Nobody but the queue knows whether the lease still lasts: it is asked until it says so.
        const isHopeless = error.retry === 'never' && error.code !== 'INTERNAL';
        if (isHopeless || this.#lost || this.#hurry.signal.aborted || clock.monotonic() >= giveUpAt) {
          log.error('a report could not be delivered', { job: this.job.id, report: report.kind, code: error.code, error: error.message });
          return { outcome: 'undelivered', error };
        }
        await clock.sleep(backoffMs(failures, random), this.#hurry.signal).catch(() => {});
      }
    }
  }

  async #send(report: Report): Promise<JobOutcome> {
    const { queue } = this.#parts;
    const { lease } = this.job;
    switch (report.kind) {
      case 'complete':
        await queue.complete(lease, report.result);
        return 'completed';
      case 'fail': {
        const state = await queue.fail(lease, report.failure);
        return state === 'queued' ? 'requeued' : state;
      }
      case 'release':
        await queue.release(lease, report.delayMs === undefined ? {} : { delayMs: report.delayMs });
        return 'released';
    }
  }

  #extendIn(delayMs: number): void {
    this.#extension = this.#parts.clock.after(delayMs, () => void this.#extend());
  }

  async #extend(): Promise<void> {
    const { queue, leaseMs, log } = this.#parts;
    try {
      await queue.extend(this.job.lease, leaseMs);
      if (!this.#isOver) this.#extendIn(leaseMs / 3);
    } catch (thrown) {
      if (this.#isOver) return;
      const error = toRunnerError(thrown);
      if (error.code !== 'LEASE_LOST') return this.#extendIn(Math.min(leaseMs / 3, EXTEND_AGAIN_MS));
      log.warn('a lease was lost', { job: this.job.id, error: error.message });
      this.#lost = error;
      this.#stop.abort(error);
      this.#hurry.abort();
    }
  }
}

function failureReport(error: RunnerError): Report {
  const { code, message, retry } = error;
  return { kind: 'fail', failure: { code, message: message.slice(0, 4_096), retryable: retry !== 'never' }, error };
}
