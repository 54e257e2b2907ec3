import { expect, test } from 'vitest';
import { systemClock } from '../../src/plugin.ts';
import { Aws, Session } from './client.ts';

const failure = (name: string, more: object): Error => Object.assign(new Error(name), { name }, more);
const throttled = (): Error => failure('TooManyRequestsException', { $metadata: { httpStatusCode: 429 } });
const lost = (): Error => failure('Error', { code: 'ECONNRESET' });

/** A session that waits for nothing, and what sends: it fails in this order, then answers. */
function failing(failures: readonly Error[]) {
  const clock = { ...systemClock, sleep: () => Promise.resolve() };
  const session = new Session(new Aws({ clock, region: 'eu-central-1' }), undefined);
  const left = [...failures];
  const send = (): Promise<string> => {
    const next = left.shift();
    return next ? Promise.reject(next) : Promise.resolve('answer');
  };
  return { session, send, left };
}

test('a read that was throttled twice is asked again when its connection is lost, as often as without', async () => {
  const { session, send } = failing([throttled(), throttled(), lost(), lost(), throttled()]);
  await expect(session.read('lambda', send)).resolves.toBe('answer');
});

test('a read whose connection is lost three times is given up', async () => {
  const { session, send, left } = failing([lost(), throttled(), lost(), lost(), lost()]);
  await expect(session.read('lambda', send)).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE', retry: 'idempotent' });
  expect(left).toHaveLength(1);
});

test('a write is asked again when it was throttled, never when its connection was lost', async () => {
  const { session, send, left } = failing([throttled(), throttled(), lost(), throttled()]);
  await expect(session.write('lambda', send)).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE', retry: 'idempotent' });
  expect(left).toHaveLength(1);
});
