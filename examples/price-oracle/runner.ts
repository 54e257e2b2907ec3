/**
 * `PRICE_SOURCE=http://... OPERATOR_PRIVATE_KEY=0x... HTTP_RPC_URL=... SERVICE_ID=0 TANGLE_CONTRACT=0x... node examples/price-oracle/runner.ts`
 *
 * The operator signs the prices with the key that it settles with.
 */

import { privateKeyToAccount } from 'viem/accounts';
import { BlueprintRunner } from '../../src/index.ts';
import { oracleRouter } from './jobs.ts';

const { PRICE_SOURCE: source, OPERATOR_PRIVATE_KEY: key } = process.env;
if (source === undefined || key === undefined) throw new Error('set PRICE_SOURCE and OPERATOR_PRIVATE_KEY');

// With or without 0x, as the runner takes it.
const account = privateKeyToAccount(`0x${key.replace(/^0x/, '')}`);
await BlueprintRunner.builder({}, process.env).router(oracleRouter({ source, account })).run();
