/**
 * What each provider allows. A function names the provider it is meant for and fails here exactly where it would fail there.
 *
 * Facts as of 2026-11; each profile names its source. A limit that a provider does not publish is the next wider one that binds in practice.
 */

export const PROVIDERS = ['aws', 'gcp', 'azure', 'digitalocean', 'cloudflare'] as const;
export type Provider = (typeof PROVIDERS)[number];

export interface Range {
  readonly min: number;
  readonly max: number;
  readonly default: number;
  /** When only these values are sold. */
  readonly steps?: readonly number[];
}

export interface FunctionLimits {
  readonly source: string;
  readonly date: string;
  readonly namePattern: RegExp;
  readonly nameLengthMax: number;
  readonly descriptionLengthMax: number;
  readonly handlerLengthMax: number;
  /** Event of a call that waits for its answer. */
  readonly requestBytesMax: number;
  readonly responseBytesMax: number;
  /** Event of a call that is queued. */
  readonly asyncBytesMax: number;
  /** All chunks of a streamed answer together. */
  readonly streamBytesMax: number;
  readonly timeoutMs: Range;
  readonly memoryMb: Range;
  readonly ephemeralMb: Range;
  /** Of the JSON object that holds all variables. */
  readonly environmentBytesMax: number;
  readonly environmentCountMax: number;
  /** Of one name and value. */
  readonly environmentValueBytesMax: number;
  readonly zipBytesMax: number;
  /** Code and layers together. */
  readonly unpackedBytesMax: number;
  readonly layersMax: number;
  /** Calls at the same time over all functions. */
  readonly concurrencyMax: number;
  /** Of them, what reservations must leave. */
  readonly unreservedConcurrencyMin: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;
const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const NO_LIMIT = Number.MAX_SAFE_INTEGER;

const AWS: FunctionLimits = {
  source: 'https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html and API_Invoke.html',
  date: '2026-11-21',
  namePattern: /^[a-zA-Z0-9-_]+$/,
  nameLengthMax: 64,
  descriptionLengthMax: 256,
  handlerLengthMax: 128,
  requestBytesMax: 6 * MIB,
  // What the service adds to an answer may exceed the limit of the event by 100 bytes.
  responseBytesMax: 6 * MIB + 100,
  asyncBytesMax: MIB,
  streamBytesMax: 200 * MIB,
  timeoutMs: { min: SECOND, max: 15 * MINUTE, default: 3 * SECOND },
  memoryMb: { min: 128, max: 10_240, default: 128 },
  ephemeralMb: { min: 512, max: 10_240, default: 512 },
  environmentBytesMax: 4 * KIB,
  environmentCountMax: NO_LIMIT,
  environmentValueBytesMax: NO_LIMIT,
  zipBytesMax: 50 * MIB,
  unpackedBytesMax: 250 * MIB,
  layersMax: 5,
  concurrencyMax: 1_000,
  unreservedConcurrencyMin: 100,
};

/** What the other providers do not say differently. */
const COMMON = {
  date: AWS.date,
  descriptionLengthMax: AWS.descriptionLengthMax,
  handlerLengthMax: AWS.handlerLengthMax,
  ephemeralMb: AWS.ephemeralMb,
  environmentCountMax: NO_LIMIT,
  environmentValueBytesMax: NO_LIMIT,
  layersMax: AWS.layersMax,
  unreservedConcurrencyMin: 0,
} as const;

export const LIMITS: Readonly<Record<Provider, FunctionLimits>> = {
  aws: AWS,
  gcp: {
    ...COMMON,
    source: 'https://docs.cloud.google.com/functions/quotas (2nd generation)',
    namePattern: /^[a-z](?:[a-z0-9-]*[a-z0-9])?$/,
    nameLengthMax: 63,
    requestBytesMax: 32 * MIB,
    responseBytesMax: 32 * MIB,
    asyncBytesMax: 512 * KIB,
    streamBytesMax: 10 * MIB,
    timeoutMs: { min: SECOND, max: 60 * MINUTE, default: MINUTE },
    memoryMb: { min: 128, max: 32_768, default: 256 },
    environmentBytesMax: 32 * KIB,
    zipBytesMax: 100 * MIB,
    unpackedBytesMax: 500 * MIB,
    concurrencyMax: 1_000,
  },
  azure: {
    ...COMMON,
    source: 'https://learn.microsoft.com/azure/azure-functions/functions-scale (Flex Consumption)',
    namePattern: /^[a-zA-Z][a-zA-Z0-9_-]*$/,
    nameLengthMax: 127,
    requestBytesMax: 100 * MIB,
    responseBytesMax: 100 * MIB,
    asyncBytesMax: 64 * KIB,
    streamBytesMax: 100 * MIB,
    // The load balancer in front gives an HTTP call up after 230 s.
    timeoutMs: { min: SECOND, max: 230 * SECOND, default: 230 * SECOND },
    memoryMb: { min: 512, max: 4_096, default: 2_048, steps: [512, 2_048, 4_096] },
    environmentBytesMax: NO_LIMIT,
    zipBytesMax: 1_024 * MIB,
    unpackedBytesMax: 1_024 * MIB,
    concurrencyMax: 1_000,
  },
  digitalocean: {
    ...COMMON,
    source: 'https://docs.digitalocean.com/products/functions/details/limits/',
    namePattern: /^[a-zA-Z0-9_][a-zA-Z0-9_@.-]*$/,
    nameLengthMax: 256,
    requestBytesMax: MIB,
    responseBytesMax: MIB,
    asyncBytesMax: MIB,
    streamBytesMax: MIB,
    timeoutMs: { min: 100, max: 15 * MINUTE, default: 3 * SECOND },
    memoryMb: { min: 128, max: 1_024, default: 256, steps: [128, 256, 512, 1_024] },
    environmentBytesMax: MIB,
    zipBytesMax: 48 * MIB,
    unpackedBytesMax: 48 * MIB,
    concurrencyMax: 120,
  },
  cloudflare: {
    ...COMMON,
    source: 'https://developers.cloudflare.com/workers/platform/limits/ (paid plan)',
    namePattern: /^[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?$/,
    nameLengthMax: 63,
    requestBytesMax: 100 * MIB,
    responseBytesMax: NO_LIMIT,
    asyncBytesMax: 128 * KIB,
    streamBytesMax: NO_LIMIT,
    timeoutMs: { min: 1, max: 5 * MINUTE, default: 30 * SECOND },
    memoryMb: { min: 128, max: 128, default: 128 },
    environmentBytesMax: NO_LIMIT,
    environmentCountMax: 128,
    environmentValueBytesMax: 5 * KIB,
    zipBytesMax: 64 * MIB,
    unpackedBytesMax: 64 * MIB,
    layersMax: 0,
    concurrencyMax: NO_LIMIT,
  },
};

/** Where functions can be deployed besides the providers. */
export type Target = Provider | 'kubernetes' | 'custom';

export const TARGET_LIMITS: Readonly<Record<Target, FunctionLimits>> = {
  ...LIMITS,
  kubernetes: {
    ...COMMON,
    source:
      'https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and .../configuration/configmap/; the rest is up to the nodes',
    // A CronJob appends 11 characters to its name.
    namePattern: /^[a-z](?:[a-z0-9-]*[a-z0-9])?$/,
    nameLengthMax: 52,
    requestBytesMax: NO_LIMIT,
    responseBytesMax: NO_LIMIT,
    asyncBytesMax: MIB,
    streamBytesMax: NO_LIMIT,
    timeoutMs: { min: SECOND, max: NO_LIMIT, default: 5 * MINUTE },
    memoryMb: { min: 32, max: NO_LIMIT, default: 512 },
    environmentBytesMax: MIB,
    // So many parts in config maps of 768 KiB.
    zipBytesMax: 12 * MIB,
    unpackedBytesMax: NO_LIMIT,
    concurrencyMax: NO_LIMIT,
  },
  custom: {
    ...COMMON,
    source: 'what a platform of unknown make is taken to allow',
    namePattern: /^[a-zA-Z0-9-_]+$/,
    nameLengthMax: 64,
    requestBytesMax: 5 * MIB,
    responseBytesMax: 5 * MIB,
    asyncBytesMax: 5 * MIB,
    streamBytesMax: 5 * MIB,
    timeoutMs: { min: SECOND, max: 5 * MINUTE, default: 5 * MINUTE },
    memoryMb: { min: 128, max: 2_048, default: 512 },
    environmentBytesMax: NO_LIMIT,
    zipBytesMax: 50 * MIB,
    unpackedBytesMax: 250 * MIB,
    concurrencyMax: NO_LIMIT,
  },
};

/** What decides whether a job can be a function. */
export interface JobLimits {
  readonly memoryMb: number;
  readonly timeoutMs: number;
  readonly payloadBytes: number;
}

/**
 * The round figures that blueprints are planned with. They are the default of the analysis, which must come to the same result on every
 * machine and in every year; a deployment is held to `TARGET_LIMITS`.
 */
export const PLANNING_LIMITS: Readonly<Record<Target, JobLimits>> = {
  aws: { memoryMb: 10_240, timeoutMs: 15 * MINUTE, payloadBytes: 6 * MIB },
  gcp: { memoryMb: 32_768, timeoutMs: 60 * MINUTE, payloadBytes: 10 * MIB },
  azure: { memoryMb: 14_336, timeoutMs: 10 * MINUTE, payloadBytes: 100 * MIB },
  custom: { memoryMb: 2_048, timeoutMs: 5 * MINUTE, payloadBytes: 5 * MIB },
  // Planned with from the start: these are the real ones.
  digitalocean: { memoryMb: 1_024, timeoutMs: 15 * MINUTE, payloadBytes: MIB },
  cloudflare: { memoryMb: 128, timeoutMs: 5 * MINUTE, payloadBytes: 100 * MIB },
  kubernetes: { memoryMb: NO_LIMIT, timeoutMs: NO_LIMIT, payloadBytes: NO_LIMIT },
};

/** Names that `CreateFunction` takes as a runtime, and our own for WebAssembly; which of them run here is the backend's to say. */
export const RUNTIMES: readonly string[] = (
  'nodejs26.x nodejs24.x nodejs22.x nodejs20.x nodejs18.x nodejs16.x nodejs14.x nodejs12.x nodejs10.x nodejs8.10 nodejs6.10 nodejs4.3-edge ' +
  'nodejs4.3 nodejs python3.15 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 python3.7 python3.6 python2.7 ' +
  'java25 java21 java17 java17.al2023 java11 java11.al2023 java8.al2023 java8.al2 java8 dotnet10 dotnet8 dotnet6 dotnetcore3.1 ' +
  'dotnetcore2.1 dotnetcore2.0 dotnetcore1.0 ruby4.0 ruby3.4 ruby3.3 ruby3.2 ruby2.7 ruby2.5 go1.x provided.al2023 provided.al2 provided ' +
  'wasm wasi-preview1'
).split(' ');
