/** How many jobs of an embedded queue are in which state, and what the ready ones require. Kept in memory, in step with the file. */

import type { QueueStats } from './queue.ts';
import { STATE, STATE_COUNT } from './rows.ts';
import type { Row } from './rows.ts';
import { TypeTally } from './type-tally.ts';

/** Lanes that are kept while they are empty: most of them are filled again soon. */
const EMPTY_MAX = 256;

/** Jobs that are ready, by what they require: one text of sorted capabilities, empty for none. */
class ReadyLanes {
  readonly #lanes = new Map<string, { readonly needs: readonly string[]; count: number }>();
  #empty = 0;
  total = 0;

  add(requires: string, count = 1): void {
    this.total += count;
    const lane = this.#lanes.get(requires);
    if (lane?.count === 0) this.#empty -= 1;
    if (lane) lane.count += count;
    else this.#lanes.set(requires, { needs: requires === '' ? [] : requires.split(' '), count });
  }

  remove(requires: string): void {
    this.total -= 1;
    const lane = this.#lanes.get(requires);
    if (!lane) return;
    lane.count -= 1;
    if (lane.count > 0) return;
    if (this.#empty < EMPTY_MAX) this.#empty += 1;
    else this.#lanes.delete(requires);
  }

  /** What a worker with these capabilities can take. */
  matching(capabilities: ReadonlySet<string>): string[] {
    const found: string[] = [];
    for (const [requires, { needs, count }] of this.#lanes)
      if (count > 0 && needs.every((need) => capabilities.has(need))) found.push(requires);
    return found;
  }

  names(): string[] {
    return [...this.#lanes].flatMap(([requires, { count }]) => (count > 0 ? [requires] : []));
  }

  clear(): void {
    this.#lanes.clear();
    this.#empty = 0;
    this.total = 0;
  }
}

interface Kind {
  readonly type: string;
  /** One text of sorted capabilities. */
  readonly requires: string;
}

export class JobTally {
  readonly ready = new ReadyLanes();
  readonly types = new TypeTally();
  /** Jobs have become ready since this was last set to false. */
  news = false;
  readonly #counts: number[] = Array.from({ length: STATE_COUNT }, () => 0);

  get waiting(): number {
    return this.#of(STATE.ready) + this.#of(STATE.delayed);
  }

  get delayed(): number {
    return this.#of(STATE.delayed);
  }

  /** Rows of the statements of these names. */
  load(counts: readonly Row[], types: readonly Row[], ready: readonly Row[]): void {
    this.#counts.fill(0);
    this.types.clear();
    this.ready.clear();
    for (const { state, count } of counts) this.#counts[Number(state)] = Number(count);
    for (const { type, state, count } of types) this.types.add(String(type), depthOf(Number(state)), Number(count));
    for (const { requires, count } of ready) this.ready.add(String(requires), Number(count));
  }

  add(state: number, { type, requires }: Kind): void {
    this.#counts[state] = this.#of(state) + 1;
    if (state <= STATE.claimed) this.types.add(type, depthOf(state));
    if (state !== STATE.ready) return;
    this.ready.add(requires);
    this.news = true;
  }

  remove(state: number, { type, requires }: Kind): void {
    this.#counts[state] = this.#of(state) - 1;
    if (state <= STATE.claimed) this.types.remove(type, depthOf(state));
    if (state === STATE.ready) this.ready.remove(requires);
  }

  move(job: Kind & { readonly from: number }, to: number): void {
    if (job.from === to) return;
    this.remove(job.from, job);
    this.add(to, job);
  }

  byState(): QueueStats['byState'] {
    return {
      queued: this.waiting,
      claimed: this.#of(STATE.claimed),
      completed: this.#of(STATE.completed),
      failed: this.#of(STATE.failed),
      dead: this.#of(STATE.dead),
      expired: this.#of(STATE.expired),
      cancelled: this.#of(STATE.cancelled),
    };
  }

  #of(state: number): number {
    return this.#counts[state] ?? 0;
  }
}

export function kindOf({ type, requires }: { readonly type: string; readonly requires: readonly string[] }): Kind {
  return { type, requires: requires.join(' ') };
}

function depthOf(state: number): 'queued' | 'claimed' {
  return state === STATE.claimed ? 'claimed' : 'queued';
}
