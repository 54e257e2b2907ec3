/** The object store of a control plane elsewhere. */

import { hash, randomUUID } from 'node:crypto';
import { RunnerError } from '../errors.ts';
import type { ControlClient } from './control-client.ts';
import type { ObjectReference, ObjectStore } from './queue.ts';

/** An answer that is no object. */
const REFUSAL_BYTES_MAX = 65_536;

/**
 * Verified by the control plane when it is put, and here when it is fetched. Sent again while nobody answers: a key is put once.
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
    const bytes = await this.#control.send({
      method: 'GET',
      path: `/objects/${encodeURIComponent(key)}`,
      responseBytesMax: Math.max(size, REFUSAL_BYTES_MAX),
    });
    if (bytes.length === size && hash('sha256', bytes, 'hex') === sha256) return bytes;
    throw new RunnerError('QUEUE_CORRUPT', `the object ${key} came with other bytes than were put`, { details: { key, size, sha256 } });
  }

  async remove({ key }: ObjectReference): Promise<void> {
    await this.#control.send({ method: 'DELETE', path: `/objects/${encodeURIComponent(key)}` });
  }

  async #put(bytes: Uint8Array, key: string): Promise<ObjectReference> {
    const kept = await this.#control.ask({ method: 'PUT', path: `/objects/${key}`, body: bytes });
    const reference = { key, size: bytes.length, sha256: hash('sha256', bytes, 'hex') };
    if (kept['sha256'] === reference.sha256 && kept['size'] === reference.size) return reference;
    throw new RunnerError('QUEUE_CORRUPT', `the object ${key} changed on its way to the control plane`, { details: reference });
  }
}
