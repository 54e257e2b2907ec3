/** Archives of the ustar format (POSIX.1-1988), owned by root, from the epoch, sorted: the same files give the same bytes. */

import { RunnerError } from '../errors.ts';

export interface TarEntry {
  /** Relative, with slashes; a directory without one at its end. */
  readonly name: string;
  readonly mode: number;
  /** Absent: a directory. */
  readonly data?: Uint8Array;
}

const BLOCK = 512;
const NAME_MAX = 100;
const PREFIX_MAX = 155;

/** With the directories that the names imply. Throws `PACKAGE_INVALID` for a name that the format has no room for. */
export function tarOf(entries: readonly TarEntry[]): Uint8Array {
  return Buffer.concat(tarParts(entries));
}

/** The same in parts, for what is too large to be copied. */
export function tarParts(entries: readonly TarEntry[]): readonly Uint8Array[] {
  const all = new Map<string, TarEntry>();
  for (const entry of entries) {
    const parts = entry.name.split('/');
    for (let depth = 1; depth < parts.length; depth += 1) {
      const name = parts.slice(0, depth).join('/');
      if (!all.has(name)) all.set(name, { name, mode: 0o755 });
    }
    all.set(entry.name, entry);
  }
  const sorted = [...all.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
  const blocks = sorted.flatMap((entry) => [headerOf(entry), entry.data ?? new Uint8Array(), padding(entry.data?.length ?? 0)]);
  return [...blocks, Buffer.alloc(2 * BLOCK)];
}

const padding = (size: number): Uint8Array => new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);

function headerOf({ name, mode, data }: TarEntry): Buffer {
  const { prefix, rest } = split(data ? name : `${name}/`);
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, size: number): unknown =>
    header.write(`${value.toString(8).padStart(size - 1, '0')}\0`, at, 'latin1');
  header.write(rest, 0, NAME_MAX, 'utf8');
  octal(mode, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(data?.length ?? 0, 124, 12);
  octal(0, 136, 12);
  header.fill(' ', 148, 156);
  header.write(data ? '0' : '5', 156, 'latin1');
  header.write('ustar\u000000', 257, 'latin1');
  header.write(prefix, 345, PREFIX_MAX, 'utf8');
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
    'latin1',
  );
  return header;
}

/** A long name is cut at a slash. */
function split(name: string): { readonly prefix: string; readonly rest: string } {
  if (Buffer.byteLength(name) <= NAME_MAX) return { prefix: '', rest: name };
  for (let at = name.indexOf('/'); at >= 0; at = name.indexOf('/', at + 1)) {
    const [prefix, rest] = [name.slice(0, at), name.slice(at + 1)];
    if (rest !== '' && Buffer.byteLength(rest) <= NAME_MAX && Buffer.byteLength(prefix) <= PREFIX_MAX) return { prefix, rest };
  }
  throw new RunnerError('PACKAGE_INVALID', `the path ${name} is too long for an image`, { details: { name } });
}
