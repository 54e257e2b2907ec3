/** What instances are given of this machine: kept in one folder, made once, shared by all of them. */

import { createHash, randomUUID } from 'node:crypto';
import { chmod, chown, mkdir, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RunnerError, nodeClientSource } from '../../src/plugin.ts';
import type { FunctionVersion } from '../../src/plugin.ts';
import { mergedLayers } from './layers.ts';
import type { Layer } from './layers.ts';
import { hostRootfs, rootfsFolder } from './rootfs.ts';
import type { Rootfs } from './rootfs.ts';

export interface HostNode {
  readonly folder: string;
  readonly loader: string | undefined;
  readonly libraryPath: string;
}

export class HostFiles {
  readonly #folder: string;
  readonly #nodePath: string;
  readonly #made = new Map<string, Promise<unknown>>();

  constructor(folder: string, nodePath: string) {
    this.#folder = folder;
    this.#nodePath = nodePath;
  }

  rootfs(): Promise<Rootfs> {
    return this.#once('rootfs', () => hostRootfs(this.#nodePath));
  }

  /** The root file system as a folder. */
  node(): Promise<HostNode> {
    return this.#once('node', async () => {
      const rootfs = await this.rootfs();
      return { folder: await rootfsFolder(rootfs, this.#folder), loader: rootfs.loader, libraryPath: rootfs.libraryPath };
    });
  }

  /** The runtime client as a file. */
  client(): Promise<string> {
    return this.#once('client', async () => {
      const source = nodeClientSource();
      const file = join(this.#folder, `client-${createHash('sha256').update(source).digest('hex').slice(0, 16)}.cjs`);
      await mkdir(this.#folder, { recursive: true });
      const partial = `${file}.${randomUUID()}`;
      await writeFile(partial, source, { mode: 0o644 });
      await rename(partial, file);
      return file;
    });
  }

  /** What is to be seen at /opt. */
  layers(layers: readonly Layer[]): Promise<string | undefined> {
    if (layers.length === 0) return Promise.resolve(undefined);
    const key = `layers ${layers.map(({ sha256 }) => sha256).join()}`;
    return this.#once(key, () => mergedLayers(layers, join(this.#folder, 'layers')));
  }

  /** Rejects with `CODE_MISSING` when the folder of the code is not there or the user of the instance cannot read it. */
  async checkCode({ name, code }: FunctionVersion, uid: number): Promise<void> {
    if (code.kind === 'image') return;
    const found = await stat(code.path).catch((cause: unknown) => {
      throw new RunnerError('CODE_MISSING', `the code of ${name} is not there any more: deploy it again`, { cause });
    });
    const bits = found.uid === uid ? 0o500 : 0o005;
    if ((found.mode & bits) !== bits)
      throw new RunnerError('CODE_MISSING', `user ${uid}, as which ${name} runs, cannot read its code; allow it with chmod 755`, {
        cause: new Error(`${code.path} has mode ${(found.mode & 0o777).toString(8)}`),
      });
  }

  /** Makes each thing once; a failure is not kept. */
  async #once<Value>(key: string, make: () => Promise<Value>): Promise<Value> {
    let making = this.#made.get(key) as Promise<Value> | undefined;
    if (!making) {
      making = make();
      this.#made.set(key, making);
      making.catch(() => this.#made.delete(key));
    }
    return making;
  }
}

/** Lets the user of the instance, and nobody else, connect. Without root the instance runs as our own user, who may. */
export async function giveSocket(socketPath: string, uid: number): Promise<void> {
  if (process.getuid?.() !== 0) return;
  await chown(socketPath, uid, uid);
  await chmod(socketPath, 0o600);
}
