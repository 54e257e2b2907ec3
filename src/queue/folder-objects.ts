/** An object store in a folder of this machine: one file per object. */

import { hash, randomUUID } from 'node:crypto';
import { link, mkdir, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import type { ObjectReference, ObjectStore } from './queue.ts';

const UNIQUE = /^[0-9a-f-]{36}$/;
const SHA256 = /^[0-9a-f]{64}$/;

export interface FolderObjectsOptions {
  /** It is made. */
  readonly folder: string;
}

/**
 * An object is there whole or not at all: it is written beside, synchronised, and linked. A key is a UUID, or the SHA-256 of the bytes: of
 * those there is one object, however often it is put.
 */
export class FolderObjects implements ObjectStore {
  readonly #folder: string;

  constructor({ folder }: FolderObjectsOptions) {
    this.#folder = folder;
  }

  /** Idempotent by key; another object under it is `REQUEST_CONFLICT`. Rejects with `REQUEST_INVALID` when the key is not that of the bytes. */
  async put(bytes: Uint8Array, key: string = randomUUID()): Promise<ObjectReference> {
    const sha256 = hash('sha256', bytes, 'hex');
    if (!UNIQUE.test(key) && !SHA256.test(key))
      throw new RunnerError('REQUEST_INVALID', 'the key of an object is a UUID or the SHA-256 of its bytes, in lower case');
    if (SHA256.test(key) && key !== sha256)
      throw new RunnerError('REQUEST_INVALID', `the bytes are not those of ${key}: their SHA-256 is ${sha256}`, {
        details: { key, sha256 },
      });
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const path = join(this.#folder, key);
    const part = `${path}.${randomUUID()}.new`;
    const file = await open(part, 'wx', 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
      await file.close();
      await link(part, path);
      await this.#sync();
    } catch (cause) {
      if (!isExisting(cause)) throw cause;
      if (hash('sha256', await readFile(path), 'hex') !== sha256)
        throw new RunnerError('REQUEST_CONFLICT', `there is another object ${key}`, { cause, details: { key } });
    } finally {
      await file.close();
      await rm(part, { force: true });
    }
    return { key, size: bytes.length, sha256 };
  }

  async get(reference: ObjectReference): Promise<Uint8Array> {
    const { key, size, sha256 } = reference;
    const bytes = await this.read(key);
    if (bytes.length === size && hash('sha256', bytes, 'hex') === sha256) return bytes;
    throw this.#damaged(key);
  }

  /** For who checks it himself: only what is named by its hash is verified. */
  async read(key: string): Promise<Uint8Array> {
    const bytes = await readFile(this.#path(key)).catch((cause: unknown) => {
      throw new RunnerError('NOT_FOUND', `there is no object ${key} in ${this.#folder}`, { cause, details: { key } });
    });
    if (SHA256.test(key) && hash('sha256', bytes, 'hex') !== key) throw this.#damaged(key);
    return bytes;
  }

  async remove({ key }: Pick<ObjectReference, 'key'>): Promise<void> {
    await rm(this.#path(key), { force: true });
  }

  #damaged(key: string): RunnerError {
    return new RunnerError('QUEUE_CORRUPT', `the object ${key} in ${this.#folder} is not what was put there`, { details: { key } });
  }

  async #sync(): Promise<void> {
    const folder = await open(this.#folder, 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  }

  /** References come over wires: a key must not leave the folder. */
  #path(key: string): string {
    if (!UNIQUE.test(key) && !SHA256.test(key))
      throw new RunnerError('NOT_FOUND', `${JSON.stringify(key)} is not the key of an object in ${this.#folder}`);
    return join(this.#folder, key);
  }
}

function isExisting(cause: unknown): boolean {
  return cause instanceof Error && 'code' in cause && cause.code === 'EEXIST';
}
