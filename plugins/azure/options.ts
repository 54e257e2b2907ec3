/** The options of the plugin: the same for executor and deployer. */

import { RunnerError, Secret } from '../../src/plugin.ts';
import type { Clock, SecretReference } from '../../src/plugin.ts';

export interface AzureEndpoints {
  /** Where tokens come from. Default `https://login.microsoftonline.com`. */
  readonly login?: string | undefined;
  /** The Resource Manager. Default `https://management.azure.com`. */
  readonly management?: string | undefined;
  /** What tokens of the Resource Manager are for. Default `https://management.azure.com`. */
  readonly audience?: string | undefined;
  /** Where a machine asks for its own identity. Default `http://169.254.169.254`. */
  readonly metadata?: string | undefined;
  /** Application Insights. Default `https://api.applicationinsights.io`. */
  readonly insights?: string | undefined;
  /** Deployment of an app, with `{app}` for its name. Default: what Azure says of the app. */
  readonly scm?: string | undefined;
  /** Calls to an app, with `{app}` for its name. Default: what Azure says of the app. */
  readonly functions?: string | undefined;
  /** Blobs of a storage account, with `{account}` for its name. Default: what Azure says of the account. */
  readonly storage?: string | undefined;
}

export interface AzureOptions {
  readonly subscriptionId?: string | undefined;
  /** Default `eastus`. */
  readonly region?: string | undefined;
  /** Made when it is missing. Default `blueprint-{region}`. */
  readonly resourceGroup?: string | undefined;
  /** Made when it is missing, never removed. Default: a name that follows from subscription and group, removed with the last function. */
  readonly storageAccount?: string | undefined;
  /**
   * - `client-secret`: `tenantId`, `clientId`, `clientSecret`
   * - `managed`: the identity of the app, or of the machine, that this runs on
   *
   * Default: `client-secret`, or `managed` where the environment has `IDENTITY_ENDPOINT`.
   */
  readonly identity?: 'client-secret' | 'managed' | undefined;
  /** Default `env:AZURE_TENANT_ID`. */
  readonly tenantId?: SecretReference | undefined;
  /** Default `env:AZURE_CLIENT_ID`. Of a managed identity: only when it is one of several. */
  readonly clientId?: SecretReference | undefined;
  /** Default `env:AZURE_CLIENT_SECRET`. */
  readonly clientSecret?: SecretReference | undefined;
  /** A token of the Resource Manager in place of an identity: of `az account get-access-token`. */
  readonly token?: SecretReference | undefined;
  /** Application id of the Application Insights that the logs are read from. */
  readonly insightsAppId?: string | undefined;
  /** Connection string of the Application Insights that functions write to. */
  readonly insightsConnection?: SecretReference | undefined;
  readonly endpoints?: AzureEndpoints | undefined;
  /** Between two looks at what takes its time, milliseconds, where Azure does not say. Default 2,000. */
  readonly pollMs?: number | undefined;
}

export interface AzureExecutorOptions extends AzureOptions {
  /** The function that has all jobs, or the name of each job's. Default: `blueprint-job-{id}`. */
  readonly function?: string | ((jobId: bigint) => string) | undefined;
  /** Address of the function. Default: Azure is asked. */
  readonly url?: string | undefined;
  /** A key of the function. Default: Azure is asked, once for each function, and again after a refusal. */
  readonly key?: SecretReference | undefined;
}

export const ENDPOINTS = {
  login: 'https://login.microsoftonline.com',
  management: 'https://management.azure.com',
  audience: 'https://management.azure.com',
  metadata: 'http://169.254.169.254',
  insights: 'https://api.applicationinsights.io',
} as const;

export function regionOf({ region = 'eastus' }: AzureOptions): string {
  return region;
}

export function groupOf(options: AzureOptions): string {
  return options.resourceGroup ?? `blueprint-${regionOf(options)}`;
}

/** Throws `CONFIG_INVALID`. */
export function subscriptionOf({ subscriptionId }: AzureOptions): string {
  if (subscriptionId !== undefined && /^[0-9a-zA-Z-]+$/.test(subscriptionId)) return subscriptionId;
  throw new RunnerError('CONFIG_INVALID', 'plugin azure needs the option subscriptionId, the id of a subscription of Azure');
}

/** An address with its place filled in. */
export function filled(template: string | undefined, place: 'app' | 'account', name: string): string | undefined {
  return template?.replaceAll(`{${place}}`, encodeURIComponent(name));
}

/** A secret, or undefined where there is none. */
export async function readOr(reference: SecretReference | undefined, clock: Clock): Promise<string | undefined> {
  if (reference === undefined) return undefined;
  try {
    return await new Secret(reference, { clock }).read();
  } catch {
    return undefined;
  }
}

/** What of the options a runner elsewhere needs; without secrets. */
export function referenceOf(
  options: AzureOptions,
  name: string,
): { readonly options: Readonly<Record<string, unknown>>; readonly environment: readonly string[] } {
  const { subscriptionId, identity, endpoints } = options;
  const references = { tenantId: options.tenantId, clientId: options.clientId, clientSecret: options.clientSecret, token: options.token };
  const said = Object.fromEntries(Object.entries(references).filter(([, value]) => typeof value === 'string'));
  const environment = ['AZURE_TENANT_ID', 'AZURE_CLIENT_ID', 'AZURE_CLIENT_SECRET'];
  return {
    options: {
      function: name,
      subscriptionId,
      resourceGroup: groupOf(options),
      ...(identity !== undefined && { identity }),
      ...(endpoints && { endpoints: { ...endpoints } }),
      ...said,
    },
    environment: identity === 'managed' || options.token !== undefined ? [] : environment,
  };
}

const TEXT = (value: unknown): boolean => typeof value === 'string';
const SECRET = (value: unknown): boolean => typeof value === 'string' || typeof value === 'function';
/** Where it is; never the secret itself, which would be written down with the other options. */
const REFERENCE = (value: unknown): boolean => typeof value === 'function' || (typeof value === 'string' && /^(?:env|file):./.test(value));
const ADDRESSES = (value: unknown): boolean =>
  typeof value === 'object' &&
  value !== null &&
  Object.entries(value).every(
    ([name, each]) => ENDPOINT_NAMES.has(name) && (each === undefined || (typeof each === 'string' && URL.canParse(each))),
  );
const ENDPOINT_NAMES: ReadonlySet<string> = new Set([...Object.keys(ENDPOINTS), 'scm', 'functions', 'storage']);

const CHECKS: Readonly<Record<string, (value: unknown) => boolean>> = {
  subscriptionId: TEXT,
  region: TEXT,
  resourceGroup: TEXT,
  storageAccount: TEXT,
  identity: (value) => value === 'client-secret' || value === 'managed',
  tenantId: SECRET,
  clientId: SECRET,
  clientSecret: REFERENCE,
  token: REFERENCE,
  insightsAppId: TEXT,
  insightsConnection: REFERENCE,
  endpoints: ADDRESSES,
  pollMs: (value) => typeof value === 'number' && value > 0,
};
const EXECUTOR_CHECKS = {
  ...CHECKS,
  function: SECRET,
  url: (value: unknown) => typeof value === 'string' && URL.canParse(value),
  key: REFERENCE,
};

/** Throws `CONFIG_INVALID`. */
export function parseOptions<Options extends AzureOptions>(options: unknown, of: 'executor' | 'deployer'): Options {
  const checks: Readonly<Record<string, (value: unknown) => boolean>> = of === 'executor' ? EXECUTOR_CHECKS : CHECKS;
  const given = options ?? {};
  if (typeof given !== 'object' || Array.isArray(given)) throw new RunnerError('CONFIG_INVALID', 'plugin azure takes an object of options');
  for (const [name, value] of Object.entries(given)) {
    const check = checks[name];
    if (!check) throw new RunnerError('CONFIG_INVALID', `plugin azure has no option ${name}; it has ${Object.keys(checks).join(', ')}`);
    if (value !== undefined && !check(value))
      throw new RunnerError(
        'CONFIG_INVALID',
        // The value itself may be a secret.
        `the option ${name} of plugin azure is not ${check === REFERENCE ? 'a reference to a secret: env:NAME or file:/path' : 'as it should be'}`,
      );
  }
  // Every field was checked above.
  return given as Options;
}
