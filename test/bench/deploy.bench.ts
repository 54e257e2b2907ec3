/**
 * Deployment of functions that are there already, as they should be, against moto: no request may write. Compared with the least that could tell:
 * one GetFunction of the SDK for each.
 *
 * Needs `moto_server`; without it nothing is measured.
 */

import { Lambda } from '@aws-sdk/client-lambda';
import { systemClock } from '../../src/clock.ts';
import type { FunctionConfig } from '../../src/executor/deployer.ts';
import { deployerOf, handlerPackage, settings } from '../support/aws-platform.ts';
import { probeMoto, startAwsProxy, startMoto } from '../support/moto.ts';
import { interleaved, median } from './measure.ts';

const NAMES = Array.from({ length: 20 }, (_, index) => `function-${index}`);
const CODE = handlerPackage('a');
const CONFIG: FunctionConfig = {
  memoryMb: 256,
  timeoutMs: 30_000,
  environment: { COLOUR: 'red' },
  tags: { team: 'a' },
  schedules: [{ name: 'weekdays', schedule: { kind: 'calendar', expression: 'Mon-Fri 09:00 Europe/Berlin' } }],
};

async function measure(): Promise<void> {
  const moto = await startMoto();
  await moto.reset();
  const proxy = await startAwsProxy(moto.url);
  const deployer = deployerOf({ moto, proxy }, { clock: systemClock });
  const lambda = new Lambda(settings(proxy.url));

  async function timed(work: (name: string) => Promise<unknown>): Promise<number> {
    const started = process.hrtime.bigint();
    for (const name of NAMES) await work(name);
    return Number(process.hrtime.bigint() - started) / 1e6;
  }
  const deploy = (name: string): Promise<unknown> => deployer.deploy(name, CODE, CONFIG);
  const bare = (FunctionName: string): Promise<unknown> => lambda.getFunction({ FunctionName });

  try {
    const firstMs = await timed(deploy);
    console.log(
      `first deploy of ${NAMES.length} functions:  ${proxy.writes.length} writes, ${proxy.requests.length} requests, ${firstMs.toFixed(0)} ms`,
    );
    proxy.reset();
    const secondMs = await timed(deploy);
    const { length: requests } = proxy.requests;
    const rounds = proxy.rounds() / NAMES.length;
    console.log(
      `second deploy of the same:    ${proxy.writes.length} writes, ${requests} requests in ${rounds} round trips each, ${secondMs.toFixed(0)} ms`,
    );
    const { peer, ours, ratios } = await interleaved({ peer: () => timed(bare), ours: () => timed(deploy) }, 5);
    const figures = `${median(ours).toFixed(0)} ms vs ${median(peer).toFixed(0)} ms, ${requests / NAMES.length} requests vs 1 for a function`;
    console.log(`no change, by bare GetFunction: ${median(ratios).toPrecision(3)} (${figures})`);
    if (proxy.writes.length === 0) return;
    console.log(`written without a reason: ${proxy.writes.join(', ')}`);
    process.exitCode = 1;
  } finally {
    lambda.destroy();
    await deployer.close();
    await proxy.close();
    await moto.close();
  }
}

function probe(): string | undefined {
  try {
    probeMoto();
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  return undefined;
}

const missing = probe();
if (missing === undefined) await measure();
else console.log(`skipped, moto is not there: ${missing}`);
