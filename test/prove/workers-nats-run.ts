/** Workers that speak to a cluster of three NATS servers, their control plane, and the servers: killed at random while jobs are run. */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import type { Headers, NewJob } from '../../src/queue/queue.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { Random } from '../../src/testing/fake-clock.ts';
import { makeNatsAccounts, natsFlags } from '../support/nats-accounts.ts';
import type { NatsAccounts } from '../support/nats-accounts.ts';
import { startNats } from '../support/nats.ts';
import type { NatsCluster, NatsServer } from '../support/nats.ts';
import { Fleet } from './workers-fleet.ts';

const JOBS = fileURLToPath(new URL('../fixtures/worker/jobs.ts', import.meta.url));
const UINT64 = parseParameters('uint64 x');
const QUEUE = 'prove';
/** A job may lose its worker so often. */
const ATTEMPTS_MAX = 1_000;
const PUBLISHED_AT_ONCE = 250;
/** Without any progress the run is over. */
const STALL_MS = 120_000;
const POLL_MS = 250;
const SAY_MS = 5_000;
const READ_AT_ONCE = 64;
const OUTAGE_MS_MAX = 6_000;
const HEAL_MS = 60_000;
const CONTROL_PLANE = 0.2;
const SIGTERM = 0.3;

export interface WorkersNatsReport {
  readonly seed: number;
  readonly workers: number;
  readonly jobs: number;
  readonly killedWorkers: number;
  /** Told to drain by SIGTERM. */
  readonly drainedWorkers: number;
  readonly killedControlPlanes: number;
  /** Each came back, and the cluster was whole again. */
  readonly killedServers: number;
  /** Of those: they led the stream of the queue. */
  readonly killedLeaders: number;
  readonly completed: number;
  /** Published, acknowledged, and not completed. */
  readonly lost: number;
  readonly wrong: number;
  /** Jobs of which two workers were told that their result is kept. */
  readonly completedTwice: number;
  /** Attempts beyond the first of each job: their worker was killed. */
  readonly repeated: number;
  /** Ended by SIGTERM, not with 0. */
  readonly badDrains: number;
  /** The longest time without a completed job. */
  readonly gapSeconds: number;
  readonly seconds: number;
  readonly jobsPerSecond: number;
}

const NONE = ['lost', 'wrong', 'completedTwice', 'badDrains'] as const;

export function holds(report: WorkersNatsReport): boolean {
  return report.completed === report.jobs && NONE.every((name) => report[name] === 0);
}

export interface WorkersNatsOptions {
  readonly folder: string;
  readonly workers: number;
  readonly jobs: number;
  /** Of workers and the control plane. */
  readonly kills: number;
  /** Of servers of the cluster, one after the other. */
  readonly outages: number;
  readonly seed: number;
  readonly progress?: (text: string) => void;
}

export async function killNatsFleet(options: WorkersNatsOptions): Promise<WorkersNatsReport> {
  const { folder } = options;
  const { zipFile } = await buildHandler({ entry: JOBS, outDir: join(folder, 'artifact') });
  const accounts = makeNatsAccounts();
  const cluster = await startNats(3, { configuration: accounts.configuration });
  const keys = natsFlags(join(folder, 'nats'), cluster.addresses, accounts);
  const controlFlags = [...keys, '--nats-queue', QUEUE, '--nats-replicas', '3', '--nats-ack-wait', '5s'];
  const fleet = new Fleet({ folder, concurrency: 2, controlFlags });
  try {
    await fleet.startControlPlane();
    return await new Run({ options, cluster, fleet, accounts, zip: await readFile(zipFile) }).run();
  } finally {
    await fleet.end();
    await cluster.stop();
  }
}

interface RunParts {
  readonly options: WorkersNatsOptions;
  readonly cluster: NatsCluster;
  readonly fleet: Fleet;
  readonly accounts: NatsAccounts;
  readonly zip: Uint8Array;
}

class Run {
  readonly #parts: RunParts;
  /** As somebody who knows nothing but what the servers have. */
  readonly #judge: NatsQueue;
  readonly #kills = { killedWorkers: 0, drainedWorkers: 0, killedControlPlanes: 0, killedServers: 0, killedLeaders: 0, badDrains: 0 };
  readonly #startedAt = performance.now();
  #saidAt = 0;

  constructor(parts: RunParts) {
    this.#parts = parts;
    const { cluster, accounts } = parts;
    const settings = { servers: cluster.addresses, queue: QUEUE, replicas: 3 as const, credentials: { creds: () => accounts.creds } };
    this.#judge = new NatsQueue(settings, { clock: systemClock, telemetry: silentTelemetry });
  }

  async run(): Promise<WorkersNatsReport> {
    const { options, fleet, zip } = this.#parts;
    const { jobs, workers, seed } = options;
    const queue = await RemoteQueue.connect({ credentials: { ticket: await fleet.ticket(), identity: makeIdentity() } });
    try {
      const object = await new RemoteObjects(queue.control).keep(zip);
      for (let index = 0; index < workers; index += 1) fleet.startWorker(index);
      await fleet.untilReady();
      this.#say(`${workers} workers are ready`);
      const startedAt = performance.now();
      const began = Date.now();
      await Promise.all([publishAll(queue, headersOf(object), jobs), this.#killAll(), this.#breakServers()]);
      await this.#untilAll();
      const seconds = (performance.now() - startedAt) / 1_000;
      this.#say('every job is completed; the results are read');
      const read = await this.#read();
      const bad = await fleet.drain();
      for (const text of bad) this.#say(text);
      const { badDrains, ...kills } = this.#kills;
      return {
        seed,
        workers,
        jobs,
        ...kills,
        ...read,
        completedTwice: fleet.completedTwice(),
        repeated: fleet.repeated(),
        badDrains: badDrains + bad.length,
        gapSeconds: tenths(gapOf([began, ...fleet.completed().values()]) / 1_000),
        seconds: tenths(seconds),
        jobsPerSecond: tenths(jobs / seconds),
      };
    } finally {
      await queue.close();
      await this.#judge.close();
    }
  }

  /** Evenly over the work: the next kill comes when another part of the jobs is done. */
  async #killAll(): Promise<void> {
    const { fleet, options } = this.#parts;
    const { kills, jobs, workers, seed } = options;
    const random = new Random(seed);
    for (let kill = 0; kill < kills; kill += 1) {
      await this.#until(Math.floor((jobs * kill) / kills));
      await sleep(random.int(0, POLL_MS));
      if (random.chance(CONTROL_PLANE)) {
        await fleet.restartControlPlane();
        this.#kills.killedControlPlanes += 1;
        continue;
      }
      const signal = random.chance(SIGTERM) ? 'SIGTERM' : 'SIGKILL';
      const code = await fleet.restartWorker(random.int(0, workers - 1), signal);
      if (signal === 'SIGKILL') this.#kills.killedWorkers += 1;
      else this.#kills.drainedWorkers += 1;
      if (signal === 'SIGTERM' && code !== 0) this.#kills.badDrains += 1;
    }
  }

  /** One server at a time is away; the next one only when the cluster is whole. Every other one leads the queue. */
  async #breakServers(): Promise<void> {
    const { cluster, options } = this.#parts;
    const { outages, jobs, seed } = options;
    const random = new Random(seed + 1);
    for (let outage = 0; outage < outages; outage += 1) {
      await this.#until(Math.floor((jobs * (outage + 0.5)) / outages));
      const leader = await wholeClusterLeader(cluster);
      const server = outage % 2 === 0 ? leader : (cluster.servers[random.int(0, 2)] ?? leader);
      await server.kill();
      await sleep(random.int(0, OUTAGE_MS_MAX));
      await server.start();
      await wholeClusterLeader(cluster);
      this.#kills.killedServers += 1;
      if (server === leader) this.#kills.killedLeaders += 1;
    }
  }

  async #until(count: number): Promise<void> {
    let [best, since] = [-1, performance.now()];
    for (;;) {
      const { size } = this.#parts.fleet.completed();
      if (performance.now() - this.#saidAt > SAY_MS) this.#sayCounts(size);
      if (size >= count) return;
      if (size > best) [best, since] = [size, performance.now()];
      this.#check(size, since);
      await sleep(POLL_MS);
    }
  }

  /** Those of which no worker lived to tell are looked up. */
  async #untilAll(): Promise<void> {
    const { jobs } = this.#parts.options;
    const known = new Set<string>();
    let [best, since] = [-1, performance.now()];
    for (;;) {
      for (const id of this.#parts.fleet.completed().keys()) known.add(id);
      const missing = Array.from({ length: jobs }, (_, index) => idOf(index)).filter((id) => !known.has(id));
      const states = await Promise.all(missing.slice(0, READ_AT_ONCE).map(async (id) => [id, await this.#judge.status(id)] as const));
      for (const [id, status] of states) if (status?.state === 'completed') known.add(id);
      if (performance.now() - this.#saidAt > SAY_MS) this.#sayCounts(known.size);
      if (known.size >= jobs) return;
      if (known.size > best) [best, since] = [known.size, performance.now()];
      this.#check(known.size, since);
      await sleep(POLL_MS);
    }
  }

  #check(completed: number, since: number): void {
    this.#parts.fleet.check();
    if (performance.now() - since > STALL_MS) throw new Error(`${this.#counts(completed)}, and nothing goes on`);
  }

  async #read(): Promise<Pick<WorkersNatsReport, 'completed' | 'lost' | 'wrong'>> {
    const { jobs } = this.#parts.options;
    let [completed, lost, wrong] = [0, 0, 0];
    const check = async (index: number): Promise<void> => {
      if ((await this.#judge.status(idOf(index)))?.state !== 'completed') {
        lost += 1;
        return;
      }
      completed += 1;
      const { body } = await this.#judge.result(idOf(index));
      const { result_base64: result } = JSON.parse(Buffer.from(body as Uint8Array).toString()) as { result_base64?: string };
      if (result !== Buffer.from(encodeAbi(UINT64, [BigInt(index) ** 2n])).toString('base64')) wrong += 1;
    };
    for (let from = 0; from < jobs; from += READ_AT_ONCE)
      await Promise.all(Array.from({ length: Math.min(READ_AT_ONCE, jobs - from) }, (_, index) => check(from + index)));
    return { completed, lost, wrong };
  }

  #counts(completed: number): string {
    const { killedWorkers, drainedWorkers, killedControlPlanes, killedServers } = this.#kills;
    const kills = `workers ${killedWorkers}, drained ${drainedWorkers}, control plane ${killedControlPlanes}, servers ${killedServers}`;
    return `completed ${completed}; kills: ${kills}`;
  }

  #sayCounts(completed: number): void {
    this.#saidAt = performance.now();
    this.#say(this.#counts(completed));
  }

  #say(text: string): void {
    this.#parts.options.progress?.(`${((performance.now() - this.#startedAt) / 1_000).toFixed(0).padStart(4)} s  ${text}`);
  }
}

const idOf = (index: number): string => `job-${index}`;

function headersOf(object: Awaited<ReturnType<RemoteObjects['keep']>>): Headers {
  const settings = functionSettings({ memoryMb: 128, runtime: `nodejs${process.versions.node.split('.', 1)[0]}.x` });
  return functionHeaders({ name: 'jobs', code: { kind: 'package', object }, settings });
}

function jobOf(index: number, headers: Headers): NewJob {
  const event = { job_id: 1, args_base64: Buffer.from(encodeAbi(UINT64, [BigInt(index)])).toString('base64') };
  return { id: idOf(index), type: 'function', payload: Buffer.from(JSON.stringify(event)), headers, attemptsMax: ATTEMPTS_MAX };
}

async function publishAll(queue: RemoteQueue, headers: Headers, jobs: number): Promise<void> {
  for (let from = 0; from < jobs; from += PUBLISHED_AT_ONCE) {
    const count = Math.min(PUBLISHED_AT_ONCE, jobs - from);
    await queue.publishMany(Array.from({ length: count }, (_, index) => jobOf(from + index, headers)));
  }
}

interface StreamDetail {
  readonly name: string;
  readonly cluster?: { readonly leader?: string; readonly replicas?: readonly { readonly current: boolean; readonly offline?: boolean }[] };
}

/** Who leads the stream of the queue, once all copies of all streams are complete. */
async function wholeClusterLeader({ servers }: NatsCluster): Promise<NatsServer> {
  const until = performance.now() + HEAL_MS;
  while (performance.now() < until) {
    const led = await Promise.all(servers.map((server) => ledBy(server)));
    const streams = led.flat();
    const isWhole = streams.every(({ cluster }) => cluster?.replicas?.length === 2 && cluster.replicas.every(({ current }) => current));
    const leader = servers.find((_, index) => led[index]?.some(({ name }) => name === `BPR_${QUEUE}`));
    if (leader && isWhole && new Set(streams.map(({ name }) => name)).size === 2) return leader;
    await sleep(POLL_MS);
  }
  throw new Error(`the cluster was not whole again within ${HEAL_MS} ms`);
}

/** Streams that it leads, as it says. */
async function ledBy(server: NatsServer): Promise<StreamDetail[]> {
  const url = `${server.monitoring}/jsz?streams=true&accounts=true`;
  const answer = await fetch(url, { signal: AbortSignal.timeout(5_000) }).then(
    (response) => response.json() as Promise<{ account_details?: { stream_detail?: StreamDetail[] }[] }>,
    () => undefined,
  );
  const details = (answer?.account_details ?? []).flatMap(({ stream_detail: streams = [] }) => streams);
  return details.filter(({ cluster }) => cluster?.leader === server.name);
}

/** The longest time between two of them. */
function gapOf(times: readonly number[]): number {
  const sorted = times.toSorted((left, right) => left - right);
  return sorted.reduce((longest, time, index) => Math.max(longest, time - (sorted[index - 1] ?? time)), 0);
}

function tenths(value: number): number {
  return Math.round(value * 10) / 10;
}
