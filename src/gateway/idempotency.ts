/** Answers by idempotency key: the same request again gets the same answer, and runs once. Kept in memory, for a time. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { Reply } from './http.ts';

interface Kept {
  readonly requestHash: string;
  readonly reply: Promise<Reply>;
  readonly startedAt: number;
  /** Undefined while it runs. */
  bytes: number | undefined;
}

export interface IdempotencyOptions {
  readonly clock: Clock;
  readonly keepMs: number;
  readonly entriesMax: number;
  readonly bytesMax: number;
}

export class IdempotencyKeys {
  readonly #options: IdempotencyOptions;
  /** Oldest first. */
  readonly #kept = new Map<string, Kept>();
  #bytes = 0;

  constructor(options: IdempotencyOptions) {
    this.#options = options;
  }

  /**
   * What `work` gives, or gave before for this key. Only answers are kept: after a failure the key can be used again. Rejects with
   * `REQUEST_CONFLICT` when the key was used for another request, `RATE_LIMITED` when too many requests with keys run.
   */
  async once(key: string, requestHash: string, work: () => Promise<Reply>): Promise<Reply> {
    this.#forget();
    const before = this.#kept.get(key);
    if (before) {
      if (before.requestHash !== requestHash) throw new RunnerError('REQUEST_CONFLICT', 'the idempotency key was used for another request');
      const reply = await before.reply;
      return { ...reply, headers: { ...reply.headers, 'idempotent-replayed': 'true' } };
    }
    if (this.#kept.size >= this.#options.entriesMax)
      throw new RunnerError('RATE_LIMITED', `${this.#kept.size} requests with idempotency keys run`);
    const reply = work();
    const kept: Kept = { requestHash, reply, startedAt: this.#options.clock.now(), bytes: undefined };
    this.#kept.set(key, kept);
    try {
      const { body } = await reply;
      kept.bytes = typeof body === 'string' ? Buffer.byteLength(body) : body instanceof Uint8Array ? body.length : 0;
      this.#bytes += kept.bytes;
    } catch (thrown) {
      this.#kept.delete(key);
      throw thrown;
    }
    return reply;
  }

  /** What is too old, and while there is too much the oldest answers. */
  #forget(): void {
    const { clock, keepMs, entriesMax, bytesMax } = this.#options;
    const now = clock.now();
    for (const [key, { startedAt, bytes }] of this.#kept) {
      const isTooMuch = this.#kept.size >= entriesMax || this.#bytes > bytesMax;
      if (bytes === undefined) continue;
      if (now - startedAt < keepMs && !isTooMuch) break;
      this.#kept.delete(key);
      this.#bytes -= bytes;
    }
  }
}
