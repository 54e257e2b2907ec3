import { createServer } from 'node:http';
import type { IncomingHttpHeaders } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import { strToU8, zipSync } from 'fflate';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { HttpFaasDeployer, HttpFaasExecutor, ManualFaasDeployer } from '../../plugins/http/index.ts';
import type { HttpExecutorOptions } from '../../plugins/http/index.ts';
import { Metadata, TANGLE } from '../../src/job/call.ts';
import type { JobCall } from '../../src/job/call.ts';
import { ProcessBackend } from '../../plugins/process/index.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { LIMITS } from '../../src/executor/limits.ts';
import { startFaasServer } from '../../src/testing/faas-server.ts';
import { makeCertificate } from '../support/certificates.ts';
import { systemClock } from '../../src/clock.ts';
import { createPluginRegistry } from '../../src/plugin/registry.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';

interface Seen {
  readonly method: string | undefined;
  readonly url: string | undefined;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

interface Reply {
  readonly status?: number;
  readonly headers?: Record<string, string>;
  readonly body?: string | Uint8Array;
}

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

/** A server that remembers what it got and answers with what the test says. */
async function serve(reply: (seen: Seen) => Reply): Promise<{ url: string; seen: Seen[] }> {
  const seen: Seen[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const one = { method: request.method, url: request.url, headers: request.headers, body: Buffer.concat(chunks) };
      seen.push(one);
      const { status = 200, headers = {}, body = '' } = reply(one);
      response.writeHead(status, headers).end(body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanUps.push(() => (server.closeAllConnections(), new Promise((resolve) => server.close(resolve))));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
}

function executorOf(url: string, options: HttpExecutorOptions = {}): HttpFaasExecutor {
  const executor = new HttpFaasExecutor(url, options);
  cleanUps.push(() => executor.close());
  return executor;
}

function call(jobId = 1n): JobCall {
  return { id: '1:0xabc:3:7', jobId, body: new Uint8Array([1, 2, 255]), metadata: new Metadata([[TANGLE.callId, '7']]) };
}

const invoke = (executor: HttpFaasExecutor, one = call()): ReturnType<HttpFaasExecutor['invoke']> =>
  executor.invoke(one, { deadline: Date.now() + 30_000, attempt: 2 });
const V1_REPLY: Reply = { headers: { 'content-type': 'application/json' }, body: '{"result":[9,8]}' };

describe('plain mode', () => {
  test('a call that a handler passes on carries the attempt and the time of this executor only', async () => {
    const { url, seen } = await serve(() => V1_REPLY);
    const metadata = new Metadata([
      ['x-blueprint-attempt', '7'],
      ['x-blueprint-timeout-ms', '900000'],
    ]);
    await invoke(executorOf(url), { ...call(), metadata });
    const { headers } = seen[0] ?? {};
    expect(headers?.['x-blueprint-attempt']).toBe('2');
    expect(Number(headers?.['x-blueprint-timeout-ms'])).toBeLessThanOrEqual(30_000);
  });

  test('posts to {base}/job/{id} what a handler of the Blueprint SDK understands', async () => {
    const { url, seen } = await serve(() => V1_REPLY);
    const { results } = await invoke(executorOf(`${url}/base/`), call(12n));
    expect(seen[0]).toMatchObject({ method: 'POST', url: '/base/job/12' });
    expect(JSON.parse(String(seen[0]?.body))).toEqual({ job_id: 12, args: [1, 2, 255] });
    expect([...(results[0]?.body ?? [])]).toEqual([9, 8]);
    expect(results[0]?.metadata.get(TANGLE.callId)).toBe('7');
  });

  test('tells attempt, remaining time and idempotency key', async () => {
    const { url, seen } = await serve(() => V1_REPLY);
    const deadline = Date.now() + 30_000;
    const leftMs = (): number => deadline - Date.now();
    const most = leftMs();
    await executorOf(url).invoke(call(), { deadline, attempt: 2 });
    const headers = seen[0]?.headers ?? {};
    expect(headers['x-blueprint-attempt']).toBe('2');
    expect(headers['x-blueprint-call-key']).toBe('1:0xabc:3:7');
    expect(Number(headers['x-blueprint-timeout-ms'])).toBeGreaterThanOrEqual(leftMs());
    expect(Number(headers['x-blueprint-timeout-ms'])).toBeLessThanOrEqual(most);
  });

  test('a job with an address of its own is posted there, as it stands', async () => {
    const base = await serve(() => V1_REPLY);
    const other = await serve(() => V1_REPLY);
    const executor = executorOf(base.url, { endpoints: [[3, `${other.url}/three`]] }).withJobEndpoint(4n, `${other.url}/x/four`);
    for (const jobId of [3n, 4n, 5n]) await invoke(executor, call(jobId));
    expect(other.seen.map(({ url }) => url)).toEqual(['/three', '/x/four']);
    expect(base.seen.map(({ url }) => url)).toEqual(['/job/5']);
  });

  test('goes over to bytes when the handler says that it takes them, and back when it no longer does', async () => {
    let modern = true;
    const { url, seen } = await serve(({ headers, body }) => {
      if (!modern && headers['content-type'] === 'application/octet-stream') return { status: 415 };
      if (headers['content-type'] === 'application/octet-stream')
        return { headers: { 'content-type': 'application/octet-stream', 'x-blueprint-wire': 'v1,v2' }, body };
      return { ...V1_REPLY, headers: { ...V1_REPLY.headers, ...(modern && { 'x-blueprint-wire': 'v1,v2' }) } };
    });
    const executor = executorOf(url);
    await invoke(executor);
    expect([...((await invoke(executor)).results[0]?.body ?? [])]).toEqual([1, 2, 255]);
    modern = false;
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'WIRE_MALFORMED', retry: 'safe' });
    await invoke(executor);
    expect(seen.map(({ headers }) => headers['content-type'])).toEqual([
      'application/json',
      'application/octet-stream',
      'application/octet-stream',
      'application/json',
    ]);
  });

  test('every binary call that an older handler refuses is safe to repeat, not only the first of those on their way', async () => {
    let modern = true;
    const waiting: (() => void)[] = [];
    const server = createServer((request, response) => {
      request.resume().on('end', () => {
        const isBinary = request.headers['content-type'] === 'application/octet-stream';
        if (modern || !isBinary) {
          response.writeHead(200, { 'content-type': 'application/json', ...(modern && { 'x-blueprint-wire': 'v1,v2' }) });
          return void response.end('{"result":[9,8]}');
        }
        waiting.push(() => response.writeHead(400).end());
        // Both are with the handler before the first is answered.
        if (waiting.length === 2) for (const refuse of waiting) refuse();
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    cleanUps.push(() => (server.closeAllConnections(), new Promise((resolve) => server.close(resolve))));
    const executor = executorOf(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    await invoke(executor);
    modern = false;
    const refused = await Promise.allSettled([invoke(executor), invoke(executor)]);
    const safe = { status: 'rejected', reason: { code: 'WIRE_MALFORMED', retry: 'safe' } };
    expect(refused).toMatchObject([safe, safe]);
    expect([...((await invoke(executor)).results[0]?.body ?? [])]).toEqual([9, 8]);
  });

  test('an address with a query is refused without repeating it: it would be lost', () => {
    for (const make of [
      () => executorOf('https://jobs.example.org/base?code=hunter2'),
      () => executorOf('https://jobs.example.org').withJobEndpoint(1, 'https://jobs.example.org/seven?code=hunter2'),
      () => new HttpFaasDeployer('https://jobs.example.org?code=hunter2'),
      () => new ManualFaasDeployer({ endpoints: { seven: 'https://jobs.example.org/seven?code=hunter2' } }),
    ])
      expect(make).toThrow(
        expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.not.stringContaining('hunter2') as string }) as Error,
      );
  });

  test('asks before it sends a large call as JSON, once, and also when nobody answers the question', async () => {
    const large = { ...call(), body: new Uint8Array(100_000) };
    const modern = await serve(({ method, body }) => ({
      headers: { 'content-type': 'application/octet-stream', 'x-blueprint-wire': 'v1,v2' },
      body: method === 'HEAD' ? '' : body,
    }));
    const executor = executorOf(modern.url);
    for (let count = 0; count < 2; count += 1) expect((await invoke(executor, large)).results[0]?.body).toHaveLength(100_000);
    expect(modern.seen.map(({ method, headers }) => `${method} ${headers['content-type']}`)).toEqual([
      'HEAD undefined',
      'POST application/octet-stream',
      'POST application/octet-stream',
    ]);
    const old = await serve(({ method }) => (method === 'HEAD' ? { status: 500 } : V1_REPLY));
    const other = executorOf(old.url);
    for (let count = 0; count < 2; count += 1) await invoke(other, large);
    expect(old.seen.map(({ method }) => method)).toEqual(['HEAD', 'POST', 'POST']);
  });

  test('learns the format from a health check', async () => {
    const { url, seen } = await serve(({ method, body }) => ({
      headers: { 'content-type': 'application/octet-stream', 'x-blueprint-wire': 'v1,v2' },
      body: method === 'HEAD' ? '' : body,
    }));
    const executor = executorOf(url);
    await executor.health(1n);
    await invoke(executor);
    expect(seen.map(({ method, headers }) => [method, headers['content-type']])).toEqual([
      ['HEAD', undefined],
      ['POST', 'application/octet-stream'],
    ]);
  });

  test.each([
    ['json', 'application/json'],
    ['binary', 'application/octet-stream'],
  ] as const)('wire %s stays as it is', async (wire, type) => {
    const { url, seen } = await serve(() => ({ ...V1_REPLY, headers: { ...V1_REPLY.headers, 'x-blueprint-wire': 'v1,v2' } }));
    const executor = executorOf(url, { wire });
    await invoke(executor);
    await invoke(executor);
    expect(seen.map(({ headers }) => headers['content-type'])).toEqual([type, type]);
  });

  test.each([
    [404, 'EXECUTOR_NOT_FOUND'],
    [401, 'EXECUTOR_UNAUTHORIZED'],
    [503, 'EXECUTOR_UNAVAILABLE'],
  ])('health rejects for status %i with %s', async (status, code) => {
    const { url } = await serve(() => ({ status }));
    await expect(executorOf(url).health(1n)).rejects.toMatchObject({ code });
  });

  test('a handler that only knows POST is healthy', async () => {
    const { url } = await serve(() => ({ status: 405 }));
    await expect(executorOf(url).health(1n)).resolves.toBeUndefined();
  });
});

describe('answers that are no results', () => {
  const json = { 'content-type': 'application/json' };
  test.each<[string, Reply, string, string]>([
    [
      'an error with a code of ours',
      { status: 400, headers: json, body: '{"error":"no","code":"JOB_ARGS_INVALID","details":{}}' },
      'JOB_ARGS_INVALID',
      'never',
    ],
    ['throttling', { status: 429 }, 'EXECUTOR_THROTTLED', 'safe'],
    ['unavailable for a time', { status: 503, headers: { 'retry-after': '2' } }, 'EXECUTOR_UNAVAILABLE', 'safe'],
    ['unavailable, who knows', { status: 503 }, 'EXECUTOR_UNAVAILABLE', 'idempotent'],
    ['a gateway that lost the handler', { status: 502, body: '<html>' }, 'EXECUTOR_CONNECTION_LOST', 'idempotent'],
    ['a gateway that waited in vain', { status: 504 }, 'EXECUTOR_TIMEOUT', 'idempotent'],
    ['no access', { status: 403 }, 'EXECUTOR_UNAUTHORIZED', 'never'],
    ['no function', { status: 404 }, 'EXECUTOR_NOT_FOUND', 'never'],
    ['a call that is too large', { status: 413 }, 'PAYLOAD_TOO_LARGE', 'never'],
    ['a redirect', { status: 302, headers: { location: 'http://elsewhere.invalid/' } }, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
    ['a web page', { headers: { 'content-type': 'text/html' }, body: '<html>hello</html>' }, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
    ['broken JSON', { headers: json, body: '{"result":[1,2' }, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
    ['JSON of another kind', { headers: json, body: '{"hello":1}' }, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
    ['numbers that are not bytes', { headers: json, body: '{"result":[1,256]}' }, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
    ['the answer to another job', { headers: json, body: '{"job_id":2,"result":[1]}' }, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
    ['nothing', {}, 'EXECUTOR_RESPONSE_INVALID', 'idempotent'],
    ['more than the limit', { headers: json, body: ' '.repeat(70_000) }, 'PAYLOAD_TOO_LARGE', 'never'],
  ])('%s', async (_, reply, code, retry) => {
    const { url, seen } = await serve(() => reply);
    await expect(invoke(executorOf(url, { limits: { responseBytesMax: 1_000 } }))).rejects.toMatchObject({ code, retry });
    expect(seen).toHaveLength(1);
  });
});

describe('credentials', () => {
  test('are read when they are used, from environment, file and function', async () => {
    const { url, seen } = await serve(() => V1_REPLY);
    const directory = await mkdtemp(join(tmpdir(), 'http-executor-'));
    cleanUps.push(() => rm(directory, { recursive: true }));
    const file = join(directory, 'key');
    const executor = executorOf(url, { bearer: 'env:HTTP_EXECUTOR_TEST', headers: { 'X-Key': `file:${file}` } }).withAuthHeader(
      'x-late',
      async () => 'promised',
    );
    process.env['HTTP_EXECUTOR_TEST'] = 'token';
    cleanUps.push(() => delete process.env['HTTP_EXECUTOR_TEST']);
    await writeFile(file, 'from-file\n');
    await invoke(executor);
    expect(seen[0]?.headers).toMatchObject({ authorization: 'Bearer token', 'x-key': 'from-file', 'x-late': 'promised' });
    process.env['HTTP_EXECUTOR_TEST'] = 'rotated';
    await invoke(executor);
    expect(seen[1]?.headers.authorization).toBe('Bearer rotated');
  });

  test('that are missing or cannot be sent are CONFIG_INVALID, and nothing is sent', async () => {
    const { url, seen } = await serve(() => V1_REPLY);
    await expect(invoke(executorOf(url, { bearer: 'env:NO_SUCH_VARIABLE_HERE' }))).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(invoke(executorOf(url, { bearer: 'file:/no/such/file' }))).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    const error: unknown = await invoke(executorOf(url, { bearer: () => 'top\nsecret' })).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'CONFIG_INVALID' });
    expect(String(error)).not.toContain('secret\n');
    expect(String(error)).not.toContain('top');
    expect(seen).toHaveLength(0);
  });

  test('given as text, or in the address, are refused without being repeated', () => {
    for (const make of [
      () => new HttpFaasExecutor('http://h', { bearer: 'hunter2' }),
      () => new HttpFaasExecutor('http://user:hunter2@h'),
    ]) {
      let thrown: unknown;
      try {
        make();
      } catch (error) {
        thrown = error;
      }
      expect(thrown).toMatchObject({ code: 'CONFIG_INVALID' });
      expect(String(thrown)).not.toContain('hunter2');
    }
  });
});

describe('mutual TLS', () => {
  const authority = makeCertificate('test authority');
  const server = makeCertificate('test server', authority);
  const client = makeCertificate('test client', authority);
  const stranger = makeCertificate('stranger', makeCertificate('other authority'));
  let url = '';
  let directory = '';
  let requests = 0;

  beforeEach(async () => {
    requests = 0;
    directory = await mkdtemp(join(tmpdir(), 'http-tls-'));
    for (const [name, content] of Object.entries({
      ca: authority.cert,
      cert: client.cert,
      key: client.key,
      otherCert: stranger.cert,
      otherKey: stranger.key,
    }))
      await writeFile(join(directory, name), content);
    const https = createTlsServer(
      { cert: server.cert, key: server.key, ca: authority.cert, requestCert: true, rejectUnauthorized: true },
      (_, response) => {
        requests += 1;
        response.writeHead(200, { 'content-type': 'application/json' }).end('{"result":[1]}');
      },
    );
    await new Promise<void>((resolve) => https.listen(0, '127.0.0.1', resolve));
    url = `https://127.0.0.1:${(https.address() as AddressInfo).port}`;
    cleanUps.push(
      () => (https.closeAllConnections(), new Promise((resolve) => https.close(resolve))),
      () => rm(directory, { recursive: true }),
    );
  });
  const file = (name: string): string => join(directory, name);

  test('the right certificate opens the door', async () => {
    const { results } = await invoke(executorOf(url, { tls: { caFile: file('ca'), certFile: file('cert'), keyFile: file('key') } }));
    expect([...(results[0]?.body ?? [])]).toEqual([1]);
  });

  test('without a certificate, or with that of a stranger, the handler sees nothing', async () => {
    await expect(invoke(executorOf(url, { tls: { caFile: file('ca') } }))).rejects.toMatchObject({
      code: 'EXECUTOR_CONNECTION_LOST',
      retry: 'idempotent',
    });
    await expect(
      invoke(executorOf(url, { tls: { caFile: file('ca'), certFile: file('otherCert'), keyFile: file('otherKey') } })),
    ).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'idempotent' });
    expect(requests).toBe(0);
  });

  test('a server that nobody vouches for is EXECUTOR_UNREACHABLE, and nothing was sent', async () => {
    await expect(invoke(executorOf(url))).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'safe' });
    expect(requests).toBe(0);
  });

  test('a file that is missing is CONFIG_INVALID until it is there', async () => {
    const executor = executorOf(url, { tls: { caFile: file('late'), certFile: file('cert'), keyFile: file('key') } });
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await writeFile(file('late'), authority.cert);
    await invoke(executor);
    expect(requests).toBe(1);
  });
});

interface Platform {
  readonly name: string;
  /** More than a package may have. */
  readonly packageBytes: number;
  start(apiKey?: string): Promise<string>;
}

const KEY = 'a-key-for-tests-only';
const PLATFORMS: readonly Platform[] = [
  {
    name: 'the platform for tests',
    packageBytes: 2_000,
    async start(apiKey) {
      const platform = await startFaasServer({ packageBytesMax: 1_000, ...(apiKey !== undefined && { apiKey }) });
      cleanUps.push(() => platform.close());
      return platform.url;
    },
  },
  {
    name: 'the gateway',
    packageBytes: LIMITS.digitalocean.zipBytesMax + 1,
    async start(token) {
      const folder = await mkdtemp(join(tmpdir(), 'gw-'));
      const backends = new Map([['process', new ProcessBackend({ folder: join(folder, 'b') })]]);
      const auth = token === undefined ? {} : { auth: { tokens: [{ name: 'test', token }] } };
      const gateway = new Gateway({ folder, backends, provider: 'digitalocean', ...auth });
      cleanUps.push(() => rm(folder, { recursive: true, force: true }));
      cleanUps.push(() => gateway.close(0));
      return gateway.listen({ port: 0 });
    },
  },
];

describe.each(PLATFORMS)('platform mode and deployer: $name', (platform) => {
  const script = (answer: string): Uint8Array => zipSync({ bootstrap: strToU8(`#!/bin/sh\ncat > /dev/null\n${answer}\n`) });
  const packageOf = (zip: Uint8Array): { zip: Uint8Array; sha256: string } => ({
    zip,
    sha256: createHash('sha256').update(zip).digest('hex'),
  });
  const good = packageOf(script(`echo '{"job_id":1,"result":[5],"success":true}'`));
  const other = packageOf(script(`echo '{"job_id":1,"result":[6],"success":true}'`));

  test('deploys, describes, invokes, warms, checks and removes', async () => {
    const url = await platform.start(KEY);
    const deployer = new HttpFaasDeployer(url, { bearer: () => KEY });
    const executor = executorOf(url, { mode: 'platform', bearer: () => KEY });
    await expect(executor.health(1n)).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND' });
    await expect(invoke(executor)).rejects.toMatchObject({ code: 'EXECUTOR_NOT_FOUND' });
    expect(await deployer.describe('job1')).toBeUndefined();
    expect(await deployer.deploy('job1', good, { memoryMb: 256, timeoutMs: 5_000, environment: { STAGE: 'b' } })).toMatchObject({
      changes: [{ action: 'create', resource: 'function', id: 'job1' }],
      state: {
        name: 'job1',
        endpoint: `${url}/api/functions/job1/invoke`,
        status: 'active',
        config: { memoryMb: 256, timeoutMs: 5_000 },
        executor: { use: 'http', options: { url, mode: 'platform', functionId: 'job1' } },
      },
    });
    await executor.health(1n);
    await executor.warm(1n);
    const execution = await invoke(executor);
    expect([...(execution.results[0]?.body ?? [])]).toEqual([5]);
    expect(execution.report?.executionMs).toBeGreaterThanOrEqual(0);
    expect(await deployer.describe('job1')).toMatchObject({ name: 'job1', status: 'active' });
    await deployer.remove('job1');
    await deployer.remove('job1');
    expect(await deployer.describe('job1')).toBeUndefined();
    await deployer.close();
  });

  test('a platform always gets JSON, at the function that the caller names', async () => {
    const { url, seen } = await serve(() => V1_REPLY);
    const functionId = (jobId: bigint): string => `my/function-${jobId}`;
    const executor = executorOf(`${url}/v1`, { mode: 'platform', wire: 'binary', functionId })
      .withJobEndpoint(2n, `${url}/fn/two`)
      .withJobEndpoint(3n, `${url}/fn/three/invoke`);
    for (const jobId of [1n, 2n, 3n]) await invoke(executor, call(jobId));
    expect(seen.map((one) => one.url)).toEqual(['/v1/api/functions/my%2Ffunction-1/invoke', '/fn/two/invoke', '/fn/three/invoke']);
    expect(new Set(seen.map(({ headers }) => headers['content-type']))).toEqual(new Set(['application/json']));
  });

  test('deploying the same again changes nothing; another package takes its place, or is refused', async () => {
    const url = await platform.start();
    const deployer = new HttpFaasDeployer(url);
    const careful = new HttpFaasDeployer(url, { whenExists: 'refuse' });
    const executor = executorOf(url, { mode: 'platform' });
    const first = await deployer.deploy('job1', good, { memoryMb: 256 });
    expect(await careful.deploy('job1', good, { memoryMb: 256 })).toEqual({ state: first.state, changes: [], warnings: [] });
    await expect(careful.deploy('job1', other, { memoryMb: 256 })).rejects.toMatchObject({ code: 'FUNCTION_EXISTS' });
    expect([...((await invoke(executor)).results[0]?.body ?? [])]).toEqual([5]);
    await deployer.deploy('job1', other, { memoryMb: 256 });
    expect([...((await invoke(executor)).results[0]?.body ?? [])]).toEqual([6]);
    expect(await deployer.deploy('job1', other, { memoryMb: 512 })).toMatchObject({ state: { config: { memoryMb: 512 } } });
    await Promise.all([deployer.close(), careful.close()]);
  });

  test('what the platform does not take is DEPLOY_FAILED with its reason, or what says more', async () => {
    const url = await platform.start(KEY);
    const deployer = new HttpFaasDeployer(url, { bearer: () => KEY });
    await expect(deployer.deploy('job1', packageOf(strToU8('no zip')), {})).rejects.toMatchObject({
      code: 'DEPLOY_FAILED',
      retry: 'never',
      message: expect.stringContaining('not a zip') as string,
    });
    await expect(deployer.deploy('job1', packageOf(new Uint8Array(platform.packageBytes)), {})).rejects.toMatchObject({
      code: 'PAYLOAD_TOO_LARGE',
    });
    const wrong = new HttpFaasDeployer(url, { bearer: () => 'another-key-for-tests' });
    await expect(wrong.deploy('job1', good, {})).rejects.toMatchObject({ code: 'EXECUTOR_UNAUTHORIZED' });
    await Promise.all([deployer.close(), wrong.close()]);
  });

  test.each([
    ['its own timeout', 'exec sleep 30', 1_000, 'EXECUTOR_TIMEOUT', 'idempotent'],
    ['a crash', 'exit 7', 20_000, 'JOB_FAILED', 'idempotent'],
    ['an error of the job', `echo '{"error":"bad","code":"JOB_ARGS_INVALID"}'`, 20_000, 'JOB_ARGS_INVALID', 'never'],
  ])('a function that ends with %s', async (_, line, timeoutMs, code, retry) => {
    const url = await platform.start();
    const deployer = new HttpFaasDeployer(url);
    await deployer.deploy('job1', packageOf(script(line)), { timeoutMs });
    await expect(invoke(executorOf(url, { mode: 'platform' }))).rejects.toMatchObject({ code, retry });
    await deployer.close();
  });
});

test('on the gateway a bundle takes the place of a bootstrap, and the other way round', async () => {
  const [, gateway] = PLATFORMS;
  const url = (await gateway?.start()) ?? '';
  const deployer = new HttpFaasDeployer(url);
  const careful = new HttpFaasDeployer(url, { whenExists: 'refuse' });
  const packageOf = (files: Record<string, string>): { zip: Uint8Array; sha256: string } => {
    const zip = zipSync(Object.fromEntries(Object.entries(files).map(([name, text]) => [name, strToU8(text)])));
    return { zip, sha256: createHash('sha256').update(zip).digest('hex') };
  };
  const program = packageOf({ bootstrap: '#!/bin/sh\ncat > /dev/null\necho \'{"result":["program"]}\'\n' });
  const bundle = packageOf({ 'handler.mjs': 'export const handler = async () => ({ result: ["bundle"] });', 'handler.json': '{}' });
  const answer = async (): Promise<unknown> => {
    const { body } = await deployer.invoke('job1', Buffer.from('{"job_id":1,"args":[]}'));
    return (JSON.parse(Buffer.from(body).toString()) as { result: unknown[] }).result[0];
  };
  await deployer.deploy('job1', program, { memoryMb: 256 });
  expect(await answer()).toBe('program');
  await expect(careful.deploy('job1', bundle, { memoryMb: 256 })).rejects.toMatchObject({ code: 'FUNCTION_EXISTS' });
  expect(await deployer.deploy('job1', bundle, { memoryMb: 256 }, { dryRun: true })).toMatchObject({ changes: [{ action: 'update' }, {}] });
  // What the gateway refuses costs no function.
  const refused = deployer.deploy('job1', bundle, { memoryMb: 256, environment: { X: '1' } });
  await expect(refused).rejects.toMatchObject({ code: 'DEPLOY_FAILED', details: { platformCode: 'CONFIG_INVALID' } });
  expect(await answer()).toBe('program');
  expect(await deployer.deploy('job1', bundle, { memoryMb: 256 })).toMatchObject({
    changes: [
      { action: 'update', resource: 'function' },
      { action: 'create', resource: 'version' },
    ],
    state: { status: 'active', sha256: bundle.sha256 },
    warnings: [expect.stringContaining('as a whole')],
  });
  expect(await answer()).toBe('bundle');
  expect((await deployer.deploy('job1', bundle, { memoryMb: 256 })).changes).toEqual([]);
  await deployer.deploy('job1', program, { memoryMb: 256 });
  expect(await answer()).toBe('program');
  await Promise.all([deployer.close(), careful.close()]);
});

describe('manual deployment', () => {
  test('changes nothing and says so, asks the address whether it is well, and a runner can call it', async () => {
    const { url, seen } = await serve(({ method, url: path }) => (method === 'HEAD' ? { status: path === '/ill' ? 503 : 404 } : V1_REPLY));
    const endpoints = { squaring: `${url}/jobs`, ill: `${url}/ill`, gone: 'http://127.0.0.1:1' };
    const deployer = new ManualFaasDeployer({ endpoints });
    cleanUps.push(() => deployer.close());
    const { changes, warnings, state } = await deployer.deploy('squaring');
    expect(changes).toEqual([]);
    expect(warnings).toEqual([`squaring is deployed by hand: nothing was changed at ${url}/jobs`]);
    expect(seen.map(({ method }) => method)).toEqual(['HEAD']);
    expect(await deployer.describe('ill')).toMatchObject({ status: 'failed', reason: 'it answers with status 503' });
    expect(await deployer.describe('gone')).toMatchObject({ status: 'failed', reason: expect.stringContaining('127.0.0.1:1') as string });
    expect(await deployer.describe('other')).toBeUndefined();
    expect((await deployer.remove('squaring')).warnings).toEqual(['squaring is deployed by hand: it is still there']);
    expect(new TextDecoder().decode((await deployer.invoke('squaring', new TextEncoder().encode('{}'))).body)).toBe('{"result":[9,8]}');
    await expect(deployer.versions()).rejects.toMatchObject({ code: 'OPERATION_UNSUPPORTED' });
    await expect(deployer.deploy('other')).rejects.toMatchObject({ code: 'FUNCTION_NOT_FOUND' });

    const plugins = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
    const executor = await plugins.executor(state?.executor.use ?? '', state?.executor.options);
    cleanUps.push(() => executor.close?.());
    const { results } = await executor.invoke(call(3n), { deadline: Date.now() + 30_000, attempt: 1 });
    expect([...(results[0]?.body ?? [])]).toEqual([9, 8]);
    expect(seen.at(-1)).toMatchObject({ method: 'POST', url: '/jobs/job/3' });
  });

  test.each<[string, unknown]>([
    ['an address that is none', { endpoints: { a: 'nowhere' } }],
    ['a list of addresses', { endpoints: ['http://a'] }],
    ['neither url nor endpoints', {}],
    ['an API that it does not know', { url: 'http://a', api: 'theirs' }],
    ['both url and endpoints', { url: 'http://a', endpoints: {} }],
  ])('options with %s are refused', async (_, options) => {
    const plugins = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });
    await expect(plugins.deployer('http', options)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});
