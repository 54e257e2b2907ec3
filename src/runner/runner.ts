/** The runner: takes calls, has them executed, settles what comes back, until it is stopped. */

import { RunnerError, toRunnerError } from '../errors.ts';
import type { RouteDescription } from '../executor/routes.ts';
import type { Address, JobCall } from '../job/call.ts';
import type { BlockRef, LedgerStats } from '../ledger/ledger.ts';
import type { SettlementStatus } from '../chain/settlement.ts';
import { within } from '../chain/within.ts';
import type { HealthReport, TelemetryServer } from '../telemetry/server.ts';
import { RunnerBuilder } from './builder.ts';
import type { Environment, RunnerConfig } from './config.ts';
import type { DirectLine } from './direct.ts';
import { RunnerEmitter, callAuthor } from './events.ts';
import type { RunnerEvents, RunnerState } from './events.ts';
import type { Line } from './line.ts';
import { runnerMetrics } from './metrics.ts';
import type { RunnerMetrics } from './metrics.ts';
import { deliverer, problemOf } from './parts.ts';
import type { BackgroundService, Producer, RunnerParts } from './parts.ts';
import { supervise } from './supervisor.ts';
import type { SupervisedTask } from './supervisor.ts';

export interface RunnerStatus {
  readonly state: RunnerState;
  /** `mock`: nothing real is settled. Undefined: no chain is followed. */
  readonly chain:
    | {
        readonly source: 'rpc' | 'mock';
        readonly chainId: number | undefined;
        readonly contract: Address;
        readonly head: BlockRef | undefined;
      }
    | undefined;
  readonly inFlight: number;
  readonly dryRun: boolean;
  readonly ledger: LedgerStats | undefined;
  readonly settlement: SettlementStatus | undefined;
  readonly executors: readonly RouteDescription[];
  /** Where metrics and health are served. */
  readonly metricsUrl: string | undefined;
  readonly lastError: RunnerError | undefined;
}

const KEEP_ALIVE_MS = 60_000;
const CLOSE_MS = 5_000;
const EXIT_CODES = { SIGINT: 130, SIGTERM: 143 } as const;

/**
 * Runs the jobs of a blueprint. One that is stopped cannot be started again.
 *
 * Every call of the chain is journaled before anything happens to it, and its result is settled at most once. A job, executor, producer,
 * consumer, service or RPC endpoint that fails is an event; the others go on.
 *
 * @example
 * await BlueprintRunner.builder({ serviceIds: [1n], contract: '0x8299d60f373f3a4a8c4878e335cb9d840e6e3730' })
 *   .router(new JobRouter().route(0, square))
 *   .run();
 */
export class BlueprintRunner {
  readonly #parts: RunnerParts;
  readonly #events: RunnerEmitter;
  readonly #metrics: RunnerMetrics;
  readonly #deliver: ReturnType<typeof deliverer>;
  readonly #stopIntake = new AbortController();
  readonly #ended = new AbortController();
  readonly #tasks = new Set<Promise<void>>();
  #state: RunnerState = 'created';
  #line: Line | undefined;
  #direct: DirectLine | undefined;
  #server: TelemetryServer | undefined;
  #starting: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;
  #failure: RunnerError | undefined;
  #lastError: RunnerError | undefined;

  /** `env` default: the environment of the process. */
  static builder(config?: RunnerConfig, env?: Environment): RunnerBuilder {
    return new RunnerBuilder({ config, env, make: (parts) => new BlueprintRunner(parts) });
  }

  private constructor(parts: RunnerParts) {
    this.#parts = parts;
    this.#events = new RunnerEmitter(parts.telemetry.log);
    this.#metrics = runnerMetrics(parts.telemetry.metrics, parts.config.concurrency, parts.clock);
    this.#deliver = deliverer(parts.consumers, (error, { name }, call) => this.#report(toRunnerError(error), `consumer ${name}`, call));
  }

  get state(): RunnerState {
    return this.#state;
  }

  on<Name extends keyof RunnerEvents>(name: Name, listener: (...event: RunnerEvents[Name]) => void): this {
    this.#events.on(name, listener);
    return this;
  }

  off<Name extends keyof RunnerEvents>(name: Name, listener: (...event: RunnerEvents[Name]) => void): this {
    this.#events.off(name, listener);
    return this;
  }

  /** Resolves when calls are taken. Rejects, with everything closed again, when ledger, chain or configuration do not allow it. */
  async start(): Promise<void> {
    if (this.#state !== 'created') throw new RunnerError('STATE_INVALID', `the runner is ${this.#state}; it can be started once`);
    this.#become('starting');
    this.#starting = this.#open();
    try {
      await this.#starting;
    } catch (thrown) {
      this.#failure = toRunnerError(thrown);
      await this.stop();
      throw this.#failure;
    }
  }

  /**
   * Starts, if need be, and resolves when the runner has stopped: by `stop`, SIGTERM or SIGINT. A second signal ends the process at once.
   * Until then a promise that is rejected and that nobody handles is reported; it belongs to no call, and the others go on. Rejects with the
   * error that ended the runner.
   */
  async run(): Promise<void> {
    let signals = 0;
    const onSignal = (name: keyof typeof EXIT_CODES): void => {
      signals += 1;
      if (signals > 1) process.exit(EXIT_CODES[name]);
      this.#parts.telemetry.log.info('stopping', { signal: name });
      void this.stop();
    };
    const onForgotten = (cause: unknown): void => {
      const message = `a promise was rejected and nobody handles it: ${toRunnerError(cause).message}`;
      this.#report(new RunnerError('INTERNAL', message, { cause }), 'process');
    };
    process.on('SIGTERM', onSignal).on('SIGINT', onSignal).on('unhandledRejection', onForgotten);
    try {
      if (this.#state === 'created') await this.start();
      const { clock } = this.#parts;
      // A runner without a chain has nothing else that keeps the process alive.
      while (!this.#ended.signal.aborted) await clock.sleep(KEEP_ALIVE_MS, this.#ended.signal).catch(() => undefined);
    } finally {
      process.off('SIGTERM', onSignal).off('SIGINT', onSignal).off('unhandledRejection', onForgotten);
    }
    if (this.#failure) throw this.#failure;
  }

  /** Takes no more calls, waits up to `drainMs` for those that run and for settlement, then closes everything. Idempotent. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  /**
   * Another try, asked for by an operator: a `failed` call, or one that nobody took, is executed again; a `rejected` result is offered
   * again. False when the ledger has no such call in one of these states. Throws `STATE_INVALID` unless the runner runs and has a ledger.
   *
   * @example
   * for (const { seq } of ledger.find({ states: ['failed'] })) await runner.retry(seq);
   */
  async retry(seq: number): Promise<boolean> {
    const line = this.#line;
    if (this.#state !== 'running')
      throw new RunnerError('STATE_INVALID', `the runner is ${this.#state}; only one that runs tries calls again`);
    if (!line) throw new RunnerError('STATE_INVALID', 'this runner has no ledger: it remembers no failed calls');
    return line.retry(seq);
  }

  status(): RunnerStatus {
    const { config, executors } = this.#parts;
    const chain = this.#line?.chain;
    const isOpen = this.#state === 'running' || this.#state === 'draining';
    return {
      state: this.#state,
      chain: chain && { source: chain.source, chainId: knownChainId(chain), contract: chain.contract, head: this.#line?.intake?.head },
      inFlight: this.#line?.dispatch.running ?? this.#direct?.running ?? 0,
      dryRun: config.dryRun,
      ledger: isOpen ? this.#line?.ledger.stats() : undefined,
      settlement: isOpen ? this.#line?.settlement?.status() : undefined,
      executors: executors.describe(),
      metricsUrl: this.#server?.url,
      lastError: this.#lastError,
    };
  }

  async #open(): Promise<void> {
    const onFailed = (error: RunnerError, call: JobCall): void => this.#callFailed(error, call);
    const shared = { events: this.#events, metrics: this.#metrics, deliver: this.#deliver, onFailed };
    if (this.#needsLine()) {
      const line = await import('./line.ts');
      this.#line = await line.Line.open({
        ...shared,
        parts: this.#parts,
        onError: (error, source) => this.#report(error, source),
        onFatal: (error) => this.#fail(error),
      });
    } else {
      const { executors, config, clock, telemetry } = this.#parts;
      const [line, { CallTraces }] = await Promise.all([import('./direct.ts'), import('./call-traces.ts')]);
      const traces = CallTraces.of(telemetry, { events: this.#events, ledger: undefined, settles: false });
      this.#direct = new line.DirectLine({ ...shared, executors, concurrency: config.concurrency, clock, traces });
    }
    if (this.#stopping) return;
    this.#line?.dispatch.pump();
    const { intake } = this.#line ?? {};
    if (intake) this.#supervise({ name: 'chain', run: (signal) => intake.follow(signal), restart: 'always' });
    for (const producer of this.#parts.producers) {
      if (producer.ended) for (const name of ['executed', 'failed'] as const) this.#events.on(name, ({ call }) => producer.ended?.(call));
      this.#supervise({ name: `producer ${producer.name}`, run: (signal) => this.#produce(producer, signal) });
    }
    for (const service of this.#parts.services) this.#serve(service);
    await this.#openServer();
    if (!this.#stopping) this.#become('running');
  }

  #needsLine(): boolean {
    const { config, chain, ledger } = this.#parts;
    return ledger !== undefined || chain !== undefined || config.chainMode === 'mock' || typeof config.ledger === 'string';
  }

  async #produce(producer: Producer, signal: AbortSignal): Promise<void> {
    for await (const made of producer.calls(signal)) {
      if (signal.aborted) return;
      const calls = [made].flat().filter((call) => this.#isCall(call, producer));
      if (this.#line) {
        for (const known of await this.#journal(calls, this.#line)) producer.ended?.(known);
        continue;
      }
      for (const call of calls) {
        const full = this.#direct?.take(call);
        if (full) await full;
      }
    }
  }

  #isCall(made: JobCall, { name }: Producer): boolean {
    const problem = problemOf(made);
    if (problem !== undefined)
      this.#report(new RunnerError('CONFIG_INVALID', `${problem}; what producer ${name} made is left out`), `producer ${name}`);
    return problem === undefined;
  }

  /** Those that are not new. */
  async #journal(calls: readonly JobCall[], line: Line): Promise<readonly JobCall[]> {
    const { dispatch } = line;
    const areNew = await Promise.all(calls.map((call) => this.#isNew(call, line)));
    const known = calls.filter((_, index) => areNew[index] === false);
    if (known.length === calls.length) return known;
    this.#metrics.seen.add(calls.length - known.length);
    dispatch.pump();
    await dispatch.whenFree();
    return known;
  }

  /** False: its id is known already, or no ledger can hold it. */
  async #isNew(call: JobCall, { ledger, dispatch }: Line): Promise<boolean> {
    try {
      return await dispatch.write(() => ledger.recordProduced(call));
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (error.code !== 'PAYLOAD_TOO_LARGE') throw error;
      if (this.#events.hears('failed')) this.#events.emit('failed', { seq: undefined, call, error });
      this.#callFailed(error, call);
      return false;
    }
  }

  #serve(service: BackgroundService): void {
    const { name, critical = false, restart = critical ? 'never' : 'on-failure' } = service;
    const context = { chain: this.#line?.chain, sender: () => this.#sender() };
    const run = async (signal: AbortSignal): Promise<void> => service.run(signal, context);
    this.#supervise({ name: `service ${name}`, restart, run }, critical);
  }

  #sender(): ReturnType<NonNullable<Line['settlement']>['sender']> {
    const settlement = this.#line?.settlement;
    if (!settlement) throw new RunnerError('STATE_INVALID', 'no chain is followed, or it was not reached yet: nothing can be sent');
    return settlement.sender();
  }

  #supervise(task: SupervisedTask, isCritical = false): void {
    const options = {
      clock: this.#parts.clock,
      signal: this.#stopIntake.signal,
      onError: (error: RunnerError, source: string) => this.#report(error, source),
    };
    const running = supervise(task, options).then((error) => {
      this.#tasks.delete(running);
      if (error && isCritical) this.#fail(error);
    });
    this.#tasks.add(running);
  }

  async #openServer(): Promise<void> {
    const { config, exposeMetrics, telemetry } = this.#parts;
    if (!config.metrics || !exposeMetrics) return;
    const metrics = async (): Promise<string> => {
      if (this.#line) this.#metrics.ledger(this.#line.ledger.stats());
      return exposeMetrics();
    };
    const { startTelemetryServer } = await import('../telemetry/server.ts');
    this.#server = await startTelemetryServer({
      ...config.metrics,
      metrics,
      health: () => this.#health(this.#state !== 'failed' && this.#state !== 'stopped'),
      ready: () => this.#readiness(),
      log: telemetry.log,
    });
  }

  #health(ok: boolean): HealthReport {
    return { ok, checks: { runner: { ok, message: this.#state } } };
  }

  #readiness(): HealthReport {
    const { ok, checks } = this.#health(this.#state === 'running');
    const { intake, settlement } = this.#line ?? {};
    if (!intake) return { ok, checks };
    const head = intake.head;
    const error = settlement?.status().lastError;
    const chain = head ? { ok: true, message: `block ${head.number}` } : { ok: false, message: 'no block was seen yet' };
    return { ok: ok && chain.ok && !error, checks: { ...checks, chain, settlement: { ok: !error, message: error?.message ?? 'settles' } } };
  }

  /** Ends the runner because of an error: what can be finished is. */
  #fail(error: RunnerError): void {
    this.#failure ??= error;
    this.#report(error, 'runner');
    void this.stop();
  }

  async #stop(): Promise<void> {
    await this.#starting?.catch(() => undefined);
    this.#become('draining');
    const { clock, config, executors, onShutdown } = this.#parts;
    const deadline = clock.now() + config.drainMs;
    this.#stopIntake.abort();
    await Promise.all(this.#tasks);
    const isDone = await this.#step('calls', async () => (this.#line ?? this.#direct)?.drain(deadline));
    if (isDone === false) this.#report(new RunnerError('DRAIN_TIMEOUT', `calls were still running after ${config.drainMs} ms`), 'runner');
    await this.#step('executors', () => within(clock, CLOSE_MS, executors.close()));
    await this.#step('metrics server', async () => this.#server?.close());
    await this.#step('ledger', async () => this.#line?.close());
    await this.#step('shutdown handler', async () => onShutdown?.());
    this.#become(this.#failure ? 'failed' : 'stopped');
    this.#ended.abort();
  }

  /** One step of the way down; a step that fails does not keep the others from theirs. */
  async #step<T>(source: string, step: () => Promise<T>): Promise<T | undefined> {
    try {
      return await step();
    } catch (thrown) {
      this.#report(toRunnerError(thrown), source);
      return undefined;
    }
  }

  #callFailed(error: RunnerError, call: JobCall): void {
    this.#parts.telemetry.log.warn('a call failed', { callId: call.id, jobId: call.jobId, code: error.code, error: error.message });
    this.#hook(error, { source: 'call', call });
  }

  #report(error: RunnerError, source: string, call?: JobCall): void {
    this.#lastError = error;
    this.#parts.telemetry.log.error(`${source}: ${error.message}`, { source, code: error.code });
    this.#hook(error, { source, ...(call && { call }) });
    this.#events.emit('error', error, source);
  }

  #hook(error: RunnerError, context: { readonly source: string; readonly call?: JobCall }): void {
    const { onError, telemetry } = this.#parts;
    callAuthor(
      () => onError?.(error, context),
      (thrown) => telemetry.log.error('the onError hook failed', { error: thrown }),
    );
  }

  #become(state: RunnerState): void {
    const before = this.#state;
    this.#state = state;
    this.#parts.telemetry.log.info(`the runner is ${state}`);
    this.#events.emit('state', state, before);
  }
}

/** An RPC client that was never connected does not know it yet. */
function knownChainId(chain: { readonly chainId: number }): number | undefined {
  try {
    return chain.chainId;
  } catch {
    return undefined;
  }
}
