/**
 * The namespace of functions: found by its label or id, made when there is none. It gives the host of OpenWhisk and the key to it.
 *
 * API: `/v2/functions/namespaces` of https://github.com/digitalocean/openapi.
 */

import { RunnerError } from '../../src/plugin.ts';
import { failure, listOf, parsed, asFields } from './client.ts';
import type { Client, Fields, Request, Response } from './client.ts';

export interface NamespaceOptions {
  /** Of the API, without a slash at its end. */
  readonly apiUrl: string;
  /** A label, or the id of a namespace that somebody made. */
  readonly namespace: string;
  readonly region: string;
}

export interface Namespace {
  /** `fn-` and a UUID. */
  readonly id: string;
  readonly apiHost: string;
  /** As `Authorization` of OpenWhisk. */
  readonly authorization: string;
}

export class Namespaces {
  readonly client: Client;
  readonly options: NamespaceOptions;
  #found: Namespace | undefined;
  #creating: Promise<void> | undefined;

  constructor(client: Client, options: NamespaceOptions) {
    this.client = client;
    this.options = options;
  }

  /** Remembered once it is found: its host and its key stay. */
  async find(signal: AbortSignal | undefined): Promise<Namespace | undefined> {
    if (this.#found) return this.#found;
    const { namespace: wanted } = this.options;
    const { namespaces } = parsed('list namespaces', await this.api({ method: 'GET', path: '/v2/functions/namespaces', signal }));
    const matching = listOf(namespaces).filter(({ label, namespace }) => label === wanted || namespace === wanted);
    if (matching.length > 1)
      throw new RunnerError('CONFIG_INVALID', `there are ${matching.length} namespaces with the label ${wanted}: name one by its id`);
    const [fields] = matching;
    if (fields) this.#found = namespaceOf(fields);
    return this.#found;
  }

  /** Once, however many deployments find none at the same time: labels are not unique. */
  create(signal: AbortSignal | undefined): Promise<void> {
    if (this.#found) return Promise.resolve();
    this.#creating ??= this.#create(signal).finally(() => (this.#creating = undefined));
    return this.#creating;
  }

  async #create(signal: AbortSignal | undefined): Promise<void> {
    const { namespace: label, region } = this.options;
    const json = { label, region };
    const response = await this.api({ method: 'POST', path: '/v2/functions/namespaces', json, signal });
    const namespace = asFields(parsed(`create the namespace ${label}`, response)['namespace']);
    if (namespace) this.#found = namespaceOf(namespace);
  }

  /** A request to the API. */
  async api({ path, ...request }: Omit<Request, 'url'> & { readonly path: string }): Promise<Response> {
    const response = await this.client.send({ ...request, url: this.options.apiUrl + path, authorization: await this.client.bearer() });
    if (response.status === 401 || response.status === 403) throw failure('take the token', response);
    return response;
  }

  /** A request to the OpenWhisk of the namespace; the path begins below `/api/v1/namespaces/_`. */
  async whisk({ path, ...request }: Omit<Request, 'url'> & { readonly path: string }): Promise<Response> {
    const namespace = await this.find(request.signal);
    if (!namespace) throw new RunnerError('NOT_FOUND', `there is no namespace ${this.options.namespace}`);
    const { apiHost, authorization } = namespace;
    const response = await this.client.send({ ...request, url: `${apiHost}/api/v1/namespaces/_${path}`, authorization });
    if (response.status === 401 || response.status === 403) throw failure(`take the key of the namespace ${namespace.id}`, response);
    return response;
  }

  /** `nodejs:24` and the like, as the host offers them. */
  async runtimes(signal: AbortSignal | undefined): Promise<readonly string[]> {
    const namespace = await this.find(signal);
    if (!namespace) return [];
    const response = await this.client.send({ method: 'GET', url: `${namespace.apiHost}/api/v1`, signal });
    const runtimes = asFields(parsed('list its runtimes', response)['runtimes']) ?? {};
    return Object.values(runtimes).flatMap((family) =>
      listOf(family).flatMap(({ kind, deprecated }) => (typeof kind === 'string' && deprecated !== true ? [kind] : [])),
    );
  }
}

function namespaceOf({ namespace, api_host: apiHost, uuid, key }: Fields): Namespace {
  if (typeof namespace !== 'string' || typeof apiHost !== 'string' || typeof uuid !== 'string' || typeof key !== 'string')
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', 'DigitalOcean describes a namespace without its host or its key');
  const authorization = `Basic ${Buffer.from(`${uuid}:${key}`).toString('base64')}`;
  return { id: namespace, apiHost: apiHost.replace(/\/+$/, ''), authorization };
}
