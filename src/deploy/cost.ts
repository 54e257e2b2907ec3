/** What functions would cost, before anything is deployed. Pure; offline, from a dated price table. */

import { RunnerError } from '../errors.ts';
import type { Target } from '../executor/limits.ts';
import { isObject } from './policy-file.ts';
import { PRICES } from './prices.ts';
import type { Meter, PriceList, PriceTable, PricedTarget } from './prices.ts';
import { fitSize } from './sizing.ts';
import type { FunctionSize } from './sizing.ts';

/** One month of one function. */
export interface Usage {
  readonly calls: number;
  /** Of an average call. */
  readonly durationMs: number;
  readonly memoryMb: number;
  /** Time in which it computes, not waits; for platforms that bill only that. Default: all of it. */
  readonly cpuMs?: number;
  readonly architecture?: 'x86_64' | 'arm64';
  /** Calls that share an instance at a time, where the platform can do that. Default 1. */
  readonly concurrency?: number;
  /** Part of the calls that need a new instance, 0 to 1. Default 0. */
  readonly coldStartRate?: number;
  /** Until a new instance takes its call. Default 0. */
  readonly initMs?: number;
  /** Default 512. */
  readonly ephemeralMb?: number;
  /** How many schedules call it. Default 0. */
  readonly schedules?: number;
  /** Calls of a month that come from schedules; they are among `calls`. Default 0. */
  readonly scheduledCalls?: number;
  /** Written per call. Default 0. */
  readonly logBytes?: number;
  /** Instances that are kept ready for some time, and the calls that they take besides `calls`. */
  readonly ready?: { readonly instances: number; readonly seconds: number; readonly calls: number; readonly durationMs: number };
}

export interface CostOptions {
  /** Whether the free amounts of a month are still there. Default true. */
  readonly freeTier?: boolean;
  /** Default: the table of this version. */
  readonly prices?: PriceTable;
}

export interface CostLine {
  readonly name: string;
  readonly quantity: number;
  readonly unit: string;
  readonly free: number;
  readonly usd: number;
  readonly source: string;
  readonly date: string;
  readonly uncertain?: true;
}

export interface CostEstimate {
  readonly target: PricedTarget;
  /** What is ordered, the smallest that the platform sells, and how long a call of it is on the bill. */
  readonly functions: readonly { readonly size: FunctionSize; readonly billedMs: number }[];
  readonly lines: readonly CostLine[];
  readonly monthlyUsd: number;
  /** The month divided by its calls; 0 without calls. */
  readonly perThousandCallsUsd: number;
  /** Of one more thousand when nothing is free any more, without what is paid anyway. */
  readonly perThousandMoreUsd: number;
  readonly assumptions: readonly string[];
}

/** Lines that are paid for the month, not for calls. */
const FIXED = new Set(['subscription', 'schedules', 'instances kept ready']);
const GB = 1024;
const SECOND = 1_000;

/**
 * What one function costs in a month, or several of one account, which share what is free. Undefined when nobody publishes prices of the
 * platform, or it has no function of that size. Throws `CONFIG_INVALID` for a usage that cannot be.
 *
 * @example
 * estimateCost('aws', { calls: 3_000_000, durationMs: 120, memoryMb: 1_536 })?.monthlyUsd; // 2.73
 */
export function estimateCost(target: Target, usage: Usage | readonly Usage[], options: CostOptions = {}): CostEstimate | undefined {
  const usages = isList(usage) ? usage : [usage];
  usages.forEach(checkUsage);
  if (target === 'kubernetes' || target === 'custom') return undefined;
  const list = (options.prices ?? PRICES)[target];
  const sized = usages.map((one) => ({ usage: one, size: fitSize(target, one.memoryMb) }));
  const functions = sized.flatMap(({ usage: one, size }) => (size ? [{ usage: one, size, billedMs: billed(one.durationMs, list) }] : []));
  if (functions.length < usages.length) return undefined;
  const quantities = total(functions.map(({ usage: one, size }) => METERED[target](one, size, list)));
  const lines = priceLines(quantities, list, options.freeTier ?? true);
  const monthlyUsd = sum(lines);
  const calls = usages.reduce((all, one) => all + one.calls + (one.ready?.calls ?? 0), 0);
  const more = sum(priceLines(quantities, list, false).filter(({ name }) => !FIXED.has(name)));
  return {
    target,
    functions: functions.map(({ size, billedMs }) => ({ size, billedMs })),
    lines,
    monthlyUsd,
    perThousandCallsUsd: calls === 0 ? 0 : (monthlyUsd / calls) * 1000,
    perThousandMoreUsd: calls === 0 ? 0 : (more / calls) * 1000,
    assumptions: [...new Set(functions.flatMap(({ usage: one, size }) => assumptionsOf(target, one, { list, size })))],
  };
}

/** The type of a list that may be read-only. */
function isList<T>(value: T | readonly T[]): value is readonly T[] {
  return Array.isArray(value);
}

/** What is paid once for an account is not added up. */
function total(all: readonly Quantities[]): Quantities {
  const result: Record<string, number> = {};
  for (const quantities of all)
    for (const [name, quantity] of Object.entries(quantities))
      result[name] = name === 'subscription' ? quantity : (result[name] ?? 0) + quantity;
  return result;
}

/** Both with two decimals, half up, as bills are written. */
export function cents(usd: number): string {
  return (Math.round((usd + Number.EPSILON) * 100) / 100).toFixed(2);
}

type Quantities = Readonly<Record<string, number>>;
type Metered = (usage: Usage, size: FunctionSize, list: PriceList) => Quantities;

/** How much of each meter a usage turns. */
const METERED: Readonly<Record<PricedTarget, Metered>> = {
  aws(usage, { memoryMb }, list) {
    const { ready, architecture = 'x86_64' } = usage;
    const seconds = secondsOf(usage, list);
    const readySeconds = ready ? (ready.calls * billed(ready.durationMs, list)) / SECOND : 0;
    return {
      requests: usage.calls + (ready?.calls ?? 0),
      [`compute ${architecture}`]: (seconds * memoryMb) / GB,
      'ephemeral storage': ((seconds + readySeconds) * Math.max(0, (usage.ephemeralMb ?? 512) - 512)) / GB,
      'instances kept ready': ready ? (ready.instances * ready.seconds * memoryMb) / GB : 0,
      'compute of instances kept ready': (readySeconds * memoryMb) / GB,
      schedules: usage.scheduledCalls ?? 0,
      logs: logGb(usage),
    };
  },
  gcp(usage, { memoryMb, cpu }, list) {
    const seconds = secondsOf(usage, list) / (usage.concurrency ?? 1);
    return {
      requests: usage.calls,
      cpu: seconds * cpu,
      memory: (seconds * memoryMb) / GB,
      schedules: usage.schedules ?? 0,
      logs: logGb(usage),
    };
  },
  azure(usage, { memoryMb }, list) {
    const seconds = secondsOf(usage, list) / (usage.concurrency ?? 1);
    return { requests: usage.calls, compute: (seconds * memoryMb) / GB, logs: logGb(usage) };
  },
  digitalocean: (usage, { memoryMb }, list) => ({ compute: (secondsOf(usage, list) * memoryMb) / GB }),
  cloudflare: (usage) => ({ subscription: 1, requests: usage.calls, cpu: usage.calls * (usage.cpuMs ?? usage.durationMs) }),
};

function secondsOf(usage: Usage, list: PriceList): number {
  const init = list.initBilled ? usage.calls * (usage.coldStartRate ?? 0) * (usage.initMs ?? 0) : 0;
  return (usage.calls * billed(usage.durationMs, list) + init) / SECOND;
}

function billed(durationMs: number, { stepMs, minimumMs }: PriceList): number {
  return Math.max(minimumMs, Math.ceil(durationMs / stepMs) * stepMs);
}

function logGb({ calls, logBytes = 0 }: Usage): number {
  return (calls * logBytes) / 1e9;
}

function priceLines(quantities: Quantities, { meters }: PriceList, withFree: boolean): CostLine[] {
  return Object.entries(quantities).flatMap(([name, quantity]) => {
    const meter = meters[name];
    if (!meter || quantity === 0) return [];
    const free = withFree ? Math.min(meter.free, quantity) : 0;
    const { unit, source, date, uncertain } = meter;
    return [{ name, quantity, unit, free, usd: priceOf(quantity - free, meter), source, date, ...(uncertain && { uncertain }) }];
  });
}

/** Every tier prices what lies in it. */
function priceOf(quantity: number, { tiers }: Meter): number {
  let [usd, from] = [0, 0];
  for (const tier of tiers) {
    const upTo = tier.upTo ?? Infinity;
    usd += Math.max(0, Math.min(quantity, upTo) - from) * tier.usd;
    from = upTo;
  }
  return usd;
}

function sum(lines: readonly CostLine[]): number {
  return lines.reduce((total, { usd }) => total + usd, 0);
}

function assumptionsOf(
  target: PricedTarget,
  usage: Usage,
  { list, size }: { readonly list: PriceList; readonly size: FunctionSize },
): string[] {
  const { stepMs, minimumMs, region } = list;
  return [
    `list prices of ${region}, without tax, discounts and traffic`,
    ...(size.memoryMb === usage.memoryMb ? [] : [`${usage.memoryMb} MB are sold as ${size.memoryMb} MB`]),
    ...(stepMs > 1 || minimumMs > 1
      ? [`each call is billed in steps of ${stepMs} ms, at least ${minimumMs} ms; all are taken to be average`]
      : []),
    ...(target === 'cloudflare' && usage.cpuMs === undefined
      ? ['the whole duration is taken to be CPU time; waiting costs nothing there']
      : []),
    ...(target !== 'aws' && usage.ready ? ['instances kept ready are not priced'] : []),
    ...(target === 'gcp' || target === 'azure' ? [`${usage.concurrency ?? 1} calls share an instance at a time`] : []),
  ];
}

function checkUsage(usage: Usage): void {
  const amounts = { ...usage, architecture: undefined, ready: undefined, ...usage.ready };
  for (const [name, value] of Object.entries(amounts)) {
    if (value !== undefined && !(typeof value === 'number' && Number.isFinite(value) && value >= 0))
      throw new RunnerError('CONFIG_INVALID', `${name} is ${String(value)}; it must be 0 or more`);
  }
  if (usage.coldStartRate !== undefined && usage.coldStartRate > 1)
    throw new RunnerError('CONFIG_INVALID', `coldStartRate is ${usage.coldStartRate}; it is a part of all calls, 0 to 1`);
  if (usage.concurrency !== undefined && usage.concurrency < 1)
    throw new RunnerError('CONFIG_INVALID', `concurrency is ${usage.concurrency}; it must be 1 or more`);
}

/**
 * The table with an operator's own prices: `{"aws": {"requests": {"usd": 1.5e-7, "free": 0}}}`, USD per unit. Throws `CONFIG_INVALID` for a
 * platform or meter that there is not.
 */
export function overridePrices(document: unknown, table: PriceTable = PRICES): PriceTable {
  if (!isObject(document)) throw new RunnerError('CONFIG_INVALID', 'own prices are an object: platform, meter, usd and free');
  const result: Record<PricedTarget, PriceList> = { ...table };
  for (const [name, meters] of Object.entries(document)) {
    const target = (Object.keys(table) as PricedTarget[]).find((known) => known === name); // as: the keys of the table are its targets
    if (!target || !isObject(meters)) throw new RunnerError('CONFIG_INVALID', `${name} is none of ${Object.keys(table).join(', ')}`);
    const changed = Object.entries(meters).map(([meter, says]) => [
      meter,
      overrideMeter(`${name}.${meter}`, table[target].meters[meter], says),
    ]);
    result[target] = { ...table[target], meters: { ...table[target].meters, ...(Object.fromEntries(changed) as Record<string, Meter>) } }; // as: each is a meter
  }
  return result;
}

function overrideMeter(key: string, meter: Meter | undefined, says: unknown): Meter {
  if (!meter) throw new RunnerError('CONFIG_INVALID', `${key} is not a meter of the price table`);
  const { usd, free } = isObject(says) ? says : {};
  for (const value of [usd, free])
    if (value !== undefined && !(typeof value === 'number' && Number.isFinite(value) && value >= 0))
      throw new RunnerError('CONFIG_INVALID', `${key} needs usd or free, each a number, 0 or more`);
  if (usd === undefined && free === undefined) throw new RunnerError('CONFIG_INVALID', `${key} needs usd or free`);
  const { uncertain: _certain, ...known } = meter;
  return {
    ...known,
    ...(typeof usd === 'number' && { tiers: [{ usd }] }),
    ...(typeof free === 'number' && { free }),
    source: 'own prices',
  };
}
