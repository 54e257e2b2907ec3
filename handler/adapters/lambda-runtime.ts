/**
 * The handler as a custom Lambda runtime: asks the Runtime API (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html) for
 * events and posts the answers.
 *
 * A failed call is an answer (see `lambda.ts`). What is posted as an error: an answer that the platform refuses because of its
 * size, an exception that nobody caught, and a start that failed.
 */

import type { ClientRequest, IncomingMessage, RequestOptions } from 'node:http';
import { RunnerError, toRunnerError } from '../../src/errors.ts';
import { JSON_TYPE } from '../../src/job/wire.ts';
import { RunningCalls, callScope } from '../calls.ts';
import type { CallScope } from '../calls.ts';
import { invalid, numberOf } from '../detect.ts';
import { readBody } from '../index.ts';
import type { HandlerResponse, JobHandler, RunningAdapter } from '../index.ts';
import { nodeHttp } from '../node-http.ts';
import { answerEvent, answerHttpEvent, httpEventOfBytes, httpEventResult } from './lambda.ts';
import type { EventLimits } from './lambda.ts';

export interface LambdaRuntimeConfig {
  /** Where the Runtime API is; a local one may be a socket. */
  readonly api: { readonly hostname: string; readonly port: number } | { readonly socketPath: string };
  /** Events that are worked on at the same time. */
  readonly concurrency: number;
  /** Streamed responses may be of 200 MB, buffered ones of 6 MB. */
  readonly responseMode: 'buffered' | 'streaming';
  /** Puts the trace id of an event where the X-Ray SDK looks for it; only with a concurrency of 1. */
  readonly setTraceId: (traceId: string | undefined) => void;
}

const CONCURRENCY_MAX = 1_024;
const STREAM_CHUNK_BYTES = 64 * 1024;
/** Between the head of a streamed HTTP response and its body. */
const PRELUDE_END = Buffer.alloc(8);
const ERROR_TYPE = 'Lambda-Runtime-Function-Error-Type';
const ERROR_BODY = 'Lambda-Runtime-Function-Error-Body';

/** Reads `AWS_LAMBDA_RUNTIME_API`, `AWS_LAMBDA_MAX_CONCURRENCY`, `BLUEPRINT_RESPONSE_MODE`; later sets `_X_AMZN_TRACE_ID`. */
export function lambdaRuntimeConfig(env: NodeJS.ProcessEnv): LambdaRuntimeConfig {
  const address = env.AWS_LAMBDA_RUNTIME_API ?? '';
  const [, socketPath, hostname, port] = /^(?:unix:(\/.*)|(?:http:\/\/)?([^:/]+)(?::(\d+))?)$/.exec(address) ?? [];
  if (socketPath === undefined && hostname === undefined)
    throw invalid(`AWS_LAMBDA_RUNTIME_API is ${JSON.stringify(address)}; it must be host:port or unix:/path`);
  const concurrency = numberOf(env, 'AWS_LAMBDA_MAX_CONCURRENCY', { fallback: 1, min: 1, max: CONCURRENCY_MAX });
  const responseMode = env.BLUEPRINT_RESPONSE_MODE ?? 'buffered';
  if (responseMode !== 'buffered' && responseMode !== 'streaming') {
    throw invalid(`BLUEPRINT_RESPONSE_MODE is ${responseMode}; it must be buffered or streaming`);
  }
  const setTraceId = (traceId: string | undefined): void => {
    if (concurrency > 1) return;
    if (traceId === undefined) delete env._X_AMZN_TRACE_ID;
    else env._X_AMZN_TRACE_ID = traceId;
  };
  const api = socketPath === undefined ? { hostname: hostname ?? '', port: Number(port ?? 80) } : { socketPath };
  return { api, concurrency, responseMode, setTraceId };
}

/** Starts to poll. `done` rejects when the Runtime API breaks its protocol or is gone: then the process is to end. */
export async function startLambdaRuntime(handler: JobHandler, config: LambdaRuntimeConfig): Promise<RunningAdapter> {
  const api = runtimeApi(config);
  const stopPolling = new AbortController();
  /** By request id. */
  const running = new RunningCalls();

  const answer = async (event: IncomingMessage): Promise<void> => {
    const {
      'lambda-runtime-aws-request-id': id,
      'lambda-runtime-deadline-ms': deadlineMs,
      'lambda-runtime-trace-id': traceId,
    } = event.headers;
    if (event.statusCode !== 200 || typeof id !== 'string') {
      throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the Runtime API answered ${event.statusCode} to a poll, or named no request id`);
    }
    config.setTraceId(traceId?.toString());
    const call = running.begin(id);
    try {
      // An event of HTTP wraps the body in base64: the handler checks the limit of the body itself.
      const body = await readBody(event, 2 * handler.requestBytesMax);
      if (body === 'broken') throw new RunnerError('EXECUTOR_CONNECTION_LOST', `the Runtime API broke off in the middle of event ${id}`);
      const limits = { signal: call.signal, deadline: Number(deadlineMs ?? Infinity) };
      const httpEvent = body === 'too-large' ? undefined : httpEventOfBytes(body);
      const response = await (httpEvent ? answerHttpEvent(handler, httpEvent, limits) : answerEvent(handler, body, limits));
      const { responseMode } = config;
      const contentType = response.headers['content-type'] ?? JSON_TYPE;
      const shown = httpEvent ? httpAnswer(response, responseMode) : { contentType, parts: [response.body] };
      await send(api, { path: `invocation/${id}`, isBuffered: responseMode === 'buffered', ...shown, ...limits });
    } finally {
      running.end(call);
    }
  };

  const pollUntilStopped = async (): Promise<void> => {
    const { signal } = stopPolling;
    while (!signal.aborted) {
      const poll = api('GET', 'invocation/next', { signal });
      poll.request.end();
      const event = await poll.response.catch((error: unknown) => {
        if (!signal.aborted) throw error;
      });
      if (event) await answer(event);
    }
  };

  const done = Promise.all(Array.from({ length: config.concurrency }, pollUntilStopped));
  return {
    address: 'socketPath' in config.api ? `unix:${config.api.socketPath}` : `http://${config.api.hostname}:${config.api.port}`,
    done,
    async close(signal) {
      stopPolling.abort();
      const cancelled = await running.drain(signal);
      await done;
      return cancelled;
    },
    async crash(error) {
      stopPolling.abort();
      await Promise.all(running.names.map((id) => postError(api, `invocation/${id}/error`, error)));
    },
  };
}

/** Tells the Runtime API that the start failed; the platform then ends the environment. */
export async function postInitError(config: LambdaRuntimeConfig, error: RunnerError): Promise<void> {
  await postError(runtimeApi(config), 'init/error', error);
}

interface Exchange {
  readonly request: ClientRequest;
  readonly response: Promise<IncomingMessage>;
}

/** Opens a request to a path below `runtime/`. */
type RuntimeApi = (method: 'GET' | 'POST', path: string, options: Pick<RequestOptions, 'headers' | 'signal'>) => Exchange;

/** One keep-alive connection per event that is worked on, and never a timeout, because the environment may be frozen. */
function runtimeApi({ api }: LambdaRuntimeConfig): RuntimeApi {
  const http = nodeHttp();
  const agent = new http.Agent({ keepAlive: true, maxFreeSockets: CONCURRENCY_MAX });
  return (method, path, options) => {
    const request = http.request({ ...options, method, path: `/2018-06-01/runtime/${path}`, ...api, agent });
    const response = new Promise<IncomingMessage>((resolve, reject) => {
      request.once('response', resolve);
      request.once('error', (cause) =>
        reject(new RunnerError('EXECUTOR_CONNECTION_LOST', `the Runtime API is gone: ${cause.message}`, { cause })),
      );
    });
    return { request, response };
  };
}

/** Sends the whole body; resolves with the status. */
async function post({ request, response }: Exchange, body: Uint8Array | string): Promise<number> {
  request.end(body);
  return statusOf(await response);
}

function statusOf(response: IncomingMessage): number {
  response.resume();
  return response.statusCode ?? 0;
}

async function postError(api: RuntimeApi, path: string, error: RunnerError): Promise<void> {
  const status = await post(
    api('POST', path, { headers: { 'content-type': JSON_TYPE, [ERROR_TYPE]: errorType(error) } }),
    errorBody(error),
  );
  expectAccepted(status, path);
}

function expectAccepted(status: number, path: string): void {
  if (status >= 300) throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the Runtime API answered ${status} to ${path}`);
}

/** The platform keeps only types of this form. */
function errorType({ code }: RunnerError): string {
  if (code === 'PAYLOAD_TOO_LARGE') return 'Function.ResponseSizeTooLarge';
  return `Function.${code.toLowerCase().replace(/(?:^|_)(\w)/g, (_, letter: string) => letter.toUpperCase())}`;
}

function errorBody(error: RunnerError): string {
  return JSON.stringify({
    errorType: errorType(error),
    errorMessage: error.message,
    stackTrace: error.stack?.split('\n').slice(1) ?? [],
    code: error.code,
  });
}

interface Sending extends Answer, Required<EventLimits> {
  readonly path: string;
  readonly isBuffered: boolean;
}

async function send(api: RuntimeApi, { path, isBuffered, contentType, parts, signal, deadline }: Sending): Promise<void> {
  const headers = { 'content-type': contentType };
  let status: number;
  if (isBuffered) {
    status = await post(api('POST', `${path}/response`, { headers }), Buffer.concat(parts));
  } else {
    const scope = callScope(signal, deadline, 'the deadline passed while the response was sent');
    const streaming = {
      ...headers,
      'transfer-encoding': 'chunked',
      'Lambda-Runtime-Function-Response-Mode': 'streaming',
      trailer: `${ERROR_TYPE}, ${ERROR_BODY}`,
    };
    status = await stream(api('POST', `${path}/response`, { headers: streaming }), parts, scope);
    scope.end();
  }
  if (status === 413)
    await postError(api, `${path}/error`, new RunnerError('PAYLOAD_TOO_LARGE', 'the response is larger than Lambda takes'));
  else expectAccepted(status, path);
}

/** Sends piece by piece; when the scope ends in the middle, the reason follows as trailers. Resolves with the status. */
async function stream({ request, response }: Exchange, parts: readonly Uint8Array[], scope: CallScope): Promise<number> {
  const answered = response.then(statusOf);
  // An early answer means that nobody reads the rest.
  const isOver = Promise.race([scope.aborted, answered]);
  // Told by what is awaited below.
  isOver.catch(() => {});
  try {
    for (const part of parts) {
      for (let start = 0; start < part.length; start += STREAM_CHUNK_BYTES) {
        scope.signal.throwIfAborted();
        if (request.write(part.subarray(start, start + STREAM_CHUNK_BYTES))) continue;
        const status = await Promise.race([isOver, new Promise<undefined>((resolve) => void request.once('drain', resolve))]);
        if (status !== undefined) return status;
      }
    }
  } catch (thrown) {
    if (!scope.signal.aborted) throw thrown;
    const error = toRunnerError(thrown);
    request.addTrailers({ [ERROR_TYPE]: errorType(error), [ERROR_BODY]: Buffer.from(errorBody(error)).toString('base64') });
  }
  request.end();
  return answered;
}

interface Answer {
  readonly contentType: string;
  readonly parts: readonly Uint8Array[];
}

function httpAnswer(response: HandlerResponse, mode: LambdaRuntimeConfig['responseMode']): Answer {
  if (mode === 'buffered') return { contentType: JSON_TYPE, parts: [Buffer.from(JSON.stringify(httpEventResult(response)))] };
  const prelude = JSON.stringify({ statusCode: response.status, headers: response.headers });
  return { contentType: 'application/vnd.awslambda.http-integration-response', parts: [Buffer.from(prelude), PRELUDE_END, response.body] };
}
