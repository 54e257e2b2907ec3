/** Which workers are there: heard of lately, or waiting for work now; and what they say of themselves. */

import type { Clock } from '../clock.ts';
import { number, object, optional, text } from '../gateway/schema.ts';
import type { Infer } from '../gateway/schema.ts';
import type { WorkerStats } from '../queue/queue.ts';
import type { Gauge, Logger, Metrics } from '../telemetry/telemetry.ts';
import { Membership } from './membership.ts';
import { workerMetricsText } from './metrics.ts';
import type { EnrolmentRecord, Registry } from './registry.ts';

const TALLY = (about: string) => optional(object(about, { count: number('how many'), sum: number('of all, seconds') }));
const OUTCOMES = ['completed', 'failed', 'dead', 'requeued', 'released', 'lost', 'undelivered'] as const;
const STEPS = ['started', 'enrolled', 'ready', 'first_job'] as const;

/** What a worker says of itself. The names of records are few: each is a series of its metrics. */
export const WORKER_REPORT = object('how a worker is', {
  state: text({ about: 'starting, ready, draining; stopped: it leaves', charsMax: 32 }),
  name: optional(text({ about: 'for people', charsMax: 128 })),
  version: optional(text({ about: 'of the package', charsMax: 64 })),
  backend: optional(text({ about: 'what its functions run on', charsMax: 64 })),
  concurrency: optional(number('jobs that it runs at most')),
  running: optional(number('jobs that it runs')),
  cpuSeconds: optional(number('processor time that it has used')),
  cpuMax: optional(number('processors that it may use; 0: no limit')),
  memoryBytes: optional(number('its memory')),
  memoryMaxBytes: optional(number('memory that it may use; 0: no limit')),
  jobs: optional(object('jobs that ended, by outcome', counts(OUTCOMES))),
  jobSeconds: TALLY('from claim to delivered report'),
  startSeconds: TALLY('from claim until the code was reached'),
  stepSeconds: optional(object('from the start of its process to each step', counts(STEPS))),
});

export type WorkerReport = Infer<typeof WORKER_REPORT>;

function counts<const N extends string>(names: readonly N[]) {
  return Object.fromEntries(names.map((name) => [name, optional(number(name))])) as Record<N, ReturnType<typeof optional<number>>>; // one per name
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
  /** As the last event of it says. */
  state: 'present' | 'left' | 'lost';
}

export interface WorkersOptions {
  readonly clock: Clock;
  readonly registry: Registry;
  readonly metrics: Metrics;
  readonly log: Logger;
}

/** A worker that works for longer extends its leases: it is heard of more often than this. */
const PRESENT_MS = 60_000;

export class Workers {
  readonly #clock: Clock;
  readonly #registry: Registry;
  readonly #presences = new Map<string, Presence>();
  readonly membership: Membership;
  readonly #present: Gauge;
  readonly #absent: Gauge;

  constructor({ clock, registry, metrics, log }: WorkersOptions) {
    this.#clock = clock;
    this.#registry = registry;
    this.membership = new Membership({ clock, log });
    const gauge = (presence: string): Gauge =>
      metrics.gauge({ name: 'blueprint_control_workers', help: 'Workers that have enrolled and are not revoked.', labels: { presence } });
    this.#present = gauge('present');
    this.#absent = gauge('absent');
  }

  seen(id: string): void {
    const presence = this.#presence(id);
    presence.lastSeenAt = this.#clock.now();
    if (presence.state === 'present') return;
    if (presence.state === 'left') presence.report = undefined;
    this.membership.tell(presence.state === 'lost' ? 'returned' : 'joined', id);
    presence.state = 'present';
  }

  /** Its session was ended. */
  ended(id: string): void {
    const presence = this.#presences.get(id);
    if (presence) this.#left(id, presence);
  }

  /** Who was not heard of for long is lost. */
  sweep(): void {
    for (const [id, presence] of this.#presences) {
      if (presence.state !== 'present' || this.#isPresent(presence)) continue;
      presence.state = 'lost';
      this.membership.tell('lost', id);
    }
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
    const presence = this.#presence(id);
    presence.report = report;
    if (report.state === 'stopped') this.#left(id, presence);
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

  /** Before metrics are read; returns the text of those of each worker. */
  show(stats: readonly WorkerStats[]): string {
    const workers = this.list(stats).filter(({ revokedAt }) => revokedAt === undefined);
    this.#present.set(workers.filter(({ isPresent }) => isPresent).length);
    this.#absent.set(workers.filter(({ isPresent }) => !isPresent).length);
    return workerMetricsText(workers);
  }

  #isPresent(presence: Presence | undefined): boolean {
    if (!presence || presence.state === 'left') return false;
    return presence.waiting > 0 || this.#clock.now() - presence.lastSeenAt <= PRESENT_MS;
  }

  #presence(id: string): Presence {
    let presence = this.#presences.get(id);
    if (!presence) this.#presences.set(id, (presence = { lastSeenAt: this.#clock.now(), waiting: 0, report: undefined, state: 'left' }));
    return presence;
  }

  #left(id: string, presence: Presence): void {
    if (presence.state === 'left') return;
    presence.state = 'left';
    this.membership.tell('left', id);
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
