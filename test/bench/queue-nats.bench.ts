/**
 * What the queue on NATS costs on top of the bare client, on one server and on three (everything in three copies), each of which writes to
 * disk before it acknowledges.
 *
 * The peer is a work queue as JetStream's own client makes it: a stream with work-queue retention, `publish` with a message id, a pull
 * consumer that is fetched from, and `ackAck`, which waits until the server has the acknowledgement. It keeps no result. Ours keeps ids
 * unique for good, gives leases, and keeps a result of 32 bytes for each job. 1 / ratio is the share of the peer's rate; goal: 0.7.
 */

import type { Consumer, JetStreamClient } from '@nats-io/jetstream';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import type { ClaimedJob } from '../../src/queue/queue.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { startNats } from '../support/nats.ts';
import { compare } from './measure.ts';

const payload = Buffer.alloc(100, 7);
const result = Buffer.alloc(32, 9);
const WIDTHS = [1, 16, 128];
const OPTIONS = { rounds: 5, sliceMs: 300, goal: 1 / 0.7 };

let last = 0;
const nextId = (): string => `job-${(last += 1)}`;
const times = <T>(count: number, make: () => Promise<T>): Promise<T[]> => Promise.all(Array.from({ length: count }, make));

interface Bare {
  readonly client: JetStreamClient;
  readonly consumer: Consumer;
}

async function bareWork({ consumer }: Bare, width: number): Promise<void> {
  const messages = await consumer.fetch({ max_messages: width, expires: 10_000 });
  const acknowledged: Promise<boolean>[] = [];
  for await (const message of messages) acknowledged.push(message.ackAck());
  await Promise.all(acknowledged);
}

async function work(queue: NatsQueue, width: number): Promise<void> {
  let missing = width;
  const completed: Promise<void>[] = [];
  while (missing > 0) {
    const jobs: ClaimedJob[] = await queue.claim({ workerId: 'w', max: missing, waitMs: 10_000 });
    missing -= jobs.length;
    for (const { lease } of jobs) completed.push(queue.complete(lease, { body: result }));
  }
  await Promise.all(completed);
}

async function measure(servers: 1 | 3): Promise<void> {
  const cluster = await startNats(servers);
  const queue = new NatsQueue(
    { servers: cluster.addresses, queue: 'bench', replicas: servers },
    { clock: systemClock, telemetry: silentTelemetry },
  );
  const connection = await connect({ servers: [...cluster.addresses], noAsyncTraces: true });
  try {
    await queue.publish({ id: 'first', type: 'square', payload });
    await work(queue, 1);
    const jsm = await jetstreamManager(connection);
    await jsm.streams.add({ name: 'BARE', subjects: ['bare.>'], retention: 'workqueue', num_replicas: servers });
    await jsm.consumers.add('BARE', { durable_name: 'workers', ack_policy: 'explicit', max_ack_pending: -1 });
    const client = jetstream(connection);
    const bare: Bare = { client, consumer: await client.consumers.get('BARE', 'workers') };
    const where = servers === 1 ? '1 server' : `${servers} servers`;
    const barePublish = (): Promise<unknown> => {
      const id = nextId();
      return bare.client.publish('bare.work', payload, { msgID: id });
    };
    const publish = (): Promise<unknown> => queue.publish({ id: nextId(), type: 'square', payload });
    for (const width of WIDTHS) {
      await compare(
        `publish, ${width} at once, ${where}`,
        { peer: () => times(width, barePublish), ours: () => times(width, publish) },
        OPTIONS,
      );
      // What was published is there to be worked off, and a job is published for each that is.
      await compare(
        `publish, claim, complete, ${width} at once, ${where}`,
        {
          peer: async () => {
            await times(width, barePublish);
            await bareWork(bare, width);
          },
          ours: async () => {
            await times(width, publish);
            await work(queue, width);
          },
        },
        OPTIONS,
      );
    }
  } finally {
    await connection.close();
    await queue.close();
    await cluster.stop();
  }
}

await measure(1);
await measure(3);
