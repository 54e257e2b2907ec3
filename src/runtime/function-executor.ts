/** A handler bundle on this machine as an executor: its package in a function store, its instances in a function runtime of one backend. */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { Execution, ExecutorLimits, FaasExecutor, InvokeOptions } from '../executor/executor.ts';
import type { JobCall } from '../job/call.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { FunctionRuntime } from './function-runtime.ts';
import { fixedKeepAlive } from './keep-alive.ts';
import { RuntimeExecutor } from './runtime-executor.ts';
import type { FunctionVersion, InstanceBackend, NetworkAccess } from './runtime.ts';
import { FunctionStore } from './store.ts';

/** What `withFaasExecutor(id, { use: 'process', options })` takes, for every plugin that has a backend. */
export interface FunctionExecutorOptions {
  /** The zip that `bpr build` writes, for plugin `wasm` that of `bpr wasm build`, or the URI of an image (`image:...`). */
  readonly artifact: string;
  /** Default: that of this node; `wasm` for plugin `wasm`. */
  readonly runtime?: string;
  /** In the package. Default `handler.handler`; `handler.wasm` for plugin `wasm`. */
  readonly handler?: string;
  /** Default 256. */
  readonly memoryMb?: number;
  /** The longest that one call may run, at most 900,000. Default 60,000. */
  readonly timeoutMs?: number;
  /** Size of /tmp. Default 512. */
  readonly ephemeralMb?: number;
  /** All that the jobs see of the surroundings; nothing of the runner's own. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Default `none`. */
  readonly network?: NetworkAccess;
  /** Calls that one instance takes at the same time. Default 1. */
  readonly concurrencyPerInstance?: number;
  /** Default 100. */
  readonly instancesMax?: number;
  /** How long an instance stays without a call. Default 300,000. */
  readonly idleMs?: number;
  /** Options of the plugin's backend. */
  readonly backend?: Readonly<Record<string, unknown>>;
}

interface FunctionExecutorParts {
  /** Of the plugin. */
  readonly name: string;
  readonly backend: InstanceBackend;
  /** Of this executor alone; a short path, because it holds sockets. */
  readonly folder: string;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
}

const FUNCTION = 'jobs';
const IMAGE = 'image:';
/** The plugin that runs nothing of node. */
const WASM = 'wasm';
const OF_WASM = { runtime: 'wasm', handler: 'handler.wasm' };
const NODE = `nodejs${process.versions.node.split('.', 1)[0]}.x`;
const isText = (value: unknown): boolean => typeof value === 'string' && value !== '';
const isCount = (value: unknown): boolean => typeof value === 'number' && Number.isInteger(value) && value > 0;
const isRecord = (value: unknown): boolean => typeof value === 'object' && value !== null && !Array.isArray(value);
const CHECKS: Readonly<Record<keyof FunctionExecutorOptions, (value: unknown) => boolean>> = {
  artifact: isText,
  runtime: isText,
  handler: isText,
  memoryMb: isCount,
  timeoutMs: isCount,
  ephemeralMb: isCount,
  environment: (value) => isRecord(value) && Object.values(value as object).every((text) => typeof text === 'string'),
  network: (value) => value === 'none' || value === 'open',
  concurrencyPerInstance: isCount,
  instancesMax: isCount,
  idleMs: isCount,
  backend: isRecord,
};

/** Checks what a user wrote. Throws `CONFIG_INVALID`. */
export function functionExecutorOptions(plugin: string, given: unknown): FunctionExecutorOptions {
  const refuse = (message: string): RunnerError => new RunnerError('CONFIG_INVALID', `executor ${plugin}: ${message}`);
  if (typeof given !== 'object' || given === null) throw refuse('it takes an object of options with an artifact');
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(CHECKS, name)) throw refuse(`there is no option ${name}; there are ${Object.keys(CHECKS).join(', ')}`);
    if (value !== undefined && !CHECKS[name as keyof FunctionExecutorOptions](value)) throw refuse(`the option ${name} is not valid`);
  }
  if (!('artifact' in given)) throw refuse('it needs the option artifact: the zip that `bpr build` writes, or image:URI');
  // Every field was checked above.
  return given as FunctionExecutorOptions;
}

/**
 * Runs jobs on instances of a backend. Nothing is read, made or started before the first call, `warm` or `health`.
 *
 * Rejects with the errors of `RuntimeExecutor`, of `FunctionStore.create` and of the backend; what keeps it from opening is tried again with
 * the next call, which has not run then (`retry: 'safe'`).
 */
export class FunctionExecutor implements FaasExecutor {
  readonly name: string;
  readonly limits: ExecutorLimits;
  readonly #options: FunctionExecutorOptions;
  readonly #parts: FunctionExecutorParts;
  readonly #runtime: FunctionRuntime;
  readonly #executor: RuntimeExecutor;
  #fn: FunctionVersion | undefined;
  #store: FunctionStore | undefined;
  #isStarted = false;
  #opening: Promise<void> | undefined;
  #isClosed = false;

  constructor(options: FunctionExecutorOptions, parts: FunctionExecutorParts) {
    const { name, backend, folder, clock = systemClock, telemetry = silentTelemetry } = parts;
    const { instancesMax = 100, idleMs = 300_000, timeoutMs = 60_000 } = options;
    this.name = name;
    this.#options = options;
    this.#parts = parts;
    this.#runtime = new FunctionRuntime({
      backend,
      folder: join(folder, 'run'),
      clock,
      telemetry,
      limits: { instancesMax, instancesPerFunctionMax: instancesMax },
      keepAlive: fixedKeepAlive({ keepMs: idleMs }),
    });
    this.#executor = new RuntimeExecutor({ runtime: this.#runtime, fn: () => this.#fn, name, ownsRuntime: true, clock });
    this.limits = {
      ...this.#executor.limits,
      timeoutMsMax: timeoutMs,
      concurrencyMax: instancesMax * (options.concurrencyPerInstance ?? 1),
    };
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    if (!this.#fn) await this.#opened();
    return this.#executor.invoke(call, options);
  }

  async *invokeStream(call: JobCall, options: InvokeOptions): AsyncGenerator<Uint8Array, void, void> {
    if (!this.#fn) await this.#opened();
    yield* this.#executor.invokeStream(call, options);
  }

  async warm(jobId: bigint): Promise<void> {
    await this.#opened();
    await this.#executor.warm(jobId);
  }

  async health(jobId: bigint): Promise<void> {
    await this.#opened();
    await this.#executor.health(jobId);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#opening?.catch(() => undefined);
    await this.#executor.close();
    this.#store?.close();
  }

  #opened(): Promise<void> {
    if (this.#isClosed) return Promise.reject(new RunnerError('EXECUTOR_CLOSED', `executor ${this.name} is closed`));
    this.#opening ??= this.#open().catch((thrown: unknown) => {
      this.#opening = undefined;
      throw thrown;
    });
    return this.#opening;
  }

  async #open(): Promise<void> {
    const { artifact, memoryMb = 256, timeoutMs = 60_000, instancesMax: _, idleMs: __, backend: ___, ...settings } = this.#options;
    const isImage = artifact.startsWith(IMAGE);
    const code = isImage
      ? { kind: 'image' as const, uri: artifact.slice(IMAGE.length) }
      : { kind: 'zip' as const, bytes: await zipOf(artifact) };
    this.#store ??= FunctionStore.open({ folder: join(this.#parts.folder, 'store') });
    if (this.#store.list().items.some(({ name }) => name === FUNCTION)) this.#store.remove(FUNCTION);
    const { runtime = NODE, handler = 'handler.handler' } = { ...(this.name === WASM && OF_WASM), ...this.#options };
    const managed = isImage ? {} : { runtime, handler };
    await this.#store.create({ ...settings, ...managed, name: FUNCTION, code, memoryMb, timeoutMs });
    if (!this.#isStarted) await this.#runtime.start();
    this.#isStarted = true;
    this.#fn = this.#store.resolve(FUNCTION).fn;
  }
}

async function zipOf(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new RunnerError('CODE_MISSING', `the artifact ${path} cannot be read; write it with bpr build`, { cause, retry: 'safe' });
  }
}
