/** One request on its way through the server, from its head until its answer has left. */

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { RunnerError } from '../errors.ts';
import type { CancelSignal } from '../runtime/runtime.ts';
import type { Caller, Route } from './http.ts';

const ONE_PIECE_BYTES_MAX = 4_096;

/** That a client is gone. */
export class Departure implements CancelSignal {
  reason: unknown;
  aborted = false;
  readonly #listeners = new Set<() => void>();

  abort(reason: RunnerError): void {
    if (this.aborted) return;
    this.aborted = true;
    this.reason = reason;
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
  }

  addEventListener(_type: 'abort', listener: () => void): void {
    this.#listeners.add(listener);
  }

  removeEventListener(_type: 'abort', listener: () => void): void {
    this.#listeners.delete(listener);
  }
}

/** What is short leaves with the headers, in one piece. */
export function endWith(response: ServerResponse, body: Uint8Array | string | undefined): void {
  if (body instanceof Uint8Array && body.length <= ONE_PIECE_BYTES_MAX)
    response.end((Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength)).toString('latin1'), 'latin1');
  else response.end(body);
}

export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly awaitsContinue: boolean;
  readonly id: string;
  readonly gone: Departure;
  readonly startedAt: number;
  /** What this request holds. */
  readonly cleanUps: (() => void)[];
  route?: Route;
  params?: Readonly<Record<string, string>>;
  caller?: Caller;
  corsOrigin?: string | undefined;
  status?: number;
  /** Of the error that was answered. */
  code?: string;
  /** Why the answer broke off. */
  broken?: string;
}
