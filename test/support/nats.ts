/** Real nats-servers with JetStream, alone or as a cluster on loopback. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { requirePeer, runs } from '../require.ts';
import type { DeclareTest } from '../require.ts';
import { reservedPort } from './reserved-port.ts';

const LOOK_MS = 50;
const ANSWER_MS = 5_000;

/** Where test/scripts/install-nats.sh put it, or the one of the machine. */
function command(): string {
  const folder = process.env['BPR_NATS'];
  return folder === undefined ? 'nats-server' : join(folder, 'usr/sbin/nats-server');
}

export function requireNats(): DeclareTest {
  return requirePeer('nats-server', () => runs(command(), '--version'));
}

export interface NatsOptions {
  /** More of the configuration, for example `authorization { token: x }`. */
  readonly configuration?: string;
  /** Default true. */
  readonly syncAlways?: boolean;
}

interface Ports {
  readonly client: number;
  readonly monitoring: number;
  readonly cluster: number;
}

export class NatsServer {
  readonly name: string;
  readonly ports: Ports;
  readonly #file: string;
  #process: ChildProcess | undefined;

  constructor(name: string, ports: Ports, file: string) {
    this.name = name;
    this.ports = ports;
    this.#file = file;
  }

  get address(): string {
    return `127.0.0.1:${this.ports.client}`;
  }

  get monitoring(): string {
    return `http://127.0.0.1:${this.ports.monitoring}`;
  }

  get isRunning(): boolean {
    return this.#process !== undefined;
  }

  /** Resolves when it takes connections. */
  async start(): Promise<void> {
    const child = spawn(command(), ['-c', this.#file], { stdio: ['ignore', 'ignore', 'pipe'], env: {} });
    this.#process = child;
    const lines: string[] = [];
    for await (const line of createInterface({ input: child.stderr })) {
      lines.push(line);
      if (!line.includes('Server is ready')) continue;
      child.stderr.resume();
      return;
    }
    throw new Error(`nats-server ${this.name} did not start: ${lines.slice(-5).join('\n')}`);
  }

  /** It answers nobody, and keeps its connections; until `wake`, or the end. */
  freeze(): void {
    this.#process?.kill('SIGSTOP');
  }

  wake(): void {
    this.#process?.kill('SIGCONT');
  }

  /** As an outage does. */
  async kill(signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }
}

export interface NatsCluster {
  readonly servers: readonly NatsServer[];
  readonly addresses: readonly string[];
  /** Ends all and deletes what they stored. */
  stop(): Promise<void>;
}

export async function startNats(count: 1 | 3, options: NatsOptions = {}): Promise<NatsCluster> {
  const folder = mkdtempSync(join(tmpdir(), 'nats-'));
  const ports: number[] = [];
  for (let index = 0; index < 3 * count; index += 1) ports.push(await reservedPort());
  const all = Array.from({ length: count }, (_, index): Ports => {
    const [client = 0, monitoring = 0, cluster = 0] = ports.slice(3 * index);
    return { client, monitoring, cluster };
  });
  const routes = all.map(({ cluster }) => `nats://127.0.0.1:${cluster}`).join(', ');
  const servers = all.map((own, index) => {
    const name = `n${index + 1}`;
    const file = join(folder, `${name}.conf`);
    mkdirSync(join(folder, name));
    writeFileSync(file, configurationOf({ name, ports: own, folder: join(folder, name), routes: count > 1 ? routes : undefined }, options));
    return new NatsServer(name, own, file);
  });
  const stop = async (): Promise<void> => {
    await Promise.all(servers.map((server) => server.kill()));
    rmSync(folder, { recursive: true, force: true });
  };
  const started = await Promise.allSettled(servers.map((server) => server.start()));
  const failed = started.find((outcome) => outcome.status === 'rejected');
  if (failed) {
    await stop();
    throw failed.reason;
  }
  return { servers, addresses: servers.map(({ address }) => address), stop };
}

interface StreamDetail {
  readonly name: string;
  readonly cluster?: { readonly leader?: string; readonly replicas?: readonly { readonly current: boolean }[] };
}

/** Who leads a stream, once all copies of all streams are complete. Rejects when that takes longer than `ms`. */
export async function leaderOf({ servers }: NatsCluster, stream: string, ms: number): Promise<NatsServer> {
  const until = performance.now() + ms;
  while (performance.now() < until) {
    const known = await Promise.all(servers.map((server) => streamsOf(server)));
    const led = servers.map(({ name }, index) => known[index]?.filter(({ cluster }) => cluster?.leader === name) ?? []);
    const isComplete = ({ cluster }: StreamDetail): boolean =>
      cluster?.replicas?.length === servers.length - 1 && cluster.replicas.every(({ current }) => current);
    const whole = new Set(led.flat().flatMap((detail) => (isComplete(detail) ? [detail.name] : [])));
    const leader = servers.find((_, index) => led[index]?.some(({ name }) => name === stream));
    if (leader && known.flat().every(({ name }) => whole.has(name))) return leader;
    await sleep(LOOK_MS);
  }
  throw new Error(`the cluster was not whole again within ${ms} ms`);
}

/** Whether a server says that it leads the stream. */
export async function isLed({ servers }: NatsCluster, stream: string): Promise<boolean> {
  const known = await Promise.all(servers.map((server) => streamsOf(server)));
  return servers.some((server, index) => known[index]?.some(({ name, cluster }) => name === stream && cluster?.leader === server.name));
}

/** Of all accounts, with what the server itself knows of them; none when it does not answer. */
async function streamsOf({ monitoring }: NatsServer): Promise<StreamDetail[]> {
  const answer = await fetch(`${monitoring}/jsz?streams=true&accounts=true`, { signal: AbortSignal.timeout(ANSWER_MS) }).then(
    (response) => response.json() as Promise<{ account_details?: { stream_detail?: StreamDetail[] }[] }>,
    () => undefined,
  );
  return (answer?.account_details ?? []).flatMap(({ stream_detail: streams = [] }) => streams);
}

function configurationOf(
  server: { readonly name: string; readonly ports: Ports; readonly folder: string; readonly routes: string | undefined },
  { configuration = '', syncAlways = true }: NatsOptions,
): string {
  const { name, ports, folder, routes } = server;
  return [
    `server_name: ${name}`,
    `listen: 127.0.0.1:${ports.client}`,
    `http: 127.0.0.1:${ports.monitoring}`,
    `jetstream { store_dir: ${JSON.stringify(folder)}${syncAlways ? ', sync_interval: always' : ''} }`,
    ...(routes === undefined ? [] : [`cluster { name: test, listen: 127.0.0.1:${ports.cluster}, routes: [${routes}] }`]),
    configuration,
  ].join('\n');
}
