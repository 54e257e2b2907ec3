/** Jobs on the function runtime: the handler bundle as a function, behind the contract of every executor. */

import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import { forAttempt } from '../executor/executor.ts';
import type { Execution, ExecutorLimits, FaasExecutor, InvokeOptions } from '../executor/executor.ts';
import type { JobCall } from '../job/call.ts';
import { JSON_TYPE, decodeResponse, encodeRequest } from '../job/wire.ts';
import type { FunctionRuntime } from './function-runtime.ts';
import type { FunctionVersion, InvocationOptions } from './runtime.ts';

export interface RuntimeExecutorOptions {
  readonly runtime: FunctionRuntime;
  /** The function of a job: one for all, or by job. Undefined: there is none, `EXECUTOR_NOT_FOUND`. */
  readonly fn: FunctionVersion | ((jobId: bigint) => FunctionVersion | undefined);
  /** For logs and metrics. Default `runtime`. */
  readonly name?: string;
  /** Closes the runtime with the executor. Default false. */
  readonly ownsRuntime?: boolean;
  /** Default: the system clock. */
  readonly clock?: Clock;
}

/** Of an event or an answer besides the bytes themselves: the names, the metadata. */
const ENVELOPE_BYTES_MAX = 64 * 1024;
const TIMEOUT_MS_MAX = 900_000;
/** The handler bundle ends a call so long before its instance would be ended, so that its answer still gets out. */
const HANDLER_MARGIN_MS = 250;
const RESULT_START = Buffer.from('{"result_base64":"');
const QUOTE = 0x22;

/** Bytes that are at most `limit` in base64 within an envelope. */
const withoutBase64 = (limit: number): number => Math.max(0, Math.floor((limit - ENVELOPE_BYTES_MAX) / 4) * 3);

/**
 * Runs jobs as functions of a `FunctionRuntime`; the event is that of the handler bundle on Lambda.
 *
 * One attempt per call. Rejects with the errors of `FunctionRuntime.invoke`, with the error that the job reports, and with
 * `EXECUTOR_NOT_FOUND` and `EXECUTOR_RESPONSE_INVALID`.
 *
 * @example
 * const executor = new RuntimeExecutor({ runtime, fn });
 * const { results } = await executor.invoke(call, { deadline: Date.now() + 1_000, attempt: 1 });
 */
export class RuntimeExecutor implements FaasExecutor {
  readonly name: string;
  readonly limits: ExecutorLimits;
  readonly #options: RuntimeExecutorOptions;
  readonly #clock: Clock;
  #running = 0;
  #isClosed = false;
  #drained: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  /** Does no I/O. */
  constructor(options: RuntimeExecutorOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.name = options.name ?? 'runtime';
    const { requestBytesMax, responseBytesMax } = options.runtime.limits;
    this.limits = {
      requestBytesMax: withoutBase64(requestBytesMax),
      responseBytesMax: withoutBase64(responseBytesMax),
      timeoutMsMax: TIMEOUT_MS_MAX,
    };
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    const fn = this.#functionOf(call.jobId);
    this.#running += 1;
    try {
      const { body, report } = await this.#options.runtime.invoke(fn, this.#event(call, options), invocationOptions(options));
      const { results } = this.#decoded(body, call);
      const { coldStart, runMs, createMs = 0, bootMs = 0, initMs = 0, memoryUsedMb, requestId } = report;
      return {
        results,
        report: {
          coldStart,
          executionMs: runMs,
          requestId,
          ...(coldStart && { initMs: createMs + bootMs + initMs }),
          ...(memoryUsedMb !== undefined && { memoryUsedMb }),
        },
      };
    } catch (error) {
      throw this.#told(error, options);
    } finally {
      this.#ended();
    }
  }

  /** The bytes of the result as they arrive, for handlers that stream their answer. */
  async *invokeStream(call: JobCall, options: InvokeOptions): AsyncGenerator<Uint8Array, void, void> {
    const fn = this.#functionOf(call.jobId);
    this.#running += 1;
    try {
      const { chunks } = await this.#options.runtime.stream(fn, this.#event(call, options), invocationOptions(options));
      const decoder = new ResultDecoder();
      for await (const chunk of chunks) {
        const bytes = decoder.decode(chunk);
        if (bytes.length > 0) yield bytes;
      }
      // An error, no result, keys in another order, or an answer that was cut off.
      if (decoder.undecided) for (const { body } of this.#decoded(decoder.undecided, call).results) yield body;
    } catch (error) {
      throw this.#told(error, options);
    } finally {
      this.#ended();
    }
  }

  /** One instance becomes ready. */
  warm(jobId: bigint): Promise<void> {
    return this.#ready(jobId);
  }

  /** Starts an instance when none is up: a function that cannot start is not ready. */
  health(jobId: bigint): Promise<void> {
    return this.#ready(jobId);
  }

  close(): Promise<void> {
    this.#isClosed = true;
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    if (this.#options.ownsRuntime) await this.#options.runtime.close();
  }

  async #ready(jobId: bigint): Promise<void> {
    await this.#options.runtime.warm(this.#functionOf(jobId), 1);
  }

  #event(call: JobCall, options: InvokeOptions): Uint8Array {
    const now = this.#clock.now();
    if (options.deadline <= now)
      throw new RunnerError('EXECUTOR_TIMEOUT', `the deadline of call ${call.id} passed before it was sent`, { retry: 'safe' });
    return encodeRequest('base64', forAttempt(call, options, now)).body;
  }

  /** To whoever called, a deadline that passed before an instance was free is a deadline that passed; the job did not run. */
  #told(error: unknown, { deadline }: InvokeOptions): unknown {
    if (!isRunnerError(error) || error.code !== 'QUEUE_TIMEOUT' || this.#clock.now() < deadline) return error;
    return new RunnerError('EXECUTOR_TIMEOUT', error.message, { cause: error, details: error.details, retry: 'safe' });
  }

  #ended(): void {
    this.#running -= 1;
    if (this.#running === 0) this.#drained?.();
  }

  #functionOf(jobId: bigint): FunctionVersion {
    if (this.#isClosed) throw new RunnerError('EXECUTOR_CLOSED', `executor ${this.name} is closed`);
    const { fn } = this.#options;
    const found = typeof fn === 'function' ? fn(jobId) : fn;
    if (!found) throw new RunnerError('EXECUTOR_NOT_FOUND', `executor ${this.name} has no function for job ${jobId}`);
    return found;
  }

  #decoded(body: Uint8Array, call: JobCall): ReturnType<typeof decodeResponse> {
    return decodeResponse({ status: 200, headers: { 'content-type': JSON_TYPE }, body }, call);
  }
}

function invocationOptions({ deadline, signal }: InvokeOptions): InvocationOptions {
  return { deadline: deadline + HANDLER_MARGIN_MS, ...(signal && { signal }) };
}

/** Base64 in JSON, decoded while it arrives. */
export class ResultDecoder {
  #isStarted = false;
  #isEnded = false;
  #rest: Buffer = Buffer.alloc(0);

  /** What came and is no part of a result: it does not begin like one, or is the rest of one that has no end. */
  get undecided(): Buffer | undefined {
    return this.#isEnded ? undefined : this.#rest;
  }

  decode(chunk: Uint8Array): Buffer {
    if (this.#isEnded) return Buffer.alloc(0);
    this.#rest = this.#rest.length === 0 ? Buffer.from(chunk) : Buffer.concat([this.#rest, chunk]);
    if (!this.#isStarted) {
      const isResult = this.#rest.length > RESULT_START.length && this.#rest.subarray(0, RESULT_START.length).equals(RESULT_START);
      if (!isResult) return Buffer.alloc(0);
      this.#isStarted = true;
      this.#rest = this.#rest.subarray(RESULT_START.length);
    }
    const end = this.#rest.indexOf(QUOTE);
    this.#isEnded = end >= 0;
    // Four characters are three bytes; what is left over waits for the next chunk.
    const length = this.#isEnded ? end : this.#rest.length - (this.#rest.length % 4);
    const bytes = Buffer.from(this.#rest.toString('latin1', 0, length), 'base64');
    this.#rest = this.#rest.subarray(length);
    return bytes;
  }
}
