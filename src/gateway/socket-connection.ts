/** One WebSocket: its subscriptions and streams, and that it is never sent more than it takes. */

import { randomUUID } from 'node:crypto';
import type { RawData, WebSocket } from 'ws';
import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { LogLine } from '../runtime/runtime.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { EventLog, EventReader, Numbered } from './event-log.ts';
import { eventDocument } from './events.ts';
import type { GatewayEvent, GatewayEvents } from './events.ts';
import type { Functions } from './functions.ts';
import { allows, demand, errorDocument } from './http.ts';
import type { Caller, Scope } from './http.ts';
import { lineDocument } from './logs-api.ts';
import { parseMessage } from './socket-messages.ts';
import type { ClientMessage, ServerMessage } from './socket-messages.ts';
import type { SocketLimits } from './socket.ts';
import type { StreamReader, StreamSession, StreamSessionOptions } from './stream-session.ts';

export interface SocketConnectionOptions {
  readonly id: string;
  readonly webSocket: WebSocket;
  /** Who it is by the credentials as they are now. Throws `UNAUTHORIZED`. */
  readonly identify: () => Caller;
  readonly functions: Functions;
  readonly logs: EventLog<LogLine>;
  readonly events: GatewayEvents;
  readonly admit: (callerId: string) => () => void;
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  readonly limits: SocketLimits;
  /** Throws `NOT_FOUND`. */
  readonly findStream: (id: string) => StreamSession;
  /** Counts a call in until its answer begins; the returned function counts it out. Throws `RATE_LIMITED`. */
  readonly beginStream: () => () => void;
  readonly keepStream: (options: Pick<StreamSessionOptions, 'invocation' | 'callerId' | 'cancel'>) => StreamSession;
  readonly onClosed: () => void;
}

/** Why the gateway closes: https://www.rfc-editor.org/rfc/rfc6455#section-7.4 leaves 4000 to 4999 to applications. */
const CLOSE = { unauthorized: 4001, tooSlow: 4008, silent: 4009 } as const;
/** After it was asked to close, a client is not waited for any longer. */
const CLOSE_GRACE_MS = 1_000;
const READ_AT_ONCE = 100;
/** What a topic asks for. */
const SCOPE_OF = { logs: 'logs', instances: 'functions:read', invocations: 'invocations' } as const satisfies Record<string, Scope>;

interface Subscription {
  readonly id: string;
  /** Goes on where there is something, and tells whether something is gone before it. */
  hasMissed(): boolean;
  /** News after the last that was sent. */
  next(): readonly Numbered<LogLine | GatewayEvent>[];
  sent(entryId: string): void;
  wants(entry: Numbered<LogLine | GatewayEvent>): boolean;
  readonly stop: () => void;
}

interface Stream {
  readonly reader: StreamReader;
  session: StreamSession | undefined;
  readonly giveUp: (reason: RunnerError) => void;
}

export class SocketConnection {
  readonly #options: SocketConnectionOptions;
  readonly #subscriptions = new Map<string, Subscription>();
  readonly #streams = new Map<string, Stream>();
  #caller: Caller;
  #isAlive = true;
  #isClosed = false;
  #closeDrained: (() => void) | undefined;
  #stopHeartbeat: CancelTimer | undefined;
  #stopSlow: CancelTimer | undefined;

  constructor(options: SocketConnectionOptions) {
    this.#options = options;
    const { webSocket } = options;
    this.#caller = options.identify();
    webSocket.on('message', (data, isBinary) => this.#received(data, isBinary));
    webSocket.on('pong', () => (this.#isAlive = true));
    webSocket.on('error', () => {});
    webSocket.once('close', () => this.#closed());
    this.#beat();
    this.#send({ type: 'hello', caller: this.#caller.id });
  }

  close(code: number, reason: string): void {
    const { webSocket, clock } = this.#options;
    webSocket.close(code, reason);
    clock.after(CLOSE_GRACE_MS, () => webSocket.terminate());
  }

  /** Takes no calls and subscriptions any more, and closes when the calls that stream have ended. */
  drain(code: number, reason: string): void {
    this.#closeDrained = () => this.close(code, reason);
    if (this.#streams.size === 0) this.#closeDrained();
  }

  #beat(): void {
    const { webSocket, clock, limits } = this.#options;
    this.#stopHeartbeat = clock.after(limits.heartbeatMs, () => {
      if (!this.#isAlive) return this.close(CLOSE.silent, 'no answer to a ping');
      if (!this.#isKnown()) return undefined;
      this.#isAlive = false;
      webSocket.ping();
      return this.#beat();
    });
  }

  /** Keys are revoked and expire while a connection lasts. False: it is closed. */
  #isKnown(): boolean {
    try {
      this.#caller = this.#options.identify();
    } catch (thrown) {
      if (toRunnerError(thrown).code !== 'UNAUTHORIZED') return true;
      this.close(CLOSE.unauthorized, 'the credentials are not valid any more');
      return false;
    }
    return true;
  }

  #closed(): void {
    this.#isClosed = true;
    this.#stopHeartbeat?.();
    this.#stopSlow?.();
    for (const { stop } of this.#subscriptions.values()) stop();
    for (const { session, reader, giveUp } of this.#streams.values()) {
      if (session) session.detach(reader);
      else giveUp(new RunnerError('ABORTED', 'the connection was lost before the answer began'));
    }
    this.#options.onClosed();
  }

  #received(data: RawData, isBinary: boolean): void {
    if (!this.#isKnown()) return;
    let id: string | undefined;
    try {
      if (isBinary) throw new RunnerError('REQUEST_INVALID', 'messages are text');
      const message = parseMessage(Buffer.isBuffer(data) ? data : Buffer.concat(Array.isArray(data) ? data : [Buffer.from(data)]));
      if ('id' in message) ({ id } = message);
      const release = this.#options.admit(this.#caller.id);
      try {
        this.#handle(message);
      } finally {
        release();
      }
    } catch (thrown) {
      this.#sendError(thrown, id);
    }
  }

  #handle(message: ClientMessage): void {
    const isNew = message.type === 'subscribe' || message.type === 'invoke' || message.type === 'resume';
    if (isNew && this.#closeDrained) throw new RunnerError('EXECUTOR_CLOSED', 'the gateway is closing');
    switch (message.type) {
      case 'subscribe':
        return this.#subscribe(message);
      case 'unsubscribe': {
        const subscription = this.#subscriptions.get(message.id);
        if (!subscription) throw new RunnerError('NOT_FOUND', `there is no subscription ${message.id}`);
        subscription.stop();
        this.#subscriptions.delete(message.id);
        return this.#send({ type: 'unsubscribed', id: message.id });
      }
      case 'invoke':
        return this.#invoke(message);
      case 'resume':
        return this.#resume(message);
      case 'cancel': {
        const stream = this.#streams.get(message.id);
        if (!stream) throw new RunnerError('NOT_FOUND', `there is no call ${message.id}`);
        const reason = new RunnerError('ABORTED', 'the client gave the call up');
        if (stream.session) stream.session.close(reason);
        else stream.giveUp(reason);
        return this.#failed(message.id, reason);
      }
      case 'ping':
        return this.#send({ type: 'pong' });
    }
  }

  #subscribe({ id, topic, function: name, since }: ClientMessage & { type: 'subscribe' }): void {
    const { functions, limits } = this.#options;
    if (this.#subscriptions.has(id) || this.#streams.has(id)) throw new RunnerError('REQUEST_CONFLICT', `the id ${id} is in use`);
    if (this.#subscriptions.size >= limits.subscriptionsMax)
      throw new RunnerError('RATE_LIMITED', `${limits.subscriptionsMax} subscriptions are the most`);
    if (topic === 'logs') {
      if (name === undefined) throw new RunnerError('REQUEST_INVALID', 'logs are those of a function: the message lacks function');
      demand(this.#caller, SCOPE_OF[topic], name);
      functions.store.get(name);
    } else demand(this.#caller, SCOPE_OF[topic], name);
    const mayRead = (one: string): boolean => allows(this.#caller, SCOPE_OF[topic], one);
    const key = topic === 'logs' ? (name ?? '') : topic === 'instances' ? 'instance' : 'invocation';
    const log: EventReader<LogLine | GatewayEvent> = topic === 'logs' ? this.#options.logs : this.#options.events;
    let last = since ?? log.lastId;
    const subscription: Subscription = {
      id,
      hasMissed() {
        const at = log.resumeAt(key, last);
        last = at.since;
        return at.hasMissed;
      },
      next: () => log.read(key, { since: last, limit: READ_AT_ONCE }),
      sent: (entryId) => (last = entryId),
      wants: ({ item }) => topic === 'logs' || ((name === undefined || item.name === name) && mayRead(item.name)),
      stop: log.listen((entry) => {
        if (entry.topic === key) this.#pumpSubscription(subscription);
      }),
    };
    this.#subscriptions.set(id, subscription);
    this.#send({ type: 'subscribed', id, event_id: last });
    this.#pumpSubscription(subscription);
  }

  #pumpSubscription(subscription: Subscription): void {
    if (!this.#hasRoom()) return;
    if (subscription.hasMissed()) this.#send({ type: 'missed', id: subscription.id });
    for (let entries = subscription.next(); entries.length > 0; entries = subscription.next()) {
      for (const entry of entries) {
        if (!this.#hasRoom()) return;
        subscription.sent(entry.id);
        if (subscription.wants(entry)) this.#send({ type: 'event', id: subscription.id, event_id: entry.id, event: documentOf(entry) });
      }
    }
  }

  #invoke({ id, function: name, qualifier, payload = null, payload_base64: bytes }: ClientMessage & { type: 'invoke' }): void {
    const { functions, beginStream } = this.#options;
    if (this.#subscriptions.has(id) || this.#streams.has(id)) throw new RunnerError('REQUEST_CONFLICT', `the id ${id} is in use`);
    demand(this.#caller, 'invoke', name);
    const { id: callerId } = this.#caller;
    const begun = beginStream();
    const controller = new AbortController();
    const stream: Stream = { reader: this.#reader(id), session: undefined, giveUp: (reason) => controller.abort(reason) };
    this.#streams.set(id, stream);
    const event = bytes ?? Buffer.from(JSON.stringify(payload));
    functions.stream({ name, qualifier }, event, { requestId: randomUUID(), signal: controller.signal }).then(
      ({ invocation }) => {
        begun();
        if (this.#isClosed || this.#streams.get(id) !== stream) return controller.abort();
        try {
          stream.session = this.#options.keepStream({ invocation, callerId, cancel: (reason) => controller.abort(reason) });
          return this.#attach(id, stream.session, { reader: stream.reader, after: 0 });
        } catch (thrown) {
          return this.#failed(id, thrown);
        }
      },
      (thrown: unknown) => {
        begun();
        if (this.#streams.get(id) === stream) this.#failed(id, thrown);
      },
    );
  }

  #resume({ id, stream: streamId, after }: ClientMessage & { type: 'resume' }): void {
    if (this.#subscriptions.has(id) || this.#streams.has(id)) throw new RunnerError('REQUEST_CONFLICT', `the id ${id} is in use`);
    const session = this.#options.findStream(streamId);
    const reader = this.#reader(id);
    this.#streams.set(id, { reader, session, giveUp() {} });
    try {
      this.#attach(id, session, { reader, after });
    } catch (thrown) {
      this.#streams.delete(id);
      throw thrown;
    }
  }

  #attach(id: string, session: StreamSession, { reader, after }: { readonly reader: StreamReader; readonly after: number }): void {
    this.#send({ type: 'started', id, stream: session.id, request_id: session.requestId, content_type: session.contentType });
    session.attach(reader, after);
  }

  #reader(id: string): StreamReader {
    return {
      chunk: (seq, data) => {
        if (!this.#hasRoom()) return false;
        this.#send({ type: 'chunk', id, seq, data: Buffer.from(data).toString('base64') });
        return true;
      },
      end: (report) => this.#ended({ type: 'end', id, report }),
      failed: (error) => this.#failed(id, error),
    };
  }

  #failed(id: string, thrown: unknown): void {
    this.#ended({ type: 'error', id, error: this.#errorOf(thrown) });
  }

  /** The last message of a call. */
  #ended(message: ServerMessage & { readonly id: string }): void {
    this.#streams.delete(message.id);
    this.#send(message);
    if (this.#streams.size === 0) this.#closeDrained?.();
  }

  /** Whether the client takes more. When it does not, it has some time to catch up. */
  #hasRoom(): boolean {
    const { webSocket, clock, limits } = this.#options;
    if (this.#isClosed) return false;
    if (webSocket.bufferedAmount < limits.bufferedBytesMax) return true;
    this.#stopSlow ??= clock.after(limits.slowMs, () => this.close(CLOSE.tooSlow, 'the client takes too little'));
    return false;
  }

  #send(message: ServerMessage): void {
    const { webSocket } = this.#options;
    if (webSocket.readyState !== webSocket.OPEN) return;
    webSocket.send(JSON.stringify(message), () => this.#taken());
  }

  /** A message has left: there may be room again. */
  #taken(): void {
    const { webSocket, limits } = this.#options;
    if (!this.#stopSlow || webSocket.bufferedAmount > limits.bufferedBytesMax / 2) return;
    this.#stopSlow();
    this.#stopSlow = undefined;
    for (const subscription of this.#subscriptions.values()) this.#pumpSubscription(subscription);
    for (const { session } of this.#streams.values()) session?.pump();
  }

  #sendError(thrown: unknown, id?: string): void {
    this.#send({ type: 'error', ...(id !== undefined && { id }), error: this.#errorOf(thrown) });
  }

  #errorOf(thrown: unknown): (ServerMessage & { type: 'error' })['error'] {
    return errorDocument(toRunnerError(thrown), this.#options.id).error;
  }
}

function documentOf(entry: Numbered<LogLine | GatewayEvent>): (ServerMessage & { type: 'event' })['event'] {
  const { id, topic, item } = entry;
  return 'kind' in item ? eventDocument({ id, topic, item }) : lineDocument({ id, topic, item });
}
