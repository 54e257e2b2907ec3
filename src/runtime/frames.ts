/**
 * Frames: how our own runtime client and the Runtime API speak once they know each other. One connection carries the events and answers of
 * all lanes of an instance, and what becomes ready at the same time leaves in one write: each write wakes a process up, which costs more
 * than the call itself.
 *
 * The client asks by `CONNECT blueprint-frames:1`, with the number of its lanes in a header; after a 200 only frames follow. (An `Upgrade`
 * would take requests away from the HTTP server that offer to speak something else and go on in HTTP.) A lane takes one event at a time:
 * it asks for one from the beginning, and again with the end of each answer.
 *
 * A frame is the length of its payload, its lane (both 32 bits, little end first), its type (8 bits), and the payload. Part of the program
 * inside an instance, so that it imports nothing.
 */

import type { Duplex } from 'node:stream';

export const FRAMES_TARGET = 'blueprint-frames:1';
export const FRAMES_LANES = 'x-blueprint-lanes';

/** To the instance: event, hold, goOn. From it: the others. */
export const FRAME = {
  /** The length of its head (32 bits), its head as lines (request id, deadline, ARN, trace id, client context), and the event. */
  event: 1,
  /** The reader of this streamed answer is slow; it goes on. */
  hold: 2,
  goOn: 3,
  /** JSON. */
  answer: 4,
  /** A fault as JSON. */
  failed: 5,
  /** A streamed answer begins: its content type. */
  begin: 6,
  chunk: 7,
  /** A streamed answer ends; with a fault as JSON it has broken off. */
  end: 8,
  /** No lane asks for events any more. */
  stop: 9,
} as const;

const HEAD_BYTES = 9;
const SLAB_BYTES = 64 * 1024;
/** Longer ones are not copied. */
const COPY_BYTES_MAX = 16 * 1024;
/** Of one character, as UTF-8. */
const UTF8_BYTES_MAX = 3;

/** Takes frames as they come, in pieces. What it throws ends the reading. */
export interface FrameSink {
  opened(type: number, lane: number, length: number): void;
  /** A part of the payload, never empty. */
  piece(data: Buffer): void;
  closed(): void;
}

/** Finds the frames in the bytes of a connection. */
export class FrameReader {
  readonly #sink: FrameSink;
  /** The beginning of a head. */
  #rest: Buffer | undefined;
  /** Of the payload of an open frame. */
  #missing = 0;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  push(data: Buffer): void {
    const sink = this.#sink;
    const bytes = this.#rest ? Buffer.concat([this.#rest, data]) : data;
    this.#rest = undefined;
    let at = 0;
    while (at < bytes.length) {
      if (this.#missing === 0) {
        if (bytes.length - at < HEAD_BYTES) {
          this.#rest = bytes.subarray(at);
          return;
        }
        const length = bytes.readUInt32LE(at);
        sink.opened(bytes[at + 8] as number, bytes.readUInt32LE(at + 4), length);
        at += HEAD_BYTES;
        this.#missing = length;
      }
      const end = Math.min(bytes.length, at + this.#missing);
      if (end > at) sink.piece(bytes.subarray(at, end));
      this.#missing -= end - at;
      at = end;
      if (this.#missing === 0) sink.closed();
    }
  }
}

/** Writes frames. All of one turn of the event loop leave together; an event or a text that has nothing to wait for leaves at once. */
export class FrameWriter {
  readonly #socket: Duplex;
  readonly #isAlone: () => boolean;
  #slab = Buffer.allocUnsafeSlow(SLAB_BYTES);
  /** What of the slab is not written yet. */
  #from = 0;
  #to = 0;
  #isScheduled = false;

  /** `isAlone`: no other lane has anything under way, so that nothing will come to leave together with. */
  constructor(socket: Duplex, isAlone: () => boolean = () => false) {
    this.#socket = socket;
    this.#isAlone = isAlone;
  }

  text(type: number, lane: number, text: string): void {
    if (text.length * UTF8_BYTES_MAX > COPY_BYTES_MAX) {
      this.bytes(type, lane, Buffer.from(text));
      return;
    }
    const isAlone = this.#isAlone();
    const at = this.#room(HEAD_BYTES + text.length * UTF8_BYTES_MAX, isAlone);
    const length = this.#slab.write(text, at + HEAD_BYTES, 'utf8');
    this.#head(at, { type, lane, length });
    this.#to = at + HEAD_BYTES + length;
    if (isAlone) this.flush();
  }

  bytes(type: number, lane: number, payload: Uint8Array): void {
    this.#head(this.#room(HEAD_BYTES), { type, lane, length: payload.length });
    this.#to += HEAD_BYTES;
    this.#append(payload);
  }

  /** A frame that begins with lines of Latin letters. */
  event(lane: number, head: string, event: Uint8Array): void {
    const isAlone = this.#isAlone();
    const at = this.#room(HEAD_BYTES + 4 + head.length, isAlone);
    this.#head(at, { type: FRAME.event, lane, length: 4 + head.length + event.length });
    this.#slab.writeUInt32LE(head.length, at + HEAD_BYTES);
    this.#slab.write(head, at + HEAD_BYTES + 4, 'latin1');
    this.#to = at + HEAD_BYTES + 4 + head.length;
    this.#append(event, isAlone);
    if (isAlone) this.flush();
  }

  /** At once; `done` when the bytes have left. */
  flush(done?: (error?: Error | null) => void): void {
    const socket = this.#socket;
    const bytes = this.#slab.subarray(this.#from, this.#to);
    this.#from = this.#to;
    if (bytes.length > 0) socket.write(bytes, done);
    else done?.();
    // All of it is with the system: the memory is free again.
    if (socket.writableLength === 0) this.#from = this.#to = 0;
  }

  /** Where so many bytes can be written. `isFlushed`: by who asks, before the turn ends. */
  #room(bytes: number, isFlushed = false): number {
    if (!this.#isScheduled && !isFlushed) {
      this.#isScheduled = true;
      setImmediate(() => {
        this.#isScheduled = false;
        this.flush();
      });
    }
    if (this.#to + bytes > this.#slab.length) {
      this.flush();
      if (this.#to > 0 || bytes > this.#slab.length) {
        this.#slab = Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, bytes));
        this.#from = this.#to = 0;
      }
    }
    return this.#to;
  }

  #head(at: number, { type, lane, length }: { readonly type: number; readonly lane: number; readonly length: number }): void {
    this.#slab.writeUInt32LE(length, at);
    this.#slab.writeUInt32LE(lane, at + 4);
    this.#slab[at + 8] = type;
  }

  #append(payload: Uint8Array, isFlushed = false): void {
    const { length } = payload;
    if (length > COPY_BYTES_MAX) {
      this.flush();
      this.#socket.write(payload);
      return;
    }
    const at = this.#room(length, isFlushed);
    this.#slab.set(payload, at);
    this.#to = at + length;
  }
}
