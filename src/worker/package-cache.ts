/** Packages of functions on this machine's disk: each is fetched once by its hash, verified, and kept while there is room. */

import { hash } from 'node:crypto';
import { mkdirSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { RunnerError, isRunnerError, toRunnerError } from '../errors.ts';
import type { ObjectReference, ObjectStore } from '../queue/queue.ts';
import { BlobStore } from '../runtime/store-blobs.ts';
import { ZIP_LIMITS } from '../runtime/unzip.ts';

export interface PackageCacheOptions {
  /** It is made. Of one worker at a time. */
  readonly folder: string;
  readonly objects: ObjectStore;
  /** On disk, zips and what is in them; what is in use may go beyond it. Default 2 GiB. */
  readonly bytesMax?: number;
  /** Before a package is removed: what still runs of it must end. */
  readonly onEvict?: (sha256: string) => void;
}

interface Kept {
  readonly bytes: number;
  /** Calls that use it now. */
  users: number;
}

export class PackageCache {
  readonly #options: PackageCacheOptions;
  readonly #bytesMax: number;
  #blobs: BlobStore | undefined;
  /** The least recently used first. */
  readonly #kept = new Map<string, Kept>();
  readonly #fetching = new Map<string, Promise<void>>();
  #bytes = 0;

  /** Does no I/O. */
  constructor(options: PackageCacheOptions) {
    this.#options = options;
    this.#bytesMax = options.bytesMax ?? 2 * 1024 ** 3;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Calls `use` with the folder of the unpacked package, which stays until it has ended. Rejects with `CODE_MISSING` when the store has no
   * such package, `PACKAGE_INVALID` when it is none or another one, `EXECUTOR_UNAVAILABLE` when this machine cannot hold it, and with what the
   * store rejects with; `ABORTED`, safe, when the signal fires before the package is there, which goes on for others.
   */
  async use<T>(object: ObjectReference, use: (folder: string) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const { sha256 } = object;
    const blobs = this.#open();
    const fetching = this.#kept.has(sha256) ? undefined : (this.#fetching.get(sha256) ?? this.#fetch(object));
    if (fetching) {
      this.#fetching.set(sha256, fetching);
      await untilGivenUp(fetching, signal);
    }
    const kept = this.#kept.get(sha256);
    if (!kept) return this.use(object, use, signal); // it was removed in the same turn
    kept.users += 1;
    this.#kept.delete(sha256);
    this.#kept.set(sha256, kept);
    try {
      return await use(blobs.treeOf(sha256));
    } finally {
      kept.users -= 1;
      this.#shrink();
    }
  }

  /** The package itself. Rejects with `CODE_MISSING`. */
  zipOf(sha256: string): Promise<Uint8Array> {
    return this.#open().zipOf(sha256);
  }

  close(): void {
    this.#blobs?.close();
  }

  /** What an earlier process kept is used again. */
  #open(): BlobStore {
    if (this.#blobs) return this.#blobs;
    try {
      this.#blobs = this.#opened();
    } catch (thrown) {
      throw onDisk(`the packages in ${this.#options.folder} cannot be read here`, thrown);
    }
    this.#shrink();
    return this.#blobs;
  }

  #opened(): BlobStore {
    const folder = join(this.#options.folder, 'sha256');
    mkdirSync(folder, { recursive: true, mode: 0o711 });
    const known = readdirSync(folder).filter((name) => /^[0-9a-f]{64}\.zip$/.test(name));
    const blobs = new BlobStore(this.#options.folder, new Set(known.map((name) => name.slice(0, -'.zip'.length))));
    for (const name of known) {
      const sha256 = name.slice(0, -'.zip'.length);
      if (blobs.has(sha256)) this.#keep(sha256, bytesOfTree(join(folder, sha256)) + statSync(join(folder, name)).size);
    }
    return blobs;
  }

  async #fetch(object: ObjectReference): Promise<void> {
    const { sha256 } = object;
    try {
      const zip = await this.#options.objects.get(object).catch((thrown: unknown) => {
        const error = toRunnerError(thrown);
        if (error.code !== 'NOT_FOUND') throw error;
        throw new RunnerError('CODE_MISSING', `the object store has no package ${sha256}`, { cause: error, details: { sha256 } });
      });
      const found = hash('sha256', zip, 'hex');
      if (found !== sha256)
        throw new RunnerError('PACKAGE_INVALID', `the package ${sha256} has the hash ${found}`, { details: { sha256 } });
      const keeping = this.#open().keep(zip, ZIP_LIMITS, ({ zipBytes, unpackedBytes }) => this.#keep(sha256, zipBytes + unpackedBytes));
      await keeping.catch((thrown: unknown) => {
        throw onDisk(`the package ${sha256}, ${zip.length} bytes, cannot be kept here`, thrown);
      });
    } finally {
      this.#fetching.delete(sha256);
    }
  }

  #keep(sha256: string, bytes: number): void {
    if (this.#kept.has(sha256)) return;
    this.#kept.set(sha256, { bytes, users: 0 });
    this.#bytes += bytes;
  }

  /** Never rejects: what cannot be removed is removed by the next process. */
  async #remove(sha256: string): Promise<void> {
    try {
      await this.#blobs?.remove(sha256);
    } catch {
      // Who used it last has its answer.
    }
  }

  #shrink(): void {
    for (const [sha256, { bytes, users }] of this.#kept) {
      if (this.#bytes <= this.#bytesMax) return;
      if (users > 0) continue;
      this.#options.onEvict?.(sha256);
      this.#kept.delete(sha256);
      this.#bytes -= bytes;
      void this.#remove(sha256);
    }
  }
}

/** What is fetched, unless the signal fires before. Rejects then with `ABORTED`, safe: the job was not begun. */
export async function untilGivenUp<T>(fetching: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return fetching;
  const { promise, reject } = Promise.withResolvers<never>();
  const giveUp = (): void =>
    reject(new RunnerError('ABORTED', 'the job was given up before it began', { cause: signal.reason, retry: 'safe' }));
  if (signal.aborted) giveUp();
  signal.addEventListener('abort', giveUp, { once: true });
  return Promise.race([fetching, promise]).finally(() => signal.removeEventListener('abort', giveUp));
}

/** It is this machine that cannot: another worker may, and this one later. What is wrong with the package itself stays as it is. */
function onDisk(what: string, thrown: unknown): RunnerError {
  if (isRunnerError(thrown)) return thrown;
  const cause = toRunnerError(thrown);
  return new RunnerError('EXECUTOR_UNAVAILABLE', `${what}: ${cause.message}`, { cause });
}

function bytesOfTree(folder: string): number {
  let bytes = 0;
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) bytes += statSync(join(entry.parentPath, entry.name)).size;
  return bytes;
}
