import { resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import type { BlueprintMetadata } from '../../chain/chain.ts';
import { analyzeBlueprint } from '../../deploy/analyze.ts';
import type { BlueprintAnalysis, JobFacts } from '../../deploy/analyze.ts';
import { FAAS_TYPES, TARGET_OF } from '../../deploy/policy-model.ts';
import type { DeploymentPolicy, FaasType } from '../../deploy/policy-model.ts';
import { loadPolicy } from '../../deploy/policy.ts';
import { profilesOf, readProfileFile } from '../../deploy/profiles.ts';
import { fitSize } from '../../deploy/sizing.ts';
import { RunnerError } from '../../errors.ts';
import { PLANNING_LIMITS, TARGET_LIMITS } from '../../executor/limits.ts';
import type { JobLimits, Target } from '../../executor/limits.ts';
import { redactText } from '../../telemetry/redact.ts';
import { parseCount, parseUint64 } from '../calls.ts';
import { settingsOf } from '../environment.ts';
import type { ChainFlags } from '../environment.ts';
import { print, progress, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { policyOptions, withPolicyFile } from './cloud-policy.ts';
import type { PolicyFileFlags } from './cloud-policy.ts';

interface AnalyzeFlags extends PolicyFileFlags, ChainFlags {
  readonly serviceId?: bigint;
  readonly blueprintId?: bigint;
  readonly jobs?: number;
  readonly profiles?: string;
  readonly provider?: FaasType;
  readonly assume?: 'function' | 'local';
  readonly mock?: true;
  readonly real?: true;
}

/** What there is to analyze, and who says so. */
interface Subject {
  readonly source: 'chain' | 'mock' | 'flag' | 'profiles';
  readonly name: string;
  readonly jobNames: readonly string[];
  readonly profiles: ReadonlyMap<number, JobFacts> | undefined;
  readonly problems: readonly string[];
}

const EXAMPLES = `
Examples:
  bpr cloud analyze --service-id 3                       the blueprint of the service, from the chain
  bpr cloud analyze --blueprint-id 1 --profiles profiles.json
  bpr cloud analyze --jobs 2 --provider gcp-functions    without a chain: by the number of jobs alone

Without a profile nobody knows what a job takes: where others have one it stays local, and where none has one all are taken to fit;
--assume says it for both. --real holds the jobs to what the platform sells today, not to the round figures blueprints are planned with.
Environment: HTTP_RPC_URL or RPC_URL, TANGLE_CONTRACT.

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr cloud analyze`: which jobs can be functions, and why the others cannot. */
export function addAnalyze(cloud: Command, { io }: Cli): void {
  const command = cloud
    .command('analyze')
    .description('say which jobs can be functions, and why the others cannot')
    .option('--service-id <id>', 'the blueprint of this service', parseUint64)
    .option('--blueprint-id <id>', 'this blueprint', parseUint64)
    .option('--jobs <count>', 'so many jobs, without a chain', parseCount)
    .option('--profiles <file>', 'what bpr profile measured; wins over what the chain says')
    .option('--provider <type>', 'another platform than that of the policy', parseType)
    .option('--assume <place>', 'what jobs without a profile are: function or local', parseAssume)
    .option('--real', 'hold the jobs to what the platform sells today')
    .option('--mock', 'a made-up blueprint of two jobs when no chain can be reached')
    .option('--rpc-url <url>', 'JSON-RPC endpoint of the chain')
    .option('--contract <address>', 'address of the Tangle contract');
  withPolicyFile(command)
    .addHelpText('after', EXAMPLES)
    .action(async (flags: AnalyzeFlags) => {
      const { policy, warnings } = loadPolicy(policyOptions(io, flags));
      for (const warning of warnings) io.stderr.write(`warning: ${redactText(warning)}\n`);
      const subject = await subjectOf(io, flags);
      const target = TARGET_OF[flags.provider ?? policy.serverless.provider.type];
      const analysis = analyzeBlueprint({
        jobCount: subject.jobNames.length,
        limits: flags.real ? realLimits(target) : PLANNING_LIMITS[target],
        enabled: policy.serverless.enable,
        profiles: subject.profiles,
        assume: flags.assume,
        local: localJobs(policy),
      });
      const { source, name, problems } = subject;
      print(io, flags.json, {
        document: { blueprint: name, source, target, ...analysis, problems },
        text: analysisText(subject, target, analysis),
      });
    });
}

function localJobs({ serverless }: DeploymentPolicy): ReadonlySet<number> {
  return new Set([...serverless.jobs].flatMap(([index, { local }]) => (local === true ? [index] : [])));
}

function realLimits(target: Target): JobLimits {
  const { memoryMb, timeoutMs, requestBytesMax, responseBytesMax } = TARGET_LIMITS[target];
  return { memoryMb: memoryMb.max, timeoutMs: timeoutMs.max, payloadBytes: Math.min(requestBytesMax, responseBytesMax) };
}

function analysisText({ name, source, jobNames, problems }: Subject, target: Target, analysis: BlueprintAnalysis): string {
  const rows = analysis.jobs.map(({ jobId, place, reasons, size, timeoutMs }) => {
    const fitted = size && fitSize(target, size.memoryMb);
    const asked = size ? `${fitted?.memoryMb ?? size.memoryMb} MB, ${(timeoutMs ?? 0) / 1000} s` : '';
    return [String(jobId), jobNames[jobId] ?? '', place, asked, reasons.map(({ message }) => message).join('; ')];
  });
  const made = source === 'mock' ? ' (made up: no chain was asked)' : '';
  return [
    `${name}${made}: ${analysis.strategy} on ${target}`,
    '',
    table([['JOB', 'NAME', 'PLACE', 'SIZE', 'REASON'], ...rows]),
    ...problems.map((problem) => `warning: ${redactText(problem)}`),
  ].join('\n');
}

async function subjectOf(io: Io, flags: AnalyzeFlags): Promise<Subject> {
  const named = [flags.serviceId, flags.blueprintId, flags.jobs].filter((one) => one !== undefined);
  if (named.length > 1) throw new RunnerError('CONFIG_INVALID', 'name one of --service-id, --blueprint-id and --jobs');
  const measured = flags.profiles === undefined ? undefined : readProfileFile(resolve(io.cwd, flags.profiles));
  if (flags.jobs !== undefined || (named.length === 0 && measured)) {
    const count = flags.jobs ?? Math.max(-1, ...(measured?.keys() ?? [])) + 1;
    const jobNames = Array.from({ length: count }, (_, index) => `job ${index}`);
    return {
      source: flags.jobs === undefined ? 'profiles' : 'flag',
      name: count === 1 ? '1 job' : `${count} jobs`,
      jobNames,
      profiles: measured,
      problems: [],
    };
  }
  if (named.length === 0) throw new RunnerError('CONFIG_INVALID', 'name a blueprint: --service-id, --blueprint-id, --jobs or --profiles');
  progress(io, 'asking the chain ...');
  const blueprint = await readBlueprint(io, flags);
  return {
    source: blueprint.source,
    name: `${blueprint.name || 'blueprint'} (${blueprint.blueprintId})`,
    jobNames: blueprint.jobs.map(({ name, index }) => name || `job ${index}`),
    profiles: measured ?? profilesOf(blueprint),
    problems: (blueprint.problems ?? []).map(({ message }) => message),
  };
}

/** The real one; a made-up one only when it was asked for, and no chain can be reached. */
async function readBlueprint(io: Io, flags: AnalyzeFlags): Promise<BlueprintMetadata> {
  const { fetchBlueprintMetadata } = await import('../../chain/metadata.ts');
  const { rpcUrls, contract, chainId } = settingsOf(io, flags);
  const mode = flags.mock ? 'auto' : 'real';
  if (contract === undefined) {
    if (flags.mock) return fetchBlueprintMetadata(flags.blueprintId ?? 0n, { mode: 'mock' });
    throw new RunnerError('CONFIG_INVALID', 'the contract is not known: set TANGLE_CONTRACT or pass --contract');
  }
  const { RpcChainClient } = await import('../../chain/rpc.ts');
  const client = new RpcChainClient({ rpcUrl: rpcUrls, contract, ...(chainId !== undefined && { chainId }) });
  try {
    const blueprintId = flags.blueprintId ?? (await client.service(flags.serviceId ?? 0n)).blueprintId;
    return await fetchBlueprintMetadata(blueprintId, { mode, client });
  } finally {
    await client.close();
  }
}

function parseType(text: string): FaasType {
  const type = FAAS_TYPES.find((known) => known === text);
  if (!type) throw new InvalidArgumentError(`It must be one of ${FAAS_TYPES.join(', ')}.`);
  return type;
}

function parseAssume(text: string): 'function' | 'local' {
  if (text !== 'function' && text !== 'local') throw new InvalidArgumentError('It must be function or local.');
  return text;
}
