import { Duplex } from 'node:stream';
import { expect, test } from 'vitest';
import { FRAME, FrameReader, FrameWriter } from './frames.ts';

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

test.each(['{}', 'x'.repeat(100_000)])('with one lane an event leaves before its writer goes on: %#', async (body) => {
  const wire = new Wire();
  new FrameWriter(wire, 1).event(0, 'id\n5', Buffer.from(body));
  const expected = [`${FRAME.event} 0 ${'\u0004\0\0\0'}id\n5${body}`];
  expect(wire.frames).toEqual(expected);
  await nextTurn();
  expect(wire.frames).toEqual(expected);
});

test('with one lane an answer leaves before its writer goes on, behind what was not written yet', () => {
  const wire = new Wire();
  const writer = new FrameWriter(wire, 1);
  writer.bytes(FRAME.chunk, 0, Buffer.from('a'));
  expect(wire.writes).toEqual([]);
  writer.text(FRAME.end, 0, '');
  expect(wire.frames).toEqual([`${FRAME.chunk} 0 a`, `${FRAME.end} 0 `]);
});

test('with one lane the end of a chunk is told when it has left', async () => {
  const wire = new Wire();
  const writer = new FrameWriter(wire, 1);
  writer.bytes(FRAME.chunk, 0, Buffer.from('a'));
  await new Promise<void>((resolve) => writer.flush(() => resolve()));
  expect(wire.frames).toEqual([`${FRAME.chunk} 0 a`]);
});

test('with several lanes what one turn writes leaves together', async () => {
  const wire = new Wire();
  const writer = new FrameWriter(wire, 2);
  writer.text(FRAME.answer, 0, 'a');
  writer.event(1, 'id\n5', Buffer.from('b'));
  expect(wire.writes).toEqual([]);
  await nextTurn();
  expect(wire.writes).toHaveLength(1);
  expect(wire.frames).toEqual([`${FRAME.answer} 0 a`, `${FRAME.event} 1 ${'\u0004\0\0\0'}id\n5b`]);
});
