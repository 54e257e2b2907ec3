import { createServer } from 'node:http';
import type { RequestListener } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { HttpClient } from '../../src/http/http.ts';
import type { HttpClientOptions, HttpRequest } from '../../src/http/http.ts';
import { systemClock } from '../../src/clock.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

async function serve(listener: RequestListener, path?: string): Promise<string> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => (path ? server.listen(path, resolve) : server.listen(0, '127.0.0.1', resolve)));
  cleanUps.push(() => (server.closeAllConnections(), new Promise((resolve) => server.close(resolve))));
  return path ? 'http://localhost' : `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** A server that does what the test says with each connection. */
async function serveRaw(onConnection: (socket: Socket, count: number) => void): Promise<string> {
  let count = 0;
  const sockets = new Set<Socket>();
  const server = createTcpServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    onConnection(socket, (count += 1));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanUps.push(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function clientOf(origin: string, options: Partial<HttpClientOptions> = {}): HttpClient {
  const client = new HttpClient(origin, { clock: systemClock, connectionsMax: 4, ...options });
  cleanUps.push(() => client.close());
  return client;
}

function request(more: Partial<HttpRequest> = {}): HttpRequest {
  return {
    method: 'POST',
    path: '/job/1',
    headers: [],
    body: Buffer.from('hello'),
    deadline: Date.now() + 30_000,
    responseBytesMax: 1_000,
    ...more,
  };
}

/** Answers each connection's first request with these bytes. */
const answering =
  (bytes: string, end = true) =>
  (socket: Socket): void =>
    void socket.once('data', () => (end ? socket.end(bytes) : socket.write(bytes)));

test('sends method, path, headers and body, and gives status, headers and body back', async () => {
  const origin = await serve((incoming, response) => {
    const chunks: Buffer[] = [];
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
    incoming.on('end', () =>
      response.writeHead(201, { 'X-Seen': `${incoming.method} ${incoming.url} ${incoming.headers['x-a']}` }).end(Buffer.concat(chunks)),
    );
  });
  const response = await clientOf(origin).send(request({ headers: ['x-a', 'b'], path: '/job/1?x=y' }));
  expect(response.status).toBe(201);
  expect(response.headers['x-seen']).toBe('POST /job/1?x=y b');
  expect(Buffer.from(response.body).toString()).toBe('hello');
});

test('speaks over a unix socket', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'http-client-'));
  cleanUps.push(() => rm(directory, { recursive: true }));
  const socketPath = join(directory, 's');
  const origin = await serve((_, response) => response.end('by socket'), socketPath);
  const response = await clientOf(origin, { socketPath }).send(request());
  expect(Buffer.from(response.body).toString()).toBe('by socket');
});

describe('what was provably not sent is safe to repeat', () => {
  test('nobody listens', async () => {
    const origin = await serve(() => {});
    await cleanUps.pop()?.();
    await expect(clientOf(origin).send(request())).rejects.toMatchObject({
      code: 'EXECUTOR_UNREACHABLE',
      retry: 'safe',
      details: { cause: 'ECONNREFUSED' },
    });
  });

  test('no such name', async () => {
    await expect(clientOf('http://no-such-host.invalid').send(request())).rejects.toMatchObject({
      code: 'EXECUTOR_UNREACHABLE',
      retry: 'safe',
    });
  });

  test('no such unix socket', async () => {
    await expect(clientOf('http://localhost', { socketPath: '/nonexistent/socket' }).send(request())).rejects.toMatchObject({
      code: 'EXECUTOR_UNREACHABLE',
      details: { cause: 'ENOENT' },
    });
  });

  test('the TLS handshake fails', async () => {
    const origin = await serveRaw((socket) => socket.once('data', () => socket.end('this is not TLS')));
    await expect(clientOf(origin.replace('http:', 'https:')).send(request())).rejects.toMatchObject({
      code: 'EXECUTOR_UNREACHABLE',
      retry: 'safe',
    });
  });

  test('the deadline passes while the request waits for a connection, and it is not sent later', async () => {
    const arrived = Promise.withResolvers<() => void>();
    let seen = 0;
    const origin = await serve((_, response) => {
      seen += 1;
      if (seen === 1) arrived.resolve(() => response.end('first'));
      else response.end('later');
    });
    const client = clientOf(origin, { connectionsMax: 1 });
    const first = client.send(request());
    const release = await arrived.promise;
    const second = client.send(request({ deadline: Date.now() + 30 }));
    await expect(second).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'safe' });
    release();
    await first;
    await client.send(request());
    expect(seen).toBe(2);
  });

  test('a deadline that has passed before', async () => {
    let seen = 0;
    const origin = await serve((_, response) => {
      seen += 1;
      response.end();
    });
    const client = clientOf(origin);
    await client.send(request());
    const late = client.send(request({ deadline: Date.now() - 1 }));
    await expect(late).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'safe' });
    await client.send(request());
    expect(seen).toBe(2);
  });

  test('a signal that fired before', async () => {
    const client = clientOf('http://127.0.0.1:1');
    await expect(client.send(request({ signal: AbortSignal.abort() }))).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' });
  });
});

describe('what was sent may have run', () => {
  test('the server closes a fresh connection without an answer', async () => {
    const origin = await serveRaw((socket) => socket.once('data', () => socket.end()));
    await expect(clientOf(origin).send(request())).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'idempotent' });
  });

  test('the server closes a kept-alive connection as the next request comes; it is not sent again behind our back', async () => {
    let requests = 0;
    const origin = await serveRaw((socket) =>
      socket.on('data', () => {
        requests += 1;
        if (requests === 1) socket.write('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok');
        else socket.destroy();
      }),
    );
    const client = clientOf(origin, { connectionsMax: 1 });
    await client.send(request());
    await expect(client.send(request())).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'idempotent' });
    expect(requests).toBe(2);
  });

  test('the answer ends early', async () => {
    const origin = await serveRaw(answering('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this'));
    await expect(clientOf(origin).send(request())).rejects.toMatchObject({
      code: 'EXECUTOR_CONNECTION_LOST',
      retry: 'idempotent',
      message: expect.stringContaining('after 9 bytes of the answer') as string,
    });
  });

  test('only an informational answer comes', async () => {
    const origin = await serveRaw(answering('HTTP/1.1 102 Processing\r\n\r\n'));
    await expect(clientOf(origin).send(request())).rejects.toMatchObject({
      code: 'EXECUTOR_CONNECTION_LOST',
      message: expect.stringContaining('before an answer came') as string,
    });
  });

  test('a chunked answer ends early', async () => {
    const origin = await serveRaw(answering('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n'));
    await expect(clientOf(origin).send(request())).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'idempotent' });
  });

  test('the answer is not HTTP', async () => {
    const origin = await serveRaw(answering('SSH-2.0-OpenSSH_9.6\r\n'));
    await expect(clientOf(origin).send(request())).rejects.toMatchObject({ code: 'EXECUTOR_RESPONSE_INVALID', retry: 'idempotent' });
  });

  test('headers without an end', async () => {
    const origin = await serveRaw((socket) => socket.once('data', () => socket.write(`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(200_000)}`)));
    await expect(clientOf(origin).send(request())).rejects.toMatchObject({ code: 'EXECUTOR_RESPONSE_INVALID' });
  });

  test.each([
    ['never answers', (socket: Socket): void => void socket.resume()],
    ['never ends', answering('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this', false)],
    ['only sends informational answers', answering('HTTP/1.1 102 Processing\r\n\r\n', false)],
  ])('a server that %s hits the deadline, and its connection is given up', async (_, behaviour) => {
    const closed: Promise<unknown>[] = [];
    const arrived = Promise.withResolvers<void>();
    const origin = await serveRaw((socket) => {
      closed.push(new Promise((resolve) => socket.once('close', resolve)));
      socket.once('data', () => arrived.resolve());
      behaviour(socket);
    });
    const clock = new FakeClock();
    let isOver = false;
    const outcome = clientOf(origin, { clock })
      .send(request({ deadline: clock.now() + 50 }))
      .catch((error: unknown) => error)
      .finally(() => (isOver = true));
    await arrived.promise;
    await clock.advance(49);
    expect(isOver).toBe(false);
    await clock.advance(1);
    expect(await outcome).toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'idempotent' });
    await Promise.all(closed);
  });

  test('a server that drips bytes cannot hold a call beyond its deadline', async () => {
    const origin = await serveRaw((socket) => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n');
      const drip = setInterval(() => socket.write('.'), 5);
      socket.once('close', () => clearInterval(drip));
    });
    await expect(clientOf(origin).send(request({ deadline: Date.now() + 60 }))).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
  });

  test('an abort ends the request and its connection', async () => {
    const controller = new AbortController();
    let closed: Promise<unknown> | undefined;
    const origin = await serveRaw((socket) => {
      closed = new Promise((resolve) => socket.once('close', resolve));
      socket.once('data', () => controller.abort(new Error('enough')));
    });
    await expect(clientOf(origin).send(request({ signal: controller.signal }))).rejects.toMatchObject({
      code: 'ABORTED',
      retry: 'idempotent',
    });
    await closed;
  });
});

describe('answers above the limit', () => {
  test.each([
    ['announced', 'HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n'],
    ['chunked', `HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n${'1f4\r\n'.concat('x'.repeat(500), '\r\n').repeat(3)}`],
  ])('%s', async (_, bytes) => {
    const origin = await serveRaw(answering(bytes, false));
    await expect(clientOf(origin).send(request())).rejects.toMatchObject({
      code: 'PAYLOAD_TOO_LARGE',
      details: { limit: 1_000, limitName: 'responseBytesMax' },
    });
  });

  test('an answer of exactly the limit passes', async () => {
    const origin = await serve((_, response) => response.end('x'.repeat(1_000)));
    expect((await clientOf(origin).send(request())).body).toHaveLength(1_000);
  });
});

describe('close', () => {
  test('before the first request refuses it', async () => {
    const client = clientOf('http://127.0.0.1:1');
    await client.close();
    await expect(client.send(request())).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED', retry: 'safe' });
  });

  test('while the first connection is being opened lets that request end', async () => {
    const origin = await serve((_, response) => response.end('x'));
    const client = clientOf(origin);
    const first = client.send(request());
    await client.close();
    expect(await first).toMatchObject({ status: 200 });
    await expect(client.send(request())).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED' });
  });

  test('waits for the running request and refuses the next', async () => {
    const { promise: arrived, resolve: arrive } = Promise.withResolvers<() => void>();
    const client = clientOf(await serve((_, response) => arrive(() => response.end('done'))));
    const running = client.send(request());
    const release = await arrived;
    const closing = client.close();
    await expect(client.send(request())).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED', retry: 'safe' });
    release();
    expect(await running).toMatchObject({ status: 200 });
    await closing;
    await client.close();
  });
});

test('a query is not printed in errors', async () => {
  const error: unknown = await clientOf('http://127.0.0.1:1')
    .send(request({ path: '/job/1?code=secret' }))
    .catch((thrown: unknown) => thrown);
  expect(String(error)).toContain('/job/1');
  expect(JSON.stringify(error) + String(error)).not.toContain('secret');
});
