/** News under topics, numbered, the newest of them kept: for readers who come back and want what they missed. */

export interface Numbered<T> {
  readonly id: string;
  readonly topic: string;
  readonly item: T;
}

/** Most are never read: the text of the number is made for those that are. */
class Entry<T> implements Numbered<T> {
  readonly epoch: string;
  readonly number: number;
  readonly topic: string;
  readonly item: T;

  constructor(epoch: string, number: number, { topic, item }: Pick<Numbered<T>, 'topic' | 'item'>) {
    this.epoch = epoch;
    this.number = number;
    this.topic = topic;
    this.item = item;
  }

  get id(): string {
    return `${this.epoch}-${this.number}`;
  }
}

interface Ring<T> {
  readonly entries: Entry<T>[];
  weight: number;
  usedAt: number;
  /** Number of the newest that is kept no more. */
  cutAt: number;
}

export interface EventLogOptions<T> {
  /** Tells the numbers of this process from those of an earlier one. */
  readonly epoch: string;
  /** Kept of each topic. */
  readonly entriesMax: number;
  readonly topicsMax: number;
  /** Of one entry, and the most of all entries of a topic: what they hold, where that differs much. Default: weightless. */
  readonly weightOf?: (item: T) => number;
  readonly weightMax?: number;
  /** Kept is only what somebody who has listened, to this process or the one before it, can read on from: nothing when all would miss some. */
  readonly forListeners?: true;
}

/** More than is kept, before it is cut. */
const SLACK = 1.25;

/** What a reader sees. */
export type EventReader<T> = Pick<EventLog<T>, 'lastId' | 'read' | 'resumeAt' | 'listen'>;

export class EventLog<T> {
  readonly #options: EventLogOptions<T>;
  readonly #rings = new Map<string, Ring<T>>();
  readonly #listeners = new Set<(entry: Numbered<T>) => void>();
  #count = 0;
  /** Number of the newest when the last listener left; those of an earlier process left before the first. */
  #heardAt = 0;
  /** Number of the newest that went with a topic that was given up for others. */
  #goneAt = 0;

  constructor(options: EventLogOptions<T>) {
    this.#options = options;
  }

  /** Of the newest entry of all topics. */
  get lastId(): string {
    return `${this.#options.epoch}-${this.#count}`;
  }

  /** `make` runs at once, and only for an entry that is kept: most are made for nobody, and what is kept a while costs the collector more than the call that it tells of. */
  append(topic: string, make: () => T): void {
    this.#count += 1;
    const ring = this.#rings.get(topic) ?? this.#newRing(topic);
    ring.usedAt = this.#count;
    if (this.#options.forListeners && this.#listeners.size === 0 && ring.cutAt > this.#heardAt) return this.#skip(ring);
    const entry = new Entry<T>(this.#options.epoch, this.#count, { topic, item: make() });
    ring.entries.push(entry);
    ring.weight += this.#weightOf(entry);
    const { entriesMax, weightMax = Infinity } = this.#options;
    // Cut in larger pieces: to remove the first of many costs as much as to remove a hundred.
    if (ring.entries.length > entriesMax * SLACK || ring.weight > weightMax * SLACK) this.#cut(ring);
    for (const listener of this.#listeners) listener(entry);
    return undefined;
  }

  /** Oldest first. After `since`, when that is a number of this process; else all that is kept. */
  read(topic: string, options: { readonly since?: string | undefined; readonly limit?: number } = {}): readonly Numbered<T>[] {
    const { since, limit = this.#options.entriesMax } = options;
    const entries = this.#rings.get(topic)?.entries ?? [];
    const after = this.#numberOf(since);
    // Who names where he was reads on from there; who does not wants the newest.
    if (after === undefined) return entries.slice(-limit);
    const from = this.#firstAfter(entries, after);
    return entries.slice(from, from + limit);
  }

  /** Where to read on after `since`, and whether entries in between are kept no more, or were of an earlier process. */
  resumeAt(topic: string, since: string): { readonly since: string; readonly hasMissed: boolean } {
    const cutAt = this.#rings.get(topic)?.cutAt ?? this.#goneAt;
    const number = this.#numberOf(since);
    if (number !== undefined && number >= cutAt) return { since, hasMissed: false };
    return { since: `${this.#options.epoch}-${cutAt}`, hasMissed: true };
  }

  /** The listener must not throw. Returns what ends it. */
  listen(listener: (entry: Numbered<T>) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#heardAt = this.#count;
      this.#listeners.delete(listener);
    };
  }

  #weightOf({ item }: Numbered<T>): number {
    return this.#options.weightOf?.(item) ?? 0;
  }

  /** The newest is not kept, and what came before it is of no use to anybody. */
  #skip(ring: Ring<T>): void {
    ring.entries.length = 0;
    ring.weight = 0;
    ring.cutAt = this.#count;
  }

  #cut(ring: Ring<T>): void {
    const { entriesMax, weightMax = Infinity } = this.#options;
    let from = 0;
    for (const entry of ring.entries) {
      if (ring.entries.length - from <= entriesMax && ring.weight <= weightMax) break;
      ring.weight -= this.#weightOf(entry);
      ring.cutAt = entry.number;
      from += 1;
    }
    ring.entries.splice(0, from);
  }

  #firstAfter(entries: readonly Entry<T>[], after: number): number {
    let low = 0;
    let high = entries.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((entries[middle]?.number ?? 0) > after) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  #newRing(topic: string): Ring<T> {
    if (this.#rings.size >= this.#options.topicsMax) {
      const [oldest, { usedAt }] = [...this.#rings].reduce((left, right) => (left[1].usedAt <= right[1].usedAt ? left : right));
      this.#rings.delete(oldest);
      this.#goneAt = usedAt;
    }
    const ring = { entries: [], usedAt: 0, weight: 0, cutAt: this.#goneAt };
    this.#rings.set(topic, ring);
    return ring;
  }

  #numberOf(id: string | undefined): number | undefined {
    const prefix = `${this.#options.epoch}-`;
    if (id === undefined || !id.startsWith(prefix)) return undefined;
    const number = Number(id.slice(prefix.length));
    return Number.isSafeInteger(number) ? number : undefined;
  }
}
