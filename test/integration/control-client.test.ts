import { once } from 'node:events';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import type { Clock } from '../../src/clock.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { reservedPort } from '../support/reserved-port.ts';

const LIMITS = JSON.stringify({ limits: { contentBytesMax: 1_000, waitMsMax: 1_000 } });
const JOB = { id: 'j', type: 'work', payload: Buffer.from('x') };

/** Time that passes only while somebody sleeps. */
function pausesOnly(): Clock {
  let now = 0;
  return { ...systemClock, monotonic: () => now, sleep: async (delayMs) => void (now += delayMs) };
}

/** Takes one publication, says nothing to it, and is gone; or it is gone before. */
async function leaving(
  takesOne: boolean,
  { reconnectMs = 500, clock = pausesOnly() } = {},
): Promise<RemoteQueue & { readonly left: Promise<void> }> {
  const left = Promise.withResolvers<void>();
  const leave = (server: Server): void => {
    server.close();
    server.closeAllConnections();
    left.resolve();
  };
  const server = createServer((request, response) => {
    if (request.method === 'GET') response.setHeader('content-type', 'application/json').end(LIMITS);
    else request.on('end', () => leave(server)).resume();
  });
  server.listen(await reservedPort(), '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const queue = await RemoteQueue.connect({ credentials: { url, token: 't' }, reconnectMs, clock });
  onTestFinished(() => queue.close());
  onTestFinished(() => leave(server));
  if (!takesOne) leave(server);
  return Object.assign(queue, { left: left.promise });
}

it('what may have been carried out by an attempt before is not said to be safe when nobody can be reached any more', async () => {
  const queue = await leaving(true);
  await expect(queue.publish(JOB)).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'idempotent' });
});

it('nor when it is closed meanwhile', async () => {
  const queue = await leaving(true, { reconnectMs: 60_000, clock: systemClock });
  const [published] = await Promise.allSettled([queue.publish(JOB), queue.left.then(() => queue.close())]);
  expect(published).toMatchObject({ status: 'rejected', reason: { code: 'QUEUE_CLOSED', retry: 'idempotent' } });
});

it('what reached nobody is safe', async () => {
  const queue = await leaving(false);
  await expect(queue.publish(JOB)).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'safe' });
});
