import { describe, expect, it } from 'vitest';
import { RunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import { Metadata } from '../job/call.ts';
import { SqliteLedger } from '../ledger/sqlite.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { FakeClock, Random } from '../testing/fake-clock.ts';
import type { SettlementChain, Signer } from './chain.ts';
import { MockChainClient } from './mock.ts';
import type { MockMethod, SendFault } from './mock.ts';
import { MockChain } from './mock-chain.ts';
import { mockSigner } from './mock-transaction.ts';
import { Settlement } from './settlement.ts';

const OPERATOR: Address = '0x00000000000000000000000000000000000000aa';
const RIVAL: Address = '0x00000000000000000000000000000000000000bb';
const GWEI = 1_000_000_000n;
const CONFIRMATIONS = 2;
const FINALITY = 6;

const outputFor = (inputs: Uint8Array): Uint8Array => Uint8Array.from([0x0f, ...inputs]);
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text));
const nameOf = (call: ChainCall): string => Buffer.from(call.inputs).toString();

const SYNCHRONOUS = new Set([
  'settleable',
  'pendingTransactions',
  'minedTransactions',
  'get',
  'find',
  'transactionsOf',
  'encodeResults',
  'stats',
  'events',
  'getValue',
  'cursor',
  'waiting',
]);

/** The time of a process: it dies at one of its steps, before or after that step has its effect. Then nothing of it goes on. */
class Life {
  steps = 0;
  dead = false;
  readonly #dieAt: number;
  readonly #when: 'before' | 'after';

  constructor(dieAt = Number.POSITIVE_INFINITY, when: 'before' | 'after' = 'before') {
    this.#dieAt = dieAt;
    this.#when = when;
  }

  async step<T>(effect: () => Promise<T>): Promise<T> {
    const never = new Promise<T>(() => undefined);
    if (this.dead) return never;
    this.steps += 1;
    if (this.steps !== this.#dieAt) {
      const value = await effect();
      return this.dead ? never : value;
    }
    this.dead = true;
    if (this.#when === 'after') await effect();
    return never;
  }

  /** The same thing, but every asynchronous method is a step. */
  live<T extends object>(target: T): T {
    return new Proxy(target, {
      get: (_, name) => {
        const value: unknown = Reflect.get(target, name, target);
        if (typeof value !== 'function') return value;
        if (SYNCHRONOUS.has(String(name))) return value.bind(target);
        return (...args: unknown[]) => this.step(() => value.apply(target, args));
      },
    });
  }
}

interface Faults {
  send?: () => SendFault | undefined;
  rpc?: () => RunnerError | undefined;
  latencyMs?: (method: MockMethod) => number;
}

class World {
  readonly clock = new FakeClock();
  readonly chain = new MockChain({ clock: this.clock });
  readonly ledger = SqliteLedger.open({ path: ':memory:', clock: this.clock });
  readonly faults: Faults = {};
  readonly client = new MockChainClient({
    chain: this.chain,
    clock: this.clock,
    faults: {
      send: () => this.faults.send?.(),
      rpc: (method) => (method === 'follow' ? undefined : this.faults.rpc?.()),
      latencyMs: (method) => this.faults.latencyMs?.(method) ?? 0,
    },
  });
  readonly raws = new Map<number, Set<Hex>>();
  life = new Life();
  settlement: Settlement | undefined;
  readonly #following = new AbortController();

  constructor() {
    this.chain.addService({ operators: [OPERATOR, RIVAL], requiredResults: 1 });
    this.chain.refuseResults(({ inputs }) => (Buffer.from(inputs).toString().startsWith('bad') ? 'SchemaValidationFailed' : undefined));
    void this.#follow();
  }

  /** A new process takes up the ledger of the one before. */
  async start(life: Life): Promise<void> {
    this.life = life;
    const signer: Signer = mockSigner(OPERATOR);
    const chain: SettlementChain = life.live(this.client);
    this.settlement = new Settlement({
      chain,
      ledger: life.live(this.ledger),
      signer: life.live(signer),
      clock: this.clock,
      telemetry: silentTelemetry,
      confirmations: CONFIRMATIONS,
      finality: FINALITY,
      batchMax: 3,
      inFlightMax: 4,
      resendAfterMs: 500,
      resubmitAfterMs: 4_000,
      resubmitAfterBlocks: 3,
      pollMs: 400,
    });
    void this.settlement.start();
    await this.clock.advance(1);
  }

  async #follow(): Promise<void> {
    for await (const update of this.client.follow({ fromBlock: 0n, signal: this.#following.signal })) {
      if (update.type === 'head') this.settlement?.onHead(update.block);
      else if (update.type === 'reorg') await this.ledger.recordReorg(update.cursor);
      else {
        await this.ledger.recordSeen(update.calls, update.cursor);
        for (const { seq, call } of this.ledger.find({ states: ['seen'], limit: 1_000 })) {
          await this.ledger.recordExecuted(
            seq,
            { body: outputFor(call.body), metadata: new Metadata() },
            { executor: 'test', durationMs: 1 },
          );
          this.settlement?.wake();
        }
      }
    }
  }

  submit(...names: string[]): void {
    for (const name of names) this.chain.submitJob({ serviceId: 0n, jobIndex: 0, inputs: bytes(name) });
  }

  async mine(count: number, afterMs: number): Promise<void> {
    for (let index = 0; index < count; index += 1) {
      this.chain.mine();
      await this.clock.advance(afterMs);
    }
  }

  /** One result for every call that the contract takes one for, made for its inputs; no nonce is left open. */
  check(label: string): void {
    const results = this.chain.results();
    const answered = new Map<string, number>();
    for (const result of results) {
      const key = `${result.serviceId}/${result.callId}`;
      answered.set(key, (answered.get(key) ?? 0) + 1);
      if (result.operator === OPERATOR)
        expect(Buffer.from(result.output).toString(), `${label}: result of ${key}`).toBe(
          Buffer.from(outputFor(result.call.inputs)).toString(),
        );
    }
    for (const call of this.chain.calls()) {
      const expected = nameOf(call).startsWith('bad') ? undefined : 1;
      expect(answered.get(`${call.serviceId}/${call.callId}`), `${label}: results of ${nameOf(call)}`).toBe(expected);
    }
    expect(this.chain.pooled(OPERATOR).length, `${label}: transactions in the pool`).toBe(0);
    expect(this.ledger.pendingTransactions(this.chain.chainId, OPERATOR), `${label}: transactions in flight`).toEqual([]);
    const open = this.ledger.find({ states: ['executed', 'submitted', 'mined'], limit: 1_000 });
    expect(
      open.map((record) => [Buffer.from(record.call.body).toString(), record.state]),
      `${label}: calls that are not at their end`,
    ).toEqual([]);
    const rejected = this.ledger.find({ states: ['rejected'], limit: 1_000 }).map((record) => Buffer.from(record.call.body).toString());
    expect(
      rejected.filter((name) => !name.startsWith('bad')),
      `${label}: rejected without need`,
    ).toEqual([]);
  }

  async end(): Promise<void> {
    this.#following.abort();
    await this.client.close();
    await this.ledger.close();
  }
}

describe('a crash at any step', () => {
  /** Poison, a lost race, two transactions in flight, a fee that must be raised, a block that leaves. */
  async function story(world: World, restart: () => Promise<void>): Promise<void> {
    world.submit('a', 'b', 'bad 1', 'c', 'd', 'e', 'f');
    await world.mine(2, 700);
    await restart();
    world.chain.submitResult({ serviceId: 0n, callId: 3n, operator: RIVAL, output: bytes('rival') });
    world.chain.setBaseFee(20n * GWEI);
    await world.mine(2, 700);
    world.submit('g', 'bad 2', 'h');
    await restart();
    await world.mine(6, 900);
    world.chain.setBaseFee(GWEI);
    await restart();
    world.chain.reorg(1, { dropTransactions: true });
    await world.mine(2, 900);
    await restart();
    await world.mine(10, 1_100);
    await restart();
    await world.mine(14, 1_100);
  }

  async function run(life: Life, label: string): Promise<number> {
    const world = new World();
    await world.start(life);
    await story(world, async () => {
      if (world.life.dead) await world.start(new Life());
    });
    world.check(label);
    await world.end();
    return life.steps;
  }

  it.each(['before', 'after'] as const)(
    'settles every call once, when the process dies %s the step has its effect',
    { timeout: 60_000 },
    async (when) => {
      const steps = await run(new Life(), 'without a crash');
      expect(steps).toBeGreaterThan(60);
      for (let dieAt = 1; dieAt <= steps; dieAt += 1) await run(new Life(dieAt, when), `died ${when} step ${dieAt}`);
    },
  );
});

describe('anything that can happen', () => {
  const SEEDS = Number(process.env['SETTLEMENT_SEEDS'] ?? 40);

  async function storm(seed: number): Promise<void> {
    const random = new Random(seed);
    const world = new World();
    world.faults.send = () =>
      random.chance(0.3) ? random.pick(['drop', 'delay', 'duplicate', 'refuse', 'lose-reply'] as const) : undefined;
    world.faults.rpc = () => (random.chance(0.05) ? new RunnerError('RPC_UNREACHABLE', 'no endpoint answers') : undefined);
    // The follower is behind settlement, and every turn takes long enough for the chain to change in it.
    world.faults.latencyMs = (method) => (method === 'follow' ? random.int(0, 3_000) : random.int(0, 150));
    await world.start(new Life());
    let count = 0;
    for (let turn = 0; turn < 40; turn += 1) {
      for (let jobs = random.int(0, 3); jobs > 0; jobs -= 1) {
        count += 1;
        world.submit(random.chance(0.1) ? `bad ${count}` : `call ${count}`);
      }
      const calls = world.chain.calls();
      if (calls.length > 0 && random.chance(0.2)) {
        const call = random.pick(calls);
        if (!nameOf(call).startsWith('bad'))
          world.chain.submitResult({ serviceId: 0n, callId: call.callId, operator: RIVAL, output: bytes('rival') });
      }
      if (random.chance(0.1)) world.chain.setBaseFee(BigInt(random.int(1, 30)) * GWEI);
      if (random.chance(0.05)) await foreignTransaction(world);
      world.chain.mine();
      await world.clock.advance(random.int(0, 1_500));
      if (random.chance(0.15) && world.chain.head.number > 5n) {
        // Never deeper than the confirmations: a transaction that waits for a miner cannot be called back.
        const replaceWith = Array.from({ length: random.int(0, 2) }, (_, index) => ({
          serviceId: 0n,
          jobIndex: 0,
          inputs: bytes(`new ${turn} ${index}`),
        }));
        world.chain.reorg(random.int(1, CONFIRMATIONS), {
          dropTransactions: () => random.chance(0.5),
          replaceWith,
          blocks: random.int(1, 4),
        });
        await world.clock.advance(random.int(0, 800));
      }
      if (world.life.dead || random.chance(0.1)) {
        world.life.dead = true;
        await world.start(new Life(random.int(1, 60), random.pick(['before', 'after'] as const)));
      }
    }
    world.faults.send = () => undefined;
    world.faults.rpc = () => undefined;
    world.faults.latencyMs = () => 0;
    world.chain.setBaseFee(GWEI);
    world.life.dead = true;
    await world.start(new Life());
    await world.mine(60, 6_000);
    world.check(`seed ${seed}`);
    await world.end();
  }

  async function foreignTransaction(world: World): Promise<void> {
    const nonce = world.chain.nonce(OPERATOR, 'pending');
    const raw = await mockSigner(OPERATOR).signTransaction({
      type: 'eip1559',
      chainId: 31337,
      nonce,
      to: RIVAL,
      data: '0x',
      value: 1n,
      gas: 21_000n,
      maxFeePerGas: 200n * GWEI,
      maxPriorityFeePerGas: 2n * GWEI,
    });
    await world.chain.accept(raw);
  }

  it(
    'settles every call once and leaves no nonce open: faults, reorgs, rivals, foreign transactions and crashes, seeded',
    { timeout: 120_000 },
    async () => {
      for (let seed = 1; seed <= SEEDS; seed += 1) await storm(seed);
    },
  );
});
