import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { schedules, instants } from '../../test/support/schedules.ts';
import { isRunnerError } from '../errors.ts';
import { CRON_TARGETS, cronFirings } from './cron.ts';
import type { CronTarget } from './cron.ts';
import { firings } from './firings.ts';
import { calendar, periodic } from './schedule.ts';
import type { Schedule } from './schedule.ts';
import { translate } from './translate.ts';
import type { Translation } from './translate.ts';

const COUNT = 10;

function taken(times: Iterable<number>): number[] {
  const found: number[] = [];
  for (const at of times) {
    found.push(at);
    if (found.length === COUNT) break;
  }
  return found;
}

/** The next firings of all expressions together, in order; one that two of them have is there twice. */
function targetFirings(target: CronTarget, { expressions, timezone }: Translation, fromMs: number): number[] {
  const all = expressions.flatMap((expression) => taken(cronFirings(target, expression, { fromMs, timezone, anchorMs: 0 })));
  return all.toSorted((a, b) => a - b).slice(0, COUNT);
}

/** Undefined: something is lost. */
function lossless(target: CronTarget, schedule: Schedule): Translation | undefined {
  try {
    return translate(target, schedule, { strict: true });
  } catch (error) {
    if (isRunnerError(error) && error.code === 'SCHEDULE_LOSSY') return undefined;
    throw error;
  }
}

function kinds(target: CronTarget, schedule: Schedule | string): string[] {
  return translate(target, schedule).losses.map(({ kind }) => kind);
}

describe('translate', () => {
  it(
    'gives expressions that fire when the schedule does, on every target that loses nothing, for a thousand random schedules',
    { timeout: 60_000 },
    () => {
      const compared = new Map<CronTarget, number>();
      const list = fc.sample(fc.tuple(schedules, instants), { seed: 20_261_121, numRuns: 1_000 });
      for (const [schedule, fromMs] of list) {
        const expected = taken(firings(schedule, fromMs, { anchorMs: 0 }));
        for (const target of CRON_TARGETS) {
          const translation = lossless(target, schedule);
          if (!translation) continue;
          compared.set(target, (compared.get(target) ?? 0) + 1);
          expect({ target, schedule, fromMs, times: targetFirings(target, translation, fromMs) }).toEqual({
            target,
            schedule,
            fromMs,
            times: expected,
          });
        }
      }
      for (const target of CRON_TARGETS)
        expect([target, compared.get(target) ?? 0, 'of at least 150']).toEqual([
          target,
          expect.toSatisfy((count: number) => count >= 150),
          'of at least 150',
        ]);
    },
  );

  it.each<[string, Partial<Record<CronTarget, readonly string[]>>]>([
    ['*:0/15', { 'eventbridge-rule': ['cron(0/15 * ? * * *)'], gcp: ['*/15 * * * *'], azure: ['0 */15 * * * *'] }],
    ['Mon *-*-8..14 9:00', { 'eventbridge-rule': ['cron(00 09 ? * 2#2 *)'], cloudflare: ['0 9 * * MON#2'], azure: ['0 0 9 8-14 * MON'] }],
    ['Mon *-*~1..7 9:00', { 'eventbridge-rule': ['cron(00 09 ? * 2L *)'], cloudflare: ['0 9 * * MONL'] }],
    ['Sat *-*~7/1 9:00', { 'eventbridge-rule': ['cron(00 09 ? * 7L *)'] }],
    ['*-*~1 12:00', { 'eventbridge-rule': ['cron(00 12 L * ? *)'], cloudflare: ['0 12 L * *'] }],
    ['*-4,6~1 12:00', { kubernetes: ['0 12 30 4,6 *'] }],
    ['Fri..Sun 9:00', { 'eventbridge-rule': ['cron(00 09 ? * FRI,SAT,SUN *)'], crontab: ['0 9 * * FRI,SAT,SUN'] }],
    ['Tue..Sun 9:00', { kubernetes: ['0 9 * * TUE-SAT,SUN'] }],
    ['Mon 02:30 Asia/Kolkata', { 'eventbridge-rule': ['cron(00 21 ? * SUN *)'], gcp: ['30 2 * * MON'], cloudflare: ['0 21 * * SUN'] }],
    ['0,12:00,45 Asia/Kolkata', { digitalocean: ['30 18 * * *', '15 19 * * *', '30 6 * * *', '15 7 * * *'] }],
    ['hourly Etc/GMT+5', { digitalocean: ['0 * * * *'] }],
    ['2026..2028-1/3-1 6:00', { 'eventbridge-rule': ['cron(00 06 1 1/3 ? 2026-2028)'] }],
    ['*:*:0/20', { azure: ['*/20 * * * * *'] }],
  ])('%s', (expression, expected) => {
    for (const target of CRON_TARGETS) {
      const wanted = expected[target];
      if (!wanted) continue;
      const { expressions, losses } = translate(target, expression);
      expect({ target, expressions: expressions.toSorted(), losses }).toEqual({ target, expressions: wanted.toSorted(), losses: [] });
    }
  });

  it('names the zone on targets that have zones', () => {
    expect(translate('gcp', 'Mon 9:00 europe/berlin').timezone).toBe('Europe/Berlin');
    expect(translate('kubernetes', 'Mon 9:00').timezone).toBe('UTC');
    expect(translate('cloudflare', 'Mon 9:00')).not.toHaveProperty('timezone');
  });

  it.each<[string, CronTarget, Schedule | string, readonly string[]]>([
    ['seconds', 'gcp', '9:00:30', ['seconds']],
    ['fractions on a target that has seconds', 'azure', '9:00:30.5', ['seconds']],
    ['several times a minute', 'kubernetes', '*:*:0/10', ['sub-minute']],
    ['a period that does not divide the day', 'gcp', periodic(420), ['period']],
    ['a period that is no whole minute', 'eventbridge-rule', periodic(90), ['period']],
    ['periods from the end of a run', 'cloudflare', periodic(300, { relativeTo: 'finish' }), ['relative-to-finish']],
    ['periods from boot', 'cloudflare', periodic(300, { startOn: 'boot' }), ['start']],
    ['making up for missed runs', 'crontab', calendar('9:00', { persistent: true }), ['persistent']],
    ['accuracy', 'gcp', calendar('9:00', { accuracyMs: 1 }), ['accuracy']],
    ['a randomised delay', 'gcp', calendar('9:00', { randomizedDelayMs: 1_000 }), ['randomized-delay']],
    ['a day of the month and a weekday', 'gcp', 'Mon *-*-1..7 9:00', ['day-and-weekday']],
    ['last days', 'gcp', '*-*~1 9:00', ['last-day']],
    ['years', 'gcp', '2027-*-* 9:00', ['year']],
    ['daylight saving on a target in UTC', 'cloudflare', '9:00 Europe/Berlin', ['time-zone']],
    ['another day in UTC', 'cloudflare', '*-*-1 02:00 Asia/Kolkata', ['time-zone']],
    ['nothing of the kind', 'gcp', calendar('9:00 Europe/Berlin', { persistent: true }), []],
  ])('names the loss of %s, which strict mode refuses', (_name, target, schedule, expected) => {
    expect(kinds(target, schedule)).toEqual(expected);
    const strictly = (): Translation => translate(target, schedule, { strict: true });
    if (expected.length === 0) expect(strictly().losses).toEqual([]);
    else
      expect(strictly).toThrow(
        expect.objectContaining({ code: 'SCHEDULE_LOSSY', details: expect.objectContaining({ losses: expect.arrayContaining([]) }) }),
      );
  });

  it('never fires less than asked because of days of the month and weekdays', () => {
    const from = Date.UTC(2026, 0, 1);
    const target = translate('gcp', 'Mon *-*-1..7 9:00');
    const fired = new Set(
      [...target.expressions].flatMap((expression) => [...until(cronFirings('gcp', expression, { fromMs: from }), Date.UTC(2027, 0, 1))]),
    );
    for (const at of until(firings(calendar('Mon *-*-1..7 9:00'), from), Date.UTC(2027, 0, 1))) expect(fired.has(at)).toBe(true);
  });

  it('keeps standard time where a zone is lost', () => {
    expect(translate('cloudflare', '9:00 Europe/Berlin').expressions).toEqual(['0 8 * * *']);
    expect(translate('eventbridge-rule', 'Mon 22:30 America/New_York').expressions).toEqual(['cron(30 03 ? * TUE *)']);
    expect(translate('cloudflare', '9:00 Australia/Lord_Howe').losses[0]?.message).toContain('UTC+10:30');
  });

  it.each([
    ['gcp', 30],
    ['eventbridge-scheduler', 59],
    ['azure', 45],
  ] as const)('refuses periods below a minute on %s', (target, seconds) => {
    expect(() => translate(target, periodic(seconds))).toThrow(expect.objectContaining({ code: 'SCHEDULE_LOSSY' }));
  });

  it('runs periods below a minute where they divide it and the target has seconds', () => {
    expect(translate('azure', periodic(10))).toEqual({ expressions: ['*/10 * * * * *'], losses: [] });
    expect(translate('azure', periodic(1)).expressions).toEqual(['* * * * * *']);
  });

  it('writes periods that divide a day exactly, and others as near as it can', () => {
    expect(translate('gcp', periodic(5_400)).expressions).toEqual(['0 */3 * * *', '30 1,4,7,10,13,16,19,22 * * *']);
    expect(translate('gcp', periodic(7 * 86_400)).expressions).toEqual(['0 0 * * THU']);
    expect(translate('gcp', periodic(420)).expressions).toEqual(['*/7 * * * *']);
    expect(translate('gcp', periodic(5 * 3_600)).expressions).toEqual(['0 */5 * * *']);
    expect(translate('gcp', periodic(2 * 86_400)).expressions).toEqual(['0 0 */2 * *']);
    expect(translate('gcp', periodic(90 * 86_400)).expressions).toEqual(['0 0 1 */3 *']);
  });
});

function* until(times: Iterable<number>, endMs: number): Generator<number> {
  for (const at of times) {
    if (at > endMs) return;
    yield at;
  }
}
