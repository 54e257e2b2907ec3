/** Objects that nobody refers to any more. */

import type { CollectableObjects } from '../queue/objects.ts';
import type { WorkQueue } from '../queue/queue.ts';
import type { Logger } from '../telemetry/telemetry.ts';
import type { UpkeepTask } from './upkeep.ts';

const EVERY_MS = 3_600_000;
const GRACE_MS = 7 * 86_400_000;

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
