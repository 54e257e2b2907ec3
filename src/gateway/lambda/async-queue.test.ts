import { copyFileSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zipSync } from 'fflate';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { RunnerError } from '../../errors.ts';
import type { FunctionVersion, Invocation } from '../../runtime/runtime.ts';
import { FunctionStore } from '../../runtime/store.ts';
import { StoreDatabase } from '../../runtime/store-database.ts';
import { createMetrics } from '../../telemetry/prometheus.ts';
import { silentTelemetry } from '../../telemetry/telemetry.ts';
import { FakeClock } from '../../testing/fake-clock.ts';
import type { AsyncQueueOptions } from './async-queue.ts';
import { AsyncQueue } from './async-queue.ts';
import { Destinations } from './destinations.ts';

const MINUTE = 60_000;
const PLACE = { region: 'us-east-1', accountId: '000000000000' };

let folder: string;
let clock: FakeClock;
let store: FunctionStore;
let queue: AsyncQueue;
let outcome: (fn: FunctionVersion, event: string, id: string) => Promise<string> | string;
/** Second of the clock, function, event. */
const ran: [number, string, string][] = [];

function open(options: Partial<AsyncQueueOptions> = {}): AsyncQueue {
  const runtime = {
    async invoke(fn: FunctionVersion, event: Uint8Array, { requestId = '' } = {}): Promise<Invocation> {
      const text = Buffer.from(event).toString('utf8');
      ran.push([(clock.now() - Date.UTC(2026, 0, 1)) / 1_000, fn.name, text]);
      const body = await outcome(fn, text, requestId);
      const report = { requestId, instanceId: 'i', coldStart: false, queueMs: 0, runMs: 1 };
      return { body: Buffer.from(body), contentType: 'application/json', report, logTail: new Uint8Array() };
    },
    stream: () => Promise.reject(new Error('no stream')),
    warm: () => Promise.resolve(),
    log: () => [],
  };
  return new AsyncQueue({
    store,
    runtimeOf: () => runtime,
    clock,
    telemetry: silentTelemetry,
    place: PLACE,
    path: join(folder, 'async.sqlite'),
    // Virtual time does not wait for the disk.
    sync: 'commit',
    destinations: new Destinations({ folders: [join(folder, 'out')], clock }),
    ...options,
  });
}

async function makeFunction(name: string, extra = {}): Promise<void> {
  await store.create({
    name,
    runtime: 'nodejs24.x',
    handler: 'a.b',
    code: { kind: 'zip', bytes: zipSync({ a: Buffer.from('a') }) },
    extra,
  });
}

function add(id: string, options: { name?: string; event?: string; depth?: number } = {}): Promise<void> {
  return queue.add({ id, name: options.name ?? 'f', event: Buffer.from(options.event ?? '{"a":1}'), depth: options.depth ?? 0 });
}

function fails(
  code: 'FUNCTION_FAILED' | 'EXECUTOR_THROTTLED' | 'EXECUTOR_CLOSED' | 'INSTANCE_START_FAILED' | 'ABORTED',
  body = '{"errorMessage":"m"}',
): Promise<string> {
  return Promise.reject(new RunnerError(code, 'x', { details: { body } }));
}

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'bpr-async-'));
  clock = new FakeClock();
  store = FunctionStore.open({ folder: join(folder, 'store'), clock });
  ran.length = 0;
  outcome = () => '{"ok":true}';
  await makeFunction('f');
  queue = open();
  queue.start();
});

afterEach(async () => {
  await queue.close();
  store.close();
  rmSync(folder, { recursive: true, force: true });
});

function told(path: string): Record<string, Record<string, unknown>>[] {
  return readdirSync(join(folder, 'out', path)).toSorted().map((name) => JSON.parse(readFileSync(join(folder, 'out', path, name), 'utf8')) as Record<string, Record<string, unknown>>); // prettier-ignore
}

/** Delivery is real I/O, which the clock does not wait for. */
async function settled(size = 0): Promise<void> {
  while (queue.size > size) await new Promise((resolve) => setImmediate(resolve));
}

describe('a queued call', () => {
  it('runs once and is gone', async () => {
    await add('1');
    await clock.advance(0);
    expect([ran, queue.size]).toEqual([[[0, 'f', '{"a":1}']], 0]);
  });

  it('that fails is tried again after one minute, then after two, then no more', async () => {
    outcome = () => fails('FUNCTION_FAILED');
    await add('1');
    await clock.advance(10 * MINUTE);
    expect([ran.map(([at]) => at), queue.size]).toEqual([[0, 60, 180], 0]);
  });

  it('is tried as often as its function says', async () => {
    store.attachments.putAsync({ name: 'f' }, { retriesMax: 0 });
    outcome = () => fails('FUNCTION_FAILED');
    await add('1');
    await clock.advance(10 * MINUTE);
    expect(ran).toHaveLength(1);
  });

  it('that was stopped in the middle has had an attempt', async () => {
    store.attachments.putAsync({ name: 'f' }, { retriesMax: 1, onFailure: `file://${folder}/out/failures` });
    outcome = () => fails('ABORTED');
    await add('1');
    await clock.advance(10 * MINUTE);
    await settled();
    expect(ran.map(([at]) => at)).toEqual([0, 60]);
    expect(told('failures')).toMatchObject([{ requestContext: { condition: 'RetriesExhausted', approximateInvokeCount: 2 } }]);
  });

  it('is not tried again when it would be too old', async () => {
    store.attachments.putAsync({ name: 'f' }, { ageMaxSeconds: 100, onFailure: `file://${folder}/out/old` });
    outcome = () => fails('FUNCTION_FAILED');
    await add('1');
    await clock.advance(10 * MINUTE);
    await settled();
    expect(ran.map(([at]) => at)).toEqual([0, 60]);
    expect(told('old')).toMatchObject([{ requestContext: { condition: 'EventAgeExceeded', approximateInvokeCount: 2 } }]);
  });

  it('that is throttled waits from one second, doubling up to five minutes, for six hours; none of it is an attempt', async () => {
    let throttled = true;
    outcome = () => (throttled ? fails('EXECUTOR_THROTTLED') : fails('FUNCTION_FAILED'));
    await add('1');
    await clock.advance(MINUTE);
    expect(ran.map(([at]) => at)).toEqual([0, 1, 3, 7, 15, 31]);
    await clock.advance(60 * MINUTE);
    const gaps = ran.map(([at], index) => at - (ran[index - 1]?.[0] ?? 0));
    expect(Math.max(...gaps)).toBe(300);
    throttled = false;
    const before = ran.length;
    await clock.advance(20 * MINUTE);
    expect(ran.length - before).toBe(3);
    throttled = true;
    await add('2');
    await clock.advance(7 * 60 * MINUTE);
    expect(queue.size).toBe(0);
    expect((ran.at(-1)?.[0] ?? 0) - (ran[before + 3]?.[0] ?? 0)).toBeLessThanOrEqual(6 * 3_600);
    expect((ran.at(-1)?.[0] ?? 0) - (ran[before + 3]?.[0] ?? 0)).toBeGreaterThan(6 * 3_600 - 301);
  });

  it('of a function that may not run at all is given up at once', async () => {
    store.attachments.putAsync({ name: 'f' }, { onFailure: `file://${folder}/out/zero` });
    store.setReserved('f', 0);
    await add('1');
    await clock.advance(0);
    await settled();
    expect(ran).toEqual([]);
    expect(told('zero')).toMatchObject([{ requestContext: { condition: 'ZeroReservedConcurrency' } }]);
  });

  it('of a function that is gone is given up', async () => {
    await add('1', { name: 'nobody' });
    await clock.advance(0);
    expect([ran, queue.size]).toEqual([[], 0]);
  });

  it('runs when its attempt is on disk, not before', async () => {
    const disk = Promise.withResolvers<void>();
    const synced = vi.spyOn(StoreDatabase.prototype, 'synced').mockReturnValueOnce(disk.promise);
    await add('1');
    await clock.advance(MINUTE);
    expect([ran.length, queue.size]).toEqual([0, 1]);
    disk.resolve();
    await clock.advance(0);
    expect([ran.length, queue.size]).toEqual([1, 0]);
    synced.mockRestore();
  });

  it('does not run when its attempt cannot be brought to disk; it does after the next start', async () => {
    const synced = vi.spyOn(StoreDatabase.prototype, 'synced').mockRejectedValueOnce(new RunnerError('STORE_FAILED', 'x'));
    await add('1');
    await clock.advance(MINUTE);
    expect([ran.length, queue.size]).toEqual([0, 1]);
    synced.mockRestore();
    await queue.close();
    queue = open();
    queue.start();
    await clock.advance(0);
    expect([ran.length, queue.size]).toEqual([1, 0]);
  });

  it('that ended while the disk was full is settled when there is room again, and does not run a second time', async () => {
    await makeFunction('told');
    store.attachments.putAsync({ name: 'f' }, { onSuccess: 'told' });
    const full = new RunnerError('STORE_FAILED', 'database or disk is full', { details: { sqliteCode: 13 } });
    const write = vi.spyOn(StoreDatabase.prototype, 'write');
    outcome = () => {
      // What it came to cannot be written, twice.
      if (ran.length === 1) write.mockRejectedValueOnce(full).mockRejectedValueOnce(full);
      return '{"ok":true}';
    };
    await add('1');
    await clock.advance(10);
    expect([ran.length, queue.size]).toEqual([1, 1]);
    await clock.advance(2_000);
    write.mockRestore();
    expect([ran.map(([, name]) => name), queue.size]).toEqual([['f', 'told'], 0]);
  });

  it('that is put off while the disk is full is counted once', async () => {
    await queue.close();
    const metrics = createMetrics();
    queue = open({ telemetry: { ...silentTelemetry, metrics } });
    queue.start();
    const write = vi.spyOn(StoreDatabase.prototype, 'write');
    outcome = () => {
      if (ran.length > 2) return '{"ok":true}';
      write.mockRejectedValueOnce(new RunnerError('STORE_FAILED', 'database or disk is full', { details: { sqliteCode: 13 } }));
      return fails(ran.length === 1 ? 'FUNCTION_FAILED' : 'EXECUTOR_THROTTLED');
    };
    await add('1');
    await clock.advance(2 * MINUTE);
    write.mockRestore();
    const text = await metrics.expose();
    for (const outcomeOf of ['retried', 'delayed']) expect(text).toMatch(new RegExp(`outcome="${outcomeOf}"\\} 1$`, 'm'));
  });

  it('waits for the disk beside the event loop', async () => {
    await queue.close();
    queue = open({ sync: 'background' });
    queue.start();
    await Promise.all(['1', '2', '3'].map((id) => add(id)));
    await settled();
    await queue.close();
    expect(ran).toHaveLength(3);
    queue = open();
    expect(queue.size).toBe(0);
  });

  it('is refused when too many wait', async () => {
    await queue.close();
    queue = open({ queuedMax: 2 });
    await add('1');
    await add('2');
    await expect(add('3')).rejects.toMatchObject({ code: 'QUEUE_FULL' });
    queue.start();
    await clock.advance(0);
    await add('4');
    await clock.advance(0);
    expect(ran).toHaveLength(3);
  });

  it('does not wait behind those of another function', async () => {
    await makeFunction('slow');
    await queue.close();
    queue = open({ runningMax: 4 });
    queue.start();
    const gate = Promise.withResolvers<string>();
    outcome = ({ name }) => (name === 'slow' ? gate.promise : '1');
    for (let call = 0; call < 10; call++) await add(`s${call}`, { name: 'slow' });
    await clock.advance(0);
    await add('1');
    await clock.advance(0);
    expect(ran.map(([, name]) => name)).toEqual(['slow', 'slow', 'f']);
    gate.resolve('1');
    await clock.advance(0);
    expect([ran.length, queue.size]).toEqual([11, 0]);
  });
});

describe('a restart', () => {
  it('goes on with what was queued and with what ran', async () => {
    const gate = Promise.withResolvers<string>();
    outcome = () => gate.promise;
    await queue.close();
    queue = open();
    await add('1', { event: '"one"' });
    await queue.close();
    queue = open();
    expect(queue.size).toBe(1);
    queue.start();
    await clock.advance(0);
    expect(ran).toEqual([[0, 'f', '"one"']]);
    gate.reject(new RunnerError('EXECUTOR_CLOSED', 'x'));
    await queue.close();
    outcome = () => '1';
    queue = open();
    queue.start();
    await clock.advance(2_000);
    expect([ran.length, queue.size]).toEqual([2, 0]);
  });

  it('of a process that was killed runs again what ran, as another attempt', async () => {
    store.attachments.putAsync({ name: 'f' }, { retriesMax: 1 });
    outcome = () => new Promise(() => {});
    await add('1');
    await clock.advance(0);
    // What a kill leaves: the files as they are now.
    for (const suffix of ['', '-wal']) copyFileSync(join(folder, `async.sqlite${suffix}`), join(folder, `killed.sqlite${suffix}`));
    outcome = () => fails('FUNCTION_FAILED');
    const next = open({ path: join(folder, 'killed.sqlite') });
    next.start();
    await clock.advance(10 * MINUTE);
    expect([ran.map(([at]) => at), next.size]).toEqual([[0, 0], 0]);
    await next.close();
    const closing = queue.close(5_000);
    await clock.advance(5_000);
    await closing;
  });

  it('that ends its process each time is given up', async () => {
    outcome = () => new Promise(() => {});
    await add('1');
    let path = 'async.sqlite';
    for (let life = 0; life < 6; life += 1) {
      await clock.advance(10 * MINUTE);
      const copy = `killed-${life}.sqlite`;
      for (const suffix of ['', '-wal']) copyFileSync(join(folder, `${path}${suffix}`), join(folder, `${copy}${suffix}`));
      const closing = queue.close(0);
      await clock.advance(0);
      await closing;
      path = copy;
      queue = open({ path: join(folder, path) });
      queue.start();
    }
    await clock.advance(0);
    expect([ran.length, queue.size]).toEqual([4, 0]);
  });

  it('runs at once when the clock was set back', async () => {
    outcome = () => fails('FUNCTION_FAILED');
    await add('1');
    await clock.advance(30_000);
    clock.jump(-24 * 60 * MINUTE);
    await clock.advance(6 * MINUTE);
    expect([ran.length, queue.size]).toEqual([3, 0]);
  });

  it('that the end of its process stopped runs again, also without retries', async () => {
    store.attachments.putAsync({ name: 'f' }, { retriesMax: 0 });
    const stopped = Promise.withResolvers<never>();
    outcome = () => stopped.promise;
    await add('1');
    await clock.advance(0);
    const closing = queue.close(5_000);
    stopped.reject(new RunnerError('ABORTED', 'the instance was stopped'));
    await closing;
    outcome = () => '1';
    queue = open();
    queue.start();
    await clock.advance(0);
    expect([ran.length, queue.size]).toEqual([2, 0]);
  });

  it('keeps the attempts that there were', async () => {
    outcome = () => fails('FUNCTION_FAILED');
    await add('1');
    await clock.advance(MINUTE);
    await queue.close();
    queue = open();
    queue.start();
    await clock.advance(10 * MINUTE);
    expect(ran.map(([at]) => at)).toEqual([0, 60, 180]);
  });
});

describe('what a call came to', () => {
  it('is told to a function, with the event and the answer', async () => {
    await makeFunction('after');
    store.attachments.putAsync({ name: 'f' }, { onSuccess: 'arn:aws:lambda:us-east-1:000000000000:function:after', onFailure: 'after' });
    await add('1');
    await clock.advance(0);
    const [, [, name, event]] = ran as [unknown, [number, string, string]];
    expect(name).toBe('after');
    expect(JSON.parse(event)).toEqual({
      version: '1.0',
      timestamp: '2026-01-01T00:00:00.000Z',
      requestContext: {
        requestId: '1',
        functionArn: 'arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST',
        condition: 'Success',
        approximateInvokeCount: 1,
      },
      requestPayload: { a: 1 },
      responseContext: { statusCode: 200, executedVersion: '$LATEST' },
      responsePayload: { ok: true },
    });
  });

  it('is told when all attempts failed, and the event goes to the dead letters', async () => {
    await makeFunction('dead', { DeadLetterConfig: { TargetArn: `file://${folder}/out/letters` } });
    store.attachments.putAsync({ name: 'dead' }, { onFailure: `file://${folder}/out/failures` });
    outcome = () => fails('FUNCTION_FAILED', '{"errorMessage":"m","errorType":"T"}');
    await add('1', { name: 'dead' });
    await clock.advance(10 * MINUTE);
    await settled();
    expect(told('failures')).toMatchObject([
      {
        requestContext: { condition: 'RetriesExhausted', approximateInvokeCount: 3 },
        responseContext: { statusCode: 200, functionError: 'Unhandled' },
        responsePayload: { errorMessage: 'm', errorType: 'T' },
      },
    ]);
    expect(told('letters')).toMatchObject([{ MessageAttributes: { RequestID: '1', ErrorCode: '200' }, Body: '{"a":1}' }]);
  });

  it('gives the event as it was to a function for dead letters', async () => {
    await makeFunction('dead', { DeadLetterConfig: { TargetArn: 'f' } });
    store.attachments.putAsync({ name: 'dead' }, { retriesMax: 0 });
    outcome = ({ name }) => (name === 'dead' ? fails('FUNCTION_FAILED') : '1');
    await add('1', { name: 'dead', event: '{"x":2}' });
    await clock.advance(0);
    expect(ran.at(-1)).toEqual([0, 'f', '{"x":2}']);
  });

  it('ends after three links of a chain', async () => {
    store.attachments.putAsync({ name: 'f' }, { onSuccess: 'f' });
    await add('1');
    await clock.advance(MINUTE);
    expect([ran.length, queue.size]).toEqual([4, 0]);
  });

  it('is sent to an address until it is taken, always under the same key', async () => {
    const got: [string, string | undefined][] = [];
    const server = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => (body += chunk.toString('utf8')));
      request.on('end', () => {
        got.push([body, String(request.headers['idempotency-key'])]);
        response.writeHead(got.length === 1 ? 503 : 204).end();
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const warned = Promise.withResolvers<void>();
    const log = { ...silentTelemetry.log, warn: () => warned.resolve() };
    await queue.close();
    queue = open({ telemetry: { ...silentTelemetry, log } });
    queue.start();
    store.attachments.putAsync({ name: 'f' }, { onSuccess: `http://127.0.0.1:${port}/hook` });
    await add('1');
    await clock.advance(0);
    // The time for an answer is virtual, the answer is real: time goes on when it is there.
    await warned.promise;
    await clock.advance(1_000);
    await settled();
    expect(got.map(([, key]) => key)).toEqual(['1-success', '1-success']);
    expect(JSON.parse(got[1]?.[0] ?? '')).toMatchObject({ requestPayload: { a: 1 } });
    await new Promise((resolve) => server.close(resolve));
  });

  it('is not written through a link out of the folders', async () => {
    const warned = Promise.withResolvers<unknown>();
    const log = {
      ...silentTelemetry.log,
      warn: (_: string, fields?: Readonly<Record<string, unknown>>) => warned.resolve(fields?.['reason']),
    };
    await queue.close();
    queue = open({ telemetry: { ...silentTelemetry, log } });
    queue.start();
    const outside = mkdtempSync(join(tmpdir(), 'bpr-outside-'));
    store.attachments.putAsync({ name: 'f' }, { onSuccess: `file://${folder}/out/in` });
    await add('1');
    await clock.advance(0);
    await settled();
    expect(told('in')).toHaveLength(1);
    symlinkSync(outside, join(folder, 'out', 'link'));
    store.attachments.putAsync({ name: 'f' }, { onSuccess: `file://${folder}/out/link/deep` });
    await add('2');
    await clock.advance(0);
    expect(await warned.promise).toContain('a link leads out');
    expect([readdirSync(outside, { recursive: true }), queue.size]).toEqual([[], 1]);
    rmSync(outside, { recursive: true });
  });
});
