/** Functions that run every so often. EventBridge counts in whole minutes: what it cannot do is refused before anything is written. */

import { toRunnerError } from '../../src/errors.ts';
import { periodic } from '../../src/schedule/schedule.ts';
import { toEventBridgeScheduler } from '../../src/schedule/eventbridge.ts';
import { EMPTY_CALL, withLocalAws } from './aws.ts';
import { checkHealth } from './tasks.ts';

const SECONDS = [300, 3_600, 7_200, 86_400];

await withLocalAws(async ({ deployer, pack }) => {
  const code = await pack(checkHealth);
  const deploy = (name: string, seconds: number) =>
    deployer.deploy(name, code, { schedules: [{ name: 'often', schedule: periodic(seconds), event: EMPTY_CALL }] });
  for (const seconds of SECONDS) {
    const { state } = await deploy(`health-${seconds}`, seconds);
    console.log(`${state?.name}: every ${seconds} s is ${toEventBridgeScheduler(periodic(seconds)).expressions.join()}`);
  }
  await deploy('health-30', 30).catch((error: unknown) => console.log(`every 30 s: ${toRunnerError(error).code}`));
  console.log(`health-30 is there: ${(await deployer.describe('health-30')) !== undefined}`);
});
