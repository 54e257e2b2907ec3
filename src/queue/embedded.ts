/** The queue in one SQLite file (WAL, synchronous FULL, group commit), for one process on one machine. */

import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import { SqliteFile } from '../sqlite-file.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { Claims } from './claims.ts';
import { Counts } from './counts.ts';
import { JobTable } from './job-table.ts';
import type { TableEvents } from './job-table.ts';
import { leaseEnd } from './leases.ts';
import { referredObjects } from './object-use.ts';
import type {
  ClaimOptions,
  ClaimedJob,
  JobFailure,
  Lease,
  NewJob,
  Published,
  Purged,
  QueueJobStatus,
  QueueLimits,
  QueueResult,
  QueueStats,
  WorkQueue,
} from './queue.ts';
import {
  checkAge,
  checkClaim,
  checkDelay,
  checkFailure,
  checkJob,
  checkJobs,
  checkLease,
  checkLeaseMs,
  checkLimit,
  checkResult,
} from './requests.ts';
import { SCHEMA, outcomeOf } from './rows.ts';

/** Rows that one transaction of a purge looks at. */
const PURGE_ROWS = 5_000;
/** After a failed write. */
const RETRY_MS = 1_000;
/** Timers are set anew after this long: longer ones than 2^31 ms would fire at once. */
const TIMER_MS_MAX = 3_600_000;

export interface EmbeddedQueueOptions {
  /** The folder of the queue; it is made. Of one process at a time. `:memory:` for tests: nothing is durable. */
  readonly folder: string;
  /** Jobs that may wait. Default 1,000,000. */
  readonly jobsMax?: number;
  /** Default 1 MiB. */
  readonly contentBytesMax?: number;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  /** Where the disk is waited for: by each commit, or beside the event loop, so that much else can be done meanwhile. Default `commit`. */
  readonly sync?: 'commit' | 'background';
  /** Makes ids of jobs and tokens of leases, which nobody must be able to guess. Default: random UUIDs. */
  readonly makeId?: () => string;
}

interface Waiter {
  readonly resolve: (result: QueueResult) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * A `WorkQueue` in this process. Publications, claims and completions of the same turn of the event loop share one transaction, and a job
 * that is published while somebody waits is claimed in the same transaction.
 *
 * @example
 * const queue = EmbeddedQueue.open({ folder: '/var/lib/bpr/queue' });
 * await queue.publish({ id: 'call-1', type: 'square', payload: Buffer.from('7') });
 * const [job] = await queue.claim({ workerId: 'w1', waitMs: 10_000 });
 * if (job) await queue.complete(job.lease, { body: Buffer.from('49') });
 */
export class EmbeddedQueue implements WorkQueue {
  readonly name = 'embedded';
  readonly limits: QueueLimits;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #file: SqliteFile;
  readonly #table: JobTable;
  readonly #claims: Claims;
  readonly #counts: Counts;
  readonly #results = new Map<string, Set<Waiter>>();
  #closing: Promise<void> | undefined;
  #timer: { readonly at: number; readonly cancel: () => void } | undefined;

  /** Throws `QUEUE_LOCKED`, `QUEUE_CORRUPT`, `QUEUE_VERSION`, `QUEUE_DISK_FULL` or `CONFIG_INVALID`. */
  static open(options: EmbeddedQueueOptions): EmbeddedQueue {
    return new EmbeddedQueue(options);
  }

  private constructor(options: EmbeddedQueueOptions) {
    const { folder, clock = systemClock, telemetry = silentTelemetry, makeId = randomUUID, jobsMax = 1_000_000 } = options;
    this.limits = { contentBytesMax: options.contentBytesMax ?? 1024 * 1024 };
    this.#clock = clock;
    this.#telemetry = telemetry;
    this.#counts = new Counts(telemetry.metrics, clock);
    this.#claims = new Claims(clock);
    this.#file = new SqliteFile({
      path: folder === ':memory:' ? folder : join(folder, 'queue.db'),
      noun: 'queue',
      mark: 'BPRQ',
      version: 1,
      schema: SCHEMA,
      codes: { corrupt: 'QUEUE_CORRUPT', full: 'QUEUE_DISK_FULL', locked: 'QUEUE_LOCKED', version: 'QUEUE_VERSION' },
      remedy: 'publish again what has no result',
      sync: options.sync ?? 'commit',
      hooks: {
        beforeCommit: () => this.#beforeCommit(),
        committed: () => this.#committed(),
        rolledBack: () => this.#rolledBack(),
        failed: (error) => this.#claims.failed(error),
      },
    });
    this.#table = new JobTable({ file: this.#file, makeId, jobsMax, events: this.#events() });
    this.#table.reload(this.#now());
    this.#counts.show(this.#table.tally.byState());
    this.#setTimer();
  }

  async publish(job: NewJob): Promise<Published> {
    const checked = checkJob(job, this.limits);
    return this.#write((now) => this.#table.insert(checked, now));
  }

  async publishMany(jobs: readonly NewJob[]): Promise<Published[]> {
    const checked = checkJobs(jobs, this.limits);
    return this.#write((now) => this.#table.insertMany(checked, now));
  }

  async claim(options: ClaimOptions): Promise<ClaimedJob[]> {
    this.#refuseClosed();
    const request = checkClaim(options);
    if (request.signal?.aborted) throw aborted('the claim was cancelled before it was made', request.signal);
    return this.#claims.add(
      request,
      this.#file.write(() => undefined),
    );
  }

  async extend(lease: Lease, leaseMs?: number): Promise<Lease> {
    this.#refuseClosed();
    const { jobId, token } = checkLease(lease);
    const now = this.#now();
    const held = this.#table.held(lease, now);
    if (isRunnerError(held)) throw held;
    const lengthMs = leaseMs === undefined ? held.leaseMs : checkLeaseMs(leaseMs);
    this.#counts.seen(held.workerId, now);
    const until = leaseEnd(now + lengthMs, held.deadline);
    this.#table.leases.move(held, until);
    this.#setTimer();
    if (lengthMs > held.leaseMs) await this.#write(() => this.#table.lengthen(held, lengthMs));
    return { jobId, token, until };
  }

  async complete(lease: Lease, result: QueueResult): Promise<void> {
    const checked = checkResult(result, this.limits);
    checkLease(lease);
    await this.#write((now) => this.#table.complete(lease, checked, now));
  }

  async fail(lease: Lease, failure: JobFailure): Promise<'queued' | 'failed' | 'dead'> {
    const checked = checkFailure(failure);
    checkLease(lease);
    return this.#write((now) => this.#table.fail(lease, checked, now));
  }

  async release(lease: Lease, { delayMs = 0 }: { readonly delayMs?: number } = {}): Promise<void> {
    checkLease(lease);
    checkDelay(delayMs);
    await this.#write((now) => this.#table.release(lease, delayMs, now));
  }

  /** Who claimed what the token is of, while the lease lasts. */
  holderOf(token: string): string | undefined {
    return this.#table.leases.get(token)?.workerId;
  }

  leasesOf(workerId: string, claimIds: readonly string[]): Lease[] {
    return this.#table.leases.ofClaims(workerId, claimIds).map(({ jobId, token, until }) => ({ jobId, token, until }));
  }

  async status(id: string): Promise<QueueJobStatus | undefined> {
    const row = this.#read(() => this.#table.row(id));
    await this.#file.synced();
    return row && this.#table.status(row);
  }

  async result(id: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<QueueResult> {
    const row = this.#read(() => this.#table.outcome(id));
    if (!row) throw new RunnerError('NOT_FOUND', `the queue has no record of job ${id}`, { details: { jobId: id } });
    const outcome = outcomeOf(row);
    if (outcome) await this.#file.synced();
    if (isRunnerError(outcome)) throw outcome;
    if (outcome) return outcome;
    if (signal?.aborted) throw aborted(`the wait for job ${id} was cancelled`, signal);
    return this.#wait(id, signal);
  }

  cancel(id: string): Promise<boolean> {
    return this.#write((now) => this.#table.cancel(id, now));
  }

  async deadLetters({ after, limit = 100 }: { readonly after?: string; readonly limit?: number } = {}): Promise<QueueJobStatus[]> {
    checkLimit(limit);
    const rows = this.#read(() => {
      const last = after === undefined ? undefined : this.#table.row(after);
      if (after !== undefined && last?.['ended_at'] === undefined)
        throw new RunnerError('NOT_FOUND', `the dead letter has no job ${after}`);
      return this.#table.dead(last, limit);
    });
    await this.#file.synced();
    return rows.map((row) => this.#table.status(row));
  }

  requeue(id: string): Promise<boolean> {
    return this.#write(() => this.#table.requeue(id));
  }

  discard(id: string): Promise<Purged | undefined> {
    return this.#write(() => this.#table.discard(id));
  }

  async purge(olderThanMs: number): Promise<Purged> {
    const before = this.#clock.now() - checkAge(olderThanMs);
    const [first, last] = this.#read(() => this.#table.span());
    let jobs = 0;
    const objects: Purged['objects'][] = [];
    for (let from = first; from <= last; from += PURGE_ROWS) {
      const purged = await this.#write(() => this.#table.purge(from, Math.min(last, from + PURGE_ROWS - 1), before));
      jobs += purged.jobs;
      objects.push(purged.objects);
    }
    if (jobs > 0) this.#file.shrink();
    return { jobs, objects: objects.flat() };
  }

  async referred(): Promise<ReadonlySet<string>> {
    return this.#read(() => referredObjects(this.#file));
  }

  async stats(): Promise<QueueStats> {
    const now = this.#clock.now();
    return this.#read(() => ({
      byState: this.#table.tally.byState(),
      delayed: this.#table.tally.delayed,
      byType: this.#table.tally.types.largest(),
      oldestMs: this.#table.oldestMs(now),
      waiting: this.#claims.size,
      totals: { ...this.#counts.totals },
      rates: this.#counts.rates,
      workers: this.#counts.workers(this.#table.leases.values(), now),
    }));
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#timer?.cancel();
    const closed = queueClosed();
    this.#claims.close(closed);
    const written = this.#file.close();
    for (const waiters of this.#results.values()) for (const { reject } of waiters) reject(closed);
    this.#results.clear();
    await written;
  }

  #write<T>(change: (now: number) => T | RunnerError): Promise<T> {
    return this.#closing ? Promise.reject(queueClosed()) : this.#file.write(() => change(this.#now()));
  }

  #now(): number {
    const now = this.#clock.now();
    this.#table.leases.follow(now, this.#clock.monotonic());
    return now;
  }

  #read<T>(query: () => T): T {
    this.#refuseClosed();
    return this.#file.read(query);
  }

  #refuseClosed(): void {
    if (this.#closing) throw queueClosed();
  }

  #wait(id: string, signal: AbortSignal | undefined): Promise<QueueResult> {
    const { promise, resolve, reject } = Promise.withResolvers<QueueResult>();
    const waiters = this.#results.get(id) ?? new Set();
    this.#results.set(id, waiters);
    const forget = (): void => {
      signal?.removeEventListener('abort', abort);
      waiters.delete(waiter);
      if (waiters.size === 0 && this.#results.get(id) === waiters) this.#results.delete(id);
    };
    const waiter: Waiter = {
      resolve: (result) => (forget(), resolve(result)),
      reject: (error) => (forget(), reject(error)),
    };
    const abort = (): void => waiter.reject(aborted(`the wait for job ${id} was cancelled`, signal));
    signal?.addEventListener('abort', abort, { once: true });
    waiters.add(waiter);
    return promise;
  }

  #beforeCommit(): void {
    const now = this.#now();
    const { first } = this.#table.leases;
    if (this.#table.dueAt <= now || (first && first.until <= now)) this.#table.sweep(now);
    const rows = this.#table.readyRows();
    this.#claims.serve(this.#table.tally, (claim, wanted) => this.#table.take(claim, { rows, wanted, now }));
  }

  #committed(): void {
    this.#table.tell();
    this.#claims.committed();
    this.#counts.show(this.#table.tally.byState());
    this.#setTimer();
  }

  #rolledBack(): void {
    this.#claims.rolledBack();
    this.#table.reload(this.#now());
  }

  #events(): TableEvents {
    const { log } = this.#telemetry;
    return {
      published: (count) => this.#counts.add('published', count),
      claimed: ({ workerId }, jobs, now) => {
        const first = jobs.filter(({ attempt }) => attempt === 1);
        this.#counts.claimed(workerId, now, { jobs: jobs.length, waitedMs: first.map(({ publishedAt }) => now - publishedAt) });
      },
      completed: (lease, now) => this.#counts.completed(lease, now),
      failed: ({ workerId }, now) => this.#counts.failed(workerId, now),
      lost: (lease) => {
        this.#counts.lost(lease.workerId);
        log.warn('a lease ran out', { job: lease.jobId, worker: lease.workerId, attempt: lease.attempt });
      },
      dead: (jobId, attempts) => log.warn('a job went to the dead letter', { job: jobId, attempts }),
      ended: (jobId) => this.#ended(jobId),
    };
  }

  #ended(jobId: string): void {
    const waiters = this.#results.get(jobId);
    if (!waiters) return;
    const row = this.#table.outcome(jobId);
    const outcome = row && outcomeOf(row);
    for (const { resolve, reject } of waiters) {
      if (outcome === undefined) reject(new RunnerError('NOT_FOUND', `the queue has no record of job ${jobId}`));
      else if (isRunnerError(outcome)) reject(outcome);
      else resolve(outcome);
    }
  }

  /** One timer, to whatever is due first. One that is set earlier is left: it finds nothing and sets the next. */
  #setTimer(): void {
    const at = Math.min(this.#table.dueAt, this.#table.leases.first?.until ?? Number.POSITIVE_INFINITY);
    if (this.#closing || at === Number.POSITIVE_INFINITY || (this.#timer && this.#timer.at <= at)) return;
    this.#timer?.cancel();
    const delayMs = Math.min(TIMER_MS_MAX, Math.max(1, at - this.#clock.now()));
    this.#timer = { at, cancel: this.#clock.after(delayMs, () => this.#wake()) };
  }

  /** Whatever is due is done before the commit. */
  #wake(): void {
    this.#timer = undefined;
    if (this.#closing) return;
    this.#file.write(() => undefined).catch((error: unknown) => this.#wakeLater(error));
  }

  /** The disk is full: leases that ran out stay as they are until it can be written. */
  #wakeLater(error: unknown): void {
    this.#telemetry.log.error('the queue cannot be written', { error });
    if (this.#closing) return;
    this.#timer?.cancel();
    this.#timer = { at: this.#clock.now() + RETRY_MS, cancel: this.#clock.after(RETRY_MS, () => this.#wake()) };
  }
}

function queueClosed(): RunnerError {
  return new RunnerError('QUEUE_CLOSED', 'the queue is closed');
}

function aborted(message: string, signal: AbortSignal | undefined): RunnerError {
  return new RunnerError('ABORTED', message, { cause: signal?.reason, retry: 'safe' });
}
