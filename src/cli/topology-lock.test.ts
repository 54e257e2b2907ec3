import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { main } from './main.ts';
import { withFolderLock } from './topology-lock.ts';

function folderOf(): string {
  const base = mkdtempSync(join(tmpdir(), 'topology-lock-'));
  onTestFinished(() => rmSync(base, { recursive: true, force: true }));
  return join(base, 'topology');
}

/** The errors of commands on this folder. */
async function commands(folder: string): Promise<unknown[]> {
  const told: unknown[] = [];
  for (const args of [['up', '--option', '1'], ['down'], ['down', '--purge']]) {
    let stdout = '';
    const io = { stdout: { write: (text: string) => (stdout += text) }, stderr: { write: () => true }, env: {}, cwd: '/' };
    const status = await main(['topology', ...args, '--data', folder, '--json'], io);
    const { error } = JSON.parse(stdout) as { readonly error?: { readonly code: string; readonly details: { readonly pid?: number } } };
    told.push([status, error?.code, error?.details.pid]);
  }
  return told;
}

it('while one command changes a topology others are refused, and say who it is', async () => {
  const folder = folderOf();
  const refused = await withFolderLock(folder, () => commands(folder));
  expect(refused).toEqual(Array.from({ length: 3 }, () => [1, 'STATE_INVALID', process.pid]));
  expect(existsSync(folder)).toBe(false);
});

it('is free again when the process that had it was killed', async () => {
  const folder = folderOf();
  const source = `import { withFolderLock } from ${JSON.stringify(new URL('topology-lock.ts', import.meta.url).href)};
setInterval(() => {}, 1_000);
await withFolderLock(${JSON.stringify(folder)}, () => { console.log('has it'); return new Promise(() => {}); });`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const ended = once(child, 'close');
  await once(child.stdout, 'data');
  await expect(withFolderLock(folder, async () => 'in')).rejects.toMatchObject({ code: 'STATE_INVALID', details: { pid: child.pid } });
  child.kill('SIGKILL');
  await ended;
  expect(await withFolderLock(folder, async () => 'in')).toBe('in');
});

it('leaves what is in the folder', async () => {
  const folder = folderOf();
  await withFolderLock(folder, async () => writeFileSync(join(folder, 'mine'), ''));
  expect(readdirSync(folder)).toEqual(['mine']);
});
