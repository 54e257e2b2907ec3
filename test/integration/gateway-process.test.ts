/** The gateway as its users run it: the command, real processes, the published clients. */

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { HttpFaasDeployer, HttpFaasExecutor } from '../../plugins/http/index.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { LogEntry } from '../../src/executor/deployer.ts';
import { GatewayClient } from '../../src/gateway/client.ts';
import { Metadata } from '../../src/job/call.ts';
import { requirePeer, runs } from '../require.ts';
import { newFolder, onEnd, send, until, zipOf } from '../support/gateway.ts';
import { BPR, startCommand } from '../support/gateway-command.ts';

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '../..');

const ECHO = zipOf({ 'index.mjs': 'export const handler = async (event) => ({ pid: process.pid, got: event });' });
const STREAM = zipOf({
  'index.mjs': `import { setTimeout as delay } from 'node:timers/promises';
export const handler = awslambda.streamifyResponse(async (event, stream) => {
  for (let count = 1; count <= event.count; count += 1) { stream.write(String(count)); await delay(20); }
  stream.end();
});`,
});
// The default of 3 s would end calls that are held while the machine rests.
const SETTINGS = { runtime: 'nodejs24.x', handler: 'index.handler', timeout_ms: 60_000 } as const;

/** Processes whose command line or folder names this one. */
function processesOf(folder: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      try {
        return (
          readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(folder) || readFileSync(`/proc/${pid}/mountinfo`, 'utf8').includes(folder)
        );
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** A URL that answers when it is opened. */
async function startGate(): Promise<{ readonly gate: string; readonly open: () => void }> {
  const opened = Promise.withResolvers<void>();
  const server = createServer((_, response) => void opened.promise.then(() => response.end()));
  onEnd(() => void server.close());
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return { gate: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, open: opened.resolve };
}

test('limits of instances and of the queue come from flags, then from the environment, and hold', async () => {
  const dataDir = await newFolder();
  const flags = ['--instances-per-function-max', '1', '--queue-max', '1', '--queue-timeout-ms', '60001', '--starts-max', '2'];
  const { url } = await startCommand(dataDir, ...flags);
  expect((await send(url, 'GET /api/v1/info')).json).toMatchObject({
    limits: { instances: 1_000, instances_per_function: 1, starts: 2, queue: 1, queue_timeout_ms: 60_001 },
  });
  const client = new GatewayClient({ url });
  const gated = zipOf({ 'index.mjs': 'export const handler = async ({ gate }) => (await fetch(gate)).status;' });
  await client.deploy('gated', gated, { ...SETTINGS, network: 'open' });
  await client.warm('gated', 1);
  // No call ends before one of them was refused.
  const { gate, open } = await startGate();
  const body = JSON.stringify({ gate });
  const codes = await Promise.all(
    Array.from({ length: 3 }, async () => {
      const { status, code } = await send(url, 'POST /api/v1/functions/gated/invoke', { body });
      if (code !== undefined) open();
      return code ?? String(status);
    }),
  );
  expect(codes.toSorted((a, b) => a.localeCompare(b))).toEqual(['200', '200', 'QUEUE_FULL']);
  expect(await client.instances('gated')).toHaveLength(1);

  const refusal = (args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<unknown> =>
    run(process.execPath, [BPR, 'gateway', '--port', '0', '--data-dir', dataDir, ...args], { env: { ...process.env, ...env } }).then(
      () => undefined,
      (error: unknown) => error,
    );
  expect(await refusal(['--queue-max', '0'])).toMatchObject({ code: 2, stderr: expect.stringContaining('from 1 to 1000000') });
  expect(await refusal([], { BPR_STARTS_MAX: '1001' })).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('BPR_STARTS_MAX is 1001; it must be a number from 1 to 1000'),
  });
});

test('what was deployed is there after a restart; a signal lets calls finish', async () => {
  const dataDir = await newFolder();
  const first = await startCommand(dataDir);
  expect(first.listening).toMatchObject({ event: 'listening', backends: ['process'] });
  const client = new GatewayClient({ url: first.url });
  const { gate, open } = await startGate();
  const slow = zipOf({ 'index.mjs': 'export const handler = async ({ gate }) => (await fetch(gate)).status;' });
  await client.deploy('echo', ECHO, { ...SETTINGS, environment: { STAGE: 'test' } });
  await client.deploy('slow', slow, { ...SETTINGS, network: 'open' });
  await client.warm('slow', 1);
  const call = client.invoke('slow', { gate });
  await until(async () => (await client.instances('slow')).some(({ state }) => state === 'busy'));
  first.child.kill('SIGTERM');
  // It listens no more.
  await until(() =>
    fetch(first.url).then(
      () => false,
      () => true,
    ),
  );
  open();
  expect((await call).output).toBe(200);
  expect(await first.ended).toBe(0);
  expect(processesOf(dataDir)).toEqual([]);
  const second = await startCommand(dataDir);
  const again = new GatewayClient({ url: second.url });
  expect(await again.describe('echo')).toMatchObject({ environment: { STAGE: 'test' } });
  expect((await again.invoke<number, { got: number }>('echo', 1)).output.got).toBe(1);
});

test('killed under load and started again: no process is left, no acknowledged deployment is lost', async () => {
  const dataDir = await newFolder();
  const first = await startCommand(dataDir);
  const client = new GatewayClient({ url: first.url, retries: 0 });
  await client.deploy('echo', ECHO, SETTINGS);
  await client.warm('echo', 3);
  const acknowledged: string[] = [];
  let isOver = false;
  const load = Array.from({ length: 8 }, async () => {
    while (!isOver) await client.invoke('echo', 1).catch(() => (isOver = true));
  });
  const deployments = Array.from({ length: 4 }, async (_, lane) => {
    for (let count = 0; !isOver; count += 1) {
      const name = `f-${lane}-${count}`;
      await client.deploy(name, ECHO, SETTINGS).then(
        () => acknowledged.push(name),
        () => (isOver = true),
      );
    }
  });
  await until(() => acknowledged.length >= 40);
  // The gateway and its instances.
  expect(processesOf(dataDir).length).toBeGreaterThan(3);
  first.child.kill('SIGKILL');
  await Promise.all([...load, ...deployments, first.ended]);
  const second = await startCommand(dataDir);
  const before = processesOf(dataDir);
  expect(before).toContain(second.child.pid);
  const again = new GatewayClient({ url: second.url });
  expect(await again.instances()).toEqual([]);
  const names: string[] = [];
  for await (const { name } of again.functions()) names.push(name);
  expect(acknowledged.filter((name) => !names.includes(name))).toEqual([]);
  for (const name of acknowledged.slice(-3)) expect((await again.invoke<number, { got: number }>(name, 5)).output.got).toBe(5);
  second.child.kill('SIGTERM');
  expect(await second.ended).toBe(0);
  expect(processesOf(dataDir)).toEqual([]);
});

test('deployed again and again under load: no call fails, none that began after an answer runs older code', async () => {
  const { url } = await startCommand(await newFolder());
  const client = new GatewayClient({ url, retries: 0 });
  const version = (number: number): Uint8Array => zipOf({ 'index.mjs': `export const handler = async () => ${number};` });
  await client.deploy('f', version(0), SETTINGS);
  let acknowledged = 0;
  let isOver = false;
  const stale: string[] = [];
  let calls = 0;
  const load = Array.from({ length: 8 }, async () => {
    while (!isOver) {
      const atLeast = acknowledged;
      const { output } = await client.invoke<null, number>('f', null);
      calls += 1;
      if (output < atLeast) stale.push(`${output} after ${atLeast}`);
    }
  });
  for (let number = 1; number <= 10; number += 1) {
    const before = calls;
    await client.deploy('f', version(number), SETTINGS);
    acknowledged = number;
    await until(() => calls >= before + 20);
  }
  isOver = true;
  await Promise.all(load);
  expect(stale).toEqual([]);
});

describe('jobs', () => {
  const call = (body: Uint8Array) => ({ id: 'c1', jobId: 0n, body, metadata: new Metadata() });
  const word = (value: number): Uint8Array => Uint8Array.from({ length: 32 }, (_, index) => (index === 31 ? value : 0));

  test('a package of bpr build, deployed and run by the clients of the platform specification', async () => {
    const folder = await newFolder();
    const { url } = await startCommand(folder);
    const { zipFile, sha256 } = await buildHandler({
      entry: join(ROOT, 'examples/incredible-squaring/jobs.ts'),
      outDir: join(folder, 'out'),
    });
    const deployer = new HttpFaasDeployer(url);
    const executor = new HttpFaasExecutor(url, { mode: 'platform' });
    onEnd(() => Promise.all([deployer.close(), executor.close()]));
    const zip = readFileSync(zipFile);
    expect(await deployer.describe('job0')).toBeUndefined();
    expect(await deployer.deploy('job0', { zip, sha256 }, { memoryMb: 256, timeoutMs: 5_000 })).toMatchObject({
      state: { name: 'job0', endpoint: `${url}/api/functions/job0/invoke`, status: 'active', sha256, config: { memoryMb: 256 } },
    });
    await expect(deployer.invoke('job0', Buffer.from('{}'), { version: '99' })).rejects.toMatchObject({
      code: 'FUNCTION_NOT_FOUND',
      message: expect.stringContaining('there is no function job0:99') as string,
    });
    await executor.health(0n);
    await executor.warm(0n);
    const options = { attempt: 1, deadline: Date.now() + 60_000, signal: new AbortController().signal };
    const { results } = await executor.invoke(call(word(7)), options);
    expect(results[0]?.body).toEqual(Buffer.from(word(49)));
    await expect(executor.invoke(call(Uint8Array.of(7)), options)).rejects.toMatchObject({ code: 'JOB_ARGS_INVALID' });
    await deployer.remove('job0');
    await expect(executor.invoke(call(word(7)), options)).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND' });
  });

  test('an answer that is too large is told as such by the deployer, and a call that failed is an error of the log', async () => {
    const { url } = await startCommand(await newFolder());
    const deployer = new HttpFaasDeployer(url);
    onEnd(() => deployer.close());
    const zip = zipOf({
      'index.mjs': `export const handler = async ({ dies }) => {
        console.log('{"level":"warn"}');
        return dies ? process.kill(process.pid, 'SIGKILL') : 'x'.repeat(7_000_000);
      };`,
    });
    await deployer.deploy('large', { zip, sha256: createHash('sha256').update(zip).digest('hex') }, { handler: 'index.handler' });
    await expect(deployer.invoke('large', Buffer.from('{}'))).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
    const { requestId = 'unknown' } = await deployer.invoke('large', Buffer.from('{"dies":true}'));
    const logs = async (level: 'warn' | 'error'): Promise<LogEntry[]> => {
      const found: LogEntry[] = [];
      for await (const entry of deployer.logs('large', { level })) found.push(entry);
      return found;
    };
    const entries = await logs('error');
    expect(entries.map(({ message }) => message)).toEqual([
      expect.stringMatching(/^RequestId: \S+ Error: the response of large has more than \d+ bytes$/),
      `RequestId: ${requestId} Error: Runtime exited with error: signal: killed`,
    ]);
    expect(entries[1]).toMatchObject({ level: 'error', requestId, instance: expect.stringMatching(/^large-/) as string });
    expect(await logs('warn')).toHaveLength(4);
  });

  test('a bootstrap of standard input and output: its answers, its failures, its variables', async () => {
    const { url } = await startCommand(await newFolder());
    const config = (value: unknown): Record<string, string> => ({
      'x-blueprint-config': Buffer.from(JSON.stringify(value)).toString('base64'),
    });
    const invoke = async (name: string, script: string, settings: unknown = {}): ReturnType<typeof send> => {
      const deployed = await send(url, `PUT /api/functions/${name}`, { body: zipOf({ bootstrap: script }), headers: config(settings) });
      expect(deployed.status, deployed.text).toBe(200);
      return send(url, `POST /api/functions/${name}/invoke`, { body: '{"job_id":0,"args":[1,2]}' });
    };
    expect(await invoke('good', `#!/bin/sh\ncat > /dev/null\necho '{"result":[25]}'\n`)).toMatchObject({
      status: 200,
      json: { job_id: 0, result: [25], success: true, cold_start: true },
    });
    expect(
      await invoke(
        'env',
        `#!/bin/sh\ncat > /dev/null\necho "{\\"result\\":[],\\"env\\":\\"$(env | cut -d= -f1 | grep -v -e '^_$' -e PWD -e SHLVL | sort | tr '\\n' ' ')\\"}"\n`,
        { env_vars: { STAGE: 'x' } },
      ),
    ).toMatchObject({
      json: { env: 'PATH STAGE ' },
    });
    expect(await invoke('exits', '#!/bin/sh\necho broken >&2\nexit 3\n')).toMatchObject({
      status: 500,
      json: { success: false, code: 'JOB_FAILED', error: 'bootstrap ended with exit code 3: broken' },
    });
    expect(await invoke('talks', '#!/bin/sh\necho hello\n')).toMatchObject({
      status: 500,
      json: { code: 'JOB_FAILED', error: 'the function did not write a JSON object to its standard output' },
    });
    expect(await invoke('sleeps', '#!/bin/sh\nexec sleep 30\n', { timeout_secs: 1 })).toMatchObject({
      status: 500,
      json: { success: false, code: 'TIMEOUT' },
    });
    expect(
      await invoke('refuses', `#!/bin/sh\ncat > /dev/null\necho '{"success":false,"error":"no","code":"JOB_ARGS_INVALID"}'\n`),
    ).toMatchObject({ status: 500, json: { error: 'no', code: 'JOB_ARGS_INVALID' } });
    expect(await invoke('cannot', '#!/no/such/interpreter\n')).toMatchObject({ status: 503, json: { code: 'EXECUTOR_UNAVAILABLE' } });
    expect(await send(url, 'GET /api/functions/cannot/health')).toMatchObject({ status: 503, json: { status: 'unhealthy' } });
    expect(await send(url, 'GET /api/functions/good/health')).toMatchObject({
      status: 200,
      json: { status: 'healthy', total_invocations: 1 },
    });
    expect(await send(url, 'PUT /api/functions/good', { body: zipOf({ bootstrap: 'x' }) })).toMatchObject({
      status: 409,
      json: { error: 'Function already exists', code: 'FUNCTION_EXISTS' },
    });
    expect(await send(url, 'POST /api/functions/good/invoke', { body: '{"job_id":0}' })).toMatchObject({
      status: 400,
      json: { code: 'BAD_REQUEST' },
    });
    expect(await send(url, 'GET /api/functions/nope')).toMatchObject({
      status: 404,
      json: { error: 'Function not found', function_id: 'nope' },
    });
    for (const [name, zip] of [
      ['text', Buffer.from('hello')],
      ['empty', zipOf({ other: 'x' })],
      ['climbs', zipOf({ bootstrap: 'x', '../escaped': 'x' })],
    ] as const) {
      expect(await send(url, `PUT /api/functions/${name}`, { body: zip }), name).toMatchObject({
        status: 400,
        json: { code: 'PACKAGE_INVALID' },
      });
      expect((await send(url, `GET /api/functions/${name}`)).status).toBe(404);
    }
    expect(await send(url, 'PUT /api/functions/big', { body: zipOf({ bootstrap: 'x' }), headers: config({ memory_mb: 1 }) })).toMatchObject(
      { status: 400, json: { code: 'BAD_REQUEST' } },
    );
  });
});

describe('clients', () => {
  test('the TypeScript client: every method', async () => {
    const { url } = await startCommand(await newFolder());
    const client = new GatewayClient({ url });
    expect([await client.healthy(), await client.ready()]).toEqual([true, true]);
    await client.create('echo', { zip: ECHO }, SETTINGS);
    await expect(client.create('echo', { zip: ECHO }, SETTINGS)).rejects.toMatchObject({ code: 'FUNCTION_EXISTS', status: 409 });
    expect((await client.update('echo', { memory_mb: 256 })).memory_mb).toBe(256);
    expect((await client.publish('echo', 'first')).version).toBe('1');
    expect((await client.versions('echo')).map(({ version }) => version)).toEqual(['$LATEST', '1']);
    expect(await client.code('echo')).toEqual(ECHO);
    const answer = await client.invoke<{ a: string }, { got: { a: string } }>('echo', { a: 'ü' }, { qualifier: '1' });
    expect(answer).toMatchObject({ output: { got: { a: 'ü' } }, coldStart: true, executedVersion: '1' });
    await client.deploy('stream', STREAM, SETTINGS);
    const chunks: string[] = [];
    for await (const chunk of client.stream('stream', { count: 5 })) chunks.push(Buffer.from(chunk).toString());
    expect(chunks.join('')).toBe('12345');
    expect(chunks.length).toBeGreaterThan(2);
    const once1 = await client.execute(1, { function: 'echo', idempotencyKey: 'k' });
    expect(await client.execute(1, { function: 'echo', idempotencyKey: 'k' })).toEqual(once1);
    expect(await client.execute(2, { zip: ECHO, ...SETTINGS, mode: 'ephemeral' })).toMatchObject({ mode: 'ephemeral', output: { got: 2 } });
    const [instance] = await client.warm('echo', 1);
    expect((await client.instance(instance?.id ?? '')).function).toBe('echo');
    await client.stopInstance(instance?.id ?? '');
    expect(await client.drain('stream')).toBe(1);
    expect(await client.logs('echo')).toEqual([]);
    expect((await client.info()).functions).toBe(2);
    expect(await client.metrics()).toContain('blueprint_function_invocations_total{backend="process",function="echo",outcome="OK"}');
    expect((await client.openapi())['openapi']).toBe('3.1.0');
    await client.remove('echo');
    await expect(client.describe('echo')).rejects.toMatchObject({ code: 'FUNCTION_NOT_FOUND' });
    await expect(new GatewayClient({ url: 'http://127.0.0.1:9', retries: 0 }).info()).rejects.toMatchObject({
      code: 'UNREACHABLE',
      status: 0,
    });
  });

  const testPython = requirePeer('python3', () => runs('python3', '-c', 'import sys; assert sys.version_info >= (3, 9)'));
  testPython(
    'the Python client: its own tests',
    async () => {
      const { url } = await startCommand(await newFolder());
      const { stderr } = await run('python3', ['-m', 'unittest', 'discover', '-s', join(ROOT, 'examples/python')], {
        env: { PATH: process.env['PATH'], GATEWAY_URL: url, PYTHONDONTWRITEBYTECODE: '1' },
      });
      expect(stderr).toMatch(/Ran 11 tests[^]*OK\n$/);
    },
    60_000,
  );

  test('every route of the API has a method in both clients', async () => {
    const { url } = await startCommand(await newFolder());
    const { paths } = (await new GatewayClient({ url }).openapi()) as { paths: Record<string, Record<string, unknown>> };
    const own = Object.keys(paths).filter(
      (path) => path.startsWith('/api/v1/') || ['/healthz', '/readyz', '/metrics', '/openapi.json'].includes(path),
    );
    expect(own.length).toBeGreaterThan(14);
    const sources = ['src/gateway/client.ts', 'examples/python/blueprint_runner.py'].map((file) => readFileSync(join(ROOT, file), 'utf8'));
    for (const path of own) {
      const last = path
        .replace('/api/v1', '')
        .replace(/\/\{\w+\}$/, '')
        .replace(/^.*\}/, '');
      for (const source of sources) expect(source, path).toContain(`${last}`);
    }
  });
});

describe('the command', () => {
  test('keys are made, listed, used and revoked', async () => {
    const dataDir = await newFolder();
    const bpr = async (...args: string[]): Promise<{ json: Record<string, unknown> }> => {
      const { stdout } = await run(process.execPath, [BPR, 'gateway', 'keys', ...args, '--data-dir', dataDir, '--json']);
      return { json: JSON.parse(stdout) as Record<string, unknown> };
    };
    const { json } = await bpr('create', 'ci', '--scope', 'invoke,functions:write,functions:read', '--function', 'job-*');
    const { url } = await startCommand(dataDir, '--auth', 'keys');
    expect((await send(url, 'GET /api/v1/functions')).status).toBe(401);
    const headers = { authorization: `Bearer ${String(json['key'])}` };
    expect((await send(url, 'GET /api/v1/functions', { headers })).status).toBe(200);
    expect(await bpr('list')).toMatchObject({ json: { keys: [{ id: json['id'], name: 'ci', functions: ['job-*'] }] } });
    await bpr('revoke', String(json['id']));
    await until(async () => (await send(url, 'GET /api/v1/functions', { headers })).status === 401);
    expect(await bpr('list')).toMatchObject({ json: { keys: [] } });
  });

  test.each([
    ['an address for everybody without credentials', ['--host', '0.0.0.0'], 1, 'CONFIG_INVALID'],
    ['a backend that there is not', ['--backend', 'moon'], 1, 'CONFIG_INVALID'],
    ['a token itself in place of a reference', ['--token', 'secret-in-the-clear'], 1, 'CONFIG_INVALID'],
    ['a provider that there is not', ['--limits', 'moon'], 2, 'CONFIG_INVALID'],
  ])(
    'refuses %s',
    async (_, flags, status, code) => {
      const dataDir = await newFolder();
      const failed: unknown = await run(process.execPath, [BPR, 'gateway', '--port', '0', '--data-dir', dataDir, ...flags]).catch(
        (error: unknown) => error,
      );
      expect(failed).toMatchObject({ code: status, stderr: expect.stringContaining(`${code}: `) as string });
      expect(JSON.stringify(failed)).not.toContain('\\"secret-in-the-clear\\"');
    },
    60_000,
  );

  test('the lines of the README deploy, call and stream', async () => {
    const folder = await newFolder();
    const { url } = await startCommand(folder);
    const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
    const block = /```sh\n(npx bpr gateway[^]*?)```/.exec(readme)?.[1] ?? '';
    const [start = '', ...lines] = block.split('\n').filter((line) => line !== '');
    expect(start).toMatch(/^npx bpr gateway &/);
    expect(lines.length).toBeGreaterThanOrEqual(3);
    writeFileSync(join(folder, 'hello.zip'), zipOf({ 'index.mjs': 'export const handler = async ({ name }) => `hello ${name}`;' }));
    const outputs: string[] = [];
    for (const line of lines) {
      const { stdout } = await run('sh', ['-c', line.replaceAll('localhost:8080', new URL(url).host)], { cwd: folder });
      outputs.push(stdout);
    }
    expect(JSON.parse(outputs[0] ?? '')).toMatchObject({ name: 'hello', version: '$LATEST' });
    expect(outputs.slice(1)).toEqual(['"hello Ada"', '"hello Ada"']);
    expect(existsSync(join(folder, 'gateway'))).toBe(true);
  });
});
