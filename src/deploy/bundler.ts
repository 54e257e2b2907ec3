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
    const here = fileURLToPath(import.meta.url);
    const root = packageRootOf(here) ?? dirname(here);
    const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      exports: Record<string, { default?: string } | string>;
    };
    build.onResolve({ filter: /^blueprint-runner(?:\/|$)/ }, ({ path }) => {
      const entry = exports[`.${path.slice(PACKAGE_NAME.length)}`];
      const target = typeof entry === 'string' ? entry : entry?.default;
      if (target === undefined) return undefined;
      const file = here.endsWith('.ts') ? target.replace('./dist/', './').replace(/\.js$/, '.ts') : target;
      return { path: join(root, file), sideEffects: false };
    });
    const own = ['dist', 'src', 'plugins', 'handler'].map((folder) => join(root, folder, '/'));
    // Found without the settings of a compiler beside them: from source they give the same bytes as from `dist`.
    build.onResolve({ filter: /^\.\.?\/.*\.ts$/ }, ({ path, importer }) =>
      own.some((folder) => importer.startsWith(folder)) ? { path: join(dirname(importer), path), sideEffects: false } : undefined,
    );
    build.onResolve({ filter: /^[^./]/ }, ({ path, kind, importer }) =>
      kind === 'dynamic-import' && !path.startsWith('node:') && own.some((folder) => importer.startsWith(folder)) && !holds(path)
        ? { path, external: true }
        : undefined,
    );
  },
});

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
