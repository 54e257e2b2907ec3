/**
 * The handler behind stdin and stdout.
 *
 * Once: one JSON request on stdin, one JSON response on stdout, as the Custom FaaS Platform Spec starts a `bootstrap`. Lines: one
 * request per line, one response per line in the order of the requests, until stdin ends. Whatever the jobs print goes to stderr.
 * An error is a response too, so the exit status is 0 whenever a response was written.
 */

import type { Readable } from 'node:stream';
import { JSON_TYPE } from '../../src/job/wire.ts';
import { RunningCalls } from '../calls.ts';
import { readBody } from '../index.ts';
import type { HandlerBody, JobHandler, RunningAdapter } from '../index.ts';

export interface StdioStreams {
  readonly input: Readable;
  /** Resolves when the bytes are handed over. */
  write(bytes: Uint8Array): Promise<void>;
}

const NEWLINE = 0x0a;

/**
 * Takes stdout away from everything else in the process: from now on what is printed goes to stderr, and only the returned streams
 * write to stdout. To be called before the jobs are loaded.
 */
export function takeStdout({ stdin, stdout, stderr }: NodeJS.Process): StdioStreams {
  const write = stdout.write.bind(stdout);
  stdout.write = stderr.write.bind(stderr);
  return {
    input: stdin,
    write: (bytes) =>
      new Promise((resolve, reject) => {
        write(bytes, (error) => (error ? reject(error) : resolve()));
      }),
  };
}

/** Starts to read; `done` resolves after the last response. */
export function startStdio(handler: JobHandler, streams: StdioStreams, mode: 'once' | 'lines'): RunningAdapter {
  const session = new StdioSession(handler, streams);
  const done = mode === 'once' ? session.answerOnce() : session.answerLines();
  return { address: 'stdio', done, close: (signal) => session.close(signal, done) };
}

class StdioSession {
  readonly #handler: JobHandler;
  readonly #streams: StdioStreams;
  readonly #running = new RunningCalls();
  #isClosing = false;
  /** Of the line that is being read; `#lineBytes` goes on counting when a line is too large to keep. */
  #lineParts: Buffer[] = [];
  #lineBytes = 0;

  constructor(handler: JobHandler, streams: StdioStreams) {
    this.#handler = handler;
    this.#streams = streams;
  }

  async answerOnce(): Promise<void> {
    const body = await readBody(this.#streams.input, this.#handler.requestBytesMax);
    if (body !== 'broken') await this.#answer(body);
  }

  async answerLines(): Promise<void> {
    try {
      for await (const chunk of this.#streams.input as AsyncIterable<Buffer>) await this.#takeChunk(chunk);
    } catch (error) {
      if (!this.#isClosing) throw error;
    }
    if (!this.#isClosing) await this.#answerLine();
  }

  async close(signal: AbortSignal, done: Promise<void>): Promise<number> {
    this.#isClosing = true;
    const cancelled = await this.#running.drain(signal);
    this.#streams.input.destroy();
    await done;
    return cancelled;
  }

  async #takeChunk(chunk: Buffer): Promise<void> {
    let rest = chunk;
    for (let end = rest.indexOf(NEWLINE); end >= 0 && !this.#isClosing; end = rest.indexOf(NEWLINE)) {
      this.#takePart(rest.subarray(0, end));
      rest = rest.subarray(end + 1);
      await this.#answerLine();
    }
    this.#takePart(rest);
  }

  #takePart(part: Buffer): void {
    this.#lineBytes += part.length;
    if (this.#lineBytes > this.#handler.requestBytesMax) this.#lineParts = [];
    else this.#lineParts.push(part);
  }

  async #answerLine(): Promise<void> {
    const body: HandlerBody = this.#lineBytes > this.#handler.requestBytesMax ? 'too-large' : Buffer.concat(this.#lineParts);
    this.#lineParts = [];
    this.#lineBytes = 0;
    if (body.length > 0) await this.#answer(body);
  }

  async #answer(body: HandlerBody): Promise<void> {
    const call = this.#running.begin();
    const response = await this.#handler.handle({ headers: { 'content-type': JSON_TYPE }, body, signal: call.signal });
    await this.#streams.write(Buffer.concat([response.body, Buffer.of(NEWLINE)]));
    this.#running.end(call);
  }
}
