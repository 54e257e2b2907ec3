/** Runs jobs behind HTTP: a deployed handler, or a platform of the Custom FaaS Platform Specification. */

import {
  BLUEPRINT,
  RunnerError,
  decodeResponse,
  encodeRequest,
  errorFromResponse,
  systemClock,
  toJobId,
  Connections,
  parseTarget,
} from '../../src/plugin.ts';
import type {
  Clock,
  Execution,
  ExecutorLimits,
  FaasExecutor,
  InvokeOptions,
  JobCall,
  JobIdLike,
  SecretReference,
  HttpRequest,
  HttpResponse,
  ConnectionOptions,
  Target,
} from '../../src/plugin.ts';

export interface HttpExecutorOptions extends ConnectionOptions {
  /** For logs and metrics. Default: `http:` and the host. */
  readonly name?: string | undefined;
  /**
   * - `plain` (default): `POST {url}/job/{id}`, as the handler bundle and the Blueprint SDK serve it
   * - `platform`: `POST {url}/api/functions/{functionId}/invoke`, version 1.0 of the Custom FaaS Platform Specification
   */
  readonly mode?: 'plain' | 'platform' | undefined;
  /** The function of a job on a platform, or the one that has all jobs. Default: `job{id}`. */
  readonly functionId?: string | ((jobId: bigint) => string) | undefined;
  /** Addresses of single jobs, complete: in plain mode the address that is posted to, on a platform that of the function. */
  readonly endpoints?: Iterable<readonly [JobIdLike, string]> | undefined;
  /**
   * - `json`: what every handler understands, 3.6 bytes on the wire for one
   * - `binary`: the bytes as they are; for handlers made with this package
   * - `auto` (default): `json` until the handler says in a response that it takes the other; before a large first call it is asked
   *
   * A platform always gets `json`.
   */
  readonly wire?: 'auto' | 'json' | 'binary' | undefined;
  /** Defaults: 6 MiB each way, 900,000 ms, no limit of concurrency. */
  readonly limits?: Partial<ExecutorLimits> | undefined;
}

const MIB = 1024 * 1024;
const LIMITS: ExecutorLimits = { requestBytesMax: 6 * MIB, responseBytesMax: 6 * MIB, timeoutMsMax: 900_000 };
/** In JSON a byte takes up to four characters; the rest of the object takes some more. */
const JSON_BYTES_PER_BYTE = 4;
const ENVELOPE_BYTES_MAX = 64 * 1024;
const HEALTH_TIMEOUT_MS = 10_000;
/** In JSON this much would cost more than the question whether the handler takes bytes. */
const LARGE_BYTES = 64 * 1024;
/** In it a handler lists the formats that it takes: `v1` JSON, `v2` the bytes as they are. */
const WIRE_HEADER = 'x-blueprint-wire';

/** One address, and what is known of the handler behind it. */
interface Endpoint {
  readonly target: Target;
  format: 'json' | 'octets';
  /** Whether the handler has been heard, or asked, about the formats that it takes. */
  isKnown: boolean;
}

/**
 * Sends calls to a handler over HTTP.
 *
 * One attempt per `invoke`, over connections that are kept alive. Rejects with the errors of `HttpClient.send`, with the error that the
 * handler or the platform reports, and with `EXECUTOR_RESPONSE_INVALID` for an answer that is not a result. The result carries the call
 * id and the service id of its call. The handler learns the attempt and the remaining time from `x-blueprint-attempt` and
 * `x-blueprint-timeout-ms`.
 *
 * @example
 * const executor = new HttpFaasExecutor('https://jobs.example.org', { bearer: 'env:JOBS_TOKEN' }).withJobEndpoint(7, 'https://other.example.org/seven');
 */
export class HttpFaasExecutor implements FaasExecutor {
  readonly name: string;
  readonly limits: ExecutorLimits;
  readonly #options: HttpExecutorOptions;
  readonly #clock: Clock;
  readonly #connections: Connections;
  readonly #base: Endpoint;
  readonly #endpoints = new Map<bigint, Endpoint>();

  /** Does no I/O. Throws `CONFIG_INVALID`, `JOB_ID_INVALID`. */
  constructor(url: string, options: HttpExecutorOptions = {}) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#connections = new Connections(options, this.#clock);
    this.#base = this.#endpoint(url);
    const { origin, socketPath } = this.#base.target;
    this.name = options.name ?? `http:${socketPath ?? new URL(origin).host}`;
    this.limits = { ...LIMITS, ...options.limits };
    for (const [jobId, address] of options.endpoints ?? []) this.withJobEndpoint(jobId, address);
  }

  /** The address of one job, complete. */
  withJobEndpoint(jobId: JobIdLike, url: string): this {
    this.#endpoints.set(toJobId(jobId), this.#endpoint(url));
    return this;
  }

  /** A header with a secret value on every request; the value is a reference, see `SecretReference`. */
  withAuthHeader(name: string, secret: SecretReference): this {
    this.#connections.addHeader(name, secret);
    return this;
  }

  async invoke(call: JobCall, options: InvokeOptions): Promise<Execution> {
    const endpoint = this.#endpoints.get(call.jobId) ?? this.#base;
    if (!endpoint.isKnown && call.body.length > LARGE_BYTES) await this.#ask(call.jobId, endpoint, options);
    const { format } = endpoint;
    const { headers, body } = encodeRequest(format, call);
    const { responseBytesMax } = this.limits;
    const sent: Record<string, string> = {
      ...headers,
      [BLUEPRINT.attempt]: String(options.attempt),
      [BLUEPRINT.timeoutMs]: String(Math.max(0, Math.ceil(options.deadline - this.#clock.now()))),
    };
    const flat: string[] = [];
    for (const name in sent) flat.push(name, sent[name] as string);
    const response = await this.#connections.send(endpoint.target, {
      method: 'POST',
      path: this.#isPlatform ? `${this.#functionPath(call.jobId, endpoint)}/invoke` : this.#jobPath(call.jobId, endpoint),
      headers: flat,
      body,
      deadline: options.deadline,
      signal: options.signal,
      responseBytesMax:
        format === 'octets' ? Math.max(responseBytesMax, ENVELOPE_BYTES_MAX) : responseBytesMax * JSON_BYTES_PER_BYTE + ENVELOPE_BYTES_MAX,
    });
    this.#learn(endpoint, response, format);
    return decodeResponse(response, call);
  }

  /**
   * Plain: `HEAD` on the address of the job. Platform: `GET .../health`. Rejects with `EXECUTOR_UNREACHABLE`, `EXECUTOR_UNAUTHORIZED`,
   * `EXECUTOR_NOT_FOUND`, `EXECUTOR_UNAVAILABLE`.
   */
  async health(jobId: bigint, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    const endpoint = this.#endpoints.get(jobId) ?? this.#base;
    if (this.#isPlatform) return this.#platformHealth(jobId, endpoint, options.signal);
    const response = await this.#short(endpoint, { method: 'HEAD', path: this.#jobPath(jobId, endpoint), signal: options.signal });
    this.#learn(endpoint, response);
    // A handler that knows only POST is there, too.
    if (response.status >= 300 && response.status !== 405) throw errorFromResponse(response.status, response.body, response.headers);
  }

  /** Plain: opens a connection. Platform: `POST .../warm`. */
  async warm(jobId: bigint, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    if (!this.#isPlatform) return this.health(jobId, options);
    const endpoint = this.#endpoints.get(jobId) ?? this.#base;
    const path = `${this.#functionPath(jobId, endpoint)}/warm`;
    const { status, body, headers } = await this.#short(endpoint, { method: 'POST', path, signal: options.signal });
    if (status >= 300) throw errorFromResponse(status, body, headers);
    return undefined;
  }

  close(): Promise<void> {
    return this.#connections.close();
  }

  get #isPlatform(): boolean {
    return this.#options.mode === 'platform';
  }

  #endpoint(url: string): Endpoint {
    const { wire = 'auto' } = this.#options;
    return {
      target: parseTarget(url),
      format: wire === 'binary' && !this.#isPlatform ? 'octets' : 'json',
      isKnown: wire !== 'auto' || this.#isPlatform,
    };
  }

  #jobPath(jobId: bigint, endpoint: Endpoint): string {
    return endpoint === this.#base ? `${endpoint.target.path}/job/${jobId}` : endpoint.target.path || '/';
  }

  #functionPath(jobId: bigint, endpoint: Endpoint): string {
    if (endpoint !== this.#base) return endpoint.target.path.replace(/\/invoke$/, '');
    const { functionId: given = (id: bigint) => `job${id}` } = this.#options;
    const functionId = typeof given === 'string' ? given : given(jobId);
    return `${endpoint.target.path}/api/functions/${encodeURIComponent(functionId)}`;
  }

  /** Whatever comes of it: the call that follows finds out better. */
  async #ask(jobId: bigint, endpoint: Endpoint, { signal, deadline }: InvokeOptions): Promise<void> {
    const question = this.#short(endpoint, { method: 'HEAD', path: this.#jobPath(jobId, endpoint), signal, deadline });
    const answer = await question.catch(() => undefined);
    endpoint.isKnown = true;
    if (answer) this.#learn(endpoint, answer);
  }

  /** Under `auto`, what a handler says about itself decides how it is spoken to from then on. */
  #learn(endpoint: Endpoint, response: HttpResponse, sent?: Endpoint['format']): void {
    const { wire = 'auto' } = this.#options;
    if (wire !== 'auto' || this.#isPlatform) return;
    endpoint.isKnown = true;
    const says = response.headers[WIRE_HEADER];
    if (typeof says === 'string') endpoint.format = says.split(/[ ,]+/).includes('v2') ? 'octets' : 'json';
    else if (sent === 'octets' && (response.status === 415 || response.status === 400)) {
      // An older handler took the place of the one that was there: it did not understand, so the job did not run.
      endpoint.format = 'json';
      throw new RunnerError(
        'WIRE_MALFORMED',
        `the handler at ${endpoint.target.origin} no longer takes binary calls; the next one is sent as JSON`,
        { retry: 'safe' },
      );
    }
  }

  async #platformHealth(jobId: bigint, endpoint: Endpoint, signal: AbortSignal | undefined): Promise<void> {
    const path = `${this.#functionPath(jobId, endpoint)}/health`;
    const { status, body, headers } = await this.#short(endpoint, { method: 'GET', path, signal });
    if (status < 300) return;
    throw errorFromResponse(status, body, headers);
  }

  #short(
    endpoint: Endpoint,
    request: Pick<HttpRequest, 'method' | 'path' | 'signal'> & { readonly deadline?: number },
  ): Promise<HttpResponse> {
    return this.#connections.send(endpoint.target, {
      ...request,
      headers: [],
      deadline: Math.min(this.#clock.now() + HEALTH_TIMEOUT_MS, request.deadline ?? Infinity),
      responseBytesMax: ENVELOPE_BYTES_MAX,
    });
  }
}
