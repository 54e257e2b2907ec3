/** The in-process executor: the author's router in this process, behind the same contract as every platform. */

import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { JobCall, JobResult } from '../job/call.ts';
import type { ObserverErrorListener } from '../job/router.ts';
import { Deadlines, Expiring } from './deadline.ts';
import type { Execution, ExecutorLimits, FaasExecutor, InvokeOptions } from './executor.ts';

export const IN_PROCESS = 'in-process';

/** What the in-process executor needs of the job router. Undefined: no route takes the job. Empty: the job has no result. */
export interface LocalRouter {
  call(
    call: JobCall,
    options: { readonly signal: AbortSignal; readonly onObserverError?: ObserverErrorListener | undefined },
  ): Promise<readonly JobResult[] | undefined>;
}

const LIMITS: ExecutorLimits = {
  requestBytesMax: Number.MAX_SAFE_INTEGER,
  responseBytesMax: Number.MAX_SAFE_INTEGER,
  timeoutMsMax: Number.MAX_SAFE_INTEGER,
};

/**
 * Runs jobs in this process.
 *
 * A job that does not look at its signal runs on after its deadline; its result is then discarded. Rejects with what the job
 * threw, `JOB_UNKNOWN`, `EXECUTOR_TIMEOUT`, `ABORTED`, `EXECUTOR_CLOSED`.
 *
 * @example
 * const executor = new LocalExecutor(router);
 * const { results } = await executor.invoke(call, { deadline: Date.now() + 1_000, attempt: 1 });
 */
export class LocalExecutor implements FaasExecutor {
  readonly name = IN_PROCESS;
  readonly limits = LIMITS;
  readonly #router: LocalRouter;
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #onObserverError: ObserverErrorListener | undefined;
  #running = 0;
  #closed = false;
  #drained: (() => void) | undefined;
  #closing: Promise<void> | undefined;

  /** `onObserverError` hears of jobs that watch every call and failed while another job answered. */
  constructor(router: LocalRouter, options: { readonly clock?: Clock; readonly onObserverError?: ObserverErrorListener } = {}) {
    this.#router = router;
    this.#onObserverError = options.onObserverError;
    this.#clock = options.clock ?? systemClock;
    this.#deadlines = new Deadlines(this.#clock);
  }

  invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    if (this.#closed)
      return Promise.reject(new RunnerError('EXECUTOR_CLOSED', `executor ${this.name} is closed; call ${call.id} was not started`));
    if (options.signal?.aborted) {
      const cause: unknown = options.signal.reason;
      return Promise.reject(new RunnerError('ABORTED', `call ${call.id} was cancelled before it started`, { cause, retry: 'safe' }));
    }
    if (options.deadline <= this.#clock.now())
      return Promise.reject(
        new RunnerError('EXECUTOR_TIMEOUT', `the deadline of call ${call.id} passed before it started`, { retry: 'safe' }),
      );
    this.#running += 1;
    return new Promise((resolve, reject) => {
      const run = new LocalRun(call, options, { resolve, reject, end: this.#end, onObserverError: this.#onObserverError });
      this.#deadlines.add(run, options.dueMs);
      this.#router.call(call, run).then(
        (results) => run.succeed(results),
        (thrown: unknown) => run.fail(thrown),
      );
    });
  }

  close(): Promise<void> {
    this.#closed = true;
    this.#closing ??= new Promise((resolve) => {
      if (this.#running === 0) resolve();
      else this.#drained = resolve;
    });
    return this.#closing;
  }

  readonly #end = (run: LocalRun): void => {
    this.#deadlines.remove(run);
    this.#running -= 1;
    if (this.#running === 0) this.#drained?.();
  };
}

interface Settle {
  readonly resolve: (execution: Execution) => void;
  readonly reject: (error: RunnerError) => void;
  readonly end: (run: LocalRun) => void;
  readonly onObserverError: ObserverErrorListener | undefined;
}

/** One running call. Itself the options that the router gets: the signal is made when the job first asks for it. */
class LocalRun extends Expiring {
  readonly #call: JobCall;
  readonly #options: InvokeOptions;
  readonly #settle: Settle;
  readonly #abort: (() => void) | undefined;
  #controller: AbortController | undefined;
  #cancelled: RunnerError | undefined;
  #settled = false;

  constructor(call: JobCall, options: InvokeOptions, settle: Settle) {
    super(options.deadline);
    this.#call = call;
    this.#options = options;
    this.#settle = settle;
    const { signal } = options;
    if (!signal) return;
    this.#abort = () => this.#cancel(new RunnerError('ABORTED', `call ${call.id} was cancelled`, { cause: signal.reason }));
    signal.addEventListener('abort', this.#abort, { once: true });
  }

  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController();
      if (this.#cancelled) this.#controller.abort(this.#cancelled);
    }
    return this.#controller.signal;
  }

  get onObserverError(): ObserverErrorListener | undefined {
    return this.#settle.onObserverError;
  }

  succeed(results: readonly JobResult[] | undefined): void {
    if (this.#settled) return;
    if (results === undefined) {
      const jobId = String(this.#call.jobId);
      this.fail(new RunnerError('JOB_UNKNOWN', `no route takes job ${jobId}`, { details: { jobId } }));
      return;
    }
    this.#end();
    this.#settle.resolve({ results });
  }

  fail(thrown: unknown): void {
    if (this.#settled) return;
    this.#end();
    this.#settle.reject(toRunnerError(thrown, 'JOB_FAILED'));
  }

  expire(): void {
    this.#cancel(new RunnerError('EXECUTOR_TIMEOUT', `call ${this.#call.id} of job ${this.#call.jobId} did not end before its deadline`));
  }

  #cancel(error: RunnerError): void {
    if (this.#settled) return;
    this.#cancelled = error;
    this.#controller?.abort(error);
    this.fail(error);
  }

  #end(): void {
    this.#settled = true;
    if (this.#abort) this.#options.signal?.removeEventListener('abort', this.#abort);
    this.#settle.end(this);
  }
}
