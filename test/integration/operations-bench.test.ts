/** `bpr bench saturate`: a fleet of its own that is measured, and gone afterwards. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import type { Saturation } from '../../src/cli/commands/bench.ts';
import { childrenOf, descendantsOf, isAlive } from '../support/alive.ts';
import { BPR } from '../support/bpr.ts';
import { temporaryFolder } from '../support/temporary-folders.ts';
import { leftProcesses } from '../prove/workers-left.ts';

function bench(...flags: string[]) {
  const folder = temporaryFolder('bench');
  const env = { PATH: `${dirname(process.execPath)}:/usr/bin:/bin`, TMPDIR: folder };
  const child = spawn(process.execPath, [BPR, 'bench', 'saturate', ...flags], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (text: Buffer) => (stdout += text.toString()));
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
  const ended = once(child, 'close').then(([status]) => ({ status: Number(status), stdout, stderr }));
  return { child, ended, folder };
}

it('measures each step, with what the workers used, and leaves nothing', async () => {
  const { ended, folder } = bench('--workers', '2', '--max-concurrency', '3', '--step-ms', '500', '--job-cpu-ms', '2', '--json');
  const { status, stdout, stderr } = await ended;
  expect([status, stderr.includes('Error')]).toEqual([0, false]);
  const { steps, fleet, job, machine } = JSON.parse(stdout) as Saturation;
  expect(fleet).toEqual({ workers: 2, concurrency: 2, backend: 'process' });
  expect(job).toEqual({ waitMs: 0, cpuMs: 2 });
  expect(machine.cores).toBeGreaterThan(0);
  expect([1, 2, 3].slice(0, steps.length)).toEqual(steps.map(({ concurrency }) => concurrency));
  expect(steps.length).toBeGreaterThanOrEqual(2);
  for (const { jobs, jobsPerSecond, seconds, errors, p50Ms, p99Ms, workersCpu = 0, workersMemoryBytes = 0 } of steps) {
    expect(errors).toBe(0);
    expect(jobsPerSecond).toBeCloseTo(jobs / seconds, 0);
    expect(p50Ms).toBeGreaterThan(2);
    expect(p99Ms).toBeGreaterThanOrEqual(p50Ms);
    expect(workersCpu).toBeGreaterThan(0);
    expect(workersMemoryBytes).toBeGreaterThan(20_000_000);
  }
  expect(readdirSync(folder)).toEqual([]);
}, 240_000);

it('a signal ends what it started, in order', async () => {
  const { child, ended, folder } = bench('--workers', '2', '--step-ms', '600000');
  let children: number[] = [];
  while (children.length < 3 && child.exitCode === null) {
    await nextTurn();
    children = childrenOf(child.pid);
  }
  expect(children).toHaveLength(3);
  child.kill('SIGINT');
  const { status, stderr } = await ended;
  expect(status).toBe(130);
  expect(stderr).toContain('ABORTED');
  expect(children.filter((pid) => isAlive(pid))).toEqual([]);
  expect(readdirSync(folder)).toEqual([]);
}, 240_000);

it('what it started ends with it, however it ends', async () => {
  const { child, ended, folder } = bench('--workers', '2', '--step-ms', '600000');
  let all: number[] = [];
  // Control plane, workers, and what runs the function in them.
  while (all.length < 6 && child.exitCode === null) {
    await nextTurn();
    all = descendantsOf(child.pid);
  }
  expect(all.length).toBeGreaterThanOrEqual(6);
  child.kill('SIGKILL');
  await ended;
  while (all.some((pid) => isAlive(pid))) await nextTurn();
  // What was started after the last look, too.
  expect(await leftProcesses(folder)).toEqual([]);
  rmSync(folder, { recursive: true, force: true });
}, 240_000);

it('says what cannot be before it starts anything', async () => {
  const refused = async (...flags: string[]) => {
    const { ended } = bench(...flags);
    const { status, stderr } = await ended;
    return [status, stderr.split('\n')[0]];
  };
  expect(await refused('--backend', 'wasm')).toEqual([
    2,
    "CONFIG_INVALID: option '--backend <name>' argument 'wasm' is invalid. Allowed choices are process, docker, runc, kubernetes.",
  ]);
  expect(await refused('--workers', '1', '--max-concurrency', '2001')).toEqual([
    1,
    'CONFIG_INVALID: a worker has 1000 places at most: 2001 jobs at the same time take --workers 3',
  ]);
}, 240_000);

it('says what is wrong when its workers cannot work', async () => {
  const { ended, folder } = bench('--workers', '1', '--max-concurrency', '1', '--backend', 'kubernetes');
  const { status, stderr } = await ended;
  expect(status).toBe(1);
  expect(stderr).toMatch(/^STATE_INVALID: bpr worker ended with 1 before it was ready: BACKEND_UNAVAILABLE: kubernetes: /m);
  expect(readdirSync(folder)).toEqual([]);
}, 240_000);
