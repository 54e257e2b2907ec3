/** Engines behind HTTP: which is asked, and when another one is. */

import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { WasmBackend } from '../../plugins/wasm/index.ts';
import { systemClock } from '../../src/clock.ts';
import { buildModule } from '../../src/deploy/assembly-script.ts';
import { Gateway } from '../../src/gateway/gateway.ts';
import { fingerprintOf } from '../../src/runtime/fingerprint.ts';
import type { FunctionVersion } from '../../src/runtime/runtime.ts';
import { EnginePool } from '../../src/engine/engine-pool.ts';
import type { EnginePoolOptions } from '../../src/engine/engine-pool.ts';
import type { EngineCallOptions } from '../../src/engine/engine.ts';
import { FakeEngine as Engine, reply } from '../support/engines.ts';
import { newFolder } from '../support/gateway.ts';

const parts = {
  name: 'hello',
  version: '$LATEST',
  code: { kind: 'folder', path: '/nowhere', sha256: 'a'.repeat(64) },
  layers: [],
  runtime: 'wasm',
  handler: 'handler.wasm',
  memoryMb: 128,
  timeoutMs: 5_000,
  ephemeralMb: 512,
  environment: {},
  concurrencyPerInstance: 1,
  network: 'none',
} as const;
const fn: FunctionVersion = { ...parts, fingerprint: fingerprintOf(parts) };

/** Whether engines are ready is asked only by `health`: a late answer changes the order. */
function poolOf(engines: readonly { readonly url: string }[], options: Partial<EnginePoolOptions> = {}): EnginePool {
  const urls = engines.map(({ url }) => url);
  const pool = new EnginePool({ urls, zipOf: async () => Buffer.from('zip'), probeMs: 3_600_000, ...options });
  onTestFinished(() => pool.close());
  return pool;
}

async function call(pool: EnginePool, options: EngineCallOptions = {}): Promise<string> {
  const { body } = await pool.invoke(fn, Buffer.from('{}'), options);
  return (JSON.parse(Buffer.from(body).toString()) as { from: string }).from;
}

/** On its port nobody listens any more. */
async function gone(): Promise<Engine> {
  const engine = await Engine.start();
  await engine.stop();
  return engine;
}

const times = <T>(count: number, make: (index: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: count }, (_, index) => make(index)));

describe('a pool of engines', () => {
  it('deploys a function once on each engine, and again on one that has lost it', async () => {
    const engines = [await Engine.start(), await Engine.start()];
    const pool = poolOf(engines);
    await times(20, () => call(pool));
    expect(engines.map(({ uploads, calls }) => [uploads, calls])).toEqual([
      [1, 10],
      [1, 10],
    ]);
    // Another pool finds what the first one has deployed.
    await times(4, () => call(poolOf(engines)));
    engines[0]?.deployed.clear();
    await times(2, () => call(pool));
    expect(engines[0]?.deployed.size).toBe(1);
  });

  it('sends calls of one affinity to one engine, and to another only while that is down', async () => {
    const engines = [await Engine.start(), await Engine.start(), await Engine.start()];
    const pool = poolOf(engines);
    const homes = await times(30, (index) => call(pool, { affinity: `flow-${index % 10}` }));
    for (let flow = 0; flow < 10; flow += 1) expect(new Set(homes.filter((_, index) => index % 10 === flow)).size).toBe(1);
    expect(new Set(homes).size).toBeGreaterThan(1);
    await engines.find(({ url }) => url === homes[0])?.stop();
    await pool.health();
    // Those of the other engines stay where they are.
    const after = [];
    for (let flow = 0; flow < 10; flow += 1) after.push(await call(pool, { affinity: `flow-${flow}` }));
    for (let flow = 0; flow < 10; flow += 1) {
      if (homes[flow] === homes[0]) expect(after[flow]).not.toBe(homes[0]);
      else expect(after[flow]).toBe(homes[flow]);
    }
  });

  it('asks another engine when one cannot be reached or refuses', async () => {
    const refusing = await Engine.start();
    refusing.invoke = (response) => reply(response, 429, { error: { code: 'QUEUE_FULL', message: 'full' } });
    const working = await Engine.start();
    let now = systemClock.now();
    const pool = poolOf([await gone(), refusing, working], { clock: { ...systemClock, now: () => now } });
    expect(new Set(await times(12, () => call(pool)))).toEqual(new Set([working.url]));
    expect(working.calls).toBe(12);
    // They are left alone for a while.
    const { calls } = refusing;
    expect(await call(pool)).toBe(working.url);
    expect(refusing.calls).toBe(calls);
    now += 60_000;
    expect(new Set(await times(4, () => call(pool)))).toEqual(new Set([working.url]));
    expect(refusing.calls).toBeGreaterThan(calls);
  });

  it('asks no other when the function may have been reached', async () => {
    const [breaking, other] = [await Engine.start(), await Engine.start()];
    for (const each of [breaking, other]) each.invoke = (response) => void response.destroy();
    await expect(call(poolOf([breaking, other]))).rejects.toMatchObject({ code: 'EXECUTOR_CONNECTION_LOST', retry: 'idempotent' });
    expect(breaking.calls + other.calls).toBe(1);
    const failing = await Engine.start();
    failing.invoke = (response) => reply(response, 502, { error: { code: 'FUNCTION_FAILED', message: 'it threw' } });
    await expect(call(poolOf([failing]))).rejects.toMatchObject({ code: 'FUNCTION_FAILED', message: 'it threw' });
    const proxy = await Engine.start();
    proxy.invoke = (response) => void response.writeHead(502).end('bad gateway');
    await expect(call(poolOf([proxy]))).rejects.toMatchObject({ code: 'EXECUTOR_RESPONSE_INVALID', retry: 'idempotent' });
    const proxies = [await Engine.start(), await Engine.start()];
    for (const each of proxies) each.invoke = (response) => void response.writeHead(503).end('unavailable');
    await expect(call(poolOf(proxies))).rejects.toMatchObject({ code: 'EXECUTOR_UNAVAILABLE', retry: 'idempotent' });
    expect(proxies.reduce((sum, { calls }) => sum + calls, 0)).toBe(1);
  });

  it('waits for an engine that takes no function no longer than the call has time, and until it is given up', async () => {
    const hanging = await Engine.start();
    hanging.takesForever = true;
    const pool = poolOf([hanging]);
    const startedAt = performance.now();
    await expect(call(pool, { deadline: Date.now() + 300 })).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'safe' });
    const cancel = new AbortController();
    const given = call(pool, { signal: cancel.signal });
    given.catch(() => {});
    cancel.abort();
    await expect(given).rejects.toMatchObject({ code: 'ABORTED', retry: 'safe' });
    await pool.close();
    expect(performance.now() - startedAt).toBeLessThan(20_000);
    expect([hanging.uploads, hanging.calls]).toEqual([1, 0]);
  });

  it('finds an engine that came back', async () => {
    const first = await Engine.start();
    const pool = poolOf([first]);
    await pool.health();
    await call(pool);
    await first.stop();
    await expect(pool.health()).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE' });
    const again = await Engine.start(Number(new URL(first.url).port));
    expect([await call(pool), again.uploads]).toEqual([again.url, 1]);
  });

  it('says that none can be reached, and refuses addresses that are none', async () => {
    const pool = poolOf([await gone(), await gone()]);
    await expect(call(pool)).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE', retry: 'safe' });
    await expect(call(poolOf([await Engine.start()]), { deadline: 1 })).rejects.toMatchObject({ code: 'EXECUTOR_TIMEOUT', retry: 'safe' });
    expect(() => poolOf([{ url: 'engine:1' }])).toThrow(/not the address of an engine/);
    expect(() => poolOf([])).toThrow(/no address/);
  });

  it('finds engines by name, and follows what the name stands for', async () => {
    const first = await Engine.start();
    const { port } = new URL(first.url);
    const second = await Engine.start(Number(port), '127.0.0.2');
    const asked: string[] = [];
    let addresses: readonly string[] = [];
    const pool = new EnginePool({
      urls: [`dns+http://engines.example:${port}`],
      resolve: async (host) => {
        asked.push(host);
        if (addresses.length === 0) throw new Error('ENOTFOUND');
        return addresses;
      },
      zipOf: async () => Buffer.from('zip'),
      probeMs: 20,
    });
    onTestFinished(() => pool.close());
    const urls = (): readonly string[] => pool.engines.map(({ url }) => url);
    await expect(call(pool)).rejects.toMatchObject({
      code: 'EXECUTOR_UNREACHABLE',
      retry: 'safe',
      message: `dns+http://engines.example:${port} cannot be resolved`,
    });
    await expect(pool.health()).rejects.toThrow(`no engine is ready: dns+http://engines.example:${port} cannot be resolved`);
    addresses = ['127.0.0.1'];
    expect(await call(pool)).toBe(first.url);
    addresses = ['127.0.0.2', '127.0.0.1'];
    await expect.poll(urls, { timeout: 60_000, interval: 5 }).toEqual([first.url, second.url]);
    expect(new Set(await times(8, () => call(pool)))).toEqual(new Set([first.url, second.url]));
    // What runs on one that is taken away ends there.
    const held: ServerResponse[] = [];
    first.invoke = second.invoke = (response) => void held.push(response);
    const running = times(2, () => call(pool));
    running.catch(() => {});
    await expect.poll(() => held.length, { timeout: 60_000, interval: 5 }).toBe(2);
    first.invoke = second.invoke = (response) => reply(response, 200, { from: 'later' });
    addresses = ['127.0.0.2'];
    await expect.poll(urls, { timeout: 60_000, interval: 5 }).toEqual([second.url]);
    const { calls } = first;
    await times(4, () => call(pool));
    expect([first.calls, second.deployed.size]).toEqual([calls, 1]);
    for (const response of held) reply(response, 200, { from: 'held' });
    expect(await running).toEqual(['held', 'held']);
    // While it cannot be resolved it stands for what it stood for.
    addresses = [];
    const before = asked.length;
    await expect.poll(() => asked.length, { timeout: 60_000, interval: 5 }).toBeGreaterThan(before + 1);
    expect([await call(pool), urls()]).toEqual(['later', [second.url]]);
    expect(new Set(asked)).toEqual(new Set(['engines.example']));
    for (const url of ['dns+http://engines.example', 'dns+https://engines.example:1', 'dns+http://a:b@engines.example:1'])
      expect(() => poolOf([{ url }])).toThrow(/write dns\+http:\/\/name:port/);
  });

  it('by name asks the system', async () => {
    const engine = await Engine.start();
    expect(await call(poolOf([{ url: `dns+${engine.url}` }]))).toBe(engine.url);
  });

  it('sends its token with everything, and removes versions that are over', async () => {
    const engine = await Engine.start();
    const pool = poolOf([engine], { token: 'secret' });
    await call(pool);
    expect(new Set(engine.tokens)).toEqual(new Set(['Bearer secret']));
    pool.retire('other', []);
    pool.retire('hello', [fn.fingerprint]);
    expect(engine.deployed.size).toBe(1);
    pool.retire('hello', []);
    await expect.poll(() => engine.deployed.size).toBe(0);
    expect(await call(pool)).toBe(engine.url);
  });

  it('runs modules on real engines, and goes on when one of them ends', async () => {
    const { bytes } = await buildModule(join(import.meta.dirname, '../../examples/wasm/hello.ts'), { kind: 'package' });
    const gateways = await times(2, async () => {
      const gateway = new Gateway({ folder: await newFolder(), backends: new Map([['wasm', new WasmBackend()]]) });
      onTestFinished(() => gateway.close(0));
      return { gateway, url: await gateway.listen({ port: 0 }) };
    });
    const pool = new EnginePool({ urls: gateways.map(({ url }) => url), zipOf: async () => bytes });
    onTestFinished(() => pool.close());
    const greet = async (name: string): Promise<string> =>
      Buffer.from((await pool.invoke(fn, Buffer.from(JSON.stringify({ name })))).body).toString();
    const names = Array.from({ length: 8 }, (_, index) => `Ada ${index}`);
    expect(await Promise.all(names.map(greet))).toEqual(names.map((name) => JSON.stringify({ greeting: `Hello, ${name}` })));
    await gateways[0]?.gateway.close(0);
    await pool.health();
    expect(await Promise.all(names.map(greet))).toEqual(names.map((name) => JSON.stringify({ greeting: `Hello, ${name}` })));
  });
});
