/** A control plane and workers of a benchmark on this machine: processes of their own, measured from outside, removed after it. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { RunnerError } from '../../errors.ts';

export interface FleetOptions {
  readonly workers: number;
  readonly concurrency: number;
  readonly backend: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly signal: AbortSignal;
}

/** Of processes and all that they started. */
export interface TreeUsage {
  readonly cpuSeconds: number;
  /** Shared pages divided among those that share them, where the system tells. */
  readonly memoryBytes: number;
}

const END_MS = 15_000;
/** Of `/proc/PID/stat`: USER_HZ is 100 on every Linux that node runs on. */
const TICKS = 100;
/** In each of them: it ends with us, however we end. The channel alone does not keep it. */
const LEASH = `data:text/javascript,${encodeURIComponent("process.once('disconnect', () => process.exit(1)); process.channel?.unref();")}`;
/** What children get of our surroundings: a bundle of certificates would slow each start. */
const PASSED = ['PATH', 'HOME', 'TMPDIR', 'DOCKER_HOST', 'BPR_WASM_URL', 'BPR_WASM_TOKEN'];

export class Fleet {
  /** Of the control plane, for commands. */
  readonly controlFolder: string;
  readonly #folder: string;
  readonly #options: FleetOptions;
  readonly #children: ChildProcess[] = [];
  #control: ChildProcess | undefined;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#folder = mkdtempSync(join(tmpdir(), 'bpr-saturate-'));
    this.controlFolder = join(this.#folder, 'control');
  }

  /** Resolves when all workers are ready. Rejects with `STATE_INVALID` when one of them ends. */
  async start(): Promise<void> {
    const { workers, concurrency, backend, signal } = this.#options;
    this.#control = await this.#spawn(['control-plane', '--port', '0', '--data', this.controlFolder, '--json'], 'listening');
    const ticket = join(this.controlFolder, 'endpoint.ticket');
    const flags = ['--ticket-file', ticket, '--concurrency', String(concurrency), '--backend', backend, '--json', '--drain-ms', '1000'];
    const starts = Array.from({ length: workers }, (_, index) =>
      this.#spawn(['worker', '--data', join(this.#folder, `w${index}`), ...flags], 'ready'),
    );
    const results = await Promise.allSettled(starts);
    const failed = results.find((one) => one.status === 'rejected');
    if (failed) throw failed.reason;
    signal.throwIfAborted();
  }

  usage(): { readonly control: TreeUsage; readonly workers: TreeUsage } {
    const control = this.#control?.pid ?? 0;
    const workers = this.#children.map(({ pid = 0 }) => pid).filter((pid) => pid !== control);
    return { control: treeUsage([control]), workers: treeUsage(workers) };
  }

  /** Ends the workers, then the control plane; removes what they wrote. */
  async close(): Promise<void> {
    const [control, ...workers] = this.#children;
    await Promise.all(workers.map(end));
    if (control) await end(control);
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** The process once it has told the event on a line of JSON. */
  async #spawn(args: readonly string[], event: string): Promise<ChildProcess> {
    const [entry = ''] = process.argv.slice(1);
    const passed = PASSED.flatMap((name) => (this.#options.env[name] === undefined ? [] : [[name, this.#options.env[name]]]));
    const env = { ...Object.fromEntries(passed), LOG_LEVEL: 'error', BPR_DATA_DIR: this.#folder } as Record<string, string>; // of pairs of text
    // A group of their own: Ctrl-C is for us, who end them in order.
    const child = spawn(process.execPath, [...process.execArgv, '--import', LEASH, entry, ...args], {
      env,
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      detached: true,
    });
    this.#children.push(child);
    let [stderr, failure] = ['', ''];
    child.stderr?.on('data', (text: Buffer) => (stderr = `${stderr}${text.toString()}`.slice(-2_000)));
    const told = Promise.withResolvers<void>();
    if (child.stdout)
      createInterface({ input: child.stdout }).on('line', (line) => {
        if (line.includes(`"event":"${event}"`)) told.resolve();
        // Who tells news as JSON tells this among them.
        if (line.startsWith('{"event":"error"')) failure = errorText(line);
      });
    const fail = (why: string): void =>
      told.reject(new RunnerError('STATE_INVALID', `bpr ${args[0]} ${why} before it was ${event}: ${failure || stderr.trim()}`));
    child.once('error', ({ message }) => fail(`could not be started (${message})`));
    // All that it said has come then.
    child.once('close', (code, signal) => fail(`ended with ${code ?? signal}`));
    const onAbort = (): void => told.reject(new RunnerError('ABORTED', 'the benchmark was ended before it began'));
    this.#options.signal.addEventListener('abort', onAbort, { once: true });
    try {
      await told.promise;
    } finally {
      this.#options.signal.removeEventListener('abort', onAbort);
    }
    return child;
  }
}

function errorText(line: string): string {
  const { code, message } = JSON.parse(line) as { readonly code: string; readonly message: string }; // as `printError` writes it
  return `${code}: ${message}`;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  const late = setTimeout(() => child.kill('SIGKILL'), END_MS);
  await ended;
  clearTimeout(late);
}

interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly cpuSeconds: number;
}

/** Nothing where there is no /proc. */
function treeUsage(roots: readonly number[]): TreeUsage {
  const processes = allProcesses();
  const pids = new Set(roots);
  // Parents have lower ids than their children, but ids begin anew: until nothing is added.
  for (let before = -1; before !== pids.size;) {
    before = pids.size;
    for (const { pid, parent } of processes) if (pids.has(parent)) pids.add(pid);
  }
  const own = processes.filter(({ pid }) => pids.has(pid));
  return {
    cpuSeconds: own.reduce((sum, { cpuSeconds }) => sum + cpuSeconds, 0),
    memoryBytes: own.reduce((sum, { pid }) => sum + memoryOf(pid), 0),
  };
}

function allProcesses(): Process[] {
  let names: string[];
  try {
    names = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  } catch {
    return [];
  }
  return names.flatMap((name) => {
    const stat = textOf(`/proc/${name}/stat`);
    // After the name of the program, which may hold anything.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields.length < 15) return [];
    // Its own time, and that of children that have ended.
    const ticks = [11, 12, 13, 14].reduce((sum, index) => sum + Number(fields[index]), 0);
    return [{ pid: Number(name), parent: Number(fields[1]), cpuSeconds: ticks / TICKS }];
  });
}

function memoryOf(pid: number): number {
  const shared = /^Pss: +(\d+) kB$/m.exec(textOf(`/proc/${pid}/smaps_rollup`))?.[1];
  const resident = /^VmRSS:\s+(\d+) kB$/m.exec(textOf(`/proc/${pid}/status`))?.[1];
  return Number(shared ?? resident ?? 0) * 1_024;
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
