/** What all descriptions of functions on AWS have in common. */

import { toEventBridgeScheduler } from '../schedule/eventbridge.ts';
import type { SchedulerTranslation } from '../schedule/eventbridge.ts';
import { leftOut, nameWithin } from './export-files.ts';
import type { ExportInput, ExportedFunction } from './export-files.ts';

/** The newest runtime that validators of templates know. */
const DEFAULT_RUNTIME = 'nodejs22.x';
const SECOND = 1_000;
/** https://docs.aws.amazon.com/scheduler/latest/APIReference/API_CreateSchedule.html */
const SCHEDULE_NAME_MAX = 64;
export const BASIC_POLICY = 'service-role/AWSLambdaBasicExecutionRole';
export const ALIAS = 'live';

export interface LambdaSettings {
  readonly runtime: string;
  readonly handler: string;
  readonly memoryMb: number;
  readonly timeoutSeconds: number;
  readonly ephemeralMb: number;
  readonly architecture: 'x86_64' | 'arm64';
  readonly environment: Readonly<Record<string, string>>;
  readonly tags: Readonly<Record<string, string>>;
  readonly logRetentionDays: number;
}

/** With every default written out: another tool has others. */
export function lambdaSettings({ config }: ExportedFunction): LambdaSettings {
  const runtime = config.runtime === undefined ? DEFAULT_RUNTIME : lambdaRuntime(config.runtime);
  return {
    runtime,
    handler: config.handler ?? (runtime.startsWith('provided') ? 'bootstrap' : 'handler.handler'),
    memoryMb: config.memoryMb ?? 128,
    timeoutSeconds: Math.ceil((config.timeoutMs ?? 3 * SECOND) / SECOND),
    ephemeralMb: config.ephemeralStorageMb ?? 512,
    architecture: config.architecture ?? 'x86_64',
    environment: config.environment ?? {},
    tags: config.tags ?? {},
    logRetentionDays: config.logRetentionDays ?? 14,
  };
}

function lambdaRuntime(runtime: string): string {
  if (runtime === 'custom') return 'provided.al2023';
  return /^nodejs\d+$/.test(runtime) ? `${runtime}.x` : runtime;
}

export interface LambdaSchedule {
  /** Unique in the account. */
  readonly name: string;
  readonly expression: string;
  readonly timezone: string;
  readonly window: SchedulerTranslation['flexibleTimeWindow'];
  /** JSON. */
  readonly event: string;
}

/** One entry for each expression that a schedule takes, and all that is not as it was asked for. */
export function lambdaSchedules(fn: ExportedFunction): { readonly schedules: LambdaSchedule[]; readonly warnings: string[] } {
  const { name, config } = fn;
  const warnings = leftOut(fn);
  const schedules = (config.schedules ?? []).flatMap((one) => {
    const { expressions, timezone, flexibleTimeWindow, losses } = toEventBridgeScheduler(one.schedule);
    warnings.push(...losses.map(({ message }) => `schedule ${one.name} of ${name}: ${message}`));
    return expressions.map((expression, index) => ({
      name: nameWithin(expressions.length === 1 ? `${name}-${one.name}` : `${name}-${one.name}-${index + 1}`, SCHEDULE_NAME_MAX),
      expression,
      timezone,
      window: flexibleTimeWindow,
      event: JSON.stringify(one.event ?? {}),
    }));
  });
  return { schedules, warnings };
}

/** The packages, as files beside the description. */
export function packageFiles({ functions }: ExportInput): Record<string, Uint8Array> {
  return Object.fromEntries(functions.map(({ name, code }) => [`${name}.zip`, code.zip]));
}

/** Letters and digits, unique as long as the names differ in more than signs. */
export function logicalId(name: string, suffix = ''): string {
  return `${name
    .split(/[^A-Za-z0-9]+/)
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join('')}${suffix}`;
}

export function trust(service: string): object {
  return { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Principal: { Service: service }, Action: 'sts:AssumeRole' }] };
}

export function invocation(resources: readonly unknown[]): object {
  return { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: 'lambda:InvokeFunction', Resource: resources }] };
}
