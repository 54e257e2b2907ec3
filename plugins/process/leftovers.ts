/** What an instance is known by when the process that started it is gone: one folder per owner, one below it per instance. */

import { createHash } from 'node:crypto';
import { chmodSync, mkdirSync, readFileSync, readdirSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../src/plugin.ts';
import { Cgroup } from './cgroup.ts';

const RECORD = 'record.json';
const PROCESS = 'process.json';
const END_WAIT_MS = 1;
const END_ROUNDS_MAX = 5_000;

/** A process for certain: ids are given out again, but not with the same start in the same boot. */
interface ProcessIdentity {
  readonly pid: number;
  readonly bootId: string;
  /** In clock ticks since the boot. */
  readonly startTime: string;
}

/** Any text as the name of a folder. */
export function folderName(text: string): string {
  return /^[a-z0-9][a-z0-9-]{0,60}$/.test(text) ? text : createHash('sha256').update(text).digest('hex').slice(0, 32);
}

/** Makes the folder of an instance and notes its control groups, before anything is started. */
export function makeFolder(
  root: string,
  { ownerId, id, cgroupFolders }: { ownerId: string; id: string; cgroupFolders: readonly string[] },
): string {
  const owner = join(root, folderName(ownerId));
  const folder = join(owner, id);
  mkdirSync(folder, { recursive: true });
  // Its user passes through, whatever the file mode mask says.
  for (const path of [owner, folder]) chmodSync(path, 0o711);
  writeFileSync(join(folder, RECORD), JSON.stringify({ ownerId, cgroups: cgroupFolders }), { mode: 0o600 });
  return folder;
}

/** Removes the folder of an owner of whom nothing is left. */
export function forgetOwner(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // Somebody of the same name has instances there.
  }
}

export function noteProcess(folder: string, pid: number): void {
  const identity = identityOf(pid);
  if (identity) writeFileSync(join(folder, PROCESS), JSON.stringify(identity), { mode: 0o600 });
}

/** Undefined when there is no such process, when it has ended, or without /proc. */
export function identityOf(pid: number): ProcessIdentity | undefined {
  try {
    const bootId = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold anything; the start time is the 22nd field.
    const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const startTime = fields[18] ?? '';
    // It has ended with all its threads, and its parent did not ask how.
    if ((state === 'Z' || state === 'X') && Number(fields[16]) <= 1) return undefined;
    return { pid, bootId, startTime };
  } catch {
    return undefined;
  }
}

/** Ends and removes what this owner left, except what lives under `own`. Resolves with how many there were. */
export async function reap(root: string, options: { ownerId: string; own: ReadonlySet<string>; clock: Clock }): Promise<number> {
  const owner = join(root, folderName(options.ownerId));
  let count = 0;
  for (const name of foldersOf(owner)) {
    if (options.own.has(name)) continue;
    if (await reapOne(join(owner, name), options)) count += 1;
  }
  return count;
}

async function reapOne(folder: string, { ownerId, clock }: { ownerId: string; clock: Clock }): Promise<boolean> {
  const record = readJson<{ ownerId: string; cgroups: string[] }>(join(folder, RECORD));
  if (record && record.ownerId !== ownerId) return false;
  const group = new Cgroup(record?.cgroups ?? []);
  const noted = readJson<ProcessIdentity>(join(folder, PROCESS));
  if (noted) {
    const now = identityOf(noted.pid);
    if (now?.bootId === noted.bootId && now.startTime === noted.startTime) killGroupOf(noted.pid);
  }
  for (let round = 0; (!group.kill() || !group.remove()) && round < END_ROUNDS_MAX; round += 1) await clock.sleep(END_WAIT_MS);
  rmSync(folder, { recursive: true, force: true });
  return true;
}

function killGroupOf(pid: number): void {
  for (const target of [-pid, pid]) {
    try {
      process.kill(target, 'SIGKILL');
    } catch {
      // It ended by itself.
    }
  }
}

function foldersOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** A file that we wrote; undefined when it is not there or was cut off by a crash. */
function readJson<T>(file: string): T | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as T;
  } catch {
    return undefined;
  }
}
