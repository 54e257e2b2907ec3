import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Cgroup, probeCgroups } from './cgroup.ts';

let root: string;
let self: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bpr-cgroup-'));
  self = join(root, 'self');
});

afterEach(() => rmSync(root, { recursive: true }));

/** Files as the kernel would offer them, made where groups are made. */
function offer(folder: string, files: Readonly<Record<string, string>>): void {
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
}

test('version 1: groups lie below our own group of each controller', () => {
  for (const folder of ['memory/mine', 'pids', 'cpu/a/b']) mkdirSync(join(root, folder), { recursive: true });
  writeFileSync(self, '9:name=systemd:/\n8:pids:/\n4:memory:/mine\n1:cpu,cpuacct:/a/b\n0::/\n');
  expect(probeCgroups({ root, self })).toEqual({
    version: 1,
    folders: [join(root, 'memory/mine'), join(root, 'pids/'), join(root, 'cpu/a/b')],
  });
});

test('version 2: the controllers must be handed down', () => {
  offer(join(root, 'mine'), { 'cgroup.subtree_control': 'cpu memory pids' });
  writeFileSync(join(root, 'cgroup.controllers'), 'cpu memory pids');
  writeFileSync(self, '0::/mine\n');
  expect(probeCgroups({ root, self })).toEqual({ version: 2, folders: [join(root, 'mine')] });
  offer(join(root, 'mine'), { 'cgroup.subtree_control': 'cpu' });
  // The file of the test takes what is written; that of the kernel would refuse or add.
  expect(probeCgroups({ root, self })).toMatch(/hands down only \+memory \+pids \+cpu$/);
});

test('without groups the reason is told', () => {
  expect(probeCgroups({ root, self })).toMatch(/^control groups cannot be used: ENOENT/);
});

test.each([
  [
    'version 1',
    { 'memory.limit_in_bytes': '', 'pids.max': '', 'cpu.cfs_period_us': '', 'cpu.cfs_quota_us': '' },
    { 'memory.limit_in_bytes': '1048576', 'pids.max': '32', 'cpu.cfs_period_us': '100000', 'cpu.cfs_quota_us': '150000' },
  ],
  [
    'version 2',
    { 'memory.max': '', 'memory.swap.max': '', 'pids.max': '', 'cpu.max': '' },
    { 'memory.max': '1048576', 'memory.swap.max': '0', 'pids.max': '32', 'cpu.max': '150000 100000' },
  ],
])('%s: limits are written as it wants them', (_version, files, expected) => {
  const folder = join(root, 'group');
  offer(folder, files);
  new Cgroup([folder]).limit({ memoryBytes: 1 << 20, pids: 32, cpus: 1.5 });
  expect(Object.fromEntries(Object.keys(files).map((name) => [name, readFileSync(join(folder, name), 'utf8')]))).toEqual(expected);
});

test.each([
  [
    'version 1',
    {
      'memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 2\n',
      'memory.usage_in_bytes': '5000',
      'memory.stat': 'inactive_file 4000\ntotal_inactive_file 4000\n',
    },
    2,
  ],
  ['version 2', { 'memory.events': 'low 0\noom 3\noom_kill 1\n', 'memory.current': '5000', 'memory.stat': 'inactive_file 4000\n' }, 1],
])('%s: kills for want of memory and the memory in use are read', (_version, files, kills) => {
  const folder = join(root, 'group');
  offer(folder, files);
  const group = new Cgroup([folder]);
  expect(group.oomKills()).toBe(kills);
  expect(group.memoryBytes()).toBe(1_000);
});

test('a group that is not there has nothing, and is gone', () => {
  const group = new Cgroup([join(root, 'nowhere')]);
  expect([group.pids(), group.oomKills(), group.memoryBytes(), group.kill(), group.remove()]).toEqual([[], 0, undefined, true, true]);
});

test('version 1: a quota above that of the group around it is left to that one', () => {
  const folder = join(root, 'group');
  offer(folder, { 'memory.limit_in_bytes': '', 'pids.max': '', 'cpu.cfs_period_us': '' });
  // A file of the kernel that answers EINVAL to what is above 1,000.
  symlinkSync('/proc/self/oom_score_adj', join(folder, 'cpu.cfs_quota_us'));
  expect(() => writeFileSync(join(folder, 'cpu.cfs_quota_us'), '150000')).toThrow('EINVAL');
  new Cgroup([folder]).limit({ memoryBytes: 1 << 20, pids: 32, cpus: 1.5 });
  expect(readFileSync(join(folder, 'pids.max'), 'utf8')).toBe('32');
});
