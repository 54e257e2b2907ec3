/** Which jobs of a blueprint can be functions, and why the others cannot. Pure: the same question has the same answer everywhere. */

import { RunnerError } from '../errors.ts';
import type { JobLimits } from '../executor/limits.ts';
import { resourceSizing } from './sizing.ts';
import type { FunctionSize } from './sizing.ts';

/** How long a job takes and what it needs. */
export interface JobFacts {
  readonly avgDurationMs: number;
  readonly p50DurationMs?: number;
  /** Default: the average. */
  readonly p95DurationMs?: number;
  readonly peakMemoryMb: number;
  readonly stateful: boolean;
  readonly persistentConnections: boolean;
  /** The largest seen. */
  readonly requestBytes?: number;
  readonly responseBytes?: number;
}

export interface AnalysisOptions {
  readonly jobCount: number;
  readonly limits: JobLimits;
  /** Whether functions are wanted at all. */
  readonly enabled: boolean;
  /** By job index. Absent as a whole: nothing is known of any job, and each is taken to fit. */
  readonly profiles?: ReadonlyMap<number, JobFacts> | undefined;
  /** What a job without a profile is. Default: `local` when there are profiles, `function` when there are none at all. */
  readonly assume?: 'function' | 'local' | undefined;
  /** Jobs that stay in the runner because somebody said so. */
  readonly local?: ReadonlySet<number> | undefined;
}

export type ReasonCode = 'disabled' | 'pinned' | 'unprofiled' | 'duration' | 'memory' | 'request' | 'response' | 'stateful' | 'connections';

export interface Reason {
  readonly code: ReasonCode;
  readonly message: string;
}

export interface JobVerdict {
  readonly jobId: number;
  readonly place: 'function' | 'local';
  /** Why it is not a function; of a function: what was taken for granted. */
  readonly reasons: readonly Reason[];
  /** Of a function that was measured. */
  readonly size?: FunctionSize;
  /** Of a function that was measured: twice what nearly all calls take, within the limit. */
  readonly timeoutMs?: number;
}

export type BlueprintAnalysis =
  | { readonly strategy: 'serverless'; readonly jobIds: readonly number[]; readonly jobs: readonly JobVerdict[] }
  | {
      readonly strategy: 'hybrid';
      readonly faasJobs: readonly number[];
      readonly localJobs: readonly number[];
      readonly jobs: readonly JobVerdict[];
    }
  | { readonly strategy: 'traditional'; readonly jobIds: readonly number[]; readonly jobs: readonly JobVerdict[] };

const JOBS_MAX = 256;
const SECOND = 1_000;

/**
 * Decides for every job, and with that for the blueprint: `serverless` when all are functions, `hybrid` when some are, `traditional` when
 * none is. Throws `CONFIG_INVALID` for a number of jobs that no blueprint has.
 *
 * @example
 * analyzeBlueprint({ jobCount: 2, limits: PLANNING_LIMITS.aws, enabled: true }); // serverless, jobs 0 and 1
 */
export function analyzeBlueprint(options: AnalysisOptions): BlueprintAnalysis {
  const { jobCount } = options;
  if (!Number.isInteger(jobCount) || jobCount < 0 || jobCount > JOBS_MAX)
    throw new RunnerError('CONFIG_INVALID', `a blueprint has 0 to ${JOBS_MAX} jobs, not ${jobCount}`);
  const jobs = Array.from({ length: jobCount }, (_, jobId) => verdictOf(jobId, options));
  const idsOf = (place: JobVerdict['place']): number[] => jobs.filter((job) => job.place === place).map(({ jobId }) => jobId);
  const [faasJobs, localJobs] = [idsOf('function'), idsOf('local')];
  if (faasJobs.length === 0) return { strategy: 'traditional', jobIds: localJobs, jobs };
  if (localJobs.length === 0) return { strategy: 'serverless', jobIds: faasJobs, jobs };
  return { strategy: 'hybrid', faasJobs, localJobs, jobs };
}

function verdictOf(jobId: number, { enabled, profiles, assume, local, limits }: AnalysisOptions): JobVerdict {
  if (!enabled) return stays(jobId, 'disabled', 'functions are switched off in the policy');
  if (local?.has(jobId)) return stays(jobId, 'pinned', 'the policy says that it is local');
  const profile = profiles?.get(jobId);
  if (!profile) {
    const isFunction = (assume ?? (profiles ? 'local' : 'function')) === 'function';
    const message = isFunction
      ? 'it has no profile and is taken to fit; bpr profile measures it'
      : 'it has no profile, so nobody knows whether it fits; bpr profile measures it';
    return { jobId, place: isFunction ? 'function' : 'local', reasons: [{ code: 'unprofiled', message }] };
  }
  const reasons = obstacles(profile, limits);
  if (reasons.length > 0) return { jobId, place: 'local', reasons };
  return { jobId, place: 'function', reasons: [], size: resourceSizing(profile.peakMemoryMb), timeoutMs: timeoutOf(profile, limits) };
}

function stays(jobId: number, code: ReasonCode, message: string): JobVerdict {
  return { jobId, place: 'local', reasons: [{ code, message }] };
}

function obstacles(profile: JobFacts, limits: JobLimits): Reason[] {
  const { requestBytes = 0, responseBytes = 0, peakMemoryMb } = profile;
  const duration = durationOf(profile);
  const name = profile.p95DurationMs === undefined ? 'average' : 'p95';
  return [
    duration > limits.timeoutMs &&
      reason(
        'duration',
        `its ${name} of ${duration} ms is above the ${limits.timeoutMs} ms that a call may take: split it, or leave it here`,
      ),
    peakMemoryMb > limits.memoryMb && reason('memory', `its peak of ${peakMemoryMb} MB is above the ${limits.memoryMb} MB of a function`),
    requestBytes > limits.payloadBytes &&
      reason('request', `inputs of ${requestBytes} bytes are above the ${limits.payloadBytes} bytes of a call`),
    responseBytes > limits.payloadBytes &&
      reason('response', `results of ${responseBytes} bytes are above the ${limits.payloadBytes} bytes of an answer`),
    profile.stateful && reason('stateful', 'it keeps state between calls, and a function is forgotten after each'),
    profile.persistentConnections && reason('connections', 'it keeps connections open between calls, and a function is frozen after each'),
  ].filter((one) => one !== false);
}

function reason(code: ReasonCode, message: string): Reason {
  return { code, message };
}

function durationOf({ p95DurationMs, avgDurationMs }: JobFacts): number {
  return p95DurationMs ?? avgDurationMs;
}

function timeoutOf(profile: JobFacts, { timeoutMs }: JobLimits): number {
  const doubled = Math.ceil((durationOf(profile) * 2) / SECOND) * SECOND;
  return Math.min(timeoutMs, Math.max(SECOND, doubled));
}
