/** Files of settings under the user's configuration directory: where they lie, how they are read and replaced. */

import {
  chmodSync,
  closeSync,
  copyFileSync,
  fsyncSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, extname, isAbsolute, join } from 'node:path';
import { parse as parseToml, stringify as stringifyToml } from 'smol-toml';
import { RunnerError } from '../errors.ts';
import { makeFolder } from '../folder.ts';

/** What a file of settings holds: keys in the order of the file, known and unknown ones. */
export type SettingsDocument = Record<string, unknown>;

export type Environment = Readonly<Record<string, string | undefined>>;

export interface Place {
  /** Default `process.platform`. */
  readonly platform?: NodeJS.Platform;
  /** Default: the home directory of the user. */
  readonly home?: string;
}

export interface SettingsFile {
  readonly path: string;
  readonly format: 'json' | 'toml';
  readonly document: SettingsDocument;
}

/** Read, absent, or there and not to be used. */
export type ReadSettings =
  | SettingsFile
  | { readonly path: string; readonly missing: true }
  | { readonly path: string; readonly problem: string };

const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;
const BYTES_MAX = 1024 * 1024;

/**
 * Where programs keep their settings: `XDG_CONFIG_HOME` or `~/.config`; `~/Library/Application Support` on macOS, `APPDATA` on Windows. The
 * variable counts only when it is an absolute path, as the XDG specification asks.
 */
export function configDirectory(env: Environment, { platform = process.platform, home }: Place = {}): string {
  const own = home ?? env['HOME'] ?? homedir();
  if (platform === 'win32') return env['APPDATA'] ?? join(own, 'AppData', 'Roaming');
  if (platform === 'darwin') return join(own, 'Library', 'Application Support');
  const xdg = env['XDG_CONFIG_HOME'];
  return xdg?.startsWith('/') ? xdg : join(own, '.config');
}

/**
 * Where deployments keep what they need again. `XDG_STATE_HOME` counts only when it is an absolute path, as the XDG specification asks: in another
 * folder nothing would be found again.
 */
export function stateFolder(env: Environment): string {
  const { XDG_STATE_HOME: given = '' } = env;
  return join(isAbsolute(given) ? given : join(homedir(), '.local', 'state'), 'blueprint-runner');
}

/** Reads JSON, and what is not JSON as TOML. Never throws. */
export function readSettings(path: string): ReadSettings {
  let text: string;
  try {
    text = readFileSync(path, 'utf8').replace(/^\uFEFF/, '');
  } catch (cause) {
    return isMissing(cause) ? { path, missing: true } : { path, problem: `it cannot be read: ${messageOf(cause)}` };
  }
  if (text.length > BYTES_MAX) return { path, problem: `it has ${text.length} characters, at most ${BYTES_MAX} are read` };
  if (text.trim() === '') return { path, problem: 'it is empty' };
  try {
    const document: unknown = JSON.parse(text);
    if (isObject(document)) return { path, format: 'json', document };
    return { path, problem: 'it holds JSON, but no object' };
  } catch (notJson) {
    try {
      return { path, format: 'toml', document: parseToml(text) };
    } catch (notToml) {
      const cause = extname(path) === '.toml' ? notToml : notJson;
      return { path, problem: `it is neither JSON nor TOML: ${messageOf(cause).split('\n')[0] ?? ''}` };
    }
  }
}

/** As it will lie in the file: TOML in a `.toml` file, JSON in every other, because other readers of that file know only JSON. */
function formatOf(path: string): 'json' | 'toml' {
  return extname(path) === '.toml' ? 'toml' : 'json';
}

/**
 * Replaces a file: whoever reads meanwhile, or after a crash, sees the old one or the new one, whole. Nobody but the user can read it
 * (0600; directories that are made: 0700). A link stays a link: what it points to is replaced. Throws `CONFIG_INVALID`.
 */
export function writeSettings(path: string, document: SettingsDocument): void {
  const text = formatOf(path) === 'toml' ? `${stringifyToml(withoutNull(document))}\n` : `${JSON.stringify(document, null, 2)}\n`;
  try {
    makeFolder(dirname(path), DIRECTORY_MODE);
    replaceFile(targetOf(path), text);
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${path} cannot be written: ${messageOf(cause)}`, { cause, details: { path } });
  }
}

function replaceFile(target: string, text: string): void {
  const temporary = `${target}.${process.pid}.tmp`;
  rmSync(temporary, { force: true });
  const file = openSync(temporary, 'wx', FILE_MODE);
  try {
    try {
      writeFileSync(file, text);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    chmodSync(temporary, FILE_MODE);
    renameSync(temporary, target);
  } catch (thrown) {
    rmSync(temporary, { force: true });
    throw thrown;
  }
  syncDirectory(dirname(target));
}

/** Makes the new name last. Windows has no such call, and needs none. */
function syncDirectory(directory: string): void {
  if (process.platform === 'win32') return;
  const handle = openSync(directory, 'r');
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

/** TOML has no null; a key that is absent means the same. */
function withoutNull(value: SettingsDocument): SettingsDocument {
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, item]) => (item === null ? [] : [[key, isPlainObject(item) ? withoutNull(item) : item]])),
  );
}

/** Keeps what cannot be used, beside the file, and returns where. */
export function setAside(path: string): string {
  const aside = `${path}.corrupt`;
  copyFileSync(path, aside);
  return aside;
}

function targetOf(path: string): string {
  try {
    return realpathSync(path);
  } catch (cause) {
    if (isMissing(cause)) return path;
    throw cause;
  }
}

function isMissing(thrown: unknown): boolean {
  return thrown instanceof Error && 'code' in thrown && thrown.code === 'ENOENT';
}

function isPlainObject(value: unknown): value is SettingsDocument {
  if (!isObject(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

export function isObject(value: unknown): value is SettingsDocument {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}
