/** What users of the plugin write. */

import { RunnerError } from '../../../src/plugin.ts';

export interface AcmeOptions {
  /** The program that runs functions. Default: the node that runs this. */
  readonly node?: string;
}

/** Throws `CONFIG_INVALID`; whoever made a mistake learns what the plugin takes. */
export function acmeOptions(options: unknown = {}): AcmeOptions {
  if (typeof options !== 'object' || options === null) throw new RunnerError('CONFIG_INVALID', 'plugin acme takes an object with node');
  for (const [name, value] of Object.entries(options)) {
    if (name !== 'node') throw new RunnerError('CONFIG_INVALID', `plugin acme has no option ${name}; it has node`);
    if (typeof value !== 'string') throw new RunnerError('CONFIG_INVALID', 'the option node of plugin acme is not the path of a program');
  }
  return options;
}
