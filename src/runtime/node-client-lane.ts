/** The part of the runtime client (`node-client.ts`) that speaks HTTP with the Runtime API. */

import net from 'node:net';
import type { Socket } from 'node:net';

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

/** What a handler is to work on. */
export interface Event {
  readonly id: string;
  readonly deadlineMs: number;
  readonly functionArn: string | undefined;
  readonly traceId: string | undefined;
  readonly clientContext: string | undefined;
  readonly identity?: string | undefined;
  readonly body: Buffer;
}

/** Where the answer to one event goes: one of `respond`, `fail`, or `begin` and what follows it. */
export interface Outlet {
  respond(body: string | Uint8Array): Promise<void> | void;
  fail(thrown: unknown): Promise<void> | void;
  /** A streamed answer. */
  begin(contentType: string): void;
  write(chunk: Buffer, done: (error?: Error | null) => void): void;
  end(done: (error?: Error | null) => void): void;
  breakOff(thrown: unknown): void;
  /** A streamed answer has arrived. Rejects when it cannot. */
  readonly taken: Promise<unknown>;
}

interface Waiting {
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

interface Fault {
  readonly errorType: string;
  readonly errorMessage: string;
  readonly trace: readonly string[];
}

interface Head {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Undefined: chunked. */
  readonly length: number | undefined;
}

const BASE = '/2018-06-01/runtime';
export const NEXT = '/invocation/next';
/** The answer to an answer may be the next event. */
const WITH_NEXT = 'X-Blueprint-Next: event\r\n';
const JSON_HEADERS = 'Content-Type: application/json\r\n';
const ERROR_TYPE = 'Lambda-Runtime-Function-Error-Type';
const ERROR_BODY = 'Lambda-Runtime-Function-Error-Body';
/** A Runtime API need not take more of an error. */
const FAULT_CHARS_MAX = 250_000;

/** One connection to the Runtime API: one request at a time, connected when it is needed, unless it is there already. */
export class Lane {
  #socket: Socket | undefined;
  #waiting: Waiting | undefined;
  #received: Buffer[] = [];
  #receivedBytes = 0;
  #head: Head | undefined;
  #isClosed = false;

  constructor(socket?: Socket) {
    if (socket) this.#socket = this.#attach(socket);
  }

  async request(method: 'GET' | 'POST', path: string, sent: { headers?: string; body?: Uint8Array | string } = {}): Promise<Answer> {
    const wasOpen = this.#socket !== undefined;
    const { headers = '', body = '' } = sent;
    const length = method === 'GET' ? '' : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
    const head = `${method} ${BASE}${path} HTTP/1.1\r\nHost: runtime\r\n${headers}${length}\r\n`;
    const pieces = typeof body === 'string' ? [head + body] : [head, body];
    try {
      return await this.open(pieces);
    } catch (error) {
      // A server may close a connection that was idle while the handler ran.
      if (!wasOpen || this.#receivedBytes > 0 || this.#isClosed) throw error;
      return this.open(pieces);
    }
  }

  /** Sends the beginning of a request, or all of it; resolves with the answer. */
  open(pieces: readonly (string | Uint8Array)[]): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#reset();
      this.#socket ??= this.#attach(net.connect(runtimeApi()));
      this.write(pieces);
    });
  }

  write(pieces: readonly (string | Uint8Array)[], done?: (error?: Error | null) => void): void {
    const socket = this.#socket;
    if (!socket) {
      done?.(new Error('the Runtime API closed the connection'));
      return;
    }
    socket.cork();
    for (const [index, piece] of pieces.entries()) socket.write(piece, index === pieces.length - 1 ? done : undefined);
    socket.uncork();
  }

  close(): void {
    this.#isClosed = true;
    this.#socket?.destroy();
  }

  #attach(socket: Socket): Socket {
    const gone = (error?: Error): void => {
      if (this.#socket !== socket) return;
      this.#socket = undefined;
      const waiting = this.#waiting;
      this.#waiting = undefined;
      waiting?.reject(error ?? new Error('the Runtime API closed the connection'));
    };
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', gone);
    socket.on('close', () => gone());
    return socket;
  }

  #reset(): void {
    this.#received = [];
    this.#receivedBytes = 0;
    this.#head = undefined;
  }

  #receive(chunk: Buffer): void {
    this.#received.push(chunk);
    this.#receivedBytes += chunk.length;
    if (!this.#head) {
      const bytes = this.#joined();
      const end = bytes.indexOf('\r\n\r\n');
      if (end < 0) return;
      this.#head = parseHead(bytes.toString('latin1', 0, end));
      this.#received = [bytes.subarray(end + 4)];
      this.#receivedBytes = bytes.length - end - 4;
    }
    const { status, headers, length } = this.#head;
    if (length !== undefined && this.#receivedBytes < length) return;
    const body = length === undefined ? unchunked(this.#joined()) : this.#joined();
    if (!body) return;
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (headers['connection'] === 'close') {
      this.#socket?.destroy();
      this.#socket = undefined;
    }
    waiting?.resolve({ status, headers, body });
  }

  #joined(): Buffer {
    const [first] = this.#received;
    if (first === undefined || this.#received.length > 1) this.#received = [Buffer.concat(this.#received)];
    return this.#received[0] ?? Buffer.alloc(0);
  }
}

/** How one event is answered over HTTP. */
export class HttpOutlet implements Outlet {
  /** The next event, when it came along with what was posted. */
  next: Answer | undefined;
  taken: Promise<unknown> = Promise.resolve();
  readonly #lane: Lane;
  readonly #path: string;
  /** Whether another event is wanted. */
  readonly #wantsNext: () => boolean;

  constructor(lane: Lane, id: string, wantsNext: () => boolean) {
    this.#lane = lane;
    this.#path = `/invocation/${id}`;
    this.#wantsNext = wantsNext;
  }

  async respond(body: string | Uint8Array): Promise<void> {
    const headers = this.#wantsNext() ? JSON_HEADERS + WITH_NEXT : JSON_HEADERS;
    const reply = await this.#lane.request('POST', `${this.#path}/response`, { headers, body });
    if (reply.status === 200) this.next = reply;
    if (reply.status !== 413) return;
    const tooLarge = new Error(`the response of ${Buffer.byteLength(body)} bytes is larger than the platform takes`);
    tooLarge.name = 'Function.ResponseSizeTooLarge';
    await this.fail(tooLarge);
  }

  fail(thrown: unknown): Promise<void> {
    return postFault(this.#lane, `${this.#path}/error`, thrown);
  }

  begin(contentType: string): void {
    this.taken = this.#lane.open([
      `POST ${BASE}${this.#path}/response HTTP/1.1\r\nHost: runtime\r\nContent-Type: ${contentType}\r\nTransfer-Encoding: chunked\r\n` +
        `Lambda-Runtime-Function-Response-Mode: streaming\r\nTrailer: ${ERROR_TYPE}, ${ERROR_BODY}\r\n\r\n`,
    ]);
  }

  write(chunk: Buffer, done: (error?: Error | null) => void): void {
    this.#lane.write([`${chunk.length.toString(16)}\r\n`, chunk, '\r\n'], done);
  }

  end(done: (error?: Error | null) => void): void {
    this.#lane.write(['0\r\n\r\n'], done);
  }

  /** The error as trailers. */
  breakOff(thrown: unknown): void {
    const fault = faultOf(thrown);
    const body = Buffer.from(JSON.stringify(fault)).toString('base64');
    this.#lane.write([`0\r\n${ERROR_TYPE}: ${encodeURI(fault.errorType)}\r\n${ERROR_BODY}: ${body}\r\n\r\n`]);
  }
}

export function eventOfAnswer({ headers, body }: Answer): Event {
  return {
    id: headers['lambda-runtime-aws-request-id'] ?? '',
    deadlineMs: Number(headers['lambda-runtime-deadline-ms']),
    functionArn: headers['lambda-runtime-invoked-function-arn'],
    traceId: headers['lambda-runtime-trace-id'],
    clientContext: headers['lambda-runtime-client-context'],
    identity: headers['lambda-runtime-cognito-identity'],
    body,
  };
}

function parseHead(text: string): Head {
  const [first = '', ...lines] = text.split('\r\n');
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const colon = line.indexOf(':');
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  const isChunked = headers['transfer-encoding'] === 'chunked';
  return { status: Number(first.split(' ')[1]), headers, length: isChunked ? undefined : Number(headers['content-length'] ?? 0) };
}

/** The body of a chunked answer; undefined until it is complete. */
function unchunked(bytes: Buffer): Buffer | undefined {
  const pieces: Buffer[] = [];
  for (let at = 0; ;) {
    const lineEnd = bytes.indexOf('\r\n', at);
    if (lineEnd < 0) return undefined;
    const size = Number.parseInt(bytes.toString('latin1', at, lineEnd), 16);
    const next = lineEnd + 2 + size + 2;
    if (next > bytes.length) return undefined;
    if (size === 0) return Buffer.concat(pieces);
    pieces.push(bytes.subarray(lineEnd + 2, lineEnd + 2 + size));
    at = next;
  }
}

export function runtimeApi(): { path: string } | { host: string; port: number } {
  const address = process.env['AWS_LAMBDA_RUNTIME_API'] ?? '';
  if (address.startsWith('unix:')) return { path: address.slice('unix:'.length) };
  const colon = address.lastIndexOf(':');
  return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
}

function faultOf(thrown: unknown): Fault {
  if (typeof thrown !== 'object' || thrown === null || !('message' in thrown))
    return { errorType: typeof thrown, errorMessage: String(thrown), trace: [] };
  const { name, message, stack } = thrown as Partial<Error>;
  return { errorType: name ?? 'Error', errorMessage: String(message), trace: typeof stack === 'string' ? stack.split('\n') : [] };
}

/** An error of the runtime, not of the handler: its name is the error type. */
export function runtimeError(name: string, message: string, cause?: unknown): Error {
  const error = new Error(message);
  error.name = `Runtime.${name}`;
  if (cause instanceof Error && cause.stack !== undefined) error.stack = `${error.name}: ${message}\n${cause.stack}`;
  return error;
}

/** As JSON; a very long one is cut. */
export function boundedFault(thrown: unknown): string {
  const fault = faultOf(thrown);
  const text = JSON.stringify(fault);
  if (text.length <= FAULT_CHARS_MAX) return text;
  const { errorType, errorMessage } = fault;
  return JSON.stringify({ errorType: errorType.slice(0, 256), errorMessage: errorMessage.slice(0, 16_384), trace: [] });
}

export async function postFault(lane: Lane, path: string, thrown: unknown): Promise<void> {
  const fault = faultOf(thrown);
  const type = /^(?:Runtime|Function)\.\w+$/.test(fault.errorType) ? `${ERROR_TYPE}: ${fault.errorType}\r\n` : '';
  await lane.request('POST', path, { headers: JSON_HEADERS + type, body: boundedFault(thrown) });
}
