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
  const moto = await startMoto({ answersCalls: true });
  world = { moto, proxy: await startAwsProxy(moto.url) };
});

afterAll(async () => {
  await world?.proxy.close();
  await world?.moto.close();
});

const declare = (title: string, run: () => Promise<void>, timeoutMs?: number): void => testMoto(title, run, timeoutMs);
const framework = { describe, it: Object.assign(declare, { skip: declare }) };

runDeployerConformance(framework, {
  name: 'aws-lambda on moto',
  create: () => {
    if (!world) throw new Error('moto did not start');
    return motoPlatform(world);
  },
  lacks: { execution: 'moto runs functions only in Docker' },
});
