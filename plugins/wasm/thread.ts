/** The program of an instance's thread: the runtime client with a handler that is a module. Never imported: `threadClientSource` joins it. */

import timing from 'node:perf_hooks';
import type { BytesHandler, ThreadMessage } from '../../src/plugin.ts';
import { OutOfMemory, WasiProgram } from './wasi.ts';
import type { WasiSettings } from './wasi.ts';

/** Joined before this. */
declare function serveThread(makeHandler: (given: unknown, tell: (message: ThreadMessage) => void) => BytesHandler): void;

/** What one instance may write to stderr in a window; one that writes more waits. The process reads it between all its other work. */
const OUTPUT_BYTES_MAX = 256 * 1024;
const WINDOW_MS = 50;
/** What a message costs whatever its length, and what a line does. */
const MESSAGE_BYTES = 256;
const LINE_BYTES = 64;
/** Of one message: what it holds is read, and divided into lines, at once. */
const CHUNK_BYTES_MAX = 64 * 1024;
const NEWLINE = 10;

const never = new Int32Array(new SharedArrayBuffer(4));

function sleep(ms: number): void {
  Atomics.wait(never, 0, 0, ms);
}

/** Waits as long as more was written than may be. */
class Throttle {
  #startedAt = 0;
  #bytes = 0;

  wrote(chunk: Uint8Array): void {
    let lines = 0;
    for (const byte of chunk) if (byte === NEWLINE) lines += 1;
    const now = timing.performance.now();
    if (now - this.#startedAt >= WINDOW_MS) {
      this.#startedAt = now;
      this.#bytes = 0;
    }
    this.#bytes += chunk.length + MESSAGE_BYTES + lines * LINE_BYTES;
    if (this.#bytes >= OUTPUT_BYTES_MAX) sleep(WINDOW_MS - (now - this.#startedAt));
  }
}

serveThread((given, tell) => {
  const throttle = new Throttle();
  // The backend wrote it.
  const program = new WasiProgram(given as WasiSettings, {
    now: () => Date.now(),
    monotonic: () => timing.performance.now(),
    sleep,
    said(piece) {
      for (let at = 0; at < piece.length; at += CHUNK_BYTES_MAX) {
        const chunk = piece.slice(at, at + CHUNK_BYTES_MAX);
        tell({ kind: 'output', stream: 'stderr', chunk });
        throttle.wrote(chunk);
      }
    },
    grew: (bytes) => tell({ kind: 'memory', bytes }),
  });
  return (event) => {
    try {
      return program.run(event);
    } catch (error) {
      if (!(error instanceof OutOfMemory)) throw error;
      tell({ kind: 'out-of-memory' });
      return process.exit(1);
    }
  };
});
