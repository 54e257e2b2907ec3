/**
 * Proves that a reorg that gives call ids other inputs never settles a result of the old ones, and that every call of the new branch is
 * answered; whether the old calls were only seen, were running, or were executed when their branch went. A real node that reorganises.
 *
 * Two rules see to it, and each is proved alone, beside a control in which it is taken away: confirmations keep a result from being
 * signed while a reorg of less depth can still take its call; the check of the inputs refuses to sign for a call that is gone, however
 * few confirmations there are, and also while the runner has not heard of the reorg.
 *
 * `npm run prove:reorg -- [--seed first] [--seeds n]`; exit status 1 when something does not hold.
 */

import { parseArgs } from 'node:util';
import { deployTangle, startLocalChain } from '../../src/testing/testing.ts';
import { playSeed } from './reorg-round.ts';
import type { Outcome, Scene, Surroundings } from './reorg-round.ts';

const { values } = parseArgs({ options: { seed: { type: 'string', default: '1' }, seeds: { type: 'string', default: '100' } } });
const FIRST = Number(values.seed);
const SEEDS = Number(values.seeds);
/** Of each rule alone, and of each control. */
const SEEDS_ALONE = Math.ceil(SEEDS / 10);

/** The runner as it is, under reorgs as deep as the confirmations: their newest block then lacks one on top of the calls. */
const WHOLE: Scene = {
  stages: ['submitted', 'running', 'executed'],
  confirmations: [1, 4],
  depthMax: (confirmations) => confirmations,
  checksInputs: true,
  isBlind: false,
  keepsSome: true,
};

/** No confirmations, and a runner that does not know of the reorg when it comes to sign. */
const CHECK_ALONE: Scene = { ...WHOLE, stages: ['running'], confirmations: [0, 0], depthMax: () => 3, isBlind: true, keepsSome: false };
const WITHOUT_CHECK: Scene = { ...CHECK_ALONE, checksInputs: false };

/** A runner that takes every call for being there, under reorgs of less depth than its confirmations. */
const CONFIRMATIONS_ALONE: Scene = {
  ...WHOLE,
  stages: ['executed'],
  confirmations: [2, 4],
  depthMax: (confirmations) => confirmations - 1,
  checksInputs: false,
};
const WITHOUT_CONFIRMATIONS: Scene = { ...WHOLE, stages: ['settled'], confirmations: [0, 0], keepsSome: false };

type Check = readonly [name: string, holds: boolean, figure: string];

interface Part {
  readonly title: string;
  readonly scene: Scene;
  readonly seeds: number;
  readonly checks: (sum: (count: keyof Omit<Outcome, 'stage'>) => number) => readonly Check[];
}

const none = (name: string, count: number): Check => [name, count === 0, `${count}`];
const some = (name: string, count: number): Check => [name, count > 0, `${count}`];

const PARTS: readonly Part[] = [
  {
    title: 'both rules: reorgs up to the depth of the confirmations (1 to 4)',
    scene: WHOLE,
    seeds: SEEDS,
    checks: (sum) => [
      none('results for orphaned inputs in signed transactions', sum('signedForOrphans')),
      none('in transactions given to the node', sum('sentForOrphans')),
      none('settled', sum('settledForOrphans')),
      ['calls of the new branch without a result', sum('unsettled') === 0, `${sum('unsettled')} of ${sum('replaced')}`],
      none('wrong results', sum('wrong')),
      ['orphaned after execution began', SEEDS < 20 || sum('orphanedBegun') > 0, `${sum('orphanedBegun')} of ${sum('orphaned')}`],
    ],
  },
  {
    title: 'the check of the inputs alone: 0 confirmations, the runner has not heard of the reorg',
    scene: CHECK_ALONE,
    seeds: SEEDS_ALONE,
    checks: (sum) => [
      ['orphaned inputs whose results the check refused', sum('refused') === sum('orphaned'), `${sum('refused')} of ${sum('orphaned')}`],
      none('results for orphaned inputs in signed transactions', sum('signedForOrphans')),
      none('settled', sum('settledForOrphans')),
      none('wrong results, or none, in the new branch', sum('wrong')),
    ],
  },
  {
    title: 'control: the same without the check',
    scene: WITHOUT_CHECK,
    seeds: SEEDS_ALONE,
    checks: (sum) => [some('results settled for orphaned inputs', sum('settledForOrphans'))],
  },
  {
    title: 'confirmations alone: the check says yes to everything, reorgs less deep than the confirmations (2 to 4)',
    scene: CONFIRMATIONS_ALONE,
    seeds: SEEDS_ALONE,
    checks: (sum) => [
      some('inputs orphaned after their result was journaled', sum('orphaned')),
      none('results for orphaned inputs in signed transactions', sum('signedForOrphans')),
      none('settled', sum('settledForOrphans')),
      none('wrong results, or none, in the new branch', sum('wrong')),
    ],
  },
  {
    title: 'control: 0 confirmations, with the check',
    scene: WITHOUT_CONFIRMATIONS,
    seeds: SEEDS_ALONE,
    checks: (sum) => [some('results for orphaned inputs in signed transactions', sum('signedForOrphans'))],
  },
];

async function playPart({ title, scene, seeds, checks }: Part, surroundings: Surroundings): Promise<boolean> {
  const startedMs = performance.now();
  const outcomes: Outcome[] = [];
  for (let seed = FIRST; seed < FIRST + seeds; seed += 1) {
    outcomes.push(await playSeed(surroundings, scene, seed));
    if (outcomes.length % 50 === 0) console.log(`${outcomes.length} of ${seeds} seeds`);
  }
  const stages = scene.stages.map((stage) => `${stage} ${outcomes.filter((outcome) => outcome.stage === stage).length}`);
  console.log(`\n${title}`);
  console.log(
    `seeds ${FIRST} to ${FIRST + seeds - 1}, ${((performance.now() - startedMs) / 1000).toFixed(1)} s; the old calls were: ${stages.join(', ')}`,
  );
  const results = checks((count) => outcomes.reduce((total, outcome) => total + outcome[count], 0));
  for (const [name, holds, figure] of results) console.log(`${holds ? 'ok  ' : 'FAIL'}  ${name.padEnd(54)} ${figure}`);
  return results.every(([, holds]) => holds);
}

async function main(): Promise<boolean> {
  const chain = await startLocalChain();
  try {
    const tangle = await deployTangle(chain);
    const surroundings = { chain, tangle, service: await tangle.startService({ jobs: [{ name: 'square' }] }) };
    const held: boolean[] = [];
    for (const part of PARTS) held.push(await playPart(part, surroundings));
    return held.every(Boolean);
  } finally {
    await chain.stop();
  }
}

process.exitCode = (await main()) ? 0 : 1;
