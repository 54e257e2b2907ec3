/** Puts functions on Cloudflare: Workers with versions, cron triggers and an address below `workers.dev`. */

import { RunnerError, Secret, noVersion, refuseUnfit } from '../../src/plugin.ts';
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
import { WorkerCalls, errorOfEdge } from './calls.ts';
import { Client } from './client.ts';
import { violationsOf } from './limits.ts';
import { Logs } from './logs.ts';
import { API_TOKEN, API_URL, WORKERS_URL, WORKER_TOKEN, addressOf, functionOptionsOf, referenceOf } from './options.ts';
import type { CloudflareOptions } from './options.ts';
import { Planner, environmentOf, variableOf } from './plan.ts';
import type { Known, Plan } from './plan.ts';
import { SCHEDULES_VARIABLE, cronsIn } from './schedules.ts';
import type { Listed, Worker } from './workers.ts';
import { Workers } from './workers.ts';

const CALL_MS_MAX = 15 * 60_000;
const RESPONSE_BYTES_MAX = 64 * 1024 * 1024;
/** How long a new address may take to be known. */
const ADDRESS_MS_MAX = 60_000;
const ADDRESS_POLL_MS = 1_000;
const MEMORY_MB = 128;

/**
 * A deployer of functions on Cloudflare Workers.
 *
 * A new version is uploaded beside the one that runs and gets all calls when it is complete; the edge follows within seconds, and calls
 * that run go on. `timeoutMs` limits CPU time: a Worker may wait for as long as its caller does. A Worker asks its callers for a token
 * (option `token`), which only `public: true` does without.
 *
 * @example
 * const deployer = new CloudflareDeployer({ accountId: '0123456789abcdef0123456789abcdef' }, { clock: systemClock });
 */
export class CloudflareDeployer implements FaasDeployer {
  readonly name = 'cloudflare';
  readonly #options: CloudflareOptions;
  readonly #clock: Clock;
  readonly #apiToken: Secret;
  readonly #client: Client;
  readonly #workers: Workers;
  readonly #planner: Planner;
  readonly #calls: WorkerCalls;
  readonly #logs: Logs;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: CloudflareOptions, { clock }: { readonly clock: Clock }) {
    const { accountId, apiUrl = API_URL, apiToken = API_TOKEN, token = WORKER_TOKEN, public: isPublic = false } = options;
    this.#options = options;
    this.#clock = clock;
    this.#apiToken = new Secret(apiToken, { clock });
    this.#client = new Client({ clock, accountId, apiUrl, apiToken });
    this.#workers = new Workers(this.#client);
    this.#planner = new Planner(this.#workers, { isPublished: this.#template.includes('{subdomain}') });
    this.#calls = new WorkerCalls({ clock, token: isPublic ? undefined : token });
    this.#logs = new Logs(this.#client);
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
    const worker = await this.#workers.find(name, signal);
    return worker && this.#state(worker, await this.#subdomain(signal));
  }

  async *list({ all = false, signal }: { readonly all?: boolean; readonly signal?: AbortSignal } = {}): AsyncGenerator<FunctionState> {
    const subdomain = await this.#subdomain(signal);
    for await (const listed of this.#workers.list(all, signal)) yield this.#state(listed, subdomain);
  }

  /** `sync` and `dry-run`: nobody runs a Worker whose caller does not wait. */
  async invoke(
    name: string,
    event: Uint8Array,
    options: { readonly type?: InvocationType; readonly version?: string; readonly signal?: AbortSignal } = {},
  ): Promise<FunctionInvocation> {
    const { type = 'sync', version, signal } = options;
    // A foreign one would get the token.
    const worker = await this.#there(name, signal);
    if (type === 'async')
      throw new RunnerError(
        'OPERATION_UNSUPPORTED',
        'Cloudflare runs a Worker only while its caller waits: invoke it with type sync, give it a schedule, or put a Queue of Cloudflare before it',
      );
    if (version !== undefined && version !== worker.version?.id)
      throw new RunnerError(
        'OPERATION_UNSUPPORTED',
        `version ${version} of ${name} gets no calls: only the deployed one has an address. Roll back to it to call it`,
      );
    const body = new Uint8Array();
    if (type === 'dry-run') return { body, failed: false };
    const startedAt = this.#clock.monotonic();
    const address = addressOf(this.#template, name, await this.#subdomain(signal));
    const response = await this.#calls.send({
      method: 'POST',
      address,
      path: '/',
      headers: ['content-type', 'application/json'],
      body: event,
      deadline: this.#clock.now() + CALL_MS_MAX,
      signal,
      responseBytesMax: RESPONSE_BYTES_MAX,
    });
    const ofEdge = errorOfEdge(response);
    if (ofEdge && ofEdge.code !== 'FUNCTION_FAILED') throw ofEdge;
    const requestId = response.headers['cf-ray'];
    return {
      body: response.body,
      failed: response.status >= 300,
      ...(typeof requestId === 'string' && { requestId }),
      ...(worker.version && { version: worker.version.id }),
      report: { durationMs: this.#clock.monotonic() - startedAt },
    };
  }

  /** Up to seven days back, as long as Workers Logs keeps lines; `follow` goes on with a live tail. */
  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    if (!(await this.#workers.find(name, query.signal))) throw notFound(name);
    yield* this.#logs.read(name, query);
  }

  async versions(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<readonly FunctionVersionInfo[]> {
    const { version: current } = await this.#there(name, signal);
    const versions = await this.#workers.versions(name, signal);
    return versions.map(({ id, sha256, createdAt }) => ({
      version: id,
      ...(sha256 !== undefined && { sha256 }),
      ...(createdAt !== undefined && { createdAt }),
      current: id === current?.id,
    }));
  }

  /** To a version by its id or its number. Without one: to the last one that got calls before the current one was made. */
  rollback(name: string, version?: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      const { signal } = options;
      const present = await this.#there(name, signal);
      const versions = await this.#workers.versions(name, signal);
      const ran =
        version === undefined ? new Set((await this.#workers.deployments(name, signal)).map(({ versionId }) => versionId)) : undefined;
      const target = ran
        ? versions.find(({ id, number }) => number < (present.version?.number ?? 0) && ran.has(id))
        : versions.find(({ id, number }) => id === version || String(number) === version);
      if (!target) {
        const there = versions.map(({ id }) => ({ version: id }));
        throw noVersion(name, there, version);
      }
      const isThere = target.id === present.version?.id && present.isWhole;
      const plan = isThere ? NOTHING : this.#planner.rollback(present, await this.#workers.version(name, target.id, signal));
      return this.#carryOut(name, plan, options);
    });
  }

  remove(name: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      const present = await this.#own(name, options.signal);
      const { changes, warnings } = await this.#carryOut(name, present ? this.#planner.removal(present) : NOTHING, options);
      return { changes, warnings };
    });
  }

  async close(): Promise<void> {
    await Promise.all([this.#client.close(), this.#calls.close()]);
  }

  get #template(): string {
    return this.#options.workersUrl ?? WORKERS_URL;
  }

  /** Empty when no address needs it. */
  async #subdomain(signal: AbortSignal | undefined): Promise<string> {
    return this.#template.includes('{subdomain}') ? this.#workers.subdomain(signal) : '';
  }

  /** Compares what `find` finds with what is wanted, and carries out the difference. */
  #reconcile(name: string, { code, config, options }: Wanted, find: () => Promise<Worker | undefined>): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      refuseUnfit(name, { platform: 'Cloudflare', violations: violationsOf(name, code, config), signal: options.signal });
      const present = await find();
      return this.#carryOut(name, this.#planner.plan(name, { present, code, config, options }, await this.#known(config)), options);
    });
  }

  async #own(name: string, signal: AbortSignal | undefined): Promise<Worker | undefined> {
    const worker = await this.#workers.find(name, signal);
    if (!worker || worker.isOurs) return worker;
    throw new RunnerError('RESOURCE_FOREIGN', `somebody else made the Worker ${name}: it is left as it is`, { details: { name } });
  }

  async #there(name: string, signal: AbortSignal | undefined): Promise<Worker> {
    const worker = await this.#own(name, signal);
    if (!worker) throw notFound(name);
    return worker;
  }

  /** Reads the secrets. Rejects with `CREDENTIALS_MISSING`, `CONFIG_INVALID`. */
  async #known(config: FunctionConfig): Promise<Known> {
    const { secrets: references } = functionOptionsOf(config);
    const token = await this.#calls.token();
    const key = token ?? (await this.#apiToken.read());
    if (!references) return { token, key, secrets: undefined };
    const values = Object.entries(references).map(async ([name, reference]) => {
      return [name, await new Secret(reference, { clock: this.#clock }).read()] as const;
    });
    return { token, key, secrets: Object.fromEntries(await Promise.all(values)) };
  }

  #state(worker: Worker | Listed, subdomain: string): FunctionState {
    const { name, isOurs, tags, updatedAt } = worker;
    const endpoint = addressOf(this.#template, name, subdomain);
    const version = 'version' in worker ? worker.version : undefined;
    const { schedules } = cronsIn(variableOf(version, SCHEDULES_VARIABLE));
    const environment = environmentOf(version);
    return {
      name,
      id: name,
      status: isOurs ? 'active' : 'foreign',
      endpoint,
      ...(version?.sha256 !== undefined && { sha256: version.sha256 }),
      ...(version && { version: version.id }),
      ...(updatedAt !== undefined && { updatedAt }),
      config: {
        ...(isOurs && { memoryMb: MEMORY_MB }),
        ...(version?.description !== undefined && { description: version.description }),
        ...(version?.cpuMs !== undefined && { timeoutMs: version.cpuMs }),
        ...(Object.keys(environment).length > 0 && { environment }),
        ...(schedules.length > 0 && { schedules }),
        ...(Object.keys(tags).length > 0 && { tags }),
      },
      executor: referenceOf(this.#options, name, subdomain),
      resources: schedules.map((each) => ({ kind: 'schedule', id: each.name })),
    };
  }

  async #carryOut(name: string, { changes, writes, warnings }: Plan, options: DeployOptions): Promise<DeployReport> {
    const { dryRun = false, signal, onProgress } = options;
    for (const [done, { what, run }] of writes.entries()) {
      onProgress?.({ step: what, function: name, ...(!dryRun && { writes: true }), done, total: writes.length });
      if (!dryRun) await run(signal);
    }
    const has = (resource: string, action: string): boolean => changes.some((each) => each.resource === resource && each.action === action);
    const isGone = has('function', 'delete') || (dryRun && has('function', 'create'));
    const state = isGone ? undefined : await this.describe(name, signal && { signal });
    const isNew = !dryRun && changes.some(({ resource }) => resource === 'address');
    const isLate = isNew && state?.endpoint !== undefined && !(await this.#answers(name, state.endpoint, options));
    const late = isLate ? [`the address ${state.endpoint} does not answer yet; new ones may take some minutes`] : [];
    return { ...(state && { state }), changes, warnings: [...warnings, ...late] };
  }

  /** A new address is known everywhere only after a while. */
  async #answers(name: string, address: string, { signal, onProgress }: DeployOptions): Promise<boolean> {
    const until = this.#clock.now() + ADDRESS_MS_MAX;
    for (let tries = 0; ; tries += 1) {
      const deadline = this.#clock.now() + ADDRESS_MS_MAX;
      if (await this.#calls.isThere({ address, deadline, signal, responseBytesMax: RESPONSE_BYTES_MAX })) return true;
      if (this.#clock.now() >= until) return false;
      if (tries === 0) onProgress?.({ step: `wait until ${address} answers`, function: name });
      await this.#clock.sleep(ADDRESS_POLL_MS, signal);
    }
  }
}

const NOTHING: Plan = { changes: [], writes: [], warnings: [] };

interface Wanted {
  readonly code: FunctionPackage | undefined;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

function notFound(name: string): RunnerError {
  return new RunnerError('FUNCTION_NOT_FOUND', `Cloudflare has no Worker ${name}`, { details: { name } });
}
