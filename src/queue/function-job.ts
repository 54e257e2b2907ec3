/**
 * Jobs of type `function`: the payload is the event as the function gets it, the body of the result is the function's answer, and the headers
 * say which function it is.
 *
 * | header | |
 * | --- | --- |
 * | `function` | its name, for logs and metrics |
 * | `function-sha256`, `function-bytes` | the package, a zip in the object store |
 * | `function-object` | its key there; default: the SHA-256 |
 * | `function-image` | an image instead of a package |
 * | `function-settings` | JSON, see `FunctionJobSettings` |
 */

import { RunnerError } from '../errors.ts';
import type { Headers, ObjectReference } from './queue.ts';

export const FUNCTION_JOB = 'function';

export interface FunctionJobSettings {
  /** Default `nodejs24.x`. */
  readonly runtime: string;
  /** Default `handler.handler`, that of `bpr build`. */
  readonly handler: string;
  /** From 128, the least that engines give, to 32,768. Default 256. */
  readonly memoryMb: number;
  /** The longest that one call may run, from 1,000 to 900,000. Default 60,000. */
  readonly timeoutMs: number;
  /** Size of /tmp, from 512 to 10,240. Default 512. */
  readonly ephemeralMb: number;
  /** Default `none`. A worker may refuse `open`. */
  readonly network: 'none' | 'open';
  /** Names of variables of which the worker gives the function its own values. Default: none. */
  readonly environment: readonly string[];
}

export interface FunctionJob {
  readonly name: string;
  readonly code: { readonly kind: 'package'; readonly object: ObjectReference } | { readonly kind: 'image'; readonly uri: string };
  readonly settings: FunctionJobSettings;
}

const NAME = /^[A-Za-z0-9_-]{1,64}$/;
const SHA256 = /^[0-9a-f]{64}$/;
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
const DEFAULTS: FunctionJobSettings = {
  runtime: 'nodejs24.x',
  handler: 'handler.handler',
  memoryMb: 256,
  timeoutMs: 60_000,
  ephemeralMb: 512,
  network: 'none',
  environment: [],
};
/** Of a function, whoever runs it: no engine gives less. */
export const FUNCTION_BOUNDS = {
  memoryMb: { min: 128, max: 32_768 },
  timeoutMs: { min: 1_000, max: 900_000 },
  ephemeralMb: { min: 512, max: 10_240 },
} as const;
const within =
  ({ min, max }: { readonly min: number; readonly max: number }) =>
  (value: unknown): boolean =>
    Number.isInteger(value) && Number(value) >= min && Number(value) <= max;
const isShort = (value: unknown): boolean => typeof value === 'string' && value !== '' && value.length <= 256;
const CHECKS: Readonly<Record<keyof FunctionJobSettings, (value: unknown) => boolean>> = {
  runtime: isShort,
  handler: isShort,
  memoryMb: within(FUNCTION_BOUNDS.memoryMb),
  timeoutMs: within(FUNCTION_BOUNDS.timeoutMs),
  ephemeralMb: within(FUNCTION_BOUNDS.ephemeralMb),
  network: (value) => value === 'none' || value === 'open',
  environment: (value) =>
    Array.isArray(value) && value.length <= 64 && value.every((name) => typeof name === 'string' && VARIABLE.test(name)),
};

/** Fills in defaults. Throws `REQUEST_INVALID`. */
export function functionSettings(given: unknown): FunctionJobSettings {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) throw invalid('its settings are not an object');
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(CHECKS, name)) throw invalid(`it has no setting ${name.slice(0, 64)}; there are ${Object.keys(CHECKS).join(', ')}`);
    if (value === undefined || CHECKS[name as keyof FunctionJobSettings](value)) continue;
    const bounds = (FUNCTION_BOUNDS as Readonly<Record<string, { readonly min: number; readonly max: number }>>)[name];
    throw invalid(`the setting ${name} is not valid${bounds ? `; it must be a whole number from ${bounds.min} to ${bounds.max}` : ''}`);
  }
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return { ...DEFAULTS, ...set };
}

/** The headers of a job of this function. Throws `REQUEST_INVALID`. */
export function functionHeaders({ name, code, settings }: FunctionJob): Headers {
  if (!NAME.test(name)) throw invalid(`${JSON.stringify(name.slice(0, 80))} is not the name of a function`);
  const from =
    code.kind === 'image'
      ? { 'function-image': code.uri }
      : { 'function-sha256': code.object.sha256, 'function-bytes': String(code.object.size), 'function-object': code.object.key };
  return { function: name, ...from, 'function-settings': JSON.stringify(settings) };
}

/** Reads what `functionHeaders` wrote. Throws `REQUEST_INVALID`, which says what is wrong. */
export function functionOfHeaders(headers: Headers): FunctionJob {
  const name = headers['function'] ?? '';
  if (!NAME.test(name)) throw invalid('the header function is not the name of a function');
  let given: unknown;
  try {
    given = JSON.parse(headers['function-settings'] ?? '{}');
  } catch (cause) {
    throw invalid('the header function-settings is not JSON', cause);
  }
  return { name, code: codeOf(headers), settings: functionSettings(given) };
}

function codeOf(headers: Headers): FunctionJob['code'] {
  const uri = headers['function-image'];
  if (uri !== undefined) return { kind: 'image', uri };
  const sha256 = headers['function-sha256'] ?? '';
  const size = Number(headers['function-bytes'] ?? '');
  if (!SHA256.test(sha256)) throw invalid('it has neither function-image nor function-sha256');
  if (!Number.isSafeInteger(size) || size < 1) throw invalid('the header function-bytes is not the size of a package');
  return { kind: 'package', object: { key: headers['function-object'] ?? sha256, size, sha256 } };
}

function invalid(reason: string, cause?: unknown): RunnerError {
  return new RunnerError('REQUEST_INVALID', `this is not the job of a function: ${reason}`, { cause });
}
