/** Puts functions on Azure Functions: each an app on a Flex Consumption plan of its own, its packages kept in a storage account. */

import { RunnerError, fieldsOf, carryOut, noVersion, refuseUnfit } from '../../src/plugin.ts';
import type {
  Clock,
  DeployOptions,
  DeployReport,
  FaasDeployer,
  FunctionConfig,
  FunctionInvocation,
  FunctionPackage,
  FunctionState,
  FunctionVersionInfo,
  InvocationType,
  LimitViolation,
  LogEntry,
  LogQuery,
} from '../../src/plugin.ts';
import { Apps, versionInfos } from './apps.ts';
import type { Keys } from './apps.ts';
import { AzureClient, failure } from './client.ts';
import { violationsOf } from './limits.ts';
import { AzureLogs } from './logs.ts';
import { TAGS, namesOf } from './names.ts';
import { referenceOf } from './options.ts';
import type { AzureOptions } from './options.ts';
import { Planner, foreign } from './plan.ts';
import { Publisher } from './publish.ts';
import { configOf, timerNames } from './settings.ts';
import { siteConfigOf } from './site.ts';
import type { Site } from './site.ts';

/**
 * A deployer of functions on Azure, over its REST APIs alone.
 *
 * A function is an app with the name of the function, on its own plan: Flex Consumption allows one app on each. Group and storage account are
 * shared; they are made when they are missing, and removed with the last function when this tool made them and nothing else is in
 * the group. Azure keeps no versions: the last five packages are kept as blobs. Schedules are timers of the package (`packageFor('azure', ...)`),
 * told to it in a setting; a package with a custom handler brings its own timers.
 *
 * @example
 * const deployer = new AzureDeployer({ subscriptionId: '6f1c...', region: 'westeurope' }, { clock: systemClock });
 */
export class AzureDeployer implements FaasDeployer {
  readonly name = 'azure';
  readonly #options: AzureOptions;
  readonly #client: AzureClient;
  readonly #apps: Apps;
  readonly #publisher: Publisher;
  readonly #planner: Planner;
  readonly #logs: AzureLogs;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: AzureOptions, { clock }: { readonly clock: Clock }) {
    this.#options = options;
    this.#client = new AzureClient(options, clock);
    this.#apps = new Apps(this.#client, { names: namesOf(options), options });
    this.#publisher = new Publisher(this.#apps);
    this.#planner = new Planner(this.#apps, this.#publisher);
    this.#logs = new AzureLogs(this.#client, options);
  }

  violations(name: string, code: FunctionPackage, config: FunctionConfig): readonly LimitViolation[] {
    return violationsOf(name, code, config);
  }

  // oxlint-disable-next-line max-params -- the contract has four
  deploy(name: string, code: FunctionPackage, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { code, config, options }, () => this.#own(name, options.signal));
  }

  updateCode(name: string, code: FunctionPackage, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { code, config: {}, options }, () => this.#there(name, options.signal));
  }

  updateConfiguration(name: string, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { code: undefined, config, options }, () => this.#there(name, options.signal));
  }

  async describe(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<FunctionState | undefined> {
    notAborted(name, signal);
    const site = await this.#apps.find(name, signal);
    if (!site) return undefined;
    if (!site.isOurs) return this.#state(site);
    const { names } = this.#apps;
    const settings = await this.#apps.settings(name, signal);
    const sha256 = await this.#apps.sha256(site, signal);
    const storage = await this.#apps.storage(signal);
    const kept = versionInfos(await this.#apps.versions(name, storage?.blobs, signal), sha256);
    return this.#state(site, {
      config: { ...siteConfigOf(site), ...configOf(settings) },
      sha256,
      version: kept.find(({ current }) => current)?.version,
      resources: [
        { kind: 'plan', id: names.planOf(name) },
        { kind: 'container', id: `${names.account}/${names.container(name)}` },
        { kind: 'storage-account', id: names.account },
        { kind: 'resource-group', id: names.group },
        ...kept.map(({ version }) => ({ kind: 'version', id: version })),
        ...timerNames(settings).map((id) => ({ kind: 'schedule', id })),
      ],
    });
  }

  async *list({ all = false, signal }: { readonly all?: boolean; readonly signal?: AbortSignal } = {}): AsyncGenerator<FunctionState> {
    for await (const site of this.#apps.list(signal))
      if (all || site.isOurs)
        yield site.isOurs ? this.#state(site, { config: siteConfigOf(site), sha256: site.tags[TAGS.sha256] }) : this.#state(site);
  }

  async invoke(
    name: string,
    event: Uint8Array,
    options: { readonly type?: InvocationType; readonly version?: string; readonly signal?: AbortSignal } = {},
  ): Promise<FunctionInvocation> {
    const { type = 'sync', version, signal } = options;
    if (type === 'async')
      throw new RunnerError(
        'OPERATION_UNSUPPORTED',
        'a function of Azure that is called over HTTP answers its caller: there is no call without waiting',
      );
    const site = await this.#apps.find(name, signal);
    if (!site) throw notFound(name);
    if (version !== undefined && version !== (await this.describe(name, signal && { signal }))?.version)
      throw new RunnerError(
        'OPERATION_UNSUPPORTED',
        `only the current version of ${name} runs on Azure: roll back to version ${version} first`,
      );
    const keys = await this.#keys(name, signal);
    if (type === 'dry-run') return { body: new Uint8Array(), failed: false };
    const headers = ['content-type', 'application/json', 'x-functions-key', keys.call];
    const response = await this.#client.send(this.#apps.hostUrl(site), {
      method: 'POST',
      path: '/invoke',
      headers,
      body: event,
      signal,
      once: true,
    });
    const { status, body } = response;
    if (status === 429) throw failure(`invoke function ${name}`, response, 'PLATFORM_THROTTLED');
    // What the handler says is JSON; what the host says for itself is not.
    if (!fieldsOf(body) && [404, 502, 503, 504].includes(status))
      throw failure(
        `invoke function ${name}`,
        response,
        status === 404 ? 'FUNCTION_NOT_FOUND' : status === 504 ? 'EXECUTOR_TIMEOUT' : 'EXECUTOR_UNAVAILABLE',
      );
    const requestId = response.headers['x-ms-invocation-id'] ?? response.headers['request-id'];
    return { body, failed: status >= 400, ...(typeof requestId === 'string' && { requestId }) };
  }

  /** Runs the call of a schedule now. */
  async startSchedule(name: string, schedule: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<void> {
    const site = await this.#there(name, signal);
    const { master } = await this.#keys(name, signal);
    const path = `/admin/functions/${encodeURIComponent(schedule)}`;
    const request = { method: 'POST', path, headers: ['x-functions-key', master], json: { input: '' }, signal, once: true } as const;
    const response = await this.#client.send(this.#apps.hostUrl(site), request);
    if (response.status === 404)
      throw new RunnerError('NOT_FOUND', `function ${name} has no schedule ${schedule}`, { details: { name, schedule } });
    if (response.status >= 300) throw failure(`start the schedule ${schedule}`, response);
  }

  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    void this.#logs.appId;
    if (!(await this.#apps.find(name, query.signal))) throw notFound(name);
    yield* this.#logs.read(name, query);
  }

  async versions(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<readonly FunctionVersionInfo[]> {
    const site = await this.#there(name, signal);
    const storage = await this.#apps.storage(signal);
    return versionInfos(await this.#apps.versions(name, storage?.blobs, signal), await this.#apps.sha256(site, signal));
  }

  rollback(name: string, version?: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      const { signal } = options;
      const present = await this.#there(name, signal);
      const kept = await this.#apps.versions(name, (await this.#apps.storage(signal))?.blobs, signal);
      const sha256 = await this.#apps.sha256(present, signal);
      const current = kept.findIndex((each) => each.sha256 === sha256);
      const before = current < 0 ? undefined : kept[current + 1];
      const target = version === undefined ? before : kept.find(({ number }) => String(number) === version);
      if (!target) throw noVersion(name, versionInfos(kept, sha256), version);
      const plan = target.sha256 === sha256 ? { steps: [], warnings: [] } : await this.#planner.rollback(present, target, signal);
      return carryOut(this, { name, plan, options });
    });
  }

  remove(name: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      notAborted(name, options.signal);
      const present = await this.#own(name, options.signal);
      const plan = await this.#planner.removal(name, present, options.signal);
      const { changes, warnings } = await carryOut(this, { name, plan, options });
      return { changes, warnings };
    });
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  /** Compares what `find` finds with what is wanted, and carries out the difference. */
  #reconcile(name: string, { code, config, options }: Wanted, find: () => Promise<Site | undefined>): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      refuseUnfit(name, { platform: 'Azure', violations: violationsOf(name, code, config), signal: options.signal });
      const present = await find();
      return carryOut(this, { name, plan: await this.#planner.plan(name, { present, code, config, options }), options });
    });
  }

  async #own(name: string, signal: AbortSignal | undefined): Promise<Site | undefined> {
    const site = await this.#apps.find(name, signal);
    if (site && !site.isOurs) throw foreign('app', name);
    return site;
  }

  async #there(name: string, signal: AbortSignal | undefined): Promise<Site> {
    const site = await this.#own(name, signal);
    if (!site) throw notFound(name);
    return site;
  }

  async #keys(name: string, signal: AbortSignal | undefined): Promise<Keys> {
    const keys = await this.#apps.keys(name, signal);
    if (keys) return keys;
    throw new RunnerError('EXECUTOR_UNAVAILABLE', `the app ${name} does not run yet: it gives no keys`);
  }

  #state(site: Site, { config = {}, sha256, version, resources = [] }: Known = {}): FunctionState {
    const status = statusOf(site);
    return {
      name: site.name,
      id: site.id,
      status,
      ...(status === 'failed' && { reason: reasonOf(site) }),
      endpoint: this.#apps.hostUrl(site),
      ...(sha256 !== undefined && { sha256 }),
      ...(version !== undefined && { version }),
      ...(site.updatedAt !== undefined && { updatedAt: site.updatedAt }),
      config,
      executor: { use: 'azure', ...referenceOf(this.#options, site.name) },
      resources,
    };
  }
}

interface Wanted {
  readonly code: FunctionPackage | undefined;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

interface Known {
  readonly config?: FunctionConfig;
  readonly sha256?: string | undefined;
  readonly version?: string | undefined;
  readonly resources?: FunctionState['resources'];
}

function statusOf({ isOurs, state, provisioning, tags }: Site): FunctionState['status'] {
  if (!isOurs) return 'foreign';
  if (provisioning === 'InProgress') return 'busy';
  const isFailed = provisioning === 'Failed' || (state !== undefined && state !== 'Running') || tags[TAGS.sha256] === undefined;
  return isFailed ? 'failed' : 'active';
}

function reasonOf({ state, provisioning, tags }: Site): string {
  if (provisioning === 'Failed') return 'Azure could not make the app';
  return tags[TAGS.sha256] === undefined ? 'no package was deployed to the app' : `the app is ${String(state).toLowerCase()}`;
}

function notAborted(name: string, signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new RunnerError('ABORTED', `the work on ${name} was cancelled`, { cause: signal.reason });
}

function notFound(name: string): RunnerError {
  return new RunnerError('FUNCTION_NOT_FOUND', `Azure has no function ${name}`, { details: { name } });
}
