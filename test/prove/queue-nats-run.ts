/** A cluster of three NATS servers under load whose stream leader is killed again and again, and what must hold of the queue on it. */

import { setTimeout as sleep } from 'node:timers/promises';
import { NatsQueue } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import { isRunnerError } from '../../src/errors.ts';
import type { ClaimedJob } from '../../src/queue/queue.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { Random } from '../../src/testing/fake-clock.ts';
import { isLed, leaderOf, startNats } from '../support/nats.ts';
import type { NatsCluster } from '../support/nats.ts';

export interface KillOptions {
  readonly kills: number;
  readonly seed: number;
  readonly progress?: (kill: number) => void;
}

export interface KillReport {
  readonly kills: number;
  readonly published: number;
  readonly completed: number;
  /** Handed out once more than they had to be. */
  readonly repeated: number;
  /** Calls that were refused or not answered; each is made again. */
  readonly failedCalls: number;
  /** Acknowledged publications of which the queue has no result in the end. */
  readonly lostJobs: number;
  /** Acknowledged results that are not the ones that the queue has in the end. */
  readonly lostResults: number;
  /** Jobs of which two leases were told that their result is kept. */
  readonly doubleResults: number;
  /** The longest time without an acknowledged publication, and without an acknowledged completion, milliseconds. */
  readonly publishGapMs: number;
  readonly completeGapMs: number;
  /** The longer one of both, without the time in which no server said that it leads: how long an election takes is the servers' affair. */
  readonly ledGapMs: number;
}

export function holds({ lostJobs, lostResults, doubleResults, publishGapMs, completeGapMs, completed }: KillReport): boolean {
  return completed > 0 && lostJobs + lostResults + doubleResults === 0 && Math.max(publishGapMs, completeGapMs) <= 10_000;
}

const QUEUE = 'prove';
const STREAM = `BPR_${QUEUE}`;
const PUBLISHERS = 4;
const WORKERS = 8;
/** Published and not completed: publishers wait above it. */
const BACKLOG_MAX = 200;
const RECOVERY_MS = 30_000;
const LOOK_MS = 50;
/** What a look that comes later counts for: nobody knows what was in between. */
const LOOK_MS_MAX = 1_000;

/** Goes on while a server leads the stream. */
class LedTime {
  ms = 0;
  #isOver = false;
  readonly #cluster: NatsCluster;

  constructor(cluster: NatsCluster) {
    this.#cluster = cluster;
  }

  async run(): Promise<void> {
    let [lookedAt, wasLed] = [performance.now(), false];
    while (!this.#isOver) {
      const led = await isLed(this.#cluster, STREAM);
      const now = performance.now();
      if (led && wasLed) this.ms += Math.min(now - lookedAt, LOOK_MS_MAX);
      [lookedAt, wasLed] = [now, led];
      await sleep(LOOK_MS);
    }
  }

  end(): void {
    this.#isOver = true;
  }
}

class Gap {
  longestMs = 0;
  #last: number;
  readonly #nowMs: () => number;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
    this.#last = nowMs();
  }

  tick(): void {
    const now = this.#nowMs();
    this.longestMs = Math.max(this.longestMs, now - this.#last);
    this.#last = now;
  }
}

class Load {
  readonly published = new Set<string>();
  /** The result that a worker was told is kept. */
  readonly results = new Map<string, string>();
  readonly publishGap = new Gap(() => performance.now());
  readonly completeGap = new Gap(() => performance.now());
  /** Of publications, and of completions. */
  readonly ledGaps: readonly [Gap, Gap];
  claims = 0;
  doubleResults = 0;
  failedCalls = 0;
  isPublishing = true;
  readonly #stop = new AbortController();
  readonly #queues: readonly NatsQueue[];
  #next = 0;

  constructor(queues: readonly NatsQueue[], led: LedTime) {
    this.#queues = queues;
    this.ledGaps = [new Gap(() => led.ms), new Gap(() => led.ms)];
  }

  async run(): Promise<void> {
    const publishers = Array.from({ length: PUBLISHERS }, (_, index) => this.#publish(this.#queue(index)));
    const workers = Array.from({ length: WORKERS }, (_, index) => this.#work(this.#queue(index), `w${index}`));
    await Promise.all(publishers);
    await Promise.all(workers);
  }

  /** Nothing is published any more; workers go on until all is done, or `ms` have passed. */
  async drain(ms: number): Promise<void> {
    this.isPublishing = false;
    const until = performance.now() + ms;
    while (this.results.size < this.published.size && performance.now() < until) await sleep(50);
    this.#stop.abort();
  }

  #queue(index: number): NatsQueue {
    return this.#queues[index % this.#queues.length] as NatsQueue;
  }

  async #publish(queue: NatsQueue): Promise<void> {
    while (this.isPublishing) {
      if (this.published.size - this.results.size > BACKLOG_MAX) {
        await sleep(5);
        continue;
      }
      this.#next += 1;
      const id = `job-${this.#next}`;
      while (!(await this.#done(queue.publish({ id, type: 'work', payload: Buffer.from(id), attemptsMax: 1_000 }))));
      this.published.add(id);
      this.publishGap.tick();
      this.ledGaps[0].tick();
    }
  }

  async #work(queue: NatsQueue, workerId: string): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      const claimed: ClaimedJob[] = [];
      await this.#done(
        queue.claim({ workerId, max: 4, leaseMs: 10_000, waitMs: 5_000, signal }).then((jobs) => void claimed.push(...jobs)),
      );
      this.claims += claimed.length;
      await Promise.all(claimed.map((job) => this.#complete(queue, job)));
    }
  }

  async #complete(queue: NatsQueue, { id, lease }: ClaimedJob): Promise<void> {
    const result = `${id} by ${lease.token}`;
    if (!(await this.#done(queue.complete(lease, { body: Buffer.from(result) })))) return;
    if (this.results.has(id)) this.doubleResults += 1;
    this.results.set(id, result);
    this.completeGap.tick();
    this.ledGaps[1].tick();
  }

  /** False when it was refused: somebody else has the job, or nobody answered. */
  async #done(call: Promise<unknown>): Promise<boolean> {
    try {
      await call;
      return true;
    } catch (error) {
      if (!isRunnerError(error)) throw error;
      if (error.code !== 'ABORTED') this.failedCalls += 1;
      return false;
    }
  }
}

/** Rejects when the cluster does not come back. */
export async function killLeaders({ kills, seed, progress }: KillOptions): Promise<KillReport> {
  const cluster = await startNats(3);
  const queues: NatsQueue[] = [];
  const led = new LedTime(cluster);
  const open = (): NatsQueue => {
    const settings = { servers: cluster.addresses, queue: QUEUE, replicas: 3 as const, ackWaitMs: 10_000 };
    const queue = new NatsQueue(settings, { clock: systemClock, telemetry: silentTelemetry });
    queues.push(queue);
    return queue;
  };
  try {
    const first = open();
    await formed(cluster, first);
    // Its gaps are counted from here on.
    const load = new Load([first, open(), open()], led);
    const running = load.run();
    const watching = led.run();
    const killing = killAll(cluster, { kills, random: new Random(seed), progress });
    await Promise.race([killing, running]);
    await killing;
    await load.drain(60_000);
    await running;
    led.end();
    await watching;
    return await judge(load, open(), kills);
  } finally {
    led.end();
    await Promise.all(queues.map((queue) => queue.close()));
    await cluster.stop();
  }
}

/** The first command waits for the election of the cluster's own leader. */
async function formed(cluster: NatsCluster, queue: NatsQueue): Promise<void> {
  await queue.publish({ id: 'first', type: 'other', payload: Buffer.alloc(0), requires: ['nobody'] });
  await leaderOf(cluster, STREAM, RECOVERY_MS);
}

async function killAll(
  cluster: NatsCluster,
  { kills, random, progress }: { readonly kills: number; readonly random: Random; readonly progress: KillOptions['progress'] },
): Promise<void> {
  for (let kill = 1; kill <= kills; kill += 1) {
    await sleep(random.int(300, 1_500));
    const leader = await leaderOf(cluster, STREAM, RECOVERY_MS);
    await leader.kill();
    // The others elect a new one first, sometimes; the dead one comes back in the middle of it, sometimes.
    await sleep(random.int(0, 6_000));
    await leader.start();
    await leaderOf(cluster, STREAM, RECOVERY_MS);
    progress?.(kill);
  }
}

/** Another process, so to say: it knows nothing but what the servers have. */
async function judge(load: Load, queue: NatsQueue, kills: number): Promise<KillReport> {
  const { published, results, publishGap, completeGap, ledGaps, doubleResults, failedCalls } = load;
  let [lostJobs, lostResults] = [0, 0];
  const ids = [...published];
  const check = async (id: string): Promise<void> => {
    const status = await queue.status(id);
    if (status?.state !== 'completed') {
      lostJobs += 1;
      return;
    }
    const { body } = await queue.result(id);
    const kept = results.get(id);
    if (kept !== undefined && Buffer.from(body as Uint8Array).toString() !== kept) lostResults += 1;
  };
  for (let from = 0; from < ids.length; from += 128) await Promise.all(ids.slice(from, from + 128).map((id) => check(id)));
  return {
    kills,
    published: published.size,
    completed: results.size,
    repeated: load.claims - results.size,
    failedCalls,
    lostJobs,
    lostResults,
    doubleResults,
    publishGapMs: Math.round(publishGap.longestMs),
    completeGapMs: Math.round(completeGap.longestMs),
    ledGapMs: Math.round(Math.max(...ledGaps.map(({ longestMs }) => longestMs))),
  };
}
