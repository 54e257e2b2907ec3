/** One deployed function of the FaaS server: a process per invocation, JSON in on its standard input, JSON out on its standard output. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { dirname } from 'node:path';
import { RunnerError } from '../errors.ts';
import type { FaasFunctionConfig } from './faas-package.ts';

export interface BootstrapFunctionOptions {
  readonly executable: string;
  /** Working directory of the process. */
  readonly directory: string;
  /** Besides PATH nothing else is set: what the server itself was started with stays its own. */
  readonly environment: Readonly<Record<string, string>>;
  readonly config: FaasFunctionConfig;
  readonly outputBytesMax: number;
}

export interface BootstrapOutcome {
  readonly output: Uint8Array;
  readonly executionMs: number;
  readonly coldStart: boolean;
}

/** The node of this process first: the bootstrap may be a script. */
const PATH = `${dirname(process.execPath)}:/usr/local/bin:/usr/bin:/bin`;

/** Text of standard error that is kept for the error message. */
const STDERR_CHARS_MAX = 2_000;

export class BootstrapFunction {
  invocations = 0;
  lastInvocation: string | undefined;
  /** Time that the first invocation took, milliseconds. */
  coldStartMs: number | undefined;
  /** Why the function is unhealthy: it cannot be started. */
  crash: string | undefined;
  readonly #options: BootstrapFunctionOptions;
  readonly #running = new Set<Bootstrap>();
  /** Started ahead: they wait for their input. */
  readonly #warm: Bootstrap[] = [];
  #closed = false;

  constructor(options: BootstrapFunctionOptions) {
    this.#options = options;
  }

  /** Starts one process ahead of its invocation. Returns how many wait. */
  async warm(): Promise<number> {
    if (this.#warm.length === 0 && !this.#closed) this.#warm.push(await this.#start());
    return this.#warm.length;
  }

  /** Rejects with `QUEUE_FULL` above the concurrency of the function, `EXECUTOR_TIMEOUT`, `PAYLOAD_TOO_LARGE`, `JOB_FAILED`. */
  async run(input: Uint8Array, signal: AbortSignal): Promise<BootstrapOutcome> {
    const { concurrencyMax, timeoutMs } = this.#options.config;
    if (this.#closed) throw new RunnerError('EXECUTOR_UNAVAILABLE', 'the function is being removed');
    if (this.#running.size - this.#warm.length >= concurrencyMax) {
      throw new RunnerError(
        'QUEUE_FULL',
        `the function runs ${concurrencyMax} invocations at the same time already; max_concurrency is ${concurrencyMax}`,
      );
    }
    const started = performance.now();
    this.invocations += 1;
    this.lastInvocation = new Date().toISOString();
    const waiting = this.#warm.pop();
    const bootstrap = waiting ?? (await this.#start());
    const output = await bootstrap.exchange(input, { timeoutMs, signal, outputBytesMax: this.#options.outputBytesMax });
    const executionMs = Math.round(performance.now() - started);
    this.coldStartMs ??= executionMs;
    return { output, executionMs, coldStart: waiting === undefined };
  }

  /** Kills what runs; resolves when all of it has ended. */
  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(
      Array.from(this.#running, (bootstrap) => {
        bootstrap.kill();
        return bootstrap.ended;
      }),
    );
  }

  async #start(): Promise<Bootstrap> {
    const { executable, directory, environment } = this.#options;
    const env = { PATH, ...environment };
    // A group of its own, so that what the bootstrap starts ends with it.
    const child = spawn(executable, [], { cwd: directory, env, stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    const bootstrap = new Bootstrap(child);
    this.#running.add(bootstrap);
    void bootstrap.ended.then(() => {
      this.#running.delete(bootstrap);
      const index = this.#warm.indexOf(bootstrap);
      if (index >= 0) this.#warm.splice(index, 1);
    });
    try {
      await bootstrap.spawned;
      this.crash = undefined;
    } catch (cause) {
      this.crash = `bootstrap cannot be started: ${cause instanceof Error ? cause.message : String(cause)}`;
      throw new RunnerError('EXECUTOR_UNAVAILABLE', this.crash, { cause });
    }
    return bootstrap;
  }
}

interface ExchangeLimits {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly outputBytesMax: number;
}

/** One process, and those that it starts. */
class Bootstrap {
  readonly spawned: Promise<void>;
  /** Never rejects: the exit code, null when it was killed or never ran. */
  readonly ended: Promise<number | null>;
  readonly #child: ChildProcess;
  #stderr = '';

  constructor(child: ChildProcess) {
    this.#child = child;
    this.spawned = new Promise((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', reject);
    });
    this.ended = new Promise((resolve) => {
      child.once('close', resolve);
      child.once('error', () => resolve(null));
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.#stderr = (this.#stderr + text).slice(-STDERR_CHARS_MAX)));
    // A process that ends without reading its input closes the pipe: the exit code says more than that error.
    child.stdin?.on('error', () => {});
  }

  kill(): void {
    const { pid } = this.#child;
    if (pid === undefined) return;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      // It has ended already.
    }
  }

  async exchange(input: Uint8Array, limits: ExchangeLimits): Promise<Uint8Array> {
    const { timeoutMs, signal, outputBytesMax } = limits;
    let reason: RunnerError | undefined;
    const stop = (error: RunnerError): void => {
      reason ??= error;
      this.kill();
    };
    const chunks: Buffer[] = [];
    let size = 0;
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > outputBytesMax) stop(new RunnerError('PAYLOAD_TOO_LARGE', `the function wrote more than ${outputBytesMax} bytes`));
      else chunks.push(chunk);
    });
    const abort = (): void => stop(new RunnerError('ABORTED', 'nobody waits for the answer any more'));
    // The caller may have gone while the process was started.
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    const seconds = timeoutMs / 1_000;
    const timer = setTimeout(() => {
      stop(new RunnerError('EXECUTOR_TIMEOUT', `Function timeout after ${seconds}s`, { details: { timeout_secs: seconds } }));
    }, timeoutMs);
    this.#child.stdin?.end(input);
    const code = await this.ended;
    clearTimeout(timer);
    signal.removeEventListener('abort', abort);
    if (reason) throw reason;
    if (code === 0 || size > 0) return Buffer.concat(chunks, size);
    const how = code === null ? 'was killed' : `ended with exit code ${code}`;
    throw new RunnerError('JOB_FAILED', `bootstrap ${how}${this.#stderr && `: ${this.#stderr.trim()}`}`, { details: { exitCode: code } });
  }
}
