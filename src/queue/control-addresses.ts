/** Where a control plane is: the addresses of its ticket, and the key of its TLS. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { HttpClient } from '../http/http.ts';
import { isLoopbackUrl } from './ticket.ts';

export interface ControlPlace {
  readonly urls: readonly string[];
  readonly tlsKeySha256?: string | undefined;
}

const SHORT_CONNECTIONS = 64;
const WAITING_CONNECTIONS = 4_096;

/** Of several the one that answered last is asked. */
export class ControlAddresses {
  readonly #place: ControlPlace;
  /** Of each address: for what is answered at once, and for what waits. */
  readonly #clients: readonly { readonly short: HttpClient; readonly waiting: HttpClient }[];
  #at = 0;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(place: ControlPlace, clock: Clock) {
    const { urls, tlsKeySha256: pin } = place;
    const plain = urls.find((url) => !url.startsWith('https:') && !isLoopbackUrl(url));
    if (plain !== undefined) throw new RunnerError('CONFIG_INVALID', `${plain} is neither https nor on this machine`);
    this.#place = place;
    this.#clients = urls.map((url) => {
      const client = (connectionsMax: number): HttpClient =>
        new HttpClient(url, { clock, connectionsMax, ...(pin !== undefined && { tls: { serverKeySha256: pin } }) });
      return { short: client(SHORT_CONNECTIONS), waiting: client(WAITING_CONNECTIONS) };
    });
  }

  get url(): string | undefined {
    return this.#place.urls[this.#at];
  }

  isOf({ urls, tlsKeySha256 }: ControlPlace): boolean {
    return urls.join(' ') === this.#place.urls.join(' ') && tlsKeySha256 === this.#place.tlsKeySha256;
  }

  client(kind: 'short' | 'waiting'): HttpClient {
    const client = this.#clients[this.#at]?.[kind];
    if (!client) throw new RunnerError('CONFIG_INVALID', 'there is no address of a control plane');
    return client;
  }

  /** Nobody is at this one. */
  next(): void {
    this.#at = (this.#at + 1) % this.#place.urls.length;
  }

  /** What is under way is finished. Idempotent. */
  async close(): Promise<void> {
    await Promise.all(this.#clients.flatMap(({ short, waiting }) => [short.close(), waiting.close()]));
  }
}
