import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { RunnerError } from '../errors.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { ClaimCheckQueue } from './claim-check.ts';
import { EmbeddedQueue } from './embedded.ts';
import { FolderObjects } from './folder-objects.ts';
import type { ClaimedJob, Lease, NewJob, ObjectStore, QueueResult } from './queue.ts';

const large = Buffer.alloc(50_000, 'large ');
const result = Buffer.alloc(60_000, 'result ');

function open(): { queue: ClaimCheckQueue; inner: EmbeddedQueue; folder: string; files: () => string[] } {
  const root = mkdtempSync(join(tmpdir(), 'claim-check-'));
  const folder = join(root, 'objects');
  const inner = EmbeddedQueue.open({ folder: ':memory:', contentBytesMax: 10_000 });
  onTestFinished(async () => {
    await inner.close();
    rmSync(root, { recursive: true });
  });
  const queue = new ClaimCheckQueue({ queue: inner, objects: new FolderObjects({ folder }), objectBytesMax: 100_000 });
  return { queue, inner, folder, files: () => readdirSync(folder) };
}

async function claimOne(queue: ClaimCheckQueue): Promise<ClaimedJob> {
  const [job] = await queue.claim({ workerId: 'w' });
  if (!job) throw new Error('there is no job');
  return job;
}

it('carries payloads and results that the queue itself does not take, and removes them with the job', async () => {
  const { queue, inner, files } = open();
  await queue.publish({ id: 'a', type: 'work', payload: large });
  await queue.publish({ id: 'b', type: 'work', payload: Buffer.from('small') });
  const job = await claimOne(queue);
  expect(large.equals(job.payload as Uint8Array)).toBe(true);
  await queue.complete(job.lease, { body: result });
  await queue.complete(job.lease, { body: result });
  expect(result.equals((await queue.result('a')).body as Uint8Array)).toBe(true);
  expect((await inner.result('a')).body).toMatchObject({ size: result.length });
  expect(files()).toHaveLength(2);
  expect((await queue.purge(0)).jobs).toBe(1);
  expect(files()).toEqual([]);
  expect(Buffer.from((await claimOne(queue)).payload as Uint8Array).toString()).toBe('small');
});

it('leaves what was kept by its hash when one of its jobs is forgotten', async () => {
  const { queue, folder } = open();
  const payload = await new FolderObjects({ folder }).keep(large);
  for (const id of ['a', 'b']) await queue.publish({ id, type: 'work', payload });
  await queue.cancel('a');
  expect((await queue.purge(0)).jobs).toBe(1);
  expect(large.equals((await claimOne(queue)).payload as Uint8Array)).toBe(true);
});

it('leaves no object of what was refused or known already', async () => {
  const { queue, files } = open();
  await queue.publish({ id: 'a', type: 'work', payload: large });
  expect(await queue.publish({ id: 'a', type: 'work', payload: large })).toEqual({ id: 'a', duplicate: true });
  await expect(queue.publish({ id: 'a', type: 'work', payload: result })).rejects.toMatchObject({ code: 'REQUEST_CONFLICT' });
  await expect(queue.publish({ id: 'b', type: 'work', payload: Buffer.alloc(100_001) })).rejects.toMatchObject({
    code: 'PAYLOAD_TOO_LARGE',
  });
  const { lease } = await claimOne(queue);
  await queue.release(lease);
  await expect(queue.complete(lease, { body: result })).rejects.toMatchObject({ code: 'LEASE_LOST' });
  expect(files()).toHaveLength(1);
});

it('holds the jobs of a claim until the last of their payloads has come, however long that takes', async () => {
  const { folder } = open();
  const clock = new FakeClock();
  const inner = EmbeddedQueue.open({ folder: ':memory:', contentBytesMax: 10_000, clock });
  onTestFinished(() => inner.close());
  const store = new FolderObjects({ folder });
  const comes = Promise.withResolvers<void>();
  const slow: ObjectStore = {
    put: (bytes) => store.put(bytes),
    get: (reference) => comes.promise.then(() => store.get(reference)),
    remove: (reference) => store.remove(reference),
  };
  const queue = new ClaimCheckQueue({ queue: inner, objects: slow, clock });
  await queue.publish({ id: 'large', type: 'work', payload: large, attemptsMax: 1 });
  await queue.publish({ id: 'small', type: 'work', payload: Buffer.from('small'), attemptsMax: 1 });
  const claiming = queue.claim({ workerId: 'w', max: 2, leaseMs: 3_000 });
  await clock.advance(60_500);
  comes.resolve();
  const jobs = await claiming;
  expect(jobs.map(({ id, lease }) => [id, lease.until - clock.now()])).toEqual([
    ['large', 2_500],
    ['small', 2_500],
  ]);
  await Promise.all(jobs.map(({ lease }) => queue.complete(lease, { body: Buffer.from('done') })));
  await clock.advance(60_000);
  expect(clock.pending).toBe(0);
  expect((await inner.stats()).byState).toMatchObject({ completed: 2, dead: 0 });
});

it('gives the jobs of a claim that are there, although another one can neither be fetched nor failed', async () => {
  const { inner, folder } = open();
  const gone = async (): Promise<never> => {
    throw new RunnerError('EXECUTOR_UNREACHABLE', 'nobody answers');
  };
  const store = new FolderObjects({ folder });
  const objects: ObjectStore = { put: (bytes) => store.put(bytes), get: gone, remove: gone };
  const cut = new Proxy(inner, {
    get(target, name) {
      const value: unknown = name === 'fail' ? gone : Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  const queue = new ClaimCheckQueue({ queue: cut, objects });
  await queue.publish({ id: 'large', type: 'work', payload: large });
  await queue.publish({ id: 'small', type: 'work', payload: Buffer.from('small') });
  expect((await queue.claim({ workerId: 'w', max: 2 })).map(({ id }) => id)).toEqual(['small']);
});

it('keeps the object of a job or a result that may have been taken, although the queue says that it is closed', async () => {
  const { inner, folder, files } = open();
  const closed = async (): Promise<never> => {
    throw new RunnerError('QUEUE_CLOSED', 'the queue is closed', { retry: 'idempotent' });
  };
  const publish = (job: NewJob) => inner.publish(job).then(closed);
  const complete = (lease: Lease, given: QueueResult) => inner.complete(lease, given).then(closed);
  const unsure = new Proxy(inner, {
    get(target, name) {
      if (name === 'publish') return publish;
      if (name === 'complete') return complete;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  const queue = new ClaimCheckQueue({ queue: unsure, objects: new FolderObjects({ folder }) });
  await expect(queue.publish({ id: 'a', type: 'work', payload: large })).rejects.toMatchObject({ code: 'QUEUE_CLOSED' });
  const { lease, payload } = await claimOne(queue);
  expect(large.equals(payload as Uint8Array)).toBe(true);
  await expect(queue.complete(lease, { body: result })).rejects.toMatchObject({ code: 'QUEUE_CLOSED' });
  expect(result.equals((await queue.result('a')).body as Uint8Array)).toBe(true);
  expect(files()).toHaveLength(2);
});

it('gives a job whose payload is damaged or gone to nobody, and says why', async () => {
  const { queue, folder, files } = open();
  await queue.publish({ id: 'a', type: 'work', payload: large, attemptsMax: 1 });
  writeFileSync(join(folder, files()[0] ?? ''), Buffer.alloc(large.length));
  expect(await queue.claim({ workerId: 'w' })).toEqual([]);
  expect(await queue.status('a')).toMatchObject({ state: 'dead', error: { code: 'QUEUE_CORRUPT' } });
  expect(await queue.discard('a')).toMatchObject({ jobs: 1 });
  expect(files()).toEqual([]);
  const objects = new FolderObjects({ folder });
  await expect(objects.get({ key: '../queue.db', size: 1, sha256: '' })).rejects.toMatchObject({ code: 'NOT_FOUND' });
});
