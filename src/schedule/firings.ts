/** When a schedule fires. */

import { FIELDS, MICROS, parseCalendar, weekdaySet } from './calendar-spec.ts';
import type { CalendarSpec, Chain, Component, FieldRange } from './calendar-spec.ts';
import type { Calendar, Periodic, Schedule } from './schedule.ts';
import { daysOfMonth, nextInstant, weekdayOf } from './wall-pattern.ts';
import type { WallPattern } from './wall-pattern.ts';

export interface FiringOptions {
  /** What the periods of a Periodic are counted from, milliseconds since the epoch. Default 0, so that they agree with the clock of UTC. */
  readonly anchorMs?: number;
}

/**
 * When a schedule fires next after `afterMs`, both milliseconds since the epoch; undefined: never again (before 2200). The randomised delay
 * is not in it. A time with microseconds gives a fraction.
 *
 * A Calendar follows the wall clock of its zone (UTC when it names none), as systemd 252 does: when the clocks are set forward, times in the
 * gap do not exist and are left out; when they are set back, the times that come twice are met the first time only, and `hourly` pauses
 * for one hour. Only a search that begins between the two goes on with the second. Two faults of systemd 252 are left to it: it takes the second
 * of two when its search comes from months away and lands on midnight of such a day, and leaves out the first firings of a month or year for a
 * repetition without end that does not divide its field (`1/19:00`). Throws `SCHEDULE_INVALID`.
 *
 * @example
 * nextFiring(calendar('Mon-Fri 09:00 Europe/Berlin'), Date.UTC(2026, 2, 27, 12)); // 2026-03-30T07:00:00Z
 */
export function nextFiring(schedule: Schedule, afterMs: number, options: FiringOptions = {}): number | undefined {
  if (schedule.kind === 'periodic') return nextPeriod(schedule, afterMs, options);
  const { pattern, timeZone } = compiled(schedule);
  return nextInstant(pattern, timeZone, afterMs);
}

/**
 * All firings after `fromMs`, one after the other. Those of a Periodic begin one period after `anchorMs`, or after `fromMs` when there is none.
 * Throws `SCHEDULE_INVALID`.
 */
export function* firings(schedule: Schedule, fromMs: number, options: FiringOptions = {}): Generator<number, void, undefined> {
  const anchored = { anchorMs: options.anchorMs ?? fromMs };
  for (let at = nextFiring(schedule, fromMs, anchored); at !== undefined; at = nextFiring(schedule, at, anchored)) yield at;
}

function nextPeriod({ periodMs }: Periodic, afterMs: number, { anchorMs = 0 }: FiringOptions): number {
  if (afterMs < anchorMs) return anchorMs + periodMs;
  let count = Math.floor((afterMs - anchorMs) / periodMs) + 1;
  // Fractions of a millisecond round.
  while (anchorMs + count * periodMs <= afterMs) count += 1;
  return anchorMs + count * periodMs;
}

interface CompiledCalendar {
  readonly pattern: WallPattern;
  readonly timeZone: string | undefined;
}

const compiledCalendars = new WeakMap<Calendar, CompiledCalendar>();

function compiled(calendar: Calendar): CompiledCalendar {
  let known = compiledCalendars.get(calendar);
  if (!known) {
    const spec = parseCalendar(calendar.expression);
    known = { pattern: patternOf(spec), timeZone: spec.timeZone };
    compiledCalendars.set(calendar, known);
  }
  return known;
}

function patternOf(spec: CalendarSpec): WallPattern {
  const weekdays = weekdaySet(spec);
  const days = new Map([28, 29, 30, 31].map((length) => [length, daysIn(spec, length)]));
  const { year, micros } = spec;
  return {
    year: (from) => (year ? first(year, Math.max(from, FIELDS.year.from), FIELDS.year.to) : from),
    months: fieldValues(spec.month, FIELDS.month),
    isDay: (ofYear, month, day) =>
      (days.get(daysOfMonth(ofYear, month))?.has(day) ?? false) && (weekdays.size === 0 || weekdays.has(weekdayOf(ofYear, month, day))),
    hours: fieldValues(spec.hour, FIELDS.hour),
    minutes: fieldValues(spec.minute, FIELDS.minute),
    micros: (from) => first(micros, from, FIELDS.micros.to),
  };
}

/** The days of a month of so many days. */
export function daysIn(spec: CalendarSpec, length: number): ReadonlySet<number> {
  const { day, lastDays } = spec;
  const fromEnd = ({ start, stop, repeat }: Component): Component => {
    const first = length + 1 - (stop ?? start);
    return { start: first, ...(stop !== undefined && { stop: length + 1 - start }), repeat };
  };
  return new Set(fieldValues(lastDays ? day?.map(fromEnd) : day, { name: 'day', from: 1, to: length }));
}

/** All values of a field, ascending. */
export function fieldValues(chain: Chain, { from, to }: FieldRange): number[] {
  const values = new Set<number>();
  for (const { start, stop, repeat } of chain ?? [{ start: from, repeat: 1 }]) {
    const last = repeat === 0 ? Math.min(start, to) : Math.min(stop ?? to, to);
    for (let value = start; value <= last; value += repeat || to) values.add(value);
  }
  return [...values].toSorted((a, b) => a - b);
}

/** The whole seconds of a minute at which something fires, and whether something fires between them. */
export function secondsOf({ micros }: CalendarSpec): { readonly seconds: readonly number[]; readonly hasFractions: boolean } {
  const seconds: number[] = [];
  let hasFractions = false;
  for (let at = first(micros, 0, FIELDS.micros.to); at !== undefined;) {
    const second = Math.floor(at / MICROS);
    seconds.push(second);
    const inSecond = first(micros, at + 1, FIELDS.micros.to);
    if (at % MICROS !== 0 || (inSecond !== undefined && inSecond < (second + 1) * MICROS)) hasFractions = true;
    at = first(micros, (second + 1) * MICROS, FIELDS.micros.to);
  }
  return { seconds, hasFractions };
}

/** The first value from `from` on. */
function first(chain: readonly Component[], from: number, to: number): number | undefined {
  let least: number | undefined;
  for (const { start, stop, repeat } of chain) {
    const value = start >= from ? start : repeat === 0 ? undefined : start + repeat * Math.ceil((from - start) / repeat);
    if (value !== undefined && value <= (stop ?? to) && (least === undefined || value < least)) least = value;
  }
  return least;
}
