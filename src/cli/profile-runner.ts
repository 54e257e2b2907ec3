/** The process in which `bpr profile` runs one job, so that its memory is its own. */

import { RunnerError, toRunnerError } from '../errors.ts';
import { LocalExecutor } from '../executor/local.ts';
import type { ChainCall, JobCall } from '../job/call.ts';
import { tangleMetadata } from '../ledger/rows.ts';
import { loadModule } from './author-module.ts';

export interface ToProfile {
  readonly entry: string;
  readonly jobId: bigint;
  /** Encoded arguments; the runs take them in turn. */
  readonly inputs: readonly Uint8Array[];
  readonly runs: number;
  readonly warmUps: number;
  readonly timeoutMs: number;
}

export type FromProfile =
  | {
      readonly kind: 'measured';
      readonly durationsMs: readonly number[];
      readonly responseBytesMax: number;
      /** The most that the process ever had, with node and the module. */
      readonly peakMemoryMb: number;
    }
  | { readonly kind: 'failed'; readonly code: string; readonly message: string };

/** Does what the first message says, answers, and ends. */
export async function serveProfile(): Promise<void> {
  process.once('disconnect', () => process.exit());
  const task = await new Promise<ToProfile>((resolve) => process.once('message', (message) => resolve(message as ToProfile))); // as: only the command writes to this channel
  let answer: FromProfile;
  try {
    answer = await measure(task);
  } catch (thrown) {
    const { code, message } = toRunnerError(thrown, 'JOB_FAILED');
    answer = { kind: 'failed', code, message };
  }
  process.send?.(answer, () => process.exit());
}

async function measure({ entry, jobId, inputs, runs, warmUps, timeoutMs }: ToProfile): Promise<FromProfile> {
  const { router } = await loadModule(entry);
  if (!router) throw new RunnerError('CONFIG_INVALID', `${entry} exports no JobRouter, as default or named router`);
  const executor = new LocalExecutor(router);
  const durationsMs: number[] = [];
  let responseBytesMax = 0;
  for (let run = -warmUps; run < runs; run += 1) {
    const body = inputs[Math.max(run, 0) % inputs.length] ?? new Uint8Array();
    const call = madeUpCall(jobId, run + warmUps, body);
    const start = performance.now();
    const { results } = await executor.invoke(call, { deadline: Date.now() + timeoutMs, attempt: 1 });
    if (run >= 0) durationsMs.push(performance.now() - start);
    for (const { body: result } of results) responseBytesMax = Math.max(responseBytesMax, result.length);
  }
  await executor.close();
  return { kind: 'measured', durationsMs, responseBytesMax, peakMemoryMb: process.resourceUsage().maxRSS / 1024 };
}

/** As the chain would tell it: jobs extract caller, block and the like. */
function madeUpCall(jobId: bigint, run: number, body: Uint8Array): JobCall {
  const origin: ChainCall = {
    chainId: 31_337,
    contract: `0x${'22'.repeat(20)}`,
    serviceId: 0n,
    callId: BigInt(run),
    jobIndex: Number(jobId),
    caller: `0x${'11'.repeat(20)}`,
    inputs: body,
    blockNumber: BigInt(run + 1),
    blockHash: `0x${'33'.repeat(32)}`,
    transactionHash: `0x${'44'.repeat(32)}`,
    logIndex: 0,
    timestamp: BigInt(Math.floor(Date.now() / 1000)),
  };
  return { id: `profile-${run}`, jobId, body, metadata: tangleMetadata(origin), origin };
}
