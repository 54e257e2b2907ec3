/** Plugin `wasm`: functions that are WebAssembly modules, in threads of this process. */

import { RunnerError } from '../../src/plugin.ts';
import type { Plugin } from '../../src/plugin.ts';
import { WasmBackend } from './backend.ts';
import type { WasmBackendOptions } from './backend.ts';

export { WasmBackend } from './backend.ts';
export type { WasmBackendOptions } from './backend.ts';
export type { CacheCounts } from './module-cache.ts';

export const wasmPlugin: Plugin = {
  name: 'wasm',
  register(registry) {
    registry.backend((options, { clock, telemetry }) => new WasmBackend({ clock, telemetry, ...parseOptions(options) }));
  },
};

const OPTIONS: Readonly<Record<string, readonly [min: number, max: number]>> = {
  blanks: [0, 64],
  stackMb: [1, 64],
  outputBytesMax: [1, 2 ** 30],
  moduleBytesMax: [8, 2 ** 30],
  modulesMax: [1, 10_000],
};

function parseOptions(options: unknown): WasmBackendOptions {
  if (options === undefined) return {};
  if (typeof options !== 'object' || options === null) throw new RunnerError('CONFIG_INVALID', 'plugin wasm takes an object of options');
  const parsed: Record<string, number> = {};
  for (const [name, value] of Object.entries(options)) {
    // Every backend is given one; this one needs none.
    if (name === 'folder') continue;
    const [min, max] = OPTIONS[name] ?? [];
    if (min === undefined || max === undefined)
      throw new RunnerError('CONFIG_INVALID', `plugin wasm has no option ${name}; it has ${Object.keys(OPTIONS).join(', ')}`);
    if (value === undefined) continue;
    const count: unknown = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value;
    if (typeof count !== 'number' || !Number.isInteger(count) || count < min || count > max)
      throw new RunnerError('CONFIG_INVALID', `the option ${name} of plugin wasm must be a whole number from ${min} to ${max}`);
    parsed[name] = count;
  }
  return parsed;
}
