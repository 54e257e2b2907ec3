/**
 * 100, 500 and 1,000 jobs at the same time: `QueueExecutor` with a control plane and two workers as processes of their own, against the same
 * handler called over bare HTTP by as many clients, interleaved: throughput, p50, p99, errors, and the ratios of the two. Behind the queue
 * every job is on disk before it runs and its result before it is told; over HTTP nothing is.
 *
 * `node test/bench/load.bench.ts [100 500 1000]`. Goals: no errors; with the most at a time at least 0.8 of the throughput with the fewest; a p99
 * of at most three times the p50.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startHandler } from '../../examples/demo/processes.ts';
import { HttpFaasExecutor } from '../../plugins/http/index.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import type { FaasExecutor } from '../../src/executor/executor.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { Metadata } from '../../src/job/call.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { QueueExecutor } from '../../src/queue/queue-executor.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { Fleet } from '../prove/workers-fleet.ts';

const JOBS = fileURLToPath(new URL('../fixtures/worker/jobs.ts', import.meta.url));
const UINT64 = parseParameters('uint64 x');
const GIVEN = process.argv.slice(2).map(Number).filter(Number.isInteger);
const WIDTHS = GIVEN.length > 0 ? GIVEN.toSorted((left, right) => left - right) : [100, 500, 1_000];
const WORKERS = 2;
const CONCURRENCY = 8;
const ROUNDS = 3;
const ROUND_MS = 2_500;
/** Of one job. */
const TIMEOUT_MS = 60_000;
const GOAL = { hold: 0.8, tail: 3 };

/** Of all rounds of one side with one width. */
interface Load {
  readonly latenciesMs: number[];
  seconds: number;
  errors: number;
}

let calls = 0;
/** One call after the other of each client, until the time is over. */
async function run(executor: FaasExecutor, width: number, load: Load): Promise<void> {
  const startedAt = performance.now();
  const client = async (): Promise<void> => {
    while (performance.now() - startedAt < ROUND_MS) {
      const index = BigInt((calls += 1));
      const call = { id: `load-${index}`, jobId: 0n, body: encodeAbi(UINT64, [index]), metadata: new Metadata() };
      const sentAt = performance.now();
      try {
        const { results } = await executor.invoke(call, { deadline: Date.now() + TIMEOUT_MS, attempt: 1 });
        const isRight = results[0] !== undefined && Buffer.compare(results[0].body, encodeAbi(UINT64, [index * index])) === 0;
        if (!isRight) load.errors += 1;
        load.latenciesMs.push(performance.now() - sentAt);
      } catch (error) {
        if (load.errors === 0) console.log(String(error));
        load.errors += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: width }, client));
  load.seconds += (performance.now() - startedAt) / 1_000;
}

interface Summary {
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
  readonly errors: number;
}

function summaryOf({ latenciesMs, seconds, errors }: Load): Summary {
  const sorted = latenciesMs.toSorted((left, right) => left - right);
  const at = (part: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
  return { perSecond: sorted.length / seconds, p50: at(0.5), p99: at(0.99), errors };
}

function textOf({ perSecond, p50, p99, errors }: Summary): string {
  return `${perSecond.toFixed(0).padStart(6)}/s  p50 ${p50.toFixed(0).padStart(5)} ms  p99 ${p99.toFixed(0).padStart(5)} ms  errors ${errors}`;
}

async function compareAll(ours: FaasExecutor, peer: FaasExecutor): Promise<Summary[]> {
  const newLoad = (): Load => ({ latenciesMs: [], seconds: 0, errors: 0 });
  // Connections, instances, compiled code.
  for (const executor of [ours, peer]) await run(executor, WIDTHS.at(-1) ?? 1, newLoad());
  const summaries: Summary[] = [];
  for (const width of WIDTHS) {
    const loads = { ours: newLoad(), peer: newLoad() };
    for (let round = 0; round < ROUNDS; round += 1) {
      const sides = [
        [ours, loads.ours],
        [peer, loads.peer],
      ] as const;
      for (const [executor, load] of round % 2 === 0 ? sides : sides.toReversed()) await run(executor, width, load);
    }
    const [queue, http] = [summaryOf(loads.ours), summaryOf(loads.peer)];
    console.log(`${String(width).padStart(5)} at a time  queue and workers  ${textOf(queue)}`);
    console.log(`                 bare HTTP          ${textOf(http)}`);
    const ratios = [queue.perSecond / http.perSecond, queue.p50 / http.p50, queue.p99 / http.p99].map((ratio) => ratio.toPrecision(3));
    console.log(`                 ratios             throughput ${ratios[0]}, p50 ${ratios[1]}, p99 ${ratios[2]}`);
    summaries.push(queue);
  }
  return summaries;
}

async function main(): Promise<boolean> {
  const folder = mkdtempSync(join(tmpdir(), 'bl-'));
  const { zipFile: artifact, file } = await buildHandler({ entry: JOBS, outDir: join(folder, 'artifact') });
  const fleet = new Fleet({ folder, concurrency: CONCURRENCY });
  const handler = await startHandler(file);
  const peer = new HttpFaasExecutor(handler.url);
  try {
    await fleet.startControlPlane();
    for (let index = 0; index < WORKERS; index += 1) fleet.startWorker(index);
    await fleet.untilReady();
    const queue = await RemoteQueue.connect({ credentials: { ticket: await fleet.ticket(), identity: makeIdentity() } });
    const objects = new RemoteObjects(queue.control);
    const ours = new QueueExecutor({ queue, objects, artifact, memoryMb: 128, ownsQueue: true });
    const summaries = await compareAll(ours, peer);
    await ours.close();
    const hold = (summaries.at(-1)?.perSecond ?? 0) / (summaries[0]?.perSecond ?? 0);
    const tail = Math.max(...summaries.map(({ p50, p99 }) => p99 / p50));
    const errors = summaries.reduce((sum, each) => sum + each.errors, 0);
    const checks: readonly [string, number, boolean][] = [
      ['errors (goal 0)', errors, errors === 0],
      [`throughput with ${WIDTHS.at(-1)} / with ${WIDTHS[0]} (goal ${GOAL.hold})`, hold, hold >= GOAL.hold],
      [`largest p99 / p50 (goal <= ${GOAL.tail})`, tail, tail <= GOAL.tail],
    ];
    for (const [name, value, isGood] of checks) console.log(`${name}: ${value.toPrecision(3)}${isGood ? '' : ' MISSED'}`);
    return checks.every(([, , isGood]) => isGood);
  } finally {
    await peer.close();
    await handler.end();
    await fleet.end();
    rmSync(folder, { recursive: true });
  }
}

if (!(await main())) process.exitCode = 1;
