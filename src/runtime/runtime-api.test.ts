import { Agent, request } from 'node:http';
import type { IncomingHttpHeaders } from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { Random } from '../testing/fake-clock.ts';
import { FRAMES_LANES, FRAMES_TARGET } from './frames.ts';
import { RuntimeApi } from './runtime-api.ts';
import type { ApiCall, EventHead } from './runtime-api.ts';
import type { Fault } from './runtime-fault.ts';

const BASE = '/2018-06-01/runtime';

class RecordedCall implements ApiCall {
  readonly requestId: string;
  readonly event: Buffer;
  isAnswering = false;
  readonly told: string[] = [];
  readonly faults: Fault[] = [];
  bytesMax = 1_000;
  readonly #over = Promise.withResolvers<void>();

  constructor(requestId: string, event = 'event') {
    this.requestId = requestId;
    this.event = Buffer.from(event);
  }

  get over(): Promise<void> {
    return this.#over.promise;
  }

  taken(): EventHead {
    this.told.push('taken');
    return { contentType: 'text/plain', deadline: 5, functionArn: 'arn', traceId: undefined, clientContext: undefined };
  }

  answering({ contentType, streamed }: { contentType: string; streamed: boolean }): number {
    this.isAnswering = true;
    this.told.push(`answering ${contentType} ${streamed}`);
    return this.bytesMax;
  }

  chunk(data: Buffer): void {
    this.told.push(data.toString());
  }

  answered(fault: Fault | undefined): void {
    if (fault) this.faults.push(fault);
    this.#end(fault ? 'broke off' : 'answered');
  }

  failed(fault: Fault): void {
    this.faults.push(fault);
    this.#end('failed');
  }

  tooLarge(): void {
    this.#end('too large');
  }

  truncated(): void {
    this.#end('truncated');
  }

  violated(reason: string): void {
    this.#end(`violated: ${reason}`);
  }

  #end(how: string): void {
    this.told.push(how);
    this.#over.resolve();
  }
}

interface Reply {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

const opened: (() => Promise<unknown> | void)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close();
});

async function open(
  concurrency = 1,
  isListening = true,
): Promise<{
  readonly api: RuntimeApi;
  readonly path: string;
  readonly faults: Fault[];
  readonly violations: string[];
  readonly readied: () => number;
  send(method: string, path: string, body?: string, headers?: Record<string, string>): Promise<Reply>;
  raw(text: string): Promise<string>;
}> {
  const folder = await mkdtemp(join(tmpdir(), 'ra-'));
  const path = join(folder, 'api');
  const faults: Fault[] = [];
  let readied = 0;
  const violations: string[] = [];
  const api = new RuntimeApi(
    { ready: () => (readied += 1), initFailed: (fault) => faults.push(fault), violated: (reason) => violations.push(reason) },
    concurrency,
  );
  if (isListening) await api.listen(path);
  const agent = new Agent({ keepAlive: true });
  opened.push(
    () => rm(folder, { recursive: true, force: true }),
    () => api.close(),
    () => agent.destroy(),
  );
  return {
    api,
    path,
    faults,
    violations,
    readied: () => readied,
    send: (method, target, body, headers) =>
      new Promise((resolve, reject) => {
        const outgoing = request({ socketPath: path, method, path: target, agent, ...(headers && { headers }) }, (incoming) => {
          const chunks: Buffer[] = [];
          incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
          incoming.on('end', () =>
            resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, text: Buffer.concat(chunks).toString() }),
          );
        });
        outgoing.on('error', reject);
        outgoing.end(body);
      }),
    raw: (text) =>
      new Promise((resolve) => {
        const socket = connect(path);
        const chunks: Buffer[] = [];
        socket.on('data', (chunk: Buffer) => chunks.push(chunk));
        socket.on('error', () => {});
        socket.on('close', () => resolve(Buffer.concat(chunks).toString()));
        socket.end(text, 'latin1');
      }),
  };
}

const errorTypeOf = ({ text }: Reply): unknown => (JSON.parse(text) as { errorType: unknown }).errorType;

describe('the line of a call', () => {
  test('a poll that waits gets the event; the answer is accepted', async () => {
    const { api, send, readied } = await open();
    const call = new RecordedCall('r1');
    const poll = send('GET', `${BASE}/invocation/next`);
    while (!api.isAsking) await new Promise(setImmediate);
    expect(readied()).toBe(1);
    api.hand(call);
    expect(await poll).toMatchObject({ status: 200, text: 'event', headers: { 'lambda-runtime-aws-request-id': 'r1' } });
    expect(api.isAsking).toBe(false);
    const answer = await send('POST', `${BASE}/invocation/r1/response`, 'done', { 'content-type': 'text/x' });
    expect(answer).toMatchObject({ status: 202, text: '{"status":"OK"}' });
    expect(call.told).toEqual(['taken', 'answering text/x false', 'done', 'answered']);
  });

  test('an event that waits goes out with the next poll, unless it is taken back', async () => {
    const { api, send, readied } = await open();
    const [first, second] = [new RecordedCall('r1', 'one'), new RecordedCall('r2', 'two')];
    api.hand(first);
    api.hand(second);
    expect(api.withdraw(first)).toBe(true);
    expect((await send('GET', `${BASE}/invocation/next`)).text).toBe('two');
    expect([api.withdraw(second), first.told, readied()]).toEqual([false, [], 0]);
    expect(api.calls()).toEqual([second]);
  });

  test('an answer may ask for the next event, which comes in place of its status', async () => {
    const { api, send } = await open();
    const calls = ['one', 'two', 'three'].map((event, index) => new RecordedCall(`r${index}`, event));
    for (const call of calls.slice(0, 2)) api.hand(call);
    expect((await send('GET', `${BASE}/invocation/next`)).text).toBe('one');
    const asks = { 'x-blueprint-next': 'event' };
    const second = await send('POST', `${BASE}/invocation/r0/response`, 'done', asks);
    expect(second).toMatchObject({ status: 200, text: 'two', headers: { 'lambda-runtime-aws-request-id': 'r1' } });
    const third = send('POST', `${BASE}/invocation/r1/response`, 'done', asks);
    const wasAsking = calls[1]?.over.then(() => api.isAsking);
    expect(await wasAsking).toBe(true);
    if (calls[2]) api.hand(calls[2]);
    expect(await third).toMatchObject({ status: 200, text: 'three' });
    expect(await send('POST', `${BASE}/invocation/r2/response`, 'done')).toMatchObject({ status: 202 });
    expect(calls.map(({ told }) => told.at(-1))).toEqual(['answered', 'answered', 'answered']);
  });

  test('an answer that asks stands in line behind the polls; one that is too large gets no event', async () => {
    const { api, send } = await open(2);
    api.hand(new RecordedCall('r1'));
    await send('GET', `${BASE}/invocation/next`);
    const poll = send('GET', `${BASE}/invocation/next`);
    while (!api.isAsking) await new Promise(setImmediate);
    const sent = send('POST', `${BASE}/invocation/r1/response`, 'done', { 'x-blueprint-next': 'event' });
    api.hand(new RecordedCall('r2', 'two'));
    expect((await poll).text).toBe('two');
    api.hand(new RecordedCall('r3', 'three'));
    expect(await sent).toMatchObject({ status: 200, text: 'three' });
    expect((await send('POST', `${BASE}/invocation/r2/response`, 'x'.repeat(2_000), { 'x-blueprint-next': 'event' })).status).toBe(413);
  });

  test('the client went away while it polled: the event goes to the next poll', async () => {
    const { api, path, send } = await open();
    const socket = connect(path);
    socket.write(`GET ${BASE}/invocation/next HTTP/1.1\r\nhost: x\r\n\r\n`);
    while (!api.isAsking) await new Promise(setImmediate);
    socket.destroy();
    while (api.isAsking) await new Promise(setImmediate);
    api.hand(new RecordedCall('r1'));
    expect((await send('GET', `${BASE}/invocation/next`)).text).toBe('event');
  });

  test('as many events at a time as the instance takes, and not one more poll', async () => {
    const { api, send } = await open(2);
    api.hand(new RecordedCall('r1'));
    api.hand(new RecordedCall('r2'));
    expect((await send('GET', `${BASE}/invocation/next`)).status).toBe(200);
    expect((await send('GET', `${BASE}/invocation/next`)).status).toBe(200);
    const refused = await send('GET', `${BASE}/invocation/next`);
    expect([refused.status, errorTypeOf(refused)]).toEqual([403, 'InvalidStateTransition']);
    expect((await send('POST', `${BASE}/invocation/r2/response`, 'x')).status).toBe(202);
    expect((await send('POST', `${BASE}/invocation/r1/response`, 'x')).status).toBe(202);
  });

  test('a port speaks the same API, and stays the same', async () => {
    const { api } = await open();
    const port = await api.openPort();
    expect(await api.openPort()).toBe(port);
    api.hand(new RecordedCall('r1'));
    const reply = await fetch(`http://127.0.0.1:${port}${BASE}/invocation/next`);
    expect([reply.status, await reply.text()]).toEqual([200, 'event']);
    await api.close();
    await expect(fetch(`http://127.0.0.1:${port}/`)).rejects.toThrow('fetch failed');
  });
});

test('an instance has so many connections and no more, over the socket and the port', async () => {
  const { api, path, send } = await open();
  const port = await api.openPort();
  for (const connectOne of [() => connect(path), () => connect(port, '127.0.0.1')]) {
    let closed = 0;
    const sockets = Array.from({ length: 300 }, () =>
      connectOne()
        .on('error', () => {})
        .on('close', () => (closed += 1)),
    );
    await vi.waitUntil(() => closed === 40, { timeout: 20_000 });
    for (const socket of sockets) socket.destroy();
    await vi.waitUntil(() => closed === 300, { timeout: 20_000 });
  }
  api.hand(new RecordedCall('r1'));
  await vi.waitUntil(async () => (await send('GET', `${BASE}/invocation/next`).catch(() => undefined))?.status === 200, {
    timeout: 20_000,
  });
});

describe('errors of the client', () => {
  const running = async () => {
    const opened_ = await open();
    const call = new RecordedCall('r1');
    opened_.api.hand(call);
    await opened_.send('GET', `${BASE}/invocation/next`);
    return { ...opened_, call };
  };

  test.each([
    ['{"errorType":"TypeError","errorMessage":"no","stackTrace":["a","b"]}', {}, ['TypeError', 'no', ['a', 'b']]],
    ['{"errorType":"TypeError","errorMessage":"no","trace":["a",1]}', {}, ['TypeError', 'no', ['a']]],
    ['{"errorMessage":"no"}', { 'lambda-runtime-function-error-type': 'Runtime.Odd' }, ['Runtime.Odd', 'no', []]],
    ['not JSON', {}, ['Function.Unknown', 'not JSON', []]],
    ['[1]', {}, ['Function.Unknown', '', []]],
    ['', {}, ['Function.Unknown', '', []]],
  ])('%s is understood', async (body, headers, [errorType, errorMessage, stackTrace]) => {
    const { send, call } = await running();
    expect((await send('POST', `${BASE}/invocation/r1/error`, body, headers)).status).toBe(202);
    expect(call.faults).toEqual([{ errorType, errorMessage, stackTrace, body }]);
  });

  test('in trailers after a part of the answer', async () => {
    const { raw, call } = await running();
    const body = Buffer.from('{"errorType":"RangeError","errorMessage":"in the middle"}').toString('base64');
    const reply = await raw(
      `POST ${BASE}/invocation/r1/response HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n` +
        `lambda-runtime-function-response-mode: streaming\r\ntrailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n` +
        `4\r\nhalf\r\n0\r\nLambda-Runtime-Function-Error-Type: RangeError\r\nLambda-Runtime-Function-Error-Body: ${body}\r\n\r\n`,
    );
    expect(reply).toContain('202 Accepted');
    expect(call.told).toEqual(['taken', 'answering  true', 'half', 'broke off']);
    expect(call.faults).toMatchObject([{ errorType: 'RangeError', errorMessage: 'in the middle' }]);
  });

  test('an init error is told until the instance asks for work', async () => {
    const { api, send, faults } = await open();
    const body = '{"errorType":"Runtime.ImportModuleError","errorMessage":"no module"}';
    expect((await send('POST', `${BASE}/init/error`, body)).status).toBe(202);
    expect(faults).toMatchObject([{ errorType: 'Runtime.ImportModuleError', errorMessage: 'no module' }]);
    const poll = send('GET', `${BASE}/invocation/next`);
    poll.catch(() => {});
    while (!api.isAsking) await new Promise(setImmediate);
    expect((await send('POST', `${BASE}/init/error`, body)).status).toBe(403);
    expect(faults).toHaveLength(1);
  });

  test('an answer that is too large is refused and read to its end; the client may report it', async () => {
    const { send, call } = await running();
    const refused = await send('POST', `${BASE}/invocation/r1/response`, 'x'.repeat(3_000_000));
    expect([refused.status, errorTypeOf(refused)]).toEqual([413, 'RequestEntityTooLarge']);
    expect(call.told.at(-1)).toBe('too large');
    expect((await send('POST', `${BASE}/invocation/r1/error`, '{}')).status).toBe(202);
    expect(call.faults).toEqual([]);
  });

  test('an answer that is cut off', async () => {
    const { raw, call } = await running();
    const reply = await raw(`POST ${BASE}/invocation/r1/response HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf`);
    expect(reply).toContain('TruncatedHTTPRequest');
    await call.over;
    expect(call.told.at(-1)).toBe('truncated');
  });

  test('what is out of order is refused', async () => {
    const { send, call } = await running();
    const refusals: [string, string, Record<string, string>, number, string][] = [
      ['POST', '/invocation/r9/response', {}, 400, 'InvalidRequestID'],
      ['POST', '/invocation/r9/error', {}, 400, 'InvalidRequestID'],
      ['POST', '/invocation//response', {}, 400, 'InvalidRequestID'],
      ['GET', '/invocation/next', {}, 403, 'InvalidStateTransition'],
      ['POST', '/invocation/r1/response', { 'lambda-runtime-function-response-mode': 'odd' }, 400, 'Runtime.InvalidResponseModeHeader'],
      ['POST', '/invocation/next', {}, 405, 'MethodNotAllowed'],
      ['GET', '/invocation/r1/response', {}, 405, 'MethodNotAllowed'],
      ['GET', '/init/error', {}, 405, 'MethodNotAllowed'],
      ['GET', '/nothing', {}, 404, 'UnknownPath'],
    ];
    for (const [method, path, headers, status, errorType] of refusals) {
      const reply = await send(method, `${BASE}${path}`, method === 'POST' ? 'x' : undefined, headers);
      expect([path, reply.status, errorTypeOf(reply)]).toEqual([path, status, errorType]);
    }
    expect(call.told).toEqual(['taken']);
    expect((await send('POST', `${BASE}/invocation/r1/response`, 'done')).status).toBe(202);
    for (const path of ['response', 'error']) {
      const late = await send('POST', `${BASE}/invocation/r1/${path}`, '{}');
      expect([late.status, errorTypeOf(late)]).toEqual([403, 'InvalidStateTransition']);
    }
  });
});

describe('what is no request', () => {
  test.each([
    ['nonsense', 'nonsense\r\n\r\n', '400'],
    ['a TLS greeting', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', '400'],
    ['a header that is too large', `GET / HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(300_000)}\r\n\r\n`, '431'],
    ['two lengths', 'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n', '400'],
    ['a length and chunks', 'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n', '400'],
    ['a bad chunk', `POST ${BASE}/init/error HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n`, '400'],
    ['CONNECT', 'CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n', '400'],
  ])('%s is answered with a 4xx of the same shape', async (_, text, status) => {
    const { raw, send } = await open();
    const reply = await raw(text);
    expect(reply.startsWith(`HTTP/1.1 ${status} `)).toBe(true);
    expect(JSON.parse(reply.slice(reply.indexOf('\r\n\r\n')))).toEqual({ errorType: expect.any(String), errorMessage: expect.any(String) });
    expect((await send('GET', '/x')).status).toBe(404);
  });

  test('2,000 damaged requests: always a 4xx or a closed connection, and the call in between goes on', async () => {
    const { api, raw, send } = await open();
    const random = new Random(7);
    const call = new RecordedCall('r1');
    api.hand(call);
    await send('GET', `${BASE}/invocation/next`);
    const good = `POST ${BASE}/invocation/r2/response HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\nlambda-runtime-function-response-mode: streaming\r\n\r\nbody`;
    for (let round = 0; round < 2_000; round += 1) {
      const bytes = Buffer.from(good, 'latin1');
      for (let damage = random.int(1, 6); damage > 0; damage -= 1) bytes[random.int(0, bytes.length - 1)] = random.int(0, 255);
      const reply = await raw(bytes.subarray(0, random.chance(0.3) ? random.int(0, bytes.length) : bytes.length).toString('latin1'));
      for (const [, status] of reply.matchAll(/^HTTP\/1\.1 (\d)/gm))
        expect([bytes.toString('latin1'), status]).toEqual([bytes.toString('latin1'), '4']);
    }
    expect(call.told).toEqual(['taken']);
    expect((await send('POST', `${BASE}/invocation/r1/response`, 'done')).status).toBe(202);
  }, 30_000);
});

test.each(['in one piece', 'in pieces', 'before it listened'])('serves frames over a connection that is there already: %s', async (how) => {
  const { api, readied, path } = await open(1, false);
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer((socket) => accepted.resolve(socket));
  await new Promise<void>((resolve) => void server.listen(`${path}-other`, resolve));
  const client = connect(`${path}-other`);
  const connection = await accepted.promise;
  server.close();
  const asks = `CONNECT ${FRAMES_TARGET} HTTP/1.1\r\nHost: runtime\r\n${FRAMES_LANES}: 1\r\n\r\n`;
  api.serve(connection, Buffer.from(how === 'before it listened' ? asks : ''));
  if (how === 'in one piece') client.write(asks);
  if (how === 'in pieces') for (const character of asks) await new Promise((resolve) => void client.write(character, resolve));
  const [reply] = (await once(client, 'data')) as [Buffer];
  expect(reply.toString()).toMatch(/^HTTP\/1\.1 200 /);
  expect([readied(), api.isAsking]).toEqual([1, true]);
  await api.close();
  await once(client, 'close');
});

test('speaks HTTP with whoever asks for no frames over it', async () => {
  const { api, faults, readied, path } = await open(1, false);
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer((socket) => accepted.resolve(socket));
  await new Promise<void>((resolve) => void server.listen(`${path}-other`, resolve));
  const client = connect(`${path}-other`);
  const fault = JSON.stringify({ errorType: 'Runtime.ImportModuleError', errorMessage: 'x'.repeat(100_000) });
  const post = `POST ${BASE}/init/error HTTP/1.1\r\ncontent-length: ${fault.length}\r\n\r\n${fault}`;
  api.serve(await accepted.promise, Buffer.from(post.slice(0, 9)));
  server.close();
  client.write(post.slice(9, 200));
  await new Promise((resolve) => void client.write(post.slice(200, 5_000), resolve));
  client.write(post.slice(5_000));
  const [reply] = (await once(client, 'data')) as [Buffer];
  expect(reply.toString()).toMatch(/^HTTP\/1\.1 202 /);
  expect(faults.map(({ body }) => body)).toEqual([fault]);
  client.write('GET / HTTP/1.1\r\n\r\n');
  const [other] = (await once(client, 'data')) as [Buffer];
  expect(other.toString()).toMatch(/^HTTP\/1\.1 404 /);
  expect(readied()).toBe(0);
  await api.close();
  await once(client, 'close');
});

test('refuses who asks for a connection to anything else over it', async () => {
  const { api, readied, path } = await open();
  const accepted = Promise.withResolvers<Socket>();
  const server = createServer((socket) => accepted.resolve(socket));
  await new Promise<void>((resolve) => void server.listen(`${path}-other`, resolve));
  const client = connect(`${path}-other`);
  api.serve(await accepted.promise, Buffer.from('CONNECT other:1 HTTP/1.1\r\n\r\n'));
  server.close();
  const [reply] = (await once(client, 'data')) as [Buffer];
  expect(reply.toString()).toMatch(/^HTTP\/1\.1 400 /);
  expect(readied()).toBe(0);
  client.destroy();
});
