/** Files and folders that a user names. */

import { RunnerError } from '../errors.ts';

interface NamedPath {
  readonly path: string;
  readonly flag: string;
  /** What is done there. Default `written`. */
  readonly use?: 'read' | 'written';
}

/** What is wrong with one of them is said as such: `CONFIG_INVALID` with the flag that names it. */
export function atPath<T>({ path, flag, use = 'written' }: NamedPath, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    const { code = '', syscall }: NodeJS.ErrnoException = cause instanceof Error ? cause : new Error(String(cause));
    if (syscall === undefined) throw cause;
    throw new RunnerError('CONFIG_INVALID', `${path} cannot be ${use} (${code}, ${syscall}); name another one with ${flag}`, {
      cause,
      details: { path },
    });
  }
}

/** What the system says of a path that stands for a wish of the user: none of them is a fault of this program. */
const UNUSABLE: ReadonlySet<string> = new Set([
  'EACCES',
  'EDQUOT',
  'EEXIST',
  'EISDIR',
  'ENAMETOOLONG',
  'ENOSPC',
  'ENOTDIR',
  'EPERM',
  'EROFS',
]);

/** Of a path that no flag is known of. */
export function unusablePath(thrown: unknown): unknown {
  const { code = '', syscall, path }: NodeJS.ErrnoException = thrown instanceof Error ? thrown : new Error(String(thrown));
  // Of a folder it says that the system makes none there.
  const isUnusable = UNUSABLE.has(code) || (code === 'ENOENT' && syscall === 'mkdir');
  if (syscall === undefined || path === undefined || !isUnusable) return thrown;
  const message = `${path} cannot be used (${code}, ${syscall}); name another file or folder, or change what may be done there`;
  return new RunnerError('CONFIG_INVALID', message, { cause: thrown, details: { path } });
}
