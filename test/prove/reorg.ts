/**
 * Proves that a reorg that gives call ids other inputs never settles a result of the old ones, and that every call of the new branch is
 * answered; whether the old calls were only seen, were running, or were executed when their branch went. A real node that reorganises,
 * not deeper than the confirmations that the runner waits for.
 *
 * `npm run prove:reorg -- [--seed first] [--seeds n]`; exit status 1 when something does not hold.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { encodeAbiParameters } from 'viem/utils';
import { privateKeyToAccount } from 'viem/accounts';
import { BlueprintRunner } from '../../src/index.ts';
import { defineJob } from '../../src/job/job.ts';
import { JobRouter } from '../../src/job/router.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { Random, deployTangle, startLocalChain } from '../../src/testing/testing.ts';
import type { LocalChain, LocalService, LocalTangle } from '../../src/testing/testing.ts';

const { values } = parseArgs({ options: { seed: { type: 'string', default: '1' }, seeds: { type: 'string', default: '100' } } });
const FIRST = Number(values.seed);
const SEEDS = Number(values.seeds);
const CONFIRMATIONS_MAX = 4;
const CALLS_MAX = 6;
const DEADLINE_MS = 20_000;
/** How far the old calls got before the reorg. */
const STAGES = ['submitted', 'running', 'executed'] as const;
type Stage = (typeof STAGES)[number];

const encode = (value: bigint): `0x${string}` => encodeAbiParameters([{ type: 'uint64' }], [value]);
const valueOf = (bytes: Uint8Array): bigint => BigInt(`0x${Buffer.from(bytes).toString('hex')}`);
/** Inputs are never used twice, so a result tells which input it answers. */
let nextInput = 1n;

async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const startedMs = performance.now();
  while (!(await holds())) {
    if (performance.now() - startedMs > DEADLINE_MS) throw new Error(`${what}: not within ${DEADLINE_MS / 1000} s`);
    await sleep(5);
  }
}

/** A job that says what it was asked, and can be held in the middle. */
class Squaring {
  readonly begun = new Set<bigint>();
  readonly router: JobRouter;
  #gate: Promise<void> | undefined;
  #open: () => void = () => {};

  constructor() {
    const job = defineJob({ name: 'square', params: 'uint64 x', result: 'uint64', idempotent: true }, async ([x]) => {
      this.begun.add(x);
      await this.#gate;
      return x * x;
    });
    this.router = new JobRouter().route(0, job);
  }

  hold(): void {
    this.#gate = new Promise((resolve) => (this.#open = resolve));
  }

  release(): void {
    this.#gate = undefined;
    this.#open();
  }
}

interface Surroundings {
  readonly chain: LocalChain;
  readonly tangle: LocalTangle;
  readonly service: LocalService;
}

interface Round {
  readonly stage: Stage;
  /** Old inputs that are on no branch any more, and that had begun to execute. */
  readonly orphaned: readonly bigint[];
  readonly orphanedBegun: number;
  readonly replaced: number;
  readonly settledForOrphans: number;
  readonly unsettled: number;
  readonly wrong: number;
}

async function playSeed({ chain, tangle, service }: Surroundings, seed: number): Promise<Round> {
  const random = new Random(seed);
  const stage = random.pick(STAGES);
  const confirmations = random.int(1, CONFIRMATIONS_MAX);
  const depth = random.int(1, confirmations);
  const jobs = new Squaring();
  const ledger = SqliteLedger.open({ path: ':memory:' });
  const [operator] = service.operators;
  if (!operator) throw new Error('the service has no operator');
  const { serviceId } = service;
  const before = (await tangle.calls(serviceId)).length;
  const fromBlock = BigInt(String(await chain.request('eth_blockNumber', []))) + 1n;
  const runner = await BlueprintRunner.builder(
    {
      serviceIds: [serviceId],
      blueprintId: service.blueprintId,
      rpcUrl: chain.rpcUrl,
      wsUrl: chain.wsUrl,
      contract: tangle.contract,
      chainId: chain.chainId,
      confirmations,
      fromBlock,
      metrics: false,
      logLevel: 'error',
    },
    {},
  )
    .router(jobs.router)
    .ledger(ledger)
    .signer(privateKeyToAccount(operator.privateKey))
    .start();
  try {
    if (stage === 'running') jobs.hold();
    const old = Array.from({ length: random.int(1, CALLS_MAX) }, () => nextInput++);
    await tangle.submitMany(
      serviceId,
      old.map((input) => ({ jobIndex: 0, inputs: encode(input) })),
    );
    if (depth > 1) await chain.mine(depth - 1);
    if (stage === 'running') await until('execution begins', () => old.every((input) => jobs.begun.has(input)));
    if (stage === 'executed') await until('all is executed', () => ledger.stats().byState.executed === old.length);
    // The same ids, other inputs; some calls keep theirs, some vanish, some come new.
    const count = random.int(1, CALLS_MAX);
    const fresh = Array.from({ length: count }, (_, index) => (random.chance(0.2) ? (old[index] ?? nextInput++) : nextInput++));
    const block = random.int(0, depth - 1);
    await chain.reorg(
      depth,
      fresh.map((input) => ({ transaction: tangle.jobTransaction(serviceId, { jobIndex: 0, inputs: encode(input) }), block })),
    );
    jobs.release();
    await chain.mine(confirmations + 1);
    const canonical = (await tangle.calls(serviceId)).slice(before);
    if (canonical.length !== count) throw new Error(`the new branch has ${canonical.length} calls instead of ${count}`);
    const ids = new Set(canonical.map(({ callId }) => callId));
    const results = async () => (await tangle.results(serviceId)).filter(({ callId }) => ids.has(callId));
    await until(`seed ${seed}: all calls of the new branch are settled`, async () => (await results()).length >= count);
    await chain.mine(confirmations + 1);
    const settled = new Map((await results()).map(({ callId, output }) => [callId, valueOf(output)]));
    const kept = new Set(fresh);
    const orphaned = old.filter((input) => !kept.has(input));
    const orphanSquares = new Set(orphaned.map((input) => input * input));
    return {
      stage,
      orphaned,
      orphanedBegun: orphaned.filter((input) => jobs.begun.has(input)).length,
      replaced: canonical.length,
      settledForOrphans: [...settled.values()].filter((value) => orphanSquares.has(value)).length,
      unsettled: canonical.filter(({ callId }) => !settled.has(callId)).length,
      wrong: canonical.filter(({ callId, inputs }) => settled.get(callId) !== valueOf(inputs) ** 2n).length,
    };
  } finally {
    jobs.release();
    await runner.stop();
    await ledger.close();
  }
}

async function main(): Promise<boolean> {
  const chain = await startLocalChain();
  const rounds: Round[] = [];
  try {
    const tangle = await deployTangle(chain);
    const service = await tangle.startService({ jobs: [{ name: 'square' }] });
    for (let seed = FIRST; seed < FIRST + SEEDS; seed += 1) {
      rounds.push(await playSeed({ chain, tangle, service }, seed));
      if (rounds.length % 20 === 0) console.log(`${rounds.length} of ${SEEDS} seeds`);
    }
  } finally {
    await chain.stop();
  }
  const sum = (of: (round: Round) => number): number => rounds.reduce((total, round) => total + of(round), 0);
  const stages = STAGES.map((stage) => `${stage} ${rounds.filter((round) => round.stage === stage).length}`);
  console.log(`seeds ${FIRST} to ${FIRST + SEEDS - 1}; the old calls were: ${stages.join(', ')}`);
  console.log(
    `${sum(({ orphaned }) => orphaned.length)} inputs orphaned, ${sum(({ orphanedBegun }) => orphanedBegun)} of them after execution began`,
  );
  const checks: [string, boolean, string][] = [
    [
      'results settled for orphaned inputs',
      sum(({ settledForOrphans }) => settledForOrphans) === 0,
      `${sum(({ settledForOrphans }) => settledForOrphans)}`,
    ],
    [
      'calls of the new branch without a result',
      sum(({ unsettled }) => unsettled) === 0,
      `${sum(({ unsettled }) => unsettled)} of ${sum(({ replaced }) => replaced)}`,
    ],
    ['wrong results', sum(({ wrong }) => wrong) === 0, `${sum(({ wrong }) => wrong)}`],
    [
      'orphaned after execution began',
      SEEDS < 20 || sum(({ orphanedBegun }) => orphanedBegun) > 0,
      `${sum(({ orphanedBegun }) => orphanedBegun)}`,
    ],
    ['seeds', rounds.length === SEEDS, `${rounds.length}`],
  ];
  for (const [name, holds, figure] of checks) console.log(`${holds ? 'ok  ' : 'FAIL'}  ${name.padEnd(46)} ${figure}`);
  return checks.every(([, holds]) => holds);
}

process.exitCode = (await main()) ? 0 : 1;
