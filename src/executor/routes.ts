/** The table job -> executors and policy, built once. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { toJobId } from '../job/call.ts';
import type { JobCall, JobIdLike } from '../job/call.ts';
import type { FaasExecutor } from './executor.ts';
import type { ExecutorMetrics, TargetMetrics } from './metrics.ts';
import { CircuitBreaker, Semaphore, resolvePolicy } from './resilience.ts';
import type { CircuitState, ExecutionPolicy, JobTraits, ResolvedPolicy } from './resilience.ts';

/** Where one job runs. */
export interface JobRoute {
  /** Default: the in-process executor. */
  readonly executor?: FaasExecutor | undefined;
  readonly policy?: ExecutionPolicy | undefined;
  /** Takes the call over when the executor's circuit is open, or when its attempts failed and the job provably did not run or is idempotent. */
  readonly fallback?: FaasExecutor | undefined;
}

export interface RouteDescription {
  /** Undefined: every job without an entry of its own. */
  readonly jobId: bigint | undefined;
  readonly job: string;
  readonly executor: string;
  readonly fallback: string | undefined;
  readonly policy: ResolvedPolicy;
  readonly circuit: CircuitState | undefined;
}

/** What all routes share about one executor. */
export interface Host {
  readonly executor: FaasExecutor;
  /** Of those of its jobs that have one. */
  readonly breaker: CircuitBreaker | undefined;
  readonly slots: Semaphore | undefined;
}

/** One executor as one job uses it. */
export interface Target {
  readonly host: Host;
  readonly breaker: CircuitBreaker | undefined;
  readonly timeoutMs: number;
  readonly metrics: TargetMetrics;
  /** Whether the executor is another's code: then its deadline and sizes are checked here as well. */
  readonly foreign: boolean;
}

export interface Route {
  readonly jobId: bigint | undefined;
  readonly job: string;
  readonly policy: ResolvedPolicy;
  readonly slots: Semaphore | undefined;
  readonly primary: Target;
  readonly fallback: Target | undefined;
  readonly reason: string;
}

export interface RouteTableOptions {
  readonly local?: FaasExecutor | undefined;
  readonly jobs?: Iterable<readonly [JobIdLike, JobRoute]>;
  readonly policy?: ExecutionPolicy | undefined;
  readonly traits?: (jobId: bigint) => JobTraits | undefined;
  readonly clock: Clock;
  readonly metrics: ExecutorMetrics;
  readonly onCircuit: (executor: string, state: CircuitState) => void;
}

export class RouteTable {
  readonly #options: RouteTableOptions;
  readonly #hosts = new Map<FaasExecutor, Host & { readonly breakerPolicy: string }>();
  readonly #routes = new Map<bigint, Route>();
  readonly #otherJobs: Route | undefined;

  constructor(options: RouteTableOptions) {
    this.#options = options;
    for (const [id, route] of options.jobs ?? []) {
      const jobId = toJobId(id);
      if (this.#routes.has(jobId)) throw new RunnerError('JOB_DUPLICATE', `job ${jobId} has two executors`);
      this.#routes.set(jobId, this.#build(jobId, route));
    }
    this.#otherJobs = options.local && this.#build(undefined, {});
  }

  /** The route of a call. Throws `JOB_UNKNOWN` when no executor takes the job. */
  of(call: JobCall): Route {
    const known = this.#routes.get(call.jobId);
    if (known) return known;
    if (!this.#otherJobs) {
      throw new RunnerError('JOB_UNKNOWN', `no executor takes job ${call.jobId}`, {
        details: { jobId: String(call.jobId), callId: call.id },
      });
    }
    // A job that nobody defined gets no entry: a stranger could fill the table and the metrics with job ids.
    if (!this.#options.traits?.(call.jobId)) return this.#otherJobs;
    const route = this.#build(call.jobId, {});
    this.#routes.set(call.jobId, route);
    return route;
  }

  /** How many calls of the job would get a place at once; what is not known of it yet is not found out. */
  room(jobId: bigint): number {
    const route = this.#routes.get(jobId) ?? this.#otherJobs;
    return Math.min(route?.slots?.free ?? Number.POSITIVE_INFINITY, route?.primary.host.slots?.free ?? Number.POSITIVE_INFINITY);
  }

  describe(): RouteDescription[] {
    return [...this.#routes.values(), ...(this.#otherJobs ? [this.#otherJobs] : [])].map(({ jobId, job, policy, primary, fallback }) => ({
      jobId,
      job,
      executor: primary.host.executor.name,
      fallback: fallback?.host.executor.name,
      policy,
      circuit: primary.breaker?.state,
    }));
  }

  executors(): FaasExecutor[] {
    return [...this.#hosts.keys()];
  }

  #build(jobId: bigint | undefined, route: JobRoute): Route {
    const { local, traits, metrics, policy: defaults = {} } = this.#options;
    const executor = route.executor ?? local;
    if (!executor) throw new RunnerError('CONFIG_INVALID', `job ${jobId} names no executor, and there is no in-process executor`);
    const definition = jobId === undefined ? undefined : traits?.(jobId);
    const given = { ...defaults, ...dropUndefined(route.policy ?? {}) };
    const policy = resolvePolicy(given, definition);
    const job = jobId === undefined ? 'other' : (definition?.name ?? String(jobId));
    const fallback = route.fallback === executor ? undefined : route.fallback;
    const target = (of: FaasExecutor): Target => {
      const host = this.#host(of, policy);
      const goesAround = of.reconnects === true && given.breaker === undefined && (of === fallback || fallback === undefined);
      return {
        host,
        breaker: goesAround ? undefined : host.breaker,
        timeoutMs: Math.min(policy.timeoutMs, of.limits.timeoutMsMax),
        metrics: metrics.target(of.name, job),
        foreign: of !== local,
      };
    };
    return {
      jobId,
      job,
      policy,
      slots: policy.concurrencyMax === undefined ? undefined : new Semaphore(`job ${job}`, policy.concurrencyMax, policy.queueMax),
      primary: target(executor),
      fallback: fallback && target(fallback),
      reason: route.executor ? 'configured executor' : 'default executor',
    };
  }

  #host(executor: FaasExecutor, policy: ResolvedPolicy): Host {
    const breakerPolicy = executor === this.#options.local ? 'none' : JSON.stringify(policy.breaker);
    const known = this.#hosts.get(executor);
    if (known) {
      if (known.breakerPolicy === breakerPolicy) return known;
      throw new RunnerError(
        'CONFIG_INVALID',
        `two jobs give executor ${executor.name} different circuit breakers; it has one for all its jobs`,
      );
    }
    const { name, limits } = executor;
    const { clock, onCircuit, local } = this.#options;
    const breaker =
      policy.breaker && executor !== local ? new CircuitBreaker(policy.breaker, clock, (state) => onCircuit(name, state)) : undefined;
    const host = {
      executor,
      breaker,
      slots: limits.concurrencyMax === undefined ? undefined : new Semaphore(`executor ${name}`, limits.concurrencyMax, policy.queueMax),
      breakerPolicy,
    };
    this.#hosts.set(executor, host);
    return host;
  }
}

function dropUndefined(policy: ExecutionPolicy): ExecutionPolicy {
  return Object.fromEntries(Object.entries(policy).filter(([, value]) => value !== undefined));
}
