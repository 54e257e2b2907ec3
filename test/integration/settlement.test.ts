import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { privateKeyToAccount } from 'viem/accounts';
import type { SettlementChain, TransactionSender } from '../../src/chain/chain.ts';
import { RpcChainClient } from '../../src/chain/rpc.ts';
import type { SettlementEvent, SettlementOptions } from '../../src/chain/settlement.ts';
import { Settlement } from '../../src/chain/settlement.ts';
import { systemClock } from '../../src/clock.ts';
import type { ChainCall, Hex } from '../../src/job/call.ts';
import { Metadata } from '../../src/job/call.ts';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import type { LocalChain } from '../../src/testing/local-chain.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import type { LocalService, LocalTangle } from '../../src/testing/tangle.ts';
import { deployTangle } from '../../src/testing/tangle.ts';

let chain: LocalChain;
let tangle: LocalTangle;
let client: RpcChainClient;

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
  client = new RpcChainClient({ rpcUrl: chain.rpcUrl, contract: tangle.contract, chainId: chain.chainId });
});

afterAll(async () => {
  await client.close();
  await chain.stop();
});

/** What the job computes: a result shows for which inputs it was made. */
const outputFor = (inputs: Uint8Array): Uint8Array => Uint8Array.from([0x0f, ...inputs]);
const bytes = (hex: Hex): Uint8Array => new Uint8Array(Buffer.from(hex.slice(2), 'hex'));

/** One operator with a ledger of its own; calls get into it by hand. */
class Operator {
  readonly ledger = SqliteLedger.open({ path: ':memory:' });
  readonly events: SettlementEvent[] = [];
  readonly #service: LocalService;
  readonly #index: number;
  #settlement: Settlement | undefined;

  constructor(service: LocalService, index = 0) {
    this.#service = service;
    this.#index = index;
  }

  async start(options: Partial<SettlementOptions> = {}): Promise<void> {
    const account = this.#service.operators[this.#index];
    if (!account) throw new Error('the service has no such operator');
    this.#settlement = new Settlement({
      chain: client,
      ledger: this.ledger,
      signer: privateKeyToAccount(account.privateKey),
      clock: systemClock,
      telemetry: silentTelemetry,
      confirmations: 0,
      pollMs: 20,
      resendAfterMs: 100,
      onEvent: (event) => this.events.push(event),
      ...options,
    });
    await this.#settlement.start();
  }

  async executed(call: ChainCall): Promise<number> {
    await this.ledger.recordSeen([call], {
      chainId: call.chainId,
      contract: call.contract,
      block: { number: call.blockNumber, hash: call.blockHash },
    });
    const [record] = this.ledger.find({ states: ['seen'] });
    if (!record) throw new Error('the call is known already');
    await this.ledger.recordExecuted(
      record.seq,
      { body: outputFor(call.inputs), metadata: new Metadata() },
      { executor: 'test', durationMs: 1 },
    );
    this.#settlement?.wake();
    return record.seq;
  }

  /** Resolves when the call is in this state; heads are announced meanwhile. */
  async until(seq: number, state: string): Promise<void> {
    await expect
      .poll(
        async () => {
          this.#settlement?.onHead(await client.head());
          return this.ledger.get(seq)?.state;
        },
        { interval: 20 },
      )
      .toBe(state);
  }

  sender(): TransactionSender {
    if (!this.#settlement) throw new Error('not started');
    return this.#settlement.sender();
  }

  drain(deadline: number): Promise<boolean> {
    return this.#settlement?.drain(deadline) ?? Promise.resolve(true);
  }

  stop(): Promise<void> {
    return this.#settlement?.close() ?? Promise.resolve();
  }
}

async function resultsOf(service: LocalService): Promise<[bigint, string][]> {
  return (await tangle.results(service.serviceId)).map((result) => [result.callId, Buffer.from(result.output).toString('hex')]);
}

describe('on a real chain', () => {
  it('never settles the result of a call whose id a reorg gave to another', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'square' }] });
    const operator = new Operator(service);
    const old = await tangle.submitJob(service.serviceId, { jobIndex: 0, inputs: '0xaaaa' });
    await chain.reorg(1, [{ transaction: tangle.jobTransaction(service.serviceId, { jobIndex: 0, inputs: '0xbbbb' }), block: 0 }]);
    const [present] = await tangle.calls(service.serviceId);
    expect(present).toMatchObject({ callId: old.callId, inputs: bytes('0xbbbb') });
    if (!present) return;

    await operator.start({ finality: 3 });
    const orphan = await operator.executed(old);
    const seq = await operator.executed(present);
    await operator.until(seq, 'mined');
    expect(await resultsOf(service)).toEqual([[present.callId, '0fbbbb']]);
    expect(operator.ledger.get(orphan)?.state).toBe('executed');
    // Deep, and still not on the chain.
    await chain.mine(4);
    await operator.until(orphan, 'orphaned');
    expect(await resultsOf(service)).toEqual([[present.callId, '0fbbbb']]);
    await operator.stop();
  });

  it('brings its transaction back when the block of it leaves the chain', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'square' }] });
    const operator = new Operator(service);
    await operator.start({ finality: 4 });
    const seq = await operator.executed(await tangle.submitJob(service.serviceId, { jobIndex: 0, inputs: '0x01' }));
    await operator.until(seq, 'mined');
    // What is sent again waits until it was seen that it has to be.
    await chain.setAutomine(false);
    await chain.reorg(1);
    expect(await resultsOf(service)).toEqual([]);
    await expect.poll(() => chain.request('txpool_status', [])).toMatchObject({ pending: '0x1' });
    await chain.mine();
    await chain.setAutomine(true);
    expect(await resultsOf(service)).toHaveLength(1);
    await operator.until(seq, 'mined');
    expect(operator.events.map((event) => event.type)).toEqual(['submitted', 'mined', 'healed', 'mined']);
    await chain.mine(5);
    await operator.until(seq, 'final');
    await operator.stop();
  });

  it('sends what the last run signed and could not send, and signs nothing again', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'square' }] });
    const operator = new Operator(service);
    let dead = false;
    const mute: SettlementChain = new Proxy<SettlementChain>(client, {
      get: (target, name) => {
        // The process dies before the transaction is out: nothing of it goes on.
        dead ||= name === 'send';
        if (dead) return () => new Promise(() => undefined);
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const seq = await operator.executed(await tangle.submitJob(service.serviceId, { jobIndex: 0, inputs: '0x01' }));
    void operator.start({ chain: mute });
    await expect.poll(() => operator.ledger.get(seq)?.state, { interval: 10 }).toBe('submitted');
    const [journaled] = operator.ledger.transactionsOf(seq);

    operator.events.length = 0;
    await operator.start();
    await operator.until(seq, 'mined');
    expect(operator.events.map((event) => event.type)).toEqual(['mined']);
    expect(operator.events[0]).toMatchObject({ hash: journaled?.hash });
    expect(await resultsOf(service)).toEqual([[0n, '0f01']]);
    await operator.stop();
  });

  it('does not wait for blocks that nobody mines when it stops, and settles the result after the next start', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'square' }] });
    const operator = new Operator(service);
    await operator.start({ confirmations: 3 });
    const seq = await operator.executed(await tangle.submitJob(service.serviceId, { jobIndex: 0, inputs: '0x01' }));
    const hourMs = 3_600_000;
    expect(await operator.drain(Date.now() + hourMs)).toBe(false);
    expect(operator.ledger.get(seq)?.state).toBe('executed');
    expect(operator.events).toEqual([]);

    await operator.start({ confirmations: 3 });
    await chain.mine(3);
    await operator.until(seq, 'mined');
    expect(await operator.drain(Date.now() + hourMs)).toBe(true);
    expect(await resultsOf(service)).toEqual([[0n, '0f01']]);
  });

  it('takes it as an end that another operator was faster, and that the contract refuses a result', async () => {
    const service = await tangle.startService({
      jobs: [{ name: 'open' }, { name: 'strict', resultSchema: '0x0200010800000000016e' }],
      operatorCount: 2,
    });
    const [, rival] = service.operators;
    if (!rival) throw new Error('the service has one operator');
    const operator = new Operator(service);
    await operator.start();
    const lost = await tangle.submitJob(service.serviceId, { jobIndex: 0, inputs: '0x01' });
    const refused = await tangle.submitJob(service.serviceId, { jobIndex: 1, inputs: '0x02' });
    const good = await tangle.submitJob(service.serviceId, { jobIndex: 0, inputs: '0x03' });
    await tangle.submitResult(lost, '0xff', rival);
    const seqs = [await operator.executed(lost), await operator.executed(refused), await operator.executed(good)];
    await operator.until(seqs[2] ?? 0, 'mined');
    await operator.until(seqs[0] ?? 0, 'closed');
    await operator.until(seqs[1] ?? 0, 'rejected');
    expect(operator.ledger.get(seqs[0] ?? 0)?.errorMessage).toMatch(/^JobAlreadyCompleted\(\d+, 0\)$/);
    expect(operator.ledger.get(seqs[1] ?? 0)?.errorMessage).toMatch(/^SchemaValidationFailed\(/);
    expect(await resultsOf(service)).toEqual([
      [0n, 'ff'],
      [2n, '0f03'],
    ]);
    await operator.stop();
  });

  it('sends transactions of the operator itself and tells why one would fail', async () => {
    const service = await tangle.startService({ jobs: [{ name: 'square' }] });
    const operator = new Operator(service);
    await operator.start();
    const sender = new Settlement({ chain: client, ledger: operator.ledger, clock: systemClock, telemetry: silentTelemetry });
    expect(() => sender.sender()).toThrow(expect.objectContaining({ code: 'SIGNER_MISSING' }));
    const refused = client.encodeResults({ serviceId: service.serviceId, callIds: [99n], results: [bytes('0x01')] });
    await expect(operator.sender().send(refused)).rejects.toMatchObject({
      code: 'RESULT_REJECTED',
      message: expect.stringContaining('JobCallNotFound'),
    });
    const call = await tangle.submitJob(service.serviceId, { jobIndex: 0, inputs: '0x01' });
    const receipt = await operator
      .sender()
      .send(client.encodeResults({ serviceId: service.serviceId, callIds: [call.callId], results: [bytes('0x01')] }));
    expect(receipt).toMatchObject({ success: true });
    await operator.stop();
  });
});
