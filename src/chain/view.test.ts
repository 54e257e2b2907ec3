import { describe, expect, test } from 'vitest';
import { RunnerError } from '../errors.ts';
import type { RpcRequest } from './chain.ts';
import { tangleAbi } from './contracts.ts';
import { blockTime, firstBlockSince, latestLog, logsBetween, readView, topicOf } from './view.ts';

const CONTRACT = `0x${'11'.repeat(20)}` as const;
const quantity = (value: number): string => `0x${value.toString(16)}`;

/** A chain whose block n has the time `times[n]`, with logs in some blocks, that shows at most `rangeMax` blocks at once. */
class FakeNode {
  requests: (readonly [method: string, params: readonly unknown[]])[] = [];
  readonly #times: (block: number) => number;
  readonly #head: number;
  readonly #logs: readonly number[];
  readonly #rangeMax: number;

  constructor(options: { times?: (block: number) => number; head: number; logs?: readonly number[]; rangeMax?: number }) {
    this.#times = options.times ?? ((block) => block);
    this.#head = options.head;
    this.#logs = options.logs ?? [];
    this.#rangeMax = options.rangeMax ?? Infinity;
  }

  readonly request: RpcRequest = async (method, params) => {
    this.requests.push([method, params]);
    if (method === 'eth_getLogs') return this.#logsOf(params[0] as { readonly fromBlock: string; readonly toBlock: string });
    const block = params[0] === 'latest' ? this.#head : Number(params[0]);
    return block > this.#head ? null : { number: quantity(block), timestamp: quantity(this.#times(block)) };
  };

  #logsOf(filter: { readonly fromBlock: string; readonly toBlock: string }): unknown {
    const from = Number(filter.fromBlock);
    const to = Number(filter.toBlock);
    if (to - from + 1 > this.#rangeMax) throw new RunnerError('RPC_ERROR', 'range too large');
    return this.#logs.filter((block) => block >= from && block <= to).map((block) => ({ topics: [], data: quantity(block) }));
  }
}

describe('firstBlockSince', () => {
  const twice = new FakeNode({ head: 1000, times: (block) => 100 + Math.floor(block / 2) });

  test.each([
    [0n, 0n],
    [100n, 0n],
    [101n, 2n],
    [350n, 500n],
    [600n, 1000n],
    [601n, 1001n],
  ])('time %i is first reached in block %i', async (timestamp, block) => {
    expect(await firstBlockSince(twice.request, timestamp)).toBe(block);
  });

  test('asks some 25 times on a chain of 30 million blocks', async () => {
    const node = new FakeNode({ head: 30_000_000, times: (block) => block * 2 });
    expect(await firstBlockSince(node.request, 12_345_678n)).toBe(6_172_839n);
    expect(node.requests.length).toBeLessThan(28);
  });
});

describe('latestLog', () => {
  const filter = { address: CONTRACT, topics: [] };

  test('asks for all at once where that is allowed', async () => {
    const node = new FakeNode({ head: 10_000, logs: [10, 20, 30] });
    expect(await latestLog(node.request, filter, 5n)).toMatchObject({ data: quantity(30) });
    expect(node.requests.filter(([method]) => method === 'eth_getLogs')).toHaveLength(1);
  });

  test.each([
    [999_999, [40, 999_999]],
    [950_000, [950_000]],
    [700_000, [5, 700_000]],
  ])('finds block %i backwards in windows that the endpoint allows', async (expected, logs) => {
    const node = new FakeNode({ head: 1_000_000, logs, rangeMax: 10_000 });
    expect(await latestLog(node.request, filter, 0n)).toMatchObject({ data: quantity(expected) });
  });

  test('covers every block, down to the first', async () => {
    const node = new FakeNode({ head: 5000, logs: [17], rangeMax: 777 });
    expect(await latestLog(node.request, filter, 17n)).toMatchObject({ data: quantity(17) });
    expect(await latestLog(node.request, filter, 18n)).toBeUndefined();
  });

  test('says nothing when there is none, also when it is asked for what is not mined yet', async () => {
    expect(await latestLog(new FakeNode({ head: 100 }).request, filter, 0n)).toBeUndefined();
    expect(await latestLog(new FakeNode({ head: 100 }).request, filter, 101n)).toBeUndefined();
  });

  test('gives up after 200 requests', async () => {
    const node = new FakeNode({ head: 10_000_000, logs: [1], rangeMax: 1000 });
    await expect(latestLog(node.request, filter, 0n)).rejects.toMatchObject({
      code: 'RPC_ERROR',
      message: expect.stringContaining('too few blocks'),
    });
    expect(node.requests.length).toBeLessThanOrEqual(201);
  });

  test('passes on the refusal of a small range, and any failure of the transport', async () => {
    const refusing = new FakeNode({ head: 100_000, logs: [1], rangeMax: 10 });
    await expect(latestLog(refusing.request, filter, 0n)).rejects.toMatchObject({ code: 'RPC_ERROR', message: 'range too large' });
    const down: RpcRequest = async () => Promise.reject(new RunnerError('RPC_UNREACHABLE', 'down'));
    await expect(latestLog(down, filter, 0n)).rejects.toMatchObject({ code: 'RPC_UNREACHABLE' });
  });
});

describe('answers that are none', () => {
  const answering =
    (answer: unknown): RpcRequest =>
    async () =>
      answer;
  const view = { abi: tangleAbi, name: 'blueprintCount', args: [] } as const;

  test('an address without a contract', async () => {
    await expect(readView(answering('0x'), CONTRACT, view)).rejects.toMatchObject({
      code: 'CONTRACT_MISSING',
      details: { contract: CONTRACT },
    });
  });

  test.each([['0x01'], [null], [5], ['text']])('%j is not the answer of a view', async (answer) => {
    await expect(readView(answering(answer), CONTRACT, view)).rejects.toMatchObject({ code: 'RPC_ERROR' });
  });

  test.each([[null], ['0x'], [{}], [{ number: 5, timestamp: 5 }]])('%j is not a block', async (answer) => {
    await expect(blockTime(answering(answer), 5n)).rejects.toMatchObject({ code: 'RPC_RESPONSE_INVALID' });
  });

  test.each([[null], [{}], [[5]], [[{ topics: 5, data: '0x' }]], [[{ topics: [] }]]])('%j are not logs', async (answer) => {
    await expect(logsBetween(answering(answer), { topics: [] }, { from: 0n, to: 1n })).rejects.toMatchObject({
      code: 'RPC_RESPONSE_INVALID',
    });
  });
});

test('numbers and addresses as topics', () => {
  expect(topicOf(0n)).toBe(`0x${'0'.repeat(64)}`);
  expect(topicOf(255n)).toBe(`0x${'0'.repeat(62)}ff`);
  expect(topicOf(`0x${'AB'.repeat(20)}`)).toBe(`0x${'0'.repeat(24)}${'ab'.repeat(20)}`);
});
