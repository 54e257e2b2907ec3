/** What all bundles have in common. */

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Message, Plugin } from 'esbuild';

export const PACKAGE_NAME = 'blueprint-runner';

/**
 * The bundle holds this copy of the package, whatever copy the entry would find. From source it has no `dist`. Of the packages that are loaded on
 * first use it holds those that `holds` names.
 */
export const ownPackage = (holds: (packageName: string) => boolean): Plugin => ({
  name: PACKAGE_NAME,
  setup(build) {
    build.onResolve({ filter: /^blueprint-runner(?:\/|$)/ }, ({ path }) => {
      const file = ownFile(path);
      return file === undefined ? undefined : { path: file, sideEffects: false };
    });
    const own = ['dist', 'src', 'plugins', 'handler'].map((folder) => join(root, folder, '/'));
    // The bundler asks here for whatever matches, and waits: not for the modules of node.
    build.onResolve({ filter: /^[^./][^:]*$/ }, ({ path, kind, importer }) =>
      kind === 'dynamic-import' && own.some((folder) => importer.startsWith(folder)) && !holds(path) ? { path, external: true } : undefined,
    );
  },
});

const HERE = fileURLToPath(import.meta.url);
const root = packageRootOf(HERE) ?? dirname(HERE);
let exported: Readonly<Record<string, { readonly default?: string } | string>> | undefined;

/** The file behind an entry of this package, `blueprint-runner/...`; undefined when there is none. */
export function ownFile(path: string): string | undefined {
  exported ??= (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { exports: NonNullable<typeof exported> }).exports;
  const entry = exported[`.${path.slice(PACKAGE_NAME.length)}`];
  const target = typeof entry === 'string' ? entry : entry?.default;
  if (target === undefined) return undefined;
  return join(root, HERE.endsWith('.ts') ? target.replace('./dist/', './').replace(/\.js$/, '.ts') : target);
}

/** The nearest folder with a package.json. */
export function packageRootOf(file: string): string | undefined {
  for (let directory = dirname(file); ; directory = dirname(directory)) {
    if (existsSync(join(directory, 'package.json'))) return directory;
    if (directory === dirname(directory)) return undefined;
  }
}

/** A message of the bundler, with its place and what to do. */
export function explain({ text, location }: Message): string {
  const where = location ? ` (${location.file}:${location.line}:${location.column})` : '';
  return `${text}${where}${hintOf(text)}`;
}

function hintOf(text: string): string {
  if (text.includes('".node" files'))
    return '; a native addon cannot be in a bundle that runs on every platform: use a package without one';
  return text.startsWith('Could not resolve') ? '; install the package or correct the path' : '';
}
