import { expect, it } from 'vitest';
import { logLevelOf } from './log-level.ts';
import type { Io } from './output.ts';

const levelOf = (env: Io['env']): string => logLevelOf({ env } as Io); // nothing else is read

it('is that of LOG_LEVEL, else the one that RUST_LOG has for everything, else warn', () => {
  expect(levelOf({})).toBe('warn');
  expect(levelOf({ LOG_LEVEL: 'debug', RUST_LOG: 'error' })).toBe('debug');
  const rust = {
    info: 'info',
    'hyper=trace,error': 'error',
    TRACE: 'debug',
    off: 'silent',
    'my_crate=debug': 'warn',
    loud: 'warn',
    '': 'warn',
  };
  for (const [given, level] of Object.entries(rust)) expect([given, levelOf({ RUST_LOG: given })]).toEqual([given, level]);
  expect(() => levelOf({ LOG_LEVEL: 'loud' })).toThrow(/LOG_LEVEL is loud; it must be one of debug/);
});
