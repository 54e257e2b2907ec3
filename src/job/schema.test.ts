import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { typedValues } from '../../test/support/solidity-values.ts';
import { decodeCompact, encodeCompact } from './compact.ts';
import { codecFor, parseSchema, schemaOf } from './schema.ts';
import { parseParameters, typeText } from './solidity.ts';
import type { Parameter } from './solidity.ts';

const CONTRACT_WIDTHS = [8, 16, 32, 64, 128, 256];

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const bytes = (digits: string): Uint8Array => Buffer.from(digits, 'hex');
const schema = (types: string): Uint8Array => schemaOf(parseParameters(types));
const encode = (types: string, values: readonly unknown[]): string => hex(encodeCompact(parseParameters(types), values));
const decode = (types: string, digits: string): unknown[] => decodeCompact(parseParameters(types), bytes(digits));
const textOf = (parameters: readonly Parameter[] | undefined): string | undefined =>
  parameters?.map(({ type, name }) => `${typeText(type)} ${name}`).join(', ');

/** One field of schema bytes without children. */
const field = (kind: number, { arrayLength = 0, children = 0, name = '' } = {}): string =>
  hex(Uint8Array.of(kind, arrayLength >> 8, arrayLength & 0xff, children >> 8, children & 0xff, name.length)) + hex(Buffer.from(name));

describe('schema bytes', () => {
  it('are those that the contract builds', () => {
    expect(hex(schema('uint64 n, string greeting'))).toBe('0200020800000000016e1100000000086772656574696e67');
    expect(hex(schema(''))).toBe('');
    expect(hex(schema('bytes32 a, bytes4 b, bytes32[3] c, (bool d)[] e'))).toBe(
      `020004${field(15, { name: 'a' })}${field(16, { arrayLength: 4, name: 'b' })}${field(20, { arrayLength: 3, children: 1, name: 'c' })}${field(15)}` +
        `${field(21, { children: 1, name: 'e' })}${field(22, { children: 1 })}${field(1, { name: 'd' })}`,
    );
  });

  it('read as the parameters they were made of', () => {
    fc.assert(
      fc.property(typedValues(CONTRACT_WIDTHS), ({ types }) => {
        const parameters = parseParameters(types);
        fc.pre(parameters.length > 0);
        const read = parseSchema(schemaOf(parameters));
        expect(textOf(read)).toBe(textOf(parameters));
        expect(read).toEqual(parameters);
      }),
    );
  });

  it('say nothing when they are empty', () => {
    expect(parseSchema(new Uint8Array())).toBeUndefined();
    expect(parseSchema(bytes('020000'))).toEqual([]);
  });

  it('know every kind', () => {
    const kinds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18].map((kind) => field(kind)).join('');
    const all = `020014${kinds}${field(16, { arrayLength: 7 })}${field(19, { children: 1 })}${field(8)}`;
    expect(parseSchema(bytes(all))?.map(({ type }) => typeText(type))).toEqual(
      'void bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 uint128 int128 uint256 int256 address bytes32 string bytes bytes7 optional(uint64)'.split(
        ' ',
      ),
    );
  });

  it.each([127, 128, 16_383, 16_384, 70_000])('carry a name of %d bytes', (length) => {
    const name = 'n'.repeat(length);
    const [first] = parseSchema(schemaOf([{ name, type: parseParameters('bool')[0]!.type }])) ?? [];
    expect(first?.name).toBe(name);
  });

  it.each([
    [127, '7f'],
    [128, '8080'],
    [16_383, 'bfff'],
    [16_384, 'c04000'],
    [70_000, 'c11170'],
  ])('write a name length of %d as %s', (length, expected) => {
    const built = hex(schemaOf([{ name: 'n'.repeat(length), type: parseParameters('bool')[0]!.type }]));
    expect(built.slice(6, 16 + expected.length)).toBe(`0100000000${expected}`);
  });

  it.each([
    ['a wrong version', '010000', 'the version is 1, not 2'],
    ['nothing after the version', '02', 'they end at byte 1'],
    ['a missing field', '020001', 'in the middle of a field'],
    ['a name that ends early', `020001${field(1).slice(0, -2)}05`, 'in the middle of a field'],
    ['a trailing byte', `020001${field(1)}00`, '1 bytes follow the last field'],
    ['an unknown kind', `020001${field(23)}`, '23 is not a kind'],
    ['fixed bytes of length 0', `020001${field(16)}`, 'fixed bytes have length 0'],
    ['fixed bytes of length 33', `020001${field(16, { arrayLength: 33 })}`, 'fixed bytes have length 33'],
    ['a list without item', `020001${field(21)}`, 'has 0 children, not 1'],
    ['a list of two', `020001${field(21, { children: 2 })}${field(1)}${field(1)}`, 'has 2 children, not 1'],
    ['a bool with a child', `020001${field(1, { children: 1 })}${field(1)}`, 'has 1 children, not 0'],
    ['a struct of 257', `020001${field(22, { children: 257 })}${field(1).repeat(257)}`, 'a struct has 257 fields'],
    ['a name that is not UTF-8', '0200010100000000 01ff'.replace(' ', ''), 'not UTF-8'],
    ['an unknown name length', '0200010100000000f0', 'a name length starts with 240'],
    ['33 levels', `020001${field(21, { children: 1 }).repeat(32)}${field(1)}`, 'fields nest deeper than 32'],
  ])('are refused with %s', (_, digits, reason) => {
    expect(() => parseSchema(bytes(digits))).toThrow(
      expect.objectContaining({ code: 'SCHEMA_INVALID', message: expect.stringContaining(reason) }),
    );
  });

  it('may nest 32 levels', () => {
    expect(parseSchema(bytes(`020001${field(21, { children: 1 }).repeat(31)}${field(1)}`))).toHaveLength(1);
  });

  it('never crash the reader', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (tail) => {
        try {
          parseSchema(Buffer.concat([bytes('020002'), tail]));
        } catch (error) {
          expect(error).toMatchObject({ code: 'SCHEMA_INVALID' });
        }
      }),
      { numRuns: 500 },
    );
  });

  it('cannot be built for integers that the contract does not know', () => {
    expect(() => schema('uint8 a, uint24 b')).toThrow(
      expect.objectContaining({ code: 'SCHEMA_INVALID', message: expect.stringContaining('uint24 is none of the contract') }),
    );
  });

  it('cannot be built for a tuple of 257', () => {
    expect(() => schema(`(${Array.from({ length: 257 }, () => 'bool').join(',')}) t`)).toThrow(
      expect.objectContaining({ code: 'SCHEMA_INVALID' }),
    );
  });
});

describe('compact payloads', () => {
  it('are those that the contract accepts', () => {
    expect(encode('uint64 n, string greeting', [7n, 'hi'])).toBe('0000000000000007026869');
    expect(decode('uint64 n, string greeting', '0000000000000007026869')).toEqual([7n, 'hi']);
  });

  it('read as the values they were made of', () => {
    fc.assert(
      fc.property(typedValues(CONTRACT_WIDTHS), ({ types, values }) => {
        expect(decodeCompact(parseParameters(types), encodeCompact(parseParameters(types), values))).toEqual(values);
      }),
      { numRuns: 400 },
    );
  });

  it.each([
    [0, '00'],
    [127, '7f'],
    [128, '8080'],
    [16_383, 'bfff'],
    [16_384, 'c24000'],
    [65_535, 'c2ffff'],
    [65_536, 'c3010000'],
    [70_000, 'c3011170'],
    [2 ** 24, 'c401000000'],
  ])('write a length of %d as %s', (length, expected) => {
    const value = 'x'.repeat(length);
    const digits = encode('string s', [value]);
    expect(digits.slice(0, expected.length)).toBe(expected);
    expect(digits.length).toBe(expected.length + 2 * length);
    expect(decode('string s', digits)).toEqual([value]);
  });

  it('do not take the length form of names', () => {
    expect(() => decode('string s', `c04000${'78'.repeat(16_384)}`)).toThrow('a length has 0 bytes');
    expect(() => decode('string s', `c11170${'78'.repeat(70_000)}`)).toThrow('belong to no value');
  });

  it('count list items and struct fields, but not array items', () => {
    expect(encode('uint8[] l, uint8[2] a, (bool x, uint16 y) t', [[1, 2, 3], [4, 5], { x: true, y: 258 }])).toBe(
      '03010203' + '0405' + '02010102',
    );
  });

  it('accept a length that is longer than needed, as the contract does', () => {
    expect(decode('bytes b', 'c4000000020102')).toEqual(['0x0102']);
    expect(decode('bytes b', '80020102')).toEqual(['0x0102']);
    expect(decode('bytes b', `e0${'00'.repeat(31)}020102`)).toEqual(['0x0102']);
  });

  it.each([
    ['a trailing byte', 'uint8 x', '0100', '1 of 2 bytes belong to no value'],
    ['a missing byte', 'uint16 x', '01', 'the data ends at byte 1'],
    ['a bool of 7', 'bool x', '07', 'a bool is 7'],
    ['a text that ends early', 'string s', '0568', 'the data ends'],
    ['a length of 33 bytes', 'bytes b', `e1${'00'.repeat(33)}`, 'a length has 33 bytes'],
    ['an enormous length', 'bytes b', `c8${'ff'.repeat(8)}`, 'far larger than the payload'],
    ['a list of 10001', 'bool[] l', `c22711${'00'.repeat(10_001)}`, 'a list has 10001 items; the limit is 10000'],
    ['a struct of another size', '(bool a) t', '020101', 'a struct has 2 fields, not 1'],
  ])('are refused with %s', (_, types, digits, reason) => {
    expect(() => decode(types, digits)).toThrow(reason);
  });

  it('cannot be written with more than 10000 list items', () => {
    expect(encode('bool[] l', [Array.from({ length: 10_000 }, () => true)]).length).toBe(2 * 10_002);
    expect(() => encode('bool[] l', [Array.from({ length: 10_001 }, () => true)])).toThrow(
      'the list has 10001 items; the contract takes 10000',
    );
  });

  it('never crash the reader', () => {
    const types = parseParameters('(string s, uint8[][] l)[] list, bytes[2] pair');
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (body) => {
        try {
          decodeCompact(types, body);
        } catch (error) {
          expect(error).toBeInstanceOf(RangeError);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('of nothing but items without bytes are bounded', () => {
    const voids = parseSchema(
      bytes(`020001${field(20, { arrayLength: 65_535, children: 1 })}${field(20, { arrayLength: 65_535, children: 1 })}${field(0)}`),
    );
    expect(() => decodeCompact(voids ?? [], new Uint8Array())).toThrow('more items than the bytes can hold');
  });

  it('carry optional values as a length and the value', () => {
    const optional = parseSchema(bytes(`020002${field(19, { children: 1, name: 'o' })}${field(6)}${field(2)}`)) ?? [];
    expect(hex(encodeCompact(optional, [undefined, 1]))).toBe('0001');
    expect(hex(encodeCompact(optional, [null, 1]))).toBe('0001');
    expect(hex(encodeCompact(optional, [5, 1]))).toBe('040000000501');
    expect(decodeCompact(optional, bytes('0001'))).toEqual([undefined, 1]);
    expect(decodeCompact(optional, bytes('040000000501'))).toEqual([5, 1]);
    expect(() => decodeCompact(optional, bytes('05000000050001'))).toThrow('an optional value leaves 1 bytes');
    expect(() => decodeCompact(optional, bytes('0300000501'))).toThrow('the data ends at byte 4');
    expect(() => decodeCompact(optional, bytes('0900'))).toThrow('an optional value of 9 bytes does not fit');
    const ofNothing = parseSchema(bytes(`020001${field(19, { children: 1 })}${field(0)}`)) ?? [];
    expect(() => encodeCompact(ofNothing, ['present'])).toThrow('cannot be told from none');
  });
});

describe('a job and the schema on chain', () => {
  it('need no agreement when there is no schema: then the codec is ABI', () => {
    expect(codecFor({ types: 'uint24 x', schema: new Uint8Array(), of: 'params of job 0' })).toBe('abi');
  });

  it.each([
    ['uint64 n, string greeting', 'uint64 other, string names'],
    ['(bool a, bytes32 b)[] l', '(bool, bytes32)[]'],
    ['uint8[3][] grid', 'uint8[3][]'],
  ])('agree: %s and %s', (types, onChain) => {
    expect(codecFor({ types, schema: schema(onChain), of: 'params of job 0' })).toBe('compact');
  });

  it('agree on bytes32, whichever kind the chain uses', () => {
    expect(codecFor({ types: 'bytes32 h', schema: bytes(`020001${field(16, { arrayLength: 32 })}`), of: 'params of job 0' })).toBe(
      'compact',
    );
  });

  it('agree when both have no fields', () => {
    expect(codecFor({ types: '', schema: bytes('020000'), of: 'params of job 0' })).toBe('compact');
  });

  it.each([
    ['uint64 n', 'uint32 n', '[0] is uint64 here and uint32 on chain'],
    ['uint64 n', 'uint64 n, bool b', 'the list has 1 types here and 2 on chain'],
    ['(bool a, (uint8 x)[] b) t', '(bool a, (int8 x)[] b) t', '[0][1][][0] is uint8 here and int8 on chain'],
    ['uint8[3] a', 'uint8[4] a', 'uint8[3] here and uint8[4] on chain'],
    ['uint8[] a', 'uint8[4] a', 'uint8[] here and uint8[4] on chain'],
    ['(bool a) t', '(bool a, bool b) t', '[0] has 1 types here and 2 on chain'],
    ['bytes4 a', 'bytes8 a', 'bytes4 here and bytes8 on chain'],
    ['', 'bool', 'the list has 0 types here and 1 on chain'],
  ])('differ: %s and %s', (types, onChain, difference) => {
    expect(() => codecFor({ types, schema: schema(onChain), of: 'params of job 3' })).toThrow(
      expect.objectContaining({
        code: 'JOB_SCHEMA_MISMATCH',
        message: expect.stringContaining(difference),
        details: expect.objectContaining({ of: 'params of job 3', types }),
      }),
    );
  });
});
