/** Waiting that ends. */

import type { Clock } from '../clock.ts';

/** Waits for the work, at most so long: a signer or an endpoint may never answer. Rejects as the work does. */
export async function within(clock: Clock, waitMs: number, work: Promise<void> | undefined): Promise<void> {
  if (!work) return;
  const late = Promise.withResolvers<void>();
  const cancel = clock.after(Math.max(0, waitMs), late.resolve);
  await Promise.race([work, late.promise]).finally(cancel);
}
