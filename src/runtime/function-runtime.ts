/** The function runtime: calls of functions in, answers out; a pool of instances of one backend beneath. */

import { randomBytes, randomUUID } from 'node:crypto';
import { systemClock } from '../clock.ts';
import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { Deadlines } from '../executor/deadline.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { BufferedCall, StreamedCall } from './answered-calls.ts';
import { instanceEnvironment } from './environment.ts';
import { infoOf, stateOf } from './instance-info.ts';
import type { CallHost, FunctionCall } from './function-call.ts';
import { LogBook } from './instance-log.ts';
import { fixedKeepAlive } from './keep-alive.ts';
import type { KeepAlive } from './keep-alive.ts';
import { holdProcess } from './hold-process.ts';
import { LiveInstance } from './live-instance.ts';
import { OwnerFolder, socketPathOf } from './owner.ts';
import { Pool } from './pool.ts';
import { FunctionMetrics, RuntimeGauges } from './runtime-metrics.ts';
import type {
  FunctionVersion,
  InstanceBackend,
  InstanceInfo,
  Invocation,
  InvocationOptions,
  InvocationReport,
  LogLine,
  RuntimeEvent,
  StreamedInvocation,
} from './runtime.ts';

export interface RuntimeLimits {
  /** Instances of all functions. Default 1,000. */
  readonly instancesMax?: number;
  /** Default 100. */
  readonly instancesPerFunctionMax?: number;
  /** Starts at the same time. Default 8. */
  readonly startsMax?: number;
  /** Calls of one version that wait for an instance. Default 1,000. */
  readonly queueMax?: number;
  /** The longest that a call waits for an instance. Default 30,000. */
  readonly queueTimeoutMs?: number;
  /** The longest that the backend takes to start a program. Default 60,000. */
  readonly startTimeoutMs?: number;
  /** The longest until a program asks for work. Default 10,000. */
  readonly initTimeoutMs?: number;
  /** Default 6,291,456, that of Lambda. */
  readonly requestBytesMax?: number;
  /** Default 6,291,556, that of Lambda. */
  readonly responseBytesMax?: number;
  /** Default 200 MiB, that of Lambda. */
  readonly streamBytesMax?: number;
}

export interface FunctionRuntimeOptions {
  readonly backend: InstanceBackend;
  /** Holds sockets and the owner's id. Of one function runtime at a time; a short path, because sockets allow 107 bytes. */
  readonly folder: string;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  readonly limits?: RuntimeLimits;
  readonly keepAlive?: KeepAlive;
  /** What functions see as their region. Default `us-east-1`. */
  readonly region?: string;
  /** Environment of all functions, over the author's; here the operator gives credentials. Never logged. */
  readonly environment?: Readonly<Record<string, string>>;
  /** The name under which a function is counted: one for those of which there is no end. Default: its own. */
  readonly countedAs?: (name: string) => string;
  /** Must not throw. `make` is of use until it returns: events that nobody wants are never made. */
  readonly onEvent?: (kind: RuntimeEvent['kind'], make: () => RuntimeEvent) => void;
}

const MIB = 1024 * 1024;
const LIMITS: Required<RuntimeLimits> = {
  instancesMax: 1_000,
  instancesPerFunctionMax: 100,
  startsMax: 8,
  queueMax: 1_000,
  queueTimeoutMs: 30_000,
  startTimeoutMs: 60_000,
  initTimeoutMs: 10_000,
  requestBytesMax: 6 * MIB,
  responseBytesMax: 6 * MIB + 100,
  streamBytesMax: 200 * MIB,
};
const CLOSE_MS = 10_000;
const MEASURE_MS = 1_000;
/** What may stand in a header of an event. */
const HEADER_TEXT = /^[\t\x20-\x7e]*$/;

/**
 * Runs functions on instances of one backend.
 *
 * An event is given to a handler at most once: another instance is tried only when the event had not left for the first. Errors of calls:
 * `FUNCTION_FAILED` (the handler threw; errorType, errorMessage, stackTrace and body in the details), `FUNCTION_CRASHED`,
 * `FUNCTION_OUT_OF_MEMORY`, `FUNCTION_INIT_FAILED`, `INSTANCE_START_FAILED`, `EXECUTOR_TIMEOUT` (the instance was ended before),
 * `EXECUTOR_CONNECTION_LOST`, `EXECUTOR_THROTTLED`, `QUEUE_FULL`, `QUEUE_TIMEOUT`, `PAYLOAD_TOO_LARGE`, `ABORTED`, `EXECUTOR_CLOSED`,
 * and those of the backend.
 *
 * @example
 * const runtime = new FunctionRuntime({ backend, folder: '/run/bpr' });
 * await runtime.start();
 * const { body, report } = await runtime.invoke(fn, Buffer.from('{"a":1}'));
 */
export class FunctionRuntime {
  readonly limits: Required<RuntimeLimits>;
  readonly #options: FunctionRuntimeOptions;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #deadlines: Deadlines;
  readonly #pool: Pool<LiveInstance>;
  readonly #host: CallHost;
  readonly #logBook = new LogBook();
  /** By function name. */
  readonly #metrics = new Map<string, FunctionMetrics>();
  readonly #gauges: RuntimeGauges;
  /** While calls run, and up to a second longer: asking for each call whether it is the last would cost more. */
  #hold: (() => void) | undefined;
  #measuring: CancelTimer | undefined;
  readonly #starting = new Set<LiveInstance>();
  /** Calls that wait or run. */
  #inFlight = 0;
  #owner: OwnerFolder | undefined;
  #closing: Promise<void> | undefined;

  /** Does no I/O. */
  constructor(options: FunctionRuntimeOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#telemetry = options.telemetry ?? silentTelemetry;
    this.limits = { ...LIMITS, ...options.limits };
    this.#gauges = new RuntimeGauges(this.#telemetry.metrics);
    this.#deadlines = new Deadlines(this.#clock);
    this.#pool = new Pool<LiveInstance>({
      launch: (fn, signal) => this.#launch(fn, signal),
      clock: this.#clock,
      deadlines: this.#deadlines,
      limits: this.limits,
      keepAlive: options.keepAlive ?? fixedKeepAlive(),
      observer: {
        ended: (fn, reason) => this.#metricsOf(fn.name).evicted(reason),
        paused: ({ fn, id }, isPaused) => this.#tell({ fn, id }, isPaused ? 'paused' : 'resumed'),
      },
    });
    this.#host = {
      pool: this.#pool,
      clock: this.#clock,
      deadlines: this.#deadlines,
      limits: this.limits,
      logBook: this.#logBook,
      taken: (call) => this.#tellCall(call, 'started'),
      ended: (call, outcome, report) => this.#ended(call, outcome, report),
    };
  }

  /** Takes the folder and ends what an earlier process of it left. Throws `BACKEND_UNAVAILABLE`, `CONFIG_INVALID`. */
  async start(): Promise<void> {
    if (this.#owner) throw new RunnerError('STATE_INVALID', 'the function runtime is started');
    const { backend, folder } = this.#options;
    const reason = await backend.unavailable();
    if (reason !== undefined) throw new RunnerError('BACKEND_UNAVAILABLE', `the backend ${backend.name} does not work here: ${reason}`);
    const owner = await OwnerFolder.take(folder);
    try {
      const reaped = (await backend.reapStale?.(owner.ownerId)) ?? 0;
      if (reaped > 0) this.#telemetry.log.warn('ended instances that an earlier process left', { reaped, backend: backend.name });
    } catch (thrown) {
      await owner.release();
      throw thrown;
    }
    this.#owner = owner;
  }

  /** The whole answer. */
  invoke(fn: FunctionVersion, event: Uint8Array, options: InvocationOptions = {}): Promise<Invocation> {
    const refusal = this.#refusal(fn, event, options);
    if (refusal) return Promise.reject(refusal);
    const call = new BufferedCall(this.#host, fn, { event, options, requestId: options.requestId ?? randomUUID() });
    this.#begin(call);
    return call.outcome.promise;
  }

  /** The answer as it is written; one that is not streamed is one chunk. */
  stream(fn: FunctionVersion, event: Uint8Array, options: InvocationOptions = {}): Promise<StreamedInvocation> {
    const refusal = this.#refusal(fn, event, options);
    if (refusal) return Promise.reject(refusal);
    const call = new StreamedCall(this.#host, fn, { event, options, requestId: options.requestId ?? randomUUID() });
    this.#begin(call);
    return call.outcome.promise;
  }

  instances(): InstanceInfo[] {
    const up = this.#pool.members().map((member) => infoOf(member.instance, stateOf(member), member));
    return [...up, ...[...this.#starting].map((instance) => infoOf(instance, 'starting', { busy: 0, leases: 0 }))];
  }

  /** Resolves when so many instances are ready. `keep`: they stay without calls, and are started again when they are lost. */
  warm(fn: FunctionVersion, count: number, options: { readonly keep?: boolean } = {}): Promise<void> {
    if (!this.#owner) return Promise.reject(notStarted());
    return this.#pool.warm(fn, count, options.keep);
  }

  /** Ends an instance at once; a call on it is `ABORTED`. False: there is none. */
  async stopInstance(id: string): Promise<boolean> {
    const member = this.#pool.members().find(({ instance }) => instance.id === id);
    if (!member) return false;
    await this.#pool.discard(member);
    return true;
  }

  /**
   * The code of this name was replaced: instances of other fingerprints than `keep` end, at once or after their call. Calls that wait for
   * one already are still served by it; a call that comes later never is.
   */
  retire(name: string, keep: readonly string[]): void {
    this.#pool.retire(name, keep);
  }

  /** The newest lines of a function, oldest first. */
  log(name: string, options: { readonly limit?: number; readonly instanceId?: string } = {}): LogLine[] {
    return this.#logBook.read(name, options);
  }

  /** Every line of every function, as it is written. Returns what ends it. The listener must not throw. */
  onLog(listener: (line: LogLine) => void): () => void {
    return this.#logBook.listen(listener);
  }

  /** Refuses new calls, lets the others end until the deadline (default 10,000 ms), then ends all instances. Idempotent. */
  close(deadlineMs = CLOSE_MS): Promise<void> {
    return (this.#closing ??= this.#close(deadlineMs));
  }

  async #close(deadlineMs: number): Promise<void> {
    await this.#pool.close(deadlineMs);
    this.#measuring?.();
    this.#letGo();
    this.#gauges.set([], this.#pool.queue);
    await this.#options.backend.close?.();
    await this.#owner?.release();
  }

  #refusal(fn: FunctionVersion, event: Uint8Array, options: InvocationOptions): RunnerError | undefined {
    const { requestBytesMax } = this.limits;
    if (!this.#owner) return notStarted();
    if (this.#closing) return new RunnerError('EXECUTOR_CLOSED', 'the function runtime is closed');
    if (event.length > requestBytesMax) {
      const details = { size: event.length, limit: requestBytesMax };
      return new RunnerError(
        'PAYLOAD_TOO_LARGE',
        `an event of ${event.length} bytes is more than requestBytesMax, ${requestBytesMax} bytes`,
        { details },
      );
    }
    const { signal, concurrencyMax, requestId, contentType, clientContext, traceId, functionArn } = options;
    if (signal?.aborted)
      return new RunnerError('ABORTED', 'the call was cancelled before it started', { cause: signal.reason, retry: 'safe' });
    const malformed = malformedOf(requestId) ?? malformedOf(contentType) ?? malformedOf(clientContext) ?? malformedOf(traceId);
    const text = malformed ?? malformedOf(functionArn);
    if (text !== undefined)
      return new RunnerError('WIRE_MALFORMED', `${JSON.stringify(text.slice(0, 100))} cannot be the value of a header`);
    if (requestId !== undefined && (requestId === '' || requestId.includes('/'))) {
      return new RunnerError('WIRE_MALFORMED', `${JSON.stringify(requestId)} cannot be a request id`);
    }
    const inFlight = this.#metrics.get(fn.name)?.inFlight ?? 0;
    if (concurrencyMax === undefined || inFlight < concurrencyMax) return undefined;
    const details = { name: fn.name, concurrencyMax, inFlight };
    return new RunnerError('EXECUTOR_THROTTLED', `${inFlight} calls of ${fn.name} run; it may have ${concurrencyMax} at a time`, {
      details,
    });
  }

  #begin(call: FunctionCall): void {
    this.#inFlight += 1;
    this.#metricsOf(call.fn.name).began();
    this.#measureLater();
    this.#hold ??= holdProcess();
    call.begin();
    // Most never wait: an instance was there, or they were refused.
    if (!call.wasTaken && !call.isOver) this.#tellCall(call, 'queued');
  }

  /** Gauges are set once a second while calls go on: nothing is counted per call for them. */
  #measureLater(): void {
    this.#measuring ??= this.#clock.after(MEASURE_MS, () => {
      this.#measuring = undefined;
      this.#gauges.set(this.instances(), this.#pool.queue);
      if (this.#inFlight > 0) this.#measureLater();
      else this.#letGo();
    });
  }

  #letGo(): void {
    this.#hold?.();
    this.#hold = undefined;
  }

  #ended(call: FunctionCall, outcome: ErrorCode | 'OK', report: InvocationReport | undefined): void {
    this.#inFlight -= 1;
    this.#metricsOf(call.fn.name).ended(outcome, report);
    this.#tellCall(call, 'finished', { outcome, report });
  }

  #tellCall(
    call: FunctionCall,
    state: (RuntimeEvent & { kind: 'invocation' })['state'],
    end?: { readonly outcome: ErrorCode | 'OK'; readonly report: InvocationReport | undefined },
  ): void {
    this.#options.onEvent?.('invocation', () => {
      const { fn, requestId, instanceId } = call;
      return {
        kind: 'invocation',
        at: this.#clock.now(),
        requestId,
        name: fn.name,
        version: fn.version,
        state,
        ...(instanceId !== undefined && { instanceId }),
        ...(end && { outcome: end.outcome }),
        // A copy: were many reports kept, all later ones would be taken for lasting, and live until the next full collection.
        ...(end?.report && { report: { ...end.report } }),
      };
    });
  }

  async #launch(fn: FunctionVersion, signal: AbortSignal): Promise<LiveInstance> {
    const { backend, folder, region, environment: shared } = this.#options;
    const key = randomBytes(6).toString('hex');
    const id = `${fn.name
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, '-')
      .slice(0, 40)}-${key}`.replace(/^-+/, '');
    const startedAt = this.#clock.now();
    const instance = new LiveInstance(fn, {
      id,
      ownerId: this.#owner?.ownerId ?? '',
      socketPath: socketPathOf(folder, key),
      backend,
      environment: instanceEnvironment(fn, {
        instanceId: key,
        startedAt,
        ...(region !== undefined && { region }),
        ...(shared && { shared }),
      }),
      clock: this.#clock,
      logBook: this.#logBook,
      startTimeoutMs: this.limits.startTimeoutMs,
      initTimeoutMs: this.limits.initTimeoutMs,
    });
    this.#starting.add(instance);
    this.#tell(instance, 'starting');
    try {
      await instance.start(signal);
    } catch (thrown) {
      const reason = thrown instanceof Error ? thrown.message : String(thrown);
      // A start that was given up here, because the function was replaced or the runtime closes, is nothing to worry about.
      const level = signal.aborted ? 'info' : 'warn';
      this.#telemetry.log[level]('an instance did not start', { function: fn.name, version: fn.version, instance: id, error: thrown });
      this.#tell(instance, 'failed', reason);
      throw thrown;
    } finally {
      this.#starting.delete(instance);
    }
    this.#metricsOf(fn.name).started(instance);
    this.#tell(instance, 'ready');
    void instance.ended.then(() => this.#tell(instance, 'ended'));
    return instance;
  }

  #tell(
    { id, fn }: { readonly id: string; readonly fn: FunctionVersion },
    state: (RuntimeEvent & { kind: 'instance' })['state'],
    reason?: string,
  ): void {
    this.#options.onEvent?.('instance', () => {
      const { name, version } = fn;
      const at = this.#clock.now();
      return { kind: 'instance', at, instanceId: id, name, version, state, ...(reason !== undefined && { reason }) };
    });
  }

  #metricsOf(name: string): FunctionMetrics {
    const known = this.#metrics.get(name);
    if (known) return known;
    const counted = this.#options.countedAs?.(name) ?? name;
    const metrics = this.#metrics.get(counted) ?? new FunctionMetrics(this.#telemetry.metrics, counted);
    this.#metrics.set(counted, metrics);
    return metrics;
  }
}

const notStarted = (): RunnerError =>
  new RunnerError('STATE_INVALID', 'the function runtime is not started: await start()', { retry: 'safe' });

/** What of it cannot stand in a header. */
function malformedOf(text: string | undefined): string | undefined {
  return text === undefined || HEADER_TEXT.test(text) ? undefined : text;
}
