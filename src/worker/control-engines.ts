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
}

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

  /** Does no I/O. */
  constructor(options: ControlEnginesOptions) {
    this.#options = options;
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

/** Jobs wait for engines that are away. */
function unavailable(error: RunnerError): RunnerError {
  if (error.retry !== 'safe' || !AWAY.has(error.code)) return error;
  return new RunnerError('EXECUTOR_UNAVAILABLE', error.message, { cause: error, details: error.details });
}
