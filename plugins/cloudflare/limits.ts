/** What Cloudflare allows, checked before anything is written. */

import { LIMITS } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionPackage, LimitViolation } from '../../src/plugin.ts';
import { cronsFor, SCHEDULES_VARIABLE } from './schedules.ts';
import { RESERVED } from './secrets.ts';

const { cloudflare: CLOUDFLARE } = LIMITS;
const VARIABLE = /^[A-Za-z_$][\w$]*$/;

export function violationsOf(name: string, code: FunctionPackage | undefined, config: FunctionConfig): readonly LimitViolation[] {
  const { namePattern, nameLengthMax, memoryMb, timeoutMs, zipBytesMax, descriptionLengthMax } = CLOUDFLARE;
  const { environmentCountMax, environmentValueBytesMax } = CLOUDFLARE;
  const broken: LimitViolation[] = [];
  const violated = (limit: string, value: number | string, allowed: string): void =>
    void broken.push({ limit, value, allowed, message: `${limit} is ${value}; it must be ${allowed}` });
  if (!namePattern.test(name) || name.length > nameLengthMax)
    violated('name', name, `up to ${nameLengthMax} lower-case letters, digits, _ and -`);
  if (code && code.zip.length > zipBytesMax) violated('zipBytes', code.zip.length, `up to ${zipBytesMax}`);
  const { memoryMb: memory, timeoutMs: timeout, description = '', environment = {} } = config;
  if (memory !== undefined && memory !== memoryMb.max) violated('memoryMb', memory, `${memoryMb.max}, which every Worker has`);
  if (timeout !== undefined && (!Number.isInteger(timeout) || timeout < timeoutMs.min || timeout > timeoutMs.max))
    violated('timeoutMs', timeout, `from ${timeoutMs.min} to ${timeoutMs.max}`);
  if (description.length > descriptionLengthMax) violated('descriptionLength', description.length, `up to ${descriptionLengthMax}`);
  const variables = Object.entries(environment);
  const countMax = environmentCountMax - RESERVED.length;
  if (variables.length > countMax) violated('environmentCount', variables.length, `up to ${countMax}`);
  for (const [variable, value] of variables) {
    if (!VARIABLE.test(variable)) violated('environmentName', variable, 'an identifier');
    else if (RESERVED.includes(variable)) violated('environmentName', variable, 'another one: the deployer makes this');
    if (Buffer.byteLength(value) > environmentValueBytesMax)
      violated('environmentValueBytes', Buffer.byteLength(value), `up to ${environmentValueBytesMax} (${variable})`);
  }
  const scheduleBytes = bytesOfSchedules(config);
  if (scheduleBytes > environmentValueBytesMax)
    violated('scheduleBytes', scheduleBytes, `up to ${environmentValueBytesMax}, as ${SCHEDULES_VARIABLE}`);
  return broken;
}

/** Schedules that mean nothing are told later, as such. */
function bytesOfSchedules({ schedules = [] }: FunctionConfig): number {
  try {
    return Buffer.byteLength(cronsFor(schedules, false).variable ?? '');
  } catch {
    return 0;
  }
}
