/** A claim whose answer is lost uses up no attempt: its jobs were never begun. */

import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { isRunnerError } from '../../src/errors.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';

const JOB = { id: 'once', type: 'work', payload: Buffer.from('x'), attemptsMax: 1 };

interface Line {
  readonly url: string;
  /** What the control plane says next does not arrive; resolves when it has said it. Connections end then. */
  loseAnswer(): Promise<void>;
  target: number;
}

/** Between a worker and its control plane. */
async function line(target: number): Promise<Line> {
  let lost: (() => void) | undefined;
  const sockets = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(made.target, '127.0.0.1');
    for (const socket of [near, far]) sockets.add(socket.on('error', () => {}).on('close', () => (near.destroy(), far.destroy())));
    near.on('data', (bytes) => far.write(bytes));
    far.on('data', (bytes) => {
      if (!lost) return near.write(bytes);
      near.destroy();
      lost();
      return (lost = undefined);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const made: Line = { url, target, loseAnswer: () => new Promise((resolve) => (lost = resolve)) };
  return made;
}

async function world({ reconnectMs }: { readonly reconnectMs: number }) {
  const folder = mkdtempSync(join(tmpdir(), 'lost-claims-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const between = await line(0);
  const open = async (): Promise<ControlPlane> => {
    const control = new ControlPlane({ folder });
    onTestFinished(() => control.close(0));
    between.target = Number(new URL(await control.listen({ port: 0, urls: [between.url] })).port);
    return control;
  };
  const control = await open();
  const { ticket } = await control.tickets.create({ scopes: ['admin'] });
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() }, reconnectMs });
  onTestFinished(() => queue.close());
  await queue.publish(JOB);
  return { queue, between, control, open };
}

/** Connections of before the restart may fail still. */
async function answered<T>(ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (thrown) {
      if (!isRunnerError(thrown) || thrown.code !== 'EXECUTOR_CONNECTION_LOST') throw thrown;
    }
  }
}

it('of which the same request is repeated', async () => {
  const { queue, between } = await world({ reconnectMs: 60_000 });
  const { workerId } = queue;
  void between.loseAnswer();
  const [job] = await queue.claim({ workerId });
  expect(job).toMatchObject({ id: 'once', attempt: 1 });
});

it('of which the worker knows no more than that it got no answer', async () => {
  const { queue, between, control, open } = await world({ reconnectMs: 0 });
  const { workerId } = queue;
  const lost = between.loseAnswer();
  await expect(queue.claim({ workerId, waitMs: 30_000 })).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST' });
  await lost;
  await control.close();
  await open();
  // Another worker is not given what somebody may have begun.
  const other = { workerId: `${workerId}/other` };
  expect(await answered(() => queue.claim(other))).toEqual([]);
  const [job] = await answered(() => queue.claim({ workerId }));
  expect(job).toMatchObject({ id: 'once', attempt: 1 });
  await queue.complete(job?.lease ?? { jobId: '', token: '', until: 0 }, { body: Buffer.from('y') });
  expect(await queue.status('once')).toMatchObject({ state: 'completed', attempts: 1 });
});
