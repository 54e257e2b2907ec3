/** What is to be where: the outcome of policy, metadata and analysis, and all that a deployment goes by. */

import { RunnerError } from '../errors.ts';
import type { FunctionConfig } from '../executor/deployer.ts';
import type { PluginReference, RecordedFunction, RecordedJob, ServiceRecord, ServiceRecords } from './record.ts';

export interface JobPlan {
  /** Decimal. */
  readonly id: string;
  readonly name: string;
  /** `function`: on a platform. `runner`: in the process of the orchestrator. */
  readonly place: 'function' | 'runner';
  /** Why there, in words. */
  readonly reason: string;
  /** Of a function. */
  readonly deployer?: PluginReference;
  readonly config?: FunctionConfig;
  /** Of a function that somebody deployed by hand: where. */
  readonly endpoint?: string;
}

export interface ServicePlan {
  readonly serviceId: string;
  readonly blueprintId: string;
  readonly blueprintName: string;
  readonly chainId: number;
  readonly contract: string;
  readonly strategy: 'serverless' | 'hybrid' | 'traditional';
  readonly reasons: readonly string[];
  readonly jobs: readonly JobPlan[];
  /** Whether a job whose platform fails runs in the orchestrator instead: at deployment and, call by call, later. */
  readonly fallback: boolean;
  readonly warnings: readonly string[];
}

/** One name per job and service on every platform. */
export function functionNameOf(plan: Pick<ServicePlan, 'serviceId'>, jobId: string): string {
  return `blueprint-${plan.serviceId}-job-${jobId}`;
}

export function orchestratorNameOf(plan: Pick<ServicePlan, 'serviceId'>): string {
  return `blueprint-${plan.serviceId}-orchestrator`;
}

/**
 * Names hold the service id and not the chain: a service of another chain with this id has the same ones. Throws `RESOURCE_FOREIGN` when one
 * was deployed to the same place.
 */
export function checkNames(plan: ServicePlan, host: PluginReference, records: Pick<ServiceRecords, 'list'>): void {
  const places = new Set([host, ...plan.jobs.flatMap(({ deployer }) => deployer ?? [])].map((place) => JSON.stringify(place)));
  const isSame = ({ chainId, contract }: ServiceRecord): boolean =>
    chainId === plan.chainId && contract.toLowerCase() === plan.contract.toLowerCase();
  for (const other of records.list(plan.serviceId).filter((record) => !isSame(record))) {
    const taken = [other.orchestrator?.host, ...Object.values(other.jobs).map((job) => job.function?.deployer)];
    if (!taken.some((place) => place && places.has(JSON.stringify(place)))) continue;
    throw new RunnerError(
      'RESOURCE_FOREIGN',
      `service ${other.serviceId} of contract ${other.contract} on chain ${other.chainId} is deployed to the same place under the same names; remove it first, or deploy to another place`,
      { details: { serviceId: other.serviceId, chainId: other.chainId, contract: other.contract } },
    );
  }
}

/** What is known of the job from an earlier deployment stays, when its place stays. */
export function recordedJob(job: JobPlan, earlier: RecordedJob | undefined): RecordedJob {
  const { name, place, reason } = job;
  const known = earlier?.function;
  const stays = place === 'function' && known && JSON.stringify(known.deployer) === JSON.stringify(job.deployer);
  return { name, place, reason, ...(stays && { function: known }) };
}

/** Functions of an earlier deployment that this one does not go on with. */
export function leftoversOf(plan: ServicePlan, earlier: ServiceRecord | undefined): RecordedFunction[] {
  const kept = new Map(plan.jobs.filter(({ place }) => place === 'function').map(({ id, deployer }) => [id, JSON.stringify(deployer)]));
  const gone = Object.entries(earlier?.jobs ?? {}).flatMap(([id, { function: recorded }]) =>
    recorded && kept.get(id) !== JSON.stringify(recorded.deployer) ? [recorded] : [],
  );
  return [...(earlier?.leftovers ?? []), ...gone];
}
