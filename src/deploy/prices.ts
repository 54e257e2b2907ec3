/**
 * What the platforms charge: list prices in USD, without tax, discounts and traffic. Facts as of 2026-11; each figure names its source,
 * `uncertain` marks those that rest on a secondary page or an old copy.
 */

import type { Target } from '../executor/limits.ts';

export interface PriceTier {
  /** Of a month; the last tier has no end. */
  readonly upTo?: number;
  /** USD for one unit. */
  readonly usd: number;
}

export interface Meter {
  readonly unit: string;
  /** Units of a month that cost nothing. */
  readonly free: number;
  readonly tiers: readonly PriceTier[];
  readonly source: string;
  readonly date: string;
  readonly uncertain?: true;
}

export interface PriceList {
  readonly region: string;
  /** What is billed is rounded up to a multiple of this, and is at least `minimumMs`. */
  readonly stepMs: number;
  readonly minimumMs: number;
  /** Time before the first call of an instance is billed like a call. */
  readonly initBilled: boolean;
  readonly meters: Readonly<Record<string, Meter>>;
}

/** Platforms that publish prices. What a cluster or a platform of one's own costs, only its operator knows. */
export type PricedTarget = Exclude<Target, 'kubernetes' | 'custom'>;
export type PriceTable = Readonly<Record<PricedTarget, PriceList>>;

export const PRICES_DATE = '2026-11-21';
const MILLION = 1_000_000;
const BILLION = 1_000 * MILLION;

const priced = (source: string) => {
  return (unit: string, free: number, usd: number | readonly PriceTier[]): Meter => ({
    unit,
    free,
    tiers: typeof usd === 'number' ? [{ usd }] : usd,
    source,
    date: PRICES_DATE,
  });
};

const aws = priced('https://aws.amazon.com/lambda/pricing/');
const gcp = priced('https://cloud.google.com/run/pricing');
const azure = priced('https://azure.microsoft.com/pricing/details/functions/');
const digitalocean = priced('https://www.digitalocean.com/pricing/functions');
const cloudflare = priced('https://developers.cloudflare.com/workers/platform/pricing/');
const logs = (source: string, free: number, usd: number): Meter => ({ ...priced(source)('GB', free, usd), uncertain: true });

export const PRICES: PriceTable = {
  aws: {
    region: 'us-east-1',
    stepMs: 1,
    minimumMs: 1,
    // Since 2025-08-01 for packages of managed runtimes, too.
    initBilled: true,
    meters: {
      requests: aws('request', MILLION, 0.2 / MILLION),
      'compute x86_64': aws('GB-second', 400_000, [
        { upTo: 6 * BILLION, usd: 0.0000166667 },
        { upTo: 15 * BILLION, usd: 0.000015 },
        { usd: 0.0000133334 },
      ]),
      'compute arm64': aws('GB-second', 400_000, [
        { upTo: 7.5 * BILLION, usd: 0.0000133334 },
        { upTo: 18.75 * BILLION, usd: 0.0000120001 },
        { usd: 0.0000106667 },
      ]),
      'ephemeral storage': aws('GB-second', 0, 0.0000000309),
      'instances kept ready': aws('GB-second', 0, 0.0000041667),
      'compute of instances kept ready': aws('GB-second', 0, 0.0000097222),
      schedules: { ...priced('https://aws.amazon.com/eventbridge/pricing/')('firing', 14 * MILLION, 1 / MILLION), uncertain: true },
      logs: logs('https://aws.amazon.com/cloudwatch/pricing/', 5, 0.5),
    },
  },
  gcp: {
    region: 'us-central1',
    stepMs: 100,
    minimumMs: 100,
    initBilled: true,
    meters: {
      requests: gcp('request', 2 * MILLION, 0.4 / MILLION),
      cpu: gcp('vCPU-second', 180_000, 0.000024),
      memory: gcp('GiB-second', 360_000, 0.0000025),
      schedules: priced('https://cloud.google.com/scheduler/pricing')('schedule', 3, 0.1),
      logs: logs('https://cloud.google.com/stackdriver/pricing', 50, 0.5),
    },
  },
  azure: {
    region: 'eastus',
    stepMs: 100,
    minimumMs: 1_000,
    initBilled: false,
    meters: {
      requests: azure('execution', 250_000, 0.4 / MILLION),
      compute: azure('GB-second', 100_000, 0.000026),
      logs: logs('https://azure.microsoft.com/pricing/details/monitor/', 5, 2.3),
    },
  },
  digitalocean: {
    region: 'all',
    stepMs: 1,
    minimumMs: 100,
    initBilled: false,
    meters: { compute: digitalocean('GiB-second', 90_000, 0.0000185) },
  },
  cloudflare: {
    region: 'all',
    stepMs: 1,
    minimumMs: 0,
    initBilled: false,
    meters: {
      subscription: cloudflare('month', 0, 5),
      requests: cloudflare('request', 10 * MILLION, 0.3 / MILLION),
      cpu: cloudflare('CPU-millisecond', 30 * MILLION, 0.02 / MILLION),
    },
  },
};
