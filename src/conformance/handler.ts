/**
 * What every platform that runs a handler must answer, as data: the requests, the answers.
 *
 * A platform runs the bundle of `conformanceRouter` and passes each case with `checkHandlerCase`. Errors are compared by code and
 * status; a test that has several platforms compares their bytes too.
 */

import { deepStrictEqual, strictEqual } from 'node:assert/strict';
import type { ErrorCode } from '../errors.ts';
import { patterned } from './jobs.ts';

/**
 * What not every platform can deliver.
 * - `http`: headers, a path, bodies that are not JSON; the answer has a status.
 * - `text`: text that is no JSON arrives as it is.
 * - `large`: 6 MiB arrive and come back; an event that wraps them in base64 has no room for them.
 */
export type HandlerNeed = 'http' | 'text' | 'large';

export interface HandlerCaseRequest {
  /** Lower-case names. */
  readonly headers: Readonly<Record<string, string>>;
  /** Names the job in the path. */
  readonly jobId?: string;
  readonly body: Uint8Array;
}

export interface HandlerCaseAnswer {
  /** Absent where the platform has none. */
  readonly status?: number;
  readonly body: Uint8Array;
}

export interface HandlerPlatform {
  readonly offers: readonly HandlerNeed[];
  send(request: HandlerCaseRequest): Promise<HandlerCaseAnswer>;
}

export interface HandlerCase {
  readonly name: string;
  readonly needs: readonly HandlerNeed[];
  /** Made anew for each run: some are megabytes. */
  readonly request: () => HandlerCaseRequest;
  readonly expected: { readonly status: number; readonly body: () => Uint8Array } | { readonly status: number; readonly code: ErrorCode };
}

const ID = 'call-7';
const JSON_HEADERS = { 'content-type': 'application/json' };

const word = (value: bigint | number): Buffer => Buffer.from(value.toString(16).padStart(64, '0'), 'hex');
const padded = (bytes: Uint8Array): Buffer => Buffer.concat([bytes, Buffer.alloc((32 - (bytes.length % 32)) % 32)]);
/** `abi.encode` of one string or bytes. */
const dynamic = (bytes: Uint8Array): Buffer => Buffer.concat([word(32), word(bytes.length), padded(bytes)]);
const utf8 = (text: string): Buffer => Buffer.from(text, 'utf8');
const json = (value: unknown): Buffer => utf8(JSON.stringify(value));

function v1(jobId: number, args: Uint8Array): () => HandlerCaseRequest {
  return () => ({ headers: JSON_HEADERS, body: json({ job_id: jobId, args: [...args] }) });
}

function base64(jobId: number | string, args: Uint8Array, metadata: Readonly<Record<string, string>> = {}): () => HandlerCaseRequest {
  return () => ({
    headers: JSON_HEADERS,
    body: json({ job_id: jobId, call_id: ID, args_base64: Buffer.from(args).toString('base64'), metadata }),
  });
}

function octets(jobId: string, args: Uint8Array, headers: Readonly<Record<string, string>> = {}): () => HandlerCaseRequest {
  return () => ({ jobId, headers: { 'content-type': 'application/octet-stream', 'x-blueprint-call-key': ID, ...headers }, body: args });
}

const text =
  (body: string): (() => HandlerCaseRequest) =>
  () => ({ headers: JSON_HEADERS, body: utf8(body) });

function v1Result(name: string, request: () => HandlerCaseRequest, result: Uint8Array | null): HandlerCase {
  return { name: `v1: ${name}`, needs: [], request, expected: { status: 200, body: () => json({ result: result && [...result] }) } };
}

function base64Result(name: string, request: () => HandlerCaseRequest, result: Uint8Array): HandlerCase {
  return {
    name: `base64: ${name}`,
    needs: [],
    request,
    expected: { status: 200, body: () => json({ result_base64: Buffer.from(result).toString('base64'), metadata: {} }) },
  };
}

function octetsResult(name: string, request: () => HandlerCaseRequest, result: Uint8Array): HandlerCase {
  return { name: `v2: ${name}`, needs: ['http'], request, expected: { status: 200, body: () => result } };
}

interface Failure {
  readonly code: ErrorCode;
  readonly status: number;
  readonly needs?: readonly HandlerNeed[];
}

function failure(name: string, request: () => HandlerCaseRequest, { code, status, needs = [] }: Failure): HandlerCase {
  return { name: `${code}: ${name}`, needs, request, expected: { status, code } };
}

const MEGABYTE = 1024 * 1024;
const everyByte = Uint8Array.from({ length: 256 }, (_, byte) => byte);
const unicode = 'grüße, 世界, e\u0301, \u{1f980}, \u2028 and "quotes"\\';

const results: readonly HandlerCase[] = [
  v1Result('typed arguments and result', v1(0, word(5)), word(25)),
  v1Result('text beyond ASCII', v1(1, dynamic(utf8(unicode))), dynamic(utf8(unicode.toUpperCase()))),
  v1Result('no bytes', v1(2, new Uint8Array()), new Uint8Array()),
  v1Result('every byte', v1(2, everyByte), everyByte),
  v1Result('64 KiB', v1(2, patterned(64 * 1024)), patterned(64 * 1024)),
  v1Result('no result', v1(6, new Uint8Array()), null),
  v1Result('a job that prints', v1(10, everyByte), everyByte),
  v1Result('white space and unknown members', text('\r\n { "x" : [1, {"y":2}], "args" : [ 1 , 2 ],\t"job_id" : 2 } '), Uint8Array.of(1, 2)),
  base64Result('typed arguments and result', base64(0, word(5)), word(25)),
  base64Result('the largest job id', base64(((1n << 256n) - 1n).toString(), everyByte), everyByte),
  base64Result('a result of 1 MiB', base64(9, word(MEGABYTE)), dynamic(patterned(MEGABYTE))),
  base64Result('3 MiB both ways', base64(2, patterned(3 * MEGABYTE)), patterned(3 * MEGABYTE)),
  base64Result(
    'metadata for an extractor',
    base64(8, new Uint8Array(), { 'x-tangle-caller': `0x${'ab'.repeat(20)}` }),
    utf8(`0x${'ab'.repeat(20)}`),
  ),
  octetsResult('typed arguments and result', octets('0', word(5)), word(25)),
  octetsResult('every byte', octets('2', everyByte), everyByte),
  { ...octetsResult('6 MiB', octets('2', patterned(6 * MEGABYTE)), patterned(6 * MEGABYTE)), needs: ['http', 'large'] },
  octetsResult(
    'the job id in a header',
    () => ({ headers: { 'content-type': 'application/octet-stream', 'x-blueprint-job-id': '2' }, body: everyByte }),
    everyByte,
  ),
  {
    name: 'v2: no result',
    needs: ['http'],
    request: octets('6', new Uint8Array()),
    expected: { status: 204, body: () => new Uint8Array() },
  },
  {
    name: 'v1: the job id in the path',
    needs: ['http'],
    request: () => ({ headers: JSON_HEADERS, jobId: '2', body: json({ args: [1, 2] }) }),
    expected: { status: 200, body: () => json({ result: [1, 2] }) },
  },
];

const failures: readonly HandlerCase[] = [
  failure('no route', base64(77, new Uint8Array()), { code: 'JOB_UNKNOWN', status: 404 }),
  failure('a negative id', text('{"job_id":-1,"args":[]}'), { code: 'JOB_ID_INVALID', status: 400 }),
  failure('too few bytes', base64(0, new Uint8Array(31)), { code: 'JOB_ARGS_INVALID', status: 400 }),
  failure('the job throws', base64(3, new Uint8Array()), { code: 'JOB_FAILED', status: 500 }),
  failure('the job throws, v1', v1(3, new Uint8Array()), { code: 'JOB_FAILED', status: 500 }),
  failure('the job rejects with an error of its own', base64(4, new Uint8Array()), { code: 'JOB_REJECTED', status: 422 }),
  failure('metadata that an extractor needs is missing', base64(8, new Uint8Array()), { code: 'JOB_REJECTED', status: 422 }),
  failure('the result does not fit its type', base64(7, new Uint8Array()), { code: 'JOB_RESULT_INVALID', status: 500 }),
  failure('the job never ends', base64(5, new Uint8Array(), { 'x-blueprint-timeout-ms': '40' }), { code: 'EXECUTOR_TIMEOUT', status: 504 }),
  failure('the deadline is over', base64(2, new Uint8Array(), { 'x-blueprint-timeout-ms': '0' }), {
    code: 'EXECUTOR_TIMEOUT',
    status: 504,
  }),
  failure('the timeout is no number', base64(2, new Uint8Array(), { 'x-blueprint-timeout-ms': 'soon' }), {
    code: 'WIRE_MALFORMED',
    status: 400,
  }),
  failure('no job id', text('{"args":[]}'), { code: 'WIRE_MALFORMED', status: 400 }),
  failure('no arguments', text('{"job_id":0}'), { code: 'WIRE_MALFORMED', status: 400 }),
  failure('a byte of 256', text('{"job_id":2,"args":[256]}'), { code: 'WIRE_MALFORMED', status: 400 }),
  failure('not base64', text('{"job_id":2,"args_base64":"a"}'), { code: 'WIRE_MALFORMED', status: 400 }),
  failure('an array', text('[1,2]'), { code: 'WIRE_MALFORMED', status: 400 }),
  failure('null', text('null'), { code: 'WIRE_MALFORMED', status: 400 }),
  failure('no JSON', text('job 2, please'), { code: 'WIRE_MALFORMED', status: 400, needs: ['text'] }),
  failure('JSON that breaks off', text('{"job_id":2,"args":[1,'), { code: 'WIRE_MALFORMED', status: 400, needs: ['text'] }),
  failure('a request beyond the limit', base64(2, patterned(5 * MEGABYTE)), { code: 'PAYLOAD_TOO_LARGE', status: 413 }),
  failure('octets beyond the limit', octets('2', patterned(7 * MEGABYTE)), { code: 'PAYLOAD_TOO_LARGE', status: 413, needs: ['http'] }),
  failure('the path names no id', octets('two', everyByte), { code: 'JOB_ID_INVALID', status: 400, needs: ['http'] }),
  failure('path and body disagree', () => ({ headers: JSON_HEADERS, jobId: '1', body: json({ job_id: 2, args: [] }) }), {
    code: 'WIRE_MALFORMED',
    status: 400,
    needs: ['http'],
  }),
  failure('another content type', octets('2', everyByte, { 'content-type': 'text/html' }), {
    code: 'WIRE_MALFORMED',
    status: 400,
    needs: ['http'],
  }),
  failure('the timeout in a header', octets('5', everyByte, { 'x-blueprint-timeout-ms': '40' }), {
    code: 'EXECUTOR_TIMEOUT',
    status: 504,
    needs: ['http'],
  }),
];

export const handlerCases: readonly HandlerCase[] = [...results, ...failures];

/** Whether the platform can deliver what the case needs. */
export function canRunHandlerCase({ needs }: HandlerCase, { offers }: HandlerPlatform): boolean {
  return needs.every((need) => offers.includes(need));
}

/** Runs one case. Rejects with an `AssertionError` that shows the difference; resolves with the answer. */
export async function checkHandlerCase({ request, expected }: HandlerCase, platform: HandlerPlatform): Promise<HandlerCaseAnswer> {
  const answer = await platform.send(request());
  if (answer.status !== undefined) strictEqual(answer.status, expected.status);
  if ('body' in expected) {
    const wanted = Buffer.from(expected.body());
    // Only the beginnings are worth to be shown.
    const isEqual = wanted.equals(answer.body);
    strictEqual(isEqual || Buffer.from(answer.body).toString('utf8', 0, 500), true);
    return answer;
  }
  const body: unknown = JSON.parse(Buffer.from(answer.body).toString('utf8'));
  const { error, code, details } = body as Readonly<Record<string, unknown>>;
  deepStrictEqual(
    { code, error: typeof error, details: typeof details, members: Object.keys(body as object) },
    { code: expected.code, error: 'string', details: 'object', members: ['error', 'code', 'details'] },
  );
  return answer;
}
