/** On a cluster: its servers hear of what was stored one after the other, and choose who leads. */

import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect } from 'vitest';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import type { NewJob } from '../../src/queue/queue.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { requireNats, startNats } from '../support/nats.ts';
import type { NatsCluster, NatsServer } from '../support/nats.ts';

const testNats = requireNats();
const CASE_MS_MAX = 120_000;
const PRIORITIES = [1, 2, 3] as const;
/** One of four publications is acknowledged before the server that hands it out has it. */
const ROUNDS = 60;
/** A pull every 100 milliseconds, a connection that comes back, and what there is besides. */
const WATCHED_MS = 5_000;
const MESSAGES_MAX = 500;
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

/** What its clients have said to it. */
async function messagesOf({ monitoring }: NatsServer): Promise<number> {
  const answer = await fetch(`${monitoring}/connz?subs=false`);
  const { connections } = (await answer.json()) as { readonly connections: readonly { readonly in_msgs: number }[] };
  return connections.reduce((sum, each) => sum + each.in_msgs, 0);
}

/** Of the only consumer, as the first server that tells of one knows it. */
async function consumerLeader({ servers }: NatsCluster): Promise<string> {
  const answers = await Promise.all(servers.map(async ({ monitoring }) => (await fetch(`${monitoring}/jsz?consumers=true`)).json()));
  const details = answers as readonly { readonly account_details: readonly AccountDetail[] }[];
  const consumers = details.flatMap(({ account_details: accounts }) => accounts).flatMap(({ stream_detail: streams = [] }) => streams);
  const [leader] = consumers.flatMap(({ consumer_detail: some = [] }) => some.flatMap(({ cluster: { leader: name } }) => name ?? []));
  if (leader === undefined) throw new Error('no consumer has a leader');
  return leader;
}

interface AccountDetail {
  readonly stream_detail?: readonly { readonly consumer_detail?: readonly { readonly cluster: { readonly leader?: string } }[] }[];
}

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

testNats(
  'servers that choose a leader are not asked all the time, and hand out what waits when they have one',
  async () => {
    const own = await startNats(3);
    const settings = { servers: own.addresses, queue: 'lost', replicas: 3 as const };
    const queue = new NatsQueue(settings, { clock: systemClock, telemetry: silentTelemetry });
    try {
      await queue.publish(job('first', 1));
      expect(await claimIds(queue, 30_000)).toEqual(['first']);
      const waiting = claimIds(queue, 120_000);
      waiting.catch(() => undefined);
      const leader = await consumerLeader(own);
      const [left, ...others] = own.servers.toSorted((a, b) => Number(a.name === leader) - Number(b.name === leader));
      if (!left) throw new Error('there is no server');
      // Those that are left cannot choose one.
      for (const server of others) await server.kill();
      const before = await messagesOf(left);
      await sleep(WATCHED_MS);
      expect((await messagesOf(left)) - before).toBeLessThan(MESSAGES_MAX);
      for (const server of others) await server.start();
      await queue.publish(job('second', 1));
      expect(await waiting).toEqual(['second']);
    } finally {
      await queue.close();
      await own.stop();
    }
  },
  CASE_MS_MAX,
);
