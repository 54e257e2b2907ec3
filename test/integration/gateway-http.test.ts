import { readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { describe, expect, test } from 'vitest';
import { HELLO, newFolder, onEnd, send, sendRaw, startGateway, until, zipOf } from '../support/gateway.ts';
import type { TestGateway } from '../support/gateway.ts';
import { requirePeer } from '../require.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { KeyFolder } from '../../src/gateway/keys.ts';
import { createMetrics } from '../../src/telemetry/prometheus.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { FakeBackend } from '../support/fake-backend.ts';

const DEPLOY = 'PUT /api/v1/functions/hello?runtime=nodejs24.x&handler=index.handler';

/** A function whose calls wait for `answer`; `started` resolves when the first one has begun. */
async function startHeld(
  options: Parameters<typeof startGateway>[0] = {},
): Promise<TestGateway & { readonly started: Promise<void>; readonly answer: (text: string) => void }> {
  const started = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<string>();
  const handler = (): Promise<string> => {
    started.resolve();
    return answer.promise;
  };
  const running = await startGateway({ ...options, backend: { handler } });
  await send(running.url, `${DEPLOY}&timeout_ms=60000`, { body: HELLO });
  return { ...running, started: started.promise, answer: answer.resolve };
}

test('an instance for one call alone does not outlive a call that is given up while it starts', async () => {
  const { url, backend } = await startGateway();
  await send(url, DEPLOY, { body: HELLO });
  const gate = Promise.withResolvers<void>();
  backend.launchGate = gate.promise;
  // It comes up although nobody waits for it any more.
  const launch = backend.launch.bind(backend);
  backend.launch = (spec) => launch({ ...spec, signal: new AbortController().signal });
  const controller = new AbortController();
  const body = JSON.stringify({ function: 'hello', mode: 'ephemeral', payload: 1 });
  const call = fetch(`${url}/api/v1/execute`, { method: 'POST', body, signal: controller.signal }).catch((error: unknown) => error);
  await until(() => backend.launching === 1);
  controller.abort();
  await call;
  const { json } = await send(url, 'GET /api/v1/instances');
  expect(json).toMatchObject({ instances: [{ state: 'starting' }] });
  gate.resolve();
  await until(() => backend.programs.length === 1 && backend.running.length === 0);
  await until(async () => JSON.stringify((await send(url, 'GET /api/v1/instances')).json) === '{"instances":[]}');
});

describe('functions', () => {
  test('are deployed, described, listed, changed, published, fetched and removed', async () => {
    const { url } = await startGateway();
    const created = await send(url, DEPLOY, { body: HELLO });
    expect(created).toMatchObject({
      status: 201,
      json: { name: 'hello', version: '$LATEST', runtime: 'nodejs24.x', package: 'zip', backend: 'fake' },
    });
    expect(created.headers.get('location')).toBe('/api/v1/functions/hello');
    expect(await send(url, 'PATCH /api/v1/functions/hello', { body: '{"memory_mb":256,"environment":{"AB":"c"}}' })).toMatchObject({
      status: 200,
      json: { memory_mb: 256, environment: { AB: 'c' }, environment_names: ['AB'] },
    });
    expect(await send(url, 'POST /api/v1/functions/hello/versions')).toMatchObject({ status: 201, json: { version: '1' } });
    expect(await send(url, 'GET /api/v1/functions/hello/versions')).toMatchObject({
      json: { functions: [{ version: '$LATEST' }, { version: '1' }] },
    });
    expect(await send(url, 'GET /api/v1/functions/hello?qualifier=1')).toMatchObject({ json: { version: '1', memory_mb: 256 } });
    expect(await send(url, 'GET /api/v1/functions?limit=1')).toMatchObject({ json: { functions: [{ name: 'hello' }] } });
    const code = await fetch(`${url}/api/v1/functions/hello/code`);
    expect(new Uint8Array(await code.arrayBuffer())).toEqual(HELLO);
    const again = await send(url, DEPLOY, { body: zipOf({ 'index.mjs': 'export const handler = async () => 2;' }) });
    expect(again).toMatchObject({ status: 200, json: { memory_mb: 256 } });
    expect((await send(url, 'DELETE /api/v1/functions/hello')).status).toBe(204);
    expect(await send(url, 'GET /api/v1/functions/hello')).toMatchObject({ status: 404, code: 'FUNCTION_NOT_FOUND' });
  });

  test('a name that is taken, a revision that has passed', async () => {
    const { url } = await startGateway();
    const body = JSON.stringify({
      name: 'hello',
      zip: Buffer.from(HELLO).toString('base64'),
      runtime: 'nodejs24.x',
      handler: 'index.handler',
    });
    expect((await send(url, 'POST /api/v1/functions', { body })).status).toBe(201);
    expect(await send(url, 'POST /api/v1/functions', { body })).toMatchObject({ status: 409, code: 'FUNCTION_EXISTS' });
    expect(await send(url, 'PATCH /api/v1/functions/hello', { body: '{"revision_id":"old","memory_mb":512}' })).toMatchObject({
      status: 409,
      code: 'REVISION_MISMATCH',
    });
  });

  test('a replacement that fails changes nothing; the same from many at once is no conflict', async () => {
    const { url } = await startGateway();
    const replies = await Promise.all(Array.from({ length: 4 }, () => send(url, DEPLOY, { body: HELLO })));
    expect(replies.map(({ status }) => status).filter((status) => status !== 200 && status !== 201)).toEqual([]);
    const before = (await send(url, 'GET /api/v1/functions/hello')).json as { revision_id: string };
    expect(await send(url, `${DEPLOY}&memory_mb=256`, { body: 'no zip' })).toMatchObject({ status: 400, code: 'PACKAGE_INVALID' });
    expect(await send(url, `${DEPLOY}&memory_mb=7`, { body: zipOf({ other: 'x' }) })).toMatchObject({
      status: 400,
      code: 'CONFIG_INVALID',
    });
    expect((await send(url, 'GET /api/v1/functions/hello')).json).toMatchObject({ revision_id: before.revision_id, memory_mb: 128 });
  });

  test('pages', async () => {
    const { url } = await startGateway();
    for (const name of ['c', 'a', 'b']) await send(url, `PUT /api/v1/functions/${name}?runtime=nodejs24.x&handler=i.h`, { body: HELLO });
    const first = (await send(url, 'GET /api/v1/functions?limit=2')).json as { functions: { name: string }[]; next: string };
    const second = (await send(url, `GET /api/v1/functions?limit=2&after=${first.next}`)).json as {
      functions: { name: string }[];
      next?: string;
    };
    expect([...first.functions, ...second.functions].map(({ name }) => name)).toEqual(['a', 'b', 'c']);
    expect(second.next).toBeUndefined();
  });

  test('after a change no call is served by the old code', async () => {
    const { url, backend } = await startGateway();
    await send(url, DEPLOY, { body: HELLO });
    const first = await send(url, 'POST /api/v1/functions/hello/invoke', { body: '1' });
    await send(url, DEPLOY, { body: zipOf({ 'index.mjs': 'new' }) });
    const second = await send(url, 'POST /api/v1/functions/hello/invoke', { body: '1' });
    expect(second.headers.get('x-instance-id')).not.toBe(first.headers.get('x-instance-id'));
    await until(() => backend.running.length === 1);
  });
});

describe('calls', () => {
  test('give what the function gives, and what it took', async () => {
    const { url } = await startGateway({ backend: { handler: async ({ body, program }) => (program.print('a line\n'), body) } });
    await send(url, DEPLOY, { body: HELLO });
    const reply = await send(url, 'POST /api/v1/functions/hello/invoke', { body: '{"a":1}', headers: { 'x-log-type': 'Tail' } });
    expect(reply).toMatchObject({ status: 200, json: { a: 1 } });
    expect(Object.fromEntries(['x-cold-start', 'x-executed-version'].map((name) => [name, reply.headers.get(name)]))).toEqual({
      'x-cold-start': 'true',
      'x-executed-version': '$LATEST',
    });
    expect(Buffer.from(reply.headers.get('x-log-result') ?? '', 'base64').toString()).toBe('a line\n');
    expect(reply.headers.get('x-request-id')).toBe(reply.headers.get('x-invocation-id'));
  });

  test('the trace of the caller reaches the function', async () => {
    const { url } = await startGateway({
      backend: { handler: async ({ headers }) => JSON.stringify(headers['lambda-runtime-trace-id'] ?? null) },
    });
    await send(url, DEPLOY, { body: HELLO });
    const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    expect((await send(url, 'POST /api/v1/functions/hello/invoke', { body: '1', headers: { traceparent } })).json).toBe(
      'Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1',
    );
  });

  test.each([
    ['throws', async () => Promise.reject(new TypeError('no')), {}, 502, 'FUNCTION_FAILED'],
    ['takes too long', () => new Promise<never>(() => {}), { 'x-timeout-ms': '50' }, 504, 'EXECUTOR_TIMEOUT'],
  ])('a function that %s', async (_, handler, headers, status, code) => {
    const { url } = await startGateway({ backend: { handler } });
    await send(url, DEPLOY, { body: HELLO });
    const reply = await send(url, 'POST /api/v1/functions/hello/invoke', { body: '1', headers });
    expect(reply).toMatchObject({ status, code });
  });

  test('more than the instances and the queue take is refused', async () => {
    const { url, started, answer } = await startHeld({ runtime: { limits: { instancesMax: 1, queueMax: 1 } } });
    const invoke = (): ReturnType<typeof send> => send(url, 'POST /api/v1/functions/hello/invoke', { body: '1' });
    const running = invoke();
    await started;
    const others = [invoke(), invoke()];
    const refused = await Promise.race(others);
    expect(refused).toMatchObject({ status: 429, code: 'QUEUE_FULL' });
    expect(refused.headers.get('retry-after')).toBe('1');
    answer('1');
    expect((await Promise.all([running, ...others])).map(({ status }) => String(status)).toSorted()).toEqual(['200', '200', '429']);
  });

  test('streams: as bytes, and as events', async () => {
    const { url } = await startGateway({
      backend: {
        async handler({ id, program }) {
          await program.stream(
            id,
            (async function* () {
              yield Buffer.from('one');
              yield Buffer.from('two');
            })(),
          );
          return undefined;
        },
      },
    });
    await send(url, DEPLOY, { body: HELLO });
    expect((await send(url, 'POST /api/v1/functions/hello/stream', { body: '1' })).text).toBe('onetwo');
    const { text } = await send(url, 'POST /api/v1/functions/hello/stream', { body: '1', headers: { accept: 'text/event-stream' } });
    const events = text
      .split('\n\n')
      .filter((block) => block !== '')
      .map((block) => /event: (\w+)\ndata: (.*)/.exec(block)?.slice(1));
    expect(events.map((event) => event?.[0])).toEqual(['chunk', 'chunk', 'end']);
    expect(Buffer.from(events[1]?.[1] ?? '', 'base64').toString()).toBe('two');
    expect(JSON.parse(events[2]?.[1] ?? '')).toMatchObject({ cold_start: false, run_ms: expect.any(Number) as number });
  });

  test('an answer that breaks off does not look whole', async () => {
    const { url } = await startGateway({
      backend: {
        async handler({ id, program }) {
          await program.stream(
            id,
            (async function* () {
              yield Buffer.from('one');
            })(),
            { fail: new RangeError('half') },
          );
          return undefined;
        },
      },
    });
    await send(url, DEPLOY, { body: HELLO });
    await expect(send(url, 'POST /api/v1/functions/hello/stream', { body: '1' })).rejects.toThrow('terminated');
    const { text } = await send(url, 'POST /api/v1/functions/hello/stream', { body: '1', headers: { accept: 'text/event-stream' } });
    expect(text).toMatch(/event: error\ndata: .*"FUNCTION_FAILED".*half/);
  });

  test('a client that has gone ends the call', async () => {
    const { url, started, backend } = await startHeld();
    const gone = new AbortController();
    const call = fetch(`${url}/api/v1/functions/hello/invoke`, { method: 'POST', body: '1', signal: gone.signal });
    await started;
    gone.abort();
    await expect(call).rejects.toThrow('aborted');
    await until(() => backend.running.length === 0);
  });
});

describe('execute', () => {
  test('code of requests is counted together: each request may bring a function that never comes again', async () => {
    const metrics = createMetrics({ defaults: false });
    const { url } = await startGateway({ telemetry: { ...silentTelemetry, metrics } });
    await send(url, DEPLOY, { body: HELLO });
    await send(url, 'POST /api/v1/functions/hello/invoke', { body: '1' });
    const body = JSON.stringify({ zip: Buffer.from(HELLO).toString('base64'), runtime: 'nodejs24.x', handler: 'i.h', mode: 'ephemeral' });
    for (let call = 0; call < 3; call += 1) expect((await send(url, 'POST /api/v1/execute', { body })).status).toBe(200);
    const lines = (await metrics.expose()).split('\n').filter((line) => line.startsWith('blueprint_function_invocations_total{'));
    expect(lines.map((line) => [/function="([^"]*)"/.exec(line)?.[1], line.split(' ').at(-1)])).toEqual([
      ['hello', '1'],
      ['execute-*', '3'],
    ]);
  });

  test('a deployed function, warm or on an instance of its own', async () => {
    const { url, backend } = await startGateway();
    await send(url, DEPLOY, { body: HELLO });
    const execute = (body: unknown): ReturnType<typeof send> => send(url, 'POST /api/v1/execute', { body: JSON.stringify(body) });
    expect(await execute({ function: 'hello', payload: { a: 1 } })).toMatchObject({
      status: 200,
      json: { mode: 'cached', output: { a: 1 }, report: { cold_start: true } },
    });
    expect(await execute({ function: 'hello', payload: 2 })).toMatchObject({ json: { output: 2, report: { cold_start: false } } });
    const alone = await execute({ function: 'hello', mode: 'ephemeral', payload: 3 });
    expect(alone).toMatchObject({ json: { mode: 'ephemeral', output: 3, report: { cold_start: true } } });
    await until(() => backend.running.length === 1);
  });

  test('code that comes along: made once, not listed, and gone after a restart', async () => {
    const { url, gateway, folder } = await startGateway();
    const body = JSON.stringify({
      zip: Buffer.from(HELLO).toString('base64'),
      runtime: 'nodejs24.x',
      handler: 'index.handler',
      payload: 1,
    });
    expect(await send(url, 'POST /api/v1/execute', { body })).toMatchObject({
      status: 200,
      json: { output: 1, report: { cold_start: true } },
    });
    expect(await send(url, 'POST /api/v1/execute', { body })).toMatchObject({ status: 200, json: { report: { cold_start: false } } });
    expect(await send(url, 'GET /api/v1/functions')).toMatchObject({ json: { functions: [] } });
    expect(await send(url, 'GET /api/v1/info')).toMatchObject({ json: { functions: 1 } });
    await gateway.close(0);
    const next = await startGateway({ folder });
    expect(await send(next.url, 'GET /api/v1/info')).toMatchObject({ json: { functions: 0 } });
  });

  test('an idempotency key runs a request once', async () => {
    let calls = 0;
    const { url } = await startGateway({ backend: { handler: async () => String((calls += 1)) } });
    await send(url, DEPLOY, { body: HELLO });
    const execute = (payload: unknown): ReturnType<typeof send> =>
      send(url, 'POST /api/v1/execute', { body: JSON.stringify({ function: 'hello', payload }), headers: { 'idempotency-key': 'k1' } });
    const [first, second] = await Promise.all([execute(1), execute(1)]);
    expect([first.json, (await execute(1)).json]).toEqual([second.json, first.json]);
    expect(calls).toBe(1);
    expect(await execute(2)).toMatchObject({ status: 409, code: 'REQUEST_CONFLICT' });
  });

  test.each([
    ['neither function nor code', {}],
    ['function and code', { function: 'hello', zip: 'AAAA' }],
    ['two payloads', { function: 'hello', payload: 1, payload_base64: 'AAAA' }],
    ['a mode that is none', { function: 'hello', mode: 'forked' }],
    ['a field that nobody knows', { function: 'hello', modus: 'cached' }],
    ['base64 that is none', { function: 'hello', payload_base64: '!' }],
  ])('a request with %s is refused', async (_, body) => {
    const { url } = await startGateway();
    await send(url, DEPLOY, { body: HELLO });
    expect(await send(url, 'POST /api/v1/execute', { body: JSON.stringify(body) })).toMatchObject({ status: 400, code: 'REQUEST_INVALID' });
  });
});

test('instances that are kept warm come again after a drain', async () => {
  const { url, backend } = await startGateway();
  await send(url, DEPLOY, { body: HELLO });
  await send(url, 'POST /api/v1/functions/hello/versions');
  const path = '/2019-09-30/functions/hello/provisioned-concurrency?Qualifier=1';
  await send(url, `PUT ${path}`, { body: '{"ProvisionedConcurrentExecutions":1}' });
  const isReady = async (): Promise<boolean> => (await send(url, `GET ${path}`)).text.includes('"READY"');
  await until(isReady);
  const [first] = backend.running;
  expect(await send(url, 'POST /api/v1/instances/drain', { body: '{"function":"hello"}' })).toMatchObject({ json: { instances: 1 } });
  await until(async () => backend.running.length === 1 && backend.running[0] !== first && (await isReady()));
  await send(url, `DELETE ${path}`);
  expect(await send(url, 'POST /api/v1/instances/drain', { body: '{"function":"hello"}' })).toMatchObject({ json: { instances: 1 } });
  await until(() => backend.running.length === 0);
});

test('instances are listed, described, warmed, stopped and drained', async () => {
  const { url, backend } = await startGateway();
  await send(url, DEPLOY, { body: HELLO });
  expect(await send(url, 'POST /api/v1/instances/warm', { body: '{"function":"hello","count":2}' })).toMatchObject({
    status: 200,
    json: { instances: [{ state: 'idle' }, { state: 'idle' }] },
  });
  const { instances } = (await send(url, 'GET /api/v1/instances?function=hello')).json as { instances: { id: string }[] };
  const [first] = instances;
  expect(await send(url, `GET /api/v1/instances/${first?.id}`)).toMatchObject({
    status: 200,
    json: { function: 'hello', backend: 'fake' },
  });
  expect((await send(url, `DELETE /api/v1/instances/${first?.id}`)).status).toBe(204);
  expect(await send(url, `DELETE /api/v1/instances/${first?.id}`)).toMatchObject({ status: 404, code: 'NOT_FOUND' });
  expect(await send(url, 'POST /api/v1/instances/drain', { body: '{"function":"hello"}' })).toMatchObject({ json: { instances: 1 } });
  await until(() => backend.running.length === 0);
  expect((await send(url, 'POST /api/v1/functions/hello/invoke', { body: '1' })).status).toBe(200);
});

const testProc = requirePeer('/proc/net/tcp', () => {
  readFileSync('/proc/net/tcp');
});
testProc('a client that vanishes while it follows a log is noticed by the system', async () => {
  const { url } = await startGateway();
  await send(url, DEPLOY, { body: HELLO });
  const live = await fetch(`${url}/api/v1/functions/hello/logs`, { headers: { accept: 'text/event-stream' } });
  const port = Number(new URL(url).port).toString(16).toUpperCase().padStart(4, '0');
  // Local address, remote address, state (01: established), queues, timer (01: what was sent is not acknowledged yet; 02: of keep-alive).
  const timers = (): string[] =>
    readFileSync('/proc/net/tcp', 'utf8')
      .split('\n')
      .map((line) => line.trim().split(/\s+/))
      .flatMap(([, local = '', , state, , timer = '']) => (local.endsWith(`:${port}`) && state === '01' ? [timer.slice(0, 2)] : []));
  await expect.poll(() => [...new Set(timers())]).toEqual(['02']);
  await live.body?.cancel();
});

test('logs: kept ones, those after a line, and live', async () => {
  const { url } = await startGateway({
    backend: { handler: async ({ body, program }) => (program.print(`said ${body.toString()}\n`), body) },
  });
  await send(url, DEPLOY, { body: HELLO });
  const invoke = (body: string): ReturnType<typeof send> => send(url, 'POST /api/v1/functions/hello/invoke', { body });
  await invoke('1');
  await invoke('2');
  const lines = async (query = ''): Promise<{ id: string; text: string }[]> =>
    ((await send(url, `GET /api/v1/functions/hello/logs${query}`)).json as { lines: { id: string; text: string }[] }).lines;
  await until(async () => (await lines()).length === 2);
  const all = await lines();
  expect(all.map(({ text }) => text)).toEqual(['said 1', 'said 2']);
  expect((await lines(`?since=${all[0]?.id}`)).map(({ text }) => text)).toEqual(['said 2']);
  expect((await lines('?limit=1')).map(({ text }) => text)).toEqual(['said 2']);
  const live = await fetch(`${url}/api/v1/functions/hello/logs?since=${all[1]?.id}`, { headers: { accept: 'text/event-stream' } });
  const reader = live.body?.pipeThrough(new TextDecoderStream()).getReader();
  await reader?.read();
  await invoke('3');
  expect((await reader?.read())?.value).toContain('said 3');
  await reader?.cancel();
});

describe('the gateway about itself', () => {
  test('health, readiness, info, metrics', async () => {
    const { url } = await startGateway({ metrics: async () => 'some_metric 1\n', version: '1.2.3' });
    expect(await send(url, 'GET /healthz')).toMatchObject({ status: 200, json: { ok: true } });
    expect(await send(url, 'GET /readyz')).toMatchObject({ status: 200, json: { ok: true } });
    expect(await send(url, 'GET /api/v1/info')).toMatchObject({
      json: { version: '1.2.3', default_backend: 'fake', backends: [{ name: 'fake', instances: 0 }] },
    });
    expect((await send(url, 'GET /metrics')).text).toBe('some_metric 1\n');
    expect((await sendRaw(url, 'HEAD /healthz')).body).toBe('');
  });

  test('OpenAPI: every route, every reference resolves, every operation has a name of its own', async () => {
    const { url } = await startGateway();
    const document = (await send(url, 'GET /openapi.json')).json as {
      openapi: string;
      paths: Record<string, Record<string, Record<string, unknown>>>;
    };
    expect(document.openapi).toBe('3.1.0');
    const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
    );
    expect(operations.length).toBeGreaterThan(65);
    expect(new Set(operations.map(({ operation }) => operation['operationId'])).size).toBe(operations.length);
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g)].map(([, path = '']) => path);
    expect(references.length).toBeGreaterThan(50);
    for (const reference of new Set(references)) {
      const target = reference.split('/').reduce<unknown>((at, name) => (at as Record<string, unknown>)[name], document);
      expect(target, reference).toBeTypeOf('object');
    }
    for (const { path, operation } of operations) {
      const named = ((operation['parameters'] ?? []) as { name: string; in: string }[])
        .filter((one) => one.in === 'path')
        .map(({ name }) => name);
      expect(named, path).toEqual([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name));
      expect(String(operation['summary']).length, path).toBeGreaterThan(5);
      expect(
        Object.keys(operation['responses'] as object).some((status) => /^[123]\d\d$/.test(status)),
        path,
      ).toBe(true);
    }
  });
});

describe('bad input', () => {
  const cases: readonly (readonly [what: string, line: string, body: string | undefined, status: number, code: string])[] = [
    ['a WebSocket without asking for one', 'GET /api/v1/ws', undefined, 426, 'REQUEST_INVALID'],
    ['a path that leads nowhere', 'GET /nothing', undefined, 404, 'NOT_FOUND'],
    ['a method that the path does not take', 'PUT /api/v1/execute', undefined, 405, 'REQUEST_INVALID'],
    ['an encoded slash', 'GET /api/v1/functions/a%2fb', undefined, 400, 'REQUEST_INVALID'],
    ['an encoded backslash', 'GET /api/v1/functions/a%5cb', undefined, 400, 'REQUEST_INVALID'],
    ['a NUL', 'GET /api/v1/functions/a%00b', undefined, 400, 'REQUEST_INVALID'],
    ['broken encoding', 'GET /api/v1/functions/%zz', undefined, 400, 'REQUEST_INVALID'],
    ['no UTF-8', 'GET /api/v1/functions/%ff', undefined, 400, 'REQUEST_INVALID'],
    ['an empty part', 'GET /api/v1//functions', undefined, 400, 'REQUEST_INVALID'],
    ['a path of 9,000 characters', `GET /${'a'.repeat(9_000)}`, undefined, 414, 'REQUEST_INVALID'],
    ['a query that nobody knows', 'GET /api/v1/functions?color=red', undefined, 400, 'REQUEST_INVALID'],
    ['a query that is no number', 'GET /api/v1/functions?limit=x', undefined, 400, 'REQUEST_INVALID'],
    ['a query twice', 'GET /api/v1/functions?limit=1&limit=2', undefined, 400, 'REQUEST_INVALID'],
    ['JSON that is none', 'POST /api/v1/execute', '{', 400, 'REQUEST_INVALID'],
    ['JSON of another type', 'POST /api/v1/execute', '[]', 400, 'REQUEST_INVALID'],
    ['a field of another type', 'POST /api/v1/functions', '{"name":1}', 400, 'REQUEST_INVALID'],
    ['a prototype', 'POST /api/v1/execute', '{"__proto__":{"function":"x"}}', 400, 'REQUEST_INVALID'],
    ['a body where none is taken', 'DELETE /api/v1/functions/hello', 'x', 413, 'PAYLOAD_TOO_LARGE'],
    ['a package that is no zip', DEPLOY, 'hello', 400, 'PACKAGE_INVALID'],
    ['no package', DEPLOY, undefined, 400, 'REQUEST_INVALID'],
    ['a backend that is not there', `${DEPLOY}&backend=moon`, 'x', 400, 'REQUEST_INVALID'],
    ['a function that is not there', 'POST /api/v1/functions/nope/invoke', '1', 404, 'FUNCTION_NOT_FOUND'],
    ['a version that is not there', 'GET /api/v1/functions/nope?qualifier=7', undefined, 404, 'FUNCTION_NOT_FOUND'],
  ];

  test('is answered with a status and a code', async () => {
    const { url } = await startGateway();
    for (const [what, line, body, status, code] of cases) {
      const reply = await send(url, line, body === undefined ? {} : { body });
      expect([what, reply.status, reply.code]).toEqual([what, status, code]);
      expect(reply.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
    }
  });

  test('paths with dots, which a client would resolve itself', async () => {
    const { url } = await startGateway();
    for (const path of ['/api/v1/functions/../info', '/api/v1/functions/%2e%2e/code', '/./healthz', '//healthz', 'healthz'])
      expect((await sendRaw(url, `GET ${path}`)).status, path).toBe(400);
  });

  test('headers twice', async () => {
    const { url } = await startGateway();
    expect((await sendRaw(url, 'GET /healthz', { origin: [url, url] })).status).toBe(400);
    expect((await sendRaw(url, 'GET /healthz', { 'x-api-key': ['a', 'b'] })).status).toBe(400);
  });

  const raw = (url: string, text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      const { hostname, port } = new URL(url);
      const socket = connect(Number(port), hostname, () => socket.write(text));
      let answer = '';
      socket.setEncoding('latin1').on('data', (part: string) => (answer += part));
      socket.on('error', reject).on('close', () => resolve(answer));
    });

  test('an offer of HTTP/2 is none: clients in Java make it with each request, and are answered', async () => {
    const { url } = await startGateway();
    await send(url, DEPLOY, { body: HELLO });
    const offer = 'connection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA';
    const answer = await raw(
      url,
      `POST /api/v1/functions/hello/invoke HTTP/1.1\r\nhost: localhost\r\n${offer}\r\ncontent-length: 2\r\n\r\n{}`,
    );
    expect(answer).toMatch(/^HTTP\/1\.1 200 /);
  });

  test.each([
    ['no HTTP', 'hello\r\n\r\n', 400],
    ['no host', 'GET / HTTP/1.1\r\nconnection: close\r\n\r\n', 400],
    ['two lengths', 'POST /api/v1/execute HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}', 400],
    [
      'a length and chunks',
      'POST /api/v1/execute HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
      400,
    ],
    ['huge headers', `GET / HTTP/1.1\r\nhost: localhost\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`, 431],
  ])('what is not proper HTTP: %s', async (_, text, status) => {
    const { url } = await startGateway();
    expect(await raw(url, text)).toMatch(new RegExp(`^HTTP/1\\.1 ${status} [^]*"?code"?|^HTTP/1\\.1 ${status} Bad Request`));
  });

  test('a body larger than the function takes is refused before it is read', async () => {
    const { url } = await startGateway();
    await send(url, DEPLOY, { body: HELLO });
    expect(await send(url, 'POST /api/v1/functions/hello/invoke', { body: new Uint8Array(6 * 1024 * 1024 + 1) })).toMatchObject({
      status: 413,
      code: 'PAYLOAD_TOO_LARGE',
    });
    expect((await send(url, 'POST /api/v1/functions/hello/invoke', { body: JSON.stringify('x'.repeat(6 * 1024 * 1024 - 2)) })).status).toBe(
      200,
    );
  });

  test.each([
    ['its provider', 6],
    ['the runtime', 200],
  ])('an answer larger than %s takes is a fault of the function, not of the request', async (_, limitMib) => {
    const bytes = limitMib * 1024 * 1024 + 1_024;
    const { url } = await startGateway({ backend: { handler: () => Promise.resolve(Buffer.alloc(bytes, ' ')) } });
    // Within its default of 3 s a busy machine does not move 200 MiB.
    await send(url, `${DEPLOY}&timeout_ms=60000`, { body: HELLO });
    expect(await send(url, 'POST /api/v1/functions/hello/invoke', { body: '1' })).toMatchObject({ status: 502, code: 'PAYLOAD_TOO_LARGE' });
    const body = JSON.stringify({ function: 'hello', payload: 1 });
    expect(await send(url, 'POST /api/v1/execute', { body })).toMatchObject({ status: 502, code: 'PAYLOAD_TOO_LARGE' });
  });

  test('a client that waits for 100 Continue is told to go on, or refused before it sends', async () => {
    const { url } = await startGateway();
    const ask = (line: string, bytes: number): Promise<{ status: number; wasAsked: boolean }> =>
      new Promise((resolve, reject) => {
        let wasAsked = false;
        const [method, path] = line.split(' ');
        const headers = { expect: '100-continue', 'content-length': String(bytes) };
        const outgoing = httpRequest(url + path, { method, headers, agent: false }, (incoming) => {
          incoming.resume();
          resolve({ status: incoming.statusCode ?? 0, wasAsked });
          outgoing.destroy();
        });
        outgoing.on('continue', () => {
          wasAsked = true;
          outgoing.end(HELLO);
        });
        outgoing.on('error', reject).flushHeaders();
      });
    expect(await ask(DEPLOY, HELLO.length)).toEqual({ status: 201, wasAsked: true });
    expect(await ask(DEPLOY, 1_000_000_000)).toEqual({ status: 413, wasAsked: false });
    expect(await ask('PUT /nothing', 10)).toEqual({ status: 404, wasAsked: false });
  });

  test('bodies of all requests together have a limit', async () => {
    const { url } = await startGateway({ limits: { bodiesBytesMax: 1_000 } });
    const reply = await send(url, 'POST /api/v1/execute', { body: 'x'.repeat(1_001) });
    expect(reply).toMatchObject({ status: 503, code: 'EXECUTOR_UNAVAILABLE' });
    expect(reply.headers.get('retry-after')).toBe('1');
    expect((await send(url, 'POST /api/v1/execute', { body: 'x' })).status).toBe(400);
  });

  test('who sends too slowly is cut off', async () => {
    const { url } = await startGateway({ limits: { headersTimeoutMs: 100, requestTimeoutMs: 200 } });
    expect(await raw(url, 'GET /healthz HTTP/1.1\r\nhost: localhost\r\n')).toMatch(/^HTTP\/1\.1 408 /);
    expect(await raw(url, 'POST /api/v1/execute HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{')).toMatch(/^HTTP\/1\.1 4\d\d /);
  });
});

describe('browsers', () => {
  test('pages of others are refused: by origin, by host, by site', async () => {
    const { url } = await startGateway();
    expect((await sendRaw(url, 'GET /healthz', { origin: 'https://evil.example' })).status).toBe(403);
    expect((await sendRaw(url, 'GET /healthz', { host: 'evil.example' })).status).toBe(403);
    expect((await sendRaw(url, 'GET /healthz', { host: `127.0.0.1.evil.example:${new URL(url).port}` })).status).toBe(403);
    expect((await sendRaw(url, 'GET /healthz', { 'sec-fetch-site': 'cross-site' })).status).toBe(403);
    expect((await sendRaw(url, 'GET /healthz', { origin: url })).status).toBe(200);
    expect((await sendRaw(url, 'GET /healthz', { host: 'localhost' })).status).toBe(200);
    expect((await sendRaw(url, 'OPTIONS /api/v1/execute', { origin: 'https://evil.example' })).status).toBe(403);
  });

  test('an origin that is allowed may ask', async () => {
    const { url } = await startGateway({ corsOrigins: ['https://app.example'] });
    const preflight = await send(url, 'OPTIONS /api/v1/execute', { headers: { origin: 'https://app.example' } });
    expect([preflight.status, preflight.headers.get('access-control-allow-origin')]).toEqual([204, 'https://app.example']);
    const allowed = preflight.headers.get('access-control-allow-headers')?.split(', ');
    expect(allowed).toEqual(expect.arrayContaining(['authorization', 'content-type', 'idempotency-key', 'x-timeout-ms', 'x-log-type']));
    const reply = await send(url, 'GET /healthz', { headers: { origin: 'https://app.example' } });
    expect(reply.headers.get('access-control-allow-origin')).toBe('https://app.example');
    expect((await send(url, 'GET /healthz')).headers.get('access-control-allow-origin')).toBeNull();
  });

  test('what is the origin of no page cannot be allowed', async () => {
    const backends = new Map([['fake', new FakeBackend()]]);
    const make = (origin: string): unknown => new Gateway({ folder: 'never-made', backends, corsOrigins: [origin] });
    for (const origin of ['*', 'null', 'app.example', 'https://app.example/', 'https://APP.example', 'https://app.example:443', 'https://'])
      expect(() => make(origin), origin).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }) as Error);
    for (const origin of ['https://app.example', 'http://localhost:5173', 'http://[::1]:1', 'chrome-extension://abcdef']) make(origin);
  });
});

describe('where it listens', () => {
  test('any address but loopback needs credentials', async () => {
    const folder = await newFolder();
    const backends = new Map([['fake', new FakeBackend()]]);
    await expect(new Gateway({ folder, backends }).listen({ host: '0.0.0.0', port: 0 })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('0.0.0.0') as string,
    });
    await expect(new Gateway({ folder, backends }).listen({ host: 'example.org', port: 0 })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    });
    const gateway = new Gateway({ folder, backends, auth: { keys: new KeyFolder({ folder: `${folder}/keys` }) } });
    onEnd(() => gateway.close(0));
    expect(await gateway.listen({ host: '0.0.0.0', port: 0 })).toMatch(/^http:\/\/0\.0\.0\.0:\d+$/);
  });

  test('a port that is taken', async () => {
    const { url } = await startGateway();
    await expect(startGateway({ address: { port: Number(new URL(url).port) } })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });

  test('the folder belongs to one gateway', async () => {
    const { folder } = await startGateway();
    await expect(startGateway({ folder })).rejects.toMatchObject({ code: 'STORE_FAILED' });
  });
});

describe('closing', () => {
  test('lets calls finish, ends what only waits, refuses the rest', async () => {
    const { url, gateway, backend, started, answer } = await startHeld();
    const call = send(url, 'POST /api/v1/functions/hello/invoke', { body: '1' });
    const follow = await fetch(`${url}/api/v1/functions/hello/logs`, { headers: { accept: 'text/event-stream' } });
    await started;
    const closed = gateway.close(5_000);
    await follow.text();
    answer('7');
    expect((await call).json).toBe(7);
    await closed;
    expect(backend.running).toEqual([]);
    await expect(send(url, 'GET /healthz')).rejects.toThrow('fetch failed');
    await gateway.close();
  });

  test('does not wait for calls that nobody waits for', async () => {
    const { url, gateway, backend, started } = await startHeld();
    const reply = await send(url, 'POST /2015-03-31/functions/hello/invocations', {
      body: '1',
      headers: { 'x-amz-invocation-type': 'Event' },
    });
    expect(reply.status).toBe(202);
    await started;
    await gateway.close(20);
    expect(backend.running).toEqual([]);
  });

  test('does not wait longer than it may', async () => {
    const { url, gateway, backend, started } = await startHeld();
    const call = send(url, 'POST /api/v1/functions/hello/invoke', { body: '1' }).catch((error: unknown) => error);
    await started;
    await gateway.close(20);
    await call;
    expect(backend.running).toEqual([]);
  });
});
