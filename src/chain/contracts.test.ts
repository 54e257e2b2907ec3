import { readFileSync } from 'node:fs';
import { encodeErrorResult, parseAbiItem, toEventSelector, toFunctionSelector } from 'viem/utils';
import type { Abi } from 'viem';
import { describe, expect, test } from 'vitest';
import { CONTRACT_ERRORS, SELECTOR, TOPIC, decodeRevert, masterManagerAbi, statusRegistryAbi, tangleAbi } from './contracts.ts';

const abi = [...tangleAbi, ...masterManagerAbi, ...statusRegistryAbi];
const entry = (type: 'function' | 'event', name: string) =>
  abi.find((item) => item.type === type && item.name.toLowerCase() === name.toLowerCase());

describe('the tables', () => {
  test.each(Object.entries(TOPIC))('the topic of %s is the hash of its event', (name, topic) => {
    const event = entry('event', name);
    expect(event?.type === 'event' && toEventSelector(event)).toBe(topic);
  });

  test.each(Object.entries(SELECTOR))('the selector of %s is the one of its function', (name, selector) => {
    const found = entry('function', name);
    expect(found?.type === 'function' && toFunctionSelector(found)).toBe(selector);
  });

  test.each(Object.entries(CONTRACT_ERRORS))('%s is the selector of %s', (selector, signature) => {
    expect(toFunctionSelector(`function ${signature}`)).toBe(selector);
  });

  test('JobSubmitted indexes the service and the call, not the job', () => {
    const event = entry('event', 'JobSubmitted');
    const indexed = event?.type === 'event' ? event.inputs.filter((input) => input.indexed).map((input) => input.name) : [];
    expect(indexed).toEqual(['serviceId', 'callId']);
  });

  test('the Solidity source of the tests declares no error that the table does not know', () => {
    const source = readFileSync(new URL('../testing/contracts/Tangle.sol', import.meta.url), 'utf8');
    const declared = [...source.matchAll(/^ {4}error (.+);$/gm)].map((match) => match[1] ?? '');
    expect(declared.length).toBeGreaterThan(30);
    expect(Object.values(CONTRACT_ERRORS)).toEqual(expect.arrayContaining(declared));
  });
});

describe('decodeRevert', () => {
  const encode = (signature: string, args: readonly unknown[]): string => {
    // Signatures of the table, known to be errors.
    const item = parseAbiItem(`error ${signature}`) as Extract<Abi[number], { type: 'error' }>;
    return encodeErrorResult({ abi: [item], errorName: item.name, args });
  };

  test('names the error, its arguments and the call to blame', () => {
    expect(decodeRevert(encode('JobAlreadyCompleted(uint64 serviceId, uint64 callId)', [3n, 2n ** 64n - 1n]))).toEqual({
      error: 'JobAlreadyCompleted',
      args: [3n, 2n ** 64n - 1n],
      callId: 2n ** 64n - 1n,
      text: 'JobAlreadyCompleted(serviceId 3, callId 18446744073709551615)',
    });
  });

  test('has no callId for an error that names none', () => {
    const revert = decodeRevert(encode('ServiceExpired(uint64 serviceId)', [7n]));
    expect(revert).toEqual({ error: 'ServiceExpired', args: [7n], text: 'ServiceExpired(serviceId 7)' });
  });

  test('reads addresses, fixed bytes and dynamic bytes', () => {
    const manager = `0x${'ab'.repeat(20)}`;
    expect(decodeRevert(encode('ManagerReverted(address manager, bytes reason)', [manager, '0x010203'])).args).toEqual([
      manager,
      '0x010203',
    ]);
    expect(decodeRevert(encode('UnknownSelector(bytes4 selector)', ['0xdeadbeef'])).args).toEqual(['0xdeadbeef']);
    const hash = `0x${'0f'.repeat(32)}`;
    expect(decodeRevert(encode('DuplicateOperatorKey(uint64 blueprintId, bytes32 keyHash)', [1n, hash])).args).toEqual([1n, hash]);
  });

  test('reads a plain revert reason and a panic', () => {
    expect(decodeRevert(encode('Error(string message)', ['not today']))).toEqual({
      error: 'Error',
      args: ['not today'],
      text: 'Error(message not today)',
    });
    expect(decodeRevert(encode('Panic(uint256 code)', [17n])).text).toBe('Panic(code 17)');
  });

  test('takes upper-case data', () => {
    expect(decodeRevert(`0x${encode('ServiceNotActive(uint64 serviceId)', [171n]).slice(2).toUpperCase()}`).args).toEqual([171n]);
  });

  test.each([
    ['0x', 'Reverted', []],
    ['', 'Reverted', []],
    ['0x123456', 'Reverted', []],
    ['0x12345678', 'UnknownError', ['0x12345678']],
    ['0x0a55512f', 'JobAlreadyCompleted', [undefined, undefined]],
    [`0x0a55512f${'00'.repeat(32)}`, 'JobAlreadyCompleted', [0n, undefined]],
    [`0x08c379a0${'ff'.repeat(32)}`, 'Error', [undefined]],
    [`0x08c379a0${'20'.padStart(64, '0')}${'ff'.repeat(32)}6869`, 'Error', ['hi']],
  ])('never throws: %s', (data, error, args) => {
    expect(decodeRevert(data)).toMatchObject({ error, args });
  });
});
