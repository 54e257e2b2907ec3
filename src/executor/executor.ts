/** The contract of everything that can run a job: in-process, a FaaS cloud, a container, a fleet of workers. */

import { RunnerError } from '../errors.ts';
import { BLUEPRINT, Metadata } from '../job/call.ts';
import type { JobCall, JobResult } from '../job/call.ts';

/**
 * What a platform can take, counted in bytes of arguments and of results before any encoding. The registry refuses a call above
 * them before it is sent, with `PAYLOAD_TOO_LARGE`.
 */
export interface ExecutorLimits {
  readonly requestBytesMax: number;
  readonly responseBytesMax: number;
  /** The longest that one call may run. */
  readonly timeoutMsMax: number;
  /** Calls that the platform takes at the same time, over all jobs. Absent: it does not say. */
  readonly concurrencyMax?: number;
}

export interface InvokeOptions {
  /** Milliseconds since the epoch; the executor rejects with `EXECUTOR_TIMEOUT` when it passes. */
  readonly deadline: number;
  /** The deadline by the monotonic clock of this process: it stays when the wall clock is set. */
  readonly dueMs?: number;
  /** Aborted with a `RunnerError` of code `EXECUTOR_CLOSED` when the program stops: the call comes again at its next start. */
  readonly signal?: AbortSignal | undefined;
  /** From 1. */
  readonly attempt: number;
  /** Another executor takes the call when this one says that the job provably did not run. */
  readonly hasFallback?: boolean;
}

/** What is known of one execution besides its results; every field only when the platform told it. */
export interface ExecutionReport {
  readonly coldStart?: boolean;
  /** Time in the handler. */
  readonly executionMs?: number;
  /** Time to create, boot and initialise the instance. */
  readonly initMs?: number;
  readonly memoryUsedMb?: number;
  /** The platform's own id of the invocation. */
  readonly requestId?: string;
}

export interface Execution {
  /**
   * The first one answers the call; more come from `always` routes. Empty: the job has no result, nothing is settled.
   */
  readonly results: readonly JobResult[];
  readonly report?: ExecutionReport | undefined;
}

/**
 * Runs jobs somewhere.
 *
 * One attempt per `invoke`: an executor never retries by itself. It rejects with a `RunnerError` whose `retry` says whether
 * the handler was provably not reached (`safe`), may have run (`idempotent`) or would fail again (`never`). Constructors do no
 * I/O; the SDK is loaded on first use.
 */
export interface FaasExecutor {
  readonly name: string;
  readonly limits: ExecutorLimits;
  /**
   * While its platform is away, a call waits for it here until its deadline, or a few seconds when it has a fallback. Where there is none, nothing
   * is gained by keeping calls from it: they have no circuit unless their policy names one. Default false.
   */
  readonly reconnects?: boolean;
  invoke(call: JobCall, options: InvokeOptions): Promise<Execution>;
  /** The result as it is written; the same guarantees as `invoke`. */
  invokeStream?(call: JobCall, options: InvokeOptions): AsyncIterable<Uint8Array>;
  /** Makes instances ready. */
  warm?(jobId: bigint, options?: { readonly signal?: AbortSignal | undefined }): Promise<void>;
  /** Resolves when the platform is ready for this job; rejects with the reason when it is not. */
  health?(jobId: bigint, options?: { readonly signal?: AbortSignal | undefined }): Promise<void>;
  /** Graceful and idempotent: running calls end, new ones are refused with `EXECUTOR_CLOSED`. */
  close?(): Promise<void>;
}

/** The call as a handler elsewhere gets it: it learns which attempt this is, and how long somebody waits for it. */
export function forAttempt(call: JobCall, { attempt, deadline }: InvokeOptions, now: number): JobCall {
  const metadata = new Metadata();
  for (const [name, value] of call.metadata) metadata.set(name, value, { sensitive: call.metadata.isSensitive(name) });
  metadata.set(BLUEPRINT.attempt, String(attempt));
  metadata.set(BLUEPRINT.timeoutMs, String(Math.max(0, Math.ceil(deadline - now))));
  return { ...call, metadata };
}

/** `PAYLOAD_TOO_LARGE` for a call above the limits of an executor. Whoever sends calls to an executor asks this first. */
export function requestTooLarge({ name, limits }: FaasExecutor, call: JobCall): RunnerError | undefined {
  if (call.body.length <= limits.requestBytesMax) return undefined;
  return payloadTooLarge(name, 'requestBytesMax', { size: call.body.length, limit: limits.requestBytesMax, callId: call.id });
}

/** `PAYLOAD_TOO_LARGE` for results above the limits of an executor. */
export function responseTooLarge({ name, limits }: FaasExecutor, execution: Execution): RunnerError | undefined {
  const result = execution.results.find(({ body }) => body.length > limits.responseBytesMax);
  return result && payloadTooLarge(name, 'responseBytesMax', { size: result.body.length, limit: limits.responseBytesMax });
}

function payloadTooLarge(
  executor: string,
  limitName: string,
  details: { readonly size: number; readonly limit: number; readonly callId?: string },
): RunnerError {
  const message = `${details.size} bytes are more than ${limitName} of executor ${executor}, ${details.limit} bytes`;
  return new RunnerError('PAYLOAD_TOO_LARGE', message, { details: { executor, limitName, ...details } });
}
