/** Plugin `process`: functions as sandboxed processes of this machine, and long-running programs beside them. */

import { RunnerError } from '../../src/plugin.ts';
import type { Plugin } from '../../src/plugin.ts';
import { ProcessBackend } from './backend.ts';
import type { ProcessBackendOptions } from './backend.ts';
import { ProcessHost } from './host.ts';
import type { ProcessHostOptions } from './host.ts';

export { ProcessBackend } from './backend.ts';
export type { ProcessBackendDescription, ProcessBackendOptions } from './backend.ts';
export { ProcessHost } from './host.ts';
export type { ProcessHostOptions } from './host.ts';
export type { SandboxKind } from './sandbox.ts';

export const processPlugin: Plugin = {
  name: 'process',
  register(registry) {
    registry.backend(
      (options, { clock, telemetry }) =>
        new ProcessBackend({ clock, telemetry, ...parseOptions<ProcessBackendOptions>(options, BACKEND_OPTIONS) }),
    );
    registry.host((options, { clock }) => new ProcessHost({ clock, ...parseOptions<ProcessHostOptions>(options, HOST_OPTIONS) }));
  },
};

const isCount = (value: unknown): boolean => typeof value === 'number' && Number.isInteger(value) && value >= 0;

type Checks = Readonly<Record<string, (value: unknown) => boolean>>;

const BACKEND_OPTIONS: Checks = {
  sandbox: (value) => value === 'auto' || value === 'bubblewrap' || value === 'permissions' || value === 'none',
  blanks: isCount,
  runtimes: (value) => typeof value === 'object' && value !== null && Object.values(value).every((path) => typeof path === 'string'),
  folder: (value) => typeof value === 'string' && value.startsWith('/'),
  pidsMax: (value) => isCount(value) && Number(value) >= 16,
  cpus: (value) => typeof value === 'number' && value > 0,
  cgroups: (value) => typeof value === 'boolean',
};

const HOST_OPTIONS: Checks = {
  folder: (value) => typeof value === 'string' && value.startsWith('/'),
  readyTimeoutMs: isCount,
  stopTimeoutMs: isCount,
};

function parseOptions<Options>(options: unknown, checks: Checks): Options {
  if (options === undefined) return {} as Options; // as: all of them are optional
  if (typeof options !== 'object' || options === null) throw new RunnerError('CONFIG_INVALID', 'plugin process takes an object of options');
  for (const [name, value] of Object.entries(options)) {
    const check = checks[name];
    if (!check) throw new RunnerError('CONFIG_INVALID', `plugin process has no option ${name}; it has ${Object.keys(checks).join(', ')}`);
    if (value !== undefined && !check(value))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin process cannot be ${JSON.stringify(value)}`);
  }
  // Every field was checked above.
  return options as Options;
}
