/** The installed packages that a package needs as they are: found, listed with all that they need in turn, and read. */

import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, relative, sep } from 'node:path';
import { RunnerError } from '../errors.ts';
import type { PackedFile, PackedFiles } from './zip.ts';

export interface InstalledPackage {
  readonly name: string;
  readonly version: string;
  readonly directory: string;
}

interface Manifest {
  readonly version?: string;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

/**
 * The packages of these names as the folder sees them, with all their dependencies, sorted by name. Throws `PEER_MISSING` for one that is not
 * installed; an optional dependency may be missing.
 */
export function installedPackages(names: readonly string[], from: string): readonly InstalledPackage[] {
  const found = new Map<string, InstalledPackage>();
  const visit = (name: string, folder: string, isOptional: boolean): void => {
    const directory = directoryOf(name, folder);
    if (directory === undefined) {
      if (isOptional) return;
      throw new RunnerError('PEER_MISSING', `${name} is not installed: npm install ${name}`, { details: { package: name } });
    }
    const known = found.get(name);
    if (known?.directory === directory) return;
    if (known) throw conflict(name, known.directory, directory);
    const manifest = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8')) as Manifest;
    found.set(name, { name, version: manifest.version ?? '0.0.0', directory });
    for (const each of Object.keys(manifest.dependencies ?? {}))
      visit(each, directory, manifest.optionalDependencies?.[each] !== undefined);
    for (const each of Object.keys(manifest.optionalDependencies ?? {})) visit(each, directory, true);
  };
  for (const name of names) visit(name, from, false);
  return [...found.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

/** The files of installed packages and of all that they need, as `node_modules/...` of a zip. Throws `PEER_MISSING`. */
export async function readModules(names: readonly string[], from: string): Promise<PackedFiles> {
  const files: Record<string, PackedFile> = {};
  for (const { name, directory } of installedPackages(names, from)) {
    for (const file of readdirSync(directory, { recursive: true, encoding: 'utf8' })) {
      const path = join(directory, file);
      // What is nested has been found by its own name; maps and declarations are for people.
      if (/(?:^|[/\\])node_modules[/\\]|\.map$|\.d\.[cm]?ts$/.test(file) || !statSync(path).isFile()) continue;
      const executable = (statSync(path).mode & 0o100) !== 0;
      files[`node_modules/${name}/${relative(directory, path).replaceAll(sep, '/')}`] = {
        data: readFileSync(path),
        mode: executable ? 0o755 : 0o644,
      };
    }
  }
  return files;
}

function directoryOf(name: string, from: string): string | undefined {
  const places = createRequire(join(from, 'package.json')).resolve.paths(name) ?? [];
  return places.map((place) => join(place, name)).find((directory) => existsSync(join(directory, 'package.json')));
}

function conflict(name: string, first: string, second: string): RunnerError {
  return new RunnerError('BUILD_FAILED', `two versions of ${name} are needed, and one folder can hold only one: ${first} and ${second}`, {
    details: { package: name, first, second },
  });
}
