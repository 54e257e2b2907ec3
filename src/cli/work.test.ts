import { expect, it } from 'vitest';
import { systemClock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { RunnerErrorOptions } from '../errors.ts';
import { interruptible } from './work.ts';

const io = { stdout: { write: () => {} }, stderr: { write: () => {} }, env: {}, cwd: '/' };

function ended(options: RunnerErrorOptions, ...functions: readonly string[]): Promise<void> {
  return interruptible(io, systemClock, async ({ tell }) => {
    tell({ step: 'creating role r', function: 'one', writes: true });
    for (const name of functions) tell({ step: `creating function ${name}`, function: name, writes: true });
    throw new RunnerError('DEPLOY_FAILED', 'no', options);
  });
}

it('what the platform refused has failed; without its answer, or beside others that were begun, it may be done', async () => {
  await expect(ended({ retry: 'never', details: { status: 400 } }, 'one')).rejects.toMatchObject({
    message: expect.stringContaining('\ndone: creating role r; failed: creating function one; all that') as string,
    details: { done: ['creating role r'], failed: ['creating function one'], doubtful: [] },
  });
  for (const options of [
    { retry: 'idempotent', details: { status: 503 } },
    { retry: 'never', details: {} },
  ] as const)
    await expect(ended(options, 'one')).rejects.toMatchObject({
      message: expect.stringContaining('\ndone: creating role r; begun, perhaps done: creating function one; all that') as string,
    });
  await expect(ended({ retry: 'never', details: { status: 400 } }, 'two')).rejects.toMatchObject({
    details: { doubtful: ['creating role r', 'creating function two'] },
  });
});
