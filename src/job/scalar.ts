/** Single values of both codecs, read from and written into buffers. They throw plain errors; the codecs add where it happened. */

import type { Hex } from './call.ts';
import type { IntegerType } from './solidity.ts';

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const NUMBER_BITS_MAX = 48;

/** A Buffer over the same memory. */
export function bufferOver(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Zeroed memory that grows at its end. */
export class GrowingBuffer {
  /** Another one after every `reserve`. */
  buffer: Buffer;
  length = 0;

  constructor(bytesExpected: number) {
    this.buffer = zeroed(bytesExpected);
  }

  /** Where the next `size` bytes lie. */
  reserve(size: number): number {
    const start = this.length;
    this.length += size;
    if (this.length > this.buffer.length) {
      const larger = zeroed(Math.max(this.length, this.buffer.length * 2));
      this.buffer.copy(larger, 0, 0, start);
      this.buffer = larger;
    }
    return start;
  }

  bytes(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }
}

// Functions that throw: a bundle has two dozens of these messages.
export function rangeError(message: string): never {
  throw new RangeError(message);
}

export function typeError(message: string): never {
  throw new TypeError(message);
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What the bytes of a bool say; anything but 0 and 1 is none. */
export function readBoolean(byte: number | undefined): boolean {
  if (byte !== 0 && byte !== 1) rangeError(`a bool is ${byte}`);
  return byte === 1;
}

/** A value needs these bytes, and the data ends before. */
export function tooShort(end: number, start: number, size: number): never {
  rangeError(`the data ends at byte ${end}, but a value needs bytes ${start} to ${start + size}`);
}

/** Throws unless everything was read. */
export function expectNoRest(rest: number, bytes: number): void {
  if (rest !== 0) rangeError(`${rest} of ${bytes} bytes belong to no value`);
}

/** Small ones come from the pool of Node: a memory of its own for each result would be the larger part of the work. */
function zeroed(size: number): Buffer {
  return size <= 1_024 ? Buffer.allocUnsafe(size).fill(0) : Buffer.alloc(size);
}

/** The big-endian integer in the `bits / 8` bytes at `at`: a number up to 48 bits, else a bigint. */
export function readInteger(buffer: Buffer, at: number, type: IntegerType): number | bigint {
  const size = type.bits >> 3;
  if (type.bits <= NUMBER_BITS_MAX) return type.kind === 'uint' ? buffer.readUIntBE(at, size) : buffer.readIntBE(at, size);
  let value = 0n;
  let offset = 0;
  for (; (size - offset) % 8 !== 0; offset += 1) value = (value << 8n) | BigInt(buffer.readUInt8(at + offset));
  for (; offset < size; offset += 8) {
    const part = buffer.readBigUInt64BE(at + offset);
    value = value === 0n ? part : (value << 64n) | part;
  }
  return type.kind === 'uint' ? value : BigInt.asIntN(type.bits, value);
}

/** Writes an integer big-endian into the `bits / 8` bytes at `at`. Any width takes a safe number or a bigint. */
export function writeInteger(buffer: Buffer, at: number, integer: { readonly type: IntegerType; readonly value: unknown }): void {
  const { type, value } = integer;
  const size = type.bits >> 3;
  if (typeof value === 'number' && size <= 6) {
    if (!Number.isInteger(value) || value < Number(type.min) || value > Number(type.max)) outOfRange(type, value);
    if (type.kind === 'uint') buffer.writeUIntBE(value, at, size);
    else buffer.writeIntBE(value, at, size);
    return;
  }
  const exact = typeof value === 'number' && Number.isSafeInteger(value) ? BigInt(value) : value;
  if (typeof exact !== 'bigint' || exact < type.min || exact > type.max) outOfRange(type, value);
  const unsigned = exact < 0n ? BigInt.asUintN(type.bits, exact) : exact;
  if (size === 8) buffer.writeBigUInt64BE(unsigned, at);
  else writeParts(buffer, at, { size, unsigned });
}

export function readText(buffer: Buffer, start: number, end: number): string {
  try {
    return UTF8.decode(buffer.subarray(start, end));
  } catch {
    rangeError('the text is not UTF-8');
  }
}

export function readHex(buffer: Buffer, start: number, end: number): Hex {
  return `0x${buffer.toString('hex', start, end)}`;
}

export function asBoolean(value: unknown): boolean {
  if (typeof value !== 'boolean') typeError(`${shown(value)} is not a boolean`);
  return value;
}

export function asText(value: unknown): string {
  if (typeof value !== 'string') typeError(`${shown(value)} is not a string`);
  if (!value.isWellFormed()) rangeError('the string holds a lone surrogate');
  return value;
}

/** How many bytes a 0x string says; their digits are checked when they are written. */
export function hexSize(value: unknown, size?: number): number {
  if (typeof value !== 'string' || !value.startsWith('0x') || value.length % 2 !== 0) notHex(value);
  const bytes = value.length / 2 - 1;
  if (size !== undefined && bytes !== size) rangeError(`${shown(value)} has ${bytes} bytes, not ${size}`);
  return bytes;
}

/** Writes a 0x string whose size `hexSize` told. */
export function writeHex(buffer: Buffer, at: number, value: unknown): void {
  const text = value as string;
  if (buffer.write(text.slice(2), at, 'hex') !== text.length / 2 - 1) notHex(value);
}

export function asArray(value: unknown, length?: number): readonly unknown[] {
  if (!Array.isArray(value)) typeError(`${shown(value)} is not an array`);
  if (length !== undefined && value.length !== length) rangeError(`the array has ${value.length} items, not ${length}`);
  return value;
}

/** What an error says; a value that is thrown is shown. */
export function reasonOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : shown(thrown);
}

/** A value as a message shows it, at most 80 characters. */
export function shown(value: unknown): string {
  if (value === null || value === undefined || typeof value === 'number' || typeof value === 'boolean') return String(value);
  if (typeof value === 'bigint') return value < 2n ** 256n && value > -(2n ** 256n) ? `${value}n` : 'an integer of more than 256 bits';
  if (typeof value === 'string') return JSON.stringify(value.length > 72 ? `${value.slice(0, 69)}...` : value);
  return Array.isArray(value) ? `an array of ${value.length}` : `a value of type ${typeof value}`;
}

function writeParts(buffer: Buffer, at: number, { size, unsigned }: { readonly size: number; readonly unsigned: bigint }): void {
  let rest = unsigned;
  let end = size;
  for (; end >= 8; end -= 8) {
    buffer.writeBigUInt64BE(rest & 0xffff_ffff_ffff_ffffn, at + end - 8);
    rest >>= 64n;
  }
  for (; end > 0; end -= 1) {
    buffer[at + end - 1] = Number(rest & 0xffn);
    rest >>= 8n;
  }
}

function notHex(value: unknown): never {
  typeError(`${shown(value)} is not a 0x string of whole bytes`);
}

function outOfRange(type: IntegerType, value: unknown): never {
  rangeError(`${shown(value)} is not an integer from ${type.min} to ${type.max} (${type.kind}${type.bits})`);
}
