/** Refusals on connections where no request is to be answered: what came is not HTTP, or would be a tunnel. */

import type { ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { RunnerError } from '../errors.ts';
import { JSON_TYPE, errorDocument, statusOf } from './http.ts';

/** What is known of a connection. */
export interface Connection {
  /** Answers that are not complete, oldest first: a refusal comes after them. */
  readonly open: ServerResponse[];
  /** Nothing that comes over it counts. */
  isRefused: boolean;
}

export class Refusals {
  readonly #connections = new WeakMap<Duplex, Connection>();

  connectionOf(socket: Duplex): Connection {
    let connection = this.#connections.get(socket);
    if (!connection) this.#connections.set(socket, (connection = { open: [], isRefused: false }));
    return connection;
  }

  /**
   * Answers and ends the connection, after the answers to what was sent before: whoever sent those must not take the refusal for one of
   * theirs. Of a request that breaks off in the middle it is the answer. Once for each connection.
   */
  async refuse(socket: Duplex, error: RunnerError, id: string): Promise<void> {
    const connection = this.connectionOf(socket);
    if (connection.isRefused) return;
    connection.isRefused = true;
    socket.on('error', () => {});
    const open = [...connection.open];
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

/** Headers that HTTP wants with a refusal, whatever the API. */
export function refusalHeaders(error: RunnerError): Record<string, string> {
  const { allow } = error.details;
  return {
    ...(statusOf(error) === 401 && { 'www-authenticate': 'Bearer' }),
    ...(typeof allow === 'string' && { allow }),
  };
}

/** What the parser of HTTP refuses before there is a request. */
export function parserError(error: NodeJS.ErrnoException): RunnerError {
  const status = error.code === 'HPE_HEADER_OVERFLOW' ? 431 : error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : 400;
  const what = { 400: 'the request is not HTTP', 408: 'the request did not come in time', 431: 'the headers are too large' }[status];
  return new RunnerError('REQUEST_INVALID', `${what} (${error.code ?? error.message})`, { details: { status } });
}
