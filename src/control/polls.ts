/** Requests that wait: how many there may be, and how they end. */

import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { GatewayRequest } from '../gateway/http.ts';
import type { Gauge } from '../telemetry/telemetry.ts';

export interface PollsOptions {
  readonly clock: Clock;
  /** Of all callers together, and of one. */
  readonly pollsMax: number;
  readonly pollsPerCallerMax: number;
  readonly waiting: Gauge;
  /** A caller waits; what it returns is called when it does no longer. */
  readonly onWait: (callerId: string) => () => void;
}

export interface PollOptions {
  /** By which its caller can cancel it. */
  readonly id?: unknown;
  /** When `run` knows no end of its own. */
  readonly waitMs?: number;
}

/** Cancelled before they came: so many are remembered. */
const EARLY_MAX = 10_000;

export class Polls {
  readonly #options: PollsOptions;
  readonly #byCaller = new Map<string, Set<AbortController>>();
  readonly #byId = new Map<string, AbortController>();
  readonly #early = new Set<string>();
  #size = 0;

  constructor(options: PollsOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#size;
  }

  /**
   * What `run` resolves with; undefined when the poll was cancelled, its time was over, its client went away, or the control plane closes.
   * Rejects with `RATE_LIMITED`.
   */
  async wait<T>(
    request: GatewayRequest,
    { id: pollId, waitMs }: PollOptions,
    run: (signal: AbortSignal) => Promise<T>,
  ): Promise<T | undefined> {
    const controller = new AbortController();
    const leave = this.#enter(request.caller.id, controller);
    const end = (): void => controller.abort();
    const key = typeof pollId === 'string' ? keyOf(request.caller.id, pollId) : undefined;
    if (key !== undefined) {
      // The same one, on a way that its caller has given up: what it is given would lie there until its lease runs out.
      this.#byId.get(key)?.abort();
      this.#byId.set(key, controller);
    }
    const stopTimer = waitMs === undefined ? undefined : this.#options.clock.after(waitMs, end);
    request.signal.addEventListener('abort', end);
    request.closing.addEventListener('abort', end);
    if (request.closing.aborted || request.signal.aborted || (key !== undefined && this.#early.delete(key))) end();
    try {
      return await run(controller.signal);
    } catch (thrown) {
      if (controller.signal.aborted && isRunnerError(thrown) && thrown.code === 'ABORTED') return undefined;
      throw thrown;
    } finally {
      stopTimer?.();
      request.signal.removeEventListener('abort', end);
      request.closing.removeEventListener('abort', end);
      // One that was sent again has taken its place.
      if (key !== undefined && this.#byId.get(key) === controller) this.#byId.delete(key);
      leave();
    }
  }

  /** Whether it waits; one that has not come yet ends when it comes. */
  cancel(callerId: string, pollId: string): boolean {
    const key = keyOf(callerId, pollId);
    const waiting = this.#byId.get(key);
    waiting?.abort();
    if (!waiting) {
      if (this.#early.size >= EARLY_MAX) this.#early.clear();
      this.#early.add(key);
    }
    return waiting !== undefined;
  }

  /** Those of a caller that may wait no longer. */
  end(callerId: string): void {
    for (const controller of this.#byCaller.get(callerId) ?? []) controller.abort();
  }

  #enter(callerId: string, controller: AbortController): () => void {
    const { pollsMax, pollsPerCallerMax, waiting, onWait } = this.#options;
    const own = this.#byCaller.get(callerId) ?? new Set<AbortController>();
    if (this.#size >= pollsMax) throw tooMany(`${pollsMax} requests wait for jobs or results already`);
    if (own.size >= pollsPerCallerMax) throw tooMany(`${callerId} has ${pollsPerCallerMax} requests that wait for jobs or results already`);
    this.#size += 1;
    this.#byCaller.set(callerId, own.add(controller));
    waiting.set(this.#size);
    const leave = onWait(callerId);
    return () => {
      leave();
      this.#size -= 1;
      own.delete(controller);
      if (own.size === 0 && this.#byCaller.get(callerId) === own) this.#byCaller.delete(callerId);
      waiting.set(this.#size);
    };
  }
}

function keyOf(callerId: string, pollId: string): string {
  return `${callerId} ${pollId}`;
}

function tooMany(message: string): RunnerError {
  return new RunnerError('RATE_LIMITED', message, { details: { retryAfterSeconds: 1 } });
}
