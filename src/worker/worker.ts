/** A worker: claims jobs from a queue, has them run, reports what became of them. */

import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { ClaimedJob, WorkQueue } from '../queue/queue.ts';
import { CLAIM_MAX } from '../queue/requests.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { backoffMs } from './backoff.ts';
import { RunningJob } from './running-job.ts';
import type { EndedJob, JobHandler, JobOutcome } from './running-job.ts';
import { WorkerMetrics } from './worker-metrics.ts';
import type { WorkerFigures } from './worker-metrics.ts';

export type WorkerState = 'created' | 'connecting' | 'ready' | 'draining' | 'stopped';

export type WorkerEvent =
  | { readonly kind: 'ready' | 'disconnected' | 'draining'; readonly at: number; readonly reason?: string }
  /** Never after `draining`. */
  | { readonly kind: 'claimed'; readonly at: number; readonly jobId: string; readonly attempt: number }
  | {
      /**
       * - `ended`: once for each job that was `claimed`
       * - `returned`: of a job that came after `draining`, in answer to a claim from before; it is given back, not `claimed` and never begun
       */
      readonly kind: 'ended' | 'returned';
      readonly at: number;
      readonly jobId: string;
      readonly outcome: JobOutcome;
      readonly durationMs: number;
      /** Of its error, when it has no result. */
      readonly code?: ErrorCode;
    };

export interface WorkerOptions {
  readonly queue: WorkQueue;
  readonly workerId: string;
  readonly handler: JobHandler;
  /** Jobs whose code runs at the same time. Default 4. */
  readonly concurrency?: number;
  /** What this worker has; it gets jobs that require these or fewer. Default: none. */
  readonly capabilities?: readonly string[];
  /** Extended at a third of it. Default 30,000. */
  readonly leaseMs?: number;
  /** Claims no more than so many jobs in its life. Default: no limit. */
  readonly jobsMax?: number;
  /** How long one claim waits for a job. Default 20,000. */
  readonly waitMs?: number;
  /** How long it is tried to deliver what became of a job. Default 600,000. */
  readonly deliverMs?: number;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  /** In [0, 1), for pauses between attempts to reach the queue. */
  readonly random?: () => number;
  /** Must not throw. */
  readonly onEvent?: (event: WorkerEvent) => void;
}

export interface DrainReport {
  /** Ended by themselves after the drain began. */
  readonly finished: number;
  /** Given back to the queue. */
  readonly released: number;
  /** Failed, because they may run once only and there was no time to finish them. */
  readonly broken: number;
}

/** What a job that was told to end gets to do so. */
const ABANDON_MS = 5_000;
/** The queue will not let this worker in, however often it asks. */
const FATAL: ReadonlySet<ErrorCode> = new Set([
  'CONFIG_INVALID',
  'REQUEST_INVALID',
  'UNAUTHORIZED',
  'FORBIDDEN',
  'TICKET_MALFORMED',
  'TICKET_EXPIRED',
  'TICKET_NOT_YET_VALID',
  'TICKET_FOREIGN',
  'TICKET_REVOKED',
  'TICKET_BOUND',
  'IDENTITY_UNPROVEN',
]);

/**
 * Works until it is drained. A queue that cannot be reached is asked again, with growing pauses; jobs that run meanwhile go on, and what
 * became of them is kept and delivered when it is back.
 *
 * @example
 * const worker = new Worker({ queue, workerId: 'w1', handler });
 * worker.start();
 * process.once('SIGTERM', () => void worker.drain(30_000));
 * await worker.ended;
 */
export class Worker {
  readonly #options: WorkerOptions;
  readonly #clock: Clock;
  readonly #concurrency: number;
  readonly #metrics: WorkerMetrics;
  readonly #handler: JobHandler;
  readonly #running = new Set<RunningJob>();
  /** Of them, those whose code has ended. */
  #reporting = 0;
  #taken = 0;
  readonly #stop = new AbortController();
  readonly #ended = Promise.withResolvers<void>();
  #state: WorkerState = 'created';
  #claiming: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #draining: Promise<DrainReport> | undefined;
  #fatal: RunnerError | undefined;
  readonly #drained = { finished: 0, released: 0, broken: 0 };

  /** Throws `CONFIG_INVALID`. Does no I/O. */
  constructor(options: WorkerOptions) {
    const { concurrency = 4, clock = systemClock, telemetry = silentTelemetry } = options;
    if (!Number.isInteger(concurrency) || concurrency < 1 || concurrency > CLAIM_MAX)
      throw new RunnerError('CONFIG_INVALID', `a worker has a concurrency from 1 to ${CLAIM_MAX}, not ${concurrency}`);
    this.#options = options;
    this.#clock = clock;
    this.#concurrency = concurrency;
    this.#metrics = new WorkerMetrics(telemetry.metrics, concurrency);
    this.#handler = this.#metrics.measured(options.handler, clock);
    // Who does not wait for it learns of it from the state.
    this.#ended.promise.catch(() => {});
  }

  get state(): WorkerState {
    return this.#state;
  }

  get running(): number {
    return this.#running.size;
  }

  /** Since it was made. */
  get figures(): WorkerFigures {
    return this.#metrics.figures;
  }

  /** Resolves when it was drained; rejects with what ended it when the queue does not let it in. */
  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  start(): void {
    if (this.#state !== 'created') throw new RunnerError('STATE_INVALID', 'the worker was started');
    this.#state = 'connecting';
    this.#claiming = this.#claimAll();
  }

  /**
   * Claims no more at once; jobs whose code was not reached yet go back to the queue, the others may end within `deadlineMs`, then they go
   * back too. Idempotent.
   */
  drain(deadlineMs: number): Promise<DrainReport> {
    return (this.#draining ??= this.#drain(deadlineMs));
  }

  async #drain(deadlineMs: number): Promise<DrainReport> {
    const isWorking = this.#state !== 'created';
    this.#state = 'draining';
    this.#tell({ kind: 'draining', at: this.#clock.now() });
    this.#stop.abort();
    this.#wake?.();
    for (const running of this.#running) if (!running.isStarted) running.abandon();
    if (isWorking) await this.#untilIdle(deadlineMs);
    for (const running of this.#running) running.abandon();
    if (isWorking) await this.#untilIdle(ABANDON_MS);
    this.#state = 'stopped';
    if (this.#fatal) this.#ended.reject(this.#fatal);
    else this.#ended.resolve();
    return { ...this.#drained };
  }

  /** Resolves when nothing is claimed and nothing runs, or the time is over. */
  async #untilIdle(waitMs: number): Promise<void> {
    const over = new AbortController();
    const idle = (async () => {
      await this.#claiming;
      while (this.#running.size > 0 && !over.signal.aborted) await this.#change();
    })();
    await Promise.race([idle, this.#clock.sleep(waitMs, over.signal).catch(() => {})]);
    over.abort();
    this.#wake?.();
  }

  async #claimAll(): Promise<void> {
    const { signal } = this.#stop;
    for (let failures = 0; !signal.aborted;) {
      const free = this.#free();
      if (free <= 0) {
        await this.#change();
        continue;
      }
      try {
        const [askedAt, claimingSince] = [this.#clock.monotonic(), this.#clock.now()];
        const jobs = await this.#claim(free);
        if (jobs.length > 0) this.#metrics.claimTook(this.#clock.monotonic() - askedAt);
        failures = 0;
        this.#connected();
        for (const job of jobs) this.#take(job, claimingSince);
      } catch (thrown) {
        if (signal.aborted) return;
        const error = toRunnerError(thrown);
        if (FATAL.has(error.code)) return this.#refused(error);
        this.#disconnected(error);
        await this.#clock.sleep(backoffMs(failures, this.#options.random ?? Math.random), signal).catch(() => {});
        failures += 1;
      }
    }
  }

  /**
   * Of a job whose code has ended the place is free: the next claim goes with its report. As many reports as jobs may wait for a queue that does
   * not take them.
   */
  #free(): number {
    const { size } = this.#running;
    const { jobsMax = Number.POSITIVE_INFINITY } = this.#options;
    return Math.min(this.#concurrency - (size - this.#reporting), 2 * this.#concurrency - size, jobsMax - this.#taken);
  }

  #claim(free: number): Promise<ClaimedJob[]> {
    const { queue, workerId, capabilities = [], leaseMs = 30_000, waitMs = 20_000 } = this.#options;
    return queue.claim({
      workerId,
      capabilities,
      leaseMs,
      // Whether the queue is there is to be known at once.
      waitMs: this.#state === 'ready' ? waitMs : 0,
      max: free,
      signal: this.#stop.signal,
    });
  }

  /** Resolves at the next end of a job, or of the worker. */
  #change(): Promise<void> {
    return new Promise((resolve) => {
      const before = this.#wake;
      this.#wake = () => {
        this.#wake = undefined;
        before?.();
        resolve();
      };
    });
  }

  #take(job: ClaimedJob, claimingSince: number): void {
    const { queue, leaseMs = 30_000, deliverMs = 600_000, telemetry = silentTelemetry, random = Math.random } = this.#options;
    const running = new RunningJob(job, {
      queue,
      handler: this.#handler,
      leaseMs,
      deliverMs,
      clock: this.#clock,
      log: telemetry.log,
      startSpan: telemetry.startSpan,
      claimingSince,
      random,
      onReport: () => {
        this.#reporting += 1;
        this.#wake?.();
      },
    });
    this.#running.add(running);
    this.#taken += 1;
    this.#metrics.claimed(this.#running.size);
    const isLate = this.#stop.signal.aborted;
    if (isLate) running.abandon();
    else this.#tell({ kind: 'claimed', at: this.#clock.now(), jobId: job.id, attempt: job.attempt });
    const startedAt = this.#clock.monotonic();
    const kind = isLate ? 'returned' : 'ended';
    void running.run().then((ended) => {
      const durationMs = this.#clock.monotonic() - startedAt;
      const { outcome, error } = ended;
      this.#over(running, ended, durationMs);
      this.#tell({ kind, at: this.#clock.now(), jobId: job.id, outcome, durationMs, ...(error && { code: error.code }) });
      this.#wake?.();
    });
  }

  #over(running: RunningJob, { outcome, error }: EndedJob, durationMs: number): void {
    this.#running.delete(running);
    if (running.isReporting) this.#reporting -= 1;
    this.#metrics.ended(outcome, { running: this.#running.size, durationMs });
    if (this.#state === 'draining') {
      if (outcome === 'released') this.#drained.released += 1;
      else if (error?.code === 'WORKER_LOST') this.#drained.broken += 1;
      else this.#drained.finished += 1;
    }
  }

  #connected(): void {
    if (this.#state !== 'connecting') return;
    this.#state = 'ready';
    this.#metrics.connected(true);
    this.#tell({ kind: 'ready', at: this.#clock.now() });
  }

  #disconnected({ code, message }: RunnerError): void {
    if (this.#state !== 'ready') return;
    this.#state = 'connecting';
    this.#metrics.connected(false);
    this.#options.telemetry?.log.warn('the queue cannot be reached', { code, error: message });
    this.#tell({ kind: 'disconnected', at: this.#clock.now(), reason: `${code}: ${message}` });
  }

  /** Jobs that run may end, but nothing of them can be delivered. */
  #refused(error: RunnerError): void {
    this.#fatal = error;
    this.#options.telemetry?.log.error('the queue does not let this worker in', { code: error.code, error: error.message });
    // Not from within: the drain waits for the claims.
    queueMicrotask(() => void this.drain(0));
  }

  #tell(event: WorkerEvent): void {
    this.#options.onEvent?.(event);
  }
}
