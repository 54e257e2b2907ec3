/** The functions of a gateway: which version a call means, which backend runs it, and that replaced code never runs again. */

import { hash } from 'node:crypto';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { FunctionRuntime } from '../runtime/function-runtime.ts';
import { LIMITS } from '../executor/limits.ts';
import type { FunctionVersion, InstanceInfo, Invocation, InvocationOptions, StreamedInvocation } from '../runtime/runtime.ts';
import type { FunctionStore, Resolved } from '../runtime/store.ts';
import type { FunctionRecord } from '../runtime/store-records.ts';
import { checkEvent } from './invocation.ts';

export interface FunctionsOptions {
  readonly store: FunctionStore;
  /** By the name under which functions ask for them. */
  readonly runtimes: ReadonlyMap<string, FunctionRuntime>;
  readonly defaultBackend: string;
  /** The instances of this function end, those that are kept warm as well. */
  readonly onDrained?: (name: string) => void;
}

export interface Target {
  readonly name: string;
  readonly qualifier?: string | undefined;
}

export interface Invoked {
  readonly invocation: Invocation;
  readonly executedVersion: string;
}

export interface Streamed {
  readonly invocation: StreamedInvocation;
  readonly executedVersion: string;
}

/** In the record of a function that was made for the code of requests. */
export const CODE_MARK = 'codeOfRequest';

/** Made for the code of requests, by nobody's wish: not listed, and gone after a restart. */
export function isCodeOfRequest({ extra }: Pick<FunctionRecord, 'extra'>): boolean {
  return extra[CODE_MARK] === true;
}

/** Declared by its author: another run of the same call does no harm. */
export function isIdempotent({ extra }: Pick<FunctionRecord, 'extra'>): boolean {
  return extra['idempotent'] === true;
}

export class Functions {
  readonly store: FunctionStore;
  readonly runtimes: ReadonlyMap<string, FunctionRuntime>;
  readonly defaultBackend: string;
  readonly #onDrained: FunctionsOptions['onDrained'];

  constructor({ store, runtimes, defaultBackend, onDrained }: FunctionsOptions) {
    this.store = store;
    this.runtimes = runtimes;
    this.defaultBackend = defaultBackend;
    this.#onDrained = onDrained;
  }

  /** What a call of `target` runs now, and where. Throws `FUNCTION_NOT_FOUND`, `CODE_MISSING`, `BACKEND_UNAVAILABLE`. */
  resolve({ name, qualifier }: Target): Resolved & { readonly runtime: FunctionRuntime } {
    const resolved = this.store.resolve(name, qualifier);
    return { ...resolved, runtime: this.runtimeOf(resolved.record) };
  }

  async invoke({ name, qualifier }: Target, event: Uint8Array, options: InvocationOptions): Promise<Invoked> {
    const { fn, executedVersion, reserved, record } = this.store.resolve(name, qualifier);
    checkEvent(event.length, record);
    const invocation = await this.runtimeOf(record).invoke(fn, event, limited(options, reserved));
    checkAnswer(invocation.body.length, record);
    return { invocation, executedVersion };
  }

  async stream(target: Target, event: Uint8Array, options: InvocationOptions): Promise<Streamed> {
    const { fn, executedVersion, reserved, runtime, record } = this.resolve(target);
    checkEvent(event.length, record);
    const invocation = await runtime.stream(fn, event, limited(options, reserved));
    const { streamBytesMax } = LIMITS[record.profile];
    return { invocation: { ...invocation, chunks: atMost(invocation.chunks, streamBytesMax) }, executedVersion };
  }

  /** On an instance that serves this call alone. */
  async invokeAlone(target: Target, event: Uint8Array, options: InvocationOptions & { readonly requestId: string }): Promise<Invoked> {
    const { fn, executedVersion, reserved, runtime, record } = this.resolve(target);
    checkEvent(event.length, record);
    const alone: FunctionVersion = { ...fn, fingerprint: hash('sha256', `${fn.fingerprint} ${options.requestId}`, 'hex') };
    try {
      const invocation = await runtime.invoke(alone, event, limited(options, reserved));
      checkAnswer(invocation.body.length, record);
      return { invocation, executedVersion };
    } finally {
      const own = runtime.instances().filter(({ fingerprint }) => fingerprint === alone.fingerprint);
      await Promise.all(own.map(({ id }) => runtime.stopInstance(id)));
      // One that still starts for a call that was given up.
      runtime.retire(target.name, this.store.fingerprints(target.name));
    }
  }

  /** Rejects with `STATE_INVALID` when the function is replaced meanwhile. */
  async warm(target: Target, count: number): Promise<void> {
    const { fn, runtime } = this.resolve(target);
    try {
      await runtime.warm(fn, count);
    } catch (cause) {
      const { code, message } = toRunnerError(cause);
      throw code === 'ABORTED' ? new RunnerError('STATE_INVALID', message, { cause }) : cause;
    }
  }

  /** Of all backends, by the name under which functions ask for them. */
  instances(): (InstanceInfo & { readonly backend: string })[] {
    return [...this.runtimes].flatMap(([backend, runtime]) => runtime.instances().map((instance) => ({ ...instance, backend })));
  }

  async stopInstance(id: string): Promise<boolean> {
    const stopped = await Promise.all([...this.runtimes.values()].map((runtime) => runtime.stopInstance(id)));
    return stopped.includes(true);
  }

  /** Instances of this function end, at once or after their call. Returns how many. */
  drain(name: string): number {
    const count = this.instances().filter((instance) => instance.name === name).length;
    for (const runtime of this.runtimes.values()) runtime.retire(name, []);
    this.#onDrained?.(name);
    return count;
  }

  /** To be called after every change of a function. */
  changed(name: string): void {
    const keep = this.store.fingerprints(name);
    for (const runtime of this.runtimes.values()) runtime.retire(name, keep);
  }

  backendOf({ extra }: Pick<FunctionRecord, 'extra'>): string {
    const { backend } = extra;
    return typeof backend === 'string' ? backend : this.defaultBackend;
  }

  /** Throws `BACKEND_UNAVAILABLE`. */
  runtimeOf(record: Pick<FunctionRecord, 'extra'>): FunctionRuntime {
    return this.runtimeNamed(this.backendOf(record));
  }

  /** Throws `REQUEST_INVALID`. */
  checkBackend(backend: string): void {
    if (this.runtimes.has(backend)) return;
    const known = [...this.runtimes.keys()].join(', ');
    throw new RunnerError('REQUEST_INVALID', `the backend ${backend} does not run here; there is ${known}`, { details: { backend } });
  }

  /** Throws `BACKEND_UNAVAILABLE`. */
  runtimeNamed(backend: string): FunctionRuntime {
    const runtime = this.runtimes.get(backend);
    if (runtime) return runtime;
    throw new RunnerError(
      'BACKEND_UNAVAILABLE',
      `the backend ${backend} does not run here; there is ${[...this.runtimes.keys()].join(', ')}`,
      { details: { backend } },
    );
  }
}

function limited(options: InvocationOptions, reserved: number | undefined): InvocationOptions {
  return reserved === undefined ? options : { ...options, concurrencyMax: reserved };
}

function checkAnswer(size: number, { name, profile }: FunctionRecord): void {
  const limit = LIMITS[profile].responseBytesMax;
  if (size > limit) throw answerTooLarge(`${name} answered ${size} bytes; ${profile} allows ${limit}`, { size, limit });
}

async function* atMost(chunks: AsyncIterable<Uint8Array>, limit: number): AsyncGenerator<Uint8Array> {
  let size = 0;
  for await (const chunk of chunks) {
    size += chunk.length;
    if (size > limit) throw answerTooLarge(`the function answered more than ${limit} bytes`, { size, limit });
    yield chunk;
  }
}

/** The function is at fault, not the request: another status than that of the code. */
function answerTooLarge(message: string, details: { readonly size: number; readonly limit: number }): RunnerError {
  return new RunnerError('PAYLOAD_TOO_LARGE', message, { details: { ...details, status: 502 } });
}
