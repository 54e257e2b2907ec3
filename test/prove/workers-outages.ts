/** A cluster of three NATS servers that keeps the queue, and whose servers are killed one after the other. */

import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Random } from '../../src/testing/testing.ts';
import { makeNatsAccounts } from '../../plugins/nats/index.ts';
import { natsFlags } from '../support/nats-accounts.ts';
import { leaderOf, startNats } from '../support/nats.ts';
import type { NatsCluster } from '../support/nats.ts';

const QUEUE = 'prove';
const OUTAGE_MS_MAX = 6_000;
const HEAL_MS = 60_000;

export interface OutageCounts {
  /** Each came back, and the cluster was whole again. */
  readonly killedServers: number;
  /** Of those: they led the stream of the queue. */
  readonly killedLeaders: number;
}

export class Outages {
  /** Of a control plane whose queue is there. */
  readonly controlFlags: readonly string[];
  readonly counts = { killedServers: 0, killedLeaders: 0 };
  readonly #cluster: NatsCluster;

  /** `folder` gets the keys. */
  static async start(folder: string): Promise<Outages> {
    const accounts = makeNatsAccounts();
    const cluster = await startNats(3, { configuration: accounts.configuration });
    const keys = natsFlags(join(folder, 'nats'), cluster.addresses, accounts);
    return new Outages(cluster, [...keys, '--nats-queue', QUEUE, '--nats-replicas', '3', '--nats-ack-wait', '5s']);
  }

  private constructor(cluster: NatsCluster, controlFlags: readonly string[]) {
    this.#cluster = cluster;
    this.controlFlags = controlFlags;
  }

  /** One server at a time is away; the next one only when the cluster is whole. Every other one leads the queue. `due` resolves when it is time. */
  async run(count: number, seed: number, due: (outage: number) => Promise<void>): Promise<void> {
    const { servers } = this.#cluster;
    const random = new Random(seed);
    for (let outage = 0; outage < count; outage += 1) {
      await due(outage);
      const leader = await this.#whole();
      const server = outage % 2 === 0 ? leader : (servers[random.int(0, 2)] ?? leader);
      await server.kill();
      await sleep(random.int(0, OUTAGE_MS_MAX));
      await server.start();
      await this.#whole();
      this.counts.killedServers += 1;
      if (server === leader) this.counts.killedLeaders += 1;
    }
  }

  stop(): Promise<void> {
    return this.#cluster.stop();
  }

  #whole(): ReturnType<typeof leaderOf> {
    return leaderOf(this.#cluster, `BPR_${QUEUE}`, HEAL_MS);
  }
}
