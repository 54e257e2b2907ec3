/** Runs jobs as functions of AWS Lambda. */

import {
  BLUEPRINT,
  Deadlines,
  Expiring,
  LIMITS,
  Metadata,
  ResultDecoder,
  RunnerError,
  decodeResponse,
  encodeRequest,
  isRunnerError,
  systemClock,
} from '../../src/plugin.ts';
import type { Clock, Execution, ExecutionReport, ExecutorLimits, FaasExecutor, InvokeOptions, JobCall } from '../../src/plugin.ts';
import { Aws, Session, handlerSettings } from './client.ts';
import type { RequestOptions } from './client.ts';
import { functionFailure, invokeFailure, isNotFound } from './failure.ts';
import type { LambdaExecutorOptions } from './options.ts';
import { parseLogTail } from './report.ts';
import type { ReportLine } from './report.ts';

/** Of an event or an answer besides the bytes themselves: the names, the metadata. */
const ENVELOPE_BYTES_MAX = 64 * 1024;
const TIMEOUT_MS_MAX = 900_000;
const HEALTH_TIMEOUT_MS = 10_000;
const WARM_TIMEOUT_MS = 60_000;
const CONNECTIONS_MAX = 256;
/** In JSON a byte takes up to four characters. */
const JSON_BYTES_PER_BYTE = 4;
/** The handler bundle ends a call by itself when its time is over; its answer needs so long to get here. */
const ANSWER_MARGIN_MS = 250;
const JSON_HEADERS = { 'content-type': 'application/json' } as const;

function limitsOf(wire: 'base64' | 'json'): ExecutorLimits {
  const { requestBytesMax, responseBytesMax } = LIMITS.aws;
  const inside = (bytes: number): number =>
    wire === 'base64' ? Math.floor((bytes - ENVELOPE_BYTES_MAX) / 4) * 3 : Math.floor((bytes - ENVELOPE_BYTES_MAX) / JSON_BYTES_PER_BYTE);
  return { requestBytesMax: inside(requestBytesMax), responseBytesMax: inside(responseBytesMax), timeoutMsMax: TIMEOUT_MS_MAX };
}

/**
 * Calls functions through `Invoke`. One attempt per call: the SDK's own attempts are switched off.
 *
 * Rejects with the error that the handler reports, and with `EXECUTOR_UNREACHABLE`, `EXECUTOR_THROTTLED`, `EXECUTOR_UNAVAILABLE`,
 * `EXECUTOR_NOT_FOUND`, `EXECUTOR_UNAUTHORIZED` (the handler was not reached), `EXECUTOR_CONNECTION_LOST`, `EXECUTOR_TIMEOUT`,
 * `FUNCTION_FAILED`, `FUNCTION_CRASHED`, `FUNCTION_OUT_OF_MEMORY` (the job may have run), `FUNCTION_INIT_FAILED`, `PAYLOAD_TOO_LARGE`,
 * `CREDENTIALS_MISSING`, `PEER_MISSING`. The report is made of the REPORT line of the log.
 *
 * @example
 * const executor = new LambdaExecutor({ region: 'eu-central-1', function: 'squaring', qualifier: 'live' });
 */
export class LambdaExecutor implements FaasExecutor {
  readonly name: string;
  readonly limits: ExecutorLimits;
  readonly #options: LambdaExecutorOptions;
  readonly #aws: Aws;
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #wire: 'base64' | 'json';
  #running = 0;
  #isClosed = false;
  #drained: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  /** Does no I/O. */
  constructor(options: LambdaExecutorOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#deadlines = new Deadlines(this.#clock);
    // The deadline of a call covers all of it.
    this.#aws = new Aws(options, handlerSettings(options.connectionsMax ?? CONNECTIONS_MAX, 0));
    this.#wire = options.wire ?? 'base64';
    this.name = options.name ?? `aws-lambda:${typeof options.function === 'string' ? options.function : 'by job'}`;
    this.limits = { ...limitsOf(this.#wire), ...options.limits };
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    return this.#run(call, options, async (target, event, request) => {
      const lambda = await this.#aws.client('lambda');
      const { FunctionError, Payload, LogResult } = await lambda.invoke({ ...target, Payload: event, LogType: 'Tail' }, request);
      if (FunctionError !== undefined) throw functionFailure(Payload ?? new Uint8Array(), target.FunctionName);
      const { results } = this.#decoded(Payload ?? new Uint8Array(), call);
      return { results, report: reportOf(parseLogTail(LogResult)) };
    });
  }

  /** The bytes of the result as they arrive, for handlers that stream their answer. */
  async *invokeStream(call: JobCall, options: InvokeOptions): AsyncGenerator<Uint8Array, void, void> {
    const chunks = await this.#begin(call, options);
    try {
      yield* chunks.read();
    } catch (error) {
      throw chunks.attempt.explain(error);
    } finally {
      chunks.attempt.end();
      this.#ended();
    }
  }

  /** Asks whether the function is there, is active and may be called. */
  async health(jobId: bigint, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    const target = this.#target(jobId);
    await this.#short(target, { timeoutMs: HEALTH_TIMEOUT_MS, signal: options.signal }, async (session) => {
      const { State, StateReason } = await session
        .read('lambda', (lambda, request) => lambda.getFunctionConfiguration(target, request))
        .catch((error: unknown) => {
          throw isNotFound(error)
            ? new RunnerError('EXECUTOR_NOT_FOUND', `there is no function ${target.FunctionName}`, { cause: error })
            : error;
        });
      // An inactive one becomes active with the next call.
      if (State !== undefined && State !== 'Active' && State !== 'Inactive')
        throw new RunnerError(
          'EXECUTOR_UNAVAILABLE',
          `function ${target.FunctionName} is ${State}: ${StateReason ?? 'no reason is given'}`,
        );
      await session.read('lambda', (lambda, request) => lambda.invoke({ ...target, InvocationType: 'DryRun' }, request));
    });
  }

  /** One instance becomes ready: it gets an event that is no call. */
  async warm(jobId: bigint, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    const target = this.#target(jobId);
    await this.#short(target, { timeoutMs: WARM_TIMEOUT_MS, signal: options.signal }, async (session) => {
      const lambda = await this.#aws.client('lambda');
      const { FunctionError, Payload } = await lambda.invoke(
        { ...target, Payload: Buffer.from('{"warm":true}') },
        session.signal ? { abortSignal: session.signal } : {},
      );
      const error = FunctionError === undefined ? undefined : functionFailure(Payload ?? new Uint8Array(), target.FunctionName);
      // That a handler throws at what is no call says nothing of its readiness.
      if (error !== undefined && error.code !== 'FUNCTION_FAILED') throw error;
    });
  }

  close(): Promise<void> {
    this.#isClosed = true;
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    if (this.#running > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    await this.#aws.close();
  }

  #target(jobId: bigint): Target {
    if (this.#isClosed) throw new RunnerError('EXECUTOR_CLOSED', `executor ${this.name} is closed`);
    const { function: functions, qualifier } = this.#options;
    const FunctionName = typeof functions === 'string' ? functions : functions[jobId.toString()];
    if (FunctionName === undefined) throw new RunnerError('EXECUTOR_NOT_FOUND', `executor ${this.name} has no function for job ${jobId}`);
    return { FunctionName, ...(qualifier !== undefined && { Qualifier: qualifier }) };
  }

  #event(call: JobCall, { attempt, deadline }: InvokeOptions): Uint8Array {
    const metadata = new Metadata();
    for (const [name, value] of call.metadata) metadata.set(name, value, { sensitive: call.metadata.isSensitive(name) });
    metadata.set(BLUEPRINT.attempt, String(attempt));
    metadata.set(BLUEPRINT.timeoutMs, String(Math.max(0, Math.ceil(deadline - this.#clock.now()))));
    return encodeRequest(this.#wire, { ...call, metadata }).body;
  }

  #start(call: JobCall, options: InvokeOptions): { readonly target: Target; readonly event: Uint8Array; readonly attempt: Attempt } {
    const target = this.#target(call.jobId);
    if (options.signal?.aborted)
      throw new RunnerError('ABORTED', `call ${call.id} was cancelled before it was sent`, { cause: options.signal.reason, retry: 'safe' });
    if (options.deadline <= this.#clock.now())
      throw new RunnerError('EXECUTOR_TIMEOUT', `the deadline of call ${call.id} passed before it was sent`, { retry: 'safe' });
    const event = this.#event(call, options);
    this.#running += 1;
    return { target, event, attempt: new Attempt(target.FunctionName, options, this.#deadlines) };
  }

  async #run(
    call: JobCall,
    options: InvokeOptions,
    send: (target: Target, event: Uint8Array, request: RequestOptions) => Promise<Execution>,
  ): Promise<Execution> {
    const { target, event, attempt } = this.#start(call, options);
    try {
      return await send(target, event, { abortSignal: attempt.signal });
    } catch (error) {
      throw attempt.explain(error);
    } finally {
      attempt.end();
      this.#ended();
    }
  }

  async #begin(call: JobCall, options: InvokeOptions): Promise<{ readonly attempt: Attempt; read(): AsyncGenerator<Uint8Array> }> {
    const { target, event, attempt } = this.#start(call, options);
    try {
      const lambda = await this.#aws.client('lambda');
      const { EventStream } = await lambda.invokeWithResponseStream({ ...target, Payload: event }, { abortSignal: attempt.signal });
      return { attempt, read: () => this.#decodedStream(EventStream ?? [], call, target) };
    } catch (error) {
      attempt.end();
      this.#ended();
      throw attempt.explain(error);
    }
  }

  async *#decodedStream(
    events: AsyncIterable<StreamEvent> | Iterable<StreamEvent>,
    call: JobCall,
    { FunctionName }: Target,
  ): AsyncGenerator<Uint8Array, void, void> {
    const decoder = new ResultDecoder();
    let isComplete = false;
    for await (const { PayloadChunk, InvokeComplete } of events) {
      const bytes = PayloadChunk?.Payload ? decoder.decode(PayloadChunk.Payload) : undefined;
      if (bytes !== undefined && bytes.length > 0) yield bytes;
      if (InvokeComplete?.ErrorCode !== undefined) {
        const said = { errorType: InvokeComplete.ErrorCode, errorMessage: InvokeComplete.ErrorDetails ?? 'no reason is given' };
        throw functionFailure(Buffer.from(JSON.stringify(said)), FunctionName);
      }
      isComplete ||= InvokeComplete !== undefined;
    }
    if (!isComplete)
      throw new RunnerError('EXECUTOR_CONNECTION_LOST', `the answer of function ${FunctionName} ended before it was complete`);
    // An error, no result, or keys in another order.
    if (decoder.undecided) for (const { body } of this.#decoded(decoder.undecided, call).results) yield body;
  }

  #decoded(body: Uint8Array, call: JobCall): ReturnType<typeof decodeResponse> {
    return decodeResponse({ status: 200, headers: JSON_HEADERS, body }, call);
  }

  #ended(): void {
    this.#running -= 1;
    if (this.#running === 0) this.#drained?.();
  }

  async #short(
    { FunctionName }: Target,
    { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal | undefined },
    work: (session: Session) => Promise<void>,
  ): Promise<void> {
    const attempt = new Attempt(FunctionName, { deadline: this.#clock.now() + timeoutMs, signal, attempt: 1 }, this.#deadlines);
    try {
      await work(new Session(this.#aws, attempt.signal));
    } catch (error) {
      throw attempt.explain(
        isRunnerError(error) && (error.code.startsWith('PLATFORM_') || error.code === 'DEPLOY_FAILED') ? error.cause : error,
      );
    } finally {
      attempt.end();
    }
  }
}

interface Target {
  readonly FunctionName: string;
  readonly Qualifier?: string;
}

interface StreamEvent {
  readonly PayloadChunk?: { readonly Payload?: Uint8Array | undefined } | undefined;
  readonly InvokeComplete?: { readonly ErrorCode?: string | undefined; readonly ErrorDetails?: string | undefined } | undefined;
}

/** One call on its way: its signal fires when the caller gives it up or its deadline passes. */
class Attempt extends Expiring {
  readonly #functionName: string;
  readonly #deadlines: Deadlines;
  readonly #controller = new AbortController();
  readonly #caller: AbortSignal | undefined;
  readonly #onAbort = (): void => this.#controller.abort(this.#caller?.reason);
  #isExpired = false;

  constructor(functionName: string, { deadline, signal }: InvokeOptions, deadlines: Deadlines) {
    super(deadline + ANSWER_MARGIN_MS);
    this.#functionName = functionName;
    this.#deadlines = deadlines;
    this.#caller = signal;
    if (signal?.aborted) this.#onAbort();
    else signal?.addEventListener('abort', this.#onAbort, { once: true });
    deadlines.add(this);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  expire(): void {
    this.#isExpired = true;
    this.#controller.abort();
  }

  end(): void {
    this.#deadlines.remove(this);
    this.#caller?.removeEventListener('abort', this.#onAbort);
  }

  /** What is thrown when the request was given up says nothing but that. */
  explain(thrown: unknown): RunnerError {
    const isOwn = isRunnerError(thrown) && thrown.code !== 'ABORTED';
    if (this.#isExpired && !isOwn)
      return new RunnerError('EXECUTOR_TIMEOUT', `function ${this.#functionName} did not answer before the deadline`, { cause: thrown });
    if (this.signal.aborted && !isOwn)
      return new RunnerError('ABORTED', `the call of function ${this.#functionName} was cancelled`, {
        cause: this.#caller?.reason ?? thrown,
      });
    return invokeFailure(thrown, this.#functionName);
  }
}

function reportOf(line: ReportLine | undefined): ExecutionReport | undefined {
  if (!line) return undefined;
  return {
    coldStart: line.initMs !== undefined,
    executionMs: line.durationMs,
    requestId: line.requestId,
    ...(line.initMs !== undefined && { initMs: line.initMs }),
    ...(line.memoryUsedMb !== undefined && { memoryUsedMb: line.memoryUsedMb }),
  };
}
