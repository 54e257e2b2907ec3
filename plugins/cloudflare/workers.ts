/**
 * Workers as they are on the platform.
 *
 * What has to be known again stands with them: the tag `managed-by=blueprint-runner` and the user's tags on the Worker, the digest of
 * the package as tag of each version (`workers/tag`), the description as its message. Code, variables and limits are the version's;
 * tags, crons and the address are the Worker's, whatever version runs.
 */

import { RunnerError, count, text } from '../../src/plugin.ts';
import { asFields, failure, listOf, textsOf } from './client.ts';
import type { Client, Fields } from './client.ts';
import { formOf, moduleIn } from './upload.ts';
import type { Module } from './upload.ts';

export interface Worker {
  readonly name: string;
  readonly isOurs: boolean;
  /** The user's. */
  readonly tags: Readonly<Record<string, string>>;
  /** Cloudflare's own, which stay. */
  readonly ownTags: readonly string[];
  /** Where calls go; absent of foreign ones, which are not looked at further. */
  readonly version?: Version;
  /** All calls go to this version. */
  readonly isWhole: boolean;
  readonly placement: 'smart' | 'off';
  /** It has an address below `workers.dev`, and only for the version that is deployed. */
  readonly hasAddress: boolean;
  readonly crons: readonly string[];
  readonly updatedAt?: string;
}

export interface Version {
  readonly id: string;
  readonly number: number;
  readonly sha256?: string;
  readonly description?: string;
  readonly createdAt?: string;
  readonly bindings: readonly Fields[];
  readonly compatibilityDate?: string;
  readonly compatibilityFlags: readonly string[];
  readonly cpuMs?: number;
}

type VersionEntry = Pick<Version, 'id' | 'number' | 'sha256' | 'createdAt'>;
export type Listed = Pick<Worker, 'name' | 'isOurs' | 'tags' | 'updatedAt'>;

/** What the tags begin with that Cloudflare itself gives, such as `cf:service=name`. */
const OWN_TAGS = 'cf:';
const MANAGED_BY = 'managed-by=blueprint-runner';
/** A Worker that was just made is not seen at once everywhere in the API. */
const SEEN_TRIES_MAX = 10;
const SEEN_WAIT_MS = 1_000;

export class Workers {
  readonly client: Client;
  #subdomain: string | undefined;

  constructor(client: Client) {
    this.client = client;
  }

  async find(name: string, signal: AbortSignal | undefined): Promise<Worker | undefined> {
    const path = pathOf(name);
    const found = await this.client.find(`describe Worker ${name}`, { method: 'GET', path: `${path}/settings`, signal });
    if (found === undefined) return undefined;
    const settings = asFields(found);
    const { isOurs, tags } = tagsIn(settings);
    const ownTags = textsOf(settings['tags']).filter((tag) => tag.startsWith(OWN_TAGS));
    const placement = asFields(settings['placement'])['mode'] === 'smart' ? 'smart' : 'off';
    if (!isOurs) return { name, isOurs, tags, ownTags, placement, isWhole: true, hasAddress: false, crons: [] };
    const ask = (what: string, below: string): Promise<unknown> =>
      this.client.ask(`read the ${what} of Worker ${name}`, { method: 'GET', path: path + below, signal });
    const [deployments, schedules, address] = await Promise.all([
      this.deployments(name, signal),
      ask('crons', '/schedules'),
      ask('address', '/subdomain'),
    ]);
    const [current] = deployments;
    const { enabled, previews_enabled: hasPreviews } = asFields(address);
    return {
      name,
      isOurs,
      tags,
      ownTags,
      placement,
      isWhole: current?.isWhole ?? false,
      hasAddress: enabled === true && hasPreviews !== true,
      crons: listOf(asFields(schedules)['schedules'])
        .map(({ cron }) => String(cron))
        .toSorted(),
      ...(current && { version: await this.#version(name, current.versionId, signal), updatedAt: current.createdAt }),
    };
  }

  /** Ours; with `all` those of others, too. The API gives them in one page. */
  async *list(all: boolean, signal: AbortSignal | undefined): AsyncGenerator<Listed> {
    const query = all ? '' : `?tags=${encodeURIComponent(`${MANAGED_BY}:yes`)}`;
    const scripts = await this.client.ask('list Workers', { method: 'GET', path: `/workers/scripts${query}`, signal });
    for (const script of listOf(scripts)) {
      const listed = tagsIn(script);
      const updatedAt = text(script['modified_on']);
      if (all || listed.isOurs) yield { name: String(script['id']), ...listed, ...(updatedAt !== undefined && { updatedAt }) };
    }
  }

  /** Which version got the calls since when, the newest first. */
  async deployments(name: string, signal: AbortSignal | undefined): Promise<readonly Deployment[]> {
    const path = `${pathOf(name)}/deployments`;
    const answer = await this.client.ask(`read the deployments of Worker ${name}`, { method: 'GET', path, signal });
    return listOf(asFields(answer)['deployments']).flatMap((deployment) => {
      const shares = listOf(deployment['versions']).toSorted((a, b) => Number(b['percentage']) - Number(a['percentage']));
      const [largest] = shares;
      if (!largest) return [];
      return [{ versionId: String(largest['version_id']), isWhole: shares.length === 1, createdAt: String(deployment['created_on']) }];
    });
  }

  /** Those that can be deployed, the newest first. */
  async versions(name: string, signal: AbortSignal | undefined): Promise<readonly VersionEntry[]> {
    const path = `${pathOf(name)}/versions?deployable=true`;
    const answer = await this.client.ask(`list the versions of Worker ${name}`, { method: 'GET', path, signal });
    return listOf(asFields(answer)['items'])
      .map(entryOf)
      .toSorted((a, b) => b.number - a.number);
  }

  async version(name: string, id: string, signal: AbortSignal | undefined): Promise<Version> {
    return this.#version(name, id, signal);
  }

  /** The module of a version, as it was uploaded. */
  async module(name: string, versionId: string, signal: AbortSignal | undefined): Promise<Module> {
    const path = `${pathOf(name)}/content/v2?version=${encodeURIComponent(versionId)}`;
    const response = await this.client.send({ method: 'GET', path, signal });
    if (response.status >= 300) throw failure(`read the code of Worker ${name}`, response);
    return moduleIn(response);
  }

  /** Of the account, below `workers.dev`. */
  async subdomain(signal: AbortSignal | undefined): Promise<string> {
    if (this.#subdomain !== undefined) return this.#subdomain;
    const answer = await this.client.find('read the subdomain of the account', { method: 'GET', path: '/workers/subdomain', signal });
    const subdomain = asFields(answer)['subdomain'];
    if (typeof subdomain !== 'string' || subdomain === '')
      throw new RunnerError('CONFIG_INVALID', 'the account has no subdomain of workers.dev: choose one in the dashboard, under Workers');
    this.#subdomain = subdomain;
    return subdomain;
  }

  /** Makes a Worker whose first version gets all calls. */
  async create(name: string, metadata: Fields, { module, signal }: Upload): Promise<void> {
    const form = await formOf(metadata, module);
    await this.client.ask(`create Worker ${name}`, { method: 'PUT', path: `${pathOf(name)}?bindings_inherit=strict`, form, signal });
  }

  /** A version that no calls go to; gives its id. */
  async upload(name: string, metadata: Fields, { module, signal }: Upload): Promise<string> {
    const form = await formOf(metadata, module);
    const path = `${pathOf(name)}/versions?bindings_inherit=strict`;
    const answer = asFields(await this.client.ask(`upload a version of Worker ${name}`, { method: 'POST', path, form, signal }));
    return String(answer['id']);
  }

  /** All calls go to this version from now on. */
  async deploy(name: string, versionId: string, signal: AbortSignal | undefined): Promise<void> {
    const json = { strategy: 'percentage', versions: [{ version_id: versionId, percentage: 100 }] };
    await this.client.ask(`deploy a version of Worker ${name}`, { method: 'POST', path: `${pathOf(name)}/deployments`, json, signal });
  }

  async tag(name: string, tags: readonly string[], signal: AbortSignal | undefined): Promise<void> {
    const json = { tags };
    await this.client.ask(`tag Worker ${name}`, { method: 'PATCH', path: `${pathOf(name)}/script-settings`, json, signal });
  }

  async schedule(name: string, crons: readonly string[], signal: AbortSignal | undefined): Promise<void> {
    await this.#patiently(name, () =>
      this.client.send({ method: 'PUT', path: `${pathOf(name)}/schedules`, json: crons.map((cron) => ({ cron })), signal }),
    );
  }

  /** Below `workers.dev`, for the deployed version and no other. */
  async publish(name: string, signal: AbortSignal | undefined): Promise<void> {
    const json = { enabled: true, previews_enabled: false };
    await this.#patiently(name, () => this.client.send({ method: 'POST', path: `${pathOf(name)}/subdomain`, json, signal }));
  }

  /** With its versions, crons and secrets. */
  async delete(name: string, signal: AbortSignal | undefined): Promise<void> {
    await this.client.find(`remove Worker ${name}`, { method: 'DELETE', path: pathOf(name), signal });
  }

  async #version(name: string, id: string, signal: AbortSignal | undefined): Promise<Version> {
    const path = `${pathOf(name)}/versions/${encodeURIComponent(id)}`;
    const fields = asFields(await this.client.ask(`read a version of Worker ${name}`, { method: 'GET', path, signal }));
    const resources = asFields(fields['resources']);
    const runtime = asFields(resources['script_runtime']);
    const description = text(asFields(fields['annotations'])['workers/message']);
    const compatibilityDate = text(runtime['compatibility_date']);
    const cpuMs = count(asFields(runtime['limits'])['cpu_ms']);
    return {
      ...entryOf(fields),
      bindings: listOf(resources['bindings']),
      compatibilityFlags: textsOf(runtime['compatibility_flags']),
      ...(description !== undefined && { description }),
      ...(compatibilityDate !== undefined && { compatibilityDate }),
      ...(cpuMs !== undefined && { cpuMs }),
    };
  }

  async #patiently(name: string, send: () => ReturnType<Client['send']>): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      const response = await send();
      if (response.status < 300) return;
      if (response.status !== 404 || tries === SEEN_TRIES_MAX) throw failure(`set up Worker ${name}`, response);
      await this.client.clock.sleep(SEEN_WAIT_MS);
    }
  }
}

interface Upload {
  readonly module: Module;
  readonly signal: AbortSignal | undefined;
}

interface Deployment {
  /** The one that most calls go to. */
  readonly versionId: string;
  readonly isWhole: boolean;
  readonly createdAt: string;
}

export function tagsOf(tags: Readonly<Record<string, string>>): readonly string[] {
  const pairs = Object.entries(tags).map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value)}`);
  return [MANAGED_BY, ...pairs.toSorted()];
}

function tagsIn({ tags }: Fields): Pick<Worker, 'isOurs' | 'tags'> {
  const all = textsOf(tags);
  if (!all.includes(MANAGED_BY)) return { isOurs: false, tags: {} };
  const pairs = all
    .filter((tag) => tag !== MANAGED_BY && !tag.startsWith(OWN_TAGS) && tag.includes('='))
    .map((tag) => tag.split('=', 2).map(decoded));
  return { isOurs: true, tags: Object.fromEntries(pairs) as Record<string, string> };
}

/** As it is when somebody else wrote it. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function entryOf(fields: Fields): VersionEntry {
  const sha256 = text(asFields(fields['annotations'])['workers/tag']);
  const createdAt = text(asFields(fields['metadata'])['created_on']);
  return {
    id: String(fields['id']),
    number: count(fields['number']) ?? 0,
    ...(sha256 !== undefined && { sha256 }),
    ...(createdAt !== undefined && { createdAt }),
  };
}

function pathOf(name: string): string {
  return `/workers/scripts/${encodeURIComponent(name)}`;
}
