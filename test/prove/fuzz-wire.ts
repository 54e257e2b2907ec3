/** Raw connections, and the strictest reading of what goes and comes over them. */

import { connect } from 'node:net';
import type { NetConnectOpts, Socket } from 'node:net';

export interface Answer {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

/** Thrown for an answer that is no HTTP. */
export class Unreadable extends Error {}

const HEAD_END = Buffer.from('\r\n\r\n');
const NO_BODY = (status: number): boolean => status < 200 || status === 204 || status === 304;

/** Takes answers out of bytes as they come. */
export class AnswerReader {
  #bytes: Buffer = Buffer.alloc(0);
  readonly #mayBeHead: boolean;
  #isEnded = false;

  /** @param mayBeHead some answers may be to HEAD, and have a length but no body */
  constructor(mayBeHead = false) {
    this.#mayBeHead = mayBeHead;
  }

  get rest(): number {
    return this.#bytes.length;
  }

  push(chunk: Buffer): void {
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
  }

  /** Nothing more comes: an answer to HTTP/1.0 without a length is complete. Throws `Unreadable`. */
  end(): Answer | undefined {
    this.#isEnded = true;
    return this.next();
  }

  /** Undefined: it is not complete. Throws `Unreadable`. */
  next(): Answer | undefined {
    const end = this.#bytes.indexOf(HEAD_END);
    if (end < 0) return undefined;
    const [line = '', ...lines] = this.#bytes.toString('latin1', 0, end).split('\r\n');
    const status = Number(/^HTTP\/1\.1 ([1-5]\d\d) /.exec(line)?.[1]);
    if (!status) throw new Unreadable(`an answer begins with ${JSON.stringify(line.slice(0, 80))}`);
    const headers = new Map(
      lines.map((each) => [each.slice(0, each.indexOf(':')).toLowerCase(), each.slice(each.indexOf(':') + 1).trim()]),
    );
    const from = end + 4;
    if (NO_BODY(status)) return this.#take(from, { status, headers, body: Buffer.alloc(0) });
    if (headers.get('transfer-encoding') === 'chunked') return this.#chunked(from, { status, headers });
    const length = Number(headers.get('content-length') ?? Number.NaN);
    if (this.#isEnded && !headers.has('content-length') && headers.get('connection') === 'close')
      return this.#take(this.#bytes.length, { status, headers, body: this.#bytes.subarray(from) });
    if (!headers.has('content-length') && headers.get('connection') === 'close') return undefined;
    if (!Number.isSafeInteger(length)) throw new Unreadable(`an answer ${status} has neither a length nor chunks`);
    const follows = this.#bytes.toString('latin1', from, from + 9);
    if (this.#mayBeHead && (follows === '' || follows === 'HTTP/1.1 ')) return this.#take(from, { status, headers, body: Buffer.alloc(0) });
    if (this.#bytes.length < from + length) return undefined;
    return this.#take(from + length, { status, headers, body: this.#bytes.subarray(from, from + length) });
  }

  #take(end: number, answer: Answer): Answer {
    this.#bytes = this.#bytes.subarray(end);
    return answer;
  }

  #chunked(from: number, head: Omit<Answer, 'body'>): Answer | undefined {
    const parts: Buffer[] = [];
    for (let at = from; ;) {
      const lineEnd = this.#bytes.indexOf('\r\n', at);
      if (lineEnd < 0) return undefined;
      const text = this.#bytes.toString('latin1', at, lineEnd);
      if (!/^[0-9a-fA-F]+$/.test(text)) throw new Unreadable(`a chunk begins with ${JSON.stringify(text.slice(0, 80))}`);
      const size = Number.parseInt(text, 16);
      at = lineEnd + 2 + size + 2;
      if (this.#bytes.length < at) return undefined;
      if (size === 0) return this.#take(at, { ...head, body: Buffer.concat(parts) });
      parts.push(this.#bytes.subarray(lineEnd + 2, lineEnd + 2 + size));
    }
  }
}

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;
const TARGET = /^[\x21-\x7e\x80-\xff]+$/;

/** How many requests RFC 9112 sees at the beginning of these bytes, the strict reading of it. Node tells its relatives from HTTP by nothing. */
export function requestsIn(bytes: Buffer): number {
  let count = 0;
  let at = 0;
  while (at < bytes.length) {
    // Empty lines before a request are to be ignored, and either of their two characters may stand for one [2.2].
    while (bytes[at] === 13 || bytes[at] === 10) at += 1;
    const end = requestEnd(bytes, at);
    if (end === undefined) return count;
    at = end;
    count += 1;
  }
  return count;
}

function requestEnd(bytes: Buffer, from: number): number | undefined {
  const end = bytes.indexOf(HEAD_END, from);
  if (end < 0) return undefined;
  const [line = '', ...lines] = bytes.toString('latin1', from, end).split('\r\n');
  const [method = '', target = '', version = '', ...more] = line.split(/ +/);
  if (!TOKEN.test(method) || !TARGET.test(target) || !/^(?:HTTP|RTSP|ICE)\/1\.[01]$/.test(version) || more.length > 0) return undefined;
  const lengths: string[] = [];
  const encodings: string[] = [];
  for (const each of lines) {
    const [, name, value = ''] = /^([^:]*):(.*)$/s.exec(each) ?? [];
    if (name === undefined || !TOKEN.test(name) || /[\u0000-\u0008\u000a-\u001f\u007f]/.test(value)) return undefined;
    if (name.toLowerCase() === 'content-length') lengths.push(value.trim());
    if (name.toLowerCase() === 'transfer-encoding') encodings.push(value.trim().toLowerCase());
  }
  const body = end + 4;
  if (encodings.length > 0) return lengths.length > 0 || encodings.join() !== 'chunked' ? undefined : chunksEnd(bytes, body);
  if (lengths.length === 0) return body;
  if (new Set(lengths).size > 1 || !/^0*\d{1,15}$/.test(lengths[0] ?? '')) return undefined;
  const last = body + Number(lengths[0]);
  return last <= bytes.length ? last : undefined;
}

function chunksEnd(bytes: Buffer, from: number): number | undefined {
  for (let at = from; ;) {
    const lineEnd = bytes.indexOf('\r\n', at);
    if (lineEnd < 0) return undefined;
    const size = Number.parseInt(
      /^([0-9a-fA-F]{1,8})(?:[ \t]*;[^\u0000-\u0008\u000a-\u001f\u007f]*)?$/.exec(bytes.toString('latin1', at, lineEnd))?.[1] ?? '',
      16,
    );
    if (Number.isNaN(size)) return undefined;
    if (size === 0) {
      const trailers = bytes.indexOf(HEAD_END, lineEnd);
      return trailers < 0 ? undefined : trailers + 4;
    }
    at = lineEnd + 2 + size;
    if (bytes[at] !== 13 || bytes[at + 1] !== 10) return undefined;
    at += 2;
  }
}

/** Anything that looks as if it were meant as a request is owed an answer. */
export function isMeantAsRequest(bytes: Buffer): boolean {
  return /^(?:\r\n)*[A-Z]+ \S+ HTTP\/1\.[01]\r\n/.test(bytes.toString('latin1', 0, 9_000));
}

const QUIET_MS = 25;
const PATIENCE_MS = 20_000;

export interface Exchange {
  readonly answers: readonly Answer[];
  /** Bytes of an answer that did not come to its end. */
  readonly rest: number;
  readonly unreadable?: string;
  readonly isStuck: boolean;
}

/**
 * Sends bytes over a connection of their own and takes all that comes, until the other side ends, or until `owed` answers have come and
 * nothing more does.
 */
export function exchange(to: NetConnectOpts, bytes: Buffer, owed: number): Promise<Exchange> {
  return new Promise((resolve) => {
    const socket: Socket = connect(to);
    const reader = new AnswerReader(bytes.includes('HEAD '));
    const answers: Answer[] = [];
    let unreadable: string | undefined;
    let isStuck = false;
    let quiet: NodeJS.Timeout | undefined;
    const listenOn = (): void => {
      clearTimeout(quiet);
      const final = answers.filter(({ status }) => status >= 200).length;
      if (final >= owed && !socket.writableEnded) quiet = setTimeout(() => socket.end(), QUIET_MS);
    };
    const patience = setTimeout(() => {
      isStuck = true;
      socket.destroy();
    }, PATIENCE_MS);
    socket.on('connect', () => {
      socket.write(bytes);
      listenOn();
    });
    socket.on('data', (chunk: Buffer) => {
      if (unreadable !== undefined) return;
      try {
        reader.push(chunk);
        for (let answer = reader.next(); answer; answer = reader.next()) {
          answers.push(answer);
          // What follows is not HTTP any more.
          if (answer.status === 101) return void socket.end();
        }
      } catch (error) {
        unreadable = (error as Error).message;
      }
      listenOn();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      clearTimeout(quiet);
      clearTimeout(patience);
      const isTunnel = answers.at(-1)?.status === 101;
      const last = unreadable === undefined && !isTunnel ? reader.end() : undefined;
      if (last) answers.push(last);
      resolve({
        answers,
        rest: isTunnel ? 0 : reader.rest,
        isStuck,
        ...(unreadable !== undefined && { unreadable }),
      });
    });
  });
}
