/** One instance from its launch to its end: its program, its Runtime API, its output, and the calls that it works on. */

import { mkdirSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import { InstanceLog } from './instance-log.ts';
import type { LogBook } from './instance-log.ts';
import type { PoolInstance } from './pool-group.ts';
import { RuntimeApi } from './runtime-api.ts';
import type { ApiCall } from './runtime-api.ts';
import type { Fault } from './runtime-fault.ts';
import type { FunctionVersion, Instance, InstanceBackend, InstanceEnd } from './runtime.ts';

/** A call on an instance. */
export interface InstanceCall extends ApiCall {
  readonly wasTaken: boolean;
  /** The instance is gone. */
  instanceEnded(end: InstanceEnd): void;
}

export interface LiveInstanceOptions {
  readonly id: string;
  readonly ownerId: string;
  readonly socketPath: string;
  readonly backend: InstanceBackend;
  readonly environment: Readonly<Record<string, string>>;
  readonly clock: Clock;
  readonly logBook: LogBook;
  readonly startTimeoutMs: number;
  readonly initTimeoutMs: number;
}

/** An instance that does not end in this time is left to the backend; its calls are answered. */
const STOP_MS_MAX = 10_000;

export class LiveInstance implements PoolInstance {
  readonly id: string;
  readonly fn: FunctionVersion;
  readonly api: RuntimeApi;
  readonly log: InstanceLog;
  /** Milliseconds since the epoch. */
  readonly startedAt: number;
  readonly ended: Promise<void>;
  createMs = 0;
  bootMs = 0;
  initMs = 0;
  startMs = 0;
  pause: (() => Promise<void>) | undefined;
  resume: (() => Promise<void>) | undefined;
  readonly #options: LiveInstanceOptions;
  readonly #ended = Promise.withResolvers<void>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #initFault = Promise.withResolvers<Fault>();
  #readyAt = 0;
  #instance: Instance | undefined;
  #end: InstanceEnd | undefined;
  #launching: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;
  #cleaned: Promise<void> = Promise.resolve();
  #listening: Promise<void> | undefined;
  /** Calls that were handed over and have not ended. */
  /** Few, that come and go all the time: an array leaves no old tables behind, as a Set does. */
  readonly #calls: InstanceCall[] = [];

  constructor(fn: FunctionVersion, options: LiveInstanceOptions) {
    this.id = options.id;
    this.fn = fn;
    this.#options = options;
    this.startedAt = options.clock.now();
    this.ended = this.#ended.promise;
    this.api = new RuntimeApi(
      {
        ready: () => {
          this.#readyAt = options.clock.monotonic();
          this.#ready.resolve();
        },
        initFailed: (fault) => this.#initFault.resolve(fault),
        violated: (reason) => {
          this.#writeLine('stderr', `the instance is ended: its runtime client broke the protocol: ${reason}`);
          void this.stop();
        },
      },
      fn.concurrencyPerInstance,
    );
    this.log = new InstanceLog((stream, text) => this.#writeLine(stream, text));
  }

  get isOver(): boolean {
    return this.#end !== undefined;
  }

  get isAsking(): boolean {
    return this.#end === undefined && this.api.isAsking;
  }

  /** What only the backend understands. */
  get instance(): Instance | undefined {
    return this.#instance;
  }

  /** Resolves when it asked for work; else rejects with the reason, and nothing is left of it. */
  async start(signal: AbortSignal): Promise<void> {
    try {
      this.#launching = this.#launch(signal);
      await this.#launching;
      await this.#init(signal);
    } catch (thrown) {
      await this.stop();
      throw thrown;
    }
  }

  /** Gives it an event. */
  run(call: InstanceCall): void {
    if (this.#end) return call.instanceEnded(this.#end);
    this.#calls.push(call);
    this.api.hand(call);
  }

  /** A call has ended. */
  forget(call: InstanceCall): void {
    const at = this.#calls.indexOf(call);
    if (at >= 0) this.#calls.splice(at, 1);
  }

  /** Never rejects. */
  stop(): Promise<void> {
    return (this.#stopping ??= this.#stop());
  }

  /** Bytes that it uses now, if the backend can tell. */
  async memoryBytes(): Promise<number | undefined> {
    const { backend } = this.#options;
    return this.#instance && !this.#end ? backend.memoryBytes?.(this.#instance) : undefined;
  }

  async #launch(signal: AbortSignal): Promise<void> {
    const { backend, clock, socketPath, startTimeoutMs, ...options } = this.#options;
    const startedAt = clock.monotonic();
    const limit = new AbortController();
    const late = new RunnerError(
      'INSTANCE_START_FAILED',
      `an instance of ${this.fn.name} did not start in ${startTimeoutMs} ms (startTimeoutMs)`,
    );
    const cancel = clock.after(startTimeoutMs, () => limit.abort(late));
    // Not `AbortSignal.any`: Node keeps what a listener holds that a backend forgets there, as long as one of the sources lives.
    const forward = (): void => limit.abort(signal.reason);
    if (signal.aborted) forward();
    signal.addEventListener('abort', forward);
    try {
      const instance = await backend.launch({
        instanceId: this.id,
        ownerId: options.ownerId,
        fn: this.fn,
        runtimeApi: {
          socketPath,
          listen: () => this.#listen(),
          openPort: () => this.#listen().then(() => this.api.openPort()),
          serve: (connection, head) => this.api.serve(connection, head),
        },
        environment: options.environment,
        onOutput: (stream, chunk) => this.log.output(stream, chunk),
        signal: limit.signal,
      });
      this.#instance = instance;
      this.createMs = instance.createMs;
      this.bootMs = Math.max(0, clock.monotonic() - startedAt - instance.createMs);
      if (backend.pause && backend.resume) {
        this.pause = () => backend.pause?.(instance) ?? Promise.resolve();
        this.resume = () => backend.resume?.(instance) ?? Promise.resolve();
      }
      void instance.ended.then((end) => this.#finish(end));
    } catch (thrown) {
      throw limit.signal.reason === late ? late : toRunnerError(thrown, 'INSTANCE_START_FAILED');
    } finally {
      cancel();
      signal.removeEventListener('abort', forward);
    }
  }

  #listen(): Promise<void> {
    const { socketPath } = this.#options;
    if (!this.#listening) {
      // The way to another thread and back would take ten times longer.
      mkdirSync(dirname(socketPath), { mode: 0o700 });
      this.#listening = this.api.listen(socketPath);
    }
    return this.#listening;
  }

  async #init(signal: AbortSignal): Promise<void> {
    const { clock, initTimeoutMs } = this.#options;
    const bootedAt = clock.monotonic();
    const over = Promise.withResolvers<never>();
    over.promise.catch(() => {});
    const cancel = clock.after(initTimeoutMs, () => {
      const errorMessage = `the function did not ask for work in ${initTimeoutMs} ms (initTimeoutMs)`;
      over.reject(this.#initFailed({ errorType: 'Sandbox.Timeout', errorMessage, stackTrace: [], body: '' }));
    });
    const abort = (): void => over.reject(toRunnerError(signal.reason, 'ABORTED'));
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    try {
      const outcome = await Promise.race([this.#ready.promise, this.#initFault.promise, this.ended.then(() => this.#end), over.promise]);
      if (outcome !== undefined && 'errorType' in outcome) throw this.#initFailed(outcome);
      if (outcome !== undefined) throw this.#endedInInit(outcome);
      // A quick program asks for work before the backend has said that it runs.
      this.initMs = Math.max(0, this.#readyAt - bootedAt);
      this.startMs = this.createMs + this.bootMs + this.initMs;
    } finally {
      cancel();
      signal.removeEventListener('abort', abort);
    }
  }

  #initFailed({ errorType, errorMessage, stackTrace, body }: Fault): RunnerError {
    const message = `${this.fn.name} failed before it asked for work: ${errorType}: ${errorMessage}`;
    const output = this.log.lastLines;
    return new RunnerError('FUNCTION_INIT_FAILED', output === '' ? message : `${message}\n${output}`, {
      details: { instanceId: this.id, errorType, errorMessage, stackTrace, body },
    });
  }

  #endedInInit(end: InstanceEnd): RunnerError {
    const output = this.log.lastLines;
    const details = { instanceId: this.id, errorType: 'Runtime.ExitError', errorMessage: endText(end), ...end };
    if (end.reason === 'out-of-memory') {
      const message = `${this.fn.name} used more than its ${this.fn.memoryMb} MB before it asked for work`;
      return new RunnerError('FUNCTION_OUT_OF_MEMORY', message, { details, retry: 'safe' });
    }
    return new RunnerError('FUNCTION_INIT_FAILED', `${this.fn.name} ended before it asked for work: ${endText(end)}\n${output}`.trimEnd(), {
      details,
    });
  }

  async #stop(): Promise<void> {
    const { backend, clock } = this.#options;
    // What its program does may end it before the backend has told of it.
    await this.#launching?.catch(() => {});
    const instance = this.#instance;
    if (!instance) {
      await this.#finish({ reason: 'terminated' });
      return;
    }
    const late = Promise.withResolvers<void>();
    const cancel = clock.after(STOP_MS_MAX, late.resolve);
    // A backend that cannot end it says so by taking forever, too: its calls are to be answered all the same.
    await Promise.race([backend.terminate(instance).catch(() => late.promise), late.promise]);
    await Promise.race([this.ended, late.promise]);
    cancel();
    await this.#finish({ reason: 'terminated' });
  }

  /** Resolves when nothing is left of it. */
  #finish(end: InstanceEnd): Promise<void> {
    if (!this.#end) {
      this.#end = end;
      this.log.end();
      for (const call of this.#calls.splice(0)) call.instanceEnded(end);
      this.#ended.resolve();
      this.#cleaned = this.#clean();
    }
    return this.#cleaned;
  }

  async #clean(): Promise<void> {
    await this.api.close();
    if (!this.#listening) return;
    await this.#listening.catch(() => {});
    // What cannot be removed now is removed by the next start.
    await rm(dirname(this.#options.socketPath), { recursive: true, force: true }).catch(() => {});
  }

  #writeLine(stream: 'stdout' | 'stderr', text: string): void {
    const { clock, logBook } = this.#options;
    const requestId = this.#calls.length === 1 ? this.#calls[0]?.requestId : undefined;
    const { name, version } = this.fn;
    const line = { at: clock.now(), name, version, instanceId: this.id, stream, text };
    logBook.write(requestId === undefined ? line : { ...line, requestId });
  }
}

/** How an instance ended, for messages. */
export function endText({ reason, exitCode, signal }: InstanceEnd): string {
  switch (reason) {
    case 'exited':
      return `exit status ${exitCode ?? 'unknown'}`;
    case 'signalled':
      return `signal ${signal ?? 'unknown'}`;
    case 'out-of-memory':
      return 'out of memory';
    case 'terminated':
      return 'it was stopped';
  }
}
