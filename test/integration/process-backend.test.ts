import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ProcessBackend } from '../../plugins/process/index.ts';
import type { ProcessBackendOptions } from '../../plugins/process/index.ts';
import type { FunctionVersion, Instance, InstanceEnd, LaunchSpec } from '../../src/plugin.ts';
import { startLambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';
import type { LambdaOutcome, LambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';

let root: string;
let backends: ProcessBackend[];
let apis: LambdaRuntimeApi[];
let count: number;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bpr-process-'));
  chmodSync(root, 0o711);
  backends = [];
  apis = [];
  count = 0;
});

afterEach(async () => {
  await Promise.all(backends.map((backend) => backend.close()));
  await Promise.all(apis.map((api) => api.close()));
  rmSync(root, { recursive: true, force: true });
});

function backendOf(options: ProcessBackendOptions = {}): ProcessBackend {
  const backend = new ProcessBackend({ folder: join(root, 'instances'), blanks: 0, ...options });
  backends.push(backend);
  return backend;
}

/** A function whose package has these files. */
function functionOf(files: Readonly<Record<string, string>>, more: Partial<FunctionVersion> = {}): FunctionVersion {
  count += 1;
  const path = join(root, `code-${count}`);
  mkdirSync(path, { mode: 0o755 });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text, { mode: 0o755 });
  return {
    name: `function-${count}`,
    version: '1',
    fingerprint: `fingerprint-${count}`,
    code: { kind: 'folder', path, sha256: '' },
    layers: [],
    runtime: 'nodejs24.x',
    handler: 'index.handler',
    memoryMb: 128,
    timeoutMs: 10_000,
    ephemeralMb: 64,
    environment: {},
    concurrencyPerInstance: 1,
    network: 'none',
    ...more,
  };
}

interface Started {
  readonly api: LambdaRuntimeApi;
  readonly instance: Instance;
  output(): string;
}

async function specOf(
  fn: FunctionVersion,
  more: Partial<LaunchSpec> = {},
): Promise<{ spec: LaunchSpec; api: LambdaRuntimeApi; output: () => string }> {
  count += 1;
  const folder = join(root, `api-${count}`);
  mkdirSync(folder, { mode: 0o700 });
  const socketPath = join(folder, 'api.sock');
  const api = await startLambdaRuntimeApi({ socketPath });
  apis.push(api);
  let output = '';
  const spec: LaunchSpec = {
    instanceId: `instance-${count}`,
    ownerId: 'owner',
    fn,
    runtimeApi: { socketPath, openPort: () => Promise.reject(new Error('no port')) },
    environment: { _HANDLER: fn.handler, LAMBDA_TASK_ROOT: '/var/task' },
    onOutput: (_stream, chunk) => (output += Buffer.from(chunk).toString()),
    signal: new AbortController().signal,
    ...more,
  };
  return { spec, api, output: () => output };
}

async function launch(backend: ProcessBackend, fn: FunctionVersion, more: Partial<LaunchSpec> = {}): Promise<Started> {
  const { spec, api, output } = await specOf(fn, more);
  return { api, instance: await backend.launch(spec), output };
}

function bodyOf(outcome: LambdaOutcome): unknown {
  if (outcome.kind === 'error') throw new Error(outcome.fault.body);
  return JSON.parse(outcome.body.toString());
}

const textOf = (outcome: LambdaOutcome): string => (outcome.kind === 'response' ? outcome.body.toString() : outcome.fault.body);

/** Resolves when so many processes wait for a function. */
async function untilBlanks(backend: ProcessBackend, wanted: number): Promise<void> {
  await vi.waitFor(async () => expect((await backend.describe()).blanks).toBe(wanted), { interval: 5, timeout: 20_000 });
}

const js = (body: string): Record<string, string> => ({ 'index.js': `exports.handler = async (event, context) => { ${body} };` });

describe('an instance', () => {
  test('answers events and ends when it is told', async () => {
    const backend = backendOf();
    const { api, instance } = await launch(backend, functionOf(js('return { doubled: event.x * 2 };')));
    expect(bodyOf(await api.invoke('{"x":21}'))).toEqual({ doubled: 42 });
    await backend.terminate(instance);
    const end: InstanceEnd = await instance.ended;
    expect(end).toMatchObject({ reason: 'terminated' });
  });
});

describe('the program', () => {
  test('sees exactly the environment that it was given', async () => {
    process.env['RUNNER_SECRET'] = 'of the runner';
    const backend = backendOf();
    const fn = functionOf(js('return process.env;'));
    const { api } = await launch(backend, fn, { environment: { _HANDLER: 'index.handler', LAMBDA_TASK_ROOT: '/var/task', MINE: 'yes' } });
    const environment = bodyOf(await api.invoke('{}'));
    delete process.env['RUNNER_SECRET'];
    expect(environment).toEqual({
      _HANDLER: 'index.handler',
      _X_AMZN_TRACE_ID: '',
      LAMBDA_TASK_ROOT: '/var/task',
      MINE: 'yes',
      PATH: '/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin',
      NODE_PATH: '/opt/nodejs/node_modules:/var/task/node_modules',
      AWS_LAMBDA_RUNTIME_API: 'unix:/run/runtime/api.sock',
    });
  });

  test('sees layers merged at /opt, the later one over the earlier one', async () => {
    const layers = ['first', 'second'].map((name) => {
      const path = join(root, `layer-${name}`);
      mkdirSync(join(path, 'nodejs/node_modules/shared'), { recursive: true });
      writeFileSync(join(path, 'nodejs/node_modules/shared/index.js'), `module.exports = '${name}';`);
      writeFileSync(join(path, name), name);
      return { path, sha256: '' };
    });
    const fn = functionOf(js("return [require('shared'), require('fs').readdirSync('/opt').sort()];"), { layers });
    const backend = backendOf({ blanks: 1 });
    const first = await launch(backend, fn);
    expect(bodyOf(await first.api.invoke('{}'))).toEqual(['second', ['first', 'nodejs', 'second']]);
    await untilBlanks(backend, 1);
    const second = await launch(backend, fn);
    expect(bodyOf(await second.api.invoke('{}'))).toEqual(['second', ['first', 'nodejs', 'second']]);
  });

  test.each([
    ['an ES module by its name', { 'index.mjs': 'export const handler = async () => 1;' }, 1],
    ['an ES module by its package', { 'package.json': '{"type":"module"}', 'index.js': 'export const handler = async () => 2;' }, 2],
    ['a callback', { 'index.js': 'exports.handler = (event, context, done) => setImmediate(done, null, 3);' }, 3],
    ['a value', { 'index.cjs': 'exports.handler = () => 4;' }, 4],
    ['nothing', js(''), null],
  ])('answers by %s', async (_how, files, expected) => {
    const { api } = await launch(backendOf(), functionOf(files));
    expect(bodyOf(await api.invoke('{}'))).toBe(expected);
  });

  test('has what a Lambda context has', async () => {
    const environment = {
      _HANDLER: 'index.handler',
      LAMBDA_TASK_ROOT: '/var/task',
      AWS_LAMBDA_FUNCTION_NAME: 'f',
      AWS_LAMBDA_FUNCTION_MEMORY_SIZE: '128',
    };
    const fn = functionOf(js('return { ...context, left: context.getRemainingTimeInMillis(), trace: process.env._X_AMZN_TRACE_ID };'));
    const { api } = await launch(backendOf(), fn, { environment });
    const context = bodyOf(await api.invoke('{}', { deadlineMs: Date.now() + 5_000, traceId: 'Root=1' })) as { left: number };
    expect(context).toMatchObject({
      awsRequestId: '00000000-0000-4000-8000-000000000001',
      invokedFunctionArn: 'arn:aws:lambda:us-east-1:012345678912:function:test_function',
      functionName: 'f',
      memoryLimitInMB: '128',
      trace: 'Root=1',
    });
    expect(context.left).toBeGreaterThan(0);
    expect(context.left).toBeLessThanOrEqual(5_000);
  });

  test('works on several events at the same time when it is told to', async () => {
    const environment = { _HANDLER: 'index.handler', LAMBDA_TASK_ROOT: '/var/task', AWS_LAMBDA_MAX_CONCURRENCY: '3' };
    const files = {
      'index.js':
        'let all = []; exports.handler = (e) => new Promise((r) => { all.push(r); if (all.length === 3) for (const each of all) each(all.length); });',
    };
    const { api } = await launch(backendOf(), functionOf(files), { environment });
    expect((await Promise.all([1, 2, 3].map(() => api.invoke('{}')))).map(bodyOf)).toEqual([3, 3, 3]);
  });

  test('streams, with the reason when it breaks off', async () => {
    const handler = (body: string): Record<string, string> => ({
      'index.js': `exports.handler = awslambda.streamifyResponse(async (event, stream) => { ${body} });`,
    });
    const { api } = await launch(
      backendOf(),
      functionOf(
        handler(
          "if (event.early) throw new RangeError('early'); stream.setContentType('text/plain'); stream.write('one'); await new Promise((r) => setTimeout(r, 30)); stream.write('two'); if (event.late) throw new RangeError('late'); stream.end();",
        ),
      ),
    );
    expect(await api.invoke('{}')).toMatchObject({
      kind: 'response',
      streamed: true,
      contentType: 'text/plain',
      body: Buffer.from('onetwo'),
    });
    expect(await api.invoke('{"early":1}')).toMatchObject({ kind: 'error', fault: { type: 'RangeError' } });
    const late = await api.invoke('{"late":1}');
    expect(late).toMatchObject({ kind: 'response', body: Buffer.from('onetwo'), fault: { type: 'RangeError' } });
    expect(JSON.parse(late.kind === 'response' ? (late.fault?.body ?? '') : '')).toMatchObject({
      errorType: 'RangeError',
      errorMessage: 'late',
    });
    expect(textOf(await api.invoke('{}'))).toBe('onetwo');
    expect(api.refused).toEqual([]);
  });

  test('streams HTTP with its head before the body', async () => {
    const files = {
      'index.js':
        "exports.handler = awslambda.streamifyResponse(async (event, stream) => { stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201 }); stream.end('x'); });",
    };
    const { api } = await launch(backendOf(), functionOf(files));
    expect(await api.invoke('{}')).toMatchObject({
      contentType: 'application/vnd.awslambda.http-integration-response',
      body: Buffer.from('{"statusCode":201}\0\0\0\0\0\0\0\0x'),
    });
  });
});

describe('errors', () => {
  async function faultOf(
    body: string,
  ): Promise<{ type: string; body: { errorType: string; errorMessage: string; trace: string[] }; end: Promise<InstanceEnd> }> {
    const { api, instance } = await launch(backendOf(), functionOf(js(body)));
    const outcome = await api.invoke('{}');
    if (outcome.kind !== 'error') throw new Error('no error');
    return { type: outcome.fault.type, body: JSON.parse(outcome.fault.body) as never, end: instance.ended };
  }

  test('of the handler have their type, their message and their trace', async () => {
    const { type, body } = await faultOf("throw new RangeError('too far');");
    expect(type).toBe('RangeError');
    expect(body).toMatchObject({ errorType: 'RangeError', errorMessage: 'too far' });
    expect(body.trace[0]).toBe('RangeError: too far');
    expect(body.trace[1]).toMatch(/at exports\.handler .*\/var\/task\/index\.js:1:/);
  });

  test('may be whatever was thrown', async () => {
    expect((await faultOf("throw 'text';")).body).toEqual({ errorType: 'string', errorMessage: 'text', trace: [] });
  });

  test('tell a result that cannot be written', async () => {
    expect((await faultOf('return 1n;')).type).toBe('Runtime.JSONStringifyError');
  });

  test('tell a rejection that nobody handled, and end the process', async () => {
    const { type, body, end } = await faultOf("Promise.reject(new TypeError('lost')); await new Promise(() => {});");
    expect(type).toBe('Runtime.UnhandledPromiseRejection');
    expect(body.errorMessage).toBe('TypeError: lost');
    expect(await end).toEqual({ reason: 'exited', exitCode: 128 });
  });

  test('tell an exception that nobody caught, and end the process', async () => {
    const { type, end } = await faultOf("setTimeout(() => { throw new TypeError('later'); }); await new Promise(() => {});");
    expect(type).toBe('TypeError');
    expect(await end).toEqual({ reason: 'exited', exitCode: 129 });
  });

  test.each([
    ['a missing module', js("require('not-there');"), 'index.handler', undefined],
    ['a missing file', js(''), 'other.handler', 'Runtime.ImportModuleError'],
    ['a missing import', { 'index.js': "require('not-there');" }, 'index.handler', 'Runtime.ImportModuleError'],
    ['a missing export', js(''), 'index.other', 'Runtime.HandlerNotFound'],
    ['what is no function', { 'index.js': 'exports.handler = 1;' }, 'index.handler', 'Runtime.HandlerNotFound'],
    ['bad syntax', { 'index.js': 'exports.handler = (' }, 'index.handler', 'Runtime.UserCodeSyntaxError'],
    ['a name without a point', js(''), 'index', 'Runtime.MalformedHandlerName'],
    ['a path out of the package', js(''), '../index.handler', 'Runtime.MalformedHandlerName'],
    ['a start that throws', { 'index.js': "throw new RangeError('at start');" }, 'index.handler', 'RangeError'],
  ])('of the start: %s', async (_what, files, handler, type) => {
    const { api, instance } = await launch(backendOf(), functionOf(files, { handler }));
    if (type === undefined) {
      expect(await api.invoke('{}')).toMatchObject({ kind: 'error' });
      return;
    }
    expect((await api.initError).type).toBe(type);
    expect(await instance.ended).toEqual({ reason: 'exited', exitCode: 1 });
  });

  test('process.exit is an end with its status', async () => {
    const { api, instance } = await launch(backendOf(), functionOf(js('process.exit(7);')));
    const call = api.invoke('{}').catch(() => 'lost');
    expect(await instance.ended).toEqual({ reason: 'exited', exitCode: 7 });
    await api.close();
    expect(await call).toBe('lost');
  });

  test('SIGTERM lets the running call end, and then the process', async () => {
    const files = {
      'index.js':
        "exports.handler = async () => { process.kill(process.pid, 'SIGTERM'); await new Promise((r) => setTimeout(r, 50)); return 'done'; };",
    };
    const { api, instance } = await launch(backendOf(), functionOf(files));
    expect(bodyOf(await api.invoke('{}'))).toBe('done');
    expect(await instance.ended).toEqual({ reason: 'exited', exitCode: 0 });
  });
});
