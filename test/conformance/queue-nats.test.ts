import { setTimeout as sleep } from 'node:timers/promises';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import { runQueueConformance } from '../../src/conformance/conformance.ts';
import type { QueueTrial } from '../../src/conformance/conformance.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { natsSuite } from '../support/nats-suite.ts';

const { framework, servers } = natsSuite();
let queues = 0;
const opened: NatsQueue[] = [];

/** In real time. */
function open(options: { readonly recordClaims?: boolean; readonly ackWaitMs?: number }): QueueTrial {
  queues += 1;
  const settings = { servers: servers(), queue: `case-${queues}`, contentBytesMax: 500_000, ...options };
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

runQueueConformance(framework, { name: 'nats', open: () => open({ ackWaitMs: 120_000 }), close });
runQueueConformance(framework, { name: 'nats, every claim written down', open: () => open({ recordClaims: true }), close });
