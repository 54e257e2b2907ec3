/**
 * Packaging: from the module that exports a job router to one file that runs on every platform, and the zip that is deployed.
 */

import { existsSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { BuildFailure, BuildResult, Metafile } from 'esbuild';
import { RunnerError } from '../errors.ts';
import { makeFolder } from '../folder.ts';
import { importPeer } from '../plugin/peer.ts';
import { startDescriber } from './describe.ts';
import type { Describer } from './describe.ts';
import { ROOT_FILES } from './package-platform.ts';
import { compressAll, jsonFile, packFiles, sha256Of, textFile } from './zip.ts';
import { PACKAGE_NAME, explain, ownFile, ownPackage, packageRootOf } from './bundler.ts';

export interface BuildHandlerOptions {
  /** The module that exports a `JobRouter`, as default or named `router`. */
  readonly entry: string;
  /** Gets `handler.mjs` and `{name}.zip`; made when it does not exist. */
  readonly outDir: string;
  /** Default true. Function names go with it: name jobs by their `name` option. */
  readonly minify?: boolean;
  /** Default `node20`: the oldest runtime that the platforms offer. */
  readonly target?: string;
  /** Writes `handler.mjs.map` too; it is not packed. Default false. */
  readonly sourcemap?: boolean;
  /** Of the zip, without a folder. Default `handler`. */
  readonly name?: string;
  /** What the module sees when the build loads it to learn its jobs. Default: the environment of this process. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** A job of the bundle; without what the definition leaves out. */
export interface PackagedJob {
  /** Decimal. */
  readonly id: string;
  readonly name: string;
  /** Solidity parameter lists; empty for a raw job. */
  readonly params: string;
  readonly result: string;
  readonly raw: boolean;
  readonly idempotent: boolean;
  readonly timeoutMs?: number;
}

export interface BuiltHandler {
  /** The absolute path of `handler.mjs`. */
  readonly file: string;
  readonly fileBytes: number;
  readonly gzipBytes: number;
  /** Of `handler.mjs`, hex. */
  readonly fileSha256: string;
  /**
   * The absolute path of the zip: `bootstrap` (executable), `handler.json` (what it holds), `handler.mjs`, `package.json` (which module to load)
   * and `host.json` (for Azure). `packageFor` adds what only one platform looks for.
   */
  readonly zipFile: string;
  readonly zipBytes: number;
  /** Of the zip, hex. */
  readonly sha256: string;
  readonly jobs: readonly PackagedJob[];
  /** What went into `handler.mjs`, largest first. */
  readonly inputs: readonly BundleInput[];
  readonly warnings: readonly string[];
}

export interface BundleInput {
  /** Relative to the package of the entry. */
  readonly path: string;
  /** In the bundle, after minification. */
  readonly bytes: number;
}

let serial = 0;
/** Header and trailer around what the zip holds as it is. */
const GZIP_FRAME_BYTES = 18;
/** Above it the start of a function visibly takes longer. */
const BUNDLE_BYTES_ADVISED = 512 * 1024;

/** Starts the bundle where a platform starts an executable: Lambda's custom runtime, Custom FaaS platforms. */
const BOOTSTRAP = `#!/bin/sh
case $0 in
  */*) here=\${0%/*} ;;
  *) here=. ;;
esac
exec "\${BLUEPRINT_NODE:-node}" "$here/handler.mjs"
`;

const CONSTANT_FILES = { ...ROOT_FILES, bootstrap: textFile(BOOTSTRAP, 0o755) };
/** Compressed once for all builds of this process. */
let constants: ReturnType<typeof compressAll> | undefined;

/**
 * Bundles the jobs that `entry` exports with the adapters of all platforms into one `handler.mjs`, and packs it.
 *
 * The same sources give the same bytes, on any machine and in any directory. Throws `BUILD_FAILED` with the messages of the
 * bundler, or with what is wrong with the module; `CONFIG_INVALID` for a name that is a path; `PEER_MISSING` without esbuild.
 *
 * @example
 * const { zipFile, sha256 } = await buildHandler({ entry: 'src/jobs.ts', outDir: 'build' });
 */
export async function buildHandler(options: BuildHandlerOptions): Promise<BuiltHandler> {
  const describer = startDescriber({ entry: options.entry, env: options.env ?? process.env });
  try {
    return await build(options, describer);
  } finally {
    describer.close();
  }
}

async function build(options: BuildHandlerOptions, describer: Describer): Promise<BuiltHandler> {
  const { name = 'handler' } = options;
  if (name === '' || name !== basename(name))
    throw new RunnerError('CONFIG_INVALID', `the zip cannot be called ${JSON.stringify(name)}: write a name, not a path`);
  const outDir = resolve(options.outDir);
  const { code, map, inputs, warnings } = await bundle(options);
  const file = join(outDir, 'handler.mjs');
  const zipFile = join(outDir, `${name}.zip`);
  const fileSha256 = sha256Of(code);
  makeFolder(outDir);
  const loaded = join(outDir, `handler.${temporaryName()}.mjs`);
  writeFileSync(loaded, code);
  // It loads in a process of its own, and is compressed here meanwhile.
  const [jobs, compressed] = await Promise.all([
    describer.describe(loaded, fileSha256),
    compressAll({ 'handler.mjs': { data: code, mode: 0o644 } }),
  ]).catch((error: unknown) => {
    rmSync(loaded);
    throw error;
  });
  renameSync(loaded, file);
  const ahead = { ...(await (constants ??= compressAll(CONSTANT_FILES))), ...compressed };
  const zip = await packFiles({ 'handler.json': jsonFile({ handler: 'handler.mjs', sha256: fileSha256, jobs }) }, ahead);
  replaceFile(zipFile, zip);
  if (map) replaceFile(`${file}.map`, map);
  return {
    file,
    fileBytes: code.length,
    gzipBytes: GZIP_FRAME_BYTES + (compressed['handler.mjs']?.deflated.length ?? 0),
    fileSha256,
    zipFile,
    zipBytes: zip.length,
    sha256: sha256Of(zip),
    jobs,
    inputs,
    warnings: [...warnings, ...sizeWarning(code.length, inputs)],
  };
}

interface Bundle {
  readonly code: Uint8Array;
  readonly map: Uint8Array | undefined;
  readonly inputs: readonly BundleInput[];
  readonly warnings: readonly string[];
}

async function bundle(options: BuildHandlerOptions): Promise<Bundle> {
  const entry = resolve(options.entry);
  if (!existsSync(entry)) throw new RunnerError('BUILD_FAILED', `there is no ${options.entry}`, { details: { entry } });
  const esbuild = await importPeer('build', 'esbuild', () => import('esbuild'));
  const result = await esbuild
    .build({
      stdin: { contents: entrySource(entry), resolveDir: dirname(entry), sourcefile: 'handler-entry.mjs', loader: 'js' },
      absWorkingDir: packageRootOf(entry) ?? dirname(entry),
      outfile: 'handler.mjs',
      bundle: true,
      write: false,
      metafile: true,
      platform: 'node',
      format: 'esm',
      target: options.target ?? 'node20',
      mainFields: ['module', 'main'],
      minify: options.minify ?? true,
      sourcemap: options.sourcemap === true ? 'external' : false,
      charset: 'utf8',
      logLevel: 'silent',
      // What plugins load on first use stays out, whatever of it is installed here.
      plugins: [ownPackage(() => false)],
    })
    .catch((failure: BuildFailure) => {
      const reasons = failure.errors?.map(explain) ?? [failure.message];
      throw new RunnerError('BUILD_FAILED', `${options.entry} cannot be bundled:\n${reasons.join('\n')}`, {
        cause: failure,
        details: { entry },
      });
    });
  return readBundle(result);
}

function readBundle({ outputFiles, metafile, warnings }: BuildResult<{ write: false; metafile: true }>): Bundle {
  const output = outputFiles.find(({ path }) => path.endsWith('.mjs'));
  if (!output) throw new RunnerError('INTERNAL', 'the bundler gave no output');
  const text = withoutDirectives(output.text);
  // Packages in the older module format ask for built-in modules at run time; a module has no `require` of its own.
  const isRequiring = text.includes('Dynamic require of ');
  const code = Buffer.from(
    isRequiring ? `import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);${text}` : text,
  );
  return {
    code,
    map: outputFiles.find(({ path }) => path.endsWith('.map'))?.contents,
    inputs: inputsOf(metafile),
    warnings: warnings.map(explain),
  };
}

/**
 * From source, the settings of the compiler beside it add a directive to what is loaded later; from `dist` there is none. A module needs none:
 * both ways give the same bytes (and from source a map that is a few columns off).
 */
function withoutDirectives(text: string): string {
  return import.meta.url.endsWith('.ts') ? text.replaceAll(/(=[\w$]+\(\(\)=>\{)"use strict";/g, '$1') : text;
}

/** The jobs are loaded by the handler, so that it can report a failure to the platform and keep their output off stdout. */
function entrySource(entry: string): string {
  return [
    `import { serve } from ${JSON.stringify(ownFile(`${PACKAGE_NAME}/handler/main`))};`,
    `const served = await serve(() => import(${JSON.stringify(`./${basename(entry)}`)}), { meta: import.meta });`,
    'export const { handler, handler: main } = served;',
    'export default served;',
  ].join('\n');
}

function inputsOf({ outputs }: Metafile): BundleInput[] {
  const inputs = Object.values(outputs).flatMap((output) => Object.entries(output.inputs));
  return inputs
    .map(([path, { bytesInOutput }]) => ({ path, bytes: bytesInOutput }))
    .toSorted((a, b) => b.bytes - a.bytes || (a.path < b.path ? -1 : 1));
}

function sizeWarning(bytes: number, inputs: readonly BundleInput[]): string[] {
  if (bytes <= BUNDLE_BYTES_ADVISED) return [];
  const largest = inputs.slice(0, 3).map((input) => `${input.path} (${Math.round(input.bytes / 1024)} KiB)`);
  return [`the bundle has ${Math.round(bytes / 1024)} KiB, which makes the first call slow; the largest parts are ${largest.join(', ')}`];
}

/** Builds may share a folder. */
const temporaryName = (): string => `${process.pid}-${(serial += 1)}.tmp`;

/** Whoever reads the file meanwhile sees the old one or the new one. */
function replaceFile(path: string, data: Uint8Array): void {
  const temporary = `${path}.${temporaryName()}`;
  writeFileSync(temporary, data);
  renameSync(temporary, path);
}
