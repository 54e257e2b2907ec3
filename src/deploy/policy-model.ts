/** The deployment policy: what it says, what it is when nobody says anything, and how the providers are spelled in its file. */

import type { Target } from '../executor/limits.ts';
import type { SettingsDocument } from './policy-file.ts';

export const FAAS_TYPES = ['aws-lambda', 'gcp-functions', 'azure-functions', 'digitalocean', 'cloudflare', 'kubernetes', 'custom'] as const;
export type FaasType = (typeof FAAS_TYPES)[number];

/** Where functions run. */
export type FaasProvider =
  | { readonly type: 'aws-lambda'; readonly region: string }
  | { readonly type: 'gcp-functions'; readonly projectId: string; readonly region: string }
  | { readonly type: 'azure-functions'; readonly subscriptionId: string; readonly region: string }
  | { readonly type: 'digitalocean'; readonly region: string }
  | { readonly type: 'cloudflare'; readonly accountId: string }
  | { readonly type: 'kubernetes'; readonly namespace: string; readonly context: string }
  | { readonly type: 'custom'; readonly endpoint: string };

/** What one job has differently. */
export interface JobPolicy {
  /** It is deployed already, by hand: calls go there. */
  readonly endpoint?: string;
  readonly provider?: FaasProvider;
  readonly memoryMb?: number;
  readonly timeoutMs?: number;
  /** It stays in the runner, whatever the analysis says. */
  readonly local?: boolean;
}

/** How the jobs of a blueprint become functions. */
export interface ServerlessConfig {
  readonly enable: boolean;
  readonly provider: FaasProvider;
  readonly memoryMb: number;
  readonly timeoutMs: number;
  /** What cannot be deployed, or fails, runs on machines instead. */
  readonly fallbackToVm: boolean;
  /** By job index. */
  readonly jobs: ReadonlyMap<number, JobPolicy>;
}

/** Clouds that the lists of preferences may name. */
export const CLOUDS = [
  'aws',
  'gcp',
  'azure',
  'digitalocean',
  'vultr',
  'hetzner',
  'runpod',
  'lambdalabs',
  'primeintellect',
  'vastai',
  'crusoe',
] as const;
export type Cloud = (typeof CLOUDS)[number];

export const STRATEGIES = ['Cheapest', 'Balanced', 'Performance'] as const;
export type Strategy = (typeof STRATEGIES)[number];

export interface DeploymentPolicy {
  /** In order of preference. */
  readonly providers: {
    readonly gpu: readonly Cloud[];
    readonly cpuIntensive: readonly Cloud[];
    readonly memoryIntensive: readonly Cloud[];
    readonly costOptimized: readonly Cloud[];
  };
  readonly costLimits: {
    /** USD; null: no limit. */
    readonly maxHourlyCost: number | null;
    readonly preferSpot: boolean;
    readonly autoTerminateAfterHours: number | null;
    readonly strategy: Strategy;
  };
  readonly regions: {
    readonly preferred: readonly string[];
    readonly allowFallback: boolean;
    readonly maxLatencyMs: number | null;
  };
  readonly failover: {
    readonly retriesMax: number;
    readonly retryDelayMs: number;
    readonly differentRegions: boolean;
    readonly differentProviders: boolean;
  };
  readonly serverless: ServerlessConfig;
}

/** The policy when nobody says anything: functions are switched off. */
export const DEFAULT_DOCUMENT = {
  providers: {
    gpu_providers: ['runpod', 'lambdalabs', 'vastai', 'primeintellect', 'crusoe', 'gcp', 'aws'],
    cpu_intensive: ['hetzner', 'vultr', 'digitalocean', 'aws'],
    memory_intensive: ['aws', 'gcp', 'hetzner'],
    cost_optimized: ['vastai', 'hetzner', 'vultr', 'digitalocean'],
  },
  cost_limits: { max_hourly_cost: 5, prefer_spot: true, auto_terminate_after_hours: 24, optimization_strategy: 'Balanced' },
  regions: { preferred_regions: ['us-east-1', 'us-west-2'], allow_fallback_regions: true, max_latency_ms: 100 },
  failover: { max_retries: 3, retry_delay_seconds: 30, retry_different_regions: true, retry_different_providers: true },
  serverless: {
    enable: false,
    provider: { type: 'aws-lambda', region: 'us-east-1' },
    default_memory_mb: 512,
    default_timeout_secs: 300,
    fallback_to_vm: true,
  },
} as const;

/** Keys whose absence from a section means no limit. */
export const OPTIONAL_KEYS: readonly string[] = ['max_hourly_cost', 'auto_terminate_after_hours', 'max_latency_ms'];

/**
 * Other readers of the file know only these providers and refuse a whole file that names another. What is not among them is written as
 * a `custom` provider whose endpoint names it: `blueprint-runner:cloudflare?account_id=...`. Nothing can be sent to such an endpoint, and a
 * tool that rewrites the file keeps it.
 */
const SHARED_TYPES: readonly FaasType[] = ['aws-lambda', 'gcp-functions', 'azure-functions', 'custom'];
const STAND_IN = 'blueprint-runner:';

export interface ProviderField {
  /** Variables that say it when the file does not. */
  readonly env: readonly string[];
  readonly fallback: string | undefined;
}

/** The fields of each provider as the file spells them. */
export const PROVIDER_FIELDS: Readonly<Record<FaasType, Readonly<Record<string, ProviderField>>>> = {
  'aws-lambda': { region: { env: ['AWS_REGION', 'AWS_DEFAULT_REGION'], fallback: 'us-east-1' } },
  'gcp-functions': {
    project_id: { env: ['GCP_PROJECT_ID', 'GOOGLE_CLOUD_PROJECT'], fallback: '' },
    region: { env: ['GCP_REGION', 'GCP_DEFAULT_REGION'], fallback: 'us-central1' },
  },
  'azure-functions': {
    subscription_id: { env: ['AZURE_SUBSCRIPTION_ID'], fallback: '' },
    region: { env: ['AZURE_REGION', 'AZURE_DEFAULT_REGION'], fallback: 'eastus' },
  },
  digitalocean: { region: { env: ['DO_REGION'], fallback: 'nyc1' } },
  cloudflare: { account_id: { env: ['CLOUDFLARE_ACCOUNT_ID'], fallback: '' } },
  kubernetes: {
    namespace: { env: [], fallback: 'default' },
    context: { env: [], fallback: '' },
  },
  custom: { endpoint: { env: ['BPR_FAAS_ENDPOINT'], fallback: undefined } },
};

/** Whose limits hold, and whose prices. */
export const TARGET_OF: Readonly<Record<FaasType, Target>> = {
  'aws-lambda': 'aws',
  'gcp-functions': 'gcp',
  'azure-functions': 'azure',
  digitalocean: 'digitalocean',
  cloudflare: 'cloudflare',
  kubernetes: 'kubernetes',
  custom: 'custom',
};

/** A provider as it lies in the file. */
export function writeProvider(provider: FaasProvider): SettingsDocument {
  const { type, ...fields } = providerFields(provider);
  if (SHARED_TYPES.includes(type)) return { type, ...fields };
  const said = Object.entries(fields).filter(([, value]) => value !== '');
  return { type: 'custom', endpoint: `${STAND_IN}${type}${said.length === 0 ? '' : `?${new URLSearchParams(said).toString()}`}` };
}

/** The provider that a `custom` one stands in for; any other is itself. */
export function readStandIn(written: SettingsDocument): SettingsDocument {
  const { type, endpoint } = written;
  if (type !== 'custom' || typeof endpoint !== 'string' || !endpoint.startsWith(STAND_IN)) return written;
  const [name = '', query = ''] = endpoint.slice(STAND_IN.length).split('?');
  return { ...Object.fromEntries(new URLSearchParams(query)), type: name };
}

/** With the spelling of the file. */
export function providerFields(provider: FaasProvider): { readonly type: FaasType } & Readonly<Record<string, string>> {
  switch (provider.type) {
    case 'gcp-functions':
      return { type: provider.type, project_id: provider.projectId, region: provider.region };
    case 'azure-functions':
      return { type: provider.type, subscription_id: provider.subscriptionId, region: provider.region };
    case 'cloudflare':
      return { type: provider.type, account_id: provider.accountId };
    case 'aws-lambda':
    case 'digitalocean':
    case 'kubernetes':
    case 'custom':
      return { ...provider };
  }
}

/** From fields as the file spells them, all of them there. */
export function providerOf(type: FaasType, field: (name: string) => string): FaasProvider {
  switch (type) {
    case 'aws-lambda':
    case 'digitalocean':
      return { type, region: field('region') };
    case 'gcp-functions':
      return { type, projectId: field('project_id'), region: field('region') };
    case 'azure-functions':
      return { type, subscriptionId: field('subscription_id'), region: field('region') };
    case 'cloudflare':
      return { type, accountId: field('account_id') };
    case 'kubernetes':
      return { type, namespace: field('namespace'), context: field('context') };
    case 'custom':
      return { type, endpoint: field('endpoint') };
  }
}
