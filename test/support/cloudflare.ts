/** Cloudflare for tests: the API of Workers, strict, and the Workers themselves in real workerd processes. */

import { randomBytes, randomUUID } from 'node:crypto';
import { createServer, request as httpRequest } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { WebSocketServer } from 'ws';
import type { WebSocket } from 'ws';
import { WorkerProcess } from './cloudflare-worker.ts';

export type Fields = Readonly<Record<string, unknown>>;

export interface CloudflareEmulatorOptions {
  readonly accountId: string;
  readonly apiToken: string;
  /** Default `example`; empty: the account has none. */
  readonly subdomain?: string;
}

export interface EmulatedVersion {
  readonly id: string;
  readonly number: number;
  readonly createdOn: string;
  readonly module: { readonly name: string; readonly source: Buffer };
  /** As they are, secrets with their values. */
  readonly bindings: Fields[];
  readonly annotations: Fields;
  readonly compatibilityDate: string;
  readonly compatibilityFlags: readonly string[];
  readonly limits: Fields;
  readonly placement: Fields;
  process?: WorkerProcess;
}

export interface EmulatedDeployment {
  readonly id: string;
  readonly createdOn: string;
  readonly versions: readonly { readonly version_id: string; readonly percentage: number }[];
}

export interface EmulatedScript {
  readonly name: string;
  readonly versions: EmulatedVersion[];
  readonly deployments: EmulatedDeployment[];
  tags: readonly string[];
  observability: Fields;
  address: { enabled: boolean; previews_enabled: boolean };
  crons: readonly string[];
  readonly tails: Map<string, WebSocket | undefined>;
}

interface Reply {
  readonly status?: number;
  readonly result?: unknown;
  readonly raw?: { readonly headers: Record<string, string>; readonly body: Buffer };
}

interface ApiRequest {
  readonly method: string;
  readonly path: readonly string[];
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

/** What the API refuses. */
class Refusal extends Error {
  readonly status: number;
  readonly code: number;

  constructor(status: number, code: number, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const VERSION_FIELDS = [
  'main_module',
  'annotations',
  'bindings',
  'compatibility_date',
  'compatibility_flags',
  'keep_bindings',
  'limits',
  'placement',
];
const SCRIPT_FIELDS = [...VERSION_FIELDS, 'observability', 'tags', 'logpush'];
const BINDING_FIELDS: Readonly<Record<string, readonly string[]>> = {
  plain_text: ['type', 'name', 'text'],
  secret_text: ['type', 'name', 'text'],
  inherit: ['type', 'name', 'old_name', 'version_id'],
  kv_namespace: ['type', 'name', 'namespace_id'],
};
const CRON = /^\S+ \S+ \S+ \S+ \S+$/;
const VERSIONS_MAX = 100;

export class CloudflareEmulator {
  readonly scripts = new Map<string, EmulatedScript>();
  /** Of the API. */
  url = '';
  readonly #options: CloudflareEmulatorOptions;
  readonly #server = createServer((request, response) => void this.#serve(request, response));
  readonly #sockets = new WebSocketServer({ noServer: true, handleProtocols: (all) => (all.has('trace-v1') ? 'trace-v1' : false) });
  readonly #events: Fields[] = [];
  /** So many health checks more are answered as if nobody knew the address. */
  lateAnswers = 0;
  /** So many requests more for the address of a Worker are answered as if it were not there. */
  lateAddresses = 0;
  /** Answers of the edge in place of the next calls. */
  readonly edge: { readonly status: number; readonly type: string; readonly body: string }[] = [];

  constructor(options: CloudflareEmulatorOptions) {
    this.#options = options;
  }

  /** As `workersUrl`. */
  get workersUrl(): string {
    return `${this.url}/worker/{subdomain}/{function}`;
  }

  async listen(): Promise<void> {
    this.#server.on('upgrade', (request, socket, head) => {
      const [, , name = '', id = ''] = new URL(request.url ?? '/', 'http://emulator').pathname.split('/');
      const script = this.scripts.get(name);
      if (!script?.tails.has(id) || request.headers['sec-websocket-protocol'] !== 'trace-v1') return void socket.destroy();
      return this.#sockets.handleUpgrade(request, socket, head, (opened) => void script.tails.set(id, opened));
    });
    await new Promise<void>((resolve) => void this.#server.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets.clients) socket.terminate();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
    const versions = [...this.scripts.values()].flatMap((script) => script.versions);
    await Promise.all(versions.map(async ({ process }) => process?.close()));
  }

  /** A Worker that somebody made with other tools. */
  makeForeign(name: string): void {
    const source = Buffer.from('export default { fetch: () => new Response("theirs") };');
    const script = this.#newScript(name);
    const { id } = this.#addVersion(script, { main_module: 'index.js', compatibility_date: '2026-01-01' }, { name: 'index.js', source });
    script.deployments.push(deploymentFor(id));
    script.address = { enabled: true, previews_enabled: true };
  }

  /** A time comes: what the handler says of it. */
  async fire(name: string, cron: string): Promise<string> {
    const script = this.#script(name);
    if (!script.crons.includes(cron)) throw new Error(`${name} has no cron ${cron}`);
    const worker = await this.#processOf(script);
    return (await fetch(`${worker.address}/cdn-cgi/scheduled/${encodeURIComponent(cron)}`)).text();
  }

  async #serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(incoming.url ?? '/', 'http://emulator');
    const [, root = '', ...path] = url.pathname.split('/').map(decodeURIComponent);
    if (root === 'worker') return this.#run(path, incoming, response);
    if (root === 'trace') {
      this.#traced(path[0] ?? '', JSON.parse((await buffer(incoming)).toString()) as Fields[]);
      return void response.end();
    }
    const { method = '' } = incoming;
    try {
      const request = { method, path: [root, ...path], query: url.searchParams, headers: incoming.headers, body: await buffer(incoming) };
      const { status = 200, result = null, raw } = await this.#api(request);
      if (raw) return void response.writeHead(status, raw.headers).end(raw.body);
      return json(response, status, { success: true, errors: [], messages: [], result });
    } catch (error) {
      const { status, code, message } = error instanceof Refusal ? error : new Refusal(500, 10_013, String(error));
      return json(response, status, { success: false, errors: [{ code, message }], messages: [], result: null });
    }
  }

  /** The edge: finds the Worker and passes the request on. */
  async #run([subdomain, name = '', ...rest]: readonly string[], incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const ray = randomBytes(8).toString('hex');
    const isLate = incoming.method === 'HEAD' && this.lateAnswers > 0;
    if (isLate) this.lateAnswers -= 1;
    const instead = incoming.method === 'HEAD' ? undefined : this.edge.shift();
    const script = subdomain === (this.#options.subdomain ?? 'example') ? this.scripts.get(name) : undefined;
    if (instead ?? (isLate || !script?.address.enabled)) {
      const { status, type, body } = instead ?? { status: 404, type: 'text/html', body: '<title>There is nothing here yet</title>' };
      return void response.writeHead(status, { 'content-type': type, 'cf-ray': ray, server: 'cloudflare' }).end(body);
    }
    if (!script) return;
    const worker = await this.#processOf(script);
    const { host: _, ...headers } = incoming.headers;
    const outgoing = httpRequest(
      `${worker.address}/${rest.map(encodeURIComponent).join('/')}`,
      { method: incoming.method, headers: { ...headers, 'cf-ray': ray } },
      (answer) => {
        response.writeHead(answer.statusCode ?? 500, { ...answer.headers, 'cf-ray': ray });
        answer.pipe(response);
      },
    );
    outgoing.on('error', () => response.destroy());
    response.on('close', () => outgoing.destroy());
    incoming.pipe(outgoing);
  }

  async #processOf(script: EmulatedScript): Promise<WorkerProcess> {
    const version = this.#current(script);
    version.process ??= new WorkerProcess({ ...version, traceUrl: `${this.url}/trace/${script.name}` });
    await version.process.started;
    return version.process;
  }

  #traced(name: string, traces: readonly Fields[]): void {
    const script = this.scripts.get(name);
    for (const trace of traces) {
      for (const socket of script?.tails.values() ?? []) socket?.send(JSON.stringify({ ...trace, scriptName: name }));
      const ray = ((trace['event'] as Fields)['request'] as { headers?: Record<string, string> } | undefined)?.headers?.['cf-ray'];
      const lines = (trace['logs'] as Fields[]).map(({ level, message, timestamp }) => ({
        timestamp,
        level,
        message: (message as unknown[]).map((part) => (typeof part === 'string' ? part : JSON.stringify(part))).join(' '),
        type: 'cf-worker',
      }));
      const call = { timestamp: trace['eventTimestamp'], level: 'info', message: 'POST', type: 'cf-worker-event' };
      const hasCall = (script?.observability['logs'] as Fields | undefined)?.['invocation_logs'] !== false;
      for (const { timestamp, level, message, type } of hasCall ? [call, ...lines] : lines) {
        const event = {
          dataset: 'cloudflare-workers',
          timestamp,
          source: { level, message },
          $metadata: { id: randomUUID(), level, message, type, requestId: ray },
          $workers: { scriptName: name, requestId: ray, outcome: trace['outcome'], eventType: 'fetch' },
        };
        this.#events.push(event);
      }
    }
  }

  async #api(request: ApiRequest): Promise<Reply> {
    const { path, headers, method } = request;
    const { authorization = '' } = headers;
    if (!authorization.startsWith('Bearer ')) throw new Refusal(400, 9_106, 'Missing X-Auth-Key, X-Auth-Email or Authorization headers');
    if (authorization !== `Bearer ${this.#options.apiToken}`) throw new Refusal(403, 10_000, 'Authentication error');
    const [accounts, account, workers, kind, name, part, ...rest] = path;
    if (accounts !== 'accounts' || workers !== 'workers') throw new Refusal(404, 7_003, `No route for ${path.join('/')}`);
    if (account !== this.#options.accountId) throw new Refusal(404, 7_003, 'Could not route: your account identifier is invalid');
    if (kind === 'subdomain' && method === 'GET') return this.#subdomain();
    if (kind === 'observability' && method === 'POST' && path.slice(4).join('/') === 'telemetry/query') return this.#query(request);
    if (kind !== 'scripts') throw new Refusal(404, 7_003, `No route for ${path.join('/')}`);
    if (name === undefined) return this.#list(request);
    if (part === undefined) return this.#whole(name, request);
    const script = this.#script(name);
    switch (`${method} ${part}${rest.length > 0 ? '/' : ''}`) {
      case 'GET settings':
        return { result: settingsOf(script, this.#newest(script)) };
      case 'PATCH script-settings':
        return patch(script, only(jsonOf(request), ['tags', 'observability', 'logpush', 'tail_consumers'], 'settings'));
      case 'GET versions':
        return { result: { items: listed(script, request.query).map((each) => versionOf(each, false)) } };
      case 'POST versions':
        return { result: versionOf(await this.#uploaded(script, request, VERSION_FIELDS), true) };
      case 'GET versions/':
        return { result: versionOf(versionIn(script, rest[0] ?? ''), true) };
      case 'GET deployments':
        return { result: { deployments: script.deployments.toReversed().map(deploymentOf) } };
      case 'POST deployments':
        return deploy(script, only(jsonOf(request), ['strategy', 'versions', 'annotations'], 'deployment'));
      case 'GET schedules':
        return { result: { schedules: script.crons.map((cron) => ({ cron })) } };
      case 'PUT schedules':
        return schedule(script, jsonOf(request));
      case 'GET subdomain':
        return { result: script.address };
      case 'POST subdomain':
        if (this.lateAddresses > 0) {
          this.lateAddresses -= 1;
          throw new Refusal(404, 10_007, 'This Worker does not exist on your account.');
        }
        return publish(script, only(jsonOf(request), ['enabled', 'previews_enabled'], 'subdomain'));
      case 'GET content/':
        return content(versionIn(script, request.query.get('version') ?? script.versions.at(-1)?.id ?? ''));
      case 'POST tails':
        return this.#tail(script);
      case 'DELETE tails/':
        script.tails.get(rest[0] ?? '')?.close();
        if (!script.tails.delete(rest[0] ?? '')) throw new Refusal(404, 10_009, 'tail not found');
        return {};
      default:
        throw new Refusal(405, 10_405, `Method ${method} is not allowed for ${part}`);
    }
  }

  #subdomain(): Reply {
    const { subdomain = 'example' } = this.#options;
    if (subdomain === '') throw new Refusal(404, 10_007, 'You do not have a workers.dev subdomain.');
    return { result: { subdomain } };
  }

  #list({ method, query }: ApiRequest): Reply {
    if (method !== 'GET') throw new Refusal(405, 10_405, 'Method not allowed');
    const rules = (query.get('tags') ?? '').split(',').filter((rule) => rule !== '');
    const wanted = rules.map((rule) => {
      const [, tag, allowed] = /^([^:&]+):(yes|no)$/.exec(rule) ?? [];
      if (tag === undefined) throw new Refusal(400, 10_100, `the tag filter ${rule} is not tag:yes or tag:no`);
      return { tag, isWanted: allowed === 'yes' };
    });
    const scripts = [...this.scripts.values()].filter(({ tags }) => wanted.every(({ tag, isWanted }) => tags.includes(tag) === isWanted));
    return { result: scripts.map((script) => ({ id: script.name, tags: script.tags, modified_on: script.deployments.at(-1)?.createdOn })) };
  }

  async #whole(name: string, request: ApiRequest): Promise<Reply> {
    const { method } = request;
    if (method === 'DELETE') {
      const script = this.#script(name);
      this.scripts.delete(name);
      await Promise.all(script.versions.map(async ({ process }) => process?.close()));
      return {};
    }
    if (method !== 'PUT') throw new Refusal(405, 10_405, 'Method not allowed');
    if (!/^[a-z0-9][a-z0-9_-]{0,62}$/.test(name)) throw new Refusal(400, 10_016, `the script name ${name} is invalid`);
    const script = this.scripts.get(name) ?? this.#newScript(name);
    try {
      const version = await this.#uploaded(script, request, SCRIPT_FIELDS);
      script.deployments.push(deploymentFor(version.id));
      return { result: { id: name, etag: version.id, startup_time_ms: 1 } };
    } finally {
      if (script.versions.length === 0) this.scripts.delete(name);
    }
  }

  #newScript(name: string): EmulatedScript {
    const address = { enabled: false, previews_enabled: false };
    const script: EmulatedScript = {
      name,
      versions: [],
      deployments: [],
      tags: [],
      observability: {},
      address,
      crons: [],
      tails: new Map<string, WebSocket | undefined>(),
    };
    this.scripts.set(name, script);
    return script;
  }

  async #uploaded(script: EmulatedScript, { headers, body }: ApiRequest, known: readonly string[]): Promise<EmulatedVersion> {
    const type = String(headers['content-type']);
    if (!type.startsWith('multipart/form-data;')) throw new Refusal(415, 10_001, `the content type ${type} is not multipart/form-data`);
    // oxlint-disable-next-line typescript/no-deprecated -- small forms of tests
    const form = await new Response(Uint8Array.from(body), { headers: { 'content-type': type } }).formData();
    const { metadata: part, ...files } = Object.fromEntries(form.entries());
    if (typeof part !== 'string') throw new Refusal(400, 10_021, 'the part metadata is missing');
    const metadata = only(JSON.parse(part), known, 'metadata');
    const name = String(metadata['main_module']);
    const file = files[name];
    if (!(file instanceof File)) throw new Refusal(400, 10_021, `the main module ${name} is not among the parts`);
    if (file.type !== 'application/javascript+module') throw new Refusal(400, 10_021, `the module ${name} has the type ${file.type}`);
    if (Object.keys(files).length > 1) throw new Refusal(400, 10_021, 'the parts hold modules that nobody imports');
    const version = this.#addVersion(script, metadata, { name, source: Buffer.from(await file.arrayBuffer()) });
    if ('tags' in metadata) script.tags = tagsOf(metadata['tags']);
    if ('observability' in metadata) script.observability = metadata['observability'] as Fields;
    return version;
  }

  #addVersion(script: EmulatedScript, metadata: Fields, module: EmulatedVersion['module']): EmulatedVersion {
    if (!/^\d{4}-\d{2}-\d{2}$/.test(String(metadata['compatibility_date']))) throw new Refusal(400, 10_021, 'compatibility_date is needed');
    const annotations = only(metadata['annotations'] ?? {}, ['workers/tag', 'workers/message'], 'annotations');
    if (byteLength(annotations['workers/tag']) > 100) throw new Refusal(400, 10_021, 'workers/tag is longer than 100 bytes');
    const version: EmulatedVersion = {
      id: randomUUID(),
      number: script.versions.length + 1,
      createdOn: new Date().toISOString(),
      module,
      bindings: ((metadata['bindings'] ?? []) as unknown[]).map((each) => bindingOf(script, each)),
      annotations,
      compatibilityDate: String(metadata['compatibility_date']),
      compatibilityFlags: (metadata['compatibility_flags'] ?? []) as string[],
      limits: only(metadata['limits'] ?? {}, ['cpu_ms', 'subrequests'], 'limits'),
      placement: only(metadata['placement'] ?? {}, ['mode'], 'placement'),
    };
    const names = version.bindings.map((each) => each['name']);
    if (new Set(names).size !== names.length) throw new Refusal(400, 10_021, 'two bindings have the same name');
    script.versions.push(version);
    return version;
  }

  #query(request: ApiRequest): Reply {
    const query = only(jsonOf(request), ['queryId', 'view', 'dry', 'limit', 'timeframe', 'parameters'], 'query');
    const { from, to } = only(query['timeframe'], ['from', 'to'], 'timeframe');
    if (typeof query['queryId'] !== 'string' || query['view'] !== 'events' || !(Number(from) < Number(to)))
      throw new Refusal(400, 10_400, 'queryId, the view events and a timeframe are needed');
    const parameters = only(query['parameters'], ['datasets', 'filters', 'filterCombination', 'needle'], 'parameters');
    const filters = (parameters['filters'] as unknown[]).map((each) => only(each, ['key', 'operation', 'type', 'value'], 'filter'));
    const strange = filters.find(({ operation }) => operation !== 'eq' && operation !== 'neq');
    if (strange || parameters['filterCombination'] !== 'and') throw new Refusal(400, 10_400, 'unknown filter');
    const passes = (event: Fields): boolean =>
      filters.every(({ key, operation, value }) => (valueAt(event, String(key)) === value) === (operation === 'eq'));
    const needle = String(only(parameters['needle'] ?? { value: '' }, ['value', 'matchCase', 'isRegex'], 'needle')['value']);
    const events = this.#events
      .filter((event) => Number(event['timestamp']) >= Number(from) && Number(event['timestamp']) <= Number(to))
      .filter((event) => passes(event) && JSON.stringify(event['source']).includes(needle))
      .toSorted((a, b) => Number(b['timestamp']) - Number(a['timestamp']))
      .slice(0, Number(query['limit']));
    return { result: { run: {}, statistics: {}, events: { count: events.length, events } } };
  }

  #tail(script: EmulatedScript): Reply {
    const id = randomBytes(16).toString('hex');
    script.tails.set(id, undefined);
    const url = `${this.url.replace('http:', 'ws:')}/tail/${script.name}/${id}`;
    return { result: { id, url, expires_at: new Date(Date.now() + 3_600_000).toISOString() } };
  }

  #script(name: string): EmulatedScript {
    const script = this.scripts.get(name);
    if (!script) throw new Refusal(404, 10_007, 'This Worker does not exist on your account.');
    return script;
  }

  #newest({ versions }: EmulatedScript): EmulatedVersion {
    const newest = versions.at(-1);
    if (!newest) throw new Error('a script without a version');
    return newest;
  }

  #current(script: EmulatedScript): EmulatedVersion {
    const [{ version_id: id } = { version_id: '' }] = script.deployments.at(-1)?.versions ?? [];
    return versionIn(script, id);
  }
}

export async function startCloudflare(options: CloudflareEmulatorOptions): Promise<CloudflareEmulator> {
  const emulator = new CloudflareEmulator(options);
  await emulator.listen();
  return emulator;
}

/** `$workers.scriptName` and the like. */
function valueAt(event: Fields, key: string): unknown {
  return key.split('.').reduce<unknown>((value, part) => (Object(value) as Fields)[part], event);
}

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function jsonOf({ headers, body }: ApiRequest): unknown {
  if (headers['content-type'] !== 'application/json') throw new Refusal(415, 10_001, 'the content type is not application/json');
  return JSON.parse(body.toString()) as unknown;
}

function only(value: unknown, known: readonly string[], what: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Refusal(400, 10_021, `${what} is not an object`);
  const unknown = Object.keys(value).filter((key) => !known.includes(key));
  if (unknown.length > 0) throw new Refusal(400, 10_021, `${what} has unknown fields ${unknown.join(', ')}`);
  return value as Fields;
}

function byteLength(value: unknown): number {
  return typeof value === 'string' ? Buffer.byteLength(value) : 0;
}

function tagsOf(value: unknown): readonly string[] {
  if (!Array.isArray(value) || value.some((tag) => typeof tag !== 'string' || tag === '' || (/[,&:]/.test(tag) && !tag.startsWith('cf:'))))
    throw new Refusal(400, 10_021, `the tags ${JSON.stringify(value)} are not text without , & and :`);
  return value as readonly string[];
}

/** The newest first: those that can be deployed at once, or ten on a page. */
function listed({ versions }: EmulatedScript, query: URLSearchParams): readonly EmulatedVersion[] {
  if (query.get('deployable') === 'true') return versions.toReversed().slice(0, VERSIONS_MAX);
  const size = Number(query.get('per_page') ?? 10);
  const start = (Number(query.get('page') ?? 1) - 1) * size;
  return versions.toReversed().slice(start, start + size);
}

function versionIn({ versions }: EmulatedScript, id: string): EmulatedVersion {
  if (!/^[0-9a-f-]{36}$/.test(id)) throw new Refusal(400, 10_004, `The parameter 'version_id' is malformed`);
  const version = versions.find((each) => each.id === id);
  if (!version) throw new Refusal(404, 10_071, 'The requested Worker version could not be found');
  return version;
}

/** With the value that an inherited one has. */
function bindingOf(script: EmulatedScript, given: unknown): Fields {
  const { type } = Object(given) as Fields;
  const known = BINDING_FIELDS[String(type)];
  if (!known) throw new Refusal(400, 10_021, `a binding has the unknown type ${String(type)}`);
  const binding = only(given, known, 'binding');
  if (typeof binding['name'] !== 'string' || !/^[A-Za-z_$][\w$]*$/.test(binding['name']))
    throw new Refusal(400, 10_021, 'a binding has no valid name');
  if (type !== 'inherit') {
    if ((type === 'plain_text' || type === 'secret_text') && typeof binding['text'] !== 'string')
      throw new Refusal(400, 10_021, `the binding ${binding['name']} has no text`);
    if (byteLength(binding['text']) > 5_120) throw new Refusal(400, 10_021, `the binding ${binding['name']} is larger than 5 KB`);
    return binding;
  }
  const { version_id: id } = binding;
  const from = typeof id === 'string' ? versionIn(script, id) : script.versions.at(-1);
  const old = from?.bindings.find(({ name }) => name === (binding['old_name'] ?? binding['name']));
  if (!old) throw new Refusal(400, 10_056, `the binding ${binding['name']} cannot be inherited: it was not there`);
  return { ...old, name: binding['name'] };
}

/** Nobody reads a secret again. */
function shown(bindings: readonly Fields[]): readonly Fields[] {
  return bindings.map((each) => (each['type'] === 'secret_text' ? { type: each['type'], name: each['name'] } : each));
}

function versionOf({ id, number, createdOn, bindings, annotations, ...version }: EmulatedVersion, isWhole: boolean): Fields {
  const metadata = { created_on: createdOn, modified_on: createdOn, source: 'api', hasPreview: false };
  const limits = Object.keys(version.limits).length > 0 && { limits: version.limits };
  const runtime = { compatibility_date: version.compatibilityDate, compatibility_flags: version.compatibilityFlags, ...limits };
  const resources = { bindings: shown(bindings), script: { etag: id, handlers: ['fetch', 'scheduled'] }, script_runtime: runtime };
  return { id, number, metadata, annotations: { ...annotations, 'workers/triggered_by': 'upload' }, ...(isWhole && { resources }) };
}

function settingsOf({ tags, observability }: EmulatedScript, newest: EmulatedVersion): Fields {
  return {
    bindings: shown(newest.bindings),
    compatibility_date: newest.compatibilityDate,
    compatibility_flags: newest.compatibilityFlags,
    placement: newest.placement,
    observability,
    tags,
    usage_model: 'standard',
  };
}

function deploymentFor(id: string): EmulatedDeployment {
  return { id: randomUUID(), createdOn: new Date().toISOString(), versions: [{ version_id: id, percentage: 100 }] };
}

function deploymentOf({ id, createdOn, versions }: EmulatedDeployment): Fields {
  return { id, created_on: createdOn, source: 'api', strategy: 'percentage', versions };
}

function deploy(script: EmulatedScript, { strategy, versions }: Fields): Reply {
  const shares = (versions as unknown[]).map((each) => only(each, ['version_id', 'percentage'], 'version'));
  const sum = shares.reduce((total, { percentage }) => total + Number(percentage), 0);
  if (strategy !== 'percentage' || sum !== 100) throw new Refusal(400, 10_210, 'Invalid deployment: percentages must sum to 100');
  const missing = shares.find(({ version_id: id }) => !script.versions.some((each) => each.id === id));
  if (missing) throw new Refusal(400, 10_210, `Invalid deployment: Version not found: ${String(missing['version_id'])}`);
  const deployment = {
    ...deploymentFor(''),
    versions: shares.map((each) => ({ version_id: String(each['version_id']), percentage: Number(each['percentage']) })),
  };
  script.deployments.push(deployment);
  return { result: deploymentOf(deployment) };
}

function schedule(script: EmulatedScript, given: unknown): Reply {
  if (!Array.isArray(given)) throw new Refusal(400, 10_021, 'schedules are a list');
  const crons = given.map((each) => String(only(each, ['cron'], 'schedule')['cron']));
  const wrong = crons.find((cron) => !CRON.test(cron));
  if (wrong !== undefined) throw new Refusal(400, 10_100, `the cron ${wrong} is invalid`);
  if (new Set(crons).size !== crons.length) throw new Refusal(400, 10_100, 'a cron is there twice');
  script.crons = crons;
  return { result: { schedules: crons.map((cron) => ({ cron })) } };
}

function publish(script: EmulatedScript, { enabled, previews_enabled: previews = enabled }: Fields): Reply {
  if (typeof enabled !== 'boolean' || typeof previews !== 'boolean') throw new Refusal(400, 10_021, 'enabled is needed');
  script.address = { enabled, previews_enabled: previews };
  return { result: script.address };
}

function patch(script: EmulatedScript, settings: Fields): Reply {
  if ('tags' in settings) script.tags = tagsOf(settings['tags']);
  if ('observability' in settings) script.observability = settings['observability'] as Fields;
  return { result: { tags: script.tags, observability: script.observability, logpush: false } };
}

async function content({ module: { name, source } }: EmulatedVersion): Promise<Reply> {
  const form = new FormData();
  form.set(name, new File([Uint8Array.from(source)], name, { type: 'application/javascript+module' }));
  const encoded = new Response(form);
  const headers = { 'content-type': encoded.headers.get('content-type') ?? '', 'cf-entrypoint': name };
  return { raw: { headers, body: Buffer.from(await encoded.arrayBuffer()) } };
}
