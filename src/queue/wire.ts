/**
 * Jobs, leases and results as JSON: the contract's own names, and bytes as base64 text. What a peer sends is unknown: its shape is checked
 * here, the values by the queue.
 */

import { RunnerError, isErrorCode, toRunnerError } from '../errors.ts';
import type { Retry } from '../errors.ts';
import { isReference } from './queue.ts';
import type { ClaimedJob, Content, Headers, Lease, NewJob, QueueResult } from './queue.ts';

/** Bytes as base64, or where they lie. */
type WireContent = string | { readonly key: string; readonly size: number; readonly sha256: string };

export interface WireError {
  readonly code: string;
  readonly message: string;
  readonly retry?: Retry;
  readonly details?: Readonly<Record<string, unknown>>;
}

const LEASE_CHARACTERS_MAX = 8_192;

type Fields = Readonly<Record<string, unknown>>;

const BASE64 = /^[A-Za-z0-9+/]*={0,2}$/;
const JOB_FIELDS = new Set([
  'id',
  'type',
  'payload',
  'headers',
  'priority',
  'delayMs',
  'deadline',
  'attemptsMax',
  'deadLetter',
  'requires',
]);

function contentToWire(content: Content): WireContent {
  if (isReference(content)) return { key: content.key, size: content.size, sha256: content.sha256 };
  return Buffer.from(content.buffer, content.byteOffset, content.byteLength).toString('base64');
}

/** Throws `REQUEST_INVALID`, `PAYLOAD_TOO_LARGE`. */
function contentOfWire(value: unknown, what: string): Content {
  if (typeof value === 'string') {
    if (value.length % 4 !== 0 || !BASE64.test(value)) throw invalid(`${what} is not base64`);
    return Buffer.from(value, 'base64');
  }
  const fields = fieldsOf(value, what);
  if (typeof fields['text'] === 'string') return Buffer.from(fields['text']);
  const { key, size, sha256 } = fields;
  // Its values are checked by the queue, like those of a caller of this process.
  return { key, size, sha256 } as Content;
}

export function jobToWire(job: NewJob): Fields {
  return { ...job, payload: contentToWire(job.payload) };
}

/** Throws `REQUEST_INVALID`. */
export function jobOfWire(value: unknown): NewJob {
  const fields = fieldsOf(value, 'a job');
  for (const name of Object.keys(fields))
    if (!JOB_FIELDS.has(name))
      throw invalid(`a job has no field ${JSON.stringify(name.slice(0, 64))}; it has ${[...JOB_FIELDS].join(', ')}`);
  // As above.
  return { ...fields, payload: contentOfWire(fields['payload'], 'the payload') } as NewJob;
}

/** Field by field: to copy an object of unknown shape takes longer than to write it. */
export function claimedToWire(job: ClaimedJob): Fields {
  const { id, type, payload, headers, priority, requires, attempt, attemptsMax, publishedAt, deadline, lease } = job;
  const wire = contentToWire(payload);
  return { id, type, payload: wire, headers, priority, requires, attempt, attemptsMax, publishedAt, deadline, lease };
}

/** Throws `REQUEST_INVALID`, which says what is missing. */
export function claimedOfWire(value: unknown): ClaimedJob {
  const fields = fieldsOf(value, 'a claimed job');
  const { id, type, attempt } = fields;
  if (typeof id !== 'string' || typeof type !== 'string' || typeof attempt !== 'number') throw invalid('a claimed job is incomplete');
  const payload = contentOfWire(fields['payload'], 'the payload');
  // Nobody else has what was just parsed. The control plane that proved its key made it.
  return Object.assign(fields, { lease: leaseOfWire(fields['lease']), payload }) as unknown as ClaimedJob;
}

export function leaseOfWire(value: unknown): Lease {
  const { jobId, token, until } = fieldsOf(value, 'a lease');
  if (
    typeof jobId !== 'string' ||
    typeof token !== 'string' ||
    typeof until !== 'number' ||
    jobId.length + token.length > LEASE_CHARACTERS_MAX
  )
    throw invalid('a lease has the id of its job, a token, and until when it lasts');
  return { jobId, token, until };
}

/** How many of these, from the first one on and at least one, have no more than so many bytes together. */
export function countWithin<T>(all: readonly T[], bytesMax: number, contentOf: (one: T) => Content): number {
  let bytes = 0;
  for (const [index, one] of all.entries()) {
    const content = contentOf(one);
    bytes += isReference(content) ? 0 : content.length;
    if (bytes > bytesMax && index > 0) return index;
  }
  return all.length;
}

export function resultToWire({ body, headers }: { readonly body: Content; readonly headers?: Headers | undefined }): Fields {
  return { body: contentToWire(body), headers };
}

/** Throws `REQUEST_INVALID`. */
export function resultOfWire(value: unknown): QueueResult {
  const { body, headers } = fieldsOf(value, 'a result');
  const content = contentOfWire(body, 'the result');
  // Checked by the queue; an answer of the control plane is its own.
  return headers === undefined ? { body: content } : { body: content, headers: headers as QueueResult['headers'] & object };
}

export function errorToWire(thrown: unknown): WireError {
  const { code, message, retry, details } = toRunnerError(thrown);
  return { code, message, retry, details };
}

export function errorOfWire(value: unknown): RunnerError {
  const { code, message, retry, details } = fieldsOf(value, 'an error');
  return new RunnerError(
    isErrorCode(code) ? code : 'INTERNAL',
    typeof message === 'string' ? message : 'the control plane gave no reason',
    {
      ...(isRetry(retry) && { retry }),
      ...(isFields(details) && { details }),
    },
  );
}

/** Throws `REQUEST_INVALID`. */
export function fieldsOf(value: unknown, what: string): Fields {
  if (!isFields(value)) throw invalid(`${what} must be an object`);
  return value;
}

export function listOf(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw invalid(`${what} must be a list`);
  return value;
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isRetry(value: unknown): value is Retry {
  return value === 'safe' || value === 'idempotent' || value === 'never';
}

function invalid(message: string): RunnerError {
  return new RunnerError('REQUEST_INVALID', message);
}
