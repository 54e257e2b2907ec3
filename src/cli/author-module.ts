/** The module that an author hands to the command line. */

import { existsSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { JobRouter } from '../job/router.ts';
import type { RunnerBuilder } from '../runner/builder.ts';
import { LOADING } from '../runner/config.ts';

export interface AuthorModule {
  readonly router: JobRouter | undefined;
  /** Rejects with `CONFIG_INVALID` when the author's code throws something else than errors of ours. */
  readonly configure: ((builder: RunnerBuilder) => Promise<void>) | undefined;
}

type Configure = (builder: RunnerBuilder) => unknown;

/** Throws `CONFIG_INVALID` for a module that cannot be loaded or exports nothing to run. */
export async function loadModule(file: string): Promise<AuthorModule> {
  if (!existsSync(file)) throw new RunnerError('CONFIG_INVALID', `there is no ${file}`);
  let exported: { readonly default?: unknown; readonly router?: unknown; readonly configure?: unknown };
  process.env[LOADING] = file;
  try {
    exported = (await import(pathToFileURL(file).href)) as typeof exported; // as: looked at below
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${file} cannot be loaded: ${whatAndWhere(cause)}`, { cause });
  } finally {
    delete process.env[LOADING];
  }
  const router = [exported.router, exported.default].find(isRouter);
  const configure = exported.configure;
  if (typeof configure !== 'function' && !router) {
    throw new RunnerError(
      'CONFIG_INVALID',
      `${file} exports neither a JobRouter, as default or named router, nor a function configure(builder)`,
    );
  }
  return { router, configure: typeof configure === 'function' ? configuring(file, configure as Configure) : undefined }; // as: authors are told what it is given
}

function configuring(file: string, configure: Configure): (builder: RunnerBuilder) => Promise<void> {
  return async (builder) => {
    try {
      await configure(builder);
    } catch (cause) {
      if (isRunnerError(cause)) throw cause;
      throw new RunnerError('CONFIG_INVALID', `configure(builder) of ${file} failed: ${whatAndWhere(cause)}`, { cause });
    }
  };
}

/** By what it can do: the module may bring its own copy of the package. */
function isRouter(value: unknown): value is JobRouter {
  return typeof value === 'object' && value !== null && 'definition' in value && 'call' in value && 'route' in value;
}

/** The compiler of node puts place and source line before the name of the error; an exception has its place in the first line of its stack. */
function whatAndWhere(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  const [head = '', ...frames] = (cause.stack ?? '').split(/\n {4}at /);
  const excerpt = head.indexOf(`${cause.name} [`) > 0 ? head.slice(0, head.indexOf(`${cause.name} [`)).trimEnd() : '';
  if (excerpt !== '') return `${cause.message}\n${excerpt}`;
  const place = frames.find((frame) => frame.includes('file://') && !frame.includes('/node_modules/'));
  return place === undefined || cause.name === 'SyntaxError' ? cause.message : `${cause.message}\n    at ${place}`;
}
