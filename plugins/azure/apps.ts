/** What is there: apps and what belongs to them, read from the Resource Manager. */

import { RunnerError, fieldsOf, text } from '../../src/plugin.ts';
import type { FunctionVersionInfo } from '../../src/plugin.ts';
import { RESOURCES_VERSION, STORAGE_VERSION, asFields, failure, listOf, parsed } from './client.ts';
import type { AzureClient, Fields } from './client.ts';
import { MANAGED_BY, OWNER, TAGS } from './names.ts';
import type { Names } from './names.ts';
import { filled } from './options.ts';
import type { AzureOptions } from './options.ts';
import type { Settings } from './settings.ts';
import { siteOf, tagsOf } from './site.ts';
import type { Site } from './site.ts';
import { BlobStorage } from './storage.ts';

export interface Account {
  readonly isOurs: boolean;
  readonly isReady: boolean;
  /** Of the blobs, complete. */
  readonly blobs: string;
  readonly endpoints: Fields;
}

export interface Keys {
  readonly master: string;
  readonly call: string;
}

export interface Version {
  readonly number: number;
  readonly sha256: string;
  readonly createdAt: string | undefined;
}

const VERSIONS = 'versions/';

export function versionBlob(sha256: string): string {
  return `${VERSIONS}${sha256}.zip`;
}

export class Apps {
  readonly client: AzureClient;
  readonly names: Names;
  readonly options: AzureOptions;

  constructor(client: AzureClient, { names, options }: { readonly names: Names; readonly options: AzureOptions }) {
    this.client = client;
    this.names = names;
    this.options = options;
  }

  async find(name: string, signal?: AbortSignal): Promise<Site | undefined> {
    const fields = await this.client.find(`the app ${name}`, { path: this.names.site(name), signal });
    return fields && siteOf(fields);
  }

  async *list(signal?: AbortSignal): AsyncGenerator<Site> {
    for await (const fields of this.client.pages('apps', { path: this.names.sitesPath, signal })) yield siteOf(fields);
  }

  async settings(name: string, signal?: AbortSignal): Promise<Settings> {
    const path = `${this.names.site(name)}/config/appsettings/list`;
    const response = await this.client.arm({ method: 'POST', path, signal });
    const properties = asFields(parsed(`read the settings of ${name}`, response)['properties']) ?? {};
    return Object.fromEntries(Object.entries(properties).map(([key, value]) => [key, String(value)]));
  }

  async group(signal?: AbortSignal): Promise<{ readonly isOurs: boolean } | undefined> {
    const { group, groupPath } = this.names;
    const fields = await this.client.find(`the group ${group}`, { path: groupPath, version: RESOURCES_VERSION, signal });
    return fields && { isOurs: isOurs(fields) };
  }

  /** Ids of everything in the group, in lower case. */
  async resources(signal?: AbortSignal): Promise<readonly string[]> {
    const ids: string[] = [];
    const path = `${this.names.groupPath}/resources`;
    for await (const { id } of this.client.pages('resources', { path, version: RESOURCES_VERSION, signal }))
      ids.push(String(id).toLowerCase());
    return ids;
  }

  async plan(name: string, signal?: AbortSignal): Promise<{ readonly isOurs: boolean } | undefined> {
    const fields = await this.client.find(`the plan of ${name}`, { path: this.names.plan(name), signal });
    return fields && { isOurs: isOurs(fields) };
  }

  async account(signal?: AbortSignal): Promise<Account | undefined> {
    const { account, accountPath } = this.names;
    const fields = await this.client.find(`the storage account ${account}`, { path: accountPath, version: STORAGE_VERSION, signal });
    if (!fields) return undefined;
    const properties = asFields(fields['properties']) ?? {};
    const endpoints = asFields(properties['primaryEndpoints']) ?? {};
    return {
      isOurs: isOurs(fields),
      isReady: properties['provisioningState'] === 'Succeeded',
      blobs:
        filled(this.options.endpoints?.storage, 'account', account) ??
        text(endpoints['blob']) ??
        `https://${account}.blob.core.windows.net`,
      endpoints,
    };
  }

  async accountKey(signal?: AbortSignal): Promise<string> {
    const { account, accountPath } = this.names;
    const response = await this.client.arm({ method: 'POST', path: `${accountPath}/listKeys`, version: STORAGE_VERSION, signal });
    const value = listOf(parsed(`read the keys of the storage account ${account}`, response)['keys'])[0]?.['value'];
    if (typeof value === 'string') return value;
    throw new RunnerError('EXECUTOR_RESPONSE_INVALID', `Azure gives no key of the storage account ${account}`);
  }

  /** The account that is there, open. */
  async storage(
    signal?: AbortSignal,
  ): Promise<{ readonly blobs: BlobStorage; readonly account: Account; readonly key: string } | undefined> {
    const account = await this.account(signal);
    if (!account) return undefined;
    const key = await this.accountKey(signal);
    return { account, key, blobs: new BlobStorage(this.client, { name: this.names.account, key, url: account.blobs }) };
  }

  /** Newest first. */
  async versions(name: string, blobs: BlobStorage | undefined, signal?: AbortSignal): Promise<readonly Version[]> {
    const found = (await blobs?.list(this.names.container(name), VERSIONS, signal)) ?? [];
    return found
      .flatMap(({ name: blob, metadata, createdAt }) => {
        const sha256 = blob.slice(VERSIONS.length).replace(/\.zip$/, '');
        const number = Number(metadata['version']);
        return Number.isInteger(number) ? { number, sha256, createdAt } : [];
      })
      .toSorted((a, b) => b.number - a.number);
  }

  /** The keys of the host of an app: they come into being with its first start. Undefined: not yet. */
  async keys(name: string, signal?: AbortSignal): Promise<Keys | undefined> {
    const response = await this.client.arm({ method: 'POST', path: `${this.names.site(name)}/host/default/listkeys`, signal });
    if ([400, 404, 500, 503].includes(response.status)) return undefined;
    const { masterKey, functionKeys } = parsed(`read the keys of ${name}`, response);
    const call = Object.values(asFields(functionKeys) ?? {})[0];
    return typeof masterKey === 'string' && typeof call === 'string' ? { master: masterKey, call } : undefined;
  }

  /** Of calls, complete. */
  hostUrl(site: Site): string {
    return filled(this.options.endpoints?.functions, 'app', site.name) ?? `https://${site.host ?? `${site.name}.azurewebsites.net`}`;
  }

  /** Of deployments, complete. */
  scmUrl(site: Site): string {
    return filled(this.options.endpoints?.scm, 'app', site.name) ?? `https://${site.scm ?? `${site.name}.scm.azurewebsites.net`}`;
  }

  /** What the app runs, as far as its tags are to be believed: somebody else may have deployed since. */
  async sha256(site: Site, signal?: AbortSignal): Promise<string | undefined> {
    const { [TAGS.sha256]: sha256, [TAGS.deployment]: deployment } = site.tags;
    if (sha256 === undefined) return undefined;
    const headers = ['authorization', await this.client.bearer()];
    const response = await this.client.send(this.scmUrl(site), { method: 'GET', path: '/api/deployments/latest', headers, signal });
    // Azure forgets old deployments.
    if (response.status === 404) return sha256;
    if (response.status >= 300) throw failure(`read the deployment of ${site.name}`, response);
    const latest = fieldsOf(response.body)?.['id'];
    return typeof latest !== 'string' || latest === deployment ? sha256 : undefined;
  }
}

function isOurs(fields: Fields): boolean {
  return tagsOf(fields)[MANAGED_BY] === OWNER;
}

export function versionInfos(versions: readonly Version[], sha256: string | undefined): readonly FunctionVersionInfo[] {
  return versions.map((each) => ({
    version: String(each.number),
    sha256: each.sha256,
    ...(each.createdAt !== undefined && { createdAt: new Date(each.createdAt).toISOString() }),
    current: each.sha256 === sha256,
  }));
}
