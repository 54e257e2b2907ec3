/** The leases of an embedded queue: by token, and by when they run out. */

import { numberOf } from './rows.ts';
import type { Row } from './rows.ts';

export interface HeldLease {
  readonly seq: number;
  readonly jobId: string;
  readonly token: string;
  readonly workerId: string;
  readonly requires: string;
  leaseMs: number;
  readonly claimedAt: number;
  readonly deadline: number | undefined;
  /** With this one. */
  readonly attempt: number;
  readonly attemptsMax: number;
  readonly deadLetter: boolean;
  until: number;
  /** In the heap. */
  place: number;
}

/** A binary heap by `until` whose members know their places. */
export class Leases {
  readonly #byToken = new Map<string, HeldLease>();
  readonly #heap: HeldLease[] = [];

  get size(): number {
    return this.#heap.length;
  }

  /** The one that runs out first. */
  get first(): HeldLease | undefined {
    return this.#heap[0];
  }

  get(token: string): HeldLease | undefined {
    return this.#byToken.get(token);
  }

  values(): Iterable<HeldLease> {
    return this.#byToken.values();
  }

  add(lease: HeldLease): void {
    this.#byToken.set(lease.token, lease);
    lease.place = this.#heap.length;
    this.#heap.push(lease);
    this.#rise(lease);
  }

  remove(lease: HeldLease): void {
    if (!this.#byToken.delete(lease.token)) return;
    const last = this.#heap.pop();
    if (last === undefined || last === lease) return;
    this.#put(last, lease.place);
    this.#rise(last);
    this.#sink(last);
  }

  move(lease: HeldLease, until: number): void {
    lease.until = until;
    this.#rise(lease);
    this.#sink(lease);
  }

  clear(): void {
    this.#byToken.clear();
    this.#heap.length = 0;
  }

  #put(lease: HeldLease, place: number): void {
    this.#heap[place] = lease;
    lease.place = place;
  }

  #rise(lease: HeldLease): void {
    while (lease.place > 0) {
      const above = this.#heap[(lease.place - 1) >> 1] as HeldLease;
      if (above.until <= lease.until) return;
      const { place } = above;
      this.#put(above, lease.place);
      this.#put(lease, place);
    }
  }

  #sink(lease: HeldLease): void {
    for (;;) {
      const left = this.#heap[lease.place * 2 + 1];
      const right = this.#heap[lease.place * 2 + 2];
      const below = right !== undefined && left !== undefined && right.until < left.until ? right : left;
      if (below === undefined || below.until >= lease.until) return;
      const { place } = below;
      this.#put(below, lease.place);
      this.#put(lease, place);
    }
  }
}

/** Of a row that is claimed, with its whole time from `now` on. */
export function leaseOf(row: Row, now: number): HeldLease {
  const leaseMs = Number(row['lease_ms']);
  const deadline = numberOf(row['deadline']);
  return {
    seq: Number(row['seq']),
    jobId: String(row['id']),
    token: String(row['token']),
    workerId: String(row['worker']),
    requires: String(row['requires']),
    leaseMs,
    claimedAt: Number(row['claimed_at']),
    deadline,
    attempt: Number(row['attempts']),
    attemptsMax: Number(row['attempts_max']),
    deadLetter: row['dead_letter'] === 1,
    until: leaseEnd(now + leaseMs, deadline),
    place: 0,
  };
}

/** A lease does not reach beyond the deadline of its job. */
export function leaseEnd(until: number, deadline: number | undefined): number {
  return Math.min(until, deadline ?? Number.POSITIVE_INFINITY);
}
