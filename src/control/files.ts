/** The files of a control plane that are not a database: keys, tokens, tickets. Readable for their owner only, there whole or not at all. */

import { randomUUID } from 'node:crypto';
import { closeSync, fchmodSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { RunnerError } from '../errors.ts';
import { makeFolder } from '../folder.ts';

/** Undefined when there is none. Throws `CONFIG_INVALID`. */
export function readSecretFile(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return undefined;
    throw failed(path, cause);
  }
}

/** In place of what was there. Throws `CONFIG_INVALID`. */
export function writeSecretFile(path: string, text: string): void {
  const part = `${path}.${randomUUID()}`;
  try {
    makeFolder(dirname(path), 0o700);
    const file = openSync(part, 'wx', 0o600);
    try {
      fchmodSync(file, 0o600);
      writeSync(file, `${text}\n`);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(part, path);
    const folder = openSync(join(dirname(path), '.'), 'r');
    fsyncSync(folder);
    closeSync(folder);
  } catch (cause) {
    rmSync(part, { force: true });
    throw failed(path, cause);
  }
}

/** A token of the operator, made when there is none. Throws `CONFIG_INVALID`. */
export function openToken(path: string, random: (bytes: number) => Uint8Array): string {
  const found = readSecretFile(path);
  if (found !== undefined) {
    if (/^bpro_[A-Za-z0-9_-]{43}$/.test(found)) return found;
    throw new RunnerError('CONFIG_INVALID', `${path} holds no token of an operator; remove it and another one is made`);
  }
  const token = `bpro_${Buffer.from(random(32)).toString('base64url')}`;
  writeSecretFile(path, token);
  return token;
}

function failed(path: string, cause: unknown): RunnerError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new RunnerError('CONFIG_INVALID', `${path} cannot be read or written: ${why}`, { cause, details: { path } });
}
