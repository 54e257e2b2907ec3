/** A queue on servers of its own, which workers may speak to themselves once a control plane has let them in. */

import type { ObjectReference, ObjectStore, WorkQueue } from './queue.ts';
import { fieldsOf } from './wire.ts';

/** What an object store of a control plane can do besides the contract: its callers check what they get. */
export interface KeyedObjects {
  put(bytes: Uint8Array, key: string): Promise<ObjectReference>;
  read(key: string): Promise<Uint8Array>;
  remove(object: Pick<ObjectReference, 'key'>): Promise<void>;
}

export interface GrantedWorker {
  readonly workerId: string;
  /** Its raw ed25519 key, base64url, which it has proven. */
  readonly publicKey: string;
  /** Milliseconds since the epoch: what is granted ends then. */
  readonly expiresAt: number;
}

/**
 * With it the holder of a worker's key opens the queue by itself: the plugin's queue, made with the options and
 * `credentials: { jwt, sign }`. It is of no use to anybody else.
 */
export interface QueueGrant {
  readonly plugin: string;
  /** JSON. */
  readonly options: Readonly<Record<string, unknown>>;
  /** Says to the servers, until it runs out, what the worker may do. */
  readonly jwt: string;
}

/** Of what was granted to it before `revokedAt` nothing is to be valid any more. */
export interface RevokedWorker {
  /** Its raw ed25519 key, base64url. */
  readonly publicKey: string;
  /** Milliseconds since the epoch. */
  readonly revokedAt: number;
  /** All of it has run out by itself: the servers need not remember it. */
  readonly isOver: boolean;
}

export interface SharedQueue extends WorkQueue {
  readonly objects: ObjectStore & KeyedObjects;
  /** Undefined when workers are not to speak to the servers. */
  grant(worker: GrantedWorker): Promise<QueueGrant | undefined>;
  /**
   * The servers end the connections of these workers at once, and let them in with later grants only. Idempotent. False: they cannot be told,
   * and what was granted ends at its time.
   */
  revoke(workers: readonly RevokedWorker[]): Promise<boolean>;
  /** Queues again what the servers have forgotten to hand out. How many jobs that were. To be called now and then. */
  reconcile(): Promise<number>;
}

export function isSharedQueue(queue: WorkQueue): queue is SharedQueue {
  return 'objects' in queue && 'grant' in queue && 'revoke' in queue && 'reconcile' in queue;
}

/** Of an answer of a control plane. Throws `REQUEST_INVALID`. */
export function grantOfWire(value: unknown): QueueGrant {
  const { plugin, options, jwt } = fieldsOf(value, 'queue');
  return { plugin: String(plugin), options: fieldsOf(options, 'options'), jwt: String(jwt) };
}
