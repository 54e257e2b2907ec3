/** New heads as the node announces them over a websocket. Only a hint that comes early: what is true is read and checked elsewhere. */

import { WebSocket } from 'ws';
import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import { checkChainId } from './rpc-answers.ts';

export interface PushOptions {
  /** ws: or wss: URL. Only scheme, host and port of it are ever shown. */
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Heads of another chain are none. */
  readonly chainId: number;
  readonly clock: Clock;
  /** The raw header of a new block. */
  readonly onHead: (header: unknown) => void;
  /** The subscription began, or it ended and why. */
  readonly onState: (connected: boolean, reason?: string) => void;
}

const RECONNECT_MS_MIN = 250;
const RECONNECT_MS_MAX = 5000;
const PING_MS = 15_000;
const HANDSHAKE_MS = 10_000;
/** A header is some 2 kB. */
const MESSAGE_BYTES_MAX = 1024 * 1024;
const ASK_CHAIN = JSON.stringify({ jsonrpc: '2.0', id: 0, method: 'eth_chainId', params: [] });
const SUBSCRIBE = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'eth_subscribe', params: ['newHeads'] });

/** Keeps one subscription alive: connects again by itself, with growing pauses, until it is closed. */
export class HeadPush {
  readonly label: string;
  readonly #options: PushOptions;
  #socket: WebSocket | undefined;
  #connected = false;
  #failures = 0;
  #closed = false;
  #heard = true;
  #cancelPing: CancelTimer | undefined;
  #cancelReconnect: CancelTimer | undefined;

  constructor(options: PushOptions) {
    const url = URL.parse(options.url);
    if (!url || (url.protocol !== 'ws:' && url.protocol !== 'wss:')) {
      throw new RunnerError('CONFIG_INVALID', 'the websocket endpoint must be a ws: or wss: URL');
    }
    this.label = url.origin === 'null' ? `${url.protocol}//${url.host}` : url.origin;
    this.#options = options;
  }

  /** Heads are being announced, as far as one can tell. */
  get connected(): boolean {
    return this.#connected;
  }

  start(): void {
    const { url, headers } = this.#options;
    const socket = new WebSocket(url, {
      handshakeTimeout: HANDSHAKE_MS,
      maxPayload: MESSAGE_BYTES_MAX,
      perMessageDeflate: false,
      ...(headers && { headers }),
    });
    this.#socket = socket;
    socket.on('open', () => {
      socket.send(ASK_CHAIN);
      this.#ping(socket);
    });
    // as: the binary type of the socket is the default one
    socket.on('message', (data) => this.#receive(socket, (data as Buffer).toString('utf8')));
    socket.on('pong', () => (this.#heard = true));
    let reason: string | undefined;
    // The message of a handshake error names the status only, not the URL.
    socket.on('error', (error) => (reason = error.message));
    socket.on('close', () => this.#lost(socket, reason ?? 'the connection was closed'));
  }

  /** Drops the present connection and makes a new one. */
  restart(reason: string): void {
    const socket = this.#socket;
    if (!socket || this.#closed) return;
    this.#lost(socket, reason);
    socket.terminate();
  }

  close(): void {
    this.#closed = true;
    this.#cancelPing?.();
    this.#cancelReconnect?.();
    this.#connected = false;
    this.#socket?.terminate();
  }

  #receive(socket: WebSocket, text: string): void {
    if (socket !== this.#socket) return;
    this.#heard = true;
    let message: {
      readonly id?: unknown;
      readonly error?: { readonly message?: unknown };
      readonly result?: unknown;
      readonly method?: unknown;
      readonly params?: { readonly result?: unknown };
    };
    try {
      message = JSON.parse(text) as typeof message; // as: every field is checked where it is used
    } catch (error) {
      this.restart(`not JSON: ${toRunnerError(error).message}`);
      return;
    }
    if (message?.method === 'eth_subscription' && message.params?.result !== undefined) {
      this.#failures = 0;
      this.#options.onHead(message.params.result);
    } else if (message?.id === 0) {
      try {
        // A node that does not say it may push all the same.
        if (!message.error) checkChainId(message.result, this.#options.chainId, 'it');
        socket.send(SUBSCRIBE);
      } catch (error) {
        this.restart(toRunnerError(error).message);
      }
    } else if (message?.id === 1) {
      if (message.error) {
        this.restart(`the subscription was refused: ${String(message.error.message).slice(0, 200)}`);
        return;
      }
      this.#connected = true;
      this.#options.onState(true);
    }
  }

  #ping(socket: WebSocket): void {
    this.#heard = true;
    const next = (): void => {
      if (!this.#heard) {
        this.restart(`no answer to a ping within ${PING_MS} ms`);
        return;
      }
      this.#heard = false;
      socket.ping();
      this.#cancelPing = this.#options.clock.after(PING_MS, next);
    };
    this.#cancelPing = this.#options.clock.after(PING_MS, next);
  }

  #lost(socket: WebSocket, reason: string): void {
    if (socket !== this.#socket) return;
    this.#socket = undefined;
    this.#cancelPing?.();
    this.#connected = false;
    if (this.#closed) return;
    this.#options.onState(false, reason);
    const waitMs = Math.min(RECONNECT_MS_MAX, RECONNECT_MS_MIN * 2 ** Math.min(this.#failures, 10));
    this.#failures++;
    this.#cancelReconnect = this.#options.clock.after(waitMs, () => this.start());
  }
}
