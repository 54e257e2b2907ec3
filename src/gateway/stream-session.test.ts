import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test, vi } from 'vitest';
import { systemClock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import { ChunkQueue } from '../runtime/chunk-queue.ts';
import { StreamSession } from './stream-session.ts';

/** Made where no event is in reach. */
const nothing = (): void => {};

test('while a session waits for its reader after the end, it holds the answer, and not the call with its event', async () => {
  const ended = Promise.withResolvers<void>();
  const received: string[] = [];
  const begin = (): { readonly session: StreamSession; readonly call: WeakRef<object> } => {
    const event = Buffer.alloc(1_000);
    // As a call, which can be given up by who reads its answer.
    const chunks = new ChunkQueue(() => event.fill(0));
    const report = { requestId: 'r', instanceId: 'i', coldStart: false, queueMs: 0, runMs: 1 };
    const session = new StreamSession({
      invocation: { contentType: 'text/plain', requestId: 'r', chunks, done: Promise.resolve({ report, logTail: new Uint8Array() }) },
      callerId: 'somebody',
      clock: systemClock,
      cancel: nothing,
      bytesMax: 1_000,
      graceMs: 60_000,
      onGone: nothing,
    });
    chunks.push(Buffer.from('answer'));
    chunks.end();
    return { session, call: new WeakRef(event) };
  };
  const { session, call } = begin();
  const reader = {
    chunk: (_seq: number, data: Uint8Array) => received.push(Buffer.from(data).toString()) > 0,
    end: () => ended.resolve(),
    failed: ended.reject,
  };
  session.attach(reader, 0);
  await ended.promise;
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  await vi.waitFor(() => {
    collect();
    expect(call.deref() === undefined).toBe(true);
  });
  session.attach(reader, 0);
  expect(received).toEqual(['answer', 'answer']);
  session.close(new RunnerError('ABORTED', 'the test is over'));
});
