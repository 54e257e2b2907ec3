/** A worker on a machine of its own, behind a filter that lets nobody in: its control plane is all that it reaches, and calls the engine for it. */

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { expect, onTestFinished } from 'vitest';
import { zipSync } from 'fflate';
import { functionHeaders, functionSettings } from '../../src/queue/function-job.ts';
import { makeIdentity } from '../../src/queue/identity.ts';
import { RemoteObjects } from '../../src/queue/remote-objects.ts';
import { RemoteQueue } from '../../src/queue/remote.ts';
import { BPR } from '../support/bpr.ts';
import { newFolder } from '../support/gateway.ts';
import { Network, requireNamespaces } from '../support/netns.ts';
import type { Host } from '../support/netns.ts';
import { ECHO } from '../support/wasm.ts';
import { WorkerCommand } from '../support/worker-command.ts';

const it = requireNamespaces();
const run = promisify(execFile);
const KEY = 'the-key-of-the-engine';
const ENV = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LOG_LEVEL: 'error', BPR_WASM_TOKEN: KEY };
/** Three processes begin, on a machine that may be busy. */
const LIMIT_MS = 180_000;

/** `bpr` on a machine; resolves with what it says when it listens. */
async function start(host: Host, ...words: string[]): Promise<string> {
  const [command = '', ...before] = host.through;
  const child = spawn(command, [...before, process.execPath, BPR, ...words, '--json'], { stdio: ['ignore', 'pipe', 'inherit'], env: ENV });
  const ended = once(child, 'close');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const [line] = (await Promise.race([
    once(createInterface({ input: child.stdout }), 'line'),
    ended.then((status) => Promise.reject(new Error(`${words.join(' ')} ended with ${status.join(' ')}`))),
  ])) as [string];
  return String((JSON.parse(line) as { readonly url: string }).url);
}

const CONNECT = `require('net').connect(+process.argv[1], process.argv[2]).on('connect', () => { console.log('connected'); process.exit(); }).on('error', (error) => { console.log(error.code); process.exit(); })`;

async function reach(from: Host, port: number, address: string): Promise<string> {
  const [command = '', ...words] = from.through;
  return (await run(command, [...words, process.execPath, '-e', CONNECT, String(port), address])).stdout.trim();
}

it(
  'a job runs on an engine that its worker has no route to',
  async () => {
    const folder = await newFolder();
    const network = await Network.create(['control', 'worker']);
    onTestFinished(() => network.remove());
    const [control, machine] = network.hosts as [Host, Host]; // one for each name
    await machine.inbound('refused');
    const engine = await start(control, 'wasm', 'serve', '--port', '0', '--data-dir', join(folder, 'e'), '--token', 'env:BPR_WASM_TOKEN');
    const data = join(folder, 'c');
    await start(control, 'control-plane', '--host', control.address, '--port', '3020', '--data', data, '--engine', engine);
    const ticket = readFileSync(join(data, 'endpoint.ticket'), 'utf8');
    const port = Number(new URL(engine).port);
    expect([await reach(control, port, '127.0.0.1'), await reach(machine, 3_020, control.address)]).toEqual(['connected', 'connected']);
    // Neither at the address of the control plane nor on its own machine.
    expect([await reach(machine, port, control.address), await reach(machine, port, '127.0.0.1')]).toEqual([
      'ECONNREFUSED',
      'ECONNREFUSED',
    ]);
    const flags = ['--backend', 'engine', '--concurrency', '8'];
    const worker = new WorkerCommand({ folder: join(folder, 'w'), through: machine.through }, { CONTROL_PLANE_TICKET: ticket }, flags);
    onTestFinished(async () => {
      await worker.kill();
    });
    const queue = await RemoteQueue.connect({ credentials: { ticket, identity: makeIdentity() } });
    onTestFinished(() => queue.close());
    const object = await new RemoteObjects(queue.control).keep(zipSync({ 'handler.wasm': ECHO }, { mtime: '2026-01-01' }));
    const settings = functionSettings({ runtime: 'wasm', handler: 'handler.wasm', memoryMb: 128, timeoutMs: 20_000 });
    const headers = functionHeaders({ name: 'echo', code: { kind: 'package', object }, settings });
    const events = Array.from({ length: 40 }, (_, index) => `event ${index}`);
    await queue.publishMany(events.map((id) => ({ id, type: 'function', payload: Buffer.from(id), headers, attemptsMax: 1 })));
    for (const id of events) expect(Buffer.from((await queue.result(id)).body as Uint8Array).toString()).toBe(id);
    expect(await worker.kill('SIGTERM')).toBe(0);
    expect(worker.ofOutcome('completed')).toBe(events.length);
  },
  LIMIT_MS,
);
