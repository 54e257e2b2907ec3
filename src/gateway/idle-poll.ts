/**
 * Looks for news for a moment before the process sleeps, as long as they follow each other quickly. To wake a process that sleeps, and in a
 * virtual machine the processor with it, takes as long as a short call; Linux does the same in its guests (`cpuidle-haltpoll`).
 */

import type { Clock } from '../clock.ts';

/** Longer between two looks: the processor was given to somebody else, who had to wait for it. */
const PREEMPTED_MS = 0.06;
const REST_MS = 5;
/** News follow each other quickly when no more than so many windows lie between them: while the process sleeps, all takes longer. */
const QUICK_WINDOWS = 5;

export interface IdlePollOptions {
  readonly clock: Pick<Clock, 'monotonic'>;
  /** How long it looks after the last news, milliseconds. 0: not at all. */
  readonly windowMs: number;
  /** Calls when all events that are there were told. Default: `setImmediate`. */
  readonly defer?: (look: () => void) => void;
}

export class IdlePoll {
  readonly #clock: IdlePollOptions['clock'];
  readonly #windowMs: number;
  readonly #defer: (look: () => void) => void;
  #newsAt = Number.NEGATIVE_INFINITY;
  #lookedAt = 0;
  #restsUntil = 0;
  #isLooking = false;

  constructor({ clock, windowMs, defer = setImmediate }: IdlePollOptions) {
    this.#clock = clock;
    this.#windowMs = windowMs;
    this.#defer = defer;
  }

  /** `now`: of the monotonic clock. */
  news(now: number): void {
    const isQuick = now - this.#newsAt < QUICK_WINDOWS * this.#windowMs;
    this.#newsAt = now;
    if (!isQuick || this.#isLooking || now < this.#restsUntil) return;
    this.#isLooking = true;
    this.#lookedAt = now;
    this.#defer(this.#look);
  }

  readonly #look = (): void => {
    const now = this.#clock.monotonic();
    // What took its time may have been the news themselves.
    if (this.#newsAt <= this.#lookedAt && now - this.#lookedAt > PREEMPTED_MS) this.#restsUntil = now + REST_MS;
    this.#isLooking = now >= this.#restsUntil && now - this.#newsAt < this.#windowMs;
    this.#lookedAt = now;
    if (this.#isLooking) this.#defer(this.#look);
  };
}
