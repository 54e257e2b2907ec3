import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import { runObjectsConformance } from '../../src/conformance/conformance.ts';
import type { ObjectsTrial } from '../../src/conformance/conformance.ts';
import { FolderObjects } from '../../src/queue/folder-objects.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { requireNats, startNats } from '../support/nats.ts';
import type { NatsCluster } from '../support/nats.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';

const testNats = requireNats();
let cluster: NatsCluster | undefined;
let queues = 0;
const opened: NatsQueue[] = [];

beforeAll(async () => {
  cluster = await startNats(1).catch(() => undefined);
});
afterAll(() => cluster?.stop());

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
  const queue = new NatsQueue(
    { servers: cluster?.addresses ?? [], queue: `objects-${queues}` },
    { clock: systemClock, telemetry: silentTelemetry },
  );
  opened.push(queue);
  return { objects: queue.objects, pass: (ms) => sleep(ms) };
}

/** Nothing is skipped: what the suite would declare as skipped fails. */
const framework = {
  describe,
  it: Object.assign((name: string, run: () => Promise<void>) => testNats(name, run), {
    skip: (name: string) =>
      it(name, () => {
        throw new Error('it must not be skipped');
      }),
  }),
};
runObjectsConformance(framework, {
  name: 'on JetStream',
  open: onNats,
  async close() {
    for (const queue of opened.splice(0)) await queue.close();
  },
});
