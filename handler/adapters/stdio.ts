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
export function startStdio(handler: JobHandler, { input, write }: StdioStreams, mode: 'once' | 'lines'): RunningAdapter {
  const running = new RunningCalls();
  const { requestBytesMax } = handler;
  let isClosing = false;
  /** Of the line that is being read; `lineBytes` goes on counting when a line is too large to keep. */
  let lineParts: Buffer[] = [];
  let lineBytes = 0;

  const answer = async (body: HandlerBody): Promise<void> => {
    const call = running.begin();
    const response = await handler.handle({ headers: { 'content-type': JSON_TYPE }, body, signal: call.signal });
    await write(Buffer.concat([response.body, Buffer.of(NEWLINE)]));
    running.end(call);
  };
  const answerLine = async (): Promise<void> => {
    const body: HandlerBody = lineBytes > requestBytesMax ? 'too-large' : Buffer.concat(lineParts);
    lineParts = [];
    lineBytes = 0;
    if (body.length > 0) await answer(body);
  };
  const takePart = (part: Buffer): void => {
    lineBytes += part.length;
    if (lineBytes > requestBytesMax) lineParts = [];
    else lineParts.push(part);
  };
  const answerOnce = async (): Promise<void> => {
    const body = await readBody(input, requestBytesMax);
    if (body !== 'broken') await answer(body);
  };
  const answerLines = async (): Promise<void> => {
    try {
      for await (const chunk of input as AsyncIterable<Buffer>) {
        let rest = chunk;
        for (let end = rest.indexOf(NEWLINE); end >= 0 && !isClosing; end = rest.indexOf(NEWLINE)) {
          takePart(rest.subarray(0, end));
          rest = rest.subarray(end + 1);
          await answerLine();
        }
        takePart(rest);
      }
    } catch (error) {
      if (!isClosing) throw error;
    }
    if (!isClosing) await answerLine();
  };

  const done = mode === 'once' ? answerOnce() : answerLines();
  const close = async (signal: AbortSignal): Promise<number> => {
    isClosing = true;
    const cancelled = await running.drain(signal);
    input.destroy();
    await done;
    return cancelled;
  };
  return { address: 'stdio', done, close, crash: (error) => running.fail(error) };
}
