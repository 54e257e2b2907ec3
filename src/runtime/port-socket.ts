/**
 * A connection between a thread and the one that started it, over their message port. Part of the program inside an instance, so that it
 * imports only built-in modules, by default imports.
 */

import streams from 'node:stream';

/** More than this is handed over, not copied a second time. */
const COPIED_BYTES_MAX = 64 * 1024;

export class PortSocket extends streams.Duplex {
  readonly #post: (bytes: Uint8Array, transfer: readonly ArrayBuffer[]) => void;

  /** `post` sends bytes to the other side. */
  constructor(post: (bytes: Uint8Array, transfer: readonly ArrayBuffer[]) => void) {
    super();
    this.#post = post;
  }

  /** Bytes came from the other side. */
  receive(bytes: Uint8Array): void {
    if (!this.destroyed) this.push(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
  }

  override _read(): void {}

  override _write(chunk: Uint8Array, _encoding: string, done: () => void): void {
    // A view would take all the memory behind it along.
    const bytes = new Uint8Array(chunk);
    this.#post(bytes, bytes.length > COPIED_BYTES_MAX ? [bytes.buffer] : []);
    done();
  }
}
