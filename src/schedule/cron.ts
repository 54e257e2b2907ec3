/** Expressions of the platforms: checked, and when they fire. Each platform reads cron in its own way. */

import { RunnerError } from '../errors.ts';
import { FIELDS, MICROS, WEEKDAYS } from './calendar-spec.ts';
import type { FieldRange } from './calendar-spec.ts';
import { daysOfMonth, nextInstant, weekdayOf } from './wall-pattern.ts';
import type { WallPattern } from './wall-pattern.ts';

export const CRON_TARGETS = [
  'eventbridge-rule',
  'eventbridge-scheduler',
  'gcp',
  'azure',
  'cloudflare',
  'digitalocean',
  'kubernetes',
  'crontab',
] as const;
export type CronTarget = (typeof CRON_TARGETS)[number];

type FieldName = 'second' | 'minute' | 'hour' | 'day' | 'month' | 'weekday' | 'year';

interface Dialect {
  readonly fields: readonly FieldName[];
  /** The number of Sunday; the other days follow. */
  readonly sunday: 0 | 1;
  readonly weekdayMax: number;
  /** When both days are given: either (as POSIX says), both, or an error. */
  readonly days: 'either' | 'both' | 'one';
  /** L, W and # of Quartz. */
  readonly quartz?: true;
  /** `5/15` for `5-59/15`. */
  readonly openSteps?: true;
  /** A field of days that leaves the days to the other one. */
  readonly anyDay: RegExp;
  readonly macros?: true;
  readonly lengthMax: number;
}

const UNIX: Dialect = {
  fields: ['minute', 'hour', 'day', 'month', 'weekday'],
  sunday: 0,
  weekdayMax: 7,
  days: 'either',
  anyDay: /^[*?]/,
  lengthMax: 1_000,
};

const EVENTBRIDGE: Dialect = {
  ...UNIX,
  fields: ['minute', 'hour', 'day', 'month', 'weekday', 'year'],
  sunday: 1,
  days: 'one',
  quartz: true,
  openSteps: true,
  lengthMax: 256,
};

/** Sources: the platforms' documents on schedule expressions, as of 2026-11; NCRONTAB, robfig/cron v3 and crontab(5) for the rest. */
const DIALECTS: Readonly<Record<CronTarget, Dialect>> = {
  'eventbridge-rule': EVENTBRIDGE,
  'eventbridge-scheduler': EVENTBRIDGE,
  gcp: UNIX,
  azure: { ...UNIX, fields: ['second', ...UNIX.fields], weekdayMax: 6, days: 'both', openSteps: true },
  cloudflare: { ...UNIX, sunday: 1, quartz: true },
  digitalocean: UNIX,
  // Here a star with a step is a choice of days as any other.
  kubernetes: { ...UNIX, weekdayMax: 6, openSteps: true, anyDay: /^[*?](\/1)?(,|$)/, macros: true },
  crontab: { ...UNIX, macros: true },
};

const MACROS = new Map(
  Object.entries({
    '@yearly': '0 0 1 1 *',
    '@annually': '0 0 1 1 *',
    '@monthly': '0 0 1 * *',
    '@weekly': '0 0 * * 0',
    '@daily': '0 0 * * *',
    '@midnight': '0 0 * * *',
    '@hourly': '0 * * * *',
  }),
);

const RANGES: Readonly<Record<Exclude<FieldName, 'weekday'>, FieldRange>> = {
  second: { name: 'second', from: 0, to: 59 },
  minute: FIELDS.minute,
  hour: FIELDS.hour,
  day: FIELDS.day,
  month: FIELDS.month,
  year: FIELDS.year,
};

const MONTHS = ['JAN', 'FEB', 'MAR', 'APR', 'MAY', 'JUN', 'JUL', 'AUG', 'SEP', 'OCT', 'NOV', 'DEC'];
const WEEKDAYS_FROM_SUNDAY = [WEEKDAYS[6], ...WEEKDAYS.slice(0, 6)].map((name) => name.toUpperCase());
const UNIT_MS: Readonly<Record<string, number>> = { minute: 60_000, hour: 3_600_000, day: 86_400_000 };

/** Characters that the platform takes. */
export function cronLengthMax(target: CronTarget): number {
  return DIALECTS[target].lengthMax;
}

/** What an expression says. */
export type CronMeaning =
  | { readonly kind: 'cron'; readonly pattern: WallPattern }
  | { readonly kind: 'rate'; readonly periodMs: number }
  /** Once; a wall time of the zone, given as if it were UTC. */
  | { readonly kind: 'at'; readonly wallMs: number };

/**
 * Checks an expression as its platform would. Throws `SCHEDULE_INVALID` with the position in the expression.
 *
 * @example
 * parseCron('eventbridge-rule', 'cron(0 9 ? * MON-FRI *)');
 */
export function parseCron(target: CronTarget, expression: string): CronMeaning {
  const dialect = DIALECTS[target];
  if (expression.length > dialect.lengthMax)
    throw invalid(expression, dialect.lengthMax, `it is longer than ${dialect.lengthMax} characters`);
  if (target === 'eventbridge-rule' || target === 'eventbridge-scheduler') return eventBridge(target, expression);
  const macro = dialect.macros ? MACROS.get(expression) : undefined;
  return { kind: 'cron', pattern: new CronReader(dialect, macro ?? expression).read() };
}

export interface CronFiringOptions {
  /** Default UTC. */
  readonly timezone?: string | undefined;
  /** What a rate is counted from. Default: `fromMs`. */
  readonly anchorMs?: number;
}

/** All times after `fromMs` at which the platform runs the expression. Throws `SCHEDULE_INVALID`. */
export function* cronFirings(
  target: CronTarget,
  expression: string,
  { fromMs, timezone, anchorMs = fromMs }: CronFiringOptions & { readonly fromMs: number },
): Generator<number, void, undefined> {
  const meaning = parseCron(target, expression);
  if (meaning.kind === 'rate') {
    const { periodMs } = meaning;
    for (let count = Math.max(1, Math.floor((fromMs - anchorMs) / periodMs) + 1); ; count += 1) yield anchorMs + count * periodMs;
  }
  const pattern = meaning.kind === 'at' ? onceAt(meaning.wallMs) : meaning.pattern;
  for (let at = nextInstant(pattern, timezone, fromMs); at !== undefined; at = nextInstant(pattern, timezone, at)) yield at;
}

function onceAt(wallMs: number): WallPattern {
  const at = new Date(wallMs);
  const micros = at.getUTCSeconds() * MICROS;
  return {
    year: (from) => (from <= at.getUTCFullYear() ? at.getUTCFullYear() : undefined),
    months: [at.getUTCMonth() + 1],
    isDay: (_year, _month, day) => day === at.getUTCDate(),
    hours: [at.getUTCHours()],
    minutes: [at.getUTCMinutes()],
    micros: (from) => (from <= micros ? micros : undefined),
  };
}

function eventBridge(target: CronTarget, expression: string): CronMeaning {
  const [, kind, inner = ''] = /^(cron|rate|at)\((.*)\)$/.exec(expression) ?? [];
  const offset = (kind?.length ?? 0) + 1;
  if (kind === 'cron') return { kind: 'cron', pattern: new CronReader(EVENTBRIDGE, inner, { expression, offset }).read() };
  if (kind === 'rate') {
    const [, count, unit = '', plural] = /^([1-9]\d*) (minute|hour|day)(s?)$/.exec(inner) ?? [];
    if (count === undefined) throw invalid(expression, offset, 'a whole number above 0 and minutes, hours or days are expected');
    if ((count === '1') === (plural === 's'))
      throw invalid(expression, offset + count.length + 1, 'the unit is singular for 1, and else plural');
    return { kind: 'rate', periodMs: Number(count) * (UNIT_MS[unit] ?? 0) };
  }
  if (kind === 'at' && target === 'eventbridge-scheduler') {
    const wallMs = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$/.test(inner) ? Date.parse(`${inner}Z`) : Number.NaN;
    if (Number.isNaN(wallMs) || !new Date(wallMs).toISOString().startsWith(inner))
      throw invalid(expression, offset, 'a time like 2026-12-24T18:00:00 is expected');
    return { kind: 'at', wallMs };
  }
  throw invalid(expression, 0, target === 'eventbridge-scheduler' ? 'cron(), rate() or at() is expected' : 'cron() or rate() is expected');
}

type DayTest = (year: number, month: number, day: number) => boolean;

function anyOf(tests: readonly DayTest[]): DayTest {
  return (...date) => tests.some((test) => test(...date));
}

class CronReader {
  readonly #dialect: Dialect;
  readonly #text: string;
  readonly #shown: { readonly expression: string; readonly offset: number };

  constructor(dialect: Dialect, text: string, shown = { expression: text, offset: 0 }) {
    this.#dialect = dialect;
    this.#text = text;
    this.#shown = shown;
  }

  read(): WallPattern {
    const { fields } = this.#dialect;
    const words = [...this.#text.matchAll(/\S+/g)].map((match) => ({ text: match[0], at: match.index }));
    if (words.length !== fields.length)
      throw this.#error(0, `${fields.length} fields are expected (${fields.join(' ')}), not ${words.length}`);
    const word = (name: FieldName): Word => words[fields.indexOf(name)] ?? { text: name === 'second' ? '0' : '*', at: 0 };
    const values = (name: Exclude<FieldName, 'weekday'>): number[] => ascending(this.#values(word(name), RANGES[name]));
    const micros = values('second').map((second) => second * MICROS);
    const years = fields.includes('year') && word('year').text !== '*' ? values('year') : undefined;
    return {
      year: (from) => (years ? years.find((year) => year >= from) : from),
      months: values('month'),
      isDay: this.#days(word('day'), word('weekday')),
      hours: values('hour'),
      minutes: values('minute'),
      micros: (from) => micros.find((value) => value >= from),
    };
  }

  #days(dayWord: Word, weekdayWord: Word): DayTest {
    const isDay = this.#dayOfMonth(dayWord);
    const isWeekday = this.#dayOfWeek(weekdayWord);
    const { days, anyDay } = this.#dialect;
    if (days === 'one' && (dayWord.text === '?') === (weekdayWord.text === '?'))
      throw this.#error(dayWord.at, 'one of day of month and day of week is a question mark, and only one');
    if (days === 'either' && ![dayWord, weekdayWord].some(({ text }) => anyDay.test(text))) return anyOf([isDay, isWeekday]);
    return (...date) => isDay(...date) && isWeekday(...date);
  }

  #dayOfMonth(word: Word): DayTest {
    const tests: DayTest[] = [];
    for (const item of this.#items(word)) {
      const special = this.#dialect.quartz ? /^(?:(L)(?:-(\d+))?(W)?|(\d+)W)$/i.exec(item.text) : null;
      if (special) tests.push(this.#specialDay(special, item));
      else {
        const days = this.#values(item, RANGES.day);
        tests.push((_year, _month, day) => days.has(day));
      }
    }
    return anyOf(tests);
  }

  /** `L`, `L-3`, `LW`, `15W`: counted from the end, or the nearest day from Monday to Friday of the same month. */
  #specialDay([, last, before = '0', work, nearest]: RegExpExecArray, item: Word): DayTest {
    const target = Number(nearest ?? 0);
    if (last === undefined && (target < 1 || target > 31)) throw this.#error(item.at, `there is no day ${nearest}`);
    return (year, month, day) => {
      const end = daysOfMonth(year, month);
      const wanted = last === undefined ? target : end - Number(before);
      if (wanted > end) return false;
      return day === (last === undefined || work !== undefined ? nearestWorkday(year, month, wanted) : wanted);
    };
  }

  #dayOfWeek(word: Word): DayTest {
    const { sunday, weekdayMax, quartz } = this.#dialect;
    const range = { name: 'weekday', from: sunday, to: weekdayMax };
    /** Monday is 0. */
    const index = (value: number): number => (value - sunday + 6) % 7;
    const tests: DayTest[] = [];
    for (const item of this.#items(word)) {
      const special = quartz ? /^(\w+?)(?:#([1-5])|L)$/i.exec(item.text) : null;
      if (special) {
        const wanted = index(this.#number({ text: special[1] ?? '', at: item.at }, range));
        const count = special[2];
        tests.push((year, month, day) => {
          if (weekdayOf(year, month, day) !== wanted) return false;
          return count === undefined ? day + 7 > daysOfMonth(year, month) : Math.ceil(day / 7) === Number(count);
        });
      } else {
        const days = new Set([...this.#values(item, range)].map(index));
        tests.push((...date) => days.has(weekdayOf(...date)));
      }
    }
    return anyOf(tests);
  }

  *#items({ text, at }: Word): Generator<Word> {
    let from = at;
    for (const item of text.split(',')) {
      yield { text: item, at: from };
      from += item.length + 1;
    }
  }

  #values(word: Word, range: FieldRange): Set<number> {
    const values = new Set<number>();
    for (const item of this.#items(word)) {
      const { first, last, step } = this.#item(item, range);
      for (let value = first; value <= last; value += step) values.add(value);
    }
    return values;
  }

  #item(item: Word, range: FieldRange): { first: number; last: number; step: number } {
    const [, body = '', ...rest] = /^([^/]*)(?:\/(\d+))?$/.exec(item.text) ?? [];
    if (body === '') throw this.#error(item.at, `${JSON.stringify(item.text)} is no ${range.name}`);
    const step = rest[0] === undefined ? undefined : Number(rest[0]);
    if (step !== undefined && (step < 1 || step > range.to))
      throw this.#error(item.at, `the step ${step} is not between 1 and ${range.to}`);
    const mayBeOpen = body === '?' && (range.name === 'weekday' || range.name === 'day') && (this.#dialect.quartz || this.#dialect.macros);
    if (body === '*' || (mayBeOpen && step === undefined)) return { first: range.from, last: range.to, step: step ?? 1 };
    const [low = '', high, ...more] = body.split('-');
    const first = this.#number({ text: low, at: item.at }, range);
    if (high === undefined) {
      if (step !== undefined && !this.#dialect.openSteps) throw this.#error(item.at, 'a step needs a range, as in 0-59/15');
      return { first, last: step === undefined ? first : range.to, step: step ?? 1 };
    }
    const last = this.#number({ text: high, at: item.at + low.length + 1 }, range);
    if (more.length > 0 || last < first) throw this.#error(item.at, `${body} is no range`);
    return { first, last, step: step ?? 1 };
  }

  #number({ text, at }: Word, range: FieldRange): number {
    const names = range.name === 'month' ? MONTHS : range.name === 'weekday' ? WEEKDAYS_FROM_SUNDAY : [];
    const named = names.indexOf(text.toUpperCase());
    if (named >= 0) return named + range.from;
    const value = /^\d{1,4}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= range.from && value <= range.to))
      throw this.#error(at, `the ${range.name} ${JSON.stringify(text)} is not between ${range.from} and ${range.to}`);
    return value;
  }

  #error(at: number, reason: string): RunnerError {
    return invalid(this.#shown.expression, at + this.#shown.offset, reason);
  }
}

interface Word {
  readonly text: string;
  readonly at: number;
}

function ascending(values: ReadonlySet<number>): number[] {
  return [...values].toSorted((a, b) => a - b);
}

/** From Monday to Friday, in the same month. */
function nearestWorkday(year: number, month: number, day: number): number {
  const weekday = weekdayOf(year, month, day);
  if (weekday === 5) return day > 1 ? day - 1 : day + 2;
  if (weekday === 6) return day < daysOfMonth(year, month) ? day + 1 : day - 2;
  return day;
}

function invalid(expression: string, position: number, reason: string): RunnerError {
  return new RunnerError(
    'SCHEDULE_INVALID',
    `${JSON.stringify(expression)} is no schedule expression, at position ${position}: ${reason}`,
    {
      details: { expression, position, reason },
    },
  );
}
