/** Cases of a work queue: publication, order, claims. */

import assert from 'node:assert/strict';
import type { NewJob } from '../queue/queue.ts';
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

const REFERENCE = { key: 'objects/1', size: 5_000_000, sha256: 'ab'.repeat(32) };

const publication: readonly QueueCase[] = [
  {
    name: 'a claimed job is the one that was published, with all that was said of it',
    async run({ queue, now }) {
      const headers = { traceparent: '00-1-2-01', 'content-type': 'text/plain' };
      const deadline = now() + 10 * LONG_MS;
      const before = now();
      const published = await queue.publish(job('a', { headers, deadline, priority: 7, attemptsMax: 5, requires: ['gpu', 'arch:x64'] }));
      assert.deepEqual(published, { id: 'a', duplicate: false });
      const { payload, lease, publishedAt, requires, ...rest } = await claimOne(queue, { capabilities: ['arch:x64', 'gpu', 'more'] });
      assert.equal(textOf(payload), 'payload of a');
      assert.deepEqual([...requires].toSorted(), ['arch:x64', 'gpu']);
      assert.deepEqual(rest, { id: 'a', type: 'work', headers, priority: 7, attempt: 1, attemptsMax: 5, deadline });
      assert.equal(lease.jobId, 'a');
      assert.ok(publishedAt >= before && publishedAt <= now());
      assert.ok(lease.until > now() && lease.until <= now() + LONG_MS);
    },
  },
  {
    name: 'payloads of no byte, every byte value and many bytes come as they were',
    async run({ queue }) {
      const every = Buffer.from(Array.from({ length: 256 }, (_, value) => value));
      const many = Buffer.alloc(Math.min(200_000, queue.limits.contentBytesMax), every);
      for (const [id, payload] of [Buffer.alloc(0), every, many].entries()) {
        await queue.publish({ id: `b${id}`, type: 'work', payload });
        const claimed = await claimOne(queue);
        assert.ok(claimed.payload instanceof Uint8Array && payload.equals(claimed.payload), `${payload.length} bytes changed`);
      }
    },
  },
  {
    name: 'references to objects come as they were, as payload and as result',
    async run({ queue }) {
      await queue.publish(job('a', { payload: REFERENCE }));
      const { payload, lease } = await claimOne(queue);
      assert.deepEqual(payload, REFERENCE);
      await queue.complete(lease, { body: { ...REFERENCE, key: 'objects/2' } });
      assert.deepEqual((await queue.result('a')).body, { ...REFERENCE, key: 'objects/2' });
    },
  },
  {
    name: 'an id is published once, also when the job is claimed or has ended',
    async run({ queue }) {
      const again = { id: 'a', duplicate: true };
      await queue.publish(job('a'));
      assert.deepEqual(await queue.publish(job('a', { priority: 9 })), again);
      const { lease } = await claimOne(queue);
      assert.deepEqual(await queue.publish(job('a')), again);
      await queue.complete(lease, body('done'));
      assert.deepEqual(await queue.publish(job('a')), again);
      await nothingToClaim(queue, 'a duplicate was handed out');
    },
  },
  {
    name: 'publications of one id at the same time make one job',
    async run({ queue }) {
      const answers = await Promise.all(Array.from({ length: 10 }, () => queue.publish(job('a'))));
      assert.equal(answers.filter(({ duplicate }) => !duplicate).length, 1);
      assert.deepEqual(await claimIds(queue, { max: 10 }), ['a']);
    },
  },
  {
    name: 'an id with another type or payload is REQUEST_CONFLICT and changes nothing',
    async run({ queue }) {
      await queue.publish(job('a'));
      await refused(queue.publish(job('a', { payload: Buffer.from('other') })), 'REQUEST_CONFLICT');
      await refused(queue.publish(job('a', { type: 'other' })), 'REQUEST_CONFLICT');
      const claimed = await claimOne(queue);
      assert.equal(claimed.type, 'work');
      assert.equal(textOf(claimed.payload), 'payload of a');
    },
  },
  {
    name: 'jobs without an id get different ones',
    async run({ queue }) {
      const anonymous: NewJob = { type: 'work', payload: Buffer.from('x') };
      const ids = await Promise.all([queue.publish(anonymous), queue.publish(anonymous)]);
      assert.notEqual(ids[0].id, ids[1].id);
      assert.deepEqual((await claimIds(queue, { max: 10 })).toSorted(), ids.map(({ id }) => id).toSorted());
    },
  },
  {
    name: 'publishMany takes all or none, and answers in order',
    async run({ queue }) {
      await queue.publish(job('b'));
      const answers = await queue.publishMany([job('a'), job('b'), job('c'), job('a')]);
      assert.deepEqual(
        answers.map(({ id, duplicate }) => [id, duplicate]),
        [
          ['a', false],
          ['b', true],
          ['c', false],
          ['a', true],
        ],
      );
      await refused(queue.publishMany([job('d'), job('a', { type: 'other' }), job('e')]), 'REQUEST_CONFLICT');
      await refused(queue.publishMany([job('f'), job('g', { priority: 10 })]), 'REQUEST_INVALID');
      for (const id of ['d', 'e', 'f', 'g']) assert.equal(await queue.status(id), undefined, `${id} was published`);
      assert.deepEqual(await claimIds(queue, { max: 10 }), ['b', 'a', 'c']);
      assert.deepEqual(await queue.publishMany([]), []);
    },
  },
  {
    name: 'a payload above the limit is PAYLOAD_TOO_LARGE, one at the limit is taken',
    async run({ queue }) {
      const { contentBytesMax } = queue.limits;
      await refused(queue.publish(job('a', { payload: Buffer.alloc(contentBytesMax + 1) })), 'PAYLOAD_TOO_LARGE');
      assert.equal(await queue.status('a'), undefined);
      await queue.publish(job('b', { payload: Buffer.alloc(contentBytesMax, 1) }));
      const { payload } = await claimOne(queue);
      assert.ok(payload instanceof Uint8Array && payload.length === contentBytesMax);
    },
  },
  {
    name: 'what is malformed is REQUEST_INVALID',
    async run({ queue }) {
      const jobs: readonly Partial<NewJob>[] = [
        { id: '' },
        { id: 'x'.repeat(257) },
        { id: 'a\nb' },
        { id: 'half a pair: \ud83d' },
        { type: '' },
        { priority: 10 },
        { priority: 1.5 },
        { delayMs: -1 },
        { attemptsMax: 0 },
        { requires: ['a b'] },
        { headers: { 'X-Upper': 'case' } },
        { payload: { key: 'k', size: -1, sha256: 'ab'.repeat(32) } },
        { payload: { key: 'k', size: 1, sha256: 'zz' } },
      ];
      for (const wrong of jobs) await refused(queue.publish(job('a', wrong)), 'REQUEST_INVALID');
      for (const wrong of [{ workerId: '' }, { max: 0 }, { max: 1_001 }, { leaseMs: 99 }, { waitMs: -1 }, { capabilities: [''] }])
        await refused(claim(queue, wrong), 'REQUEST_INVALID');
      await nothingToClaim(queue, 'something malformed was published');
    },
  },
];

const order: readonly QueueCase[] = [
  {
    name: 'higher priority goes first, then what was published first',
    async run({ queue }) {
      const priorities = [4, 0, 9, 4, 9, 0];
      for (const [index, priority] of priorities.entries()) await queue.publish(job(`${index}`, { priority }));
      const first = await claimIds(queue, { max: 3 });
      const others = [(await claimOne(queue)).id, (await claimOne(queue)).id, (await claimOne(queue)).id];
      assert.deepEqual([...first, ...others], ['2', '4', '0', '3', '1', '5']);
    },
  },
  {
    name: 'a job that comes back keeps its place',
    async run({ queue }) {
      await queue.publishMany([job('a'), job('b'), job('c')]);
      const { lease } = await claimOne(queue);
      await queue.release(lease);
      assert.deepEqual(await claimIds(queue, { max: 3 }), ['a', 'b', 'c']);
    },
  },
  {
    name: 'a delayed job is not handed out before its time',
    async run({ queue, pass, now }) {
      await queue.publishMany([job('late', { delayMs: SOON_MS, priority: 9 }), job('soon')]);
      const { state, availableAt = 0 } = (await queue.status('late')) ?? {};
      assert.equal(state, 'queued');
      assert.ok(availableAt > now() && availableAt <= now() + SOON_MS);
      assert.deepEqual(await claimIds(queue, { max: 10 }), ['soon']);
      const waiting = claimOne(queue, { waitMs: LONG_MS });
      await pass(PAST_SOON_MS);
      assert.equal((await waiting).id, 'late');
    },
  },
  {
    name: 'a worker gets what it is capable of, and what it is not capable of is not in its way',
    async run({ queue }) {
      await queue.publishMany([
        job('gpu', { requires: ['gpu'], priority: 9 }),
        job('gpu-eu', { requires: ['gpu', 'region=eu'], priority: 9 }),
        job('any'),
      ]);
      assert.deepEqual(await claimIds(queue, { max: 10 }), ['any']);
      assert.deepEqual(await claimIds(queue, { max: 10, capabilities: ['region=eu'] }), []);
      assert.deepEqual(await claimIds(queue, { max: 10, capabilities: ['gpu', 'cpu'] }), ['gpu']);
      assert.deepEqual(await claimIds(queue, { max: 10, capabilities: ['cpu', 'region=eu', 'gpu'] }), ['gpu-eu']);
    },
  },
  {
    name: 'order holds over jobs that require different things',
    async run({ queue }) {
      await queue.publishMany([job('1'), job('2', { requires: ['gpu'] }), job('3'), job('4', { requires: ['gpu'], priority: 5 })]);
      assert.deepEqual(await claimIds(queue, { max: 3, capabilities: ['gpu'] }), ['4', '1', '2']);
    },
  },
];

const claims: readonly QueueCase[] = [
  {
    name: 'a claim of an empty queue is empty, at once',
    run: ({ queue }) => nothingToClaim(queue, 'the queue is not empty'),
  },
  {
    name: 'a claim gets at most as many as it asks for',
    async run({ queue }) {
      await queue.publishMany(Array.from({ length: 5 }, (_, index) => job(`${index}`)));
      assert.deepEqual(await claimIds(queue), ['0']);
      assert.deepEqual(await claimIds(queue, { max: 3 }), ['1', '2', '3']);
      assert.deepEqual(await claimIds(queue, { max: 3 }), ['4']);
    },
  },
  {
    name: 'a waiting claim gets the next job',
    async run({ queue }) {
      const waiting = claim(queue, { waitMs: LONG_MS });
      await queue.publish(job('a'));
      assert.deepEqual(
        (await waiting).map(({ id }) => id),
        ['a'],
      );
    },
  },
  {
    name: 'a waiting claim is not served with what it is not capable of',
    async run({ queue }) {
      const plain = claim(queue, { waitMs: LONG_MS });
      const capable = claim(queue, { waitMs: LONG_MS, capabilities: ['gpu'] });
      await queue.publish(job('a', { requires: ['gpu'] }));
      assert.equal((await capable)[0]?.id, 'a');
      await queue.publish(job('b'));
      assert.equal((await plain)[0]?.id, 'b');
    },
  },
  {
    name: 'a waiting claim ends empty when its time is over, and takes nothing after',
    async run({ queue, pass }) {
      const waiting = claim(queue, { waitMs: SHORT_MS });
      await pass(PAST_MS);
      assert.deepEqual(await waiting, []);
      await queue.publish(job('a'));
      assert.deepEqual(await claimIds(queue), ['a']);
    },
  },
  {
    name: 'a waiting claim that is aborted is ABORTED, and takes nothing after',
    async run({ queue }) {
      await refused(claim(queue, { waitMs: LONG_MS, signal: AbortSignal.abort() }), 'ABORTED');
      const controller = new AbortController();
      const waiting = refused(claim(queue, { waitMs: LONG_MS, signal: controller.signal }), 'ABORTED');
      await queue.stats();
      controller.abort();
      await waiting;
      await queue.publish(job('a'));
      assert.equal(await stateOf(queue, 'a'), 'queued');
      assert.deepEqual(await claimIds(queue), ['a']);
    },
  },
  {
    name: 'each job goes to one of many workers that claim at the same time',
    async run({ queue }) {
      const count = 200;
      const worker = async (name: number): Promise<string[]> => {
        const ids: string[] = [];
        for (;;) {
          const jobs = await claim(queue, { workerId: `w${name}`, max: 3, waitMs: 0 });
          if (jobs.length === 0) return ids;
          ids.push(...jobs.map(({ id }) => id));
          await Promise.all(jobs.map(({ id, lease }) => queue.complete(lease, body(`result of ${id}`))));
        }
      };
      await queue.publishMany(Array.from({ length: count }, (_, index) => job(`${index}`)));
      const claimed = (await Promise.all(Array.from({ length: 20 }, (_, name) => worker(name)))).flat();
      assert.equal(claimed.length, count, 'a job was claimed twice or never');
      assert.equal(new Set(claimed).size, count, 'a job was claimed twice');
      assert.equal(textOf((await queue.result('137')).body), 'result of 137');
    },
  },
  {
    name: 'workers that wait get one job each',
    async run({ queue }) {
      const waiting = Array.from({ length: 20 }, (_, name) => claim(queue, { workerId: `w${name}`, waitMs: LONG_MS }));
      await queue.publishMany(Array.from({ length: 20 }, (_, index) => job(`${index}`)));
      const jobs = (await Promise.all(waiting)).flat();
      assert.equal(new Set(jobs.map(({ id }) => id)).size, 20);
      assert.equal(new Set(jobs.map(({ lease }) => lease.token)).size, 20);
    },
  },
];

export const deliveryCases: readonly QueueCase[] = [...publication, ...order, ...claims];
