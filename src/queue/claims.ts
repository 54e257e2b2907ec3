/** The claims that wait for jobs, first come first served. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { JobTally } from './job-tally.ts';
import type { ClaimedJob } from './queue.ts';
import type { CheckedClaim } from './requests.ts';

export interface Claim extends CheckedClaim {
  /** Equal for claims that can take the same jobs. */
  readonly kind: string;
  readonly has: ReadonlySet<string>;
}

interface Waiting extends Claim {
  readonly resolve: (jobs: ClaimedJob[]) => void;
  readonly reject: (error: unknown) => void;
  readonly abort: () => void;
  cancelTimer: (() => void) | undefined;
}

export class Claims {
  readonly #clock: Clock;
  /** In the order of arrival. */
  readonly #waiting = new Set<Waiting>();
  /** What the transaction under way gives them. */
  readonly #granted = new Map<Waiting, ClaimedJob[]>();
  /** Some came since jobs were last looked for. */
  #fresh = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /** `looked` resolves when jobs have been looked for once. */
  add(request: CheckedClaim, looked: Promise<unknown>): Promise<ClaimedJob[]> {
    const { promise, resolve, reject } = Promise.withResolvers<ClaimedJob[]>();
    const { capabilities, signal } = request;
    const abort = (): void => {
      const message = 'the claim was cancelled before a job came';
      this.#settle(claim, new RunnerError('ABORTED', message, { cause: signal?.reason, retry: 'safe' }));
    };
    const has = new Set(capabilities);
    const claim: Waiting = { ...request, kind: capabilities.join(' '), has, resolve, reject, abort, cancelTimer: undefined };
    signal?.addEventListener('abort', abort, { once: true });
    this.#waiting.add(claim);
    this.#fresh = true;
    const until = this.#clock.monotonic() + request.waitMs;
    looked.then(
      () => this.#wait(claim, until),
      (error: unknown) => this.#settle(claim, error),
    );
    return promise;
  }

  /** Within a transaction: `take` gives a claim jobs. */
  serve({ ready, news }: JobTally, take: (claim: Claim) => ClaimedJob[]): void {
    if (!this.#fresh && !news) return;
    // Those that come while this transaction is on its way to the disk are looked at in the next.
    this.#fresh = false;
    const exhausted = new Set<string>();
    for (const claim of this.#waiting) {
      if (ready.total === 0) break;
      if (exhausted.has(claim.kind) || this.#granted.has(claim)) continue;
      const jobs = take(claim);
      if (jobs.length > 0) this.#granted.set(claim, jobs);
      else exhausted.add(claim.kind);
    }
  }

  committed(): void {
    const granted = [...this.#granted];
    this.#granted.clear();
    for (const [claim, jobs] of granted) this.#settle(claim, undefined, jobs);
  }

  /** What was granted is not on disk. */
  failed(error: unknown): void {
    const granted = [...this.#granted.keys()];
    this.#granted.clear();
    for (const claim of granted) this.#settle(claim, error);
  }

  rolledBack(): void {
    this.#granted.clear();
    this.#fresh = true;
  }

  close(error: unknown): void {
    for (const claim of this.#waiting) this.#settle(claim, error);
  }

  #wait(claim: Waiting, until: number): void {
    if (!this.#waiting.has(claim)) return;
    const leftMs = until - this.#clock.monotonic();
    if (leftMs <= 0) this.#settle(claim, undefined, []);
    else claim.cancelTimer = this.#clock.after(leftMs, () => this.#settle(claim, undefined, []));
  }

  /** One that has been granted jobs gets them when they are its own on disk, whatever happens until then. */
  #settle(claim: Waiting, error: unknown, jobs?: ClaimedJob[]): void {
    if (this.#granted.has(claim) || !this.#waiting.delete(claim)) return;
    claim.cancelTimer?.();
    claim.signal?.removeEventListener('abort', claim.abort);
    if (jobs) claim.resolve(jobs);
    else claim.reject(error);
  }
}
