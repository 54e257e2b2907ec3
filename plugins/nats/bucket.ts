/**
 * The bucket in which objects lie: a stream in the layout of JetStream's object stores, https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-20.md,
 * in which nothing is ever changed. The first message under the name of an object says what it is; others after it say the same, and when it
 * was kept last. Who may not purge the stream, such as a worker, adds to it and takes nothing from others.
 */

import type { JetStreamManager } from '@nats-io/jetstream';
import { hash, randomUUID } from 'node:crypto';
import { RunnerError } from '../../src/plugin.ts';
import type { ObjectReference } from '../../src/plugin.ts';
import type { NatsClient } from './client.ts';

const MARK = 'blueprint-runner';
const CHUNK_BYTES = 256 * 1024;
/** Of a message, for headers. */
const HEADER_BYTES = 4_096;
const CURSORS_MAX = 32;

/** What the message under the name of an object says; part of the subject of its chunks is `nuid`. */
export interface ObjectMeta {
  readonly name: string;
  readonly nuid: string;
  /** In bytes. */
  readonly size: number;
  readonly chunks: number;
  /** `SHA-256=` and the hash in base64url. */
  readonly digest: string;
  readonly metadata?: { readonly sha256?: string };
  /** Left by others. */
  readonly deleted?: boolean;
}

export interface Known {
  readonly meta: ObjectMeta;
  /** Of the first message under its name, and of the last. */
  readonly seq: number;
  readonly last: number;
}

/** How much of an upload is there. */
export interface Extent {
  /** Of its last chunk; 0: there is none. */
  readonly seq: number;
  readonly size: number;
  readonly chunks: number;
  /** When it came, by the clock of the server. */
  readonly at: number;
}

interface Message {
  readonly subject: string;
  readonly seq: number;
  readonly at: number;
  readonly body: Uint8Array;
  readonly header: string;
}

interface BucketOptions {
  readonly name: string;
  readonly replicas: number;
  /** It is not ours to change. */
  readonly addsOnly: boolean;
}

interface Written {
  readonly subject: string;
  readonly body: Uint8Array | string;
  readonly header?: { readonly to: number; readonly chunks: number };
}

interface Chunk {
  readonly seq: number;
  readonly from: number;
  readonly bytes: Uint8Array;
}

export class Bucket {
  readonly stream: string;
  readonly #name: string;
  readonly #client: NatsClient;
  readonly #jsm: JetStreamManager;
  /** Where somebody has read to, who may go on there: the latest ones. */
  readonly #cursors: { readonly nuid: string; readonly seq: number; readonly from: number }[] = [];

  /** Makes it when there is none. Rejects with `RESOURCE_FOREIGN` when a bucket of the name is not ours. */
  static async open(client: NatsClient, { name, replicas, addsOnly }: BucketOptions): Promise<Bucket> {
    const stream = `OBJ_${name}`;
    const existing = await client.stream(stream);
    const jsm = await client.attempt(() => client.jetstream.jetstreamManager(false));
    // Who rolls a subject up takes away what is under it.
    const layout = { subjects: ['C', 'M', 'U'].map((kind) => `$O.${name}.${kind}.>`), allow_rollup_hdrs: false };
    const metadata = { [MARK]: 'objects' };
    const about = { description: 'objects of a work queue', num_replicas: replicas, discard: 'new', allow_direct: true } as const;
    if (!existing) await client.addStream({ name: stream, ...about, ...layout, metadata });
    else if (existing.config.metadata?.[MARK] !== 'objects')
      throw new RunnerError('RESOURCE_FOREIGN', `the object store ${name} is not ours: choose another name with the option queue`);
    else if (!addsOnly && (existing.config.allow_rollup_hdrs || existing.config.subjects.length < layout.subjects.length))
      await client.attempt(() => jsm.streams.update(stream, layout));
    return new Bucket(client, jsm, name);
  }

  private constructor(client: NatsClient, jsm: JetStreamManager, name: string) {
    this.#client = client;
    this.#jsm = jsm;
    this.#name = name;
    this.stream = `OBJ_${name}`;
  }

  async find(key: string): Promise<Known | undefined> {
    const subject = this.#metaOf(key);
    const first = await this.#first(subject);
    const last = first && (await this.#get({ last_by_subj: subject }));
    return last && { ...first, last: last.seq };
  }

  /** Without asking when it was kept. */
  async meta(key: string): Promise<ObjectMeta | undefined> {
    return (await this.#first(this.#metaOf(key)))?.meta;
  }

  async #first(subject: string): Promise<{ readonly meta: ObjectMeta; readonly seq: number } | undefined> {
    for (let from = 1; ;) {
      const found = await this.#client.next(this.stream, { subject, from });
      if (!found) return undefined;
      const meta = metaOf(found.body);
      if (!meta.deleted) return { meta, seq: found.seq };
      from = found.seq + 1;
    }
  }

  /** False: it is not as it was found any more. */
  async touch({ meta, last }: Known): Promise<boolean> {
    return (await this.#write({ subject: this.#metaOf(meta.name), body: JSON.stringify(meta) }, last)) !== undefined;
  }

  /** An object of these chunks, unless there is one of the name: false. */
  async tell({ key, size, sha256 }: ObjectReference, { nuid, chunks }: Pick<ObjectMeta, 'nuid' | 'chunks'>): Promise<boolean> {
    const meta = {
      name: key,
      description: '',
      metadata: { sha256 },
      options: { max_chunk_size: CHUNK_BYTES },
      bucket: this.#name,
      nuid,
      size,
      chunks,
      digest: `SHA-256=${Buffer.from(sha256, 'hex').toString('base64url')}=`,
      deleted: false,
    };
    if ((await this.#write({ subject: this.#metaOf(key), body: JSON.stringify(meta) }, 0)) !== undefined) return true;
    // An earlier try, whose answer was lost, may have been ours.
    return (await this.meta(key))?.nuid === nuid;
  }

  /** False: it has been kept since it was found, and stays. */
  async forget(key: string, last: number): Promise<boolean> {
    await this.#purge(this.#metaOf(key), last);
    return (await this.meta(key)) === undefined;
  }

  /** What was said of it before: the last one says the same. */
  async trim(key: string, last: number): Promise<void> {
    await this.#purge(this.#metaOf(key), last - 1);
  }

  /** Of an upload in parts: part of the subject of its chunks; undefined when nobody has begun one. */
  async upload(key: string): Promise<{ readonly nuid: string; readonly seq: number } | undefined> {
    const found = await this.#get({ last_by_subj: this.#uploadOf(key) });
    return found && { nuid: Buffer.from(found.body).toString(), seq: found.seq };
  }

  /** Begins one, or says that one goes on: then nobody collects it. */
  async beginUpload(key: string, known?: { readonly nuid: string; readonly seq: number }): Promise<string> {
    const nuid = known?.nuid ?? newNuid();
    const written = await this.#write({ subject: this.#uploadOf(key), body: nuid }, known?.seq ?? 0);
    if (written !== undefined) return nuid;
    return this.beginUpload(key, await this.upload(key));
  }

  /** False: it has gone on since, and stays. */
  async endUpload(key: string, last = Number.MAX_SAFE_INTEGER): Promise<boolean> {
    await this.#purge(this.#uploadOf(key), last);
    return (await this.upload(key)) === undefined;
  }

  async extent(nuid: string): Promise<Extent> {
    const last = await this.#get({ last_by_subj: this.#chunksOf(nuid) });
    if (!last) return NOTHING;
    // Written by `append`, or by others: then nothing fits.
    const { to = 0, chunks = 0 } = JSON.parse(last.header === '' ? '{}' : last.header) as {
      readonly to?: number;
      readonly chunks?: number;
    };
    return { seq: last.seq, size: to, chunks, at: last.at };
  }

  /** All of it, under a name that nobody has. */
  async add(bytes: Uint8Array): Promise<Extent & { readonly nuid: string }> {
    const nuid = newNuid();
    return { nuid, ...(await this.#append(nuid, { from: 0, bytes, known: NOTHING })) };
  }

  /** Goes on with an upload. Resolves with how much is there then: less than `from` when what is before it is missing. */
  async append(nuid: string, from: number, bytes: Uint8Array): Promise<Extent> {
    return this.#append(nuid, { from, bytes, known: await this.extent(nuid) });
  }

  /** Each chunk is repeated alone while nobody answers. */
  async #append(
    nuid: string,
    { from, bytes, known }: { readonly from: number; readonly bytes: Uint8Array; readonly known: Extent },
  ): Promise<Extent> {
    const subject = this.#chunksOf(nuid);
    const chunkBytes = Math.min(CHUNK_BYTES, (this.#client.connection.info?.max_payload ?? CHUNK_BYTES) - HEADER_BYTES);
    const end = from + bytes.length;
    let there = known;
    while (there.size >= from && there.size < end) {
      const part = bytes.subarray(there.size - from, there.size - from + chunkBytes);
      const next = { size: there.size + part.length, chunks: there.chunks + 1 };
      const seq = await this.#write({ subject, body: part, header: { to: next.size, chunks: next.chunks } }, there.seq);
      // Otherwise it is there already, by an earlier try or by somebody else.
      there = seq === undefined ? await this.extent(nuid) : { ...next, seq, at: there.at };
    }
    return there;
  }

  /** From the one on in which the byte `from` is; fewer than there should be when some are lost. */
  async *chunks({ nuid, size }: Pick<ObjectMeta, 'nuid' | 'size'>, from = 0): AsyncGenerator<Chunk> {
    const subject = this.#chunksOf(nuid);
    const near = this.#cursors.find((cursor) => cursor.nuid === nuid && cursor.from <= from);
    let at = near ? { seq: near.seq, from: near.from } : { seq: 0, from: 0 };
    while (at.from < size) {
      const found = await this.#client.next(this.stream, { subject, from: at.seq + 1 });
      if (!found) return;
      const next = { seq: found.seq, from: at.from + found.body.length };
      if (next.from > from) {
        this.#cursors.unshift({ nuid, ...at });
        this.#cursors.length = Math.min(this.#cursors.length, CURSORS_MAX);
        yield { ...at, bytes: found.body };
      }
      at = next;
    }
  }

  /** False: its chunks are those of the object. Who made it of them may have died before the upload was ended. */
  async dropUpload(key: string, nuid: string): Promise<boolean> {
    if ((await this.meta(key))?.nuid === nuid) return false;
    await this.dropChunks(nuid);
    return true;
  }

  async dropChunks(nuid: string): Promise<void> {
    await this.#purge(this.#chunksOf(nuid));
  }

  /** What is in it but the bytes of objects, in its order; and the time of the server. */
  async survey(): Promise<Survey> {
    const kinds = ['M', 'U'].map((kind) => `$O.${this.#name}.${kind}.>`);
    const { now, nuids } = await this.#uploads();
    const survey: Survey = { now, nuids, objects: [], uploads: [] };
    for await (const { subject, seq, at, body } of this.#scan(kinds)) {
      const isObject = subject.startsWith(`$O.${this.#name}.M.`);
      const list = isObject ? survey.objects : survey.uploads;
      const nuid = isObject ? metaOf(body).nuid : Buffer.from(body).toString();
      const key = isObject ? metaOf(body).name : subject.slice(subject.lastIndexOf('.') + 1);
      list.push({ key, nuid, seq, at });
    }
    return survey;
  }

  /** Of chunks, before anything else is looked at: what an upload in between makes of them is seen then. */
  async #uploads(): Promise<Pick<Survey, 'now' | 'nuids'>> {
    const filter = `$O.${this.#name}.C.`;
    const info = await this.#client.attempt(() => this.#jsm.streams.info(this.stream, { subjects_filter: `${filter}>` }));
    const { ts } = info as { readonly ts?: string }; // servers since 2.10 say what time they have; the library does not know
    const nuids = Object.keys(info.state.subjects ?? {}).map((subject) => subject.slice(filter.length));
    return { now: Date.parse(ts ?? ''), nuids };
  }

  async *#scan(subjects: string[]): AsyncGenerator<Omit<Message, 'header'>> {
    for await (const { subject, seq, data, info } of this.#client.read(this.stream, { filter_subjects: subjects }))
      yield { subject, seq, at: info.timestampNanos / NANOS, body: data };
  }

  #get(query: { last_by_subj: string }): Promise<Message | undefined> {
    return this.#client.attempt(async () => {
      const found = await this.#jsm.streams.getMessage(this.stream, query);
      if (!found) return undefined;
      return { subject: found.subject, seq: found.seq, at: found.time.getTime(), body: found.data, header: found.header.get(HEADER) };
    });
  }

  /** The sequence that it got; undefined when the last one of the subject is another than `expected`. */
  #write({ subject, body, header }: Written, expected: number): Promise<number | undefined> {
    const bytes = typeof body === 'string' ? Buffer.from(body) : body;
    return this.#client.write({ subject, header: JSON.stringify(header ?? {}), body: bytes, expected });
  }

  /** Up to a sequence, itself included. */
  async #purge(filter: string, last?: number): Promise<void> {
    await this.#client.attempt(() => this.#jsm.streams.purge(this.stream, { filter, ...(last !== undefined && { seq: last + 1 }) }));
  }

  #metaOf(key: string): string {
    const padded = Buffer.from(key).toString('base64').replaceAll('+', '-').replaceAll('/', '_');
    return `$O.${this.#name}.M.${padded}`;
  }

  #chunksOf(nuid: string): string {
    return `$O.${this.#name}.C.${nuid}`;
  }

  #uploadOf(key: string): string {
    return `$O.${this.#name}.U.${key}`;
  }
}

export interface Survey {
  readonly now: number;
  /** Of all chunks. */
  readonly nuids: readonly string[];
  readonly objects: Listed[];
  readonly uploads: Listed[];
}

/** A message under a name. */
export interface Listed {
  readonly key: string;
  readonly nuid: string;
  readonly seq: number;
  readonly at: number;
}

const HEADER = 'Bpr';
const NANOS = 1_000_000;
const NOTHING: Extent = { seq: 0, size: 0, chunks: 0, at: 0 };

function newNuid(): string {
  return randomUUID().replaceAll('-', '');
}

export function isDigestOf({ digest }: ObjectMeta, bytes: Uint8Array): boolean {
  return digest.replace(/=+$/, '') === `SHA-256=${hash('sha256', bytes, 'base64url')}`;
}

/** Written by us, or by a worker: what it says is checked against the bytes. */
function metaOf(body: Uint8Array): ObjectMeta {
  return JSON.parse(Buffer.from(body).toString()) as ObjectMeta;
}
