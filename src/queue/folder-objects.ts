/** An object store in a folder of this machine: one file per object. */

import { createHash, hash, randomUUID } from 'node:crypto';
import { constants, createReadStream, rmSync, statSync } from 'node:fs';
import { link, mkdir, open, readFile, readdir, rm, stat, utimes } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { CollectOptions, CollectableObjects, Collected, ResumableObjects, Uploaded } from './objects.ts';
import type { ObjectReference, ObjectStore } from './queue.ts';

const UNIQUE = /^[0-9a-f-]{36}$/;
const SHA256 = /^[0-9a-f]{64}$/;

export interface FolderObjectsOptions {
  /** It is made. */
  readonly folder: string;
  /** Tells how old files are. */
  readonly clock?: Clock;
}

/** Of what is written beside. */
const PART = '.part';
const NEW = '.new';

/**
 * An object is there whole or not at all: it is written beside, synchronised, and linked. A key is a UUID, or the SHA-256 of the bytes: of
 * those there is one object, however often it is put, and its age counts from the last time.
 */
export class FolderObjects implements ObjectStore, ResumableObjects, CollectableObjects {
  readonly #folder: string;
  readonly #clock: Clock;
  /** What is done with the parts of objects. */
  readonly #turns: { readonly key: string; readonly isOver: Promise<void> }[] = [];

  constructor({ folder, clock = systemClock }: FolderObjectsOptions) {
    this.#folder = folder;
    this.#clock = clock;
  }

  /** Under its SHA-256. */
  keep(bytes: Uint8Array): Promise<ObjectReference> {
    return this.put(bytes, hash('sha256', bytes, 'hex'));
  }

  /**
   * Idempotent by key; another object under it is `REQUEST_CONFLICT`. Rejects with `REQUEST_INVALID` when the key is not that of the bytes, and
   * with `QUEUE_DISK_FULL`, like all that reads or writes.
   */
  async put(bytes: Uint8Array, key: string = randomUUID()): Promise<ObjectReference> {
    const reference = { key, size: bytes.length, sha256: hash('sha256', bytes, 'hex') };
    checkKey(reference);
    await this.#told(() => this.#put(bytes, reference));
    return reference;
  }

  async #put(bytes: Uint8Array, reference: ObjectReference): Promise<void> {
    const { key } = reference;
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const part = join(this.#folder, `${key}.${randomUUID()}${NEW}`);
    const file = await open(part, 'wx', 0o600);
    try {
      await file.writeFile(bytes);
      await this.#date(file);
      await file.sync();
      await file.close();
      await this.#link(part, reference);
    } finally {
      await file.close();
      await rm(part, { force: true });
    }
  }

  async get(reference: ObjectReference): Promise<Uint8Array> {
    const { key, size, sha256 } = reference;
    const bytes = await this.read(key);
    if (bytes.length === size && hash('sha256', bytes, 'hex') === sha256) return bytes;
    throw this.#damaged(key);
  }

  /** For who checks it himself: only what is named by its hash is verified. */
  async read(key: string): Promise<Uint8Array> {
    const path = this.#path(key);
    const bytes = await this.#told(() => readFile(path), key);
    if (SHA256.test(key) && hash('sha256', bytes, 'hex') !== key) throw this.#damaged(key);
    return bytes;
  }

  async remove({ key }: Pick<ObjectReference, 'key'>): Promise<void> {
    await rm(this.#path(key), { force: true });
  }

  async readPart(key: string, from: number, bytes: number): Promise<Uint8Array> {
    const path = this.#path(key);
    const file = await this.#told(() => open(path, 'r'), key);
    try {
      const buffer = Buffer.alloc(Math.max(0, Math.min(bytes, (await file.stat()).size - from)));
      const { bytesRead } = await this.#told(() => file.read(buffer, 0, buffer.length, from));
      return buffer.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  }

  async uploaded(key: string): Promise<Uploaded> {
    const path = this.#path(key);
    const whole = await stat(path).catch(() => undefined);
    if (whole) {
      // It is about to be referred to.
      await this.#touch(path);
      return { size: whole.size, isWhole: true };
    }
    const part = await stat(`${path}${PART}`).catch(() => undefined);
    return { size: part?.size ?? 0, isWhole: false };
  }

  /** Nothing is written to an object that is there. */
  writePart(key: string, from: number, bytes: Uint8Array): Promise<Uploaded> {
    return this.#inTurn(key, () => this.#writePart(key, from, bytes));
  }

  async #writePart(key: string, from: number, bytes: Uint8Array): Promise<Uploaded> {
    const path = `${this.#path(key)}${PART}`;
    const there = await this.uploaded(key);
    if (there.isWhole) return there;
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const file = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    try {
      const { size } = await file.stat();
      if (from > size)
        throw new RunnerError('REQUEST_CONFLICT', `of the object ${key} there are ${size} bytes; those up to ${from} are missing`, {
          details: { key, size },
        });
      const { bytesWritten } = await file.write(bytes, 0, bytes.length, from);
      await this.#date(file);
      return { size: Math.max(size, from + bytesWritten), isWhole: false };
    } finally {
      await file.close();
    }
  }

  async finish(reference: ObjectReference): Promise<ObjectReference> {
    checkKey(reference);
    await this.#inTurn(reference.key, () => this.#finish(reference));
    return reference;
  }

  async #finish(reference: ObjectReference): Promise<void> {
    const { key, size, sha256 } = reference;
    const part = `${this.#path(key)}${PART}`;
    if ((await this.uploaded(key)).isWhole) {
      await this.get(reference);
      return rm(part, { force: true });
    }
    const found = await stat(part).catch(() => undefined);
    if ((found?.size ?? 0) < size)
      throw new RunnerError('REQUEST_CONFLICT', `of the ${size} bytes of ${key} there are ${found?.size ?? 0}`, {
        details: { key, size: found?.size ?? 0 },
      });
    const actual = createHash('sha256');
    await pipeline(createReadStream(part), actual);
    const digest = actual.digest('hex');
    if (found?.size !== size || digest !== sha256) {
      await rm(part, { force: true });
      throw new RunnerError(
        'REQUEST_INVALID',
        `the parts of ${key} are not what they should be: their SHA-256 is ${digest}, not ${sha256}`,
        {
          details: { key, sha256: digest },
        },
      );
    }
    const file = await open(part, 'r+');
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    await this.#link(part, reference);
    return rm(part, { force: true });
  }

  async collect({ graceMs, referred }: CollectOptions): Promise<Collected> {
    const before = this.#clock.now() - graceMs;
    const names = await readdir(this.#folder).catch(() => []);
    const old: string[] = [];
    for (const name of names) if (this.#isOlder(name, before)) old.push(name);
    const count = { objects: 0, parts: 0 };
    if (old.length === 0) return count;
    const kept = await referred();
    for (const name of old) {
      // One that was kept meanwhile is young again. Nothing else happens between the two.
      if (kept.has(name) || !this.#isOlder(name, before)) continue;
      rmSync(join(this.#folder, name), { force: true });
      count[UNIQUE.test(name) || SHA256.test(name) ? 'objects' : 'parts'] += 1;
    }
    return count;
  }

  #isOlder(name: string, before: number): boolean {
    const isOurs = UNIQUE.test(name) || SHA256.test(name) || name.endsWith(PART) || name.endsWith(NEW);
    const found = isOurs ? statSync(join(this.#folder, name), { throwIfNoEntry: false }) : undefined;
    return found !== undefined && found.mtimeMs < before;
  }

  /** What is there already is the same, and young again. */
  async #link(from: string, { key, sha256 }: ObjectReference): Promise<void> {
    const path = join(this.#folder, key);
    for (;;) {
      try {
        await link(from, path);
        return await this.#sync();
      } catch (cause) {
        if (!isCode(cause, 'EEXIST')) throw cause;
        const there = await readFile(path).catch(() => undefined);
        if (!there) continue; // it was removed in between
        if (hash('sha256', there, 'hex') !== sha256)
          throw new RunnerError('REQUEST_CONFLICT', `there is another object ${key}`, { cause, details: { key } });
        if (await this.#touch(path)) return;
      }
    }
  }

  /** By our clock, as everything that is compared with it. */
  async #date(file: FileHandle): Promise<void> {
    const now = new Date(this.#clock.now());
    await file.utimes(now, now);
  }

  /** False: it is not there any more. */
  async #touch(path: string): Promise<boolean> {
    const now = new Date(this.#clock.now());
    return utimes(path, now, now).then(
      () => true,
      (cause: unknown) => {
        if (isCode(cause, 'ENOENT')) return false;
        throw cause;
      },
    );
  }

  /** One after the other: what is verified is not written to meanwhile, and is there until it has its name. */
  async #inTurn<T>(key: string, act: () => Promise<T>): Promise<T> {
    const before = this.#turns.findLast((turn) => turn.key === key);
    const { promise: isOver, resolve } = Promise.withResolvers<void>();
    const turn = { key, isOver };
    this.#turns.push(turn);
    try {
      await before?.isOver;
      return await this.#told(act);
    } finally {
      this.#turns.splice(this.#turns.indexOf(turn), 1);
      resolve();
    }
  }

  /** What the system says, as an error of ours. A file that is not there is that of the object `key`, if there is one. */
  async #told<T>(act: () => Promise<T>, key?: string): Promise<T> {
    try {
      return await act();
    } catch (cause) {
      if (isRunnerError(cause)) throw cause;
      if (key !== undefined && isCode(cause, 'ENOENT'))
        throw new RunnerError('NOT_FOUND', `there is no object ${key} in ${this.#folder}`, { cause, details: { key } });
      const why = cause instanceof Error ? cause.message : String(cause);
      const message = `the objects in ${this.#folder} cannot be read or written: ${why}; see whether the disk is full or fails`;
      throw new RunnerError('QUEUE_DISK_FULL', message, { cause, details: { folder: this.#folder } });
    }
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

/** Throws `REQUEST_INVALID`. */
function checkKey({ key, sha256 }: ObjectReference): void {
  if (!UNIQUE.test(key) && !SHA256.test(key))
    throw new RunnerError('REQUEST_INVALID', 'the key of an object is a UUID or the SHA-256 of its bytes, in lower case');
  if (SHA256.test(key) && key !== sha256)
    throw new RunnerError('REQUEST_INVALID', `the bytes are not those of ${key}: their SHA-256 is ${sha256}`, { details: { key, sha256 } });
}

function isCode(cause: unknown, code: string): boolean {
  return cause instanceof Error && 'code' in cause && cause.code === code;
}
