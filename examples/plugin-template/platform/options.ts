/** What users of the plugin write. */

import { RunnerError } from '../../../src/plugin.ts';
import type { SecretReference } from '../../../src/plugin.ts';

export interface AcmeOptions {
  /** Where the platform is. */
  readonly url: string;
  /** The token, by reference: `env:NAME`, `file:/path` or a function. Default `env:ACME_TOKEN`. */
  readonly token?: SecretReference;
  /** Executor: the function that has the jobs. */
  readonly function?: string;
}

const CHECKS: Readonly<Record<keyof AcmeOptions, (value: unknown) => boolean>> = {
  url: (value) => typeof value === 'string',
  token: (value) => typeof value === 'string' || typeof value === 'function',
  function: (value) => typeof value === 'string',
};

/** Throws `CONFIG_INVALID`; whoever made a mistake learns what the plugin takes. */
export function acmeOptions(options: unknown): AcmeOptions {
  const known = Object.keys(CHECKS).join(', ');
  if (typeof options !== 'object' || options === null) throw new RunnerError('CONFIG_INVALID', `plugin acme takes an object with ${known}`);
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(CHECKS, name)) throw new RunnerError('CONFIG_INVALID', `plugin acme has no option ${name}; it has ${known}`);
    // The line above: it is one of them.
    if (!CHECKS[name as keyof AcmeOptions](value))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin acme is malformed`);
  }
  if (!('url' in options)) throw new RunnerError('CONFIG_INVALID', 'plugin acme needs the option url');
  // Every field was checked above.
  return options as AcmeOptions;
}

export function tokenOf({ token = 'env:ACME_TOKEN' }: AcmeOptions): SecretReference {
  return token;
}
