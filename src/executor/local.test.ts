import { getEventListeners } from 'node:events';
import { expect, test } from 'vitest';
import { RunnerError } from '../errors.ts';
import { Metadata } from '../job/call.ts';
import type { JobCall, JobResult } from '../job/call.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import { LocalExecutor } from './local.ts';
import type { LocalRouter } from './local.ts';

const call: JobCall = { id: 'c', jobId: 7n, body: new Uint8Array([1, 2]), metadata: new Metadata() };
const result: JobResult = { body: new Uint8Array([3]), metadata: new Metadata() };

function executorOf(router: LocalRouter['call']): { executor: LocalExecutor; clock: FakeClock; deadline: number } {
  const clock = new FakeClock();
  return { executor: new LocalExecutor({ call: router }, { clock }), clock, deadline: clock.now() + 100 };
}

test('gives what the router gives', async () => {
  const { executor, deadline } = executorOf(async (seen) => (seen === call ? [result] : []));
  expect(await executor.invoke(call, { deadline, attempt: 1 })).toEqual({ results: [result] });
});

test('no route is JOB_UNKNOWN, no result is an empty list', async () => {
  const unknown = executorOf(async () => undefined);
  await expect(unknown.executor.invoke(call, { deadline: unknown.deadline, attempt: 1 })).rejects.toMatchObject({ code: 'JOB_UNKNOWN' });
  const empty = executorOf(async () => []);
  expect(await empty.executor.invoke(call, { deadline: empty.deadline, attempt: 1 })).toEqual({ results: [] });
});

test('errors of the router pass unchanged; anything else becomes JOB_FAILED', async () => {
  const mine = new RunnerError('JOB_ARGS_INVALID', 'bad');
  const first = executorOf(() => Promise.reject(mine));
  await expect(first.executor.invoke(call, { deadline: first.deadline, attempt: 1 })).rejects.toBe(mine);
  const other = executorOf(() => Promise.reject(new TypeError('oops')));
  await expect(other.executor.invoke(call, { deadline: other.deadline, attempt: 1 })).rejects.toMatchObject({
    code: 'JOB_FAILED',
    message: 'oops',
  });
});

test('the deadline rejects the call and fires the signal of the job, whenever the job asks for it', async () => {
  const signals: AbortSignal[] = [];
  const { executor, clock, deadline } = executorOf(async (_, options) => {
    signals.push(options.signal);
    await clock.sleep(200);
    signals.push(options.signal);
    return [result];
  });
  const outcome = expect(executor.invoke(call, { deadline, attempt: 1 })).rejects.toMatchObject({
    code: 'EXECUTOR_TIMEOUT',
    retry: 'idempotent',
  });
  await clock.advance(300);
  await outcome;
  expect(signals.map((signal) => signal.aborted)).toEqual([true, true]);
  expect(clock.pending).toBe(0);
});

test('a call whose deadline is over is not started', async () => {
  let runs = 0;
  const { executor, clock } = executorOf(async () => ((runs += 1), [result]));
  const late = executor.invoke(call, { deadline: clock.now(), attempt: 1 });
  await expect(late).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'safe' });
  expect(runs).toBe(0);
});

test('an abort rejects the call and fires the signal of the job', async () => {
  let inner: AbortSignal | undefined;
  const { executor, deadline } = executorOf((_, options) => {
    inner = options.signal;
    return new Promise(() => {});
  });
  const controller = new AbortController();
  const outcome = expect(executor.invoke(call, { deadline, attempt: 1, signal: controller.signal })).rejects.toMatchObject({
    code: 'ABORTED',
    retry: 'idempotent',
  });
  controller.abort();
  await outcome;
  expect(inner?.aborted).toBe(true);
  await expect(executor.invoke(call, { deadline, attempt: 1, signal: controller.signal })).rejects.toMatchObject({
    code: 'ABORTED',
    retry: 'safe',
  });
});

test('a call that ended leaves nothing on the signal of its caller', async () => {
  const { executor, deadline } = executorOf(async () => [result]);
  const { signal } = new AbortController();
  await executor.invoke(call, { deadline, attempt: 1, signal });
  expect(getEventListeners(signal, 'abort')).toEqual([]);
});

test('close waits for running calls and refuses new ones', async () => {
  let finish = (_: readonly JobResult[]): void => {};
  const { executor, clock, deadline } = executorOf(() => new Promise((resolve) => (finish = resolve)));
  const running = executor.invoke(call, { deadline, attempt: 1 });
  let closed = false;
  const closing = executor.close().then(() => (closed = true));
  await expect(executor.invoke(call, { deadline, attempt: 1 })).rejects.toMatchObject({ code: 'EXECUTOR_CLOSED' });
  await clock.settle();
  expect(closed).toBe(false);
  finish([result]);
  expect(await running).toEqual({ results: [result] });
  await closing;
  await executor.close();
});
