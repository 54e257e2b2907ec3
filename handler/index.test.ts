import { PassThrough } from 'node:stream';
import { describe, expect, test, vi } from 'vitest';
import { checkHandlerCase, handlerCases } from '../src/conformance/handler.ts';
import type { HandlerPlatform } from '../src/conformance/handler.ts';
import { conformanceRouter } from '../src/conformance/jobs.ts';
import { RunnerError } from '../src/errors.ts';
import { defineJob } from '../src/job/job.ts';
import { JobRouter } from '../src/job/router.ts';
import { createHandler, readBody } from './index.ts';
import type { HandlerResponse } from './index.ts';

const handler = createHandler(conformanceRouter());
const direct: HandlerPlatform = { offers: ['http', 'text', 'large'], send: (request) => handler.handle(request) };

describe('the cases that every platform passes', () => {
  test.each(handlerCases)('$name', async (handlerCase) => {
    await checkHandlerCase(handlerCase, direct);
  });
});

const octets = (jobId: string, headers: Readonly<Record<string, string>> = {}) => ({
  jobId,
  headers: { 'content-type': 'application/octet-stream', ...headers },
  body: new Uint8Array(),
});
const outcome = ({ status, body }: HandlerResponse): unknown => [
  status,
  (JSON.parse(Buffer.from(body).toString()) as { code?: unknown }).code,
];

/** Waits until its signal fires and tells why. */
function watcher(): { readonly router: JobRouter; readonly started: Promise<void>; readonly reason: Promise<unknown> } {
  const started = Promise.withResolvers<void>();
  const reason = Promise.withResolvers<unknown>();
  const job = defineJob({ name: 'watch', raw: true }, (_, { signal }) => {
    signal.addEventListener('abort', () => reason.resolve(signal.reason));
    started.resolve();
    return new Promise<Uint8Array>(() => {});
  });
  return { router: new JobRouter().route(0, job), started: started.promise, reason: reason.promise };
}

describe('deadlines and cancellation', () => {
  test.each([
    ['of the platform', '600000', 30],
    ['of the caller', '30', 600_000],
  ])('the earlier deadline counts: that %s', async (_, timeoutMs, deadlineMs) => {
    const { router, reason } = watcher();
    const response = await createHandler(router).handle({
      ...octets('0', { 'x-blueprint-timeout-ms': timeoutMs }),
      deadline: Date.now() + deadlineMs,
    });
    expect(outcome(response)).toEqual([504, 'EXECUTOR_TIMEOUT']);
    expect(await reason).toMatchObject({ code: 'EXECUTOR_TIMEOUT' });
  });

  test('a cancelled call is answered at once, and the job sees the reason', async () => {
    const { router, reason, started } = watcher();
    const cancellation = new AbortController();
    const response = createHandler(router).handle({ ...octets('0'), signal: cancellation.signal });
    await started;
    const gone = new RunnerError('ABORTED', 'the caller went away');
    cancellation.abort(gone);
    expect(outcome(await response)).toEqual([499, 'ABORTED']);
    expect(await reason).toBe(gone);
  });

  test('a call that is cancelled before it starts does not start', async () => {
    const run = vi.fn(() => new Uint8Array());
    const router = new JobRouter().route(0, defineJob({ name: 'run', raw: true }, run));
    const cancelled = AbortSignal.abort(new RunnerError('ABORTED', 'the handler is stopping'));
    expect(outcome(await createHandler(router).handle({ ...octets('0'), signal: cancelled }))).toEqual([499, 'ABORTED']);
    expect(outcome(await createHandler(router).handle({ ...octets('0'), deadline: Date.now() - 1 }))).toEqual([504, 'EXECUTOR_TIMEOUT']);
    expect(run).not.toHaveBeenCalled();
  });

  test('nothing is held after a call: no timer, no listener', async () => {
    vi.useFakeTimers();
    const outer = new AbortController();
    const removed = vi.spyOn(outer.signal, 'removeEventListener');
    const response = await handler.handle({ ...octets('2', { 'x-blueprint-timeout-ms': '5000' }), signal: outer.signal });
    expect([response.status, vi.getTimerCount(), removed.mock.calls.length]).toEqual([200, 0, 1]);
    vi.useRealTimers();
  });

  test('a deadline beyond what a timer can hold is no deadline', async () => {
    expect((await handler.handle({ ...octets('2', { 'x-blueprint-timeout-ms': '999999999999' }) })).status).toBe(200);
  });
});

describe('what is told besides the answer', () => {
  test('every answer names the wire formats', async () => {
    const responses = [
      await handler.handle(octets('2')),
      await handler.handle(octets('77')),
      handler.refuse(new RunnerError('INTERNAL', 'x')),
    ];
    expect(responses.map(({ headers }) => headers['x-blueprint-wire'])).toEqual(['v1,v2', 'v1,v2', 'v1,v2']);
  });

  test('a failed call is reported with its cause, a good one is not', async () => {
    const onError = vi.fn();
    const watched = createHandler(conformanceRouter(), { onError });
    await watched.handle(octets('2'));
    await watched.handle(octets('3', { 'x-blueprint-call-key': 'k' }));
    expect(onError.mock.calls).toEqual([
      [
        expect.objectContaining({ code: 'JOB_FAILED', cause: new Error('the oven is cold') }),
        expect.objectContaining({ id: 'k', jobId: 3n }),
      ],
    ]);
  });

  test('a job that watches every call and fails is reported, and the call is answered', async () => {
    const onObserverError = vi.fn();
    const onError = vi.fn();
    const watcher = defineJob({ name: 'watcher', raw: true }, () => {
      throw new Error('blind');
    });
    const router = new JobRouter()
      .route(
        2,
        defineJob({ name: 'echo', raw: true }, (body) => body),
      )
      .always(watcher);
    const response = await createHandler(router, { onError, onObserverError }).handle(octets('2', { 'x-blueprint-call-key': 'k' }));
    expect(response.status).toBe(200);
    expect(onObserverError.mock.calls).toEqual([
      [
        expect.objectContaining({ code: 'JOB_FAILED', cause: new Error('blind') }),
        expect.objectContaining({ name: 'watcher' }),
        expect.objectContaining({ id: 'k' }),
      ],
    ]);
    expect(onError).not.toHaveBeenCalled();
  });

  test('an unknown job is told with the known ones; the answer never holds a stack', async () => {
    const unknown = Buffer.from((await handler.handle(octets('77'))).body).toString();
    expect(unknown).toContain('no route takes job 77; the handler has 0, 1, 2,');
    expect(Buffer.from((await handler.handle(octets('3'))).body).toString()).not.toMatch(/\bat .*\.ts/);
  });

  test('only a refusal that nothing ran for invites to come again', () => {
    const retryAfter = (code: 'EXECUTOR_THROTTLED' | 'JOB_FAILED') => handler.refuse(new RunnerError(code, 'x')).headers['retry-after'];
    expect([retryAfter('EXECUTOR_THROTTLED'), retryAfter('JOB_FAILED')]).toEqual(['1', undefined]);
  });
});

describe('routes over HTTP', () => {
  const guarded = createHandler(conformanceRouter(), { token: 'secret-1' });
  const admit = (method: string, path: string, headers = {}) => handler.admit({ method, path, headers });

  test('calls', () => {
    expect([admit('POST', '/job/7'), admit('POST', '/'), admit('POST', '/invoke')]).toEqual([{ jobId: '7' }, {}, {}]);
  });

  test.each([
    ['GET', '/health'],
    ['GET', '/healthz'],
    ['HEAD', '/'],
    ['HEAD', '/job/1'],
  ])('%s %s is a health check, with a token or without', (method, path) => {
    for (const each of [handler, guarded]) {
      const answer = each.admit({ method, path, headers: {} });
      expect(answer).toMatchObject({ status: 200 });
      expect('body' in answer && JSON.parse(Buffer.from(answer.body).toString())).toMatchObject({
        status: 'ok',
        jobs: expect.arrayContaining(['0', '10']),
      });
    }
  });

  test.each([
    ['GET', '/job/7'],
    ['GET', '/'],
    ['DELETE', '/invoke'],
    ['POST', '/jobs/7'],
    ['POST', '/health'],
  ])('%s %s is not found', (method, path) => {
    expect(outcome(admit(method, path) as HandlerResponse)).toEqual([404, 'NOT_FOUND']);
  });

  test.each([undefined, '', 'Bearer', 'Bearer secret-2', 'bearer secret-1', 'Basic secret-1', 'secret-1', 'Bearer secret-1 '])(
    'the authorization %j is refused',
    (authorization) => {
      expect(outcome(guarded.admit({ method: 'POST', path: '/job/7', headers: { authorization } }) as HandlerResponse)).toEqual([
        401,
        'EXECUTOR_UNAUTHORIZED',
      ]);
    },
  );

  test('the right token is let through', () => {
    expect(guarded.admit({ method: 'POST', path: '/job/7', headers: { authorization: 'Bearer secret-1' } })).toEqual({ jobId: '7' });
  });
});

describe('reading a body', () => {
  test('up to the limit, one byte more is too large', async () => {
    const read = (chunks: readonly string[]) => {
      const stream = new PassThrough();
      for (const chunk of chunks) stream.write(chunk);
      stream.end();
      return readBody(stream, 4);
    };
    expect([await read(['ab', 'cd']), await read(['abcd']), await read([]), await read(['ab', 'cde'])]).toEqual([
      Buffer.from('abcd'),
      Buffer.from('abcd'),
      Buffer.alloc(0),
      'too-large',
    ]);
  });

  test('too large is told before the stream ends', async () => {
    const stream = new PassThrough();
    stream.write('abcde');
    expect(await readBody(stream, 4)).toBe('too-large');
  });

  test.each([undefined, new Error('reset')])('a stream that is destroyed (%s) is broken', async (error) => {
    const stream = new PassThrough();
    stream.on('error', () => {});
    const body = readBody(stream, 4);
    stream.write('ab');
    stream.destroy(error);
    expect(await body).toBe('broken');
  });
});
