/** What a module is before it is compiled: its sections, of which the memory and the tables are given limits. */

import { RunnerError } from '../../src/plugin.ts';
import { WASI_FUNCTIONS } from './wasi-functions.ts';

const MAGIC = 0x6d73_6100;
const CORE_VERSION = 1;
const HEADER_BYTES = 8;
const SECTION = { type: 1, import: 2, table: 4, memory: 5, export: 7, elements: 9 } as const;
const FUNCTION_TYPE = 0x60;
/** Of a reference to a type that follows. */
const TYPED_REFERENCES = [0x63, 0x64];
const TABLE_WITH_VALUE = 0x40;
const HAS_MAX = 1;
const PAGE_BYTES = 65_536;
const PAGES_MAX = 65_536;
/** Of all tables of a module together; one takes 8 bytes and more, outside of the memory. */
const TABLE_ENTRIES_MAX = 1_000_000;
/** Of what tables are filled with: an entry takes a byte here, and 8 in the heap of the thread, where too many at once end the process. */
const ELEMENT_BYTES_MAX = 1_000_000;
/** The process lists both; it does nothing else meanwhile. */
const IMPORTS_MAX = 1_000;
const EXPORTS_MAX = 100_000;
const WASI = 'wasi_snapshot_preview1';
const NAMES_SHOWN_MAX = 8;

function invalid(name: string, what: string): RunnerError {
  return new RunnerError('PACKAGE_INVALID', `${name} ${what}`, { details: { file: name } });
}

/** Reads what WebAssembly encodes (https://webassembly.github.io/spec/core/binary/). */
class Reader {
  at: number;
  readonly #bytes: Uint8Array;
  readonly #end: number;
  readonly #name: string;

  constructor(bytes: Uint8Array, name: string, { at, end }: { readonly at: number; readonly end: number }) {
    this.#bytes = bytes;
    this.#name = name;
    this.at = at;
    this.#end = end;
  }

  get isAtEnd(): boolean {
    return this.at >= this.#end;
  }

  byte(): number {
    if (this.at >= this.#end) throw invalid(this.#name, `is truncated: it ends at byte ${this.at}`);
    return this.#bytes[this.at++] as number;
  }

  /** At most 32 bits. */
  unsigned(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) {
        if (value > 0xffff_ffff) break;
        return value;
      }
    }
    throw invalid(this.#name, `has a number at byte ${this.at} that is longer than 32 bits`);
  }

  /** Whatever its sign. */
  skipNumber(): void {
    for (let length = 0; length < 10; length += 1) if (this.byte() < 0x80) return;
    throw invalid(this.#name, `has a number at byte ${this.at} that does not end`);
  }

  skip(bytes: number): void {
    if (this.at + bytes > this.#end)
      throw invalid(this.#name, `is truncated: ${bytes} bytes should follow byte ${this.at}, and there are ${this.#end - this.at}`);
    this.at += bytes;
  }
}

function encoded(value: number): number[] {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return [...bytes, rest];
    bytes.push((rest % 128) + 128);
  }
}

interface Limits {
  readonly min: number;
  readonly max: number | undefined;
}

const encodedLimits = ({ min, max }: Limits): number[] =>
  max === undefined ? [0, ...encoded(min)] : [HAS_MAX, ...encoded(min), ...encoded(max)];

interface Section {
  readonly id: number;
  /** Of its id. */
  readonly from: number;
  readonly bodyFrom: number;
  readonly to: number;
}

function sectionsOf(bytes: Uint8Array, name: string): Section[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 4 || view.getUint32(0, true) !== MAGIC)
    throw invalid(name, 'is not a WebAssembly module: it does not begin with \\0asm');
  if (bytes.length < HEADER_BYTES) throw invalid(name, `is truncated: it has ${bytes.length} bytes`);
  const version = view.getUint32(4, true);
  if (version >>> 16 !== 0) throw invalid(name, 'is a component; what runs here is a module: compile for wasm32-wasip1');
  if (version !== CORE_VERSION) throw invalid(name, `has version ${version} of the format; ${CORE_VERSION} is known`);
  const reader = new Reader(bytes, name, { at: HEADER_BYTES, end: bytes.length });
  const sections: Section[] = [];
  while (!reader.isAtEnd) {
    const from = reader.at;
    const id = reader.byte();
    const size = reader.unsigned();
    const bodyFrom = reader.at;
    reader.skip(size);
    sections.push({ id, from, bodyFrom, to: reader.at });
  }
  return sections;
}

/**
 * The same module with limits: its memory has the maximum that the function has, or less when it says so itself; its tables have one, too.
 * Throws `PACKAGE_INVALID`, and `FUNCTION_OUT_OF_MEMORY` when the module begins with more memory than it may have.
 */
export function withLimits(
  bytes: Uint8Array,
  { name, memoryMb }: { readonly name: string; readonly memoryMb: number },
): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [bytes.subarray(0, HEADER_BYTES)];
  for (const { id, from, bodyFrom, to } of sectionsOf(bytes, name)) {
    const reader = new Reader(bytes, name, { at: bodyFrom, end: to });
    if (id === SECTION.type) checkTypes(reader, name);
    if (id === SECTION.elements && to - bodyFrom > ELEMENT_BYTES_MAX)
      throw invalid(name, `has ${to - bodyFrom} bytes of elements for its tables; it may have ${ELEMENT_BYTES_MAX}`);
    if (id === SECTION.import) checkCount(reader, { name, what: 'imports', countMax: IMPORTS_MAX });
    if (id === SECTION.export) checkCount(reader, { name, what: 'exports', countMax: EXPORTS_MAX });
    if (id === SECTION.memory || id === SECTION.table) {
      const body = id === SECTION.memory ? memorySection(reader, name, memoryMb) : tableSection(reader, name);
      parts.push(Uint8Array.from([id, ...encoded(body.length), ...body]));
    } else {
      parts.push(bytes.subarray(from, to));
    }
  }
  return concatenated(parts);
}

interface Counted {
  readonly name: string;
  readonly what: string;
  readonly countMax: number;
}

function checkCount(reader: Reader, { name, what, countMax }: Counted): void {
  const count = reader.unsigned();
  if (count > countMax) throw invalid(name, `has ${count} ${what}; it may have ${countMax}`);
}

function concatenated(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** Objects of the collector lie in the heap of the thread, where nothing stops one that is too large before it ends the process. */
function checkTypes(reader: Reader, name: string): void {
  const skipValueTypes = (): void => {
    for (let count = reader.unsigned(); count > 0; count -= 1) if (TYPED_REFERENCES.includes(reader.byte())) reader.skipNumber();
  };
  for (let count = reader.unsigned(); count > 0; count -= 1) {
    const form = reader.byte();
    if (form !== FUNCTION_TYPE) throw invalid(name, 'has types of garbage-collected objects, which have no limit of memory here');
    skipValueTypes();
    skipValueTypes();
  }
}

function limitsOf(reader: Reader, name: string): Limits {
  const flags = reader.byte();
  if (flags > HAS_MAX)
    throw invalid(name, 'has a memory or table that is shared, of 64 bits, or of another page size; WASI preview 1 has none of it');
  const min = reader.unsigned();
  return { min, max: flags === HAS_MAX ? reader.unsigned() : undefined };
}

function memorySection(reader: Reader, name: string, memoryMb: number): number[] {
  const count = reader.unsigned();
  if (count !== 1) throw invalid(name, `has ${count} memories; it must have one`);
  const { min, max = PAGES_MAX } = limitsOf(reader, name);
  const pagesMax = Math.min(PAGES_MAX, (memoryMb * 1_048_576) / PAGE_BYTES);
  if (min > pagesMax) {
    const message = `${name} begins with ${Math.ceil(min / 16)} MB of memory, and the function has ${memoryMb} MB`;
    throw new RunnerError('FUNCTION_OUT_OF_MEMORY', message, { retry: 'never', details: { file: name, pages: min, memoryMb } });
  }
  return [1, ...encodedLimits({ min, max: Math.min(max, pagesMax) })];
}

function tableSection(reader: Reader, name: string): number[] {
  const count = reader.unsigned();
  const body = encoded(count);
  let entries = 0;
  for (let index = 0; index < count; index += 1) {
    const type = reader.byte();
    if (type === TABLE_WITH_VALUE || TYPED_REFERENCES.includes(type))
      throw invalid(name, 'has a table of typed references, which is not known here');
    const { min, max = TABLE_ENTRIES_MAX } = limitsOf(reader, name);
    entries += min;
    if (entries > TABLE_ENTRIES_MAX) throw invalid(name, `has tables of more than ${TABLE_ENTRIES_MAX} entries`);
    const share = Math.max(min, Math.floor(TABLE_ENTRIES_MAX / count));
    body.push(type, ...encodedLimits({ min, max: Math.min(max, share) }));
  }
  return body;
}

/** Throws `PACKAGE_INVALID` when it asks for more than WASI preview 1, or is neither a command nor a reactor with `alloc` and `handle`. */
export function checkInterface(module: WebAssembly.Module, name: string): void {
  const foreign = WebAssembly.Module.imports(module).flatMap((one) => {
    const isKnown = one.module === WASI && one.kind === 'function' && WASI_FUNCTIONS.includes(one.name);
    return isKnown ? [] : [`${one.module}.${one.name}`];
  });
  if (foreign.length > 0) {
    const shown = foreign.slice(0, NAMES_SHOWN_MAX).join(', ');
    const rest = foreign.length > NAMES_SHOWN_MAX ? ` and ${foreign.length - NAMES_SHOWN_MAX} more` : '';
    const message = `${name} imports ${shown}${rest}; there is only what ${WASI} has`;
    throw new RunnerError('PACKAGE_INVALID', message, { details: { file: name, imports: foreign.slice(0, 100) } });
  }
  const kinds = new Map(WebAssembly.Module.exports(module).map((one) => [one.name, one.kind]));
  if (kinds.get('memory') !== 'memory') throw invalid(name, 'exports no memory');
  const isReactor = kinds.get('alloc') === 'function' && kinds.get('handle') === 'function';
  if (kinds.get('_start') !== 'function' && !isReactor)
    throw invalid(name, 'exports neither _start, as commands of WASI do, nor alloc and handle');
}
