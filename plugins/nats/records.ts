/**
 * What lies in the stream of a queue, and what it stands for.
 *
 * A job is one message that is never changed: its payload, and in a header what was said of it. Its record is another message, replaced
 * with the sequence of the one before as the condition: the fence. A job that waits, or was claimed for the first time, needs no record.
 */

import { hash } from 'node:crypto';
import { RunnerError, isErrorCode, isReference } from '../../src/plugin.ts';
import type { CheckedJob, Content, Headers, ObjectReference, QueueJobState, QueueJobStatus, QueueResult } from '../../src/plugin.ts';

export interface JobMeta {
  readonly id: string;
  readonly type: string;
  readonly priority: number;
  readonly attemptsMax: number;
  readonly publishedAt: number;
  /** Of this publication: tells it from another one of the same id. */
  readonly nonce: string;
  readonly requires?: readonly string[];
  readonly headers?: Headers;
  readonly deadline?: number;
  readonly availableAt?: number;
  readonly deadLetter?: false;
  readonly reference?: ObjectReference;
}

export interface JobRecord {
  readonly state: QueueJobState;
  /** Of the job that it speaks of: one of an older life of the id is void. */
  readonly jobSeq: number;
  readonly attempts: number;
  readonly job: JobMeta;
  /** Of the lease that wrote it. */
  readonly key?: string;
  readonly workerId?: string;
  readonly claimedAt?: number;
  readonly until?: number;
  readonly availableAt?: number;
  readonly endedAt?: number;
  readonly error?: { readonly code: string; readonly message: string };
  readonly resultHeaders?: Headers;
  readonly resultReference?: ObjectReference;
  /** Of the payload of a job whose message is gone. */
  readonly digest?: string;
}

/** A message of the stream. */
export interface Stored {
  readonly subject: string;
  readonly seq: number;
  /** JSON: `JobMeta` or `JobRecord`. */
  readonly header: string;
  readonly body: Uint8Array;
}

export interface StoredJob {
  readonly meta: JobMeta;
  readonly seq: number;
  readonly body: Uint8Array;
}

export interface StoredRecord {
  readonly meta: JobRecord;
  readonly seq: number;
  readonly body: Uint8Array;
}

/** All that the stream has of an id; one of the two may be gone. */
export interface Entry {
  readonly job: StoredJob | undefined;
  readonly record: StoredRecord | undefined;
}

const SAFE = /^[A-Za-z0-9_:=-]{1,128}$/;

/** Part of a subject: an id that cannot stand there is there by its hash. */
function idToken(id: string): string {
  return SAFE.test(id) ? id : `~${hash('sha256', id, 'base64url')}`;
}

/** Of what a job requires: part of subjects and of the name of a consumer. */
export function requiresToken(requires: readonly string[]): string {
  return requires.length === 0 ? '_' : hash('sha256', requires.join(' '), 'base64url').slice(0, 22);
}

/** The names that a queue has on the server. Nothing else is touched. */
export class Names {
  readonly stream: string;
  readonly objects: string;
  readonly all: string;
  readonly records: string;
  /** Where a change of a record is told. */
  readonly events: string;
  readonly lanes: string;
  readonly secret: string;
  readonly #prefix: string;

  constructor(queue: string) {
    this.#prefix = `bpr.${queue}`;
    this.stream = `BPR_${queue}`;
    this.objects = `BPR_${queue}`;
    this.all = `${this.#prefix}.>`;
    this.records = `${this.#prefix}.r.-.-.*`;
    this.events = `bpr-events.${queue}`;
    this.lanes = `bpr-lanes.${queue}`;
    this.secret = `${this.#prefix}.k.-.-.secret`;
  }

  job(id: string, priority: number, requires: readonly string[]): string {
    return `${this.#prefix}.j.${priority}.${requiresToken(requires)}.${idToken(id)}`;
  }
  lane(priority: number, requires: readonly string[]): string {
    return `${this.#prefix}.j.${priority}.${requiresToken(requires)}.*`;
  }
  jobs(id: string): string {
    return `${this.#prefix}.j.*.*.${idToken(id)}`;
  }
  record(id: string): string {
    return `${this.#prefix}.r.-.-.${idToken(id)}`;
  }
  /** The job, whatever its lane, and its record. */
  either(id: string): string {
    return `${this.#prefix}.*.*.*.${idToken(id)}`;
  }
  event(id: string): string {
    return `${this.events}.${idToken(id)}`;
  }
  isJob(subject: string): boolean {
    return subject.startsWith(`${this.#prefix}.j.`);
  }
  isRecord(subject: string): boolean {
    return subject.startsWith(`${this.#prefix}.r.`);
  }
}

export function metaOf(job: CheckedJob & { readonly id: string }, nonce: string, now: number): JobMeta {
  const { id, type, priority, attemptsMax, requires, headers, deadline, delayMs, deadLetter, payload } = job;
  return {
    id,
    type,
    priority,
    attemptsMax,
    publishedAt: now,
    nonce,
    ...(requires.length > 0 && { requires }),
    ...(headers && { headers }),
    ...(deadline !== undefined && { deadline }),
    ...(delayMs > 0 && { availableAt: now + delayMs }),
    ...(!deadLetter && { deadLetter: false as const }),
    ...(isReference(payload) && { reference: payload }),
  };
}

const NO_BYTES = new Uint8Array();

export function bytesOf(content: Content): Uint8Array {
  return isReference(content) ? NO_BYTES : content;
}

export function payloadOf({ meta, body }: StoredJob): Content {
  return meta.reference ?? body;
}

export function resultOf({ meta, body }: StoredRecord): QueueResult {
  return { body: meta.resultReference ?? body, ...(meta.resultHeaders && { headers: meta.resultHeaders }) };
}

/** Of a payload: what two publications of one id are compared by. */
export function digestOf(content: Content): string {
  return isReference(content) ? `${content.size}:${content.sha256}` : `${content.length}:${hash('sha256', content, 'hex')}`;
}

/** Written by this plugin into a stream of its own: nobody else may write there. */
export function jobOf({ header, seq, body }: Omit<Stored, 'subject'>): StoredJob {
  return { meta: JSON.parse(header) as JobMeta, seq, body };
}

export function recordOf({ header, seq, body }: Stored): StoredRecord {
  return { meta: JSON.parse(header) as JobRecord, seq, body };
}

export function hasEnded(state: QueueJobState): boolean {
  return state !== 'queued' && state !== 'claimed';
}

/** The record, unless it speaks of an older life of the id. */
export function currentRecord({ job, record }: Entry): JobRecord | undefined {
  return record && (!job || record.meta.jobSeq === job.seq) ? record.meta : undefined;
}

/** Undefined when there is nothing of it. */
export function jobMetaOf({ job, record }: Entry): JobMeta | undefined {
  return job?.meta ?? record?.meta.job;
}

/** A lease that ran out counts as given back, a deadline that passed as the end: whether somebody has written that down or not. */
export function stateOf(entry: Entry, now: number): QueueJobState {
  const record = currentRecord(entry);
  if (record && hasEnded(record.state)) return record.state;
  const deadline = jobMetaOf(entry)?.deadline;
  if (deadline !== undefined && deadline <= now) return 'expired';
  return record?.state === 'claimed' && (record.until ?? 0) > now ? 'claimed' : 'queued';
}

export function availableAtOf(entry: Entry): number | undefined {
  const record = currentRecord(entry);
  return record ? record.availableAt : entry.job?.meta.availableAt;
}

export function workerLost({ workerId, attempts }: { readonly workerId?: string; readonly attempts: number }): {
  code: string;
  message: string;
} {
  return { code: 'WORKER_LOST', message: `worker ${workerId ?? '(unknown)'} let the lease of attempt ${attempts} run out` };
}

/** Undefined when there is nothing of it. */
export function statusOf(entry: Entry, now: number): QueueJobStatus | undefined {
  const job = jobMetaOf(entry);
  if (!job) return undefined;
  const record = currentRecord(entry);
  const state = stateOf(entry, now);
  const availableAt = availableAtOf(entry);
  const isLapsed = record?.state === 'claimed' && (record.until ?? 0) <= now;
  const error = isLapsed ? workerLost(record) : record?.error;
  const endedAt = record?.endedAt ?? (state === 'expired' ? job.deadline : undefined);
  return {
    id: job.id,
    type: job.type,
    state,
    priority: job.priority,
    requires: job.requires ?? [],
    attempts: record?.attempts ?? 0,
    attemptsMax: job.attemptsMax,
    publishedAt: job.publishedAt,
    ...(state === 'queued' && availableAt !== undefined && availableAt > now && { availableAt }),
    ...(job.deadline !== undefined && { deadline: job.deadline }),
    ...(record?.workerId !== undefined && { workerId: record.workerId, claimedAt: record.claimedAt ?? 0 }),
    ...(state === 'claimed' && record?.until !== undefined && { leaseUntil: record.until }),
    ...(hasEnded(state) && endedAt !== undefined && { endedAt }),
    ...(error && { error }),
  };
}

/** How a job ended; undefined while it has not, or has without a record. */
export function outcomeOf(record: StoredRecord): QueueResult | RunnerError | undefined {
  const { state, attempts, error, job } = record.meta;
  const details = { jobId: job.id, attempts };
  switch (state) {
    case 'completed':
      return resultOf(record);
    case 'failed':
    case 'dead': {
      const code = error?.code ?? 'JOB_FAILED';
      return new RunnerError(isErrorCode(code) ? code : 'JOB_FAILED', error?.message ?? 'the job failed', {
        details: { ...details, code },
      });
    }
    case 'expired': {
      const message = `the deadline of job ${job.id} passed after ${attempts} attempts`;
      return new RunnerError('QUEUE_TIMEOUT', message, { details, retry: attempts === 0 ? 'safe' : 'idempotent' });
    }
    case 'cancelled':
      return new RunnerError('ABORTED', `job ${job.id} was cancelled`, { details, retry: attempts === 0 ? 'safe' : 'idempotent' });
    case 'queued':
    case 'claimed':
      return undefined;
  }
}

/** Work that must not be done twice, or not yet: its claims are always written down before it is handed out. */
export function isAlwaysRecorded({ attemptsMax, availableAt }: JobMeta): boolean {
  return attemptsMax === 1 || availableAt !== undefined;
}
