/**
 * The pool of instances, the same for every backend: decides who gets which instance, when one is started, kept, paused and ended.
 *
 * The first slot that is freed or started goes to who waits for longest. Starts run beside each other, outside of any lock; their number
 * is bounded over all functions. An instance belongs to the group of its version; a group that was retired takes no new calls, so that
 * code that was replaced is never served again.
 */

import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { Deadlines } from '../executor/deadline.ts';
import type { KeepAlive } from './keep-alive.ts';
import { FiguresBook, Group, Member } from './pool-group.ts';
import type { PoolInstance, Waiter } from './pool-group.ts';
import { IdleKeeper } from './pool-idle.ts';
import type { FunctionVersion } from './runtime.ts';

export interface PoolLimits {
  /** Instances of all functions. */
  readonly instancesMax: number;
  readonly instancesPerFunctionMax: number;
  /** Starts at the same time, over all functions. */
  readonly startsMax: number;
  /** Calls of one version that wait. */
  readonly queueMax: number;
}

export type EndReason = 'idle' | 'retired' | 'room' | 'lost' | 'stopped' | 'closed';

/** What the pool tells about itself. */
export interface PoolObserver<I extends PoolInstance> {
  ended?(fn: FunctionVersion, reason: EndReason): void;
  paused?(instance: I, isPaused: boolean): void;
}

export interface PoolOptions<I extends PoolInstance> {
  /** Resolves when the instance asked for work; then it is the pool's. Rejects with why it did not, and has then left nothing behind. */
  launch(fn: FunctionVersion, signal: AbortSignal): Promise<I>;
  readonly clock: Clock;
  readonly deadlines: Deadlines;
  readonly limits: PoolLimits;
  readonly keepAlive: KeepAlive;
  readonly observer?: PoolObserver<I>;
}

/** A group that fails to start is remembered for so long after its last try. */
const FORGET_FAILURES_MS = 60_000;

export class Pool<I extends PoolInstance> {
  readonly #options: PoolOptions<I>;
  readonly #clock: Clock;
  readonly #idle: IdleKeeper<I>;
  /** By fingerprint: those that take calls. */
  readonly #groups = new Map<string, Group<I>>();
  readonly #retired = new Set<Group<I>>();
  readonly #figures = new FiguresBook();
  /** Groups that want starts, in turn. */
  #hungry = new Set<Group<I>>();
  readonly #stopping = new Set<Promise<void>>();
  #starting = 0;
  #members = 0;
  #memoryMb = 0;
  /** Instances that end to make room. */
  #makingRoom = 0;
  #closing = false;
  #refusesAll = false;
  #drained: (() => void) | undefined;

  constructor(options: PoolOptions<I>) {
    this.#options = options;
    this.#clock = options.clock;
    this.#idle = new IdleKeeper({
      clock: options.clock,
      keepAlive: options.keepAlive,
      groups: () => this.#groups.values(),
      end: (member, reason) => void this.#end(member, reason),
      startAgain: (group) => this.#startAgain(group),
      paused: options.observer?.paused,
    });
  }

  /** Hands a slot to the waiter, at once or when it is its turn, or refuses it. `first`: before all others. */
  acquire(fn: FunctionVersion, waiter: Waiter<I>, first = false): void {
    if (this.#refusesAll || (this.#closing && !first))
      return waiter.refused(new RunnerError('EXECUTOR_CLOSED', 'the function runtime is closed'));
    const group = this.#groupOf(fn);
    const now = this.#clock.monotonic();
    if (group.waiters.length === 0) {
      const member = group.take(now);
      if (member) return this.#lend(member, waiter, now);
    }
    const { queueMax } = this.#options.limits;
    if (group.lastError && now < group.retryAt && group.members.size + group.starting === 0) return waiter.refused(group.lastError);
    if (group.waiters.length >= queueMax && !first) {
      const message = `${queueMax} calls of ${fn.name} wait already (queueMax)`;
      return waiter.refused(new RunnerError('QUEUE_FULL', message, { details: { name: fn.name, queueMax } }));
    }
    group.cancelAgain();
    group.enqueue(waiter, now, first);
    this.#options.deadlines.add(waiter);
    this.#plan(group);
    return undefined;
  }

  /** A waiter gives up. False: it does not wait any more. */
  cancel(waiter: Waiter<I>): boolean {
    const { group } = waiter;
    if (!group) return false;
    group.forget(waiter);
    this.#options.deadlines.remove(waiter);
    this.#tidy(group);
    return true;
  }

  /** Gives a slot back, also one of an instance that is gone. */
  release(member: Member<I>): void {
    const { group } = member;
    const now = this.#clock.monotonic();
    group.put(member, now);
    this.#options.keepAlive.ended?.(group.fn.name, now);
    if (member.state === 'gone') this.#tidy(group);
    else if (member.instance.isOver) void this.#end(member, 'lost');
    else this.#freed(member, now);
  }

  /** Takes an instance out at once, so that nobody gets it any more, and ends it. */
  discard(member: Member<I>, reason: EndReason = 'stopped'): Promise<void> {
    return this.#end(member, reason);
  }

  /** Takes an instance out at once; it ends when the calls that run on it have ended. */
  drain(member: Member<I>): void {
    if (member.state !== 'gone') member.group.close(member);
  }

  /** Resolves when so many instances are up. `keep`: they stay, and are started again when they are lost. */
  warm(fn: FunctionVersion, count: number, keep = false): Promise<void> {
    if (this.#closing) return Promise.reject(new RunnerError('EXECUTOR_CLOSED', 'the function runtime is closed'));
    const { instancesPerFunctionMax, instancesMax } = this.#options.limits;
    const most = Math.min(instancesPerFunctionMax, instancesMax);
    if (count > most) {
      const message = `${count} instances of ${fn.name} are wanted; the limits allow ${most}`;
      return Promise.reject(new RunnerError('CONFIG_INVALID', message, { details: { count, most } }));
    }
    const group = this.#groupOf(fn);
    if (keep) group.min = count;
    if (group.members.size >= count) return Promise.resolve();
    return new Promise((resolve, reject) => {
      group.demands.add({ count, resolve, reject });
      this.#plan(group);
    });
  }

  /** All versions of this name but those with a fingerprint in `keep` serve nobody any more who does not wait already. */
  retire(name: string, keep: readonly string[]): void {
    for (const [fingerprint, group] of this.#groups) {
      if (group.fn.name !== name || keep.includes(fingerprint)) continue;
      this.#groups.delete(fingerprint);
      this.#retired.add(group);
      group.isRetired = true;
      group.cancelAgain();
      group.min = 0;
      const error = new RunnerError('ABORTED', `${name} was replaced while it was warmed`, { retry: 'safe' });
      group.rejectDemands(error);
      if (group.waiters.length === 0) group.abortLaunches(error);
      for (const member of group.members) if (member.busy === 0) void this.#end(member, 'retired');
      this.#tidy(group);
    }
  }

  members(): Member<I>[] {
    return this.#all().flatMap((group) => [...group.members]);
  }

  /** Calls that wait, over all functions. */
  get queue(): { readonly depth: number; readonly oldestMs: number } {
    const [groups, now] = [this.#all(), this.#clock.monotonic()];
    const depth = groups.reduce((sum, { waiters }) => sum + waiters.length, 0);
    return { depth, oldestMs: Math.max(0, ...groups.map((group) => group.waitedMs(now))) };
  }

  /** Lets calls that run and wait end until the deadline; then ends everything. */
  async close(deadlineMs: number): Promise<void> {
    this.#closing = true;
    const error = new RunnerError('EXECUTOR_CLOSED', 'the function runtime was closed');
    for (const group of this.#all()) {
      group.min = 0;
      group.cancelAgain();
      group.rejectDemands(error);
      if (group.waiters.length === 0) group.abortLaunches(error);
      for (const member of group.members) if (member.busy === 0) void this.#end(member, 'closed');
    }
    this.#idle.stop();
    if (!this.#isQuiet()) {
      await new Promise<void>((resolve) => {
        const cancel = this.#clock.after(deadlineMs, resolve);
        this.#drained = () => {
          cancel();
          resolve();
        };
      });
    }
    this.#refusesAll = true;
    for (const group of this.#all()) {
      this.#rejectWaiters(group, error);
      group.abortLaunches(error);
      for (const member of group.members) void this.#end(member, 'closed');
    }
    while (this.#stopping.size > 0 || this.#starting > 0) {
      await Promise.all(this.#stopping);
      if (this.#starting > 0 && this.#stopping.size === 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    }
  }

  #all(): Group<I>[] {
    return [...this.#groups.values(), ...this.#retired];
  }

  #groupOf(fn: FunctionVersion): Group<I> {
    let group = this.#groups.get(fn.fingerprint);
    if (!group) this.#groups.set(fn.fingerprint, (group = new Group(fn, this.#figures.next(fn.name))));
    return group;
  }

  #lend(member: Member<I>, waiter: Waiter<I>, now: number): void {
    if (member.state === 'running') return this.#hand(member, waiter, now);
    const { group } = member;
    this.#idle.wake(member).then(
      () => this.#hand(member, waiter, this.#clock.monotonic()),
      () => {
        group.put(member, this.#clock.monotonic());
        void this.#end(member, 'lost');
        this.acquire(group.fn, waiter, true);
      },
    );
    return undefined;
  }

  #hand(member: Member<I>, waiter: Waiter<I>, now: number): void {
    this.#options.keepAlive.started?.(member.group.fn.name, now);
    waiter.leased(member);
  }

  #freed(member: Member<I>, now: number): void {
    const { group } = member;
    while (group.waiters.length > 0 && group.free.length > 0) {
      const lent = group.take(now);
      const waiter = lent && group.nextWaiter();
      if (!waiter) break;
      this.#options.deadlines.remove(waiter);
      this.#lend(lent, waiter, now);
    }
    if (member.busy > 0 || member.state === 'gone') return;
    if (member.state === 'draining') {
      void this.#end(member, 'stopped');
      return;
    }
    if (group.isRetired || this.#closing) {
      void this.#end(member, group.isRetired ? 'retired' : 'closed');
      return;
    }
    this.#idle.becameIdle(member, now);
    if (this.#hungry.size > 0) this.#plan();
  }

  /** Whether it succeeds or fails: whoever calls sees. */
  #startAgain(group: Group<I>): void {
    group.demands.add({ count: 1, resolve: () => {}, reject: () => {} });
    this.#plan(group);
  }

  /** Starts what is missing: one instance for each group in turn, until nothing is missing or a limit is reached. */
  #plan(group?: Group<I>): void {
    if (group) this.#hungry.add(group);
    const { startsMax, instancesPerFunctionMax } = this.#options.limits;
    const now = this.#clock.monotonic();
    let denied = 0;
    for (const each of this.#hungry) {
      const missing = each.missing(instancesPerFunctionMax, now);
      if (missing > 0 && this.#starting >= startsMax) return;
      if (missing <= 0) {
        this.#hungry.delete(each);
        each.lookAgain(this.#clock, () => this.#plan(each));
      } else if (this.#hasRoom(each.fn)) {
        this.#launch(each);
        // To the end of the line, where this loop comes to it again.
        this.#hungry.delete(each);
        this.#hungry.add(each);
      } else denied += missing;
    }
    while (this.#makingRoom < denied && this.#makeRoom());
  }

  #hasRoom(fn: FunctionVersion): boolean {
    const { limits, keepAlive } = this.#options;
    const up = this.#members + this.#starting + this.#stopping.size;
    if (up >= limits.instancesMax) return false;
    // One instance runs even when it alone is more than the budget.
    return keepAlive.memoryMbMax === undefined || up === 0 || this.#memoryMb + fn.memoryMb <= keepAlive.memoryMbMax;
  }

  /** Ends the idle instance that is worth least. False: none is idle. */
  #makeRoom(): boolean {
    const least = this.#idle.leastWorth();
    if (!least) return false;
    this.#options.keepAlive.evicted?.(least.rank);
    this.#makingRoom += 1;
    void this.#end(least.member, 'room', () => (this.#makingRoom -= 1));
    return true;
  }

  #launch(group: Group<I>): void {
    const controller = new AbortController();
    group.launches.add(controller);
    this.#starting += 1;
    this.#memoryMb += group.fn.memoryMb;
    const over = (): void => {
      group.launches.delete(controller);
      this.#starting -= 1;
    };
    this.#options.launch(group.fn, controller.signal).then(
      (instance) => {
        over();
        this.#started(new Member(instance, group));
      },
      (thrown: unknown) => {
        over();
        this.#memoryMb -= group.fn.memoryMb;
        this.#startFailed(group, toRunnerError(thrown, 'INSTANCE_START_FAILED'));
      },
    );
  }

  #started(member: Member<I>): void {
    const { group } = member;
    group.startSucceeded(member.instance.startMs, this.#clock.monotonic());
    group.add(member);
    this.#members += 1;
    void member.instance.ended.then(() => this.#end(member, 'lost'));
    this.#freed(member, this.#clock.monotonic());
    this.#plan(group.isWanted ? group : undefined);
    this.#tidy(group);
  }

  #startFailed(group: Group<I>, error: RunnerError): void {
    const now = this.#clock.monotonic();
    group.startFailed(error, now);
    // As long as another instance is up or comes up, it may serve them.
    if (group.members.size + group.starting === 0) {
      this.#rejectWaiters(group, error);
      group.rejectDemands(error);
    }
    this.#clock.after(group.retryAt - now + 1, () => this.#plan(group.isWanted ? group : undefined));
    this.#clock.after(group.retryAt - now + FORGET_FAILURES_MS, () => {
      if (this.#clock.monotonic() >= group.retryAt + FORGET_FAILURES_MS) group.forgetFailures();
      this.#tidy(group);
    });
    this.#plan();
    this.#tidy(group);
  }

  /** Idempotent. */
  #end(member: Member<I>, reason: EndReason, ended?: () => void): Promise<void> {
    const { group, instance } = member;
    if (member.state === 'gone') return instance.stop();
    group.remove(member);
    this.#members -= 1;
    this.#options.observer?.ended?.(group.fn, reason);
    const stopped: Promise<void> = instance.stop().finally(() => {
      this.#stopping.delete(stopped);
      this.#memoryMb -= group.fn.memoryMb;
      ended?.();
      this.#plan(group.isWanted ? group : undefined);
      this.#tidy(group);
    });
    this.#stopping.add(stopped);
    return stopped;
  }

  #rejectWaiters(group: Group<I>, error: RunnerError): void {
    for (let waiter = group.nextWaiter(); waiter; waiter = group.nextWaiter()) {
      this.#options.deadlines.remove(waiter);
      waiter.refused(error);
    }
  }

  /** Forgets a group that nothing is left of, and notices when all is quiet. */
  #tidy(group: Group<I>): void {
    if (group.isEmpty && group.min === 0) {
      this.#hungry.delete(group);
      this.#retired.delete(group);
      if (group.failures === 0 && this.#groups.get(group.fn.fingerprint) === group) this.#groups.delete(group.fn.fingerprint);
    }
    if (this.#closing && this.#isQuiet()) this.#drained?.();
  }

  #isQuiet(): boolean {
    return this.#starting === 0 && this.#all().every((group) => group.waiters.length === 0 && group.running === 0);
  }
}
