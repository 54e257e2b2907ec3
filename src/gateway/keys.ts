/** API keys: a folder with one file for each, so that two commands never overwrite each other's work. */

import { hash, randomBytes, timingSafeEqual } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../clock.ts';
import { systemClock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { SCOPES } from './http.ts';
import type { Scope } from './http.ts';
import { choice, list, number, object, optional, parseJson, text } from './schema.ts';
import type { Infer } from './schema.ts';

const NAME_CHARS_MAX = 128;
const FUNCTION_PATTERN = /^[A-Za-z0-9_.@*-]{1,256}$/;

const KEY_FILE = object('an API key', {
  id: text({ about: 'the public part', pattern: /^[a-z0-9]{16}$/ }),
  name: text({ about: 'what the key is for', charsMax: NAME_CHARS_MAX }),
  scopes: list(choice('a scope', SCOPES), { about: 'what it allows' }),
  functions: list(text({ about: 'a function name, * standing for any text', pattern: FUNCTION_PATTERN }), { about: 'for which functions' }),
  created_at: number('milliseconds since the epoch'),
  expires_at: optional(number('milliseconds since the epoch')),
  secret_sha256: text({ about: 'SHA-256 of the secret part, hex', pattern: /^[0-9a-f]{64}$/ }),
  signing_secret: optional(text({ about: 'the secret of an AWS key pair; signatures cannot be checked with its hash' })),
});
type KeyFile = Infer<typeof KEY_FILE>;

export interface ApiKey {
  readonly id: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly functions: readonly string[];
  /** Milliseconds since the epoch. */
  readonly createdAt: number;
  readonly expiresAt?: number;
  /** Of a key that also signs requests as AWS clients do. */
  readonly accessKeyId?: string;
}

export interface NewApiKey {
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** Default: all. */
  readonly functions?: readonly string[];
  readonly expiresAt?: number;
  /** Makes a key pair for AWS clients too. Its secret lies readable in the file: there is no other way to check signatures. */
  readonly signing?: boolean;
}

export interface CreatedApiKey {
  readonly key: ApiKey;
  /** Shown once; kept only as its hash. */
  readonly secret: string;
  readonly secretAccessKey?: string;
}

export interface KeyFolderOptions {
  readonly folder: string;
  readonly clock?: Clock;
  readonly random?: (bytes: number) => Uint8Array;
}

const FORM = /^bpr_([a-z0-9]{16})_([A-Za-z0-9_-]{43})$/;
const SIGNING_PREFIX = 'BPRK';
/** How long a revoked key may still work. */
const CACHE_MS = 1_000;
const CACHED_MAX = 10_000;

/** The keys of one gateway. A command may create or revoke keys while the gateway runs: it notices within a second. */
export class KeyFolder {
  readonly folder: string;
  readonly #clock: Clock;
  readonly #random: (bytes: number) => Uint8Array;
  readonly #cache = new Map<string, { readonly file: KeyFile | undefined; readonly readAt: number }>();

  constructor({ folder, clock = systemClock, random = randomBytes }: KeyFolderOptions) {
    this.folder = folder;
    this.#clock = clock;
    this.#random = random;
  }

  /** Throws `CONFIG_INVALID`. */
  create({ name, scopes, functions = ['*'], expiresAt, signing }: NewApiKey): CreatedApiKey {
    if (scopes.length === 0 || functions.length === 0)
      throw new RunnerError('CONFIG_INVALID', 'a key needs at least one scope and one function pattern');
    // Of a name that is longer all keys could not be listed any more.
    if (name.trim() === '' || name.length > NAME_CHARS_MAX || /\p{Cc}/u.test(name))
      throw new RunnerError('CONFIG_INVALID', `the name of a key is one line of 1 to ${NAME_CHARS_MAX} characters`);
    const wrong = functions.find((pattern) => !FUNCTION_PATTERN.test(pattern));
    if (wrong !== undefined) throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(wrong)} is no pattern of function names`);
    const id = Buffer.from(this.#random(8)).toString('hex');
    const secretPart = Buffer.from(this.#random(32)).toString('base64url');
    const signingSecret = signing ? Buffer.from(this.#random(30)).toString('base64') : undefined;
    const file: KeyFile = {
      id,
      name,
      scopes,
      functions,
      created_at: this.#clock.now(),
      ...(expiresAt !== undefined && { expires_at: expiresAt }),
      secret_sha256: hash('sha256', secretPart, 'hex'),
      ...(signingSecret !== undefined && { signing_secret: signingSecret }),
    };
    this.#write(file);
    return { key: shown(file), secret: `bpr_${id}_${secretPart}`, ...(signingSecret !== undefined && { secretAccessKey: signingSecret }) };
  }

  /** Oldest first, expired ones too. */
  list(): ApiKey[] {
    return names(this.folder)
      .map((id) => this.#read(id))
      .filter((file) => file !== undefined)
      .toSorted((left, right) => left.created_at - right.created_at)
      .map(shown);
  }

  /** Whether there was such a key. */
  revoke(id: string): boolean {
    if (!/^[a-z0-9]{16}$/.test(id) || this.#read(id) === undefined) return false;
    rmSync(join(this.folder, `${id}.json`), { force: true });
    this.#cache.delete(id);
    return true;
  }

  /** The key that `given` is, unless it is wrong, revoked or expired. */
  find(given: string): ApiKey | undefined {
    const [, id, secret = ''] = FORM.exec(given) ?? [];
    const file = id === undefined ? undefined : this.#valid(id);
    const same = timingSafeEqual(Buffer.from(hash('sha256', secret, 'hex')), Buffer.from(file?.secret_sha256 ?? '0'.repeat(64)));
    return file && same ? shown(file) : undefined;
  }

  /** The key pair of an AWS client. */
  findSigning(accessKeyId: string): { readonly key: ApiKey; readonly secretAccessKey: string } | undefined {
    const id = accessKeyId.startsWith(SIGNING_PREFIX) ? accessKeyId.slice(SIGNING_PREFIX.length).toLowerCase() : '';
    const file = /^[a-z0-9]{16}$/.test(id) ? this.#valid(id) : undefined;
    return file?.signing_secret === undefined ? undefined : { key: shown(file), secretAccessKey: file.signing_secret };
  }

  #valid(id: string): KeyFile | undefined {
    const now = this.#clock.now();
    let cached = this.#cache.get(id);
    if (!cached || now - cached.readAt >= CACHE_MS) {
      if (this.#cache.size >= CACHED_MAX) this.#cache.clear();
      cached = { file: this.#read(id), readAt: now };
      this.#cache.set(id, cached);
    }
    const { file } = cached;
    return file?.expires_at !== undefined && file.expires_at <= now ? undefined : file;
  }

  #read(id: string): KeyFile | undefined {
    let bytes: Uint8Array;
    try {
      bytes = readFileSync(join(this.folder, `${id}.json`));
    } catch (cause) {
      if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return undefined;
      throw unreadable(this.folder, cause);
    }
    try {
      return KEY_FILE.parse(parseJson(bytes, `${id}.json`), `${id}.json`);
    } catch (cause) {
      throw unreadable(this.folder, cause);
    }
  }

  #write(file: KeyFile): void {
    const path = join(this.folder, `${file.id}.json`);
    const draft = join(this.folder, `.${file.id}.tmp`);
    try {
      mkdirSync(this.folder, { recursive: true, mode: 0o700 });
      chmodSync(this.folder, 0o700);
      writeFileSync(draft, `${JSON.stringify(file, null, 2)}\n`, { mode: 0o600, flag: 'wx', flush: true });
      renameSync(draft, path);
    } catch (cause) {
      rmSync(draft, { force: true });
      throw unreadable(this.folder, cause);
    }
  }
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder).flatMap((name) => /^([a-z0-9]{16})\.json$/.exec(name)?.[1] ?? []);
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return [];
    throw unreadable(folder, cause);
  }
}

function unreadable(folder: string, cause: unknown): RunnerError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new RunnerError('CONFIG_INVALID', `the keys in ${folder} cannot be read or written: ${why}`, { cause });
}

function shown(file: KeyFile): ApiKey {
  return {
    id: file.id,
    name: file.name,
    scopes: file.scopes,
    functions: file.functions,
    createdAt: file.created_at,
    ...(file.expires_at !== undefined && { expiresAt: file.expires_at }),
    ...(file.signing_secret !== undefined && { accessKeyId: `${SIGNING_PREFIX}${file.id.toUpperCase()}` }),
  };
}
