/** The work queue on NATS JetStream, for any number of processes on any number of machines. */

import {
  QueueCounts,
  RunnerError,
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
  isReference,
  isRunnerError,
  leaseLost,
  retryDelayMs,
  sameContent,
} from '../../src/plugin.ts';
import type {
  ClaimOptions,
  ClaimedJob,
  Clock,
  GrantedWorker,
  JobFailure,
  Lease,
  NewJob,
  PluginContext,
  Published,
  Purged,
  QueueGrant,
  QueueJobStatus,
  QueueLimits,
  QueueResult,
  QueueStats,
  RevokedWorker,
  SharedQueue,
  Telemetry,
} from '../../src/plugin.ts';
import { grantFor } from './grants.ts';
import type { Change } from './jobs.ts';
import { keyOf } from './leases.ts';
import { NatsObjects } from './objects.ts';
import type { NatsOptions } from './options.ts';
import { Names, bytesOf, currentRecord, resultOf, statusOf } from './records.ts';
import { revoke } from './revocation.ts';
import { openSession } from './session.ts';
import type { Session } from './session.ts';

/** Until what was sent has been acknowledged. */
const CLOSE_MS = 3_000;

/**
 * A `WorkQueue` on JetStream, connected on first use.
 *
 * Publication, completion and all else that decides are single writes, each on the condition that nobody wrote since: whichever server or
 * process is lost, a job has one result, and what was acknowledged is there (with `replicas: 3` and servers that write to disk before they
 * acknowledge). A first claim of up to `ackWaitMs` is the server's handing out alone; every other claim is written down before it is given.
 *
 * What differs from a queue in one process:
 * - Times are those of the machines: keep their clocks together (NTP). Results are kept once whatever they show.
 * - When a claimer vanishes without a record of its claim, the job comes back after `ackWaitMs`, not after a shorter lease.
 * - A single server (`replicas: 1`) that is killed may forget what it handed out in its last moments: another process may get a job that is
 *   worked on, as the same attempt. With three it does not happen, nor with `recordClaims`, nor for jobs of one attempt.
 * - Jobs that come back at the same time come in the order in which they came back.
 * - It takes as many jobs as the servers have room for: then `publish` is `QUEUE_DISK_FULL`, never `QUEUE_FULL`.
 * - `publishMany` of more than 1,000 is all or none per 1,000, should this process end in the middle.
 * - `totals`, `rates`, `workers` and `waiting` of `stats` are of this process; of a job that another process claimed for the first time `status`
 *   says `claimed` without worker and times, unless `recordClaims` is set. Both read the whole stream: ask for stats in seconds, not milliseconds.
 *
 * @example
 * const queue = new NatsQueue({ servers: 'nats-1:4222', replicas: 3 }, { clock: systemClock, telemetry });
 * await queue.publish({ id: 'call-1', type: 'square', payload: Buffer.from('7') });
 */
export class NatsQueue implements SharedQueue {
  readonly name: string;
  readonly limits: QueueLimits;
  /** For payloads and results that are too large for the queue: see `ClaimCheckQueue`. */
  readonly objects: NatsObjects;
  readonly #options: NatsOptions;
  readonly #names: Names;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #counts: QueueCounts;
  readonly #changes = new Set<Promise<unknown>>();
  #session: Promise<Session> | undefined;
  #counting: Promise<QueueStats> | undefined;
  #opened: Session | undefined;
  #closing: Promise<void> | undefined;

  /** Does no I/O. */
  constructor(options: NatsOptions, { clock, telemetry }: PluginContext) {
    const queue = options.queue ?? 'jobs';
    this.name = `nats:${queue}`;
    this.limits = { contentBytesMax: options.contentBytesMax ?? 768 * 1024 };
    this.#options = options;
    this.#names = new Names(queue);
    this.#clock = clock;
    this.#telemetry = telemetry;
    this.#counts = new QueueCounts(telemetry.metrics, clock);
    this.objects = new NatsObjects({
      name: this.#names.objects,
      connect: () => this.#open(),
      ...(options.objectBytesMax !== undefined && { objectBytesMax: options.objectBytesMax }),
      addsOnly: options.scoped ?? false,
    });
  }

  async publish(job: NewJob): Promise<Published> {
    const checked = checkJob(job, this.limits);
    return this.#change(async ({ publisher }) => {
      const published = await publisher.publish(checked);
      if (!published.duplicate) this.#counts.add('published');
      return published;
    });
  }

  async publishMany(jobs: readonly NewJob[]): Promise<Published[]> {
    const checked = checkJobs(jobs, this.limits);
    return this.#change(async ({ publisher }) => {
      const published = await publisher.publishMany(checked);
      this.#counts.add('published', published.filter(({ duplicate }) => !duplicate).length);
      return published;
    });
  }

  async claim(options: ClaimOptions): Promise<ClaimedJob[]> {
    this.#refuseClosed();
    const request = checkClaim(options);
    if (request.signal?.aborted) throw aborted('the claim was cancelled before it was made', request.signal);
    const { claims } = await this.#open();
    this.#refuseClosed();
    return claims.add(request);
  }

  async extend(lease: Lease, leaseMs?: number): Promise<Lease> {
    const { jobId, token } = checkLease(lease);
    if (leaseMs !== undefined) checkLeaseMs(leaseMs);
    return this.#change(async ({ jobs, client }) => {
      let until = 0;
      const held = await jobs.change(lease, ({ job, attempt, leaseMs: claimedFor }) => {
        until = Math.min(this.#clock.now() + (leaseMs ?? claimedFor), job.deadline ?? Number.POSITIVE_INFINITY);
        return { state: 'claimed', attempts: attempt, until };
      });
      held.until = until;
      jobs.leases.moved(held);
      if (!this.#options.scoped) client.send(held.ack, '+WPI');
      this.#counts.seen(held.workerId, this.#clock.now());
      return { jobId, token, until };
    });
  }

  async complete(lease: Lease, result: QueueResult): Promise<void> {
    const { body, headers } = checkResult(result, this.limits);
    checkLease(lease);
    await this.#change(async ({ jobs, client }) => {
      const reference = isReference(body) ? { resultReference: body } : {};
      const kept = { ...reference, ...(headers && { resultHeaders: headers }) };
      const completed = ({ attempt }: { readonly attempt: number }): Change => ({
        state: 'completed',
        attempts: attempt,
        endedAt: this.#clock.now(),
        ...kept,
      });
      try {
        const held = await jobs.change(lease, completed, bytesOf(body));
        jobs.leases.remove(held.token);
        client.send(held.ack, '+ACK');
        this.#counts.completed(held, this.#clock.now());
      } catch (error) {
        if (!isRunnerError(error) || error.code !== 'LEASE_LOST') throw error;
        const { record } = await jobs.find(lease.jobId);
        const isRepeat =
          record?.meta.state === 'completed' && record.meta.key === keyOf(lease.token) && sameContent(resultOf(record).body, body);
        if (!isRepeat) throw error;
      }
    });
  }

  async fail(lease: Lease, failure: JobFailure): Promise<'queued' | 'failed' | 'dead'> {
    const checked = checkFailure(failure);
    checkLease(lease);
    return this.#change(async ({ jobs }) => {
      let change: Change | undefined;
      const held = await jobs.change(lease, (of) => {
        const { code, message } = checked;
        change = checked.retryable
          ? jobs.afterFailure(of, { ...checked, delayMs: checked.delayMs ?? retryDelayMs(of.attempt) })
          : { state: 'failed', attempts: of.attempt, error: { code, message }, endedAt: this.#clock.now() };
        return change;
      });
      jobs.leases.remove(held.token);
      this.#counts.failed(held.workerId, this.#clock.now());
      if (!change) throw leaseLost(lease, 'nothing was written');
      await jobs.told(held, change);
      return change.state as 'queued' | 'failed' | 'dead'; // those that a failure leads to
    });
  }

  async release(lease: Lease, { delayMs = 0 }: { readonly delayMs?: number } = {}): Promise<void> {
    checkLease(lease);
    checkDelay(delayMs);
    await this.#change(async ({ jobs }) => {
      const later = delayMs > 0 ? { availableAt: this.#clock.now() + delayMs } : {};
      const held = await jobs.change(lease, ({ attempt }) => ({ state: 'queued', attempts: attempt - 1, ...later }));
      jobs.leases.remove(held.token);
      await jobs.told(held, { state: 'queued', attempts: 0, ...later });
    });
  }

  async status(id: string): Promise<QueueJobStatus | undefined> {
    const session = await this.#open();
    const entry = await session.jobs.find(id);
    const status = statusOf(entry, this.#clock.now());
    if (!status || status.state !== 'queued') return status;
    const held = session.jobs.leases.ofJob(id);
    if (held && !currentRecord(entry)) {
      const { workerId, claimedAt, until, attempt } = held;
      return { ...status, state: 'claimed', attempts: attempt, workerId, claimedAt, leaseUntil: until };
    }
    return (await session.keeping.isTaken(entry)) ? { ...status, state: 'claimed', attempts: 1 } : status;
  }

  async result(id: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<QueueResult> {
    const { results } = await this.#open();
    return results.wait(id, signal);
  }

  cancel(id: string): Promise<boolean> {
    return this.#change(({ keeping }) => keeping.cancel(id));
  }

  async deadLetters({ after, limit = 100 }: { readonly after?: string; readonly limit?: number } = {}): Promise<QueueJobStatus[]> {
    checkLimit(limit);
    const { keeping } = await this.#open();
    return keeping.deadLetters(after, limit);
  }

  requeue(id: string): Promise<boolean> {
    return this.#change(({ keeping }) => keeping.requeue(id));
  }

  discard(id: string): Promise<Purged | undefined> {
    return this.#change(({ keeping }) => keeping.discard(id));
  }

  async purge(olderThanMs: number): Promise<Purged> {
    const before = this.#clock.now() - checkAge(olderThanMs);
    return this.#change(({ keeping }) => keeping.purge(before));
  }

  /**
   * Queues again what servers that lost data have forgotten to hand out. How many jobs that were. Makes streams and consumers anew that somebody
   * deleted. To be called now and then; it changes nothing while the servers keep what they acknowledge.
   */
  reconcile(): Promise<number> {
    return this.#change(async ({ restore, keeping }) => {
      await Promise.all([restore(), this.objects.restore()]);
      return keeping.reconcile();
    });
  }

  /** Credentials of one worker: see the option `accountKey`. Rejects with `CONFIG_INVALID`. */
  async grant(worker: GrantedWorker): Promise<QueueGrant | undefined> {
    const grant = await grantFor(this.#options, worker, this.#clock);
    // A worker may not make the stream of the queue, nor its object store.
    if (grant) await Promise.all([this.#open(), this.objects.open()]);
    return grant;
  }

  /** See the option `operatorKey`. Rejects with `CONFIG_INVALID`, `UNAUTHORIZED`, `PLATFORM_UNREACHABLE`. */
  revoke(workers: readonly RevokedWorker[]): Promise<boolean> {
    return revoke(this.#options, workers, this.#clock);
  }

  async referred(): Promise<ReadonlySet<string>> {
    const { keeping } = await this.#open();
    return keeping.referred();
  }

  /** Who asks while somebody asks gets the same answer. */
  stats(): Promise<QueueStats> {
    this.#counting ??= this.#count().finally(() => (this.#counting = undefined));
    return this.#counting;
  }

  async #count(): Promise<QueueStats> {
    const { keeping, claims } = await this.#open();
    const { byState, byType, delayed, oldestMs, held } = await keeping.takeStock();
    this.#counts.show(byState);
    const workers = this.#counts.workers(held, this.#clock.now());
    const { totals, rates } = this.#counts;
    return { byState, byType, delayed, oldestMs, waiting: claims.size, totals: { ...totals }, rates, workers };
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const closed = queueClosed();
    this.#opened?.claims.close(closed);
    this.#opened?.results.close(closed);
    const session = await this.#session?.catch(() => undefined);
    if (!session) return;
    const { client, lanes, jobs, stopKeepAlive } = session;
    stopKeepAlive();
    await this.#inTime(lanes.close());
    await Promise.allSettled(this.#changes);
    await jobs.idle();
    jobs.leases.close();
    await this.#inTime(client.close());
    await client.connection.close();
  }

  /** A server that is silent is not waited for until the connection to it counts as lost. */
  async #inTime(closing: Promise<void>): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#clock.after(CLOSE_MS, resolve);
    await Promise.race([closing, promise]);
    cancel();
  }

  #refuseClosed(): void {
    if (this.#closing) throw queueClosed();
  }

  async #change<T>(change: (session: Session) => Promise<T>): Promise<T> {
    this.#refuseClosed();
    const changed = this.#open().then(change);
    this.#changes.add(changed);
    try {
      return await changed;
    } finally {
      this.#changes.delete(changed);
    }
  }

  async #open(): Promise<Session> {
    this.#refuseClosed();
    this.#session ??= openSession(this.#options, this.#names, {
      clock: this.#clock,
      log: this.#telemetry.log,
      counts: this.#counts,
      claimed: (claim, jobs) => this.#claimed(claim.workerId, jobs),
    }).then(
      (session) => (this.#opened = session),
      (error: unknown) => {
        this.#session = undefined;
        throw error;
      },
    );
    return this.#session;
  }

  #claimed(workerId: string, jobs: readonly ClaimedJob[]): void {
    const now = this.#clock.now();
    const first = jobs.filter(({ attempt }) => attempt === 1);
    this.#counts.claimed(workerId, now, { jobs: jobs.length, waitedMs: first.map(({ publishedAt }) => now - publishedAt) });
  }
}

function queueClosed(): RunnerError {
  return new RunnerError('QUEUE_CLOSED', 'the queue is closed');
}

function aborted(message: string, signal: AbortSignal | undefined): RunnerError {
  return new RunnerError('ABORTED', message, { cause: signal?.reason, retry: 'safe' });
}
