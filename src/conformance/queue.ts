/**
 * What every `WorkQueue` must do, as data: each case gets an empty queue of its own.
 *
 * The suite needs no test framework: `checkQueue` runs it and reports, `runQueueConformance` registers it with the `describe` and `it`
 * that it is given.
 */

import assert from 'node:assert/strict';
import { deliveryCases } from './queue-delivery.ts';
import { leaseCases } from './queue-leases.ts';
import type { QueueCase, QueueTrial } from './queue-trial.ts';
import {
  LONG_MS,
  PAST_SOON_MS,
  SHORT_MS,
  SOON_MS,
  body,
  claim,
  claimIds,
  claimOne,
  job,
  later,
  nothingToClaim,
  refused,
  stateOf,
  textOf,
} from './queue-trial.ts';
import { checkSuite, registerSuite } from './suite.ts';
import type { CaseOutcome, Suite, TestFramework } from './suite.ts';

export type { QueueCase, QueueTrial } from './queue-trial.ts';

const REFERENCE = { key: 'objects/1', size: 5_000_000, sha256: 'ab'.repeat(32) };

const results: readonly QueueCase[] = [
  {
    name: 'who waits for a result gets it, before and after the completion',
    async run({ queue }) {
      await queue.publish(job('a'));
      const waiting = [later(queue.result('a')), later(queue.result('a'))];
      await queue.complete((await claimOne(queue)).lease, { ...body('49'), headers: { 'content-type': 'text/plain' } });
      for (const result of [...(await Promise.all(waiting)), await queue.result('a')]) {
        assert.equal(textOf(result.body), '49');
        assert.deepEqual(result.headers, { 'content-type': 'text/plain' });
      }
      const { state, endedAt = 0, publishedAt = 0 } = (await queue.status('a')) ?? {};
      assert.equal(state, 'completed');
      assert.ok(endedAt >= publishedAt);
    },
  },
  {
    name: 'a result of no byte is a result',
    async run({ queue }) {
      await queue.publish(job('a'));
      await queue.complete((await claimOne(queue)).lease, { body: new Uint8Array() });
      assert.equal(textOf((await queue.result('a')).body), '');
    },
  },
  {
    name: 'a wait for a result that is aborted is ABORTED, and others go on waiting',
    async run({ queue }) {
      await queue.publish(job('a'));
      const controller = new AbortController();
      const aborted = refused(queue.result('a', { signal: controller.signal }), 'ABORTED');
      const waiting = later(queue.result('a'));
      await queue.stats();
      controller.abort();
      await aborted;
      await queue.complete((await claimOne(queue)).lease, body('done'));
      assert.equal(textOf((await waiting).body), 'done');
    },
  },
  {
    name: 'a job that the queue does not know has no status and no result',
    async run({ queue }) {
      assert.equal(await queue.status('unknown'), undefined);
      await refused(queue.result('unknown'), 'NOT_FOUND');
      assert.equal(await queue.requeue('unknown'), false);
      assert.equal(await queue.discard('unknown'), undefined);
    },
  },
];

const keeping: readonly QueueCase[] = [
  {
    name: 'stats count jobs by state, and tell of workers and of the oldest job',
    async run({ queue, pass }) {
      await queue.publishMany(['a', 'b', 'c', 'd', 'e'].map((id) => job(id, { attemptsMax: 1 })));
      await queue.publish(job('later', { delayMs: LONG_MS }));
      const [a, b, c] = await claim(queue, { max: 3, workerId: 'w1' });
      assert.ok(a && b && c);
      await queue.complete(a.lease, body('done'));
      await queue.fail(b.lease, { code: 'JOB_FAILED', message: 'no' });
      await queue.cancel('d');
      await pass(SHORT_MS);
      const stats = await queue.stats();
      assert.deepEqual(stats.byState, { queued: 2, claimed: 1, completed: 1, failed: 0, dead: 1, expired: 0, cancelled: 1 });
      if (stats.byType) assert.deepEqual(stats.byType, [{ type: 'work', queued: 2, claimed: 1 }]);
      assert.equal(stats.delayed, 1);
      assert.ok(stats.oldestMs >= SHORT_MS, `the oldest job has waited ${stats.oldestMs} ms`);
      assert.deepEqual(stats.totals, { published: 6, claimed: 3, completed: 1, failed: 1 });
      const [worker] = stats.workers;
      assert.deepEqual(
        [worker?.workerId, worker?.claimed, worker?.completed, worker?.failed, worker?.lost, stats.workers.length],
        ['w1', 1, 1, 1, 0, 1],
      );
    },
  },
  {
    name: 'stats tell how many jobs a second there were in the last minute',
    async run({ queue, pass }) {
      const before = await queue.stats();
      assert.deepEqual(before.rates, { published: 0, claimed: 0, completed: 0, failed: 0 });
      await queue.publishMany(['a', 'b', 'c', 'd', 'e', 'f'].map((id) => job(id)));
      const [a, b, c] = await claim(queue, { max: 3 });
      assert.ok(a && b && c);
      await queue.complete(a.lease, body('done'));
      await queue.complete(b.lease, body('done'));
      await queue.fail(c.lease, { code: 'JOB_FAILED', message: 'no' });
      await pass(SHORT_MS);
      const { rates, totals } = await queue.stats();
      // The case takes less than a minute; a queue that is younger than a second tells them as of one.
      for (const what of ['published', 'claimed', 'completed', 'failed'] as const) {
        const [most, least] = [totals[what], totals[what] / 60];
        assert.ok(rates[what] <= most && rates[what] >= least, `${what}: ${rates[what]} per second, but ${most} in this case`);
      }
      assert.deepEqual(totals, { published: 6, claimed: 3, completed: 2, failed: 1 });
    },
  },
  {
    name: 'purge forgets what ended long ago, with what it referred to, and nothing else',
    async run({ queue, pass }) {
      await queue.publishMany([job('old', { payload: REFERENCE }), job('dead', { attemptsMax: 1 }), job('running'), job('waiting')]);
      const [old, dead] = await claim(queue, { max: 3 });
      assert.ok(old && dead);
      await queue.complete(old.lease, { body: { ...REFERENCE, key: 'objects/2' } });
      await queue.fail(dead.lease, { code: 'JOB_FAILED', message: 'no' });
      await pass(PAST_SOON_MS);
      await queue.publish(job('recent', { priority: 9 }));
      await queue.complete((await claimOne(queue)).lease, body('done'));
      const { jobs, objects } = await queue.purge(PAST_SOON_MS);
      assert.equal(jobs, 1);
      assert.deepEqual(objects.map(({ key }) => key).toSorted(), ['objects/1', 'objects/2']);
      assert.equal(await queue.status('old'), undefined);
      const states = await Promise.all(['dead', 'running', 'waiting', 'recent'].map((id) => stateOf(queue, id)));
      assert.deepEqual(states, ['dead', 'claimed', 'queued', 'completed']);
      assert.deepEqual(await queue.publish(job('old')), { id: 'old', duplicate: false });
      assert.deepEqual(await queue.purge(PAST_SOON_MS), { jobs: 0, objects: [] });
    },
  },
  {
    name: 'what was acknowledged is there after a restart, and leases go on',
    async run({ queue, pass, reopen }) {
      await queue.publishMany(['done', 'dead', 'running', 'waiting'].map((id) => job(id, { attemptsMax: 1 })));
      await queue.publishMany([job('soon', { delayMs: SOON_MS, requires: ['patience'] }), job('later', { delayMs: LONG_MS })]);
      const [done, dead, running] = await claim(queue, { max: 3 });
      assert.ok(done && dead && running);
      await queue.complete(done.lease, body('kept'));
      await queue.fail(dead.lease, { code: 'JOB_FAILED', message: 'no' });
      if (!reopen) return;
      const again = await reopen();
      assert.equal(textOf((await again.result('done')).body), 'kept');
      assert.deepEqual(
        (await again.deadLetters()).map(({ id }) => id),
        ['dead'],
      );
      assert.deepEqual(await again.publish(job('waiting', { attemptsMax: 1 })), { id: 'waiting', duplicate: true });
      assert.deepEqual(await claimIds(again, { max: 10 }), ['waiting']);
      await refused(again.complete(done.lease, body('other')), 'LEASE_LOST');
      await again.complete(done.lease, body('kept'));
      await again.complete(running.lease, body('delivered after the restart'));
      assert.equal(textOf((await again.result('running')).body), 'delivered after the restart');
      const waiting = claimOne(again, { waitMs: LONG_MS, capabilities: ['patience'] });
      await pass(PAST_SOON_MS);
      assert.equal((await waiting).id, 'soon');
    },
  },
  {
    name: 'close ends what waits with QUEUE_CLOSED, refuses what comes, and can be repeated',
    async run({ queue }) {
      await queue.publish(job('a', { requires: ['nobody'] }));
      const waiting = [refused(claim(queue, { waitMs: LONG_MS }), 'QUEUE_CLOSED'), refused(queue.result('a'), 'QUEUE_CLOSED')];
      await nothingToClaim(queue, 'nobody is capable of it');
      const closing = queue.close();
      await Promise.all(waiting);
      await closing;
      await queue.close();
      await refused(queue.publish(job('b')), 'QUEUE_CLOSED');
      await refused(claim(queue), 'QUEUE_CLOSED');
      await refused(queue.status('a'), 'QUEUE_CLOSED');
    },
  },
];

export const queueCases: readonly QueueCase[] = [...deliveryCases, ...leaseCases, ...results, ...keeping];

export interface QueueUnderTest {
  readonly name: string;
  /** An empty queue of its own for each case. */
  open(): QueueTrial | Promise<QueueTrial>;
  /** After each case, whose queue may be closed already. */
  close?(trial: QueueTrial): Promise<void>;
  /** A case that waits for what never comes fails after so many milliseconds. Default 30,000. */
  readonly caseMsMax?: number;
  /** Only these cases. Default: all. */
  readonly only?: readonly string[];
  /** Cases that cannot be passed, each with the reason, for people. */
  readonly skip?: Readonly<Record<string, string>>;
}

/** Runs the suite; a failure is an outcome, it is not thrown. Throws `CONFIG_INVALID` when a skip names no case. */
export function checkQueue(subject: QueueUnderTest): Promise<CaseOutcome[]> {
  return checkSuite(suiteOf(subject));
}

/**
 * Registers the suite. A skipped case shows its reason in its name.
 *
 * @example
 * import { describe, it } from 'vitest';
 * runQueueConformance({ describe, it }, { name: 'my-queue', open: () => ({ queue: new MyQueue(), now: Date.now, pass: sleep }) });
 */
export function runQueueConformance(framework: TestFramework, subject: QueueUnderTest): void {
  registerSuite(framework, suiteOf(subject));
}

function suiteOf(subject: QueueUnderTest): Suite<QueueCase> {
  const { name, only, skip } = subject;
  return { title: `queue ${name}`, cases: queueCases, only, skip, run: (each) => runCase(each, subject) };
}

async function runCase(each: QueueCase, subject: QueueUnderTest): Promise<void> {
  const { caseMsMax = 30_000 } = subject;
  const trial = await subject.open();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new assert.AssertionError({ message: `it did not end within ${caseMsMax} ms` })), caseMsMax);
  });
  try {
    await Promise.race([each.run(trial), late]);
  } finally {
    clearTimeout(timer);
    await trial.queue.close();
    await subject.close?.(trial);
  }
}
