/** What is to be where: the outcome of policy, metadata and analysis, and all that a deployment goes by. */

import type { FunctionConfig } from '../executor/deployer.ts';
import type { PluginReference } from './record.ts';

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
