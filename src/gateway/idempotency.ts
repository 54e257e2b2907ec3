/**
 * Answers by idempotency key: the same request again gets the same answer, and runs once. On disk, for a time: what was answered, and what had
 * begun, is known to the next process, too.
 */

import type { SQLOutputValue } from 'node:sqlite';
import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import { StoreDatabase } from '../runtime/store-database.ts';
import type { Reply } from './http.ts';

export interface IdempotencyOptions {
  /** A file, or `:memory:`. */
  readonly path: string;
  readonly clock: Clock;
  readonly keepMs: number;
  readonly entriesMax: number;
  /** Of the bodies of all answers. */
  readonly bytesMax: number;
}

/** A request with a key. */
export interface KeyedRequest {
  /** Of its body: a key stands for one request. */
  readonly hash: string;
  readonly work: () => Promise<Reply>;
  /** Whether it does no harm when it is not known if it ran before. */
  readonly mayRunAgain: () => boolean;
}

/** `unknown`: it began, and its process ended or ended it. */
const STATE = { running: 0, answered: 1, unknown: 2 } as const;

const SCHEMA = `
CREATE TABLE IF NOT EXISTS answers (
  key TEXT PRIMARY KEY, hash TEXT NOT NULL, state INTEGER NOT NULL, started_at INTEGER NOT NULL,
  status INTEGER, headers TEXT, body BLOB
);
CREATE INDEX IF NOT EXISTS answers_started ON answers (started_at);
`;

/** What is kept last is the newest, as much as there is room for; what runs stays. */
const DELETE_OLDEST = `DELETE FROM answers WHERE state <> ${STATE.running} AND key IN (SELECT key FROM (
  SELECT key, row_number() OVER newest AS number, sum(coalesce(length(body), 0)) OVER newest AS bytes FROM answers
  WINDOW newest AS (ORDER BY started_at DESC, rowid DESC)) WHERE number > ? OR bytes > ?)`;

/** What part may come beyond what is kept before it is looked at again: that takes as long as a hundred requests. */
const SLACK = { entries: 10, bytes: 16 } as const;

export class IdempotencyKeys {
  readonly #options: IdempotencyOptions;
  readonly #database: StoreDatabase;
  readonly #running = new Map<string, { readonly hash: string; readonly reply: Promise<Reply> }>();
  /** Since the oldest were removed. */
  #news = { entries: 0, bytes: 0 };

  /** Throws `STORE_FAILED`. */
  constructor(options: IdempotencyOptions) {
    this.#options = options;
    this.#database = new StoreDatabase({ path: options.path, mark: 'BPRI', version: 1, schema: SCHEMA, sync: 'background' });
    this.#database.transact(() =>
      this.#database.prepare(`UPDATE answers SET state = ${STATE.unknown} WHERE state = ${STATE.running}`).run(),
    );
  }

  /**
   * What the work gives, or gave before for this key. That it begins is on disk before it does: it never runs twice. Its answer outlives the
   * process before it is given; when the machine itself fails it may be lost, and is then unknown. Only answers are kept: after a failure the
   * key can be used again. Rejects with `REQUEST_CONFLICT` when the key was used for another request,
   * `OUTCOME_UNKNOWN` when it began and was not heard of again, `RATE_LIMITED` when too many requests with keys run.
   */
  async once(key: string, request: KeyedRequest): Promise<Reply> {
    const running = this.#running.get(key);
    if (running) {
      checkSame(running.hash, request.hash);
      return replayed(await running.reply);
    }
    const before = this.#find(key);
    if (before) {
      checkSame(String(before['hash']), request.hash);
      if (before['state'] === STATE.answered) return replayed(replyOf(before));
      if (!request.mayRunAgain()) throw unknownOutcome(Number(before['started_at']));
    }
    const { entriesMax } = this.#options;
    if (this.#running.size >= entriesMax) throw new RunnerError('RATE_LIMITED', `${this.#running.size} requests with idempotency keys run`);
    const reply = this.#run(key, request);
    this.#running.set(key, { hash: request.hash, reply });
    try {
      return await reply;
    } finally {
      this.#running.delete(key);
    }
  }

  /** Resolves when nothing runs that ran when it was called. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#running.values()].map(({ reply }) => reply));
  }

  /** What runs counts as begun, never as answered. Idempotent. */
  close(): void {
    this.#database.close();
  }

  #find(key: string): Record<string, SQLOutputValue> | undefined {
    const { clock, keepMs } = this.#options;
    return this.#database.prepare('SELECT * FROM answers WHERE key = ? AND started_at > ?').get(key, clock.now() - keepMs);
  }

  async #run(key: string, { hash, work }: KeyedRequest): Promise<Reply> {
    await this.#database.write(() => this.#begin(key, hash));
    let reply: Reply;
    try {
      reply = await work();
    } catch (thrown) {
      const state = wasCutOff(thrown) ? STATE.unknown : undefined;
      await this.#write(() =>
        state === undefined
          ? this.#database.prepare('DELETE FROM answers WHERE key = ?').run(key)
          : this.#database.prepare('UPDATE answers SET state = ? WHERE key = ?').run(state, key),
      );
      throw thrown;
    }
    const { status, headers = {}, body = '' } = reply;
    if (typeof body === 'object' && !(body instanceof Uint8Array)) throw new RunnerError('INTERNAL', 'a streamed answer cannot be kept');
    const bytes = Buffer.from(body);
    this.#news.bytes += bytes.length;
    const sql = `UPDATE answers SET state = ${STATE.answered}, status = ?, headers = ?, body = ? WHERE key = ?`;
    await this.#write(() => this.#database.prepare(sql).run(status, JSON.stringify(headers), bytes, key));
    return reply;
  }

  /** What a call came to: when it is lost, the call counts as cut off. */
  async #write(change: () => unknown): Promise<void> {
    await this.#database.write(change, { isDurable: false });
  }

  #begin(key: string, hash: string): void {
    const { clock, keepMs, entriesMax, bytesMax } = this.#options;
    const now = clock.now();
    this.#database.prepare('DELETE FROM answers WHERE started_at <= ?').run(now - keepMs);
    this.#database
      .prepare(`INSERT OR REPLACE INTO answers (key, hash, state, started_at) VALUES (?, ?, ${STATE.running}, ?)`)
      .run(key, hash, now);
    this.#news.entries += 1;
    if (this.#news.entries < entriesMax / SLACK.entries && this.#news.bytes < bytesMax / SLACK.bytes) return;
    this.#database.prepare(DELETE_OLDEST).run(entriesMax, bytesMax);
    this.#news = { entries: 0, bytes: 0 };
  }
}

function checkSame(before: string, hash: string): void {
  if (before !== hash) throw new RunnerError('REQUEST_CONFLICT', 'the idempotency key was used for another request');
}

/** By us, in the middle: nobody told what it came to. */
function wasCutOff(thrown: unknown): boolean {
  if (!isRunnerError(thrown)) return true;
  return (thrown.code === 'ABORTED' || thrown.code === 'INTERNAL') && thrown.retry !== 'safe';
}

function unknownOutcome(startedAt: number): RunnerError {
  const began = new Date(startedAt).toISOString();
  const message = `the request with this idempotency key began at ${began} and was cut off: it is not known whether the function ran`;
  return new RunnerError('OUTCOME_UNKNOWN', message, { details: { began } });
}

function replayed(reply: Reply): Reply {
  return { ...reply, headers: { ...reply.headers, 'idempotent-replayed': 'true' } };
}

function replyOf({ status, headers, body }: Record<string, SQLOutputValue>): Reply {
  return {
    status: Number(status),
    // Written by ourselves.
    headers: JSON.parse(String(headers)) as Record<string, string>,
    body: body instanceof Uint8Array ? body : new Uint8Array(),
  };
}
