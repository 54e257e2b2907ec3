/** Plugin `process`: functions as sandboxed processes of this machine. */

import { RunnerError } from '../../src/plugin.ts';
import type { Plugin } from '../../src/plugin.ts';
import { ProcessBackend } from './backend.ts';
import type { ProcessBackendOptions } from './backend.ts';

export { ProcessBackend } from './backend.ts';
export type { ProcessBackendDescription, ProcessBackendOptions } from './backend.ts';
export type { SandboxKind } from './sandbox.ts';

export const processPlugin: Plugin = {
  name: 'process',
  register(registry) {
    registry.backend((options, { clock, telemetry }) => new ProcessBackend({ clock, telemetry, ...parseOptions(options) }));
  },
};

const isCount = (value: unknown): boolean => typeof value === 'number' && Number.isInteger(value) && value >= 0;

const CHECKS: Readonly<Record<string, (value: unknown) => boolean>> = {
  sandbox: (value) => value === 'auto' || value === 'bubblewrap' || value === 'permissions' || value === 'none',
  blanks: isCount,
  runtimes: (value) => typeof value === 'object' && value !== null && Object.values(value).every((path) => typeof path === 'string'),
  folder: (value) => typeof value === 'string' && value.startsWith('/'),
  pidsMax: (value) => isCount(value) && Number(value) >= 16,
  cpus: (value) => typeof value === 'number' && value > 0,
  cgroups: (value) => typeof value === 'boolean',
};

function parseOptions(options: unknown = {}): ProcessBackendOptions {
  if (typeof options !== 'object' || options === null) throw new RunnerError('CONFIG_INVALID', 'plugin process takes an object of options');
  for (const [name, value] of Object.entries(options)) {
    const check = CHECKS[name];
    if (!check) throw new RunnerError('CONFIG_INVALID', `plugin process has no option ${name}; it has ${Object.keys(CHECKS).join(', ')}`);
    if (value !== undefined && !check(value))
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin process cannot be ${JSON.stringify(value)}`);
  }
  // Every field was checked above.
  return options;
}
