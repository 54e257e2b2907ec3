/** An app of Flex Consumption as the Resource Manager tells of it, and as it should be. */

import { RunnerError, count, text } from '../../src/plugin.ts';
import type { FunctionConfig } from '../../src/plugin.ts';
import { asFields, listOf } from './client.ts';
import type { Fields } from './client.ts';
import { isOwnTag } from './limits.ts';
import type { AzurePlatform } from './limits.ts';
import { CONNECTION_SETTING, MANAGED_BY, OWNER, TAGS, canonical } from './names.ts';

export interface Site {
  readonly name: string;
  readonly id: string;
  readonly isOurs: boolean;
  readonly tags: Readonly<Record<string, string>>;
  readonly location: string;
  readonly state: string | undefined;
  readonly provisioning: string | undefined;
  readonly updatedAt: string | undefined;
  /** Where calls go; without the scheme. */
  readonly host: string | undefined;
  /** Where packages go. */
  readonly scm: string | undefined;
  readonly functionAppConfig: Fields | undefined;
  readonly serverFarmId: string | undefined;
}

export interface Runtime {
  readonly name: string;
  readonly version: string;
}

const DEFAULT_MEMORY_MB = 2_048;
const DEFAULT_INSTANCES_MAX = 100;
/** https://learn.microsoft.com/azure/azure-functions/functions-scale: Flex Consumption, smallest of the largest numbers of instances. */
const INSTANCES_MAX_MIN = 40;
const INSTANCES_MAX_MAX = 1_000;

export function siteOf(fields: Fields): Site {
  const properties = asFields(fields['properties']) ?? {};
  const tags = tagsOf(fields);
  const names = listOf(properties['hostNameSslStates']);
  const repository = names.find(({ hostType }) => hostType === 'Repository')?.['name'];
  return {
    name: String(fields['name']),
    id: String(fields['id']),
    isOurs: tags[MANAGED_BY] === OWNER,
    tags,
    location: String(fields['location']),
    state: text(properties['state']),
    provisioning: text(properties['provisioningState']),
    updatedAt: text(properties['lastModifiedTimeUtc']),
    host: text(properties['defaultHostName']),
    scm: text(repository),
    functionAppConfig: asFields(properties['functionAppConfig']),
    serverFarmId: text(properties['serverFarmId']),
  };
}

export function tagsOf(fields: Fields): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(asFields(fields['tags']) ?? {}).map(([name, value]) => [name, String(value)]));
}

/** What the app itself says of a configuration. */
export function siteConfigOf({ functionAppConfig = {}, tags }: Site): FunctionConfig {
  const scale = asFields(functionAppConfig['scaleAndConcurrency']) ?? {};
  const { name, version } = asFields(functionAppConfig['runtime']) ?? {};
  const memoryMb = count(scale['instanceMemoryMB']);
  const ready = listOf(scale['alwaysReady']).find((each) => each['name'] === 'http');
  const per = perInstanceOf(scale);
  const instances = count(scale['maximumInstanceCount']);
  const own = Object.fromEntries(Object.entries(tags).filter(([key]) => !isOwnTag(key)));
  const description = tags[TAGS.description];
  return {
    ...(description !== undefined && { description }),
    ...(typeof name === 'string' && { runtime: name === 'node' ? `nodejs${String(version)}` : name }),
    ...(memoryMb !== undefined && { memoryMb }),
    ...(per !== undefined && instances !== undefined && { concurrencyMax: per * instances }),
    ...(count(ready?.['instanceCount']) !== undefined && { instancesMin: Number(ready?.['instanceCount']) }),
    ...(Object.keys(own).length > 0 && { tags: own }),
  };
}

/** `nodejs24` and `custom` as Azure names them. Throws `RUNTIME_UNSUPPORTED`. */
export function runtimeOf(config: FunctionConfig, present: Site | undefined): Runtime {
  if (config.runtime === undefined) {
    const { name, version } = asFields(present?.functionAppConfig?.['runtime']) ?? {};
    if (typeof name === 'string') return { name, version: text(version) ?? '' };
  }
  const { runtime = 'nodejs24' } = config;
  const [, version] = /^nodejs(\d+)(?:\.x)?$/.exec(runtime) ?? [];
  if (version !== undefined) return { name: 'node', version };
  if (runtime === 'custom') return { name: 'custom', version: '1.0' };
  throw new RunnerError(
    'RUNTIME_UNSUPPORTED',
    `Azure is not deployed to with the runtime ${runtime}: nodejs20, nodejs22, nodejs24 and custom are`,
    {
      details: { runtime },
    },
  );
}

export interface SiteWish {
  readonly config: FunctionConfig;
  readonly present: Site | undefined;
  /** Complete address of the container for packages. */
  readonly container: string;
}

/** `functionAppConfig` as it should be; what the configuration leaves out stays. */
export function functionAppConfigFor({ config, present, container }: SiteWish): Fields {
  const was = present?.functionAppConfig ?? {};
  // Every field was checked with the limits.
  const platform = (config.platform ?? {}) as AzurePlatform;
  const scale = asFields(was['scaleAndConcurrency']) ?? {};
  const counts = countsFor(config, platform);
  const per = counts.perInstance ?? perInstanceOf(scale);
  const others = listOf(scale['alwaysReady']).filter(({ name }) => name !== 'http');
  const ready =
    config.instancesMin === undefined
      ? listOf(scale['alwaysReady'])
      : [...others, ...(config.instancesMin > 0 ? [{ name: 'http', instanceCount: config.instancesMin }] : [])];
  const strategy = platform.siteUpdateStrategy ?? asFields(was['siteUpdateStrategy'])?.['type'] ?? (present ? undefined : 'RollingUpdate');
  return {
    deployment: {
      storage: {
        type: 'blobContainer',
        value: container,
        authentication: { type: 'StorageAccountConnectionString', storageAccountConnectionStringName: CONNECTION_SETTING },
      },
    },
    runtime: { ...runtimeOf(config, present) },
    scaleAndConcurrency: {
      maximumInstanceCount: counts.instances ?? count(scale['maximumInstanceCount']) ?? DEFAULT_INSTANCES_MAX,
      instanceMemoryMB: config.memoryMb ?? count(scale['instanceMemoryMB']) ?? DEFAULT_MEMORY_MB,
      alwaysReady: ready,
      ...(per !== undefined && { triggers: { http: { perInstanceConcurrency: per } } }),
    },
    ...(strategy !== undefined && { siteUpdateStrategy: { type: strategy } }),
  };
}

/** Which fields of a configuration differ. */
export function differingParts(present: Site, wanted: Fields): string[] {
  const was = present.functionAppConfig ?? {};
  const before = asFields(was['scaleAndConcurrency']) ?? {};
  const after = asFields(wanted['scaleAndConcurrency']) ?? {};
  const pairs: readonly (readonly [string, unknown, unknown])[] = [
    ['storage', was['deployment'], wanted['deployment']],
    ['runtime', was['runtime'], wanted['runtime']],
    ['memoryMb', before['instanceMemoryMB'], after['instanceMemoryMB']],
    ['instancesMin', before['alwaysReady'] ?? [], after['alwaysReady']],
    ['concurrencyMax', [before['maximumInstanceCount'], perInstanceOf(before)], [after['maximumInstanceCount'], perInstanceOf(after)]],
    ['platform', was['siteUpdateStrategy'], wanted['siteUpdateStrategy']],
  ];
  return pairs.filter(([, a, b]) => canonical(a) !== canonical(b)).map(([name]) => name);
}

/** Tags as they should be; those that were not asked about stay. */
export function tagsFor(config: FunctionConfig, present: Site | undefined): Readonly<Record<string, string>> {
  const was = Object.entries(present?.tags ?? {});
  const kept = config.tags === undefined ? was : was.filter(([name]) => isOwnTag(name));
  return {
    ...Object.fromEntries(kept),
    ...config.tags,
    ...(config.description !== undefined && { [TAGS.description]: config.description }),
    [MANAGED_BY]: OWNER,
  };
}

/** What is asked for and cannot be had as asked. */
export function shortfalls(config: FunctionConfig, runtime: Runtime): readonly { readonly field: string; readonly message: string }[] {
  const { concurrencyMax, architecture, platform } = config;
  const found: { field: string; message: string }[] = [];
  // Every field was checked with the limits.
  const { perInstance = 1, instances = 0 } = countsFor(config, platform ?? {});
  if (concurrencyMax !== undefined && perInstance * instances !== concurrencyMax)
    found.push({
      field: 'concurrencyMax',
      message: `concurrencyMax becomes ${perInstance * instances}: ${instances} instances with ${perInstance} calls each`,
    });
  if (runtime.name === 'custom' && (config.schedules ?? []).length > 0)
    found.push({
      field: 'schedules',
      message: 'a custom handler has the timers that its package brings: for each schedule a folder of its name with function.json',
    });
  if (architecture === 'arm64')
    found.push({ field: 'architecture', message: 'Flex Consumption has x86_64 only: architecture is left out' });
  for (const field of ['ephemeralStorageMb', 'logRetentionDays', 'handler'] as const)
    if (config[field] !== undefined) found.push({ field, message: `${field} is left out: ${WHY[field]}` });
  return found;
}

const WHY = {
  ephemeralStorageMb: 'it comes with the memory on Azure',
  logRetentionDays: 'on Azure it is a setting of the workspace that Application Insights writes to',
  handler: 'Azure starts what main of package.json names',
} as const;

interface Counts {
  readonly perInstance?: number | undefined;
  readonly instances?: number | undefined;
}

/** One call at a time in an instance, unless more are allowed, so that the number of instances is that of calls. */
function countsFor({ concurrencyMax }: FunctionConfig, { perInstanceConcurrency, maximumInstanceCount }: AzurePlatform): Counts {
  if (concurrencyMax === undefined) return { perInstance: perInstanceConcurrency, instances: maximumInstanceCount };
  const perInstance = perInstanceConcurrency ?? Math.ceil(concurrencyMax / (maximumInstanceCount ?? INSTANCES_MAX_MAX));
  const instances = Math.min(INSTANCES_MAX_MAX, Math.max(INSTANCES_MAX_MIN, Math.floor(concurrencyMax / perInstance)));
  return { perInstance, instances: maximumInstanceCount ?? instances };
}

function perInstanceOf(scale: Fields): number | undefined {
  return count(asFields(asFields(scale['triggers'])?.['http'])?.['perInstanceConcurrency']);
}
