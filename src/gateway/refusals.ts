/** Refusals on connections where no request is to be answered: what came is not HTTP, or would be a tunnel. */

import type { ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { RunnerError } from '../errors.ts';
import { JSON_TYPE, errorDocument, statusOf } from './http.ts';

export class Refusals {
  /** Answers of a connection that are not complete, oldest first. */
  readonly #open = new WeakMap<Duplex, Set<ServerResponse>>();
  readonly #refused = new WeakSet<Duplex>();

  /** An answer is begun: a refusal on its connection comes after it, until `ended`. */
  begun(response: ServerResponse): void {
    const { socket } = response.req;
    let open = this.#open.get(socket);
    if (!open) this.#open.set(socket, (open = new Set()));
    open.add(response);
  }

  /** An answer is complete, or never will be. */
  ended(response: ServerResponse): void {
    this.#open.get(response.req.socket)?.delete(response);
  }

  /** Whether the connection has answers that are not complete. */
  isBusy(socket: Duplex): boolean {
    return (this.#open.get(socket)?.size ?? 0) > 0;
  }

  /** Whether it is refused: nothing that comes over it counts. */
  isOver(socket: Duplex): boolean {
    return this.#refused.has(socket);
  }

  /**
   * Answers and ends the connection, after the answers to what was sent before: whoever sent those must not take the refusal for one of
   * theirs. Of a request that breaks off in the middle it is the answer. Once for each connection.
   */
  async refuse(socket: Duplex, error: RunnerError, id: string): Promise<void> {
    if (this.#refused.has(socket)) return;
    this.#refused.add(socket);
    socket.on('error', () => {});
    const open = [...(this.#open.get(socket) ?? [])];
    const before = open.filter(({ req }) => req.complete);
    await Promise.all(before.map((response) => new Promise<void>((resolve) => response.once('close', () => resolve()))));
    const isAnswered = open.some(({ req, headersSent }) => !req.complete && headersSent);
    if (!socket.writable || socket.destroyed || isAnswered) {
      socket.destroy();
      return;
    }
    const body = JSON.stringify(errorDocument(error, id));
    const head = [
      `HTTP/1.1 ${statusOf(error)} Refused`,
      `content-type: ${JSON_TYPE}`,
      `content-length: ${Buffer.byteLength(body)}`,
      `x-request-id: ${id}`,
      'connection: close',
    ];
    socket.end(`${head.join('\r\n')}\r\n\r\n${body}`, () => socket.destroy());
  }
}
