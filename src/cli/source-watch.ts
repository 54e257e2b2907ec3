/** Which of the author's files changed, while `bpr dev` serves them. */

import { statSync, watch } from 'node:fs';
import type { FSWatcher } from 'node:fs';
import { basename, dirname, join, sep } from 'node:path';

const DEBOUNCE_MS = 25;
const SOURCE = /\.(?:[cm]?[jt]s|json|wasm)$/;

interface DirectoryWatch {
  readonly watcher: FSWatcher;
  /** Of the directory. */
  readonly identity: string;
}

/** Says when one of the followed files changed. */
export class SourceWatch {
  readonly #onChange: (file: string, at: number) => void;
  readonly #watchers = new Map<string, DirectoryWatch>();
  readonly #files = new Set<string>();
  #isBroad = false;
  #isClosed = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(onChange: (file: string, at: number) => void) {
    this.#onChange = onChange;
  }

  /** Broad: any source beside them, because one that is missing may be what is waited for. */
  follow(files: readonly string[], isBroad: boolean): void {
    if (this.#isClosed) return;
    this.#isBroad = isBroad;
    // An attempt that failed early has not asked for all of them.
    if (!isBroad) this.#files.clear();
    for (const file of files) this.#files.add(file);
    for (const directory of new Set([...this.#files].map((file) => dirname(file)))) this.#watchDirectory(directory);
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    for (const { watcher } of this.#watchers.values()) watcher.close();
  }

  /** Editors replace files: a watch on the directory outlives that. A directory that was made anew needs another one. */
  #watchDirectory(directory: string): void {
    const found = statSync(directory, { throwIfNoEntry: false });
    const before = this.#watchers.get(directory);
    const identity = `${found?.ino} ${found?.birthtimeMs}`;
    if (!found || before?.identity === identity) return;
    const watcher = watch(directory, (_, name) => {
      if (name === null) return;
      const file = join(directory, basename(name));
      if (!this.#files.has(file) && !(this.#isBroad && this.#mayBeWaitedFor(file))) return;
      const at = performance.now();
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#onChange(file, at), DEBOUNCE_MS);
    });
    watcher.on('error', () => watcher.close());
    this.#watchers.set(directory, { watcher, identity });
    before?.watcher.close();
  }

  /** A source, or a directory that held one. */
  #mayBeWaitedFor(file: string): boolean {
    return SOURCE.test(file) || [...this.#files].some((followed) => followed.startsWith(file + sep));
  }
}
