/** Ends a start that takes too long or that nobody wants any more. */

import { RunnerError } from '../../src/plugin.ts';
import type { Clock, LaunchSpec } from '../../src/plugin.ts';

const START_TIMEOUT_MS = 60_000;

export interface GuardOptions {
  readonly clock: Clock;
  readonly timeoutMs?: number | undefined;
  /** Holds every start until it has settled, also one that was given up. */
  readonly starting: Set<Promise<void>>;
}

/**
 * Resolves with what `start` resolves with. Rejects with `ABORTED` when the caller gives up and with `INSTANCE_START_FAILED` when it
 * takes longer than `timeoutMs`: then the signal that `start` gets has fired, and `start` cleans up what it made, however late.
 */
export async function guardedStart<Value>(
  { signal, instanceId }: Pick<LaunchSpec, 'signal' | 'instanceId'>,
  { clock, starting, timeoutMs = START_TIMEOUT_MS }: GuardOptions,
  start: (signal: AbortSignal) => Promise<Value>,
): Promise<Value> {
  const controller = new AbortController();
  const { promise, reject } = Promise.withResolvers<never>();
  const fail = (error: RunnerError): void => {
    controller.abort(error);
    reject(error);
  };
  const onAbort = (): void => fail(new RunnerError('ABORTED', `the start of ${instanceId} was cancelled`, { cause: signal.reason }));
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  const cancel = clock.after(timeoutMs, () => {
    fail(
      new RunnerError('INSTANCE_START_FAILED', `${instanceId} did not start within ${timeoutMs} ms`, {
        details: { instanceId, timeoutMs },
      }),
    );
  });
  try {
    if (controller.signal.aborted) return await promise;
    const run = start(controller.signal);
    const settled: Promise<void> = run.then(
      () => void starting.delete(settled),
      () => void starting.delete(settled),
    );
    starting.add(settled);
    return await Promise.race([run, promise]);
  } finally {
    cancel();
    signal.removeEventListener('abort', onAbort);
  }
}

export function closedError(name: string): RunnerError {
  return new RunnerError('BACKEND_UNAVAILABLE', `the backend ${name} is closed; make a new one`);
}
