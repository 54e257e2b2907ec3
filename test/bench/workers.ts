/** What benchmarks of workers start: a control plane and workers with engines of their own, as processes, and jobs that are WebAssembly modules. */

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { zipSync } from 'fflate';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import type { Headers } from '../../src/queue/queue.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { BPR } from '../support/bpr.ts';
import { wat } from '../support/wasm.ts';
import { WorkerCommand } from '../support/worker-command.ts';

/** Waits so long, as for an answer of somebody else. */
export const napping = (ms: number): Uint8Array =>
  wat(`(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i64.store (i32.const 124) (i64.const ${ms * 1_000_000}))
    (drop (call $poll (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 300)))))`);

/** Computes: so many turns of a loop. */
export const computing = (turns: number): Uint8Array =>
  wat(`(module (memory (export "memory") 1) (func (export "_start") (local $i i32)
    (loop $again
      (i32.store (i32.const 0) (i32.mul (i32.add (i32.load (i32.const 0)) (local.get $i)) (i32.const 1664525)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const ${turns}))))))`);

/** Takes memory until it gets no more, and then ends with an error. */
export const bursting = (): Uint8Array =>
  wat(`(module (memory (export "memory") 1) (func (export "_start") (local $at i32)
    (loop $again
      (local.set $at (memory.grow (i32.const 16)))
      (if (i32.ge_s (local.get $at) (i32.const 0)) (then
        (memory.fill (i32.mul (local.get $at) (i32.const 65536)) (i32.const 7) (i32.const 1048576))
        (br $again))))
    (unreachable)))`);

export interface JobKind {
  readonly headers: Headers;
  readonly requires: readonly string[];
}

export interface Load {
  /** Jobs under way at the same time. */
  readonly clients: number;
  readonly forMs: number;
}

/** Command words before a program, such as those that bind it to a processor. */
export const onProcessor = (number: number): readonly string[] => ['taskset', '-c', String(number)];

export function bindThisProcess(number: number): void {
  execFileSync('taskset', ['-a', '-c', '-p', String(number), String(process.pid)], { stdio: 'ignore' });
}

/** One control plane, and the workers that it is given. */
export class Workers {
  readonly folder: string;
  readonly workers: WorkerCommand[] = [];
  readonly queue: RemoteQueue;
  readonly #ticket: string;
  readonly #end: () => Promise<unknown>;
  #serial = 0;

  private constructor(queue: RemoteQueue, { folder, ticket, end }: { folder: string; ticket: string; end: () => Promise<unknown> }) {
    this.queue = queue;
    this.folder = folder;
    this.#ticket = ticket;
    this.#end = end;
  }

  static async start(through: readonly string[] = []): Promise<Workers> {
    const folder = mkdtempSync(join(tmpdir(), 'bw-'));
    const words = [...through, process.execPath, BPR, 'control-plane', '--port', '0', '--data', join(folder, 'c'), '--json'];
    const env = { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, LOG_LEVEL: 'error' };
    const control = spawn(words[0] ?? '', words.slice(1), { env, stdio: ['ignore', 'pipe', 'inherit'] });
    const ended = once(control, 'close');
    await once(createInterface({ input: control.stdout }), 'line');
    const ticket = readFileSync(join(folder, 'c', 'endpoint.ticket'), 'utf8');
    const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
    const end = (): Promise<unknown> => {
      control.kill('SIGKILL');
      return ended;
    };
    return new Workers(queue, { folder, ticket, end });
  }

  /** Ready when it resolves. */
  async add(name: string, flags: readonly string[], through: readonly string[] = []): Promise<WorkerCommand> {
    const all = ['--backend', 'wasm', '--lease-ms', '3000', ...flags];
    const worker = new WorkerCommand({ folder: join(this.folder, name), through }, { CONTROL_PLANE_TICKET: this.#ticket }, all);
    this.workers.push(worker);
    await worker.until('ready');
    return worker;
  }

  async kind(name: string, module: Uint8Array, requires: readonly string[]): Promise<JobKind> {
    const object = await new RemoteObjects(this.queue.control).keep(zipSync({ 'handler.wasm': module }, { mtime: '2026-01-01' }));
    const settings = functionSettings({ runtime: 'wasm', handler: 'handler.wasm', memoryMb: 128, timeoutMs: 30_000 });
    return { headers: functionHeaders({ name, code: { kind: 'package', object }, settings }), requires };
  }

  /** From publication to result, in milliseconds. Rejects when it failed. */
  async one({ headers, requires }: JobKind): Promise<number> {
    const startedAt = performance.now();
    const id = `job-${(this.#serial += 1)}`;
    await this.queue.publish({ id, type: 'function', payload: Buffer.from('{}'), headers, requires, attemptsMax: 1 });
    await this.queue.result(id);
    return performance.now() - startedAt;
  }

  /** One job after the other of each client, until the time is over. */
  async run(kind: JobKind, { clients, forMs }: Load): Promise<{ readonly latenciesMs: readonly number[]; readonly perSecond: number }> {
    const startedAt = performance.now();
    const latenciesMs: number[] = [];
    const client = async (): Promise<void> => {
      while (performance.now() - startedAt < forMs) latenciesMs.push(await this.one(kind));
    };
    await Promise.all(Array.from({ length: clients }, client));
    return { latenciesMs, perSecond: (latenciesMs.length * 1_000) / (performance.now() - startedAt) };
  }

  async end(): Promise<void> {
    for (const worker of this.workers) await worker.kill();
    await this.queue.close();
    await this.#end();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Prints one line and sets the exit code when the goal is missed. */
export function judge(name: string, value: number, goal: { readonly least: number } | { readonly most: number }): void {
  const isGood = 'least' in goal ? value >= goal.least : value <= goal.most;
  if (!isGood) process.exitCode = 1;
  const wanted = 'least' in goal ? `>= ${goal.least}` : `<= ${goal.most}`;
  console.log(`${name.padEnd(72)} ${value.toPrecision(3).padStart(6)}  goal ${wanted} ${isGood ? 'ok' : 'MISSED'}`);
}
