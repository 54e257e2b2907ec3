/** What deployers have in common: refusing what cannot be deployed before anything is written, and carrying out what was planned. */

import { RunnerError } from '../errors.ts';
import type {
  DeployChange,
  DeployOptions,
  DeployReport,
  FaasDeployer,
  FunctionConfig,
  FunctionVersionInfo,
  LimitViolation,
} from './deployer.ts';

/** One write, and what it is called in a report. */
export interface Step {
  readonly change: DeployChange;
  run(signal: AbortSignal | undefined): Promise<void>;
}

/** What differs from what should be, and what the platform cannot do as asked. */
export interface StepPlan {
  readonly steps: readonly Step[];
  readonly warnings: readonly string[];
}

/** Throws `ABORTED` for a deployment that was cancelled, and `LIMIT_EXCEEDED` with all violations. `platform` is for people. */
export function refuseUnfit(
  name: string,
  { platform, violations, signal }: { platform: string; violations: readonly LimitViolation[]; signal: AbortSignal | undefined },
): void {
  if (signal?.aborted) throw new RunnerError('ABORTED', `the deployment of ${name} was cancelled`, { cause: signal.reason, retry: 'safe' });
  if (violations.length === 0) return;
  const message = `the function ${name} breaks limits of ${platform}: ${violations.map((each) => each.message).join('; ')}`;
  throw new RunnerError('LIMIT_EXCEEDED', message, { details: { violations } });
}

/** A warning for each setting that is asked for and that the platform has not; under `strict` throws `LIMIT_EXCEEDED` with all of them. */
export function warningsOf(
  config: FunctionConfig,
  { platform, cannot, strict = false }: { platform: string; cannot: readonly (keyof FunctionConfig)[]; strict: boolean | undefined },
): string[] {
  const asked = cannot.filter((field) => config[field] !== undefined);
  if (strict && asked.length > 0) {
    const violations = asked.map((limit) => ({
      limit,
      value: JSON.stringify(config[limit]),
      allowed: 'nothing',
      message: `${platform} has no ${limit}`,
    }));
    throw new RunnerError('LIMIT_EXCEEDED', `${platform} has no ${asked.join(', ')}`, { details: { violations } });
  }
  return asked.map((field) => `${field} is left out: ${platform} has no such setting`);
}

/** Takes the steps in order; a dry run only tells them. The report has the function as it is afterwards, when there is one. */
export async function carryOut(
  deployer: Pick<FaasDeployer, 'describe'>,
  { name, plan, options }: { readonly name: string; readonly plan: StepPlan; readonly options: DeployOptions },
): Promise<DeployReport> {
  const { steps, warnings } = plan;
  const { dryRun = false, signal, onProgress } = options;
  const changes = steps.map(({ change }) => change);
  for (const [done, { change, run }] of steps.entries()) {
    const step = `${change.action} ${change.resource} ${change.id}`;
    onProgress?.({ step, function: name, ...(!dryRun && { writes: true }), done, total: steps.length });
    if (!dryRun) await run(signal);
  }
  const isGone = changes.some(
    ({ action, resource }) => resource === 'function' && (action === 'delete' || (dryRun && action === 'create')),
  );
  const state = isGone ? undefined : await deployer.describe(name, signal && { signal });
  return { ...(state && { state }), changes, warnings };
}

/** The version asked for, or the one before the current one. `versions`: newest first. Throws `NOT_FOUND`. */
export function rollbackTarget(name: string, versions: readonly FunctionVersionInfo[], version: string | undefined): FunctionVersionInfo {
  const current = versions.findIndex((each) => each.current);
  const before = current < 0 ? undefined : versions[current + 1];
  const target = version === undefined ? before : versions.find((each) => each.version === version);
  if (!target) throw noVersion(name, versions, version);
  return target;
}

/** `version`: undefined for the one before the current one. */
export function noVersion(
  name: string,
  versions: readonly Pick<FunctionVersionInfo, 'version'>[],
  version: string | undefined,
): RunnerError {
  const what = version === undefined ? 'version before the current one' : `version ${version}`;
  const details = { name, versions: versions.map((each) => each.version) };
  return new RunnerError('NOT_FOUND', `function ${name} has no ${what}`, { details });
}
