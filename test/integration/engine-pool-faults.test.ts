/** Engines as processes of their own that are killed and come back while a worker has them run jobs. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, it } from 'vitest';
import { buildModule } from '../../src/deploy/assembly-script.ts';
import { EmbeddedQueue } from '../../src/queue/embedded.ts';
import { FolderObjects } from '../../src/queue/folder-objects.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import type { NewJob } from '../../src/queue/queue.ts';
import { createMetrics } from '../../src/telemetry/prometheus.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { EnginePool } from '../../src/engine/engine-pool.ts';
import { functionJobs } from '../../src/worker/function-jobs.ts';
import { Worker } from '../../src/worker/worker.ts';
import { BPR } from '../support/bpr.ts';
import { newFolder, onEnd } from '../support/gateway.ts';
import { reservedPort } from '../support/reserved-port.ts';

const WAIT = { timeout: 100_000, interval: 20 };

interface Engine {
  readonly url: string;
  kill(): Promise<void>;
}

/** `bpr wasm serve` with nothing of an earlier one but the port. */
async function startEngine(port?: string): Promise<Engine> {
  const flags = ['wasm', 'serve', '--port', port ?? String(await reservedPort()), '--data-dir', await newFolder(), '--json'];
  const child = spawn(process.execPath, [BPR, ...flags], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'close');
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await ended;
  };
  onEnd(kill);
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  return { url: String((JSON.parse(line) as { readonly url: string }).url), kill };
}

async function world(urls: readonly string[]) {
  const folder = await newFolder();
  const metrics = createMetrics();
  const telemetry = { ...silentTelemetry, metrics };
  const objects = new FolderObjects({ folder: join(folder, 'objects') });
  const { bytes: zip } = await buildModule(join(import.meta.dirname, '../../examples/wasm/hello.ts'), { kind: 'package' });
  const object = await objects.put(zip);
  const pool = new EnginePool({ urls, zipOf: async () => zip, probeMs: 200, telemetry });
  const { jobs, packages } = functionJobs({ target: pool, objects, folder: join(folder, 'packages') });
  const queue = EmbeddedQueue.open({ folder: join(folder, 'queue') });
  const worker = new Worker({ queue, workerId: 'w', handler: jobs, concurrency: 8 });
  onEnd(async () => {
    await worker.drain(10_000);
    await pool.close();
    packages.close();
    await queue.close();
  });
  worker.start();
  const settings = functionSettings({ runtime: 'wasm', handler: 'handler.wasm', timeoutMs: 20_000 });
  const headers = functionHeaders({ name: 'hello', settings, code: { kind: 'package', object } });
  let serial = 0;
  const publish = async (count: number, attemptsMax: number): Promise<string[]> => {
    const made: NewJob[] = Array.from({ length: count }, () => {
      const id = `job-${(serial += 1)}`;
      return { id, type: 'function', payload: Buffer.from(JSON.stringify({ name: id })), headers, attemptsMax };
    });
    return (await queue.publishMany(made)).map(({ id }) => id);
  };
  const ended = async (): Promise<number> => {
    const { byState } = await queue.stats();
    return byState.completed + byState.failed + byState.dead;
  };
  const metric = async (name: string): Promise<number> => {
    const line = (await metrics.expose()).split('\n').find((text) => text.startsWith(`blueprint_runner_worker_engine_${name} `));
    return Number(line?.split(' ').at(-1) ?? 0);
  };
  return { queue, publish, ended, metric };
}

it('engines are killed and come back under load: every job that may be tried again is completed, and an engine that is back is used', async () => {
  const engines = [await startEngine(), await startEngine(), await startEngine()];
  const { queue, publish, ended, metric } = await world(engines.map(({ url }) => url));
  const ids: string[] = [];
  for (const [round, engine] of engines.entries()) {
    const { url } = engine;
    ids.push(...(await publish(120, 5)));
    await expect.poll(ended, WAIT).toBeGreaterThan(240 * round + 20);
    await engine.kill();
    await expect.poll(() => metric(`up{engine="${url}"}`), WAIT).toBe(0);
    await expect.poll(ended, WAIT).toBe(240 * round + 120);
    const calls = `calls_total{engine="${url}",outcome="completed"}`;
    const before = await metric(calls);
    await startEngine(new URL(url).port);
    await expect.poll(() => metric(`up{engine="${url}"}`), WAIT).toBe(1);
    ids.push(...(await publish(120, 5)));
    await expect.poll(ended, WAIT).toBe(240 * (round + 1));
    expect(await metric(calls)).toBeGreaterThan(before);
  }
  expect((await queue.stats()).byState).toMatchObject({ completed: 720, failed: 0, dead: 0, queued: 0, claimed: 0 });
  for (const id of ids) {
    const { body } = await queue.result(id);
    expect(Buffer.from(body as Uint8Array).toString()).toBe(JSON.stringify({ greeting: `Hello, ${id}` }));
  }
}, 300_000);

it('of jobs that may begin once only those are lost that an engine had when it was killed', async () => {
  const engines = [await startEngine(), await startEngine()];
  const { queue, publish, ended } = await world(engines.map(({ url }) => url));
  const ids = await publish(200, 1);
  await expect.poll(ended, WAIT).toBeGreaterThan(20);
  await engines[0]?.kill();
  await expect.poll(ended, WAIT).toBe(200);
  const lost: (string | undefined)[] = [];
  for (const id of ids) {
    const status = await queue.status(id);
    if (status?.state !== 'completed') lost.push(status?.error?.code);
  }
  expect(lost.length).toBeLessThanOrEqual(8);
  expect(new Set(lost).size).toBeLessThanOrEqual(1);
  expect(lost.filter((code) => code !== 'EXECUTOR_CONNECTION_LOST')).toEqual([]);
});

it('while no engine is reached jobs wait, without an attempt, also those that may begin once only', async () => {
  const engine = await startEngine();
  const { queue, publish, ended, metric } = await world([engine.url]);
  await publish(4, 1);
  await expect.poll(ended, WAIT).toBe(4);
  await engine.kill();
  await expect.poll(() => metric(`up{engine="${engine.url}"}`), WAIT).toBe(0);
  const ids = await publish(20, 1);
  await expect.poll(() => metric(`calls_total{engine="${engine.url}",outcome="refused"}`), WAIT).toBeGreaterThan(20);
  for (const id of ids) expect((await queue.status(id))?.state).toMatch(/^(?:queued|claimed)$/);
  await startEngine(new URL(engine.url).port);
  await expect.poll(ended, WAIT).toBe(24);
  expect((await queue.stats()).byState).toMatchObject({ completed: 24, failed: 0, dead: 0 });
});
