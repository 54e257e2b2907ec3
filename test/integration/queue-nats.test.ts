import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterAll, beforeAll, describe, expect } from 'vitest';
import { connect } from '@nats-io/transport-node';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { NatsQueue, workerPermissions } from '../../plugins/nats/index.ts';
import type { NatsOptions } from '../../plugins/nats/index.ts';
import { NatsClient } from '../../plugins/nats/client.ts';
import { systemClock } from '../../src/clock.ts';
import { ClaimCheckQueue } from '../../src/queue/claim-check.ts';
import type { ClaimedJob, ObjectReference, ObjectStore } from '../../src/queue/queue.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import type { Telemetry } from '../../src/telemetry/telemetry.ts';
import { killLeaders } from '../prove/queue-nats-run.ts';
import { requireNats, startNats } from '../support/nats.ts';
import type { NatsCluster } from '../support/nats.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const testNats = requireNats();
let cluster: NatsCluster | undefined;
let names = 0;
const opened: NatsQueue[] = [];

beforeAll(async () => {
  cluster = await startNats(1).catch(() => undefined);
});
afterAll(async () => {
  await Promise.all(opened.map((queue) => queue.close()));
  await cluster?.stop();
});

function open(options: Partial<NatsOptions> = {}, telemetry: Telemetry = silentTelemetry): NatsQueue {
  names += 1;
  const queue = new NatsQueue({ servers: cluster?.addresses ?? [], queue: `q${names}`, ...options }, { clock: systemClock, telemetry });
  opened.push(queue);
  return queue;
}

/** What was warned of. */
function warnings(): { readonly telemetry: Telemetry; readonly texts: string[] } {
  const texts: string[] = [];
  const keep = (message: string, fields?: object): void => void texts.push(`${message} ${JSON.stringify(fields ?? {})}`);
  return { telemetry: { ...silentTelemetry, log: { ...silentTelemetry.log, warn: keep, info: keep, error: keep, debug: keep } }, texts };
}

async function claimOne(queue: NatsQueue, leaseMs = 30_000): Promise<ClaimedJob> {
  const [job] = await queue.claim({ workerId: 'w', leaseMs, waitMs: 10_000 });
  if (!job) throw new Error('no job came');
  return job;
}

const text = (content: unknown): string => Buffer.from(content as Uint8Array).toString();
const job = (id: string): { id: string; type: string; payload: Uint8Array } => ({
  id,
  type: 'work',
  payload: Buffer.from(`payload of ${id}`),
});

describe('a cluster of three', () => {
  testNats(
    'loses its leader twice under load: nothing acknowledged is lost, no result is of two leases, and with a leader it serves within ten seconds',
    async () => {
      const report = await killLeaders({ kills: 2, seed: 3 });
      expect(report).toMatchObject({ lostJobs: 0, lostResults: 0, doubleResults: 0 });
      expect(report.completed).toBe(report.published);
      expect(report.completed).toBeGreaterThan(0);
      expect(report.ledGapMs).toBeLessThanOrEqual(10_000);
    },
    240_000,
  );
});

describe('several processes', () => {
  testNats('take over the leases of each other by their tokens, and see what the others do', async () => {
    const queue = `shared-${process.pid}`;
    const [one, other] = [open({ queue }), open({ queue })];
    await one.publish(job('a'));
    const { lease } = await claimOne(one);
    expect(await other.status('a')).toMatchObject({ state: 'claimed', attempts: 1 });
    const longer = await other.extend(lease, 60_000);
    expect(await one.status('a')).toMatchObject({ state: 'claimed', workerId: 'w', leaseUntil: longer.until });
    const waiting = other.result('a');
    await other.complete(lease, { body: Buffer.from('done') });
    expect(text((await waiting).body)).toBe('done');
    await expect(one.complete(lease, { body: Buffer.from('other') })).rejects.toMatchObject({ code: 'LEASE_LOST' });
    await one.complete(lease, { body: Buffer.from('done') });
  });

  testNats('get the job of a claimer that fell silent, once the server has waited for it', async () => {
    const queue = `silent-${process.pid}`;
    const [one, other] = [open({ queue, ackWaitMs: 1_000 }), open({ queue, ackWaitMs: 1_000 })];
    await one.publish(job('a'));
    const first = await claimOne(one, 1_000);
    await one.close();
    const second = await claimOne(other);
    expect(second.attempt).toBe(2);
    expect(await other.status('a')).toMatchObject({ error: { code: 'WORKER_LOST' } });
    await expect(other.complete(first.lease, { body: Buffer.from('late') })).rejects.toMatchObject({ code: 'LEASE_LOST' });
    await other.complete(second.lease, { body: Buffer.from('done') });
  });

  testNats('a lease that is longer than the server waits outlives its claimer, and is not handed out before', async () => {
    const queue = `long-${process.pid}`;
    const [one, other] = [open({ queue, ackWaitMs: 1_000 }), open({ queue, ackWaitMs: 1_000 })];
    await one.publish(job('a'));
    const { lease } = await claimOne(one);
    await one.close();
    expect(await other.claim({ workerId: 'w2', waitMs: 2_500 })).toEqual([]);
    await other.complete(lease, { body: Buffer.from('after the restart') });
    expect(text((await other.result('a')).body)).toBe('after the restart');
  });
});

describe('a server that', () => {
  testNats('was restarted has everything, and hands out nothing that has ended', async () => {
    const own = await startNats(1);
    const queue = open({ servers: own.addresses });
    try {
      await queue.publishMany([job('done'), job('running'), job('waiting')]);
      const done = await claimOne(queue);
      const running = await claimOne(queue);
      await queue.complete(done.lease, { body: Buffer.from('done') });
      await own.servers[0]?.kill();
      await own.servers[0]?.start();
      expect(text((await queue.result('done')).body)).toBe('done');
      const claimed = await claimOne(queue);
      expect(claimed.id).toBe('waiting');
      await queue.complete(running.lease, { body: Buffer.from('kept') });
      expect(await queue.claim({ workerId: 'w', max: 10, waitMs: 500 })).toEqual([]);
      await queue.publish(job('new'));
      expect((await claimOne(queue)).id).toBe('new');
    } finally {
      await queue.close();
      await own.stop();
    }
  });

  testNats('was told that a job is done which is not hands it out again after a reconciliation', async () => {
    const queue = open({ queue: 'forgotten' });
    await queue.publishMany([job('a'), job('b')]);
    const connection = await connect({ servers: [...(cluster?.addresses ?? [])] });
    try {
      const consumer = await jetstream(connection).consumers.get('BPR_forgotten', 'p4-_');
      const message = await consumer.next({ expires: 30_000 });
      await message?.ackAck();
      expect((await claimOne(queue)).id).toBe('b');
      expect(await queue.reconcile()).toBe(1);
      expect(await queue.reconcile()).toBe(0);
      expect((await claimOne(queue)).id).toBe('a');
    } finally {
      await connection.close();
    }
  });

  testNats('lost its streams, or a consumer, gets them anew from a reconciliation', async () => {
    const { telemetry, texts } = warnings();
    const queue = open({ queue: 'lost' }, telemetry);
    const worker = open({ queue: 'lost' });
    const connection = await connect({ servers: [...(cluster?.addresses ?? [])] });
    try {
      const { streams, consumers } = await jetstreamManager(connection);
      const lease = (await queue.publish(job('a')), await claimOne(worker)).lease;
      const bytes = Buffer.alloc(300_000, 'x');
      await queue.objects.keep(bytes);
      await Promise.all([streams.delete('BPR_lost'), streams.delete('OBJ_BPR_lost')]);
      await expect(queue.status('a')).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
      expect(await queue.reconcile()).toBe(0);
      expect(texts.join()).toContain('the stream of the queue is gone');
      // Of what runs the result is kept.
      await worker.complete(lease, { body: Buffer.from('a') });
      expect(text((await queue.result('a')).body)).toBe('a');
      expect(await queue.objects.get(await queue.objects.keep(bytes))).toEqual(bytes);
      await queue.publish(job('b'));
      await worker.complete((await claimOne(worker)).lease, { body: Buffer.from('b') });
      expect(text((await queue.result('b')).body)).toBe('b');
      await consumers.delete('BPR_lost', 'p4-_');
      await queue.publish(job('c'));
      expect(await queue.reconcile()).toBe(0);
      expect(await consumers.info('BPR_lost', 'p4-_')).toMatchObject({ name: 'p4-_' });
    } finally {
      await connection.close();
    }
  });

  testNats('has a stream of that name already keeps it as it is', async () => {
    const connection = await connect({ servers: [...(cluster?.addresses ?? [])] });
    try {
      const { streams } = await jetstreamManager(connection);
      await streams.add({ name: 'BPR_foreign', subjects: ['foreign.>'] });
      await expect(open({ queue: 'foreign' }).publish(job('a'))).rejects.toMatchObject({ code: 'RESOURCE_FOREIGN' });
      expect((await streams.info('BPR_foreign')).config).toMatchObject({ subjects: ['foreign.>'], num_replicas: 1 });
    } finally {
      await connection.close();
    }
  });

  testNats('does not write to disk before it acknowledges is warned of; one that does is not', async () => {
    const own = await startNats(1, { syncAlways: false });
    try {
      const loose = warnings();
      const strict = warnings();
      const silent = warnings();
      const monitoring = (of: NatsCluster | undefined): string[] => of?.servers.map((server) => server.monitoring) ?? [];
      await open({ servers: own.addresses, monitoring: monitoring(own) }, loose.telemetry).publish(job('a'));
      await open({ monitoring: monitoring(cluster) }, strict.telemetry).publish(job('a'));
      await open({}, silent.telemetry).publish(job('a'));
      expect(loose.texts.join()).toMatch(/acknowledges before it has written to disk.*sync_interval: always/);
      expect(strict.texts).toEqual([]);
      expect(silent.texts.join()).toMatch(/nothing says whether NATS writes to disk/);
      await Promise.all(opened.splice(-3).map((queue) => queue.close()));
    } finally {
      await own.stop();
    }
  });

  testNats('asks for a token, or for user and password, gets them from the reference; nothing of them is logged', async () => {
    const own = await startNats(1, { configuration: 'authorization { user: bpr, password: pass-word-77 }' });
    const { telemetry, texts } = warnings();
    const secret =
      (value: string): (() => string) =>
      () =>
        value;
    const servers = own.addresses;
    try {
      const queue = open({ servers, credentials: { user: 'bpr', password: secret('pass-word-77') } }, telemetry);
      expect(await queue.publish(job('a'))).toEqual({ id: 'a', duplicate: false });
      await queue.close();
      const refused = await open({ servers, credentials: { user: 'bpr', password: secret('pass-word-78') } }, telemetry)
        .publish(job('a'))
        .catch((error: unknown) => error);
      expect(refused).toMatchObject({ code: 'UNAUTHORIZED' });
      expect(texts.join() + String(refused)).not.toMatch(/pass-word/);
    } finally {
      await own.stop();
    }
  });

  testNats('asks for another password after a restart gets it as soon as the reference has it', async () => {
    const folder = temporaryFolder('nats-password-');
    const [secret, authorization] = [join(folder, 'password'), join(folder, 'authorization.conf')];
    const ask = (password: string): void => writeFileSync(authorization, `authorization { user: bpr, password: ${password} }\n`);
    writeFileSync(secret, 'first-word');
    ask('first-word');
    const own = await startNats(1, { configuration: `include '../${relative(tmpdir(), authorization)}'` });
    const { telemetry, texts } = warnings();
    const credentials = { user: 'bpr', password: `file:${secret}` };
    const queue = open({ servers: own.addresses, credentials, commandMs: 1_000 }, telemetry);
    try {
      await queue.publish(job('a'));
      const [server] = own.servers;
      await server?.kill();
      ask('second-word');
      await server?.start();
      await expect.poll(() => texts.join()).toContain('NATS refuses our credentials');
      await expect(queue.publish(job('b'))).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
      writeFileSync(secret, 'second-word');
      await expect.poll(() => queue.publish(job('c')).catch(() => undefined), { timeout: 20_000 }).toMatchObject({ id: 'c' });
      expect((await claimOne(queue)).id).toBe('a');
      expect(texts.join()).not.toMatch(/first-word|second-word/);
    } finally {
      await queue.close();
      await own.stop();
    }
  });

  testNats('gives a worker no more than it needs lets it work, and do nothing else', async () => {
    const inboxPrefix = '_INBOX_w1';
    const permissions = workerPermissions({ queue: 'scoped', inboxPrefix });
    const users = [
      { user: 'all', password: 'a' },
      { user: 'w1', password: 'b', permissions },
    ];
    const own = await startNats(1, { configuration: `authorization: ${JSON.stringify({ users })}` });
    const as = (user: string, password: string): Partial<NatsOptions> => ({
      servers: own.addresses,
      queue: 'scoped',
      credentials: { user, password: () => password },
    });
    const publisher = open(as('all', 'a'));
    const worker = open({ ...as('w1', 'b'), inboxPrefix });
    // What may not be published is not answered.
    const hasty = open({ ...as('w1', 'b'), inboxPrefix, commandMs: 500 });
    try {
      await publisher.publishMany([job('a'), { ...job('b'), attemptsMax: 1 }]);
      const waiting = publisher.result('a');
      const [a, b] = [await claimOne(worker), await claimOne(worker)];
      await worker.extend(a.lease, 60_000);
      await worker.complete(a.lease, { body: Buffer.from('done') });
      expect(text((await waiting).body)).toBe('done');
      expect(await worker.fail(b.lease, { code: 'JOB_FAILED', message: 'no' })).toBe('dead');
      await expect(hasty.publish(job('c'))).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
      expect(await publisher.status('c')).toBe(undefined);
      expect(await worker.status('a')).toMatchObject({ state: 'completed' });
    } finally {
      await Promise.all([publisher.close(), worker.close(), hasty.close()]);
      await own.stop();
    }
  });

  testNats('does not answer may have done what it was told', async () => {
    const own = await startNats(1);
    const queue = open({ servers: own.addresses, queue: 'frozen', commandMs: 100 });
    const patient = open({ servers: own.addresses, queue: 'frozen' });
    try {
      for (const each of [queue, patient]) await each.publish(job('a'));
      own.servers[0]?.freeze();
      await expect(queue.publish(job('b'))).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE', retry: 'idempotent' });
      own.servers[0]?.wake();
      await patient.publish(job('b'));
      expect([(await claimOne(patient)).id, (await claimOne(patient)).id]).toEqual(['a', 'b']);
      expect((await patient.stats()).byState).toMatchObject({ queued: 0, claimed: 2 });
    } finally {
      await Promise.all([queue.close(), patient.close()]);
      await own.stop();
    }
  });

  testNats('does not answer is not waited for at the end', async () => {
    const own = await startNats(1);
    const queue = open({ servers: own.addresses });
    try {
      await queue.publish(job('a'));
      await queue.complete((await claimOne(queue)).lease, { body: Buffer.from('done') });
      const waiting = queue.claim({ workerId: 'w', waitMs: 60_000 }).catch((error: unknown) => error);
      own.servers[0]?.freeze();
      const startedAt = performance.now();
      await queue.close();
      expect(performance.now() - startedAt).toBeLessThan(12_000);
      expect(await waiting).toMatchObject({ code: 'QUEUE_CLOSED' });
    } finally {
      own.servers[0]?.wake();
      await own.stop();
    }
  });

  testNats('cannot be reached is named', async () => {
    const queue = open({ servers: '127.0.0.1:1' });
    await expect(queue.publish(job('a'))).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE', message: /127\.0\.0\.1:1/ });
  });
});

testNats('ids, headers and requirements may hold what subjects of NATS may not', async () => {
  const queue = open();
  const ids = ['a.b', 'a b', '*', '>', 'ü'.repeat(256), '~x', '1/2'];
  await queue.publishMany(ids.map((id) => ({ ...job(id), headers: { note: 'größer "als" \\' } })));
  expect(await queue.publish(job('a.b'))).toEqual({ id: 'a.b', duplicate: true });
  const claimed = await queue.claim({ workerId: 'w', max: 10 });
  expect(claimed.map(({ id }) => id)).toEqual(ids);
  expect(claimed.map(({ headers }) => headers)).toEqual(ids.map(() => ({ note: 'größer "als" \\' })));
  await Promise.all(claimed.map(({ id, lease }) => queue.complete(lease, { body: Buffer.from(id) })));
  expect(text((await queue.result('>')).body)).toBe('>');
});

testNats('what is read ends when the rest of it is removed meanwhile', async () => {
  const queue = open();
  await queue.publishMany(Array.from({ length: 3_000 }, (_, index) => job(`j${index}`)));
  const stream = `BPR_q${names}`;
  const client = await NatsClient.connect({ servers: cluster?.addresses ?? [] }, stream, { clock: systemClock, log: silentTelemetry.log });
  try {
    const scan = client.scan(`bpr.q${names}.>`);
    await scan.next();
    await (await jetstreamManager(client.connection)).streams.purge(stream);
    let count = 1;
    for await (const _ of scan) count += 1;
    expect(count).toBeLessThan(3_000);
  } finally {
    await client.close();
  }
});

testNats('thousands are published at once, in their order', async () => {
  const queue = open();
  const ids = Array.from({ length: 2_500 }, (_, index) => `job-${index}`);
  const published = await queue.publishMany(ids.map((id) => job(id)));
  expect(published.filter(({ duplicate }) => duplicate)).toEqual([]);
  const claimed = [...(await queue.claim({ workerId: 'w', max: 1_000 })), ...(await queue.claim({ workerId: 'w', max: 1_000 }))];
  expect(claimed.map(({ id }) => id)).toEqual(ids.slice(0, 2_000));
  expect(await queue.publishMany(ids.map((id) => job(id)))).toEqual(ids.map((id) => ({ id, duplicate: true })));
  expect((await queue.stats()).byState).toMatchObject({ queued: 500, claimed: 2_000 });
});

describe('its object store', () => {
  testNats('carries payloads and results of many megabytes, and removes them with the job', async () => {
    const inner = open();
    const kept: ObjectReference[] = [];
    const objects: ObjectStore = {
      async put(bytes) {
        const reference = await inner.objects.put(bytes);
        kept.push(reference);
        return reference;
      },
      get: (reference) => inner.objects.get(reference),
      remove: (reference) => inner.objects.remove(reference),
    };
    const queue = new ClaimCheckQueue({ queue: inner, objects });
    const payload = Buffer.alloc(3_000_000, 'payload ');
    const result = Buffer.alloc(2_500_000, 'result ');
    await queue.publish({ id: 'a', type: 'work', payload });
    const [claimed] = await queue.claim({ workerId: 'w' });
    if (!claimed) throw new Error('no job came');
    expect(payload.equals(claimed.payload as Uint8Array)).toBe(true);
    await queue.complete(claimed.lease, { body: result });
    expect(result.equals((await queue.result('a')).body as Uint8Array)).toBe(true);
    expect(kept.map(({ size }) => size)).toEqual([payload.length, result.length]);
    expect((await queue.purge(0)).jobs).toBe(1);
    for (const reference of kept) await expect(inner.objects.get(reference)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  testNats('keeps one object of the same bytes, refuses another under the same key, and verifies what it gives', async () => {
    const { objects } = open();
    const code = Buffer.from('code of a function');
    const kept = await objects.keep(code);
    expect(await objects.keep(code)).toEqual(kept);
    expect(code.equals(await objects.get(kept))).toBe(true);
    const other = await objects.put(code);
    await expect(objects.put(Buffer.from('another'), other.key)).rejects.toMatchObject({ code: 'REQUEST_CONFLICT' });
    await expect(objects.put(code, 'ab'.repeat(32))).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
    await expect(objects.put(code, '../x')).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
    await expect(objects.get({ ...other, sha256: 'ab'.repeat(32) })).rejects.toMatchObject({ code: 'QUEUE_CORRUPT' });
    await objects.remove(other);
    await objects.remove(other);
    await expect(objects.get(other)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect(code.equals(await objects.get(kept))).toBe(true);
  });
});
