/** Frames and messages of a WebSocket, most of them wrong, and what has to come back. */

import { connect } from 'node:net';
import type { Socket } from 'node:net';
import type { Random } from '../../src/testing/fake-clock.ts';
import { ADMIN, requestOf } from './fuzz-http.ts';
import { valueOf } from './fuzz-values.ts';

interface Frame {
  readonly fin?: boolean;
  readonly reserved?: number;
  readonly opcode?: number;
  readonly masked?: boolean;
  readonly payload?: string | Uint8Array;
  /** In place of the true one. */
  readonly length?: bigint;
  /** Width of the length, in place of the shortest. */
  readonly width?: 7 | 16 | 64;
}

function frameOf({ fin = true, reserved = 0, opcode = 1, masked = true, payload = '', length, width }: Frame): Buffer {
  const data = Buffer.from(payload);
  const told = length ?? BigInt(data.length);
  const form = width ?? (told < 126n ? 7 : told < 65_536n ? 16 : 64);
  const head = Buffer.alloc(form === 7 ? 2 : form === 16 ? 4 : 10);
  head[0] = (fin ? 0x80 : 0) | (reserved << 4) | opcode;
  head[1] = (masked ? 0x80 : 0) | (form === 7 ? Number(told) : form === 16 ? 126 : 127);
  if (form === 16) head.writeUInt16BE(Number(told), 2);
  if (form === 64) head.writeBigUInt64BE(told, 2);
  if (!masked) return Buffer.concat([head, data]);
  const mask = Buffer.from([0x37, 0xfa, 0x21, 0x3d]);
  return Buffer.concat([head, mask, data.map((byte, index) => byte ^ (mask[index % 4] ?? 0))]);
}

export interface FramesInput {
  readonly what: string;
  readonly bytes: Buffer;
  /** `error`: an error message has to come; `close`: the connection has to be closed; `any`: either, or an answer. */
  readonly wanted: 'error' | 'close' | 'any';
}

const close = (code: number, reason: Uint8Array | string = ''): Buffer =>
  Buffer.concat([Buffer.from([code >> 8, code & 0xff]), Buffer.from(reason)]);
const NO_UTF8 = Buffer.from('7b22ff22', 'hex');

const FRAMES: Readonly<Record<string, (random: Random) => Omit<FramesInput, 'what'>>> = {
  unmasked: () => ({ bytes: frameOf({ masked: false, payload: '{"type":"ping"}' }), wanted: 'close' }),
  reserved: (random) => ({ bytes: frameOf({ reserved: random.int(1, 7), payload: '{}' }), wanted: 'close' }),
  opcode: (random) => ({ bytes: frameOf({ opcode: random.pick([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), payload: '{}' }), wanted: 'close' }),
  'lone continuation': () => ({ bytes: frameOf({ opcode: 0, payload: 'x' }), wanted: 'close' }),
  'start in the middle': () => ({
    bytes: Buffer.concat([frameOf({ fin: false, payload: '{' }), frameOf({ payload: '}' })]),
    wanted: 'close',
  }),
  'long control': (random) => ({ bytes: frameOf({ opcode: random.pick([8, 9, 10]), payload: 'x'.repeat(126) }), wanted: 'close' }),
  'split control': (random) => ({ bytes: frameOf({ opcode: random.pick([8, 9, 10]), fin: false, payload: 'x' }), wanted: 'close' }),
  'not UTF-8': () => ({ bytes: frameOf({ payload: NO_UTF8 }), wanted: 'close' }),
  'large claim': (random) => ({
    bytes: frameOf({ length: random.pick([1_048_577n, 2n ** 31n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) }),
    wanted: 'close',
  }),
  'close code': (random) => ({
    bytes: frameOf({ opcode: 8, payload: close(random.pick([0, 999, 1004, 1005, 1006, 1016, 2999, 5000, 65_535])) }),
    wanted: 'close',
  }),
  'close of a byte': () => ({ bytes: frameOf({ opcode: 8, payload: 'x' }), wanted: 'close' }),
  'close reason': () => ({ bytes: frameOf({ opcode: 8, payload: close(1000, NO_UTF8) }), wanted: 'close' }),
  closed: (random) => ({
    bytes: Buffer.concat([frameOf({ opcode: 8, payload: close(random.pick([1000, 1001, 3000, 4999])) }), frameOf({ payload: '{' })]),
    wanted: 'close',
  }),
  'no frame': (random) => ({ bytes: Buffer.concat([Buffer.from([0xff, 0x7f]), Buffer.from(random.bytes(60))]), wanted: 'close' }),
  'random bytes': (random) => ({ bytes: Buffer.from(random.bytes(random.int(1, 80))), wanted: 'any' }),
  'length form': (random) => ({ bytes: frameOf({ payload: '{"type":1}', width: random.pick([16, 64]) }), wanted: 'error' }),
  fragments: () => ({
    bytes: Buffer.concat([
      frameOf({ fin: false, payload: '{"ty' }),
      frameOf({ opcode: 9, payload: 'p' }),
      frameOf({ opcode: 0, payload: 'pe":0}' }),
    ]),
    wanted: 'error',
  }),
  'empty fragments': (random) => ({
    bytes: Buffer.concat([
      frameOf({ fin: false, payload: '' }),
      ...Array.from({ length: random.int(1, 40) }, () => frameOf({ opcode: 0, fin: false })),
      frameOf({ opcode: 0 }),
    ]),
    wanted: 'error',
  }),
  binary: (random) => ({ bytes: frameOf({ opcode: 2, payload: random.bytes(random.int(0, 500)) }), wanted: 'error' }),
  pings: (random) => ({
    bytes: Buffer.concat(
      Array.from({ length: random.int(1, 30) }, () => frameOf({ opcode: 9, payload: random.bytes(random.int(0, 125)) })),
    ),
    wanted: 'any',
  }),
  pong: () => ({ bytes: frameOf({ opcode: 10, payload: 'unasked' }), wanted: 'any' }),
  'flipped byte': (random) => {
    const bytes = frameOf({ payload: '{"type":"ping"}' });
    const at = random.int(0, bytes.length - 1);
    bytes[at] = (bytes[at] ?? 0) ^ (1 << random.int(0, 7));
    return { bytes, wanted: 'any' };
  },
};

const SUBSCRIBE = { type: 'subscribe', id: 'a', topic: 'logs', function: 'fuzz-call', since: '1-1' };
const MESSAGES: readonly Readonly<Record<string, unknown>>[] = [
  SUBSCRIBE,
  { type: 'unsubscribe', id: 'a' },
  { type: 'invoke', id: 'b', function: 'fuzz-call', qualifier: '$LATEST', payload: 1 },
  { type: 'invoke', id: 'b', function: 'fuzz-call', payload_base64: 'AAAA' },
  { type: 'resume', id: 'c', stream: 'x', after: 0 },
  { type: 'cancel', id: 'b' },
  { type: 'ping' },
];
const MALFORMED = [
  '',
  '{',
  'null',
  '[]',
  '1',
  '"a"',
  '{}',
  '{"type":null}',
  '{"type":"__proto__"}',
  '{"type":"constructor"}',
  '{"type":"toString","id":"a"}',
  '{"type":["ping"]}',
  '{"type":"ping","type":"pang"}',
  `{"type":"ping","x":1}`,
  '{"type":"PING"}',
  `${'['.repeat(50_000)}`,
  '{"type":"subscribe"}',
  '\ufeff{}',
  '{"type":"ping"}{}',
];

function messageInput(random: Random): Omit<FramesInput, 'what'> {
  if (random.chance(0.4)) return { bytes: frameOf({ payload: random.pick(MALFORMED) }), wanted: 'error' };
  const message = random.pick(MESSAGES);
  const parts = new Map(Object.entries(message).map(([name, value]) => [name, JSON.stringify(value)]));
  if (parts.has('id')) parts.set('id', `"i${random.int(0, 5)}"`);
  const name = random.pick([...parts.keys(), 'unknown', '__proto__']);
  if (random.chance(0.2)) parts.delete(name);
  else parts.set(name, valueOf(random));
  const text = `{${[...parts].map(([key, value]) => `"${key}":${value}`).join(',')}}`;
  return { bytes: frameOf({ payload: text }), wanted: 'any' };
}

const NAMES = Object.keys(FRAMES);

export function framesInput(random: Random): FramesInput {
  if (random.chance(0.7)) return { what: 'message', ...messageInput(random) };
  const what = random.pick(NAMES);
  const make = FRAMES[what];
  if (!make) throw new Error(`there are no frames ${what}`);
  return { what: `frame: ${what}`, ...make(random) };
}

const PATIENCE_MS = 20_000;
/** What is not answered by then was taken for a part of a longer frame. */
const SWALLOWED_MS = 150;

export interface FramesOutcome {
  readonly outcome: string;
  /** Undefined: it is as it must be. */
  readonly fault: string | undefined;
}

/** A WebSocket that is opened again when what it sent had it closed. */
export class RawWebSocket {
  readonly #port: number;
  #socket: Socket | undefined;
  #bytes = Buffer.alloc(0);
  #isOpen = false;
  #closeCode: number | undefined;
  #messages: string[] = [];
  #markers = 0;
  #changed: (() => void) | undefined;

  constructor(port: number) {
    this.#port = port;
  }

  async run({ bytes, wanted }: FramesInput): Promise<FramesOutcome> {
    if (!this.#isOpen) await this.#open();
    this.#messages = [];
    // Its answer tells that everything before it was read.
    const marker = `marker-${(this.#markers += 1)}`;
    this.#socket?.write(wanted === 'close' ? bytes : Buffer.concat([bytes, frameOf({ payload: `{"type":"cancel","id":"${marker}"}` })]));
    const isOver = (): boolean => !this.#isOpen || this.#messages.some((text) => text.includes(marker));
    const reaches = await this.#until(isOver, wanted === 'any' ? SWALLOWED_MS : PATIENCE_MS);
    if (!reaches && wanted === 'any') {
      this.end();
      return { outcome: 'incomplete', fault: undefined };
    }
    return this.#judge(wanted);
  }

  end(): void {
    this.#isOpen = false;
    this.#socket?.destroy();
  }

  #judge(wanted: FramesInput['wanted']): FramesOutcome {
    const errors = this.#messages.filter((text) => text.startsWith('{"type":"error"') && !text.includes('"id":"marker-'));
    const broken = errors.find((text) => !/"error":\{"code":"[A-Z_]+"/.test(text) || text.includes('"code":"INTERNAL"'));
    if (broken !== undefined) return { outcome: 'error', fault: `an error without a code of the caller's: ${broken.slice(0, 300)}` };
    const code = this.#closeCode;
    if (!this.#isOpen) {
      const isFine = code === undefined || [1000, 1001, 1002, 1003, 1005, 1007, 1009, 3000, 4999].includes(code);
      const outcome = `closed ${code ?? 'without a code'}`;
      if (wanted === 'error') return { outcome, fault: 'it was closed, but an error had to come' };
      return { outcome, fault: isFine ? undefined : `it was closed with ${code}` };
    }
    if (wanted === 'close') return { outcome: 'open', fault: 'the connection is still open' };
    if (wanted === 'error' && errors.length === 0)
      return { outcome: 'no error', fault: `no error came, but ${this.#messages.join().slice(0, 200)}` };
    return { outcome: errors.length > 0 ? 'error' : 'answered', fault: undefined };
  }

  async #open(): Promise<void> {
    this.#bytes = Buffer.alloc(0);
    this.#closeCode = undefined;
    this.#messages = [];
    const socket = connect({ port: this.#port, host: '127.0.0.1' });
    this.#socket = socket;
    this.#isOpen = true;
    let isUpgraded = false;
    socket.on('error', () => {});
    socket.on('close', () => {
      if (this.#socket !== socket) return;
      this.#isOpen = false;
      this.#changed?.();
    });
    socket.on('data', (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      if (!isUpgraded) {
        const end = this.#bytes.indexOf('\r\n\r\n');
        if (end < 0) return;
        isUpgraded = true;
        this.#bytes = this.#bytes.subarray(end + 4);
      }
      this.#read();
      this.#changed?.();
    });
    socket.write(
      requestOf({
        target: '/api/v1/ws',
        headers: [
          ['Host', '127.0.0.1'],
          ADMIN,
          ['Upgrade', 'websocket'],
          ['Connection', 'Upgrade'],
          ['Sec-WebSocket-Key', 'dGhlIHNhbXBsZSBub25jZQ=='],
          ['Sec-WebSocket-Version', '13'],
        ],
      }),
    );
    if (!(await this.#until(() => this.#messages.length > 0 || !this.#isOpen, PATIENCE_MS)) || !this.#isOpen)
      throw new Error('a sound handshake was refused');
  }

  /** Frames of a server: never masked, never split here. */
  #read(): void {
    for (;;) {
      const bytes = this.#bytes;
      if (bytes.length < 2) return;
      const short = (bytes[1] ?? 0) & 0x7f;
      const from = short === 126 ? 4 : short === 127 ? 10 : 2;
      if (bytes.length < from) return;
      const length = short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short;
      if (bytes.length < from + length) return;
      const opcode = (bytes[0] ?? 0) & 15;
      const payload = bytes.subarray(from, from + length);
      if (opcode === 1) this.#messages.push(payload.toString('utf8'));
      if (opcode === 8) {
        this.#closeCode = payload.length >= 2 ? payload.readUInt16BE(0) : undefined;
        this.#isOpen = false;
        this.#socket?.end();
      }
      this.#bytes = bytes.subarray(from + length);
    }
  }

  /** False: it did not come to that in time. */
  #until(holds: () => boolean, timeoutMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => finish(false), timeoutMs);
      const finish = (reached: boolean): void => {
        clearTimeout(timer);
        this.#changed = undefined;
        resolve(reached);
      };
      this.#changed = () => {
        if (holds()) finish(true);
      };
      if (holds()) finish(true);
    });
  }
}
