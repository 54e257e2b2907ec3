/** Workers that speak to JetStream themselves, with what the control plane gives them for their key. */

import { execFile } from 'node:child_process';
import { randomBytes, sign } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect, credsAuthenticator, headers } from '@nats-io/transport-node';
import type { NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, onTestFinished } from 'vitest';
import { NatsQueue, makeNatsAccounts } from '../../plugins/nats/index.ts';
import type { NatsOptions } from '../../plugins/nats/index.ts';
import { systemClock } from '../../src/clock.ts';
import { ControlPlane } from '../../src/control/control.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { Metadata, QueueExecutor } from '../../src/index.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { ClaimCheckQueue } from '../../src/queue/claim-check.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import type { Identity } from '../../src/queue/identity.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { BPR } from '../support/bpr.ts';
import { natsFlags } from '../support/nats-accounts.ts';
import { requireNats, startNats } from '../support/nats.ts';
import type { NatsCluster } from '../support/nats.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const testNats = requireNats();
const run = promisify(execFile);
const UINT64 = parseParameters('uint64 x');
const context = { clock: systemClock, telemetry: silentTelemetry };
const accounts = makeNatsAccounts();
let nats: NatsCluster | undefined;
let folder: string;
let artifact: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'wn-'));
  artifact = (await buildHandler({ entry: new URL('../fixtures/worker/jobs.ts', import.meta.url).pathname, outDir: folder })).zipFile;
  nats = await startNats(1, { configuration: accounts.configuration }).catch(() => undefined);
});

afterAll(async () => {
  await nats?.stop();
  rmSync(folder, { recursive: true, force: true });
});

let count = 0;
const name = (): string => `q${(count += 1)}`;

/** As the control plane opens it. */
function open(queue: string, options: Partial<NatsOptions> = {}): NatsQueue {
  const opened = new NatsQueue(
    {
      servers: nats?.addresses ?? [],
      queue,
      credentials: { creds: () => accounts.creds },
      accountKey: () => accounts.signingKey,
      ...options,
    },
    context,
  );
  onTestFinished(() => opened.close());
  return opened;
}

interface World {
  readonly queue: NatsQueue;
  readonly control: ControlPlane;
  readonly ticket: string;
  readonly executor: QueueExecutor;
}

async function world(options: { readonly sessionMs?: number } = {}, keys: Partial<NatsOptions> = {}): Promise<World> {
  const id = name();
  const queue = open(id, keys);
  const control = new ControlPlane({ folder: join(folder, `control-${id}`), queue, ...options });
  await control.listen({ port: 0 });
  const { ticket } = await control.tickets.create({ uses: 10 });
  const executor = new QueueExecutor({ queue: new ClaimCheckQueue({ queue, objects: queue.objects }), objects: queue.objects, artifact });
  onTestFinished(async () => {
    await executor.close();
    await control.close(100);
  });
  return { queue, control, ticket, executor };
}

function worker(ticket: string): WorkerCommand {
  const command = new WorkerCommand(join(folder, `w-${name()}`), { CONTROL_PLANE_TICKET: ticket });
  onTestFinished(async () => {
    await command.kill();
  });
  return command;
}

async function square(executor: QueueExecutor, x: bigint): Promise<bigint> {
  const call = { id: `call-${x}`, jobId: 0n, body: encodeAbi(UINT64, [x]), metadata: new Metadata() };
  const { results } = await executor.invoke(call, { deadline: Date.now() + 60_000, attempt: 1 });
  return BigInt(`0x${Buffer.from(results[0]?.body ?? []).toString('hex')}`);
}

describe('bpr worker', () => {
  testNats('fetches code, runs jobs and delivers results without its control plane, once that has let it in', async () => {
    const { control, ticket, executor } = await world();
    const command = worker(ticket);
    await command.until('ready');
    await control.close(100);
    const numbers = Array.from({ length: 8 }, (_, index) => BigInt(index));
    expect(await Promise.all(numbers.map((x) => square(executor, x)))).toEqual(numbers.map((x) => x * x));
    expect(await command.kill('SIGTERM')).toBe(0);
  });

  testNats('whose ticket is revoked ends with 2, and works until then though its sessions are short', async () => {
    const { control, ticket, executor } = await world({ sessionMs: 3_000 });
    const command = worker(ticket);
    const startedAt = Date.now();
    // Longer than a session: the servers end the connection of the first one.
    for (let x = 0n; Date.now() - startedAt < 5_000; x += 1n) expect(await square(executor, x)).toBe(x * x);
    for (const { id } of control.tickets.list()) await control.tickets.revoke(id);
    expect(await command.ended).toBe(2);
    expect(command.news.at(-1)).toMatchObject({ event: 'error', code: 'TICKET_REVOKED' });
  });
});

describe('a worker that is revoked', () => {
  testNats('is cut off from the servers at once and does not come back; the others stay', async () => {
    const { queue, control } = await world({}, { operatorKey: () => accounts.operatorKey, systemCreds: () => accounts.systemCreds });
    const [bad, good] = [await enrolled(control), await enrolled(control)];
    for (const { inner } of [bad, good]) expect(await inner.status('none')).toBe(undefined);
    const cut = bad.nc.closed();
    await control.tickets.revoke(bad.ticketId);
    // Sessions last ten minutes.
    expect(String(await cut)).toMatch(/Revoked/i);
    await expect(connection(bad.jwt, bad.identity)).rejects.toThrow(/[Aa]uthorization/);
    await expect(bad.inner.status('none')).rejects.toMatchObject({ code: 'PLATFORM_UNREACHABLE' });
    expect(good.nc.isClosed()).toBe(false);
    await queue.publish({ id: 'after', type: 'work', payload: randomBytes(8) });
    const [job] = await good.inner.claim({ workerId: good.identity.id, waitMs: 20_000 });
    expect(job?.id).toBe('after');
    if (job) await good.inner.complete(job.lease, { body: randomBytes(8) });
    expect((await connection(good.jwt, good.identity)).nc.isClosed()).toBe(false);
    // What is granted later is good again.
    expect((await connection(await later(queue, bad.identity), bad.identity)).nc.isClosed()).toBe(false);
  });

  testNats('is revoked again at servers that have forgotten it', async () => {
    const own = await startNats(1, { configuration: accounts.configuration });
    onTestFinished(() => own.stop());
    const queue = open(name(), {
      servers: own.addresses,
      operatorKey: () => accounts.operatorKey,
      systemCreds: () => accounts.systemCreds,
    });
    const [worker, other] = [makeIdentity(), makeIdentity()];
    const [{ jwt }, { jwt: ofOther }] = [await grantOf(queue, worker), await grantOf(queue, other)];
    const revoked = [{ publicKey: worker.publicKey, revokedAt: Date.now(), isOver: false }];
    expect(await queue.revoke(revoked)).toBe(true);
    await expect(connection(jwt, worker, own)).rejects.toThrow(/[Aa]uthorization/);
    // Its accounts are in memory only.
    const [server] = own.servers;
    await server?.kill('SIGTERM');
    await server?.start();
    const { nc } = await connection(jwt, worker, own);
    expect(await queue.revoke(revoked)).toBe(true);
    expect(String(await nc.closed())).toMatch(/Revoked/i);
    // Its grant has run out: nothing has to be remembered.
    const over = revoked.map((each) => ({ ...each, isOver: true }));
    expect(await queue.revoke([...over, { publicKey: other.publicKey, revokedAt: Date.now(), isOver: false }])).toBe(true);
    expect((await connection(jwt, worker, own)).nc.isClosed()).toBe(false);
    await expect(connection(ofOther, other, own)).rejects.toThrow(/[Aa]uthorization/);
  });

  testNats('stays until its session ends where the servers cannot be told, and wrong keys are named', async () => {
    expect(await open(name()).revoke([])).toBe(false);
    const half = open(name(), { operatorKey: () => accounts.operatorKey });
    await expect(half.revoke([])).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: /systemCreds/ });
    const wrong = open(name(), { operatorKey: () => accounts.accountKey, systemCreds: () => accounts.systemCreds });
    await expect(wrong.revoke([])).rejects.toMatchObject({ code: 'CONFIG_INVALID', message: /seed of an account/ });
    const user = open(name(), { operatorKey: () => accounts.operatorKey, systemCreds: () => accounts.creds });
    await expect(user.revoke([])).rejects.toMatchObject({ code: 'FORBIDDEN' });
  });
});

testNats('a worker that lost its connection to a revocation ends with 2, though its session is long', async () => {
  const { control, ticket, executor } = await world(
    {},
    { operatorKey: () => accounts.operatorKey, systemCreds: () => accounts.systemCreds },
  );
  const command = worker(ticket);
  await command.until('ready');
  expect(await square(executor, 3n)).toBe(9n);
  for (const { id } of control.tickets.list()) await control.tickets.revoke(id);
  expect(await command.ended).toBe(2);
  expect(command.news.at(-1)).toMatchObject({ event: 'error', code: 'TICKET_REVOKED' });
});

describe('bpr control-plane', () => {
  testNats('says at once what is wrong with its flags of NATS', async () => {
    const keys = natsFlags(join(folder, name()), nats?.addresses ?? [], { ...accounts, signingKey: 'hunter2' });
    const wrong = await failed(...keys);
    expect(wrong).toMatch(/seed of an nkey/);
    expect(wrong).not.toContain('hunter2');
    expect(await failed('--queue', 'nats')).toMatch(/needs --nats/);
    expect(await failed('--nats', 'h:4222')).toMatch(/need --queue nats/);
    expect(await failed('--queue', 'nats', '--nats', '127.0.0.1:1')).toMatch(/127\.0\.0\.1:1 cannot be reached/);
  });

  testNats('ends when it cannot listen, although it had reached NATS', async () => {
    const flags = natsFlags(join(folder, name()), nats?.addresses ?? [], accounts);
    expect(await failed(...flags, '--tls-cert', '/no.crt', '--tls-key', '/no.key')).toMatch(/no\.crt cannot be read/);
  });
});

/** What the command says when it does not start. */
async function failed(...flags: readonly string[]): Promise<string> {
  const args = [BPR, 'control-plane', '--data', join(folder, name()), '--port', '0', ...flags];
  return run(process.execPath, args).then(
    () => 'it started',
    ({ stderr }: { readonly stderr: string }) => stderr,
  );
}

/** A connection of the worker, and what the servers say to it. */
async function connection(
  jwt: string,
  { id, privateKey }: Identity,
  at = nats,
): Promise<{ readonly nc: NatsConnection; readonly refused: string[] }> {
  const nc = await connect({
    servers: [...(at?.addresses ?? [])],
    inboxPrefix: `_INBOX_${id}`,
    authenticator: (nonce) => ({ jwt, sig: sign(null, Buffer.from(nonce ?? ''), privateKey).toString('base64url') }),
    reconnect: false,
  });
  onTestFinished(() => nc.close());
  const refused: string[] = [];
  void (async () => {
    for await (const status of nc.status()) if (status.type === 'error') refused.push(status.error.message);
  })();
  return { nc, refused };
}

/** With a ticket of its own, as a worker that keeps what it was given. */
async function enrolled(control: ControlPlane) {
  const identity = makeIdentity();
  const { ticket, record } = await control.tickets.create({});
  const remote = await RemoteQueue.connect({ credentials: { ticket, identity } });
  onTestFinished(() => remote.close());
  const grant = remote.control.standing?.grant;
  if (!grant) throw new Error('nothing was granted');
  const credentials = { jwt: () => grant.jwt, sign: (nonce: Uint8Array) => sign(null, nonce, identity.privateKey) };
  const inner = new NatsQueue({ ...(grant.options as unknown as NatsOptions), credentials, commandMs: 3_000 }, context);
  onTestFinished(() => inner.close());
  return { identity, ticketId: record.id, jwt: grant.jwt, inner, nc: (await connection(grant.jwt, identity)).nc };
}

/** Revocations are of whole seconds. */
async function later(queue: NatsQueue, identity: Identity): Promise<string> {
  const second = Math.floor(Date.now() / 1_000);
  await expect.poll(() => Math.floor(Date.now() / 1_000), { timeout: 10_000 }).toBeGreaterThan(second);
  return (await grantOf(queue, identity)).jwt;
}

/** The reply subject of a job that the server has delivered to it. */
async function deliveredTo(nc: NatsConnection, { id }: Identity, queue: string): Promise<string> {
  const inbox = `_INBOX_${id}.take`;
  const messages = nc.subscribe(inbox, { max: 1 });
  nc.publish(`$JS.API.CONSUMER.MSG.NEXT.BPR_${queue}.p4-_`, JSON.stringify({ batch: 1 }), { reply: inbox });
  for await (const { reply } of messages) return reply ?? '';
  return '';
}

/** The subjects of a stream. */
async function stored(nc: NatsConnection, stream: string): Promise<string[]> {
  const { state } = await (await jetstreamManager(nc)).streams.info(stream, { subjects_filter: '>' });
  return Object.keys(state.subjects ?? {});
}

async function grantOf(queue: NatsQueue, { id, publicKey }: Identity, forMs = 60_000) {
  const grant = await queue.grant({ workerId: id, publicKey, expiresAt: Date.now() + forMs });
  if (!grant) throw new Error('nothing was granted');
  return grant;
}

describe('what a worker is given', () => {
  testNats('works for its own key alone', async () => {
    const queue = open(name());
    const [own, other] = [makeIdentity(), makeIdentity()];
    const { jwt } = await grantOf(queue, own);
    expect((await connection(jwt, own)).nc.isClosed()).toBe(false);
    await expect(connection(jwt, other)).rejects.toThrow(/[Aa]uthorization/);
    const changed = jwt.replace(/\.(.)/, (_, letter: string) => `.${letter === 'e' ? 'f' : 'e'}`);
    await expect(connection(changed, own)).rejects.toThrow(/[Aa]uthorization/);
  });

  testNats('is refused after its time, and a connection that it opened ends then', async () => {
    const queue = open(name());
    const own = makeIdentity();
    await expect(connection((await grantOf(queue, own, -5_000)).jwt, own)).rejects.toThrow(/[Aa]uthorization|expired/);
    const { nc } = await connection((await grantOf(queue, own, 10_000)).jwt, own);
    expect(String(await nc.closed())).toMatch(/expired/i);
  });

  testNats('reaches nothing of other workers and other queues, and publishes no jobs', async () => {
    const id = name();
    const [queue, foreign] = [open(id), open(name())];
    await queue.publish({ id: 'a', type: 'work', payload: randomBytes(8) });
    await foreign.publish({ id: 'b', type: 'work', payload: randomBytes(8) });
    const own = makeIdentity();
    const { nc, refused } = await connection((await grantOf(queue, own)).jwt, own);
    const other = makeIdentity().id;
    nc.subscribe(`_INBOX_${other}.>`, { callback: () => undefined });
    nc.subscribe('>', { callback: () => undefined });
    const subjects = [
      `bpr.${id}.j.4._.evil`,
      `bpr.${foreign.name.slice(5)}.r.-.-.b`,
      `_INBOX_${other}.x`,
      `$JS.API.STREAM.DELETE.BPR_${id}`,
      `$JS.API.STREAM.MSG.DELETE.BPR_${id}`,
      `$JS.API.STREAM.PURGE.OBJ_BPR_${id}`,
      `$JS.ACK.BPR_${id}.p4-_.1.1.1.1.0`,
      `$JS.API.CONSUMER.CREATE.BPR_${id}`,
      `$JS.API.CONSUMER.CREATE.OBJ_BPR_${id}.x`,
      `$JS.API.STREAM.MSG.GET.BPR_${foreign.name.slice(5)}`,
    ];
    for (const subject of subjects) nc.publish(subject, '{}');
    await expect.poll(() => refused.length, { timeout: 30_000 }).toBe(2 + subjects.length);
    for (const subject of subjects) expect(refused.join('\n')).toContain(`"${subject}"`);
    expect((await queue.stats()).byState.queued).toBe(1);
  });

  testNats('is enough for jobs and objects', async () => {
    const id = name();
    const queue = open(id);
    const own = makeIdentity();
    const { jwt, options } = await grantOf(queue, own);
    const credentials = { jwt: () => jwt, sign: (nonce: Uint8Array) => sign(null, nonce, own.privateKey) };
    const inner = new NatsQueue({ ...(options as unknown as NatsOptions), credentials, commandMs: 3_000 }, context);
    onTestFinished(() => inner.close());
    const [mine, theirs] = [inner, queue].map((each) => new ClaimCheckQueue({ queue: each, objects: each.objects }));
    const [payload, result] = [randomBytes(700_000), randomBytes(900_000)];
    await theirs?.publish({ id: 'large', type: 'work', payload });
    const [job] = (await mine?.claim({ workerId: own.id, waitMs: 10_000 })) ?? [];
    expect(payload.equals(job?.payload as Uint8Array)).toBe(true);
    if (job) await mine?.complete(job.lease, { body: result });
    expect(result.equals((await theirs?.result('large'))?.body as Uint8Array)).toBe(true);
    // It adds objects; who may removes them.
    const kept = await inner.objects.put(payload);
    await inner.objects.remove(kept);
    expect(payload.equals(await queue.objects.get(kept))).toBe(true);
    await queue.objects.remove(kept);
    await expect(inner.objects.get(kept)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  testNats('acknowledges nothing that was delivered to others, and changes no object', async () => {
    const id = name();
    const queue = open(id);
    await queue.publishMany([1, 2].map((each) => ({ id: `j${each}`, type: 'work', payload: randomBytes(8) })));
    const object = await queue.objects.put(randomBytes(300_000));
    const [one, two] = [makeIdentity(), makeIdentity()];
    const [mine, theirs] = [await connection((await grantOf(queue, one)).jwt, one), await connection((await grantOf(queue, two)).jwt, two)];
    const [own, foreign] = [await deliveredTo(mine.nc, one, id), await deliveredTo(theirs.nc, two, id)];
    mine.nc.publish(foreign, '+ACK');
    mine.nc.publish(own, '+ACK');
    // Once.
    mine.nc.publish(own, '+ACK');
    await expect.poll(() => mine.refused.length, { timeout: 30_000 }).toBe(2);
    expect(mine.refused.join('\n')).toContain(`"${foreign}"`);
    const all = await connect({ servers: [...(nats?.addresses ?? [])], authenticator: credsAuthenticator(Buffer.from(accounts.creds)) });
    onTestFinished(() => all.close());
    const [consumer] = await (await jetstreamManager(all)).consumers.list(`BPR_${id}`).next();
    expect(consumer?.num_ack_pending).toBe(1);
    // Under the name of an object the first word counts, and nobody who may only add takes it away.
    const named = `$O.BPR_${id}.M.${Buffer.from(object.key).toString('base64')}`;
    const meta = { name: object.key, nuid: 'none', size: 1, chunks: 1, digest: 'SHA-256=', metadata: { sha256: object.sha256 } };
    const rollup = headers();
    rollup.set('Nats-Rollup', 'sub');
    expect((await mine.nc.request(named, JSON.stringify(meta), { headers: rollup, timeout: 30_000 })).json()).toMatchObject({
      error: { description: 'rollup not permitted' },
    });
    expect((await mine.nc.request(named, JSON.stringify(meta))).json()).toMatchObject({ stream: `OBJ_BPR_${id}` });
    const chunks = (await stored(all, `OBJ_BPR_${id}`)).filter((subject) => subject.includes('.C.'));
    for (const subject of chunks) expect((await mine.nc.request(subject, 'more')).json()).toMatchObject({ stream: `OBJ_BPR_${id}` });
    mine.nc.publish(`$JS.API.STREAM.PURGE.OBJ_BPR_${id}`, '{}');
    await expect.poll(() => mine.refused.length, { timeout: 30_000 }).toBe(3);
    expect((await queue.objects.get(object)).length).toBe(300_000);
    expect((await queue.objects.put(await queue.objects.get(object), object.key)).sha256).toBe(object.sha256);
  });

  testNats('is nothing without the key of the account, and a wrong key is named', async () => {
    const worker = { workerId: 'w', publicKey: makeIdentity().publicKey, expiresAt: 0 };
    const { accountKey: _, ...without } = { servers: 'h', queue: 'q', accountKey: '', credentials: { creds: () => accounts.creds } };
    expect(await new NatsQueue(without, context).grant(worker)).toBe(undefined);
    const keyless = new NatsQueue({ ...without, accountKey: () => 'hunter2' }, context);
    await expect(keyless.grant(worker)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    const own = makeIdentity();
    const { jwt } = await grantOf(open(name(), { accountKey: () => accounts.accountKey }), own);
    expect((await connection(jwt, own)).nc.isClosed()).toBe(false);
    expect(credsAuthenticator(Buffer.from(accounts.creds))('nonce')).toHaveProperty('jwt');
  });
});
