/** What an object store may do besides the contract: take and give objects in parts, and remove what nobody needs. */

import type { ObjectReference } from './queue.ts';

export interface Uploaded {
  /** Bytes that are there, from the first one on. */
  readonly size: number;
  /** The object is there, verified: nothing has to be sent. */
  readonly isWhole: boolean;
}

/** Objects in parts: an upload that was cut off goes on where it was, and is no object before all of it is verified. */
export interface ResumableObjects {
  /** At most `bytes` of them from `from` on; not verified. Rejects with `NOT_FOUND`. */
  readPart(key: string, from: number, bytes: number): Promise<Uint8Array>;
  uploaded(key: string): Promise<Uploaded>;
  /** Idempotent. Rejects with `REQUEST_CONFLICT` when bytes before `from` are missing; its detail `size` says from where. */
  writePart(key: string, from: number, bytes: Uint8Array): Promise<Uploaded>;
  /**
   * Makes the object of its parts. Idempotent. Rejects with `REQUEST_CONFLICT` when parts are missing, and with `REQUEST_INVALID` when they are
   * not what `sha256` says: they are gone then.
   */
  finish(reference: ObjectReference): Promise<ObjectReference>;
}

export interface CollectOptions {
  /** Nothing that was put, kept or sent in part within this time is removed. */
  readonly graceMs: number;
  /** Keys that somebody refers to. Asked only when there is something to remove. */
  readonly referred: () => Promise<ReadonlySet<string>>;
}

export interface Collected {
  readonly objects: number;
  /** Uploads that nobody went on with. */
  readonly parts: number;
}

/** Removes what nobody refers to. */
export interface CollectableObjects {
  collect(options: CollectOptions): Promise<Collected>;
}

export function isResumable<T extends object>(objects: T): objects is T & ResumableObjects {
  return 'writePart' in objects && 'finish' in objects;
}
