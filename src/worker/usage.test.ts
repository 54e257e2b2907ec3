import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { temporaryFolder } from '../../test/support/temporary-folders.ts';
import { readUsage } from './usage.ts';

it('reads the control group, with its limits', async () => {
  const cgroups = temporaryFolder('usage');
  const path = '/workers/w1';
  mkdirSync(join(cgroups, path), { recursive: true });
  const files = {
    'memory.current': '1048576\n',
    'memory.max': '4194304\n',
    'cpu.stat': 'usage_usec 2500000\nuser_usec 1\n',
    'cpu.max': '150000 100000\n',
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(cgroups, path, name), text);
  expect(await readUsage({ cgroups, path })).toEqual({
    scope: 'cgroup',
    memoryBytes: 1_048_576,
    memoryMaxBytes: 4_194_304,
    cpuSeconds: 2.5,
    cpuMax: 1.5,
  });
  writeFileSync(join(cgroups, path, 'memory.max'), 'max\n');
  writeFileSync(join(cgroups, path, 'cpu.max'), 'max 100000\n');
  expect(await readUsage({ cgroups, path })).toEqual({ scope: 'cgroup', memoryBytes: 1_048_576, cpuSeconds: 2.5 });
});

it('reads the process where there is no group of its own', async () => {
  const usage = await readUsage({ cgroups: temporaryFolder('usage'), path: '/' });
  expect(usage.scope).toBe('process');
  expect(usage.memoryBytes).toBeGreaterThan(10_000_000);
  expect(usage.cpuSeconds).toBeGreaterThan(0);
});
