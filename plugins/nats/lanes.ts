/**
 * The lanes of a queue: one pull consumer of the stream for each priority and each set of capabilities that some job requires. The server
 * hands each message of a lane to one of those who ask, and again when it hears nothing of it.
 */

import type { ConsumerInfo, Subscription } from './client.ts';
import { Lane, consumerName } from './lane.ts';
import type { LaneParts } from './lane.ts';
import type { JobMeta } from './records.ts';

const REFRESH_MS = 10_000;
const NANOS = 1_000_000;

export interface LanesOptions extends Omit<LaneParts, 'troubled'> {
  readonly ackWaitMs: number;
  readonly replicas: number;
  /** There are other lanes than before. */
  readonly changed: () => void;
}

export class Lanes {
  readonly #options: LanesOptions;
  readonly #parts: LaneParts;
  readonly #lanes = new Map<string, Lane>();
  readonly #making = new Map<string, Promise<Lane>>();
  #sorted: Lane[] = [];
  #refreshedAt = Number.NEGATIVE_INFINITY;
  #refreshing: Promise<void> | undefined;
  #subscription: Subscription | undefined;

  constructor(options: LanesOptions) {
    this.#options = options;
    this.#parts = { ...options, troubled: () => (this.#refreshedAt = Number.NEGATIVE_INFINITY) };
  }

  /** Learns which lanes there are, and follows what changes. */
  async open(): Promise<void> {
    this.#subscription = this.#options.client.subscribe(this.#options.names.lanes, () => void this.refresh().catch(() => undefined));
    await this.refresh();
  }

  /** The lane of a job; it is made when nobody needed it before. */
  async ensure(priority: number, requires: readonly string[]): Promise<Lane> {
    const name = consumerName(priority, requires);
    const known = this.#lanes.get(name);
    if (known) return known;
    let making = this.#making.get(name);
    if (!making) {
      making = this.#make(name, priority, requires).finally(() => this.#making.delete(name));
      this.#making.set(name, making);
    }
    return making;
  }

  /** The stream has acknowledged a job. */
  stored({ priority, requires = [] }: Pick<JobMeta, 'priority' | 'requires'>, seq: number): void {
    this.#lanes.get(consumerName(priority, requires))?.stored(seq);
  }

  /** Those that hold what somebody with these capabilities may get: by priority, higher first. */
  matching(has: ReadonlySet<string>): Lane[] {
    if (this.#options.clock.monotonic() - this.#refreshedAt > REFRESH_MS) void this.refresh().catch(() => undefined);
    return this.#sorted.filter(({ requires }) => requires.every((each) => has.has(each)));
  }

  all(): readonly Lane[] {
    return this.#sorted;
  }

  refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh().finally(() => (this.#refreshing = undefined));
    return this.#refreshing;
  }

  /** What was handed out meanwhile is not known to us. */
  reconnected(): void {
    for (const lane of this.#sorted) lane.checkedTo = Number.POSITIVE_INFINITY;
    void this.#check().catch(() => undefined);
  }

  async close(): Promise<void> {
    this.#subscription?.unsubscribe();
    await Promise.all(this.#sorted.map((lane) => lane.close()));
  }

  async #make(name: string, priority: number, requires: readonly string[]): Promise<Lane> {
    const { names, ackWaitMs, replicas } = this.#options;
    await this.#options.client.addConsumer({
      durable_name: name,
      filter_subject: names.lane(priority, requires),
      ack_policy: 'explicit',
      deliver_policy: 'all',
      ack_wait: ackWaitMs * NANOS,
      max_ack_pending: -1,
      max_waiting: 4_096,
      num_replicas: replicas,
      metadata: { 'blueprint-runner': 'lane', priority: String(priority), requires: requires.join(' ') },
    });
    this.#options.client.send(this.#options.names.lanes, name);
    const lane = this.#add(priority, requires);
    await this.#check();
    return lane;
  }

  #add(priority: number, requires: readonly string[]): Lane {
    const name = consumerName(priority, requires);
    const known = this.#lanes.get(name);
    if (known) return known;
    const lane = new Lane(this.#parts, priority, requires);
    this.#lanes.set(name, lane);
    this.#sorted = [...this.#lanes.values()].toSorted((a, b) => b.priority - a.priority);
    this.#options.changed();
    return lane;
  }

  async #refresh(): Promise<void> {
    this.#refreshedAt = this.#options.clock.monotonic();
    const before = [...this.#lanes.values()];
    const found = (await this.#options.client.consumers()).map((info) => laneOf(info)).filter((lane) => lane !== undefined);
    for (const { priority, requires } of found) this.#add(priority, requires);
    const names = new Set(found.map(({ priority, requires }) => consumerName(priority, requires)));
    // Somebody deleted them: made anew they begin with the first message.
    for (const lane of before.filter(({ consumer }) => !names.has(consumer))) {
      lane.checkedTo = Number.POSITIVE_INFINITY;
      await this.#make(lane.consumer, lane.priority, lane.requires);
    }
    if (this.#lanes.size > before.length) await this.#check();
  }

  async #check(): Promise<void> {
    const unchecked = this.#sorted.filter(({ checkedTo }) => checkedTo === Number.POSITIVE_INFINITY);
    const info = unchecked.length > 0 ? await this.#options.client.stream() : undefined;
    if (info) for (const lane of unchecked) lane.checked(info.state.last_seq);
  }
}

/** Undefined for a consumer that is not ours. */
function laneOf({ config }: ConsumerInfo): { readonly priority: number; readonly requires: readonly string[] } | undefined {
  const { metadata } = config;
  if (metadata?.['blueprint-runner'] !== 'lane') return undefined;
  const requires = metadata['requires'] ?? '';
  return { priority: Number(metadata['priority']), requires: requires === '' ? [] : requires.split(' ') };
}
