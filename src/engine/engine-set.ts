/** The engines of a pool: at the addresses that were given, and at those that names stand for now. */

import { lookup } from 'node:dns/promises';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { EngineMetrics } from './engine-metrics.ts';
import { Engine } from './engine.ts';
import type { EngineParts } from './engine.ts';

/** The addresses of a host. */
export type Resolve = (host: string) => Promise<readonly string[]>;

export interface EngineSetOptions {
  /** Addresses; of `dns+http://name:port` each address that the name has is one. */
  readonly urls: readonly string[];
  readonly resolve?: Resolve | undefined;
  /** See `EnginePoolOptions`. */
  readonly areAnonymous?: boolean | undefined;
  readonly metricsPrefix?: string | undefined;
  readonly parts: EngineParts;
  readonly telemetry: Telemetry;
  /** Fires when the pool is closed. */
  readonly signal: AbortSignal;
}

/** One of the addresses that were given. */
interface Place {
  readonly url: string;
  /** Undefined: it is no name. */
  readonly name: URL | undefined;
  readonly metrics: EngineMetrics;
  engines: readonly Engine[];
  /** Why the name could not be resolved. */
  failure: RunnerError | undefined;
}

const NAMED = 'dns+';
const LOOKUP_MS_MAX = 5_000;

/**
 * What a name stands for is asked again with each `refresh`: engines that are new take part, those that are gone get no more calls and end what
 * they have. While a name cannot be resolved it stands for what it stood for.
 */
export class EngineSet {
  readonly #options: EngineSetOptions;
  readonly #places: readonly Place[];
  #all: readonly Engine[] = [];
  #named = 0;
  #refreshing: Promise<void> | undefined;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: EngineSetOptions) {
    this.#options = options;
    this.#places = [...new Set(options.urls)].map((url) => {
      const metrics = new EngineMetrics(options.telemetry.metrics, url, options.metricsPrefix);
      const place: Place = { url, name: nameIn(url), metrics, engines: [], failure: undefined };
      if (!place.name) place.engines = [this.#engineAt(url, metrics)];
      return place;
    });
    this.#gather();
  }

  get all(): readonly Engine[] {
    return this.#all;
  }

  /** Why there are fewer than there might be. */
  get failures(): readonly RunnerError[] {
    return this.#places.flatMap(({ failure }) => failure ?? []);
  }

  /** Asks what the names stand for. Never rejects; who asks meanwhile waits for the same answer. */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh().finally(() => (this.#refreshing = undefined));
    return this.#refreshing;
  }

  /** What was found out of this engine is shown. */
  show(engine: Engine): void {
    const together = this.#places.find(({ metrics }) => metrics === engine.metrics);
    engine.metrics.up(together?.engines.some((one) => one.isKnown && !one.isDown) ?? false);
  }

  /** When no call runs any more. */
  async close(): Promise<void> {
    await Promise.all(this.#all.map((engine) => engine.close()));
  }

  async #refresh(): Promise<void> {
    await Promise.all(this.#places.map(async (place) => place.name && this.#resolve(place, place.name)));
    this.#gather();
  }

  async #resolve(place: Place, name: URL): Promise<void> {
    const { log } = this.#options.telemetry;
    try {
      const found = await this.#addressesOf(name);
      const urls = [...new Set(found)].toSorted().map((address) => urlOf(name, address));
      place.failure = undefined;
      const before = place.engines;
      if (urls.length === before.length && urls.every((url) => before.some((one) => one.url === url))) return;
      place.engines = urls.map((url) => before.find((one) => one.url === url) ?? this.#engineAt(url, place.metrics));
      const gone = before.filter((one) => !place.engines.includes(one));
      for (const one of gone) one.close().catch(() => {});
      log.info('a name stands for other engines now', { name: place.url, engines: urls });
    } catch (thrown) {
      const cause = toRunnerError(thrown, 'EXECUTOR_UNREACHABLE');
      if (!place.failure) log.warn('a name of engines cannot be resolved', { name: place.url, error: cause });
      const what = this.#options.areAnonymous ? 'a name of engines' : place.url;
      place.failure = new RunnerError('EXECUTOR_UNREACHABLE', `${what} cannot be resolved`, { cause });
    }
  }

  async #addressesOf({ hostname }: URL): Promise<readonly string[]> {
    const { parts, signal, resolve = addressesOf } = this.#options;
    const { promise: late, reject } = Promise.withResolvers<never>();
    const giveUp = (): void => reject(new RunnerError('EXECUTOR_TIMEOUT', `${hostname} was not resolved within ${LOOKUP_MS_MAX} ms`));
    const cancel = parts.clock.after(LOOKUP_MS_MAX, giveUp);
    signal.addEventListener('abort', giveUp, { once: true });
    try {
      const found = await Promise.race([resolve(hostname.replace(/^\[|\]$/g, '')), late]);
      if (found.length > 0) return found;
      throw new RunnerError('EXECUTOR_UNREACHABLE', `${hostname} has no address`);
    } finally {
      cancel();
      signal.removeEventListener('abort', giveUp);
    }
  }

  #engineAt(url: string, metrics: EngineMetrics): Engine {
    const { areAnonymous, parts } = this.#options;
    this.#named += 1;
    return new Engine({ url, ...(areAnonymous && { name: `engine-${this.#named}` }) }, metrics, parts);
  }

  #gather(): void {
    this.#all = this.#places.flatMap(({ engines }) => engines);
  }
}

/** Undefined when it is no name. Throws `CONFIG_INVALID`. */
function nameIn(url: string): URL | undefined {
  if (!url.startsWith(NAMED)) return undefined;
  const named = URL.parse(url.slice(NAMED.length));
  if (named?.protocol === 'http:' && named.username === '' && named.password === '' && /:\d+(?:\/|$)/.test(url)) return named;
  throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(url)} is not the name of engines; write dns+http://name:port`);
}

function urlOf({ port, pathname }: URL, address: string): string {
  return `http://${address.includes(':') ? `[${address}]` : address}:${port || 80}${pathname.replace(/\/+$/, '')}`;
}

async function addressesOf(host: string): Promise<readonly string[]> {
  return (await lookup(host, { all: true })).map(({ address }) => address);
}
