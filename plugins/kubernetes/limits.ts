/** What a function on Kubernetes may be, checked before anything is written. */

import { TARGET_LIMITS } from '../../src/plugin.ts';
import type { FunctionConfig, FunctionPackage, LimitViolation } from '../../src/plugin.ts';
import { KNATIVE_TIMEOUT_MS_MAX, scaleOf } from './knative.ts';
import type { FunctionOptions } from './options.ts';
import { PART_BYTES_MAX } from './pods.ts';

/** A service is a label of DNS: it begins with a letter. */
const NAME = /^[a-z](?:[a-z0-9-]*[a-z0-9])?$/;
const PARTS_MAX = 16;
/** The largest machines that anybody sells. */
const MEMORY_MB_MAX = 32 * 1_024 * 1_024;
/** The longest timer of Node. */
const TIMEOUT_MS_MAX = 2 ** 31 - 1;
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_.-]*$/;
/** Set by the deployment itself. */
const TAKEN = new Set([
  'K_SERVICE',
  'K_CONFIGURATION',
  'K_REVISION',
  'PORT',
  'HOST',
  'BLUEPRINT_ADAPTER',
  'BLUEPRINT_PACKAGE_SHA256',
  'BLUEPRINT_ALLOW_INSECURE',
  'BLUEPRINT_ARGS',
  'BLUEPRINT_CUSTOM',
]);

// oxlint-disable-next-line max-params -- those of the contract, and the options of the deployer
export function violationsOf(
  name: string,
  code: FunctionPackage | undefined,
  config: FunctionConfig,
  options: FunctionOptions,
): readonly LimitViolation[] {
  const { nameLengthMax, memoryMb: memory, timeoutMs: timeout, environmentBytesMax } = TARGET_LIMITS.kubernetes;
  const isServed = options.workload === 'knative';
  const timeoutMsMax = isServed ? KNATIVE_TIMEOUT_MS_MAX : TIMEOUT_MS_MAX;
  const broken: LimitViolation[] = [];
  const violated = (limit: string, value: number | string, allowed: string): void =>
    void broken.push({ limit, value, allowed, message: `${limit} is ${value}; it must be ${allowed}` });
  if (!NAME.test(name) || name.length > nameLengthMax)
    violated('name', name, `up to ${nameLengthMax} lower-case letters, digits and dashes, with a letter first`);
  const zipBytesMax = PARTS_MAX * PART_BYTES_MAX;
  if (code && code.zip.length > zipBytesMax) violated('zipBytes', code.zip.length, `up to ${zipBytesMax}`);
  const { memoryMb, timeoutMs, environment = {}, instancesMin } = config;
  if (memoryMb !== undefined && !(memoryMb >= memory.min && memoryMb <= MEMORY_MB_MAX))
    violated('memoryMb', memoryMb, `from ${memory.min} to ${MEMORY_MB_MAX}`);
  if (timeoutMs !== undefined && !(timeoutMs >= timeout.min && timeoutMs <= timeoutMsMax))
    violated('timeoutMs', timeoutMs, `from ${timeout.min} to ${timeoutMsMax}`);
  const bytes = Buffer.byteLength(JSON.stringify(environment));
  if (bytes > environmentBytesMax) violated('environmentBytes', bytes, `up to ${environmentBytesMax}`);
  for (const key of Object.keys(environment)) {
    if (!VARIABLE.test(key)) violated('environmentName', key, 'letters, digits, dots, dashes and underscores');
    if (TAKEN.has(key)) violated('environmentName', key, 'one that the deployment does not set itself');
  }
  if (instancesMin !== undefined && instancesMin > 1_000) violated('instancesMin', instancesMin, 'up to 1000');
  const { max } = scaleOf({ config, pods: options });
  if (isServed && max !== undefined && (instancesMin ?? 0) > max)
    violated(
      'instancesMin',
      instancesMin ?? 0,
      `up to ${max}, the most pods that concurrencyMax, containerConcurrency and instancesMax allow`,
    );
  return broken;
}
