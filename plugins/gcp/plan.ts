/** What differs between a function as it is and as it should be, as writes in the order in which an interruption does no harm. */

import { RunnerError, warningsOf } from '../../src/plugin.ts';
import type { DeployOptions, FunctionConfig, FunctionPackage, Step, StepPlan } from '../../src/plugin.ts';
import { asFields } from './client.ts';
import type { Fields, GcpClient } from './client.ts';
import { bodyOf, canonical, differences, fieldName, functionOf, wantedSettings, withoutOwn } from './functions.ts';
import type { GcpFunction, Settings } from './functions.ts';
import { platformOf } from './platform-options.ts';
import { EVERYBODY } from './run.ts';
import type { InvokerChange, RunServices } from './run.ts';
import { checkJobsOwned, ifTold, jobDifferences, jobsFor } from './scheduler.ts';
import type { Job, JobTarget, Jobs } from './scheduler.ts';

export interface Wish {
  readonly present: GcpFunction | undefined;
  /** The package that calls get now. */
  readonly runs?: string | undefined;
  readonly code?: FunctionPackage | undefined;
  readonly config: FunctionConfig;
  readonly options: DeployOptions;
}

export interface PlannerParts {
  readonly client: GcpClient;
  readonly projectId: string;
  /** `projects/p/locations/l`. */
  readonly parent: string;
  readonly services: RunServices;
  readonly jobs: Jobs;
}

const CANNOT = ['ephemeralStorageMb', 'architecture', 'logRetentionDays'] as const;
const ENVIRONMENT = 'serviceConfig.environmentVariables';

export class Planner {
  readonly #parts: PlannerParts;

  constructor(parts: PlannerParts) {
    this.#parts = parts;
  }

  async plan(name: string, wish: Wish): Promise<StepPlan> {
    const { config, options, present } = wish;
    const { strict = false, signal } = options;
    const cannot = CANNOT.filter((field) => field !== 'architecture' || config.architecture !== 'x86_64');
    const warnings = warningsOf(config, { platform: 'Cloud Run', cannot, strict });
    const steps = this.#functionSteps(name, wish);
    const { serviceAccount, schedulerServiceAccount } = platformOf(config);
    const account = schedulerServiceAccount ?? serviceAccount ?? present?.serviceAccount;
    const whole = { ...present?.config, ...config };
    const plan = config.schedules && jobsFor(name, whole, { strict, target: { uri: present?.uri, serviceAccount: account } });
    steps.push(...(await this.#accessSteps(name, wish, account)));
    if (plan) {
      const there = await this.#parts.jobs.of(name, signal);
      checkJobsOwned(there, plan.jobs);
      steps.push(...this.#jobSteps(name, { there, wanted: plan.jobs }));
    }
    return { steps, warnings: [...warnings, ...(plan?.warnings ?? [])] };
  }

  async removal(name: string, present: GcpFunction | undefined, signal: AbortSignal | undefined): Promise<StepPlan> {
    const { client, jobs } = this.#parts;
    const warnings: string[] = [];
    const there = await ifTold(jobs.of(name, signal), (why) => warnings.push(`whether schedules of ${name} are left is not known: ${why}`));
    const steps = this.#jobSteps(name, { there, wanted: [] });
    if (present) {
      const what = `remove function ${name}`;
      const run: Step['run'] = async (until) => {
        const operation = await client.find('functions', { method: 'DELETE', path: `/v2/${present.id}`, what, signal: until });
        if (operation) await client.finish('functions', operation, { what, signal: until });
      };
      steps.push({ change: { action: 'delete', resource: 'function', id: name }, run });
    }
    return { steps, warnings };
  }

  #functionSteps(name: string, { present, runs, code, config, options }: Wish): Step[] {
    const settings = wantedSettings(config, present, code?.sha256);
    if (!present) {
      if (!code) return [];
      const run: Step['run'] = (signal) => this.#create(name, { code, settings }, signal);
      return [{ change: { action: 'create', resource: 'function', id: name }, run }];
    }
    const isBroken = present.status !== 'ACTIVE' && !(options.dryRun === true && present.status === 'DEPLOYING');
    const sends = code && (isBroken || code.sha256 !== present.sha256) ? code : undefined;
    const differ = differences(settings, present);
    if (sends || differ.length > 0) {
      if (!code && !present.isLatest && runs !== present.sha256) throw rolledBack(name);
      const paths = isBroken && sends ? Object.keys(settings) : differ;
      const run: Step['run'] = (signal) => this.#update(present, { code: sends, settings, paths }, signal);
      const fields = [...(sends ? ['code'] : []), ...differ.filter((path) => isTold(path, settings, present)).map(fieldName)];
      return [{ change: { action: 'update', resource: sends ? 'code' : 'configuration', id: name, fields }, run }];
    }
    if (!code || present.isLatest || runs === code.sha256) return [];
    const run: Step['run'] = (signal) => this.#parts.services.route(name, undefined, signal);
    return [{ change: { action: 'update', resource: 'traffic', id: name }, run }];
  }

  async #create(
    name: string,
    { code, settings }: { readonly code: FunctionPackage; readonly settings: Settings },
    signal: AbortSignal | undefined,
  ) {
    const { client, parent, projectId } = this.#parts;
    const body = bodyOf(settings, Object.keys(settings), projectId);
    const json = {
      ...body,
      name: `${parent}/functions/${name}`,
      environment: 'GEN_2',
      buildConfig: { ...asFields(body['buildConfig']), source: await this.#uploaded(name, code, signal) },
      serviceConfig: { ...asFields(body['serviceConfig']), allTrafficOnLatestRevision: true },
    };
    const what = `create function ${name}`;
    const path = `/v2/${parent}/functions?functionId=${name}`;
    const operation = await client.request('functions', { method: 'POST', path, json, what, signal });
    await client.finish('functions', operation, { what, signal });
  }

  async #update(present: GcpFunction, { code, settings, paths }: Update, signal: AbortSignal | undefined): Promise<void> {
    const { client, projectId } = this.#parts;
    const { id, name, isLatest } = present;
    const body = bodyOf(settings, paths, projectId);
    const source = code && { source: await this.#uploaded(name, code, signal) };
    const mask = [...paths, ...(source ? ['buildConfig.source'] : []), ...(isLatest ? [] : ['serviceConfig.allTrafficOnLatestRevision'])];
    const json = {
      ...body,
      name: id,
      ...((source || body['buildConfig'] !== undefined) && { buildConfig: { ...asFields(body['buildConfig']), ...source } }),
      ...((!isLatest || body['serviceConfig'] !== undefined) && {
        serviceConfig: { ...asFields(body['serviceConfig']), ...(!isLatest && { allTrafficOnLatestRevision: true }) },
      }),
    };
    const what = `update function ${name}`;
    const path = `/v2/${id}?updateMask=${mask.join(',')}`;
    const operation = await client.request('functions', { method: 'PATCH', path, json, what, signal });
    await client.finish('functions', operation, { what, signal });
  }

  /** Where the package is, as the source of a function. */
  async #uploaded(name: string, { zip }: FunctionPackage, signal: AbortSignal | undefined): Promise<Fields> {
    const { client, parent } = this.#parts;
    const path = `/v2/${parent}/functions:generateUploadUrl`;
    const what = `take the package of ${name}`;
    const { uploadUrl, storageSource } = await client.request('functions', {
      method: 'POST',
      path,
      json: { environment: 'GEN_2' },
      what,
      signal,
    });
    await client.upload(String(uploadUrl), zip, signal);
    return { storageSource };
  }

  /** Who may call: everybody, where that is said, and the account that schedules call with. */
  async #accessSteps(name: string, { present, config, options }: Wish, account: string | undefined): Promise<Step[]> {
    const { public: isPublic } = platformOf(config);
    const hasSchedules = (config.schedules ?? []).length > 0;
    if (isPublic === undefined && !hasSchedules) return [];
    const { services } = this.#parts;
    const now = present ? await services.invokers(name, options.signal) : [];
    const missing = [
      ...(isPublic === true && !now.includes(EVERYBODY) ? ['public'] : []),
      ...(isPublic === false && now.includes(EVERYBODY) ? ['public'] : []),
      // Whose account it is, a new function says when it is there.
      ...(hasSchedules && (account === undefined || !now.includes(memberOf(account))) ? ['schedules'] : []),
    ];
    if (missing.length === 0) return [];
    const run: Step['run'] = async (signal) => {
      const caller = account ?? (await this.#target(name, signal)).serviceAccount;
      const change: InvokerChange = {
        add: [...(isPublic === true ? [EVERYBODY] : []), ...(hasSchedules && caller !== undefined ? [memberOf(caller)] : [])],
        remove: isPublic === false ? [EVERYBODY] : [],
      };
      await services.setInvokers(name, change, signal);
    };
    return [{ change: { action: 'update', resource: 'access', id: name, fields: missing }, run }];
  }

  #jobSteps(name: string, { there, wanted }: { readonly there: readonly Job[]; readonly wanted: readonly Job[] }): Step[] {
    const { jobs } = this.#parts;
    const steps: Step[] = [];
    // What is not known before the function is there is asked for when it is.
    const complete = async (job: Job, signal: AbortSignal | undefined): Promise<Job> => {
      if (job.uri !== undefined && job.serviceAccount !== undefined) return job;
      const { uri, serviceAccount } = await this.#target(name, signal);
      return { ...job, uri, serviceAccount: job.serviceAccount ?? serviceAccount };
    };
    for (const { id, isOurs } of there)
      if (isOurs && !wanted.some((job) => job.id === id))
        steps.push({ change: { action: 'delete', resource: 'schedule', id }, run: (signal) => jobs.delete(id, signal) });
    for (const job of wanted) {
      const { id } = job;
      const present = there.find((each) => each.id === id);
      const fields = present ? jobDifferences(present, job) : [];
      if (!present)
        steps.push({
          change: { action: 'create', resource: 'schedule', id },
          run: async (signal) => jobs.create(await complete(job, signal), signal),
        });
      else if (fields.length > 0)
        steps.push({
          change: { action: 'update', resource: 'schedule', id, fields },
          run: async (signal) => jobs.update(await complete(job, signal), fields, signal),
        });
    }
    return steps;
  }

  async find(name: string, signal: AbortSignal | undefined): Promise<GcpFunction | undefined> {
    const { client, parent } = this.#parts;
    const path = `/v2/${parent}/functions/${encodeURIComponent(name)}`;
    const fields = await client.find('functions', { method: 'GET', path, what: `read function ${name}`, signal });
    return fields && functionOf(fields);
  }

  async #target(name: string, signal: AbortSignal | undefined): Promise<JobTarget> {
    const { uri, serviceAccount } = (await this.find(name, signal)) ?? {};
    if (uri !== undefined) return { uri, serviceAccount };
    throw new RunnerError('DEPLOY_FAILED', `GCP made the function ${name} without an address`, { details: { name } });
  }
}

interface Update {
  readonly code: FunctionPackage | undefined;
  readonly settings: Settings;
  readonly paths: readonly string[];
}

function memberOf(account: string): string {
  return `serviceAccount:${account}`;
}

/** The package is one of the variables; a change of it is a change of the code. */
function isTold(path: string, settings: Settings, present: GcpFunction): boolean {
  if (path !== ENVIRONMENT) return true;
  const [wanted, now] = [settings[path], present.settings[path]].map((variables) => canonical(withoutOwn(asFields(variables))));
  return wanted !== now;
}

function rolledBack(name: string): RunnerError {
  const message = `the calls of ${name} go to an older version: a change of the configuration would bring the newest code back. Deploy a package with the configuration, or roll forward first`;
  return new RunnerError('OPERATION_UNSUPPORTED', message, { details: { name } });
}
