/**
 * Code and layers on disk, named by the SHA-256 of their zip: `sha256/<hex>.zip` and, unpacked and read-only, `sha256/<hex>/`.
 * Whatever has such a name is complete: it was written under another one, synced, and renamed.
 */

import { hash, randomUUID } from 'node:crypto';
import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { chmod, copyFile, link, lstat, mkdir, open, readFile, readdir, readlink, rename, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import type { ZipLimits } from './unzip.ts';
import { readZip, syncFolder, unpackZip } from './unzip.ts';

export interface Blob {
  readonly sha256: string;
  readonly zipBytes: number;
  readonly unpackedBytes: number;
}

const TEMPORARY = '.part-';

export class BlobStore {
  readonly #folder: string;
  readonly #making = new Map<string, Promise<void>>();
  readonly #held = new Map<string, number>();

  /** Removes what is not in `known`: an earlier process was killed before it was referred to. */
  constructor(folder: string, known: ReadonlySet<string>) {
    this.#folder = join(folder, 'sha256');
    mkdirSync(this.#folder, { recursive: true, mode: 0o711 });
    for (const name of readdirSync(this.#folder)) {
      if (!known.has(name.replace(/\.zip$/, ''))) removeSync(join(this.#folder, name));
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
          await this.#make(sha256, (part) => unpackZip(zip, part, limits));
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
          await mkdir(part);
          for (const layer of layers) await overlay(this.treeOf(layer), part);
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
    const part = this.#part();
    if (this.has(sha256)) renameSync(this.treeOf(sha256), part);
    return removeTree(part);
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
      await makeReadOnly(part);
      await rename(part, this.treeOf(sha256));
      await chmod(this.treeOf(sha256), 0o555);
      await syncFolder(this.#folder);
    } catch (thrown) {
      await removeTree(part);
      throw thrown;
    }
  }

  async #writeZip(sha256: string, zip: Uint8Array): Promise<void> {
    const part = this.#part();
    const file = await open(part, 'wx', 0o600);
    try {
      await file.writeFile(zip);
      await file.sync();
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

/** Everything beneath the folder, not the folder itself: a folder that cannot be written cannot be renamed on every system. */
async function makeReadOnly(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      await makeReadOnly(path);
      await chmod(path, 0o555);
    } else if (entry.isFile()) {
      const { mode, nlink } = await lstat(path);
      if (nlink === 1) await chmod(path, mode & 0o111 ? 0o555 : 0o444);
    }
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
