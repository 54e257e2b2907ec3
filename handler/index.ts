/**
 * The deployed side of a blueprint: bytes of a request in, bytes of a response out, on every platform the same.
 *
 * All that is decided about a call is decided here; an adapter only moves bytes. Whatever goes wrong is a response.
 */

import type { Readable } from 'node:stream';
import { RunnerError, toRunnerError } from '../src/errors.ts';
import { TIMEOUT_MS } from '../src/job/call.ts';
import type { JobCall, JobResult } from '../src/job/call.ts';
import type { JobRouter, ObserverErrorListener } from '../src/job/router.ts';
import { JSON_TYPE, decodeRequest, encodeError, encodeResponse } from '../src/job/wire.ts';
import type { Headers, WireResponse } from '../src/job/wire.ts';
import { callScope } from './calls.ts';

/** The bytes of a request; `too-large` when an adapter stopped to read them. */
export type HandlerBody = Uint8Array | 'too-large';

export interface HandlerRequest {
  readonly headers: Headers;
  readonly body: HandlerBody;
  /** The job id of the path, when it names one. */
  readonly jobId?: string;
  /** The platform gives up: the caller went away, or the process stops. */
  readonly signal?: AbortSignal;
  /** When the platform ends the call; milliseconds since the epoch. */
  readonly deadline?: number;
}

/** The status is that of HTTP; what a platform does not carry of it, the body says too. */
export type HandlerResponse = WireResponse;

export interface HandlerOptions {
  /** The largest request. Default: 6 MiB, which is what Lambda takes, and 64 KiB. */
  readonly requestBytesMax?: number;
  /** What callers over HTTP must present as `Authorization: Bearer`. Default: nothing. */
  readonly token?: string;
  /** Told of every call that failed. */
  readonly onError?: (error: RunnerError, call: JobCall | undefined) => void;
  /** Told of jobs that watch every call and failed while another job answered. Default: the router decides. */
  readonly onObserverError?: ObserverErrorListener;
}

/** The head of a request over HTTP. */
export interface RequestHead {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly headers: Headers;
}

/** A running adapter. */
export interface RunningAdapter {
  /** Where calls come from, for people and for the process that started this one. */
  readonly address: string;
  /** Settles when the adapter ends by itself: its input ended, or its platform is gone. */
  readonly done?: Promise<unknown>;
  /**
   * Takes no new calls and waits for those that run; ends them when `signal` fires. Resolves with how many it had to end.
   */
  close(signal: AbortSignal): Promise<number>;
  /** The process is about to end because of this error: tells those who wait, where the platform has a way to. */
  crash?(error: RunnerError): Promise<void>;
}

export interface JobHandler {
  readonly requestBytesMax: number;
  /**
   * Runs the call in the request. Never rejects: a failure is a response with the status of its code and the body
   * `{ error, code, details }`.
   */
  handle(request: HandlerRequest): Promise<HandlerResponse>;
  /**
   * Decides by the head of a request over HTTP, before its body is read: the response of a health check or a refusal, else the
   * job id that the path names, if any. `POST /job/{id}`, `POST /` and `POST /invoke` are calls; `GET /health`, `GET /healthz`
   * and every `HEAD` are health checks.
   */
  admit(head: RequestHead): HandlerResponse | { readonly jobId?: string };
  /** The response that says this error. */
  refuse(error: RunnerError): HandlerResponse;
}

/** The largest request by default, in bytes: what Lambda takes, and some slack for the envelope. */
export const REQUEST_BYTES_MAX = 6 * 1024 * 1024 + 64 * 1024;

/** Reads a body up to the limit; `broken` when the stream ends before its time. */
export function readBody(stream: Readable, bytesMax: number): Promise<HandlerBody | 'broken'> {
  return new Promise((resolve) => {
    let chunks: Buffer[] = [];
    let bytes = 0;
    stream.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes <= bytesMax) {
        chunks.push(chunk);
      } else {
        chunks = [];
        resolve('too-large');
      }
    });
    if (stream.readableEnded) resolve(new Uint8Array());
    stream.once('end', () => resolve(chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks)));
    stream.once('error', () => resolve('broken'));
    // After the end, the promise is settled already.
    stream.once('close', () => resolve('broken'));
  });
}

/** The handler of a router. Throws nothing; what is wrong with a call is in its response. */
export function createHandler(router: JobRouter, options: HandlerOptions = {}): JobHandler {
  const { requestBytesMax = REQUEST_BYTES_MAX, token, onError, onObserverError } = options;

  const refuse = (error: RunnerError): HandlerResponse => {
    const response = answer(encodeError(error));
    // Nothing of the call has run: whoever called may come again.
    return error.retry === 'safe' ? { ...response, headers: { ...response.headers, 'retry-after': '1' } } : response;
  };

  const run = async (call: JobCall, { signal, deadline = Infinity }: HandlerRequest): Promise<readonly JobResult[]> => {
    const { id, jobId } = call;
    const endAt = Math.min(deadline, Date.now() + timeoutOf(call));
    const scope = callScope(signal, endAt, `the deadline of call ${id} passed before job ${jobId} was done`);
    try {
      scope.signal.throwIfAborted();
      const results = await Promise.race([router.call(call, { signal: scope.signal, onObserverError }), scope.aborted]);
      if (results) return results;
    } finally {
      scope.end();
    }
    const known = router.jobIds().join(', ');
    throw new RunnerError('JOB_UNKNOWN', `no route takes job ${jobId}; the handler has ${known}`, { details: { jobId, known } });
  };

  return {
    requestBytesMax,
    refuse,

    admit({ method, path, headers }) {
      if (method === 'HEAD' || (method === 'GET' && (path === '/health' || path === '/healthz'))) {
        const jobs = router.jobIds().map(String);
        return answer(jsonResponse({ status: 'ok', jobs }));
      }
      const jobId = path.startsWith('/job/') ? path.slice('/job/'.length) : undefined;
      if (method !== 'POST' || (jobId === undefined && path !== '/' && path !== '/invoke')) {
        return refuse(new RunnerError('NOT_FOUND', `there is no ${method} ${path} here; a call is POST /job/{id}`));
      }
      if (token !== undefined && !isEqual(headers.authorization, `Bearer ${token}`))
        return refuse(new RunnerError('EXECUTOR_UNAUTHORIZED', 'the bearer token is missing or wrong'));
      return jobId === undefined ? {} : { jobId };
    },

    async handle(request) {
      let call: JobCall | undefined;
      try {
        if (request.body === 'too-large' || request.body.length > requestBytesMax) {
          throw new RunnerError('PAYLOAD_TOO_LARGE', `the request is larger than ${requestBytesMax} bytes`, {
            details: { requestBytesMax },
          });
        }
        const { jobId } = request;
        const decoded = decodeRequest(request.headers, request.body, jobId === undefined ? undefined : { jobId });
        call = decoded.call;
        return answer(encodeResponse(decoded.format, await run(call, request)));
      } catch (thrown) {
        const error = toRunnerError(thrown);
        onError?.(error, call);
        return refuse(error);
      }
    },
  };
}

export const jsonResponse = (value: unknown): HandlerResponse => ({
  status: 200,
  headers: { 'content-type': JSON_TYPE },
  body: Buffer.from(JSON.stringify(value)),
});

/** Takes the same time for every wrong text. */
function isEqual(given: Headers[string], expected: string): boolean {
  const { createHash, timingSafeEqual } = process.getBuiltinModule('node:crypto');
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(typeof given === 'string' ? given : ''), digest(expected));
}

/** Every response tells the executor that it may use the formats without JSON from now on. */
function answer(response: WireResponse): HandlerResponse {
  return { ...response, headers: { ...response.headers, 'x-blueprint-wire': 'v1,v2' } };
}

function timeoutOf({ metadata }: JobCall): number {
  const text = metadata.get(TIMEOUT_MS);
  if (text === undefined) return Infinity;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new RunnerError('WIRE_MALFORMED', `${TIMEOUT_MS} is ${JSON.stringify(text.slice(0, 32))}; it must be whole milliseconds`);
}
