import { homedir } from 'node:os';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { cloudConfigPath, loadCloudConfig } from '../../deploy/cloud-config.ts';
import type { Configurable } from '../../deploy/cloud-config.ts';
import { findCredentials } from '../../deploy/credentials.ts';
import { neededVariables, writeEnvFile } from '../../deploy/env-file.ts';
import type { NeededVariable } from '../../deploy/env-file.ts';
import { TARGET_OF, providerFields } from '../../deploy/policy-model.ts';
import type { FaasProvider } from '../../deploy/policy-model.ts';
import { loadPolicy } from '../../deploy/policy.ts';
import type { LoadedPolicy } from '../../deploy/policy.ts';
import { toRunnerError } from '../../errors.ts';
import { redactText } from '../../telemetry/redact.ts';
import { print, progress, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { parseConfigurable } from './cloud-configure.ts';
import { policyOptions, withPolicyFile } from './cloud-policy.ts';
import type { PolicyFileFlags } from './cloud-policy.ts';

interface PreflightFlags extends PolicyFileFlags {
  readonly provider?: Configurable;
  readonly teeRequired?: true;
  readonly reach?: true;
  readonly bootstrapEnv?: true;
  readonly writeEnvFile?: string;
}

type Status = 'PASS' | 'WARN' | 'FAIL';

interface Check {
  readonly name: string;
  readonly status: Status;
  readonly detail: string;
}

const EXAMPLES = `
Examples:
  bpr cloud preflight                 the platform of the policy
  bpr cloud preflight -p gcp --reach  also whether its API answers; no credential is sent
  bpr cloud preflight --bootstrap-env the variables that a deployment reads, and which of them are set
  bpr cloud preflight --bootstrap-env --write-env-file .env
                                      these in a file of mode 0600, with what is known; a file that is there stays,
                                      and a secret that is set is named in it and not copied

Only names of variables and files are printed, never what is in them.

Exit status: 0 nothing fails (there can be warnings); 1 a check fails; 2 called in a wrong way.`;

const REACH_MS = 5_000;
const WITH_TEE: readonly Configurable[] = ['aws', 'gcp', 'azure'];
const API: Readonly<Partial<Record<Configurable, string>>> = {
  gcp: 'https://cloudfunctions.googleapis.com/',
  azure: 'https://management.azure.com/',
  digitalocean: 'https://api.digitalocean.com/',
  cloudflare: 'https://api.cloudflare.com/',
};

/** `bpr cloud preflight`: is everything there that a deployment needs. */
export function addPreflight(cloud: Command, cli: Cli): void {
  const command = cloud
    .command('preflight')
    .alias('check')
    .description('check policy and credentials before a deployment')
    .option('-p, --provider <name>', 'this cloud; default: that of the policy', parseConfigurable)
    .option('--tee-required', 'the cloud must have trusted execution environments')
    .option('--reach', 'ask its API for an answer')
    .option('--bootstrap-env', 'tell which environment variables a deployment reads')
    .option('--write-env-file <file>', 'write them to a new file, with the values that are known; implies --bootstrap-env');
  withPolicyFile(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: PreflightFlags) => {
      const { io } = cli;
      const loaded = loadPolicy(policyOptions(io, flags));
      const { provider } = loaded.policy.serverless;
      const target = flags.provider ?? TARGET_OF[provider.type];
      const own = target === TARGET_OF[provider.type] ? provider : undefined;
      const checks = [
        checkPolicy(loaded),
        checkConfigured(io, target, own),
        ...(own ? [checkProvider(own)] : []),
        checkCredentials(io, target),
        ...(flags.teeRequired ? [checkTee(target)] : []),
        ...(flags.reach ? [await checkReach(io, target, own)] : []),
      ];
      const ok = checks.every(({ status }) => status !== 'FAIL');
      if (!ok) cli.exitCode = 1;
      const rows = checks.map(({ status, name, detail }) => [status, name, redactText(detail)]);
      const bootstrap = bootstrapEnvironment(io, flags, { target, own });
      print(io, flags.json, {
        document: { ok, provider: target, checks, ...bootstrap?.document },
        text: [table(rows), ...(bootstrap ? ['', bootstrap.text] : [])].join('\n'),
      });
    });
}

/** Tells names and where values come from, never values: any of them may be one that others must not see. */
function bootstrapEnvironment(
  { env, cwd }: Io,
  flags: PreflightFlags,
  { target, own }: { readonly target: Configurable; readonly own: FaasProvider | undefined },
): { readonly document: object; readonly text: string } | undefined {
  if (!flags.bootstrapEnv && flags.writeEnvFile === undefined) return undefined;
  const credentials = findCredentials(target, env, env['HOME'] ?? homedir());
  const variables = neededVariables({ target, provider: own, env, credentials });
  const envFile = flags.writeEnvFile === undefined ? undefined : resolve(cwd, flags.writeEnvFile);
  if (envFile !== undefined) writeEnvFile(envFile, variables);
  const environment = variables.map(({ value: _, ...told }) => told);
  const text = table([['VARIABLE', 'VALUE FROM', 'WHAT IT IS'], ...environment.map(rowOf)]);
  return {
    document: { environment, ...(envFile !== undefined && { envFile }) },
    text: envFile === undefined ? text : `${text}\n\nWritten: ${envFile} (only you can read it; fill in what is empty)`,
  };
}

function rowOf({ name, from, meaning, isSecret, isOptional }: Omit<NeededVariable, 'value'>): string[] {
  return [name, from, [meaning, ...(isSecret ? ['secret'] : []), ...(isOptional ? ['optional'] : [])].join(', ')];
}

function checkPolicy({ warnings, source, path, policy }: LoadedPolicy): Check {
  const name = 'policy';
  const problem = warnings.find((warning) => warning.includes('is not used'));
  if (problem !== undefined) return { name, status: 'FAIL', detail: problem };
  if (source === 'default') return { name, status: 'WARN', detail: `there is no ${path}; the defaults hold` };
  return policy.serverless.enable
    ? { name, status: 'PASS', detail: path }
    : { name, status: 'WARN', detail: 'functions are switched off: bpr cloud policy --serverless true' };
}

function checkConfigured({ env }: Io, target: Configurable, own: FaasProvider | undefined): Check {
  const name = 'configured';
  try {
    const settings = loadCloudConfig(cloudConfigPath(env)).providers.get(target);
    if (settings) return { name, status: 'PASS', detail: [target, settings.region].filter(Boolean).join(' in ') };
    if (own) return { name, status: 'PASS', detail: `${target}, by the policy` };
    return { name, status: 'WARN', detail: `${target} is not configured: bpr cloud configure ${target}` };
  } catch (thrown) {
    return { name, status: 'FAIL', detail: toRunnerError(thrown).message };
  }
}

/** What the platform has to be told and nobody can guess. */
function checkProvider(provider: FaasProvider): Check {
  const fields = Object.entries(providerFields(provider));
  const missing = fields.filter(([field, value]) => value === '' && field !== 'context').map(([field]) => field);
  if (missing.length > 0) return { name: 'provider', status: 'FAIL', detail: `${provider.type} needs ${missing.join(', ')}` };
  return { name: 'provider', status: 'PASS', detail: fields.map(([, value]) => value || '-').join(', ') };
}

function checkCredentials({ env }: Io, target: Configurable): Check {
  const name = 'credentials';
  const { found, by, ways } = findCredentials(target, env, env['HOME'] ?? homedir());
  if (ways.length === 0) return { name, status: 'PASS', detail: `${target} needs none that is known here` };
  if (found) return { name, status: 'PASS', detail: `by ${by.join(' and ')}` };
  return { name, status: 'FAIL', detail: `none of: ${ways.join('; ')}` };
}

function checkTee(target: Configurable): Check {
  const has = WITH_TEE.includes(target);
  return {
    name: 'tee',
    status: has ? 'PASS' : 'FAIL',
    detail: has ? `${target} has some` : `${target} has none; ${WITH_TEE.join(', ')} have`,
  };
}

/** Any answer will do: it is not asked for anything. */
async function checkReach(io: Io, target: Configurable, own: FaasProvider | undefined): Promise<Check> {
  const name = 'reachable';
  const region = own?.type === 'aws-lambda' ? own.region : (io.env['AWS_DEFAULT_REGION'] ?? 'us-east-1');
  const url = target === 'aws' ? `https://lambda.${region}.amazonaws.com/` : own?.type === 'custom' ? own.endpoint : API[target];
  if (url === undefined) return { name, status: 'WARN', detail: `nobody knows where the API of ${target} is` };
  const { host } = new URL(url);
  progress(io, `asking ${host} ...`);
  try {
    const { status } = await fetch(url, { method: 'HEAD', redirect: 'manual', signal: AbortSignal.timeout(REACH_MS) });
    return { name, status: 'PASS', detail: `${host} answers (${status})` };
  } catch (thrown) {
    const cause = thrown instanceof Error && thrown.cause instanceof Error ? thrown.cause.message : String(thrown);
    return { name, status: 'FAIL', detail: `${host} does not answer: ${cause}` };
  }
}
