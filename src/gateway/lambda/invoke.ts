/** Calls of functions: answered, queued, tried dry, streamed. */

import { isUtf8 } from 'node:buffer';
import { isRunnerError, RunnerError } from '../../errors.ts';
import { LIMITS } from '../../executor/limits.ts';
import type { InvocationOptions, StreamedInvocation } from '../../runtime/runtime.ts';
import type { Resolved } from '../../runtime/store.ts';
import { breaks } from '../../runtime/store-settings.ts';
import type { Reply } from '../http.ts';
import { OCTETS } from '../http.ts';
import { checkEvent } from '../invocation.ts';
import type { AsyncQueue } from './async-queue.ts';
import { invokeComplete, payloadChunk } from './event-stream.ts';
import { functionArn } from './names.ts';
import { answer } from './operation.ts';
import type { Handlers, LambdaParts, OperationRequest } from './operation.ts';
import { functionFailure, logResult, tooLarge } from './outcome.ts';
import type { FunctionFailure } from './outcome.ts';

const CLIENT_CONTEXT_CHARS_MAX = 3_583;
const TYPES = ['RequestResponse', 'Event', 'DryRun'] as const;
const LOG_TYPES = ['None', 'Tail'] as const;
const EVENT_STREAM = 'application/vnd.amazon.eventstream';
/** The least of an event when the caller sends none, as the service passes it on. */
const EMPTY_EVENT = Buffer.from('{}');

/** How a call was asked for, checked. */
interface Call {
  readonly resolved: Resolved;
  readonly event: Uint8Array;
  readonly withLog: boolean;
  readonly options: InvocationOptions;
}

export class Invocations {
  readonly #parts: LambdaParts;
  readonly #queue: AsyncQueue;

  constructor(parts: LambdaParts, queue: AsyncQueue) {
    this.#parts = parts;
    this.#queue = queue;
  }

  handlers() {
    return {
      Invoke: (request) => this.#invoke(request),
      InvokeAsync: async (request) => {
        await this.#enqueue(request);
        return answer(202, { Status: 202 });
      },
      InvokeWithResponseStream: (request) => this.#stream(request),
    } satisfies Partial<Handlers>;
  }

  #invoke(request: OperationRequest): Promise<Reply> | Reply {
    const type = oneOf('invocationType', request.headers['x-amz-invocation-type'] ?? 'RequestResponse', TYPES);
    switch (type) {
      case 'DryRun':
        return { status: 204, headers: { 'x-amz-executed-version': this.#resolve(request).executedVersion } };
      case 'Event':
        return this.#enqueue(request).then(() => ({ status: 202, headers: { 'content-type': 'application/json' } }));
      case 'RequestResponse':
        return this.#answer(request);
    }
  }

  async #answer(request: OperationRequest): Promise<Reply> {
    const { resolved, event, options, withLog } = this.#call(request);
    const { record, executedVersion } = resolved;
    const headers: Record<string, string> = { 'content-type': 'application/json', 'x-amz-executed-version': executedVersion };
    try {
      const { body, contentType, report, logTail } = await this.#parts.runtimeOf(record).invoke(resolved.fn, event, options);
      if (withLog)
        headers['x-amz-log-result'] = logResult({ requestId: request.id, record, output: Buffer.from(logTail).toString('utf8'), report });
      const { responseBytesMax } = LIMITS[record.profile];
      if (body.length > responseBytesMax) return failed(tooLarge(responseBytesMax), headers);
      if (contentType !== '' && contentType !== OCTETS) headers['content-type'] = contentType;
      return { status: 200, headers, body };
    } catch (thrown) {
      const failure = isRunnerError(thrown) ? functionFailure(thrown, request.id, record) : undefined;
      if (!failure) throw thrown;
      return failed(failure, { ...headers, ...(withLog && { 'x-amz-log-result': this.#logOf(request.id, resolved) }) });
    }
  }

  async #stream(request: OperationRequest): Promise<Reply> {
    const type = oneOf('invocationType', request.headers['x-amz-invocation-type'] ?? 'RequestResponse', ['RequestResponse', 'DryRun']);
    if (type === 'DryRun') return { status: 204, headers: { 'x-amz-executed-version': this.#resolve(request).executedVersion } };
    const call = this.#call(request);
    const headers = { 'content-type': EVENT_STREAM, 'x-amz-executed-version': call.resolved.executedVersion };
    try {
      const streamed = await this.#parts.runtimeOf(call.resolved.record).stream(call.resolved.fn, call.event, call.options);
      return { status: 200, headers, body: this.#frames(request.id, call, streamed) };
    } catch (thrown) {
      const failure = isRunnerError(thrown) ? functionFailure(thrown, request.id, call.resolved.record) : undefined;
      if (!failure) throw thrown;
      return { status: 200, headers, body: this.#lastFrame(request.id, call, failure) };
    }
  }

  async *#frames(requestId: string, call: Call, streamed: StreamedInvocation): AsyncGenerator<Uint8Array> {
    const { record } = call.resolved;
    const { streamBytesMax } = LIMITS[record.profile];
    let left = streamBytesMax;
    try {
      for await (const chunk of streamed.chunks) {
        left -= chunk.length;
        if (left < 0) {
          yield this.#lastFrame(requestId, call, tooLarge(streamBytesMax));
          return;
        }
        yield payloadChunk(chunk);
      }
      const { report, logTail } = await streamed.done;
      const log = call.withLog && { LogResult: logResult({ requestId, record, output: Buffer.from(logTail).toString('utf8'), report }) };
      yield invokeComplete({ ...log });
    } catch (thrown) {
      const failure = isRunnerError(thrown) ? functionFailure(thrown, requestId, record) : undefined;
      if (!failure) throw thrown;
      yield this.#lastFrame(requestId, call, failure);
    }
  }

  #lastFrame(requestId: string, { withLog, resolved }: Call, { errorType, body }: FunctionFailure): Uint8Array {
    return invokeComplete({
      ErrorCode: errorType,
      ErrorDetails: Buffer.from(body).toString('utf8'),
      ...(withLog && { LogResult: this.#logOf(requestId, resolved) }),
    });
  }

  async #enqueue(request: OperationRequest): Promise<void> {
    const { resolved, event, options } = this.#call(request, 'Event');
    await this.#queue.add({
      id: request.id,
      name: resolved.record.name,
      ...(request.fn.qualifier !== undefined && { qualifier: request.fn.qualifier }),
      event,
      depth: 0,
      ...(options.clientContext !== undefined && { clientContext: options.clientContext }),
      ...(options.traceId !== undefined && { traceId: options.traceId }),
    });
  }

  #resolve({ fn }: OperationRequest): Resolved {
    return this.#parts.store.resolve(fn.name, fn.qualifier);
  }

  /** Throws what refuses the call. */
  #call(request: OperationRequest, type: 'RequestResponse' | 'Event' = 'RequestResponse'): Call {
    const { headers, body, fn, signal, id } = request;
    const resolved = this.#resolve(request);
    checkEvent(body.length, resolved.record, type);
    const clientContext = headers['x-amz-client-context'];
    if (clientContext !== undefined) checkClientContext(clientContext);
    checkJson(body);
    const withLog = oneOf('logType', headers['x-amz-log-type'] ?? 'None', LOG_TYPES) === 'Tail';
    return {
      resolved,
      event: body.length === 0 ? EMPTY_EVENT : body,
      withLog,
      options: {
        requestId: id,
        signal,
        awaitLog: withLog,
        functionArn: functionArn(this.#parts.place, fn.name, fn.qualifier),
        concurrencyMax: resolved.reserved,
        clientContext,
        traceId: headers['x-amzn-trace-id'],
      },
    };
  }

  /** After a failure, from the lines that the runtime kept. */
  #logOf(requestId: string, { record }: Resolved): string {
    const lines = this.#parts
      .runtimeOf(record)
      .log(record.name)
      .filter((line) => line.requestId === requestId);
    return logResult({ requestId, record, output: lines.map(({ text }) => text).join('\n') });
  }
}

function failed({ body }: FunctionFailure, headers: Readonly<Record<string, string>>): Reply {
  return { status: 200, headers: { 'content-type': 'application/json', 'x-amz-function-error': 'Unhandled', ...headers }, body };
}

function oneOf<const T extends string>(field: string, value: string, known: readonly T[]): T {
  const found = known.find((one) => one === value);
  if (found === undefined) throw breaks(field, value, { oneOf: known });
  return found;
}

/** The service passes on only what is JSON. */
function checkClientContext(text: string): void {
  if (text.length > CLIENT_CONTEXT_CHARS_MAX) throw breaks('clientContext', text, { lengthMax: CLIENT_CONTEXT_CHARS_MAX });
  try {
    const value: unknown = JSON.parse(Buffer.from(text, 'base64').toString());
    if (typeof value !== 'object' || value === null) throw new TypeError('it is no object');
  } catch (cause) {
    throw new RunnerError('REQUEST_INVALID', 'Client context must be a valid Base64-encoded JSON object.', {
      cause,
      details: { awsType: 'InvalidRequestContentException' },
    });
  }
}

function checkJson(body: Uint8Array): void {
  if (body.length === 0) return;
  try {
    if (!isUtf8(body)) throw new SyntaxError('it is not UTF-8');
    JSON.parse((Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.length)).toString());
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new RunnerError('REQUEST_INVALID', `Could not parse request body into json: ${reason}`, {
      cause,
      details: { awsType: 'InvalidRequestContentException' },
    });
  }
}
