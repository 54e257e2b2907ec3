/** The gateway: functions of this machine behind HTTP and WebSocket. */

import { randomBytes } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { FunctionRuntime } from '../runtime/function-runtime.ts';
import type { FunctionRuntimeOptions } from '../runtime/function-runtime.ts';
import type { Provider } from '../executor/limits.ts';
import { LIMITS } from '../executor/limits.ts';
import type { InstanceBackend, LogLine } from '../runtime/runtime.ts';
import { FunctionStore } from '../runtime/store.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Labels, MetricOptions, Metrics, Telemetry } from '../telemetry/telemetry.ts';
import { Authenticator } from './auth.ts';
import type { GatewayAuth } from './auth.ts';
import { isLoopbackName, isOrigin } from './checks.ts';
import { EventLog } from './event-log.ts';
import type { GatewayEvents } from './events.ts';
import { countedName, executeRoutes, removeCodeOfRequests } from './execute-api.ts';
import { functionRoutes } from './functions-api.ts';
import { Functions } from './functions.ts';
import type { Route } from './http.ts';
import { IdempotencyKeys } from './idempotency.ts';
import { IdlePoll } from './idle-poll.ts';
import { instanceRoutes } from './instances-api.ts';
import { LambdaApi } from './lambda/lambda-api.ts';
import { logRoutes } from './logs-api.ts';
import { platformRoutes } from './platform-api.ts';
import { Router } from './router.ts';
import { GatewayServer } from './server.ts';
import type { ServerLimits } from './server.ts';
import type { TlsOptions } from './tls.ts';
import { GatewaySocket } from './socket.ts';
import type { SocketLimits } from './socket.ts';
import { systemRoutes } from './system-api.ts';

export interface GatewayOptions {
  /** Holds functions, sockets and the ids of what runs; of one gateway at a time. A short path: sockets allow 107 bytes. */
  readonly folder: string;
  /** By the name under which functions ask for them. At least one. */
  readonly backends: ReadonlyMap<string, InstanceBackend>;
  /** Default: the first. */
  readonly defaultBackend?: string;
  /** Without it everybody on this machine may do everything, and the gateway listens on loopback only. */
  readonly auth?: GatewayAuth;
  readonly limits?: Partial<ServerLimits>;
  readonly socketLimits?: Partial<SocketLimits>;
  /** Whose limits hold for new functions. Default `aws`. */
  readonly provider?: Provider;
  /** Origins of web pages that may use the gateway. Default: none but its own. */
  readonly corsOrigins?: readonly string[];
  /** Of the runtime of each backend. */
  readonly runtime?: Pick<FunctionRuntimeOptions, 'limits' | 'keepAlive' | 'region' | 'environment'>;
  /**
   * For how many microseconds after a request or an answer the gateway looks for the next before it sleeps, while they follow each other as
   * quickly: calls one after the other take half the time, for as much of a processor. 0: not at all. Default 200; 0 with a single processor.
   */
  readonly idlePollUs?: number;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  /** Text of `/metrics`. */
  readonly metrics?: () => Promise<string>;
  /** Of the package, for `/api/v1/info`. */
  readonly version?: string;
}

export interface GatewayAddress {
  /** Default 127.0.0.1. Any other than a loopback address needs `auth`. */
  readonly host?: string;
  /** Default 8080; 0 takes a free one. */
  readonly port?: number;
  readonly tls?: TlsOptions;
}

const MIB = 1024 * 1024;
const LIMITS_DEFAULT: ServerLimits = {
  requestsPerSecond: 10_000,
  burst: 10_000,
  concurrent: 1_000,
  connectionsMax: 2_000,
  headerBytesMax: 16 * 1024,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 120_000,
  keepAliveMs: 65_000,
  stallMs: 30_000,
  bodiesBytesMax: 512 * MIB,
};
/** Of the lines of one function that are kept. */
const LOG_CHARACTERS_MAX = MIB;
const CLOSE_MS = 10_000;
/** A single processor is left to the functions. */
const IDLE_POLL_US = availableParallelism() > 1 ? 200 : 0;
/** By a clock that somebody sets it would look for ever. */
const defaultPollUs = (clock: Clock): number => (clock === systemClock ? IDLE_POLL_US : 0);
/** For queued calls to be noted as such when the runtime was closed under them. */
const SETTLE_MS = 5_000;
const COLLECT_MS = 10 * 60_000;
/** Answers by idempotency key. */
const KEYS = { keepMs: 86_400_000, entriesMax: 10_000, bytesMax: 256 * MIB } as const;

/** The limits of a function are those of its own provider; a runtime takes what any of them allows. */
const WIDEST = {
  requestBytesMax: 100 * MIB,
  responseBytesMax: 200 * MIB,
  streamBytesMax: 1_024 * MIB,
};

interface Parts {
  readonly store: FunctionStore;
  readonly runtimes: ReadonlyMap<string, FunctionRuntime>;
  readonly server: GatewayServer;
  readonly socket: GatewaySocket;
  readonly lambda: LambdaApi;
  readonly keys: IdempotencyKeys;
}

/**
 * Serves functions. What was deployed is there again after a restart; what an earlier process left running is ended.
 *
 * @example
 * const gateway = new Gateway({ folder: '/var/lib/bpr', backends: new Map([['process', new ProcessBackend()]]) });
 * const url = await gateway.listen({ port: 8080 });
 * await gateway.close();
 */
export class Gateway {
  readonly #options: GatewayOptions;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #authenticator: Authenticator;
  readonly #defaultBackend: string;
  readonly #logs: EventLog<LogLine>;
  readonly #events: GatewayEvents;
  #parts: Promise<Parts> | undefined;
  #closing: Promise<void> | undefined;
  #stopCollecting: (() => void) | undefined;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: GatewayOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#telemetry = options.telemetry ?? silentTelemetry;
    this.#authenticator = new Authenticator(options.auth, this.#clock);
    const wrong = options.corsOrigins?.find((origin) => !isOrigin(origin));
    if (wrong !== undefined)
      throw new RunnerError(
        'CONFIG_INVALID',
        `${wrong} is not the origin of a page, as browsers write it: https://app.example, without a path`,
      );
    const [first] = options.backends.keys();
    const backend = options.defaultBackend ?? first;
    if (backend === undefined || !options.backends.has(backend))
      throw new RunnerError(
        'CONFIG_INVALID',
        `the gateway needs a backend; ${backend ?? 'none'} is not one of ${[...options.backends.keys()].join(', ') || 'none'}`,
      );
    this.#defaultBackend = backend;
    const epoch = randomBytes(4).toString('hex');
    this.#logs = new EventLog({
      epoch,
      entriesMax: 1_000,
      topicsMax: 1_000,
      weightOf: ({ text }) => text.length,
      weightMax: LOG_CHARACTERS_MAX,
    });
    this.#events = new EventLog({ epoch, entriesMax: 10_000, topicsMax: 4, forListeners: true });
  }

  /**
   * Opens the store, starts the runtimes and listens. Resolves with the URL, without a slash at its end. Rejects with `CONFIG_INVALID`: an
   * address that is not loopback without `auth`, or that cannot be listened on; and with the errors of the store and the backends.
   */
  async listen({ host = '127.0.0.1', port = 8080, tls }: GatewayAddress = {}): Promise<string> {
    if (this.#parts) throw new RunnerError('STATE_INVALID', 'the gateway listens, or has listened, already');
    if (this.#authenticator.isOpen && !isLoopbackName(host)) {
      const message = `the gateway would listen on ${host} for everybody; configure keys, tokens or client certificates, or listen on 127.0.0.1`;
      throw new RunnerError('CONFIG_INVALID', message, { details: { host } });
    }
    if (this.#options.auth?.certificates && tls?.ca === undefined) {
      throw new RunnerError(
        'CONFIG_INVALID',
        'client certificates are to be accepted, but there is no authority (tls.ca) to check them with',
      );
    }
    const starting = this.#start();
    this.#parts = starting;
    try {
      const { server } = await starting;
      const address = await server.listen({ host, port, ...(tls && { tls }) });
      const name = address.family === 'IPv6' ? `[${address.address}]` : address.address;
      const url = `${tls ? 'https' : 'http'}://${name}:${address.port}`;
      this.#telemetry.log.info('the gateway listens', { url, backends: [...this.#options.backends.keys()] });
      return url;
    } catch (thrown) {
      await this.close(0);
      throw thrown;
    }
  }

  /** Takes no more requests, ends what only waits for news, lets calls finish until the deadline (default 10,000 ms). Idempotent. */
  close(deadlineMs = CLOSE_MS): Promise<void> {
    return (this.#closing ??= this.#close(deadlineMs));
  }

  async #close(deadlineMs: number): Promise<void> {
    const parts = await this.#parts?.catch(() => undefined);
    if (!parts) return;
    this.#stopCollecting?.();
    const startedAt = this.#clock.monotonic();
    const runtimes = [...parts.runtimes.values()];
    // Instances end now, or after the calls that they have.
    for (const runtime of runtimes) for (const { name } of runtime.instances()) runtime.retire(name, []);
    const queueClosed = parts.lambda.close(deadlineMs + SETTLE_MS);
    await Promise.all([parts.socket.close(deadlineMs), parts.server.close(deadlineMs)]);
    // Calls that nobody waits for are queued durably: the next process runs them again. Those with a key may have lost who waits for them.
    const rest = Math.max(0, deadlineMs - (this.#clock.monotonic() - startedAt));
    const over = Promise.withResolvers<void>();
    const cancel = this.#clock.after(rest, () => over.resolve());
    await Promise.race([Promise.all([queueClosed, parts.keys.settled()]), over.promise]);
    cancel();
    await Promise.all(runtimes.map((runtime) => runtime.close(0)));
    // A package that comes in now is written to its end, though nobody waits for it.
    await Promise.all([queueClosed, parts.keys.settled(), parts.store.settled()]);
    parts.keys.close();
    parts.store.close();
  }

  async #start(): Promise<Parts> {
    const { folder } = this.#options;
    mkdirSync(folder, { recursive: true, mode: 0o711 });
    const late: { functions?: Functions; lambda?: LambdaApi } = {};
    const store = FunctionStore.open({
      folder: join(folder, 'store'),
      clock: this.#clock,
      onChange: (name) => {
        late.functions?.changed(name);
        late.lambda?.changed(name);
      },
    });
    const runtimes = new Map<string, FunctionRuntime>();
    let keys: IdempotencyKeys | undefined;
    try {
      removeCodeOfRequests(store);
      keys = new IdempotencyKeys({ path: join(folder, 'execute', 'answers.sqlite'), clock: this.#clock, ...KEYS });
      for (const [name, backend] of this.#options.backends) runtimes.set(name, await this.#startRuntime(name, backend));
      const onDrained = (name: string): void => late.lambda?.drained(name);
      const functions = new Functions({ store, runtimes, defaultBackend: this.#defaultBackend, onDrained });
      late.functions = functions;
      const { region } = this.#options.runtime ?? {};
      const lambda = LambdaApi.open({
        functions,
        folder: join(folder, 'lambda'),
        clock: this.#clock,
        telemetry: this.#telemetry,
        onEvent: (kind, make) => this.#events.append(kind, make),
        ...(region !== undefined && { region }),
      });
      late.lambda = lambda;
      lambda.start();
      this.#collectLater(store);
      return { store, runtimes, lambda, keys, ...this.#server({ functions, lambda, keys, runtimes }) };
    } catch (thrown) {
      await Promise.all([...runtimes.values()].map((runtime) => runtime.close(0)));
      keys?.close();
      store.close();
      throw thrown;
    }
  }

  async #startRuntime(name: string, backend: InstanceBackend): Promise<FunctionRuntime> {
    const runtime = new FunctionRuntime({
      ...this.#options.runtime,
      limits: { ...WIDEST, ...this.#options.runtime?.limits },
      backend,
      folder: join(this.#options.folder, name),
      clock: this.#clock,
      telemetry: { ...this.#telemetry, metrics: labelled(this.#telemetry.metrics, { backend: name }) },
      countedAs: countedName,
      onEvent: (kind, make) => this.#events.append(kind, make),
    });
    await runtime.start();
    runtime.onLog((line) => this.#logs.append(line.name, () => line));
    return runtime;
  }

  #server({
    functions,
    lambda,
    keys,
    runtimes,
  }: { functions: Functions } & Pick<Parts, 'lambda' | 'keys' | 'runtimes'>): Pick<Parts, 'server' | 'socket'> {
    const { corsOrigins = [], metrics, version = '0.0.0', provider = 'aws', idlePollUs } = this.#options;
    const limits = { ...LIMITS_DEFAULT, ...this.#options.limits };
    const clock = this.#clock;
    const routes: Route[] = [];
    routes.push(
      ...functionRoutes({ functions, provider, clock }),
      ...logRoutes({ functions, logs: this.#logs }),
      ...instanceRoutes(functions),
      ...executeRoutes({ functions, provider, clock, keys }),
      ...platformRoutes({ functions, provider, clock }),
      ...lambda.routes,
      ...systemRoutes({
        functions,
        clock,
        version,
        metrics,
        limits: shownLimits(provider, runtimes),
        routes: () => routes,
        isClosing: () => server.closing.aborted,
      }),
    );
    const server = new GatewayServer({
      router: new Router(routes),
      authenticator: this.#authenticator,
      limits,
      corsOrigins,
      clock,
      telemetry: this.#telemetry,
      idlePoll: new IdlePoll({ clock, windowMs: (idlePollUs ?? defaultPollUs(clock)) / 1_000 }),
      onUpgrade: (upgrade) => socket.upgrade(upgrade),
    });
    const socket = new GatewaySocket({
      functions,
      logs: this.#logs,
      events: this.#events,
      authenticator: this.#authenticator,
      admit: (callerId) => server.admit(callerId),
      clock,
      telemetry: this.#telemetry,
      limits: this.#options.socketLimits,
    });
    return { server, socket };
  }

  /** Code that nothing refers to any more is removed now and then. */
  #collectLater(store: FunctionStore): void {
    this.#stopCollecting = this.#clock.after(COLLECT_MS, () => {
      store.collect().catch((error: unknown) => this.#telemetry.log.warn('unused packages could not be removed', { error }));
      if (!this.#closing) this.#collectLater(store);
    });
  }
}

function shownLimits(provider: Provider, runtimes: ReadonlyMap<string, FunctionRuntime>): Readonly<Record<string, number>> {
  // All have the same.
  const [runtime] = runtimes.values();
  const { requestBytesMax, responseBytesMax, streamBytesMax, zipBytesMax, unpackedBytesMax, timeoutMs } = LIMITS[provider];
  return {
    request_bytes: requestBytesMax,
    response_bytes: responseBytesMax,
    stream_bytes: streamBytesMax,
    zip_bytes: zipBytesMax,
    unpacked_bytes: unpackedBytesMax,
    timeout_ms: timeoutMs.max,
    ...(runtime && {
      instances: runtime.limits.instancesMax,
      instances_per_function: runtime.limits.instancesPerFunctionMax,
      starts: runtime.limits.startsMax,
      queue: runtime.limits.queueMax,
      queue_timeout_ms: runtime.limits.queueTimeoutMs,
    }),
  };
}

/** The runtimes of all backends count under the same names. */
function labelled(metrics: Metrics, labels: Labels): Metrics {
  const withLabels = (options: MetricOptions): MetricOptions => ({ ...options, labels: { ...options.labels, ...labels } });
  return {
    counter: (options) => metrics.counter(withLabels(options)),
    gauge: (options) => metrics.gauge(withLabels(options)),
    histogram: (options) => metrics.histogram(withLabels(options)),
  };
}
