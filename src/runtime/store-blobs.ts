/**
 * Code and layers on disk, named by the SHA-256 of their zip: `sha256/<hex>.zip` and, unpacked and read-only, `sha256/<hex>/`.
 * Whatever has such a name is complete: it was written under another one and renamed.
 *
 * A zip is on disk before anybody refers to it. Its tree follows later, because to sync thousands of files takes seconds: `synced/<hex>`
 * says that it is there. A tree without that mark may have suffered from a loss of power, and is unpacked again at the next start.
 */

import { hash, randomUUID } from 'node:crypto';
import { chmodSync, existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { chmod, copyFile, link, lstat, mkdir, open, readFile, readdir, readlink, rename, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import type { ZipLimits } from './unzip.ts';
import { readZip, syncFolder, unpackZip, unpackZipSync } from './unzip.ts';

export interface Blob {
  readonly sha256: string;
  readonly zipBytes: number;
  readonly unpackedBytes: number;
}

const TEMPORARY = '.part-';
/** Of what was taken once. */
const NO_LIMITS = { unpackedBytesMax: Infinity, entriesMax: Infinity, ratioMax: Infinity };

export class BlobStore {
  readonly #folder: string;
  readonly #synced: string;
  readonly #making = new Map<string, Promise<void>>();
  readonly #syncing = new Map<string, Promise<void>>();
  readonly #held = new Map<string, number>();

  /** Removes what is not in `known`: an earlier process was killed before it was referred to. */
  constructor(folder: string, known: ReadonlySet<string>) {
    this.#folder = join(folder, 'sha256');
    this.#synced = join(folder, 'synced');
    for (const path of [this.#folder, this.#synced]) {
      mkdirSync(path, { recursive: true, mode: 0o711 });
      for (const name of readdirSync(path)) if (!known.has(name.replace(/\.zip$/, ''))) removeSync(join(path, name));
    }
    for (const name of readdirSync(this.#folder)) {
      const [, sha256] = /^(\w+)\.zip$/.exec(name) ?? [];
      if (sha256 !== undefined && !(this.has(sha256) && existsSync(join(this.#synced, sha256)))) this.#unpackAgain(sha256);
    }
  }

  treeOf(sha256: string): string {
    return join(this.#folder, sha256);
  }

  has(sha256: string): boolean {
    return existsSync(this.treeOf(sha256));
  }

  async zipOf(sha256: string): Promise<Uint8Array> {
    try {
      return await readFile(`${this.treeOf(sha256)}.zip`);
    } catch (cause) {
      throw new RunnerError('CODE_MISSING', `the package ${sha256} is not on disk any more`, { cause });
    }
  }

  /** Stores a package; nothing removes it while `use` runs, which should refer to it. Throws `PACKAGE_INVALID`. */
  async keep<T>(zip: Uint8Array, limits: ZipLimits, use: (blob: Blob) => Promise<T> | T): Promise<T> {
    const unpackedBytes = readZip(zip, limits).reduce((sum, entry) => sum + (entry.kind === 'file' ? entry.unpackedBytes : 0), 0);
    const sha256 = hash('sha256', zip, 'hex');
    return this.#hold(sha256, async () => {
      await this.#once(sha256, async () => {
        // The tree last: where it is, the zip is too.
        await this.#writeZip(sha256, zip);
        try {
          await this.#make(sha256, (part) => unpackZip(zip, part, { ...limits, readOnly: true }));
          this.#syncLater(sha256);
        } catch (thrown) {
          rmSync(`${this.treeOf(sha256)}.zip`, { force: true });
          throw thrown;
        }
      });
      return use({ sha256, zipBytes: zip.length, unpackedBytes });
    });
  }

  /** One tree of several, a later one over an earlier one, as a system sees them at /opt. */
  async merge<T>(layers: readonly string[], use: (sha256: string) => Promise<T> | T): Promise<T> {
    const sha256 = hash('sha256', JSON.stringify(['merged', ...layers]), 'hex');
    return this.#hold(sha256, async () => {
      await this.#once(sha256, () =>
        this.#make(sha256, async (part) => {
          // No zip has this tree: it is on disk when somebody refers to it, and so are the files that it shares.
          for (const layer of layers) await this.#syncing.get(layer);
          await mkdir(part);
          for (const layer of layers) await overlay(this.treeOf(layer), part);
          await closeFolders(part);
        }),
      );
      return use(sha256);
    });
  }

  /** All that is on disk and not in use by a `keep` or `merge` that runs now. */
  removable(): string[] {
    const names = new Set(readdirSync(this.#folder).filter((name) => !name.startsWith(TEMPORARY)).map((name) => name.replace(/\.zip$/, ''))); // prettier-ignore
    return [...names].filter((name) => !this.#held.has(name));
  }

  /** Gone for everybody when it returns; the disk space follows. */
  remove(sha256: string): Promise<void> {
    rmSync(`${this.treeOf(sha256)}.zip`, { force: true });
    this.#syncing.delete(sha256);
    rmSync(join(this.#synced, sha256), { force: true });
    const part = this.#part();
    if (this.has(sha256)) renameSync(this.treeOf(sha256), part);
    return removeTree(part);
  }

  /** Resolves when nothing is written any more of what is being stored now. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#making.values());
  }

  /** Leaves to the next start what is not synced yet. */
  close(): void {
    this.#syncing.clear();
  }

  async #hold<T>(sha256: string, run: () => Promise<T>): Promise<T> {
    this.#held.set(sha256, (this.#held.get(sha256) ?? 0) + 1);
    try {
      return await run();
    } finally {
      const left = (this.#held.get(sha256) ?? 1) - 1;
      if (left > 0) this.#held.set(sha256, left);
      else this.#held.delete(sha256);
    }
  }

  async #once(sha256: string, make: () => Promise<void>): Promise<void> {
    if (this.has(sha256)) return;
    let making = this.#making.get(sha256);
    if (!making) {
      making = make().finally(() => this.#making.delete(sha256));
      this.#making.set(sha256, making);
    }
    await making;
  }

  async #make(sha256: string, fill: (part: string) => Promise<unknown>): Promise<void> {
    const part = this.#part();
    try {
      await fill(part);
      await rename(part, this.treeOf(sha256));
      await chmod(this.treeOf(sha256), 0o555);
      await syncFolder(this.#folder);
    } catch (thrown) {
      await removeTree(part);
      throw thrown;
    }
  }

  /** What an earlier process had unpacked. */
  #unpackAgain(sha256: string): void {
    const part = this.#part();
    try {
      unpackZipSync(readFileSync(`${this.treeOf(sha256)}.zip`), part, NO_LIMITS);
    } catch {
      // The disk has lost more than this can help with: the tree is left as it is.
      removeSync(part);
      return;
    }
    removeSync(this.treeOf(sha256));
    renameSync(part, this.treeOf(sha256));
    chmodSync(this.treeOf(sha256), 0o555);
    this.#syncLater(sha256);
  }

  /** Never fails: a tree that could not be synced is unpacked again at the next start. */
  #syncLater(sha256: string): void {
    // False when it was removed, and perhaps stored again.
    const isWanted = (): boolean => this.#syncing.get(sha256) === syncing;
    const syncing: Promise<void> = syncTree(this.treeOf(sha256), isWanted)
      .then(async () => {
        if (!isWanted()) return;
        writeFileSync(join(this.#synced, sha256), '');
        await syncFolder(this.#synced);
      })
      .catch(() => {})
      .finally(() => {
        if (isWanted()) this.#syncing.delete(sha256);
      });
    this.#syncing.set(sha256, syncing);
  }

  async #writeZip(sha256: string, zip: Uint8Array): Promise<void> {
    const part = this.#part();
    const file = await open(part, 'wx', 0o600);
    try {
      await file.writeFile(zip);
      await file.sync();
    } catch (thrown) {
      // A disk that is full stays so otherwise.
      rmSync(part, { force: true });
      throw thrown;
    } finally {
      await file.close();
    }
    await rename(part, `${this.treeOf(sha256)}.zip`);
    await syncFolder(this.#folder);
  }

  #part(): string {
    return join(this.#folder, `${TEMPORARY}${randomUUID()}`);
  }
}

/** Goes no further when it is not wanted any more. */
async function syncTree(folder: string, isWanted: () => boolean): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (!isWanted()) return;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path, isWanted);
    else if (entry.isFile()) await syncFolder(path);
  }
  await syncFolder(folder);
}

/** Everything beneath the folder, not the folder itself: a folder that cannot be written cannot be renamed on every system. */
async function closeFolders(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (!entry.isDirectory()) continue;
    await closeFolders(join(folder, entry.name));
    await chmod(join(folder, entry.name), 0o555);
  }
}

async function overlay(from: string, to: string): Promise<void> {
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    const there = await lstat(target).catch(() => undefined);
    if (there && !(there.isDirectory() && entry.isDirectory())) await rm(target, { recursive: true });
    if (entry.isDirectory()) {
      if (!there?.isDirectory()) await mkdir(target);
      await overlay(source, target);
    } else if (entry.isSymbolicLink()) {
      await symlink(await readlink(source), target);
    } else {
      // Where a disk has no hard links, or a file has too many.
      await link(source, target).catch(() => copyFile(source, target));
    }
  }
  await syncFolder(to);
}

/** A folder that cannot be written cannot be emptied either. */
async function removeTree(path: string): Promise<void> {
  makeWritable(path);
  await rm(path, { recursive: true, force: true });
}

function removeSync(path: string): void {
  makeWritable(path);
  rmSync(path, { recursive: true, force: true });
}

function makeWritable(path: string): void {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isDirectory()) return;
  chmodSync(path, 0o755);
  for (const entry of readdirSync(path, { withFileTypes: true })) if (entry.isDirectory()) makeWritable(join(path, entry.name));
}
