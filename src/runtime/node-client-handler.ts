/** The part of the runtime client (`node-client.ts`) that loads a handler and has it answer events. */

import fs from 'node:fs';
import nodeModule from 'node:module';
import paths from 'node:path';
import streams from 'node:stream';
import type { Writable } from 'node:stream';
import { BASE, ERROR_TYPE, JSON_HEADERS, WITH_NEXT, faultOf, postFault, runtimeError } from './node-client-lane.ts';
import type { Answer, Lane } from './node-client-lane.ts';

const STREAMED: unique symbol = Symbol.for('blueprint-runner.streamed');
const ERROR_BODY = 'Lambda-Runtime-Function-Error-Body';
const HTTP_STREAM_TYPE = 'application/vnd.awslambda.http-integration-response';

export type Handler = ((...parameters: unknown[]) => unknown) & { [STREAMED]?: true };

/** By what the handler of a streamed response writes to. */
const responses = new WeakMap<object, Response>();

export async function loadHandler(folder: string, name: string): Promise<Handler> {
  const base = paths.basename(name);
  const dot = base.indexOf('.');
  if (name.includes('..') || dot <= 0)
    throw runtimeError('MalformedHandlerName', `the handler ${JSON.stringify(name)} is not of the form file.export`);
  const file = paths.resolve(folder, paths.dirname(name), base.slice(0, dot));
  let found: unknown = await loadModule(file, { name, root: folder });
  for (const key of base.slice(dot + 1).split('.'))
    found = typeof found === 'object' && found !== null ? Reflect.get(found, key) : undefined;
  if (found === undefined) throw runtimeError('HandlerNotFound', `${name} is undefined or not exported`);
  if (typeof found !== 'function') throw runtimeError('HandlerNotFound', `${name} is not a function`);
  return found as Handler;
}

async function loadModule(file: string, { name, root }: { name: string; root: string }): Promise<unknown> {
  const found = ['', '.js', '.mjs', '.cjs'].map((end) => file + end).find((path) => fs.statSync(path, { throwIfNoEntry: false })?.isFile());
  const require = nodeModule.createRequire(`${file}.js`);
  try {
    if (found?.endsWith('.mjs') || (found?.endsWith('.js') && isModuleFolder(paths.dirname(found), root))) {
      const exports = (await import(`file://${encodeURI(found).replace(/[?#]/g, encodeURIComponent)}`)) as Record<string, unknown>;
      return 'default' in exports && Object.keys(exports).length === 1
        ? { ...(exports['default'] as object), default: exports['default'] }
        : exports;
    }
    return require(found ?? file) as unknown;
  } catch (error) {
    if (error instanceof SyntaxError) throw runtimeError('UserCodeSyntaxError', String(error), error);
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'MODULE_NOT_FOUND' || code === 'ERR_MODULE_NOT_FOUND')
      throw runtimeError('ImportModuleError', `cannot load the module of ${name}: ${String(error)}`, error);
    throw error;
  }
}

/** Whether the nearest package.json of the package makes `.js` files modules. */
function isModuleFolder(folder: string, root: string): boolean {
  for (let at = folder; ; at = paths.dirname(at)) {
    const file = paths.join(at, 'package.json');
    if (fs.existsSync(file)) {
      const manifest: unknown = JSON.parse(fs.readFileSync(file, 'utf8'));
      return typeof manifest === 'object' && manifest !== null && 'type' in manifest && manifest.type === 'module';
    }
    if (at === root || at === paths.dirname(at)) return false;
  }
}

function parsed(text: string | undefined): unknown {
  return text === undefined ? undefined : (JSON.parse(text) as unknown);
}

function contextOf({ headers }: Answer): object {
  const deadlineMs = Number(headers['lambda-runtime-deadline-ms']);
  const { env } = process;
  const clientContext = headers['lambda-runtime-client-context'];
  return {
    awsRequestId: headers['lambda-runtime-aws-request-id'],
    invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
    functionName: env['AWS_LAMBDA_FUNCTION_NAME'],
    functionVersion: env['AWS_LAMBDA_FUNCTION_VERSION'],
    memoryLimitInMB: env['AWS_LAMBDA_FUNCTION_MEMORY_SIZE'],
    logGroupName: env['AWS_LAMBDA_LOG_GROUP_NAME'],
    logStreamName: env['AWS_LAMBDA_LOG_STREAM_NAME'],
    clientContext: parsed(clientContext?.startsWith('{') === false ? Buffer.from(clientContext, 'base64').toString() : clientContext),
    identity: parsed(headers['lambda-runtime-cognito-identity']),
    callbackWaitsForEmptyEventLoop: true,
    getRemainingTimeInMillis: () => Math.max(0, deadlineMs - Date.now()),
  };
}

/** Calls a buffered handler: one with three parameters may answer by callback, every other by what it returns. */
function callHandler(handler: Handler, event: unknown, context: object): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const callback = (error: unknown, result: unknown): void => {
      if (error === undefined || error === null) resolve(result);
      // oxlint-disable-next-line typescript/prefer-promise-reject-errors -- a handler fails with whatever it likes
      else reject(error);
    };
    const returned = handler(event, context, callback);
    const isPromise = typeof returned === 'object' && returned !== null && 'then' in returned;
    if (isPromise || handler.length < 3) resolve(returned);
  });
}

function serialised(result: unknown): string {
  try {
    return JSON.stringify(result === undefined ? null : result) ?? 'null';
  } catch (error) {
    throw runtimeError('JSONStringifyError', `the result cannot be written as JSON: ${String(error)}`, error);
  }
}

interface Work {
  readonly event: Answer;
  /** The handler is done. Whether another event is wanted. */
  readonly over: () => boolean;
}

async function answerBuffered(lane: Lane, handler: Handler, { event, over }: Work): Promise<Answer | undefined> {
  const path = `/invocation/${event.headers['lambda-runtime-aws-request-id']}`;
  let body: string;
  try {
    body = serialised(await callHandler(handler, JSON.parse(event.body.toString()), contextOf(event)));
  } catch (error) {
    await postFault(lane, `${path}/error`, error);
    over();
    return undefined;
  }
  const headers = over() ? JSON_HEADERS + WITH_NEXT : JSON_HEADERS;
  const reply = await lane.request('POST', `${path}/response`, { headers, body });
  if (reply.status === 200) return reply;
  if (reply.status !== 413) return undefined;
  const tooLarge = new Error(`the response of ${Buffer.byteLength(body)} bytes is larger than the platform takes`);
  tooLarge.name = 'Function.ResponseSizeTooLarge';
  await postFault(lane, `${path}/error`, tooLarge);
  return undefined;
}

/** What a streaming handler writes to: one chunk of HTTP for each write. The request starts with the first of them. */
class Response {
  readonly stream: Writable;
  readonly finished: Promise<void>;
  answered: Promise<Answer> | undefined;
  contentType = 'application/octet-stream';
  readonly #lane: Lane;
  readonly #path: string;

  constructor(lane: Lane, path: string) {
    this.#lane = lane;
    this.#path = path;
    this.stream = new streams.Writable({
      write: (chunk: Buffer, _encoding, done) => {
        this.#start();
        lane.write([`${chunk.length.toString(16)}\r\n`, chunk, '\r\n'], done);
      },
      final: (done) => {
        this.#start();
        lane.write(['0\r\n\r\n'], done);
      },
    });
    Object.assign(this.stream, { setContentType: (type: string) => void (this.contentType = type) });
    this.finished = new Promise((resolve, reject) => {
      this.stream.once('finish', resolve);
      this.stream.once('error', reject);
    });
    this.finished.catch(() => {});
  }

  /** Ends the request with the error as trailers. */
  breakOff(thrown: unknown): void {
    const fault = faultOf(thrown);
    const body = Buffer.from(JSON.stringify(fault)).toString('base64');
    const type = encodeURI(fault.errorType);
    this.#lane.write([`0\r\n${ERROR_TYPE}: ${type}\r\n${ERROR_BODY}: ${body}\r\n\r\n`]);
  }

  #start(): void {
    this.answered ??= this.#lane.open([
      `POST ${BASE}${this.#path}/response HTTP/1.1\r\nHost: runtime\r\nContent-Type: ${this.contentType}\r\nTransfer-Encoding: chunked\r\n` +
        `Lambda-Runtime-Function-Response-Mode: streaming\r\nTrailer: ${ERROR_TYPE}, ${ERROR_BODY}\r\n\r\n`,
    ]);
    this.answered.catch(() => this.stream.destroy(new Error('the Runtime API closed the connection')));
  }
}

async function answerStreaming(lane: Lane, handler: Handler, { event, over }: Work): Promise<undefined> {
  const path = `/invocation/${event.headers['lambda-runtime-aws-request-id']}`;
  const response = new Response(lane, path);
  responses.set(response.stream, response);
  try {
    const returned = Promise.resolve(handler(JSON.parse(event.body.toString()), response.stream, contextOf(event)));
    await Promise.all([returned, response.finished]);
  } catch (error) {
    if (response.answered) response.breakOff(error);
    else await postFault(lane, `${path}/error`, error);
  }
  await response.answered;
  over();
}

/** What AWS puts there for handlers that stream. */
export const awslambda = {
  streamifyResponse: (handler: Handler): Handler => Object.assign(handler, { [STREAMED]: true as const }),
  HttpResponseStream: {
    /** Puts the head of an HTTP response before the body. */
    from(stream: Writable, metadata: object): Writable {
      const response = responses.get(stream);
      if (response) response.contentType = HTTP_STREAM_TYPE;
      stream.write(Buffer.concat([Buffer.from(JSON.stringify(metadata)), Buffer.alloc(8)]));
      return stream;
    },
  },
};

/**
 * Has the handler answer one event; failures of the handler are posted, failures of the Runtime API are thrown. Resolves with the next
 * event when it came along.
 */
export function answer(lane: Lane, handler: Handler, work: Work): Promise<Answer | undefined> {
  return handler[STREAMED] ? answerStreaming(lane, handler, work) : answerBuffered(lane, handler, work);
}
