/** HTTP to Azure: the Resource Manager with its long operations, and the addresses of apps and storage. */

import { Connections, PlatformRequests, RunnerError, Waits, fieldsOf, isRunnerError, parseTarget, text } from '../../src/plugin.ts';
import type { Clock, ErrorCode, HttpResponse, PlatformRequest } from '../../src/plugin.ts';
import { AzureTokens } from './auth.ts';
import { ENDPOINTS } from './options.ts';
import type { AzureOptions } from './options.ts';

export type Fields = Readonly<Record<string, unknown>>;

export interface ArmRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** From `/subscriptions` on, without the version. */
  readonly path: string;
  /** Default that of Microsoft.Web. */
  readonly version?: string;
  readonly query?: string;
  readonly json?: unknown;
  readonly signal?: AbortSignal | undefined;
}

/** https://learn.microsoft.com/rest/api/appservice/ and .../resources/, .../storagerp/ */
const WEB_VERSION = '2025-05-01';
export const RESOURCES_VERSION = '2021-04-01';
export const STORAGE_VERSION = '2024-01-01';

const TIMEOUT_MS = 240_000;
const CONNECTIONS_MAX = 128;
const OPERATION_MS_MAX = 20 * 60_000;
const POLL_MS = 2_000;
const CONFLICTS_MAX = 30;
const FAULTS_MAX = 3;
/** Answers one after the other that may be lost while Azure works on something. */
const LOST_MAX = 5;
/** Somebody else's operation on the same resource, which ends. */
const PASSING: ReadonlySet<string> = new Set([
  'AnotherOperationInProgress',
  'StorageAccountOperationInProgress',
  'ResourceGroupBeingDeleted',
  'ConcurrentOperation',
]);

export class AzureClient {
  readonly clock: Clock;
  readonly waits = new Waits('Azure');
  readonly pollMs: number;
  readonly #connections: Connections;
  readonly #requests = new Map<string, PlatformRequests>();
  readonly #tokens: AzureTokens;
  readonly #management: string;
  readonly #audience: string;

  constructor(options: AzureOptions, clock: Clock) {
    this.clock = clock;
    this.pollMs = options.pollMs ?? POLL_MS;
    this.#connections = new Connections({ connectionsMax: CONNECTIONS_MAX }, clock);
    this.#tokens = new AzureTokens(options, { clock, send: (base, request) => this.send(base, request) });
    this.#management = options.endpoints?.management ?? ENDPOINTS.management;
    this.#audience = options.endpoints?.audience ?? ENDPOINTS.audience;
  }

  get connections(): Connections {
    return this.#connections;
  }

  /** The value of the header for the Resource Manager, or for what is named. */
  bearer(audience = this.#audience): Promise<string> {
    return this.#tokens.bearer(audience);
  }

  /** Patient with too many requests; every other answer is the caller's to judge. */
  send(base: string, request: PlatformRequest): Promise<HttpResponse> {
    let requests = this.#requests.get(base);
    if (!requests) {
      const options = { clock: this.clock, timeoutMs: TIMEOUT_MS, denied: refusal, waits: this.waits };
      requests = new PlatformRequests(parseTarget(base), this.#connections, options);
      this.#requests.set(base, requests);
    }
    return requests.send(request);
  }

  /** An answer of the Resource Manager, whatever it says, besides refusals and operations of others, which are waited for. */
  async arm(request: ArmRequest): Promise<HttpResponse> {
    const { method, path, version = WEB_VERSION, query = '', json, signal } = request;
    const full = `${path}?api-version=${version}${query && `&${query}`}`;
    let faults = 0;
    for (let tries = 1; ; tries += 1) {
      const headers = ['authorization', await this.bearer(), 'accept', 'application/json'];
      const response = await this.send(this.#management, {
        method,
        path: full,
        headers,
        signal,
        ...(json !== undefined && { json }),
      }).catch((error: unknown) => {
        if (isRunnerError(error) && error.details['status'] === 401) this.#tokens.forget(this.#audience);
        throw error;
      });
      const isPassing = response.status === 409 && PASSING.has(saidBy(response.body).code ?? '') && tries < CONFLICTS_MAX;
      const isFault = method !== 'POST' && [500, 502, 504].includes(response.status) && (faults += 1) < FAULTS_MAX;
      if (!isPassing && !isFault) return response;
      await this.clock.sleep(this.#waitMs(response), signal);
    }
  }

  /** The document of a resource; undefined when it, or what it belongs to, is not there. */
  async find(what: string, request: Omit<ArmRequest, 'method'>): Promise<Fields | undefined> {
    const response = await this.arm({ method: 'GET', ...request });
    return response.status === 404 ? undefined : parsed(`read ${what}`, response);
  }

  /** All items of a list, page after page; none when what it belongs to is not there. */
  async *pages(what: string, request: Omit<ArmRequest, 'method'>): AsyncGenerator<Fields> {
    let response = await this.arm({ method: 'GET', ...request });
    for (;;) {
      if (response.status === 404) return;
      const { value, nextLink } = parsed(`list ${what}`, response);
      yield* listOf(value);
      if (typeof nextLink !== 'string' || nextLink === '') return;
      response = await this.#follow(nextLink, request.signal);
    }
  }

  /** Writes, and waits until the operation is over. Rejects with what Azure says when it fails. */
  async write(what: string, request: ArmRequest): Promise<void> {
    const response = await this.arm(request);
    if (response.status === 404 && request.method === 'DELETE') return;
    if (response.status >= 300) throw failure(what, response);
    await this.#over(what, request, response);
  }

  /** Graceful and idempotent. */
  close(): Promise<void> {
    return this.#connections.close();
  }

  /** https://learn.microsoft.com/azure/azure-resource-manager/management/async-operations */
  async #over(what: string, { path, version, signal, method }: ArmRequest, first: HttpResponse): Promise<void> {
    const operation = header(first, 'azure-asyncoperation');
    const location = first.status === 202 ? header(first, 'location') : undefined;
    const until = this.clock.now() + OPERATION_MS_MAX;
    const url = operation ?? location;
    let lost = 0;
    for (let response = first; !isOver(what, response, operation !== undefined);) {
      if (this.clock.now() > until) throw new RunnerError('DEPLOY_FAILED', `Azure does not come to an end with: ${what}`);
      await this.clock.sleep(this.#waitMs(response), signal);
      const asked =
        url === undefined
          ? this.arm({ method: 'GET', path, ...(version !== undefined && { version }), signal })
          : this.#follow(url, signal);
      const answer = await asked.catch((error: unknown) => {
        // Azure works on. Among hundreds of answers one may be lost.
        if (!isRunnerError(error) || error.retry === 'never' || ++lost > LOST_MAX) throw error;
        return undefined;
      });
      if (!answer || (answer.status >= 500 && ++lost <= LOST_MAX)) continue;
      if (method === 'DELETE' && answer.status === 404) return;
      if (answer.status >= 300) throw failure(what, answer);
      response = answer;
      lost = 0;
    }
  }

  /** An address that Azure gave. The token goes only to where it is meant for. */
  async #follow(url: string, signal: AbortSignal | undefined): Promise<HttpResponse> {
    const { origin, pathname, search } = new URL(url);
    const base = parseTarget(this.#management);
    if (origin !== base.origin || !pathname.startsWith(base.path))
      throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `Azure sends to ${origin}, which is not the Resource Manager at ${base.origin}`);
    const headers = ['authorization', await this.bearer()];
    return this.send(this.#management, { method: 'GET', path: pathname.slice(base.path.length) + search, headers, signal });
  }

  #waitMs(response: HttpResponse): number {
    const seconds = header(response, 'retry-after');
    return seconds !== undefined && /^\d+$/.test(seconds) ? Number(seconds) * 1_000 : this.pollMs;
  }
}

function isOver(what: string, response: HttpResponse, isOperation: boolean): boolean {
  const fields = fieldsOf(response.body) ?? {};
  const state = text(fields['status']) ?? text(asFields(fields['properties'])?.['provisioningState']);
  if (state !== undefined && /^(?:failed|cancell?ed)$/i.test(state)) throw failure(what, response, 'DEPLOY_FAILED');
  // The answer to the write itself tells nothing about an operation that has an address of its own.
  if (isOperation && text(fields['status']) === undefined) return false;
  if (response.status === 202) return false;
  return state === undefined || /^succeeded$/i.test(state);
}

function header({ headers }: HttpResponse, name: string): string | undefined {
  const value = headers[name];
  return typeof value === 'string' ? value : undefined;
}

/** `{ error: { code, message } }`, or `{ Code, Message }` of Microsoft.Web. */
export function saidBy(body: Uint8Array): { readonly code?: string; readonly message?: string } {
  const fields = fieldsOf(body) ?? {};
  const said = asFields(fields['error']) ?? fields;
  const code = text(said['code']) ?? text(said['Code']);
  const message = text(said['message']) ?? text(said['Message']);
  return { ...(code !== undefined && { code }), ...(message !== undefined && { message }) };
}

const LIMITS: ReadonlySet<string> = new Set(['QuotaExceeded', 'SubscriptionQuotaExceeded', 'ResourceQuotaExceeded', 'TooManyTags']);

export function failure(what: string, { status, body }: HttpResponse, as?: ErrorCode): RunnerError {
  const { code, message } = saidBy(body);
  const said = message ?? (Buffer.from(body).toString('utf8').slice(0, 500) || `status ${status}`);
  const judged = as ?? (code !== undefined && LIMITS.has(code) ? 'LIMIT_EXCEEDED' : 'DEPLOY_FAILED');
  return new RunnerError(judged, `Azure cannot ${what}: ${said} (${code ?? status})`, {
    details: { status, platformCode: code ?? String(status) },
    ...(judged === 'DEPLOY_FAILED' && { retry: status < 500 ? ('never' as const) : ('idempotent' as const) }),
  });
}

/** What a 401 or 403 says: in JSON, in the form of OAuth, or in XML. */
function refusal(response: HttpResponse): RunnerError {
  const { status, body } = response;
  const { error, error_description: description } = fieldsOf(body) ?? {};
  const [, xmlCode] = /<Code>([^<]*)<\/Code>/.exec(Buffer.from(body).toString('utf8')) ?? [];
  const [, xmlMessage] = /<Message>([^<\n]*)/.exec(Buffer.from(body).toString('utf8')) ?? [];
  const { code = text(error) ?? xmlCode, message = text(description)?.split('\r\n', 1)[0] ?? xmlMessage } = saidBy(body);
  return new RunnerError('EXECUTOR_UNAUTHORIZED', `Azure refuses: ${message ?? `status ${status}`} (${code ?? status})`, {
    details: { status, platformCode: code ?? String(status) },
  });
}

/** A JSON object that was asked for. */
export function parsed(what: string, response: HttpResponse): Fields {
  if (response.status >= 300) throw failure(what, response);
  const fields = fieldsOf(response.body);
  if (fields) return fields;
  throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `Azure cannot ${what}: the answer is no JSON object`);
}

export function asFields(value: unknown): Fields | undefined {
  // A JSON object has text keys and unknown values.
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : undefined;
}

export function listOf(value: unknown): readonly Fields[] {
  const list: readonly unknown[] = Array.isArray(value) ? value : [];
  return list.map(asFields).filter((each) => each !== undefined);
}
