import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../../test/support/temporary-folders.ts';
import { RunnerError } from '../errors.ts';
import { Metadata } from '../job/call.ts';
import type { JobCall } from '../job/call.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { EmbeddedQueue } from './embedded.ts';
import { FolderObjects } from './folder-objects.ts';
import { functionOfHeaders } from './function-job.ts';
import { QueueExecutor } from './queue-executor.ts';
import type { QueueExecutorOptions } from './queue-executor.ts';
import type { ClaimedJob, NewJob } from './queue.ts';
import { remoteExecutorOptions } from './remote-executor.ts';

const ZIP = Buffer.from('a package');
const answer = (text: string): Uint8Array => Buffer.from(JSON.stringify({ result_base64: Buffer.from(text).toString('base64') }));

class World {
  readonly clock = new FakeClock();
  readonly queue = EmbeddedQueue.open({ folder: ':memory:', clock: this.clock });
  readonly folder = temporaryFolder('queue-executor');
  readonly objects = new FolderObjects({ folder: join(this.folder, 'objects') });
  readonly artifact = join(this.folder, 'handler.zip');

  constructor() {
    mkdirSync(this.folder, { recursive: true });
    writeFileSync(this.artifact, ZIP);
  }

  executor(options: Partial<QueueExecutorOptions> = {}): QueueExecutor {
    const { queue, objects, artifact, clock } = this;
    return new QueueExecutor({ queue, objects, artifact, clock, ...options });
  }

  /** Another worker than the one before. */
  async claim(): Promise<ClaimedJob> {
    const [job] = await this.queue.claim({ workerId: 'w', waitMs: 60_000 });
    if (!job) throw new Error('there is no job');
    return job;
  }

  options(more: { readonly attempt?: number; readonly signal?: AbortSignal; readonly ms?: number } = {}) {
    const { attempt = 1, signal, ms = 60_000 } = more;
    return { deadline: this.clock.now() + ms, attempt, ...(signal && { signal }) };
  }
}

const call = (id = 'call-1', metadata = new Metadata()): JobCall => ({ id, jobId: 0n, body: Buffer.from('args'), metadata });
const textOf = (execution: { readonly results: readonly { readonly body: Uint8Array }[] }): string =>
  Buffer.from(execution.results[0]?.body ?? []).toString();

describe('QueueExecutor', () => {
  it('publishes the call under its id, with the function that is to run and its deadline', async () => {
    const world = new World();
    const options = world.options();
    const done = world.executor({ requires: ['gpu'], priority: 7, memoryMb: 128, environment: ['KEY'] }).invoke(call(), options);
    const [job] = await world.queue.claim({ workerId: 'w', capabilities: ['gpu'], waitMs: 60_000 });
    expect(job).toMatchObject({
      id: 'call-1',
      type: 'function',
      priority: 7,
      attemptsMax: 1,
      requires: ['gpu'],
      deadline: options.deadline,
    });
    const { name, code, settings } = functionOfHeaders(job?.headers ?? {});
    expect([name, settings.memoryMb, settings.environment]).toEqual(['jobs', 128, ['KEY']]);
    expect(code.kind === 'package' && Buffer.from(await world.objects.get(code.object))).toEqual(ZIP);
    expect(JSON.parse(Buffer.from(job?.payload as Uint8Array).toString())).toMatchObject({ args_base64: 'YXJncw==' });
    if (job) await world.queue.complete(job.lease, { body: answer('result') });
    expect(textOf(await done)).toBe('result');
  });

  it('gives a call that comes again, from another process and as another attempt, the result that is there', async () => {
    const world = new World();
    const first = world.executor().invoke(call(), world.options());
    const job = await world.claim();
    // The process that waits is gone; its successor comes while the job runs.
    const second = world.executor().invoke(call('call-1', new Metadata([['traceparent', '00-ab-cd-01']])), world.options({ attempt: 2 }));
    await world.queue.complete(job.lease, { body: answer('once') });
    expect([textOf(await first), textOf(await second)]).toEqual(['once', 'once']);
    expect(textOf(await world.executor().invoke(call(), world.options({ attempt: 3 })))).toBe('once');
    expect((await world.queue.stats()).totals).toMatchObject({ published: 1, claimed: 1 });
  });

  it('tells the error of the worker with what another attempt means, and then publishes anew', async () => {
    const world = new World();
    const executor = world.executor();
    const failed = executor.invoke(call(), world.options());
    await Promise.all([
      expect(failed).rejects.toMatchObject({ code: 'FUNCTION_CRASHED', message: 'exit code 1', retry: 'idempotent' }),
      world.claim().then(({ lease }) => world.queue.fail(lease, { code: 'FUNCTION_CRASHED', message: 'exit code 1' })),
    ]);
    const again = executor.invoke(call(), world.options({ attempt: 2 }));
    const job = await world.claim();
    expect(job.id).toBe('call-1~2');
    await world.queue.complete(job.lease, { body: answer('second') });
    expect(textOf(await again)).toBe('second');
  });

  it('tells an error that nobody was told yet, before it runs the call anew', async () => {
    const world = new World();
    await Promise.all([
      expect(world.executor().invoke(call(), world.options())).rejects.toMatchObject({ code: 'WORKER_LOST' }),
      // Its lease runs out.
      world.claim().then(() => world.clock.advance(31_000)),
    ]);
    const successor = world.executor();
    await expect(successor.invoke(call(), world.options())).rejects.toMatchObject({ code: 'WORKER_LOST', retry: 'idempotent' });
    const again = successor.invoke(call(), world.options());
    expect((await world.claim()).id).toBe('call-1~2');
    const job = await world.queue.status('call-1~2');
    expect(job).toMatchObject({ state: 'claimed' });
    await world.queue.cancel('call-1~2');
    await expect(again).rejects.toMatchObject({ code: 'ABORTED' });
  });

  it('says what the code of the job reports', async () => {
    const world = new World();
    const body = Buffer.from(JSON.stringify({ error: 'not today', code: 'JOB_REJECTED' }));
    await Promise.all([
      expect(world.executor().invoke(call(), world.options())).rejects.toMatchObject({ code: 'JOB_REJECTED', retry: 'never' }),
      world.claim().then(({ lease }) => world.queue.complete(lease, { body })),
    ]);
  });

  it('cancels the job of a call that is cancelled, and runs it anew when it comes again', async () => {
    const world = new World();
    const stop = new AbortController();
    await Promise.all([
      expect(world.executor().invoke(call(), world.options({ signal: stop.signal }))).rejects.toMatchObject({
        code: 'ABORTED',
        retry: 'idempotent',
      }),
      world.claim().then(() => stop.abort()),
    ]);
    expect(await world.queue.status('call-1')).toMatchObject({ state: 'cancelled' });
    const again = world.executor().invoke(call(), world.options());
    const job = await world.claim();
    expect(job.id).toBe('call-1~2');
    await world.queue.complete(job.lease, { body: answer('anew') });
    expect(textOf(await again)).toBe('anew');
  });

  it('ends at the deadline; safely when no worker had begun', async () => {
    const world = new World();
    await Promise.all([
      expect(world.executor().invoke(call('waits'), world.options({ ms: 5_000 }))).rejects.toMatchObject({
        code: 'EXECUTOR_TIMEOUT',
        retry: 'safe',
      }),
      world.clock.advance(7_000),
    ]);
    await Promise.all([
      expect(world.executor().invoke(call('runs'), world.options({ ms: 5_000 }))).rejects.toMatchObject({
        code: 'EXECUTOR_TIMEOUT',
        retry: 'idempotent',
      }),
      world.claim().then(() => world.clock.advance(7_000)),
    ]);
  });

  it('waits on while the queue cannot be reached', async () => {
    const world = new World();
    let failures = 3;
    const { queue } = world;
    const result = queue.result.bind(queue);
    queue.result = (id, options) =>
      (failures -= 1) >= 0 ? Promise.reject(new RunnerError('EXECUTOR_UNREACHABLE', 'nobody listens')) : result(id, options);
    const done = world.executor().invoke(call(), world.options());
    const job = await world.claim();
    await queue.complete(job.lease, { body: answer('late') });
    await world.clock.advance(5_000);
    expect(textOf(await done)).toBe('late');
  });

  it('publishes again, under the same id, while it is not known whether the job is there', async () => {
    const world = new World();
    const { queue } = world;
    const lost = new RunnerError('EXECUTOR_CONNECTION_LOST', 'the connection was lost');
    const away = new RunnerError('EXECUTOR_UNREACHABLE', 'nobody listens');
    const publish = queue.publish.bind(queue);
    const status = queue.status.bind(queue);
    // It is there, but nobody hears so; then the queue is away; then it cannot say in which state the job is.
    const ends = [(job: NewJob) => publish(job).then(() => Promise.reject(lost)), () => Promise.reject(away)];
    queue.publish = (job) => (ends.shift() ?? publish)(job);
    let failures = 1;
    queue.status = (id) => ((failures -= 1) >= 0 ? Promise.reject(away) : status(id));
    const done = world.executor().invoke(call(), world.options());
    const job = await world.claim();
    await queue.complete(job.lease, { body: answer('once') });
    await world.clock.advance(5_000);
    expect(textOf(await done)).toBe('once');
    expect((await queue.stats()).totals).toMatchObject({ published: 1, claimed: 1 });
  });

  it('ends at the deadline when it never learns whether the job is there: another may run the call only if that does no harm', async () => {
    const world = new World();
    world.queue.publish = () => Promise.reject(new RunnerError('EXECUTOR_CONNECTION_LOST', 'the connection was lost'));
    await Promise.all([
      expect(world.executor().invoke(call(), world.options({ ms: 5_000 }))).rejects.toMatchObject({
        code: 'EXECUTOR_TIMEOUT',
        retry: 'idempotent',
      }),
      world.clock.advance(7_000),
    ]);
  });

  it('says that a call did not run when its package could not be put', async () => {
    const world = new World();
    world.objects.keep = () => Promise.reject(new RunnerError('EXECUTOR_CONNECTION_LOST', 'the connection was lost'));
    await Promise.all([
      expect(world.executor().invoke(call(), world.options())).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'safe' }),
      world.clock.advance(60_000),
    ]);
  });

  describe('while the queue is away', () => {
    const nobody = (): Promise<never> => Promise.reject(new RunnerError('EXECUTOR_UNREACHABLE', 'nobody listens'));

    it('a call waits for it until its deadline, and may come again', async () => {
      const world = new World();
      world.queue.publish = nobody;
      let endedAt = 0;
      const done = world
        .executor()
        .invoke(call(), world.options({ ms: 60_000 }))
        .finally(() => (endedAt = world.clock.monotonic()));
      await Promise.all([expect(done).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'safe' }), world.clock.advance(60_000)]);
      expect(endedAt).toBeGreaterThan(58_000);
    });

    it('a call that has a fallback waits for five seconds', async () => {
      const world = new World();
      world.queue.publish = nobody;
      const done = world.executor().invoke(call(), { ...world.options(), hasFallback: true });
      await Promise.all([expect(done).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'safe' }), world.clock.advance(5_000)]);
    });

    it('a call that nobody has yet ends when it is cancelled, and with the executor', async () => {
      const world = new World();
      world.queue.publish = nobody;
      const executor = world.executor();
      const stop = new AbortController();
      await Promise.all([
        expect(executor.invoke(call(), world.options({ signal: stop.signal }))).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' }),
        world.clock.advance(2_000).then(() => stop.abort()),
      ]);
      await Promise.all([
        expect(executor.invoke(call(), world.options())).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED', retry: 'safe' }),
        world.clock.advance(2_000).then(() => executor.close()),
      ]);
    });

    it('a job is done, and its call has the result although its deadline has passed', async () => {
      const world = new World();
      const { queue } = world;
      const { status, result, cancel } = queue;
      queue.result = nobody;
      const done = world.executor().invoke(call(), world.options({ ms: 5_000 }));
      const { lease } = await world.claim();
      await queue.complete(lease, { body: answer('late') });
      let cancelled = 0;
      Object.assign(queue, { status: nobody, cancel: () => ((cancelled += 1), nobody()) });
      await Promise.all([expect(done).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'safe' }), world.clock.advance(7_000)]);
      Object.assign(queue, { status, result, cancel });
      expect(textOf(await world.executor().invoke(call(), world.options({ attempt: 2 })))).toBe('late');
      expect([cancelled, (await queue.stats()).totals]).toMatchObject([0, { published: 1, claimed: 1 }]);
    });

    it('no fallback takes a call whose job may be done', async () => {
      const world = new World();
      const done = world.executor().invoke(call(), { ...world.options({ ms: 5_000 }), hasFallback: true });
      await world.claim();
      Object.assign(world.queue, { status: nobody, result: nobody, cancel: nobody });
      await Promise.all([
        expect(done).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'idempotent' }),
        world.clock.advance(7_000),
      ]);
    });
  });

  it('leaves a job as it is when the program stops, and has its result after the next start', async () => {
    const world = new World();
    const stop = new AbortController();
    const first = world.executor().invoke(call(), world.options({ signal: stop.signal }));
    const { lease } = await world.claim();
    stop.abort(new RunnerError('EXECUTOR_CLOSED', 'the runner stops'));
    await expect(first).rejects.toMatchObject({ code: 'ABORTED' });
    await world.queue.complete(lease, { body: answer('kept') });
    expect(textOf(await world.executor().invoke(call(), world.options()))).toBe('kept');
    expect((await world.queue.stats()).totals).toMatchObject({ published: 1, claimed: 1 });
  });

  it('tells of a job that a worker had begun and did not end in time, before it runs the call anew', async () => {
    const world = new World();
    const options = world.options({ ms: 5_000 });
    const left = new AbortController();
    const first = world.executor().invoke(call(), { ...options, signal: left.signal });
    await world.claim();
    left.abort(new RunnerError('EXECUTOR_CLOSED', 'the runner stops'));
    await expect(first).rejects.toMatchObject({ code: 'ABORTED' });
    await world.clock.advance(31_000);
    expect(await world.queue.status('call-1')).toMatchObject({ state: 'expired', attempts: 1 });
    const executor = world.executor();
    await expect(executor.invoke(call(), world.options())).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'idempotent' });
    const again = executor.invoke(call(), world.options({ attempt: 2 }));
    const job = await world.claim();
    expect(job.id).toBe('call-1~2');
    await world.queue.complete(job.lease, { body: answer('anew') });
    expect(textOf(await again)).toBe('anew');
  });

  it('takes large arguments and results', async () => {
    const world = new World();
    const body = Buffer.alloc(3 * 1024 * 1024, 7);
    const done = world.executor().invoke({ ...call(), body }, world.options());
    const job = await world.claim();
    expect(job.payload).toMatchObject({ key: expect.any(String) as string });
    const large = await world.objects.put(answer('x'.repeat(2_000_000)));
    await world.queue.complete(job.lease, { body: large });
    expect(textOf(await done)).toHaveLength(2_000_000);
  });

  it('refuses settings and artifacts that are none', async () => {
    const world = new World();
    expect(() => world.executor({ memoryMb: 1 })).toThrow(/memoryMb/);
    const missing = world.executor({ artifact: join(world.folder, 'none.zip') });
    await expect(missing.invoke(call(), world.options())).rejects.toMatchObject({ code: 'CODE_MISSING', retry: 'safe' });
    await missing.close();
    await expect(missing.invoke(call(), world.options())).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED' });
  });
});

describe('the options of an executor by name', () => {
  it('are checked: a ticket, or an address with a token, and an artifact', () => {
    const ticket = { ticket: 'bprt1.x.y', artifact: 'a.zip' };
    expect(remoteExecutorOptions(ticket)).toEqual(ticket);
    const token = { url: 'http://127.0.0.1:3020', token: 't', artifact: 'a.zip', attemptsMax: 3 };
    expect(remoteExecutorOptions(token)).toEqual(token);
    const bad = [
      undefined,
      {},
      { artifact: 'a.zip' },
      { ...ticket, artifact: '' },
      { url: 'http://x', artifact: 'a.zip' },
      { ...ticket, ticket: 7 },
    ];
    for (const options of bad) expect(() => remoteExecutorOptions(options)).toThrow(/executor queue/);
    expect(() => remoteExecutorOptions({ ...ticket, tikcet: 'x' })).toThrow(/no option tikcet; there are ticket/);
  });
});
