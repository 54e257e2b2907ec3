/** Output of instances: taken apart, slowed down when it floods, remembered for error messages. */

import type { Readable } from 'node:stream';
import type { Clock } from '../../src/plugin.ts';

export type OutputSink = (stream: 'stdout' | 'stderr', chunk: Uint8Array) => void;

/** Default of what one instance may write. */
const BYTES_PER_SECOND = 4 * 1024 * 1024;
const TAIL_BYTES = 4096;
const FRAME_HEADER_BYTES = 8;
const WINDOW_MS = 100;
/** A pipe that somebody holds open does not keep an end from being told. */
const FINISH_MS = 1_000;

export interface OutputOptions {
  readonly clock: Clock;
  readonly sink: OutputSink;
  /** Who writes faster has to wait. Default 4 MiB. */
  readonly bytesPerSecond?: number | undefined;
}

/** The end of what was written. */
export class OutputTail {
  #chunks: Uint8Array[] = [];
  #bytes = 0;

  add(chunk: Uint8Array): void {
    this.#chunks.push(Uint8Array.from(chunk.subarray(-TAIL_BYTES)));
    this.#bytes += Math.min(chunk.length, TAIL_BYTES);
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

/** What one instance writes. */
export class InstanceOutput {
  readonly #options: OutputOptions;
  readonly #streams: { readonly open: () => void; readonly closed: Promise<void> }[] = [];
  /** The last that was written. */
  readonly tail = new OutputTail();

  constructor(options: OutputOptions) {
    this.#options = options;
  }

  /** Reads the stream from now on. `frames`: both streams in one, as an attached container sends them. */
  read(stream: Readable, kind: 'stdout' | 'stderr' | 'frames'): void {
    const take: OutputSink = (source, chunk) => {
      this.tail.add(chunk);
      this.#options.sink(source, chunk);
    };
    const { clock, bytesPerSecond = BYTES_PER_SECOND } = this.#options;
    stream.on('data', kind === 'frames' ? frames(take) : (chunk: Buffer) => take(kind, chunk));
    // That it broke is learnt from the end of the instance.
    stream.on('error', () => {});
    const closed = new Promise<void>((resolve) => {
      stream.once('close', resolve);
    });
    this.#streams.push({ open: throttle(stream, clock, bytesPerSecond), closed });
  }

  /** After the end of the instance: resolves when the rest was read. */
  async finish(): Promise<void> {
    const late = Promise.withResolvers<void>();
    // What is there already is read before: this process itself may have been held up.
    const cancel = this.#options.clock.after(FINISH_MS, () => void setImmediate(late.resolve));
    for (const { open } of this.#streams) open();
    await Promise.race([Promise.all(this.#streams.map(({ closed }) => closed)), late.promise]);
    cancel();
  }
}

/** Lets so many bytes per second through, until the returned function is called. Above it the stream is left unread for a moment. */
function throttle(stream: Readable, clock: Clock, bytesPerSecond: number): () => void {
  const allowed = Math.max(1, (bytesPerSecond * WINDOW_MS) / 1_000);
  let passed = 0;
  let windowEnds = clock.monotonic() + WINDOW_MS;
  let isOpen = false;
  stream.on('data', (chunk: Buffer) => {
    if (isOpen) return;
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
  return () => {
    isOpen = true;
    stream.resume();
  };
}

/**
 * Takes the frames of an attached container apart (8 bytes of header: stream, three zeros, length; then the payload:
 * https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach).
 */
function frames(sink: OutputSink): (received: Buffer) => void {
  let header = Buffer.alloc(0);
  let left = 0;
  let target: 'stdout' | 'stderr' = 'stdout';
  return (received) => {
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
  };
}
