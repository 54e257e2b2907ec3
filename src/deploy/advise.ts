/** What would make functions cheaper, from what was measured. Pure. */

import type { Target } from '../executor/limits.ts';
import type { JobFacts } from './analyze.ts';
import { estimateCost } from './cost.ts';
import type { CostOptions, Usage } from './cost.ts';
import { selectProvider } from './select.ts';
import { fitSize, resourceSizing } from './sizing.ts';

export interface AdvisedJob {
  readonly jobId: number;
  readonly target: Target;
  /** What it has now. */
  readonly memoryMb: number;
  readonly callsPerMonth: number;
  readonly profile: JobFacts;
  /** How many calls the profile rests on. Default: not known. */
  readonly samples?: number;
}

export interface Advice {
  readonly jobId: number;
  readonly kind: 'memory' | 'provider' | 'batch';
  /** What to do. */
  readonly action: string;
  readonly savingUsd: number;
  /** `high`: nothing but the bill changes; `low`: the job has to be changed or measured first. */
  readonly confidence: 'high' | 'medium' | 'low';
  readonly because: string;
}

/** A saving below this is not worth anybody's time. */
const SAVING_USD_MIN = 0.01;
const SAMPLES_ENOUGH = 50;
/** Calls so short are mostly overhead and rounding. */
const SHORT_MS = 50;
const BATCH = 10;

/** Everything that saves at least a cent a month, the largest saving first. Savings are each for itself: they do not add up. */
export function advise(jobs: readonly AdvisedJob[], options: CostOptions = {}): readonly Advice[] {
  return jobs
    .flatMap((job) => [rightSize(job, options), moveProvider(job, options), batchCalls(job, options)])
    .filter((one) => one !== undefined)
    .filter(({ savingUsd }) => savingUsd >= SAVING_USD_MIN)
    .toSorted((a, b) => b.savingUsd - a.savingUsd || a.jobId - b.jobId);
}

function usageOf({ profile, callsPerMonth, memoryMb }: AdvisedJob): Usage {
  return { calls: callsPerMonth, durationMs: profile.avgDurationMs, memoryMb };
}

function costOf(target: Target, usage: Usage, options: CostOptions): number | undefined {
  return estimateCost(target, usage, options)?.monthlyUsd;
}

/** Less memory is less processor, too: a job that computes takes longer then, which is why this is never certain. */
function rightSize(job: AdvisedJob, options: CostOptions): Advice | undefined {
  const { memoryMb: wanted } = resourceSizing(job.profile.peakMemoryMb);
  const size = fitSize(job.target, wanted);
  if (!size || size.memoryMb >= job.memoryMb) return undefined;
  const [now, then] = [
    costOf(job.target, usageOf(job), options),
    costOf(job.target, { ...usageOf(job), memoryMb: size.memoryMb }, options),
  ];
  if (now === undefined || then === undefined) return undefined;
  return {
    jobId: job.jobId,
    kind: 'memory',
    action: `give it ${size.memoryMb} MB instead of ${job.memoryMb} MB`,
    savingUsd: now - then,
    confidence: (job.samples ?? 0) >= SAMPLES_ENOUGH ? 'medium' : 'low',
    because: `its peak was ${job.profile.peakMemoryMb} MB${job.samples === undefined ? '' : ` in ${job.samples} calls`}; with less memory it also gets less processor time`,
  };
}

function moveProvider(job: AdvisedJob, options: CostOptions): Advice | undefined {
  const { profile, target, callsPerMonth } = job;
  const now = costOf(target, usageOf(job), options);
  const { chosen, candidates } = selectProvider(
    {
      memoryMb: Math.min(job.memoryMb, resourceSizing(profile.peakMemoryMb).memoryMb),
      timeoutMs: profile.p95DurationMs ?? profile.avgDurationMs,
      ...(profile.requestBytes !== undefined && { requestBytes: profile.requestBytes }),
      ...(profile.responseBytes !== undefined && { responseBytes: profile.responseBytes }),
      usage: { calls: callsPerMonth, durationMs: profile.avgDurationMs },
    },
    { ...options, strategy: 'Cheapest' },
  );
  const then = candidates[0]?.monthlyUsd;
  if (chosen === undefined || chosen === target || now === undefined || then === undefined) return undefined;
  return {
    jobId: job.jobId,
    kind: 'provider',
    action: `move it from ${target} to ${chosen}`,
    savingUsd: now - then,
    confidence: 'low',
    because: 'by list prices and with the duration measured here; what it takes there is only known after a trial',
  };
}

/** What each call pays for itself, whatever it does: its request, and the step that its duration is rounded up to. */
function batchCalls(job: AdvisedJob, options: CostOptions): Advice | undefined {
  const usage = usageOf(job);
  if (usage.durationMs > SHORT_MS || usage.calls < BATCH) return undefined;
  const batched = { ...usage, calls: usage.calls / BATCH, durationMs: usage.durationMs * BATCH };
  const [now, then] = [costOf(job.target, usage, options), costOf(job.target, batched, options)];
  if (now === undefined || then === undefined) return undefined;
  return {
    jobId: job.jobId,
    kind: 'batch',
    action: `hand over ${BATCH} inputs per call`,
    savingUsd: now - then,
    confidence: 'low',
    because: `a call takes ${usage.durationMs} ms, less than what it is billed for being a call; the job has to take lists`,
  };
}
