/** Cases of a work queue: leases and their fences, attempts, ends of jobs. */

import assert from 'node:assert/strict';
import type { Lease, WorkQueue } from '../queue/queue.ts';
import type { QueueCase } from './queue-trial.ts';
import {
  LONG_MS,
  PAST_MS,
  PAST_SOON_MS,
  SHORT_MS,
  SOON_MS,
  body,
  claim,
  claimIds,
  claimOne,
  job,
  nothingToClaim,
  refused,
  stateOf,
  textOf,
} from './queue-trial.ts';

async function refusedEverywhere(queue: WorkQueue, lease: Lease): Promise<void> {
  await refused(queue.extend(lease), 'LEASE_LOST');
  await refused(queue.complete(lease, body('too late')), 'LEASE_LOST');
  await refused(queue.fail(lease, { code: 'JOB_FAILED', message: 'too late' }), 'LEASE_LOST');
  await refused(queue.release(lease), 'LEASE_LOST');
}

const leases: readonly QueueCase[] = [
  {
    name: 'a claimed job is not handed out again while its lease lasts',
    async run({ queue, pass }) {
      await queue.publish(job('a'));
      const { lease } = await claimOne(queue, { workerId: 'w7' });
      await pass(PAST_MS);
      await nothingToClaim(queue, 'a claimed job was handed out');
      const status = await queue.status('a');
      assert.equal(status?.state, 'claimed');
      assert.equal(status.workerId, 'w7');
      assert.equal(status.leaseUntil, lease.until);
      assert.equal(status.attempts, 1);
    },
  },
  {
    name: 'a lease that runs out gives the job to the next worker, and its old holder is refused',
    async run({ queue, pass }) {
      await queue.publish(job('a'));
      const first = await claimOne(queue, { leaseMs: SHORT_MS });
      const waiting = claimOne(queue, { workerId: 'worker-2', waitMs: LONG_MS });
      await pass(PAST_MS);
      const second = await waiting;
      assert.equal(second.id, 'a');
      assert.equal(second.attempt, 2);
      assert.notEqual(second.lease.token, first.lease.token);
      await refusedEverywhere(queue, first.lease);
      await queue.complete(second.lease, body('of the second'));
      await refusedEverywhere(queue, first.lease);
      assert.equal(textOf((await queue.result('a')).body), 'of the second');
    },
  },
  {
    name: 'a lease that ran out is lost also when nobody else has claimed the job',
    async run({ queue, pass }) {
      await queue.publish(job('a'));
      const { lease } = await claimOne(queue, { leaseMs: SHORT_MS });
      await pass(PAST_MS);
      await refusedEverywhere(queue, lease);
      const status = await queue.status('a');
      assert.equal(status?.state, 'queued');
      assert.equal(status.error?.code, 'WORKER_LOST');
    },
  },
  {
    name: 'extend prolongs the lease with the same token',
    async run({ queue, pass, now }) {
      await queue.publish(job('a'));
      const { lease } = await claimOne(queue, { leaseMs: SOON_MS });
      const longer = await queue.extend(lease, LONG_MS);
      assert.equal(longer.token, lease.token);
      assert.equal(longer.jobId, 'a');
      assert.ok(longer.until > lease.until && longer.until <= now() + LONG_MS);
      await pass(PAST_SOON_MS);
      await nothingToClaim(queue, 'the lease did not last');
      await queue.complete(lease, body('done'));
      assert.equal(await stateOf(queue, 'a'), 'completed');
    },
  },
  {
    name: 'a lease that nobody gave, or of another job, is LEASE_LOST',
    async run({ queue, now }) {
      await queue.publishMany([job('a'), job('b')]);
      const [a, b] = await claim(queue, { max: 2 });
      assert.ok(a && b);
      await refusedEverywhere(queue, { jobId: 'a', token: b.lease.token, until: b.lease.until });
      await refusedEverywhere(queue, { jobId: 'a', token: 'made-up', until: now() + LONG_MS });
      await refusedEverywhere(queue, { jobId: 'unknown', token: a.lease.token, until: a.lease.until });
      await queue.complete(a.lease, body('done'));
      assert.equal(await stateOf(queue, 'b'), 'claimed');
    },
  },
  {
    name: 'release gives the job back, and the attempt does not count',
    async run({ queue, pass }) {
      await queue.publish(job('a', { attemptsMax: 1 }));
      for (let round = 0; round < 3; round += 1) {
        const { lease, attempt } = await claimOne(queue);
        assert.equal(attempt, 1);
        await queue.release(lease);
        await refused(queue.complete(lease, body('released')), 'LEASE_LOST');
      }
      const { lease } = await claimOne(queue);
      await queue.release(lease, { delayMs: SOON_MS });
      await nothingToClaim(queue, 'the delay of the release was ignored');
      const waiting = claimOne(queue, { waitMs: LONG_MS });
      await pass(PAST_SOON_MS);
      assert.equal((await waiting).attempt, 1);
    },
  },
  {
    name: 'a result is kept once: the same again is answered the same, another is LEASE_LOST',
    async run({ queue }) {
      await queue.publish(job('a'));
      const { lease } = await claimOne(queue);
      await queue.complete(lease, { ...body('first'), headers: { 'content-type': 'text/plain' } });
      await queue.complete(lease, body('first'));
      await refused(queue.complete(lease, body('second')), 'LEASE_LOST');
      await refused(queue.fail(lease, { code: 'JOB_FAILED', message: 'after all' }), 'LEASE_LOST');
      const result = await queue.result('a');
      assert.equal(textOf(result.body), 'first');
      assert.deepEqual(result.headers, { 'content-type': 'text/plain' });
    },
  },
  {
    name: 'completions at the same time keep one result',
    async run({ queue }) {
      await queue.publish(job('a'));
      const { lease } = await claimOne(queue);
      const outcomes = await Promise.allSettled(['x', 'y', 'z'].map((text) => queue.complete(lease, body(text))));
      assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 1);
      const kept = ['x', 'y', 'z'][outcomes.findIndex(({ status }) => status === 'fulfilled')];
      assert.equal(textOf((await queue.result('a')).body), kept);
    },
  },
  {
    name: 'a result above the limit is PAYLOAD_TOO_LARGE and keeps the lease',
    async run({ queue }) {
      await queue.publish(job('a'));
      const { lease } = await claimOne(queue);
      await refused(queue.complete(lease, { body: Buffer.alloc(queue.limits.contentBytesMax + 1) }), 'PAYLOAD_TOO_LARGE');
      await queue.complete(lease, body('smaller'));
      assert.equal(textOf((await queue.result('a')).body), 'smaller');
    },
  },
];

const attempts: readonly QueueCase[] = [
  {
    name: 'a failed attempt is tried again after its delay',
    async run({ queue, pass }) {
      await queue.publish(job('a'));
      const first = await claimOne(queue);
      assert.equal(await queue.fail(first.lease, { code: 'EXECUTOR_TIMEOUT', message: 'too slow', delayMs: SOON_MS }), 'queued');
      await refused(queue.complete(first.lease, body('after all')), 'LEASE_LOST');
      await nothingToClaim(queue, 'the delay was ignored');
      assert.deepEqual((await queue.status('a'))?.error, { code: 'EXECUTOR_TIMEOUT', message: 'too slow' });
      const waiting = claimOne(queue, { waitMs: LONG_MS });
      await pass(PAST_SOON_MS);
      const second = await waiting;
      assert.equal(second.attempt, 2);
      await queue.complete(second.lease, body('done'));
      assert.equal((await queue.status('a'))?.error, undefined);
    },
  },
  {
    name: 'a failure that no other attempt can change ends the job',
    async run({ queue }) {
      await queue.publish(job('a'));
      const waiting = refused(queue.result('a'), 'JOB_REJECTED');
      const { lease } = await claimOne(queue);
      assert.equal(await queue.fail(lease, { code: 'JOB_REJECTED', message: 'not like this', retryable: false }), 'failed');
      assert.match((await waiting).message, /not like this/);
      await nothingToClaim(queue, 'a failed job was handed out');
      assert.deepEqual(await queue.deadLetters(), []);
      assert.equal(await stateOf(queue, 'a'), 'failed');
    },
  },
  {
    name: 'a code that the error table does not have is JOB_FAILED for who waits',
    async run({ queue }) {
      await queue.publish(job('a'));
      await queue.fail((await claimOne(queue)).lease, { code: 'oven-cold', message: 'no heat', retryable: false });
      const error = await refused(queue.result('a'), 'JOB_FAILED');
      assert.match(error.message, /no heat/);
      assert.equal((await queue.status('a'))?.error?.code, 'oven-cold');
    },
  },
  {
    name: 'a job whose attempts are used up is in the dead letter and is not handed out',
    async run({ queue }) {
      await queue.publish(job('a', { attemptsMax: 2 }));
      const failure = { code: 'JOB_FAILED', message: 'poison', delayMs: 0 };
      assert.equal(await queue.fail((await claimOne(queue)).lease, failure), 'queued');
      assert.equal(await queue.fail((await claimOne(queue)).lease, failure), 'dead');
      await nothingToClaim(queue, 'a dead job was handed out');
      const [dead] = await queue.deadLetters();
      assert.equal(dead?.id, 'a');
      assert.equal(dead.state, 'dead');
      assert.equal(dead.attempts, 2);
      assert.deepEqual(dead.error, { code: 'JOB_FAILED', message: 'poison' });
      assert.match((await refused(queue.result('a'), 'JOB_FAILED')).message, /poison/);
    },
  },
  {
    name: 'a job that ends its workers is dead after its attempts, not handed out for ever',
    async run({ queue, pass }) {
      await queue.publish(job('a', { attemptsMax: 2 }));
      for (const attempt of [1, 2]) {
        const waiting = claimOne(queue, { leaseMs: SHORT_MS, waitMs: LONG_MS });
        await pass(attempt === 1 ? 0 : PAST_MS);
        assert.equal((await waiting).attempt, attempt);
      }
      await pass(PAST_MS);
      await nothingToClaim(queue, 'a poison job was handed out');
      assert.equal(await stateOf(queue, 'a'), 'dead');
      await refused(queue.result('a'), 'WORKER_LOST');
    },
  },
  {
    name: 'a job of one attempt is not handed out again when its worker is lost',
    async run({ queue, pass }) {
      await queue.publish(job('a', { attemptsMax: 1 }));
      await claimOne(queue, { leaseMs: SHORT_MS });
      await pass(PAST_MS);
      await nothingToClaim(queue, 'it was handed out twice');
      assert.equal(await stateOf(queue, 'a'), 'dead');
    },
  },
  {
    name: 'a job without a dead letter fails when its attempts are used up',
    async run({ queue }) {
      await queue.publish(job('a', { attemptsMax: 1, deadLetter: false }));
      assert.equal(await queue.fail((await claimOne(queue)).lease, { code: 'JOB_FAILED', message: 'no' }), 'failed');
      assert.deepEqual(await queue.deadLetters(), []);
      assert.equal(await stateOf(queue, 'a'), 'failed');
    },
  },
];

const deadLetter: readonly QueueCase[] = [
  {
    name: 'a dead job that is requeued is as new; one that is discarded is forgotten',
    async run({ queue }) {
      await queue.publishMany([job('a', { attemptsMax: 1 }), job('b', { attemptsMax: 1 })]);
      for (const { lease } of await claim(queue, { max: 2 })) await queue.fail(lease, { code: 'JOB_FAILED', message: 'no' });
      assert.equal(await queue.requeue('a'), true);
      assert.equal(await queue.requeue('a'), false);
      const again = await claimOne(queue);
      assert.deepEqual([again.id, again.attempt, textOf(again.payload)], ['a', 1, 'payload of a']);
      await queue.complete(again.lease, body('at last'));
      assert.equal(textOf((await queue.result('a')).body), 'at last');
      assert.deepEqual(await queue.discard('b'), { jobs: 1, objects: [] });
      assert.equal(await queue.discard('b'), undefined);
      assert.equal(await queue.discard('a'), undefined, 'a job that is not dead was discarded');
      assert.equal(await queue.status('b'), undefined);
      assert.deepEqual(await queue.publish(job('b')), { id: 'b', duplicate: false });
    },
  },
  {
    name: 'the dead letter is read in pages, in the order of death',
    async run({ queue, pass }) {
      const ids = ['c', 'a', 'b', 'd'];
      for (const id of ids) {
        await queue.publish(job(id, { attemptsMax: 1 }));
        await queue.fail((await claimOne(queue)).lease, { code: 'JOB_FAILED', message: 'no' });
        await pass(5);
      }
      const page = async (after?: string): Promise<string[]> =>
        (await queue.deadLetters({ limit: 3, ...(after !== undefined && { after }) })).map(({ id }) => id);
      assert.deepEqual([await page(), await page('b'), await page('d')], [['c', 'a', 'b'], ['d'], []]);
      await refused(queue.deadLetters({ after: 'unknown' }), 'NOT_FOUND');
    },
  },
];

const limits: readonly QueueCase[] = [
  {
    name: 'a job is not handed out after its deadline',
    async run({ queue, pass, now }) {
      await queue.publish(job('a', { deadline: now() + SOON_MS }));
      const waiting = refused(queue.result('a'), 'QUEUE_TIMEOUT');
      await pass(PAST_SOON_MS);
      assert.equal((await waiting).retry, 'safe');
      await nothingToClaim(queue, 'it was handed out after its deadline');
      assert.equal(await stateOf(queue, 'a'), 'expired');
      assert.deepEqual(await queue.publish(job('a')), { id: 'a', duplicate: true });
    },
  },
  {
    name: 'a lease does not reach beyond the deadline, and the job expires with it',
    async run({ queue, pass, now }) {
      const deadline = now() + SOON_MS;
      await queue.publish(job('a', { deadline }));
      const { lease } = await claimOne(queue);
      assert.equal(lease.until, deadline);
      assert.equal((await queue.extend(lease, LONG_MS)).until, deadline);
      await pass(PAST_SOON_MS);
      await refused(queue.complete(lease, body('late')), 'LEASE_LOST');
      assert.equal(await stateOf(queue, 'a'), 'expired');
      assert.equal((await refused(queue.result('a'), 'QUEUE_TIMEOUT')).retry, 'idempotent');
    },
  },
  {
    name: 'a job that is cancelled while it waits is not handed out',
    async run({ queue }) {
      await queue.publishMany([job('a'), job('b', { delayMs: LONG_MS })]);
      const waiting = refused(queue.result('a'), 'ABORTED');
      assert.equal(await queue.cancel('a'), true);
      assert.equal(await queue.cancel('b'), true);
      await waiting;
      assert.equal(await queue.cancel('a'), false);
      assert.equal(await queue.cancel('unknown'), false);
      await nothingToClaim(queue, 'a cancelled job was handed out');
      assert.equal(await stateOf(queue, 'a'), 'cancelled');
    },
  },
  {
    name: 'a job that is cancelled while it runs is lost to its worker',
    async run({ queue, pass }) {
      await queue.publish(job('a'));
      const { lease } = await claimOne(queue, { leaseMs: SHORT_MS });
      assert.equal(await queue.cancel('a'), true);
      await refusedEverywhere(queue, lease);
      await pass(PAST_MS);
      await nothingToClaim(queue, 'a cancelled job came back');
      await refused(queue.result('a'), 'ABORTED');
    },
  },
  {
    name: 'a completed job cannot be cancelled',
    async run({ queue }) {
      await queue.publish(job('a'));
      await queue.complete((await claimOne(queue)).lease, body('done'));
      assert.equal(await queue.cancel('a'), false);
      assert.equal(textOf((await queue.result('a')).body), 'done');
      assert.deepEqual(await claimIds(queue), []);
    },
  },
];

export const leaseCases: readonly QueueCase[] = [...leases, ...attempts, ...deadLetter, ...limits];
