/** An object store in a folder of this machine: one file per object. */

import { hash, randomUUID } from 'node:crypto';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import type { ObjectReference, ObjectStore } from './queue.ts';

const KEY = /^[0-9a-f-]{36}$/;

export interface FolderObjectsOptions {
  /** It is made. */
  readonly folder: string;
}

/** An object is there whole or not at all: it is written beside, synchronised, and renamed. */
export class FolderObjects implements ObjectStore {
  readonly #folder: string;

  constructor({ folder }: FolderObjectsOptions) {
    this.#folder = folder;
  }

  async put(bytes: Uint8Array): Promise<ObjectReference> {
    const key = randomUUID();
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const path = join(this.#folder, key);
    const file = await open(`${path}.new`, 'wx', 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.new`, path);
    const folder = await open(this.#folder, 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
    return { key, size: bytes.length, sha256: hash('sha256', bytes, 'hex') };
  }

  async get(reference: ObjectReference): Promise<Uint8Array> {
    const { key, size, sha256 } = reference;
    const bytes = await readFile(this.#path(key)).catch((cause: unknown) => {
      throw new RunnerError('NOT_FOUND', `there is no object ${key} in ${this.#folder}`, { cause, details: { key } });
    });
    if (bytes.length === size && hash('sha256', bytes, 'hex') === sha256) return bytes;
    throw new RunnerError('QUEUE_CORRUPT', `the object ${key} in ${this.#folder} is not what was put there`, {
      details: { key, size, sha256 },
    });
  }

  async remove({ key }: ObjectReference): Promise<void> {
    await rm(this.#path(key), { force: true });
  }

  /** References come over wires: a key must not leave the folder. */
  #path(key: string): string {
    if (!KEY.test(key)) throw new RunnerError('NOT_FOUND', `${JSON.stringify(key)} is not the key of an object in ${this.#folder}`);
    return join(this.#folder, key);
  }
}
