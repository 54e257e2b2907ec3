/** CPU and memory of the control group that a worker runs in (cgroup v2), its functions included; without one, of its process. */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Metrics } from '../telemetry/telemetry.ts';

export interface Usage {
  readonly scope: 'cgroup' | 'process';
  readonly memoryBytes: number;
  /** Absent when there is no limit. */
  readonly memoryMaxBytes?: number;
  readonly cpuSeconds: number;
  /** Processors that may be used at the same time; absent when there is no limit. */
  readonly cpuMax?: number;
}

export interface UsageSources {
  /** Default `/sys/fs/cgroup`. */
  readonly cgroups?: string;
  /** Default: that of `/proc/self/cgroup`. */
  readonly path?: string;
}

/** Reads what is used now. */
export async function readUsage({ cgroups = '/sys/fs/cgroup', path }: UsageSources = {}): Promise<Usage> {
  const own = path ?? /^0::(\/.*)$/m.exec(await textOf('/proc/self/cgroup'))?.[1] ?? '/';
  const folder = join(cgroups, own);
  const [current, max, cpu, quota] = await Promise.all(
    ['memory.current', 'memory.max', 'cpu.stat', 'cpu.max'].map((file) => textOf(join(folder, file))),
  );
  const memoryBytes = Number(current?.trim());
  const micros = Number(/^usage_usec (\d+)$/m.exec(cpu ?? '')?.[1]);
  // The root group has no memory of its own: then everything on the machine would be counted.
  if (!current || !Number.isFinite(memoryBytes) || !Number.isFinite(micros)) {
    const { user, system } = process.cpuUsage();
    return { scope: 'process', memoryBytes: process.memoryUsage.rss(), cpuSeconds: (user + system) / 1e6 };
  }
  const memoryMaxBytes = Number(max?.trim());
  const [quotaMicros, periodMicros] = (quota ?? '').trim().split(' ').map(Number);
  const cpuMax = (quotaMicros ?? Number.NaN) / (periodMicros ?? Number.NaN);
  return {
    scope: 'cgroup',
    memoryBytes,
    ...(Number.isFinite(memoryMaxBytes) && { memoryMaxBytes }),
    cpuSeconds: micros / 1e6,
    ...(Number.isFinite(cpuMax) && { cpuMax }),
  };
}

/** Metrics of what is used; they are brought up to date by what is returned, when somebody looks. */
export function usageMetrics(metrics: Metrics, sources?: UsageSources): () => Promise<Usage> {
  const options = (name: string, help: string) => ({ name: `blueprint_runner_worker_${name}`, help });
  const memory = metrics.gauge(
    options('memory_bytes', 'Memory that the worker uses, its functions included where it has a control group.'),
  );
  const memoryMax = metrics.gauge(options('memory_max_bytes', 'Memory that it may use; 0: no limit.'));
  const cpu = metrics.counter(
    options('cpu_seconds_total', 'CPU time that the worker used, its functions included where it has a control group.'),
  );
  const cpuMax = metrics.gauge(options('cpu_max', 'Processors that it may use at the same time; 0: no limit.'));
  let told = 0;
  return async () => {
    const usage = await readUsage(sources);
    memory.set(usage.memoryBytes);
    memoryMax.set(usage.memoryMaxBytes ?? 0);
    // A group that was made anew counts from zero again.
    cpu.add(Math.max(0, usage.cpuSeconds - told));
    told = usage.cpuSeconds;
    cpuMax.set(usage.cpuMax ?? 0);
    return usage;
  };
}

/** Empty when it cannot be read. */
async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    return '';
  }
}
