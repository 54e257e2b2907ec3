import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Clock } from '../../src/clock.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import type { SimulationReport } from '../../src/testing/simulation.ts';
import { simulate, simulateSeeds } from '../../src/testing/simulation.ts';
import type { SimulationWorld } from '../../src/testing/simulation-world.ts';
import type { LedgerStore } from './line-system.ts';
import { lineSystem } from './line-system.ts';

/** Memory where there is some: thousands of histories need not wait for a disk. */
const ROOT = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
const FILES = ['ledger.db', 'ledger.db-wal'];

/**
 * A file for each life of the process. What the last life had written when it was gone is copied to the next one; what it had only
 * begun to write arrives in a file that nobody reads any more.
 */
function sqliteStore(): LedgerStore {
  const root = mkdtempSync(join(ROOT, 'simulated-ledger-'));
  const folder = (life: number): string => join(root, String(life));
  const opened: SqliteLedger[] = [];
  return {
    async open(life: number, clock: Clock) {
      const ledger = SqliteLedger.open({ path: join(folder(life), 'ledger.db'), clock });
      opened.push(ledger);
      return ledger;
    },
    keep(life) {
      mkdirSync(folder(life + 1), { recursive: true });
      for (const file of FILES)
        if (existsSync(join(folder(life), file))) copyFileSync(join(folder(life), file), join(folder(life + 1), file));
    },
    async dispose() {
      await Promise.all(opened.map((ledger) => ledger.close()));
      rmSync(root, { recursive: true, force: true });
    },
  };
}

const SEEDS = 200;

test(`${SEEDS} histories with crashes, reorgs, lost transactions and full disks: one right result for each call`, async () => {
  const reports = await simulateSeeds(() => lineSystem(sqliteStore()), { fromSeed: 1, seeds: SEEDS });
  const sum = (count: (report: SimulationReport) => number): number => reports.reduce((total, report) => total + count(report), 0);
  expect(sum(({ crashes }) => crashes)).toBeGreaterThan(SEEDS * 3);
  expect(sum(({ reorgs }) => reorgs)).toBeGreaterThan(SEEDS * 3);
  expect(sum(({ results }) => results)).toBeGreaterThan(SEEDS * 15);
});

test('a larger history: 300 calls over 300 blocks', async () => {
  const report = await simulate(lineSystem(sqliteStore()), { seed: 1, calls: 300, blocks: 300, crashesMax: 50 });
  expect(report.violations).toEqual([]);
  expect(report.crashes).toBeGreaterThan(20);
});

test('the same seed gives the same history', async () => {
  const first = await simulate(lineSystem(sqliteStore()), { seed: 11 });
  expect(await simulate(lineSystem(sqliteStore()), { seed: 11 })).toEqual(first);
});

test('settlement that does not ask whether the call is still there is found out within 200 seeds', async () => {
  const trusting = (): ReturnType<typeof lineSystem> => {
    const system = lineSystem(sqliteStore());
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
