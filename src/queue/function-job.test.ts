import { expect, it } from 'vitest';
import { LIMITS } from '../executor/limits.ts';
import { functionSettings } from './function-job.ts';

it('a job has at least the memory that functions of engines have, and says so at once', () => {
  const { min } = LIMITS.aws.memoryMb;
  expect(functionSettings({ memoryMb: min }).memoryMb).toBe(min);
  expect(() => functionSettings({ memoryMb: min - 1 })).toThrow(`memoryMb is not valid; it must be a whole number from ${min} to 32768`);
});
