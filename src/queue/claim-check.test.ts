import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { ClaimCheckQueue } from './claim-check.ts';
import { EmbeddedQueue } from './embedded.ts';
import { FolderObjects } from './folder-objects.ts';
import type { ClaimedJob } from './queue.ts';

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
