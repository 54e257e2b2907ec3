/** A backend whose instances are programs in this process: they speak the Runtime API over their socket, as a runtime client does. */

import { Agent, request } from 'node:http';
import type { IncomingHttpHeaders } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { RunnerError } from '../../src/errors.ts';
import type { FunctionVersion, Instance, InstanceBackend, InstanceEnd, LaunchSpec } from '../../src/runtime/runtime.ts';

export interface ApiAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** Something thrown when the instance has ended. */
class InstanceEnded extends Error {}

/** What a program can do. */
export class FakeProgram {
  readonly spec: LaunchSpec;
  readonly handle: { readonly kind: 'fake'; readonly number: number };
  readonly ended: Promise<InstanceEnd>;
  createMs = 0;
  isPaused = false;
  readonly #end = Promise.withResolvers<InstanceEnd>();
  readonly #agent = new Agent({ keepAlive: true, maxFreeSockets: 128 });
  readonly #stopped = new AbortController();
  isRunning = true;

  constructor(spec: LaunchSpec, number: number) {
    this.spec = spec;
    this.handle = { kind: 'fake', number };
    this.ended = this.#end.promise;
    // Every request of a program listens to it.
    this.#stopped.signal.addEventListener('abort', () => this.#agent.destroy());
  }

  get id(): string {
    return this.spec.instanceId;
  }

  get socketPath(): string {
    return this.spec.runtimeApi.socketPath;
  }

  /** Ends the program: its connections break, as with a process that is gone. */
  end(end: InstanceEnd): void {
    if (!this.isRunning) return;
    this.isRunning = false;
    this.#stopped.abort();
    this.#end.resolve(end);
  }

  print(text: string, stream: 'stdout' | 'stderr' = 'stdout'): void {
    this.spec.onOutput(stream, Buffer.from(text));
  }

  api(method: string, path: string, body?: Uint8Array | string, headers: Record<string, string> = {}): Promise<ApiAnswer> {
    return new Promise((resolve, reject) => {
      if (!this.isRunning) return reject(new InstanceEnded());
      const outgoing = request({
        socketPath: this.socketPath,
        path: `/2018-06-01/runtime/${path}`,
        method,
        headers: { ...(body !== undefined && { 'content-length': String(Buffer.byteLength(body)) }), ...headers },
        agent: this.#agent,
      });
      const stopped = (): void => void outgoing.destroy(new InstanceEnded());
      this.#stopped.signal.addEventListener('abort', stopped, { once: true });
      outgoing.once('close', () => this.#stopped.signal.removeEventListener('abort', stopped));
      outgoing.on('error', (error) => reject(this.isRunning ? error : new InstanceEnded()));
      outgoing.on('response', (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
        incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body: Buffer.concat(chunks) }));
        incoming.on('error', () => reject(new InstanceEnded()));
      });
      outgoing.end(body);
    });
  }

  /** A streamed response: writes what the generator yields; `fail` becomes the trailers. */
  stream(id: string, chunks: AsyncIterable<Uint8Array>, options: { contentType?: string; fail?: Error } = {}): Promise<ApiAnswer> {
    return new Promise((resolve, reject) => {
      const outgoing = request({
        socketPath: this.socketPath,
        path: `/2018-06-01/runtime/invocation/${id}/response`,
        method: 'POST',
        headers: {
          'lambda-runtime-function-response-mode': 'streaming',
          'transfer-encoding': 'chunked',
          'content-type': options.contentType ?? 'application/octet-stream',
          trailer: 'Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body',
        },
        agent: this.#agent,
      });
      const stopped = (): void => void outgoing.destroy(new InstanceEnded());
      this.#stopped.signal.addEventListener('abort', stopped, { once: true });
      outgoing.once('close', () => this.#stopped.signal.removeEventListener('abort', stopped));
      outgoing.on('error', reject);
      outgoing.on('response', (incoming) => {
        const parts: Buffer[] = [];
        incoming.on('data', (part: Buffer) => parts.push(part));
        incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, body: Buffer.concat(parts) }));
      });
      const write = async (): Promise<void> => {
        for await (const chunk of chunks) {
          if (!outgoing.write(chunk)) await new Promise((drained) => outgoing.once('drain', drained));
        }
        if (options.fail) {
          const { name, message } = options.fail;
          const body = Buffer.from(JSON.stringify({ errorType: name, errorMessage: message })).toString('base64');
          outgoing.addTrailers({ 'Lambda-Runtime-Function-Error-Type': name, 'Lambda-Runtime-Function-Error-Body': body });
        }
        outgoing.end();
      };
      write().catch(reject);
    });
  }
}

export interface FakeEvent {
  readonly id: string;
  readonly body: Buffer;
  readonly headers: IncomingHttpHeaders;
  readonly program: FakeProgram;
}

/** Answers an event itself, or returns what the answer is. */
export type FakeHandler = (event: FakeEvent) => Promise<Uint8Array | string | undefined>;

export interface FakeBackendOptions {
  /** Before the program asks for work. Default: at once. */
  readonly boot?: (program: FakeProgram) => Promise<void>;
  /** Default: echo. Returning undefined: it has answered itself. Throwing an error: it is reported. */
  readonly handler?: FakeHandler;
  /** Instead of the loop that polls and answers. */
  readonly main?: (program: FakeProgram) => Promise<void>;
  readonly canPause?: boolean;
}

/** The loop of a runtime client. */
async function pollForEver(program: FakeProgram, handler: FakeHandler): Promise<void> {
  while (program.isRunning) {
    const next = await program.api('GET', 'invocation/next');
    if (next.status !== 200) throw new Error(`a poll was answered with ${next.status} ${next.body.toString()}`);
    const id = String(next.headers['lambda-runtime-aws-request-id']);
    try {
      const answer = await handler({ id, body: next.body, headers: next.headers, program });
      if (answer !== undefined) await program.api('POST', `invocation/${id}/response`, answer, { 'content-type': 'application/json' });
    } catch (error) {
      if (error instanceof InstanceEnded || !program.isRunning) return;
      const { name, message } = error instanceof Error ? error : new Error(String(error));
      await program.api('POST', `invocation/${id}/error`, JSON.stringify({ errorType: name, errorMessage: message, trace: [] }));
    }
  }
}

export class FakeBackend implements InstanceBackend {
  readonly name = 'fake';
  readonly programs: FakeProgram[] = [];
  /** Owners that were reaped. */
  readonly reaped: string[] = [];
  readonly failures: unknown[] = [];
  terminations = 0;
  /** How long it takes to end an instance. */
  terminateMs = 0;
  /** The next launch waits for it. */
  launchGate: Promise<void> = Promise.resolve();
  launchError: RunnerError | undefined;
  launching = 0;
  launchingMax = 0;
  pause?: (instance: Instance) => Promise<void>;
  resume?: (instance: Instance) => Promise<void>;
  options: FakeBackendOptions;

  constructor(options: FakeBackendOptions = {}) {
    this.options = options;
    if (!options.canPause) return;
    this.pause = async (instance) => void (this.#of(instance).isPaused = true);
    this.resume = async (instance) => void (this.#of(instance).isPaused = false);
  }

  get running(): FakeProgram[] {
    return this.programs.filter(({ isRunning }) => isRunning);
  }

  async launch(spec: LaunchSpec): Promise<Instance> {
    this.launching += 1;
    this.launchingMax = Math.max(this.launchingMax, this.launching);
    try {
      const aborted = new Promise<never>((_, reject) =>
        spec.signal.addEventListener('abort', () => reject(new RunnerError('ABORTED', 'the launch was given up')), { once: true }),
      );
      await Promise.race([this.launchGate, aborted]);
    } finally {
      this.launching -= 1;
    }
    if (this.launchError) throw this.launchError;
    await spec.runtimeApi.listen();
    const program = new FakeProgram(spec, this.programs.length);
    this.programs.push(program);
    this.#main(program).catch((error: unknown) => {
      if (program.isRunning) this.failures.push(error);
    });
    return program;
  }

  async terminate(instance: Instance): Promise<void> {
    this.terminations += 1;
    if (this.terminateMs > 0) await delay(this.terminateMs);
    this.#of(instance).end({ reason: 'terminated' });
  }

  async reapStale(ownerId: string): Promise<number> {
    this.reaped.push(ownerId);
    return 0;
  }

  async unavailable(): Promise<string | undefined> {
    return undefined;
  }

  async #main(program: FakeProgram): Promise<void> {
    const { boot, main, handler = async ({ body }) => body } = this.options;
    await boot?.(program);
    if (!program.isRunning) return;
    if (main) return main(program);
    const lanes = Array.from({ length: program.spec.fn.concurrencyPerInstance }, () => pollForEver(program, handler));
    await Promise.all(lanes);
  }

  #of(instance: Instance): FakeProgram {
    const program = this.programs.find(({ id }) => id === instance.id);
    if (!program) throw new Error(`no program ${instance.id}`);
    return program;
  }
}

/** A version of a function, for tests. */
export function versionOf(overrides: Partial<FunctionVersion> = {}): FunctionVersion {
  return {
    name: 'cook',
    version: '$LATEST',
    fingerprint: 'f0',
    code: { kind: 'folder', path: '/nowhere', sha256: '00' },
    layers: [],
    runtime: 'nodejs24.x',
    handler: 'index.handler',
    memoryMb: 128,
    timeoutMs: 20_000,
    ephemeralMb: 512,
    environment: {},
    concurrencyPerInstance: 1,
    network: 'none',
    ...overrides,
  };
}
