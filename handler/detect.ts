/**
 * Which adapter a started bundle runs. The first row that fits decides:
 *
 * | what is seen                                                                       | adapter          |
 * | ---------------------------------------------------------------------------------- | ---------------- |
 * | flag `--describe`, `--http`, `--stdio`, `--stdio=lines` or `--lambda-runtime`      | that one         |
 * | `BLUEPRINT_ADAPTER` = one of the names below                                       | that one         |
 * | the bundle was imported, and `FUNCTIONS_WORKER_RUNTIME` is `node`                  | `azure`          |
 * | the bundle was imported by another program                                         | `lambda`         |
 * | `AWS_LAMBDA_RUNTIME_API`                                                           | `lambda-runtime` |
 * | `BLUEPRINT_SOCKET`, `PORT` or `FUNCTIONS_CUSTOMHANDLER_PORT`                       | `http`           |
 * | stdin is a pipe, a file or a socket                                                | `stdio`          |
 * | none of these                                                                      | `http`           |
 *
 * `lambda` and `azure` start nothing: the program that imports the bundle calls its exports (`adapters/functions.ts`), or what it registered. A
 * managed Lambda runtime is such a program; it has `AWS_LAMBDA_RUNTIME_API` too, hence the order. A program that imports the bundle owns the
 * flags.
 */

import { RunnerError } from '../src/errors.ts';

/** `describe` prints the jobs as JSON and ends; a program that imported the bundle gets them as `jobs` of the default export. */
export type AdapterName = 'describe' | 'http' | 'stdio' | 'stdio-lines' | 'lambda' | 'lambda-runtime' | 'azure';

export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The arguments after the script. */
  readonly args: readonly string[];
  /** False when another program imported the bundle. */
  readonly isMain: boolean;
  /** Whether stdin is something that a program writes to or a file; asked only when nothing else decides. */
  readonly isStdinPiped: () => boolean;
}

/** Where the host of Azure Functions reaches a custom handler. */
export const AZURE_PORT = 'FUNCTIONS_CUSTOMHANDLER_PORT';
const CHOICES: readonly AdapterName[] = ['http', 'stdio', 'stdio-lines', 'lambda-runtime', 'describe', 'lambda', 'azure'];
const FLAGS = new Map(CHOICES.slice(0, 5).map((name) => [`--${name.replace('-lines', '=lines')}`, name]));

/** Throws `CONFIG_INVALID` for an unknown flag or choice. */
export function detectAdapter({ env, args, isMain, isStdinPiped }: Surroundings): AdapterName {
  const flag = isMain ? args[0] : undefined;
  if (flag !== undefined) return FLAGS.get(flag) ?? refuse('the flag', flag, [...FLAGS.keys()]);
  const choice = env.BLUEPRINT_ADAPTER;
  if (choice !== undefined) return CHOICES.find((name) => name === choice) ?? refuse('BLUEPRINT_ADAPTER', choice, CHOICES);
  if (!isMain) return env.FUNCTIONS_WORKER_RUNTIME === 'node' ? 'azure' : 'lambda';
  if (env.AWS_LAMBDA_RUNTIME_API !== undefined) return 'lambda-runtime';
  if ((env.BLUEPRINT_SOCKET ?? env.PORT ?? env[AZURE_PORT]) !== undefined) return 'http';
  return isStdinPiped() ? 'stdio' : 'http';
}

/** What is wrong with the configuration. */
export function invalid(message: string, cause?: unknown): RunnerError {
  return new RunnerError('CONFIG_INVALID', message, { cause });
}

function refuse(what: string, value: string, possible: readonly string[]): never {
  throw invalid(`${what} is ${value}; it must be one of ${possible.join(', ')}`);
}

export interface NumberRange {
  /** When the variable is not set. */
  readonly fallback: number;
  readonly min: number;
  readonly max?: number;
}

/** A whole number from the environment. Throws `CONFIG_INVALID`. */
export function numberOf(env: Surroundings['env'], name: string, { fallback, min, max = Number.MAX_SAFE_INTEGER }: NumberRange): number {
  const text = env[name];
  if (text === undefined) return fallback;
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw invalid(`${name} is ${JSON.stringify(text)}; it must be a whole number from ${min} to ${max}`);
}
