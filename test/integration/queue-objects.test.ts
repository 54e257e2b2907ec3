/** Large objects between machines: over connections that break, and as payloads and results of jobs. */

import { hash, randomBytes } from 'node:crypto';
import { createServer, connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { ClaimCheckQueue } from '../../src/queue/claim-check.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { Worker } from '../../src/worker/worker.ts';
import { newFolder, onEnd } from '../support/gateway.ts';

const MIB = 1024 * 1024;

/** Passes bytes on; after so many of them a connection is cut. */
class CuttingProxy {
  bytesPerConnection = Number.POSITIVE_INFINITY;
  target = 0;
  cuts = 0;
  passed = 0;
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((near) => {
    const far = connect(this.target, '127.0.0.1');
    const [ends, limit] = [[near, far], this.bytesPerConnection];
    let left = limit;
    for (const [index, from] of ends.entries()) {
      this.#sockets.add(from);
      from.on('error', () => {});
      from.on('close', () => {
        this.#sockets.delete(from);
        ends[1 - index]?.destroy();
      });
      from.on('data', (chunk: Buffer) => {
        left -= chunk.length;
        this.passed += chunk.length;
        if (left > 0) return void ends[1 - index]?.write(chunk);
        this.cuts += 1;
        for (const end of ends) end.destroy();
      });
    }
  });

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => void this.#server.listen(0, '127.0.0.1', resolve));
    onEnd(async () => {
      for (const socket of this.#sockets) socket.destroy();
      await new Promise((resolve) => this.#server.close(resolve));
    });
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }
}

async function world() {
  const folder = await newFolder();
  const proxy = new CuttingProxy();
  const url = await proxy.listen();
  const control = new ControlPlane({ folder });
  onEnd(() => control.close(0));
  proxy.target = Number(new URL(await control.listen({ port: 0, urls: [url] })).port);
  const { ticket } = await control.tickets.create({ uses: 10 });
  const client = async (): Promise<{ readonly queue: RemoteQueue; readonly objects: RemoteObjects }> => {
    const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
    onEnd(() => queue.close());
    return { queue, objects: new RemoteObjects(queue.control) };
  };
  const objectsFolder = join(folder, 'objects');
  const stored = (): string[] => readdirSync(objectsFolder).toSorted();
  return { proxy, client, stored, storedBytes: () => stored().reduce((sum, name) => sum + statSync(join(objectsFolder, name)).size, 0) };
}

test('100 MB arrive whole over connections that are cut every 11 MB, there and back', async () => {
  const { proxy, client, stored } = await world();
  proxy.bytesPerConnection = 11 * MIB;
  const { objects } = await client();
  const bytes = randomBytes(100 * MIB);
  const reference = await objects.keep(bytes);
  expect(proxy.cuts).toBeGreaterThan(5);
  expect(reference).toEqual({ key: hash('sha256', bytes, 'hex'), size: bytes.length, sha256: hash('sha256', bytes, 'hex') });
  expect(stored()).toEqual([reference.key]);
  const before = proxy.cuts;
  expect(hash('sha256', await objects.get(reference), 'hex')).toBe(reference.sha256);
  expect(proxy.cuts).toBeGreaterThan(before + 5);
  // What is there is not sent again.
  proxy.passed = 0;
  expect(await objects.keep(bytes)).toEqual(reference);
  expect(proxy.passed).toBeLessThan(100_000);
});

test('an upload whose process ended goes on where it was, by another one', async () => {
  const { proxy, client, stored, storedBytes } = await world();
  const first = await client();
  const bytes = randomBytes(40 * MIB);
  const sending = first.objects.keep(bytes);
  const refused = expect(sending).rejects.toMatchObject({ code: 'QUEUE_CLOSED' });
  await expect.poll(storedBytes, { timeout: 30_000, interval: 5 }).toBeGreaterThan(12 * MIB);
  proxy.bytesPerConnection = 1;
  first.queue.control.stop();
  await first.queue.close();
  await refused;
  const sha256 = hash('sha256', bytes, 'hex');
  expect(stored()).toEqual([`${sha256}.part`]);
  proxy.bytesPerConnection = Number.POSITIVE_INFINITY;
  const second = await client();
  proxy.passed = 0;
  expect(await second.objects.keep(bytes)).toMatchObject({ key: sha256 });
  expect(proxy.passed).toBeLessThan(30 * MIB);
  expect(stored()).toEqual([sha256]);
  expect(hash('sha256', await second.objects.get({ key: sha256, size: bytes.length, sha256 }), 'hex')).toBe(sha256);
});

test('a payload of 50 MB goes to a worker, and a result of 50 MB comes back, over connections that are cut', async () => {
  const { proxy, client, stored } = await world();
  proxy.bytesPerConnection = 15 * MIB;
  const [publisher, claimant] = [await client(), await client()];
  const queue = new ClaimCheckQueue(publisher);
  const payload = randomBytes(50 * MIB);
  const flip = (bytes: Uint8Array): Uint8Array => bytes.map((byte) => byte ^ 0xff);
  const worker = new Worker({
    queue: new ClaimCheckQueue(claimant),
    workerId: claimant.queue.workerId,
    handler: { run: async (job) => ({ body: flip(job.payload as Uint8Array) }) },
  });
  onEnd(() => worker.drain(1_000));
  worker.start();
  const { id } = await queue.publish({ type: 'flip', payload });
  const { body } = await queue.result(id);
  expect(hash('sha256', body as Uint8Array, 'hex')).toBe(hash('sha256', flip(payload), 'hex'));
  expect(stored()).toHaveLength(2);
  expect(proxy.cuts).toBeGreaterThan(4);
});
