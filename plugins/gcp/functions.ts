/**
 * Functions of the Cloud Functions API v2 as states of deployers, and wishes as its fields.
 *
 * https://docs.cloud.google.com/functions/docs/reference/rest/v2/projects.locations.functions
 */

import { RunnerError, count, text } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionState } from '../../src/plugin.ts';
import { asFields, listOf } from './client.ts';
import type { Fields } from './client.ts';
import { EGRESS, INGRESS, platformOf } from './platform-options.ts';
import type { GcpPlatform } from './platform-options.ts';

const OWNER_LABEL = 'managed-by';
const OWNER = 'blueprint-runner';
/**
 * The package, in hex. A variable and not a label: revisions have the variables of their time, labels would be those of now, and the value
 * of a label ends at 63 characters.
 */
export const PACKAGE_VARIABLE = 'BLUEPRINT_PACKAGE_SHA256';
/** What every function gets, unless it is given otherwise. */
const DEFAULT_VARIABLES: Readonly<Record<string, string>> = {
  // Lines of the log say which call they belong to.
  LOG_EXECUTION_ID: 'true',
  BLUEPRINT_REQUEST_BYTES_MAX: String(32 * 1024 * 1024),
};

export interface GcpFunction {
  readonly name: string;
  /** `projects/p/locations/l/functions/n`. */
  readonly id: string;
  readonly status: 'ACTIVE' | 'FAILED' | 'DEPLOYING' | 'DELETING' | (string & {});
  readonly reason: string | undefined;
  readonly isOurs: boolean;
  readonly uri: string | undefined;
  /** Of the newest revision. */
  readonly sha256: string | undefined;
  readonly revision: string | undefined;
  /** Calls go to the newest revision. */
  readonly isLatest: boolean;
  readonly serviceAccount: string | undefined;
  readonly updatedAt: string | undefined;
  readonly config: FunctionConfig;
  /** By path in the mask of an update, each in one form. */
  readonly settings: Settings;
}

export type Settings = Readonly<Record<string, unknown>>;

export function functionOf(fields: Fields): GcpFunction {
  const { name: id, state, labels, updateTime, description } = fields;
  const build = asFields(fields['buildConfig']);
  const service = asFields(fields['serviceConfig']);
  const variables = asFields(service['environmentVariables']);
  const problems = listOf(fields['stateMessages']).map(({ message }) => String(message));
  const settings: Settings = {
    description: text(description) ?? '',
    labels: asFields(labels),
    'buildConfig.runtime': build['runtime'],
    'buildConfig.entryPoint': build['entryPoint'],
    'buildConfig.serviceAccount': mailOf(build['serviceAccount']),
    'serviceConfig.availableMemory': megabytesOf(service['availableMemory']),
    'serviceConfig.availableCpu': service['availableCpu'],
    'serviceConfig.timeoutSeconds': service['timeoutSeconds'],
    'serviceConfig.environmentVariables': variables,
    'serviceConfig.maxInstanceCount': service['maxInstanceCount'],
    'serviceConfig.minInstanceCount': service['minInstanceCount'] ?? 0,
    'serviceConfig.maxInstanceRequestConcurrency': service['maxInstanceRequestConcurrency'] ?? 1,
    'serviceConfig.serviceAccountEmail': service['serviceAccountEmail'],
    'serviceConfig.vpcConnector': service['vpcConnector'] ?? '',
    'serviceConfig.vpcConnectorEgressSettings': service['vpcConnectorEgressSettings'],
    'serviceConfig.ingressSettings': service['ingressSettings'] ?? INGRESS.all,
    'serviceConfig.secretEnvironmentVariables': secretsOf(listOf(service['secretEnvironmentVariables'])),
  };
  return {
    name: String(id).split('/').at(-1) ?? '',
    id: String(id),
    status: String(state),
    reason: problems.length > 0 ? problems.join('; ') : undefined,
    isOurs: asFields(labels)[OWNER_LABEL] === OWNER,
    uri: text(service['uri']) ?? text(fields['url']),
    sha256: text(variables[PACKAGE_VARIABLE]),
    revision: text(service['revision']),
    isLatest: service['allTrafficOnLatestRevision'] === true,
    serviceAccount: text(service['serviceAccountEmail']),
    updatedAt: text(updateTime),
    config: configOf(settings),
    settings,
  };
}

/** Of what is there, in the words of deployers. What follows from something else (CPUs) is left out. */
function configOf(settings: Settings): FunctionConfig {
  const { [OWNER_LABEL]: _, ...tags } = asFields(settings['labels']) as Readonly<Record<string, string>>;
  const memoryMb = count(settings['serviceConfig.availableMemory']);
  const seconds = count(settings['serviceConfig.timeoutSeconds']);
  const instancesMax = count(settings['serviceConfig.maxInstanceCount']);
  const instancesMin = count(settings['serviceConfig.minInstanceCount']);
  const perInstance = count(settings['serviceConfig.maxInstanceRequestConcurrency']) ?? 1;
  const runtime = text(settings['buildConfig.runtime']);
  const handler = text(settings['buildConfig.entryPoint']);
  const platform = platformIn(settings, perInstance);
  return {
    ...(settings['description'] !== '' && { description: String(settings['description']) }),
    ...(runtime !== undefined && { runtime }),
    ...(handler !== undefined && { handler }),
    ...(memoryMb !== undefined && { memoryMb }),
    ...(seconds !== undefined && { timeoutMs: seconds * 1_000 }),
    environment: withoutOwn(asFields(settings['serviceConfig.environmentVariables'])),
    ...(instancesMax !== undefined && { concurrencyMax: instancesMax * perInstance }),
    ...(instancesMin !== undefined && instancesMin > 0 && { instancesMin }),
    ...(Object.keys(tags).length > 0 && { tags }),
    ...(Object.keys(platform).length > 0 && { platform: { ...platform } }),
  };
}

function platformIn(settings: Settings, concurrency: number): GcpPlatform {
  const keyOf = <Key extends string>(names: Readonly<Record<Key, string>>, value: unknown): Key | undefined =>
    (Object.keys(names) as Key[]).find((key) => names[key] === value);
  const ingress = keyOf(INGRESS, settings['serviceConfig.ingressSettings']);
  const vpcEgress = keyOf(EGRESS, settings['serviceConfig.vpcConnectorEgressSettings']);
  const serviceAccount = text(settings['serviceConfig.serviceAccountEmail']);
  const vpcConnector = text(settings['serviceConfig.vpcConnector']);
  const secrets = listOf(settings['serviceConfig.secretEnvironmentVariables']);
  return {
    ...(serviceAccount !== undefined && { serviceAccount }),
    ...(concurrency > 1 && { concurrency }),
    ...(vpcConnector && { vpcConnector }),
    ...(vpcConnector && vpcEgress !== undefined && { vpcEgress }),
    ...(ingress !== undefined && ingress !== 'all' && { ingress }),
    ...(secrets.length > 0 && {
      secrets: Object.fromEntries(
        secrets.map(({ key, secret, version, projectId }) => [
          String(key),
          { secret: String(secret), version: String(version), project: String(projectId) },
        ]),
      ),
    }),
  };
}

/** What of the settings is asked for; the rest is left alone. */
export function wantedSettings(config: FunctionConfig, present: GcpFunction | undefined, sha256: string | undefined): Settings {
  const { description, runtime, handler, memoryMb, timeoutMs, environment, concurrencyMax, instancesMin, tags } = config;
  const platform = platformOf(config);
  const before = present?.settings ?? {};
  const perInstance = platform.concurrency ?? count(before['serviceConfig.maxInstanceRequestConcurrency']) ?? 1;
  const instancesMax = platform.maxInstances ?? (concurrencyMax === undefined ? undefined : Math.ceil(concurrencyMax / perInstance));
  const variables = environment ?? withoutOwn(asFields(before['serviceConfig.environmentVariables']));
  const packageNow = sha256 ?? present?.sha256;
  const wanted: Settings = {
    description,
    labels: tags || !present ? { ...tags, [OWNER_LABEL]: OWNER } : undefined,
    'buildConfig.runtime': runtime === undefined ? (present ? undefined : 'nodejs24') : runtimeOf(runtime),
    'buildConfig.entryPoint': handler ?? (present ? undefined : 'handler'),
    'buildConfig.serviceAccount': platform.buildServiceAccount,
    'serviceConfig.availableMemory': memoryMb,
    'serviceConfig.availableCpu': platform.cpu,
    'serviceConfig.timeoutSeconds': timeoutMs === undefined ? undefined : Math.ceil(timeoutMs / 1_000),
    'serviceConfig.environmentVariables': {
      ...DEFAULT_VARIABLES,
      ...variables,
      ...(packageNow !== undefined && { [PACKAGE_VARIABLE]: packageNow }),
    },
    'serviceConfig.maxInstanceCount': instancesMax,
    'serviceConfig.minInstanceCount': instancesMin,
    'serviceConfig.maxInstanceRequestConcurrency': platform.concurrency,
    'serviceConfig.serviceAccountEmail': platform.serviceAccount,
    'serviceConfig.vpcConnector': platform.vpcConnector,
    'serviceConfig.vpcConnectorEgressSettings': platform.vpcEgress && EGRESS[platform.vpcEgress],
    'serviceConfig.ingressSettings': platform.ingress && INGRESS[platform.ingress],
    'serviceConfig.secretEnvironmentVariables':
      platform.secrets &&
      secretsOf(
        Object.entries(platform.secrets).map(([key, { secret, version = 'latest', project }]) => ({
          key,
          secret,
          version,
          projectId: project,
        })),
      ),
  };
  return Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined));
}

/** Paths of what is asked for and is not so. */
export function differences(wanted: Settings, { settings }: GcpFunction): string[] {
  return Object.keys(wanted).filter((path) => canonical(projectless(path, wanted, settings)) !== canonical(settings[path]));
}

/** A secret without a project is one of the function's own, which the platform names by its own number. */
function projectless(path: string, wanted: Settings, settings: Settings): unknown {
  if (path !== 'serviceConfig.secretEnvironmentVariables') return wanted[path];
  const present = listOf(settings[path]);
  return listOf(wanted[path]).map((secret) => ({
    ...secret,
    projectId: secret['projectId'] ?? present.find(({ key }) => key === secret['key'])?.['projectId'],
  }));
}

/** The settings as the body of a request. */
export function bodyOf(settings: Settings, paths: readonly string[], projectId: string): Fields {
  const body: Record<string, unknown> = {};
  for (const path of paths) {
    const [top = '', field] = path.split('.');
    const value = onWire(path, settings[path], projectId);
    if (field === undefined) body[top] = value;
    else body[top] = { ...asFields(body[top]), [field]: value };
  }
  return body;
}

function onWire(path: string, value: unknown, projectId: string): unknown {
  if (path === 'serviceConfig.availableMemory') return `${String(value)}Mi`;
  if (path === 'buildConfig.serviceAccount') return `projects/${projectId}/serviceAccounts/${String(value)}`;
  if (path === 'serviceConfig.secretEnvironmentVariables')
    return listOf(value).map((secret) => ({ ...secret, projectId: secret['projectId'] ?? projectId }));
  return value;
}

const FIELD_NAMES: Readonly<Record<string, string>> = {
  labels: 'tags',
  'buildConfig.entryPoint': 'handler',
  'serviceConfig.availableMemory': 'memoryMb',
  'serviceConfig.timeoutSeconds': 'timeoutMs',
  'serviceConfig.environmentVariables': 'environment',
  'serviceConfig.maxInstanceCount': 'concurrencyMax',
  'serviceConfig.minInstanceCount': 'instancesMin',
};

/** What a report calls a setting. */
export function fieldName(path: string): string {
  return FIELD_NAMES[path] ?? path.split('.').at(-1) ?? path;
}

export function statusOf({ status, isOurs }: GcpFunction): FunctionState['status'] {
  if (!isOurs) return 'foreign';
  if (status === 'ACTIVE') return 'active';
  return status === 'DEPLOYING' || status === 'DELETING' || status === 'DETACHING' ? 'busy' : 'failed';
}

/** Throws `RUNTIME_UNSUPPORTED`. */
function runtimeOf(runtime: string): string {
  const [, version] = /^nodejs(\d+)(?:\.x)?$/.exec(runtime) ?? [];
  if (version !== undefined) return `nodejs${version}`;
  throw new RunnerError(
    'RUNTIME_UNSUPPORTED',
    `Cloud Run functions are built from source and take nodejs24 or nodejs22 here, not ${runtime}`,
    {
      details: { runtime },
    },
  );
}

export function withoutOwn(variables: Fields): Record<string, string> {
  const kept = Object.entries(variables).filter(([name, value]) => name !== PACKAGE_VARIABLE && DEFAULT_VARIABLES[name] !== value);
  // Values of variables are text.
  return Object.fromEntries(kept) as Record<string, string>;
}

/** `512Mi`, `512M`, `1Gi`, `0.5Gi`, as megabytes. */
export function megabytesOf(memory: unknown): number | undefined {
  const [, amount, unit = ''] = /^([\d.]+)([KMGT]?)i?B?$/i.exec(text(memory) ?? '') ?? [];
  if (amount === undefined) return undefined;
  const factor: Readonly<Record<string, number>> = { '': 1 / 1_048_576, K: 1 / 1_024, M: 1, G: 1_024, T: 1_048_576 };
  return Math.round(Number(amount) * (factor[unit.toUpperCase()] ?? 1));
}

function secretsOf(secrets: readonly Fields[]): readonly Fields[] {
  return secrets
    .map(({ key, secret, version, projectId }) => ({ key, secret, version, projectId }))
    .toSorted((a, b) => (String(a.key) < String(b.key) ? -1 : 1));
}

function mailOf(account: unknown): string | undefined {
  return text(account)?.split('/').at(-1);
}

/** The same text for what is equal. */
export function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? '';
  const entries = Object.entries(value)
    .filter(([, each]) => each !== undefined)
    .toSorted(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, each]) => `${key}:${canonical(each)}`).join()}}`;
}
