/** Another configuration for a function: only what is named changes, and what the platform does not allow is told all at once. */

import { toRunnerError } from '../../src/errors.ts';
import { withLocalAws } from './aws.ts';
import { dailyReport } from './tasks.ts';

await withLocalAws(async ({ deployer, pack }) => {
  await deployer.deploy('report', await pack(dailyReport), { memoryMb: 256, timeoutMs: 30_000, environment: { STAGE: 'test' } });
  const planned = await deployer.updateConfiguration('report', { memoryMb: 512 }, { dryRun: true });
  console.log(`would ${planned.changes.map(({ action, resource }) => `${action} ${resource}`).join(', ')}`);
  const { state } = await deployer.updateConfiguration('report', { memoryMb: 512, environment: { STAGE: 'production' } });
  console.log(`${state?.config.memoryMb} MB, ${state?.config.timeoutMs} ms, ${JSON.stringify(state?.config.environment)}`);
  const again = await deployer.updateConfiguration('report', { memoryMb: 512 });
  console.log(`the same again: ${again.changes.length} changes`);
  const tooMuch = deployer.updateConfiguration('report', { memoryMb: 20_000, timeoutMs: 2_000_000 });
  await tooMuch.catch((error: unknown) => console.log(toRunnerError(error).code, toRunnerError(error).message));
});
