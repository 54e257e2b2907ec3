import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { temporaryFolder } from '../../test/support/temporary-folders.ts';
import { systemClock } from '../clock.ts';
import { EmbeddedQueue } from './embedded.ts';
import { FolderObjects } from './folder-objects.ts';
import { functionHeaders, functionSettings } from './function-job.ts';
import type { NewJob } from './queue.ts';

const DAY_MS = 86_400_000;

function world() {
  const folder = join(temporaryFolder('objects-'), 'objects');
  let aheadMs = 0;
  const clock = { ...systemClock, now: () => Date.now() + aheadMs };
  const objects = new FolderObjects({ folder, clock });
  const names = (): string[] => readdirSync(folder).toSorted();
  return { folder, clock, objects, names, later: (ms: number) => void (aheadMs += ms) };
}

describe('objects in a folder', () => {
  it('are removed when they are old and no job refers to them, and never else', async () => {
    const { folder, clock, objects, names, later } = world();
    const queue = EmbeddedQueue.open({ folder: join(folder, '../queue'), clock });
    onTestFinished(() => queue.close());
    const [payload, result, code, orphan] = await Promise.all([1, 2, 3, 4].map((byte) => objects.put(Buffer.alloc(10, byte))));
    if (!payload || !result || !code || !orphan) throw new Error('there is no object');
    const settings = functionSettings({});
    const kept = await objects.keep(Buffer.from('a package'));
    const jobs: NewJob[] = [
      { id: 'waits', type: 't', payload },
      { id: 'ends', type: 't', payload: Buffer.from('x'), priority: 9 },
      { id: 'calls', type: 'function', payload: Buffer.from('{}'), headers: functionHeaders({ name: 'f', settings, code: { kind: 'package', object: code } }) }, // prettier-ignore
    ];
    await queue.publishMany(jobs);
    const [claimed] = await queue.claim({ workerId: 'w' });
    if (!claimed) throw new Error('there is no job');
    await queue.complete(claimed.lease, { body: result });
    expect(await queue.referred()).toEqual(new Set([payload.key, result.key, code.key]));

    const collect = () => objects.collect({ graceMs: 7 * DAY_MS, referred: () => queue.referred() });
    await objects.writePart('f'.repeat(64), 0, Buffer.from('abc'));
    later(6 * DAY_MS);
    expect(await collect()).toEqual({ objects: 0, parts: 0 });
    // It is young again.
    expect(await objects.keep(Buffer.from('a package'))).toEqual(kept);
    later(2 * DAY_MS);
    expect(await collect()).toEqual({ objects: 1, parts: 1 });
    expect(names()).toEqual([payload.key, result.key, code.key, kept.key].toSorted());
    later(8 * DAY_MS);
    for (const object of (await queue.purge(DAY_MS)).objects) await objects.remove(object);
    await queue.cancel('calls');
    await queue.purge(0);
    expect(await collect()).toEqual({ objects: 2, parts: 0 });
    expect(names()).toEqual([payload.key]);
    expect(Buffer.from(await objects.get(payload))).toEqual(Buffer.alloc(10, 1));
  });

  it('are put in parts in any number of attempts, and are there when all of it is verified', async () => {
    const { objects, names } = world();
    const bytes = randomBytes(10_000);
    const whole = await world().objects.keep(bytes);
    const { key } = whole;
    expect(await objects.uploaded(key)).toEqual({ size: 0, isWhole: false });
    expect(await objects.writePart(key, 0, bytes.subarray(0, 4_000))).toEqual({ size: 4_000, isWhole: false });
    await expect(objects.writePart(key, 5_000, bytes.subarray(5_000))).rejects.toMatchObject({
      code: 'REQUEST_CONFLICT',
      details: { size: 4_000 },
    });
    await expect(objects.finish(whole)).rejects.toMatchObject({ code: 'REQUEST_CONFLICT', details: { size: 4_000 } });
    await expect(objects.get(whole)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    // A part that comes again does no harm.
    for (const from of [2_000, 4_000, 4_000]) await objects.writePart(key, from, bytes.subarray(from, from + 6_000));
    expect(await objects.finish(whole)).toEqual(whole);
    expect(await objects.finish(whole)).toEqual(whole);
    expect(await objects.uploaded(key)).toEqual({ size: 10_000, isWhole: true });
    expect(Buffer.concat([await objects.readPart(key, 0, 7_000), await objects.readPart(key, 7_000, 7_000)])).toEqual(bytes);
    expect(names()).toEqual([key]);
  });

  it('of parts that are something else nothing stays', async () => {
    const { objects, names } = world();
    const whole = await world().objects.keep(Buffer.from('right'));
    await objects.writePart(whole.key, 0, Buffer.from('wrong'));
    await expect(objects.finish(whole)).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
    expect(names()).toEqual([]);
    for (const key of ['../secrets', 'a'.repeat(63), 'A'.repeat(64)])
      await expect(objects.writePart(key, 0, Buffer.from('x'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  it('stay what was verified, whatever is sent meanwhile and afterwards, and are finished by all who say so', async () => {
    const { objects, names } = world();
    const [bytes, other] = [randomBytes(300_000), Buffer.alloc(1_000)];
    const whole = await world().objects.keep(bytes);
    const { key } = whole;
    await objects.writePart(key, 0, bytes);
    const finished = [1, 2].map(() => objects.finish(whole));
    const written = Array.from({ length: 20 }, () => objects.writePart(key, 0, other));
    const [ofFinished, ofWritten] = await Promise.all([Promise.all(finished), Promise.all(written)]);
    expect(ofFinished).toEqual([whole, whole]);
    expect(new Set(ofWritten.map(({ isWhole }) => isWhole))).toEqual(new Set([true]));
    expect(Buffer.compare(await objects.read(key), bytes)).toBe(0);
    expect(names()).toEqual([key]);
    // Somebody else puts all of it while it is sent in parts.
    const again = await world().objects.keep(Buffer.alloc(2_000, 'again'));
    await objects.writePart(again.key, 0, Buffer.alloc(1_000, 'again'));
    await objects.keep(Buffer.alloc(2_000, 'again'));
    expect(await objects.finish(again)).toEqual(again);
    expect(names()).toEqual([again.key, key].toSorted());
  });

  it('of which some cannot be read or written are told with the reason, not as objects that are not there', async () => {
    const { folder, objects } = world();
    const { key } = await objects.put(Buffer.from('x'));
    const other = '0'.repeat(64);
    mkdirSync(join(folder, other));
    await expect(objects.read(other)).rejects.toMatchObject({ code: 'QUEUE_DISK_FULL', message: expect.stringContaining('EISDIR') });
    const nowhere = new FolderObjects({ folder: join(folder, key) });
    const failure = { code: 'QUEUE_DISK_FULL', message: expect.stringContaining(key) };
    await expect(nowhere.put(Buffer.from('y'))).rejects.toMatchObject(failure);
    await expect(nowhere.writePart(other, 0, Buffer.from('y'))).rejects.toMatchObject(failure);
  });
});
