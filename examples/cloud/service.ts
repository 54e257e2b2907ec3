/** One definition, wherever it runs: in this process by its schedule, under systemd, or on Lambda. */

import { calendar } from '../../src/schedule/schedule.ts';
import { Scheduler } from '../../src/schedule/scheduler.ts';
import { toSystemdUnits } from '../../src/schedule/units.ts';
import { FakeClock } from '../../src/testing/testing.ts';
import { EMPTY_CALL, withLocalAws } from './aws.ts';
import { dailyReport } from './tasks.ts';

const service = { name: 'data-processor', task: dailyReport, schedule: calendar('Mon-Fri 14:00') };

/** In this process; with a clock that is told the time, so that nobody waits for two days. In a service of yours it is `systemClock`. */
const clock = new FakeClock({ startMs: Date.parse('2026-07-01T12:00:00Z') });
const scheduler = new Scheduler({ clock });
scheduler.add({ ...service, run: ({ scheduledMs }) => console.log('here, at', new Date(scheduledMs).toISOString(), service.task()) });
await scheduler.start();
await clock.advance(48 * 3_600_000);
await scheduler.close();

/** Under systemd, from the same definition. */
const { timer } = toSystemdUnits(service.schedule, { name: service.name, command: [process.execPath, '/srv/data-processor.mjs'] });
console.log(`${timer.file}: ${/OnCalendar=.*/.exec(timer.text)?.[0]}`);

/** On Lambda. */
await withLocalAws(async ({ deployer, pack, call }) => {
  const schedules = [{ name: 'weekdays', schedule: service.schedule, event: EMPTY_CALL }];
  await deployer.deploy(service.name, await pack(service.task), { schedules });
  console.log('on Lambda', await call(service.name));
});
