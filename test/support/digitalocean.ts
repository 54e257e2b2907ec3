/** DigitalOcean for tests: the API of namespaces, keys and triggers, and the OpenWhisk of every namespace, which runs what is deployed. */

import { randomBytes, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { listenOnLoopback } from './loopback.ts';
import { KINDS, Refusal, Whisk, jsonOf, only } from './whisk.ts';
import type { Fields, WhiskReply, WhiskRequest } from './whisk.ts';

export interface DigitalOceanEmulator {
  /** Of the API and, unless another is named, of every namespace. */
  readonly url: string;
  /** What namespaces say that their host is: a proxy in front of this. */
  apiHost: string;
  readonly namespaces: ReadonlyMap<string, EmulatedNamespace>;
  createNamespace(label: string): EmulatedNamespace;
  close(): Promise<void>;
}

export interface EmulatedNamespace {
  readonly label: string;
  readonly region: string;
  readonly uuid: string;
  readonly whisk: Whisk;
  readonly triggers: Map<string, Fields>;
  readonly keys: Map<string, string>;
}

export interface DigitalOceanEmulatorOptions {
  readonly token: string;
  /** Default 3. */
  readonly triggersMax?: number;
  /** How long a blocking call is waited for. Default 60,000. */
  readonly blockingMs?: number;
}

const NAMESPACES_MAX = 10;
const CRON = /^\S+ \S+ \S+ \S+ \S+$/;

export async function startDigitalOcean(options: DigitalOceanEmulatorOptions): Promise<DigitalOceanEmulator> {
  const emulator = new Emulator(options);
  const { url, stop } = await listenOnLoopback(createServer((request, response) => void emulator.serve(request, response)));
  return Object.assign(emulator, { url, apiHost: url, stop });
}

class Emulator implements DigitalOceanEmulator {
  url = '';
  apiHost = '';
  stop: () => Promise<void> = async () => {};
  readonly namespaces = new Map<string, EmulatedNamespace>();
  readonly #options: DigitalOceanEmulatorOptions;
  /** Those of namespaces that were deleted, too. */
  readonly #all: Whisk[] = [];

  constructor(options: DigitalOceanEmulatorOptions) {
    this.#options = options;
  }

  createNamespace(label: string, region = 'nyc1'): EmulatedNamespace {
    const uuid = randomUUID();
    const { blockingMs } = this.#options;
    const key = randomBytes(32).toString('base64url');
    const whisk = new Whisk({ id: `fn-${uuid}`, key, ...(blockingMs !== undefined && { blockingMs }) });
    const namespace = { label, region, uuid, whisk, triggers: new Map<string, Fields>(), keys: new Map<string, string>() };
    this.namespaces.set(whisk.id, namespace);
    this.#all.push(whisk);
    return namespace;
  }

  async close(): Promise<void> {
    await this.stop();
    await Promise.all(this.#all.map((whisk) => whisk.close()));
  }

  async serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(incoming.url ?? '/', 'http://emulator');
    const isApi = url.pathname.startsWith('/v2/');
    let reply: WhiskReply;
    try {
      const request = {
        method: incoming.method ?? '',
        path: url.pathname,
        query: url.searchParams,
        headers: incoming.headers,
        body: await buffer(incoming),
      };
      reply = isApi ? this.#api(request) : await this.#whisk({ ...request, path: url.pathname.replace(/^\/api\/v1/, '') });
    } catch (error) {
      const status = error instanceof Refusal ? error.status : 500;
      const message = error instanceof Error ? error.message : String(error);
      reply = {
        status,
        body: isApi ? { id: ID_OF_STATUS[status] ?? 'server_error', message } : { error: message, code: randomBytes(8).toString('hex') },
      };
    }
    const body = Buffer.isBuffer(reply.body) ? reply.body : reply.body === undefined ? '' : JSON.stringify(reply.body);
    response.writeHead(reply.status, { 'content-type': 'application/json', ...reply.headers }).end(body);
  }

  async #whisk(request: WhiskRequest): Promise<WhiskReply> {
    const { path, headers, method } = request;
    if (path === '' || path === '/')
      return {
        status: 200,
        body: { runtimes: { nodejs: KINDS.map((kind) => ({ kind, default: kind === 'nodejs:22', deprecated: kind === 'nodejs:18' })) } },
      };
    if (path.startsWith('/web/')) {
      const namespace = this.namespaces.get(decodeURIComponent(path.split('/')[2] ?? ''));
      if (!namespace) throw new Refusal(404, 'The requested resource does not exist.');
      return namespace.whisk.web(request);
    }
    const [scheme, credentials = ''] = (headers.authorization ?? '').split(' ');
    const [uuid, key] = Buffer.from(credentials, 'base64').toString().split(':');
    const namespace = [...this.namespaces.values()].find((each) => each.uuid === uuid);
    if (scheme !== 'Basic' || !namespace || namespace.whisk.key !== key) throw new Refusal(401, 'The supplied authentication is invalid');
    if (path === '/namespaces') {
      if (method !== 'GET') throw new Refusal(405, 'HTTP method not allowed, supported methods: GET');
      return { status: 200, body: [namespace.whisk.id] };
    }
    return namespace.whisk.handle(request);
  }

  #api(request: WhiskRequest): WhiskReply {
    const { method, path, headers, body } = request;
    if (headers.authorization !== `Bearer ${this.#options.token}`) throw new Refusal(401, 'Unable to authenticate you');
    const [root, id, kind, name, ...rest] = path.split('/').slice(3).map(decodeURIComponent);
    if (!path.startsWith('/v2/functions/') || root !== 'namespaces' || rest.length > 0)
      throw new Refusal(404, 'The resource you requested could not be found.');
    if (id === undefined) {
      if (method === 'GET') return { status: 200, body: { namespaces: [...this.namespaces.values()].map((each) => this.#document(each)) } };
      if (method === 'POST') return this.#createNamespace(only(jsonOf(body), ['label', 'region'], 'namespace'));
      throw new Refusal(405, 'method not allowed');
    }
    const namespace = this.namespaces.get(id);
    if (!namespace) throw new Refusal(404, 'namespace not found');
    if (kind === 'triggers') return this.#triggers(namespace, name, request);
    if (kind === 'keys') return createKey(namespace, request);
    if (kind !== undefined) throw new Refusal(404, 'The resource you requested could not be found.');
    if (method === 'GET') return { status: 200, body: { namespace: this.#document(namespace) } };
    if (method !== 'DELETE') throw new Refusal(405, 'method not allowed');
    this.namespaces.delete(id);
    return { status: 204, body: undefined };
  }

  #createNamespace({ label, region }: Fields): WhiskReply {
    if (typeof label !== 'string' || typeof region !== 'string') throw new Refusal(422, 'label and region are required');
    if (this.namespaces.size >= NAMESPACES_MAX) throw new Refusal(422, 'namespace limit reached');
    return { status: 200, body: { namespace: this.#document(this.createNamespace(label, region)) } };
  }

  #document({ label, region, uuid, whisk }: EmulatedNamespace): Fields {
    return { api_host: this.apiHost, namespace: whisk.id, uuid, key: whisk.key, label, region };
  }

  #triggers({ triggers, whisk }: EmulatedNamespace, name: string | undefined, { method, body }: WhiskRequest): WhiskReply {
    if (name === undefined) {
      if (method === 'GET') return { status: 200, body: { triggers: [...triggers.values()] } };
      if (method !== 'POST') throw new Refusal(405, 'method not allowed');
      const given = only(jsonOf(body), ['name', 'function', 'type', 'is_enabled', 'scheduled_details'], 'trigger');
      const { name: id, function: target, type } = given;
      if (typeof id !== 'string' || typeof target !== 'string' || type !== 'SCHEDULED')
        throw new Refusal(422, 'name, function and type SCHEDULED are required');
      if (!whisk.actions.has(target)) throw new Refusal(422, `function ${target} does not exist`);
      if (triggers.has(id)) throw new Refusal(409, `trigger ${id} already exists`);
      if (triggers.size >= (this.#options.triggersMax ?? 3)) throw new Refusal(422, 'triggers limit reached');
      const trigger = {
        namespace: whisk.id,
        ...given,
        scheduled_details: details(given['scheduled_details']),
        created_at: new Date().toISOString(),
      };
      triggers.set(id, trigger);
      return { status: 200, body: { trigger } };
    }
    const trigger = triggers.get(name);
    if (!trigger) throw new Refusal(404, 'trigger not found');
    if (method === 'GET') return { status: 200, body: { trigger } };
    if (method === 'DELETE') {
      triggers.delete(name);
      return { status: 204, body: undefined };
    }
    if (method !== 'PUT') throw new Refusal(405, 'method not allowed');
    const given = only(jsonOf(body), ['is_enabled', 'scheduled_details'], 'trigger');
    const changed = {
      ...trigger,
      ...given,
      ...('scheduled_details' in given && { scheduled_details: details(given['scheduled_details']) }),
    };
    triggers.set(name, changed);
    return { status: 200, body: { trigger: changed } };
  }
}

function details(value: unknown): Fields {
  const given = only(value, ['cron', 'body'], 'scheduled_details');
  if (typeof given['cron'] !== 'string' || !CRON.test(given['cron'])) throw new Refusal(422, `cron ${String(given['cron'])} is invalid`);
  if (given['body'] !== undefined) only(given['body'], Object.keys(Object(given['body']) as object), 'body');
  return given;
}

function createKey({ keys }: EmulatedNamespace, { method, body }: WhiskRequest): WhiskReply {
  if (method === 'GET') return { status: 200, body: { access_keys: [...keys.keys()].map((name) => ({ name })) } };
  if (method !== 'POST') throw new Refusal(405, 'method not allowed');
  const { name } = only(jsonOf(body), ['name', 'expires_in'], 'key');
  if (typeof name !== 'string') throw new Refusal(422, 'name is required');
  const secret = randomBytes(32).toString('base64url');
  keys.set(name, secret);
  return { status: 200, body: { access_key: { id: randomUUID(), name, secret } } };
}

const ID_OF_STATUS: Readonly<Record<number, string>> = {
  400: 'bad_request',
  401: 'unauthorized',
  404: 'not_found',
  405: 'method_not_allowed',
  409: 'conflict',
  422: 'unprocessable_entity',
};
