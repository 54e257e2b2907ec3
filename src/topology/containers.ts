/** The parts of a topology as containers: what compose files, scripts and manifests are written from. */

import { CAPABILITY, CONTROL_PORT, ENGINE_PORT, isProxied, partsOf } from './topology.ts';
import type { Part, TopologyOption, TopologySize } from './topology.ts';

export interface RenderOptions extends TopologySize {
  /** Tag of the images. */
  readonly version: string;
  /** Jobs at the same time, of each worker. Default 4. */
  readonly concurrency?: number;
}

export type Secret = 'CONTROL_PLANE_TICKET' | 'BPR_WASM_TOKEN';

export interface Container {
  /** Also its name on the network. */
  readonly name: string;
  readonly role: Part['role'];
  readonly image: string;
  /** Of `bpr`: each is a process. */
  readonly commands: readonly (readonly string[])[];
  readonly environment: Readonly<Record<string, string>>;
  readonly secrets: readonly Secret[];
  /** What answers 200 when it is ready, asked from within. */
  readonly health: readonly string[];
  /** Open to other containers. */
  readonly ports: readonly number[];
  /** Containers that are healthy before it starts. */
  readonly after: readonly string[];
  /** Containers of this kind. */
  readonly replicas: number;
  readonly memoryMb: number;
  readonly cpus: number;
}

const HEALTH_PORT = 8081;
/** An unprivileged user, without a name anywhere. */
export const USER = 993;
export const DATA = '/data';
/** Of the control plane, for health checks. */
export const CERTIFICATE = `${DATA}/control/tls.crt`;
export const TICKET = `${DATA}/endpoint.ticket`;
export const BPR = '/app/node_modules/blueprint-runner/bin/bpr.mjs';
export const START = '/app/start.mjs';
export const HEALTH = '/app/health.mjs';

/** The longest that a worker drains, and then some. */
export const STOP_SECONDS = 45;
export const PIDS_MAX = 256;
export const OPEN_FILES_MAX = 16_384;
export const TMP_MB = 64;

const CONTROL_PLANE = 'control-plane';

/** With what its health check asks. */
export function environmentOf({ environment, health }: Container): Readonly<Record<string, string>> {
  return { ...environment, BPR_HEALTH: health.join(',') };
}

/** What a container runs: `bpr` itself, or several of it under one process that ends when one of them does. */
export function programOf({ commands }: Container): readonly string[] {
  const [only = []] = commands;
  return commands.length === 1 ? [BPR, ...only] : [START, ...commands.flatMap((args, index) => (index === 0 ? args : ['--', ...args]))];
}

export function imageOf(image: 'control-plane' | 'worker', version: string): string {
  return `blueprint-runner/${image}:${version}`;
}

/** In the order in which they are started. */
export function containersOf(options: RenderOptions): readonly Container[] {
  const parts = partsOf(options);
  // Of 2 and 4 the engine is the control plane's.
  const engines = hasOwnEngines(options.option) ? parts.filter(({ role }) => role === 'engine') : [];
  const after = [CONTROL_PLANE, ...engines.map(({ name }) => name)];
  return [
    controlPlane(options),
    ...engines.map(({ name }) => engine(name, options)),
    ...workers(options).map((worker) => ({ ...worker, after })),
  ];
}

const hasOwnEngines = (option: TopologyOption): boolean => option === '3' || option === 'hybrid';

function controlPlane({ option, version }: RenderOptions): Container {
  const serve = ['control-plane', '--host', '0.0.0.0', '--port', String(CONTROL_PORT), '--hostname', CONTROL_PLANE];
  const engines = isProxied(option) ? ['--engine', `http://127.0.0.1:${ENGINE_PORT}`] : [];
  const hasEngine = option === '2' || option === '4';
  return {
    name: CONTROL_PLANE,
    role: 'control-plane',
    image: imageOf('control-plane', version),
    commands: [
      [...serve, '--data', `${DATA}/control`, '--ticket-file', TICKET, ...engines],
      ...(hasEngine ? [engineCommand(option === '4' ? '0.0.0.0' : '127.0.0.1')] : []),
    ],
    environment: {},
    secrets: hasEngine ? ['BPR_WASM_TOKEN'] : [],
    health: [`https://127.0.0.1:${CONTROL_PORT}/readyz`, ...(hasEngine ? [`http://127.0.0.1:${ENGINE_PORT}/readyz`] : [])],
    ports: [CONTROL_PORT, ...(option === '4' ? [ENGINE_PORT] : [])],
    after: [],
    replicas: 1,
    memoryMb: hasEngine ? 1_024 : 512,
    cpus: hasEngine ? 2 : 1,
  };
}

function engine(name: string, { version }: RenderOptions): Container {
  return {
    name,
    role: 'engine',
    image: imageOf('worker', version),
    commands: [engineCommand('0.0.0.0')],
    environment: {},
    secrets: ['BPR_WASM_TOKEN'],
    health: [`http://127.0.0.1:${ENGINE_PORT}/readyz`],
    ports: [ENGINE_PORT],
    after: [],
    replicas: 1,
    memoryMb: 1_024,
    cpus: 2,
  };
}

function engineCommand(host: string): readonly string[] {
  return ['wasm', 'serve', '--host', host, '--port', String(ENGINE_PORT), '--data-dir', DATA, '--token', 'env:BPR_WASM_TOKEN'];
}

/** Those that are alike are one with replicas. */
function workers(options: RenderOptions): readonly Omit<Container, 'after'>[] {
  const { option, workers: count } = options;
  const first = partsOf(options).find(({ role }) => role === 'worker');
  const urls = sharedEngines(options);
  return [
    { ...worker('worker', { options, backend: first?.backend ?? 'wasm', urls }), replicas: count },
    ...(option === 'hybrid' ? [worker('pool-worker', { options, backend: 'engine', urls })] : []),
  ];
}

/** By which workers reach them. */
function sharedEngines(options: RenderOptions): readonly string[] {
  if (isProxied(options.option)) return [];
  if (options.option === '4') return [`http://${CONTROL_PLANE}:${ENGINE_PORT}`];
  return partsOf(options).flatMap(({ name, role }) => (role === 'engine' ? [`http://${name}:${ENGINE_PORT}`] : []));
}

interface WorkerSettings {
  readonly options: RenderOptions;
  readonly backend: 'wasm' | 'engine';
  readonly urls: readonly string[];
}

function worker(name: string, { options, backend, urls }: WorkerSettings): Omit<Container, 'after'> {
  const { version, concurrency = 4 } = options;
  const callsEngines = backend === 'engine' && urls.length > 0;
  const what = ['--backend', backend, '--capabilities', CAPABILITY[backend], '--concurrency', String(concurrency)];
  return {
    name,
    role: 'worker',
    image: imageOf('worker', version),
    commands: [['worker', ...what, '--data', `${DATA}/worker`, '--port', String(HEALTH_PORT)]],
    environment: callsEngines ? { BPR_WASM_URL: urls.join(',') } : {},
    secrets: ['CONTROL_PLANE_TICKET', ...(callsEngines ? (['BPR_WASM_TOKEN'] as const) : [])],
    health: [`http://127.0.0.1:${HEALTH_PORT}/readyz`],
    ports: [],
    replicas: 1,
    memoryMb: backend === 'wasm' ? 1_024 : 512,
    cpus: 1,
  };
}
