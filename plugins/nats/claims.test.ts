import { expect, it } from 'vitest';
import { RunnerError } from '../../src/errors.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';
import { Claims } from './claims.ts';
import type { Jobs } from './jobs.ts';
import type { Delivery, Lane } from './lane.ts';
import type { Lanes } from './lanes.ts';

/** Of a lane with the deliveries 1, 2 and 3; one of them cannot be given. */
function claimsOf(bad: number): Claims {
  const deliveries = [1, 2, 3].map((seq) => ({ seq }) as Delivery); // no more of it is read
  const jobs = {
    admit: async ({ seq }: Delivery) => {
      if (seq === bad) throw new RunnerError('PLATFORM_UNREACHABLE', 'JetStream does not answer');
      return { id: String(seq) };
    },
    putBack: async () => {},
    background: (work: Promise<unknown>) => void work,
  } as unknown as Jobs; // as: nothing else is asked of it
  const lane = { priority: 4, requires: [], take: async () => deliveries.splice(0), want: () => {} } as unknown as Lane; // as above
  const claims = new Claims({ clock: new FakeClock(), jobs, claimed: () => {} });
  claims.lanes = { matching: () => [lane], all: () => [lane] } as unknown as Lanes; // as above
  return claims;
}

const claim = (claims: Claims, max: number): Promise<unknown> =>
  claims.add({ workerId: 'w', capabilities: [], max, leaseMs: 1_000, waitMs: 0, signal: undefined });

it('who claims several jobs gets those that could be given when another could not', async () => {
  expect(await claim(claimsOf(2), 3)).toEqual([{ id: '1' }, { id: '3' }]);
});

it('who gets none is told why', async () => {
  await expect(claim(claimsOf(1), 1)).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
});
