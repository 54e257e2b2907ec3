/** What a function in a container can and cannot do, seen from inside, on a real engine. */

import { join } from 'node:path';
import { afterAll, describe, expect } from 'vitest';
import { DRIVERS } from '../support/container-engine.ts';
import { InstanceLab } from '../support/instances.ts';

/** The handler returns what this expression gives; `fs` is at hand. */
const evaluate = (expression: string): string => `
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import { spawnSync, spawn } from 'node:child_process';
const attempt = (run) => { try { return run(); } catch (error) { return error.code; } };
export const handler = async () => (${expression});`;

describe.each(DRIVERS)('a function in a container by $name', ({ name, test, make }) => {
  const lab = new InstanceLab();
  const backend = make({ folder: join(lab.folder, 'state'), limits: { pidsMax: 32, cpusMin: 0.25 } });
  const inside = (expression: string, settings: Parameters<InstanceLab['fn']>[1] = {}): Promise<unknown> =>
    lab.run(backend, lab.fn(evaluate(expression), settings));

  afterAll(async () => {
    await backend.close();
    await lab.close();
  });

  test('answers an event', async () => {
    const fn = lab.fn('export const handler = async (event) => ({ sum: event.a + event.b });');
    expect(await lab.run(backend, fn, { a: 2, b: 3 })).toEqual({ sum: 5 });
    expect(backend.name).toBe(name);
  });

  test('can write nowhere but in /tmp', async () => {
    const write = (path: string): string => `attempt(() => fs.writeFileSync('${path}', 'x'))`;
    const result = await inside(
      `[${['/x', '/var/task/x', '/etc/x', '/run/bpr/x'].map((path) => write(path)).join()}, ${write('/tmp/x')} ?? 'written']`,
    );
    // The user may not write to folders of root in any case; the mounts refuse root as well.
    expect(result).toEqual(['EROFS', 'EROFS', 'EROFS', 'EROFS', 'written']);
  });

  test('fills /tmp to its size and no further', async () => {
    const fill = `attempt(() => { for (let n = 0; n < 100; n++) fs.appendFileSync('/tmp/f', Buffer.alloc(1 << 20)); }) + ' ' + fs.statSync('/tmp/f').size`;
    expect(await inside(fill, { ephemeralMb: 8 })).toBe(`ENOSPC ${8 * 1024 * 1024}`);
  });

  test('is an unprivileged user without capabilities, and stays that', async () => {
    const status = `Object.fromEntries(fs.readFileSync('/proc/self/status', 'utf8').split('\\n').map((line) => line.split(':\\t')).filter(([key]) => ['Uid', 'CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp'].includes(key)))`;
    const result = await inside(status);
    const uid = process.getuid?.() === 0 ? 993 : process.getuid?.();
    expect(result).toEqual({
      Uid: `${uid}\t${uid}\t${uid}\t${uid}`,
      CapEff: '0000000000000000',
      CapBnd: '0000000000000000',
      NoNewPrivs: '1',
      Seccomp: '2',
    });
  });

  test('has only a loopback interface by default, and another with an open network', async () => {
    const names = `Object.keys(os.networkInterfaces()).toSorted()`;
    expect(await inside(names)).toEqual(['lo']);
    const open = (await inside(names, { network: 'open' })) as string[];
    expect(open).toContain('lo');
    expect(open.length).toBeGreaterThan(1);
  });

  test('starts so many processes and no more', async () => {
    const bomb = `await new Promise((resolve) => {
      let count = 0;
      const more = () => { const child = spawn('/bin/sh', ['-c', 'read x']); child.on('error', (error) => resolve({ count, code: error.code })); child.on('spawn', () => { count += 1; more(); }); };
      more();
    })`;
    const result = (await inside(bomb)) as { count: number; code: string };
    expect(result.code).toBe('EAGAIN');
    expect(result.count).toBeGreaterThan(5);
    expect(result.count).toBeLessThan(32);
  });

  test('gets the processor share of its memory, and a least share', async () => {
    const busy = `(() => { const before = process.cpuUsage(); const until = Date.now() + 600; while (Date.now() < until); const { user, system } = process.cpuUsage(before); return (user + system) / 600_000; })()`;
    expect(await inside(busy, { memoryMb: 128 })).toBeLessThan(0.4);
  });

  test('opens so many files and no more', async () => {
    const open = `attempt(() => { for (let n = 0; n < 2_000; n++) fs.openSync('/etc/passwd'); })`;
    expect(await inside(open)).toBe('EMFILE');
  });

  test('sees its code, its layers merged in order, and its environment', async () => {
    const layer = (text: string, own: string) => ({
      path: lab.code({ files: { 'nodejs/shared.txt': text, [own]: own } }).path,
      sha256: text,
    });
    const fn = lab.fn(
      evaluate(
        `[fs.readFileSync('/opt/nodejs/shared.txt', 'utf8'), fs.readdirSync('/opt').toSorted(), process.env.GREETING, process.cwd()]`,
      ),
      {
        layers: [layer('first', 'a.txt'), layer('second', 'b.txt'), layer('third', 'c.txt')],
        environment: { GREETING: 'hello = "world"\n' },
      },
    );
    expect(await lab.run(backend, fn)).toEqual(['third', ['a.txt', 'b.txt', 'c.txt', 'nodejs'], 'hello = "world"\n', '/var/task']);
  });
});
