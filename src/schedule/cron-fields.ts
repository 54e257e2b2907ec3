/** From a calendar to the fields of cron: what one expression cannot say becomes several, and what none can say is a loss. */

import { FIELDS, WEEKDAYS, weekdaySet } from './calendar-spec.ts';
import type { CalendarSpec, FieldRange } from './calendar-spec.ts';
import { daysIn, fieldValues, secondsOf } from './firings.ts';
import { zoneOffsets } from './time-zone.ts';

export type LossKind =
  | 'seconds'
  | 'sub-minute'
  | 'period'
  | 'start'
  | 'relative-to-finish'
  | 'persistent'
  | 'accuracy'
  | 'randomized-delay'
  | 'day-and-weekday'
  | 'last-day'
  | 'year'
  | 'length'
  | 'time-zone';

/** Something that a schedule says and the target cannot keep. */
export interface Loss {
  readonly kind: LossKind;
  /** What happens instead. */
  readonly message: string;
}

/** What a target's cron can say. */
export interface CronTraits {
  readonly zones: 'iana' | 'utc';
  readonly hasSeconds: boolean;
  readonly hasYear: boolean;
  /** Day of month and weekday: both hold, or `#` and `L` say the usual cases, or neither. */
  readonly days: 'both' | 'quartz' | 'one';
  /** A star and a slash and 15, or `0/15` as in Quartz. */
  readonly step: 'star' | 'first';
  /** Minutes and hours have two digits. */
  readonly isPadded: boolean;
  /** Monday is 0. */
  readonly nthWeekday: (weekday: number, nth: number | 'last') => string;
}

/** The fields of one expression; undefined is any. */
export interface CronFields {
  readonly second: string;
  readonly minute: string;
  readonly hour: string;
  readonly day: string | undefined;
  readonly month: string;
  readonly weekday: string | undefined;
  readonly year: string;
}

export interface CronPlan {
  readonly fields: readonly CronFields[];
  readonly timezone?: string;
  readonly losses: readonly Loss[];
}

interface Times {
  readonly minutes: readonly number[];
  readonly hours: readonly number[];
  /** In UTC it is another day: -1, 0 or 1. */
  readonly dayShift: number;
}

const DAY_MINUTES = 1_440;
const LONG_MONTHS = [1, 3, 5, 7, 8, 10, 12];
const SHORT_MONTHS = [4, 6, 9, 11];
const ALL_WEEK = 7;

export function planCron(spec: CalendarSpec, traits: CronTraits): CronPlan {
  const losses: Loss[] = [];
  const { seconds, isKept } = planSeconds(spec, traits, losses);
  const shiftMinutes = traits.zones === 'utc' ? -zoneShift(spec, losses) : 0;
  const allTimes = shiftedTimes(spec, shiftMinutes);
  if (spec.year && !traits.hasYear) losses.push({ kind: 'year', message: 'the target knows no years: it fires in every year' });
  const style = { step: traits.step };
  const year = spec.year && traits.hasYear ? list(fieldValues(spec.year, FIELDS.year), FIELDS.year, style) : '*';
  const hasDate = spec.day !== undefined || spec.month !== undefined || spec.year !== undefined;
  if (hasDate && allTimes.some(({ dayShift }) => dayShift !== 0))
    losses.push({ kind: 'time-zone', message: `in UTC it is another day than in ${spec.timeZone}: it fires on the day of UTC` });
  const fields = allTimes.flatMap(({ minutes, hours, dayShift }) =>
    planDays(spec, { ...traits, dayShift: hasDate ? 0 : dayShift }, losses).map((days) => ({
      second: isKept ? list(seconds, { name: 'second', from: 0, to: 59 }, style) : '0',
      minute: list(minutes, FIELDS.minute, traits),
      hour: list(hours, FIELDS.hour, traits),
      year,
      ...days,
    })),
  );
  const unique = new Map(losses.map((loss) => [loss.message, loss]));
  return { fields, ...(traits.zones === 'iana' && { timezone: spec.timeZone ?? 'UTC' }), losses: [...unique.values()] };
}

function planSeconds(spec: CalendarSpec, traits: CronTraits, losses: Loss[]): { seconds: readonly number[]; isKept: boolean } {
  const { seconds, hasFractions } = secondsOf(spec);
  if (traits.hasSeconds) {
    if (hasFractions) losses.push({ kind: 'seconds', message: 'the target knows no fractions of a second: it fires at the whole second' });
    return { seconds, isKept: true };
  }
  if (seconds.length > 1) losses.push({ kind: 'sub-minute', message: 'the target fires at most once a minute' });
  else if (hasFractions || seconds[0] !== 0)
    losses.push({ kind: 'seconds', message: 'the target knows no seconds: it fires at the whole minute' });
  return { seconds, isKept: false };
}

/** Minutes that the zone is ahead of UTC. */
function zoneShift({ timeZone }: CalendarSpec, losses: Loss[]): number {
  const { standardMs, isFixed } = zoneOffsets(timeZone);
  if (!isFixed) {
    losses.push({
      kind: 'time-zone',
      message: `the target knows only UTC, and ${timeZone} changes its offset: the times are those of its standard time, UTC${offsetText(standardMs)}`,
    });
  }
  return standardMs / 60_000;
}

/** `+01:00`. */
function offsetText(offsetMs: number): string {
  const time = new Date(Math.abs(offsetMs)).toISOString().slice(11, 16);
  return `${offsetMs < 0 ? '-' : '+'}${time}`;
}

/** The times of a day in UTC, as few products of hours and minutes as there are. */
function shiftedTimes(spec: CalendarSpec, shiftMinutes: number): Times[] {
  const minutes = fieldValues(spec.minute, FIELDS.minute);
  const hours = fieldValues(spec.hour, FIELDS.hour);
  if (shiftMinutes === 0 || (!spec.hour && shiftMinutes % 60 === 0 && spec.weekdays.length === 0 && !spec.day && !spec.month && !spec.year))
    return [{ minutes, hours, dayShift: 0 }];
  return products(hours.flatMap((hour) => minutes.map((minute) => hour * 60 + minute + shiftMinutes)));
}

/** Minutes of the day, below 0 of the day before, as products of hours and minutes. */
export function products(minutesOfDay: readonly number[]): Times[] {
  const byHour = new Map<string, number[]>();
  for (const minute of minutesOfDay) {
    const key = `${Math.floor(minute / DAY_MINUTES)} ${Math.floor(mod(minute, DAY_MINUTES) / 60)}`;
    byHour.set(key, [...(byHour.get(key) ?? []), mod(minute, 60)]);
  }
  const groups = new Map<string, { minutes: number[]; hours: number[]; dayShift: number }>();
  for (const [key, unsorted] of byHour) {
    const [dayShift = 0, hour = 0] = key.split(' ').map(Number);
    const minutes = unsorted.toSorted((a, b) => a - b);
    const group = `${dayShift} ${minutes.join()}`;
    const known = groups.get(group) ?? { minutes, hours: [], dayShift };
    known.hours.push(hour);
    groups.set(group, known);
  }
  return [...groups.values()].map((group) => ({ ...group, hours: group.hours.toSorted((a, b) => a - b) }));
}

function mod(value: number, by: number): number {
  return ((value % by) + by) % by;
}

type DayFields = Pick<CronFields, 'day' | 'month' | 'weekday'>;

function planDays(spec: CalendarSpec, traits: CronTraits & { readonly dayShift: number }, losses: Loss[]): DayFields[] {
  const weekday = weekdayField(spec, traits.dayShift);
  const month = spec.month ? list(fieldValues(spec.month, FIELDS.month), FIELDS.month, { step: traits.step }) : '*';
  if (!spec.day) return [{ day: undefined, month, weekday }];
  if (weekday !== undefined && traits.days !== 'both') {
    const nth = traits.days === 'quartz' ? nthOf(spec) : undefined;
    if (nth !== undefined)
      return [...weekdaySet(spec)].map((wanted) => ({ day: undefined, month, weekday: traits.nthWeekday(wanted, nth) }));
    losses.push({
      kind: 'day-and-weekday',
      message: 'the target cannot ask for a day of the month and a weekday together: it fires on each of these days of the month',
    });
    return dates(spec, traits, losses).map((date) => ({ ...date, weekday: undefined }));
  }
  return dates(spec, traits, losses).map((date) => ({ ...date, weekday }));
}

/** `Mon *-*-8..14` is the second Monday, `Mon *-*~1..7` the last. */
function nthOf(spec: CalendarSpec): number | 'last' | undefined {
  if (spec.lastDays) return [...daysIn(spec, 31)].join() === '25,26,27,28,29,30,31' ? 'last' : undefined;
  const days = [...daysIn(spec, 31)];
  const first = days[0] ?? 0;
  const nth = (first + 6) / 7;
  const size = nth === 5 ? 3 : 7;
  return Number.isInteger(nth) && days.length === size && days.at(-1) === first + size - 1 ? nth : undefined;
}

/** Days from the end of the month are other days in long and short months. */
function dates(spec: CalendarSpec, traits: CronTraits, losses: Loss[]): Omit<DayFields, 'weekday'>[] {
  const months = fieldValues(spec.month, FIELDS.month);
  const style = { step: traits.step };
  const monthList = (values: readonly number[]): string => (values.length === 12 ? '*' : list(values, FIELDS.month, style));
  const dayList = (length: number): string => list([...daysIn(spec, length)], FIELDS.day, style);
  if (!spec.lastDays) return [{ day: dayList(31), month: monthList(months) }];
  const isLast = spec.day?.length === 1 && spec.day[0]?.start === 1 && spec.day[0].repeat === 0;
  if (isLast && traits.days === 'quartz') return [{ day: 'L', month: monthList(months) }];
  if (months.includes(2) && dayList(28) !== dayList(29))
    losses.push({ kind: 'last-day', message: 'the target knows no last days: in leap years it fires one day early in February' });
  const groups = new Map<string, number[]>();
  for (const [length, ofLength] of [
    [31, LONG_MONTHS],
    [30, SHORT_MONTHS],
    [28, [2]],
  ] as const) {
    const wanted = ofLength.filter((month) => months.includes(month));
    if (wanted.length > 0) groups.set(dayList(length), [...(groups.get(dayList(length)) ?? []), ...wanted]);
  }
  return [...groups].map(([day, ofDay]) => ({ day, month: monthList(ofDay.toSorted((a, b) => a - b)) }));
}

/** Names as they were written; undefined is every day. A week begins on Sunday in cron, so that no range may end with it. */
function weekdayField(spec: CalendarSpec, dayShift: number): string | undefined {
  const days = weekdaySet(spec);
  if (days.size === 0 || days.size === ALL_WEEK) return undefined;
  const name = (day: number): string => weekdayName(day);
  if (dayShift !== 0) return [...days].map((day) => name(mod(day + dayShift, ALL_WEEK))).join(',');
  return spec.weekdays
    .flatMap(([first, last]) => {
      if (first === last) return [name(first)];
      if (last !== 6) return [`${name(first)}-${name(last)}`];
      return first < 4 ? [`${name(first)}-${name(5)}`, name(6)] : [4, 5, 6].filter((day) => day >= first).map(name);
    })
    .join(',');
}

/** `MON`; Monday is 0. */
export function weekdayName(weekday: number): string {
  return (WEEKDAYS[weekday] ?? '').toUpperCase();
}

type ListStyle = Pick<CronTraits, 'step'> & { readonly isPadded?: boolean };

/** The shortest usual form of ascending values. */
function list(values: readonly number[], range: FieldRange, { step: stepStyle, isPadded }: ListStyle): string {
  const [first = range.from, second = first] = values;
  const last = values.at(-1) ?? first;
  const step = second - first;
  if (values.length === range.to - range.from + 1) return '*';
  const isEven = values.every((value, index) => value === first + index * step);
  const isOpen = stepStyle === 'first' || first === range.from;
  if (isEven && isOpen && step > 1 && values.length > 2 && last + step > range.to) return `${stepStyle === 'star' ? '*' : first}/${step}`;
  const shown = (value: number): string => (isPadded ? String(value).padStart(2, '0') : String(value));
  const parts: string[] = [];
  for (let index = 0; index < values.length; index += 1) {
    let end = index;
    while (values[end + 1] === (values[end] ?? 0) + 1) end += 1;
    const [from, to] = [values[index] ?? 0, values[end] ?? 0];
    if (end > index + 1) {
      parts.push(`${shown(from)}-${shown(to)}`);
      index = end;
    } else parts.push(shown(from));
  }
  return parts.join(',');
}
