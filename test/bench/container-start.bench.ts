/** What it takes to start and to call an instance in a container, against plain containers of the same image. Needs Docker; runc where it is. */

import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import Docker from 'dockerode';
import { ContainerBackend } from '../../plugins/container/backend.ts';
import { RuncBackend } from '../../plugins/container/runc.ts';
import type { Instance, InstanceBackend } from '../../src/plugin.ts';
import { FunctionRuntime } from '../../src/runtime/function-runtime.ts';
import { LightFunction } from './instances.ts';
import { median } from './measure.ts';

const ROUNDS = Number(process.argv[2] ?? 9);
const CALLS = 2_000;
const GOALS = { cold: 1.2, runc: 0.5, resumedMs: 10, warm: 2 };

const ENVIRONMENT = { _HANDLER: 'index.handler', LAMBDA_TASK_ROOT: '/var/task', PATH: '/var/lang/bin:/bin' };
const light = new LightFunction({
  files: {
    'index.mjs': 'export const handler = async (event) => event;\n',
    'server.cjs': `const server = require('node:http').createServer((request, response) => { const chunks = []; request.on('data', (chunk) => chunks.push(chunk)); request.on('end', () => response.end(Buffer.concat(chunks))); });
   server.keepAliveTimeout = 0; process.umask(0); server.listen('/sockets/server.sock');`,
  },
  settings: { memoryMb: 1769, timeoutMs: 10_000 },
  environment: ENVIRONMENT,
});
const { root, code, client, version: fn } = light;

interface Started {
  readonly end: () => Promise<void>;
}

/** From nothing to the first request for work. */
async function ours(backend: InstanceBackend): Promise<Started> {
  const { api, spec } = await light.trial();
  const instance = await backend.launch(spec);
  await api.waitForPolls(1);
  return { end: () => ended(backend, instance).then(() => api.close()) };
}

async function ended(backend: InstanceBackend, instance: Instance): Promise<void> {
  await backend.terminate(instance);
}

const docker = new Docker();

async function newestImage(): Promise<string> {
  const images = await docker.listImages({ filters: { reference: ['blueprint-runner/node'] } });
  const tag = images[0]?.RepoTags?.[0];
  if (tag === undefined) throw new Error('the base image was not made');
  return tag;
}

/** The same program in a container of the same image without any limit, as `docker run` makes it. */
async function plain(image: string): Promise<Started> {
  const { api, socketPath } = await light.trial();
  const container = await docker.createContainer({
    Image: image,
    Cmd: ['node', '/run/bpr/client.cjs', 'run'],
    Env: [...Object.entries(ENVIRONMENT).map(([name, value]) => `${name}=${value}`), 'AWS_LAMBDA_RUNTIME_API=unix:/run/bpr/api.sock'],
    HostConfig: {
      NetworkMode: 'none',
      Binds: [`${code}:/var/task:ro`, `${client}:/run/bpr/client.cjs:ro`, `${socketPath}:/run/bpr/api.sock`],
    },
  });
  await container.start();
  await api.waitForPolls(1);
  return { end: () => container.remove({ force: true }).then(() => api.close()) };
}

async function timed(start: () => Promise<Started>): Promise<number> {
  const began = performance.now();
  const { end } = await start();
  const tookMs = performance.now() - began;
  await end();
  return tookMs;
}

const fixed = (value: number): string => value.toFixed(1);

function print(name: string, ratio: number, detail: string, goal: number): void {
  const isMet = ratio <= goal;
  if (!isMet) process.exitCode = 1;
  console.log(`${name.padEnd(44)} ${ratio.toFixed(3)}  ${detail}  goal <= ${goal} ${isMet ? 'ok' : 'MISSED'}`);
}

async function coldStarts(drivers: Readonly<Record<string, () => Promise<Started>>>): Promise<Record<string, number[]>> {
  const times: Record<string, number[]> = Object.fromEntries(Object.keys(drivers).map((name) => [name, []]));
  for (let round = -1; round < ROUNDS; round += 1) {
    for (const [name, start] of Object.entries(drivers)) {
      const tookMs = await timed(start);
      if (round >= 0) times[name]?.push(tookMs);
    }
  }
  return times;
}

const ratios = (these: readonly number[], those: readonly number[]): number =>
  median(these.map((value, index) => value / (those[index] ?? 1)));

const backends: Record<string, InstanceBackend> = { docker: new ContainerBackend({ folder: join(root, 'docker') }) };
const runc = new RuncBackend({ folder: join(root, 'runc') });
const whyNoRunc = await runc.unavailable();
if (whyNoRunc === undefined) backends['runc'] = runc;
else console.log(`runc is left out: ${whyNoRunc}`);
for (const backend of Object.values(backends)) await backend.prepull?.(fn, new AbortController().signal);
const image = await newestImage();

const cold = await coldStarts({
  plain: () => plain(image),
  cli: async () => {
    execFileSync('docker', ['run', '--rm', '--network', 'none', image, 'node', '-e', '0'], { stdio: 'ignore' });
    return { end: () => Promise.resolve() };
  },
  ...Object.fromEntries(Object.entries(backends).map(([name, backend]) => [name, () => ours(backend)])),
});
const of = (name: string): readonly number[] => cold[name] ?? [];
console.log(
  `plain container, created and started by dockerode, until its first request: ${fixed(median(of('plain')))} ms; docker run --rm node -e 0: ${fixed(median(of('cli')))} ms`,
);
print('cold start by docker, to a plain container', ratios(of('docker'), of('plain')), `${fixed(median(of('docker')))} ms`, GOALS.cold);
print('cold start by docker, to docker run', ratios(of('docker'), of('cli')), `${fixed(median(of('docker')))} ms`, GOALS.cold);
if (whyNoRunc === undefined)
  print('cold start by runc, to docker run', ratios(of('runc'), of('cli')), `${fixed(median(of('runc')))} ms`, GOALS.runc);

/** A bare HTTP server in a container behind a unix socket, asked over a connection that is kept. */
async function rawServer(): Promise<{ call: () => Promise<void>; end: () => Promise<void> }> {
  const sockets = join(root, 'sockets');
  mkdirSync(sockets);
  chmodSync(sockets, 0o777);
  const container = await docker.createContainer({
    Image: image,
    Cmd: ['node', '/var/task/server.cjs'],
    // The same processor as the function has.
    HostConfig: { NetworkMode: 'none', NanoCpus: 1e9, Binds: [`${code}:/var/task:ro`, `${sockets}:/sockets`] },
  });
  await container.start();
  const agent = new Agent({ keepAlive: true });
  const socketPath = join(sockets, 'server.sock');
  const call = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const asking = request({ socketPath, method: 'POST', agent, headers: { 'content-type': 'application/json' } }, (answer) => {
        answer.resume().once('end', resolve);
      });
      asking.once('error', reject);
      asking.end('{"n":1}');
    });
  const up = async (): Promise<void> => call().catch(() => new Promise<void>((resolve) => setTimeout(resolve, 5)).then(up));
  await up();
  return { call, end: () => container.remove({ force: true }) };
}

async function latencies(call: () => Promise<unknown>): Promise<{ readonly p50: number; readonly p99: number }> {
  const times: number[] = [];
  for (let index = 0; index < CALLS; index += 1) {
    const began = performance.now();
    await call();
    times.push(performance.now() - began);
  }
  const sorted = times.toSorted((a, b) => a - b);
  return { p50: sorted[Math.floor(CALLS * 0.5)] ?? 0, p99: sorted[Math.floor(CALLS * 0.99)] ?? 0 };
}

const raw = await rawServer();
for (const [name, backend] of Object.entries(backends)) {
  const runtime = new FunctionRuntime({ backend, folder: join(root, `runtime-${name}`) });
  await runtime.start();
  const event = Buffer.from('{"n":1}');
  await latencies(() => runtime.invoke(fn, event));
  await latencies(raw.call);
  const rounds = { ours: [] as { p50: number; p99: number }[], raw: [] as { p50: number; p99: number }[] };
  for (let round = 0; round < 5; round += 1) {
    rounds.ours.push(await latencies(() => runtime.invoke(fn, event)));
    rounds.raw.push(await latencies(raw.call));
  }
  for (const part of ['p50', 'p99'] as const) {
    const [mine, its] = [rounds.ours.map((one) => one[part]), rounds.raw.map((one) => one[part])];
    print(
      `warm call by ${name}, ${part}, to a raw request`,
      ratios(mine, its),
      `${median(mine).toFixed(3)} ms vs ${median(its).toFixed(3)} ms`,
      GOALS.warm,
    );
  }
  await runtime.close();
}
await raw.end();

for (const name of Object.keys(backends)) {
  // A closed runtime may have closed its backend; a paused instance belongs to one of its own.
  const own: InstanceBackend =
    name === 'docker' ? new ContainerBackend({ folder: join(root, 'docker') }) : new RuncBackend({ folder: join(root, 'runc') });
  const { api, spec } = await light.trial();
  const instance = await own.launch(spec);
  await api.waitForPolls(1);
  const times: number[] = [];
  for (let round = 0; round < ROUNDS + 1; round += 1) {
    await own.pause?.(instance);
    const began = performance.now();
    await own.resume?.(instance);
    await api.invoke('{"n":1}');
    if (round > 0) times.push(performance.now() - began);
    await api.waitForPolls(1);
  }
  print(
    `from a paused container by ${name}, in ms`,
    median(times),
    `${fixed(Math.min(...times))} to ${fixed(Math.max(...times))} ms`,
    GOALS.resumedMs,
  );
  await own.terminate(instance);
  await own.close?.();
  await api.close();
}

for (const backend of Object.values(backends)) await backend.close?.();
light.remove();
