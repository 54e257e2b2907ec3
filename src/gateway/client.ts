/**
 * The client of a gateway, for Node and browsers: `blueprint-runner/client`. Nothing but `fetch` and `WebSocket`.
 */

import type {
  CreateFunction,
  Executed,
  FunctionDocument,
  FunctionsDocument,
  InfoDocument,
  InstanceDocument,
  InstancesDocument,
  LogLineDocument,
  LogsDocument,
  ReportDocument,
  UpdateFunction,
} from './api.ts';
import { GatewayChannel } from './client-channel.ts';
import { GatewayError, errorOf, fromBase64, jsonOf, serverSentEvents, sleepOf, toBase64, unlessAborted } from './client-wire.ts';
import type { EventDocument } from './events.ts';

export { GatewayChannel } from './client-channel.ts';
export { GatewayError } from './client-wire.ts';
export type {
  EventDocument as GatewayEvent,
  FunctionDocument as GatewayFunction,
  InfoDocument as GatewayInfo,
  InstanceDocument as GatewayInstance,
  LogLineDocument as GatewayLogLine,
  ReportDocument as InvocationReport,
};

export interface GatewayClientOptions {
  /** Such as `http://127.0.0.1:8080`. */
  readonly url: string;
  /** An API key or token. */
  readonly key?: string;
  /** Default: that of the platform. That of Node gives up an answer of which nothing comes for five minutes: longer calls go over `connect().stream`. */
  readonly fetch?: typeof globalThis.fetch;
  readonly WebSocket?: typeof globalThis.WebSocket;
  /** Further attempts for what can safely be asked again: reads, and whatever was refused with 429 or 503. Default 2. */
  readonly retries?: number;
  /** Waits between attempts. */
  readonly sleep?: (ms: number) => Promise<void>;
}

export interface DeploySettings extends Omit<CreateFunction, 'name' | 'zip' | 'image'> {}

export interface InvokeOptions {
  readonly qualifier?: string;
  readonly signal?: AbortSignal;
  /** May shorten the timeout of the function. */
  readonly timeoutMs?: number;
}

export interface Answer<Output> {
  readonly output: Output;
  readonly requestId: string;
  readonly instanceId: string;
  readonly coldStart: boolean;
  readonly runMs: number;
  readonly executedVersion: string;
}

export interface ExecuteOptions extends Omit<CreateFunction, 'name' | 'zip'> {
  readonly function?: string;
  readonly qualifier?: string;
  readonly mode?: 'cached' | 'ephemeral';
  readonly zip?: Uint8Array;
  readonly idempotencyKey?: string;
}

interface Call {
  readonly method: string;
  readonly path: string;
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array<ArrayBuffer>;
  readonly signal?: AbortSignal | undefined;
  /** Asking again does no harm, whatever became of the first attempt. */
  readonly isSafe?: boolean;
}

const BASE = '/api/v1';
const RETRY_MS_MAX = 5_000;

/**
 * Deploys, calls and watches functions. Rejects with `GatewayError`.
 *
 * Reads are tried again; a call is tried again only when the gateway refused it before it reached a function (429, 503).
 *
 * @example
 * const gateway = new GatewayClient({ url: 'http://127.0.0.1:8080' });
 * await gateway.deploy('hello', zip, { runtime: 'nodejs24.x', handler: 'index.handler' });
 * const { output } = await gateway.invoke<{ name: string }, string>('hello', { name: 'Ada' });
 */
export class GatewayClient {
  readonly #options: GatewayClientOptions;
  readonly #url: string;

  constructor(options: GatewayClientOptions) {
    this.#options = options;
    this.#url = options.url.replace(/\/+$/, '');
  }

  /** Puts a zip under a name: new, or in place of the one that is there, code and settings at once. */
  deploy(name: string, zip: Uint8Array, settings: DeploySettings = {}): Promise<FunctionDocument> {
    const path = `/functions/${encodeURIComponent(name)}`;
    const { environment, ...query } = settings;
    // Values of variables have no place in an address, and no call is to run the code without them.
    const how: Omit<Call, 'method'> =
      environment === undefined
        ? { path, query, headers: { 'content-type': 'application/zip' }, body: zip as Uint8Array<ArrayBuffer> }
        : post(path, { zip: toBase64(zip), ...settings });
    return this.#json({ ...how, method: 'PUT', isSafe: true });
  }

  /** Fails with `FUNCTION_EXISTS` when there is one of that name. */
  create(
    name: string,
    code: { readonly zip: Uint8Array } | { readonly image: NonNullable<CreateFunction['image']> },
    settings: DeploySettings = {},
  ): Promise<FunctionDocument> {
    const packed = 'zip' in code ? { zip: toBase64(code.zip) } : { image: code.image };
    return this.#json({ ...post('/functions', { name, ...packed, ...settings }) });
  }

  update(name: string, changes: UpdateFunction): Promise<FunctionDocument> {
    return this.#json({ ...post(`/functions/${encodeURIComponent(name)}`, changes), method: 'PATCH' });
  }

  publish(name: string, description?: string): Promise<FunctionDocument> {
    return this.#json(post(`/functions/${encodeURIComponent(name)}/versions`, description === undefined ? {} : { description }));
  }

  async remove(name: string, qualifier?: string): Promise<void> {
    await this.#send({ method: 'DELETE', path: `/functions/${encodeURIComponent(name)}`, query: { qualifier } }, bodyOf);
  }

  describe(name: string, qualifier?: string): Promise<FunctionDocument> {
    return this.#get(`/functions/${encodeURIComponent(name)}`, { qualifier });
  }

  async versions(name: string): Promise<readonly FunctionDocument[]> {
    return (await this.#get<FunctionsDocument>(`/functions/${encodeURIComponent(name)}/versions`)).functions;
  }

  /** The package as it was uploaded. */
  async code(name: string, qualifier?: string): Promise<Uint8Array> {
    const path = `/functions/${encodeURIComponent(name)}/code`;
    return this.#send({ method: 'GET', path, query: { qualifier }, isSafe: true }, bodyOf);
  }

  /** All functions by name, page by page. */
  async *functions(): AsyncGenerator<FunctionDocument> {
    let after: string | undefined;
    do {
      const page: FunctionsDocument = await this.#get('/functions', { after, limit: 100 });
      yield* page.functions;
      after = page.next;
    } while (after !== undefined);
  }

  /** Calls a function with JSON and waits for its JSON. */
  async invoke<Input = unknown, Output = unknown>(name: string, input: Input, options: InvokeOptions = {}): Promise<Answer<Output>> {
    const call = this.#call(`/functions/${encodeURIComponent(name)}/invoke`, input, options);
    const { text, headers } = await this.#send(call, async (response) => ({ text: await response.text(), headers: response.headers }));
    const header = (one: string): string => headers.get(one) ?? '';
    return {
      // What a function returns is for its caller to know.
      output: (text === '' ? undefined : jsonOf(text)) as Output,
      requestId: header('x-invocation-id'),
      instanceId: header('x-instance-id'),
      coldStart: header('x-cold-start') === 'true',
      runMs: Number(header('x-run-ms')),
      executedVersion: header('x-executed-version'),
    };
  }

  /** The answer while it is written. Ending the loop gives the call up. A function that breaks off throws. */
  async *stream<Input = unknown>(name: string, input: Input, options: InvokeOptions = {}): AsyncGenerator<Uint8Array, ReportDocument> {
    const call = this.#call(`/functions/${encodeURIComponent(name)}/stream`, input, options);
    const response = await this.#send({ ...call, headers: { ...call.headers, accept: 'text/event-stream' } }, async (one) => one);
    for await (const { event, data } of serverSentEvents(response, options.signal)) {
      if (event === 'chunk') yield fromBase64(data);
      else if (event === 'end') return JSON.parse(data) as ReportDocument;
      else if (event === 'error') throw errorOf(JSON.parse(data), 200);
    }
    throw new GatewayError('the answer broke off', { code: 'UNREACHABLE', status: 0 });
  }

  /** Runs a deployed function, or code that is sent along. With an idempotency key it is tried again after a lost connection, too. */
  execute<Input = unknown, Output = unknown>(input: Input, options: ExecuteOptions): Promise<Executed & { readonly output?: Output }> {
    const { zip, idempotencyKey, ...rest } = options;
    const body = {
      ...rest,
      ...(zip && { zip: toBase64(zip) }),
      ...(idempotencyKey !== undefined && { idempotency_key: idempotencyKey }),
      payload: input,
    };
    return this.#json({ ...post('/execute', body), isSafe: idempotencyKey !== undefined });
  }

  async logs(
    name: string,
    options: { readonly limit?: number; readonly since?: string; readonly instance?: string } = {},
  ): Promise<readonly LogLineDocument[]> {
    return (await this.#get<LogsDocument>(`/functions/${encodeURIComponent(name)}/logs`, options)).lines;
  }

  async instances(functionName?: string): Promise<readonly InstanceDocument[]> {
    return (await this.#get<InstancesDocument>('/instances', { function: functionName })).instances;
  }

  instance(id: string): Promise<InstanceDocument> {
    return this.#get(`/instances/${encodeURIComponent(id)}`);
  }

  async stopInstance(id: string): Promise<void> {
    await this.#send({ method: 'DELETE', path: `/instances/${encodeURIComponent(id)}` }, bodyOf);
  }

  async warm(functionName: string, count: number, qualifier?: string): Promise<readonly InstanceDocument[]> {
    const body = { function: functionName, count, ...(qualifier !== undefined && { qualifier }) };
    return (await this.#json<InstancesDocument>({ ...post('/instances/warm', body), isSafe: true })).instances;
  }

  /** How many instances end, at once or after their call. */
  async drain(functionName: string): Promise<number> {
    return (await this.#json<{ instances: number }>({ ...post('/instances/drain', { function: functionName }), isSafe: true })).instances;
  }

  info(): Promise<InfoDocument> {
    return this.#get('/info');
  }

  /** Whether its process works. */
  healthy(): Promise<boolean> {
    return this.#isOk('/healthz');
  }

  /** Whether it takes calls now. */
  ready(): Promise<boolean> {
    return this.#isOk('/readyz');
  }

  /** Text of Prometheus. */
  metrics(): Promise<string> {
    return this.#send({ method: 'GET', path: '/metrics', isSafe: true }, textOf, '');
  }

  openapi(): Promise<Readonly<Record<string, unknown>>> {
    return this.#json({ method: 'GET', path: '/openapi.json', isSafe: true }, '');
  }

  /** A WebSocket: live logs and events, calls that survive a lost connection. */
  connect(): GatewayChannel {
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    const protocols = ['blueprint.v1', ...(this.#options.key === undefined ? [] : [`bearer.${protocolText(this.#options.key)}`])];
    return new GatewayChannel(() => new Socket(`${this.#url.replace(/^http/, 'ws')}${BASE}/ws`, protocols), this.#options.sleep ?? sleepOf);
  }

  async #isOk(path: string): Promise<boolean> {
    try {
      const response = await this.#fetch({ method: 'GET', path }, '');
      // A body that nobody reads keeps its connection.
      await response.body?.cancel();
      return response.ok;
    } catch {
      return false;
    }
  }

  #call(path: string, input: unknown, { qualifier, signal, timeoutMs }: InvokeOptions): Call {
    return {
      ...post(path, input),
      query: { qualifier },
      signal,
      headers: { 'content-type': 'application/json', ...(timeoutMs !== undefined && { 'x-timeout-ms': String(timeoutMs) }) },
    };
  }

  #get<T>(path: string, query: Call['query'] = {}): Promise<T> {
    return this.#json<T>({ method: 'GET', path, query, isSafe: true });
  }

  async #json<T>(call: Call, base = BASE): Promise<T> {
    // The gateway's documents are those of api.ts.
    return jsonOf(await this.#send(call, textOf, base)) as T;
  }

  /** `read` takes what is wanted of the answer: one that breaks off is as good as none. */
  async #send<T>(call: Call, read: (response: Response) => Promise<T>, base = BASE): Promise<T> {
    const { retries = 2, sleep = sleepOf } = this.#options;
    for (let attempt = 1; ; attempt += 1) {
      let error: GatewayError;
      let waitMs = Math.min(RETRY_MS_MAX, 100 * 2 ** attempt);
      try {
        const response = await this.#fetch(call, base);
        if (response.ok) return await read(response);
        error = errorOf(await response.json().catch(() => undefined), response.status);
        call.signal?.throwIfAborted();
        const retryAfter = Number(response.headers.get('retry-after'));
        if (retryAfter > 0) waitMs = Math.min(RETRY_MS_MAX, retryAfter * 1_000);
      } catch (cause) {
        if (call.signal?.aborted) throw cause;
        error = new GatewayError(`${this.#url} does not answer`, { code: 'UNREACHABLE', status: 0, cause });
      }
      const mayRetry =
        error.status === 429 || NOT_BEGUN.has(error.code) || (call.isSafe === true && (error.status === 0 || error.status === 503));
      if (!mayRetry || attempt > retries) throw error;
      await unlessAborted(sleep(waitMs), call.signal);
    }
  }

  #fetch({ method, path, query = {}, headers, body, signal }: Call, base: string): Promise<Response> {
    const { key, fetch = globalThis.fetch } = this.#options;
    const pairs = Object.entries(query).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, String(value)] as [string, string]],
    );
    const search = pairs.length === 0 ? '' : `?${new URLSearchParams(pairs).toString()}`;
    return fetch(`${this.#url}${base}${path}${search}`, {
      method,
      headers: { ...headers, ...(key !== undefined && { authorization: `Bearer ${key}` }) },
      ...(body !== undefined && { body }),
      ...(signal && { signal }),
    });
  }
}

/** With these a call has provably not reached its function. */
const NOT_BEGUN = new Set(['RATE_LIMITED', 'QUEUE_FULL', 'QUEUE_TIMEOUT', 'EXECUTOR_THROTTLED', 'EXECUTOR_CLOSED']);

/** Names of protocols are tokens of HTTP: of what a key may have, they take no `/`, `=`, `(` and `)`. */
function protocolText(key: string): string {
  return encodeURIComponent(key).replace(/[()]/g, (one) => `%${one.charCodeAt(0).toString(16)}`);
}

const textOf = (response: Response): Promise<string> => response.text();
const bodyOf = async (response: Response): Promise<Uint8Array> => new Uint8Array(await response.arrayBuffer());

function post(path: string, value: unknown): Call & { readonly body: string } {
  return { method: 'POST', path, headers: { 'content-type': 'application/json' }, body: JSON.stringify(value ?? null) };
}
