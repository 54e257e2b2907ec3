/** Every example of deployments runs as it is, without an account. */

import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { probeMoto } from '../support/moto.ts';
import { requirePeer } from '../require.ts';

const testMoto = requirePeer('moto', probeMoto);
const folder = join(import.meta.dirname, '../../examples/cloud');
/** Not examples, but what they share. */
const SHARED = ['aws.ts', 'tasks.ts'];

async function linesOf(example: string, env: NodeJS.ProcessEnv = process.env): Promise<string[]> {
  const { stdout } = await promisify(execFile)(process.execPath, [join(folder, `${example}.ts`)], { env, timeout: 170_000 });
  return stdout.trimEnd().split('\n');
}

const EXAMPLES: Readonly<Record<string, readonly (string | RegExp)[]>> = {
  calendar: [
    /^report-weekdays: Mon-Fri 14:00 is cron\(00 14 \? \* MON-FRI \*\) in UTC, next at \d{4}-\d\d-\d\dT14:00:00\.000Z$/,
    /^report-some-days: .* is cron\(30 09 \? \* MON,WED,FRI \*\) in UTC/,
    /^report-sundays: .* is cron\(00 17 \? \* SUN \*\) in UTC/,
    /^report-midnight: .* is cron\(00 00 \? \* \* \*\) in UTC/,
    /^report-office: .* is cron\(00 09 \? \* MON-FRI \*\) in Europe\/Berlin/,
  ],
  periodic: [
    'health-300: every 300 s is rate(5 minutes)',
    'health-3600: every 3600 s is rate(1 hour)',
    'health-7200: every 7200 s is rate(2 hours)',
    'health-86400: every 86400 s is rate(1 day)',
    /^every 30 s: SCHEDULE_/,
    'health-30 is there: false',
  ],
  'several-schedules': [
    /^has evening, hourly, morning; .*create function/,
    /^has morning; delete schedule \S*(?:evening|hourly), delete schedule \S*(?:evening|hourly)$/,
    'has morning; nothing changed',
  ],
  invoke: [
    "the answer: { status: 'success', version: '1.0', day: '2026-07-01' }",
    'taken, not waited for: true',
    'could be called: true',
    /nobody/,
  ],
  logs: [/^report \S+Z generating the daily report$/, 'health all is well'],
  'update-code': [
    "at first { status: 'success', version: '1.0' }",
    /^update code.*; memory is still 256 MB$/,
    '10 calls meanwhile, none failed',
    "updated { status: 'success', version: '2.0' }",
    "rolled back { status: 'success', version: '1.0' }",
    'version 2',
    'version 1, current',
  ],
  'update-configuration': [
    /^would update configuration/,
    '512 MB, 30000 ms, {"STAGE":"production"}',
    'the same again: 0 changes',
    /^LIMIT_EXCEEDED .*memory.*timeout/s,
  ],
  list: [
    'one (active, version 1), three (active, version 1), two (active, version 1)',
    'removed one: true',
    'removed two: true',
    'removed two: false',
    'three (active, version 1)',
  ],
  service: [
    'generating the daily report',
    "here, at 2026-07-01T14:00:00.000Z { status: 'success', version: '1.0' }",
    'generating the daily report',
    "here, at 2026-07-02T14:00:00.000Z { status: 'success', version: '1.0' }",
    /^data-processor\.timer: OnCalendar=Mon\.\.Fri .*14:00:00 UTC$/,
    "on Lambda { status: 'success', version: '1.0' }",
  ],
  usage: [
    'deployed: arn:aws:lambda:us-east-1:000000000000:function:my-daily-report',
    /^package: 0\.\d\d MB, \d changes$/,
    "called by hand: { status: 'success', version: '1.0', day: '2026-07-01' }",
    'log: generating the daily report',
    "updated: { status: 'success', version: '2.0' }",
    'still there: false',
  ],
};

test('each example is here', () => {
  const files = readdirSync(folder).filter((name) => !SHARED.includes(name));
  expect(
    Object.keys(EXAMPLES)
      .map((name) => `${name}.ts`)
      .toSorted(),
  ).toEqual(files.toSorted());
});

describe('the example', () => {
  for (const [name, expected] of Object.entries(EXAMPLES))
    testMoto(`${name} does what it says`, async () => {
      const lines = (await linesOf(name)).filter((line) => !line.startsWith('  '));
      expect(lines).toEqual(expected.map((line) => (typeof line === 'string' ? line : (expect.stringMatching(line) as string))));
    });

  test('without moto says what it left out', async () => {
    const lines = await linesOf('usage', { ...process.env, PATH: '' });
    expect(lines).toEqual(["skipped: moto_server is not installed (pip install 'moto[server]')"]);
  });
});
