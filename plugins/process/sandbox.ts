/** What an instance is shut into, probed once, and the command that does it. */

import { execFile } from 'node:child_process';
import { existsSync, lstatSync, readlinkSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import type { NetworkAccess } from '../../src/plugin.ts';
import { probeCgroups } from './cgroup.ts';
import type { CgroupHost } from './cgroup.ts';

export type SandboxKind = 'bubblewrap' | 'permissions' | 'none';

/** What holds on this machine. */
export interface Confinement {
  readonly sandbox: SandboxKind;
  /** Path of bwrap, where it is the sandbox. */
  readonly bwrap: string | undefined;
  /** Path of setpriv: gives up privileges, and ends a process with its parent. */
  readonly setpriv: string | undefined;
  readonly cgroups: CgroupHost | undefined;
  /** Each instance has a user of its own: only root can give it one. */
  readonly ownUser: boolean;
  /** What does not hold, and why. */
  readonly gaps: readonly string[];
}

/** Where things lie inside bubblewrap. */
export const INSIDE = {
  task: '/var/task',
  layers: '/opt',
  node: '/var/lang/bin/node',
  client: '/var/runtime/client.cjs',
  run: '/run/runtime',
  socket: '/run/runtime/api.sock',
} as const;
export const PATH_INSIDE = '/var/lang/bin:/usr/local/bin:/usr/bin:/bin:/opt/bin';

/** Generous: on a machine that is only busy the sandbox works all the same. */
const PROBE_TIMEOUT_MS = 30_000;
/** Of the host, read-only; symbolic links stay what they are. */
const SYSTEM_FOLDERS = ['/usr', '/bin', '/sbin', '/lib', '/lib32', '/lib64'];
const SYSTEM_FILES = ['/etc/ld.so.cache', '/etc/alternatives', '/etc/localtime', '/etc/ssl'];
const NETWORK_FILES = ['/etc/resolv.conf', '/etc/hosts', '/etc/nsswitch.conf', '/etc/services'];

const run = promisify(execFile);

export interface Mounts {
  /** Host path to path inside. */
  readonly readOnly: readonly (readonly [from: string, to: string])[];
  readonly ephemeralBytes: number;
  readonly network: NetworkAccess;
  readonly chdir: string;
  readonly isRoot: boolean;
}

/** Arguments of bubblewrap up to the program. */
export function bubblewrapArguments({ readOnly, ephemeralBytes, network, chdir, isRoot }: Mounts): string[] {
  const spaces = [
    '--unshare-ipc',
    '--unshare-pid',
    '--unshare-uts',
    '--unshare-cgroup-try',
    ...(network === 'none' ? ['--unshare-net'] : []),
  ];
  // Root gives each instance a user that nobody else has; everybody else can only pretend.
  const user = isRoot
    ? ['--cap-drop', 'ALL', '--cap-add', 'CAP_SETUID', '--cap-add', 'CAP_SETGID']
    : ['--unshare-user', '--disable-userns', '--uid', '65534', '--gid', '65534'];
  const files = network === 'open' ? [...SYSTEM_FILES, ...NETWORK_FILES] : SYSTEM_FILES;
  return [
    ...spaces,
    ...user,
    '--die-with-parent',
    '--new-session',
    '--hostname',
    'function',
    ...parentsOf([...files, ...readOnly.map(([, to]) => to)]).flatMap((path) => ['--dir', path]),
    ...SYSTEM_FOLDERS.flatMap(systemFolder),
    ...parentsOf([...files, ...readOnly.map(([, to]) => to)]).flatMap((path) => ['--dir', path]),
    ...files.flatMap((file) => ['--ro-bind-try', file, file]),
    '--proc',
    '/proc',
    '--dev',
    '/dev',
    '--perms',
    '1777',
    '--size',
    String(ephemeralBytes),
    '--tmpfs',
    '/tmp',
    ...readOnly.flatMap(([from, to]) => ['--ro-bind', from, to]),
    '--remount-ro',
    '/',
    '--chdir',
    chdir,
    '--',
  ];
}

/** Arguments of node for the sandbox `permissions`. */
export function permissionFlags(node: string, readable: readonly string[], temporary: string): string[] {
  const major = node === process.execPath ? Number(process.versions.node.split('.')[0]) : 24;
  const flag = major < 22 ? '--experimental-permission' : '--permission';
  const reads = [...readable, temporary].map((path) => `--allow-fs-read=${path}`);
  return [flag, ...reads, `--allow-fs-write=${temporary}`];
}

/** Made beforehand, because bubblewrap makes them for nobody but root. */
function parentsOf(paths: readonly string[]): string[] {
  const parents = new Set<string>();
  for (const path of paths) for (let at = dirname(path); at !== '/'; at = dirname(at)) parents.add(at);
  return [...parents].toSorted();
}

function systemFolder(path: string): string[] {
  if (!existsSync(path)) return [];
  return lstatSync(path).isSymbolicLink() ? ['--symlink', readlinkSync(path), path] : ['--ro-bind', path, path];
}

/**
 * Joins the control group, limits what no group limits, then becomes the program. A shell, because the group must be joined before
 * anything can be forked; it takes less than a millisecond.
 */
export const LAUNCHER = `while [ "$1" != -- ]; do
  case $1 in
    -u) { ulimit -u "$2" || ulimit -p "$2" || exit 126; } 2> /dev/null; shift 2 ;;
    -*) ulimit "$1" "$2" || exit 126; shift 2 ;;
    *) echo 0 > "$1" || exit 126; shift ;;
  esac
done
shift
exec "$@"`;

export interface ProbeOptions {
  readonly sandbox: SandboxKind | 'auto';
  /** False: control groups are left alone. */
  readonly cgroups: boolean;
}

/** Finds out what works here, by trying it. Rejects with the reason when the sandbox that was demanded does not work. */
export async function probe({ sandbox, cgroups }: ProbeOptions): Promise<Confinement> {
  const gaps: string[] = [];
  const isRoot = process.getuid?.() === 0;
  const host = cgroups ? probeCgroups() : 'control groups are switched off by option';
  if (typeof host === 'string') gaps.push(`memory is limited only by the heap, processors and processes are not: ${host}`);
  const bwrapProblem = sandbox === 'auto' || sandbox === 'bubblewrap' ? await tryBubblewrap(isRoot) : 'not asked for';
  if (bwrapProblem !== undefined && sandbox === 'bubblewrap')
    throw new Error(`bubblewrap does not work here: ${bwrapProblem}; install it (apt-get install bubblewrap) or choose sandbox 'auto'`);
  const kind = bwrapProblem === undefined ? 'bubblewrap' : sandbox === 'none' ? 'none' : 'permissions';
  if (kind !== 'bubblewrap') {
    if (sandbox === 'auto') gaps.push(`bubblewrap does not work here: ${bwrapProblem}`);
    gaps.push('the network is open', 'the size of /tmp is limited per file only');
    if (kind === 'none') gaps.push('the file system is that of the machine');
  }
  if (!isRoot && kind !== 'bubblewrap') gaps.push('functions run as the user of the runner');
  const setpriv = (await works('setpriv', ['--no-new-privs', '--pdeathsig', 'KILL', 'true'])) ? 'setpriv' : undefined;
  if (setpriv === undefined && kind !== 'bubblewrap')
    gaps.push('setpriv is missing: an instance may outlive a runner that is killed until the next start');
  return {
    sandbox: kind,
    bwrap: kind === 'bubblewrap' ? 'bwrap' : undefined,
    setpriv,
    cgroups: typeof host === 'string' ? undefined : host,
    ownUser: isRoot,
    gaps,
  };
}

async function tryBubblewrap(isRoot: boolean): Promise<string | undefined> {
  const mounts = { readOnly: [], ephemeralBytes: 1 << 20, network: 'none', chdir: '/', isRoot } as const;
  try {
    await run('bwrap', [...bubblewrapArguments(mounts), 'true'], { env: { PATH: '/usr/bin:/bin' }, timeout: PROBE_TIMEOUT_MS });
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message.trim().split('\n').at(-1) : String(error);
  }
}

async function works(command: string, parameters: readonly string[]): Promise<boolean> {
  return run(command, [...parameters], { env: { PATH: '/usr/bin:/bin' }, timeout: PROBE_TIMEOUT_MS }).then(
    () => true,
    () => false,
  );
}

/** Processors that an instance may use when nothing is said: one for 1,769 MB, as on Lambda, but never less than one. */
export function cpusFor(memoryMb: number): number {
  return Math.min(availableParallelism(), Math.max(1, memoryMb / 1_769));
}
