/** The folder of a function runtime: who it belongs to, over restarts, and that only one process uses it. */

import { randomUUID } from 'node:crypto';
import { chmod, mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { RunnerError } from '../errors.ts';

const OWNER_FILE = 'owner';
const LOCK_SOCKET = 'lock';
const INSTANCE_FOLDER = /^i-[0-9a-f]{12}$/;
/** What the address of a unix socket holds. */
const SOCKET_PATH_BYTES_MAX = 107;

/** The socket of an instance, alone in its folder. */
export function socketPathOf(folder: string, instanceKey: string): string {
  return join(folder, `i-${instanceKey}`, 'api');
}

export class OwnerFolder {
  readonly ownerId: string;
  readonly #lock: Server;

  private constructor(ownerId: string, lock: Server) {
    this.ownerId = ownerId;
    this.#lock = lock;
  }

  /**
   * Takes the folder, making it when it is not there, and removes the sockets of an earlier process. Throws `CONFIG_INVALID` when another
   * process has it, or when its path is too long for a socket.
   */
  static async take(folder: string): Promise<OwnerFolder> {
    const longest = Buffer.byteLength(socketPathOf(folder, '0'.repeat(12)));
    if (longest > SOCKET_PATH_BYTES_MAX) {
      const message = `the path ${folder} is too long for the sockets of instances: ${longest} bytes of at most ${SOCKET_PATH_BYTES_MAX}`;
      throw new RunnerError('CONFIG_INVALID', message, { details: { folder } });
    }
    await mkdir(folder, { recursive: true });
    // Instances may run as other users: they pass through, into their own folder only.
    await chmod(folder, 0o711);
    const lock = await takeLock(folder);
    try {
      const names = await readdir(folder);
      await Promise.all(
        names.filter((name) => INSTANCE_FOLDER.test(name)).map((name) => rm(join(folder, name), { recursive: true, force: true })),
      );
      return new OwnerFolder(await ownerIdOf(folder), lock);
    } catch (error) {
      lock.close();
      throw error;
    }
  }

  /** Another process may take it. */
  release(): Promise<void> {
    return new Promise((resolve) => this.#lock.close(() => resolve()));
  }
}

async function ownerIdOf(folder: string): Promise<string> {
  const file = join(folder, OWNER_FILE);
  const known = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  if (/^[0-9a-f-]{36}$/.test(known)) return known;
  const ownerId = randomUUID();
  await writeFile(`${file}.new`, ownerId, { mode: 0o600, flush: true });
  await rename(`${file}.new`, file);
  return ownerId;
}

/** A socket that somebody listens on: the kernel lets go of it when its process dies, however it dies. */
async function takeLock(folder: string): Promise<Server> {
  const path = join(folder, LOCK_SOCKET);
  try {
    return await listen(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
  }
  if (await isAlive(path)) {
    throw new RunnerError('CONFIG_INVALID', `another function runtime uses the folder ${folder}; give each its own`, {
      details: { folder },
    });
  }
  await rm(path, { force: true });
  return listen(path);
}

function listen(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', reject);
    server.listen(path, () => {
      server.unref();
      resolve(server);
    });
  });
}

function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const answer = (alive: boolean): void => {
      socket.destroy();
      resolve(alive);
    };
    socket.once('connect', () => answer(true));
    socket.once('error', () => answer(false));
  });
}
