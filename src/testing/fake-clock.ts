/** Virtual time and seeded chance: what a test passes where production passes the system clock and real randomness. */

import { setImmediate as turnOfEventLoop } from 'node:timers/promises';
import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';

interface Timer {
  readonly dueMs: number;
  /** Timers of the same time run in the order in which they were made. */
  readonly order: number;
  readonly action: () => void;
}

export interface FakeClockOptions {
  /** Wall clock at the start, milliseconds since the epoch; default 2026-01-01T00:00:00Z. */
  readonly startMs?: number;
}

/** Turns of the event loop without an end mean that something spins without using the clock. */
const SETTLE_TURNS_MAX = 100_000;

/**
 * Time that moves only when a test moves it.
 *
 * Timers run in the order of their time, then of their making. Between two timers everything that can go on without time does so:
 * promises, `process.nextTick` and `setImmediate` are drained. So a program that takes its time from here, and does no real I/O,
 * behaves the same in every run.
 *
 * @example
 * const clock = new FakeClock();
 * const done = clock.sleep(1_000);
 * await clock.advance(1_000);
 * await done;
 */
export class FakeClock implements Clock {
  readonly #startMs: number;
  #elapsedMs = 0;
  #wallOffsetMs = 0;
  #order = 0;
  #moving = false;
  /** By time, then order. */
  readonly #timers: Timer[] = [];

  constructor(options: FakeClockOptions = {}) {
    this.#startMs = options.startMs ?? Date.UTC(2026, 0, 1);
  }

  now(): number {
    return this.#startMs + this.#wallOffsetMs + Math.floor(this.#elapsedMs);
  }

  monotonic(): number {
    return this.#elapsedMs;
  }

  /** Timers that wait. */
  get pending(): number {
    return this.#timers.length;
  }

  after(delayMs: number, action: () => void): CancelTimer {
    // A negative or absent delay is none, as with setTimeout.
    const timer: Timer = { dueMs: this.#elapsedMs + (delayMs > 0 ? delayMs : 0), order: this.#order, action };
    this.#order += 1;
    this.#timers.splice(this.#indexFor(timer), 0, timer);
    return () => {
      const index = this.#timers.indexOf(timer);
      if (index >= 0) this.#timers.splice(index, 1);
    };
  }

  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const abort = (): void => {
        cancel();
        reject(new RunnerError('ABORTED', 'the wait was cancelled', { cause: signal?.reason }));
      };
      const cancel = this.after(delayMs, () => {
        signal?.removeEventListener('abort', abort);
        resolve();
      });
      if (signal?.aborted) abort();
      else signal?.addEventListener('abort', abort, { once: true });
    });
  }

  /** Moves time on by `ms`; resolves when everything due until then has run and nothing goes on without time. */
  async advance(ms: number): Promise<void> {
    if (!(ms >= 0)) throw new RunnerError('CONFIG_INVALID', `time cannot move by ${ms} ms`);
    await this.#exclusively(async () => {
      const untilMs = this.#elapsedMs + ms;
      await this.settle();
      while (this.#fireNext(untilMs)) await this.settle();
      this.#elapsedMs = untilMs;
    });
  }

  /**
   * Moves from timer to timer until none waits; resolves with the virtual milliseconds that took. Throws `STATE_INVALID` when timers
   * still wait after `limitMs` (default one hour): a periodic timer never comes to an end.
   */
  async runUntilIdle(options: { readonly limitMs?: number } = {}): Promise<number> {
    const limitMs = options.limitMs ?? 3_600_000;
    const fromMs = this.#elapsedMs;
    await this.#exclusively(async () => {
      await this.settle();
      while (this.#fireNext(fromMs + limitMs)) await this.settle();
      if (this.#timers.length > 0) {
        throw new RunnerError('STATE_INVALID', `${this.#timers.length} timers still wait after ${limitMs} virtual ms`);
      }
    });
    return this.#elapsedMs - fromMs;
  }

  /** The wall clock is set, as by an operator or by NTP; durations and timers do not notice. */
  jump(ms: number): void {
    this.#wallOffsetMs += ms;
  }

  /** Lets everything go on that needs no time. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < SETTLE_TURNS_MAX; turn += 1) {
      await turnOfEventLoop();
      if (!process.getActiveResourcesInfo().includes('Immediate')) return;
    }
    throw new RunnerError(
      'STATE_INVALID',
      `something still goes on after ${SETTLE_TURNS_MAX} turns of the event loop without using the clock`,
    );
  }

  async #exclusively(move: () => Promise<void>): Promise<void> {
    if (this.#moving) throw new RunnerError('STATE_INVALID', 'the clock is being moved already: await advance() and runUntilIdle()');
    this.#moving = true;
    try {
      await move();
    } finally {
      this.#moving = false;
    }
  }

  #fireNext(untilMs: number): boolean {
    const next = this.#timers[0];
    if (!next || next.dueMs > untilMs) return false;
    this.#timers.shift();
    this.#elapsedMs = Math.max(this.#elapsedMs, next.dueMs);
    next.action();
    return true;
  }

  /** Behind all timers that are due at the same time or earlier. */
  #indexFor(timer: Timer): number {
    let low = 0;
    let high = this.#timers.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const other = this.#timers[middle];
      if (other && other.dueMs <= timer.dueMs) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

const GOLDEN_32 = 0x9e3779b9;

/** Well-mixed 32 bits of `value`. */
function mix32(value: number): number {
  let mixed = value | 0;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}

/**
 * Seeded chance (splitmix32): the same seed gives the same values on every machine. Never for secrets.
 *
 * @example
 * const random = new Random(42);
 * if (random.chance(0.1)) chain.reorg(random.int(1, 3));
 */
export class Random {
  readonly seed: number;
  #state: number;

  constructor(seed: number) {
    this.seed = seed;
    this.#state = (mix32(seed) ^ mix32(Math.floor(seed / 0x1_0000_0000) + GOLDEN_32)) >>> 0;
  }

  /** A stream of its own: what is drawn from it does not move this one, nor the streams of other names. */
  fork(name: string): Random {
    let hashed = this.seed;
    for (const character of name) hashed = mix32(Math.imul(hashed, 31) + (character.codePointAt(0) ?? 0));
    return new Random(hashed);
  }

  uint32(): number {
    this.#state = (this.#state + GOLDEN_32) >>> 0;
    return mix32(this.#state);
  }

  /** From 0 up to, not including, 1. */
  next(): number {
    return this.uint32() / 0x1_0000_0000;
  }

  /** An integer, both ends included. */
  int(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1));
  }

  /** True with this probability, 0 to 1. Always draws, so that a changed probability does not shift what follows. */
  chance(probability: number): boolean {
    return this.next() < probability;
  }

  /** One of a list that is not empty. */
  pick<T>(list: readonly [T, ...T[]] | readonly T[]): T {
    if (list.length === 0) throw new RunnerError('CONFIG_INVALID', 'nothing can be picked from an empty list');
    return list[this.int(0, list.length - 1)] as T; // the index is inside the list
  }

  /** A shuffled copy. */
  shuffled<T>(list: readonly T[]): T[] {
    const copy = [...list];
    for (let index = copy.length - 1; index > 0; index -= 1) {
      const other = this.int(0, index);
      [copy[index], copy[other]] = [copy[other] as T, copy[index] as T]; // both are inside the list
    }
    return copy;
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    for (let index = 0; index < length; index += 1) bytes[index] = this.uint32() & 0xff;
    return bytes;
  }
}
