/** What Azure allows, checked before anything is written. */

import { LIMITS } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionPackage, LimitViolation } from '../../src/plugin.ts';
import { RESERVED } from './settings.ts';

/** What only Azure knows, as `FunctionConfig.platform`. */
export interface AzurePlatform {
  /** Calls at the same time in one instance, 1 to 1,000. Default: Azure's, which grows with the memory. */
  readonly perInstanceConcurrency?: number;
  /** 1 to 1,000. Default: Azure's 100. */
  readonly maximumInstanceCount?: number;
  /** `RollingUpdate` (default) lets running calls end; `Recreate` ends all instances at once. */
  readonly siteUpdateStrategy?: 'RollingUpdate' | 'Recreate';
}

const { azure: AZURE } = LIMITS;
/** https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules */
const NAME = /^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,58}[a-zA-Z0-9])$/;
const SCHEDULE_NAME = /^[a-z][a-z0-9-]{0,99}$/;
const SETTING_NAME = /^[a-zA-Z_][a-zA-Z0-9_]*$/;
/** The HTTP function of a package. */
const HTTP_FUNCTION = 'call';
const TAG_BYTES_MAX = 256;
const TAG_NAME = /^[^<>%&\\?/]{1,512}$/;
/** Of 50, what is left besides ours. */
const TAGS_MAX = 44;
const SCALE_MAX = 1_000;

export function violationsOf(name: string, code: FunctionPackage | undefined, config: FunctionConfig): readonly LimitViolation[] {
  const broken: LimitViolation[] = [];
  const violated = (limit: string, value: number | string, allowed: string): void =>
    void broken.push({ limit, value, allowed, message: `${limit} is ${value}; it must be ${allowed}` });
  if (!NAME.test(name)) violated('name', name, '2 to 60 letters, digits and dashes, with no dash at an end');
  if (code && code.zip.length > AZURE.zipBytesMax) violated('zipBytes', code.zip.length, `up to ${AZURE.zipBytesMax}`);
  const { memoryMb, timeoutMs, description = '', environment = {}, tags = {}, schedules = [], instancesMin, concurrencyMax } = config;
  const { min, max } = AZURE.timeoutMs;
  if (memoryMb !== undefined && !AZURE.memoryMb.steps?.includes(memoryMb))
    violated('memoryMb', memoryMb, `one of ${AZURE.memoryMb.steps?.join(', ')}`);
  if (timeoutMs !== undefined && !(timeoutMs >= min && timeoutMs <= max)) violated('timeoutMs', timeoutMs, `from ${min} to ${max}`);
  if (description.length > TAG_BYTES_MAX) violated('descriptionLength', description.length, `up to ${TAG_BYTES_MAX}`);
  if (instancesMin !== undefined && !isScale(instancesMin, 0)) violated('instancesMin', instancesMin, `a whole number up to ${SCALE_MAX}`);
  if (concurrencyMax !== undefined && !isScale(concurrencyMax, 1, SCALE_MAX * SCALE_MAX))
    violated('concurrencyMax', concurrencyMax, `a whole number from 1 to ${SCALE_MAX * SCALE_MAX}`);
  for (const key of Object.keys(environment)) {
    if (RESERVED.has(key)) violated('environment', key, 'another name: this one belongs to Azure or to this tool');
    else if (!SETTING_NAME.test(key)) violated('environment', key, 'letters, digits and underscores, beginning with no digit');
  }
  if (Object.keys(tags).length > TAGS_MAX) violated('tags', Object.keys(tags).length, `up to ${TAGS_MAX}`);
  for (const [key, value] of Object.entries(tags))
    if (!TAG_NAME.test(key) || value.length > TAG_BYTES_MAX || isOwnTag(key))
      violated('tags', key, `up to 512 characters but < > % & \\ ? /, not of this tool, with up to ${TAG_BYTES_MAX} as value`);
  for (const { name: schedule } of schedules)
    if (!SCHEDULE_NAME.test(schedule) || schedule === HTTP_FUNCTION)
      violated(
        'scheduleName',
        schedule,
        `up to 100 lower-case letters, digits and dashes, beginning with a letter, and not ${HTTP_FUNCTION}`,
      );
  return [...broken, ...platformViolations(config)];
}

/** Whether a tag is ours or Azure's, and not the user's. */
export function isOwnTag(name: string): boolean {
  return name === 'managed-by' || name.startsWith('blueprint-') || name.startsWith('hidden-');
}

function platformViolations({ platform = {} }: FunctionConfig): LimitViolation[] {
  return Object.entries(platform).flatMap(([name, value]) => {
    const allowed = PLATFORM[name];
    const limit = `platform.${name}`;
    if (!allowed)
      return {
        limit,
        value: String(value),
        allowed: 'absent',
        message: `Azure has no ${name}; it has ${Object.keys(PLATFORM).join(', ')}`,
      };
    if (value === undefined || allowed.isSound(value)) return [];
    return { limit, value: shown(value), allowed: allowed.text, message: `${limit} is ${shown(value)}; it must be ${allowed.text}` };
  });
}

const COUNT = { text: `a whole number from 1 to ${SCALE_MAX}`, isSound: (value: unknown) => isScale(value, 1) };
const PLATFORM: Readonly<Record<string, { readonly text: string; readonly isSound: (value: unknown) => boolean }>> = {
  perInstanceConcurrency: COUNT,
  maximumInstanceCount: COUNT,
  siteUpdateStrategy: { text: 'RollingUpdate or Recreate', isSound: (value) => value === 'RollingUpdate' || value === 'Recreate' },
};

function shown(value: unknown): string {
  return JSON.stringify(value) ?? 'a function';
}

function isScale(value: unknown, min: number, max = SCALE_MAX): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max;
}
