/**
 * One operator of the squaring service. The environment says which chain, which service and which key:
 * `HTTP_RPC_URL=... SERVICE_ID=0 TANGLE_CONTRACT=0x... OPERATOR_PRIVATE_KEY=0x... node examples/incredible-squaring/runner.ts`
 */

import { BlueprintRunner } from '../../src/index.ts';
import { router } from './jobs.ts';

await BlueprintRunner.builder({}, process.env).router(router).run();
