/** What the cases of a work queue have in common. */

import assert from 'node:assert/strict';
import { isRunnerError } from '../errors.ts';
import type { ErrorCode, RunnerError } from '../errors.ts';
import type { ClaimOptions, ClaimedJob, Content, NewJob, WorkQueue } from '../queue/queue.ts';

/** A queue of its own for one case, and the hands to move time. */
export interface QueueTrial {
  readonly queue: WorkQueue;
  /** The clock of the queue, milliseconds since the epoch. */
  now(): number;
  /** Resolves when this much time has passed for the queue. */
  pass(ms: number): Promise<void>;
  /** Closes the queue and opens what it stored again. Absent when nothing is stored. */
  reopen?(): Promise<WorkQueue>;
}

export interface QueueCase {
  readonly name: string;
  /** Rejects when the queue does not do what it must. */
  run(trial: QueueTrial): Promise<void>;
}

/** A lease that a case lets run out, and what it waits for that to happen: generous, because servers look in intervals. */
export const SHORT_MS = 500;
export const PAST_MS = 1_500;
/** A time before whose end a case asks for something, however busy the machine is, and what it waits for the end. */
export const SOON_MS = 5_000;
export const PAST_SOON_MS = 6_000;
/** A lease, and a wait, that no case sees the end of. */
export const LONG_MS = 60_000;

export function job(id: string, more: Partial<NewJob> = {}): NewJob {
  return { id, type: 'work', payload: Buffer.from(`payload of ${id}`), ...more };
}

/** At once, unless told to wait. */
export function claim(queue: WorkQueue, options: Partial<ClaimOptions> = {}): Promise<ClaimedJob[]> {
  return later(queue.claim({ workerId: 'worker-1', leaseMs: LONG_MS, ...options }));
}

/** The one job that must be there. */
export function claimOne(queue: WorkQueue, options: Partial<ClaimOptions> = {}): Promise<ClaimedJob> {
  return later(one(queue, options));
}

async function one(queue: WorkQueue, options: Partial<ClaimOptions>): Promise<ClaimedJob> {
  const jobs = await claim(queue, { waitMs: 15_000, ...options });
  assert.equal(jobs.length, 1, `expected one job, got ${jobs.length}`);
  return jobs[0] as ClaimedJob;
}

export async function claimIds(queue: WorkQueue, options: Partial<ClaimOptions> = {}): Promise<string[]> {
  return (await claim(queue, options)).map(({ id }) => id);
}

export async function nothingToClaim(queue: WorkQueue, why: string): Promise<void> {
  assert.deepEqual(await claimIds(queue, { max: 100 }), [], why);
}

export function refused(promise: Promise<unknown>, code: ErrorCode): Promise<RunnerError> {
  return later(codeOf(promise, code));
}

/** A promise that is awaited later, or never when the case fails before. */
export function later<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => undefined);
  return promise;
}

async function codeOf(promise: Promise<unknown>, code: ErrorCode): Promise<RunnerError> {
  const thrown: unknown = await promise.then(
    (value) => assert.fail(`expected ${code}, got ${JSON.stringify(value) ?? 'success'}`),
    (error: unknown) => error,
  );
  if (!isRunnerError(thrown)) assert.fail(`expected a RunnerError, got ${String(thrown)}`);
  assert.equal(thrown.code, code, `code of: ${thrown.message}`);
  return thrown;
}

export function textOf(content: Content): string {
  assert.ok(content instanceof Uint8Array, 'expected bytes, got a reference');
  return Buffer.from(content).toString('utf8');
}

export function body(text: string): { readonly body: Uint8Array } {
  return { body: Buffer.from(text) };
}

export async function stateOf(queue: WorkQueue, id: string): Promise<string | undefined> {
  return (await queue.status(id))?.state;
}
