/**
 * An in-process call through the whole runner, without a ledger, against a direct await of the same function for each call of the same
 * producer. The goal is a difference: at most 1.5 us for each call.
 */

import { BlueprintRunner, JobRouter, Metadata, defineJob } from '../../src/index.ts';
import type { JobCall } from '../../src/index.ts';
import { median } from './measure.ts';

const CALLS = 200_000;
const ROUNDS = 7;
const GOAL_US = 1.5;

const body = Buffer.alloc(64, 7);
const echo = async (input: Uint8Array): Promise<Uint8Array> => input;
const router = new JobRouter().route(
  0,
  defineJob({ raw: true, name: 'echo' }, (input) => echo(input)),
);
const metadata = new Metadata();

async function* calls(): AsyncGenerator<JobCall> {
  for (let index = 0; index < CALLS; index += 1) yield { id: String(index), jobId: 0n, body, metadata };
}

async function directly(): Promise<void> {
  for await (const call of calls()) await echo(call.body);
}

async function throughRunner(): Promise<void> {
  const done = Promise.withResolvers<void>();
  let results = 0;
  const runner = await BlueprintRunner.builder({ ledger: false, metrics: false, logLevel: 'silent' }, {})
    .router(router)
    .consumer({
      name: 'count',
      consume: () => {
        results += 1;
        if (results === CALLS) done.resolve();
      },
    })
    .producer({ name: 'bench', calls })
    .build();
  const started = process.hrtime.bigint();
  await runner.start();
  await done.promise;
  took.push(Number(process.hrtime.bigint() - started) / 1_000 / CALLS);
  await runner.stop();
}

async function timed(run: () => Promise<void>): Promise<number> {
  const started = process.hrtime.bigint();
  await run();
  return Number(process.hrtime.bigint() - started) / 1_000 / CALLS;
}

const took: number[] = [];
const direct: number[] = [];
await directly();
await throughRunner();
took.length = 0;
for (let round = 0; round < ROUNDS; round += 1) {
  direct.push(await timed(directly));
  await throughRunner();
}
const above = median(took.map((us, round) => us - (direct[round] ?? 0)));
console.log(
  `in-process call: direct ${median(direct).toFixed(2)} us, through the runner ${median(took).toFixed(2)} us, ` +
    `${above.toFixed(2)} us above; goal <= ${GOAL_US} us ${above <= GOAL_US ? 'ok' : 'MISSED'}`,
);
process.exitCode = above <= GOAL_US ? 0 : 1;
