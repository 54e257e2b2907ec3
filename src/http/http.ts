/** HTTP/1.1 over undici's connection pool. The only file that touches undici. */

import { hash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Dispatcher, Pool, buildConnector } from 'undici';
import { RunnerError } from '../errors.ts';
import { Deadlines, Expiring } from '../executor/deadline.ts';
import { importPeer } from '../plugin/peer.ts';
import type { Clock } from '../clock.ts';

export interface HttpClientOptions {
  readonly clock: Clock;
  /** A unix socket to connect to; the origin then only names the host. */
  readonly socketPath?: string | undefined;
  /** Paths of PEM files; read when the first connection is opened. */
  readonly tls?: TlsFiles | undefined;
  /** Connections to the origin at the same time. */
  readonly connectionsMax: number;
}

export interface TlsFiles {
  /** Certificate of the client, for mutual TLS. */
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
  /** Trusted instead of the authorities that node trusts. */
  readonly caFile?: string | undefined;
  /** The same as text in PEM, in place of the file. */
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  readonly ca?: string | undefined;
  /** The name that the server's certificate is for, when it is not the host of the address. */
  readonly serverName?: string | undefined;
  /**
   * SHA-256 of the public key (SPKI) of the server's certificate, base64url: who has that key is trusted, whoever signed the certificate and
   * whatever name it is for, and nobody else.
   */
  readonly serverKeySha256?: string | undefined;
}

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'HEAD';
  /** Path and query. */
  readonly path: string;
  /** Names and values in turn. */
  readonly headers: string[];
  readonly body?: Uint8Array | undefined;
  /** Milliseconds since the epoch. */
  readonly deadline: number;
  readonly signal?: AbortSignal | undefined;
  readonly responseBytesMax: number;
  /**
   * Called when the answer begins: what it returns gets the body as it comes, and `send` resolves then, without it. Undefined: the body is
   * collected.
   */
  readonly into?: ((status: number, flow: ResponseFlow) => ResponseSink | undefined) | undefined;
}

/** Stops and goes on with reading an answer. */
export interface ResponseFlow {
  pause(): void;
  resume(): void;
}

export interface ResponseSink {
  push(chunk: Uint8Array): void;
  /** Once. With an error as of `HttpClient.send`: what came is not all. */
  end(error?: RunnerError): void;
}

export interface HttpResponse {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Uint8Array;
}

/**
 * A pool of keep-alive connections to one origin.
 *
 * `send` makes one attempt. It rejects with
 * - `EXECUTOR_UNREACHABLE`: no connection, nothing was written (name, refused, TLS handshake)
 * - `EXECUTOR_CONNECTION_LOST`: the connection broke after the request was handed to it. A kept-alive connection that the server
 *   closed at that moment looks the same whether or not the server had read the request, so this is never called safe. So does a
 *   server that does not take the client certificate: under TLS 1.3 it says so after the request was written
 * - `EXECUTOR_TIMEOUT`, `ABORTED`: `retry` is `safe` when the request was still waiting for a connection, or came too late for it
 * - `EXECUTOR_RESPONSE_INVALID`, `PAYLOAD_TOO_LARGE`, `EXECUTOR_CLOSED`
 */
export class HttpClient {
  readonly origin: string;
  readonly #options: HttpClientOptions;
  readonly #deadlines: Deadlines;
  #pool: Pool | undefined;
  #opening: Promise<Pool> | undefined;
  #closed = false;
  #closing: Promise<void> | undefined;

  constructor(origin: string, options: HttpClientOptions) {
    this.origin = origin;
    this.#options = options;
    this.#deadlines = new Deadlines(options.clock);
  }

  send(request: HttpRequest): Promise<HttpResponse> {
    const pool = this.#pool;
    return pool && !this.#closed ? this.#dispatch(pool, request) : this.#openAndDispatch(request);
  }

  /** Graceful and idempotent: running requests end, new ones are refused. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#closed = true;
    const pool = this.#pool ?? (await this.#opening?.catch(() => undefined));
    await pool?.close();
  }

  async #openAndDispatch(request: HttpRequest): Promise<HttpResponse> {
    if (this.#closed) throw new RunnerError('EXECUTOR_CLOSED', `the connection to ${this.origin} was closed by this program`);
    this.#opening ??= this.#open().finally(() => (this.#opening = undefined));
    this.#pool ??= await this.#opening;
    return this.#dispatch(this.#pool, request);
  }

  async #open(): Promise<Pool> {
    const undici = await importPeer('http', 'undici', () => import('undici'));
    const { socketPath, tls, connectionsMax } = this.#options;
    const [cert = tls?.cert, key = tls?.key, ca = tls?.ca] = await Promise.all([tls?.certFile, tls?.keyFile, tls?.caFile].map(readPem));
    const servername = tls?.serverName;
    const options = {
      ...(socketPath && { socketPath }),
      ...(cert && { cert }),
      ...(key && { key }),
      ...(ca && { ca }),
      ...(servername && { servername }),
    };
    const pin = tls?.serverKeySha256;
    return new undici.Pool(this.origin, {
      connections: connectionsMax,
      // The deadline of a call covers all of it: undici's own timers would only add work.
      headersTimeout: 0,
      bodyTimeout: 0,
      // On HTTP/2 a client cannot tell as well what the server has seen.
      allowH2: false,
      connect:
        pin === undefined ? options : pinned(undici.buildConnector({ ...options, rejectUnauthorized: false, maxCachedSessions: 0 }), pin),
    });
  }

  #dispatch(pool: Pool, request: HttpRequest): Promise<HttpResponse> {
    return new Promise((resolve, reject) => {
      const exchange = new Exchange(this.origin, request, { resolve, reject, deadlines: this.#deadlines });
      if (request.signal?.aborted) return exchange.abort?.();
      // What led here may have taken all the time there was: nobody waits for the answer.
      if (request.deadline <= this.#options.clock.now()) return exchange.expire();
      this.#deadlines.add(exchange);
      pool.dispatch(exchange.options, exchange);
    });
  }
}

/** The handshake proves that the server has the key of its certificate; this, that it is the one that is meant. */
function pinned(connect: buildConnector.connector, pin: string): buildConnector.connector {
  return (options, callback) =>
    connect(options, (...[error, socket]) => {
      if (error) return callback(error, null);
      const key = 'getPeerX509Certificate' in socket ? socket.getPeerX509Certificate()?.publicKey : undefined;
      if (key && hash('sha256', key.export({ type: 'spki', format: 'der' }), 'base64url') === pin) return callback(null, socket);
      socket.destroy();
      return callback(new Error('the server has another TLS key than the one that is expected'), null);
    });
}

async function readPem(file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined;
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `the TLS file ${file} cannot be read`, { cause, details: { file } });
  }
}

interface Settle {
  readonly resolve: (response: HttpResponse) => void;
  readonly reject: (error: RunnerError) => void;
  readonly deadlines: Deadlines;
}

/** One request and its response: undici's handler, written by hand so that nothing is allocated that is not needed. */
class Exchange extends Expiring implements Dispatcher.DispatchHandler {
  readonly options: Dispatcher.DispatchOptions;
  readonly abort: (() => void) | undefined;
  readonly #origin: string;
  readonly #request: HttpRequest;
  readonly #settle: Settle;
  #controller: Dispatcher.DispatchController | undefined;
  #settled = false;
  #status = 0;
  #headers: HttpResponse['headers'] = {};
  #first: Buffer | undefined;
  #rest: Buffer[] | undefined;
  #received = 0;
  #sink: ResponseSink | undefined;

  constructor(origin: string, request: HttpRequest, settle: Settle) {
    super(request.deadline);
    this.#origin = origin;
    this.#request = request;
    this.#settle = settle;
    const { method, path, headers, body, signal } = request;
    this.options = { method, path, headers, body: body ?? null, idempotent: false };
    if (!signal) return;
    this.abort = () =>
      this.#cancel(this.#error('ABORTED', 'was cancelled', { cause: signal.reason, retry: this.#unsent ? 'safe' : 'idempotent' }));
    signal.addEventListener('abort', this.abort, { once: true });
  }

  /** Until undici says that it starts to write, nothing has left this process. */
  get #unsent(): boolean {
    return this.#controller === undefined;
  }

  expire(): void {
    const what = this.#unsent ? 'was not sent before its deadline' : 'was not answered before its deadline';
    this.#cancel(this.#error('EXECUTOR_TIMEOUT', what, { retry: this.#unsent ? 'safe' : 'idempotent' }));
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    // What is thrown here keeps undici from writing the request: it was given up, or it would be written a second time.
    if (this.#settled) throw new Error('given up before it was sent');
    if (this.#controller) {
      this.#fail(this.#error('EXECUTOR_CONNECTION_LOST', 'lost its connection'));
      throw new Error('sent before');
    }
    this.#controller = controller;
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number, headers: HttpResponse['headers']): void {
    if (status < 200) return;
    this.#status = status;
    this.#headers = headers;
    if (Number(headers['content-length']) > this.#request.responseBytesMax && this.#request.method !== 'HEAD') {
      return this.#tooLarge(controller, Number(headers['content-length']));
    }
    this.#sink = this.#settled ? undefined : this.#request.into?.(status, controller);
    if (this.#sink) this.#settle.resolve({ status, headers, body: EMPTY });
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#received += chunk.length;
    if (this.#received > this.#request.responseBytesMax) this.#tooLarge(controller, this.#received);
    else if (this.#sink) this.#sink.push(chunk);
    else if (this.#first === undefined) this.#first = chunk;
    else (this.#rest ??= []).push(chunk);
  }

  onResponseEnd(): void {
    if (this.#settled) return;
    this.#end();
    if (this.#sink) return this.#sink.end();
    const first = this.#first ?? EMPTY;
    const body = this.#rest ? Buffer.concat([first, ...this.#rest], this.#received) : first;
    this.#settle.resolve({ status: this.#status, headers: this.#headers, body });
  }

  onResponseError(_: Dispatcher.DispatchController, thrown: Error): void {
    if (!this.#settled) this.#fail(this.#classify(thrown));
  }

  #classify(cause: Error): RunnerError {
    const code = 'code' in cause ? String(cause.code) : '';
    const details = { cause: code || cause.message };
    if (code === 'UND_ERR_CLOSED' || code === 'UND_ERR_DESTROYED')
      return this.#error('EXECUTOR_CLOSED', 'was refused: the executor was closed', { cause });
    if (code === 'UND_ERR_INVALID_ARG') return this.#error('INTERNAL', `is malformed: ${cause.message}`, { cause });
    if (this.#unsent) return this.#error('EXECUTOR_UNREACHABLE', `was not sent: ${cause.message}`, { cause, details });
    if (cause.name === 'HTTPParserError')
      return this.#error('EXECUTOR_RESPONSE_INVALID', `got an answer that is not HTTP: ${cause.message}`, { cause, details });
    if (code === 'UND_ERR_HEADERS_OVERFLOW')
      return this.#error('EXECUTOR_RESPONSE_INVALID', 'got headers above every limit', { cause, details });
    const when = this.#status === 0 ? 'before an answer came' : `after ${this.#received} bytes of the answer`;
    return this.#error('EXECUTOR_CONNECTION_LOST', `lost its connection ${when}: ${cause.message}`, { cause, details });
  }

  #tooLarge(controller: Dispatcher.DispatchController, size: number): void {
    if (this.#settled) return;
    const limit = this.#request.responseBytesMax;
    const details = { size, limit, limitName: 'responseBytesMax' };
    this.#fail(this.#error('PAYLOAD_TOO_LARGE', `got an answer of ${size} bytes or more; responseBytesMax is ${limit}`, { details }));
    controller.abort(GIVEN_UP);
  }

  #cancel(error: RunnerError): void {
    if (this.#settled) return;
    this.#fail(error);
    this.#controller?.abort(GIVEN_UP);
  }

  #fail(error: RunnerError): void {
    this.#end();
    if (this.#sink) this.#sink.end(error);
    else this.#settle.reject(error);
  }

  #end(): void {
    this.#settled = true;
    this.#settle.deadlines.remove(this);
    if (this.abort) this.#request.signal?.removeEventListener('abort', this.abort);
  }

  #error(
    code: ConstructorParameters<typeof RunnerError>[0],
    what: string,
    options?: ConstructorParameters<typeof RunnerError>[2],
  ): RunnerError {
    // A query can carry a key: it is not printed.
    const [path] = this.#request.path.split('?', 1);
    return new RunnerError(code, `${this.#request.method} ${this.#origin}${path} ${what}`, options);
  }
}

const EMPTY = Buffer.alloc(0);
const GIVEN_UP = new Error('given up');
