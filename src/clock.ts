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

/** Node has a timer that should take longer fire at once. */
const TIMER_MS_MAX = 2 ** 31 - 1;

function start(delayMs: number, action: () => void, holdsProcess: boolean): CancelTimer {
  let timer: NodeJS.Timeout;
  const wait = (leftMs: number): void => {
    timer = setTimeout(() => (leftMs > TIMER_MS_MAX ? wait(leftMs - TIMER_MS_MAX) : action()), Math.min(leftMs, TIMER_MS_MAX));
    if (!holdsProcess) timer.unref();
  };
  wait(delayMs);
  return () => clearTimeout(timer);
}

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after: (delayMs, action) => start(delayMs, action, false),
  sleep: (delayMs, signal) =>
    new Promise((resolve, reject) => {
      const cancel = start(delayMs, over, true);
      function over(): void {
        signal?.removeEventListener('abort', stop);
        resolve();
      }
      function stop(): void {
        cancel();
        reject(new RunnerError('ABORTED', 'the wait was cancelled', { cause: signal?.reason }));
      }
      if (signal?.aborted) stop();
      else signal?.addEventListener('abort', stop, { once: true });
    }),
};
