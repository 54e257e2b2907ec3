/** What a control plane says to who has a session with it. */

import { RunnerError } from '../errors.ts';
import { grantOfWire } from './shared-queue.ts';
import type { QueueGrant } from './shared-queue.ts';
import { fieldsOf } from './wire.ts';

/** Where the control plane does not say. */
const BODY_BYTES_MAX = 64 * 1024 * 1024;

/** What the session says. */
export interface Standing {
  readonly workerId: string;
  readonly contentBytesMax: number;
  /** Of a request with jobs or results. */
  readonly bodyBytesMax: number;
  readonly waitMsMax: number;
  /** Whether it calls engines for this worker. */
  readonly hasEngines: boolean;
  /** Of the servers of the queue, when workers speak to them themselves. */
  readonly grant?: QueueGrant;
  /** How long the session lasts from its beginning; an operator's does not end. */
  readonly validMs: number;
}

/** Throws `EXECUTOR_RESPONSE_INVALID`. */
export function standingOf({ workerId, limits, engines, queue }: Readonly<Record<string, unknown>>, validMs: number): Standing {
  const { contentBytesMax, waitMsMax, bodyBytesMax = BODY_BYTES_MAX } = fieldsOf(limits, 'limits');
  if (typeof contentBytesMax !== 'number' || typeof waitMsMax !== 'number' || typeof bodyBytesMax !== 'number')
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', 'the control plane does not tell its limits');
  const grant = queue === undefined ? {} : { grant: grantOfWire(queue) };
  const id = typeof workerId === 'string' ? workerId : '';
  return { workerId: id, contentBytesMax, bodyBytesMax, waitMsMax, hasEngines: engines === true, validMs, ...grant };
}
