/**
 * Bytes as JSON arrays of numbers, `{"args":[1,2]}`, without building the array: one pass over the bytes in either direction.
 * Source of the format: FaasPayload and FaasResponse of the Tangle blueprint SDK.
 */

import { bufferOver } from './scalar.ts';

/** What a flat JSON object says: byte arrays, integers (as text, exact), strings, booleans, null. */
export type FlatJson = Readonly<Record<string, Uint8Array | IntegerText | string | boolean | null>>;

export class IntegerText {
  readonly digits: string;

  constructor(digits: string) {
    this.digits = digits;
  }
}

/** For each byte its decimal digits and a comma, as one little-endian word of four characters. */
const WORDS = new Uint32Array(256);
/** How many of the four characters count. */
const WIDTHS = new Uint8Array(256);
for (let byte = 0; byte < 256; byte += 1) {
  const text = Buffer.from(`${byte},`.padEnd(4, ' '), 'latin1');
  WORDS[byte] = text.readUInt32LE(0);
  WIDTHS[byte] = byte < 10 ? 2 : byte < 100 ? 3 : 4;
}

const BRACKETS = 2;
/** `JSON.parse` is faster with long ones. */
const STRING_BYTES_MAX = 256;
const QUOTE = 0x22;
const COMMA = 0x2c;
const COLON = 0x3a;
const BACKSLASH = 0x5c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** `before`, the bytes as a JSON array, `after`. The texts are ASCII. */
export function encodeBytesJson(before: string, bytes: Uint8Array, after: string): Buffer {
  const out = Buffer.allocUnsafe(before.length + bytes.length * 4 + BRACKETS + after.length);
  const view = new DataView(out.buffer, out.byteOffset, out.byteLength);
  let at = out.write(before, 0, 'latin1');
  out[at] = OPEN_ARRAY;
  at += 1;
  // Each step writes four characters and keeps two to four of them; the next step overwrites the rest.
  for (let index = 0; index < bytes.length; index += 1) {
    const byte = bytes[index] as number;
    view.setUint32(at, WORDS[byte] as number, true);
    at += WIDTHS[byte] as number;
  }
  if (bytes.length > 0) at -= 1;
  out[at] = CLOSE_ARRAY;
  at += 1;
  at += out.write(after, at, 'latin1');
  return out.subarray(0, at);
}

/**
 * Reads an object whose values are scalars and arrays of bytes, in any order and with any white space. Undefined for everything
 * else, be it other JSON (nested values, escapes, fractions) or no JSON at all: then `JSON.parse` decides.
 */
export function scanFlatJson(body: Uint8Array): FlatJson | undefined {
  return new Scanner(bufferOver(body)).object();
}

class Scanner {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  object(): FlatJson | undefined {
    const fields = Object.create(null) as Record<string, Uint8Array | IntegerText | string | boolean | null>;
    if (!this.#take(OPEN_OBJECT)) return undefined;
    if (!this.#take(CLOSE_OBJECT)) {
      do {
        const name = this.#string();
        if (name === undefined || !this.#take(COLON)) return undefined;
        const value = this.#value();
        if (value === undefined) return undefined;
        fields[name] = value;
      } while (this.#take(COMMA));
      if (!this.#take(CLOSE_OBJECT)) return undefined;
    }
    this.#blanks();
    return this.#at === this.#buffer.length ? fields : undefined;
  }

  #value(): Uint8Array | IntegerText | string | boolean | null | undefined {
    this.#blanks();
    const first = this.#buffer[this.#at];
    if (first === OPEN_ARRAY) return this.#bytes();
    if (first === QUOTE) return this.#string();
    if (this.#word('true')) return true;
    if (this.#word('false')) return false;
    if (this.#word('null')) return null;
    return this.#integer();
  }

  /** From `[` to `]`; only plain integers from 0 to 255. */
  #bytes(): Uint8Array | undefined {
    const buffer = this.#buffer;
    this.#at += 1;
    if (this.#take(CLOSE_ARRAY)) return new Uint8Array();
    const closing = buffer.indexOf(CLOSE_ARRAY, this.#at);
    if (closing < 0) return undefined;
    const out = Buffer.allocUnsafe(((closing - this.#at) >> 1) + 1);
    let count = 0;
    let at = this.#at;
    for (;;) {
      let code = buffer[at] as number;
      while (isBlank(code)) code = buffer[(at += 1)] as number;
      let value = code - 48;
      if (value < 0 || value > 9) return undefined;
      code = buffer[(at += 1)] as number;
      if (code >= 48 && code <= 57) {
        if (value === 0) return undefined;
        value = value * 10 + code - 48;
        code = buffer[(at += 1)] as number;
        if (code >= 48 && code <= 57) {
          value = value * 10 + code - 48;
          code = buffer[(at += 1)] as number;
        }
      }
      while (isBlank(code)) code = buffer[(at += 1)] as number;
      if (value > 255) return undefined;
      out[count] = value;
      count += 1;
      at += 1;
      if (code === COMMA) continue;
      if (code !== CLOSE_ARRAY) return undefined;
      this.#at = at;
      return out.subarray(0, count);
    }
  }

  #integer(): IntegerText | undefined {
    const start = this.#at;
    while (isDigit(this.#buffer[this.#at])) this.#at += 1;
    const digits = this.#buffer.toString('latin1', start, this.#at);
    return digits === '' || digits.length > 78 || (digits.length > 1 && digits.startsWith('0')) ? undefined : new IntegerText(digits);
  }

  /** A short string without escapes and control characters. */
  #string(): string | undefined {
    if (!this.#take(QUOTE)) return undefined;
    const start = this.#at;
    for (;;) {
      const code = this.#buffer[this.#at];
      if (code === undefined || code === BACKSLASH || code < 0x20 || this.#at - start > STRING_BYTES_MAX) return undefined;
      this.#at += 1;
      if (code === QUOTE) return this.#buffer.toString('utf8', start, this.#at - 1);
    }
  }

  #word(word: string): boolean {
    const end = this.#at + word.length;
    if (this.#buffer[this.#at] !== word.charCodeAt(0) || this.#buffer.toString('latin1', this.#at, end) !== word) return false;
    this.#at = end;
    return true;
  }

  #take(code: number): boolean {
    this.#blanks();
    if (this.#buffer[this.#at] !== code) return false;
    this.#at += 1;
    return true;
  }

  #blanks(): void {
    while (isBlank(this.#buffer[this.#at])) this.#at += 1;
  }
}

function isBlank(code: number | undefined): boolean {
  return code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09;
}

function isDigit(code: number | undefined): boolean {
  return code !== undefined && code >= 48 && code <= 57;
}
