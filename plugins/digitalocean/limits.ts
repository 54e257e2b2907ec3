/** What DigitalOcean allows, checked before anything is written. */

import { LIMITS } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionPackage, LimitViolation } from '../../src/plugin.ts';

const { digitalocean: DIGITALOCEAN } = LIMITS;
/** Kept versions have a longer name. */
const VERSION_SUFFIX_MAX = 8;

export function violationsOf(name: string, code: FunctionPackage | undefined, config: FunctionConfig): readonly LimitViolation[] {
  const { namePattern, nameLengthMax, memoryMb, timeoutMs, zipBytesMax, descriptionLengthMax, environmentBytesMax } = DIGITALOCEAN;
  const broken: LimitViolation[] = [];
  const violated = (limit: string, value: number | string, allowed: string): void =>
    void broken.push({ limit, value, allowed, message: `${limit} is ${value}; it must be ${allowed}` });
  const lengthMax = nameLengthMax - VERSION_SUFFIX_MAX;
  if (!namePattern.test(name) || name.length > lengthMax) violated('name', name, `up to ${lengthMax} letters, digits and _ @ . -`);
  if (code && code.zip.length > zipBytesMax) violated('zipBytes', code.zip.length, `up to ${zipBytesMax}`);
  const { memoryMb: memory, timeoutMs: timeout, description = '', environment } = config;
  if (memory !== undefined && !memoryMb.steps?.includes(memory)) violated('memoryMb', memory, `one of ${memoryMb.steps?.join(', ')}`);
  if (timeout !== undefined && (timeout < timeoutMs.min || timeout > timeoutMs.max))
    violated('timeoutMs', timeout, `from ${timeoutMs.min} to ${timeoutMs.max}`);
  if (description.length > descriptionLengthMax) violated('descriptionLength', description.length, `up to ${descriptionLengthMax}`);
  const environmentBytes = environment ? Buffer.byteLength(JSON.stringify(environment)) : 0;
  if (environmentBytes > environmentBytesMax) violated('environmentBytes', environmentBytes, `up to ${environmentBytesMax}`);
  return broken;
}
