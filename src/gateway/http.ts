/** What a handler of the gateway gets and gives: a request that is read, checked and authorised, and a reply. */

import { RunnerError } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { CancelSignal } from '../runtime/runtime.ts';
import { createRedactor } from '../telemetry/redact.ts';
import type { JsonSchema, Schema } from './schema.ts';

/** What credentials allow. `admin` includes all others. */
export const SCOPES = ['functions:read', 'functions:write', 'invoke', 'invocations', 'logs', 'admin'] as const;
export type Scope = (typeof SCOPES)[number];

/** What tickets of a control plane allow, besides `admin`, `session` all of them: other words than those of keys, so that neither opens the other's doors. */
export type WorkScope = 'session' | 'claim' | 'publish' | 'objects' | 'engines' | 'metrics';
export type AnyScope = Scope | WorkScope;

/** Who sends a request. */
export interface Caller {
  /** For limits, idempotency keys and the access log: no secret. */
  readonly id: string;
  readonly kind: 'anonymous' | 'key' | 'token' | 'certificate' | 'signature';
  readonly scopes: readonly AnyScope[];
  /** Functions by name, `*` standing for any text. */
  readonly functions: readonly string[];
}

export interface GatewayRequest {
  /** Unique; in the answer as `x-request-id`, in logs, and given to the function. */
  readonly id: string;
  readonly method: string;
  /** Without the query, as it was sent. */
  readonly path: string;
  /** Decoded parts of the path, by the names of the route. No slash, no backslash, no control character. */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly body: Uint8Array;
  readonly caller: Caller;
  /** Origin by which the client reached us, such as `http://127.0.0.1:8080`. */
  readonly origin: string;
  /** Fires when the client is gone, or the gateway cannot wait any longer. */
  readonly signal: CancelSignal;
  /** Fires when the gateway begins to close: what only waits for news ends then. */
  readonly closing: AbortSignal;
}

export interface Reply {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** An iterable is sent chunk by chunk, as fast as the client reads; when it throws, the connection breaks off. */
  readonly body?: Uint8Array | string | AsyncIterable<Uint8Array>;
}

interface BodyDoc {
  readonly contentType: string;
  readonly schema: JsonSchema;
}

export interface RouteDoc {
  readonly summary: string;
  readonly query?: Readonly<Record<string, Schema<unknown>>>;
  readonly request?: BodyDoc & { readonly or?: BodyDoc };
  /** By status. Refusals (400, 401, 403, 404, 413, 429, 503) are added to all routes. */
  readonly responses: Readonly<Record<number, { readonly about: string; readonly contentType?: string; readonly schema?: JsonSchema }>>;
}

export interface Route {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Such as `/api/v1/functions/{name}`. A slash at the end makes no difference. */
  readonly path: string;
  /** `public`: asks for no credentials. */
  readonly scope: AnyScope | 'public';
  /** The parameter of the path that names the function: credentials may be for some functions only. */
  readonly functionParam?: string;
  /** The function that the parameter means, when it is more than a name. */
  readonly functionOf?: (value: string) => string;
  /** Default 0: a body is refused. */
  readonly bodyBytesMax?: number;
  /** Signatures of AWS are taken here. */
  readonly takesSignatures?: true;
  /** Carries the id of the request beside `x-request-id`. */
  readonly requestIdHeader?: string;
  readonly doc: RouteDoc;
  readonly handle: (request: GatewayRequest) => Promise<Reply> | Reply;
  /** How a failure is told. Default: `failure`. */
  readonly failure?: (error: RunnerError, request: Pick<GatewayRequest, 'id' | 'params'>) => Reply;
}

export const JSON_TYPE = 'application/json';
export const OCTETS = 'application/octet-stream';

export function json(status: number, value: unknown, headers?: Readonly<Record<string, string>>): Reply {
  return { status, headers: { 'content-type': JSON_TYPE, ...headers }, body: JSON.stringify(value) };
}

/** The status that tells a client of HTTP best what it can do about a code. What is not listed is our fault: 500. */
const STATUS: Partial<Readonly<Record<ErrorCode, number>>> = {
  CONFIG_INVALID: 400,
  REQUEST_INVALID: 400,
  WIRE_MALFORMED: 400,
  CODE_MISSING: 400,
  PACKAGE_INVALID: 400,
  RUNTIME_UNSUPPORTED: 400,
  JOB_ARGS_INVALID: 400,
  UNAUTHORIZED: 401,
  TICKET_EXPIRED: 401,
  TICKET_NOT_YET_VALID: 401,
  TICKET_FOREIGN: 401,
  TICKET_REVOKED: 401,
  ENROLMENT_REPLAYED: 401,
  IDENTITY_UNPROVEN: 401,
  FORBIDDEN: 403,
  TICKET_BOUND: 403,
  NOT_FOUND: 404,
  FUNCTION_NOT_FOUND: 404,
  FUNCTION_EXISTS: 409,
  REQUEST_CONFLICT: 409,
  OUTCOME_UNKNOWN: 409,
  REVISION_MISMATCH: 409,
  LEASE_LOST: 409,
  STATE_INVALID: 409,
  PAYLOAD_TOO_LARGE: 413,
  RATE_LIMITED: 429,
  QUEUE_FULL: 429,
  EXECUTOR_THROTTLED: 429,
  ABORTED: 499,
  FUNCTION_FAILED: 502,
  FUNCTION_CRASHED: 502,
  FUNCTION_OUT_OF_MEMORY: 502,
  FUNCTION_INIT_FAILED: 502,
  EXECUTOR_RESPONSE_INVALID: 502,
  EXECUTOR_CONNECTION_LOST: 502,
  BACKEND_UNAVAILABLE: 503,
  INSTANCE_START_FAILED: 503,
  QUEUE_TIMEOUT: 503,
  QUEUE_CLOSED: 503,
  QUEUE_DISK_FULL: 503,
  EXECUTOR_CLOSED: 503,
  EXECUTOR_UNAVAILABLE: 503,
  EXECUTOR_TIMEOUT: 504,
};

/** Overrides the status of a code where HTTP has a better one: `{ status: 405 }` in the details of the error. */
export function statusOf({ code, details }: RunnerError): number {
  const told = details['status'];
  return typeof told === 'number' && told >= 400 && told < 600 ? told : (STATUS[code] ?? 500);
}

const redact = createRedactor();

/** What the author of a function and his caller say to each other is not ours to redact. */
const SAID_BY_FUNCTION: ReadonlySet<ErrorCode> = new Set(['FUNCTION_FAILED', 'FUNCTION_INIT_FAILED', 'FUNCTION_CRASHED']);

export interface ErrorDocument {
  readonly error: { readonly code: ErrorCode; readonly message: string; readonly details: unknown; readonly request_id: string };
}

export function errorDocument(error: RunnerError, requestId: string): ErrorDocument {
  const { code, message } = error;
  const { status: _, retryAfterSeconds: __, ...details } = error.details;
  const shown = SAID_BY_FUNCTION.has(code) ? details : redact(details);
  return {
    error: {
      code,
      message: code === 'INTERNAL' ? 'the server failed; its log says more under this request id' : message,
      details: shown,
      request_id: requestId,
    },
  };
}

export function failure(error: RunnerError, { id }: Pick<GatewayRequest, 'id'>): Reply {
  return json(statusOf(error), errorDocument(error, id), retryHeaders(error));
}

/** `Retry-After` for what another attempt may help. */
export function retryHeaders(error: RunnerError): Record<string, string> {
  const status = statusOf(error);
  if (status !== 429 && status !== 503) return {};
  const seconds = error.details['retryAfterSeconds'];
  return { 'retry-after': String(typeof seconds === 'number' ? seconds : 1) };
}

export function badRequest(message: string, status = 400): RunnerError {
  return new RunnerError('REQUEST_INVALID', message, { details: { status } });
}

/** Whether the credentials allow `scope` for this function. */
export function allows(caller: Caller, scope: AnyScope, functionName?: string): boolean {
  if (!caller.scopes.includes(scope) && !caller.scopes.includes('admin')) return false;
  return functionName === undefined ? true : caller.functions.some((pattern) => matches(pattern, functionName));
}

/** Throws `FORBIDDEN`. */
export function demand(caller: Caller, scope: AnyScope, functionName?: string): void {
  if (allows(caller, scope, functionName)) return;
  const what = functionName === undefined ? '' : ` for the function ${functionName}`;
  throw new RunnerError('FORBIDDEN', `${caller.id} lacks ${scope}${what}`, { details: { scope, function: functionName } });
}

function matches(pattern: string, name: string): boolean {
  if (pattern === '*') return true;
  if (!pattern.includes('*')) return pattern === name;
  const parts = pattern.split('*');
  const last = parts.at(-1) ?? '';
  let from = parts[0]?.length ?? 0;
  if (!name.startsWith(parts[0] ?? '')) return false;
  for (const part of parts.slice(1, -1)) {
    const at = name.indexOf(part, from);
    if (at < 0) return false;
    from = at + part.length;
  }
  return name.length - last.length >= from && name.endsWith(last);
}
