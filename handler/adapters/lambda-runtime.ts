/**
 * The handler as a custom Lambda runtime: asks the Runtime API (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html) for
 * events and posts the answers.
 *
 * A failed call is an answer (see `lambda.ts`). What is posted as an error: an answer that the platform refuses because of its
 * size, an exception that nobody caught, and a start that failed.
 */

import type { Agent, ClientRequest, IncomingHttpHeaders, IncomingMessage, RequestOptions } from 'node:http';
import { RunnerError, toRunnerError } from '../../src/errors.ts';
import { RunningCalls, callScope } from '../calls.ts';
import { numberOf } from '../detect.ts';
import { readBody } from '../index.ts';
import type { HandlerResponse, JobHandler, RunningAdapter } from '../index.ts';
import { answerEvent, answerHttpEvent, httpEventOfBytes, httpEventResult } from './lambda.ts';
import type { EventLimits } from './lambda.ts';

export interface LambdaRuntimeConfig {
  readonly hostname: string;
  readonly port: number;
  /** Events that are worked on at the same time. */
  readonly concurrency: number;
  /** Streamed responses may be of 200 MB, buffered ones of 6 MB. */
  readonly responseMode: 'buffered' | 'streaming';
  /** Puts the trace id of an event where the X-Ray SDK looks for it; only with a concurrency of 1. */
  readonly setTraceId: (traceId: string | undefined) => void;
}

const BASE = '/2018-06-01/runtime';
const CONCURRENCY_MAX = 1_024;
const STREAM_CHUNK_BYTES = 64 * 1024;
/** Between the head of a streamed HTTP response and its body. */
const PRELUDE_END = Buffer.alloc(8);

/** Reads `AWS_LAMBDA_RUNTIME_API`, `AWS_LAMBDA_MAX_CONCURRENCY`, `BLUEPRINT_RESPONSE_MODE`; later sets `_X_AMZN_TRACE_ID`. */
export function lambdaRuntimeConfig(env: NodeJS.ProcessEnv): LambdaRuntimeConfig {
  const address = env.AWS_LAMBDA_RUNTIME_API ?? '';
  const [, hostname, port] = /^(?:http:\/\/)?([^:/]+)(?::(\d+))?$/.exec(address) ?? [];
  if (hostname === undefined) throw new RunnerError('CONFIG_INVALID', `AWS_LAMBDA_RUNTIME_API is ${JSON.stringify(address)}; it must be host:port`);
  const concurrency = numberOf(env, 'AWS_LAMBDA_MAX_CONCURRENCY', { fallback: 1, min: 1, max: CONCURRENCY_MAX });
  const responseMode = env.BLUEPRINT_RESPONSE_MODE ?? 'buffered';
  if (responseMode !== 'buffered' && responseMode !== 'streaming') {
    throw new RunnerError('CONFIG_INVALID', `BLUEPRINT_RESPONSE_MODE is ${responseMode}; it must be buffered or streaming`);
  }
  const setTraceId = (traceId: string | undefined): void => {
    if (concurrency > 1) return;
    if (traceId === undefined) delete env._X_AMZN_TRACE_ID;
    else env._X_AMZN_TRACE_ID = traceId;
  };
  return { hostname, port: Number(port ?? 80), concurrency, responseMode, setTraceId };
}

/** Starts to poll. `done` rejects when the Runtime API breaks its protocol or is gone: then the process is to end. */
export async function startLambdaRuntime(handler: JobHandler, config: LambdaRuntimeConfig): Promise<RunningAdapter> {
  const loop = new RuntimeLoop(handler, config, await RuntimeClient.open(config));
  const done = loop.run();
  return {
    address: `http://${config.hostname}:${config.port}`,
    done,
    close: (signal) => loop.close(signal, done),
    crash: (error) => loop.crash(error),
  };
}

/** Tells the Runtime API that the start failed; the platform then ends the environment. */
export async function postInitError(config: LambdaRuntimeConfig, error: RunnerError): Promise<void> {
  const client = await RuntimeClient.open(config);
  await client.postError('/init/error', error);
  client.close();
}

/** The platform keeps only types of this form. */
function errorType({ code }: RunnerError): string {
  if (code === 'PAYLOAD_TOO_LARGE') return 'Function.ResponseSizeTooLarge';
  return `Function.${code.toLowerCase().replace(/(?:^|_)(\w)/g, (_, letter: string) => letter.toUpperCase())}`;
}

function errorBody(error: RunnerError): string {
  return JSON.stringify({ errorType: errorType(error), errorMessage: error.message, stackTrace: error.stack?.split('\n').slice(1) ?? [], code: error.code });
}

/** The HTTP side: one keep-alive connection per event that is worked on, never a timeout, because the environment may be frozen. */
class RuntimeClient {
  readonly #request: (options: RequestOptions) => ClientRequest;
  readonly #agent: Agent;

  private constructor(request: (options: RequestOptions) => ClientRequest, agent: Agent) {
    this.#request = request;
    this.#agent = agent;
  }

  static async open({ hostname, port }: LambdaRuntimeConfig): Promise<RuntimeClient> {
    const { Agent, request } = await import('node:http');
    const agent = new Agent({ keepAlive: true, maxSockets: Infinity, maxFreeSockets: CONCURRENCY_MAX });
    return new RuntimeClient((options) => request({ ...options, hostname, port, agent }), agent);
  }

  /** Waits for the next event; `signal` gives up. */
  async next(signal: AbortSignal): Promise<IncomingMessage> {
    const request = this.#request({ method: 'GET', path: `${BASE}/invocation/next`, signal });
    request.end();
    const response = await responseOf(request);
    if (response.statusCode === 200 && response.headers['lambda-runtime-aws-request-id'] !== undefined) return response;
    response.destroy();
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the Runtime API answered ${response.statusCode} to a poll, or named no request id`);
  }

  /** Posts the whole body; resolves with the status. */
  async post(path: string, headers: Readonly<Record<string, string>>, body: Uint8Array | string): Promise<number> {
    const request = this.#request({ method: 'POST', path: BASE + path, headers: { ...headers, 'content-length': Buffer.byteLength(body) } });
    request.end(body);
    return statusOf(request);
  }

  async postError(path: string, error: RunnerError): Promise<void> {
    const status = await this.post(path, { 'content-type': 'application/json', 'Lambda-Runtime-Function-Error-Type': errorType(error) }, errorBody(error));
    if (status >= 300) throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the Runtime API answered ${status} to ${path}`, { cause: error });
  }

  /** Posts piece by piece; when the signal fires in the middle, the reason follows as trailers. Resolves with the status. */
  async stream(path: string, contentType: string, body: StreamBody): Promise<number> {
    const request = this.#request({
      method: 'POST',
      path: BASE + path,
      headers: {
        'content-type': contentType,
        'transfer-encoding': 'chunked',
        'Lambda-Runtime-Function-Response-Mode': 'streaming',
        trailer: 'Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body',
      },
    });
    const status = statusOf(request);
    const written = this.#write(request, body).catch((error: unknown) => {
      const fault = toRunnerError(error);
      const encoded = Buffer.from(errorBody(fault)).toString('base64');
      request.addTrailers({ 'Lambda-Runtime-Function-Error-Type': errorType(fault), 'Lambda-Runtime-Function-Error-Body': encoded });
      request.end();
    });
    await Promise.race([written, status]);
    return status;
  }

  async #write(request: ClientRequest, { parts, signal }: StreamBody): Promise<void> {
    for (const part of parts) {
      for (let start = 0; start < part.length; start += STREAM_CHUNK_BYTES) {
        signal.throwIfAborted();
        if (!request.write(part.subarray(start, start + STREAM_CHUNK_BYTES))) await drained(request, signal);
      }
    }
    request.end();
  }

  close(): void {
    this.#agent.destroy();
  }
}

interface StreamBody {
  readonly parts: readonly Uint8Array[];
  readonly signal: AbortSignal;
}

function responseOf(request: ClientRequest): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    request.once('response', resolve);
    request.once('error', (cause) => reject(new RunnerError('EXECUTOR_CONNECTION_LOST', `the Runtime API is gone: ${cause.message}`, { cause })));
  });
}

async function statusOf(request: ClientRequest): Promise<number> {
  const response = await responseOf(request);
  response.resume();
  return response.statusCode ?? 0;
}

function drained(request: ClientRequest, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (action: () => void) => (): void => {
      request.off('drain', onDrain);
      request.off('close', onDrain);
      signal.removeEventListener('abort', onAbort);
      action();
    };
    const onDrain = settle(resolve);
    const onAbort = settle(() => reject(signal.reason));
    request.once('drain', onDrain);
    request.once('close', onDrain);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}

class RuntimeLoop {
  readonly #handler: JobHandler;
  readonly #config: LambdaRuntimeConfig;
  readonly #client: RuntimeClient;
  readonly #stopPolling = new AbortController();
  /** By request id. */
  readonly #running = new RunningCalls();

  constructor(handler: JobHandler, config: LambdaRuntimeConfig, client: RuntimeClient) {
    this.#handler = handler;
    this.#config = config;
    this.#client = client;
  }

  async run(): Promise<void> {
    await Promise.all(Array.from({ length: this.#config.concurrency }, () => this.#pollUntilStopped()));
    this.#client.close();
  }

  async close(signal: AbortSignal, done: Promise<void>): Promise<number> {
    this.#stopPolling.abort();
    const cancelled = await this.#running.drain(signal);
    await done;
    return cancelled;
  }

  async crash(error: RunnerError): Promise<void> {
    this.#stopPolling.abort();
    await Promise.all(this.#running.names.map((id) => this.#client.postError(`/invocation/${id}/error`, error)));
  }

  async #pollUntilStopped(): Promise<void> {
    const { signal } = this.#stopPolling;
    while (!signal.aborted) {
      const message = await this.#client.next(signal).catch((error: unknown) => {
        if (signal.aborted) return undefined;
        throw error;
      });
      if (message) await this.#answer(message);
    }
  }

  async #answer(message: IncomingMessage): Promise<void> {
    const id = header(message.headers, 'lambda-runtime-aws-request-id') ?? '';
    const deadline = Number(header(message.headers, 'lambda-runtime-deadline-ms') ?? Infinity);
    this.#config.setTraceId(header(message.headers, 'lambda-runtime-trace-id'));
    const call = this.#running.begin(id);
    try {
      // An event of HTTP wraps the body in base64: the handler checks the limit of the body itself.
      const event = await readBody(message, 2 * this.#handler.requestBytesMax);
      if (event === 'broken') throw new RunnerError('EXECUTOR_CONNECTION_LOST', `the Runtime API broke off in the middle of event ${id}`);
      const limits = { signal: call.signal, deadline };
      const httpEvent = event === 'too-large' ? undefined : httpEventOfBytes(event);
      const response = await (httpEvent ? answerHttpEvent(this.#handler, httpEvent, limits) : answerEvent(this.#handler, event, limits));
      await this.#post(`/invocation/${id}`, httpEvent ? httpAnswer(response, this.#config.responseMode) : plainAnswer(response), limits);
    } finally {
      this.#running.end(call);
    }
  }

  async #post(path: string, { contentType, parts }: Answer, { signal, deadline }: Required<EventLimits>): Promise<void> {
    const status =
      this.#config.responseMode === 'streaming'
        ? await this.#stream(`${path}/response`, contentType, { parts, signal, deadline })
        : await this.#client.post(`${path}/response`, { 'content-type': contentType }, Buffer.concat(parts));
    if (status === 413) await this.#client.postError(`${path}/error`, new RunnerError('PAYLOAD_TOO_LARGE', 'the response is larger than Lambda takes'));
    else if (status >= 300) throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `the Runtime API answered ${status} to a response`);
  }

  async #stream(path: string, contentType: string, body: StreamBody & { readonly deadline: number }): Promise<number> {
    const scope = callScope(body.signal, body.deadline, 'the deadline passed while the response was sent');
    try {
      return await this.#client.stream(path, contentType, { parts: body.parts, signal: scope.signal });
    } finally {
      scope.end();
    }
  }
}

interface Answer {
  readonly contentType: string;
  readonly parts: readonly Uint8Array[];
}

const plainAnswer = ({ headers, body }: HandlerResponse): Answer => ({ contentType: headers['content-type'] ?? 'application/json', parts: [body] });

function httpAnswer(response: HandlerResponse, mode: LambdaRuntimeConfig['responseMode']): Answer {
  if (mode === 'buffered') return { contentType: 'application/json', parts: [Buffer.from(JSON.stringify(httpEventResult(response)))] };
  const prelude = JSON.stringify({ statusCode: response.status, headers: response.headers });
  return { contentType: 'application/vnd.awslambda.http-integration-response', parts: [Buffer.from(prelude), PRELUDE_END, response.body] };
}

function header(headers: IncomingHttpHeaders, name: string): string | undefined {
  const value = headers[name];
  return typeof value === 'string' ? value : undefined;
}
