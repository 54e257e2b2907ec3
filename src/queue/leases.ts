/** The leases of an embedded queue: by token, and by when they run out. */

import { STATE, numberOf } from './rows.ts';
import type { Row, Subject } from './rows.ts';

/** Of the table by token; a power of two. */
const CHAINS_MIN = 64;
/** A wall clock that goes on by so much more or less than the time that passed was set, or the machine slept. */
const JUMP_MS = 1_000;
/** The end of a token: in a random UUID, all of it random. */
const HASHED_CHARS = 12;

export interface HeldLease {
  readonly seq: number;
  readonly jobId: string;
  readonly token: string;
  readonly workerId: string;
  readonly type: string;
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
  /** With a token of the same hash. */
  next: HeldLease | undefined;
}

/**
 * A binary heap by `until` whose members know their places, and a table of chains by token: in a `Map` in which every job comes and goes, what
 * is gone is kept alive by the old tables that V8 links to the new one.
 */
export class Leases {
  #chains: (HeldLease | undefined)[] = Array.from({ length: CHAINS_MIN });
  readonly #heap: HeldLease[] = [];
  /** The wall clock over the monotonic one. */
  #offset: number | undefined;

  get size(): number {
    return this.#heap.length;
  }

  /** The one that runs out first. */
  get first(): HeldLease | undefined {
    return this.#heap[0];
  }

  get(token: string): HeldLease | undefined {
    let lease = this.#chains[this.#chainOf(token)];
    while (lease !== undefined && lease.token !== token) lease = lease.next;
    return lease;
  }

  values(): Iterable<HeldLease> {
    return this.#heap;
  }

  /** What these claims of the worker were given. Looks at all. */
  ofClaims(workerId: string, claimIds: readonly string[]): HeldLease[] {
    return this.#heap.filter((lease) => lease.workerId === workerId && claimIds.includes(claimIdOf(lease.token)));
  }

  add(lease: HeldLease): void {
    if (this.#heap.length >= this.#chains.length) this.#grow();
    this.#link(lease);
    lease.place = this.#heap.length;
    this.#heap.push(lease);
    this.#rise(lease);
  }

  remove(lease: HeldLease): void {
    if (this.#heap[lease.place] !== lease) return;
    this.#unlink(lease);
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

  /** Leases keep what is left of their time when the wall clock jumps; to be told of both clocks before `until` is looked at. */
  follow(now: number, monotonic: number): void {
    const offset = now - monotonic;
    const jumpMs = Math.round(offset - (this.#offset ?? offset));
    if (this.#offset !== undefined && Math.abs(jumpMs) < JUMP_MS) return;
    this.#offset = offset;
    // A copy: each that is moved changes places with others.
    if (jumpMs !== 0) for (const lease of this.#heap.slice()) this.move(lease, leaseEnd(lease.until + jumpMs, lease.deadline));
  }

  clear(): void {
    this.#chains = Array.from({ length: CHAINS_MIN });
    this.#heap.length = 0;
  }

  #chainOf(token: string): number {
    let hash = 0;
    for (let index = Math.max(0, token.length - HASHED_CHARS); index < token.length; index += 1)
      hash = (Math.imul(hash, 31) + token.charCodeAt(index)) | 0;
    return hash & (this.#chains.length - 1);
  }

  #link(lease: HeldLease): void {
    const chain = this.#chainOf(lease.token);
    lease.next = this.#chains[chain];
    this.#chains[chain] = lease;
  }

  #unlink(lease: HeldLease): void {
    const chain = this.#chainOf(lease.token);
    let before = this.#chains[chain];
    if (before === lease) this.#chains[chain] = lease.next;
    else {
      while (before !== undefined && before.next !== lease) before = before.next;
      if (before) before.next = lease.next;
    }
    lease.next = undefined;
  }

  #grow(): void {
    this.#chains = Array.from({ length: this.#chains.length * 2 });
    for (const lease of this.#heap) this.#link(lease);
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
    type: String(row['type']),
    requires: String(row['requires']),
    leaseMs,
    claimedAt: Number(row['claimed_at']),
    deadline,
    attempt: Number(row['attempts']),
    attemptsMax: Number(row['attempts_max']),
    deadLetter: row['dead_letter'] === 1,
    until: leaseEnd(now + leaseMs, deadline),
    place: 0,
    next: undefined,
  };
}

/** Its end is random: see `HASHED_CHARS`. On disk nothing else tells which claim it was. */
export function tokenOf(claimId: string | undefined, id: string): string {
  return claimId === undefined ? id : `${claimId}.${id}`;
}

function claimIdOf(token: string): string {
  return token.slice(0, Math.max(0, token.lastIndexOf('.')));
}

export function subjectOf({ seq, jobId, type, requires, deadline }: HeldLease): Subject {
  return { seq, jobId, type, requires, from: STATE.claimed, deadline };
}

/** A lease does not reach beyond the deadline of its job. */
export function leaseEnd(until: number, deadline: number | undefined): number {
  return Math.min(until, deadline ?? Number.POSITIVE_INFINITY);
}
