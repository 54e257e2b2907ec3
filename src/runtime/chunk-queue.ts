/** Chunks between who writes a stream and who reads it, with backpressure. */

import type { Flow } from './runtime-api.ts';

/** The writer is held when so much waits for the reader. */
const WAITING_BYTES_MAX = 1024 * 1024;

/** One reader. Ending its loop early calls `abandoned`. */
export class ChunkQueue implements AsyncIterable<Uint8Array> {
  readonly #abandoned: () => void;
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;
  #isHeld = false;
  #flow: Flow | undefined;
  #isEnded = false;
  #error: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(abandoned: () => void) {
    this.#abandoned = abandoned;
  }

  /** Who is to be held when the reader is slow. */
  set flow(flow: Flow) {
    this.#flow = flow;
  }

  push(chunk: Uint8Array): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    if (this.#bytes > WAITING_BYTES_MAX && !this.#isHeld) {
      this.#isHeld = true;
      this.#flow?.pause();
    }
    this.#wake?.();
  }

  /** The reader gets what waits, and then the end or the error. */
  end(error?: Error): void {
    this.#isEnded = true;
    this.#error = error;
    // Nothing more comes here; what still comes on its connection is not to wait for this reader.
    if (this.#isHeld) this.#release();
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, void> {
    try {
      for (;;) {
        const chunk = this.#chunks.shift();
        if (chunk) {
          this.#took(chunk);
          yield chunk;
        } else if (this.#isEnded) {
          if (this.#error) throw this.#error;
          return;
        } else {
          await new Promise<void>((resolve) => (this.#wake = resolve));
          this.#wake = undefined;
        }
      }
    } finally {
      if (!this.#isEnded) this.#abandoned();
    }
  }

  #took(chunk: Uint8Array): void {
    this.#bytes -= chunk.length;
    if (this.#isHeld && this.#bytes <= WAITING_BYTES_MAX / 2) this.#release();
  }

  #release(): void {
    this.#isHeld = false;
    this.#flow?.resume();
  }
}
