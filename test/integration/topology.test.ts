/** `bpr topology up`: every option comes up with one command, runs jobs, survives the failure that it stands for, and goes down clean. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { measureTopologies } from '../../src/cli/commands/topology-measure.ts';
import { BPR } from '../support/bpr.ts';
import { reservedPort } from '../support/reserved-port.ts';
import { TopologyWorld, bpr, processesOf, squaringModule, status, topologyFolder, up } from '../support/topology.ts';

const PORTS = ['--port', '0', '--engine-port', '0', '--lease-ms', '4000'];
const LIMIT_MS = 300_000;
const COUNT = 20;

let module: Uint8Array;
beforeAll(async () => {
  module = await squaringModule();
});

const flagsOf = (option: string, ...more: readonly string[]): readonly string[] => [
  '--option',
  option,
  '--workers',
  '2',
  ...PORTS,
  ...more,
];

/** All completed, however often they were tried. */
async function expectAllCompleted({ jobs: { queue } }: TopologyWorld, completed: number): Promise<void> {
  expect((await queue.stats()).byState).toMatchObject({ completed, queued: 0, claimed: 0, failed: 0, dead: 0, cancelled: 0, expired: 0 });
}

/** The jobs that a worker holds when it is killed are done by the other one. */
async function survivesWorker(option: string): Promise<void> {
  const world = await TopologyWorld.up(module, flagsOf(option));
  const id = world.workerId('worker-1');
  const holdsJobs = async (): Promise<boolean> =>
    (await world.jobs.queue.stats()).workers.some(({ workerId, claimed }) => workerId === id && claimed > 0);
  const published: (readonly string[])[] = [];
  for (let isHeld = false; !isHeld;) {
    const { queued } = (await world.jobs.queue.stats()).byState;
    if (queued === 0) published.push(await world.jobs.publish({ count: COUNT, ms: 400, prefix: `job-${published.length}` }));
    // Of what it holds while it is stopped nothing ends.
    world.kill('worker-1', 'SIGSTOP');
    isHeld = await holdsJobs();
    world.kill('worker-1', isHeld ? 'SIGKILL' : 'SIGCONT');
  }
  for (const ids of published) await world.jobs.done(ids);
  await expectAllCompleted(world, published.length * COUNT);
  const lost = (await world.jobs.queue.stats()).workers.find(({ workerId }) => workerId === id)?.lost ?? 0;
  expect(lost).toBeGreaterThan(0);
  const now = await status(world.folder);
  expect(now.parts.filter((part) => part.status !== 'running').map(({ name }) => name)).toEqual(['worker-1']);
  expect((await world.upAgain(flagsOf(option))).started).toEqual(['worker-1']);
  await world.down();
}

describe('bpr topology', () => {
  it('option 1: a worker is killed, the other one does its jobs', () => survivesWorker('1'), LIMIT_MS);

  it('option 4: a worker is killed, the other one does its jobs on the same engine', () => survivesWorker('4'), LIMIT_MS);

  it(
    'option 2: without the engine jobs wait, and none is lost; when it is back they are done',
    async () => {
      const world = await TopologyWorld.up(module, flagsOf('2'));
      expect(world.report.engineUrls).toEqual([world.part('engine-1').url]);
      // It has no address and no key of the engine.
      const environment = readFileSync(`/proc/${world.part('worker-1').pid}/environ`, 'utf8');
      expect(environment).toContain('LOG_LEVEL=');
      expect(environment).not.toMatch(/BPR_WASM|FLAWLESS/);
      expect(readFileSync(`/proc/${world.part('worker-1').pid}/cmdline`, 'utf8')).not.toContain(String(world.part('engine-1').port));
      const ids = await world.jobs.publish({ count: COUNT, ms: 200 });
      await world.jobs.until(({ byState }) => byState.completed > 0);
      world.kill('engine-1');
      // It could not say why: its log ends with whatever it said before.
      const shown = async (): Promise<string> => (await bpr('topology', 'status', '--data', world.report.folder)).stdout;
      await expect.poll(shown, { timeout: 60_000 }).toContain('engine-1 ended; the last lines of its log:');
      // Those of before may have been done by then.
      const waiting = await world.jobs.publish({ count: COUNT, ms: 200, prefix: 'waits' });
      await world.jobs.until(({ byState }) => byState.claimed === 0 && byState.queued > 0);
      expect((await world.jobs.queue.stats()).byState).toMatchObject({ failed: 0, dead: 0 });
      expect((await world.upAgain(flagsOf('2'))).started).toEqual(['engine-1']);
      await Promise.all([world.jobs.done(ids), world.jobs.done(waiting)]);
      await expectAllCompleted(world, 2 * COUNT);
      await world.down();
    },
    LIMIT_MS,
  );

  it(
    'option 3: one of three engines is killed under load, and no job fails',
    async () => {
      const world = await TopologyWorld.up(module, flagsOf('3', '--engines', '3'));
      expect(world.report.engineUrls).toHaveLength(3);
      const ids = await world.jobs.publish({ count: 3 * COUNT, ms: 100 });
      await world.jobs.until(({ byState }) => byState.completed >= COUNT / 2);
      world.kill('engine-2');
      await world.jobs.done(ids);
      await expectAllCompleted(world, 3 * COUNT);
      await world.down();
    },
    LIMIT_MS,
  );

  it(
    'hybrid: jobs run on the workers that they require, and outlive an engine of the pool',
    async () => {
      const world = await TopologyWorld.up(module, flagsOf('hybrid'));
      const names = world.report.parts.map(({ name }) => name);
      expect(names).toEqual(['control-plane', 'engine-1', 'engine-2', 'worker-1', 'worker-2', 'pool-worker']);
      const own = await world.jobs.publish({ count: COUNT, ms: 50, prefix: 'own', requires: ['engine:own'] });
      const shared = await world.jobs.publish({ count: COUNT, ms: 50, prefix: 'shared', requires: ['engine:shared'] });
      const pool = world.workerId('pool-worker');
      await world.jobs.until(({ workers }) => workers.some(({ workerId, completed }) => workerId === pool && completed > 0));
      world.kill('engine-1');
      await Promise.all([world.jobs.done(own), world.jobs.done(shared)]);
      await expectAllCompleted(world, 2 * COUNT);
      expect((await world.jobs.queue.stats()).workers.find(({ workerId }) => workerId === pool)?.completed).toBe(COUNT);
      await world.down();
    },
    LIMIT_MS,
  );

  it(
    'a second up changes nothing, another size changes only what is more or less, another option has to wait for down',
    async () => {
      const folder = topologyFolder();
      const flags = ['--option', '2', '--workers', '1', ...PORTS];
      const first = await up(folder, flags);
      expect(first.started).toEqual(['control-plane', 'engine-1', 'worker-1']);
      // Without ports those of before.
      const second = await up(folder, ['--option', '2', '--workers', '1', '--lease-ms', '4000']);
      expect([second.started, second.ended, second.parts.map(({ pid }) => pid)]).toEqual([[], [], first.parts.map(({ pid }) => pid)]);
      const more = await up(folder, ['--option', '2', '--workers', '2', '--workers-per-engine', '1', ...PORTS]);
      expect(more).toMatchObject({
        started: ['worker-2'],
        warnings: ['one engine keeps 1 workers busy as measured; 2 will wait for it'],
      });
      const fewer = await up(folder, flags);
      expect(fewer).toMatchObject({ started: [], ended: ['worker-2'], warnings: [] });
      const other = await bpr('topology', 'up', '--option', '1', '--data', folder);
      expect(other).toMatchObject({ status: 1, stderr: expect.stringContaining('STATE_INVALID: option 2 runs') as string });
      expect(statSync(join(folder, 'topology.json')).mode & 0o777).toBe(0o600);
      expect(statSync(join(folder, 'engine.token')).mode & 0o777).toBe(0o600);
      const token = readFileSync(join(folder, 'engine.token'), 'utf8');
      expect(readFileSync(join(folder, 'topology.json'), 'utf8')).not.toContain(token);
      const engine = first.parts[1]?.url ?? '';
      const asked = (headers: Record<string, string>) => fetch(`${engine}/api/v1/functions`, { headers }).then((answer) => answer.status);
      expect([await asked({}), await asked({ authorization: `Bearer ${token}` })]).toEqual([401, 200]);
      expect(await bpr('topology', 'down', '--purge', '--data', folder)).toMatchObject({ status: 0 });
      expect([existsSync(folder), processesOf(folder)]).toEqual([false, []]);
    },
    LIMIT_MS,
  );

  it(
    'an interruption, or a part that cannot start, leaves nothing running',
    async () => {
      const folder = topologyFolder();
      const args = ['topology', 'up', '--option', '1', '--data', folder, ...PORTS];
      const child = spawn(process.execPath, [BPR, ...args], { stdio: ['ignore', 'ignore', 'pipe'] });
      const ended = once(child, 'close');
      const started = join(folder, 'machines', 'control-plane', 'machine.json');
      await expect.poll(() => existsSync(started), { timeout: 60_000, interval: 5 }).toBe(true);
      child.kill('SIGINT');
      expect(await ended).toEqual([130, null]);
      expect([processesOf(folder), existsSync(join(folder, 'topology.json'))]).toEqual([[], false]);

      const taken = createServer().listen(0, '127.0.0.1');
      onTestFinished(() => void taken.close());
      await once(taken, 'listening');
      const { port } = taken.address() as AddressInfo;
      expect(await bpr(...args, '--port', String(port))).toMatchObject({
        status: 1,
        stderr: expect.stringContaining(`CONFIG_INVALID: port ${port} of control-plane is taken`) as string,
      });
      expect(readdirSync(folder)).not.toContain('topology.json');

      // What runs goes on where it is.
      const { parts } = await up(folder, ['--option', '1', '--workers', '1', ...PORTS]);
      expect(await bpr(...args, '--workers', '1', '--port', String(port))).toMatchObject({
        status: 1,
        stderr: expect.stringContaining(`CONFIG_INVALID: port ${port} of control-plane is taken`) as string,
      });
      const running = parts.map(({ name, pid }) => [name, 'running', pid]);
      expect((await status(folder)).parts.map(({ name, status: now, pid }) => [name, now, pid])).toEqual(running);
    },
    LIMIT_MS,
  );

  it(
    'moves to another port with its workers',
    async () => {
      const folder = topologyFolder();
      await up(folder, flagsOf('1'));
      const again = await up(folder, [...flagsOf('1'), '--port', String(await reservedPort())]);
      expect(again).toMatchObject({ started: ['control-plane', 'worker-1', 'worker-2'] });
      const waiting = async (): Promise<unknown> =>
        JSON.parse((await bpr('queue', 'stats', '--json', '--data', join(folder, 'control'))).stdout) as unknown;
      await expect.poll(waiting, { timeout: 60_000 }).toMatchObject({ waiting: 2 });
    },
    LIMIT_MS,
  );

  it('says what is wrong before it starts anything', async () => {
    const folder = topologyFolder();
    const refused = async (...flags: string[]) => {
      const { status, stderr } = await bpr('topology', 'up', '--option', '3', '--data', folder, ...flags);
      return [status, stderr.split('\n')[0], existsSync(join(folder, 'engine.token'))];
    };
    expect(await refused('--engines', '3', '--engine-port', '65534')).toEqual([
      1,
      'CONFIG_INVALID: engine-3 would have port 65536; choose lower ones with --engine-port',
      false,
    ]);
    const none = ['--port', '0', '--engine-port', '0'];
    expect(await refused('--concurrency', '1001', ...none)).toEqual([
      1,
      'CONFIG_INVALID: concurrency is 1001; it must be from 1 to 1000',
      false,
    ]);
    expect(await refused('--lease-ms', '99', ...none)).toEqual([
      1,
      'CONFIG_INVALID: leaseMs is 99; it must be from 100 to 43200000',
      false,
    ]);
  });

  it('down --purge removes nothing of a folder that no up has written to', async () => {
    const folder = topologyFolder();
    const files = ['control', 'machines', 'worker-1'].map((name) => join(folder, name, 'theirs.txt'));
    for (const file of files) {
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, 'theirs');
    }
    expect(await bpr('topology', 'down', '--purge', '--data', folder)).toMatchObject({ status: 0, stdout: 'nothing runs\n' });
    expect(files.filter((file) => !existsSync(file))).toEqual([]);
  });

  it('recommends an option, with its reasons', async () => {
    const recommended = await bpr('topology', 'recommend', '--workers', '30', '--k8s', 'no', '--json');
    expect(JSON.parse(recommended.stdout)).toMatchObject({ option: '1', because: ['it is production with 20 to 100 workers'] });
    const service = await bpr('topology', 'recommend', '--workers', '30', '--k8s', 'yes', '--engine-service', 'yes');
    expect(service.stdout).toMatch(/^option 3: there is Kubernetes/);
    expect(await bpr('topology', 'recommend', '--workers', '30', '--k8s', 'perhaps')).toMatchObject({ status: 2 });
  });

  it(
    'measures an option, and compares what was measured',
    async () => {
      const { signal } = new AbortController();
      const measured = await measureTopologies({ options: ['2'], signal, tell: () => {} });
      const folder = topologyFolder();
      const file = join(folder, 'measured.json');
      writeFileSync(file, JSON.stringify(measured));
      const { rows } = JSON.parse((await bpr('topology', 'matrix', '--file', file, '--json')).stdout) as {
        rows: readonly { readonly criterion: string; readonly kind: string; readonly values: readonly string[] }[];
      };
      const figures = rows.filter(({ kind }) => kind === 'measured');
      expect(figures.map(({ values }) => values.map((value) => (/^\d+(?:\.\d)? (?:ms|MiB)$/.test(value) ? 'figure' : value)))).toEqual(
        figures.map(() => ['-', 'figure', '-', '-', '-']),
      );
      expect(measured.options[2]).toMatchObject({ engineBytes: expect.any(Number) as number });
      expect(measured.options[2]?.engineBytes).toBeGreaterThan(20 * 1024 ** 2);
      expect((await bpr('topology', 'matrix', '--file', join(folder, 'none.json'))).stdout).not.toContain('measured');
    },
    LIMIT_MS,
  );
});
