/** Middleware: functions around every job of a router, composed once when they are added. */

import { RunnerError } from '../errors.ts';
import type { JobCall } from './call.ts';
import type { JobInfo, Outcome } from './job.ts';

/** The rest of the onion. A middleware may pass another call or signal on. */
export type Next = (call: JobCall, signal?: AbortSignal) => Outcome;

/**
 * Wraps a job. It is called once for each job when the layer is added; what it returns is called for every call.
 *
 * @example
 * const log: Middleware = (next, job) => async (call, signal) => {
 *   const result = await next(call, signal);
 *   console.log(job.name, call.id, result?.body.length ?? 'no result');
 *   return result;
 * };
 */
export type Middleware = (next: Next, job: JobInfo) => Next;
