/**
 * Payloads in the contract's compact encoding: what a job with a schema on chain takes and returns.
 * Source of the layout: SchemaLib.sol of the Tangle contracts, measured against them.
 */

import { componentsOf, tupleOf } from './abi.ts';
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
import type { Parameter, SolidityType } from './solidity.ts';

const LIST_LENGTH_MAX = 10_000;
/** Items beyond one for each byte of the payload: only items without bytes can be more, and they are worth nothing. */
const SPARE_ITEMS_MAX = 65_536;

/**
 * The values of a compact payload. What the contract accepts is accepted (a length may be longer than needed), except bools other
 * than 0 and 1 and text that is not UTF-8.
 */
export function decodeCompact(parameters: readonly Parameter[], bytes: Uint8Array): unknown[] {
  const reader = new CompactReader(bufferOver(bytes));
  const values = parameters.map((parameter) => reader.value(parameter.type));
  reader.end();
  return values;
}

/** The compact payload of the values, as the contract accepts it. */
export function encodeCompact(parameters: readonly Parameter[], values: readonly unknown[]): Uint8Array {
  const writer = new CompactWriter();
  for (let index = 0; index < parameters.length; index += 1) writer.value((parameters[index] as Parameter).type, values[index]);
  return writer.bytes();
}

class CompactReader {
  readonly #buffer: Buffer;
  #at = 0;
  #limit: number;
  #items: number;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
    this.#limit = buffer.length;
    this.#items = buffer.length + SPARE_ITEMS_MAX;
  }

  value(type: SolidityType): unknown {
    switch (type.kind) {
      case 'void':
        return undefined;
      case 'uint':
      case 'int':
        return readInteger(this.#buffer, this.#take(type.bits >> 3), type);
      case 'bool':
        return readBoolean(this.#buffer[this.#take(1)]);
      case 'address':
        return readHex(this.#buffer, this.#take(20), this.#at);
      case 'fixedBytes':
        return readHex(this.#buffer, this.#take(type.size), this.#at);
      case 'string':
        return readText(this.#buffer, this.#take(this.#length()), this.#at);
      case 'bytes':
        return readHex(this.#buffer, this.#take(this.#length()), this.#at);
      case 'array':
        return this.#list(type.item, type.length);
      case 'list': {
        const length = this.#length();
        if (length > LIST_LENGTH_MAX) throw new RangeError(`a list has ${length} items; the limit is ${LIST_LENGTH_MAX}`);
        return this.#list(type.item, length);
      }
      case 'tuple': {
        const count = this.#length();
        if (count !== type.fields.length) throw new RangeError(`a struct has ${count} fields, not ${type.fields.length}`);
        const values = type.fields.map((field) => this.value(field.type));
        return tupleOf(type, values);
      }
      case 'optional':
        return this.#optional(type.item);
    }
  }

  end(): void {
    expectNoRest(this.#limit - this.#at, this.#buffer.length);
  }

  #list(item: SolidityType, length: number): unknown[] {
    this.#items -= length;
    if (this.#items < 0) throw new RangeError('there are more items than the bytes can hold');
    const values: unknown[] = [];
    for (let index = 0; index < length; index += 1) values.push(this.value(item));
    return values;
  }

  #optional(item: SolidityType): unknown {
    const length = this.#length();
    if (length === 0) return undefined;
    const outer = this.#limit;
    const end = this.#at + length;
    if (end > outer) throw new RangeError(`an optional value of ${length} bytes does not fit`);
    this.#limit = end;
    const value = this.value(item);
    if (this.#at !== end) throw new RangeError(`an optional value leaves ${end - this.#at} bytes`);
    this.#limit = outer;
    return value;
  }

  #length(): number {
    const first = this.#buffer[this.#take(1)] as number;
    if (first < 0x80) return first;
    if (first < 0xc0) return ((first & 0x3f) << 8) | (this.#buffer[this.#take(1)] as number);
    const size = first & 0x3f;
    if (size < 1 || size > 32) throw new RangeError(`a length has ${size} bytes; 1 to 32 are possible`);
    let length = 0;
    for (let at = this.#take(size); at < this.#at; at += 1) {
      length = length * 256 + (this.#buffer[at] as number);
      if (length > Number.MAX_SAFE_INTEGER / 256) throw new RangeError('a length is far larger than the payload');
    }
    return length;
  }

  #take(size: number): number {
    const start = this.#at;
    if (start + size > this.#limit) throw tooShort(this.#limit, start, size);
    this.#at += size;
    return start;
  }
}

/** Grows as it is written; also writes the schema bytes themselves. */
export class CompactWriter extends GrowingBuffer {
  constructor() {
    super(128);
  }

  integer(value: number, size: number): void {
    const at = this.reserve(size);
    this.buffer.writeUIntBE(value, at, size);
  }

  /** Text without a length. */
  text(text: string, size: number): void {
    const at = this.reserve(size);
    this.buffer.write(text, at);
  }

  value(type: SolidityType, value: unknown): void {
    switch (type.kind) {
      case 'void':
        return;
      case 'uint':
      case 'int': {
        const at = this.reserve(type.bits >> 3);
        return writeInteger(this.buffer, at, { type, value });
      }
      case 'bool':
        return this.integer(asBoolean(value) ? 1 : 0, 1);
      case 'address':
        return this.#hex(value, hexSize(value, 20));
      case 'fixedBytes':
        return this.#hex(value, hexSize(value, type.size));
      case 'string': {
        const text = asText(value);
        const length = Buffer.byteLength(text);
        this.#payloadLength(length);
        return this.text(text, length);
      }
      case 'bytes': {
        const size = hexSize(value);
        this.#payloadLength(size);
        return this.#hex(value, size);
      }
      case 'array':
        for (const item of asArray(value, type.length)) this.value(type.item, item);
        return;
      case 'list': {
        const items = asArray(value);
        if (items.length > LIST_LENGTH_MAX)
          throw new RangeError(`the list has ${items.length} items; the contract takes ${LIST_LENGTH_MAX}`);
        this.#payloadLength(items.length);
        for (const item of items) this.value(type.item, item);
        return;
      }
      case 'tuple': {
        const values = componentsOf(type, value);
        this.#payloadLength(values.length);
        for (const [index, field] of type.fields.entries()) this.value(field.type, values[index]);
        return;
      }
      case 'optional':
        return this.#optional(type.item, value);
    }
  }

  #optional(item: SolidityType, value: unknown): void {
    if (value === undefined) return this.#payloadLength(0);
    const inner = new CompactWriter();
    inner.value(item, value);
    const bytes = inner.bytes();
    if (bytes.length === 0) throw new RangeError('an optional value of no bytes cannot be told from none');
    this.#payloadLength(bytes.length);
    const at = this.reserve(bytes.length);
    this.buffer.set(bytes, at);
  }

  #payloadLength(length: number): void {
    if (length < 0x80) return this.integer(length, 1);
    if (length < 0x4000) return this.integer(0x8000 | length, 2);
    const size = length < 0x1_0000 ? 2 : length < 0x100_0000 ? 3 : length < 0x1_0000_0000 ? 4 : 6;
    this.integer(0xc0 | size, 1);
    this.integer(length, size);
  }

  #hex(value: unknown, size: number): void {
    const at = this.reserve(size);
    writeHex(this.buffer, at, value);
  }
}
