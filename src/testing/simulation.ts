/**
 * A seeded world for a whole runner: chain with reorgs, executors that fail, RPC endpoints that lie down, transactions that get lost,
 * a disk that fills up, and crashes at any step. What must hold is checked all the time; the same seed gives the same history.
 */

import { MockChain } from '../chain/mock-chain.ts';
import { mockSigner } from '../chain/mock-transaction.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { Address } from '../job/call.ts';
import { FakeClock, Random } from './fake-clock.ts';
import type { Violation } from './simulation-checker.ts';
import { Checker, inputsFor, isAnswerable } from './simulation-checker.ts';
import type { FaultRates, SimulationWorld } from './simulation-world.ts';
import { Incarnation, STORM } from './simulation-world.ts';

export interface SimulationOptions {
  readonly seed: number;
  /** Job calls submitted; reorgs add others. Default 24. */
  readonly calls?: number;
  /** Blocks with faults; after them come calm ones until nothing is left to do. Default 40. */
  readonly blocks?: number;
  /** Virtual time between blocks. Default 2000. */
  readonly blockMs?: number;
  /** Blocks on top of a call before its result may be signed; no reorg is deeper. Default 3. */
  readonly confirmations?: number;
  /** Blocks on top of a transaction before it is final. Default 8. */
  readonly finality?: number;
  /** Default: `STORM`. */
  readonly faults?: Partial<FaultRates>;
  /** The system may crash this often. Default 6. */
  readonly crashesMax?: number;
  /** Hears every line of the history. */
  readonly onEvent?: (line: string) => void;
}

export interface Held {
  readonly queued: number;
  readonly queuedMax: number;
  /** Calls that its journal does not call ended; none may be left at the end. */
  readonly open?: number;
}

export interface SystemUnderTest {
  /** The process is gone, now: what was durable is kept for the next life, and nothing else. Synchronous. */
  crash(): void;
  /** Graceful. */
  stop(): Promise<void>;
  /** What it holds in memory; asserted after every block. */
  inspect?(): Held;
}

/** Starts one life. What must survive a crash lies outside of the lives, with whoever provides this. */
export interface SimulatedSystem {
  /** Called at once, before anything else of this life; so that a crash during the start knows what to keep. */
  start(world: SimulationWorld): { readonly system: SystemUnderTest; readonly ready: Promise<void> };
  /** After the last life: frees files. */
  dispose?(): void | Promise<void>;
}

export interface SimulationReport {
  readonly seed: number;
  readonly violations: readonly Violation[];
  /** Of everything that happened, in order, with its time: equal for equal seeds. */
  readonly historyHash: string;
  /** The last events. */
  readonly tail: readonly string[];
  readonly calls: number;
  readonly results: number;
  readonly crashes: number;
  readonly reorgs: number;
  readonly virtualMs: number;
}

const OPERATOR: Address = '0x00000000000000000000000000000000000051b0';
const RIVAL: Address = '0x0000000000000000000000000000000000017141';
const SERVICES = 2;
const CALM_BLOCKS_MAX = 400;
const STOP_LIMIT_MS = 120_000;
const RESTART_MS_MAX = 8_000;
const JUMP_MS_MAX = 600_000;
const GWEI = 1_000_000_000n;

/**
 * Runs one seed to its end.
 *
 * @example
 * const report = await simulate(mySystem(), { seed: 42 });
 * expect(report.violations).toEqual([]);
 */
export async function simulate(system: SimulatedSystem, options: SimulationOptions): Promise<SimulationReport> {
  const run = new SimulationRun(system, options);
  try {
    return await run.run();
  } finally {
    await system.dispose?.();
  }
}

/** Runs seeds one after the other; rejects with `INTERNAL` and the seed at the first violation. */
export async function simulateSeeds(
  makeSystem: () => SimulatedSystem,
  options: Omit<SimulationOptions, 'seed'> & { readonly fromSeed: number; readonly seeds: number },
): Promise<SimulationReport[]> {
  const reports: SimulationReport[] = [];
  for (let seed = options.fromSeed; seed < options.fromSeed + options.seeds; seed += 1) {
    const report = await simulate(makeSystem(), { ...options, seed });
    const [first] = report.violations;
    if (first) {
      throw new RunnerError('INTERNAL', `seed ${seed}: ${first.rule}: ${first.message}\n${report.tail.join('\n')}`, {
        details: { seed, violations: report.violations },
      });
    }
    reports.push(report);
  }
  return reports;
}

class SimulationRun {
  readonly #system: SimulatedSystem;
  readonly #options: Required<Omit<SimulationOptions, 'faults' | 'onEvent'>>;
  readonly #rates: FaultRates;
  readonly #random: Random;
  readonly #clock = new FakeClock();
  readonly #chain: MockChain;
  readonly #checker: Checker;
  readonly #serviceIds: readonly bigint[];
  #faulty = true;
  #outageUntilMs = 0;
  #diskFullUntilMs = 0;
  #inputsCount = 0;
  #reorgs = 0;
  #crashes = 0;
  #life: SystemUnderTest | undefined;

  constructor(system: SimulatedSystem, options: SimulationOptions) {
    this.#system = system;
    const defaults = { calls: 24, blocks: 40, blockMs: 2_000, confirmations: 3, finality: 8, crashesMax: 6 };
    const { faults, onEvent, ...given } = options;
    this.#options = { ...defaults, ...given };
    this.#rates = { ...STORM, ...faults };
    this.#random = new Random(options.seed);
    this.#chain = new MockChain({ clock: this.#clock });
    this.#serviceIds = Array.from({ length: SERVICES }, () => this.#chain.addService({ operators: [OPERATOR, RIVAL] }).serviceId);
    this.#chain.refuseResults(({ operator, inputs }) =>
      operator === OPERATOR && !isAnswerable(inputs) ? 'SchemaValidationFailed' : undefined,
    );
    this.#checker = new Checker({ clock: this.#clock, chain: this.#chain, operator: OPERATOR, ...(onEvent && { onEvent }) });
  }

  async run(): Promise<SimulationReport> {
    const { calls, blocks, seed } = this.#options;
    this.#chain.mine(2);
    this.#startLife(0);
    const script = this.#random.fork('script');
    let submitted = 0;
    for (let block = 0; block < blocks; block += 1) {
      const due = Math.ceil(((block + 1) * calls) / blocks);
      for (; submitted < due; submitted += 1) this.#submit(script);
      this.#misfortune(script);
      await this.#nextBlock(script);
    }
    await this.#calmDown();
    await this.#stop();
    this.#checker.checkEnd(this.#life?.inspect?.().open);
    const { violations, historyHash, tail } = this.#checker;
    const results = this.#chain.results().filter((result) => result.operator === OPERATOR).length;
    const counts = { calls: this.#chain.calls().length, results, crashes: this.#crashes, reorgs: this.#reorgs };
    return { seed, violations, historyHash: historyHash(), tail, ...counts, virtualMs: this.#clock.monotonic() };
  }

  #submit(script: Random): void {
    const job = this.#newCall(script);
    this.#chain.submitJob(job);
    if (!script.chance(this.#rates.rival)) return;
    // The rival answers the call that has this place then, whichever it is.
    const callId = BigInt(this.#chain.calls().filter((call) => call.serviceId === job.serviceId).length);
    this.#clock.after(script.int(1, 6) * this.#options.blockMs, () => {
      this.#chain.submitResult({ serviceId: job.serviceId, callId, operator: RIVAL, output: Uint8Array.of(0xee) });
    });
  }

  #newCall(script: Random): { readonly serviceId: bigint; readonly jobIndex: number; readonly inputs: Uint8Array } {
    this.#inputsCount += 1;
    return { serviceId: script.pick(this.#serviceIds), jobIndex: script.int(0, 2), inputs: inputsFor(this.#inputsCount, script) };
  }

  /** Draws the same number of times whatever happens. */
  #misfortune(script: Random): void {
    const nowMs = this.#clock.monotonic();
    const { blockMs } = this.#options;
    const lastsMs = script.int(1, 4) * blockMs;
    if (script.chance(this.#rates.outage)) this.#outageUntilMs = nowMs + lastsMs;
    if (script.chance(this.#rates.diskFull)) this.#diskFullUntilMs = nowMs + lastsMs;
    const gwei = script.int(1, 20);
    if (script.chance(this.#rates.feeSpike)) this.#chain.setBaseFee(BigInt(gwei) * GWEI);
    const jumpMs = script.int(-JUMP_MS_MAX, JUMP_MS_MAX);
    if (script.chance(this.#rates.clockJump)) this.#clock.jump(jumpMs);
    if (script.chance(this.#rates.reorg)) this.#reorg(script.fork(`reorg ${nowMs}`));
  }

  #reorg(random: Random): void {
    const { confirmations } = this.#options;
    const depth = Math.min(random.int(1, Math.max(1, confirmations)), Number(this.#chain.head.number));
    const replaceWith = Array.from({ length: random.int(0, 2) }, () => this.#newCall(random));
    const dropRate = random.pick([0, 0.3, 1]);
    this.#reorgs += 1;
    this.#checker.note('reorg', { depth, replaceWith: replaceWith.length, dropRate });
    this.#chain.reorg(depth, { replaceWith, dropTransactions: () => random.chance(dropRate), blocks: depth + random.int(0, 1) });
  }

  async #nextBlock(script: Random): Promise<void> {
    await this.#clock.advance(script.int(this.#options.blockMs >> 1, this.#options.blockMs + (this.#options.blockMs >> 1)));
    this.#chain.mine();
    await this.#clock.settle();
    const held = this.#life?.inspect?.();
    if (held && held.queued > held.queuedMax)
      this.#checker.violate('bounded', `${held.queued} calls are held in memory; ${held.queuedMax} is the bound`);
  }

  /** No more faults: what is left to do is done, or never will be. */
  async #calmDown(): Promise<void> {
    this.#faulty = false;
    this.#outageUntilMs = 0;
    this.#diskFullUntilMs = 0;
    this.#chain.setBaseFee(GWEI);
    this.#checker.note('calm', {});
    const script = this.#random.fork('calm');
    let doneBlocks = 0;
    for (let block = 0; block < CALM_BLOCKS_MAX && doneBlocks < this.#options.finality + 2; block += 1) {
      await this.#nextBlock(script);
      const isDone = this.#checker.nothingOpen() && !this.#life?.inspect?.().open;
      doneBlocks = isDone ? doneBlocks + 1 : 0;
    }
  }

  #startLife(life: number): void {
    const { seed, confirmations, finality } = this.#options;
    const random = new Random(seed).fork(`life ${life}`);
    const incarnation = new Incarnation({
      clock: this.#clock,
      chain: this.#chain,
      checker: this.#checker,
      random,
      rates: () => (this.#faulty ? this.#rates : undefined),
      isOutage: () => this.#clock.monotonic() < this.#outageUntilMs,
      isDiskFull: () => this.#clock.monotonic() < this.#diskFullUntilMs,
      mayCrash: () => this.#faulty && this.#crashes < this.#options.crashesMax,
      onCrash: (at) => this.#crashed(life, at),
    });
    this.#checker.note('start', { life });
    const world = incarnation.world({
      signer: mockSigner(OPERATOR),
      serviceIds: this.#serviceIds,
      confirmations,
      finality,
      life,
      random: random.fork('system'),
    });
    const { system, ready } = this.#system.start(world);
    this.#life = system;
    incarnation.arm();
    ready.catch((error: unknown) => this.#checker.violate('start', `life ${life} does not start: ${toRunnerError(error).message}`));
  }

  #crashed(life: number, at: string): void {
    this.#crashes += 1;
    this.#checker.note('crash', { life, at });
    this.#life?.crash();
    this.#life = undefined;
    const restart = this.#random.fork(`restart ${life}`).int(0, RESTART_MS_MAX);
    this.#clock.after(restart, () => this.#startLife(life + 1));
  }

  async #stop(): Promise<void> {
    let stopped = this.#life === undefined;
    const ended = this.#life?.stop().then(
      () => (stopped = true),
      (error: unknown) => this.#checker.violate('stop', `it does not stop: ${toRunnerError(error).message}`),
    );
    for (let waitedMs = 0; !stopped && waitedMs < STOP_LIMIT_MS; waitedMs += 1_000) await this.#clock.advance(1_000);
    if (!stopped) this.#checker.violate('stop', `it has not stopped after ${STOP_LIMIT_MS} virtual ms`);
    else await ended;
  }
}
