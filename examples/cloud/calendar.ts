/** Functions that run by the calendar: weekdays, in the time zone of an office, and at midnight. */

import { nextFiring } from '../../src/schedule/firings.ts';
import { toEventBridgeScheduler } from '../../src/schedule/eventbridge.ts';
import { calendar } from '../../src/schedule/schedule.ts';
import { EMPTY_CALL, withLocalAws } from './aws.ts';
import { dailyReport } from './tasks.ts';

const EXPRESSIONS = {
  weekdays: 'Mon-Fri 14:00',
  'some-days': 'Mon,Wed,Fri 09:30',
  sundays: 'Sun 17:00',
  midnight: 'Mon-Sun 00:00',
  office: 'Mon-Fri 09:00 Europe/Berlin',
};

await withLocalAws(async ({ deployer, pack }) => {
  const code = await pack(dailyReport);
  for (const [name, expression] of Object.entries(EXPRESSIONS)) {
    const schedule = calendar(expression);
    const { state, warnings } = await deployer.deploy(`report-${name}`, code, { schedules: [{ name, schedule, event: EMPTY_CALL }] });
    const next = new Date(nextFiring(schedule, Date.now()) ?? Number.NaN).toISOString();
    const { expressions, timezone } = toEventBridgeScheduler(schedule);
    console.log(`${state?.name}: ${expression} is ${expressions.join()} in ${timezone}, next at ${next}`, ...warnings);
  }
});
