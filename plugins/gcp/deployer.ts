/** Puts functions on GCP: Cloud Run functions through their own API, schedules as jobs of Cloud Scheduler. */

import { randomBytes } from 'node:crypto';
import { PlatformRequests, RunnerError, parseTarget, carryOut, refuseUnfit, rollbackTarget } from '../../src/plugin.ts';
import type {
  DeployOptions,
  DeployReport,
  FaasDeployer,
  FunctionConfig,
  FunctionInvocation,
  FunctionPackage,
  FunctionState,
  FunctionVersionInfo,
  HttpResponse,
  InvocationType,
  LimitViolation,
  LogEntry,
  LogQuery,
  Step,
} from '../../src/plugin.ts';
import { GcpClient, OPERATION_MS_MAX, failure } from './client.ts';
import type { Surroundings } from './client.ts';
import { functionOf, statusOf } from './functions.ts';
import type { GcpFunction } from './functions.ts';
import { violationsOf } from './limits.ts';
import { logsOf } from './logs.ts';
import { CREDENTIAL_VARIABLES, REGION } from './options.ts';
import type { GcpOptions } from './options.ts';
import { platformOf } from './platform-options.ts';
import { Planner } from './plan.ts';
import { RunServices } from './run.ts';
import type { Revision } from './run.ts';
import { Jobs, ifTold, schedulesOf } from './scheduler.ts';
import type { Job } from './scheduler.ts';

/** The longest that a function may take, and some time to start. */
const CALL_MS_MAX = 61 * 60_000;
const INVOKE = 'run.routes.invoke';

interface Wanted {
  readonly code: FunctionPackage | undefined;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

/**
 * A deployer of Cloud Run functions (what was Cloud Functions, 2nd generation).
 *
 * The package is built by Cloud Build, so that a deployment of code takes a minute or more; a change of the configuration makes a new
 * revision without a build. The owner is a label; the package's sha256 is a variable of the function, so that every revision tells which
 * package it runs. What somebody else deploys over a function, and keeps its labels and variables, cannot be told from ours.
 *
 * Versions are the revisions of the service of Cloud Run behind the function. A rollback sends all calls to an older revision, at once and
 * without a build. The functions API goes on to tell of the newest one: until something is deployed again, a change of the configuration
 * alone is `OPERATION_UNSUPPORTED`, because it would bring the newest code back. Cloud Run keeps 1,000 revisions; a clean-up policy of the
 * repository of images may remove what an old one runs.
 *
 * A function of schedules lets the account that schedules call with call it (`roles/run.invoker`); that stays when the schedules go.
 *
 * @example
 * const deployer = new GcpDeployer({ projectId: 'my-project', region: 'europe-west1' }, { clock: systemClock });
 */
export class GcpDeployer implements FaasDeployer {
  readonly name = 'gcp';
  readonly #options: GcpOptions;
  readonly #parent: string;
  readonly #client: GcpClient;
  readonly #services: RunServices;
  readonly #jobs: Jobs;
  readonly #planner: Planner;

  /** Does no I/O. Throws `CONFIG_INVALID`. */
  constructor(options: GcpOptions, surroundings: Surroundings) {
    const { projectId, region = REGION } = options;
    this.#options = options;
    this.#parent = `projects/${projectId}/locations/${region}`;
    this.#client = new GcpClient(options, surroundings);
    this.#services = new RunServices(this.#client, this.#parent);
    this.#jobs = new Jobs(this.#client, this.#parent);
    const parts = { client: this.#client, projectId, parent: this.#parent, services: this.#services, jobs: this.#jobs };
    this.#planner = new Planner(parts);
  }

  violations(name: string, code: FunctionPackage, config: FunctionConfig): readonly LimitViolation[] {
    return violationsOf(name, code, config);
  }

  // oxlint-disable-next-line max-params -- the contract has four
  deploy(name: string, code: FunctionPackage, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { code, config, options }, () => this.#settled(name, options));
  }

  updateCode(name: string, code: FunctionPackage, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { code, config: {}, options }, () => this.#there(name, options));
  }

  updateConfiguration(name: string, config: FunctionConfig, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#reconcile(name, { code: undefined, config, options }, () => this.#there(name, options));
  }

  async describe(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<FunctionState | undefined> {
    const present = await this.#planner.find(name, signal);
    if (!present) return undefined;
    return this.#state(present, present.isOurs ? await ifTold(this.#jobs.of(name, signal)) : [], signal);
  }

  async *list({ all = false, signal }: { readonly all?: boolean; readonly signal?: AbortSignal } = {}): AsyncGenerator<FunctionState> {
    const request = { method: 'GET', path: `/v2/${this.#parent}/functions?pageSize=100`, what: 'list functions', signal } as const;
    let jobs: readonly Job[] | undefined;
    for await (const fields of this.#client.items('functions', request, 'functions')) {
      const present = functionOf(fields);
      if (!present.isOurs && !all) continue;
      if (present.isOurs) jobs ??= await ifTold(this.#jobs.all(signal));
      const own = present.isOurs ? (jobs ?? []).filter(({ id }) => id.startsWith(`${present.name}_`)) : [];
      yield await this.#state(present, own, signal);
    }
  }

  async invoke(
    name: string,
    event: Uint8Array,
    options: { readonly type?: InvocationType; readonly version?: string; readonly signal?: AbortSignal } = {},
  ): Promise<FunctionInvocation> {
    const { type = 'sync', version, signal } = options;
    if (type === 'async')
      throw unsupported('an HTTP function has no queue of calls: call it through Cloud Tasks or Pub/Sub, or wait for its answer');
    const { uri, isLatest, revision } = needed(name, await this.#planner.find(name, signal));
    const serving = version === undefined || isLatest ? revision : await this.#services.serving(name, signal);
    if (version !== undefined && version !== lastOf(serving))
      throw unsupported(`calls of ${name} go to ${lastOf(serving)}: other versions have no address of their own`);
    if (uri === undefined)
      throw new RunnerError('DEPLOY_FAILED', `function ${name} has no address: its deployment failed`, { details: { name } });
    if (type === 'dry-run') {
      await this.#mayInvoke(name, signal);
      return { body: new Uint8Array(), failed: false };
    }
    return this.#call(name, { uri, event, serving: lastOf(serving), signal });
  }

  async *logs(name: string, query: LogQuery = {}): AsyncGenerator<LogEntry> {
    needed(name, await this.#planner.find(name, query.signal));
    const { projectId, region = REGION } = this.#options;
    yield* logsOf(this.#client, { projectId, region, name }, query);
  }

  async versions(name: string, { signal }: { readonly signal?: AbortSignal } = {}): Promise<readonly FunctionVersionInfo[]> {
    needed(name, await this.#planner.find(name, signal));
    return this.#services.versions(name, signal);
  }

  rollback(name: string, version?: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      this.#check(name, { code: undefined, config: {}, options });
      await this.#there(name, options);
      const versions = await this.#services.versions(name, options.signal);
      const target = rollbackTarget(name, versions, version);
      if (target.current) return carryOut(this, { name, plan: { steps: [], warnings: [] }, options });
      // To the newest: then what is deployed later is not held back by the name of a revision.
      const revision = target === versions[0] ? undefined : target.version;
      const run: Step['run'] = (signal) => this.#services.route(name, revision, signal);
      const change = { action: 'update', resource: 'traffic', id: name, fields: [target.version] } as const;
      return carryOut(this, { name, plan: { steps: [{ change, run }], warnings: [] }, options });
    });
  }

  remove(name: string, options: DeployOptions = {}): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      this.#check(name, { code: undefined, config: {}, options });
      const present = await this.#settled(name, options);
      const { changes, warnings } = await carryOut(this, {
        name,
        plan: await this.#planner.removal(name, present, options.signal),
        options,
      });
      return { changes, warnings };
    });
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  /** Compares what `find` finds with what is wanted, and carries out the difference. */
  #reconcile(name: string, { code, config, options }: Wanted, find: () => Promise<GcpFunction | undefined>): Promise<DeployReport> {
    return this.#client.waits.during(name, options, async () => {
      this.#check(name, { code, config, options });
      const present = await find();
      const runs = present && (await this.#served(present, options.signal))?.sha256;
      // The same package under the same settings, wherever the newest revision is.
      const isThere = code !== undefined && runs === code.sha256 && present?.isLatest === false && Object.keys(config).length === 0;
      const plan = isThere ? { steps: [], warnings: [] } : await this.#planner.plan(name, { present, runs, code, config, options });
      return carryOut(this, { name, plan, options });
    });
  }

  #check(name: string, { code, config, options }: Wanted): void {
    platformOf(config);
    refuseUnfit(name, { platform: 'GCP', violations: violationsOf(name, code, config), signal: options.signal });
  }

  /** The function when nothing works on it. What was started by a deployment that broke off goes on at the platform. */
  async #settled(name: string, { signal, dryRun, onProgress }: DeployOptions): Promise<GcpFunction | undefined> {
    const { clock } = this.#client;
    const until = clock.now() + OPERATION_MS_MAX;
    for (;;) {
      const present = await this.#planner.find(name, signal);
      if (present && !present.isOurs)
        throw new RunnerError('RESOURCE_FOREIGN', `somebody else made the function ${name}: it is left as it is`, { details: { name } });
      if (!present || dryRun || statusOf(present) !== 'busy') return present;
      if (clock.now() >= until)
        throw new RunnerError(
          'DEPLOY_FAILED',
          `GCP works for more than ${OPERATION_MS_MAX / 60_000} minutes on ${name} (${present.status})`,
          {
            details: { name, platformCode: present.status },
          },
        );
      onProgress?.({ step: `waiting until GCP has finished with the function (${present.status})`, function: name });
      await this.#client.pause(signal);
    }
  }

  async #there(name: string, options: DeployOptions): Promise<GcpFunction> {
    return needed(name, await this.#settled(name, options));
  }

  /** The revision that calls go to, where it is not the newest one. */
  async #older({ name, isLatest }: GcpFunction, signal: AbortSignal | undefined): Promise<Revision | undefined> {
    if (isLatest) return undefined;
    const serving = await this.#services.serving(name, signal);
    return (await this.#services.revisions(name, signal)).find((revision) => revision.name === serving);
  }

  async #served(present: GcpFunction, signal: AbortSignal | undefined): Promise<Pick<GcpFunction, 'sha256'>> {
    return (await this.#older(present, signal)) ?? present;
  }

  async #state(present: GcpFunction, jobs: readonly Job[], signal: AbortSignal | undefined): Promise<FunctionState> {
    const { name, id, reason, uri, updatedAt, isOurs, revision } = present;
    const older = await this.#older(present, signal);
    const { sha256 } = older ?? present;
    const version = older?.name ?? lastOf(revision);
    const status = statusOf(present);
    const own = jobs.filter((job) => job.isOurs);
    const schedules = schedulesOf(name, own);
    return {
      name,
      id,
      status,
      ...(status === 'failed' && { reason: reason ?? present.status }),
      ...(uri !== undefined && { endpoint: uri }),
      ...(sha256 !== undefined && isOurs && { sha256 }),
      ...(version !== undefined && { version }),
      ...(updatedAt !== undefined && { updatedAt }),
      config: { ...present.config, ...older?.config, ...(schedules.length > 0 && { schedules }) },
      executor: this.#reference(uri),
      resources: [
        { kind: 'service', id: `${this.#parent}/services/${name}` },
        ...own.map((job) => ({ kind: 'schedule', id: `${this.#parent}/jobs/${job.id}` })),
      ],
    };
  }

  #reference(uri: string | undefined): FunctionState['executor'] {
    const { credentials, idToken, serviceAccount, endpoints } = this.#options;
    return {
      use: 'gcp',
      options: {
        ...(uri !== undefined && { uri }),
        ...(typeof credentials === 'string' && { credentials }),
        ...(typeof idToken === 'string' && { idToken }),
        ...(serviceAccount !== undefined && { serviceAccount }),
        ...(endpoints !== undefined && { endpoints }),
      },
      environment: [...CREDENTIAL_VARIABLES, ...[credentials, idToken].flatMap(variableOf)],
    };
  }

  async #mayInvoke(name: string, signal: AbortSignal | undefined): Promise<void> {
    const path = `/v2/${this.#parent}/services/${name}:testIamPermissions`;
    const what = `ask whether ${name} may be called`;
    const { permissions } = await this.#client.request('run', { method: 'POST', path, json: { permissions: [INVOKE] }, what, signal });
    if (Array.isArray(permissions) && permissions.includes(INVOKE)) return;
    const message = `GCP lets these credentials not call ${name}: the permission ${INVOKE} is missing: grant roles/run.invoker`;
    throw new RunnerError('EXECUTOR_UNAUTHORIZED', message, { details: { lacks: INVOKE } });
  }

  async #call(name: string, { uri, event, serving, signal }: Call): Promise<FunctionInvocation> {
    const requestId = randomBytes(6).toString('hex');
    const token = await this.#client.tokens.identity(uri);
    const { clock, connections } = this.#client;
    const denied = (response: HttpResponse): RunnerError => failure(`call ${name}`, response);
    const target = parseTarget(uri);
    const response = await new PlatformRequests(target, connections, { clock, timeoutMs: CALL_MS_MAX, denied }).send({
      method: 'POST',
      path: target.path === '' ? '/' : '',
      headers: ['content-type', 'application/json', 'authorization', `Bearer ${token}`, 'function-execution-id', requestId],
      body: event,
      once: true,
      signal,
    });
    if (response.status === 429) throw failure(`call ${name}`, response, 'PLATFORM_THROTTLED');
    return { body: response.body, failed: response.status >= 400, requestId, ...(serving !== undefined && { version: serving }) };
  }
}

interface Call {
  readonly uri: string;
  readonly event: Uint8Array;
  readonly serving: string | undefined;
  readonly signal: AbortSignal | undefined;
}

function needed(name: string, present: GcpFunction | undefined): GcpFunction {
  if (present) return present;
  throw new RunnerError('FUNCTION_NOT_FOUND', `GCP has no function ${name}`, { details: { name } });
}

function unsupported(message: string): RunnerError {
  return new RunnerError('OPERATION_UNSUPPORTED', message);
}

/** Names of revisions come with and without their path. */
function lastOf(path: string | undefined): string | undefined {
  return path?.split('/').at(-1);
}

function variableOf(reference: GcpOptions['credentials']): string[] {
  return typeof reference === 'string' && reference.startsWith('env:') ? [reference.slice(4)] : [];
}
