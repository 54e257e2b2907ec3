/**
 * Azure for tests: login, Resource Manager, storage accounts, deployment service, hosts of apps and Application Insights, each below a path of
 * its own. It is strict: an API version is demanded, properties that nobody knows are refused, resources take some looks until they are there.
 */

import { randomBytes, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { Refusal, only } from './azure-wire.ts';
import type { AzureRequest, Fields, Reply } from './azure-wire.ts';
import { AzureApp } from './azure-app.ts';
import { BlobAccount } from './azure-blobs.ts';
import { answerQuery } from './azure-insights.ts';
import { listenOnLoopback } from './loopback.ts';

export interface AzureEmulatorOptions {
  readonly tenant: string;
  readonly clientId: string;
  readonly clientSecret: string;
  readonly subscription: string;
  /** Items of a page. Default 50. */
  readonly pageSize?: number;
  /** Of a token, seconds. Default 3,599. */
  readonly tokenSeconds?: number;
}

interface Group {
  readonly name: string;
  readonly fields: Fields;
  readonly accounts: Map<string, { readonly fields: Fields; readonly blobs: BlobAccount; looks: number }>;
  readonly plans: Map<string, Fields>;
  readonly apps: Map<string, AzureApp>;
}

const VERSIONS: Readonly<Record<string, string>> = { resources: '2021-04-01', storage: '2024-01-01', web: '2025-05-01' };
/** How often an operation is looked at before it is over. */
const LOOKS = 2;

export async function startAzure(options: AzureEmulatorOptions): Promise<AzureEmulator> {
  const emulator = new AzureEmulator(options);
  const { url, stop } = await listenOnLoopback(createServer((request, response) => void emulator.serve(request, response)));
  return Object.assign(emulator, { url, publicUrl: url, stop });
}

export class AzureEmulator {
  url = '';
  /** What addresses that it gives begin with: a proxy in front of this. */
  publicUrl = '';
  stop: () => Promise<void> = async () => {};
  readonly groups = new Map<string, Group>();
  /** How often a token was given. */
  tokens = 0;
  /** The deployments that come next fail with this line in their log. */
  deploymentFault: string | undefined;
  /** Operations that come next fail with this. */
  operationFault: { readonly code: string; readonly message: string } | undefined;
  readonly #options: AzureEmulatorOptions;
  readonly #valid = new Map<string, { readonly audience: string; readonly until: number }>();
  readonly #operations = new Map<string, { looks: number }>();
  /** Apps of groups that were deleted. */
  readonly #leaving: Promise<unknown>[] = [];

  constructor(options: AzureEmulatorOptions) {
    this.#options = options;
  }

  /** For the options of the plugin. */
  endpoints(at = this.publicUrl): Readonly<Record<string, string>> {
    return {
      login: `${at}/login`,
      management: `${at}/arm`,
      audience: 'https://management.azure.com',
      metadata: at,
      insights: `${at}/insights`,
      scm: `${at}/scm/{app}`,
      functions: `${at}/app/{app}`,
      storage: `${at}/storage/{account}`,
    };
  }

  get apps(): readonly AzureApp[] {
    return [...this.groups.values()].flatMap(({ apps }) => [...apps.values()]);
  }

  async close(): Promise<void> {
    await this.stop();
    await Promise.all([...this.#leaving, ...this.apps.map((app) => app.close())]);
  }

  async serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    let reply: Reply;
    try {
      const url = new URL(incoming.url ?? '/', this.url);
      reply = await this.#route({
        method: incoming.method ?? '',
        url: incoming.url ?? '/',
        path: url.pathname,
        query: url.searchParams,
        headers: incoming.headers,
        body: await buffer(incoming),
      });
    } catch (error) {
      const { status, code } = error instanceof Refusal ? error : { status: 500, code: 'InternalServerError' };
      reply = {
        status,
        body: { error: { code, message: error instanceof Error ? (error.stack ?? error.message).split('\n', 1)[0] : String(error) } },
      };
    }
    const { body, headers = {} } = reply;
    const isBytes = Buffer.isBuffer(body) || typeof body === 'string';
    response.writeHead(reply.status, { ...(!isBytes && body !== undefined && { 'content-type': 'application/json' }), ...headers });
    response.end(isBytes ? body : body === undefined ? '' : JSON.stringify(body));
  }

  async #route(request: AzureRequest): Promise<Reply> {
    const [, root = '', name = '', ...rest] = request.path.split('/').map(decodeURIComponent);
    const inner = { ...request, path: `/${rest.join('/')}` };
    if (root === 'login') return this.#login(name, inner);
    if (root === 'metadata') return this.#machine(request);
    if (root === 'arm') return this.#arm({ ...request, path: request.path.slice('/arm'.length) });
    if (root === 'storage') return this.#storage(name, inner);
    if (root === 'insights') {
      this.#authorize(request, 'https://api.applicationinsights.io');
      return answerQuery(this.apps, { ...request, path: `/${[name, ...rest].join('/')}` });
    }
    const app = this.apps.find((each) => each.name === name);
    if (!app) throw new Refusal(404, 'NotFound', `there is no host for ${name}`);
    if (root === 'app') return app.answer({ ...inner, url: request.url.slice(`/app/${name}`.length) });
    if (root !== 'scm') throw new Refusal(404, 'NotFound', request.path);
    this.#authorize(request, 'https://management.azure.com');
    return app.scm(inner, this.deploymentFault);
  }

  #login(tenant: string, { path, body, headers, method }: AzureRequest): Reply {
    if (method !== 'POST' || path !== '/oauth2/v2.0/token' || headers['content-type'] !== 'application/x-www-form-urlencoded')
      throw new Refusal(404, 'NotFound', path);
    const form = Object.fromEntries(new URLSearchParams(body.toString()));
    const { clientId, clientSecret } = this.#options;
    const isKnown = tenant === this.#options.tenant && form['client_id'] === clientId && form['client_secret'] === clientSecret;
    if (!isKnown || form['grant_type'] !== 'client_credentials') {
      const description = 'AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1';
      return { status: 401, body: { error: 'invalid_client', error_description: description, error_codes: [7_000_215] } };
    }
    return this.#token(String(form['scope']).replace(/\/\.default$/, ''));
  }

  /** The identity of a machine, and of an app. */
  #machine({ method, path, headers, query }: AzureRequest): Reply {
    const isApp = headers['x-identity-header'] === 'header-of-the-identity' && query.get('api-version') === '2019-08-01';
    const isMachine = headers['metadata'] === 'true' && query.get('api-version') === '2018-02-01';
    if (method !== 'GET' || path !== '/metadata/identity/oauth2/token' || !(isApp || isMachine))
      throw new Refusal(400, 'invalid_request', path);
    return this.#token(String(query.get('resource')));
  }

  #token(audience: string): Reply {
    const token = randomBytes(16).toString('base64url');
    const { tokenSeconds = 3_599 } = this.#options;
    this.tokens += 1;
    this.#valid.set(token, { audience, until: Date.now() + tokenSeconds * 1_000 });
    return { status: 200, body: { token_type: 'Bearer', expires_in: tokenSeconds, ext_expires_in: tokenSeconds, access_token: token } };
  }

  #authorize({ headers }: AzureRequest, audience: string): void {
    const token = this.#valid.get(String(headers.authorization).replace(/^Bearer /, ''));
    if (!token || token.until < Date.now()) throw new Refusal(401, 'InvalidAuthenticationToken', 'The access token is invalid.');
    if (token.audience !== audience) throw new Refusal(401, 'InvalidAuthenticationTokenAudience', `The token is for ${token.audience}.`);
  }

  #storage(name: string, request: AzureRequest): Reply {
    const account = [...this.groups.values()].flatMap(({ accounts }) => accounts.get(name) ?? [])[0];
    if (!account) throw new Refusal(404, 'NotFound', `there is no host for ${name}`);
    return account.blobs.answer(request);
  }

  async #arm(request: AzureRequest): Promise<Reply> {
    this.#authorize(request, 'https://management.azure.com');
    const parts = request.path.split('/').slice(1).map(decodeURIComponent);
    if (parts[0] === 'operations') return this.#operation(parts[1] ?? '', parts[2] ?? '');
    const [subscriptions, subscription, groups, name = '', ...rest] = parts;
    if (subscriptions !== 'subscriptions' || groups !== 'resourceGroups') throw new Refusal(404, 'InvalidRequestUri', request.path);
    if (subscription !== this.#options.subscription) throw new Refusal(404, 'SubscriptionNotFound', `${subscription}`);
    const kind =
      rest[1] === 'Microsoft.Storage'
        ? 'storage'
        : rest[1] === 'Microsoft.Web' && !rest.includes('Microsoft.Resources')
          ? 'web'
          : 'resources';
    const version = request.query.get('api-version');
    if (version !== VERSIONS[kind]) throw new Refusal(400, 'MissingApiVersionParameter', `the version ${version} is not ${VERSIONS[kind]}`);
    if (rest.length === 0) return this.#group(name, request);
    const group = this.groups.get(name.toLowerCase());
    if (!group) throw new Refusal(404, 'ResourceGroupNotFound', `Resource group '${name}' could not be found.`);
    if (rest[0] === 'resources' && rest.length === 1) return { status: 200, body: { value: this.#resources(group) } };
    if (kind === 'storage') return this.#account(group, rest.slice(3), request);
    if (rest[2] === 'serverfarms') return this.#plan(group, rest[3] ?? '', request);
    if (rest[2] === 'sites') return this.#sites(group, rest.slice(3), request);
    throw new Refusal(404, 'InvalidResourceType', request.path);
  }

  #group(name: string, { method, body }: AzureRequest): Reply {
    const key = name.toLowerCase();
    const group = this.groups.get(key);
    if (method === 'PUT') {
      const { location, tags = {} } = only(body, ['location', 'tags'], 'group');
      const id = `/subscriptions/${this.#options.subscription}/resourceGroups/${name}`;
      const fields = { id, name, location, tags, properties: { provisioningState: 'Succeeded' } };
      this.groups.set(key, { accounts: new Map(), plans: new Map(), apps: new Map(), ...group, name, fields });
      return { status: group ? 200 : 201, body: fields };
    }
    if (!group) throw new Refusal(404, 'ResourceGroupNotFound', `Resource group '${name}' could not be found.`);
    if (method === 'GET') return { status: 200, body: group.fields };
    if (method !== 'DELETE') throw new Refusal(405, 'MethodNotAllowed', method);
    this.#leaving.push(Promise.allSettled([...group.apps.values()].map((app) => app.close())));
    this.groups.delete(key);
    return { status: 202, headers: { location: this.#begin('location'), 'retry-after': '0' } };
  }

  #resources({ accounts, plans, apps }: Group): readonly Fields[] {
    const all = [
      ...[...accounts.values()].map(({ fields }) => fields),
      ...plans.values(),
      ...[...apps.values()].map((app) => app.document()),
    ];
    return all.map(({ id, name, type }) => ({ id, name, type }));
  }

  #account(group: Group, [name = '', action]: readonly string[], { method, body }: AzureRequest): Reply {
    const account = group.accounts.get(name);
    if (method === 'PUT') {
      if (!/^[a-z0-9]{3,24}$/.test(name)) throw new Refusal(400, 'AccountNameInvalid', `${name} is not a valid storage account name.`);
      if (account && account.looks < LOOKS) throw new Refusal(409, 'StorageAccountOperationInProgress', 'An operation is in progress.');
      const {
        kind,
        sku,
        tags = {},
        location,
        properties,
      } = only(body, ['location', 'kind', 'sku', 'tags', 'properties'], 'storage account');
      only(properties, ['minimumTlsVersion', 'allowBlobPublicAccess', 'supportsHttpsTrafficOnly'], 'properties');
      if (kind !== 'StorageV2' || only(sku, ['name'], 'sku')['name'] !== 'Standard_LRS')
        throw new Refusal(400, 'InvalidValuesForRequestParameters', 'sku');
      const id = `${String(group.fields['id'])}/providers/Microsoft.Storage/storageAccounts/${name}`;
      const endpoint = `${this.publicUrl}/storage/${name}/`;
      const fields = {
        id,
        name,
        type: 'Microsoft.Storage/storageAccounts',
        location,
        tags,
        properties: {
          ...(properties as Fields),
          primaryEndpoints: { blob: endpoint, queue: `${endpoint}queue`, table: `${endpoint}table` },
        },
      };
      group.accounts.set(name, {
        fields,
        looks: account ? LOOKS : 0,
        blobs: account?.blobs ?? new BlobAccount(name, randomBytes(64).toString('base64')),
      });
      return account ? { status: 200, body: fields } : { status: 202, headers: { location: this.#begin('location'), 'retry-after': '0' } };
    }
    if (!account) throw new Refusal(404, 'ResourceNotFound', `The Resource 'Microsoft.Storage/storageAccounts/${name}' was not found.`);
    account.looks += 1;
    const { fields } = account;
    const provisioningState = account.looks < LOOKS ? 'Creating' : 'Succeeded';
    if (action === 'listKeys' && method === 'POST')
      return { status: 200, body: { keys: [{ keyName: 'key1', value: account.blobs.key, permissions: 'FULL' }] } };
    if (method === 'GET')
      return { status: 200, body: { ...fields, properties: { ...(fields['properties'] as Fields), provisioningState } } };
    if (method !== 'DELETE') throw new Refusal(405, 'MethodNotAllowed', method);
    group.accounts.delete(name);
    return { status: 200 };
  }

  #plan(group: Group, name: string, { method, body }: AzureRequest): Reply {
    const plan = group.plans.get(name);
    if (method === 'PUT') {
      if (!/^[a-zA-Z0-9-]{1,60}$/.test(name)) throw new Refusal(400, 'BadRequest', `${name} is no name of a plan`);
      const { sku, properties, location, kind, tags = {} } = only(body, ['location', 'kind', 'sku', 'tags', 'properties'], 'plan');
      const { tier, name: size } = only(sku, ['tier', 'name'], 'sku');
      if (tier !== 'FlexConsumption' || size !== 'FC1' || only(properties, ['reserved'], 'properties')['reserved'] !== true)
        throw new Refusal(400, 'BadRequest', 'only plans of Flex Consumption on Linux are made here');
      const id = `${String(group.fields['id'])}/providers/Microsoft.Web/serverfarms/${name}`;
      group.plans.set(name, {
        id,
        name,
        type: 'Microsoft.Web/serverfarms',
        location,
        kind,
        tags,
        properties: { provisioningState: 'Succeeded' },
      });
      return { status: 202, headers: { 'azure-asyncoperation': this.#begin('status'), 'retry-after': '0' }, body: group.plans.get(name) };
    }
    if (!plan) throw new Refusal(404, 'ResourceNotFound', `The Resource 'Microsoft.Web/serverfarms/${name}' was not found.`);
    if (method === 'GET') return { status: 200, body: plan };
    if (method !== 'DELETE') throw new Refusal(405, 'MethodNotAllowed', method);
    if ([...group.apps.values()].some((app) => app.plan === name))
      throw new Refusal(409, 'Conflict', 'Server farm cannot be deleted because it has web app(s).');
    group.plans.delete(name);
    return { status: 200 };
  }

  async #sites(group: Group, [name, ...rest]: readonly string[], request: AzureRequest): Promise<Reply> {
    const { method, body, query } = request;
    if (name === undefined) return this.#page(group, request);
    const app = group.apps.get(name.toLowerCase());
    if (rest.length === 0 && method === 'PUT') {
      const next = app ?? new AzureApp(name, `${String(group.fields['id'])}/providers/Microsoft.Web/sites/${name}`);
      next.put(JSON.parse(body.toString()), (storage) => this.#hasContainer(storage), new Set(group.plans.keys()));
      if ([...group.apps.values()].some((each) => each !== next && each.plan === next.plan))
        throw new Refusal(400, 'BadRequest', 'A plan of Flex Consumption takes one app.');
      group.apps.set(name.toLowerCase(), next);
      return { status: app ? 200 : 201, body: next.document() };
    }
    if (!app) throw new Refusal(404, 'ResourceNotFound', `The Resource 'Microsoft.Web/sites/${name}' was not found.`);
    if (rest.length > 0) return app.arm(rest.join('/'), request);
    if (method === 'GET') return { status: 200, body: app.document(true) };
    if (method !== 'DELETE' || query.get('deleteEmptyServerFarm') !== 'false') throw new Refusal(405, 'MethodNotAllowed', method);
    group.apps.delete(name.toLowerCase());
    await app.close();
    return { status: 200 };
  }

  #page(group: Group, { query, path }: AzureRequest): Reply {
    const { pageSize = 50 } = this.#options;
    const from = Number(query.get('$skiptoken') ?? 0);
    const all = [...group.apps.values()];
    const next = `${this.publicUrl}/arm${path}?api-version=${VERSIONS['web']}&$skiptoken=${from + pageSize}`;
    const value = all.slice(from, from + pageSize).map((app) => app.document());
    return { status: 200, body: { value, ...(from + pageSize < all.length && { nextLink: next }) } };
  }

  #hasContainer(url: string): boolean {
    const { pathname } = new URL(url);
    const [, , account = '', container = ''] = pathname.split('/');
    return [...this.groups.values()].some(({ accounts }) => accounts.get(account)?.blobs.containers.has(container) === true);
  }

  #begin(kind: 'location' | 'status'): string {
    const id = randomUUID();
    this.#operations.set(id, { looks: 0 });
    return `${this.publicUrl}/arm/operations/${kind}/${id}?api-version=2021-04-01`;
  }

  #operation(kind: string, id: string): Reply {
    const operation = this.#operations.get(id);
    if (!operation) throw new Refusal(404, 'OperationNotFound', id);
    operation.looks += 1;
    const isOver = operation.looks >= LOOKS;
    const headers = { 'retry-after': '0' };
    if (isOver && this.operationFault) return { status: 200, body: { id, status: 'Failed', error: this.operationFault } };
    if (kind === 'status') return { status: 200, headers, body: { id, status: isOver ? 'Succeeded' : 'InProgress' } };
    return isOver ? { status: 200, body: {} } : { status: 202, headers };
  }
}
