import { mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { place } from './place.ts';

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bpr-place-'));
});

afterEach(() => rmSync(root, { recursive: true }));

/** A folder with these files; a text that begins with `->` is a link. */
function folder(name: string, files: Readonly<Record<string, string>> = {}): string {
  const path = join(root, name);
  mkdirSync(path);
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(dirname(join(path, file)), { recursive: true });
    if (text.startsWith('->')) symlinkSync(text.slice(2), join(path, file));
    else writeFileSync(join(path, file), text);
  }
  return path;
}

/** As at /opt: the last layer is put there first. */
function merged(...layers: readonly string[]): string {
  const target = folder('opt');
  for (const layer of layers.toReversed()) expect(place(layer, target, { entriesMax: 100 })).toBe(true);
  return target;
}

it('puts a later layer over an earlier one', () => {
  const opt = merged(folder('1', { 'lib/a': 'old', 'lib/b': 'b' }), folder('2', { 'lib/a': 'new', c: 'c' }));
  expect(['lib/a', 'lib/b', 'c'].map((file) => readFileSync(join(opt, file), 'utf8'))).toEqual(['new', 'b', 'c']);
});

it('hides a folder behind a file of a later layer, and a file behind a folder', () => {
  const opt = merged(folder('1', { 'a/x': 'x', b: 'b' }), folder('2', { a: 'a', 'b/y': 'y' }));
  expect([readFileSync(join(opt, 'a'), 'utf8'), readdirSync(join(opt, 'b'))]).toEqual(['a', ['y']]);
});

it('puts nothing where a link of a later layer leads', () => {
  const elsewhere = folder('elsewhere');
  const opt = merged(folder('1', { 'lib/x': 'x' }), folder('2', { lib: `->${elsewhere}` }));
  expect([readlinkSync(join(opt, 'lib')), readdirSync(elsewhere)]).toEqual([elsewhere, []]);
});

it('stops at its limit', () => {
  expect(place(folder('1', { a: 'a', 'b/c': 'c' }), folder('opt'), { entriesMax: 2 })).toBe(false);
});
