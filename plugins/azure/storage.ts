/** Blobs of a storage account, with requests that are signed by its key. */

import { createHmac } from 'node:crypto';
import { RunnerError } from '../../src/plugin.ts';
import type { HttpResponse } from '../../src/plugin.ts';
import type { AzureClient } from './client.ts';

export interface StorageAccount {
  readonly name: string;
  /** Base64. */
  readonly key: string;
  /** Of the blobs, complete. */
  readonly url: string;
}

export interface Blob {
  readonly name: string;
  readonly createdAt: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
}

interface BlobRequest {
  readonly method: 'GET' | 'PUT' | 'DELETE';
  /** Within the account; names are encoded. */
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  /** Lower-case names. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  readonly signal: AbortSignal | undefined;
}

const VERSION = '2023-11-03';

/** https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api */
export class BlobStorage {
  readonly #client: AzureClient;
  readonly #account: StorageAccount;

  constructor(client: AzureClient, account: StorageAccount) {
    this.#client = client;
    this.#account = account;
  }

  async hasContainer(container: string, signal?: AbortSignal): Promise<boolean> {
    const response = await this.#send({ method: 'GET', path: `/${container}`, query: { restype: 'container' }, signal });
    if (response.status === 404) return false;
    expect(`read the container ${container}`, response);
    return true;
  }

  /** Does nothing when it is there. */
  async createContainer(container: string, signal?: AbortSignal): Promise<void> {
    const response = await this.#send({ method: 'PUT', path: `/${container}`, query: { restype: 'container' }, signal });
    if (codeOf(response) !== 'ContainerAlreadyExists') expect(`create the container ${container}`, response);
  }

  /** With all that is in it. */
  async deleteContainer(container: string, signal?: AbortSignal): Promise<void> {
    const response = await this.#send({ method: 'DELETE', path: `/${container}`, query: { restype: 'container' }, signal });
    if (response.status !== 404) expect(`remove the container ${container}`, response);
  }

  async put(blob: BlobWrite, signal?: AbortSignal): Promise<void> {
    const { container, name, body, metadata = {} } = blob;
    const headers = {
      'x-ms-blob-type': 'BlockBlob',
      'content-type': 'application/zip',
      ...Object.fromEntries(Object.entries(metadata).map(([key, value]) => [`x-ms-meta-${key}`, value])),
    };
    expect(`write the blob ${name}`, await this.#send({ method: 'PUT', path: pathOf(container, name), headers, body, signal }));
  }

  /** Undefined when it is not there. */
  async get(container: string, name: string, signal?: AbortSignal): Promise<Uint8Array | undefined> {
    const response = await this.#send({ method: 'GET', path: pathOf(container, name), signal });
    if (response.status === 404) return undefined;
    expect(`read the blob ${name}`, response);
    return response.body;
  }

  async delete(container: string, name: string, signal?: AbortSignal): Promise<void> {
    const response = await this.#send({ method: 'DELETE', path: pathOf(container, name), signal });
    if (response.status !== 404) expect(`remove the blob ${name}`, response);
  }

  /** By name; none when there is no container. */
  async list(container: string, prefix: string, signal?: AbortSignal): Promise<readonly Blob[]> {
    const blobs: Blob[] = [];
    for (let marker = ''; ;) {
      const query = { restype: 'container', comp: 'list', include: 'metadata', prefix, ...(marker !== '' && { marker }) };
      const response = await this.#send({ method: 'GET', path: `/${container}`, query, signal });
      if (response.status === 404) return [];
      expect(`list the blobs of ${container}`, response);
      const xml = Buffer.from(response.body).toString('utf8');
      for (const [, each = ''] of xml.matchAll(/<Blob>([\s\S]*?)<\/Blob>/g)) blobs.push(blobOf(each));
      marker = elementOf(xml, 'NextMarker') ?? '';
      if (marker === '') return blobs;
    }
  }

  async #send({ method, path, query = {}, headers = {}, body, signal }: BlobRequest): Promise<HttpResponse> {
    const { name, key, url } = this.#account;
    const all: Record<string, string> = {
      ...headers,
      'x-ms-date': new Date(this.#client.clock.now()).toUTCString(),
      'x-ms-version': VERSION,
    };
    const { pathname } = new URL(url.replace(/\/+$/, '') + path);
    const signed = signatureOf({ method, account: name, pathname, query, headers: all, length: body?.length ?? 0, key });
    const search = new URLSearchParams(query).toString();
    return this.#client.send(url.replace(/\/+$/, ''), {
      method,
      path: path + (search && `?${search}`),
      headers: [...Object.entries(all).flat(), 'authorization', `SharedKey ${name}:${signed}`],
      signal,
      ...(body && { body }),
    });
  }
}

export interface BlobWrite {
  readonly container: string;
  readonly name: string;
  readonly body: Uint8Array;
  readonly metadata?: Readonly<Record<string, string>>;
}

interface Signed {
  readonly method: string;
  readonly account: string;
  /** Encoded, as it is sent. */
  readonly pathname: string;
  readonly query: Readonly<Record<string, string>>;
  readonly headers: Readonly<Record<string, string>>;
  readonly length: number;
  readonly key: string;
}

/** https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key */
function signatureOf({ method, account, pathname, query, headers, length, key }: Signed): string {
  const ours = Object.entries(headers).filter(([name]) => name.startsWith('x-ms-'));
  const text = [
    method,
    '', // Content-Encoding
    '', // Content-Language
    length === 0 ? '' : String(length),
    '', // Content-MD5
    headers['content-type'] ?? '',
    ...Array<string>(6).fill(''), // Date, If-Modified-Since, If-Match, If-None-Match, If-Unmodified-Since, Range
    ...ours.toSorted(byName).map(([name, value]) => `${name}:${value.trim()}`),
    [
      `/${account}${pathname}`,
      ...Object.entries(query)
        .toSorted(byName)
        .map(([name, value]) => `${name}:${value}`),
    ].join('\n'),
  ].join('\n');
  return createHmac('sha256', Buffer.from(key, 'base64')).update(text, 'utf8').digest('base64');
}

function byName([a]: readonly [string, string], [b]: readonly [string, string]): number {
  return a < b ? -1 : 1;
}

function pathOf(container: string, name: string): string {
  return `/${container}/${name.split('/').map(encodeURIComponent).join('/')}`;
}

function codeOf({ headers, body }: HttpResponse): string | undefined {
  const code = headers['x-ms-error-code'];
  return typeof code === 'string' ? code : elementOf(Buffer.from(body).toString('utf8'), 'Code');
}

function expect(what: string, response: HttpResponse): void {
  const { status, body } = response;
  if (status < 300) return;
  const message = elementOf(Buffer.from(body).toString('utf8'), 'Message')?.split('\n', 1)[0] ?? `status ${status}`;
  const platformCode = codeOf(response) ?? String(status);
  throw new RunnerError('DEPLOY_FAILED', `Azure cannot ${what}: ${message} (${platformCode})`, {
    details: { status, platformCode },
  });
}

function blobOf(xml: string): Blob {
  const metadata = elementOf(xml, 'Metadata') ?? '';
  const pairs = [...metadata.matchAll(/<([\w-]+)>([^<]*)<\/\1>/g)].map(([, name = '', value = '']) => [name, decoded(value)] as const);
  return { name: elementOf(xml, 'Name') ?? '', createdAt: elementOf(xml, 'Creation-Time'), metadata: Object.fromEntries(pairs) };
}

function elementOf(xml: string, name: string): string | undefined {
  const [, value] = new RegExp(`<${name}>([\\s\\S]*?)</${name}>`).exec(xml) ?? [];
  return value === undefined || value.includes('<') ? value : decoded(value);
}

const ENTITIES: Readonly<Record<string, string>> = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&' };

function decoded(text: string): string {
  return text.replaceAll(/&(lt|gt|quot|apos|amp);/g, (_, name: string) => ENTITIES[name] ?? '');
}
