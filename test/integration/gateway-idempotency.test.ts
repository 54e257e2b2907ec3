/** Requests with an idempotency key, through the death of the gateway and the loss of the client. */

import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { GatewayClient } from '../../src/gateway/client.ts';
import { HELLO, newFolder, onEnd, send, startGateway, until, zipOf } from '../support/gateway.ts';
import { startCommand } from '../support/gateway-command.ts';

/** Answers when its gate does. */
const GATED = zipOf({
  'index.mjs': `export const handler = async (event) => { console.log('runs'); await fetch(event.gate); return { event, random: Math.random() }; };`,
});
const SETTINGS = { runtime: 'nodejs24.x', handler: 'index.handler', network: 'open', timeout_ms: 60_000 } as const;

test('killed and started again: an answer is given again, a call that was cut off is not run again unless it is idempotent', async () => {
  const dataDir = await newFolder();
  const first = await startCommand(dataDir);
  const client = new GatewayClient({ url: first.url, retries: 0 });
  await client.deploy('once', GATED, SETTINGS);
  expect(await client.deploy('often', GATED, { ...SETTINGS, idempotent: true })).toMatchObject({ idempotent: true });
  const restarted = Promise.withResolvers<void>();
  const gate = createServer(
    ({ url }, response) => void (url === '/open' ? Promise.resolve() : restarted.promise).then(() => response.end()),
  );
  onEnd(() => {
    gate.close();
    gate.closeAllConnections();
  });
  await once(gate.listen(0, '127.0.0.1'), 'listening');
  const { port } = gate.address() as AddressInfo;
  const [open, later] = ['open', 'later'].map((name) => ({ gate: `http://127.0.0.1:${port}/${name}` }));
  const answered = await client.execute(open, { function: 'once', idempotencyKey: 'answered' });
  const cutOff = ['once', 'often'].map(async (name) => client.execute(later, { function: name, idempotencyKey: `cut-off-${name}` }));
  const lost = cutOff.map(async (call) => expect(call).rejects.toMatchObject({ code: 'UNREACHABLE' }));
  const lines = async (one: GatewayClient, name: string): Promise<number> => (await one.logs(name)).length;
  await until(async () => (await lines(client, 'once')) === 2 && (await lines(client, 'often')) === 1);
  first.child.kill('SIGKILL');
  await Promise.all(lost);
  await first.ended;
  restarted.resolve();
  const second = await startCommand(dataDir);
  const again = new GatewayClient({ url: second.url });
  expect(await again.execute(open, { function: 'once', idempotencyKey: 'answered' })).toEqual(answered);
  await expect(again.execute(7, { function: 'once', idempotencyKey: 'answered' })).rejects.toMatchObject({ code: 'REQUEST_CONFLICT' });
  const unknown = { code: 'OUTCOME_UNKNOWN', status: 409 };
  await expect(again.execute(later, { function: 'once', idempotencyKey: 'cut-off-once' })).rejects.toMatchObject(unknown);
  expect(await lines(again, 'once')).toBe(0);
  const { output } = await again.execute<unknown, { event: unknown }>(later, { function: 'often', idempotencyKey: 'cut-off-often' });
  expect(output?.event).toEqual(later);
  const ran = await again.execute(later, { function: 'often', idempotencyKey: 'cut-off-often' });
  expect(ran.output).toEqual(output);
  expect(await lines(again, 'often')).toBe(1);
});

test('a client that is lost in the middle comes back for the answer; without a key its call is given up', async () => {
  const release = Promise.withResolvers<void>();
  let begun = 0;
  const { url } = await startGateway({
    backend: {
      handler: async () => {
        begun += 1;
        await release.promise;
        return String(begun);
      },
    },
  });
  await send(url, 'PUT /api/v1/functions/hello?runtime=nodejs24.x&handler=index.handler&timeout_ms=60000', { body: HELLO });
  const leaving = new AbortController();
  const body = JSON.stringify({ function: 'hello', payload: 1 });
  const headers = { 'content-type': 'application/json' };
  const keyed = { ...headers, 'idempotency-key': 'k' };
  const lost = [headers, keyed].map((given) =>
    fetch(`${url}/api/v1/execute`, { method: 'POST', body, headers: given, signal: leaving.signal }),
  );
  await until(() => begun === 2);
  leaving.abort();
  expect((await Promise.allSettled(lost)).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  await until(async () => ((await send(url, 'GET /api/v1/instances')).json as { instances: unknown[] }).instances.length === 1);
  const answer = send(url, 'POST /api/v1/execute', { body, headers: keyed });
  release.resolve();
  expect((await answer).json).toMatchObject({ output: 2 });
  expect((await answer).headers.get('idempotent-replayed')).toBe('true');
  expect(begun).toBe(2);
});
