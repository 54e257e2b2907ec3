/** The profiling data of a blueprint: what its author measured of each job, gzipped into a text on chain. */

import { gunzipSync } from 'node:zlib';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { JobProfile } from './chain.ts';

export interface ProfilingData {
  /** By job index. */
  readonly profiles: ReadonlyMap<number, JobProfile>;
  /** `any`, `tee_required`, `standard_required` or `tee_preferred`. */
  readonly confidentiality?: string;
}

const SCHEMA = 'tangle.blueprint.metadata.v1';
/** Of the text, and of what it inflates to. */
const BYTES_MAX = 1024 * 1024;
/** 256 jobs are below this; what is larger must not be mostly repetition. */
const BYTES_UNSUSPICIOUS = 64 * 1024;
const RATIO_MAX = 100;
const JOB_INDEX_MAX = 255;
const CONFIDENTIALITY = ['any', 'tee_required', 'standard_required', 'tee_preferred'];

/**
 * Parses `profilingData`. Empty text means that nothing was measured. Throws `METADATA_INVALID` when it is malformed, or when it is or
 * inflates to more than 1 MiB.
 *
 * Format: JSON `{"schema":"tangle.blueprint.metadata.v1","execution_profile":{...},"job_profiles_b64_gzip":"..."}`, inside which base64 of
 * gzip of `{"jobs":{"0":{"avg_duration_ms":..,"peak_memory_mb":..,"p95_duration_ms":..,"stateful":..,"persistent_connections":..}}}`.
 */
export function parseProfilingData(text: string): ProfilingData {
  if (text.trim() === '') return { profiles: new Map() };
  if (text.length > BYTES_MAX) throw invalid(`it has ${text.length} characters, at most ${BYTES_MAX} are read`);
  const data = object(parseJson(text), 'profiling data');
  if (data['schema'] !== SCHEMA) throw invalid(`its schema is ${JSON.stringify(data['schema'])}, known is ${SCHEMA}`);
  const confidentiality = parseConfidentiality(data['execution_profile']);
  const packed = data['job_profiles_b64_gzip'];
  if (packed !== undefined && packed !== null && typeof packed !== 'string') throw invalid('job_profiles_b64_gzip is not a text');
  const profiles = typeof packed === 'string' && packed !== '' ? parseProfiles(inflate(packed)) : new Map<number, JobProfile>();
  return { profiles, ...(confidentiality !== undefined && { confidentiality }) };
}

function parseConfidentiality(value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  const { confidentiality } = object(value, 'execution_profile');
  if (confidentiality === undefined) return undefined;
  if (typeof confidentiality === 'string' && CONFIDENTIALITY.includes(confidentiality)) return confidentiality;
  throw invalid(`confidentiality ${JSON.stringify(confidentiality)} is none of ${CONFIDENTIALITY.join(', ')}`);
}

function inflate(packed: string): string {
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(packed)) throw invalid('job_profiles_b64_gzip is not base64');
  const bytes = Buffer.from(packed, 'base64');
  let inflated: Buffer;
  try {
    inflated = gunzipSync(bytes, { maxOutputLength: BYTES_MAX });
  } catch (cause) {
    const tooLarge = cause instanceof RangeError;
    throw invalid(tooLarge ? `job_profiles_b64_gzip inflates to more than ${BYTES_MAX} bytes` : 'job_profiles_b64_gzip is not gzip', cause);
  }
  if (inflated.length > BYTES_UNSUSPICIOUS && inflated.length > RATIO_MAX * bytes.length) {
    throw invalid(`job_profiles_b64_gzip inflates from ${bytes.length} to ${inflated.length} bytes, more than ${RATIO_MAX} times`);
  }
  return inflated.toString('utf8');
}

function parseProfiles(text: string): Map<number, JobProfile> {
  const jobs = object(object(parseJson(text), 'job profiles')['jobs'], 'jobs');
  const profiles = new Map<number, JobProfile>();
  for (const [key, value] of Object.entries(jobs)) {
    const index = Number(key);
    if (!/^\d{1,3}$/.test(key) || index > JOB_INDEX_MAX) throw invalid(`${JSON.stringify(key)} is not a job index`);
    profiles.set(index, parseProfile(object(value, `profile of job ${key}`), key));
  }
  return profiles;
}

function parseProfile(value: Readonly<Record<string, unknown>>, job: string): JobProfile {
  const amount = (name: string): number => {
    const found = value[name];
    if (typeof found === 'number' && Number.isFinite(found) && found >= 0) return found;
    throw invalid(`${name} of job ${job} is ${JSON.stringify(found)}, not an amount`);
  };
  const flag = (name: string): boolean => {
    const found = value[name] ?? false;
    if (typeof found === 'boolean') return found;
    throw invalid(`${name} of job ${job} is ${JSON.stringify(found)}, not true or false`);
  };
  const p95 = value['p95_duration_ms'] ?? undefined;
  return {
    avgDurationMs: amount('avg_duration_ms'),
    ...(p95 !== undefined && { p95DurationMs: amount('p95_duration_ms') }),
    peakMemoryMb: amount('peak_memory_mb'),
    stateful: flag('stateful'),
    persistentConnections: flag('persistent_connections'),
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw invalid('it is not JSON', cause);
  }
}

function object(value: unknown, what: string): Readonly<Record<string, unknown>> {
  // A JSON value that is an object has text keys.
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Readonly<Record<string, unknown>>;
  throw invalid(`${what} is not an object`);
}

function invalid(reason: string, cause?: unknown): RunnerError {
  if (isRunnerError(cause)) return cause;
  return new RunnerError('METADATA_INVALID', `the profiling data of the blueprint cannot be used: ${reason}`, { cause });
}
