/** Functions that misbehave: each is contained, told apart, and gone afterwards; a neighbour goes on answering. */

import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect } from 'vitest';
import type { InstanceEnd } from '../../src/plugin.ts';
import { DRIVERS } from '../support/container-engine.ts';
import { InstanceLab } from '../support/instances.ts';

describe.each(DRIVERS)('a hostile function in a container by $name', ({ test, make }) => {
  const lab = new InstanceLab();
  const backend = make({ folder: join(lab.folder, 'state'), limits: { pidsMax: 32, outputBytesPerSecond: 256 * 1024 } });

  afterAll(async () => {
    await backend.close();
    await lab.close();
  });

  const attack = async (source: string, settings: Parameters<InstanceLab['fn']>[1] = {}) => {
    const launched = await lab.launch(backend, lab.fn(source, settings));
    await launched.ready;
    return { ...launched, outcome: launched.call({}) };
  };

  test('that takes more memory than it has is killed for it', async () => {
    const source = `export const handler = async () => { const kept = []; for (;;) kept.push(Buffer.alloc(8 << 20, 1)); };`;
    const { outcome } = await attack(source, { memoryMb: 96 });
    expect(await outcome).toMatchObject({ reason: 'out-of-memory', exitCode: 137, signal: 'SIGKILL' });
  });

  test('that fills the heap of JavaScript is out of memory as well', async () => {
    const source = `export const handler = async () => { const kept = []; for (;;) kept.push({ numbers: new Array(1_000).fill(kept.length) }); };`;
    const { outcome, output } = await attack(source, { memoryMb: 512 });
    expect(((await outcome) as InstanceEnd).reason).toBe('out-of-memory');
    expect(output()).toContain('heap out of memory');
  });

  test('whose child took too much memory goes on', async () => {
    const source = `
      import { spawnSync } from 'node:child_process';
      export const handler = async () => spawnSync(process.execPath, ['-e', 'const kept = []; for (;;) kept.push(Buffer.alloc(8 << 20, 1))']).signal;`;
    const { outcome, instance } = await attack(source, { memoryMb: 128 });
    expect(await outcome).toEqual({ kind: 'response', body: '"SIGKILL"' });
    await backend.terminate(instance);
    expect((await instance.ended).reason).toBe('terminated');
  });

  test('that ends its process tells the exit code', async () => {
    const { outcome } = await attack(`export const handler = async () => process.exit(42);`);
    expect(await outcome).toEqual({ reason: 'exited', exitCode: 42 });
  });

  test('that dies of a signal tells which', async () => {
    const source = `export const handler = async () => process.abort();`;
    const { outcome } = await attack(source);
    expect(await outcome).toMatchObject({ reason: 'signalled', signal: 'SIGABRT' });
  });

  test('that forks without end is stopped by its limit, and all of it goes', async () => {
    const source = `
      import { spawn } from 'node:child_process';
      const more = () => { spawn('/bin/sh', ['-c', 'while :; do :; done']).on('error', () => {}); setTimeout(more, 1); };
      export const handler = async () => { more(); await new Promise(() => {}); };`;
    const { instance } = await attack(source);
    await lab
      .run(backend, lab.fn(`export const handler = async () => 'the neighbour';`))
      .then((answer) => expect(answer).toBe('the neighbour'));
    await backend.terminate(instance);
    expect((await instance.ended).reason).toBe('terminated');
  });

  test('that never returns and ignores SIGTERM ends at once', async () => {
    const source = `
      process.on('SIGTERM', () => {});
      export const handler = async () => { for (;;); };`;
    const { instance, outcome } = await attack(source);
    await backend.terminate(instance);
    expect(await outcome).toEqual({ reason: 'terminated', exitCode: 137, signal: 'SIGKILL' });
  });

  test('that fills the disk fills only its own', async () => {
    const source = `
      import fs from 'node:fs';
      export const handler = async () => { for (let n = 0; ; n += 1) fs.writeFileSync('/tmp/' + n, Buffer.alloc(1 << 20)); };`;
    const { outcome } = await attack(source, { ephemeralMb: 16 });
    expect(await outcome).toMatchObject({ kind: 'error', body: expect.stringContaining('ENOSPC') as string });
  });

  test('that floods its log is slowed down to the limit', async () => {
    const source = `
      import fs from 'node:fs';
      export const handler = async () => {
        const until = Date.now() + 1_500;
        let written = 0;
        const line = Buffer.alloc(16 * 1024, 'x');
        while (Date.now() < until) { try { written += fs.writeSync(1, line); } catch (error) { if (error.code !== 'EAGAIN') throw error; } }
        return written;
      };`;
    const { outcome, output, instance } = await attack(source);
    const answer = await outcome;
    if (!('body' in answer)) throw new Error(JSON.stringify(answer));
    // Pipes between the function and us hold some of it back.
    expect(Number(answer.body)).toBeLessThan(8 * 1024 * 1024);
    await expect.poll(() => output().length).toBeGreaterThan(64 * 1024);
    await backend.terminate(instance);
  });

  test('cannot see the machine or its other instances', async () => {
    const source = `
      import fs from 'node:fs';
      export const handler = async () => ({ processes: fs.readdirSync('/proc').filter((name) => /^\\d+$/.test(name)).length, keys: Object.keys(process.env).filter((name) => name.startsWith('BPR_') || name === 'DOCKER_HOST'), sockets: fs.readdirSync('/run/bpr').toSorted() });`;
    const { outcome, instance } = await attack(source);
    const answer = await outcome;
    if (!('body' in answer)) throw new Error(JSON.stringify(answer));
    expect(JSON.parse(answer.body)).toEqual({ processes: 2, keys: [], sockets: ['api.sock', 'client.cjs'] });
    await backend.terminate(instance);
  });

  test('cannot make namespaces or write to the kernel', async () => {
    const source = `
      import { spawnSync } from 'node:child_process';
      import fs from 'node:fs';
      export const handler = async () => {
        const attempt = (path) => { try { fs.writeFileSync(path, '1'); return 'written'; } catch (error) { return error.code; } };
        const { status, stderr } = spawnSync('/var/task/unshare', ['--user', '/bin/sh', '-c', 'exit 0']);
        return { namespace: status, says: String(stderr), paths: ['/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/sys/kernel/profiling', '/sys/fs/cgroup/x'].map(attempt) };
      };`;
    const fn = lab.fn(source);
    if (fn.code.kind === 'folder') copyFileSync('/usr/bin/unshare', join(fn.code.path, 'unshare'));
    const { namespace, says, paths } = (await lab.run(backend, fn)) as { namespace: number; says: string; paths: string[] };
    expect(namespace).toBe(1);
    expect(says).toContain('Operation not permitted');
    expect(paths).not.toContain('written');
  });

  test('leaves no process behind', () => {
    // All of them carry the folder of this test in their mounts; only our own process may.
    expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(lab.folder);
  });
});
