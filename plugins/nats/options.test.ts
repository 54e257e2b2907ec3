import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { createPluginRegistry } from '../../src/plugin/registry.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';

const registry = createPluginRegistry({ clock: systemClock, telemetry: silentTelemetry });

it('makes queues without connecting, and names its peers', async () => {
  const queue = await registry.queue('nats', { servers: '127.0.0.1:1', queue: 'jobs' });
  expect(queue.name).toBe('nats:jobs');
  await queue.close();
  await expect(queue.publish({ type: 'x', payload: Buffer.alloc(0) })).rejects.toMatchObject({ code: 'QUEUE_CLOSED' });
  const described = (await registry.describe()).find(({ name }) => name === 'nats');
  expect(described?.kinds).toEqual(['queue']);
  expect(described?.peers.map(({ name, installed }) => [name, installed?.split('.')[0]])).toEqual([
    ['@nats-io/transport-node', '3'],
    ['@nats-io/jetstream', '3'],
  ]);
});

describe('what is not valid is CONFIG_INVALID and is not repeated', () => {
  const servers = 'h:4222';
  it.each<[string, unknown]>([
    ['nothing', undefined],
    ['no servers', {}],
    ['no list of servers', { servers: [] }],
    ['an option that does not exist', { servers, server: 'hunter2' }],
    ['a name that is no part of a subject', { servers, queue: 'a.b' }],
    ['an even number of copies', { servers, replicas: 2 }],
    ['credentials of two kinds', { servers, credentials: { token: 'env:A', nkey: 'env:B' } }],
    ['a user without a password', { servers, credentials: { user: 'u' } }],
    ['a secret as text', { servers, credentials: { token: 'hunter2' } }],
    ['an unknown kind of credentials', { servers, credentials: { key: 'hunter2' } }],
    ['a wait that is too short', { servers, ackWaitMs: 10 }],
    ['an inbox of everybody', { servers, inboxPrefix: '>' }],
  ])('%s', async (_, options) => {
    const thrown: unknown = await registry.queue('nats', options).catch((error: unknown) => error);
    expect(thrown).toMatchObject({ code: 'CONFIG_INVALID' });
    expect(String(thrown)).not.toContain('hunter2');
  });

  it.each<[string, object]>([
    ['a token', { token: 'env:A' }],
    ['a user and a password', { user: 'u', password: 'file:/run/secret' }],
    ['an nkey', { nkey: 'env:A' }],
    ['a file of credentials', { creds: 'file:/run/worker.creds' }],
  ])('%s is taken as credentials', async (_, credentials) => {
    const queue = await registry.queue('nats', { servers, credentials, inboxPrefix: '_INBOX_w1' });
    expect(queue.name).toBe('nats:jobs');
    await queue.close();
  });
});
