/** Plugin `container`: functions in containers of Docker or podman, or of `runc` without a daemon. */

import { RunnerError } from '../../src/plugin.ts';
import type { Plugin } from '../../src/plugin.ts';
import { ContainerBackend } from './backend.ts';
import type { ContainerBackendOptions } from './backend.ts';

export { ContainerBackend } from './backend.ts';
export type { ContainerBackendOptions } from './backend.ts';
export type { ImageOptions, PullPolicy } from './images.ts';
export type { InstanceLimits } from './limits.ts';
export { RuncBackend } from './runc.ts';
export type { RuncBackendOptions } from './runc.ts';

export const containerPlugin: Plugin = {
  name: 'container',
  peers: [{ name: 'dockerode', range: '^5.0.0' }],
  register(registry) {
    registry.backend((options, { clock }) => new ContainerBackend({ clock, ...parseOptions<ContainerBackendOptions>(options, OPTIONS) }));
  },
};

/** How the value of an option is checked. */
const CHECKS = {
  text: (value: unknown) => typeof value === 'string' && value !== '',
  count: (value: unknown) => typeof value === 'number' && Number.isInteger(value) && value > 0,
  record: (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value),
  pull: (value: unknown) => value === 'missing' || value === 'never' || value === 'always',
} as const;

type Check = keyof typeof CHECKS;

const OPTIONS: Readonly<Record<string, Check>> = {
  folder: 'text',
  host: 'text',
  images: 'record',
  pull: 'pull',
  registry: 'text',
  limits: 'record',
  runtime: 'text',
  startTimeoutMs: 'count',
  nodePath: 'text',
};

function parseOptions<Options>(options: unknown, known: Readonly<Record<string, Check>>): Options {
  if (typeof options !== 'object' || options === null)
    throw new RunnerError('CONFIG_INVALID', 'plugin container takes an object of options with a folder');
  for (const [name, value] of Object.entries(options)) {
    const check = known[name];
    if (check === undefined)
      throw new RunnerError('CONFIG_INVALID', `plugin container has no option ${name}; it has ${Object.keys(known).join(', ')}`);
    if (value !== undefined && !CHECKS[check](value))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin container is not a ${check}`);
  }
  if (!('folder' in options)) throw new RunnerError('CONFIG_INVALID', 'plugin container needs the option folder');
  // Every field was checked above.
  return options as Options;
}
