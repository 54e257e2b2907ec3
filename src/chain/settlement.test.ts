import { describe, expect, it } from 'vitest';
import { RunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import { Metadata } from '../job/call.ts';
import type { CallRecord } from '../ledger/ledger.ts';
import { SqliteLedger } from '../ledger/sqlite.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { FakeClock, Random } from '../testing/fake-clock.ts';
import type { SettlementChain } from './chain.ts';
import type { MockFaults, SendFault } from './mock.ts';
import { MockChainClient } from './mock.ts';
import { MockChain } from './mock-chain.ts';
import { mockSigner } from './mock-transaction.ts';
import type { SettlementEvent, SettlementOptions } from './settlement.ts';
import { Settlement } from './settlement.ts';

const OPERATOR: Address = '0x00000000000000000000000000000000000000aa';
const RIVAL: Address = '0x00000000000000000000000000000000000000bb';
const GWEI = 1_000_000_000n;

/** What the job of these tests computes: a result shows for which inputs it was made. */
const outputFor = (inputs: Uint8Array): Uint8Array => Uint8Array.from([0x0f, ...inputs]);
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text));

type Faults = Omit<MockFaults, 'send'> & { readonly send?: (raw: Hex) => SendFault | 'refuse-for-good' | undefined };
type Options = Partial<SettlementOptions> & {
  readonly faults?: Faults;
  readonly output?: (call: ChainCall) => Uint8Array;
  readonly refusal?: RunnerError;
};

/** Chain, ledger, a follower that executes every call at once, and settlement; time moves by hand. */
class World {
  readonly clock = new FakeClock();
  readonly chain: MockChain;
  readonly ledger: SqliteLedger;
  readonly client: MockChainClient;
  readonly events: SettlementEvent[] = [];
  readonly #following = new AbortController();
  readonly #options: Options;
  settlement: Settlement;

  constructor(options: Options = {}) {
    this.#options = options;
    this.chain = new MockChain({ clock: this.clock });
    this.ledger = SqliteLedger.open({ path: ':memory:', clock: this.clock });
    const { send, ...faults } = options.faults ?? {};
    this.client = new MockChainClient({
      chain: this.chain,
      clock: this.clock,
      faults: {
        ...faults,
        send: (raw) => {
          const fault = send?.(raw);
          if (fault === 'refuse-for-good') throw options.refusal ?? new RunnerError('RPC_ERROR', 'this transaction is not for us');
          return fault;
        },
      },
    });
    this.settlement = this.newSettlement();
  }

  newSettlement(options: Partial<SettlementOptions> = {}): Settlement {
    const { faults: _faults, output: _output, refusal: _refusal, ...given } = this.#options;
    return new Settlement({
      chain: this.client,
      ledger: this.ledger,
      signer: mockSigner(OPERATOR),
      clock: this.clock,
      telemetry: silentTelemetry,
      onEvent: (event) => this.events.push(event),
      ...given,
      ...options,
    });
  }

  /** Begins to follow and to settle; a service exists. */
  async start(services = 1): Promise<this> {
    for (let index = 0; index < services; index += 1) this.chain.addService({ operators: [OPERATOR, RIVAL], requiredResults: 1 });
    void this.#follow();
    await this.settlement.start();
    return this;
  }

  async #follow(): Promise<void> {
    for await (const update of this.client.follow({ fromBlock: 0n, signal: this.#following.signal })) {
      if (update.type === 'head') this.settlement.onHead(update.block);
      else if (update.type === 'reorg') await this.ledger.recordReorg(update.cursor);
      else {
        await this.ledger.recordSeen(update.calls, update.cursor);
        for (const record of this.ledger.find({ states: ['seen'] })) await this.execute(record);
      }
    }
  }

  async execute(record: CallRecord): Promise<void> {
    const { origin } = record.call;
    if (record.state !== 'seen' || !origin) return;
    const body = this.#options.output?.(origin) ?? outputFor(origin.inputs);
    await this.ledger.recordExecuted(record.seq, { body, metadata: new Metadata() }, { executor: 'test', durationMs: 1 });
    this.settlement.wake();
  }

  submit(...inputs: string[]): void {
    for (const input of inputs) this.chain.submitJob({ serviceId: 0n, jobIndex: 0, inputs: bytes(input) });
  }

  /** Blocks, each followed by time in which everybody reacts. */
  async mine(count = 1, afterMs = 500): Promise<void> {
    for (let index = 0; index < count; index += 1) {
      this.chain.mine();
      await this.clock.advance(afterMs);
    }
  }

  /** Call inputs by state in the ledger. */
  states(): Record<string, string> {
    return Object.fromEntries(
      this.ledger.find({ limit: 10_000 }).map((record) => [Buffer.from(record.call.body).toString(), record.state]),
    );
  }

  of<T extends SettlementEvent['type']>(type: T): Extract<SettlementEvent, { type: T }>[] {
    return this.events.filter((event): event is Extract<SettlementEvent, { type: T }> => event.type === type);
  }

  /** Inputs whose result is on the chain, in order. Fails when one is there twice or was made for other inputs. */
  settled(): string[] {
    const ours = this.chain.results().filter((result) => result.operator === OPERATOR);
    for (const result of ours)
      expect(Buffer.from(result.output)).toEqual(Buffer.from(this.#options.output?.(result.call) ?? outputFor(result.call.inputs)));
    expect(new Set(ours.map((result) => `${result.serviceId}/${result.callId}`)).size).toBe(ours.length);
    return ours.map((result) => Buffer.from(result.call.inputs).toString());
  }

  /** Every nonce up to the next is used on the chain, and nothing waits. */
  expectNoGap(): void {
    expect(this.chain.pooled(OPERATOR).map((transaction) => transaction.nonce)).toEqual([]);
    expect(this.ledger.pendingTransactions(this.chain.chainId, OPERATOR)).toEqual([]);
    expect(this.settlement.status()).toMatchObject({ pending: 0, nextNonce: this.chain.nonce(OPERATOR, 'latest') });
  }

  async stop(): Promise<void> {
    this.#following.abort();
    await this.client.close();
    await this.settlement.close();
    await this.ledger.close();
  }
}

describe('the straight way', () => {
  it('settles what is executed in one transaction, and makes it final', async () => {
    const world = await new World({ finality: 3 }).start();
    world.submit('a', 'b', 'c');
    await world.mine();
    expect(world.states()).toEqual({ a: 'executed', b: 'executed', c: 'executed' });
    await world.mine();
    expect(world.states()).toEqual({ a: 'submitted', b: 'submitted', c: 'submitted' });
    await world.mine();
    expect(world.states()).toEqual({ a: 'mined', b: 'mined', c: 'mined' });
    expect(world.settled()).toEqual(['a', 'b', 'c']);
    await world.mine(3);
    expect(world.states()).toEqual({ a: 'final', b: 'final', c: 'final' });
    expect(world.events.map((event) => event.type)).toEqual(['submitted', 'mined', 'final']);
    expect(world.of('final')[0]?.calls).toHaveLength(3);
    world.expectNoGap();
    await world.stop();
  });

  it('waits for as many confirmations as it is told', async () => {
    const world = await new World({ confirmations: 3 }).start();
    world.submit('a');
    await world.mine(3);
    expect(world.events).toEqual([]);
    await world.mine();
    expect(world.of('submitted')).toHaveLength(1);
    await world.stop();
  });

  it('finds out by itself that the chain goes on when nobody announces heads', async () => {
    const world = new World({ confirmations: 2 });
    world.settlement = world.newSettlement();
    world.settlement.onHead = () => undefined;
    await world.start();
    world.submit('a');
    await world.mine(5, 1_100);
    expect(world.settled()).toEqual(['a']);
    await world.stop();
  });

  it('signs without any confirmation when it is told so', async () => {
    const world = await new World({ confirmations: 0 }).start();
    world.submit('a');
    await world.mine();
    expect(world.states()).toEqual({ a: 'submitted' });
    await world.stop();
  });
});

describe('batches', () => {
  it('keeps services apart and the number of calls and transactions within limits', async () => {
    const world = await new World({ batchMax: 10, inFlightMax: 3 }).start(2);
    for (let index = 0; index < 50; index += 1)
      world.chain.submitJob({ serviceId: BigInt(index % 2), jobIndex: 0, inputs: bytes(`call ${index}`) });
    await world.mine(2);
    expect(world.of('submitted')).toHaveLength(3);
    expect(world.settlement.status()).toMatchObject({ pending: 3 });
    await world.mine(2);
    expect(world.settled()).toHaveLength(50);
    for (const { calls } of world.of('submitted')) {
      expect(new Set(calls.map((seq) => world.ledger.get(seq)?.call.origin?.serviceId)).size).toBe(1);
      expect(calls).toEqual(calls.toSorted((a, b) => a - b));
      expect(calls.length).toBeLessThanOrEqual(10);
    }
    world.expectNoGap();
    await world.stop();
  });

  it('settles the others when the contract refuses some without naming them', async () => {
    const world = new World();
    world.chain.refuseResults(({ inputs }) => (Buffer.from(inputs).toString().startsWith('bad') ? 'SchemaValidationFailed' : undefined));
    await world.start();
    const names = Array.from({ length: 40 }, (_, index) => (index % 13 === 5 ? `bad ${index}` : `good ${index}`));
    world.submit(...names);
    await world.mine(3);
    expect(world.settled()).toEqual(names.filter((name) => name.startsWith('good')));
    expect(world.of('rejected').map((event) => [event.code, event.reason])).toEqual(
      Array.from({ length: 3 }, () => ['RESULT_REJECTED', 'SchemaValidationFailed(3, 0, 0, 0)']),
    );
    const rejected = world.ledger.find({ states: ['rejected'], limit: 100 });
    expect(rejected.map((record) => [record.errorCode, Buffer.from(record.call.body).toString()])).toEqual(
      names.filter((name) => name.startsWith('bad')).map((name) => ['RESULT_REJECTED', name]),
    );
    expect(world.of('submitted')).toHaveLength(1);
    world.expectNoGap();
    await world.stop();
  });

  it('ends without an error what another operator completed first', async () => {
    const world = await new World().start();
    world.submit('a', 'b', 'c');
    world.chain.mine();
    world.chain.submitResult({ serviceId: 0n, callId: 1n, operator: RIVAL, output: bytes('rival') });
    await world.mine(3);
    expect(world.settled()).toEqual(['a', 'c']);
    expect(world.states()).toMatchObject({ a: 'mined', b: 'closed', c: 'mined' });
    expect(world.of('closed').map((event) => event.reason)).toEqual(['JobAlreadyCompleted(0, 1)']);
    expect(world.of('rejected')).toEqual([]);
    await world.stop();
  });

  it('takes a lost race as an outcome: the loser is closed, the others of its transaction are settled', async () => {
    const world = await new World().start();
    world.submit('a', 'b', 'c');
    await world.mine(2);
    expect(world.states()).toEqual({ a: 'submitted', b: 'submitted', c: 'submitted' });
    // The rival's transaction comes first in the block: replaceWith is for jobs, so the block of ours leaves and comes again behind it.
    const [ours] = world.chain.pooled(OPERATOR);
    world.chain.submitResult({ serviceId: 0n, callId: 1n, operator: RIVAL, output: bytes('rival') });
    expect(ours?.nonce).toBe(0);
    world.chain.setBaseFee(1_000n * GWEI); // ours must wait one block
    await world.mine(1, 0);
    world.chain.setBaseFee(GWEI);
    await world.mine(1, 600);
    expect(world.of('mined').map((event) => event.receipt.success)).toEqual([false]);
    await world.mine(2);
    expect(world.settled()).toEqual(['a', 'c']);
    expect(world.states()).toMatchObject({ a: 'mined', b: 'closed', c: 'mined' });
    world.expectNoGap();
    await world.stop();
  });

  it('rejects all results of a service that ended, looking at it once per block', async () => {
    let simulations = 0;
    const world = await new World({
      faults: {
        rpc: (method) => {
          if (method === 'simulate') simulations += 1;
          return undefined;
        },
      },
    }).start();
    world.submit('a', 'b', 'c');
    world.chain.mine();
    world.chain.terminateService(0n);
    await world.mine(2);
    expect(world.states()).toEqual({ a: 'rejected', b: 'rejected', c: 'rejected' });
    expect(world.of('rejected')[0]?.reason).toBe('ServiceNotActive(0)');
    expect(simulations).toBe(2); // what it says must hold for as many blocks as an event needs
    await world.stop();
  });

  it('waits while the contract is paused, says so once, and goes on', async () => {
    const world = await new World().start();
    world.chain.setPaused(false);
    world.submit('a', 'b');
    await world.mine();
    world.chain.setPaused(true);
    await world.mine(5, 6_000);
    expect(world.states()).toEqual({ a: 'executed', b: 'executed' });
    expect(world.of('stalled').map((event) => [event.error.code, event.error.message])).toEqual([
      ['RESULT_REJECTED', 'the contract takes no results for now: EnforcedPause()'],
    ]);
    world.chain.setPaused(false);
    await world.mine(2, 6_000);
    expect(world.settled()).toEqual(['a', 'b']);
    await world.stop();
  });

  it('rejects a result that no node would take, and sends a large one alone', async () => {
    const sizes: Record<string, number> = { huge: 130_000, large: 121_000, small: 10, tiny: 1 };
    const world = await new World({ output: (call) => new Uint8Array(sizes[Buffer.from(call.inputs).toString()] ?? 0) }).start();
    world.submit('small', 'huge', 'large', 'tiny');
    await world.mine(3);
    expect(world.states()).toEqual({ small: 'mined', huge: 'rejected', large: 'mined', tiny: 'mined' });
    expect(world.of('rejected').map((event) => event.code)).toEqual(['PAYLOAD_TOO_LARGE']);
    const sent = world
      .of('submitted')
      .map((event) => event.calls.map((seq) => Buffer.from(world.ledger.get(seq)?.call.body ?? []).toString()));
    expect(sent).toEqual([['small'], ['large'], ['tiny']]);
    await world.stop();
  });

  it('makes batches smaller when they need too much gas', async () => {
    const world = await new World({ gasMax: 1_000_000n }).start();
    world.submit(...Array.from({ length: 30 }, (_, index) => `call ${index}`));
    await world.mine(5);
    expect(world.settled()).toHaveLength(30);
    for (const transaction of world.of('submitted')) expect(transaction.calls.length).toBeLessThanOrEqual(10);
    expect(world.of('submitted').length).toBeLessThanOrEqual(5);
    await world.stop();
  });
});

describe('transactions that get lost', () => {
  it.each(['drop', 'delay', 'duplicate', 'refuse', 'lose-reply'] as const)(
    'brings every result home when an endpoint does "%s" to half of the sends',
    async (fault) => {
      const random = new Random(7);
      const world = await new World({
        batchMax: 5,
        resendAfterMs: 1_000,
        faults: {
          send: () => (random.chance(0.5) ? fault : undefined),
        },
      }).start();
      world.submit(...Array.from({ length: 20 }, (_, index) => `call ${index}`));
      await world.mine(12, 1_100);
      expect(world.settled()).toHaveLength(20);
      world.expectNoGap();
      await world.stop();
    },
  );

  it('raises the fee when the chain asks for more, and again until it is mined', async () => {
    const world = await new World({ resubmitAfterMs: 2_000, resubmitAfterBlocks: 2 }).start();
    world.submit('a');
    await world.mine(2);
    world.chain.setBaseFee(50n * GWEI);
    await world.mine(6, 1_000);
    expect(world.of('bumped').length).toBeGreaterThanOrEqual(1);
    expect(world.of('bumped')[0]?.maxFeePerGas).toBe(100n * GWEI + 1_125_000_000n); // the base fee twice, and the tip an eighth higher
    expect(world.settled()).toEqual(['a']);
    expect(world.chain.nonce(OPERATOR, 'latest')).toBe(1);
    const versions = world.ledger.transactionsOf(world.of('submitted')[0]?.calls[0] ?? -1);
    expect(versions.map((version) => version.nonce)).toEqual(versions.map(() => 0));
    expect(versions.map((version) => version.state).toSorted()).toEqual(['mined', ...versions.slice(1).map(() => 'replaced')]);
    world.expectNoGap();
    await world.stop();
  });

  it('raises the fee after a clock was set back, too', async () => {
    const world = await new World({ resubmitAfterMs: 2_000, resubmitAfterBlocks: 2 }).start();
    world.submit('a');
    await world.mine(2);
    world.clock.jump(-86_400_000);
    world.chain.setBaseFee(50n * GWEI);
    await world.mine(6, 1_000);
    expect(world.settled()).toEqual(['a']);
    world.expectNoGap();
    await world.stop();
  });

  it('raises the fee also where the node does not count what waits', async () => {
    const world = await new World().start();
    const { chain, client } = world;
    client.nonce = async (account) => chain.nonce(account, 'latest');
    world.submit('a');
    await world.mine(2, 12_000);
    world.chain.setBaseFee(50n * GWEI);
    await world.mine(8, 12_000);
    expect(world.settled()).toEqual(['a']);
    world.expectNoGap();
    await world.stop();
  });

  it('never offers more than the cap, says so once, and goes on when the chain is cheaper', async () => {
    const world = await new World({ maxFeePerGas: 10n * GWEI, resubmitAfterMs: 1_000, resubmitAfterBlocks: 1 }).start();
    world.submit('a');
    await world.mine(1);
    world.chain.setBaseFee(50n * GWEI);
    await world.mine(6, 6_000);
    expect(world.states()).toEqual({ a: 'executed' });
    expect(world.of('stalled').map((event) => event.error.code)).toEqual(['TX_FEE_CAPPED']);
    expect(world.settlement.status().lastError?.code).toBe('TX_FEE_CAPPED');
    world.chain.setBaseFee(5n * GWEI);
    await world.mine(3, 6_000);
    expect(world.settled()).toEqual(['a']);
    expect(world.settlement.status().lastError).toBeUndefined();
    await world.stop();
  });

  it('stays within the cap when it raises a fee', async () => {
    const world = await new World({ maxFeePerGas: 10n * GWEI, resubmitAfterMs: 1_000, resubmitAfterBlocks: 1 }).start();
    world.submit('a');
    await world.mine(2);
    world.chain.setBaseFee(50n * GWEI);
    await world.mine(30, 2_000);
    const offered = world.of('bumped').map((event) => event.maxFeePerGas);
    expect(offered.at(-1)).toBeLessThanOrEqual(10n * GWEI);
    expect(world.of('stalled').map((event) => event.error.code)).toEqual(['TX_FEE_CAPPED']);
    world.chain.setBaseFee(GWEI);
    await world.mine(2);
    expect(world.settled()).toEqual(['a']);
    expect(world.settlement.status().lastError).toBeUndefined();
    await world.stop();
  });

  it('outbids at once when the pool refuses the fee', async () => {
    const world = await new World().start();
    world.chain.setPoolFloor(20n * GWEI);
    world.submit('a');
    await world.mine(2, 5_000);
    world.chain.setBaseFee(30n * GWEI);
    await world.mine(4, 5_000);
    expect(world.settled()).toEqual(['a']);
    world.expectNoGap();
    await world.stop();
  });

  it('goes on when something else used the nonce of a transaction that the account could not pay', async () => {
    const world = await new World().start();
    world.chain.setBalance(OPERATOR, 1n);
    world.submit('a');
    await world.mine(2);
    expect(world.settlement.status()).toMatchObject({ pending: 1, lastError: { code: 'TX_UNDERFUNDED' } });
    const wallet = await mockSigner(OPERATOR).signTransaction({
      type: 'eip1559',
      chainId: 31_337,
      nonce: 0,
      to: RIVAL,
      data: '0x',
      value: 1n,
      gas: 21_000n,
      maxFeePerGas: 90n * GWEI,
      maxPriorityFeePerGas: GWEI,
    });
    world.chain.setBalance(OPERATOR, 10n ** 18n);
    expect(await world.chain.accept(wallet)).toBe('sent');
    await world.mine(8, 2_000);
    expect(world.settled()).toEqual(['a']);
    expect(world.settlement.status()).toMatchObject({ lastError: undefined });
    world.expectNoGap();
    await world.stop();
  });

  it('says once that the account is empty, keeps everything, and goes on when it is funded', async () => {
    const world = await new World().start();
    world.chain.setBalance(OPERATOR, 1n);
    world.submit('a', 'b');
    await world.mine(10, 5_000);
    expect(world.of('stalled').map((event) => event.error.code)).toEqual(['TX_UNDERFUNDED']);
    expect(world.settlement.status()).toMatchObject({ pending: 1, lastError: { code: 'TX_UNDERFUNDED' } });
    expect(world.states()).toEqual({ a: 'submitted', b: 'submitted' });
    world.chain.setBalance(OPERATOR, 10n ** 18n);
    await world.mine(10, 5_000);
    expect(world.settled()).toEqual(['a', 'b']);
    expect(world.settlement.status().lastError).toBeUndefined();
    expect(world.of('submitted')).toHaveLength(1);
    await world.stop();
  });

  it('says so too when the node finds out while it simulates', async () => {
    let empty = true;
    const world = await new World({
      faults: {
        rpc: (method) => (method === 'simulate' && empty ? new RunnerError('TX_UNDERFUNDED', 'the account cannot pay') : undefined),
      },
    }).start();
    world.submit('a');
    await world.mine(4, 5_000);
    expect(world.of('stalled').map((event) => event.error.code)).toEqual(['TX_UNDERFUNDED']);
    empty = false;
    await world.mine(3, 11_000);
    expect(world.settled()).toEqual(['a']);
    expect(world.settlement.status().lastError).toBeUndefined();
    await world.stop();
  });

  it('gives calls to another transaction when something else used the nonce', async () => {
    let swallow = true;
    const world = await new World({ faults: { send: () => (swallow ? 'drop' : undefined) } }).start();
    world.submit('a', 'b');
    await world.mine(2);
    const foreign = await mockSigner(OPERATOR).signTransaction({
      type: 'eip1559',
      chainId: 31337,
      nonce: 0,
      to: RIVAL,
      data: '0x',
      value: 1n,
      gas: 21_000n,
      maxFeePerGas: 90n * GWEI,
      maxPriorityFeePerGas: GWEI,
    });
    expect(await world.chain.accept(foreign)).toBe('sent');
    swallow = false;
    await world.mine(6, 1_000);
    expect(world.of('healed').map((event) => [event.how, event.nonce])).toContainEqual(['dropped', 0]);
    expect(world.settled()).toEqual(['a', 'b']);
    expect(world.chain.nonce(OPERATOR, 'latest')).toBe(2);
    world.expectNoGap();
    await world.stop();
  });

  it('does not believe an endpoint that lags behind with the nonce', async () => {
    let lag = false;
    const world = new World({ finality: 1 });
    const lagging = new Proxy(world.client, {
      get: (client, name) => {
        if (name === 'nonce' && lag) return () => Promise.resolve(0);
        const value: unknown = Reflect.get(client, name, client);
        return typeof value === 'function' ? value.bind(client) : value;
      },
    });
    world.settlement = world.newSettlement({ chain: lagging });
    await world.start();
    world.submit('a');
    await world.mine(5);
    expect(world.states()).toEqual({ a: 'final' });
    lag = true;
    world.submit('b');
    await world.mine(2);
    expect(world.of('submitted').map((event) => event.nonce)).toEqual([0, 1]);
    lag = false;
    await world.mine(2);
    expect(world.settled()).toEqual(['a', 'b']);
    await world.stop();
  });

  it('neither fills nor keeps the nonces below one that an endpoint made up', async () => {
    const world = await new World().start();
    const { chain, client } = world;
    let lies = 1;
    client.nonce = async (account, tag) => (lies-- > 0 ? 3_000_000 : chain.nonce(account, tag));
    world.submit('a');
    await world.mine(2);
    expect(world.of('submitted').map((event) => event.nonce)).toEqual([3_000_000]);
    await world.mine(6, 1_000);
    expect(world.of('submitted').map((event) => event.nonce)).toEqual([3_000_000, 0]);
    const healed = world.of('healed').map((event) => event.how);
    expect(healed).toContain('dropped');
    expect(healed).not.toContain('filled');
    expect(world.settled()).toEqual(['a']);
    world.submit('b');
    await world.mine(3);
    expect(world.settled()).toEqual(['a', 'b']);
    expect(world.settlement.status()).toMatchObject({ pending: 0, nextNonce: 2 });
    await world.stop();
  });

  it('gives nothing up because receipts come some fast blocks later than the nonce', async () => {
    const world = await new World().start();
    const { client } = world;
    const receipts = client.receipts.bind(client);
    let late = true;
    client.receipts = async (hashes) => (late ? hashes.map(() => undefined) : receipts(hashes));
    world.submit('a');
    await world.mine(2);
    await world.mine(8, 250);
    late = false;
    await world.mine(2);
    expect(world.of('healed')).toEqual([]);
    expect(world.states()).toEqual({ a: 'mined' });
    await world.stop();
  });

  it('takes a nonce for used only when it seems so all the time', async () => {
    const world = await new World({ resubmitAfterBlocks: 100 }).start();
    const { chain, client } = world;
    let lie = false;
    client.nonce = async (account, tag) => (lie ? 7 : chain.nonce(account, tag));
    world.submit('a');
    await world.mine(2);
    // Too expensive to be mined now.
    chain.setBaseFee(50n * GWEI);
    for (let look = 0; look < 3; look += 1) {
      lie = true;
      await world.mine();
      lie = false;
      await world.mine(2);
    }
    expect(world.of('healed')).toEqual([]);
    chain.setBaseFee(GWEI);
    await world.mine(2);
    expect(world.states()).toEqual({ a: 'mined' });
    await world.stop();
  });

  it.each([
    ['refuses', {}],
    ['finds too large', { refusal: new RunnerError('RPC_RESPONSE_INVALID', 'HTTP 413', { details: { reason: 'too-large' } }) }],
  ])('does not let a transaction that every node %s hold up the others', async (_, refusal) => {
    const world = await new World({
      ...refusal,
      batchMax: 2,
      inFlightMax: 1,
      output: (call) => new Uint8Array(call.inputs.length === 3 ? 64 : 1).fill(7),
      // The nodes take no transaction that carries the larger result.
      faults: { send: (raw) => (raw.includes('07'.repeat(64)) ? 'refuse-for-good' : undefined) },
    }).start();
    world.submit('bad', 'good');
    await world.mine(80, 3_100);
    expect(world.settled()).toEqual(['good']);
    expect(world.states()).toMatchObject({ bad: 'rejected', good: 'final' });
    expect(world.of('healed').map((event) => event.how)).toContain('refused');
    world.expectNoGap();
    await world.stop();
  });

  it('waits out an endpoint that is down, and tells about it', async () => {
    let down = false;
    const world = await new World({
      faults: { rpc: (method) => (down && method !== 'follow' ? new RunnerError('RPC_UNREACHABLE', 'no endpoint answers') : undefined) },
    }).start();
    world.submit('a');
    await world.mine();
    down = true;
    await world.mine(5, 3_000);
    expect(world.settlement.status().lastError?.code).toBe('RPC_UNREACHABLE');
    expect(world.states()).toEqual({ a: 'executed' });
    down = false;
    await world.mine(3, 11_000);
    expect(world.settled()).toEqual(['a']);
    expect(world.settlement.status().lastError).toBeUndefined();
    await world.stop();
  });
});

describe('reorgs', () => {
  const dropAll = { dropTransactions: true } as const;

  it('never signs for a call whose id has other inputs now', async () => {
    const world = await new World({ confirmations: 2 }).start();
    world.submit('old 0', 'old 1');
    await world.mine(2);
    expect(world.states()).toEqual({ 'old 0': 'executed', 'old 1': 'executed' });
    world.chain.reorg(2, { ...dropAll, replaceWith: [{ serviceId: 0n, jobIndex: 0, inputs: bytes('new 0') }] });
    await world.mine(4);
    expect(world.settled()).toEqual(['new 0']);
    expect(world.states()).toMatchObject({ 'old 0': 'orphaned', 'old 1': 'orphaned' });
    await world.stop();
  });

  it('checks the chain itself right before signing: the ledger may not know of the reorg yet', async () => {
    const world = new World({ confirmations: 0, finality: 3 });
    world.chain.addService({ operators: [OPERATOR] });
    world.submit('a');
    world.chain.mine();
    const [call] = world.chain.calls();
    expect(call).toMatchObject({ callId: 0n, blockNumber: 1n });
    if (!call) return;
    await world.ledger.recordSeen([call], {
      chainId: 31_337,
      contract: world.chain.contract,
      block: { number: call.blockNumber, hash: call.blockHash },
    });
    for (const record of world.ledger.find({ states: ['seen'] })) await world.execute(record);
    // Nobody follows: the contract would take the result of 'a' as that of 'b', which has its call id now.
    world.chain.reorg(1, { ...dropAll, replaceWith: [{ serviceId: 0n, jobIndex: 0, inputs: bytes('b') }] });
    await world.settlement.start();
    await world.mine(2, 2_000);
    expect(world.events).toEqual([]);
    expect(world.states()).toEqual({ a: 'executed' });
    // Deep enough and still not there: nothing will bring it back.
    await world.mine(3, 8_000);
    expect(world.events.map((event) => event.type)).toEqual(['orphaned']);
    expect(world.states()).toEqual({ a: 'orphaned' });
    expect(world.settled()).toEqual([]);
    await world.stop();
  });

  it('takes no call for orphaned whose block is on the chain, although endpoints do not show its log', async () => {
    const world = new World({ finality: 3 });
    let shows = false;
    const half = new Proxy<SettlementChain>(world.client, {
      get: (target, name) => {
        if (name === 'confirm' && !shows) return async (calls: readonly ChainCall[]) => calls.map(() => false);
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    world.settlement = world.newSettlement({ chain: half });
    await world.start();
    world.submit('a');
    await world.mine(10, 8_000);
    expect(world.states()).toEqual({ a: 'executed' });
    shows = true;
    await world.mine(10, 8_000);
    expect(world.settled()).toEqual(['a']);
    await world.stop();
  });

  it('throws a signature away when the ledger learns of a reorg while it is made', async () => {
    const world = new World({ confirmations: 0 });
    const signer = mockSigner(OPERATOR);
    let orphanedWhileSigning = false;
    world.settlement = world.newSettlement({
      signer: {
        address: signer.address,
        signTransaction: async (transaction) => {
          if (!orphanedWhileSigning) {
            orphanedWhileSigning = true;
            const genesis = world.chain.block(0n);
            if (genesis)
              await world.ledger.recordReorg({
                chainId: 31_337,
                contract: world.chain.contract,
                block: { number: 0n, hash: genesis.hash },
              });
          }
          return signer.signTransaction(transaction);
        },
      },
    });
    await world.start();
    world.submit('a');
    await world.mine();
    expect(orphanedWhileSigning).toBe(true);
    expect(world.of('submitted')).toEqual([]);
    expect(world.chain.nonce(OPERATOR, 'pending')).toBe(0);
    expect(world.states()).toEqual({ a: 'orphaned' });
    await world.stop();
  });

  it('fills a nonce that a foreign transaction leaves open when it leaves the chain', async () => {
    const world = await new World().start();
    const foreign = await mockSigner(OPERATOR).signTransaction({
      type: 'eip1559',
      chainId: 31_337,
      nonce: 0,
      to: RIVAL,
      data: '0x',
      value: 1n,
      gas: 21_000n,
      maxFeePerGas: 90n * GWEI,
      maxPriorityFeePerGas: GWEI,
    });
    world.submit('a');
    await world.chain.accept(foreign);
    await world.mine(2);
    expect(world.of('submitted').map((event) => event.nonce)).toEqual([1]);
    world.chain.reorg(1, dropAll);
    world.chain.reorg(2, { dropTransactions: ({ from }) => from === OPERATOR });
    await world.mine(8, 2_000);
    expect(world.settled()).toEqual(['a']);
    expect(world.of('healed').map((event) => [event.how, event.nonce])).toContainEqual(['filled', 0]);
    expect(world.chain.nonce(OPERATOR, 'latest')).toBe(2);
    world.expectNoGap();
    await world.stop();
  });

  it('replaces a transaction in flight that carries an orphaned call', async () => {
    const world = await new World({ confirmations: 0 }).start();
    world.submit('stays');
    world.chain.mine();
    world.submit('leaves');
    await world.mine();
    expect(world.of('submitted').map((event) => event.calls)).toEqual([[1, 2]]);
    world.chain.setBaseFee(500n * GWEI); // it must wait in the pool
    world.chain.reorg(1, {
      dropTransactions: ({ from }) => from !== OPERATOR,
      replaceWith: [{ serviceId: 0n, jobIndex: 0, inputs: bytes('other') }],
    });
    await world.clock.advance(500);
    expect(world.of('bumped').map((event) => [event.nonce, event.calls])).toEqual([[0, [1]]]);
    await world.mine(3, 1_500);
    expect(world.settled().toSorted()).toEqual(['other', 'stays']);
    expect(world.states()).toEqual({ stays: 'mined', leaves: 'orphaned', other: 'mined' });
    world.expectNoGap();
    await world.stop();
  });

  it('fills the nonce with nothing when all its calls are orphaned', async () => {
    const world = await new World({ faults: { send: (raw) => (raw.length > 400 ? 'drop' : undefined) } }).start();
    world.submit('gone');
    await world.mine(2);
    expect(world.of('submitted')).toHaveLength(1);
    world.chain.reorg(2, dropAll);
    await world.mine(4, 2_000);
    expect(world.settled()).toEqual([]);
    expect(world.states()).toEqual({ gone: 'orphaned' });
    expect(world.chain.nonce(OPERATOR, 'latest')).toBe(1);
    expect(world.of('bumped').map((event) => event.calls)).toEqual([[]]);
    world.expectNoGap();
    await world.stop();
  });

  it('brings a mined transaction back when its block leaves the chain', async () => {
    const world = await new World({ finality: 6 }).start();
    world.submit('a', 'b');
    await world.mine(3);
    expect(world.states()).toEqual({ a: 'mined', b: 'mined' });
    // Everything of the operator is forgotten by the new branch; the calls stay where they are.
    world.chain.reorg(1, dropAll);
    await world.mine(1, 1_500);
    expect(world.of('healed').map((event) => event.how)).toContain('unmined');
    await world.mine(2, 1_500);
    expect(world.settled()).toEqual(['a', 'b']);
    expect(world.of('submitted')).toHaveLength(1);
    await world.mine(7);
    expect(world.states()).toEqual({ a: 'final', b: 'final' });
    world.expectNoGap();
    await world.stop();
  });

  it('makes nothing final whose block left the chain', async () => {
    const world = await new World({ finality: 3 }).start();
    world.submit('a');
    await world.mine(3);
    world.chain.reorg(1, { ...dropAll, blocks: 8 });
    await world.clock.advance(10);
    expect(world.of('final')).toEqual([]);
    await world.mine(5, 1_500);
    expect(world.settled()).toEqual(['a']);
    expect(world.of('final').flatMap((event) => event.calls)).toHaveLength(1);
    await world.stop();
  });

  it('heals the gap when a reverted transaction leaves the chain', async () => {
    const world = await new World({ finality: 20 }).start();
    world.submit('a', 'b');
    await world.mine(2);
    world.chain.submitResult({ serviceId: 0n, callId: 0n, operator: RIVAL, output: bytes('rival') });
    world.chain.setBaseFee(1_000n * GWEI);
    await world.mine(1, 0);
    world.chain.setBaseFee(GWEI);
    await world.mine(3, 600);
    expect(world.of('mined').map((event) => event.receipt.success)).toEqual([false, true]);
    const reverted = world.of('mined')[0]?.hash;
    world.chain.reorg(3, { dropTransactions: ({ hash }) => hash === reverted });
    await world.mine(8, 2_000);
    expect(world.chain.nonce(OPERATOR, 'latest')).toBeGreaterThanOrEqual(2);
    expect(world.settled()).toEqual(['b']);
    world.expectNoGap();
    await world.stop();
  });
});

describe('transactions of the operator', () => {
  const somewhere: Address = '0x00000000000000000000000000000000000000cc';

  it('go through the same nonces as the results', async () => {
    const world = await new World().start();
    const sender = world.settlement.sender();
    expect(sender.address).toBe(OPERATOR);
    const receipt = sender.send({ to: somewhere, data: '0x01020304' });
    world.submit('a');
    await world.mine(3, 1_500);
    expect(await receipt).toMatchObject({ success: true });
    expect(world.settled()).toEqual(['a']);
    expect(world.of('submitted').map((event) => [event.nonce, event.purpose])).toEqual([
      [0, 'other'],
      [1, 'results'],
    ]);
    world.expectNoGap();
    await world.stop();
  });

  it('reject with the reason of the contract', async () => {
    const world = await new World().start();
    world.chain.setPaused(true);
    world.chain.addService({ operators: [OPERATOR] });
    const request = world.client.encodeResults({ serviceId: 0n, callIds: [9n], results: [bytes('x')] });
    const sent = world.settlement.sender().send(request);
    const refused = expect(sent).rejects.toMatchObject({
      code: 'RESULT_REJECTED',
      message: 'the contract refuses the transaction: EnforcedPause()',
    });
    await world.clock.advance(10);
    await refused;
    expect(world.chain.nonce(OPERATOR, 'pending')).toBe(0);
    await world.stop();
  });

  it('are given another nonce when something else used theirs', async () => {
    let swallow = true;
    const world = await new World({ faults: { send: () => (swallow ? 'drop' : undefined) } }).start();
    const sent = world.settlement.sender().send({ to: somewhere, data: '0x01' });
    await world.clock.advance(10);
    const foreign = await mockSigner(OPERATOR).signTransaction({
      type: 'eip1559',
      chainId: 31337,
      nonce: 0,
      to: RIVAL,
      data: '0x',
      value: 1n,
      gas: 21_000n,
      maxFeePerGas: 90n * GWEI,
      maxPriorityFeePerGas: GWEI,
    });
    await world.chain.accept(foreign);
    swallow = false;
    await world.mine(6, 2_000);
    expect(await sent).toMatchObject({ success: true });
    expect(world.chain.nonce(OPERATOR, 'latest')).toBe(2);
    world.expectNoGap();
    await world.stop();
  });

  it('are raised like the others', async () => {
    const world = await new World({ resubmitAfterMs: 1_000, resubmitAfterBlocks: 1 }).start();
    const sent = world.settlement.sender().send({ to: somewhere, data: '0x01', value: 5n });
    await world.clock.advance(10);
    world.chain.setBaseFee(50n * GWEI);
    await world.mine(4, 1_500);
    expect(await sent).toMatchObject({ success: true });
    expect(world.of('bumped')[0]?.nonce).toBe(0);
    await world.stop();
  });

  it('can be given up before they are signed, and end with the settlement', async () => {
    const world = await new World({
      faults: { rpc: (method) => (method === 'simulate' ? new RunnerError('RPC_UNREACHABLE', 'no') : undefined) },
    }).start();
    const abort = new AbortController();
    const sender = world.settlement.sender();
    const givenUp = expect(sender.send({ to: somewhere, data: '0x01' }, { signal: abort.signal })).rejects.toMatchObject({
      code: 'ABORTED',
    });
    const ended = expect(sender.send({ to: somewhere, data: '0x02' })).rejects.toMatchObject({ code: 'ABORTED' });
    await world.clock.advance(10);
    abort.abort();
    await givenUp;
    await world.stop();
    await ended;
    await expect(sender.send({ to: somewhere, data: '0x03' })).rejects.toMatchObject({ code: 'STATE_INVALID' });
    expect(world.chain.nonce(OPERATOR, 'pending')).toBe(0);
  });
});

describe('without signing', () => {
  it('shows what it would send in a dry run, once, and leaves everything as it is', async () => {
    const world = new World({ dryRun: true });
    world.chain.refuseResults(({ inputs }) => (Buffer.from(inputs).toString() === 'bad' ? 'SchemaValidationFailed' : undefined));
    await world.start();
    world.submit('a', 'bad', 'b');
    await world.mine(5, 2_000);
    expect(world.states()).toEqual({ a: 'executed', bad: 'executed', b: 'executed' });
    expect(world.of('dry-run').map((event) => event.calls.length)).toEqual([2]);
    expect(world.events.map((event) => event.type)).toEqual(['dry-run']);
    expect(world.chain.nonce(OPERATOR, 'pending')).toBe(0);
    expect(() => world.settlement.sender()).toThrow(expect.objectContaining({ code: 'STATE_INVALID' }));
    await world.stop();
  });

  it('says once that there is no account', async () => {
    const world = new World();
    const { signer: _signer, ...rest } = { signer: undefined };
    world.settlement = new Settlement({
      chain: world.client,
      ledger: world.ledger,
      clock: world.clock,
      telemetry: silentTelemetry,
      onEvent: (event) => world.events.push(event),
      ...rest,
    });
    await world.start();
    world.submit('a');
    await world.mine(5);
    expect(world.states()).toEqual({ a: 'executed' });
    expect(world.of('stalled').map((event) => event.error.code)).toEqual(['SIGNER_MISSING']);
    expect(() => world.settlement.sender()).toThrow(expect.objectContaining({ code: 'SIGNER_MISSING' }));
    expect(world.settlement.status()).toMatchObject({ account: undefined, pending: 0 });
    await world.stop();
  });
});

describe('life', () => {
  it('refuses settings that make no sense', () => {
    expect(() => new World({ batchMax: 0 })).toThrow(/batchMax is 0/);
    expect(() => new World({ feeBumpPercent: 5 })).toThrow(/feeBumpPercent is 5/);
    expect(() => new World({ confirmations: -1 })).toThrow(/confirmations is -1/);
  });

  it('drains what is on its way and what can be signed, and closes', async () => {
    const world = await new World({ batchMax: 1, inFlightMax: 1 }).start();
    world.submit('a', 'b');
    await world.mine(2, 10);
    expect(world.states()).toEqual({ a: 'submitted', b: 'executed' });
    const drained = world.settlement.drain(world.clock.now() + 20_000);
    await world.clock.advance(1_500);
    await world.mine(3, 1_500);
    expect(await drained).toBe(true);
    expect(world.settled()).toEqual(['a', 'b']);
    world.settlement.wake();
    await world.mine(2);
    expect(world.clock.pending).toBe(0);
    await world.stop();
    await world.stop();
  });

  it('does not wait for blocks that a result still needs: the next start settles it', async () => {
    const world = await new World({ confirmations: 100 }).start();
    world.submit('a');
    await world.mine();
    const before = world.clock.now();
    expect(await world.settlement.drain(before + 30_000)).toBe(false);
    expect(world.clock.now()).toBe(before);
    expect(world.states()).toEqual({ a: 'executed' });
    await world.mine(100, 1);
    world.settlement = world.newSettlement();
    await world.settlement.start();
    await world.mine(2);
    expect(world.settled()).toEqual(['a']);
    await world.stop();
  });

  it('does not wait for a fee that the cap forbids', async () => {
    const world = await new World({ maxFeePerGas: 5n * GWEI }).start();
    world.chain.setBaseFee(50n * GWEI);
    world.submit('a');
    await world.mine(3);
    const before = world.clock.now();
    expect(await world.settlement.drain(before + 30_000)).toBe(false);
    expect(world.clock.now()).toBe(before);
    await world.stop();
  });

  it('gives up draining at the deadline and leaves the rest in the ledger', async () => {
    const world = await new World().start();
    world.submit('a');
    await world.mine(2);
    const drained = world.settlement.drain(world.clock.now() + 3_000);
    await world.clock.advance(2_900);
    expect(world.states()).toEqual({ a: 'submitted' });
    expect(await Promise.race([drained, Promise.resolve('waiting')])).toBe('waiting');
    await world.clock.advance(200);
    expect(await drained).toBe(false);
    await world.stop();
  });

  it('knows nothing before the chain has said which one it is, and settles from then on', async () => {
    const world = new World();
    let answers = false;
    const unknown = (): RunnerError => new RunnerError('STATE_INVALID', 'the chain id is not known yet');
    const shy = new Proxy<SettlementChain>(world.client, {
      get: (target, name) => {
        if (name === 'chainId' && !answers) throw unknown();
        const value: unknown = Reflect.get(target, name, target);
        if (name === 'head') return async () => ((answers = reachable), answers ? target.head() : Promise.reject(unreachable));
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    let reachable = false;
    const unreachable = new RunnerError('RPC_UNREACHABLE', 'nobody answers');
    const nothing = { account: OPERATOR, head: undefined, nextNonce: undefined, pending: 0, oldestPendingMs: undefined };
    world.settlement = world.newSettlement({ chain: shy });
    world.settlement.wake();
    expect(world.settlement.status()).toEqual({ ...nothing, lastError: undefined });
    await world.start();
    expect(world.settlement.status()).toEqual({ ...nothing, lastError: unreachable });
    world.submit('a');
    await world.mine(2);
    expect(world.states()).toEqual({ a: 'executed' });
    reachable = true;
    await world.mine(3, 2_000);
    expect(world.settled()).toEqual(['a']);
    expect(world.settlement.status()).toMatchObject({ nextNonce: 1, pending: 0, lastError: undefined });
    await world.stop();
  });

  it('asks first whether the gas of the last result like it suffices, when a result goes alone', async () => {
    const hints: (bigint | undefined)[] = [];
    const world = new World({ output: ({ inputs }) => new Uint8Array(inputs.length > 2 ? 64 : 32) });
    const watched = new Proxy<SettlementChain>(world.client, {
      get: (target, name) => {
        if (name === 'simulate')
          return (...given: Parameters<SettlementChain['simulate']>) => (hints.push(given[2]), target.simulate(...given));
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    world.settlement = world.newSettlement({ chain: watched, batchMax: 1 });
    await world.start();
    world.submit('a');
    await world.mine(2);
    world.submit('b', 'long');
    await world.mine(3);
    expect(world.settled()).toEqual(['a', 'b', 'long']);
    expect(hints).toEqual([undefined, expect.any(BigInt), undefined]);
    await world.stop();
  });

  it('ends in time although the signer never answers', async () => {
    const world = new World();
    world.settlement = world.newSettlement({ signer: { address: OPERATOR, signTransaction: () => new Promise<never>(() => undefined) } });
    await world.start();
    world.submit('a');
    await world.mine(2);
    let drained: boolean | undefined;
    void world.settlement.drain(world.clock.now() + 3_000).then((settled) => (drained = settled));
    await world.clock.advance(20_000);
    expect(drained).toBe(false);
    expect(world.states()).toEqual({ a: 'executed' });
    await world.stop();
  });

  it('drains no longer than it was told when the clock is set back meanwhile', async () => {
    const world = await new World().start();
    world.submit('a');
    await world.mine(2);
    let drained: boolean | undefined;
    void world.settlement.drain(world.clock.now() + 3_000).then((settled) => (drained = settled));
    await world.clock.advance(1_000);
    world.clock.jump(-3_600_000);
    await world.clock.advance(2_500);
    expect(drained).toBe(false);
    await world.stop();
  });

  it('sends what was signed before it is closed', async () => {
    const world = await new World({ faults: { latencyMs: (method) => (method === 'send' ? 5_000 : 0) } }).start();
    world.submit('a');
    await world.mine(2, 100);
    expect(world.states()).toEqual({ a: 'submitted' });
    const closed = world.settlement.close();
    expect(world.chain.nonce(OPERATOR, 'pending')).toBe(0);
    await world.clock.advance(5_000);
    await closed;
    expect(world.chain.nonce(OPERATOR, 'pending')).toBe(1);
    await world.stop();
  });

  it('can be started once', async () => {
    const world = await new World().start();
    await expect(world.settlement.start()).rejects.toMatchObject({ code: 'STATE_INVALID' });
    await world.stop();
  });

  it('asks the chain for nothing while there is nothing to do', async () => {
    let requests = 0;
    const world = await new World({
      faults: {
        rpc: (method) => {
          if (method !== 'follow') requests += 1;
          return undefined;
        },
      },
    }).start();
    await world.mine(20);
    expect(requests).toBe(0);
    expect(world.clock.pending).toBe(0);
    await world.stop();
  });

  it('survives a listener that throws', async () => {
    const world = new World();
    world.settlement = world.newSettlement({
      onEvent: () => {
        throw new Error('listener');
      },
    });
    await world.start();
    world.submit('a');
    await world.mine(3);
    expect(world.settled()).toEqual(['a']);
    await world.stop();
  });
});
