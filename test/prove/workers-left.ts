/** What outlives those who started it. */

import { existsSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** An instance learns from its closed socket that its worker is gone. */
const END_MS = 10_000;
const POLL_MS = 100;

/** Those that name the folder, or work in it, and do not end by themselves. */
export async function leftProcesses(folder: string): Promise<number[]> {
  const startedAt = performance.now();
  for (;;) {
    const left = processesOf(folder);
    if (left.length === 0 || performance.now() - startedAt > END_MS) return left;
    await sleep(POLL_MS);
  }
}

/** Folders of instances that workers of this folder keep, `w0` and so on: sandboxes, sockets, notes of control groups. */
export function leftInstances(folder: string): string[] {
  return readdirSync(folder)
    .filter((name) => /^w\d+$/.test(name))
    .map((name) => join(folder, name, 'b', 'process'))
    .filter((owners) => existsSync(owners))
    .flatMap((owners) => subfolders(owners).flatMap((owner) => readdirSync(owner).map((name) => join(owner, name))));
}

function subfolders(folder: string): string[] {
  const entries = readdirSync(folder, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => join(folder, name));
}

function processesOf(folder: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      try {
        const texts = [`/proc/${pid}/cmdline`, `/proc/${pid}/environ`].map((path) => readFileSync(path, 'utf8'));
        return [...texts, readlinkSync(`/proc/${pid}/cwd`)].some((text) => text.includes(folder));
      } catch {
        // It has ended meanwhile, or is not ours.
        return false;
      }
    })
    .map(Number);
}
