/**
 * The server of the Lambda Runtime API (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html) for one instance: hands events to
 * its runtime client and takes the answers.
 *
 * Statuses and error types are those of AWS's own server. Whatever a client sends is answered with a 4xx or 2xx, never with a crash.
 */

import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer as createPortServer } from 'node:net';
import type { Server as PortServer } from 'node:net';
import type { Duplex } from 'node:stream';
import { FRAMES_LANES, FRAMES_TARGET } from './frames.ts';
import { RuntimeChannel } from './runtime-channel.ts';
import type { Fault } from './runtime-fault.ts';
import { accept, headersOf, notAllowed, readFault, refuse, refuseMalformed, refuseRaw, trailerFault } from './runtime-replies.ts';
import type { Refusal } from './runtime-replies.ts';

/** Stops and goes on with reading an answer. */
export interface Flow {
  pause(): unknown;
  resume(): unknown;
}

/** What goes to the instance besides the event. */
export interface EventHead {
  readonly contentType: string;
  /** Milliseconds since the epoch. */
  readonly deadline: number;
  readonly functionArn: string | undefined;
  readonly traceId: string | undefined;
  readonly clientContext: string | undefined;
}

/** One event on its way through an instance. The server tells it what happens, in this order. */
export interface ApiCall {
  readonly requestId: string;
  readonly event: Uint8Array;
  readonly isAnswering: boolean;
  /** The event goes out now, and may have been seen from here on. */
  taken(): EventHead;
  /** An answer begins. Returns the most bytes that it may have. */
  answering(answer: { readonly contentType: string; readonly streamed: boolean; readonly flow: Flow }): number;
  chunk(data: Buffer): void;
  /** The answer is complete; a streamed one may have broken off with a fault. */
  answered(fault: Fault | undefined): void;
  failed(fault: Fault): void;
  tooLarge(bytesMax: number): void;
  /** The connection was lost in the middle of the answer. */
  truncated(): void;
  /** The client broke the rules of frames, and its connection was closed. */
  violated(reason: string): void;
}

export interface RuntimeApiListener {
  /** The first poll. */
  ready(): void;
  initFailed(fault: Fault): void;
  /** The client broke the rules of frames: nothing it says can be trusted. */
  violated(reason: string): void;
}

const CONNECT = Buffer.from('CONNECT ');
const BASE = '/2018-06-01/runtime/';
const NEXT = `${BASE}invocation/next`;
const INIT_ERROR = `${BASE}init/error`;
const INVOCATION = `${BASE}invocation/`;
const RESPONSE = '/response';
const ERROR = '/error';
/** Trailers carry an error with its stack, in base64. */
const HEADER_BYTES_MAX = 256 * 1024;
/** One for each lane and some more: what an instance opens beyond that would take the descriptors of all others. */
const CONNECTIONS = { least: 256, perLane: 4 } as const;
/** Calls that are remembered after their answer: another answer is out of order, not unknown. */
const ANSWERED_MAX = 64;
/**
 * Our own addition: an answer with this header asks for the next event, too, which comes in place of the status. Each message over a
 * socket wakes a process up, so that this halves what a call costs. Who does not know it answers with the status, and is asked apart.
 */
const WITH_NEXT = 'x-blueprint-next';

export class RuntimeApi {
  readonly #listener: RuntimeApiListener;
  readonly #concurrency: number;
  readonly #server: Server;
  #port: Promise<PortServer> | undefined;
  #asked = false;
  #closed = false;
  /** Polls that wait for an event, oldest first. */
  readonly #polls: ServerResponse[] = [];
  /** Calls that wait for a poll, oldest first. */
  readonly #pending: ApiCall[] = [];
  /**
   * Few, that come and go all the time: an array. A Map that lives long has old tables behind it, each with what it held and a pointer to the
   * next: from the first of them that is in the old generation on, no call would be freed before a full collection.
   */
  readonly #running: ApiCall[] = [];
  /** Our own client. */
  #channel: RuntimeChannel | undefined;
  #served: Duplex | undefined;
  /** A ring. */
  readonly #answered: string[] = [];
  #answers = 0;
  /** Its answer was too large; the client may say so as well. */
  #oversized = '';

  /** Does no I/O. */
  constructor(listener: RuntimeApiListener, concurrency: number) {
    this.#listener = listener;
    this.#concurrency = concurrency;
    this.#server = createServer(
      {
        keepAliveTimeout: 0,
        requestTimeout: 0,
        headersTimeout: 0,
        maxHeaderSize: HEADER_BYTES_MAX,
        noDelay: true,
        requireHostHeader: false,
      },
      (request, response) => this.#handle(request, response),
    );
    this.#server.timeout = 0;
    this.#server.maxConnections = CONNECTIONS.least + CONNECTIONS.perLane * concurrency;
    this.#server.on('clientError', refuseMalformed);
    this.#server.on('checkExpectation', (request: IncomingMessage, response: ServerResponse) =>
      refuse(request, response, [417, 'ExpectationFailed', `${request.headers.expect} cannot be expected`]),
    );
    this.#server.on('connect', (request: IncomingMessage, socket: Duplex, head: Buffer) =>
      this.#speakFrames(socket, { target: request.url, lanes: Number(request.headers[FRAMES_LANES]) }, head),
    );
  }

  listen(socketPath: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(socketPath, () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
  }

  /** Speaks frames over a connection that is there already, when its other side asks for them; else HTTP. */
  serve(connection: Duplex, head: Buffer): void {
    let received = Buffer.alloc(0);
    const receive = (data: Buffer): void => {
      received = Buffer.concat([received, data]);
      const end = received.indexOf('\r\n\r\n');
      if (end < 0 && received.length < HEADER_BYTES_MAX) return;
      connection.off('data', receive);
      if (!received.subarray(0, CONNECT.length).equals(CONNECT)) {
        connection.unshift(received);
        this.#server.emit('connection', connection);
        return;
      }
      const [, target, lanes] =
        /^CONNECT (\S+) .*\r\nx-blueprint-lanes: (\d+)$/s.exec(received.toString('latin1', 0, Math.max(0, end))) ?? [];
      this.#speakFrames(connection, { target, lanes: Number(lanes) }, received.subarray(end + 4));
    };
    this.#served = connection;
    connection.on('error', ignore);
    connection.on('data', receive);
    if (head.length > 0) receive(head);
  }

  /** The same API on a port of 127.0.0.1. The same port when called again. */
  async openPort(): Promise<number> {
    this.#port ??= listenOnPort(this.#server.maxConnections, (socket) => this.#server.emit('connection', socket));
    const address = (await this.#port).address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  }

  /** An event would go out at once. */
  get isAsking(): boolean {
    this.#dropDeadPolls();
    return this.#asking > this.#pending.length;
  }

  /** Calls that were handed over and not answered. */
  calls(): ApiCall[] {
    return [...this.#running, ...this.#pending];
  }

  has(requestId: string): boolean {
    return this.#runs(requestId) !== undefined || this.#pending.some((call) => call.requestId === requestId);
  }

  /** Goes out with the poll that waits, or with the next one. */
  hand(call: ApiCall): void {
    if (this.#channel && this.#channel.asking > 0) {
      this.#running.push(call);
      this.#channel.give(call);
      return;
    }
    this.#dropDeadPolls();
    const poll = this.#polls.shift();
    if (poll) this.#deliver(poll, call);
    else this.#pending.push(call);
  }

  /** Takes back a call that did not go out. False: it did. */
  withdraw(call: ApiCall): boolean {
    const index = this.#pending.indexOf(call);
    if (index >= 0) this.#pending.splice(index, 1);
    return index >= 0;
  }

  /** Ends all connections. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#polls.length = 0;
    this.#channel?.close();
    this.#served?.destroy();
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    const port = await this.#port?.catch(() => undefined);
    await Promise.all([closed, port && new Promise<void>((resolve) => port.close(() => resolve()))]);
  }

  #handle(request: IncomingMessage, response: ServerResponse): void {
    request.on('error', ignore);
    response.on('error', ignore);
    response.sendDate = false;
    const { url = '', method } = request;
    if (url === NEXT) return method === 'GET' ? this.#next(request, response) : refuse(request, response, notAllowed(request));
    if (method === 'POST' && url.startsWith(INVOCATION)) {
      if (url.endsWith(RESPONSE)) return this.#response(url.slice(INVOCATION.length, -RESPONSE.length), request, response);
      if (url.endsWith(ERROR)) return this.#error(url.slice(INVOCATION.length, -ERROR.length), request, response);
    }
    if (url === INIT_ERROR) return method === 'POST' ? this.#initError(request, response) : refuse(request, response, notAllowed(request));
    if (url.startsWith(INVOCATION) && (url.endsWith(RESPONSE) || url.endsWith(ERROR)))
      return refuse(request, response, notAllowed(request));
    return refuse(request, response, [404, 'UnknownPath', `there is no ${method} ${url}`]);
  }

  #next(request: IncomingMessage, response: ServerResponse): void {
    this.#dropDeadPolls();
    if (this.#asking + this.#running.length >= this.#concurrency) return refuse(request, response, this.#tooMany());
    // A body is nothing that this request has.
    request.resume();
    this.#wait(response);
  }

  #wait(poll: ServerResponse): void {
    const call = this.#pending.shift();
    if (call) return this.#deliver(poll, call);
    this.#polls.push(poll);
    this.#isReady();
  }

  #isReady(): void {
    if (this.#asked) return;
    this.#asked = true;
    this.#listener.ready();
  }

  get #asking(): number {
    return this.#polls.length + (this.#channel?.asking ?? 0);
  }

  #tooMany(): Refusal {
    const reason = `${this.#running.length} events are not answered, and ${this.#asking} more are asked for; the instance takes ${this.#concurrency}`;
    return [403, 'InvalidStateTransition', reason];
  }

  /** Our own client asks to speak frames; nobody else has a reason to connect to anything here. */
  #speakFrames(socket: Duplex, { target, lanes }: { readonly target: string | undefined; readonly lanes: number }, head: Buffer): void {
    if (target !== FRAMES_TARGET || !Number.isSafeInteger(lanes) || lanes < 1)
      return refuseMalformed({ code: 'HPE_INVALID_METHOD' }, socket);
    this.#dropDeadPolls();
    if (this.#channel || this.#asking + this.#running.length + lanes > this.#concurrency) return refuseRaw(socket, this.#tooMany());
    const channel = new RuntimeChannel(socket, lanes, {
      isRunning: (call) => this.#running.includes(call),
      settle: (call) => this.#settle(call),
      next: () => {
        const call = this.#pending.shift();
        if (call) this.#running.push(call);
        return call;
      },
      lost: (violation) => {
        this.#channel = undefined;
        if (violation !== undefined) this.#listener.violated(violation);
      },
    });
    this.#channel = channel;
    channel.begin(head);
    this.#isReady();
    return undefined;
  }

  #deliver(poll: ServerResponse, call: ApiCall): void {
    this.#running.push(call);
    poll.writeHead(200, headersOf(call));
    poll.end(call.event);
  }

  #response(id: string, request: IncomingMessage, response: ServerResponse): void {
    const call = this.#runs(id);
    if (!call) return refuse(request, response, this.#unknown(id));
    const mode = request.headers['lambda-runtime-function-response-mode'];
    if (mode !== undefined && mode !== 'streaming') {
      return refuse(request, response, [
        400,
        'Runtime.InvalidResponseModeHeader',
        `the response mode is ${String(mode)}; it must be streaming`,
      ]);
    }
    const streamed = mode === 'streaming';
    if (call.isAnswering) return refuse(request, response, [403, 'InvalidStateTransition', `event ${id} is being answered`]);
    const bytesMax = call.answering({ contentType: request.headers['content-type'] ?? '', streamed, flow: request });
    let bytes = 0;
    let isOpen = true;
    request.on('data', (data: Buffer) => {
      bytes += data.length;
      if (!isOpen) return;
      if (bytes <= bytesMax) return call.chunk(data);
      isOpen = false;
      this.#settle(call);
      this.#oversized = id;
      refuse(request, response, [413, 'RequestEntityTooLarge', `the response has more than ${bytesMax} bytes`]);
      call.tooLarge(bytesMax);
    });
    request.on('end', () => {
      if (!isOpen) return;
      isOpen = false;
      this.#settle(call);
      // Its own place was just given free.
      if (!streamed && request.headers[WITH_NEXT] !== undefined) this.#wait(response);
      else accept(response);
      call.answered(streamed ? trailerFault(request) : undefined);
    });
    request.on('close', () => {
      if (!isOpen) return;
      isOpen = false;
      this.#settle(call);
      call.truncated();
    });
  }

  #error(id: string, request: IncomingMessage, response: ServerResponse): void {
    if (!this.#runs(id) && id !== this.#oversized) return refuse(request, response, this.#unknown(id));
    readFault(request, response, (fault) => {
      const call = this.#runs(id);
      if (!call && id !== this.#oversized) return refuse(request, response, this.#unknown(id));
      if (call?.isAnswering) return refuse(request, response, [403, 'InvalidStateTransition', `event ${id} is being answered`]);
      if (call) this.#settle(call);
      accept(response);
      call?.failed(fault);
    });
  }

  #initError(request: IncomingMessage, response: ServerResponse): void {
    if (this.#asked) return refuse(request, response, [403, 'InvalidStateTransition', 'the instance has asked for work before']);
    readFault(request, response, (fault) => {
      accept(response);
      this.#listener.initFailed(fault);
    });
  }

  #unknown(id: string): Refusal {
    return this.#answered.includes(id)
      ? [403, 'InvalidStateTransition', `event ${id} was answered before`]
      : [400, 'InvalidRequestID', `event ${id} was not handed out`];
  }

  #runs(id: string): ApiCall | undefined {
    return this.#running.find(({ requestId }) => requestId === id);
  }

  #settle(call: ApiCall): void {
    const at = this.#running.indexOf(call);
    if (at >= 0) this.#running.splice(at, 1);
    this.#answered[this.#answers % ANSWERED_MAX] = call.requestId;
    this.#answers += 1;
  }

  /** A client that went away while it polled gets no event. */
  #dropDeadPolls(): void {
    for (let index = this.#polls.length - 1; index >= 0; index -= 1) if (this.#polls[index]?.destroyed) this.#polls.splice(index, 1);
  }
}

function ignore(): void {
  // A connection that breaks shows in the `close` of its request, and in the end of the instance.
}

function listenOnPort(connectionsMax: number, connected: (socket: Duplex) => void): Promise<PortServer> {
  return new Promise((resolve, reject) => {
    const server = createPortServer({ noDelay: true, allowHalfOpen: true }, connected);
    server.maxConnections = connectionsMax;
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve(server));
  });
}
