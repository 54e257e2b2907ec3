/** Load on a queue, step by step, until more of it brings no more throughput. */

import { RunnerError, toRunnerError } from '../../errors.ts';
import { FUNCTION_BOUNDS, FUNCTION_JOB, functionHeaders, functionSettings } from '../../queue/function-job.ts';
import type { FunctionJob } from '../../queue/function-job.ts';
import type { Headers, ObjectReference, ObjectStore, WorkQueue } from '../../queue/queue.ts';

/** What each job does: waits, as for somebody else, then keeps a processor busy. */
export interface BenchJob {
  readonly waitMs: number;
  readonly cpuMs: number;
}

export interface Step {
  /** Jobs under way at the same time. */
  readonly concurrency: number;
  readonly jobs: number;
  readonly errors: number;
  readonly seconds: number;
  readonly jobsPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface LoadOptions {
  readonly queue: WorkQueue;
  readonly headers: Headers;
  readonly job: BenchJob;
  readonly stepMs: number;
  readonly signal: AbortSignal;
}

/** More throughput than this counts as growth; less than it with a p99 above the other is the knee. */
const GROWTH = 1.1;
const SLOWER = 1.2;
/** So long a job may wait for a worker, besides the time that one place alone takes for all that run side by side. */
const WAIT_MS_MAX = 60_000;
/** Of each of those that run side by side, before anything is counted: their instances are there then. */
const WARM_JOBS = 2;

const HANDLER = `exports.handler = async ({ waitMs, cpuMs }) => {
  if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
  const used = process.threadCpuUsage ?? process.cpuUsage;
  const before = used.call(process);
  for (let micros = 0; micros < cpuMs * 1000;) {
    const { user, system } = used.call(process, before);
    micros = user + system;
  }
  return 1;
};
`;

/** Puts the function of the benchmark into the store; returns the headers of its jobs, and what is to be removed after it. */
export async function putFunction(objects: ObjectStore): Promise<{ readonly headers: Headers; readonly object: ObjectReference }> {
  const { packFiles } = await import('../../deploy/zip.ts');
  const zip = await packFiles({ 'handler.js': { data: Buffer.from(HANDLER), mode: 0o644 } });
  const object = await objects.put(zip);
  const job: FunctionJob = {
    name: 'bench',
    code: { kind: 'package', object },
    settings: functionSettings({ timeoutMs: FUNCTION_BOUNDS.timeoutMs.max }),
  };
  return { headers: functionHeaders(job), object };
}

/** Keeps so many jobs under way; none is left in the queue. Rejects with `ABORTED` when the signal fires, with what the first job says when none succeeds, and with `QUEUE_TIMEOUT` when no worker takes one. */
export async function runStep(concurrency: number, { queue, headers, job, stepMs, signal }: LoadOptions): Promise<Step> {
  const payload = Buffer.from(JSON.stringify(job));
  const waitMsMax = WAIT_MS_MAX + concurrency * (job.waitMs + job.cpuMs);
  const times: number[] = [];
  let warming = concurrency;
  let errors = 0;
  let last: RunnerError | undefined;
  const broken: RunnerError[] = [];
  const breaks = new AbortController();
  const over = AbortSignal.any([signal, breaks.signal]);
  let [startedAt, endsAt] = [0, Infinity];
  const one = (): Promise<number> => timeOf({ queue, payload, headers, waitMsMax, signal: over });
  const lane = async (): Promise<void> => {
    for (let index = 0; index < WARM_JOBS; index += 1) await one();
    warming -= 1;
    if (warming === 0) endsAt = (startedAt = performance.now()) + stepMs;
    while (!over.aborted && performance.now() < endsAt) {
      try {
        const tookMs = await one();
        const now = performance.now();
        if (startedAt > 0 && now <= endsAt) times.push(tookMs);
      } catch (thrown) {
        if (over.aborted) break;
        last = toRunnerError(thrown);
        errors += 1;
      }
    }
  };
  const guarded = (): Promise<void> =>
    lane().catch((thrown: unknown) => {
      broken.push(toRunnerError(thrown));
      breaks.abort();
    });
  await Promise.all(Array.from({ length: concurrency }, guarded));
  if (signal.aborted) throw new RunnerError('ABORTED', 'the benchmark was ended before it was done');
  const [cause] = broken;
  if (cause) throw cause;
  if (times.length === 0) throw last ?? new RunnerError('QUEUE_TIMEOUT', `no job ended within ${stepMs} ms; give it longer with --step-ms`);
  const seconds = (Math.min(performance.now(), endsAt) - startedAt) / 1_000;
  times.sort((left, right) => left - right);
  const quantile = (share: number): number => round(times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0);
  const jobs = times.length;
  return {
    concurrency,
    jobs,
    errors,
    seconds: round(seconds),
    jobsPerSecond: round(jobs / seconds),
    p50Ms: quantile(0.5),
    p99Ms: quantile(0.99),
  };
}

interface TimedJob extends Pick<LoadOptions, 'queue' | 'headers' | 'signal'> {
  readonly payload: Uint8Array;
  readonly waitMsMax: number;
}

/** From its publication to its result. What it leaves is no dead letter of those whose queue it is. */
async function timeOf({ queue, payload, headers, waitMsMax, signal }: TimedJob): Promise<number> {
  const askedAt = performance.now();
  const { id } = await queue.publish({ type: FUNCTION_JOB, payload, headers, deadline: Date.now() + waitMsMax, deadLetter: false });
  try {
    await queue.result(id, { signal });
  } catch (thrown) {
    // Its package goes: nobody could do it later.
    if (signal.aborted) await queue.cancel(id).catch(() => {});
    const { code, retry } = toRunnerError(thrown);
    if (code !== 'QUEUE_TIMEOUT' || retry !== 'safe') throw thrown;
    const message = `no worker took a job within ${Math.round(waitMsMax / 1_000)} s; bpr queue stats tells who waits for jobs`;
    throw new RunnerError('QUEUE_TIMEOUT', message, { cause: thrown });
  }
  return performance.now() - askedAt;
}

/** 1, 2, 4 and so on, and the most. */
export function concurrencies(most: number): number[] {
  const found: number[] = [];
  for (let one = 1; one < most; one *= 2) found.push(one);
  return [...found, most];
}

/** The last step that was worth it: the one after it brought hardly more throughput and a longer p99. Undefined: there is none yet. */
export function findKnee<S extends Pick<Step, 'jobsPerSecond' | 'p99Ms'>>(steps: readonly S[]): S | undefined {
  return steps.find((step, index) => {
    const next = steps[index + 1];
    return next && next.jobsPerSecond < step.jobsPerSecond * GROWTH && next.p99Ms > step.p99Ms * SLOWER;
  });
}

export function round(value: number): number {
  return Math.round(value * 100) / 100;
}
