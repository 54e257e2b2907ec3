import { expect, test } from 'vitest';
import type { Clock } from '../../src/clock.ts';
import type { Address, ChainCall } from '../../src/job/call.ts';
import type { CallRecord, Cursor, SeenOutcome } from '../../src/ledger/ledger.ts';
import type { SimulationReport } from '../../src/testing/simulation.ts';
import { simulate, simulateSeeds } from '../../src/testing/simulation.ts';
import type { SimulationWorld } from '../../src/testing/simulation-world.ts';
import { MemoryLedger } from '../support/memory-ledger.ts';
import type { LedgerStore, LineLedger } from './line-system.ts';
import { lineSystem } from './line-system.ts';

/** Every write is durable when it is made; those of a life that is gone never arrive. */
class LastingLedger extends MemoryLedger implements LineLedger {
  #cursor: Cursor | undefined;

  cursor(_chainId: number, _contract: Address): Cursor | undefined {
    return this.#cursor;
  }

  override recordSeen(calls: readonly ChainCall[], cursor: Cursor): Promise<SeenOutcome[]> {
    this.#cursor = cursor;
    return super.recordSeen(calls);
  }

  override recordReorg(cursor: Cursor): Promise<number[]> {
    this.#cursor = cursor;
    return super.recordReorg(cursor);
  }

  waiting(afterSeq: number, limit: number): CallRecord[] {
    return this.find({ states: ['seen'] })
      .filter(({ seq }) => seq > afterSeq)
      .slice(0, limit);
  }

  async recordAttempt(): Promise<void> {
    // Only settlement is asked about later.
  }

  recordFailed(seq: number, error: { readonly code: string; readonly message: string }): Promise<void> {
    return this.recordRejected(seq, error);
  }
}

function memoryStore(): LedgerStore {
  let ledger: LastingLedger | undefined;
  return {
    open: async (_life: number, clock: Clock) => (ledger ??= new LastingLedger(clock)),
    keep() {
      // It is kept already.
    },
    async dispose() {
      await ledger?.close();
    },
  };
}

const SEEDS = 200;

test(`${SEEDS} histories with crashes, reorgs, lost transactions and full disks: one right result for each call`, async () => {
  const reports = await simulateSeeds(() => lineSystem(memoryStore()), { fromSeed: 1, seeds: SEEDS });
  const sum = (count: (report: SimulationReport) => number): number => reports.reduce((total, report) => total + count(report), 0);
  expect(sum(({ crashes }) => crashes)).toBeGreaterThan(SEEDS * 3);
  expect(sum(({ reorgs }) => reorgs)).toBeGreaterThan(SEEDS * 3);
  expect(sum(({ results }) => results)).toBeGreaterThan(SEEDS * 15);
});

test('a larger history: 300 calls over 300 blocks', async () => {
  const report = await simulate(lineSystem(memoryStore()), { seed: 1, calls: 300, blocks: 300, crashesMax: 50 });
  expect(report.violations).toEqual([]);
  expect(report.crashes).toBeGreaterThan(20);
});

test('the same seed gives the same history', async () => {
  const first = await simulate(lineSystem(memoryStore()), { seed: 11 });
  expect(await simulate(lineSystem(memoryStore()), { seed: 11 })).toEqual(first);
});

test('settlement that does not ask whether the call is still there is found out within 200 seeds', async () => {
  const trusting = (): ReturnType<typeof lineSystem> => {
    const system = lineSystem(memoryStore());
    return { ...system, start: (world) => system.start(confirmingAll(world)) };
  };
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const { violations } = await simulate(trusting(), { seed });
    if (violations.some(({ rule }) => rule === 'own-inputs')) return;
  }
  expect.fail(`${SEEDS} seeds did not show it`);
});

function confirmingAll(world: SimulationWorld): SimulationWorld {
  const chain = new Proxy(world.chain, {
    get: (target, key): unknown =>
      key === 'confirm' ? async (calls: readonly unknown[]) => calls.map(() => true) : Reflect.get(target, key, target),
  });
  return { ...world, chain };
}
