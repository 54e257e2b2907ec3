/** The calls that run: how one of them ends before its time, and how all of them end with the process. */

import { RunnerError } from '../src/errors.ts';

const TIMER_MS_MAX = 2 ** 31 - 1;

export interface CallScope {
  readonly signal: AbortSignal;
  /** Rejects with the reason when the signal fires. */
  readonly aborted: Promise<never>;
  /** Frees what the scope holds. */
  end(): void;
}

/** Fires when the outer signal does, or with `EXECUTOR_TIMEOUT` when the deadline (milliseconds since the epoch) passes. */
export function callScope(outer: AbortSignal | undefined, deadline: number, lateMessage: string): CallScope {
  const controller = new AbortController();
  let reject: (reason: unknown) => void;
  const aborted = new Promise<never>((_, refuse) => {
    reject = refuse;
  });
  // Who does not wait for it is not to be told.
  aborted.catch(() => {});
  const abort = (reason: unknown): void => {
    reject(reason);
    controller.abort(reason);
  };
  const onAbort = (): void => abort(outer?.reason);
  const onDeadline = (): void => abort(new RunnerError('EXECUTOR_TIMEOUT', lateMessage));
  const remainingMs = deadline - Date.now();
  let timer: NodeJS.Timeout | undefined;
  if (remainingMs <= 0) onDeadline();
  else if (remainingMs <= TIMER_MS_MAX) timer = setTimeout(onDeadline, remainingMs);
  if (outer?.aborted) onAbort();
  else outer?.addEventListener('abort', onAbort, { once: true });
  return {
    signal: controller.signal,
    aborted,
    end() {
      clearTimeout(timer);
      outer?.removeEventListener('abort', onAbort);
    },
  };
}

/** The calls of one adapter. */
export class RunningCalls {
  readonly #calls = new Map<AbortController, string>();
  #onIdle: (() => void) | undefined;

  get count(): number {
    return this.#calls.size;
  }

  /** The names that `begin` was given. */
  get names(): readonly string[] {
    return [...this.#calls.values()];
  }

  begin(name = ''): AbortController {
    const call = new AbortController();
    this.#calls.set(call, name);
    return call;
  }

  end(call: AbortController): void {
    this.#calls.delete(call);
    if (this.#calls.size === 0) this.#onIdle?.();
  }

  /** Waits until no call runs; cancels those that do when `signal` fires. Resolves with how many it had to cancel. */
  async drain(signal: AbortSignal): Promise<number> {
    let cancelled = 0;
    const cancel = (): void => {
      cancelled = this.#calls.size;
      this.#abort(new RunnerError('ABORTED', 'the handler is stopping'));
    };
    if (signal.aborted) cancel();
    else signal.addEventListener('abort', cancel, { once: true });
    await this.#idle();
    return cancelled;
  }

  /** All that run fail with what brings the process down. Resolves when they were answered. */
  fail({ message, cause }: RunnerError): Promise<void> {
    this.#abort(new RunnerError('FUNCTION_FAILED', `an exception that nobody caught: ${message}`, { cause }));
    return this.#idle();
  }

  #abort(reason: RunnerError): void {
    for (const call of this.#calls.keys()) call.abort(reason);
  }

  #idle(): Promise<void> {
    return new Promise((resolve) => {
      this.#onIdle = resolve;
      if (this.#calls.size === 0) resolve();
    });
  }
}
