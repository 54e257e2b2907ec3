import { describe, expect, test } from 'vitest';
import { simulate, simulateSeeds } from '../../src/testing/simulation.ts';
import type { PlantedFault } from './reference-system.ts';
import { referenceSystem } from './reference-system.ts';

const CALM = { rpcError: 0, lag: 0, clockJump: 0, outage: 0, send: 0, reorg: 0, executor: 0, diskFull: 0, crash: 0, rival: 0, feeSpike: 0 };

test('a world without faults answers everything', async () => {
  const report = await simulate(referenceSystem(), { seed: 1, faults: CALM });
  expect(report).toMatchObject({ violations: [], calls: 24, crashes: 0, reorgs: 0 });
  expect(report.results).toBeGreaterThan(15);
});

test('a sound system keeps its promises through every fault', async () => {
  const reports = await simulateSeeds(() => referenceSystem(), { fromSeed: 1, seeds: 40 });
  const sum = (count: (report: (typeof reports)[number]) => number): number => reports.reduce((total, report) => total + count(report), 0);
  expect(sum((report) => report.crashes)).toBeGreaterThan(40);
  expect(sum((report) => report.reorgs)).toBeGreaterThan(100);
  expect(sum((report) => report.results)).toBeGreaterThan(500);
});

test('the same seed gives the same history, another seed another', async () => {
  const [first, again, other] = [
    await simulate(referenceSystem(), { seed: 7 }),
    await simulate(referenceSystem(), { seed: 7 }),
    await simulate(referenceSystem(), { seed: 8 }),
  ];
  expect(again).toEqual(first);
  expect(other.historyHash).not.toBe(first.historyHash);
});

describe('the checker finds', () => {
  const faults: readonly (readonly [PlantedFault, string])[] = [
    ['skip-inputs-check', 'own-inputs'],
    ['submit-twice', 'once'],
    ['lose-call', 'answered'],
    ['rerun', 'no-rerun'],
    ['forget-sent', 'answered'],
    ['unbounded', 'bounded'],
  ];
  test.each(faults)('%s, within 200 seeds, as a violation of %s', async (fault, rule) => {
    for (let seed = 1; seed <= 200; seed += 1) {
      const { violations } = await simulate(referenceSystem(fault), { seed });
      if (violations.some((violation) => violation.rule === rule)) return;
    }
    expect.fail(`200 seeds did not show ${fault}`);
  });

  test('a gap of nonces', async () => {
    const report = await simulate(referenceSystem('forget-sent'), { seed: 2, faults: { ...CALM, send: 0.5 } });
    expect(report.violations.map((violation) => violation.rule)).toContain('nonces');
  });
});

test('a failure names its seed', async () => {
  await expect(simulateSeeds(() => referenceSystem('unbounded'), { fromSeed: 5, seeds: 1, faults: CALM })).rejects.toThrow(
    /seed 5: bounded/u,
  );
});
