/** The comparison of platforms finds what differs, and says why something was left out. */

import { describe, expect, it, test } from 'vitest';
import { isErrorCode } from '../../src/errors.ts';
import { forAttempt } from '../../src/executor/executor.ts';
import type { Execution, FaasExecutor, InvokeOptions } from '../../src/executor/executor.ts';
import { LocalExecutor } from '../../src/executor/local.ts';
import type { JobCall } from '../../src/job/call.ts';
import { Metadata } from '../../src/job/call.ts';
import { runMatrix } from '../../src/conformance/matrix.ts';
import type { MatrixOptions, MatrixReport, Platform } from '../../src/conformance/matrix.ts';
import { VECTOR_JOBS, router } from '../../src/conformance/vectors-jobs.ts';
import { SECRET } from '../../src/conformance/vectors-life.ts';
import type { Vector } from '../../src/conformance/vector.ts';
import { vectors } from '../../src/conformance/vectors.ts';

const artifact = { sha256: 'a'.repeat(64), bytes: 1 };
const limits = { requestBytesMax: 4_669_440, responseBytesMax: 4_669_440, timeoutMsMax: 900_000 };
const lacks = { process: 'the job runs in this process', main: 'the process is that of the test', memory: 'nothing limits it' };

type Change = (execution: Execution, call: JobCall) => Execution;

/** The in-process executor of the runner, from source, as a platform. */
function local(change: Change = (execution) => execution, more: Partial<FaasExecutor> = {}): FaasExecutor {
  const inner = new LocalExecutor(router);
  return {
    name: 'local',
    limits,
    invoke: async (call: JobCall, options: InvokeOptions) => {
      return change(await inner.invoke(forAttempt(call, options, Date.now()), options), call);
    },
    close: () => inner.close(),
    ...more,
  };
}

const platform = (executor: () => FaasExecutor, more: Partial<Platform> = {}): Platform => ({
  name: 'local',
  lacks,
  unavailable: () => Promise.resolve(undefined),
  open: () => Promise.resolve(executor()),
  ...more,
});

const run = (platforms: readonly Platform[], more: Partial<MatrixOptions> = {}): Promise<MatrixReport> =>
  runMatrix({ artifact, platforms, ...more });

const named = (...names: readonly string[]): readonly Vector[] => vectors.filter(({ name }) => names.includes(name));
const small = named('every byte', 'one value', 'none');
const differences = ({ results }: MatrixReport): string[] =>
  results.filter(({ status }) => status === 'differs').map(({ group, vector }) => `${group}, ${vector}`);

describe('the vectors', () => {
  it('are at least sixty, each with a name of its own', () => {
    const names = vectors.map(({ group, name }) => `${group}, ${name}`);
    expect(new Set(names).size).toBe(names.length);
    expect(names.length).toBeGreaterThanOrEqual(60);
  });

  it('expect one answer for each call, codes of the table, and give reasons for other answers', () => {
    for (const { name, calls, expected, except = [] } of vectors) {
      for (const answers of [expected(), ...except.map((each) => each.expected)]) {
        expect(answers.length, name).toBe(calls.length);
        for (const answer of answers) if (typeof answer === 'object' && 'code' in answer) expect(isErrorCode(answer.code), name).toBe(true);
      }
      for (const { reason } of except) expect(reason.length, name).toBeGreaterThan(10);
    }
  });
});

test('the executor in the runner answers as the bundle must, except where nothing travels', async () => {
  const report = await run([platform(() => local())]);
  expect(differences(report)).toEqual([
    // No border limits what is passed on in the same process, nor reads a job id.
    'sizes, a request above the limit that is sent all the same',
    'errors, a negative job id',
    'errors, a job id of more than 256 bits',
  ]);
  expect(report.results).toHaveLength(vectors.length);
});

describe('what differs is found', () => {
  const found = async (change: Change, names: readonly string[]): Promise<string[]> =>
    differences(await run([platform(() => local(change))], { vectors: named(...names) }));

  it('one byte of a mebibyte', async () => {
    const flipped: Change = ({ results: [first] }) => {
      const body = Buffer.from(first?.body ?? []);
      if (body.length >= 1_048_576) body[1_000_000] = (body[1_000_000] ?? 0) ^ 1;
      return { results: first ? [{ ...first, body }] : [] };
    };
    expect(await found(flipped, ['65536 bytes both ways', '1048576 bytes both ways'])).toEqual(['sizes, 1048576 bytes both ways']);
  });

  it('an empty result instead of none', async () => {
    const filled: Change = ({ results }) => ({
      results: results.length > 0 ? results : [{ body: new Uint8Array(), metadata: new Metadata() }],
    });
    expect(await found(filled, ['none', 'one value'])).toEqual(['results, none']);
  });

  it('lost metadata', async () => {
    const bare: Change = ({ results }) => ({ results: results.map(({ body }) => ({ body, metadata: new Metadata() })) });
    expect(await found(bare, ['of the result comes back', 'every byte', 'eight at once keep their identity'])).toEqual([
      'concurrency, eight at once keep their identity',
      'metadata, of the result comes back',
    ]);
  });

  it('text that was normalised', async () => {
    const normalised: Change = ({ results }) => ({
      results: results.map(({ body, metadata }) => ({ body: Buffer.from(Buffer.from(body).toString('utf8').normalize('NFC')), metadata })),
    });
    expect(await found(normalised, ['composed and decomposed forms stay what they are', 'asked for as a whole'])).toEqual([
      'unicode, composed and decomposed forms stay what they are',
    ]);
  });

  it('another code, with both of them', async () => {
    const wrong = local(undefined, { invoke: () => Promise.reject(new TypeError('broken')) });
    const { results, ok } = await run([platform(() => wrong)], { vectors: named('the job throws') });
    expect(results).toMatchObject([
      { status: 'differs', expected: 'JOB_FAILED: the oven is cold', actual: 'INTERNAL (TypeError: broken): broken' },
    ]);
    expect(ok).toBe(false);
  });

  it('the right code with another message', async () => {
    const inner = local();
    const mute = local(undefined, {
      invoke: (call, options) => inner.invoke(call.jobId === VECTOR_JOBS.reject ? { ...call, body: Buffer.from('?') } : call, options),
    });
    const report = await run([platform(() => mute)], { vectors: named('text beyond ASCII in an error', 'the job throws') });
    expect(differences(report)).toEqual(['errors, text beyond ASCII in an error']);
  });

  it('a stream that ends too early', async () => {
    const early = local(undefined, {
      invokeStream: async function* () {
        yield Buffer.from('chunk 0; ');
      },
    });
    const report = await run([platform(() => early)], { vectors: named('chunks in order and whole', 'asked for as a whole') });
    expect(differences(report)).toEqual(['streams, chunks in order and whole']);
  });
});

describe('what is left out has a reason', () => {
  it('a vector that needs what the platform lacks', async () => {
    const { results, backends, ok } = await run([platform(() => local())], {
      vectors: named('a secret of the runner is not visible', 'none'),
    });
    expect(results.find(({ status }) => status === 'skipped')).toMatchObject({
      vector: 'a secret of the runner is not visible',
      reason: 'the job runs in this process',
    });
    expect(backends).toMatchObject([{ status: 'equal', equal: 1, skipped: 1, differs: 0 }]);
    expect(ok).toBe(true);
  });

  it('a platform that is not here: fine beside another, but not alone and not when it is required', async () => {
    const absent = platform(() => local(), { name: 'moon', unavailable: () => Promise.resolve('the moon is far away') });
    const beside = await run([platform(() => local()), absent], { vectors: small });
    expect(beside.ok).toBe(true);
    expect(beside.backends[1]).toMatchObject({
      name: 'moon',
      status: 'skipped',
      reason: 'the moon is far away',
      required: false,
      skipped: 3,
    });
    expect((await run([absent], { vectors: small })).ok).toBe(false);
    const required = await run([platform(() => local()), absent], { vectors: small, required: ['moon'] });
    expect(required).toMatchObject({ ok: false, backends: [{ required: false }, { required: true, status: 'skipped' }] });
  });

  it('a platform that is here and cannot be opened has failed, and the others go on', async () => {
    const broken = platform(() => local(), { name: 'broken', open: () => Promise.reject(new Error('no door')) });
    const report = await run([broken, platform(() => local())], { vectors: small });
    expect(report).toMatchObject({
      ok: false,
      backends: [
        { status: 'failed', reason: 'INTERNAL: no door' },
        { status: 'equal', equal: 3 },
      ],
    });
  });
});

describe('a run', () => {
  it('gives the runner a secret for as long as it takes', async () => {
    const seen: (string | undefined)[] = [];
    const spy: Change = (execution) => (seen.push(process.env[SECRET.name]), execution);
    await run([platform(() => local(spy))], { vectors: small });
    expect(seen).toEqual([SECRET.value, SECRET.value, SECRET.value]);
    expect(process.env[SECRET.name]).toBeUndefined();
  });

  it('that is given up closes what it opened', async () => {
    const stop = new AbortController();
    let isClosed = false;
    const executor = local(undefined, {
      close: async () => {
        isClosed = true;
      },
    });
    const given = run([platform(() => executor)], { vectors: small, signal: stop.signal, onResult: () => stop.abort() });
    await expect(given).rejects.toMatchObject({ code: 'ABORTED' });
    expect(isClosed).toBe(true);
  });

  it('tells each result as it comes', async () => {
    const told: string[] = [];
    await run([platform(() => local())], {
      vectors: small,
      onResult: ({ vector }, done, total) => told.push(`${done}/${total} ${vector}`),
    });
    expect(told).toEqual(['1/3 every byte', '2/3 none', '3/3 one value']);
  });
});
