/**
 * Zips that depend on nothing but what is in them: names sorted, the oldest date, modes kept, no extra fields. The same files give the same
 * bytes on any machine, in any time zone, with any version of node.
 */

import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { RunnerError } from '../errors.ts';

export interface PackedFile {
  readonly data: Uint8Array;
  /** Of the permissions: 0o644, or 0o755 for what is to be executed. */
  readonly mode: number;
}

/** By name: relative, with slashes. */
export type PackedFiles = Readonly<Record<string, PackedFile>>;

const FILE_SIGNATURE = 0x0403_4b50;
const ENTRY_SIGNATURE = 0x0201_4b50;
const END_SIGNATURE = 0x0605_4b50;
/** That a reader must know: 2.0. */
const VERSION = 20;
const DEFLATED = 8;
const UTF8_NAME = 1 << 11;
/** 1 January 1980, 00:00, whatever the time zone. */
const OLDEST_DATE = 0x0021_0000;
const UNIX = 3;
const REGULAR_FILE = 0o100_000;
const PERMISSIONS = 0o777;

export const textFile = (text: string, mode = 0o644): PackedFile => ({ data: Buffer.from(text), mode });

export const jsonFile = (value: unknown): PackedFile => textFile(`${JSON.stringify(value, null, 2)}\n`);

/** A file as a zip holds it. */
interface CompressedFile {
  readonly mode: number;
  readonly deflated: Uint8Array;
  /** Before compression. */
  readonly size: number;
  readonly crc32: number;
}

type CompressedFiles = Readonly<Record<string, CompressedFile>>;

/** All that takes time of a zip. The compressor is always the same one: that of node differs from version to version. */
export async function compressAll(files: PackedFiles): Promise<CompressedFiles> {
  const { deflateSync } = await import('fflate');
  const entries = Object.entries(files).map(([name, { data, mode }]) => {
    return [name, { mode, deflated: deflateSync(data, { level: 9 }), size: data.length, crc32: crc32(data) }] as const;
  });
  return Object.fromEntries(entries);
}

/** With files that were compressed before. */
export async function packFiles(files: PackedFiles, ahead: CompressedFiles = {}): Promise<Uint8Array> {
  return zipOf({ ...ahead, ...(await compressAll(files)) });
}

/** Whole files below 4 GiB, without data descriptors: PKWARE APPNOTE 6.3, 4.3.7 (before each file), 4.3.12 (directory), 4.3.16 (end). */
function zipOf(files: CompressedFiles): Uint8Array {
  const parts: Uint8Array[] = [];
  const directory: Uint8Array[] = [];
  let offset = 0;
  for (const [text, file] of Object.entries(files).toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const name = Buffer.from(text);
    const header = headerOf(file, { length: name.length, isAscii: name.length === text.length });
    parts.push(fields([[4, FILE_SIGNATURE]]), header, name, file.deflated);
    const place = fields([
      [2, 0], // comment
      [2, 0], // disk
      [2, 0],
      [4, ((REGULAR_FILE | file.mode) << 16) >>> 0],
      [4, offset],
    ]);
    directory.push(fields([[4, ENTRY_SIGNATURE], [1, VERSION], [1, UNIX]]), header, place, name); // prettier-ignore
    offset += 4 + header.length + name.length + file.deflated.length;
  }
  const entries = Buffer.concat(directory);
  const count = directory.length / 4;
  const end = fields([
    [4, END_SIGNATURE],
    [4, 0],
    [2, count],
    [2, count],
    [4, entries.length],
    [4, offset],
    [2, 0],
  ]);
  return Buffer.concat([...parts, entries, end]);
}

function headerOf({ deflated, size, crc32 }: CompressedFile, name: { readonly length: number; readonly isAscii: boolean }): Uint8Array {
  return fields([
    [2, VERSION],
    [2, name.isAscii ? 0 : UTF8_NAME],
    [2, DEFLATED],
    [4, OLDEST_DATE],
    [4, crc32],
    [4, deflated.length],
    [4, size],
    [2, name.length],
    [2, 0],
  ]);
}

/** Numbers of so many bytes, the lowest first. */
function fields(values: readonly (readonly [bytes: number, value: number])[]): Uint8Array {
  const buffer = Buffer.alloc(values.reduce((sum, [bytes]) => sum + bytes, 0));
  let at = 0;
  for (const [bytes, value] of values) at = buffer.writeUIntLE(value, at, bytes);
  return buffer;
}

/** What `packFiles` packed. Throws `PACKAGE_INVALID`. */
export async function unpackFiles(zip: Uint8Array): Promise<PackedFiles> {
  const { unzipSync } = await import('fflate');
  try {
    const modes = modesOf(zip);
    return Object.fromEntries(Object.entries(unzipSync(zip)).map(([name, data]) => [name, { data, mode: modes.get(name) ?? 0o644 }]));
  } catch (cause) {
    throw new RunnerError('PACKAGE_INVALID', `the package is not a zip: ${cause instanceof Error ? cause.message : String(cause)}`, {
      cause,
    });
  }
}

/** Hex. */
export const sha256Of = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');

const ENTRY_BYTES = 46;

/** The permissions by name, from the directory at the end of a zip. */
function modesOf(zip: Uint8Array): ReadonlyMap<string, number> {
  const buffer = Buffer.from(zip.buffer, zip.byteOffset, zip.byteLength);
  let end = buffer.length - 22;
  while (buffer.readUInt32LE(end) !== END_SIGNATURE) end -= 1;
  const modes = new Map<string, number>();
  let at = buffer.readUInt32LE(end + 16);
  for (let count = buffer.readUInt16LE(end + 10); count > 0; count -= 1) {
    const nameEnd = at + ENTRY_BYTES + buffer.readUInt16LE(at + 28);
    modes.set(buffer.toString('utf8', at + ENTRY_BYTES, nameEnd), (buffer.readUInt32LE(at + 38) >>> 16) & PERMISSIONS || 0o644);
    at = nameEnd + buffer.readUInt16LE(at + 30) + buffer.readUInt16LE(at + 32);
  }
  return modes;
}
