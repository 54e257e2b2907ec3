/** The zip of one function from what its author has at hand: a zip, a folder, or a module. */

import { existsSync, mkdtempSync, readFileSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, extname, join, resolve, sep } from 'node:path';
import type { BuildFailure } from 'esbuild';
import { RunnerError } from '../errors.ts';
import { importPeer } from '../plugin/peer.ts';
import { buildModule } from './assembly-script.ts';
import { explain, ownPackage } from './bundler.ts';
import { createPackage } from './callable.ts';
import { buildHandler } from './package.ts';
import type { BuiltHandler } from './package.ts';
import { packFiles, sha256Of } from './zip.ts';
import type { PackedFile, PackedFiles } from './zip.ts';

export interface FunctionPackageOptions {
  /** As the function will be called with: it says what a module is. */
  readonly runtime: string;
  readonly handler: string;
  /** What a module with jobs sees while it is built. Default: the environment of this process. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

export interface FunctionPackage {
  readonly zip: Uint8Array;
  /** Hex. */
  readonly sha256: string;
  /** It is a router of jobs, which answers with a document of the error when it refuses a call. */
  readonly isRouter: boolean;
}

type Packed = Omit<FunctionPackage, 'sha256'>;

const ENDS = ['.mjs', '.js', '.cjs'];
const MODULES: ReadonlySet<string> = new Set([...ENDS, '.ts', '.mts', '.cts']);
const FILES_MAX = 50_000;

/**
 * - a zip: as it is
 * - a folder with the file that `handler` names: all that is in it; else its jobs, as `createPackage` packs them
 * - a module: bundled into one file; what it exports is the function of `handler`, or a router of jobs. With the runtime `wasm` AssemblyScript
 *
 * The same sources give the same bytes. Throws `CODE_MISSING` when there is none, `BUILD_FAILED`, `PEER_MISSING`.
 */
export async function packFunction(path: string, options: FunctionPackageOptions): Promise<FunctionPackage> {
  if (!existsSync(path)) throw new RunnerError('CODE_MISSING', `there is no ${path} to pack`, { details: { path } });
  const packed = statSync(path).isDirectory() ? await packFolder(path, options) : await packFile(path, options);
  return { ...packed, sha256: sha256Of(packed.zip) };
}

async function packFile(path: string, options: FunctionPackageOptions): Promise<Packed> {
  const end = extname(path);
  if (end === '.zip') return { zip: readFileSync(path), isRouter: false };
  if (options.runtime === 'wasm' && end === '.ts') return { zip: (await buildModule(path, { kind: 'package' })).bytes, isRouter: false };
  if (options.runtime === 'wasm' && end === '.wasm') return packed({ [options.handler]: { data: readFileSync(path), mode: 0o644 } });
  if (MODULES.has(end)) return packModule(resolve(path), options);
  throw new RunnerError(
    'BUILD_FAILED',
    `${path} is no package: it is packed from a folder, a zip, or a module (${[...MODULES].join(', ')})`,
  );
}

async function packFolder(path: string, { runtime, handler, env }: FunctionPackageOptions): Promise<Packed> {
  const [name] = nameParts(handler);
  const isWhole = !runtime.startsWith('nodejs') || ENDS.some((end) => existsSync(join(path, `${name}${end}`)));
  if (!isWhole) return routerPackage((outDir) => createPackage(path, { outDir, ...(env && { env }) }));
  const files: Record<string, PackedFile> = {};
  collect(realpathSync(path), '', files);
  if (Object.keys(files).length === 0) throw new RunnerError('CODE_MISSING', `there are no files in ${path}`, { details: { path } });
  return packed(files);
}

/** Links are packed as what they name, which lies in the folder too. */
function collect(root: string, prefix: string, files: Record<string, PackedFile>): void {
  for (const name of readdirSync(join(root, prefix))) {
    if (name === '.git') continue;
    const inside = prefix === '' ? name : `${prefix}/${name}`;
    const real = realpathSync(join(root, inside));
    const stats = statSync(real);
    if (!real.startsWith(`${root}${sep}`) || (stats.isDirectory() && real !== join(root, inside)))
      throw new RunnerError('BUILD_FAILED', `${join(root, inside)} is a link to a folder, or out of ${root}`, {
        details: { path: inside },
      });
    if (stats.isDirectory()) collect(root, inside, files);
    else if (stats.isFile()) files[inside] = { data: readFileSync(real), mode: (stats.mode & 0o111) === 0 ? 0o644 : 0o755 };
    if (Object.keys(files).length > FILES_MAX) throw new RunnerError('BUILD_FAILED', `there are more than ${FILES_MAX} files in ${root}`);
  }
}

async function packModule(entry: string, { handler, env }: FunctionPackageOptions): Promise<Packed> {
  const [file, wanted] = nameParts(handler);
  const { code, exports } = await bundle(entry, `${file}.mjs`);
  if (exports.includes(wanted)) return packed({ [`${file}.mjs`]: { data: code, mode: 0o644 } });
  if (!exports.includes('router') && !exports.includes('default'))
    throw new RunnerError('BUILD_FAILED', `${entry} exports neither ${wanted}, as the handler ${handler} says, nor a router of jobs`, {
      details: { entry, exports: exports.join(', ') },
    });
  return routerPackage((outDir) => buildHandler({ entry, outDir, ...(env && { env }) }));
}

async function bundle(entry: string, outfile: string): Promise<{ readonly code: Uint8Array; readonly exports: readonly string[] }> {
  const esbuild = await importPeer('build', 'esbuild', () => import('esbuild'));
  const { outputFiles, metafile } = await esbuild
    .build({
      entryPoints: [entry],
      absWorkingDir: dirname(entry),
      outfile,
      bundle: true,
      write: false,
      metafile: true,
      platform: 'node',
      format: 'esm',
      target: 'node20',
      mainFields: ['module', 'main'],
      minify: true,
      charset: 'utf8',
      logLevel: 'silent',
      plugins: [ownPackage(() => false)],
    })
    .catch((failure: BuildFailure) => {
      const reasons = failure.errors?.map(explain) ?? [failure.message];
      throw new RunnerError('BUILD_FAILED', `${entry} cannot be bundled:\n${reasons.join('\n')}`, { cause: failure, details: { entry } });
    });
  const text = outputFiles[0]?.text ?? '';
  // As in handlers: packages in the older module format ask for built-in modules at run time.
  const require = "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);";
  const code = Buffer.from(text.includes('Dynamic require of ') ? require + text : text);
  return { code, exports: Object.values(metafile.outputs).flatMap((output) => output.exports) };
}

/** `index.handler` as the file without its end, and what it exports. */
function nameParts(handler: string): readonly [file: string, name: string] {
  const at = handler.lastIndexOf('.');
  return at < 1 ? [handler, 'handler'] : [handler.slice(0, at), handler.slice(at + 1)];
}

async function packed(files: PackedFiles): Promise<Packed> {
  return { zip: await packFiles(files), isRouter: false };
}

async function routerPackage(build: (outDir: string) => Promise<BuiltHandler>): Promise<Packed> {
  const folder = mkdtempSync(join(tmpdir(), 'bpr-package-'));
  try {
    return { zip: readFileSync((await build(folder)).zipFile), isRouter: true };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
