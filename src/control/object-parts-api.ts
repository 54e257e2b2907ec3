/** Objects in parts over HTTP: what is sent or fetched over a connection that breaks goes on where it was. */

import { RunnerError } from '../errors.ts';
import { JSON_TYPE, OCTETS, json } from '../gateway/http.ts';
import type { Reply, Route } from '../gateway/http.ts';
import { decimal, optional } from '../gateway/schema.ts';
import type { ResumableObjects } from '../queue/objects.ts';
import { fieldsOf } from '../queue/wire.ts';

const PART_BYTES_MAX = 16 * 1024 * 1024;
const FINISH_BYTES_MAX = 4_096;
const FROM = optional(decimal({ about: 'the first byte', min: 0, max: Number.MAX_SAFE_INTEGER }));
const BYTES = optional(decimal({ about: 'how many bytes at most', min: 1, max: PART_BYTES_MAX }));
const UPLOADED = {
  type: 'object',
  properties: { size: { type: 'integer' }, isWhole: { type: 'boolean' } },
  required: ['size', 'isWhole'],
};

/** Of `GET /objects/{sha256}`. */
export const PART_QUERY = { from: FROM, bytes: BYTES };

/** Undefined: all of it is wanted. */
export async function partOf(objects: ResumableObjects, key: string, query: URLSearchParams): Promise<Uint8Array | undefined> {
  const [from, bytes] = [query.get('from'), query.get('bytes')];
  if (from === null && bytes === null) return undefined;
  const first = from === null ? 0 : (FROM.parse(from, 'from') ?? 0);
  return objects.readPart(key, first, bytes === null ? PART_BYTES_MAX : (BYTES.parse(bytes, 'bytes') ?? PART_BYTES_MAX));
}

export function partRoutes(objects: ResumableObjects, objectBytesMax: number): Route[] {
  const path = '/objects/{sha256}/parts';
  const scope = 'objects';
  return [
    {
      method: 'GET',
      path,
      scope,
      doc: { summary: 'How much of an object is there.', responses: { 200: { about: 'so much', schema: UPLOADED } } },
      handle: async ({ params }) => json(200, await objects.uploaded(params['sha256'] ?? '')),
    },
    {
      method: 'PUT',
      path,
      scope,
      bodyBytesMax: PART_BYTES_MAX,
      doc: {
        summary: 'A part of an object, from the byte `from` on. Idempotent; parts that nobody goes on with are removed after some time.',
        query: { from: FROM },
        request: { contentType: OCTETS, schema: {} },
        responses: { 200: { about: 'it is kept', schema: UPLOADED } },
      },
      async handle({ params, query, body }): Promise<Reply> {
        const from = FROM.parse(query.get('from') ?? '0', 'from') ?? 0;
        if (from + body.length > objectBytesMax)
          throw new RunnerError('PAYLOAD_TOO_LARGE', `an object has ${objectBytesMax} bytes at most`, { details: { objectBytesMax } });
        return json(200, await objects.writePart(params['sha256'] ?? '', from, body));
      },
    },
    {
      method: 'POST',
      path,
      scope,
      bodyBytesMax: FINISH_BYTES_MAX,
      doc: {
        summary: 'Makes an object of its parts when they are what the SHA-256 says. Idempotent.',
        request: {
          contentType: JSON_TYPE,
          schema: { type: 'object', properties: { size: { type: 'integer' }, sha256: { type: 'string' } }, required: ['size', 'sha256'] },
        },
        responses: { 200: { about: 'it is durable', schema: { type: 'object' } } },
      },
      async handle({ params, body }) {
        const { size, sha256 } = fieldsOf(parsed(body), 'the body');
        if (typeof size !== 'number' || typeof sha256 !== 'string') throw new RunnerError('REQUEST_INVALID', 'say its size and sha256');
        return json(200, await objects.finish({ key: params['sha256'] ?? '', size, sha256 }));
      },
    },
  ];
}

function parsed(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString('utf8'));
  } catch (cause) {
    throw new RunnerError('REQUEST_INVALID', 'the body is not JSON', { cause });
  }
}
