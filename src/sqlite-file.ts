/** A SQLite file of our own: opening, checking, locking, and group commit. Beneath the ledger and the embedded queue. */

import { closeSync, existsSync, fdatasync, fsyncSync, openSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { StatementSync } from 'node:sqlite';
import { RunnerError, isRunnerError } from './errors.ts';
import type { ErrorCode, RunnerErrorOptions } from './errors.ts';
import { makeFolder } from './folder.ts';

/** Larger files are opened without the check of every page: it reads the whole file. */
const CHECKED_BYTES_MAX = 256 * 1024 * 1024;
/** How long a reader waits for the writer of another process. */
const BUSY_MS = 5_000;

// Primary result codes: https://www.sqlite.org/rescode.html
const SQLITE = { busy: 5, locked: 6, ioError: 10, corrupt: 11, full: 13, cantOpen: 14, tooBig: 18, notADatabase: 26 } as const;
const NO_SPACE: readonly unknown[] = ['ENOSPC', 'EDQUOT'];
const NO_ACCESS: readonly unknown[] = ['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST'];

const SETTINGS = 'PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA temp_store = MEMORY;';
/**
 * Of the connection that writes. What changes often is taken over into the file once for each 16 MiB of the log (4,000 pages; SQLite's default is
 * 1,000), and is found in a cache of 16 MiB (KiB, negative) meanwhile: a quarter to a half less is written for a job of a queue.
 */
const PACE = 'PRAGMA wal_autocheckpoint = 4000; PRAGMA cache_size = -16384;';

/** What the owner does around the changes of each group. */
export interface GroupHooks {
  /** The last change of the group: what it changes is committed, or rolled back, with the others. */
  beforeCommit(): void;
  /** The group is on disk. Until then no other group begins. */
  committed(): void;
  /** Nothing of the group was changed; its changes may run again, one by one. */
  rolledBack(): void;
  /** With `sync: 'background'`: the disk did not take a group that is in the file. Nothing is written any more. */
  failed?(error: unknown): void;
}

export interface SqliteFileOptions {
  /** A file, or `:memory:`: nothing is durable. */
  readonly path: string;
  /** What people call it. */
  readonly noun: string;
  /** Four letters that mark the file. */
  readonly mark: string;
  readonly version: number;
  /** Statements that may run again on a file that has it all. */
  readonly schema: string;
  readonly codes: { readonly corrupt: ErrorCode; readonly full: ErrorCode; readonly locked: ErrorCode; readonly version: ErrorCode };
  /** What makes up for a file that is lost. */
  readonly remedy: string;
  /** Reads beside the process that owns the file. */
  readonly readonly?: boolean;
  /**
   * Where the disk is waited for: by the commit (default), or beside the event loop. Then what came meanwhile is the next group, and reads see
   * what is not on disk yet: see `synced`.
   */
  readonly sync?: 'commit' | 'background';
  readonly hooks?: GroupHooks;
}

function sqliteCode(thrown: unknown): number | undefined {
  const code = typeof thrown === 'object' && thrown !== null && 'errcode' in thrown ? thrown.errcode : undefined;
  return typeof code === 'number' ? code & 0xff : undefined;
}

interface Write {
  readonly change: () => unknown;
  readonly resolve: (value: never) => void;
  readonly reject: (error: unknown) => void;
}

/** One open file. Changes made in the same turn of the event loop share one transaction. */
export class SqliteFile {
  readonly path: string;
  readonly #options: SqliteFileOptions;
  readonly #mark: number;
  readonly #database: DatabaseSync;
  readonly #lock: DatabaseSync | undefined;
  #queue: Write[] = [];
  /** Of a group that failed: each alone fails or succeeds for itself. */
  #alone: Write[] = [];
  #isScheduled = false;
  #closed = false;
  #idle: (() => void)[] = [];
  /** The log of commits, when it is synchronised by us. */
  #log: number | undefined;
  /** While a group is on its way to the disk. */
  #syncing: Promise<void> | undefined;
  /** Why the disk did not take a group: what it holds of the groups before and after is not known. */
  #broken: RunnerError | undefined;
  readonly #begin: StatementSync;
  readonly #commit: StatementSync;

  /** Throws the codes of the options, `CONFIG_INVALID` when the path cannot be opened, and `PAYLOAD_TOO_LARGE`. */
  constructor(options: SqliteFileOptions) {
    const { path, readonly = false } = options;
    this.path = path;
    this.#options = options;
    this.#mark = Buffer.from(options.mark).readUInt32BE(0);
    const inMemory = path === ':memory:';
    let database: DatabaseSync | undefined;
    try {
      if (!inMemory && !readonly) makeFolder(dirname(path), 0o700);
      // Found out before a lock is made beside it.
      const found = inMemory ? undefined : statSync(path, { throwIfNoEntry: false });
      if (found?.isDirectory()) throw this.#inaccessible();
      if (found?.size === 0) throw this.#corrupt('is empty: its content is gone');
      this.#lock = inMemory || readonly ? undefined : takeLock(path);
      if (this.#lock) this.#makeUnlessThere();
      database = new DatabaseSync(path, { readOnly: readonly, timeout: BUSY_MS });
      this.#database = database;
      this.#check(inMemory);
      if (!readonly) this.#prepare(database);
      this.#begin = this.#database.prepare('BEGIN IMMEDIATE');
      this.#commit = this.#database.prepare('COMMIT');
      if (options.sync === 'background' && !inMemory && !readonly) {
        this.#log = openSync(`${path}-wal`, 'r+');
        // SQLite does it with its own first synchronisation of a new log.
        syncFolder(dirname(path));
      }
    } catch (thrown) {
      database?.close();
      this.#lock?.close();
      throw this.#failure(thrown);
    }
  }

  prepare(sql: string): StatementSync {
    return this.#database.prepare(sql);
  }

  /**
   * Resolves with what `change` returned once it is on disk; rejects with it when it is a `RunnerError`, which undoes nothing. `change` runs
   * later, and once more when a neighbour of its group failed.
   */
  write<T>(change: () => T | RunnerError): Promise<T> {
    if (this.#closed) return Promise.reject(new RunnerError('STATE_INVALID', `the ${this.#options.noun} ${this.path} is closed`));
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({ change, resolve, reject });
      this.#schedule();
    });
  }

  /** Resolves when all that reads have seen is on disk; undefined when it is. */
  synced(): Promise<void> | undefined {
    if (this.#broken !== undefined) return Promise.reject(this.#broken);
    return this.#syncing;
  }

  read<T>(query: () => T): T {
    try {
      return query();
    } catch (thrown) {
      throw this.#failure(thrown);
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#isScheduled || this.#syncing) await new Promise<void>((resolve) => this.#idle.push(resolve));
    if (this.#log !== undefined) closeSync(this.#log);
    this.#database.close();
    this.#lock?.close();
  }

  /** Gives the space of removed rows back. */
  shrink(): void {
    this.read(() => this.#database.exec('PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);'));
  }

  #schedule(): void {
    if (this.#isScheduled || this.#syncing) return;
    this.#isScheduled = true;
    const flush = (): void => this.#flush();
    // Beside the loop a group takes as long as some hundred requests: what is about to come joins it.
    if (this.#log === undefined) setImmediate(flush);
    else setImmediate(() => setImmediate(flush));
  }

  #flush(): void {
    this.#isScheduled = false;
    while (this.#alone.length > 0 || this.#queue.length > 0) {
      const group = this.#alone.length > 0 ? this.#alone.splice(0, 1) : this.#queue;
      if (group === this.#queue) this.#queue = [];
      const values = this.#transact(group);
      if (!values) continue;
      if (this.#log === undefined) this.#settle(group, values);
      // The next group begins when this one is on disk.
      else return this.#sync(this.#log, group, values);
    }
    this.#rest();
  }

  #rest(): void {
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Undefined: nothing of it was changed. */
  #transact(group: readonly Write[]): unknown[] | undefined {
    try {
      if (this.#broken !== undefined) throw this.#broken;
      return this.#change(group);
    } catch (thrown) {
      if (group.length === 1) group[0]?.reject(this.#failure(thrown));
      else this.#alone.push(...group);
      return undefined;
    }
  }

  #settle(group: readonly Write[], values: readonly unknown[]): void {
    this.#options.hooks?.committed();
    for (const [index, { resolve, reject }] of group.entries()) {
      const value = values[index];
      if (isRunnerError(value)) reject(value);
      else resolve(value as never);
    }
  }

  #sync(log: number, group: readonly Write[], values: readonly unknown[]): void {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(() => undefined); // who waits for it is told; nobody has to
    this.#syncing = promise;
    fdatasync(log, (error) => {
      this.#syncing = undefined;
      if (error) {
        this.#broken = this.#lost(error);
        this.#options.hooks?.failed?.(this.#broken);
        for (const write of group) write.reject(this.#broken);
        reject(this.#broken);
      } else {
        this.#settle(group, values);
        resolve();
      }
      // What is done in answer to this group is in the next one.
      if (this.#alone.length > 0 || this.#queue.length > 0) this.#schedule();
      else this.#rest();
    });
  }

  #change(group: readonly Write[]): unknown[] {
    const { hooks } = this.#options;
    try {
      this.#begin.run();
      const values = group.map((write) => write.change());
      hooks?.beforeCommit();
      this.#commit.run();
      return values;
    } catch (thrown) {
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK');
      hooks?.rolledBack();
      throw thrown;
    }
  }

  #check(inMemory: boolean): void {
    const { noun, version: known, codes, readonly = false } = this.#options;
    const tables = this.#number('SELECT count(*) AS value FROM sqlite_schema');
    const mark = this.#number('SELECT application_id AS value FROM pragma_application_id');
    // Who only reads makes nothing of a database that holds nothing.
    if ((tables > 0 || readonly) && mark !== this.#mark) throw this.#corrupt(`is a database, but not a ${noun}`);
    const version = this.#number('SELECT user_version AS value FROM pragma_user_version');
    if (version > known) {
      throw new RunnerError(codes.version, `the ${noun} ${this.path} has version ${version}, this program knows ${known}`, {
        details: { path: this.path, version },
      });
    }
    if (inMemory || statSync(this.path).size > CHECKED_BYTES_MAX) return;
    const verdict = this.#database.prepare('PRAGMA quick_check(1)').get()?.['quick_check'];
    if (verdict !== 'ok') throw this.#corrupt(`is damaged (${String(verdict)})`);
  }

  #prepare(database: DatabaseSync): void {
    const { schema, version, sync = 'commit' } = this.#options;
    // NORMAL: the log is synchronised before it is taken over into the file, not by each commit.
    database.exec(`${SETTINGS} ${PACE} PRAGMA synchronous = ${sync === 'commit' ? 'FULL' : 'NORMAL'};`);
    database.exec(`BEGIN; ${schema} PRAGMA application_id = ${this.#mark}; PRAGMA user_version = ${version}; COMMIT;`);
  }

  /**
   * The file comes into being with a rename, complete: one that is empty, or one that is gone while its log is there, held something once.
   * SQLite would take it for a new one.
   */
  #makeUnlessThere(): void {
    const { path } = this;
    if (existsSync(path)) return;
    if (existsSync(`${path}-wal`)) throw this.#corrupt(`is gone, but ${path}-wal is there`);
    const fresh = `${path}.new`;
    for (const file of [fresh, `${fresh}-wal`, `${fresh}-shm`]) rmSync(file, { force: true });
    const database = new DatabaseSync(fresh);
    try {
      this.#prepare(database);
    } finally {
      database.close();
    }
    renameSync(fresh, path);
    syncFolder(dirname(path));
  }

  #number(sql: string): number {
    return Number(this.#database.prepare(sql).get()?.['value'] ?? 0);
  }

  /** A disk that failed once may say yes the next time although it lost something: only opening the file again tells what it holds. */
  #lost(cause: Error): RunnerError {
    const { path } = this;
    const { noun, codes } = this.#options;
    return new RunnerError(codes.full, `the ${noun} ${path} did not get to the disk (${cause.message}); start this program again`, {
      cause,
      details: { path },
    });
  }

  /** What SQLite threw, with the code that says what to do. */
  #failure(thrown: unknown): unknown {
    const { path } = this;
    const { noun, codes } = this.#options;
    const code = sqliteCode(thrown);
    const system = typeof thrown === 'object' && thrown !== null && 'code' in thrown ? thrown.code : undefined;
    const options = { cause: thrown, details: { path, sqliteCode: code } };
    if (code === SQLITE.full || code === SQLITE.ioError || NO_SPACE.includes(system))
      return new RunnerError(codes.full, `the ${noun} ${path} cannot be written: the disk is full or fails`, options);
    if (code === SQLITE.corrupt || code === SQLITE.notADatabase) return this.#corrupt(`is damaged or not a ${noun}`, thrown);
    if (code === SQLITE.tooBig)
      return new RunnerError(
        'PAYLOAD_TOO_LARGE',
        `the ${noun} ${path} takes no arguments or results of 1,000,000,000 bytes or more`,
        options,
      );
    if (code === SQLITE.cantOpen || NO_ACCESS.includes(system)) return this.#inaccessible(options);
    if (code === SQLITE.busy || code === SQLITE.locked)
      return new RunnerError(codes.locked, `the ${noun} ${path} is used by another process`, options);
    return thrown;
  }

  #inaccessible(options: RunnerErrorOptions = { details: { path: this.path } }): RunnerError {
    const { noun } = this.#options;
    return new RunnerError('CONFIG_INVALID', `the ${noun} ${this.path} cannot be opened; check the path and its permissions`, options);
  }

  /** The file is evidence: it is never repaired or replaced here. */
  #corrupt(what: string, cause?: unknown): RunnerError {
    const { path } = this;
    const remedy = `put a good copy in its place, or move it and ${path}-wal away and ${this.#options.remedy}`;
    return new RunnerError(this.#options.codes.corrupt, `the ${this.#options.noun} ${path} ${what}; ${remedy}`, {
      cause,
      details: { path },
    });
  }
}

/** So that the names of new files in it last. */
function syncFolder(path: string): void {
  const folder = openSync(path, 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

/**
 * An exclusive transaction on a file beside: the system lets go of it however the process ends, and readers of the file are not disturbed.
 */
function takeLock(path: string): DatabaseSync {
  const lock = new DatabaseSync(`${path}.lock`, { timeout: 0 });
  try {
    lock.exec('BEGIN EXCLUSIVE');
    return lock;
  } catch (thrown) {
    lock.close();
    throw thrown;
  }
}
