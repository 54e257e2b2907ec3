/** The side of the instance, when it speaks frames: out of order, damaged, too long, and cut off. */

import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { FRAME, FRAMES_LANES, FRAMES_TARGET, FrameReader } from '../../src/runtime/frames.ts';
import type { Random } from '../../src/testing/fake-clock.ts';
import { cut, flip } from './fuzz-http.ts';
import type { Input } from './fuzz-http.ts';

const ASKING = `CONNECT ${FRAMES_TARGET} HTTP/1.1\r\nHost: x\r\n${FRAMES_LANES}: 1\r\n\r\n`;
const QUIET_MS = 25;
const PATIENCE_MS = 20_000;
const FAULTS = [
  '',
  '{',
  'null',
  '[]',
  '{"errorType":1,"errorMessage":{}}',
  '{"errorType":"a\\r\\nX-Injected: 1"}',
  '\u0000',
  'x'.repeat(30_000),
];
const CONTENT_TYPES = ['', 'a/b', 'a\r\nX: 1', '\u0000', '\u00ff', 'x'.repeat(17_000), 'application/json\n'];

function frame(type: number, payload: string | Uint8Array = '', lane = 0): Buffer {
  const bytes = Buffer.from(payload as string);
  const head = Buffer.alloc(9);
  head.writeUInt32LE(bytes.length, 0);
  head.writeUInt32LE(lane, 4);
  head[8] = type;
  return Buffer.concat([head, bytes]);
}

const GOOD_STREAM = [frame(FRAME.begin, 'a/b'), frame(FRAME.chunk, 'one'), frame(FRAME.chunk, 'two'), frame(FRAME.end)];

const MAKES: Readonly<Record<string, (random: Random) => Buffer>> = {
  'wrong lane': (random) => frame(random.int(1, 12), '{}', random.pick([1, 2, 255, 65_536, 0xff_ff_ff_ff])),
  'wrong type': (random) => frame(random.pick([0, 1, 2, 3, 10, 77, 255]), '{}'),
  'out of order': (random) =>
    Buffer.concat(Array.from({ length: random.int(1, 12) }, () => frame(random.int(4, 9), random.pick(['', '{}', 'a'])))),
  'two answers': () => Buffer.concat([frame(FRAME.answer, '1'), frame(FRAME.answer, '2')]),
  'wrong length': (random) => {
    const bytes = frame(FRAME.answer, '{}');
    bytes.writeUInt32LE(random.pick([0, 1, 3, 1_000, 0x7f_ff_ff_ff, 0xff_ff_ff_ff]));
    return bytes;
  },
  fault: (random) => frame(random.pick([FRAME.failed, FRAME.end]), random.pick(FAULTS)),
  'long fault': (random) => frame(FRAME.failed, random.chance(0.1) ? 'x'.repeat(1_100_000) : '{}'),
  'long answer': (random) => frame(FRAME.answer, random.chance(0.02) ? 'x'.repeat(7_000_000) : 'x'.repeat(10_000)),
  'content type': (random) => Buffer.concat([frame(FRAME.begin, random.pick(CONTENT_TYPES)), frame(FRAME.chunk, 'a'), frame(FRAME.end)]),
  'broken stream': (random) => Buffer.concat([...GOOD_STREAM.slice(0, random.int(1, 3)), frame(FRAME.end, random.pick(FAULTS))]),
  'shuffled stream': (random) => Buffer.concat(Array.from({ length: 5 }, () => random.pick(GOOD_STREAM))),
  'cut stream': (random) => cut(random, Buffer.concat(GOOD_STREAM)),
  'flipped stream': (random) => flip(random, Buffer.concat(GOOD_STREAM)),
  stop: (random) => Buffer.concat([frame(FRAME.stop, random.pick(['', 'x'])), frame(FRAME.answer, '1')]),
  'random bytes': (random) => Buffer.from(random.bytes(random.int(1, 200))),
  HTTP: () => Buffer.from('GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n'),
};
const NAMES = Object.keys(MAKES);

/** One connection that speaks frames; it takes one event. */
export class HostileFrames {
  /** Resolves with whether an event came, before the connection was closed. */
  readonly event: Promise<boolean>;
  readonly #socket: Socket;
  readonly #closed: Promise<void>;
  #isClosed = false;

  constructor(path: string) {
    const socket = connect({ path });
    this.#socket = socket;
    this.#closed = new Promise((resolve) =>
      socket.once('close', () => {
        this.#isClosed = true;
        resolve();
      }),
    );
    socket.on('error', () => {});
    this.event = new Promise((resolve) => {
      const reader = new FrameReader({ opened() {}, piece() {}, closed: () => resolve(true) });
      let isOpen = false;
      socket.on('data', (data: Buffer) => {
        if (isOpen) {
          reader.push(data);
          return;
        }
        const end = data.indexOf('\r\n\r\n');
        isOpen = data.toString('latin1', 0, 12) === 'HTTP/1.1 200';
        if (isOpen) reader.push(data.subarray(end + 4));
        else socket.destroy();
      });
      void this.#closed.then(() => resolve(false));
    });
    socket.write(ASKING);
  }

  /** Sends what nobody should. Resolves when the other side has closed the connection, or has nothing against it. */
  async play(random: Random): Promise<{ readonly input: Input; readonly isStuck: boolean }> {
    const what = random.pick(NAMES);
    const bytes = (MAKES[what] as (random: Random) => Buffer)(random);
    this.#socket.write(bytes);
    const quiet = setTimeout(() => this.#socket.end(), QUIET_MS);
    let isStuck = false;
    const patience = setTimeout(() => {
      isStuck = true;
      this.#socket.destroy();
    }, PATIENCE_MS);
    await this.#closed;
    clearTimeout(quiet);
    clearTimeout(patience);
    return { input: { what: `frames: ${what}`, bytes, mustRefuse: false }, isStuck };
  }

  end(): void {
    if (!this.#isClosed) this.#socket.destroy();
  }
}
