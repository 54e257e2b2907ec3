import { expect, it } from 'vitest';
import { LIMITS } from '../executor/limits.ts';
import { functionSettings } from './function-job.ts';

it.each([
  ['memoryMb', 32_768],
  ['timeoutMs', 900_000],
  ['ephemeralMb', 10_240],
] as const)('%s of a job is at least that of functions of engines, which a job with less is told at once', (name, max) => {
  const { min } = LIMITS.aws[name];
  for (const value of [min, max]) expect(functionSettings({ [name]: value })[name]).toBe(value);
  for (const value of [min - 1, max + 1])
    expect(() => functionSettings({ [name]: value })).toThrow(`${name} is not valid; it must be a whole number from ${min} to ${max}`);
});
