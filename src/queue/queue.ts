/**
 * A durable queue of jobs between those who want work done and the workers that do it.
 *
 * Delivery is at least once, results are kept exactly once:
 * - A method resolves when its change is durable: what was acknowledged survives the end of every process at any moment.
 * - Each claim gives a lease with a token of its own (a fence). Only the holder of the current lease of a job can extend, complete, fail
 *   or release it; everybody else gets `LEASE_LOST`. So a job has at most one result, however many workers ran it.
 * - A lease that runs out gives the job back: another worker gets it as the next attempt. Time in which the queue itself was not running
 *   does not count.
 *
 * Life of a job:
 * ```
 * queued -> claimed -> completed
 *   |  ^       |  \--> failed     the worker said that another attempt would fail in the same way
 *   |  |       |   \-> dead       attempts used up; stays in the dead letter until it is requeued or removed
 *   |  \-------/ released, failed with attempts left, or its lease ran out
 *   |-> expired                   its deadline passed
 *   \-> cancelled                 from queued or claimed
 * ```
 *
 * Order: higher priority first, then order of publication; a job that comes back keeps its place. With several workers, or several
 * queue servers, that is the order of handing out, not of completion.
 *
 * Every method rejects with `QUEUE_CLOSED` after `close`, and with `REQUEST_INVALID` when an argument is outside of what is said here.
 */

/** Bytes that lie in an object store instead of in the queue (claim check). `size` and `sha256` are verified by whoever fetches it. */
export interface ObjectReference {
  /** The name in the store, unique per object. */
  readonly key: string;
  readonly size: number;
  /** Hexadecimal, lower case. */
  readonly sha256: string;
}

/** Bytes up to the limit of the queue, or where larger ones lie. The queue keeps a reference as it is; see `ClaimCheckQueue`. */
export type Content = Uint8Array | ObjectReference;

/** Where large payloads and results lie: what is put is never changed. */
export interface ObjectStore {
  /** Durable when it resolves; every put makes another object. */
  put(bytes: Uint8Array): Promise<ObjectReference>;
  /**
   * Under its SHA-256, once, however often it is kept: for what many jobs share, such as packages. Who publishes jobs that refer to it keeps it
   * again within a day: objects that no record of a job refers to, and nobody has put or kept for long, may be collected.
   */
  keep?(bytes: Uint8Array): Promise<ObjectReference>;
  /** Verified by size and hash. Rejects with `NOT_FOUND`, and with `QUEUE_CORRUPT` when it is not what was put. */
  get(reference: ObjectReference): Promise<Uint8Array>;
  /** Idempotent. */
  remove(reference: ObjectReference): Promise<void>;
}

/** What goes with a payload or a result: names in lower case, for example `content-type` or `traceparent`. Never secrets. */
export type Headers = Readonly<Record<string, string>>;

export interface NewJob {
  /**
   * The id of the job and its idempotency key: 1 to 256 characters, none of them a control character or a lone surrogate. An id that the queue knows is not
   * published again. Default: a random one.
   */
  readonly id?: string;
  /** What kind of work it is, told to the worker: 1 to 128 characters. */
  readonly type: string;
  readonly payload: Content;
  readonly headers?: Headers;
  /** 0 to 9, higher first. Default 4. */
  readonly priority?: number;
  /** Not handed out before this many milliseconds have passed. Default 0, at most a year. */
  readonly delayMs?: number;
  /** Milliseconds since the epoch. Not handed out any more from then on; a lease does not reach beyond it. Default: none. */
  readonly deadline?: number;
  /** Attempts that may be started, 1 to 1,000. Default 3. 1 for work that must not be done twice. */
  readonly attemptsMax?: number;
  /** Whether it goes to the dead letter when its attempts are used up. Default true; otherwise it is `failed`. */
  readonly deadLetter?: boolean;
  /** Capabilities that a worker must have, all of them; at most 16 of 1 to 64 characters from `A-Z a-z 0-9 . _ : / = -`. Default: none. */
  readonly requires?: readonly string[];
}

export interface Published {
  readonly id: string;
  /** The queue knew the id: nothing was changed. */
  readonly duplicate: boolean;
}

/** The right to work on a job until `until`. A plain object: it may be sent over a wire and back. */
export interface Lease {
  readonly jobId: string;
  /** Of this claim alone. */
  readonly token: string;
  /** Milliseconds since the epoch, by the clock of the queue. */
  readonly until: number;
}

export interface ClaimOptions {
  /** Who asks, for status and stats: 1 to 128 characters. */
  readonly workerId: string;
  /** What the worker has; it gets jobs that require these or fewer. Default: none. */
  readonly capabilities?: readonly string[];
  /** At most so many jobs, 1 to 1,000. Default 1. */
  readonly max?: number;
  /** From 100 to 43,200,000 (twelve hours). Default 30,000. */
  readonly leaseMs?: number;
  /** How long to wait for the first job, 0 to 3,600,000. Default 0. */
  readonly waitMs?: number;
  /** Ends the wait. */
  readonly signal?: AbortSignal;
  /** Its name, by which a queue that has `leasesOf` finds again what it was given: 1 to 128 characters. */
  readonly claimId?: string;
}

export interface ClaimedJob {
  readonly id: string;
  readonly type: string;
  readonly payload: Content;
  readonly headers: Headers;
  readonly priority: number;
  readonly requires: readonly string[];
  /** Which attempt this is, from 1; released ones are not counted. */
  readonly attempt: number;
  readonly attemptsMax: number;
  readonly publishedAt: number;
  readonly deadline?: number;
  readonly lease: Lease;
}

export interface QueueResult {
  readonly body: Content;
  readonly headers?: Headers;
}

export interface JobFailure {
  /** A code of the error table, or another word of the worker's: 1 to 64 characters. */
  readonly code: string;
  /** Kept up to 4,096 characters. */
  readonly message: string;
  /** Whether another attempt may succeed. Default true. */
  readonly retryable?: boolean;
  /** Until the next attempt. Default: `retryDelayMs` of the attempt. */
  readonly delayMs?: number;
}

export type QueueJobState = 'queued' | 'claimed' | 'completed' | 'failed' | 'dead' | 'expired' | 'cancelled';

export interface QueueJobStatus {
  readonly id: string;
  readonly type: string;
  readonly state: QueueJobState;
  readonly priority: number;
  readonly requires: readonly string[];
  /** Attempts started; released ones are not counted. */
  readonly attempts: number;
  readonly attemptsMax: number;
  /** Milliseconds since the epoch, like all times here. */
  readonly publishedAt: number;
  /** Set while it is queued and delayed: when it may be handed out. */
  readonly availableAt?: number;
  readonly deadline?: number;
  /** Who claimed it last. */
  readonly workerId?: string;
  readonly claimedAt?: number;
  /** Set while it is claimed: when the lease runs out. */
  readonly leaseUntil?: number;
  /** Set when it is completed, failed, dead, expired or cancelled. */
  readonly endedAt?: number;
  /** Why the last attempt failed: what the worker said, or `WORKER_LOST` when a lease ran out. */
  readonly error?: { readonly code: string; readonly message: string };
}

export interface WorkerStats {
  readonly workerId: string;
  /** Leases that it holds now. */
  readonly claimed: number;
  /** Since the queue was opened, like those below. */
  readonly completed: number;
  readonly failed: number;
  /** Leases of it that ran out. */
  readonly lost: number;
  readonly lastSeenAt: number;
}

export interface TypeDepth {
  readonly type: string;
  readonly queued: number;
  readonly claimed: number;
}

/** Jobs published, handed out and completed, and attempts that failed. */
export interface JobCounts {
  readonly published: number;
  readonly claimed: number;
  readonly completed: number;
  readonly failed: number;
}

export interface QueueStats {
  /** Jobs of which the queue has a record, by state; those that are delayed count as queued. */
  readonly byState: Readonly<Record<QueueJobState, number>>;
  /** Of the queued ones. */
  readonly delayed: number;
  /** Those that wait or are claimed: of the 20 types with the most, and of all others together as `other`. Absent: it is not told. */
  readonly byType?: readonly TypeDepth[];
  /** Age of the oldest job that could be handed out now, milliseconds; 0 when there is none. */
  readonly oldestMs: number;
  /** Claims that wait for a job. */
  readonly waiting: number;
  /** Since the queue was opened. */
  readonly totals: JobCounts;
  /** The same per second, over the last minute; or since the queue was opened, when that is less. */
  readonly rates: JobCounts;
  /** Those heard of in the last hour, the last ones first, at most 1,000. */
  readonly workers: readonly WorkerStats[];
}

export interface QueueLimits {
  /** Larger payloads and results must be references. */
  readonly contentBytesMax: number;
}

export interface Purged {
  readonly jobs: number;
  /** What the removed records referred to. Nobody else does, unless several jobs were published with it: as with what was kept by its hash. */
  readonly objects: readonly ObjectReference[];
}

export interface WorkQueue {
  readonly name: string;
  readonly limits: QueueLimits;

  /**
   * Durable when it resolves. Idempotent by `id` for as long as the queue has a record of the job: the same id with the same type and
   * payload (bytes, or size and hash of a reference) is a duplicate, with others it is `REQUEST_CONFLICT`. Rejects with
   * `PAYLOAD_TOO_LARGE`, and with `QUEUE_FULL` when too many jobs wait.
   */
  publish(job: NewJob): Promise<Published>;

  /** All of them or none; answers in the same order. At most 10,000. */
  publishMany(jobs: readonly NewJob[]): Promise<Published[]>;

  /**
   * The next jobs, each with its own lease; fewer than there are when their payloads are large; empty when none came within `waitMs`. Each job is
   * handed to one claim. Rejects with `ABORTED`
   * when the signal fires before a job was claimed; jobs that are being claimed at that moment are still returned: release them.
   */
  claim(options: ClaimOptions): Promise<ClaimedJob[]>;

  /**
   * The lease, with the same token, from now on for `leaseMs` (default: as long as it was claimed for), never beyond the deadline of the job.
   * A job that was cancelled or has expired is `LEASE_LOST`: stop working on it.
   */
  extend(lease: Lease, leaseMs?: number): Promise<Lease>;

  /**
   * The result is kept. Doing it again with the same lease and the same body resolves again; with another body it is `LEASE_LOST`: the
   * first result stays. Rejects with `PAYLOAD_TOO_LARGE` and keeps the lease.
   */
  complete(lease: Lease, result: QueueResult): Promise<void>;

  /** The attempt failed. Resolves with the state of the job: `queued` for another attempt, `failed`, or `dead`. */
  fail(lease: Lease, failure: JobFailure): Promise<'queued' | 'failed' | 'dead'>;

  /** Gives the job back without having begun it: the attempt does not count. For workers that drain. */
  release(lease: Lease, options?: { readonly delayMs?: number }): Promise<void>;

  /** Undefined when the queue has no record of it. */
  status(id: string): Promise<QueueJobStatus | undefined>;

  /**
   * Waits until the job has ended. Resolves with its result; rejects with the code and message of its failure when it is failed or dead
   * (`JOB_FAILED` when the code is not of the error table), with `QUEUE_TIMEOUT` when it expired (`safe` to try again when no attempt was
   * started), with `ABORTED` when it was cancelled or the signal fires, with `NOT_FOUND` when the queue has no record of it.
   */
  result(id: string, options?: { readonly signal?: AbortSignal }): Promise<QueueResult>;

  /** Ends a job that has not ended; its lease is lost. False when it has ended, or is unknown. */
  cancel(id: string): Promise<boolean>;

  /** The dead letter, in the order in which they died, after the job `after`. At most `limit`, default 100, up to 1,000. */
  deadLetters(options?: { readonly after?: string; readonly limit?: number }): Promise<QueueJobStatus[]>;
  /** A dead job is queued again as if new, without its deadline. False when it is not dead. */
  requeue(id: string): Promise<boolean>;
  /** A dead job is forgotten. Undefined when it is not dead. */
  discard(id: string): Promise<Purged | undefined>;

  /** Forgets what was completed, failed, expired or cancelled longer than `olderThanMs` ago. Dead letters stay. */
  purge(olderThanMs: number): Promise<Purged>;

  stats(): Promise<QueueStats>;

  /** Keys of the objects that its records refer to, whatever their state: payloads, results, packages. What has it lets other objects be collected. */
  referred?(): Promise<ReadonlySet<string>>;
  /** Which worker claimed with the lease of this token; undefined when that is not known. Absent: the token alone says who may use it. */
  holderOf?(token: string): string | undefined;
  /** What these claims of the worker were given and it holds still, also after a restart. */
  leasesOf?(workerId: string, claimIds: readonly string[]): Lease[];

  /** Waiting claims and results reject with `QUEUE_CLOSED`; changes under way are finished. Leases stay. Idempotent. */
  close(): Promise<void>;
}

export function isReference(content: Content): content is ObjectReference {
  return !(content instanceof Uint8Array);
}

/** Pause before the attempt after `attempt`: 1 s, doubled each time, at most a minute. */
export function retryDelayMs(attempt: number): number {
  return Math.min(60_000, 1_000 * 2 ** Math.min(attempt - 1, 10));
}
