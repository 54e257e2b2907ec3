/** A streamed answer that outlives the connection it began on: its last chunks are kept, so that its reader can come back. */

import { randomUUID } from 'node:crypto';
import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { StreamedInvocation } from '../runtime/runtime.ts';
import type { ReportDocument } from './api.ts';
import { reportDocument } from './invocation.ts';

export interface StreamReader {
  /** False: not now; the session waits until it is woken. */
  chunk(seq: number, data: Uint8Array): boolean;
  end(report: ReportDocument): void;
  failed(error: RunnerError): void;
}

export interface StreamSessionOptions {
  readonly invocation: StreamedInvocation;
  readonly callerId: string;
  readonly clock: Clock;
  /** Gives the call up. */
  readonly cancel: (reason: RunnerError) => void;
  /** Bytes that are kept of what was sent, and the most that waits to be sent. */
  readonly bytesMax: number;
  /** How long a session waits for its reader to come back. */
  readonly graceMs: number;
  readonly onGone: () => void;
}

interface Chunk {
  readonly seq: number;
  readonly data: Uint8Array;
}

export class StreamSession {
  readonly id = randomUUID();
  readonly callerId: string;
  readonly requestId: string;
  readonly contentType: string;
  readonly #options: Omit<StreamSessionOptions, 'invocation'>;
  readonly #chunks: Chunk[] = [];
  /** Of the chunks that are kept. */
  #bytes = 0;
  #lastSeq = 0;
  /** The last that the present reader has. */
  #sentSeq = 0;
  #reader: StreamReader | undefined;
  #outcome: { readonly report: ReportDocument } | { readonly error: RunnerError } | undefined;
  #isTold = false;
  #wake: (() => void) | undefined;
  #stopGrace: CancelTimer | undefined;
  #isGone = false;

  /** What it waits with for its reader is what the answer was, not the call: that holds its event. */
  constructor({ invocation, ...options }: StreamSessionOptions) {
    this.#options = options;
    this.callerId = options.callerId;
    this.requestId = invocation.requestId;
    this.contentType = invocation.contentType;
    void this.#collect(invocation);
  }

  get hasReader(): boolean {
    return this.#reader !== undefined;
  }

  /** Its reader has all of it. */
  get isTold(): boolean {
    return this.#isTold;
  }

  /** Throws `NOT_FOUND` when the chunks after `after` are not kept any more. */
  attach(reader: StreamReader, after: number): void {
    const oldest = this.#chunks[0]?.seq ?? this.#lastSeq + 1;
    if (after + 1 < oldest || after > this.#lastSeq)
      throw new RunnerError(
        'NOT_FOUND',
        `the chunks after ${after} are not kept; the oldest kept is ${oldest}, the newest ${this.#lastSeq}`,
        { details: { oldest, newest: this.#lastSeq } },
      );
    this.#stopGrace?.();
    this.#reader = reader;
    this.#sentSeq = after;
    this.#isTold = false;
    this.pump();
  }

  /** The connection of this reader is lost. */
  detach(reader: StreamReader): void {
    if (this.#reader !== reader) return;
    this.#reader = undefined;
    this.#waitForReader();
  }

  /** Sends what can be sent; to be called when the reader takes more again. */
  pump(): void {
    const reader = this.#reader;
    // Who gave it up has been told.
    if (!reader || this.#isTold || this.#isGone) return;
    const first = this.#chunks[0]?.seq ?? 0;
    for (let index = this.#sentSeq + 1 - first; index < this.#chunks.length; index += 1) {
      const chunk = this.#chunks[index];
      if (!chunk || !reader.chunk(chunk.seq, chunk.data)) return;
      this.#sentSeq = chunk.seq;
    }
    this.#forget();
    this.#wake?.();
    if (!this.#outcome) return;
    this.#isTold = true;
    if ('report' in this.#outcome) reader.end(this.#outcome.report);
    else reader.failed(this.#outcome.error);
    // The last message may be lost with its connection.
    this.#waitForReader();
  }

  close(reason: RunnerError): void {
    if (this.#isGone) return;
    this.#isGone = true;
    this.#stopGrace?.();
    this.#options.cancel(reason);
    this.#wake?.();
    this.#options.onGone();
  }

  async #collect({ chunks, done }: StreamedInvocation): Promise<void> {
    // Told by the chunks as well.
    done.catch(() => {});
    try {
      for await (const data of chunks) {
        this.#lastSeq += 1;
        this.#chunks.push({ seq: this.#lastSeq, data });
        this.#bytes += data.length;
        this.pump();
        while (this.#waitingBytes() >= this.#options.bytesMax && !this.#isGone)
          await new Promise<void>((resolve) => (this.#wake = resolve));
        this.#wake = undefined;
        if (this.#isGone) return;
      }
      this.#outcome = { report: reportDocument((await done).report) };
    } catch (thrown) {
      this.#outcome = { error: toRunnerError(thrown) };
    }
    this.pump();
  }

  #waitingBytes(): number {
    return this.#chunks.reduce((sum, { seq, data }) => (seq > this.#sentSeq ? sum + data.length : sum), 0);
  }

  /** Chunks that were sent, beyond what is kept of them. */
  #forget(): void {
    for (
      let oldest = this.#chunks[0];
      oldest && oldest.seq <= this.#sentSeq && this.#bytes > this.#options.bytesMax;
      oldest = this.#chunks[0]
    ) {
      this.#chunks.shift();
      this.#bytes -= oldest.data.length;
    }
  }

  #waitForReader(): void {
    this.#stopGrace?.();
    this.#stopGrace = this.#options.clock.after(this.#options.graceMs, () =>
      this.close(new RunnerError('ABORTED', 'nobody came back for the rest of the answer')),
    );
  }
}
