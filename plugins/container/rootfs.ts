/**
 * The root file system that is made of the node on disk: its binary, the shared libraries that it loads, a shell where the machine has
 * one, and the mount points that functions expect. It becomes an image where no registry is reachable, and a folder for what needs one.
 */

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, constants, copyFile, mkdir, mkdtemp, realpath, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { RunnerError } from '../../src/plugin.ts';
import type { RootEntry } from './tar.ts';

/** Where node lies in it, as in the images of AWS. */
export const NODE_PATH = '/var/lang/bin/node';
/** An unprivileged user of instances, as on AWS. */
export const INSTANCE_UID = 993;

const RUN_MS = 10_000;
const MOUNT_POINTS = ['/var/task', '/opt', '/var/runtime', '/run/bpr', '/tmp', '/proc', '/sys', '/dev', '/etc'];
/** Programs of the machine that scripts name in their first line; left out where the machine has none. */
const PROGRAMS = ['/bin/sh', '/usr/bin/env'];
/** Loaded by the C library when it looks up a name; part of it since glibc 2.34. */
const NAME_LIBRARIES = ['libnss_files.so.2', 'libnss_dns.so.2', 'libresolv.so.2'];

export interface Rootfs {
  readonly entries: readonly RootEntry[];
  /** Changes when a file of it was replaced; found without reading the files. Hex. */
  readonly identity: string;
  /** The folders of its libraries and the loader, as seen inside. */
  readonly libraryPath: string;
  readonly loader: string | undefined;
}

/** Looks up what belongs to it. Rejects with `BACKEND_UNAVAILABLE` where node is not a dynamic Linux program that `ldd` understands. */
export async function hostRootfs(nodePath: string): Promise<Rootfs> {
  const files = new Map<string, string>();
  const libraries = await librariesOf(nodePath);
  files.set(NODE_PATH, await realpath(nodePath));
  for (const program of PROGRAMS) {
    const source = await realpath(program).catch(() => undefined);
    const needs = source === undefined ? undefined : await librariesOf(source).catch(() => undefined);
    if (source === undefined || needs === undefined) continue;
    files.set(program, source);
    libraries.push(...needs);
  }
  const folderOfC = libraries.find((path) => path.includes('/libc.so'));
  if (folderOfC !== undefined) libraries.push(...NAME_LIBRARIES.map((name) => join(dirname(folderOfC), name)), '/etc/ld.so.cache');
  for (const library of libraries) {
    const source = await realpath(library).catch(() => undefined);
    if (source !== undefined) files.set(library, source);
  }
  const identity = createHash('sha256');
  const entries: RootEntry[] = [];
  for (const path of [...files.keys()].toSorted()) {
    const source = files.get(path) ?? path;
    const { size, mtimeMs, ino } = await stat(source);
    entries.push({ kind: 'file', path, mode: 0o755, source, bytes: size });
    identity.update(JSON.stringify([path, size, mtimeMs, ino]));
  }
  entries.push(...TEXTS);
  identity.update(JSON.stringify([TEXTS, MOUNT_POINTS]));
  const inLibraryFolders = [...new Set(libraries.map((path) => dirname(path)).filter((path) => path !== '/etc'))];
  return {
    entries: [...foldersOf(entries), ...entries],
    identity: identity.digest('hex'),
    libraryPath: inLibraryFolders.join(':'),
    loader: libraries.find((path) => /\/ld-[^/]*\.so\.\d+$/.test(path)),
  };
}

const TEXTS: readonly RootEntry[] = [
  {
    kind: 'text',
    path: '/etc/passwd',
    mode: 0o644,
    text: `root:x:0:0:root:/:/bin/sh\nsbx_user:x:${INSTANCE_UID}:${INSTANCE_UID}::/tmp:/bin/sh\n`,
  },
  { kind: 'text', path: '/etc/group', mode: 0o644, text: `root:x:0:\nsbx_user:x:${INSTANCE_UID}:\n` },
  { kind: 'text', path: '/etc/nsswitch.conf', mode: 0o644, text: 'hosts: files dns\n' },
  { kind: 'text', path: '/etc/hosts', mode: 0o644, text: '127.0.0.1 localhost\n::1 localhost\n' },
  // What is mounted over a file needs the file.
  { kind: 'text', path: '/etc/resolv.conf', mode: 0o644, text: '' },
  { kind: 'text', path: '/run/bpr/client.cjs', mode: 0o644, text: '' },
  { kind: 'text', path: '/run/bpr/api.sock', mode: 0o644, text: '' },
];

/** Parents before children. */
function foldersOf(entries: readonly RootEntry[]): RootEntry[] {
  const folders = new Set<string>();
  const add = (path: string): void => {
    if (path === '/') return;
    add(dirname(path));
    folders.add(path);
  };
  for (const path of MOUNT_POINTS) add(path);
  for (const { path } of entries) add(dirname(path));
  return [...folders].map((path) => ({ kind: 'folder', path, mode: path === '/tmp' ? 0o1777 : 0o755 }));
}

async function librariesOf(program: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ldd', [program], { timeout: RUN_MS, env: { LC_ALL: 'C' } }).catch((cause: unknown) => {
    throw new RunnerError('BACKEND_UNAVAILABLE', `the shared libraries of ${program} cannot be found with ldd; name an image instead`, {
      cause,
    });
  });
  const found = [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path = '']) => path);
  const missing = /^\s*(\S+) => not found/m.exec(stdout);
  if (missing) throw new RunnerError('BACKEND_UNAVAILABLE', `${program} needs ${missing[1]}, which ldd does not find`);
  return found;
}

/** SHA-256 over all paths, modes and contents. Hex. */
export async function contentHashOf(entries: readonly RootEntry[]): Promise<string> {
  const total = createHash('sha256');
  for (const entry of entries) {
    total.update(JSON.stringify([entry.kind, entry.path, entry.mode]));
    if (entry.kind === 'text') total.update(entry.text);
    if (entry.kind !== 'file') continue;
    const content = createHash('sha256');
    for await (const chunk of createReadStream(entry.source, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) content.update(chunk);
    total.update(content.digest());
  }
  return total.digest('hex');
}

/** Writes it to a folder below `parent` unless it is there, and resolves with its path. The folder is complete or absent. */
export async function rootfsFolder({ entries, identity }: Rootfs, parent: string): Promise<string> {
  const folder = join(parent, `rootfs-${identity.slice(0, 16)}`);
  if (await isThere(folder)) return folder;
  await mkdir(parent, { recursive: true });
  const partial = await mkdtemp(join(parent, '.rootfs-'));
  try {
    await mkdir(join(partial, 'root'), { mode: 0o755 });
    for (const entry of entries) await writeEntry(entry, join(partial, 'root', entry.path));
    await rename(join(partial, 'root'), folder);
  } catch (error) {
    // Another process was faster.
    if (!(await isThere(folder))) throw error;
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
  return folder;
}

async function writeEntry(entry: RootEntry, path: string): Promise<void> {
  if (entry.kind === 'folder') await mkdir(path, { mode: entry.mode });
  else if (entry.kind === 'text') await writeFile(path, entry.text, { mode: entry.mode });
  else await copyFile(entry.source, path, constants.COPYFILE_FICLONE);
  // Whatever the mask of this process is.
  await chmod(path, entry.mode);
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
