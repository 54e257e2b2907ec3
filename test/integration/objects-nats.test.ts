/** Objects on JetStream, over connections that break, and through a control plane. */

import { hash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect as connectTo } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, onTestFinished } from 'vitest';
import { NatsQueue } from '../../plugins/nats/index.ts';
import type { NatsOptions } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import { collection } from '../../src/control/collect.ts';
import { ControlPlane } from '../../src/control/control.ts';
import { ClaimCheckQueue } from '../../src/queue/claim-check.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { requireNats, startNats } from '../support/nats.ts';
import type { NatsCluster } from '../support/nats.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const testNats = requireNats();
const MB = 1_000_000;
let nats: NatsCluster | undefined;
let count = 0;

beforeAll(async () => {
  nats = await startNats(1).catch(() => undefined);
});
afterAll(() => nats?.stop());

function open(options: Partial<NatsOptions> = {}): NatsQueue {
  const settings = { servers: nats?.addresses ?? [], queue: `o${(count += 1)}`, ...options };
  const queue = new NatsQueue(settings, { clock: systemClock, telemetry: silentTelemetry });
  onTestFinished(() => queue.close());
  return queue;
}

/** Passes connections on to the server, and breaks all of them each time that so many bytes have gone one way. */
async function brittle(cutAt: readonly number[]) {
  const marks = [...cutAt];
  const open = new Set<Socket>();
  const carried = { bytes: 0, connections: 0 };
  const pass = (from: Socket, to: Socket): void => {
    from.on('data', (bytes: Buffer) => {
      carried.bytes += bytes.length;
      if (carried.bytes < (marks[0] ?? Number.POSITIVE_INFINITY)) return void to.write(bytes);
      marks.shift();
      for (const socket of open) socket.destroy();
    });
    from.on('error', () => to.destroy());
    from.on('close', () => void (open.delete(from), to.destroy()));
  };
  const server = createServer((client) => {
    carried.connections += 1;
    const upstream = connect(nats?.servers[0]?.ports.client ?? 0, '127.0.0.1');
    for (const socket of [client, upstream]) open.add(socket);
    pass(client, upstream);
    pass(upstream, client);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(async () => {
    for (const socket of open) socket.destroy();
    await once(server.close(), 'close');
  });
  return { address: `127.0.0.1:${(server.address() as AddressInfo).port}`, carried };
}

testNats('100 MB go on where they were when the connection breaks, there and back', async () => {
  const bytes = randomBytes(100 * MB);
  const up = await brittle([10 * MB, 50 * MB, 90 * MB]);
  const queue = `o${(count += 1)}`;
  const sender = open({ servers: up.address, queue });
  const reference = await sender.objects.put(bytes);
  expect(up.carried.connections).toBe(4);
  // One that began anew would have carried 250 MB; a few chunks went twice.
  expect(up.carried.bytes).toBeLessThan(110 * MB);
  const down = await brittle([20 * MB, 70 * MB, 110 * MB]);
  const receiver = open({ servers: down.address, queue });
  const received = await receiver.objects.get(reference);
  expect(hash('sha256', received, 'hex')).toBe(hash('sha256', bytes, 'hex'));
  expect(down.carried.connections).toBe(4);
  // The server answers in base64, which is a third more.
  expect(down.carried.bytes).toBeLessThan(150 * MB);
  // Of what went twice nothing is stored twice.
  await sender.objects.remove(reference);
  expect(await sender.objects.collect({ graceMs: -60_000, referred: () => Promise.resolve(new Set()) })).toEqual({ objects: 0, parts: 0 });
});

testNats('an upload whose process ended goes on in another', async () => {
  const bytes = randomBytes(20 * MB);
  const queue = `o${(count += 1)}`;
  const reference = { key: hash('sha256', bytes, 'hex'), sha256: hash('sha256', bytes, 'hex'), size: bytes.length };
  const first = open({ queue });
  await first.objects.writePart(reference.key, 0, bytes.subarray(0, 12 * MB));
  await first.close();
  const second = open({ queue });
  const { size } = await second.objects.uploaded(reference.key);
  expect(size).toBe(12 * MB);
  await second.objects.writePart(reference.key, size, bytes.subarray(size));
  expect(await second.objects.finish(reference)).toEqual(reference);
  expect(bytes.equals(await second.objects.get(reference))).toBe(true);
});

testNats('an object of parts stays when its process ended before it had ended the upload', async () => {
  const bytes = randomBytes(1_000);
  const queue = open();
  const sha256 = hash('sha256', bytes, 'hex');
  await queue.objects.writePart(sha256, 0, bytes);
  const bucket = `$O.BPR_o${count}`;
  const connection = await connectTo({ servers: [...(nats?.addresses ?? [])] });
  onTestFinished(() => connection.close());
  const upload = await (
    await jetstreamManager(connection)
  ).direct.getMessage(`OBJ_BPR_o${count}`, { last_by_subj: `${bucket}.U.${sha256}` });
  const reference = await queue.objects.finish({ key: sha256, sha256, size: bytes.length });
  await jetstream(connection).publish(`${bucket}.U.${sha256}`, upload?.data);
  expect(await queue.objects.uploaded(sha256)).toEqual({ size: bytes.length, isWhole: true });
  const collect = () => queue.objects.collect({ graceMs: -60_000, referred: () => Promise.resolve(new Set([sha256])) });
  expect(await collect()).toEqual({ objects: 0, parts: 0 });
  expect(bytes.equals(await queue.objects.get(reference))).toBe(true);
});

testNats('who speaks HTTP to a control plane on NATS sends and fetches large objects in parts, to the limit', async () => {
  const queue = open();
  const control = new ControlPlane({ folder: temporaryFolder('on-'), queue, limits: { objectBytesMax: 12 * MB } });
  await control.listen({ port: 0 });
  onTestFinished(() => control.close(100));
  const { ticket } = await control.tickets.create({});
  const remote = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
  onTestFinished(() => remote.close());
  const objects = new RemoteObjects(remote.control);
  const bytes = randomBytes(11 * MB);
  const kept = await objects.keep(bytes);
  expect(bytes.equals(await objects.get(kept))).toBe(true);
  expect(bytes.equals(await queue.objects.get(kept))).toBe(true);
  expect(await objects.keep(bytes)).toEqual(kept);
  await expect(objects.put(randomBytes(13 * MB))).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
  await expect(open({ objectBytesMax: 1_000 }).objects.put(randomBytes(1_001))).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
});

testNats('what a job refers to is kept as long as the job, and collected after', async () => {
  const inner = open();
  const { objects } = inner;
  const queue = new ClaimCheckQueue({ queue: inner, objects });
  const code = await objects.keep(randomBytes(1_000));
  const orphan = await objects.put(randomBytes(1_000));
  const headers = functionHeaders({ name: 'f', settings: functionSettings({}), code: { kind: 'package', object: code } });
  await queue.publish({ id: 'large', type: 'function', payload: randomBytes(900_000), headers });
  const [job] = await queue.claim({ workerId: 'w', waitMs: 20_000 });
  if (!job) throw new Error('there is no job');
  await queue.complete(job.lease, { body: randomBytes(800_000) });
  const referred = await inner.referred();
  expect(referred).toContain(code.key);
  expect(referred).not.toContain(orphan.key);
  // The payload and the result, too.
  expect(referred.size).toBe(3);
  const task = collection(inner, objects, silentTelemetry.log);
  // Everything is young.
  await task?.run();
  expect((await objects.get(orphan)).length).toBe(1_000);
  // By the clock of the server all of it is older than that.
  const collect = () => objects.collect({ graceMs: -60_000, referred: () => inner.referred() });
  expect(await collect()).toEqual({ objects: 1, parts: 0 });
  expect(((await queue.result('large')).body as Uint8Array).length).toBe(800_000);
  await inner.purge(0);
  expect(await collect()).toEqual({ objects: 3, parts: 0 });
});
