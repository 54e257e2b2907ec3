/** The line without a ledger: from a producer to the executors and to the consumers, nothing kept. */

import type { Clock } from '../clock.ts';
import { toRunnerError } from '../errors.ts';
import type { RunnerError } from '../errors.ts';
import type { Executed, ExecutorRegistry } from '../executor/registry.ts';
import type { JobCall, JobResult } from '../job/call.ts';
import type { CallTraces } from './call-traces.ts';
import type { RunnerEmitter } from './events.ts';
import type { RunnerMetrics } from './metrics.ts';

export interface DirectOptions {
  readonly executors: Pick<ExecutorRegistry, 'execute'>;
  readonly deliver: (results: readonly JobResult[], call: JobCall) => Promise<void> | undefined;
  readonly onFailed: (error: RunnerError, call: JobCall) => void;
  readonly concurrency: number;
  readonly clock: Clock;
  readonly events: RunnerEmitter;
  readonly metrics: RunnerMetrics;
  readonly traces?: CallTraces | undefined;
}

export class DirectLine {
  readonly #options: DirectOptions;
  #running = 0;
  readonly #waiting: (() => void)[] = [];
  #idle: (() => void) | undefined;

  constructor(options: DirectOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#running;
  }

  /** Runs a call. A promise when all places are taken: wait for it before the next call. */
  take(call: JobCall): Promise<void> | undefined {
    const { executors, metrics, clock, events, traces } = this.#options;
    this.#running += 1;
    metrics.inFlight.add(1);
    const startedAt = events.hears('executed') ? clock.monotonic() : 0;
    executors.execute(call, traces && { parent: traces.of(call) }).then(
      (executed) => this.#succeeded(call, executed, startedAt),
      (thrown: unknown) => this.#failed(call, thrown),
    );
    if (this.#running < this.#options.concurrency) return undefined;
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Waits for what runs, at the latest until `deadline` (milliseconds since the epoch). False: something still runs. */
  drain(deadline: number): Promise<boolean> {
    if (this.#running === 0) return Promise.resolve(true);
    const { clock } = this.#options;
    return new Promise((resolve) => {
      const cancel = clock.after(Math.max(0, deadline - clock.now()), () => resolve(false));
      this.#idle = () => {
        cancel();
        resolve(true);
      };
    });
  }

  #succeeded(call: JobCall, { results, executor, attempt }: Executed, startedAt: number): void {
    const { metrics, events, clock, deliver } = this.#options;
    metrics.executed.add();
    if (events.hears('executed'))
      events.emit('executed', { seq: undefined, call, results, executor, attempt, durationMs: clock.monotonic() - startedAt });
    const delivered = deliver(results, call);
    if (delivered) void delivered.then(() => this.#ended());
    else this.#ended();
  }

  #failed(call: JobCall, thrown: unknown): void {
    const { metrics, events, onFailed } = this.#options;
    const error = toRunnerError(thrown, 'JOB_FAILED');
    metrics.failed.add();
    if (events.hears('failed')) events.emit('failed', { seq: undefined, call, error });
    onFailed(error, call);
    this.#ended();
  }

  #ended(): void {
    this.#running -= 1;
    this.#options.metrics.inFlight.add(-1);
    this.#waiting.shift()?.();
    if (this.#running === 0) this.#idle?.();
  }
}
