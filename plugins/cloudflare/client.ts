/** HTTP to the API of Cloudflare: `{ success, errors: [{ code, message }], result }` of version 4. */

import { Connections, PlatformRequests, RunnerError, Waits, fieldsOf, parseTarget } from '../../src/plugin.ts';
import type { Clock, ErrorCode, HttpResponse, SecretReference } from '../../src/plugin.ts';

export interface Request {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Below the account. */
  readonly path: string;
  readonly json?: unknown;
  readonly form?: Form;
  readonly signal?: AbortSignal | undefined;
}

/** A body of `multipart/form-data`. */
export interface Form {
  readonly type: string;
  readonly body: Uint8Array;
}

export interface ClientOptions {
  readonly clock: Clock;
  readonly accountId: string;
  readonly apiUrl: string;
  readonly apiToken: SecretReference;
}

/** A JSON object has text keys and unknown values. */
export type Fields = Readonly<Record<string, unknown>>;

const TIMEOUT_MS = 120_000;
const CONNECTIONS_MAX = 32;
/** A Worker with this name is not there. */
const SCRIPT_MISSING = 10_007;
/** The script is too large, there are too many Workers, too many crons, CPU time that the plan does not have. */
const LIMIT_CODES: ReadonlySet<number> = new Set([10_027, 10_037, 10_054, 10_055, 10_072, 100_328]);
/** Without a token, with one that is none, or with one that may not. */
const DENIED_CODES: ReadonlySet<number> = new Set([6_003, 6_111, 9_106, 9_109, 10_000, 10_001, 10_405]);

export class Client {
  readonly clock: Clock;
  readonly waits = new Waits('Cloudflare');
  readonly #connections: Connections;
  readonly #requests: PlatformRequests;
  readonly #account: string;

  constructor({ clock, accountId, apiUrl, apiToken }: ClientOptions) {
    this.clock = clock;
    this.#account = `/accounts/${encodeURIComponent(accountId)}`;
    this.#connections = new Connections({ bearer: apiToken, connectionsMax: CONNECTIONS_MAX }, clock);
    this.#requests = new PlatformRequests(parseTarget(apiUrl), this.#connections, {
      clock,
      timeoutMs: TIMEOUT_MS,
      waits: this.waits,
      denied: (response) => failure('take the token', response, 'EXECUTOR_UNAUTHORIZED'),
    });
  }

  /**
   * Any answer. Rejects with `CREDENTIALS_MISSING`, `PLATFORM_UNREACHABLE`, `PLATFORM_THROTTLED` after patient repetitions,
   * `EXECUTOR_UNAUTHORIZED`, `ABORTED`.
   */
  async send({ method, path, json, form, signal }: Request): Promise<HttpResponse> {
    const response = await this.#requests.send({
      method,
      path: this.#account + path,
      signal,
      ...(json !== undefined && { json }),
      ...(form && { body: form.body, headers: ['content-type', form.type] }),
    });
    if (response.status === 400 && DENIED_CODES.has(saidIn(response).code ?? 0))
      throw failure('take the token', response, 'EXECUTOR_UNAUTHORIZED');
    return response;
  }

  /** The result of a request that must succeed; `what` is for the message. */
  async ask(what: string, request: Request): Promise<unknown> {
    return resultOf(what, await this.send(request));
  }

  /** The result of a request, or undefined when the Worker is not there. */
  async find(what: string, request: Request): Promise<unknown> {
    const response = await this.send(request);
    return response.status === 404 && saidIn(response).code === SCRIPT_MISSING ? undefined : resultOf(what, response);
  }

  /** Graceful and idempotent. */
  close(): Promise<void> {
    return this.#connections.close();
  }
}

function resultOf(what: string, response: HttpResponse): unknown {
  const fields = fieldsOf(response.body);
  if (response.status >= 300 || fields?.['success'] === false) throw failure(what, response);
  if (!fields) throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `Cloudflare was to ${what} and answered with something that is not JSON`);
  return fields['result'];
}

/** The first error, with its code. */
function saidIn({ body }: HttpResponse): { readonly code?: number; readonly message?: string } {
  const [first] = listOf(fieldsOf(body)?.['errors']);
  const { code, message } = first ?? {};
  return { ...(typeof code === 'number' && { code }), ...(typeof message === 'string' && { message }) };
}

/** What Cloudflare said, with its code. */
export function failure(what: string, response: HttpResponse, as?: ErrorCode): RunnerError {
  const { status } = response;
  const { code, message = `status ${status}` } = saidIn(response);
  const said = code === undefined ? message : `${message} (${code})`;
  return new RunnerError(as ?? codeOf(status, code), `Cloudflare cannot ${what}: ${said}`, {
    details: { status, ...(code !== undefined && { platformCode: code }) },
    retry: status < 500 && status !== 429 ? 'never' : 'idempotent',
  });
}

function codeOf(status: number, code: number | undefined): ErrorCode {
  if (code === SCRIPT_MISSING) return 'FUNCTION_NOT_FOUND';
  if (code !== undefined && LIMIT_CODES.has(code)) return 'LIMIT_EXCEEDED';
  return status === 413 ? 'PAYLOAD_TOO_LARGE' : 'DEPLOY_FAILED';
}

export function asFields(value: unknown): Fields {
  // An object that is no list has text keys and unknown values.
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

export function listOf(value: unknown): readonly Fields[] {
  return Array.isArray(value) ? value.map(asFields) : [];
}

export function textsOf(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((each) => typeof each === 'string') : [];
}
