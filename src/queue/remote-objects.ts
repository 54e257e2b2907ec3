/** The object store of a control plane elsewhere. */

import { hash, randomUUID } from 'node:crypto';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { ControlClient } from './control-client.ts';
import type { Uploaded } from './objects.ts';
import type { ObjectReference, ObjectStore } from './queue.ts';

/** An answer that is no object. */
const REFUSAL_BYTES_MAX = 65_536;
/** Larger objects travel in parts of so many bytes: what was cut off goes on where it was. */
const PART_BYTES = 4 * 1024 * 1024;
/** It is asked whether larger ones are there already, before they are sent. */
const SMALL_BYTES = 64 * 1024;
/** Of one object, when what was sent is missing again. */
const RESTARTS_MAX = 3;

/**
 * Verified by the control plane when it is put, and here when it is fetched. Sent again while nobody answers: a key is put once. Large ones travel
 * in parts, each of which is repeated alone.
 *
 * @example
 * const queue = await RemoteQueue.connect({ credentials });
 * const objects = new RemoteObjects(queue.control);
 * const large = new ClaimCheckQueue({ queue, objects });
 */
export class RemoteObjects implements ObjectStore {
  readonly #control: ControlClient;

  constructor(control: ControlClient) {
    this.#control = control;
  }

  put(bytes: Uint8Array): Promise<ObjectReference> {
    return this.#put(bytes, randomUUID());
  }

  /** Under its SHA-256, once, however often it is put: for code. Nobody but an operator removes it. */
  keep(bytes: Uint8Array): Promise<ObjectReference> {
    return this.#put(bytes, hash('sha256', bytes, 'hex'));
  }

  async get({ key, size, sha256 }: ObjectReference): Promise<Uint8Array> {
    const bytes = size > PART_BYTES ? await this.#getInParts(key, size) : await this.#read(key, size);
    if (bytes.length === size && hash('sha256', bytes, 'hex') === sha256) return bytes;
    throw new RunnerError('QUEUE_CORRUPT', `the object ${key} came with other bytes than were put`, { details: { key, size, sha256 } });
  }

  async remove({ key }: ObjectReference): Promise<void> {
    await this.#control.send({ method: 'DELETE', path: `/objects/${encodeURIComponent(key)}` });
  }

  #read(key: string, size: number, query = ''): Promise<Uint8Array> {
    const path = `/objects/${encodeURIComponent(key)}${query}`;
    return this.#control.send({ method: 'GET', path, responseBytesMax: Math.max(size, REFUSAL_BYTES_MAX) });
  }

  async #getInParts(key: string, size: number): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for (let from = 0; from < size;) {
      const part = await this.#read(key, size, `?from=${from}&bytes=${PART_BYTES}`);
      // One that knows no parts sends all of it.
      if (part.length === size) return part;
      if (part.length === 0) break;
      parts.push(part);
      from += part.length;
    }
    return Buffer.concat(parts);
  }

  async #put(bytes: Uint8Array, key: string): Promise<ObjectReference> {
    const reference = { key, size: bytes.length, sha256: hash('sha256', bytes, 'hex') };
    const path = `/objects/${key}`;
    const isByHash = key === reference.sha256;
    // Of what nobody has put yet nothing is there.
    const there = bytes.length > (isByHash ? SMALL_BYTES : PART_BYTES) ? await this.#uploaded(path) : undefined;
    if (there?.isWhole) return reference;
    const kept = there && bytes.length > PART_BYTES ? await this.#putInParts(bytes, { path, reference, from: there.size }) : await this.#control.ask({ method: 'PUT', path, body: bytes }); // prettier-ignore
    if (kept['sha256'] === reference.sha256 && kept['size'] === reference.size) return reference;
    throw new RunnerError('QUEUE_CORRUPT', `the object ${key} changed on its way to the control plane`, { details: reference });
  }

  /** Undefined: this control plane takes no parts. */
  async #uploaded(path: string): Promise<Uploaded | undefined> {
    try {
      const { size, isWhole } = await this.#control.ask({ method: 'GET', path: `${path}/parts` });
      return { size: Number(size), isWhole: isWhole === true };
    } catch (thrown) {
      if (isRunnerError(thrown) && thrown.code === 'NOT_FOUND') return undefined;
      throw thrown;
    }
  }

  async #putInParts(bytes: Uint8Array, { path, reference, from }: Upload): Promise<Readonly<Record<string, unknown>>> {
    let at = Math.min(from, bytes.length);
    for (let restarts = 0; ; restarts += 1) {
      try {
        for (; at < bytes.length; at += PART_BYTES)
          await this.#control.ask({ method: 'PUT', path: `${path}/parts?from=${at}`, body: bytes.subarray(at, at + PART_BYTES) });
        return await this.#control.ask({ method: 'POST', path: `${path}/parts`, body: { size: bytes.length, sha256: reference.sha256 } });
      } catch (thrown) {
        // What was sent is gone, or an earlier upload left other bytes.
        const isBroken = isRunnerError(thrown) && (thrown.code === 'REQUEST_CONFLICT' || thrown.code === 'REQUEST_INVALID');
        if (!isBroken || restarts === RESTARTS_MAX) throw thrown;
        at = (await this.#uploaded(path))?.size ?? 0;
      }
    }
  }
}

interface Upload {
  readonly path: string;
  readonly reference: ObjectReference;
  /** What is there already. */
  readonly from: number;
}
