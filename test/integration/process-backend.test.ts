import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ProcessBackend } from '../../plugins/process/index.ts';
import type { ProcessBackendOptions } from '../../plugins/process/index.ts';
import { probeCgroups } from '../../plugins/process/cgroup.ts';
import { place } from '../../plugins/process/place.ts';
import type { FunctionVersion, Instance, InstanceEnd, LaunchSpec, RunnerError } from '../../src/plugin.ts';
import { FunctionRuntime } from '../../src/runtime/function-runtime.ts';
import { startLambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';
import type { LambdaOutcome, LambdaRuntimeApi } from '../../src/testing/lambda-runtime-api.ts';
import { buildFixture } from '../fixtures/handler/process.ts';
import { requirePeer, runs } from '../require.ts';

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
    runtimeApi: { socketPath, listen: () => Promise.resolve(), openPort: () => Promise.reject(new Error('no port')) },
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

async function untilBoxes(backend: ProcessBackend, wanted: number): Promise<void> {
  await vi.waitFor(async () => expect((await backend.describe()).boxes).toBe(wanted), { interval: 5, timeout: 20_000 });
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

  test('is started with what node reads only once', async () => {
    const fn = functionOf(js("return [require('module').getCompileCacheDir()?.split('/').slice(0, 3).join('/'), process.env.NODE_ENV];"));
    const common = { _HANDLER: 'index.handler', LAMBDA_TASK_ROOT: '/var/task', NODE_ENV: 'production' };
    const { api } = await launch(backendOf(), fn, { environment: { ...common, NODE_COMPILE_CACHE: '/tmp/cache' } });
    expect(bodyOf(await api.invoke('{}'))).toEqual(['/tmp/cache', 'production']);
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
    const context = bodyOf(await api.invoke('{}', { deadlineMs: Date.now() + 60_000, traceId: 'Root=1' })) as { left: number };
    expect(context).toMatchObject({
      awsRequestId: '00000000-0000-4000-8000-000000000001',
      invokedFunctionArn: 'arn:aws:lambda:us-east-1:012345678912:function:test_function',
      functionName: 'f',
      memoryLimitInMB: '128',
      trace: 'Root=1',
    });
    expect(context.left).toBeGreaterThan(0);
    expect(context.left).toBeLessThanOrEqual(60_000);
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

const testBox = requirePeer('bwrap', () => runs('bwrap', '--unshare-all', '--ro-bind', '/', '/', 'true'));
const testRoot = requirePeer('root', () => {
  runs('bwrap', '--unshare-all', '--ro-bind', '/', '/', 'true');
  if (process.getuid?.() !== 0) throw new Error('this is not root');
  const host = probeCgroups();
  if (typeof host === 'string') throw new Error(host);
});

/** What the handler reports of trying, or the code of the error. */
const attempt = (expression: string): string => `try { return ${expression}; } catch (error) { return error.code ?? error.message; }`;

describe('a hostile handler', () => {
  async function ask(body: string, more: Partial<FunctionVersion> = {}): Promise<unknown> {
    const { api } = await launch(backendOf({ sandbox: 'bubblewrap' }), functionOf(js(body), more));
    return bodyOf(await api.invoke('{}'));
  }

  testBox('finds no files of the machine but programs and libraries', async () => {
    const found = await ask(
      "const fs = require('fs'); return [fs.readdirSync('/').sort(), fs.readdirSync('/etc').sort(), fs.readdirSync('/var').sort(), fs.readdirSync('/run')];",
    );
    const [top, etc, var_, run] = found as [string[], string[], string[], string[]];
    expect(top.filter((name) => !['bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32'].includes(name))).toEqual([
      'dev',
      'etc',
      'proc',
      'run',
      'tmp',
      'usr',
      'var',
    ]);
    expect(etc.filter((name) => !['alternatives', 'ld.so.cache', 'localtime', 'ssl'].includes(name))).toEqual(['passwd']);
    expect(var_).toEqual(['lang', 'runtime', 'task']);
    expect(run).toEqual(['runtime']);
  });

  testBox('cannot read the secrets of the machine, of the runner, or the code of another function', async () => {
    const other = functionOf(js('return 1;'));
    const path = other.code.kind === 'folder' ? other.code.path : '';
    expect(await ask(attempt("require('fs').readFileSync('/etc/shadow')"))).toBe('ENOENT');
    expect(await ask(attempt(`require('fs').readFileSync('/proc/${process.pid}/environ')`))).toBe('ENOENT');
    expect(await ask(attempt(`require('fs').readFileSync('${path}/index.js')`))).toBe('ENOENT');
    expect(await ask("return require('fs').readdirSync('/proc').filter(Number).length;")).toBeLessThanOrEqual(2);
  });

  testBox('cannot change its code, the system or its limits', async () => {
    for (const [path, code] of [
      ['/var/task/index.js', 'EROFS'],
      ['/usr/bin/x', 'EROFS'],
      ['/x', 'EROFS'],
      ['/opt', 'EROFS'],
      ['/proc/sys/kernel/core_pattern', 'EROFS'],
    ] as const) {
      const answer = await ask(attempt(`require('fs').writeFileSync('${path}', 'x')`));
      expect([code, 'EACCES'], path).toContain(answer);
    }
  });

  testBox('has no capabilities and gains none', async () => {
    const status = String(await ask("return require('child_process').execSync('cat /proc/self/status').toString();"));
    expect(status).toMatch(/^CapEff:\s+0000000000000000$/m);
    expect(status).toMatch(/^CapPrm:\s+0000000000000000$/m);
    expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
  });

  testBox('reaches nothing over the network, only its own loopback', async () => {
    const server = createServer((socket) => socket.end('hello'));
    await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const connect = `return new Promise((resolve) => require('net').connect(${port}, '127.0.0.1').on('data', () => resolve('reached')).on('error', (error) => resolve(error.code)));`;
    expect(await ask(connect)).toBe('ECONNREFUSED');
    expect(await ask("return Object.keys(require('os').networkInterfaces());")).toEqual(['lo']);
    expect(await ask(connect, { network: 'open' })).toBe('reached');
    await new Promise((resolve) => server.close(resolve));
  });

  testBox('fills /tmp to its size, and no further', async () => {
    const fill =
      "const fs = require('fs'); let bytes = 0; try { for (;;) { fs.appendFileSync('/tmp/full', Buffer.alloc(1 << 20)); bytes += 1 << 20; } } catch (error) { return [error.code, bytes]; }";
    const [code, bytes] = (await ask(fill, { ephemeralMb: 64 })) as [string, number];
    expect(code).toBe('ENOSPC');
    expect(bytes).toBeGreaterThanOrEqual(60 << 20);
    expect(bytes).toBeLessThanOrEqual(64 << 20);
  });

  testRoot('has a user of its own', async () => {
    const users = (await Promise.all([ask('return process.getuid();'), ask('return process.getuid();')])) as number[];
    expect(users[0]).toBeGreaterThanOrEqual(1_900_000_000);
    expect(users[1]).toBeGreaterThanOrEqual(1_900_000_000);
    expect(await ask("return require('os').userInfo().username;")).toBe('function');
    expect(await ask(attempt('process.setuid(0)'))).toBe('EPERM');
  });

  testRoot('that forks without end gets no further than its processes', async () => {
    const bomb =
      "const { spawn } = require('child_process'); let made = 0; for (let i = 0; i < 400; i++) { const child = spawn('sleep', ['1002']); if (child.pid !== undefined) made++; child.on('error', () => {}); } return made;";
    const backend = backendOf({ sandbox: 'bubblewrap', pidsMax: 64 });
    const { api, instance } = await launch(backend, functionOf(js(bomb)));
    const made = bodyOf(await api.invoke('{}'));
    expect(made).toBeGreaterThan(10);
    expect(made).toBeLessThan(64);
    await backend.terminate(instance);
    expect(await processesCalled('sleep 1002')).toEqual([]);
  });

  testRoot('that loops without end uses no more than its processor, and ends at once', async () => {
    const backend = backendOf({ sandbox: 'bubblewrap', cpus: 0.1 });
    const { api, instance } = await launch(backend, functionOf(js('for (;;);')));
    const call = api.invoke('{}').catch(() => 'lost');
    const [, group = ''] = /^\d+:cpu:(.*)$/m.exec(readFileSync(`/proc/${instance.handle['pid']}/cgroup`, 'utf8')) ?? [];
    const throttled = (): number => Number(/^nr_throttled (\d+)$/m.exec(readFileSync(`/sys/fs/cgroup/cpu${group}/cpu.stat`, 'utf8'))?.[1]);
    await vi.waitFor(() => expect(throttled()).toBeGreaterThan(2), { interval: 20, timeout: 40_000 });
    await backend.terminate(instance);
    expect(await instance.ended).toEqual({ reason: 'terminated', signal: 'SIGKILL' });
    await api.close();
    expect(await call).toBe('lost');
  });

  testRoot('that takes all memory is killed and told apart: objects and buffers', async () => {
    for (const hog of [
      'const all = []; for (;;) all.push(new Array(1e5).fill(Math.random()));',
      'const all = []; for (;;) all.push(Buffer.alloc(8 << 20, 1));',
    ]) {
      const { api, instance } = await launch(backendOf({ sandbox: 'bubblewrap' }), functionOf(js(hog)));
      const call = api.invoke('{}').catch(() => 'lost');
      expect(await instance.ended).toMatchObject({ reason: 'out-of-memory' });
      await api.close();
      expect(await call).toBe('lost');
    }
  });

  testBox('that ignores SIGTERM ends at once', async () => {
    const backend = backendOf({ sandbox: 'bubblewrap' });
    const { api, instance } = await launch(
      backend,
      functionOf(
        js(
          "process.on('SIGTERM', () => {}); require('child_process').spawn('/bin/sh', ['-c', 'trap \"\" TERM; sleep 1001'], { detached: true }); return 1;",
        ),
      ),
    );
    expect(bodyOf(await api.invoke('{}'))).toBe(1);
    await backend.terminate(instance);
    await backend.terminate(instance);
    expect(await processesCalled('sleep 1001')).toEqual([]);
  });

  testBox(
    'that floods its log waits; the runner stays well',
    async () => {
      let bytes = 0;
      const backend = backendOf({ sandbox: 'bubblewrap' });
      const files = js(
        "const line = 'x'.repeat(65535) + '\\n'; const end = Date.now() + 600; for (let lines = 0; lines < 40 || Date.now() < end; lines += 1) require('fs').writeSync(1, line); return 1;",
      );
      const { api } = await launch(backend, functionOf(files), { onOutput: (_stream, chunk) => void (bytes += chunk.length) });
      expect(bodyOf(await api.invoke('{}'))).toBe(1);
      expect(bytes).toBeGreaterThan(1 << 20);
      expect(bytes).toBeLessThan(40 << 20);
    },
    30_000,
  );
});

describe('the folder', () => {
  test.each(['bubblewrap', 'none'] as const)(
    'may be cleaned up while it is used: instances start all the same, sandbox %s',
    async (sandbox) => {
      const backend = backendOf({ sandbox });
      const fn = functionOf(js('return 1;'));
      for (const _ of ['before', 'after', 'later']) {
        const { api, instance } = await launch(backend, fn);
        expect(bodyOf(await api.invoke('{}'))).toBe(1);
        await backend.terminate(instance);
        if (sandbox === 'bubblewrap') await untilBoxes(backend, 2);
        rmSync(join(root, 'instances'), { recursive: true });
      }
    },
  );
});

describe('the folder that is used when none is named', () => {
  const named = (): string => join(root, `blueprint-runner-process-${process.getuid?.() ?? 0}`);

  test.each([
    ['is a link', () => symlinkSync(join(root, 'elsewhere'), named())],
    ['may be written by others', () => (mkdirSync(named()), chmodSync(named(), 0o777))],
  ])('is not trusted when it %s: its files would be run', async (_, make) => {
    mkdirSync(join(root, 'elsewhere'));
    make();
    vi.stubEnv('TMPDIR', root);
    try {
      const backend = new ProcessBackend();
      backends.push(backend);
      expect(await backend.unavailable()).toContain(named());
      expect([readdirSync(named()), readdirSync(join(root, 'elsewhere'))]).toEqual([[], []]);
      rmSync(named(), { recursive: true });
      expect(await backend.unavailable()).toBe(undefined);
    } finally {
      vi.unstubAllEnvs();
    }
  });
});

describe('what is left', () => {
  test('is nothing, after the end', async () => {
    const backend = backendOf({ blanks: 1 });
    const { instance } = await launch(backend, functionOf(js('')));
    await untilBlanks(backend, 1);
    await backend.terminate(instance);
    await backend.close();
    await backend.close();
    expect(readdirSync(join(root, 'instances'))).toEqual([expect.stringMatching(/^client-.*\.cjs$/)]);
    await expect(backend.launch((await specOf(functionOf(js('')))).spec)).rejects.toMatchObject({ code: 'BACKEND_UNAVAILABLE' });
  });

  test('is nothing when it is closed while instances start', async () => {
    const backend = backendOf({ blanks: 1 });
    const specs = await Promise.all(Array.from({ length: 4 }, () => specOf(functionOf(js('')))));
    const outcomes = Promise.allSettled(specs.map(({ spec }) => backend.launch(spec)));
    await backend.describe();
    await backend.close();
    expect(readdirSync(join(root, 'instances')).filter((name) => !name.endsWith('.cjs'))).toEqual([]);
    await outcomes;
    expect(readdirSync(join(root, 'instances')).filter((name) => !name.endsWith('.cjs'))).toEqual([]);
  });

  test('by a runner that was killed is reaped by its owner, and by nobody else', async () => {
    const fn = functionOf(js(''));
    const runner = join(root, 'runner.ts');
    const folder = join(root, 'instances');
    writeFileSync(
      runner,
      `import { ProcessBackend } from ${JSON.stringify(join(import.meta.dirname, '../../plugins/process/index.ts'))};
       const backend = new ProcessBackend({ folder: ${JSON.stringify(folder)}, sandbox: 'none', blanks: 0 });
       const more = { onOutput: () => {}, signal: new AbortController().signal };
       const instances = [];
       for (const spec of JSON.parse(process.argv[2]))
         instances.push(await backend.launch({ ...spec, ...more, runtimeApi: { ...spec.runtimeApi, listen: async () => {}, openPort: async () => 0 } }));
       process.stdout.write(JSON.stringify(instances.map(({ handle }) => handle.pid)));
       setInterval(() => {}, 1000);`,
    );
    const specs = await Promise.all(['first', 'second'].map((name) => specOf(fn, { ownerId: name, instanceId: name })));
    const child = spawn(process.execPath, [runner, JSON.stringify(specs.map(({ spec }) => spec))], {
      env: { PATH: '/usr/bin:/bin' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const pids = JSON.parse(await new Promise<string>((resolve) => child.stdout.once('data', (text) => resolve(String(text))))) as number[];
    expect(pids).toHaveLength(2);
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('exit', resolve));
    const backend = backendOf({ sandbox: 'none' });
    expect(
      readdirSync(folder)
        .filter((name) => !name.startsWith('client-'))
        .toSorted(),
    ).toEqual(['first', 'second']);
    expect(await backend.reapStale('first')).toBe(1);
    expect(isRunning(pids[0])).toBe(false);
    expect(readdirSync(join(folder, 'first'))).toEqual([]);
    expect(readdirSync(join(folder, 'second'))).toEqual(['second']);
    expect(await backend.reapStale('second')).toBe(1);
    expect(await backend.reapStale('second')).toBe(0);
    expect(isRunning(pids[1])).toBe(false);
  });
});

/** Init may not have taken notice of the end yet. */
function isRunning(pid: number | undefined): boolean {
  try {
    return !/\) [ZX]/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** Command lines of living processes that are exactly this. */
async function processesCalled(commandLine: string): Promise<string[]> {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').join(' ').trim() === commandLine;
      } catch {
        return false;
      }
    });
}

/** A runtime client that knows only host and port. */
const PYTHON = `#!/usr/bin/python3
import http.client, json, os
api = http.client.HTTPConnection(os.environ['AWS_LAMBDA_RUNTIME_API'])
while True:
    api.request('GET', '/2018-06-01/runtime/invocation/next')
    event = api.getresponse()
    name, body = event.headers['Lambda-Runtime-Aws-Request-Id'], json.loads(event.read())
    if body == 'exit': os._exit(5)
    answer = json.dumps({'got': body, 'api': os.environ['AWS_LAMBDA_RUNTIME_API'], 'cwd': os.getcwd(), 'uid': os.getuid()})
    api.request('POST', '/2018-06-01/runtime/invocation/' + name + '/response', answer)
    api.getresponse().read()
`;
const testPython = requirePeer('python3', () => runs('/usr/bin/python3', '--version'));

describe('a bootstrap', () => {
  testPython('that knows only host and port reaches its Runtime API from a network of its own', async () => {
    const backend = backendOf();
    for (const runtime of ['provided.al2023', 'python3.13']) {
      const { api, instance } = await launch(backend, functionOf({ bootstrap: PYTHON }, { runtime }));
      const answer = bodyOf(await api.invoke('"x"')) as { got: string; api: string; cwd: string; uid: number };
      expect(answer).toMatchObject({ got: 'x', cwd: '/var/task' });
      expect(answer.api).toMatch(/^127\.0\.0\.1:\d+$/);
      expect(answer.uid).not.toBe(0);
      const call = api.invoke('"exit"').catch(() => 'lost');
      expect(await instance.ended).toEqual({ reason: 'exited', exitCode: 5 });
      await api.close();
      expect(await call).toBe('lost');
    }
  });

  test('of our handler bundle reaches it through the socket', async () => {
    const { bootstrap } = await buildFixture();
    const fn = functionOf(
      {},
      { runtime: 'provided.al2023', handler: 'handler.handler', code: { kind: 'folder', path: dirname(bootstrap), sha256: '' } },
    );
    chmodSync(dirname(bootstrap), 0o755);
    const { api } = await launch(backendOf(), fn);
    const event = JSON.stringify({ job_id: 2, call_id: 'k', args_base64: Buffer.from('job').toString('base64'), metadata: {} });
    const { result_base64: result } = bodyOf(await api.invoke(event)) as { result_base64: string };
    expect(Buffer.from(result, 'base64').toString()).toBe('job');
  });

  test('must be there and executable; a runtime must be one that can run here', async () => {
    const backend = backendOf();
    const refused = async (fn: FunctionVersion): Promise<unknown> => backend.launch((await specOf(fn)).spec);
    const image = { kind: 'image', uri: 'example' } as const;
    await expect(refused(functionOf({}, { runtime: 'provided.al2023' }))).rejects.toMatchObject({
      code: 'CODE_MISSING',
      message: expect.stringMatching(/bootstrap/),
    });
    const gone = join(tmpdir(), 'code-that-is-gone');
    const lost: unknown = await refused(functionOf({}, { code: { kind: 'folder', path: gone, sha256: '' } })).catch(
      (error: unknown) => error,
    );
    expect(lost).toMatchObject({ code: 'CODE_MISSING', cause: { message: expect.stringContaining(gone) } });
    // What a caller elsewhere gets of it.
    expect(JSON.stringify(lost)).not.toContain(gone);
    const plain = functionOf({ bootstrap: '#!/bin/sh\n' }, { runtime: 'provided.al2023' });
    if (plain.code.kind === 'folder') chmodSync(join(plain.code.path, 'bootstrap'), 0o644);
    await expect(refused(plain)).rejects.toMatchObject({ code: 'CODE_MISSING', message: expect.stringMatching(/chmod \+x/) });
    await expect(refused(functionOf({}, { runtime: 'python3.13' }))).rejects.toMatchObject({
      code: 'RUNTIME_UNSUPPORTED',
      message: expect.stringMatching(/nodejs20\.x, nodejs22\.x, nodejs24\.x, and provided\.\*/),
    });
    await expect(refused(functionOf({}, { runtime: 'java25' }))).rejects.toMatchObject({ code: 'RUNTIME_UNSUPPORTED' });
    await expect(refused(functionOf({}, { code: image }))).rejects.toMatchObject({
      code: 'RUNTIME_UNSUPPORTED',
      message: expect.stringMatching(/container/),
    });
    expect(existsSync(join(root, 'instances/owner')) ? readdirSync(join(root, 'instances/owner')) : []).toEqual([]);
  });
});

/** What instances of all owners have on disk. */
function foldersLeft(): string[] {
  const instances = join(root, 'instances');
  const owners = readdirSync(instances, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return owners.flatMap(({ name }) => readdirSync(join(instances, name)));
}

/** Control groups of an instance. */
function groupsOf(ownerId: string, instanceId: string): string[] {
  const host = probeCgroups();
  const name = `blueprint-${createHash('sha256').update(`${ownerId}/${instanceId}`).digest('hex').slice(0, 24)}`;
  return typeof host === 'string' ? [] : host.folders.map((folder) => join(folder, name)).filter((folder) => existsSync(folder));
}

describe('a start that fails', () => {
  test('before there is a process leaves neither files nor control groups', async () => {
    const backend = backendOf();
    const missing = { path: join(root, 'missing'), sha256: '' };
    const { spec } = await specOf(functionOf(js(''), { layers: [missing, missing] }), { ownerId: root });
    await expect(backend.launch(spec)).rejects.toThrow(/missing/);
    expect([foldersLeft(), groupsOf(root, spec.instanceId)]).toEqual([[], []]);
  });

  test('because the runner has too many files open says so', async () => {
    const { spec } = await specOf(functionOf(js('')));
    const runner = join(root, 'runner.ts');
    writeFileSync(
      runner,
      `import { closeSync, openSync } from 'node:fs';
       import { ProcessBackend } from ${JSON.stringify(join(import.meta.dirname, '../../plugins/process/index.ts'))};
       const backend = new ProcessBackend({ folder: ${JSON.stringify(join(root, 'instances'))}, sandbox: 'none', blanks: 0 });
       await backend.describe();
       const files = [];
       try { for (;;) files.push(openSync('/dev/null')); } catch {}
       for (const file of files.splice(-3)) closeSync(file);
       const spec = JSON.parse(process.argv[2]);
       const more = { onOutput: () => {}, signal: new AbortController().signal };
       const runtimeApi = { ...spec.runtimeApi, listen: async () => {}, openPort: async () => 0, serve: () => {} };
       const error = await backend.launch({ ...spec, ...more, runtimeApi }).catch((thrown) => thrown);
       for (const file of files) closeSync(file);
       process.stdout.write(error.code + ' ' + error.message);
       await backend.close();`,
    );
    const child = spawn('/bin/sh', ['-c', 'ulimit -n 100; exec "$0" "$@"', process.execPath, runner, JSON.stringify(spec)], {
      env: { PATH: '/usr/bin:/bin' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout.on('data', (text) => (said += String(text)));
    await new Promise((resolve) => child.once('close', resolve));
    expect(said).toMatch(/^INSTANCE_START_FAILED instance .* did not start: spawn \/bin\/sh EMFILE$/);
    expect(foldersLeft()).toEqual([]);
  });
});

describe('waiting processes', () => {
  test('serve one function each, and bring no secret of another', async () => {
    const backend = backendOf({ blanks: 1 });
    const one = functionOf(
      js(
        "require('fs').writeFileSync('/tmp/left', 'x'); return [process.pid, process.env.SECRET, require('fs').readdirSync('/var/task')];",
      ),
    );
    const environment = (secret: string): Record<string, string> => ({
      _HANDLER: 'index.handler',
      LAMBDA_TASK_ROOT: '/var/task',
      SECRET: secret,
    });
    const first = await launch(backend, one, { environment: environment('first') });
    await untilBlanks(backend, 1);
    const second = await launch(backend, one, { environment: environment('second') });
    await untilBlanks(backend, 1);
    const other = functionOf(
      {
        'other.js':
          "exports.handler = async () => [process.env.SECRET ?? null, require('fs').readdirSync('/var/task'), require('fs').existsSync('/tmp/left')];",
      },
      { handler: 'other.handler' },
    );
    const third = await launch(backend, other, { environment: { _HANDLER: 'other.handler', LAMBDA_TASK_ROOT: '/var/task' } });
    expect(bodyOf(await first.api.invoke('{}'))).toEqual([2, 'first', ['index.js']]);
    expect(bodyOf(await second.api.invoke('{}'))).toEqual([2, 'second', ['index.js']]);
    expect(bodyOf(await third.api.invoke('{}'))).toEqual([null, ['other.js'], false]);
    expect(new Set([first, second, third].map(({ instance }) => instance.handle['pid'])).size).toBe(3);
  });

  test('have warmed up without a trace: a handler finds what it finds in a fresh process, and in a sandbox that waited', async () => {
    const backend = backendOf({ blanks: 1, sandbox: 'bubblewrap' });
    const ofBoxes = backendOf({ blanks: 0, sandbox: 'bubblewrap' });
    const fn = functionOf(
      js(
        `const { createRequire } = require('module');
         return [
           [process.argv[2], require('fs').readFileSync('/proc/1/cmdline', 'utf8').includes('read -r')], process.argv[1], process.execArgv,
           process.getuid() === process.getgid(), Object.entries(process.env), process.cwd(), require('fs').readdirSync('/tmp'), Object.keys(require.cache),
           require.resolve.paths('x'), createRequire('/var/task/other.js').resolve('./index.js'), globalThis.left ?? null,
           ['SIGTERM', 'uncaughtException', 'unhandledRejection', 'exit'].map((name) => process.listenerCount(name)),
           process.getActiveResourcesInfo(), context,
         ];`,
      ),
    );
    const seen = async (by: ProcessBackend): Promise<unknown[]> => {
      const { api } = await launch(by, fn);
      return bodyOf(await api.invoke('{}')) as unknown[];
    };
    const [fresh, ...ofFresh] = await seen(backend);
    await untilBlanks(backend, 1);
    const [waiting, ...ofWaiting] = await seen(backend);
    await seen(ofBoxes);
    await untilBoxes(ofBoxes, 2);
    const [boxed, ...ofBoxed] = await seen(ofBoxes);
    expect([fresh, waiting, boxed]).toEqual([
      ['start', false],
      ['blank', false],
      ['start', true],
    ]);
    const withoutIds = (values: unknown[]): unknown[] => values.with(-1, Object.keys(values.at(-1) as object));
    expect(withoutIds(ofWaiting)).toEqual(withoutIds(ofFresh));
    expect(withoutIds(ofBoxed)).toEqual(withoutIds(ofFresh));
  });

  test.each([0, 1])(
    'are not used for more code than can be put there quickly, or for what must be there from the start; %i of node',
    async (blanks) => {
      const backend = backendOf({ blanks, sandbox: 'bubblewrap' });
      const untilOneWaits = (): Promise<void> => (blanks === 0 ? untilBoxes(backend, 2) : untilBlanks(backend, 1));
      const files = Object.fromEntries(Array.from({ length: 600 }, (_, index) => [`file-${index}.js`, '']));
      const large = functionOf({
        ...files,
        ...js(
          "return [require('fs').readdirSync('/var/task').length, process.env.NODE_OPTIONS ?? null, process.execArgv, require('inspector').url() ?? null, process.title];",
        ),
      });
      await launch(backend, large);
      await untilOneWaits();
      const second = await launch(backend, large);
      expect((bodyOf(await second.api.invoke('{}')) as unknown[])[0]).toBe(601);
      await untilOneWaits();
      const environment = { _HANDLER: 'index.handler', LAMBDA_TASK_ROOT: '/var/task', NODE_OPTIONS: '--title=mine' };
      const third = await launch(backend, large, { environment });
      const answer = bodyOf(await third.api.invoke('{}')) as unknown[];
      expect([answer[1], answer[4]]).toEqual(['--title=mine', 'mine']);
    },
  );

  test.each([
    ['fresh', 'bubblewrap'],
    ['blank', 'bubblewrap'],
    ['box', 'bubblewrap'],
    ['fresh', 'none'],
  ] as const)('of a runner whose files nobody may read have theirs: %s, sandbox %s', async (kind, sandbox) => {
    const before = process.umask(0o077);
    try {
      const backend = backendOf({ blanks: kind === 'blank' ? 1 : 0, sandbox });
      const fn = functionOf(js("require('fs').writeFileSync(require('os').tmpdir() + '/x', ''); return require('./lib/one.js');"));
      const folder = fn.code.kind === 'folder' ? fn.code.path : '';
      mkdirSync(join(folder, 'lib'));
      writeFileSync(join(folder, 'lib/one.js'), "module.exports = require('fs').readFileSync('/etc/passwd').length > 0;");
      for (const name of ['.', 'index.js', 'lib', 'lib/one.js']) chmodSync(join(folder, name), 0o755);
      const seen = async (): Promise<unknown> => bodyOf(await (await launch(backend, fn)).api.invoke('{}'));
      if (kind !== 'fresh') {
        await seen();
        await (kind === 'blank' ? untilBlanks(backend, 1) : untilBoxes(backend, 2));
      }
      expect(await seen()).toBe(true);
    } finally {
      process.umask(before);
    }
  });

  test('that cannot be used leave the function to a fresh process: their folder is gone, or they were killed', async () => {
    const backend = backendOf({ sandbox: 'bubblewrap' });
    const fn = functionOf(js("return process.argv[2] + require('fs').readFileSync('/proc/1/cmdline', 'utf8').includes('read -r');"));
    const seen = async (): Promise<unknown> => bodyOf(await (await launch(backend, fn)).api.invoke('{}'));
    const boxes = (): string[] => readdirSync(join(root, 'instances/owner')).filter((name) => name.startsWith('box-'));
    const inBoxes = (path: string): string[] => boxes().map((name) => join(root, 'instances/owner', name, path));
    await seen();
    await untilBoxes(backend, 2);
    for (const folder of inBoxes('')) rmSync(folder, { recursive: true });
    expect(await seen()).toBe('startfalse');
    await backend.close();

    const other = backendOf({ sandbox: 'bubblewrap' });
    await other.reapStale('owner');
    const { spec, api } = await specOf({ ...fn, ephemeralMb: 512 });
    await untilBoxes(other, 2);
    // It ends before the signal is noticed.
    const started = other.launch(spec);
    for (const file of inBoxes('process.json')) process.kill((JSON.parse(readFileSync(file, 'utf8')) as { pid: number }).pid, 'SIGKILL');
    await started;
    expect(bodyOf(await api.invoke('{}'))).toBe('startfalse');
  });

  test('as sandboxes have the memory, the room and the network of the function that comes', async () => {
    const backend = backendOf({ sandbox: 'bubblewrap' });
    const look = js(
      `const { readFileSync, statfsSync } = require('fs');
       const { bsize, blocks } = statfsSync('/tmp');
       return [
         readFileSync('/proc/1/cmdline', 'utf8').includes('read -r'), process.execArgv, (bsize * blocks) / 1048576,
         readFileSync('/proc/net/dev', 'utf8').split('\\n').filter((line) => line.includes(':')).length > 1 ? 'open' : 'none',
       ];`,
    );
    const seen = async (more: Partial<FunctionVersion>): Promise<{ readonly told: unknown; readonly limit: number }> => {
      const { api, instance } = await launch(backend, functionOf(look, more));
      const told = bodyOf(await api.invoke('{}'));
      return { told, limit: memoryLimitOf(instance.handle['pid'] as number) };
    };
    await backend.reapStale('owner');
    await untilBoxes(backend, 2);
    const MIB = 1024 * 1024;
    expect(await seen({ memoryMb: 256, ephemeralMb: 512 })).toEqual({
      told: [true, ['--max-old-space-size=230'], 512, 'none'],
      limit: 768 * MIB,
    });
    // Of this kind none waits yet, and then some do.
    expect(await seen({ memoryMb: 128, ephemeralMb: 32 })).toMatchObject({ told: [false, ['--max-old-space-size=115'], 32, 'none'] });
    await untilBoxes(backend, 4);
    expect(await seen({ memoryMb: 192, ephemeralMb: 32 })).toEqual({
      told: [true, ['--max-old-space-size=172'], 32, 'none'],
      limit: 224 * MIB,
    });
    expect(await seen({ ephemeralMb: 512, network: 'open' })).toMatchObject({ told: [false, expect.anything(), 512, 'open'] });
    await untilBoxes(backend, 6);
    expect(await seen({ ephemeralMb: 512, network: 'open' })).toMatchObject({ told: [true, expect.anything(), 512, 'open'] });
  });
});

/** Bytes that the control group of a process may use. */
function memoryLimitOf(pid: number): number {
  const groups = readFileSync(`/proc/${pid}/cgroup`, 'utf8')
    .trim()
    .split('\n')
    .map((line) => line.split(':'));
  const v1 = groups.find(([, controllers]) => controllers?.split(',').includes('memory'));
  const file = v1 ? `/sys/fs/cgroup/memory${v1[2]}/memory.limit_in_bytes` : `/sys/fs/cgroup${groups[0]?.[2]}/memory.max`;
  return Number(readFileSync(file, 'utf8'));
}

describe('the connection that tells an instance what it is', () => {
  test.each(['fresh', 'waiting'])('is all that it needs of the Runtime API: calls, failures, ends of a %s process', async (kind) => {
    const backend = backendOf({ blanks: kind === 'waiting' ? 1 : 0 });
    const folder = join(root, 'sockets');
    mkdirSync(folder, { mode: 0o711 });
    const runtime = new FunctionRuntime({ backend, folder });
    await runtime.start();
    const outcomeOf = async (body: string, more: Readonly<Record<string, string>> = {}): Promise<unknown> => {
      const fn = functionOf({ ...js(body), ...more });
      if (kind === 'waiting') await untilBlanks(backend, 1);
      return runtime.invoke(fn, Buffer.from('{}')).then(
        (answer) => Buffer.from(answer.body).toString(),
        (error: RunnerError) => [error.code, error.details?.['errorType'], error.details?.['errorMessage']],
      );
    };
    try {
      if (kind === 'waiting') await runtime.invoke(functionOf(js('')), Buffer.from('{}'));
      expect(await outcomeOf("return require('fs').existsSync(process.env.AWS_LAMBDA_RUNTIME_API.slice('unix:'.length));")).toBe('false');
      expect(await outcomeOf('', { 'index.js': "throw new RangeError('broken');" })).toEqual([
        'FUNCTION_INIT_FAILED',
        'RangeError',
        'broken',
      ]);
      expect(await outcomeOf("setImmediate(() => { throw new RangeError('late'); }); await new Promise(() => {});")).toEqual([
        'FUNCTION_FAILED',
        'RangeError',
        'late',
      ]);
      expect(await outcomeOf("Promise.reject(new RangeError('unheard')); await new Promise(() => {});")).toEqual([
        'FUNCTION_FAILED',
        'Runtime.UnhandledPromiseRejection',
        'RangeError: unheard',
      ]);
      expect(await outcomeOf('process.exit(7);')).toEqual(['FUNCTION_CRASHED', 'Runtime.ExitError', undefined]);
      expect(readdirSync(folder).filter((name) => name.startsWith('i-'))).toEqual([]);
    } finally {
      await runtime.close(0);
    }
  });
});

describe('code on another file system', () => {
  const shared = '/dev/shm';
  const testApart = requirePeer('tmpfs', () => {
    if (statSync(shared).dev === statSync(tmpdir()).dev) throw new Error(`${shared} is on the file system of ${tmpdir()}`);
  });

  testApart('is copied, up to its limit: it cannot be linked', () => {
    const other = mkdtempSync(join(shared, 'bpr-place-'));
    try {
      writeFileSync(join(other, 'a'), 'aaaa');
      writeFileSync(join(other, 'b'), 'bbbb');
      const [all, part] = ['all', 'part'].map((name) => mkdirSync(join(root, name), { recursive: true }) ?? '') as [string, string];
      expect(place(other, all, { entriesMax: 100, copiedBytesMax: 8 })).toBe(true);
      expect(['a', 'b'].map((file) => readFileSync(join(all, file), 'utf8'))).toEqual(['aaaa', 'bbbb']);
      expect([place(other, part, { entriesMax: 100, copiedBytesMax: 7 }), readdirSync(part)]).toEqual([false, ['a']]);
    } finally {
      rmSync(other, { recursive: true });
    }
  });
});
