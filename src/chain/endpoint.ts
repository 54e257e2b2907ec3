/** One JSON-RPC endpoint over HTTP: keep-alive pool, deadline, size limit, and every failure as one of the `RPC_*` codes. */

import { unescape } from 'node:querystring';
import { Pool } from 'undici';
import type { Dispatcher } from 'undici';
import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';

export interface RpcCall {
  readonly method: string;
  readonly params: readonly unknown[];
}

interface ExchangeLimits {
  readonly responseBytesMax: number;
  readonly deadlines: Deadlines;
}

export interface RpcEndpointOptions extends ExchangeLimits {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly connections: number;
}

/** What went wrong below the protocol; in `details.reason`. */
export type RpcFailure = 'timeout' | 'too-large' | 'connection' | 'status' | 'malformed' | 'batch-refused' | 'stale' | 'closed';

export class RpcEndpoint {
  /** Scheme, host and port: a path or query often is an API key and is never shown. */
  readonly label: string;
  readonly #options: RpcEndpointOptions;
  readonly #pool: Pool;
  readonly #path: string;
  readonly #headers: Record<string, string>;
  readonly #secrets: readonly string[];
  #batches = true;

  constructor(options: RpcEndpointOptions) {
    const url = parseUrl(options.url);
    this.#options = options;
    this.label = url.origin;
    this.#path = `${url.pathname}${url.search}`;
    this.#secrets = secretsOf(url, options.headers);
    this.#headers = { 'content-type': 'application/json', ...options.headers };
    if (url.username !== '' || url.password !== '') {
      // Also with a percent sign that escapes nothing.
      const credentials = unescape(`${url.username}:${url.password}`);
      this.#headers['authorization'] = `Basic ${Buffer.from(credentials).toString('base64')}`;
    }
    this.#pool = new Pool(url.origin, {
      connections: options.connections,
      pipelining: 1,
      // The deadline covers the whole exchange; two more timers per request would only cost.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: { timeout: options.deadlines.timeoutMs },
      keepAliveTimeout: 30_000,
      allowH2: false,
    });
  }

  call(method: string, params: readonly unknown[]): Promise<unknown> {
    return this.#post(envelope(method, params, 1), method, (reply) => this.#unwrap(reply, method, 1));
  }

  /**
   * Several calls in one round trip; a call that fails alone gives its error in its place. An endpoint that refuses batches is asked
   * one by one from then on.
   */
  async batch(calls: readonly RpcCall[]): Promise<unknown[]> {
    if (calls.length === 1 || !this.#batches) return Promise.all(calls.map((call) => this.call(call.method, call.params).catch(itself)));
    const body = `[${calls.map((call, index) => envelope(call.method, call.params, index)).join(',')}]`;
    const reply = await this.#post(body, `a batch of ${calls.length}`, itself);
    // One error instead of several answers is about all of them; geth puts it into a list.
    const only: unknown = Array.isArray(reply) && reply.length === 1 && hasError(reply[0]) ? reply[0] : reply;
    if (!Array.isArray(only)) {
      const error = this.#refusal(only);
      if (error.code === 'RPC_RATE_LIMITED') throw error;
      this.#batches = false;
      return this.batch(calls);
    }
    const byId = new Map(only.map((item: unknown) => [isObject(item) ? item['id'] : undefined, item]));
    return calls.map(({ method }, id) => {
      try {
        return this.#unwrap(byId.get(id), method, id);
      } catch (error) {
        return error;
      }
    });
  }

  /** Ends at once: what is under way rejects. */
  async close(): Promise<void> {
    await this.#pool.destroy(this.#failure('RPC_UNREACHABLE', 'the client was closed', { reason: 'closed' }));
  }

  /** One promise per request: at tens of thousands of requests per second each further one shows. */
  #post<T>(body: string, what: string, read: (reply: unknown) => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const send = (mayRepeat: boolean): void => {
        const succeed = (done: Exchange): void => {
          try {
            resolve(read(this.#parse(done, what)));
          } catch (error) {
            reject(toRunnerError(error));
          }
        };
        const fail = (error: Error): void => {
          // A kept connection can be closed by the server in the moment it is used. Every JSON-RPC request may be repeated.
          if (mayRepeat && isConnectionLoss(error)) send(false);
          else reject(this.#connectionError(error, what));
        };
        const exchange = new Exchange(this.#options, succeed, fail);
        this.#options.deadlines.add(exchange);
        this.#pool.dispatch({ path: this.#path, method: 'POST', headers: this.#headers, body }, exchange);
      };
      send(true);
    });
  }

  #connectionError(cause: unknown, what: string): RunnerError {
    if (cause instanceof DeadlinePassed) {
      return this.#failure('RPC_UNREACHABLE', `${what}: no answer within ${this.#options.deadlines.timeoutMs} ms`, { reason: 'timeout' });
    }
    if (cause instanceof TooLarge) {
      return this.#failure('RPC_RESPONSE_INVALID', `${what}: the answer is larger than ${this.#options.responseBytesMax} bytes`, {
        reason: 'too-large',
      });
    }
    const message = cause instanceof Error ? cause.message : String(cause);
    return this.#failure('RPC_UNREACHABLE', `${what}: ${this.#redact(message)}`, { reason: 'connection', cause });
  }

  #parse(done: Exchange, what: string): unknown {
    const { status } = done;
    if (status === 429) {
      throw this.#failure('RPC_RATE_LIMITED', `${what}: HTTP 429`, { reason: 'status', status, ...retryAfter(done) });
    }
    const text = done.text();
    let body: unknown;
    try {
      body = JSON.parse(text);
    } catch (cause) {
      if (status === 200)
        throw this.#failure('RPC_RESPONSE_INVALID', `${what}: the answer is not JSON: ${this.#excerpt(text)}`, {
          reason: 'malformed',
          cause,
        });
    }
    // Nodes and gateways put JSON-RPC errors behind all kinds of status; a gateway without a node answers for itself.
    if (status === 200 || (!NO_NODE.has(status) && isObject(body) && isObject(body['error']))) return body;
    const reason = status === 413 ? 'too-large' : status === 504 ? 'timeout' : 'status';
    const code = status >= 500 || status === 401 || status === 403 ? 'RPC_UNREACHABLE' : 'RPC_RESPONSE_INVALID';
    throw this.#failure(code, `${what}: HTTP ${status} ${this.#excerpt(text)}`, { reason, status, ...retryAfter(done) });
  }

  #unwrap(reply: unknown, method: string, id: number): unknown {
    if (isObject(reply)) {
      if (hasError(reply)) throw this.#rpcError(reply['error'], method);
      if (reply['id'] === id && reply['result'] !== undefined) return reply['result'];
    }
    throw this.#failure(
      'RPC_RESPONSE_INVALID',
      `${method}: the answer is not JSON-RPC: ${this.#excerpt(JSON.stringify(reply) ?? 'nothing')}`,
      { reason: 'malformed', method },
    );
  }

  #refusal(reply: unknown): RunnerError {
    if (hasError(reply)) return this.#rpcError(reply['error'], 'a batch');
    return this.#failure('RPC_RESPONSE_INVALID', 'a batch was not answered with a list', { reason: 'batch-refused' });
  }

  #rpcError(raw: unknown, method: string): RunnerError {
    const error = isObject(raw) ? raw : { message: raw };
    const rpcCode = Number(error['code']);
    const rpcMessage = this.#redact(typeof error['message'] === 'string' ? error['message'] : JSON.stringify(raw));
    const code = isRateLimit(rpcCode, rpcMessage) ? 'RPC_RATE_LIMITED' : 'RPC_ERROR';
    return this.#failure(code, `${method}: ${rpcMessage.slice(0, 500)} (${rpcCode})`, { method, rpcCode, rpcMessage, data: error['data'] });
  }

  #failure(
    code: 'RPC_UNREACHABLE' | 'RPC_RATE_LIMITED' | 'RPC_ERROR' | 'RPC_RESPONSE_INVALID',
    message: string,
    facts: FailureFacts,
  ): RunnerError {
    const { cause, ...details } = facts;
    return new RunnerError(code, `${this.label}: ${message}`, {
      ...(cause !== undefined && { cause }),
      details: { endpoint: this.label, ...details },
    });
  }

  #excerpt(text: string): string {
    return this.#redact(text.replace(/\s+/g, ' ').trim().slice(0, 120));
  }

  #redact(text: string): string {
    return this.#secrets.reduce((shown, secret) => shown.replaceAll(secret, '***'), text);
  }
}

interface FailureFacts {
  readonly reason?: RpcFailure;
  readonly status?: number;
  readonly retryAfterMs?: number;
  readonly method?: string;
  readonly rpcCode?: number;
  readonly rpcMessage?: string;
  readonly data?: unknown;
  readonly cause?: unknown;
}

/**
 * The deadlines of all requests of one transport behind one timer: all last equally long, so they pass in the order in which they
 * were added.
 */
export class Deadlines {
  readonly timeoutMs: number;
  readonly #clock: Clock;
  readonly #waiting = new Set<Exchange>();
  #cancel: CancelTimer | undefined;

  constructor(clock: Clock, timeoutMs: number) {
    this.#clock = clock;
    this.timeoutMs = timeoutMs;
  }

  add(exchange: Exchange): void {
    exchange.dueMs = this.#clock.monotonic() + this.timeoutMs;
    this.#waiting.add(exchange);
    this.#cancel ??= this.#clock.after(this.timeoutMs, this.#pass);
  }

  remove(exchange: Exchange): void {
    this.#waiting.delete(exchange);
  }

  close(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  readonly #pass = (): void => {
    const now = this.#clock.monotonic();
    this.#cancel = undefined;
    for (const exchange of this.#waiting) {
      // A timer may fire a fraction of a millisecond early.
      if (exchange.dueMs > now + 1) {
        this.#cancel = this.#clock.after(exchange.dueMs - now, this.#pass);
        return;
      }
      exchange.expire();
    }
  };
}

class DeadlinePassed extends Error {}
class TooLarge extends Error {}

/** One HTTP exchange. The body is kept as it came: nearly every answer is one chunk. */
class Exchange implements Dispatcher.DispatchHandler {
  dueMs = 0;
  status = 0;
  readonly #limits: ExchangeLimits;
  readonly #resolve: (done: Exchange) => void;
  readonly #reject: (error: Error) => void;
  #controller: Dispatcher.DispatchController | undefined;
  #headers: Record<string, string | string[] | undefined> = {};
  #failed: Error | undefined;
  readonly #chunks: Buffer[] = [];
  #bytes = 0;

  constructor(limits: ExchangeLimits, resolve: (done: Exchange) => void, reject: (error: Error) => void) {
    this.#limits = limits;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  header(name: string): string | undefined {
    return this.#headers[name]?.toString();
  }

  text(): string {
    const [only] = this.#chunks;
    return (this.#chunks.length === 1 && only ? only : Buffer.concat(this.#chunks)).toString('utf8');
  }

  expire(): void {
    this.#fail(new DeadlinePassed());
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    // It waited for a connection for too long.
    if (this.#failed) controller.abort(this.#failed);
  }

  onResponseStart(_: Dispatcher.DispatchController, status: number, headers: Record<string, string | string[] | undefined>): void {
    this.status = status;
    this.#headers = headers;
  }

  onResponseData(_: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#bytes += chunk.length;
    if (this.#bytes > this.#limits.responseBytesMax) this.#fail(new TooLarge());
    else this.#chunks.push(chunk);
  }

  onResponseEnd(): void {
    this.#limits.deadlines.remove(this);
    this.#resolve(this);
  }

  onResponseError(_: Dispatcher.DispatchController, error: Error): void {
    if (this.#failed) return;
    this.#limits.deadlines.remove(this);
    this.#reject(error);
  }

  #fail(error: Error): void {
    this.#failed = error;
    this.#limits.deadlines.remove(this);
    this.#reject(error);
    this.#controller?.abort(error);
  }
}

function envelope(method: string, params: readonly unknown[], id: number): string {
  return `{"jsonrpc":"2.0","id":${id},"method":${JSON.stringify(method)},"params":${JSON.stringify(params)}}`;
}

function parseUrl(text: string): URL {
  const url = URL.parse(text);
  if (url && (url.protocol === 'http:' || url.protocol === 'https:')) return url;
  // The text itself may hold a key.
  const shown = url ? url.protocol : 'a text that is not a URL';
  throw new RunnerError('CONFIG_INVALID', `an RPC endpoint must be an http: or https: URL, not ${shown}`);
}

/** Parts of the address that must not show up in a message, even when the server echoes them. */
function secretsOf(url: URL, headers: Readonly<Record<string, string>>): string[] {
  const parts = [...url.pathname.split('/'), ...url.searchParams.values(), url.username, url.password, ...Object.values(headers)];
  return parts.filter((part) => part.length >= 6).flatMap((part) => [part, encodeURIComponent(part)]);
}

/** Seconds, or a date, which is one of the clock of the server. */
function retryAfter(done: Exchange): { readonly retryAfterMs?: number } {
  const text = done.header('retry-after') ?? '';
  const seconds = Number(text);
  const retryAfterMs = Number.isNaN(seconds) ? Date.parse(text) - Date.parse(done.header('date') ?? '') : seconds * 1000;
  return retryAfterMs > 0 ? { retryAfterMs } : {};
}

const itself = (value: unknown): unknown => value;

function hasError(reply: unknown): reply is Record<string, unknown> {
  return isObject(reply) && reply['error'] !== undefined && reply['error'] !== null;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

const LOST = new Set(['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE']);

function isConnectionLoss(error: unknown): boolean {
  return error instanceof Error && 'code' in error && LOST.has(String(error.code));
}

/** The node behind the gateway fails, is not there, or takes too long. */
const NO_NODE = new Set([502, 503, 504]);

const RATE_CODES = new Set([429, -32005, -32016, -32029, -32090, -32097]);
const RATE_TEXT = /rate.?limit|too many requests|request limit|requests per|compute units|throughput|credits|quota/i;
/** -32005 is also what a too large eth_getLogs gets. */
const RANGE_TEXT = /results|range|logs|response size/i;

function isRateLimit(rpcCode: number, message: string): boolean {
  return RATE_TEXT.test(message) || (RATE_CODES.has(rpcCode) && !RANGE_TEXT.test(message));
}
