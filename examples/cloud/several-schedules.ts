/** Several schedules of one function; a deployment with fewer of them removes the others, and only those. */

import type { FunctionSchedule } from '../../src/executor/deployer.ts';
import { calendar, periodic } from '../../src/schedule/schedule.ts';
import { EMPTY_CALL, withLocalAws } from './aws.ts';
import { dailyReport } from './tasks.ts';

const schedules: readonly FunctionSchedule[] = [
  { name: 'morning', schedule: calendar('Mon-Fri 09:00'), event: EMPTY_CALL },
  { name: 'evening', schedule: calendar('Mon-Fri 17:30'), event: EMPTY_CALL },
  { name: 'hourly', schedule: periodic(3_600), event: EMPTY_CALL },
];

await withLocalAws(async ({ deployer, pack }) => {
  const code = await pack(dailyReport);
  for (const wanted of [schedules, schedules.slice(0, 1), schedules.slice(0, 1)]) {
    const { state, changes } = await deployer.deploy('reports', code, { schedules: wanted });
    const done = changes.map(({ action, resource, id }) => `${action} ${resource} ${id.split(/[:/]/).at(-1)}`);
    console.log(`has ${state?.config.schedules?.map(({ name }) => name).join(', ')}; ${done.join(', ') || 'nothing changed'}`);
  }
});
