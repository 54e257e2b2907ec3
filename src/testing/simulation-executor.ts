/** The platform of the simulation: runs every job, fails now and then, and says what may be tried again. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { Execution, FaasExecutor, InvokeOptions } from '../executor/executor.ts';
import type { JobCall } from '../job/call.ts';
import { Metadata } from '../job/call.ts';
import type { Random } from './fake-clock.ts';
import type { Checker } from './simulation-checker.ts';
import { resultFor } from './simulation-checker.ts';

export interface SimulatedExecutorOptions {
  readonly clock: Clock;
  readonly checker: Checker;
  readonly random: Random;
  /** Probability per attempt. */
  readonly failureRate: () => number;
}

const RUN_MS_MAX = 3_000;
const SLOW_RUN_MS_MAX = 15_000;
/** An executor fails this often for one call in one life, then works. */
const FAILURES_MAX = 2;

export class SimulatedExecutor implements FaasExecutor {
  readonly name = 'simulated';
  readonly limits = { requestBytesMax: 1 << 20, responseBytesMax: 1 << 20, timeoutMsMax: 600_000 };
  readonly #clock: Clock;
  readonly #options: SimulatedExecutorOptions;
  readonly #random: Random;
  readonly #failures = new Map<string, number>();

  constructor(options: SimulatedExecutorOptions) {
    this.#clock = options.clock;
    this.#options = options;
    this.#random = options.random.fork('executor');
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    this.#options.checker.executing(call.id, options.attempt);
    const random = this.#random;
    const failure = random.pick(['unreachable', 'throttled', 'lost', 'hang'] as const);
    const runMs = random.int(1, random.chance(0.05) ? SLOW_RUN_MS_MAX : RUN_MS_MAX);
    const failures = this.#failures.get(call.id) ?? 0;
    if (random.chance(this.#options.failureRate()) && failures < FAILURES_MAX) {
      this.#failures.set(call.id, failures + 1);
      return this.#fail(failure, runMs, options);
    }
    const leftMs = options.deadline - this.#clock.now();
    await this.#clock.sleep(Math.min(runMs, leftMs), options.signal);
    if (runMs >= leftMs) throw new RunnerError('EXECUTOR_TIMEOUT', 'the simulated job is slower than its deadline');
    const body = resultFor(Number(call.jobId), call.body);
    if (!body) throw new RunnerError('JOB_FAILED', 'the simulated job throws for these inputs');
    return { results: [{ body, metadata: new Metadata() }] };
  }

  async close(): Promise<void> {
    // Nothing is held.
  }

  async #fail(failure: 'unreachable' | 'throttled' | 'lost' | 'hang', runMs: number, options: InvokeOptions): Promise<never> {
    switch (failure) {
      case 'unreachable':
        throw new RunnerError('EXECUTOR_UNREACHABLE', 'the simulated platform is not there');
      case 'throttled':
        throw new RunnerError('EXECUTOR_THROTTLED', 'the simulated platform refuses the call');
      case 'lost':
        await this.#clock.sleep(Math.min(runMs, options.deadline - this.#clock.now()), options.signal);
        throw new RunnerError('EXECUTOR_CONNECTION_LOST', 'the simulated connection broke after the job ran');
      case 'hang':
        await this.#clock.sleep(options.deadline - this.#clock.now(), options.signal);
        throw new RunnerError('EXECUTOR_TIMEOUT', 'the simulated handler does not answer');
    }
  }
}
