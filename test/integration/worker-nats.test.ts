/** Workers that speak to JetStream themselves, with what the control plane gives them for their key. */

import { execFile } from 'node:child_process';
import { randomBytes, sign } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { connect, credsAuthenticator } from '@nats-io/transport-node';
import type { NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, onTestFinished } from 'vitest';
import { NatsQueue } from '../../plugins/nats/index.ts';
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
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import { BPR } from '../support/bpr.ts';
import { makeNatsAccounts, natsFlags } from '../support/nats-accounts.ts';
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
}, 60_000);

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

async function world(options: { readonly sessionMs?: number } = {}): Promise<World> {
  const id = name();
  const queue = open(id);
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
async function connection(jwt: string, { privateKey }: Identity): Promise<{ readonly nc: NatsConnection; readonly refused: string[] }> {
  const nc = await connect({
    servers: [...(nats?.addresses ?? [])],
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
    const { nc } = await connection((await grantOf(queue, own, 4_000)).jwt, own);
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
    const kept = await inner.objects.put(payload);
    await inner.objects.remove(kept);
    await expect(queue.objects.get(kept)).rejects.toMatchObject({ code: 'NOT_FOUND' });
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
