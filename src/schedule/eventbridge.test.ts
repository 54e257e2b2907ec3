import { describe, expect, it } from 'vitest';
import type { Loss } from './cron-fields.ts';
import { calendarToCron, periodicToRate, scheduleToEventBridgeExpression, toEventBridgeScheduler } from './eventbridge.ts';
import { calendar, parseSchedule, periodic } from './schedule.ts';

describe('the documented translations to EventBridge', () => {
  it.each([
    ['Mon-Fri 14:00', 'cron(00 14 ? * MON-FRI *)'],
    ['Mon,Wed,Fri 09:30', 'cron(30 09 ? * MON,WED,FRI *)'],
    ['Sun 17:00', 'cron(00 17 ? * SUN *)'],
    ['Mon-Sun 00:00', 'cron(00 00 ? * * *)'],
  ])('of the calendar %s', (expression, expected) => {
    expect(scheduleToEventBridgeExpression(calendar(expression))).toBe(expected);
  });

  it.each([
    [3600, 'rate(1 hour)'],
    [7200, 'rate(2 hours)'],
    [86_400, 'rate(1 day)'],
    [300, 'rate(5 minutes)'],
  ])('of the period %s', (seconds, expected) => {
    expect(scheduleToEventBridgeExpression(periodic(seconds))).toBe(expected);
  });
});

describe('calendarToCron', () => {
  it.each([
    ['a range of weekdays', 'Mon-Fri 14:00', 'cron(00 14 ? * MON-FRI *)'],
    ['a list of weekdays', 'Mon,Wed,Fri 09:30', 'cron(30 09 ? * MON,WED,FRI *)'],
    ['one weekday', 'Sun 17:00', 'cron(00 17 ? * SUN *)'],
    ['every day', 'Mon-Sun 00:00', 'cron(00 00 ? * * *)'],
    ['seconds, which are cut off', 'Mon-Fri 16:30:45', 'cron(30 16 ? * MON-FRI *)'],
    ['midnight', 'Mon-Fri 00:00', 'cron(00 00 ? * MON-FRI *)'],
  ])('writes %s', (_name, expression, expected) => {
    expect(calendarToCron(calendar(expression))).toBe(expected);
  });
});

describe('periodicToRate', () => {
  it.each([
    ['an hour', periodic(3600, { startOn: 'boot', relativeTo: 'finish' }), 'rate(1 hour)'],
    ['hours', periodic(7200, { startOn: 'command', relativeTo: 'start' }), 'rate(2 hours)'],
    ['a day', periodic(86_400, { startOn: 'boot', relativeTo: 'finish' }), 'rate(1 day)'],
    ['days', periodic(172_800, { startOn: 'login', relativeTo: 'start' }), 'rate(2 days)'],
    ['minutes', periodic(300, { startOn: 'boot', relativeTo: 'finish' }), 'rate(5 minutes)'],
    ['a minute', periodic(60, { startOn: 'boot', relativeTo: 'finish' }), 'rate(1 minute)'],
  ])('writes %s', (_name, schedule, expected) => {
    expect(periodicToRate(schedule)).toBe(expected);
  });

  it('refuses less than a minute', () => {
    expect(() => periodicToRate(periodic(30, { startOn: 'boot', relativeTo: 'finish' }))).toThrow(/at least 1 minute/);
  });
});

describe('scheduleToEventBridgeExpression', () => {
  const both = scheduleToEventBridgeExpression;

  it('writes calendars', () => {
    expect(both(calendar('Mon-Fri 10:00'))).toBe('cron(00 10 ? * MON-FRI *)');
  });

  it('writes periods', () => {
    expect(both(periodic(3600, { startOn: 'boot', relativeTo: 'finish' }))).toBe('rate(1 hour)');
  });

  it('refuses what is neither', () => {
    expect(() => both(parseSchedule({}))).toThrow(/Unknown schedule type/);
  });

  it('writes a daily backup', () => {
    expect(both(calendar('Mon-Sun 02:00'))).toBe('cron(00 02 ? * * *)');
  });

  it('writes the monitoring of business hours', () => {
    expect(both(periodic(900, { startOn: 'boot', relativeTo: 'finish' }))).toBe('rate(15 minutes)');
  });

  it('writes the cleanup of weekends', () => {
    expect(both(calendar('Sat 00:00'))).toBe('cron(00 00 ? * SAT *)');
    expect(both(calendar('Sun 00:00'))).toBe('cron(00 00 ? * SUN *)');
  });

  it('writes a quarterly report', () => {
    expect(both(periodic(90 * 86_400, { startOn: 'boot', relativeTo: 'finish' }))).toBe('rate(90 days)');
  });

  it('writes common schedules', () => {
    expect(both(periodic(3600, { startOn: 'boot', relativeTo: 'finish' }))).toBe('rate(1 hour)');
    expect(both(calendar('Mon-Sun 00:00'))).toBe('cron(00 00 ? * * *)');
    expect(both(calendar('Mon-Fri 09:00'))).toBe('cron(00 09 ? * MON-FRI *)');
    expect(both(calendar('Sat,Sun 10:00'))).toBe('cron(00 10 ? * SAT,SUN *)');
  });

  it('takes text for a calendar, in any case', () => {
    expect(both('mon-fri 9:00')).toBe('cron(00 09 ? * MON-FRI *)');
  });

  it('tells what is lost, and refuses it in strict mode', () => {
    const lost = (schedule: Parameters<typeof both>[0]): string[] => {
      const losses: Loss[] = [];
      both(schedule, { onLoss: (loss) => losses.push(loss) });
      return losses.map(({ kind }) => kind);
    };
    expect(lost('Mon-Fri 16:30:45')).toEqual(['seconds']);
    expect(lost('Mon 09:00 America/New_York')).toEqual(['time-zone']);
    expect(lost(periodic(90))).toEqual(['period']);
    expect(lost(periodic(300, { relativeTo: 'finish' }))).toEqual(['relative-to-finish']);
    expect(lost('Mon 09:00')).toEqual([]);
    expect(() => both('Mon-Fri 16:30:45', { strict: true })).toThrow(expect.objectContaining({ code: 'SCHEDULE_LOSSY' }));
  });

  it('refuses what needs several rules', () => {
    expect(() => both('0,9:30 Asia/Kolkata')).toThrow(expect.objectContaining({ code: 'SCHEDULE_LOSSY' }));
  });
});

describe('toEventBridgeScheduler', () => {
  it('keeps the time zone', () => {
    expect(toEventBridgeScheduler('Mon-Fri 09:00 Europe/Berlin')).toEqual({
      expressions: ['cron(00 09 ? * MON-FRI *)'],
      timezone: 'Europe/Berlin',
      losses: [],
      flexibleTimeWindow: { Mode: 'OFF' },
    });
  });

  it('writes once as at()', () => {
    expect(toEventBridgeScheduler('2026-12-24 18:00:30 Europe/Berlin')).toMatchObject({
      expressions: ['at(2026-12-24T18:00:30)'],
      timezone: 'Europe/Berlin',
    });
  });

  it('makes a flexible window of a randomised delay', () => {
    expect(toEventBridgeScheduler(calendar('9:00', { randomizedDelayMs: 90_000 })).flexibleTimeWindow).toEqual({
      Mode: 'FLEXIBLE',
      MaximumWindowInMinutes: 2,
    });
    const long = toEventBridgeScheduler(periodic(3600, { randomizedDelayMs: 2 * 86_400_000 }));
    expect(long).toMatchObject({ flexibleTimeWindow: { MaximumWindowInMinutes: 1440 }, losses: [{ kind: 'randomized-delay' }] });
  });
});
