/** What is started for a runtime. */

import { existsSync, readdirSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RunnerError } from '../../src/plugin.ts';
import type { FunctionVersion, LaunchSpec } from '../../src/plugin.ts';

export type Program =
  | { readonly kind: 'node'; readonly node: string }
  | {
      readonly kind: 'bootstrap';
      readonly node: string;
      /** It is of our handler bundle: knows unix sockets, so that nothing must stand between. */
      readonly isOurs: boolean;
    };

const NODE_RUNTIMES = ['nodejs20.x', 'nodejs22.x', 'nodejs24.x'];
/** Stands in the bootstrap of our handler bundle. */
const OUR_MARK = 'BLUEPRINT_NODE';
/** Read by node or the C library when a process starts, so they must be there from its beginning. */
const AT_START =
  /^(?:LD_(?!LIBRARY_PATH$)|NODE_(?:COMPILE_CACHE|DEBUG|EXTRA_CA_CERTS|ICU_DATA|NO_WARNINGS|OPTIONS|PENDING_DEPRECATION|PRESERVE_SYMLINKS|REDIRECT_WARNINGS|USE_|V8_COVERAGE)|UV_|MALLOC_|GLIBC_|SSL_CERT|OPENSSL_)/;

/** Rejects with `CODE_MISSING` and `RUNTIME_UNSUPPORTED`. Paths are in the cause, which callers elsewhere do not get. */
export async function programOf(
  fn: FunctionVersion,
  runtimes: Readonly<Record<string, string>>,
): Promise<Program & { readonly folder: string }> {
  const { code, runtime } = fn;
  if (code.kind === 'image')
    throw new RunnerError(
      'RUNTIME_UNSUPPORTED',
      `function ${fn.name} is an image; the process backend runs packages only, a container backend runs images`,
    );
  const folder = code.path;
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    throw new RunnerError('CODE_MISSING', `the code of function ${fn.name} is not there any more: deploy it again`, {
      cause: new Error(`${folder} is no folder`),
    });
  const node = runtimes[runtime] ?? process.execPath;
  if (runtime in runtimes || NODE_RUNTIMES.includes(runtime)) return { kind: 'node', node, folder };
  const isCustom = runtime.startsWith('provided');
  if (!isCustom && !runtime.startsWith('python3')) throw unsupported(fn, runtimes);
  const bootstrap = join(folder, 'bootstrap');
  const found = statSync(bootstrap, { throwIfNoEntry: false });
  if (!found?.isFile()) {
    if (!isCustom) throw unsupported(fn, runtimes);
    throw new RunnerError('CODE_MISSING', `function ${fn.name} of runtime ${runtime} has no executable bootstrap in its package`, {
      cause: new Error(`${bootstrap} is no file`),
    });
  }
  if ((found.mode & 0o111) === 0)
    throw new RunnerError('CODE_MISSING', `bootstrap of function ${fn.name} is not executable: chmod +x before packing`, {
      cause: new Error(`${bootstrap} has mode ${(found.mode & 0o777).toString(8)}`),
    });
  const isOurs = found.size < 4_096 && (await readFile(bootstrap, 'utf8')).includes(OUR_MARK);
  return { kind: 'bootstrap', node, isOurs, folder };
}

/** Our client hears from the Runtime API over the connection that tells it what it is. */
export function needsSocket({ runtimeApi }: LaunchSpec, program: Program): boolean {
  return program.kind === 'bootstrap' || runtimeApi.serve === undefined;
}

/** Shared libraries of a package or a layer are found only by a process that starts with the path to them. */
export function needsAtStart(environment: Readonly<Record<string, string>>, folders: readonly string[]): boolean {
  if (Object.keys(environment).some((name) => AT_START.test(name))) return true;
  return environment['LD_LIBRARY_PATH'] !== undefined && folders.some(hasLibraries);
}

function unsupported(fn: FunctionVersion, runtimes: Readonly<Record<string, string>>): RunnerError {
  const known = [...new Set([...NODE_RUNTIMES, ...Object.keys(runtimes)])].toSorted().join(', ');
  return new RunnerError(
    'RUNTIME_UNSUPPORTED',
    `the process backend cannot run ${fn.runtime}; it runs ${known}, and provided.* and python3.* whose package brings an executable bootstrap`,
    { details: { runtime: fn.runtime } },
  );
}

function hasLibraries(folder: string): boolean {
  const entries = ['.', 'lib'].flatMap((name) => {
    const path = join(folder, name);
    return existsSync(path) ? readdirSync(path) : [];
  });
  return entries.some((name) => /\.so(?:\.|$)/.test(name));
}
