/** `abi.encode` and `abi.decode` of a parameter list. */

import {
  asArray,
  asBoolean,
  asText,
  bufferOver,
  expectNoRest,
  GrowingBuffer,
  hexSize,
  rangeError,
  readBoolean,
  readHex,
  readInteger,
  readText,
  tooShort,
  typeError,
  writeHex,
  writeInteger,
} from './scalar.ts';
import { headBytesOf } from './solidity.ts';
import type { Parameter, SolidityType } from './solidity.ts';

const WORD = 32;

/**
 * The values of an ABI encoding.
 *
 * The bytes must be what an encoder produces: whole words, zero padding, valid UTF-8, no byte left unread and none read twice; only
 * the order of the tails is free. That refuses arguments of other types instead of misreading them, and bounds the work by the
 * size of the input. Addresses are lower case.
 */
export function decodeAbi(parameters: readonly Parameter[], bytes: Uint8Array): unknown[] {
  const buffer = bufferOver(bytes);
  /** Bytes read so far: more than there are means that parts overlap, fewer at the end that something was left out. */
  let used = 0;

  /** Where the bytes lie, which are read now. */
  const take = (at: number, size = WORD): number => {
    if (at + size > buffer.length) tooShort(buffer.length, at, size);
    used += size;
    if (used > buffer.length) rangeError('two values share the same bytes');
    return at;
  };
  /** An offset or length. Anything above 2^48 is far outside of the data. */
  const count = (at: number): number => {
    expectZeros(buffer, take(at), at + WORD - 6);
    return buffer.readUIntBE(at + WORD - 6, 6);
  };
  const fieldsAt = (fields: readonly Parameter[], base: number): unknown[] => {
    const values = new Array<unknown>(fields.length);
    let at = base;
    for (let index = 0; index < fields.length; index += 1) {
      const { type } = fields[index] as Parameter;
      values[index] = valueAt(type, at, base);
      at += type.headBytes;
    }
    return values;
  };
  const items = (item: SolidityType, base: number, length: number): unknown[] => {
    if (length * item.headBytes > buffer.length - base) rangeError(`${length} items do not fit into ${buffer.length} bytes`);
    const values = new Array<unknown>(length);
    for (let index = 0; index < length; index += 1) values[index] = valueAt(item, base + index * item.headBytes, base);
    return values;
  };
  /** The value whose head lies at `at`; offsets count from `base`. */
  const valueAt = (type: SolidityType, at: number, base: number): unknown => {
    switch (type.kind) {
      case 'tuple':
        return tupleOf(type, fieldsAt(type.fields, type.dynamic ? base + count(at) : at));
      case 'array':
        return items(type.item, type.dynamic ? base + count(at) : at, type.length);
      case 'string':
      case 'bytes':
      case 'list': {
        const start = base + count(at) + WORD;
        const length = count(start - WORD);
        if (type.kind === 'list') return items(type.item, start, length);
        const end = start + length;
        expectZeros(buffer, end, take(start, paddedSize(length)) + paddedSize(length));
        return type.kind === 'string' ? readText(buffer, start, end) : readHex(buffer, start, end);
      }
      default:
        return readWord(type, buffer, take(at));
    }
  };

  const values = fieldsAt(parameters, 0);
  expectNoRest(buffer.length - used, buffer.length);
  return values;
}

function readWord(type: SolidityType, buffer: Buffer, at: number): unknown {
  const end = at + WORD;
  switch (type.kind) {
    case 'uint':
    case 'int': {
      const start = end - (type.bits >> 3);
      const isNegative = type.kind === 'int' && ((buffer[start] as number) & 0x80) !== 0;
      (isNegative ? expectOnes : expectZeros)(buffer, at, start);
      return readInteger(buffer, start, type);
    }
    case 'bool':
      expectZeros(buffer, at, end - 1);
      return readBoolean(buffer[end - 1]);
    case 'address':
      expectZeros(buffer, at, at + 12);
      return readHex(buffer, at + 12, end);
    case 'fixedBytes':
      expectZeros(buffer, at + type.size, end);
      return readHex(buffer, at, at + type.size);
    default:
      typeError(`${type.kind} has no ABI encoding`);
  }
}

const filledWith =
  (byte: number) =>
  (buffer: Buffer, from: number, to: number): void => {
    for (let at = from; at < to; at += 1) {
      if (buffer[at] !== byte) rangeError(`the padding at byte ${at} is not clean, or a number is too large for its type`);
    }
  };
const expectZeros = filledWith(0);
const expectOnes = filledWith(0xff);

/** In whole words. */
const paddedSize = (length: number): number => Math.ceil(length / WORD) * WORD;

/** For values that somebody wrote down: a list that is too long would be cut off in silence. */
export function requireCount(parameters: readonly Parameter[], values: readonly unknown[]): void {
  if (values.length !== parameters.length) rangeError(`${values.length} values are given, and the job takes ${parameters.length}`);
}

/** The ABI encoding of the values, one for each parameter. */
export function encodeAbi(parameters: readonly Parameter[], values: readonly unknown[]): Uint8Array {
  const headBytes = headBytesOf(parameters);
  const out = new GrowingBuffer(headBytes);
  out.reserve(headBytes);
  /** Where the offsets of the value being written count from. */
  let base = 0;

  const putCount = (count: number, at: number): unknown => out.buffer.writeUIntBE(count, at + WORD - 6, 6);
  /** Reserves zeroed bytes at the end and writes their offset into the head. */
  const tail = (at: number, size: number): number => {
    const start = out.reserve(size);
    putCount(start - base, at);
    return start;
  };
  /** Reserves room for so many bytes behind their length. */
  const content = (at: number, length: number): number => {
    const start = tail(at, WORD + paddedSize(length));
    putCount(length, start);
    return start + WORD;
  };
  const putFields = (fields: readonly Parameter[], items: readonly unknown[], start: number): void => {
    let at = start;
    for (let index = 0; index < fields.length; index += 1) {
      const { type } = fields[index] as Parameter;
      base = start;
      put(type, items[index], at);
      at += type.headBytes;
    }
  };
  const putItems = (item: SolidityType, items: readonly unknown[], start: number): void => {
    for (let index = 0; index < items.length; index += 1) {
      base = start;
      put(item, items[index], start + index * item.headBytes);
    }
  };
  const put = (type: SolidityType, value: unknown, at: number): void => {
    if (type.kind === 'string') {
      const text = asText(value);
      const start = content(at, Buffer.byteLength(text));
      out.buffer.write(text, start);
    } else if (type.kind === 'bytes') {
      const start = content(at, hexSize(value));
      writeHex(out.buffer, start, value);
    } else if (type.kind === 'tuple') {
      const items = componentsOf(type, value);
      putFields(type.fields, items, type.dynamic ? tail(at, headBytesOf(type.fields)) : at);
    } else if (type.kind === 'array') {
      const items = asArray(value, type.length);
      putItems(type.item, items, type.dynamic ? tail(at, type.length * type.item.headBytes) : at);
    } else if (type.kind === 'list') {
      const items = asArray(value);
      const start = tail(at, WORD + items.length * type.item.headBytes);
      putCount(items.length, start);
      putItems(type.item, items, start + WORD);
    } else {
      writeWord(out.buffer, at, { type, value });
    }
  };

  putFields(parameters, values, 0);
  return out.bytes();
}

function writeWord(buffer: Buffer, at: number, { type, value }: { readonly type: SolidityType; readonly value: unknown }): void {
  switch (type.kind) {
    case 'uint':
    case 'int': {
      const start = at + WORD - (type.bits >> 3);
      writeInteger(buffer, start, { type, value });
      if (type.kind === 'int' && ((buffer[start] as number) & 0x80) !== 0) buffer.fill(0xff, at, start);
      return;
    }
    case 'bool':
      buffer[at + WORD - 1] = asBoolean(value) ? 1 : 0;
      return;
    case 'address':
      hexSize(value, 20);
      return writeHex(buffer, at + 12, value);
    case 'fixedBytes':
      hexSize(value, type.size);
      return writeHex(buffer, at, value);
    default:
      typeError(`${type.kind} has no ABI encoding`);
  }
}

type TupleType = Extract<SolidityType, { kind: 'tuple' }>;

/** A tuple whose components are all named is an object. */
export function tupleOf({ fields, named }: TupleType, values: unknown[]): unknown {
  if (!named) return values;
  const object: Record<string, unknown> = {};
  for (let index = 0; index < fields.length; index += 1) object[(fields[index] as Parameter).name] = values[index];
  return object;
}

/** The values of a tuple in the order of its components. */
export function componentsOf({ fields, named }: TupleType, value: unknown): readonly unknown[] {
  if (!named || Array.isArray(value)) return asArray(value, fields.length);
  if (typeof value !== 'object' || value === null)
    typeError(`a tuple is missing; it needs ${fields.map((field) => field.name).join(', ')}`);
  return fields.map((field) => (value as Record<string, unknown>)[field.name]);
}
