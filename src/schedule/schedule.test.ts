import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { calendars, instants } from '../../test/support/schedules.ts';
import { normalCalendar } from './calendar-format.ts';
import { firings, nextFiring } from './firings.ts';
import { calendar, parseSchedule, periodic } from './schedule.ts';
import type { Schedule } from './schedule.ts';

function times(schedule: Schedule | string, from: string, count: number): string[] {
  const found: string[] = [];
  for (const at of firings(parseSchedule(schedule), Date.parse(from))) {
    found.push(new Date(at).toISOString().replace('.000Z', 'Z'));
    if (found.length === count) break;
  }
  return found;
}

function refusal(value: unknown): { readonly code?: unknown; readonly message: string; readonly details?: { readonly position?: number } } {
  try {
    parseSchedule(value);
  } catch (error) {
    return error as ReturnType<typeof refusal>; // a RunnerError, as the tests check
  }
  throw new Error(`${JSON.stringify(value)} was taken`);
}

describe('a schedule', () => {
  it('is made of text and options, or of seconds', () => {
    expect(calendar('Mon-Fri 09:00', { persistent: false, randomizedDelayMs: 5_000 })).toEqual({
      kind: 'calendar',
      expression: 'Mon-Fri 09:00',
      persistent: false,
      randomizedDelayMs: 5_000,
    });
    expect(periodic(3600, { startOn: 'boot', relativeTo: 'finish' })).toEqual({
      kind: 'periodic',
      periodMs: 3_600_000,
      startOn: 'boot',
      relativeTo: 'finish',
    });
    expect(periodic(0.25).periodMs).toBe(250);
  });

  it.each<[string, unknown, Schedule]>([
    ['text', 'daily', { kind: 'calendar', expression: 'daily' }],
    ['a number of seconds', 60, { kind: 'periodic', periodMs: 60_000 }],
    ['a calendar by its field', { schedule: 'Mon 9:00', persistent: true }, { kind: 'calendar', expression: 'Mon 9:00', persistent: true }],
    ['a period by its field', { period: 90, relativeTo: 'finish' }, { kind: 'periodic', periodMs: 90_000, relativeTo: 'finish' }],
    ['itself', { kind: 'periodic', periodMs: 5 }, { kind: 'periodic', periodMs: 5 }],
    [
      'what JSON made of it',
      JSON.parse(JSON.stringify(calendar('9:00', { accuracyMs: 2 }))),
      { kind: 'calendar', expression: '9:00', accuracyMs: 2 },
    ],
  ])('is read from %s', (_name, value, expected) => {
    expect(parseSchedule(value)).toEqual(expected);
  });

  it.each<[unknown, RegExp]>([
    [undefined, /is not a schedule/],
    [null, /is not a schedule/],
    [['daily'], /is not a schedule/],
    [{}, /Unknown schedule type/],
    [{ kind: 'cron' }, /Unknown schedule type "cron"/],
    [{ kind: 'calendar' }, /the expression of a calendar is text/],
    [{ expression: 'daily', persist: true }, /has no persist/],
    [{ expression: 'daily', persistent: 'yes' }, /persistent is true or false/],
    [{ period: '60' }, /the period is "60"/],
    [0, /the period is 0/],
    [Number.NaN, /the period is null/],
    [1e300, /must be between/],
    [{ period: 60, startOn: 'moon' }, /known: boot, login, command/],
    [{ period: 60, relativeTo: 'end' }, /known: start, finish/],
    [{ period: 60, accuracyMs: -1 }, /accuracyMs is -1/],
  ])('is not %j', (value, message) => {
    expect(refusal(value)).toMatchObject({ code: 'SCHEDULE_INVALID', message: expect.stringMatching(message) });
  });

  it.each<[string, number, RegExp]>([
    ['', 0, /empty/],
    ['Foo', 0, /number is expected/],
    ['25:00', 0, /the hour 25 is not between 0 and 23/],
    ['Mon-Fri 09:61', 11, /the minute 61/],
    ['Mon-Fri 09:00:75', 14, /the second 75 is not between 0 and 59/],
    ['Sat-Mon 09:00', 4, /end of the week/],
    ['*-13-01', 2, /the month 13/],
    ['*-*-32', 4, /the day 32/],
    ['*-*~29', 4, /the day from the end of the month 29/],
    ['9:00 Mars/Olympus', 5, /no time zone Mars\/Olympus/],
    ['*:0/0', 4, /above 0/],
    ['*:30/40', 2, /never happens/],
    ['*-*-5..3', 4, /the day 5 is after the day 3/],
    ['Mon,Fri.. 9:00', 9, /two ends/],
    ['2026-01-01x', 10, /not expected here/],
    ['9:00:00 9:00', 8, /no time zone/],
  ])('names the place of the mistake in %j', (expression, position, reason) => {
    const { message, details } = refusal(expression);
    expect(details).toMatchObject({ expression, position });
    expect(message).toMatch(reason);
  });

  it('is never longer than it may be', () => {
    expect(refusal(`*-*-${'1,'.repeat(300)}1`).message).toMatch(/at most 240 values/);
    expect(refusal('9'.repeat(5_000)).message).toMatch(/longer than 4096/);
  });
});

describe('the normal form', () => {
  it.each([
    ['Sat,Thu,Mon-Wed,Sat-Sun', 'Mon..Thu,Sat,Sun *-*-* 00:00:00'],
    ['Mon,Sun 12-*-* 2,1:23', 'Mon,Sun 2012-*-* 01,02:23:00'],
    ['Wed *-1', 'Wed *-*-01 00:00:00'],
    ['Wed-Wed,Wed *-1', 'Wed *-*-01 00:00:00'],
    ['Wed, 17:48', 'Wed *-*-* 17:48:00'],
    ['10-15', '*-10-15 00:00:00'],
    ['monday *-12-* 17:00', 'Mon *-12-* 17:00:00'],
    ['Mon,Fri *-*-3,1,2 *:30:45', 'Mon,Fri *-*-01,02,03 *:30:45'],
    ['12,14,13,12:20,10,30', '*-*-* 12,13,14:10,20,30:00'],
    ['03-05 08:05:40', '*-03-05 08:05:40'],
    ['08:05:40', '*-*-* 08:05:40'],
    ['Sat,Sun 12-05 08:05', 'Sat,Sun *-12-05 08:05:00'],
    ['2003-03-05 05:40', '2003-03-05 05:40:00'],
    ['05:40:23.4200004/3.1700005', '*-*-* 05:40:23.420000/3.170001'],
    ['2003-02..04-05', '2003-02..04-05 00:00:00'],
    ['2003-03-05 05:40 UTC', '2003-03-05 05:40:00 UTC'],
    ['*:2/3', '*-*-* *:02/3:00'],
    ['Mon *-05~07/1', 'Mon *-05~07/1 00:00:00'],
    ['0..23/6:00', '*-*-* 00..18/6:00:00'],
    ['*:*:0/1', '*-*-* *:*:*'],
    ['@1395716396', '2014-03-25 02:59:56 UTC'],
    ['weekly europe/berlin', 'Mon *-*-* 00:00:00 Europe/Berlin'],
    ['QUARTERLY', '*-01,04,07,10-01 00:00:00'],
  ])('of %s', (expression, expected) => {
    expect(normalCalendar(expression)).toBe(expected);
    expect(normalCalendar(expected)).toBe(expected);
  });

  it('fires when the expression does', () => {
    fc.assert(
      fc.property(calendars, instants, (expression, fromMs) => {
        const next = nextFiring(calendar(expression), fromMs);
        expect(nextFiring(calendar(normalCalendar(expression)), fromMs)).toBe(next);
        if (next !== undefined) expect(nextFiring(calendar(expression), next - 0.5)).toBe(next);
      }),
      { seed: 7, numRuns: 300 },
    );
  });
});

describe('firings', () => {
  it('are in UTC without a zone', () => {
    expect(times('Mon-Fri 09:00', '2026-11-20T12:00:00Z', 2)).toEqual(['2026-11-23T09:00:00Z', '2026-11-24T09:00:00Z']);
  });

  it('come after the moment that is asked for', () => {
    expect(times('daily', '2026-01-01T00:00:00Z', 1)).toEqual(['2026-01-02T00:00:00Z']);
    expect(times('daily', '2025-12-31T23:59:59.999Z', 1)).toEqual(['2026-01-01T00:00:00Z']);
  });

  it('leave out what the clocks leave out', () => {
    expect(times('2:30 Europe/Berlin', '2026-03-28T12:00:00Z', 1)).toEqual(['2026-03-30T00:30:00Z']);
    expect(times('*:0/30 Europe/Berlin', '2026-03-29T00:00:00Z', 3)).toEqual([
      '2026-03-29T00:30:00Z',
      '2026-03-29T01:00:00Z',
      '2026-03-29T01:30:00Z',
    ]);
    expect(times('2:15 Australia/Lord_Howe', '2026-10-03T00:00:00Z', 1)).toEqual(['2026-10-04T15:15:00Z']);
    expect(times('0:30 America/Santiago', '2026-09-05T12:00:00Z', 1)).toEqual(['2026-09-07T03:30:00Z']);
  });

  it('are the first of two where the clocks are set back, and of the second when the search begins there', () => {
    expect(times('2:30 Europe/Berlin', '2026-10-24T12:00:00Z', 2)).toEqual(['2026-10-25T00:30:00Z', '2026-10-26T01:30:00Z']);
    expect(times('2:30 Europe/Berlin', '2026-10-25T01:10:00Z', 1)).toEqual(['2026-10-25T01:30:00Z']);
    expect(times('hourly America/New_York', '2026-11-01T04:30:00Z', 2)).toEqual(['2026-11-01T05:00:00Z', '2026-11-01T07:00:00Z']);
    expect(times('*-11-01 0:30 America/Havana', '2026-03-01T00:00:00Z', 1)).toEqual(['2026-11-01T04:30:00Z']);
  });

  it('keep fractions of a second', () => {
    expect(times('*:*:0/7.5', '2026-01-01T00:00:00Z', 3)).toEqual([
      '2026-01-01T00:00:07.500Z',
      '2026-01-01T00:00:15Z',
      '2026-01-01T00:00:22.500Z',
    ]);
    expect(nextFiring(calendar('*:*:0.000250'), Date.UTC(2026, 0, 1))).toBe(Date.UTC(2026, 0, 1) + 0.25);
  });

  it('count days from the end of months of any length', () => {
    expect(times('*-*~1', '2028-01-15T00:00:00Z', 3)).toEqual(['2028-01-31T00:00:00Z', '2028-02-29T00:00:00Z', '2028-03-31T00:00:00Z']);
    expect(times('*-02~1..3/2', '2027-01-01T00:00:00Z', 2)).toEqual(['2027-02-26T00:00:00Z', '2027-02-28T00:00:00Z']);
    expect(times('Mon *-05~07/1', '2026-06-01T00:00:00Z', 2)).toEqual(['2027-05-31T00:00:00Z', '2028-05-29T00:00:00Z']);
  });

  it('repeat up to the end of their field, and begin anew with the next', () => {
    expect(times('1/19:00', '2026-12-31T12:00:00Z', 3)).toEqual(['2026-12-31T20:00:00Z', '2027-01-01T01:00:00Z', '2027-01-01T20:00:00Z']);
    fc.assert(
      fc.property(fc.nat(22), fc.integer({ min: 1, max: 22 }), instants, (first, step, fromMs) => {
        fc.pre(first + step <= 23);
        const open = calendar(`${first}/${step}:00`);
        expect(nextFiring(open, fromMs)).toBe(nextFiring(calendar(`${first}..23/${step}:00`), fromMs));
      }),
      { seed: 7 },
    );
  });

  it('end', () => {
    expect(times('2026-12-25 09:00', '2026-01-01T00:00:00Z', 5)).toEqual(['2026-12-25T09:00:00Z']);
    expect(times('*-02-30', '2026-01-01T00:00:00Z', 5)).toEqual([]);
    expect(times('*-*-* 23:59:59', '2199-12-31T12:00:00Z', 5)).toEqual(['2199-12-31T23:59:59Z']);
  });

  it('are found without a look at every minute', () => {
    const rare = calendar('Tue 2197-02-28 23:59:59.999999 Australia/Lord_Howe');
    expect(new Date(nextFiring(rare, 0) ?? 0).toISOString()).toBe('2197-02-28T12:59:59.999Z');
  });

  it('of periods are counted from an anchor', () => {
    expect(times(periodic(90), '2026-01-01T00:00:10Z', 2)).toEqual(['2026-01-01T00:01:40Z', '2026-01-01T00:03:10Z']);
    expect(nextFiring(periodic(3600), Date.UTC(2026, 0, 1, 5, 30))).toBe(Date.UTC(2026, 0, 1, 6));
    expect(nextFiring(periodic(3600), 0, { anchorMs: 1_000 })).toBe(3_601_000);
  });

  it('of periods come after the one before, also where a fraction of a millisecond rounds', () => {
    const instant = fc.integer({ min: 0, max: Date.UTC(2150, 0, 1) });
    const withFractions = fc.integer({ min: 1_000, max: 5_000_000 }).map((micros) => micros / 1_000_000);
    fc.assert(
      fc.property(withFractions, instant, instant, (seconds, anchorMs, fromMs) => {
        const schedule = periodic(seconds);
        let at = fromMs;
        for (let count = 0; count < 50; count += 1) {
          const next = nextFiring(schedule, at, { anchorMs }) ?? 0;
          expect(next).toBeGreaterThan(at);
          at = next;
        }
      }),
      { seed: 7 },
    );
  });
});
