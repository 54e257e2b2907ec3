import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, it } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { runQueueConformance } from '../../src/conformance/conformance.ts';
import type { QueueTrial } from '../../src/conformance/conformance.ts';
import { ControlPlane } from '../../src/control/control.ts';
import type { ControlAddress } from '../../src/control/control.ts';
import { EmbeddedQueue } from '../../src/queue/embedded.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { reservedPort } from '../support/reserved-port.ts';

const root = mkdtempSync(join(tmpdir(), 'queue-remote-'));
let folders = 0;
afterAll(() => rmSync(root, { recursive: true }));

const opened = new Map<QueueTrial, () => Promise<void>>();

/** A control plane of its own, on real time and a real port. */
async function remote(address: Partial<ControlAddress>): Promise<QueueTrial> {
  folders += 1;
  const folder = join(root, String(folders));
  const identity = makeIdentity();
  const start = async (port: number) => {
    const queue = EmbeddedQueue.open({ folder: join(folder, 'queue'), contentBytesMax: 100_000 });
    const control = new ControlPlane({ folder, queue });
    await control.listen({ ...address, port });
    const close = async (): Promise<void> => {
      await control.close();
      await queue.close();
    };
    return { control, close };
  };
  const port = await reservedPort();
  let running = await start(port);
  const { ticket } = await running.control.tickets.create({ scopes: ['admin'] });
  const connect = (): Promise<RemoteQueue> => RemoteQueue.connect({ credentials: { ticket, identity } });
  const queues = [await connect()];
  const trial: QueueTrial = {
    queue: queues[0] as RemoteQueue,
    now: () => systemClock.now(),
    pass: (ms) => systemClock.sleep(ms),
    async reopen() {
      await running.close();
      running = await start(port);
      queues.push(await connect());
      return queues.at(-1) as RemoteQueue;
    },
  };
  opened.set(trial, async () => {
    for (const queue of queues) await queue.close();
    await running.close();
  });
  return trial;
}

const close = async (trial: QueueTrial): Promise<void> => {
  await opened.get(trial)?.();
  opened.delete(trial);
};

// Most of them wait.
const framework = { describe: describe.concurrent, it };
runQueueConformance(framework, { name: 'remote over HTTP', caseMsMax: 120_000, open: () => remote({}), close });
runQueueConformance(framework, { name: 'remote over TLS', caseMsMax: 120_000, open: () => remote({ tls: 'own' }), close });
