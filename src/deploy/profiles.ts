/** What jobs take and need, as it is kept in files and on chain. */

import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import type { BlueprintMetadata } from '../chain/chain.ts';
import { parseProfilingData } from '../chain/profiling.ts';
import { RunnerError } from '../errors.ts';
import type { JobFacts } from './analyze.ts';
import { isObject } from './policy-file.ts';

/** One job as `bpr profile` measured it. */
export interface MeasuredJob extends JobFacts {
  readonly p50DurationMs: number;
  readonly p95DurationMs: number;
  readonly p99DurationMs: number;
  readonly requestBytes: number;
  readonly responseBytes: number;
  /** Calls that were measured. */
  readonly samples: number;
}

export interface ProfileFile {
  readonly measuredAt?: string;
  readonly profiles: ReadonlyMap<number, JobFacts & { readonly samples?: number }>;
}

const SCHEMA = 'blueprint-runner.profiles.v1';
const CHAIN_SCHEMA = 'tangle.blueprint.metadata.v1';
const JOB_INDEX_MAX = 255;

/** The profiles that a blueprint carries on chain. Undefined: it carries none. */
export function profilesOf({ jobs }: Pick<BlueprintMetadata, 'jobs'>): ReadonlyMap<number, JobFacts> | undefined {
  const found = jobs.flatMap(({ index, profile }) => (profile ? [[index, profile] as const] : []));
  return found.length === 0 ? undefined : new Map(found);
}

/** The file that `bpr profile` writes. */
export function profileDocument(jobs: ReadonlyMap<number, MeasuredJob>, about: Readonly<Record<string, unknown>>): object {
  return { schema: SCHEMA, ...about, jobs: Object.fromEntries([...jobs].map(([index, job]) => [index, written(job)])) };
}

function written(job: MeasuredJob): object {
  return {
    avg_duration_ms: job.avgDurationMs,
    p50_duration_ms: job.p50DurationMs,
    p95_duration_ms: job.p95DurationMs,
    p99_duration_ms: job.p99DurationMs,
    peak_memory_mb: job.peakMemoryMb,
    request_bytes: job.requestBytes,
    response_bytes: job.responseBytes,
    stateful: job.stateful,
    persistent_connections: job.persistentConnections,
    samples: job.samples,
  };
}

/** The text that a blueprint carries on chain: whole numbers, rounded up. */
export function profilingData(jobs: ReadonlyMap<number, MeasuredJob>): string {
  const entries = [...jobs].map(([index, job]) => [
    index,
    {
      avg_duration_ms: Math.ceil(job.avgDurationMs),
      p95_duration_ms: Math.ceil(job.p95DurationMs),
      peak_memory_mb: Math.ceil(job.peakMemoryMb),
      stateful: job.stateful,
      persistent_connections: job.persistentConnections,
    },
  ]);
  const packed = gzipSync(JSON.stringify({ jobs: Object.fromEntries(entries) as object }), { level: 9 }).toString('base64');
  return JSON.stringify({ schema: CHAIN_SCHEMA, job_profiles_b64_gzip: packed });
}

/**
 * Reads a file of profiles: as `bpr profile` writes it, or the text of a blueprint on chain. Throws `METADATA_INVALID` that names job and
 * field.
 */
export function parseProfileFile(text: string): ProfileFile {
  const document = parseJson(text);
  if (document['schema'] === CHAIN_SCHEMA) return { profiles: parseProfilingData(text).profiles };
  if (document['schema'] !== undefined && document['schema'] !== SCHEMA)
    throw invalid(`its schema is ${JSON.stringify(document['schema'])}, known are ${SCHEMA} and ${CHAIN_SCHEMA}`);
  const { jobs, measured_at: measuredAt } = document;
  if (!isObject(jobs)) throw invalid('jobs is not an object');
  const profiles = new Map(Object.entries(jobs).map(([id, job]) => [indexOf(id), parseJob(id, job)]));
  return { profiles, ...(typeof measuredAt === 'string' && { measuredAt }) };
}

function parseJson(text: string): Readonly<Record<string, unknown>> {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (cause) {
    throw invalid('it is not JSON', cause);
  }
  if (!isObject(document)) throw invalid('it is not an object');
  return document;
}

function indexOf(id: string): number {
  const index = Number(id);
  if (!/^\d{1,3}$/.test(id) || index > JOB_INDEX_MAX) throw invalid(`${JSON.stringify(id)} is not a job index`);
  return index;
}

function parseJob(id: string, job: unknown): JobFacts & { readonly samples?: number } {
  if (!isObject(job)) throw invalid(`job ${id} is not an object`);
  const optional = (name: string): number | undefined => {
    const value = job[name] ?? undefined;
    if (value === undefined || (typeof value === 'number' && Number.isFinite(value) && value >= 0)) return value;
    throw invalid(`${name} of job ${id} is ${JSON.stringify(value)}, not an amount`);
  };
  const amount = (name: string): number => {
    const value = optional(name);
    if (value === undefined) throw invalid(`${name} of job ${id} is missing`);
    return value;
  };
  const flag = (name: string): boolean => {
    const value = job[name] ?? false;
    if (typeof value === 'boolean') return value;
    throw invalid(`${name} of job ${id} is ${JSON.stringify(value)}, not true or false`);
  };
  const [p50, p95] = [optional('p50_duration_ms'), optional('p95_duration_ms')];
  const [requestBytes, responseBytes, samples] = [optional('request_bytes'), optional('response_bytes'), optional('samples')];
  return {
    avgDurationMs: amount('avg_duration_ms'),
    ...(p50 !== undefined && { p50DurationMs: p50 }),
    ...(p95 !== undefined && { p95DurationMs: p95 }),
    peakMemoryMb: amount('peak_memory_mb'),
    stateful: flag('stateful'),
    persistentConnections: flag('persistent_connections'),
    ...(requestBytes !== undefined && { requestBytes }),
    ...(responseBytes !== undefined && { responseBytes }),
    ...(samples !== undefined && { samples }),
  };
}

function invalid(reason: string, cause?: unknown): RunnerError {
  return new RunnerError('METADATA_INVALID', `the profiles cannot be used: ${reason}`, { cause });
}

/** The profiles of a file, by job index. Throws `CONFIG_INVALID` for one that cannot be read, `METADATA_INVALID` as `parseProfileFile`. */
export function readProfileFile(file: string): ReadonlyMap<number, JobFacts> {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  return parseProfileFile(text).profiles;
}
