/** How many jobs of each type wait and run: of few types, however many there are. */

import type { TypeDepth } from './queue.ts';

/** Types that are told by name. */
const SHOWN_MAX = 20;
/** Where all others are counted. */
const OTHER = 'other';
/** Types that are kept while they have no jobs: most of them have some again soon. */
const EMPTY_MAX = 256;

interface Depth {
  queued: number;
  claimed: number;
}

export class TypeTally {
  readonly #types = new Map<string, Depth>();
  #empty = 0;

  /** Types that are kept. */
  get size(): number {
    return this.#types.size;
  }

  add(type: string, state: keyof Depth, count = 1): void {
    const known = this.#types.get(type);
    if (known) {
      if (known.queued + known.claimed === 0) this.#empty -= 1;
      known[state] += count;
    } else this.#types.set(type, { queued: 0, claimed: 0, [state]: count });
  }

  remove(type: string, state: keyof Depth): void {
    const known = this.#types.get(type);
    if (!known) return;
    known[state] -= 1;
    if (known.queued + known.claimed > 0) return;
    if (this.#empty < EMPTY_MAX) this.#empty += 1;
    else this.#types.delete(type);
  }

  clear(): void {
    this.#types.clear();
    this.#empty = 0;
  }

  /** The types with the most jobs, the largest first, and at the end all that are not among them. */
  largest(): TypeDepth[] {
    const shown: TypeDepth[] = [];
    const other = { type: OTHER, queued: 0, claimed: 0 };
    for (const [type, depth] of this.#types) {
      let beyond: Depth | undefined = depth;
      const place = shown.findLastIndex((one) => sizeOf(one) >= sizeOf(depth)) + 1;
      if (type !== OTHER && place < SHOWN_MAX) {
        shown.splice(place, 0, { type, ...depth });
        beyond = shown.length > SHOWN_MAX ? shown.pop() : undefined;
      }
      other.queued += beyond?.queued ?? 0;
      other.claimed += beyond?.claimed ?? 0;
    }
    return sizeOf(other) > 0 ? [...shown, other] : shown;
  }
}

function sizeOf({ queued, claimed }: Depth): number {
  return queued + claimed;
}
