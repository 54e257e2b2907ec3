/** `tangle/cloud.json`: which cloud an operator uses by default, and where. Other tools read and write it too. */

import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import { configDirectory, isObject, readSettings, writeSettings } from './policy-file.ts';
import type { Environment, Place, SettingsDocument } from './policy-file.ts';
import { CLOUDS } from './policy-model.ts';

/** What can be configured: the clouds that other tools know, and those that only functions run on. */
export const CONFIGURABLE = [...CLOUDS, 'cloudflare', 'kubernetes', 'custom'] as const;
export type Configurable = (typeof CONFIGURABLE)[number];

export interface CloudSettings {
  readonly region?: string;
  readonly projectId?: string;
}

export interface CloudConfig {
  readonly path: string;
  readonly defaultProvider: string | undefined;
  readonly providers: ReadonlyMap<string, CloudSettings>;
}

/** The region when nobody says one, and the variable that does. */
const REGIONS: Readonly<Partial<Record<Configurable, { readonly env: string; readonly fallback: string }>>> = {
  aws: { env: 'AWS_DEFAULT_REGION', fallback: 'us-east-1' },
  gcp: { env: 'GCP_DEFAULT_REGION', fallback: 'us-central1' },
  azure: { env: 'AZURE_DEFAULT_REGION', fallback: 'eastus' },
  digitalocean: { env: 'DO_REGION', fallback: 'nyc3' },
};

export function cloudConfigPath(env: Environment = process.env, place: Place = {}): string {
  return join(configDirectory(env, place), 'tangle', 'cloud.json');
}

/** Without a file: nothing is configured. Throws `CONFIG_INVALID` for one that cannot be used. */
export function loadCloudConfig(path: string): CloudConfig {
  const document = readDocument(path);
  const { default_provider: defaultProvider, providers } = document;
  if (defaultProvider !== undefined && defaultProvider !== null && typeof defaultProvider !== 'string')
    throw unusable(path, 'default_provider is not a text');
  if (providers !== undefined && !isObject(providers)) throw unusable(path, 'providers is not an object');
  const entries = Object.entries(providers ?? {}).map(([name, settings]) => {
    if (!isObject(settings)) throw unusable(path, `providers.${name} is not an object`);
    const { region, project_id: projectId } = settings;
    return [name, { ...(typeof region === 'string' && { region }), ...(typeof projectId === 'string' && { projectId }) }] as const;
  });
  return { path, defaultProvider: defaultProvider ?? undefined, providers: new Map(entries) };
}

/** Configures one cloud, the first as the default; everything else in the file stays. */
export function configureCloud(
  path: string,
  provider: Configurable,
  { region, projectId, isDefault, env = process.env }: CloudSettings & { readonly isDefault?: boolean; readonly env?: Environment },
): CloudConfig {
  loadCloudConfig(path);
  const document = readDocument(path);
  const providers = isObject(document['providers']) ? document['providers'] : {};
  const before = isObject(providers[provider]) ? providers[provider] : {};
  const { env: variable = '', fallback } = REGIONS[provider] ?? {};
  const where = region ?? before['region'] ?? env[variable] ?? fallback;
  providers[provider] = {
    ...before,
    ...(where !== undefined && { region: where }),
    ...(projectId !== undefined && { project_id: projectId }),
  };
  if (isDefault === true || typeof document['default_provider'] !== 'string') document['default_provider'] = provider;
  writeSettings(path, { ...document, providers });
  return loadCloudConfig(path);
}

function readDocument(path: string): SettingsDocument {
  const read = readSettings(path);
  if ('problem' in read) throw unusable(path, read.problem);
  return 'document' in read ? read.document : {};
}

function unusable(path: string, problem: string): RunnerError {
  return new RunnerError('CONFIG_INVALID', `${path} cannot be used: ${problem}`);
}
