/** A small SQLite file of our own: opened for one process alone, every change on disk before it is answered. */

import { chmodSync, closeSync, fdatasync, fdatasyncSync, mkdirSync, openSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { StatementSync } from 'node:sqlite';
import { RunnerError, isRunnerError } from '../errors.ts';

/** The lock of exclusive mode is the file's own: the system lets go of it however the process ends. */
const SETTINGS = 'PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON;';
// Primary result codes: https://www.sqlite.org/rescode.html
const BUSY: readonly (number | undefined)[] = [5, 6];

export interface StoreDatabaseOptions {
  /** A file, or `:memory:`. */
  readonly path: string;
  /** Four letters that mark the file. */
  readonly mark: string;
  readonly version: number;
  /** Statements that may run again on a file that has it all. */
  readonly schema: string;
  /**
   * `commit` (default): a commit returns when it is on disk. `background`: it returns when the system has it, which outlives the process;
   * that it is on disk is waited for by `write` alone, beside the event loop.
   */
  readonly sync?: 'commit' | 'background';
}

interface Write {
  readonly change: () => unknown;
  readonly resolve: (value: never) => void;
  readonly reject: (error: unknown) => void;
  readonly isDurable: boolean;
}

/** Runs when the commit of a change is on disk, or could not be brought there. */
type Synced = (error: unknown) => void;

export class StoreDatabase {
  readonly path: string;
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  #queue: Write[] = [];
  #closed = false;
  /** The log that commits go to, when it is synchronised by us. */
  #log: number | undefined;
  #unsynced: Synced[] = [];
  #isSyncing = false;

  /** Throws `STORE_FAILED`: used by another process, damaged, of a newer version, or not writable. */
  constructor({ path, mark, version, schema, sync = 'commit' }: StoreDatabaseOptions) {
    this.path = path;
    let database: DatabaseSync | undefined;
    try {
      if (path !== ':memory:') mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
      database = new DatabaseSync(path, { timeout: 0 });
      this.#database = database;
      if (path !== ':memory:') chmodSync(path, 0o600);
      // NORMAL: the log is synchronised before it is taken over into the file, not by each commit.
      database.exec(`${SETTINGS} PRAGMA synchronous = ${sync === 'commit' ? 'FULL' : 'NORMAL'};`);
      const id = Buffer.from(mark).readUInt32BE(0);
      this.#check(id, version);
      this.transact(() => database?.exec(`${schema}; PRAGMA application_id = ${id}; PRAGMA user_version = ${version};`));
      if (sync === 'background' && path !== ':memory:') this.#log = openSync(`${path}-wal`, 'r+');
    } catch (thrown) {
      database?.close();
      throw this.#failure(thrown, path);
    }
  }

  /** The same statement for the same text: it must not be run while an iteration over it is open. */
  prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (!statement) this.#statements.set(sql, (statement = this.#database.prepare(sql)));
    return statement;
  }

  /** All of `change` or nothing. On disk when it returns; with `background`, when `synced` resolves. */
  transact<T>(change: () => T): T {
    if (this.#closed) throw new RunnerError('STATE_INVALID', `${basename(this.path)} is closed`);
    try {
      this.#database.exec('BEGIN IMMEDIATE');
      const value = change();
      this.#database.exec('COMMIT');
      return value;
    } catch (thrown) {
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK');
      throw this.#failure(thrown);
    }
  }

  /**
   * As `transact`; changes of the same turn of the event loop go to disk together. `change` runs again when a neighbour failed. With
   * `isDurable: false` it resolves when the change would outlive the process, not yet the machine; it is on disk with the next that is.
   */
  write<T>(change: () => T, { isDurable = true }: { readonly isDurable?: boolean } = {}): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#queue.push({ change, resolve, reject, isDurable }) === 1) setImmediate(() => this.#flush());
    });
  }

  /** All that was committed is on disk. Rejects with `STORE_FAILED`. */
  synced(): Promise<void> {
    if (this.#log === undefined) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#unsynced.push((error) => (error ? reject(this.#failure(error)) : resolve()));
      this.#sync();
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#flush();
    this.#closed = true;
    this.#closeLog();
    this.#database.close();
  }

  /** One synchronisation at a time; the next is for all commits of meanwhile. */
  #sync(): void {
    if (this.#isSyncing || this.#log === undefined || this.#unsynced.length === 0) return;
    const synced = this.#unsynced;
    this.#unsynced = [];
    this.#isSyncing = true;
    fdatasync(this.#log, (error) => {
      this.#isSyncing = false;
      for (const each of synced) each(error);
      if (this.#closed) this.#closeLog();
      else this.#sync();
    });
  }

  /** After the synchronisation that goes on. */
  #closeLog(): void {
    if (this.#log === undefined || this.#isSyncing) return;
    const synced = this.#unsynced;
    this.#unsynced = [];
    let failed: unknown;
    try {
      fdatasyncSync(this.#log);
    } catch (thrown) {
      failed = thrown;
    }
    closeSync(this.#log);
    this.#log = undefined;
    for (const each of synced) each(failed);
  }

  #flush(): void {
    const group = this.#queue;
    this.#queue = [];
    if (group.length === 0) return;
    try {
      const values = this.transact(() => group.map(({ change }) => change()));
      for (const [index, write] of group.entries()) this.#committed(write, values[index]);
    } catch {
      for (const write of group) {
        try {
          this.#committed(write, this.transact(write.change));
        } catch (thrown) {
          write.reject(thrown);
        }
      }
    }
    this.#sync();
  }

  #committed({ resolve, reject, isDurable }: Write, value: unknown): void {
    // Of the type that its own change returned.
    const done = (): void => resolve(value as never);
    if (this.#log === undefined || !isDurable) done();
    else this.#unsynced.push((error) => (error ? reject(this.#failure(error)) : done()));
  }

  #check(id: number, version: number): void {
    const tables = this.#number('SELECT count(*) AS value FROM sqlite_schema');
    if (tables === 0) return;
    if (this.#number('SELECT application_id AS value FROM pragma_application_id') !== id)
      throw new Error('it is a database of something else');
    const found = this.#number('SELECT user_version AS value FROM pragma_user_version');
    if (found > version) throw new Error(`it has version ${found}, this program knows ${version}`);
    const verdict = this.#database.prepare('PRAGMA quick_check(1)').get()?.['quick_check'];
    if (verdict !== 'ok') throw new Error(`it is damaged (${String(verdict)})`);
  }

  #number(sql: string): number {
    return Number(this.#database.prepare(sql).get()?.['value'] ?? 0);
  }

  /** Who opens it is told where it lies; later failures go to callers, who are told no paths of the disk. */
  #failure(thrown: unknown, name: string = basename(this.path)): RunnerError {
    if (isRunnerError(thrown)) return thrown;
    const code = thrown instanceof Error && 'errcode' in thrown && typeof thrown.errcode === 'number' ? thrown.errcode & 0xff : undefined;
    const busy = 'it is used by another process; end that one, or give this one a folder of its own (bpr: --data-dir)';
    const what = BUSY.includes(code) ? busy : thrown instanceof Error ? thrown.message : String(thrown);
    return new RunnerError('STORE_FAILED', `${name} failed: ${what}`, { cause: thrown, details: { sqliteCode: code } });
  }
}
