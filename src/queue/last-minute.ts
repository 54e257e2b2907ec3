import type { Clock } from '../clock.ts';

const SECONDS = 60;

/** How often something happens, over the last minute. */
export class LastMinute {
  readonly #clock: Clock;
  readonly #startedAt: number;
  /** How often in each second, by its number modulo 60. */
  readonly #seconds = new Float64Array(SECONDS);
  /** Since the start. */
  #second = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#startedAt = clock.monotonic();
  }

  add(amount: number): void {
    const second = Math.floor(this.#elapsed());
    if (second !== this.#second) this.#turnTo(second);
    this.#seconds[second % SECONDS] = (this.#seconds[second % SECONDS] ?? 0) + amount;
  }

  /** Of less than a second as of one. */
  perSecond(): number {
    const elapsed = this.#elapsed();
    const second = Math.floor(elapsed);
    this.#turnTo(second);
    // The second that has begun, and those before it.
    const covered = Math.min(elapsed, SECONDS - 1 + elapsed - second);
    return this.#seconds.reduce((sum, count) => sum + count, 0) / Math.max(1, covered);
  }

  #elapsed(): number {
    return (this.#clock.monotonic() - this.#startedAt) / 1_000;
  }

  #turnTo(second: number): void {
    for (let at = Math.max(this.#second, second - SECONDS) + 1; at <= second; at += 1) this.#seconds[at % SECONDS] = 0;
    this.#second = second;
  }
}
