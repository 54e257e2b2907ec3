/** Jobs as programs that run once: each call is a container of its own, with the request on stdin and the response on stdout. */

import { RunnerError, decodeResponse, encodeRequest, systemClock } from '../../src/plugin.ts';
import type { Clock, Execution, ExecutorLimits, FaasExecutor, FunctionVersion, InvokeOptions, JobCall } from '../../src/plugin.ts';
import type { ContainerBackend } from './backend.ts';

export interface ContainerStdioExecutorOptions {
  readonly backend: ContainerBackend;
  /** The program of a job: one for all, or by job. Undefined: there is none, `EXECUTOR_NOT_FOUND`. */
  readonly fn: FunctionVersion | ((jobId: bigint) => FunctionVersion | undefined);
  /** Default `container-stdio`. */
  readonly name?: string;
  readonly limits?: Partial<ExecutorLimits>;
  readonly clock?: Clock;
}

const MIB = 1024 * 1024;
const JSON_TYPE = 'application/json';

/**
 * One attempt and one container per call; nothing is shared between calls. Rejects with the errors of `ContainerBackend.runStdio` and
 * with the error that the job reports. Of the call it knows the JSON that the Custom FaaS Platform Spec describes.
 *
 * @example
 * const executor = new ContainerStdioExecutor({ backend, fn });
 */
export class ContainerStdioExecutor implements FaasExecutor {
  readonly name: string;
  readonly limits: ExecutorLimits;
  readonly #options: ContainerStdioExecutorOptions;
  readonly #clock: Clock;
  readonly #running = new Set<Promise<unknown>>();
  #isClosed = false;

  /** Does no I/O. */
  constructor(options: ContainerStdioExecutorOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.name = options.name ?? 'container-stdio';
    this.limits = { requestBytesMax: 4 * MIB, responseBytesMax: 4 * MIB, timeoutMsMax: 900_000, ...options.limits };
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    const run = this.#run(call, options);
    const settled: Promise<void> = run.then(
      () => void this.#running.delete(settled),
      () => void this.#running.delete(settled),
    );
    this.#running.add(settled);
    return run;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#running);
  }

  async #run(call: JobCall, { deadline, signal }: InvokeOptions): Promise<Execution> {
    const fn = this.#functionOf(call.jobId);
    const timeoutMs = Math.max(1, Math.min(fn.timeoutMs, deadline - this.#clock.now()));
    // Base64 is a third longer than the bytes, and an envelope goes around it.
    const outputBytesMax = Math.ceil((this.limits.responseBytesMax * 4) / 3) + 64 * 1024;
    const { output, runMs, createMs } = await this.#options.backend.runStdio(fn, encodeRequest('base64', call).body, {
      timeoutMs,
      outputBytesMax,
      ...(signal && { signal }),
    });
    const { results } = decodeResponse({ status: 200, headers: { 'content-type': JSON_TYPE }, body: output }, call);
    return { results, report: { coldStart: true, executionMs: runMs, initMs: createMs } };
  }

  #functionOf(jobId: bigint): FunctionVersion {
    if (this.#isClosed) throw new RunnerError('EXECUTOR_CLOSED', `executor ${this.name} is closed`);
    const { fn } = this.#options;
    const found = typeof fn === 'function' ? fn(jobId) : fn;
    if (!found) throw new RunnerError('EXECUTOR_NOT_FOUND', `executor ${this.name} has no function for job ${jobId}`);
    return found;
  }
}
