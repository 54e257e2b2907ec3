/** A job: the author's function with its types, its extractors and what the runner needs to know of it. */

import { isRunnerError, RunnerError } from '../errors.ts';
import { decodeAbi, encodeAbi } from './abi.ts';
import { CALL_ID, Metadata, PARAMS_CODEC, RESULT_CODEC, SERVICE_ID } from './call.ts';
import type { JobCall, JobResult } from './call.ts';
import { decodeCompact, encodeCompact } from './compact.ts';
import { extractInto } from './extract.ts';
import type { Extracted, Extractor, Extractors } from './extract.ts';
import { reasonOf, shown, rangeError, typeError } from './scalar.ts';
import { parseParameters } from './solidity.ts';
import type { JobArgs, JobValue, Parameter } from './solidity.ts';

/** What is known of a job without running it. */
export interface JobInfo {
  readonly name: string;
  /** The Solidity parameter list; empty for a raw job. */
  readonly params: string;
  readonly result: string;
  /** The job takes and gives bytes; the lists say nothing. */
  readonly raw: boolean;
  /** A call may be run more than once: the runner tries again after a failure in the middle. Default false. */
  readonly idempotent: boolean;
  /** The longest that one execution may take; absent: the default of the runner. */
  readonly timeoutMs?: number;
}

/** What one job made of a call; undefined when it gives no result. */
export type Outcome = JobResult | undefined | Promise<JobResult | undefined>;

/** Made by `defineJob`; a router runs it. A job whose `Context` is `unknown` fits every router. */
export interface Job<in Context = unknown> {
  readonly info: JobInfo;
  /** Throws or rejects with a `RunnerError`. */
  readonly run: (call: JobCall, context: Context, source: SignalSource | undefined) => Outcome;
}

/** Where a signal is read when it is needed: one that is made by then costs more than all the rest of a call. */
export interface SignalSource {
  readonly signal?: AbortSignal | undefined;
}

/** What every handler gets besides its arguments; its extracted values lie beside these. */
export interface JobExtras<Context = unknown> {
  readonly call: JobCall;
  /** What `withContext` of the router gave. */
  readonly context: Context;
  /** Fires when nobody waits for the result any more. */
  readonly signal: AbortSignal;
}

/** What a job can say about its call. Another code would be a claim about the chain, the ledger or the platform. */
const OF_JOBS = /^(?:JOB_|PAYLOAD_|QUEUE_FULL|EXECUTOR_(?:T|UNAV)|ABORTED)/;

const NOTHING: unique symbol = Symbol.for('blueprint-runner.no-result');

export interface NoResult {
  readonly [NOTHING]: true;
}

/** A handler returns it when this operator gives no result, for example because another one answers. */
export const NO_RESULT: NoResult = { [NOTHING]: true };

/** A value with metadata for its result. Made by `withMetadata`. */
export interface WithMetadata<Value> {
  readonly [ANNOTATED]: true;
  readonly value: Value;
  readonly metadata: Iterable<readonly [string, string]>;
}

const ANNOTATED: unique symbol = Symbol.for('blueprint-runner.with-metadata');

export type Answer<Value> = Value | WithMetadata<Value> | NoResult;
export type MaybePromise<T> = T | PromiseLike<T>;

interface CommonOptions<X extends Extractors> {
  /** For messages, logs and metrics. Default: the name of the handler, else `job`. */
  readonly name?: string;
  readonly extract?: X;
  readonly idempotent?: boolean;
  readonly timeoutMs?: number;
}

export interface JobOptions<P extends string, R extends string, X extends Extractors> extends CommonOptions<X> {
  /** Solidity parameters such as `uint64 x, string name`. Default: none; the call must then have an empty body. */
  readonly params?: P;
  /** Solidity types of the result. Default: none; the job then never gives a result. */
  readonly result?: R;
  readonly raw?: false;
}

export interface RawJobOptions<X extends Extractors> extends CommonOptions<X> {
  readonly raw: true;
}

/** Bytes as they are, text as UTF-8, nothing for no result. */
export type RawValue = Uint8Array | string | null | undefined | void;

/** Adds metadata to the result of a job. */
export function withMetadata<Value>(value: Value, entries: Readonly<Record<string, string>> | Metadata): WithMetadata<Value> {
  return { [ANNOTATED]: true, value, metadata: entries instanceof Metadata ? entries : Object.entries(entries) };
}

/**
 * Defines a job by its Solidity types; the types of arguments and result follow from them.
 *
 * Arguments and result are ABI encoded, or in the contract's compact encoding when the call's metadata says so. A result list with one
 * type takes the value, with several an array of values. The result carries the call id and the service id of its call.
 * With `raw: true` the handler takes the body and returns bytes, text or nothing.
 *
 * A call fails with `JOB_ARGS_INVALID`, `JOB_REJECTED` (an extractor), `JOB_FAILED` (the handler threw; a `RunnerError` passes as it
 * is when its code is `JOB_...`, `PAYLOAD_TOO_LARGE`, `QUEUE_FULL`, `EXECUTOR_TIMEOUT`, `EXECUTOR_THROTTLED`,
 * `EXECUTOR_UNAVAILABLE` or `ABORTED`) or `JOB_RESULT_INVALID`. Throws `JOB_TYPE_INVALID`, `CONFIG_INVALID`.
 *
 * @example
 * export const square = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64' }, ([x]) => x * x);
 */
export function defineJob<
  P extends string = '',
  R extends string = '',
  Context = unknown,
  X extends Extractors = {},
  // A parameter of its own, so that an array literal is read as the tuple it must be.
  const V extends Answer<JobValue<R>> = Answer<JobValue<R>>,
>(options: JobOptions<P, R, X>, handler: (args: JobArgs<P>, extras: JobExtras<Context> & Extracted<X>) => MaybePromise<V>): Job<Context>;
export function defineJob<Context = unknown, X extends Extractors = {}>(
  options: RawJobOptions<X>,
  handler: (body: Uint8Array, extras: JobExtras<Context> & Extracted<X>) => MaybePromise<Answer<RawValue>>,
): Job<Context>;
// The first once more: of a call that fits none, the compiler explains the last, and most jobs are not raw.
export function defineJob<P extends string = '', R extends string = '', Context = unknown, X extends Extractors = {}>(
  options: JobOptions<P, R, X>,
  handler: (args: JobArgs<P>, extras: JobExtras<Context> & Extracted<X>) => MaybePromise<Answer<JobValue<R>>>,
): Job<Context>;
export function defineJob(options: RawJobOptions<Extractors> | JobOptions<string, string, Extractors>, handler: Handler): Job {
  return new DefinedJob(options, handler);
}

type Handler = (input: never, extras: never) => unknown;
type UntypedHandler = (input: unknown, extras: unknown) => unknown;

class DefinedJob implements Job {
  readonly info: JobInfo;
  readonly #handler: UntypedHandler;
  readonly #extractors: readonly (readonly [string, Extractor])[];
  readonly #params: readonly Parameter[];
  readonly #result: readonly Parameter[];

  constructor(options: RawJobOptions<Extractors> | JobOptions<string, string, Extractors>, handler: Handler) {
    const raw = options.raw === true;
    const params = options.raw === true ? '' : (options.params ?? '');
    const result = options.raw === true ? '' : (options.result ?? '');
    this.#params = parseParameters(params);
    this.#result = parseParameters(result);
    this.#extractors = Object.entries(options.extract ?? {});
    // The public overloads have checked the handler against the options.
    this.#handler = handler as UntypedHandler;
    const name = options.name ?? (handler.name === '' ? 'job' : handler.name);
    checkOptions(name, options);
    this.info = {
      name,
      params,
      result,
      raw,
      idempotent: options.idempotent ?? false,
      ...(options.timeoutMs !== undefined && { timeoutMs: options.timeoutMs }),
    };
  }

  readonly run = (call: JobCall, context: unknown, source: SignalSource | undefined): Outcome => {
    const input = this.info.raw ? call.body : this.#arguments(call);
    const extras = new Extras(call, context, source);
    if (this.#extractors.length > 0)
      extractInto(extras as unknown as Record<string, unknown>, this.#extractors, { call, job: this.info.name });
    let answer: unknown;
    try {
      answer = this.#handler(input, extras);
    } catch (error) {
      throw this.#failure(error, call);
    }
    return isThenable(answer) ? this.#later(answer, call) : this.#outcome(answer, call);
  };

  async #later(promise: PromiseLike<unknown>, call: JobCall): Promise<JobResult | undefined> {
    let answer: unknown;
    try {
      answer = await promise;
    } catch (error) {
      throw this.#failure(error, call);
    }
    return this.#outcome(answer, call);
  }

  #arguments(call: JobCall): unknown[] {
    const codec = call.metadata.get(PARAMS_CODEC);
    try {
      return codecOf(codec) === 'abi' ? decodeAbi(this.#params, call.body) : decodeCompact(this.#params, call.body);
    } catch (cause) {
      const { name, params } = this.info;
      const reason = reasonOf(cause);
      const size = call.body.length;
      throw new RunnerError(
        'JOB_ARGS_INVALID',
        `job ${name}: the ${size} bytes of call ${call.id} are not (${params}) in the ${codec ?? 'abi'} encoding: ${reason}; ${this.#hint(codec, size)}`,
        { cause, details: { job: name, types: params, bytes: size, codec: codec ?? 'abi', call: call.id } },
      );
    }
  }

  #hint(codec: string | undefined, size: number): string {
    if (this.#params.length === 0) return 'the job takes no arguments: send an empty body, or declare params';
    if (size === 0) return 'the body is empty';
    if (codec === 'compact') return "encode them as the job's schema on chain says";
    return size % 32 === 0
      ? 'compare the types with those the caller encodes'
      : 'abi.encode gives whole words of 32 bytes; abi.encodePacked is not understood';
  }

  #outcome(answer: unknown, call: JobCall): JobResult | undefined {
    const annotated = isBranded(answer, ANNOTATED) ? (answer as WithMetadata<unknown>) : undefined;
    const value = annotated ? annotated.value : answer;
    if (isBranded(value, NOTHING)) return undefined;
    const body = this.info.raw ? this.#bytes(value, call) : this.#encoded(value, call);
    return body === undefined ? undefined : { body, metadata: resultMetadata(call.metadata, annotated?.metadata) };
  }

  #bytes(value: unknown, call: JobCall): Uint8Array | undefined {
    if (value === undefined || value === null) return undefined;
    if (typeof value === 'string') return Buffer.from(value, 'utf8');
    if (value instanceof Uint8Array) return value;
    throw this.#invalid(value, call, new TypeError(`${shown(value)} is neither bytes nor text nor nothing`));
  }

  #encoded(value: unknown, call: JobCall): Uint8Array | undefined {
    const types = this.#result;
    if (types.length === 0) {
      if (value === undefined) return undefined;
      throw this.#invalid(value, call, new TypeError('the job declares no result types; declare them, or return nothing'));
    }
    try {
      const values = types.length === 1 ? [value] : asTuple(value, types.length);
      return codecOf(call.metadata.get(RESULT_CODEC)) === 'abi' ? encodeAbi(types, values) : encodeCompact(types, values);
    } catch (cause) {
      throw this.#invalid(value, call, cause);
    }
  }

  #invalid(value: unknown, call: JobCall, cause: unknown): RunnerError {
    const { name, result, raw } = this.info;
    const reason = reasonOf(cause);
    const hint = value === undefined && !raw ? '; return NO_RESULT to give none' : '';
    return new RunnerError(
      'JOB_RESULT_INVALID',
      `job ${name}: what it returned for call ${call.id} is not ${raw ? 'a raw result' : `(${result})`}: ${reason}${hint}`,
      {
        cause,
        details: { job: name, types: result, value: shown(value), call: call.id },
      },
    );
  }

  #failure(error: unknown, call: JobCall): RunnerError {
    if (isRunnerError(error) && OF_JOBS.test(error.code)) return error;
    const reason = reasonOf(error);
    return new RunnerError('JOB_FAILED', `job ${this.info.name} failed on call ${call.id}: ${reason}`, {
      cause: error,
      details: { job: this.info.name, call: call.id },
    });
  }
}

class Extras implements JobExtras {
  readonly call: JobCall;
  readonly context: unknown;
  #source: SignalSource | undefined;

  constructor(call: JobCall, context: unknown, source: SignalSource | undefined) {
    this.call = call;
    this.context = context;
    this.#source = source;
  }

  get signal(): AbortSignal {
    return this.#source?.signal ?? (this.#source = new AbortController()).signal;
  }
}

const RESERVED = new Set(['call', 'context', 'signal', '__proto__', 'constructor']);

function checkOptions(job: string, options: CommonOptions<Extractors>): void {
  const { timeoutMs } = options;
  if (timeoutMs !== undefined && !(Number.isFinite(timeoutMs) && timeoutMs > 0)) {
    throw new RunnerError('CONFIG_INVALID', `job ${job}: timeoutMs is ${timeoutMs}; it must be above 0`, { details: { job, timeoutMs } });
  }
  for (const name of Object.keys(options.extract ?? {})) {
    if (RESERVED.has(name))
      throw new RunnerError('CONFIG_INVALID', `job ${job}: an extractor cannot be named ${name}: handlers get another value under it`, {
        details: { job, name },
      });
  }
}

function codecOf(name: string | undefined): 'abi' | 'compact' {
  if (name === undefined || name === 'abi') return 'abi';
  if (name === 'compact') return 'compact';
  rangeError(`${shown(name)} is not a codec; abi and compact are`);
}

function asTuple(value: unknown, length: number): readonly unknown[] {
  if (!Array.isArray(value) || value.length !== length) typeError(`${shown(value)} is not an array of ${length} values`);
  return value;
}

function resultMetadata(call: Metadata, added: Iterable<readonly [string, string]> | undefined): Metadata {
  const metadata = new Metadata(added);
  const callId = call.get(CALL_ID);
  const serviceId = call.get(SERVICE_ID);
  if (callId !== undefined) metadata.set(CALL_ID, callId);
  if (serviceId !== undefined) metadata.set(SERVICE_ID, serviceId);
  return metadata;
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function';
}

/** Recognised by a symbol that all copies of the package share, as errors are. */
function isBranded(value: unknown, brand: symbol): boolean {
  return typeof value === 'object' && value !== null && brand in value;
}
