/** What a queue counts while it is open: in stats for people, in metrics for machines. */

import type { Clock } from '../clock.ts';
import type { Counter, Gauge, Histogram, Metrics } from '../telemetry/telemetry.ts';
import { LastMinute } from './last-minute.ts';
import type { JobCounts, QueueJobState, QueueStats, WorkerStats } from './queue.ts';

const WORKERS_MAX = 1_000;
const HEARD_MS = 3_600_000;
const SECONDS = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1_800];
const STATES: readonly QueueJobState[] = ['queued', 'claimed', 'completed', 'failed', 'dead', 'expired', 'cancelled'];

interface Worker {
  completed: number;
  failed: number;
  lost: number;
  lastSeenAt: number;
}

type Count = keyof JobCounts;

export class Counts {
  readonly totals: Record<Count, number> = { published: 0, claimed: 0, completed: 0, failed: 0 };
  readonly #lastMinute: Readonly<Record<Count, LastMinute>>;
  readonly #workers = new Map<string, Worker>();
  readonly #counters: Readonly<Record<Count, Counter>>;
  readonly #lost: Counter;
  readonly #depth: Readonly<Record<QueueJobState, Gauge>>;
  readonly #waited: Histogram;
  readonly #ran: Histogram;

  constructor(metrics: Metrics, clock: Clock) {
    const lastMinute = (): LastMinute => new LastMinute(clock);
    this.#lastMinute = { published: lastMinute(), claimed: lastMinute(), completed: lastMinute(), failed: lastMinute() };
    const counter = (name: Count, help: string): Counter => metrics.counter({ name: `blueprint_queue_${name}_total`, help });
    this.#counters = {
      published: counter('published', 'Jobs taken into the queue.'),
      claimed: counter('claimed', 'Jobs handed to workers.'),
      completed: counter('completed', 'Jobs of which the queue has the result.'),
      failed: counter('failed', 'Attempts of which a worker said that they failed.'),
    };
    this.#lost = metrics.counter({ name: 'blueprint_queue_leases_lost_total', help: 'Leases that ran out.' });
    const help = 'Jobs of which the queue has a record.';
    const gauges = STATES.map((state) => [state, metrics.gauge({ name: 'blueprint_queue_jobs', help, labels: { state } })] as const);
    this.#depth = Object.fromEntries(gauges) as Record<QueueJobState, Gauge>;
    const histogram = (name: string, text: string): Histogram => metrics.histogram({ name, help: text, buckets: SECONDS });
    this.#waited = histogram('blueprint_queue_wait_seconds', 'From publication to the first claim.');
    this.#ran = histogram('blueprint_queue_run_seconds', 'From claim to completion.');
  }

  get rates(): JobCounts {
    const { published, claimed, completed, failed } = this.#lastMinute;
    return {
      published: published.perSecond(),
      claimed: claimed.perSecond(),
      completed: completed.perSecond(),
      failed: failed.perSecond(),
    };
  }

  add(what: Count, amount = 1): void {
    this.totals[what] += amount;
    this.#lastMinute[what].add(amount);
    this.#counters[what].add(amount);
  }

  claimed(workerId: string, now: number, { jobs, waitedMs }: { readonly jobs: number; readonly waitedMs: readonly number[] }): void {
    this.add('claimed', jobs);
    this.seen(workerId, now);
    for (const ms of waitedMs) this.#waited.record(ms / 1_000);
  }

  completed(lease: { readonly workerId: string; readonly claimedAt: number }, now: number): void {
    this.add('completed');
    this.seen(lease.workerId, now).completed += 1;
    this.#ran.record((now - lease.claimedAt) / 1_000);
  }

  failed(workerId: string, now: number): void {
    this.add('failed');
    this.seen(workerId, now).failed += 1;
  }

  lost(workerId: string): void {
    this.#lost.add();
    const worker = this.#workers.get(workerId);
    if (worker) worker.lost += 1;
  }

  seen(workerId: string, now: number): Worker {
    const known = this.#workers.get(workerId);
    if (known) {
      known.lastSeenAt = now;
      return known;
    }
    if (this.#workers.size >= WORKERS_MAX) this.#forgetOne();
    const worker = { completed: 0, failed: 0, lost: 0, lastSeenAt: now };
    this.#workers.set(workerId, worker);
    return worker;
  }

  show(byState: QueueStats['byState']): void {
    for (const state of STATES) this.#depth[state].set(byState[state]);
  }

  /** With the leases that are held now. */
  workers(leases: Iterable<{ readonly workerId: string }>, now: number): WorkerStats[] {
    const held = new Map<string, number>();
    for (const { workerId } of leases) held.set(workerId, (held.get(workerId) ?? 0) + 1);
    return [...this.#workers]
      .filter(([workerId, { lastSeenAt }]) => now - lastSeenAt <= HEARD_MS || held.has(workerId))
      .map(([workerId, worker]) => ({ workerId, claimed: held.get(workerId) ?? 0, ...worker }))
      .toReversed()
      .toSorted((one, other) => other.lastSeenAt - one.lastSeenAt);
  }

  /** The one that was not heard of for the longest time. */
  #forgetOne(): void {
    let [longest, since] = ['', Number.POSITIVE_INFINITY];
    for (const [workerId, { lastSeenAt }] of this.#workers) if (lastSeenAt < since) [longest, since] = [workerId, lastSeenAt];
    this.#workers.delete(longest);
  }
}
