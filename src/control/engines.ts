/** Engines that a control plane calls for workers which do not reach them. */

import { hash } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { EnginePool } from '../engine/engine-pool.ts';
import type { EngineCallOptions, EngineMethod, EngineStream, PackageCode } from '../engine/engine.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { KeyedObjects } from '../queue/shared-queue.ts';
import { fingerprintOf } from '../runtime/fingerprint.ts';
import type { CancelSignal, FunctionVersion } from '../runtime/runtime.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';

export interface EngineLimits {
  /** Calls that run at the same time: of all workers, of one. */
  readonly engineCallsMax: number;
  readonly engineCallsPerCallerMax: number;
}

export interface EnginesOptions extends EngineLimits {
  /** Nothing else is ever called. */
  readonly urls: readonly string[];
  /** What they ask for; no worker sees it. */
  readonly token?: string | undefined;
  /** Where packages lie. */
  readonly objects: Pick<KeyedObjects, 'read'>;
  readonly clock: Clock;
  readonly telemetry: Telemetry;
}

/** A function of the object store. */
export interface WantedFunction extends Pick<FunctionVersion, 'name' | 'runtime' | 'handler' | 'memoryMb' | 'timeoutMs' | 'ephemeralMb'> {
  readonly key: string;
  readonly sha256: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly concurrencyPerInstance: number;
}

export interface EngineRequest extends EngineCallOptions {
  /** As `register` gave it to this caller. */
  readonly id: string;
  readonly event: Uint8Array;
  readonly method: EngineMethod;
  readonly signal: CancelSignal;
}

interface Registered {
  readonly fn: FunctionVersion;
  usedAt: number;
}

interface Client {
  /** The first that was registered first. */
  readonly functions: Map<string, Registered>;
  readonly calls: AbortController[];
}

/** Who has more loses those that it registered first, and registers them again when it calls them. */
const FUNCTIONS_MAX = 100;
const IDLE_MS = 3_600_000;
const SWEEP_MS = 600_000;

/**
 * A caller calls only functions that it has registered: their code is what lies under their hash in the object store, whoever says what of it, and
 * one caller never meets what another one has set. Calls go to engines as those of an `EnginePool`.
 */
export class Engines {
  readonly #options: EnginesOptions;
  readonly #pool: EnginePool;
  readonly #clients = new Map<string, Client>();
  #running = 0;
  #sweptAt: number;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: EnginesOptions) {
    const { urls, token, clock, telemetry } = options;
    this.#options = options;
    this.#sweptAt = clock.now();
    const zipOf = (code: PackageCode): Promise<Uint8Array> => this.#zipOf(code);
    this.#pool = new EnginePool({ urls, token, clock, telemetry, zipOf, areAnonymous: true, metricsPrefix: 'blueprint_control_engine' });
  }

  /** What is known of each engine now. */
  get list(): EnginePool['engines'] {
    return this.#pool.engines;
  }

  /** From now on they are asked again and again whether they are ready. */
  watch(): void {
    this.#pool.health().catch(() => {});
  }

  /** The id of the function; the same for the same one. Neither its package nor an engine is asked for before it is called. */
  register(callerId: string, { key, sha256, ...settings }: WantedFunction): string {
    const now = this.#options.clock.now();
    this.#sweep(now);
    // Of the code in the object store the path is its key there.
    const code = { kind: 'folder', path: key, sha256 } as const;
    const parts = { ...settings, version: '$LATEST', code, layers: [], network: 'none' } as const;
    const fn = { ...parts, fingerprint: fingerprintOf(parts) };
    const client = this.#clients.get(callerId) ?? { functions: new Map<string, Registered>(), calls: [] };
    this.#clients.set(callerId, client);
    const { functions } = client;
    const known = functions.get(fn.fingerprint);
    const [oldest] = functions.values();
    functions.set(fn.fingerprint, { fn, usedAt: now });
    if (!known && oldest && functions.size > FUNCTIONS_MAX) this.#forget(client, oldest.fn);
    return fn.fingerprint;
  }

  /**
   * Resolves when the answer begins. Rejects with `FUNCTION_NOT_FOUND` when the caller has not registered it, `EXECUTOR_UNAVAILABLE` when too
   * many calls run, and with the errors of the pool. It ends with the signal, and with the session of the caller.
   */
  async call(callerId: string, { id, event, signal, ...options }: EngineRequest): Promise<EngineStream> {
    const client = this.#clients.get(callerId);
    const registered = client?.functions.get(id);
    if (!client || !registered)
      throw new RunnerError('FUNCTION_NOT_FOUND', `there is no function ${id} of ${callerId}; register it with POST /engines/functions`);
    registered.usedAt = this.#options.clock.now();
    const { controller, leave } = this.#enter(callerId, client);
    const abort = (): void => controller.abort(signal.reason);
    const end = (): void => {
      signal.removeEventListener('abort', abort);
      leave();
    };
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    try {
      const stream = await this.#pool.open(registered.fn, event, { ...options, signal: controller.signal });
      void stream.ended.then(end);
      return stream;
    } catch (thrown) {
      end();
      throw this.#told(toRunnerError(thrown));
    }
  }

  /** What is between us and the engine is nothing that its caller has done. */
  #told(error: RunnerError): RunnerError {
    if (error.code !== 'UNAUTHORIZED' && error.code !== 'FORBIDDEN') return error;
    this.#options.telemetry.log.error('an engine refuses the key of the control plane', { error });
    return new RunnerError('EXECUTOR_UNAVAILABLE', 'the engine refuses the key of the control plane', { cause: error });
  }

  /** Nothing of this caller runs on. */
  end(callerId: string): void {
    const client = this.#clients.get(callerId);
    if (!client) return;
    for (const controller of client.calls) controller.abort(new RunnerError('ABORTED', `the session of ${callerId} was ended`));
    for (const { fn } of client.functions.values()) this.#forget(client, fn);
    this.#clients.delete(callerId);
  }

  /** When no call runs any more. Idempotent. */
  close(): Promise<void> {
    return this.#pool.close();
  }

  #enter(callerId: string, { calls }: Client): { readonly controller: AbortController; readonly leave: () => void } {
    const { engineCallsMax, engineCallsPerCallerMax } = this.#options;
    if (this.#running >= engineCallsMax) throw busy(`${engineCallsMax} calls`);
    if (calls.length >= engineCallsPerCallerMax) throw busy(`${engineCallsPerCallerMax} calls of ${callerId}`);
    const controller = new AbortController();
    this.#running += 1;
    calls.push(controller);
    return {
      controller,
      leave: () => {
        this.#running -= 1;
        calls.splice(calls.indexOf(controller), 1);
      },
    };
  }

  #forget({ functions }: Client, { name, fingerprint }: FunctionVersion): void {
    functions.delete(fingerprint);
    const all = [...this.#clients.values()].flatMap((client) => [...client.functions.values()]);
    const keep = all.filter(({ fn }) => fn.name === name).map(({ fn }) => fn.fingerprint);
    if (!keep.includes(fingerprint)) this.#pool.retire(name, keep);
  }

  /** What nobody has called for long. */
  #sweep(now: number): void {
    if (now - this.#sweptAt < SWEEP_MS) return;
    this.#sweptAt = now;
    for (const [callerId, client] of this.#clients) {
      for (const { fn, usedAt } of client.functions.values()) if (now - usedAt > IDLE_MS) this.#forget(client, fn);
      if (client.functions.size === 0 && client.calls.length === 0) this.#clients.delete(callerId);
    }
  }

  async #zipOf({ path: key, sha256 }: PackageCode): Promise<Uint8Array> {
    const bytes = await this.#options.objects.read(key).catch((thrown: unknown) => {
      const error = toRunnerError(thrown);
      if (error.code !== 'NOT_FOUND') throw error;
      throw new RunnerError('CODE_MISSING', `the object store has no package ${sha256}`, { cause: error, details: { sha256 } });
    });
    const found = hash('sha256', bytes, 'hex');
    if (found === sha256) return bytes;
    throw new RunnerError('PACKAGE_INVALID', `the package ${sha256} has the hash ${found}`, { details: { sha256 } });
  }
}

function busy(what: string): RunnerError {
  return new RunnerError('EXECUTOR_UNAVAILABLE', `the control plane passes on ${what} to engines already; try again`, {
    details: { retryAfterSeconds: 1 },
  });
}
