/** Many workers at one queue: a job that one of them has is nobody else's. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { EmbeddedQueue } from '../../src/queue/embedded.ts';

const JOBS = 10_000;
const WORKERS = 20;
const TOGETHER = 1_000;

it('10,000 jobs are claimed by 20 workers, each job once', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'qc-'));
  const queue = EmbeddedQueue.open({ folder });
  onTestFinished(async () => {
    await queue.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const ids = Array.from({ length: JOBS }, (_, index) => `job-${index}`);
  const claimed: string[] = [];
  const work = async (workerId: string): Promise<void> => {
    while (claimed.length < JOBS) {
      const jobs = await queue.claim({ workerId, max: 7, waitMs: 100 });
      claimed.push(...jobs.map(({ id }) => id));
      await Promise.all(jobs.map(({ id, lease }) => queue.complete(lease, { body: Buffer.from(id) })));
    }
  };
  const publish = async (): Promise<void> => {
    for (let from = 0; from < JOBS; from += TOGETHER)
      await queue.publishMany(ids.slice(from, from + TOGETHER).map((id) => ({ id, type: 'work', payload: Buffer.from(id) })));
  };
  await Promise.all([publish(), ...Array.from({ length: WORKERS }, (_, index) => work(`worker-${index}`))]);
  expect(claimed.toSorted()).toEqual(ids.toSorted());
  const { byState, totals, workers } = await queue.stats();
  expect([byState.completed, totals.claimed, totals.completed]).toEqual([JOBS, JOBS, JOBS]);
  expect(workers.filter(({ completed }) => completed > 0)).toHaveLength(WORKERS);
});
