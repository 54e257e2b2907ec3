/** Which workers are there: heard of lately, or waiting for work now; and what they say of themselves. */

import type { Clock } from '../clock.ts';
import type { WorkerStats } from '../queue/queue.ts';
import type { Gauge, Metrics } from '../telemetry/telemetry.ts';
import type { EnrolmentRecord, Registry } from './registry.ts';

export interface WorkerReport {
  /** Such as starting, ready, draining. */
  readonly state: string;
  readonly name?: string | undefined;
  readonly concurrency?: number | undefined;
  readonly running?: number | undefined;
  readonly cpuSeconds?: number | undefined;
  readonly rssBytes?: number | undefined;
  readonly version?: string | undefined;
}

export interface WorkerDocument {
  readonly id: string;
  readonly tickets: readonly string[];
  readonly enrolledAt: number;
  readonly revokedAt?: number;
  readonly isPresent: boolean;
  /** Since the control plane started; absent: not yet. */
  readonly lastSeenAt?: number;
  readonly leases: number;
  readonly report?: WorkerReport;
}

interface Presence {
  lastSeenAt: number;
  /** Requests of it that wait. */
  waiting: number;
  report: WorkerReport | undefined;
}

/** A worker that works for longer extends its leases: it is heard of more often than this. */
const PRESENT_MS = 60_000;

export class Workers {
  readonly #clock: Clock;
  readonly #registry: Registry;
  readonly #presences = new Map<string, Presence>();
  readonly #present: Gauge;
  readonly #absent: Gauge;
  readonly #metrics: Metrics;
  readonly #gauges = new Map<string, readonly [leases: Gauge, cpu: Gauge, rss: Gauge, running: Gauge]>();

  constructor({ clock, registry, metrics }: { readonly clock: Clock; readonly registry: Registry; readonly metrics: Metrics }) {
    this.#clock = clock;
    this.#registry = registry;
    this.#metrics = metrics;
    const gauge = (presence: string): Gauge =>
      metrics.gauge({ name: 'blueprint_control_workers', help: 'Workers that have enrolled and are not revoked.', labels: { presence } });
    this.#present = gauge('present');
    this.#absent = gauge('absent');
  }

  seen(id: string): void {
    this.#presence(id).lastSeenAt = this.#clock.now();
  }

  /** It waits; returns what is to be called when it does no longer. */
  waits(id: string): () => void {
    const presence = this.#presence(id);
    presence.waiting += 1;
    return () => {
      presence.waiting -= 1;
      presence.lastSeenAt = this.#clock.now();
    };
  }

  report(id: string, report: WorkerReport): void {
    this.#presence(id).report = report;
  }

  /** Those that enrolled, the first ones first. */
  list(stats: readonly WorkerStats[]): WorkerDocument[] {
    const byId = new Map<string, EnrolmentRecord[]>();
    for (const one of this.#registry.enrolments()) byId.set(one.workerId, [...(byId.get(one.workerId) ?? []), one]);
    const leases = leasesOf(stats);
    return [...byId]
      .map(([id, enrolments]) => {
        const presence = this.#presences.get(id);
        const revokedAt = enrolments.find((one) => one.revokedAt !== undefined)?.revokedAt;
        return {
          id,
          tickets: enrolments.map(({ ticketId }) => ticketId),
          enrolledAt: Math.min(...enrolments.map(({ enrolledAt }) => enrolledAt)),
          ...(revokedAt !== undefined && { revokedAt }),
          isPresent: revokedAt === undefined && this.#isPresent(presence),
          ...(presence && { lastSeenAt: presence.lastSeenAt }),
          leases: leases.get(id) ?? 0,
          ...(presence?.report && { report: presence.report }),
        };
      })
      .toSorted((left, right) => left.enrolledAt - right.enrolledAt);
  }

  /** Before metrics are read. */
  show(stats: readonly WorkerStats[]): void {
    const workers = this.list(stats).filter(({ revokedAt }) => revokedAt === undefined);
    this.#present.set(workers.filter(({ isPresent }) => isPresent).length);
    this.#absent.set(workers.filter(({ isPresent }) => !isPresent).length);
    for (const { id, leases, report } of workers) {
      if (!this.#presences.has(id)) continue;
      const [held, cpu, rss, running] = this.#gaugesOf(id);
      held.set(leases);
      cpu.set(report?.cpuSeconds ?? 0);
      rss.set(report?.rssBytes ?? 0);
      running.set(report?.running ?? 0);
    }
  }

  #gaugesOf(worker: string): readonly [Gauge, Gauge, Gauge, Gauge] {
    let gauges = this.#gauges.get(worker);
    if (!gauges) {
      const gauge = (name: string, help: string): Gauge =>
        this.#metrics.gauge({ name: `blueprint_control_worker_${name}`, help, labels: { worker } });
      gauges = [
        gauge('leases', 'Jobs that the worker holds.'),
        gauge('cpu_seconds', 'Processor time that the worker says it has used.'),
        gauge('resident_bytes', 'Memory that the worker says it has.'),
        gauge('running', 'Jobs that the worker says it runs.'),
      ];
      this.#gauges.set(worker, gauges);
    }
    return gauges;
  }

  #isPresent(presence: Presence | undefined): boolean {
    return presence !== undefined && (presence.waiting > 0 || this.#clock.now() - presence.lastSeenAt <= PRESENT_MS);
  }

  #presence(id: string): Presence {
    let presence = this.#presences.get(id);
    if (!presence) this.#presences.set(id, (presence = { lastSeenAt: this.#clock.now(), waiting: 0, report: undefined }));
    return presence;
  }
}

/** A worker may claim under names of its own, which begin with its id. */
function leasesOf(stats: readonly WorkerStats[]): ReadonlyMap<string, number> {
  const leases = new Map<string, number>();
  for (const { workerId, claimed } of stats) {
    const [id = ''] = workerId.split('/', 1);
    leases.set(id, (leases.get(id) ?? 0) + claimed);
  }
  return leases;
}
