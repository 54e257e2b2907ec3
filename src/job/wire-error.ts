/** Errors on the wire: an HTTP status and `{"error":"...","code":"CODE","details":{}}`, in every format the same. */

import { ERROR_CODES, briefly, isErrorCode, RunnerError, toRunnerError } from '../errors.ts';
import type { ErrorCode, ErrorCodeEntry, ErrorDetails, Retry } from '../errors.ts';
import { bufferOver } from './scalar.ts';

export type HeaderValue = string | readonly string[] | undefined;
/** Names in lower case. */
export type Headers = Readonly<Record<string, HeaderValue>>;

export interface WireResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

const MESSAGE_CHARACTERS_MAX = 2_048;
const DETAILS_CHARACTERS_MAX = 4_096;
const SECRET = /secret|token|passw|authorization|credential|cookie|private|api-?_?key/i;

/** What a handler may say about a call. Another code would be a claim about the chain, the ledger or this machine. */
const HANDLER_CODES: ReadonlySet<string> = new Set<ErrorCode>([
  'JOB_UNKNOWN',
  'JOB_DUPLICATE',
  'JOB_ID_INVALID',
  'JOB_TYPE_INVALID',
  'JOB_SCHEMA_MISMATCH',
  'JOB_ARGS_INVALID',
  'JOB_RESULT_INVALID',
  'JOB_REJECTED',
  'JOB_FAILED',
  'WIRE_MALFORMED',
  'PAYLOAD_TOO_LARGE',
  'EXECUTOR_CONNECTION_LOST',
  'EXECUTOR_TIMEOUT',
  'EXECUTOR_THROTTLED',
  'EXECUTOR_UNAVAILABLE',
  'EXECUTOR_UNAUTHORIZED',
  'EXECUTOR_NOT_FOUND',
  'EXECUTOR_CLOSED',
  'FUNCTION_EXISTS',
  'FUNCTION_FAILED',
  'QUEUE_FULL',
  'ABORTED',
]);

/** What an answer means that does not say it itself. */
const BY_STATUS: Readonly<Partial<Record<number, ErrorCode>>> = {
  400: 'WIRE_MALFORMED',
  401: 'EXECUTOR_UNAUTHORIZED',
  403: 'EXECUTOR_UNAUTHORIZED',
  404: 'EXECUTOR_NOT_FOUND',
  408: 'EXECUTOR_TIMEOUT',
  409: 'FUNCTION_EXISTS',
  410: 'EXECUTOR_NOT_FOUND',
  413: 'PAYLOAD_TOO_LARGE',
  415: 'WIRE_MALFORMED',
  422: 'WIRE_MALFORMED',
  429: 'EXECUTOR_THROTTLED',
  502: 'EXECUTOR_CONNECTION_LOST',
  503: 'EXECUTOR_UNAVAILABLE',
  504: 'EXECUTOR_TIMEOUT',
};

/** The HTTP status that says a code. */
export function statusOf(code: ErrorCode): number {
  const { kind, status }: ErrorCodeEntry = ERROR_CODES[code];
  return status ?? (kind === 'user' ? 400 : 500);
}

/** What is wrong with a request or a job is the caller's fault; of other codes, nothing is known. */
const answeredStatus = (code: ErrorCode): number => briefly(code)[1] ?? (/^(?:JOB|WIRE|SCHEMA|CONFIG)_/.test(code) ? 400 : 500);

/** Any error as a response. Causes and stacks stay here, and details whose name sounds like a secret. */
export function encodeError(thrown: unknown): WireResponse {
  const error = toRunnerError(thrown);
  const body = { error: shorten(error.message), code: error.code, details: printable(error.details) };
  return { status: answeredStatus(error.code), headers: { 'content-type': 'application/json' }, body: Buffer.from(JSON.stringify(body)) };
}

/**
 * The error behind a response that is no success.
 *
 * A body with a code that a handler may use gives that code, and what the table says about another attempt. Anything else is judged
 * by its status: only 429, and 503 with Retry-After, promise that the handler was not reached.
 */
export function errorFromResponse(status: number, body: Uint8Array, headers: Headers = {}): RunnerError {
  const said = parseErrorBody(body);
  const retryAfterMs = retryAfter(headers['retry-after']);
  const details = { ...said.details, status, ...(retryAfterMs !== undefined && { retryAfterMs }) };
  if (isErrorCode(said.code) && HANDLER_CODES.has(said.code))
    return new RunnerError(said.code, said.error ?? `the handler answered with ${said.code}`, { details });
  const judged = judge(status, said, retryAfterMs !== undefined);
  const message = `the platform answered with status ${status}${said.error === undefined ? '' : `: ${said.error}`}`;
  return new RunnerError(judged.code, message, {
    details: { ...details, ...(said.code !== undefined && { platformCode: said.code }) },
    ...(judged.retry && { retry: judged.retry }),
  });
}

/** What a platform says in `{"success":false,"error":"..."}`. */
export function errorFromReply(error: unknown, status: number): RunnerError {
  const message = typeof error === 'string' && error !== '' ? shorten(error) : 'the handler reported a failure without a reason';
  return new RunnerError('JOB_FAILED', message, { details: { status } });
}

interface ErrorBody {
  readonly error?: string;
  readonly code?: string;
  readonly details?: ErrorDetails;
}

function judge(status: number, said: ErrorBody, hasRetryAfter: boolean): { readonly code: ErrorCode; readonly retry?: Retry } {
  if (said.code === 'TIMEOUT') return { code: 'EXECUTOR_TIMEOUT' };
  if (status === 500 && said.error !== undefined) return { code: 'JOB_FAILED' };
  if (status === 503 && !hasRetryAfter) return { code: 'EXECUTOR_UNAVAILABLE', retry: 'idempotent' };
  return { code: BY_STATUS[status] ?? 'EXECUTOR_RESPONSE_INVALID' };
}

function parseErrorBody(body: Uint8Array): ErrorBody {
  const text = bufferOver(body).toString('utf8', 0, 64 * 1024);
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null) return {};
    const { error, code, details } = value as Record<string, unknown>;
    return {
      ...(typeof error === 'string' && { error: shorten(error) }),
      ...(typeof code === 'string' && { code: code.slice(0, 64) }),
      ...(typeof details === 'object' && details !== null && { details: printable(details) }),
    };
  } catch {
    const line = text.slice(0, 200).replaceAll(/\s+/g, ' ').trim();
    return line === '' ? {} : { details: { body: line } };
  }
}

/** Flat, small, without secrets, and plain JSON. */
function printable(details: object): ErrorDetails {
  const shown: Record<string, unknown> = {};
  let room = DETAILS_CHARACTERS_MAX;
  for (const [name, value] of Object.entries<unknown>({ ...details })) {
    if (SECRET.test(name) || name === '__proto__') continue;
    const text = typeof value === 'bigint' ? value.toString() : value;
    const plain =
      typeof text === 'string'
        ? shorten(text)
        : typeof text === 'number' || typeof text === 'boolean' || text === null
          ? text
          : JSON.stringify(text, bigintAsText);
    room -= name.length + String(plain).length;
    if (room < 0) break;
    if (plain !== undefined) shown[name] = plain;
  }
  return shown;
}

function bigintAsText(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value;
}

function retryAfter(value: HeaderValue): number | undefined {
  return typeof value === 'string' && /^\d{1,6}$/.test(value) ? Number(value) * 1_000 : undefined;
}

function shorten(text: string): string {
  return text.length > MESSAGE_CHARACTERS_MAX ? `${text.slice(0, MESSAGE_CHARACTERS_MAX)}...` : text;
}
