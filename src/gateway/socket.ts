/** The WebSocket of the gateway: live logs, events, and streamed answers that survive a lost connection. */

import { WebSocketServer } from 'ws';
import type { WebSocket } from 'ws';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { LogLine } from '../runtime/runtime.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { Authenticator } from './auth.ts';
import { targetOf } from './checks.ts';
import type { EventLog } from './event-log.ts';
import type { GatewayEvents } from './events.ts';
import type { Functions } from './functions.ts';
import type { Caller } from './http.ts';
import type { Upgrade } from './server.ts';
import { SocketConnection } from './socket-connection.ts';
import { StreamSession } from './stream-session.ts';

export interface SocketLimits {
  readonly messageBytesMax: number;
  /** What may wait to be sent to one client; then it is paused. */
  readonly bufferedBytesMax: number;
  /** A client that stays paused for so long is closed. */
  readonly slowMs: number;
  readonly heartbeatMs: number;
  readonly subscriptionsMax: number;
  /** Calls of one caller that have not ended, those included that wait for their reader. As many that have ended are kept for who comes back. */
  readonly streamsMax: number;
  readonly socketsMax: number;
  /** Kept of a streamed answer. */
  readonly streamBytesMax: number;
  readonly resumeMs: number;
}

const MIB = 1024 * 1024;
const LIMITS: SocketLimits = {
  messageBytesMax: MIB,
  bufferedBytesMax: MIB,
  slowMs: 30_000,
  heartbeatMs: 15_000,
  subscriptionsMax: 100,
  streamsMax: 100,
  socketsMax: 1_000,
  streamBytesMax: MIB,
  resumeMs: 60_000,
};

export interface SocketOptions {
  readonly functions: Functions;
  readonly logs: EventLog<LogLine>;
  readonly events: GatewayEvents;
  readonly authenticator: Authenticator;
  /** Counts a request in; the returned function counts it out. Throws `RATE_LIMITED`. */
  readonly admit: (callerId: string) => () => void;
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  readonly limits?: Partial<SocketLimits> | undefined;
}

const PATH = '/api/v1/ws';
const PROTOCOL = 'blueprint.v1';
const GOING_AWAY = 1001;
const CLOSING = 'the gateway is closing';

export class GatewaySocket {
  readonly #options: SocketOptions;
  readonly #limits: SocketLimits;
  readonly #server: WebSocketServer;
  readonly #connections = new Set<SocketConnection>();
  /** Oldest first. */
  readonly #streams = new Map<string, StreamSession>();
  /** Callers of calls that no answer has come to yet. */
  readonly #begun: string[] = [];
  #drained: (() => void) | undefined;

  constructor(options: SocketOptions) {
    this.#options = options;
    this.#limits = { ...LIMITS, ...options.limits };
    this.#server = new WebSocketServer({
      noServer: true,
      maxPayload: this.#limits.messageBytesMax,
      perMessageDeflate: false,
      clientTracking: false,
      handleProtocols: (protocols) => (protocols.has(PROTOCOL) ? PROTOCOL : false),
    });
    // Told before `handleUpgrade` returns: who called it refuses in our own form.
    this.#server.on('wsClientError', ({ message }) => {
      throw new RunnerError('REQUEST_INVALID', `the handshake is not one of a WebSocket: ${message}`);
    });
  }

  /** Throws `REQUEST_INVALID`, `NOT_FOUND`, `UNAUTHORIZED`, `RATE_LIMITED`. */
  upgrade({ request, socket, head, headers, id, certificateName }: Upgrade): void {
    const { path } = targetOf(request.url ?? '');
    if (path !== PATH) throw new RunnerError('NOT_FOUND', `there is no WebSocket at ${path.slice(0, 200)}; there is one at ${PATH}`);
    if (request.method !== 'GET' || headers['upgrade']?.toLowerCase() !== 'websocket')
      throw new RunnerError('REQUEST_INVALID', 'the connection is to become something else than a WebSocket');
    if (this.#connections.size >= this.#limits.socketsMax)
      throw new RunnerError('RATE_LIMITED', `${this.#limits.socketsMax} WebSockets are open already`);
    const identify = (): Caller => this.#identify(headers, certificateName);
    this.#options.admit(identify().id)();
    socket.on('error', () => {});
    this.#server.handleUpgrade(request, socket, head, (webSocket) => this.#open(webSocket, identify, id));
  }

  /** Ends each connection when nothing streams over it any more, at the latest after the deadline, and then what still streams. */
  async close(deadlineMs: number): Promise<void> {
    const reason = new RunnerError('EXECUTOR_CLOSED', CLOSING);
    // Nobody can come back for the rest.
    for (const stream of this.#streams.values()) if (!stream.hasReader) stream.close(reason);
    for (const connection of this.#connections) connection.drain(GOING_AWAY, CLOSING);
    if (this.#connections.size > 0) {
      const over = Promise.withResolvers<void>();
      this.#drained = over.resolve;
      const cancel = this.#options.clock.after(deadlineMs, over.resolve);
      await over.promise;
      cancel();
    }
    for (const connection of this.#connections) connection.close(GOING_AWAY, CLOSING);
    for (const stream of this.#streams.values()) stream.close(reason);
    this.#server.close();
  }

  /** Browsers cannot set headers here: they offer `bearer.<key>` as a protocol, percent-encoded: names of protocols take no `/` and no `=`. */
  #identify(headers: Upgrade['headers'], certificateName: string | undefined): Caller {
    const { authenticator } = this.#options;
    const offered = (headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
    const encoded = offered.find((name) => name.startsWith('bearer.'))?.slice('bearer.'.length);
    const token = encoded === undefined ? undefined : percentDecoded(encoded);
    const known =
      token === undefined || headers['authorization'] !== undefined ? headers : { ...headers, authorization: `Bearer ${token}` };
    const caller = authenticator.identify({ headers: known, ...(certificateName !== undefined && { certificateName }) }, false);
    if (!caller) throw new RunnerError('UNAUTHORIZED', 'signatures of AWS are not taken here');
    return caller;
  }

  #open(webSocket: WebSocket, identify: () => Caller, id: string): void {
    const { functions, logs, events, admit, clock, telemetry } = this.#options;
    const caller = identify();
    telemetry.log.info('a WebSocket opened', { requestId: id, caller: caller.id });
    const connection = new SocketConnection({
      id,
      webSocket,
      identify,
      functions,
      logs,
      events,
      admit,
      clock,
      telemetry,
      limits: this.#limits,
      findStream: (streamId) => this.#find(streamId, caller),
      beginStream: () => this.#begin(caller.id),
      keepStream: (options) => this.#keep(options),
      onClosed: () => {
        this.#connections.delete(connection);
        if (this.#connections.size === 0) this.#drained?.();
      },
    });
    this.#connections.add(connection);
  }

  #find(streamId: string, caller: Caller): StreamSession {
    const stream = this.#streams.get(streamId);
    if (!stream || stream.callerId !== caller.id) throw new RunnerError('NOT_FOUND', `there is no stream ${streamId}, or it is over`);
    return stream;
  }

  /** Counts a call in until its answer begins; the returned function counts it out. Throws `RATE_LIMITED`. */
  #begin(callerId: string): () => void {
    const { streamsMax } = this.#limits;
    const begun = this.#begun.filter((id) => id === callerId).length;
    if (begun + this.#streamsOf(callerId, false).length >= streamsMax)
      throw new RunnerError('RATE_LIMITED', `${callerId} has ${streamsMax} streams already`);
    this.#begun.push(callerId);
    return () => void this.#begun.splice(this.#begun.indexOf(callerId), 1);
  }

  #streamsOf(callerId: string, isTold: boolean): StreamSession[] {
    return [...this.#streams.values()].filter((stream) => stream.callerId === callerId && stream.isTold === isTold);
  }

  #keep(options: Omit<ConstructorParameters<typeof StreamSession>[0], 'clock' | 'bytesMax' | 'graceMs' | 'onGone'>): StreamSession {
    const { streamsMax, streamBytesMax, resumeMs } = this.#limits;
    const [oldest, ...newer] = this.#streamsOf(options.callerId, true);
    if (newer.length + 1 >= streamsMax) oldest?.close(new RunnerError('ABORTED', 'newer answers are kept in its place'));
    const stream: StreamSession = new StreamSession({
      ...options,
      clock: this.#options.clock,
      bytesMax: streamBytesMax,
      graceMs: resumeMs,
      onGone: () => this.#streams.delete(stream.id),
    });
    this.#streams.set(stream.id, stream);
    return stream;
  }
}

/** As it is where it is not percent-encoded. */
function percentDecoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
