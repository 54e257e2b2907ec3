/** Keeps what runs beside the calls running: producers, the follower of the chain, background services. */

import type { Clock } from '../clock.ts';
import type { RunnerError } from '../errors.ts';
import { toRunnerError } from '../errors.ts';

/** - `on-failure` (default): again when it throws - `always`: also when it ends - `never` */
export type RestartPolicy = 'on-failure' | 'always' | 'never';

export interface SupervisedTask {
  readonly name: string;
  /** Runs until the signal fires or its work is done. */
  run(signal: AbortSignal): Promise<void>;
  readonly restart?: RestartPolicy | undefined;
}

export interface SupervisorOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  readonly onError: (error: RunnerError, name: string) => void;
}

const BACKOFF_MS = 250;
const BACKOFF_MS_MAX = 30_000;
/** What ran longer begins with the shortest wait again. */
const STEADY_MS = 60_000;

/**
 * Runs the task until its policy or the signal ends it; never rejects. Resolves with the error that ended it: undefined when it is done or
 * was stopped.
 */
export async function supervise(task: SupervisedTask, options: SupervisorOptions): Promise<RunnerError | undefined> {
  const { clock, signal, onError } = options;
  const { restart = 'on-failure' } = task;
  for (let failures = 0; !signal.aborted;) {
    const startedAt = clock.monotonic();
    const error = await attempt(task, signal);
    // What the stop itself made fail is not a failure.
    if (signal.aborted) return undefined;
    if (error) onError(error, task.name);
    if (restart === 'never' || (!error && restart === 'on-failure')) return error;
    failures = clock.monotonic() - startedAt > STEADY_MS ? 1 : failures + 1;
    await clock.sleep(backoffMs(failures), signal).catch(() => undefined);
  }
  return undefined;
}

/** Wait after so many failures in a row. */
export function backoffMs(failures: number): number {
  return Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** Math.min(failures - 1, 10));
}

/** The error that it ended with. What ignores its signal is left behind when the signal fires. */
async function attempt(task: SupervisedTask, signal: AbortSignal): Promise<RunnerError | undefined> {
  const stopped = Promise.withResolvers<void>();
  const stop = (): void => stopped.resolve();
  signal.addEventListener('abort', stop, { once: true });
  try {
    await Promise.race([task.run(signal), stopped.promise]);
    return undefined;
  } catch (thrown) {
    return toRunnerError(thrown);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
