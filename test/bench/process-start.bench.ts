/**
 * What it takes to start an instance of the process backend, against processes that are nothing more. Where bubblewrap works, a cold start
 * finds a sandbox that waits without a program, unless it is the first of its kind; where it does not, processes join their control groups
 * when they start.
 */

import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { ProcessBackend } from '../../plugins/process/index.ts';
import type { ProcessBackendOptions } from '../../plugins/process/index.ts';
import { systemClock } from '../../src/plugin.ts';
import type { FunctionVersion, Instance } from '../../src/plugin.ts';
import { FunctionRuntime } from '../../src/runtime/function-runtime.ts';
import { RuntimeApi } from '../../src/runtime/runtime-api.ts';
import { LightFunction } from './instances.ts';
import { median } from './measure.ts';

const ROUNDS = 15;
/** What refills behind a launch is done. */
const SETTLE_MS = 150;
const ENVIRONMENT = { _HANDLER: 'index.handler' };
const light = new LightFunction({
  files: { 'index.js': 'exports.handler = async (event) => event;\n' },
  settings: { memoryMb: 256, timeoutMs: 3_000 },
  environment: ENVIRONMENT,
});
const { root, code, client, version: fn } = light;

/** Ends what the last round left; not part of what is measured. */
const cleanUp: (() => Promise<void>)[] = [];
async function clean(): Promise<void> {
  for (const each of cleanUp.splice(0)) await each();
}

function exited(command: string, args: readonly string[]): Promise<void> {
  const child = spawn(command, args, { env: {}, stdio: 'ignore' });
  return new Promise((resolve) => child.once('exit', () => resolve()));
}

async function bareClient(): Promise<() => Promise<void>> {
  const { api, socketPath } = await light.trial();
  return async () => {
    const env = { ...ENVIRONMENT, AWS_LAMBDA_RUNTIME_API: `unix:${socketPath}` };
    const child = spawn(process.execPath, [client, 'run'], { env, cwd: code, stdio: 'ignore' });
    await api.waitForPolls(1);
    cleanUp.push(async () => {
      const over = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await over;
      await api.close();
    });
  };
}

/** With the Runtime API that instances have, which belongs to what a start takes. */
async function ours(backend: ProcessBackend, more: Partial<FunctionVersion> = {}): Promise<() => Promise<void>> {
  const { api: other, spec, socketPath } = await light.trial();
  await other.close();
  return async () => {
    const ready = Promise.withResolvers<void>();
    const fail = (reason: unknown): void => ready.reject(new Error(`the instance failed: ${JSON.stringify(reason)}`));
    const api = new RuntimeApi({ ready: ready.resolve, initFailed: fail, violated: fail }, 1);
    const serve = (connection: Socket, head: Buffer): void => api.serve(connection, head);
    const launched: Promise<Instance> = backend.launch({
      ...spec,
      fn: { ...spec.fn, ...more },
      runtimeApi: { ...spec.runtimeApi, listen: () => api.listen(socketPath), serve },
    });
    await Promise.all([launched, ready.promise]);
    const instance = await launched;
    cleanUp.push(async () => {
      await backend.terminate(instance);
      await api.close();
    });
  };
}

/** One turn of each in turns, after one that is not counted; preparing and cleaning are not measured. Prints the ratio of the medians. */
async function race(
  name: string,
  contestants: { readonly peer: () => Promise<() => Promise<void>>; readonly ours: () => Promise<() => Promise<void>> },
  goal?: number,
): Promise<void> {
  const all = { peer: [] as number[], ours: [] as number[] };
  for (let round = -1; round < ROUNDS; round += 1) {
    for (const side of ['peer', 'ours'] as const) {
      const run = await contestants[side]();
      const started = performance.now();
      await run();
      if (round >= 0) all[side].push(performance.now() - started);
      await clean();
    }
  }
  const [peerMs, oursMs] = [median(all.peer), median(all.ours)];
  const ratio = oursMs / peerMs;
  verdict(
    `${name.padEnd(44)} ${ratio.toFixed(2)}  ${oursMs.toFixed(2)} (${Math.min(...all.ours).toFixed(2)}) vs ${peerMs.toFixed(2)} (${Math.min(...all.peer).toFixed(2)}) ms`,
    ratio,
    goal,
  );
}

function verdict(line: string, value: number, goal?: number): void {
  const isGood = goal === undefined || value <= goal;
  if (!isGood) process.exitCode = 1;
  console.log(goal === undefined ? line : `${line}  goal <= ${goal} ${isGood ? 'ok' : 'MISSED'}`);
}

const backendOf = (options: ProcessBackendOptions): ProcessBackend => new ProcessBackend({ folder: join(root, 'instances'), ...options });

async function starts(): Promise<void> {
  const bare = async () => () => exited(process.execPath, ['-e', '0']);
  for (const sandbox of ['bubblewrap', 'permissions', 'none'] as const) {
    const backend = backendOf({ sandbox, blanks: 0 });
    await backend.reapStale('bench');
    const cold = async (): Promise<() => Promise<void>> => {
      await systemClock.sleep(SETTLE_MS);
      return ours(backend);
    };
    // A kind of its own each time.
    let ephemeralMb = 64;
    const first = async (): Promise<() => Promise<void>> => {
      await systemClock.sleep(SETTLE_MS);
      return ours(backend, { ephemeralMb: (ephemeralMb += 1) });
    };
    if (sandbox === 'bubblewrap') {
      await race('cold start, to a node that does nothing', { peer: bare, ours: cold }, 1.2);
      await race('cold start, the first of its kind', { peer: bare, ours: first });
    }
    await race(`cold start, ${sandbox}, to the bare client`, { peer: bareClient, ours: cold }, sandbox === 'bubblewrap' ? 1.2 : undefined);
    await backend.close();
  }
  const backend = backendOf({ blanks: 2 });
  const waiting = async (): Promise<() => Promise<void>> => {
    while ((await backend.describe()).blanks < 2) await systemClock.sleep(5);
    await systemClock.sleep(SETTLE_MS);
    return ours(backend);
  };
  await (
    await ours(backend)
  )();
  await clean();
  await race('from a waiting process, to the bare client', { peer: bareClient, ours: waiting }, 0.1);
  await backend.close();
}

/** Warm calls: through the function runtime, and of the same bytes over a socket to a server that does nothing else. */
async function calls(): Promise<void> {
  const backend = backendOf({ blanks: 0 });
  const folder = join(root, 'runtime');
  mkdirSync(folder);
  const runtime = new FunctionRuntime({ backend, folder });
  await runtime.start();
  const event = Buffer.from('{"a":1}');
  await runtime.invoke(fn, event);
  const server = join(root, 'server.cjs');
  const socketPath = join(root, 'server.sock');
  writeFileSync(
    server,
    `require('http').createServer((request, response) => { const all = []; request.on('data', (chunk) => all.push(chunk)).on('end', () => response.end(JSON.stringify(JSON.parse(Buffer.concat(all))))); }).listen(${JSON.stringify(socketPath)}, () => process.stdout.write('up'));`,
  );
  const child = spawn(process.execPath, [server], { env: {}, stdio: ['ignore', 'pipe', 'inherit'] });
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const agent = new Agent({ keepAlive: true });
  const raw = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const sent = request({ socketPath, agent, method: 'POST', headers: { 'content-length': event.length } }, (response) => {
        response.resume().on('end', resolve);
      });
      sent.on('error', reject).end(event);
    });
  const times = { peer: [] as number[], ours: [] as number[] };
  for (let round = 0; round < 3_000; round += 1) {
    for (const [side, run] of [
      ['peer', raw],
      ['ours', () => runtime.invoke(fn, event)],
    ] as const) {
      const started = performance.now();
      await run();
      if (round >= 500) times[side].push(performance.now() - started);
    }
  }
  for (const [name, share] of [
    ['p50', 0.5],
    ['p99', 0.99],
  ] as const) {
    const at = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length * share)] ?? 0;
    const [oursMs, peerMs] = [at(times.ours), at(times.peer)];
    verdict(
      `warm call ${name}, to a raw request`.padEnd(45) + `${(oursMs / peerMs).toFixed(2)}  ${oursMs.toFixed(3)} vs ${peerMs.toFixed(3)} ms`,
      oursMs / peerMs,
      2,
    );
  }
  await runtime.close(1_000);
  await backend.close();
  agent.destroy();
  child.kill('SIGKILL');
}

try {
  await starts();
  await calls();
} finally {
  light.remove();
}
