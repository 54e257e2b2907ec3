/** One reorg under a running runner, for `reorg.ts`: what is signed, sent and settled is watched, and each of the two rules can be taken away. */

import { setTimeout as sleep } from 'node:timers/promises';
import { privateKeyToAccount } from 'viem/accounts';
import { encodeAbiParameters, parseTransaction } from 'viem/utils';
import type { ChainClient, ChainUpdate, FollowOptions, Signer } from '../../src/chain/chain.ts';
import { decodeSubmission } from '../../src/chain/mock-contract.ts';
import { connectRpcChain, defineJob, BlueprintRunner, JobRouter, SqliteLedger } from '../../src/index.ts';
import type { ChainCall, Hex } from '../../src/index.ts';
import { Random } from '../../src/testing/testing.ts';
import type { LocalChain, LocalService, LocalTangle } from '../../src/testing/testing.ts';

const CALLS_MAX = 6;
const DEADLINE_MS = 20_000;
/** How far the old calls got before the reorg: not seen for sure, running, executed, or with a result on the chain. */
export type Stage = 'submitted' | 'running' | 'executed' | 'settled';

export interface Scene {
  readonly stages: readonly Stage[];
  /** Least and most. */
  readonly confirmations: readonly [number, number];
  /** Deepest reorg for so many confirmations. Without effect on the stage `settled`: there it takes all blocks from the calls on. */
  readonly depthMax: (confirmations: number) => number;
  /** False: the runner is told that every call is on the chain still. */
  readonly checksInputs: boolean;
  /** The runner hears of the reorg only when it has tried to settle what the reorg took away. */
  readonly isBlind: boolean;
  /** Some old calls come back with the new branch. */
  readonly keepsSome: boolean;
}

export interface Surroundings {
  readonly chain: LocalChain;
  readonly tangle: LocalTangle;
  readonly service: LocalService;
}

export interface Outcome {
  readonly stage: Stage;
  /** Old inputs that are on no branch any more. */
  readonly orphaned: number;
  readonly orphanedBegun: number;
  /** Of them, those that the check of the inputs refused at least once. */
  readonly refused: number;
  /** Results in signed, and in sent, transactions. */
  readonly signedForOrphans: number;
  readonly sentForOrphans: number;
  readonly settledForOrphans: number;
  readonly replaced: number;
  readonly unsettled: number;
  readonly wrong: number;
}

const encode = (value: bigint): Hex => encodeAbiParameters([{ type: 'uint64' }], [value]);
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

/** The chain and the key of the runner: what goes through them is written down. */
class Watch {
  readonly refused = new Set<bigint>();
  /** Every result in a signed, and in a sent, transaction. */
  readonly signed: bigint[] = [];
  readonly sent: bigint[] = [];
  readonly signer: Signer;
  readonly chain: ChainClient;
  readonly #client: ChainClient;
  readonly #checksInputs: boolean;
  #gate: Promise<void> | undefined;
  #open: () => void = () => {};

  constructor(client: ChainClient, key: Hex, checksInputs: boolean) {
    this.#client = client;
    this.#checksInputs = checksInputs;
    const account = privateKeyToAccount(key);
    this.signer = {
      address: account.address,
      signTransaction: (transaction) => {
        this.signed.push(...resultsIn(transaction.data));
        return account.signTransaction(transaction);
      },
    };
    const watched: Partial<ChainClient> = {
      follow: (options) => this.#follow(options),
      confirm: (calls) => this.#confirm(calls),
      send: async (raw) => {
        this.sent.push(...resultsIn(parseTransaction(raw).data));
        return client.send(raw);
      },
    };
    this.chain = new Proxy(client, {
      get: (_, key): unknown => {
        if (Object.hasOwn(watched, key)) return Reflect.get(watched, key);
        const value: unknown = Reflect.get(client, key, client);
        return typeof value === 'function' ? value.bind(client) : value;
      },
    });
  }

  /** Nothing that happens on the chain is told until `see`. */
  blind(): void {
    this.#gate = new Promise((resolve) => (this.#open = resolve));
  }

  see(): void {
    this.#gate = undefined;
    this.#open();
  }

  async *#follow(options: FollowOptions): AsyncIterable<ChainUpdate> {
    for await (const update of this.#client.follow(options)) {
      await this.#gate;
      yield update;
    }
  }

  async #confirm(calls: readonly ChainCall[]): Promise<boolean[]> {
    if (!this.#checksInputs) return calls.map(() => true);
    const answers = await this.#client.confirm(calls);
    for (const [index, { inputs }] of calls.entries()) if (answers[index] === false) this.refused.add(valueOf(inputs));
    return answers;
  }
}

function resultsIn(data: Hex = '0x'): bigint[] {
  return (decodeSubmission(data)?.results ?? []).map(valueOf);
}

interface Round {
  readonly surroundings: Surroundings;
  readonly scene: Scene;
  readonly random: Random;
  readonly stage: Stage;
  readonly confirmations: number;
  readonly depth: number;
  readonly jobs: Squaring;
  readonly watch: Watch;
  readonly ledger: SqliteLedger;
  readonly reorgs: () => number;
}

/** The old calls, as far as the stage says. */
async function playOldBranch({ surroundings, random, stage, depth, jobs, ledger }: Round): Promise<{ old: bigint[]; depth: number }> {
  const { chain, tangle, service } = surroundings;
  const blockNumber = async (): Promise<number> => Number(await chain.request('eth_blockNumber', []));
  if (stage === 'running') jobs.hold();
  const before = await blockNumber();
  const old = Array.from({ length: random.int(1, CALLS_MAX) }, () => nextInput++);
  const calls = old.map((input) => ({ jobIndex: 0, inputs: encode(input) }));
  const known = (await tangle.results(service.serviceId)).length;
  await tangle.submitMany(service.serviceId, calls);
  if (stage === 'running') await until('execution begins', () => old.every((input) => jobs.begun.has(input)));
  if (stage === 'settled') {
    await until('all is settled', async () => (await tangle.results(service.serviceId)).length === known + old.length);
    return { old, depth: (await blockNumber()) - before };
  }
  if (depth > 1) await chain.mine(depth - 1);
  if (stage === 'executed') await until('all is executed', () => ledger.stats().byState.executed === old.length);
  return { old, depth };
}

/** The same ids, other inputs; some calls may keep theirs, some vanish, some come new. */
async function playNewBranch(round: Round, old: readonly bigint[], depth: number): Promise<bigint[]> {
  const { surroundings, scene, random, jobs, watch, confirmations, reorgs } = round;
  const { chain, tangle, service } = surroundings;
  const count = scene.isBlind ? old.length : random.int(1, CALLS_MAX);
  const fresh = Array.from({ length: count }, (_, index) => {
    const keeps = scene.keepsSome && random.chance(0.2);
    return keeps ? (old[index] ?? nextInput++) : nextInput++;
  });
  const block = random.int(0, depth - 1);
  const mined = fresh.map((input) => ({
    transaction: tangle.jobTransaction(service.serviceId, { jobIndex: 0, inputs: encode(input) }),
    block,
  }));
  if (scene.isBlind) watch.blind();
  await chain.reorg(depth, mined);
  jobs.release();
  if (scene.isBlind && scene.checksInputs) await until('the check refuses', () => old.every((input) => watch.refused.has(input)));
  if (scene.isBlind && !scene.checksInputs) await until('the old results are sent', () => watch.sent.length >= old.length);
  watch.see();
  // Confirmations protect whoever follows the chain: without the check, the runner must have heard of the reorg before they are there.
  if (!scene.isBlind && !scene.checksInputs) await until('the reorg is noticed', () => reorgs() > 0);
  await chain.mine(confirmations + 1);
  return fresh;
}

async function settleNewBranch(
  round: Round,
  before: number,
  count: number,
): Promise<{ canonical: ChainCall[]; settled: Map<bigint, bigint> }> {
  const { chain, tangle, service } = round.surroundings;
  const canonical = (await tangle.calls(service.serviceId)).slice(before);
  if (canonical.length !== count) throw new Error(`the new branch has ${canonical.length} calls instead of ${count}`);
  const ids = new Set(canonical.map(({ callId }) => callId));
  const results = async () => (await tangle.results(service.serviceId)).filter(({ callId }) => ids.has(callId));
  await until('all calls of the new branch are settled', async () => (await results()).length >= count);
  await chain.mine(round.confirmations + 1);
  return { canonical, settled: new Map((await results()).map(({ callId, output }) => [callId, valueOf(output)])) };
}

async function play(round: Round): Promise<Outcome> {
  const { surroundings, stage, jobs, watch } = round;
  const before = (await surroundings.tangle.calls(surroundings.service.serviceId)).length;
  const { old, depth } = await playOldBranch(round);
  const fresh = await playNewBranch(round, old, depth);
  const { canonical, settled } = await settleNewBranch(round, before, fresh.length);
  const kept = new Set(fresh);
  const orphaned = old.filter((input) => !kept.has(input));
  const squares = new Set(orphaned.map((input) => input * input));
  const countOf = (results: Iterable<bigint>): number => [...results].filter((value) => squares.has(value)).length;
  return {
    stage,
    orphaned: orphaned.length,
    orphanedBegun: orphaned.filter((input) => jobs.begun.has(input)).length,
    refused: orphaned.filter((input) => watch.refused.has(input)).length,
    signedForOrphans: countOf(watch.signed),
    sentForOrphans: countOf(watch.sent),
    settledForOrphans: countOf(settled.values()),
    replaced: canonical.length,
    unsettled: canonical.filter(({ callId }) => !settled.has(callId)).length,
    wrong: canonical.filter(({ callId, inputs }) => settled.get(callId) !== valueOf(inputs) ** 2n).length,
  };
}

/** Runs one seed with a runner of its own. */
export async function playSeed(surroundings: Surroundings, scene: Scene, seed: number): Promise<Outcome> {
  const { chain, tangle, service } = surroundings;
  const random = new Random(seed);
  const stage = random.pick(scene.stages);
  const confirmations = random.int(...scene.confirmations);
  const depth = random.int(1, scene.depthMax(confirmations));
  const jobs = new Squaring();
  const ledger = SqliteLedger.open({ path: ':memory:' });
  const { rpcUrl, wsUrl, chainId } = chain;
  const client = await connectRpcChain({ rpcUrl, wsUrl, chainId, contract: tangle.contract });
  const watch = new Watch(client, service.operators[0]?.privateKey ?? '0x', scene.checksInputs);
  const fromBlock = BigInt(String(await chain.request('eth_blockNumber', []))) + 1n;
  const { serviceId, blueprintId } = service;
  let reorgs = 0;
  const runner = await BlueprintRunner.builder(
    { serviceIds: [serviceId], blueprintId, confirmations, fromBlock, metrics: false, logLevel: 'error' },
    {},
  )
    .router(jobs.router)
    .ledger(ledger)
    .chain(watch.chain)
    .signer(watch.signer)
    .build();
  runner.on('reorg', () => (reorgs += 1));
  try {
    await runner.start();
    return await play({ surroundings, scene, random, stage, confirmations, depth, jobs, watch, ledger, reorgs: () => reorgs });
  } catch (cause) {
    throw new Error(`seed ${seed}, ${stage}, ${confirmations} confirmations, depth ${depth}`, { cause });
  } finally {
    jobs.release();
    watch.see();
    await runner.stop();
    await client.close();
    await ledger.close();
  }
}
