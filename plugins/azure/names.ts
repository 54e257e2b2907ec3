/** What things are called, and the paths of the Resource Manager. */

import { createHash } from 'node:crypto';
import { groupOf, subscriptionOf } from './options.ts';
import type { AzureOptions } from './options.ts';

export const MANAGED_BY = 'managed-by';
export const OWNER = 'blueprint-runner';
export const CONNECTION_SETTING = 'DEPLOYMENT_STORAGE_CONNECTION_STRING';

export const TAGS = {
  sha256: 'blueprint-sha256',
  /** The deployment that put the package there. */
  deployment: 'blueprint-deployment',
  /** Digest of the schedules that the platform was told to read again. */
  schedules: 'blueprint-schedules',
  description: 'blueprint-description',
} as const;

const PLAN_SLUG_MAX = 24;
const CONTAINER_SLUG_MAX = 40;

export interface Names {
  readonly subscription: string;
  readonly group: string;
  readonly account: string;
  /** Path of the group. */
  readonly groupPath: string;
  readonly accountPath: string;
  readonly sitesPath: string;
  site(name: string): string;
  planOf(name: string): string;
  plan(name: string): string;
  container(name: string): string;
}

/** Throws `CONFIG_INVALID`. */
export function namesOf(options: AzureOptions): Names {
  const subscription = subscriptionOf(options);
  const group = groupOf(options);
  // Names of accounts are unique in the world.
  const account = options.storageAccount ?? `bp${digest(`${subscription}/${group}`, 22)}`;
  const groupPath = `/subscriptions/${subscription}/resourceGroups/${encodeURIComponent(group)}`;
  const web = `${groupPath}/providers/Microsoft.Web`;
  const planOf = (name: string): string => `bp-${slug(name, PLAN_SLUG_MAX)}-${digest(name, 8)}`;
  return {
    subscription,
    group,
    account,
    groupPath,
    accountPath: `${groupPath}/providers/Microsoft.Storage/storageAccounts/${account}`,
    sitesPath: `${web}/sites`,
    site: (name) => `${web}/sites/${encodeURIComponent(name)}`,
    planOf,
    plan: (name) => `${web}/serverfarms/${planOf(name)}`,
    container: (name) => `fn-${slug(name, CONTAINER_SLUG_MAX)}-${digest(name, 8)}`,
  };
}

export function digest(text: string, length: number): string {
  return createHash('sha256').update(text).digest('hex').slice(0, length);
}

/** Lower case, single dashes within. */
function slug(name: string, lengthMax: number): string {
  return name
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .slice(0, lengthMax)
    .replaceAll(/^-+|-+$/g, '');
}

/** The same text for what is equal. */
export function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? '';
  // Azure writes null for what is not set.
  const said = Object.entries(value).filter(([, each]) => each !== null && each !== undefined);
  const entries = said.toSorted(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, each]) => `${key}:${canonical(each)}`).join()}}`;
}
