import { setTimeout as sleep } from 'node:timers/promises';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import { runQueueConformance } from '../../src/conformance/conformance.ts';
import type { QueueTrial } from '../../src/conformance/conformance.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { natsSuite } from '../support/nats-suite.ts';

const { framework, servers } = natsSuite();
let queues = 0;
const opened = new Map<QueueTrial, NatsQueue[]>();

/** In real time. */
function open(options: { readonly recordClaims?: boolean; readonly ackWaitMs?: number }): QueueTrial {
  queues += 1;
  const settings = { servers: servers(), queue: `case-${queues}`, contentBytesMax: 500_000, ...options };
  const make = (): NatsQueue => new NatsQueue(settings, { clock: systemClock, telemetry: silentTelemetry });
  const made = [make()];
  const trial: QueueTrial = {
    queue: made[0] as NatsQueue,
    now: () => Date.now(),
    pass: (ms) => sleep(ms),
    async reopen() {
      await made.at(-1)?.close();
      made.push(make());
      return made.at(-1) as NatsQueue;
    },
  };
  opened.set(trial, made);
  return trial;
}

const close = async (trial: QueueTrial): Promise<void> => {
  for (const queue of opened.get(trial) ?? []) await queue.close();
  opened.delete(trial);
};

runQueueConformance(framework, { name: 'nats', caseMsMax: 120_000, open: () => open({ ackWaitMs: 120_000 }), close });
runQueueConformance(framework, {
  name: 'nats, every claim written down',
  caseMsMax: 120_000,
  open: () => open({ recordClaims: true }),
  close,
});
