/** What lies on this machine and makes an image: node with its libraries, and the package with its dependencies. */

import {
  chmodSync,
  constants,
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { RunnerError } from '../errors.ts';

export interface RootFilesOptions {
  /** Where they go; what of an earlier image is there is removed. */
  readonly folder: string;
  /** Of this package: with `bin` and `dist`. */
  readonly packageFolder: string;
  readonly nodePath: string;
  /** That node loads, absolute. */
  readonly libraries: readonly string[];
}

interface Manifest {
  readonly name: string;
  readonly dependencies?: Readonly<Record<string, string>>;
}

/** Types and maps of sources: nobody reads them there. */
const LEFT_OUT = /(?:\.d\.[mc]?ts|\.map|\.md)$/;
const OWN = ['package.json', 'bin', 'dist', 'LICENSE-APACHE', 'LICENSE-MIT'];

/** Throws `CONFIG_INVALID` when the package is not built, or a dependency is not installed. */
export function writeRootFiles({ folder, packageFolder, nodePath, libraries }: RootFilesOptions): void {
  if (!existsSync(join(packageFolder, 'dist', 'src', 'cli', 'main.js')))
    throw new RunnerError('CONFIG_INVALID', `${packageFolder} is not built: images need its dist; run npm run build`, {
      details: { packageFolder },
    });
  for (const part of ['app/node_modules', 'usr', 'lib', 'lib64']) rmSync(join(folder, part), { recursive: true, force: true });
  copyFile(nodePath, join(folder, 'usr/local/bin/node'), 0o755);
  for (const library of libraries) copyFile(library, join(folder, library), 0o755);
  const modules = join(folder, 'app', 'node_modules');
  const own = readManifest(packageFolder);
  for (const part of OWN) copyTree(join(packageFolder, part), join(modules, own.name, part));
  for (const [place, source] of dependenciesOf(packageFolder)) copyPackage(source, join(modules, place));
}

/** By their place below `node_modules`: the folders of all packages that this one needs, each version once where it can be shared. */
function dependenciesOf(packageFolder: string): ReadonlyMap<string, string> {
  const places = new Map<string, string>();
  const waiting: (readonly [source: string, place: string])[] = [[realpathSync(packageFolder), '']];
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
    const [from, placeOfParent] = next;
    for (const name of Object.keys(readManifest(from).dependencies ?? {})) {
      const source = findPackage(name, from);
      const shared = places.get(name);
      if (shared === source) continue;
      const place = shared === undefined ? name : join(placeOfParent, 'node_modules', name);
      if (places.get(place) === source) continue;
      places.set(place, source);
      waiting.push([source, place]);
    }
  }
  return places;
}

/** As node looks for it. */
function findPackage(name: string, from: string): string {
  for (let folder = from; ; folder = dirname(folder)) {
    const found = join(folder, 'node_modules', name);
    if (existsSync(join(found, 'package.json'))) return realpathSync(found);
    if (folder === dirname(folder)) break;
  }
  throw new RunnerError('CONFIG_INVALID', `the package ${name}, which ${from} needs, is not installed`, { details: { name, from } });
}

function readManifest(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest; // as: npm has read it
}

/** Without packages within it: those have places of their own. */
function copyPackage(source: string, target: string): void {
  for (const entry of readdirSync(source)) if (entry !== 'node_modules') copyTree(join(source, entry), join(target, entry));
}

function copyTree(source: string, target: string): void {
  if (!existsSync(source) || LEFT_OUT.test(source)) return;
  if (!statSync(source).isDirectory()) return copyFile(source, target, 0o644);
  for (const entry of readdirSync(source)) copyTree(join(source, entry), join(target, entry));
}

function copyFile(source: string, target: string, mode: number): void {
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(realpathSync(source), target, constants.COPYFILE_FICLONE);
  chmodSync(target, mode);
}
