/** HTTP to DigitalOcean: its API and the OpenWhisk of a namespace. */

import { Connections, RunnerError, Waits, isRunnerError, parseTarget } from '../../src/plugin.ts';
import type { Clock, ErrorCode, HttpResponse, Secret } from '../../src/plugin.ts';

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

export type Response = HttpResponse;

export interface ClientOptions {
  readonly clock: Clock;
  readonly token: Secret;
}

const TRIES_MAX = 5;
const BACKOFF_MS = 500;
const WAIT_MS_MAX = 30_000;
const TIMEOUT_MS = 120_000;
const CONNECTIONS_MAX = 128;
/** A function with its code. */
const RESPONSE_BYTES_MAX = 80 * 1024 * 1024;

export class Client {
  readonly clock: Clock;
  readonly waits = new Waits('DigitalOcean');
  readonly #token: Secret;
  readonly #connections: Connections;

  constructor({ clock, token }: ClientOptions) {
    this.clock = clock;
    this.#token = token;
    this.#connections = new Connections({ connectionsMax: CONNECTIONS_MAX }, clock);
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

  /**
   * Rejects with `PLATFORM_UNREACHABLE`, `PLATFORM_THROTTLED` after patient repetitions, `ABORTED`; every other answer is the caller's
   * to judge.
   */
  async send(request: Request): Promise<Response> {
    for (let tries = 1; ; tries += 1) {
      const response = await this.attempt(request).catch((error: unknown) => {
        throw said(error);
      });
      const afterMs = retryAfterMs(response);
      const isThrottled = response.status === 429 || (response.status === 503 && afterMs !== undefined);
      if (!isThrottled || request.once) return response;
      if (tries === TRIES_MAX) throw failure('go on', response, 'PLATFORM_THROTTLED');
      const waitMs = Math.min(WAIT_MS_MAX, afterMs ?? BACKOFF_MS * 2 ** tries);
      this.waits.throttled(`${request.method} ${new URL(request.url).pathname}`, waitMs);
      await this.clock.sleep(waitMs, request.signal);
    }
  }

  /** Once, with the errors of executors: their `retry` says whether anything was sent. */
  attempt({ method, url, authorization, headers = {}, json, body, signal, timeoutMs = TIMEOUT_MS }: Request): Promise<Response> {
    const { pathname, search } = new URL(url);
    const [address = ''] = url.split('?', 1);
    const { origin, socketPath } = parseTarget(address);
    const all = {
      accept: 'application/json',
      ...(json !== undefined && { 'content-type': 'application/json' }),
      ...(authorization !== undefined && { authorization }),
      ...headers,
    };
    return this.#connections.send(
      { origin, socketPath, path: '' },
      {
        method,
        path: pathname + search,
        headers: Object.entries(all).flat(),
        body: json === undefined ? body : Buffer.from(JSON.stringify(json)),
        deadline: this.clock.now() + timeoutMs,
        signal,
        responseBytesMax: RESPONSE_BYTES_MAX,
      },
    );
  }

  /** Graceful and idempotent. */
  close(): Promise<void> {
    return this.#connections.close();
  }
}

const UNREACHABLE: ReadonlySet<ErrorCode> = new Set(['EXECUTOR_UNREACHABLE', 'EXECUTOR_CONNECTION_LOST', 'EXECUTOR_TIMEOUT']);

/** In the words of deployers. */
function said(thrown: unknown): unknown {
  if (!isRunnerError(thrown) || !UNREACHABLE.has(thrown.code)) return thrown;
  return new RunnerError('PLATFORM_UNREACHABLE', thrown.message, { cause: thrown, details: thrown.details, retry: thrown.retry });
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
