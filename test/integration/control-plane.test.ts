/** A control plane on a real port: who gets in and who does not, what a restart keeps, what it says of itself. */

import { execFileSync } from 'node:child_process';
import { createPrivateKey } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { systemClock } from '../../src/clock.ts';
import { ControlPlane } from '../../src/control/control.ts';
import type { ControlAddress, ControlPlaneOptions } from '../../src/control/control.ts';
import type { NewTicket } from '../../src/control/tickets.ts';
import { ClaimCheckQueue } from '../../src/queue/claim-check.ts';
import { enrolmentParts, makeIdentity, signParts } from '../../src/queue/identity.ts';
import type { Identity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { readTicket, signTicket } from '../../src/queue/ticket.ts';
import { createMetrics } from '../../src/telemetry/prometheus.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { requirePeer, runs } from '../require.ts';
import { newFolder, onEnd, send } from '../support/gateway.ts';
import { reservedPort } from '../support/reserved-port.ts';

interface Running {
  readonly control: ControlPlane;
  readonly url: string;
  readonly folder: string;
  readonly admin: Readonly<Record<string, string>>;
}

async function start(options: Partial<ControlPlaneOptions> = {}, address: ControlAddress = {}): Promise<Running> {
  const folder = options.folder ?? (await newFolder());
  const control = new ControlPlane({ folder, ...options });
  onEnd(() => control.close(0));
  const url = await control.listen({ port: 0, ...address });
  return { control, url, folder, admin: { authorization: `Bearer ${readFileSync(join(folder, 'admin.token'), 'utf8').trim()}` } };
}

async function connect(ticket: string, identity: Identity = makeIdentity(), reconnectMs = 0): Promise<RemoteQueue> {
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity }, reconnectMs });
  onEnd(() => queue.close());
  return queue;
}

async function ticketOf({ control }: Running, wanted: NewTicket = {}): Promise<string> {
  return (await control.tickets.create(wanted)).ticket;
}

/** The code and text with which somebody is refused. */
async function refusal(ticket: string, identity?: Identity): Promise<string> {
  return connect(ticket, identity).then(
    () => 'enrolled',
    ({ code, message }: { code: string; message: string }) => `${code}: ${message}`,
  );
}

const WORKER = { workerId: '' };
const claimAs = (queue: RemoteQueue) => ({ ...WORKER, workerId: queue.workerId });

describe('who has no good ticket does not get in', () => {
  test('a malformed, expired, early, foreign, unknown or revoked one has its own code and says what is wrong', async () => {
    let aheadMs = 0;
    const running = await start({ clock: { ...systemClock, now: () => systemClock.now() + aheadMs } });
    const now = systemClock.now();
    const good = await ticketOf(running);
    expect(await refusal(good.slice(0, -1))).toMatch(/^TICKET_MALFORMED: .*some are missing/);
    expect(await refusal(await ticketOf(running, { notBefore: now + 60_000 }))).toMatch(/^TICKET_NOT_YET_VALID: .* from /);
    const brief = await ticketOf(running, { notBefore: now - 2_000, expiresAt: now + 60_000 });
    aheadMs = 60_000;
    expect(await refusal(brief)).toMatch(/^TICKET_EXPIRED: .* until /);
    aheadMs = 0;

    const elsewhere = await start();
    const foreign = { ...readTicket(await ticketOf(elsewhere)), urls: [running.url] };
    // Signed by the other control plane, whose key lies in its folder; pointed at this one.
    const key = readFileSync(join(elsewhere.folder, 'control.key'), 'utf8');
    expect(await refusal(signTicket(foreign, createPrivateKey(key)))).toMatch(/^TICKET_FOREIGN: .*signed with another key/);
    const own = createPrivateKey(readFileSync(join(running.folder, 'control.key'), 'utf8'));
    expect(await refusal(signTicket({ ...readTicket(good), id: 'cd'.repeat(16) }, own))).toMatch(/^TICKET_FOREIGN: .*not in its registry/);

    await running.control.tickets.revoke(readTicket(good).id);
    expect(await refusal(good)).toMatch(/^TICKET_REVOKED: .*was revoked/);
    expect(await refusal(await ticketOf(running))).toBe('enrolled');
  });

  test('what a ticket says is not believed: the registry knows its scopes and uses', async () => {
    const running = await start();
    const own = createPrivateKey(readFileSync(join(running.folder, 'control.key'), 'utf8'));
    const narrow = readTicket(await ticketOf(running, { scopes: ['claim'] }));
    const queue = await connect(signTicket({ ...narrow, scopes: ['admin'], uses: 9 }, own));
    await expect(queue.stats()).rejects.toMatchObject({ code: 'FORBIDDEN' });
    expect(await refusal(signTicket({ ...narrow, uses: 9 }, own))).toMatch(/^TICKET_BOUND/);
  });

  test('a stolen ticket is no use to another key, neither before nor after the worker restarts', async () => {
    const running = await start();
    const ticket = await ticketOf(running);
    const worker = makeIdentity();
    const queue = await connect(ticket, worker);
    expect(queue.workerId).toBe(worker.id);
    expect(await refusal(ticket)).toMatch(/^TICKET_BOUND: .*one worker/);
    expect(await refusal(ticket, worker)).toBe('enrolled');
    const two = await ticketOf(running, { uses: 2 });
    const both = await Promise.all([1, 2, 3].map(() => refusal(two)));
    expect(both.filter((one) => one === 'enrolled')).toHaveLength(2);
    expect(both.filter((one) => one.startsWith('TICKET_BOUND: '))).toHaveLength(1);
  });

  test('an enrolment that is replayed, or signed with another key, is refused', async () => {
    const running = await start();
    const ticket = await ticketOf(running);
    const { id, serverKey } = readTicket(ticket);
    const [worker, thief] = [makeIdentity(), makeIdentity()];
    const challenge = async (): Promise<string> => {
      const body = JSON.stringify({ ticket, workerKey: worker.publicKey, nonce: 'n'.repeat(43) });
      const { json } = await send(running.url, 'POST /enrol/challenge', { body });
      return (json as { nonce: string }).nonce;
    };
    const enrol = async (nonce: string, signer: Identity): Promise<string | undefined> => {
      const signature = signParts(enrolmentParts(nonce, id, serverKey), signer.privateKey);
      const { status, code } = await send(running.url, 'POST /enrol', { body: JSON.stringify({ nonce, signature }) });
      return code ?? String(status);
    };
    const nonce = await challenge();
    expect(await enrol(nonce, thief)).toBe('IDENTITY_UNPROVEN');
    expect(await enrol(nonce, worker)).toBe('ENROLMENT_REPLAYED');
    const another = await challenge();
    expect(await enrol(another, worker)).toBe('200');
    expect(await enrol(another, worker)).toBe('ENROLMENT_REPLAYED');
    expect(await enrol('x'.repeat(43), worker)).toBe('ENROLMENT_REPLAYED');
  });

  test('a worker does not talk to who does not have the key of its ticket, nor to another TLS key', async () => {
    const [one, other] = [await start({}, { tls: 'own' }), await start({}, { tls: 'own' })];
    const key = createPrivateKey(readFileSync(join(one.folder, 'control.key'), 'utf8'));
    const good = readTicket(await ticketOf(one));
    expect(await refusal(signTicket({ ...good, urls: [other.url] }, key))).toMatch(/^EXECUTOR_UNREACHABLE: .*another TLS key/);
    const { tlsKeySha256 = '' } = readTicket(await ticketOf(other));
    // Whoever has the TLS key of the address still lacks the key of the ticket.
    expect(await refusal(signTicket({ ...good, urls: [other.url], tlsKeySha256 }, key))).toMatch(/^TICKET_FOREIGN/);
    expect(await refusal(await ticketOf(one))).toBe('enrolled');
  });
});

describe('a session', () => {
  test('is asked for everywhere but where nothing is to be had', async () => {
    const running = await start();
    const { json } = await send(running.url, 'GET /openapi.json');
    const { paths } = json as { paths: Record<string, Record<string, { security: readonly unknown[] }>> };
    const open: string[] = [];
    for (const [path, methods] of Object.entries(paths)) {
      for (const [method, { security }] of Object.entries(methods)) {
        const call = `${method.toUpperCase()} ${path.replaceAll(/\{\w+\}/g, 'a'.repeat(32))}`;
        const headers = { authorization: `Bearer bprs_${'x'.repeat(43)}` };
        const codes = [(await send(running.url, call)).status, (await send(running.url, call, { headers })).status];
        if (security.length === 0) open.push(`${method} ${path}`);
        else expect([call, codes]).toEqual([call, [401, 401]]);
      }
    }
    expect(open.toSorted()).toEqual(['get /healthz', 'get /openapi.json', 'get /readyz', 'post /enrol', 'post /enrol/challenge']);
  });

  test('is told of as an event, after any number that is known, or none', async () => {
    const running = await start();
    const queue = await connect(await ticketOf(running));
    await queue.stats();
    const events = (query: string) => send(running.url, `GET /workers/events${query}`, { headers: running.admin });
    const joined = { events: [{ worker: queue.workerId, change: 'joined' }] };
    expect(await events('')).toMatchObject({ status: 200, json: joined });
    expect(await events('?after=0')).toMatchObject({ status: 200, json: joined });
    expect(await events('?after=999999999999999')).toMatchObject({ status: 200, json: { events: [] } });
    expect(await events('?after=x')).toMatchObject({ status: 400, code: 'REQUEST_INVALID' });
  });

  test('allows what its ticket allows, in the name of its worker', async () => {
    const running = await start();
    const publisher = await connect(await ticketOf(running, { scopes: ['publish'] }));
    await publisher.publish({ id: 'a', type: 'work', payload: Buffer.from('7') });
    await expect(publisher.claim({ workerId: publisher.workerId })).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(publisher.requeue('a')).rejects.toMatchObject({ code: 'FORBIDDEN' });
    const worker = await connect(await ticketOf(running, { scopes: ['claim'], capabilities: ['cpu'] }));
    await expect(worker.publish({ type: 'work', payload: Buffer.from('7') })).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(worker.claim({ workerId: publisher.workerId })).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(worker.claim({ ...claimAs(worker), capabilities: ['gpu'] })).rejects.toMatchObject({ code: 'FORBIDDEN' });
    const objects = new RemoteObjects(worker.control);
    await expect(objects.put(Buffer.from('x'))).rejects.toMatchObject({ code: 'FORBIDDEN' });
    const [job] = await worker.claim({ workerId: `${worker.workerId}/lane-1`, capabilities: ['cpu'] });
    expect(job?.id).toBe('a');
  });

  test('dies with its ticket or worker at once, with what it waits for', async () => {
    const running = await start();
    const ticket = await ticketOf(running, { uses: 2 });
    const [one, two] = [await connect(ticket), await connect(ticket)];
    const waiting = one.claim({ ...claimAs(one), waitMs: 20_000 });
    const refused = expect(waiting).rejects.toMatchObject({ code: 'TICKET_REVOKED' });
    while ((await two.stats()).waiting === 0);
    const { status } = await send(running.url, `DELETE /workers/${one.workerId}`, { headers: running.admin });
    expect(status).toBe(200);
    await refused;
    await expect(one.stats()).rejects.toMatchObject({ code: 'TICKET_REVOKED' });
    await two.publish({ id: 'a', type: 'work', payload: Buffer.from('7') });
    await running.control.tickets.revoke(readTicket(ticket).id);
    await expect(two.stats()).rejects.toMatchObject({ code: 'TICKET_REVOKED' });
  });

  test('is renewed before it runs out, and works on meanwhile', async () => {
    let aheadMs = 0;
    const clock = { ...systemClock, now: () => systemClock.now() + aheadMs };
    const running = await start({ clock, sessionMs: 3_600_000 });
    const credentials = { ticket: await ticketOf(running), identity: makeIdentity() };
    const queue = await RemoteQueue.connect({ credentials, clock, reconnectMs: 0 });
    onEnd(() => queue.close());
    for (let count = 0; count < 20; count += 1) {
      await queue.publish({ id: `${count}`, type: 'work', payload: Buffer.from('7') });
      aheadMs += 1_200_000;
    }
    expect((await queue.stats()).byState.queued).toBe(20);
  });
});

describe('a restart', () => {
  test('keeps keys, tickets, revocations and sessions; results are delivered after it', async () => {
    const port = await reservedPort();
    const first = await start({}, { port });
    const { folder } = first;
    const identity = makeIdentity();
    const ticket = await ticketOf(first);
    const spare = await ticketOf(first);
    const revoked = await ticketOf(first);
    await first.control.tickets.revoke(readTicket(revoked).id);
    const file = readFileSync(join(folder, 'endpoint.ticket'), 'utf8');
    expect(statSync(join(folder, 'endpoint.ticket')).mode & 0o777).toBe(0o600);
    const queue = await connect(ticket, identity, 30_000);
    await queue.publish({ id: 'a', type: 'work', payload: Buffer.from('7') });
    const [job] = await queue.claim(claimAs(queue));
    const waiting = queue.claim({ ...claimAs(queue), waitMs: 30_000 });
    const result = queue.result('a');
    await first.control.close();
    const completed = queue.complete(job?.lease ?? { jobId: '', token: '', until: 0 }, { body: Buffer.from('49') });
    const second = await start({ folder }, { port });
    await completed;
    expect(Buffer.from((await result).body as Uint8Array).toString()).toBe('49');
    await queue.publish({ id: 'b', type: 'work', payload: Buffer.from('8') });
    expect((await waiting).map(({ id }) => id)).toEqual(['b']);
    // The session went on: nobody enrolled again.
    const { json } = await send(second.url, 'GET /workers', { headers: second.admin });
    expect(json).toMatchObject({ workers: [{ id: identity.id, isPresent: true, leases: 1 }] });
    expect(readTicket(readFileSync(join(folder, 'endpoint.ticket'), 'utf8')).id).toBe(readTicket(file).id);
    expect(await refusal(revoked)).toMatch(/^TICKET_REVOKED/);
    expect(await refusal(spare)).toBe('enrolled');
    expect(await refusal(file)).toBe('enrolled');
  });

  test('closing answers who waits, and another control plane on the folder is refused meanwhile', async () => {
    const running = await start({ limits: { waitMsMax: 3_600_000 } });
    await expect(start({ folder: running.folder })).rejects.toMatchObject({ code: 'QUEUE_LOCKED' });
    const queue = await connect(await ticketOf(running));
    const waiting = expect(queue.claim({ ...claimAs(queue), waitMs: 3_600_000 })).rejects.toMatchObject({ code: 'EXECUTOR_UNREACHABLE' });
    while ((await queue.stats()).waiting === 0);
    // Neither waits for its own deadline: that is beyond the one of a test.
    await running.control.close(3_600_000);
    await waiting;
  });
});

describe('limits', () => {
  test('of bodies and of requests that wait are told by code', async () => {
    const running = await start({ limits: { bodyBytesMax: 1_000, objectBytesMax: 2_000, pollsPerCallerMax: 1 } });
    const queue = await connect(await ticketOf(running));
    await expect(queue.publish({ type: 'work', payload: Buffer.alloc(900) })).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
    const objects = new RemoteObjects(queue.control);
    await expect(objects.put(Buffer.alloc(2_001))).rejects.toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
    const waiting = queue.claim({ ...claimAs(queue), waitMs: 20_000 });
    while ((await queue.stats()).waiting === 0);
    await expect(queue.claim({ ...claimAs(queue), waitMs: 2_000 })).rejects.toMatchObject({ code: 'RATE_LIMITED' });
    await queue.publish({ id: 'a', type: 'work', payload: Buffer.from('7') });
    expect((await waiting).map(({ id }) => id)).toEqual(['a']);
  });

  test('of one request hold for many jobs: their results go in several, and a claim gets as many of them as fit', async () => {
    const running = await start({ limits: { bodyBytesMax: 2 * 1024 * 1024 } });
    const queue = await connect(await ticketOf(running));
    const body = Buffer.alloc(300_000);
    for (let index = 0; index < 20; index += 1) await queue.publish({ id: `${index}`, type: 'work', payload: body });
    const claim = { ...claimAs(queue), max: 20, leaseMs: 600_000, waitMs: 20_000 };
    const jobs = await queue.claim(claim);
    expect(jobs.map(({ id }) => id)).toEqual(['0', '1', '2', '3', '4', '5']);
    while (jobs.length < 20) jobs.push(...(await queue.claim(claim)));
    await Promise.all(jobs.map(({ lease }) => queue.complete(lease, { body })));
    expect((await queue.stats()).byState).toMatchObject({ queued: 0, claimed: 0, completed: 20 });
    expect(await queue.status('19')).toMatchObject({ state: 'completed', attempts: 1 });
  });

  test('of enrolments hold before anybody is known', async () => {
    // Time stands still: nothing is forgotten, however slow the machine is.
    const running = await start({ clock: { ...systemClock, monotonic: () => 0 } });
    const body = JSON.stringify({ ticket: 'bprt1.rubbish', workerKey: makeIdentity().publicKey, nonce: 'n'.repeat(43) });
    const codes = new Set<string | undefined>();
    for (let round = 0; round < 30; round += 1) {
      const replies = await Promise.all(Array.from({ length: 50 }, () => send(running.url, 'POST /enrol/challenge', { body })));
      for (const { code } of replies) codes.add(code);
      if (codes.has('RATE_LIMITED')) break;
    }
    expect([...codes]).toEqual(['TICKET_MALFORMED', 'RATE_LIMITED']);
  });

  test('beyond loopback there is TLS, or nothing', async () => {
    await expect(start({}, { host: '0.0.0.0' })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await expect(start({}, { urls: ['http://jobs.example.org:3020'] })).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    const running = await start({}, { host: '0.0.0.0', hosts: ['localhost'] });
    expect(readTicket(await ticketOf(running)).urls).toEqual([running.url.replace('127.0.0.1', 'localhost')]);
    expect(running.url).toMatch(/^https:/);
    expect(await refusal(await ticketOf(running))).toBe('enrolled');
  });
});

test('payloads and results that are too large for the queue go through the object store, verified', async () => {
  const running = await start();
  const queue = await connect(await ticketOf(running));
  const objects = new RemoteObjects(queue.control);
  const large = new ClaimCheckQueue({ queue, objects });
  const payload = Buffer.alloc(3_000_000, 'payload');
  await large.publish({ id: 'a', type: 'work', payload });
  const [job] = await large.claim(claimAs(queue));
  expect(Buffer.compare(Buffer.from(job?.payload as Uint8Array), payload)).toBe(0);
  await large.complete(job?.lease ?? { jobId: '', token: '', until: 0 }, { body: payload.subarray(1) });
  expect((await large.result('a')).body).toHaveLength(2_999_999);

  const code = await objects.keep(Buffer.from('code'));
  expect(code.key).toBe(code.sha256);
  expect(await objects.keep(Buffer.from('code'))).toEqual(code);
  expect(Buffer.from(await objects.get(code)).toString()).toBe('code');
  await expect(objects.remove(code)).rejects.toMatchObject({ code: 'FORBIDDEN' });
  await expect(objects.get({ ...code, size: 3 })).rejects.toMatchObject({ code: 'QUEUE_CORRUPT' });
  await expect(objects.get({ ...code, key: '../control.key' })).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
  const wrong = await send(running.url, `PUT /objects/${'0'.repeat(64)}`, { headers: running.admin, body: 'other bytes' });
  expect(wrong).toMatchObject({ status: 400, code: 'REQUEST_INVALID' });
});

test('rotation replaces the ticket in the file; who has enrolled goes on', async () => {
  const running = await start();
  const path = join(running.folder, 'endpoint.ticket');
  const old = readFileSync(path, 'utf8');
  const worker = makeIdentity();
  const queue = await connect(old, worker);
  const { status } = await send(running.url, 'POST /tickets/rotate', { headers: running.admin });
  expect(status).toBe(200);
  expect(readTicket(readFileSync(path, 'utf8')).id).not.toBe(readTicket(old).id);
  expect(await refusal(old)).toMatch(/^TICKET_REVOKED: .*was replaced/);
  expect(await refusal(old, worker)).toBe('enrolled');
  expect(await refusal(readFileSync(path, 'utf8'))).toBe('enrolled');
  expect((await queue.stats()).byState.queued).toBe(0);
});

const testPromtool = requirePeer('promtool', () => runs('promtool', '--version'));

/** Of a control plane with two jobs and a worker, and what else its token opens. */
async function scrape(): Promise<{ readonly text: string; readonly workerId: string; readonly elsewhere: number }> {
  const metrics = createMetrics();
  let now = systemClock.now();
  const clock = { ...systemClock, now: () => now };
  const running = await start({ clock, telemetry: { ...silentTelemetry, metrics }, metrics: () => metrics.expose() });
  const queue = await connect(await ticketOf(running));
  await queue.publish({ id: 'a', type: 'work', payload: Buffer.from('7') });
  await queue.publish({ id: 'b', type: 'work', payload: Buffer.from('7') });
  await queue.claim(claimAs(queue));
  await queue.control.ask({
    method: 'PUT',
    path: '/workers/self',
    body: { state: 'ready', concurrency: 4, running: 1, memoryBytes: 1_000 },
  });
  now += 700;
  const token = readFileSync(join(running.folder, 'metrics.token'), 'utf8').trim();
  const headers = { authorization: `Bearer ${token}` };
  const { text } = await send(running.url, 'GET /metrics', { headers });
  const { status } = await send(running.url, 'GET /tickets', { headers });
  return { text, workerId: queue.workerId, elsewhere: status };
}

test('metrics tell of queue, requests and workers to who has their token, which opens nothing else', async () => {
  const { text, workerId, elsewhere } = await scrape();
  for (const line of [
    'blueprint_queue_jobs{state="queued"} 1',
    'blueprint_queue_jobs{state="claimed"} 1',
    'blueprint_control_workers{presence="present"} 1',
    `blueprint_control_worker_leases{worker="${workerId}"} 1`,
    `blueprint_control_worker_memory_bytes{worker="${workerId}"} 1000`,
    'blueprint_queue_published_total 2',
    'blueprint_queue_oldest_seconds 0.7',
    'blueprint_control_requests_total{',
  ])
    expect(text).toContain(line);
  expect(elsewhere).toBe(403);
});

testPromtool('metrics are as Prometheus wants them', async () => {
  const { text } = await scrape();
  execFileSync('promtool', ['check', 'metrics'], { input: text });
});
