/**
 * Which adapter a started bundle runs. The first row that fits decides:
 *
 * | what is seen                                                                       | adapter          |
 * | ---------------------------------------------------------------------------------- | ---------------- |
 * | flag `--describe`, `--http`, `--stdio`, `--stdio=lines` or `--lambda-runtime`      | that one         |
 * | `BLUEPRINT_ADAPTER` = `http`, `stdio`, `stdio-lines`, `lambda` or `lambda-runtime` | that one         |
 * | the bundle was imported by another program                                         | `lambda`         |
 * | `AWS_LAMBDA_RUNTIME_API`                                                           | `lambda-runtime` |
 * | `BLUEPRINT_SOCKET` or `PORT`                                                       | `http`           |
 * | stdin is a pipe, a file or a socket                                                | `stdio`          |
 * | none of these                                                                      | `http`           |
 *
 * `lambda` starts nothing: the program that imports the bundle calls its export `handler`. A managed Lambda runtime is such a
 * program; it has `AWS_LAMBDA_RUNTIME_API` too, hence the order. A program that imports the bundle owns the flags.
 */

import { RunnerError } from '../src/errors.ts';

/** `describe` prints the jobs as JSON and ends. */
export type AdapterName = 'describe' | 'http' | 'stdio' | 'stdio-lines' | 'lambda' | 'lambda-runtime';

export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The arguments after the script. */
  readonly args: readonly string[];
  /** False when another program imported the bundle. */
  readonly isMain: boolean;
  /** Whether stdin is something that a program writes to or a file; asked only when nothing else decides. */
  readonly isStdinPiped: () => boolean;
}

const CHOICES: readonly AdapterName[] = ['http', 'stdio', 'stdio-lines', 'lambda', 'lambda-runtime'];
const FLAGS: ReadonlyMap<string, AdapterName> = new Map([
  ['--describe', 'describe'],
  ['--http', 'http'],
  ['--stdio', 'stdio'],
  ['--stdio=lines', 'stdio-lines'],
  ['--lambda-runtime', 'lambda-runtime'],
]);

/** Throws `CONFIG_INVALID` for an unknown flag or choice. */
export function detectAdapter({ env, args, isMain, isStdinPiped }: Surroundings): AdapterName {
  const flag = isMain ? args[0] : undefined;
  if (flag !== undefined) return FLAGS.get(flag) ?? refuse('the flag', flag, [...FLAGS.keys()]);
  const choice = env.BLUEPRINT_ADAPTER;
  if (choice !== undefined) return CHOICES.find((name) => name === choice) ?? refuse('BLUEPRINT_ADAPTER', choice, CHOICES);
  if (!isMain) return 'lambda';
  if (env.AWS_LAMBDA_RUNTIME_API !== undefined) return 'lambda-runtime';
  if (env.BLUEPRINT_SOCKET !== undefined || env.PORT !== undefined) return 'http';
  return isStdinPiped() ? 'stdio' : 'http';
}

function refuse(what: string, value: string, possible: readonly string[]): never {
  throw new RunnerError('CONFIG_INVALID', `${what} is ${value}; it must be one of ${possible.join(', ')}`);
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
  throw new RunnerError('CONFIG_INVALID', `${name} is ${JSON.stringify(text)}; it must be a whole number from ${min} to ${max}`);
}
