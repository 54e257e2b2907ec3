/** Workers and control planes that are told to end under load: what runs is finished or given back, nothing is lost, nothing happens twice. */

import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { ControlPlane } from '../../src/control/control.ts';
import { buildHandler } from '../../src/deploy/package.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import { EmbeddedQueue } from '../../src/queue/embedded.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import type { ClaimOptions, ClaimedJob, Headers, Lease, NewJob, QueueResult } from '../../src/queue/queue.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { BPR } from '../support/bpr.ts';
import { until } from '../support/gateway.ts';
import { reservedPort } from '../support/reserved-port.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const UINT64 = parseParameters('uint64 x');
/** Longer than any test. */
const ENDLESS_MS = 600_000;
const SLOW = 1;
const WAIT = 2;
let folder: string;
let artifact: Uint8Array;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'wd-'));
  const entry = new URL('../fixtures/worker/jobs.ts', import.meta.url).pathname;
  artifact = readFileSync((await buildHandler({ entry, outDir: folder })).zipFile);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

let count = 0;
const place = (name: string): string => join(folder, `${name}${(count += 1)}`);

/** What a queue was asked, and what it answered. */
interface Seen {
  readonly claims: { readonly at: number; readonly workerId: string; ids: readonly string[] }[];
  readonly completed: string[];
  readonly released: string[];
}

/** The queue of a control plane, which remembers what it sees. */
function watched(file: string): { readonly queue: EmbeddedQueue; readonly seen: Seen } {
  const queue = EmbeddedQueue.open({ folder: file });
  const seen: Seen = { claims: [], completed: [], released: [] };
  const { claim, complete, release } = queue;
  queue.claim = async (options: ClaimOptions): Promise<ClaimedJob[]> => {
    const record = { at: Date.now(), workerId: options.workerId, ids: [] as readonly string[] };
    seen.claims.push(record);
    const jobs = await claim.call(queue, options);
    record.ids = jobs.map(({ id }) => id);
    return jobs;
  };
  queue.complete = async (lease: Lease, result: QueueResult): Promise<void> => {
    await complete.call(queue, lease, result);
    seen.completed.push(lease.jobId);
  };
  queue.release = async (lease: Lease, options): Promise<void> => {
    await release.call(queue, lease, options);
    seen.released.push(lease.jobId);
  };
  return { queue, seen };
}

/** Somebody who publishes, and who claims as another worker. */
interface Publisher {
  readonly queue: RemoteQueue;
  readonly headers: Headers;
}

async function connect(ticket: string): Promise<Publisher> {
  const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
  onTestFinished(() => queue.close());
  const object = await new RemoteObjects(queue.control).keep(artifact);
  return {
    queue,
    headers: functionHeaders({ name: 'jobs', code: { kind: 'package', object }, settings: functionSettings({ timeoutMs: ENDLESS_MS }) }),
  };
}

interface Work {
  readonly id: string;
  readonly jobId: number;
  readonly x: number;
}

function jobOf({ id, jobId, x }: Work, headers: Headers): NewJob {
  const event = { job_id: jobId, args_base64: Buffer.from(encodeAbi(UINT64, [BigInt(x)])).toString('base64') };
  return { id, type: 'function', payload: Buffer.from(JSON.stringify(event)), headers, attemptsMax: 3, priority: jobId === WAIT ? 9 : 4 };
}

/** What a function answered, as a number. */
async function numberOf(queue: RemoteQueue, id: string): Promise<number> {
  const { result_base64: result } = JSON.parse(Buffer.from((await queue.result(id)).body as Uint8Array).toString()) as {
    result_base64: string;
  };
  return Number(`0x${Buffer.from(result, 'base64').toString('hex')}`);
}

function worker(ticket: string, ...flags: string[]): WorkerCommand {
  const command = new WorkerCommand(place('w'), { CONTROL_PLANE_TICKET: ticket }, flags);
  onTestFinished(async () => {
    await command.kill();
  });
  return command;
}

/** It runs the job: its code is there, because another one came before. */
async function begins(command: WorkerCommand, { queue, headers }: Publisher, x: number): Promise<void> {
  await queue.publish(jobOf({ id: 'first', jobId: WAIT, x: 0 }, headers));
  await command.until('first-job');
  await queue.publish(jobOf({ id: 'job', jobId: WAIT, x }, headers));
  await until(() => running(command) === 1);
}

const ended = ({ news }: WorkerCommand, outcome?: string): number =>
  news.filter((one) => one.event === 'ended' && (outcome === undefined || one['outcome'] === outcome)).length;
const running = (command: WorkerCommand): number => command.news.filter(({ event }) => event === 'claimed').length - ended(command);
const last = ({ news }: WorkerCommand, kind: string): Readonly<Record<string, unknown>> =>
  news.findLast(({ event }) => event === kind) ?? {};

describe('SIGTERM at a worker with eight jobs at a time', () => {
  it('ends its claims at once; what ends in time is kept, the rest is given back at the deadline', async () => {
    const { queue: own, seen } = watched(place('queue'));
    const control = new ControlPlane({ folder: place('control'), queue: own });
    await control.listen({ port: 0 });
    onTestFinished(async () => {
      await control.close(100);
      await own.close();
    });
    const { queue, headers } = await connect((await control.tickets.create({})).ticket);
    const endless = Array.from({ length: 4 }, (_, index) => ({ id: `endless-${index}`, jobId: WAIT, x: ENDLESS_MS }));
    const brief = Array.from({ length: 240 }, (_, index) => ({ id: `brief-${index}`, jobId: SLOW, x: index }));
    const all = [...endless, ...brief];
    await queue.publishMany(all.map((work) => jobOf(work, headers)));
    const command = worker((await control.tickets.create({})).ticket, '--concurrency', '8', '--drain-ms', '6000');
    await until(() => ended(command, 'completed') >= 8 && running(command) >= 6);
    expect(await command.kill('SIGTERM')).toBe(0);

    const draining = Number(last(command, 'draining')['at']);
    const { workerId } = last(command, 'enrolled');
    const late = seen.claims.filter(({ at, workerId: who }) => who === workerId && at > draining);
    // One may have been on its way; what it brought went back.
    expect(late.length).toBeLessThanOrEqual(1);
    expect(late.flatMap(({ ids }) => ids).filter((id) => !seen.released.includes(id))).toEqual([]);
    const report = last(command, 'drained');
    const returned = command.news.filter(({ event }) => event === 'returned');
    expect(returned.filter(({ outcome }) => outcome !== 'released')).toEqual([]);
    expect(report).toMatchObject({ broken: 0, released: ended(command, 'released') + returned.length });
    expect(command.news.filter(({ event, at }) => event === 'claimed' && Number(at) > draining)).toEqual([]);
    expect(Number(report['finished'])).toBeGreaterThan(0);
    expect(seen.released).toEqual(expect.arrayContaining(endless.map(({ id }) => id)));
    // It holds nothing any more: nobody has to wait for a lease.
    const { byState } = await queue.stats();
    expect(byState).toMatchObject({
      claimed: 0,
      completed: ended(command, 'completed'),
      queued: all.length - ended(command, 'completed'),
      failed: 0,
      dead: 0,
    });
    expect(await queue.status('endless-0')).toMatchObject({ state: 'queued', attempts: 0 });

    const rest = await queue.claim({ workerId: queue.workerId, max: all.length });
    for (const { lease } of rest) await queue.complete(lease, { body: Buffer.from('by another') });
    expect((await queue.stats()).byState).toMatchObject({ completed: all.length, queued: 0, claimed: 0, failed: 0, dead: 0 });
    expect([seen.completed.length, new Set(seen.completed).size]).toEqual([all.length, all.length]);
  });

  it('a second signal, whichever it is, ends it at once', async () => {
    const control = new ControlPlane({ folder: place('control') });
    await control.listen({ port: 0 });
    onTestFinished(() => control.close(100));
    const publisher = await connect((await control.tickets.create({})).ticket);
    const command = worker((await control.tickets.create({})).ticket, '--drain-ms', String(ENDLESS_MS), '--lease-ms', '4000');
    await begins(command, publisher, ENDLESS_MS);
    command.child.kill('SIGTERM');
    await command.until('draining');
    expect(await command.kill('SIGINT')).toBe(130);
    // Its lease runs out, and the job is another's.
    const { queue } = publisher;
    const [job] = await queue.claim({ workerId: queue.workerId, waitMs: 60_000 });
    expect([job?.id, job?.attempt]).toEqual(['job', 2]);
  });
});

describe('SIGTERM at a worker that does not reach its control plane', () => {
  interface Away {
    readonly command: WorkerCommand;
    readonly queue: RemoteQueue;
    readonly comeBack: () => Promise<void>;
  }

  /** It runs a job of this time, its control plane has gone, and it has been told to end. */
  async function away(x: number, drainMs: number, leaseMs: number): Promise<Away> {
    const data = place('control');
    const first = new ControlPlane({ folder: data });
    const url = await first.listen({ port: await reservedPort() });
    const publisher = await connect((await first.tickets.create({})).ticket);
    const command = worker((await first.tickets.create({})).ticket, '--lease-ms', String(leaseMs), '--drain-ms', String(drainMs));
    await begins(command, publisher, x);
    await first.close(100);
    await command.until('disconnected');
    command.child.kill('SIGTERM');
    await command.until('draining');
    const comeBack = async (): Promise<void> => {
      const second = new ControlPlane({ folder: data });
      await second.listen({ port: Number(new URL(url).port) });
      onTestFinished(() => second.close(100));
    };
    return { command, queue: publisher.queue, comeBack };
  }

  it('delivers what it has when the control plane comes back in time', async () => {
    const { command, queue, comeBack } = await away(3_000, ENDLESS_MS, 30_000);
    await comeBack();
    expect(await command.ended).toBe(0);
    expect(last(command, 'drained')).toMatchObject({ finished: 1, released: 0, broken: 0 });
    expect([await numberOf(queue, 'job'), (await queue.status('job'))?.attempts]).toEqual([3_000, 1]);
  });

  it('ends with 0 at the deadline when it does not; the job goes to another worker', async () => {
    const { command, queue, comeBack } = await away(ENDLESS_MS, 500, 2_000);
    expect(await command.ended).toBe(0);
    expect(last(command, 'ended')).toMatchObject({ jobId: 'job', outcome: 'undelivered' });
    await comeBack();
    const [job] = await queue.claim({ workerId: queue.workerId, waitMs: 60_000 });
    expect([job?.id, job?.attempt]).toEqual(['job', 2]);
  });
});

interface Command {
  readonly child: ChildProcess;
  readonly url: string;
  readonly ended: Promise<number | null>;
}

async function controlPlane(data: string, port: number): Promise<Command> {
  const child = spawn(process.execPath, [BPR, 'control-plane', '--data', data, '--port', String(port), '--json'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const over = once(child, 'close').then(([code]) => code as number | null);
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await over;
  });
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  return { child, url: String((JSON.parse(line) as { url: string }).url), ended: over };
}

describe('SIGTERM at a control plane', () => {
  it('with workers under load: it ends with 0, and after its restart every job is completed once', async () => {
    const data = place('control');
    const port = await reservedPort();
    const first = await controlPlane(data, port);
    const ticket = readFileSync(join(data, 'endpoint.ticket'), 'utf8');
    const { queue, headers } = await connect(ticket);
    const workers = [worker(ticket, '--concurrency', '8'), worker(ticket, '--concurrency', '8')];
    for (const command of workers) await command.until('ready');
    const all = Array.from({ length: 200 }, (_, index) => ({ id: `job-${index}`, jobId: SLOW, x: index }));
    await queue.publishMany(all.map((work) => jobOf(work, headers)));
    await until(() => workers.every((command) => ended(command, 'completed') > 0 && running(command) > 0));
    first.child.kill('SIGTERM');
    expect(await first.ended).toBe(0);
    await controlPlane(data, port);
    for (const { id, x } of all) expect(await numberOf(queue, id)).toBe(x * x);
    expect((await queue.stats()).byState).toMatchObject({ completed: all.length, queued: 0, claimed: 0, failed: 0, dead: 0 });
    for (const command of workers) expect(await command.kill('SIGTERM')).toBe(0);
    const told = workers.flatMap(({ news }) => news.filter((one) => one.event === 'ended' && one['outcome'] === 'completed'));
    expect([told.length, new Set(told.map(({ jobId }) => jobId)).size]).toEqual([all.length, all.length]);
    // Nothing was begun again either: results waited for it.
    for (const { id } of all) expect((await queue.status(id))?.attempts).toBe(1);
  });

  it('a second one ends it at once, whoever it waits for, and nothing is lost', async () => {
    const data = place('control');
    const port = await reservedPort();
    const first = await controlPlane(data, port);
    const ticket = readFileSync(join(data, 'endpoint.ticket'), 'utf8');
    const { queue } = await connect(ticket);
    await queue.publish({ id: 'kept', type: 'work', payload: Buffer.from('7') });
    const token = readFileSync(join(data, 'admin.token'), 'utf8').trim();
    // Half a request: the other half does not come.
    const headers = { authorization: `Bearer ${token}`, 'content-length': '10', expect: '100-continue' };
    const upload = request(`${first.url}/objects/${'0'.repeat(64)}`, { method: 'PUT', headers });
    const broken = once(upload, 'error');
    upload.flushHeaders();
    await once(upload, 'continue');
    upload.write('half');
    first.child.kill('SIGTERM');
    await until(async () => (await fetch(`${first.url}/readyz`).catch(() => undefined))?.status !== 200);
    first.child.kill('SIGTERM');
    expect(await first.ended).toBe(143);
    await broken;
    await controlPlane(data, port);
    expect(await queue.status('kept')).toMatchObject({ state: 'queued' });
  });
});
