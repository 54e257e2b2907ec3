/** `bpr doctor --production`: whether what is written stays, and is nobody else's. */

import { closeSync, existsSync, fsyncSync, openSync, readdirSync, rmSync, statSync, statfsSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { verdict } from './doctor-check.ts';
import type { Check } from './doctor-check.ts';

/** Of `statfs(2)`: what is in memory, or lies in a layer of a container. */
const MEMORY_TYPES: Readonly<Record<number, string>> = { 0x01021994: 'tmpfs', 0x858458f6: 'ramfs' };
const OVERLAY_TYPE = 0x794c7630;
const GIB = 1024 ** 3;
const FREE = { fail: GIB, warn: 5 * GIB };
const FSYNC_MS_MAX = 50;
const FSYNCS = 5;
const BACKUP_HOURS_MAX = 24;
/** What opens something, in the folders of control plane, worker and commands. */
const SECRETS = /\.(?:key|token|ticket|pem)$/;

/** The nearest folder that is there. */
function existing(folder: string): string {
  let found = folder;
  while (!existsSync(found)) found = dirname(found);
  return found;
}

export function checkDisk(folder: string): Check[] {
  const at = existing(folder);
  const { type, bavail, bsize, blocks } = statfsSync(at);
  const memory = MEMORY_TYPES[type];
  const kind = memory ?? (type === OVERLAY_TYPE ? 'overlay' : `type 0x${type.toString(16)}`);
  return [
    verdict({ name: 'data directory kind', source: `statfs ${at}`, detail: kind }, [
      [memory !== undefined, 'fail', `${kind} is lost at a restart: put the data on a disk, with BPR_DATA_DIR`],
      [type === OVERLAY_TYPE, 'warn', 'it is lost with its container: mount a volume there'],
    ]),
    spaceCheck(at, { freeBytes: bavail * bsize, totalBytes: blocks * bsize }),
    checkFsync(at),
  ];
}

/** Exported for its test: nobody fills a disk for it. */
export function spaceCheck(at: string, { freeBytes, totalBytes }: { readonly freeBytes: number; readonly totalBytes: number }): Check {
  const detail = `${(freeBytes / GIB).toFixed(1)} GiB of ${(totalBytes / GIB).toFixed(1)} GiB free`;
  return verdict({ name: 'disk space', source: `statfs ${at}`, detail }, [
    [freeBytes < FREE.fail, 'fail', 'jobs are refused when it is full: make room, or use a larger disk'],
    [freeBytes < FREE.warn, 'warn', 'make room before it is full'],
  ]);
}

function checkFsync(at: string): Check {
  const file = join(at, `.bpr-doctor-${process.pid}`);
  const name = 'fsync';
  const source = `${FSYNCS} writes in ${at}`;
  try {
    const handle = openSync(file, 'wx', 0o600);
    try {
      const startedAt = performance.now();
      for (let index = 0; index < FSYNCS; index += 1) {
        writeSync(handle, 'x');
        fsyncSync(handle);
      }
      const eachMs = (performance.now() - startedAt) / FSYNCS;
      return verdict({ name, source, detail: `${eachMs.toFixed(2)} ms each` }, [
        [eachMs > FSYNC_MS_MAX, 'warn', 'each acknowledged job waits for one: use a faster disk'],
      ]);
    } finally {
      closeSync(handle);
      rmSync(file, { force: true });
    }
  } catch (thrown) {
    const detail = thrown instanceof Error ? thrown.message : String(thrown);
    return { name, source, status: 'fail', detail, remedy: 'let this user write there, or name another folder with BPR_DATA_DIR' };
  }
}

/** Keys, tokens and tickets in these folders and of these files. */
export function checkModes(folders: readonly string[], files: readonly string[] = []): Check {
  const inFolders = folders.filter((folder) => existsSync(folder)).flatMap((folder) => secretsIn(folder));
  const secrets = [...new Set([...inFolders, ...files.filter((file) => existsSync(file))])];
  const open = secrets
    .map((path) => ({ path, mode: statSync(path).mode & 0o777 }))
    .filter(({ mode }) => (mode & 0o077) !== 0)
    .map(({ path, mode }) => `${path} ${mode.toString(8).padStart(4, '0')}`);
  const detail = open.length > 0 ? `others may read ${open.join(', ')}` : `${secrets.length} files, readable for their owner only`;
  return verdict({ name: 'file modes', source: folders.join(', '), detail }, [
    [open.length > 0, 'fail', `chmod 600 ${open.map((one) => one.split(' ')[0]).join(' ')}, and rotate what others may have read`],
  ]);
}

function secretsIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isFile() && SECRETS.test(entry.name))
    .map(({ name }) => join(folder, name));
}

/** How old the newest file of a folder of backups is. */
export function checkBackups(folder: string | undefined, now: number): Check {
  const name = 'backups';
  if (folder === undefined) {
    const remedy = 'back up the ledger, the control plane and its keys, and name the folder with --backups';
    return { name, source: '--backups', status: 'warn', detail: 'it is not known where they are', remedy };
  }
  const remedy = 'look at the job that makes them';
  if (!existsSync(folder)) return { name, source: folder, status: 'fail', detail: 'there is no such folder', remedy };
  if (!statSync(folder).isDirectory())
    return { name, source: folder, status: 'fail', detail: 'it is no folder', remedy: 'name its folder' };
  // A link may lead nowhere.
  const times = readdirSync(folder).flatMap((entry) => statSync(join(folder, entry), { throwIfNoEntry: false })?.mtimeMs ?? []);
  if (times.length === 0) return { name, source: folder, status: 'fail', detail: 'it is empty', remedy };
  const hours = (now - Math.max(...times)) / 3_600_000;
  return verdict({ name, source: folder, detail: `${times.length} there, the newest ${hours.toFixed(1)} hours old` }, [
    [hours > BACKUP_HOURS_MAX, 'fail', remedy],
  ]);
}
