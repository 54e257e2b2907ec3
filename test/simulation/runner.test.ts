import { beforeAll, describe, expect, test } from 'vitest';
import type { RunnerError } from '../../src/errors.ts';
import type { Rule } from '../../src/testing/simulation-checker.ts';
import type { SimulationReport } from '../../src/testing/simulation.ts';
import { simulate, simulateSeeds } from '../../src/testing/simulation.ts';
import { forgetsExecuted, ignoresConfirmations, losesCalls, neverFinal, sendsAgainWithNewNonce, skipsInputsCheck } from './broken-parts.ts';
import type { BrokenParts } from './runner-system.ts';
import { runnerSystem } from './runner-system.ts';

const SEEDS = 200;

// What a runner imports when it is built and started: the clock of a history does not wait for it.
beforeAll(async () => void (await Promise.all([import('../../src/executor/registry.ts'), import('../../src/runner/line.ts')])));

test(`${SEEDS} histories with crashes, reorgs, lost transactions and full disks: one right result for each call`, async () => {
  const reports = await simulateSeeds(() => runnerSystem(), { fromSeed: 1, seeds: SEEDS });
  const sum = (count: (report: SimulationReport) => number): number => reports.reduce((total, report) => total + count(report), 0);
  expect(sum(({ crashes }) => crashes)).toBeGreaterThan(SEEDS * 3);
  expect(sum(({ reorgs }) => reorgs)).toBeGreaterThan(SEEDS * 3);
  expect(sum(({ results }) => results)).toBeGreaterThan(SEEDS * 15);
});

test('a larger history: 300 calls over 300 blocks', async () => {
  const report = await simulate(runnerSystem(), { seed: 1, calls: 300, blocks: 300, crashesMax: 50 });
  expect(report.violations).toEqual([]);
  expect(report.crashes).toBeGreaterThan(20);
});

test('the same seed gives the same history', async () => {
  const first = await simulate(runnerSystem(), { seed: 11 });
  expect(await simulate(runnerSystem(), { seed: 11 })).toEqual(first);
});

test('a failure names its seed, and the seed shows it again', async () => {
  const failing = async (seed: number): Promise<unknown> =>
    simulateSeeds(() => runnerSystem(forgetsExecuted), { fromSeed: seed, seeds: 50 }).catch((error: unknown) => error);
  const first = await failing(1);
  expect(first).toMatchObject({ code: 'INTERNAL', message: expect.stringMatching(/^seed \d+: /u), details: { seed: expect.any(Number) } });
  const { details, message } = first as RunnerError; // matched above
  expect(await failing(Number(details['seed']))).toMatchObject({ message });
});

describe('the checker finds out', () => {
  const mutants: readonly (readonly [string, BrokenParts, readonly Rule[]])[] = [
    ['a check of the inputs that always says yes', skipsInputsCheck, ['confirmed', 'own-inputs']],
    ['a ledger that hands out results before their calls are confirmed', ignoresConfirmations, ['confirmed', 'own-inputs']],
    ['a ledger that forgets at the start what was executed', forgetsExecuted, ['no-rerun', 'delivered-once']],
    ['a ledger that never calls a result final', neverFinal, ['settled']],
    ['a ledger that moves its cursor and drops the calls now and then', losesCalls, ['answered']],
    ['a second transaction with a new nonce after a lost answer', sendsAgainWithNewNonce, ['once']],
  ];
  test.each(mutants)('%s', async (_, broken, rules) => {
    const missing = new Set(rules);
    for (let seed = 1; seed <= SEEDS && missing.size > 0; seed += 1) {
      const { violations } = await simulate(runnerSystem(broken), { seed });
      for (const { rule } of violations) missing.delete(rule);
    }
    expect([...missing]).toEqual([]);
  });
});
