/** WebAssembly modules for tests: from their text, from AssemblyScript, byte by byte. */

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createHash } from 'node:crypto';
import binaryen from 'assemblyscript/binaryen';
import { fingerprintOf } from '../../src/runtime/fingerprint.ts';
import { FunctionRuntime } from '../../src/runtime/function-runtime.ts';
import type { FunctionRuntimeOptions } from '../../src/runtime/function-runtime.ts';
import type { FunctionVersion } from '../../src/runtime/runtime.ts';
import { WasmBackend } from '../../plugins/wasm/index.ts';
import type { WasmBackendOptions } from '../../plugins/wasm/index.ts';

/** From the text format; everything that the engine knows is allowed. */
export function wat(text: string): Uint8Array {
  const module = binaryen.parseText(text);
  module.setFeatures(binaryen.Features.All);
  try {
    return module.emitBinary();
  } finally {
    module.dispose();
  }
}

const IMPORTS = `
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))`;

/** A command: its body, and what else the module has. Words for reads and writes lie at 0 to 31, a buffer of one page at 65,536. */
export function command(body: string, { memory = '2', rest = '' }: { readonly memory?: string; readonly rest?: string } = {}): Uint8Array {
  return wat(`(module ${IMPORTS} (memory (export "memory") ${memory}) ${rest} (func (export "_start") ${body}))`);
}

const READ = `
  (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 65536))
  (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))`;

/** Writes as many bytes of the buffer as word 8 says. */
export const writeTo = (fd: number): string => `
  (i32.store (i32.const 4) (i32.load (i32.const 8)))
  (drop (call $write (i32.const ${fd}) (i32.const 0) (i32.const 1) (i32.const 12)))`;

export const ECHO = command(`${READ} ${writeTo(1)}`);

/** Says so much on stderr. */
export const says = (text: string): string => `
  (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const ${text.length}))
  (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 12)))`;

/** A number as WebAssembly writes it. */
export function leb(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, ...leb(Math.floor(value / 128))];
}

export const section = (id: number, body: readonly number[]): number[] => [id, ...leb(body.length), ...body];
export const HEADER = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];

/** A function whose code is a module. */
export function versionOf(code: FunctionVersion['code'], settings: Partial<FunctionVersion> = {}): FunctionVersion {
  const fn = {
    name: 'module',
    version: '1',
    code,
    layers: [],
    runtime: 'wasm',
    handler: 'handler.wasm',
    memoryMb: 128,
    timeoutMs: 10_000,
    ephemeralMb: 512,
    environment: {},
    concurrencyPerInstance: 1,
    network: 'none',
    ...settings,
  } as const;
  return { ...fn, fingerprint: fingerprintOf(fn) };
}

/** A function runtime on threads; `run` gives the answer as text. */
export class Engine {
  readonly backend: WasmBackend;
  readonly runtime: FunctionRuntime;
  readonly folder: string;

  private constructor(folder: string, parts: { readonly backend: WasmBackend; readonly runtime: FunctionRuntime }) {
    this.folder = folder;
    this.backend = parts.backend;
    this.runtime = parts.runtime;
  }

  static async start(options: WasmBackendOptions = {}, limits: FunctionRuntimeOptions['limits'] = {}): Promise<Engine> {
    const folder = await mkdtemp(join(tmpdir(), 'bpr-wasm-'));
    const backend = new WasmBackend(options);
    const runtime = new FunctionRuntime({ backend, folder: join(folder, 'run'), limits });
    await runtime.start();
    return new Engine(folder, { backend, runtime });
  }

  /** A function of this module. */
  async fn(module: Uint8Array, settings: Partial<FunctionVersion> = {}): Promise<FunctionVersion> {
    const sha256 = createHash('sha256').update(module).digest('hex');
    const path = join(this.folder, sha256);
    await mkdir(path, { recursive: true });
    await writeFile(join(path, 'handler.wasm'), module);
    return versionOf({ kind: 'folder', path, sha256 }, settings);
  }

  async run(fn: FunctionVersion, event = '{}'): Promise<string> {
    const { body } = await this.runtime.invoke(fn, Buffer.from(event));
    return Buffer.from(body).toString();
  }

  async close(): Promise<void> {
    await this.runtime.close(0);
    await this.backend.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}
