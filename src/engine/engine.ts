/** An engine: a gateway elsewhere, such as that of `bpr wasm serve`, that runs functions. */

import type { Clock } from '../clock.ts';
import { RunnerError, isErrorCode, toRunnerError } from '../errors.ts';
import { Semaphore } from '../executor/resilience.ts';
import { Connections, parseTarget } from '../http/connection.ts';
import type { Target } from '../http/connection.ts';
import type { HttpRequest, HttpResponse, ResponseSink } from '../http/http.ts';
import { inTime } from '../http/in-time.ts';
import { ChunkQueue } from '../runtime/chunk-queue.ts';
import type { CancelSignal, FunctionCode, FunctionVersion, InvocationOptions } from '../runtime/runtime.ts';
import type { EngineMetrics } from './engine-metrics.ts';

/** Where a package lies, as who brings packages knows it, and its hash. */
export type PackageCode = Extract<FunctionCode, { readonly kind: 'folder' }>;

export interface EngineCallOptions extends Pick<InvocationOptions, 'deadline' | 'signal' | 'contentType'> {
  /** Calls with the same one go to the same engine while that is up. */
  readonly affinity?: string | undefined;
}

/** One call of a function, wherever it goes. */
export interface EngineCall {
  readonly fn: FunctionVersion;
  readonly code: PackageCode;
  readonly event: Uint8Array;
  readonly options: EngineCallOptions;
}

export interface EngineAnswer {
  readonly body: Uint8Array;
  readonly contentType: string;
}

/** An answer whose bytes come while it is read; who reads slowly slows the engine down. */
export interface EngineStream {
  readonly contentType: string;
  /** What the engine says of the call: see `REPORT_HEADERS`. */
  readonly report: Readonly<Record<string, string>>;
  /** Throws when the engine breaks off. Ending its loop early, or the signal of the call, ends the call. */
  readonly chunks: AsyncIterable<Uint8Array>;
  /** Resolves when no more comes, with the reason when that is not the end of the answer. Never rejects. */
  readonly ended: Promise<Error | undefined>;
}

/** `stream`: the function's own stream, chunk by chunk; `invoke`: the answer when it is whole. */
export type EngineMethod = 'invoke' | 'stream';

export interface EngineAddress {
  readonly url: string;
  /** For callers that are not to know the address: their errors tell this alone. */
  readonly name?: string | undefined;
}

export interface EngineParts {
  readonly clock: Clock;
  /** Sent as `Authorization: Bearer`. */
  readonly token: string | undefined;
  readonly zipOf: (code: PackageCode) => Promise<Uint8Array>;
  readonly responseBytesMax: number;
}

const PROBE_MS_MAX = 2_000;
const PROBE_BYTES_MAX = 65_536;
const DEPLOY_MS_MAX = 60_000;
/** Packages are in memory while they travel. */
const DEPLOYMENTS_MAX = 4;
const DEPLOYMENTS_WAITING_MAX = 10_000;
/** What a call may wait for an instance. */
const QUEUE_MS_MAX = 30_000;
const NAME_CHARACTERS_MAX = 40;
const FINGERPRINT_CHARACTERS = 16;
const REPORT_HEADERS = ['x-invocation-id', 'x-cold-start', 'x-queue-ms', 'x-run-ms', 'x-executed-version'] as const;

/** One of a pool: what is deployed there, and how calls reach it. Which engine a call goes to is the pool's. */
export class Engine {
  readonly url: string;
  /** What errors call it. */
  readonly name: string;
  readonly metrics: EngineMetrics;
  running = 0;
  /** It was not reached; until it is, it comes last. */
  isDown = false;
  /** Whether it is down has been found out. */
  isKnown = false;
  /** Milliseconds since the epoch: it refused, and before then others are preferred. */
  awayUntil = 0;
  readonly #target: Target;
  readonly #parts: EngineParts;
  readonly #connections: Connections;
  /** By name there: the deployments that run; undefined of functions that are known to be there. */
  readonly #deployed = new Map<string, Promise<void> | undefined>();
  readonly #deployments: Semaphore;
  /** Calls that wait until their function is there. */
  #waiting = 0;
  #isClosing = false;
  /** Ends deployments that nobody waits for any more. */
  readonly #over = new AbortController();

  /** Throws `CONFIG_INVALID`. */
  constructor({ url, name = url }: EngineAddress, metrics: EngineMetrics, parts: EngineParts) {
    this.url = url;
    this.name = name;
    this.metrics = metrics;
    this.#target = targetOf(url);
    this.#parts = parts;
    this.#connections = new Connections({}, parts.clock);
    this.#deployments = new Semaphore(`deployments on ${name}`, DEPLOYMENTS_MAX, DEPLOYMENTS_WAITING_MAX);
  }

  /** Deploys the function unless it is there. Rejects with the errors of the engine. */
  async invoke(call: EngineCall): Promise<EngineAnswer> {
    const { body, headers } = await this.#call(call, 'invoke', (request) => this.#send(request));
    return { body, contentType: contentTypeOf(headers) };
  }

  /** As `invoke`; resolves when the answer begins. */
  async open(call: EngineCall, method: EngineMethod): Promise<EngineStream> {
    const { headers, chunks, ended } = await this.#call(call, method, (request) => this.#open(request));
    return { contentType: contentTypeOf(headers), report: reportOf(headers), chunks, ended };
  }

  /** The reason why it is not ready. */
  async probe(signal: AbortSignal): Promise<string | undefined> {
    const deadline = this.#parts.clock.now() + PROBE_MS_MAX;
    const request = { method: 'GET', path: `${this.#target.path}/readyz`, headers: this.#credentials(), deadline, signal } as const;
    const sending = this.#connections.send(this.#target, { ...request, responseBytesMax: PROBE_BYTES_MAX });
    return sending.then(
      ({ status }) => (status === 200 ? undefined : `${this.url} answered ${status}`),
      (thrown: unknown) => toRunnerError(thrown).message,
    );
  }

  /** When no call runs any more; new ones are refused. Idempotent. */
  close(): Promise<void> {
    this.#isClosing = true;
    this.#endUnneeded();
    return this.#connections.close();
  }

  /** Removes versions of this name that were deployed from here and are not among those. */
  retire(name: string, keep: readonly string[]): void {
    const kept = new Set(keep.map((fingerprint) => nameOf(name, fingerprint)));
    const prefix = nameOf(name, '');
    for (const deployed of this.#deployed.keys()) {
      if (kept.has(deployed) || deployed.length !== prefix.length + FINGERPRINT_CHARACTERS || !deployed.startsWith(prefix)) continue;
      this.#deployed.delete(deployed);
      // An engine that is away keeps it: it does no harm there.
      this.#send({ method: 'DELETE', path: `/functions/${deployed}` }).catch(() => {});
    }
  }

  async #call<T>(call: EngineCall, method: EngineMethod, send: (request: EngineRequest) => Promise<T>): Promise<T> {
    const { fn, event, options } = call;
    const name = nameOf(fn.name, fn.fingerprint);
    const { signal } = options;
    const deadline = Math.min(options.deadline ?? Infinity, this.#parts.clock.now() + fn.timeoutMs + QUEUE_MS_MAX);
    for (let isSecond = false; ; isSecond = true) {
      const deploying = this.#deploying(name, call);
      if (deploying) await this.#untilThere(deploying, { deadline, signal });
      const headers = ['content-type', options.contentType ?? 'application/json'];
      try {
        return await send({ method: 'POST', path: `/functions/${name}/${method}`, headers, body: event, deadline, signal });
      } catch (thrown) {
        // It was removed there, or the engine has begun anew.
        if (isSecond || toRunnerError(thrown).code !== 'FUNCTION_NOT_FOUND') throw thrown;
        this.#deployed.delete(name);
      }
    }
  }

  /** What is deployed goes on when a call does not wait any more: later ones need it, too. */
  async #untilThere(deploying: Promise<void>, { deadline, signal }: { deadline: number; signal: CancelSignal | undefined }): Promise<void> {
    const cancel = new AbortController();
    const unlink = link(signal, cancel);
    this.#waiting += 1;
    try {
      await inTime(deploying, { deadline, signal: cancel.signal, clock: this.#parts.clock });
    } finally {
      unlink();
      this.#waiting -= 1;
      this.#endUnneeded();
    }
  }

  #endUnneeded(): void {
    if (this.#isClosing && this.#waiting === 0) this.#over.abort();
  }

  /** Once for all calls that need it. Undefined: the function is there. */
  #deploying(name: string, call: EngineCall): Promise<void> | undefined {
    if (this.#deployed.has(name)) return this.#deployed.get(name);
    const deploying = this.#deploy(name, call).then(
      () => {
        if (this.#deployed.get(name) === deploying) this.#deployed.set(name, undefined);
      },
      (thrown: unknown) => {
        if (this.#deployed.get(name) === deploying) this.#deployed.delete(name);
        const error = toRunnerError(thrown);
        // The function was not called, whatever became of its deployment.
        const isAway = error.code === 'EXECUTOR_CONNECTION_LOST' || error.code === 'EXECUTOR_TIMEOUT';
        throw isAway ? new RunnerError('EXECUTOR_UNAVAILABLE', `${this.name} took no function: ${error.message}`, { cause: error }) : error;
      },
    );
    this.#deployed.set(name, deploying);
    return deploying;
  }

  async #deploy(name: string, { fn, code }: EngineCall): Promise<void> {
    await this.#deployments.acquire();
    try {
      const document = { ...settingsDocument(fn), name, zip: Buffer.from(await this.#parts.zipOf(code)).toString('base64') };
      const headers = ['content-type', 'application/json'];
      const body = Buffer.from(JSON.stringify(document));
      await this.#send({ method: 'POST', path: '/functions', headers, body, signal: this.#over.signal });
    } catch (thrown) {
      // The name says that it is the same.
      if (toRunnerError(thrown).code !== 'FUNCTION_EXISTS') throw thrown;
    } finally {
      this.#deployments.release();
    }
  }

  #credentials(): string[] {
    const { token } = this.#parts;
    return token === undefined ? [] : ['authorization', `Bearer ${token}`];
  }

  async #exchange(request: EngineRequest, signal: AbortSignal, into?: HttpRequest['into']): Promise<HttpResponse> {
    const { clock, responseBytesMax } = this.#parts;
    const { method, path, headers = [], body, deadline = clock.now() + DEPLOY_MS_MAX } = request;
    const sending = this.#connections.send(this.#target, {
      method,
      path: `${this.#target.path}/api/v1${path}`,
      headers: [...headers, ...this.#credentials()],
      ...(body && { body }),
      deadline,
      signal,
      responseBytesMax,
      into,
    });
    const response = await sending.catch((thrown: unknown) => {
      throw this.#told(toRunnerError(thrown));
    });
    if (response.status >= 300) throw errorOf(this.name, response);
    return response;
  }

  /** What went wrong on the way is said with its address. */
  #told(error: RunnerError): RunnerError {
    if (this.name === this.url) return error;
    const { cause: _, ...details } = error.details;
    const { code, retry } = error;
    return new RunnerError(code, `the call of ${this.name} ended with ${code}`, { cause: error, details, retry });
  }

  async #send(request: EngineRequest): Promise<HttpResponse> {
    const cancel = new AbortController();
    const unlink = link(request.signal, cancel);
    try {
      return await this.#exchange(request, cancel.signal);
    } finally {
      unlink();
    }
  }

  async #open(request: EngineRequest): Promise<HttpResponse & Pick<EngineStream, 'chunks' | 'ended'>> {
    const cancel = new AbortController();
    const unlink = link(request.signal, cancel);
    const { promise: ended, resolve: end } = Promise.withResolvers<Error | undefined>();
    const chunks = new ChunkQueue(() => cancel.abort());
    const sink: ResponseSink = {
      push: (chunk) => chunks.push(chunk),
      end: (thrown) => {
        unlink();
        const error = thrown && this.#told(thrown);
        chunks.end(error);
        end(error);
      },
    };
    const into: HttpRequest['into'] = (status, flow) => {
      chunks.flow = flow;
      // An error is a document.
      return status < 300 ? sink : undefined;
    };
    try {
      return { ...(await this.#exchange(request, cancel.signal, into)), chunks, ended };
    } catch (thrown) {
      unlink();
      throw thrown;
    }
  }
}

interface EngineRequest {
  readonly method: 'POST' | 'DELETE';
  readonly path: string;
  readonly headers?: readonly string[];
  readonly body?: Uint8Array;
  readonly deadline?: number;
  readonly signal?: CancelSignal | undefined;
}

/** What a function is, as APIs are told it. */
export function settingsDocument(fn: Omit<FunctionVersion, 'code'>): Readonly<Record<string, unknown>> {
  return {
    runtime: fn.runtime,
    handler: fn.handler,
    memory_mb: fn.memoryMb,
    timeout_ms: fn.timeoutMs,
    ephemeral_mb: fn.ephemeralMb,
    environment: fn.environment,
    concurrency_per_instance: fn.concurrencyPerInstance,
    network: fn.network,
  };
}

/** Returns what takes the link away. */
function link(signal: CancelSignal | undefined, cancel: AbortController): () => void {
  const abort = (): void => cancel.abort(signal?.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener('abort', abort, { once: true });
  return () => signal?.removeEventListener('abort', abort);
}

function targetOf(url: string): Target {
  try {
    return parseTarget(url);
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(url)} is not the address of an engine; write http://host:port`, { cause });
  }
}

function nameOf(name: string, fingerprint: string): string {
  return `${name.replace(/[^A-Za-z0-9_-]/g, '-').slice(0, NAME_CHARACTERS_MAX)}-${fingerprint.slice(0, FINGERPRINT_CHARACTERS)}`;
}

function contentTypeOf(headers: HttpResponse['headers']): string {
  return String(headers['content-type'] ?? 'application/octet-stream');
}

function reportOf(headers: HttpResponse['headers']): Readonly<Record<string, string>> {
  return Object.fromEntries(
    REPORT_HEADERS.flatMap((name) => {
      const value = headers[name];
      return typeof value === 'string' ? [[name, value]] : [];
    }),
  );
}

/** The error that an engine tells. */
function errorOf(name: string, { status, body }: HttpResponse): RunnerError {
  try {
    const document: unknown = JSON.parse(Buffer.from(body).toString());
    const told: unknown = typeof document === 'object' && document !== null && 'error' in document ? document.error : undefined;
    if (typeof told === 'object' && told !== null && 'code' in told && 'message' in told && isErrorCode(told.code)) {
      const details = 'details' in told && typeof told.details === 'object' && told.details !== null ? { ...told.details } : {};
      return new RunnerError(told.code, String(told.message), { details: { ...details, engine: name } });
    }
  } catch {
    // No document.
  }
  // Not the engine's own word, but that of something in between: the function may have run.
  const code = status === 503 ? 'EXECUTOR_UNAVAILABLE' : 'EXECUTOR_RESPONSE_INVALID';
  const message = `${name} answered ${status} without an error that is known`;
  return new RunnerError(code, message, { details: { engine: name, status }, retry: 'idempotent' });
}
