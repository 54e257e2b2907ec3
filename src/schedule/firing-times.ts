/** Which firings of one schedule are due: by the wall clock for a Calendar, by the monotonic clock for a Periodic. */

import type { Clock } from '../clock.ts';
import { nextFiring } from './firings.ts';
import type { Calendar, Periodic, Schedule } from './schedule.ts';

export interface DueFiring {
  readonly scheduledMs: number;
  readonly isCatchUp: boolean;
  readonly missed: number;
}

export interface Due {
  /** Oldest first. */
  readonly due: readonly DueFiring[];
  /** What is not made up for. */
  readonly missed?: { readonly count: number; readonly lastMs: number };
}

export interface FiringTimes {
  /** Now, or after the firing that was seen to last. */
  begin(lastMs: number | undefined): void;
  /** Takes what is due. */
  due(): Due;
  /** Until the next; undefined: nothing comes, or not before a run has ended. */
  delayMs(): number | undefined;
  /** The next on the wall clock. */
  nextMs(): number | undefined;
  /** What is due is forgotten. Until when that is. */
  skipToNow(): number;
  started(): void;
  finished(): void;
  /** Whether it is the latest that was seen to. */
  remember(scheduledMs: number): boolean;
}

export interface FiringTimesOptions {
  readonly name: string;
  readonly catchUpMax: number;
  readonly clock: Clock;
}

const MINUTE = 60_000;
const DAY = 24 * 60 * MINUTE;
/** Later than this it was missed. */
const GRACE_MS = MINUTE;
const MISSED_MAX = 1_000;

export function firingTimes(schedule: Schedule, options: FiringTimesOptions): FiringTimes {
  return schedule.kind === 'calendar' ? new CalendarTimes(schedule, options) : new PeriodicTimes(schedule, options);
}

/** The same for the same name on every machine, from 0 up to the randomised delay (FNV-1a). */
export function delayOf(name: string, { randomizedDelayMs = 0 }: Schedule): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) hash = Math.imul(hash ^ byte, 0x01000193);
  // The upper bits of short names differ little.
  hash = Math.imul(hash ^ (hash >>> 15), 0x735a2d97);
  return Math.floor((((hash ^ (hash >>> 15)) >>> 0) / 0x1_0000_0000) * randomizedDelayMs);
}

class CalendarTimes implements FiringTimes {
  readonly #schedule: Calendar;
  readonly #options: FiringTimesOptions;
  readonly #delayMs: number;
  /** Firings until here are seen to. */
  #lastMs = 0;
  #rememberedMs = -Infinity;
  #nextMs: number | undefined;
  /** What may be made up for, and one before. */
  readonly #window: number;

  constructor(schedule: Calendar, options: FiringTimesOptions) {
    this.#schedule = schedule;
    this.#options = options;
    this.#delayMs = delayOf(options.name, schedule);
    this.#window = Math.max(1, options.catchUpMax) + 1;
  }

  begin(lastMs: number | undefined): void {
    const now = this.#now();
    this.#since(lastMs === undefined || lastMs - now > DAY ? now : lastMs);
  }

  due(): Due {
    const now = this.#now();
    // A clock that was far ahead and is set right must not silence the schedule until it is there again.
    if (this.#lastMs - now > DAY) {
      this.#since(now);
      this.#rememberedMs = -Infinity;
    }
    const times: number[] = [];
    let count = 0;
    for (let at = this.#nextMs; at !== undefined && at <= now; at = nextFiring(this.#schedule, at)) {
      times.push(at);
      count += 1;
      if (times.length > this.#window) times.shift();
      if (count > MISSED_MAX) {
        times.splice(0, times.length, ...this.#latest(now));
        break;
      }
    }
    const latest = times.at(-1);
    if (latest === undefined) return { due: [] };
    this.#since(latest);
    return this.#sorted(times, { count, now });
  }

  /** On time is on time; what is late is made up for or missed. */
  #sorted(times: readonly number[], { count, now }: { readonly count: number; readonly now: number }): Due {
    const { catchUpMax } = this.#options;
    const isOnTime = (at: number): boolean => now - at <= GRACE_MS + (this.#schedule.accuracyMs ?? 0);
    const isLatestOnTime = isOnTime(times.at(-1) ?? 0);
    const kept = (this.#schedule.persistent ?? true) ? Math.max(catchUpMax, isLatestOnTime ? 1 : 0) : isLatestOnTime ? 1 : 0;
    const chosen = kept === 0 ? [] : times.slice(-kept);
    const missed = Math.min(MISSED_MAX, count - chosen.length);
    const lastMs = (chosen.length === 0 ? times.at(-1) : times.at(-chosen.length - 1)) ?? 0;
    return {
      due: chosen.map((scheduledMs, index) => ({ scheduledMs, isCatchUp: !isOnTime(scheduledMs), missed: index === 0 ? missed : 0 })),
      ...(missed > 0 && { missed: { count: missed, lastMs } }),
    };
  }

  /** The latest firings until now, without a look at all of those before. */
  #latest(now: number): number[] {
    for (let spanMs = 1_000; ; spanMs *= 2) {
      const times: number[] = [];
      for (let at = nextFiring(this.#schedule, now - spanMs); at !== undefined && at <= now; at = nextFiring(this.#schedule, at))
        times.push(at);
      if (times.length >= this.#window) return times.slice(-this.#window);
    }
  }

  delayMs(): number | undefined {
    return this.#nextMs === undefined ? undefined : Math.max(0, this.#nextMs - this.#now());
  }

  nextMs(): number | undefined {
    return this.#nextMs === undefined ? undefined : this.#nextMs + this.#delayMs;
  }

  skipToNow(): number {
    this.#since(Math.max(this.#lastMs, this.#now()));
    return this.#lastMs;
  }

  started(): void {}

  finished(): void {}

  remember(scheduledMs: number): boolean {
    if (scheduledMs <= this.#rememberedMs) return false;
    this.#rememberedMs = scheduledMs;
    return true;
  }

  #since(lastMs: number): void {
    this.#lastMs = lastMs;
    this.#nextMs = nextFiring(this.#schedule, lastMs);
  }

  /** As a clock without the delay would show. */
  #now(): number {
    return this.#options.clock.now() - this.#delayMs;
  }
}

class PeriodicTimes implements FiringTimes {
  readonly #schedule: Periodic;
  readonly #options: FiringTimesOptions;
  /** On the monotonic clock; undefined while a run goes on that the period is counted from. */
  #dueAt: number | undefined;
  #running = 0;

  constructor(schedule: Periodic, options: FiringTimesOptions) {
    this.#schedule = schedule;
    this.#options = options;
  }

  begin(): void {
    const { periodMs, startOn = 'command' } = this.#schedule;
    const first = startOn === 'command' ? periodMs : 0;
    this.#dueAt = this.#options.clock.monotonic() + first + delayOf(this.#options.name, this.#schedule);
  }

  due(): Due {
    const { clock } = this.#options;
    const { periodMs } = this.#schedule;
    const lateMs = this.#dueAt === undefined ? -1 : clock.monotonic() - this.#dueAt;
    if (this.#dueAt === undefined || lateMs < 0) return { due: [] };
    const count = Math.floor(lateMs / periodMs);
    this.#dueAt += (count + 1) * periodMs;
    const scheduledMs = Math.round(clock.now() - (lateMs - count * periodMs));
    const missed = Math.min(count, MISSED_MAX);
    return {
      due: [{ scheduledMs, isCatchUp: false, missed }],
      ...(missed > 0 && { missed: { count: missed, lastMs: scheduledMs - periodMs } }),
    };
  }

  delayMs(): number | undefined {
    return this.#dueAt === undefined ? undefined : Math.max(0, this.#dueAt - this.#options.clock.monotonic());
  }

  nextMs(): number | undefined {
    const delay = this.delayMs();
    return delay === undefined ? undefined : Math.round(this.#options.clock.now() + delay);
  }

  skipToNow(): number {
    const { clock } = this.#options;
    const lateMs = this.#dueAt === undefined ? -1 : clock.monotonic() - this.#dueAt;
    if (this.#dueAt !== undefined && lateMs >= 0)
      this.#dueAt += (Math.floor(lateMs / this.#schedule.periodMs) + 1) * this.#schedule.periodMs;
    return clock.now();
  }

  started(): void {
    this.#running += 1;
    if (this.#schedule.relativeTo === 'finish') this.#dueAt = undefined;
  }

  finished(): void {
    this.#running -= 1;
    if (this.#schedule.relativeTo === 'finish' && this.#running === 0)
      this.#dueAt = this.#options.clock.monotonic() + this.#schedule.periodMs;
  }

  remember(): boolean {
    return false;
  }
}
