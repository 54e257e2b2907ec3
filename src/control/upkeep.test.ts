import { expect, it } from 'vitest';
import { FakeClock } from '../testing/fake-clock.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { Upkeep } from './upkeep.ts';

it('runs a task again and again, one run at a time, and less often when it takes long', async () => {
  const clock = new FakeClock();
  const upkeep = new Upkeep({ clock, log: silentTelemetry.log });
  const runs: PromiseWithResolvers<void>[] = [];
  upkeep.add({
    what: 'a thing is done',
    everyMs: 1_000,
    run: () => {
      runs.push(Promise.withResolvers<void>());
      return (runs.at(-1) as PromiseWithResolvers<void>).promise;
    },
  });
  await clock.advance(999);
  expect(runs).toHaveLength(0);
  await clock.advance(1);
  expect(runs).toHaveLength(1);
  await clock.advance(5_000);
  expect(runs).toHaveLength(1);
  runs[0]?.resolve();
  await clock.advance(49_000);
  expect(runs).toHaveLength(1);
  await clock.advance(1_000);
  expect(runs).toHaveLength(2);
  runs[1]?.reject(new Error('not now'));
  await clock.advance(1_000);
  expect(runs).toHaveLength(3);
  const closed = upkeep.close();
  runs[2]?.resolve();
  await closed;
  await clock.advance(100_000);
  expect(runs).toHaveLength(3);
});
