/** What happens to instances that nobody uses: they are paused, and ended when their time is over. */

import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { KeepAlive } from './keep-alive.ts';
import type { Group, Member, PoolInstance } from './pool-group.ts';

export interface IdleKeeperOptions<I extends PoolInstance> {
  readonly clock: Clock;
  readonly keepAlive: KeepAlive;
  readonly groups: () => Iterable<Group<I>>;
  readonly end: (member: Member<I>, reason: 'idle' | 'lost') => void;
  readonly startAgain: (group: Group<I>) => void;
  readonly paused?: ((instance: I, isPaused: boolean) => void) | undefined;
}

/** Instances that stay are looked at so often: fewer may be to stay by now. */
const STAYING_MS = 60_000;
/** A backend that takes longer will not resume it: the call gets another one. */
const RESUME_MS_MAX = 5_000;

/** One timer for all: an instance that is used again before its time costs nothing. */
export class IdleKeeper<I extends PoolInstance> {
  readonly #options: IdleKeeperOptions<I>;
  #timer: CancelTimer | undefined;
  #timerAt = Number.POSITIVE_INFINITY;
  #isStopped = false;

  constructor(options: IdleKeeperOptions<I>) {
    this.#options = options;
  }

  /** The last call of an instance has ended. */
  becameIdle(member: Member<I>, now: number): void {
    member.idleSince = now;
    this.#lookAt(member.idleSince + this.#stepMs(member));
  }

  /** Resolves when a paused instance runs again. */
  wake(member: Member<I>): Promise<void> {
    if (member.state === 'pausing' || member.state === 'paused') {
      member.state = 'resuming';
      member.change = member.change.then(() => this.#resume(member));
    }
    return member.change;
  }

  /** The idle instance that is worth least, of those that may go. */
  leastWorth(): { readonly member: Member<I>; readonly rank: number } | undefined {
    const { groups, keepAlive } = this.#options;
    let least: Member<I> | undefined;
    let leastRank = Number.POSITIVE_INFINITY;
    for (const group of groups()) {
      if (group.waiters.length > 0 || group.members.size <= group.min) continue;
      for (const member of group.members) {
        if (member.busy > 0) continue;
        const { name, memoryMb } = group.fn;
        const stats = { name, memoryMb, startMs: member.instance.startMs, idleSince: member.idleSince };
        const rank = keepAlive.rank?.(stats) ?? member.idleSince;
        if (rank < leastRank) [least, leastRank] = [member, rank];
      }
    }
    return least && { member: least, rank: leastRank };
  }

  stop(): void {
    this.#isStopped = true;
    this.#timer?.();
  }

  /** After how long without a call something may have to be done about an instance. */
  #stepMs(member: Member<I>): number {
    const { pauseAfterMs } = this.#options.keepAlive;
    const keepMs = this.#keepMs(member);
    const pauses = pauseAfterMs !== undefined && member.state === 'running' && member.instance.pause !== undefined;
    return pauses ? Math.min(pauseAfterMs, keepMs) : keepMs;
  }

  #keepMs({ group, leases }: Member<I>): number {
    return leases === 0 && group.keepAgainMs > 0 ? group.keepAgainMs : this.#options.keepAlive.windows(group.fn.name).keepMs;
  }

  /** One that was started again in vain is not started once more. */
  #startAgainLater({ group, leases }: Member<I>, idleMs: number): void {
    const { again } = this.#options.keepAlive.windows(group.fn.name);
    if (!again || leases === 0) return;
    group.cancelAgain();
    group.keepAgainMs = again.keepMs;
    group.again = this.#options.clock.after(again.startAfterMs - idleMs, () => {
      group.again = undefined;
      this.#options.startAgain(group);
    });
  }

  #lookAt(at: number): void {
    if (at >= this.#timerAt || this.#isStopped) return;
    const { clock } = this.#options;
    this.#timer?.();
    this.#timerAt = at;
    this.#timer = clock.after(Math.max(1, at - clock.monotonic()), () => this.#look());
  }

  #look(): void {
    const { clock, groups } = this.#options;
    this.#timerAt = Number.POSITIVE_INFINITY;
    const now = clock.monotonic();
    for (const group of groups()) {
      for (const member of group.members) {
        if (member.busy > 0) continue;
        const due = member.idleSince + this.#stepMs(member);
        if (due > now) this.#lookAt(due);
        else this.#idleFor(member, now - member.idleSince);
      }
    }
  }

  #idleFor(member: Member<I>, idleMs: number): void {
    const { end, paused } = this.#options;
    const { group, instance } = member;
    const keepMs = this.#keepMs(member);
    if (idleMs >= keepMs && group.members.size > group.min) {
      if (group.members.size === 1) this.#startAgainLater(member, idleMs);
      return end(member, 'idle');
    }
    if (idleMs >= keepMs) this.#lookAt(this.#options.clock.monotonic() + STAYING_MS);
    if (member.state !== 'running' || !instance.pause) return undefined;
    member.state = 'pausing';
    member.change = instance.pause().then(
      () => {
        if (member.state === 'pausing') member.state = 'paused';
        paused?.(instance, true);
      },
      () => {
        // One that cannot be paused is not trusted to be awake either.
        if (member.busy === 0) end(member, 'lost');
      },
    );
    return this.#lookAt(member.idleSince + keepMs);
  }

  async #resume(member: Member<I>): Promise<void> {
    const { instance } = member;
    const late = Promise.withResolvers<never>();
    const message = `instance ${instance.id} was not resumed in ${RESUME_MS_MAX} ms`;
    const cancel = this.#options.clock.after(RESUME_MS_MAX, () =>
      late.reject(new RunnerError('EXECUTOR_CONNECTION_LOST', message, { retry: 'safe' })),
    );
    try {
      await Promise.race([instance.resume?.(), late.promise]);
    } finally {
      cancel();
    }
    if (member.state !== 'resuming') throw new RunnerError('EXECUTOR_CONNECTION_LOST', `instance ${instance.id} ended`, { retry: 'safe' });
    member.state = 'running';
    this.#options.paused?.(instance, false);
  }
}
