/** What the kernel says of a control group, version 1 or 2. */

import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Clock } from '../../src/plugin.ts';

const ROOT = '/sys/fs/cgroup';
const FREEZE_TRIES = 1_000;

/** The folders of a controller that a process may be in, as `/proc/PID/cgroup` names them; that of version 1 first. */
function foldersOf(text: string, controller: 'memory' | 'freezer', root: string): string[] {
  const folders: string[] = [];
  for (const line of text.split('\n')) {
    const [, id, controllers = '', path = ''] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers.split(',').includes(controller)) folders.unshift(join(root, controller, path));
    else if (id === '0' && controllers === '') folders.push(join(root, path));
  }
  return folders;
}

export function memoryFolders(text: string, root = ROOT): string[] {
  return foldersOf(text, 'memory', root);
}

/** Stops and continues all processes of a control group. */
export class Freezer {
  readonly #file: string;
  readonly #isUnified: boolean;

  private constructor(file: string, isUnified: boolean) {
    this.#file = file;
    this.#isUnified = isUnified;
  }

  /** Undefined where its files are not to be seen from here. `text` is that of `/proc/PID/cgroup`. */
  static of(text: string, root = ROOT): Freezer | undefined {
    for (const folder of foldersOf(text, 'freezer', root)) {
      for (const name of ['freezer.state', 'cgroup.freeze']) {
        const file = join(folder, name);
        if (existsSync(file)) return new Freezer(file, name === 'cgroup.freeze');
      }
    }
    return undefined;
  }

  /** Resolves when nothing in it runs. Fails after so many tries: a process may be in a system call that cannot be interrupted. */
  async freeze(clock: Clock, tries = FREEZE_TRIES): Promise<void> {
    for (let left = tries; left > 0; left -= 1) {
      await writeFile(this.#file, this.#isUnified ? '1' : 'FROZEN');
      if (await this.#isFrozen()) return;
      await clock.sleep(1);
    }
    await this.thaw();
    throw new Error('its processes cannot be stopped');
  }

  async thaw(): Promise<void> {
    await writeFile(this.#file, this.#isUnified ? '0' : 'THAWED');
  }

  async #isFrozen(): Promise<boolean> {
    if (!this.#isUnified) return (await readFile(this.#file, 'utf8')).trim() === 'FROZEN';
    return /^frozen 1$/m.test(await readFile(join(dirname(this.#file), 'cgroup.events'), 'utf8'));
  }
}

/**
 * Bytes that a control group uses, without the files that the kernel may drop at once; undefined where its files are not to be seen
 * from here.
 */
export async function memoryOf(folder: string): Promise<number | undefined> {
  const read = (name: string): Promise<string | undefined> => readFile(join(folder, name), 'utf8').catch(() => undefined);
  const usage = (await read('memory.usage_in_bytes')) ?? (await read('memory.current'));
  if (usage === undefined) return undefined;
  const inactive = /^(?:total_)?inactive_file (\d+)$/m.exec((await read('memory.stat')) ?? '')?.[1] ?? '0';
  return Math.max(0, Number(usage) - Number(inactive));
}

/** How many processes of it the kernel ended for want of memory; 0 where that is not to be seen. */
export async function oomKillsOf(folder: string): Promise<number> {
  for (const name of ['memory.oom_control', 'memory.events']) {
    const text = await readFile(join(folder, name), 'utf8').catch(() => '');
    const [, count] = /^oom_kill (\d+)$/m.exec(text) ?? [];
    if (count !== undefined) return Number(count);
  }
  return 0;
}
