/** `bpr worker` as processes of their own, against a control plane. */

import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { Metadata, QueueExecutor, RemoteQueue } from '../../src/index.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { openIdentity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { startCommand } from '../support/gateway-command.ts';
import { reservedPort } from '../support/reserved-port.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const UINT64 = parseParameters('uint64 x');
let folder: string;
let artifact: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'wc-'));
  artifact = (await buildHandler({ entry: new URL('../fixtures/worker/jobs.ts', import.meta.url).pathname, outDir: folder })).zipFile;
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

let count = 0;
const place = (name: string): string => join(folder, `${name}${(count += 1)}`);

interface World {
  readonly control: ControlPlane;
  readonly ticket: string;
  readonly queue: RemoteQueue;
  readonly executor: QueueExecutor;
}

async function world(options: { readonly attemptsMax?: number } = {}): Promise<World> {
  const control = new ControlPlane({ folder: place('control') });
  await control.listen({ port: 0 });
  const { ticket } = await control.tickets.create({ uses: 10 });
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: openIdentity(join(place('runner'), 'identity.key')) } });
  const executor = new QueueExecutor({ queue, objects: new RemoteObjects(queue.control), artifact, ...options });
  onTestFinished(async () => {
    await executor.close();
    await queue.close();
    await control.close(100);
  });
  return { control, ticket, queue, executor };
}

function worker(ticket: string, ...flags: string[]): WorkerCommand {
  const command = new WorkerCommand(place('w'), { CONTROL_PLANE_TICKET: ticket }, flags);
  onTestFinished(async () => {
    await command.kill();
  });
  return command;
}

async function invoke(executor: QueueExecutor, jobId: bigint, x: bigint): Promise<bigint> {
  const call = { id: `call-${jobId}-${x}`, jobId, body: encodeAbi(UINT64, [x]), metadata: new Metadata() };
  const { results } = await executor.invoke(call, { deadline: Date.now() + 60_000, attempt: 1 });
  return BigInt(`0x${Buffer.from(results[0]?.body ?? []).toString('hex')}`);
}

describe('bpr worker', () => {
  it('has engines run the functions, with the key that they ask for', async () => {
    const { ticket, executor } = await world();
    const token = 'a-key-of-more-than-thirty-two-characters';
    const key = place('engine-key');
    writeFileSync(key, token, { mode: 0o600 });
    const engine = await startCommand(place('engine'), '--token', `file:${key}`);
    const command = new WorkerCommand(place('w'), { CONTROL_PLANE_TICKET: ticket, FLAWLESS_URL: engine.url, BPR_WASM_TOKEN: token }, [
      '--backend',
      'engine',
    ]);
    onTestFinished(async () => {
      await command.kill();
    });
    expect(await Promise.all([2n, 3n].map((x) => invoke(executor, 0n, x)))).toEqual([4n, 9n]);
    const functions = await fetch(`${engine.url}/api/v1/functions`, { headers: { authorization: `Bearer ${token}` } });
    expect(await functions.json()).toMatchObject({ functions: [{ runtime: expect.stringMatching(/^nodejs/) }] });
    expect(await command.kill('SIGTERM')).toBe(0);
  });

  it('enrols with its ticket, runs jobs, and tells how long each step took', async () => {
    const { ticket, executor } = await world();
    const command = worker(ticket);
    const numbers = Array.from({ length: 12 }, (_, index) => BigInt(index));
    expect(await Promise.all(numbers.map((x) => invoke(executor, 0n, x)))).toEqual(numbers.map((x) => x * x));
    expect(await command.until('first-job')).toMatchObject({ outcome: 'completed' });
    const steps = ['started', 'enrolled', 'ready', 'first-job'].map((kind) => command.news.find(({ event }) => event === kind));
    const times = steps.map((news) => Number(news?.['sinceStartMs']));
    expect(times).toEqual(times.toSorted((left, right) => left - right));
    const health = String(steps[0]?.['health']);
    expect((await fetch(`${health}/readyz`)).status).toBe(200);
    const metrics = await (await fetch(`${health}/metrics`)).text();
    expect(metrics).toContain('blueprint_runner_worker_jobs_total{outcome="completed"} 12');
    expect(Number(/^blueprint_runner_worker_memory_bytes (\d+)/m.exec(metrics)?.[1])).toBeGreaterThan(1_000_000);
    expect(await command.kill('SIGTERM')).toBe(0);
  });

  it('waits for a control plane and for its ticket, and ends cleanly when nobody came', async () => {
    const command = new WorkerCommand(place('w'), {}, ['--ticket-file', place('ticket')]);
    const { health } = await command.until('started');
    expect((await fetch(`${String(health)}/readyz`)).status).toBe(503);
    expect((await fetch(`${String(health)}/healthz`)).status).toBe(200);
    expect(await command.kill('SIGTERM')).toBe(0);
  });

  it('comes to the address that its ticket names now', async () => {
    const at = { folder: place('control'), ticketFile: place('ticket') };
    const before = new ControlPlane(at);
    await before.listen({ port: 0 });
    await before.close(0);
    const command = new WorkerCommand(place('w'), {}, ['--ticket-file', at.ticketFile]);
    onTestFinished(async () => void (await command.kill()));
    await command.until('waiting');
    const now = new ControlPlane(at);
    onTestFinished(() => now.close(0));
    await now.listen({ port: await reservedPort() });
    await command.until('ready');
  });

  it('goes with its control plane to another address and another TLS key, once it is enrolled, too', async () => {
    const at = { folder: place('control'), ticketFile: place('ticket') };
    const before = new ControlPlane(at);
    await before.listen({ port: 0, tls: 'own' });
    const command = new WorkerCommand(place('w'), {}, ['--ticket-file', at.ticketFile]);
    onTestFinished(async () => void (await command.kill()));
    await command.until('ready');
    await before.close(0);
    for (const file of readdirSync(at.folder).filter((name) => name.startsWith('tls'))) rmSync(join(at.folder, file));
    const now = new ControlPlane(at);
    onTestFinished(() => now.close(0));
    await now.listen({ port: await reservedPort(), tls: 'own' });
    const { ticket } = await now.tickets.create({ uses: 1 });
    const queue = await RemoteQueue.connect({ credentials: { ticket, identity: openIdentity(place('publisher')) } });
    onTestFinished(() => queue.close());
    const { id } = await queue.publish({ type: 'unknown', payload: Buffer.from('x') });
    // Of no function: what matters is that it took it.
    await expect(queue.result(id)).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
  });

  it('ends with 2 when its ticket is malformed or was revoked', async () => {
    const { ticket, control } = await world();
    const malformed = worker(`${ticket.slice(0, -4)}AAAA`);
    expect(await malformed.ended).toBe(2);
    expect(malformed.news.at(-1)).toMatchObject({ event: 'error', code: 'TICKET_MALFORMED' });
    expect(await worker('').ended).toBe(2);
    const other = await control.tickets.create({ uses: 1 });
    await control.tickets.revoke(other.record.id);
    const revoked = worker(other.ticket);
    expect(await revoked.ended).toBe(2);
    expect(revoked.news.at(-1)).toMatchObject({ event: 'error', code: 'TICKET_REVOKED' });
  });

  it('ends with 2 when its ticket is revoked while it waits for jobs', async () => {
    const { control } = await world();
    const { ticket, record } = await control.tickets.create({ uses: 1 });
    const command = worker(ticket);
    await command.until('ready');
    await control.tickets.revoke(record.id);
    expect(await command.ended).toBe(2);
    expect(command.news.at(-1)).toMatchObject({ event: 'error', code: 'TICKET_REVOKED' });
  });

  it('ends with what is wrong when it cannot begin to work', async () => {
    const { ticket } = await world();
    const many = worker(ticket, '--concurrency', '5000');
    expect(await many.ended).toBe(1);
    expect(many.news.at(-1)).toMatchObject({ event: 'error', code: 'CONFIG_INVALID', message: expect.stringContaining('not 5000') });
    const unknown = worker(ticket, '--backend', 'other');
    expect(await unknown.ended).toBe(1);
    expect(unknown.news.at(-1)).toMatchObject({ event: 'error', code: 'CONFIG_INVALID' });
    const data = place('w');
    const [first, second] = [0, 1].map(() => new WorkerCommand(data, { CONTROL_PLANE_TICKET: ticket }, []));
    onTestFinished(async () => {
      await Promise.all([first?.kill(), second?.kill()]);
    });
    expect(await Promise.race([first?.ended, second?.ended])).toBe(1);
    expect([...(first?.news ?? []), ...(second?.news ?? [])]).toContainEqual(
      expect.objectContaining({ event: 'error', code: 'CONFIG_INVALID', message: expect.stringContaining('--data') }),
    );
  });

  it('runs one job and ends, from the control plane or from a file', async () => {
    const { ticket, executor, queue } = await world();
    const one = worker(ticket, '--once', '--package-bytes-max', String(1024 ** 3));
    expect(await invoke(executor, 0n, 9n)).toBe(81n);
    expect(await one.ended).toBe(0);
    await queue.publish({ id: 'none', type: 'function', payload: Buffer.from('{}'), headers: { function: 'none' } });
    expect(await worker(ticket, '--once').ended).toBe(1);
    const file = place('job.json');
    const event = { job_id: 0, args_base64: Buffer.from(encodeAbi(UINT64, [12n])).toString('base64') };
    writeFileSync(file, JSON.stringify({ artifact, event }));
    const local = worker('', '--once', '--job', file);
    expect(JSON.parse(String((await local.until('result'))['body']))).toMatchObject({
      result_base64: Buffer.from(encodeAbi(UINT64, [144n])).toString('base64'),
    });
    expect(await local.ended).toBe(0);
    writeFileSync(file, 'null');
    const nothing = worker('', '--once', '--job', file);
    expect(await nothing.ended).toBe(1);
    expect(nothing.news).toMatchObject([
      { event: 'error', code: 'CONFIG_INVALID', message: expect.stringContaining('must name its artifact') },
    ]);
  });

  it('under load, at SIGTERM: claims no more at once, lets jobs end, gives the others back; none is lost, none runs twice', async () => {
    const { ticket, executor, queue } = await world();
    const first = worker(ticket, '--concurrency', '4');
    const second = worker(ticket, '--concurrency', '4');
    await Promise.all([first.until('ready'), second.until('ready')]);
    const numbers = Array.from({ length: 60 }, (_, index) => BigInt(index));
    const calls = Promise.allSettled(numbers.map((x) => invoke(executor, 1n, x)));
    await first.until('first-job');
    expect(await first.kill('SIGTERM')).toBe(0);
    const drained = first.news.findIndex(({ event }) => event === 'draining');
    expect(drained).toBeGreaterThan(0);
    expect(first.news.slice(drained).filter(({ event }) => event === 'claimed')).toEqual([]);
    const [completed, released] = [first.ofOutcome('completed'), first.ofOutcome('released')];
    expect(first.news.filter(({ event }) => event === 'claimed')).toHaveLength(completed + released);
    // The answer to a claim that was on its way: all of it goes back, and it is one answer.
    const returned = first.news.filter(({ event }) => event === 'returned');
    expect(returned.filter(({ outcome }) => outcome !== 'released')).toEqual([]);
    expect(returned.length).toBeLessThanOrEqual(4);
    expect(first.news.findLast(({ event }) => event === 'drained')).toMatchObject({ released: released + returned.length, broken: 0 });
    expect(await calls).toEqual(numbers.map((x) => ({ status: 'fulfilled', value: x * x })));
    expect((await queue.stats()).byState).toMatchObject({ completed: 60, queued: 0, claimed: 0, dead: 0, failed: 0 });
    expect(await second.kill('SIGTERM')).toBe(0);
    const told = [first, second].flatMap(({ news }) => news.filter(({ event, outcome }) => event === 'ended' && outcome === 'completed'));
    expect([told.length, new Set(told.map(({ jobId }) => jobId)).size]).toEqual([60, 60]);
    // No lease ran out, and what was given back counts as not begun.
    const attempts = await Promise.all(numbers.map(async (x) => (await queue.status(`call-1-${x}`))?.attempts));
    expect(attempts).toEqual(numbers.map(() => 1));
  });

  it('at the deadline of a drain gives running jobs back, and ends with 0', async () => {
    const { ticket, executor, queue } = await world({ attemptsMax: 3 });
    const slow = worker(ticket, '--drain-ms', '200');
    const call = invoke(executor, 2n, 5_000n).catch((error: unknown) => error);
    await slow.until('claimed');
    await expect.poll(async () => (await queue.status('call-2-5000'))?.state, { timeout: 10_000 }).toBe('claimed');
    expect(await slow.kill('SIGTERM')).toBe(0);
    expect(await queue.status('call-2-5000')).toMatchObject({ state: 'queued', attempts: 0 });
    const other = worker(ticket);
    expect(await call).toBe(5_000n);
    expect(await other.kill('SIGTERM')).toBe(0);
  });

  it('drains when nobody reads its news any more: the job that it runs is done', async () => {
    const { ticket, executor, queue } = await world();
    const command = worker(ticket);
    // What waits for the package has not begun, and would be given back.
    expect(await invoke(executor, 0n, 2n)).toBe(4n);
    await command.until('first-job');
    const claimed = (count: number): Promise<void> =>
      expect.poll(() => command.news.filter(({ event }) => event === 'claimed').length, { timeout: 10_000 }).toBe(count);
    const long = invoke(executor, 2n, 4_000n);
    await claimed(2);
    const short = invoke(executor, 2n, 2_000n);
    await claimed(3);
    // The end of the short one is the first that nobody reads.
    command.child.stdout?.destroy();
    expect(await Promise.all([long, short])).toEqual([4_000n, 2_000n]);
    expect(await command.ended).toBe(0);
    expect(command.stderr).not.toContain('EPIPE');
    expect(await queue.status('call-2-4000')).toMatchObject({ state: 'completed', attempts: 1 });
  });

  it('works on when nobody reads what it logs', async () => {
    const { ticket, executor, queue } = await world();
    const command = new WorkerCommand(place('w'), { CONTROL_PLANE_TICKET: ticket, LOG_LEVEL: 'debug' });
    onTestFinished(async () => {
      await command.kill();
    });
    await command.until('ready');
    command.child.stderr?.destroy();
    expect(await Promise.all([2n, 3n].map((x) => invoke(executor, 0n, x)))).toEqual([4n, 9n]);
    await queue.publish({ id: 'none', type: 'function', payload: Buffer.from('{}'), headers: { function: 'none' } });
    await expect.poll(async () => (await queue.status('none'))?.state, { timeout: 10_000 }).not.toBe('queued');
    expect(await command.kill('SIGTERM')).toBe(0);
  });

  it('a second signal ends it at once', async () => {
    const { ticket, executor } = await world();
    const command = worker(ticket, '--lease-ms', '4000');
    // What waits for the package has not begun, and would be given back.
    expect(await invoke(executor, 0n, 2n)).toBe(4n);
    const call = invoke(executor, 2n, 30_000n).catch((error: unknown) => error);
    await expect.poll(() => command.news.filter(({ event }) => event === 'claimed').length, { timeout: 10_000 }).toBe(2);
    command.child.kill('SIGTERM');
    await command.until('draining');
    expect(await command.kill('SIGTERM')).toBe(143);
    expect(await call).toMatchObject({ code: 'WORKER_LOST' });
  });
});
