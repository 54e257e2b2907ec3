import { describe, expect, it } from 'vitest';
import { RunnerError } from '../errors.ts';
import { EmbeddedQueue } from '../queue/embedded.ts';
import type { ClaimedJob, NewJob, QueueResult, WorkQueue } from '../queue/queue.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import type { JobHandler } from './running-job.ts';
import { Worker } from './worker.ts';
import type { WorkerEvent, WorkerOptions } from './worker.ts';

const LEASE_MS = 30_000;

interface Call {
  readonly job: ClaimedJob;
  readonly signal: AbortSignal;
  readonly started: () => void;
  readonly resolve: (result: QueueResult) => void;
  readonly reject: (error: unknown) => void;
}

/** Jobs wait until the test says what becomes of them; one that is told to end does so, as instances do. */
class ManualHandler implements JobHandler {
  readonly calls: Call[] = [];

  run(job: ClaimedJob, { signal, started }: { readonly signal: AbortSignal; readonly started: () => void }): Promise<QueueResult> {
    const { promise, resolve, reject } = Promise.withResolvers<QueueResult>();
    this.calls.push({ job, signal, started, resolve, reject });
    signal.addEventListener('abort', () => reject(new RunnerError('ABORTED', 'ended')), { once: true });
    return promise;
  }

  call(id: string): Call {
    const found = this.calls.findLast(({ job }) => job.id === id);
    if (!found) throw new Error(`${id} was not run`);
    return found;
  }

  get ids(): string[] {
    return this.calls.map(({ job }) => job.id);
  }
}

const bytes = (text: string): Buffer => Buffer.from(text);

class World {
  readonly clock = new FakeClock();
  readonly queue = EmbeddedQueue.open({ folder: ':memory:', clock: this.clock });
  readonly handler = new ManualHandler();
  readonly events: WorkerEvent[] = [];
  /** What the worker sees of the queue; methods may be replaced. */
  readonly link: WorkQueue;
  readonly worker: Worker;

  constructor(options: Partial<WorkerOptions> = {}) {
    const { queue } = this;
    this.link = {
      name: queue.name,
      limits: queue.limits,
      publish: (job) => queue.publish(job),
      publishMany: (jobs) => queue.publishMany(jobs),
      claim: (claim) => queue.claim(claim),
      extend: (lease, ms) => queue.extend(lease, ms),
      complete: (lease, result) => queue.complete(lease, result),
      fail: (lease, failure) => queue.fail(lease, failure),
      release: (lease, given) => queue.release(lease, given),
      status: (id) => queue.status(id),
      result: (id, given) => queue.result(id, given),
      cancel: (id) => queue.cancel(id),
      deadLetters: (given) => queue.deadLetters(given),
      requeue: (id) => queue.requeue(id),
      discard: (id) => queue.discard(id),
      purge: (ms) => queue.purge(ms),
      stats: () => queue.stats(),
      close: () => queue.close(),
    };
    this.worker = new Worker({
      queue: this.link,
      workerId: 'w1',
      handler: this.handler,
      leaseMs: LEASE_MS,
      clock: this.clock,
      random: () => 0.5,
      onEvent: (event) => this.events.push(event),
      ...options,
    });
  }

  async publish(...jobs: (string | Partial<NewJob>)[]): Promise<void> {
    for (const job of jobs) {
      const given = typeof job === 'string' ? { id: job } : job;
      await this.queue.publish({ type: 'function', payload: bytes('event'), ...given });
    }
    await this.clock.settle();
  }

  async stateOf(id: string): Promise<string | undefined> {
    await this.clock.settle();
    return (await this.queue.status(id))?.state;
  }

  outcomeOf(id: string): string | undefined {
    return this.events.findLast((event) => event.kind === 'ended' && event.jobId === id)?.['outcome' as never];
  }
}

async function started(options: Partial<WorkerOptions> = {}): Promise<World> {
  const world = new World(options);
  world.worker.start();
  await world.clock.settle();
  return world;
}

const unreachable = (): Promise<never> => Promise.reject(new RunnerError('EXECUTOR_UNREACHABLE', 'nobody listens'));

describe('a worker', () => {
  it('runs as many jobs at the same time as it may, and more when one has ended', async () => {
    const world = new World({ concurrency: 2 });
    await world.publish('a', 'b', 'c');
    world.worker.start();
    await world.clock.settle();
    expect([world.worker.state, world.handler.ids]).toEqual(['ready', ['a', 'b']]);
    world.handler.call('a').resolve({ body: bytes('A') });
    await world.clock.settle();
    expect(world.handler.ids).toEqual(['a', 'b', 'c']);
    expect(world.worker.running).toBe(2);
    expect(await world.queue.result('a')).toEqual({ body: new Uint8Array(bytes('A')) });
  });

  it('asks for the next job with the report of the one before, and for no more when reports are not taken', async () => {
    const world = await started({ concurrency: 2 });
    const reports = Promise.withResolvers<void>();
    const { complete } = world.link;
    world.link.complete = async (lease, result) => {
      await reports.promise;
      await complete(lease, result);
    };
    await world.publish('a', 'b', 'c', 'd', 'e', 'f');
    for (const id of ['a', 'b', 'c', 'd']) {
      world.handler.call(id).resolve({ body: bytes(id) });
      await world.clock.settle();
    }
    expect([world.handler.ids, world.worker.running]).toEqual([['a', 'b', 'c', 'd'], 4]);
    expect(await world.stateOf('a')).toBe('claimed');
    reports.resolve();
    await world.clock.settle();
    expect([world.handler.ids, world.worker.running]).toEqual([['a', 'b', 'c', 'd', 'e', 'f'], 2]);
    expect(await world.stateOf('d')).toBe('completed');
  });

  it('takes no more jobs in its life than it is to', async () => {
    const world = await started({ jobsMax: 2 });
    await world.publish('a', 'b', 'c');
    for (const id of ['a', 'b']) world.handler.call(id).resolve({ body: bytes(id) });
    expect([await world.stateOf('b'), await world.stateOf('c')]).toEqual(['completed', 'queued']);
    expect([world.handler.ids, world.worker.state]).toEqual([['a', 'b'], 'ready']);
    await world.worker.drain(1_000);
    expect(world.worker.state).toBe('stopped');
  });

  it('gives a job back that nothing took, which uses up none of its attempts', async () => {
    const world = await started();
    await world.publish({ id: 'once', attemptsMax: 1 });
    for (const code of ['EXECUTOR_UNAVAILABLE', 'EXECUTOR_UNREACHABLE'] as const) {
      world.handler.call('once').reject(new RunnerError(code, 'no engine takes it'));
      expect(await world.stateOf('once')).toBe('queued');
      expect(world.outcomeOf('once')).toBe('released');
      await world.clock.advance(1_500);
    }
    world.handler.call('once').resolve({ body: bytes('done') });
    expect(await world.queue.result('once')).toEqual({ body: new Uint8Array(bytes('done')) });
    await world.publish({ id: 'reached', attemptsMax: 1 });
    world.handler.call('reached').reject(new RunnerError('EXECUTOR_UNAVAILABLE', 'perhaps it ran', { retry: 'idempotent' }));
    expect(await world.stateOf('reached')).toBe('dead');
  });

  it('extends leases while jobs run, so that nobody else gets them', async () => {
    const world = await started();
    await world.publish({ id: 'long', attemptsMax: 1 });
    await world.clock.advance(10 * LEASE_MS);
    expect(await world.stateOf('long')).toBe('claimed');
    world.handler.call('long').resolve({ body: bytes('done') });
    expect(await world.stateOf('long')).toBe('completed');
    expect(world.handler.ids).toEqual(['long']);
  });

  it('gets only jobs that it is capable of', async () => {
    const world = await started({ capabilities: ['gpu'] });
    await world.publish({ id: 'no', requires: ['tpu'] }, { id: 'yes', requires: ['gpu'] });
    expect(world.handler.ids).toEqual(['yes']);
  });

  it('says of each failure whether another attempt may succeed', async () => {
    const world = await started();
    await world.publish('retried', 'hopeless', { id: 'once', attemptsMax: 1 });
    world.handler.call('retried').reject(new RunnerError('FUNCTION_CRASHED', 'exit code 1'));
    world.handler.call('hopeless').reject(new RunnerError('PACKAGE_INVALID', 'no zip'));
    world.handler.call('once').reject(new RunnerError('FUNCTION_CRASHED', 'exit code 1'));
    expect(await world.stateOf('retried')).toBe('queued');
    expect(await world.stateOf('hopeless')).toBe('failed');
    expect(await world.stateOf('once')).toBe('dead');
    await world.clock.advance(120_000);
    expect(world.handler.ids.filter((id) => id === 'once')).toHaveLength(1);
    expect(world.handler.call('retried').job.attempt).toBe(2);
  });

  it('ends a poison job in the dead letter, with the reason of its last attempt', async () => {
    const world = await started();
    await world.publish({ id: 'poison', attemptsMax: 3 });
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      expect(world.handler.calls).toHaveLength(attempt);
      world.handler.call('poison').reject(new RunnerError('FUNCTION_OUT_OF_MEMORY', `attempt ${attempt}`));
      await world.clock.advance(10_000);
    }
    expect(await world.queue.deadLetters()).toMatchObject([
      { id: 'poison', attempts: 3, error: { code: 'FUNCTION_OUT_OF_MEMORY', message: 'attempt 3' } },
    ]);
    expect(world.handler.calls).toHaveLength(3);
  });

  it('cancels a job whose lease is lost, and reports nothing of it', async () => {
    const world = await started();
    let reports = 0;
    const report = (): Promise<never> => Promise.reject(new Error(`report ${(reports += 1)}`));
    Object.assign(world.link, { complete: report, fail: report, release: report });
    await world.publish('cancelled');
    await world.queue.cancel('cancelled');
    await world.clock.advance(LEASE_MS / 3);
    expect(world.handler.call('cancelled').signal.aborted).toBe(true);
    expect([world.outcomeOf('cancelled'), reports, world.worker.running]).toEqual(['lost', 0, 0]);
  });

  it('keeps a result while the queue cannot be reached, and delivers it afterwards', async () => {
    const world = await started();
    await world.publish('kept');
    const { claim, complete, extend } = world.link;
    world.link.claim = world.link.complete = world.link.extend = unreachable;
    world.handler.call('kept').resolve({ body: bytes('result') });
    await world.clock.advance(LEASE_MS / 2);
    expect([await world.stateOf('kept'), world.worker.running]).toEqual(['claimed', 1]);
    Object.assign(world.link, { claim, complete, extend });
    await world.clock.advance(5_000);
    expect([await world.stateOf('kept'), world.outcomeOf('kept')]).toEqual(['completed', 'completed']);
  });

  it('gives a kept result up when the lease was lost meanwhile', async () => {
    const world = await started();
    await world.publish({ id: 'late', attemptsMax: 1 });
    const { complete, extend } = world.link;
    world.link.claim = world.link.complete = world.link.extend = unreachable;
    world.handler.call('late').resolve({ body: bytes('result') });
    await world.clock.advance(LEASE_MS + 1_000);
    expect(await world.stateOf('late')).toBe('dead');
    Object.assign(world.link, { complete, extend });
    await world.clock.advance(6_000);
    expect([world.outcomeOf('late'), world.worker.running]).toEqual(['lost', 0]);
  });

  it('fails a job whose result is too large for the queue', async () => {
    const world = await started();
    await world.publish('large');
    world.handler.call('large').resolve({ body: new Uint8Array(2 * 1024 * 1024) });
    expect(await world.stateOf('large')).toBe('failed');
    expect(await world.queue.status('large')).toMatchObject({ error: { code: 'PAYLOAD_TOO_LARGE' } });
  });

  it('asks a queue that cannot be reached with growing pauses, and says when it is ready', async () => {
    const world = new World();
    let asked = 0;
    const { claim } = world.link;
    world.link.claim = () => ((asked += 1), unreachable());
    world.worker.start();
    await world.clock.advance(60_000);
    expect(asked).toBeGreaterThan(10);
    expect(asked).toBeLessThan(30);
    expect(world.worker.state).toBe('connecting');
    world.link.claim = claim;
    await world.clock.advance(5_000);
    expect(world.events.map(({ kind }) => kind)).toEqual(['ready']);
    world.link.claim = unreachable;
    await world.publish('wakes');
    expect(world.worker.state).toBe('connecting');
  });

  it('ends when the queue does not let it in', async () => {
    const world = new World();
    world.link.claim = () => Promise.reject(new RunnerError('TICKET_REVOKED', 'revoked'));
    world.worker.start();
    await expect(world.worker.ended).rejects.toMatchObject({ code: 'TICKET_REVOKED' });
    expect(world.worker.state).toBe('stopped');
  });
});

describe('a worker that drains', () => {
  it('claims no more at once, lets jobs end, and then is over', async () => {
    const world = await started({ concurrency: 2 });
    await world.publish('runs');
    world.handler.call('runs').started();
    const { claim } = world.link;
    let claims = 0;
    world.link.claim = (options) => ((claims += 1), claim(options));
    const drained = world.worker.drain(10_000);
    await world.publish('later');
    await world.clock.advance(5_000);
    expect([world.handler.ids, world.worker.state, claims]).toEqual([['runs'], 'draining', 0]);
    world.handler.call('runs').resolve({ body: bytes('in time') });
    expect(await drained).toEqual({ finished: 1, released: 0, broken: 0 });
    await world.worker.ended;
    expect([await world.stateOf('runs'), await world.stateOf('later'), claims]).toEqual(['completed', 'queued', 0]);
  });

  it('gives back what it has not begun, and at the deadline what has not ended', async () => {
    const world = await started();
    await world.publish('fetching', 'slow', { id: 'once', attemptsMax: 1 });
    world.handler.call('slow').started();
    world.handler.call('once').started();
    const drained = world.worker.drain(10_000);
    await world.clock.settle();
    expect([await world.stateOf('fetching'), await world.stateOf('slow')]).toEqual(['queued', 'claimed']);
    await world.clock.advance(10_000);
    expect(await drained).toEqual({ finished: 0, released: 2, broken: 1 });
    expect(await world.queue.status('slow')).toMatchObject({ state: 'queued', attempts: 0 });
    // It may have been reached, and may run once only.
    expect(await world.queue.status('once')).toMatchObject({ state: 'dead', error: { code: 'WORKER_LOST' } });
    expect([await world.stateOf('slow'), world.worker.state]).toEqual(['queued', 'stopped']);
  });

  it('gives back jobs that it was handed while it began to drain', async () => {
    const world = new World();
    await world.publish('handed');
    // The queue has given the job away when it hears that the claim was cancelled.
    let claims = 0;
    world.link.claim = async ({ signal, ...options }) => {
      claims += 1;
      await new Promise((resolve) => signal?.addEventListener('abort', resolve));
      return world.queue.claim(options);
    };
    world.worker.start();
    const drained = world.worker.drain(1_000);
    await world.clock.advance(1_000);
    expect(await drained).toEqual({ finished: 0, released: 1, broken: 0 });
    expect([world.handler.ids, claims]).toEqual([[], 1]);
    // Each `claimed` has its `ended`, and none comes after `draining`: this job has neither.
    const told = world.events.filter(({ kind }) => kind !== 'ready');
    expect(told).toMatchObject([{ kind: 'draining' }, { kind: 'returned', jobId: 'handed', outcome: 'released' }]);
    expect(await world.queue.status('handed')).toMatchObject({ state: 'queued', attempts: 0 });
  });
});
