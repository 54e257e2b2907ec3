/**
 * Tokens of Google: access tokens for the services, ID tokens for functions.
 *
 * https://developers.google.com/identity/protocols/oauth2/service-account, https://docs.cloud.google.com/run/docs/authenticating/service-to-service
 */

import { sign } from 'node:crypto';
import { RunnerError, Secret, fieldsOf, isRunnerError, parseTarget, text } from '../../src/plugin.ts';
import type { Clock, Connections, HttpRequest, HttpResponse, SecretReference } from '../../src/plugin.ts';
import { endpointOf } from './options.ts';
import type { GcpAuthOptions } from './options.ts';

interface Token {
  readonly value: string;
  /** Milliseconds since the epoch. */
  readonly until: number;
}

export interface TokenSurroundings {
  readonly clock: Clock;
  readonly connections: Connections;
  readonly environment?: NodeJS.ProcessEnv | undefined;
}

const SCOPE = 'https://www.googleapis.com/auth/cloud-platform';
const TOKEN_URI = 'https://oauth2.googleapis.com/token';
const METADATA = 'http://metadata.google.internal';
const METADATA_PATH = '/computeMetadata/v1/instance/service-accounts/default';
const METADATA_HEADERS = ['metadata-flavor', 'Google'];
const JWT_SECONDS = 3_600;
/** A token is renewed so long before it ends: what was sent with it must still arrive. */
const EARLY_MS = 120_000;
const TIMEOUT_MS = 30_000;
/** Outside of GCP nobody answers at all. */
const METADATA_TIMEOUT_MS = 5_000;
const RESPONSE_BYTES_MAX = 1024 * 1024;

/** The credentials of somebody, as their file has them. */
type Credentials = Readonly<Record<string, unknown>>;

/**
 * Gets tokens and keeps them until shortly before their end; what is asked for at the same time is fetched once. Rejects with
 * `CREDENTIALS_MISSING`, `EXECUTOR_UNAUTHORIZED`, `PLATFORM_UNREACHABLE`.
 */
export class Tokens {
  readonly #options: GcpAuthOptions;
  readonly #clock: Clock;
  readonly #connections: Connections;
  readonly #environment: NodeJS.ProcessEnv;
  readonly #kept = new Map<string, Promise<Token>>();
  readonly #token: Secret | undefined;
  readonly #idToken: Secret | undefined;
  readonly #credentials: Secret | undefined;

  /** Reads no secret. Throws `CONFIG_INVALID`. */
  constructor(options: GcpAuthOptions, { clock, connections, environment = process.env }: TokenSurroundings) {
    this.#options = options;
    this.#clock = clock;
    this.#connections = connections;
    this.#environment = environment;
    const secretOf = (reference: SecretReference | undefined): Secret | undefined =>
      reference === undefined ? undefined : new Secret(reference, { clock, environment });
    const { CLOUDSDK_AUTH_ACCESS_TOKEN: fromVariable, GOOGLE_APPLICATION_CREDENTIALS: file } = environment;
    const { token, credentials, idToken } = options;
    this.#token = secretOf(token ?? (credentials === undefined && fromVariable ? 'env:CLOUDSDK_AUTH_ACCESS_TOKEN' : undefined));
    this.#credentials = secretOf(credentials ?? (file ? `file:${file}` : undefined));
    this.#idToken = secretOf(idToken);
  }

  /** For the services. */
  async access(): Promise<string> {
    if (this.#token) return read(this.#token);
    return this.#get('', async () => {
      const credentials = await this.#readCredentials();
      if (credentials) return this.#granted(await this.#grant(credentials, { scope: SCOPE }), 'access_token');
      return this.#granted(await this.#metadata(`${METADATA_PATH}/token`), 'access_token');
    });
  }

  /** For a function; its address is the audience. */
  async identity(audience: string): Promise<string> {
    if (this.#idToken) return read(this.#idToken);
    return this.#get(audience, async () => {
      const { serviceAccount } = this.#options;
      if (serviceAccount !== undefined) return this.#generated(serviceAccount, audience);
      if (this.#token) {
        const message = `an access token from ${this.#token.source} does not open a function: give the option serviceAccount or idToken, or credentials of a service account`;
        throw new RunnerError('CREDENTIALS_MISSING', message);
      }
      const credentials = await this.#readCredentials();
      if (credentials) return this.#granted(await this.#grant(credentials, { target_audience: audience }), 'id_token');
      const path = `${METADATA_PATH}/identity?audience=${encodeURIComponent(audience)}&format=full`;
      return identityToken((await this.#metadata(path)).body, this.#clock.now());
    });
  }

  /** Whether the ID token for this audience was fetched before. */
  keeps(audience: string): boolean {
    return this.#kept.has(audience);
  }

  /** After a refusal: the next one is fetched anew. */
  forget(): void {
    this.#kept.clear();
  }

  async #get(key: string, fetch: () => Promise<Token>): Promise<string> {
    const kept = this.#kept.get(key);
    if (kept) {
      const { value, until } = await kept;
      if (until - EARLY_MS > this.#clock.now()) return value;
      if (this.#kept.get(key) === kept) this.#kept.delete(key);
      return this.#get(key, fetch);
    }
    const fetched = fetch();
    this.#kept.set(key, fetched);
    // Only what was got is kept. A token that ends at once is used this once.
    fetched.catch(() => this.#kept.delete(key));
    return (await fetched).value;
  }

  async #readCredentials(): Promise<Credentials | undefined> {
    if (!this.#credentials) return undefined;
    const credentials = fieldsOf(Buffer.from(await read(this.#credentials)));
    if (credentials) return credentials;
    throw new RunnerError('CREDENTIALS_MISSING', `what ${this.#credentials.source} holds is no JSON of credentials`);
  }

  async #grant(credentials: Credentials, claims: Readonly<Record<string, string>>): Promise<HttpResponse> {
    const uri = this.#options.endpoints?.token ?? text(credentials['token_uri']) ?? TOKEN_URI;
    const body = credentials['type'] === 'authorized_user' ? refreshForm(credentials) : this.#assertionForm(credentials, claims);
    return this.#send(uri, {
      method: 'POST',
      headers: ['content-type', 'application/x-www-form-urlencoded'],
      body: Buffer.from(new URLSearchParams(body).toString()),
    });
  }

  #assertionForm(credentials: Credentials, claims: Readonly<Record<string, string>>): Record<string, string> {
    const { type, client_email: issuer, private_key: key, private_key_id: keyId, token_uri: audience = TOKEN_URI } = credentials;
    if (type !== 'service_account' || typeof issuer !== 'string' || typeof key !== 'string') {
      const message = `credentials of the type ${String(type)} are not supported: service_account and authorized_user are; for others give a token`;
      throw new RunnerError('CREDENTIALS_MISSING', message);
    }
    const now = Math.floor(this.#clock.now() / 1_000);
    const head = { alg: 'RS256', typ: 'JWT', ...(typeof keyId === 'string' && { kid: keyId }) };
    const payload = { iss: issuer, sub: issuer, aud: audience, iat: now, exp: now + JWT_SECONDS, ...claims };
    const signed = [head, payload].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
    try {
      const signature = sign('RSA-SHA256', Buffer.from(signed), key).toString('base64url');
      return { grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', assertion: `${signed}.${signature}` };
    } catch {
      // The cause would show the key.
      throw new RunnerError('CREDENTIALS_MISSING', `the private key of ${issuer} cannot be read`);
    }
  }

  /** https://docs.cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateIdToken */
  async #generated(serviceAccount: string, audience: string): Promise<Token> {
    const base = endpointOf('iamCredentials', this.#options);
    const response = await this.#send(`${base}/v1/projects/-/serviceAccounts/${encodeURIComponent(serviceAccount)}:generateIdToken`, {
      method: 'POST',
      headers: ['content-type', 'application/json', 'authorization', `Bearer ${await this.access()}`],
      body: Buffer.from(JSON.stringify({ audience, includeEmail: true })),
    });
    return identityToken(Buffer.from(text(fieldsOf(response.body)?.['token']) ?? ''), this.#clock.now());
  }

  async #metadata(path: string): Promise<HttpResponse> {
    const { GCE_METADATA_HOST: host } = this.#environment;
    const base = this.#options.endpoints?.metadata ?? (host ? `http://${host}` : METADATA);
    try {
      return await this.#send(base + path, { method: 'GET', headers: METADATA_HEADERS }, METADATA_TIMEOUT_MS);
    } catch (cause) {
      if (!isRunnerError(cause) || cause.code !== 'PLATFORM_UNREACHABLE') throw cause;
      const message =
        'there are no credentials of GCP: set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, or CLOUDSDK_AUTH_ACCESS_TOKEN; this machine has no metadata server either';
      throw new RunnerError('CREDENTIALS_MISSING', message, { cause });
    }
  }

  async #send(url: string, request: Pick<HttpRequest, 'method' | 'headers' | 'body'>, timeoutMs = TIMEOUT_MS): Promise<HttpResponse> {
    const [address = ''] = url.split('?', 1);
    const target = parseTarget(address);
    const { search } = new URL(url);
    const response = await this.#connections
      .send(target, {
        ...request,
        path: `${target.path || '/'}${search}`,
        deadline: this.#clock.now() + timeoutMs,
        responseBytesMax: RESPONSE_BYTES_MAX,
      })
      .catch((cause: unknown) => {
        if (isRunnerError(cause) && cause.code === 'EXECUTOR_CLOSED') throw cause;
        throw new RunnerError('PLATFORM_UNREACHABLE', `no token can be got: ${cause instanceof Error ? cause.message : ''}`, { cause });
      });
    if (response.status < 300) return response;
    throw refusal(response);
  }

  #granted({ body }: HttpResponse, name: 'access_token' | 'id_token'): Token {
    const { [name]: value, expires_in: seconds } = fieldsOf(body) ?? {};
    if (typeof value !== 'string')
      throw new RunnerError('CREDENTIALS_MISSING', `the answer of the token service has no ${name}: these credentials cannot get one`);
    if (name === 'id_token') return identityToken(Buffer.from(value), this.#clock.now());
    return { value, until: this.#clock.now() + (typeof seconds === 'number' ? seconds : 0) * 1_000 };
  }
}

async function read(secret: Secret): Promise<string> {
  try {
    return (await secret.read()).trim();
  } catch (cause) {
    throw new RunnerError('CREDENTIALS_MISSING', `there are no credentials of GCP in ${secret.source}`, { cause });
  }
}

function refreshForm(credentials: Credentials): Record<string, string> {
  const { client_id: id, client_secret: secret, refresh_token: token } = credentials;
  return { grant_type: 'refresh_token', client_id: String(id), client_secret: String(secret), refresh_token: String(token) };
}

/** An ID token says itself when it ends. */
function identityToken(body: Uint8Array, now: number): Token {
  const value = Buffer.from(body).toString('utf8').trim();
  const [, payload] = value.split('.');
  const until = payload === undefined ? undefined : fieldsOf(Buffer.from(payload, 'base64url'))?.['exp'];
  if (value === '') throw new RunnerError('EXECUTOR_UNAUTHORIZED', 'the answer to the request for an ID token has none');
  return { value, until: typeof until === 'number' ? until * 1_000 : now };
}

/** `{ error, error_description }` of OAuth, `{ error: { status, message } }` of services. */
function refusal({ status, body }: HttpResponse): RunnerError {
  const { error, error_description: description } = fieldsOf(body) ?? {};
  const inner = typeof error === 'object' && error !== null ? (error as Credentials) : {};
  const code = text(error) ?? text(inner['status']) ?? `status ${status}`;
  const said = text(description) ?? text(inner['message']);
  return new RunnerError(
    status >= 500 ? 'PLATFORM_UNREACHABLE' : 'EXECUTOR_UNAUTHORIZED',
    `GCP gives no token: ${code}${said ? `: ${said}` : ''}`,
    {
      details: { status, platformCode: code },
    },
  );
}
