/** The commands that the queue gives to JetStream, each tried until the cluster has a leader. */

import type {
  ConsumerConfig,
  ConsumerInfo,
  JetStreamClient,
  JetStreamManager,
  JsMsg,
  OrderedConsumerOptions,
  StreamConfig,
  StreamInfo,
} from '@nats-io/jetstream';
import type { Msg, MsgHdrs, NatsConnection, Subscription } from '@nats-io/transport-node';
import { RunnerError, importPeer } from '../../src/plugin.ts';
import { connect } from './connection.ts';
import type { Surroundings, TransportModule } from './connection.ts';
import type { NatsOptions } from './options.ts';
import type { Stored } from './records.ts';

export type { ConsumerConfig, ConsumerInfo, StreamInfo } from '@nats-io/jetstream';
export type { Msg, Subscription } from '@nats-io/transport-node';

/** One answer is waited for so long before the command is given again. */
const ANSWER_MS = 2_000;
const PAUSE_MS = 100;
/** Of what is read: when nothing comes for so long it is looked after. */
const QUIET_MS = 1_000;
/** The header that holds our JSON. */
const HEADER = 'Bpr';
const EXPECTED = 'Nats-Expected-Last-Subject-Sequence';
const EXPECTED_OF = 'Nats-Expected-Last-Subject-Sequence-Subject';
const WRONG_SEQUENCE = new Set([10_071, 10_164]);
const NOT_FOUND = new Set([10_014, 10_037, 10_043, 10_059]);
/** No leader, not yet known, or the servers are busy. */
const PASSING = new Set([10_008, 10_009, 10_074, 10_077, 10_118, 10_176, 10_202]);
const STORE_FULL = new Set([10_023, 10_028, 10_047]);

interface ClientOptions {
  readonly commandMs: number;
  readonly stream: string;
  readonly inboxPrefix: string | undefined;
  readonly surroundings: Surroundings;
}

export interface Write {
  readonly subject: string;
  /** JSON. */
  readonly header: string;
  readonly body: Uint8Array;
  /** The last sequence of the subject, or of what `of` stands for, must be this one; 0: there is none. */
  readonly expected: number;
  readonly of?: string;
}

interface Pending {
  readonly write: Write;
  readonly resolve: (seq: number | undefined) => void;
  readonly reject: (error: unknown) => void;
}

/** So many writes make an atomic batch worth its cost; one of at most so many, and of so many bytes. */
const GROUP_LEAST = 48;
const GROUP_MAX = 500;
const GROUP_BYTES_MAX = 1024 * 1024;

/** An error of the API, however it came. */
interface Refusal {
  readonly code: number;
  readonly text: string;
}

export class NatsClient {
  readonly connection: NatsConnection;
  readonly jetstream: JetStreamClient;
  readonly #options: ClientOptions;
  readonly #jsm: JetStreamManager;
  readonly #transport: TransportModule;
  /** To be written in this turn of the event loop. */
  readonly #turn: Pending[] = [];
  #batches = 0;

  static async connect(options: NatsOptions, stream: string, surroundings: Surroundings): Promise<NatsClient> {
    const library = await importPeer('nats', '@nats-io/jetstream', () => import('@nats-io/jetstream'));
    const [connection, transport] = await connect(options, surroundings);
    try {
      const jsm = await library.jetstreamManager(connection, { checkAPI: false, timeout: ANSWER_MS });
      const client = library.jetstream(connection, { timeout: ANSWER_MS });
      return new NatsClient(
        { connection, transport, jsm, client },
        { commandMs: options.commandMs ?? 30_000, stream, inboxPrefix: options.inboxPrefix, surroundings },
      );
    } catch (error) {
      await connection.close();
      throw error;
    }
  }

  private constructor(
    parts: {
      readonly connection: NatsConnection;
      readonly transport: TransportModule;
      readonly jsm: JetStreamManager;
      readonly client: JetStreamClient;
    },
    options: ClientOptions,
  ) {
    this.connection = parts.connection;
    this.jetstream = parts.client;
    this.#transport = parts.transport;
    this.#jsm = parts.jsm;
    this.#options = options;
  }

  /** The sequence that it got; undefined when the condition does not hold. Many of one turn of the event loop are written as one. */
  write(write: Write): Promise<number | undefined> {
    const { promise, resolve, reject } = Promise.withResolvers<number | undefined>();
    if (this.#turn.length === 0) setImmediate(() => this.#flush());
    this.#turn.push({ write, resolve, reject });
    return promise;
  }

  /** All or none, 1 to 1,000: the sequence of the last, undefined when a condition does not hold. Tried again it may find what it wrote itself. */
  writeAll(writes: readonly Write[]): Promise<number | undefined> {
    return this.#command(() => this.#writeBatch(writes));
  }

  /** The last message of a subject, which may have wildcards, as the leader has it. */
  last(subject: string, commandMs?: number): Promise<Stored | undefined> {
    return this.#get({ last_by_subj: subject }, commandMs);
  }

  at(seq: number): Promise<Stored | undefined> {
    return this.#get({ seq });
  }

  /** The first message of a subject of some stream, from a sequence on. Undefined when there is none. */
  next(
    stream: string,
    { subject, from }: { readonly subject: string; readonly from: number },
  ): Promise<Omit<Stored, 'header'> | undefined> {
    const query = { seq: from, next_by_subj: subject };
    return this.#command(async () => {
      const message = await this.#jsm.streams.getMessage(stream, query);
      return message ? { subject: message.subject, seq: message.seq, body: message.data } : undefined;
    });
  }

  /** False when there was none. */
  remove(seq: number): Promise<boolean> {
    return this.#command(() =>
      this.#jsm.streams.deleteMessage(this.#options.stream, seq, false).catch((error: unknown) => {
        if (NOT_FOUND.has(refusalOf(error)?.code ?? 0)) return false;
        throw error;
      }),
    );
  }

  /** Undefined when there is none. */
  stream(name = this.#options.stream): Promise<StreamInfo | undefined> {
    return this.#command(() => this.#orNothing(this.#jsm.streams.info(name)));
  }

  /** Undefined when somebody else made it at the same time, in another way. */
  addStream(config: Partial<StreamConfig> & { readonly name: string }): Promise<StreamInfo | undefined> {
    return this.#command(() =>
      this.#jsm.streams.add(config).catch((error: unknown) => {
        if (refusalOf(error)?.code === 10_058) return undefined;
        throw error;
      }),
    );
  }

  addConsumer(config: Partial<ConsumerConfig>): Promise<ConsumerInfo> {
    return this.#command(() => this.#jsm.consumers.add(this.#options.stream, config));
  }

  consumer(name: string, commandMs?: number): Promise<ConsumerInfo | undefined> {
    return this.#command(() => this.#orNothing(this.#jsm.consumers.info(this.#options.stream, name)), commandMs);
  }

  consumers(): Promise<ConsumerInfo[]> {
    return this.#command(async () => {
      const found: ConsumerInfo[] = [];
      for await (const each of this.#jsm.consumers.list(this.#options.stream)) found.push(each);
      return found;
    });
  }

  /** Everything under a subject as it is now, without bodies, in the order of the stream. */
  async *scan(subject: string): AsyncGenerator<Stored> {
    const { stream } = this.#options;
    for await (const message of this.read(stream, { filter_subjects: [subject], headers_only: true }))
      yield { subject: message.subject, seq: message.seq, header: message.headers?.get(HEADER) ?? '{}', body: message.data };
  }

  /** What some stream has now, in its order; less when it is removed meanwhile. */
  async *read(stream: string, wanted: Partial<OrderedConsumerOptions>): AsyncGenerator<JsMsg> {
    const consumer = await this.#command(() => this.jetstream.consumers.get(stream, { ...wanted, inactive_threshold: 30_000 }));
    const isEmpty = async (): Promise<boolean> => (await this.#command(() => this.#orNothing(consumer.info())))?.num_pending === 0;
    if (await isEmpty()) return;
    const messages = await consumer.consume({ max_messages: 1_000 });
    const over = new AbortController();
    let heard = 0;
    // The last one says that it is. When it is removed before it comes, nobody says anything.
    const watch = async (): Promise<void> => {
      for (let [quiet, before] = [0, -1]; quiet < 2;) {
        await this.#options.surroundings.clock.sleep(QUIET_MS, over.signal);
        const isQuiet = heard === before;
        before = heard;
        quiet = isQuiet && (await isEmpty()) ? quiet + 1 : 0;
      }
      messages.stop();
    };
    watch().catch((error: Error) => messages.stop(error));
    try {
      for await (const message of messages) {
        heard += 1;
        yield message;
        if (message.info.pending === 0) return;
      }
    } finally {
      over.abort();
      await messages.close();
    }
  }

  /** Not waited for: what is lost is made up for by the server. */
  send(subject: string, text: string, reply?: string): void {
    if (!this.connection.isClosed()) this.connection.publish(subject, text, reply === undefined ? {} : { reply });
  }

  /** Resolves when the server has done it, or cannot be asked: then it does it by itself later. */
  async tell(subject: string, text: string): Promise<void> {
    await this.connection.request(subject, text, { timeout: ANSWER_MS }).catch(() => undefined);
  }

  subscribe(subject: string, heard: (message: Msg) => void): Subscription {
    return this.connection.subscribe(subject, { callback: (error, message) => (error ? undefined : heard(message)) });
  }

  inbox(): string {
    return this.#transport.createInbox(this.#options.inboxPrefix);
  }

  headerOf(message: Msg): string {
    return message.headers?.get(HEADER) ?? '{}';
  }

  async close(): Promise<void> {
    if (this.connection.isClosed()) return;
    await this.connection.drain().catch(() => this.connection.close());
  }

  #headers({ header, expected, of }: Write): MsgHdrs {
    const headers = this.#transport.headers();
    headers.set(HEADER, header);
    headers.set(EXPECTED, String(expected));
    if (of !== undefined) headers.set(EXPECTED_OF, of);
    return headers;
  }

  #get(query: { seq: number } | { last_by_subj: string }, commandMs?: number): Promise<Stored | undefined> {
    return this.#command(async () => {
      const message = await this.#jsm.streams.getMessage(this.#options.stream, query);
      return message ? { subject: message.subject, seq: message.seq, header: message.header.get(HEADER), body: message.data } : undefined;
    }, commandMs);
  }

  #flush(): void {
    const turn = this.#turn.splice(0);
    for (let from = 0; from < turn.length; from += GROUP_MAX) {
      const group = turn.slice(from, from + GROUP_MAX);
      const bytes = group.reduce((sum, { write }) => sum + write.body.length, 0);
      if (group.length >= GROUP_LEAST && bytes <= GROUP_BYTES_MAX) void this.#writeGroup(group);
      else for (const each of group) this.#writeOne(each);
    }
  }

  #writeOne({ write, resolve, reject }: Pending): void {
    const headers = this.#headers(write);
    const give = async (): Promise<number | undefined> =>
      sequenceOf(await this.connection.request(write.subject, write.body, { headers, timeout: ANSWER_MS }));
    this.#command(give).then(resolve, reject);
  }

  /** One by one when they cannot be written together: then each has its own answer. */
  async #writeGroup(group: readonly Pending[]): Promise<void> {
    const last = await this.#writeBatch(group.map(({ write }) => write)).catch(() => undefined);
    if (last === undefined) for (const each of group) this.#writeOne(each);
    else for (const [index, { resolve }] of group.entries()) resolve(last - group.length + 1 + index);
  }

  /** The sequence of the last one: they lie one after the other. */
  async #writeBatch(writes: readonly Write[]): Promise<number | undefined> {
    this.#batches += 1;
    const id = `${this.#transport.nuid.next()}${this.#batches}`;
    let committed: Promise<Msg> | undefined;
    for (const [index, write] of writes.entries()) {
      const headers = this.#headers(write);
      headers.set('Nats-Batch-Id', id);
      headers.set('Nats-Batch-Sequence', String(index + 1));
      if (index + 1 < writes.length) this.connection.publish(write.subject, write.body, { headers });
      else {
        headers.set('Nats-Batch-Commit', '1');
        committed = this.connection.request(write.subject, write.body, { headers, timeout: 5 * ANSWER_MS });
      }
    }
    return committed && sequenceOf(await committed);
  }

  async #orNothing<T>(asked: Promise<T>): Promise<T | undefined> {
    try {
      return await asked;
    } catch (error) {
      if (NOT_FOUND.has(refusalOf(error)?.code ?? 0)) return undefined;
      throw error;
    }
  }

  /** Given again while nobody leads: only what may be given twice. Rejects with `PLATFORM_UNREACHABLE` when the time is over: safe if nobody took it. */
  attempt<T>(give: () => Promise<T>): Promise<T> {
    return this.#command(give);
  }

  async #command<T>(give: () => Promise<T>, commandMs = this.#options.commandMs): Promise<T> {
    const { clock } = this.#options.surroundings;
    let startedAt: number | undefined;
    let retry: 'safe' | 'idempotent' = 'safe';
    for (;;) {
      try {
        return await give();
      } catch (error) {
        if (!isPassing(error)) throw errorOf(error);
        startedAt ??= clock.monotonic();
        if (!isUndone(error)) retry = 'idempotent';
        if (this.connection.isClosed()) throw new RunnerError('QUEUE_CLOSED', 'the connection to NATS is closed', { cause: error, retry });
        if (clock.monotonic() - startedAt >= commandMs) throw unreachable(error, retry);
        await clock.sleep(PAUSE_MS);
      }
    }
  }
}

const REFUSALS = new Set(['JetStreamApiError', 'ConsumerNotFoundError', 'StreamNotFoundError']);

function refusalOf(error: unknown): Refusal | undefined {
  if (!(error instanceof Error) || !REFUSALS.has(error.name) || !('code' in error)) return undefined;
  return { code: Number(error.code), text: error.message };
}

class PublishRefused extends Error {
  override readonly name = 'JetStreamApiError';
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

/** Of an acknowledgement. Undefined for a condition that does not hold. */
function sequenceOf(answer: Msg): number | undefined {
  const ack = answer.json<{ readonly seq?: number; readonly error?: { readonly err_code: number; readonly description: string } }>();
  if (!ack.error) return ack.seq;
  if (WRONG_SEQUENCE.has(ack.error.err_code)) return undefined;
  throw new PublishRefused(ack.error.err_code, ack.error.description);
}

const UNHEARD_NAMES = new Set(['NoResponders', 'JetStreamNotEnabled']);
const PASSING_NAMES = new Set(['TimeoutError', 'NoResponders', 'RequestError', 'DisconnectedError', 'JetStreamNotEnabled']);

function isPassing(error: unknown): boolean {
  const refusal = refusalOf(error);
  if (refusal) return PASSING.has(refusal.code);
  return error instanceof Error && PASSING_NAMES.has(error.name);
}

/** Refused, or heard by nobody. */
function isUndone(error: unknown): boolean {
  return refusalOf(error) !== undefined || (error instanceof Error && (isUnheard(error) || isUnheard(error.cause)));
}

function isUnheard(error: unknown): boolean {
  return error instanceof Error && UNHEARD_NAMES.has(error.name);
}

function unreachable(cause: unknown, retry: 'safe' | 'idempotent'): RunnerError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new RunnerError('PLATFORM_UNREACHABLE', `JetStream has not answered: ${reason}`, { cause, retry });
}

function errorOf(error: unknown): unknown {
  const refusal = refusalOf(error);
  if (!refusal) return error;
  const { code, text } = refusal;
  const details = { code };
  if (STORE_FULL.has(code)) return new RunnerError('QUEUE_DISK_FULL', `JetStream has no room: ${text}`, { details });
  if (code === 10_059) return new RunnerError('PLATFORM_UNREACHABLE', 'JetStream lost the stream; it is to be made anew', { details });
  return new RunnerError('INTERNAL', `JetStream refused: ${text} (${code})`, { details, cause: error });
}
