/** What has to be known before a call can be sent. */

import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { HttpRequest } from './http.ts';

/** The longest delay that a timer of node takes. */
const DELAY_MS_MAX = 2_147_483_647;

/**
 * What is asked has its own patience, and others may wait for it, too; who waits here has a deadline and a signal. Rejects with
 * `EXECUTOR_TIMEOUT` and `ABORTED`, both `safe`: nothing was sent.
 */
export async function inTime<T>(
  asked: Promise<T>,
  { deadline, signal, clock }: Pick<HttpRequest, 'deadline' | 'signal'> & { readonly clock: Clock },
): Promise<T> {
  const late = Promise.withResolvers<never>();
  const giveUp = (code: ErrorCode, why: string): void =>
    late.reject(new RunnerError(code, `the call was not sent: ${why}`, { cause: signal?.reason, retry: 'safe' }));
  const abort = (): void => giveUp('ABORTED', 'it was cancelled');
  const cancel = clock.after(Math.min(Math.max(0, deadline - clock.now()), DELAY_MS_MAX), () =>
    giveUp('EXECUTOR_TIMEOUT', 'its deadline has passed'),
  );
  if (signal?.aborted) abort();
  signal?.addEventListener('abort', abort, { once: true });
  return Promise.race([asked, late.promise]).finally(() => {
    cancel();
    signal?.removeEventListener('abort', abort);
  });
}

/** A refusal of what was found out for an earlier call: it was not sent on, and the next attempt finds out anew. */
export function outdated(thrown: unknown): unknown {
  if (!isRunnerError(thrown) || (thrown.code !== 'EXECUTOR_UNAUTHORIZED' && thrown.code !== 'EXECUTOR_NOT_FOUND')) return thrown;
  return new RunnerError(thrown.code, thrown.message, { cause: thrown, details: thrown.details, retry: 'safe' });
}
