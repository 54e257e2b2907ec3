/** Bodies of requests, read into memory within limits, and bodies of replies, sent as fast as the client reads. */

import { IncomingMessage } from 'node:http';
import type { ServerResponse } from 'node:http';
import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';

/** How much of an upload that was refused is read and thrown away, so that its sender sees the answer. */
const DISCARD_BYTES_MAX = 64 * 1024 * 1024;

/** The memory that all request bodies together may take. */
export class BodyBudget {
  readonly #bytesMax: number;
  #used = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get usedBytes(): number {
    return this.#used;
  }

  /** Throws `EXECUTOR_UNAVAILABLE`, answered with 503. */
  take(bytes: number): void {
    if (this.#used + bytes > this.#bytesMax) {
      throw new RunnerError('EXECUTOR_UNAVAILABLE', `requests hold ${this.#used} of ${this.#bytesMax} bytes already; try again`, {
        details: { bytesMax: this.#bytesMax },
      });
    }
    this.#used += bytes;
  }

  give(bytes: number): void {
    this.#used -= bytes;
  }
}

export interface ReadBody {
  readonly bytes: Uint8Array;
  /** Lets the bytes go, and gives their memory back to the budget. */
  readonly release: () => void;
}

export interface BodyRules {
  readonly bytesMax: number;
  readonly budget: BodyBudget;
  /** The client waits for `100 Continue`. */
  readonly announce: (() => void) | undefined;
}

/** Takes a body chunk by chunk, and its end as null. False: it takes no more. */
type BodySink = (chunk: Buffer | null) => boolean;

/** A request whose body goes to who collects it when the parser finds it: a stream would tell it over several turns, to several listeners. */
export class ServerRequest extends IncomingMessage {
  #sink: BodySink | undefined;

  /** Before anything of the body was taken. */
  collect(sink: BodySink): void {
    this.#sink = sink;
  }

  override push(chunk: Buffer | null, encoding?: BufferEncoding): boolean {
    const sink = this.#sink;
    if (!sink) return super.push(chunk, encoding);
    const isWanted = sink(chunk);
    // Without a read the server would look for the rest of what nobody reads.
    if (chunk === null) this._read(0);
    // The connection holds its last request for as long as it is idle; the body is not to be held with it.
    if (chunk === null || !isWanted) this.#sink = undefined;
    return isWanted;
  }
}

const NO_BODY: ReadBody = { bytes: new Uint8Array(), release() {} };

/** Reads to the end. Throws or rejects with `PAYLOAD_TOO_LARGE`, `REQUEST_INVALID` when the client breaks off, `EXECUTOR_UNAVAILABLE`. */
export function readBody(request: ServerRequest, { bytesMax, budget, announce }: BodyRules): Promise<ReadBody> | ReadBody {
  const { 'content-length': announced, 'transfer-encoding': encoding } = request.headers;
  if (encoding === undefined && (announced === undefined || announced === '0')) return NO_BODY;
  const size = Number(announced ?? 0);
  if (size > bytesMax) throw tooLarge(bytesMax);
  if (request.destroyed) throw brokeOff();
  budget.take(size);
  const taken = new Collected(request, { bytesMax, budget }, size);
  announce?.();
  return taken.whole;
}

class Collected implements ReadBody {
  readonly whole: Promise<ReadBody>;
  bytes: Uint8Array = NO_BODY.bytes;
  readonly #rules: Pick<BodyRules, 'bytesMax' | 'budget'>;
  readonly #chunks: Buffer[] = [];
  #size = 0;
  /** Of the budget. */
  #taken: number;
  #isOver = false;
  #resolve: (body: ReadBody) => void = () => {};
  #reject: (error: Error) => void = () => {};

  constructor(request: ServerRequest, rules: Pick<BodyRules, 'bytesMax' | 'budget'>, announced: number) {
    this.#rules = rules;
    this.#taken = announced;
    this.whole = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    request.collect((chunk) => (chunk ? this.#take(chunk) : this.#end()));
    // Node tells an error only those who listen for it, and closes the request all the same.
    request.on('close', () => this.#fail(brokeOff()));
  }

  readonly release = (): void => {
    this.#rules.budget.give(this.#taken);
    this.#taken = 0;
    this.bytes = NO_BODY.bytes;
    this.#chunks.length = 0;
  };

  #take(chunk: Buffer): boolean {
    const { bytesMax, budget } = this.#rules;
    this.#size += chunk.length;
    try {
      if (this.#size > bytesMax) throw tooLarge(bytesMax);
      if (this.#size > this.#taken) {
        budget.take(this.#size - this.#taken);
        this.#taken = this.#size;
      }
      this.#chunks.push(chunk);
      return true;
    } catch (thrown) {
      this.#fail(toRunnerError(thrown));
      return false;
    }
  }

  #end(): boolean {
    this.#isOver = true;
    const [first] = this.#chunks;
    this.bytes = this.#chunks.length === 1 && first ? first : Buffer.concat(this.#chunks, this.#size);
    this.#resolve(this);
    return true;
  }

  #fail(error: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.release();
    this.#reject(error);
  }
}

function brokeOff(): RunnerError {
  return new RunnerError('REQUEST_INVALID', 'the body of the request broke off');
}

function tooLarge(limit: number): RunnerError {
  const what = limit === 0 ? 'this request takes no body' : `the body is larger than ${limit} bytes`;
  return new RunnerError('PAYLOAD_TOO_LARGE', what, { details: { limit } });
}

/** Lets the client finish what it sends, within limits. */
export function discard(request: IncomingMessage): void {
  if (request.complete || request.destroyed) return;
  let seen = 0;
  request.on('data', (chunk: Buffer) => {
    seen += chunk.length;
    if (seen > DISCARD_BYTES_MAX) request.destroy();
  });
  request.on('error', () => {});
  request.resume();
}

export interface SendRules {
  readonly clock: Clock;
  /** A client that takes nothing for so long is given up. */
  readonly stallMs: number;
}

/** Sends chunk by chunk. Rejects when the source does, or with `ABORTED` when the client is gone or takes nothing. Resolves with the bytes sent. */
export async function sendChunks(response: ServerResponse, chunks: AsyncIterable<Uint8Array>, rules: SendRules): Promise<number> {
  let sent = 0;
  response.flushHeaders();
  for await (const chunk of chunks) {
    if (response.destroyed) throw new RunnerError('ABORTED', 'the client is gone');
    sent += chunk.length;
    if (chunk.length > 0 && !response.write(chunk)) await drained(response, rules);
  }
  return sent;
}

function drained(response: ServerResponse, { clock, stallMs }: SendRules): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (error?: RunnerError): void => {
      cancel();
      response.off('drain', onDrain);
      response.off('close', onClose);
      if (error) reject(error);
      else resolve();
    };
    const onDrain = (): void => end();
    const onClose = (): void => end(new RunnerError('ABORTED', 'the client is gone'));
    const cancel = clock.after(stallMs, () => end(new RunnerError('ABORTED', `the client has taken nothing for ${stallMs} ms`)));
    response.once('drain', onDrain);
    response.once('close', onClose);
    if (response.destroyed) onClose();
  });
}
