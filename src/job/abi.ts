/** `abi.encode` and `abi.decode` of a parameter list. */

import {
  asArray,
  asBoolean,
  asText,
  bufferOver,
  expectNoRest,
  GrowingBuffer,
  hexSize,
  readBoolean,
  readHex,
  readInteger,
  readText,
  tooShort,
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
  const reader = new AbiReader(bufferOver(bytes));
  const values = reader.fields(parameters, 0);
  reader.end();
  return values;
}

/** The ABI encoding of the values. */
export function encodeAbi(parameters: readonly Parameter[], values: readonly unknown[]): Uint8Array {
  const writer = new AbiWriter(headBytesOf(parameters));
  writer.fields(parameters, values);
  return writer.bytes();
}

class AbiReader {
  readonly #buffer: Buffer;
  /** Bytes read so far: more than there are means that parts overlap, fewer at the end that something was left out. */
  #used = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  fields(fields: readonly Parameter[], base: number): unknown[] {
    const values = new Array<unknown>(fields.length);
    let at = base;
    for (let index = 0; index < fields.length; index += 1) {
      const { type } = fields[index] as Parameter;
      values[index] = this.#value(type, at, base);
      at += type.headBytes;
    }
    return values;
  }

  end(): void {
    expectNoRest(this.#buffer.length - this.#used, this.#buffer.length);
  }

  /** The value whose head lies at `at`; offsets count from `base`. */
  #value(type: SolidityType, at: number, base: number): unknown {
    switch (type.kind) {
      case 'uint':
      case 'int': {
        this.#take(at, WORD);
        const start = at + WORD - (type.bits >> 3);
        const negative = type.kind === 'int' && ((this.#buffer[start] as number) & 0x80) !== 0;
        this.#padding(at, start, negative ? 0xff : 0);
        return readInteger(this.#buffer, start, type);
      }
      case 'bool':
        return this.#boolean(at);
      case 'address':
        this.#take(at, WORD);
        this.#padding(at, at + 12, 0);
        return readHex(this.#buffer, at + 12, at + WORD);
      case 'fixedBytes':
        this.#take(at, WORD);
        this.#padding(at + type.size, at + WORD, 0);
        return readHex(this.#buffer, at, at + type.size);
      case 'tuple': {
        const values = this.fields(type.fields, type.dynamic ? base + this.#count(at) : at);
        return tupleOf(type, values);
      }
      case 'array':
        return this.#items(type.item, type.dynamic ? base + this.#count(at) : at, type.length);
      case 'string':
      case 'bytes':
      case 'list': {
        const start = base + this.#count(at);
        const length = this.#count(start);
        if (type.kind === 'list') return this.#items(type.item, start + WORD, length);
        return this.#content(type.kind, start + WORD, length);
      }
      case 'optional':
      case 'void':
        throw new TypeError(`${type.kind} has no ABI encoding`);
    }
  }

  #items(item: SolidityType, base: number, length: number): unknown[] {
    if (length * item.headBytes > this.#buffer.length - base)
      throw new RangeError(`${length} items do not fit into ${this.#buffer.length} bytes`);
    const values = new Array<unknown>(length);
    for (let index = 0; index < length; index += 1) values[index] = this.#value(item, base + index * item.headBytes, base);
    return values;
  }

  #content(kind: 'string' | 'bytes', start: number, length: number): string {
    const padded = Math.ceil(length / WORD) * WORD;
    this.#take(start, padded);
    this.#padding(start + length, start + padded, 0);
    return kind === 'string' ? readText(this.#buffer, start, start + length) : readHex(this.#buffer, start, start + length);
  }

  #boolean(at: number): boolean {
    this.#take(at, WORD);
    this.#padding(at, at + WORD - 1, 0);
    return readBoolean(this.#buffer[at + WORD - 1]);
  }

  /** An offset or length. Anything above 2^48 is far outside of the data. */
  #count(at: number): number {
    this.#take(at, WORD);
    this.#padding(at, at + WORD - 6, 0);
    return this.#buffer.readUIntBE(at + WORD - 6, 6);
  }

  #take(at: number, size: number): void {
    if (at + size > this.#buffer.length) throw tooShort(this.#buffer.length, at, size);
    this.#used += size;
    if (this.#used > this.#buffer.length) throw new RangeError('two values share the same bytes');
  }

  #padding(from: number, to: number, byte: number): void {
    for (let at = from; at < to; at += 1) {
      if (this.#buffer[at] !== byte) throw new RangeError(`the padding at byte ${at} is not clean, or a number is too large for its type`);
    }
  }
}

class AbiWriter extends GrowingBuffer {
  /** Where the offsets of the value being written count from. */
  #base = 0;

  constructor(headBytes: number) {
    super(headBytes);
    this.reserve(headBytes);
  }

  /** Writes into the head that the constructor reserved. */
  fields(fields: readonly Parameter[], values: readonly unknown[]): void {
    this.#fields(fields, values, 0);
  }

  #fields(fields: readonly Parameter[], values: readonly unknown[], base: number): void {
    let at = base;
    for (let index = 0; index < fields.length; index += 1) {
      const { type } = fields[index] as Parameter;
      this.#base = base;
      this.#value(type, values[index], at);
      at += type.headBytes;
    }
  }

  #value(type: SolidityType, value: unknown, at: number): void {
    switch (type.kind) {
      case 'uint':
      case 'int': {
        const start = at + WORD - (type.bits >> 3);
        writeInteger(this.buffer, start, { type, value });
        if (type.kind === 'int' && ((this.buffer[start] as number) & 0x80) !== 0) this.buffer.fill(0xff, at, start);
        return;
      }
      case 'bool':
        this.buffer[at + WORD - 1] = asBoolean(value) ? 1 : 0;
        return;
      case 'address':
        hexSize(value, 20);
        return writeHex(this.buffer, at + 12, value);
      case 'fixedBytes':
        hexSize(value, type.size);
        return writeHex(this.buffer, at, value);
      case 'string': {
        const text = asText(value);
        const start = this.#content(at, Buffer.byteLength(text));
        this.buffer.write(text, start);
        return;
      }
      case 'bytes': {
        const start = this.#content(at, hexSize(value));
        return writeHex(this.buffer, start, value);
      }
      case 'tuple': {
        const values = componentsOf(type, value);
        return this.#fields(type.fields, values, type.dynamic ? this.#tail(at, headBytesOf(type.fields)) : at);
      }
      case 'array': {
        const values = asArray(value, type.length);
        return this.#items(type.item, values, type.dynamic ? this.#tail(at, type.length * type.item.headBytes) : at);
      }
      case 'list': {
        const values = asArray(value);
        const start = this.#tail(at, WORD + values.length * type.item.headBytes);
        this.buffer.writeUIntBE(values.length, start + WORD - 6, 6);
        return this.#items(type.item, values, start + WORD);
      }
      case 'optional':
      case 'void':
        throw new TypeError(`${type.kind} has no ABI encoding`);
    }
  }

  #items(item: SolidityType, values: readonly unknown[], base: number): void {
    for (let index = 0; index < values.length; index += 1) {
      this.#base = base;
      this.#value(item, values[index], base + index * item.headBytes);
    }
  }

  /** Reserves room for so many bytes behind their length. */
  #content(at: number, length: number): number {
    const start = this.#tail(at, WORD + Math.ceil(length / WORD) * WORD);
    this.buffer.writeUIntBE(length, start + WORD - 6, 6);
    return start + WORD;
  }

  /** Reserves zeroed bytes at the end and writes their offset into the head. */
  #tail(at: number, size: number): number {
    const start = this.reserve(size);
    this.buffer.writeUIntBE(start - this.#base, at + WORD - 6, 6);
    return start;
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
    throw new TypeError(`a tuple is missing; it needs ${fields.map((field) => field.name).join(', ')}`);
  return fields.map((field) => (value as Record<string, unknown>)[field.name]);
}
