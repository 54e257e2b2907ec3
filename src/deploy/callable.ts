/** Packages from what an author has at hand: a folder, a module, or a function that a module exports. */

import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { RunnerError } from '../errors.ts';
import { makeFolder } from '../folder.ts';
import { PACKAGE_NAME } from './bundler.ts';
import { buildHandler } from './package.ts';
import type { BuildHandlerOptions, BuiltHandler } from './package.ts';

export interface CreatePackageOptions extends Omit<BuildHandlerOptions, 'entry'> {
  /** Of a function: the module that exports it, as a path or as `import.meta.url`. */
  readonly module?: string | URL;
}

/** Takes the event, parsed from JSON; what it returns is the answer. */
export type PackagedCallable = (event: never) => unknown;

const ENTRIES = ['jobs.ts', 'jobs.js', 'jobs.mjs', 'index.ts', 'index.js', 'index.mjs', 'src/jobs.ts', 'src/index.ts', 'src/index.js'];

/**
 * Packs the jobs of a folder (`main` of its package.json, or a file named `jobs` or `index`), those of a module, or one function as job 0.
 *
 * A function is packed by the module that exports it, with all that the module imports: what it closes over besides exists only in this process.
 * Throws `CONFIG_INVALID` for a function that its module does not export, else what `buildHandler` throws.
 *
 * @example
 * const built = await createPackage(nightly, { module: import.meta.url, outDir: 'build' });
 */
export async function createPackage(source: string | PackagedCallable, options: CreatePackageOptions): Promise<BuiltHandler> {
  const { module, ...rest } = options;
  if (typeof source === 'string') return buildHandler({ ...rest, entry: entryOf(source) });
  const file = moduleOf(source, module);
  const name = await exportedName(source, file);
  const entry = join(resolve(rest.outDir), 'callable.mjs');
  makeFolder(resolve(rest.outDir));
  writeFileSync(entry, callableSource(file, name));
  return buildHandler({ ...rest, entry });
}

function entryOf(source: string): string {
  if (!existsSync(source) || !statSync(source).isDirectory()) return source;
  const manifest = join(source, 'package.json');
  const { main } = existsSync(manifest) ? (JSON.parse(readFileSync(manifest, 'utf8')) as { main?: string }) : {};
  const found = [...(main === undefined ? [] : [main]), ...ENTRIES].find((name) => existsSync(join(source, name)));
  if (found !== undefined) return join(source, found);
  throw new RunnerError(
    'BUILD_FAILED',
    `${source} has no entry: name it as main in its package.json, or call it one of ${ENTRIES.join(', ')}`,
  );
}

const toFile = (module: string | URL): string =>
  module instanceof URL || module.startsWith('file:') ? fileURLToPath(module) : resolve(module);

function moduleOf({ name }: PackagedCallable, module: string | URL | undefined): string {
  if (module !== undefined) return toFile(module);
  throw new RunnerError(
    'CONFIG_INVALID',
    `the function ${name || 'without a name'} cannot be packed by itself: what it closes over is not in it. Export it from a module, and give that as module`,
  );
}

async function exportedName(callable: PackagedCallable, file: string): Promise<string> {
  const exports = (await import(pathToFileURL(file).href)) as Readonly<Record<string, unknown>>;
  const found = Object.keys(exports).find((name) => exports[name] === callable);
  if (found !== undefined) return found;
  throw new RunnerError(
    'CONFIG_INVALID',
    `${file} does not export the function ${callable.name || 'without a name'}: one that is made while the program runs closes over what exists only there. Export it at the top of the module`,
    { details: { module: file, exports: Object.keys(exports).join(', ') } },
  );
}

function callableSource(file: string, name: string): string {
  return `import { JobRouter, defineJob } from '${PACKAGE_NAME}';
import { ${name} as callable } from ${JSON.stringify(file)};
const run = async (body) => JSON.stringify((await callable(body.length > 0 ? JSON.parse(Buffer.from(body).toString()) : undefined)) ?? null);
export const router = new JobRouter().route(0, defineJob({ name: ${JSON.stringify(name === 'default' ? 'callable' : name)}, raw: true }, run));
`;
}
