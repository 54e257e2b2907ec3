import { mkdtempSync, rmSync } from 'node:fs';
import type * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it, vi } from 'vitest';
import { EmbeddedQueue } from './queue/embedded.ts';

/** What the disk says, call by call; the real one when there is nothing. */
const disk = vi.hoisted(() => ({ answers: [] as ((tell: (error: Error | null) => void) => void)[], synchronised: 0 }));
vi.mock('node:fs', async (original) => {
  const real = await original<typeof fs>();
  const fdatasync = (file: number, tell: (error: Error | null) => void): void => {
    const answer = disk.answers.shift();
    if (answer) answer(tell);
    else real.fdatasync(file, tell);
  };
  const fdatasyncSync = (file: number): void => {
    const answer = disk.answers.shift();
    if (!answer) real.fdatasyncSync(file);
    else
      answer((error) => {
        if (error) throw error;
      });
    disk.synchronised += 1;
  };
  return { ...real, fdatasync, fdatasyncSync };
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

it('answers when the disk has it, once for all that came in one turn', async () => {
  const queue = EmbeddedQueue.open({ folder: join(root, 'turn') });
  const before = disk.synchronised;
  await Promise.all([queue.publish({ id: 'a', type: 'work', payload }), queue.publish({ id: 'b', type: 'work', payload })]);
  expect(disk.synchronised - before).toBe(1);
  const [job] = await queue.claim({ workerId: 'w' });
  expect(job?.id).toBe('a');
  expect(disk.synchronised - before).toBe(2);
  await queue.close();
});

it.each(['commit', 'background'] as const)(
  'writes nothing more when the disk failed in the %s, and begins again when it is opened anew',
  async (sync) => {
    const folder = join(root, `failed-${sync}`);
    const queue = EmbeddedQueue.open({ folder, sync });
    await queue.publish({ id: 'a', type: 'work', payload });
    disk.answers.push((tell) => tell(new Error('EIO: i/o error, fdatasync')));
    const failed = expect.objectContaining({ code: 'QUEUE_DISK_FULL' });
    await expect(queue.claim({ workerId: 'w' })).rejects.toEqual(failed);
    await expect(queue.publish({ id: 'b', type: 'work', payload })).rejects.toEqual(failed);
    await expect(queue.status('a')).rejects.toEqual(failed);
    await expect(queue.stats()).rejects.toEqual(failed);
    await queue.close();
    const again = EmbeddedQueue.open({ folder, sync });
    expect(await again.status('b')).toBeUndefined();
    expect((await again.publish({ id: 'a', type: 'work', payload })).duplicate).toBe(true);
    await again.close();
  },
);
