/** A queue as the executor of jobs: workers elsewhere run them as functions of a handler bundle. */

import { hash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError, toRunnerError } from '../errors.ts';
import type { Execution, ExecutorLimits, FaasExecutor, InvokeOptions } from '../executor/executor.ts';
import { BLUEPRINT, Metadata, TRACE } from '../job/call.ts';
import type { JobCall } from '../job/call.ts';
import { JSON_TYPE, decodeResponse, encodeRequest } from '../job/wire.ts';
import { ClaimCheckQueue } from './claim-check.ts';
import { FUNCTION_JOB, functionHeaders, functionSettings } from './function-job.ts';
import type { FunctionJobSettings } from './function-job.ts';
import { isReference } from './queue.ts';
import type { Headers, NewJob, ObjectStore, QueueJobStatus, QueueResult, WorkQueue } from './queue.ts';

export interface QueueExecutorOptions extends Partial<FunctionJobSettings> {
  readonly queue: WorkQueue;
  /** Where the package is put, once under its hash if the store can do that, and what is too large for the queue. */
  readonly objects: ObjectStore;
  /** The zip that `bpr build` writes, or the URI of an image (`image:...`). */
  readonly artifact: string;
  /** Of the function, for logs and metrics of workers. Default `jobs`. */
  readonly functionName?: string;
  /** Capabilities that a worker must have. Default: none. */
  readonly requires?: readonly string[];
  /** 0 to 9, higher first. Default 4. */
  readonly priority?: number;
  /**
   * How often workers may begin a call, when one of them is lost or fails. Default 1: only the policy of the runner decides to try again.
   * More is for jobs that do no harm when they run twice.
   */
  readonly attemptsMax?: number;
  /** For logs and metrics. Default `queue`. */
  readonly name?: string;
  /** Closes the queue with the executor. Default false. */
  readonly ownsQueue?: boolean;
  readonly clock?: Clock;
}

const IMAGE = 'image:';
const MIB = 1024 * 1024;
/** Those of the function runtime, in base64 within an event of 64 KiB more. */
const BYTES_MAX = Math.floor((6 * MIB - 64 * 1024) / 4) * 3;
export const QUEUE_EXECUTOR_LIMITS: ExecutorLimits = { requestBytesMax: BYTES_MAX, responseBytesMax: BYTES_MAX, timeoutMsMax: 900_000 };
const ID_LENGTH_MAX = 240;
/** A result that came at the last moment still gets here. */
const LATE_MS = 250;
/** For the last questions of a call, each: who waits for an executor gives up a second after the deadline. */
const LAST_ANSWER_MS = 300;
const ASK_AGAIN_MS = 500;
/** A call asks for a queue that is away until so long before its deadline, and so long when it may go elsewhere. */
const PATIENCE_MS = { beforeDeadline: 1_000, withFallback: 5_000 };
/** The queue, or what it keeps packages in, is not there now. */
const AWAY: ReadonlySet<string> = new Set([
  'EXECUTOR_UNREACHABLE',
  'EXECUTOR_CONNECTION_LOST',
  'EXECUTOR_TIMEOUT',
  'EXECUTOR_UNAVAILABLE',
  'QUEUE_CLOSED',
  'RATE_LIMITED',
]);
/** A package that nobody keeps for long may be collected. */
const KEEP_AGAIN_MS = 86_400_000;
/** Calls of which it is remembered that an attempt failed. */
const FAILED_MAX = 10_000;

interface JobOfCall {
  readonly call: JobCall;
  readonly id: string;
  /** From 1. */
  readonly generation: number;
}

/**
 * Runs jobs on the workers of a queue.
 *
 * The id of the job is that of the call: a call that comes again, after the end of this process too, gets the result of the job that is
 * there. Only one whose job ended without a result, and whose caller was told so, is published anew (`<id>~2` and so on). A call that is
 * cancelled cancels its job; the end of the program does not.
 *
 * A queue that cannot be reached is no failure of the call: it waits for it until its deadline, and says then that it may come again.
 *
 * Rejects with the error of the worker or of the job's code, `EXECUTOR_TIMEOUT`, `ABORTED`, `EXECUTOR_CLOSED`, `CODE_MISSING`, and with
 * what the queue rejects a publication with.
 *
 * @example
 * builder.withFaasExecutor(0, new QueueExecutor({ queue, objects, artifact: 'dist/handler.zip' }));
 */
export class QueueExecutor implements FaasExecutor {
  readonly name: string;
  readonly limits: ExecutorLimits = QUEUE_EXECUTOR_LIMITS;
  readonly reconnects = true;
  readonly #options: QueueExecutorOptions;
  readonly #settings: FunctionJobSettings;
  readonly #queue: WorkQueue;
  readonly #clock: Clock;
  readonly #closed = new AbortController();
  #headers: Promise<Headers> | undefined;
  #keptAt = 0;
  #running = 0;
  #idle: (() => void) | undefined;
  /** Of a call: the last of its jobs that ended without a result, and was told. */
  readonly #failed = new Map<string, number>();
  #closing: Promise<void> | undefined;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: QueueExecutorOptions) {
    const { queue, objects, clock = systemClock, name = 'queue' } = options;
    this.name = name;
    this.#options = options;
    this.#settings = settingsOf(options);
    this.#queue = new ClaimCheckQueue({ queue, objects });
    this.#clock = clock;
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    if (this.#closing) throw this.#closedError();
    this.#running += 1;
    try {
      return await this.#invoke(call, options);
    } finally {
      this.#running -= 1;
      if (this.#running === 0) this.#idle?.();
    }
  }

  /** Whether the queue answers, and has at least one worker that was heard of. */
  async health(): Promise<void> {
    const { workers } = await this.#queue.stats();
    if (workers.length === 0) throw new RunnerError('EXECUTOR_UNAVAILABLE', 'the queue has heard of no worker within the last hour');
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.#closed.abort();
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#idle = resolve));
    if (this.#options.ownsQueue) await this.#queue.close();
  }

  async #invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    const { deadline, signal } = options;
    if (signal?.aborted) throw new RunnerError('ABORTED', `call ${call.id} was cancelled before it was published`, { retry: 'safe' });
    if (deadline <= this.#clock.now()) throw tooLate(call, 'safe');
    const limit = new AbortController();
    const cancelTimer = this.#clock.after(deadline + LATE_MS - this.#clock.now(), () => limit.abort());
    const cancel = (): void => limit.abort();
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      const job = await this.#publish(call, options, limit.signal);
      return await this.#outcome(job, options, limit.signal);
    } finally {
      cancelTimer();
      signal?.removeEventListener('abort', cancel);
    }
  }

  /**
   * The job of the call that is there, or the next one when those that are there are of no use any more. While it is not known whether it is
   * there it is published again, under the same id: nobody else may run the call then.
   */
  async #publish(call: JobCall, options: InvokeOptions, limit: AbortSignal): Promise<JobOfCall> {
    const patience = new Patience(options, this.#clock);
    let generation = 1 + (this.#failed.get(call.id) ?? 0);
    let job: NewJob | undefined;
    for (let mayBeThere = false; ;) {
      const id = jobIdOf(call.id, generation);
      const ofCall = { call, id, generation };
      try {
        job ??= await this.#jobOf(call, options);
        const { duplicate } = await this.#queue.publish({ ...job, id });
        if (!duplicate) return ofCall;
        mayBeThere = true;
        if (!isOfNoUse(await this.#queue.status(id))) return ofCall;
        mayBeThere = false;
        generation += 1;
      } catch (thrown) {
        const error = toRunnerError(thrown);
        if (error.retry === 'never') throw error;
        mayBeThere ||= error.retry === 'idempotent';
        if (mayBeThere) {
          await this.#clock.sleep(ASK_AGAIN_MS, limit).catch(() => {});
          if (limit.aborted) throw await this.#givenUp(ofCall, options);
        } else {
          if (this.#closing) throw this.#closedError();
          await patience.pause(error, this.#closed.signal);
        }
      }
    }
  }

  async #jobOf(call: JobCall, { deadline }: InvokeOptions): Promise<NewJob> {
    const { priority, requires, attemptsMax = 1 } = this.#options;
    const trace = call.metadata.get(TRACE.parent);
    return {
      type: FUNCTION_JOB,
      payload: encodeRequest('base64', timeless(call)).body,
      headers: { ...(await this.#functionHeaders()), ...(trace !== undefined && { [TRACE.parent]: trace }) },
      deadline,
      attemptsMax,
      ...(priority !== undefined && { priority }),
      ...(requires && { requires }),
    };
  }

  async #outcome(job: JobOfCall, options: InvokeOptions, limit: AbortSignal): Promise<Execution> {
    const { call } = job;
    try {
      const { body, headers = {} } = await this.#result(job.id, limit);
      const type = headers['content-type'] ?? JSON_TYPE;
      const { results, report } = decodeResponse({ status: 200, headers: { 'content-type': type }, body: bytesOf(body) }, call);
      this.#failed.delete(call.id);
      return { results, ...(report && { report }) };
    } catch (thrown) {
      if (limit.aborted) throw await this.#givenUp(job, options);
      this.#noteFailure(job);
      throw toldError(thrown, call);
    }
  }

  /** Waits on when the queue cannot be reached: the job may be done meanwhile. */
  async #result(jobId: string, signal: AbortSignal): Promise<QueueResult> {
    for (;;) {
      try {
        return await this.#queue.result(jobId, { signal });
      } catch (thrown) {
        const error = toRunnerError(thrown);
        const isOfJob = error.details['jobId'] === jobId;
        if (isOfJob || signal.aborted || error.retry === 'never') throw error;
        await this.#clock.sleep(ASK_AGAIN_MS, signal);
      }
    }
  }

  /** Nobody waits for it any more. */
  async #givenUp(job: JobOfCall, { deadline, signal, hasFallback }: InvokeOptions): Promise<RunnerError> {
    const { call, id } = job;
    const isLate = signal?.aborted !== true || this.#clock.now() >= deadline;
    const cause: unknown = signal?.reason;
    if (!isLate && isRunnerError(cause) && cause.code === 'EXECUTOR_CLOSED')
      return new RunnerError('ABORTED', `call ${call.id} is left to its job ${id}`, { cause, retry: 'idempotent' });
    // Who comes again finds the same job; another executor would not.
    if (isLate && !hasFallback && (await this.#soon(() => this.#queue.status(id))) === 'silent') return tooLate(call, 'safe');
    const said = await this.#soon(async () => {
      await this.#queue.cancel(id);
      return this.#queue.status(id);
    });
    const status = said === 'silent' ? undefined : said;
    const isOver = status?.state === 'cancelled' || status?.state === 'expired';
    if (isOver) this.#noteFailure(job);
    const retry = isOver && status.attempts === 0 ? 'safe' : 'idempotent';
    return isLate ? tooLate(call, retry) : new RunnerError('ABORTED', `call ${call.id} was cancelled`, { cause, retry });
  }

  /** What the queue says within a moment. */
  async #soon<T>(ask: () => Promise<T>): Promise<T | 'silent'> {
    const late = Promise.withResolvers<'silent'>();
    const cancelTimer = this.#clock.after(LAST_ANSWER_MS, () => late.resolve('silent'));
    const said = ask().catch(() => 'silent' as const);
    return Promise.race([said, late.promise]).finally(cancelTimer);
  }

  #noteFailure({ call, generation }: JobOfCall): void {
    this.#failed.delete(call.id);
    this.#failed.set(call.id, generation);
    const [oldest] = this.#failed.keys();
    if (this.#failed.size > FAILED_MAX && oldest !== undefined) this.#failed.delete(oldest);
  }

  #functionHeaders(): Promise<Headers> {
    const now = this.#clock.now();
    if (this.#headers && now - this.#keptAt < KEEP_AGAIN_MS) return this.#headers;
    this.#keptAt = now;
    this.#headers = this.#putFunction().catch((thrown: unknown) => {
      this.#headers = undefined;
      const { code, message, retry, details } = toRunnerError(thrown);
      // No call was published, and the package is put once however often.
      throw new RunnerError(code, message, { cause: thrown, details, retry: retry === 'never' ? 'never' : 'safe' });
    });
    return this.#headers;
  }

  async #putFunction(): Promise<Headers> {
    const { artifact, objects, functionName: name = 'jobs' } = this.#options;
    const settings = this.#settings;
    if (artifact.startsWith(IMAGE)) return functionHeaders({ name, settings, code: { kind: 'image', uri: artifact.slice(IMAGE.length) } });
    const zip = await readFile(artifact).catch((cause: unknown) => {
      throw new RunnerError('CODE_MISSING', `the artifact ${artifact} cannot be read; write it with bpr build`, { cause, retry: 'safe' });
    });
    return functionHeaders({ name, settings, code: { kind: 'package', object: await (objects.keep?.(zip) ?? objects.put(zip)) } });
  }

  #closedError(): RunnerError {
    return new RunnerError('EXECUTOR_CLOSED', `executor ${this.name} is closed`);
  }
}

/** How long a call that nobody has yet waits for the queue. */
export class Patience {
  readonly #clock: Clock;
  readonly #signal: AbortSignal | undefined;
  /** Milliseconds since the epoch. */
  readonly #until: number;

  constructor({ deadline, signal, hasFallback }: InvokeOptions, clock: Clock) {
    this.#clock = clock;
    this.#signal = signal;
    this.#until = hasFallback ? clock.now() + PATIENCE_MS.withFallback : deadline - PATIENCE_MS.beforeDeadline;
  }

  /** Before another try. Rejects with `error` when it is of no use, and with `ABORTED`; ends early with `closed`. */
  async pause(error: RunnerError, closed: AbortSignal): Promise<void> {
    if (!AWAY.has(error.code) || this.#clock.now() + ASK_AGAIN_MS > this.#until) throw error;
    const signal = this.#signal ? AbortSignal.any([this.#signal, closed]) : closed;
    await this.#clock.sleep(ASK_AGAIN_MS, signal).catch(() => {});
    if (this.#signal?.aborted)
      throw new RunnerError('ABORTED', 'the call was cancelled before it was published', { cause: this.#signal.reason, retry: 'safe' });
  }
}

function settingsOf(options: QueueExecutorOptions): FunctionJobSettings {
  const { runtime, handler, memoryMb, timeoutMs, ephemeralMb, network, environment } = options;
  const node = `nodejs${process.versions.node.split('.', 1)[0]}.x`;
  try {
    return functionSettings({ runtime: runtime ?? node, handler, memoryMb, timeoutMs, ephemeralMb, network, environment });
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', toRunnerError(cause).message, { cause });
  }
}

/** The same bytes whichever attempt it is: the payload belongs to the id. */
function timeless(call: JobCall): JobCall {
  const metadata = new Metadata();
  const changing: ReadonlySet<string> = new Set([BLUEPRINT.attempt, BLUEPRINT.timeoutMs, TRACE.parent, TRACE.state]);
  for (const [name, value] of call.metadata)
    if (!changing.has(name)) metadata.set(name, value, { sensitive: call.metadata.isSensitive(name) });
  return { ...call, metadata };
}

function jobIdOf(callId: string, generation: number): string {
  // Printable and short enough, else by its hash.
  const base = callId.length <= ID_LENGTH_MAX && /^[\x20-\x7e]+$/.test(callId) ? callId : hash('sha256', callId, 'hex');
  return generation === 1 ? base : `${base}~${generation}`;
}

/** It ran never, or nobody waited for it any longer. */
function isOfNoUse(status: QueueJobStatus | undefined): boolean {
  return status?.state === 'cancelled' || (status?.state === 'expired' && status.attempts === 0);
}

function bytesOf(body: QueueResult['body']): Uint8Array {
  if (isReference(body)) throw new RunnerError('EXECUTOR_RESPONSE_INVALID', 'the result is a reference that nobody fetched');
  return body;
}

function tooLate(call: JobCall, retry: 'safe' | 'idempotent'): RunnerError {
  return new RunnerError('EXECUTOR_TIMEOUT', `call ${call.id} has no result at its deadline`, { retry });
}

/** A job that expired is, to whoever called, a deadline that passed. */
function toldError(thrown: unknown, call: JobCall): unknown {
  if (!isRunnerError(thrown) || thrown.code !== 'QUEUE_TIMEOUT') return thrown;
  return tooLate(call, thrown.retry === 'safe' ? 'safe' : 'idempotent');
}
