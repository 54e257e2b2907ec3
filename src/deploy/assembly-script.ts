/** Handlers in AssemblyScript as WebAssembly modules, and as packages. */

import { hash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { RunnerError } from '../errors.ts';
import { importPeer } from '../plugin/peer.ts';
import { LIBRARY, entryFor } from './assembly-library.ts';
import { packFiles } from './zip.ts';

/** What is used of `assemblyscript/asc`. */
interface Compiler {
  main(
    argv: readonly string[],
    options: {
      readonly stdout: { write(text: string): void };
      readonly stderr: { write(text: string): void };
      readFile(name: string, folder: string): Promise<string | null>;
      writeFile(name: string, contents: Uint8Array | string): void;
      listFiles(folder: string): readonly string[];
    },
  ): Promise<{ readonly error: Error | null }>;
}

const ENTRY = 'blueprint-entry.ts';
const LIBRARY_FOLDER = 'blueprint-library';
/** Its name without the end is what is imported. */
const LIBRARY_FILE = 'blueprint.ts';
const OUT = 'handler.wasm';
/** What AssemblyScript would import from a browser comes from WASI. */
const REPLACED = ['abort', 'seed', 'trace', 'console'].map((name) => `${name}=blueprint_${name}`);

/** The compiler goes on after this, and only says so; it may be in colours. */
const NOT_TAKEN = /^.{0,5}WARNING .{0,4}(Un(?:known option|supported trailing arguments).*)/;

interface AssemblyScriptOptions {
  /** Passed to `asc` as they are. */
  readonly flags?: readonly string[];
}

/**
 * The module of a file that exports `handler(event: ArrayBuffer): ArrayBuffer`: a command of WASI preview 1. Rejects with `PEER_MISSING`
 * when `assemblyscript` is not installed, and with `BUILD_FAILED`, which says what the compiler said, also of flags that it does not know.
 */
async function compileAssemblyScript(file: string, { flags = [] }: AssemblyScriptOptions = {}): Promise<Uint8Array> {
  const compilerName: string = 'assemblyscript/asc';
  const compiler = await importPeer('wasm', 'assemblyscript', () => import(compilerName) as Promise<Compiler>);
  const folder = dirname(resolve(file));
  const said: string[] = [];
  let module: Uint8Array | undefined;
  const out = { write: (text: string) => void said.push(text) };
  const replaced = REPLACED.flatMap((each) => ['--use', each]);
  const argv = [ENTRY, '--baseDir', folder, '--lib', LIBRARY_FOLDER, '--outFile', OUT, '--optimizeLevel', '3', ...replaced, ...flags];
  const { error } = await compiler.main(argv, {
    stdout: out,
    stderr: out,
    async readFile(name, baseDir) {
      if (basename(name) === ENTRY) return entryFor(`./${basename(file, '.ts')}`);
      if (basename(name) === LIBRARY_FILE) return LIBRARY;
      return readFile(resolve(baseDir, name), 'utf8').catch(() => null);
    },
    writeFile(name, contents) {
      if (name === OUT && typeof contents !== 'string') module = contents;
    },
    listFiles: (listed) => (listed === LIBRARY_FOLDER ? [LIBRARY_FILE] : []),
  });
  if (error || !module)
    throw new RunnerError('BUILD_FAILED', `${file} cannot be compiled:\n${said.join('').trim() || String(error)}`, { cause: error });
  const ignored = said.flatMap((text) => NOT_TAKEN.exec(text)?.[1] ?? []);
  if (ignored.length > 0) throw new RunnerError('BUILD_FAILED', `the compiler does not take all flags: ${ignored.join('; ')}`);
  return module;
}

export interface BuiltModule {
  readonly bytes: Uint8Array;
  /** Of `bytes`, hex. */
  readonly sha256: string;
  readonly moduleBytes: number;
}

/**
 * The module, or a package with it as `handler.wasm`: what runs with the runtime `wasm`. The same file gives the same bytes. Rejects like
 * `compileAssemblyScript`.
 *
 * @example
 * const { bytes } = await buildModule('handler.ts', { kind: 'package' });
 */
export async function buildModule(
  file: string,
  options: AssemblyScriptOptions & { readonly kind: 'module' | 'package' },
): Promise<BuiltModule> {
  const module = await compileAssemblyScript(file, options);
  const bytes = options.kind === 'module' ? module : await packFiles({ [OUT]: { data: module, mode: 0o644 } });
  return { bytes, sha256: hash('sha256', bytes, 'hex'), moduleBytes: module.length };
}
