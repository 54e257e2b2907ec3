/** Programs that run once in a container: a request on stdin, a response on stdout. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect } from 'vitest';
import { ContainerBackend, ContainerStdioExecutor } from '../../plugins/container/index.ts';
import { CONFORMANCE_JOBS } from '../../src/conformance/conformance.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { RunnerError } from '../../src/errors.ts';
import { Metadata, toJobId } from '../../src/plugin.ts';
import type { JobCall } from '../../src/plugin.ts';
import { containersWith, testDocker } from '../support/container-engine.ts';
import { InstanceLab } from '../support/instances.ts';

const lab = new InstanceLab();
const backend = new ContainerBackend({ folder: join(lab.folder, 'state') });

afterAll(async () => {
  await backend.close();
  await lab.close();
});

const program = (source: string, settings: Parameters<InstanceLab['fn']>[1] = {}) =>
  lab.fn({ files: { 'main.mjs': source } }, { handler: 'main.mjs', ...settings });
const READ = `import { text } from 'node:stream/consumers'; const input = await text(process.stdin);`;
const run = async (source: string, input = '{}', options: Parameters<ContainerBackend['runStdio']>[2] = {}) =>
  backend.runStdio(program(source), Buffer.from(input), { ownerId: lab.ownerId, ...options });
const failure = (running: Promise<unknown>): Promise<RunnerError> =>
  running.then(
    () => {
      throw new Error('it did not fail');
    },
    (error: unknown) => error as RunnerError,
  );

describe('a program in a container', () => {
  testDocker('reads a request and writes a response; its log goes elsewhere', async () => {
    const logged: string[] = [];
    const source = `${READ} console.error('a log line'); process.stdout.write(JSON.stringify({ got: JSON.parse(input), uid: process.getuid() }));`;
    const { output, logTail, runMs } = await run(source, '{"a":"ů"}', { onLog: (chunk) => logged.push(Buffer.from(chunk).toString()) });
    expect(JSON.parse(Buffer.from(output).toString())).toEqual({
      got: { a: 'ů' },
      uid: process.getuid?.() === 0 ? 993 : process.getuid?.(),
    });
    expect([logTail, logged.join('')]).toEqual(['a log line\n', 'a log line\n']);
    expect(runMs).toBeGreaterThan(0);
  });

  testDocker('takes and gives megabytes', async () => {
    const input = JSON.stringify({ text: 'x'.repeat(3_000_000) });
    const { output } = await run(`${READ} process.stdout.write(input);`, input);
    expect(Buffer.from(output).equals(Buffer.from(input))).toBe(true);
  });

  testDocker('may read nothing', async () => {
    const { output } = await run(`process.stdout.write('1');`, JSON.stringify('x'.repeat(200_000)));
    expect(Buffer.from(output).toString()).toBe('1');
  });

  testDocker('is found by the name of its handler', async () => {
    const fn = program(`process.stdout.write('"found"');`, { handler: 'main.handler' });
    expect(Buffer.from((await backend.runStdio(fn, Buffer.from('{}'))).output).toString()).toBe('"found"');
    expect(await failure(backend.runStdio(program('', { handler: 'other.handler' }), Buffer.from('{}')))).toMatchObject({
      code: 'CODE_MISSING',
    });
  });

  testDocker('that fails tells its exit code and its last lines', async () => {
    expect(await failure(run(`console.error('it hurts'); process.exitCode = 3;`))).toMatchObject({
      code: 'FUNCTION_CRASHED',
      message: expect.stringMatching(/exit code 3.*\nit hurts/) as string,
      details: { reason: 'exited', exitCode: 3 },
    });
  });

  testDocker('that writes anything but one JSON value is refused', async () => {
    expect(await failure(run(`console.log('hello');`))).toMatchObject({
      code: 'EXECUTOR_RESPONSE_INVALID',
      message: expect.stringContaining('hello') as string,
    });
    expect(await failure(run(`1;`))).toMatchObject({ code: 'EXECUTOR_RESPONSE_INVALID' });
    expect(await failure(run(`console.log('1 2');`))).toMatchObject({ code: 'EXECUTOR_RESPONSE_INVALID' });
  });

  testDocker('that never ends is killed at its time', async () => {
    const before = performance.now();
    expect(await failure(run(`process.on('SIGTERM', () => {}); for (;;);`, '{}', { timeoutMs: 400 }))).toMatchObject({
      code: 'EXECUTOR_TIMEOUT',
    });
    expect(performance.now() - before).toBeLessThan(8_000);
  });

  testDocker('that takes too much memory is told apart', async () => {
    const fn = program(`const kept = []; for (;;) kept.push(Buffer.alloc(8 << 20, 1));`, { memoryMb: 96 });
    expect(await failure(backend.runStdio(fn, Buffer.from('{}')))).toMatchObject({ code: 'FUNCTION_OUT_OF_MEMORY' });
  });

  testDocker('that writes without end is killed at its limit', async () => {
    const source = `const block = Buffer.alloc(1 << 16, 'x'); const more = () => process.stdout.write(block, more); more();`;
    expect(await failure(run(source, '{}', { outputBytesMax: 1_000_000 }))).toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
  });

  testDocker('that nobody wants any more is killed', async () => {
    const giveUp = new AbortController();
    const running = failure(run(`console.error('up'); for (;;);`, '{}', { signal: giveUp.signal, onLog: () => giveUp.abort() }));
    expect(await running).toMatchObject({ code: 'ABORTED' });
    expect(await failure(run(`1`, '{}', { signal: AbortSignal.abort() }))).toMatchObject({ code: 'ABORTED' });
  });

  testDocker('leaves no container', async () => {
    expect(await containersWith(`dev.blueprint-runner.owner=${lab.ownerId}`)).toEqual([]);
  });
});

describe('jobs as programs in containers', () => {
  testDocker('run from the bundle that goes to every platform', async () => {
    const { file } = await buildHandler({
      entry: join(import.meta.dirname, '../fixtures/handler/jobs.ts'),
      outDir: join(lab.folder, 'build'),
    });
    const fn = lab.fn({ files: { 'handler.mjs': readFileSync(file, 'utf8') } }, { handler: 'handler.handler' });
    const executor = new ContainerStdioExecutor({ backend, fn: (jobId) => (jobId === 99n ? undefined : fn) });
    const call = (jobId: bigint, text: string): JobCall => ({
      id: 'call-1',
      jobId: toJobId(jobId),
      body: Buffer.from(text),
      metadata: new Metadata(),
    });
    const options = { deadline: Date.now() + 30_000, attempt: 1 };
    const { results, report } = await executor.invoke(call(CONFORMANCE_JOBS.echo, 'ů'), options);
    expect(Buffer.from(results[0]?.body ?? []).toString()).toBe('ů');
    expect(report?.coldStart).toBe(true);
    expect(await failure(executor.invoke(call(99n, ''), options))).toMatchObject({ code: 'EXECUTOR_NOT_FOUND' });
    await executor.close();
    expect(await failure(executor.invoke(call(CONFORMANCE_JOBS.echo, ''), options))).toMatchObject({ code: 'EXECUTOR_CLOSED' });
  });
});
