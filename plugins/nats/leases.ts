/** The leases that this process gave, and tokens that say enough for any process to take one over. */

import { createHmac, timingSafeEqual } from 'node:crypto';
import type { CancelTimer, Clock, Lease } from '../../src/plugin.ts';
import type { JobMeta } from './records.ts';

/** What a token says. */
export interface Grant {
  readonly jobId: string;
  readonly seq: number;
  /** The sequence of the record of the job: what the next one must replace. 0 when there was none. */
  readonly rev: number;
  readonly until: number;
  readonly leaseMs: number;
  readonly attempt: number;
  readonly claimedAt: number;
  readonly workerId: string;
  /** Where the server hears what becomes of the message. */
  readonly ack: string;
}

export interface Held extends Omit<Grant, 'rev' | 'until' | 'leaseMs' | 'ack'> {
  readonly token: string;
  readonly job: JobMeta;
  rev: number;
  until: number;
  leaseMs: number;
  ack: string;
}

/** Tokens are signed with a secret that lies with the queue: nobody makes one up. */
export class Tokens {
  readonly #secret: string;

  constructor(secret: string) {
    this.#secret = secret;
  }

  issue({ jobId, seq, rev, until, leaseMs, attempt, claimedAt, workerId, ack }: Grant): string {
    const said = Buffer.from(JSON.stringify([seq, rev, until, leaseMs, attempt, claimedAt, workerId, ack])).toString('base64url');
    return `${said}.${this.#sign(jobId, said)}`;
  }

  /** Undefined when we did not issue it, or for another job. */
  read({ jobId, token }: Lease): Grant | undefined {
    const [said = '', signature = ''] = token.split('.');
    const expected = Buffer.from(this.#sign(jobId, said));
    const given = Buffer.from(signature);
    if (expected.length !== given.length || !timingSafeEqual(expected, given)) return undefined;
    // Signed: it is what `issue` wrote.
    const fields = JSON.parse(Buffer.from(said, 'base64url').toString()) as [
      number,
      number,
      number,
      number,
      number,
      number,
      string,
      string,
    ];
    const [seq, rev, until, leaseMs, attempt, claimedAt, workerId, ack] = fields;
    return { jobId, seq, rev, until, leaseMs, attempt, claimedAt, workerId, ack };
  }

  #sign(jobId: string, said: string): string {
    return createHmac('sha256', this.#secret).update(`${said}\n${jobId}`).digest('base64url').slice(0, 22);
  }
}

/** What a record keeps of a token. */
export function keyOf(token: string): string {
  return token.slice(token.indexOf('.') + 1);
}

interface Entry {
  readonly held: Held;
  cancelTimer: CancelTimer;
}

export class Leases {
  readonly #clock: Clock;
  readonly #lapsed: (held: Held) => void;
  readonly #byToken = new Map<string, Entry>();
  /** By the id of the job: the last one. */
  readonly #tokens = new Map<string, string>();

  /** `lapsed` is called when a lease has run out. */
  constructor(clock: Clock, lapsed: (held: Held) => void) {
    this.#clock = clock;
    this.#lapsed = lapsed;
  }

  add(held: Held): void {
    this.remove(held.token);
    this.#tokens.set(held.jobId, held.token);
    this.#byToken.set(held.token, { held, cancelTimer: this.#timer(held) });
  }

  get({ jobId, token }: Lease): Held | undefined {
    const held = this.#byToken.get(token)?.held;
    return held?.jobId === jobId ? held : undefined;
  }

  ofJob(jobId: string): Held | undefined {
    const token = this.#tokens.get(jobId);
    return token === undefined ? undefined : this.#byToken.get(token)?.held;
  }

  /** `until` has changed. */
  moved({ token }: Held): void {
    const entry = this.#byToken.get(token);
    if (!entry) return;
    entry.cancelTimer();
    entry.cancelTimer = this.#timer(entry.held);
  }

  remove(token: string): boolean {
    const entry = this.#byToken.get(token);
    if (!entry) return false;
    entry.cancelTimer();
    if (this.#tokens.get(entry.held.jobId) === token) this.#tokens.delete(entry.held.jobId);
    return this.#byToken.delete(token);
  }

  *values(): Generator<Held> {
    for (const { held } of this.#byToken.values()) yield held;
  }

  close(): void {
    for (const { cancelTimer } of this.#byToken.values()) cancelTimer();
    this.#byToken.clear();
    this.#tokens.clear();
  }

  #timer(held: Held): CancelTimer {
    return this.#clock.after(Math.max(1, held.until - this.#clock.now()), () => {
      if (held.until > this.#clock.now()) this.moved(held);
      else this.#lapsed(held);
    });
  }
}
