import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import { runQueueConformance } from '../../src/conformance/conformance.ts';
import type { QueueTrial } from '../../src/conformance/conformance.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { requireNats, startNats } from '../support/nats.ts';
import type { NatsCluster } from '../support/nats.ts';

const testNats = requireNats();
let cluster: NatsCluster | undefined;
let queues = 0;
const opened: NatsQueue[] = [];

beforeAll(async () => {
  cluster = await startNats(1).catch(() => undefined);
});
afterAll(() => cluster?.stop());

/** In real time. */
function open(options: { readonly recordClaims?: boolean; readonly ackWaitMs?: number }): QueueTrial {
  queues += 1;
  const settings = { servers: cluster?.addresses ?? [], queue: `case-${queues}`, contentBytesMax: 500_000, ...options };
  const make = (): NatsQueue => new NatsQueue(settings, { clock: systemClock, telemetry: silentTelemetry });
  let queue = make();
  return {
    queue,
    now: () => Date.now(),
    pass: (ms) => sleep(ms),
    async reopen() {
      await queue.close();
      queue = make();
      opened.push(queue);
      return queue;
    },
  };
}

const close = async (): Promise<void> => {
  for (const queue of opened.splice(0)) await queue.close();
};

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
runQueueConformance(framework, { name: 'nats', open: () => open({ ackWaitMs: 120_000 }), close });
runQueueConformance(framework, { name: 'nats, every claim written down', open: () => open({ recordClaims: true }), close });
