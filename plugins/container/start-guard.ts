/** Ends a start that takes too long or that nobody wants any more. */

import { RunnerError } from '../../src/plugin.ts';
import type { Clock, LaunchSpec } from '../../src/plugin.ts';

export const START_TIMEOUT_MS = 60_000;

/**
 * Resolves with what `start` resolves with. Rejects with `ABORTED` when the caller gives up and with `INSTANCE_START_FAILED` when it
 * takes longer than `timeoutMs`: then the signal that `start` gets has fired, and `start` cleans up what it made, however late.
 */
export async function guardedStart<Value>(
  { signal, instanceId }: Pick<LaunchSpec, 'signal' | 'instanceId'>,
  { clock, timeoutMs = START_TIMEOUT_MS }: { readonly clock: Clock; readonly timeoutMs?: number | undefined },
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
    return await Promise.race([controller.signal.aborted ? promise : start(controller.signal), promise]);
  } finally {
    cancel();
    signal.removeEventListener('abort', onAbort);
  }
}
