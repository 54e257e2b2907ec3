import { describe, expect, test } from 'vitest';

import { RunnerError, isRunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import type { BlockRef } from '../ledger/ledger.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { CallReaderOptions, CallsRead } from './call-reader.ts';
import { CallReader, MOVED, RangeSize, hex, isRangeRefusal } from './call-reader.ts';
import { TOPIC } from './contracts.ts';
import type { RpcCall } from './endpoint.ts';
import { parseHeader } from './heads.ts';

describe('isRangeRefusal', () => {
  const said = (rpcMessage: string) => new RunnerError('RPC_ERROR', rpcMessage, { details: { rpcMessage } });
  test.each([
    'query returned more than 10000 results',
    'You can make eth_getLogs requests with up to a 500 block range. Based on your parameters, this block range should work: [0x1, 0x2]',
    'eth_getLogs is limited to a 10,000 range',
    'exceed maximum block range: 5000',
    'block range is too wide',
    'range is too large, max is 1k blocks',
    'Log response size exceeded.',
    'query timeout exceeded',
    'query exceeds max results 20000, retry with the range 1-2',
    'requested too many blocks from 0 to 5000, maximum is set to 2048',
    'logs matched by query exceeds limit of 10000',
    'backend response too large',
    'request timed out',
  ])('%s', (message) => {
    expect(isRangeRefusal(said(message))).toBe(true);
  });

  test.each(['header not found', 'method not found', 'invalid topic', 'unknown block', 'execution reverted'])('not: %s', (message) => {
    expect(isRangeRefusal(said(message))).toBe(false);
  });

  test('an answer that is too large, or too late', () => {
    expect(isRangeRefusal(new RunnerError('RPC_RESPONSE_INVALID', 'x', { details: { reason: 'too-large' } }))).toBe(true);
    expect(isRangeRefusal(new RunnerError('RPC_UNREACHABLE', 'x', { details: { reason: 'timeout' } }))).toBe(true);
    expect(isRangeRefusal(new RunnerError('RPC_UNREACHABLE', 'x', { details: { reason: 'connection' } }))).toBe(false);
  });
});

describe('RangeSize', () => {
  test('halves down to one block', () => {
    const size = new RangeSize(5, 100);
    expect([size.refuse(), size.blocks, size.refuse(), size.blocks, size.refuse()]).toEqual([true, 2, true, 1, false]);
    expect(size.blocks).toBe(1);
  });

  test('grows while answers are small, up to the limit', () => {
    const size = new RangeSize(10, 35);
    const sizes = Array.from({ length: 4 }, () => {
      size.succeed(0);
      return size.blocks;
    });
    expect(sizes).toEqual([20, 35, 35, 35]);
  });

  test('does not grow past what was refused until it went well for a while', () => {
    const size = new RangeSize(40, 100);
    size.refuse();
    for (let round = 1; round < 32; round++) size.succeed(0);
    expect(size.blocks).toBe(20);
    size.succeed(0);
    expect(size.blocks).toBe(40);
  });

  test('shrinks when blocks are crowded', () => {
    const size = new RangeSize(40, 100);
    size.succeed(20_000);
    expect(size.blocks).toBe(20);
    size.succeed(3000);
    expect(size.blocks).toBe(20);
    size.succeed(10);
    expect(size.blocks).toBe(40);
  });
});

describe('parseHeader', () => {
  const header = { number: '0x10', hash: `0x${'AB'.repeat(32)}`, parentHash: `0x${'cd'.repeat(32)}`, timestamp: '0x64', miner: '0x' };
  test('gives numbers and lower-case hashes', () => {
    expect(parseHeader(header)).toEqual({ number: 16n, hash: `0x${'ab'.repeat(32)}`, parentHash: `0x${'cd'.repeat(32)}`, timestamp: 100n });
    expect(parseHeader(null)).toBeUndefined();
  });
  test.each([
    { ...header, number: null },
    { ...header, hash: null },
    { ...header, parentHash: '0x12' },
    { ...header, timestamp: 100 },
    'block',
    5,
    undefined,
  ])('%s is malformed', (raw) => {
    expect(() => parseHeader(raw)).toThrow(expect.objectContaining({ code: 'RPC_RESPONSE_INVALID' }));
  });
});

test('hex pads to topics', () => {
  expect([hex(0n), hex(255n), hex(1n, 64)]).toEqual(['0x0', '0xff', `0x${'0'.repeat(63)}1`]);
});

describe('a range of blocks', () => {
  const contract = `0x${'c0'.repeat(20)}` as const;
  const hashOf = (branch: string, number: bigint): Hex => hex(number * 16n + BigInt(`0x${branch}`), 64);
  const after: BlockRef = { number: 10n, hash: hashOf('a', 10n) };
  const TO = 20n;

  /** Two branches that fork after block `fork`; the chain moves from the first to the second before its `movesAt`th answer. */
  function scripted(fork: bigint, movesAt: number, order: 'forward' | 'backward'): CallReaderOptions {
    let answered = 0;
    const answer = ({ method, params }: RpcCall): unknown => {
      const now = answered++ < movesAt ? 'a' : 'b';
      const branch = (number: bigint): string => (number <= fork ? 'a' : now);
      if (method === 'eth_getBlockByNumber') {
        const number = BigInt(String(params[0]));
        const parentHash = hashOf(branch(number - 1n), number - 1n);
        return { number: hex(number), hash: hashOf(branch(number), number), parentHash, timestamp: '0x1' };
      }
      // A call in every third block.
      return [12n, 15n, 18n].map((number) => ({
        address: contract,
        topics: [TOPIC.jobSubmitted, hex(1n, 64), hex(number, 64)],
        data: `0x${[0n, 1n, 96n, 1n].map((word) => hex(word, 64).slice(2)).join('')}${'07'.padEnd(64, '0')}`,
        blockNumber: hex(number),
        blockHash: hashOf(branch(number), number),
        transactionHash: hex(number, 64),
        transactionIndex: '0x0',
        logIndex: '0x0',
        removed: false,
      }));
    };
    const batch = async (calls: readonly RpcCall[]): Promise<unknown[]> => {
      if (order === 'forward') return calls.map((call) => answer(call));
      return calls
        .toReversed()
        .map((call) => answer(call))
        .toReversed();
    };
    return { transport: { batch }, chainId: 1, contract, serviceIds: [], telemetry: silentTelemetry };
  }

  const forks = [5n, 10n, 13n, 16n, 19n];
  const cases = forks.flatMap((fork) => Array.from({ length: 6 }, (_, movesAt) => [fork, movesAt] as const));

  test.each(['forward', 'backward'] as const)('is never of two branches, whenever the chain changes; answers %s', async (order) => {
    const outcomes = new Set<string>();
    for (const [fork, movesAt] of cases) {
      const read = await new CallReader(scripted(fork, movesAt, order)).range(after, TO).catch((error: unknown) => error);
      if (read === MOVED || isRunnerError(read)) {
        outcomes.add(read === MOVED ? 'moved' : String(read.code));
        continue;
      }
      const { calls, blocks } = read as CallsRead;
      const end = blocks.at(-1)?.hash === hashOf('a', TO) ? 'a' : 'b';
      const branch = (number: bigint): string => (number <= fork ? 'a' : end);
      const label = `fork after ${fork}, change before answer ${movesAt}`;
      expect(branch(after.number), label).toBe('a');
      expect(
        calls.map((call) => call.blockHash),
        label,
      ).toEqual([12n, 15n, 18n].map((number) => hashOf(branch(number), number)));
      outcomes.add(`read ${end}`);
    }
    expect([...outcomes].sort()).toEqual(['RPC_RESPONSE_INVALID', 'moved', 'read a', 'read b']);
  });
});
