/** Gathers what a runner is made of. */

import { join, resolve } from 'node:path';
import type { ChainClient, Signer } from '../chain/chain.ts';
import type { Clock } from '../clock.ts';
import { systemClock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { FaasExecutor } from '../executor/executor.ts';
import { LocalExecutor } from '../executor/local.ts';
import type { ExecutorRegistry } from '../executor/registry.ts';
import type { ExecutionPolicy } from '../executor/resilience.ts';
import type { JobRoute } from '../executor/routes.ts';
import { toJobId } from '../job/call.ts';
import type { JobIdLike } from '../job/call.ts';
import type { JobRouter, ObserverErrorListener } from '../job/router.ts';
import type { Ledger } from '../ledger/ledger.ts';
import type { Plugin } from '../plugin/plugin.ts';
import type { PluginRegistry } from '../plugin/registry.ts';
import type { PrometheusMetrics } from '../telemetry/prometheus.ts';
import type { Metrics, Telemetry } from '../telemetry/telemetry.ts';
import { LOADING, resolveConfig } from './config.ts';
import type { Environment, ResolvedConfig, RunnerConfig } from './config.ts';
import type { BackgroundService, Consumer, ErrorHook, Producer, RunnerParts } from './parts.ts';
import type { BlueprintRunner } from './runner.ts';

/**
 * An executor of a plugin, by the plugin's name. A plugin that has no executor but a backend (`process`, `container`) runs the handler bundle
 * on its instances; `options` are then `FunctionExecutorOptions`. `queue` runs it on the workers of a control plane; `options` are then
 * `RemoteExecutorOptions`.
 */
export interface ExecutorSpec {
  readonly use: string;
  readonly options?: unknown;
}

export interface JobExecutionOptions extends ExecutionPolicy {
  /** Takes calls over when the executor does not; `in-process` is the router. */
  readonly fallback?: FaasExecutor | ExecutorSpec | 'in-process' | undefined;
}

interface BuilderOptions {
  readonly config: RunnerConfig | undefined;
  readonly env: Environment | undefined;
  readonly make: (parts: RunnerParts) => BlueprintRunner;
}

/** Every method but the last three only notes what it is given, and returns the builder. */
export class RunnerBuilder {
  readonly #options: BuilderOptions;
  readonly #jobs = new Map<bigint, { readonly executor: FaasExecutor | ExecutorSpec; readonly options: JobExecutionOptions }>();
  readonly #plugins: (Plugin | string)[] = [];
  readonly #producers: Producer[] = [];
  readonly #consumers: Consumer[] = [];
  readonly #services: BackgroundService[] = [];
  #router: JobRouter | undefined;
  #chain: ChainClient | undefined;
  #signer: Signer | undefined;
  #ledger: Ledger | undefined;
  #telemetry: Telemetry | undefined;
  #clock: Clock = systemClock;
  #onError: ErrorHook | undefined;
  #onShutdown: (() => void | Promise<void>) | undefined;

  constructor(options: BuilderOptions) {
    this.#options = options;
  }

  /** The jobs that run in this process, and the definitions of those that run elsewhere. */
  router(router: JobRouter): this {
    this.#router = router;
    return this;
  }

  producer(producer: Producer): this {
    this.#producers.push(producer);
    return this;
  }

  consumer(consumer: Consumer): this {
    this.#consumers.push(consumer);
    return this;
  }

  backgroundService(service: BackgroundService): this {
    this.#services.push(service);
    return this;
  }

  /** Where one job runs instead of in this process. Throws `JOB_DUPLICATE`, `JOB_ID_INVALID`. */
  withFaasExecutor(jobId: JobIdLike, executor: FaasExecutor | ExecutorSpec, options: JobExecutionOptions = {}): this {
    const id = toJobId(jobId);
    if (this.#jobs.has(id)) throw new RunnerError('JOB_DUPLICATE', `job ${id} has an executor already`, { details: { jobId: String(id) } });
    this.#jobs.set(id, { executor, options });
    return this;
  }

  /** A plugin of another package, or the name of a built-in one that has to be there. */
  withPlugin(plugin: Plugin | string): this {
    this.#plugins.push(plugin);
    return this;
  }

  /** Followed instead of the configured endpoints. The caller closes it. */
  chain(client: ChainClient): this {
    this.#chain = client;
    return this;
  }

  /** Signs instead of the configured key. */
  signer(signer: Signer): this {
    this.#signer = signer;
    return this;
  }

  /** Used instead of a file of its own. The caller closes it. */
  ledger(ledger: Ledger): this {
    this.#ledger = ledger;
    return this;
  }

  /** Default: logs as JSON lines on stdout, Prometheus metrics, spans when OpenTelemetry is set up. */
  telemetry(telemetry: Telemetry): this {
    this.#telemetry = telemetry;
    return this;
  }

  clock(clock: Clock): this {
    this.#clock = clock;
    return this;
  }

  /** Hears of everything that failed, calls included. */
  onError(hook: ErrorHook): this {
    this.#onError = hook;
    return this;
  }

  /** Called last when the runner stops. */
  shutdownHandler(handler: () => void | Promise<void>): this {
    this.#onShutdown = handler;
    return this;
  }

  /** Checks everything, loads plugins, reads the key. Opens no file and asks no network. Rejects with `CONFIG_INVALID`, `PLUGIN_UNKNOWN`. */
  async build(): Promise<BlueprintRunner> {
    const config = resolveConfig(this.#options.config, this.#options.env);
    if (config.environment[LOADING] !== undefined)
      throw new RunnerError(
        'CONFIG_INVALID',
        'bpr runs what this module exports, a JobRouter or a function configure(builder): it must run no runner',
      );
    const { telemetry, exposeMetrics } = await this.#instruments(config);
    const router = this.#router;
    return this.#options.make({
      config,
      clock: this.#clock,
      telemetry,
      exposeMetrics,
      executors: await this.#executors(config, telemetry),
      definition: (jobId) => router?.definition(jobId),
      chain: await this.#client(config, telemetry),
      signer: this.#signer ?? (await signerOf(config)),
      ledger: this.#ledger,
      producers: [...this.#producers],
      consumers: [...this.#consumers],
      services: [...this.#services],
      onError: this.#onError,
      onShutdown: this.#onShutdown,
    });
  }

  /** Builds and starts. */
  async start(): Promise<BlueprintRunner> {
    const runner = await this.build();
    await runner.start();
    return runner;
  }

  /** Builds, starts, and resolves when the runner has stopped. */
  async run(): Promise<void> {
    const runner = await this.build();
    await runner.run();
  }

  async #instruments(config: ResolvedConfig): Promise<Pick<RunnerParts, 'telemetry' | 'exposeMetrics'>> {
    const given = this.#telemetry;
    if (given) {
      if (config.metrics && !canExpose(given.metrics))
        throw new RunnerError(
          'CONFIG_INVALID',
          'metrics are to be served, but the given telemetry cannot expose them; use createMetrics()',
        );
      const { metrics } = given;
      return { telemetry: given, exposeMetrics: canExpose(metrics) ? () => metrics.expose() : undefined };
    }
    const [{ createLogger }, { createMetrics }, { createStartSpan }] = await Promise.all([
      import('../telemetry/pino.ts'),
      import('../telemetry/prometheus.ts'),
      import('../telemetry/otel.ts'),
    ]);
    const metrics = createMetrics();
    const log = await createLogger({ level: config.logLevel });
    return { telemetry: { log, metrics, startSpan: await createStartSpan() }, exposeMetrics: () => metrics.expose() };
  }

  async #executors(config: ResolvedConfig, telemetry: Telemetry): Promise<ExecutorRegistry> {
    const clock = this.#clock;
    const router = this.#router;
    const local = router && new LocalExecutor(router, { clock, onObserverError: observerErrors(telemetry) });
    const make = await this.#maker(config, telemetry);
    const jobs: [bigint, JobRoute][] = [];
    for (const [jobId, { executor, options }] of this.#jobs) {
      const { fallback, ...policy } = options;
      if (fallback === 'in-process' && !local)
        throw new RunnerError('CONFIG_INVALID', `job ${jobId} falls back to this process, which has no router; give one with router()`);
      const other = fallback === 'in-process' ? local : fallback && (await make(fallback));
      jobs.push([jobId, { executor: await make(executor), policy, fallback: other }]);
    }
    const registry = await import('../executor/registry.ts');
    return new registry.ExecutorRegistry({
      local,
      jobs,
      clock,
      telemetry,
      ...(config.policy && { policy: config.policy }),
      traits: (jobId) => router?.definition(jobId),
    });
  }

  /** The same description gives the same executor: its jobs share connections and circuit. */
  async #maker(
    { dataDir }: ResolvedConfig,
    telemetry: Telemetry,
  ): Promise<(executor: FaasExecutor | ExecutorSpec) => Promise<FaasExecutor>> {
    const made = new Map<ExecutorSpec, FaasExecutor>();
    let registry: PluginRegistry | undefined;
    if (this.#plugins.length > 0) registry = await this.#registry(telemetry);
    return async (executor) => {
      if ('invoke' in executor) return executor;
      registry ??= await this.#registry(telemetry);
      const known = made.get(executor);
      if (known) return known;
      if (executor.use === 'queue') {
        const queue = await this.#queueExecutor(executor, { folder: resolve(dataDir, `queue-${made.size}`), telemetry });
        made.set(executor, queue);
        return queue;
      }
      // A plugin that has both calls what was deployed, unless it is given what it is to run.
      const isGiven = hasArtifact(executor.options) || !(await registry.has('executor', executor.use));
      const isLocal = isGiven && (await registry.has('backend', executor.use));
      const fresh = isLocal
        ? await this.#functionExecutor(executor, registry, { folder: resolve(dataDir, `${executor.use}-${made.size}`), telemetry })
        : await registry.executor(executor.use, executor.options);
      made.set(executor, fresh);
      return fresh;
    };
  }

  async #functionExecutor(
    { use, options }: ExecutorSpec,
    registry: PluginRegistry,
    place: { readonly folder: string; readonly telemetry: Telemetry },
  ): Promise<FaasExecutor> {
    const { FunctionExecutor, functionExecutorOptions } = await import('../runtime/function-executor.ts');
    const checked = functionExecutorOptions(use, options);
    const backend = await registry.backend(use, { folder: join(place.folder, 'instances'), ...checked.backend });
    return new FunctionExecutor(checked, { ...place, name: use, backend, clock: this.#clock });
  }

  async #queueExecutor(
    { options }: ExecutorSpec,
    place: { readonly folder: string; readonly telemetry: Telemetry },
  ): Promise<FaasExecutor> {
    const { RemoteExecutor, remoteExecutorOptions } = await import('../queue/remote-executor.ts');
    return new RemoteExecutor(remoteExecutorOptions(options), { ...place, clock: this.#clock });
  }

  async #registry(telemetry: Telemetry): Promise<PluginRegistry> {
    const { createPluginRegistry } = await import('../plugin/registry.ts');
    const registry = createPluginRegistry({ clock: this.#clock, telemetry });
    for (const plugin of this.#plugins) {
      if (typeof plugin !== 'string') registry.use(plugin);
      else if (!registry.names().includes(plugin))
        throw new RunnerError('PLUGIN_UNKNOWN', `there is no plugin ${plugin}; known: ${registry.names().join(', ')}`);
    }
    return registry;
  }

  async #client(config: ResolvedConfig, telemetry: Telemetry): Promise<RunnerParts['chain']> {
    if (this.#chain) return { client: this.#chain, isOurs: false };
    const { contract, rpcUrls, wsUrl, chainId, chainMode } = config;
    if (chainMode === 'mock' || contract === undefined) {
      const isAsked = this.#options.config?.chainMode ?? this.#options.config?.rpcUrl;
      if (chainMode !== 'mock' && isAsked === undefined && this.#producers.length === 0)
        telemetry.log.warn('no chain is followed and there is no producer: nothing comes to this runner; set TANGLE_CONTRACT');
      if (chainMode === 'mock' || isAsked === undefined) return undefined;
      throw new RunnerError('CONFIG_INVALID', 'a chain is to be followed, but no contract is named; set TANGLE_CONTRACT or contract');
    }
    if (config.privateKey === undefined && !this.#signer && !config.dryRun)
      telemetry.log.warn('there is no key of an operator: calls are executed, and no result is settled; set OPERATOR_PRIVATE_KEY');
    const { RpcChainClient } = await import('../chain/rpc.ts');
    const client = new RpcChainClient({
      rpcUrl: rpcUrls,
      contract,
      ...(wsUrl !== undefined && { wsUrl }),
      ...(chainId !== undefined && { chainId }),
      clock: this.#clock,
      telemetry,
    });
    return { client, isOurs: true };
  }
}

function hasArtifact(options: unknown): boolean {
  return typeof options === 'object' && options !== null && 'artifact' in options;
}

function canExpose(metrics: Metrics): metrics is PrometheusMetrics {
  return 'expose' in metrics && typeof metrics.expose === 'function';
}

/** A job that watches every call and fails changes nothing for the call: it is only told. */
function observerErrors({ log, metrics }: Telemetry): ObserverErrorListener {
  return ({ code, message }, { name }, call) => {
    const help = 'Failures of jobs that watch every call, while another job answered.';
    metrics.counter({ name: 'blueprint_runner_observer_errors_total', help, labels: { job: name, code } }).add();
    log.warn('a job that watches every call failed', { job: name, callId: call.id, code, error: message });
  };
}

async function signerOf({ privateKey, environment }: ResolvedConfig): Promise<Signer | undefined> {
  if (privateKey === undefined) return undefined;
  const [{ Secret }, { signerFromKey }] = await Promise.all([import('../plugin/secret.ts'), import('../chain/signer.ts')]);
  return signerFromKey(await new Secret(privateKey, { environment }).read());
}
