import { expect, it } from 'vitest';
import { systemClock } from '../clock.ts';
import { ANONYMOUS } from '../gateway/auth.ts';
import type { GatewayRequest } from '../gateway/http.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import { Polls } from './polls.ts';

function world() {
  const waiting = silentTelemetry.metrics.gauge({ name: 'waiting', help: 'Polls.' });
  const polls = new Polls({ clock: systemClock, pollsMax: 10, pollsPerCallerMax: 10, waiting, onWait: () => () => undefined });
  const closing = new AbortController().signal;
  const poll = (connection: AbortController) => {
    const request = { caller: ANONYMOUS, signal: connection.signal, closing } as unknown as GatewayRequest; // what a poll looks at
    return polls.wait(request, { id: 'claim' }, async (signal) => {
      if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve));
      return 'ended';
    });
  };
  return { polls, poll };
}

it('a poll that was sent again is the one that is cancelled, also when the first one has ended since', async () => {
  const { polls, poll } = world();
  const lost = new AbortController();
  const first = poll(lost);
  const second = poll(new AbortController());
  lost.abort();
  expect(await first).toBe('ended');
  expect(polls.cancel(ANONYMOUS.id, 'claim')).toBe(true);
  expect(await second).toBe('ended');
  expect(polls.cancel(ANONYMOUS.id, 'claim')).toBe(false);
});

it('a poll that is sent again ends the one before: nobody reads what that one would be given', async () => {
  const { polls, poll } = world();
  const first = poll(new AbortController());
  const second = poll(new AbortController());
  expect(await first).toBe('ended');
  expect(polls.size).toBe(1);
  expect(polls.cancel(ANONYMOUS.id, 'claim')).toBe(true);
  expect(await second).toBe('ended');
});
