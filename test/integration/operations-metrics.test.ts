/** What control plane and workers tell Prometheus, of processes of their own. */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { workerMetricsText } from '../../src/control/metrics.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { Metadata, QueueExecutor, RemoteQueue } from '../../src/index.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { createMetrics } from '../../src/telemetry/prometheus.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { requirePeer, runs } from '../require.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const UINT64 = parseParameters('uint64 x');
const testPromtool = requirePeer('promtool', () => runs('promtool', '--version'));
const JOBS = 5;
let artifact: string;

beforeAll(async () => {
  const entry = new URL('../fixtures/worker/jobs.ts', import.meta.url).pathname;
  artifact = (await buildHandler({ entry, outDir: temporaryFolder('operations') })).zipFile;
}, 240_000);

interface World {
  readonly ticket: string;
  readonly queue: RemoteQueue;
  /** What is told now. */
  scrape(): Promise<string>;
  /** The same, once it holds the text, or no longer does. */
  until(text: string, isThere?: boolean): Promise<string>;
}

async function world(): Promise<World> {
  const folder = temporaryFolder('operations');
  const metrics = createMetrics();
  const control = new ControlPlane({ folder, telemetry: { ...silentTelemetry, metrics }, metrics: () => metrics.expose() });
  const url = await control.listen({ port: 0 });
  onTestFinished(() => control.close(100));
  const { ticket } = await control.tickets.create({ uses: 10 });
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
  onTestFinished(() => queue.close());
  const headers = { authorization: `Bearer ${readFileSync(join(folder, 'metrics.token'), 'utf8').trim()}` };
  const scrape = async (): Promise<string> => (await fetch(`${url}/metrics`, { headers })).text();
  const until = async (text: string, isThere = true): Promise<string> => {
    for (;;) {
      const told = await scrape();
      if (told.includes(text) === isThere) return told;
    }
  };
  return { ticket, queue, scrape, until };
}

function startWorker(ticket: string): WorkerCommand {
  const command = new WorkerCommand(temporaryFolder('w'), { CONTROL_PLANE_TICKET: ticket }, ['--concurrency', '3']);
  onTestFinished(async () => {
    await command.kill();
  });
  return command;
}

async function runJobs(queue: RemoteQueue): Promise<void> {
  const executor = new QueueExecutor({ queue, objects: new RemoteObjects(queue.control), artifact });
  const one = (index: number) =>
    executor.invoke(
      { id: `call-${index}`, jobId: 0n, body: encodeAbi(UINT64, [BigInt(index)]), metadata: new Metadata() },
      { deadline: Date.now() + 60_000, attempt: 1 },
    );
  await Promise.all(Array.from({ length: JOBS }, (_, index) => one(index)));
  await executor.close();
}

function promtool(text: string): string {
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: text, encoding: 'utf8', timeout: 20_000 });
  return `${status} ${stdout}${stderr}`;
}

/** Of a control plane with a worker that has run jobs, and of the worker. */
async function both(): Promise<{
  readonly control: string;
  readonly worker: string;
  readonly id: string;
  readonly leave: () => Promise<string>;
}> {
  const { ticket, queue, until } = await world();
  const command = startWorker(ticket);
  const id = String((await command.until('enrolled'))['workerId']);
  await runJobs(queue);
  const control = await until(`blueprint_control_worker_jobs_total{outcome="completed",worker="${id}"} ${JOBS}`);
  const { health } = await command.until('started');
  const worker = await (await fetch(`${String(health)}/metrics`)).text();
  const leave = async (): Promise<string> => {
    expect(await command.kill('SIGTERM')).toBe(0);
    return until(id, false);
  };
  return { control, worker, id, leave };
}

describe('metrics of the control plane and its workers', () => {
  it('the control plane tells how many jobs of each type wait and are claimed, of 20 types and all others', async () => {
    const { queue, scrape } = await world();
    await queue.publishMany(Array.from({ length: 25 }, (_, index) => ({ type: `type-${index}`, payload: new Uint8Array() })));
    await queue.publishMany(Array.from({ length: 3 }, () => ({ type: 'many "quoted"', payload: new Uint8Array(), priority: 9 })));
    await queue.claim({ workerId: queue.workerId, max: 2 });
    const lines = (await scrape()).split('\n').filter((line) => line.startsWith('blueprint_queue_type_jobs{'));
    expect(lines).toHaveLength(42);
    expect(lines.slice(0, 2)).toEqual([
      'blueprint_queue_type_jobs{state="queued",type="many \\"quoted\\""} 1',
      'blueprint_queue_type_jobs{state="claimed",type="many \\"quoted\\""} 2',
    ]);
    expect(lines.slice(-2)).toEqual([
      'blueprint_queue_type_jobs{state="queued",type="other"} 6',
      'blueprint_queue_type_jobs{state="claimed",type="other"} 0',
    ]);
  });

  it('the control plane tells the figures of each worker, and of one that left nothing', async () => {
    const { control, worker, id, leave } = await both();
    const of = (name: string, labels = ''): number => {
      const line = control.split('\n').find((one) => one.startsWith(`blueprint_control_worker_${name}{${labels}worker="${id}"} `));
      return Number(line?.split(' ')[1]);
    };
    expect(of('concurrency')).toBe(3);
    expect(of('running')).toBe(0);
    expect(of('memory_bytes')).toBeGreaterThan(1_000_000);
    expect(of('cpu_seconds_total')).toBeGreaterThan(0);
    expect(of('job_duration_seconds_count')).toBe(JOBS);
    expect(of('job_duration_seconds_sum')).toBeGreaterThan(of('job_start_seconds_sum'));
    expect(of('last_seen_timestamp_seconds')).toBeGreaterThan(1_700_000_000);
    expect(of('step_seconds', 'step="first_job",')).toBeGreaterThan(of('step_seconds', 'step="ready",'));
    expect(control).toMatch(
      new RegExp(`^blueprint_control_worker_info\\{backend="process",name="[^"]+",state="ready",version="[^"]+",worker="${id}"\\} 1$`, 'm'),
    );
    expect(worker).toMatch(/^blueprint_runner_worker_job_run_seconds_count 5$/m);
    expect(worker).toMatch(/^blueprint_runner_worker_claim_duration_seconds_count [1-5]$/m);
    expect(worker).toMatch(/^blueprint_runner_worker_cpu_seconds_total [\d.]+$/m);
    expect(worker).toMatch(/^blueprint_runner_worker_step_seconds\{step="ready"\} [\d.]+$/m);
    expect(await leave()).toContain('blueprint_control_workers{presence="absent"} 1');
  }, 240_000);

  testPromtool(
    'both are as Prometheus wants them',
    async () => {
      const { control, worker } = await both();
      expect(promtool(control)).toBe('0 ');
      expect(promtool(worker)).toBe('0 ');
    },
    240_000,
  );

  it('a report with names that nobody knows is refused: each would be a series', async () => {
    const { queue } = await world();
    const report = (body: unknown) => queue.control.ask({ method: 'PUT', path: '/workers/self', body });
    await expect(report({ state: 'ready', jobs: { completed: 1, mine: 1 } })).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
    expect(await report({ state: 'ready', jobs: { completed: 1 } })).toEqual({});
  });

  it('the series stay few, whoever enrols', () => {
    const worker = (index: number) => ({ id: `w${index}`, tickets: [], enrolledAt: 0, isPresent: true, leases: 0 });
    const text = workerMetricsText(Array.from({ length: 1_005 }, (_, index) => worker(index)));
    expect(text.match(/^blueprint_control_worker_leases\{/gm)).toHaveLength(1_000);
    expect(text).toMatch(/^blueprint_control_workers_unlisted 5$/m);
  });
});
