/** The WebSocket of the client. No Node. */

import type { LogLineDocument, ReportDocument } from './api.ts';
import { GatewayError, errorOf, fromBase64 } from './client-wire.ts';
import type { InstanceEventDocument, InvocationEventDocument } from './events.ts';
import type { ClientMessage, ServerMessage } from './socket-messages.ts';

const RETRY_MS_MAX = 5_000;
const FAILURES_MAX = 10;

/** `readyState` of a socket that can be written to. */
const OPEN = 1;

function lost(id: string): ServerMessage {
  const message = 'the WebSocket was lost, or is not taken';
  return { type: 'error', id, error: { code: 'EXECUTOR_CONNECTION_LOST', message, details: {}, request_id: '' } };
}

interface TopicEvents {
  readonly instances: InstanceEventDocument;
  readonly invocations: InvocationEventDocument;
}

type Listener = (message: ServerMessage) => void;

/**
 * Messages over one WebSocket that is opened when it is needed, and again when it was lost: subscriptions and streams go on from where they
 * were.
 */
export class GatewayChannel {
  readonly #open: () => WebSocket;
  readonly #sleep: (ms: number) => Promise<void>;
  readonly #listeners = new Map<string, { readonly listener: Listener; readonly again: () => ClientMessage | undefined }>();
  #socket: WebSocket | undefined;
  #count = 0;
  #failures = 0;
  #isClosed = false;

  constructor(open: () => WebSocket, sleep: (ms: number) => Promise<void>) {
    this.#open = open;
    this.#sleep = sleep;
  }

  /** Lines of a function as they are written, after `since` when that is given. Ends with the loop or with `close`. */
  logs(functionName: string, since?: string): AsyncGenerator<LogLineDocument> {
    return this.#subscribe<LogLineDocument>({ topic: 'logs', function: functionName }, since);
  }

  /** What happens to instances or calls, of one function or of all. */
  events<Topic extends keyof TopicEvents>(topic: Topic, functionName?: string, since?: string): AsyncGenerator<TopicEvents[Topic]> {
    return this.#subscribe<TopicEvents[Topic]>({ topic, ...(functionName !== undefined && { function: functionName }) }, since);
  }

  /** As `GatewayClient.stream`; a lost connection is opened again, and no chunk is lost or comes twice. */
  async *stream<Input = unknown>(functionName: string, input: Input, qualifier?: string): AsyncGenerator<Uint8Array, ReportDocument> {
    const id = this.#newId();
    let streamId: string | undefined;
    let last = 0;
    let isAsked = false;
    const again = (): ClientMessage | undefined => {
      if (streamId !== undefined) return { type: 'resume', id, stream: streamId, after: last };
      // What became of a call whose connection was lost before its answer began, nobody knows.
      if (isAsked) return undefined;
      isAsked = true;
      return { type: 'invoke', id, function: functionName, payload: input, ...(qualifier !== undefined && { qualifier }) };
    };
    // Counted as they come: the gateway forgets what it has sent, whether it has been read here or not.
    const takes = (message: ServerMessage): boolean => {
      if (message.type === 'started') streamId = message.stream;
      if (message.type !== 'chunk') return true;
      if (message.seq !== last + 1) return false;
      last = message.seq;
      return true;
    };
    const inbox = this.#listen(id, again, takes);
    let isOver = false;
    try {
      for await (const message of inbox.messages()) {
        isOver = message.type === 'end' || message.type === 'error';
        if (message.type === 'chunk') yield fromBase64(message.data);
        else if (message.type === 'end') return message.report;
        else if (message.type === 'error') throw errorOf(message, 200);
      }
      throw new GatewayError('the channel was closed', { code: 'UNREACHABLE', status: 0 });
    } finally {
      inbox.end();
      if (!isOver) this.#tell({ type: 'cancel', id });
    }
  }

  close(): void {
    this.#isClosed = true;
    this.#socket?.close(1000);
    for (const { listener } of this.#listeners.values()) listener({ type: 'pong' });
  }

  async *#subscribe<T>(
    what: { readonly topic: 'logs' | 'instances' | 'invocations'; readonly function?: string },
    since?: string,
  ): AsyncGenerator<T> {
    const id = this.#newId();
    let last = since;
    const again = (): ClientMessage => ({ type: 'subscribe', id, ...what, ...(last !== undefined && { since: last }) });
    // From here a lost connection is gone on, also before the first event.
    const takes = (message: ServerMessage): boolean => {
      if (message.type === 'event') last = message.event_id;
      else if (message.type === 'subscribed') last ??= message.event_id;
      return message.type === 'event' || message.type === 'error';
    };
    const inbox = this.#listen(id, again, takes);
    let isOver = false;
    try {
      for await (const message of inbox.messages()) {
        isOver = message.type === 'error';
        if (message.type === 'error') throw errorOf(message, 200);
        // A subscription carries events of its topic alone.
        if (message.type === 'event') yield message.event as T;
      }
    } finally {
      inbox.end();
      if (!isOver) this.#tell({ type: 'unsubscribe', id });
    }
  }

  /** `again` makes what is asked with each new connection; what is not taken is not told. */
  #listen(
    id: string,
    again: () => ClientMessage | undefined,
    takes: (message: ServerMessage) => boolean,
  ): { messages(): AsyncGenerator<ServerMessage>; end(): void } {
    const waiting: ServerMessage[] = [];
    let wake: (() => void) | undefined;
    const listener: Listener = (message) => {
      if (takes(message)) waiting.push(message);
      wake?.();
    };
    this.#listeners.set(id, { listener, again });
    this.#ask(id);
    const isOver = (): boolean => this.#isClosed;
    return {
      async *messages() {
        while (!isOver()) {
          const next = waiting.shift();
          if (next) yield next;
          else await new Promise<void>((resolve) => (wake = resolve));
        }
      },
      end: () => this.#listeners.delete(id),
    };
  }

  #newId(): string {
    this.#count += 1;
    return `c${this.#count}`;
  }

  /** What this listener wants, now or once there is a connection. */
  #ask(id: string): void {
    if (this.#isClosed) return;
    const socket = this.#socket;
    const entry = this.#listeners.get(id);
    if (!socket) this.#connect();
    else if (socket.readyState === OPEN && entry) {
      const message = entry.again();
      if (message) socket.send(JSON.stringify(message));
      else entry.listener(lost(id));
    }
  }

  #tell(message: ClientMessage): void {
    if (this.#socket?.readyState === OPEN && !this.#isClosed) this.#socket.send(JSON.stringify(message));
  }

  #connect(): void {
    const socket = this.#open();
    this.#socket = socket;
    socket.addEventListener('open', () => {
      this.#failures = 0;
      // Whatever is wanted is asked for, from where it was.
      for (const id of this.#listeners.keys()) this.#ask(id);
    });
    socket.addEventListener('message', ({ data }: { readonly data: unknown }) => {
      // The gateway's messages are those of socket-messages.ts.
      const message = JSON.parse(String(data)) as ServerMessage;
      if ('id' in message && message.id !== undefined) this.#listeners.get(message.id)?.listener(message);
    });
    socket.addEventListener('close', () => void this.#reconnect(socket));
    socket.addEventListener('error', () => {});
  }

  async #reconnect(old: WebSocket): Promise<void> {
    if (this.#socket !== old) return;
    if (this.#isClosed || this.#listeners.size === 0) {
      this.#socket = undefined;
      return;
    }
    this.#failures += 1;
    if (this.#failures > FAILURES_MAX) {
      this.#socket = undefined;
      for (const [id, { listener }] of this.#listeners) listener(lost(id));
      return;
    }
    await this.#sleep(Math.min(RETRY_MS_MAX, 50 * 2 ** this.#failures));
    if (this.#socket === old && !this.#isClosed) this.#connect();
  }
}
