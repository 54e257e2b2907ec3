/**
 * The lanes of a queue: one pull consumer of the stream for each priority and each set of capabilities that some job requires. The server
 * hands each message of a lane to one of those who ask, and again when it hears nothing of it.
 */

import type { Clock } from '../../src/plugin.ts';
import type { ConsumerInfo, Msg, NatsClient, Subscription } from './client.ts';
import { requiresToken } from './records.ts';
import type { JobMeta, Names } from './records.ts';

/** A job as it was handed to us: nobody else has it until we say so, or keep silent. */
export interface Delivery {
  readonly lane: Lane;
  readonly seq: number;
  /** How often it was handed out by the server, with this time. */
  readonly deliveries: number;
  /** Where the server hears what becomes of it. */
  readonly ack: string;
  readonly header: string;
  readonly body: Uint8Array;
}

/** A pull that waits is given anew after this long. */
const EXPIRES_MS = 5_000;
const HEARTBEAT_MS = 1_000;
/** One that does not wait is given up after this long without a word. */
const SILENCE_MS = 2_000;
/** One for what a consumer has not heard of yet waits so long. */
const BEHIND_MS = 200;
const REFRESH_MS = 10_000;
const NANOS = 1_000_000;

interface Pull {
  readonly id: string;
  missing: number;
  readonly done: (outcome: 'done' | 'silent') => void;
  cancelTimer: () => void;
}

/** One consumer, and our pulls of it: at most one that does not wait, and those that do. */
export class Lane {
  readonly priority: number;
  readonly requires: readonly string[];
  readonly consumer: string;
  /** Up to here messages may have been handed out in a time that we know nothing of: their records are read. */
  checkedTo = Number.POSITIVE_INFINITY;
  readonly #lanes: Lanes;
  readonly #subscriptions: readonly Subscription[];
  readonly #inbox: string;
  /** One at a time. */
  #now: Promise<unknown> = Promise.resolve();
  #takes = 0;
  /** For those who take now. */
  #taken: Delivery[] = [];
  /** Of what came for nobody: until the server has it again. */
  #returning: Promise<unknown> = Promise.resolve();
  /** Up to here the stream has jobs: it may have told the consumer, or not yet. */
  #storedTo = 0;
  /** Up to here the consumer has handed out, to us or to others. */
  #handedTo = 0;
  #pull: Pull | undefined;
  #waiting: Pull | undefined;
  #pulls = 0;

  constructor(lanes: Lanes, priority: number, requires: readonly string[]) {
    this.#lanes = lanes;
    this.priority = priority;
    this.requires = requires;
    this.consumer = consumerName(priority, requires);
    this.#inbox = lanes.client.inbox();
    this.#subscriptions = ['n', 'w'].map((kind) =>
      lanes.client.subscribe(`${this.#inbox}.${kind}.*`, (message) => this.#heard(message, kind === 'n' ? this.#pull : this.#waiting)),
    );
  }

  /** The stream has acknowledged a job of this lane: who takes now gets it, if nobody else has it. */
  stored(seq: number): void {
    this.#storedTo = Math.max(this.#storedTo, seq);
  }

  /** The stream ends at `last`; what the consumer did before is not known to us. */
  checked(last: number): void {
    this.checkedTo = last;
    this.#storedTo = last;
    this.#handedTo = 0;
  }

  /**
   * What is there now, at most `max`; more when something came that nobody waits for any more. Undefined when the server does not answer.
   */
  take(max: number): Promise<readonly Delivery[] | undefined> {
    this.#takes += 1;
    const taken = this.#now.then(async () => {
      const isAnswered = await this.#takeAll(max);
      this.#takes -= 1;
      const all = this.#taken.splice(0);
      return isAnswered || all.length > 0 ? all : undefined;
    });
    this.#now = taken;
    return taken;
  }

  /** It was waited for, and nobody waits any more: for who takes something now, else `putBack` gives it to the server before the next does. */
  stray(delivery: Delivery, putBack: () => Promise<void>): void {
    if (this.#takes > 0) {
      this.#taken.push(delivery);
      count(this.#pull);
    } else this.#returning = Promise.all([this.#returning, putBack().catch(() => undefined)]);
  }

  /** Asks for so many as they come, if it has not asked already; they go to `lanes.arrived`. */
  want(count: number): void {
    if (this.#waiting || count === 0) return;
    const id = this.#id();
    const done = (): void => {
      if (this.#waiting?.id !== id) return;
      this.#waiting.cancelTimer();
      this.#waiting = undefined;
      this.#lanes.arrived(this, undefined);
    };
    this.#waiting = { id, missing: count, done, cancelTimer: () => undefined };
    this.#listen(this.#waiting, 3 * HEARTBEAT_MS);
    this.#ask(`w.${id}`, { batch: count, expires: EXPIRES_MS * NANOS, idle_heartbeat: HEARTBEAT_MS * NANOS });
  }

  async close(): Promise<void> {
    // What was sent to us already is still heard.
    await Promise.all(this.#subscriptions.map((subscription) => subscription.drain().catch(() => undefined)));
    this.#pull?.done('silent');
    this.#waiting?.cancelTimer();
  }

  /**
   * A server acknowledges what it has stored before it tells its consumers: one that says that there is nothing may not have heard of it.
   * False when the server does not answer.
   */
  async #takeAll(max: number): Promise<boolean> {
    await this.#returning;
    const until = this.#lanes.clock.monotonic() + SILENCE_MS;
    let isAnswered = this.#taken.length >= max || (await this.#take(max - this.#taken.length, 0));
    while (isAnswered && this.#taken.length < max) {
      const rest = await this.#rest();
      if (rest === 'none') return true;
      // What was handed to our pull that waits comes before the answer to a later one.
      if (rest === 'elsewhere') return !this.#waiting || this.#take(max - this.#taken.length, 0);
      if (rest === 'unknown' || this.#lanes.clock.monotonic() > until) return false;
      isAnswered = await this.#take(max - this.#taken.length, BEHIND_MS);
    }
    return isAnswered;
  }

  /** Where the jobs are of which we know that they are stored, and that were not handed to us. */
  async #rest(): Promise<'none' | 'elsewhere' | 'behind' | 'unknown'> {
    const upTo = this.#storedTo;
    if (this.#handedTo >= upTo) return 'none';
    const ends = await this.#lanes.endsOf(this).catch(() => undefined);
    if (!ends) return 'unknown';
    this.#handedTo = Math.max(this.#handedTo, ends.handedTo);
    if (this.#handedTo < upTo && ends.last > this.#handedTo) return 'behind';
    // Removed, or handed to others.
    this.#handedTo = Math.max(this.#handedTo, upTo);
    return 'elsewhere';
  }

  /** False when the server does not answer. */
  async #take(max: number, expires: number): Promise<boolean> {
    const id = this.#id();
    const { promise, resolve } = Promise.withResolvers<'done' | 'silent'>();
    const pull: Pull = { id, missing: max, done: resolve, cancelTimer: () => undefined };
    this.#pull = pull;
    this.#listen(pull, SILENCE_MS);
    this.#ask(`n.${id}`, { batch: max, no_wait: true, ...(expires > 0 && { expires: expires * NANOS }) });
    const outcome = await promise;
    pull.cancelTimer();
    this.#pull = undefined;
    return outcome === 'done';
  }

  #ask(reply: string, request: object): void {
    this.#lanes.client.send(this.#lanes.nextSubject(this.consumer), JSON.stringify(request), `${this.#inbox}.${reply}`);
  }

  #id(): string {
    this.#pulls += 1;
    return String(this.#pulls);
  }

  /** What has come already is heard before the timer: this process may have stood still. */
  #listen(pull: Pull, ms: number): void {
    pull.cancelTimer();
    let isOver = false;
    const cancel = this.#lanes.clock.after(ms, () => setImmediate(() => (isOver ? undefined : pull.done('silent'))));
    pull.cancelTimer = () => {
      isOver = true;
      cancel();
    };
  }

  #heard(message: Msg, pull: Pull | undefined): void {
    if (message.reply?.startsWith('$JS.ACK.')) {
      this.#delivered(deliveryOf(this, message, this.#lanes.client.headerOf(message)), pull);
      return;
    }
    // A word of the server: to which pull its subject says.
    if (!pull || !message.subject.endsWith(`.${pull.id}`)) return;
    const code = message.headers?.code;
    if (code === 100) this.#listen(pull, 3 * HEARTBEAT_MS);
    else pull.done(code === 404 || code === 408 ? 'done' : 'silent');
    if (code !== 100 && code !== 404 && code !== 408) this.#lanes.troubled();
  }

  #delivered(delivery: Delivery, pull: Pull | undefined): void {
    if (delivery.deliveries === 1) this.#handedTo = Math.max(this.#handedTo, delivery.seq);
    if (pull === undefined || pull === this.#waiting) this.#lanes.arrived(this, delivery);
    else this.#taken.push(delivery);
    count(pull);
  }
}

function count(pull: Pull | undefined): void {
  if (!pull) return;
  pull.missing -= 1;
  if (pull.missing <= 0) pull.done('done');
}

function consumerName(priority: number, requires: readonly string[]): string {
  return `p${priority}-${requiresToken(requires)}`;
}

/** `$JS.ACK.<stream>.<consumer>.<deliveries>.<seq>...`, with domain and account before the stream in newer servers. */
function deliveryOf(lane: Lane, message: Msg, header: string): Delivery {
  const ack = message.reply ?? '';
  const tokens = ack.split('.');
  const at = tokens.length === 9 ? 4 : 6;
  return { lane, seq: Number(tokens[at + 1]), deliveries: Number(tokens[at]), ack, header, body: message.data };
}

export interface LanesOptions {
  readonly client: NatsClient;
  readonly names: Names;
  readonly clock: Clock;
  readonly ackWaitMs: number;
  readonly replicas: number;
  /** A job came that was waited for, or undefined: a pull that waited ended. */
  readonly arrived: (lane: Lane, delivery: Delivery | undefined) => void;
  /** There are other lanes than before. */
  readonly changed: () => void;
}

export class Lanes {
  readonly client: NatsClient;
  readonly clock: Clock;
  readonly arrived: LanesOptions['arrived'];
  readonly #options: LanesOptions;
  readonly #lanes = new Map<string, Lane>();
  readonly #making = new Map<string, Promise<Lane>>();
  #sorted: Lane[] = [];
  #refreshedAt = Number.NEGATIVE_INFINITY;
  #refreshing: Promise<void> | undefined;
  #subscription: Subscription | undefined;

  constructor(options: LanesOptions) {
    this.#options = options;
    this.client = options.client;
    this.clock = options.clock;
    this.arrived = options.arrived;
  }

  /** Learns which lanes there are, and follows what changes. */
  async open(): Promise<void> {
    this.#subscription = this.client.subscribe(this.#options.names.lanes, () => void this.refresh().catch(() => undefined));
    await this.refresh();
  }

  nextSubject(consumer: string): string {
    return `$JS.API.CONSUMER.MSG.NEXT.${this.#options.names.stream}.${consumer}`;
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

  /** Up to where a lane was handed out, and where it ends. Undefined when it has no consumer. */
  async endsOf({ consumer, priority, requires }: Lane): Promise<{ readonly handedTo: number; readonly last: number } | undefined> {
    const { client, names } = this.#options;
    const [info, last] = await Promise.all([
      client.consumer(consumer, SILENCE_MS),
      client.last(names.lane(priority, requires), SILENCE_MS),
    ]);
    return info && { handedTo: info.delivered.stream_seq, last: last?.seq ?? 0 };
  }

  /** Those that hold what somebody with these capabilities may get: by priority, higher first. */
  matching(has: ReadonlySet<string>): Lane[] {
    if (this.clock.monotonic() - this.#refreshedAt > REFRESH_MS) void this.refresh().catch(() => undefined);
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

  /** A consumer is gone, or has another leader. */
  troubled(): void {
    this.#refreshedAt = Number.NEGATIVE_INFINITY;
  }

  async close(): Promise<void> {
    this.#subscription?.unsubscribe();
    await Promise.all(this.#sorted.map((lane) => lane.close()));
  }

  async #make(name: string, priority: number, requires: readonly string[]): Promise<Lane> {
    const { names, ackWaitMs, replicas } = this.#options;
    await this.client.addConsumer({
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
    this.client.send(this.#options.names.lanes, name);
    const lane = this.#add(priority, requires);
    await this.#check();
    return lane;
  }

  #add(priority: number, requires: readonly string[]): Lane {
    const name = consumerName(priority, requires);
    const known = this.#lanes.get(name);
    if (known) return known;
    const lane = new Lane(this, priority, requires);
    this.#lanes.set(name, lane);
    this.#sorted = [...this.#lanes.values()].toSorted((a, b) => b.priority - a.priority);
    this.#options.changed();
    return lane;
  }

  async #refresh(): Promise<void> {
    this.#refreshedAt = this.clock.monotonic();
    const before = [...this.#lanes.values()];
    const found = (await this.client.consumers()).map((info) => laneOf(info)).filter((lane) => lane !== undefined);
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
    const info = unchecked.length > 0 ? await this.client.stream() : undefined;
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
