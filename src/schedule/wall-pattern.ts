/** Times that a wall clock shows again and again, and when the clocks of a zone show them. */

import { YEAR_MAX } from './calendar-spec.ts';
import { instantOf, offsetMs } from './time-zone.ts';

const MICROS_PER_MS = 1_000;
const MINUTE = 60_000_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** What a calendar and every dialect of cron come down to. Lists are ascending. */
export interface WallPattern {
  /** The first year from this one on; undefined: no more. */
  readonly year: (from: number) => number | undefined;
  readonly months: readonly number[];
  /** `month` and `day` from 1. */
  readonly isDay: (year: number, month: number, day: number) => boolean;
  readonly hours: readonly number[];
  readonly minutes: readonly number[];
  /** The first microsecond of a minute from this one on. */
  readonly micros: (from: number) => number | undefined;
}

/** Monday is 0; the epoch was a Thursday. */
export function weekdayOf(year: number, month: number, day: number): number {
  return (Date.UTC(year, month - 1, day) / 86_400_000 + 3) % 7;
}

export function daysOfMonth(year: number, month: number): number {
  if (month === 2) return year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0) ? 29 : 28;
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31;
}

/**
 * The first time after `afterMs` at which the clocks of the zone show the pattern, in milliseconds since the epoch (with a fraction when
 * the pattern has one); undefined: never again before 2200.
 *
 * When clocks are set forward, times in the gap are left out. When they are set back, times in the hour that comes twice are met the
 * first time only, unless the search begins in between.
 */
export function nextInstant(pattern: WallPattern, zone: string | undefined, afterMs: number): number | undefined {
  const start = Math.round((afterMs + offsetMs(zone, afterMs)) * MICROS_PER_MS) + 1;
  for (let wall = nextWall(pattern, start); wall !== undefined;) {
    const { instantMs, resumeWallMs } = instantOf(zone, wall / MICROS_PER_MS, afterMs);
    if (instantMs !== undefined && instantMs > afterMs) return instantMs;
    // Forward in any case, whatever a time zone says of itself.
    wall = nextWall(pattern, Math.max(wall + 1, (resumeWallMs ?? 0) * MICROS_PER_MS));
  }
  return undefined;
}

/** Wall times are microseconds since 1970 as if the clock showed UTC. */
function nextWall(pattern: WallPattern, from: number): number | undefined {
  const firstDay = Math.floor(from / DAY);
  const today = new Date(firstDay * 86_400_000);
  const [year, month, day] = [today.getUTCFullYear(), today.getUTCMonth() + 1, today.getUTCDate()];
  if (pattern.year(year) === year && pattern.months.includes(month) && pattern.isDay(year, month, day)) {
    const time = nextTime(pattern, from - firstDay * DAY);
    if (time !== undefined) return firstDay * DAY + time;
  }
  const time = nextTime(pattern, 0);
  const date = nextDate(pattern, [year, month, day + 1]);
  return time === undefined || date === undefined ? undefined : date * MICROS_PER_MS + time;
}

function nextDate(pattern: WallPattern, [fromYear, fromMonth, fromDay]: readonly [number, number, number]): number | undefined {
  for (let year = pattern.year(fromYear); year !== undefined && year <= YEAR_MAX; year = pattern.year(year + 1)) {
    for (const month of pattern.months) {
      if (year === fromYear && month < fromMonth) continue;
      const first = year === fromYear && month === fromMonth ? fromDay : 1;
      const last = daysOfMonth(year, month);
      for (let day = first; day <= last; day += 1) if (pattern.isDay(year, month, day)) return Date.UTC(year, month - 1, day);
    }
  }
  return undefined;
}

/** Of a day. */
function nextTime(pattern: WallPattern, from: number): number | undefined {
  for (const hour of pattern.hours) {
    const hourFrom = from - hour * HOUR;
    if (hourFrom >= HOUR) continue;
    for (const minute of pattern.minutes) {
      const minuteFrom = hourFrom - minute * MINUTE;
      if (minuteFrom >= MINUTE) continue;
      const micros = pattern.micros(Math.max(0, minuteFrom));
      if (micros !== undefined) return hour * HOUR + minute * MINUTE + micros;
    }
  }
  return undefined;
}
