/** Random schedules, and what systemd says of a calendar. */

import { spawnSync } from 'node:child_process';
import fc from 'fast-check';
import { calendar, periodic } from '../../src/schedule/schedule.ts';
import type { Schedule } from '../../src/schedule/schedule.ts';

const DAYS = ['Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun'];

/** One component of a field: a value, a range, a repetition. */
function component(from: number, to: number): fc.Arbitrary<string> {
  const value = fc.integer({ min: from, max: to });
  const range = fc.tuple(value, value).map(([a, b]) => (a === b ? String(a) : `${Math.min(a, b)}..${Math.max(a, b)}`));
  // Without an end only where the next value would be the first of the next unit: past the end of a month or a year systemd 252 goes on at
  // what the overflowing value comes to, and leaves out the first firings there (`1/19:00` on 1 January).
  const step = fc.tuple(value, fc.integer({ min: 1, max: Math.max(1, to - from) })).map(([first, by]) => {
    if (first + by > to) return String(first);
    return first === from && (to - from + 1) % by === 0 ? `${first}/${by}` : `${first}..${to}/${by}`;
  });
  const rangeStep = fc
    .tuple(range, fc.integer({ min: 1, max: Math.max(1, to - from) }))
    .map(([text, by]) => (text.includes('..') ? `${text}/${by}` : text));
  return fc.oneof({ weight: 3, arbitrary: value.map(String) }, range, step, rangeStep);
}

function field(from: number, to: number, anyWeight: number): fc.Arbitrary<string> {
  const some = fc.array(component(from, to), { minLength: 1, maxLength: 3 }).map((parts) => parts.join(','));
  return fc.oneof({ weight: anyWeight, arbitrary: fc.constant('*') }, { weight: 4, arbitrary: some });
}

const weekdays = fc
  .array(fc.tuple(fc.integer({ min: 0, max: 6 }), fc.integer({ min: 0, max: 6 }), fc.constantFrom('-', '..')), {
    minLength: 1,
    maxLength: 3,
  })
  .map((ranges) => ranges.map(([a, b, mark]) => (a === b ? DAYS[a] : `${DAYS[Math.min(a, b)]}${mark}${DAYS[Math.max(a, b)]}`)).join(','));

const lastDay = fc.integer({ min: 1, max: 28 }).map((day) => `~${day}`);
const date = fc.oneof(
  { weight: 5, arbitrary: fc.constant('') },
  {
    weight: 4,
    arbitrary: fc
      .tuple(
        fc.oneof({ weight: 5, arbitrary: fc.constant('*') }, field(2026, 2031, 1)),
        field(1, 12, 4),
        fc.oneof({ weight: 4, arbitrary: field(1, 31, 4).map((day) => `-${day}`) }, lastDay, fc.constant('~1'), fc.constant('-8..14')),
      )
      .map(([year, month, day]) => `${year}-${month}${day} `),
  },
);

const second = fc.oneof(
  { weight: 6, arbitrary: fc.constant('') },
  { weight: 2, arbitrary: fc.constant(':00') },
  { weight: 2, arbitrary: field(0, 59, 1).map((text) => `:${text}`) },
  { weight: 1, arbitrary: fc.constantFrom(':0/7.5', ':30.25', ':0..59/0.5') },
);

const ZONES = ['UTC', 'Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Kolkata', 'Etc/GMT+5', 'America/Havana'];

/** Expressions with a zone, so that they mean the same on every host. */
const expressions: fc.Arbitrary<string> = fc
  .tuple(
    fc.oneof(
      fc.constant(''),
      weekdays.map((text) => `${text} `),
    ),
    date,
    field(0, 23, 4),
    field(0, 59, 2),
    second,
    fc.constantFrom('UTC', ...ZONES),
  )
  .map(([days, dates, hour, minute, seconds, zone]) => `${days}${dates}${hour}:${minute}${seconds} ${zone}`);

const shorthands = fc
  .constantFrom('minutely', 'hourly', 'daily', 'weekly', 'monthly', 'quarterly', 'semiannually', 'yearly')
  .chain((name) => fc.constantFrom(...ZONES).map((zone) => `${name} ${zone}`));

export const calendars: fc.Arbitrary<string> = fc.oneof({ weight: 15, arbitrary: expressions }, shorthands);

const DIVISORS = [60, 120, 300, 600, 900, 1800, 3600, 5400, 7200, 10_800, 28_800, 43_200, 86_400, 604_800];
const periods = fc.oneof(
  fc.constantFrom(...DIVISORS),
  fc.integer({ min: 1, max: 2_000 }).map((minutes) => minutes * 60),
  fc.integer({ min: 60, max: 100_000 }),
);

export const schedules: fc.Arbitrary<Schedule> = fc.oneof(
  { weight: 4, arbitrary: calendars.map((expression) => calendar(expression)) },
  { weight: 1, arbitrary: periods.map((seconds) => periodic(seconds)) },
);

/** Whole seconds from 2026 to 2029. */
export const instants: fc.Arbitrary<number> = fc
  .integer({ min: Date.UTC(2026, 0, 1) / 1_000, max: Date.UTC(2029, 11, 31) / 1_000 })
  .map((seconds) => seconds * 1_000);

export interface SystemdCalendar {
  readonly normal: string;
  /** Whole seconds, in milliseconds. */
  readonly firings: readonly number[];
}

/**
 * What `systemd-analyze calendar` says of many expressions. Some it reads and then cannot evaluate (EDEADLK), when its search comes to a
 * time that `mktime` moves back: these are `stuck`.
 */
export function systemdCalendars(
  list: readonly string[],
  options: { readonly fromMs: number; readonly count: number },
): (SystemdCalendar | 'refused' | 'stuck')[] {
  const base = `${new Date(options.fromMs).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
  const words = ['calendar', `--iterations=${options.count}`, `--base-time=${base}`, '--', ...list];
  const { stdout, stderr, error } = spawnSync('systemd-analyze', words, {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'], TZ: 'UTC', LC_ALL: 'C', SYSTEMD_COLORS: '0' },
    maxBuffer: 64 * 1024 * 1024,
  });
  if (error) throw error;
  const known = new Map<string, SystemdCalendar>();
  for (const block of stdout.split(/\n\n+/)) {
    const normal = /Normalized form: (.*)/.exec(block)?.[1];
    if (normal === undefined) continue;
    const times = block.matchAll(/(?:Next elapse|Iter\. #\d+): \w+ (\S+) (\S+) UTC/g);
    // The original form is left out when it is the normal one.
    const original = /Original form: (.*)/.exec(block)?.[1] ?? normal;
    known.set(original.trimEnd(), { normal, firings: [...times].map(([, day, time]) => Date.parse(`${day}T${time}Z`)) });
  }
  const stuck = new Set([...stderr.matchAll(/next elapse for '(.*)': Resource deadlock avoided/g)].map(([, text]) => text));
  return list.map((expression) => known.get(expression.trimEnd()) ?? (stuck.has(expression) ? 'stuck' : 'refused'));
}
