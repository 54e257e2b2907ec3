/** What users of the plugin can say, and whether what they said is of the right shape. */

import { RunnerError, parseTarget } from '../../src/plugin.ts';
import type { ExecutorLimits, FunctionConfig, FunctionState, SecretReference } from '../../src/plugin.ts';

/** How a Worker is reached. */
interface WorkerOptions {
  /** What callers of a Worker must know: its `BLUEPRINT_TOKEN`. Default `env:CLOUDFLARE_WORKER_TOKEN`. */
  readonly token?: SecretReference | undefined;
  /** Everybody who has the address may run the jobs: there is no token. Default false. */
  readonly public?: boolean | undefined;
  /** Where Workers answer. Default `https://{function}.{subdomain}.workers.dev`; a domain of one's own, an emulator. */
  readonly workersUrl?: string | undefined;
}

export interface CloudflareOptions extends WorkerOptions {
  readonly accountId: string;
  /** A token of the API with the permission Workers Scripts: Edit; for logs Workers Observability: Read. Default `env:CLOUDFLARE_API_TOKEN`. */
  readonly apiToken?: SecretReference | undefined;
  /** Default `https://api.cloudflare.com/client/v4`. */
  readonly apiUrl?: string | undefined;
}

export interface CloudflareExecutorOptions extends WorkerOptions {
  /** The Worker that has all jobs, or the name of each job's. Default: `blueprint-job-{id}`. */
  readonly function?: string | ((jobId: bigint) => string) | undefined;
  /** Of the account, below `workers.dev`. Needed unless `workersUrl` does without it. */
  readonly subdomain?: string | undefined;
  /**
   * - `binary` (default): the bytes as they are; for handlers made with this package
   * - `json`: what every handler of a Tangle blueprint understands, 3.6 bytes on the wire for one
   */
  readonly wire?: 'binary' | 'json' | undefined;
  readonly limits?: Partial<ExecutorLimits> | undefined;
}

/** `FunctionConfig.platform`. */
export interface CloudflareFunctionOptions {
  /** Names of variables and where their values are. They become secrets that nobody can read again; all of them are named here. */
  readonly secrets?: Readonly<Record<string, SecretReference>>;
  /** Default: that of the Worker, at first 2026-08-01. */
  readonly compatibilityDate?: string;
  /** Besides `nodejs_compat`. */
  readonly compatibilityFlags?: readonly string[];
  /** `smart`: near what the Worker talks to. */
  readonly placement?: 'smart' | 'off';
}

export const API_URL = 'https://api.cloudflare.com/client/v4';
export const WORKERS_URL = 'https://{function}.{subdomain}.workers.dev';
export const API_TOKEN = 'env:CLOUDFLARE_API_TOKEN';
export const WORKER_TOKEN = 'env:CLOUDFLARE_WORKER_TOKEN';

/** Without a slash at its end. */
export function addressOf(template: string, name: string, subdomain: string): string {
  return template.replaceAll('{function}', name).replaceAll('{subdomain}', subdomain).replace(/\/+$/, '');
}

/** What a runner needs to call a Worker, without secrets. */
export function referenceOf(options: CloudflareOptions, name: string, subdomain: string): FunctionState['executor'] {
  const { token = WORKER_TOKEN, workersUrl, public: isPublic = false } = options;
  const [, variable] = typeof token === 'string' ? (/^env:(.+)$/.exec(token) ?? []) : [];
  return {
    use: 'cloudflare',
    options: {
      function: name,
      ...(subdomain !== '' && { subdomain }),
      ...(workersUrl !== undefined && { workersUrl }),
      ...(isPublic ? { public: true } : typeof token === 'string' && { token }),
    },
    ...(!isPublic && variable !== undefined && { environment: [variable] }),
  };
}

const isText = (value: unknown): boolean => typeof value === 'string' && value !== '';
const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** How the value of an option is checked, and what it is to be. */
const CHECKS = {
  text: isText,
  secret: (value: unknown) => typeof value === 'function' || (typeof value === 'string' && /^(?:env|file):./.test(value)),
  switch: (value: unknown) => typeof value === 'boolean',
  address: (value: unknown) => isText(value) && parseTarget(addressOf(String(value), 'name', 'name')) !== undefined,
  name: (value: unknown) => typeof value === 'function' || isText(value),
  wire: (value: unknown) => value === 'binary' || value === 'json',
  record: isRecord,
  secrets: (value: unknown) => isRecord(value) && Object.values(value).every((each) => CHECKS.secret(each)),
  date: (value: unknown) => typeof value === 'string' && /^\d{4}-\d{2}-\d{2}$/.test(value),
  texts: (value: unknown) => Array.isArray(value) && value.every(isText),
  placement: (value: unknown) => value === 'smart' || value === 'off',
} as const;

type Checks = Readonly<Record<string, keyof typeof CHECKS>>;

const WORKER_OPTIONS: Checks = { token: 'secret', public: 'switch', workersUrl: 'address' };
const DEPLOYER_OPTIONS: Checks = { ...WORKER_OPTIONS, accountId: 'text', apiToken: 'secret', apiUrl: 'address' };
const EXECUTOR_OPTIONS: Checks = { ...WORKER_OPTIONS, function: 'name', subdomain: 'text', wire: 'wire', limits: 'record' };
const FUNCTION_OPTIONS: Checks = { secrets: 'secrets', compatibilityDate: 'date', compatibilityFlags: 'texts', placement: 'placement' };

/** Throws `CONFIG_INVALID`. */
export function parseDeployerOptions(options: unknown): CloudflareOptions {
  const checked = check<CloudflareOptions>('plugin cloudflare', options, DEPLOYER_OPTIONS);
  if (checked.accountId === undefined) throw new RunnerError('CONFIG_INVALID', 'plugin cloudflare needs the option accountId');
  return { ...checked, accountId: checked.accountId };
}

/** Throws `CONFIG_INVALID`. */
export function parseExecutorOptions(options: unknown): CloudflareExecutorOptions {
  const checked = check<CloudflareExecutorOptions>('plugin cloudflare', options, EXECUTOR_OPTIONS);
  if (checked.subdomain === undefined && (checked.workersUrl ?? WORKERS_URL).includes('{subdomain}'))
    throw new RunnerError('CONFIG_INVALID', 'plugin cloudflare needs the option subdomain, that of the account below workers.dev');
  return checked;
}

/** Throws `CONFIG_INVALID`. */
export function functionOptionsOf({ platform }: FunctionConfig): CloudflareFunctionOptions {
  return check<CloudflareFunctionOptions>('the configuration platform of cloudflare', platform, FUNCTION_OPTIONS);
}

function check<Options>(what: string, options: unknown, known: Checks): Partial<Options> {
  if (options === undefined || options === null) return {};
  if (!isRecord(options)) throw new RunnerError('CONFIG_INVALID', `${what} takes an object of options`);
  for (const [name, value] of Object.entries(options)) {
    const kind = Object.hasOwn(known, name) ? known[name] : undefined;
    if (kind === undefined)
      throw new RunnerError('CONFIG_INVALID', `${what} has no option ${name}; it has ${Object.keys(known).join(', ')}`);
    // The value itself may be a secret.
    if (value !== undefined && !CHECKS[kind](value))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of ${what} is not a ${kind}`);
  }
  // Every field was checked above.
  return options as Partial<Options>;
}
