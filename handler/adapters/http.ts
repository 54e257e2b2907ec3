/**
 * The handler behind a port or a unix socket.
 *
 * Environment: `HOST` (default 127.0.0.1), `PORT` (default 8080, 0 takes a free one), `BLUEPRINT_SOCKET` (a path, instead of host and
 * port), `BLUEPRINT_ALLOW_INSECURE`, `BLUEPRINT_CONCURRENCY_MAX` (default 1,000).
 */

import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { RunnerError } from '../../src/errors.ts';
import { RunningCalls } from '../calls.ts';
import { AZURE_PORT, invalid, numberOf } from '../detect.ts';
import { readBody } from '../index.ts';
import type { HandlerResponse, JobHandler, RunningAdapter } from '../index.ts';
import { nodeHttp } from '../node-http.ts';
import { answerInvocation } from './azure.ts';
import { withMargin } from './lambda.ts';

/** What the calls of a server are allowed. */
export interface HttpCalls {
  /** Calls that run at the same time; more are refused with `EXECUTOR_THROTTLED`. */
  readonly concurrencyMax: number;
  /** When the platform ends a call, from its start; 0, the default: never. */
  readonly timeoutMs?: number;
  /** Of a custom handler under Azure: what comes by the name of a function instead of by a route is an invocation. */
  readonly azure?: NodeJS.ProcessEnv;
  /** Nothing guards the port but that others do not reach it: pages in browsers of this machine do. */
  readonly isOpen?: boolean;
}

export interface HttpConfig extends HttpCalls {
  readonly host: string;
  readonly port: number;
  /** Listens here instead of host and port. */
  readonly socketPath?: string;
  /** How long the head of a request may take. Default: 10 s. */
  readonly headersTimeoutMs?: number;
  /** How long a whole request may take. Default: 60 s. */
  readonly requestTimeoutMs?: number;
}

const TIMEOUT_CHECK_MS_MAX = 5_000;
/** Longer than what clients and load balancers keep (600 s at most), so that the closing side is never this one. */
const KEEP_ALIVE_TIMEOUT_MS = 620_000;
const CONNECTIONS_MAX = 10_000;
/** How long the rest of a refused request is read and thrown away. */
const DISCARD_TIMEOUT_MS = 1_000;

const GUARDED = 'set BLUEPRINT_TOKEN, or BLUEPRINT_ALLOW_INSECURE=1 if the platform guards the port';

const LOOPBACK = /^(?:localhost|::1|127\.\d+\.\d+\.\d+)$/;

/**
 * Where to listen. Throws `CONFIG_INVALID`, also for an address that others reach when no token guards it: a platform that guards
 * the port itself is told apart by `BLUEPRINT_ALLOW_INSECURE=1`.
 */
export function httpConfig(env: NodeJS.ProcessEnv): HttpConfig {
  const host = env.HOST ?? '127.0.0.1';
  const socketPath = env.BLUEPRINT_SOCKET;
  const isAzure = env[AZURE_PORT] !== undefined;
  const guard = socketPath ?? env.BLUEPRINT_TOKEN ?? env.BLUEPRINT_TOKEN_FILE;
  const isOpen = guard === undefined && env.BLUEPRINT_ALLOW_INSECURE !== '1';
  if (isOpen && !LOOPBACK.test(host)) {
    throw invalid(`HOST is ${host} and there is no token: anyone could run jobs; ${GUARDED}`);
  }
  return {
    host,
    port: numberOf(env, isAzure ? AZURE_PORT : 'PORT', { fallback: 8080, min: 0, max: 65_535 }),
    // Azure asks for keys before it passes a request on.
    ...(isAzure ? { azure: env } : { isOpen }),
    ...httpCalls(env),
    ...(socketPath !== undefined && { socketPath }),
  };
}

/** Cloud Run says how long a call may take. */
export function httpCalls(env: NodeJS.ProcessEnv): HttpCalls {
  return {
    concurrencyMax: numberOf(env, 'BLUEPRINT_CONCURRENCY_MAX', { fallback: 1_000, min: 1 }),
    timeoutMs: numberOf(env, 'CLOUD_RUN_TIMEOUT_SECONDS', { fallback: 0, min: 0 }) * 1_000,
  };
}

/** Starts the server; resolves when it listens. Rejects with `CONFIG_INVALID` when it cannot. */
export async function startHttp(handler: JobHandler, config: HttpConfig): Promise<RunningAdapter> {
  const { createServer } = nodeHttp();
  const service = httpService(handler, config);
  const { headersTimeoutMs = 10_000, requestTimeoutMs = 60_000 } = config;
  const server = createServer({
    headersTimeout: headersTimeoutMs,
    requestTimeout: requestTimeoutMs,
    connectionsCheckingInterval: Math.min(TIMEOUT_CHECK_MS_MAX, headersTimeoutMs, requestTimeoutMs),
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
  });
  server.maxConnections = CONNECTIONS_MAX;
  const take = (request: IncomingMessage, response: ServerResponse): void => void service.take(request, response);
  server.on('request', take);
  // A client that asks first learns of a refusal without sending megabytes.
  server.on('checkContinue', take);
  const address = await listen(server, config);
  return { address, close: (signal) => service.close(server, signal), crash: (error) => service.crash(error) };
}

async function listen(server: Server, { host, port, socketPath }: HttpConfig): Promise<string> {
  const attempt = (): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once('error', reject);
      server.listen(socketPath === undefined ? { port, host } : { path: socketPath }, () => {
        server.off('error', reject);
        resolve();
      });
    });
  await attempt()
    .catch(async (error: NodeJS.ErrnoException) => {
      if (socketPath === undefined || error.code !== 'EADDRINUSE' || !(await isStaleSocket(socketPath))) throw error;
      const { rm } = await import('node:fs/promises');
      await rm(socketPath, { force: true });
      await attempt();
    })
    .catch((cause: NodeJS.ErrnoException) => {
      throw invalid(`cannot listen on ${socketPath ?? `${host}:${port}`}: ${cause.message}`, cause);
    });
  const bound = server.address();
  if (bound === null || typeof bound === 'string') return `unix:${socketPath}`;
  return `http://${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`;
}

/** A process that was killed leaves its socket file behind; nobody answers there. */
async function isStaleSocket(path: string): Promise<boolean> {
  const { connect } = await import('node:net');
  return new Promise((resolve) => {
    const probe = connect(path, () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}

/** What the call of a request is: of a job, or of a function by its name. */
interface Admitted {
  readonly jobId?: string;
  readonly name?: string;
}
type Admission = HandlerResponse | Admitted;

function admissionOf(handler: JobHandler, { method = '', url = '/', headers }: IncomingMessage, { azure, isOpen }: HttpCalls): Admission {
  const path = url.split('?', 1)[0] ?? '/';
  if (method === 'POST') {
    if (azure && !/^\/(?:$|invoke$|job\/)/.test(path)) return { name: path.slice(1) };
    // Browsers say it with every POST. There are no pages here, so it is one of somebody else, whatever name it gave this machine.
    if (isOpen && headers.origin !== undefined)
      return handler.refuse(new RunnerError('EXECUTOR_UNAUTHORIZED', `web pages may not run jobs; ${GUARDED}`));
  }
  return handler.admit({ method, path, headers });
}

/** What the server does with requests, and how it ends. */
export function httpService(handler: JobHandler, calls: HttpCalls) {
  const { concurrencyMax, timeoutMs = 0, azure } = calls;
  const running = new RunningCalls();
  let isStopping = false;

  const admit = (request: IncomingMessage): Admission => {
    const admission = admissionOf(handler, request, calls);
    if ('status' in admission) return isStopping && admission.status === 200 ? { ...admission, status: 503 } : admission;
    if (isStopping) return handler.refuse(new RunnerError('EXECUTOR_UNAVAILABLE', 'the handler is stopping'));
    if (running.count < concurrencyMax) return admission;
    return handler.refuse(new RunnerError('EXECUTOR_THROTTLED', `${concurrencyMax} calls run already`));
  };

  const send = (response: ServerResponse, { status, headers, body }: HandlerResponse): void => {
    response.writeHead(status, {
      ...headers,
      ...(status !== 204 && { 'content-length': body.length }),
      ...(isStopping && { connection: 'close' }),
    });
    response.end(body);
  };

  const answer = async (request: IncomingMessage, response: ServerResponse, { jobId, name }: Admitted): Promise<void> => {
    const call = running.begin();
    response.once('close', () => {
      if (!response.writableFinished) call.abort(new RunnerError('ABORTED', 'the caller went away'));
      running.end(call);
    });
    const { headers, rawBody }: IncomingMessage & { readonly rawBody?: Buffer } = request;
    // An invocation wraps the body in JSON: the handler checks the limit of the body itself.
    const limit = name === undefined ? handler.requestBytesMax : 2 * handler.requestBytesMax;
    const limits = { signal: call.signal, ...(timeoutMs > 0 && { deadline: Date.now() + timeoutMs }) };
    const announced = bodyBytes(request);
    const isWorthReading = announced === Infinity || announced <= limit;
    if (isWorthReading && headers.expect !== undefined) response.writeContinue();
    // A framework in front has read it already.
    const body = rawBody ?? (isWorthReading ? await readBody(request, limit) : 'too-large');
    // The request broke off in the middle: nobody is there to answer.
    if (body === 'broken') return;
    const result = await (azure && name !== undefined
      ? answerInvocation(handler, { name, body, env: azure, ...limits })
      : handler.handle({ headers, body, ...withMargin(limits), ...(jobId !== undefined && { jobId }) }));
    if (response.destroyed) return;
    if (body === 'too-large') sendAndClose(request, response, result);
    else send(response, result);
  };

  return {
    async take(request: IncomingMessage, response: ServerResponse): Promise<void> {
      const admission = admit(request);
      if (!('status' in admission)) await answer(request, response, admission);
      else if (bodyBytes(request) <= handler.requestBytesMax) send(response, admission);
      else sendAndClose(request, response, admission);
    },
    crash(error: RunnerError): Promise<void> {
      isStopping = true;
      return running.fail(error);
    },
    async close(server: Server, signal: AbortSignal): Promise<number> {
      isStopping = true;
      const closed = new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
      const cancelled = await running.drain(signal);
      server.closeAllConnections();
      await closed;
      return cancelled;
    },
  };
}

/** What the head of a request announces: `Infinity` when it does not say. */
function bodyBytes({ headers }: IncomingMessage): number {
  return headers['transfer-encoding'] === undefined ? Number(headers['content-length'] ?? 0) : Infinity;
}

/** The whole answer at once; the connection ends when the rest of the request was read, so that the client sees the answer instead of a reset. */
function sendAndClose(request: IncomingMessage, response: ServerResponse, { status, headers, body }: HandlerResponse): void {
  response.writeHead(status, { ...headers, 'content-length': body.length, connection: 'close' });
  if (request.headers.expect !== undefined || request.readableEnded) {
    response.end(body);
    return;
  }
  response.write(body);
  const end = (): void => {
    clearTimeout(timer);
    response.end();
  };
  const timer = setTimeout(end, DISCARD_TIMEOUT_MS);
  request.once('close', end);
  request.once('end', end);
  request.resume();
}
