import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { systemClock } from '../clock.ts';
import type { DeployProgress } from '../executor/deployer.ts';
import { Connections, parseTarget } from './connection.ts';
import { PlatformRequests } from './platform-requests.ts';
import { Waits } from './waits.ts';

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
});

/** Answers with these, and from then on with the last one. */
async function platform(...answers: readonly { readonly status: number; readonly retryAfter?: string }[]) {
  let asked = 0;
  const server = createServer((_, response) => {
    const { status, retryAfter } = answers[Math.min(asked, answers.length - 1)] ?? { status: 200 };
    asked += 1;
    response.writeHead(status, retryAfter === undefined ? {} : { 'retry-after': retryAfter }).end('{}');
  });
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const slept: number[] = [];
  const clock = { ...systemClock, sleep: async (ms: number) => void slept.push(ms) };
  const connections = new Connections({}, clock);
  closing.push(async () => {
    await connections.close();
    await new Promise((resolve) => server.close(resolve));
  });
  const target = parseTarget(`http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`);
  const waits = new Waits('Example');
  return { requests: new PlatformRequests(target, connections, { clock, timeoutMs: 5_000, waits }), waits, slept, asked: () => asked };
}

describe('a platform that throttles', () => {
  test('is waited for, as long as it says, and operations that run are told', async () => {
    const { requests, waits, slept } = await platform(
      { status: 429, retryAfter: '3' },
      { status: 503, retryAfter: '2' },
      { status: 429 },
      { status: 200 },
    );
    const told: DeployProgress[] = [];
    const others: DeployProgress[] = [];
    await waits.during('over', { onProgress: (one) => others.push(one) }, async () => {});
    const { status } = await waits.during('squaring', { onProgress: (one) => told.push(one) }, () =>
      requests.send({ method: 'PUT', path: '/functions/squaring?signature=secret' }),
    );
    expect(status).toBe(200);
    expect(slept).toEqual([3_000, 2_000, 4_000]);
    expect(told).toEqual(
      [3, 2, 4].map((seconds) => ({
        step: `Example throttles PUT /v1/functions/squaring: trying again in ${seconds} s`,
        function: 'squaring',
      })),
    );
    expect(others).toEqual([]);
  });

  test('for ever is PLATFORM_THROTTLED after five attempts', async () => {
    const { requests, slept, asked } = await platform({ status: 429 });
    await expect(requests.send({ method: 'GET', path: '/' })).rejects.toMatchObject({ code: 'PLATFORM_THROTTLED' });
    expect([asked(), slept]).toEqual([5, [1_000, 2_000, 4_000, 8_000]]);
  });

  test('an operation that fails is not told any more', async () => {
    const { requests, waits } = await platform({ status: 429, retryAfter: '1' }, { status: 200 });
    const told: DeployProgress[] = [];
    const failing = waits.during('squaring', { onProgress: (one) => told.push(one) }, () => Promise.reject(new Error('no')));
    await expect(failing).rejects.toThrow('no');
    await requests.send({ method: 'GET', path: '/' });
    expect(told).toEqual([]);
  });
});

test('a request that was lost on its way may have been carried out: only one that was not sent is safe to repeat', async () => {
  const server = createServer((request) => request.socket.destroy());
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
  const connections = new Connections({}, systemClock);
  closing.push(() => connections.close());
  const target = parseTarget(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  const requests = new PlatformRequests(target, connections, { clock: systemClock, timeoutMs: 20_000 });
  const request = { method: 'POST', path: '/invoke', once: true } as const;
  await expect(requests.send(request)).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE', retry: 'idempotent' });
  await new Promise((resolve) => server.close(resolve));
  await expect(requests.send(request)).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE', retry: 'safe' });
});
