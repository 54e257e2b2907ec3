/** One thread with a runtime client: it waits, becomes an instance, and ends. */

import { Worker } from 'node:worker_threads';
import { PortSocket, RunnerError, threadClientSource } from '../../src/plugin.ts';
import type { InstanceEnd, LaunchSpec, ThreadAssignment, ThreadMessage } from '../../src/plugin.ts';

export interface ThreadLimits {
  readonly stackMb: number;
  /** Of the JavaScript around the module, not of the module. */
  readonly heapMb: number;
}

const PARTS = ['wasi-functions', 'random-stream', 'answer', 'wasi', 'thread'];
/** Of the heap. What survives there goes to the rest at once: much more than this, and the process ends instead of the thread. */
const YOUNG_MB = 8;
let source: string | undefined;

function threadSource(): string {
  const end = import.meta.filename.endsWith('.ts') ? '.ts' : '.js';
  source ??= threadClientSource(PARTS.map((part) => new URL(`./${part}${end}`, import.meta.url)));
  return source;
}

export class EngineThread {
  readonly ended: Promise<InstanceEnd>;
  readonly #worker: Worker;
  readonly #ended = Promise.withResolvers<InstanceEnd>();
  #socket: PortSocket | undefined;
  #onOutput: LaunchSpec['onOutput'] | undefined;
  #isTerminated = false;
  #isOutOfMemory = false;
  #hasEnded = false;
  #memoryBytes = 0;

  constructor({ stackMb, heapMb }: ThreadLimits) {
    this.ended = this.#ended.promise;
    this.#worker = new Worker(threadSource(), {
      eval: true,
      env: {},
      argv: [],
      execArgv: [],
      stdout: true,
      stderr: true,
      resourceLimits: { stackSizeMb: stackMb, maxOldGenerationSizeMb: heapMb, maxYoungGenerationSizeMb: YOUNG_MB },
    });
    const worker = this.#worker;
    // Whoever waits for an answer holds the process.
    worker.unref();
    worker.on('message', (message: Uint8Array | ThreadMessage) => this.#hear(message));
    worker.on('error', (thrown: unknown) => {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      if ('code' in error && error.code === 'ERR_WORKER_OUT_OF_MEMORY') this.#isOutOfMemory = true;
      this.#onOutput?.('stderr', Buffer.from(`${error.stack ?? error.message}\n`));
    });
    worker.once('exit', (exitCode) => this.#finish(exitCode));
    for (const name of ['stdout', 'stderr'] as const) worker[name].on('data', (chunk: Buffer) => this.#onOutput?.(name, chunk));
  }

  get id(): number {
    return this.#worker.threadId;
  }

  get isAlive(): boolean {
    return !this.#hasEnded && !this.#isTerminated;
  }

  /** The most that its module ever had. */
  get memoryBytes(): number {
    return this.#memoryBytes;
  }

  /** Makes it an instance. The Runtime API has to listen, when it cannot serve. */
  assign(handler: unknown, { fn, runtimeApi, onOutput }: LaunchSpec): void {
    this.#onOutput = onOutput;
    const socketPath = runtimeApi.serve ? undefined : runtimeApi.socketPath;
    const assignment: ThreadAssignment = { lanes: fn.concurrencyPerInstance, socketPath, handler };
    if (runtimeApi.serve) {
      this.#socket = new PortSocket((bytes, transfer) => this.#worker.postMessage(bytes, transfer));
      runtimeApi.serve(this.#socket, Buffer.alloc(0));
    }
    try {
      this.#worker.postMessage(assignment);
    } catch (cause) {
      throw new RunnerError('INSTANCE_START_FAILED', `a thread cannot be told what it is`, { cause });
    }
  }

  /** At once, whatever its module does. */
  async terminate(): Promise<void> {
    if (!this.#hasEnded) {
      this.#isTerminated = true;
      await this.#worker.terminate();
    }
    await this.ended;
  }

  #hear(message: Uint8Array | ThreadMessage): void {
    if (message instanceof Uint8Array) {
      this.#socket?.receive(message);
      return;
    }
    switch (message.kind) {
      case 'output':
        this.#onOutput?.(message.stream, message.chunk);
        break;
      case 'memory':
        this.#memoryBytes = message.bytes;
        break;
      case 'out-of-memory':
        this.#isOutOfMemory = true;
        break;
    }
  }

  #finish(exitCode: number): void {
    this.#hasEnded = true;
    // The end first: it says more than the connection.
    if (this.#isTerminated) this.#ended.resolve({ reason: 'terminated' });
    else if (this.#isOutOfMemory) this.#ended.resolve({ reason: 'out-of-memory' });
    else this.#ended.resolve({ reason: 'exited', exitCode });
    this.#socket?.destroy();
  }
}
