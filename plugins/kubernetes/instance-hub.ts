/** Where the agents of instances report: one port for all, TLS with a key for each. */

import { connect as connectTo } from 'node:net';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:tls';
import type { TLSSocket, Server } from 'node:tls';
import { RunnerError } from '../../src/plugin.ts';
import type { Clock } from '../../src/plugin.ts';

/** Forward secrecy, and authenticated by the key that both sides have: RFC 7905. */
export const CIPHER = 'ECDHE-PSK-CHACHA20-POLY1305';
const HELLO_MS = 10_000;
const KEEP_ALIVE_MS = 30_000;
const PURPOSE_BYTES_MAX = 16;
const FRAME_BYTES_MAX = 1_024 * 1_024;
const HEAD_BYTES = 5;
/** What one instance may write in a window, 4 MiB a second: this process reads it between all its other work. */
const OUTPUT_BYTES_MAX = 410 * 1_024;
const WINDOW_MS = 100;
/** At the same time, of one instance. */
const CONNECTIONS_MAX = 64;

export interface AgentEnd {
  readonly code: number | null;
  readonly signal: string | null;
  readonly outOfMemory: boolean;
}

/** One instance that is expected, or there. */
export interface AgentLink {
  readonly key: Buffer;
  /** Of its Runtime API. */
  readonly socketPath: string;
  /** Its program was started. */
  started(): void;
  output(stream: 'stdout' | 'stderr', chunk: Buffer): void;
  /** Its program ended. */
  ended(end: AgentEnd): void;
  /** Its agent is gone. */
  lost(): void;
}

interface Known {
  readonly link: AgentLink;
  readonly sockets: Set<TLSSocket>;
  hasControl: boolean;
}

export class InstanceHub {
  readonly #clock: Clock;
  readonly #known = new Map<string, Known>();
  readonly #identities = new WeakMap<object, string>();
  readonly #sockets = new Set<TLSSocket>();
  #opening: Promise<Server> | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The port. Rejects with `BACKEND_UNAVAILABLE`. */
  async open(host: string, port: number): Promise<number> {
    this.#opening ??= this.#listen(host, port);
    try {
      // A server that listens on a port has one.
      return ((await this.#opening).address() as AddressInfo).port;
    } catch (cause) {
      this.#opening = undefined;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new RunnerError('BACKEND_UNAVAILABLE', `instances cannot report to ${host}:${port}: ${why}`, { cause });
    }
  }

  expect(identity: string, link: AgentLink): void {
    this.#known.set(identity, { link, sockets: new Set(), hasControl: false });
  }

  /** Ends its connections; it cannot come back. */
  forget(identity: string): void {
    const known = this.#known.get(identity);
    this.#known.delete(identity);
    for (const socket of known?.sockets ?? []) socket.destroy();
  }

  async close(): Promise<void> {
    const server = await this.#opening?.catch(() => undefined);
    for (const socket of this.#sockets) socket.destroy();
    if (server) await new Promise<void>((resolve) => void server.close(() => resolve()));
  }

  #listen(host: string, port: number): Promise<Server> {
    return new Promise((resolve, reject) => {
      const server = createServer(
        {
          ciphers: CIPHER,
          minVersion: 'TLSv1.2',
          maxVersion: 'TLSv1.2',
          handshakeTimeout: HELLO_MS,
          // A machine that is lost says nothing.
          keepAlive: true,
          keepAliveInitialDelay: KEEP_ALIVE_MS,
          pskCallback: (socket: object, identity: string) => {
            this.#identities.set(socket, identity);
            return this.#known.get(identity)?.link.key ?? null;
          },
        },
        (socket) => this.#welcome(socket),
      );
      // Strangers are turned away by the handshake.
      server.on('tlsClientError', () => {});
      server.once('error', reject);
      server.listen(port, host, () => {
        server.unref();
        resolve(server);
      });
    });
  }

  #welcome(socket: TLSSocket): void {
    const known = this.#known.get(this.#identities.get(socket) ?? '');
    // That it broke shows in its end.
    socket.on('error', () => {});
    if (!known || known.sockets.size >= CONNECTIONS_MAX) return void socket.destroy();
    for (const set of [known.sockets, this.#sockets]) {
      set.add(socket);
      socket.once('close', () => set.delete(socket));
    }
    socket.setNoDelay(true);
    const cancel = this.#clock.after(HELLO_MS, () => socket.destroy());
    let received = Buffer.alloc(0);
    const read = (data: Buffer): void => {
      received = Buffer.concat([received, data]);
      const line = received.indexOf('\n');
      if (line < 0 && received.length <= PURPOSE_BYTES_MAX) return;
      cancel();
      socket.off('data', read);
      socket.pause();
      this.#assign(socket, known, { purpose: received.toString('latin1', 0, Math.max(0, line)), rest: received.subarray(line + 1) });
    };
    socket.on('data', read);
  }

  #assign(socket: TLSSocket, known: Known, { purpose, rest }: { readonly purpose: string; readonly rest: Buffer }): void {
    if (purpose === 'api') {
      const api = connectTo({ path: known.link.socketPath, allowHalfOpen: true });
      api.on('error', () => socket.destroy());
      socket.once('close', () => api.destroy());
      api.write(rest);
      socket.pipe(api).pipe(socket);
      return;
    }
    if (purpose !== 'control' || known.hasControl) return void socket.destroy();
    known.hasControl = true;
    socket.once('close', () => known.link.lost());
    readFrames(socket, rest, known.link);
    throttle(socket, this.#clock);
  }
}

/** Who writes faster waits: its program does, when it writes its output. */
function throttle(socket: TLSSocket, clock: Clock): void {
  let [bytes, windowEnds] = [0, 0];
  socket.on('data', (data: Buffer) => {
    const now = clock.monotonic();
    if (now >= windowEnds) [bytes, windowEnds] = [0, now + WINDOW_MS];
    bytes += data.length;
    if (bytes < OUTPUT_BYTES_MAX) return;
    socket.pause();
    clock.after(windowEnds - now, () => socket.resume());
  });
}

/** One byte says what it is, four how long it is. */
function readFrames(socket: TLSSocket, first: Buffer, link: AgentLink): void {
  let received: Buffer = Buffer.alloc(0);
  const read = (data: Buffer): void => {
    received = received.length === 0 ? data : Buffer.concat([received, data]);
    while (received.length >= HEAD_BYTES) {
      const length = received.readUInt32BE(1);
      if (length > FRAME_BYTES_MAX) return void socket.destroy();
      if (received.length < HEAD_BYTES + length) return;
      const kind = received[0];
      const payload = received.subarray(HEAD_BYTES, HEAD_BYTES + length);
      received = received.subarray(HEAD_BYTES + length);
      if (kind === 0) link.started();
      else if (kind === 1 || kind === 2) link.output(kind === 1 ? 'stdout' : 'stderr', payload);
      else if (kind === 3) link.ended(endIn(payload));
      else return void socket.destroy();
    }
  };
  socket.on('data', read);
  if (first.length > 0) read(first);
  socket.resume();
}

/** The program shares the pod with the agent: nothing is taken on trust. */
function endIn(payload: Buffer): AgentEnd {
  let given: unknown;
  try {
    given = JSON.parse(payload.toString('utf8'));
  } catch {
    given = undefined;
  }
  const { code, signal, outOfMemory } = (typeof given === 'object' && given !== null ? given : {}) as Partial<Record<string, unknown>>;
  return {
    code: typeof code === 'number' ? code : null,
    signal: typeof signal === 'string' ? signal : null,
    outOfMemory: outOfMemory === true,
  };
}
