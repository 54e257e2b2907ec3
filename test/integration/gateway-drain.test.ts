/** A gateway that closes: what runs ends by itself, each instance after its own call, and nothing after the deadline. */

import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { WebSocket } from 'ws';
import type { ServerMessage } from '../../src/gateway/socket-messages.ts';
import { HELLO, send, startGateway, until, zipOf } from '../support/gateway.ts';
import type { TestGateway } from '../support/gateway.ts';

interface Held extends TestGateway {
  /** Lets the next chunk of both streams go; after the last one they end. */
  readonly next: (isLast?: boolean) => Promise<void>;
  readonly answer: () => void;
  /** Names of functions with an instance. */
  readonly up: () => string[];
}

/** `stream-*` write chunk after chunk, `slow` answers once, the others echo. */
async function startHeld(): Promise<Held> {
  let step = Promise.withResolvers<boolean>();
  let waiting = 0;
  const answered = Promise.withResolvers<void>();
  async function* chunks(): AsyncGenerator<Uint8Array> {
    for (let isLast = false; !isLast;) {
      waiting += 1;
      isLast = await step.promise;
      yield Buffer.from(isLast ? 'end' : 'go ');
    }
  }
  const running = await startGateway({
    backend: {
      handler: async ({ id, body, program }) => {
        const { name } = program.spec.fn;
        if (name.startsWith('stream')) return void (await program.stream(id, chunks()));
        if (name === 'slow') await answered.promise;
        return body;
      },
    },
  });
  for (const name of ['stream-http', 'stream-socket', 'slow', 'idle'])
    await send(running.url, `PUT /api/v1/functions/${name}?runtime=nodejs24.x&handler=index.handler&timeout_ms=60000`, { body: HELLO });
  await send(running.url, 'POST /api/v1/functions/idle/invoke', { body: '1' });
  return {
    ...running,
    answer: () => answered.resolve(),
    async next(isLast = false) {
      await until(() => waiting === 2);
      const before = step;
      waiting = 0;
      step = Promise.withResolvers<boolean>();
      before.resolve(isLast);
    },
    up: () => running.backend.running.map(({ spec }) => spec.fn.name).toSorted(),
  };
}

interface Following {
  readonly messages: ServerMessage[];
  readonly socket: WebSocket;
  readonly closed: Promise<number>;
  readonly text: () => string;
}

async function streamBySocket(url: string): Promise<Following> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/api/v1/ws`);
  const messages: ServerMessage[] = [];
  socket.on('message', (data: Buffer) => messages.push(JSON.parse(data.toString()) as ServerMessage));
  const closed = once(socket, 'close').then(([code]) => Number(code));
  await once(socket, 'open');
  socket.send(JSON.stringify({ type: 'invoke', id: 's', function: 'stream-socket', payload: 1 }));
  const text = (): string =>
    messages.map((message) => (message.type === 'chunk' ? Buffer.from(message.data, 'base64').toString() : '')).join('');
  return { messages, socket, closed, text };
}

test('streams and calls end by themselves, and each instance after its own', async () => {
  const { url, gateway, next, answer, up } = await startHeld();
  const follow = await streamBySocket(url);
  const slow = send(url, 'POST /api/v1/functions/slow/invoke', { body: '7' });
  const stream = fetch(`${url}/api/v1/functions/stream-http/stream`, { method: 'POST', body: '1' });
  await until(() => up().length === 4);
  await next();
  const answerOfStream = (await stream).text();
  await until(() => follow.text() === 'go ');
  const closed = gateway.close(20_000);
  await until(() => !up().includes('idle'));
  expect(up()).toEqual(['slow', 'stream-http', 'stream-socket']);
  follow.socket.send(JSON.stringify({ type: 'invoke', id: 'late', function: 'idle', payload: 1 }));
  await until(() => follow.messages.some((message) => message.type === 'error' && message.error.code === 'EXECUTOR_CLOSED'));
  await expect(fetch(`${url}/healthz`)).rejects.toThrow('fetch failed');
  answer();
  expect((await slow).json).toBe(7);
  await until(() => !up().includes('slow'));
  expect(up()).toEqual(['stream-http', 'stream-socket']);
  await next();
  await until(() => follow.text() === 'go go ');
  await next(true);
  expect(await answerOfStream).toBe('go go end');
  expect(await follow.closed).toBe(1001);
  expect([follow.text(), follow.messages.at(-1)?.type]).toEqual(['go go end', 'end']);
  await closed;
  expect(up()).toEqual([]);
});

test('what streams after the deadline breaks off', async () => {
  const { url, gateway, next, up } = await startHeld();
  const follow = await streamBySocket(url);
  const stream = fetch(`${url}/api/v1/functions/stream-http/stream`, { method: 'POST', body: '1' });
  await until(() => up().length === 3);
  await next();
  const answerOfStream = (await stream).text();
  await until(() => follow.text() === 'go ');
  const broken = expect(answerOfStream).rejects.toThrow('terminated');
  await gateway.close(50);
  await broken;
  expect(await follow.closed).toBe(1001);
  expect(follow.messages.some(({ type }) => type === 'end')).toBe(false);
  expect(up()).toEqual([]);
});

test('a package that is being stored is not written to any more', async () => {
  const { url, gateway, folder } = await startGateway();
  const stored = join(folder, 'store', 'blobs', 'sha256');
  const parts = (): string[] =>
    readdirSync(stored).filter((name) => name.startsWith('.part-') && existsSync(join(stored, name, 'file-0.mjs')));
  const body = zipOf(Object.fromEntries(Array.from({ length: 800 }, (_, index) => [`file-${index}.mjs`, `export default ${index};`])));
  const lost = fetch(`${url}/api/v1/functions/large?runtime=nodejs24.x&handler=file-0.handler`, { method: 'PUT', body }).catch(
    () => undefined,
  );
  await until(() => parts().length === 1);
  await gateway.close(0);
  expect(parts()).toEqual([]);
  await lost;
});
