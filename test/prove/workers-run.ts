/**
 * Calls of a chain, run by the workers of a control plane and settled, while all but the chain are killed at random; then what became of each.
 * The queue lies with the control plane, or on a cluster of NATS servers, which are killed, too.
 */

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { buildHandler } from '../../src/deploy/package.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { Random, deployTangle, startLocalChain } from '../../src/testing/testing.ts';
import type { LocalChain } from '../../src/testing/testing.ts';
import { GivenTransactions } from './given-transactions.ts';
import { Fleet } from './workers-fleet.ts';
import { leftInstances, leftProcesses } from './workers-left.ts';
import { Outages } from './workers-outages.ts';
import type { OutageCounts } from './workers-outages.ts';
import { Calls } from './workers-settled.ts';
import type { Judgement } from './workers-settled.ts';

const JOBS = fileURLToPath(new URL('../fixtures/worker/jobs.ts', import.meta.url));
/** Blocks that a busy machine mines more slowly than they are due pile up in the node, and with them what waits for one. */
const BLOCK_MS = 1_000;
/** Submissions and results of a second are more than a block of the real chain takes. */
const BLOCK_GAS_LIMIT = 1_000_000_000;
/** Without any progress the run is over. */
const STALL_MS = 120_000;
const POLL_MS = 100;
const SAY_MS = 5_000;
const PAUSE_MS_MAX = 100;
const CONTROL_PLANE = 0.15;
const RUNNER = 0.15;
const SIGTERM = 0.3;

export interface WorkersReport extends Judgement, OutageCounts {
  readonly seed: number;
  readonly workers: number;
  readonly concurrency: number;
  readonly jobs: number;
  readonly killedWorkers: number;
  /** Told to drain by SIGTERM. */
  readonly drainedWorkers: number;
  readonly killedControlPlanes: number;
  readonly killedRunners: number;
  readonly transactions: number;
  /** Given to the node again, the same bytes, by a later life of the runner. */
  readonly transactionsAgain: number;
  /** Calls in transactions of more than one nonce. */
  readonly signedTwice: number;
  readonly reverted: number;
  /** New transactions that the node did not take. */
  readonly refused: number;
  /** Calls of which the runner knows that their result is final. */
  readonly final: number;
  /** Jobs in the queue that ended with a result. */
  readonly completed: number;
  /** Jobs in any other state. */
  readonly notCompleted: number;
  /** Jobs of which two workers were told that their result is kept. */
  readonly completedTwice: number;
  /** Attempts beyond the first of each job: their worker was killed. */
  readonly repeated: number;
  /** Ended by SIGTERM, not with 0. */
  readonly badDrains: number;
  /** In the object store of the control plane, beside the package. */
  readonly leftObjects: number;
  /** When everything had ended. */
  readonly leftProcesses: number;
  /** Folders of instances. */
  readonly leftInstances: number;
  /** The longest time without a job that a worker completed. */
  readonly gapSeconds: number;
  /** From the first call to the last result on the chain. */
  readonly seconds: number;
  readonly jobsPerSecond: number;
}

const NONE = [
  'lost',
  'wrong',
  'twice',
  'signedTwice',
  'reverted',
  'refused',
  'notCompleted',
  'completedTwice',
  'badDrains',
  'leftObjects',
  'leftProcesses',
  'leftInstances',
] as const;

export function holds(report: WorkersReport): boolean {
  const { jobs, right, final, completed } = report;
  return [right, final, completed].every((count) => count === jobs) && NONE.every((name) => report[name] === 0);
}

export interface WorkersOptions {
  readonly folder: string;
  readonly workers: number;
  /** Jobs at a time, of each worker. */
  readonly concurrency: number;
  readonly jobs: number;
  /** Of workers, their control plane and the runner. */
  readonly kills: number;
  /** Of NATS servers that keep the queue, one after the other. Default: the queue lies with the control plane. */
  readonly outages?: number;
  readonly seed: number;
  readonly progress?: (text: string) => void;
}

export async function killFleet(options: WorkersOptions): Promise<WorkersReport> {
  const { folder, concurrency } = options;
  const { zipFile: artifact } = await buildHandler({ entry: JOBS, outDir: join(folder, 'artifact') });
  const chain = await startLocalChain({ blockTimeMs: BLOCK_MS, blockGasLimit: BLOCK_GAS_LIMIT });
  const outages = options.outages === undefined ? undefined : await Outages.start(folder);
  const fleet = new Fleet({ folder, concurrency, ...(outages && { controlFlags: outages.controlFlags }) });
  try {
    await fleet.startControlPlane();
    return await new Run({ options, chain, fleet, outages, artifact }).run();
  } finally {
    await fleet.end();
    await outages?.stop();
    await chain.stop();
  }
}

interface RunParts {
  readonly options: WorkersOptions;
  readonly chain: LocalChain;
  readonly fleet: Fleet;
  readonly outages: Outages | undefined;
  readonly artifact: string;
}

class Run {
  readonly #parts: RunParts;
  readonly #given = new GivenTransactions();
  readonly #kills = { killedWorkers: 0, drainedWorkers: 0, killedControlPlanes: 0, killedRunners: 0, badDrains: 0 };
  readonly #startedAt = performance.now();
  #executed = 0;
  #waiting: { readonly count: number; readonly resolve: () => void }[] = [];
  #saidAt = 0;

  constructor(parts: RunParts) {
    this.#parts = parts;
  }

  async run(): Promise<WorkersReport> {
    const { options, chain, fleet } = this.#parts;
    const { jobs } = options;
    const node = await this.#given.watch(chain);
    const queue = await RemoteQueue.connect({ credentials: { ticket: await fleet.ticket(), identity: makeIdentity() } });
    try {
      const calls = await this.#start(node);
      const startedAt = performance.now();
      const began = Date.now();
      await Promise.all([calls.submit(jobs), this.#killAll(), this.#breakServers(), this.#follow(calls)]);
      const seconds = (performance.now() - startedAt) / 1_000;
      this.#say('every call has a result; what became of each is read');
      const gapSeconds = tenths(gapOf([began, ...fleet.completed().values()]) / 1_000);
      return { ...(await this.#report(calls, queue)), gapSeconds, seconds: tenths(seconds), jobsPerSecond: tenths(jobs / seconds) };
    } finally {
      await queue.close();
      await node.close();
    }
  }

  async #report(calls: Calls, queue: RemoteQueue): Promise<Omit<WorkersReport, 'gapSeconds' | 'seconds' | 'jobsPerSecond'>> {
    const { options, chain, fleet, outages } = this.#parts;
    const { folder, jobs, workers, seed, concurrency } = options;
    const final = await untilFinal(join(folder, 'runner'), jobs);
    const { transactions, again: transactionsAgain, twice: signedTwice, reverted, refused } = await this.#given.report(chain);
    const { completed, ...others } = (await queue.stats()).byState;
    await queue.close();
    const bad = await fleet.drain();
    for (const text of bad) this.#say(text);
    return {
      seed,
      workers,
      concurrency,
      jobs,
      ...this.#kills,
      ...(outages?.counts ?? { killedServers: 0, killedLeaders: 0 }),
      ...calls.judge(),
      transactions,
      transactionsAgain,
      signedTwice,
      reverted,
      refused: refused.length,
      final,
      completed,
      notCompleted: Object.values(others).reduce((sum, count) => sum + count, 0),
      completedTwice: fleet.completedTwice(),
      repeated: fleet.repeated(),
      badDrains: this.#kills.badDrains + bad.length,
      leftObjects: outages ? 0 : (await objectsIn(join(folder, 'control', 'objects'))) - 1,
      leftProcesses: (await leftProcesses(folder)).length,
      leftInstances: leftInstances(folder).length,
    };
  }

  async #start(node: { readonly url: string; readonly wsUrl: string }): Promise<Calls> {
    const { options, chain, fleet, artifact } = this.#parts;
    const tangle = await deployTangle(chain);
    const { serviceId, operators } = await tangle.startService({ jobs: [{ name: 'square' }] });
    for (let index = 0; index < options.workers; index += 1) fleet.startWorker(index);
    await fleet.untilReady();
    this.#say(`${options.workers} workers are ready`);
    fleet.startRunner({
      HTTP_RPC_URL: node.url,
      WS_RPC_URL: node.wsUrl,
      TANGLE_CONTRACT: tangle.contract,
      SERVICE_ID: String(serviceId),
      BPR_DATA_DIR: join(options.folder, 'runner'),
      OPERATOR_PRIVATE_KEY: operators[0]?.privateKey ?? '',
      WORKER_TICKET: await fleet.ticket(),
      WORKER_ARTIFACT: artifact,
    });
    return new Calls(chain, tangle, serviceId);
  }

  /** Evenly over the work: the next kill comes when another part of the jobs is done. */
  async #killAll(): Promise<void> {
    const { kills, jobs, seed } = this.#parts.options;
    const random = new Random(seed);
    for (let kill = 0; kill < kills; kill += 1) {
      await this.#due(Math.floor((jobs * kill) / kills));
      await sleep(random.int(0, PAUSE_MS_MAX));
      await this.#kill(random);
    }
  }

  async #breakServers(): Promise<void> {
    const { options, outages } = this.#parts;
    const { outages: count = 0, jobs, seed } = options;
    await outages?.run(count, seed + 1, (outage) => this.#due(Math.floor((jobs * (outage + 0.5)) / count)));
  }

  async #kill(random: Random): Promise<void> {
    const { fleet, options } = this.#parts;
    const kills = this.#kills;
    const drawn = random.next();
    if (drawn < CONTROL_PLANE) {
      await fleet.restartControlPlane();
      kills.killedControlPlanes += 1;
    } else if (drawn < CONTROL_PLANE + RUNNER) {
      await fleet.restartRunner();
      kills.killedRunners += 1;
    } else {
      const signal = random.chance(SIGTERM) ? 'SIGTERM' : 'SIGKILL';
      const code = await fleet.restartWorker(random.int(0, options.workers - 1), signal);
      if (signal === 'SIGKILL') kills.killedWorkers += 1;
      else kills.drainedWorkers += 1;
      if (signal === 'SIGTERM' && code !== 0) kills.badDrains += 1;
    }
  }

  /** Resolves when so many calls were executed: at once when they were, because nobody follows them after the last one. */
  #due(count: number): Promise<void> {
    if (count <= this.#executed) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ count, resolve });
    return promise;
  }

  /** Until every call has a result. A job of which no worker lived to tell that it is done counts once it is settled. */
  async #follow(calls: Calls): Promise<void> {
    const { fleet, options } = this.#parts;
    let [best, since] = [-1, performance.now()];
    for (;;) {
      fleet.check();
      await calls.read();
      const told = fleet.completed().size;
      this.#executed = Math.max(told, calls.settled);
      const due = this.#waiting.filter(({ count }) => count <= this.#executed);
      this.#waiting = this.#waiting.filter(({ count }) => count > this.#executed);
      for (const { resolve } of due) resolve();
      if (performance.now() - this.#saidAt > SAY_MS) this.#sayCounts(calls);
      if (calls.settled >= options.jobs) return;
      if (told + calls.settled > best) [best, since] = [told + calls.settled, performance.now()];
      if (performance.now() - since > STALL_MS) throw new Error(`${this.#counts(calls)}, and nothing goes on`);
      await sleep(POLL_MS);
    }
  }

  #counts({ submitted, settled }: Calls): string {
    const { killedWorkers, drainedWorkers, killedControlPlanes, killedRunners } = this.#kills;
    const { killedServers = 0 } = this.#parts.outages?.counts ?? {};
    const kills = `workers ${killedWorkers}, drained ${drainedWorkers}, control plane ${killedControlPlanes}, runner ${killedRunners}, servers ${killedServers}`;
    return `submitted ${submitted}, executed ${this.#executed}, settled ${settled}; kills: ${kills}`;
  }

  #sayCounts(calls: Calls): void {
    this.#saidAt = performance.now();
    this.#say(this.#counts(calls));
  }

  #say(text: string): void {
    this.#parts.options.progress?.(`${((performance.now() - this.#startedAt) / 1_000).toFixed(0).padStart(4)} s  ${text}`);
  }
}

/** What a kill left of an upload has an ending, and is collected by age. */
async function objectsIn(folder: string): Promise<number> {
  return (await readdir(folder)).filter((name) => !name.includes('.')).length;
}

/** The longest time between two of them. */
function gapOf(times: readonly number[]): number {
  const sorted = times.toSorted((left, right) => left - right);
  return sorted.reduce((longest, time, index) => Math.max(longest, time - (sorted[index - 1] ?? time)), 0);
}

function tenths(value: number): number {
  return Math.round(value * 10) / 10;
}

/** Resolves with the calls whose result is final: all of them, unless nothing goes on. */
async function untilFinal(dataDir: string, jobs: number): Promise<number> {
  const ledger = SqliteLedger.open({ path: join(dataDir, 'ledger.sqlite'), readonly: true });
  try {
    const startedAt = performance.now();
    for (;;) {
      const { final } = ledger.stats().byState;
      if (final >= jobs || performance.now() - startedAt > STALL_MS) return final;
      await sleep(POLL_MS);
    }
  } finally {
    await ledger.close();
  }
}
