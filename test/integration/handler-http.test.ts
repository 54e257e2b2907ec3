import { rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startHttp } from '../../handler/adapters/http.ts';
import { createHandler } from '../../handler/index.ts';
import { conformanceRouter } from '../../src/conformance/jobs.ts';
import { buildFixture, call, keepAliveAgent, start, startGate, temporaryDirectory } from '../fixtures/handler/process.ts';
import type { HandlerProcess, HttpAnswer, StartOptions, UnpackedHandler } from '../fixtures/handler/process.ts';

let unpacked: UnpackedHandler;
beforeAll(async () => {
  unpacked = await buildFixture();
});

const running: HandlerProcess[] = [];
afterEach(async () => {
  for (const process of running.splice(0)) await process.stop();
});

function serve(env: StartOptions['env'] = {}): HandlerProcess {
  const server = start(unpacked.file, { env: { PORT: '0', ...env } });
  running.push(server);
  return server;
}

const OCTETS = { 'content-type': 'application/octet-stream' };
const post = (address: string, jobId: number, body = ''): Promise<HttpAnswer> =>
  call(address, { path: `/job/${jobId}`, headers: OCTETS }, Buffer.from(body));
const codeOf = ({ status, body }: HttpAnswer): unknown => [status, (JSON.parse(body.toString()) as { code: unknown }).code];

/** A raw connection: what came back so far, and when it ended. */
function rawConnection(address: string): {
  readonly socket: Socket;
  readonly received: () => string;
  readonly ended: Promise<void>;
  until(text: string): Promise<void>;
} {
  const { hostname, port } = new URL(address);
  const socket = connect(Number(port), hostname);
  let received = '';
  const look = new Set<() => void>();
  socket.on('data', (chunk: Buffer) => {
    received += chunk.toString('latin1');
    for (const each of look) each();
  });
  socket.on('error', () => {});
  const ended = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  const until = (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const check = (): void => void (received.includes(text) && resolve());
      look.add(check);
      check();
      void ended.then(() => reject(new Error(`the connection ended without ${text}: ${received}`)));
    });
  return { socket, received: () => received, ended, until };
}

describe('a page in a browser on this machine', () => {
  // Without a content type the browser asks nobody before it sends.
  const fromPage = (address: string, headers: Readonly<Record<string, string>> = {}): Promise<HttpAnswer> =>
    call(address, { path: '/job/2', headers: { origin: 'https://evil.example', ...headers } }, Buffer.from('{"args":[104,105]}'));

  test('runs no jobs where nothing else guards the port', async () => {
    const address = await serve().address;
    expect(codeOf(await fromPage(address))).toEqual([401, 'EXECUTOR_UNAUTHORIZED']);
    expect(codeOf(await fromPage(address, { origin: 'null' }))).toEqual([401, 'EXECUTOR_UNAUTHORIZED']);
    // Made to point here by the name of its own host.
    const { host } = new URL(address);
    expect(codeOf(await fromPage(address, { origin: `http://${host}` }))).toEqual([401, 'EXECUTOR_UNAUTHORIZED']);
    expect((await post(address, 2, 'hi')).body.toString()).toBe('hi');
  });

  test.each([
    ['a token', { BLUEPRINT_TOKEN: 'x' }],
    ['the platform, as it was told', { BLUEPRINT_ALLOW_INSECURE: '1' }],
  ])('is of no concern where %s guards the port', async (_, env) => {
    expect(await fromPage(await serve(env).address, { authorization: 'Bearer x' })).toMatchObject({ status: 200 });
  });
});

describe('where it listens', () => {
  test('on the loopback interface by default', async () => {
    expect(await serve().address).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  });

  test.each([
    ['another host without a token', { HOST: '0.0.0.0' }, /HOST is 0\.0\.0\.0 and there is no token.*BLUEPRINT_ALLOW_INSECURE=1/],
    ['an empty token', { HOST: '0.0.0.0', BLUEPRINT_TOKEN: '' }, /token of the handler is empty/],
    ['a token file that is not there', { BLUEPRINT_TOKEN_FILE: '/nowhere' }, /BLUEPRINT_TOKEN_FILE is \/nowhere, which cannot be read/],
    ['a port that is none', { PORT: '80800' }, /PORT is "80800"; it must be a whole number from 0 to 65535/],
    ['a limit that is none', { BLUEPRINT_REQUEST_BYTES_MAX: '6MB' }, /BLUEPRINT_REQUEST_BYTES_MAX is "6MB"/],
    ['a host that is not ours', { HOST: '192.0.2.1', BLUEPRINT_TOKEN: 'x' }, /cannot listen on 192\.0\.2\.1:0: .*EADDRNOTAVAIL/],
  ])('%s: it says why and ends with 1', async (_, env, message) => {
    const server = serve(env);
    expect(await server.exit).toBe(1);
    const { code, reason } = JSON.parse(server.stderr().trim().split('\n').at(-1) ?? '') as Record<string, string>;
    expect([code, reason]).toEqual(['CONFIG_INVALID', expect.stringMatching(message)]);
  });

  test('another host when told so, or with a token', async () => {
    expect(await serve({ HOST: '0.0.0.0', BLUEPRINT_ALLOW_INSECURE: '1' }).address).toMatch(/^http:\/\/0\.0\.0\.0:/);
    expect(await serve({ HOST: '0.0.0.0', BLUEPRINT_TOKEN: 'x' }).address).toMatch(/^http:\/\/0\.0\.0\.0:/);
  });

  test('a port that is taken: it says so and ends with 1', async () => {
    const port = new URL(await serve().address).port;
    const second = serve({ PORT: port });
    expect(await second.exit).toBe(1);
    expect(second.stderr()).toContain('EADDRINUSE');
  });

  test('a socket file that a killed handler left behind is taken over, one in use is not', async () => {
    const path = `${temporaryDirectory()}/handler.sock`;
    const killed = serve({ BLUEPRINT_SOCKET: path });
    await killed.address;
    await killed.stop();
    const second = serve({ BLUEPRINT_SOCKET: path });
    expect((await post(await second.address, 2, 'here')).body.toString()).toBe('here');
    const third = serve({ BLUEPRINT_SOCKET: path });
    expect(await third.exit).toBe(1);
    expect((await post(await second.address, 2, 'still here')).body.toString()).toBe('still here');
    rmSync(path);
  });
});

describe('the token', () => {
  test.each(['BLUEPRINT_TOKEN', 'BLUEPRINT_TOKEN_FILE'])('of %s is asked of calls, not of health checks', async (variable) => {
    const file = `${temporaryDirectory()}/token`;
    writeFileSync(file, 'open-sesame\n');
    const address = await serve({ [variable]: variable === 'BLUEPRINT_TOKEN' ? 'open-sesame' : file }).address;
    expect(codeOf(await post(address, 2))).toEqual([401, 'EXECUTOR_UNAUTHORIZED']);
    expect(codeOf(await call(address, { path: '/job/2', headers: { ...OCTETS, authorization: 'Bearer open' } }))).toEqual([
      401,
      'EXECUTOR_UNAUTHORIZED',
    ]);
    expect((await call(address, { path: '/job/2', headers: { ...OCTETS, authorization: 'Bearer open-sesame' } })).status).toBe(200);
    expect((await call(address, { method: 'GET', path: '/health' })).status).toBe(200);
  });
});

describe('connections', () => {
  test('calls share a connection, which the server keeps longer than any client', async () => {
    const address = await serve().address;
    const agent = keepAliveAgent();
    const ports = new Set<number | undefined>();
    agent.on('free', (socket: Socket) => ports.add(socket.localPort));
    const headers = [];
    for (const text of ['a', 'b', 'c'])
      headers.push((await call(address, { agent, path: '/job/2', headers: OCTETS }, Buffer.from(text))).headers);
    agent.destroy();
    expect(ports.size).toBe(1);
    expect(headers.map((each) => [each['keep-alive'], each['x-blueprint-wire']])).toEqual(Array(3).fill(['timeout=620', 'v1,v2']));
  });

  test('a refusal leaves the connection usable when the request is small', async () => {
    const raw = rawConnection(await serve().address);
    raw.socket.write('POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello');
    raw.socket.write('POST /job/2 HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 5\r\n\r\nworld');
    await raw.until('world');
    expect(raw.received()).toMatch(/^HTTP\/1\.1 404 .*"code":"NOT_FOUND".*HTTP\/1\.1 200 /s);
    raw.socket.destroy();
  });

  test('a request whose head or body never ends is cut off', async () => {
    const adapter = await startHttp(createHandler(conformanceRouter()), {
      host: '127.0.0.1',
      port: 0,
      concurrencyMax: 10,
      headersTimeoutMs: 60,
      requestTimeoutMs: 120,
    });
    const slowHead = rawConnection(adapter.address);
    slowHead.socket.write('POST /job/2 HTTP/1.1\r\nHost: x\r\nX-A: ');
    const slowBody = rawConnection(adapter.address);
    slowBody.socket.write('POST /job/2 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc');
    await Promise.all([slowHead.ended, slowBody.ended]);
    expect([slowHead.received(), slowBody.received()]).toEqual([
      expect.stringMatching(/^HTTP\/1\.1 408 /),
      expect.stringMatching(/^HTTP\/1\.1 408 /),
    ]);
    expect(await adapter.close(AbortSignal.abort())).toBe(0);
  });
});

describe('limits', () => {
  test('a body that is announced as too large is refused before it is sent', async () => {
    const raw = rawConnection(await serve({ BLUEPRINT_REQUEST_BYTES_MAX: '1000' }).address);
    raw.socket.write('POST /job/2 HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 1001\r\n\r\n');
    await raw.until('PAYLOAD_TOO_LARGE');
    expect(raw.received()).toMatch(/^HTTP\/1\.1 413 .*connection: close/is);
    await raw.ended;
  });

  test('a body of unknown length is read up to the limit', async () => {
    const raw = rawConnection(await serve({ BLUEPRINT_REQUEST_BYTES_MAX: '1000' }).address);
    raw.socket.write('POST /job/2 HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n');
    raw.socket.write(`3e8\r\n${'a'.repeat(1000)}\r\n`);
    raw.socket.write('1\r\na\r\n');
    await raw.until('PAYLOAD_TOO_LARGE');
    expect(raw.received()).toMatch(/^HTTP\/1\.1 413 /);
    await raw.ended;
  });

  test('a client that asks first is told to send, or refused', async () => {
    const address = await serve({ BLUEPRINT_REQUEST_BYTES_MAX: '1000' }).address;
    const head = (bytes: number): string =>
      `POST /job/2 HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nExpect: 100-continue\r\nContent-Length: ${bytes}\r\n\r\n`;
    const good = rawConnection(address);
    good.socket.write(head(5));
    await good.until('100 Continue');
    good.socket.write('hello');
    await good.until('hello');
    const bad = rawConnection(address);
    bad.socket.write(head(1001));
    await bad.ended;
    expect(bad.received()).toMatch(/^HTTP\/1\.1 413 /);
    good.socket.destroy();
  });

  test('a client that goes on to send megabytes still sees the refusal', async () => {
    const address = await serve({ BLUEPRINT_REQUEST_BYTES_MAX: '1000' }).address;
    expect(codeOf(await call(address, { path: '/job/2', headers: OCTETS }, Buffer.alloc(8 * 1024 * 1024)))).toEqual([
      413,
      'PAYLOAD_TOO_LARGE',
    ]);
  });

  test('more calls than may run at the same time are refused, with when to come again', async () => {
    const server = serve({ BLUEPRINT_CONCURRENCY_MAX: '1' });
    const address = await server.address;
    const gate = await startGate();
    const first = post(address, 102, gate.url);
    await server.logged('slow job runs');
    const second = await post(address, 2);
    expect([codeOf(second), second.headers['retry-after']]).toEqual([[429, 'EXECUTOR_THROTTLED'], '1']);
    gate.open();
    expect((await first).body.toString()).toBe('done');
    expect((await post(address, 2, 'x')).status).toBe(200);
  });
});

describe('when the caller goes away', () => {
  test('the job is told', async () => {
    const server = serve();
    const raw = rawConnection(await server.address);
    raw.socket.write('POST /job/102 HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 5\r\n\r\n60000');
    await server.logged('slow job runs');
    raw.socket.destroy();
    expect(await server.logged('slow job cancelled')).toBe('slow job cancelled: ABORTED');
  });

  test('in the middle of a request, nothing runs and the server goes on', async () => {
    const server = serve();
    const address = await server.address;
    const raw = rawConnection(address);
    raw.socket.write('POST /job/102 HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 5\r\n\r\n60');
    raw.socket.end();
    await raw.ended;
    expect((await post(address, 2, 'alive')).body.toString()).toBe('alive');
    expect(server.stderr()).not.toContain('slow job runs');
  });
});

describe('faults of the jobs', () => {
  test('a rejected promise that nobody handles is logged, the calls go on', async () => {
    const server = serve();
    const address = await server.address;
    expect((await post(address, 101, 'x')).body.toString()).toBe('x');
    expect(JSON.parse(await server.logged('nobody handles it'))).toMatchObject({ level: 'error', reason: 'nobody handles this' });
    expect((await post(address, 2, 'alive')).body.toString()).toBe('alive');
  });

  test('an exception that nobody catches is told to all who wait, logged, and ends the process with 1', async () => {
    const server = serve();
    const address = await server.address;
    const waiting = post(address, 102, '60000');
    await server.logged('slow job runs');
    const answers = await Promise.all([waiting, post(address, 100)]);
    expect(answers.map(codeOf)).toEqual([
      [502, 'FUNCTION_FAILED'],
      [502, 'FUNCTION_FAILED'],
    ]);
    expect(await server.exit).toBe(1);
    expect(server.stderr()).toContain('nobody catches this');
  });

  test('a failed call is logged with its cause and without its arguments', async () => {
    const server = serve();
    await post(await server.address, 3, 'top-secret');
    const line = await server.logged('a call failed');
    expect(JSON.parse(line)).toMatchObject({
      level: 'error',
      code: 'JOB_FAILED',
      job: '3',
      cause: expect.stringMatching(/^Error: the oven is cold\n/),
    });
    expect(server.stderr()).not.toContain('top-secret');
  });

  test('a job that watches every call and fails is logged, and the call is answered', async () => {
    const server = serve({ WATCH: '1' });
    expect((await post(await server.address, 2, 'x')).status).toBe(200);
    expect(JSON.parse(await server.logged('a job that watches every call failed'))).toMatchObject({
      code: 'JOB_FAILED',
      job: 'watcher',
      cause: expect.stringMatching(/^Error: blind\n/),
    });
  });
});

describe('SIGTERM', () => {
  test('idle: ends at once with 0, also with an open connection', async () => {
    const server = serve();
    const agent = keepAliveAgent();
    await call(await server.address, { agent, path: '/job/2', headers: OCTETS });
    server.child.kill('SIGTERM');
    expect(await server.exit).toBe(0);
    agent.destroy();
  });

  test('takes no new calls, answers the running ones, ends with 0', async () => {
    const server = serve();
    const address = await server.address;
    const open = rawConnection(address);
    open.socket.write(
      'GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nPOST /job/102 HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 3\r\n\r\n',
    );
    await open.until('"status":"ok"');
    const gate = await startGate();
    const slow = post(address, 102, gate.url);
    await server.logged('slow job runs');
    server.child.kill('SIGTERM');
    await server.logged('the handler stops');
    await expect(post(address, 2)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
    open.socket.write('400');
    await open.until('done');
    gate.open();
    const answer = await slow;
    expect([answer.status, answer.body.toString(), answer.headers.connection]).toEqual([200, 'done', 'close']);
    await open.ended;
    expect(open.received()).toMatch(/"status":"ok".*HTTP\/1\.1 200 .*done$/s);
    expect(await server.exit).toBe(0);
  });

  test('a call on an open connection is refused meanwhile, and may be repeated elsewhere', async () => {
    const server = serve();
    const address = await server.address;
    const open = rawConnection(address);
    open.socket.write('GET /health HTTP/1.1\r\nHost: x\r\n\r\n');
    await open.until('"status":"ok"');
    open.socket.write('POST /job/2 HTTP/1.1\r\nHost: x\r\nContent-Type: appl');
    const gate = await startGate();
    const slow = post(address, 102, gate.url);
    await server.logged('slow job runs');
    server.child.kill('SIGTERM');
    await server.logged('the handler stops');
    open.socket.write('ication/octet-stream\r\nContent-Length: 0\r\n\r\n');
    await open.until('EXECUTOR_UNAVAILABLE');
    gate.open();
    expect(open.received()).toMatch(/HTTP\/1\.1 503 .*retry-after: 1.*connection: close/is);
    expect((await slow).status).toBe(200);
    expect(await server.exit).toBe(0);
  });

  test('a call that does not end in time is cancelled, answered and reported; the status is 1', async () => {
    const server = serve({ BLUEPRINT_DRAIN_MS: '50' });
    const slow = post(await server.address, 102, '60000');
    await server.logged('slow job runs');
    server.child.kill('SIGTERM');
    expect(codeOf(await slow)).toEqual([499, 'ABORTED']);
    expect(await server.exit).toBe(1);
    expect(JSON.parse(await server.logged('cut off'))).toMatchObject({ code: 'DRAIN_TIMEOUT', unfinished: 1 });
    expect(server.stderr()).toContain('slow job cancelled: ABORTED');
  });

  test('twice: ends at once', async () => {
    const server = serve({ BLUEPRINT_DRAIN_MS: '60000' });
    const slow = post(await server.address, 102, '60000');
    slow.catch(() => {});
    await server.logged('slow job runs');
    server.child.kill('SIGTERM');
    await server.logged('the handler stops');
    server.child.kill('SIGINT');
    expect(await server.exit).toBe(1);
    await expect(slow).rejects.toMatchObject({ code: 'ECONNRESET' });
  });
});
