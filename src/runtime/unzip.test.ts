import { mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32, deflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { zipSync } from 'fflate';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isRunnerError } from '../errors.ts';
import type { ZipLimits } from './unzip.ts';
import { ZIP_LIMITS, readZip, unpackZip } from './unzip.ts';

interface Member {
  readonly name: string;
  readonly content?: string | Uint8Array;
  readonly mode?: number;
  readonly host?: number;
  readonly stored?: boolean;
  readonly flags?: number;
  readonly method?: number;
  readonly crc?: number;
  readonly unpackedBytes?: number;
  /** Written in the header before the data instead of `name`. */
  readonly localName?: string;
  /** Points at the header of this earlier member instead of its own. */
  readonly sharesWith?: number;
}

/** A zip, byte by byte as told: also the ones that no archiver writes. */
function zipOf(
  members: readonly Member[],
  end: { readonly entries?: number; readonly comment?: string; readonly disk?: number } = {},
): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  const offsets: number[] = [];
  let offset = 0;
  for (const member of members) {
    const content = Buffer.from(member.content ?? '');
    const data = member.stored ? content : deflateRawSync(content);
    const crc = member.crc ?? crc32(content);
    const size = member.unpackedBytes ?? content.length;
    const method = member.method ?? (member.stored ? 0 : 8);
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(member.flags ?? 0, 6);
    local.writeUInt16LE(method, 8);
    local.writeUInt32LE(crc, 14);
    local.writeUInt32LE(data.length, 18);
    local.writeUInt32LE(size, 22);
    local.writeUInt16LE(Buffer.byteLength(member.localName ?? member.name), 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt8(member.host ?? 3, 5);
    central.writeUInt16LE(member.flags ?? 0, 8);
    central.writeUInt16LE(method, 10);
    central.writeUInt32LE(crc, 16);
    central.writeUInt32LE(data.length, 20);
    central.writeUInt32LE(size, 24);
    central.writeUInt16LE(Buffer.byteLength(member.name), 28);
    central.writeUInt32LE(((member.mode ?? 0) << 16) >>> 0, 38);
    central.writeUInt32LE(member.sharesWith === undefined ? offset : (offsets[member.sharesWith] ?? 0), 42);
    offsets.push(offset);
    const written = [local, Buffer.from(member.localName ?? member.name), data];
    parts.push(...written);
    directory.push(central, Buffer.from(member.name));
    offset += Buffer.concat(written).length;
  }
  const central = Buffer.concat(directory);
  const record = Buffer.alloc(22);
  record.writeUInt32LE(0x06054b50, 0);
  record.writeUInt16LE(end.disk ?? 0, 4);
  record.writeUInt16LE(end.entries ?? members.length, 8);
  record.writeUInt16LE(end.entries ?? members.length, 10);
  record.writeUInt32LE(central.length, 12);
  record.writeUInt32LE(offset, 16);
  record.writeUInt16LE(Buffer.byteLength(end.comment ?? ''), 20);
  return Buffer.concat([...parts, central, record, Buffer.from(end.comment ?? '')]);
}

const LINK = 0o120777;
let root: string;
let folder: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bpr-unzip-'));
  folder = join(root, 'a', 'b');
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

function everythingIn(path: string): string[] {
  return readdirSync(path, { recursive: true, encoding: 'utf8' }).toSorted();
}

async function refusal(zip: Uint8Array, limits?: ZipLimits): Promise<{ message: string; details: Readonly<Record<string, unknown>> }> {
  try {
    await unpackZip(zip, folder, limits);
  } catch (thrown) {
    if (!isRunnerError(thrown)) throw thrown;
    expect(thrown.code).toBe('PACKAGE_INVALID');
    return { message: thrown.message, details: thrown.details };
  }
  throw new Error('it was unpacked');
}

describe('unpackZip', () => {
  it('unpacks files, folders and links, with content and the executable bit', async () => {
    const zip = zipOf(
      [
        { name: 'bootstrap', content: '#!/bin/sh\n', mode: 0o100755 },
        { name: 'lib/', mode: 0o040755, stored: true },
        { name: 'lib/a.js', content: 'a'.repeat(10_000), mode: 0o100644 },
        { name: './lib//deep/ü.txt', content: 'stored', stored: true },
        { name: 'lib/empty/', stored: true },
        { name: 'link', content: 'lib/deep', mode: LINK },
        { name: 'setuid', content: '', mode: 0o104755 },
      ],
      { comment: 'a comment' },
    );
    expect(await unpackZip(zip, folder)).toEqual({ files: 4, unpackedBytes: 10 + 10_000 + 6 });
    expect(everythingIn(folder)).toEqual(
      ['bootstrap', 'lib', 'lib/a.js', 'lib/deep', 'lib/deep/ü.txt', 'lib/empty', 'link', 'link/ü.txt', 'setuid'].toSorted(),
    );
    expect(statSync(join(folder, 'bootstrap')).mode & 0o7777).toBe(0o755);
    expect(statSync(join(folder, 'setuid')).mode & 0o7000).toBe(0);
    expect(statSync(join(folder, 'lib/a.js')).mode & 0o111).toBe(0);
    expect(readFileSync(join(folder, 'link/ü.txt'), 'utf8')).toBe('stored');
    expect(readlinkSync(join(folder, 'link'))).toBe('lib/deep');
  });

  it('unpacks an archive of nothing', async () => {
    expect(await unpackZip(zipOf([]), folder)).toEqual({ files: 0, unpackedBytes: 0 });
  });

  it('unpacks what an archiver packed', async () => {
    const files = { 'index.mjs': Buffer.from('export {};\n'), 'a/b/c.bin': Buffer.alloc(70_000, 7) };
    await unpackZip(zipSync(files), folder);
    expect(readFileSync(join(folder, 'index.mjs'))).toEqual(files['index.mjs']);
    expect(readFileSync(join(folder, 'a/b/c.bin'))).toEqual(files['a/b/c.bin']);
  });

  it('ignores modes of systems that have none', async () => {
    await unpackZip(zipOf([{ name: 'a', content: 'x', mode: LINK, host: 0 }]), folder);
    expect(readFileSync(join(folder, 'a'), 'utf8')).toBe('x');
  });

  it.each([
    ['../x'],
    ['a/../../x'],
    ['a/..'],
    ['/etc/x'],
    ['//x'],
    ['C:/x'],
    ['c:x'],
    ['..\\x'],
    ['a\\..\\..\\x'],
    ['a\0b'],
    ['a\nb'],
    ['.'],
    [`a/${'x'.repeat(256)}`],
    [`${'x/'.repeat(600)}x`],
  ])('refuses the name %j and writes nothing', async (name) => {
    const { details } = await refusal(
      zipOf([
        { name: 'first', content: '1' },
        { name, content: 'x' },
      ]),
    );
    if (name.length < 1_000) expect(details['entry']).toBe(name);
    expect(everythingIn(root)).toEqual([]);
  });

  it('refuses a name that is not UTF-8', async () => {
    const zip = zipOf([{ name: 'zzz', content: 'x' }]);
    for (let at = zip.indexOf('zzz'); at !== -1; at = zip.indexOf('zzz')) zip.fill(0xff, at, at + 3);
    expect((await refusal(zip)).message).toContain('not UTF-8');
  });

  it.each([
    ['out of the package', [['link', '..']]],
    ['out of the package', [['a/b/link', '../../../x']]],
    ['absolute', [['link', '/etc/passwd']]],
    ['backslash', [['link', '..\\x']]],
    // Each is inside when read by itself.
    ['out of the package', [['a/b/up', '../..'], ['a/b/x', 'up/..']]], // prettier-ignore
    ['out of the package', [['a/b/up', '../..'], ['a/b/x', 'UP/..']]], // prettier-ignore
    ['circle', [['a', 'b'], ['b', 'a']]], // prettier-ignore
    ['circle', [['a', 'a/x']]],
    ['not a path', [['a', '']]],
    ['not a path', [['a', 'x\0y']]],
  ] as const)('refuses links that lead %s: %j', async (why, links) => {
    const zip = zipOf(links.map(([name, content]) => ({ name, content, mode: LINK })));
    expect((await refusal(zip)).message).toContain(why);
    expect(everythingIn(root)).toEqual([]);
  });

  it('takes links that stay inside', async () => {
    const links = [['a/b/up', '../..'], ['a/b/x', 'up/a/./b'], ['dangling', 'not/there']] as const; // prettier-ignore
    await unpackZip(zipOf([{ name: 'a/b/f', content: '1' }, ...links.map(([name, content]) => ({ name, content, mode: LINK }))]), folder);
    expect(readFileSync(join(folder, 'a/b/x/f'), 'utf8')).toBe('1');
  });

  it.each([
    ['a file beneath a link', [{ name: 'l', content: 'd', mode: LINK }, { name: 'l/x' }], 'beneath the link'], // prettier-ignore
    ['a file beneath a file', [{ name: 'f/x/y' }, { name: 'f' }], 'beneath the file'], // prettier-ignore
    ['a name twice', [{ name: 'f' }, { name: 'f' }], 'twice'], // prettier-ignore
    ['a name twice, written differently', [{ name: 'd/f' }, { name: 'd/./f' }], 'twice'], // prettier-ignore
    ['a file and a folder of one name', [{ name: 'f' }, { name: 'f/', stored: true }], 'twice'], // prettier-ignore
    ['a device', [{ name: 'd', mode: 0o020666 }], 'neither file, folder nor link'],
    ['a pipe', [{ name: 'd', mode: 0o010666 }], 'neither file, folder nor link'],
    ['a folder with content', [{ name: 'd/', content: 'x' }], 'has content'],
    ['an encrypted entry', [{ name: 'f', flags: 1 }], 'encrypted'],
    ['a strongly encrypted entry', [{ name: 'f', flags: 0x40 }], 'encrypted'],
    ['an unknown method', [{ name: 'f', method: 14 }], 'method 14'],
    ['a wrong checksum', [{ name: 'f', content: 'x', crc: 1 }], 'checksum'],
    ['a wrong checksum, stored', [{ name: 'f', content: 'x', crc: 1, stored: true }], 'checksum'],
    ['an entry longer than it says', [{ name: 'f', content: 'xxxx', unpackedBytes: 3 }], 'larger than it says'],
    ['an entry much longer than it says', [{ name: 'f', content: 'x'.repeat(100_000), unpackedBytes: 3 }], 'larger than it says'],
    ['an entry shorter than it says', [{ name: 'f', content: 'xxxx', unpackedBytes: 5 }], '4 bytes and says 5'],
    ['stored sizes that differ', [{ name: 'f', content: 'xxxx', stored: true, unpackedBytes: 5 }], 'sizes of a stored entry'],
    ['two names for one entry', [{ name: 'f', localName: 'g' }], 'differs from the directory'],
    ['a damaged stream', [{ name: 'f', content: 'no deflate', stored: true, method: 8 }], 'damaged'],
    ['shared bytes', [{ name: 'f', content: 'x' }, { name: 'f', content: 'x', sharesWith: 0 }], 'share bytes'], // prettier-ignore
    ['zip64 sizes', [{ name: 'f', unpackedBytes: 0xffffffff }], 'zip64'],
  ] as const)('refuses %s', async (_, members, why) => {
    const { message } = await refusal(zipOf(members));
    expect(message).toContain(why);
  });

  it('refuses several parts, and zip64', async () => {
    expect((await refusal(zipOf([], { disk: 1 }))).message).toContain('several parts');
    expect((await refusal(zipOf([], { entries: 0xffff }))).message).toContain('zip64');
    expect((await refusal(zipOf([{ name: 'a' }], { entries: 2 }))).message).toContain('directory is damaged');
    expect((await refusal(zipOf([{ name: 'a' }, { name: 'b' }], { entries: 1 }))).message).toContain('longer than it says');
  });

  it('refuses what was cut off, at every byte', async () => {
    const zip = zipOf([
      { name: 'a', content: 'hello' },
      { name: 'b', content: 'world', stored: true },
    ]);
    for (let length = 0; length < zip.length; length++) await refusal(zip.subarray(0, length));
    await refusal(Buffer.concat([zip, Buffer.from('x')]));
    await refusal(Buffer.concat([Buffer.from('x'), zip]));
    expect(everythingIn(root)).toEqual([]);
  });

  it('names the limit that an archive exceeds, and takes one at the limit', async () => {
    const limits = { ...ZIP_LIMITS, unpackedBytesMax: 100, entriesMax: 2 };
    const files = (first: number, second: number) =>
      zipOf([
        { name: 'a', content: 'x'.repeat(first) },
        { name: 'b', content: 'x'.repeat(second) },
      ]);
    expect((await refusal(files(50, 51), limits)).details).toEqual({ entry: 'b', limit: 100 });
    expect((await unpackZip(files(50, 50), folder, limits)).unpackedBytes).toBe(100);
    expect((await refusal(zipOf([{ name: 'a' }, { name: 'b' }, { name: 'c' }]), limits)).details).toEqual({ entries: 3, limit: 2 });
  });

  it('refuses a bomb by what it claims, before anything is unpacked', async () => {
    const bomb = zipOf([{ name: 'zeros', content: Buffer.alloc(3 * 1024 * 1024) }]);
    expect((await refusal(bomb)).message).toContain('200 times');
    expect(everythingIn(root)).toEqual([]);
  });
});

describe('mutated archives', () => {
  const seed = zipOf([
    { name: 'index.mjs', content: 'export const handler = 1;\n'.repeat(20), mode: 0o100644 },
    { name: 'lib/', stored: true, mode: 0o040755 },
    { name: 'lib/stored.txt', content: 'stored', stored: true },
    { name: 'lib/link', content: '../index.mjs', mode: LINK },
  ]);
  const byte = fc.integer({ min: 0, max: 255 });
  const at = fc.integer({ min: 0, max: seed.length - 1 });
  const interesting = fc.constantFrom(0, 1, 0x7f, 0x80, 0xff, 0x2f, 0x2e, 0x5c);
  const mutation = fc.oneof(
    fc.record({ kind: fc.constant('set' as const), at, value: fc.oneof(byte, interesting) }),
    fc.record({ kind: fc.constant('cut' as const), at, value: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ kind: fc.constant('repeat' as const), at, value: fc.integer({ min: 1, max: 80 }) }),
  );

  function mutate(mutations: readonly { readonly kind: 'set' | 'cut' | 'repeat'; readonly at: number; readonly value: number }[]): Buffer {
    let bytes = Buffer.from(seed);
    for (const { kind, at: index, value } of mutations) {
      const place = index % Math.max(1, bytes.length);
      if (kind === 'set') bytes[place] = value;
      else if (kind === 'cut') bytes = Buffer.concat([bytes.subarray(0, place), bytes.subarray(place + value)]);
      else bytes = Buffer.concat([bytes.subarray(0, place + value), bytes.subarray(place)]);
    }
    return bytes;
  }

  it('are read or refused, never anything else', () => {
    let read = 0;
    fc.assert(
      fc.property(fc.array(mutation, { minLength: 1, maxLength: 4 }), (mutations) => {
        try {
          for (const { name } of readZip(mutate(mutations))) {
            expect(name.startsWith('/') || name.split('/').includes('..')).toBe(false);
          }
          read++;
        } catch (thrown) {
          if (!isRunnerError(thrown) || thrown.code !== 'PACKAGE_INVALID') throw thrown;
        }
      }),
      { numRuns: 20_000 },
    );
    expect(read).toBeGreaterThan(0);
  });

  it('leave nothing outside of the folder', async () => {
    let run = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(mutation, { minLength: 1, maxLength: 3 }), async (mutations) => {
        const name = `run-${run++}`;
        try {
          await unpackZip(mutate(mutations), join(root, 'in', name));
        } catch (thrown) {
          if (!isRunnerError(thrown) || thrown.code !== 'PACKAGE_INVALID') throw thrown;
        }
        expect(readdirSync(root).filter((entry) => entry !== 'in')).toEqual([]);
        rmSync(join(root, 'in'), { recursive: true, force: true });
      }),
      { numRuns: 500 },
    );
  });

  it('are refused when they are only noise', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (bytes) => {
        await refusal(bytes);
      }),
      { numRuns: 500 },
    );
  });
});
