/** One command at a time changes what runs in the folder of a topology. */

import { existsSync, linkSync, readFileSync, readdirSync, renameSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { RunnerError } from '../errors.ts';
import { makeFolder } from '../folder.ts';
import { atPath } from './named-path.ts';

const LOCK = 'lock';

/**
 * Runs the work while nobody else has the folder: a file names the process that has it, and counts while that lives. Rejects with
 * `STATE_INVALID` and the id of that process.
 */
export async function withFolderLock<T>(folder: string, work: () => Promise<T>): Promise<T> {
  atPath({ path: folder, flag: '--data' }, () => makeFolder(folder, 0o700));
  take(folder);
  try {
    return await work();
  } finally {
    leave(folder);
  }
}

function take(folder: string): void {
  const file = join(folder, LOCK);
  const own = `${file}.${process.pid}`;
  // There with its words or not at all.
  writeFileSync(own, ownerText(process.pid), { mode: 0o600 });
  try {
    while (!isLinked(own, file)) {
      const owner = textOf(file);
      if (owner === undefined) continue;
      const pid = Number(owner.split(' ')[0]);
      if (ownerText(pid) === owner) {
        throw new RunnerError(
          'STATE_INVALID',
          `process ${pid} changes the topology in ${folder}; wait until it has ended, then try again`,
          {
            details: { folder, pid },
          },
        );
      }
      removeOf(file, owner);
    }
  } finally {
    rmSync(own, { force: true });
  }
}

function isLinked(own: string, file: string): boolean {
  try {
    linkSync(own, file);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw new RunnerError('CONFIG_INVALID', `${file} cannot be written`, { cause: error });
  }
}

/** Only of that owner: somebody else may have taken its place meanwhile. */
function removeOf(file: string, owner: string): void {
  const aside = `${file}.${process.pid}.old`;
  try {
    renameSync(file, aside);
  } catch {
    // Somebody else has done it.
    return;
  }
  if (textOf(aside) !== owner) isLinked(aside, file);
  rmSync(aside, { force: true });
}

/** Ids of processes come again: with when it was started, where the system tells. Empty: there is none. */
function ownerText(pid: number): string {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return '';
  }
  const stat = textOf(`/proc/${pid}/stat`) ?? '';
  return `${pid} ${stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''}`;
}

function textOf(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/** What the work has emptied, or has not begun to fill, does not stay because of the lock. */
function leave(folder: string): void {
  rmSync(join(folder, LOCK), { force: true });
  if (existsSync(folder) && readdirSync(folder).length === 0) rmdirSync(folder);
}
