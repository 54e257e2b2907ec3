/** A control plane, its workers and the runner that gives them jobs: processes that can be killed and started again. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startNode } from '../../examples/demo/processes.ts';
import type { NodeProcess } from '../../examples/demo/processes.ts';
import { BPR } from '../support/bpr.ts';
import { reservedPort } from '../support/reserved-port.ts';
import { WorkerCommand } from '../support/worker-command.ts';
import type { News } from '../support/worker-command.ts';

const RUNNER = fileURLToPath(new URL('../fixtures/prove/workers-runner.ts', import.meta.url));
const LEASE_MS = 3_000;
/** More than a worker gives its jobs to end. */
const END_MS_MAX = 60_000;

export interface FleetOptions {
  readonly folder: string;
  /** Jobs at a time, of each worker. */
  readonly concurrency: number;
  /** More flags of the control plane. */
  readonly controlFlags?: readonly string[];
}

export class Fleet {
  readonly #options: FleetOptions;
  readonly #ticketFile: string;
  readonly #workers: (WorkerCommand | undefined)[] = [];
  readonly #all: WorkerCommand[] = [];
  #control: ChildProcess | undefined;
  #runner: NodeProcess | undefined;
  #runnerEnv: Readonly<Record<string, string>> = {};
  #port = 0;
  /** What ended though nobody ended it. */
  #broken: string | undefined;

  constructor(options: FleetOptions) {
    this.#options = options;
    this.#ticketFile = join(options.folder, 'endpoint.ticket');
  }

  ticket(): Promise<string> {
    return readFile(this.#ticketFile, 'utf8');
  }

  /** Throws when a process ended by itself. */
  check(): void {
    if (this.#broken !== undefined) throw new Error(this.#broken);
  }

  /** On the same port each time: it stands in the ticket. */
  async startControlPlane(): Promise<void> {
    if (this.#port === 0) this.#port = await reservedPort();
    const { folder, controlFlags = [] } = this.#options;
    const flags = [
      '--port',
      String(this.#port),
      '--data',
      join(folder, 'control'),
      '--ticket-file',
      this.#ticketFile,
      '--json',
      ...controlFlags,
    ];
    const child = spawn(process.execPath, [BPR, 'control-plane', ...flags], {
      env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, LOG_LEVEL: 'error' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#control = child;
    const ended = once(child, 'close').then(([code]) => {
      if (this.#control === child) this.#broken ??= `the control plane ended with ${String(code)}`;
    });
    await Promise.race([once(createInterface({ input: child.stdout }), 'line'), ended]);
    this.check();
  }

  async restartControlPlane(): Promise<void> {
    await this.#endControlPlane('SIGKILL');
    await this.startControlPlane();
  }

  startWorker(index: number): void {
    const { folder, concurrency } = this.#options;
    const flags = ['--ticket-file', this.#ticketFile, '--lease-ms', String(LEASE_MS), '--concurrency', String(concurrency)];
    const worker = new WorkerCommand(join(folder, `w${index}`), {}, flags);
    this.#workers[index] = worker;
    this.#all.push(worker);
    void worker.ended.then((code) => {
      if (this.#workers[index] === worker) this.#broken ??= `worker ${index} ended with ${code}: ${lastNews(worker)}`;
    });
  }

  /** Resolves with its exit status when it is over and another one was started. */
  async restartWorker(index: number, signal: NodeJS.Signals): Promise<number | undefined> {
    const worker = this.#workers[index];
    // Who has no handler for the signal yet would die of it.
    if (signal === 'SIGTERM') await worker?.until('ready');
    this.#workers[index] = undefined;
    const code = worker && (await endWithin(index, worker, signal));
    this.startWorker(index);
    return code;
  }

  async untilReady(): Promise<void> {
    await Promise.all(this.#workers.map(async (worker) => worker?.until('ready')));
  }

  /** `env` is that of every life of it. */
  startRunner(env: Readonly<Record<string, string>> = this.#runnerEnv): void {
    this.#runnerEnv = env;
    const runner = startNode(RUNNER, env);
    this.#runner = runner;
    void runner.exit.then((how) => {
      if (this.#runner === runner) this.#broken ??= `the runner ended with ${how}: ${runner.stderr()}`;
    });
  }

  async restartRunner(): Promise<void> {
    await this.#endRunner('SIGKILL');
    this.startRunner();
  }

  /** Jobs of which two workers say that the control plane has their result. */
  completedTwice(): number {
    const ids = this.#news('ended').flatMap(({ outcome, jobId }) => (outcome === 'completed' ? [jobId] : []));
    return ids.length - new Set(ids).size;
  }

  /** Jobs of which a worker says so, and when it did first. One that was killed meanwhile may not have. */
  completed(): ReadonlyMap<string, number> {
    const times = new Map<string, number>();
    for (const { outcome, jobId, at } of this.#news('ended'))
      if (outcome === 'completed' && !times.has(String(jobId))) times.set(String(jobId), Number(at));
    return times;
  }

  /** Attempts beyond the first of each job. */
  repeated(): number {
    const attempts = new Map<unknown, number>();
    for (const { jobId, attempt } of this.#news('claimed')) attempts.set(jobId, Math.max(attempts.get(jobId) ?? 0, Number(attempt)));
    return [...attempts.values()].reduce((sum, count) => sum + count - 1, 0);
  }

  #news(event: string): News[] {
    return this.#all.flatMap(({ news }) => news.filter((each) => each.event === event));
  }

  /** Ends all of them as an operator does, and resolves with those that did not end with 0. */
  async drain(): Promise<string[]> {
    await this.untilReady();
    const workers = this.#workers.splice(0);
    const [runner, control, ...codes] = await Promise.all([
      this.#endRunner('SIGTERM'),
      this.#endControlPlane('SIGTERM'),
      ...workers.map(async (worker, index) => worker && endWithin(index, worker, 'SIGTERM')),
    ]);
    const bad = codes.flatMap((code, index) => (code === 0 ? [] : [`worker ${index} ended with ${code}: ${lastNews(workers[index])}`]));
    if (runner !== 0) bad.push(`the runner ended with ${runner}`);
    if (control !== 0) bad.push(`the control plane ended with ${control}`);
    return bad;
  }

  async end(): Promise<void> {
    const workers = this.#workers.splice(0);
    await Promise.all([this.#endRunner('SIGKILL'), this.#endControlPlane('SIGKILL'), ...workers.map((worker) => worker?.kill())]);
  }

  async #endRunner(signal: NodeJS.Signals): Promise<number | string> {
    const runner = this.#runner;
    this.#runner = undefined;
    return (await runner?.end(signal)) ?? 0;
  }

  async #endControlPlane(signal: NodeJS.Signals): Promise<number | string> {
    const child = this.#control;
    this.#control = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return child?.exitCode ?? child?.signalCode ?? 0;
    const closed = once(child, 'close');
    child.kill(signal);
    const [code, by] = (await closed) as [number | null, string | null];
    return code ?? by ?? 0;
  }
}

function lastNews(worker: WorkerCommand | undefined): string {
  return `${JSON.stringify(worker?.news.slice(-5))} ${worker?.stderr ?? ''}`;
}

async function endWithin(index: number, worker: WorkerCommand, signal: NodeJS.Signals): Promise<number> {
  const over = new AbortController();
  const late = sleep(END_MS_MAX, undefined, { signal: over.signal }).then(() => {
    throw new Error(`worker ${index} has not ended ${END_MS_MAX} ms after ${signal}: ${lastNews(worker)}`);
  });
  try {
    return await Promise.race([worker.kill(signal), late]);
  } finally {
    over.abort();
    late.catch(() => {});
  }
}
