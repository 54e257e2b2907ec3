/** One lane of a queue: a pull consumer of the stream, and our pulls of it. */

import type { Clock } from '../../src/plugin.ts';
import type { Msg, NatsClient, Subscription } from './client.ts';
import { requiresToken } from './records.ts';
import type { Names } from './records.ts';

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
/** Until a server that did not answer is asked again. */
const PAUSE_MS = 100;
const NANOS = 1_000_000;

interface Pull {
  readonly id: string;
  missing: number;
  readonly done: (outcome: 'done' | 'silent') => void;
  cancelTimer: () => void;
}

export interface LaneParts {
  readonly client: NatsClient;
  readonly names: Names;
  readonly clock: Clock;
  /** A job came that was waited for, or undefined: a pull that waited ended. */
  readonly arrived: (lane: Lane, delivery: Delivery | undefined) => void;
  /** The consumer is gone, or has another leader. */
  readonly troubled: () => void;
}

/** At most one pull that does not wait, and one that does. */
export class Lane {
  readonly priority: number;
  readonly requires: readonly string[];
  readonly consumer: string;
  /** Up to here messages may have been handed out in a time that we know nothing of: their records are read. */
  checkedTo = Number.POSITIVE_INFINITY;
  readonly #parts: LaneParts;
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

  constructor(parts: LaneParts, priority: number, requires: readonly string[]) {
    this.#parts = parts;
    this.priority = priority;
    this.requires = requires;
    this.consumer = consumerName(priority, requires);
    this.#inbox = parts.client.inbox();
    this.#subscriptions = ['n', 'w'].map((kind) =>
      parts.client.subscribe(`${this.#inbox}.${kind}.*`, (message) => this.#heard(message, kind === 'n' ? this.#pull : this.#waiting)),
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
    const ended = (): void => {
      this.#waiting = undefined;
      this.#parts.arrived(this, undefined);
    };
    const done: Pull['done'] = (outcome) => {
      if (this.#waiting?.id !== id) return;
      this.#waiting.cancelTimer();
      // Servers that choose a leader are not to be asked all the time.
      if (outcome === 'silent') this.#waiting = pause(this.#parts.clock.after(PAUSE_MS, ended));
      else ended();
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
    const until = this.#parts.clock.monotonic() + SILENCE_MS;
    let isAnswered = this.#taken.length >= max || (await this.#take(max - this.#taken.length, 0));
    while (isAnswered && this.#taken.length < max) {
      const rest = await this.#rest();
      if (rest === 'none') return true;
      // What was handed to our pull that waits comes before the answer to a later one.
      if (rest === 'elsewhere') return !this.#waiting || this.#take(max - this.#taken.length, 0);
      if (rest === 'unknown' || this.#parts.clock.monotonic() > until) return false;
      isAnswered = await this.#take(max - this.#taken.length, BEHIND_MS);
    }
    return isAnswered;
  }

  /** Where the jobs are of which we know that they are stored, and that were not handed to us. */
  async #rest(): Promise<'none' | 'elsewhere' | 'behind' | 'unknown'> {
    const upTo = this.#storedTo;
    if (this.#handedTo >= upTo) return 'none';
    const ends = await this.#ends().catch(() => undefined);
    if (!ends) return 'unknown';
    this.#handedTo = Math.max(this.#handedTo, ends.handedTo);
    if (this.#handedTo < upTo && ends.last > this.#handedTo) return 'behind';
    // Removed, or handed to others.
    this.#handedTo = Math.max(this.#handedTo, upTo);
    return 'elsewhere';
  }

  /** Up to where it was handed out, and where it ends. Undefined when it has no consumer. */
  async #ends(): Promise<{ readonly handedTo: number; readonly last: number } | undefined> {
    const { client, names } = this.#parts;
    const last = client.last(names.lane(this.priority, this.requires), SILENCE_MS);
    const [info, message] = await Promise.all([client.consumer(this.consumer, SILENCE_MS), last]);
    return info && { handedTo: info.delivered.stream_seq, last: message?.seq ?? 0 };
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
    this.#parts.client.send(
      `$JS.API.CONSUMER.MSG.NEXT.${this.#parts.names.stream}.${this.consumer}`,
      JSON.stringify(request),
      `${this.#inbox}.${reply}`,
    );
  }

  #id(): string {
    this.#pulls += 1;
    return String(this.#pulls);
  }

  /** What has come already is heard before the timer: this process may have stood still. */
  #listen(pull: Pull, ms: number): void {
    pull.cancelTimer();
    let isOver = false;
    const cancel = this.#parts.clock.after(ms, () => setImmediate(() => (isOver ? undefined : pull.done('silent'))));
    pull.cancelTimer = () => {
      isOver = true;
      cancel();
    };
  }

  #heard(message: Msg, pull: Pull | undefined): void {
    if (message.reply?.startsWith('$JS.ACK.')) {
      this.#delivered(deliveryOf(this, message, this.#parts.client.headerOf(message)), pull);
      return;
    }
    // A word of the server: to which pull its subject says.
    if (!pull || !message.subject.endsWith(`.${pull.id}`)) return;
    const code = message.headers?.code;
    if (code === 100) this.#listen(pull, 3 * HEARTBEAT_MS);
    else pull.done(code === 404 || code === 408 ? 'done' : 'silent');
    if (code !== 100 && code !== 404 && code !== 408) this.#parts.troubled();
  }

  #delivered(delivery: Delivery, pull: Pull | undefined): void {
    if (delivery.deliveries === 1) this.#handedTo = Math.max(this.#handedTo, delivery.seq);
    if (pull === undefined || pull === this.#waiting) this.#parts.arrived(this, delivery);
    else this.#taken.push(delivery);
    count(pull);
  }
}

/** Of no word of the server. */
function pause(cancelTimer: () => void): Pull {
  return { id: 'none', missing: Number.POSITIVE_INFINITY, done: () => undefined, cancelTimer };
}

function count(pull: Pull | undefined): void {
  if (!pull) return;
  pull.missing -= 1;
  if (pull.missing <= 0) pull.done('done');
}

/** Of the consumer of a lane. */
export function consumerName(priority: number, requires: readonly string[]): string {
  return `p${priority}-${requiresToken(requires)}`;
}

/** `$JS.ACK.<stream>.<consumer>.<deliveries>.<seq>...`, with domain and account before the stream in newer servers. */
function deliveryOf(lane: Lane, message: Msg, header: string): Delivery {
  const ack = message.reply ?? '';
  const tokens = ack.split('.');
  const at = tokens.length === 9 ? 4 : 6;
  return { lane, seq: Number(tokens[at + 1]), deliveries: Number(tokens[at]), ack, header, body: message.data };
}
