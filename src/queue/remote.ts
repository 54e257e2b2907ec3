/** The queue of a control plane elsewhere. */

import { randomUUID } from 'node:crypto';
import { RunnerError, isRunnerError } from '../errors.ts';
import { ControlClient } from './control-client.ts';
import type { ControlClientOptions, ControlRequest } from './control-client.ts';
import type { Standing } from './standing.ts';
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
  checkFailure,
  checkJob,
  checkJobs,
  checkLease,
  checkLeaseMs,
  checkLimit,
  checkDelay,
  checkResult,
} from './requests.ts';
import type { CheckedClaim, CheckedResult } from './requests.ts';
import { UnansweredClaims } from './unanswered.ts';
import { claimedOfWire, countWithin, errorOfWire, fieldsOf, jobToWire, leaseOfWire, listOf, resultOfWire, resultToWire } from './wire.ts';

export interface RemoteQueueOptions extends ControlClientOptions {
  /** Makes ids of jobs. Default: random UUIDs. */
  readonly makeId?: () => string;
}

interface Completion {
  readonly lease: Lease;
  readonly result: CheckedResult;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

interface Claiming {
  readonly request: CheckedClaim;
  readonly resolve: (jobs: ClaimedJob[]) => void;
  readonly reject: (error: unknown) => void;
}

/** Of one request. */
const COMPLETIONS_MAX = 1_000;
/** Of its bytes: in base64 half of them. The rest is for headers and leases. */
const RESULTS_PART = 3 / 8;
/** A claim that was cancelled is answered soon, or its connection is cut. */
const CANCEL_MS = 5_000;

type Fields = Readonly<Record<string, unknown>>;

/**
 * A `WorkQueue` over HTTP. While the control plane is away, everything waits for it and is repeated: a result is delivered when it is back.
 * Completions, and a claim after them, share a request when nothing was waited for between them but promises that are settled already: a worker
 * that does `queue.complete(...)` and `queue.claim(...)` before it awaits either of them needs half as many.
 *
 * @example
 * const queue = await RemoteQueue.connect({ credentials: { ticket, identity: openIdentity('/var/lib/worker/identity.key') } });
 * const [job] = await queue.claim({ workerId: queue.workerId, waitMs: 30_000 });
 * if (job) await queue.complete(job.lease, { body: Buffer.from('49') });
 */
export class RemoteQueue implements WorkQueue {
  readonly name = 'remote';
  readonly limits: QueueLimits;
  /** Under which this process claims: the hash of its key. Empty for an operator. */
  readonly workerId: string;
  /** For the other things of the control plane. */
  readonly control: ControlClient;
  readonly #waitMsMax: number;
  readonly #bodyBytesMax: number;
  readonly #makeId: () => string;
  readonly #unanswered = new UnansweredClaims();
  /** Requests; and what `close` wants called when there are none, and no completions either. */
  #running = 0;
  #idle: (() => void) | undefined;
  #completions: Completion[] = [];
  #claiming: Claiming | undefined;
  #closing: Promise<void> | undefined;

  /** Waits for a control plane that is not there yet. Rejects as `ControlClient.connect`. */
  static async connect(options: RemoteQueueOptions, signal?: AbortSignal): Promise<RemoteQueue> {
    const control = new ControlClient(options);
    try {
      return new RemoteQueue(control, await control.connect(signal), options.makeId ?? randomUUID);
    } catch (thrown) {
      await control.close();
      throw thrown;
    }
  }

  private constructor(control: ControlClient, { workerId, contentBytesMax, waitMsMax, bodyBytesMax }: Standing, makeId: () => string) {
    this.control = control;
    this.workerId = workerId;
    this.limits = { contentBytesMax };
    this.#waitMsMax = waitMsMax;
    this.#bodyBytesMax = bodyBytesMax;
    this.#makeId = makeId;
  }

  async publish(job: NewJob): Promise<Published> {
    checkJob(job, this.limits);
    const named = { ...job, id: job.id ?? this.#makeId() };
    const { id, duplicate } = await this.#ask({ path: '/queue/publish', body: jobToWire(named) });
    // An id that was made here is nobody else's: the duplicate was this job on its first way.
    return { id: String(id), duplicate: duplicate === true && job.id !== undefined };
  }

  async publishMany(jobs: readonly NewJob[]): Promise<Published[]> {
    checkJobs(jobs, this.limits);
    const named = jobs.map((job) => ({ ...job, id: job.id ?? this.#makeId() }));
    const value = await this.#ask({ path: '/queue/publish', body: { jobs: named.map(jobToWire) } });
    return listOf(value['jobs'], 'jobs').map((one, index) => {
      const { id, duplicate } = one as Published; // of the control plane that proved its key
      return { id, duplicate: duplicate && jobs[index]?.id !== undefined };
    });
  }

  async claim(options: ClaimOptions): Promise<ClaimedJob[]> {
    this.#refuseClosed();
    const request = checkClaim(options);
    const { signal, waitMs } = request;
    if (signal?.aborted) throw aborted('the claim was cancelled before it was made', signal);
    if (this.#completions.length > 0 && !this.#claiming) {
      const jobs = await new Promise<ClaimedJob[]>((resolve, reject) => (this.#claiming = { request, resolve, reject }));
      if (jobs.length > 0 || waitMs === 0) return jobs;
      if (signal?.aborted) throw aborted('the claim was cancelled before a job came', signal);
    }
    if (waitMs === 0) {
      const body = this.#unanswered.claim(request, 0);
      return jobsOf(await this.#unanswered.during(body, (onRepeat) => this.#ask({ path: '/queue/claim', body, onRepeat })));
    }
    this.#running += 1;
    return this.#claimWithin(request).finally(() => this.#over());
  }

  async extend(lease: Lease, leaseMs?: number): Promise<Lease> {
    this.#refuseClosed();
    checkLease(lease);
    if (leaseMs !== undefined) checkLeaseMs(leaseMs);
    const value = await this.#ask({ path: '/queue/extend', body: { lease, leaseMs } });
    return leaseOfWire(value['lease']);
  }

  complete(lease: Lease, given: QueueResult): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#refuseClosed();
      const result = checkResult(given, this.limits);
      checkLease(lease);
      this.#completions.push({ lease, result, resolve, reject });
      // After the promises that are settled already: what they lead to joins.
      if (this.#completions.length === 1) queueMicrotask(() => process.nextTick(() => this.#flush()));
    });
  }

  async fail(lease: Lease, failure: JobFailure): Promise<'queued' | 'failed' | 'dead'> {
    const checked = checkFailure(failure);
    checkLease(lease);
    const answer = await this.#end('/queue/fail', { lease, ...checked });
    if (answer) return stateOf(answer['state']);
    // The first attempt got through, and its answer did not.
    const status = await this.status(lease.jobId);
    const isOurs = status?.error?.code === checked.code && status.error.message === checked.message;
    if (isOurs && (status.state === 'queued' || status.state === 'failed' || status.state === 'dead')) return status.state;
    throw new RunnerError('LEASE_LOST', `the lease of job ${lease.jobId} is lost`, { details: { jobId: lease.jobId } });
  }

  async release(lease: Lease, { delayMs = 0 }: { readonly delayMs?: number } = {}): Promise<void> {
    checkLease(lease);
    checkDelay(delayMs);
    await this.#end('/queue/release', { lease, delayMs });
  }

  async status(id: string): Promise<QueueJobStatus | undefined> {
    try {
      const value = await this.#ask({ method: 'GET', path: `/queue/status?id=${encodeURIComponent(id)}` });
      return value as unknown as QueueJobStatus; // of the control plane that proved its key
    } catch (thrown) {
      if (isRunnerError(thrown) && thrown.code === 'NOT_FOUND') return undefined;
      throw thrown;
    }
  }

  async result(id: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<QueueResult> {
    const path = `/queue/result?id=${encodeURIComponent(id)}&waitMs=`;
    const stop = signal ? AbortSignal.any([signal, this.control.closing]) : this.control.closing;
    // What has ended is told even to who does not wait.
    const waitMs = signal?.aborted ? 0 : this.#waitMsMax;
    for (;;) {
      const value = await this.#ask({ method: 'GET', path: path + String(waitMs), waitMs, ...(waitMs > 0 && { signal: stop }) });
      if (value['error'] !== undefined) throw errorOfWire(value['error']);
      if (value['result'] !== undefined) return resultOfWire(value['result']);
      if (signal?.aborted) throw aborted(`the wait for job ${id} was cancelled`, signal);
    }
  }

  async cancel(id: string): Promise<boolean> {
    let isRepeated = false;
    const value = await this.#ask({ path: '/queue/cancel', body: { id }, onRepeat: () => (isRepeated = true) });
    return value['cancelled'] === true || (isRepeated && (await this.status(id))?.state === 'cancelled');
  }

  async deadLetters({ after, limit = 100 }: { readonly after?: string; readonly limit?: number } = {}): Promise<QueueJobStatus[]> {
    checkLimit(limit);
    const from = after === undefined ? '' : `&after=${encodeURIComponent(after)}`;
    const value = await this.#ask({ method: 'GET', path: `/queue/dead?limit=${limit}${from}` });
    return listOf(value['jobs'], 'jobs') as QueueJobStatus[]; // of the control plane that proved its key
  }

  async requeue(id: string): Promise<boolean> {
    let isRepeated = false;
    const value = await this.#ask({ path: '/queue/requeue', body: { id }, onRepeat: () => (isRepeated = true) });
    return value['requeued'] === true || (isRepeated && (await this.status(id))?.state === 'queued');
  }

  /** Not repeated when it is not known what became of it: `EXECUTOR_CONNECTION_LOST`. So is `purge`. */
  async discard(id: string): Promise<Purged | undefined> {
    const value = await this.#ask({ path: '/queue/discard', body: { id }, isRepeatable: false });
    return (value['discarded'] as Purged | null) ?? undefined; // as above
  }

  async purge(olderThanMs: number): Promise<Purged> {
    checkAge(olderThanMs);
    const value = await this.#ask({ path: '/queue/purge', body: { olderThanMs }, isRepeatable: false });
    return value as unknown as Purged; // as above
  }

  async stats(): Promise<QueueStats> {
    const value = await this.#ask({ method: 'GET', path: '/queue/stats' });
    return value as unknown as QueueStats; // as above
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.control.stop();
    if (this.#running > 0 || this.#completions.length > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
    await this.control.close();
  }

  #refuseClosed(): void {
    if (this.#closing) throw queueClosed();
  }

  #over(): void {
    this.#running -= 1;
    if (this.#running === 0 && this.#completions.length === 0) this.#idle?.();
  }

  async #ask(request: ControlRequest): Promise<Fields> {
    this.#refuseClosed();
    this.#running += 1;
    try {
      return await this.control.ask(request);
    } catch (thrown) {
      if (this.#closing && isRunnerError(thrown) && thrown.code === 'ABORTED') throw queueClosed(thrown);
      throw thrown;
    } finally {
      this.#over();
    }
  }

  /** Undefined when a repetition finds the lease used: by the attempt before it. */
  async #end(path: string, body: Fields): Promise<Fields | undefined> {
    let isRepeated = false;
    try {
      return await this.#ask({ path, body, onRepeat: () => (isRepeated = true) });
    } catch (thrown) {
      if (isRepeated && isRunnerError(thrown) && thrown.code === 'LEASE_LOST') return undefined;
      throw thrown;
    }
  }

  /** The completions that have come, and the claim that came with them, in one request. */
  #flush(): void {
    const completions = this.#completions;
    const count = countWithin(completions, this.#bodyBytesMax * RESULTS_PART, ({ result }) => result.body);
    this.#completions = completions.splice(Math.min(COMPLETIONS_MAX, count));
    void this.#work(completions, this.#claimNow());
    if (this.#completions.length > 0) this.#flush();
  }

  /** Never rejects. */
  async #work(completions: readonly Completion[], claiming: Claiming | undefined): Promise<void> {
    this.#running += 1;
    try {
      const claim = claiming && this.#unanswered.claim(claiming.request, 0);
      const body = { completions: completions.map(completionToWire), claim };
      const send = (onRepeat?: () => void): Promise<Fields> => this.control.ask({ path: '/queue/work', body, onRepeat });
      settle(await (claim ? this.#unanswered.during(claim, send) : send()), completions, claiming);
    } catch (thrown) {
      for (const { reject } of completions) reject(thrown);
      claiming?.reject(thrown);
    } finally {
      this.#over();
    }
  }

  /** The claim that waits for the next request, unless it was cancelled meanwhile. */
  #claimNow(): Claiming | undefined {
    const claiming = this.#claiming;
    this.#claiming = undefined;
    const signal = claiming?.request.signal;
    if (!claiming || !signal?.aborted) return claiming;
    claiming.reject(aborted('the claim was cancelled before it was sent', signal));
    return undefined;
  }

  /** The control plane answers after `waitMsMax` at the latest: then it is asked again. */
  async #claimWithin(request: CheckedClaim): Promise<ClaimedJob[]> {
    const { signal } = request;
    const until = this.control.clock.monotonic() + request.waitMs;
    for (;;) {
      const leftMs = Math.max(0, Math.ceil(until - this.control.clock.monotonic()));
      const jobs = await this.#poll(request, Math.min(leftMs, this.#waitMsMax));
      if (this.#closing) {
        await Promise.all(
          jobs.map(({ lease }) => this.control.sendOnce({ path: '/queue/release', body: { lease } }).catch(() => undefined)),
        );
        throw queueClosed();
      }
      if (jobs.length > 0) return jobs;
      if (signal?.aborted) throw aborted('the claim was cancelled before a job came', signal);
      // A control plane that closes answers before the time is over.
      if (this.control.clock.monotonic() >= until) return [];
    }
  }

  /** When it is aborted, the control plane is told, and its answer awaited: a job that it just gave away must not be lost on its way. */
  async #poll(request: CheckedClaim, waitMs: number): Promise<ClaimedJob[]> {
    const body = this.#unanswered.claim(request, waitMs);
    const cut = new AbortController();
    const patience = request.signal ? AbortSignal.any([request.signal, this.control.closing]) : this.control.closing;
    let stopTimer = (): void => {};
    const cancel = (): void => {
      stopTimer = this.control.clock.after(CANCEL_MS, () => cut.abort());
      this.control.sendOnce({ path: '/queue/claim/cancel', body: { claimId: body.claimId } }).catch(() => cut.abort());
    };
    patience.addEventListener('abort', cancel);
    try {
      const about = { path: '/queue/claim', body, waitMs, signal: cut.signal, patience };
      return jobsOf(await this.#unanswered.during(body, (onRepeat) => this.#ask({ ...about, onRepeat })));
    } catch (thrown) {
      if (patience.aborted && isRunnerError(thrown) && (thrown.code === 'ABORTED' || thrown.code === 'QUEUE_CLOSED')) return [];
      throw thrown;
    } finally {
      stopTimer();
      patience.removeEventListener('abort', cancel);
    }
  }
}

function settle(answer: Fields, completions: readonly Completion[], claiming: Claiming | undefined): void {
  const outcomes = listOf(answer['completions'], 'completions');
  for (const [index, { resolve, reject }] of completions.entries()) {
    const { error } = fieldsOf(outcomes[index], 'a completion');
    if (error === undefined) resolve();
    else reject(errorOfWire(error));
  }
  if (!claiming) return;
  if (answer['claimError'] === undefined) claiming.resolve(jobsOf(answer));
  else claiming.reject(errorOfWire(answer['claimError']));
}

function completionToWire({ lease: { jobId, token, until }, result }: Completion): Fields {
  return { lease: { jobId, token, until }, ...resultToWire(result) };
}

function jobsOf({ jobs }: Fields): ClaimedJob[] {
  return listOf(jobs, 'jobs').map(claimedOfWire);
}

function stateOf(value: unknown): 'queued' | 'failed' | 'dead' {
  if (value === 'queued' || value === 'failed' || value === 'dead') return value;
  throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the control plane says that a job that failed is ${String(value)}`);
}

function queueClosed(cause?: unknown): RunnerError {
  return new RunnerError('QUEUE_CLOSED', 'the queue is closed', { cause });
}

function aborted(message: string, signal: AbortSignal): RunnerError {
  return new RunnerError('ABORTED', message, { cause: signal.reason, retry: 'safe' });
}
