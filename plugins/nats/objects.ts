/** The object store of a queue on NATS: a bucket of JetStream's own object store, on the connection of the queue. */

import type { ObjectStore as Bucket, ObjectInfo } from '@nats-io/obj';
import { hash, randomUUID } from 'node:crypto';
import { RunnerError, importPeer } from '../../src/plugin.ts';
import type { KeyedObjects, ObjectReference, ObjectStore } from '../../src/plugin.ts';
import type { NatsClient } from './client.ts';

const UNIQUE = /^[0-9a-f-]{36}$/;
const SHA256 = /^[0-9a-f]{64}$/;
const MARK = 'blueprint-runner';

interface Connected {
  readonly client: NatsClient;
  readonly replicas: number;
}

/**
 * A key is a UUID, or the SHA-256 of the bytes: of those there is one object, however often it is put. An object is there once its last part
 * is stored; parts of one whose writer ended are not found by any key.
 */
export class NatsObjects implements ObjectStore, KeyedObjects {
  readonly #name: string;
  readonly #connect: () => Promise<Connected>;
  #bucket: Promise<Bucket> | undefined;

  /** The bucket is made on first use. */
  constructor(name: string, connect: () => Promise<Connected>) {
    this.#name = name;
    this.#connect = connect;
  }

  /** Idempotent by key; another object under it is `REQUEST_CONFLICT`. Rejects with `REQUEST_INVALID` when the key is not that of the bytes. */
  async put(bytes: Uint8Array, key: string = randomUUID()): Promise<ObjectReference> {
    const sha256 = hash('sha256', bytes, 'hex');
    if (!UNIQUE.test(key) && !SHA256.test(key))
      throw new RunnerError('REQUEST_INVALID', 'the key of an object is a UUID or the SHA-256 of its bytes, in lower case');
    if (SHA256.test(key) && key !== sha256)
      throw new RunnerError('REQUEST_INVALID', `the bytes are not those of ${key}: their SHA-256 is ${sha256}`, {
        details: { key, sha256 },
      });
    await this.#use(async (bucket) => {
      const known = await bucket.info(key);
      if (known && !known.deleted) {
        if (known.metadata?.['sha256'] === sha256) return;
        throw new RunnerError('REQUEST_CONFLICT', `there is another object ${key}`, { details: { key } });
      }
      await bucket.putBlob({ name: key, metadata: { sha256 } }, bytes);
    });
    return { key, size: bytes.length, sha256 };
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
    const bytes = await this.#use(async (bucket, client) => {
      const info = await bucket.info(key);
      return info && !info.deleted ? this.#collect(info, client) : undefined;
    });
    if (!bytes) throw new RunnerError('NOT_FOUND', `there is no object ${key} in ${this.#name}`, { details: { key } });
    if (SHA256.test(key) && hash('sha256', bytes, 'hex') !== key) throw damaged(key);
    return bytes;
  }

  async remove({ key }: Pick<ObjectReference, 'key'>): Promise<void> {
    await this.#use(async (bucket) => {
      const known = await bucket.info(key);
      if (known && !known.deleted) await bucket.delete(key);
    });
  }

  /** Part by part, on request: a consumer, with which the server would push them, is more than a worker is allowed. */
  async #collect({ name, nuid, chunks, digest }: ObjectInfo, client: NatsClient): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for (let seq = 0; parts.length < chunks;) {
      const part = await client.next(`OBJ_${this.#name}`, { subject: `$O.${this.#name}.C.${nuid}`, from: seq + 1 });
      if (!part) throw damaged(name);
      parts.push(part.body);
      seq = part.seq;
    }
    const bytes = Buffer.concat(parts);
    if (digest.replace(/=+$/, '') !== `SHA-256=${hash('sha256', bytes, 'base64url')}`) throw damaged(name);
    return bytes;
  }

  /** Makes the bucket when there is none. */
  async open(): Promise<void> {
    await this.#use(() => Promise.resolve());
  }

  async #use<T>(use: (bucket: Bucket, client: NatsClient) => Promise<T>): Promise<T> {
    const { client } = await this.#connect();
    this.#bucket ??= this.#open().catch((error: unknown) => {
      this.#bucket = undefined;
      throw error;
    });
    const bucket = await this.#bucket;
    return client.attempt(() => use(bucket, client));
  }

  /** Rejects with `RESOURCE_FOREIGN` when a bucket of the name is not ours. */
  async #open(): Promise<Bucket> {
    const { client, replicas } = await this.#connect();
    const { Objm } = await importPeer('nats', '@nats-io/obj', () => import('@nats-io/obj'));
    const manager = new Objm(client.jetstream);
    const stream = `OBJ_${this.#name}`;
    const metadata = { [MARK]: 'objects' };
    const existing = await client.stream(stream);
    if (!existing) return client.attempt(() => manager.create(this.#name, { replicas, metadata, description: 'objects of a work queue' }));
    if (existing.config.metadata?.[MARK] !== 'objects')
      throw new RunnerError('RESOURCE_FOREIGN', `the object store ${this.#name} is not ours: choose another name with the option queue`);
    return client.attempt(() => manager.open(this.#name));
  }
}

function damaged(key: string): RunnerError {
  return new RunnerError('QUEUE_CORRUPT', `the object ${key} is not what was put there`, { details: { key } });
}
