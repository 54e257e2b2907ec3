/** The claims of this process: served together, first come first served, from the lanes that hold what they may get. */

import { RunnerError } from '../../src/plugin.ts';
import type { CancelTimer, CheckedClaim, ClaimedJob, Clock } from '../../src/plugin.ts';
import type { Jobs } from './jobs.ts';
import type { Delivery, Lane } from './lane.ts';
import type { Lanes } from './lanes.ts';

interface Claim extends CheckedClaim {
  /** Equal for claims that can take the same jobs. */
  readonly kind: string;
  readonly has: ReadonlySet<string>;
  readonly jobs: ClaimedJob[];
  readonly settle: (error?: unknown) => void;
  /** Jobs are being claimed for it: whatever ends it waits for that. */
  isServed: boolean;
  isWaiting: boolean;
  /** What it is to end with. */
  ending: { readonly error: unknown } | undefined;
  cancelTimer: CancelTimer;
}

export interface ClaimsOptions {
  readonly clock: Clock;
  readonly jobs: Jobs;
  readonly claimed: (claim: CheckedClaim, jobs: readonly ClaimedJob[]) => void;
}

export class Claims {
  lanes: Lanes | undefined;
  readonly #options: ClaimsOptions;
  /** In the order of arrival. */
  readonly #open = new Set<Claim>();
  /** By kind: those that nothing was looked for yet. */
  readonly #fresh = new Map<string, Claim[]>();
  #closed: unknown;

  constructor(options: ClaimsOptions) {
    this.#options = options;
  }

  get size(): number {
    let count = 0;
    for (const { isWaiting } of this.#open) if (isWaiting) count += 1;
    return count;
  }

  add(request: CheckedClaim): Promise<ClaimedJob[]> {
    const { promise, resolve, reject } = Promise.withResolvers<ClaimedJob[]>();
    const { signal, capabilities } = request;
    const abort = (): void => {
      const message = 'the claim was cancelled before a job came';
      this.#end(claim, new RunnerError('ABORTED', message, { cause: signal?.reason, retry: 'safe' }));
    };
    const settle = (error?: unknown): void => {
      if (!this.#open.delete(claim)) return;
      claim.cancelTimer();
      signal?.removeEventListener('abort', abort);
      if (claim.jobs.length > 0) this.#options.claimed(claim, claim.jobs);
      if (claim.jobs.length > 0 || error === undefined) resolve(claim.jobs);
      else reject(error);
    };
    const claim: Claim = {
      ...request,
      kind: capabilities.join(' '),
      has: new Set(capabilities),
      jobs: [],
      settle,
      isServed: true,
      isWaiting: false,
      ending: undefined,
      cancelTimer: () => undefined,
    };
    signal?.addEventListener('abort', abort, { once: true });
    this.#open.add(claim);
    this.#look(claim);
    return promise;
  }

  /** A job that was waited for, or undefined: a pull that waited has ended. */
  arrived(lane: Lane, delivery: Delivery | undefined): void {
    if (delivery) this.#hand(lane, delivery);
    this.#want(lane);
  }

  /** There are lanes that nothing was asked of yet. */
  changed(): void {
    for (const lane of this.lanes?.all() ?? []) this.#want(lane);
  }

  close(error: unknown): void {
    this.#closed = error;
    for (const claim of this.#open) this.#end(claim, error);
  }

  /** Claims of one kind that come in the same turn share their pulls. */
  #look(claim: Claim): void {
    const others = this.#fresh.get(claim.kind);
    if (others) {
      others.push(claim);
      return;
    }
    this.#fresh.set(claim.kind, [claim]);
    queueMicrotask(() => {
      const group = this.#fresh.get(claim.kind) ?? [];
      this.#fresh.delete(claim.kind);
      this.#options.jobs.background(this.#serveFirst(group));
    });
  }

  async #serveFirst(group: readonly Claim[]): Promise<void> {
    const failed = await this.#serve(group).then(
      (isAnswered) => (isAnswered ? undefined : new RunnerError('PLATFORM_UNREACHABLE', 'JetStream does not answer to claims')),
      (error: unknown) => error,
    );
    for (const claim of group) {
      claim.isServed = false;
      if (claim.jobs.length > 0) claim.settle();
      else if (claim.ending) claim.settle(claim.ending.error);
      else if (claim.waitMs === 0) claim.settle(failed);
      else this.#wait(claim);
    }
    for (const lane of this.lanes?.all() ?? []) this.#want(lane);
  }

  #wait(claim: Claim): void {
    claim.isWaiting = true;
    claim.cancelTimer = this.#options.clock.after(claim.waitMs, () => this.#end(claim, undefined));
  }

  #end(claim: Claim, error: unknown): void {
    if (claim.isServed) claim.ending = { error };
    else claim.settle(error);
  }

  /** What is there now, by priority, then in the order of publication. False when the server did not answer everywhere. */
  async #serve(group: readonly Claim[]): Promise<boolean> {
    let isAnswered = true;
    const lanes = this.lanes?.matching(group[0]?.has ?? new Set()) ?? [];
    for (let from = 0; from < lanes.length;) {
      const priority = lanes[from]?.priority;
      const same = lanes.filter((lane) => lane.priority === priority);
      from += same.length;
      for (let isMore = true; isMore;) {
        const open = group.filter((claim) => !claim.ending && claim.jobs.length < claim.max);
        const wanted = open.reduce((sum, { max, jobs }) => sum + max - jobs.length, 0);
        if (wanted === 0) return isAnswered;
        const taken = await Promise.all(same.map((lane) => lane.take(Math.min(wanted, 1_000))));
        if (taken.includes(undefined)) isAnswered = false;
        const deliveries = taken.flatMap((some) => some ?? []).toSorted((a, b) => a.seq - b.seq);
        isMore = deliveries.length >= Math.min(wanted, 1_000);
        await this.#share(deliveries, open);
      }
    }
    return isAnswered;
  }

  /** Each claim gets what it asked for, in the order of arrival; the rest goes back. */
  async #share(deliveries: readonly Delivery[], claims: readonly Claim[]): Promise<void> {
    const { jobs } = this.#options;
    const owners = claims.flatMap((claim) =>
      Array.from({ length: Math.min(claim.max - claim.jobs.length, deliveries.length) }, () => claim),
    );
    const given = await Promise.allSettled(
      deliveries.map(async (delivery, index) => {
        const owner = owners[index];
        if (owner) return jobs.admit(delivery, owner);
        await jobs.putBack(delivery);
        return undefined;
      }),
    );
    // Those that were given are given, whatever became of the others.
    for (const [index, one] of given.entries()) if (one.status === 'fulfilled' && one.value) owners[index]?.jobs.push(one.value);
    const failed = given.find((one) => one.status === 'rejected');
    if (failed) throw failed.reason;
  }

  #want(lane: Lane): void {
    if (this.#closed !== undefined) return;
    let count = 0;
    for (const claim of this.#open) if (isFor(claim, lane)) count += 1;
    lane.want(count);
  }

  #hand(lane: Lane, delivery: Delivery): void {
    const { jobs } = this.#options;
    for (const claim of this.#open) {
      if (!isFor(claim, lane)) continue;
      claim.isServed = true;
      claim.isWaiting = false;
      jobs.background(this.#give(claim, delivery));
      return;
    }
    lane.stray(delivery, () => jobs.putBack(delivery));
  }

  async #give(claim: Claim, delivery: Delivery): Promise<void> {
    const job = await this.#options.jobs.admit(delivery, claim).catch((error: unknown) => this.#left(claim, error));
    if (job) claim.jobs.push(job);
    if (job && claim.max > 1) await this.#serve([claim]).catch(() => undefined);
    claim.isServed = false;
    if (claim.jobs.length > 0) claim.settle();
    else if (claim.ending) claim.settle(claim.ending.error);
    else claim.isWaiting = true;
    this.#want(delivery.lane);
  }

  /** The server offers the job again. */
  #left(claim: Claim, error: unknown): undefined {
    if (this.#closed !== undefined) claim.ending = { error };
  }
}

function isFor(claim: Claim, { requires }: Lane): boolean {
  return claim.isWaiting && !claim.isServed && requires.every((each) => claim.has.has(each));
}
