/** Plugin `container`: functions in containers of Docker or podman, or of `runc` without a daemon. */

import { RunnerError } from '../../src/plugin.ts';
import type { Plugin } from '../../src/plugin.ts';
import { ContainerBackend } from './backend.ts';
import type { ContainerBackendOptions } from './host.ts';
import { ContainerMachineHost } from './machine-host.ts';
import type { ContainerMachineOptions } from './machine-host.ts';
import { RuncBackend } from './runc.ts';
import type { RuncBackendOptions } from './runc.ts';

export { ContainerBackend } from './backend.ts';
export type { ContainerBackendOptions } from './host.ts';
export { ContainerMachineHost } from './machine-host.ts';
export type { ContainerMachineOptions } from './machine-host.ts';
export { ContainerStdioExecutor } from './stdio-executor.ts';
export type { ContainerStdioExecutorOptions } from './stdio-executor.ts';
export type { StdioOptions, StdioResult } from './stdio.ts';
export type { ImageOptions, PullPolicy } from './images.ts';
export type { InstanceLimits } from './limits.ts';
export { RuncBackend } from './runc.ts';
export type { RuncBackendOptions } from './runc.ts';

/** Options of the plugin: those of its drivers, and which of them: a container engine (default), or `runc` without a daemon. */
export type ContainerPluginOptions =
  | ({ readonly driver?: 'engine' } & ContainerBackendOptions)
  | ({ readonly driver: 'runc' } & RuncBackendOptions);

export const containerPlugin: Plugin = {
  name: 'container',
  peers: [{ name: 'dockerode', range: '^5.0.0' }],
  register(registry) {
    registry.backend((given, { clock }) => {
      const options = parseOptions(given);
      return options.driver === 'runc' ? new RuncBackend({ clock, ...options }) : new ContainerBackend({ clock, ...options });
    });
    registry.host((given, { clock }) => new ContainerMachineHost({ clock, ...parsed<ContainerMachineOptions>(given, MACHINE_OPTIONS) }));
  },
};

/** How the value of an option is checked. */
const CHECKS = {
  text: (value: unknown) => typeof value === 'string' && value !== '',
  count: (value: unknown) => typeof value === 'number' && Number.isInteger(value) && value > 0,
  flag: (value: unknown) => typeof value === 'boolean',
  record: (value: unknown) => typeof value === 'object' && value !== null && !Array.isArray(value),
  driver: (value: unknown) => value === 'engine' || value === 'runc',
  pull: (value: unknown) => value === 'missing' || value === 'never' || value === 'always',
} as const;

type Check = keyof typeof CHECKS;

const BOTH: Readonly<Record<string, Check>> = {
  driver: 'driver',
  folder: 'text',
  limits: 'record',
  startTimeoutMs: 'count',
  nodePath: 'text',
};
const OPTIONS = {
  engine: { ...BOTH, host: 'text', images: 'record', pull: 'pull', registry: 'text', runtime: 'text', init: 'flag' },
  runc: { ...BOTH, runcPath: 'text' },
} as const satisfies Record<string, Readonly<Record<string, Check>>>;

const MACHINE_OPTIONS: Readonly<Record<string, Check>> = {
  folder: 'text',
  host: 'text',
  network: 'text',
  readyTimeoutMs: 'count',
  stopTimeoutMs: 'count',
  cpus: 'count',
};

function parseOptions(options: unknown): ContainerPluginOptions {
  const driver = typeof options === 'object' && options !== null && 'driver' in options && options.driver === 'runc' ? 'runc' : 'engine';
  return parsed<ContainerPluginOptions>(options, OPTIONS[driver], ` by ${driver}`);
}

function parsed<Options>(options: unknown, known: Readonly<Record<string, Check>>, what = ''): Options {
  if (typeof options !== 'object' || options === null)
    throw new RunnerError('CONFIG_INVALID', 'plugin container takes an object of options with a folder');
  for (const [name, value] of Object.entries(options)) {
    const check = known[name];
    if (check === undefined)
      throw new RunnerError('CONFIG_INVALID', `plugin container${what} has no option ${name}; it has ${Object.keys(known).join(', ')}`);
    if (value !== undefined && !CHECKS[check](value))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin container is not a ${check}`);
  }
  if (!('folder' in options)) throw new RunnerError('CONFIG_INVALID', 'plugin container needs the option folder');
  // Every field was checked above.
  return options as Options;
}
