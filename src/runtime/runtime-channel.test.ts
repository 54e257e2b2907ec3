import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { Random } from '../testing/fake-clock.ts';
import { FRAME, FrameReader, FrameWriter } from './frames.ts';
import { RuntimeApi } from './runtime-api.ts';
import type { ApiCall, EventHead, Flow } from './runtime-api.ts';
import type { Fault } from './runtime-fault.ts';

class RecordedCall implements ApiCall {
  readonly requestId: string;
  readonly event: Buffer;
  isAnswering = false;
  flow: Flow | undefined;
  readonly told: string[] = [];
  readonly #bytesMax: number;
  readonly #over = Promise.withResolvers<void>();

  constructor(requestId: string, event = '{}', bytesMax = 1_000) {
    this.requestId = requestId;
    this.event = Buffer.from(event);
    this.#bytesMax = bytesMax;
  }

  get over(): Promise<void> {
    return this.#over.promise;
  }

  taken(): EventHead {
    return { contentType: 'application/json', deadline: 5, functionArn: 'arn', traceId: undefined, clientContext: 'e30=' };
  }

  answering({ contentType, streamed, flow }: { contentType: string; streamed: boolean; flow: Flow }): number {
    this.isAnswering = true;
    this.flow = flow;
    this.told.push(`${streamed ? 'streaming' : 'answering'} ${contentType}`);
    return this.#bytesMax;
  }

  chunk(data: Buffer): void {
    this.told.push(data.toString());
  }

  answered(fault: Fault | undefined): void {
    this.#end(fault ? `broke off: ${fault.errorMessage}` : 'answered');
  }

  failed({ errorType }: Fault): void {
    this.#end(`failed: ${errorType}`);
  }

  tooLarge(bytesMax: number): void {
    this.#end(`more than ${bytesMax}`);
  }

  truncated(): void {
    this.#end('truncated');
  }

  violated(reason: string): void {
    this.#end(`violated: ${reason}`);
  }

  #end(how: string): void {
    this.told.push(how);
    this.#over.resolve();
  }
}

interface Received {
  readonly type: number;
  readonly lane: number;
  readonly text: string;
}

/** The side of the instance. */
class Client {
  readonly socket: Socket;
  readonly writer: FrameWriter;
  readonly closed: Promise<void>;
  head = '';
  readonly #frames: Received[] = [];
  #wake: (() => void) | undefined;
  #frame = { type: 0, lane: 0, pieces: [] as Buffer[] };

  constructor(path: string, lanes: number | string) {
    this.socket = connect(path);
    this.writer = new FrameWriter(this.socket);
    this.closed = new Promise((resolve) => this.socket.once('close', () => resolve()));
    const reader = new FrameReader({
      opened: (type, lane) => void (this.#frame = { type, lane, pieces: [] }),
      piece: (data) => void this.#frame.pieces.push(data),
      closed: () => {
        const { type, lane, pieces } = this.#frame;
        this.#frames.push({ type, lane, text: Buffer.concat(pieces).toString() });
      },
    });
    this.socket.on('error', () => {});
    this.socket.on('data', (data: Buffer) => {
      let bytes = data;
      if (this.head === '') {
        const end = bytes.indexOf('\r\n\r\n');
        this.head = bytes.toString('latin1', 0, end);
        bytes = bytes.subarray(end + 4);
      }
      if (this.head.startsWith('HTTP/1.1 200')) reader.push(bytes);
      this.#wake?.();
    });
    this.socket.write(`CONNECT blueprint-frames:1 HTTP/1.1\r\nHost: x\r\nx-blueprint-lanes: ${lanes}\r\n\r\n`);
  }

  async connected(): Promise<string> {
    while (this.head === '') await new Promise<void>((resolve) => (this.#wake = resolve));
    return this.head;
  }

  async next(): Promise<Received> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame) return frame;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  /** Resolves when the server has read all of it. */
  async send(type: number, lane: number, payload: string | Buffer): Promise<void> {
    this.writer.bytes(type, lane, Buffer.from(payload));
    await new Promise<void>((resolve) => this.writer.flush(() => resolve()));
  }
}

const opened: (() => Promise<unknown> | void)[] = [];
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close();
});

async function open(concurrency = 1) {
  const folder = await mkdtemp(join(tmpdir(), 'rc-'));
  const path = join(folder, 'api');
  const told = { ready: 0, violations: [] as string[] };
  const api = new RuntimeApi(
    { ready: () => (told.ready += 1), initFailed() {}, violated: (reason) => void told.violations.push(reason) },
    concurrency,
  );
  await api.listen(path);
  opened.push(
    () => rm(folder, { recursive: true, force: true }),
    () => api.close(),
  );
  const client = (lanes: number | string = concurrency): Client => {
    const made = new Client(path, lanes);
    opened.push(() => void made.socket.destroy());
    return made;
  };
  return { api, path, told, client };
}

/** An instance that works on one event. */
async function running(event?: string, bytesMax?: number) {
  const parts = await open();
  const client = parts.client();
  const call = new RecordedCall('r1', event, bytesMax);
  parts.api.hand(call);
  const { lane } = await client.next();
  return { ...parts, client, call, lane };
}

describe('events and answers', () => {
  test('who connects asks for work with all lanes; each answer asks again', async () => {
    const { api, told, client } = await open(2);
    const own = client();
    expect(await own.connected()).toMatch(/^HTTP\/1\.1 200 /);
    expect([told.ready, api.isAsking]).toEqual([1, true]);
    const calls = ['r1', 'r2', 'r3'].map((id) => new RecordedCall(id, `{"id":"${id}"}`));
    for (const call of calls) api.hand(call);
    expect(api.isAsking).toBe(false);
    const [first, second] = [await own.next(), await own.next()];
    expect(first.type).toBe(FRAME.event);
    expect(first.text.slice(4)).toBe('r1\n5\narn\n\ne30={"id":"r1"}');
    expect(first.lane).not.toBe(second.lane);
    await own.send(FRAME.answer, second.lane, '"two"');
    const third = await own.next();
    expect([third.lane, third.text.slice(4)]).toEqual([second.lane, 'r3\n5\narn\n\ne30={"id":"r3"}']);
    await own.send(FRAME.answer, third.lane, '"three"');
    await own.send(FRAME.answer, first.lane, '"one"');
    await Promise.all(calls.map(({ over }) => over));
    expect(calls.map(({ told: each }) => each)).toEqual([
      ['answering application/json', '"one"', 'answered'],
      ['answering application/json', '"two"', 'answered'],
      ['answering application/json', '"three"', 'answered'],
    ]);
    expect([api.isAsking, api.calls(), told.violations]).toEqual([true, [], []]);
  });

  test('large ones come whole', async () => {
    const event = JSON.stringify('e'.repeat(3_000_000));
    const { call, client, lane } = await running(event, 10_000_000);
    const answer = Buffer.alloc(5_000_000, 'abcdefg');
    await client.send(FRAME.answer, lane, answer);
    await call.over;
    expect(call.told.slice(1, -1).join('') === answer.toString()).toBe(true);
    expect(call.told.at(-1)).toBe('answered');
  });

  test('in pieces of any size', async () => {
    const { api, client } = await open();
    const own = client();
    await own.connected();
    const random = new Random(5);
    for (let round = 0; round < 50; round += 1) {
      const call = new RecordedCall(`r${round}`);
      api.hand(call);
      const { lane } = await own.next();
      const text = 'x'.repeat(random.int(0, 30));
      const bytes = Buffer.concat([Buffer.from([text.length, 0, 0, 0, lane, 0, 0, 0, FRAME.answer]), Buffer.from(text)]);
      for (let at = 0; at < bytes.length;) {
        const end = at + random.int(1, 7);
        own.socket.write(bytes.subarray(at, end));
        await new Promise(setImmediate);
        at = end;
      }
      await call.over;
      expect(call.told.slice(1).join('')).toBe(`${text}answered`);
    }
  });

  test('a failure', async () => {
    const { api, call, client, lane } = await running();
    await client.send(FRAME.failed, lane, '{"errorType":"RangeError","errorMessage":"no","trace":[]}');
    await call.over;
    expect([call.told, api.isAsking]).toEqual([['failed: RangeError'], true]);
  });

  test('an answer that is too large is told at once and thrown away; the lane goes on', async () => {
    const { api, told, call, client, lane } = await running('{}', 10);
    const bytes = Buffer.alloc(1_000_000, 'x');
    client.socket.write(Buffer.from([0x40, 0x42, 0x0f, 0, lane, 0, 0, 0, FRAME.answer]));
    await call.over;
    expect(call.told).toEqual(['answering application/json', 'more than 10']);
    const next = new RecordedCall('r2');
    api.hand(next);
    client.socket.write(bytes);
    expect((await client.next()).text).toContain('r2');
    await client.send(FRAME.answer, lane, '1');
    await next.over;
    expect([next.told.at(-1), told.violations]).toEqual(['answered', []]);
  });

  test('who stops gets no more events, and ends what it works on', async () => {
    const { api, call, client, lane } = await running();
    await client.send(FRAME.stop, 0, '');
    await client.send(FRAME.answer, lane, '1');
    await call.over;
    expect(api.isAsking).toBe(false);
    const late = new RecordedCall('r2');
    api.hand(late);
    expect(api.withdraw(late)).toBe(true);
  });

  test('what was handed over before it connected goes out first', async () => {
    const { api, client } = await open();
    const call = new RecordedCall('r1');
    api.hand(call);
    expect((await client().next()).text).toContain('r1');
    expect(api.withdraw(call)).toBe(false);
  });
});

describe('streamed answers', () => {
  test('chunk by chunk, to their end, or broken off', async () => {
    const { api, call, client, lane } = await running();
    await client.send(FRAME.begin, lane, 'text/plain');
    await client.send(FRAME.chunk, lane, 'one');
    await client.send(FRAME.chunk, lane, 'two');
    await client.send(FRAME.end, lane, '');
    await call.over;
    expect(call.told).toEqual(['streaming text/plain', 'one', 'two', 'answered']);
    const second = new RecordedCall('r2');
    api.hand(second);
    await client.next();
    await client.send(FRAME.begin, lane, '');
    await client.send(FRAME.end, lane, '{"errorMessage":"in the middle"}');
    await second.over;
    expect(second.told).toEqual(['streaming ', 'broke off: in the middle']);
  });

  test('a slow reader holds its lane; one that does not hear of it is held with all it has', async () => {
    const { call, client, lane } = await running('{}', Number.POSITIVE_INFINITY);
    await client.send(FRAME.begin, lane, 'a/b');
    while (!call.flow) await new Promise(setImmediate);
    call.flow.pause();
    expect((await client.next()).type).toBe(FRAME.hold);
    const chunk = Buffer.alloc(64 * 1024, 'x');
    let sent = 0;
    while (client.socket.writableLength < 4 * chunk.length && sent < 400) {
      client.writer.bytes(FRAME.chunk, lane, chunk);
      sent += 1;
      await new Promise(setImmediate);
    }
    expect(sent).toBeLessThan(400);
    const received = (): number => call.told.slice(1).reduce((sum, { length }) => sum + length, 0);
    expect(received()).toBeLessThan(4 * 1024 * 1024);
    call.flow.resume();
    expect((await client.next()).type).toBe(FRAME.goOn);
    client.writer.bytes(FRAME.end, lane, Buffer.alloc(0));
    await call.over;
    expect(received()).toBe(sent * chunk.length + 'answered'.length);
  });

  test('one that does not end after it was refused is ended', async () => {
    const { told, call, client, lane } = await running('{}', 100);
    await client.send(FRAME.begin, lane, 'a/b');
    const chunk = Buffer.alloc(4 * 1024 * 1024);
    for (let count = 0; count < 20 && !client.socket.destroyed; count += 1) {
      client.writer.bytes(FRAME.chunk, lane, chunk);
      await new Promise(setImmediate);
    }
    await client.closed;
    expect(call.told.at(-1)).toBe('more than 100');
    expect(told.violations).toEqual(['an answer that is too large does not end']);
  });
});

describe('what must not be', () => {
  test.each<[string, (lane: number) => [type: number, lane: number, payload: string | Buffer][], string]>([
    ['a lane that there is not', () => [[FRAME.answer, 7, '1']], 'there is no lane 7'],
    ['a type that there is not', (lane) => [[99, lane, '1']], 'there is no frame of type 99'],
    ['an event from the instance', (lane) => [[FRAME.event, lane, '1']], 'there is no frame of type 1'],
    ['a chunk of nothing', (lane) => [[FRAME.chunk, lane, '1']], `lane 0 has not begun to answer`],
    ['an end of nothing', (lane) => [[FRAME.end, lane, '']], 'lane 0 ends an answer that it did not begin, or fails in one'],
    ['a stop with a payload', () => [[FRAME.stop, 0, '1']], 'a stop has no payload'],
    ['a type of content that is no text', (lane) => [[FRAME.begin, lane, 'a\r\nx: y']], 'a content type is not text'],
    ['a fault without end', (lane) => [[FRAME.failed, lane, Buffer.alloc(1_100_000)]], 'a fault has 1100000 bytes'],
    [
      'two beginnings',
      (lane) => [
        [FRAME.begin, lane, ''],
        [FRAME.begin, lane, ''],
      ],
      'lane 0 answers twice',
    ],
  ])('%s: the call is told, the connection is closed, the instance given up', async (_, frames, reason) => {
    const { api, told, call, client, lane } = await running();
    for (const frame of frames(lane)) await client.send(...frame);
    await client.closed;
    expect([told.violations, call.told.at(-1), api.isAsking]).toEqual([[reason], `violated: ${reason}`, false]);
  });

  test('two answers to one event', async () => {
    const { told, call, client, lane } = await running();
    await client.send(FRAME.answer, lane, '1');
    await client.send(FRAME.answer, lane, '2');
    await client.closed;
    expect([call.told.at(-1), told.violations]).toEqual(['answered', ['lane 0 has no event to answer']]);
  });

  test('a connection that is lost cuts off what runs; nobody is to blame', async () => {
    const { api, told, call, client, lane } = await running();
    client.socket.write(Buffer.from([100, 0, 0, 0, lane, 0, 0, 0, FRAME.answer, 1, 2, 3]));
    client.socket.end();
    await call.over;
    expect([call.told.at(-1), told.violations, api.isAsking]).toEqual(['truncated', [], false]);
  });

  test.each([0, -1, 1.5, 'x', '', 3])('%s lanes of an instance that takes 2 are refused', async (lanes) => {
    const { told, client } = await open(2);
    expect(await client(lanes).connected()).toMatch(/^HTTP\/1\.1 40[03] /);
    expect(told.ready).toBe(0);
  });

  test('a second connection is refused; the first goes on', async () => {
    const { api, client } = await open(2);
    const first = client(1);
    await first.connected();
    expect(await client(1).connected()).toMatch(/^HTTP\/1\.1 403 /);
    api.hand(new RecordedCall('r1'));
    expect((await first.next()).text).toContain('r1');
  });

  test('3,000 damaged frames: never a crash, and the call ends once', async () => {
    const random = new Random(11);
    for (let round = 0; round < 300; round += 1) {
      const { api, call, client, lane, told } = await running('{}', 50);
      const frames = Array.from({ length: 10 }, () => {
        const payload = Buffer.alloc(random.int(0, 60), 'y');
        const head = Buffer.alloc(9);
        head.writeUInt32LE(payload.length);
        head.writeUInt32LE(random.chance(0.9) ? lane : random.int(0, 9), 4);
        head[8] = random.int(1, 10);
        return Buffer.concat([head, payload]);
      });
      const bytes = Buffer.concat(frames);
      if (random.chance(0.5)) bytes[random.int(0, bytes.length - 1)] = random.int(0, 255);
      client.socket.end(bytes);
      await Promise.all([client.closed, call.over]);
      const ends = call.told.filter((line) => /^(?:answered|broke off|failed|more than|truncated|violated)/.test(line));
      expect([ends.length, api.isAsking, told.violations.length <= 1]).toEqual([1, false, true]);
      for (const close of opened.splice(0).toReversed()) await close();
    }
  }, 30_000);
});
