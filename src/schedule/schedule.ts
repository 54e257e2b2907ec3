/** When something is to run: at times of the calendar, or again and again. */

import { RunnerError } from '../errors.ts';
import { parseCalendar } from './calendar-spec.ts';

/** Times of the calendar, in the grammar of systemd (`man systemd.time`): `Mon-Fri 09:00`, `*-*-01 00:00 Europe/Berlin`. */
export interface Calendar {
  readonly kind: 'calendar';
  /** Without a time zone it means UTC. */
  readonly expression: string;
  /** A run that was missed while nothing could run is made up for, once. Default true. */
  readonly persistent?: boolean;
  /** How much later than asked it may run. Default 1. */
  readonly accuracyMs?: number;
  /** Each name is late by its own part of this, always the same. Default 0. */
  readonly randomizedDelayMs?: number;
}

/** Again and again. */
export interface Periodic {
  readonly kind: 'periodic';
  readonly periodMs: number;
  /** What the first period is counted from. Default `command`: the moment the schedule is started. */
  readonly startOn?: 'boot' | 'login' | 'command';
  /** Whether a period begins with the start or with the end of a run. Default `start`. */
  readonly relativeTo?: 'start' | 'finish';
  readonly accuracyMs?: number;
  readonly randomizedDelayMs?: number;
}

export type Schedule = Calendar | Periodic;

export type CalendarOptions = Omit<Calendar, 'kind' | 'expression'>;
export type PeriodicOptions = Omit<Periodic, 'kind' | 'periodMs'>;

const START_ON = ['boot', 'login', 'command'] as const;
const RELATIVE_TO = ['start', 'finish'] as const;
/** A century, which is more than anybody waits for. */
const DURATION_MAX_MS = 100 * 366 * 86_400_000;

/**
 * Times of the calendar. Throws `SCHEDULE_INVALID` with the position in the expression.
 *
 * @example
 * const report = calendar('Mon-Fri 09:00 Europe/Berlin', { persistent: false });
 */
export function calendar(expression: string, options: CalendarOptions = {}): Calendar {
  return calendarOf({ ...options, expression });
}

/**
 * Every so many seconds. Throws `SCHEDULE_INVALID`.
 *
 * @example
 * const hourly = periodic(3600, { relativeTo: 'finish' });
 */
export function periodic(periodSeconds: number, options: PeriodicOptions = {}): Periodic {
  return periodicOf({ ...options, periodMs: typeof periodSeconds === 'number' ? toMs(periodSeconds) : periodSeconds });
}

/**
 * A schedule from JSON that nobody has checked: text is a Calendar, a number is a Periodic in seconds, an object has a `kind`. Calendars
 * take their text as `expression` or `schedule`, periods are `periodMs`, or `period` in seconds. Throws `SCHEDULE_INVALID`.
 */
export function parseSchedule(value: unknown): Schedule {
  if (typeof value === 'string') return calendar(value);
  if (typeof value === 'number') return periodic(value);
  if (!isRecord(value)) throw invalid(`${shown(value)} is not a schedule: text, a number of seconds or an object is expected`);
  const kind = value['kind'] ?? kindOf(value);
  if (kind === 'calendar') {
    const { schedule, ...fields } = value;
    return calendarOf({ ...(schedule !== undefined && { expression: schedule }), ...fields });
  }
  if (kind === 'periodic') {
    const { period, ...fields } = value;
    return periodicOf({ ...(period !== undefined && { periodMs: typeof period === 'number' ? toMs(period) : period }), ...fields });
  }
  throw invalid(`Unknown schedule type ${shown(kind)}; calendar and periodic are known`);
}

function kindOf(value: object): Schedule['kind'] | undefined {
  if ('period' in value || 'periodMs' in value) return 'periodic';
  return 'expression' in value || 'schedule' in value ? 'calendar' : undefined;
}

function toMs(seconds: number): number {
  return Math.round(seconds * 1e6) / 1e3;
}

function calendarOf(fields: Readonly<Record<string, unknown>>): Calendar {
  const { kind: _, expression, persistent, accuracyMs, randomizedDelayMs, ...others } = fields;
  refuseOthers(others);
  if (typeof expression !== 'string') throw invalid(`the expression of a calendar is text, not ${shown(expression)}`);
  parseCalendar(expression);
  if (persistent !== undefined && typeof persistent !== 'boolean') throw invalid(`persistent is true or false, not ${shown(persistent)}`);
  return {
    kind: 'calendar',
    expression,
    ...(persistent !== undefined && { persistent }),
    ...delays(accuracyMs, randomizedDelayMs),
  };
}

function periodicOf(fields: Readonly<Record<string, unknown>>): Periodic {
  const { kind: _, periodMs, startOn, relativeTo, accuracyMs, randomizedDelayMs, ...others } = fields;
  refuseOthers(others);
  const period = duration('the period', periodMs, 1);
  if (period === undefined) throw invalid('the period is missing');
  const start = choice('startOn', startOn, START_ON);
  const relative = choice('relativeTo', relativeTo, RELATIVE_TO);
  return {
    kind: 'periodic',
    periodMs: period,
    ...(start && { startOn: start }),
    ...(relative && { relativeTo: relative }),
    ...delays(accuracyMs, randomizedDelayMs),
  };
}

function delays(accuracyMs: unknown, randomizedDelayMs: unknown): Pick<Calendar, 'accuracyMs' | 'randomizedDelayMs'> {
  const accuracy = duration('accuracyMs', accuracyMs, 0);
  const randomizedDelay = duration('randomizedDelayMs', randomizedDelayMs, 0);
  return {
    ...(accuracy !== undefined && { accuracyMs: accuracy }),
    ...(randomizedDelay !== undefined && { randomizedDelayMs: randomizedDelay }),
  };
}

function duration(name: string, value: unknown, min: number): number | undefined {
  if (value === undefined) return undefined;
  if (typeof value === 'number' && value >= min && value <= DURATION_MAX_MS) return value;
  throw invalid(`${name} is ${shown(value)}; it must be between ${min} and ${DURATION_MAX_MS} ms`);
}

function choice<T extends string>(name: string, value: unknown, known: readonly T[]): T | undefined {
  if (value === undefined) return undefined;
  const found = known.find((entry) => entry === value);
  if (found === undefined) throw invalid(`${name} is ${shown(value)}; known: ${known.join(', ')}`);
  return found;
}

function refuseOthers(others: object): void {
  const names = Object.keys(others);
  if (names.length > 0) throw invalid(`a schedule has no ${names.join(', ')}`);
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function shown(value: unknown): string {
  return (typeof value === 'bigint' ? undefined : JSON.stringify(value))?.slice(0, 100) ?? String(value);
}

function invalid(reason: string): RunnerError {
  return new RunnerError('SCHEDULE_INVALID', reason, { details: { reason } });
}
