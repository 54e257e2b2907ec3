import { parseAbiParameters } from 'viem';
import { describe, expect, it } from 'vitest';

import { headBytesOf, parseParameters, typeText } from './solidity.ts';

const text = (types: string): string =>
  parseParameters(types)
    .map((parameter) => typeText(parameter.type))
    .join(',');

describe('parseParameters', () => {
  it.each([
    ['', ''],
    ['  ', ''],
    ['uint64 x, string name', 'uint64,string'],
    ['uint,int', 'uint256,int256'],
    [' ( address to , uint256 amount ) [ ] payments ', '(address,uint256)[]'],
    ['uint8[2][] grid', 'uint8[2][]'],
    ['((bool a) b, bytes32)[3]', '((bool),bytes32)[3]'],
    ['bytes1 a,bytes b', 'bytes1,bytes'],
  ])('reads %j', (types, expected) => {
    expect(text(types)).toBe(expected);
  });

  it('agrees with viem on names and types', () => {
    const types = 'uint64 x, (address to, (bool, int8 small)[2] inner)[] list, bytes32';
    const [first, second] = parseAbiParameters(types) as readonly { type: string; name?: string; components?: readonly unknown[] }[];
    const [ours, tuple] = parseParameters(types);
    expect([ours?.name, first?.name]).toEqual(['x', 'x']);
    expect([tuple?.name, second?.name]).toEqual(['list', 'list']);
    expect(tuple?.type.kind === 'list' && tuple.type.item.kind === 'tuple' && tuple.type.item.fields.map((field) => field.name)).toEqual([
      'to',
      'inner',
    ]);
  });

  it.each([
    ['uint7 x', 'uint7 is not a Solidity type'],
    ['uint264', 'uint264 is not a Solidity type'],
    ['uint08', 'uint08 is not'],
    ['bytes33', 'bytes33 is not'],
    ['bytes0', 'bytes0 is not'],
    ['Uint8', 'Uint8 is not'],
    ['string memory name', 'is unexpected'],
    ['uint8 a, uint16 a', 'the name a cannot be used here'],
    ['(uint8 __proto__)', 'the name __proto__ cannot be used here'],
    ['uint8,', 'a type is missing'],
    [',', 'a type is missing'],
    ['()', 'a type is missing'],
    ['(uint8', 'a tuple is not closed'],
    ['uint8)', 'is unexpected'],
    ['uint8[', 'bracket is not closed'],
    ['uint8[0]', 'an array has 0 items'],
    ['uint8[65536]', 'an array has 65536 items'],
    [`${'('.repeat(40)}uint8${')'.repeat(40)}`, 'nest deeper than 32'],
    [`uint8${'[]'.repeat(40)}`, 'nest deeper than 32'],
  ])('refuses %j', (types, reason) => {
    expect(() => parseParameters(types)).toThrow(
      expect.objectContaining({ code: 'JOB_TYPE_INVALID', message: expect.stringContaining(reason) }),
    );
  });

  it('knows the size of the head of an ABI encoding', () => {
    expect(headBytesOf(parseParameters('uint8, string, (uint8, bool)[2], (uint8, string)'))).toBe(32 + 32 + 4 * 32 + 32);
  });
});
