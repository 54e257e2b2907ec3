/** A function that is called by hand: waiting for its answer, without waiting, and only to see whether it could be called. */

import { EMPTY_CALL, withLocalAws } from './aws.ts';
import { dailyReport } from './tasks.ts';

await withLocalAws(async ({ deployer, pack, call }) => {
  await deployer.deploy('report', await pack(dailyReport), { timeoutMs: 30_000 });
  console.log('the answer:', await call('report', { day: '2026-07-01' }));
  const event = Buffer.from(JSON.stringify(EMPTY_CALL));
  const queued = await deployer.invoke('report', event, { type: 'async' });
  console.log(`taken, not waited for: ${queued.requestId !== undefined}`);
  const checked = await deployer.invoke('report', event, { type: 'dry-run' });
  console.log(`could be called: ${!checked.failed}`);
  await deployer.invoke('nobody', event).catch((error: unknown) => console.log(String(error)));
});
