import { isAbsolute, resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { isRunnerError } from '../../errors.ts';
import { changePolicy, loadPolicy } from '../../deploy/policy.ts';
import type { ChangedPolicy, LoadedPolicy, PolicyEdits } from '../../deploy/policy.ts';
import { FAAS_TYPES, STRATEGIES } from '../../deploy/policy-model.ts';
import type { FaasType, Strategy } from '../../deploy/policy-model.ts';
import type { PolicyValue } from '../../deploy/policy-parse.ts';
import { redactText } from '../../telemetry/redact.ts';
import { parseCount } from '../calls.ts';
import { print, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { providerEdits } from '../faas-flags.ts';
import type { ProviderFlags } from '../faas-flags.ts';

/** Of every command that reads the policy. */
export interface PolicyFileFlags {
  readonly config?: string;
  readonly json?: true;
}

/** A parser of commander cannot give null. */
type OrNone = number | 'none';

interface PolicyFlags extends PolicyFileFlags, ProviderFlags {
  readonly gpuProviders?: readonly string[];
  readonly cpuProviders?: readonly string[];
  readonly memoryProviders?: readonly string[];
  readonly costProviders?: readonly string[];
  readonly maxCost?: OrNone;
  readonly preferSpot?: boolean;
  readonly autoTerminate?: OrNone;
  readonly regions?: readonly string[];
  readonly costStrategy?: Strategy;
  readonly maxLatency?: OrNone;
  readonly serverless?: boolean;
  readonly faasMemory?: number;
  readonly faasTimeout?: number;
  readonly serverlessFallback?: boolean;
  readonly force?: true;
  readonly dryRun?: true;
}

const EXAMPLES = `
Examples:
  bpr cloud policy --serverless true                    deploy jobs as functions where that is possible
  bpr cloud policy --faas-provider aws-lambda --faas-aws-region us-east-1 --faas-memory 1024 --faas-timeout 600
  bpr cloud policy --faas-provider custom --faas-custom-endpoint https://functions.example.com
  bpr cloud policy --faas-job 0=https://a.example.com/run --faas-job 1=local
  bpr cloud policy --max-cost none --cost-strategy cheapest
  bpr cloud policy                                      without a flag: the policy as it is

The file is tangle/deployment-policy.json in the configuration directory (XDG_CONFIG_HOME or ~/.config).

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way, or a value that the provider
does not allow: nothing was written.`;

const SHOW_EXAMPLES = `
Examples:
  bpr cloud show           every value, and who says it
  bpr cloud show --json

What is said wins in this order: environment (BPR_SERVERLESS, BPR_FAAS_PROVIDER, BPR_FAAS_MEMORY, BPR_FAAS_TIMEOUT,
BPR_SERVERLESS_FALLBACK), file, default. Variables of the providers (AWS_REGION, GCP_PROJECT_ID, ...) say what the file leaves out.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr cloud policy`: changes what is said, and shows what came of it. */
export function addPolicy(cloud: Command, cli: Cli): void {
  const command = cloud
    .command('policy')
    .alias('configure-policy')
    .description('say what is wanted of every deployment')
    .option('--serverless <bool>', 'deploy jobs as functions: true or false', parseBoolean)
    .option('--faas-provider <type>', `where functions run: ${FAAS_TYPES.join(', ')}`, parseType)
    .option('--faas-memory <mb>', 'memory of a function', parseCount)
    .option('--faas-timeout <seconds>', 'time limit of a call', parseCount)
    .option('--serverless-fallback <bool>', 'run on machines what cannot be a function', parseBoolean)
    .option('--faas-aws-region <region>', 'region of aws-lambda')
    .option('--faas-gcp-project <id>', 'project of gcp-functions')
    .option('--faas-azure-subscription <id>', 'subscription of azure-functions')
    .option('--faas-custom-endpoint <url>', 'where a custom platform is')
    .option('--faas-region <region>', 'region of the provider')
    .option('--faas-cloudflare-account <id>', 'account of cloudflare')
    .option('--faas-namespace <name>', 'namespace of kubernetes')
    .option('--faas-context <name>', 'context of the kubeconfig')
    .option('--faas-job <job=where>', 'one job elsewhere: 0=URL, 0=PROVIDER, 0=local; 0= takes it back', collect)
    .option('--gpu-providers <names>', 'clouds for GPU work, the preferred first', parseList)
    .option('--cpu-providers <names>', 'clouds for CPU-intensive work', parseList)
    .option('--memory-providers <names>', 'clouds for memory-intensive work', parseList)
    .option('--cost-providers <names>', 'clouds for work that has to be cheap', parseList)
    .option('--max-cost <usd>', 'most that a deployment may cost per hour, or none', parseAmount)
    .option('--prefer-spot <bool>', 'prefer interruptible machines', parseBoolean)
    .option('--auto-terminate <hours>', 'end deployments after so many hours, or none', parseCountOrNone)
    .option('--regions <names>', 'regions, the preferred first', parseList)
    .option('--cost-strategy <name>', 'cheapest, balanced or performance', parseStrategy)
    .option('--max-latency <ms>', 'most that a region may be away, or none', parseCountOrNone)
    .option('--force', 'begin anew when the file cannot be used')
    .option('--dry-run', 'write nothing');
  withPolicyFile(command)
    .addHelpText('after', EXAMPLES)
    .action((flags: PolicyFlags) => {
      const options = { ...policyOptions(cli.io, flags), force: flags.force ?? false, dryRun: flags.dryRun ?? false };
      const present = loadPolicy(options);
      const edits = { ...plainEdits(flags), ...asUsage(command, () => providerEdits(flags, present.policy, cli.io.env)) };
      if (Object.keys(edits).length === 0) return show(cli.io, flags, present);
      const changed = asUsage(command, () => changePolicy(edits, options));
      for (const warning of changed.warnings) warn(cli.io, warning);
      warnOfPlainHttp(cli.io, changed);
      print(cli.io, flags.json, { document: changedDocument(changed, flags), text: changedText(changed, flags) });
    });
}

/** `bpr cloud show`: every value of the policy with its source. */
export function addShow(cloud: Command, { io }: Cli): void {
  withPolicyFile(cloud.command('show').alias('show-policy').description('show the policy, and who says each value'))
    .addHelpText('after', SHOW_EXAMPLES)
    .action((flags: PolicyFileFlags) => show(io, flags, loadPolicy(policyOptions(io, flags))));
}

export function withPolicyFile(command: Command): Command {
  return command
    .option('--config <file>', 'the policy file, when it is elsewhere; .toml is written as TOML')
    .option('--json', 'print one JSON document');
}

export function policyOptions({ env, cwd }: Io, { config }: PolicyFileFlags): { readonly env: Io['env']; readonly path?: string } {
  if (config === undefined) return { env };
  return { env, path: isAbsolute(config) ? config : resolve(cwd, config) };
}

/** What was asked for cannot be, and nothing was done: as a wrong flag. */
function asUsage<T>(command: Command, work: () => T): T {
  try {
    return work();
  } catch (thrown) {
    const isFlag = isRunnerError(thrown) && ['LIMIT_EXCEEDED', 'CONFIG_INVALID'].includes(thrown.code) && !('path' in thrown.details);
    if (isFlag) command.error(`error: ${redactText(thrown.message)}`);
    throw thrown;
  }
}

/** The flags that name one key each. */
function plainEdits(flags: PolicyFlags): PolicyEdits {
  const keys = {
    'serverless.enable': flags.serverless,
    'serverless.default_memory_mb': flags.faasMemory,
    'serverless.default_timeout_secs': flags.faasTimeout,
    'serverless.fallback_to_vm': flags.serverlessFallback,
    'providers.gpu_providers': flags.gpuProviders,
    'providers.cpu_intensive': flags.cpuProviders,
    'providers.memory_intensive': flags.memoryProviders,
    'providers.cost_optimized': flags.costProviders,
    'cost_limits.max_hourly_cost': flags.maxCost,
    'cost_limits.prefer_spot': flags.preferSpot,
    'cost_limits.auto_terminate_after_hours': flags.autoTerminate,
    'cost_limits.optimization_strategy': flags.costStrategy,
    'regions.preferred_regions': flags.regions,
    'regions.max_latency_ms': flags.maxLatency,
  };
  const said = Object.entries(keys).filter(([, value]) => value !== undefined);
  return Object.fromEntries(said.map(([key, value]) => [key, value === 'none' ? null : value]));
}

function show(io: Io, flags: PolicyFileFlags, loaded: LoadedPolicy): void {
  for (const warning of loaded.warnings) warn(io, warning);
  const { path, source, values, warnings } = loaded;
  const found = source === 'file' ? path : `${path} ${warnings.length > 0 ? 'is not used' : 'is not there'}: the defaults hold`;
  const rows = values.map((value) => [value.key, shown(value.value), sourceText(value)]);
  print(io, flags.json, {
    document: { path, source, values: nested(values), sources: sourcesOf(values), warnings },
    text: [found, '', table([['KEY', 'VALUE', 'SOURCE'], ...rows])].join('\n'),
  });
}

/** As the file has it, with the provider spelled out. */
function nested(values: readonly PolicyValue[]): object {
  const root: Record<string, unknown> = {};
  for (const { key, value } of values) {
    const names = key.split('.');
    const last = names.pop() ?? '';
    let parent = root;
    for (const name of names) parent = (parent[name] ??= {}) as Record<string, unknown>; // as: only this loop puts something there
    parent[last] = value;
  }
  return root;
}

function sourcesOf(values: readonly PolicyValue[]): object {
  return Object.fromEntries(values.map((value) => [value.key, sourceText(value)]));
}

function sourceText({ source, from }: PolicyValue): string {
  return from === undefined ? source : `${source} ${from}`;
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return 'none';
  if (Array.isArray(value)) return value.join(', ') || '-';
  return redactText(typeof value === 'string' ? value : JSON.stringify(value)) || '-';
}

function changedDocument({ path, changes, notes }: ChangedPolicy, { dryRun }: PolicyFlags): object {
  return { path, written: dryRun !== true && changes.length > 0, changes, notes };
}

function changedText({ path, changes, notes }: ChangedPolicy, { dryRun }: PolicyFlags): string {
  const lines = changes.map(({ key, from, to }) => `${key}: ${shown(from)} -> ${shown(to)}`);
  const end = changes.length === 0 ? 'nothing changes' : dryRun ? 'nothing was written' : `written to ${path}`;
  return [...lines, ...notes, end].join('\n');
}

function warnOfPlainHttp(io: Io, { policy: { serverless } }: ChangedPolicy): void {
  const { provider, jobs } = serverless;
  const endpoints = [provider.type === 'custom' ? provider.endpoint : undefined, ...[...jobs.values()].map(({ endpoint }) => endpoint)];
  for (const endpoint of endpoints) {
    const { protocol, hostname } = new URL(endpoint ?? 'https:/secure');
    if (protocol === 'http:' && !/^(?:localhost|127(?:\.\d+){3}|\[::1\])$/.test(hostname))
      warn(io, `calls to ${hostname} go over plain http: anyone on the way can read and change them`);
  }
}

function warn(io: Io, warning: string): void {
  io.stderr.write(`warning: ${redactText(warning)}\n`);
}

function parseBoolean(text: string): boolean {
  if (text !== 'true' && text !== 'false') throw new InvalidArgumentError('It must be true or false.');
  return text === 'true';
}

function parseType(text: string): FaasType {
  const type = FAAS_TYPES.find((known) => known === text);
  if (!type) throw new InvalidArgumentError(`It must be one of ${FAAS_TYPES.join(', ')}.`);
  return type;
}

function parseStrategy(text: string): Strategy {
  const strategy = STRATEGIES.find((known) => known.toLowerCase() === text.toLowerCase());
  if (!strategy) throw new InvalidArgumentError('It must be cheapest, balanced or performance.');
  return strategy;
}

function parseList(text: string): readonly string[] {
  return text
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
}

function parseAmount(text: string): OrNone {
  if (text === 'none') return text;
  if (!/^\d+(?:\.\d+)?$/.test(text)) throw new InvalidArgumentError('It must be an amount in USD, like 2.50, or none.');
  return Number(text);
}

function parseCountOrNone(text: string): OrNone {
  return text === 'none' ? text : parseCount(text);
}

function collect(text: string, before: readonly string[] = []): readonly string[] {
  return [...before, text];
}
