/** From policy, metadata and analysis to what is to be where. Pure. */

import type { BlueprintMetadata, ServiceState } from '../chain/chain.ts';
import { RunnerError } from '../errors.ts';
import type { FunctionConfig } from '../executor/deployer.ts';
import { PLANNING_LIMITS, TARGET_LIMITS } from '../executor/limits.ts';
import type { JobLimits, Target } from '../executor/limits.ts';
import { analyzeBlueprint } from './analyze.ts';
import type { BlueprintAnalysis, JobFacts, JobVerdict } from './analyze.ts';
import { TARGET_OF } from './policy-model.ts';
import type { DeploymentPolicy, FaasProvider, FaasType, JobPolicy } from './policy-model.ts';
import type { LoadedPolicy } from './policy.ts';
import type { PluginReference } from './record.ts';
import { functionNameOf } from './service-plan.ts';
import type { JobPlan, ServicePlan } from './service-plan.ts';
import { fitSize, payloadBytesMax } from './sizing.ts';

export interface PlanOptions {
  readonly policy: DeploymentPolicy;
  readonly service: ServiceState;
  readonly blueprint: BlueprintMetadata;
  readonly chainId: number;
  readonly contract: string;
  /** By job index; they win over those of the chain. */
  readonly profiles?: ReadonlyMap<number, JobFacts> | undefined;
  /** What a job without a profile is. Default: a function when no job has one, else local. */
  readonly assume?: 'function' | 'local' | undefined;
  /** More options for the deployers of a plugin, by its name. */
  readonly deployerOptions?: Readonly<Record<string, Readonly<Record<string, unknown>>>> | undefined;
}

/** Throws `STATE_INVALID` for a service that takes no calls, `CONFIG_INVALID` for a provider of which too little is known. */
export function planService(options: PlanOptions): ServicePlan {
  const { policy, service, blueprint, chainId, contract } = options;
  if (service.status !== 'active' && service.status !== 'pending')
    throw new RunnerError('STATE_INVALID', `service ${service.serviceId} is ${service.status}: nobody can call it`, {
      details: { serviceId: String(service.serviceId), status: service.status },
    });
  const judge = judgeOf(options);
  const jobs = blueprint.jobs.map(({ index, name }) => jobPlan(index, name || `job ${index}`, { ...options, verdict: judge(index) }));
  const { serverless } = policy;
  return {
    serviceId: String(service.serviceId),
    blueprintId: String(blueprint.blueprintId),
    blueprintName: blueprint.name,
    chainId,
    contract,
    strategy: strategyOf(jobs),
    reasons: jobs.map(({ id, name, place, reason }) => `job ${id} (${name}): ${place}: ${reason}`),
    jobs,
    fallback: serverless.fallbackToVm,
    warnings: [
      ...(blueprint.source === 'mock' ? ['the metadata of the blueprint is made up: no chain was asked'] : []),
      ...(blueprint.problems ?? []).map(({ code, message }) => `${code}: ${message}`),
    ],
  };
}

/** A plugin and what its deployer needs, for a provider of the policy. */
export function deployerOf(provider: FaasProvider, more: PlanOptions['deployerOptions'] = {}): PluginReference {
  const { use, needs, ...reference } = pluginOf(provider);
  const options: Readonly<Record<string, unknown>> = { ...reference.options, ...more[use] };
  if (needs === undefined || options[needs] !== '') return { use, options };
  const { type } = provider;
  const field = type === 'custom' ? 'endpoint' : needs;
  const remedy = `set it with bpr cloud policy, or with --deployer-option ${use}.${needs}=...`;
  throw new RunnerError('CONFIG_INVALID', `the policy does not say the ${field} of ${type}; ${remedy}`, {
    details: { provider: type, field },
  });
}

/** `needs`: the option that must not be empty. */
function pluginOf(provider: FaasProvider): PluginReference & { readonly needs?: string } {
  switch (provider.type) {
    case 'aws-lambda':
      return { use: 'aws-lambda', options: { region: provider.region } };
    case 'gcp-functions':
      return { use: 'gcp', options: { projectId: provider.projectId, region: provider.region }, needs: 'projectId' };
    case 'azure-functions':
      return { use: 'azure', options: { subscriptionId: provider.subscriptionId, region: provider.region }, needs: 'subscriptionId' };
    case 'digitalocean':
      return { use: 'digitalocean', options: { region: provider.region } };
    case 'cloudflare':
      return { use: 'cloudflare', options: { accountId: provider.accountId }, needs: 'accountId' };
    case 'kubernetes':
      return {
        use: 'kubernetes',
        options: { namespace: provider.namespace, ...(provider.context !== '' && { context: provider.context }) },
      };
    case 'custom':
      return { use: 'http', options: { url: provider.endpoint }, needs: 'url' };
  }
}

/** Jobs may be on different platforms, and each platform has limits of its own. */
function judgeOf({ policy, blueprint, profiles, assume }: PlanOptions): (index: number) => JobVerdict {
  const { serverless } = policy;
  const known = new Map(blueprint.jobs.flatMap(({ index, profile }) => (profile ? [[index, profile] as const] : [])));
  for (const [index, facts] of profiles ?? []) known.set(index, facts);
  const local = new Set([...serverless.jobs].flatMap(([index, job]) => (job.local ? [index] : [])));
  const analyses = new Map<string, BlueprintAnalysis>();
  return (index) => {
    const target = TARGET_OF[providerOf(serverless, index).type];
    let analysis = analyses.get(target);
    if (!analysis) {
      analysis = analyzeBlueprint({
        jobCount: blueprint.jobs.length,
        limits: limitsOf(target),
        enabled: serverless.enable,
        ...(known.size > 0 && { profiles: known }),
        assume,
        local,
      });
      analyses.set(target, analysis);
    }
    const verdict = analysis.jobs[index];
    if (!verdict) throw new RunnerError('METADATA_INVALID', `the blueprint has no job ${index}`);
    return verdict;
  };
}

/** What blueprints are planned with, where the platform has as much. */
function limitsOf(target: Target): JobLimits {
  const planned = PLANNING_LIMITS[target];
  const { memoryMb, timeoutMs } = TARGET_LIMITS[target];
  return {
    memoryMb: Math.min(planned.memoryMb, memoryMb.max),
    timeoutMs: Math.min(planned.timeoutMs, timeoutMs.max),
    payloadBytes: Math.min(planned.payloadBytes, payloadBytesMax(target)),
  };
}

function providerOf({ jobs, provider }: DeploymentPolicy['serverless'], index: number): FaasProvider {
  const own = jobs.get(index);
  return own?.endpoint === undefined ? (own?.provider ?? provider) : { type: 'custom', endpoint: own.endpoint };
}

function jobPlan(index: number, name: string, options: PlanOptions & { readonly verdict: JobVerdict }): JobPlan {
  const { policy, verdict, deployerOptions } = options;
  const id = String(index);
  const why = verdict.reasons.map(({ message }) => message).join('; ');
  if (verdict.place === 'local') return { id, name, place: 'runner', reason: why };
  const own = policy.serverless.jobs.get(index);
  const provider = providerOf(policy.serverless, index);
  const config = configOf(provider, verdict, { own, policy });
  if (!config) return { id, name, place: 'runner', reason: `no size of ${provider.type} has as much memory as it needs` };
  const endpoint = own?.endpoint;
  return {
    id,
    name,
    place: 'function',
    reason: why || (endpoint === undefined ? `it fits the limits of ${provider.type}` : `it is deployed by hand at ${endpoint}`),
    deployer:
      endpoint === undefined
        ? deployerOf(provider, deployerOptions)
        : { use: 'http', options: { endpoints: { [functionNameOf({ serviceId: String(options.service.serviceId) }, id)]: endpoint } } },
    config,
    ...(endpoint !== undefined && { endpoint }),
  };
}

function configOf(
  provider: FaasProvider,
  verdict: JobVerdict,
  { own, policy }: { readonly own: JobPolicy | undefined; readonly policy: DeploymentPolicy },
): FunctionConfig | undefined {
  const target = TARGET_OF[provider.type];
  const wanted = Math.max(verdict.size?.memoryMb ?? 0, policy.serverless.memoryMb);
  // What was measured fits, or there would be no function: above the largest size is only the margin.
  const size = fitSize(target, own?.memoryMb ?? Math.min(wanted, TARGET_LIMITS[target].memoryMb.max));
  if (!size) return undefined;
  const timeoutMs = own?.timeoutMs ?? Math.max(verdict.timeoutMs ?? 0, policy.serverless.timeoutMs);
  return { memoryMb: size.memoryMb, timeoutMs: Math.min(timeoutMs, TARGET_LIMITS[target].timeoutMs.max) };
}

/** The size of functions that somebody said, in the policy or by a variable, within what the platform has; what nobody said is the platform's. */
export function saidSize(type: FaasType, { policy, values }: Pick<LoadedPolicy, 'policy' | 'values'>): FunctionConfig {
  const isSaid = (key: string): boolean => values.some((value) => value.key === key && value.source !== 'default');
  const { memoryMb, timeoutMs } = TARGET_LIMITS[TARGET_OF[type]];
  const { serverless } = policy;
  const size = isSaid('serverless.default_memory_mb') && fitSize(TARGET_OF[type], Math.min(serverless.memoryMb, memoryMb.max));
  return {
    ...(size && { memoryMb: size.memoryMb }),
    ...(isSaid('serverless.default_timeout_secs') && { timeoutMs: Math.min(serverless.timeoutMs, timeoutMs.max) }),
  };
}

function strategyOf(jobs: readonly JobPlan[]): ServicePlan['strategy'] {
  const functions = jobs.filter(({ place }) => place === 'function').length;
  if (functions === 0) return 'traditional';
  return functions === jobs.length ? 'serverless' : 'hybrid';
}
