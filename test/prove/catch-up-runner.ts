/** The runner of `catch-up.ts`: logs each call as it begins to run, and its peak memory when it ends. */

import { CallId, BlueprintRunner, JobRouter, defineJob } from '../../src/index.ts';

const { PROVE_LEDGER: ledger } = process.env;
if (ledger === undefined) throw new Error('set PROVE_LEDGER; catch-up.ts does');

const began: bigint[] = [];
const options = { name: 'square', params: 'uint64 x', result: 'uint64', extract: { callId: CallId } } as const;
const square = defineJob(options, async ([x], { callId }) => {
  began.push(callId);
  return x * x;
});

await BlueprintRunner.builder({ ledger, fromBlock: 0n, metrics: false, logLevel: 'error' }, process.env)
  .router(new JobRouter().route(0, square))
  .shutdownHandler(() => {
    const isInOrder = began.every((callId, index) => callId === BigInt(index));
    process.stderr.write(`${JSON.stringify({ began: began.length, isInOrder, peakRssKb: process.resourceUsage().maxRSS })}\n`);
  })
  .run();
