import { describe, expect, it } from 'vitest';

import type { RunnerError } from '../errors.ts';
import { Metadata } from './call.ts';
import type { JobCall, JobResult } from './call.ts';
import { defineJob } from './job.ts';
import type { Job, JobInfo } from './job.ts';
import type { Middleware } from './middleware.ts';
import { JobRouter } from './router.ts';

const call = (jobId: bigint): JobCall => ({ id: `call-${jobId}`, jobId, body: new Uint8Array(), metadata: new Metadata() });
const says = (text: string): Job => defineJob({ raw: true, name: text }, () => text);
const fails = (text: string): Job =>
  defineJob({ raw: true, name: text }, () => {
    throw new Error(text);
  });
const silent = defineJob({ raw: true, name: 'silent' }, () => {});
const texts = (results: readonly JobResult[] | undefined): string[] | undefined =>
  results?.map((result) => Buffer.from(result.body).toString());
const ask = async (router: JobRouter, jobId: bigint): Promise<string[] | undefined> => texts(await router.call(call(jobId)));

/** Wraps every result in the mark. */
const mark =
  (text: string): Middleware =>
  (next) =>
  async (of, signal) => {
    const result = await next(of, signal);
    return result && { ...result, body: Buffer.from(`${text}(${Buffer.from(result.body).toString()})`) };
  };

describe('a route', () => {
  it('runs for calls of its id, and only for them', async () => {
    const router = new JobRouter().route(1, says('one')).route(2, says('two'));
    expect(await ask(router, 1n)).toEqual(['one']);
    expect(await ask(router, 2n)).toEqual(['two']);
  });

  it('takes every spelling of an id up to 2^256 - 1', async () => {
    const largest = 2n ** 256n - 1n;
    const router = new JobRouter().route('0x10', says('text')).route(Uint8Array.of(1, 0), says('bytes')).route(largest, says('bigint'));
    expect(router.jobIds()).toEqual([16n, 256n, largest]);
    expect(await ask(router, 256n)).toEqual(['bytes']);
    expect(await ask(router, largest)).toEqual(['bigint']);
    expect(() => router.route(-1, says('x'))).toThrow(expect.objectContaining({ code: 'JOB_ID_INVALID' }));
  });

  it('cannot be added twice for one id', () => {
    const router = new JobRouter().route(1, says('one'));
    expect(() => router.route('1', says('other'))).toThrow(
      expect.objectContaining({ code: 'JOB_DUPLICATE', message: 'job id 1 is routed to one already; it cannot be routed to other too' }),
    );
  });

  it('that gives no result takes the call all the same', async () => {
    expect(await ask(new JobRouter().route(1, silent), 1n)).toEqual([]);
  });

  it('that fails rejects the call', async () => {
    await expect(new JobRouter().route(1, fails('broken')).call(call(1n))).rejects.toMatchObject({
      code: 'JOB_FAILED',
      message: 'job broken failed on call call-1: broken',
    });
  });
});

describe('a call that nobody takes', () => {
  it('gives undefined', async () => {
    expect(await ask(new JobRouter(), 1n)).toBeUndefined();
    expect(await ask(new JobRouter().route(1, says('one')), 2n)).toBeUndefined();
  });
});

describe('an always job', () => {
  it('runs for every call, routed or not', async () => {
    const router = new JobRouter().route(1, says('one')).always(says('always'));
    expect(await ask(router, 1n)).toEqual(['one', 'always']);
    expect(await ask(router, 2n)).toEqual(['always']);
  });

  it('runs beside all others, and the result of the matching route comes first', async () => {
    const slow = defineJob({ raw: true }, async () => {
      await new Promise((resolve) => setImmediate(resolve));
      return 'slow route';
    });
    const router = new JobRouter().always(says('first')).route(1, slow).always(says('second'));
    expect(await ask(router, 1n)).toEqual(['slow route', 'first', 'second']);
  });

  it('removes the fallback', async () => {
    const router = new JobRouter().fallback(says('fallback')).always(silent);
    expect(await ask(router, 1n)).toEqual([]);
  });

  it('keeps a fallback from running that is added later', async () => {
    expect(await ask(new JobRouter().always(says('always')).fallback(says('fallback')), 1n)).toEqual(['always']);
  });

  it('does not count as a route', () => {
    expect(new JobRouter().always(silent).hasRoutes).toBe(false);
  });

  it('that fails does not spoil the answer; the listener hears of it', async () => {
    const heard: [RunnerError, string, string][] = [];
    const router = new JobRouter()
      .route(1, says('one'))
      .always(fails('watcher'))
      .onObserverError((error, job, of) => heard.push([error, job.name, of.id]));
    expect(await ask(router, 1n)).toEqual(['one']);
    expect(heard).toEqual([[expect.objectContaining({ code: 'JOB_FAILED' }), 'watcher', 'call-1']]);
  });

  it('that fails without a listener is a warning of the process', async () => {
    const warning = new Promise<Error>((resolve) => process.once('warning', resolve));
    expect(await ask(new JobRouter().route(1, says('one')).always(fails('watcher')), 1n)).toEqual(['one']);
    expect(await warning).toMatchObject({
      name: 'ObserverError',
      code: 'JOB_FAILED',
      message: expect.stringContaining('observer watcher failed on call call-1'),
    });
  });

  it('that fails is told to the listener of the call, too, and instead of the process', async () => {
    const heard: string[] = [];
    const warnings: Error[] = [];
    const onWarning = (warning: Error): void => void warnings.push(warning);
    process.on('warning', onWarning);
    const options = { onObserverError: (error: RunnerError, { name }: JobInfo) => void heard.push(`call: ${name} ${error.code}`) };
    const router = new JobRouter().route(1, says('one')).always(fails('watcher'));
    await router.call(call(1n), options);
    expect(heard).toEqual(['call: watcher JOB_FAILED']);
    await router.onObserverError((_, { name }) => heard.push(`router: ${name}`)).call(call(1n), options);
    expect(heard.slice(1)).toEqual(['router: watcher', 'call: watcher JOB_FAILED']);
    // Warnings are told in the next turn.
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
  });

  it.each<[string, () => void]>([
    [
      'throws',
      () => {
        throw new Error('no alert could be sent');
      },
    ],
    ['rejects', async () => Promise.reject(new Error('no alert could be sent'))],
  ])('that fails does not spoil the answer when its listener %s, too', async (_, broken) => {
    const warning = new Promise<Error>((resolve) => process.once('warning', resolve));
    const heard: string[] = [];
    const router = new JobRouter().route(1, says('one')).always(fails('watcher')).onObserverError(broken);
    const options = { onObserverError: (_: RunnerError, { name }: JobInfo) => void heard.push(name) };
    expect(await router.call(call(1n), options)).toMatchObject([{ body: Buffer.from('one') }]);
    expect(heard).toEqual(['watcher']);
    expect(await warning).toMatchObject({ name: 'ObserverError', message: expect.stringContaining('no alert could be sent') });
  });

  it('that fails beside a route without result leaves the call without result', async () => {
    const heard: string[] = [];
    const router = new JobRouter()
      .route(1, silent)
      .always(fails('watcher'))
      .onObserverError((_, job) => heard.push(job.name));
    expect(await ask(router, 1n)).toEqual([]);
    expect(heard).toEqual(['watcher']);
  });

  it('that fails rejects the call when nobody else answers it', async () => {
    const heard: string[] = [];
    const router = new JobRouter()
      .always(fails('first'))
      .always(fails('second'))
      .onObserverError((_, job) => heard.push(job.name));
    await expect(router.call(call(1n))).rejects.toMatchObject({ message: expect.stringContaining('job first failed') });
    expect(heard).toEqual(['second']);
  });

  it('runs although the route fails, and the call rejects with the error of the route', async () => {
    const heard: string[] = [];
    const seen: string[] = [];
    const watcher = defineJob({ raw: true, name: 'watcher' }, (_, { call: of }) => void seen.push(of.id));
    const router = new JobRouter()
      .route(1, fails('route'))
      .always(watcher)
      .always(fails('other'))
      .onObserverError((_, job) => heard.push(job.name));
    await expect(router.call(call(1n))).rejects.toMatchObject({ message: expect.stringContaining('job route failed') });
    expect(seen).toEqual(['call-1']);
    expect(heard).toEqual(['other']);
  });
});

describe('a fallback', () => {
  it('runs when no route matches', async () => {
    const router = new JobRouter().route(1, says('one')).fallback(says('fallback'));
    expect(await ask(router, 1n)).toEqual(['one']);
    expect(await ask(router, 9n)).toEqual(['fallback']);
  });

  it('replaces the one before', async () => {
    expect(await ask(new JobRouter().fallback(says('old')).fallback(says('new')), 1n)).toEqual(['new']);
  });

  it('does not count as a route', () => {
    const router = new JobRouter().fallback(silent);
    expect(router.hasRoutes).toBe(false);
    expect(router.route(1, silent).hasRoutes).toBe(true);
  });
});

describe('a layer', () => {
  it('wraps routes, always jobs and the fallback that are there', async () => {
    expect(await ask(new JobRouter().route(1, says('one')).always(says('always')).layer(mark('m')), 1n)).toEqual(['m(one)', 'm(always)']);
    expect(await ask(new JobRouter().fallback(says('fallback')).layer(mark('m')), 1n)).toEqual(['m(fallback)']);
  });

  it('does not wrap what is added after it', async () => {
    const router = new JobRouter().route(1, says('one')).layer(mark('m')).route(2, says('two')).always(says('always'));
    expect(await ask(router, 1n)).toEqual(['m(one)', 'always']);
    expect(await ask(router, 2n)).toEqual(['two', 'always']);
  });

  it('lies outside of those before it', async () => {
    expect(await ask(new JobRouter().route(1, says('one')).layer(mark('inner')).layer(mark('outer')), 1n)).toEqual(['outer(inner(one))']);
  });

  it('is composed once for each job, not for each call', async () => {
    const composed: string[] = [];
    const count: Middleware = (next, job) => {
      composed.push(job.name);
      return next;
    };
    const router = new JobRouter().route(1, says('one')).route(2, says('two')).layer(count);
    await ask(router, 1n);
    await ask(router, 1n);
    expect(composed).toEqual(['one', 'two']);
  });

  it('may answer without the job, throw, or pass on another call and signal', async () => {
    const seen: unknown[] = [];
    const job = defineJob({ raw: true }, (_, { call: of, signal }) => {
      seen.push(of.id, signal);
      return 'x';
    });
    const { signal } = new AbortController();
    await new JobRouter()
      .route(1, job)
      .layer((next) => (of) => next({ ...of, id: 'other' }, signal))
      .call(call(1n));
    expect(seen[0]).toBe('other');
    expect(seen[1]).toBe(signal);
    expect(
      await ask(
        new JobRouter().route(1, job).layer(() => () => undefined),
        1n,
      ),
    ).toEqual([]);
    const thrower: Middleware = () => () => {
      throw new Error('refused');
    };
    await expect(new JobRouter().route(1, job).layer(thrower).call(call(1n))).rejects.toThrow('refused');
    await expect(new JobRouter().always(job).layer(thrower).call(call(1n))).rejects.toThrow('refused');
    expect(seen).toHaveLength(2);
  });
});

describe('a context', () => {
  interface Database {
    readonly name: string;
  }
  const reads = defineJob({ raw: true, name: 'reads' }, (_, { context }: { readonly context: Database }) => context.name);

  it('reaches every job, inside of the layers, and jobs added later need none', async () => {
    const lacking = new JobRouter<Database>().route(1, reads).always(reads).layer(mark('m'));
    const main = lacking.withContext({ name: 'main' }).route(2, says('two'));
    const other = lacking.withContext({ name: 'other' });
    expect(await ask(main, 1n)).toEqual(['m(main)', 'm(main)']);
    expect(await ask(main, 2n)).toEqual(['two', 'm(main)']);
    expect(await ask(other, 1n)).toEqual(['m(other)', 'm(other)']);
    expect(other.jobIds()).toEqual([1n]);
    expect(await ask(new JobRouter<Database>().fallback(reads).withContext({ name: 'main' }), 9n)).toEqual(['main']);
  });

  it('does not undo what layers do, nor hides what jobs are', async () => {
    const router = new JobRouter<Database>().route(1, reads).withContext({ name: 'main' }).layer(mark('late'));
    expect(await ask(router, 1n)).toEqual(['late(main)']);
    expect(router.definition(1)?.name).toBe('reads');
  });

  it('keeps the listener', async () => {
    const heard: string[] = [];
    const router = new JobRouter<Database>()
      .route(1, reads)
      .always(fails('watcher'))
      .onObserverError((_, job) => heard.push(job.name))
      .withContext({ name: 'main' });
    await router.call(call(1n));
    expect(heard).toEqual(['watcher']);
  });
});

describe('the router tells', () => {
  it('its ids in the order they were added', () => {
    const router = new JobRouter().route(5, silent).route(1, silent);
    expect(router.jobIds()).toEqual([5n, 1n]);
  });

  it('what a job is', () => {
    const router = new JobRouter().route(
      5,
      defineJob({ name: 'square', params: 'uint64 x', result: 'uint64', idempotent: true, timeoutMs: 10 }, ([x]) => x),
    );
    expect(router.definition('5')).toMatchObject({ name: 'square', params: 'uint64 x', result: 'uint64', idempotent: true, timeoutMs: 10 });
    expect(router.definition(6)).toBeUndefined();
    expect(JSON.parse(JSON.stringify(router.describe()))).toEqual([
      { id: '5', name: 'square', params: 'uint64 x', result: 'uint64', raw: false, idempotent: true, timeoutMs: 10 },
    ]);
  });
});

describe('a signal', () => {
  it('reaches the handlers', async () => {
    const seen: AbortSignal[] = [];
    const job = defineJob({ raw: true }, (_, { signal }) => void seen.push(signal));
    const { signal } = new AbortController();
    await new JobRouter().route(1, job).always(job).call(call(1n), { signal });
    expect(seen).toHaveLength(2);
    expect(seen.every((each) => each === signal)).toBe(true);
  });

  it('is asked for when a job asks for it, and not before', async () => {
    let asked = 0;
    const source = {
      get signal() {
        asked += 1;
        return new AbortController().signal;
      },
    };
    const quiet = defineJob({ raw: true }, () => undefined);
    const router = new JobRouter().route(1, quiet).route(
      2,
      defineJob({ raw: true }, (_, { signal }) => String(signal.aborted)),
    );
    await router.call(call(1n), source);
    await router.withContext(undefined).call(call(1n), source);
    expect(asked).toBe(0);
    await router.call(call(2n), source);
    expect(asked).toBe(1);
  });
});
