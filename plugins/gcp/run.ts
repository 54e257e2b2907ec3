/**
 * The service of Cloud Run behind a function: its revisions, which of them calls go to, and who may call.
 *
 * https://docs.cloud.google.com/run/docs/reference/rest/v2/projects.locations.services
 */

import { count, text } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionVersionInfo } from '../../src/plugin.ts';
import { asFields, listOf } from './client.ts';
import type { Fields, GcpClient } from './client.ts';
import { PACKAGE_VARIABLE, megabytesOf, withoutOwn } from './functions.ts';

const INVOKER = 'roles/run.invoker';
export const EVERYBODY = 'allUsers';
const LATEST = 'TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST';
const REVISION = 'TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION';

export interface Revision {
  readonly name: string;
  readonly sha256: string | undefined;
  readonly createdAt: string | undefined;
  /** Calls can go to it. */
  readonly isReady: boolean;
  /** What the revision tells of it, in place of what the function tells of the newest one. */
  readonly config: Pick<FunctionConfig, 'environment' | 'memoryMb' | 'timeoutMs'>;
}

export class RunServices {
  readonly #client: GcpClient;
  readonly #parent: string;

  /** `projects/p/locations/l`. */
  constructor(client: GcpClient, parent: string) {
    this.#client = client;
    this.#parent = parent;
  }

  /** The newest first. */
  async revisions(name: string, signal: AbortSignal | undefined): Promise<readonly Revision[]> {
    const revisions: Revision[] = [];
    const request = {
      method: 'GET',
      path: `${this.#path(name)}/revisions?pageSize=100`,
      what: `list the versions of ${name}`,
      signal,
    } as const;
    for await (const fields of this.#client.items('run', request, 'revisions')) revisions.push(revisionOf(fields));
    return revisions.toSorted((a, b) => (`${b.createdAt} ${b.name}` < `${a.createdAt} ${a.name}` ? -1 : 1));
  }

  /** The revision that gets most of the calls. */
  async serving(name: string, signal: AbortSignal | undefined): Promise<string | undefined> {
    const service = await this.#client.find('run', { method: 'GET', path: this.#path(name), what: `read the service ${name}`, signal });
    if (!service) return undefined;
    const [target] = listOf(service['trafficStatuses']).toSorted((a, b) => (count(b['percent']) ?? 0) - (count(a['percent']) ?? 0));
    const revision = target?.['type'] === REVISION ? target['revision'] : service['latestReadyRevision'];
    return text(revision)?.split('/').at(-1);
  }

  async versions(name: string, signal: AbortSignal | undefined): Promise<readonly FunctionVersionInfo[]> {
    const [serving, revisions] = await Promise.all([this.serving(name, signal), this.revisions(name, signal)]);
    return revisions
      .filter(({ isReady }) => isReady)
      .map(({ name: version, sha256, createdAt }) => ({
        version,
        ...(sha256 !== undefined && { sha256 }),
        ...(createdAt !== undefined && { createdAt }),
        current: version === serving,
      }));
  }

  /** All calls to one revision, or to whichever is the newest. Resolves when they go there. */
  async route(name: string, revision: string | undefined, signal: AbortSignal | undefined): Promise<void> {
    const what = `send the calls of ${name} to ${revision ?? 'the newest version'}`;
    const target = revision === undefined ? { type: LATEST, percent: 100 } : { type: REVISION, revision, percent: 100 };
    const path = `${this.#path(name)}?updateMask=traffic`;
    const json = { name: `${this.#parent}/services/${name}`, traffic: [target] };
    await this.#client.finish('run', await this.#client.request('run', { method: 'PATCH', path, json, what, signal }), { what, signal });
  }

  /** Who may call the function. */
  async invokers(name: string, signal: AbortSignal | undefined): Promise<readonly string[]> {
    return membersIn(await this.#policy(name, signal));
  }

  async setInvokers(name: string, change: InvokerChange, signal: AbortSignal | undefined): Promise<void> {
    const { etag, version, bindings } = await this.#policy(name, signal);
    const others = listOf(bindings).filter((binding) => binding['role'] !== INVOKER || binding['condition'] !== undefined);
    const members = [...new Set([...membersIn({ bindings }), ...change.add])].filter((member) => !change.remove.includes(member));
    const policy = {
      ...(etag !== undefined && { etag }),
      ...(version !== undefined && { version }),
      bindings: [...others, ...(members.length > 0 ? [{ role: INVOKER, members }] : [])],
    };
    const what = `say who may call ${name}`;
    await this.#client.request('run', { method: 'POST', path: `${this.#path(name)}:setIamPolicy`, json: { policy }, what, signal });
  }

  async #policy(name: string, signal: AbortSignal | undefined): Promise<Fields> {
    const path = `${this.#path(name)}:getIamPolicy?options.requestedPolicyVersion=3`;
    return this.#client.request('run', { method: 'GET', path, what: `read who may call ${name}`, signal });
  }

  #path(name: string): string {
    return `/v2/${this.#parent}/services/${name}`;
  }
}

export interface InvokerChange {
  readonly add: readonly string[];
  readonly remove: readonly string[];
}

function membersIn({ bindings }: Fields): readonly string[] {
  return listOf(bindings)
    .filter(({ role, condition }) => role === INVOKER && condition === undefined)
    .flatMap(({ members }) => (Array.isArray(members) ? members.map(String) : []));
}

function revisionOf(fields: Fields): Revision {
  const [container = {}] = listOf(fields['containers']);
  const variables = listOf(container['env']).filter(({ value }) => typeof value === 'string');
  const environment = Object.fromEntries(variables.map(({ name, value }) => [String(name), String(value)]));
  const ready = listOf(fields['conditions']).find(({ type }) => type === 'Ready');
  const memoryMb = megabytesOf(asFields(asFields(container['resources'])['limits'])['memory']);
  const seconds = /^([\d.]+)s$/.exec(text(fields['timeout']) ?? '')?.[1];
  return {
    name: String(fields['name']).split('/').at(-1) ?? '',
    sha256: environment[PACKAGE_VARIABLE],
    createdAt: text(fields['createTime']),
    isReady: ready === undefined || ready['state'] === 'CONDITION_SUCCEEDED',
    config: {
      environment: withoutOwn(environment),
      ...(memoryMb !== undefined && { memoryMb }),
      ...(seconds !== undefined && { timeoutMs: Number(seconds) * 1_000 }),
    },
  };
}
