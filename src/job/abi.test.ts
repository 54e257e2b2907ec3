import fc from 'fast-check';
import { decodeAbiParameters, encodeAbiParameters, parseAbiParameters } from 'viem';
import { describe, expect, it } from 'vitest';

import { typedValues } from '../../test/support/solidity-values.ts';
import { decodeAbi, encodeAbi } from './abi.ts';
import { parseParameters } from './solidity.ts';

const word = (digits: string): string => digits.padStart(64, '0');
const bytes = (...words: string[]): Uint8Array => Buffer.from(words.join(''), 'hex');
const decode = (types: string, body: Uint8Array): unknown[] => decodeAbi(parseParameters(types), body);
const encode = (types: string, values: readonly unknown[]): string =>
  Buffer.from(encodeAbi(parseParameters(types), values)).toString('hex');

const EVERY_WIDTH = Array.from({ length: 32 }, (_, index) => (index + 1) * 8);

function viemParameters(types: string): readonly { readonly type: string }[] {
  return types === '' ? [] : (parseAbiParameters(types) as readonly { readonly type: string }[]);
}

/** viem gives checksummed addresses; ours are lower case like every other address here. */
function lowerCase(value: unknown): unknown {
  if (typeof value === 'string') return /^0x[0-9a-fA-F]{40}$/.test(value) ? value.toLowerCase() : value;
  if (Array.isArray(value)) return value.map(lowerCase);
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, lowerCase(item)]));
  return value;
}

describe('the ABI encoding', () => {
  it('is byte for byte that of viem, and reads back', () => {
    fc.assert(
      fc.property(typedValues(EVERY_WIDTH), ({ types, values }) => {
        const parameters = parseParameters(types);
        const ours = Buffer.from(encodeAbi(parameters, values));
        const peer = viemParameters(types);
        expect(`0x${ours.toString('hex')}`).toBe(encodeAbiParameters(peer, values as never));
        expect(decodeAbi(parameters, ours)).toEqual(values);
        if (peer.length > 0) expect(lowerCase(decodeAbiParameters(peer, ours))).toEqual(lowerCase(values));
      }),
      { numRuns: 400 },
    );
  });

  it('reads a view into a larger buffer', () => {
    const all = Buffer.alloc(96, 0xff);
    all.fill(0, 32, 64);
    all[63] = 7;
    expect(decode('uint64 x', new Uint8Array(all.buffer, all.byteOffset + 32, 32))).toEqual([7n]);
  });

  it('takes numbers and bigints for every width', () => {
    expect(encode('uint256', [5])).toBe(word('5'));
    expect(encode('int8', [-1n])).toBe('f'.repeat(64));
    expect(encode('uint56', [2 ** 53 - 1])).toBe(word('1fffffffffffff'));
  });

  it('takes the components of a named tuple in an array too', () => {
    expect(encode('(uint8 a, bool b) t', [[1, true]])).toBe(encode('(uint8 a, bool b) t', [{ b: true, a: 1 }]));
  });
});

describe('decoding is strict', () => {
  const text = Buffer.from('hi').toString('hex').padEnd(64, '0');

  it.each([
    ['a missing word', 'uint64 x', bytes(), 'the data ends at byte 0'],
    ['half a word', 'uint64 x', bytes('00ff'), 'the data ends at byte 2'],
    ['a trailing word', 'uint64 x', bytes(word('1'), word('2')), '32 of 64 bytes belong to no value'],
    ['a trailing byte', 'uint64 x', bytes(word('1'), '00'), '1 of 33 bytes belong to no value'],
    ['any body for no parameters', '', bytes('00'), '1 of 1 bytes belong to no value'],
    ['a number too large for its type', 'uint64 x', bytes(word('10000000000000000')), 'a number is too large'],
    ['a number too large for a small type', 'uint8 x', bytes(word('100')), 'a number is too large'],
    ['a wrong sign extension', 'int8 x', bytes(word('80')), 'a number is too large'],
    ['a bool of 2', 'bool x', bytes(word('2')), 'a bool is 2'],
    ['a bool with high bits', 'bool x', bytes(word('101')), 'not clean'],
    ['an address with high bits', 'address a', bytes(`01${'0'.repeat(62)}`), 'not clean'],
    ['bytes4 with low bits', 'bytes4 b', bytes('aabbccdd01'.padEnd(64, '0')), 'not clean'],
    ['an offset outside', 'string s', bytes(word('1000')), 'the data ends'],
    ['an enormous offset', 'string s', bytes('f'.repeat(64)), 'not clean'],
    ['an enormous length', 'string s', bytes(word('20'), word('ffffffffff')), 'the data ends'],
    ['a list longer than its data', 'uint8[] l', bytes(word('20'), word('fffffffff')), 'items do not fit'],
    ['a text without padding', 'string s', bytes(word('20'), word('2'), '6869'), 'the data ends'],
    ['a text with dirty padding', 'string s', bytes(word('20'), word('1'), text), 'not clean'],
    ['text that is not UTF-8', 'string s', bytes(word('20'), word('1'), 'ff'.padEnd(64, '0')), 'not UTF-8'],
    ['two strings in the same bytes', 'string a, string b', bytes(word('40'), word('40'), word('2'), text), 'share the same bytes'],
    ['an offset into its own head', 'bytes b', bytes(word('0')), 'share the same bytes'],
    ['a gap before a tail', 'string s', bytes(word('40'), word('0'), word('2'), text), 'belong to no value'],
  ])('refuses %s', (_, types, body, reason) => {
    expect(() => decode(types, body)).toThrow(reason);
  });

  it('lets the tails come in any order', () => {
    const swapped = bytes(
      word('80'),
      word('40'),
      word('1'),
      Buffer.from('b').toString('hex').padEnd(64, '0'),
      word('1'),
      Buffer.from('a').toString('hex').padEnd(64, '0'),
    );
    expect(decode('string a, string b', swapped)).toEqual(['a', 'b']);
  });

  it('survives arbitrary bytes with a plain error, in bounded work', () => {
    const types = 'uint64 x, (string s, uint8[] l)[] list, bytes[2] pair';
    const parameters = parseParameters(types);
    const small = fc.constantFrom(0, 0x20, 0x40, 0x60, 0x80, 1, 2);
    const hostile = fc.array(
      fc.oneof(
        small.map((value) => word(value.toString(16))),
        fc.uint8Array({ minLength: 32, maxLength: 32 }).map((value) => Buffer.from(value).toString('hex')),
      ),
      { maxLength: 40 },
    );
    fc.assert(
      fc.property(hostile, (words) => {
        let values: unknown[];
        try {
          values = decodeAbi(parameters, bytes(...words));
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError);
          return;
        }
        expect(encode(types, values).length).toBe(words.join('').length);
      }),
      { numRuns: 500 },
    );
  });

  it('is not lured into exponential work by lists that contain each other', () => {
    const lists = Array.from({ length: 400 }, () => word('20'));
    const started = performance.now();
    expect(() => decode('uint8[][][][][][][][] x', bytes(...lists))).toThrow(RangeError);
    expect(performance.now() - started).toBeLessThan(1_000);
  });
});

describe('encoding refuses', () => {
  it.each([
    ['uint8', 256, 'not an integer from 0 to 255 (uint8)'],
    ['uint8', -1, 'not an integer from 0 to 255'],
    ['uint8', 1.5, 'not an integer'],
    ['uint8', Number.NaN, 'not an integer'],
    ['uint8', '5', 'not an integer'],
    ['uint64', 2n ** 64n, 'not an integer from 0'],
    ['uint256', 2 ** 60, 'not an integer from 0'],
    ['uint256', 2n ** 256n, 'an integer of more than 256 bits'],
    ['int128', -(2n ** 127n) - 1n, 'not an integer from'],
    ['bool', 1, '1 is not a boolean'],
    ['address', '0x12', 'has 1 bytes, not 20'],
    ['bytes4', '0xaabbcc', 'has 3 bytes, not 4'],
    ['bytes', '0xabc', 'is not a 0x string'],
    ['bytes', 'ab', 'is not a 0x string'],
    ['string', 5, '5 is not a string'],
    ['string', '\ud800', 'lone surrogate'],
    ['uint8[2]', [1], 'the array has 1 items, not 2'],
    ['uint8[]', 5, '5 is not an array'],
    ['(uint8 a, bool b)', undefined, 'a tuple is missing; it needs a, b'],
    ['(uint8 a)', {}, 'undefined is not an integer'],
  ])('for %s: %s', (types, value, reason) => {
    expect(() => encode(types, [value])).toThrow(reason);
  });
});
