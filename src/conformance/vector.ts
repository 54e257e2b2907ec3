/** What a vector is: calls, and the bytes or the code that come of each on every platform. */

import type { ErrorCode } from '../errors.ts';
import type { ExecutorLimits } from '../executor/executor.ts';

/**
 * What not every platform has. A vector names what it needs, a platform what it lacks and why: then the vector is skipped with that reason.
 * - `process`: the job runs in another process than the caller, which survives what the job does to its own
 * - `main`: that process is started with the bundle; nothing else of the platform is in it
 * - `memory`: the memory of the job is limited
 * - `end`: the caller learns how the process of the job ended, not only that the connection broke
 */
export type Need = 'process' | 'main' | 'memory' | 'end';

export interface VectorCall {
  readonly jobId: bigint;
  readonly body: Uint8Array | ((limits: ExecutorLimits) => Uint8Array);
  readonly metadata?: readonly (readonly [string, string])[];
  /** Default: more than any call takes. */
  readonly timeoutMs?: number;
  /** 0: before it is made. */
  readonly abortAfterMs?: number;
  /** Default 1. */
  readonly attempt?: number;
  /** Answered chunk by chunk where the platform can; the chunks are joined. */
  readonly isStreamed?: boolean;
  /** Sent although it is above the limits that the executor states. */
  readonly isPushed?: boolean;
}

/** `message`: what the message of the error must hold. */
export type Expected =
  | { readonly result: Uint8Array; readonly metadata?: readonly (readonly [string, string])[] }
  | 'none'
  | { readonly code: ErrorCode; readonly message?: string };

export interface Vector {
  readonly name: string;
  readonly group: string;
  readonly needs?: readonly Need[];
  /** Made at the same time. */
  readonly calls: readonly VectorCall[];
  /** One for each call; made anew for each run, because some are megabytes. */
  readonly expected: () => readonly Expected[];
  /** Another answer that is right on platforms that lack something. */
  readonly except?: readonly { readonly lacks: Need; readonly expected: readonly Expected[]; readonly reason: string }[];
}
