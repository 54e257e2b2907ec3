/** The router: from a job id to the author's function, the same in the runner and in a deployed handler. */

import { RunnerError, toRunnerError } from '../errors.ts';
import { toJobId } from './call.ts';
import type { JobCall, JobIdLike, JobResult } from './call.ts';
import type { Job, JobInfo, Outcome, SignalSource } from './job.ts';
import type { Middleware } from './middleware.ts';

export interface RouterCallOptions {
  /** Fires when nobody waits for the result any more; handlers see it as `signal`. */
  readonly signal?: AbortSignal;
  /** Hears what the listener of the router hears, and instead of the process when the router has none. */
  readonly onObserverError?: ObserverErrorListener | undefined;
}

/** A routed job as plain data. */
export type JobDescription = JobInfo & { readonly id: string };

/** Hears of an `always` job that failed while another job answered the call. */
export type ObserverErrorListener = (error: RunnerError, job: JobInfo, call: JobCall) => void;

/**
 * Routes calls to jobs.
 *
 * - `route`: the job runs for calls of its id.
 * - `always`: the job runs for every call, in addition to the matching route. Adding one removes the fallback.
 * - `fallback`: the job runs when no route matches and there is no `always` job. A second fallback replaces the first.
 * - `layer`: wraps all that was added before it, and nothing that is added later; the last layer is the outermost.
 * - No match: the call is nobody's, `call` gives undefined.
 *
 * A router whose `Context` is not void lacks something: `withContext` gives it, and only then it can be called or handed on.
 *
 * @example
 * const router = new JobRouter().route(0, square).layer(timeout(5_000));
 * const results = await router.call({ id: '1', jobId: 0n, body, metadata: new Metadata() });
 */
export class JobRouter<in Context = void> {
  /** Only a type: a router that lacks its context is not assignable to one that does not. */
  declare readonly lacks?: (context: Context) => void;
  readonly #routes = new Map<bigint, Route<Context>>();
  #always: Route<Context>[] = [];
  #fallback: Route<Context> | undefined;
  #listener: ObserverErrorListener | undefined;

  /** Throws `JOB_DUPLICATE`, `JOB_ID_INVALID`. */
  route(id: JobIdLike, job: Job<Context>): this {
    const jobId = toJobId(id);
    const present = this.#routes.get(jobId);
    if (present) {
      throw new RunnerError(
        'JOB_DUPLICATE',
        `job id ${jobId} is routed to ${present.job.info.name} already; it cannot be routed to ${job.info.name} too`,
        {
          details: { jobId: jobId.toString(), present: present.job.info.name, added: job.info.name },
        },
      );
    }
    this.#routes.set(jobId, unlayered(job));
    return this;
  }

  always(job: Job<Context>): this {
    this.#fallback = undefined;
    this.#always.push(unlayered(job));
    return this;
  }

  fallback(job: Job<Context>): this {
    this.#fallback = unlayered(job);
    return this;
  }

  layer(middleware: Middleware): this {
    const wrap = (route: Route<Context>): Route<Context> => layered(route, middleware);
    for (const [id, route] of this.#routes) this.#routes.set(id, wrap(route));
    this.#always = this.#always.map(wrap);
    if (this.#fallback) this.#fallback = wrap(this.#fallback);
    return this;
  }

  /** A router with the same jobs, all of which get this context. Jobs that need none can be added to it. */
  withContext(context: Context): JobRouter {
    const bound = new JobRouter();
    for (const [id, route] of this.#routes) bound.#routes.set(id, bind(route, context));
    bound.#always = this.#always.map((route) => bind(route, context));
    if (this.#fallback) bound.#fallback = bind(this.#fallback, context);
    bound.#listener = this.#listener;
    return bound;
  }

  /** Replaces the listener. Without one, and when nobody else hears of it, a warning of the process is emitted. */
  onObserverError(listener: ObserverErrorListener): this {
    this.#listener = listener;
    return this;
  }

  /** Whether an id is routed; `always` and `fallback` do not count. */
  get hasRoutes(): boolean {
    return this.#routes.size > 0;
  }

  /** The routed ids in the order they were added. */
  jobIds(): bigint[] {
    return [...this.#routes.keys()];
  }

  /** What the job behind an id is; undefined when the id is not routed. */
  definition(id: JobIdLike): JobInfo | undefined {
    return this.#routes.get(toJobId(id))?.job.info;
  }

  /** All routed jobs as plain data, for listings. */
  describe(): JobDescription[] {
    return Array.from(this.#routes, ([id, { job }]) => {
      const { name, params, result, raw, idempotent, timeoutMs } = job.info;
      return { id: id.toString(), name, params, result, raw, idempotent, ...(timeoutMs !== undefined && { timeoutMs }) };
    });
  }

  /**
   * Runs the jobs that take the call, side by side. Undefined when nobody takes it; else the results, that of the matching route first.
   * A job without a result adds nothing.
   *
   * Rejects with the error of the matching route (or fallback). An `always` job that fails does not spoil the answer of another: its
   * error goes to `onObserverError`; when there is no other result and no matching route, the call rejects with it.
   */
  async call(this: JobRouter, call: JobCall, options?: RouterCallOptions): Promise<JobResult[] | undefined> {
    const route = this.#routes.get(call.jobId);
    if (this.#always.length > 0) return this.#callAll(route, call, options);
    const target = route ?? this.#fallback;
    if (target === undefined) return undefined;
    const outcome = target.run(call, options);
    const result = outcome instanceof Promise ? await outcome : outcome;
    return result === undefined ? [] : [result];
  }

  async #callAll(route: Route<Context> | undefined, call: JobCall, options: RouterCallOptions = {}): Promise<JobResult[]> {
    const { onObserverError } = options;
    const targets = route ? [route, ...this.#always] : this.#always;
    const outcomes = await Promise.allSettled(targets.map(async (target) => target.run(call, options)));
    const results: JobResult[] = [];
    const failures: (readonly [unknown, JobInfo])[] = [];
    for (const [index, outcome] of outcomes.entries()) {
      const { info } = (targets[index] as Route<Context>).job;
      if (outcome.status === 'rejected') failures.push([outcome.reason, info]);
      else if (outcome.value !== undefined) results.push(outcome.value);
    }
    const hasFailed = route ? outcomes[0]?.status === 'rejected' : results.length === 0;
    const [fatal] = hasFailed ? failures.splice(0, 1) : [];
    for (const [reason, info] of failures) {
      const error = toRunnerError(reason, 'JOB_FAILED');
      const listeners = [this.#listener, onObserverError].filter((listener) => listener !== undefined);
      if (listeners.length === 0) listeners.push(warnOfObserverError);
      // The call was answered: what a listener throws, now or later, changes nothing for it.
      for (const listener of listeners)
        (async () => listener(error, info, call))().catch((thrown: unknown) => warnOfObserverError(toRunnerError(thrown), info, call));
    }
    if (fatal) throw fatal[0];
    return results;
  }
}

interface Route<in Context> {
  readonly job: Job<Context>;
  readonly layers: readonly Middleware[];
  readonly run: Run;
}

/** A job inside of its layers. Without them nobody asks for the signal but the job. */
type Run = (call: JobCall, source: SignalSource | undefined) => Outcome;

function layered<Context>({ job, layers, run }: Route<Context>, layer: Middleware): Route<Context> {
  const next = layer((call, signal) => run(call, signal && { signal }), job.info);
  return { job, layers: [...layers, layer], run: (call, source) => next(call, source?.signal) };
}

function unlayered<Context>(job: Job<Context>): Route<Context> {
  // A router without context is the only one that can be called, so what is passed here is `undefined` for jobs that expect nothing.
  return { job, layers: [], run: (call, source) => job.run(call, undefined as Context, source) };
}

function bind<Context>({ job, layers }: Route<Context>, context: Context): Route<void> {
  const bound: Job<void> = { info: job.info, run: (call, _, source) => job.run(call, context, source) };
  return layers.reduce(layered, unlayered(bound));
}

const warnOfObserverError: ObserverErrorListener = (error, job, call) => {
  process.emitWarning(`observer ${job.name} failed on call ${call.id}: ${error.message}`, {
    type: 'ObserverError',
    code: error.code,
  });
};
