/** Writes a tar (ustar) as a stream: what a container engine imports. */

import { createReadStream } from 'node:fs';

/** One entry of a root file system. Paths are absolute; folders come before what lies in them. */
export type RootEntry =
  | { readonly kind: 'folder'; readonly path: string; readonly mode: number }
  | { readonly kind: 'file'; readonly path: string; readonly mode: number; readonly source: string; readonly bytes: number }
  | { readonly kind: 'text'; readonly path: string; readonly mode: number; readonly text: string };

const BLOCK = 512;
const NAME_BYTES = 100;
const PREFIX_BYTES = 155;

/** All of it, end marker included. A file that changed its size meanwhile makes it throw. */
export async function* tarOf(entries: readonly RootEntry[]): AsyncGenerator<Uint8Array> {
  for (const entry of entries) {
    if (entry.kind === 'folder') {
      yield header(`${entry.path.slice(1)}/`, { mode: entry.mode, bytes: 0, type: '5' });
    } else if (entry.kind === 'text') {
      const content = Buffer.from(entry.text);
      yield header(entry.path.slice(1), { mode: entry.mode, bytes: content.length, type: '0' });
      yield content;
      yield padding(content.length);
    } else {
      yield header(entry.path.slice(1), { mode: entry.mode, bytes: entry.bytes, type: '0' });
      let written = 0;
      for await (const chunk of createReadStream(entry.source, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
        written += chunk.length;
        yield chunk;
      }
      if (written !== entry.bytes) throw new Error(`${entry.source} has ${written} bytes; it had ${entry.bytes} a moment ago`);
      yield padding(entry.bytes);
    }
  }
  yield Buffer.alloc(2 * BLOCK);
}

function padding(bytes: number): Uint8Array {
  return Buffer.alloc((BLOCK - (bytes % BLOCK)) % BLOCK);
}

/** Owner and time are 0: the same content gives the same bytes. */
function header(path: string, { mode, bytes, type }: { mode: number; bytes: number; type: '0' | '5' }): Uint8Array {
  const block = Buffer.alloc(BLOCK);
  const [prefix, name] = split(path);
  block.write(name, 0);
  block.write(octal(mode, 7), 100);
  block.write(octal(0, 7), 108);
  block.write(octal(0, 7), 116);
  block.write(octal(bytes, 11), 124);
  block.write(octal(0, 11), 136);
  block.write(' '.repeat(8), 148);
  block.write(type, 156);
  block.write('ustar\u000000', 257);
  block.write(prefix, 345);
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${octal(sum, 6)}\0 `, 148);
  return block;
}

function octal(value: number, digits: number): string {
  return value.toString(8).padStart(digits, '0');
}

/** A path of more than 100 bytes is cut at a slash. */
function split(path: string): readonly [prefix: string, name: string] {
  if (Buffer.byteLength(path) <= NAME_BYTES) return ['', path];
  for (let at = path.indexOf('/'); at >= 0; at = path.indexOf('/', at + 1)) {
    const [prefix, name] = [path.slice(0, at), path.slice(at + 1)];
    if (Buffer.byteLength(name) <= NAME_BYTES && name !== '' && Buffer.byteLength(prefix) <= PREFIX_BYTES) return [prefix, name];
  }
  throw new Error(`the path ${path} is too long for a tar`);
}
