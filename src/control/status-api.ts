/** What the holder of a lease tells of its job under the job's own address: `POST /queue/status/{job_id}`. */

import { RunnerError } from '../errors.ts';
import { JSON_TYPE, json } from '../gateway/http.ts';
import type { GatewayRequest, Reply, RouteDoc } from '../gateway/http.ts';
import type { JobFailure, Lease, WorkQueue } from '../queue/queue.ts';
import { fieldsOf, leaseOfWire, resultOfWire } from '../queue/wire.ts';
import { ownLease } from './own-lease.ts';

type Fields = Readonly<Record<string, unknown>>;
type Update = (queue: WorkQueue, lease: Lease, fields: Fields) => Promise<Fields>;

const ERROR = (about: string) => ({ about, schema: { type: 'object' } });
const LEASE = {
  type: 'object',
  description: 'as it was claimed; the id of its job may be left out',
  properties: { jobId: { type: 'string' }, token: { type: 'string' }, until: { type: 'integer' } },
  required: ['token'],
};

const DOC: RouteDoc = {
  summary:
    'Only for who holds the lease of the job. claimed: it goes on, the lease lasts for leaseMs from now on; completed: with its result; ' +
    'failed: with code and message, it is queued for another attempt, failed or dead then; queued: it is given back, the attempt does not count.',
  request: {
    contentType: JSON_TYPE,
    schema: {
      type: 'object',
      properties: {
        state: { type: 'string', enum: ['claimed', 'completed', 'failed', 'queued'] },
        lease: LEASE,
        leaseMs: { type: 'integer', description: 'of claimed' },
        body: { description: 'of completed: base64, {"text": "..."} or a reference to an object' },
        headers: { type: 'object', additionalProperties: { type: 'string' }, description: 'of completed' },
        code: { type: 'string', description: 'of failed' },
        message: { type: 'string', description: 'of failed' },
        retryable: { type: 'boolean', description: 'of failed; default true' },
        delayMs: { type: 'integer', description: 'of failed and queued' },
      },
      required: ['state', 'lease'],
    },
  },
  responses: {
    200: {
      about: 'the state of the job now; of claimed with the new lease',
      schema: {
        type: 'object',
        properties: { id: { type: 'string' }, state: { type: 'string' }, lease: LEASE },
        required: ['id', 'state'],
      },
    },
    400: ERROR('REQUEST_INVALID: the body says something else'),
    409: ERROR('LEASE_LOST: somebody else has the job, or it has ended; STATE_INVALID: no worker brings a job into this state'),
  },
};

/** The states that a worker may bring its job into; the queue checks the values. */
const UPDATES: Readonly<Record<string, Update>> = {
  claimed: async (queue, lease, { leaseMs }) => ({ state: 'claimed', lease: await queue.extend(lease, leaseMs as number | undefined) }),
  async completed(queue, lease, fields) {
    await queue.complete(lease, resultOfWire(fields));
    return { state: 'completed' };
  },
  failed: async (queue, lease, { code, message, retryable, delayMs }) => ({
    state: await queue.fail(lease, { code, message, retryable, delayMs } as JobFailure),
  }),
  async queued(queue, lease, { delayMs }) {
    await queue.release(lease, delayMs === undefined ? {} : { delayMs: delayMs as number });
    return { state: 'queued' };
  },
};
const NOT_BY_WORKERS: ReadonlySet<string> = new Set(['dead', 'expired', 'cancelled']);

/** The document and the handler of the route. */
export function statusUpdate(queue: WorkQueue): readonly [RouteDoc, (fields: Fields, request: GatewayRequest) => Promise<Reply>] {
  return [
    DOC,
    async (fields, { params, caller }) => {
      const { job_id: id = '' } = params;
      const { state } = fields;
      const update = typeof state === 'string' && Object.hasOwn(UPDATES, state) ? UPDATES[state] : undefined;
      if (!update) throw refusal(state);
      return json(200, { id, ...(await update(queue, ownLease(queue, leaseFor(id, fields['lease']), caller), fields)) });
    },
  ];
}

function leaseFor(id: string, value: unknown): Lease {
  const given = fieldsOf(value, 'lease');
  const lease = leaseOfWire({ jobId: id, until: 0, ...given });
  if (lease.jobId === id) return lease;
  throw new RunnerError('REQUEST_INVALID', `the lease is that of job ${lease.jobId}, not of ${id}`, { details: { jobId: id } });
}

function refusal(state: unknown): RunnerError {
  if (typeof state === 'string' && NOT_BY_WORKERS.has(state))
    return new RunnerError('STATE_INVALID', `no worker brings a job into the state ${state}; there are ${Object.keys(UPDATES).join(', ')}`);
  return new RunnerError('REQUEST_INVALID', `state is to be one of ${Object.keys(UPDATES).join(', ')}`);
}
