import fc from 'fast-check';
import { encodeFunctionData, parseAbi } from 'viem';
import { expect, test } from 'vitest';

import type { Hex } from '../job/call.ts';
import { encodeResults } from './results-encoding.ts';

const abi = parseAbi([
  'function submitResult(uint64 serviceId, uint64 callId, bytes result)',
  'function submitResults(uint64 serviceId, uint64[] callIds, bytes[] results)',
]);
const uint64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const hexOf = (bytes: Uint8Array): Hex => `0x${Buffer.from(bytes).toString('hex')}`;

test('the bytes are those of viem', () => {
  const items = fc.array(fc.record({ callId: uint64, result: fc.uint8Array({ maxLength: 130 }) }), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(uint64, items, (serviceId, list) => {
      const callIds = list.map((item) => item.callId);
      const results = list.map((item) => item.result);
      const [callId = 0n] = callIds;
      const [result = new Uint8Array()] = results;
      const expected =
        list.length === 1
          ? encodeFunctionData({ abi, functionName: 'submitResult', args: [serviceId, callId, hexOf(result)] })
          : encodeFunctionData({ abi, functionName: 'submitResults', args: [serviceId, callIds, results.map(hexOf)] });
      expect(encodeResults({ serviceId, callIds, results })).toBe(expected);
    }),
    { numRuns: 500 },
  );
});

test('a result of 100 kB', () => {
  const result = new Uint8Array(100_001).fill(7);
  const expected = encodeFunctionData({ abi, functionName: 'submitResults', args: [1n, [2n, 3n], [hexOf(result), '0x']] });
  expect(encodeResults({ serviceId: 1n, callIds: [2n, 3n], results: [result, new Uint8Array()] })).toBe(expected);
});

test.each([
  [[], []],
  [[1n], []],
  [[1n], [new Uint8Array(), new Uint8Array()]],
])('calls %s without a result each are an error', (callIds, results) => {
  expect(() => encodeResults({ serviceId: 1n, callIds, results })).toThrow(expect.objectContaining({ code: 'INTERNAL' }));
});
