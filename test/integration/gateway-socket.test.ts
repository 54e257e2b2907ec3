import { once } from 'node:events';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { systemClock } from '../../src/clock.ts';
import type { CancelTimer, Clock } from '../../src/clock.ts';
import { GatewayClient, GatewayError } from '../../src/gateway/client.ts';
import type { GatewayChannel } from '../../src/gateway/client.ts';
import { KeyFolder } from '../../src/gateway/keys.ts';
import type { ServerMessage } from '../../src/gateway/socket-messages.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';
import type { FakeHandler } from '../support/fake-backend.ts';
import { HELLO, newFolder, onEnd, send, startGateway, until } from '../support/gateway.ts';
import type { TestGateway } from '../support/gateway.ts';

// The default of 3 s would end calls that are held while the process rests.
const DEPLOY = 'PUT /api/v1/functions/hello?runtime=nodejs24.x&handler=index.handler&timeout_ms=600000';

class Peer {
  readonly socket: WebSocket;
  readonly messages: ServerMessage[] = [];
  readonly closed: Promise<{ code: number; reason: string }>;

  constructor(url: string, options: { readonly headers?: Record<string, string>; readonly protocols?: string[] } = {}) {
    this.socket = new WebSocket(`${url.replace('http', 'ws')}/api/v1/ws`, options.protocols ?? [], { headers: options.headers ?? {} });
    this.socket.on('message', (data: Buffer) => this.messages.push(JSON.parse(data.toString()) as ServerMessage));
    this.closed = once(this.socket, 'close').then(([code, reason]) => ({ code: Number(code), reason: String(reason) }));
    this.closed.catch(() => {});
    onEnd(() => this.socket.terminate());
  }

  static async open(url: string, options: ConstructorParameters<typeof Peer>[1] = {}): Promise<Peer> {
    const peer = new Peer(url, options);
    await once(peer.socket, 'open');
    return peer;
  }

  say(message: unknown): void {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  /** The first message that fits, now or later. */
  async find<T extends ServerMessage['type']>(
    type: T,
    fits: (message: ServerMessage & { type: T }) => boolean = () => true,
  ): Promise<ServerMessage & { type: T }> {
    const found = (): (ServerMessage & { type: T }) | undefined =>
      this.messages.find((one): one is ServerMessage & { type: T } => one.type === type && fits(one as ServerMessage & { type: T }));
    await until(() => found() !== undefined);
    return found() as ServerMessage & { type: T };
  }
}

/** What came for a subscription to what happens. */
function eventsOf(peer: Peer, subscription: string): Readonly<Record<string, unknown>>[] {
  return peer.messages.flatMap((message) => (message.type === 'event' && message.id === subscription ? [{ ...message.event }] : []));
}

interface SocketSchema {
  readonly properties: { readonly event: { readonly oneOf: readonly { readonly properties: Readonly<Record<string, unknown>> }[] } };
}

async function socketSchema(url: string): Promise<SocketSchema> {
  const { paths } = (await send(url, 'GET /openapi.json')).json as {
    paths: { '/api/v1/ws': { get: { responses: { 101: { content: { 'application/json': { schema: SocketSchema } } } } } } };
  };
  return paths['/api/v1/ws'].get.responses[101].content['application/json'].schema;
}

/** What a WebSocket that is refused is answered. */
async function refusal(url: string, options: ConstructorParameters<typeof Peer>[1] = {}): Promise<number> {
  const peer = new Peer(url, options);
  peer.socket.on('error', () => {});
  const [, response] = (await once(peer.socket, 'unexpected-response')) as [unknown, { statusCode: number }];
  return response.statusCode;
}

async function startHello(handler: FakeHandler, options: Parameters<typeof startGateway>[0] = {}): Promise<TestGateway> {
  const running = await startGateway({ ...options, backend: { handler } });
  await send(running.url, DEPLOY, { body: HELLO });
  return running;
}

/** A channel of the client of the package, its sockets and what came over them. */
function recordedChannel(
  url: string,
  sleep = async (): Promise<void> => {},
): {
  readonly channel: GatewayChannel;
  readonly sockets: WebSocket[];
  readonly messages: ServerMessage[];
} {
  const sockets: WebSocket[] = [];
  const messages: ServerMessage[] = [];
  class Recorded extends WebSocket {
    constructor(address: string | URL, protocols?: string | string[]) {
      super(address, protocols);
      sockets.push(this);
      this.on('message', (data: Buffer) => messages.push(JSON.parse(data.toString()) as ServerMessage));
    }
  }
  const client = new GatewayClient({ url, WebSocket: Recorded as unknown as typeof globalThis.WebSocket, sleep });
  const channel = client.connect();
  onEnd(() => channel.close());
  return { channel, sockets, messages };
}

const text = (chunk: ServerMessage & { type: 'chunk' }): string => Buffer.from(chunk.data, 'base64').toString();

describe('subscriptions', () => {
  test('logs: live, and from where somebody was', async () => {
    const { url } = await startHello(async ({ body, program }) => (program.print(`said ${body.toString()}\n`), body));
    const peer = await Peer.open(url);
    expect(await peer.find('hello')).toMatchObject({ caller: 'anonymous' });
    peer.say({ type: 'subscribe', id: 'l', topic: 'logs', function: 'hello' });
    await peer.find('subscribed');
    for (const body of ['1', '2']) await send(url, 'POST /api/v1/functions/hello/invoke', { body });
    await until(() => peer.messages.filter(({ type }) => type === 'event').length === 2);
    const [first] = peer.messages.filter((message): message is ServerMessage & { type: 'event' } => message.type === 'event');
    const again = await Peer.open(url);
    again.say({ type: 'subscribe', id: 'l', topic: 'logs', function: 'hello', since: first?.event_id });
    expect((await again.find('event')).event).toMatchObject({ text: 'said 2', function: 'hello', stream: 'stdout' });
    peer.say({ type: 'unsubscribe', id: 'l' });
    await peer.find('unsubscribed');
    await send(url, 'POST /api/v1/functions/hello/invoke', { body: '3' });
    await again.find('event', ({ event }) => 'text' in event && event.text === 'said 3');
    expect(peer.messages.filter(({ type }) => type === 'event')).toHaveLength(2);
  });

  test('the client of the package goes on after a lost connection: nothing twice, nothing lost before the first line', async () => {
    const { url } = await startHello(async ({ body, program }) => (program.print(`said ${body.toString()}\n`), body));
    const say = (body: string): Promise<unknown> => send(url, 'POST /api/v1/functions/hello/invoke', { body });
    const pause = Promise.withResolvers<void>();
    const { channel, sockets, messages } = recordedChannel(url, () => pause.promise);
    const lines = channel.logs('hello');
    const first = lines.next();
    await until(() => messages.some(({ type }) => type === 'subscribed'));
    // Nobody listens while this line is written.
    sockets[0]?.terminate();
    await say('1');
    pause.resolve();
    expect((await first).value).toMatchObject({ text: 'said 1' });
    await say('2');
    await say('3');
    await until(() => messages.filter(({ type }) => type === 'event').length === 3);
    // Two lines have come that nobody has read.
    sockets.at(-1)?.terminate();
    await until(() => messages.filter(({ type }) => type === 'subscribed').length === 3);
    await say('4');
    const seen: unknown[] = [];
    for await (const { text: line } of lines) if (seen.push(line) === 3) break;
    expect(seen).toEqual(['said 2', 'said 3', 'said 4']);
  });

  test('what happens to instances and calls', async () => {
    const { url } = await startHello(async ({ body }) => body);
    const peer = await Peer.open(url);
    peer.say({ type: 'subscribe', id: 'i', topic: 'instances' });
    peer.say({ type: 'subscribe', id: 'c', topic: 'invocations', function: 'hello' });
    await peer.find('subscribed', ({ id }) => id === 'c');
    await send(url, 'POST /api/v1/functions/hello/invoke', { body: '1' });
    await peer.find('event', ({ id, event }) => id === 'i' && 'state' in event && event.state === 'ready');
    await peer.find('event', ({ id, event }) => id === 'c' && 'outcome' in event && event.outcome === 'OK');
    const [queued, started, finished, ...more] = eventsOf(peer, 'c');
    const common = { kind: 'invocation', function: 'hello', version: '$LATEST', request_id: queued?.request_id };
    expect(queued).toEqual({ ...common, state: 'queued', at: queued?.at });
    expect(started).toEqual({ ...common, state: 'started', at: started?.at, instance_id: finished?.instance_id });
    expect(finished).toMatchObject({ ...common, state: 'finished', report: { cold_start: true, request_id: queued?.request_id } });
    expect(more).toEqual([]);
    const { properties } = await socketSchema(url);
    const [, , described] = properties.event.oneOf;
    for (const event of [queued, started, finished])
      for (const name of Object.keys(event ?? {})) expect(Object.keys(described?.properties ?? {})).toContain(name);
  });

  test('calls: failures with their code, of one function, from where somebody was', async () => {
    const { url } = await startHello(async () => Promise.reject(new Error('no')));
    await send(url, 'PUT /api/v1/functions/other?runtime=nodejs24.x&handler=index.handler', { body: HELLO });
    const peer = await Peer.open(url);
    peer.say({ type: 'subscribe', id: 'c', topic: 'invocations', function: 'hello' });
    await peer.find('subscribed');
    for (const name of ['other', 'hello', 'other', 'hello']) await send(url, `POST /api/v1/functions/${name}/invoke`, { body: '1' });
    const outcomes = (): unknown[] => eventsOf(peer, 'c').map(({ state, outcome }) => outcome ?? state);
    await until(() => outcomes().length === 5);
    // The second call finds an instance: it never waits.
    expect(outcomes()).toEqual(['queued', 'started', 'FUNCTION_FAILED', 'started', 'FUNCTION_FAILED']);
    expect(eventsOf(peer, 'c').map((event) => event.function)).toEqual(Array.from({ length: 5 }, () => 'hello'));
    const [, , third] = peer.messages.filter((message) => message.type === 'event');
    const again = await Peer.open(url);
    again.say({ type: 'subscribe', id: 'c', topic: 'invocations', function: 'hello', since: third?.event_id });
    await until(() => eventsOf(again, 'c').length === 2);
    expect(eventsOf(again, 'c')).toEqual(eventsOf(peer, 'c').slice(3));
  });

  test('calls that nobody waits for: accepted, each attempt, settled', async () => {
    const { url } = await startHello(async ({ body }) => body);
    const peer = await Peer.open(url);
    peer.say({ type: 'subscribe', id: 'c', topic: 'invocations' });
    await peer.find('subscribed');
    const headers = { 'x-amz-invocation-type': 'Event' };
    expect((await send(url, 'POST /2015-03-31/functions/hello/invocations', { body: '1', headers })).status).toBe(202);
    await until(() => eventsOf(peer, 'c').length === 5);
    expect(eventsOf(peer, 'c').map(({ state, outcome }) => [state, outcome])).toEqual([
      ['accepted', undefined],
      ['queued', undefined],
      ['started', undefined],
      ['finished', 'OK'],
      ['settled', 'succeeded'],
    ]);
    expect(new Set(eventsOf(peer, 'c').map((event) => event.request_id)).size).toBe(1);
  });

  test('calls have a scope of their own, for the functions of the credentials', async () => {
    const tokens = [
      { name: 'reader', token: 'r'.repeat(32), scopes: ['functions:read', 'invoke', 'functions:write'] },
      { name: 'watcher', token: 'w'.repeat(32), scopes: ['invocations'], functions: ['hel*'] },
    ] as const;
    const [reader, watcher] = tokens.map(({ token }) => ({ authorization: `Bearer ${token}` }));
    const { url } = await startGateway({ auth: { tokens } });
    for (const name of ['hello', 'other'])
      await send(url, `PUT /api/v1/functions/${name}?runtime=nodejs24.x&handler=index.handler`, { body: HELLO, headers: reader ?? {} });
    const refused = await Peer.open(url, { headers: reader ?? {} });
    refused.say({ type: 'subscribe', id: 'c', topic: 'invocations' });
    expect((await refused.find('error')).error).toMatchObject({ code: 'FORBIDDEN' });
    const peer = await Peer.open(url, { headers: watcher ?? {} });
    peer.say({ type: 'subscribe', id: 'i', topic: 'instances' });
    expect((await peer.find('error', ({ id }) => id === 'i')).error).toMatchObject({ code: 'FORBIDDEN' });
    peer.say({ type: 'subscribe', id: 'o', topic: 'invocations', function: 'other' });
    expect((await peer.find('error', ({ id }) => id === 'o')).error).toMatchObject({ code: 'FORBIDDEN' });
    peer.say({ type: 'subscribe', id: 'c', topic: 'invocations' });
    await peer.find('subscribed');
    for (const name of ['other', 'hello']) await send(url, `POST /api/v1/functions/${name}/invoke`, { body: '1', headers: reader ?? {} });
    await until(() => eventsOf(peer, 'c').length === 3);
    expect(new Set(eventsOf(peer, 'c').map((event) => event.function))).toEqual(new Set(['hello']));
  });
});

describe('streamed calls', () => {
  /** Writes numbers; the next one when it is let. */
  function counting(): { readonly handler: FakeHandler; readonly next: () => void } {
    const steps: PromiseWithResolvers<void>[] = Array.from({ length: 10 }, () => Promise.withResolvers<void>());
    let at = 0;
    return {
      next: () => steps[at++]?.resolve(),
      async handler({ id, program }) {
        await program.stream(
          id,
          (async function* () {
            for (const [index, step] of steps.entries()) {
              await step.promise;
              yield Buffer.from(String(index + 1));
            }
          })(),
        );
        return undefined;
      },
    };
  }

  test('go on after the connection was lost, from the last chunk', async () => {
    const { handler, next } = counting();
    const { url } = await startHello(handler);
    const peer = await Peer.open(url);
    peer.say({ type: 'invoke', id: 's', function: 'hello', payload: 1 });
    next();
    next();
    const { stream } = await peer.find('started');
    await peer.find('chunk', ({ seq }) => seq === 2);
    peer.socket.terminate();
    for (let count = 0; count < 8; count += 1) next();
    const again = await Peer.open(url);
    again.say({ type: 'resume', id: 'r', stream, after: 1 });
    const { report } = await again.find('end');
    const chunks = again.messages.filter((message): message is ServerMessage & { type: 'chunk' } => message.type === 'chunk');
    expect(chunks.map((chunk) => [chunk.seq, text(chunk)])).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 10].map((number) => [number, String(number)]));
    expect(report.run_ms).toBeGreaterThan(0);
  });

  test('the client of the package does so by itself', async () => {
    const { handler, next } = counting();
    const { url } = await startHello(handler);
    const { channel, sockets } = recordedChannel(url);
    const seen: string[] = [];
    next();
    for await (const chunk of channel.stream('hello', { a: 1 })) {
      seen.push(Buffer.from(chunk).toString());
      if (seen.length === 3 || seen.length === 6) sockets.at(-1)?.terminate();
      next();
    }
    expect(seen).toEqual(['1', '2', '3', '4', '5', '6', '7', '8', '9', '10']);
    expect(sockets).toHaveLength(3);
  });

  test('its reader may be slower than the connection: what came before it was lost is not asked for again', async () => {
    const { handler, next } = counting();
    const { url } = await startHello(handler, { socketLimits: { streamBytesMax: 2 } });
    const { channel, sockets, messages } = recordedChannel(url);
    const stream = channel.stream('hello', 1);
    next();
    const seen = [(await stream.next()).value];
    for (let count = 1; count < 6; count += 1) next();
    await until(() => messages.some((message) => message.type === 'chunk' && message.seq === 6));
    sockets[0]?.terminate();
    await until(() => messages.filter(({ type }) => type === 'started').length === 2);
    for (let count = 6; count < 10; count += 1) next();
    for await (const chunk of stream) seen.push(chunk);
    expect(seen.map((chunk) => Buffer.from(chunk as Uint8Array).toString())).toEqual(['1', '2', '3', '4', '5', '6', '7', '8', '9', '10']);
    // A call that has ended is not given up, too.
    const last = channel.stream('nope', 1);
    await expect(last.next()).rejects.toMatchObject({ code: 'FUNCTION_NOT_FOUND' });
    expect(messages.filter((message) => message.type === 'error' && message.error.code === 'NOT_FOUND')).toEqual([]);
  });

  test('a reader who does not come back ends the call', async () => {
    const { handler, next } = counting();
    const { url, backend } = await startHello(handler, { socketLimits: { resumeMs: 50 } });
    const peer = await Peer.open(url);
    peer.say({ type: 'invoke', id: 's', function: 'hello' });
    next();
    const { stream } = await peer.find('started');
    peer.socket.terminate();
    await until(() => backend.running.length === 0);
    const again = await Peer.open(url);
    again.say({ type: 'resume', id: 'r', stream, after: 0 });
    expect((await again.find('error')).error.code).toBe('NOT_FOUND');
  });

  test('cancel ends the call', async () => {
    const { handler, next } = counting();
    const { url, backend } = await startHello(handler);
    const peer = await Peer.open(url);
    peer.say({ type: 'invoke', id: 's', function: 'hello' });
    next();
    await peer.find('chunk');
    peer.say({ type: 'cancel', id: 's' });
    expect((await peer.find('error', ({ id }) => id === 's')).error.code).toBe('ABORTED');
    await until(() => backend.running.length === 0);
    peer.say({ type: 'ping' });
    await peer.find('pong');
    expect(peer.messages.filter(({ type }) => type === 'error')).toHaveLength(1);
  });

  test('a function that fails', async () => {
    const { url } = await startHello(async () => Promise.reject(new TypeError('no')));
    const peer = await Peer.open(url);
    peer.say({ type: 'invoke', id: 's', function: 'hello' });
    expect((await peer.find('error')).error).toMatchObject({ code: 'FUNCTION_FAILED', message: expect.stringContaining('no') as string });
    const channel = new GatewayClient({ url }).connect();
    onEnd(() => channel.close());
    await expect(channel.stream('hello', 1).next()).rejects.toMatchObject({ code: 'FUNCTION_FAILED' });
    await expect(channel.stream('nope', 1).next()).rejects.toBeInstanceOf(GatewayError);
  });

  test('more than a caller may have at a time are refused before they run; those that have ended do not count', async () => {
    const gate = Promise.withResolvers<void>();
    const seen: string[] = [];
    const handler = async ({ body }: Parameters<FakeHandler>[0]): Promise<Buffer> => {
      seen.push(body.toString());
      await gate.promise;
      return body;
    };
    const { url } = await startHello(handler, { socketLimits: { streamsMax: 2 } });
    const peer = await Peer.open(url);
    for (const id of ['a', 'b', 'c']) peer.say({ type: 'invoke', id, function: 'hello', payload: id });
    expect((await peer.find('error')).id).toBe('c');
    expect((await peer.find('error')).error.code).toBe('RATE_LIMITED');
    await until(() => seen.length === 2);
    gate.resolve();
    for (const id of ['a', 'b']) await peer.find('end', (message) => message.id === id);
    for (let call = 0; call < 10; call += 1) {
      peer.say({ type: 'invoke', id: `n${call}`, function: 'hello', payload: call });
      await peer.find('end', ({ id }) => id === `n${call}`);
    }
    expect(seen.toSorted()).toEqual(['"a"', '"b"', ...'0 1 2 3 4 5 6 7 8 9'.split(' ')].toSorted());
    // The newest can be read again, the oldest are gone.
    const streams = peer.messages.flatMap((message) => (message.type === 'started' ? [message.stream] : []));
    peer.say({ type: 'resume', id: 'new', stream: streams.at(-1), after: 0 });
    await peer.find('end', ({ id }) => id === 'new');
    peer.say({ type: 'resume', id: 'old', stream: streams[0], after: 0 });
    expect((await peer.find('error', ({ id }) => id === 'old')).error.code).toBe('NOT_FOUND');
  });

  test('another caller cannot take a stream over', async () => {
    const keys = new KeyFolder({ folder: join(await newFolder(), 'keys') });
    const [mine = '', other = ''] = ['a', 'b'].map((name) => keys.create({ name, scopes: ['admin'] }).secret);
    const { handler, next } = counting();
    const { url } = await startGateway({ backend: { handler }, auth: { keys } });
    await send(url, DEPLOY, { body: HELLO, headers: { 'x-api-key': mine } });
    const peer = await Peer.open(url, { headers: { 'x-api-key': mine } });
    peer.say({ type: 'invoke', id: 's', function: 'hello' });
    next();
    const { stream } = await peer.find('started');
    const thief = await Peer.open(url, { headers: { 'x-api-key': other } });
    thief.say({ type: 'resume', id: 'r', stream, after: 0 });
    expect((await thief.find('error')).error.code).toBe('NOT_FOUND');
  });
});

test('a slow client is paused, then closed; the function waits for it', async () => {
  let written = 0;
  const piece = Buffer.alloc(256 * 1024, 'x');
  const clock = new PatientClock(300);
  const { url } = await startHello(
    async ({ id, program }) => {
      await program.stream(
        id,
        (async function* () {
          for (; written < 400; written += 1) yield piece;
        })(),
      );
      return undefined;
    },
    { clock, socketLimits: { slowMs: 300, bufferedBytesMax: 64 * 1024, streamBytesMax: 512 * 1024 } },
  );
  const peer = await Peer.open(url);
  peer.say({ type: 'invoke', id: 's', function: 'hello' });
  await peer.find('chunk');
  // Nothing is read from now on.
  peer.socket.pause();
  const stalled = await stable(() => written);
  expect(stalled).toBeLessThan(200);
  await until(() => clock.expire());
  peer.socket.resume();
  expect((await peer.closed).code).toBe(4008);
});

/** The system's, but for one delay: that is over when the test says so. */
class PatientClock implements Clock {
  readonly now = systemClock.now;
  readonly monotonic = systemClock.monotonic;
  readonly sleep = systemClock.sleep;
  readonly #heldMs: number;
  #held: (() => void) | undefined;
  #isExpiring = false;

  constructor(heldMs: number) {
    this.#heldMs = heldMs;
  }

  after(delayMs: number, action: () => void): CancelTimer {
    // Who was told to close is not cut off, however long reading that takes.
    if (this.#isExpiring) return () => {};
    if (delayMs !== this.#heldMs) return systemClock.after(delayMs, action);
    this.#held = action;
    return () => (this.#held = undefined);
  }

  /** Whether somebody waited for that delay. */
  expire(): boolean {
    this.#isExpiring = true;
    this.#held?.();
    this.#isExpiring = false;
    return this.#held !== undefined;
  }
}

/** The value, once it has not changed for a while. */
async function stable(read: () => number): Promise<number> {
  for (let before = -1, now = read(); ; now = read()) {
    if (before === now) return now;
    before = now;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

describe('who may connect', () => {
  test('credentials in a header or as a protocol, as browsers can', async () => {
    const keys = new KeyFolder({ folder: join(await newFolder(), 'keys') });
    const { secret } = keys.create({ name: 'logs', scopes: ['logs'] });
    const { url } = await startGateway({ auth: { keys } });
    expect(await refusal(url)).toBe(401);
    expect(await refusal(url, { headers: { authorization: 'Bearer nonsense' } })).toBe(401);
    const peer = await Peer.open(url, { protocols: ['blueprint.v1', `bearer.${secret}`] });
    expect(peer.socket.protocol).toBe('blueprint.v1');
    peer.say({ type: 'invoke', id: 's', function: 'hello' });
    expect((await peer.find('error')).error.code).toBe('FORBIDDEN');
    peer.say({ type: 'subscribe', id: 'i', topic: 'instances' });
    expect((await peer.find('error', ({ id }) => id === 'i')).error.code).toBe('FORBIDDEN');
  });

  test('the client of the package has a token of any letters', async () => {
    const token = 'ab/cd+ef==(%41)~0123';
    const { url } = await startGateway({ auth: { tokens: [{ name: 'made elsewhere', token, scopes: ['invoke'] }] } });
    const channel = new GatewayClient({ url, key: token }).connect();
    onEnd(() => channel.close());
    await expect(channel.stream('nope', 1).next()).rejects.toMatchObject({ code: 'FUNCTION_NOT_FOUND' });
  });

  test('who lost the credentials loses the connection: with the next message, and with the next ping', async () => {
    const clock = new FakeClock();
    const keys = new KeyFolder({ folder: join(await newFolder(), 'keys') });
    const { key, secret } = keys.create({ name: 'ops', scopes: ['admin'] });
    let calls = 0;
    const handler = async ({ body }: Parameters<FakeHandler>[0]): Promise<Buffer> => ((calls += 1), body);
    const { url } = await startGateway({ auth: { keys }, clock, backend: { handler }, socketLimits: { heartbeatMs: 50 } });
    const headers = { authorization: `Bearer ${secret}` };
    await send(url, DEPLOY, { body: HELLO, headers });
    const [busy, quiet] = [await Peer.open(url, { headers }), await Peer.open(url, { headers })];
    busy.say({ type: 'invoke', id: 's', function: 'hello' });
    quiet.say({ type: 'subscribe', id: 'l', topic: 'logs', function: 'hello' });
    await Promise.all([busy.find('end'), quiet.find('subscribed')]);
    keys.revoke(key.id);
    busy.say({ type: 'invoke', id: 't', function: 'hello' });
    expect(await busy.closed).toMatchObject({ code: 4001 });
    expect(calls).toBe(1);
    await clock.advance(50);
    expect(await quiet.closed).toMatchObject({ code: 4001 });
  });

  test('no page of somebody else, no other path', async () => {
    const { url } = await startGateway();
    expect(await refusal(url, { headers: { origin: 'https://evil.example' } })).toBe(403);
    expect(await refusal(url, { headers: { host: 'evil.example' } })).toBe(403);
    const other = new WebSocket(`${url.replace('http', 'ws')}/other`);
    other.on('error', () => {});
    const [, response] = (await once(other, 'unexpected-response')) as [unknown, { statusCode: number }];
    expect(response.statusCode).toBe(404);
  });
});

describe('bad messages', () => {
  test.each([
    ['no JSON', '{'],
    ['no object', '1'],
    ['no type', '{}'],
    ['an unknown type', '{"type":"dance"}'],
    ['a type of the prototype', '{"type":"constructor"}'],
    ['a missing field', '{"type":"subscribe","id":"x"}'],
    ['logs of nobody', '{"type":"subscribe","id":"x","topic":"logs"}'],
    ['a field of another type', '{"type":"resume","id":"x","stream":"s","after":-1}'],
  ])('%s: an error, and the connection stays', async (_, message) => {
    const { url } = await startGateway();
    const peer = await Peer.open(url);
    peer.say(message);
    expect((await peer.find('error')).error.code).toBe('REQUEST_INVALID');
    peer.say({ type: 'ping' });
    await peer.find('pong');
  });

  test('one that is too large ends the connection', async () => {
    const { url } = await startGateway({ socketLimits: { messageBytesMax: 1_000 } });
    const peer = await Peer.open(url);
    peer.say('x'.repeat(1_001));
    expect((await peer.closed).code).toBe(1009);
  });

  test('more than the rate of the caller', async () => {
    const { url } = await startGateway({ limits: { requestsPerSecond: 0.001, burst: 2 } });
    const peer = await Peer.open(url);
    peer.say({ type: 'ping' });
    peer.say({ type: 'ping' });
    expect((await peer.find('error')).error.code).toBe('RATE_LIMITED');
  });
});

test('who does not answer pings is closed', async () => {
  const clock = new FakeClock();
  const { url } = await startGateway({ clock, socketLimits: { heartbeatMs: 50 } });
  const alive = await Peer.open(url);
  const dead = await Peer.open(url);
  dead.socket.pause();
  await until(() => alive.messages.length > 0);
  let beats = 0;
  alive.socket.on('ping', () => (beats += 1));
  const pongs = (): number => alive.messages.filter(({ type }) => type === 'pong').length;
  // Its pongs are not sent while nothing is read; after two beats the gateway gives it up.
  for (let beat = 1; beat <= 4; beat += 1) {
    await clock.advance(50);
    await until(() => beats === beat);
    // Behind the pong to the ping of the gateway, on the same connection.
    alive.say({ type: 'ping' });
    await until(() => pongs() === beat);
  }
  dead.socket.resume();
  expect([4009, 1006]).toContain((await dead.closed).code);
});

test('closing the gateway closes its WebSockets', async () => {
  const { url, gateway } = await startGateway();
  const peer = await Peer.open(url);
  await gateway.close();
  expect(await peer.closed).toEqual({ code: 1001, reason: 'the gateway is closing' });
});
