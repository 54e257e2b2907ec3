/** The HTTP server below the gateway: takes connections, checks and authorises requests, lets a route answer, and ends in order. */

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerOptions, ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import { Admission } from './admission.ts';
import type { CallerLimits } from './admission.ts';
import { ANONYMOUS } from './auth.ts';
import type { ServerAuthenticator } from './auth.ts';
import { BodyBudget, ServerRequest, discard, readBody, sendChunks } from './body.ts';
import type { ReadBody } from './body.ts';
import { PREFLIGHT, certificateNameOf, checkOrigin, framingError, headersOf, targetOf } from './checks.ts';
import type { Headers } from './checks.ts';
import { Departure, Departures, endWith } from './exchange.ts';
import type { Exchange } from './exchange.ts';
import { badRequest, demand, failure, statusOf } from './http.ts';
import type { Caller, Reply } from './http.ts';
import type { IdlePoll } from './idle-poll.ts';
import { Refusals, parserError, refusalHeaders } from './refusals.ts';
import type { Connection } from './refusals.ts';
import type { Match, Router } from './router.ts';
import { ServerMetrics } from './server-metrics.ts';
import { serverTls } from './tls.ts';
import type { TlsOptions } from './tls.ts';

export interface ServerLimits extends CallerLimits {
  readonly connectionsMax: number;
  /** All headers of a request together. */
  readonly headerBytesMax: number;
  readonly headersTimeoutMs: number;
  /** For a whole request with its body. */
  readonly requestTimeoutMs: number;
  readonly keepAliveMs: number;
  /** A client that takes nothing of its answer for so long is given up. */
  readonly stallMs: number;
  /** Bodies of all requests together. */
  readonly bodiesBytesMax: number;
}

export interface ListenOptions {
  readonly host: string;
  readonly port: number;
  readonly tls?: TlsOptions;
}

export interface GatewayServerOptions {
  readonly router: Router;
  readonly authenticator: ServerAuthenticator;
  /** What people call it. Default: the gateway. */
  readonly noun?: string;
  /** Before the names of its metrics. Default `blueprint_gateway`. */
  readonly metricsPrefix?: string;
  /** How the failures of routes are told that do not say it themselves. */
  readonly failure?: (error: RunnerError, request: { readonly id: string }) => Reply;
  readonly limits: ServerLimits;
  readonly corsOrigins: readonly string[];
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  /** Told of each request and each answer. */
  readonly idlePoll?: IdlePoll;
  /** Without it there are no WebSockets. */
  readonly onUpgrade?: (upgrade: Upgrade) => void;
}

/** A connection that may become a WebSocket: host and origin are checked. */
export interface Upgrade {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  readonly head: Buffer;
  readonly headers: Headers;
  readonly id: string;
  readonly certificateName: string | undefined;
}

/** What the head of a request says. */
interface Head extends Match {
  readonly path: string;
  readonly query: string;
  readonly headers: Headers;
}

/** How often Node looks for requests that take too long. */
const CHECK_MS = 1_000;
/** How long a connection is silent before the system asks the other side whether it is there. */
const PROBE_MS = 60_000;
const HEADERS_MAX = 100;
const NO_QUERY = new URLSearchParams();

export class GatewayServer {
  readonly #options: GatewayServerOptions;
  readonly #noun: string;
  readonly #admission: Admission;
  readonly #budget: BodyBudget;
  readonly #metrics: ServerMetrics;
  readonly #refusals = new Refusals();
  /** Fires when requests that would wait for long are to end. */
  readonly #closing = new AbortController();
  /** One for each request that runs. */
  readonly #running = new Departures();
  #server: Server<typeof ServerRequest> | undefined;
  #scheme: 'http' | 'https' = 'http';
  #idle: (() => void) | undefined;

  constructor(options: GatewayServerOptions) {
    this.#options = options;
    this.#admission = new Admission(options.limits, options.clock);
    this.#budget = new BodyBudget(options.limits.bodiesBytesMax);
    this.#metrics = new ServerMetrics(options.telemetry.metrics, options.metricsPrefix);
    this.#noun = options.noun ?? 'the gateway';
  }

  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  admit(callerId: string): () => void {
    return this.#admission.admit(callerId);
  }

  /** Resolves with where it listens. Rejects with `CONFIG_INVALID`. */
  async listen({ host, port, tls }: ListenOptions): Promise<AddressInfo> {
    const { limits } = this.#options;
    const options: ServerOptions<typeof ServerRequest> = {
      IncomingMessage: ServerRequest,
      maxHeaderSize: limits.headerBytesMax,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      keepAliveTimeout: limits.keepAliveMs,
      connectionsCheckingInterval: CHECK_MS,
      insecureHTTPParser: false,
      // Looked for with the other headers, so that it is told like them.
      requireHostHeader: false,
      // Clients in Java, and curl with --http2, offer another version of HTTP with each request: it is answered in this one.
      shouldUpgradeCallback: ({ headers }) => headers.upgrade?.toLowerCase() === 'websocket',
      noDelay: true,
      // A client that vanished is noticed also where nothing is sent to it, as to who follows a log without lines.
      keepAlive: true,
      keepAliveInitialDelay: PROBE_MS,
    };
    const server = tls ? createTlsServer({ ...options, ...serverTls(tls) }) : createServer(options);
    this.#scheme = tls ? 'https' : 'http';
    this.#server = server;
    server.maxConnections = limits.connectionsMax;
    server.maxHeadersCount = HEADERS_MAX;
    server.on('request', (request, response) => void this.#answer(request, response, false));
    server.on('checkContinue', (request: ServerRequest, response: ServerResponse) => void this.#answer(request, response, true));
    server.on('checkExpectation', (request: ServerRequest, response: ServerResponse) => void this.#answer(request, response, false));
    server.on('connect', (_: IncomingMessage, socket: Duplex) => this.#refuseRaw(socket, badRequest('there are no tunnels here', 405)));
    server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => this.#upgrade(request, socket, head));
    server.on('clientError', (error: NodeJS.ErrnoException, socket: Duplex) => this.#refuseRaw(socket, parserError(error)));
    await new Promise<void>((resolve, reject) => {
      const onError = (cause: Error): void => {
        const message = `${this.#noun} cannot listen on ${host}:${port}: ${cause.message}`;
        reject(new RunnerError('CONFIG_INVALID', message, { cause, details: { host, port } }));
      };
      server.once('error', onError);
      server.listen({ host, port }, () => {
        server.off('error', onError);
        resolve();
      });
    });
    server.on('error', (error) => this.#options.telemetry.log.error(`${this.#noun} failed to take a connection`, { error }));
    return server.address() as AddressInfo;
  }

  /** Takes no more, ends what only waits, lets the rest finish until the deadline. */
  async close(deadlineMs: number): Promise<void> {
    const server = this.#server;
    if (!server || this.#closing.signal.aborted) return;
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    this.#closing.abort(new RunnerError('EXECUTOR_CLOSED', `${this.#noun} is closing`));
    server.closeIdleConnections();
    const drained = this.#running.size === 0 ? Promise.resolve() : new Promise<void>((resolve) => (this.#idle = resolve));
    const cancel = Promise.withResolvers<void>();
    const stopTimer = this.#options.clock.after(deadlineMs, () => cancel.resolve());
    await Promise.race([drained, cancel.promise]);
    stopTimer();
    for (const gone of this.#running.all()) gone.abort(new RunnerError('EXECUTOR_CLOSED', `${this.#noun} closed before the request ended`));
    // Answers that are complete are still on their way.
    server.closeIdleConnections();
    const stop = this.#options.clock.after(200, () => server.closeAllConnections());
    await closed;
    stop();
  }

  async #answer(request: ServerRequest, response: ServerResponse, awaitsContinue: boolean): Promise<void> {
    const connection = this.#refusals.connectionOf(request.socket);
    if (connection.isRefused) return;
    const misframed = framingError(request);
    if (misframed) return this.#refuseRaw(request.socket, misframed);
    const { clock, idlePoll } = this.#options;
    const exchange: Exchange = {
      request,
      response,
      awaitsContinue,
      id: randomUUID(),
      gone: new Departure(),
      startedAt: clock.monotonic(),
      cleanUps: [],
    };
    idlePoll?.news(exchange.startedAt);
    this.#running.add(exchange.gone);
    connection.open.push(response);
    response.on('close', () => this.#closed(exchange, connection));
    let reply: Reply;
    try {
      reply = await this.#handle(exchange);
    } catch (thrown) {
      reply = this.#failed(exchange, thrown);
    }
    let bytesOut = 0;
    try {
      const sent = this.#send(exchange, reply);
      bytesOut = typeof sent === 'number' ? sent : await sent;
    } catch (thrown) {
      // Only sending can fail here: half an answer must not look like a whole one.
      response.destroy();
      exchange.broken = toRunnerError(thrown).code;
    } finally {
      for (const cleanUp of exchange.cleanUps) cleanUp();
      this.#tell(exchange, bytesOut);
    }
  }

  #closed({ request, response, gone }: Exchange, { open }: Connection): void {
    const at = open.indexOf(response);
    if (at >= 0) open.splice(at, 1);
    // Nobody reads what streams to a HEAD.
    if (!response.writableFinished || request.method === 'HEAD') gone.abort(new RunnerError('ABORTED', 'the client is gone'));
    this.#running.delete(gone);
    if (this.#running.size === 0) this.#idle?.();
  }

  #failed(exchange: Exchange, thrown: unknown): Reply {
    const { id, route, params = {} } = exchange;
    const error = toRunnerError(thrown);
    exchange.code = error.code;
    if (statusOf(error) === 500) this.#options.telemetry.log.error('a request failed', { requestId: id, error: thrown });
    const { failure: tell = failure } = this.#options;
    const reply = route?.failure ? route.failure(error, { id, params }) : tell(error, { id });
    return { ...reply, headers: { ...reply.headers, ...refusalHeaders(error) } };
  }

  #handle(exchange: Exchange): Promise<Reply> | Reply {
    const { request, response } = exchange;
    const { router, authenticator, corsOrigins } = this.#options;
    if (this.#closing.signal.aborted) throw new RunnerError('EXECUTOR_CLOSED', `${this.#noun} is closing`);
    const headers = headersOf(request);
    exchange.corsOrigin = checkOrigin(headers, { isOpen: authenticator.isOpen, corsOrigins, scheme: this.#scheme });
    if (request.method === 'OPTIONS' && exchange.corsOrigin !== undefined) return { status: 204, headers: PREFLIGHT };
    const { path, query } = targetOf(request.url ?? '');
    const { route, params } = router.find(request.method ?? 'GET', path);
    exchange.route = route;
    exchange.params = params;
    const caller = this.#identify(exchange, headers);
    if (caller) this.#authorise(exchange, caller);
    const body = readBody(request, {
      bytesMax: route.bodyBytesMax ?? 0,
      budget: this.#budget,
      announce: exchange.awaitsContinue ? () => response.writeContinue() : undefined,
    });
    const head: Head = { route, params, path, query, headers };
    return body instanceof Promise
      ? body.then((read) => this.#run(exchange, head, { caller, body: read }))
      : this.#run(exchange, head, { caller, body });
  }

  #run(
    exchange: Exchange,
    { route, params, path, query, headers }: Head,
    { caller, body }: { readonly caller: Caller | undefined; readonly body: ReadBody },
  ): Promise<Reply> | Reply {
    const { id, gone, cleanUps } = exchange;
    const { method = 'GET' } = exchange.request;
    cleanUps.push(body.release);
    let known = caller;
    if (!known) {
      known = this.#options.authenticator.identifySigner({ method, path, query, headers, body: body.bytes });
      this.#authorise(exchange, known);
    }
    return route.handle({
      id,
      method,
      path,
      params,
      query: query === '' ? NO_QUERY : new URLSearchParams(query),
      headers,
      body: body.bytes,
      caller: known,
      origin: `${this.#scheme}://${headers['host']}`,
      signal: gone,
      closing: this.#closing.signal,
    });
  }

  #identify({ request, route }: Exchange, headers: Headers): Caller | undefined {
    if (route?.scope === 'public') return ANONYMOUS;
    const certificateName = certificateNameOf(request);
    return this.#options.authenticator.identify(
      { headers, ...(certificateName !== undefined && { certificateName }) },
      route?.takesSignatures === true,
    );
  }

  #authorise(exchange: Exchange, caller: Caller): void {
    const { route, params = {} } = exchange;
    if (!route || route.scope === 'public') return;
    exchange.caller = caller;
    const value = route.functionParam === undefined ? undefined : params[route.functionParam];
    exchange.cleanUps.push(this.#admission.admit(caller.id));
    demand(caller, route.scope, value === undefined ? undefined : (route.functionOf?.(value) ?? value));
  }

  /** Returns the bytes of the body that were sent. */
  #send(exchange: Exchange, { status, headers, body }: Reply): number | Promise<number> {
    const { request, response, id, corsOrigin, route } = exchange;
    exchange.status = status;
    if (response.destroyed) throw new RunnerError('ABORTED', 'the client is gone');
    // A request that was read to its end counts as destroyed, too.
    const closing = this.#closing.signal.aborted || (request.destroyed && !request.complete);
    if (!request.complete) discard(request);
    const streams = body !== undefined && typeof body === 'object' && Symbol.asyncIterator in body;
    const whole = streams ? undefined : body;
    const size = whole === undefined ? 0 : typeof whole === 'string' ? Buffer.byteLength(whole) : whole.length;
    // Names and values in turn: an object would be taken apart again.
    const head = ['x-request-id', id, 'cache-control', 'no-store', 'x-content-type-options', 'nosniff'];
    if (route?.requestIdHeader !== undefined) head.push(route.requestIdHeader, id);
    if (!streams && status !== 204) head.push('content-length', String(size));
    if (corsOrigin !== undefined)
      head.push('access-control-allow-origin', corsOrigin, 'access-control-expose-headers', '*', 'vary', 'origin');
    if (closing) head.push('connection', 'close');
    for (const name in headers) head.push(name, headers[name] ?? '');
    response.writeHead(status, head);
    const isHead = request.method === 'HEAD';
    if (streams && !isHead) return this.#stream(response, body);
    endWith(response, isHead ? undefined : whole, size);
    // What is with the system already needs nobody to wait for it.
    if (response.socket?.writableLength !== 0) response.setTimeout(this.#options.limits.stallMs, () => response.destroy());
    return isHead ? 0 : size;
  }

  async #stream(response: ServerResponse, chunks: AsyncIterable<Uint8Array>): Promise<number> {
    const sent = await sendChunks(response, chunks, { clock: this.#options.clock, stallMs: this.#options.limits.stallMs });
    response.end();
    return sent;
  }

  #tell(exchange: Exchange, bytesOut: number): void {
    const { id, request, route, status = 0, caller, startedAt, code, broken, params = {} } = exchange;
    const { clock, telemetry, idlePoll } = this.#options;
    const now = clock.monotonic();
    const durationMs = now - startedAt;
    idlePoll?.news(now);
    this.#metrics.answered(route, status, durationMs / 1_000);
    if (telemetry.log.isSilent?.('info')) return;
    telemetry.log.info('request', {
      requestId: id,
      method: request.method,
      route: route?.path,
      ...(route?.functionParam !== undefined && { function: params[route.functionParam] }),
      status,
      durationMs: Math.round(durationMs * 1_000) / 1_000,
      bytesOut,
      caller: caller?.id,
      remote: request.socket.remoteAddress,
      ...(code !== undefined && { code }),
      ...(broken !== undefined && { broken }),
    });
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const id = randomUUID();
    try {
      if (this.#closing.signal.aborted) throw new RunnerError('EXECUTOR_CLOSED', `${this.#noun} is closing`);
      const headers = headersOf(request);
      if (this.#refusals.connectionOf(socket).open.length > 0) throw badRequest('the connection has requests that are not answered yet');
      if (request.httpVersion !== '1.1' || headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined)
        throw badRequest('a handshake is HTTP/1.1 and has no body');
      const { authenticator, corsOrigins, onUpgrade } = this.#options;
      checkOrigin(headers, { isOpen: authenticator.isOpen, corsOrigins, scheme: this.#scheme });
      if (!onUpgrade) throw badRequest('there are no WebSockets here');
      onUpgrade({ request, socket, head, headers, id, certificateName: certificateNameOf(request) });
    } catch (thrown) {
      this.#refuseRaw(socket, toRunnerError(thrown), id);
    }
  }

  /** An answer where there is no request to answer to. */
  #refuseRaw(socket: Duplex, error: RunnerError, id: string = randomUUID()): void {
    this.#metrics.answered(undefined, statusOf(error), 0);
    void this.#refusals.refuse(socket, error, id);
  }
}
