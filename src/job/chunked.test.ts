import { describe, expect, it } from 'vitest';
import { RunnerError } from '../errors.ts';
import { Metadata } from './call.ts';
import { chunked } from './chunked.ts';
import { defineJob } from './job.ts';
import type { Job } from './job.ts';

const call = { id: 'call-1', jobId: 0n, body: Buffer.from('3'), metadata: new Metadata() };
const bodyOf = async (job: Job, signal?: AbortSignal): Promise<string | undefined> => {
  const result = await job.run(call, undefined, { signal });
  return result && Buffer.from(result.body).toString('utf8');
};

describe('a job that yields chunks', () => {
  it('gives them as one result, in order, text and bytes', async () => {
    const job = defineJob(
      { raw: true },
      chunked(async function* (body) {
        for (let index = 0; index < Number(Buffer.from(body)); index += 1) {
          yield `${index}ü`;
          yield Buffer.from([0x7c]);
        }
      }),
    );
    expect(await bodyOf(job)).toBe('0ü|1ü|2ü|');
  });

  it('gives an empty result when it yields nothing', async () => {
    expect(
      await bodyOf(
        defineJob(
          { raw: true },
          chunked(async function* () {}),
        ),
      ),
    ).toBe('');
  });

  it('has failed when it breaks off, whatever it yielded before', async () => {
    const job = defineJob(
      { name: 'half', raw: true },
      chunked(async function* () {
        yield 'half';
        throw new Error('no more');
      }),
    );
    await expect(bodyOf(job)).rejects.toMatchObject({ code: 'JOB_FAILED', message: expect.stringContaining('no more') as string });
  });

  it('is ended with its call, and may clean up', async () => {
    const over = new AbortController();
    let yielded = 0;
    let isClean = false;
    const job = defineJob(
      { raw: true },
      chunked(async function* () {
        try {
          for (;;) {
            yielded += 1;
            if (yielded === 5) over.abort(new RunnerError('EXECUTOR_TIMEOUT', 'too long'));
            yield 'more';
          }
        } finally {
          isClean = true;
        }
      }),
    );
    await expect(bodyOf(job, over.signal)).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
    expect({ yielded, isClean }).toEqual({ yielded: 5, isClean: true });
  });
});
