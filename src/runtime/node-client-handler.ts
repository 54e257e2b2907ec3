/** The part of the runtime client (`node-client.ts`) that loads a handler and has it answer events. */

import fs from 'node:fs';
import nodeModule from 'node:module';
import paths from 'node:path';
import streams from 'node:stream';
import type { Writable } from 'node:stream';
import { runtimeError } from './node-client-lane.ts';
import type { Event, Outlet } from './node-client-lane.ts';

const STREAMED: unique symbol = Symbol.for('blueprint-runner.streamed');
const HTTP_STREAM_TYPE = 'application/vnd.awslambda.http-integration-response';

export type Handler = ((...parameters: unknown[]) => unknown) & { [STREAMED]?: true };

/** By what the handler of a streamed response writes to. */
const responses = new WeakMap<object, Response>();

export async function loadHandler(folder: string, name: string): Promise<Handler> {
  standing = standingContext();
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

/** What of the context is the same for all events: to ask the environment each time takes longer than all the rest. */
let standing: object = {};

function standingContext(): object {
  const { env } = process;
  return {
    functionName: env['AWS_LAMBDA_FUNCTION_NAME'],
    functionVersion: env['AWS_LAMBDA_FUNCTION_VERSION'],
    memoryLimitInMB: env['AWS_LAMBDA_FUNCTION_MEMORY_SIZE'],
    logGroupName: env['AWS_LAMBDA_LOG_GROUP_NAME'],
    logStreamName: env['AWS_LAMBDA_LOG_STREAM_NAME'],
  };
}

function contextOf({ id, deadlineMs, functionArn, clientContext, identity }: Event): object {
  return {
    awsRequestId: id,
    invokedFunctionArn: functionArn,
    ...standing,
    clientContext: parsed(clientContext?.startsWith('{') === false ? Buffer.from(clientContext, 'base64').toString() : clientContext),
    identity: parsed(identity),
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

/** One event on its way through the handler. */
export interface Work {
  readonly event: Event;
  readonly outlet: Outlet;
  /** The handler is done. */
  readonly over: () => void;
}

async function answerBuffered(handler: Handler, { event, outlet, over }: Work): Promise<void> {
  let body: string;
  try {
    body = serialised(await callHandler(handler, JSON.parse(event.body.toString()), contextOf(event)));
  } catch (error) {
    await outlet.fail(error);
    over();
    return;
  }
  over();
  await outlet.respond(body);
}

/** What a streaming handler writes to: each write is a chunk. The answer begins with the first of them. */
class Response {
  readonly stream: Writable;
  readonly finished: Promise<void>;
  contentType = 'application/octet-stream';
  isBegun = false;
  readonly #outlet: Outlet;

  constructor(outlet: Outlet) {
    this.#outlet = outlet;
    this.stream = new streams.Writable({
      write: (chunk: Buffer, _encoding, done) => {
        this.#begin();
        outlet.write(chunk, done);
      },
      final: (done) => {
        this.#begin();
        outlet.end(done);
      },
    });
    Object.assign(this.stream, { setContentType: (type: string) => void (this.contentType = type) });
    this.finished = new Promise((resolve, reject) => {
      this.stream.once('finish', resolve);
      this.stream.once('error', reject);
    });
    this.finished.catch(() => {});
  }

  #begin(): void {
    if (this.isBegun) return;
    this.isBegun = true;
    this.#outlet.begin(this.contentType);
    this.#outlet.taken.catch(() => this.stream.destroy(new Error('the Runtime API closed the connection')));
  }
}

async function answerStreaming(handler: Handler, { event, outlet, over }: Work): Promise<void> {
  const response = new Response(outlet);
  responses.set(response.stream, response);
  try {
    const returned = Promise.resolve(handler(JSON.parse(event.body.toString()), response.stream, contextOf(event)));
    await Promise.all([returned, response.finished]);
  } catch (error) {
    if (response.isBegun) outlet.breakOff(error);
    else await outlet.fail(error);
  }
  await outlet.taken;
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

/** Has the handler answer one event; failures of the handler are told, failures of the Runtime API are thrown. */
export function answer(handler: Handler, work: Work): Promise<void> {
  return handler[STREAMED] ? answerStreaming(handler, work) : answerBuffered(handler, work);
}
