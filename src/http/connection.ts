/** What executor and deployer share: addresses, credentials, and one client per origin. */

import { RunnerError } from '../errors.ts';
import { Secret } from '../plugin/secret.ts';
import type { Clock } from '../clock.ts';
import type { SecretReference } from '../plugin/secret.ts';
import { HttpClient } from './http.ts';
import type { HttpRequest, HttpResponse, TlsFiles } from './http.ts';
import { inTime } from './in-time.ts';

export interface ConnectionOptions {
  /** Sent as `Authorization: Bearer <secret>`. */
  readonly bearer?: SecretReference | undefined;
  /** Header names and where their secret values are. */
  readonly headers?: Readonly<Record<string, SecretReference>> | undefined;
  readonly tls?: TlsFiles | undefined;
  /** Connect to this unix socket, whatever host the address names. The address `unix:/path` says the same. */
  readonly socketPath?: string | undefined;
  /** Connections per origin. Default 256. */
  readonly connectionsMax?: number | undefined;
  readonly clock?: Clock | undefined;
}

/** A parsed address. */
export interface Target {
  readonly origin: string;
  readonly socketPath: string | undefined;
  /** Without a slash at its end. */
  readonly path: string;
}

/** Parses `http://`, `https://` and `unix:/path/of/socket`, without a password or a query. Throws `CONFIG_INVALID`. */
export function parseTarget(url: string): Target {
  if (url.startsWith('unix:/')) return { origin: 'http://localhost', socketPath: url.slice('unix:'.length), path: '' };
  const parsed = URL.parse(url);
  if (!parsed || (parsed.protocol !== 'http:' && parsed.protocol !== 'https:')) {
    throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(url)} is not an address; write http://host, https://host or unix:/path`);
  }
  if (parsed.username || parsed.password || parsed.search) {
    throw new RunnerError(
      'CONFIG_INVALID',
      `the address of ${parsed.host} has a password or a query, which is not sent; give it by reference, as bearer or in headers`,
    );
  }
  return { origin: parsed.origin, socketPath: undefined, path: parsed.pathname.replace(/\/+$/, '') };
}

/** Clients by origin, and the credentials that each request gets. */
export class Connections {
  readonly #options: ConnectionOptions;
  readonly #clock: Clock;
  readonly #credentials: (readonly [string, Secret, string])[] = [];
  readonly #clients = new Map<string, HttpClient>();
  #closing: Promise<void> | undefined;

  constructor(options: ConnectionOptions, clock: Clock) {
    this.#options = options;
    this.#clock = clock;
    if (options.bearer !== undefined) this.#credentials.push(['authorization', new Secret(options.bearer, { clock }), 'Bearer ']);
    for (const [name, reference] of Object.entries(options.headers ?? {})) this.addHeader(name, reference);
  }

  addHeader(name: string, reference: SecretReference): void {
    if (!/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/.test(name))
      throw new RunnerError('CONFIG_INVALID', `${JSON.stringify(name)} is not the name of a header`);
    this.#credentials.push([name.toLowerCase(), new Secret(reference, { clock: this.#clock }), '']);
  }

  /** Adds the credentials to the request and sends it; errors as of `HttpClient.send`. */
  send(target: Target, request: HttpRequest): Promise<HttpResponse> {
    if (this.#closing) return Promise.reject(new RunnerError('EXECUTOR_CLOSED', `the connections to ${target.origin} are closed`));
    const client = this.#clientOf(target);
    if (this.#credentials.length === 0) return client.send(request);
    return this.#sendWithCredentials(client, request);
  }

  close(): Promise<void> {
    this.#closing ??= Promise.all([...this.#clients.values()].map((client) => client.close())).then(() => {});
    return this.#closing;
  }

  #clientOf(target: Target): HttpClient {
    const socketPath = target.socketPath ?? this.#options.socketPath;
    const key = socketPath === undefined ? target.origin : `${target.origin} ${socketPath}`;
    let client = this.#clients.get(key);
    if (!client) {
      const { tls, connectionsMax = 256 } = this.#options;
      client = new HttpClient(target.origin, { clock: this.#clock, socketPath, tls, connectionsMax });
      this.#clients.set(key, client);
    }
    return client;
  }

  async #sendWithCredentials(client: HttpClient, request: HttpRequest): Promise<HttpResponse> {
    const headers = [...request.headers];
    for (const [name, secret, prefix] of this.#credentials) {
      const given = secret.read();
      const value = typeof given === 'string' ? given : await inTime(given, { ...request, clock: this.#clock });
      // The value itself is not repeated: it is a secret.
      if (!/^[\x20-\x7e]+$/.test(value))
        throw new RunnerError('CONFIG_INVALID', `the secret from ${secret.source} cannot be sent in a header`);
      headers.push(name, prefix + value);
    }
    return client.send({ ...request, headers });
  }
}
