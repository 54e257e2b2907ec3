/** Packages that are damaged, or made to damage, sent to every route that takes one. */

import { crc32, deflateRawSync } from 'node:zlib';
import type { Random } from '../../src/testing/fake-clock.ts';
import { ADMIN, cut, flip, framed } from './fuzz-http.ts';
import type { Input } from './fuzz-http.ts';

interface Member {
  readonly name: string;
  readonly content?: string | Uint8Array;
  readonly mode?: number;
  readonly stored?: boolean;
  readonly flags?: number;
  readonly method?: number;
  readonly crc?: number;
  readonly unpackedBytes?: number;
  /** Packed bytes as they are, in place of packing the content. */
  readonly packed?: Uint8Array;
  readonly packedBytes?: number;
  readonly localName?: string;
  /** Where its header is said to be, instead of where it is. */
  readonly offset?: number;
}

interface End {
  readonly entries?: number;
  readonly directoryBytes?: number;
  readonly directoryAt?: number;
  readonly disk?: number;
  readonly comment?: string;
}

/** A zip, byte by byte as told. */
function zipOf(members: readonly Member[], end: End = {}): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const member of members) {
    const content = Buffer.from(member.content ?? '');
    const data = member.packed ? Buffer.from(member.packed) : member.stored ? content : deflateRawSync(content);
    const [name, localName] = [Buffer.from(member.name, 'latin1'), Buffer.from(member.localName ?? member.name, 'latin1')];
    const method = member.method ?? (member.stored ? 0 : 8);
    const numbers = [member.crc ?? crc32(content), member.packedBytes ?? data.length, member.unpackedBytes ?? content.length];
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(member.flags ?? 0, 6);
    local.writeUInt16LE(method, 8);
    numbers.forEach((value, index) => local.writeUInt32LE(value, 14 + index * 4));
    local.writeUInt16LE(localName.length, 26);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt8(3, 5);
    central.writeUInt16LE(member.flags ?? 0, 8);
    central.writeUInt16LE(method, 10);
    numbers.forEach((value, index) => central.writeUInt32LE(value, 16 + index * 4));
    central.writeUInt16LE(name.length, 28);
    central.writeUInt32LE(((member.mode ?? 0) << 16) >>> 0, 38);
    central.writeUInt32LE(member.offset ?? at, 42);
    parts.push(local, localName, data);
    directory.push(central, name);
    at += local.length + localName.length + data.length;
  }
  const central = Buffer.concat(directory);
  const record = Buffer.alloc(22);
  record.writeUInt32LE(0x06054b50, 0);
  record.writeUInt16LE(end.disk ?? 0, 4);
  record.writeUInt16LE(end.entries ?? members.length, 8);
  record.writeUInt16LE(end.entries ?? members.length, 10);
  record.writeUInt32LE(end.directoryBytes ?? central.length, 12);
  record.writeUInt32LE(end.directoryAt ?? at, 16);
  record.writeUInt16LE(Buffer.byteLength(end.comment ?? ''), 20);
  return Buffer.concat([...parts, central, record, Buffer.from(end.comment ?? '')]);
}

const HANDLER: Member = { name: 'index.mjs', content: 'export const handler = async () => ({ answer: 42 });\n' };
const LINK = 0o120777;
/** A name that is nowhere else on the machine: no file of it may ever be. */
export const ESCAPED = 'escaped-from-a-package';

const ZEROS = Buffer.alloc(8 * 1024 * 1024);
const BOMB = { packed: deflateRawSync(ZEROS, { level: 9 }), crc: crc32(ZEROS), unpackedBytes: ZEROS.length };
const SLIPS = [
  '../',
  '../../',
  '../../../../../../',
  '/',
  '/tmp/',
  'a/../../',
  'C:\\',
  '..\\..\\',
  './../',
  'a/./../../',
  '\\',
  '//',
  'a//../../../',
];
const TARGETS = ['/etc/passwd', '../../../etc', '..', '/', `/tmp/${ESCAPED}`, '../../g/store', '', 'a'.repeat(5_000), 'self', '\u0000'];

type Make = (random: Random) => { readonly zip: Buffer; readonly mustRefuse: boolean };
const bad = (zip: Buffer): ReturnType<Make> => ({ zip, mustRefuse: true });
const any = (zip: Buffer): ReturnType<Make> => ({ zip, mustRefuse: false });
const code = (random: Random): Member => ({
  name: `f${random.int(0, 9)}.txt`,
  content: Buffer.from(random.bytes(random.int(0, 300))),
  stored: random.chance(0.5),
});

const MAKES: Readonly<Record<string, Make>> = {
  slip: (random) => bad(zipOf([HANDLER, { name: `${random.pick(SLIPS)}${ESCAPED}`, content: 'x' }])),
  link: (random) =>
    bad(zipOf([HANDLER, { name: 'l', content: random.pick(TARGETS.filter((target) => target !== 'self')), mode: LINK, stored: true }])),
  'through a link': (random) =>
    bad(
      zipOf([
        { name: 'l', content: random.pick(['..', '/tmp', '../..']), mode: LINK, stored: true },
        { name: `l/${ESCAPED}`, content: 'x' },
      ]),
    ),
  'link to itself': () => any(zipOf([HANDLER, { name: 'self', content: 'self', mode: LINK, stored: true }])),
  'no file': (random) => bad(zipOf([HANDLER, { name: 'd', mode: random.pick([0o020666, 0o060666, 0o010666, 0o140777]), content: 'x' }])),
  bomb: (random) => bad(zipOf(Array.from({ length: random.int(1, 3) }, (_, index): Member => ({ name: `b${index}`, ...BOMB })))),
  'hidden bomb': (random) => bad(zipOf([HANDLER, { name: 'b', ...BOMB, unpackedBytes: random.int(0, 100_000) }])),
  'large claim': (random) => bad(zipOf([{ ...HANDLER, unpackedBytes: random.pick([0xfffffffe, 0x7fffffff, 300_000_000]) }])),
  crc: (random) => bad(zipOf([{ ...HANDLER, crc: random.uint32() }])),
  size: (random) => bad(zipOf([{ ...HANDLER, unpackedBytes: random.int(0, 40) }])),
  'packed size': (random) => bad(zipOf([{ ...HANDLER, packedBytes: random.pick([0, 1, 10_000, 0xffffffff, 0x7fffffff]) }])),
  method: (random) => bad(zipOf([{ ...HANDLER, method: random.pick([1, 2, 6, 9, 12, 14, 93, 99, 0xffff]) }])),
  encrypted: () => bad(zipOf([{ ...HANDLER, flags: 1 }])),
  'no deflate': (random) => bad(zipOf([{ ...HANDLER, packed: random.bytes(40), packedBytes: 40 }])),
  'other name': () => bad(zipOf([{ ...HANDLER, localName: '../../x.js' }])),
  overlap: () => bad(zipOf([HANDLER, { ...HANDLER, name: 'other', localName: 'index.mjs', offset: 0 }])),
  'same name': (random) => bad(zipOf([HANDLER, { ...HANDLER, name: random.pick(['index.mjs', 'index.mjs/x']) }])),
  'strange name': (random) =>
    bad(zipOf([{ ...HANDLER, name: random.pick(['', '.', '..', 'a\u0000b', 'a'.repeat(300), 'a/'.repeat(600), '\u00ff\u00fe']) }])),
  offset: (random) => bad(zipOf([{ ...HANDLER, offset: random.pick([1, 1_000_000, 0xfffffffe, 0xffffffff]) }])),
  end: (random) =>
    bad(
      zipOf(
        [HANDLER],
        random.pick<End>([
          { entries: 0 },
          { entries: 2 },
          { entries: 0xffff },
          { directoryBytes: 0 },
          { directoryBytes: 0xffffffff },
          { directoryAt: 0 },
          { directoryAt: 0xffffffff },
          { disk: 1 },
        ]),
      ),
    ),
  'many entries': () => bad(zipOf([HANDLER], { entries: 60_000 })),
  truncated: (random) => bad(cut(random, zipOf([HANDLER, code(random)]))),
  'no zip': (random) =>
    bad(
      Buffer.from(
        random.pick([
          random.bytes(random.int(1, 500)),
          Buffer.from('PK'),
          Buffer.from('#!/bin/sh\n'),
          Buffer.alloc(22),
          Buffer.from('504b0304', 'hex'),
          Buffer.from('1f8b0800', 'hex'),
        ]),
      ),
    ),
  appended: (random) => bad(Buffer.concat([zipOf([HANDLER]), Buffer.from(random.bytes(random.int(1, 50)).map((value) => value | 1))])),
  'bytes flipped': (random) => any(flip(random, zipOf([HANDLER, code(random), code(random)]))),
  'many flipped': (random) => any(flip(random, flip(random, flip(random, zipOf([HANDLER, code(random)]))))),
  comment: (random) => any(zipOf([HANDLER], { comment: 'PK\u0005\u0006'.repeat(random.int(1, 20)) })),
};

const NAMES = Object.keys(MAKES);
const config = Buffer.from('{}').toString('base64');

export function zipInput(random: Random): Input {
  const what = random.pick(NAMES);
  const { zip, mustRefuse } = (MAKES[what] as Make)(random);
  const name = `fuzz-zip-${random.int(0, 30)}`;
  const base64 = zip.toString('base64');
  const settings = { runtime: 'nodejs24.x', handler: 'index.handler' };
  const bytes = random.pick<() => Buffer>([
    () => framed({ method: 'PUT', target: `/api/v1/functions/${name}?runtime=nodejs24.x&handler=index.handler`, body: zip }),
    () => framed({ method: 'POST', target: '/api/v1/functions', body: JSON.stringify({ name, zip: base64, ...settings }) }),
    () => framed({ method: 'PUT', target: `/api/functions/${name}`, headers: [ADMIN, ['X-Blueprint-Config', config]], body: zip }),
    () =>
      framed({
        method: 'POST',
        target: '/2015-03-31/functions',
        body: JSON.stringify({
          FunctionName: name,
          Role: 'arn:aws:iam::000000000000:role/x',
          Code: { ZipFile: base64 },
          Runtime: 'nodejs24.x',
          Handler: 'index.handler',
        }),
      }),
    () => framed({ method: 'PUT', target: '/2015-03-31/functions/fuzz-set/code', body: JSON.stringify({ ZipFile: base64 }) }),
    () =>
      framed({ method: 'POST', target: '/2018-10-31/layers/fuzz-layer/versions', body: JSON.stringify({ Content: { ZipFile: base64 } }) }),
  ])();
  return { what: `zip: ${what}`, bytes, mustRefuse };
}

/** A package that is in order. */
export function soundZip(): Buffer {
  return zipOf([HANDLER]);
}
