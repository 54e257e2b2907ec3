/** One connection for many requests, each sent without waiting for the answers before. */

import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { AnswerReader } from './fuzz-wire.ts';
import type { Answer } from './fuzz-wire.ts';

interface Sent {
  readonly bytes: Buffer;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: Error) => void;
}

/** Requests that are on their way at the same time. */
const DEPTH = 8;
const PATIENCE_MS = 60_000;

export class KeptConnection {
  readonly #port: number;
  readonly #waiting: Sent[] = [];
  readonly #sent: Sent[] = [];
  #socket: Socket | undefined;
  #isEnded = false;

  constructor(port: number) {
    this.#port = port;
  }

  /** Rejects when the connection is closed in place of an answer, or nothing comes. */
  send(bytes: Buffer): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const patience = setTimeout(() => reject(new Error('no answer came')), PATIENCE_MS);
      this.#waiting.push({
        bytes,
        resolve: (answer) => {
          clearTimeout(patience);
          resolve(answer);
        },
        reject: (error) => {
          clearTimeout(patience);
          reject(error);
        },
      });
      this.#write();
    });
  }

  end(): void {
    this.#isEnded = true;
    this.#socket?.end();
  }

  #write(): void {
    if (this.#waiting.length === 0 || this.#isEnded) return;
    const socket = (this.#socket ??= this.#connect());
    while (this.#sent.length < DEPTH) {
      const next = this.#waiting.shift();
      if (!next) return;
      this.#sent.push(next);
      socket.write(next.bytes);
    }
  }

  #connect(): Socket {
    const socket = connect({ port: this.#port, host: '127.0.0.1' });
    const reader = new AnswerReader();
    let isLast = false;
    const closed = (error: Error): void => {
      if (this.#socket !== socket) return;
      this.#socket = undefined;
      socket.destroy();
      const unanswered = this.#sent.splice(0);
      // Unless it was told before, the first of them is what the connection was closed for.
      if (!isLast) unanswered.shift()?.reject(error);
      this.#waiting.unshift(...unanswered);
      this.#write();
    };
    socket.on('data', (chunk: Buffer) => {
      if (isLast) return;
      try {
        reader.push(chunk);
        for (let answer = reader.next(); answer && !isLast; answer = reader.next()) {
          if (answer.status === 100) continue;
          isLast = answer.headers.get('connection') === 'close';
          this.#sent.shift()?.resolve(answer);
        }
        if (isLast) closed(new Error('it is closed'));
        else this.#write();
      } catch (error) {
        closed(error as Error);
      }
    });
    socket.on('error', (error) => closed(new Error(`closed without an answer: ${error.message}`)));
    socket.on('close', () => closed(new Error('closed without an answer')));
    return socket;
  }
}
