/** Jobs that are over, and objects that nobody refers to any more. */

import type { CollectableObjects } from '../queue/objects.ts';
import type { ObjectReference, WorkQueue } from '../queue/queue.ts';
import type { Logger } from '../telemetry/telemetry.ts';
import type { UpkeepTask } from './upkeep.ts';

const PURGE_MS = 600_000;
const EVERY_MS = 3_600_000;
const GRACE_MS = 7 * 86_400_000;

interface Removing {
  remove(object: ObjectReference): Promise<void>;
}

/** Jobs that ended longer ago than `keepMs`. An object that is named by its hash is of all who keep it: it is collected when it is old, too. */
export function forgetting(queue: WorkQueue, objects: Removing, keepMs: number): UpkeepTask {
  return {
    what: 'jobs that ended long ago are forgotten, with their objects',
    everyMs: PURGE_MS,
    async run() {
      const purged = await queue.purge(keepMs);
      const own = purged.objects.filter(({ key, sha256 }) => key !== sha256);
      const kept = own.length > 0 ? await queue.referred?.() : undefined;
      for (const object of own) if (!kept?.has(object.key)) await objects.remove(object);
    },
  };
}

/** Undefined where the store cannot do it, or the queue cannot tell what its jobs refer to. */
export function collection(queue: WorkQueue, objects: object, log: Logger): UpkeepTask | undefined {
  if (!queue.referred || !isCollectable(objects)) return undefined;
  return {
    what: 'objects that no job refers to are removed',
    everyMs: EVERY_MS,
    async run() {
      const removed = await objects.collect({ graceMs: GRACE_MS, referred: async () => (await queue.referred?.()) ?? new Set() });
      if (removed.objects + removed.parts > 0) log.info('objects that no job refers to were removed', { ...removed });
    },
  };
}

function isCollectable(objects: object): objects is CollectableObjects {
  return 'collect' in objects && typeof objects.collect === 'function';
}
