import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { PLANNING_LIMITS } from '../executor/limits.ts';
import { analyzeBlueprint } from './analyze.ts';
import type { JobFacts } from './analyze.ts';
import { fitSize, resourceSizing } from './sizing.ts';

const MIB = 1024 * 1024;
const aws = PLANNING_LIMITS.aws;
const SMALL: JobFacts = { avgDurationMs: 100, p95DurationMs: 200, peakMemoryMb: 100, stateful: false, persistentConnections: false };

describe('the limits that blueprints are planned with', () => {
  it.each([
    ['aws', 10, 15, 6],
    ['gcp', 32, 60, 10],
    ['azure', 14, 10, 100],
    ['custom', 2, 5, 5],
  ] as const)('%s: %d GB, %d minutes, %d MB', (target, gb, minutes, mb) => {
    expect(PLANNING_LIMITS[target]).toEqual({ memoryMb: gb * 1024, timeoutMs: minutes * 60_000, payloadBytes: mb * MIB });
  });
});

describe('a blueprint of which only the number of jobs is known', () => {
  it('is serverless when functions are wanted, traditional when not', () => {
    expect(analyzeBlueprint({ jobCount: 2, limits: aws, enabled: true })).toMatchObject({ strategy: 'serverless', jobIds: [0, 1] });
    expect(analyzeBlueprint({ jobCount: 2, limits: aws, enabled: false })).toMatchObject({
      strategy: 'traditional',
      jobIds: [0, 1],
      jobs: [{ reasons: [{ code: 'disabled' }] }, { reasons: [{ code: 'disabled' }] }],
    });
  });

  it('without a job there is nothing to deploy', () => {
    expect(analyzeBlueprint({ jobCount: 0, limits: aws, enabled: true })).toEqual({ strategy: 'traditional', jobIds: [], jobs: [] });
  });

  it.each([-1, 1.5, 257, NaN])('%d jobs are refused', (jobCount) => {
    expect(() => analyzeBlueprint({ jobCount, limits: aws, enabled: true })).toThrow('a blueprint has 0 to 256 jobs');
  });
});

describe('a job with a profile', () => {
  const verdict = (facts: Partial<JobFacts>) =>
    analyzeBlueprint({ jobCount: 1, limits: aws, enabled: true, profiles: new Map([[0, { ...SMALL, ...facts }]]) }).jobs[0];

  it('that fits is a function, with its size and time limit', () => {
    expect(verdict({ peakMemoryMb: 1_000, p95DurationMs: 1_200 })).toEqual({
      jobId: 0,
      place: 'function',
      reasons: [],
      size: { memoryMb: 1_500, cpu: 1 },
      timeoutMs: 3_000,
    });
  });

  it.each([
    [{ p95DurationMs: 900_001 }, 'duration', 'its p95 of 900001 ms is above the 900000 ms'],
    [{ p95DurationMs: undefined as never, avgDurationMs: 900_001 }, 'duration', 'its average of 900001 ms is above the 900000 ms'],
    [{ peakMemoryMb: 10_241 }, 'memory', 'its peak of 10241 MB is above the 10240 MB'],
    [{ requestBytes: 6 * MIB + 1 }, 'request', 'inputs of 6291457 bytes'],
    [{ responseBytes: 6 * MIB + 1 }, 'response', 'results of 6291457 bytes'],
    [{ stateful: true }, 'stateful', 'it keeps state between calls'],
    [{ persistentConnections: true }, 'connections', 'it keeps connections open'],
  ])('%j stays, because of its %s', (facts, code, message) => {
    const found = verdict(facts);
    expect(found).toMatchObject({ place: 'local', reasons: [{ code }] });
    expect(found?.reasons[0]?.message).toContain(message);
  });

  it('at the limit still fits', () => {
    expect(verdict({ p95DurationMs: 900_000, peakMemoryMb: 10_240, requestBytes: 6 * MIB, responseBytes: 6 * MIB })).toMatchObject({
      place: 'function',
      timeoutMs: 900_000,
    });
  });

  it('all reasons are told at once', () => {
    expect(verdict({ stateful: true, peakMemoryMb: 99_999, p95DurationMs: 9e9 })?.reasons.map(({ code }) => code)).toEqual([
      'duration',
      'memory',
      'stateful',
    ]);
  });
});

describe('jobs without a profile among others that have one', () => {
  const profiles = new Map([[0, SMALL]]);

  it('stay, unless they are assumed to fit', () => {
    expect(analyzeBlueprint({ jobCount: 2, limits: aws, enabled: true, profiles })).toMatchObject({
      strategy: 'hybrid',
      faasJobs: [0],
      localJobs: [1],
      jobs: [{}, { reasons: [{ code: 'unprofiled', message: expect.stringContaining('nobody knows whether it fits') as string }] }],
    });
    expect(analyzeBlueprint({ jobCount: 2, limits: aws, enabled: true, profiles, assume: 'function' })).toMatchObject({
      strategy: 'serverless',
      jobs: [{ reasons: [] }, { reasons: [{ code: 'unprofiled', message: expect.stringContaining('is taken to fit') as string }] }],
    });
    expect(analyzeBlueprint({ jobCount: 2, limits: aws, enabled: true, assume: 'local' }).strategy).toBe('traditional');
  });

  it('a job that the policy keeps stays, whatever its profile says', () => {
    expect(analyzeBlueprint({ jobCount: 1, limits: aws, enabled: true, profiles, local: new Set([0]) })).toMatchObject({
      strategy: 'traditional',
      jobs: [{ reasons: [{ code: 'pinned' }] }],
    });
  });
});

describe('always', () => {
  const facts = fc.record({
    avgDurationMs: fc.integer({ min: 0, max: 2_000_000 }),
    peakMemoryMb: fc.integer({ min: 0, max: 40_000 }),
    stateful: fc.boolean(),
    persistentConnections: fc.boolean(),
  });

  it('each job is in exactly one place, and only jobs that stay by rule have no function', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 20 }),
        fc.boolean(),
        fc.option(fc.array(fc.tuple(fc.integer({ min: 0, max: 20 }), facts)), { nil: undefined }),
        fc.constantFrom(undefined, 'function', 'local'),
        fc.constantFrom(...Object.values(PLANNING_LIMITS)),
        (jobCount, enabled, entries, assume, limits) => {
          const analysis = analyzeBlueprint({ jobCount, enabled, limits, assume, profiles: entries && new Map(entries) });
          const [faas, local] =
            analysis.strategy === 'hybrid'
              ? [analysis.faasJobs, analysis.localJobs]
              : analysis.strategy === 'serverless'
                ? [analysis.jobIds, []]
                : [[], analysis.jobIds];
          expect([...faas, ...local].toSorted((a, b) => a - b)).toEqual(Array.from({ length: jobCount }, (_, index) => index));
          expect(analysis.jobs.filter(({ place }) => place === 'function').map(({ jobId }) => jobId)).toEqual(faas);
          if (analysis.strategy === 'hybrid') expect(Math.min(faas.length, local.length)).toBeGreaterThan(0);
          for (const { place, reasons } of analysis.jobs) if (place === 'local') expect(reasons.length).toBeGreaterThan(0);
        },
      ),
    );
  });
});

describe('size', () => {
  it.each([
    [0, 512, 1],
    [341, 512, 1],
    [342, 513, 1],
    [1_366, 2_049, 2],
    [10_000, 15_000, 8],
  ])('a peak of %d MB gets %d MB and %d processors', (peak, memoryMb, cpu) => {
    expect(resourceSizing(peak)).toEqual({ memoryMb, cpu });
  });

  it.each([
    ['aws', 1_769, { memoryMb: 1_769, cpu: 1 }],
    ['aws', 10_241, undefined],
    ['gcp', 1_500, { memoryMb: 1_500, cpu: 1 }],
    ['azure', 513, { memoryMb: 2_048, cpu: 1 }],
    ['azure', 4_097, undefined],
    ['digitalocean', 129, { memoryMb: 256, cpu: 1 }],
    ['cloudflare', 128, { memoryMb: 128, cpu: 1 }],
    ['cloudflare', 129, undefined],
    ['kubernetes', 100_000, { memoryMb: 100_000, cpu: 49 }],
  ] as const)('%s sells %d MB as %j', (target, memoryMb, size) => {
    expect(fitSize(target, memoryMb)).toEqual(size);
  });
});
