import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isRunnerError } from '../errors.ts';
import { encodeProfilingData } from '../testing/blueprint-definition.ts';
import type { JobProfile } from './chain.ts';
import { parseProfilingData } from './profiling.ts';

const SCHEMA = 'tangle.blueprint.metadata.v1';
const PROFILE = { avg_duration_ms: 12, peak_memory_mb: 64 };
const envelope = (packed: unknown, more: Record<string, unknown> = {}): string =>
  JSON.stringify({ schema: SCHEMA, job_profiles_b64_gzip: packed, ...more });
const pack = (value: unknown): string => gzipSync(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64');
const withJobs = (jobs: unknown): string => envelope(pack({ jobs }));

describe('parseProfilingData', () => {
  test('reads the profiles of the jobs', () => {
    const { profiles, confidentiality } = parseProfilingData(
      envelope(pack({ jobs: { 0: PROFILE, 17: { ...PROFILE, p95_duration_ms: 30.5, stateful: true, persistent_connections: true } } }), {
        execution_profile: { confidentiality: 'tee_required', gpu: { policy: 'none' } },
      }),
    );
    expect([...profiles]).toEqual([
      [0, { avgDurationMs: 12, peakMemoryMb: 64, stateful: false, persistentConnections: false }],
      [17, { avgDurationMs: 12, p95DurationMs: 30.5, peakMemoryMb: 64, stateful: true, persistentConnections: true }],
    ]);
    expect(confidentiality).toBe('tee_required');
  });

  test('reads back what the test blueprints encode', () => {
    const amount = fc.integer({ min: 0, max: 1e9 });
    const profile: fc.Arbitrary<JobProfile> = fc.record(
      { avgDurationMs: amount, p95DurationMs: amount, peakMemoryMb: amount, stateful: fc.boolean(), persistentConnections: fc.boolean() },
      { requiredKeys: ['avgDurationMs', 'peakMemoryMb', 'stateful', 'persistentConnections'] },
    );
    fc.assert(
      fc.property(fc.dictionary(fc.integer({ min: 0, max: 255 }).map(String), profile), (profiles) => {
        const parsed = parseProfilingData(encodeProfilingData(profiles)).profiles;
        expect(Object.fromEntries(parsed)).toEqual({ ...profiles });
      }),
      { numRuns: 50 },
    );
  });

  test.each([
    ['', 'empty text'],
    ['  ', 'blank text'],
    [JSON.stringify({ schema: SCHEMA }), 'no profiles'],
    [envelope(null), 'null profiles'],
    [envelope(''), 'empty profiles'],
  ])('%j has no profiles: %s', (text) => {
    expect(parseProfilingData(text).profiles.size).toBe(0);
  });

  test.each([
    ['{', /not JSON/],
    ['[]', /not an object/],
    ['null', /not an object/],
    [JSON.stringify({ schema: 'other' }), /schema is "other"/],
    [envelope(5), /not a text/],
    [envelope('%%%'), /not base64/],
    [envelope(Buffer.from('plain').toString('base64')), /not gzip/],
    [envelope(gzipSync('{"jobs":{}}').subarray(0, 20).toString('base64')), /not gzip/],
    [envelope(pack('nonsense')), /not JSON/],
    [envelope(pack({})), /jobs is not an object/],
    [withJobs([PROFILE]), /jobs is not an object/],
    [withJobs({ 256: PROFILE }), /"256" is not a job index/],
    [withJobs({ '-1': PROFILE }), /"-1" is not a job index/],
    [withJobs({ x: PROFILE }), /"x" is not a job index/],
    [withJobs({ 0: 5 }), /profile of job 0 is not an object/],
    [withJobs({ 0: { ...PROFILE, avg_duration_ms: -1 } }), /avg_duration_ms of job 0 is -1/],
    [withJobs({ 0: { ...PROFILE, avg_duration_ms: '12' } }), /avg_duration_ms of job 0 is "12"/],
    [withJobs({ 0: { avg_duration_ms: 1 } }), /peak_memory_mb of job 0 is undefined/],
    [withJobs({ 0: { ...PROFILE, p95_duration_ms: 'x' } }), /p95_duration_ms of job 0/],
    [withJobs({ 0: { ...PROFILE, stateful: 1 } }), /stateful of job 0 is 1/],
    [envelope('', { execution_profile: { confidentiality: 'secret' } }), /"secret" is none of/],
    [envelope('', { execution_profile: 5 }), /execution_profile is not an object/],
    ['x'.repeat(1024 * 1024 + 1), /at most 1048576/],
  ])('refuses %.60s with METADATA_INVALID and the reason', (text, reason) => {
    expect(() => parseProfilingData(text)).toThrow(
      expect.objectContaining({ code: 'METADATA_INVALID', message: expect.stringMatching(reason) }),
    );
  });

  test('refuses a bomb before it is inflated whole', () => {
    expect(() => parseProfilingData(envelope(pack(' '.repeat(64 * 1024 * 1024))))).toThrow(/more than 1048576 bytes/);
  });

  test('refuses much repetition below the limit', () => {
    const text = JSON.stringify({ jobs: {}, filler: 'x'.repeat(500_000) });
    expect(() => parseProfilingData(envelope(pack(text)))).toThrow(/more than 100 times/);
  });

  test('takes profiles of all 256 jobs', () => {
    const jobs = Object.fromEntries(Array.from({ length: 256 }, (_, index) => [index, { ...PROFILE, p95_duration_ms: index }]));
    expect(parseProfilingData(withJobs(jobs)).profiles.size).toBe(256);
  });

  test('never throws anything but METADATA_INVALID', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json(),
          fc.json().map((text) => envelope(pack(text))),
          fc.jsonValue().map((jobs) => withJobs(jobs)),
        ),
        (text) => {
          try {
            parseProfilingData(text);
          } catch (thrown) {
            expect(isRunnerError(thrown) && thrown.code).toBe('METADATA_INVALID');
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});
