/** The control plane as its operator runs it: the commands, real processes. */

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { openCertificate } from '../../src/control/certificate.ts';
import { idOfKey, makeIdentity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { readTicket } from '../../src/queue/ticket.ts';
import { BPR } from '../support/gateway-command.ts';
import { newFolder, onEnd } from '../support/gateway.ts';

const run = promisify(execFile);

interface Command {
  readonly data: string;
  readonly pid: number | undefined;
  readonly stop: () => Promise<number | null>;
}

async function startControlPlane(flags: readonly string[] = ['--port', '0'], env: Readonly<Record<string, string>> = {}): Promise<Command> {
  const data = await newFolder();
  const child = spawn(process.execPath, [BPR, 'control-plane', '--data', data, '--json', ...flags], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close').then(([code]) => code as number | null);
  onEnd(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  const ticketFile = join(data, 'endpoint.ticket');
  const { serverKey, urls } = readTicket(readFileSync(ticketFile, 'utf8'));
  expect(JSON.parse(line)).toMatchObject({ event: 'listening', url: urls[0], nodeId: idOfKey(serverKey), folder: data, ticketFile });
  const stop = (): Promise<number | null> => {
    child.kill('SIGTERM');
    return ended;
  };
  return { data, pid: child.pid, stop };
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
}, 240_000);

test('jobs are published, watched and requeued by command, over TLS, with the token or a ticket', async () => {
  const { data, stop } = await startControlPlane(['--port', '0', '--tls']);
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
  await queue.publish({ id: 'gone', type: 'square', payload: Buffer.from('1'), attemptsMax: 1 });
  const [gone] = await queue.claim({ workerId: queue.workerId });
  if (!gone) throw new Error('there is no job');
  await queue.fail(gone.lease, { code: 'JOB_FAILED', message: 'no oven' });
  expect(await bpr(['queue', 'discard', 'gone', ...at])).toEqual({ discarded: ['gone'] });
  expect(await bpr(['queue', 'discard', 'gone', ...at])).toMatchObject({ error: { code: 'NOT_FOUND', details: { jobId: 'gone' } } });
  expect(await bpr(['queue', 'requeue', 'a', 'gone', 'other', ...at])).toMatchObject({
    error: {
      message: 'the dead letter has no job gone; requeued: a; not requeued yet: other',
      details: { jobId: 'gone', requeued: ['a'] },
    },
  });
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
}, 240_000);

test('a command waits for a control plane that is just starting in its folder', async () => {
  const { data, stop } = await startControlPlane();
  const waitFor = async (...args: readonly string[]): Promise<string> => {
    const folder = await newFolder();
    const child = spawn(process.execPath, [BPR, ...args, '--data', folder], { stdio: ['ignore', 'pipe', 'pipe'] });
    const ended = once(child, 'close');
    onEnd(async () => {
      child.kill('SIGKILL');
      await ended;
    });
    let printed = '';
    child.stdout.on('data', (text: Buffer) => (printed += text.toString('utf8')));
    const [line] = (await once(createInterface({ input: child.stderr }), 'line')) as [string];
    expect(line).toBe(`waiting up to 5 s for a control plane in ${folder} ...`);
    for (const name of ['admin.token', 'control.json']) symlinkSync(join(data, name), join(folder, name));
    expect(await ended).toEqual([0, null]);
    return printed;
  };
  expect(await waitFor('ticket', 'list')).toContain('ticket file');
  expect(await waitFor('queue', 'stats')).toMatch(/^queued +0$/m);
  expect(await stop()).toBe(0);
}, 240_000);

test('its port and the place of its objects may stand in the environment', async () => {
  const objects = await newFolder();
  const { data, stop } = await startControlPlane([], { HTTP_PORT: '0', IROH_BLOBS_PATH: objects, RUST_LOG: 'error,hyper=debug' });
  const { ticket } = await bpr(['ticket', 'create', '--data', data]);
  const queue = await RemoteQueue.connect({ credentials: { ticket: String(ticket), identity: makeIdentity() } });
  onEnd(() => queue.close());
  const { key } = await new RemoteObjects(queue.control).keep(Buffer.from('a package'));
  expect(readdirSync(objects).join(' ')).toContain(key);
  expect(await stop()).toBe(0);
  const shared = run(process.execPath, [
    BPR,
    'control-plane',
    '--data',
    data,
    '--queue',
    'nats',
    '--nats',
    '127.0.0.1:1',
    '--objects',
    data,
  ]);
  await expect(shared).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringContaining('--objects is for a queue on this machine') as string,
  });
  const wrong = { env: { ...process.env, HTTP_PORT: 'eighty' } };
  await expect(run(process.execPath, [BPR, 'control-plane', '--data', data], wrong)).rejects.toMatchObject({
    code: 1,
    stderr: expect.stringContaining('CONFIG_INVALID: HTTP_PORT is eighty; it must be a whole number') as string,
  });
}, 240_000);

test('it is small: its memory and its code have a budget', async () => {
  const { pid, stop } = await startControlPlane();
  const residentKib = Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
  expect(residentKib / 1_024).toBeLessThan(160);
  expect(await stop()).toBe(0);
  const room = join(import.meta.dirname, '../../src/control');
  const files = readdirSync(room).filter((name) => !name.endsWith('.test.ts'));
  const lines = files.reduce((sum, name) => sum + readFileSync(join(room, name), 'utf8').split('\n').length, 0);
  expect(lines).toBeLessThan(4_000);
}, 240_000);

test('says what is wrong with its address and its certificate', async () => {
  const data = await newFolder();
  const broken = join(data, 'broken.pem');
  writeFileSync(broken, 'no certificate');
  const [one, other] = ['one', 'other'].map((name) => join(data, name));
  for (const folder of [one, other]) {
    mkdirSync(folder ?? '');
    openCertificate(folder ?? '', ['localhost'], Date.now());
  }
  const refused = async (...flags: string[]): Promise<unknown> =>
    (await bpr(['control-plane', '--port', '0', '--data', join(data, 'control'), ...flags]))['message'];
  const tls = (cert: string, key: string): string[] => ['--tls-cert', cert, '--tls-key', key];
  expect(await refused('--url', 'jobs.example.org')).toMatch(/^jobs\.example\.org is no address for workers/);
  expect(await refused(...tls(broken, broken))).toMatch(/^the TLS certificate and its key cannot be used.*: .*no start line$/);
  const mixed = tls(join(one ?? '', 'tls.crt'), join(other ?? '', 'tls.key'));
  expect(await refused(...mixed)).toMatch(/^the TLS certificate and its key cannot be used.*: .*key values mismatch$/);
});
