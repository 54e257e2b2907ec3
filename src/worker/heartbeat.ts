/** A worker tells its control plane how it is. */

import type { Clock } from '../clock.ts';
import { systemClock } from '../clock.ts';

export interface HeartbeatOptions {
  /** Once; what is not delivered is not worth anything later. */
  readonly send: (report: unknown, signal: AbortSignal) => Promise<void>;
  readonly report: () => Promise<unknown>;
  /** Default 5,000. */
  readonly everyMs?: number;
  readonly clock?: Clock;
}

const EVERY_MS = 5_000;
/** A farewell must not keep the process. */
const FAREWELL_MS = 3_000;

/**
 * @example
 * const heartbeat = new Heartbeat({ send: (body, signal) => control.sendOnce({ method: 'PUT', path: '/workers/self', body, signal }), report });
 * heartbeat.start();
 * await heartbeat.stop();
 */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #stop = new AbortController();
  #beating: Promise<void> | undefined;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  /** At once, then again and again. */
  start(): void {
    this.#beating ??= this.#beat();
  }

  /** Says how it is a last time. Never rejects. Idempotent. */
  async stop(): Promise<void> {
    if (this.#stop.signal.aborted || !this.#beating) return;
    this.#stop.abort();
    await this.#beating;
    await this.#tell(AbortSignal.timeout(FAREWELL_MS));
  }

  async #beat(): Promise<void> {
    const { clock = systemClock, everyMs = EVERY_MS } = this.#options;
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await this.#tell(signal);
      await clock.sleep(everyMs, signal).catch(() => {});
    }
  }

  /** Whether the control plane answers is told by the claims. */
  async #tell(signal: AbortSignal): Promise<void> {
    try {
      await this.#options.send(await this.#options.report(), signal);
    } catch {
      // The next one says more.
    }
  }
}
