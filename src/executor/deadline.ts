/**
 * Deadlines of running calls. One list and at most one timer for all of them: adding and removing a deadline is two pointer
 * writes, so that a call that ends in time pays almost nothing for having one.
 */

import type { CancelTimer, Clock } from '../clock.ts';

/** Expired deadlines are looked for at most this often; a deadline passes up to this much late, never early. */
const RESOLUTION_MS = 5;

/** The longest delay that a timer of node takes; a later deadline is looked at again then. */
const DELAY_MS_MAX = 2_147_483_647;

/** Something that ends when its deadline passes. Extend it, and hand it to `Deadlines`. */
export abstract class Expiring {
  /** Milliseconds since the epoch, by the clock as it is when the entry is added: one that is set later changes nothing. */
  readonly deadline: number;
  /** By the monotonic clock. */
  dueMs = 0;
  previous: Expiring | undefined = undefined;
  next: Expiring | undefined = undefined;
  listed = false;

  constructor(deadline: number) {
    this.deadline = deadline;
  }

  /** Called once, when the deadline has passed and nobody removed the entry before. */
  abstract expire(): void;
}

export class Deadlines {
  readonly #clock: Clock;
  #first: Expiring | undefined = undefined;
  #timer: CancelTimer | undefined = undefined;
  /** When the timer fires; meaningless without a timer. */
  #timerAt = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** `dueMs`: the deadline by the monotonic clock, when it is known: two clocks less to read. */
  add(entry: Expiring, dueMs = this.#clock.monotonic() + entry.deadline - this.#clock.now()): void {
    entry.dueMs = dueMs;
    const first = this.#first;
    entry.next = first;
    if (first) first.previous = entry;
    this.#first = entry;
    entry.listed = true;
    if (this.#timer === undefined || entry.dueMs < this.#timerAt) this.#arm(dueMs);
  }

  remove(entry: Expiring): void {
    if (!entry.listed) return;
    entry.listed = false;
    const { previous, next } = entry;
    if (previous) previous.next = next;
    else this.#first = next;
    if (next) next.previous = previous;
    entry.previous = undefined;
    entry.next = undefined;
  }

  #arm(at: number): void {
    this.#timer?.();
    this.#timerAt = at;
    const delayMs = Math.min(Math.max(at - this.#clock.monotonic(), RESOLUTION_MS), DELAY_MS_MAX);
    this.#timer = this.#clock.after(delayMs, () => this.#sweep());
  }

  #sweep(): void {
    this.#timer = undefined;
    const nowMs = this.#clock.monotonic();
    let earliest = Number.POSITIVE_INFINITY;
    const expired: Expiring[] = [];
    for (let entry = this.#first; entry; entry = entry.next) {
      if (entry.dueMs <= nowMs) expired.push(entry);
      else if (entry.dueMs < earliest) earliest = entry.dueMs;
    }
    if (earliest !== Number.POSITIVE_INFINITY) this.#arm(earliest);
    for (const entry of expired) {
      if (!entry.listed) continue;
      this.remove(entry);
      entry.expire();
    }
  }
}
