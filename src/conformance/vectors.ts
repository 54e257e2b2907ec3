/**
 * What the artifact must answer on every platform, as data: calls, and the bytes or the code that come of each.
 *
 * A vector says what a platform must have for it (`needs`); a platform without it is skipped with its own reason.
 */

import type { ErrorCode } from '../errors.ts';
import type { ExecutorLimits } from '../executor/executor.ts';
import { patterned } from './jobs.ts';
import { VECTOR_JOBS } from './vectors-jobs.ts';

/**
 * What not every platform has.
 * - `process`: the job runs in another process than the caller, which survives what the job does to its own
 * - `memory`: the memory of the job is limited
 * - `end`: the caller learns how the process of the job ended, not only that the connection broke
 */
export type Need = 'process' | 'memory' | 'end';

export interface VectorCall {
  readonly jobId: bigint;
  readonly body: Uint8Array | ((limits: ExecutorLimits) => Uint8Array);
  readonly metadata?: readonly (readonly [string, string])[];
  /** Default: more than any call takes. */
  readonly timeoutMs?: number;
  /** 0: before it is made. */
  readonly abortAfterMs?: number;
  readonly attempt?: number;
  /** Answered chunk by chunk where the platform can; the chunks are joined. */
  readonly isStreamed?: boolean;
  /** Sent although it is above the limits that the executor states. */
  readonly isPushed?: boolean;
}

/** `message`: what the message must hold. */
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
  /** Other answers that are right on platforms that lack something. */
  readonly except?: readonly { readonly lacks: Need; readonly expected: readonly Expected[]; readonly reason: string }[];
}

/** A variable of the runner that no job may see. */
export const SECRET_NAME = 'BLUEPRINT_CONFORMANCE_SECRET';

const MIB = 1024 * 1024;

const echo = (group: string, name: string, bytes: () => Uint8Array): Vector => ({
  name,
  group,
  calls: [{ jobId: VECTOR_JOBS.echo, body: () => bytes() }],
  expected: () => [{ result: bytes() }],
});

export const vectors: readonly Vector[] = [
  ...[0, 1, 64 * 1024, MIB].map((size) => echo('sizes', `${size} bytes`, () => patterned(size))),
  echo('binary', 'every byte', () => Uint8Array.from({ length: 256 }, (_, byte) => byte)),
];
