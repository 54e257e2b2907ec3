/** The part of the runtime client (`node-client.ts`) that speaks frames with the Runtime API: one connection for all lanes. */

import type { Duplex } from 'node:stream';
import { FRAME, FRAMES_LANES, FRAMES_TARGET, FrameReader, FrameWriter } from './frames.ts';
import type { FrameSink } from './frames.ts';
import { boundedFault } from './node-client-lane.ts';
import type { Event, Outlet } from './node-client-lane.ts';

const UNFIT_FOR_A_HEADER = /[^\t\x20-\x7e\x80-\xff]/g;

/** How the event of one lane is answered. */
class LaneOutlet implements Outlet {
  readonly taken = Promise.resolve();
  /** It has an event, and not begun to answer it. */
  isOwing = false;
  isHeld = false;
  /** A write that waits until the reader is quick enough. */
  held: (() => void) | undefined;
  readonly #channel: Channel;
  readonly #lane: number;

  constructor(channel: Channel, lane: number) {
    this.#channel = channel;
    this.#lane = lane;
  }

  /** It has an event to answer. */
  owe(): void {
    this.isOwing = true;
    this.#channel.owing += 1;
  }

  respond(body: string | Uint8Array): void {
    this.#answers();
    const { writer } = this.#channel;
    if (typeof body === 'string') writer.text(FRAME.answer, this.#lane, body);
    else writer.bytes(FRAME.answer, this.#lane, body);
  }

  fail(thrown: unknown): void {
    this.#answers();
    this.#channel.writer.text(FRAME.failed, this.#lane, boundedFault(thrown));
  }

  begin(contentType: string): void {
    this.#answers();
    const type = contentType.replace(UNFIT_FOR_A_HEADER, '');
    this.#channel.writer.bytes(FRAME.begin, this.#lane, Buffer.from(type, 'latin1'));
  }

  write(chunk: Buffer, done: (error?: Error | null) => void): void {
    const { writer } = this.#channel;
    writer.bytes(FRAME.chunk, this.#lane, chunk);
    writer.flush((error) => {
      if (error || !this.isHeld) done(error);
      else this.held = done;
    });
  }

  end(done: () => void): void {
    this.#channel.writer.text(FRAME.end, this.#lane, '');
    done();
  }

  breakOff(thrown: unknown): void {
    this.#channel.writer.text(FRAME.end, this.#lane, boundedFault(thrown));
  }

  #answers(): void {
    if (!this.isOwing) return;
    this.isOwing = false;
    this.#channel.owing -= 1;
  }
}

export interface ChannelUse {
  readonly lanes: number;
  readonly work: (event: Event, outlet: Outlet) => void;
  /** The connection is gone. */
  readonly lost: () => void;
}

export class Channel implements FrameSink {
  readonly writer: FrameWriter;
  /** Lanes that have an event, and have not begun to answer it. */
  owing = 0;
  readonly #socket: Duplex;
  readonly #outlets: readonly LaneOutlet[];
  readonly #work: (event: Event, outlet: Outlet) => void;
  readonly #reader = new FrameReader(this);
  #type = 0;
  #lane = 0;
  #pieces: Buffer[] = [];

  /** Resolves when the lanes have asked for work; undefined when the Runtime API speaks no frames. */
  static open(socket: Duplex, { lanes, work, lost }: ChannelUse): Promise<Channel | undefined> {
    return new Promise((resolve) => {
      let channel: Channel | undefined;
      let head = Buffer.alloc(0);
      socket.on('error', () => {});
      socket.on('close', () => (channel ? lost() : resolve(undefined)));
      socket.on('data', (data: Buffer) => {
        if (channel) {
          channel.#reader.push(data);
          return;
        }
        head = Buffer.concat([head, data]);
        const end = head.indexOf('\r\n\r\n');
        if (end < 0) return;
        if (!head.toString('latin1', 0, end).startsWith('HTTP/1.1 200 ')) {
          socket.destroy();
          return;
        }
        channel = new Channel(socket, lanes, work);
        resolve(channel);
        channel.#reader.push(head.subarray(end + 4));
      });
      socket.write(`CONNECT ${FRAMES_TARGET} HTTP/1.1\r\nHost: runtime\r\n${FRAMES_LANES}: ${lanes}\r\n\r\n`);
    });
  }

  private constructor(socket: Duplex, lanes: number, work: (event: Event, outlet: Outlet) => void) {
    this.#socket = socket;
    this.writer = new FrameWriter(socket, () => this.owing === 0);
    this.#work = work;
    this.#outlets = Array.from({ length: lanes }, (_, lane) => new LaneOutlet(this, lane));
  }

  /** Takes no more events. */
  stop(): void {
    this.writer.text(FRAME.stop, 0, '');
  }

  /** Says of all events that nothing answers yet that they have failed, and ends the connection. */
  abandon(thrown: unknown): void {
    this.stop();
    for (const outlet of this.#outlets) if (outlet.isOwing) outlet.fail(thrown);
    this.end(() => {});
  }

  /** Ends the connection; `done` when all has left. */
  end(done: () => void): void {
    this.writer.flush();
    this.#socket.end(done);
  }

  opened(type: number, lane: number): void {
    this.#type = type;
    this.#lane = lane;
  }

  piece(data: Buffer): void {
    this.#pieces.push(data);
  }

  closed(): void {
    const pieces = this.#pieces;
    this.#pieces = [];
    const outlet = this.#outlets[this.#lane];
    if (!outlet) return;
    if (this.#type === FRAME.event) {
      outlet.owe();
      this.#work(eventOf(pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces)), outlet);
      return;
    }
    outlet.isHeld = this.#type === FRAME.hold;
    const { held } = outlet;
    if (outlet.isHeld || !held) return;
    outlet.held = undefined;
    held();
  }
}

function eventOf(bytes: Buffer): Event {
  const end = 4 + bytes.readUInt32LE(0);
  const [id = '', deadlineMs, functionArn, traceId, clientContext] = bytes.toString('latin1', 4, end).split('\n');
  return {
    id,
    deadlineMs: Number(deadlineMs),
    functionArn,
    traceId,
    clientContext: clientContext || undefined,
    body: bytes.subarray(end),
  };
}
