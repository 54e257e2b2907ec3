import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { answerEvent } from '../../handler/adapters/lambda.ts';
import { createHandler } from '../../handler/index.ts';
import { CONFORMANCE_JOBS, conformanceRouter, runExecutorConformance } from '../../src/conformance/conformance.ts';
import { BLUEPRINT, Metadata } from '../../src/job/call.ts';
import type { JobCall } from '../../src/job/call.ts';
import { FunctionRuntime } from '../../src/runtime/function-runtime.ts';
import type { RuntimeLimits } from '../../src/runtime/function-runtime.ts';
import { RuntimeExecutor } from '../../src/runtime/runtime-executor.ts';
import { FakeBackend, versionOf } from '../support/fake-backend.ts';
import type { FakeHandler } from '../support/fake-backend.ts';

const handler = createHandler(conformanceRouter());

/** The handler bundle on an instance. */
const bundle: FakeHandler = async ({ body, headers }) => {
  const { body: answer } = await answerEvent(handler, body, { deadline: Number(headers['lambda-runtime-deadline-ms']) });
  return answer;
};

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 're-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

let count = 0;
async function executorOf(handle: FakeHandler = bundle, limits: RuntimeLimits = {}): Promise<RuntimeExecutor> {
  count += 1;
  const runtime = new FunctionRuntime({ backend: new FakeBackend({ handler: handle }), folder: join(folder, String(count)), limits });
  await runtime.start();
  const fn = versionOf({ timeoutMs: 60_000 });
  return new RuntimeExecutor({ runtime, fn: (jobId) => (jobId === 4_000_000n ? undefined : fn), ownsRuntime: true });
}

runExecutorConformance({ describe, it }, { name: 'runtime', create: () => executorOf() });

const callOf = (body: Uint8Array): JobCall => ({ id: 'c1', jobId: CONFORMANCE_JOBS.echo, body, metadata: new Metadata() });
const soon = () => ({ deadline: Date.now() + 60_000, attempt: 1 });

async function read(chunks: AsyncIterable<Uint8Array>): Promise<Buffer[]> {
  const seen: Buffer[] = [];
  for await (const chunk of chunks) seen.push(Buffer.from(chunk));
  return seen;
}

describe('a streamed result', () => {
  it('is decoded while it arrives, whatever the pieces', async () => {
    const bytes = Buffer.from(Array.from({ length: 1_000 }, (_, index) => (index * 7) & 255));
    for (const size of [1, 2, 3, 5, 64, 2_000]) {
      const executor = await executorOf(async (event) => {
        const answer = Buffer.from((await bundle(event)) ?? '');
        const pieces = async function* (): AsyncGenerator<Buffer> {
          for (let at = 0; at < answer.length; at += size) yield answer.subarray(at, at + size);
        };
        await event.program.stream(event.id, pieces());
        return undefined;
      });
      expect(Buffer.concat(await read(executor.invokeStream(callOf(bytes), soon()))).equals(bytes)).toBe(true);
      await executor.close();
    }
  });

  it.each([0, 10, 20, 21, 22, 23, 24, 25, 26])('that ends after %i of its bytes is no result', async (length) => {
    const executor = await executorOf(async (event) => {
      const answer = Buffer.from('{"result_base64":"aGVsbG8="}').subarray(0, length);
      await event.program.stream(
        event.id,
        (async function* () {
          yield answer;
        })(),
      );
      return undefined;
    });
    const reading = read(executor.invokeStream(callOf(Buffer.from('hello')), soon()));
    await expect(reading).rejects.toMatchObject({ code: 'EXECUTOR_RESPONSE_INVALID' });
    await executor.close();
  });

  it('of a handler that does not stream is one chunk; an error is an error', async () => {
    const executor = await executorOf();
    expect(await read(executor.invokeStream(callOf(Buffer.from('hello')), soon()))).toEqual([Buffer.from('hello')]);
    expect(await read(executor.invokeStream({ ...callOf(Buffer.from('x')), jobId: CONFORMANCE_JOBS.nothing }, soon()))).toEqual([]);
    const failing = read(executor.invokeStream({ ...callOf(Buffer.from('no oven')), jobId: CONFORMANCE_JOBS.fail }, soon()));
    await expect(failing).rejects.toMatchObject({ code: 'JOB_FAILED' });
    await executor.close();
  });
});

describe('what the runtime knows', () => {
  it('is in the report', async () => {
    const executor = await executorOf();
    const cold = await executor.invoke(callOf(Buffer.from('x')), soon());
    const warm = await executor.invoke(callOf(Buffer.from('x')), soon());
    expect(cold.report).toMatchObject({ coldStart: true, initMs: expect.any(Number), requestId: expect.any(String) });
    expect(warm.report).not.toHaveProperty('initMs');
    await executor.close();
  });
});

describe('what a job is told', () => {
  it('the attempt, and the time that is left', async () => {
    const seen: Record<string, string>[] = [];
    const executor = await executorOf((event) => {
      seen.push((JSON.parse(event.body.toString()) as { metadata: Record<string, string> }).metadata);
      return bundle(event);
    });
    await executor.invoke(callOf(Buffer.from('x')), { deadline: Date.now() + 60_000, attempt: 4 });
    await read(executor.invokeStream(callOf(Buffer.from('x')), { deadline: Date.now() + 60_000, attempt: 5 }));
    expect(seen.map((metadata) => metadata[BLUEPRINT.attempt])).toEqual(['4', '5']);
    const left = seen.map((metadata) => Number(metadata[BLUEPRINT.timeoutMs]));
    expect(left.every((timeoutMs) => timeoutMs > 30_000 && timeoutMs <= 60_000)).toBe(true);
    await executor.close();
  });
});

describe('a deadline that passes before an instance is free', () => {
  const refused = { code: 'EXECUTOR_TIMEOUT', retry: 'safe' };

  it('is EXECUTOR_TIMEOUT, and the job provably did not run', async () => {
    const [held, taken] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let runs = 0;
    const executor = await executorOf(
      async (event) => {
        runs += 1;
        taken.resolve();
        await held.promise;
        return bundle(event);
      },
      { instancesPerFunctionMax: 1 },
    );
    const first = executor.invoke(callOf(Buffer.from('x')), soon());
    await taken.promise;
    const short = () => ({ deadline: Date.now() + 30, attempt: 1 });
    await expect(executor.invoke(callOf(Buffer.from('x')), short())).rejects.toMatchObject(refused);
    await expect(read(executor.invokeStream(callOf(Buffer.from('x')), short()))).rejects.toMatchObject(refused);
    held.resolve();
    await first;
    expect(runs).toBe(1);
    await executor.close();
  });

  it('is so at once when it is over already', async () => {
    let runs = 0;
    const executor = await executorOf((event) => ((runs += 1), bundle(event)));
    const late = { deadline: Date.now() - 1, attempt: 1 };
    await expect(executor.invoke(callOf(Buffer.from('x')), late)).rejects.toMatchObject(refused);
    await expect(read(executor.invokeStream(callOf(Buffer.from('x')), late))).rejects.toMatchObject(refused);
    expect(runs).toBe(0);
    await executor.close();
  });
});
