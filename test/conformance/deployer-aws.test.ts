/** The deployer of AWS Lambda on moto. */

import { afterAll, beforeAll, describe } from 'vitest';
import { runDeployerConformance } from '../../src/conformance/conformance.ts';
import { motoPlatform } from '../support/aws-platform.ts';
import type { AwsWorld } from '../support/aws-platform.ts';
import { probeMoto, startAwsProxy, startMoto } from '../support/moto.ts';
import { requirePeer } from '../require.ts';

let world: AwsWorld | undefined;
let isThere = true;
const testMoto = requirePeer('moto', () => {
  isThere = false;
  probeMoto();
  isThere = true;
});

beforeAll(async () => {
  if (!isThere) return;
  const moto = await startMoto();
  world = { moto, proxy: await startAwsProxy(moto.url) };
}, 60_000);

afterAll(async () => {
  await world?.proxy.close();
  await world?.moto.close();
});

runDeployerConformance(
  { describe, it: Object.assign(testMoto, { skip: testMoto }) },
  {
    name: 'aws-lambda on moto',
    create: () => {
      if (!world) throw new Error('moto did not start');
      return motoPlatform(world);
    },
    lacks: { execution: 'moto runs functions only in Docker' },
  },
);
