/** What the OpenAPI document says of the queue's routes. */

import type { RouteDoc } from '../gateway/http.ts';
import { JSON_TYPE } from '../gateway/http.ts';
import type { JsonSchema } from '../gateway/schema.ts';

const STRING = { type: 'string' };
const NUMBER = { type: 'integer' };
const FLAG = { type: 'boolean' };
const STRINGS = { type: 'array', items: STRING };
const HEADERS = { type: 'object', additionalProperties: STRING };

const REFERENCE = {
  type: 'object',
  description: 'bytes in the object store',
  properties: { key: STRING, size: NUMBER, sha256: STRING },
  required: ['key', 'size', 'sha256'],
};
const CONTENT = {
  oneOf: [
    { type: 'string', contentEncoding: 'base64' },
    REFERENCE,
    { type: 'object', properties: { text: STRING }, required: ['text'], description: 'UTF-8, in requests only' },
  ],
};
const LEASE = object({ jobId: STRING, token: STRING, until: NUMBER });
const JOB = object(
  {
    id: STRING,
    type: STRING,
    payload: CONTENT,
    headers: HEADERS,
    priority: { type: 'integer', minimum: 0, maximum: 9 },
    delayMs: NUMBER,
    deadline: NUMBER,
    attemptsMax: NUMBER,
    deadLetter: FLAG,
    requires: STRINGS,
  },
  ['type', 'payload'],
);
const PUBLISHED = object({ id: STRING, duplicate: FLAG });
const CLAIMED = object({
  id: STRING,
  type: STRING,
  payload: CONTENT,
  headers: HEADERS,
  priority: NUMBER,
  requires: STRINGS,
  attempt: NUMBER,
  attemptsMax: NUMBER,
  publishedAt: NUMBER,
  deadline: NUMBER,
  lease: LEASE,
});
const LOST = { ...STRINGS, description: 'claimId of earlier claims whose answers did not come: their jobs go back to the queue first' };
const CLAIM_REQUEST = object(
  { workerId: STRING, capabilities: STRINGS, max: NUMBER, leaseMs: NUMBER, waitMs: NUMBER, claimId: STRING, lost: LOST },
  [],
);
const COMPLETION = object({ lease: LEASE, body: CONTENT, headers: HEADERS }, ['lease', 'body']);
const ERROR = object({ code: STRING, message: STRING, retry: STRING, details: { type: 'object' } }, ['code', 'message']);
const STATUS_OF_JOB: JsonSchema = object(
  {
    id: STRING,
    type: STRING,
    state: { type: 'string', enum: ['queued', 'claimed', 'completed', 'failed', 'dead', 'expired', 'cancelled'] },
    priority: NUMBER,
    requires: STRINGS,
    attempts: NUMBER,
    attemptsMax: NUMBER,
    publishedAt: NUMBER,
    availableAt: NUMBER,
    deadline: NUMBER,
    workerId: STRING,
    claimedAt: NUMBER,
    leaseUntil: NUMBER,
    endedAt: NUMBER,
    error: ERROR,
  },
  ['id', 'type', 'state'],
);
const BY_ID = object({ id: STRING });

export const PUBLISH = doc('Publishes a job, or several: all or none. Idempotent by id.', {
  request: { oneOf: [JOB, object({ jobs: { type: 'array', items: JOB } })] },
  response: { oneOf: [PUBLISHED, object({ jobs: { type: 'array', items: PUBLISHED } })] },
});
export const CLAIM = doc('Claims the next jobs; waits for the first one.', {
  request: CLAIM_REQUEST,
  response: object({ jobs: { type: 'array', items: CLAIMED } }),
});
export const CANCEL_CLAIM = doc('Ends a claim that waits: it is answered with what it has.', {
  request: object({ claimId: STRING }),
  response: object({ cancelled: FLAG }),
});
export const WORK = doc('Ends jobs and claims the next ones in one request and one transaction.', {
  request: object({ completions: { type: 'array', items: COMPLETION }, claim: CLAIM_REQUEST }, []),
  response: object(
    {
      completions: { type: 'array', items: object({ error: ERROR }, []) },
      jobs: { type: 'array', items: CLAIMED },
      claimError: ERROR,
    },
    ['completions'],
  ),
});
export const COMPLETE = doc('Keeps the result of a job. Idempotent by lease and body.', { request: COMPLETION, response: object({}) });
export const EXTEND = doc('Prolongs a lease.', {
  request: object({ lease: LEASE, leaseMs: NUMBER }, ['lease']),
  response: object({ lease: LEASE }),
});
export const FAIL = doc('Says that the attempt failed.', {
  request: object({ lease: LEASE, code: STRING, message: STRING, retryable: FLAG, delayMs: NUMBER }, ['lease', 'code', 'message']),
  response: object({ state: { type: 'string', enum: ['queued', 'failed', 'dead'] } }),
});
export const RELEASE = doc('Gives a job back; the attempt does not count.', {
  request: object({ lease: LEASE, delayMs: NUMBER }, ['lease']),
  response: object({}),
});
export const CANCEL = doc('Ends a job that has not ended.', { request: BY_ID, response: object({ cancelled: FLAG }) });
export const REQUEUE = doc('Queues a dead job again, as if new.', { request: BY_ID, response: object({ requeued: FLAG }) });
export const DISCARD = doc('Forgets a dead job.', { request: BY_ID, response: object({ discarded: {} }) });
export const PURGE = doc('Forgets what ended long ago.', {
  request: object({ olderThanMs: NUMBER }),
  response: object({ jobs: NUMBER, objects: { type: 'array', items: REFERENCE } }),
});
export const STATUS = doc('What became of a job. Ids with a slash in them go into the query.', { response: STATUS_OF_JOB });
export const RESULT = doc('The result of a job, how it failed, or that it has not ended yet.', {
  response: object({ result: object({ body: CONTENT, headers: HEADERS }, ['body']), error: ERROR, pending: FLAG }, []),
});
export const STATS = doc('Counts, ages, workers; in rates jobs per second over the last minute.', { response: { type: 'object' } });
export const DEAD = doc('The dead letter, a page of it.', { response: object({ jobs: { type: 'array', items: STATUS_OF_JOB } }) });

function object(properties: Readonly<Record<string, unknown>>, required: readonly string[] = Object.keys(properties)): JsonSchema {
  return { type: 'object', properties, ...(required.length > 0 && { required }) };
}

function doc(summary: string, { request, response }: { readonly request?: JsonSchema; readonly response: JsonSchema }): RouteDoc {
  return {
    summary,
    ...(request && { request: { contentType: JSON_TYPE, schema: request } }),
    responses: { 200: { about: 'done', schema: response } },
  };
}
