/** Tokens: of a service principal, of the identity of this machine or app, or given as they are. */

import { RunnerError, Secret, fieldsOf, text } from '../../src/plugin.ts';
import type { Clock, HttpResponse, PlatformRequest, SecretReference } from '../../src/plugin.ts';
import { ENDPOINTS, readOr } from './options.ts';
import type { AzureOptions } from './options.ts';

/** Sends to an address; the paths of requests are appended to it. */
export type Send = (base: string, request: PlatformRequest) => Promise<HttpResponse>;

interface Token {
  readonly value: string;
  readonly until: number;
}

/** A token is replaced this long before its end, or at half its life when that is shorter. */
const MARGIN_MS = 300_000;
const METADATA_VERSION = '2018-02-01';
const APP_SERVICE_VERSION = '2019-08-01';

/**
 * Asks once for each audience and keeps the token until shortly before its end. Rejects with `CREDENTIALS_MISSING`,
 * `EXECUTOR_UNAUTHORIZED`, `PLATFORM_UNREACHABLE`.
 */
export class AzureTokens {
  readonly #options: AzureOptions;
  readonly #clock: Clock;
  readonly #send: Send;
  readonly #tokens = new Map<string, Promise<Token>>();

  constructor(options: AzureOptions, { clock, send }: { readonly clock: Clock; readonly send: Send }) {
    this.#options = options;
    this.#clock = clock;
    this.#send = send;
  }

  /** The value of the header. */
  async bearer(audience: string): Promise<string> {
    const asked = this.#tokens.get(audience);
    const known = await asked?.catch(() => undefined);
    if (known && known.until > this.#clock.now()) return `Bearer ${known.value}`;
    // Who comes first asks; those who waited with it wait for the answer.
    const current = this.#tokens.get(audience);
    const next = current === undefined || current === asked ? this.#ask(audience) : current;
    this.#tokens.set(audience, next);
    return `Bearer ${(await next).value}`;
  }

  /** After a refusal: the next request asks anew. */
  forget(audience: string): void {
    this.#tokens.delete(audience);
  }

  async #ask(audience: string): Promise<Token> {
    const { token, identity } = this.#options;
    if (token !== undefined) return { value: await this.#secret(token, 'a token'), until: this.#clock.now() + 1_000 };
    const endpoint = await readOr('env:IDENTITY_ENDPOINT', this.#clock);
    const isManaged = identity === 'managed' || (identity === undefined && endpoint !== undefined);
    const response = isManaged ? await this.#askMachine(audience, endpoint) : await this.#askLogin(audience);
    const fields = fieldsOf(response.body) ?? {};
    const value = text(fields['access_token']);
    if (response.status >= 300 || value === undefined) throw refusal(response);
    const lifeMs = Number(fields['expires_in'] ?? 3_600) * 1_000;
    return { value, until: this.#clock.now() + lifeMs - Math.min(MARGIN_MS, lifeMs / 2) };
  }

  /** https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow */
  async #askLogin(audience: string): Promise<HttpResponse> {
    const { tenantId = 'env:AZURE_TENANT_ID', clientId = 'env:AZURE_CLIENT_ID', clientSecret = 'env:AZURE_CLIENT_SECRET' } = this.#options;
    const [tenant, client, secret] = await Promise.all([
      this.#secret(tenantId, 'a tenant'),
      this.#secret(clientId, 'a client'),
      this.#secret(clientSecret, 'a client secret'),
    ]);
    const form = new URLSearchParams({
      grant_type: 'client_credentials',
      client_id: client,
      client_secret: secret,
      scope: `${audience}/.default`,
    });
    return this.#send(this.#options.endpoints?.login ?? ENDPOINTS.login, {
      method: 'POST',
      path: `/${encodeURIComponent(tenant)}/oauth2/v2.0/token`,
      headers: ['content-type', 'application/x-www-form-urlencoded'],
      body: Buffer.from(form.toString()),
    });
  }

  /** https://learn.microsoft.com/azure/app-service/overview-managed-identity and .../managed-identities-azure-resources/how-to-use-vm-token */
  async #askMachine(audience: string, endpoint: string | undefined): Promise<HttpResponse> {
    const clientId = await readOr(this.#options.clientId ?? 'env:AZURE_CLIENT_ID', this.#clock);
    const query = new URLSearchParams({
      'api-version': endpoint === undefined ? METADATA_VERSION : APP_SERVICE_VERSION,
      resource: audience,
      ...(clientId !== undefined && { client_id: clientId }),
    });
    if (endpoint === undefined) {
      const path = `/metadata/identity/oauth2/token?${query.toString()}`;
      return this.#send(this.#options.endpoints?.metadata ?? ENDPOINTS.metadata, { method: 'GET', path, headers: ['metadata', 'true'] });
    }
    const header = await this.#secret('env:IDENTITY_HEADER', 'the header of the identity');
    return this.#send(endpoint, { method: 'GET', path: `?${query.toString()}`, headers: ['x-identity-header', header] });
  }

  async #secret(reference: SecretReference, what: string): Promise<string> {
    const isPlain = typeof reference === 'string' && !/^(env|file):/.test(reference);
    // Tenant and client are names, not secrets.
    if (isPlain && what !== 'a client secret' && what !== 'a token') return reference;
    const secret = new Secret(reference, { clock: this.#clock });
    try {
      return await secret.read();
    } catch (cause) {
      const message = `there is no ${what.replace(/^an? |^the /, '')} of Azure in ${secret.source}: set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or use the option token or identity`;
      throw new RunnerError('CREDENTIALS_MISSING', message, { cause });
    }
  }
}

/** `{ error, error_description, error_codes }`. */
function refusal({ status, body }: HttpResponse): RunnerError {
  const { error, error_description: description } = fieldsOf(body) ?? {};
  const said = text(description)?.split('\r\n', 1)[0] ?? text(error) ?? `status ${status}`;
  return new RunnerError('EXECUTOR_UNAUTHORIZED', `Azure gives no token: ${said}`, {
    details: { status, ...(typeof error === 'string' && { platformCode: error }) },
  });
}
