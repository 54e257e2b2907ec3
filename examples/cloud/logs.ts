/** What a function wrote: the newest lines, by text. */

import { withLocalAws } from './aws.ts';
import { checkHealth, dailyReport } from './tasks.ts';

await withLocalAws(async ({ deployer, pack, call, takeLogs }) => {
  for (const [name, task] of Object.entries({ report: dailyReport, health: checkHealth })) {
    await deployer.deploy(name, await pack(task), { logRetentionDays: 7 });
    await call(name);
    await takeLogs(name);
  }
  for await (const { at, message } of deployer.logs('report', { limit: 50 })) console.log('report', new Date(at).toISOString(), message);
  for await (const { message } of deployer.logs('health', { search: 'well' })) console.log('health', message);
});
