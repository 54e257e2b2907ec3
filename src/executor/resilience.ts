/** What stands between a failure and the next attempt: policy, back-off, circuit breaker, bounded concurrency. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';

export interface BackoffPolicy {
  /** Wait before the second attempt, milliseconds; doubles from attempt to attempt. Default 100. */
  readonly baseMs: number;
  /** Longest wait, milliseconds. Default 10,000. */
  readonly maxMs: number;
  /** Random part of a wait: 0 none, 1 the whole wait. Default 1. */
  readonly jitter: number;
}

export interface BreakerPolicy {
  /** The circuit opens after this many failures of the platform in a row. Default 5. */
  readonly failures: number;
  /** Only failures that are not older than this count, milliseconds. Default 30,000. */
  readonly windowMs: number;
  /** An open circuit lets one probe through after this time, milliseconds. Default 10,000. */
  readonly coolDownMs: number;
}

/** How the calls of one job are executed. */
export interface ExecutionPolicy {
  /** Time for one attempt, milliseconds. Default: that of the job definition, else 60,000; never above the limit of the executor. */
  readonly timeoutMs?: number | undefined;
  /** Calls of this job at the same time. Default: no limit but that of the executor. */
  readonly concurrencyMax?: number | undefined;
  /** Calls that wait for their turn before `QUEUE_FULL`. Default 10,000. */
  readonly queueMax?: number | undefined;
  /** Whether running the job twice does no harm. Default: what the job definition says, else false. */
  readonly idempotent?: boolean | undefined;
  /** Attempts on the executor, the first included. Default 3. */
  readonly attemptsMax?: number | undefined;
  readonly backoff?: Partial<BackoffPolicy> | undefined;
  /** Default: on for every executor but the in-process one. */
  readonly breaker?: Partial<BreakerPolicy> | false | undefined;
}

/** A policy with every default filled in. */
export interface ResolvedPolicy {
  readonly timeoutMs: number;
  readonly concurrencyMax: number | undefined;
  readonly queueMax: number;
  readonly idempotent: boolean;
  readonly attemptsMax: number;
  readonly backoff: BackoffPolicy;
  readonly breaker: BreakerPolicy | false;
}

/** What the definition of a job says about its execution. */
export interface JobTraits {
  readonly name?: string | undefined;
  readonly idempotent?: boolean | undefined;
  readonly timeoutMs?: number | undefined;
}

function numberFrom(minimum: number, name: string, value: number): number {
  if (value >= minimum) return value;
  throw new RunnerError('CONFIG_INVALID', `${name} is ${value}; it must be at least ${minimum}`, { details: { name, value } });
}

function integerFrom(minimum: number, name: string, value: number): number {
  if (Number.isInteger(value)) return numberFrom(minimum, name, value);
  throw new RunnerError('CONFIG_INVALID', `${name} is ${value}; it must be an integer of at least ${minimum}`, {
    details: { name, value },
  });
}

/** Fills in the defaults. Throws `CONFIG_INVALID` for a value out of range. */
export function resolvePolicy(policy: ExecutionPolicy, traits: JobTraits = {}): ResolvedPolicy {
  const { backoff = {}, breaker = {} } = policy;
  const jitter = backoff.jitter ?? 1;
  if (!(jitter >= 0 && jitter <= 1)) throw new RunnerError('CONFIG_INVALID', `backoff.jitter is ${jitter}; it must lie between 0 and 1`);
  return {
    timeoutMs: numberFrom(1, 'timeoutMs', policy.timeoutMs ?? traits.timeoutMs ?? 60_000),
    concurrencyMax: policy.concurrencyMax === undefined ? undefined : integerFrom(1, 'concurrencyMax', policy.concurrencyMax),
    queueMax: integerFrom(0, 'queueMax', policy.queueMax ?? 10_000),
    idempotent: policy.idempotent ?? traits.idempotent ?? false,
    attemptsMax: integerFrom(1, 'attemptsMax', policy.attemptsMax ?? 3),
    backoff: {
      baseMs: integerFrom(0, 'backoff.baseMs', backoff.baseMs ?? 100),
      maxMs: numberFrom(0, 'backoff.maxMs', backoff.maxMs ?? 10_000),
      jitter,
    },
    breaker: breaker !== false && {
      failures: numberFrom(1, 'breaker.failures', breaker.failures ?? 5),
      windowMs: integerFrom(1, 'breaker.windowMs', breaker.windowMs ?? 30_000),
      coolDownMs: numberFrom(0, 'breaker.coolDownMs', breaker.coolDownMs ?? 10_000),
    },
  };
}

/** Wait before the attempt that follows the `failed`-th failure, counted from 1. */
export function backoffMs(policy: BackoffPolicy, failed: number, random: () => number): number {
  const full = Math.min(policy.maxMs, policy.baseMs * 2 ** (failed - 1));
  return full * (1 - policy.jitter * random());
}

/** The executor refused before the job's code: it would refuse again, another executor may not. */
const REFUSED: ReadonlySet<ErrorCode> = new Set([
  'EXECUTOR_UNAUTHORIZED',
  'EXECUTOR_NOT_FOUND',
  'EXECUTOR_CLOSED',
  'EXECUTOR_CIRCUIT_OPEN',
]);

/** Whether another attempt on the same executor is allowed: the job did not run, or running it twice does no harm. */
export function mayRepeat(error: RunnerError, idempotent: boolean): boolean {
  if (error.code === 'ABORTED' || REFUSED.has(error.code)) return false;
  return error.retry === 'safe' || (error.retry === 'idempotent' && idempotent);
}

/** Whether another executor may take the call over. */
export function mayFallBack(error: RunnerError, idempotent: boolean): boolean {
  return REFUSED.has(error.code) || mayRepeat(error, idempotent);
}

/** Failures that say something about the platform. What the job's own code does says nothing about it. */
const PLATFORM_FAILURES: ReadonlySet<ErrorCode> = new Set([
  'EXECUTOR_UNREACHABLE',
  'EXECUTOR_CONNECTION_LOST',
  'EXECUTOR_TIMEOUT',
  'EXECUTOR_THROTTLED',
  'EXECUTOR_UNAVAILABLE',
  'EXECUTOR_UNAUTHORIZED',
  'EXECUTOR_NOT_FOUND',
  'EXECUTOR_RESPONSE_INVALID',
]);

export function isPlatformFailure(code: ErrorCode): boolean {
  return PLATFORM_FAILURES.has(code);
}

export type CircuitState = 'closed' | 'open' | 'half-open';

/** What a circuit says to a call. The outcome of a `probe` decides about the circuit. */
export type Admission = 'pass' | 'probe' | 'refused';

/**
 * Keeps calls away from a platform that fails.
 *
 * `closed` lets everything through; `failures` in a row within `windowMs` open it. `open` refuses; after `coolDownMs` it becomes
 * `half-open`, which lets one probe through: its success closes the circuit, its failure opens it again. Every admitted call must
 * report its outcome once, with the admission it got; what started before the circuit opened no longer counts.
 */
export class CircuitBreaker {
  readonly #policy: BreakerPolicy;
  readonly #clock: Clock;
  readonly #onChange: (state: CircuitState) => void;
  #state: CircuitState = 'closed';
  /** Times of the latest failures in a row, a ring of `failures` places. */
  readonly #failedAt: number[] = [];
  #failures = 0;
  #openedAt = 0;
  #probing = false;

  constructor(policy: BreakerPolicy, clock: Clock, onChange: (state: CircuitState) => void) {
    this.#policy = policy;
    this.#clock = clock;
    this.#onChange = onChange;
  }

  get state(): CircuitState {
    return this.#state;
  }

  /** When an open circuit lets the next probe through, milliseconds since the epoch. */
  get probeAt(): number {
    return this.#clock.now() + Math.max(0, this.#openedAt + this.#policy.coolDownMs - this.#clock.monotonic());
  }

  admit(): Admission {
    if (this.#state === 'closed') return 'pass';
    if (this.#state === 'open') {
      if (this.#clock.monotonic() < this.#openedAt + this.#policy.coolDownMs) return 'refused';
      this.#become('half-open');
    }
    if (this.#probing) return 'refused';
    this.#probing = true;
    return 'probe';
  }

  succeeded(admission: Admission): void {
    if (admission === 'probe') {
      this.#probing = false;
      this.#failures = 0;
      this.#become('closed');
    } else if (this.#state === 'closed') {
      this.#failures = 0;
    }
  }

  failed(admission: Admission): void {
    if (admission === 'probe') {
      this.#probing = false;
      this.#open();
    } else if (this.#state === 'closed') {
      const now = this.#clock.monotonic();
      const { failures, windowMs } = this.#policy;
      this.#failedAt[this.#failures % failures] = now;
      this.#failures += 1;
      const oldest = this.#failedAt[this.#failures % failures] ?? now;
      if (this.#failures >= failures && now - oldest <= windowMs) this.#open();
    }
  }

  /** The call ended without saying anything about the platform: it was cancelled, or never sent. */
  withdrawn(admission: Admission): void {
    if (admission === 'probe') this.#probing = false;
  }

  #open(): void {
    this.#openedAt = this.#clock.monotonic();
    this.#failures = 0;
    this.#become('open');
  }

  #become(state: CircuitState): void {
    this.#state = state;
    this.#onChange(state);
  }
}

/** Who can be cancelled while waiting. */
interface CancellableWaiter {
  readonly grant: () => void;
  waiting: boolean;
}

/** Who cannot is only the function that lets it go on. */
type Waiter = CancellableWaiter | (() => void);

/** A first-in first-out limit on what runs at the same time, with a bounded queue. */
export class Semaphore {
  readonly #name: string;
  readonly #queueMax: number;
  #free: number;
  /** A ring: its length is a power of two and grows with the need. */
  #ring: (Waiter | undefined)[] = new Array<Waiter | undefined>(16).fill(undefined);
  #head = 0;
  #places = 0;
  #waiting = 0;

  constructor(name: string, max: number, queueMax: number) {
    this.#name = name;
    this.#free = max;
    this.#queueMax = queueMax;
  }

  /** Callers that wait. */
  get waiting(): number {
    return this.#waiting;
  }

  get free(): number {
    return this.#free;
  }

  /** Takes a place when one is free, without waiting. */
  tryAcquire(): boolean {
    if (this.#free === 0) return false;
    this.#free -= 1;
    return true;
  }

  /** Waits for a place. Rejects with `QUEUE_FULL`, and with `ABORTED` when the signal fires first. */
  acquire(signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.reject(this.#cancelled(signal));
    if (this.tryAcquire()) return Promise.resolve();
    if (this.#waiting >= this.#queueMax) {
      return Promise.reject(
        new RunnerError('QUEUE_FULL', `${this.#waiting} calls wait for ${this.#name} already; its queueMax is ${this.#queueMax}`, {
          details: { name: this.#name, queueMax: this.#queueMax },
        }),
      );
    }
    if (signal) return this.#acquireUnlessAborted(signal);
    return new Promise((grant) => {
      this.#push(grant);
    });
  }

  release(): void {
    while (this.#places > 0) {
      const waiter = this.#ring[this.#head];
      this.#ring[this.#head] = undefined;
      this.#head = (this.#head + 1) & (this.#ring.length - 1);
      this.#places -= 1;
      if (waiter === undefined || !stillWaits(waiter)) continue;
      this.#waiting -= 1;
      if (typeof waiter === 'function') waiter();
      else waiter.grant();
      return;
    }
    this.#free += 1;
  }

  #acquireUnlessAborted(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const aborted = (): void => {
        waiter.waiting = false;
        this.#waiting -= 1;
        reject(this.#cancelled(signal));
      };
      const waiter: CancellableWaiter = {
        waiting: true,
        grant: () => {
          signal.removeEventListener('abort', aborted);
          resolve();
        },
      };
      signal.addEventListener('abort', aborted, { once: true });
      this.#push(waiter);
    });
  }

  #cancelled(signal: AbortSignal): RunnerError {
    return new RunnerError('ABORTED', `the wait for ${this.#name} was cancelled`, { cause: signal.reason, retry: 'safe' });
  }

  #push(waiter: Waiter): void {
    if (this.#places === this.#ring.length) this.#grow();
    this.#ring[(this.#head + this.#places) & (this.#ring.length - 1)] = waiter;
    this.#places += 1;
    this.#waiting += 1;
  }

  /** Makes room: cancelled waiters go, and when that is not enough the ring doubles. */
  #grow(): void {
    const waiters = this.#ring
      .map((_, index) => this.#ring[(this.#head + index) & (this.#ring.length - 1)])
      .filter((waiter) => waiter !== undefined && stillWaits(waiter));
    const size = waiters.length > this.#ring.length / 2 ? this.#ring.length * 2 : this.#ring.length;
    this.#places = waiters.length;
    this.#ring = [...waiters, ...new Array<undefined>(size - waiters.length).fill(undefined)];
    this.#head = 0;
  }
}

function stillWaits(waiter: Waiter): boolean {
  return typeof waiter === 'function' || waiter.waiting;
}
