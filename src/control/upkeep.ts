/** What is to be done now and then: one run of a task at a time, and never most of the time. */

import type { CancelTimer, Clock } from '../clock.ts';
import type { Logger } from '../telemetry/telemetry.ts';

export interface UpkeepTask {
  /** For people, such as "old jobs are removed". */
  readonly what: string;
  /** From the end of a run to the next one, milliseconds. */
  readonly everyMs: number;
  readonly run: () => Promise<void>;
}

/** A run that took long is followed by a pause of so many times as long. */
const REST = 10;

export class Upkeep {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #timers: CancelTimer[] = [];
  readonly #running: Promise<void>[] = [];
  #isClosed = false;

  constructor({ clock, log }: { readonly clock: Clock; readonly log: Logger }) {
    this.#clock = clock;
    this.#log = log;
  }

  /** From now on, for the first time after `everyMs`. */
  add(task: UpkeepTask): void {
    const index = this.#timers.length;
    const later = (ms: number): void => {
      this.#timers[index] = this.#clock.after(ms, () => {
        this.#running[index] = this.#run(task).then((tookMs) => {
          if (!this.#isClosed) later(Math.max(task.everyMs, REST * tookMs));
        });
      });
    };
    later(task.everyMs);
  }

  /** Runs that have begun are waited for. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const cancel of this.#timers) cancel();
    await Promise.all(this.#running);
  }

  /** How long it took. */
  async #run({ what, run }: UpkeepTask): Promise<number> {
    const startedAt = this.#clock.monotonic();
    try {
      await run();
    } catch (error) {
      this.#log.warn(`not done: ${what}`, { error });
    }
    return this.#clock.monotonic() - startedAt;
  }
}
