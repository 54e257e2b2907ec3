/**
 * Time as a dependency: production passes `systemClock`, tests pass the fake of `blueprint-runner/testing`.
 */

import { RunnerError } from './errors.ts';

export type CancelTimer = () => void;

export interface Clock {
  /** Wall clock, milliseconds since the epoch. */
  now(): number;
  /** Never goes back; milliseconds with fraction, from an arbitrary origin. For durations. */
  monotonic(): number;
  /** Calls `action` once after `delayMs`, unless cancelled. Does not keep the process alive. */
  after(delayMs: number, action: () => void): CancelTimer;
  /** Resolves after `delayMs`; rejects with `ABORTED` when the signal fires first. Keeps the process alive. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
}

function aborted(signal: AbortSignal): RunnerError {
  return new RunnerError('ABORTED', 'the wait was cancelled', { cause: signal.reason });
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(delayMs, action) {
    const timer = setTimeout(action, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  },
  sleep(delayMs, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(aborted(signal));
        return;
      }
      const onAbort = (): void => {
        clearTimeout(timer);
        if (signal) reject(aborted(signal));
      };
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      }, delayMs);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  },
};
