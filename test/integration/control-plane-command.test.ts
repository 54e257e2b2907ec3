/** The control plane as its operator runs it: the commands, real processes. */

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { BPR } from '../support/gateway-command.ts';
import { newFolder, onEnd } from '../support/gateway.ts';

const run = promisify(execFile);

interface Command {
  readonly data: string;
  readonly stop: () => Promise<number | null>;
}

async function startControlPlane(...flags: readonly string[]): Promise<Command> {
  const data = await newFolder();
  const child = spawn(process.execPath, [BPR, 'control-plane', '--data', data, '--port', '0', '--json', ...flags], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close').then(([code]) => code as number | null);
  onEnd(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  expect(JSON.parse(line)).toMatchObject({ event: 'listening', folder: data, ticketFile: join(data, 'endpoint.ticket') });
  const stop = (): Promise<number | null> => {
    child.kill('SIGTERM');
    return ended;
  };
  return { data, stop };
}

/** The document that a command prints, also when it fails. */
async function bpr(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Record<string, unknown>> {
  const { stdout } = await run(process.execPath, [BPR, ...args, '--json'], { env: { ...process.env, ...env } }).catch(
    (error: { readonly stdout: string }) => error,
  );
  return JSON.parse(stdout) as Record<string, unknown>;
}

test('tickets are made, listed, replaced and revoked by command', async () => {
  const { data, stop } = await startControlPlane();
  const at = ['--data', data];
  const made = await bpr(['ticket', 'create', '--name', 'gpu', '--capability', 'gpu', '--uses', '2', '--scope', 'claim,objects', ...at]);
  expect(made).toMatchObject({ name: 'gpu', scopes: ['claim', 'objects'], capabilities: ['gpu'], uses: 2, used: 0 });
  const queue = await RemoteQueue.connect({ credentials: { ticket: String(made['ticket']), identity: makeIdentity() } });
  onEnd(() => queue.close());
  const before = readFileSync(join(data, 'endpoint.ticket'), 'utf8').trim();
  expect((await bpr(['ticket', 'rotate', ...at]))['ticket']).toBe(readFileSync(join(data, 'endpoint.ticket'), 'utf8').trim());
  expect(readFileSync(join(data, 'endpoint.ticket'), 'utf8').trim()).not.toBe(before);
  await bpr(['ticket', 'revoke', String(made['id']), ...at]);
  expect(await bpr(['ticket', 'list', ...at])).toMatchObject({
    tickets: [
      { name: 'ticket file', closedAt: expect.any(Number) },
      { name: 'gpu', used: 1, revokedAt: expect.any(Number) },
      { name: 'ticket file', used: 0 },
    ],
  });
  await expect(queue.claim({ workerId: queue.workerId })).rejects.toMatchObject({ code: 'TICKET_REVOKED' });
  expect(await bpr(['ticket', 'revoke', '0'.repeat(32), ...at])).toMatchObject({ error: { code: 'NOT_FOUND' } });
  expect(await stop()).toBe(0);
  expect(await bpr(['ticket', 'list', ...at])).toMatchObject({ error: { code: 'EXECUTOR_UNREACHABLE' } });
  expect(await bpr(['ticket', 'list', '--data', join(data, 'none')])).toMatchObject({ error: { code: 'NOT_FOUND' } });
}, 60_000);

test('jobs are published, watched and requeued by command, over TLS, with the token or a ticket', async () => {
  const { data, stop } = await startControlPlane('--tls');
  const at = ['--data', data];
  expect(await bpr(['queue', 'publish', 'square', '--payload', '7', '--id', 'a', '--attempts', '1', ...at])).toEqual({
    id: 'a',
    duplicate: false,
  });
  const { ticket } = await bpr(['ticket', 'create', ...at]);
  const queue = await RemoteQueue.connect({ credentials: { ticket: String(ticket), identity: makeIdentity() } });
  onEnd(() => queue.close());
  const [job] = await queue.claim({ workerId: queue.workerId });
  if (!job) throw new Error('there is no job');
  await queue.fail(job.lease, { code: 'JOB_FAILED', message: 'no oven' });
  expect(await bpr(['queue', 'dead', ...at])).toMatchObject({ jobs: [{ id: 'a', error: { message: 'no oven' } }] });
  expect(await bpr(['queue', 'requeue', 'a', ...at])).toEqual({ requeued: ['a'] });
  const env = { CONTROL_PLANE_TICKET: `file:${join(data, 'endpoint.ticket')}`, BPR_DATA_DIR: join(data, 'client') };
  expect(await bpr(['queue', 'status', 'a'], env)).toMatchObject({ id: 'a', state: 'queued', attempts: 0 });
  expect(await bpr(['queue', 'stats'], env)).toMatchObject({ byState: { queued: 1 } });
  expect(await bpr(['ticket', 'list'], env)).toMatchObject({ error: { code: 'FORBIDDEN' } });
  const waiting = bpr(['queue', 'publish', 'square', '--payload', '8', '--id', 'b', '--priority', '9', '--wait', ...at]);
  const [next] = await queue.claim({ workerId: queue.workerId, capabilities: [], waitMs: 20_000, max: 1 });
  const [last] = next?.id === 'b' ? [next] : await queue.claim({ workerId: queue.workerId, waitMs: 20_000 });
  if (!last) throw new Error('there is no job');
  await queue.complete(last.lease, { body: Buffer.from('64') });
  expect(await waiting).toMatchObject({ id: 'b', bodyBase64: Buffer.from('64').toString('base64') });
  expect(await bpr(['queue', 'stats'], { CONTROL_PLANE_TICKET: 'bprt1.rubbish' })).toMatchObject({ error: { code: 'TICKET_MALFORMED' } });
  expect(await stop()).toBe(0);
}, 60_000);
