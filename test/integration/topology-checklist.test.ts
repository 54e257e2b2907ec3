/**
 * What is to be true of a control plane and its workers before anybody relies on them, on machines of their own: the control plane on one,
 * three workers with an engine each on others, and packet filters that let nobody begin a connection to a worker.
 */

import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { zipSync } from 'fflate';
import { afterAll, describe, expect } from 'vitest';
import { ControlClient } from '../../src/queue/control-client.ts';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import type { Headers, NewJob } from '../../src/queue/queue.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { readTicket } from '../../src/queue/ticket.ts';
import { BPR } from '../support/bpr.ts';
import { until } from '../support/gateway.ts';
import { Network, requireNamespaces } from '../support/netns.ts';
import type { Host } from '../support/netns.ts';
import { wat } from '../support/wasm.ts';
import { WorkerCommand } from '../support/worker-command.ts';
import type { News } from '../support/worker-command.ts';

const it = requireNamespaces();
const run = promisify(execFile);
const PORT = 3020;
const LEASE_MS = 5_000;
/** Seven processes begin in one of them, on a machine that may be busy. */
const STEP_MS = 180_000;
const ENV = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LOG_LEVEL: 'error' };
const WORKERS = ['w1', 'w2', 'w3'] as const;
type Name = (typeof WORKERS)[number];

/** Answers with its event. A digit at its beginning: after so many half seconds. An x: not at all. */
const MODULE = wat(`(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 65536))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.eq (i32.load8_u (i32.const 65536)) (i32.const 120)) (then (unreachable)))
    (i64.store (i32.const 124)
      (i64.mul (i64.const 500000000) (i64.extend_i32_u (i32.sub (i32.load8_u (i32.const 65536)) (i32.const 48)))))
    (drop (call $poll (i32.const 100) (i32.const 200) (i32.const 1) (i32.const 300)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))`);
const PACKAGE = zipSync({ 'handler.wasm': MODULE }, { mtime: '2026-01-01' });
const SHA256 = createHash('sha256').update(PACKAGE).digest('hex');

interface Machine {
  readonly host: Host;
  readonly folder: string;
  readonly commands: WorkerCommand[];
}

interface World {
  readonly network: Network;
  readonly control: Host;
  readonly data: string;
  readonly machines: Readonly<Record<Name, Machine>>;
}

const children: { readonly child: ChildProcess; readonly ended: Promise<unknown> }[] = [];
let world: World;
let queue: RemoteQueue | undefined;
let headers: Headers;
const folder = mkdtempSync(join(tmpdir(), 'tc-'));

afterAll(async () => {
  await queue?.close();
  const commands = world ? Object.values(world.machines).flatMap((machine) => machine.commands) : [];
  for (const { child, ended } of [...children, ...commands]) {
    child.kill('SIGKILL');
    await ended;
  }
  await world?.network.remove();
  rmSync(folder, { recursive: true, force: true });
});

/** A command on a machine; resolves with the first line that it prints. */
async function start(host: Host, ...words: string[]): Promise<string> {
  const [command = '', ...before] = host.through;
  const child = spawn(command, [...before, process.execPath, ...words], { stdio: ['ignore', 'pipe', 'inherit'], env: ENV });
  const ended = once(child, 'close');
  children.push({ child, ended });
  const [line] = (await Promise.race([
    once(createInterface({ input: child.stdout }), 'line'),
    ended.then((status) => Promise.reject(new Error(`${words.join(' ')} ended with ${status.join(' ')}`))),
  ])) as [string];
  return line;
}

const SERVER = `const server = require('net').createServer((socket) => socket.end('hello')); server.listen(+process.argv[1], process.argv[2], () => console.log('listening'))`;
const CLIENT = `const socket = require('net').connect(+process.argv[1], process.argv[2], () => console.log('connected')); socket.on('close', () => process.exit())`;

/** Whether somebody on the machine reaches the address: refused means that the packet filter there dropped what was sent. */
async function reaches(from: Host, to: Host, port: number): Promise<boolean> {
  const before = await to.refused();
  const [command = '', ...words] = from.through;
  const child = spawn(command, [...words, process.execPath, '-e', CLIENT, String(port), to.address], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'close');
  let isConnected = false;
  child.stdout.on('data', () => (isConnected = true));
  await until(async () => isConnected || (await to.refused()) > before);
  child.kill('SIGKILL');
  await ended;
  return isConnected;
}

async function startWorker(name: Name): Promise<WorkerCommand> {
  const { host, folder: own, commands } = world.machines[name];
  const ticket = readFileSync(join(world.data, 'endpoint.ticket'), 'utf8');
  const flags = `--backend engine --concurrency 4 --capabilities ${name} --lease-ms ${LEASE_MS} --drain-ms 200`.split(' ');
  const command = new WorkerCommand({ folder: own, through: host.through }, { CONTROL_PLANE_TICKET: ticket }, flags);
  commands.push(command);
  await command.until('ready');
  return command;
}

function job(id: string, event: string, more: Partial<NewJob> = {}): NewJob {
  return { id, type: 'function', payload: Buffer.from(event), headers, attemptsMax: 20, ...more };
}

const opened = (): RemoteQueue => {
  if (queue) return queue;
  throw new Error('the control plane has not started');
};
const answer = async (id: string): Promise<string> => Buffer.from((await opened().result(id)).body as Uint8Array).toString();
const stateOf = async (id: string): Promise<string | undefined> => (await opened().status(id))?.state;
const idOf = (name: Name): string => String(told(name).find(({ event }) => event === 'enrolled')?.['workerId']);
const told = (name: Name): News[] => world.machines[name].commands.flatMap(({ news }) => news);
const nameOf = (workerId: string | undefined): Name => {
  const found = WORKERS.find((name) => idOf(name) === workerId);
  if (!found) throw new Error(`nobody is ${workerId}`);
  return found;
};
const current = (name: Name): WorkerCommand => world.machines[name].commands.at(-1) as WorkerCommand; // each is started before it is asked for

async function claimed(id: string): Promise<Name> {
  await until(async () => (await stateOf(id)) === 'claimed');
  return nameOf((await opened().status(id))?.workerId);
}

interface WorkerDocument {
  readonly id: string;
  readonly isPresent: boolean;
  readonly lastSeenAt: number;
}

async function presence(): Promise<readonly WorkerDocument[]> {
  const { workers } = await opened().control.ask({ method: 'GET', path: '/workers' });
  return workers as readonly WorkerDocument[];
}

async function metrics(): Promise<string> {
  const { urls, tlsKeySha256 } = readTicket(readFileSync(join(world.data, 'endpoint.ticket'), 'utf8'));
  const token = readFileSync(join(world.data, 'admin.token'), 'utf8').trim();
  const operator = new ControlClient({ credentials: { url: urls[0] ?? '', token, tlsKeySha256 } });
  try {
    return Buffer.from(await operator.send({ method: 'GET', path: '/metrics' })).toString();
  } finally {
    await operator.close();
  }
}

describe('a control plane and three workers on machines of their own', () => {
  it(
    '1: the control plane starts and exports its ticket',
    async () => {
      const network = await Network.create(['control', ...WORKERS]);
      const [control, ...hosts] = network.hosts as [Host, ...Host[]]; // one for each name
      const machines = Object.fromEntries(hosts.map((host) => [host.name, { host, folder: join(folder, host.name), commands: [] }]));
      world = { network, control, data: join(folder, 'control'), machines: machines as unknown as World['machines'] };
      const said = await start(
        control,
        BPR,
        'control-plane',
        '--host',
        control.address,
        '--port',
        String(PORT),
        '--data',
        world.data,
        '--json',
      );
      const url = `https://${control.address}:${PORT}`;
      expect(JSON.parse(said)).toMatchObject({ event: 'listening', url, ticketFile: join(world.data, 'endpoint.ticket') });
      const ticket = readFileSync(join(world.data, 'endpoint.ticket'), 'utf8');
      expect(readTicket(ticket)).toMatchObject({ urls: [url], tlsKeySha256: expect.stringMatching(/^[\w-]{43}$/) });
      queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
      const object = await new RemoteObjects(queue.control).keep(PACKAGE);
      const settings = functionSettings({ runtime: 'wasm', handler: 'handler.wasm', memoryMb: 128, timeoutMs: 20_000 });
      headers = functionHeaders({ name: 'nap', code: { kind: 'package', object }, settings });
    },
    STEP_MS,
  );

  it(
    '2: workers connect, from behind filters that let nobody in',
    async () => {
      const { host } = world.machines.w3;
      for (const machine of Object.values(world.machines)) await machine.host.inbound('refused');
      expect(await host.refused()).toBe(0);
      for (const machine of Object.values(world.machines))
        await start(machine.host, BPR, 'wasm', 'serve', '--data-dir', join(machine.folder, 'engine'), '--json');
      const commands = [];
      for (const name of WORKERS) commands.push(await startWorker(name));
      expect(new Set(WORKERS.map(idOf)).size).toBe(3);
      const present = (await presence()).filter(({ isPresent }) => isPresent).map(({ id }) => id);
      expect(present).toEqual(expect.arrayContaining(WORKERS.map(idOf)));
    },
    STEP_MS,
  );

  it(
    '3: a job that one worker claims and releases is claimed by another',
    async () => {
      await opened().publish(job('released', '8'));
      const first = await claimed('released');
      const [status] = await Promise.all([
        current(first).kill('SIGTERM'),
        until(() => current(first).news.some(({ event }) => event === 'draining')),
      ]);
      expect([status, current(first).ofOutcome('released')]).toEqual([0, 1]);
      expect(await answer('released')).toBe('8');
      const { workerId, attempts } = (await opened().status('released')) ?? {};
      expect([nameOf(workerId) === first, attempts]).toEqual([false, 1]);
      const before = idOf(first);
      await startWorker(first);
      expect(current(first).news.find(({ event }) => event === 'enrolled')).toMatchObject({ workerId: before });
    },
    STEP_MS,
  );

  it(
    '4: engines of the workers execute jobs',
    async () => {
      await opened().publishMany(WORKERS.map((name) => job(`on-${name}`, `0 ${name}`, { requires: [name] })));
      for (const name of WORKERS) {
        expect(await answer(`on-${name}`)).toBe(`0 ${name}`);
        expect(nameOf((await opened().status(`on-${name}`))?.workerId)).toBe(name);
      }
    },
    STEP_MS,
  );

  it(
    '5: the control plane knows how jobs are doing',
    async () => {
      await opened().publish(job('watched', '4', { delayMs: 2_000 }));
      expect(await opened().status('watched')).toMatchObject({ state: 'queued', attempts: 0, availableAt: expect.any(Number) });
      const name = await claimed('watched');
      expect(await opened().status('watched')).toMatchObject({ attempts: 1, leaseUntil: expect.any(Number), workerId: idOf(name) });
      expect(await answer('watched')).toBe('4');
      expect(await opened().status('watched')).toMatchObject({ state: 'completed', attempts: 1, endedAt: expect.any(Number) });
      await opened().publish(job('fails', 'x', { attemptsMax: 1 }));
      await expect(answer('fails')).rejects.toMatchObject({ code: 'FUNCTION_FAILED', message: expect.stringContaining('unreachable') });
      expect(await opened().status('fails')).toMatchObject({ state: 'dead', error: { code: 'FUNCTION_FAILED' } });
    },
    STEP_MS,
  );

  it(
    '6: a worker that is killed and one whose jobs crash do not disturb the others',
    async () => {
      const ids = Array.from({ length: 40 }, (_, index) => `many-${index}`);
      const poison = ['poison-1', 'poison-2', 'poison-3'];
      await opened().publishMany([
        ...poison.map((id) => job(id, 'x', { attemptsMax: 3, requires: ['w2'], priority: 9 })),
        ...ids.map((id) => job(id, `1 ${id}`)),
      ]);
      const running = (): number =>
        current('w1').news.filter(({ event }) => event === 'claimed').length -
        current('w1').news.filter(({ event }) => event === 'ended').length;
      await until(() => current('w1').ofOutcome('completed') > 0 && running() > 0);
      expect(await current('w1').kill()).toBe(-1);
      for (const id of ids) expect(await answer(id)).toBe(`1 ${id}`);
      for (const id of poison) await expect(answer(id)).rejects.toMatchObject({ code: 'FUNCTION_FAILED' });
      expect((await opened().deadLetters()).map(({ id }) => id)).toEqual(expect.arrayContaining(poison));
      const completions = WORKERS.flatMap(told).filter(({ event, outcome }) => event === 'ended' && outcome === 'completed');
      expect(new Set(completions.map(({ jobId }) => jobId)).size).toBe(completions.length);
      await until(() => current('w2').ofOutcome('dead') === 3);
      await startWorker('w1');
    },
    STEP_MS,
  );

  it(
    '7: nobody reaches a worker, and the worker reaches the control plane',
    async () => {
      const { host } = world.machines.w1;
      await start(host, '-e', SERVER, '4000', '0.0.0.0');
      await start(world.control, '-e', SERVER, '4000', world.control.address);
      const [command = '', ...words] = host.through;
      // It does listen: on its own machine it is reached, and from there the control plane's machine is.
      for (const address of ['127.0.0.1', host.address, world.control.address])
        expect((await run(command, [...words, process.execPath, '-e', CLIENT, '4000', address])).stdout).toBe('connected\n');
      expect(await reaches(world.control, host, 4_000)).toBe(false);
      expect(await reaches(world.machines.w2.host, host, 4_000)).toBe(false);
      // Nothing but the filter is in the way.
      await host.inbound('allowed');
      expect(await reaches(world.control, host, 4_000)).toBe(true);
      await host.inbound('refused');
      expect(await reaches(world.control, host, 4_000)).toBe(false);
    },
    STEP_MS,
  );

  it(
    '8: code came once by its hash, and a worker that is cut off comes back',
    async () => {
      for (const { folder: own } of Object.values(world.machines)) {
        const zip = readFileSync(join(own, 'packages/sha256', `${SHA256}.zip`));
        expect(createHash('sha256').update(zip).digest('hex')).toBe(SHA256);
      }
      expect(await metrics()).toMatch(/^blueprint_control_requests_total\{method="GET",route="\/objects\/\{sha256\}",status="200"\} 3$/m);
      await opened().publish(job('cut', '8'));
      const name = await claimed('cut');
      const { host } = world.machines[name];
      await host.cable('down');
      // Its lease runs out, and another worker has the whole work to do.
      expect(await answer('cut')).toBe('8');
      const { workerId, attempts } = (await opened().status('cut')) ?? {};
      expect([nameOf(workerId) === name, attempts]).toEqual([false, 2]);
      await host.cable('up');
      const healedAt = Date.now();
      await opened().publish(job('back', '0', { requires: [name] }));
      expect(await answer('back')).toBe('0');
      await until(() => current(name).ofOutcome('lost') === 1);
      const members = (await presence()).filter(({ id, isPresent }) => isPresent && WORKERS.map(idOf).includes(id));
      expect([members.length, members.some(({ id, lastSeenAt }) => id === idOf(name) && lastSeenAt >= healedAt)]).toEqual([3, true]);
      expect((await opened().stats()).byState).toMatchObject({ queued: 0, claimed: 0, failed: 0, expired: 0, cancelled: 0, dead: 4 });
      for (const each of WORKERS) expect(await current(each).kill('SIGTERM')).toBe(0);
    },
    STEP_MS,
  );
});
