import { afterAll, expect, test } from 'vitest';
import { LambdaExecutor } from '../../plugins/aws-lambda/index.ts';
import { AzureExecutor } from '../../plugins/azure/index.ts';
import { CloudflareExecutor } from '../../plugins/cloudflare/index.ts';
import { DigitalOceanExecutor } from '../../plugins/digitalocean/index.ts';
import { systemClock } from '../../src/clock.ts';
import { payloadBytesMax } from '../../src/deploy/sizing.ts';
import type { FaasExecutor } from '../../src/executor/executor.ts';

const context = { clock: systemClock };
const EXECUTORS = {
  aws: new LambdaExecutor({ function: 'f' }),
  azure: new AzureExecutor({ subscriptionId: 's' }, context),
  cloudflare: new CloudflareExecutor({ subdomain: 's' }, context),
  digitalocean: new DigitalOceanExecutor({}, context),
} as const;
afterAll(async () => {
  for (const each of Object.values<FaasExecutor>(EXECUTORS)) await each.close?.();
});

test.each(Object.entries(EXECUTORS))('%s is planned with what its executor sends and takes', (target, { limits }) => {
  // as: the keys are targets
  expect(payloadBytesMax(target as keyof typeof EXECUTORS)).toBe(Math.min(limits.requestBytesMax, limits.responseBytesMax));
});
