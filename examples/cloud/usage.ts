/** From a function to a deployment that runs by its schedule, is called by hand, tells what it did, and is updated. */

import { calendar } from '../../src/schedule/schedule.ts';
import { EMPTY_CALL, withLocalAws } from './aws.ts';
import { dailyReport, dailyReportV2 } from './tasks.ts';

const NAME = 'my-daily-report';

await withLocalAws(async ({ deployer, pack, call, takeLogs }) => {
  const code = await pack(dailyReport);
  const { state, changes, warnings } = await deployer.deploy(
    NAME,
    code,
    {
      runtime: 'nodejs24',
      memoryMb: 512,
      timeoutMs: 120_000,
      schedules: [{ name: 'weekdays', schedule: calendar('Mon-Fri 09:00'), event: EMPTY_CALL }],
      environment: { ENVIRONMENT: 'production' },
      tags: { Project: 'Reports' },
    },
    { onProgress: ({ step }) => console.log(`  ${step}`) },
  );
  console.log(`deployed: ${state?.id}`, ...warnings);
  console.log(`package: ${(code.zip.length / 1024 / 1024).toFixed(2)} MB, ${changes.length} changes`);

  console.log('called by hand:', await call(NAME, { day: '2026-07-01' }));
  await takeLogs(NAME);
  for await (const { message } of deployer.logs(NAME, { limit: 50, search: 'report' })) console.log('log:', message);

  await deployer.updateCode(NAME, await pack(dailyReportV2));
  console.log('updated:', await call(NAME));
  await deployer.remove(NAME);
  console.log(`still there: ${(await deployer.describe(NAME)) !== undefined}`);
});
