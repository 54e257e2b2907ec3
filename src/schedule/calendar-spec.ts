/** The grammar of systemd's `OnCalendar=` (`man systemd.time`, CALENDAR EVENTS), as systemd 252 reads it. */

import { RunnerError } from '../errors.ts';
import { zoneNamed } from './time-zone.ts';

/** One value, or a range, or a repetition. A range repeats by one unless it says otherwise. */
export interface Component {
  readonly start: number;
  /** The last value. Absent with `repeat`: as far as the field goes. */
  readonly stop?: number;
  /** 0: once. */
  readonly repeat: number;
}

/** A field; undefined is `*`. */
export type Chain = readonly Component[] | undefined;

export interface CalendarSpec {
  /** As written, Monday is 0. Empty: every day. */
  readonly weekdays: readonly (readonly [first: number, last: number])[];
  readonly year: Chain;
  readonly month: Chain;
  readonly day: Chain;
  /** Days are counted from the end of the month. */
  readonly lastDays: boolean;
  readonly hour: Chain;
  readonly minute: Chain;
  /** Of a minute, in microseconds. */
  readonly micros: readonly Component[];
  /** Undefined: none was written. */
  readonly timeZone: string | undefined;
}

export const YEAR_MAX = 2199;
export const MICROS = 1_000_000;
export const WEEKDAYS = ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'] as const;
const LONG_WEEKDAYS = ['Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'] as const;
const COMPONENTS_MAX = 240;
const LENGTH_MAX = 4_096;

export interface FieldRange {
  readonly name: string;
  readonly from: number;
  readonly to: number;
}

export const FIELDS = {
  year: { name: 'year', from: 1970, to: YEAR_MAX },
  month: { name: 'month', from: 1, to: 12 },
  day: { name: 'day', from: 1, to: 31 },
  lastDay: { name: 'day from the end of the month', from: 1, to: 28 },
  hour: { name: 'hour', from: 0, to: 23 },
  minute: { name: 'minute', from: 0, to: 59 },
  micros: { name: 'second', from: 0, to: 60 * MICROS - 1 },
} as const satisfies Record<string, FieldRange>;

/** At midnight, where no time is written. */
const SHORTHANDS = new Map(
  Object.entries({
    minutely: '*:*',
    hourly: '*:00',
    daily: '*-*-*',
    weekly: 'Mon',
    monthly: '*-*-01',
    quarterly: '*-01,04,07,10-01',
    biannually: '*-01,07-01',
    'bi-annually': '*-01,07-01',
    semiannually: '*-01,07-01',
    'semi-annually': '*-01,07-01',
    yearly: '*-01-01',
    annually: '*-01-01',
    anually: '*-01-01',
  }),
);

/** A field as it was read, with the place of each component for messages. */
interface ReadChain {
  readonly at: number;
  readonly components: readonly Component[] | undefined;
}

const MIDNIGHT: readonly Component[] = [{ start: 0, repeat: 0 }];

/**
 * Reads an expression. Accepts what `systemd-analyze calendar` of systemd 252 accepts, and nothing else, but for zones whose name has
 * the wrong case. Throws `SCHEDULE_INVALID` with `details.position`, counted from 0.
 */
export function parseCalendar(expression: string): CalendarSpec {
  return new Reader(expression).read();
}

class Reader {
  readonly #expression: string;
  #text: string;
  #at = 0;

  constructor(expression: string) {
    this.#expression = expression;
    this.#text = expression;
  }

  read(): CalendarSpec {
    if (this.#text.length > LENGTH_MAX) throw this.#error(`it is longer than ${LENGTH_MAX} characters`);
    const timeZone = this.#zone();
    if (this.#text === '') throw this.#error('it is empty');
    const shorthand = SHORTHANDS.get(this.#text.toLowerCase());
    if (shorthand !== undefined) return { ...parseCalendar(shorthand), timeZone };
    const weekdays = this.#weekdays();
    if (this.#peek() === '@') return { ...this.#epoch(), weekdays };
    const date = this.#date();
    return { weekdays, ...date, ...this.#time(), timeZone };
  }

  /** Takes the zone off the end. */
  #zone(): string | undefined {
    const space = this.#text.lastIndexOf(' ');
    if (space < 0) return undefined;
    const word = this.#text.slice(space + 1);
    const zone = word.toLowerCase() === 'utc' ? 'UTC' : zoneNamed(word);
    if (zone !== undefined) this.#text = this.#text.slice(0, space);
    return zone;
  }

  #weekdays(): (readonly [number, number])[] {
    const ranges: (readonly [number, number])[] = [];
    let first: number | undefined;
    for (;;) {
      const at = this.#at;
      const day = this.#weekday();
      if (day === undefined) {
        if (ranges.length === 0 && first === undefined) return ranges;
        throw this.#error('a weekday is expected');
      }
      if (first !== undefined && first > day) throw this.#error('a range of weekdays cannot go over the end of the week', at);
      const next = this.#peek();
      const isRange = next === '-' || this.#text.startsWith('..', this.#at);
      if (isRange) {
        if (first !== undefined) throw this.#error('a range has two ends');
        first = day;
        this.#at += next === '-' ? 1 : 2;
      } else {
        ranges.push([first ?? day, day]);
        first = undefined;
        if (next === ',') this.#at += 1;
        else if (next === '.') throw this.#error('a range is written with two dots');
      }
      const behind = this.#peek();
      if (behind === '' || behind === ' ') {
        if (first !== undefined) throw this.#error('a range has two ends');
        this.#spaces();
        return ranges;
      }
    }
  }

  #weekday(): number | undefined {
    const rest = this.#text.slice(this.#at).toLowerCase();
    for (const names of [LONG_WEEKDAYS, WEEKDAYS]) {
      const day = names.findIndex((name) => rest.startsWith(name.toLowerCase()));
      const name = names[day];
      if (name === undefined) continue;
      this.#at += name.length;
      if (!'-., '.includes(this.#peek())) throw this.#error('a space, a comma or a range is expected after a weekday');
      return day;
    }
    return undefined;
  }

  #epoch(): Omit<CalendarSpec, 'weekdays'> {
    // As strtoul(3) reads it.
    const match = /^@ *\+?(\d+)$/.exec(this.#text.slice(this.#at));
    const date = new Date(Number(match?.[1]) * 1_000);
    const year = date.getUTCFullYear();
    if (!match || Number.isNaN(year)) throw this.#error('seconds since the epoch are expected after @', this.#at + 1);
    if (year > YEAR_MAX) throw this.#error(`the year ${year} is after ${YEAR_MAX}`, this.#at + 1);
    const once = (start: number): Component[] => [{ start, repeat: 0 }];
    return {
      year: once(year),
      month: once(date.getUTCMonth() + 1),
      day: once(date.getUTCDate()),
      lastDays: false,
      hour: once(date.getUTCHours()),
      minute: once(date.getUTCMinutes()),
      micros: once(date.getUTCSeconds() * MICROS),
      timeZone: 'UTC',
    };
  }

  #date(): Pick<CalendarSpec, 'year' | 'month' | 'day' | 'lastDays'> {
    const from = this.#at;
    const anyDay = { year: undefined, month: undefined, day: undefined, lastDays: false };
    if (this.#peek() === '') return anyDay;
    const first = this.#chain();
    const mark = this.#peek();
    if (mark === ':' || mark === '') {
      this.#at = from;
      return anyDay;
    }
    if (mark !== '-' && mark !== '~') throw this.#error('a date or a time is expected');
    this.#at += 1;
    const second = this.#chain();
    const end = this.#peek();
    if (end === '' || end === ' ') {
      this.#spaces();
      return { year: undefined, month: this.#checked(first, FIELDS.month), ...this.#day(second, mark === '~') };
    }
    if (mark === '~' || (end !== '-' && end !== '~')) throw this.#error('the end of the date is expected');
    this.#at += 1;
    const third = this.#chain();
    if (this.#peek() !== '' && this.#peek() !== ' ') throw this.#error('the end of the date is expected');
    this.#spaces();
    return { year: this.#year(first), month: this.#checked(second, FIELDS.month), ...this.#day(third, end === '~') };
  }

  #day(chain: ReadChain, fromEnd: boolean): Pick<CalendarSpec, 'day' | 'lastDays'> {
    if (chain.components === undefined) return { day: undefined, lastDays: false };
    return { day: this.#checked(chain, fromEnd ? FIELDS.lastDay : FIELDS.day), lastDays: fromEnd };
  }

  /** 26 is 2026, 89 is 1989. */
  #year({ at, components }: ReadChain): Chain {
    const full = (year: number): number => year + (year < 70 ? 2000 : year < 100 ? 1900 : 0);
    return this.#checked(
      {
        at,
        components: components?.map(({ start, stop, repeat }) => ({
          start: full(start),
          ...(stop !== undefined && { stop: full(stop) }),
          repeat,
        })),
      },
      FIELDS.year,
    );
  }

  #time(): Pick<CalendarSpec, 'hour' | 'minute' | 'micros'> {
    if (this.#peek() === '') return { hour: MIDNIGHT, minute: MIDNIGHT, micros: MIDNIGHT };
    const hour = this.#chain();
    if (this.#peek() !== ':') throw this.#error('a colon is expected after the hour');
    this.#at += 1;
    const minute = this.#chain();
    const fields = { hour: this.#checked(hour, FIELDS.hour), minute: this.#checked(minute, FIELDS.minute) };
    if (this.#peek() === '') return { ...fields, micros: MIDNIGHT };
    if (this.#peek() !== ':') throw this.#unexpected();
    this.#at += 1;
    const micros = this.#chain(MICROS);
    if (this.#peek() !== '') throw this.#unexpected();
    return { ...fields, micros: this.#checked(micros, FIELDS.micros) ?? [{ start: 0, repeat: MICROS }] };
  }

  #chain(scale = 1): ReadChain {
    const at = this.#at;
    if (this.#peek() === '*') {
      this.#at += 1;
      return { at, components: undefined };
    }
    const components: Component[] = [];
    do {
      if (components.length > 0) this.#at += 1;
      if (components.length >= COMPONENTS_MAX) throw this.#error(`a list has at most ${COMPONENTS_MAX} values`);
      components.push(this.#component(scale));
    } while (this.#peek() === ',');
    return { at, components };
  }

  #component(scale: number): Component {
    const start = this.#number(scale);
    let stop: number | undefined;
    let repeat = 0;
    if (this.#text.startsWith('..', this.#at)) {
      this.#at += 2;
      stop = this.#number(scale);
      repeat = scale;
      if (scale !== 1 && this.#peek() !== '/' && start + scale > stop) throw this.#error('a range of seconds is one second or more');
    }
    if (this.#peek() === '/') {
      this.#at += 1;
      const at = this.#at;
      repeat = this.#number(scale);
      if (repeat === 0) throw this.#error('a repetition is above 0', at);
    }
    const next = this.#peek();
    if (next !== '' && !' ,-~:'.includes(next)) throw this.#unexpected();
    return { start, ...(stop !== undefined && { stop }), repeat };
  }

  #number(scale: number): number {
    const digits = /^\d+/.exec(this.#text.slice(this.#at))?.[0];
    if (digits === undefined) throw this.#error('a number is expected');
    const at = this.#at;
    this.#at += digits.length;
    let value = Number(digits) * scale;
    const fraction = scale === 1 ? null : /^\.(\d+)/.exec(this.#text.slice(this.#at));
    if (fraction) {
      this.#at += fraction[0].length;
      // The seventh digit rounds; those behind it are not looked at.
      value += Math.floor((Number(fraction[1]?.slice(0, 7).padEnd(7, '0')) + 5) / 10);
    }
    if (value > 0x7fff_ffff) throw this.#error(`${digits} is too large`, at);
    return value;
  }

  /** Checks the limits and brings a field into its normal form. */
  #checked({ at, components }: ReadChain, field: FieldRange): Chain {
    if (!components) return undefined;
    const shown = (value: number): string => String(field === FIELDS.micros ? value / MICROS : value);
    const normal = components.map((component) => {
      const { start, stop, repeat } = collapsed(component);
      for (const value of [start, stop ?? start]) {
        if (value < field.from || value > field.to)
          throw this.#error(`the ${field.name} ${shown(value)} is not between ${shown(field.from)} and ${shown(Math.floor(field.to))}`, at);
      }
      if (stop !== undefined && start + repeat > stop)
        throw this.#error(`the ${field.name} ${shown(start)} is after the ${field.name} ${shown(stop)}`, at);
      const reach = stop !== undefined ? 0 : field === FIELDS.lastDay ? start - repeat : start + repeat;
      if (repeat > field.to - field.from || (stop === undefined && (reach < field.from || reach > field.to)))
        throw this.#error(`the repetition ${shown(repeat)} of the ${field.name} ${shown(start)} never happens`, at);
      return { start, ...(stop !== undefined && { stop }), repeat };
    });
    return sortedUnique(normal);
  }

  #spaces(): void {
    while (this.#peek() === ' ') this.#at += 1;
  }

  #peek(): string {
    return this.#text.charAt(this.#at);
  }

  #unexpected(): RunnerError {
    const rest = this.#text.slice(this.#at);
    const word = rest.trim();
    return this.#error(
      rest.startsWith(' ') && word !== '' ? `there is no time zone ${word}` : `${JSON.stringify(this.#peek())} is not expected here`,
      this.#at + (rest.length - rest.trimStart().length),
    );
  }

  #error(reason: string, position = this.#at): RunnerError {
    const expression = this.#expression;
    return new RunnerError('SCHEDULE_INVALID', `${JSON.stringify(expression)} is not a calendar, at position ${position}: ${reason}`, {
      details: { expression, position, reason },
    });
  }
}

/** The last value is one that is met; a repetition that never happens is none. */
function collapsed({ start, stop, repeat }: Component): Component {
  if (stop === undefined || stop < start) return { start, ...(stop !== undefined && { stop }), repeat };
  const last = repeat > 0 ? stop - ((stop - start) % repeat) : stop;
  return last === start ? { start, repeat: 0 } : { start, stop: last, repeat };
}

function sortedUnique(components: readonly Component[]): Component[] {
  const end = (component: Component): number => component.stop ?? -1;
  const sorted = components.toSorted((a, b) => a.start - b.start || end(a) - end(b) || a.repeat - b.repeat);
  return sorted.filter((component, index) => {
    const previous = sorted[index - 1];
    return !previous || previous.start !== component.start || end(previous) !== end(component) || previous.repeat !== component.repeat;
  });
}

/** Which days of the week are meant; Monday is 0. */
export function weekdaySet(spec: CalendarSpec): ReadonlySet<number> {
  const days = new Set<number>();
  for (const [first, last] of spec.weekdays) for (let day = first; day <= last; day += 1) days.add(day);
  return days;
}
