/** What GCP allows, checked before anything is written. */

import { LIMITS } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionPackage, LimitViolation } from '../../src/plugin.ts';
import { PACKAGE_VARIABLE } from './functions.ts';
import { platformOf } from './platform-options.ts';

const { gcp: GCP } = LIMITS;
/** https://docs.cloud.google.com/functions/docs/configuring/env-var#reserved_names */
const RESERVED = new Set([
  'FUNCTION_TARGET',
  'FUNCTION_SIGNATURE_TYPE',
  'K_SERVICE',
  'K_REVISION',
  'K_CONFIGURATION',
  'PORT',
  PACKAGE_VARIABLE,
]);
const LABELS_MAX = 64;
const LABEL = /^[\p{Ll}\p{Lo}\d_-]{0,63}$/u;
/** Below this memory an instance has less than a CPU, and takes one call at a time: https://docs.cloud.google.com/functions/docs/configuring/memory */
const WHOLE_CPU_MB = 2_048;
/** The id of a job of Cloud Scheduler: https://docs.cloud.google.com/scheduler/docs/reference/rest/v1/projects.locations.jobs */
const SCHEDULE_NAME = /^[a-z0-9-]{1,200}$/;

type Violated = (limit: string, value: number | string, allowed: string) => void;

export function violationsOf(name: string, code: FunctionPackage | undefined, config: FunctionConfig): readonly LimitViolation[] {
  const { namePattern, nameLengthMax, memoryMb, timeoutMs, zipBytesMax } = GCP;
  const broken: LimitViolation[] = [];
  const violated: Violated = (limit, value, allowed) =>
    void broken.push({ limit, value, allowed, message: `${limit} is ${value}; it must be ${allowed}` });
  if (!namePattern.test(name) || name.length > nameLengthMax)
    violated('name', name, `up to ${nameLengthMax} lower-case letters, digits and dashes, from a letter on`);
  if (code && code.zip.length > zipBytesMax) violated('zipBytes', code.zip.length, `up to ${zipBytesMax}`);
  const { memoryMb: memory, timeoutMs: timeout, instancesMin, concurrencyMax, schedules = [] } = config;
  if (memory !== undefined && (memory < memoryMb.min || memory > memoryMb.max || !Number.isInteger(memory)))
    violated('memoryMb', memory, `from ${memoryMb.min} to ${memoryMb.max}`);
  if (timeout !== undefined && (timeout < timeoutMs.min || timeout > timeoutMs.max))
    violated('timeoutMs', timeout, `from ${timeoutMs.min} to ${timeoutMs.max}`);
  if (concurrencyMax !== undefined && concurrencyMax < 1) violated('concurrencyMax', concurrencyMax, 'at least 1');
  if (instancesMin !== undefined && instancesMin < 0) violated('instancesMin', instancesMin, 'at least 0');
  const { concurrency = 1, cpu } = platformOf(config);
  if (concurrency > 1 && Number(cpu ?? (memory === undefined || memory >= WHOLE_CPU_MB ? 1 : 0)) < 1)
    violated('platform.concurrency', concurrency, `1 below a whole CPU: set platform.cpu to 1, or memoryMb to ${WHOLE_CPU_MB}`);
  for (const { name: schedule } of schedules)
    if (!SCHEDULE_NAME.test(schedule)) violated('schedule', schedule, 'up to 200 lower-case letters, digits and dashes');
  checkEnvironment(config, violated);
  checkLabels(config, violated);
  return broken;
}

function checkEnvironment({ environment = {} }: FunctionConfig, violated: Violated): void {
  const bytes = Buffer.byteLength(JSON.stringify(environment));
  if (bytes > GCP.environmentBytesMax) violated('environmentBytes', bytes, `up to ${GCP.environmentBytesMax}`);
  for (const name of Object.keys(environment))
    if (RESERVED.has(name) || name.startsWith('X_GOOGLE_') || !/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
      violated('environment', name, 'letters, digits and _, and none of the names that GCP keeps for itself');
}

function checkLabels({ tags = {} }: FunctionConfig, violated: Violated): void {
  const number = Object.keys(tags).length;
  if (number >= LABELS_MAX) violated('tags', number, `less than ${LABELS_MAX}`);
  for (const [key, value] of Object.entries(tags))
    if (!/^\p{Ll}/u.test(key) || !LABEL.test(key) || !LABEL.test(value))
      violated('tags', `${key}=${value}`, 'up to 63 lower-case letters, digits, _ and -, the key from a letter on');
}
