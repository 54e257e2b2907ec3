/**
 * Zips that depend on nothing but what is in them: names sorted, the oldest date, modes kept, no extra fields. The same files give the same
 * bytes on any machine, in any time zone, with any version of node.
 */

import { createHash } from 'node:crypto';
import { RunnerError } from '../errors.ts';

export interface PackedFile {
  readonly data: Uint8Array;
  /** Of the permissions: 0o644, or 0o755 for what is to be executed. */
  readonly mode: number;
}

/** By name: relative, with slashes. */
export type PackedFiles = Readonly<Record<string, PackedFile>>;

const UNIX = 3;
const REGULAR_FILE = 0o100_000;
const PERMISSIONS = 0o777;

export const textFile = (text: string, mode = 0o644): PackedFile => ({ data: Buffer.from(text), mode });

export const jsonFile = (value: unknown): PackedFile => textFile(`${JSON.stringify(value, null, 2)}\n`);

export async function packFiles(files: PackedFiles): Promise<Uint8Array> {
  const { zipSync } = await import('fflate');
  // The oldest date that the format knows; it stores local time.
  const mtime = new Date(1980, 0, 1);
  const sorted = Object.entries(files).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return zipSync(
    Object.fromEntries(
      sorted.map(([name, { data, mode }]) => [name, [data, { mtime, level: 9, os: UNIX, attrs: (REGULAR_FILE | mode) << 16 }]]),
    ),
  );
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

const END_SIGNATURE = 0x0605_4b50;
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
