import { describe, expect, it } from 'vitest';

import { RunnerError } from '../errors.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { Metadata } from './call.ts';
import type { JobCall } from './call.ts';
import { defineJob } from './job.ts';
import type { Job } from './job.ts';
import { concurrency, rate, timeout, trace, validate } from './middleware.ts';
import type { Middleware } from './middleware.ts';
import { JobRouter } from './router.ts';

const call = (id: string, jobId = 0n): JobCall => ({ id, jobId, body: new Uint8Array(), metadata: new Metadata() });
const router = (job: Job, ...layers: readonly Middleware[]): JobRouter =>
  layers.reduce((all, layer) => all.layer(layer), new JobRouter().route(0, job).route(1, job));
const instant = defineJob({ raw: true, name: 'instant' }, (_, { call: of }) => of.id);
/** A job whose calls end when the test says so. */
function held(): {
  readonly job: Job;
  readonly running: Map<string, { readonly signal: AbortSignal; resolve(text: string): void; reject(error: Error): void }>;
} {
  const running = new Map<string, { readonly signal: AbortSignal; resolve(text: string): void; reject(error: Error): void }>();
  const job = defineJob({ raw: true, name: 'held' }, (_, { call: of, signal }) => {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    running.set(of.id, { signal, resolve, reject });
    return promise.finally(() => running.delete(of.id));
  });
  return { job, running };
}
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('timeout', () => {
  it('lets a call of a limit of a month run', async () => {
    const { job, running } = held();
    const outcome = router(job, timeout(30 * 86_400_000)).call(call('a'));
    // Of two timers, the shorter one that was set first has fired by then.
    await new Promise((resolve) => setTimeout(resolve, 2));
    running.get('a')?.resolve('done');
    expect((await outcome)?.length).toBe(1);
  });

  it('ends a call with EXECUTOR_TIMEOUT and fires its signal', async () => {
    const clock = new FakeClock();
    const { job, running } = held();
    const outcome = router(job, timeout(100, clock)).call(call('a'));
    const failed = expect(outcome).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', details: { job: 'held', timeoutMs: 100, call: 'a' } });
    await clock.advance(99);
    const signal = running.get('a')?.signal;
    expect(signal?.aborted).toBe(false);
    await clock.advance(1);
    await failed;
    expect(signal?.reason).toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
  });

  it('leaves a call in time alone and forgets its timer', async () => {
    const clock = new FakeClock();
    const { job, running } = held();
    const outcome = router(job, timeout(100, clock)).call(call('a'));
    running.get('a')?.resolve('done');
    expect((await outcome)?.length).toBe(1);
    expect(clock.pending).toBe(0);
    const failing = router(job, timeout(100, clock)).call(call('b'));
    running.get('b')?.reject(new Error('broken'));
    await expect(failing).rejects.toMatchObject({ code: 'JOB_FAILED' });
    expect(clock.pending).toBe(0);
    expect((await router(instant, timeout(100, clock)).call(call('c')))?.length).toBe(1);
    expect(clock.pending).toBe(0);
  });

  it('passes on the signal of the caller', async () => {
    const { job, running } = held();
    const outer = new AbortController();
    const outcome = router(job, timeout(100, new FakeClock())).call(call('a'), { signal: outer.signal });
    outer.abort('enough');
    expect(running.get('a')?.signal.reason).toBe('enough');
    running.get('a')?.resolve('late');
    expect((await outcome)?.length).toBe(1);
    const before = router(job, timeout(100, new FakeClock())).call(call('b'), { signal: AbortSignal.abort('before') });
    expect(running.get('b')?.signal.reason).toBe('before');
    running.get('b')?.resolve('x');
    await before;
  });

  it('works with real time', async () => {
    await expect(router(held().job, timeout(5)).call(call('a'))).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
  });

  it('must be above 0', () => {
    expect(() => timeout(0)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID', message: 'timeoutMs is 0; it must be above 0' }));
  });
});

describe('concurrency', () => {
  it('runs no more than its number over all jobs, the others in their order', async () => {
    const { job, running } = held();
    const jobs = router(job, concurrency(2));
    const outcomes = ['a', 'b', 'c', 'd'].map((id, index) => jobs.call(call(id, BigInt(index % 2))));
    await turn();
    expect([...running.keys()]).toEqual(['a', 'b']);
    running.get('b')?.resolve('');
    await turn();
    expect([...running.keys()]).toEqual(['a', 'c']);
    running.get('a')?.reject(new Error('broken'));
    await expect(outcomes[0]).rejects.toMatchObject({ code: 'JOB_FAILED' });
    await turn();
    expect([...running.keys()]).toEqual(['c', 'd']);
    running.get('c')?.resolve('');
    running.get('d')?.resolve('');
    await Promise.all(outcomes.slice(1));
    const again = ['e', 'f', 'g'].map((id) => jobs.call(call(id)));
    await turn();
    expect([...running.keys()]).toEqual(['e', 'f']);
    for (const id of ['e', 'f']) running.get(id)?.resolve('');
    await turn();
    running.get('g')?.resolve('');
    await Promise.all(again);
  });

  it('refuses calls when too many wait', async () => {
    const { job, running } = held();
    const jobs = router(job, concurrency(1, { waitingMax: 1 }));
    const first = jobs.call(call('a'));
    const second = jobs.call(call('b'));
    await expect(jobs.call(call('c'))).rejects.toMatchObject({
      code: 'QUEUE_FULL',
      retry: 'safe',
      details: { job: 'held', max: 1, waitingMax: 1 },
    });
    running.get('a')?.resolve('');
    await first;
    await turn();
    running.get('b')?.resolve('');
    await second;
  });

  it('lets a waiting call go when its signal fires, without having run it', async () => {
    const { job, running } = held();
    const jobs = router(job, concurrency(1));
    const first = jobs.call(call('a'));
    const controller = new AbortController();
    const second = jobs.call(call('b'), { signal: controller.signal });
    const third = jobs.call(call('c'));
    controller.abort('enough');
    await expect(second).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe', cause: 'enough' });
    await expect(jobs.call(call('d'), { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' });
    running.get('a')?.resolve('');
    await first;
    await turn();
    expect([...running.keys()]).toEqual(['c']);
    running.get('c')?.resolve('');
    await third;
  });
});

describe('rate', () => {
  const ids = (count: number): string[] => Array.from({ length: count }, (_, index) => `${index}`);

  it('lets a burst start at once and then so many a second', async () => {
    const clock = new FakeClock();
    const started: string[] = [];
    const job = defineJob({ raw: true }, (_, { call: of }) => void started.push(of.id));
    const jobs = router(job, rate(10, { burst: 3, clock }));
    const all = Promise.all(ids(6).map((id) => jobs.call(call(id))));
    await clock.advance(0);
    expect(started).toEqual(['0', '1', '2']);
    await clock.advance(100);
    expect(started).toEqual(['0', '1', '2', '3']);
    await clock.advance(200);
    await all;
    expect(started).toEqual(ids(6));
    await clock.advance(10_000);
    await Promise.all(ids(3).map((id) => jobs.call(call(id))));
    expect(started).toHaveLength(9);
    const fourth = jobs.call(call('later'));
    await clock.advance(99);
    expect(started).toHaveLength(9);
    await clock.advance(1);
    await fourth;
    expect(started.at(-1)).toBe('later');
  });

  it('refuses a call that would wait too long, and says when to come again', async () => {
    const clock = new FakeClock();
    const jobs = router(instant, rate(1, { burst: 1, waitMsMax: 500, clock }));
    await jobs.call(call('a'));
    await expect(jobs.call(call('b'))).rejects.toMatchObject({
      code: 'EXECUTOR_THROTTLED',
      retry: 'safe',
      details: { retryAfterMs: 1_000 },
    });
    await clock.advance(600);
    const waited = jobs.call(call('c'));
    await clock.advance(400);
    expect((await waited)?.length).toBe(1);
  });

  it('lets a waiting call go when its signal fires', async () => {
    const clock = new FakeClock();
    const jobs = router(instant, rate(1, { burst: 1, clock }));
    await jobs.call(call('a'));
    const controller = new AbortController();
    const waiting = jobs.call(call('b'), { signal: controller.signal });
    controller.abort();
    await expect(waiting).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' });
    expect(clock.pending).toBe(0);
  });
});

describe('trace', () => {
  it('opens a span for every run and tells it of failures', async () => {
    const spans: unknown[] = [];
    const layer = trace((name, { attributes }) => {
      spans.push([name, attributes]);
      return { recordError: (error) => spans.push(error), end: () => spans.push('end') };
    });
    await router(instant, layer).call(call('a', 1n));
    const attributes = { 'job.id': '1', 'job.name': 'instant', 'call.id': 'a', 'call.bytes': 0 };
    expect(spans.splice(0)).toEqual([['job instant', attributes], 'end']);
    const mine = new RunnerError('JOB_REJECTED', 'no');
    const failing = defineJob({ name: 'failing' }, () => {
      throw mine;
    });
    await expect(router(failing, layer).call(call('b'))).rejects.toBe(mine);
    expect(spans.slice(1)).toEqual([mine, 'end']);
  });

  it('leaves the job as it is when nobody traces', () => {
    const next = (): undefined => undefined;
    expect(trace(undefined)(next, instant.info)).toBe(next);
  });
});

describe('validate', () => {
  it('refuses a call with the reason that the check gives', async () => {
    const jobs = router(
      instant,
      validate((of, job) => (of.id === 'bad' ? `${job.name} dislikes it` : undefined)),
    );
    expect((await jobs.call(call('good')))?.length).toBe(1);
    await expect(jobs.call(call('bad'))).rejects.toMatchObject({
      code: 'JOB_REJECTED',
      message: 'job instant refuses call bad: instant dislikes it',
    });
  });
});
