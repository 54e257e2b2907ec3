/** Leases are of the worker that claimed them: a token that somebody else came by opens nothing. */

import { RunnerError } from '../errors.ts';
import type { Caller } from '../gateway/http.ts';
import type { Lease, WorkQueue } from '../queue/queue.ts';
import { leaseOfWire } from '../queue/wire.ts';
import { Session } from './access.ts';

/** What a queue can do besides the contract. */
interface Holders {
  holderOf(token: string): string | undefined;
}

function knowsHolders(queue: WorkQueue): queue is WorkQueue & Holders {
  return 'holderOf' in queue;
}

/** The lease in a request. Throws `REQUEST_INVALID`, and `LEASE_LOST` when it is that of another worker. */
export function ownLease(queue: WorkQueue, value: unknown, caller: Caller): Lease {
  const lease = leaseOfWire(value);
  const holder = knowsHolders(queue) && caller instanceof Session ? queue.holderOf(lease.token) : undefined;
  if (holder === undefined || (caller as Session).speaksFor(holder)) return lease;
  throw new RunnerError('LEASE_LOST', `the lease of job ${lease.jobId} is that of another worker, not of ${caller.id}`, {
    details: { jobId: lease.jobId },
  });
}
