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
  rangeError,
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
  const buffer = bufferOver(bytes);
  let at = 0;
  let limit = buffer.length;
  let items = limit + SPARE_ITEMS_MAX;
  const take = (size: number): number => {
    const start = at;
    if (start + size > limit) tooShort(limit, start, size);
    at += size;
    return start;
  };
  const byte = (): number => buffer[take(1)] as number;
  const hex = (size: number): string => readHex(buffer, take(size), at);
  const length = (): number => {
    const first = byte();
    if (first < 0x80) return first;
    return first < 0xc0 ? ((first & 0x3f) << 8) | byte() : longLength(first & 0x3f, byte);
  };
  const list = (item: SolidityType, count: number): unknown[] => {
    items -= count;
    if (items < 0) rangeError('there are more items than the bytes can hold');
    return Array.from({ length: count }, () => value(item));
  };
  const optional = (item: SolidityType): unknown => {
    const size = length();
    if (size === 0) return undefined;
    const outer = limit;
    const end = at + size;
    if (end > outer) rangeError(`an optional value of ${size} bytes does not fit`);
    limit = end;
    const present = value(item);
    if (at !== end) rangeError(`an optional value leaves ${end - at} bytes`);
    limit = outer;
    return present;
  };
  const value = (type: SolidityType): unknown => {
    switch (type.kind) {
      case 'void':
        return undefined;
      case 'uint':
      case 'int':
        return readInteger(buffer, take(type.bits >> 3), type);
      case 'bool':
        return readBoolean(byte());
      case 'address':
        return hex(20);
      case 'fixedBytes':
        return hex(type.size);
      case 'string':
        return readText(buffer, take(length()), at);
      case 'bytes':
        return hex(length());
      case 'array':
        return list(type.item, type.length);
      case 'list':
        return list(type.item, listLength(length()));
      case 'tuple':
        expectFields(length(), type.fields);
        return tupleOf(
          type,
          type.fields.map((field) => value(field.type)),
        );
      case 'optional':
        return optional(type.item);
    }
  };
  const values = parameters.map(({ type }) => value(type));
  expectNoRest(limit - at, buffer.length);
  return values;
}

function listLength(length: number): number {
  if (length > LIST_LENGTH_MAX) rangeError(`a list has ${length} items; the limit is ${LIST_LENGTH_MAX}`);
  return length;
}

function expectFields(count: number, { length }: readonly Parameter[]): void {
  if (count !== length) rangeError(`a struct has ${count} fields, not ${length}`);
}

function longLength(size: number, byte: () => number): number {
  if (size < 1 || size > 32) rangeError(`a length has ${size} bytes; 1 to 32 are possible`);
  let length = 0;
  for (let index = 0; index < size; index += 1) {
    length = length * 256 + byte();
    if (length > Number.MAX_SAFE_INTEGER / 256) rangeError('a length is far larger than the payload');
  }
  return length;
}

/** The compact payload of the values, as the contract accepts it. */
export function encodeCompact(parameters: readonly Parameter[], values: readonly unknown[]): Uint8Array {
  const writer = new CompactWriter();
  for (let index = 0; index < parameters.length; index += 1) writer.value((parameters[index] as Parameter).type, values[index]);
  return writer.bytes();
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
        if (items.length > LIST_LENGTH_MAX) rangeError(`the list has ${items.length} items; the contract takes ${LIST_LENGTH_MAX}`);
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
    if (value === undefined || value === null) return this.#payloadLength(0);
    const inner = new CompactWriter();
    inner.value(item, value);
    const bytes = inner.bytes();
    if (bytes.length === 0) rangeError('an optional value of no bytes cannot be told from none');
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
