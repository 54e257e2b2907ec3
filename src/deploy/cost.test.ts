import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TARGET_LIMITS } from '../executor/limits.ts';
import { cents, estimateCost, overridePrices } from './cost.ts';
import type { CostOptions, Usage } from './cost.ts';
import { PRICES } from './prices.ts';
import type { PricedTarget } from './prices.ts';

const MILLION = 1_000_000;
const HOUR = 3_600;
const TARGETS = Object.keys(PRICES) as PricedTarget[];

function monthly(target: PricedTarget, usage: Usage | readonly Usage[], options?: CostOptions): string {
  return cents(estimateCost(target, usage, options)?.monthlyUsd ?? NaN);
}

describe('the examples that the providers publish, to the cent', () => {
  // https://aws.amazon.com/lambda/pricing/, US East (N. Virginia), x86
  it.each([
    ['mobile backend', { calls: 3 * MILLION, durationMs: 120, memoryMb: 1_536 }, true, '2.73'],
    ['telemetry of 10,000 vehicles, nothing free', { calls: 10_000 * 24 * 31, durationMs: 2_000, memoryMb: 1_024 }, false, '249.49'],
    ['language model with 2 GB of storage', { calls: 6 * MILLION, durationMs: 280, memoryMb: 4_096, ephemeralMb: 2_048 }, true, '106.41'],
    [
      'launch of an app, 100 instances ready for 8 hours',
      {
        calls: 2.5 * MILLION,
        durationMs: 120,
        memoryMb: 1_536,
        ready: { instances: 100, seconds: 8 * HOUR, calls: 500_000, durationMs: 100 },
      },
      true,
      '19.96',
    ],
    [
      'a day of sales, 7 instances ready, nothing free',
      { calls: 0, durationMs: 0, memoryMb: 4_096, ready: { instances: 7, seconds: 24 * HOUR, calls: 2 * MILLION, durationMs: 280 } },
      false,
      '32.26',
    ],
  ])('AWS Lambda: %s', (_, usage, freeTier, expected) => {
    expect(monthly('aws', usage, { freeTier })).toBe(expected);
  });

  // https://www.digitalocean.com/pricing/functions
  it.each([
    [1 * MILLION, 128, 100, '0.00'],
    [3.6 * MILLION, 256, 100, '0.00'],
    [10 * MILLION, 512, 100, '7.59'],
    [15 * MILLION, 512, 200, '26.08'],
    [20 * MILLION, 1_024, 500, '183.33'],
  ])('DigitalOcean Functions: %d calls, %d MB, %d ms', (calls, memoryMb, durationMs, expected) => {
    expect(monthly('digitalocean', { calls, memoryMb, durationMs })).toBe(expected);
  });

  // https://developers.cloudflare.com/workers/platform/pricing/
  it.each([
    [15 * MILLION, 7, '8.00'],
    [100 * MILLION, 7, '45.40'],
    [720, 180_000, '6.99'],
  ])('Cloudflare Workers: %d calls, %d ms of CPU', (calls, cpuMs, expected) => {
    expect(monthly('cloudflare', { calls, cpuMs, durationMs: cpuMs * 3, memoryMb: 128 })).toBe(expected);
  });
});

describe('lines', () => {
  it('schedules and logs are lines of their own, with source and date, and say when they are uncertain', () => {
    const estimate = estimateCost('aws', {
      calls: 20 * MILLION,
      durationMs: 10,
      memoryMb: 128,
      scheduledCalls: 15 * MILLION,
      logBytes: 500,
    });
    const line = (name: string) => estimate?.lines.find((one) => one.name === name);
    expect(line('schedules')).toMatchObject({ quantity: 15 * MILLION, free: 14 * MILLION, usd: 1, uncertain: true });
    expect(line('logs')).toMatchObject({ quantity: 10, unit: 'GB', free: 5, usd: 2.5 });
    expect(line('requests')).toMatchObject({ source: 'https://aws.amazon.com/lambda/pricing/', date: '2026-11-21' });
    expect(line('requests')?.uncertain).toBeUndefined();
    expect(estimate?.lines.reduce((total, { usd }) => total + usd, 0)).toBe(estimate?.monthlyUsd);
  });

  it('GCP: processor and memory by the second, in steps of 100 ms, shared by calls at the same time', () => {
    // 2 M x 0.2 s of 1 vCPU and 2 GiB: 400,000 vCPU-s - 180,000, 800,000 GiB-s - 360,000
    expect(monthly('gcp', { calls: 2 * MILLION, durationMs: 101, memoryMb: 2_048 })).toBe(cents(220_000 * 0.000024 + 440_000 * 0.0000025));
    const alone = estimateCost('gcp', { calls: MILLION, durationMs: 100, memoryMb: 512 }, { freeTier: false });
    const shared = estimateCost('gcp', { calls: MILLION, durationMs: 100, memoryMb: 512, concurrency: 10 }, { freeTier: false });
    const cpu = (estimate: typeof alone) => estimate?.lines.find(({ name }) => name === 'cpu')?.quantity;
    expect(cpu(shared)).toBeCloseTo((cpu(alone) ?? 0) / 10);
    expect(estimateCost('gcp', { calls: 1, durationMs: 1, memoryMb: 128, schedules: 5 })?.monthlyUsd).toBeCloseTo(0.2);
  });

  it('Azure: at least a second, then steps of 100 ms, in three sizes', () => {
    const short = estimateCost('azure', { calls: MILLION, durationMs: 20, memoryMb: 600 });
    expect(short?.functions).toEqual([{ size: { memoryMb: 2_048, cpu: 1 }, billedMs: 1_000 }]);
    expect(cents(short?.monthlyUsd ?? 0)).toBe(cents((2 * MILLION - 100_000) * 0.000026 + 0.75 * 0.4));
    expect(estimateCost('azure', { calls: 1, durationMs: 1_001, memoryMb: 512 })?.functions[0]?.billedMs).toBe(1_100);
    expect(short?.assumptions).toContain('600 MB are sold as 2048 MB');
  });

  it('the start of an instance is on the bill where it is billed', () => {
    const usage = { calls: 1_000, durationMs: 1, memoryMb: 1_024, coldStartRate: 0.5, initMs: 999 };
    const seconds = (target: PricedTarget, name: string) => estimateCost(target, usage)?.lines.find((line) => line.name === name)?.quantity;
    expect(seconds('aws', 'compute x86_64')).toBeCloseTo(1 + 499.5);
    expect(seconds('azure', 'compute')).toBeCloseTo(2_000);
  });

  it('tiers: what lies in each is priced by it', () => {
    const usage = { calls: 16_000_000_000, durationMs: 1_000, memoryMb: 1_024 };
    const compute = estimateCost('aws', usage, { freeTier: false })?.lines.find(({ name }) => name === 'compute x86_64');
    expect(compute?.usd).toBeCloseTo(6e9 * 0.0000166667 + 9e9 * 0.000015 + 1e9 * 0.0000133334, 2);
  });

  it('several functions of an account share what is free, and one subscription', () => {
    const usage = { calls: 600_000, durationMs: 1, memoryMb: 128 };
    expect(monthly('aws', usage)).toBe('0.00');
    expect(monthly('aws', [usage, usage])).toBe('0.04');
    expect(monthly('cloudflare', [usage, usage])).toBe('5.00');
  });

  it('per thousand calls: of the month, and of one more thousand', () => {
    const estimate = estimateCost('aws', { calls: 2 * MILLION, durationMs: 100, memoryMb: 1_024 });
    expect(estimate?.perThousandCallsUsd).toBeCloseTo(0.2 / 2_000);
    expect(estimate?.perThousandMoreUsd).toBeCloseTo(100 * 0.0000166667 + 1_000 * 2e-7);
  });
});

describe('what cannot be estimated', () => {
  it('platforms without a price list, and sizes that nobody sells', () => {
    const usage = { calls: 1, durationMs: 1, memoryMb: 129 };
    expect(estimateCost('kubernetes', usage)).toBeUndefined();
    expect(estimateCost('custom', usage)).toBeUndefined();
    expect(estimateCost('cloudflare', usage)).toBeUndefined();
  });

  it.each([
    [{ calls: -1 }, 'calls is -1; it must be 0 or more'],
    [{ durationMs: NaN }, 'durationMs is NaN'],
    [{ coldStartRate: 1.5 }, 'coldStartRate is 1.5'],
    [{ concurrency: 0 }, 'concurrency is 0'],
  ])('%j', (wrong, message) => {
    expect(() => estimateCost('aws', { calls: 1, durationMs: 1, memoryMb: 128, ...wrong })).toThrow(message);
  });
});

describe('own prices', () => {
  it('replace those of the table, and are no longer uncertain', () => {
    const prices = overridePrices({ aws: { requests: { usd: 1, free: 0 }, logs: { free: 0 } } });
    const estimate = estimateCost('aws', { calls: 10, durationMs: 1, memoryMb: 128, logBytes: 1e8 }, { prices });
    expect(estimate?.lines.map(({ name, usd, source, uncertain }) => [name, usd, source, uncertain])).toEqual([
      ['requests', 10, 'own prices', undefined],
      ['compute x86_64', 0, 'https://aws.amazon.com/lambda/pricing/', undefined],
      ['logs', 0.5, 'own prices', undefined],
    ]);
  });

  it.each([
    [[], 'own prices are an object'],
    [{ ibm: {} }, 'ibm is none of aws, gcp'],
    [{ aws: { magic: { usd: 1 } } }, 'aws.magic is not a meter'],
    [{ aws: { requests: { usd: -1 } } }, 'aws.requests needs usd or free'],
    [{ aws: { requests: 5 } }, 'aws.requests needs usd or free'],
  ])('%j is refused', (document, message) => {
    expect(() => overridePrices(document)).toThrow(message);
  });
});

describe('always', () => {
  it('more calls, longer calls and more memory never cost less, and what is free never costs more', () => {
    const usage = fc.record({
      calls: fc.integer({ min: 1, max: 1e9 }),
      durationMs: fc.integer({ min: 1, max: 200_000 }),
      memoryMb: fc.integer({ min: 1, max: 128 }),
    });
    fc.assert(
      fc.property(fc.constantFrom(...TARGETS), usage, fc.constantFrom('calls', 'durationMs'), (target, small, key) => {
        const usd = (one: Usage, freeTier = true) => estimateCost(target, one, { freeTier })?.monthlyUsd ?? NaN;
        expect(usd({ ...small, [key]: small[key as 'calls'] * 2 })).toBeGreaterThanOrEqual(usd(small));
        expect(usd(small)).toBeLessThanOrEqual(usd(small, false));
      }),
    );
  });

  it('every meter has a price, a unit, a source and a date', () => {
    for (const target of TARGETS) {
      expect(TARGET_LIMITS[target].memoryMb.max).toBeGreaterThan(0);
      for (const meter of Object.values(PRICES[target].meters)) {
        expect(meter.tiers.every(({ usd }) => usd > 0)).toBe(true);
        expect(meter.tiers.at(-1)?.upTo).toBeUndefined();
        expect(meter.source).toMatch(/^https:\/\//);
        expect(meter.date).toMatch(/^2026-\d\d-\d\d$/);
      }
    }
  });
});
