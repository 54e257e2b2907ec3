import { privateKeyToAccount } from 'viem/accounts';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

import { RpcChainClient } from '../../src/chain/rpc.ts';
import { transactionHash } from '../../src/chain/signed-transaction.ts';
import type { RpcChainClientOptions } from '../../src/chain/rpc.ts';
import type { Address, ChainCall, Hex } from '../../src/job/call.ts';
import type { LocalAccount, LocalChain } from '../../src/testing/local-chain.ts';
import { startLocalChain } from '../../src/testing/local-chain.ts';
import { startRpcProxy } from '../../src/testing/rpc-proxy.ts';
import type { RpcProxyOptions } from '../../src/testing/rpc-proxy.ts';
import type { LocalTangle } from '../../src/testing/tangle.ts';
import { deployTangle } from '../../src/testing/tangle.ts';

let chain: LocalChain;
let tangle: LocalTangle;
let serviceId: bigint;
let blueprintId: bigint;
let operator: LocalAccount;
const opened: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  chain = await startLocalChain();
  tangle = await deployTangle(chain);
  const service = await tangle.startService({ jobs: [{ name: 'square' }, { name: 'cube' }] });
  ({ serviceId, blueprintId } = service);
  const [first] = service.operators;
  if (!first) throw new Error('no operator');
  operator = first;
});
afterAll(() => chain.stop());
afterEach(async () => {
  await Promise.all(opened.splice(0).map((thing) => thing.close()));
});

function connect(options: Partial<RpcChainClientOptions> = {}): RpcChainClient {
  const client = new RpcChainClient({
    rpcUrl: chain.rpcUrl,
    contract: tangle.contract,
    chainId: chain.chainId,
    pollIntervalMs: 10,
    ...options,
  });
  opened.push(client);
  return client;
}
async function through(options: RpcProxyOptions): Promise<RpcChainClient> {
  const proxy = await startRpcProxy({ upstream: chain.rpcUrl, ...options });
  opened.push(proxy);
  return connect({ rpcUrl: proxy.url });
}
const submit = (input: number) => tangle.submitJob(serviceId, { jobIndex: 0, inputs: new Uint8Array([input]) });

describe('the first use', () => {
  test('needs no chain id', async () => {
    const client = connect();
    expect(client.chainId).toBe(31337);
    const { chainId: _, ...options } = { rpcUrl: chain.rpcUrl, contract: tangle.contract, chainId: 0 };
    const free = new RpcChainClient(options);
    opened.push(free);
    expect(() => free.chainId).toThrow(expect.objectContaining({ code: 'STATE_INVALID' }));
    await free.connect();
    expect(free.chainId).toBe(31337);
  });

  test('another chain is CHAIN_MISMATCH', async () => {
    await expect(connect({ chainId: 1 }).head()).rejects.toMatchObject({ code: 'CHAIN_MISMATCH' });
    const following = connect({ chainId: 1 }).follow({ signal: new AbortController().signal });
    await expect(following.next()).rejects.toMatchObject({ code: 'CHAIN_MISMATCH' });
  });

  test('no contract is CONTRACT_MISSING', async () => {
    const contract: Address = `0x${'12'.repeat(20)}`;
    await expect(connect({ contract }).confirm([await submit(1)])).rejects.toMatchObject({
      code: 'CONTRACT_MISSING',
      details: { contract },
    });
  });

  test('an endpoint that is down is asked again by the next use', async () => {
    let down = true;
    const client = await through({ onHttp: () => (down ? { status: 503 } : undefined) });
    await expect(client.head()).rejects.toMatchObject({ code: 'RPC_UNREACHABLE' });
    down = false;
    expect((await client.head()).number).toBeGreaterThan(0n);
  });

  test('an endpoint that serves another chain later is not believed', async () => {
    let elsewhere = false;
    const client = await through({
      onCall: ({ method }, forward) => (elsewhere && method === 'eth_chainId' ? { result: '0x1' } : forward()),
    });
    await client.head();
    elsewhere = true;
    await expect(client.head()).rejects.toMatchObject({
      code: 'CHAIN_MISMATCH',
      message: expect.stringContaining('chain 1, not chain 31337'),
    });
    elsewhere = false;
    expect((await client.head()).number).toBeGreaterThan(0n);
  });

  test.each(['0x', null, 'many', 7.5])('numbers are not taken from %j', async (result) => {
    const numbers = ['eth_chainId', 'eth_getTransactionCount', 'eth_estimateGas'];
    let asked = '';
    const client = await through({
      onCall: ({ method }, forward) => (method === asked && numbers.includes(method) ? { result } : forward()),
    });
    const invalid = { code: 'RPC_RESPONSE_INVALID' };
    asked = 'eth_chainId';
    await expect(client.connect()).rejects.toMatchObject(invalid);
    asked = 'eth_getTransactionCount';
    await expect(client.nonce(operator.address, 'latest')).rejects.toMatchObject(invalid);
    asked = 'eth_estimateGas';
    await expect(client.simulate(operator.address, { to: operator.address, data: '0x' })).rejects.toMatchObject(invalid);
    asked = '';
    expect((await client.simulate(operator.address, { to: operator.address, data: '0x' })).outcome).toBe('ok');
  });

  test('an address that is none is refused', () => {
    expect(() => connect({ contract: '0x12' })).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
  });
});

describe('reading', () => {
  test('head, block hash, nonce', async () => {
    const client = connect();
    const call = await submit(2);
    const head = await client.head();
    expect(head).toMatchObject({ number: call.blockNumber, hash: call.blockHash });
    expect(head.timestamp).toBe(call.timestamp);
    expect(await client.blockHash(call.blockNumber)).toBe(call.blockHash);
    expect(await client.blockHash(call.blockNumber + 1000n)).toBeUndefined();
    const sender = chain.accounts[9];
    if (!sender) throw new Error('no account');
    expect(await client.nonce(sender.address, 'latest')).toBe(0);
    await chain.request('eth_sendTransaction', [{ from: sender.address, to: sender.address }]);
    await expect.poll(() => client.nonce(sender.address, 'latest')).toBe(1);
    expect(await client.nonce(sender.address, 'pending')).toBe(1);
  });

  test('blueprint, service and operator', async () => {
    const client = connect();
    expect(await client.blueprint(blueprintId)).toMatchObject({
      source: 'chain',
      blueprintId,
      jobs: [{ name: 'square' }, { name: 'cube' }],
    });
    expect(await client.service(serviceId)).toMatchObject({ serviceId, status: 'active', operators: [operator.address] });
    expect(await client.operator(blueprintId, operator.address)).toMatchObject({ registered: true });
    await expect(client.service(999n)).rejects.toMatchObject({ code: 'SERVICE_NOT_FOUND' });
  });

  test('fees are above zero, whatever the history', async () => {
    const fees = await connect().fees();
    expect(fees.baseFeePerGas).toBeGreaterThan(0n);
    expect(fees.maxPriorityFeePerGas).toBeGreaterThan(0n);
    const quiet = await through({
      onCall: ({ method }, forward) =>
        method === 'eth_feeHistory' ? { result: { baseFeePerGas: ['0x5', '0x7'], gasUsedRatio: [0] } } : forward(),
    });
    const { maxPriorityFeePerGas } = await quiet.fees();
    expect(maxPriorityFeePerGas).toBe(BigInt(String(await chain.request('eth_maxPriorityFeePerGas', []))));
    const silent = await through({
      onCall: ({ method }, forward) => {
        if (method === 'eth_feeHistory') return { result: { baseFeePerGas: ['0x5', '0x7'], gasUsedRatio: [0] } };
        return method === 'eth_maxPriorityFeePerGas' ? { error: { code: -32601, message: 'unknown method' } } : forward();
      },
    });
    expect(await silent.fees()).toEqual({ baseFeePerGas: 7n, maxPriorityFeePerGas: 1n });
  });

  test('follows from the beginning, with what was said when connecting fails', async () => {
    const call = await submit(3);
    let failures = 2;
    const client = await through({ onHttp: () => (failures-- > 0 ? { status: 503 } : undefined) });
    const stop = new AbortController();
    for await (const update of client.follow({ fromBlock: call.blockNumber, signal: stop.signal })) {
      if (update.type === 'calls' && update.calls.length > 0) {
        expect(update.calls).toEqual([call]);
        break;
      }
    }
    stop.abort();
    expect(failures).toBeLessThan(0);
  });
});

describe('confirm', () => {
  test('a call is confirmed only as the chain shows it', async () => {
    const client = connect();
    const call = await submit(4);
    const changes = [
      {},
      { inputs: new Uint8Array([5]) },
      { inputs: new Uint8Array([4, 0]) },
      { jobIndex: 1 },
      { caller: operator.address },
      { callId: call.callId + 1n },
      { serviceId: serviceId + 1n },
      { blockHash: `0x${'00'.repeat(32)}` as const },
      { blockNumber: call.blockNumber - 1n },
    ];
    expect(await client.confirm(changes.map((change) => ({ ...call, ...change })))).toEqual([true, ...changes.slice(1).map(() => false)]);
    expect(await client.confirm([])).toEqual([]);
  });

  test('many calls in any order are one request', async () => {
    const proxy = await startRpcProxy({ upstream: chain.rpcUrl });
    opened.push(proxy);
    const client = connect({ rpcUrl: proxy.url });
    const calls = [];
    for (let input = 0; input < 10; input++) calls.push(await submit(input));
    await client.connect();
    const before = proxy.calls.get('eth_getLogs') ?? 0;
    expect(await client.confirm([...calls].reverse())).toEqual(calls.map(() => true));
    expect((proxy.calls.get('eth_getLogs') ?? 0) - before).toBe(1);
  });

  test.each(['exceeds max block range', 'query must be smaller than size 700'])(
    'calls far apart are asked for in parts, and refused ranges are halved: %s',
    async (message) => {
      const calls = [];
      for (let input = 0; input < 8; input++) {
        calls.push(await submit(input));
        await chain.mine(300);
      }
      const spans: number[] = [];
      const client = await through({
        onCall: ({ method, params }, forward) => {
          if (method !== 'eth_getLogs') return forward();
          const { fromBlock, toBlock } = params[0] as { fromBlock: string; toBlock: string };
          const span = Number(toBlock) - Number(fromBlock);
          spans.push(span);
          return span > 700 ? { error: { code: -32602, message } } : forward();
        },
      });
      expect(await client.confirm(calls)).toEqual(calls.map(() => true));
      expect(Math.max(...spans)).toBeLessThan(2000);
      expect(spans.length).toBeGreaterThan(2);
    },
  );

  test('after a reorg the same call id is another call', async () => {
    const client = connect();
    const kept = await submit(6);
    const lost = await submit(7);
    expect(await client.confirm([kept, lost])).toEqual([true, true]);
    await chain.reorg(1, [{ transaction: tangle.jobTransaction(serviceId, { jobIndex: 1, inputs: '0x08' }), block: 0 }]);
    const replacement = (await tangle.calls(serviceId)).at(-1);
    if (!replacement) throw new Error('no call');
    expect(replacement.callId).toBe(lost.callId);
    expect(await client.confirm([kept, lost, replacement])).toEqual([true, false, true]);
  });

  test('a failure is not a no', async () => {
    const call = await submit(8);
    const client = await through({
      onCall: ({ method }, forward) => (method === 'eth_getLogs' ? { error: { code: -32000, message: 'header not found' } } : forward()),
    });
    await expect(client.confirm([call])).rejects.toMatchObject({ code: 'RPC_ERROR' });
  });
});

describe('completed', () => {
  test('an endpoint with a small rate is asked for fewer at once', async () => {
    const calls: ChainCall[] = [];
    for (let input = 0; input < 12; input++) calls.push(await submit(input));
    const client = await through({ onHttp: (list) => (list.length > 5 ? { status: 429 } : undefined) });
    const { number } = await client.head();
    expect(await client.completed(calls, number)).toEqual(calls.map(() => false));
  });
});

describe('settling', () => {
  const signer = () => privateKeyToAccount(operator.privateKey);
  async function sign(client: RpcChainClient, change: { nonce?: number; maxFeePerGas?: bigint; value?: bigint; data?: Hex }): Promise<Hex> {
    return signer().signTransaction({
      type: 'eip1559',
      chainId: client.chainId,
      nonce: change.nonce ?? (await client.nonce(operator.address, 'pending')),
      to: change.data ? client.contract : operator.address,
      data: change.data ?? '0x',
      value: change.value ?? 0n,
      gas: change.data ? 500_000n : 21_000n,
      maxFeePerGas: change.maxFeePerGas ?? 10_000_000_000n,
      maxPriorityFeePerGas: change.maxFeePerGas ?? 1_000_000_000n,
    });
  }

  const nextRaw = async (client: RpcChainClient, data: Hex, ahead: number): Promise<Hex> =>
    sign(client, { data, nonce: (await client.nonce(operator.address, 'pending')) + ahead });

  test('encode, simulate, send, receipt', async () => {
    const client = connect();
    const calls = [await submit(9), await submit(10)];
    const request = client.encodeResults({
      serviceId,
      callIds: calls.map((call) => call.callId),
      results: [new Uint8Array([81]), new Uint8Array([100])],
    });
    const simulation = await client.simulate(operator.address, request);
    expect(simulation).toEqual({ outcome: 'ok', gas: expect.any(BigInt) });
    const raw = await sign(client, { data: request.data });
    expect(await client.send(raw)).toBe('sent');
    const hash = transactionHash(raw);
    await expect.poll(async () => (await client.receipts([hash]))[0]?.success).toBe(true);
    const [receipt, none] = await client.receipts([hash, `0x${'00'.repeat(32)}`]);
    expect(receipt?.gasUsed).toBeGreaterThan(100_000n);
    expect(receipt?.block.hash).toBe(await client.blockHash(receipt?.block.number ?? 0n));
    expect(none).toBeUndefined();
    expect((await tangle.results(serviceId)).slice(-2).map((result) => [...result.output])).toEqual([[81], [100]]);

    const again = await client.simulate(operator.address, request);
    expect(again).toMatchObject({
      outcome: 'revert',
      error: 'JobAlreadyCompleted',
      args: [serviceId, calls[0]?.callId],
      callId: calls[0]?.callId,
    });
    const stranger = chain.accounts[5]?.address ?? operator.address;
    const single = client.encodeResults({ serviceId, callIds: [(await submit(1)).callId], results: [new Uint8Array()] });
    expect(await client.simulate(stranger, single)).toMatchObject({ outcome: 'revert', error: 'OperatorNotInService' });
  });

  test('gas that is known to suffice costs one execution, and gas that does not is estimated anew', async () => {
    const asked: string[] = [];
    const client = await through({
      onCall: ({ method }, forward) => {
        asked.push(method);
        return forward();
      },
    });
    const request = client.encodeResults({ serviceId, callIds: [(await submit(5)).callId], results: [new Uint8Array([25])] });
    const estimate = await client.simulate(operator.address, request);
    if (estimate.outcome !== 'ok') throw new Error(estimate.error);
    asked.length = 0;
    expect(await client.simulate(operator.address, request, estimate.gas + 7n)).toEqual({ outcome: 'ok', gas: estimate.gas + 7n });
    expect(asked).toEqual(['eth_call']);
    expect(await client.simulate(operator.address, request, 30_000n)).toEqual(estimate);
    expect(asked.slice(1)).toEqual(['eth_call', 'eth_estimateGas']);
    const unknown = client.encodeResults({ serviceId, callIds: [9_999n], results: [new Uint8Array([25])] });
    expect(await client.simulate(operator.address, unknown, estimate.gas)).toMatchObject({ outcome: 'revert', error: 'JobCallNotFound' });
  });

  test('simulates at the latest block, whatever waits in the pool', async () => {
    const client = connect();
    const request = client.encodeResults({ serviceId, callIds: [(await submit(6)).callId], results: [new Uint8Array([36])] });
    await chain.setAutomine(false);
    try {
      expect(await client.send(await sign(client, { data: request.data }))).toBe('sent');
      expect(await client.simulate(operator.address, request)).toMatchObject({ outcome: 'ok' });
      await chain.mine();
    } finally {
      await chain.setAutomine(true);
    }
    expect(await client.simulate(operator.address, request)).toMatchObject({ outcome: 'revert', error: 'JobAlreadyCompleted' });
  });

  test('what is simulated or sent together goes in one round trip, each with its own outcome', async () => {
    const trips: string[][] = [];
    const client = await through({ onHttp: (calls) => void trips.push(calls.map(({ method }) => method)) });
    const requests = [await submit(7), await submit(8)].map(({ callId }) =>
      client.encodeResults({ serviceId, callIds: [callId], results: [new Uint8Array([1])] }),
    );
    const refused = client.encodeResults({ serviceId, callIds: [9_999n], results: [new Uint8Array([1])] });
    const outcomes = await Promise.all([...requests, refused].map((request) => client.simulate(operator.address, request)));
    expect(outcomes.map(({ outcome }) => outcome)).toEqual(['ok', 'ok', 'revert']);
    const raws = await Promise.all(requests.map(({ data }, index) => nextRaw(client, data, index)));
    const late = await sign(client, { data: refused.data, nonce: 0 });
    expect(await Promise.all([...raws, late].map((raw) => client.send(raw)))).toEqual(['sent', 'sent', 'nonce-too-low']);
    expect(trips.filter((methods) => /estimate|send/.test(String(methods))).map((methods) => methods.length)).toEqual([3, 3]);
  });

  test('a node that gives revert data with eth_call only', async () => {
    const [done] = await tangle.results(serviceId);
    const client = await through({
      onCall: ({ method }, forward) =>
        method === 'eth_estimateGas' ? { error: { code: -32000, message: 'execution reverted' } } : forward(),
    });
    const request = client.encodeResults({ serviceId, callIds: [done?.callId ?? 0n], results: [new Uint8Array()] });
    expect(await client.simulate(operator.address, request)).toMatchObject({
      outcome: 'revert',
      error: 'JobAlreadyCompleted',
      callId: done?.callId,
    });
  });

  test('a refused estimate of what the contract takes is no revert', async () => {
    const client = await through({
      onCall: ({ method }, forward) => (method === 'eth_estimateGas' ? { error: { code: -32015, message: 'gateway timeout' } } : forward()),
    });
    const request = client.encodeResults({ serviceId, callIds: [(await submit(6)).callId], results: [new Uint8Array([36])] });
    await expect(client.simulate(operator.address, request)).rejects.toMatchObject({ code: 'RPC_ERROR' });
  });

  test('what is neither success nor revert rejects', async () => {
    const client = await through({
      onCall: ({ method }, forward) =>
        method === 'eth_estimateGas' ? { error: { code: -32000, message: 'gas required exceeds allowance (1000)' } } : forward(),
    });
    await expect(client.simulate(operator.address, { to: tangle.contract, data: '0x' })).rejects.toMatchObject({ code: 'RPC_ERROR' });
    const poor = await through({
      onCall: ({ method }, forward) =>
        method === 'eth_estimateGas' ? { error: { code: -32000, message: 'insufficient funds for transfer' } } : forward(),
    });
    await expect(poor.simulate(operator.address, { to: operator.address, data: '0x', value: 10n })).rejects.toMatchObject({
      code: 'TX_UNDERFUNDED',
    });
  });

  test('the words of this node for every outcome', async () => {
    const client = connect();
    await client.connect();
    const nonce = await client.nonce(operator.address, 'latest');
    await chain.setAutomine(false);
    const raw = await sign(client, { nonce });
    expect(await client.send(raw)).toBe('sent');
    expect(await client.send(raw)).toBe('known');
    expect(await client.send(await sign(client, { nonce, value: 1n }))).toBe('underpriced');
    await chain.mine();
    await chain.setAutomine(true);
    expect(await client.send(await sign(client, { nonce, value: 2n }))).toBe('nonce-too-low');
    expect(await client.send(await sign(client, { value: 10n ** 30n }))).toBe('underfunded');
    await expect(client.send('0x02')).rejects.toMatchObject({ code: 'RPC_ERROR' });
    await chain.request('anvil_setNextBlockBaseFeePerGas', ['0x3b9aca00']);
    await chain.mine();
    expect(await client.send(await sign(client, { maxFeePerGas: 5n }))).toBe('fee-too-low');
  });
});
