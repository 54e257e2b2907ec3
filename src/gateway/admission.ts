/** How much one caller may ask for: a token bucket and a number of requests at the same time. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';

export interface CallerLimits {
  /** Requests per second in the long run. */
  readonly requestsPerSecond: number;
  /** Requests that may come at once after a pause. */
  readonly burst: number;
  /** Requests that run at the same time. */
  readonly concurrent: number;
}

interface Account {
  tokens: number;
  filledAt: number;
  running: number;
}

const ACCOUNTS_MAX = 10_000;

export class Admission {
  readonly #limits: CallerLimits;
  readonly #clock: Clock;
  readonly #accounts = new Map<string, Account>();

  constructor(limits: CallerLimits, clock: Clock) {
    this.#limits = limits;
    this.#clock = clock;
  }

  /** Counts a request of this caller in; the returned function counts it out, once. Throws `RATE_LIMITED`. */
  admit(callerId: string): () => void {
    const { requestsPerSecond, concurrent } = this.#limits;
    const account = this.#account(callerId);
    if (account.running >= concurrent) throw refusal(`${callerId} has ${concurrent} requests running already`, 1);
    if (account.tokens < 1) {
      const seconds = Math.max(1, Math.ceil((1 - account.tokens) / requestsPerSecond));
      throw refusal(`${callerId} sent more than ${requestsPerSecond} requests per second`, seconds);
    }
    account.tokens -= 1;
    account.running += 1;
    let isOut = false;
    return () => {
      if (isOut) return;
      isOut = true;
      account.running -= 1;
    };
  }

  #account(callerId: string): Account {
    const { requestsPerSecond, burst } = this.#limits;
    const now = this.#clock.monotonic();
    let account = this.#accounts.get(callerId);
    if (!account) {
      this.#forget();
      account = { tokens: burst, filledAt: now, running: 0 };
      this.#accounts.set(callerId, account);
    }
    account.tokens = Math.min(burst, account.tokens + ((now - account.filledAt) / 1_000) * requestsPerSecond);
    account.filledAt = now;
    return account;
  }

  /** Those that have nothing running are made anew when they come again. */
  #forget(): void {
    if (this.#accounts.size < ACCOUNTS_MAX) return;
    for (const [id, { running }] of this.#accounts) if (running === 0) this.#accounts.delete(id);
  }
}

function refusal(message: string, retryAfterSeconds: number): RunnerError {
  return new RunnerError('RATE_LIMITED', message, { details: { retryAfterSeconds } });
}
