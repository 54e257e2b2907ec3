/**
 * What a worker notices of another one that crashes: the p99 of its jobs while the other one is well, against that while it
 * - runs jobs that take memory until they are stopped
 * - is killed, as the system does when memory is short, with jobs that run, and started again, over and over
 *
 * Both have an engine of their own, as in option 1, and a processor of their own, as containers with `cpus: 1` have; the control plane and who
 * publishes share that of the first. Rounds of the three are taken in turns, and the p99 is that of all rounds of a kind.
 *
 * `node test/bench/worker-isolation.bench.ts`. Goal: a p99 of at most 1.1 times that of quiet rounds, and no job of the first worker fails.
 */

import { availableParallelism } from 'node:os';
import { Workers, bindThisProcess, bursting, judge, napping, onProcessor } from './workers.ts';
import type { JobKind } from './workers.ts';
import type { WorkerCommand } from '../support/worker-command.ts';

const NAP_MS = 40;
const LOAD = { clients: 4, forMs: 2_500 };
const ROUNDS = 4;
const GOAL = 1.1;
const FLAGS = ['--concurrency', '4', '--capabilities'];

if (availableParallelism() < 2) throw new Error('two workers need a processor each; this machine has one');
const [own, other] = [onProcessor(0), onProcessor(1)];
bindThisProcess(0);

type Disturbance = 'quiet' | 'bursts' | 'kills';
const DISTURBANCES: readonly Disturbance[] = ['quiet', 'bursts', 'kills'];

/** Jobs of the other worker, whatever becomes of them. */
class Neighbour {
  readonly #workers: Workers;
  readonly #burst: JobKind;
  #worker: WorkerCommand;
  #isOver = true;
  #running: Promise<unknown> = Promise.resolve();
  bursts = 0;
  kills = 0;

  constructor(workers: Workers, burst: JobKind, worker: WorkerCommand) {
    this.#workers = workers;
    this.#burst = burst;
    this.#worker = worker;
  }

  begin(disturbance: Disturbance): void {
    this.#isOver = false;
    this.#running = disturbance === 'quiet' ? Promise.resolve() : disturbance === 'bursts' ? this.#bursts() : this.#kills();
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  async #bursts(): Promise<void> {
    const client = async (): Promise<void> => {
      for (; !this.#isOver; this.bursts += 1) await this.#fails();
    };
    await Promise.all([client(), client()]);
  }

  async #kills(): Promise<void> {
    const jobs: Promise<unknown>[] = [];
    while (!this.#isOver) {
      jobs.push(this.#fails(), this.#fails());
      await this.#worker.until('claimed');
      await this.#worker.kill('SIGKILL');
      this.kills += 1;
      this.#worker = await this.#workers.add('crashing', [...FLAGS, 'crashing'], other);
    }
    await Promise.all(jobs);
  }

  /** As it should. */
  #fails(): Promise<unknown> {
    return this.#workers.one(this.#burst).then(
      () => Promise.reject(new Error('a job that takes all memory ended well')),
      () => {},
    );
  }
}

function p99(latencies: readonly number[]): number {
  const sorted = latencies.toSorted((left, right) => left - right);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * 0.99))] ?? Number.NaN;
}

const workers = await Workers.start(own);
try {
  await workers.add('steady', [...FLAGS, 'steady'], own);
  const nap = await workers.kind('nap', napping(NAP_MS), ['steady']);
  const burst = await workers.kind('burst', bursting(), ['crashing']);
  const neighbour = new Neighbour(workers, burst, await workers.add('crashing', [...FLAGS, 'crashing'], other));
  await workers.run(nap, LOAD);
  const latencies: Record<Disturbance, number[]> = { quiet: [], bursts: [], kills: [] };
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const disturbance of round % 2 === 0 ? DISTURBANCES : DISTURBANCES.toReversed()) {
      neighbour.begin(disturbance);
      latencies[disturbance].push(...(await workers.run(nap, LOAD)).latenciesMs);
      await neighbour.end();
    }
  }
  for (const kind of DISTURBANCES) {
    const all = latencies[kind].toSorted((left, right) => left - right);
    console.log(
      `${kind.padEnd(7)} p50 ${(all[all.length >> 1] ?? 0).toFixed(1)} ms, p99 ${p99(all).toFixed(1)} ms of ${all.length} jobs that wait ${NAP_MS} ms`,
    );
  }
  console.log(`the other worker: ${neighbour.bursts} jobs that took all memory, killed ${neighbour.kills} times`);
  const quiet = p99(latencies.quiet);
  judge('p99 while the other worker runs out of memory, by that of quiet rounds', p99(latencies.bursts) / quiet, { most: GOAL });
  judge('p99 while the other worker is killed and started, by that of quiet rounds', p99(latencies.kills) / quiet, { most: GOAL });
} finally {
  await workers.end();
}
