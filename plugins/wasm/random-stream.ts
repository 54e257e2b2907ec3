/** Random bytes that can be had again. Part of the program of an instance's thread: see `wasi.ts`. */

import crypto from 'node:crypto';

/** The same bytes for the same seed and event: SHA-256 of both, and then of it and a counter. */
export class RandomStream {
  readonly #key: Buffer;
  #counter = 0;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(seed: string, event: Uint8Array) {
    this.#key = crypto
      .createHash('sha256')
      .update(`${Buffer.byteLength(seed)}:${seed}`)
      .update(event)
      .digest();
  }

  fill(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) {
      if (this.#rest.length === 0) {
        this.#rest = crypto.createHash('sha256').update(this.#key).update(String(this.#counter)).digest();
        this.#counter += 1;
      }
      const part = this.#rest.subarray(0, bytes.length - at);
      bytes.set(part, at);
      at += part.length;
      this.#rest = this.#rest.subarray(part.length);
    }
  }
}
