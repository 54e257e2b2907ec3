/** The runner as a program builds it, in the simulated world: its chain, signer, executor, clock and ledger are those of the world. */

import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RunnerBuilder } from '../../src/runner/builder.ts';
import { BlueprintRunner } from '../../src/runner/runner.ts';
import type { Ledger } from '../../src/ledger/ledger.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import type { SimulatedSystem, SystemUnderTest } from '../../src/testing/simulation.ts';
import type { SimulationWorld } from '../../src/testing/simulation-world.ts';

/** Parts of the line that do not keep their word. */
export interface BrokenParts {
  /** What the runner is given of the world. */
  readonly world?: (world: SimulationWorld) => SimulationWorld;
  readonly ledger?: (ledger: Ledger) => Ledger;
  /** The file that a later life is about to open. */
  readonly file?: (path: string) => void;
}

/** Memory where there is some: thousands of histories need not wait for a disk. */
const ROOT = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
const FILES = ['ledger.db', 'ledger.db-wal'];
const JOBS = [0, 1, 2];
const CONCURRENCY = 16;
const DRAIN_MS = 60_000;
const OPEN_STATES = ['seen', 'executing', 'executed', 'submitted', 'mined'] as const;

/**
 * A ledger file for each life of the process. What the last life had written when it was gone is copied to the next one; what it had
 * only begun to write arrives in a file that nobody reads any more.
 */
export function runnerSystem(broken: BrokenParts = {}): SimulatedSystem {
  const root = mkdtempSync(join(ROOT, 'simulated-runner-'));
  const folder = (life: number): string => join(root, String(life));
  const opened: SqliteLedger[] = [];
  return {
    start(given) {
      const path = join(folder(given.life), 'ledger.db');
      if (given.life > 0) broken.file?.(path);
      const file = SqliteLedger.open({ path, clock: given.clock });
      opened.push(file);
      const ledger = given.ledger<Ledger>(file);
      const world = broken.world?.(given) ?? given;
      const life = new Life(buildRunner(world, broken.ledger?.(ledger) ?? ledger), file, () => {
        mkdirSync(folder(given.life + 1), { recursive: true });
        for (const name of FILES)
          if (existsSync(join(folder(given.life), name))) copyFileSync(join(folder(given.life), name), join(folder(given.life + 1), name));
      });
      return { system: life, ready: life.start() };
    },
    async dispose() {
      await Promise.all(opened.map((ledger) => ledger.close()));
      rmSync(root, { recursive: true, force: true });
    },
  };
}

function buildRunner(world: SimulationWorld, ledger: Ledger): RunnerBuilder {
  const { serviceIds, confirmations, finality } = world;
  const random = world.random.fork('consumers');
  const builder = BlueprintRunner.builder(
    { serviceIds, confirmations, finality, fromBlock: 0n, concurrency: CONCURRENCY, drainMs: DRAIN_MS },
    {},
  )
    .clock(world.clock)
    .telemetry(silentTelemetry)
    .chain(world.chain)
    .signer(world.signer)
    .ledger(ledger)
    .consumer({
      name: 'fails now and then',
      async consume(_, call) {
        await world.step('consumer');
        world.delivered(call.id);
        if (random.chance(0.3)) throw new Error('the simulated consumer fails');
      },
    });
  // Jitter is the only chance in a runner: without it the seed decides everything.
  const policy = { attemptsMax: 20, idempotent: true, timeoutMs: 30_000, backoff: { jitter: 0 } };
  for (const jobId of JOBS) builder.withFaasExecutor(jobId, world.executor, policy);
  return builder;
}

class Life implements SystemUnderTest {
  readonly crash: () => void;
  readonly #builder: RunnerBuilder;
  readonly #file: SqliteLedger;
  #runner: BlueprintRunner | undefined;

  constructor(builder: RunnerBuilder, file: SqliteLedger, crash: () => void) {
    this.#builder = builder;
    this.#file = file;
    this.crash = crash;
  }

  async start(): Promise<void> {
    this.#runner = await this.#builder.build();
    await this.#runner.start();
  }

  async stop(): Promise<void> {
    await this.#runner?.stop();
    if (this.#runner?.state !== 'stopped') throw this.#runner?.status().lastError ?? new Error('the runner was not built');
  }

  inspect(): { readonly queued: number; readonly queuedMax: number; readonly open: number } {
    const { byState } = this.#file.stats();
    const open = OPEN_STATES.reduce((sum, state) => sum + byState[state], 0);
    return { queued: this.#runner?.status().inFlight ?? 0, queuedMax: CONCURRENCY, open };
  }
}
