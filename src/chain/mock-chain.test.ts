import { decodeErrorResult, parseAbi } from 'viem/utils';
import { describe, expect, test } from 'vitest';
import type { Address, Hex } from '../job/call.ts';
import { FakeClock } from '../testing/fake-clock.ts';
import type { Simulation } from './chain.ts';
import { MockChain } from './mock-chain.ts';
import { mockSigner } from './mock-transaction.ts';
import { encodeResults } from './results-encoding.ts';

const OPERATOR: Address = '0x00000000000000000000000000000000000000a1';
const OTHER: Address = '0x00000000000000000000000000000000000000b2';
const GWEI = 1_000_000_000n;

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

interface Offer {
  readonly nonce: number;
  readonly data?: Hex;
  readonly to?: Address;
  readonly from?: Address;
  readonly gas?: bigint;
  readonly maxFeePerGas?: bigint;
  readonly maxPriorityFeePerGas?: bigint;
  readonly chainId?: number;
}

function setUp(options: { readonly requiredResults?: number; readonly ttl?: bigint; readonly operators?: readonly Address[] } = {}) {
  const clock = new FakeClock();
  const chain = new MockChain({ clock });
  const { operators = [OPERATOR, OTHER], ...rest } = options;
  const { serviceId } = chain.addService({ operators, ...rest });
  const raw = ({ from = OPERATOR, ...offer }: Offer): Promise<Hex> =>
    mockSigner(from).signTransaction({
      type: 'eip1559',
      chainId: 31_337,
      to: chain.contract,
      data: '0x',
      value: 0n,
      gas: 500_000n,
      maxFeePerGas: 10n * GWEI,
      maxPriorityFeePerGas: GWEI,
      ...offer,
    });
  const send = async (offer: Offer) => chain.accept(await raw(offer));
  const results = (callIds: readonly bigint[], output = bytes(9)): Hex =>
    encodeResults({ serviceId, callIds, results: callIds.map(() => output) });
  const submit = (...inputs: number[]): Hex => chain.submitJob({ serviceId, jobIndex: 1, inputs: bytes(...inputs) });
  return { clock, chain, serviceId, raw, send, results, submit };
}

describe('blocks and calls', () => {
  test('a submitted job is a call of the next block, with ids that count per service', async () => {
    const { clock, chain, serviceId, submit } = setUp();
    const second = chain.addService({ operators: [OPERATOR] });
    await clock.advance(5_000);
    const hash = submit(1, 2);
    submit(3);
    chain.submitJob({
      serviceId: second.serviceId,
      jobIndex: 0,
      inputs: bytes(4),
      caller: '0x00000000000000000000000000000000000000CC',
      quotedOperators: [OTHER],
    });
    expect(chain.calls()).toEqual([]);
    chain.mine();
    const block = chain.head;
    expect(chain.callOf(hash)).toEqual({
      chainId: 31_337,
      contract: chain.contract,
      serviceId,
      callId: 0n,
      jobIndex: 1,
      caller: expect.stringMatching(/^0x[0-9a-f]{40}$/) as string,
      inputs: bytes(1, 2),
      blockNumber: 1n,
      blockHash: block.hash,
      transactionHash: hash,
      logIndex: 0,
      timestamp: BigInt(clock.now() / 1_000),
    });
    expect(chain.calls().map((call) => [call.serviceId, call.callId, call.logIndex])).toEqual([
      [0n, 0n, 0],
      [0n, 1n, 1],
      [1n, 0n, 2],
    ]);
    expect(chain.calls()[2]).toMatchObject({ caller: '0x00000000000000000000000000000000000000cc', quotedOperators: [OTHER] });
  });

  test('blocks hang together by hash, and the same script gives the same hashes', () => {
    const { chain } = setUp();
    chain.mine(3);
    expect(chain.block(3n)?.parentHash).toBe(chain.block(2n)?.hash);
    expect(chain.block(4n)).toBeUndefined();
    expect(chain.block(-1n)).toBeUndefined();
    const again = setUp().chain;
    again.mine(3);
    expect(again.head).toEqual(chain.head);
  });

  test('a caller who is not permitted, and a service without an end in sight, are told apart', async () => {
    const { clock, chain, submit } = setUp({ ttl: 3_600n });
    chain.addService({ serviceId: 5n, operators: [OPERATOR], permittedCallers: [OTHER] });
    const refused = chain.submitJob({ serviceId: 5n, jobIndex: 0, inputs: bytes(), caller: OPERATOR });
    const taken = chain.submitJob({ serviceId: 5n, jobIndex: 0, inputs: bytes(), caller: OTHER });
    submit(1);
    chain.mine();
    expect(chain.receipt(refused)?.success).toBe(false);
    expect(chain.receipt(taken)?.success).toBe(true);
    await clock.advance(3_601_000);
    const late = submit(2);
    chain.mine();
    expect(chain.receipt(late)?.success).toBe(false);
    expect(chain.service(0n)?.status).toBe('expired');
    expect(chain.service(5n)?.status).toBe('active');
    expect(chain.service(77n)).toBeUndefined();
  });

  test('what does not fit into a block waits for the next one', () => {
    const chain = new MockChain({ clock: new FakeClock(), blockGasLimit: 400_000n });
    const { serviceId } = chain.addService({ operators: [OPERATOR] });
    for (let index = 0; index < 5; index += 1) chain.submitJob({ serviceId, jobIndex: 0, inputs: bytes(index) });
    chain.mine(3);
    expect([1n, 2n, 3n].map((number) => chain.block(number)?.calls.length)).toEqual([2, 2, 1]);
  });
});

describe('results', () => {
  test('a result is taken once: the block, the receipt and the call tell the same', async () => {
    const { chain, serviceId, send, results, submit } = setUp();
    submit(7);
    chain.mine();
    expect(await send({ nonce: 0, data: results([0n]) })).toBe('sent');
    chain.mine();
    const [result] = chain.results();
    expect(chain.results()).toHaveLength(1);
    expect(result).toMatchObject({
      serviceId,
      callId: 0n,
      operator: OPERATOR,
      output: bytes(9),
      call: { inputs: bytes(7) },
      block: { number: 2n, hash: chain.head.hash },
    });
    expect(chain.receipt(result?.transactionHash ?? '0x')).toEqual({
      transactionHash: result?.transactionHash,
      block: { number: 2n, hash: chain.head.hash },
      success: true,
      gasUsed: 166_000n,
      effectiveGasPrice: 2n * GWEI,
    });
  });

  const refusals: readonly (readonly [string, bigint, (chain: MockChain) => void])[] = [
    ['JobCallNotFound', 9n, () => undefined],
    [
      'JobAlreadyCompleted',
      0n,
      (chain: MockChain) => void chain.submitResult({ serviceId: 0n, callId: 0n, operator: OTHER, output: bytes(1) }),
    ],
    ['ServiceNotActive', 0n, (chain: MockChain) => void chain.terminateService(0n)],
    ['EnforcedPause', 0n, (chain: MockChain) => chain.setPaused(true)],
    ['SchemaValidationFailed', 0n, (chain: MockChain) => chain.refuseResults(() => 'SchemaValidationFailed')],
    [
      'AggregationRequired',
      0n,
      (chain: MockChain) => chain.refuseResults((result) => (result.inputs[0] === 7 ? 'AggregationRequired' : undefined)),
    ],
    ['Reverted', 0n, (chain: MockChain) => chain.refuseResults(() => 'silent')],
  ];
  test.each(refusals)('the contract says %s', (error, callId, arrange) => {
    const { chain, results, submit } = setUp();
    submit(7);
    chain.mine();
    arrange(chain);
    chain.mine();
    const simulation = chain.simulate(OPERATOR, { to: chain.contract, data: results([callId]) });
    expect(simulation).toMatchObject({ outcome: 'revert', error });
  });

  test('with two results required, the same operator is refused and another completes the call', async () => {
    const { chain, send, results, submit } = setUp({ requiredResults: 2 });
    submit(7);
    chain.mine();
    await send({ nonce: 0, data: results([0n]) });
    chain.mine();
    const simulate = (from: Address): Simulation => chain.simulate(from, { to: chain.contract, data: results([0n]) });
    expect(simulate(OPERATOR)).toMatchObject({ outcome: 'revert', error: 'ResultAlreadySubmitted', args: [0n, 0n, OPERATOR], callId: 0n });
    expect(simulate(OTHER)).toEqual({ outcome: 'ok', gas: 166_000n });
    await send({ from: OTHER, nonce: 0, data: results([0n]) });
    chain.mine();
    expect(simulate(OPERATOR)).toMatchObject({ outcome: 'revert', error: 'JobAlreadyCompleted', args: [0n, 0n], callId: 0n });
    expect(chain.results().map((result) => result.operator)).toEqual([OPERATOR, OTHER]);
  });

  test('strangers and unquoted operators are refused', () => {
    const { chain, results } = setUp();
    chain.submitJob({ serviceId: 0n, jobIndex: 0, inputs: bytes(), quotedOperators: [OTHER] });
    chain.mine();
    const simulate = (from: Address): Simulation => chain.simulate(from, { to: chain.contract, data: results([0n]) });
    expect(simulate('0x00000000000000000000000000000000000000ee')).toMatchObject({ error: 'OperatorNotInService' });
    expect(simulate(OPERATOR)).toMatchObject({ error: 'NotQuotedOperator', callId: 0n });
    expect(simulate(OTHER)).toMatchObject({ outcome: 'ok' });
  });

  test('a batch is all or nothing, and its simulation changes nothing', async () => {
    const { chain, send, results, submit } = setUp();
    submit(1);
    submit(2);
    submit(3);
    chain.mine();
    expect(chain.simulate(OPERATOR, { to: chain.contract, data: results([0n, 1n, 2n]) })).toEqual({ outcome: 'ok', gas: 302_000n });
    expect(chain.simulate(OPERATOR, { to: chain.contract, data: results([0n, 1n, 1n]) })).toMatchObject({
      error: 'JobAlreadyCompleted',
      args: [0n, 1n],
    });
    await send({ nonce: 0, data: results([0n, 1n, 9n]) });
    await send({ nonce: 1, data: results([0n, 1n, 2n]) });
    chain.mine();
    expect(chain.results().map((result) => result.callId)).toEqual([0n, 1n, 2n]);
    expect(chain.nonce(OPERATOR, 'latest')).toBe(2);
  });

  test('the bytes of a revert are those of the contract', () => {
    const { chain, results } = setUp();
    const simulation = chain.simulate(OPERATOR, { to: chain.contract, data: results([4n]) });
    const data = simulation.outcome === 'revert' ? simulation.data : '0x';
    expect(data.slice(0, 10)).toBe('0x96c6ebfc');
    expect(decodeErrorResult({ abi: parseAbi(['error JobCallNotFound(uint64 serviceId, uint64 callId)']), data }).args).toEqual([0n, 4n]);
  });

  test('with too little gas a transaction fails, pays, and uses its nonce', async () => {
    const { chain, send, results, submit } = setUp();
    submit(1);
    chain.mine();
    await send({ nonce: 0, data: results([0n]), gas: 100_000n });
    chain.mine();
    expect(chain.results()).toEqual([]);
    expect(chain.nonce(OPERATOR, 'latest')).toBe(1);
    await send({ nonce: 1, data: results([0n]) });
    chain.mine();
    expect(chain.results()).toHaveLength(1);
  });
});

describe('the pool', () => {
  test('a gap holds back what follows it, and the pending nonce stops before it', async () => {
    const { chain, send } = setUp();
    await send({ nonce: 0 });
    await send({ nonce: 2 });
    expect(chain.nonce(OPERATOR, 'pending')).toBe(1);
    chain.mine(2);
    expect(chain.nonce(OPERATOR, 'latest')).toBe(1);
    expect(chain.pooled(OPERATOR).map((transaction) => transaction.nonce)).toEqual([2]);
    await send({ nonce: 1 });
    chain.mine();
    expect(chain.nonce(OPERATOR, 'latest')).toBe(3);
    expect(chain.pooled(OPERATOR)).toEqual([]);
  });

  test('a replacement must offer a tenth more in both fees', async () => {
    const { chain, send } = setUp();
    await send({ nonce: 0 });
    expect(await send({ nonce: 0 })).toBe('known');
    expect(await send({ nonce: 0, data: '0x01', maxFeePerGas: 11n * GWEI })).toBe('underpriced');
    expect(await send({ nonce: 0, data: '0x01', maxFeePerGas: 11n * GWEI - 1n, maxPriorityFeePerGas: 2n * GWEI })).toBe('underpriced');
    expect(await send({ nonce: 0, data: '0x02', maxFeePerGas: 11n * GWEI, maxPriorityFeePerGas: (11n * GWEI) / 10n })).toBe('sent');
    expect(chain.pooled(OPERATOR).map((transaction) => transaction.data)).toEqual(['0x02']);
    chain.mine();
    expect(await send({ nonce: 0, data: '0x03', maxFeePerGas: 100n * GWEI })).toBe('nonce-too-low');
  });

  test('a fee below the base fee waits until the base fee falls', async () => {
    const { chain, send } = setUp();
    await send({ nonce: 0 });
    chain.setBaseFee(11n * GWEI);
    chain.mine();
    expect(chain.nonce(OPERATOR, 'latest')).toBe(0);
    chain.setBaseFee(10n * GWEI);
    chain.mine();
    expect(chain.nonce(OPERATOR, 'latest')).toBe(1);
  });

  test('says why it does not take a transaction', async () => {
    const { chain, send } = setUp();
    chain.setBalance(OTHER, 1_000n);
    expect(await send({ from: OTHER, nonce: 0 })).toBe('underfunded');
    chain.setPoolFloor(20n * GWEI);
    expect(await send({ nonce: 0 })).toBe('fee-too-low');
    await expect(send({ nonce: 0, chainId: 1 })).rejects.toMatchObject({ code: 'RPC_ERROR' });
    await expect(send({ nonce: 0, gas: 31_000_000n })).rejects.toMatchObject({ code: 'RPC_ERROR' });
    await expect(chain.accept('0x1234')).rejects.toMatchObject({ code: 'RPC_ERROR' });
  });

  test('an account pays for its gas', async () => {
    const { chain, send, results, submit } = setUp();
    submit(1);
    chain.mine();
    // Exactly one transaction at its highest fee.
    chain.setBalance(OPERATOR, 500_000n * 10n * GWEI);
    await send({ nonce: 0, data: results([0n]) });
    chain.mine();
    expect(chain.nonce(OPERATOR, 'latest')).toBe(1);
    expect(await send({ nonce: 1 })).toBe('underfunded');
  });
});

describe('reorgs', () => {
  test('give a call id other inputs, and the contract takes the old result for the new call', async () => {
    const { chain, serviceId, send, results, submit } = setUp();
    submit(0xaa);
    chain.mine();
    const before = chain.head;
    const ancestor = chain.reorg(1, { dropTransactions: true, replaceWith: [{ serviceId, jobIndex: 0, inputs: bytes(0xbb) }] });
    expect(ancestor).toMatchObject({ number: 0n });
    expect(chain.head.number).toBe(before.number);
    expect(chain.head.hash).not.toBe(before.hash);
    expect(chain.isCanonical(before)).toBe(false);
    expect(chain.blockByHash(before.hash)).toEqual(before);
    expect(chain.calls()).toMatchObject([{ callId: 0n, jobIndex: 0, inputs: bytes(0xbb) }]);
    await send({ nonce: 0, data: results([0n]) });
    chain.mine();
    expect(chain.results()).toMatchObject([{ callId: 0n, call: { inputs: bytes(0xbb) } }]);
  });

  test('mine again what is not dropped, behind what replaces it', () => {
    const { chain, serviceId, submit } = setUp();
    submit(1);
    chain.mine();
    const second = submit(2);
    const third = submit(3);
    chain.mine();
    chain.reorg(2, { dropTransactions: ({ hash }) => hash === third, replaceWith: [{ serviceId, jobIndex: 0, inputs: bytes(9) }] });
    expect(chain.calls().map((call) => [call.callId, call.inputs[0], call.blockNumber])).toEqual([
      [0n, 9, 1n],
      [1n, 1, 1n],
      [2n, 2, 1n],
    ]);
    expect(chain.callOf(second)).toMatchObject({ callId: 2n });
    expect(chain.callOf(third)).toBeUndefined();
    expect(chain.head.number).toBe(2n);
  });

  test('take back results, nonces, money and receipts, and give the transactions back to the pool', async () => {
    const { chain, send, results, submit } = setUp();
    submit(1);
    chain.mine();
    chain.setBalance(OPERATOR, 500_000n * 10n * GWEI);
    await send({ nonce: 0, data: results([0n]) });
    chain.mine();
    const { transactionHash } = chain.results()[0] ?? { transactionHash: '0x' };
    chain.reorg(1, { blocks: 0 });
    expect(chain.results()).toEqual([]);
    expect(chain.receipt(transactionHash)).toBeUndefined();
    expect(chain.nonce(OPERATOR, 'latest')).toBe(0);
    expect(chain.nonce(OPERATOR, 'pending')).toBe(1);
    chain.mine();
    expect(chain.results()).toMatchObject([{ callId: 0n, transactionHash }]);
    expect(chain.receipt(transactionHash)?.block).toEqual({ number: 2n, hash: chain.head.hash });
  });

  test('a terminated service is active again when its end is dropped', () => {
    const { chain } = setUp();
    chain.mine();
    chain.terminateService(0n);
    chain.mine();
    expect(chain.service(0n)?.status).toBe('terminated');
    chain.rollback(1);
    expect(chain.service(0n)?.status).toBe('active');
    expect(chain.head.number).toBe(1n);
  });

  test('tell listeners the ancestor before the new blocks', () => {
    const { chain } = setUp();
    chain.mine(3);
    const heard: unknown[] = [];
    const cancel = chain.onChange((event) =>
      heard.push(event.type === 'reorg' ? [event.ancestor.number, event.depth] : event.block.number),
    );
    chain.reorg(2, { blocks: 3 });
    cancel();
    chain.mine();
    expect(heard).toEqual([[1n, 2], 2n, 3n, 4n]);
  });

  test('cannot reach below the first block', () => {
    const { chain } = setUp();
    chain.mine(2);
    expect(() => chain.reorg(3)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    expect(() => chain.reorg(0)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});
