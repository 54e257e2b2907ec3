import { privateKeyToAccount } from 'viem/accounts';
import { parseTransaction, recoverTransactionAddress } from 'viem';
import { describe, expect, test } from 'vitest';
import { RunnerError } from '../errors.ts';
import type { Address, Hex } from '../job/call.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import type { ChainUpdate, FollowOptions } from './chain.ts';
import { MockChain } from './mock-chain.ts';
import { mockSigner } from './mock-transaction.ts';
import type { MockChainClientOptions, SendFault } from './mock.ts';
import { MockChainClient } from './mock.ts';

const OPERATOR: Address = '0x00000000000000000000000000000000000000a1';
const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

function setUp(options: Omit<Partial<MockChainClientOptions>, 'chain' | 'clock'> = {}) {
  const clock = new FakeClock();
  const chain = new MockChain({ clock });
  const { serviceId } = chain.addService({ operators: [OPERATOR], blueprintId: 3n });
  const client = new MockChainClient({ chain, clock, ...options });
  const submit = (input: number): Hex => chain.submitJob({ serviceId, jobIndex: 0, inputs: bytes(input) });
  const raw = (nonce: number): Promise<Hex> =>
    mockSigner(OPERATOR).signTransaction({
      type: 'eip1559',
      chainId: 31_337,
      nonce,
      to: chain.contract,
      data: '0x',
      value: 0n,
      gas: 500_000n,
      maxFeePerGas: 10_000_000_000n,
      maxPriorityFeePerGas: 1_000_000_000n,
    });
  return { clock, chain, client, serviceId, submit, raw };
}

/** Collects updates in the background; `settle` the clock before looking. */
function watch(client: MockChainClient, options: Omit<FollowOptions, 'signal'> = {}) {
  const abort = new AbortController();
  const updates: ChainUpdate[] = [];
  const ended = (async () => {
    for await (const update of client.follow({ ...options, signal: abort.signal })) updates.push(update);
    return 'ended';
  })();
  return { updates, ended, stop: () => abort.abort() };
}

const short = (update: ChainUpdate): unknown => {
  switch (update.type) {
    case 'calls':
      return ['calls', update.calls.map((call) => call.inputs[0]), update.cursor.block.number];
    case 'reorg':
      return ['reorg', update.cursor.block.number, update.depth];
    case 'head':
      return ['head', update.block.number];
  }
};

describe('follow', () => {
  test('tells every call in order, then the head, and goes on with new blocks', async () => {
    const { clock, chain, client, submit } = setUp();
    submit(1);
    chain.mine();
    submit(2);
    submit(3);
    chain.mine(2);
    const { updates, stop, ended } = watch(client, { fromBlock: 0n });
    await clock.settle();
    submit(4);
    chain.mine();
    await clock.settle();
    expect(updates.map(short)).toEqual([
      ['calls', [], 0n],
      ['calls', [1, 2, 3], 3n],
      ['head', 3n],
      ['calls', [4], 4n],
      ['head', 4n],
    ]);
    stop();
    expect(await ended).toBe('ended');
  });

  test('without a cursor begins after the head, and says so at once; with one, after it', async () => {
    const { clock, chain, client, submit } = setUp();
    submit(1);
    chain.mine();
    const { number, hash } = chain.head;
    submit(2);
    chain.mine();
    const fresh = watch(client);
    const resumed = watch(client, { cursor: { chainId: client.chainId, contract: client.contract, block: { number, hash } } });
    await clock.settle();
    expect(fresh.updates.map(short)).toEqual([
      ['calls', [], 2n],
      ['head', 2n],
    ]);
    expect(resumed.updates.map(short)).toEqual([
      ['calls', [2], 2n],
      ['head', 2n],
    ]);
    await client.close();
    expect(await Promise.all([fresh.ended, resumed.ended])).toEqual(['ended', 'ended']);
  });

  test('waits for a block that is still to come', async () => {
    const { clock, chain, client, submit } = setUp();
    const { updates, stop } = watch(client, { fromBlock: 2n });
    submit(1);
    chain.mine();
    submit(2);
    chain.mine();
    await clock.settle();
    expect(updates.map(short)).toEqual([
      ['calls', [], 1n],
      ['calls', [2], 2n],
      ['head', 2n],
    ]);
    stop();
  });

  test('reports a reorg with the block that both branches share, then what the new branch holds', async () => {
    const { clock, chain, client, serviceId, submit } = setUp();
    submit(1);
    chain.mine();
    submit(2);
    chain.mine(2);
    const { updates, stop } = watch(client, { fromBlock: 0n });
    await clock.settle();
    const ancestor = chain.reorg(2, { dropTransactions: true, replaceWith: [{ serviceId, jobIndex: 0, inputs: bytes(7) }] });
    await clock.settle();
    expect(updates.slice(3).map(short)).toEqual([
      ['reorg', 1n, 2],
      ['calls', [7], 3n],
      ['head', 3n],
    ]);
    expect(updates[3]).toMatchObject({ cursor: { block: ancestor } });
    stop();
  });

  test('reports a reorg that happened while nobody followed, and one that made the chain shorter', async () => {
    const { clock, chain, client, submit } = setUp();
    submit(1);
    chain.mine();
    submit(2);
    chain.mine(3);
    const { number, hash } = chain.head;
    chain.rollback(3);
    const { updates, stop } = watch(client, { cursor: { chainId: client.chainId, contract: client.contract, block: { number, hash } } });
    await clock.settle();
    expect(updates.map(short)).toEqual([
      ['reorg', 1n, 3],
      ['head', 1n],
    ]);
    stop();
  });

  test('tells only the calls of the services asked for', async () => {
    const { clock, chain, client, submit } = setUp();
    const other = chain.addService({ operators: [OPERATOR] });
    submit(1);
    chain.submitJob({ serviceId: other.serviceId, jobIndex: 0, inputs: bytes(2) });
    chain.mine();
    const { updates, stop } = watch(client, { fromBlock: 0n, serviceIds: [other.serviceId] });
    await clock.settle();
    expect(updates.map(short)).toEqual([
      ['calls', [], 0n],
      ['calls', [2], 1n],
      ['head', 1n],
    ]);
    stop();
  });

  test('bounds an update, without splitting a block', async () => {
    const { clock, chain, client, submit } = setUp({ callsPerUpdate: 3 });
    for (let block = 0; block < 4; block += 1) {
      submit(block * 2);
      submit(block * 2 + 1);
      chain.mine();
    }
    const { updates, stop } = watch(client, { fromBlock: 0n });
    await clock.settle();
    expect(updates.map(short)).toEqual([
      ['calls', [], 0n],
      ['calls', [0, 1, 2, 3], 2n],
      ['calls', [4, 5, 6, 7], 4n],
      ['head', 4n],
    ]);
    stop();
  });

  test('goes on by itself after looks that fail', async () => {
    let failures = 3;
    const { clock, chain, client, submit } = setUp({
      faults: { rpc: (method) => (method === 'follow' && failures-- > 0 ? new RunnerError('RPC_UNREACHABLE', 'down') : undefined) },
    });
    submit(1);
    chain.mine();
    const { updates, stop } = watch(client, { fromBlock: 0n });
    await clock.settle();
    expect(updates).toEqual([]);
    await clock.advance(1_000);
    expect(updates.map(short)).toEqual([
      ['calls', [], 0n],
      ['calls', [1], 1n],
      ['head', 1n],
    ]);
    stop();
  });
});

describe('confirm', () => {
  test('is true for a call in its block, and false for any other block, inputs or caller', async () => {
    const { chain, client, serviceId, submit } = setUp();
    submit(1);
    chain.mine();
    const [call] = chain.calls();
    if (!call) throw new Error('no call');
    const others = [
      { ...call, inputs: bytes(2) },
      { ...call, caller: OPERATOR },
      { ...call, callId: 1n },
      { ...call, blockNumber: 9n },
    ];
    expect(await client.confirm([call, ...others])).toEqual([true, false, false, false, false]);
    chain.reorg(1, { replaceWith: [{ serviceId, jobIndex: 0, inputs: bytes(9) }] });
    expect(await client.confirm([call, ...chain.calls()])).toEqual([false, true, true]);
  });
});

describe('transactions', () => {
  test('a result goes the whole way: encode, simulate, sign, send, receipt', async () => {
    const { chain, client, serviceId, submit } = setUp();
    submit(1);
    submit(2);
    chain.mine();
    const request = client.encodeResults({ serviceId, callIds: [0n, 1n], results: [bytes(10), bytes(20)] });
    const simulation = await client.simulate(OPERATOR, request);
    expect(simulation).toEqual({ outcome: 'ok', gas: 234_000n });
    const fees = await client.fees();
    const raw = await mockSigner(OPERATOR).signTransaction({
      ...request,
      type: 'eip1559',
      chainId: client.chainId,
      nonce: await client.nonce(OPERATOR, 'pending'),
      value: 0n,
      gas: 300_000n,
      maxFeePerGas: fees.baseFeePerGas + fees.maxPriorityFeePerGas,
      maxPriorityFeePerGas: fees.maxPriorityFeePerGas,
    });
    expect(await client.send(raw)).toBe('sent');
    chain.mine();
    const hash = chain.results()[0]?.transactionHash ?? '0x';
    expect(await client.receipts([hash, '0x00'])).toEqual([expect.objectContaining({ success: true, gasUsed: 234_000n }), undefined]);
    expect(chain.results().map((result) => [...result.output])).toEqual([[10], [20]]);
    expect(await client.blockHash(2n)).toBe(chain.head.hash);
    expect(await client.blockHash(3n)).toBeUndefined();
  });

  test('the signature of the mock is none: the sender stands in clear, and no real chain recovers it', async () => {
    const { raw } = setUp();
    const signed = (await raw(0)) as `0x02${string}`;
    expect(parseTransaction(signed)).toMatchObject({ r: `0x${OPERATOR.slice(2).padStart(64, '0')}`, s: `0x${'ff'.repeat(32)}` });
    await expect(recoverTransactionAddress({ serializedTransaction: signed })).rejects.toThrow(/signature|Signature|expected valid/u);
  });

  test('takes the transactions of a real account too', async () => {
    const { chain, client } = setUp();
    const account = privateKeyToAccount(`0x${'01'.repeat(32)}`);
    const raw = await account.signTransaction({
      type: 'eip1559',
      chainId: 31_337,
      nonce: 0,
      to: chain.contract,
      data: '0x',
      value: 0n,
      gas: 300_000n,
      maxFeePerGas: 10_000_000_000n,
      maxPriorityFeePerGas: 1n,
    });
    await client.send(raw);
    expect(await client.nonce(account.address, 'pending')).toBe(1);
  });

  const withFault = (fault: SendFault) => setUp({ faults: { send: () => fault, delayMs: () => 300 } });

  test('a dropped transaction is said to be sent and is never mined', async () => {
    const { chain, client, raw } = withFault('drop');
    expect(await client.send(await raw(0))).toBe('sent');
    expect(chain.pooled(OPERATOR)).toEqual([]);
  });

  test('a delayed transaction comes later', async () => {
    const { clock, chain, client, raw } = withFault('delay');
    expect(await client.send(await raw(0))).toBe('sent');
    await clock.advance(299);
    expect(chain.pooled(OPERATOR)).toEqual([]);
    await clock.advance(1);
    expect(chain.pooled(OPERATOR)).toHaveLength(1);
  });

  test('a duplicated transaction is known the second time and mined once', async () => {
    const { chain, client, raw } = withFault('duplicate');
    expect(await client.send(await raw(0))).toBe('known');
    chain.mine(2);
    expect(chain.nonce(OPERATOR, 'latest')).toBe(1);
  });

  test('a refused transaction is not taken; one whose reply was lost is', async () => {
    const refused = withFault('refuse');
    await expect(refused.client.send(await refused.raw(0))).rejects.toMatchObject({ code: 'RPC_RATE_LIMITED' });
    expect(refused.chain.pooled(OPERATOR)).toEqual([]);
    const lost = withFault('lose-reply');
    await expect(lost.client.send(await lost.raw(0))).rejects.toMatchObject({ code: 'RPC_UNREACHABLE' });
    expect(lost.chain.pooled(OPERATOR)).toHaveLength(1);
  });

  test('requests take their time and fail as told', async () => {
    const { clock, client } = setUp({
      faults: {
        latencyMs: (method) => (method === 'head' ? 40 : 0),
        rpc: (method) => (method === 'nonce' ? new RunnerError('RPC_UNREACHABLE', 'down') : undefined),
      },
    });
    let answeredAt = -1;
    const answered = client.head().then(() => (answeredAt = clock.monotonic()));
    await clock.advance(100);
    await answered;
    expect(answeredAt).toBe(40);
    await expect(client.nonce(OPERATOR, 'latest')).rejects.toMatchObject({ code: 'RPC_UNREACHABLE' });
  });
});

describe('what it says of itself', () => {
  test('everything is labelled mock, and the default blueprint has exactly two jobs', async () => {
    const { client } = setUp();
    expect(client.source).toBe('mock');
    const blueprint = await client.blueprint(12n);
    expect(blueprint).toMatchObject({ blueprintId: 12n, source: 'mock', verified: false });
    expect(blueprint.jobs.map((job) => [job.index, job.paramsSchema.length, job.profile])).toEqual([
      [0, 0, undefined],
      [1, 0, undefined],
    ]);
  });

  test('a configured blueprint keeps the label', async () => {
    const [job] = (await setUp().client.blueprint(0n)).jobs;
    if (!job) throw new Error('no job');
    const { client } = setUp({ blueprint: { name: 'squares', jobs: [{ ...job, name: 'square' }] } });
    expect(await client.blueprint(1n)).toMatchObject({ name: 'squares', source: 'mock', blueprintId: 1n, jobs: [{ name: 'square' }] });
  });

  test('services and operators are those of the chain', async () => {
    const { chain, client, serviceId } = setUp();
    expect(await client.service(serviceId)).toMatchObject({ serviceId, blueprintId: 3n, status: 'active', operators: [OPERATOR] });
    await expect(client.service(9n)).rejects.toMatchObject({ code: 'SERVICE_NOT_FOUND' });
    expect(await client.operator(3n, OPERATOR)).toEqual({ address: OPERATOR, registered: false });
    // registerOperator(3, 0x04, "http://me")
    const { encodeFunctionData, parseAbi } = await import('viem');
    const data = encodeFunctionData({
      abi: parseAbi(['function registerOperator(uint64 blueprintId, bytes ecdsaPublicKey, string rpcAddress)']),
      args: [3n, '0x04', 'http://me'],
    });
    const raw = await mockSigner(OPERATOR).signTransaction({
      type: 'eip1559',
      chainId: 31_337,
      nonce: 0,
      to: chain.contract,
      data,
      value: 0n,
      gas: 500_000n,
      maxFeePerGas: 10_000_000_000n,
      maxPriorityFeePerGas: 1n,
    });
    await client.send(raw);
    chain.mine();
    expect(await client.operator(3n, OPERATOR)).toEqual({ address: OPERATOR, registered: true, rpcAddress: 'http://me' });
    expect(await client.simulate(OPERATOR, { to: chain.contract, data })).toMatchObject({ error: 'OperatorAlreadyRegistered' });
  });
});
