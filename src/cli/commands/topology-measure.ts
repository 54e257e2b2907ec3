/** Measures the options of topologies: each is started here, runs jobs, and ends. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../clock.ts';
import { packFiles } from '../../deploy/zip.ts';
import { FUNCTION_JOB, functionHeaders, functionSettings } from '../../queue/function-job.ts';
import type { Headers } from '../../queue/queue.ts';
import { RemoteObjects } from '../../queue/remote-objects.ts';
import { RemoteQueue } from '../../queue/remote.ts';
import type { ClusterReport, PartReport } from '../../topology/cluster.ts';
import type { Measured, Measurements } from '../../topology/matrix.ts';
import { CAPABILITY, TOPOLOGY_OPTIONS, placesIn } from '../../topology/topology.ts';
import type { TopologyOption } from '../../topology/topology.ts';
import { enginePlace, openCluster } from './topology-cluster.ts';

const WORKERS = 2;
const WARM_JOBS = 50;
const GIB = 1024 ** 3;

/** `(module (memory (export "memory") 1) (func (export "_start")))`: what is measured is everything around it. */
const NOTHING = Buffer.from(
  '0061736d0100000001040160000003020100050301000107130206' + '6d656d6f72790200' + '065f737461727400000a040102000b',
  'hex',
);

export interface MeasureOptions {
  /** Which. Default: all. */
  readonly options?: readonly TopologyOption[];
  readonly signal: AbortSignal;
  readonly tell: (text: string) => void;
}

export async function measureTopologies({ options = TOPOLOGY_OPTIONS, signal, tell }: MeasureOptions): Promise<Measurements> {
  const measured: Partial<Record<TopologyOption, Measured>> = {};
  for (const option of options) {
    tell(`option ${option} ...`);
    measured[option] = await measure(option, signal);
  }
  const [first] = cpus();
  return {
    version: 1,
    at: new Date(systemClock.now()).toISOString(),
    machine: `${cpus().length} x ${first?.model ?? 'processor'}, ${Math.round(totalmem() / GIB)} GiB`,
    node: process.versions.node,
    workers: WORKERS,
    options: measured,
  };
}

async function measure(option: TopologyOption, signal: AbortSignal): Promise<Measured> {
  const folder = mkdtempSync(join(tmpdir(), 'bpr-tp-'));
  const cluster = await openCluster(folder);
  try {
    const startedAt = systemClock.monotonic();
    const settings = { port: 0, enginePort: 0, concurrency: 4, leaseMs: 30_000, logLevel: 'error', ...enginePlace(option) };
    const report = await cluster.up({ option, workers: WORKERS, ...settings }, { signal });
    const startMs = Math.round(systemClock.monotonic() - startedAt);
    const jobs = await runJobs(report, signal);
    return { startMs, ...jobs, ...memoryOf((await cluster.status())?.parts ?? []) };
  } finally {
    await cluster.down({ purge: true });
    rmSync(folder, { recursive: true, force: true });
  }
}

async function runJobs({ folder, controlUrl, option }: ClusterReport, signal: AbortSignal): Promise<Pick<Measured, 'coldMs' | 'warmMs'>> {
  const token = readFileSync(join(placesIn(folder).control, 'admin.token'), 'utf8').trim();
  const queue = await RemoteQueue.connect({ credentials: { url: controlUrl, token } }, signal);
  try {
    const zip = await packFiles({ 'handler.wasm': { data: NOTHING, mode: 0o644 } });
    const object = await new RemoteObjects(queue.control).keep(zip);
    const settings = functionSettings({ runtime: 'wasm', handler: 'handler.wasm', memoryMb: 128 });
    const headers = functionHeaders({ name: 'nothing', code: { kind: 'package', object }, settings });
    const one = (id: string): Promise<number> => timeOf(queue, { id, headers, option, signal });
    const coldMs = await one('cold');
    const times: number[] = [];
    for (let index = 0; index < WARM_JOBS; index += 1) times.push(await one(`warm-${index}`));
    // The first ones find workers and engines that have not run it yet.
    const settled = times.slice(WARM_JOBS / 5).toSorted((left, right) => left - right);
    return { coldMs: round(coldMs), warmMs: round(settled[Math.floor(settled.length / 2)] ?? 0) };
  } finally {
    await queue.close();
  }
}

interface TimedJob {
  readonly id: string;
  readonly headers: Headers;
  readonly option: TopologyOption;
  readonly signal: AbortSignal;
}

/** From publication to result. */
async function timeOf(queue: RemoteQueue, { id, headers, option, signal }: TimedJob): Promise<number> {
  const startedAt = systemClock.monotonic();
  const requires = option === 'hybrid' ? [CAPABILITY.engine] : [];
  await queue.publish({ id, type: FUNCTION_JOB, payload: Buffer.from('{}'), headers, requires });
  await queue.result(id, { signal });
  return systemClock.monotonic() - startedAt;
}

function memoryOf(parts: readonly PartReport[]): Pick<Measured, 'engineBytes' | 'workerBytes' | 'allBytes'> {
  const mean = (role: PartReport['role']): number => {
    const found = parts.filter((part) => part.role === role).map(({ memoryBytes = 0 }) => memoryBytes);
    return found.length === 0 ? 0 : Math.round(found.reduce((sum, bytes) => sum + bytes, 0) / found.length);
  };
  const workerBytes = mean('worker');
  const allBytes = parts.reduce((sum, { memoryBytes = 0 }) => sum + memoryBytes, 0);
  return { engineBytes: mean('engine') || workerBytes, workerBytes, allBytes };
}

const round = (ms: number): number => Math.round(ms * 100) / 100;
