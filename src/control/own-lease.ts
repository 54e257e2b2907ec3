/** Leases are of the worker that claimed them: a token that somebody else came by opens nothing. */

import { RunnerError } from '../errors.ts';
import type { Caller } from '../gateway/http.ts';
import type { Lease, WorkQueue } from '../queue/queue.ts';
import { leaseOfWire } from '../queue/wire.ts';
import { Session } from './access.ts';

/** The lease in a request. Throws `REQUEST_INVALID`, and `LEASE_LOST` when it is that of another worker. */
export function ownLease(queue: WorkQueue, value: unknown, caller: Caller): Lease {
  const lease = leaseOfWire(value);
  if (!(caller instanceof Session)) return lease;
  const holder = queue.holderOf?.(lease.token);
  if (holder === undefined || caller.speaksFor(holder)) return lease;
  throw new RunnerError('LEASE_LOST', `the lease of job ${lease.jobId} is that of another worker, not of ${caller.id}`, {
    details: { jobId: lease.jobId },
  });
}
