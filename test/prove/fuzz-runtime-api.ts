/** The side of the instance: bytes on the socket of the Runtime API, out of order, damaged, too long, and cut off. */

import { setTimeout as pause } from 'node:timers/promises';
import type { Random } from '../../src/testing/fake-clock.ts';
import { HostileFrames } from './fuzz-frames.ts';
import { cut, flip, requestOf } from './fuzz-http.ts';
import type { Header, Input } from './fuzz-http.ts';
import { exchange } from './fuzz-wire.ts';
import type { Exchange } from './fuzz-wire.ts';

const BASE = '/2018-06-01/runtime';
const HOST: Header = ['Host', 'x'];
const IDS = [
  '',
  'x',
  '..',
  '%00',
  'a/b',
  '__proto__',
  '00000000-0000-4000-8000-000000000000',
  'a'.repeat(2_000),
  '%ff',
  '\u00ff',
  ' ',
  '*',
];
const STREAMED: Header = ['Lambda-Runtime-Function-Response-Mode', 'streaming'];
const CHUNKED: Header = ['Transfer-Encoding', 'chunked'];
const TRAILERS = [
  'Lambda-Runtime-Function-Error-Type: x\r\n',
  'Lambda-Runtime-Function-Error-Body: !!!\r\n',
  'Lambda-Runtime-Function-Error-Body: e30=\r\nLambda-Runtime-Function-Error-Type: \r\n',
  'Content-Length: 9\r\n',
  'X 1\r\n',
  ': \r\n',
  '\u0000: \r\n',
  'Lambda-Runtime-Function-Error-Body: AAAA\r\n'.repeat(50),
];
const FAULTS = [
  '',
  '{',
  'null',
  '[]',
  '"a"',
  '{"errorType":1,"errorMessage":{},"stackTrace":"x"}',
  '{"errorType":"","errorMessage":null,"stackTrace":[1,null,{}]}',
  '{"errorType":"\\ud800","errorMessage":"\\u0000\\r\\n"}',
  `{"errorMessage":"${'x'.repeat(30_000)}"}`,
  '{"__proto__":{"errorType":"x"}}',
  `${'['.repeat(10_000)}`,
  '{"errorType":"a\\r\\nX-Injected: 1"}',
];
const STRANGE: readonly Header[] = [
  ['Content-Type', '\u00ff'],
  ['Content-Type', 'a'.repeat(9_000)],
  ['Content-Type', 'a; b\u0001'],
  ['Lambda-Runtime-Function-Response-Mode', 'x'],
  ['Lambda-Runtime-Function-Response-Mode', ''],
  ['Lambda-Runtime-Function-Error-Type', '\u00ff'],
  ['Expect', '100-continue'],
  ['Expect', 'x'],
  ['Connection', 'upgrade'],
  ['Upgrade', 'h2c'],
  ['Content-Length', '-1'],
  ['X'.repeat(300_000), 'x'],
  ['Trailer', 'Content-Length'],
];

function post(path: string, body: string, headers: readonly Header[] = []): Buffer {
  return requestOf({
    method: 'POST',
    target: `${BASE}${path}`,
    headers: [HOST, ['Content-Length', String(Buffer.byteLength(body))], ...headers],
    body,
  });
}

function streamed(path: string, body: string): Buffer {
  return requestOf({ method: 'POST', target: `${BASE}${path}`, headers: [HOST, STREAMED, CHUNKED], body });
}

type Make = (random: Random, id: string) => Buffer;

const MAKES: Readonly<Record<string, Make>> = {
  'wrong id': (random) => post(`/invocation/${random.pick(IDS)}/${random.pick(['response', 'error'])}`, '{}'),
  'init error': (random) => post('/init/error', random.pick(FAULTS)),
  'poll out of order': () => requestOf({ target: `${BASE}/invocation/next`, headers: [HOST] }),
  'poll with a body': () => requestOf({ target: `${BASE}/invocation/next`, headers: [HOST, ['Content-Length', '5']], body: 'hello' }),
  'wrong method': (random, id) =>
    requestOf({
      method: random.pick(['PUT', 'DELETE', 'HEAD', 'OPTIONS', 'CONNECT', 'GET']),
      target: `${BASE}/${random.pick([`invocation/${id}/response`, 'invocation/next', 'init/error', ''])}`,
      headers: [HOST],
    }),
  'wrong path': (random, id) =>
    requestOf({
      method: random.pick(['GET', 'POST']),
      target: random.pick([
        `/2015-03-31${BASE}`,
        `${BASE}/invocation/${id}`,
        `${BASE}/invocation/${id}/response/`,
        `${BASE}/invocation//response`,
        '/',
        '*',
        `${BASE}/../runtime/invocation/next`,
        `${BASE}/restore/next`,
        'http://x/',
      ]),
      headers: [HOST, ['Content-Length', '0']],
    }),
  'response mode': (random, id) => post(`/invocation/${id}/response`, '{}', [random.pick(STRANGE)]),
  error: (random, id) => post(`/invocation/${id}/error`, random.pick(FAULTS), random.chance(0.3) ? [random.pick(STRANGE)] : []),
  trailers: (random, id) => streamed(`/invocation/${id}/response`, `2\r\n{}\r\n0\r\n${random.pick(TRAILERS)}\r\n`),
  'cut stream': (random, id) => cut(random, streamed(`/invocation/${id}/response`, '5\r\nhello\r\n5\r\nthere\r\n0\r\n\r\n')),
  'broken stream': (random, id) =>
    streamed(
      `/invocation/${id}/response`,
      random.pick(['x\r\n', '5\r\nhelloX', '-1\r\n', 'fffffffffffffffff\r\n', '5\r\nhello\r\n\u0000', '0\r\n\r\nGET']),
    ),
  'cut response': (_, id) =>
    requestOf({ method: 'POST', target: `${BASE}/invocation/${id}/response`, headers: [HOST, ['Content-Length', '100']], body: 'short' }),
  'long response': (random, id) => post(`/invocation/${id}/response`, random.chance(0.02) ? 'x'.repeat(7_000_000) : 'x'.repeat(10_000)),
  'long error': (random, id) => post(`/invocation/${id}/error`, random.chance(0.1) ? 'x'.repeat(1_100_000) : '{}'),
  'two lengths': (_, id) =>
    requestOf({
      method: 'POST',
      target: `${BASE}/invocation/${id}/response`,
      headers: [HOST, ['Content-Length', '2'], CHUNKED],
      body: '{}',
    }),
  'twice at once': (_, id) =>
    Buffer.concat([
      post(`/invocation/${id}/response`, '1'),
      post(`/invocation/${id}/response`, '2'),
      post(`/invocation/${id}/error`, '{}'),
    ]),
  flipped: (random, id) => flip(random, post(`/invocation/${id}/response`, '{}')),
  'random bytes': (random) => Buffer.from(random.bytes(random.int(1, 200))),
  'injected id': (random) => post(`/invocation/a${random.pick(['\r\nX: 1', '\u0000', ' b', '\t', '%0d%0a'])}/response`, '{}'),
};
const NAMES = Object.keys(MAKES);

export function runtimeInput(random: Random, id: string): Input {
  const what = random.pick(NAMES);
  return { what: `runtime: ${what}`, bytes: (MAKES[what] as Make)(random, id), mustRefuse: false };
}

export interface RuntimeOutcome extends Exchange {
  readonly input: Input;
  readonly isInstanceOver: boolean;
}

interface Waiting {
  readonly random: Random;
  readonly done: (outcome: RuntimeOutcome) => void;
}

/** How many inputs one event gets. */
const INPUTS_PER_EVENT = 16;
const REPEAT_MS = 5;
/** One in so many events is taken over frames; what is played there usually ends the instance. */
const FRAMES_EVERY = 4;

/** Plays all instances of the backend `raw`: takes events as a runtime client does, and in between does what none should. */
export class HostileInstances {
  readonly #waiting: Waiting[] = [];
  readonly #over = new Set<string>();
  readonly #running = new Map<string, Promise<void>>();
  readonly #callAgain: () => void;
  #isClosed = false;
  #events = 0;

  /** @param callAgain asks for a call of the function, as nothing else brings events */
  constructor(callAgain: () => void) {
    this.#callAgain = callAgain;
  }

  run(random: Random): Promise<RuntimeOutcome> {
    return new Promise((done) => {
      this.#waiting.push({ random, done });
      this.#callAgain();
    });
  }

  get isWanted(): boolean {
    return this.#waiting.length > 0;
  }

  launched(id: string, socketPath: string): void {
    this.#running.set(id, this.#live(id, socketPath));
  }

  ended(id: string): void {
    this.#over.add(id);
    this.#running.delete(id);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await Promise.all(this.#running.values());
  }

  async #live(instanceId: string, path: string): Promise<void> {
    const isOver = (): boolean => this.#isClosed || this.#over.has(instanceId);
    while (!isOver()) {
      this.#events += 1;
      if (this.#events % FRAMES_EVERY === 0) {
        await this.#overFrames(path, isOver);
        continue;
      }
      const next = await exchange({ path }, requestOf({ target: `${BASE}/invocation/next`, headers: [HOST, ['Connection', 'close']] }), 1);
      const id = next.answers[0]?.headers.get('lambda-runtime-aws-request-id');
      if (id === undefined) {
        // Another poll of this instance waits, or it is about to end.
        await pause(REPEAT_MS);
        continue;
      }
      const taken = this.#waiting.splice(0, INPUTS_PER_EVENT);
      await Promise.all(taken.map((each) => this.#play(each, { path, id, isOver })));
      if (!isOver()) await exchange({ path }, post(`/invocation/${id}/response`, '{"answer":42}', [['Connection', 'close']]), 1);
    }
  }

  async #overFrames(path: string, isOver: () => boolean): Promise<void> {
    const frames = new HostileFrames(path);
    const stop = setInterval(() => isOver() && frames.end(), REPEAT_MS);
    const [waiting] = (await frames.event) ? this.#waiting.splice(0, 1) : [];
    clearInterval(stop);
    if (!waiting) {
      frames.end();
      await pause(REPEAT_MS);
      return;
    }
    const { input, isStuck } = await frames.play(waiting.random);
    waiting.done({ answers: [], rest: 0, input, isStuck, isInstanceOver: isOver() });
  }

  async #play({ random, done }: Waiting, { path, id, isOver }: { path: string; id: string; isOver: () => boolean }): Promise<void> {
    const input = runtimeInput(random, id);
    const outcome = await exchange({ path }, input.bytes, 0);
    done({ ...outcome, input, isInstanceOver: isOver() });
  }
}
