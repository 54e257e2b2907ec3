import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../../src/plugin.ts';
import { folderName, forgetOwner, identityOf, makeFolder, noteProcess, reap } from './leftovers.ts';

let root: string;
let children: ChildProcess[];

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'bpr-leftovers-'));
  children = [];
});

afterEach(async () => {
  for (const child of children) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
  await Promise.all(children.map(endOf));
  rmSync(root, { recursive: true });
});

function endOf(child: ChildProcess): Promise<string | null> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve(child.signalCode);
  return new Promise((resolve) => child.once('exit', (_code, signal) => resolve(signal)));
}

/** Nobody killed it before: the first signal that it gets is ours. */
async function isSpared(child: ChildProcess): Promise<boolean> {
  child.kill('SIGTERM');
  return (await endOf(child)) === 'SIGTERM';
}

/** A process in a group of its own, known by a folder. */
function leave(ownerId: string, id: string): { folder: string; child: ChildProcess; pid: number } {
  const folder = makeFolder(root, { ownerId, id, cgroupFolders: [] });
  const child = spawn('/bin/sleep', ['1000'], { detached: true, stdio: 'ignore', env: {} });
  children.push(child);
  const pid = child.pid ?? 0;
  noteProcess(folder, pid);
  return { folder, child, pid };
}

const options = (ownerId: string, own: readonly string[] = []) => ({ ownerId, own: new Set(own), clock: systemClock });

test('what an owner left is ended and removed, and counted', async () => {
  const first = leave('me', 'a');
  const second = leave('me', 'b');
  expect(await reap(root, options('me'))).toBe(2);
  expect(await Promise.all([endOf(first.child), endOf(second.child)])).toEqual(['SIGKILL', 'SIGKILL']);
  expect(readdirSync(join(root, 'me'))).toEqual([]);
  expect(await reap(root, options('me'))).toBe(0);
  expect(await reap(root, options('never seen'))).toBe(0);
});

test('an owner of whom nothing is left is forgotten', async () => {
  leave('me', 'a');
  forgetOwner(join(root, 'me'));
  expect(readdirSync(join(root, 'me'))).toEqual(['a']);
  await reap(root, options('me'));
  forgetOwner(join(root, 'me'));
  expect(existsSync(join(root, 'me'))).toBe(false);
});

test('what belongs to another owner, or to this very process, stays', async () => {
  const other = leave('other', 'a');
  const own = leave('me', 'own');
  expect(await reap(root, options('me', ['own']))).toBe(0);
  for (const { child, folder } of [other, own]) {
    expect(await isSpared(child)).toBe(true);
    expect(existsSync(folder)).toBe(true);
  }
});

test('a folder that was taken over from another owner is left alone', async () => {
  const { child } = leave('me', 'a');
  writeFileSync(join(root, 'me/a/record.json'), JSON.stringify({ ownerId: 'somebody else', cgroups: [] }));
  expect(await reap(root, options('me'))).toBe(0);
  expect(await isSpared(child)).toBe(true);
  expect(readdirSync(join(root, 'me'))).toEqual(['a']);
});

test.each([
  ['start time', { startTime: '1' }],
  ['boot', { bootId: '00000000-0000-0000-0000-000000000000' }],
])('a process that has the same number but another %s is not ours', async (_what, change) => {
  const { folder, child, pid } = leave('me', 'a');
  writeFileSync(join(folder, 'process.json'), JSON.stringify({ ...identityOf(pid), ...change }));
  expect(await reap(root, options('me'))).toBe(1);
  expect(await isSpared(child)).toBe(true);
});

test('a note that was cut off by a crash is no obstacle', async () => {
  const { folder } = leave('me', 'a');
  writeFileSync(join(folder, 'process.json'), '{"pid":');
  writeFileSync(join(folder, 'record.json'), '');
  expect(await reap(root, options('me'))).toBe(1);
  expect(existsSync(folder)).toBe(false);
});

test('any owner has a folder of its own that stays in its place', () => {
  expect(folderName('runtime-1')).toBe('runtime-1');
  const names = ['../../etc', '', 'A', 'a/b', '.', 'ü'].map(folderName);
  expect(new Set(names).size).toBe(6);
  for (const name of names) expect(name).toMatch(/^[0-9a-f]{32}$/);
});
