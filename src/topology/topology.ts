/** How control plane, workers and engines are put together: which parts there are, and with which arguments they are started. */

import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import { CLAIM_MAX, LEASE_MS_BOUNDS } from '../queue/requests.ts';

/**
 * - `1`: each worker has an engine of its own
 * - `2`: workers share the engine of the control plane, which calls it for them: nobody else reaches it
 * - `3`: several engines, among which workers divide their calls
 * - `4`: one engine on the network: HTTP for execution, the control plane for distribution
 * - `hybrid`: workers as in 1, and beside them engines as in 3 with a worker that divides calls among them
 */
export type TopologyOption = '1' | '2' | '3' | '4' | 'hybrid';

export const TOPOLOGY_OPTIONS: readonly TopologyOption[] = ['1', '2', '3', '4', 'hybrid'];

export interface TopologySize {
  readonly option: TopologyOption;
  /** Workers; of `hybrid` those with an engine of their own. */
  readonly workers: number;
  /** Default: 3 for option 3, 2 for `hybrid`, as many as the option has otherwise. */
  readonly engines?: number | undefined;
}

export type Role = 'control-plane' | 'engine' | 'worker';

/** A part, wherever it runs. */
export interface Part {
  readonly name: string;
  readonly role: Role;
  /** Of workers: what runs their functions. */
  readonly backend?: 'wasm' | 'engine';
}

/** What a job asks for to run on a worker with an engine of its own, or on one that calls shared engines. */
export const CAPABILITY = { wasm: 'engine:own', engine: 'engine:shared' } as const;

/** The control plane calls the engine: workers have no address and no key of it. */
export const isProxied = (option: TopologyOption): boolean => option === '2';

export const CONTROL_PORT = 3020;
export const ENGINE_PORT = 27_288;
/** Of one topology. */
export const WORKERS_MAX = 200;
const ENGINES_MAX = 32;
const ENGINES: Readonly<Record<TopologyOption, number>> = { 1: 0, 2: 1, 3: 3, 4: 1, hybrid: 2 };

/** The parts in the order in which they are started. Throws `CONFIG_INVALID`. */
export function partsOf({ option, workers, engines = ENGINES[option] }: TopologySize): readonly Part[] {
  check('workers', workers, [1, WORKERS_MAX]);
  const isChosen = option === '3' || option === 'hybrid';
  if (isChosen) check('engines', engines, [1, ENGINES_MAX]);
  else if (engines !== ENGINES[option])
    throw new RunnerError(
      'CONFIG_INVALID',
      `option ${option} has ${ENGINES[option]} shared engines, not ${engines}; 3 and hybrid have several`,
    );
  const backend = option === '1' || option === 'hybrid' ? 'wasm' : 'engine';
  return [
    { name: 'control-plane', role: 'control-plane' },
    ...numbered('engine', engines).map((name) => ({ name, role: 'engine' }) as const),
    ...numbered('worker', workers).map((name) => ({ name, role: 'worker', backend }) as const),
    ...(option === 'hybrid' ? [{ name: 'pool-worker', role: 'worker', backend: 'engine' } as const] : []),
  ];
}

function numbered(name: string, count: number): readonly string[] {
  return Array.from({ length: count }, (_, index) => `${name}-${index + 1}`);
}

/** Of one worker: it, or its queue, refuses others. Throws `CONFIG_INVALID`. */
export function checkWorker({
  concurrency = 1,
  leaseMs = LEASE_MS_BOUNDS[0],
}: {
  readonly concurrency?: number;
  readonly leaseMs?: number;
}): void {
  check('concurrency', concurrency, [1, CLAIM_MAX]);
  check('leaseMs', leaseMs, LEASE_MS_BOUNDS);
}

function check(what: string, value: number, [min, max]: readonly [number, number]): void {
  if (!Number.isInteger(value) || value < min || value > max)
    throw new RunnerError('CONFIG_INVALID', `${what} is ${value}; it must be from ${min} to ${max}`);
}

/** Where things lie in the folder of a topology on one machine. */
export function placesIn(folder: string) {
  return {
    record: join(folder, 'topology.json'),
    machines: join(folder, 'machines'),
    control: join(folder, 'control'),
    ticket: join(folder, 'control', 'endpoint.ticket'),
    engineToken: join(folder, 'engine.token'),
    part: (name: string): string => join(folder, name),
  };
}

export interface LocalSettings {
  readonly option: TopologyOption;
  readonly folder: string;
  readonly ports: ReadonlyMap<string, number>;
  /** Jobs at the same time, of each worker. */
  readonly concurrency: number;
  readonly leaseMs: number;
  readonly logLevel: string;
  /** Where engines listen. */
  readonly engineHost: string;
  /** By which address they are reached. */
  readonly engineAddress: string;
}

export interface LocalPart extends Part {
  readonly port: number;
  readonly url: string;
  /** Of `bpr`. */
  readonly args: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** Variables by reference. */
  readonly secrets: Readonly<Record<string, string>>;
}

/** The parts as commands of this machine. */
export function localParts(parts: readonly Part[], settings: LocalSettings): readonly LocalPart[] {
  const { option, folder, ports, engineAddress, logLevel } = settings;
  const portOf = (name: string): number => ports.get(name) ?? 0;
  const engines = parts.filter(({ role }) => role === 'engine').map(({ name }) => `http://${engineAddress}:${portOf(name)}`);
  return parts.map((part) => {
    const port = portOf(part.name);
    const callsEngines = isProxied(option) ? part.role === 'control-plane' : part.backend === 'engine';
    return {
      ...part,
      port,
      url: `http://127.0.0.1:${port}`,
      args: [...argsOf(part, port, settings), ...(callsEngines && !part.backend ? engines.flatMap((url) => ['--engine', url]) : [])],
      environment: {
        LOG_LEVEL: logLevel,
        // A worker looks for another address only while nobody, whoever it be, answers at its own: it is started anew with one.
        ...(part.role === 'worker' && { BPR_TOPOLOGY_CONTROL: `http://127.0.0.1:${portOf('control-plane')}` }),
        ...(callsEngines && part.backend && { BPR_WASM_URL: engines.join(',') }),
      },
      secrets: callsEngines ? { BPR_WASM_TOKEN: `file:${placesIn(folder).engineToken}` } : {},
    };
  });
}

function argsOf({ name, role, backend = 'wasm' }: Part, port: number, settings: LocalSettings): readonly string[] {
  const { folder, concurrency, leaseMs, engineHost } = settings;
  const places = placesIn(folder);
  switch (role) {
    case 'control-plane':
      return ['control-plane', '--host', '127.0.0.1', '--port', String(port), '--data', places.control];
    case 'engine': {
      const where = ['--host', engineHost, '--port', String(port), '--data-dir', places.part(name)];
      return ['wasm', 'serve', ...where, '--token', `file:${places.engineToken}`];
    }
    case 'worker': {
      const what = ['--backend', backend, '--capabilities', CAPABILITY[backend]];
      const how = ['--concurrency', String(concurrency), '--lease-ms', String(leaseMs)];
      return ['worker', '--ticket-file', places.ticket, ...what, ...how, '--data', places.part(name), '--port', String(port)];
    }
  }
}
