/** The blobs of one storage account of Azure, for tests: requests must be signed by its key. */

import { createHmac } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

export interface StoredBlob {
  readonly body: Buffer;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAt: string;
}

export interface BlobReply {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Buffer;
}

export interface BlobRequest {
  readonly method: string;
  /** As it was sent, with the query. */
  readonly url: string;
  /** Within the account, decoded. */
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
}

const PAGE = 3;

export class BlobAccount {
  readonly name: string;
  readonly key: string;
  readonly containers = new Map<string, Map<string, StoredBlob>>();

  constructor(name: string, key: string) {
    this.name = name;
    this.key = key;
  }

  answer(request: BlobRequest): BlobReply {
    const { method, path, headers, body } = request;
    if (!this.#isSigned(request)) return refused(403, 'AuthenticationFailed', 'Server failed to authenticate the request.');
    const query = new URL(request.url, 'http://blobs').searchParams;
    const [container = '', ...rest] = path.split('/').slice(1);
    const name = rest.join('/');
    const blobs = this.containers.get(container);
    if (name === '' && query.get('restype') !== 'container') return refused(400, 'InvalidQueryParameterValue', 'restype');
    if (name === '' && method === 'PUT') {
      if (!/^[a-z0-9](?:-?[a-z0-9]){2,62}$/.test(container))
        return refused(400, 'InvalidResourceName', 'The specified resource name is invalid.');
      if (blobs) return refused(409, 'ContainerAlreadyExists', 'The specified container already exists.');
      this.containers.set(container, new Map());
      return { status: 201 };
    }
    if (!blobs) return refused(404, 'ContainerNotFound', 'The specified container does not exist.');
    if (name === '') {
      if (method === 'GET') return query.get('comp') === 'list' ? list(blobs, query) : { status: 200 };
      if (method !== 'DELETE') return refused(405, 'UnsupportedHttpVerb', method);
      this.containers.delete(container);
      return { status: 202 };
    }
    if (method === 'PUT') {
      if (headers['x-ms-blob-type'] !== 'BlockBlob') return refused(400, 'MissingRequiredHeader', 'x-ms-blob-type');
      const metadata = Object.entries(headers).flatMap(([header, value]) =>
        header.startsWith('x-ms-meta-') ? [[header.slice('x-ms-meta-'.length), String(value)] as const] : [],
      );
      blobs.set(name, { body, metadata: Object.fromEntries(metadata), createdAt: new Date().toUTCString() });
      return { status: 201 };
    }
    const blob = blobs.get(name);
    if (!blob) return refused(404, 'BlobNotFound', 'The specified blob does not exist.');
    if (method === 'GET') return { status: 200, headers: { 'content-type': 'application/zip' }, body: blob.body };
    if (method !== 'DELETE') return refused(405, 'UnsupportedHttpVerb', method);
    blobs.delete(name);
    return { status: 202 };
  }

  #isSigned({ method, url, headers, body }: BlobRequest): boolean {
    const { pathname, searchParams } = new URL(url, 'http://blobs');
    const extra = Object.keys(headers)
      .filter((name) => name.startsWith('x-ms-'))
      .toSorted()
      .map((name) => `${name}:${String(headers[name])}\n`)
      .join('');
    const query = [...searchParams.keys()].toSorted().map((name) => `\n${name}:${searchParams.get(name)}`);
    const date = Date.parse(String(headers['x-ms-date']));
    if (Number.isNaN(date) || Math.abs(Date.now() - date) > 900_000) return false;
    const lines = [method, '', '', body.length === 0 ? '' : body.length, '', headers['content-type'] ?? '', '', '', '', '', '', ''];
    const text = `${lines.join('\n')}\n${extra}/${this.name}${pathname}${query.join('')}`;
    const signature = createHmac('sha256', Buffer.from(this.key, 'base64')).update(text).digest('base64');
    return headers.authorization === `SharedKey ${this.name}:${signature}`;
  }
}

function list(blobs: ReadonlyMap<string, StoredBlob>, query: URLSearchParams): BlobReply {
  const prefix = query.get('prefix') ?? '';
  const names = [...blobs.keys()].filter((name) => name.startsWith(prefix)).toSorted();
  const from = Number(query.get('marker') ?? 0);
  const items = names.slice(from, from + PAGE).map((name) => {
    const { createdAt, metadata } = blobs.get(name) as StoredBlob;
    const said = Object.entries(metadata).map(([key, value]) => `<${key}>${value}</${key}>`);
    const shown = query.get('include') === 'metadata' ? `<Metadata>${said.join('')}</Metadata>` : '';
    return `<Blob><Name>${name}</Name><Properties><Creation-Time>${createdAt}</Creation-Time></Properties>${shown}</Blob>`;
  });
  const next = from + PAGE < names.length ? `<NextMarker>${from + PAGE}</NextMarker>` : '<NextMarker />';
  return { status: 200, body: `<?xml version="1.0"?><EnumerationResults><Blobs>${items.join('')}</Blobs>${next}</EnumerationResults>` };
}

function refused(status: number, code: string, message: string): BlobReply {
  return {
    status,
    headers: { 'x-ms-error-code': code, 'content-type': 'application/xml' },
    body: `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${message}</Message></Error>`,
  };
}
