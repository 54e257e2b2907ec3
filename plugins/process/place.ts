/** Puts the files of a function where an instance sees them: by hard links where the file system allows it, else as copies. */

import {
  chmodSync,
  constants,
  copyFileSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { dirname, join } from 'node:path';

export interface PlaceLimits {
  /** Files and folders. */
  readonly entriesMax: number;
  /** Of files that cannot be linked. Default: no limit. */
  readonly copiedBytesMax?: number;
}

/**
 * Puts all that lies in `from` into the folder `to`. False when there is more than the limit: then `to` holds a part of it and must not be
 * used. Never writes through a link: files that were there before are of an earlier layer and stay.
 */
export function place(from: string, to: string, limits: PlaceLimits): boolean {
  let left = limits.entriesMax;
  let copiedBytesLeft = limits.copiedBytesMax ?? Number.POSITIVE_INFINITY;
  const linkOrCopy = (source: string, target: string): void => {
    if (link(source, target)) return;
    copiedBytesLeft -= statSync(source).size;
    if (copiedBytesLeft >= 0) copyFileSync(source, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  };
  const visit = (source: string, target: string): boolean => {
    for (const entry of readdirSync(source, { withFileTypes: true })) {
      left -= 1;
      if (left < 0) return false;
      const [fromPath, toPath] = [join(source, entry.name), join(target, entry.name)];
      if (entry.isDirectory()) {
        // Behind what is no folder there, a later layer hides it.
        if (makeFolder(toPath) && !visit(fromPath, toPath)) return false;
      } else if (entry.isSymbolicLink()) unlessThere(() => symlinkSync(readlinkSync(fromPath), toPath));
      else if (entry.isFile()) unlessThere(() => linkOrCopy(fromPath, toPath));
      if (copiedBytesLeft < 0) return false;
    }
    return true;
  };
  return visit(from, to);
}

/** False when it lies on another file system, or there are too many links to it. */
function link(from: string, to: string): boolean {
  try {
    linkSync(from, to);
    return true;
  } catch (error) {
    if (!hasCode(error, 'EXDEV', 'EPERM', 'EMLINK')) throw error;
    return false;
  }
}

/** A folder that every user may read, whatever the file mode mask says. */
export function makeOpen(path: string): void {
  mkdirSync(path);
  chmodSync(path, 0o755);
}

/** Whether any user may read the folder, and reach it from the root unless it is mounted elsewhere. */
export function isOpenToAll(path: string, isMounted: boolean): boolean {
  if ((statSync(path).mode & 0o005) !== 0o005) return false;
  if (isMounted) return true;
  for (let at = dirname(path); ; at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) return false;
    if (at === dirname(at)) return true;
  }
}

/** False when something else is there. A link to a folder is no folder: what is put there would land elsewhere. */
function makeFolder(path: string): boolean {
  unlessThere(() => makeOpen(path));
  return lstatSync(path).isDirectory();
}

function unlessThere(make: () => void): void {
  try {
    make();
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
  }
}

function hasCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}
