/**
 * Which executor runs which job, and the only place that decides to try again.
 *
 * Everything is resolved when the registry is built; a call looks its route up and runs.
 */

import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { JobCall, JobIdLike, JobResult } from '../job/call.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Span, Telemetry } from '../telemetry/telemetry.ts';
import { AttemptSpan } from './attempt-span.ts';
import { Deadlines, Expiring } from './deadline.ts';
import { requestTooLarge, responseTooLarge } from './executor.ts';
import type { Execution, ExecutionReport, FaasExecutor } from './executor.ts';
import { ExecutorMetrics } from './metrics.ts';
import { backoffMs, isPlatformFailure, mayFallBack, mayRepeat } from './resilience.ts';
import type { Admission, CircuitState, ExecutionPolicy, JobTraits } from './resilience.ts';
import { RouteTable } from './routes.ts';
import type { JobRoute, Route, RouteDescription, Target } from './routes.ts';

export type ExecutorEvent =
  | { readonly type: 'circuit'; readonly executor: string; readonly state: CircuitState }
  | {
      readonly type: 'fallback';
      readonly callId: string;
      readonly jobId: bigint;
      readonly from: string;
      readonly to: string;
      readonly code: ErrorCode;
    };

export interface ExecutorRegistryOptions {
  /** Runs every job that has no executor of its own. */
  readonly local?: FaasExecutor | undefined;
  readonly jobs?: Iterable<readonly [JobIdLike, JobRoute]>;
  /** Defaults for every job. */
  readonly policy?: ExecutionPolicy | undefined;
  /** What the job definitions say; undefined for a job that nobody defined. */
  readonly traits?: (jobId: bigint) => JobTraits | undefined;
  readonly onEvent?: (event: ExecutorEvent) => void;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  /** In [0, 1), for the jitter of the back-off. */
  readonly random?: () => number;
}

export interface ExecuteOptions {
  readonly signal?: AbortSignal | undefined;
  /** Attempts of earlier runs of the program: numbering goes on from here. Default 0. */
  readonly attemptsBefore?: number | undefined;
  /** The span of the call. Default: the trace that follows from the call. */
  readonly parent?: Span | undefined;
  /** Awaited before each attempt; when it fails the attempt is not made and `execute` rejects with its error. */
  readonly onAttempt?: ((attempt: number, executor: string, reason: string) => void | Promise<void>) | undefined;
  /** Awaited after each failed attempt. `nextAt`: when the next one starts, milliseconds since the epoch; undefined when there is none. */
  readonly onAttemptFailed?: ((attempt: number, error: RunnerError, nextAt: number | undefined) => void | Promise<void>) | undefined;
}

export interface Executed {
  readonly results: readonly JobResult[];
  readonly report: ExecutionReport | undefined;
  /** The name of the executor that answered. */
  readonly executor: string;
  /** The number of the attempt that answered. */
  readonly attempt: number;
}

/** An executor that ignores its deadline is given up on this much later. */
const DEADLINE_GRACE_MS = 1_000;
const NO_OPTIONS: ExecuteOptions = {};

/**
 * Executes calls: at least one attempt, more only when the job provably did not run (`retry: 'safe'`) or the job is idempotent.
 *
 * Rejects with the error of the last attempt; besides those of the executor: `JOB_UNKNOWN`, `PAYLOAD_TOO_LARGE`, `QUEUE_FULL`,
 * `EXECUTOR_CIRCUIT_OPEN`, `EXECUTOR_CLOSED`, `ABORTED`.
 *
 * @example
 * const registry = new ExecutorRegistry({ local: new LocalExecutor(router), jobs: [[1, { executor, policy: { timeoutMs: 5_000 } }]] });
 * const { results, executor } = await registry.execute(call);
 */
export class ExecutorRegistry {
  readonly #options: ExecutorRegistryOptions;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #random: () => number;
  readonly #metrics: ExecutorMetrics;
  readonly #deadlines: Deadlines;
  readonly #routes: RouteTable;
  readonly #closing = new AbortController();
  #closed: Promise<void> | undefined;

  constructor(options: ExecutorRegistryOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#telemetry = options.telemetry ?? silentTelemetry;
    this.#random = options.random ?? Math.random;
    this.#metrics = new ExecutorMetrics(this.#telemetry.metrics);
    this.#deadlines = new Deadlines(this.#clock);
    this.#routes = new RouteTable({
      ...options,
      clock: this.#clock,
      metrics: this.#metrics,
      onCircuit: (executor, state) => this.#circuitChanged(executor, state),
    });
  }

  async execute(call: JobCall, options: ExecuteOptions = NO_OPTIONS): Promise<Executed> {
    const run = new Run(this.#routes.of(call), call, options);
    for (;;) {
      const wait = this.#begin(run);
      if (wait) await wait;
      try {
        const execution = await this.#invoke(run);
        this.#succeeded(run, execution);
        return { results: execution.results, report: execution.report, executor: run.target.host.executor.name, attempt: run.attempt };
      } catch (thrown) {
        await this.#failed(run, toRunnerError(thrown));
      }
    }
  }

  /** How many calls of the job would run at once now; those beyond wait for a place. */
  room(jobId: bigint): number {
    return this.#routes.room(jobId);
  }

  /** The routes, for `why` and `doctor`. */
  describe(): RouteDescription[] {
    return this.#routes.describe();
  }

  /** Every executor that a route names, once. */
  executors(): FaasExecutor[] {
    return this.#routes.executors();
  }

  /** Graceful and idempotent: running attempts end, none is started any more, then every executor is closed. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing.abort(new RunnerError('EXECUTOR_CLOSED', 'the executors were closed'));
    const closed = await Promise.allSettled(this.executors().map(async (executor) => executor.close?.()));
    const failed = closed.find((outcome) => outcome.status === 'rejected');
    if (failed) throw toRunnerError(failed.reason);
  }

  /** Everything before an attempt. A promise only when something has to be waited for. */
  #begin(run: Run): Promise<void> | undefined {
    if (this.#closing.signal.aborted) throw this.#closing.signal.reason;
    if (run.options.signal?.aborted) {
      throw new RunnerError('ABORTED', `call ${run.call.id} was cancelled before it started`, {
        cause: run.options.signal.reason,
        retry: 'safe',
      });
    }
    const { host, breaker } = run.target;
    const tooLarge = requestTooLarge(host.executor, run.call);
    if (tooLarge) throw tooLarge;
    const plain = !run.route.slots && !host.slots && !run.options.onAttempt && (!breaker || breaker.state === 'closed');
    return plain ? undefined : this.#beginSlowly(run);
  }

  async #beginSlowly(run: Run): Promise<void> {
    const { route, options } = run;
    if (route.slots && !route.slots.tryAcquire()) await route.slots.acquire(options.signal);
    try {
      await this.#enter(run);
    } catch (error) {
      route.slots?.release();
      throw error;
    }
    if (!options.onAttempt) return;
    try {
      await options.onAttempt(run.attempt, run.target.host.executor.name, run.reason);
    } catch (error) {
      run.target.breaker?.withdrawn(run.admission);
      leave(run);
      throw error;
    }
  }

  /** Takes a place at the executor and asks its circuit; a refused call goes on to the fallback. */
  async #enter(run: Run): Promise<void> {
    for (;;) {
      const { breaker } = run.target;
      const { executor, slots } = run.target.host;
      if (slots && !slots.tryAcquire()) await slots.acquire(run.options.signal);
      run.admission = breaker?.admit() ?? 'pass';
      if (run.admission !== 'refused') return;
      slots?.release();
      const refusal = new RunnerError(
        'EXECUTOR_CIRCUIT_OPEN',
        `the circuit of executor ${executor.name} is open; call ${run.call.id} was not sent`,
        {
          cause: run.lastError,
          details: { executor: executor.name, probeAt: breaker?.probeAt },
        },
      );
      if (!this.#fallBack(run, refusal)) throw refusal;
    }
  }

  #invoke(run: Run): Promise<Execution> {
    const { call, target, attempt, options } = run;
    const { executor } = target.host;
    const { startSpan } = this.#telemetry;
    if (startSpan) {
      const { name } = executor;
      const isRemote = target.foreign;
      run.span = new AttemptSpan(startSpan, { call, job: run.route.job, executor: name, attempt, isRemote, parent: options.parent });
    }
    run.startedAt = this.#clock.monotonic();
    target.metrics.started();
    const deadline = this.#clock.now() + target.timeoutMs;
    const hasFallback = run.route.fallback !== undefined && target === run.route.primary;
    const dueMs = run.startedAt + target.timeoutMs;
    const limits = { deadline, dueMs, signal: options.signal, attempt, hasFallback };
    const { span } = run;
    const execution = span ? span.run(() => executor.invoke(span.call, limits)) : executor.invoke(call, limits);
    if (!target.foreign) return execution;
    return new Promise((resolve, reject) => {
      const guard = new Guard(run, deadline + DEADLINE_GRACE_MS, reject);
      this.#deadlines.add(guard, dueMs + DEADLINE_GRACE_MS);
      execution.then(resolve, reject).finally(() => this.#deadlines.remove(guard));
    });
  }

  #succeeded(run: Run, execution: Execution): void {
    const { target } = run;
    const tooLarge = target.foreign && responseTooLarge(target.host.executor, execution);
    if (tooLarge) throw tooLarge;
    target.breaker?.succeeded(run.admission);
    leave(run);
    target.metrics.ended(this.#clock.monotonic() - run.startedAt, execution.report);
    run.span?.succeeded(execution.report);
  }

  /** Decides about the next attempt: prepares it and returns, or throws. */
  async #failed(run: Run, error: RunnerError): Promise<void> {
    this.#recordFailure(run, error);
    run.lastError = error;
    const { policy } = run.route;
    const again = run.tries < policy.attemptsMax && mayRepeat(error, policy.idempotent) && !this.#closing.signal.aborted;
    const waitMs = again
      ? Math.max(backoffMs(policy.backoff, run.tries, this.#random), Math.min(askedToWaitMs(error), policy.backoff.maxMs))
      : 0;
    const attempt = run.attempt;
    const goesOn = again || this.#fallBack(run, error);
    const failedHook = run.options.onAttemptFailed?.(attempt, error, goesOn ? this.#clock.now() + waitMs : undefined);
    if (failedHook) await failedHook;
    if (!goesOn) throw error;
    if (again) {
      run.tries += 1;
      run.reason = `attempt ${run.tries} after ${error.code}`;
    }
    run.attempt += 1;
    if (waitMs > 0) await this.#sleep(waitMs, run);
  }

  #recordFailure(run: Run, error: RunnerError): void {
    const { breaker, metrics } = run.target;
    if (isPlatformFailure(error.code)) breaker?.failed(run.admission);
    else if (error.code === 'ABORTED' || error.code === 'QUEUE_FULL' || error.code === 'EXECUTOR_CLOSED') breaker?.withdrawn(run.admission);
    else breaker?.succeeded(run.admission);
    leave(run);
    metrics.failed(this.#clock.monotonic() - run.startedAt, error.code);
    run.span?.failed(error);
    run.span = undefined;
  }

  /** Moves the call to its fallback executor, when there is one that may take it. */
  #fallBack(run: Run, error: RunnerError): boolean {
    const { fallback, primary, policy } = run.route;
    if (!fallback || run.target !== primary || !mayFallBack(error, policy.idempotent) || this.#closing.signal.aborted) return false;
    if (requestTooLarge(fallback.host.executor, run.call)) return false;
    const from = primary.host.executor.name;
    const to = fallback.host.executor.name;
    run.target = fallback;
    run.tries = 1;
    run.reason = `fallback from ${from}: ${error.code}`;
    this.#metrics.fellBack(from, run.route.job);
    this.#telemetry.log.warn('call goes to the fallback executor', { callId: run.call.id, from, to, code: error.code });
    this.#emit({ type: 'fallback', callId: run.call.id, jobId: run.call.jobId, from, to, code: error.code });
    return true;
  }

  async #sleep(waitMs: number, run: Run): Promise<void> {
    const { signal } = run.options;
    const either = signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal;
    try {
      await this.#clock.sleep(waitMs, either);
    } catch (cause) {
      if (signal?.aborted)
        throw new RunnerError('ABORTED', `call ${run.call.id} was cancelled between two attempts`, {
          cause,
          retry: run.lastError?.retry ?? 'safe',
        });
      throw run.lastError ?? cause;
    }
  }

  /** A listener that throws must not change what happens to the call. */
  #emit(event: ExecutorEvent): void {
    try {
      this.#options.onEvent?.(event);
    } catch (error) {
      this.#telemetry.log.error('a listener of executor events failed', { error, event: event.type });
    }
  }

  #circuitChanged(executor: string, state: CircuitState): void {
    this.#metrics.circuit(executor, state);
    this.#telemetry.log[state === 'open' ? 'warn' : 'info'](`circuit is ${state}`, { executor });
    this.#emit({ type: 'circuit', executor, state });
  }
}

/** One call on its way through its attempts. */
class Run {
  readonly route: Route;
  readonly call: JobCall;
  readonly options: ExecuteOptions;
  target: Target;
  reason: string;
  /** Number of the present attempt, over all runs of the program. */
  attempt: number;
  /** Attempts on the present executor. */
  tries = 1;
  admission: Admission = 'pass';
  startedAt = 0;
  lastError: RunnerError | undefined = undefined;
  span: AttemptSpan | undefined = undefined;

  constructor(route: Route, call: JobCall, options: ExecuteOptions) {
    this.route = route;
    this.call = call;
    this.options = options;
    this.target = route.primary;
    this.reason = route.reason;
    this.attempt = (options.attemptsBefore ?? 0) + 1;
  }
}

/** Gives up on an executor that ignores its deadline. */
class Guard extends Expiring {
  readonly #run: Run;
  readonly #reject: (error: RunnerError) => void;

  constructor(run: Run, deadline: number, reject: (error: RunnerError) => void) {
    super(deadline);
    this.#run = run;
    this.#reject = reject;
  }

  expire(): void {
    const { call, target } = this.#run;
    this.#reject(new RunnerError('EXECUTOR_TIMEOUT', `executor ${target.host.executor.name} ignored the deadline of call ${call.id}`));
  }
}

/** What the platform said with Retry-After. */
function askedToWaitMs(error: RunnerError): number {
  const { retryAfterMs } = error.details;
  return typeof retryAfterMs === 'number' && retryAfterMs > 0 ? retryAfterMs : 0;
}

function leave(run: Run): void {
  run.target.host.slots?.release();
  run.route.slots?.release();
}
