/** The runner of the demo: job 0 runs in this process, job 1 in a deployed handler. Killed and started again by `demo.ts`. */

import { HttpFaasExecutor } from '../../plugins/http/index.ts';
import { BlueprintRunner } from '../../src/index.ts';
import { router } from '../incredible-squaring/jobs.ts';

const { DEMO_HANDLER_URL: handlerUrl, DEMO_LEDGER: ledger } = process.env;
if (handlerUrl === undefined || ledger === undefined) throw new Error('set DEMO_HANDLER_URL and DEMO_LEDGER; demo.ts does');

await BlueprintRunner.builder({ ledger, fromBlock: 0n, metrics: false, logLevel: 'error' }, process.env)
  .router(router)
  .withFaasExecutor(1, new HttpFaasExecutor(handlerUrl))
  .run();
