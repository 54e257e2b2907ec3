/** A queue that keeps large payloads and results in an object store. */

import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError, toRunnerError } from '../errors.ts';
import { isReference } from './queue.ts';
import type {
  ClaimOptions,
  ClaimedJob,
  Content,
  JobFailure,
  Lease,
  NewJob,
  ObjectReference,
  ObjectStore,
  Published,
  Purged,
  QueueJobStatus,
  QueueLimits,
  QueueResult,
  QueueStats,
  WorkQueue,
} from './queue.ts';

export interface ClaimCheckOptions {
  readonly queue: WorkQueue;
  readonly objects: ObjectStore;
  /** Above this, bytes go to the store. Default 256 KiB, or what the queue takes when that is less. */
  readonly inlineBytesMax?: number;
  /** Default 256 MiB. */
  readonly objectBytesMax?: number;
  readonly clock?: Clock;
}

/** Of the time of a lease, when payloads are fetched: so often it is extended; and for how long at most. */
const EXTENSIONS = 3;
const FETCH_MS_MAX = 3_600_000;
/** Of a claim that does not say. */
const LEASE_MS = 30_000;

/**
 * The same queue to both sides: publishers and workers see bytes, however large. An object that was put for a job is removed with its record
 * (`purge`, `discard`). One whose publication or completion has an unknown outcome, because the queue could not be reached, stays.
 */
export class ClaimCheckQueue implements WorkQueue {
  readonly name: string;
  readonly limits: QueueLimits;
  readonly #queue: WorkQueue;
  readonly #objects: ObjectStore;
  readonly #inlineBytesMax: number;
  readonly #clock: Clock;

  constructor(options: ClaimCheckOptions) {
    const { queue, objects, inlineBytesMax = 256 * 1024, objectBytesMax = 256 * 1024 * 1024, clock = systemClock } = options;
    this.name = queue.name;
    this.limits = { contentBytesMax: objectBytesMax };
    this.#queue = queue;
    this.#objects = objects;
    this.#clock = clock;
    this.#inlineBytesMax = Math.min(inlineBytesMax, queue.limits.contentBytesMax);
  }

  async publish(job: NewJob): Promise<Published> {
    const [published] = await this.#publish([job], async ([stored]) => [await this.#queue.publish(stored as NewJob)]);
    return published as Published; // one for one
  }

  publishMany(jobs: readonly NewJob[]): Promise<Published[]> {
    return this.#publish(jobs, (stored) => this.#queue.publishMany(stored));
  }

  /**
   * A job whose payload cannot be fetched is failed, to be tried again, and not returned. Until the last payload is there, for an hour at most, the
   * leases are extended.
   */
  async claim(options: ClaimOptions): Promise<ClaimedJob[]> {
    const jobs = await this.#queue.claim(options);
    if (!jobs.some(({ payload }) => isReference(payload))) return jobs;
    const leases = new Map(jobs.map(({ lease }) => [lease.token, lease]));
    const isOver = new AbortController();
    void this.#extend(leases, (options.leaseMs ?? LEASE_MS) / EXTENSIONS, isOver.signal);
    const fetched = await Promise.all(jobs.map((job) => this.#fetchPayload(job)));
    isOver.abort();
    return fetched.flatMap((job) => (job ? [{ ...job, lease: leases.get(job.lease.token) ?? job.lease }] : []));
  }

  complete(lease: Lease, result: QueueResult): Promise<void> {
    // At once: a queue elsewhere takes a claim that comes next in the same request.
    return this.#isSmall(result.body) ? this.#queue.complete(lease, result) : this.#completeLarge(lease, result);
  }

  async #completeLarge(lease: Lease, result: QueueResult): Promise<void> {
    const body = await this.#store(result.body);
    if (!isReference(body)) return this.#queue.complete(lease, { ...result, body });
    await this.#unlessRefused([body], () => this.#queue.complete(lease, { ...result, body }));
    // Of a repetition the queue keeps the first.
    const kept = (await this.#queue.result(lease.jobId)).body;
    if (isReference(kept) && kept.key !== body.key) await this.#objects.remove(body);
  }

  async result(id: string, options?: { readonly signal?: AbortSignal }): Promise<QueueResult> {
    const result = await this.#queue.result(id, options);
    return { ...result, body: await this.#fetch(result.body) };
  }

  async discard(id: string): Promise<Purged | undefined> {
    const purged = await this.#queue.discard(id);
    return purged && this.#removed(purged);
  }

  async purge(olderThanMs: number): Promise<Purged> {
    return this.#removed(await this.#queue.purge(olderThanMs));
  }

  extend(lease: Lease, leaseMs?: number): Promise<Lease> {
    return this.#queue.extend(lease, leaseMs);
  }

  fail(lease: Lease, failure: JobFailure): Promise<'queued' | 'failed' | 'dead'> {
    return this.#queue.fail(lease, failure);
  }

  release(lease: Lease, options?: { readonly delayMs?: number }): Promise<void> {
    return this.#queue.release(lease, options);
  }

  status(id: string): Promise<QueueJobStatus | undefined> {
    return this.#queue.status(id);
  }

  cancel(id: string): Promise<boolean> {
    return this.#queue.cancel(id);
  }

  deadLetters(options?: { readonly after?: string; readonly limit?: number }): Promise<QueueJobStatus[]> {
    return this.#queue.deadLetters(options);
  }

  requeue(id: string): Promise<boolean> {
    return this.#queue.requeue(id);
  }

  stats(): Promise<QueueStats> {
    return this.#queue.stats();
  }

  close(): Promise<void> {
    return this.#queue.close();
  }

  async #publish(jobs: readonly NewJob[], publish: (stored: readonly NewJob[]) => Promise<Published[]>): Promise<Published[]> {
    const stored: NewJob[] = [];
    const objects: (ObjectReference | undefined)[] = [];
    for (const job of jobs) {
      const payload = await this.#store(job.payload);
      stored.push({ ...job, payload });
      objects.push(isReference(payload) && payload !== job.payload ? payload : undefined);
    }
    const published = await this.#unlessRefused(
      objects.filter((object) => object !== undefined),
      () => publish(stored),
    );
    for (const [index, { duplicate }] of published.entries()) {
      const object = objects[index];
      if (duplicate && object) await this.#objects.remove(object);
    }
    return published;
  }

  /** Or lies elsewhere already. */
  #isSmall(content: Content): boolean {
    return !(content instanceof Uint8Array) || content.length <= this.#inlineBytesMax;
  }

  async #store(content: Content): Promise<Content> {
    if (!(content instanceof Uint8Array) || this.#isSmall(content)) return content;
    const { contentBytesMax } = this.limits;
    if (content.length <= contentBytesMax) return this.#objects.put(content);
    const message = `a payload or result has ${content.length} bytes; the object store is given ${contentBytesMax}`;
    throw new RunnerError('PAYLOAD_TOO_LARGE', message, { details: { bytes: content.length, contentBytesMax } });
  }

  async #fetch(content: Content): Promise<Content> {
    return isReference(content) ? this.#objects.get(content) : content;
  }

  async #fetchPayload(job: ClaimedJob): Promise<ClaimedJob | undefined> {
    try {
      return { ...job, payload: await this.#fetch(job.payload) };
    } catch (thrown) {
      const { code, message } = toRunnerError(thrown);
      // Who has it then, or its lease, that runs out, gives it to the next one: those beside it are not lost with it.
      await this.#queue.fail(job.lease, { code, message }).catch(() => undefined);
      return undefined;
    }
  }

  /** Never rejects. */
  async #extend(leases: Map<string, Lease>, everyMs: number, isOver: AbortSignal): Promise<void> {
    const until = this.#clock.monotonic() + FETCH_MS_MAX;
    while (this.#clock.monotonic() < until) {
      await this.#clock.sleep(everyMs, isOver).catch(() => undefined);
      if (isOver.aborted) return;
      const extended = await Promise.allSettled([...leases.values()].map((lease) => this.#queue.extend(lease)));
      // One that is lost is found lost by who works with it.
      for (const one of extended) if (one.status === 'fulfilled') leases.set(one.value.token, one.value);
    }
  }

  /** Refused for certain: nobody refers to the objects. */
  async #unlessRefused<T>(objects: readonly ObjectReference[], change: () => Promise<T>): Promise<T> {
    try {
      return await change();
    } catch (thrown) {
      const isRefusal = isRunnerError(thrown) && REFUSALS.has(thrown.code) && thrown.retry !== 'idempotent';
      if (isRefusal) for (const object of objects) await this.#objects.remove(object);
      throw thrown;
    }
  }

  async #removed(purged: Purged): Promise<Purged> {
    // What was kept by its hash is of all who keep it.
    for (const object of purged.objects) if (object.key !== object.sha256) await this.#objects.remove(object);
    return { jobs: purged.jobs, objects: [] };
  }
}

const REFUSALS: ReadonlySet<string> = new Set([
  'REQUEST_INVALID',
  'REQUEST_CONFLICT',
  'PAYLOAD_TOO_LARGE',
  'QUEUE_FULL',
  'QUEUE_CLOSED',
  'LEASE_LOST',
]);
