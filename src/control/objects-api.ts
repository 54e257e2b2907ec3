/** The object store over HTTP. */

import { OCTETS, demand, json } from '../gateway/http.ts';
import type { Route } from '../gateway/http.ts';
import { isResumable } from '../queue/objects.ts';
import { PART_QUERY, partOf, partRoutes } from './object-parts-api.ts';
import type { KeyedObjects } from '../queue/shared-queue.ts';

export interface ObjectsApiOptions {
  readonly objects: KeyedObjects;
  readonly objectBytesMax: number;
}

const REFERENCE = {
  type: 'object',
  properties: { key: { type: 'string' }, size: { type: 'integer' }, sha256: { type: 'string' } },
  required: ['key', 'size', 'sha256'],
};
const BY_HASH = /^[0-9a-f]{64}$/;

export function objectRoutes({ objects, objectBytesMax }: ObjectsApiOptions): Route[] {
  const path = '/objects/{sha256}';
  const parts = isResumable(objects) ? objects : undefined;
  return [
    ...(parts ? partRoutes(parts, objectBytesMax) : []),
    {
      method: 'PUT',
      path,
      scope: 'objects',
      bodyBytesMax: objectBytesMax,
      doc: {
        summary: 'Keeps an object, under the SHA-256 of its bytes or a UUID. Idempotent; what is there is never changed.',
        request: { contentType: OCTETS, schema: {} },
        responses: { 200: { about: 'it is durable', schema: REFERENCE } },
      },
      handle: async ({ params, body }) => json(200, await objects.put(body, params['sha256'] ?? '')),
    },
    {
      method: 'GET',
      path,
      scope: 'objects',
      doc: {
        summary: 'The bytes of an object, or a part of them, which is not verified.',
        ...(parts && { query: PART_QUERY }),
        responses: { 200: { about: 'its bytes', contentType: OCTETS, schema: {} } },
      },
      async handle({ params, query }) {
        const { sha256: key = '' } = params;
        const part = parts && (await partOf(parts, key, query));
        return { status: 200, headers: { 'content-type': OCTETS }, body: part ?? (await objects.read(key)) };
      },
    },
    {
      method: 'DELETE',
      path,
      scope: 'objects',
      doc: {
        summary: 'Removes an object; one that is named by its hash, which others may use, only for operators.',
        responses: { 200: { about: 'it is not there any more', schema: { type: 'object' } } },
      },
      async handle({ params, caller }) {
        const { sha256: key = '' } = params;
        if (BY_HASH.test(key)) demand(caller, 'admin');
        await objects.remove({ key });
        return json(200, {});
      },
    },
  ];
}
