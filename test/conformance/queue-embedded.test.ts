import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { checkQueue, runQueueConformance } from '../../src/conformance/conformance.ts';
import type { QueueTrial } from '../../src/conformance/conformance.ts';
import { ClaimCheckQueue } from '../../src/queue/claim-check.ts';
import { EmbeddedQueue } from '../../src/queue/embedded.ts';
import { RunnerError } from '../../src/errors.ts';
import { FolderObjects } from '../../src/queue/folder-objects.ts';
import type { WorkQueue } from '../../src/queue/queue.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';

const root = mkdtempSync(join(tmpdir(), 'queue-conformance-'));
let folders = 0;
afterAll(() => rmSync(root, { recursive: true }));

/** In virtual time. */
function embedded(change: (queue: EmbeddedQueue) => WorkQueue = (queue) => queue, sync: 'commit' | 'background' = 'commit'): QueueTrial {
  folders += 1;
  const options = { folder: join(root, String(folders)), clock: new FakeClock(), contentBytesMax: 100_000, sync };
  let queue = EmbeddedQueue.open(options);
  return {
    queue: change(queue),
    now: () => options.clock.now(),
    pass: (ms) => options.clock.advance(ms),
    async reopen() {
      await queue.close();
      queue = EmbeddedQueue.open(options);
      opened.push(queue);
      return change(queue);
    },
  };
}

const opened: WorkQueue[] = [];
const close = async (): Promise<void> => {
  for (const queue of opened.splice(0)) await queue.close();
};

runQueueConformance({ describe, it }, { name: 'embedded', open: () => embedded(), close });
runQueueConformance(
  { describe, it },
  { name: 'embedded, which waits for the disk beside the event loop', open: () => embedded(undefined, 'background'), close },
);

const noReferences = 'it takes bytes and fetches what a reference names';
runQueueConformance(
  { describe, it },
  {
    name: 'embedded, with a claim check',
    open: () => embedded((queue) => claimCheck(queue)),
    close,
    skip: {
      'references to objects come as they were, as payload and as result': noReferences,
      'purge forgets what ended long ago, with what it referred to, and nothing else': noReferences,
    },
  },
);

function claimCheck(queue: EmbeddedQueue): WorkQueue {
  const objects = new FolderObjects({ folder: join(root, `objects-${folders}`) });
  return new ClaimCheckQueue({ queue, objects, inlineBytesMax: 3, objectBytesMax: 300_000 });
}

/** A queue that breaks one promise. */
function broken(fault: (queue: EmbeddedQueue) => Partial<WorkQueue>): () => QueueTrial {
  return () =>
    embedded((queue) => {
      const methods = fault(queue);
      return new Proxy(queue, {
        get(target, key): unknown {
          const value: unknown = Reflect.get(methods, key) ?? Reflect.get(target, key, target);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    });
}

function abortOf(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const abort = (): void => reject(new RunnerError('ABORTED', 'aborted'));
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort);
  });
}

type Fault = readonly [what: string, fault: (queue: EmbeddedQueue) => Partial<WorkQueue>, caseName: string];

const faults: readonly Fault[] = [
  [
    'publishes an id twice',
    (queue) => ({ publish: async (job) => ({ ...(await queue.publish({ ...job, id: `${job.id}-${Math.random()}` })), id: job.id ?? '' }) }),
    'an id is published once, also when the job is claimed or has ended',
  ],
  [
    'takes a conflicting publication for a duplicate',
    (queue) => ({ publish: (job) => queue.publish(job).catch(() => ({ id: job.id ?? '', duplicate: true })) }),
    'an id with another type or payload is REQUEST_CONFLICT and changes nothing',
  ],
  [
    'publishes one by one',
    (queue) => ({
      async publishMany(jobs) {
        const answers = [];
        for (const job of jobs) answers.push(await queue.publish(job));
        return answers;
      },
    }),
    'publishMany takes all or none, and answers in order',
  ],
  [
    'ignores priorities',
    (queue) => ({ publish: (job) => queue.publish({ ...job, priority: 4 }) }),
    'higher priority goes first, then what was published first',
  ],
  [
    'hands out what came last first',
    (queue) => ({ claim: async (options) => (await queue.claim(options)).toReversed() }),
    'a job that comes back keeps its place',
  ],
  [
    'ignores delays',
    (queue) => ({ publishMany: (jobs) => queue.publishMany(jobs.map(({ delayMs: _, ...job }) => job)) }),
    'a delayed job is not handed out before its time',
  ],
  [
    'ignores capabilities',
    (queue) => ({ publishMany: (jobs) => queue.publishMany(jobs.map(({ requires: _, ...job }) => job)) }),
    'a worker gets what it is capable of, and what it is not capable of is not in its way',
  ],
  [
    'claims one where many are asked for',
    (queue) => ({ claim: (options) => queue.claim({ ...options, max: 1 }) }),
    'a claim gets at most as many as it asks for',
  ],
  [
    'takes a job for a claim that was aborted',
    (queue) => ({
      claim: ({ signal, ...options }) => Promise.race([queue.claim(options), ...(signal ? [abortOf(signal)] : [])]),
    }),
    'a waiting claim that is aborted is ABORTED, and takes nothing after',
  ],
  [
    'acknowledges any completion',
    (queue) => ({ complete: (lease, result) => queue.complete(lease, result).catch(() => undefined) }),
    'a lease that runs out gives the job to the next worker, and its old holder is refused',
  ],
  [
    'lets anybody extend',
    (queue) => ({ extend: (lease) => queue.extend(lease).catch(() => lease) }),
    'a job that is cancelled while it runs is lost to its worker',
  ],
  [
    'does not prolong leases',
    () => ({ extend: async (lease) => ({ ...lease, until: lease.until + 1 }) }),
    'extend prolongs the lease with the same token',
  ],
  [
    'counts released attempts',
    (queue) => ({ release: async (lease) => void (await queue.fail(lease, { code: 'JOB_FAILED', message: 'released', delayMs: 0 })) }),
    'release gives the job back, and the attempt does not count',
  ],
  [
    'tries what cannot succeed again',
    (queue) => ({ fail: (lease, failure) => queue.fail(lease, { ...failure, retryable: true }) }),
    'a failure that no other attempt can change ends the job',
  ],
  [
    'never gives up',
    (queue) => ({ publish: (job) => queue.publish({ ...job, attemptsMax: 1_000 }) }),
    'a job that ends its workers is dead after its attempts, not handed out for ever',
  ],
  [
    'has no deadlines',
    (queue) => ({ publish: ({ deadline: _, ...job }) => queue.publish(job) }),
    'a job is not handed out after its deadline',
  ],
  ['does not cancel', () => ({ cancel: async () => true }), 'a job that is cancelled while it waits is not handed out'],
  [
    'purges nothing',
    () => ({ purge: async () => ({ jobs: 0, objects: [] }) }),
    'purge forgets what ended long ago, with what it referred to, and nothing else',
  ],
  [
    'loses headers of results',
    (queue) => ({ complete: (lease, { body }) => queue.complete(lease, { body }) }),
    'who waits for a result gets it, before and after the completion',
  ],
];

describe('the suite finds a queue that', () => {
  it.each(faults)('%s', async (_, fault, caseName) => {
    const outcomes = await checkQueue({ name: 'broken', open: broken(fault), only: [caseName], caseMsMax: 3_000 });
    expect(outcomes.map(({ name, outcome }) => [name, outcome])).toEqual([[caseName, 'failed']]);
  });

  it('forgets everything in a restart', async () => {
    const only = ['what was acknowledged is there after a restart, and leases go on'];
    const open = (): QueueTrial => ({
      ...embedded(),
      reopen: async () => {
        const { queue } = embedded();
        opened.push(queue);
        return queue;
      },
    });
    const [outcome] = await checkQueue({ name: 'forgetful', open, close, only });
    expect(outcome?.outcome).toBe('failed');
  });

  it('skips a case that does not exist', async () => {
    await expect(checkQueue({ name: 'x', open: () => embedded(), skip: { 'no such case': 'why not' } })).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
    });
  });
});
