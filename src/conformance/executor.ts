/**
 * What every executor must do, as data: each case gets an executor whose platform runs the jobs of `conformanceRouter`.
 *
 * The suite needs no test framework: `checkExecutor` runs it and reports, `runExecutorConformance` registers it with the `describe` and
 * `it` that it is given.
 */

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isRunnerError } from '../errors.ts';
import type { ErrorCode, Retry, RunnerError } from '../errors.ts';
import { requestTooLarge } from '../executor/executor.ts';
import type { Execution, FaasExecutor, InvokeOptions } from '../executor/executor.ts';
import { BLUEPRINT, Metadata, TANGLE } from '../job/call.ts';
import type { JobCall } from '../job/call.ts';
import { CONFORMANCE_JOBS } from './jobs.ts';
import { checkSuite, registerSuite } from './suite.ts';
import type { CaseOutcome, Suite, TestFramework } from './suite.ts';

export interface ExecutorCase {
  readonly name: string;
  run(executor: FaasExecutor): Promise<void>;
}

/** Time for a call that is expected to end soon; generous, because machines are slow at times. */
const TIMEOUT_MS = 60_000;
/** Too little time for its call, and enough for it to be sent. */
const SHORT_MS = 1_000;
/** A timeout may come this much late. */
const LATE_MS_MAX = 15_000;
/** The largest call that the suite makes; limits above it are not tried out. */
const TRIED_BYTES_MAX = 32 * 1024 * 1024;

let calls = 0;

function callOf(jobId: bigint, body: Uint8Array | string): JobCall {
  calls += 1;
  const metadata = new Metadata([
    [TANGLE.callId, String(calls)],
    [TANGLE.serviceId, '3'],
    [TANGLE.caller, '0x00000000000000000000000000000000000000aa'],
  ]);
  return { id: `conformance-${process.pid}-${calls}`, jobId, body: typeof body === 'string' ? Buffer.from(body) : body, metadata };
}

function invoke(executor: FaasExecutor, call: JobCall, options: Partial<InvokeOptions> = {}): Promise<Execution> {
  return executor.invoke(call, { deadline: Date.now() + TIMEOUT_MS, attempt: 1, ...options });
}

function bodyOf(execution: Execution): Buffer {
  const [result] = execution.results;
  assert.ok(result, 'the execution has no result');
  return Buffer.from(result.body);
}

async function rejection(promise: Promise<unknown>): Promise<RunnerError> {
  const thrown: unknown = await promise.then(
    (value) => assert.fail(`expected a rejection, got ${JSON.stringify(value)?.slice(0, 200)}`),
    (error: unknown) => error,
  );
  if (!isRunnerError(thrown)) assert.fail(`expected a RunnerError, got ${String(thrown)}`);
  return thrown;
}

async function rejects(promise: Promise<unknown>, code: ErrorCode, retry?: Retry): Promise<RunnerError> {
  const error = await rejection(promise);
  assert.equal(error.code, code, `code of: ${error.message}`);
  if (retry !== undefined) assert.equal(error.retry, retry, `retry of: ${error.message}`);
  return error;
}

/** Bytes that show a shift, a swap or a text conversion. */
function pattern(size: number): Buffer {
  const bytes = Buffer.allocUnsafe(size);
  for (let index = 0; index < size; index += 1) bytes[index] = (index * 31 + (index >>> 8) * 7) & 255;
  return bytes;
}

async function echoes(executor: FaasExecutor, body: Buffer): Promise<void> {
  const answer = bodyOf(await invoke(executor, callOf(CONFORMANCE_JOBS.echo, body)));
  assert.ok(answer.equals(body), `${body.length} bytes came back as ${answer.length} others`);
}

const echoCases = [0, 1, 64 * 1024, 1024 * 1024].map((size) => ({
  name: `echoes ${size} bytes`,
  run: (executor: FaasExecutor) => echoes(executor, pattern(size)),
}));

export const executorCases: readonly ExecutorCase[] = [
  {
    name: 'has a name and limits',
    async run({ name, limits }) {
      assert.ok(name.length > 0);
      for (const limit of [limits.requestBytesMax, limits.responseBytesMax, limits.timeoutMsMax])
        assert.ok(Number.isSafeInteger(limit) && limit > 0);
    },
  },
  ...echoCases,
  {
    name: 'echoes every byte value',
    run: (executor) => echoes(executor, Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))),
  },
  {
    name: 'echoes text outside of ASCII',
    run: (executor) => echoes(executor, Buffer.from('Žluťoučký kůň 🐎 \u0000 \ufffd 你好 "quoted" \\ \r\n')),
  },
  {
    name: 'takes a call of exactly its limit, and one byte more is refused before it is sent',
    async run(executor) {
      const size = executor.limits.requestBytesMax;
      assert.ok(size <= TRIED_BYTES_MAX, `the limit of ${size} bytes is too large to be tried; skip this case and say so`);
      const largest = callOf(CONFORMANCE_JOBS.nothing, pattern(size));
      assert.equal(requestTooLarge(executor, largest), undefined);
      await invoke(executor, largest);
      const error = requestTooLarge(executor, callOf(CONFORMANCE_JOBS.nothing, Buffer.alloc(size + 1)));
      assert.equal(error?.code, 'PAYLOAD_TOO_LARGE');
    },
  },
  {
    name: 'a job without a result gives none',
    async run(executor) {
      assert.deepEqual((await invoke(executor, callOf(CONFORMANCE_JOBS.nothing, 'x'))).results, []);
    },
  },
  {
    name: 'the result carries the call id and the service id of its call',
    async run(executor) {
      const call = callOf(CONFORMANCE_JOBS.echo, 'x');
      const [result] = (await invoke(executor, call)).results;
      assert.equal(result?.metadata.get(TANGLE.callId), call.metadata.get(TANGLE.callId));
      assert.equal(result?.metadata.get(TANGLE.serviceId), '3');
    },
  },
  {
    name: 'the job sees the metadata of its call',
    async run(executor) {
      const call = callOf(CONFORMANCE_JOBS.metadata, '');
      const seen: unknown = JSON.parse(bodyOf(await invoke(executor, call)).toString('utf8'));
      assert.deepEqual(seen, { caller: call.metadata.get(TANGLE.caller), callId: call.metadata.get(TANGLE.callId) });
    },
  },
  {
    name: 'a call that a handler passes on, with the attempt and the time of its own, is answered',
    async run(executor) {
      const { metadata, ...call } = callOf(CONFORMANCE_JOBS.metadata, '');
      const told = [...metadata, [BLUEPRINT.attempt, '7'], [BLUEPRINT.timeoutMs, '900000']] as const;
      const { results } = await invoke(executor, { ...call, metadata: new Metadata(told) });
      assert.equal(results.length, 1);
    },
  },
  {
    name: 'a job that throws is JOB_FAILED with its message',
    async run(executor) {
      const error = await rejects(invoke(executor, callOf(CONFORMANCE_JOBS.fail, 'the oven is cold')), 'JOB_FAILED', 'idempotent');
      assert.match(error.message, /the oven is cold/);
    },
  },
  {
    name: 'the code and the message of the error of a job arrive',
    async run(executor) {
      const error = await rejects(invoke(executor, callOf(CONFORMANCE_JOBS.reject, 'no such thing')), 'JOB_ARGS_INVALID', 'never');
      assert.match(error.message, /no such thing/);
    },
  },
  {
    name: 'a job that nobody has is JOB_UNKNOWN or EXECUTOR_NOT_FOUND',
    async run(executor) {
      const { code } = await rejection(invoke(executor, callOf(4_000_000n, 'x')));
      assert.ok(code === 'JOB_UNKNOWN' || code === 'EXECUTOR_NOT_FOUND', `the code is ${code}`);
    },
  },
  {
    name: 'runs a failing job once',
    async run(executor) {
      const directory = await mkdtemp(join(tmpdir(), 'conformance-'));
      const file = join(directory, 'marks');
      try {
        await rejects(invoke(executor, callOf(CONFORMANCE_JOBS.mark, file)), 'JOB_FAILED');
        assert.equal(await readFile(file, 'utf8'), 'x', 'the job ran more than once');
      } finally {
        await rm(directory, { recursive: true, force: true });
      }
    },
  },
  {
    name: 'a call that is not done at its deadline is EXECUTOR_TIMEOUT, and the next one works',
    async run(executor) {
      await echoes(executor, pattern(10));
      const started = performance.now();
      await rejects(
        invoke(executor, callOf(CONFORMANCE_JOBS.wait, '60000'), { deadline: Date.now() + SHORT_MS }),
        'EXECUTOR_TIMEOUT',
        'idempotent',
      );
      const tookMs = performance.now() - started;
      assert.ok(tookMs > SHORT_MS - 50 && tookMs < SHORT_MS + LATE_MS_MAX, `it took ${tookMs} ms`);
      await echoes(executor, pattern(10));
    },
  },
  {
    name: 'an abort ends the call with ABORTED, and the next one works',
    async run(executor) {
      await echoes(executor, pattern(10));
      const controller = new AbortController();
      const running = invoke(executor, callOf(CONFORMANCE_JOBS.wait, '60000'), { signal: controller.signal });
      const started = performance.now();
      setTimeout(() => controller.abort(new Error('enough')), 200);
      await rejects(running, 'ABORTED');
      assert.ok(performance.now() - started < 200 + LATE_MS_MAX);
      await echoes(executor, pattern(10));
    },
  },
  {
    name: 'a call that was aborted before is not run',
    async run(executor) {
      const directory = await mkdtemp(join(tmpdir(), 'conformance-'));
      const file = join(directory, 'marks');
      try {
        await rejects(invoke(executor, callOf(CONFORMANCE_JOBS.mark, file), { signal: AbortSignal.abort() }), 'ABORTED', 'safe');
        await echoes(executor, pattern(10));
        await assert.rejects(readFile(file), { code: 'ENOENT' });
      } finally {
        await rm(directory, { recursive: true, force: true });
      }
    },
  },
  {
    name: 'calls at the same time keep their identity',
    async run(executor) {
      const limit = Math.min(32, executor.limits.concurrencyMax ?? 32);
      await Promise.all(
        Array.from({ length: limit }, async (_, index) => {
          const call = callOf(CONFORMANCE_JOBS.echo, Buffer.concat([Buffer.from(`call ${index} `), pattern(index * 97)]));
          const execution = await invoke(executor, call);
          assert.ok(bodyOf(execution).equals(call.body), `call ${index} got the answer of another`);
          assert.equal(execution.results[0]?.metadata.get(TANGLE.callId), call.metadata.get(TANGLE.callId));
        }),
      );
    },
  },
  {
    name: 'a failing call does not disturb those beside it',
    async run(executor) {
      const outcomes = await Promise.allSettled(
        Array.from({ length: 8 }, (_, index) =>
          invoke(executor, callOf(index % 2 === 0 ? CONFORMANCE_JOBS.echo : CONFORMANCE_JOBS.fail, `${index}`)),
        ),
      );
      assert.deepEqual(
        outcomes.map(({ status }) => status),
        Array.from({ length: 8 }, (_, index) => (index % 2 === 0 ? 'fulfilled' : 'rejected')),
      );
    },
  },
  {
    name: 'health and warm succeed when the platform is there',
    async run(executor) {
      await executor.health?.(CONFORMANCE_JOBS.echo);
      await executor.warm?.(CONFORMANCE_JOBS.echo);
      await echoes(executor, pattern(10));
    },
  },
  {
    name: 'close lets running calls end, refuses new ones, and can be repeated',
    async run(executor) {
      assert.ok(executor.close, 'the executor has no close');
      await echoes(executor, pattern(10));
      const running = invoke(executor, callOf(CONFORMANCE_JOBS.wait, '400'));
      running.catch(() => {});
      const closing = executor.close();
      await rejects(invoke(executor, callOf(CONFORMANCE_JOBS.echo, 'x')), 'EXECUTOR_CLOSED', 'safe');
      assert.equal(bodyOf(await running).toString('utf8'), '400');
      await closing;
      await executor.close();
    },
  },
];

export interface ExecutorUnderTest {
  readonly name: string;
  /** Makes a new executor for each case. Its platform runs `conformanceRouter`. */
  create(): FaasExecutor | Promise<FaasExecutor>;
  /** Cases that cannot be passed, each with the reason, for people. */
  readonly skip?: Readonly<Record<string, string>>;
}

/** Runs the suite; a failure is an outcome, it is not thrown. Throws `CONFIG_INVALID` when a skip names no case. */
export function checkExecutor(subject: ExecutorUnderTest): Promise<CaseOutcome[]> {
  return checkSuite(suiteOf(subject));
}

/**
 * Registers the suite. A skipped case shows its reason in its name.
 *
 * @example
 * import { describe, it } from 'vitest';
 * runExecutorConformance({ describe, it }, { name: 'my-cloud', create: () => new MyExecutor(url) });
 */
export function runExecutorConformance(framework: TestFramework, subject: ExecutorUnderTest): void {
  registerSuite(framework, suiteOf(subject));
}

function suiteOf(subject: ExecutorUnderTest): Suite<ExecutorCase> {
  return {
    title: `executor ${subject.name}`,
    cases: executorCases,
    skip: subject.skip,
    async run(each) {
      const executor = await subject.create();
      try {
        await each.run(executor);
      } finally {
        await executor.close?.();
      }
    },
  };
}
