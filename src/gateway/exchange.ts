/** One request on its way through the server, from its head until its answer has left. */

import type { ServerResponse } from 'node:http';
import type { RunnerError } from '../errors.ts';
import type { CancelSignal } from '../runtime/runtime.ts';
import type { ServerRequest } from './body.ts';
import type { Caller, Route } from './http.ts';

const ONE_PIECE_BYTES_MAX = 4_096;

/** That a client is gone. */
export class Departure implements CancelSignal {
  reason: unknown = undefined;
  aborted = false;
  /** Its place among those of other requests. */
  place = -1;
  /** Few, of one request. */
  #listeners: (() => void)[] = [];

  abort(reason: RunnerError): void {
    if (this.aborted) return;
    this.aborted = true;
    this.reason = reason;
    const listeners = this.#listeners;
    this.#listeners = [];
    for (const listener of listeners) listener();
  }

  addEventListener(_type: 'abort', listener: () => void): void {
    this.#listeners.push(listener);
  }

  removeEventListener(_type: 'abort', listener: () => void): void {
    const at = this.#listeners.indexOf(listener);
    if (at >= 0) this.#listeners.splice(at, 1);
  }
}

/** An array: a Set that lives long leaves old tables behind, which keep what came later from being freed before a full collection. */
export class Departures {
  readonly #all: Departure[] = [];

  get size(): number {
    return this.#all.length;
  }

  all(): readonly Departure[] {
    return [...this.#all];
  }

  add(departure: Departure): void {
    departure.place = this.#all.length;
    this.#all.push(departure);
  }

  /** Does nothing for one that is not there. */
  delete(departure: Departure): void {
    const { place } = departure;
    if (place < 0) return;
    departure.place = -1;
    const last = this.#all.pop();
    if (!last || last === departure) return;
    this.#all[place] = last;
    last.place = place;
  }
}

/**
 * `size`: its bytes. What is short leaves with the headers, in one piece. A text of as many bytes as characters is ASCII: Node writes it without
 * room for the three bytes that a character may take, and at once up to 16 KiB.
 */
export function endWith(response: ServerResponse, body: Uint8Array | string | undefined, size: number): void {
  if (body instanceof Uint8Array && size <= ONE_PIECE_BYTES_MAX)
    response.end((Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength)).toString('latin1'), 'latin1');
  else if (typeof body === 'string' && body.length === size) response.end(body, 'latin1');
  else response.end(body);
}

export interface Exchange {
  readonly request: ServerRequest;
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
