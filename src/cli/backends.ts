/** Where functions run, by the names that flags have for it. */

import { join } from 'node:path';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { InstanceBackend } from '../runtime/runtime.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { PluginOptions } from './deployer-flags.ts';

/** On this machine, for what Lambda runs: taken when nothing else is asked for. */
const LOCAL = ['process', 'docker', 'runc'] as const;
export const BACKENDS = [...LOCAL, 'wasm', 'kubernetes'] as const;
type BackendName = (typeof BACKENDS)[number];

interface FoundBackends {
  readonly backends: ReadonlyMap<string, InstanceBackend>;
  /** Name to reason. */
  readonly missing: Readonly<Record<string, string>>;
}

interface BackendPlace {
  /** Each backend has a folder of its own in it. */
  readonly folder: string;
  /** By backend. */
  readonly options?: PluginOptions | undefined;
  /** Default: who only looks whether they are there hears nothing of them. */
  readonly telemetry?: Telemetry;
}

/**
 * `auto`: those of this machine. Throws `BACKEND_UNAVAILABLE` when one that was asked for does not work here, or none does, and
 * `CONFIG_INVALID` for options of a backend that was not asked for.
 */
export async function findBackends(wanted: string, place: BackendPlace): Promise<FoundBackends> {
  const isAuto = wanted === 'auto';
  const names = isAuto ? LOCAL : wanted.split(',').map((name) => backendName(name.trim()));
  const idle = Object.keys(place.options ?? {})
    .map(backendName)
    .find((name) => !names.some((one) => one === name));
  if (idle !== undefined)
    throw new RunnerError('CONFIG_INVALID', `the backend ${idle} has options and is not used; these are: ${names.join(', ')}`);
  const found = await lookFor(names, place);
  const reasons = Object.entries(found.missing).map(([name, reason]) => `${name}: ${reason}`);
  if (found.backends.size === 0 || (!isAuto && reasons.length > 0))
    throw new RunnerError('BACKEND_UNAVAILABLE', reasons.join('; '), { details: found.missing });
  return found;
}

export async function lookFor(names: readonly BackendName[], place: BackendPlace): Promise<FoundBackends> {
  const backends = new Map<string, InstanceBackend>();
  const missing: Record<string, string> = {};
  for (const name of names) {
    try {
      const backend = await makeBackend(name, place);
      const reason = await backend.unavailable();
      if (reason === undefined) backends.set(name, backend);
      else missing[name] = reason;
    } catch (thrown) {
      const error = toRunnerError(thrown);
      // Options that are wrong are to be corrected, not to be run without.
      if (error.code === 'CONFIG_INVALID' && place.options?.[name] !== undefined) throw error;
      missing[name] = error.message;
    }
  }
  return { backends, missing };
}

async function makeBackend(name: BackendName, { folder, options, telemetry }: BackendPlace): Promise<InstanceBackend> {
  const [{ createPluginRegistry }, { systemClock }, { silentTelemetry }] = await Promise.all([
    import('../plugin/registry.ts'),
    import('../clock.ts'),
    import('../telemetry/telemetry.ts'),
  ]);
  const registry = createPluginRegistry({ clock: systemClock, telemetry: telemetry ?? silentTelemetry });
  const given = { folder: join(folder, name), ...options?.[name] };
  if (name === 'process' || name === 'wasm' || name === 'kubernetes') return registry.backend(name, given);
  return registry.backend('container', { ...given, ...(name === 'runc' && { driver: 'runc' }) });
}

function backendName(name: string): BackendName {
  const found = BACKENDS.find((one) => one === name);
  if (found === undefined) throw new RunnerError('CONFIG_INVALID', `there is no backend ${name}; there are ${BACKENDS.join(', ')}`);
  return found;
}
