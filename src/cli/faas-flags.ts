/** The flags that say where functions run, as keys of the policy. */

import { RunnerError } from '../errors.ts';
import { FAAS_TYPES, PROVIDER_FIELDS, providerFields, providerOf, writeProvider } from '../deploy/policy-model.ts';
import type { DeploymentPolicy, FaasProvider, FaasType, JobPolicy } from '../deploy/policy-model.ts';
import type { PolicyEdits } from '../deploy/policy.ts';
import type { Io } from './output.ts';

export interface ProviderFlags {
  readonly faasProvider?: FaasType;
  readonly faasAwsRegion?: string;
  readonly faasGcpProject?: string;
  readonly faasAzureSubscription?: string;
  readonly faasCustomEndpoint?: string;
  readonly faasRegion?: string;
  readonly faasCloudflareAccount?: string;
  readonly faasNamespace?: string;
  readonly faasContext?: string;
  readonly faasJob?: readonly string[];
}

interface FieldFlag {
  readonly flag: string;
  readonly field: string;
  readonly types: readonly FaasType[];
  readonly value: string | undefined;
}

function fieldFlags(flags: ProviderFlags): FieldFlag[] {
  return [
    { flag: '--faas-aws-region', field: 'region', types: ['aws-lambda'], value: flags.faasAwsRegion },
    {
      flag: '--faas-region',
      field: 'region',
      types: ['aws-lambda', 'gcp-functions', 'azure-functions', 'digitalocean'],
      value: flags.faasRegion,
    },
    { flag: '--faas-gcp-project', field: 'project_id', types: ['gcp-functions'], value: flags.faasGcpProject },
    { flag: '--faas-azure-subscription', field: 'subscription_id', types: ['azure-functions'], value: flags.faasAzureSubscription },
    { flag: '--faas-custom-endpoint', field: 'endpoint', types: ['custom'], value: flags.faasCustomEndpoint },
    { flag: '--faas-cloudflare-account', field: 'account_id', types: ['cloudflare'], value: flags.faasCloudflareAccount },
    { flag: '--faas-namespace', field: 'namespace', types: ['kubernetes'], value: flags.faasNamespace },
    { flag: '--faas-context', field: 'context', types: ['kubernetes'], value: flags.faasContext },
  ];
}

/** Throws `CONFIG_INVALID` for a flag that does not fit the provider, or is missing for it. */
export function providerEdits(flags: ProviderFlags, { serverless }: DeploymentPolicy, env: Io['env']): PolicyEdits {
  const jobs = flags.faasJob === undefined ? {} : { 'serverless.jobs': jobsEdit(flags.faasJob, serverless.jobs, { serverless, env }) };
  const said = fieldFlags(flags).filter(({ value }) => value !== undefined);
  const type = flags.faasProvider ?? serverless.provider.type;
  const misfit = said.find(({ types }) => !types.includes(type));
  if (misfit) throw new RunnerError('CONFIG_INVALID', `${misfit.flag} is for ${misfit.types.join(', ')}, and the provider is ${type}`);
  if (flags.faasProvider === undefined && said.length === 0) return jobs;
  const chosen = Object.fromEntries(said.map(({ field, value }) => [field, value ?? '']));
  return { ...jobs, 'serverless.provider': writeProvider(provider(type, chosen, { serverless, env })) };
}

interface Known {
  readonly serverless: DeploymentPolicy['serverless'];
  readonly env: Io['env'];
}

/** Fields that are not said are those of the policy when it names the same provider, or what the environment or the default says. */
function provider(type: FaasType, chosen: Readonly<Record<string, string>>, { serverless, env }: Known): FaasProvider {
  const present: Readonly<Record<string, string>> = serverless.provider.type === type ? providerFields(serverless.provider) : {};
  return providerOf(type, (name) => {
    const { env: variables = [], fallback } = PROVIDER_FIELDS[type][name] ?? {};
    const value = chosen[name] ?? (present[name] || variables.map((variable) => env[variable]).find(Boolean)) ?? fallback;
    if (value || (value === '' && name === 'context')) return value;
    const flag = fieldFlags({}).findLast(({ field, types }) => field === name && types.includes(type))?.flag ?? name;
    throw new RunnerError('CONFIG_INVALID', `${type} needs ${[flag, ...variables].join(' or ')}`);
  });
}

/** All jobs that have something of their own, as the file has them. */
function jobsEdit(says: readonly string[], present: ReadonlyMap<number, JobPolicy>, known: Known): object | undefined {
  const jobs = new Map([...present].map(([index, job]) => [index, jobFields(job)]));
  for (const one of says) {
    const [, id = '', where = ''] = /^(\d{1,3})=(.*)$/.exec(one) ?? [];
    if (id === '') throw new RunnerError('CONFIG_INVALID', `--faas-job is ${JSON.stringify(one)}; it must be like 0=https://example.com`);
    if (where === '') jobs.delete(Number(id));
    else jobs.set(Number(id), { ...limitsOf(present.get(Number(id))), ...placeOf(where, known) });
  }
  return jobs.size === 0 ? undefined : Object.fromEntries(jobs);
}

function placeOf(where: string, known: Known): object {
  if (where === 'local') return { local: true };
  const type = FAAS_TYPES.find((name) => name === where && name !== 'custom');
  return type === undefined ? { endpoint: where } : { provider: providerFields(provider(type, {}, known)) };
}

function jobFields(job: JobPolicy): object {
  return {
    ...(job.endpoint !== undefined && { endpoint: job.endpoint }),
    ...(job.provider !== undefined && { provider: providerFields(job.provider) }),
    ...(job.local !== undefined && { local: job.local }),
    ...limitsOf(job),
  };
}

function limitsOf(job: JobPolicy | undefined): object {
  return {
    ...(job?.memoryMb !== undefined && { memory_mb: job.memoryMb }),
    ...(job?.timeoutMs !== undefined && { timeout_secs: job.timeoutMs / 1000 }),
  };
}
