/**
 * A small, real server of the Lambda Runtime API (`/2018-06-01/runtime/...`) for tests of runtime clients: it hands out the events
 * that a test queues and records what the client answers, checks the order of the calls and the limits as the platform does.
 */

import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';

const BASE = '/2018-06-01/runtime';
/** What the platform accepts for a buffered response: 6 MiB and 100 bytes. */
const BUFFERED_BYTES_MAX = 6 * 1024 * 1024 + 100;
/** What the platform accepts for a streamed response. */
const STREAMED_BYTES_MAX = 200 * 1024 * 1024;

/** An error as a runtime client reports it. */
export interface LambdaFault {
  /** From the header, else from the body; empty when neither tells it. */
  readonly type: string;
  readonly body: string;
}

export type LambdaOutcome =
  | {
      readonly kind: 'response';
      readonly body: Buffer;
      readonly contentType: string;
      readonly streamed: boolean;
      /** How many pieces arrived. */
      readonly chunks: number;
      /** The trailers of a streamed response that broke off. */
      readonly fault?: LambdaFault;
    }
  | { readonly kind: 'error'; readonly fault: LambdaFault };

export interface LambdaInvokeOptions {
  /** Milliseconds since the epoch. Default: a minute from now. */
  readonly deadlineMs?: number;
  readonly traceId?: string;
}

export interface LambdaRuntimeApi {
  /** The value of `AWS_LAMBDA_RUNTIME_API`: host and port, or `unix:` and the path of a socket. */
  readonly address: string;
  /** Queues an event; resolves with what the client reported for it, rejects when the server closes first. */
  invoke(event: Uint8Array | string, options?: LambdaInvokeOptions): Promise<LambdaOutcome>;
  /** Resolves when so many polls wait at the same time. */
  waitForPolls(count: number): Promise<void>;
  /** Resolves with what the client posts to `init/error`. */
  readonly initError: Promise<LambdaFault>;
  /** Every request that the platform would refuse, as `status path`. */
  readonly refused: readonly string[];
  close(): Promise<void>;
}

export interface LambdaRuntimeApiOptions {
  /** Called with every piece of a streamed response; the next piece is read when it resolves. */
  readonly onStreamChunk?: (chunk: Buffer) => void | Promise<void>;
  /** Listens on this unix socket instead of a port. */
  readonly socketPath?: string;
}

interface Refusal {
  readonly status: number;
  readonly errorType: string;
}

interface Invocation {
  readonly id: string;
  readonly event: Uint8Array | string;
  readonly deadlineMs: number;
  readonly traceId: string | undefined;
  state: 'queued' | 'running' | 'answered';
  readonly resolve: (outcome: LambdaOutcome) => void;
  readonly reject: (error: Error) => void;
}

const headerOf = (request: IncomingMessage, name: string): string => {
  const value = request.headers[name];
  return typeof value === 'string' ? value : '';
};

async function readAll(
  request: IncomingMessage,
  onChunk?: LambdaRuntimeApiOptions['onStreamChunk'],
): Promise<{ body: Buffer; chunks: number }> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) throw new TypeError('the request has an encoding');
    chunks.push(chunk);
    await onChunk?.(chunk);
  }
  return { body: Buffer.concat(chunks), chunks: chunks.length };
}

function answer(response: ServerResponse, status: number, body: object): void {
  const text = JSON.stringify(body);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

function faultOf(header: string, body: string): LambdaFault {
  if (header !== '') return { type: header, body };
  const parsed: unknown = JSON.parse(body);
  const type = typeof parsed === 'object' && parsed !== null && 'errorType' in parsed ? parsed.errorType : undefined;
  return { type: typeof type === 'string' ? type : '', body };
}

function trailerFault(request: IncomingMessage): LambdaFault | undefined {
  const type = request.trailers['lambda-runtime-function-error-type'];
  if (type === undefined) return undefined;
  const encoded = request.trailers['lambda-runtime-function-error-body'] ?? '';
  return { type, body: Buffer.from(encoded, 'base64').toString('utf8') };
}

class RuntimeApi {
  readonly refused: string[] = [];
  readonly initError: Promise<LambdaFault>;
  readonly #invocations = new Map<string, Invocation>();
  readonly #queue: Invocation[] = [];
  readonly #polls: ServerResponse[] = [];
  readonly #pollWaiters: { count: number; resolve: () => void }[] = [];
  readonly #onStreamChunk: LambdaRuntimeApiOptions['onStreamChunk'];
  #resolveInitError: (fault: LambdaFault) => void;
  #count = 0;

  constructor(options: LambdaRuntimeApiOptions) {
    this.#onStreamChunk = options.onStreamChunk;
    const { promise, resolve } = Promise.withResolvers<LambdaFault>();
    this.initError = promise;
    this.#resolveInitError = resolve;
  }

  invoke(event: Uint8Array | string, options: LambdaInvokeOptions): Promise<LambdaOutcome> {
    const { promise, resolve, reject } = Promise.withResolvers<LambdaOutcome>();
    this.#count += 1;
    const id = `00000000-0000-4000-8000-${String(this.#count).padStart(12, '0')}`;
    const deadlineMs = options.deadlineMs ?? Date.now() + 60_000;
    const invocation: Invocation = { id, event, deadlineMs, traceId: options.traceId, state: 'queued', resolve, reject };
    this.#invocations.set(id, invocation);
    this.#queue.push(invocation);
    this.#hand();
    return promise;
  }

  waitForPolls(count: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#pollWaiters.push({ count, resolve });
    this.#wakePollWaiters();
    return promise;
  }

  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? '';
    if (request.method === 'GET' && path === `${BASE}/invocation/next`) return this.#next(response);
    if (request.method === 'POST' && path === `${BASE}/init/error`) {
      const { body } = await readAll(request);
      this.#resolveInitError(faultOf(headerOf(request, 'lambda-runtime-function-error-type'), body.toString('utf8')));
      return answer(response, 202, { status: 'OK' });
    }
    const [, id, kind] = /^\/2018-06-01\/runtime\/invocation\/([^/]+)\/(response|error)$/.exec(path) ?? [];
    if (request.method !== 'POST' || id === undefined) return this.#refuse(request, response, { status: 404, errorType: 'UnknownPath' });
    const invocation = this.#invocations.get(id);
    if (!invocation) return this.#refuse(request, response, { status: 400, errorType: 'InvalidRequestID' });
    if (invocation.state !== 'running') return this.#refuse(request, response, { status: 403, errorType: 'InvalidStateTransition' });
    return kind === 'error' ? this.#error(invocation, request, response) : this.#response(invocation, request, response);
  }

  close(): void {
    for (const poll of this.#polls) poll.destroy();
    for (const invocation of this.#invocations.values()) {
      if (invocation.state !== 'answered')
        invocation.reject(new Error(`the Runtime API closed while ${invocation.id} was ${invocation.state}`));
    }
  }

  #next(response: ServerResponse): void {
    this.#polls.push(response);
    response.once('close', () => {
      const index = this.#polls.indexOf(response);
      if (index >= 0) this.#polls.splice(index, 1);
    });
    this.#wakePollWaiters();
    this.#hand();
  }

  #hand(): void {
    while (this.#queue.length > 0 && this.#polls.length > 0) {
      const invocation = this.#queue.shift();
      const poll = this.#polls.shift();
      if (!invocation || !poll) return;
      invocation.state = 'running';
      poll.writeHead(200, {
        'content-type': 'application/json',
        'lambda-runtime-aws-request-id': invocation.id,
        'lambda-runtime-deadline-ms': String(invocation.deadlineMs),
        'lambda-runtime-invoked-function-arn': 'arn:aws:lambda:us-east-1:012345678912:function:test_function',
        ...(invocation.traceId !== undefined && { 'lambda-runtime-trace-id': invocation.traceId }),
      });
      poll.end(invocation.event);
    }
  }

  #wakePollWaiters(): void {
    for (const waiter of this.#pollWaiters) if (this.#polls.length >= waiter.count) waiter.resolve();
  }

  async #response(invocation: Invocation, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const mode = headerOf(request, 'lambda-runtime-function-response-mode');
    if (mode !== '' && mode !== 'streaming') {
      await readAll(request);
      return this.#refuse(request, response, { status: 400, errorType: 'Runtime.InvalidResponseModeHeader' });
    }
    const streamed = mode === 'streaming';
    const { body, chunks } = await readAll(request, streamed ? this.#onStreamChunk : undefined);
    if (body.length > (streamed ? STREAMED_BYTES_MAX : BUFFERED_BYTES_MAX))
      return this.#refuse(request, response, { status: 413, errorType: 'RequestEntityTooLarge' });
    invocation.state = 'answered';
    answer(response, 202, { status: 'OK' });
    const contentType = headerOf(request, 'content-type');
    const fault = streamed ? trailerFault(request) : undefined;
    invocation.resolve({ kind: 'response', body, contentType, streamed, chunks, ...(fault && { fault }) });
  }

  async #error(invocation: Invocation, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { body } = await readAll(request);
    invocation.state = 'answered';
    answer(response, 202, { status: 'OK' });
    invocation.resolve({ kind: 'error', fault: faultOf(headerOf(request, 'lambda-runtime-function-error-type'), body.toString('utf8')) });
  }

  #refuse(request: IncomingMessage, response: ServerResponse, { status, errorType }: Refusal): void {
    this.refused.push(`${status} ${request.url ?? ''}`);
    answer(response, status, { errorType, errorMessage: `${request.method ?? ''} ${request.url ?? ''} is refused` });
  }
}

/** Starts the server on an ephemeral port of the loopback interface, or on a socket. */
export async function startLambdaRuntimeApi(options: LambdaRuntimeApiOptions = {}): Promise<LambdaRuntimeApi> {
  const api = new RuntimeApi(options);
  const server = createServer((request, response) => {
    // A client that dies in the middle of a request leaves its invocation running: close() tells.
    api.handle(request, response).catch((error: unknown) => response.destroy(error instanceof Error ? error : undefined));
  });
  // The platform freezes an environment with its connections, for as long as it likes.
  server.keepAliveTimeout = 0;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    if (options.socketPath === undefined) server.listen(0, '127.0.0.1', resolve);
    else server.listen(options.socketPath, resolve);
  });
  const bound = server.address();
  if (bound === null) throw new Error('the server is not bound');
  return {
    address: typeof bound === 'string' ? `unix:${bound}` : `127.0.0.1:${bound.port}`,
    initError: api.initError,
    refused: api.refused,
    invoke: (event, invokeOptions = {}) => api.invoke(event, invokeOptions),
    waitForPolls: (count) => api.waitForPolls(count),
    async close() {
      api.close();
      const closed = new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
      server.closeAllConnections();
      await closed;
    },
  };
}
