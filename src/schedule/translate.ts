/** Schedules in the words of the platforms. */

import { RunnerError } from '../errors.ts';
import { FIELDS, parseCalendar } from './calendar-spec.ts';
import type { CalendarSpec } from './calendar-spec.ts';
import { planCron, products, weekdayName } from './cron-fields.ts';
import type { CronFields, CronTraits, Loss } from './cron-fields.ts';
import { cronLengthMax, parseCron } from './cron.ts';
import type { CronTarget } from './cron.ts';
import { fieldValues, secondsOf } from './firings.ts';
import { parseSchedule } from './schedule.ts';
import type { Calendar, Periodic, Schedule } from './schedule.ts';

export interface Translation {
  /** Together they fire when the schedule does. */
  readonly expressions: readonly string[];
  /** The IANA zone that the expressions are meant in. Absent: UTC. */
  readonly timezone?: string;
  /** What the target does not keep. */
  readonly losses: readonly Loss[];
}

export interface TranslateOptions {
  /** A loss is `SCHEDULE_LOSSY` instead. Default false. */
  readonly strict?: boolean;
}

interface TargetTraits extends CronTraits {
  readonly title: string;
  readonly write: (fields: CronFields) => string;
  /** Periods are written as a rate, counted from when the target learns of it. */
  readonly hasRates: boolean;
  readonly hasOnce: boolean;
  /** How late a run may be. */
  readonly accuracyMs: number;
  /** Runs that were missed are made up for, or cannot be missed: the platform is always there. */
  readonly isPersistent: boolean;
  readonly hasRandomizedDelay: boolean;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** The epoch was a Thursday. */
const EPOCH_WEEKDAY = 3;

const fiveFields = ({ minute, hour, day = '*', month, weekday = '*' }: CronFields): string =>
  `${minute} ${hour} ${day} ${month} ${weekday}`;

const UNIX: TargetTraits = {
  title: 'cron',
  write: fiveFields,
  zones: 'iana',
  hasSeconds: false,
  hasYear: false,
  days: 'one',
  step: 'star',
  isPadded: false,
  nthWeekday: weekdayName,
  hasRates: false,
  hasOnce: false,
  accuracyMs: MINUTE,
  isPersistent: true,
  hasRandomizedDelay: false,
};

const EVENTBRIDGE_RULE: TargetTraits = {
  ...UNIX,
  title: 'an EventBridge rule',
  write: ({ minute, hour, day, month, weekday, year }) =>
    day === undefined
      ? `cron(${minute} ${hour} ? ${month} ${weekday ?? '*'} ${year})`
      : `cron(${minute} ${hour} ${day} ${month} ? ${year})`,
  zones: 'utc',
  hasYear: true,
  days: 'quartz',
  step: 'first',
  isPadded: true,
  // The documented form: 1 is Sunday.
  nthWeekday: (weekday, nth) => `${((weekday + 1) % 7) + 1}${nth === 'last' ? 'L' : `#${nth}`}`,
  hasRates: true,
};

const TARGETS: Readonly<Record<CronTarget, TargetTraits>> = {
  'eventbridge-rule': EVENTBRIDGE_RULE,
  'eventbridge-scheduler': {
    ...EVENTBRIDGE_RULE,
    title: 'EventBridge Scheduler',
    zones: 'iana',
    hasOnce: true,
    hasRandomizedDelay: true,
  },
  gcp: { ...UNIX, title: 'Cloud Scheduler' },
  azure: {
    ...UNIX,
    title: 'an Azure timer',
    write: (fields) => `${fields.second} ${fiveFields(fields)}`,
    zones: 'utc',
    hasSeconds: true,
    days: 'both',
    accuracyMs: 1_000,
  },
  cloudflare: {
    ...UNIX,
    title: 'a Cloudflare cron trigger',
    zones: 'utc',
    days: 'quartz',
    nthWeekday: (weekday, nth) => `${weekdayName(weekday)}${nth === 'last' ? 'L' : `#${nth}`}`,
  },
  digitalocean: { ...UNIX, title: 'a DigitalOcean trigger', zones: 'utc' },
  kubernetes: { ...UNIX, title: 'a Kubernetes CronJob' },
  crontab: { ...UNIX, title: 'crontab', isPersistent: false },
};

/**
 * A schedule for a platform's cron. Without losses the expressions fire exactly when the schedule does; a Periodic that is written as cron is
 * counted from the epoch, as `nextFiring` does by default.
 *
 * Throws `SCHEDULE_INVALID`; `SCHEDULE_LOSSY` with `details.losses` in strict mode, and for a Periodic below one minute where the
 * target starts at most once a minute, and for lists longer than the target takes.
 *
 * @example
 * translate('gcp', calendar('Mon-Fri 09:00 Europe/Berlin')); // { expressions: ['0 9 * * MON-FRI'], timezone: 'Europe/Berlin', losses: [] }
 */
export function translate(target: CronTarget, schedule: Schedule | string, options: TranslateOptions = {}): Translation {
  const traits = TARGETS[target];
  const checked = parseSchedule(schedule);
  const translation = checked.kind === 'calendar' ? calendarFor(checked, traits) : periodicFor(checked, traits);
  const losses = [...translation.losses, ...commonLosses(checked, traits)];
  if (options.strict === true && losses.length > 0) throw lossy(checked, traits, losses);
  const longest = Math.max(...translation.expressions.map((expression) => expression.length));
  if (longest > cronLengthMax(target)) {
    const message = `the expression is ${longest} characters long, and at most ${cronLengthMax(target)} are taken`;
    throw lossy(checked, traits, [{ kind: 'length', message }]);
  }
  for (const expression of translation.expressions) parseCron(target, expression);
  return { ...translation, losses };
}

/** What can be lost whatever the target's expressions are. */
function commonLosses(schedule: Schedule, traits: TargetTraits): Loss[] {
  const losses: Loss[] = [];
  const { accuracyMs, randomizedDelayMs = 0 } = schedule;
  if (accuracyMs !== undefined && accuracyMs < traits.accuracyMs)
    losses.push({ kind: 'accuracy', message: `${traits.title} may be ${traits.accuracyMs} ms late, not only ${accuracyMs}` });
  if (randomizedDelayMs > 0 && !traits.hasRandomizedDelay)
    losses.push({ kind: 'randomized-delay', message: `${traits.title} knows no randomised delay: it fires without` });
  if (schedule.kind === 'calendar') {
    if (schedule.persistent === true && !traits.isPersistent)
      losses.push({ kind: 'persistent', message: `${traits.title} does not make up for runs that were missed` });
    return losses;
  }
  if (schedule.relativeTo === 'finish')
    losses.push({ kind: 'relative-to-finish', message: `${traits.title} counts periods from start to start, not from the end of a run` });
  if (schedule.startOn !== undefined && schedule.startOn !== 'command')
    losses.push({ kind: 'start', message: `${traits.title} knows no ${schedule.startOn}: periods are not counted from it` });
  return losses;
}

function calendarFor(schedule: Calendar, traits: TargetTraits): Translation {
  const spec = parseCalendar(schedule.expression);
  const once = traits.hasOnce ? onceOf(spec) : undefined;
  if (once !== undefined) return { expressions: [`at(${once})`], timezone: spec.timeZone ?? 'UTC', losses: [] };
  const { fields, ...plan } = planCron(spec, traits);
  return { expressions: fields.map(traits.write), ...plan };
}

/** The time of a calendar that fires once, as `at()` takes it. */
function onceOf(spec: CalendarSpec): string | undefined {
  const { seconds, hasFractions } = secondsOf(spec);
  if (!spec.year || spec.weekdays.length > 0 || spec.lastDays || hasFractions || seconds.length > 1) return undefined;
  const parts = [
    fieldValues(spec.year, FIELDS.year),
    fieldValues(spec.month, FIELDS.month),
    fieldValues(spec.day, FIELDS.day),
    fieldValues(spec.hour, FIELDS.hour),
    fieldValues(spec.minute, FIELDS.minute),
    seconds,
  ];
  if (parts.some((values) => values.length !== 1)) return undefined;
  const [year, month, day, ...time] = parts.map(([value]) => String(value).padStart(2, '0'));
  const text = `${year}-${month}-${day}T${time.join(':')}`;
  const date = new Date(`${text}Z`);
  return Number.isNaN(date.getTime()) || !date.toISOString().startsWith(text) ? undefined : text;
}

function periodicFor(schedule: Periodic, traits: TargetTraits): Translation {
  const { periodMs } = schedule;
  const zone = traits.zones === 'iana' ? { timezone: 'UTC' } : {};
  if (traits.hasSeconds && periodMs < MINUTE && periodMs % 1_000 === 0 && MINUTE % periodMs === 0) {
    const second = periodMs === 1_000 ? '*' : `*/${periodMs / 1_000}`;
    return { expressions: [traits.write({ ...EVERY_MINUTE, second })], ...zone, losses: [] };
  }
  if (periodMs < MINUTE) {
    const message = `${traits.title} cannot fire every ${periodMs / 1_000} seconds: the period must be at least 1 minute`;
    throw lossy(schedule, traits, [{ kind: 'sub-minute', message }]);
  }
  const minutes = Math.floor(periodMs / MINUTE);
  const losses: Loss[] = [];
  if (periodMs % MINUTE !== 0)
    losses.push({
      kind: 'period',
      message: `${traits.title} fires at whole minutes: every ${minutes} minutes instead of ${periodMs / 1_000} s`,
    });
  if (traits.hasRates) return { expressions: [rate(minutes)], ...zone, losses };
  const fields = exactPeriod(minutes) ?? nearPeriod(minutes, losses);
  return { expressions: fields.map(traits.write), ...zone, losses };
}

function rate(minutes: number): string {
  const [count, unit] =
    minutes % 1_440 === 0 ? [minutes / 1_440, 'day'] : minutes % 60 === 0 ? [minutes / 60, 'hour'] : [minutes, 'minute'];
  return `rate(${count} ${unit}${count === 1 ? '' : 's'})`;
}

const EVERY_MINUTE: CronFields = { second: '0', minute: '*', hour: '*', day: undefined, month: '*', weekday: undefined, year: '*' };

/** A week, or what divides a day. */
function exactPeriod(minutes: number): CronFields[] | undefined {
  if (minutes === (7 * DAY) / MINUTE) return [{ ...EVERY_MINUTE, minute: '0', hour: '0', weekday: weekdayName(EPOCH_WEEKDAY) }];
  if (DAY % (minutes * MINUTE) !== 0) return undefined;
  const times = Array.from({ length: DAY / MINUTE / minutes }, (_, index) => index * minutes);
  return products(times).map((group) => ({
    ...EVERY_MINUTE,
    minute: stepList(group.minutes, 60),
    hour: stepList(group.hours, 24),
  }));
}

/** The same distance within an hour, a day or a month; it begins anew with each. */
function nearPeriod(minutes: number, losses: Loss[]): CronFields[] {
  const [unit, field] =
    minutes < 60
      ? ['hour', { minute: `*/${minutes}` }]
      : minutes < 1_440
        ? ['day', { minute: '0' }]
        : ['month', { minute: '0', hour: '0' }];
  losses.push({ kind: 'period', message: `cron cannot fire every ${minutes} minutes: what it counts begins anew with every ${unit}` });
  if (unit === 'hour') return [{ ...EVERY_MINUTE, ...field }];
  if (unit === 'day') return [{ ...EVERY_MINUTE, ...field, hour: `*/${Math.min(23, Math.round(minutes / 60))}` }];
  const days = Math.round(minutes / 1_440);
  return [
    { ...EVERY_MINUTE, ...field, day: days > 31 ? '1' : `*/${days}`, month: days > 31 ? `*/${Math.min(12, Math.round(days / 30))}` : '*' },
  ];
}

function stepList(values: readonly number[], size: number): string {
  const [first = 0, second = size] = values;
  if (values.length === size) return '*';
  return first === 0 && values.length > 2 && values.length * (second - first) === size ? `*/${second - first}` : values.join(',');
}

function lossy(schedule: Schedule, { title }: TargetTraits, losses: readonly Loss[]): RunnerError {
  const shown = schedule.kind === 'calendar' ? JSON.stringify(schedule.expression) : `every ${schedule.periodMs / 1_000} s`;
  const reasons = losses.map(({ message }) => message).join('; ');
  return new RunnerError('SCHEDULE_LOSSY', `${title} cannot keep ${shown} as it is: ${reasons}`, {
    details: { schedule: shown, target: title, losses },
  });
}
