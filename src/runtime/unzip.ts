/**
 * Zip archives from strangers: read, checked as a whole, then unpacked into a folder, or refused with `PACKAGE_INVALID`.
 * The format is https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (sections in brackets below).
 *
 * Nothing is written before every name, size and link of the archive has been checked; nothing is ever written outside of the folder.
 */

import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { chmod, mkdir, open, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { crc32, inflateRaw, inflateRawSync } from 'node:zlib';
import { isRunnerError } from '../errors.ts';
import { mapLimited } from '../map-limited.ts';
import { resolveLinks } from './unzip-links.ts';
import { cleanName, decodeName, invalid } from './unzip-names.ts';

export interface ZipLimits {
  /** Bytes of all files together, unpacked. */
  readonly unpackedBytesMax: number;
  readonly entriesMax: number;
  /** Unpacked bytes for each packed one, over the whole archive; archives below 1 MiB unpacked may have any. */
  readonly ratioMax: number;
}

export const ZIP_LIMITS: ZipLimits = { unpackedBytesMax: 262_144_000, entriesMax: 50_000, ratioMax: 200 };

export interface ZipEntry {
  /** Relative, with `/`, without `.` and `..`. */
  readonly name: string;
  readonly kind: 'file' | 'folder' | 'link';
  readonly executable: boolean;
  readonly unpackedBytes: number;
  /** Of a link: where it points, as written. */
  readonly target?: string;
  readonly crc: number;
  readonly deflated: boolean;
  /** The packed bytes: a view of the archive. */
  readonly data: Uint8Array;
}

export interface UnpackOptions extends ZipLimits {
  /** Nothing in the folder can be written afterwards, the folder itself can. */
  readonly readOnly?: boolean;
}

export interface Unpacked {
  readonly files: number;
  readonly unpackedBytes: number;
}

const inflateRawAsync = promisify(inflateRaw);

const END = { signature: 0x06054b50, bytes: 22, commentMax: 0xffff } as const;
const CENTRAL = { signature: 0x02014b50, bytes: 46 } as const;
const LOCAL = { signature: 0x04034b50, bytes: 30 } as const;
const ZIP64_16 = 0xffff;
const ZIP64_32 = 0xffffffff;
const FLAG = { encrypted: 0x0001, descriptor: 0x0008, patch: 0x0020, strong: 0x0040, masked: 0x2000 } as const;
const METHOD = { stored: 0, deflated: 8 } as const;
/** Systems whose entries carry Unix modes [4.4.2.2]. */
const UNIX_HOSTS = new Set([3, 19]);
const MODE = { type: 0o170000, file: 0o100000, folder: 0o040000, link: 0o120000, executable: 0o111 } as const;
const LINK_BYTES_MAX = 4_096;
const RATIO_FROM_BYTES = 1024 * 1024;
/** Files written at the same time. */
const WRITERS = 16;
/** So little is inflated at once: the way to another thread and back would take longer. */
const SMALL_BYTES = 64 * 1024;
const READ_ONLY = 0o555;

/**
 * The entries of an archive, all checked against each other; contents are checked when they are unpacked. Throws `PACKAGE_INVALID`
 * with the entry and the limit in its details.
 */
export function readZip(zip: Uint8Array, limits: ZipLimits = ZIP_LIMITS): ZipEntry[] {
  const bytes = Buffer.from(zip.buffer, zip.byteOffset, zip.byteLength);
  const end = findEnd(bytes);
  if (end.entries > limits.entriesMax) {
    throw invalid(`it has ${end.entries} entries; the limit is ${limits.entriesMax}`, { entries: end.entries, limit: limits.entriesMax });
  }
  const raw: RawEntry[] = [];
  let offset = end.offset;
  for (let index = 0; index < end.entries; index++) {
    const entry = readCentral(bytes, offset, end.at);
    offset = entry.next;
    raw.push(entry);
  }
  if (offset !== end.at) throw invalid('its directory is longer than it says');
  checkRanges(bytes, raw, end.offset);
  checkSizes(raw, limits);
  const entries = raw.map((entry) => toEntry(bytes, entry));
  checkTree(entries);
  return entries;
}

/**
 * Unpacks into `folder`, which must be empty and nobody else's; on failure it holds a part, is not written to any more, and is the
 * caller's to remove. The disk may not have it yet when it resolves. Throws `PACKAGE_INVALID`.
 */
export async function unpackZip(zip: Uint8Array, folder: string, options: UnpackOptions = ZIP_LIMITS): Promise<Unpacked> {
  const { files, folders, links } = sorted(readZip(zip, options));
  for (const name of folders) await mkdir(join(folder, name), { recursive: true });
  await mapLimited(files, WRITERS, async (entry) => writeEntry(join(folder, entry.name), entry, options.readOnly));
  // Last, so that nothing was ever written through one.
  for (const { name, target } of links) await symlink(target ?? '', join(folder, name)).catch(clash(name));
  if (options.readOnly) for (const name of folders.toReversed()) if (name !== '.') await chmod(join(folder, name), READ_ONLY);
  return { files: files.length, unpackedBytes: files.reduce((sum, { unpackedBytes }) => sum + unpackedBytes, 0) };
}

/** The same read-only tree, of a package that was unpacked before. */
export function unpackZipSync(zip: Uint8Array, folder: string, limits: ZipLimits): void {
  const { files, folders, links } = sorted(readZip(zip, limits));
  for (const name of folders) mkdirSync(join(folder, name), { recursive: true });
  for (const entry of files) {
    const path = join(folder, entry.name);
    writeFileSync(path, contentOf(entry), { flag: 'wx' });
    chmodSync(path, modeOf(entry, true));
  }
  for (const { name, target } of links) symlinkSync(target ?? '', join(folder, name));
  for (const name of folders.toReversed()) if (name !== '.') chmodSync(join(folder, name), READ_ONLY);
}

interface SortedEntries {
  readonly files: readonly ZipEntry[];
  /** Parents first. */
  readonly folders: readonly string[];
  readonly links: readonly ZipEntry[];
}

function sorted(entries: readonly ZipEntry[]): SortedEntries {
  const folders = new Set(['.']);
  for (const { name, kind } of entries)
    for (let at = kind === 'folder' ? name : dirname(name); !folders.has(at) && at !== ''; at = dirname(at)) folders.add(at);
  return {
    files: entries.filter(({ kind }) => kind === 'file'),
    folders: [...folders].toSorted(),
    links: entries.filter(({ kind }) => kind === 'link'),
  };
}

async function writeEntry(path: string, entry: ZipEntry, readOnly = false): Promise<void> {
  const content = entry.unpackedBytes > SMALL_BYTES && entry.deflated ? await inflate(entry) : contentOf(entry);
  const file = await open(path, 'wx').catch(clash(entry.name));
  try {
    await file.chmod(modeOf(entry, readOnly));
    await file.writeFile(content);
  } finally {
    await file.close();
  }
}

function modeOf({ executable }: ZipEntry, readOnly: boolean): number {
  const mode = executable ? 0o755 : 0o644;
  return readOnly ? mode & READ_ONLY : mode;
}

/** Has the disk hold the names in a folder, or the content of a file. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** On a disk that does not tell `A` from `a`, the second of them. */
function clash(name: string): (thrown: unknown) => never {
  return (thrown) => {
    const exists = thrown instanceof Error && 'code' in thrown && thrown.code === 'EEXIST';
    if (exists) throw invalid('two of its entries have one name on this disk', { entry: name });
    throw thrown;
  };
}

async function inflate(entry: ZipEntry): Promise<Uint8Array> {
  try {
    return checked(entry, await inflateRawAsync(entry.data, inflateOptions(entry)));
  } catch (thrown) {
    throw damaged(entry, thrown);
  }
}

function contentOf(entry: ZipEntry): Uint8Array {
  try {
    return checked(entry, entry.deflated ? inflateRawSync(entry.data, inflateOptions(entry)) : entry.data);
  } catch (thrown) {
    throw damaged(entry, thrown);
  }
}

/** What is longer than it says is caught, and never inflated as a whole. Zero is no limit to zlib. */
function inflateOptions({ unpackedBytes }: { readonly unpackedBytes: number }): { maxOutputLength: number } {
  return { maxOutputLength: Math.max(1, unpackedBytes) };
}

function damaged({ name }: { readonly name: string }, cause: unknown): unknown {
  if (isRunnerError(cause)) return cause;
  const bomb = cause instanceof Error && 'code' in cause && cause.code === 'ERR_BUFFER_TOO_LARGE';
  return invalid(bomb ? 'an entry is larger than it says' : 'an entry is damaged', { entry: name }, cause);
}

function checked(entry: ZipEntry, content: Uint8Array): Uint8Array {
  if (content.length !== entry.unpackedBytes) {
    throw invalid(`an entry has ${content.length} bytes and says ${entry.unpackedBytes}`, { entry: entry.name });
  }
  if (crc32(content) !== entry.crc) throw invalid('the checksum of an entry is wrong', { entry: entry.name });
  return content;
}

interface End {
  /** Where the record lies. */
  readonly at: number;
  /** Where the directory begins. */
  readonly offset: number;
  readonly entries: number;
}

/** The end record [4.3.16]: the last one whose comment reaches exactly to the end of the file. */
function findEnd(bytes: Buffer): End {
  for (let at = bytes.length - END.bytes; at >= Math.max(0, bytes.length - END.bytes - END.commentMax); at--) {
    if (bytes.readUInt32LE(at) !== END.signature || at + END.bytes + bytes.readUInt16LE(at + 20) !== bytes.length) continue;
    const [disk, directoryDisk, onDisk, entries] = [4, 6, 8, 10].map((field) => bytes.readUInt16LE(at + field)) as [
      number,
      number,
      number,
      number,
    ];
    const size = bytes.readUInt32LE(at + 12);
    const offset = bytes.readUInt32LE(at + 16);
    if (entries === ZIP64_16 || size === ZIP64_32 || offset === ZIP64_32) throw invalid('zip64 archives are not taken');
    if (disk !== 0 || directoryDisk !== 0 || onDisk !== entries) throw invalid('it has several parts');
    if (offset + size !== at) throw invalid('its directory is not where it says; bytes are missing or were added');
    return { at, offset, entries };
  }
  throw invalid('it is not a zip, or is cut off');
}

interface RawEntry {
  readonly name: string;
  readonly mode: number;
  readonly method: number;
  readonly flags: number;
  readonly crc: number;
  readonly packedBytes: number;
  readonly unpackedBytes: number;
  readonly local: number;
  readonly next: number;
}

/** One header of the directory [4.3.12]. */
function readCentral(bytes: Buffer, at: number, end: number): RawEntry {
  if (at + CENTRAL.bytes > end || bytes.readUInt32LE(at) !== CENTRAL.signature) throw invalid('its directory is damaged');
  const nameEnd = at + CENTRAL.bytes + bytes.readUInt16LE(at + 28);
  const next = nameEnd + bytes.readUInt16LE(at + 30) + bytes.readUInt16LE(at + 32);
  if (next > end) throw invalid('its directory is damaged');
  const name = decodeName(bytes.subarray(at + CENTRAL.bytes, nameEnd));
  const unix = UNIX_HOSTS.has(bytes.readUInt8(at + 5));
  const entry: RawEntry = {
    name,
    mode: unix ? bytes.readUInt16LE(at + 40) : 0,
    flags: bytes.readUInt16LE(at + 8),
    method: bytes.readUInt16LE(at + 10),
    crc: bytes.readUInt32LE(at + 16),
    packedBytes: bytes.readUInt32LE(at + 20),
    unpackedBytes: bytes.readUInt32LE(at + 24),
    local: bytes.readUInt32LE(at + 42),
    next,
  };
  if ([entry.packedBytes, entry.unpackedBytes, entry.local].includes(ZIP64_32))
    throw invalid('zip64 entries are not taken', { entry: name });
  if (entry.flags & (FLAG.encrypted | FLAG.strong | FLAG.masked)) throw invalid('an entry is encrypted', { entry: name });
  if (entry.flags & FLAG.patch) throw invalid('an entry is a patch', { entry: name });
  if (entry.method !== METHOD.stored && entry.method !== METHOD.deflated) {
    throw invalid(`an entry is packed with method ${entry.method}; only stored and deflated are taken`, {
      entry: name,
      method: entry.method,
    });
  }
  if (entry.method === METHOD.stored && entry.packedBytes !== entry.unpackedBytes)
    throw invalid('the sizes of a stored entry differ', { entry: name });
  return entry;
}

/** Local headers [4.3.7] lie one after another before the directory: two that share bytes are how a small archive unpacks to a huge one. */
function checkRanges(bytes: Buffer, entries: readonly RawEntry[], directory: number): void {
  let free = 0;
  for (const entry of entries.toSorted((left, right) => left.local - right.local)) {
    const { name, local, packedBytes } = entry;
    if (local < free) throw invalid('entries share bytes', { entry: name });
    const start = dataStart(bytes, entry, directory);
    free = start + packedBytes;
    if (free > directory) throw invalid('an entry is cut off', { entry: name });
  }
}

/** Where the packed bytes begin. */
function dataStart(bytes: Buffer, { name, local, method, flags, packedBytes, unpackedBytes, crc }: RawEntry, directory: number): number {
  if (local + LOCAL.bytes > directory || bytes.readUInt32LE(local) !== LOCAL.signature)
    throw invalid('an entry has no header', { entry: name });
  const nameEnd = local + LOCAL.bytes + bytes.readUInt16LE(local + 26);
  const start = nameEnd + bytes.readUInt16LE(local + 28);
  if (start > directory) throw invalid('an entry is cut off', { entry: name });
  const sizesLater = (bytes.readUInt16LE(local + 6) & FLAG.descriptor) !== 0;
  const sizes =
    sizesLater ||
    (bytes.readUInt32LE(local + 14) === crc &&
      [packedBytes, ZIP64_32].includes(bytes.readUInt32LE(local + 18)) &&
      [unpackedBytes, ZIP64_32].includes(bytes.readUInt32LE(local + 22)));
  const same =
    sizes &&
    bytes.toString('utf8', local + LOCAL.bytes, nameEnd) === name &&
    bytes.readUInt16LE(local + 8) === method &&
    (bytes.readUInt16LE(local + 6) & FLAG.encrypted) === (flags & FLAG.encrypted);
  if (!same) throw invalid('the header of an entry differs from the directory', { entry: name });
  return start;
}

function checkSizes(entries: readonly RawEntry[], { unpackedBytesMax, ratioMax }: ZipLimits): void {
  let unpacked = 0;
  let packed = 0;
  for (const entry of entries) {
    unpacked += entry.unpackedBytes;
    packed += entry.packedBytes;
    if (unpacked > unpackedBytesMax) {
      throw invalid(`it unpacks to more than ${unpackedBytesMax} bytes`, { entry: entry.name, limit: unpackedBytesMax });
    }
  }
  if (unpacked > RATIO_FROM_BYTES && unpacked > packed * ratioMax) {
    throw invalid(`it unpacks to more than ${ratioMax} times its size`, { unpackedBytes: unpacked, packedBytes: packed, limit: ratioMax });
  }
}

function toEntry(bytes: Buffer, raw: RawEntry): ZipEntry {
  const nameBytes = bytes.readUInt16LE(raw.local + 26);
  const start = raw.local + LOCAL.bytes + nameBytes + bytes.readUInt16LE(raw.local + 28);
  const kind = kindOf(raw);
  if (kind === 'folder' && raw.unpackedBytes > 0) throw invalid('a folder has content', { entry: raw.name });
  const entry: ZipEntry = {
    name: cleanName(raw.name),
    kind,
    executable: (raw.mode & MODE.executable) !== 0,
    unpackedBytes: raw.unpackedBytes,
    crc: raw.crc,
    deflated: raw.method === METHOD.deflated,
    data: bytes.subarray(start, start + raw.packedBytes),
  };
  return kind === 'link' ? { ...entry, target: readTarget(entry) } : entry;
}

function kindOf({ name, mode }: RawEntry): ZipEntry['kind'] {
  const type = mode & MODE.type;
  const folderName = name.endsWith('/');
  if (type === MODE.folder || (type === 0 && folderName)) return 'folder';
  if (type === MODE.link && !folderName) return 'link';
  if ((type === MODE.file || type === 0) && !folderName) return 'file';
  throw invalid('an entry is neither file, folder nor link', { entry: name });
}

function readTarget(entry: ZipEntry): string {
  if (entry.unpackedBytes > LINK_BYTES_MAX) throw invalid('the target of a link is too long', { entry: entry.name, limit: LINK_BYTES_MAX });
  const content = contentOf(entry);
  const target = Buffer.from(content).toString('utf8');
  if (target === '' || target.includes('\0') || target.includes('\ufffd'))
    throw invalid('the target of a link is not a path', { entry: entry.name });
  return target;
}

/** No name twice, nothing beneath a file or a link, and no link that leads out. */
function checkTree(entries: readonly ZipEntry[]): void {
  const kinds = new Map<string, ZipEntry['kind']>();
  for (const { name, kind } of entries) {
    if (kinds.has(name) && !(kind === 'folder' && kinds.get(name) === 'folder')) throw invalid('a name occurs twice', { entry: name });
    kinds.set(name, kind);
  }
  for (const { name } of entries) {
    for (let parent = dirname(name); parent !== '.'; parent = dirname(parent)) {
      const kind = kinds.get(parent);
      if (kind !== undefined && kind !== 'folder') throw invalid(`an entry lies beneath the ${kind} ${parent}`, { entry: name });
    }
  }
  const links = new Map(entries.flatMap(({ name, target }) => (target === undefined ? [] : [[name, target] as const])));
  const problem = resolveLinks(links);
  if (problem) throw invalid(problem.what, { entry: problem.name });
}
