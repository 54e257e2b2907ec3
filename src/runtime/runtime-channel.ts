/** The side of the Runtime API that speaks frames (`frames.ts`) with our own client: all lanes of an instance over one connection. */

import type { Duplex } from 'node:stream';
import { FRAME, FrameReader, FrameWriter } from './frames.ts';
import type { FrameSink } from './frames.ts';
import { DRAIN_BYTES_MAX, FAULT_BYTES_MAX, faultOf } from './runtime-fault.ts';
import type { ApiCall } from './runtime-api.ts';

/** The Runtime API that the lanes belong to. */
export interface ChannelHost {
  /** Nobody has answered it in another way. */
  isRunning(call: ApiCall): boolean;
  /** It was answered, or never will be. */
  settle(call: ApiCall): void;
  /** A lane asks for work: the call that waits for longest. */
  next(): ApiCall | undefined;
  /** The connection is over. `violation`: what the client did that it must not. */
  lost(violation: string | undefined): void;
}

/** What of a streamed answer may wait beyond what was asked to be held. */
const OVERRUN_BYTES_MAX = 1024 * 1024;
const TYPE_BYTES_MAX = 16 * 1024;
/** What a header may hold, as HTTP would refuse everything else. */
const HEADER_TEXT = /^[\t\x20-\x7e\x80-\xff]*$/;
const ANSWER_TYPE = 'application/json';
const NO_FLOW = { pause() {}, resume() {} };

interface Lane {
  /** What runs on it; undefined when it asks for work, or never will again. */
  call: ApiCall | undefined;
  isStreaming: boolean;
  /** Its answer was too large: what follows of it is thrown away. */
  isRefused: boolean;
  isHeld: boolean;
  bytes: number;
  bytesMax: number;
  /** That came while it was to be held. */
  overrun: number;
}

class Violation extends Error {}

export class RuntimeChannel implements FrameSink {
  readonly #socket: Duplex;
  readonly #writer: FrameWriter;
  readonly #reader = new FrameReader(this);
  readonly #host: ChannelHost;
  readonly #lanes: Lane[];
  /** Lanes that ask for work; the last one is served first. */
  #asking: number[];
  #isStopping = false;
  #isOver = false;
  /** The frame that is being read. */
  #type = 0;
  #lane = 0;
  #pieces: Buffer[] = [];

  constructor(socket: Duplex, lanes: number, host: ChannelHost) {
    this.#socket = socket;
    this.#writer = new FrameWriter(socket, () => this.#asking.length === lanes - 1);
    this.#host = host;
    this.#lanes = Array.from({ length: lanes }, () => ({
      call: undefined,
      isStreaming: false,
      isRefused: false,
      isHeld: false,
      bytes: 0,
      bytesMax: 0,
      overrun: 0,
    }));
    this.#asking = Array.from({ length: lanes }, (_, lane) => lane);
    socket.on('data', (data: Buffer) => this.#read(data));
    socket.on('error', () => {});
    socket.on('end', () => this.#lost());
    socket.on('close', () => this.#lost());
  }

  /** Lanes that ask for work. */
  get asking(): number {
    return this.#asking.length;
  }

  /** To be called with bytes that came behind the request for frames, after all is set up. */
  begin(head: Buffer): void {
    this.#socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
    while (this.#asking.length > 0) {
      const call = this.#host.next();
      if (!call) break;
      this.give(call);
    }
    if (head.length > 0) this.#read(head);
  }

  /** Some lane has to ask. */
  give(call: ApiCall): void {
    const index = this.#asking.pop() as number;
    const lane = this.#lanes[index] as Lane;
    lane.call = call;
    lane.isStreaming = lane.isRefused = lane.isHeld = false;
    lane.bytes = lane.overrun = 0;
    const { deadline, functionArn = '', traceId = '', clientContext = '' } = call.taken();
    this.#writer.event(index, `${call.requestId}\n${deadline}\n${functionArn}\n${traceId}\n${clientContext}`, call.event);
  }

  close(): void {
    this.#isOver = true;
    this.#asking = [];
    this.#socket.destroy();
  }

  opened(type: number, lane: number, length: number): void {
    this.#type = type;
    this.#lane = lane;
    const state = this.#lanes[lane];
    if (!state) throw new Violation(`there is no lane ${lane}`);
    if (type === FRAME.stop) {
      if (length > 0) throw new Violation('a stop has no payload');
      return;
    }
    const { call } = state;
    if (!call) throw new Violation(`lane ${lane} has no event to answer`);
    switch (type) {
      case FRAME.answer:
        if (state.isStreaming) throw new Violation(`lane ${lane} answers twice`);
        this.#answering(state, call, { contentType: ANSWER_TYPE, streamed: false, lane });
        if (!state.isRefused && length > state.bytesMax) this.#refuse(state, call);
        break;
      case FRAME.failed:
      case FRAME.end:
        if (state.isStreaming !== (type === FRAME.end))
          throw new Violation(`lane ${lane} ends an answer that it did not begin, or fails in one`);
        if (length > FAULT_BYTES_MAX) throw new Violation(`a fault has ${length} bytes`);
        break;
      case FRAME.begin:
        if (state.isStreaming) throw new Violation(`lane ${lane} answers twice`);
        if (length > TYPE_BYTES_MAX) throw new Violation(`a content type has ${length} bytes`);
        break;
      case FRAME.chunk:
        if (!state.isStreaming) throw new Violation(`lane ${lane} has not begun to answer`);
        break;
      default:
        throw new Violation(`there is no frame of type ${type}`);
    }
  }

  piece(data: Buffer): void {
    if (this.#type !== FRAME.answer && this.#type !== FRAME.chunk) {
      this.#pieces.push(data);
      return;
    }
    const lane = this.#lanes[this.#lane] as Lane;
    const call = lane.call as ApiCall;
    lane.bytes += data.length;
    if (!lane.isRefused && lane.bytes > lane.bytesMax) this.#refuse(lane, call);
    if (lane.isRefused) {
      if (lane.bytes > lane.bytesMax + DRAIN_BYTES_MAX) throw new Violation('an answer that is too large does not end');
      return;
    }
    if (lane.isHeld && (lane.overrun += data.length) > OVERRUN_BYTES_MAX) this.#socket.pause();
    call.chunk(data);
  }

  closed(): void {
    const lane = this.#lanes[this.#lane] as Lane;
    const { call } = lane;
    const text = this.#pieces.length === 0 ? undefined : this.#taken();
    switch (this.#type) {
      case FRAME.stop:
        this.#isStopping = true;
        this.#asking = [];
        break;
      case FRAME.begin: {
        const contentType = text?.toString('latin1') ?? '';
        if (!HEADER_TEXT.test(contentType)) throw new Violation('a content type is not text');
        if (call) this.#answering(lane, call, { contentType, streamed: true, lane: this.#lane });
        break;
      }
      case FRAME.chunk:
        break;
      default:
        if (call) this.#ended(lane, call, text);
    }
  }

  /** An answer is complete: its lane asks for the next event. */
  #ended(lane: Lane, call: ApiCall, text: Buffer | undefined): void {
    const isOpen = !lane.isRefused && this.#host.isRunning(call);
    lane.call = undefined;
    if (lane.isHeld) this.#socket.resume();
    if (isOpen) this.#host.settle(call);
    if (!this.#isStopping) {
      this.#asking.push(this.#lane);
      const next = this.#host.next();
      if (next) this.give(next);
    }
    if (!isOpen) return;
    const fault = text && faultOf('', text.toString('utf8'));
    if (this.#type === FRAME.failed) call.failed(fault ?? faultOf('', ''));
    else call.answered(fault);
  }

  #answering(
    lane: Lane,
    call: ApiCall,
    { contentType, streamed, lane: index }: { readonly contentType: string; readonly streamed: boolean; readonly lane: number },
  ): void {
    lane.isStreaming = streamed;
    if (!this.#host.isRunning(call)) {
      // Its client said that it was about to die.
      lane.isRefused = true;
      lane.bytesMax = 0;
      return;
    }
    lane.bytesMax = call.answering({ contentType, streamed, flow: streamed ? this.#flowOf(lane, index) : NO_FLOW });
  }

  #flowOf(lane: Lane, index: number): { pause(): void; resume(): void } {
    const { call } = lane;
    const set = (isHeld: boolean): void => {
      // The reader of an answer may outlast it.
      if (lane.call !== call || this.#isOver) return;
      lane.isHeld = isHeld;
      lane.overrun = 0;
      this.#writer.text(isHeld ? FRAME.hold : FRAME.goOn, index, '');
      if (!isHeld) this.#socket.resume();
    };
    return { pause: () => set(true), resume: () => set(false) };
  }

  #refuse(lane: Lane, call: ApiCall): void {
    lane.isRefused = true;
    this.#host.settle(call);
    call.tooLarge(lane.bytesMax);
  }

  #taken(): Buffer {
    const bytes = this.#pieces.length === 1 ? (this.#pieces[0] as Buffer) : Buffer.concat(this.#pieces);
    this.#pieces = [];
    return bytes;
  }

  #read(data: Buffer): void {
    if (this.#isOver) return;
    try {
      this.#reader.push(data);
    } catch (thrown) {
      if (!(thrown instanceof Violation)) throw thrown;
      this.#lost(thrown.message);
    }
  }

  #lost(violation?: string): void {
    if (this.#isOver) return;
    this.close();
    for (const { call, isRefused } of this.#lanes) {
      if (!call || isRefused || !this.#host.isRunning(call)) continue;
      this.#host.settle(call);
      if (violation === undefined) call.truncated();
      else call.violated(violation);
    }
    this.#host.lost(violation);
  }
}
