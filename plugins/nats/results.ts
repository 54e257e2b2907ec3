/** Those who wait for results. */

import { RunnerError, isRunnerError } from '../../src/plugin.ts';
import type { Clock, QueueJobState, QueueResult } from '../../src/plugin.ts';
import type { NatsClient } from './client.ts';
import type { Jobs } from './jobs.ts';
import { currentRecord, hasEnded, jobMetaOf, outcomeOf } from './records.ts';
import type { Names } from './records.ts';

/** A wait looks by itself after these many milliseconds, then after twice as many, up to the second. */
const LOOK_MS = [1_000, 15_000] as const;

export interface ResultsOptions {
  readonly client: NatsClient;
  readonly jobs: Jobs;
  readonly names: Names;
  readonly clock: Clock;
}

export class Results {
  readonly #options: ResultsOptions;
  readonly #waits = new Set<News>();

  constructor(options: ResultsOptions) {
    this.#options = options;
  }

  /** The server tells of every record once it is stored; what is missed, because a connection was lost, is found by looking. */
  async wait(id: string, signal: AbortSignal | undefined): Promise<QueueResult> {
    const { client, names } = this.#options;
    if (signal?.aborted) throw aborted(id, signal);
    const news = new News();
    const subscription = client.subscribe(names.event(id), (message) => {
      const { state } = JSON.parse(client.headerOf(message)) as { readonly state?: QueueJobState };
      if (state === undefined || hasEnded(state)) news.tell();
    });
    const abort = (): void => news.fail(aborted(id, signal));
    this.#waits.add(news);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      return await this.#wait(id, news);
    } finally {
      this.#waits.delete(news);
      signal?.removeEventListener('abort', abort);
      subscription.unsubscribe();
    }
  }

  close(error: unknown): void {
    for (const news of this.#waits) news.fail(error);
  }

  async #wait(id: string, news: News): Promise<QueueResult> {
    const { jobs, clock } = this.#options;
    for (let lookMs: number = LOOK_MS[0]; ; lookMs = Math.min(LOOK_MS[1], 2 * lookMs)) {
      const entry = await jobs.find(id);
      const job = jobMetaOf(entry);
      if (!job) throw new RunnerError('NOT_FOUND', `the queue has no record of job ${id}`, { details: { jobId: id } });
      const outcome = entry.record && currentRecord(entry) && outcomeOf(entry.record);
      if (isRunnerError(outcome)) throw outcome;
      if (outcome) return outcome;
      await jobs.settle(entry);
      const dueMs = (job.deadline ?? Number.POSITIVE_INFINITY) - clock.now();
      await news.next(clock, Math.max(1, Math.min(lookMs, dueMs)));
    }
  }
}

/** Something to wait for, again and again. */
class News {
  #told = false;
  #error: { readonly error: unknown } | undefined;
  #wake: () => void = () => undefined;

  tell(): void {
    this.#told = true;
    this.#wake();
  }

  fail(error: unknown): void {
    this.#error ??= { error };
    this.#wake();
  }

  /** Resolves at the next news, or after `ms`. */
  async next(clock: Clock, ms: number): Promise<void> {
    if (!this.#told && !this.#error) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const cancel = clock.after(ms, resolve);
      await promise;
      cancel();
    }
    if (this.#error) throw this.#error.error;
    this.#told = false;
  }
}

function aborted(id: string, signal: AbortSignal | undefined): RunnerError {
  return new RunnerError('ABORTED', `the wait for job ${id} was cancelled`, { cause: signal?.reason, retry: 'safe' });
}
