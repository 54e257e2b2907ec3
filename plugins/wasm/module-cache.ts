/** Compiled modules, shared by all threads of this process. */

import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join, normalize } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { RunnerError } from '../../src/plugin.ts';
import type { FunctionVersion } from '../../src/plugin.ts';
import { checkInterface, withLimits } from './module.ts';

export interface CacheCounts {
  readonly hits: number;
  readonly misses: number;
  /** That are kept. */
  readonly modules: number;
}

export interface ModuleCacheOptions {
  readonly modulesMax: number;
  readonly moduleBytesMax: number;
  /** A module was asked for. */
  readonly asked: (isHit: boolean) => void;
}

/**
 * Code that waits to be optimised asks in every loop whether its thread is to end. With the default V8 counts what the loop does instead, and a
 * loop of one large `memory.fill` does so little that nothing ended it within minutes. For all modules of the process: it is read again later.
 */
const STOPPABLE = '--no-wasm-dynamic-tiering';

/**
 * By the hash of the package, the file in it, and the memory that the function has. There is none on disk: node offers no way to write what
 * V8 compiled.
 */
export class ModuleCache {
  readonly #options: ModuleCacheOptions;
  /** The last used comes last. */
  readonly #modules = new Map<string, Promise<WebAssembly.Module>>();
  #hits = 0;
  #misses = 0;

  constructor(options: ModuleCacheOptions) {
    this.#options = options;
  }

  get counts(): CacheCounts {
    return { hits: this.#hits, misses: this.#misses, modules: this.#modules.size };
  }

  /** A `WebAssembly.Module`, which not everybody has a type for. Compiles it once. Rejects with `RUNTIME_UNSUPPORTED`, `CODE_MISSING`, `PACKAGE_INVALID`, `FUNCTION_OUT_OF_MEMORY`. */
  get(fn: FunctionVersion): Promise<object> {
    const { code, handler, memoryMb } = fn;
    if (code.kind === 'image')
      throw new RunnerError('RUNTIME_UNSUPPORTED', `function ${fn.name} is an image; WebAssembly modules come in packages`);
    const key = createHash('sha256')
      .update(JSON.stringify([code.sha256, code.path, handler, memoryMb]))
      .digest('hex');
    const kept = this.#modules.get(key);
    this.#options.asked(kept !== undefined);
    if (kept) this.#hits += 1;
    else this.#misses += 1;
    const module = kept ?? this.#compile(fn, code.path);
    this.#modules.delete(key);
    this.#modules.set(key, module);
    // What failed is tried again.
    if (!kept) module.catch(() => this.#modules.get(key) === module && this.#modules.delete(key));
    for (const old of this.#modules.keys()) {
      if (this.#modules.size <= this.#options.modulesMax) break;
      this.#modules.delete(old);
    }
    return module;
  }

  clear(): void {
    this.#modules.clear();
  }

  async #compile(fn: FunctionVersion, folder: string): Promise<WebAssembly.Module> {
    const { handler: name, memoryMb } = fn;
    const bytes = withLimits(await this.#read(fn, folder), { name, memoryMb });
    setFlagsFromString(STOPPABLE);
    const module = await WebAssembly.compile(bytes).catch((cause: unknown) => {
      const what = cause instanceof Error ? cause.message.replace(/^WebAssembly\.compile\(\): /, '') : String(cause);
      throw new RunnerError('PACKAGE_INVALID', `${name} cannot be compiled: ${what}`, { cause, details: { file: name } });
    });
    checkInterface(module, name);
    return module;
  }

  async #read(fn: FunctionVersion, folder: string): Promise<Uint8Array> {
    const { name, handler } = fn;
    const { moduleBytesMax } = this.#options;
    const isInside = !handler.startsWith('/') && !normalize(handler).startsWith('..');
    if (!isInside || !handler.endsWith('.wasm'))
      throw new RunnerError('CODE_MISSING', `the handler of ${name} is ${handler}; it must be the name of a .wasm file in the package`);
    const file = join(folder, handler);
    const found = await stat(file).catch(() => undefined);
    if (!found?.isFile())
      throw new RunnerError('CODE_MISSING', `the package of function ${name} has no ${handler}`, {
        cause: new Error(`${file} is no file`),
        details: { handler },
      });
    if (found.size > moduleBytesMax)
      throw new RunnerError('PACKAGE_INVALID', `${handler} has ${found.size} bytes; a module may have ${moduleBytesMax}`, {
        details: { file: handler, bytes: found.size, bytesMax: moduleBytesMax },
      });
    return readFile(file);
  }
}
