/** A control plane and its workers as processes, killed at random, while jobs are published and run; then what became of each job. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { buildHandler } from '../../src/deploy/package.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import type { Headers, NewJob } from '../../src/queue/queue.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { Random } from '../../src/testing/fake-clock.ts';
import { BPR } from '../support/bpr.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const JOBS = fileURLToPath(new URL('../fixtures/worker/jobs.ts', import.meta.url));
const UINT64 = parseParameters('uint64 x');
const LEASE_MS = 3_000;
/** A job may lose its worker so often. */
const ATTEMPTS_MAX = 1_000;
const PUBLISHED_AT_ONCE = 250;
/** Without any progress the run is over. */
const STALL_MS = 120_000;
const POLL_MS = 50;
const CONTROL_PLANE = 0.15;
const SIGTERM = 0.3;

export interface WorkersReport {
  readonly seed: number;
  readonly workers: number;
  readonly jobs: number;
  readonly killedWorkers: number;
  /** Told to drain by SIGTERM. */
  readonly drainedWorkers: number;
  /** Of those: not with 0. */
  readonly badDrains: number;
  readonly killedControlPlanes: number;
  readonly completed: number;
  /** Published, acknowledged, and without the right result. */
  readonly lost: number;
  readonly wrong: number;
  /** Jobs of which two workers were told that their result is kept. */
  readonly completedTwice: number;
  /** Attempts beyond the first of each job: their worker was killed. */
  readonly repeated: number;
  readonly seconds: number;
}

export function holds({ jobs, completed, lost, wrong, completedTwice, badDrains }: WorkersReport): boolean {
  return completed === jobs && [lost, wrong, completedTwice, badDrains].every((count) => count === 0);
}

export interface WorkersOptions {
  readonly folder: string;
  readonly workers: number;
  readonly jobs: number;
  readonly kills: number;
  readonly seed: number;
  readonly progress?: (text: string) => void;
}

export async function killFleet(options: WorkersOptions): Promise<WorkersReport> {
  const { folder, workers, jobs, progress = () => {} } = options;
  const { zipFile } = await buildHandler({ entry: JOBS, outDir: join(folder, 'artifact') });
  const fleet = new Fleet(folder);
  try {
    await fleet.startControlPlane();
    const queue = await RemoteQueue.connect({ credentials: { ticket: await fleet.ticket(), identity: makeIdentity() } });
    try {
      const object = await new RemoteObjects(queue.control).keep(await readFile(zipFile));
      const headers = functionHeaders({
        name: 'jobs',
        code: { kind: 'package', object },
        settings: functionSettings({ memoryMb: 128, runtime: `nodejs${process.versions.node.split('.', 1)[0]}.x` }),
      });
      for (let index = 0; index < workers; index += 1) fleet.startWorker(index);
      await fleet.untilReady();
      progress(`${workers} workers are ready`);
      const startedAt = performance.now();
      const [counts] = await Promise.all([killAll(fleet, queue, options), publishAll(queue, headers, jobs)]);
      await untilCompleted(queue, jobs);
      const seconds = (performance.now() - startedAt) / 1_000;
      progress('every job has ended; the results are read');
      return {
        seed: options.seed,
        workers,
        jobs,
        ...counts,
        ...(await judge(queue, jobs)),
        completedTwice: fleet.completedTwice(),
        seconds,
      };
    } finally {
      await queue.close();
    }
  } finally {
    await fleet.end();
  }
}

const idOf = (index: number): string => `job-${index}`;
const jobOf = (index: number, headers: Headers): NewJob => {
  const event = { job_id: 0, args_base64: Buffer.from(encodeAbi(UINT64, [BigInt(index)])).toString('base64') };
  return { id: idOf(index), type: 'function', payload: Buffer.from(JSON.stringify(event)), headers, attemptsMax: ATTEMPTS_MAX };
};

async function publishAll(queue: RemoteQueue, headers: Headers, jobs: number): Promise<void> {
  for (let from = 0; from < jobs; from += PUBLISHED_AT_ONCE) {
    const count = Math.min(PUBLISHED_AT_ONCE, jobs - from);
    await queue.publishMany(Array.from({ length: count }, (_, index) => jobOf(from + index, headers)));
  }
}

type Counts = Pick<WorkersReport, 'killedWorkers' | 'drainedWorkers' | 'badDrains' | 'killedControlPlanes'>;

/** Evenly over the work: the next kill comes when another part of the jobs is done. */
async function killAll(fleet: Fleet, queue: RemoteQueue, { kills, jobs, seed, workers, progress }: WorkersOptions): Promise<Counts> {
  const random = new Random(seed);
  const counts = { killedWorkers: 0, drainedWorkers: 0, badDrains: 0, killedControlPlanes: 0 };
  for (let kill = 0; kill < kills; kill += 1) {
    await untilCompleted(queue, Math.floor((jobs * kill) / kills));
    await sleep(random.int(0, POLL_MS));
    if (random.chance(CONTROL_PLANE)) {
      await fleet.restartControlPlane();
      counts.killedControlPlanes += 1;
    } else {
      const index = random.int(0, workers - 1);
      const signal = random.chance(SIGTERM) ? 'SIGTERM' : 'SIGKILL';
      const code = await fleet.restartWorker(index, signal);
      if (signal === 'SIGKILL') counts.killedWorkers += 1;
      else counts.drainedWorkers += 1;
      if (signal === 'SIGTERM' && code !== 0) counts.badDrains += 1;
    }
    if ((kill + 1) % 10 === 0) progress?.(`${kill + 1} kills, ${(await queue.stats()).byState.completed} jobs completed`);
  }
  return counts;
}

async function untilCompleted(queue: RemoteQueue, count: number): Promise<void> {
  let [best, since] = [-1, performance.now()];
  for (;;) {
    const { completed } = (await queue.stats()).byState;
    if (completed >= count) return;
    if (completed > best) [best, since] = [completed, performance.now()];
    if (performance.now() - since > STALL_MS) throw new Error(`${completed} of ${count} jobs are completed, and nothing goes on`);
    await sleep(POLL_MS);
  }
}

async function judge(queue: RemoteQueue, jobs: number): Promise<Pick<WorkersReport, 'completed' | 'lost' | 'wrong' | 'repeated'>> {
  let [completed, lost, wrong, repeated] = [0, 0, 0, 0];
  const check = async (index: number): Promise<void> => {
    const status = await queue.status(idOf(index));
    if (status?.state !== 'completed') {
      lost += 1;
      return;
    }
    completed += 1;
    repeated += status.attempts - 1;
    const { body } = await queue.result(idOf(index));
    const { result_base64: result } = JSON.parse(Buffer.from(body as Uint8Array).toString()) as { result_base64?: string };
    if (result !== Buffer.from(encodeAbi(UINT64, [BigInt(index) ** 2n])).toString('base64')) wrong += 1;
  };
  for (let from = 0; from < jobs; from += 64) {
    await Promise.all(Array.from({ length: Math.min(64, jobs - from) }, (_, index) => check(from + index)));
  }
  return { completed, lost, wrong, repeated };
}

class Fleet {
  readonly #folder: string;
  readonly #ticketFile: string;
  readonly #workers: WorkerCommand[] = [];
  readonly #all: WorkerCommand[] = [];
  #control: ChildProcess | undefined;
  #port = 0;

  constructor(folder: string) {
    this.#folder = folder;
    this.#ticketFile = join(folder, 'endpoint.ticket');
  }

  ticket(): Promise<string> {
    return readFile(this.#ticketFile, 'utf8');
  }

  /** On the same port each time: it stands in the ticket. */
  async startControlPlane(): Promise<void> {
    if (this.#port === 0) this.#port = await freePort();
    const flags = ['--port', String(this.#port), '--data', join(this.#folder, 'control'), '--ticket-file', this.#ticketFile, '--json'];
    const child = spawn(process.execPath, [BPR, 'control-plane', ...flags], {
      env: { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, LOG_LEVEL: 'error' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    this.#control = child;
    const ended = once(child, 'close').then(([code]) => Promise.reject(new Error(`the control plane ended with ${String(code)}`)));
    await Promise.race([once(createInterface({ input: child.stdout }), 'line'), ended]);
    ended.catch(() => {});
  }

  async restartControlPlane(): Promise<void> {
    await endOf(this.#control);
    await this.startControlPlane();
  }

  startWorker(index: number): void {
    const flags = ['--ticket-file', this.#ticketFile, '--lease-ms', String(LEASE_MS), '--concurrency', '2'];
    const worker = new WorkerCommand(join(this.#folder, `w${index}`), {}, flags);
    this.#workers[index] = worker;
    this.#all.push(worker);
  }

  /** Resolves with its exit status when it is over and another one was started. */
  async restartWorker(index: number, signal: NodeJS.Signals): Promise<number | undefined> {
    const worker = this.#workers[index];
    // Who has no handler for the signal yet would die of it.
    if (signal === 'SIGTERM') await worker?.until('ready');
    const code = await worker?.kill(signal);
    this.startWorker(index);
    return code;
  }

  async untilReady(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.until('ready')));
  }

  completedTwice(): number {
    const ids = this.#all.flatMap(({ news }) =>
      news.filter(({ event, outcome }) => event === 'ended' && outcome === 'completed').map(({ jobId }) => String(jobId)),
    );
    return ids.length - new Set(ids).size;
  }

  async end(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.kill()));
    await endOf(this.#control);
  }
}

async function endOf(child: ChildProcess | undefined): Promise<void> {
  if (!child || child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill('SIGKILL');
  await closed;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
