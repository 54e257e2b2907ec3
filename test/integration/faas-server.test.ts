import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { strToU8, zipSync } from 'fflate';
import { afterEach, describe, expect, test } from 'vitest';
import { parseFunctionConfig } from '../../src/testing/faas-package.ts';
import { BootstrapFunction } from '../../src/testing/faas-process.ts';
import { startFaasServer } from '../../src/testing/faas-server.ts';
import type { FaasServer, FaasServerOptions } from '../../src/testing/faas-server.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

async function start(options: FaasServerOptions = {}): Promise<FaasServer> {
  const server = await startFaasServer(options);
  cleanUps.push(() => server.close());
  return server;
}

interface Reply {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

async function send(
  server: FaasServer,
  method: string,
  path: string,
  body?: RequestInit['body'],
  headers: Record<string, string> = {},
): Promise<Reply> {
  const response = await fetch(server.url + path, { method, headers, ...(body !== undefined && { body }) });
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}

const script = (text: string, more: Record<string, string> = {}): Uint8Array =>
  zipSync(Object.fromEntries(Object.entries({ bootstrap: text, ...more }).map(([name, content]) => [name, strToU8(content)])));
const config = (value: unknown): Record<string, string> => ({
  'x-blueprint-config': Buffer.from(JSON.stringify(value)).toString('base64'),
});
const INVOKE = JSON.stringify({ job_id: 0, args: [1, 2] });
const ANSWER = `#!/bin/sh\ncat > /dev/null\necho '{"job_id":0,"result":[25],"success":true}'\n`;

test('goes through the life of a function: deploy, info, health, invoke, warm, delete', async () => {
  const server = await start();
  const id = '/api/functions/job0';
  expect(await send(server, 'PUT', id, script(ANSWER), config({ memory_mb: 256, timeout_secs: 5 }))).toMatchObject({
    status: 200,
    body: { function_id: 'job0', endpoint: `${server.url}${id}/invoke`, status: 'deployed', memory_mb: 256, timeout_secs: 5 },
  });
  expect(await send(server, 'PUT', id, script(ANSWER))).toMatchObject({
    status: 409,
    body: { error: 'Function already exists', function_id: 'job0' },
  });
  expect((await send(server, 'GET', `${id}/health`)).body).toEqual({ function_id: 'job0', status: 'healthy', total_invocations: 0 });
  expect(await send(server, 'POST', `${id}/invoke`, INVOKE)).toMatchObject({
    status: 200,
    body: { job_id: 0, result: [25], success: true, cold_start: true },
  });
  expect(await send(server, 'POST', `${id}/warm`)).toMatchObject({ status: 200, body: { status: 'warm', instances_warmed: 1 } });
  expect(await send(server, 'POST', `${id}/invoke`, INVOKE)).toMatchObject({ status: 200, body: { cold_start: false } });
  const info = await send(server, 'GET', id);
  expect(info.body).toMatchObject({
    status: 'deployed',
    binary_size_bytes: script(ANSWER).length,
    cold_start_ms: expect.any(Number) as number,
  });
  expect((await send(server, 'GET', `${id}/health`)).body).toMatchObject({
    total_invocations: 2,
    last_invocation: expect.stringMatching(/^\d{4}-.*Z$/) as string,
  });
  expect(await send(server, 'DELETE', id)).toEqual({ status: 200, body: { function_id: 'job0', status: 'deleted' } });
  expect(await send(server, 'DELETE', id)).toMatchObject({ status: 404, body: { error: 'Function not found', function_id: 'job0' } });
  expect((await send(server, 'POST', `${id}/invoke`, INVOKE)).status).toBe(404);
});

describe('uploads', () => {
  test.each([
    ['is not a zip', strToU8('hello'), 400, 'CONFIG_INVALID'],
    ['has no bootstrap', zipSync({ other: strToU8('x') }), 400, 'CONFIG_INVALID'],
    ['climbs out of its directory', zipSync({ bootstrap: strToU8(ANSWER), '../escaped': strToU8('x') }), 400, 'CONFIG_INVALID'],
    ['has an absolute name', zipSync({ bootstrap: strToU8(ANSWER), '/tmp/escaped': strToU8('x') }), 400, 'CONFIG_INVALID'],
    ['is too large', zipSync({ bootstrap: new Uint8Array(2_000) }, { level: 0 }), 413, 'PAYLOAD_TOO_LARGE'],
    ['unpacks to too much', zipSync({ bootstrap: new Uint8Array(20_000) }), 413, 'PAYLOAD_TOO_LARGE'],
  ])('a package that %s is refused and leaves nothing behind', async (_, zip, status, code) => {
    const server = await start({ packageBytesMax: 1_000, unpackedBytesMax: 10_000 });
    expect(await send(server, 'PUT', '/api/functions/job0', zip)).toMatchObject({
      status,
      body: { code, error: expect.any(String) as string, details: expect.any(Object) as object },
    });
    expect((await send(server, 'GET', '/api/functions/job0')).status).toBe(404);
    expect(existsSync(join(tmpdir(), 'escaped'))).toBe(false);
  });

  test.each([
    ['not JSON', { 'x-blueprint-config': 'AAAA' }],
    ['memory out of range', config({ memory_mb: 1 })],
    ['time out of range', config({ timeout_secs: 901 })],
    ['variables that are not text', config({ env_vars: { A: 1 } })],
  ])('a configuration with %s is refused', async (_, headers) => {
    const server = await start();
    expect(await send(server, 'PUT', '/api/functions/job0', script(ANSWER), headers)).toMatchObject({
      status: 400,
      body: { code: 'CONFIG_INVALID' },
    });
  });

  test('a path in place of an id leads nowhere', async () => {
    const server = await start();
    expect((await send(server, 'PUT', '/api/functions/..%2F..%2Fetc', script(ANSWER))).status).toBe(404);
    expect((await send(server, 'PUT', '/api/functions/%zz', script(ANSWER))).status).toBe(404);
  });
});

describe('invocations', () => {
  async function deployed(text: string, value: unknown = {}, options: FaasServerOptions = {}): Promise<FaasServer> {
    const server = await start(options);
    expect((await send(server, 'PUT', '/api/functions/f', script(text), config(value))).status).toBe(200);
    return server;
  }
  const invoke = (server: FaasServer, body = INVOKE): Promise<Reply> => send(server, 'POST', '/api/functions/f/invoke', body);

  test('the process gets the request on standard input and a clean environment', async () => {
    process.env['FAAS_SERVER_TEST_SECRET'] = 'leak';
    cleanUps.push(() => delete process.env['FAAS_SERVER_TEST_SECRET']);
    const text = `#!${process.execPath}\nlet input = '';\nprocess.stdin.on('data', (d) => input += d).on('end', () => console.log(JSON.stringify({ job_id: 0, result: [], success: true, input: JSON.parse(input), env: process.env, cwd: process.cwd() })));\n`;
    const server = await deployed(text, { env_vars: { A: 'b' } });
    const { body } = await invoke(server);
    expect(body['input']).toEqual({ job_id: 0, args: [1, 2] });
    expect(body['env']).toEqual({ A: 'b', PATH: expect.any(String) as string });
  });

  test.each([
    ['exits with an error', '#!/bin/sh\necho broken >&2\nexit 3\n', 20, 500, 'JOB_FAILED', 'bootstrap ended with exit code 3: broken'],
    [
      'writes something else',
      '#!/bin/sh\necho hello\n',
      20,
      500,
      'JOB_FAILED',
      'the function did not write a JSON object to its standard output',
    ],
    ['writes too much', '#!/bin/sh\nhead -c 4000 /dev/zero\n', 20, 413, 'PAYLOAD_TOO_LARGE', 'the function wrote more than 1000 bytes'],
    ['runs too long', '#!/bin/sh\nexec sleep 30\n', 1, 500, 'TIMEOUT', 'Function timeout after 1s'],
    ['runs a program that runs too long', '#!/bin/sh\nsleep 3600\necho done\n', 1, 500, 'TIMEOUT', 'Function timeout after 1s'],
    ['cannot be started', '#!/no/such/interpreter\n', 20, 503, 'EXECUTOR_UNAVAILABLE', undefined],
  ])('a function that %s', async (_, text, timeoutSecs, status, code, error) => {
    const server = await deployed(text, { timeout_secs: timeoutSecs }, { payloadBytesMax: 1_000 });
    expect(await invoke(server)).toMatchObject({ status, body: { job_id: 0, success: false, result: [], code, ...(error && { error }) } });
  });

  test('a function that cannot be started is unhealthy', async () => {
    const server = await deployed('#!/no/such/interpreter\n');
    await invoke(server);
    expect(await send(server, 'GET', '/api/functions/f/health')).toMatchObject({ status: 503, body: { status: 'unhealthy' } });
  });

  test('a failure that the function reports is a 500 with its own words', async () => {
    const server = await deployed(`#!/bin/sh\ncat > /dev/null\necho '{"success":false,"error":"no","code":"JOB_ARGS_INVALID"}'\n`);
    expect(await invoke(server)).toMatchObject({ status: 500, body: { success: false, error: 'no', code: 'JOB_ARGS_INVALID' } });
  });

  test('requests that are malformed or too large', async () => {
    const server = await deployed(ANSWER, {}, { payloadBytesMax: 1_000 });
    expect(await invoke(server, '{"job_id":0}')).toMatchObject({ status: 400, body: { code: 'BAD_REQUEST' } });
    expect(await invoke(server, 'x'.repeat(1_001))).toMatchObject({ status: 413, body: { code: 'PAYLOAD_TOO_LARGE' } });
  });

  test('more invocations at a time than configured are refused with 429', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'faas-gate-'));
    const gate = join(folder, 'open');
    const waits = `until [ -e ${gate} ]; do sleep 0.01; done`;
    const server = await deployed(`#!/bin/sh\ncat > /dev/null\n${waits}\necho '{"result":[]}'\n`, { max_concurrency: 2 });
    const first = invoke(server);
    while ((await send(server, 'GET', '/api/functions/f/health')).body['total_invocations'] !== 1);
    // Those that run end when the others were refused.
    let refused = 0;
    const another = async (): Promise<Reply> => {
      const reply = await invoke(server);
      if (reply.status === 429 && (refused += 1) === 2) writeFileSync(gate, '');
      return reply;
    };
    const others = await Promise.all([another(), another(), another()]);
    expect((await first).status).toBe(200);
    rmSync(folder, { recursive: true });
    expect(others.map((reply) => String(reply.status)).toSorted()).toEqual(['200', '429', '429']);
    expect(others.find((reply) => reply.status === 429)?.body).toMatchObject({ code: 'TOO_MANY_REQUESTS' });
  });

  test('a function whose caller has gone is killed and makes room', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'faas-hangs-'));
    const ran = join(folder, 'ran');
    const firstHangs = `[ -e ${ran} ] || { touch ${ran}; exec sleep 60; }`;
    const server = await deployed(`#!/bin/sh\ncat > /dev/null\n${firstHangs}\necho '{"result":[]}'\n`, { max_concurrency: 1 });
    const abandoned = httpRequest(`${server.url}/api/functions/f/invoke`, { method: 'POST' }).on('error', () => {});
    abandoned.end(INVOKE);
    // Only the first one hangs, and only once it has left its mark.
    while (!existsSync(ran)) await send(server, 'GET', '/api/functions/f/health');
    let reply = await invoke(server);
    expect(reply.status).toBe(429);
    abandoned.destroy();
    while (reply.status === 429) reply = await invoke(server);
    expect(reply.status).toBe(200);
    rmSync(folder, { recursive: true });
  });

  test('a function whose caller has gone before it is started is killed too', async () => {
    const cat = new BootstrapFunction({
      executable: '/bin/cat',
      directory: tmpdir(),
      environment: {},
      config: parseFunctionConfig(undefined),
      outputBytesMax: 1_000,
    });
    cleanUps.push(() => cat.close());
    await expect(cat.run(new Uint8Array(), AbortSignal.abort())).rejects.toMatchObject({ code: 'ABORTED' });
  });
});

test('without the key nothing is possible', async () => {
  const server = await start({ apiKey: 'right' });
  expect(await send(server, 'GET', '/api/functions/x')).toMatchObject({ status: 401, body: { code: 'UNAUTHORIZED' } });
  expect((await send(server, 'GET', '/api/functions/x', undefined, { authorization: 'Bearer wrong' })).status).toBe(401);
  expect((await send(server, 'GET', '/api/functions/x', undefined, { authorization: 'Bearer right' })).status).toBe(404);
  const other = await start({ apiKey: 'right', header: 'x-api-key' });
  expect((await send(other, 'GET', '/api/functions/x', undefined, { 'x-api-key': 'right' })).status).toBe(404);
});
