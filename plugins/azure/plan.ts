/** From what is there and what is wanted to the writes between them. */

import { RunnerError, Secret } from '../../src/plugin.ts';
import type { DeployOptions, FunctionConfig, FunctionPackage, Step, StepPlan } from '../../src/plugin.ts';
import { versionBlob } from './apps.ts';
import type { Account, Apps, Version } from './apps.ts';
import { RESOURCES_VERSION, STORAGE_VERSION } from './client.ts';
import { MANAGED_BY, OWNER, TAGS, canonical, digest } from './names.ts';
import { regionOf } from './options.ts';
import type { Publisher } from './publish.ts';
import { differing, scheduleText, schedulesTextOf, settingsFor } from './settings.ts';
import type { ScheduleText, Settings } from './settings.ts';
import { differingParts, functionAppConfigFor, runtimeOf, shortfalls, tagsFor } from './site.ts';
import type { Site } from './site.ts';
import { BlobStorage } from './storage.ts';

export interface Wish {
  readonly present: Site | undefined;
  readonly code?: FunctionPackage | undefined;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

/** Packages that can be gone back to. */
const VERSIONS_MAX = 5;
const OURS = { [MANAGED_BY]: OWNER };

export class Planner {
  readonly #apps: Apps;
  readonly #publisher: Publisher;

  constructor(apps: Apps, publisher: Publisher) {
    this.#apps = apps;
    this.#publisher = publisher;
  }

  async plan(name: string, wish: Wish): Promise<StepPlan> {
    const { code, config, options, present } = wish;
    const { signal, strict = false } = options;
    const schedules = config.schedules && scheduleText(config.schedules, strict);
    const missing = shortfalls(config, runtimeOf(config, present));
    if (strict && missing.length > 0) throw lacking(missing);
    const warnings = [...missing.map(({ message }) => message), ...(schedules?.warnings ?? [])];
    const account = await this.#apps.account(signal);
    const blobs = account && (await this.#open(account, signal));
    const settings = present && (await this.#apps.settings(name, signal));
    const text = schedules?.text ?? schedulesTextOf(settings ?? {});
    const steps = [
      ...(await this.#groundSteps(name, { account, blobs, signal })),
      ...(await this.#siteSteps(name, { wish, settings, schedules, account })),
      ...(code ? await this.#codeSteps(name, { code, present, text, blobs, signal }) : []),
    ];
    return { steps, warnings };
  }

  /** The package of a kept version. */
  async rollback(present: Site, target: Version, signal: AbortSignal | undefined): Promise<StepPlan> {
    const { name } = present;
    const text = schedulesTextOf(await this.#apps.settings(name, signal));
    const load = async (until: AbortSignal | undefined): Promise<Uint8Array> => {
      const storage = await this.#apps.storage(until);
      const zip = await storage?.blobs.get(this.#apps.names.container(name), versionBlob(target.sha256), until);
      if (zip) return zip;
      throw new RunnerError('NOT_FOUND', `the package of version ${target.number} of ${name} is no longer there`, { details: { name } });
    };
    return { steps: [this.#publishStep(present, { sha256: target.sha256, load, text })], warnings: [] };
  }

  /** What the function had for itself; with the last one also what all shared, unless others made it or use it. */
  async removal(name: string, present: Site | undefined, signal: AbortSignal | undefined): Promise<StepPlan> {
    const { client, names, options } = this.#apps;
    const steps: Step[] = [];
    const gone = (resource: string, id: string, run: Step['run']): void =>
      void steps.push({ change: { action: 'delete', resource, id }, run });
    const group = await this.#apps.group(signal);
    if (!group) return { steps, warnings: [] };
    if (present) {
      const query = 'deleteEmptyServerFarm=false';
      gone('function', name, (until) =>
        client.write(`remove the app ${name}`, { method: 'DELETE', path: names.site(name), query, signal: until }),
      );
    }
    if ((await this.#apps.plan(name, signal))?.isOurs)
      gone('plan', names.planOf(name), (until) =>
        client.write(`remove the plan of ${name}`, { method: 'DELETE', path: names.plan(name), signal: until }),
      );
    const account = await this.#apps.account(signal);
    const blobs = account && (await this.#open(account, signal));
    const container = names.container(name);
    if (await blobs?.hasContainer(container, signal))
      gone('container', container, (until) => blobs?.deleteContainer(container, until) ?? Promise.resolve());
    const mine = new Set([names.site(name), names.plan(name)].map((path) => path.toLowerCase()));
    const accountId = names.accountPath.toLowerCase();
    const isAlone = async (until: AbortSignal | undefined): Promise<boolean> =>
      (await this.#apps.resources(until)).every((id) => mine.has(id) || id === accountId);
    const isLast = options.storageAccount === undefined && (await isAlone(signal));
    if (isLast && account?.isOurs)
      gone('storage-account', names.account, async (until) => {
        // What came since the plan was made has its packages there.
        if (!(await isAlone(until))) return;
        const request = { method: 'DELETE', path: names.accountPath, version: STORAGE_VERSION, signal: until } as const;
        await client.write(`remove the storage account ${names.account}`, request);
      });
    if (isLast && group.isOurs && (account === undefined || account.isOurs))
      gone('resource-group', names.group, (until) => this.#removeGroup(until));
    return { steps, warnings: [] };
  }

  /** A group takes everything in it along: what came since the plan was made saves it. */
  async #removeGroup(signal: AbortSignal | undefined): Promise<void> {
    const { client, names } = this.#apps;
    if ((await this.#apps.resources(signal)).length > 0) return;
    const request = { method: 'DELETE', path: names.groupPath, version: RESOURCES_VERSION, signal } as const;
    await client.write(`remove the group ${names.group}`, request);
  }

  async #open(account: Account, signal: AbortSignal | undefined): Promise<BlobStorage> {
    const key = await this.#apps.accountKey(signal);
    return new BlobStorage(this.#apps.client, { name: this.#apps.names.account, key, url: account.blobs });
  }

  /** Group, storage and plan. */
  async #groundSteps(name: string, { account, blobs, signal }: Ground): Promise<Step[]> {
    const { client, names, options } = this.#apps;
    const location = regionOf(options);
    const steps: Step[] = [];
    const made = (resource: string, id: string, run: Step['run']): void =>
      void steps.push({ change: { action: 'create', resource, id }, run });
    const put =
      (what: string, path: string, { json, version }: { readonly json: unknown; readonly version?: string }): Step['run'] =>
      (until) =>
        client.write(`create ${what}`, { method: 'PUT', path, json, signal: until, ...(version !== undefined && { version }) });
    if (!(await this.#apps.group(signal)))
      made(
        'resource-group',
        names.group,
        put('the group', names.groupPath, { json: { location, tags: OURS }, version: RESOURCES_VERSION }),
      );
    if (account && !account.isOurs && options.storageAccount === undefined) throw foreign('storage account', names.account);
    if (!account?.isReady) {
      const properties = { minimumTlsVersion: 'TLS1_2', allowBlobPublicAccess: false, supportsHttpsTrafficOnly: true };
      const json = { location, kind: 'StorageV2', sku: { name: 'Standard_LRS' }, tags: OURS, properties };
      made('storage-account', names.account, put('the storage account', names.accountPath, { json, version: STORAGE_VERSION }));
    }
    const container = names.container(name);
    if (!(await blobs?.hasContainer(container, signal)))
      made('container', container, async (until) => (await this.#storage(until)).blobs.createContainer(container, until));
    const plan = await this.#apps.plan(name, signal);
    if (plan && !plan.isOurs) throw foreign('plan', names.planOf(name));
    if (!plan) {
      const json = {
        location,
        kind: 'functionapp',
        sku: { tier: 'FlexConsumption', name: 'FC1' },
        tags: OURS,
        properties: { reserved: true },
      };
      made('plan', names.planOf(name), put(`the plan of ${name}`, names.plan(name), { json }));
    }
    return steps;
  }

  /** The app itself and its settings. */
  async #siteSteps(name: string, { wish, settings, schedules, account }: SiteWork): Promise<Step[]> {
    const { present, config, code, options } = wish;
    if (!present) {
      if (!code) return [];
      const run: Step['run'] = async (signal) => {
        const wanted = await this.#wanted(name, { wish, settings, schedules, account: undefined, signal });
        await this.#putSite(name, wanted, { ...wish, isNew: true, signal });
      };
      return [{ change: { action: 'create', resource: 'function', id: name }, run }];
    }
    if (!account) return [];
    const wanted = await this.#wanted(name, { wish, settings, schedules, account, signal: options.signal });
    const parts = differingParts(present, wanted.functionAppConfig);
    const tags = tagsFor(config, present);
    if (config.description !== undefined && config.description !== present.tags[TAGS.description]) parts.push('description');
    else if (canonical(tags) !== canonical(present.tags)) parts.push('tags');
    const changed = differing(settings ?? {}, wanted.settings);
    const mark = digest(schedulesTextOf(wanted.settings), 16);
    const isDeployed = present.tags[TAGS.sha256] !== undefined;
    // The settings were written, and the platform was not told to read them.
    const isUnread = isDeployed && present.tags[TAGS.schedules] !== mark && !changed.includes('schedules');
    const fields = [...new Set([...parts, ...changed, ...(isUnread ? ['schedules'] : [])])];
    if (fields.length === 0) return [];
    const run: Step['run'] = async (signal) => {
      if (parts.length > 0) await this.#putSite(name, wanted, { ...wish, isNew: false, signal });
      if (changed.length > 0) await this.#putSettings(name, wanted.settings, signal);
      if (!isDeployed) return;
      if (fields.includes('schedules')) await this.#publisher.sync(present, signal);
      await this.#publisher.started(present, signal);
      if (fields.includes('schedules')) await this.#publisher.tag(present, { [TAGS.schedules]: mark }, signal);
    };
    const resource = fields.length === 1 && fields[0] === 'schedules' ? 'schedule' : 'configuration';
    return [{ change: { action: 'update', resource, id: name, fields }, run }];
  }

  async #wanted(name: string, { wish, settings, schedules, account, signal }: Wanting): Promise<Wanted> {
    const { config, present } = wish;
    const { options, names, client } = this.#apps;
    const there = account ?? (await this.#apps.account(signal));
    if (!there) throw new RunnerError('DEPLOY_FAILED', `the storage account ${names.account} is not there`);
    const key = await this.#apps.accountKey(signal);
    const { insightsConnection } = options;
    const insights = insightsConnection === undefined ? undefined : await new Secret(insightsConnection, { clock: client.clock }).read();
    const container = `${there.blobs.replace(/\/+$/, '')}/${names.container(name)}`;
    return {
      functionAppConfig: functionAppConfigFor({ config, present, container }),
      settings: settingsFor({
        config,
        present: settings,
        connection: connectionOf(names.account, key, there),
        insights,
        isNode: runtimeOf(config, present).name === 'node',
        schedules,
      }),
    };
  }

  async #putSite(name: string, { functionAppConfig, settings }: Wanted, { config, present, isNew, signal }: SitePut): Promise<void> {
    const { client, names, options } = this.#apps;
    const appSettings = Object.entries(settings).map(([each, value]) => ({ name: each, value }));
    const json = {
      location: present?.location ?? regionOf(options),
      kind: 'functionapp,linux',
      tags: tagsFor(config, present),
      properties: {
        serverFarmId: names.plan(name),
        httpsOnly: true,
        functionAppConfig,
        // The name need not be unique in the world, only in the group: Azure adds to the name of the host.
        ...(isNew && { autoGeneratedDomainNameLabelScope: 'ResourceGroupReuse', siteConfig: { appSettings } }),
      },
    };
    await client.write(`${isNew ? 'create' : 'change'} the app ${name}`, { method: 'PUT', path: names.site(name), json, signal });
  }

  async #putSettings(name: string, settings: Settings, signal: AbortSignal | undefined): Promise<void> {
    const { client, names } = this.#apps;
    const path = `${names.site(name)}/config/appsettings`;
    await client.write(`write the settings of ${name}`, { method: 'PUT', path, json: { properties: settings }, signal });
  }

  /** The package is kept before it is published: what runs can always be gone back to. */
  async #codeSteps(name: string, { code, present, text, blobs, signal }: CodeWork): Promise<Step[]> {
    const { names } = this.#apps;
    const { sha256, zip } = code;
    const container = names.container(name);
    const kept = await this.#apps.versions(name, blobs, signal);
    const steps: Step[] = [];
    if (!kept.some((each) => each.sha256 === sha256)) {
      const version = String((kept[0]?.number ?? 0) + 1);
      const blob = { container, name: versionBlob(sha256), body: zip, metadata: { version } };
      steps.push({
        change: { action: 'create', resource: 'version', id: version },
        run: async (until) => (await this.#storage(until)).blobs.put(blob, until),
      });
    }
    if (!present || (await this.#apps.sha256(present, signal)) !== sha256)
      steps.push(this.#publishStep(present, { name, sha256, load: async () => zip, text }));
    for (const { sha256: old, number } of kept.filter((each) => each.sha256 !== sha256).slice(VERSIONS_MAX - 1))
      steps.push({
        change: { action: 'delete', resource: 'version', id: String(number) },
        run: async (until) => (await this.#storage(until)).blobs.delete(container, versionBlob(old), until),
      });
    return steps;
  }

  /** Tags come last: without them it is done again. */
  #publishStep(present: Site | undefined, { name = present?.name ?? '', sha256, load, text }: Publishing): Step {
    const run: Step['run'] = async (signal) => {
      const site = await this.#apps.find(name, signal);
      if (!site) throw new RunnerError('DEPLOY_FAILED', `the app ${name} is not there`);
      const deployment = await this.#publisher.publish(site, await load(signal), signal);
      await this.#publisher.sync(site, signal);
      await this.#publisher.started(site, signal);
      await this.#publisher.tag(site, { [TAGS.sha256]: sha256, [TAGS.deployment]: deployment, [TAGS.schedules]: digest(text, 16) }, signal);
    };
    return { change: { action: present ? 'update' : 'create', resource: 'code', id: name, ...(present && { fields: ['code'] }) }, run };
  }

  async #storage(signal: AbortSignal | undefined): Promise<{ readonly blobs: BlobStorage }> {
    const storage = await this.#apps.storage(signal);
    if (storage) return storage;
    throw new RunnerError('DEPLOY_FAILED', `the storage account ${this.#apps.names.account} is not there`);
  }
}

interface Ground {
  readonly account: Account | undefined;
  readonly blobs: BlobStorage | undefined;
  readonly signal: AbortSignal | undefined;
}

interface SiteWork {
  readonly wish: Wish;
  readonly settings: Settings | undefined;
  readonly schedules: ScheduleText | undefined;
  readonly account: Account | undefined;
}

interface Wanting extends SiteWork {
  readonly signal: AbortSignal | undefined;
}

interface Wanted {
  readonly functionAppConfig: Readonly<Record<string, unknown>>;
  readonly settings: Settings;
}

interface SitePut extends Wish {
  readonly isNew: boolean;
  readonly signal: AbortSignal | undefined;
}

interface CodeWork {
  readonly code: FunctionPackage;
  readonly present: Site | undefined;
  readonly text: string;
  readonly blobs: BlobStorage | undefined;
  readonly signal: AbortSignal | undefined;
}

interface Publishing {
  readonly name?: string;
  readonly sha256: string;
  readonly load: (signal: AbortSignal | undefined) => Promise<Uint8Array>;
  /** Of the schedules. */
  readonly text: string;
}

function connectionOf(account: string, key: string, { endpoints, blobs }: Account): string {
  const all = { Blob: blobs, Queue: endpoints['queue'], Table: endpoints['table'], File: endpoints['file'] };
  const addresses = Object.entries(all).flatMap(([kind, url]) => (typeof url === 'string' ? `${kind}Endpoint=${url}` : []));
  return ['DefaultEndpointsProtocol=https', `AccountName=${account}`, `AccountKey=${key}`, ...addresses].join(';');
}

function lacking(missing: ReturnType<typeof shortfalls>): RunnerError {
  const violations = missing.map(({ field, message }) => ({ limit: field, value: field, allowed: 'as Azure has it', message }));
  const message = `Azure cannot do as asked: ${missing.map((each) => each.message).join('; ')}`;
  return new RunnerError('LIMIT_EXCEEDED', message, { details: { violations } });
}

export function foreign(kind: string, id: string): RunnerError {
  return new RunnerError('RESOURCE_FOREIGN', `somebody else made the ${kind} ${id}: it is left as it is`, { details: { kind, id } });
}
