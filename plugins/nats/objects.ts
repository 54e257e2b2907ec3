/** The object store of a queue on NATS, on the connection of the queue. */

import { createHash, hash, randomUUID } from 'node:crypto';
import { RunnerError } from '../../src/plugin.ts';
import type {
  CollectOptions,
  CollectableObjects,
  Collected,
  KeyedObjects,
  ObjectReference,
  ObjectStore,
  ResumableObjects,
  Uploaded,
} from '../../src/plugin.ts';
import { Bucket, isDigestOf } from './bucket.ts';
import type { Listed } from './bucket.ts';
import type { NatsClient } from './client.ts';

const UNIQUE = /^[0-9a-f-]{36}$/;
const SHA256 = /^[0-9a-f]{64}$/;
const OBJECT_BYTES_MAX = 256 * 1024 * 1024;

interface Connected {
  readonly client: NatsClient;
  readonly replicas: number;
}

export interface NatsObjectsOptions {
  /** Of its bucket, which is made on first use. */
  readonly name: string;
  readonly connect: () => Promise<Connected>;
  /** Of one object. Default 256 MiB. */
  readonly objectBytesMax?: number;
  /** We may not remove anything: that is left to `collect` of who may. */
  readonly addsOnly?: boolean;
}

/**
 * A key is a UUID, or the SHA-256 of the bytes: of those there is one object, however often it is put, and its age counts from the last time.
 * An object is there once its last part is stored and its name is told, and it is never changed. Parts travel one by one, each repeated alone
 * when the connection breaks.
 */
export class NatsObjects implements ObjectStore, KeyedObjects, ResumableObjects, CollectableObjects {
  readonly #options: NatsObjectsOptions;
  #bucket: Promise<Bucket> | undefined;

  /** Does no I/O. */
  constructor(options: NatsObjectsOptions) {
    this.#options = options;
  }

  /** Idempotent by key; another object under it is `REQUEST_CONFLICT`. Rejects with `REQUEST_INVALID` when the key is not that of the bytes. */
  async put(bytes: Uint8Array, key: string = randomUUID()): Promise<ObjectReference> {
    const reference = { key, size: bytes.length, sha256: hash('sha256', bytes, 'hex') };
    checkKey(reference);
    this.#checkSize(bytes.length);
    const bucket = await this.#open();
    for (;;) {
      const known = await bucket.find(key);
      if (known && known.meta.metadata?.sha256 !== reference.sha256)
        throw new RunnerError('REQUEST_CONFLICT', `there is another object ${key}`, { details: { key } });
      if (known && (await bucket.touch(known))) return reference;
      if (known) continue;
      const added = await bucket.add(bytes);
      if (added.size !== bytes.length) throw damaged(key);
      if (await bucket.tell(reference, added)) return reference;
      // Somebody else was first.
      if (!this.#options.addsOnly) await bucket.dropChunks(added.nuid);
    }
  }

  /** By its hash. */
  keep(bytes: Uint8Array): Promise<ObjectReference> {
    return this.put(bytes, hash('sha256', bytes, 'hex'));
  }

  async get({ key, size, sha256 }: ObjectReference): Promise<Uint8Array> {
    const bytes = await this.read(key);
    if (bytes.length === size && hash('sha256', bytes, 'hex') === sha256) return bytes;
    throw damaged(key);
  }

  /** For who checks it himself: only what is named by its hash is verified. */
  async read(key: string): Promise<Uint8Array> {
    const bucket = await this.#open();
    const meta = isKey(key) ? await bucket.meta(key) : undefined;
    if (!meta) throw this.#missing(key);
    const parts: Uint8Array[] = [];
    for await (const { bytes } of bucket.chunks(meta)) parts.push(bytes);
    const bytes = Buffer.concat(parts);
    if (!isDigestOf(meta, bytes) || (SHA256.test(key) && hash('sha256', bytes, 'hex') !== key)) throw damaged(key);
    return bytes;
  }

  /** With `addsOnly` it stays until it is collected. */
  async remove({ key }: Pick<ObjectReference, 'key'>): Promise<void> {
    if (this.#options.addsOnly || !isKey(key)) return;
    const bucket = await this.#open();
    for (;;) {
      const known = await bucket.find(key);
      if (!known) return;
      if (await bucket.forget(key, known.last)) return bucket.dropChunks(known.meta.nuid);
    }
  }

  async readPart(key: string, from: number, bytes: number): Promise<Uint8Array> {
    const bucket = await this.#open();
    const meta = isKey(key) ? await bucket.meta(key) : undefined;
    if (!meta) throw this.#missing(key);
    const to = Math.min(from + bytes, meta.size);
    const parts: Uint8Array[] = [];
    if (from < to)
      for await (const chunk of bucket.chunks(meta, from)) {
        parts.push(chunk.bytes.subarray(Math.max(0, from - chunk.from), to - chunk.from));
        if (chunk.from + chunk.bytes.length >= to) break;
      }
    return Buffer.concat(parts);
  }

  async uploaded(key: string): Promise<Uploaded> {
    this.#checkFound(key);
    const bucket = await this.#open();
    for (;;) {
      const known = await bucket.find(key);
      // It is about to be referred to.
      if (known && (await bucket.touch(known))) return { size: known.meta.size, isWhole: true };
      if (known) continue;
      const upload = await bucket.upload(key);
      return { size: upload ? (await bucket.extent(upload.nuid)).size : 0, isWhole: false };
    }
  }

  async writePart(key: string, from: number, bytes: Uint8Array): Promise<Uploaded> {
    this.#checkFound(key);
    this.#checkSize(from + bytes.length);
    const bucket = await this.#open();
    const upload = await bucket.upload(key);
    const whole = upload ? undefined : await bucket.meta(key);
    if (whole) return { size: whole.size, isWhole: true };
    const { size } = upload || from === 0 ? await bucket.append(upload?.nuid ?? (await bucket.beginUpload(key)), from, bytes) : { size: 0 };
    if (size >= from) return { size, isWhole: false };
    throw new RunnerError('REQUEST_CONFLICT', `of the object ${key} there are ${size} bytes; those up to ${from} are missing`, {
      details: { key, size },
    });
  }

  async finish(reference: ObjectReference): Promise<ObjectReference> {
    const { key, size, sha256 } = reference;
    checkKey(reference);
    const bucket = await this.#open();
    const upload = await bucket.upload(key);
    if (!upload && (await this.uploaded(key)).isWhole) return this.get(reference).then(() => reference);
    const there = upload ? await bucket.extent(upload.nuid) : undefined;
    if (!upload || !there || there.size < size)
      throw new RunnerError('REQUEST_CONFLICT', `of the ${size} bytes of ${key} there are ${there?.size ?? 0}`, {
        details: { key, size: there?.size ?? 0 },
      });
    const nuid = await bucket.beginUpload(key, upload);
    const actual = createHash('sha256');
    let [chunks, hashed] = [0, 0];
    for await (const { bytes } of bucket.chunks({ nuid, size: there.size })) {
      actual.update(bytes);
      chunks += 1;
      hashed += bytes.length;
    }
    const digest = actual.digest('hex');
    if (hashed !== size || digest !== sha256) {
      await bucket.endUpload(key);
      await bucket.dropUpload(key, nuid);
      throw new RunnerError(
        'REQUEST_INVALID',
        `the parts of ${key} are not what they should be: their SHA-256 is ${digest}, not ${sha256}`,
        { details: { key, sha256: digest } },
      );
    }
    const isOurs = await bucket.tell(reference, { nuid, chunks });
    await bucket.endUpload(key);
    if (isOurs) return reference;
    await bucket.dropChunks(nuid);
    return this.finish(reference);
  }

  async collect({ graceMs, referred }: CollectOptions): Promise<Collected> {
    const bucket = await this.#open();
    const { now, nuids, objects, uploads } = await bucket.survey();
    const before = now - graceMs;
    const used = new Set([...objects, ...uploads].map(({ nuid }) => nuid));
    const left: string[] = [];
    for (const nuid of nuids) if (!used.has(nuid) && (await bucket.extent(nuid)).at < before) left.push(nuid);
    const named = latest(objects);
    for (const { key, seq, copies } of named) if (copies > 1) await bucket.trim(key, seq);
    const oldObjects = named.filter(({ at }) => at < before);
    const oldUploads: Listed[] = [];
    for (const upload of latest(uploads)) if (upload.at < before && (await bucket.extent(upload.nuid)).at < before) oldUploads.push(upload);
    const count = { objects: 0, parts: 0 };
    if (left.length + oldObjects.length + oldUploads.length === 0) return count;
    const kept = oldObjects.length > 0 ? await referred() : new Set();
    for (const { key, nuid, seq } of oldObjects) {
      // One that was kept meanwhile stays.
      if (kept.has(key) || !(await bucket.forget(key, seq))) continue;
      await bucket.dropChunks(nuid);
      count.objects += 1;
    }
    for (const { key, nuid, seq } of oldUploads) {
      if ((await bucket.endUpload(key, seq)) && (await bucket.dropUpload(key, nuid))) count.parts += 1;
    }
    for (const nuid of left) await bucket.dropChunks(nuid);
    return { ...count, parts: count.parts + left.length };
  }

  /** Makes the bucket when there is none. */
  async open(): Promise<void> {
    await this.#open();
  }

  /** Makes the bucket anew when it was there, and somebody deleted it. */
  async restore(): Promise<void> {
    if (this.#bucket) await this.#made();
  }

  #open(): Promise<Bucket> {
    this.#bucket ??= this.#made().catch((error: unknown) => {
      this.#bucket = undefined;
      throw error;
    });
    return this.#bucket;
  }

  async #made(): Promise<Bucket> {
    const { name, connect, addsOnly = false } = this.#options;
    const { client, replicas } = await connect();
    return Bucket.open(client, { name, replicas, addsOnly });
  }

  #missing(key: string): RunnerError {
    return new RunnerError('NOT_FOUND', `there is no object ${key} in ${this.#options.name}`, { details: { key } });
  }

  /** Throws `NOT_FOUND`. */
  #checkFound(key: string): void {
    if (!isKey(key)) throw this.#missing(key);
  }

  /** Throws `PAYLOAD_TOO_LARGE`. */
  #checkSize(bytes: number): void {
    const { objectBytesMax = OBJECT_BYTES_MAX } = this.#options;
    if (bytes <= objectBytesMax) return;
    throw new RunnerError('PAYLOAD_TOO_LARGE', `an object has ${objectBytesMax} bytes at most`, { details: { bytes, objectBytesMax } });
  }
}

/** The last message under each name, with the chunks of the first, and how many say the same as the first: 0 when one does not. */
function latest(listed: readonly Listed[]): (Listed & { readonly copies: number })[] {
  const byKey = new Map<string, Listed & { readonly copies: number }>();
  for (const each of listed) {
    const { nuid, copies } = byKey.get(each.key) ?? { nuid: each.nuid, copies: 0 };
    const isSame = nuid === each.nuid && (copies > 0 || !byKey.has(each.key));
    byKey.set(each.key, { ...each, nuid, copies: isSame ? copies + 1 : 0 });
  }
  return [...byKey.values()];
}

function isKey(key: string): boolean {
  return UNIQUE.test(key) || SHA256.test(key);
}

/** Throws `REQUEST_INVALID`. */
function checkKey({ key, sha256 }: ObjectReference): void {
  if (!isKey(key)) throw new RunnerError('REQUEST_INVALID', 'the key of an object is a UUID or the SHA-256 of its bytes, in lower case');
  if (SHA256.test(key) && key !== sha256)
    throw new RunnerError('REQUEST_INVALID', `the bytes are not those of ${key}: their SHA-256 is ${sha256}`, { details: { key, sha256 } });
}

function damaged(key: string): RunnerError {
  return new RunnerError('QUEUE_CORRUPT', `the object ${key} is not what was put there`, { details: { key } });
}
