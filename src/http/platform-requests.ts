/** Requests of deployers: patient where a repetition does no harm, with the errors that deployers promise. */

import { RunnerError, isRunnerError } from '../errors.ts';
import { errorFromResponse } from '../job/wire.ts';
import type { Clock } from '../clock.ts';
import type { ErrorCode } from '../errors.ts';
import type { HttpRequest, HttpResponse } from './http.ts';
import type { Connections, Target } from './connection.ts';
import type { Waits } from './waits.ts';

export interface PlatformRequest extends Pick<HttpRequest, 'method' | 'path' | 'body' | 'signal'> {
  readonly headers?: readonly string[];
  /** JSON; in place of a body. */
  readonly json?: unknown;
  /** Sent once, whatever comes of it: what invokes a function. */
  readonly once?: boolean;
  readonly responseBytesMax?: number;
}

export interface PlatformRequestsOptions {
  readonly clock: Clock;
  /** For one attempt. */
  readonly timeoutMs: number;
  /** What a 401 or 403 says, for platforms with errors of their own form. */
  readonly denied?: (response: HttpResponse) => RunnerError;
  /** Who is told of requests that wait. */
  readonly waits?: Waits;
}

const RESPONSE_BYTES_MAX = 64 * 1024 * 1024;
const TRIES_MAX = 5;
const BACKOFF_MS = 500;
const WAIT_MS_MAX = 30_000;

export class PlatformRequests {
  readonly target: Target;
  readonly #connections: Connections;
  readonly #clock: Clock;
  readonly #timeoutMs: number;
  readonly #denied: PlatformRequestsOptions['denied'];
  readonly #waits: Waits | undefined;

  constructor(target: Target, connections: Connections, { clock, timeoutMs, denied, waits }: PlatformRequestsOptions) {
    this.target = target;
    this.#connections = connections;
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#denied = denied;
    this.#waits = waits;
  }

  get clock(): Clock {
    return this.#clock;
  }

  /**
   * Any answer but those that say that there are too many requests. Rejects with `PLATFORM_UNREACHABLE`, `PLATFORM_THROTTLED`,
   * `CREDENTIALS_MISSING`, `EXECUTOR_UNAUTHORIZED`, `ABORTED`.
   */
  async send(request: PlatformRequest): Promise<HttpResponse> {
    for (let tries = 1; ; tries += 1) {
      const response = await this.#sendOnce(request);
      const { status, body, headers } = response;
      if (status === 401 || status === 403) throw this.#denied?.(response) ?? errorFromResponse(status, body, headers);
      const afterMs = retryAfterMs(response);
      const isThrottled = status === 429 || (status === 503 && afterMs !== undefined);
      if (!isThrottled || request.once) return response;
      if (tries === TRIES_MAX) throw failure('go on', response, 'PLATFORM_THROTTLED');
      const waitMs = Math.min(WAIT_MS_MAX, afterMs ?? BACKOFF_MS * 2 ** tries);
      // A query may be a signature.
      this.#waits?.throttled(`${request.method} ${this.target.path}${request.path.split('?', 1)[0]}`, waitMs);
      await this.#clock.sleep(waitMs, request.signal);
    }
  }

  async #sendOnce({
    json,
    headers = [],
    body,
    once: _,
    responseBytesMax = RESPONSE_BYTES_MAX,
    ...request
  }: PlatformRequest): Promise<HttpResponse> {
    try {
      return await this.#connections.send(this.target, {
        ...request,
        path: this.target.path + request.path,
        headers: json === undefined ? [...headers] : ['content-type', 'application/json', ...headers],
        body: json === undefined ? body : Buffer.from(JSON.stringify(json)),
        deadline: this.#clock.now() + this.#timeoutMs,
        responseBytesMax,
      });
    } catch (thrown) {
      throw told(thrown);
    }
  }
}

function told(thrown: unknown): unknown {
  if (!isRunnerError(thrown)) return thrown;
  const isUnreached = /^EXECUTOR_(?:UNREACHABLE|CONNECTION_LOST|TIMEOUT)$/.test(thrown.code);
  // The latter of a secret that cannot be read.
  if (!isUnreached && thrown.code !== 'CONFIG_INVALID') return thrown;
  const { message, details, retry } = thrown;
  return new RunnerError(isUnreached ? 'PLATFORM_UNREACHABLE' : 'CREDENTIALS_MISSING', message, { cause: thrown, details, retry });
}

/** Codes that say more about a deployment than `DEPLOY_FAILED`. */
const TELLING: ReadonlySet<string> = new Set(['PAYLOAD_TOO_LARGE', 'EXECUTOR_UNAVAILABLE', 'FUNCTION_EXISTS']);

/** What the platform says, with its own code and message. */
export function failure(what: string, { status, body, headers }: HttpResponse, as?: ErrorCode): RunnerError {
  const cause = errorFromResponse(status, body, headers);
  const said = errorOf(body);
  const code = as ?? (TELLING.has(cause.code) ? cause.code : 'DEPLOY_FAILED');
  const message = said.message === undefined ? cause.message : `${said.code ?? `status ${status}`}: ${said.message}`;
  return new RunnerError(code, `the platform cannot ${what}: ${message}`, {
    cause,
    details: { ...cause.details, ...(said.code !== undefined && { platformCode: said.code }) },
    ...(as === undefined && { retry: code === 'DEPLOY_FAILED' && status < 500 ? ('never' as const) : cause.retry }),
  });
}

/** `{ error: { code, message } }` of a gateway, and `{ error, code }` of the specification. */
export function errorOf(body: Uint8Array): { readonly code?: string; readonly message?: string } {
  const { error, code } = fieldsOf(body) ?? {};
  if (typeof error === 'object' && error !== null) {
    const inner = error as Readonly<Record<string, unknown>>;
    return { ...(typeof inner['code'] === 'string' && { code: inner['code'] }), message: String(inner['message']) };
  }
  return { ...(typeof code === 'string' && { code }), ...(typeof error === 'string' && { message: error }) };
}

/** Of a JSON object; undefined for anything else. */
export function fieldsOf(body: Uint8Array): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(body).toString('utf8'));
    // A JSON object has text keys and unknown values.
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function retryAfterMs({ headers }: HttpResponse): number | undefined {
  const value = headers['retry-after'];
  return typeof value === 'string' && /^\d+$/.test(value) ? Number(value) * 1_000 : undefined;
}

export function text(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}

export function count(value: unknown): number | undefined {
  return typeof value === 'number' ? value : undefined;
}
