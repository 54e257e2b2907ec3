/** Engines that this worker does not reach: its control plane calls them. */

import type { Clock } from '../clock.ts';
import { settingsDocument } from '../engine/engine.ts';
import type { EngineAnswer } from '../engine/engine.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { ControlClient } from '../queue/control-client.ts';
import type { HttpResponse } from '../http/http.ts';
import type { FunctionVersion } from '../runtime/runtime.ts';
import type { FunctionTarget, TargetOptions } from './function-jobs.ts';

export interface ControlEnginesOptions {
  /** Its session has the scope `engines`. */
  readonly control: Pick<ControlClient, 'ask' | 'exchange'>;
  readonly clock: Clock;
  /** Default 64 MiB. */
  readonly responseBytesMax?: number;
  /** From 0 to 1. */
  readonly random?: () => number;
}

/** Between two questions whether engines are ready; half of it more or less, by chance; a quarter while none is. */
const ASK_MS = 2_000;
/** The control plane remembers so many of one worker. */
const FUNCTIONS_MAX = 100;
const RESPONSE_BYTES_MAX = 64 * 1024 * 1024;
/** What a call may wait for an instance. */
const QUEUE_MS_MAX = 30_000;
/** The call did not reach an engine, whatever the control plane calls it. */
const AWAY: ReadonlySet<string> = new Set(['EXECUTOR_CLOSED', 'RATE_LIMITED', 'QUEUE_CLOSED', 'EXECUTOR_THROTTLED']);

/**
 * Says what a function is where its control plane does not know it yet, and has it called there. Packages go from the object store to the engine:
 * this worker fetches none. A call is sent once. Rejects with the errors of engines, as an `EnginePool` does.
 *
 * @example
 * const target = new ControlEngines({ control: queue.control, clock });
 * const jobs = new FunctionJobs({ target, packages, objects });
 */
export class ControlEngines implements FunctionTarget {
  readonly fetchesPackages = true;
  readonly #options: ControlEnginesOptions;
  /** Ids there, by fingerprint. */
  readonly #registered = new Map<string, Promise<string>>();
  readonly #closing = new AbortController();
  #unready: string | undefined;
  #watching: Promise<void> | undefined;

  /** Does no I/O. */
  constructor(options: ControlEnginesOptions) {
    this.#options = options;
  }

  /** Why no engine would take a call, as it was found last; undefined: one would. */
  get unready(): string | undefined {
    return this.#unready;
  }

  /** Asks whether engines are ready, from now on again and again. Resolves after the first answer; never rejects. */
  async watch(): Promise<void> {
    await this.#ask();
    this.#watching ??= this.#watch();
  }

  /** Asks no more. Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#watching;
  }

  async invoke(fn: FunctionVersion, event: Uint8Array, options: TargetOptions = {}): Promise<EngineAnswer> {
    for (let isSecond = false; ; isSecond = true) {
      const id = await this.#idOf(fn);
      try {
        const { body, headers } = await this.#call(id, { fn, event, options });
        return { body, contentType: String(headers['content-type'] ?? 'application/octet-stream') };
      } catch (thrown) {
        const error = toRunnerError(thrown);
        // The control plane has begun anew, or has forgotten it.
        if (isSecond || error.code !== 'FUNCTION_NOT_FOUND') throw unavailable(error);
        this.#registered.delete(fn.fingerprint);
      }
    }
  }

  /** Other workers may call them: the control plane forgets what nobody calls. */
  retire(): void {}

  async #watch(): Promise<void> {
    const { clock, random = Math.random } = this.#options;
    const { signal } = this.#closing;
    while (!signal.aborted) {
      const share = this.#unready === undefined ? 1 : 0.25;
      await clock.sleep(share * ASK_MS * (0.5 + random()), signal).catch(() => {});
      if (!signal.aborted) await this.#ask();
    }
  }

  async #ask(): Promise<void> {
    const { signal } = this.#closing;
    try {
      const { engines } = await this.#options.control.ask({ method: 'GET', path: '/readyz', signal });
      this.#unready =
        isReadiness(engines) && engines.ready === 0 ? `none of the ${engines.all} engines of the control plane is ready` : undefined;
    } catch (thrown) {
      this.#unready = `the control plane does not say whether its engines are ready: ${toRunnerError(thrown).message}`;
    }
  }

  #call(id: string, { fn, event, options }: { fn: FunctionVersion; event: Uint8Array; options: TargetOptions }): Promise<HttpResponse> {
    const { control, clock, responseBytesMax = RESPONSE_BYTES_MAX } = this.#options;
    const { deadline = Infinity, affinity, signal } = options;
    const waitMs = Math.ceil(Math.min(deadline - clock.now(), fn.timeoutMs + QUEUE_MS_MAX));
    if (waitMs <= 0)
      throw new RunnerError('EXECUTOR_TIMEOUT', `the deadline of a call of ${fn.name} passed before it was sent`, { retry: 'safe' });
    const headers = ['x-timeout-ms', String(waitMs), ...(affinity === undefined ? [] : ['x-affinity', encodeURIComponent(affinity)])];
    const path = `/engines/functions/${id}/invoke`;
    return control.exchange({ path, body: event, contentType: 'application/json', headers, waitMs, signal, responseBytesMax });
  }

  /** Once for all calls that need it. */
  #idOf(fn: FunctionVersion): Promise<string> {
    const known = this.#registered.get(fn.fingerprint);
    if (known) return known;
    const registering = this.#register(fn).catch((thrown: unknown) => {
      this.#registered.delete(fn.fingerprint);
      const error = toRunnerError(thrown);
      // The function was not called, whatever became of this.
      throw error.retry === 'never' ? error : new RunnerError('EXECUTOR_UNAVAILABLE', error.message, { cause: error });
    });
    const [oldest] = this.#registered.keys();
    if (oldest !== undefined && this.#registered.size >= FUNCTIONS_MAX) this.#registered.delete(oldest);
    this.#registered.set(fn.fingerprint, registering);
    return registering;
  }

  async #register({ code, ...fn }: FunctionVersion): Promise<string> {
    if (code.kind === 'image')
      throw new RunnerError('RUNTIME_UNSUPPORTED', `function ${fn.name} is an image; engines run packages`, { retry: 'never' });
    const body = { ...settingsDocument(fn), name: fn.name, object: code.path, sha256: code.sha256 };
    const { id } = await this.#options.control.ask({ path: '/engines/functions', body });
    if (typeof id === 'string' && /^[0-9a-f]{64}$/.test(id)) return id;
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the control plane gave no id for the function ${fn.name}`);
  }
}

/** What the control plane says of its engines. */
function isReadiness(value: unknown): value is { readonly ready: number; readonly all: number } {
  return typeof value === 'object' && value !== null && 'ready' in value && 'all' in value;
}

/** Jobs wait for engines that are away. */
function unavailable(error: RunnerError): RunnerError {
  if (error.retry !== 'safe' || !AWAY.has(error.code)) return error;
  return new RunnerError('EXECUTOR_UNAVAILABLE', error.message, { cause: error, details: error.details });
}
