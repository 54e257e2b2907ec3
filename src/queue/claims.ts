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
  /** What the transaction under way gives it. */
  granted: ClaimedJob[] | undefined;
  isSettled: boolean;
}

/** Arrays: in sets and maps in which every claim comes and goes, V8 links old tables to new ones, and what is gone is kept alive. */
export class Claims {
  readonly #clock: Clock;
  /** In the order of arrival. */
  #waiting: Waiting[] = [];
  #granted: Waiting[] = [];
  /** Some came since jobs were last looked for. */
  #fresh = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#waiting.length;
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
    const state = { cancelTimer: undefined, granted: undefined, isSettled: false };
    const claim: Waiting = { ...request, ...state, kind: capabilities.join(' '), has, resolve, reject, abort };
    signal?.addEventListener('abort', abort, { once: true });
    this.#waiting.push(claim);
    this.#fresh = true;
    const until = this.#clock.monotonic() + request.waitMs;
    looked.then(
      () => this.#wait(claim, until),
      (error: unknown) => this.#settle(claim, error),
    );
    return promise;
  }

  /** Within a transaction: `take` gives a claim jobs; so many are wanted by it and those after it. */
  serve({ ready, news }: JobTally, take: (claim: Claim, wanted: number) => ClaimedJob[]): void {
    if (!this.#fresh && !news) return;
    // Those that come while this transaction is on its way to the disk are looked at in the next.
    this.#fresh = false;
    const exhausted = new Set<string>();
    let wanted = 0;
    for (const { max, granted } of this.#waiting) if (!granted) wanted += max;
    for (const claim of this.#waiting) {
      if (ready.total === 0) break;
      if (claim.granted || exhausted.has(claim.kind)) continue;
      const jobs = take(claim, wanted);
      wanted -= claim.max;
      if (jobs.length > 0) this.#grant(claim, jobs);
      else exhausted.add(claim.kind);
    }
  }

  committed(): void {
    const granted = this.#ungrant();
    for (const { claim, jobs } of granted) this.#end(claim, undefined, jobs);
    if (granted.length > 0) this.#waiting = this.#waiting.filter(({ isSettled }) => !isSettled);
  }

  /** What was granted is not on disk. */
  failed(error: unknown): void {
    for (const { claim } of this.#ungrant()) this.#settle(claim, error);
  }

  rolledBack(): void {
    this.#ungrant();
    this.#fresh = true;
  }

  close(error: unknown): void {
    const open = this.#waiting.filter(({ granted }) => !granted);
    this.#waiting = this.#waiting.filter(({ granted }) => granted);
    for (const claim of open) this.#end(claim, error);
  }

  #grant(claim: Waiting, jobs: ClaimedJob[]): void {
    claim.granted = jobs;
    this.#granted.push(claim);
  }

  #ungrant(): { readonly claim: Waiting; readonly jobs: ClaimedJob[] }[] {
    const granted = this.#granted.map((claim) => ({ claim, jobs: claim.granted ?? [] }));
    for (const { claim } of granted) claim.granted = undefined;
    this.#granted = [];
    return granted;
  }

  #wait(claim: Waiting, until: number): void {
    if (claim.isSettled) return;
    const leftMs = until - this.#clock.monotonic();
    if (leftMs <= 0) this.#settle(claim, undefined, []);
    else claim.cancelTimer = this.#clock.after(leftMs, () => this.#settle(claim, undefined, []));
  }

  /** One that has been granted jobs gets them when they are its own on disk, whatever happens until then. */
  #settle(claim: Waiting, error: unknown, jobs?: ClaimedJob[]): void {
    if (claim.granted || claim.isSettled) return;
    this.#waiting.splice(this.#waiting.indexOf(claim), 1);
    this.#end(claim, error, jobs);
  }

  #end(claim: Waiting, error: unknown, jobs?: ClaimedJob[]): void {
    claim.isSettled = true;
    claim.cancelTimer?.();
    claim.signal?.removeEventListener('abort', claim.abort);
    if (jobs) claim.resolve(jobs);
    else claim.reject(error);
  }
}
