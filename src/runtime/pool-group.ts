/** The part of the pool that belongs to one version of a function: its instances, who waits for them, and how its starts go. */

import type { CancelTimer, Clock } from '../clock.ts';
import type { RunnerError } from '../errors.ts';
import { Expiring } from '../executor/deadline.ts';
import type { FunctionVersion } from './runtime.ts';

/** What the pool sees of an instance. */
export interface PoolInstance {
  readonly id: string;
  /** An event would go out at once. */
  readonly isAsking: boolean;
  /** It has ended: nobody is to get it. */
  readonly isOver: boolean;
  /** From the decision to start it until it asked for work. */
  readonly startMs: number;
  readonly ended: Promise<unknown>;
  /** Ends it. Idempotent; resolves when nothing of it runs any more. */
  stop(): Promise<void>;
  /** Absent: it cannot be paused. */
  pause?: (() => Promise<void>) | undefined;
  resume?: (() => Promise<void>) | undefined;
}

/** `draining`: ends when its last call does. */
export type MemberState = 'running' | 'pausing' | 'paused' | 'resuming' | 'draining' | 'gone';

/** An instance in the pool. Who has leased a slot of it holds this, and gives it back with `Pool.release`. */
export class Member<I extends PoolInstance> {
  readonly instance: I;
  readonly group: Group<I>;
  /** Leased slots. */
  busy = 0;
  /** Slots that were ever leased. */
  leases = 0;
  /** When a slot was leased last, and freed last; monotonic. */
  leasedAt = 0;
  idleSince = 0;
  state: MemberState = 'running';
  /** Settles when the pause or resume that goes on is over. */
  change: Promise<void> = Promise.resolve();

  constructor(instance: I, group: Group<I>) {
    this.instance = instance;
    this.group = group;
  }
}

/** Who wants a slot. Expires when its deadline passes while it waits. */
export abstract class Waiter<I extends PoolInstance> extends Expiring {
  group: Group<I> | undefined = undefined;
  /** When it began to wait; monotonic. */
  queuedAt = 0;
  abstract leased(member: Member<I>): void;
  abstract refused(error: RunnerError): void;
  /** It waited until its deadline. */
  protected abstract waitedTooLong(): void;

  expire(): void {
    this.group?.forget(this);
    this.waitedTooLong();
  }
}

/** Somebody wants so many instances to be up. */
export interface WarmDemand {
  readonly count: number;
  readonly resolve: () => void;
  readonly reject: (error: RunnerError) => void;
}

/** What starts and calls of a function take. */
interface Figures {
  /** The last start. Zero: there was none. */
  startMs: number;
  /** For how long a slot is leased, on a moving average. */
  leaseMs: number | undefined;
}

/** What is known of functions by their name, so that a new version begins with what the one before it has shown. */
export class FiguresBook {
  readonly #all = new Map<string, Figures>();

  /** For a version that comes now. */
  next(name: string): Figures {
    const figures: Figures = { startMs: 0, leaseMs: undefined, ...this.#all.get(name) };
    this.#all.delete(name);
    this.#all.set(name, figures);
    const [oldest] = this.#all.size > NAMES_MAX ? this.#all.keys() : [];
    if (oldest !== undefined) this.#all.delete(oldest);
    return figures;
  }
}

const NAMES_MAX = 10_000;
const SHORTEST_LEASE_MS = 0.05;
/** Of the newest lease in the moving average. */
const LEASE_WEIGHT = 0.2;
const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 10_000;

export class Group<I extends PoolInstance> {
  readonly fn: FunctionVersion;
  readonly members = new Set<Member<I>>();
  /** Those with a free slot; the last one is leased first. */
  readonly free: Member<I>[] = [];
  /** Oldest first. An array: to take its first one costs little, and it leaves no old tables behind, as a Set does. */
  readonly waiters: Waiter<I>[] = [];
  readonly launches = new Set<AbortController>();
  readonly demands = new Set<WarmDemand>();
  /** Instances that stay without calls. */
  min = 0;
  /** Its code was replaced: nobody is served by it who did not wait for it already. */
  isRetired = false;
  /** Starts that failed in a row. */
  failures = 0;
  lastError: RunnerError | undefined = undefined;
  /** No start before; monotonic. */
  retryAt = 0;
  running = 0;
  readonly #figures: Figures;
  /** When a slot was freed last, or came up. */
  #freedAt = Number.NEGATIVE_INFINITY;
  /** Looks again whether starts are missing. */
  #recheck: CancelTimer | undefined = undefined;
  /** Waits until an instance is to be started again. */
  again: CancelTimer | undefined = undefined;
  /** An instance that was started again stays so long without a call. */
  keepAgainMs = 0;

  constructor(fn: FunctionVersion, figures: Figures) {
    this.fn = fn;
    this.#figures = figures;
  }

  get starting(): number {
    return this.launches.size;
  }

  get isEmpty(): boolean {
    return this.members.size + this.waiters.length + this.launches.size + this.demands.size === 0 && this.again === undefined;
  }

  get isWanted(): boolean {
    return this.waiters.length > 0 || this.demands.size > 0 || this.min > this.members.size;
  }

  /** How many instances to start now, when at most `instancesMax` may be up. */
  missing(instancesMax: number, now: number): number {
    if (now < this.retryAt) return 0;
    const turns = this.#turns(now);
    const slots = this.fn.concurrencyPerInstance;
    const forWaiters = Math.ceil((this.waiters.length - this.#servedWhileStarting(turns)) / (slots * Math.max(1, turns)));
    let wanted = this.isRetired ? 0 : this.min;
    for (const { count } of this.demands) wanted = Math.max(wanted, count);
    const needed = Math.max(forWaiters, wanted - this.members.size) - this.starting;
    // After a failure one start shows whether the next ones have a chance.
    const more = this.failures > 0 ? Math.min(needed, 1 - this.starting) : needed;
    return Math.min(more, instancesMax - this.members.size - this.starting);
  }

  /**
   * How many calls follow each other on a slot in the time of a start; zero when that is not known. It is believed as long as nothing is
   * up, or slots are in fact freed: a call that takes longer than usual holds nobody back for more than the time of a start.
   */
  #turns(now: number): number {
    const { startMs, leaseMs } = this.#figures;
    if (startMs === 0 || leaseMs === undefined) return 0;
    if (this.members.size > 0 && now - this.#freedAt >= startMs) return 0;
    return startMs / Math.max(leaseMs, SHORTEST_LEASE_MS);
  }

  /** Waiters whose turn comes before another instance would be up: with short calls a start is of no use to them. */
  #servedWhileStarting(turns: number): number {
    let useful = 0;
    for (const { state } of this.members) if (state !== 'draining') useful += 1;
    return Math.floor(useful * this.fn.concurrencyPerInstance * turns);
  }

  /** Waiters are left to the instances that are up: looks again when a start would have been over. */
  lookAgain(clock: Clock, plan: () => void): void {
    const now = clock.monotonic();
    if (this.waiters.length === 0 || this.#recheck || this.members.size === 0 || this.#turns(now) === 0) return;
    this.#recheck = clock.after(this.#freedAt + this.#figures.startMs - now + 1, () => {
      this.#recheck = undefined;
      if (this.isWanted) plan();
    });
  }

  cancelAgain(): void {
    this.again?.();
    this.again = undefined;
  }

  enqueue(waiter: Waiter<I>, now: number, first: boolean): void {
    // One that comes back has waited since it came first.
    if (waiter.queuedAt === 0) waiter.queuedAt = now;
    if (first) this.waiters.unshift(waiter);
    else this.waiters.push(waiter);
    waiter.group = this;
  }

  /** For how long the oldest waiter has waited. */
  waitedMs(now: number): number {
    return now - (this.waiters[0]?.queuedAt ?? now);
  }

  /** The oldest waiter, taken out. */
  nextWaiter(): Waiter<I> | undefined {
    const waiter = this.waiters.shift();
    if (waiter) waiter.group = undefined;
    return waiter;
  }

  /** It does not wait any more. */
  forget(waiter: Waiter<I>): void {
    const at = this.waiters.indexOf(waiter);
    if (at >= 0) this.waiters.splice(at, 1);
    waiter.group = undefined;
  }

  /** A member with a free slot: the one used last, or better the last one that asks for work already. */
  take(now: number): Member<I> | undefined {
    const { free } = this;
    if (free.length === 0) return undefined;
    let at = free.length - 1;
    if (!isEager(free[at])) {
      const eager = free.findLastIndex(isEager);
      if (eager >= 0) at = eager;
    }
    const member = free[at];
    if (!member) return undefined;
    member.busy += 1;
    member.leases += 1;
    member.leasedAt = now;
    this.running += 1;
    if (member.busy >= this.fn.concurrencyPerInstance) free.splice(at, 1);
    return member;
  }

  /** Gives a slot back. */
  put(member: Member<I>, now: number): void {
    const leaseMs = now - member.leasedAt;
    const { leaseMs: usualMs = leaseMs } = this.#figures;
    this.#figures.leaseMs = usualMs + (leaseMs - usualMs) * LEASE_WEIGHT;
    this.#freedAt = now;
    const wasFull = member.busy >= this.fn.concurrencyPerInstance;
    member.busy -= 1;
    this.running -= 1;
    if (wasFull && member.state !== 'gone' && member.state !== 'draining') this.free.push(member);
  }

  add(member: Member<I>): void {
    this.members.add(member);
    this.free.push(member);
    for (const demand of this.demands) {
      if (this.members.size < demand.count) continue;
      this.demands.delete(demand);
      demand.resolve();
    }
  }

  remove(member: Member<I>): void {
    this.close(member);
    member.state = 'gone';
    this.members.delete(member);
  }

  /** Nobody gets a slot of it any more. */
  close(member: Member<I>): void {
    member.state = 'draining';
    const at = this.free.indexOf(member);
    if (at >= 0) this.free.splice(at, 1);
  }

  rejectDemands(error: RunnerError): void {
    for (const demand of this.demands) demand.reject(error);
    this.demands.clear();
  }

  abortLaunches(error: RunnerError): void {
    for (const launch of this.launches) launch.abort(error);
  }

  startFailed(error: RunnerError, now: number): void {
    this.failures += 1;
    this.lastError = error;
    this.retryAt = this.failures === 1 ? now : now + Math.min(BACKOFF_MS_MIN * 2 ** (this.failures - 2), BACKOFF_MS_MAX);
  }

  startSucceeded(startMs: number, now: number): void {
    this.#figures.startMs = startMs;
    this.#freedAt = now;
    this.forgetFailures();
  }

  forgetFailures(): void {
    this.failures = 0;
    this.retryAt = 0;
    this.lastError = undefined;
  }
}

function isEager<I extends PoolInstance>(member: Member<I> | undefined): boolean {
  return member?.state === 'running' && member.instance.isAsking;
}
