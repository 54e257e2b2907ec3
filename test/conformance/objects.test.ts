import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, it } from 'vitest';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import { runObjectsConformance } from '../../src/conformance/conformance.ts';
import type { ObjectsTrial } from '../../src/conformance/conformance.ts';
import { FolderObjects } from '../../src/queue/folder-objects.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { natsSuite } from '../support/nats-suite.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const { framework, servers } = natsSuite();
let queues = 0;
const opened = new Map<ObjectsTrial, NatsQueue>();

runObjectsConformance(
  { describe, it },
  {
    name: 'in a folder',
    open() {
      let aheadMs = 0;
      const clock = { ...systemClock, now: () => Date.now() + aheadMs };
      return {
        objects: new FolderObjects({ folder: join(temporaryFolder('objects-'), 'objects'), clock }),
        pass: (ms) => Promise.resolve(void (aheadMs += ms)),
      };
    },
  },
);

/** In real time. */
function onNats(): ObjectsTrial {
  queues += 1;
  const queue = new NatsQueue({ servers: servers(), queue: `objects-${queues}` }, { clock: systemClock, telemetry: silentTelemetry });
  const trial: ObjectsTrial = { objects: queue.objects, pass: (ms) => sleep(ms) };
  opened.set(trial, queue);
  return trial;
}

runObjectsConformance(framework, {
  name: 'on JetStream',
  open: onNats,
  async close(trial) {
    await opened.get(trial)?.close();
    opened.delete(trial);
  },
});
