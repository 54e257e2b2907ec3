/** New code for a function that is called all the time, and back again. */

import { withLocalAws } from './aws.ts';
import { dailyReport, dailyReportV2 } from './tasks.ts';

await withLocalAws(async ({ deployer, pack, call }) => {
  await deployer.deploy('report', await pack(dailyReport), { memoryMb: 256 });
  console.log('at first', await call('report'));
  const calls = Array.from({ length: 10 }, () => call('report'));
  const { state, changes } = await deployer.updateCode('report', await pack(dailyReportV2));
  console.log(`${changes.map(({ action, resource }) => `${action} ${resource}`).join(', ')}; memory is still ${state?.config.memoryMb} MB`);
  console.log(`${(await Promise.all(calls)).length} calls meanwhile, none failed`);
  console.log('updated', await call('report'));
  await deployer.rollback('report');
  console.log('rolled back', await call('report'));
  for (const { version, current } of await deployer.versions('report')) console.log(`version ${version}${current ? ', current' : ''}`);
});
