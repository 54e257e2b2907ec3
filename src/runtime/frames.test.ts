import { Duplex } from 'node:stream';
import { expect, test } from 'vitest';
import { FRAME, FrameReader, FrameWriter } from './frames.ts';
import { Channel } from './node-client-channel.ts';
import type { Outlet } from './node-client-lane.ts';
import { RuntimeChannel } from './runtime-channel.ts';
import type { ApiCall } from './runtime-api.ts';

/** What was written, one entry per write. */
class Wire extends Duplex {
  readonly writes: Buffer[] = [];

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.writes.push(Buffer.from(chunk));
    done();
  }

  get frames(): string[] {
    const frames: string[] = [];
    let open = '';
    const reader = new FrameReader({
      opened: (type, lane) => void (open = `${type} ${lane} `),
      piece: (data) => void (open += data.toString('latin1')),
      closed: () => void frames.push(open),
    });
    for (const write of this.writes) reader.push(write);
    return frames;
  }
}

const nextTurn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

test.each(['{}', 'x'.repeat(100_000)])('an event that is alone leaves before its writer goes on: %#', async (body) => {
  const wire = new Wire();
  new FrameWriter(wire, () => true).event(0, 'id\n5', Buffer.from(body));
  const expected = [`${FRAME.event} 0 ${'\u0004\0\0\0'}id\n5${body}`];
  expect(wire.frames).toEqual(expected);
  await nextTurn();
  expect(wire.frames).toEqual(expected);
});

test('an answer that is alone leaves before its writer goes on, behind what was not written yet', () => {
  const wire = new Wire();
  const writer = new FrameWriter(wire, () => true);
  writer.bytes(FRAME.chunk, 0, Buffer.from('a'));
  expect(wire.writes).toEqual([]);
  writer.text(FRAME.end, 0, '');
  expect(wire.frames).toEqual([`${FRAME.chunk} 0 a`, `${FRAME.end} 0 `]);
});

test('the end of a chunk is told when it has left', async () => {
  const wire = new Wire();
  const writer = new FrameWriter(wire, () => true);
  writer.bytes(FRAME.chunk, 0, Buffer.from('a'));
  await new Promise<void>((resolve) => writer.flush(() => resolve()));
  expect(wire.frames).toEqual([`${FRAME.chunk} 0 a`]);
});

test('what one turn writes leaves together', async () => {
  const wire = new Wire();
  const writer = new FrameWriter(wire);
  writer.text(FRAME.answer, 0, 'a');
  writer.event(1, 'id\n5', Buffer.from('b'));
  expect(wire.writes).toEqual([]);
  await nextTurn();
  expect(wire.writes).toHaveLength(1);
  expect(wire.frames).toEqual([`${FRAME.answer} 0 a`, `${FRAME.event} 1 ${'\u0004\0\0\0'}id\n5b`]);
});

const call: ApiCall = {
  requestId: 'id',
  event: Buffer.from('b'),
  isAnswering: false,
  taken: () => ({ contentType: '', deadline: 5, functionArn: undefined, traceId: undefined, clientContext: undefined }),
  answering: () => 100,
  chunk() {},
  answered() {},
  failed() {},
  tooLarge() {},
  truncated() {},
  violated() {},
};

test('an event for an instance that does nothing leaves at once; those that come while it works leave together', async () => {
  const wire = new Wire();
  const channel = new RuntimeChannel(wire, 3, { isRunning: () => true, settle() {}, next: () => undefined, lost() {} });
  channel.give(call);
  expect(wire.writes).toHaveLength(1);
  channel.give(call);
  channel.give(call);
  expect(wire.writes).toHaveLength(1);
  await nextTurn();
  expect(wire.writes).toHaveLength(2);
  expect(wire.frames).toHaveLength(3);
});

test('the last answer that an instance owes leaves at once, together with those of the same turn', async () => {
  const wire = new Wire();
  const outlets: Outlet[] = [];
  const opened = Channel.open(wire, { lanes: 3, work: (_, outlet) => outlets.push(outlet), lost() {} });
  const events = new Wire();
  const writer = new FrameWriter(events);
  for (const lane of [0, 1, 2]) writer.event(lane, 'id\n5', Buffer.from('{}'));
  writer.flush();
  wire.push(Buffer.concat([Buffer.from('HTTP/1.1 200 OK\r\n\r\n'), ...events.writes]));
  await opened;
  expect(outlets).toHaveLength(3);
  wire.writes.length = 0;
  void outlets[0]?.respond('1');
  void outlets[1]?.fail(new Error('2'));
  expect(wire.writes).toHaveLength(0);
  void outlets[2]?.respond('3');
  expect(wire.writes).toHaveLength(1);
  expect(wire.frames).toHaveLength(3);
});
