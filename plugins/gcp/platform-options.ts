/** What only GCP knows of a function: `FunctionConfig.platform`. */

import { RunnerError } from '../../src/plugin.ts';
import type { FunctionConfig } from '../../src/plugin.ts';
import { asFields } from './client.ts';

export const INGRESS = {
  all: 'ALLOW_ALL',
  internal: 'ALLOW_INTERNAL_ONLY',
  'internal-and-gclb': 'ALLOW_INTERNAL_AND_GCLB',
} as const;

export const EGRESS = { 'private-ranges': 'PRIVATE_RANGES_ONLY', all: 'ALL_TRAFFIC' } as const;

/** A version of a secret in Secret Manager; the function gets it as a variable. */
export interface GcpSecret {
  readonly secret: string;
  /** Default `latest`. */
  readonly version?: string;
  /** Default: that of the function. */
  readonly project?: string;
}

export interface GcpPlatform {
  /** Mail address of the account that the function runs as. Default: that of Compute Engine. */
  readonly serviceAccount?: string;
  /** Calls that one instance takes at the same time. Default 1; above 1 an instance needs a whole CPU. */
  readonly concurrency?: number;
  /** In place of what follows from `concurrencyMax`. */
  readonly maxInstances?: number;
  /** CPUs of an instance, as text: `1`, `0.333`. Default: follows from the memory. */
  readonly cpu?: string;
  /** `projects/p/locations/l/connectors/c`. */
  readonly vpcConnector?: string;
  readonly vpcEgress?: keyof typeof EGRESS;
  readonly ingress?: keyof typeof INGRESS;
  readonly secrets?: Readonly<Record<string, GcpSecret>>;
  /** Whether everybody may call the function: the role `roles/run.invoker` for `allUsers`. Left out: left alone. */
  readonly public?: boolean;
  /** Mail address of the account that builds. */
  readonly buildServiceAccount?: string;
  /** Mail address of the account that schedules call with. Default: the one that the function runs as. */
  readonly schedulerServiceAccount?: string;
  /** Of schedules: how long a call may take, 15 s to 30 min. Default: the timeout of the function within these. */
  readonly attemptDeadlineMs?: number;
  /** Of schedules: how often a call that failed is repeated, 0 to 5. Default 0. */
  readonly retries?: number;
}

const CHECKS: Readonly<Record<keyof GcpPlatform, readonly [what: string, check: (value: unknown) => boolean]>> = {
  serviceAccount: ['a mail address', isText],
  concurrency: ['a whole number from 1 to 1000', (value) => isWhole(value, 1, 1_000)],
  maxInstances: ['a whole number from 1', (value) => isWhole(value, 1, Number.MAX_SAFE_INTEGER)],
  cpu: ['a number as text', (value) => isText(value) && /^\d+(?:\.\d+)?$/.test(value)],
  vpcConnector: ['the name of a connector', isText],
  vpcEgress: [`one of ${Object.keys(EGRESS).join(', ')}`, (value) => isText(value) && Object.hasOwn(EGRESS, value)],
  ingress: [`one of ${Object.keys(INGRESS).join(', ')}`, (value) => isText(value) && Object.hasOwn(INGRESS, value)],
  secrets: ['{ VARIABLE: { secret, version?, project? } }', isSecrets],
  public: ['true or false', (value) => typeof value === 'boolean'],
  buildServiceAccount: ['a mail address', isText],
  schedulerServiceAccount: ['a mail address', isText],
  attemptDeadlineMs: ['from 15000 to 1800000', (value) => isWhole(value, 15_000, 1_800_000)],
  retries: ['a whole number from 0 to 5', (value) => isWhole(value, 0, 5)],
};

/** Throws `CONFIG_INVALID`. */
export function platformOf({ platform = {} }: FunctionConfig): GcpPlatform {
  for (const [name, value] of Object.entries(platform)) {
    const [what, check] = Object.hasOwn(CHECKS, name) ? CHECKS[name as keyof GcpPlatform] : [];
    if (!check) throw new RunnerError('CONFIG_INVALID', `GCP has no platform option ${name}; it has ${Object.keys(CHECKS).join(', ')}`);
    if (value !== undefined && !check(value)) throw new RunnerError('CONFIG_INVALID', `the platform option ${name} of GCP is ${what}`);
  }
  return platform;
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}

function isWhole(value: unknown, min: number, max: number): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max;
}

function isSecrets(value: unknown): boolean {
  return Object.values(asFields(value)).every((each) => {
    const { secret, version = 'latest', project = '-', ...rest } = asFields(each);
    return isText(secret) && isText(version) && isText(project) && Object.keys(rest).length === 0;
  });
}
