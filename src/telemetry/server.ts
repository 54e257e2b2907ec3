/** The HTTP server of `/metrics`, `/healthz` and `/readyz`. */

import { createHash, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { BlockList, isIP } from 'node:net';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { exposition } from './exposition.ts';
import { createRedactor } from './redact.ts';
import { silentTelemetry } from './telemetry.ts';
import type { Logger } from './telemetry.ts';

/** One thing that must work. */
export interface Check {
  readonly ok: boolean;
  /** Why not, or what is known. Secrets in it are redacted. */
  readonly message?: string;
}

export interface HealthReport {
  readonly ok: boolean;
  readonly checks: Readonly<Record<string, Check>>;
}

export interface TelemetryServerOptions {
  /** Default: 127.0.0.1. Anything but a loopback address needs `token`. */
  readonly host?: string;
  /** 0, the default, takes a free one. */
  readonly port?: number;
  /** When set, every request must carry `Authorization: Bearer <token>`. */
  readonly token?: string;
  /** The text of `/metrics`, in the format 0.0.4 of Prometheus. */
  readonly metrics: () => Promise<string>;
  /** Whether the process works at all; a failing one is restarted by its supervisor. */
  readonly health: () => Promise<HealthReport> | HealthReport;
  /** Whether it takes and settles calls now. */
  readonly ready: () => Promise<HealthReport> | HealthReport;
  /** How long one answer may take. Default: 5000. */
  readonly timeoutMs?: number;
  readonly log?: Logger;
}

export interface TelemetryServer {
  /** Without a slash at its end. */
  readonly url: string;
  readonly port: number;
  /** Running requests are answered, then the port is free. Idempotent. */
  close(): Promise<void>;
}

interface Reply {
  readonly status: number;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
}

const JSON_TYPE = 'application/json; charset=utf-8';
const CONNECTIONS_MAX = 128;
const redact = createRedactor();

/**
 * Starts the server. `/healthz` (also `/health`) and `/readyz` answer 200 or 503 with the report as JSON, `/metrics` the text
 * format of Prometheus, or OpenMetrics when that is asked for. A callback that throws or takes longer than `timeoutMs` answers 503.
 *
 * Throws `CONFIG_INVALID` when the address is not a loopback one and there is no token, or when it cannot be listened on.
 *
 * @example
 * const server = await startTelemetryServer({ port: 9100, metrics: () => metrics.expose(), health, ready });
 * await server.close();
 */
export async function startTelemetryServer(options: TelemetryServerOptions): Promise<TelemetryServer> {
  const host = options.host ?? '127.0.0.1';
  if (options.token === undefined && !isLoopback(host)) {
    throw new RunnerError(
      'CONFIG_INVALID',
      `the telemetry server would listen on ${host} for everybody; set a token, or listen on 127.0.0.1`,
      { details: { host } },
    );
  }
  if (options.token === '') throw new RunnerError('CONFIG_INVALID', 'the token of the telemetry server is empty; leave it out or set one');
  const log = options.log ?? silentTelemetry.log;
  const server = createServer(
    { requestTimeout: 10_000, headersTimeout: 5_000, keepAliveTimeout: 5_000, maxHeaderSize: 16_384 },
    (request, response) => {
      // A timeout of the answer is part of `answer`, so this promise always settles and never rejects.
      void answer(request, options).then((reply) => send({ request, response, reply }));
    },
  );
  const close = closer(server);
  server.maxConnections = CONNECTIONS_MAX;
  server.setTimeout(30_000);
  await listen(server, host, options.port ?? 0);
  server.on('error', (error) => log.error('the telemetry server failed', { error }));
  const { port, family } = server.address() as AddressInfo;
  const name = family === 'IPv6' ? `[${(server.address() as AddressInfo).address}]` : (server.address() as AddressInfo).address;
  log.info('telemetry server listens', { host, port });
  let closed: Promise<void> | undefined;
  return { url: `http://${name}:${port}`, port, close: () => (closed ??= close()) };
}

async function answer(request: IncomingMessage, options: TelemetryServerOptions): Promise<Reply> {
  if (options.token !== undefined && !authorized(request, options.token)) {
    return { ...failure(401, 'UNAUTHORIZED', 'this server needs its token'), headers: { 'www-authenticate': 'Bearer' } };
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return { ...failure(405, 'NOT_FOUND', `${request.method ?? 'the method'} is not answered here`), headers: { allow: 'GET, HEAD' } };
  }
  const path = (request.url ?? '/').split('?', 1)[0] ?? '/';
  try {
    switch (path) {
      case '/metrics':
        return { status: 200, ...exposition(await inTime(options.metrics(), options), request.headers.accept) };
      case '/healthz':
      case '/health':
        return report(await inTime(options.health(), options));
      case '/readyz':
        return report(await inTime(options.ready(), options));
      default:
        return failure(404, 'NOT_FOUND', `there is no ${path}; ask for /metrics, /healthz or /readyz`);
    }
  } catch (error) {
    const { code, message } = toRunnerError(error);
    (options.log ?? silentTelemetry.log).warn('a telemetry request failed', { path, error });
    return failure(503, code, message);
  }
}

function report({ ok, checks }: HealthReport): Reply {
  return { status: ok ? 200 : 503, body: JSON.stringify(redact({ ok, checks })) };
}

function failure(status: number, code: ErrorCode, message: string): Reply {
  return { status, body: JSON.stringify(redact({ ok: false, error: { code, message } })) };
}

/** What the callback gives; rejects when it takes too long. */
async function inTime<T>(value: Promise<T> | T, { timeoutMs = 5000 }: TelemetryServerOptions): Promise<T> {
  const signal = AbortSignal.timeout(timeoutMs);
  const late = Promise.withResolvers<never>();
  const onAbort = (): void => late.reject(new RunnerError('ABORTED', `no answer within ${timeoutMs} ms`));
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([value, late.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly reply: Reply;
}

function send({ request, response, reply }: Exchange): void {
  const { status, body, headers = {} } = reply;
  const bytes = Buffer.from(body);
  response.writeHead(status, {
    'content-type': JSON_TYPE,
    'content-length': bytes.length,
    'cache-control': 'no-store',
    ...headers,
  });
  response.end(request.method === 'HEAD' ? undefined : bytes);
}

/** Compares digests: the time taken says nothing of the token, nor of its length. */
function authorized(request: IncomingMessage, token: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(request.headers.authorization ?? ''), digest(`Bearer ${token}`));
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');

function isLoopback(host: string): boolean {
  if (host === 'localhost') return true;
  const version = isIP(host);
  return version !== 0 && LOOPBACK.check(host, version === 6 ? 'ipv6' : 'ipv4');
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        new RunnerError('CONFIG_INVALID', `the telemetry server cannot listen on ${host}:${port}: ${cause.message}`, {
          cause,
          details: { host, port },
        }),
      ),
    );
    server.listen({ host, port }, () => {
      server.removeAllListeners('error');
      resolve();
    });
  });
}

/** Node itself waits for connections that never sent a request: here every socket without a running request ends at once. */
function closer(server: Server): () => Promise<void> {
  const waiting = new Set<Socket>();
  server.on('connection', (socket) => {
    waiting.add(socket);
    socket.once('close', () => waiting.delete(socket));
  });
  server.on('request', ({ socket }, response) => {
    waiting.delete(socket);
    response.once('close', () => {
      if (!server.listening) socket.destroySoon();
      else if (!socket.destroyed) waiting.add(socket);
    });
  });
  return () =>
    new Promise((resolve) => {
      server.close(() => resolve());
      for (const socket of waiting) socket.destroy();
    });
}
