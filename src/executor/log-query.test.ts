import { expect, test } from 'vitest';
import type { LogQuery } from './deployer.ts';
import { logFilter, logLevelOf } from './log-query.ts';

const entry = { at: 100, message: 'request r1: hello', level: 'warn', requestId: 'r1' };

test.each<[LogQuery, boolean]>([
  [{}, true],
  [{ sinceMs: 100, untilMs: 100 }, true],
  [{ sinceMs: 101 }, false],
  [{ untilMs: 99 }, false],
  [{ level: 'warn' }, true],
  [{ level: 'error' }, false],
  [{ search: 'hello' }, true],
  [{ search: 'Hello' }, false],
  [{ requestId: 'r1' }, true],
  [{ requestId: 'r2' }, false],
])('%j', (query, isWanted) => {
  expect(logFilter(query)(entry)).toBe(isWanted);
});

test('an entry without a level counts as info', () => {
  const plain = { at: 1, message: 'hello' };
  expect((['debug', 'info', 'warn'] as const).map((level) => logFilter({ level })(plain))).toEqual([true, true, false]);
});

test('the level of a line is told by name or by number', () => {
  expect(['{"level":"WARN"}', '{"level": 50,"a":1}', 'plain', '{"level":1}'].map(logLevelOf)).toEqual([
    'warn',
    'error',
    undefined,
    undefined,
  ]);
});
