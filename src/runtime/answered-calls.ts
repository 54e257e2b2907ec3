/** The two ways to take an answer: whole, or as it is written. */

import type { RunnerError } from '../errors.ts';
import { ChunkQueue } from './chunk-queue.ts';
import { FunctionCall } from './function-call.ts';
import type { CallLimits } from './function-call.ts';
import type { Flow } from './runtime-api.ts';
import type { FunctionVersion, Invocation, InvocationReport, StreamedInvocation } from './runtime.ts';

const NOTHING = new Uint8Array();

function joined(chunks: readonly Buffer[]): Uint8Array {
  const [first] = chunks;
  if (first === undefined) return NOTHING;
  return chunks.length === 1 ? first : Buffer.concat(chunks);
}

/** Of an answer that is not streamed: it is held in memory until it is complete. */
function wholeBytesMax({ responseBytesMax }: CallLimits, { answerBytesMax = Infinity }: FunctionVersion): number {
  return Math.min(responseBytesMax, answerBytesMax);
}

export class BufferedCall extends FunctionCall {
  readonly outcome = Promise.withResolvers<Invocation>();
  readonly #chunks: Buffer[] = [];

  protected accept(): number {
    return wholeBytesMax(this.host.limits, this.fn);
  }

  protected received(data: Buffer): void {
    this.#chunks.push(data);
  }

  protected succeeded(report: InvocationReport, logTail: Uint8Array): void {
    this.outcome.resolve({ body: joined(this.#chunks), contentType: this.contentType, report, logTail });
  }

  protected rejected(error: RunnerError): void {
    this.outcome.reject(error);
  }
}

type Done = Awaited<StreamedInvocation['done']>;

export class StreamedCall extends FunctionCall {
  /** Resolves when the answer begins. */
  readonly outcome = Promise.withResolvers<StreamedInvocation>();
  readonly #done = Promise.withResolvers<Done>();
  readonly #queue = new ChunkQueue(() => this.cancel(new Error('the reader of the response went away')));
  /** Of a buffered answer, which is one chunk. */
  readonly #buffered: Buffer[] = [];
  #isStreamed = false;

  protected accept(streamed: boolean, flow: Flow): number {
    this.#isStreamed = streamed;
    if (!streamed) return wholeBytesMax(this.host.limits, this.fn);
    this.#queue.flow = flow;
    this.#begin();
    return this.host.limits.streamBytesMax;
  }

  protected received(data: Buffer): void {
    if (this.#isStreamed) this.#queue.push(data);
    else this.#buffered.push(data);
  }

  protected succeeded(report: InvocationReport, logTail: Uint8Array): void {
    if (!this.#isStreamed) {
      const body = joined(this.#buffered);
      if (body.length > 0) this.#queue.push(body);
      this.#begin();
    }
    this.#queue.end();
    this.#done.resolve({ report, logTail });
  }

  protected rejected(error: RunnerError): void {
    this.#done.promise.catch(() => {});
    this.#done.reject(error);
    this.#queue.end(error);
    this.outcome.reject(error);
  }

  #begin(): void {
    const { contentType, requestId } = this;
    this.outcome.resolve({ contentType, requestId, chunks: this.#queue, done: this.#done.promise });
  }
}
