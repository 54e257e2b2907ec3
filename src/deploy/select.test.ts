import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Target } from '../executor/limits.ts';
import { advise } from './advise.ts';
import { loadPolicy } from './policy.ts';
import { areaOf, machineClouds, selectProvider, selectionOf } from './select.ts';
import type { Needs, SelectOptions } from './select.ts';

const MINUTE = 60_000;
const MIB = 1024 * 1024;
const few = { calls: 10_000, durationMs: 100 };
const many = { calls: 20_000_000, durationMs: 100 };
const slow = { calls: 1_000_000, durationMs: 1_000 };
const cheapest: SelectOptions = { strategy: 'Cheapest' };
const fast: SelectOptions = { strategy: 'Performance' };
const own = (preferred: Target): SelectOptions => ({ preferred });

/** What is needed, what is said besides, what is chosen, and a part of what speaks against another. */
const CASES: readonly (readonly [Needs, SelectOptions, Target | undefined, Target?, string?])[] = [
  // Memory
  [{ memoryMb: 128 }, fast, 'cloudflare'],
  [{ memoryMb: 129 }, fast, 'aws', 'cloudflare', '129 MB are more than its 128 MB'],
  [{ memoryMb: 1_025 }, cheapest, 'aws', 'digitalocean', '1025 MB are more than its 1024 MB'],
  [{ memoryMb: 4_097 }, fast, 'aws', 'azure', '4097 MB are more than its 4096 MB'],
  [{ memoryMb: 10_241 }, cheapest, 'gcp', 'aws', '10241 MB are more than its 10240 MB'],
  [{ memoryMb: 32_769 }, cheapest, undefined, 'gcp', '32769 MB are more than its 32768 MB'],
  [{ memoryMb: 32_769 }, { among: ['aws', 'kubernetes'] }, 'kubernetes'],
  // Time
  [{ memoryMb: 512, timeoutMs: 231_000 }, fast, 'aws', 'azure', '231000 ms are more than its 230000 ms'],
  [{ timeoutMs: 6 * MINUTE }, fast, 'aws', 'cloudflare', '360000 ms are more than its 300000 ms'],
  [{ timeoutMs: 16 * MINUTE }, cheapest, 'gcp', 'aws', '960000 ms are more than its 900000 ms'],
  [{ timeoutMs: 61 * MINUTE }, cheapest, undefined],
  // Payload
  [{ memoryMb: 512, requestBytes: 2 * MIB }, fast, 'aws', 'digitalocean', 'inputs of 2097152 bytes'],
  [{ memoryMb: 512, requestBytes: 7 * MIB }, fast, 'gcp', 'aws', 'inputs of 7340032 bytes'],
  [{ memoryMb: 512, requestBytes: 5 * MIB }, fast, 'gcp', 'aws', 'inputs of 5242880 bytes are more than its 4669440'],
  [{ requestBytes: 7 * MIB }, fast, 'gcp', 'cloudflare', 'inputs of 7340032 bytes are more than its 6291456'],
  [{ memoryMb: 512, responseBytes: 0.9 * MIB }, { among: ['digitalocean'] }, undefined, 'digitalocean', 'are more than its 716800'],
  [{ memoryMb: 512, responseBytes: 40 * MIB }, fast, 'azure', 'gcp', 'results of 41943040 bytes'],
  [{ requestBytes: 200 * MIB }, cheapest, undefined, 'azure', 'inputs of 209715200 bytes'],
  // Region
  [{ region: 'sa-east-1', regionIsRequired: true, memoryMb: 512 }, fast, 'aws', 'digitalocean', 'it has no region in south-america'],
  [{ region: 'europe-west4', regionIsRequired: true }, fast, 'aws', 'cloudflare', 'cannot be kept in europe'],
  [{ region: 'europe-west4' }, fast, 'cloudflare'],
  [
    { region: 'af-south-1', regionIsRequired: true, memoryMb: 256 },
    { among: ['digitalocean'] },
    undefined,
    'digitalocean',
    'no region in africa',
  ],
  // Hardware
  [{ architecture: 'arm64', memoryMb: 512 }, cheapest, 'aws', 'gcp', 'it has no arm64'],
  [{ gpu: true }, cheapest, undefined, 'aws', 'its functions have no GPU'],
  [{ gpu: true }, { among: ['gcp', 'kubernetes'] }, 'kubernetes', 'gcp', 'no GPU'],
  [{ tee: true }, cheapest, undefined, 'azure', 'no trusted environment'],
  [{ cpu: 7 }, cheapest, 'gcp', 'aws', '7 processors are more than its 5.789'],
  // Price
  [{ memoryMb: 512, usage: few }, cheapest, 'aws'],
  [{ memoryMb: 128, usage: many }, cheapest, 'digitalocean'],
  [{ memoryMb: 1_024, usage: slow }, cheapest, 'aws'],
  [{ memoryMb: 128, usage: { calls: 100_000_000, durationMs: 5 } }, cheapest, 'aws'],
  [{ memoryMb: 128, usage: { calls: 10_000_000, durationMs: 5_000, cpuMs: 1 } }, cheapest, 'cloudflare'],
  [{ memoryMb: 1_024, usage: slow, monthlyUsdMax: 1 }, cheapest, undefined, 'aws', 'a month are above the $1.00 of the limit'],
  [{ memoryMb: 1_024, usage: slow, monthlyUsdMax: 18 }, own('azure'), 'aws', 'azure', 'a month are above'],
  // The one of the policy
  [{ memoryMb: 512, usage: few }, own('azure'), 'azure'],
  [{ memoryMb: 128, usage: many }, own('cloudflare'), 'digitalocean'],
  [{ memoryMb: 20_000 }, own('aws'), 'gcp', 'aws', '20000 MB'],
  [{ memoryMb: 512 }, own('gcp'), 'gcp'],
  [{}, { among: [] }, undefined],
];

describe('the choice', () => {
  const cases = CASES.map(([needs, options, chosen, other, against]) => ({ needs, options, chosen, other, against }));

  it.each(cases)('$needs with $options: $chosen', ({ needs, options, chosen, other, against }) => {
    const selection = selectProvider(needs, options);
    expect({ chosen: selection.chosen, because: selection.because }).toMatchObject({ chosen });
    if (other) expect(selection.candidates.find(({ target }) => target === other)?.against.join()).toContain(against);
    if (chosen) expect(selection.candidates[0]?.target).toBe(chosen);
  });

  it('says why', () => {
    expect(selectProvider({ memoryMb: 20_000 }).because).toBe('gcp is the only one that fits');
    expect(selectProvider({ memoryMb: 512, usage: few }, own('azure')).because).toMatch(
      /^azure is the one of the policy, and none of the others/,
    );
    expect(selectProvider({ memoryMb: 512, usage: few }, cheapest).because).toBe('aws is the cheapest of 4 that fit, $0.00 a month');
    expect(selectProvider({ memoryMb: 512 }, fast).because).toBe('aws starts fastest of 4 that fit');
    expect(selectProvider({ memoryMb: 99_999 }, { among: ['aws'] }).because).toBe('none fits: aws: 99999 MB are more than its 10240 MB');
  });

  it('everything that speaks against a platform is told at once', () => {
    const needs = { memoryMb: 512, timeoutMs: 6 * MINUTE, gpu: true, region: 'eu-west-1', regionIsRequired: true };
    expect(selectProvider(needs, { among: ['cloudflare'] }).candidates[0]?.against).toEqual([
      '512 MB are more than its 128 MB',
      '360000 ms are more than its 300000 ms',
      'its functions have no GPU',
      'it runs near the caller, and cannot be kept in europe',
    ]);
  });

  it('what is chosen always fits, nothing fits when nothing is chosen, and the answer is always the same', () => {
    const needs = fc.record(
      {
        memoryMb: fc.integer({ min: 1, max: 40_000 }),
        timeoutMs: fc.integer({ min: 1, max: 4_000_000 }),
        gpu: fc.boolean(),
        usage: fc.record({ calls: fc.integer({ min: 0, max: 1e9 }), durationMs: fc.integer({ min: 0, max: 10_000 }) }),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(needs, fc.constantFrom(cheapest, fast, own('aws')), (need, options) => {
        const selection = selectProvider(need, options);
        const fits = selection.candidates.filter(({ against }) => against.length === 0);
        expect(fits.some(({ target }) => target === selection.chosen)).toBe(selection.chosen !== undefined);
        expect(fits.length > 0).toBe(selection.chosen !== undefined);
        expect(selection.candidates).toHaveLength(5);
        expect(selectProvider(need, options)).toEqual(selection);
      }),
    );
  });
});

describe('regions', () => {
  it.each([
    ['us-east-1', 'north-america'],
    ['eastus2', 'north-america'],
    ['northamerica-northeast1', 'north-america'],
    ['nyc1', 'north-america'],
    ['westeurope', 'europe'],
    ['eu-central-1', 'europe'],
    ['fra1', 'europe'],
    ['southeastasia', 'asia-pacific'],
    ['asia-northeast1', 'asia-pacific'],
    ['southamerica-east1', 'south-america'],
    ['brazilsouth', 'south-america'],
    ['me-central1', 'middle-east'],
    ['southafricanorth', 'africa'],
    ['moon-1', undefined],
  ])('%s lies in %s', (region, area) => {
    expect(areaOf(region)).toBe(area);
  });
});

describe('what the policy implies', () => {
  const { policy } = loadPolicy({ env: {}, path: '/nowhere/policy.json' });

  it('region, limit of costs, strategy and platform', () => {
    expect(selectionOf(policy)).toEqual({
      needs: { region: 'us-east-1', regionIsRequired: false, monthlyUsdMax: 3_650 },
      options: { strategy: 'Balanced', preferred: 'aws' },
    });
  });

  it.each([
    [{ tee: true, gpu: true }, ['aws', 'gcp', 'azure']],
    [{ gpu: true }, policy.providers.gpu],
    [{ cpu: 9 }, policy.providers.cpuIntensive],
    [{ memoryMb: 32 * 1024 + 1 }, policy.providers.memoryIntensive],
    [{ cpu: 8, memoryMb: 32 * 1024 }, policy.providers.costOptimized],
  ])('machines for %j', (needs, clouds) => {
    expect(machineClouds(policy, needs)).toEqual(clouds);
  });
});

describe('advice', () => {
  const profile = { avgDurationMs: 200, p95DurationMs: 300, peakMemoryMb: 100, stateful: false, persistentConnections: false };

  it('less memory, with what it saves and how sure that is', () => {
    const job = { jobId: 0, target: 'aws', memoryMb: 2_048, callsPerMonth: 10_000_000, profile, samples: 100 } as const;
    expect(advise([job]).find(({ kind }) => kind === 'memory')).toMatchObject({
      action: 'give it 512 MB instead of 2048 MB',
      savingUsd: expect.closeTo(3_000_000 * 0.0000166667, 1) as number,
      confidence: 'medium',
    });
    expect(advise([{ ...job, samples: 3 }]).find(({ kind }) => kind === 'memory')?.confidence).toBe('low');
  });

  it('another platform, when it is cheaper', () => {
    const job = { jobId: 1, target: 'azure', memoryMb: 512, callsPerMonth: 10_000_000, profile } as const;
    expect(advise([job])[0]).toMatchObject({ kind: 'provider', action: 'move it from azure to aws', confidence: 'low' });
  });

  it('lists of inputs, for calls that are shorter than what they are billed for', () => {
    const job = {
      jobId: 2,
      target: 'aws',
      memoryMb: 512,
      callsPerMonth: 100_000_000,
      profile: { ...profile, avgDurationMs: 0.2 },
    } as const;
    const batch = advise([job]).find(({ kind }) => kind === 'batch');
    expect(batch).toMatchObject({ action: 'hand over 10 inputs per call' });
    expect(batch?.savingUsd).toBeCloseTo(90 * 0.2, 0);
  });

  it('nothing, when nothing is worth it', () => {
    expect(advise([{ jobId: 0, target: 'aws', memoryMb: 512, callsPerMonth: 1_000, profile }])).toEqual([]);
  });
});
