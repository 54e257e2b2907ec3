/** What instances write: lines in a bounded ring per function, and the tail of what came during a call. And how calls failed. */

import { StringDecoder } from 'node:string_decoder';
import type { RunnerError } from '../errors.ts';
import type { LogLine } from './runtime.ts';

const LINES_MAX = 1_000;
/** Of all lines of a function. */
const CHARACTERS_MAX = 1024 * 1024;
/** Functions whose lines are kept; the one that was silent for longest goes first. */
const FUNCTIONS_MAX = 1_000;
export const LINE_CHARACTERS_MAX = 16 * 1024;
const TAIL_BYTES = 4 * 1024;
/** Chunks that are kept for tails before the old ones are put together. */
const CHUNKS_MAX = 64;
const NOTHING = new Uint8Array();

export type LogListener = (line: LogLine) => void;

interface Ring {
  lines: LogLine[];
  characters: number;
  /** Number of its newest line. */
  newest: number;
}

/** The lines of all functions. */
export class LogBook {
  readonly #rings = new Map<string, Ring>();
  readonly #listeners = new Set<LogListener>();
  #count = 0;

  write(line: LogLine): void {
    const ring = this.#rings.get(line.name) ?? this.#newRing(line.name);
    ring.newest = this.#count += 1;
    ring.lines.push(line);
    ring.characters += line.text.length;
    // Cut in blocks: to shift for each line would move them all.
    if (ring.lines.length >= 2 * LINES_MAX || ring.characters >= 2 * CHARACTERS_MAX) cut(ring);
    for (const listener of this.#listeners) listener(line);
  }

  /** The newest lines, oldest first. */
  read(name: string, options: { readonly limit?: number; readonly instanceId?: string } = {}): LogLine[] {
    const { limit = LINES_MAX, instanceId } = options;
    const all = this.#rings.get(name)?.lines ?? [];
    const lines = instanceId === undefined ? all : all.filter((line) => line.instanceId === instanceId);
    return limit < 1 ? [] : lines.slice(-Math.min(limit, LINES_MAX));
  }

  listen(listener: LogListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #newRing(name: string): Ring {
    if (this.#rings.size >= FUNCTIONS_MAX) {
      const [silent] = [...this.#rings].reduce((left, right) => (left[1].newest <= right[1].newest ? left : right));
      this.#rings.delete(silent);
    }
    const ring = { lines: [], characters: 0, newest: 0 };
    this.#rings.set(name, ring);
    return ring;
  }
}

/** Leaves the newest lines. */
function cut(ring: Ring): void {
  let from = Math.max(0, ring.lines.length - LINES_MAX);
  let characters = ring.lines.slice(from).reduce((sum, { text }) => sum + text.length, 0);
  for (; characters > CHARACTERS_MAX; from += 1) characters -= ring.lines[from]?.text.length ?? 0;
  ring.lines = ring.lines.slice(from);
  ring.characters = characters;
}

/**
 * What the log says of a call that failed, in the words of AWS Lambda and of its runtime client for Node; undefined: the function is not at
 * fault, or had no part in it.
 */
export function failureText(
  { code, message, details, retry }: RunnerError,
  call: { readonly at: number; readonly requestId: string },
): string | undefined {
  const at = new Date(call.at).toISOString();
  const failed = `RequestId: ${call.requestId} Error:`;
  const { errorType, errorMessage, stackTrace: stack, body } = details;
  switch (code) {
    case 'FUNCTION_FAILED':
    case 'FUNCTION_INIT_FAILED': {
      const what = code === 'FUNCTION_FAILED' ? 'Invoke Error' : 'Uncaught Exception';
      if (body) return `${at}\t${call.requestId}\tERROR\t${what} \t${JSON.stringify({ errorType, errorMessage, stack })}`;
      return `${failed} ${details['reason'] === undefined ? String(errorMessage) : exitText(details)}`;
    }
    case 'FUNCTION_CRASHED':
      return `${failed} ${exitText(details)}`;
    case 'FUNCTION_OUT_OF_MEMORY':
      return `${failed} ${exitText({ signal: 'SIGKILL' })} (${message})`;
    case 'EXECUTOR_TIMEOUT':
      return `${at} ${call.requestId} Task timed out after ${(Number(details['ranMs']) / 1_000).toFixed(2)} seconds`;
    case 'EXECUTOR_RESPONSE_INVALID':
    case 'PAYLOAD_TOO_LARGE':
      return `${failed} ${message}`;
    case 'EXECUTOR_CONNECTION_LOST':
      return retry === 'safe' ? undefined : `${failed} ${message}`;
    default:
      return undefined;
  }
}

/** As Go names them, in which the supervisor of AWS is written. */
const SIGNALS: Readonly<Record<string, string>> = {
  SIGABRT: 'aborted',
  SIGBUS: 'bus error',
  SIGFPE: 'floating point exception',
  SIGHUP: 'hangup',
  SIGILL: 'illegal instruction',
  SIGINT: 'interrupt',
  SIGKILL: 'killed',
  SIGPIPE: 'broken pipe',
  SIGQUIT: 'quit',
  SIGSEGV: 'segmentation fault',
  SIGSYS: 'bad system call',
  SIGTERM: 'terminated',
  SIGTRAP: 'trace/breakpoint trap',
};

/** How a program ended, in the words of AWS Lambda, from the details of the error. */
export function exitText({ signal, exitCode }: RunnerError['details']): string {
  const how =
    typeof signal === 'string' ? `signal: ${SIGNALS[signal] ?? signal}` : `exit status ${typeof exitCode === 'number' ? exitCode : 1}`;
  return `Runtime exited with error: ${how}`;
}

type Stream = LogLine['stream'];

/** Turns the raw output of one instance into lines, and keeps its end. */
export class InstanceLog {
  readonly #write: (stream: Stream, text: string) => void;
  readonly #decoders = { stdout: new StringDecoder('utf8'), stderr: new StringDecoder('utf8') };
  readonly #rests = { stdout: '', stderr: '' };
  #chunks: Uint8Array[] = [];
  /** Bytes that ever came. */
  #written = 0;

  constructor(write: (stream: Stream, text: string) => void) {
    this.#write = write;
  }

  /** Where the output stands now, for `since`. */
  get mark(): number {
    return this.#written;
  }

  output(stream: Stream, chunk: Uint8Array): void {
    this.#keep(chunk);
    const lines = (this.#rests[stream] + this.#decoders[stream].write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength))).split(
      '\n',
    );
    let rest = lines.pop() ?? '';
    for (const line of lines) this.#line(stream, line);
    while (rest.length > LINE_CHARACTERS_MAX) {
      this.#line(stream, rest.slice(0, LINE_CHARACTERS_MAX));
      rest = rest.slice(LINE_CHARACTERS_MAX);
    }
    this.#rests[stream] = rest;
  }

  /** The last line may have no end. */
  end(): void {
    for (const stream of ['stdout', 'stderr'] as const) {
      const rest = this.#rests[stream] + this.#decoders[stream].end();
      this.#rests[stream] = '';
      if (rest !== '') this.#line(stream, rest);
    }
  }

  /** What came since `mark`, at most the last 4 KiB of it. */
  since(mark: number): Uint8Array {
    const wanted = Math.min(this.#written - mark, TAIL_BYTES);
    if (wanted === 0) return NOTHING;
    const all = this.#chunks.length === 1 ? (this.#chunks[0] as Uint8Array) : Buffer.concat(this.#chunks);
    return all.subarray(all.length - wanted);
  }

  /** The last lines of all output, for messages. */
  get lastLines(): string {
    return Buffer.from(this.since(0)).toString('utf8').trimEnd().split('\n').slice(-10).join('\n');
  }

  #line(stream: Stream, line: string): void {
    const text = line.endsWith('\r') ? line.slice(0, -1) : line;
    this.#write(stream, text.length > LINE_CHARACTERS_MAX ? text.slice(0, LINE_CHARACTERS_MAX) : text);
  }

  #keep(chunk: Uint8Array): void {
    this.#written += chunk.length;
    // Copied: a chunk may be a view into memory that the backend uses again.
    const tail = Buffer.from(chunk.subarray(-TAIL_BYTES));
    if (tail.length === TAIL_BYTES) this.#chunks = [tail];
    else if (this.#chunks.length < CHUNKS_MAX) this.#chunks.push(tail);
    else this.#chunks = [Buffer.concat([...this.#chunks, tail]).subarray(-TAIL_BYTES)];
  }
}
