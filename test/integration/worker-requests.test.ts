/** How many requests a job costs: a worker tells what became of one and asks for the next in one. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { ClaimCheckQueue } from '../../src/queue/claim-check.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import type { Lease } from '../../src/queue/queue.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import type { JobHandler } from '../../src/worker/running-job.ts';
import { Worker } from '../../src/worker/worker.ts';

interface World {
  readonly queue: RemoteQueue;
  /** Requests by route, since they were last forgotten. */
  readonly asked: Map<string, number>;
}

async function world(jobs: number): Promise<World> {
  const folder = mkdtempSync(join(tmpdir(), 'worker-requests-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const asked = new Map<string, number>();
  const info = (_: string, fields?: Readonly<Record<string, unknown>>): void => {
    const route = String(fields?.['route']);
    if (fields?.['status'] !== undefined) asked.set(route, (asked.get(route) ?? 0) + 1);
  };
  const control = new ControlPlane({
    folder,
    telemetry: { ...silentTelemetry, log: { ...silentTelemetry.log, isSilent: () => false, info } },
  });
  await control.listen({ port: 0 });
  const { ticket } = await control.tickets.create({ scopes: ['admin'] });
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
  onTestFinished(async () => {
    await queue.close();
    await control.close(100);
  });
  await queue.publishMany(Array.from({ length: jobs }, (_, index) => ({ id: `job-${index}`, type: 'work', payload: Buffer.from('x') })));
  asked.clear();
  return { queue, asked };
}

async function leaseOfOne(queue: RemoteQueue): Promise<Lease> {
  const [job] = await queue.claim({ workerId: queue.workerId });
  if (!job) throw new Error('there is no job');
  return job.lease;
}

it('a worker with one job at a time asks once for each job, and takes no more than it is to', async () => {
  const { queue, asked } = await world(30);
  const handler: JobHandler = {
    async run(_, { started }) {
      started();
      return { body: Buffer.from('done') };
    },
  };
  const inline = new ClaimCheckQueue({ queue, objects: new RemoteObjects(queue.control) });
  let ended = 0;
  const worker = new Worker({
    queue: inline,
    workerId: queue.workerId,
    handler,
    concurrency: 1,
    jobsMax: 20,
    onEvent: ({ kind }) => {
      if (kind === 'ended' && (ended += 1) === 20) void worker.drain(30_000);
    },
  });
  worker.start();
  await worker.ended;
  expect(Object.fromEntries(asked)).toEqual({ '/queue/claim': 1, '/queue/work': 20 });
  expect((await queue.stats()).byState).toMatchObject({ completed: 20, queued: 10, claimed: 0 });
});

it('a claim that was cancelled before its request left is not sent', async () => {
  const { queue, asked } = await world(2);
  const lease = await leaseOfOne(queue);
  const stop = new AbortController();
  const done = queue.complete(lease, { body: Buffer.from('done') });
  const refused = expect(queue.claim({ workerId: queue.workerId, waitMs: 60_000, signal: stop.signal })).rejects.toMatchObject({
    code: 'ABORTED',
    retry: 'safe',
  });
  stop.abort();
  await Promise.all([done, refused]);
  expect(Object.fromEntries(asked)).toEqual({ '/queue/claim': 1, '/queue/work': 1 });
  expect(await queue.status('job-1')).toMatchObject({ state: 'queued' });
});

it('a claim that is cancelled while it is on its way with a completion does not wait', async () => {
  const { queue } = await world(1);
  const lease = await leaseOfOne(queue);
  const stop = new AbortController();
  const done = queue.complete(lease, { body: Buffer.from('done') });
  const refused = expect(queue.claim({ workerId: queue.workerId, waitMs: 600_000, signal: stop.signal })).rejects.toMatchObject({
    code: 'ABORTED',
  });
  // The request leaves before the next turn of the event loop.
  setImmediate(() => stop.abort());
  await Promise.all([done, refused]);
});
