/** Functions on engines elsewhere: gateways, such as those of `bpr wasm serve`, among which calls are divided. */

import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, isErrorCode, toRunnerError } from '../errors.ts';
import { Connections, parseTarget } from '../http/connection.ts';
import type { Target } from '../http/connection.ts';
import type { HttpResponse } from '../http/http.ts';
import type { FunctionVersion, InvocationOptions } from '../runtime/runtime.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { EngineMetrics } from './engine-metrics.ts';
import { homeFirst } from './rendezvous.ts';

export interface EnginePoolOptions {
  /** Addresses of gateways. */
  readonly urls: readonly string[];
  /** Sent as `Authorization: Bearer`. */
  readonly token?: string | undefined;
  /** The package of a function, by its hash. */
  readonly zipOf: (sha256: string) => Promise<Uint8Array>;
  /** Default 64 MiB. */
  readonly responseBytesMax?: number;
  /** Between two questions whether an engine is ready; half of it more or less, by chance. Default 2,000. */
  readonly probeMs?: number;
  /** From 0 to 1. */
  readonly random?: () => number;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
}

export interface EngineCallOptions extends Pick<InvocationOptions, 'deadline' | 'signal' | 'contentType'> {
  /** Calls with the same one go to the same engine while that is up. */
  readonly affinity?: string | undefined;
}

interface Engine {
  readonly url: string;
  readonly target: Target;
  /** Names there of the functions that are known to be there. */
  readonly deployed: Map<string, Promise<void>>;
  readonly metrics: EngineMetrics;
  running: number;
  /** It was not reached; until it is, it comes last. */
  isDown: boolean;
  /** Milliseconds since the epoch: it refused, and before then others are preferred. */
  awayUntil: number;
}

/** An engine that refused comes last for so long. */
const AWAY_MS = 2_000;
const PROBE_MS = 2_000;
const PROBE_MS_MAX = 2_000;
const PROBE_BYTES_MAX = 65_536;
const DEPLOY_MS_MAX = 60_000;
/** What a call may wait for an instance. */
const QUEUE_MS_MAX = 30_000;
const NAME_CHARACTERS_MAX = 40;
const FINGERPRINT_CHARACTERS = 16;

/**
 * Divides calls among engines: those that are ready and have not refused lately first; a call with an affinity goes where that decides (an engine
 * that goes moves only its own calls, and has them again when it is back), any other to the engine with the fewest. A function is deployed where
 * it is called, under a name with its fingerprint. From the first call on, all engines are asked again and again whether they are ready.
 *
 * Goes on to the next engine only when the call provably did not reach the function. Rejects with the errors of the engine, with
 * `EXECUTOR_CONNECTION_LOST` when the answer was lost, and with the last failure when no engine takes it.
 *
 * @example
 * const pool = new EnginePool({ urls: ['http://127.0.0.1:27288'], zipOf: (sha256) => packages.zipOf(sha256) });
 * const { body } = await pool.invoke(fn, event);
 */
export class EnginePool {
  readonly #options: EnginePoolOptions;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #connections: Connections;
  readonly #engines: readonly Engine[];
  readonly #closing = new AbortController();
  #calls = 0;
  #cancelProbe: (() => void) | undefined;
  #probing: Promise<unknown> | undefined;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: EnginePoolOptions) {
    const { urls, clock = systemClock, telemetry = silentTelemetry } = options;
    if (urls.length === 0) throw new RunnerError('CONFIG_INVALID', 'there is no address of an engine');
    this.#options = options;
    this.#clock = clock;
    this.#telemetry = telemetry;
    this.#connections = new Connections({}, clock);
    this.#engines = [...new Set(urls)].map((url) => ({
      url,
      target: targetOf(url),
      deployed: new Map(),
      metrics: new EngineMetrics(telemetry.metrics, url),
      running: 0,
      isDown: false,
      awayUntil: 0,
    }));
  }

  /** Asks all engines whether they are ready; calls prefer those that are. Rejects with `EXECUTOR_UNREACHABLE` when none is. */
  async health(): Promise<void> {
    this.#probeLater();
    const reasons = await Promise.all(this.#engines.map((engine) => this.#probe(engine)));
    if (reasons.every((reason) => reason !== undefined))
      throw new RunnerError('EXECUTOR_UNREACHABLE', `no engine is ready: ${reasons.join('; ')}`);
  }

  async invoke(
    fn: FunctionVersion,
    event: Uint8Array,
    options: EngineCallOptions = {},
  ): Promise<{ readonly body: Uint8Array; readonly contentType: string }> {
    if (this.#closing.signal.aborted) throw new RunnerError('EXECUTOR_CLOSED', 'the engines are not called any more');
    if (fn.code.kind === 'image')
      throw new RunnerError('RUNTIME_UNSUPPORTED', `function ${fn.name} is an image; engines run packages`, { retry: 'never' });
    const { sha256 } = fn.code;
    if ((options.deadline ?? Infinity) <= this.#clock.now())
      throw new RunnerError('EXECUTOR_TIMEOUT', `the deadline of a call of ${fn.name} passed before it was sent`, { retry: 'safe' });
    this.#probeLater();
    let last: RunnerError | undefined;
    for (const engine of this.#order(options.affinity)) {
      try {
        return await this.#measured(engine, { fn, sha256, event, options });
      } catch (thrown) {
        last = toRunnerError(thrown);
        if (options.signal?.aborted) throw last;
        // Safe to try again: it did not reach the function.
        const isReached = last.retry !== 'safe';
        this.#notTaken(engine, last, isReached);
        if (isReached) throw last;
        this.#telemetry.log.warn('an engine did not take a call', { url: engine.url, error: last });
      }
    }
    throw last ?? new RunnerError('EXECUTOR_UNAVAILABLE', 'no engine takes the call');
  }

  /** Removes other versions of this name that were deployed from here. One that is still called is deployed again. */
  retire(name: string, keep: readonly string[]): void {
    const kept = new Set(keep.map((fingerprint) => nameOf(name, fingerprint)));
    const prefix = nameOf(name, '');
    for (const engine of this.#engines) {
      for (const deployed of engine.deployed.keys()) {
        if (kept.has(deployed) || deployed.length !== prefix.length + FINGERPRINT_CHARACTERS || !deployed.startsWith(prefix)) continue;
        engine.deployed.delete(deployed);
        // An engine that is away keeps it: it does no harm there.
        this.#send(engine, { method: 'DELETE', path: `/functions/${deployed}` }).catch(() => {});
      }
    }
  }

  /** Running calls end, new ones are refused, nobody is asked any more. Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#cancelProbe?.();
    await this.#probing;
    await this.#connections.close();
  }

  /** One after the other: the next question is asked when all have been answered. */
  #probeLater(): void {
    if (this.#cancelProbe || this.#closing.signal.aborted) return;
    const { probeMs = PROBE_MS, random = Math.random } = this.#options;
    this.#cancelProbe = this.#clock.after(probeMs * (0.5 + random()), () => {
      this.#probing = Promise.all(this.#engines.map((engine) => this.#probe(engine))).then(() => {
        this.#cancelProbe = undefined;
        this.#probeLater();
      });
    });
  }

  #notTaken(engine: Engine, { code }: RunnerError, isReached: boolean): void {
    if (code === 'EXECUTOR_UNREACHABLE' || code === 'EXECUTOR_CONNECTION_LOST') this.#isThere(engine, false);
    else if (!isReached) engine.awayUntil = this.#clock.now() + AWAY_MS;
  }

  #isThere(engine: Engine, isThere: boolean, reason?: string): void {
    engine.metrics.up(isThere);
    if (engine.isDown !== isThere) return;
    engine.isDown = !isThere;
    const { url } = engine;
    if (isThere) this.#telemetry.log.info('an engine is ready again', { url });
    else this.#telemetry.log.warn('an engine is away', { url, ...(reason !== undefined && { reason }) });
  }

  #order(affinity: string | undefined): Engine[] {
    const now = this.#clock.now();
    const rank = ({ isDown, awayUntil }: Engine): number => (isDown ? 2 : awayUntil > now ? 1 : 0);
    this.#calls += 1;
    const first = this.#calls % this.#engines.length;
    const turned = [...this.#engines.slice(first), ...this.#engines.slice(0, first)];
    if (affinity === undefined) return turned.toSorted((left, right) => rank(left) - rank(right) || left.running - right.running);
    return homeFirst(affinity, this.#engines).toSorted((left, right) => rank(left) - rank(right));
  }

  async #measured(engine: Engine, call: EngineCall): Promise<{ readonly body: Uint8Array; readonly contentType: string }> {
    const startedAt = this.#clock.monotonic();
    engine.running += 1;
    engine.metrics.running(engine.running);
    let outcome: 'completed' | 'failed' | 'refused' = 'completed';
    try {
      const answer = await this.#on(engine, call);
      this.#isThere(engine, true);
      return answer;
    } catch (thrown) {
      outcome = toRunnerError(thrown).retry === 'safe' ? 'refused' : 'failed';
      throw thrown;
    } finally {
      engine.running -= 1;
      engine.metrics.ended(outcome, { running: engine.running, durationMs: this.#clock.monotonic() - startedAt });
    }
  }

  async #on(engine: Engine, call: EngineCall): Promise<{ readonly body: Uint8Array; readonly contentType: string }> {
    const { fn, event, options } = call;
    const name = nameOf(fn.name, fn.fingerprint);
    const deadline = Math.min(options.deadline ?? Infinity, this.#clock.now() + fn.timeoutMs + QUEUE_MS_MAX);
    for (let isSecond = false; ; isSecond = true) {
      await this.#deployed(engine, name, call);
      const headers = ['content-type', options.contentType ?? 'application/json'];
      const { signal } = options;
      const request = { method: 'POST', path: `/functions/${name}/invoke`, headers, body: event, deadline, signal } as const;
      try {
        const { body, headers: answered } = await this.#send(engine, request);
        return { body, contentType: String(answered['content-type'] ?? 'application/octet-stream') };
      } catch (thrown) {
        // It was removed there, or the engine has begun anew.
        if (isSecond || toRunnerError(thrown).code !== 'FUNCTION_NOT_FOUND') throw thrown;
        engine.deployed.delete(name);
      }
    }
  }

  /** Once for all calls that need it. */
  #deployed(engine: Engine, name: string, call: EngineCall): Promise<void> {
    const known = engine.deployed.get(name);
    if (known) return known;
    const deploying = this.#deploy(engine, name, call).catch((thrown: unknown) => {
      engine.deployed.delete(name);
      const error = toRunnerError(thrown);
      // The function was not called, whatever became of its deployment.
      const isAway = error.code === 'EXECUTOR_CONNECTION_LOST' || error.code === 'EXECUTOR_TIMEOUT';
      throw isAway ? new RunnerError('EXECUTOR_UNAVAILABLE', `${engine.url} took no function: ${error.message}`, { cause: error }) : error;
    });
    engine.deployed.set(name, deploying);
    return deploying;
  }

  async #deploy(engine: Engine, name: string, { fn, sha256 }: EngineCall): Promise<void> {
    const document = {
      name,
      zip: Buffer.from(await this.#options.zipOf(sha256)).toString('base64'),
      runtime: fn.runtime,
      handler: fn.handler,
      memory_mb: fn.memoryMb,
      timeout_ms: fn.timeoutMs,
      ephemeral_mb: fn.ephemeralMb,
      environment: fn.environment,
      concurrency_per_instance: fn.concurrencyPerInstance,
      network: fn.network,
    };
    const request = {
      method: 'POST',
      path: '/functions',
      headers: ['content-type', 'application/json'],
      body: Buffer.from(JSON.stringify(document)),
    } as const;
    await this.#send(engine, request).catch((thrown: unknown) => {
      // The name says that it is the same.
      if (toRunnerError(thrown).code !== 'FUNCTION_EXISTS') throw thrown;
    });
  }

  /** The reason why it is not ready. */
  async #probe(engine: Engine): Promise<string | undefined> {
    const { target, url } = engine;
    const deadline = this.#clock.now() + PROBE_MS_MAX;
    const { signal } = this.#closing;
    const request = { method: 'GET', path: `${target.path}/readyz`, headers: this.#credentials(), deadline, signal } as const;
    const reason = await this.#connections.send(target, { ...request, responseBytesMax: PROBE_BYTES_MAX }).then(
      ({ status }) => (status === 200 ? undefined : `${url} answered ${status}`),
      (thrown: unknown) => toRunnerError(thrown).message,
    );
    if (!signal.aborted) this.#isThere(engine, reason === undefined, reason);
    return reason;
  }

  #credentials(): string[] {
    const { token } = this.#options;
    return token === undefined ? [] : ['authorization', `Bearer ${token}`];
  }

  async #send(engine: Engine, request: EngineRequest): Promise<HttpResponse> {
    const { target } = engine;
    const { method, path, headers = [], body, deadline = this.#clock.now() + DEPLOY_MS_MAX, signal } = request;
    const cancel = new AbortController();
    const abort = (): void => cancel.abort(signal?.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const response = await this.#connections.send(target, {
        method,
        path: `${target.path}/api/v1${path}`,
        headers: [...headers, ...this.#credentials()],
        ...(body && { body }),
        deadline,
        signal: cancel.signal,
        responseBytesMax: this.#options.responseBytesMax ?? 64 * 1024 * 1024,
      });
      if (response.status >= 300) throw errorOf(engine.url, response);
      return response;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }
}

interface EngineCall {
  readonly fn: FunctionVersion;
  readonly sha256: string;
  readonly event: Uint8Array;
  readonly options: EngineCallOptions;
}

interface EngineRequest {
  readonly method: 'POST' | 'DELETE';
  readonly path: string;
  readonly headers?: readonly string[];
  readonly body?: Uint8Array;
  readonly deadline?: number;
  readonly signal?: InvocationOptions['signal'];
}

function targetOf(url: string): Target {
  try {
    return parseTarget(url);
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(url)} is not the address of an engine; write http://host:port`, { cause });
  }
}

function nameOf(name: string, fingerprint: string): string {
  return `${name.replace(/[^A-Za-z0-9_-]/g, '-').slice(0, NAME_CHARACTERS_MAX)}-${fingerprint.slice(0, FINGERPRINT_CHARACTERS)}`;
}

/** The error that an engine tells. */
function errorOf(url: string, { status, body }: HttpResponse): RunnerError {
  try {
    const document: unknown = JSON.parse(Buffer.from(body).toString());
    const told: unknown = typeof document === 'object' && document !== null && 'error' in document ? document.error : undefined;
    if (typeof told === 'object' && told !== null && 'code' in told && 'message' in told && isErrorCode(told.code)) {
      const details = 'details' in told && typeof told.details === 'object' && told.details !== null ? { ...told.details } : {};
      return new RunnerError(told.code, String(told.message), { details: { ...details, engine: url } });
    }
  } catch {
    // No document.
  }
  // Not the engine's own word, but that of something in between: the function may have run.
  const code = status === 503 ? 'EXECUTOR_UNAVAILABLE' : 'EXECUTOR_RESPONSE_INVALID';
  const message = `${url} answered ${status} without an error that is known`;
  return new RunnerError(code, message, { details: { engine: url, status }, retry: 'idempotent' });
}
