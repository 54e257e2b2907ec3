import { once } from 'node:events';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { FakeBackend, versionOf } from '../../test/support/fake-backend.ts';
import type { FakeBackendOptions, FakeProgram } from '../../test/support/fake-backend.ts';
import { RunnerError } from '../errors.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Counter, Gauge, Histogram, MetricOptions, Telemetry } from '../telemetry/telemetry.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { FRAME, FRAMES_LANES, FRAMES_TARGET } from './frames.ts';
import { fixedKeepAlive } from './keep-alive.ts';
import type { InstanceEnd, RuntimeEvent } from './runtime.ts';
import { FunctionRuntime } from './function-runtime.ts';
import type { FunctionRuntimeOptions } from './function-runtime.ts';

const opened: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close();
});

async function start(
  backendOptions: FakeBackendOptions = {},
  options: Partial<FunctionRuntimeOptions> = {},
): Promise<{ runtime: FunctionRuntime; backend: FakeBackend; folder: string }> {
  const folder = await mkdtemp(join(tmpdir(), 'fr-'));
  const backend = new FakeBackend(backendOptions);
  const runtime = new FunctionRuntime({ backend, folder, ...options });
  opened.push(() => rm(folder, { recursive: true, force: true }));
  opened.push(() => runtime.close(0));
  await runtime.start();
  return { runtime, backend, folder };
}

const text = ({ body }: { readonly body: Uint8Array }): string => Buffer.from(body).toString();

const event = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

/** Polls the state of the runtime, not the time. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(2);
}

describe('a call', () => {
  test('starts an instance, and the next one uses it again', async () => {
    const { runtime, backend } = await start();
    const first = await runtime.invoke(versionOf(), Buffer.from('one'));
    const second = await runtime.invoke(versionOf(), Buffer.from('two'));
    expect([text(first), text(second)]).toEqual(['one', 'two']);
    expect([first.report.coldStart, second.report.coldStart]).toEqual([true, false]);
    expect(second.report.instanceId).toBe(first.report.instanceId);
    expect(backend.programs).toHaveLength(1);
  });

  test('carries its headers to the instance, and only those that were given', async () => {
    let headers: Record<string, unknown> = {};
    const { runtime } = await start({
      async handler(received) {
        headers = received.headers;
        return received.body;
      },
    });
    const options = {
      requestId: 'r-1',
      contentType: 'text/plain',
      clientContext: 'e30=',
      traceId: 'Root=1',
      functionArn: 'arn:aws:lambda:x',
    };
    await runtime.invoke(versionOf(), Buffer.from('x'), options);
    expect(headers).toMatchObject({
      'content-type': 'text/plain',
      'lambda-runtime-aws-request-id': 'r-1',
      'lambda-runtime-client-context': 'e30=',
      'lambda-runtime-trace-id': 'Root=1',
      'lambda-runtime-invoked-function-arn': 'arn:aws:lambda:x',
    });
    await runtime.invoke(versionOf(), Buffer.from('x'));
    expect(
      Object.keys(headers)
        .filter((name) => name.startsWith('lambda-'))
        .toSorted(),
    ).toEqual(['lambda-runtime-aws-request-id', 'lambda-runtime-deadline-ms', 'lambda-runtime-invoked-function-arn']);
    expect(headers['content-type']).toBe('application/json');
  });

  test('has the deadline of the function, or an earlier one of the caller', async () => {
    const deadlines: number[] = [];
    const { runtime } = await start({
      async handler({ headers, body }) {
        deadlines.push(Number(headers['lambda-runtime-deadline-ms']));
        return body;
      },
    });
    const now = Date.now();
    await runtime.invoke(versionOf({ timeoutMs: 5_000 }), event(1));
    await runtime.invoke(versionOf({ timeoutMs: 5_000 }), event(1), { deadline: now + 900_000 });
    await runtime.invoke(versionOf({ timeoutMs: 5_000 }), event(1), { deadline: now + 3_000 });
    const [own, later, earlier] = deadlines;
    expect((own ?? 0) - now).toBeGreaterThanOrEqual(5_000);
    expect((later ?? 0) - now).toBeLessThan(20_000);
    expect(earlier).toBe(now + 3_000);
  });

  test('tells how long it waited, started and ran', async () => {
    const clock = new FakeClock();
    const { runtime } = await start(
      {
        boot: () => clock.advance(40),
        async handler({ body }) {
          await clock.advance(30);
          return body;
        },
      },
      { clock },
    );
    const { report } = await runtime.invoke(versionOf(), event(1));
    expect(report).toMatchObject({ initMs: 40, queueMs: 40, runMs: 30 });
    const warm = await runtime.invoke(versionOf(), event(1));
    expect(warm.report).not.toHaveProperty('initMs');
    expect(warm.report).toMatchObject({ queueMs: 0, runMs: 30 });
  });

  test.each([
    ['an event that is too large', Buffer.alloc(101), {}, 'PAYLOAD_TOO_LARGE'],
    ['a header that is none', Buffer.alloc(1), { traceId: 'a\nb' }, 'WIRE_MALFORMED'],
    ['a request id that is a path', Buffer.alloc(1), { requestId: 'a/b' }, 'WIRE_MALFORMED'],
    ['a caller that has gone', Buffer.alloc(1), { signal: AbortSignal.abort() }, 'ABORTED'],
    ['no concurrency', Buffer.alloc(1), { concurrencyMax: 0 }, 'EXECUTOR_THROTTLED'],
  ])('%s is refused, and nothing is started', async (_, body, options, code) => {
    const { runtime, backend } = await start({}, { limits: { requestBytesMax: 100 } });
    await expect(runtime.invoke(versionOf(), body, options)).rejects.toMatchObject({ code });
    expect(backend.programs).toEqual([]);
    expect(text(await runtime.invoke(versionOf(), Buffer.alloc(100)))).toHaveLength(100);
  });

  test('reserved concurrency counts calls of all versions, and frees', async () => {
    const gate = Promise.withResolvers<void>();
    const { runtime } = await start({ handler: async ({ body }) => gate.promise.then(() => body) });
    const running = [runtime.invoke(versionOf(), event(1)), runtime.invoke(versionOf({ fingerprint: 'f1', version: '1' }), event(2))];
    const refused = runtime.invoke(versionOf(), event(3), { concurrencyMax: 2 });
    await expect(refused).rejects.toMatchObject({ code: 'EXECUTOR_THROTTLED', retry: 'safe' });
    gate.resolve();
    await Promise.all(running);
    expect(text(await runtime.invoke(versionOf(), event(4), { concurrencyMax: 1 }))).toBe('4');
  });

  test('an answer of the limit passes, one byte more does not, and the instance lives on', async () => {
    const { runtime, backend } = await start(
      { handler: async ({ body }) => Buffer.alloc(Number(body.toString())) },
      { limits: { responseBytesMax: 1_000 } },
    );
    expect((await runtime.invoke(versionOf(), event(1_000))).body).toHaveLength(1_000);
    await expect(runtime.invoke(versionOf(), event(1_001))).rejects.toMatchObject({
      code: 'PAYLOAD_TOO_LARGE',
      details: { errorType: 'Function.ResponseSizeTooLarge', limit: 1_000, status: 502 },
    });
    expect((await runtime.invoke(versionOf(), event(1))).body).toHaveLength(1);
    expect(backend.programs).toHaveLength(1);
  });

  test('the limit of its function holds where it is lower, streamed or not', async () => {
    const { runtime, backend } = await start(
      { handler: async ({ body }) => Buffer.alloc(Number(body.toString())) },
      { limits: { responseBytesMax: 1_000 } },
    );
    const low = versionOf({ answerBytesMax: 500 });
    expect((await runtime.invoke(low, event(500))).body).toHaveLength(500);
    await expect(runtime.invoke(low, event(501))).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE', details: { limit: 500 } });
    await expect(runtime.stream(low, event(501))).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE', details: { limit: 500 } });
    const high = versionOf({ answerBytesMax: 5_000 });
    await expect(runtime.invoke(high, event(1_001))).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE', details: { limit: 1_000 } });
    expect(backend.programs).toHaveLength(1);
  });

  test('what was printed in a call is its tail, and its lines have its id', async () => {
    const { runtime } = await start({
      async handler({ body, program }) {
        program.print(`${'-'.repeat(5_000)}\n`);
        program.print(`hello ${body.toString()}\nand`);
        return body;
      },
    });
    const heard: string[] = [];
    const stop = runtime.onLog(({ text: line }) => heard.push(line));
    await runtime.invoke(versionOf(), event(1), { requestId: 'first' });
    const { logTail } = await runtime.invoke(versionOf(), event(2), { requestId: 'second', awaitLog: true });
    stop();
    expect(logTail).toHaveLength(4 * 1024);
    expect(Buffer.from(logTail).toString().endsWith('-\nhello 2\nand')).toBe(true);
    const lines = runtime.log('cook').map(({ requestId, text: line }) => [requestId, line.slice(0, 10)]);
    expect(lines).toContainEqual(['first', 'hello 1']);
    expect(lines).toContainEqual(['second', 'hello 2']);
    expect(heard).toContain('hello 2');
  });
});

describe('a failing call', () => {
  test('an error of the handler keeps its type, message and body', async () => {
    const { runtime, backend } = await start({
      handler: () => Promise.reject(new RangeError('too far')),
    });
    await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({
      code: 'FUNCTION_FAILED',
      message: 'cook failed: RangeError: too far',
      details: { errorType: 'RangeError', errorMessage: 'too far', body: expect.stringContaining('"trace":[]') },
    });
    await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'FUNCTION_FAILED' });
    expect(backend.programs).toHaveLength(1);
  });

  test.each([
    ['exit', { reason: 'exited', exitCode: 3 }, 'FUNCTION_CRASHED', { exitCode: 3, errorType: 'Runtime.ExitError' }],
    ['signal', { reason: 'signalled', signal: 'SIGSEGV' }, 'FUNCTION_CRASHED', { signal: 'SIGSEGV' }],
    ['memory', { reason: 'out-of-memory' }, 'FUNCTION_OUT_OF_MEMORY', {}],
  ] as const)('%s in a call: its own code, not tried again, and the next call works', async (_, end, code, details) => {
    let calls = 0;
    const { runtime, backend } = await start({
      async handler({ body, program }) {
        calls += 1;
        if (body.toString() !== '"die"') return body;
        program.print('last words\n');
        program.end(end);
        return undefined;
      },
    });
    await runtime.invoke(versionOf(), event(1));
    const error: unknown = await runtime.invoke(versionOf(), event('die')).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code, retry: 'idempotent', details });
    if (code === 'FUNCTION_CRASHED') expect(String(error)).toContain('last words');
    expect(text(await runtime.invoke(versionOf(), event(2)))).toBe('2');
    expect([calls, backend.programs.length]).toEqual([3, 2]);
  });

  test('an instance that ended while it was idle costs nobody a call', async () => {
    const { runtime, backend } = await start();
    await runtime.invoke(versionOf(), event(1));
    backend.programs[0]?.end({ reason: 'signalled', signal: 'SIGKILL' });
    // In the same turn: the runtime has not heard of it.
    const { report } = await runtime.invoke(versionOf(), event(2));
    expect(report.coldStart).toBe(true);
    expect(backend.programs).toHaveLength(2);
  });

  test('an instance that ends before it takes the event gives it to another one', async () => {
    let calls = 0;
    const { runtime, backend } = await start({
      async main(program) {
        const isFirst = backend.programs.length === 1;
        const next = await program.api('GET', 'invocation/next');
        calls += 1;
        await program.api('POST', `invocation/${String(next.headers['lambda-runtime-aws-request-id'])}/response`, next.body);
        // The first one never asks again.
        if (isFirst) await until(() => !program.isRunning);
        else await program.api('GET', 'invocation/next');
      },
    });
    await runtime.invoke(versionOf(), event(1));
    const second = runtime.invoke(versionOf(), event(2));
    await delay(20);
    backend.programs[0]?.end({ reason: 'exited', exitCode: 1 });
    expect(text(await second)).toBe('2');
    expect([calls, backend.programs.length]).toEqual([2, 2]);
  });

  test('a timeout ends the instance before it is told', async () => {
    const { runtime, backend } = await start({ handler: () => new Promise(() => {}) });
    backend.terminateMs = 50;
    const failure = runtime.invoke(versionOf({ timeoutMs: 100 }), event(1)).catch((error: unknown) => {
      expect(backend.running).toEqual([]);
      return error;
    });
    expect(await failure).toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'idempotent', details: { timeoutMs: 100 } });
    expect(backend.terminations).toBe(1);
  });

  test('an abort ends a running call and its instance', async () => {
    const controller = new AbortController();
    const running = Promise.withResolvers<void>();
    const { runtime, backend } = await start({
      handler: () => {
        running.resolve();
        return new Promise(() => {});
      },
    });
    const call = runtime.invoke(versionOf(), event(1), { signal: controller.signal });
    await running.promise;
    controller.abort();
    await expect(call).rejects.toMatchObject({ code: 'ABORTED', retry: 'idempotent' });
    expect(backend.running).toEqual([]);
  });

  test('an abort of a call that waits: the handler never sees it', async () => {
    const gate = Promise.withResolvers<void>();
    const seen: string[] = [];
    const { runtime } = await start(
      {
        async handler({ body }) {
          seen.push(body.toString());
          await gate.promise;
          return body;
        },
      },
      { limits: { instancesPerFunctionMax: 1 } },
    );
    const controller = new AbortController();
    const first = runtime.invoke(versionOf(), event(1));
    await until(() => seen.length === 1);
    const second = runtime.invoke(versionOf(), event(2), { signal: controller.signal });
    const third = runtime.invoke(versionOf(), event(3));
    controller.abort();
    await expect(second).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' });
    gate.resolve();
    await Promise.all([first, third]);
    expect(seen).toEqual(['1', '3']);
  });

  test('a connection that breaks in the middle of an answer', async () => {
    const { runtime, backend } = await start({
      async handler({ id, program }) {
        const socket = connect(program.socketPath);
        socket.on('error', () => {});
        socket.end(`POST /2018-06-01/runtime/invocation/${id}/response HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf`);
        return new Promise(() => {});
      },
    });
    await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'idempotent' });
    expect(backend.running).toEqual([]);
  });

  test.each([
    ['"throw"', /^\S+Z\tthe-id\tERROR\tInvoke Error \t\{"errorType":"RangeError","errorMessage":"too\\nfar","stack":\[\]\}$/],
    ['"exit"', /^RequestId: the-id Error: Runtime exited with error: exit status 3$/],
    ['"kill"', /^RequestId: the-id Error: Runtime exited with error: signal: killed$/],
    ['"memory"', /^RequestId: the-id Error: Runtime exited with error: signal: killed \(cook used more than its 128 MB.*\)$/],
    ['"hang"', /^\S+Z the-id Task timed out after 0\.\d\d seconds$/],
  ])('%s is the last line of its log, as an error', async (what, wanted) => {
    const ends: Record<string, InstanceEnd> = {
      '"exit"': { reason: 'exited', exitCode: 3 },
      '"kill"': { reason: 'signalled', signal: 'SIGKILL' },
      '"memory"': { reason: 'out-of-memory' },
    };
    const { runtime } = await start({
      handler({ program }) {
        program.print('last words');
        const end = ends[what];
        if (end) program.end(end);
        return what === '"throw"' ? Promise.reject(new RangeError('too\nfar')) : new Promise(() => {});
      },
    });
    const call = runtime.invoke(versionOf({ timeoutMs: what === '"hang"' ? 100 : 30_000 }), Buffer.from(what), { requestId: 'the-id' });
    await expect(call).rejects.toMatchObject({ details: { requestId: 'the-id' } });
    const lines = runtime.log('cook');
    const line = lines.find(({ level }) => level !== undefined);
    expect(line).toMatchObject({ level: 'error', requestId: 'the-id', stream: 'stderr', instanceId: expect.stringMatching(/^cook-/) });
    expect(line?.text).toMatch(wanted);
    // The program of a call that throws goes on, and so does its line.
    if (what !== '"throw"') expect(lines.map(({ text: each }) => each)).toEqual(['last words', line?.text]);
  });

  test('stopInstance ends its call', async () => {
    const { runtime } = await start({ handler: () => new Promise(() => {}) });
    const call = runtime.invoke(versionOf(), event(1));
    const failure = expect(call).rejects.toMatchObject({ code: 'ABORTED' });
    await until(() => runtime.instances()[0]?.state === 'busy');
    expect(await runtime.stopInstance(runtime.instances()[0]?.id ?? '')).toBe(true);
    await failure;
    expect(await runtime.stopInstance('nobody')).toBe(false);
    expect(runtime.instances()).toEqual([]);
  });
});

describe('a failing start', () => {
  const initError = JSON.stringify({ errorType: 'Runtime.ImportModuleError', errorMessage: 'no module', stackTrace: ['at x'] });

  test.each([
    [
      'an init error',
      async (program: FakeProgram) => void (await program.api('POST', 'init/error', initError)),
      {
        code: 'FUNCTION_INIT_FAILED',
        details: { errorType: 'Runtime.ImportModuleError', errorMessage: 'no module', stackTrace: ['at x'] },
      },
      /\tERROR\tUncaught Exception \t\{"errorType":"Runtime\.ImportModuleError","errorMessage":"no module","stack":\["at x"\]\}$/,
    ],
    [
      'an exit',
      async (program: FakeProgram) => {
        program.print('last words\n');
        program.end({ reason: 'exited', exitCode: 7 });
      },
      {
        code: 'FUNCTION_INIT_FAILED',
        message: expect.stringContaining('last words'),
        details: { errorType: 'Runtime.ExitError', exitCode: 7 },
      },
      /^RequestId: \S+ Error: Runtime exited with error: exit status 7$/,
    ],
    [
      'too much memory',
      async (program: FakeProgram) => program.end({ reason: 'out-of-memory' }),
      { code: 'FUNCTION_OUT_OF_MEMORY', retry: 'safe' },
      /^RequestId: \S+ Error: Runtime exited with error: signal: killed \(cook used more than its 128 MB.*\)$/,
    ],
    [
      'no word',
      () => new Promise<void>(() => {}),
      { code: 'FUNCTION_INIT_FAILED', details: { errorType: 'Sandbox.Timeout' } },
      /^RequestId: \S+ Error: the function did not ask for work in 150 ms/,
    ],
  ])('%s is told to all who wait and in the log, and nothing is left', async (what, boot, expected, logged) => {
    const { runtime, backend, folder } = await start({ boot }, { limits: { initTimeoutMs: what === 'no word' ? 150 : 30_000 } });
    const calls = Array.from({ length: 5 }, () => runtime.invoke(versionOf(), event(1)));
    for (const outcome of await Promise.allSettled(calls)) {
      if (outcome.status === 'fulfilled') throw new Error('it succeeded');
      expect(outcome.reason).toMatchObject(expected);
    }
    expect(backend.running).toEqual([]);
    expect(runtime.instances()).toEqual([]);
    const errors = runtime.log('cook').filter(({ level }) => level === 'error');
    expect(new Set(errors.map(({ requestId }) => requestId)).size).toBe(5);
    for (const { text: line } of errors) expect(line).toMatch(logged);
    expect((await readdir(folder)).toSorted()).toEqual(['lock', 'owner']);
  });

  test('errors of the backend are told as they are', async () => {
    const { runtime, backend } = await start();
    backend.launchError = new RunnerError('RUNTIME_UNSUPPORTED', 'no cobol here');
    await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'RUNTIME_UNSUPPORTED' });
  });

  test('one that breaks the protocol before the backend has said that it runs is ended', async () => {
    const { runtime, backend } = await start({ main: async () => {} });
    const launch = backend.launch.bind(backend);
    backend.launch = async (spec) => {
      const instance = await launch(spec);
      const socket = connect(spec.runtimeApi.socketPath);
      socket.write(`CONNECT ${FRAMES_TARGET} HTTP/1.1\r\n${FRAMES_LANES}: 1\r\n\r\n`);
      // An answer of a lane that has no event.
      socket.write(Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, FRAME.answer]));
      await once(socket.resume(), 'close');
      return instance;
    };
    await runtime.warm(versionOf(), 1).catch(() => {});
    await until(() => backend.programs.length > 0 && backend.running.length === 0);
    expect(runtime.instances()).toEqual([]);
  });

  test('a backend that takes too long is given up', async () => {
    const { runtime, backend } = await start({}, { limits: { startTimeoutMs: 50 } });
    backend.launchGate = new Promise(() => {});
    await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'INSTANCE_START_FAILED', retry: 'safe' });
    expect(backend.launching).toBe(0);
  });

  test('one that fails again and again is not started for every call', async () => {
    const { runtime, backend } = await start({ boot: async (program) => program.end({ reason: 'exited', exitCode: 1 }) });
    for (let index = 0; index < 200; index += 1)
      await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'FUNCTION_INIT_FAILED' });
    expect(backend.programs.length).toBeLessThan(20);
    backend.options = {};
    expect(text(await runtime.invoke(versionOf({ fingerprint: 'repaired' }), event(2)))).toBe('2');
  });
});

describe('a streamed answer', () => {
  test('arrives as it is written; the slot is taken until its end', async () => {
    const gate = Promise.withResolvers<void>();
    const { runtime, backend } = await start({
      async handler({ id, program, body }) {
        if (body.toString() !== '"stream"') return body;
        const parts = async function* (): AsyncGenerator<Buffer> {
          yield Buffer.from('a');
          await gate.promise;
          yield Buffer.from('b');
        };
        await program.stream(id, parts(), { contentType: 'text/x' });
        return undefined;
      },
    });
    const { chunks, contentType, done, requestId } = await runtime.stream(versionOf(), event('stream'), { awaitLog: true });
    const reader = chunks[Symbol.asyncIterator]();
    expect(Buffer.from((await reader.next()).value ?? []).toString()).toBe('a');
    expect(contentType).toBe('text/x');
    await runtime.invoke(versionOf(), event(1));
    expect(backend.programs).toHaveLength(2);
    gate.resolve();
    expect(Buffer.from((await reader.next()).value ?? []).toString()).toBe('b');
    expect((await reader.next()).done).toBe(true);
    expect((await done).report.requestId).toBe(requestId);
    expect(runtime.instances().map(({ state }) => state)).toEqual(['idle', 'idle']);
  });

  test('a buffered answer is one chunk', async () => {
    const { runtime } = await start({ handler: async () => Buffer.alloc(300_000, 'x') });
    const { chunks } = await runtime.stream(versionOf(), event(1));
    const sizes: number[] = [];
    for await (const chunk of chunks) sizes.push(chunk.length);
    expect(sizes).toEqual([300_000]);
  });

  test('that breaks off gives what was written and then the error', async () => {
    const { runtime } = await start({
      async handler({ id, program }) {
        const parts = async function* (): AsyncGenerator<Buffer> {
          yield Buffer.from('half');
        };
        await program.stream(id, parts(), { fail: new RangeError('in the middle') });
        return undefined;
      },
    });
    const { chunks, done } = await runtime.stream(versionOf(), event(1));
    const seen: string[] = [];
    const reading = (async () => {
      for await (const chunk of chunks) seen.push(Buffer.from(chunk).toString());
    })();
    await expect(reading).rejects.toMatchObject({
      code: 'FUNCTION_FAILED',
      details: { errorType: 'RangeError', errorMessage: 'in the middle' },
    });
    await expect(done).rejects.toMatchObject({ code: 'FUNCTION_FAILED' });
    expect(seen).toEqual(['half']);
    await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'FUNCTION_FAILED' });
  });

  test('a reader that goes away ends the call and its instance', async () => {
    const { runtime, backend } = await start({
      async handler({ id, program }) {
        const parts = async function* (): AsyncGenerator<Buffer> {
          for (;;) {
            yield Buffer.from('tick');
            await delay(1);
          }
        };
        await program.stream(id, parts());
        return undefined;
      },
    });
    const { chunks, done } = await runtime.stream(versionOf(), event(1));
    for await (const chunk of chunks) if (chunk.length > 0) break;
    await expect(done).rejects.toMatchObject({ code: 'ABORTED' });
    expect(backend.running).toEqual([]);
  });

  test('a slow reader holds the writer', async () => {
    let written = 0;
    const { runtime } = await start({
      async handler({ id, program }) {
        const parts = async function* (): AsyncGenerator<Buffer> {
          for (let index = 0; index < 256; index += 1) {
            written += 1;
            yield Buffer.alloc(64 * 1024);
          }
        };
        await program.stream(id, parts());
        return undefined;
      },
    });
    const { chunks } = await runtime.stream(versionOf(), event(1));
    let before = -1;
    while (written !== before) {
      before = written;
      await delay(50);
    }
    expect(written).toBeLessThan(128);
    let bytes = 0;
    for await (const chunk of chunks) bytes += chunk.length;
    expect(bytes).toBe(256 * 64 * 1024);
  });

  test('that is too large fails', async () => {
    const { runtime } = await start(
      {
        async handler({ id, program }) {
          const parts = async function* (): AsyncGenerator<Buffer> {
            for (let index = 0; index < 4; index += 1) yield Buffer.alloc(400);
          };
          await program.stream(id, parts());
          return undefined;
        },
      },
      { limits: { streamBytesMax: 1_000, responseBytesMax: 500 } },
    );
    const { chunks } = await runtime.stream(versionOf(), event(1));
    const reading = (async () => {
      for await (const chunk of chunks) expect(chunk.length).toBeGreaterThan(0);
    })();
    await expect(reading).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
    await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
  });
});

describe('many calls', () => {
  test('500 at a time: no slot is used twice, every caller gets its own answer', async () => {
    const busy = new Map<string, number>();
    let most = 0;
    const { runtime, backend } = await start(
      {
        async handler({ body, program }) {
          busy.set(program.id, (busy.get(program.id) ?? 0) + 1);
          most = Math.max(most, busy.get(program.id) ?? 0);
          await delay(Number(body.toString()) % 3);
          busy.set(program.id, (busy.get(program.id) ?? 0) - 1);
          return body;
        },
      },
      { limits: { instancesPerFunctionMax: 12 } },
    );
    const values = Array.from({ length: 500 }, (_, index) => String(index));
    const answers = await Promise.all(values.map((value) => runtime.invoke(versionOf(), Buffer.from(value))));
    expect(answers.map(text)).toEqual(values);
    expect(most).toBe(1);
    expect(backend.programs.length > 1 && backend.programs.length <= 12).toBe(true);
    expect(backend.failures).toEqual([]);
  });

  test('of instances that take several at a time', async () => {
    const together = Promise.withResolvers<void>();
    let running = 0;
    const { runtime, backend } = await start({
      async handler({ body }) {
        running += 1;
        if (running === 4) together.resolve();
        await together.promise;
        return body;
      },
    });
    const fn = versionOf({ concurrencyPerInstance: 4 });
    await runtime.warm(fn, 1);
    const values = ['1', '2', '3', '4'];
    // None ends before all four run.
    expect((await Promise.all(values.map((value) => runtime.invoke(fn, Buffer.from(value))))).map(text)).toEqual(values);
    expect([running, backend.programs.length]).toEqual([4, 1]);
  });

  test('a timeout on a shared instance: the others end well, then it goes', async () => {
    const gate = Promise.withResolvers<void>();
    const { runtime, backend } = await start({
      handler: async ({ body }) => (body.toString() === '"hang"' ? new Promise(() => {}) : gate.promise.then(() => body)),
    });
    const fn = versionOf({ concurrencyPerInstance: 4, timeoutMs: 100 });
    const slow = versionOf({ concurrencyPerInstance: 4, timeoutMs: 60_000 });
    await runtime.warm(fn, 1);
    const good = runtime.invoke(slow, event('good'));
    await expect(runtime.invoke(fn, event('hang'))).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
    expect(backend.running).toHaveLength(1);
    gate.resolve();
    expect(text(await good)).toBe('"good"');
    await until(() => backend.running.length === 0);
  });

  test('50 first calls start no more than startsMax at a time', async () => {
    const { runtime, backend } = await start({}, { limits: { startsMax: 4 } });
    const gate = Promise.withResolvers<void>();
    backend.launchGate = gate.promise;
    const calls = Array.from({ length: 50 }, (_, index) => runtime.invoke(versionOf(), event(index)));
    await until(() => backend.launching === 4);
    gate.resolve();
    expect((await Promise.all(calls)).map(text)).toEqual(Array.from({ length: 50 }, (_, index) => String(index)));
    expect(backend.launchingMax).toBe(4);
  });

  test('8 cold starts go on beside each other', async () => {
    let [booting, handling] = [0, 0];
    const { runtime, backend } = await start({
      async boot() {
        booting += 1;
        await until(() => booting === 8);
      },
      async handler({ body }) {
        handling += 1;
        await until(() => handling === 8);
        return body;
      },
    });
    await Promise.all(Array.from({ length: 8 }, () => runtime.invoke(versionOf({ timeoutMs: 60_000 }), event(1))));
    expect(backend.programs).toHaveLength(8);
  });

  test('a freed instance serves who waits for longest, although another one is being started', async () => {
    const gate = Promise.withResolvers<void>();
    const { runtime, backend } = await start({ handler: async ({ body }) => delay(30).then(() => body) });
    const first = runtime.invoke(versionOf(), event(1));
    await until(() => backend.programs.length === 1);
    backend.launchGate = gate.promise;
    const second = runtime.invoke(versionOf(), event(2));
    expect([text(await first), text(await second)]).toEqual(['1', '2']);
    expect(backend.programs).toHaveLength(1);
    gate.resolve();
  });

  test('a full queue refuses, a long wait ends', async () => {
    const { runtime } = await start(
      { handler: () => new Promise(() => {}) },
      { limits: { instancesPerFunctionMax: 1, queueMax: 2, queueTimeoutMs: 100 } },
    );
    await runtime.warm(versionOf(), 1);
    const running = runtime.invoke(versionOf(), event(1));
    running.catch(() => {});
    await until(() => runtime.instances()[0]?.state === 'busy');
    const waiting = [runtime.invoke(versionOf(), event(2)), runtime.invoke(versionOf(), event(3))];
    const outcomes = Promise.allSettled(waiting);
    await expect(runtime.invoke(versionOf(), event(4))).rejects.toMatchObject({ code: 'QUEUE_FULL', retry: 'safe' });
    for (const outcome of await outcomes)
      expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'QUEUE_TIMEOUT', retry: 'safe' } });
  });
});

describe('a redeploy', () => {
  test('under load: who calls after it never gets old code, and nobody fails', async () => {
    const { runtime, backend } = await start({
      handler: async ({ program }) => delay(1).then(() => program.spec.fn.fingerprint),
    });
    let current = 'v0';
    let isOver = false;
    let calls = 0;
    const caller = async (): Promise<void> => {
      while (!isOver) {
        const expected = Number(current.slice(1));
        const answer = text(await runtime.invoke(versionOf({ fingerprint: current }), event(1)));
        calls += 1;
        expect(Number(answer.slice(1))).toBeGreaterThanOrEqual(expected);
      }
    };
    const callers = Array.from({ length: 20 }, caller);
    for (let version = 1; version <= 10; version += 1) {
      const made = calls;
      await until(() => calls >= made + 20);
      current = `v${version}`;
      runtime.retire('cook', [current]);
    }
    const made = calls;
    await until(() => calls >= made + 20);
    isOver = true;
    await Promise.all(callers);
    await until(() => runtime.instances().every(({ fingerprint }) => fingerprint === 'v10'));
    await until(() => backend.running.every(({ spec }) => spec.fn.fingerprint === 'v10'));
  });

  test('of the same fingerprint: instances from before serve nobody who comes after', async () => {
    const gate = Promise.withResolvers<void>();
    const { runtime, backend } = await start({ handler: async ({ program }) => gate.promise.then(() => program.id) });
    const before = runtime.invoke(versionOf(), event(1));
    await until(() => runtime.instances()[0]?.state === 'busy');
    runtime.retire('cook', []);
    gate.resolve();
    const old = text(await before);
    expect(text(await runtime.invoke(versionOf(), event(2)))).not.toBe(old);
    await until(() => backend.running.length === 1);
    expect(backend.running[0]?.id).not.toBe(old);
  });

  test('gives starts up that nobody waits for, without a warning: nothing is wrong', async () => {
    const warnings: string[] = [];
    const log = { ...silentTelemetry.log, warn: (message: string) => void warnings.push(message) };
    const { runtime, backend } = await start({}, { telemetry: { ...silentTelemetry, log } });
    backend.launchGate = new Promise(() => {});
    const warm = expect(runtime.warm(versionOf(), 1)).rejects.toMatchObject({ code: 'ABORTED' });
    await until(() => backend.launching === 1);
    runtime.retire('cook', []);
    await warm;
    await until(() => backend.launching === 0);
    expect(warnings).toEqual([]);
  });

  test('leaves other functions and what is to be kept', async () => {
    const { runtime, backend } = await start();
    const versions = [versionOf(), versionOf({ fingerprint: 'f1' }), versionOf({ name: 'wash', fingerprint: 'w0' })];
    for (const fn of versions) await runtime.invoke(fn, event(1));
    runtime.retire('cook', ['f1']);
    await until(() => backend.running.length === 2);
    expect(backend.running.map(({ spec }) => spec.fn.fingerprint)).toEqual(['f1', 'w0']);
  });
});

describe('idle instances', () => {
  test('are paused and resumed when the backend can', async () => {
    const { runtime, backend } = await start({ canPause: true }, { keepAlive: fixedKeepAlive({ pauseAfterMs: 20 }) });
    await runtime.invoke(versionOf(), event(1));
    await until(() => backend.programs[0]?.isPaused === true);
    expect(runtime.instances()[0]?.state).toBe('paused');
    const { report } = await runtime.invoke(versionOf(), event(2));
    expect([report.coldStart, backend.programs[0]?.isPaused, backend.programs.length]).toEqual([false, false, 1]);
  });

  test('one that cannot be resumed costs nobody a call', async () => {
    const { runtime, backend } = await start({ canPause: true }, { keepAlive: fixedKeepAlive({ pauseAfterMs: 20 }) });
    backend.resume = () => Promise.reject(new Error('it stays asleep'));
    await runtime.invoke(versionOf(), event(1));
    await until(() => backend.programs[0]?.isPaused === true);
    expect((await runtime.invoke(versionOf(), event(2))).report.coldStart).toBe(true);
    await until(() => backend.running.length === 1);
  });

  test('one that is not resumed in time costs nobody a call', async () => {
    const clock = new FakeClock();
    const { runtime, backend } = await start({ canPause: true }, { clock, keepAlive: fixedKeepAlive({ pauseAfterMs: 20 }) });
    await runtime.invoke(versionOf(), event(1));
    await clock.advance(20);
    await until(() => backend.programs[0]?.isPaused === true);
    backend.resume = () => new Promise(() => {});
    const call = runtime.invoke(versionOf(), event(2));
    await clock.advance(4_999);
    expect(runtime.instances()).toMatchObject([{ state: 'busy' }]);
    await clock.advance(1);
    expect((await call).report.coldStart).toBe(true);
    await until(() => backend.running.length === 1);
  });

  test('a call that is cancelled while its instance is resumed leaves it to the next one', async () => {
    const seen: string[] = [];
    const handler = async ({ body }: { readonly body: Buffer }): Promise<Buffer> => {
      seen.push(body.toString());
      return body;
    };
    const { runtime, backend } = await start({ canPause: true, handler }, { keepAlive: fixedKeepAlive({ pauseAfterMs: 20 }) });
    await runtime.invoke(versionOf(), event(1));
    await until(() => backend.programs[0]?.isPaused === true);
    const gate = Promise.withResolvers<void>();
    backend.resume = () => gate.promise;
    const controller = new AbortController();
    const call = runtime.invoke(versionOf(), event(2), { signal: controller.signal });
    controller.abort();
    await expect(call).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' });
    gate.resolve();
    await until(() => runtime.instances()[0]?.state === 'idle');
    await runtime.invoke(versionOf(), event(3));
    expect([seen, backend.programs.length]).toEqual([['1', '3'], 1]);
  });

  test('are ended when their time is over, but not those that are to stay', async () => {
    const clock = new FakeClock();
    const { runtime, backend } = await start({}, { clock, keepAlive: fixedKeepAlive({ keepMs: 40 }) });
    await runtime.warm(versionOf(), 3);
    await runtime.warm(versionOf({ name: 'wash', fingerprint: 'w' }), 2, { keep: true });
    await clock.advance(39);
    expect(backend.running).toHaveLength(5);
    await clock.advance(1);
    await until(() => backend.running.length === 2);
    expect(backend.running.map(({ spec }) => spec.fn.name)).toEqual(['wash', 'wash']);
    backend.running[0]?.end({ reason: 'exited', exitCode: 0 });
    await until(() => runtime.instances().filter(({ state }) => state === 'idle').length === 2);
    // Long after their time, with nothing else going on.
    await clock.advance(100_000);
    await runtime.warm(versionOf({ name: 'wash', fingerprint: 'w' }), 0, { keep: true });
    await clock.advance(100_000);
    await until(() => backend.running.length === 0);
  });

  test('make room for other functions', async () => {
    const { runtime, backend } = await start({}, { limits: { instancesMax: 2 } });
    for (const name of ['a', 'b', 'c']) await runtime.invoke(versionOf({ name, fingerprint: name }), event(1));
    expect(backend.running.map(({ spec }) => spec.fn.name)).toEqual(['b', 'c']);
  });
});

describe('start and close', () => {
  test('nothing works before start and after close', async () => {
    const { runtime } = await start();
    const unstarted = new FunctionRuntime({ backend: new FakeBackend(), folder: '/nowhere' });
    await expect(unstarted.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'STATE_INVALID' });
    await runtime.close();
    await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED', retry: 'safe' });
    await expect(runtime.warm(versionOf(), 1)).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED' });
  });

  test('close lets running and waiting calls end, and leaves nothing', async () => {
    const gate = Promise.withResolvers<void>();
    const { runtime, backend, folder } = await start(
      { handler: async ({ body }) => gate.promise.then(() => body) },
      { limits: { instancesPerFunctionMax: 1 } },
    );
    const calls = [runtime.invoke(versionOf(), event(1)), runtime.invoke(versionOf(), event(2))];
    await until(() => runtime.instances()[0]?.state === 'busy');
    const closing = runtime.close();
    gate.resolve();
    expect((await Promise.all(calls)).map(text)).toEqual(['1', '2']);
    await closing;
    await runtime.close();
    expect(backend.running).toEqual([]);
    expect((await readdir(folder)).toSorted()).toEqual(['owner']);
  });

  test('close ends at its deadline what does not end', async () => {
    const { runtime, backend } = await start({ handler: () => new Promise(() => {}) }, { limits: { instancesPerFunctionMax: 1 } });
    const running = runtime.invoke(versionOf(), event(1));
    const waiting = runtime.invoke(versionOf(), event(2));
    const outcomes = Promise.allSettled([running, waiting]);
    await until(() => runtime.instances()[0]?.state === 'busy');
    await runtime.close(50);
    expect(await outcomes).toMatchObject([{ reason: { code: 'ABORTED' } }, { reason: { code: 'EXECUTOR_CLOSED' } }]);
    expect(backend.running).toEqual([]);
  });

  test('close gives up starts', async () => {
    const { runtime, backend } = await start();
    backend.launchGate = new Promise(() => {});
    const call = runtime.invoke(versionOf(), event(1));
    const failure = expect(call).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED' });
    await until(() => backend.launching === 1);
    await runtime.close(10);
    await failure;
    expect(backend.launching).toBe(0);
  });

  test('a start that failed can be tried again', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'fr-'));
    opened.push(() => rm(folder, { recursive: true, force: true }));
    const backend = new FakeBackend();
    const reapStale = backend.reapStale.bind(backend);
    backend.reapStale = () => Promise.reject(new RunnerError('BACKEND_UNAVAILABLE', 'the engine is gone'));
    const runtime = new FunctionRuntime({ backend, folder });
    opened.push(() => runtime.close(0));
    await expect(runtime.start()).rejects.toMatchObject({ code: 'BACKEND_UNAVAILABLE' });
    await expect(runtime.invoke(versionOf(), event(1))).rejects.toMatchObject({ code: 'STATE_INVALID' });
    backend.reapStale = reapStale;
    await runtime.start();
    expect(text(await runtime.invoke(versionOf(), event(1)))).toBe('1');
  });

  test('a folder has one user at a time, and one owner for ever', async () => {
    const { runtime, backend, folder } = await start();
    const second = new FunctionRuntime({ backend: new FakeBackend(), folder });
    await expect(second.start()).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await runtime.close();
    const next = new FakeBackend();
    const third = new FunctionRuntime({ backend: next, folder });
    await third.start();
    await third.close();
    expect(next.reaped).toEqual(backend.reaped);
    const other = await start();
    expect(other.backend.reaped).not.toEqual(backend.reaped);
  });

  test('a folder whose path is too long for sockets is refused', async () => {
    const runtime = new FunctionRuntime({ backend: new FakeBackend(), folder: `/tmp/${'a'.repeat(100)}` });
    await expect(runtime.start()).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: expect.stringContaining('too long') });
  });

  test('the socket of an instance lies in a folder that nobody else may enter', async () => {
    const { runtime, backend } = await start();
    await runtime.invoke(versionOf(), event(1));
    const { mode } = await stat(dirname(backend.programs[0]?.socketPath ?? ''));
    expect(mode & 0o777).toBe(0o700);
  });
});

describe('what happens is told', () => {
  test('as events and metrics', async () => {
    const telemetry = createTelemetry();
    const events: RuntimeEvent[] = [];
    const { runtime } = await start(
      { handler: async ({ body }) => (body.toString() === '2' ? Promise.reject(new Error('no')) : body) },
      { telemetry: telemetry.telemetry, onEvent: (_, make) => events.push(make()) },
    );
    await runtime.invoke(versionOf(), event(1), { requestId: 'r1' });
    await expect(runtime.invoke(versionOf(), event(2), { requestId: 'r2' })).rejects.toMatchObject({ code: 'FUNCTION_FAILED' });
    await runtime.close();
    expect(events.map((each) => (each.kind === 'instance' ? each.state : `${each.requestId} ${each.outcome ?? each.state}`))).toEqual([
      'starting',
      'r1 queued',
      'ready',
      'r1 started',
      'r1 OK',
      'r2 queued',
      'r2 started',
      'r2 FUNCTION_FAILED',
      'ended',
    ]);
    const [queued, started, ended] = events.filter((each) => each.kind === 'invocation');
    expect(queued).not.toHaveProperty('instanceId');
    expect(started).toMatchObject({ instanceId: runtime.log('cook').at(-1)?.instanceId ?? started?.instanceId });
    expect(ended).toMatchObject({ instanceId: started?.instanceId, report: { requestId: 'r1', coldStart: true } });
    const values = telemetry.values();
    expect(values).toMatchObject({
      'blueprint_function_invocations_total{function=cook,outcome=OK}': 1,
      'blueprint_function_invocations_total{function=cook,outcome=FUNCTION_FAILED}': 1,
      'blueprint_function_cold_starts_total{function=cook}': 1,
      'blueprint_function_in_flight{function=cook}': 0,
      'blueprint_function_evictions_total{function=cook,reason=closed}': 1,
    });
  });

  test('what waits and what is up is measured while calls go on, and once more after them', async () => {
    const { telemetry, values } = createTelemetry();
    const clock = new FakeClock();
    const gate = Promise.withResolvers<void>();
    const { runtime, backend } = await start(
      { handler: async ({ body }) => gate.promise.then(() => body) },
      { telemetry, clock, limits: { instancesPerFunctionMax: 1, queueTimeoutMs: 60_000 } },
    );
    const calls = [runtime.invoke(versionOf(), event(1)), runtime.invoke(versionOf(), event(2))];
    await until(() => backend.programs.length === 1 && runtime.instances()[0]?.state === 'busy');
    await clock.advance(5_000);
    expect(values()).toMatchObject({
      'blueprint_runtime_instances{state=busy}': 1,
      'blueprint_runtime_instances{state=idle}': 0,
      'blueprint_runtime_queue_depth{}': 1,
      'blueprint_runtime_queue_oldest_age_seconds{}': 5,
    });
    gate.resolve();
    await Promise.all(calls);
    await clock.advance(1_000);
    expect(values()).toMatchObject({
      'blueprint_runtime_instances{state=busy}': 0,
      'blueprint_runtime_instances{state=idle}': 1,
      'blueprint_runtime_queue_depth{}': 0,
      'blueprint_runtime_queue_oldest_age_seconds{}': 0,
    });
  });
});

/** Metrics as plain numbers; histograms count their records. */
function createTelemetry(): { readonly telemetry: Telemetry; values(): Record<string, number> } {
  const values: Record<string, number> = {};
  const metric = ({ name, labels = {} }: MetricOptions): Counter & Gauge & Histogram => {
    const key = `${name}{${Object.entries(labels)
      .map(([label, value]) => `${label}=${value}`)
      .join(',')}}`;
    values[key] ??= 0;
    const add = (amount = 1): void => void (values[key] = (values[key] ?? 0) + amount);
    return { add, set: (value) => void (values[key] = value), record: () => add(1) };
  };
  return { telemetry: { ...silentTelemetry, metrics: { counter: metric, gauge: metric, histogram: metric } }, values: () => values };
}
