/** What is uploaded to the FaaS server: a zip with an executable `bootstrap`, and the configuration of the function. */

import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { unzipSync } from 'fflate';
import { RunnerError, isRunnerError } from '../errors.ts';

export interface FaasFunctionConfig {
  /** Default 512. */
  readonly memoryMb: number;
  /** Default 300,000. */
  readonly timeoutMs: number;
  /** Default 100. */
  readonly concurrencyMax: number;
  readonly environment: Readonly<Record<string, string>>;
}

/** Limits of the specification. */
const BOUNDS = { memory_mb: [128, 10_240, 512], timeout_secs: [1, 900, 300], max_concurrency: [1, 1_000, 100] } as const;

/** Parses the header `X-Blueprint-Config`: base64 of `{memory_mb, timeout_secs, max_concurrency, env_vars}`. Throws `CONFIG_INVALID`. */
export function parseFunctionConfig(header: string | string[] | undefined): FaasFunctionConfig {
  const given = header === undefined ? {} : parseJson(Buffer.from(String(header), 'base64').toString('utf8'));
  const number = (name: keyof typeof BOUNDS): number => {
    const [minimum, maximum, preset] = BOUNDS[name];
    const value = given[name] ?? preset;
    if (typeof value === 'number' && value >= minimum && value <= maximum) return value;
    throw invalid(`${name} is ${JSON.stringify(value)}; it must lie between ${minimum} and ${maximum}`);
  };
  const environment = given['env_vars'] ?? {};
  if (typeof environment !== 'object' || Object.values(environment).some((value) => typeof value !== 'string')) {
    throw invalid('env_vars must be an object of strings');
  }
  return {
    memoryMb: number('memory_mb'),
    timeoutMs: number('timeout_secs') * 1_000,
    concurrencyMax: number('max_concurrency'),
    // Every value was just seen to be text.
    environment: environment as Record<string, string>,
  };
}

function parseJson(text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw invalid('it is not base64 of JSON', cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid('it is not an object');
  // A JSON object has text keys and unknown values.
  return value as Record<string, unknown>;
}

function invalid(what: string, cause?: unknown): RunnerError {
  return new RunnerError('CONFIG_INVALID', `X-Blueprint-Config: ${what}`, { cause });
}

/**
 * Unpacks a zip into a new directory and returns the path of its `bootstrap`. Nothing is written unless every name stays inside of
 * the directory and all files together fit the limit. Throws `CONFIG_INVALID`, `PAYLOAD_TOO_LARGE`.
 */
export async function unpackFunction(zip: Uint8Array, directory: string, bytesMax: number): Promise<string> {
  const files = Object.entries(unpack(zip, bytesMax)).filter(([name]) => !name.endsWith('/'));
  for (const [name] of files) checkName(name);
  if (!files.some(([name]) => name === 'bootstrap')) throw new RunnerError('CONFIG_INVALID', 'the zip has no file bootstrap at its root');
  await mkdir(directory, { recursive: true });
  for (const [name, content] of files) {
    const path = join(directory, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
  }
  const executable = join(directory, 'bootstrap');
  await chmod(executable, 0o755);
  return executable;
}

function unpack(zip: Uint8Array, bytesMax: number): Record<string, Uint8Array> {
  let announced = 0;
  try {
    return unzipSync(zip, {
      filter: (file) => {
        announced += file.originalSize;
        if (announced > bytesMax) throw tooLarge(announced, bytesMax);
        return true;
      },
    });
  } catch (cause) {
    if (isRunnerError(cause)) throw cause;
    throw new RunnerError('CONFIG_INVALID', 'the upload is not a zip file', { cause });
  }
}

function checkName(name: string): void {
  const parts = name.split('/');
  if (name.startsWith('/') || name.includes('\\') || name.includes('\0') || /^[A-Za-z]:/.test(name) || parts.includes('..')) {
    throw new RunnerError('CONFIG_INVALID', `the zip has a file ${JSON.stringify(name)}, which lies outside of it`);
  }
}

function tooLarge(size: number, limit: number): RunnerError {
  return new RunnerError('PAYLOAD_TOO_LARGE', `the zip unpacks to ${size} bytes or more; the limit is ${limit}`, {
    details: { size, limit },
  });
}
