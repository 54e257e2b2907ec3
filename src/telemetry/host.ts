/** What the machine looks like, read from the system when somebody scrapes. */

import { readFile, statfs } from 'node:fs/promises';
import { cpus, freemem, totalmem } from 'node:os';

export interface HostReading {
  readonly uptimeSeconds: number;
  /** Busy share of all processors since the reading before, 0 to 1; since the start of the machine at the first. */
  readonly cpuRatio: number;
  readonly memoryUsedBytes: number;
  readonly memoryTotalBytes: number;
  readonly diskUsedBytes: number;
  readonly diskTotalBytes: number;
  /** Absent where the system does not tell. */
  readonly networkRxBytes?: number;
  readonly networkTxBytes?: number;
}

interface CpuTimes {
  readonly busy: number;
  readonly total: number;
}

/** A reader of this machine; it remembers the processor times of its last reading. */
export function createHostReader(): () => Promise<HostReading> {
  let before: CpuTimes = { busy: 0, total: 0 };
  return async () => {
    const now = cpuTimes();
    const elapsed = now.total - before.total;
    const cpuRatio = elapsed > 0 ? (now.busy - before.busy) / elapsed : 0;
    before = now;
    return { ...(await readHost()), cpuRatio };
  };
}

async function readHost(): Promise<Omit<HostReading, 'cpuRatio'>> {
  const [disk, network] = await Promise.all([statfs('.'), readFile('/proc/net/dev', 'utf8').catch(() => undefined)]);
  const memoryTotalBytes = totalmem();
  return {
    uptimeSeconds: process.uptime(),
    memoryUsedBytes: memoryTotalBytes - freemem(),
    memoryTotalBytes,
    diskUsedBytes: (disk.blocks - disk.bfree) * disk.bsize,
    diskTotalBytes: disk.blocks * disk.bsize,
    ...(network !== undefined && parseNetwork(network)),
  };
}

/** Sums of all interfaces but loopback from the text of `/proc/net/dev`. */
export function parseNetwork(text: string): { readonly networkRxBytes: number; readonly networkTxBytes: number } {
  let networkRxBytes = 0;
  let networkTxBytes = 0;
  for (const line of text.split('\n')) {
    const [, name, values] = /^\s*([^\s:]+):(.*)$/.exec(line) ?? [];
    if (name === undefined || name === 'lo' || values === undefined) continue;
    const columns = values.trim().split(/\s+/).map(Number);
    networkRxBytes += columns[0] ?? 0;
    networkTxBytes += columns[8] ?? 0;
  }
  return { networkRxBytes, networkTxBytes };
}

function cpuTimes(): CpuTimes {
  let busy = 0;
  let total = 0;
  for (const { times } of cpus()) {
    const all = times.user + times.nice + times.sys + times.idle + times.irq;
    total += all;
    busy += all - times.idle;
  }
  return { busy, total };
}
