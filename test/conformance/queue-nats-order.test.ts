/** On a cluster whose servers hear of what was stored one after the other. */

import { afterAll, afterEach, beforeAll, describe, expect } from 'vitest';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import type { NewJob } from '../../src/queue/queue.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { requireNats, startNats } from '../support/nats.ts';
import type { NatsCluster } from '../support/nats.ts';

const testNats = requireNats();
const CASE_MS_MAX = 120_000;
const PRIORITIES = [1, 2, 3] as const;
/** One of four publications is acknowledged before the server that hands it out has it. */
const ROUNDS = 60;
let cluster: NatsCluster | undefined;
let queues = 0;
const opened: NatsQueue[] = [];

beforeAll(async () => {
  cluster = await startNats(3).catch(() => undefined);
});
afterEach(async () => {
  for (const queue of opened.splice(0)) await queue.close();
});
afterAll(() => cluster?.stop());

/** Of one queue, each as a process of its own. */
function open(count: number): NatsQueue[] {
  queues += 1;
  const settings = { servers: cluster?.addresses ?? [], queue: `order-${queues}`, replicas: 3 as const };
  const made = Array.from({ length: count }, () => new NatsQueue(settings, { clock: systemClock, telemetry: silentTelemetry }));
  opened.push(...made);
  return made;
}

const job = (id: string, priority: number): NewJob => ({ id, type: 'work', payload: Buffer.from(id), priority });
const claimIds = async (queue: NatsQueue, waitMs = 0): Promise<string[]> =>
  (await queue.claim({ workerId: 'w', leaseMs: 60_000, waitMs })).map(({ id }) => id);

describe('what was acknowledged', () => {
  testNats(
    'is what the next claim gets, before all that is less urgent',
    async () => {
      const [queue] = open(1) as [NatsQueue];
      await queue.publishMany([0, 1, 2, 3].map((index) => job(`low-${index}`, 0)));
      for (let round = 0; round < ROUNDS; round += 1) {
        const id = `urgent-${round}`;
        const priority = PRIORITIES[round % PRIORITIES.length];
        if (round % 2 === 0) await queue.publish(job(id, priority ?? 1));
        else await queue.publishMany([job(id, priority ?? 1)]);
        expect(await claimIds(queue)).toEqual([id]);
      }
      expect(await claimIds(queue)).toEqual(['low-0']);
    },
    CASE_MS_MAX,
  );

  testNats(
    'is what the next claim gets when somebody waited for it who is gone',
    async () => {
      const [queue] = open(1) as [NatsQueue];
      await queue.publish(job('first', 9));
      expect(await claimIds(queue)).toEqual(['first']);
      for (let round = 0; round < ROUNDS / 4; round += 1) {
        await queue.publish(job(`low-${round}`, 1));
        const waiting = claimIds(queue, 30_000);
        expect(await waiting).toEqual([`low-${round}`]);
        const given = claimIds(queue, 30_000);
        // It waits for jobs of both priorities, and gets one.
        await queue.stats();
        await queue.publish(job(`other-${round}`, 1));
        expect(await given).toEqual([`other-${round}`]);
        await queue.publish(job(`urgent-${round}`, 9));
        const [urgent] = await queue.claim({ workerId: 'w', leaseMs: 60_000 });
        expect(urgent).toMatchObject({ id: `urgent-${round}`, attempt: 1 });
      }
    },
    CASE_MS_MAX,
  );

  testNats(
    'and taken by others, or cancelled, keeps nobody from the rest',
    async () => {
      const [one, other] = open(2) as [NatsQueue, NatsQueue];
      await one.publishMany([job('low-1', 0), job('low-2', 0), job('taken', 5)]);
      expect(await claimIds(other, 30_000)).toEqual(['taken']);
      expect(await claimIds(one)).toEqual(['low-1']);
      await one.publish(job('cancelled', 5));
      expect(await one.cancel('cancelled')).toBe(true);
      expect(await claimIds(one)).toEqual(['low-2']);
      expect(await claimIds(one)).toEqual([]);
    },
    CASE_MS_MAX,
  );
});
