/** The work queue over HTTP: the routes of the contract's methods, with its own names as JSON and bytes as base64. */

import { isUtf8 } from 'node:buffer';
import { RunnerError } from '../errors.ts';
import { json } from '../gateway/http.ts';
import type { Caller, GatewayRequest, Reply, Route, RouteDoc } from '../gateway/http.ts';
import { decimal, list, optional, text } from '../gateway/schema.ts';
import type { ClaimOptions, ClaimedJob, JobFailure, Lease, WorkQueue } from '../queue/queue.ts';
import { claimedToWire, countWithin, errorToWire, fieldsOf, jobOfWire, listOf, resultOfWire, resultToWire } from '../queue/wire.ts';
import type { WireError } from '../queue/wire.ts';
import { Session } from './access.ts';
import { ownLease } from './own-lease.ts';
import type { Polls } from './polls.ts';
import * as docs from './queue-docs.ts';
import { statusUpdate } from './status-api.ts';

export interface QueueApiOptions {
  readonly queue: WorkQueue;
  readonly polls: Polls;
  /** Of one request, and of the payloads of a claim. */
  readonly bodyBytesMax: number;
  /** A claim, or a wait for a result, is answered after so long at most: who asked for more asks again. */
  readonly waitMsMax: number;
}

type Fields = Readonly<Record<string, unknown>>;
type Handle = (fields: Fields, request: GatewayRequest) => Promise<Reply> | Reply;

const COMPLETIONS_MAX = 1_000;
/** Of the payloads of a claim, whatever a request may have: a text of V8 is not longer than 512 MiB. */
const ANSWER_BYTES_MAX = 128 * 1024 * 1024;

export function queueRoutes(options: QueueApiOptions): Route[] {
  const { queue, bodyBytesMax } = options;
  const post = (path: string, scope: Route['scope'], [doc, handle]: readonly [RouteDoc, Handle]): Route => ({
    method: 'POST',
    path,
    scope,
    bodyBytesMax,
    doc,
    handle: (request) => handle(fieldsOf(bodyOf(request), 'the body'), request),
  });
  return [
    post('/queue/publish', 'publish', [docs.PUBLISH, (fields) => publish(queue, fields)]),
    post('/queue/claim', 'claim', [docs.CLAIM, async (fields, request) => json(200, { jobs: await claim(options, fields, request) })]),
    post('/queue/claim/cancel', 'claim', [
      docs.CANCEL_CLAIM,
      ({ claimId }, { caller }) => json(200, { cancelled: options.polls.cancel(caller.id, CLAIM_ID.parse(claimId, 'claimId')) }),
    ]),
    post('/queue/work', 'claim', [docs.WORK, (fields, request) => work(options, fields, request)]),
    post('/queue/complete', 'claim', [
      docs.COMPLETE,
      async (fields, { caller }) => {
        await complete(queue, fields, caller);
        return json(200, DONE);
      },
    ]),
    post('/queue/extend', 'claim', [
      docs.EXTEND,
      async ({ lease, leaseMs }, { caller }) =>
        json(200, { lease: await queue.extend(ownLease(queue, lease, caller), leaseMs as number | undefined) }),
    ]),
    post('/queue/fail', 'claim', [
      docs.FAIL,
      async ({ lease, ...failure }, { caller }) =>
        json(200, { state: await queue.fail(ownLease(queue, lease, caller), failure as unknown as JobFailure) }),
    ]),
    post('/queue/release', 'claim', [
      docs.RELEASE,
      async ({ lease, delayMs }, { caller }) => {
        await queue.release(ownLease(queue, lease, caller), delayMs === undefined ? {} : { delayMs: delayMs as number });
        return json(200, DONE);
      },
    ]),
    post('/queue/status/{job_id}', 'claim', statusUpdate(queue)),
    post('/queue/cancel', 'publish', [docs.CANCEL, async ({ id }) => json(200, { cancelled: await queue.cancel(idOf(id)) })]),
    post('/queue/requeue', 'admin', [docs.REQUEUE, async ({ id }) => json(200, { requeued: await queue.requeue(idOf(id)) })]),
    post('/queue/discard', 'admin', [docs.DISCARD, async ({ id }) => json(200, { discarded: (await queue.discard(idOf(id))) ?? null })]),
    post('/queue/purge', 'admin', [docs.PURGE, async ({ olderThanMs }) => json(200, await queue.purge(olderThanMs as number))]),
    ...readingRoutes(options),
  ];
}

function readingRoutes(options: QueueApiOptions): Route[] {
  const { queue } = options;
  const status = async (id: string): Promise<Reply> => {
    const found = await queue.status(id);
    if (found) return json(200, found);
    throw new RunnerError('NOT_FOUND', `the queue has no record of job ${id}`, { details: { jobId: id } });
  };
  return [
    {
      method: 'GET',
      path: '/queue/status/{job_id}',
      scope: 'publish',
      doc: docs.STATUS,
      handle: ({ params }) => status(params['job_id'] ?? ''),
    },
    {
      method: 'GET',
      path: '/queue/status',
      scope: 'publish',
      doc: { ...docs.STATUS, query: { id: JOB_ID } },
      handle: ({ query }) => status(JOB_ID.parse(query.get('id'), 'id')),
    },
    {
      method: 'GET',
      path: '/queue/result',
      scope: 'publish',
      doc: { ...docs.RESULT, query: { id: JOB_ID, waitMs: WAIT_MS } },
      handle: (request) => result(options, request),
    },
    { method: 'GET', path: '/queue/stats', scope: 'publish', doc: docs.STATS, handle: async () => json(200, await queue.stats()) },
    {
      method: 'GET',
      path: '/queue/dead',
      scope: 'publish',
      doc: { ...docs.DEAD, query: { after: optional(JOB_ID), limit: LIMIT } },
      async handle({ query }) {
        const after = query.get('after');
        const limit = query.get('limit');
        const page = {
          ...(after !== null && { after: JOB_ID.parse(after, 'after') }),
          ...(limit !== null && { limit: LIMIT.parse(limit, 'limit') }),
        };
        return json(200, { jobs: await queue.deadLetters(page) });
      },
    },
  ];
}

const JOB_ID = text({ about: 'id of a job', charsMax: 256 });
const CLAIM_ID = text({ about: 'id of a claim', charsMax: 128 });
/** Of the same worker. */
const LOST = list(CLAIM_ID, { about: 'claims whose answers did not come: what they were given goes back first', itemsMax: 100 });
const WORKER_ID = text({ about: 'id of a worker', charsMax: 128 });
const WAIT_MS = optional(decimal({ about: 'how long to wait for it', min: 0, max: 3_600_000 }));
const LIMIT = optional(decimal({ about: 'how many', min: 1, max: 1_000 }));

async function publish(queue: WorkQueue, fields: Fields): Promise<Reply> {
  if (fields['jobs'] === undefined) return json(200, await queue.publish(jobOfWire(fields)));
  return json(200, { jobs: await queue.publishMany(listOf(fields['jobs'], 'jobs').map(jobOfWire)) });
}

async function complete(queue: WorkQueue, fields: Fields, caller: Caller): Promise<void> {
  await queue.complete(ownLease(queue, fields['lease'], caller), resultOfWire(fields));
}

/** All at once: they share a transaction. The claim of a worker that has just ended a job does not wait: the news must not. */
async function work(options: QueueApiOptions, fields: Fields, request: GatewayRequest): Promise<Reply> {
  const given = fields['completions'] === undefined ? [] : listOf(fields['completions'], 'completions');
  if (given.length > COMPLETIONS_MAX)
    throw new RunnerError('REQUEST_INVALID', `${given.length} completions came; at most ${COMPLETIONS_MAX} are taken at once`);
  const wanted = fields['claim'] === undefined ? undefined : fieldsOf(fields['claim'], 'claim');
  const completing = given.map((one) => outcomeOf(options.queue, one, request.caller));
  const claiming = wanted && claim(options, given.length > 0 ? { ...wanted, waitMs: 0 } : wanted, request).then(claimed, unclaimed);
  // None of them rejects.
  const completions: unknown[] = [];
  for (const outcome of completing) completions.push(await outcome);
  return json(200, { completions, ...(await claiming) });
}

const DONE = {};
const done = (): typeof DONE => DONE;
const refused = (thrown: unknown): { readonly error: WireError } => ({ error: errorToWire(thrown) });
const claimed = (jobs: readonly Fields[]): Fields => ({ jobs });
const unclaimed = (thrown: unknown): Fields => ({ claimError: errorToWire(thrown) });

function outcomeOf(queue: WorkQueue, given: unknown, caller: Caller): unknown {
  try {
    const fields = fieldsOf(given, 'a completion');
    return queue.complete(ownLease(queue, fields['lease'], caller), resultOfWire(fields)).then(done, refused);
  } catch (thrown) {
    return refused(thrown);
  }
}

async function claim(
  { queue, polls, waitMsMax, bodyBytesMax }: QueueApiOptions,
  fields: Fields,
  request: GatewayRequest,
): Promise<Fields[]> {
  const { workerId = request.caller.id, capabilities, max, leaseMs, waitMs = 0, claimId, lost = [] } = fields;
  // The queue checks all values.
  const options = { workerId, capabilities, max, leaseMs, waitMs: 0, claimId } as ClaimOptions;
  if (claimId !== undefined) CLAIM_ID.parse(claimId, 'claimId');
  const claimIds = LOST.parse(lost, 'lost');
  const { caller } = request;
  if (caller instanceof Session) {
    caller.checkWorker(WORKER_ID.parse(workerId, 'workerId'));
    if (capabilities !== undefined) caller.checkCapabilities(listOf(capabilities, 'capabilities').filter((one) => typeof one === 'string'));
  }
  // In the same transaction, and before it.
  if (claimIds.length > 0) giveBack(queue, queue.leasesOf?.(options.workerId, claimIds) ?? []);
  const wait = { ...options, waitMs: typeof waitMs === 'number' ? Math.min(waitMs, waitMsMax) : waitMs } as ClaimOptions;
  const found =
    waitMs === 0
      ? await queue.claim(options)
      : ((await polls.wait(request, { id: claimId }, (signal) => queue.claim({ ...wait, signal }))) ?? []);
  const jobs = fitting(found, { queue, bodyBytesMax });
  if (jobs.length > 0) releaseIfGone(queue, jobs, request);
  if (caller instanceof Session) caller.checkRevoked();
  return jobs.map(claimedToWire);
}

/** Those whose payloads fit into an answer. */
function fitting(
  jobs: readonly ClaimedJob[],
  { queue, bodyBytesMax }: Pick<QueueApiOptions, 'queue' | 'bodyBytesMax'>,
): readonly ClaimedJob[] {
  const count = countWithin(jobs, Math.min(ANSWER_BYTES_MAX, bodyBytesMax), ({ payload }) => payload);
  if (count === jobs.length) return jobs;
  giveBack(queue, leasesOf(jobs.slice(count)));
  return jobs.slice(0, count);
}

/** Jobs that the worker never hears of go back at once, without an attempt. */
function giveBack(queue: WorkQueue, leases: readonly Lease[]): void {
  // One that cannot be released comes back when its lease runs out.
  for (const lease of leases) queue.release(lease).catch(() => undefined);
}

function leasesOf(jobs: readonly ClaimedJob[]): Lease[] {
  return jobs.map(({ lease }) => lease);
}

function releaseIfGone(queue: WorkQueue, jobs: readonly ClaimedJob[], request: GatewayRequest): void {
  const release = (): void => giveBack(queue, leasesOf(jobs));
  const { caller, signal } = request;
  if (signal.aborted || (caller instanceof Session && caller.revoked !== undefined)) release();
  else signal.addEventListener('abort', release);
}

async function result({ queue, polls, waitMsMax }: QueueApiOptions, request: GatewayRequest): Promise<Reply> {
  const id = JOB_ID.parse(request.query.get('id'), 'id');
  const given = request.query.get('waitMs');
  const waitMs = Math.min(waitMsMax, given === null ? 0 : (WAIT_MS.parse(given, 'waitMs') ?? 0));
  try {
    const found = await polls.wait(request, { waitMs }, (signal) => queue.result(id, { signal }));
    return json(200, found === undefined ? { pending: true } : { result: resultToWire(found) });
  } catch (thrown) {
    const error = errorToWire(thrown);
    // How a job ended is no failure of this request.
    if (error.code === 'NOT_FOUND' || error.code === 'REQUEST_INVALID') throw thrown;
    return json(200, { error });
  }
}

function bodyOf({ body }: GatewayRequest): unknown {
  if (!isUtf8(body)) throw new RunnerError('REQUEST_INVALID', 'the body is not UTF-8');
  try {
    return JSON.parse(Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('utf8'));
  } catch (cause) {
    throw new RunnerError('REQUEST_INVALID', `the body is not JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

function idOf(value: unknown): string {
  return JOB_ID.parse(value, 'id');
}
