/** HTTP to DigitalOcean: its API and the OpenWhisk of a namespace. The only file that touches undici. */

import type { Agent } from 'undici';
import { RunnerError, importPeer, isRunnerError } from '../../src/plugin.ts';
import type { Clock, ErrorCode, Secret } from '../../src/plugin.ts';

export interface Request {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** Complete. */
  readonly url: string;
  /** Value of the header. */
  readonly authorization?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  readonly body?: Uint8Array;
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds for one attempt. */
  readonly timeoutMs?: number;
  /** One attempt, whatever comes of it: what invokes a function. */
  readonly once?: boolean;
}

export interface Response {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Uint8Array;
}

export interface ClientOptions {
  readonly clock: Clock;
  readonly token: Secret;
}

const TRIES_MAX = 5;
const BACKOFF_MS = 500;
const WAIT_MS_MAX = 30_000;
const TIMEOUT_MS = 120_000;
const CONNECTIONS_MAX = 64;

/**
 * Rejects with `PLATFORM_UNREACHABLE`, `PLATFORM_THROTTLED` after patient repetitions, `CREDENTIALS_MISSING`, `ABORTED`; every other
 * answer is the caller's to judge.
 */
export class Client {
  readonly clock: Clock;
  readonly #token: Secret;
  #agent: Agent | undefined;
  #isClosed = false;
  #closing: Promise<void> | undefined;

  constructor({ clock, token }: ClientOptions) {
    this.clock = clock;
    this.#token = token;
  }

  /** As `Authorization` of the API. */
  async bearer(): Promise<string> {
    try {
      return `Bearer ${await this.#token.read()}`;
    } catch (cause) {
      const message = `there is no token of DigitalOcean in ${this.#token.source}: make one under API, Tokens, with the scope function`;
      throw new RunnerError('CREDENTIALS_MISSING', message, { cause });
    }
  }

  async send(request: Request): Promise<Response> {
    for (let tries = 1; ; tries += 1) {
      const response = await this.#attempt(request);
      const afterMs = retryAfterMs(response);
      const isThrottled = response.status === 429 || (response.status === 503 && afterMs !== undefined);
      if (!isThrottled || request.once) return response;
      if (tries === TRIES_MAX) throw failure('go on', response, 'PLATFORM_THROTTLED');
      await this.clock.sleep(Math.min(WAIT_MS_MAX, afterMs ?? BACKOFF_MS * 2 ** tries), request.signal);
    }
  }

  /** Graceful and idempotent. */
  close(): Promise<void> {
    this.#isClosed = true;
    this.#closing ??= this.#agent?.close() ?? Promise.resolve();
    return this.#closing;
  }

  async #attempt(request: Request): Promise<Response> {
    const { method, url, authorization, headers = {}, json, body, signal, timeoutMs = TIMEOUT_MS } = request;
    if (this.#isClosed) throw new RunnerError('EXECUTOR_CLOSED', 'the connections to DigitalOcean are closed');
    if (signal?.aborted) throw aborted(request, 'safe');
    const undici = await importPeer('digitalocean', 'undici', () => import('undici'));
    this.#agent ??= new undici.Agent({ connections: CONNECTIONS_MAX, allowH2: false });
    const timeout = new AbortController();
    const cancel = this.clock.after(timeoutMs, () => timeout.abort());
    try {
      const response = await undici.request(url, {
        method,
        dispatcher: this.#agent,
        headers: {
          accept: 'application/json',
          ...(json !== undefined && { 'content-type': 'application/json' }),
          ...(authorization !== undefined && { authorization }),
          ...headers,
        },
        body: json === undefined ? (body ?? null) : JSON.stringify(json),
        signal: signal ? AbortSignal.any([signal, timeout.signal]) : timeout.signal,
        headersTimeout: 0,
        bodyTimeout: 0,
      });
      return { status: response.statusCode, headers: response.headers, body: new Uint8Array(await response.body.arrayBuffer()) };
    } catch (thrown) {
      if (isRunnerError(thrown)) throw thrown;
      if (signal?.aborted) throw aborted(request, 'idempotent');
      throw unreachable(request, thrown, timeout.signal.aborted ? timeoutMs : undefined);
    } finally {
      cancel();
    }
  }
}

function aborted({ method, url, signal }: Request, retry: 'safe' | 'idempotent'): RunnerError {
  return new RunnerError('ABORTED', `${method} ${withoutQuery(url)} was cancelled`, { cause: signal?.reason, retry });
}

/** Codes of a connection that never came about. */
const UNSENT = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'EHOSTUNREACH', 'ENETUNREACH', 'UND_ERR_CONNECT_TIMEOUT']);

function unreachable({ method, url }: Request, thrown: unknown, timedOutMs: number | undefined): RunnerError {
  const reason = thrown instanceof Error ? thrown.message : String(thrown);
  const what = timedOutMs === undefined ? `failed: ${reason}` : `was not answered within ${timedOutMs} ms`;
  const code = thrown instanceof Error && 'code' in thrown ? String(thrown.code) : '';
  return new RunnerError('PLATFORM_UNREACHABLE', `${method} ${withoutQuery(url)} ${what}`, {
    cause: thrown,
    details: { isTimeout: timedOutMs !== undefined },
    retry: UNSENT.has(code) ? 'safe' : 'idempotent',
  });
}

/** A query can carry what is nobody's business. */
function withoutQuery(url: string): string {
  return url.split('?', 1)[0] ?? '';
}

function retryAfterMs({ headers }: Response): number | undefined {
  const value = headers['retry-after'];
  return typeof value === 'string' && /^\d+$/.test(value) ? Number(value) * 1_000 : undefined;
}

/** What the platform said: `{ id, message }` of the API, `{ error, code }` of OpenWhisk. */
export function failure(what: string, response: Response, as?: ErrorCode): RunnerError {
  const { status, body } = response;
  const { id, message, error, code } = fieldsOf(body) ?? {};
  const said = typeof message === 'string' ? message : typeof error === 'string' ? error : `status ${status}`;
  const platformCode = typeof id === 'string' ? id : typeof code === 'string' ? code : String(status);
  return new RunnerError(as ?? codeOf(status), `DigitalOcean cannot ${what}: ${said} (${platformCode})`, {
    details: { status, platformCode },
    retry: status < 500 && status !== 429 ? 'never' : 'idempotent',
  });
}

function codeOf(status: number): ErrorCode {
  if (status === 401 || status === 403) return 'EXECUTOR_UNAUTHORIZED';
  if (status === 413) return 'PAYLOAD_TOO_LARGE';
  return 'DEPLOY_FAILED';
}

/** Of a JSON object; undefined for anything else. */
export function fieldsOf(body: Uint8Array): Fields | undefined {
  try {
    return asFields(JSON.parse(Buffer.from(body).toString('utf8')));
  } catch {
    return undefined;
  }
}

/** A JSON object has text keys and unknown values. */
export type Fields = Readonly<Record<string, unknown>>;

export function asFields(value: unknown): Fields | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : undefined;
}

export function listOf(value: unknown): readonly Fields[] {
  return Array.isArray(value) ? value.map(asFields).filter((each) => each !== undefined) : [];
}

export function parsed(what: string, response: Response): Fields {
  if (response.status >= 300) throw failure(what, response);
  const fields = fieldsOf(response.body);
  if (!fields)
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `DigitalOcean was to ${what} and answered with something that is not JSON`);
  return fields;
}
