/** What needs no engine: numbers, ends, output, layers, tars, control groups. */

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { PassThrough } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/plugin.ts';
import { FakeClock } from '../../src/testing/fake-clock.ts';
import { Freezer, memoryFolders, memoryOf, oomKillsOf } from './cgroup.ts';
import { LABELS } from './container-options.ts';
import { mergedLayers } from './layers.ts';
import { resourcesOf } from './limits.ts';
import { endOf } from './outcome.ts';
import { InstanceOutput } from './output.ts';
import { RuncBackend } from './runc.ts';
import { seccompProfile } from './seccomp.ts';
import { tarOf } from './tar.ts';
import type { RootEntry } from './tar.ts';

const folder = mkdtempSync(join(tmpdir(), 'container-pure-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const write = (path: string, text: string): void => {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), text);
};

describe('resources', () => {
  const MIB = 1024 * 1024;
  it.each([
    [1_769, 4, 1],
    [3_538, 4, 2],
    [10_240, 4, 4],
    [128, 4, 0.5],
    [128, 1, 0.5],
  ])('%i MB on %i processors have a share of %f', (memoryMb, machine, cpus) => {
    expect(resourcesOf({ memoryMb, ephemeralMb: 512 }, {}, machine)).toEqual({
      memoryBytes: memoryMb * MIB,
      tmpBytes: 512 * MIB,
      cpus,
      pidsMax: 64,
      openFilesMax: 1_024,
    });
  });

  it('count /tmp on top when they shall', () => {
    expect(resourcesOf({ memoryMb: 128, ephemeralMb: 64 }, { tmpMemory: 'added' }, 1).memoryBytes).toBe(192 * MIB);
  });
});

describe('an end', () => {
  const end = (exitCode: number, changes: Partial<Parameters<typeof endOf>[0]> = {}) =>
    endOf({ exitCode, outOfMemory: false, terminated: false, tail: '', ...changes });
  it('is what the exit code says', () => {
    expect(end(0)).toEqual({ reason: 'exited', exitCode: 0 });
    expect(end(127)).toEqual({ reason: 'exited', exitCode: 127 });
    expect(end(255)).toEqual({ reason: 'exited', exitCode: 255 });
    expect(end(139)).toEqual({ reason: 'signalled', exitCode: 139, signal: 'SIGSEGV' });
    expect(end(134)).toEqual({ reason: 'signalled', exitCode: 134, signal: 'SIGABRT' });
  });
  it('is for want of memory only when the program itself was killed for it', () => {
    expect(end(137, { outOfMemory: true }).reason).toBe('out-of-memory');
    expect(end(137).reason).toBe('signalled');
    expect(end(0, { outOfMemory: true })).toEqual({ reason: 'exited', exitCode: 0 });
    expect(end(1, { outOfMemory: true }).reason).toBe('exited');
    const tail = 'FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory';
    expect(end(134, { tail }).reason).toBe('out-of-memory');
    expect(end(1, { tail }).reason).toBe('exited');
  });
  it('was wanted when it was ended, whatever else happened', () => {
    expect(end(137, { terminated: true, outOfMemory: true })).toEqual({ reason: 'terminated', exitCode: 137, signal: 'SIGKILL' });
  });
});

describe('output', () => {
  const frame = (stream: 1 | 2, text: string): Buffer => {
    const header = Buffer.alloc(8);
    header[0] = stream;
    header.writeUInt32BE(Buffer.byteLength(text), 4);
    return Buffer.concat([header, Buffer.from(text)]);
  };
  const reading = (bytesPerSecond?: number) => {
    const clock = new FakeClock();
    const seen = { stdout: '', stderr: '' };
    const output = new InstanceOutput({ clock, bytesPerSecond, sink: (stream, chunk) => (seen[stream] += Buffer.from(chunk).toString()) });
    return { clock, seen, output, stream: new PassThrough() };
  };

  it('is taken apart wherever the pieces are cut', async () => {
    const bytes = Buffer.concat([frame(1, 'one'), frame(2, 'zwei'), frame(1, ''), frame(1, 'drei'), frame(2, 'x'.repeat(300))]);
    for (const size of [1, 2, 7, 8, 9, 1_000]) {
      const { seen, output, stream } = reading();
      output.read(stream, 'frames');
      for (let at = 0; at < bytes.length; at += size) stream.write(bytes.subarray(at, at + size));
      stream.end();
      await output.finish();
      expect(seen).toEqual({ stdout: 'onedrei', stderr: `zwei${'x'.repeat(300)}` });
    }
  });

  it('waits when there is too much of it, and goes on later', async () => {
    const { clock, seen, output, stream } = reading(1_000);
    output.read(stream, 'stdout');
    for (let index = 0; index < 10; index += 1) stream.write('x'.repeat(100));
    await setImmediate();
    expect(seen.stdout.length).toBe(100);
    for (let passes = 0; passes < 3; passes += 1) {
      await clock.advance(100);
      await setImmediate();
    }
    expect(seen.stdout.length).toBe(400);
    stream.end();
    await output.finish();
    expect(seen.stdout.length).toBe(1_000);
  });

  it('is remembered by its end', async () => {
    const { output, stream } = reading();
    output.read(stream, 'stderr');
    for (let index = 0; index < 3_000; index += 1) stream.write(`line ${index}\n`);
    stream.end();
    await output.finish();
    expect(output.tail.text().length).toBe(4_096);
    expect(output.tail.lastLines(2)).toBe('; it wrote:\nline 2998\nline 2999');
    expect(reading().output.tail.lastLines()).toBe('');
  });
});

describe('layers', () => {
  const layer = (name: string, files: Readonly<Record<string, string>>) => {
    for (const [path, text] of Object.entries(files)) write(`layers/${name}/${path}`, text);
    return { path: join(folder, 'layers', name), sha256: name };
  };
  const merged = join(folder, 'merged');
  const read = (root: string | undefined, path: string): string => readFileSync(join(root ?? '', path), 'utf8');

  it('are none, one as it is, or merged in order', async () => {
    const first = layer('a', { 'shared/x': 'a', 'only-a': 'a', 'file-then-folder': 'a', 'folder-then-file/x': 'a' });
    const second = layer('b', { 'shared/x': 'b', 'shared/y': 'b', 'file-then-folder/x': 'b', 'folder-then-file': 'b' });
    expect(await mergedLayers([], merged)).toBe(undefined);
    expect(await mergedLayers([first], merged)).toBe(first.path);
    const both = await mergedLayers([first, second], merged);
    expect(['shared/x', 'shared/y', 'only-a', 'file-then-folder/x', 'folder-then-file'].map((path) => read(both, path))).toEqual([
      'b',
      'b',
      'a',
      'b',
      'b',
    ]);
    const other = await mergedLayers([second, first], merged);
    expect(['shared/x', 'file-then-folder', 'folder-then-file/x'].map((path) => read(other, path))).toEqual(['a', 'a', 'a']);
    // They are not touched.
    expect(read(first.path, 'shared/x')).toBe('a');
  });

  it('keep links and modes', async () => {
    const first = layer('c', { 'bin/tool': '#!/bin/sh' });
    execFileSync('chmod', ['755', join(first.path, 'bin/tool')]);
    symlinkSync('bin/tool', join(first.path, 'link'));
    const both = await mergedLayers([first, layer('d', { x: 'x' })], merged);
    expect(readlinkSync(join(both ?? '', 'link'))).toBe('bin/tool');
    expect(statSync(join(both ?? '', 'bin/tool')).mode & 0o777).toBe(0o755);
  });

  it('are merged once, also at the same time', async () => {
    const pair = [layer('e', { x: 'e' }), layer('f', { y: 'f' })];
    const folders = await Promise.all([1, 2, 3, 4].map(() => mergedLayers(pair, merged)));
    expect(new Set(folders).size).toBe(1);
    expect(read(folders[0], 'y')).toBe('f');
  });
});

describe('a tar', () => {
  const bytes = async (entries: readonly RootEntry[]): Promise<Buffer> => {
    const chunks: Uint8Array[] = [];
    for await (const chunk of tarOf(entries)) chunks.push(chunk);
    return Buffer.concat(chunks);
  };

  it('is what tar reads, and the same every time', async () => {
    write('source', 'from a file');
    const long = `/${'long-folder-name/'.repeat(8)}file`;
    const entries: RootEntry[] = [
      { kind: 'folder', path: '/bin', mode: 0o755 },
      { kind: 'file', path: '/bin/x', mode: 0o755, source: join(folder, 'source'), bytes: 11 },
      { kind: 'text', path: '/etc-ů', mode: 0o600, text: 'ů' },
      { kind: 'text', path: long, mode: 0o644, text: '' },
    ];
    const tar = await bytes(entries);
    expect(tar.length % 512).toBe(0);
    expect((await bytes(entries)).equals(tar)).toBe(true);
    const target = join(folder, 'untarred');
    mkdirSync(target);
    execFileSync('tar', ['-x', '-p', '-C', target], { input: tar });
    expect(readFileSync(join(target, 'bin/x'), 'utf8')).toBe('from a file');
    expect(statSync(join(target, 'bin/x')).mode & 0o777).toBe(0o755);
    expect(readFileSync(join(target, 'etc-ů'), 'utf8')).toBe('ů');
    expect(statSync(join(target, long)).size).toBe(0);
  });

  it('refuses what does not fit', async () => {
    await expect(bytes([{ kind: 'text', path: `/${'x'.repeat(101)}`, mode: 0o644, text: '' }])).rejects.toThrow(/too long/);
    await expect(bytes([{ kind: 'file', path: '/x', mode: 0o644, source: join(folder, 'source'), bytes: 12 }])).rejects.toThrow(
      /has 11 bytes; it had 12/,
    );
  });
});

describe('control groups', () => {
  const root = join(folder, 'cgroup');
  const V1 = '9:name=systemd:/\n4:memory:/docker/abc\n6:freezer:/docker/abc\n0::/\n';
  const V2 = '0::/system.slice/docker-abc.scope\n';

  it('are found in both versions', () => {
    expect(memoryFolders(V1, '/c')).toEqual(['/c/memory/docker/abc', '/c/']);
    expect(memoryFolders(V2, '/c')).toEqual(['/c/system.slice/docker-abc.scope']);
    expect(memoryFolders('', '/c')).toEqual([]);
  });

  it('tell their memory without what may be dropped, and who was killed for it', async () => {
    write('cgroup/v1/memory.usage_in_bytes', '1000\n');
    write('cgroup/v1/memory.stat', 'cache 400\ntotal_inactive_file 300\n');
    write('cgroup/v1/memory.oom_control', 'oom_kill_disable 0\nunder_oom 0\noom_kill 2\n');
    write('cgroup/v2/memory.current', '2000\n');
    write('cgroup/v2/memory.stat', 'anon 1\ninactive_file 500\n');
    write('cgroup/v2/memory.events', 'low 0\noom 1\noom_kill 1\noom_group_kill 0\n');
    expect([await memoryOf(join(root, 'v1')), await memoryOf(join(root, 'v2')), await memoryOf(join(root, 'v3'))]).toEqual([
      700,
      1500,
      undefined,
    ]);
    expect([await oomKillsOf(join(root, 'v1')), await oomKillsOf(join(root, 'v2')), await oomKillsOf(join(root, 'v3'))]).toEqual([2, 1, 0]);
  });

  it('are frozen in both versions, and thawed when they do not freeze', async () => {
    const clock = { ...systemClock, sleep: () => Promise.resolve() };
    write('cgroup/freezer/docker/abc/freezer.state', 'THAWED');
    const old = Freezer.of(V1, root);
    await old?.freeze(clock);
    expect(readFileSync(join(root, 'freezer/docker/abc/freezer.state'), 'utf8')).toBe('FROZEN');
    await old?.thaw();
    expect(readFileSync(join(root, 'freezer/docker/abc/freezer.state'), 'utf8')).toBe('THAWED');
    write('cgroup/system.slice/docker-abc.scope/cgroup.freeze', '0');
    write('cgroup/system.slice/docker-abc.scope/cgroup.events', 'populated 1\nfrozen 1\n');
    const unified = Freezer.of(V2, root);
    await unified?.freeze(clock);
    expect(readFileSync(join(root, 'system.slice/docker-abc.scope/cgroup.freeze'), 'utf8')).toBe('1');
    write('cgroup/system.slice/docker-abc.scope/cgroup.events', 'populated 1\nfrozen 0\n');
    await expect(unified?.freeze(clock, 3)).rejects.toThrow(/cannot be stopped/);
    expect(readFileSync(join(root, 'system.slice/docker-abc.scope/cgroup.freeze'), 'utf8')).toBe('0');
    expect(Freezer.of('', root)).toBe(undefined);
  });
});

describe('what an earlier process left of runc', () => {
  it('is removed by its owner; what its machine did not write to the end is nobody to tell of', async () => {
    const labels = (owner: string): string => JSON.stringify({ annotations: { [LABELS.owner]: owner, [LABELS.boot]: 'earlier' } });
    write('runc/bundles/mine/config.json', labels('me'));
    write('runc/bundles/theirs/config.json', labels('another'));
    write('runc/bundles/empty/config.json', '');
    write('runc/bundles/half/config.json', labels('me').slice(0, -4));
    mkdirSync(join(folder, 'runc/bundles/none'));
    const backend = new RuncBackend({ folder: join(folder, 'runc'), runcPath: join(folder, 'no-runc') });
    expect(await backend.reapStale('me')).toBe(1);
    expect(readdirSync(join(folder, 'runc/bundles')).toSorted()).toEqual(['empty', 'half', 'none', 'theirs']);
  });
});

describe('the filter of system calls', () => {
  it('is there for the processors that it is written for', () => {
    expect(seccompProfile('x64')).toMatchObject({ defaultAction: 'SCMP_ACT_ALLOW', architectures: ['SCMP_ARCH_X86_64'] });
    expect(seccompProfile('arm64')).toMatchObject({ architectures: ['SCMP_ARCH_AARCH64'] });
    expect(seccompProfile('mips')).toBe(undefined);
  });
});
