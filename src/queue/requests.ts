/** What callers ask of a queue, checked once, with the defaults of the contract filled in. For every implementation. */

import { hash } from 'node:crypto';
import { RunnerError } from '../errors.ts';
import { isReference } from './queue.ts';
import type { ClaimOptions, Content, Headers, JobFailure, Lease, NewJob, QueueLimits, QueueResult } from './queue.ts';

const YEAR_MS = 365 * 24 * 3_600_000;
const HEADERS_CHARACTERS_MAX = 16_384;
const CAPABILITY = /^[A-Za-z0-9._:/=-]{1,64}$/;
const HEADER_NAME = /^[a-z0-9!#$%&'*+.^_`|~-]{1,128}$/;
const SHA256 = /^[0-9a-f]{64}$/;
const MESSAGE_CHARACTERS_MAX = 4_096;
const PUBLISH_MAX = 10_000;
/** Jobs of one claim, which is also what a worker runs at the same time. */
export const CLAIM_MAX = 1_000;
/** How long a lease may be, in milliseconds: least and most. */
export const LEASE_MS_BOUNDS = [100, 43_200_000] as const;
const SHOWN_CHARACTERS = 64;

export interface CheckedJob {
  readonly id: string | undefined;
  readonly type: string;
  readonly payload: Content;
  readonly headers: Headers | undefined;
  readonly priority: number;
  readonly delayMs: number;
  readonly deadline: number | undefined;
  readonly attemptsMax: number;
  readonly deadLetter: boolean;
  /** Sorted, each once. */
  readonly requires: readonly string[];
}

export interface CheckedClaim {
  readonly workerId: string;
  readonly capabilities: readonly string[];
  readonly max: number;
  readonly leaseMs: number;
  readonly waitMs: number;
  readonly signal: AbortSignal | undefined;
  readonly claimId?: string | undefined;
}

export interface CheckedResult {
  readonly body: Content;
  readonly headers: Headers | undefined;
}

export interface CheckedFailure {
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly delayMs: number | undefined;
}

function refuse(message: string): never {
  throw new RunnerError('REQUEST_INVALID', message);
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null;
}

/** Of whatever somebody sent: short, and nothing of it is called. */
function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, SHOWN_CHARACTERS));
  return isObject(value) ? 'an object' : String(value);
}

function hasControlCharacter(value: string): boolean {
  for (let index = 0; index < value.length; index += 1) {
    const code = value.charCodeAt(index);
    if (code < 32 || code === 127) return true;
  }
  return false;
}

function text(name: string, value: unknown, lengthMax: number): string {
  if (typeof value !== 'string' || value.length === 0 || value.length > lengthMax || hasControlCharacter(value) || !value.isWellFormed())
    refuse(`${name} must be a text of 1 to ${lengthMax} characters, none of them a control character or a lone surrogate`);
  return value;
}

function whole(name: string, value: unknown, [least, most]: readonly [number, number]): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least || value > most)
    refuse(`${name} is ${shown(value)}; it must be a whole number from ${least} to ${most}`);
  return value;
}

function flag(name: string, value: unknown): boolean {
  if (typeof value !== 'boolean') refuse(`${name} must be true or false`);
  return value;
}

function isList(value: unknown): boolean {
  return Array.isArray(value);
}

const NONE: readonly string[] = [];

function capabilities(name: string, values: readonly string[] | undefined, countMax: number): readonly string[] {
  if (values === undefined || values.length === 0) return NONE;
  if (!isList(values) || values.length > countMax) refuse(`${name} must be a list of at most ${countMax}`);
  for (const value of values)
    if (typeof value !== 'string' || !CAPABILITY.test(value))
      refuse(`${name} has ${shown(value)}; a capability has 1 to 64 characters from A-Z a-z 0-9 . _ : / = -`);
  const unique: string[] = [...new Set<string>(values)];
  return unique.toSorted(); // by code units: the same everywhere
}

function checkHeaders(headers: Headers | undefined): Headers | undefined {
  if (headers === undefined) return undefined;
  let size = 0;
  for (const [name, value] of Object.entries(headers)) {
    if (!HEADER_NAME.test(name)) refuse(`${shown(name)} is not the name of a header: lower case, without spaces`);
    if (typeof value !== 'string' || hasControlCharacter(value)) refuse(`the header ${name} must be a text without control characters`);
    size += name.length + value.length;
  }
  if (size > HEADERS_CHARACTERS_MAX) refuse(`the headers have ${size} characters; ${HEADERS_CHARACTERS_MAX} are taken`);
  return size > 0 ? headers : undefined;
}

/** Throws `PAYLOAD_TOO_LARGE`. */
function checkContent(name: string, content: Content, { contentBytesMax }: QueueLimits): Content {
  if (content instanceof Uint8Array) {
    if (content.length <= contentBytesMax) return content;
    const message = `${name} has ${content.length} bytes; the queue takes ${contentBytesMax}, more go through an object store`;
    throw new RunnerError('PAYLOAD_TOO_LARGE', message, { details: { bytes: content.length, contentBytesMax } });
  }
  if (!isObject(content)) refuse(`${name} must be bytes or a reference to an object`);
  const { key, size, sha256 } = content;
  if (typeof sha256 !== 'string' || !SHA256.test(sha256)) refuse(`the reference of ${name} has no SHA-256 in lower case hexadecimal`);
  return { key: text(`the key of ${name}`, key, 512), size: whole(`the size of ${name}`, size, [0, Number.MAX_SAFE_INTEGER]), sha256 };
}

export function checkJob(job: NewJob, limits: QueueLimits): CheckedJob {
  if (!isObject(job)) refuse('a job must be an object');
  const { id, deadline } = job;
  return {
    id: id === undefined ? undefined : text('id', id, 256),
    type: text('type', job.type, 128),
    payload: checkContent('the payload', job.payload, limits),
    headers: checkHeaders(job.headers),
    priority: whole('priority', job.priority ?? 4, [0, 9]),
    delayMs: whole('delayMs', job.delayMs ?? 0, [0, YEAR_MS]),
    deadline: deadline === undefined ? undefined : whole('deadline', deadline, [0, Number.MAX_SAFE_INTEGER]),
    attemptsMax: whole('attemptsMax', job.attemptsMax ?? 3, [1, 1_000]),
    deadLetter: flag('deadLetter', job.deadLetter ?? true),
    requires: capabilities('requires', job.requires, 16),
  };
}

export function checkJobs(jobs: readonly NewJob[], limits: QueueLimits): CheckedJob[] {
  if (!isList(jobs) || jobs.length > PUBLISH_MAX) refuse(`publishMany takes a list of at most ${PUBLISH_MAX} jobs`);
  return jobs.map((job) => checkJob(job, limits));
}

export function checkClaim(options: ClaimOptions): CheckedClaim {
  if (!isObject(options)) refuse('a claim needs the id of its worker');
  return {
    workerId: text('workerId', options.workerId, 128),
    capabilities: capabilities('capabilities', options.capabilities, 256),
    max: whole('max', options.max ?? 1, [1, CLAIM_MAX]),
    leaseMs: checkLeaseMs(options.leaseMs ?? 30_000),
    waitMs: whole('waitMs', options.waitMs ?? 0, [0, 3_600_000]),
    signal: options.signal,
    claimId: options.claimId === undefined ? undefined : text('claimId', options.claimId, 128),
  };
}

export function checkLeaseMs(leaseMs: number): number {
  return whole('leaseMs', leaseMs, LEASE_MS_BOUNDS);
}

export function checkLease(lease: Lease): Lease {
  if (!isObject(lease) || typeof lease.jobId !== 'string' || typeof lease.token !== 'string')
    refuse('a lease has the id of its job and a token');
  return lease;
}

export function checkResult(result: QueueResult, limits: QueueLimits): CheckedResult {
  if (!isObject(result)) refuse('a result has a body');
  return { body: checkContent('the result', result.body, limits), headers: checkHeaders(result.headers) };
}

export function checkFailure(failure: JobFailure): CheckedFailure {
  if (!isObject(failure) || typeof failure.message !== 'string') refuse('a failure has a code and a message');
  return {
    code: text('code', failure.code, 64),
    message: failure.message.slice(0, MESSAGE_CHARACTERS_MAX),
    retryable: flag('retryable', failure.retryable ?? true),
    delayMs: failure.delayMs === undefined ? undefined : checkDelay(failure.delayMs),
  };
}

/** Of a list: how many at most. */
export function checkLimit(limit: number): number {
  return whole('limit', limit, [1, 1_000]);
}

export function checkAge(olderThanMs: number): number {
  return whole('olderThanMs', olderThanMs, [0, Number.MAX_SAFE_INTEGER]);
}

export function checkDelay(delayMs: number): number {
  return whole('delayMs', delayMs, [0, YEAR_MS]);
}

/** What two publications of one id are compared by: references by what they refer to. */
function contentDigest(content: Content): { readonly size: number; readonly sha256: string } {
  if (isReference(content)) return { size: content.size, sha256: content.sha256 };
  return { size: content.length, sha256: hash('sha256', content, 'hex') };
}

export function sameContent(one: Content, other: Content): boolean {
  if (one instanceof Uint8Array && other instanceof Uint8Array) return Buffer.compare(one, other) === 0;
  const [a, b] = [contentDigest(one), contentDigest(other)];
  return a.size === b.size && a.sha256 === b.sha256;
}

export function queueFull(jobsMax: number): RunnerError {
  return new RunnerError('QUEUE_FULL', `${jobsMax} jobs wait already (jobsMax)`, { details: { jobsMax } });
}

/** Of a lease that is not the current one of its job. */
export function leaseLost({ jobId }: Lease, why: string): RunnerError {
  return new RunnerError('LEASE_LOST', `the lease of job ${jobId} is lost: ${why}`, { details: { jobId } });
}
