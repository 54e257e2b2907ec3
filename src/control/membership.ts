/** Which workers came and went, in order: for people in the log, for programs by number. */

import type { Clock } from '../clock.ts';
import type { Logger } from '../telemetry/telemetry.ts';

/**
 * - `joined`: it was heard of for the first time since the control plane started, or since it left
 * - `left`: it said so, or its session was ended
 * - `lost`: it was not heard of for a minute
 * - `returned`: one that was lost is heard of again
 */
export type MembershipChange = 'joined' | 'left' | 'lost' | 'returned';

export interface MembershipEvent {
  /** Rises, also over restarts of the control plane. */
  readonly number: number;
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly worker: string;
  readonly change: MembershipChange;
}

const EVENTS_MAX = 1_000;
const TEXTS: Readonly<Record<MembershipChange, string>> = {
  joined: 'a worker joined',
  left: 'a worker left',
  lost: 'a worker is not heard of any more',
  returned: 'a worker is heard of again',
};

export class Membership {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #events: MembershipEvent[] = [];
  #last = 0;

  constructor({ clock, log }: { readonly clock: Clock; readonly log: Logger }) {
    this.#clock = clock;
    this.#log = log;
  }

  tell(change: MembershipChange, worker: string): void {
    const at = this.#clock.now();
    this.#last = Math.max(this.#last + 1, at);
    this.#events.push({ number: this.#last, at, worker, change });
    if (this.#events.length > EVENTS_MAX) this.#events.shift();
    this.#log[change === 'lost' ? 'warn' : 'info'](TEXTS[change], { worker });
  }

  /** Those after this number, of the last 1,000, the oldest first. */
  after(number: number): readonly MembershipEvent[] {
    return this.#events.filter((event) => event.number > number);
  }
}
