/** Calls of a chain, run by the workers of a control plane and settled, while all but the chain are killed at random; then what became of each. */

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

export interface WorkersReport extends Judgement {
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
  /** In the object store beside the package. */
  readonly leftObjects: number;
  /** When everything had ended. */
  readonly leftProcesses: number;
  /** Folders of instances. */
  readonly leftInstances: number;
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
  readonly kills: number;
  readonly seed: number;
  readonly progress?: (text: string) => void;
}

export async function killFleet(options: WorkersOptions): Promise<WorkersReport> {
  const { folder, concurrency } = options;
  const { zipFile: artifact } = await buildHandler({ entry: JOBS, outDir: join(folder, 'artifact') });
  const chain = await startLocalChain({ blockTimeMs: BLOCK_MS, blockGasLimit: BLOCK_GAS_LIMIT });
  const fleet = new Fleet({ folder, concurrency });
  try {
    await fleet.startControlPlane();
    return await new Run({ options, chain, fleet, artifact }).run();
  } finally {
    await fleet.end();
    await chain.stop();
  }
}

interface RunParts {
  readonly options: WorkersOptions;
  readonly chain: LocalChain;
  readonly fleet: Fleet;
  readonly artifact: string;
}

class Run {
  readonly #parts: RunParts;
  readonly #given = new GivenTransactions();
  readonly #kills = { killedWorkers: 0, drainedWorkers: 0, killedControlPlanes: 0, killedRunners: 0, badDrains: 0 };
  readonly #startedAt = performance.now();
  #completed = 0;
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
      const allSettled = this.#killAll(calls, queue).then(() => this.#until(calls, queue, () => calls.settled >= jobs));
      await Promise.all([calls.submit(jobs), allSettled]);
      const seconds = (performance.now() - startedAt) / 1_000;
      this.#say('every call has a result; what became of each is read');
      return { ...(await this.#report(calls, queue)), seconds: tenths(seconds), jobsPerSecond: tenths(jobs / seconds) };
    } finally {
      await queue.close();
      await node.close();
    }
  }

  async #report(calls: Calls, queue: RemoteQueue): Promise<Omit<WorkersReport, 'seconds' | 'jobsPerSecond'>> {
    const { options, chain, fleet } = this.#parts;
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
      // What a kill left of an upload has an ending, and is collected by age.
      leftObjects: (await readdir(join(folder, 'control', 'objects'))).filter((name) => !name.includes('.')).length - 1,
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
  async #killAll(calls: Calls, queue: RemoteQueue): Promise<void> {
    const { kills, jobs, seed } = this.#parts.options;
    const random = new Random(seed);
    for (let kill = 0; kill < kills; kill += 1) {
      await this.#until(calls, queue, () => this.#completed >= Math.floor((jobs * kill) / kills));
      await sleep(random.int(0, PAUSE_MS_MAX));
      await this.#kill(random);
    }
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

  async #until(calls: Calls, queue: RemoteQueue, isThere: () => boolean): Promise<void> {
    let [best, since] = [-1, performance.now()];
    for (;;) {
      this.#parts.fleet.check();
      await calls.read();
      this.#completed = (await queue.stats()).byState.completed;
      if (performance.now() - this.#saidAt > SAY_MS) this.#sayCounts(calls);
      if (isThere()) return;
      const done = this.#completed + calls.settled;
      if (done > best) [best, since] = [done, performance.now()];
      if (performance.now() - since > STALL_MS) throw new Error(`${this.#counts(calls)}, and nothing goes on`);
      await sleep(POLL_MS);
    }
  }

  #counts({ submitted, settled }: Calls): string {
    const { killedWorkers, drainedWorkers, killedControlPlanes, killedRunners } = this.#kills;
    const kills = `workers ${killedWorkers}, drained ${drainedWorkers}, control plane ${killedControlPlanes}, runner ${killedRunners}`;
    return `submitted ${submitted}, executed ${this.#completed}, settled ${settled}; kills: ${kills}`;
  }

  #sayCounts(calls: Calls): void {
    this.#saidAt = performance.now();
    this.#say(this.#counts(calls));
  }

  #say(text: string): void {
    this.#parts.options.progress?.(`${((performance.now() - this.#startedAt) / 1_000).toFixed(0).padStart(4)} s  ${text}`);
  }
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
