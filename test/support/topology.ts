/** A topology that `bpr topology up` has started, and jobs for it. */

import { hash } from 'node:crypto';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import { main } from '../../src/cli/main.ts';
import { buildModule } from '../../src/deploy/assembly-script.ts';
import { RemoteQueue } from '../../src/index.ts';
import { FUNCTION_JOB, functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import type { ObjectReference, QueueStats } from '../../src/queue/queue.ts';
import type { ControlCredentials } from '../../src/queue/control-client.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import type { ClusterReport, PartReport, UpReport } from '../../src/topology/cluster.ts';

export interface Ran {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export async function bpr(...args: readonly string[]): Promise<Ran> {
  const out: Record<'stdout' | 'stderr', string> = { stdout: '', stderr: '' };
  const sink = (name: 'stdout' | 'stderr') => ({ write: (text: string) => void (out[name] += text) });
  const status = await main(args, { stdout: sink('stdout'), stderr: sink('stderr'), env: { LOG_LEVEL: 'error' }, cwd: tmpdir() });
  return { status, ...out };
}

/** Short: sockets lie in it. Removed at the end of the test, after everything in it has ended. */
export function topologyFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'tp-'));
  onTestFinished(async () => {
    await bpr('topology', 'down', '--data', folder);
    rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}

/** A module that squares a number, after as many milliseconds as it is told; the event is `{"x":3,"ms":100}`. */
export async function squaringModule(): Promise<Uint8Array> {
  const folder = mkdtempSync(join(tmpdir(), 'tp-wasm-'));
  const source = `import { jsonField } from 'blueprint';
    @external('wasi_snapshot_preview1', 'poll_oneoff') declare function poll(from: usize, to: usize, count: u32, at: usize): u32;
    function number(text: string, name: string): i64 {
      const field = jsonField(text, name);
      return field == null ? 0 : I64.parseInt(field);
    }
    export function handler(event: ArrayBuffer): ArrayBuffer {
      const text = String.UTF8.decode(event);
      const x = number(text, 'x');
      const ms = number(text, 'ms');
      const memory = changetype<usize>(new ArrayBuffer(128));
      store<u64>(memory, u64(ms) * 1000000, 24);
      if (ms > 0) poll(memory, memory + 48, 1, memory + 100);
      return String.UTF8.encode((x * x).toString());
    }`;
  try {
    writeFileSync(join(folder, 'square.ts'), source);
    return (await buildModule(join(folder, 'square.ts'), { kind: 'package' })).bytes;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Jobs {
  /** Jobs of 1 to this number. */
  readonly count: number;
  readonly ms: number;
  readonly prefix?: string;
  readonly requires?: readonly string[];
}

/** Publishes jobs of a module, and checks their results. */
export class SquaringJobs {
  readonly queue: RemoteQueue;
  readonly #object: ObjectReference;

  private constructor(queue: RemoteQueue, object: ObjectReference) {
    this.queue = queue;
    this.#object = object;
  }

  static async connect(credentials: ControlCredentials, module: Uint8Array): Promise<SquaringJobs> {
    const queue = await RemoteQueue.connect({ credentials });
    onTestFinished(() => queue.close());
    const object = await new RemoteObjects(queue.control).keep(module);
    expect(object.sha256).toBe(hash('sha256', module, 'hex'));
    return new SquaringJobs(queue, object);
  }

  /** Publishes jobs that may run more than once. */
  async publish({ count, ms, prefix = 'job', requires }: Jobs): Promise<readonly string[]> {
    const settings = functionSettings({ runtime: 'wasm', handler: 'handler.wasm', memoryMb: 128, timeoutMs: 60_000 });
    const headers = functionHeaders({ name: 'square', code: { kind: 'package', object: this.#object }, settings });
    const jobs = Array.from({ length: count }, (_, index) => ({
      id: `${prefix}-${index + 1}`,
      type: FUNCTION_JOB,
      payload: Buffer.from(JSON.stringify({ x: index + 1, ms })),
      headers,
      attemptsMax: 20,
      ...(requires && { requires }),
    }));
    await this.queue.publishMany(jobs);
    return jobs.map(({ id }) => id);
  }

  /** Waits for all results and checks them. */
  async done(ids: readonly string[]): Promise<void> {
    const results = await Promise.all(ids.map((id) => this.queue.result(id)));
    const numbers = results.map(({ body }) => Number(Buffer.from(body instanceof Uint8Array ? body : []).toString()));
    expect(numbers).toEqual(ids.map((_, index) => (index + 1) ** 2));
  }

  async until(condition: (stats: QueueStats) => boolean): Promise<void> {
    await expect.poll(async () => condition(await this.queue.stats()), { timeout: 120_000, interval: 20 }).toBe(true);
  }
}

export class TopologyWorld {
  readonly folder: string;
  readonly jobs: SquaringJobs;
  report: ClusterReport;

  private constructor(report: ClusterReport, jobs: SquaringJobs) {
    this.folder = report.folder;
    this.report = report;
    this.jobs = jobs;
  }

  static async up(module: Uint8Array, flags: readonly string[]): Promise<TopologyWorld> {
    const folder = topologyFolder();
    const report = await up(folder, flags);
    const token = readFileSync(join(folder, 'control', 'admin.token'), 'utf8').trim();
    return new TopologyWorld(report, await SquaringJobs.connect({ url: report.controlUrl, token }, module));
  }

  part(name: string): PartReport {
    const found = this.report.parts.find((part) => part.name === name);
    if (!found) throw new Error(`there is no part ${name}`);
    return found;
  }

  /** By force, as the machine does when memory is short. */
  kill(name: string, signal: NodeJS.Signals = 'SIGKILL'): void {
    process.kill(this.part(name).pid ?? 0, signal);
  }

  /** The id under which a worker has enrolled. */
  workerId(name: string): string {
    const [, id] = /\bworkerId ([0-9a-f]+)/.exec(readFileSync(this.part(name).log, 'utf8')) ?? [];
    if (id === undefined) throw new Error(`${name} has not enrolled`);
    return id;
  }

  async upAgain(flags: readonly string[]): Promise<UpReport> {
    const report = await up(this.folder, flags);
    this.report = report;
    return report;
  }

  /** Nothing of it is left but data. */
  async down(): Promise<void> {
    const before = await status(this.folder);
    const { status: code, stdout } = await bpr('topology', 'down', '--data', this.folder, '--json');
    const { ended } = JSON.parse(stdout) as { ended: string[] };
    expect([code, ended.toSorted()]).toEqual([0, this.report.parts.map(({ name }) => name).toSorted()]);
    expect(processesOf(this.folder)).toEqual([]);
    expect(await Promise.all(before.parts.map(({ port }) => isOpen(port)))).toEqual(before.parts.map(() => false));
    expect(await bpr('topology', 'status', '--data', this.folder, '--json')).toMatchObject({ status: 1 });
    expect(readdirSync(this.folder)).toContain('control');
    expect(readdirSync(this.folder)).not.toContain('topology.json');
  }
}

export async function up(folder: string, flags: readonly string[]): Promise<UpReport> {
  const ran = await bpr('topology', 'up', '--data', folder, '--json', ...flags);
  expect(ran).toMatchObject({ status: 0 });
  return JSON.parse(ran.stdout) as UpReport;
}

export async function status(folder: string): Promise<ClusterReport> {
  return JSON.parse((await bpr('topology', 'status', '--data', folder, '--json')).stdout) as ClusterReport;
}

/** Ids of processes that were started with something in this folder. */
export function processesOf(folder: string): readonly string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(`${folder}/`);
    } catch {
      // It has ended.
      return false;
    }
  });
}

function isOpen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
