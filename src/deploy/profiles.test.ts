import { describe, expect, it } from 'vitest';
import { mockBlueprint } from '../chain/metadata.ts';
import { parseProfilingData } from '../chain/profiling.ts';
import { parseProfileFile, profileDocument, profilesOf, profilingData } from './profiles.ts';
import type { MeasuredJob } from './profiles.ts';

const JOB: MeasuredJob = {
  avgDurationMs: 10.25,
  p50DurationMs: 9,
  p95DurationMs: 20.5,
  p99DurationMs: 30,
  peakMemoryMb: 99.1,
  stateful: true,
  persistentConnections: false,
  requestBytes: 32,
  responseBytes: 64,
  samples: 50,
};

describe('the file', () => {
  it('comes back as it was measured', () => {
    const text = JSON.stringify(profileDocument(new Map([[3, JOB]]), { measured_at: '2026-11-21T00:00:00.000Z' }));
    const { p99DurationMs: _notRead, ...expected } = JOB;
    expect(parseProfileFile(text)).toEqual({ measuredAt: '2026-11-21T00:00:00.000Z', profiles: new Map([[3, expected]]) });
  });

  it('the text of a blueprint on chain is read too, and rounds up', () => {
    const text = profilingData(new Map([[0, JOB]]));
    const onChain = { avgDurationMs: 11, p95DurationMs: 21, peakMemoryMb: 100, stateful: true, persistentConnections: false };
    expect(parseProfilingData(text).profiles).toEqual(new Map([[0, onChain]]));
    expect(parseProfileFile(text).profiles).toEqual(new Map([[0, onChain]]));
  });

  it('only what has to be there is asked for', () => {
    expect(parseProfileFile('{"jobs":{"1":{"avg_duration_ms":1,"peak_memory_mb":2}}}').profiles.get(1)).toEqual({
      avgDurationMs: 1,
      peakMemoryMb: 2,
      stateful: false,
      persistentConnections: false,
    });
  });

  it.each([
    ['nothing', 'it is not JSON'],
    ['[]', 'it is not an object'],
    ['{"schema":"other"}', 'its schema is "other"'],
    ['{}', 'jobs is not an object'],
    ['{"jobs":{"x":{}}}', '"x" is not a job index'],
    ['{"jobs":{"256":{}}}', '"256" is not a job index'],
    ['{"jobs":{"0":5}}', 'job 0 is not an object'],
    ['{"jobs":{"0":{"peak_memory_mb":1}}}', 'avg_duration_ms of job 0 is missing'],
    ['{"jobs":{"0":{"avg_duration_ms":-1,"peak_memory_mb":1}}}', 'avg_duration_ms of job 0 is -1, not an amount'],
    ['{"jobs":{"0":{"avg_duration_ms":1,"peak_memory_mb":1,"stateful":"no"}}}', 'stateful of job 0 is "no", not true or false'],
  ])('%s: %s', (text, message) => {
    expect(() => parseProfileFile(text)).toThrow(message);
  });
});

it('a blueprint without profiles has none, which is not the same as empty ones', () => {
  const blueprint = mockBlueprint(1n);
  expect(profilesOf(blueprint)).toBeUndefined();
  const [first, second] = blueprint.jobs;
  const jobs = [first!, { ...second!, profile: JOB }];
  expect(profilesOf({ jobs })).toEqual(new Map([[1, JOB]]));
});
