/** Instances as threads of this process that run WebAssembly modules. */

import { RunnerError, silentTelemetry, systemClock } from '../../src/plugin.ts';
import type { Clock, FunctionVersion, Instance, InstanceBackend, LaunchSpec, Telemetry } from '../../src/plugin.ts';
import { EngineThread } from './engine-thread.ts';
import { ModuleCache } from './module-cache.ts';
import type { CacheCounts } from './module-cache.ts';
import type { WasiSettings } from './wasi.ts';

export interface WasmBackendOptions {
  /** Threads that wait for a function. Default 1. */
  readonly blanks?: number;
  /** Stack of one instance. Default 4. */
  readonly stackMb?: number;
  /** Of an answer; the function runtime has a limit of its own, which is the same by default. Default 6 MiB and 100 bytes. */
  readonly outputBytesMax?: number;
  /** Of a module before it is compiled. Default 64 MiB. */
  readonly moduleBytesMax?: number;
  /** Compiled modules that are kept. Default 64. */
  readonly modulesMax?: number;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
}

const WASM_RUNTIMES: readonly string[] = ['wasm', 'wasi-preview1'];
/** Variables of a function that its module does not see. */
const DETERMINISTIC_VARIABLE = 'WASM_DETERMINISTIC';
const CLOCK_VARIABLE = 'WASM_CLOCK_MS';
const BLANKS_DEFAULT = 1;
const STACK_MB_DEFAULT = 4;
const HEAP_MB = 64;
const OUTPUT_BYTES_DEFAULT = 6 * 1024 * 1024 + 100;
const MODULE_BYTES_DEFAULT = 64 * 1024 * 1024;
const MODULES_DEFAULT = 64;
/** A thread that waits must not slow down the one that was just launched. */
const REFILL_DELAY_MS = 20;

/**
 * One thread for each instance, a new instance of the module for each call. A module has its memory, its stack, its time and its answer
 * limited; it has no files and no network. Those of one process share compiled modules.
 *
 * @example
 * const runtime = new FunctionRuntime({ backend: new WasmBackend(), folder });
 */
export class WasmBackend implements InstanceBackend {
  readonly name = 'wasm';
  readonly #options: WasmBackendOptions;
  readonly #clock: Clock;
  readonly #cache: ModuleCache;
  readonly #all = new Set<EngineThread>();
  readonly #instances = new Map<string, EngineThread>();
  #blanks: EngineThread[] = [];
  #isFilling = false;
  #isClosed = false;

  /** Does no I/O. */
  constructor(options: WasmBackendOptions = {}) {
    const { clock = systemClock, telemetry = silentTelemetry } = options;
    this.#options = options;
    this.#clock = clock;
    const [hit, miss] = (['hit', 'miss'] as const).map((outcome) =>
      telemetry.metrics.counter({
        name: 'blueprint_wasm_modules_total',
        help: 'Compiled modules that were asked for',
        labels: { outcome },
      }),
    );
    this.#cache = new ModuleCache({
      modulesMax: options.modulesMax ?? MODULES_DEFAULT,
      moduleBytesMax: options.moduleBytesMax ?? MODULE_BYTES_DEFAULT,
      asked: (isHit) => (isHit ? hit : miss)?.add(),
    });
  }

  /** Of the cache of compiled modules. */
  get cacheCounts(): CacheCounts {
    return this.#cache.counts;
  }

  unavailable(): Promise<string | undefined> {
    return Promise.resolve(undefined);
  }

  async launch(spec: LaunchSpec): Promise<Instance> {
    const started = this.#clock.monotonic();
    this.#check(spec);
    const module = await this.#cache.get(spec.fn);
    if (!spec.runtimeApi.serve) await spec.runtimeApi.listen();
    this.#check(spec);
    const settings = this.#settings(module, spec);
    const thread = this.#taken() ?? this.#start();
    const { instanceId: id } = spec;
    this.#instances.set(id, thread);
    void thread.ended.then(() => this.#instances.delete(id));
    const createMs = this.#clock.monotonic() - started;
    thread.assign(settings, spec);
    this.#refillLater();
    return { id, handle: { kind: 'thread', thread: thread.id }, ended: thread.ended, createMs };
  }

  async terminate(instance: Instance): Promise<void> {
    await this.#instances.get(instance.id)?.terminate();
  }

  /** Compiles it. */
  async prepull(fn: FunctionVersion): Promise<void> {
    await this.#cache.get(fn);
  }

  /** Threads end with their process: there is nothing to remove. Those that wait are started. */
  reapStale(): Promise<number> {
    this.#fill();
    return Promise.resolve(0);
  }

  memoryBytes(instance: Instance): Promise<number | undefined> {
    return Promise.resolve(this.#instances.get(instance.id)?.memoryBytes);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all([...this.#all].map((thread) => thread.terminate()));
    this.#cache.clear();
  }

  #check({ fn, signal, instanceId }: LaunchSpec): void {
    if (this.#isClosed) throw new RunnerError('BACKEND_UNAVAILABLE', 'the wasm backend is closed');
    if (signal.aborted) throw new RunnerError('ABORTED', `the start of instance ${instanceId} was given up`, { cause: signal.reason });
    if (!WASM_RUNTIMES.includes(fn.runtime))
      throw new RunnerError('RUNTIME_UNSUPPORTED', `the wasm backend cannot run ${fn.runtime}; it runs ${WASM_RUNTIMES.join(', ')}`, {
        details: { runtime: fn.runtime },
      });
    if (fn.layers.length > 0)
      throw new RunnerError('RUNTIME_UNSUPPORTED', `function ${fn.name} has layers, and a WebAssembly module has no files to see them in`);
  }

  #settings(module: object, { fn, environment }: LaunchSpec): WasiSettings {
    const { [DETERMINISTIC_VARIABLE]: seed, [CLOCK_VARIABLE]: clockMs = '0', ...seen } = environment;
    const isDeterministic = seed !== undefined && seed !== '';
    if (isDeterministic && !/^\d{1,15}$/.test(clockMs))
      throw new RunnerError('CONFIG_INVALID', `${CLOCK_VARIABLE} of function ${fn.name} must be milliseconds since the epoch`);
    return {
      module,
      name: fn.handler,
      // Some of what describes an instance is different for each.
      environment: isDeterministic ? without(fn.environment, [DETERMINISTIC_VARIABLE, CLOCK_VARIABLE]) : seen,
      outputBytesMax: this.#options.outputBytesMax ?? OUTPUT_BYTES_DEFAULT,
      memoryBytesMax: fn.memoryMb * 1_048_576,
      deterministic: isDeterministic ? { seed, clockMs: Number(clockMs) } : undefined,
    };
  }

  #start(): EngineThread {
    const thread = new EngineThread({ stackMb: this.#options.stackMb ?? STACK_MB_DEFAULT, heapMb: HEAP_MB });
    this.#all.add(thread);
    void thread.ended.then(() => this.#all.delete(thread));
    return thread;
  }

  #taken(): EngineThread | undefined {
    for (;;) {
      const thread = this.#blanks.shift();
      if (!thread || thread.isAlive) return thread;
    }
  }

  #refillLater(): void {
    if (this.#isFilling) return;
    this.#isFilling = true;
    this.#clock.after(REFILL_DELAY_MS, () => {
      this.#isFilling = false;
      this.#fill();
    });
  }

  #fill(): void {
    this.#blanks = this.#blanks.filter(({ isAlive }) => isAlive);
    while (!this.#isClosed && this.#blanks.length < (this.#options.blanks ?? BLANKS_DEFAULT)) this.#blanks.push(this.#start());
  }
}

function without(environment: Readonly<Record<string, string>>, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !names.includes(name)));
}
