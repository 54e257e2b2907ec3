/** Our calendars against systemd's own. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect } from 'vitest';
import { normalCalendar } from '../../src/schedule/calendar-format.ts';
import { firings } from '../../src/schedule/firings.ts';
import { calendar, periodic } from '../../src/schedule/schedule.ts';
import { toSystemdUnits } from '../../src/schedule/units.ts';
import { requirePeer, runs } from '../require.ts';
import { calendars, systemdCalendars } from '../support/schedules.ts';

const testSystemd = requirePeer('systemd-analyze', () => runs('systemd-analyze', '--version'));

const COUNT = 10;
const SEED = 20_261_121;

/** Whole seconds: systemd prints no fractions. */
function ours(expression: string, fromMs: number): number[] {
  const found: number[] = [];
  for (const at of firings(calendar(expression), fromMs)) {
    found.push(Math.floor(at / 1_000) * 1_000);
    if (found.length === COUNT) break;
  }
  return found;
}

/** The number of expressions that systemd cannot evaluate. */
function expectAgreement(list: readonly string[], fromMs: number): number {
  const theirs = systemdCalendars(list, { fromMs, count: COUNT });
  for (const [index, expression] of list.entries()) {
    const known = theirs[index];
    if (known === 'stuck') continue;
    const label = `${expression} from ${new Date(fromMs).toISOString()}`;
    expect({ label, normal: normalCalendar(expression), firings: ours(expression, fromMs) }).toEqual({
      label,
      ...(known === 'refused' ? {} : known),
    });
  }
  return theirs.filter((known) => known === 'stuck').length;
}

testSystemd('a thousand random calendars fire when systemd fires', () => {
  const list = [...new Set(fc.sample(calendars, { seed: SEED, numRuns: 1_150 }))].slice(0, 1_020);
  const bases = [0, 40, 97, 200, 301, 433].map((days) => Date.UTC(2026, 0, 1, 0, 17, 13) + days * 86_400_000);
  const size = Math.ceil(list.length / bases.length);
  let stuck = 0;
  for (const [index, fromMs] of bases.entries()) stuck += expectAgreement(list.slice(index * size, (index + 1) * size), fromMs);
  expect(list.length - stuck).toBeGreaterThanOrEqual(1_000);
});

const CHANGES = [
  ['Europe/Berlin', '2026-03-29T01:00:00Z', '2026-10-25T01:00:00Z', [1, 2, 3]],
  ['America/New_York', '2026-03-08T07:00:00Z', '2026-11-01T06:00:00Z', [0, 1, 2, 3]],
  ['Australia/Lord_Howe', '2026-10-03T15:30:00Z', '2026-04-04T15:00:00Z', [1, 2, 3]],
] as const;

for (const [zone, forward, back, hours] of CHANGES) {
  testSystemd(`the days on which the clocks of ${zone} are set in 2026 are those of systemd`, () => {
    const list = [
      ...hours.flatMap((hour) => [0, 15, 30, 45].map((minute) => `${hour}:${String(minute).padStart(2, '0')} ${zone}`)),
      ...['*:0/10', '*:0/30', 'hourly', 'daily', '*:*:0/20', '1..3:10,40', 'Sun *:0/15', '*-*-* 0/2:05', '*:59:59'].map(
        (text) => `${text} ${zone}`,
      ),
    ];
    for (const change of [forward, back]) {
      const at = Date.parse(change);
      const minutes = [-26 * 60, -61, -60, -31, -30, -15, 0, 1, 15, 30, 59, 60];
      const bases = [...minutes.map((minute) => at + minute * 60_000), at - 1_000];
      expect(bases.map((fromMs) => expectAgreement(list, fromMs))).toEqual(bases.map(() => 0));
    }
  });
}

/** Text around the grammar: valid, nearly valid, and nothing of the kind. */
const texts = fc
  .array(
    fc.constantFrom(
      'Mon',
      'fri',
      'Sunday',
      '..',
      '-',
      ',',
      ' ',
      '*',
      '~',
      '/',
      ':',
      '.',
      '0',
      '1',
      '5',
      '12',
      '23',
      '28',
      '31',
      '60',
      '2026',
      '99',
      'UTC',
      'daily',
      '@',
      'EST',
    ),
    { minLength: 1, maxLength: 9 },
  )
  .map((parts) => parts.join(''))
  .filter((text) => text === text.trim());

function normalOrRefused(expression: string): string {
  try {
    return normalCalendar(expression);
  } catch {
    return 'refused';
  }
}

testSystemd('what systemd refuses is refused, and nothing else', () => {
  const random = fc.sample(texts, { seed: SEED, numRuns: 4_000 });
  const mutated = fc
    .sample(fc.tuple(calendars, fc.nat(), fc.constantFrom('', ' ', '*', '/', '..', '-', '~', '7', ':', ',')), {
      seed: SEED,
      numRuns: 6_000,
    })
    .map(([text, where, insert]) => {
      const at = where % text.length;
      return text.slice(0, at) + insert + text.slice(at + (where % 2));
    });
  const list = [...new Set([...random, ...mutated])].filter((text) => text === text.trim());
  const theirs: string[] = [];
  for (let from = 0; from < list.length; from += 1_000) {
    const some = list.slice(from, from + 1_000);
    for (const known of systemdCalendars(some, { fromMs: Date.UTC(2026, 0, 1), count: 1 }))
      theirs.push(typeof known === 'string' ? known : known.normal);
  }
  const differences = list
    .map((expression, index) => ({ expression, ours: normalOrRefused(expression), theirs: theirs[index] }))
    .filter((entry) => entry.theirs !== 'stuck' && entry.ours !== entry.theirs);
  expect(differences).toEqual([]);
  expect(theirs.filter((text) => text !== 'refused').length).toBeGreaterThan(500);
});

testSystemd('systemd takes the units that are written', () => {
  const folder = mkdtempSync(join(tmpdir(), 'units-'));
  try {
    const list = [
      calendar('Mon-Fri 14:00 Europe/Berlin', { randomizedDelayMs: 90_000 }),
      calendar('*-*~1 0:0:30.25'),
      periodic(300, { startOn: 'boot', relativeTo: 'finish' }),
      periodic(0.5, { startOn: 'login' }),
    ];
    for (const [index, schedule] of list.entries()) {
      const { timer, service } = toSystemdUnits(schedule, {
        name: `job-${index}`,
        description: 'A job of 100% "quotes"',
        command: [process.execPath, '/srv/a b.js', '$HOME', '50%', 'say "hi"', 'back\\slash'],
        environment: { A: 'b c', D: '$e%f' },
        workingDirectory: '/',
      });
      for (const { file, text } of [timer, service]) writeFileSync(join(folder, file), text);
      const { stdout, stderr, status } = spawnSync(
        'systemd-analyze',
        ['verify', '--man=no', join(folder, timer.file), join(folder, service.file)],
        {
          encoding: 'utf8',
        },
      );
      expect({ status, complaints: `${stdout}${stderr}`.split('\n').filter((line) => line.includes(folder)) }).toEqual({
        status: 0,
        complaints: [],
      });
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
