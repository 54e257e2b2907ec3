import { describe, expect, test } from 'vitest';

import { RunnerError } from '../errors.ts';
import { RangeSize, hex, isRangeRefusal } from './call-reader.ts';
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
