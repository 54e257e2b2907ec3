/** The options of the plugin: the same for executor and deployer. */

import { RunnerError, Secret } from '../../src/plugin.ts';
import type { Clock, FunctionState, SecretReference } from '../../src/plugin.ts';
import type { NamespaceOptions } from './namespace.ts';

export interface DigitalOceanOptions {
  /** A token of the API. Default `env:DIGITALOCEAN_TOKEN`. */
  readonly token?: SecretReference | undefined;
  /** Label or id of the namespace. Default `blueprint-functions`. */
  readonly namespace?: string | undefined;
  /** Where the namespace is made when it is missing. Default `nyc1`. */
  readonly region?: string | undefined;
  /** Default `https://api.digitalocean.com`. */
  readonly apiUrl?: string | undefined;
}

export interface DigitalOceanExecutorOptions extends DigitalOceanOptions {
  /** The function that has all jobs, or the name of each job's. Default: `blueprint-job-{id}`. */
  readonly function?: string | ((jobId: bigint) => string) | undefined;
}

const API_URL = 'https://api.digitalocean.com';

export function tokenOf({ token = 'env:DIGITALOCEAN_TOKEN' }: DigitalOceanOptions, clock: Clock): Secret {
  return new Secret(token, { clock });
}

/** Throws `CONFIG_INVALID`. */
export function namespaceOptionsOf({
  namespace = 'blueprint-functions',
  region = 'nyc1',
  apiUrl = API_URL,
}: DigitalOceanOptions): NamespaceOptions {
  const url = URL.parse(apiUrl);
  if (!url || !/^https?:$/.test(url.protocol))
    throw new RunnerError('CONFIG_INVALID', `the option apiUrl of plugin digitalocean is ${JSON.stringify(apiUrl)}, which is no address`);
  return { namespace, region, apiUrl: apiUrl.replace(/\/+$/, '') };
}

/** What a runner needs to call a function, without secrets. */
export function referenceOf(options: DigitalOceanOptions, name: string): FunctionState['executor'] {
  const { token, namespace, apiUrl } = options;
  return {
    use: 'digitalocean',
    options: {
      function: name,
      ...(typeof token === 'string' && { token }),
      ...(namespace !== undefined && { namespace }),
      ...(apiUrl !== undefined && { apiUrl }),
    },
  };
}

const KNOWN = ['token', 'namespace', 'region', 'apiUrl'];

/** Throws `CONFIG_INVALID`. */
export function parseOptions<Options extends DigitalOceanOptions>(options: unknown, more: readonly string[] = []): Options {
  const given = options ?? {};
  const known = [...KNOWN, ...more];
  if (typeof given !== 'object' || Array.isArray(given))
    throw new RunnerError('CONFIG_INVALID', 'plugin digitalocean takes an object of options');
  for (const [name, value] of Object.entries(given)) {
    if (!known.includes(name))
      throw new RunnerError('CONFIG_INVALID', `plugin digitalocean has no option ${name}; it has ${known.join(', ')}`);
    const mayBeFunction = name === 'token' || name === 'function';
    if (value !== undefined && typeof value !== 'string' && !(mayBeFunction && typeof value === 'function'))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin digitalocean is not text`);
  }
  // Every field was checked above.
  return given as Options;
}
