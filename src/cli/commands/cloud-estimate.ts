import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { advise } from '../../deploy/advise.ts';
import type { Advice } from '../../deploy/advise.ts';
import { cents, estimateCost, overridePrices } from '../../deploy/cost.ts';
import type { CostEstimate, CostOptions, Usage } from '../../deploy/cost.ts';
import { TARGET_OF } from '../../deploy/policy-model.ts';
import { loadPolicy } from '../../deploy/policy.ts';
import { PRICES_DATE } from '../../deploy/prices.ts';
import { parseProfileFile } from '../../deploy/profiles.ts';
import type { ProfileFile } from '../../deploy/profiles.ts';
import { selectProvider, selectionOf } from '../../deploy/select.ts';
import type { Selection } from '../../deploy/select.ts';
import { resourceSizing } from '../../deploy/sizing.ts';
import { RunnerError } from '../../errors.ts';
import type { Target } from '../../executor/limits.ts';
import { redactText } from '../../telemetry/redact.ts';
import { parseCount } from '../calls.ts';
import { print, table } from '../output.ts';
import type { Cli, Io } from '../output.ts';
import { policyOptions, withPolicyFile } from './cloud-policy.ts';
import type { PolicyFileFlags } from './cloud-policy.ts';

interface EstimateFlags extends PolicyFileFlags {
  readonly compare?: true;
  readonly provider?: Target;
  readonly calls: number;
  readonly duration: number;
  readonly memory?: number;
  readonly cpuTime?: number;
  readonly arm?: true;
  readonly concurrency?: number;
  readonly coldStarts?: number;
  readonly init?: number;
  readonly schedules?: number;
  readonly logBytes?: number;
  readonly freeTier: boolean;
  readonly prices?: string;
  readonly profiles?: string;
}

const TARGETS: readonly Target[] = ['aws', 'gcp', 'azure', 'digitalocean', 'cloudflare'];
const MONTH_MINUTES = 730 * 60;

const EXAMPLES = `
Examples:
  bpr cloud estimate --calls 3000000 --duration 120 --memory 1536    on the platform of the policy
  bpr cloud estimate --compare --calls 10M --duration 80             on all platforms, the best first
  bpr cloud estimate --profiles profiles.json --calls 100000 -c      each job of the file so many times a month
  bpr cloud estimate -p gcp --prices own-prices.json --json

A month without its free amounts: --no-free-tier. Own prices: {"aws": {"requests": {"usd": 0.00000015, "free": 0}}}, USD per unit.
The prices are list prices of ${PRICES_DATE}; what rests on a secondary source is marked with (?).

Exit status: 0 done; 1 failed, the message begins with a code of ERRORS.md; 2 called in a wrong way.`;

/** `bpr cloud estimate`: what functions would cost, before they are deployed. */
export function addEstimate(cloud: Command, { io }: Cli): void {
  const command = cloud
    .command('estimate')
    .alias('cost')
    .description('say what functions would cost, offline')
    .option('-c, --compare', 'all platforms, and which one to take')
    .option('-p, --provider <name>', `${TARGETS.join(', ')}; default: that of the policy`, parseTarget)
    .option('--calls <count>', 'calls a month: 3000000 or 3M', parseMany, 100_000)
    .option('--duration <ms>', 'of an average call', parseMany, 200)
    .option('--memory <mb>', 'of a function; default: that of the policy', parseCount)
    .option('--cpu-time <ms>', 'of it computing, where only that is billed', parseMany)
    .option('--arm', 'on arm64')
    .option('--concurrency <count>', 'calls that share an instance', parseCount)
    .option('--cold-starts <percent>', 'calls that need a new instance', parsePercent)
    .option('--init <ms>', 'until a new instance takes its call', parseMany)
    .option('--schedules <count>', 'schedules that call it every minute', parseCount)
    .option('--log-bytes <count>', 'written per call', parseMany)
    .option('--profiles <file>', 'what bpr profile measured, for durations and memory')
    .option('--no-free-tier', 'the free amounts are used up')
    .option('--prices <file>', 'own prices, JSON');
  withPolicyFile(command)
    .addHelpText('after', EXAMPLES)
    .action((flags: EstimateFlags) => estimate(io, flags));
}

function estimate(io: Io, flags: EstimateFlags): void {
  const { policy, warnings } = loadPolicy(policyOptions(io, flags));
  for (const warning of warnings) io.stderr.write(`warning: ${redactText(warning)}\n`);
  const options: CostOptions = {
    freeTier: flags.freeTier,
    ...(flags.prices !== undefined && { prices: overridePrices(readJson(resolve(io.cwd, flags.prices))) }),
  };
  const measured = flags.profiles === undefined ? undefined : parseProfileFile(readText(resolve(io.cwd, flags.profiles)));
  const usages = measured ? usagesOf(measured, flags) : [usageOf(flags, policy.serverless.memoryMb)];
  const own = TARGET_OF[policy.serverless.provider.type];
  const target = flags.provider ?? own;
  const implied = selectionOf(policy);
  const largest = usages.reduce((a, b) => (b.memoryMb > a.memoryMb ? b : a), { calls: 0, durationMs: 0, memoryMb: 0 });
  const selection =
    flags.compare && selectProvider({ ...implied.needs, memoryMb: largest.memoryMb }, { ...implied.options, ...options, costs: usages });
  const targets = selection ? selection.candidates.map((one) => one.target) : [target];
  const estimates = targets.map((one) => ({ target: one, estimate: estimateCost(one, usages, options) }));
  const advice = measured ? adviceOf(measured, { flags, target, memoryMb: policy.serverless.memoryMb, options }) : [];
  print(io, flags.json, {
    document: {
      pricesOf: PRICES_DATE,
      usages,
      estimates: estimates.map(({ target: name, estimate: one }) => one ?? { target: name, problem: problemOf(name) }),
      ...(selection && { chosen: selection.chosen ?? null, because: selection.because, candidates: selection.candidates }),
      ...(measured && { advice }),
    },
    text: [
      ...(selection ? [compareText(estimates, selection)] : estimates.map(({ target: name, estimate: one }) => estimateText(name, one))),
      ...adviceText(advice),
    ].join('\n'),
  });
}

function usageOf(flags: EstimateFlags, memoryMb: number): Usage {
  const { calls, duration, cpuTime, concurrency, coldStarts, init, schedules, logBytes } = flags;
  return {
    calls,
    durationMs: duration,
    memoryMb: flags.memory ?? memoryMb,
    ...(cpuTime !== undefined && { cpuMs: cpuTime }),
    ...(flags.arm && { architecture: 'arm64' as const }),
    ...(concurrency !== undefined && { concurrency }),
    ...(coldStarts !== undefined && { coldStartRate: coldStarts / 100 }),
    ...(init !== undefined && { initMs: init }),
    ...(schedules !== undefined && { schedules, scheduledCalls: schedules * MONTH_MINUTES }),
    ...(logBytes !== undefined && { logBytes }),
  };
}

/** Each job so many times, as long and as large as it was measured. */
function usagesOf({ profiles }: ProfileFile, flags: EstimateFlags): Usage[] {
  return [...profiles.values()].map(({ avgDurationMs, peakMemoryMb }) => ({
    ...usageOf(flags, resourceSizing(peakMemoryMb).memoryMb),
    durationMs: avgDurationMs,
  }));
}

interface AdviceContext {
  readonly flags: EstimateFlags;
  readonly target: Target;
  readonly memoryMb: number;
  readonly options: CostOptions;
}

function adviceOf({ profiles }: ProfileFile, { flags, target, memoryMb, options }: AdviceContext): readonly Advice[] {
  const jobs = [...profiles].map(([jobId, profile]) => ({
    jobId,
    target,
    memoryMb: flags.memory ?? memoryMb,
    callsPerMonth: flags.calls,
    profile,
    ...(profile.samples !== undefined && { samples: profile.samples }),
  }));
  return advise(jobs, options);
}

function adviceText(advice: readonly Advice[]): string[] {
  if (advice.length === 0) return [];
  const rows = advice.map(({ jobId, action, savingUsd, confidence, because }) => [
    String(jobId),
    action,
    `$${cents(savingUsd)}`,
    confidence,
    because,
  ]);
  return ['', table([['JOB', 'ADVICE', 'SAVES', 'CONFIDENCE', 'BECAUSE'], ...rows])];
}

function estimateText(target: Target, estimate: CostEstimate | undefined): string {
  if (!estimate) return `${target}: ${problemOf(target)}`;
  const { lines, monthlyUsd, perThousandCallsUsd, perThousandMoreUsd, assumptions } = estimate;
  const rows = lines.map(({ name, quantity, unit, free, usd, uncertain }) => [
    `${name}${uncertain ? ' (?)' : ''}`,
    `${amount(quantity)} ${unit}s`,
    amount(free),
    `$${cents(usd)}`,
  ]);
  return [
    `${target}: $${cents(monthlyUsd)} a month, $${perThousandCallsUsd.toFixed(6)} per 1,000 calls; beyond what is free $${perThousandMoreUsd.toFixed(6)}`,
    '',
    table([['LINE', 'USED', 'FREE', 'USD'], ...rows]),
    '',
    `prices as of ${PRICES_DATE}; ${assumptions.join('; ')}`,
  ].join('\n');
}

function compareText(
  estimates: readonly { readonly target: Target; readonly estimate: CostEstimate | undefined }[],
  { because, candidates }: Selection,
): string {
  const rows = estimates.map(({ target, estimate }) => {
    const { against = [], notes = [] } = candidates.find((one) => one.target === target) ?? {};
    return [
      target,
      estimate ? `$${cents(estimate.monthlyUsd)}` : '-',
      estimate ? `$${estimate.perThousandCallsUsd.toFixed(6)}` : '-',
      estimate ? `$${estimate.perThousandMoreUsd.toFixed(6)}` : '-',
      [...against, ...notes].join('; '),
    ];
  });
  const head = ['PLATFORM', 'A MONTH', 'PER 1,000', 'BEYOND FREE', 'REMARKS'];
  return [table([head, ...rows]), '', because, `list prices of ${PRICES_DATE}`].join('\n');
}

function problemOf(target: Target): string {
  return target === 'kubernetes' || target === 'custom' ? 'nobody publishes its prices' : 'it has no function of that size';
}

function amount(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: 3 });
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readText(file)) as unknown;
  } catch (cause) {
    throw new RunnerError('CONFIG_INVALID', `${file} holds no JSON: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

function parseTarget(text: string): Target {
  const target = [...TARGETS, 'kubernetes' as const, 'custom' as const].find((known) => known === text);
  if (!target) throw new InvalidArgumentError(`It must be one of ${TARGETS.join(', ')}.`);
  return target;
}

/** `1500`, `2.5`, `3M`, `10k`. */
function parseMany(text: string): number {
  const [, digits = '', unit = ''] = /^(\d+(?:\.\d+)?)([kM]?)$/.exec(text) ?? [];
  if (digits === '') throw new InvalidArgumentError('It must be a number, like 1500, 10k or 3M.');
  return Number(digits) * (unit === 'M' ? 1e6 : unit === 'k' ? 1e3 : 1);
}

function parsePercent(text: string): number {
  const percent = parseMany(text.replace(/%$/, ''));
  if (percent > 100) throw new InvalidArgumentError('It must be 0 to 100.');
  return percent;
}
