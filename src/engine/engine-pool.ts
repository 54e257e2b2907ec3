/** Functions on engines elsewhere: among them calls are divided. */

import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { FunctionVersion } from '../runtime/runtime.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { EngineSet } from './engine-set.ts';
import type { Resolve } from './engine-set.ts';
import type { Engine, EngineAnswer, EngineCall, EngineCallOptions, EngineMethod, EngineStream, PackageCode } from './engine.ts';
import { homeFirst } from './rendezvous.ts';

export interface EnginePoolOptions {
  /** Addresses of gateways; `dns+http://name:port` stands for all addresses that the name has at the time. */
  readonly urls: readonly string[];
  /** Default: as the system resolves names. */
  readonly resolve?: Resolve;
  /** Sent as `Authorization: Bearer`. */
  readonly token?: string | undefined;
  /** The package of a function. */
  readonly zipOf: (code: PackageCode) => Promise<Uint8Array>;
  /** Default 64 MiB. */
  readonly responseBytesMax?: number;
  /** Between two questions whether an engine is ready; half of it more or less, by chance; a quarter while one is not. Default 2,000. */
  readonly probeMs?: number;
  /** From 0 to 1. */
  readonly random?: () => number;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  /** Errors call engines `engine-1`, `engine-2` and so on, and tell no address; the log and the metrics do. */
  readonly areAnonymous?: boolean;
  /** Before the names of its metrics. Default `blueprint_runner_worker_engine`. */
  readonly metricsPrefix?: string;
}

export interface KnownEngine {
  readonly url: string;
  /** What errors call it. */
  readonly name: string;
  /** It answered when it was asked or called last. */
  readonly isReady: boolean;
  readonly running: number;
}

/** An engine that refused comes last for so long. */
const AWAY_MS = 2_000;
const PROBE_MS = 2_000;
const RESPONSE_BYTES_MAX = 64 * 1024 * 1024;

/**
 * Divides calls among engines: those that are ready and have not refused lately first; a call with an affinity goes where that decides (an engine
 * that goes moves only its own calls, and has them again when it is back), any other to the engine with the fewest. A function is deployed where
 * it is called, under a name with its fingerprint. From the first call on, all engines are asked again and again whether they are ready, and
 * names what they stand for.
 *
 * Goes on to the next engine only when the call provably did not reach the function. Rejects with the errors of the engine, with
 * `EXECUTOR_CONNECTION_LOST` when the answer was lost, and with the last failure when no engine takes it.
 *
 * @example
 * const pool = new EnginePool({ urls: ['http://127.0.0.1:27288'], zipOf: ({ sha256 }) => packages.zipOf(sha256) });
 * const { body } = await pool.invoke(fn, event);
 */
export class EnginePool {
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #set: EngineSet;
  readonly #probes: { readonly everyMs: number; readonly random: () => number };
  readonly #closing = new AbortController();
  #calls = 0;
  #cancelProbe: (() => void) | undefined;
  #probing: Promise<unknown> | undefined;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: EnginePoolOptions) {
    const { urls, resolve, areAnonymous, metricsPrefix, token, zipOf, clock = systemClock, telemetry = silentTelemetry } = options;
    if (urls.length === 0) throw new RunnerError('CONFIG_INVALID', 'there is no address of an engine');
    this.#probes = { everyMs: options.probeMs ?? PROBE_MS, random: options.random ?? Math.random };
    this.#clock = clock;
    this.#telemetry = telemetry;
    const parts = { clock, token, zipOf, responseBytesMax: options.responseBytesMax ?? RESPONSE_BYTES_MAX };
    this.#set = new EngineSet({ urls, resolve, areAnonymous, metricsPrefix, parts, telemetry, signal: this.#closing.signal });
  }

  /** What is known of each engine now. */
  get engines(): readonly KnownEngine[] {
    return this.#set.all.map(({ url, name, isDown, isKnown, running }) => ({ url, name, isReady: isKnown && !isDown, running }));
  }

  /** Asks all engines whether they are ready; calls prefer those that are. Rejects with `EXECUTOR_UNREACHABLE` when none is. */
  async health(): Promise<void> {
    this.#probeLater();
    const reasons = await this.#probeAll();
    if (reasons.some((reason) => reason === undefined)) return;
    const failures = this.#set.failures.map(({ message }) => message);
    throw new RunnerError('EXECUTOR_UNREACHABLE', `no engine is ready: ${[...reasons, ...failures].join('; ')}`);
  }

  async invoke(fn: FunctionVersion, event: Uint8Array, options: EngineCallOptions = {}): Promise<EngineAnswer> {
    const call = this.#callOf(fn, event, options);
    return this.#onOne(call, async (engine) => {
      const taken = this.#take(engine);
      try {
        const answer = await engine.invoke(call);
        taken.ended();
        return answer;
      } catch (thrown) {
        taken.ended(thrown);
        throw thrown;
      }
    });
  }

  /** As `invoke`; resolves when the answer begins. An engine that breaks off in it is not replaced. */
  async open(
    fn: FunctionVersion,
    event: Uint8Array,
    options: EngineCallOptions & { readonly method?: EngineMethod } = {},
  ): Promise<EngineStream> {
    const call = this.#callOf(fn, event, options);
    return this.#onOne(call, async (engine) => {
      const taken = this.#take(engine);
      try {
        const stream = await engine.open(call, options.method ?? 'invoke');
        void stream.ended.then((error) => {
          taken.ended(error);
          if (error) this.#notTaken(engine, toRunnerError(error), true);
        });
        return stream;
      } catch (thrown) {
        taken.ended(thrown);
        throw thrown;
      }
    });
  }

  /** Removes other versions of this name that were deployed from here. One that is still called is deployed again. */
  retire(name: string, keep: readonly string[]): void {
    for (const engine of this.#set.all) engine.retire(name, keep);
  }

  /** Running calls end, new ones are refused, nobody is asked any more. Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#cancelProbe?.();
    await this.#probing;
    await this.#set.close();
  }

  /** Throws `EXECUTOR_CLOSED`, `RUNTIME_UNSUPPORTED`, `EXECUTOR_TIMEOUT`. */
  #callOf(fn: FunctionVersion, event: Uint8Array, options: EngineCallOptions): EngineCall {
    if (this.#closing.signal.aborted) throw new RunnerError('EXECUTOR_CLOSED', 'the engines are not called any more');
    if (fn.code.kind === 'image')
      throw new RunnerError('RUNTIME_UNSUPPORTED', `function ${fn.name} is an image; engines run packages`, { retry: 'never' });
    if ((options.deadline ?? Infinity) <= this.#clock.now())
      throw new RunnerError('EXECUTOR_TIMEOUT', `the deadline of a call of ${fn.name} passed before it was sent`, { retry: 'safe' });
    this.#probeLater();
    return { fn, code: fn.code, event, options };
  }

  async #onOne<T>({ options }: EngineCall, run: (engine: Engine) => Promise<T>): Promise<T> {
    if (this.#set.all.length === 0) await this.#set.refresh();
    let last: RunnerError | undefined;
    for (const engine of this.#order(options.affinity)) {
      try {
        const answer = await run(engine);
        this.#isThere(engine, true);
        return answer;
      } catch (thrown) {
        last = toRunnerError(thrown);
        if (options.signal?.aborted) throw last;
        // Safe to try again: it did not reach the function.
        const isReached = last.retry !== 'safe';
        this.#notTaken(engine, last, isReached);
        // The others are not to be blamed for a call that came too late to them.
        if (isReached || (options.deadline ?? Infinity) <= this.#clock.now()) throw last;
        this.#telemetry.log.warn('an engine did not take a call', { url: engine.url, error: last });
      }
    }
    throw last ?? this.#set.failures[0] ?? new RunnerError('EXECUTOR_UNAVAILABLE', 'no engine takes the call');
  }

  /** One after the other: the next question is asked when all have been answered. */
  #probeLater(): void {
    if (this.#cancelProbe || this.#closing.signal.aborted) return;
    const { everyMs, random } = this.#probes;
    const share = this.engines.every(({ isReady }) => isReady) ? 1 : 0.25;
    this.#cancelProbe = this.#clock.after(share * everyMs * (0.5 + random()), () => {
      this.#probing = this.#probeAll().then(() => {
        this.#cancelProbe = undefined;
        this.#probeLater();
      });
    });
  }

  /** The reasons why they are not ready, of those that the names stand for now. */
  async #probeAll(): Promise<(string | undefined)[]> {
    await this.#set.refresh();
    return Promise.all(this.#set.all.map((engine) => this.#probe(engine)));
  }

  /** The reason why it is not ready. */
  async #probe(engine: Engine): Promise<string | undefined> {
    const { signal } = this.#closing;
    const reason = await engine.probe(signal);
    if (!signal.aborted) this.#isThere(engine, reason === undefined, reason);
    return reason;
  }

  #notTaken(engine: Engine, { code }: RunnerError, isReached: boolean): void {
    if (code === 'EXECUTOR_UNREACHABLE' || code === 'EXECUTOR_CONNECTION_LOST') this.#isThere(engine, false);
    else if (!isReached) engine.awayUntil = this.#clock.now() + AWAY_MS;
  }

  #isThere(engine: Engine, isThere: boolean, reason?: string): void {
    const wasDown = engine.isDown;
    engine.isKnown = true;
    engine.isDown = !isThere;
    this.#set.show(engine);
    if (wasDown !== isThere) return;
    const { url } = engine;
    if (isThere) this.#telemetry.log.info('an engine is ready again', { url });
    else this.#telemetry.log.warn('an engine is away', { url, ...(reason !== undefined && { reason }) });
  }

  #order(affinity: string | undefined): Engine[] {
    const now = this.#clock.now();
    const rank = ({ isDown, awayUntil }: Engine): number => (isDown ? 2 : awayUntil > now ? 1 : 0);
    this.#calls += 1;
    const { all } = this.#set;
    const first = this.#calls % all.length;
    const turned = [...all.slice(first), ...all.slice(0, first)];
    if (affinity === undefined) return turned.toSorted((left, right) => rank(left) - rank(right) || left.running - right.running);
    return homeFirst(affinity, all).toSorted((left, right) => rank(left) - rank(right));
  }

  /** A call begins there. */
  #take(engine: Engine): { readonly ended: (thrown?: unknown) => void } {
    const startedAt = this.#clock.monotonic();
    engine.running += 1;
    engine.metrics.began();
    return {
      ended: (thrown) => {
        const outcome = thrown === undefined ? 'completed' : toRunnerError(thrown).retry === 'safe' ? 'refused' : 'failed';
        engine.running -= 1;
        engine.metrics.ended(outcome, this.#clock.monotonic() - startedAt);
      },
    };
  }
}
