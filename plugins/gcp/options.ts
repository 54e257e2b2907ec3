/** The options of the plugin: who calls, and where the services of GCP are. */

import { RunnerError, parseTarget } from '../../src/plugin.ts';
import type { ExecutorLimits, SecretReference } from '../../src/plugin.ts';

/** The services that are called. Addresses are without the version of the API, as in `CLOUDSDK_API_ENDPOINT_OVERRIDES_*`. */
const ENDPOINTS = {
  functions: 'https://cloudfunctions.googleapis.com',
  run: 'https://run.googleapis.com',
  scheduler: 'https://cloudscheduler.googleapis.com',
  logging: 'https://logging.googleapis.com',
  iamCredentials: 'https://iamcredentials.googleapis.com',
} as const;
/** These have an address of their own elsewhere: in the credentials, in the environment, in the answer to a request. */
const MORE_ENDPOINTS = ['token', 'metadata', 'upload'] as const;

export type Service = keyof typeof ENDPOINTS;

/**
 * Addresses of emulators and private endpoints. `token` takes the place of the `token_uri` of the credentials, `metadata` of the metadata
 * server, `upload` of the origin that packages are sent to.
 */
export type GcpEndpoints = Readonly<Partial<Record<Service | (typeof MORE_ENDPOINTS)[number], string>>>;

/**
 * Who calls. The first of these that is there: `token`, `credentials`, the variable `CLOUDSDK_AUTH_ACCESS_TOKEN`, the file that
 * `GOOGLE_APPLICATION_CREDENTIALS` names, the metadata server of the machine.
 */
export interface GcpAuthOptions {
  /** An access token. It says nothing to functions that are not public: for these, add `serviceAccount` or `idToken`. */
  readonly token?: SecretReference | undefined;
  /** The JSON of a service account, or of a user as `gcloud auth application-default login` writes it. */
  readonly credentials?: SecretReference | undefined;
  /** An ID token for calls of functions. */
  readonly idToken?: SecretReference | undefined;
  /** Mail address of a service account that ID tokens are asked for, with the right to `iam.serviceAccounts.getOpenIdToken`. */
  readonly serviceAccount?: string | undefined;
  readonly endpoints?: GcpEndpoints | undefined;
}

export interface GcpOptions extends GcpAuthOptions {
  readonly projectId: string;
  /** Default `us-central1`. */
  readonly region?: string | undefined;
}

export interface GcpExecutorOptions extends GcpAuthOptions {
  /** Where the function is: `https://name-hash-uc.a.run.app`. */
  readonly uri: string;
  /** What the ID token is for. Default: `uri`. */
  readonly audience?: string | undefined;
  /** Everybody may call it: no token is sent. */
  readonly public?: boolean | undefined;
  /** Default: 32 MiB each way with some room for headers, 60 minutes. */
  readonly limits?: Partial<ExecutorLimits> | undefined;
}

export const REGION = 'us-central1';

/** Variables that say who calls, for a runner elsewhere. */
export const CREDENTIAL_VARIABLES = ['GOOGLE_APPLICATION_CREDENTIALS', 'CLOUDSDK_AUTH_ACCESS_TOKEN', 'GCE_METADATA_HOST'] as const;

export function endpointOf(service: Service, { endpoints = {} }: GcpAuthOptions): string {
  return endpoints[service] ?? ENDPOINTS[service];
}

const CHECKS = {
  text: (value: unknown) => typeof value === 'string' && value !== '',
  secret: (value: unknown) => typeof value === 'string' || typeof value === 'function',
  flag: (value: unknown) => typeof value === 'boolean',
  record: (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value),
} as const;

type Checks = Readonly<Record<string, keyof typeof CHECKS>>;

const AUTH: Checks = { token: 'secret', credentials: 'secret', idToken: 'secret', serviceAccount: 'text', endpoints: 'record' };
export const DEPLOYER_OPTIONS: Checks = { ...AUTH, projectId: 'text', region: 'text' };
export const EXECUTOR_OPTIONS: Checks = { ...AUTH, uri: 'text', audience: 'text', public: 'flag', limits: 'record' };

/** Throws `CONFIG_INVALID`. */
export function parseOptions<Options extends GcpAuthOptions>(options: unknown, known: Checks, needed: keyof Options & string): Options {
  const given = options ?? {};
  if (typeof given !== 'object' || Array.isArray(given)) throw invalid('takes an object of options');
  for (const [name, value] of Object.entries(given)) {
    const check = known[name];
    if (check === undefined) throw invalid(`has no option ${name}; it has ${Object.keys(known).join(', ')}`);
    if (value !== undefined && !CHECKS[check](value)) throw invalid(`wants ${check} as the option ${name}`);
  }
  if (!(needed in given)) throw invalid(`needs the option ${needed}`);
  checkEndpoints(given);
  // Every field was checked above.
  return given as Options;
}

function checkEndpoints({ endpoints = {} }: GcpAuthOptions): void {
  const known: readonly string[] = [...Object.keys(ENDPOINTS), ...MORE_ENDPOINTS];
  for (const [name, address] of Object.entries(endpoints)) {
    if (!known.includes(name)) throw invalid(`knows no endpoint ${name}; it knows ${known.join(', ')}`);
    parseTarget(String(address));
  }
}

function invalid(message: string): RunnerError {
  return new RunnerError('CONFIG_INVALID', `plugin gcp ${message}`);
}
