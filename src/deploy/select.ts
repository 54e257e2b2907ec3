/** Which platform a function should run on, and why none of the others. Pure. */

import { TARGET_LIMITS } from '../executor/limits.ts';
import type { Target } from '../executor/limits.ts';
import { cents, estimateCost } from './cost.ts';
import type { CostOptions, Usage } from './cost.ts';
import type { Cloud, DeploymentPolicy, Strategy } from './policy-model.ts';
import { TARGET_OF } from './policy-model.ts';
import { fitSize, payloadBytesMax } from './sizing.ts';

export const AREAS = ['north-america', 'south-america', 'europe', 'asia-pacific', 'middle-east', 'africa'] as const;
export type Area = (typeof AREAS)[number];

/** What has to hold. What is left out does not matter. */
export interface Needs {
  readonly memoryMb?: number;
  /** Of a call. */
  readonly timeoutMs?: number;
  readonly requestBytes?: number;
  readonly responseBytes?: number;
  readonly architecture?: 'x86_64' | 'arm64';
  /** A region of any provider: `eu-west-1`, `europe-west4`, `fra1`; what counts is where it lies. */
  readonly region?: string;
  /** Whether it may run elsewhere when the platform has nothing there. */
  readonly regionIsRequired?: boolean;
  readonly gpu?: boolean;
  /** A trusted execution environment. */
  readonly tee?: boolean;
  readonly cpu?: number;
  /** Of the month, for the costs. */
  readonly usage?: Omit<Usage, 'memoryMb'>;
  readonly monthlyUsdMax?: number;
}

export interface SelectOptions extends CostOptions {
  /** Platforms to choose from. Default: those that publish prices. */
  readonly among?: readonly Target[];
  readonly strategy?: Strategy;
  /** All functions that the costs are of. Default: one, with the usage and the memory of the needs. */
  readonly costs?: readonly Usage[];
  /** The one that is named in the policy: taken when nothing speaks for another. */
  readonly preferred?: Target | undefined;
}

export interface Candidate {
  readonly target: Target;
  /** Everything that speaks against it. Empty: it fits. */
  readonly against: readonly string[];
  /** What it would have to be told, but is no obstacle. */
  readonly notes: readonly string[];
  /** Undefined: nobody publishes its prices, or the usage is not known. */
  readonly monthlyUsd?: number;
}

export interface Selection {
  readonly chosen: Target | undefined;
  /** In words. */
  readonly because: string;
  /** Best first; those that do not fit last. */
  readonly candidates: readonly Candidate[];
}

const ALL: readonly Target[] = ['aws', 'gcp', 'azure', 'digitalocean', 'cloudflare'];

/** Where each has regions; undefined: wherever the call comes from, and nowhere for sure. */
const PLACES: Readonly<Record<Target, readonly Area[] | 'anywhere' | 'own'>> = {
  aws: AREAS,
  gcp: AREAS,
  azure: AREAS,
  digitalocean: ['north-america', 'europe', 'asia-pacific'],
  cloudflare: 'anywhere',
  kubernetes: 'own',
  custom: 'own',
};
const AREA_OF: readonly (readonly [pattern: RegExp, area: Area])[] = [
  [/^(?:sa-|southamerica-|brazil|chile)/, 'south-america'],
  [
    /^(?:eu-|europe-|(?:north|west)europe|uk(?:south|west)|france|germany|switzerland|norway|sweden|poland|italy|spain|ams|fra|lon)/,
    'europe',
  ],
  [/^(?:ap-|asia-|australia|japan|korea|(?:central|south|west)india|(?:east|southeast)asia|sgp|blr|syd|jio)/, 'asia-pacific'],
  [/^(?:me-|il-|uae|qatar|israel)/, 'middle-east'],
  [/^(?:af-|africa-|southafrica)/, 'africa'],
  [
    /^(?:us|ca-|canada|northamerica-|mx-|mexico|(?:east|west|central|northcentral|southcentral|westcentral)us|nyc|sfo|tor|atl)/,
    'north-america',
  ],
];
/** Until an instance of a small Node.js function takes its first call, milliseconds; Lambda measured by others, the rest estimates. */
const COLD_START_MS: Readonly<Record<Target, number>> = {
  cloudflare: 5,
  aws: 140,
  digitalocean: 200,
  gcp: 500,
  azure: 600,
  kubernetes: 1_000,
  custom: 1_000,
};
/** How much dearer the platform of the policy may be before another one is worth the change. */
const BALANCE_FACTOR = 1.5;
const BALANCE_USD = 1;

/** Where a region lies, by its name. Undefined: nobody knows it. */
export function areaOf(region: string): Area | undefined {
  return AREA_OF.find(([pattern]) => pattern.test(region.toLowerCase()))?.[1];
}

/**
 * Looks at every platform and takes the best that fits: `Cheapest` by the costs of the month, `Performance` by how soon a new instance works,
 * `Balanced` the one of the policy unless another is clearly cheaper.
 */
export function selectProvider(needs: Needs, options: SelectOptions = {}): Selection {
  const { among = ALL, strategy = 'Balanced', preferred } = options;
  const candidates = among.map((target) => candidateOf(target, needs, options));
  const fitting = candidates.filter(({ against }) => against.length === 0).toSorted(orderOf(strategy));
  const unfit = candidates.filter(({ against }) => against.length > 0);
  const best = fitting[0];
  if (!best)
    return {
      chosen: undefined,
      because: `none fits: ${unfit.map(refusal).join('; ') || 'there is none to choose from'}`,
      candidates: unfit,
    };
  const own = fitting.find(({ target }) => target === preferred);
  const stays = strategy === 'Balanced' && own && isWorthStaying(own, best);
  const chosen = stays ? own : best;
  const ranked = [chosen, ...fitting.filter((one) => one !== chosen), ...unfit];
  return { chosen: chosen.target, because: because(chosen, { strategy, fitting, stays: stays === true }), candidates: ranked };
}

/** Which machines a policy prefers for work that is no function, in its order. */
export function machineClouds({ providers }: DeploymentPolicy, needs: Pick<Needs, 'gpu' | 'tee' | 'cpu' | 'memoryMb'>): readonly Cloud[] {
  const withTee: readonly Cloud[] = ['aws', 'gcp', 'azure'];
  if (needs.tee) return withTee;
  if (needs.gpu) return providers.gpu;
  if ((needs.cpu ?? 0) > 8) return providers.cpuIntensive;
  if ((needs.memoryMb ?? 0) > 32 * 1024) return providers.memoryIntensive;
  return providers.costOptimized;
}

/** The options that a policy implies. A limit per hour is one per month of 730 hours. */
export function selectionOf(policy: DeploymentPolicy): { readonly needs: Needs; readonly options: SelectOptions } {
  const { costLimits, regions, serverless } = policy;
  const region = regions.preferred.find((name) => areaOf(name) !== undefined);
  return {
    needs: {
      ...(region !== undefined && { region, regionIsRequired: !regions.allowFallback }),
      ...(costLimits.maxHourlyCost !== null && { monthlyUsdMax: costLimits.maxHourlyCost * 730 }),
    },
    options: { strategy: costLimits.strategy, preferred: TARGET_OF[serverless.provider.type] },
  };
}

function candidateOf(target: Target, needs: Needs, options: SelectOptions): Candidate {
  const { memoryMb = 128, usage, monthlyUsdMax } = needs;
  const place = placeOf(target, needs);
  const usages = options.costs ?? (usage ? [{ ...usage, ...archOf(needs), memoryMb }] : undefined);
  const monthlyUsd = usages && estimateCost(target, usages, options)?.monthlyUsd;
  const tooDear =
    monthlyUsd !== undefined && monthlyUsdMax !== undefined && monthlyUsd > monthlyUsdMax
      ? [`$${cents(monthlyUsd)} a month are above the $${cents(monthlyUsdMax)} of the limit`]
      : [];
  return {
    target,
    against: [...sizeObstacles(target, needs), ...kindObstacles(target, needs), ...place.against, ...tooDear],
    notes: place.notes,
    ...(monthlyUsd !== undefined && { monthlyUsd }),
  };
}

function sizeObstacles(target: Target, { memoryMb = 0, timeoutMs = 0, requestBytes = 0, responseBytes = 0, cpu = 0 }: Needs): string[] {
  const limits = TARGET_LIMITS[target];
  const size = fitSize(target, memoryMb);
  const payloadMax = payloadBytesMax(target);
  const largest = fitSize(target, limits.memoryMb.steps?.at(-1) ?? limits.memoryMb.max);
  return [
    !size && `${memoryMb} MB are more than its ${limits.memoryMb.max} MB`,
    timeoutMs > limits.timeoutMs.max && `${timeoutMs} ms are more than its ${limits.timeoutMs.max} ms`,
    requestBytes > payloadMax && `inputs of ${requestBytes} bytes are more than its ${payloadMax}`,
    responseBytes > payloadMax && `results of ${responseBytes} bytes are more than its ${payloadMax}`,
    largest && cpu > largest.cpu && `${cpu} processors are more than its ${largest.cpu}`,
  ].filter((one) => typeof one === 'string');
}

/** What only clusters and platforms of one's own can have. */
function kindObstacles(target: Target, { gpu, tee, architecture }: Needs): string[] {
  const isOwn = PLACES[target] === 'own';
  return [
    gpu === true && !isOwn && 'its functions have no GPU',
    tee === true && !isOwn && 'its functions run in no trusted environment',
    architecture === 'arm64' && !isOwn && target !== 'aws' && 'it has no arm64',
  ].filter((one) => typeof one === 'string');
}

function placeOf(target: Target, { region, regionIsRequired = false }: Needs): Pick<Candidate, 'against' | 'notes'> {
  if (region === undefined) return { against: [], notes: [] };
  const area = areaOf(region);
  if (area === undefined) return { against: [], notes: [`nobody knows where ${region} lies`] };
  const places = PLACES[target];
  const problem =
    places === 'anywhere'
      ? `it runs near the caller, and cannot be kept in ${area}`
      : places !== 'own' && !places.includes(area)
        ? `it has no region in ${area}`
        : undefined;
  if (problem === undefined) return { against: [], notes: [] };
  return regionIsRequired ? { against: [problem], notes: [] } : { against: [], notes: [problem] };
}

function archOf({ architecture }: Needs): Pick<Usage, 'architecture'> {
  return architecture === undefined ? {} : { architecture };
}

/** Costs that nobody knows come last; equals go by name, so that the answer is always the same. */
function orderOf(strategy: Strategy): (a: Candidate, b: Candidate) => number {
  const cost = (one: Candidate): number => one.monthlyUsd ?? Number.MAX_VALUE;
  const speed = (one: Candidate): number => COLD_START_MS[one.target];
  const [first, second] = strategy === 'Performance' ? [speed, cost] : [cost, speed];
  return (a, b) => first(a) - first(b) || a.notes.length - b.notes.length || second(a) - second(b) || (a.target < b.target ? -1 : 1);
}

function isWorthStaying(own: Candidate, best: Candidate): boolean {
  if (own === best || own.monthlyUsd === undefined || best.monthlyUsd === undefined) return true;
  return own.monthlyUsd <= Math.max(best.monthlyUsd * BALANCE_FACTOR, best.monthlyUsd + BALANCE_USD);
}

function because(
  chosen: Candidate,
  how: { readonly strategy: Strategy; readonly fitting: readonly Candidate[]; readonly stays: boolean },
): string {
  const { strategy, fitting, stays } = how;
  const price = chosen.monthlyUsd === undefined ? '' : `, $${cents(chosen.monthlyUsd)} a month`;
  if (fitting.length === 1) return `${chosen.target} is the only one that fits${price}`;
  if (stays) return `${chosen.target} is the one of the policy, and none of the others is clearly cheaper${price}`;
  if (strategy === 'Performance') return `${chosen.target} starts fastest of ${fitting.length} that fit${price}`;
  return `${chosen.target} is the cheapest of ${fitting.length} that fit${price}`;
}

function refusal({ target, against }: Candidate): string {
  return `${target}: ${against.join(', ')}`;
}
