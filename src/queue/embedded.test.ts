import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, onTestFinished } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { EmbeddedQueue } from './embedded.ts';
import type { EmbeddedQueueOptions } from './embedded.ts';
import type { ClaimedJob, Lease, NewJob, QueueJobState } from './queue.ts';

function memory(options: Partial<EmbeddedQueueOptions> = {}): { queue: EmbeddedQueue; clock: FakeClock } {
  const clock = new FakeClock();
  const queue = EmbeddedQueue.open({ folder: ':memory:', clock, ...options });
  onTestFinished(() => queue.close());
  return { queue, clock };
}

function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), 'queue-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
}

const job = (id: string, more: Partial<NewJob> = {}): NewJob => ({ id, type: 'work', payload: Buffer.from(id), ...more });

async function claimOne(queue: EmbeddedQueue, leaseMs = 1_000): Promise<ClaimedJob> {
  const [claimed] = await queue.claim({ workerId: 'w', leaseMs });
  if (!claimed) throw new Error('there is no job');
  return claimed;
}

describe('EmbeddedQueue', () => {
  it('gives a job back in the millisecond in which its lease runs out, and not before', async () => {
    const { queue, clock } = memory();
    await queue.publish(job('a'));
    const { lease } = await claimOne(queue);
    expect(lease.until).toBe(clock.now() + 1_000);
    const waiting = queue.claim({ workerId: 'other', waitMs: 5_000 });
    await clock.advance(999);
    expect((await queue.stats()).waiting).toBe(1);
    await clock.advance(1);
    expect((await waiting).map(({ id, attempt }) => [id, attempt])).toEqual([['a', 2]]);
  });

  it('keeps one timer, however many leases there are', async () => {
    const { queue, clock } = memory();
    await queue.publishMany(Array.from({ length: 50 }, (_, index) => job(`${index}`)));
    const jobs = await queue.claim({ workerId: 'w', max: 50, leaseMs: 10_000 });
    expect(clock.pending).toBe(1);
    await Promise.all(jobs.map(({ lease }) => queue.complete(lease, { body: new Uint8Array() })));
    await clock.advance(10_000);
    expect(clock.pending).toBe(0);
  });

  it('tells how many jobs of each type wait and are claimed, also after a restart and when jobs were refused', async () => {
    const options = { folder: temporary(), clock: new FakeClock(), jobsMax: 3 };
    const first = EmbeddedQueue.open(options);
    const typeOf = async (queue: EmbeddedQueue, type: string): Promise<object | undefined> =>
      (await queue.stats()).byType?.find((one) => one.type === type);
    await first.publishMany([job('a'), job('b', { delayMs: 1_000 }), job('c', { type: 'play' })]);
    await expect(first.publishMany([job('d'), job('e')])).rejects.toMatchObject({ code: 'QUEUE_FULL' });
    const { lease } = await claimOne(first, 3_600_000);
    expect(await typeOf(first, 'work')).toEqual({ type: 'work', queued: 1, claimed: 1 });
    expect(await typeOf(first, 'play')).toEqual({ type: 'play', queued: 1, claimed: 0 });
    await first.close();
    const second = EmbeddedQueue.open(options);
    onTestFinished(() => second.close());
    expect((await second.stats()).byType).toEqual([
      { type: 'work', queued: 1, claimed: 1 },
      { type: 'play', queued: 1, claimed: 0 },
    ]);
    await second.complete(lease, { body: new Uint8Array() });
    await second.cancel('c');
    expect(await typeOf(second, 'work')).toEqual({ type: 'work', queued: 1, claimed: 0 });
    expect(await typeOf(second, 'play')).toEqual({ type: 'play', queued: 0, claimed: 0 });
  });

  it('does not spin when the wall clock is set back', async () => {
    const { queue, clock } = memory();
    await queue.publish(job('a', { delayMs: 1_000 }));
    clock.jump(-3_600_000);
    await clock.advance(2_000);
    expect((await queue.stats()).delayed).toBe(1);
    clock.jump(3_600_000);
    await clock.advance(3_600_000);
    expect((await queue.stats()).delayed).toBe(0);
  });

  it.each([-3_600_000, 3_600_000])('leaves leases what is left of their time when the wall clock is set by %i ms', async (jumpMs) => {
    const { queue, clock } = memory();
    await queue.publishMany([job('a'), job('b'), job('c')]);
    const [a, b, c] = await queue.claim({ workerId: 'w', max: 3, leaseMs: 1_000 });
    if (!a || !b || !c) throw new Error('there are no jobs');
    await clock.advance(400);
    clock.jump(jumpMs);
    await queue.complete(a.lease, { body: Buffer.from('done') });
    expect((await queue.extend(b.lease)).until).toBe(clock.now() + 1_000);
    expect((await queue.status('c'))?.leaseUntil).toBe(clock.now() + 600);
    await clock.advance(599);
    expect((await queue.status('c'))?.state).toBe('claimed');
    await clock.advance(1);
    expect((await queue.status('c'))?.state).toBe('queued');
    await clock.advance(399);
    expect((await queue.status('b'))?.state).toBe('claimed');
    await clock.advance(1);
    expect((await queue.status('b'))?.state).toBe('queued');
  });

  it('gives leases their whole time after a restart, and takes results for them', async () => {
    const options = { folder: temporary(), clock: new FakeClock() };
    const first = EmbeddedQueue.open(options);
    await first.publishMany([job('a'), job('b')]);
    const [a, b] = await first.claim({ workerId: 'w', max: 2, leaseMs: 1_000 });
    if (!a || !b) throw new Error('there are no jobs');
    await first.extend(b.lease, 5_000);
    await first.close();
    await options.clock.advance(60_000);
    const second = EmbeddedQueue.open(options);
    onTestFinished(() => second.close());
    expect((await second.status('a'))?.leaseUntil).toBe(options.clock.now() + 1_000);
    expect((await second.status('b'))?.leaseUntil).toBe(options.clock.now() + 5_000);
    await second.complete(a.lease, { body: Buffer.from('late') });
    await options.clock.advance(5_000);
    expect((await second.status('b'))?.state).toBe('queued');
  });

  it('is of one process at a time', async () => {
    const folder = temporary();
    const queue = EmbeddedQueue.open({ folder });
    expect(() => EmbeddedQueue.open({ folder })).toThrow(expect.objectContaining({ code: 'QUEUE_LOCKED' }));
    await queue.close();
    await EmbeddedQueue.open({ folder }).close();
  });

  it('leaves a file alone that is no queue', () => {
    const folder = temporary();
    writeFileSync(join(folder, 'queue.db'), 'not a database, but long enough to look like one'.repeat(100));
    expect(() => EmbeddedQueue.open({ folder })).toThrow(expect.objectContaining({ code: 'QUEUE_CORRUPT' }));
  });

  it('takes no more than jobsMax waiting jobs, but knows those that it has', async () => {
    const { queue } = memory({ jobsMax: 2 });
    await queue.publishMany([job('a'), job('b', { delayMs: 1_000 })]);
    await expect(queue.publish(job('c'))).rejects.toMatchObject({ code: 'QUEUE_FULL', retry: 'safe' });
    await expect(queue.publishMany([job('a'), job('c')])).rejects.toMatchObject({ code: 'QUEUE_FULL' });
    const other = memory({ jobsMax: 2 }).queue;
    await expect(other.publishMany(['a', 'a', 'b', 'c'].map((id) => job(id)))).rejects.toMatchObject({ code: 'QUEUE_FULL' });
    expect((await other.stats()).byState.queued).toBe(0);
    await other.publishMany(['a', 'a', 'b'].map((id) => job(id)));
    expect(await queue.publish(job('a'))).toEqual({ id: 'a', duplicate: true });
    await claimOne(queue);
    expect(await queue.publish(job('c'))).toEqual({ id: 'c', duplicate: false });
  });

  it('gives one claim no more than 32 MiB of payloads, and the rest in their order to others', async () => {
    const { queue } = memory();
    const ids = Array.from({ length: 40 }, (_, index) => `${index}`);
    await queue.publishMany(
      ids.map((id) => job(id, { payload: Buffer.alloc(1024 * 1024), requires: Number(id) % 2 === 0 ? [] : ['gpu'] })),
    );
    const claim = () => queue.claim({ workerId: 'w', capabilities: ['gpu'], max: 1_000 });
    const claimed = await Promise.all([claim(), claim(), claim()]);
    expect(claimed.map((jobs) => jobs.map(({ id }) => id))).toEqual([ids.slice(0, 32), ids.slice(32), []]);
    expect((await queue.stats()).byState).toMatchObject({ queued: 0, claimed: 40 });
  });

  it('serves a claim that waits in the transaction of the publication', async () => {
    const { queue } = memory();
    const order: string[] = [];
    const waiting = queue.claim({ workerId: 'w', waitMs: 1_000 }).then(() => order.push('claimed'));
    await queue.stats();
    await queue.publish(job('a'));
    order.push('published');
    await waiting;
    expect(order).toEqual(['claimed', 'published']);
  });

  it('gives claims of one turn what one after the other would get', async () => {
    const capabilities = [[], ['arm'], ['gpu'], ['arm', 'gpu']];
    const jobs = fc.array(fc.record({ requires: fc.constantFrom(...capabilities), priority: fc.nat(2) }), { maxLength: 400, size: 'max' });
    const claims = fc.array(fc.record({ capabilities: fc.constantFrom(...capabilities), max: fc.integer({ min: 1, max: 90 }) }), {
      maxLength: 12,
      size: 'max',
    });
    await fc.assert(
      fc.asyncProperty(jobs, claims, async (published, asked) => {
        const queue = EmbeddedQueue.open({ folder: ':memory:' });
        await queue.publishMany(published.map((more, index) => job(`${index}`, more)));
        const given = await Promise.all(asked.map((claim) => queue.claim({ workerId: 'w', ...claim })));
        const left = published.map((each, index) => ({ ...each, id: `${index}` })).toSorted((one, other) => other.priority - one.priority);
        for (const [index, { capabilities: has, max }] of asked.entries()) {
          const next = left.filter(({ requires }) => requires.every((each) => has.includes(each))).slice(0, max);
          for (const each of next) left.splice(left.indexOf(each), 1);
          expect(given[index]?.map(({ id }) => id)).toEqual(next.map(({ id }) => id));
        }
        expect((await queue.stats()).byState).toMatchObject({ queued: left.length, claimed: published.length - left.length });
        await queue.close();
      }),
      { numRuns: 60 },
    );
  });

  it('knows thousands of leases by their tokens, and forgets those that have ended', async () => {
    const { queue, clock } = memory();
    await queue.publishMany(Array.from({ length: 3_000 }, (_, index) => job(`${index}`)));
    const jobs: ClaimedJob[] = [];
    for (let count = 0; count < 3; count += 1) jobs.push(...(await queue.claim({ workerId: 'w', max: 1_000, leaseMs: 60_000 })));
    const kept = jobs.filter((_, index) => index % 3 === 0);
    const done = jobs.filter((_, index) => index % 3 !== 0);
    await Promise.all(done.map(({ lease }) => queue.complete(lease, { body: new Uint8Array() })));
    expect(kept.every(({ lease }) => queue.holderOf(lease.token) === 'w')).toBe(true);
    expect(done.some(({ lease }) => queue.holderOf(lease.token) !== undefined)).toBe(false);
    await clock.advance(60_000);
    expect((await queue.stats()).byState).toMatchObject({ queued: 1_000, claimed: 0, completed: 2_000 });
  });
});

/** The queue as a list: what the contract says, without files, groups or timers. */
interface ModelJob {
  readonly id: string;
  readonly order: number;
  readonly priority: number;
  readonly attemptsMax: number;
  readonly requires: string | undefined;
  state: QueueJobState;
  attempts: number;
  availableAt: number;
  deadline: number;
  token: string | undefined;
  until: number;
}

type Step =
  | {
      readonly do: 'publish';
      readonly id: number;
      readonly priority: number;
      readonly delayMs: number;
      readonly ttlMs: number;
      readonly gpu: boolean;
    }
  | { readonly do: 'claim'; readonly max: number; readonly leaseMs: number; readonly gpu: boolean }
  | { readonly do: 'complete' | 'release' | 'extend'; readonly lease: number }
  | { readonly do: 'fail'; readonly lease: number; readonly retryable: boolean; readonly delayMs: number }
  | { readonly do: 'cancel' | 'requeue'; readonly id: number }
  | { readonly do: 'advance'; readonly ms: number }
  | { readonly do: 'reopen' };

const ATTEMPTS_MAX = 2;
const NEVER = Number.POSITIVE_INFINITY;

class Model {
  readonly jobs = new Map<string, ModelJob>();
  now: number;
  #order = 0;

  constructor(now: number) {
    this.now = now;
  }

  publish(id: string, { priority, delayMs, ttlMs, gpu }: Extract<Step, { do: 'publish' }>): boolean {
    if (this.jobs.has(id)) return true;
    const deadline = ttlMs === 0 ? NEVER : this.now + ttlMs;
    const requires = gpu ? 'gpu' : undefined;
    const place = { id, order: (this.#order += 1), priority, attemptsMax: ATTEMPTS_MAX, requires };
    this.jobs.set(id, { ...place, state: 'queued', attempts: 0, availableAt: this.now + delayMs, deadline, token: undefined, until: 0 });
    return false;
  }

  claim({ max, gpu }: Extract<Step, { do: 'claim' }>): ModelJob[] {
    return [...this.jobs.values()]
      .filter(({ state, availableAt, requires }) => state === 'queued' && availableAt <= this.now && (requires === undefined || gpu))
      .toSorted((a, b) => b.priority - a.priority || a.order - b.order)
      .slice(0, max);
  }

  held(lease: Lease): ModelJob | undefined {
    const found = this.jobs.get(lease.jobId);
    return found?.state === 'claimed' && found.token === lease.token ? found : undefined;
  }

  again(found: ModelJob, delayMs: number): void {
    found.token = undefined;
    found.state = found.attempts < found.attemptsMax ? 'queued' : 'dead';
    found.availableAt = this.now + delayMs;
  }

  /** In steps of a millisecond: no cleverness. */
  advance(ms: number): void {
    for (let step = 0; step < ms; step += 1) {
      this.now += 1;
      this.settle();
    }
  }

  settle(): void {
    for (const each of this.jobs.values()) {
      if (each.state === 'claimed' && each.until <= this.now) {
        if (each.deadline <= this.now) each.state = 'expired';
        else this.again(each, 0);
      }
      if (each.state === 'queued' && each.deadline <= this.now) each.state = 'expired';
    }
  }
}

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant('publish' as const),
        id: fc.integer({ min: 0, max: 11 }),
        priority: fc.integer({ min: 3, max: 5 }),
        delayMs: fc.constantFrom(0, 0, 150),
        ttlMs: fc.constantFrom(0, 0, 0, 220),
        gpu: fc.boolean(),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({
        do: fc.constant('claim' as const),
        max: fc.integer({ min: 1, max: 3 }),
        leaseMs: fc.constantFrom(100, 250),
        gpu: fc.boolean(),
      }),
    },
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constantFrom('complete' as const, 'release' as const, 'extend' as const), lease: fc.nat(5) }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant('fail' as const),
        lease: fc.nat(5),
        retryable: fc.boolean(),
        delayMs: fc.constantFrom(0, 120),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({ do: fc.constantFrom('cancel' as const, 'requeue' as const), id: fc.integer({ min: 0, max: 11 }) }),
    },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('advance' as const), ms: fc.integer({ min: 1, max: 200 }) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('reopen' as const) }) },
  ),
  { minLength: 20, maxLength: 80, size: 'max' },
);

/** The queue and the model take the same steps and must say the same. */
class Pair {
  readonly #options: EmbeddedQueueOptions & { readonly clock: FakeClock };
  readonly #model: Model;
  readonly #leases: (Lease & { leaseMs: number })[] = [];
  queue: EmbeddedQueue;

  constructor(folder: string) {
    this.#options = { folder, clock: new FakeClock() };
    this.queue = EmbeddedQueue.open(this.#options);
    this.#model = new Model(this.#options.clock.now());
  }

  async run(all: readonly Step[]): Promise<void> {
    for (const step of all) {
      await this.#step(step);
      await this.#compare(step);
    }
  }

  async #step(step: Step): Promise<void> {
    const { queue } = this;
    const model = this.#model;
    switch (step.do) {
      case 'publish': {
        const { id, priority, delayMs, ttlMs, gpu } = step;
        const more = { ...(ttlMs > 0 && { deadline: model.now + ttlMs }), ...(gpu && { requires: ['gpu'] }) };
        const { duplicate } = await queue.publish(job(`${id}`, { priority, delayMs, attemptsMax: ATTEMPTS_MAX, ...more }));
        expect(duplicate).toBe(model.publish(`${id}`, step));
        return;
      }
      case 'claim':
        return this.#claim(step);
      case 'cancel': {
        const found = model.jobs.get(`${step.id}`);
        const isOpen = found?.state === 'queued' || found?.state === 'claimed';
        expect(await queue.cancel(`${step.id}`)).toBe(isOpen);
        if (found && isOpen) found.state = 'cancelled';
        return;
      }
      case 'requeue': {
        const found = model.jobs.get(`${step.id}`);
        expect(await queue.requeue(`${step.id}`)).toBe(found?.state === 'dead');
        if (found?.state === 'dead') Object.assign(found, { state: 'queued', attempts: 0, availableAt: 0, deadline: NEVER });
        return;
      }
      case 'advance':
        await this.#options.clock.advance(step.ms);
        return model.advance(step.ms);
      case 'reopen':
        return this.#reopen();
      default:
        return this.#use(step);
    }
  }

  async #claim(step: Extract<Step, { do: 'claim' }>): Promise<void> {
    const { max, leaseMs, gpu } = step;
    const jobs = await this.queue.claim({ workerId: 'w', max, leaseMs, capabilities: gpu ? ['gpu'] : [] });
    const expected = this.#model.claim(step);
    expect(jobs.map(({ id, attempt }) => [id, attempt])).toEqual(expected.map(({ id, attempts }) => [id, attempts + 1]));
    for (const { id, lease } of jobs) {
      const found = this.#model.jobs.get(id);
      if (found) Object.assign(found, { state: 'claimed', attempts: found.attempts + 1, token: lease.token });
      if (found) found.until = Math.min(this.#model.now + leaseMs, found.deadline);
      expect(lease.until).toBe(found?.until);
      this.#leases.push({ ...lease, leaseMs });
    }
  }

  /** A lease of any age. */
  async #use(step: Extract<Step, { readonly lease: number }>): Promise<void> {
    const lease = this.#leases.at(-1 - (step.lease % Math.max(1, this.#leases.length)));
    if (!lease) return;
    const found = this.#model.held(lease);
    const repeat = step.do === 'complete' && this.#model.jobs.get(lease.jobId)?.state === 'completed';
    const answer = await this.#ask(step, lease).catch((error: { readonly code: string }) => error.code);
    if (!found) {
      const isSame = repeat && this.#model.jobs.get(lease.jobId)?.token === lease.token;
      expect(answer).toBe(isSame ? undefined : 'LEASE_LOST');
      return;
    }
    switch (step.do) {
      case 'complete':
        found.state = 'completed';
        return;
      case 'release':
        found.attempts -= 1;
        return this.#model.again(found, 0);
      case 'extend':
        found.until = Math.min(this.#model.now + lease.leaseMs, found.deadline);
        return;
      case 'fail':
        if (step.retryable) this.#model.again(found, step.delayMs);
        else found.state = 'failed';
        expect(answer).toBe(found.state);
    }
  }

  async #ask(step: Extract<Step, { readonly lease: number }>, lease: Lease): Promise<unknown> {
    switch (step.do) {
      case 'complete':
        return this.queue.complete(lease, { body: Buffer.from(lease.token) });
      case 'release':
        return this.queue.release(lease);
      case 'extend':
        return (await this.queue.extend(lease)).until;
      case 'fail':
        return this.queue.fail(lease, { code: 'JOB_FAILED', message: 'no', retryable: step.retryable, delayMs: step.delayMs });
    }
  }

  async #reopen(): Promise<void> {
    await this.queue.close();
    this.queue = EmbeddedQueue.open(this.#options);
    for (const { jobId, token, leaseMs } of this.#leases) {
      const found = this.#model.held({ jobId, token, until: 0 });
      if (found) found.until = Math.min(this.#model.now + leaseMs, found.deadline);
    }
  }

  async #compare(step: Step): Promise<void> {
    const counts = { queued: 0, claimed: 0, completed: 0, failed: 0, dead: 0, expired: 0, cancelled: 0 };
    for (const each of this.#model.jobs.values()) {
      counts[each.state] += 1;
      const status = await this.queue.status(each.id);
      expect([step, each.id, status?.state, status?.attempts]).toEqual([step, each.id, each.state, each.attempts]);
      if (each.state === 'claimed') expect(status?.leaseUntil).toBe(each.until);
      if (each.state === 'completed')
        expect(Buffer.from((await this.queue.result(each.id)).body as Uint8Array).toString()).toBe(each.token);
    }
    expect((await this.queue.stats()).byState).toEqual(counts);
  }
}

it('does in any order of steps what a list would do', async () => {
  const root = temporary();
  let runs = 0;
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      runs += 1;
      const pair = new Pair(join(root, String(runs)));
      try {
        await pair.run(all);
      } finally {
        await pair.queue.close();
      }
    }),
    { numRuns: 30 },
  );
}, 60_000);
