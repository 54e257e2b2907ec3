/** Middleware: functions around every job of a router, composed once when they are added. */

import { RunnerError } from '../errors.ts';
import type { JobCall } from './call.ts';
import type { JobInfo, Outcome } from './job.ts';

/** The rest of the onion. A middleware may pass another call or signal on. */
export type Next = (call: JobCall, signal?: AbortSignal) => Outcome;

/**
 * Wraps a job. It is called once for each job when the layer is added; what it returns is called for every call.
 *
 * @example
 * const log: Middleware = (next, job) => async (call, signal) => {
 *   const result = await next(call, signal);
 *   console.log(job.name, call.id, result?.body.length ?? 'no result');
 *   return result;
 * };
 */
export type Middleware = (next: Next, job: JobInfo) => Next;

/** The part of a clock that middleware needs. */
export interface MiddlewareClock {
  /** Milliseconds that never go back. */
  monotonic(): number;
  /** Calls `action` once after `delayMs` unless cancelled. */
  after(delayMs: number, action: () => void): () => void;
}

const realClock: MiddlewareClock = {
  monotonic: () => performance.now(),
  after(delayMs, action) {
    // A longer one would fire at once.
    const timer = setTimeout(action, Math.min(delayMs, 2 ** 31 - 1));
    return () => clearTimeout(timer);
  },
};

/**
 * Ends a call after `timeoutMs` with `EXECUTOR_TIMEOUT`: the signal of the job fires, its later result is discarded. A job that
 * never gives up the processor cannot be ended.
 */
export function timeout(timeoutMs: number, clock: MiddlewareClock = realClock): Middleware {
  requirePositive('timeoutMs', timeoutMs);
  return (next, job) => (call, outer) => {
    const controller = new AbortController();
    const forward = (): void => controller.abort(outer?.reason);
    if (outer?.aborted) forward();
    const outcome = next(call, controller.signal);
    if (!(outcome instanceof Promise)) return outcome;
    return new Promise((resolve, reject) => {
      const cancel = clock.after(timeoutMs, () => {
        const error = new RunnerError('EXECUTOR_TIMEOUT', `job ${job.name} took longer than ${timeoutMs} ms for call ${call.id}`, {
          details: { job: job.name, timeoutMs, call: call.id },
        });
        controller.abort(error);
        reject(error);
      });
      const end = (): void => {
        cancel();
        outer?.removeEventListener('abort', forward);
      };
      outer?.addEventListener('abort', forward, { once: true });
      outcome.finally(end).then(resolve, reject);
    });
  };
}

/**
 * Runs at most `max` calls at once, over all jobs that the layer wraps; at most `waitingMax` more wait in their order (default 1024).
 * Beyond that a call fails with `QUEUE_FULL`; one whose signal fires while it waits fails with `ABORTED`, without having run.
 */
export function concurrency(max: number, { waitingMax = 1_024 }: { readonly waitingMax?: number } = {}): Middleware {
  requirePositive('max', max);
  let running = 0;
  const waiting = new Set<() => void>();
  const leave = (): void => {
    running -= 1;
    const [first] = waiting;
    if (first) {
      waiting.delete(first);
      first();
    }
  };
  const enter = (call: JobCall, job: JobInfo, signal: AbortSignal | undefined): Promise<void> => {
    if (waiting.size >= waitingMax) {
      return Promise.reject(
        new RunnerError(
          'QUEUE_FULL',
          `job ${job.name} runs ${max} calls and ${waiting.size} wait; call ${call.id} is refused (waitingMax ${waitingMax})`,
          { details: { job: job.name, max, waitingMax } },
        ),
      );
    }
    return waitForTurn(waiting, signal, () => {
      running += 1;
    });
  };
  return (next, job) => async (call, signal) => {
    if (running >= max) await enter(call, job, signal);
    else running += 1;
    try {
      return await next(call, signal);
    } finally {
      leave();
    }
  };
}

/**
 * Lets at most `perSecond` calls start, over all jobs that the layer wraps, and `burst` at once after a pause (default: `perSecond`,
 * at least 1). A call that would have to wait longer than `waitMsMax` (default 10 s) fails with `EXECUTOR_THROTTLED`.
 */
export function rate(
  perSecond: number,
  options: { readonly burst?: number; readonly waitMsMax?: number; readonly clock?: MiddlewareClock } = {},
): Middleware {
  const { burst = Math.max(1, perSecond), waitMsMax = 10_000, clock = realClock } = options;
  requirePositive('perSecond', perSecond);
  requirePositive('burst', burst);
  let tokens = burst;
  let filledAt = clock.monotonic();
  /** Takes a token, in advance if need be, and tells when it is there. */
  const takeToken = (): number => {
    const now = clock.monotonic();
    tokens = Math.min(burst, tokens + ((now - filledAt) / 1_000) * perSecond);
    filledAt = now;
    const waitMs = tokens >= 1 ? 0 : ((1 - tokens) / perSecond) * 1_000;
    if (waitMs <= waitMsMax) tokens -= 1;
    return waitMs;
  };
  return (next, job) => (call, signal) => {
    const waitMs = takeToken();
    if (waitMs === 0) return next(call, signal);
    if (waitMs > waitMsMax) {
      throw new RunnerError(
        'EXECUTOR_THROTTLED',
        `job ${job.name} takes ${perSecond} calls a second; call ${call.id} would wait ${Math.ceil(waitMs)} ms`,
        {
          details: { job: job.name, perSecond, retryAfterMs: Math.ceil(waitMs) },
        },
      );
    }
    const waiting = new Set<() => void>();
    const turn = waitForTurn(waiting, signal, () => {});
    const cancel = clock.after(waitMs, () => {
      for (const go of waiting) go();
    });
    return turn.finally(cancel).then(() => next(call, signal));
  };
}

/** The part of telemetry that `trace` needs. */
export interface TraceSpan {
  recordError(error: unknown): void;
  end(): void;
}

export type StartSpan = (name: string, options: { readonly attributes: Readonly<Record<string, string | number | boolean>> }) => TraceSpan;

/** A span for every run of a job. Costs nothing when `startSpan` is undefined. */
export function trace(startSpan: StartSpan | undefined): Middleware {
  if (!startSpan) return (next) => next;
  return (next, job) => async (call, signal) => {
    const span = startSpan(`job ${job.name}`, {
      attributes: { 'job.id': call.jobId.toString(), 'job.name': job.name, 'call.id': call.id, 'call.bytes': call.body.length },
    });
    try {
      return await next(call, signal);
    } catch (error) {
      span.recordError(error);
      throw error;
    } finally {
      span.end();
    }
  };
}

/** Refuses a call with `JOB_REJECTED` when `check` returns a reason. */
export function validate(check: (call: JobCall, job: JobInfo) => string | undefined): Middleware {
  return (next, job) => (call, signal) => {
    const reason = check(call, job);
    if (reason === undefined) return next(call, signal);
    throw new RunnerError('JOB_REJECTED', `job ${job.name} refuses call ${call.id}: ${reason}`, {
      details: { job: job.name, call: call.id, reason },
    });
  };
}

/** Waits in `waiting` until somebody calls the entry. `onTurn` runs in that very moment. */
function waitForTurn(waiting: Set<() => void>, signal: AbortSignal | undefined, onTurn: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const refuse = (): void => {
      waiting.delete(go);
      reject(
        new RunnerError('ABORTED', 'the call was cancelled while it waited for its turn; it did not run', {
          cause: signal?.reason,
          retry: 'safe',
        }),
      );
    };
    const go = (): void => {
      signal?.removeEventListener('abort', refuse);
      waiting.delete(go);
      onTurn();
      resolve();
    };
    if (signal?.aborted) refuse();
    else {
      signal?.addEventListener('abort', refuse, { once: true });
      waiting.add(go);
    }
  });
}

function requirePositive(name: string, value: number): void {
  if (!(Number.isFinite(value) && value > 0))
    throw new RunnerError('CONFIG_INVALID', `${name} is ${value}; it must be above 0`, { details: { [name]: value } });
}
