/**
 * The wire formats between an executor and a handler.
 *
 * - `json` (v1): `{"job_id":0,"args":[1,2]}` -> `{"result":[3]}`, `{"result":null}` for none. Understood everywhere, 3.6 bytes for one.
 *   The reply may also be that of the platform specification: `{"job_id","result","success","error","execution_ms","memory_used_mb"}`.
 * - `octets` (v2): the body is the bytes, the job id is in `x-blueprint-job-id`; 204 for no result.
 * - `base64`: `{"job_id":0,"args_base64":"...","metadata":{}}` -> `{"result_base64":"...","metadata":{}}`, for platforms whose event is JSON.
 *
 * The content type tells octets from JSON, the keys tell the two JSON formats apart. Metadata travels in headers, or in the body of
 * `base64`. Over the wire goes only the answering result, the first; those of `always` jobs stay where they ran.
 */

import { RunnerError } from '../errors.ts';
import { CALL_ID, CALL_KEY, SERVICE_ID, toJobId } from './call.ts';
import type { JobCall, JobIdLike, JobResult, Metadata } from './call.ts';
import { bufferOver, isRecord } from './scalar.ts';
import { errorFromReply, errorFromResponse } from './wire-error.ts';
import type { Headers, WireResponse } from './wire-error.ts';
import { encodeBytesJson, IntegerText, scanFlatJson } from './wire-json.ts';
import { JOB_ID_HEADER, metadataFromHeaders, metadataFromJson, metadataHeaders, metadataJson } from './wire-metadata.ts';

export { encodeError, errorFromResponse, statusOf } from './wire-error.ts';
export type { Headers, WireResponse } from './wire-error.ts';

export const WIRE_FORMATS = ['json', 'octets', 'base64'] as const;
export type WireFormat = (typeof WIRE_FORMATS)[number];

export const OCTETS_TYPE = 'application/octet-stream';
export const JSON_TYPE = 'application/json';

export interface WireRequest {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

export interface DecodeRequestOptions {
  /** The largest body in bytes. Default: no limit. */
  readonly bytesMax?: number;
  /** The job id that the path or the platform names; the request may repeat it, but not contradict it. */
  readonly jobId?: JobIdLike;
  /** Makes the id of a call that brings none. Default: a random UUID. */
  readonly newId?: () => string;
}

export interface DecodedRequest {
  /** What the response must be encoded in. */
  readonly format: WireFormat;
  readonly call: JobCall;
}

export interface DecodedResponse {
  /** One, or none. */
  readonly results: readonly JobResult[];
  /** What the platform told of the execution. */
  readonly report?: { readonly executionMs?: number; readonly memoryUsedMb?: number };
}

/**
 * A call as a request.
 *
 * @example
 * const { headers, body } = encodeRequest('octets', call);
 */
export function encodeRequest(format: WireFormat, call: JobCall): WireRequest {
  switch (format) {
    case 'json':
      return {
        headers: metadataHeaders(call.metadata, JSON_TYPE, call.id),
        body: encodeBytesJson(`{"job_id":${jobIdJson(call.jobId)},"args":`, call.body, '}'),
      };
    case 'octets': {
      const headers = metadataHeaders(call.metadata, OCTETS_TYPE, call.id);
      headers[JOB_ID_HEADER] = call.jobId.toString();
      return { headers, body: call.body };
    }
    case 'base64': {
      const text = `{"job_id":${jobIdJson(call.jobId)},"args_base64":"${base64(call.body)}",${metadataJson(call.metadata, call.id)}}`;
      return { headers: { 'content-type': JSON_TYPE }, body: Buffer.from(text) };
    }
  }
}

/** A request as a call. Throws `WIRE_MALFORMED`, `PAYLOAD_TOO_LARGE`, `JOB_ID_INVALID`. */
export function decodeRequest(headers: Headers, body: Uint8Array, options: DecodeRequestOptions = {}): DecodedRequest {
  const { bytesMax = Number.POSITIVE_INFINITY } = options;
  if (body.length > bytesMax) throw tooLarge('request', body.length, bytesMax);
  const type = contentType(headers);
  if (type === OCTETS_TYPE) {
    const metadata = metadataFromHeaders(headers);
    return { format: 'octets', call: makeCall({ body, metadata, jobId: textOf(headers[JOB_ID_HEADER]) }, options) };
  }
  if (type !== '' && !isJson(type)) throw malformed(`content type ${type} is not understood; send ${JSON_TYPE} or ${OCTETS_TYPE}`);
  return decodeJsonRequest(headers, body, options);
}

/** The answering result as a response. */
export function encodeResponse(format: WireFormat, results: readonly JobResult[]): WireResponse {
  const result = results[0];
  switch (format) {
    case 'json': {
      const headers = result ? metadataHeaders(result.metadata, JSON_TYPE) : { 'content-type': JSON_TYPE };
      return { status: 200, headers, body: result ? encodeBytesJson('{"result":', result.body, '}') : Buffer.from('{"result":null}') };
    }
    case 'octets':
      return result
        ? { status: 200, headers: metadataHeaders(result.metadata, OCTETS_TYPE), body: result.body }
        : { status: 204, headers: {}, body: new Uint8Array() };
    case 'base64': {
      const text = result ? `{"result_base64":"${base64(result.body)}",${metadataJson(result.metadata)}}` : '{"result_base64":null}';
      return { status: 200, headers: { 'content-type': JSON_TYPE }, body: Buffer.from(text) };
    }
  }
}

/**
 * What a handler answered to a call. The result carries the call id and service id of the call, whatever the handler says.
 *
 * Throws the error that the response says, `EXECUTOR_RESPONSE_INVALID` when it is none of the formats, `PAYLOAD_TOO_LARGE`.
 */
export function decodeResponse(
  response: { readonly status: number; readonly headers: Headers; readonly body: Uint8Array },
  call: JobCall,
  bytesMax = Number.POSITIVE_INFINITY,
): DecodedResponse {
  const { status, headers, body } = response;
  if (body.length > bytesMax) throw tooLarge('response', body.length, bytesMax);
  if (status === 204) return { results: [] };
  if (status < 200 || status >= 300) throw errorFromResponse(status, body, headers);
  const type = contentType(headers);
  if (type === OCTETS_TYPE) return { results: [{ body, metadata: answered(metadataFromHeaders(headers), call) }] };
  return decodeJsonResponse(response, call);
}

function decodeJsonRequest(headers: Headers, body: Uint8Array, options: DecodeRequestOptions): DecodedRequest {
  const flat = scanFlatJson(body);
  if (flat?.['args'] instanceof Uint8Array) {
    const metadata = metadataFromHeaders(headers);
    return { format: 'json', call: makeCall({ body: flat['args'], metadata, jobId: jobIdOf(flat['job_id'], malformed) }, options) };
  }
  const fields = parseObject(body, malformed);
  const jobId = jobIdOf(fields['job_id'], malformed);
  if ('args_base64' in fields) {
    const metadata = metadataFromJson(fields, malformed);
    return { format: 'base64', call: makeCall({ body: bytesOfBase64(fields['args_base64'], malformed), metadata, jobId }, options) };
  }
  if (!('args' in fields)) throw malformed('there is neither args nor args_base64');
  const metadata = metadataFromHeaders(headers);
  return { format: 'json', call: makeCall({ body: bytesOfNumbers(fields['args'], malformed), metadata, jobId }, options) };
}

function decodeJsonResponse(
  { status, headers, body }: { readonly status: number; readonly headers: Headers; readonly body: Uint8Array },
  call: JobCall,
): DecodedResponse {
  const flat = scanFlatJson(body);
  const isUsual = flat !== undefined && (flat['result'] instanceof Uint8Array || flat['result'] === null);
  const fields: Readonly<Record<string, unknown>> = isUsual
    ? flat
    : parseObject(body, (reason) => invalid(`${reason} (content type ${contentType(headers) || 'missing'})`, call));
  const fail = (reason: string): RunnerError => invalid(reason, call);
  if (fields['success'] === false) throw errorFromReply(fields['error'], status);
  // Platforms without a status of their own answer with the body of an error alone.
  if (typeof fields['error'] === 'string' && !('result' in fields) && !('result_base64' in fields))
    throw errorFromResponse(status, body, headers);
  const jobId = jobIdOf(fields['job_id'], fail);
  if (jobId !== undefined && jobId !== call.jobId.toString()) throw fail(`it answers job ${jobId.slice(0, 80)}, not job ${call.jobId}`);
  const report = reportOf(fields);
  if ('result_base64' in fields) {
    if (fields['result_base64'] === null) return { results: [], ...report };
    const metadata = metadataFromJson(fields, fail);
    return { results: [{ body: bytesOfBase64(fields['result_base64'], fail), metadata: answered(metadata, call) }], ...report };
  }
  if (!('result' in fields)) throw fail('there is neither result nor result_base64');
  const { result } = fields;
  if (result === null) return { results: [], ...report };
  const bytes = result instanceof Uint8Array ? result : bytesOfNumbers(result, fail);
  return { results: [{ body: bytes, metadata: answered(metadataFromHeaders(headers), call) }], ...report };
}

function makeCall(
  parts: { readonly body: Uint8Array; readonly metadata: Metadata; readonly jobId: string | undefined },
  options: DecodeRequestOptions,
): JobCall {
  const { body, metadata } = parts;
  const named = options.jobId === undefined ? undefined : toJobId(options.jobId);
  const said = parts.jobId === undefined ? undefined : toJobId(parts.jobId);
  const jobId = said ?? named;
  if (jobId === undefined) throw malformed('the job id is missing');
  if (named !== undefined && named !== jobId) throw malformed(`the request says job ${jobId}, its path says job ${named}`);
  const id = metadata.get(CALL_KEY) ?? (options.newId ?? randomId)();
  return { id, jobId, body, metadata };
}

/** Whose result it is, is not the handler's to say. */
function answered(metadata: Metadata, call: JobCall): Metadata {
  for (const name of [CALL_ID, SERVICE_ID]) {
    const value = call.metadata.get(name);
    if (value === undefined) metadata.delete(name);
    else metadata.set(name, value);
  }
  return metadata;
}

function reportOf(fields: Readonly<Record<string, unknown>>): Pick<DecodedResponse, 'report'> {
  const executionMs = measure(fields['execution_ms']);
  const memoryUsedMb = measure(fields['memory_used_mb']);
  if (executionMs === undefined && memoryUsedMb === undefined) return {};
  return { report: { ...(executionMs !== undefined && { executionMs }), ...(memoryUsedMb !== undefined && { memoryUsedMb }) } };
}

function measure(value: unknown): number | undefined {
  const number = value instanceof IntegerText ? Number(value.digits) : value;
  return typeof number === 'number' && Number.isFinite(number) && number >= 0 ? number : undefined;
}

/** A number as long as every JSON reader keeps it exact, else text. */
function jobIdJson(jobId: bigint): string {
  return jobId <= Number.MAX_SAFE_INTEGER ? jobId.toString() : `"${jobId}"`;
}

function jobIdOf(value: unknown, fail: (reason: string) => RunnerError): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (value instanceof IntegerText) return value.digits;
  if (typeof value === 'string') return value;
  if (typeof value === 'number' && Number.isSafeInteger(value)) return value.toString();
  throw fail('job_id is not an integer');
}

function parseObject(body: Uint8Array, fail: (reason: string) => RunnerError): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(bufferOver(body).toString('utf8'));
  } catch {
    throw fail(`the ${body.length} bytes are not JSON`);
  }
  if (!isRecord(value)) throw fail('the JSON is not an object');
  return Object.assign(Object.create(null) as Record<string, unknown>, value);
}

function bytesOfNumbers(value: unknown, fail: (reason: string) => RunnerError): Uint8Array {
  if (!Array.isArray(value)) throw fail('the bytes are not an array');
  const bytes = Buffer.allocUnsafe(value.length);
  for (let index = 0; index < value.length; index += 1) {
    const byte: unknown = value[index];
    if (typeof byte !== 'number' || !Number.isInteger(byte) || byte < 0 || byte > 255)
      throw fail(`item ${index} of the bytes is not an integer from 0 to 255`);
    bytes[index] = byte;
  }
  return bytes;
}

function bytesOfBase64(value: unknown, fail: (reason: string) => RunnerError): Uint8Array {
  if (typeof value !== 'string' || value.length % 4 !== 0) throw fail('the bytes are not base64');
  const bytes = Buffer.from(value, 'base64');
  // Node skips what is not base64: then there are fewer bytes than the text is long.
  const padding = value.endsWith('==') ? 2 : value.endsWith('=') ? 1 : 0;
  if (bytes.length !== (value.length / 4) * 3 - padding) throw fail('the bytes are not base64');
  return bytes;
}

function base64(bytes: Uint8Array): string {
  return bufferOver(bytes).toString('base64');
}

function contentType(headers: Headers): string {
  const value = textOf(headers['content-type']) ?? '';
  const end = value.indexOf(';');
  return (end < 0 ? value : value.slice(0, end)).trim().toLowerCase();
}

function isJson(type: string): boolean {
  return type === JSON_TYPE || type === 'text/json' || (type.startsWith('application/') && type.endsWith('+json'));
}

function textOf(value: Headers[string]): string | undefined {
  return typeof value === 'string' || value === undefined ? value : value[0];
}

function randomId(): string {
  return globalThis.crypto.randomUUID();
}

function malformed(reason: string): RunnerError {
  return new RunnerError('WIRE_MALFORMED', `the request is malformed: ${reason}`);
}

function invalid(reason: string, call: JobCall): RunnerError {
  return new RunnerError('EXECUTOR_RESPONSE_INVALID', `the response to call ${call.id} is not a result: ${reason}`, {
    details: { call: call.id, jobId: call.jobId.toString() },
  });
}

function tooLarge(what: string, bytes: number, bytesMax: number): RunnerError {
  return new RunnerError('PAYLOAD_TOO_LARGE', `the ${what} has ${bytes} bytes; the limit is ${bytesMax}`, {
    details: { what, bytes, bytesMax },
  });
}
