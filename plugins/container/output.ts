/** Output of instances: taken apart, slowed down when it floods, remembered for error messages. */

import type { Duplex, Readable } from 'node:stream';
import type { Clock } from '../../src/plugin.ts';

export type OutputSink = (stream: 'stdout' | 'stderr', chunk: Uint8Array) => void;

/** Default of what one instance may write. */
export const OUTPUT_BYTES_PER_SECOND = 4 * 1024 * 1024;

const TAIL_BYTES = 4096;
const FRAME_HEADER_BYTES = 8;
const WINDOW_MS = 100;

/** The end of what was written. */
export class OutputTail {
  #chunks: Uint8Array[] = [];
  #bytes = 0;

  add(chunk: Uint8Array): void {
    this.#chunks.push(Uint8Array.from(chunk.subarray(-TAIL_BYTES)));
    this.#bytes += chunk.length;
    if (this.#bytes <= 4 * TAIL_BYTES) return;
    const kept = Buffer.concat(this.#chunks).subarray(-TAIL_BYTES);
    this.#chunks = [kept];
    this.#bytes = kept.length;
  }

  text(): string {
    return Buffer.concat(this.#chunks).subarray(-TAIL_BYTES).toString('utf8');
  }

  /** For the end of a message; empty when nothing was written. */
  lastLines(count = 20): string {
    const lines = this.text().trimEnd().split('\n').slice(-count).join('\n');
    return lines === '' ? '' : `; it wrote:\n${lines}`;
  }
}

/** Lets so many bytes per second through: above it the stream is left unread for a moment, and who writes to it has to wait. */
export function throttle(stream: Readable, clock: Clock, bytesPerSecond: number): void {
  const allowed = Math.max(1, (bytesPerSecond * WINDOW_MS) / 1_000);
  let passed = 0;
  let windowEnds = clock.monotonic() + WINDOW_MS;
  stream.on('data', (chunk: Buffer) => {
    const now = clock.monotonic();
    if (now >= windowEnds) {
      passed = 0;
      windowEnds = now + WINDOW_MS;
    }
    passed += chunk.length;
    if (passed < allowed) return;
    const waitMs = windowEnds - now + Math.floor(passed / allowed - 1) * WINDOW_MS;
    passed = 0;
    windowEnds = now + waitMs + WINDOW_MS;
    stream.pause();
    clock.after(waitMs, () => stream.resume());
  });
}

/**
 * Takes the frames of an attached container apart (8 bytes of header: stream, three zeros, length; then the payload:
 * https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach).
 */
export function demultiplex(stream: Duplex, sink: OutputSink): void {
  let header = Buffer.alloc(0);
  let left = 0;
  let target: 'stdout' | 'stderr' = 'stdout';
  stream.on('data', (received: Buffer) => {
    let rest = received;
    while (rest.length > 0) {
      if (left === 0) {
        const needed = FRAME_HEADER_BYTES - header.length;
        header = Buffer.concat([header, rest.subarray(0, needed)]);
        rest = rest.subarray(needed);
        if (header.length < FRAME_HEADER_BYTES) return;
        target = header[0] === 2 ? 'stderr' : 'stdout';
        left = header.readUInt32BE(4);
        header = Buffer.alloc(0);
        continue;
      }
      const payload = rest.subarray(0, left);
      left -= payload.length;
      rest = rest.subarray(payload.length);
      sink(target, payload);
    }
  });
}
