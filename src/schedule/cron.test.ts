import { describe, expect, it } from 'vitest';
import { cronFirings, parseCron } from './cron.ts';
import type { CronTarget } from './cron.ts';

function times(target: CronTarget, expression: string, options: { from: string; count: number; timezone?: string }): string[] {
  const found: string[] = [];
  for (const at of cronFirings(target, expression, { fromMs: Date.parse(options.from), timezone: options.timezone })) {
    found.push(new Date(at).toISOString().slice(0, 19));
    if (found.length === options.count) break;
  }
  return found;
}

describe('expressions of platforms', () => {
  it.each<[string, CronTarget, string, readonly string[]]>([
    ['a range of weekdays', 'eventbridge-rule', 'cron(15 10 ? * MON-FRI *)', ['2026-11-23T10:15:00', '2026-11-24T10:15:00']],
    ['weekdays from 1, Sunday', 'eventbridge-rule', 'cron(0 10 ? * 1 *)', ['2026-11-22T10:00:00', '2026-11-29T10:00:00']],
    ['weekdays from 0, Sunday', 'gcp', '0 10 * * 0', ['2026-11-22T10:00:00', '2026-11-29T10:00:00']],
    ['Sunday as 7', 'crontab', '0 10 * * 7', ['2026-11-22T10:00:00', '2026-11-29T10:00:00']],
    ['the nth weekday', 'eventbridge-scheduler', 'cron(0 9 ? * 2#1 *)', ['2026-12-07T09:00:00', '2027-01-04T09:00:00']],
    ['the last day', 'cloudflare', '0 12 L * *', ['2026-11-30T12:00:00', '2026-12-31T12:00:00']],
    ['the last Friday', 'cloudflare', '0 18 * * friL', ['2026-11-27T18:00:00', '2026-12-25T18:00:00']],
    ['the last workday', 'cloudflare', '59 23 LW * *', ['2026-11-30T23:59:00', '2026-12-31T23:59:00']],
    ['the nearest workday', 'eventbridge-rule', 'cron(0 0 15W * ? *)', ['2026-12-15T00:00:00', '2027-01-15T00:00:00']],
    ['the nearest workday of a Saturday', 'eventbridge-rule', 'cron(0 0 1W 5 ? 2027)', ['2027-05-03T00:00:00']],
    ['years', 'eventbridge-rule', 'cron(0 0 1 1 ? 2030/2)', ['2030-01-01T00:00:00', '2032-01-01T00:00:00']],
    ['a rate', 'eventbridge-rule', 'rate(5 minutes)', ['2026-11-21T12:05:30', '2026-11-21T12:10:30']],
    ['once', 'eventbridge-scheduler', 'at(2026-12-24T18:00:00)', ['2026-12-24T18:00:00']],
    ['either of two days', 'kubernetes', '0 0 13 * FRI', ['2026-11-27T00:00:00', '2026-12-04T00:00:00']],
    ['either of two days, one with a star and a step', 'kubernetes', '0 0 */20 * FRI', ['2026-11-27T00:00:00', '2026-12-01T00:00:00']],
    ['both of two days, one with a star and a step', 'crontab', '0 0 */20 * FRI', ['2027-01-01T00:00:00', '2027-05-21T00:00:00']],
    ['both of two days', 'azure', '0 0 0 13 * FRI', ['2027-08-13T00:00:00', '2028-10-13T00:00:00']],
    ['seconds', 'azure', '*/20 * * * * *', ['2026-11-21T12:00:40', '2026-11-21T12:01:00']],
    ['macros', 'kubernetes', '@weekly', ['2026-11-22T00:00:00', '2026-11-29T00:00:00']],
    ['open steps', 'kubernetes', '50/5 * * * *', ['2026-11-21T12:50:00', '2026-11-21T12:55:00']],
    ['open steps of .NET', 'azure', '30 50/5 * * * *', ['2026-11-21T12:50:30', '2026-11-21T12:55:30']],
    ['names of months', 'digitalocean', '0 0 1 jan,Jul *', ['2027-01-01T00:00:00', '2027-07-01T00:00:00']],
  ])('fire as the platform reads them: %s', (_name, target, expression, expected) => {
    expect(times(target, expression, { from: '2026-11-21T12:00:30Z', count: 2 })).toEqual(expected);
  });

  it('are meant in a zone', () => {
    expect(times('gcp', '0 9 * * *', { from: '2026-03-28T00:00:00Z', count: 2, timezone: 'Europe/Berlin' })).toEqual([
      '2026-03-28T08:00:00',
      '2026-03-29T07:00:00',
    ]);
  });

  it.each<[CronTarget, string, number, RegExp]>([
    ['eventbridge-rule', 'cron(0 9 * * * *)', 9, /question mark/],
    ['eventbridge-rule', 'cron(0 9 ? * ? *)', 9, /question mark/],
    ['eventbridge-rule', 'cron(60 9 ? * * *)', 5, /minute "60"/],
    ['eventbridge-rule', 'cron(0 9 ? * *)', 5, /6 fields/],
    ['eventbridge-rule', 'cron(0 9 ? * 8 *)', 13, /weekday "8"/],
    ['eventbridge-rule', 'cron(0 9 ? * FRI-SUN *)', 13, /no range/],
    ['eventbridge-rule', 'rate(1 minutes)', 7, /singular/],
    ['eventbridge-rule', 'rate(5 minute)', 7, /plural/],
    ['eventbridge-rule', 'rate(0 minutes)', 5, /above 0/],
    ['eventbridge-rule', 'at(2026-12-24T18:00:00)', 0, /cron\(\) or rate\(\)/],
    ['eventbridge-scheduler', 'at(2026-02-30T18:00:00)', 3, /a time like/],
    ['eventbridge-rule', '0 9 * * *', 0, /cron\(\) or rate\(\)/],
    ['gcp', '0 9 * * MON#1', 8, /weekday "MON#1"/],
    ['gcp', '0 9 ? * *', 4, /day "\?"/],
    ['gcp', '5/15 * * * *', 0, /needs a range/],
    ['gcp', '@daily', 0, /5 fields/],
    ['gcp', '*/0 * * * *', 0, /step 0/],
    ['gcp', '1,,2 * * * *', 2, /is no minute/],
    ['gcp', '0 9 * FEB-JAN *', 6, /no range/],
    ['azure', '0 9 * * *', 0, /6 fields/],
    ['azure', '0 0 9 * * 7', 10, /weekday "7"/],
    ['cloudflare', '0 9 * * 0', 8, /weekday "0"/],
    ['kubernetes', '0 24 * * *', 2, /hour "24"/],
    ['kubernetes', 'constructor', 0, /5 fields/],
  ])('are checked as %s does: %s', (target, expression, position, reason) => {
    expect(() => parseCron(target, expression)).toThrow(
      expect.objectContaining({
        code: 'SCHEDULE_INVALID',
        message: expect.stringMatching(reason),
        details: expect.objectContaining({ position }),
      }),
    );
  });
});
