import { mkdtempSync, rmSync } from 'node:fs';
import type * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it, vi } from 'vitest';
import { EmbeddedQueue } from './queue/embedded.ts';

/** What the disk says, call by call; the real one when there is nothing. */
const disk = vi.hoisted(() => ({ answers: [] as ((tell: (error: Error | null) => void) => void)[] }));
vi.mock('node:fs', async (original) => {
  const real = await original<typeof fs>();
  const fdatasync = (file: number, tell: (error: Error | null) => void): void => {
    const answer = disk.answers.shift();
    if (answer) answer(tell);
    else real.fdatasync(file, tell);
  };
  return { ...real, fdatasync };
});

const root = mkdtempSync(join(tmpdir(), 'sqlite-file-'));
afterAll(() => rmSync(root, { recursive: true }));

const payload = new Uint8Array([1]);

it('answers when the disk has it, looks at what came meanwhile next, and shows nothing that the disk may still lose', async () => {
  const queue = EmbeddedQueue.open({ folder: join(root, 'slow'), sync: 'background' });
  const asked = Promise.withResolvers<(error: Error | null) => void>();
  disk.answers.push(asked.resolve);
  const told: string[] = [];
  const published = queue.publish({ id: 'a', type: 'work', payload }).then(() => told.push('published'));
  const answer = await asked.promise;
  const seen = queue.status('a').then((status) => told.push(`seen ${status?.state}`));
  const claimed = queue.claim({ workerId: 'w' }).then(([job]) => told.push(`claimed ${job?.id}`));
  await new Promise((resolve) => setImmediate(resolve));
  expect(told).toEqual([]);
  answer(null);
  await Promise.all([published, seen, claimed]);
  expect(told.toSorted()).toEqual(['claimed a', 'published', 'seen queued']);
  await queue.close();
});

it('writes nothing more when the disk failed, and begins again when it is opened anew', async () => {
  const folder = join(root, 'failed');
  const queue = EmbeddedQueue.open({ folder, sync: 'background' });
  await queue.publish({ id: 'a', type: 'work', payload });
  disk.answers.push((tell) => tell(new Error('EIO: i/o error, fdatasync')));
  const failed = expect.objectContaining({ code: 'QUEUE_DISK_FULL' });
  await expect(queue.claim({ workerId: 'w' })).rejects.toEqual(failed);
  await expect(queue.publish({ id: 'b', type: 'work', payload })).rejects.toEqual(failed);
  await expect(queue.status('a')).rejects.toEqual(failed);
  await queue.close();
  const again = EmbeddedQueue.open({ folder, sync: 'background' });
  expect(await again.status('b')).toBeUndefined();
  expect((await again.publish({ id: 'a', type: 'work', payload })).duplicate).toBe(true);
  await again.close();
});
