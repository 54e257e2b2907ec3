/** A small SQLite file of our own: opened for one process alone, every change on disk before it is answered. */

import { chmodSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { StatementSync } from 'node:sqlite';
import { RunnerError, isRunnerError } from '../errors.ts';

/**
 * The lock of exclusive mode is the file's own: the system lets go of it however the process ends. FULL: a commit returns when it is on disk.
 */
const SETTINGS = 'PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;';
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
}

interface Write {
  readonly change: () => unknown;
  readonly resolve: (value: never) => void;
  readonly reject: (error: unknown) => void;
}

export class StoreDatabase {
  readonly path: string;
  readonly #database: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();
  #queue: Write[] = [];
  #closed = false;

  /** Throws `STORE_FAILED`: used by another process, damaged, of a newer version, or not writable. */
  constructor({ path, mark, version, schema }: StoreDatabaseOptions) {
    this.path = path;
    let database: DatabaseSync | undefined;
    try {
      if (path !== ':memory:') mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
      database = new DatabaseSync(path, { timeout: 0 });
      this.#database = database;
      if (path !== ':memory:') chmodSync(path, 0o600);
      database.exec(SETTINGS);
      const id = Buffer.from(mark).readUInt32BE(0);
      this.#check(id, version);
      this.transact(() => database?.exec(`${schema}; PRAGMA application_id = ${id}; PRAGMA user_version = ${version};`));
    } catch (thrown) {
      database?.close();
      throw this.#failure(thrown);
    }
  }

  /** The same statement for the same text: it must not be run while an iteration over it is open. */
  prepare(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (!statement) this.#statements.set(sql, (statement = this.#database.prepare(sql)));
    return statement;
  }

  /** All of `change` or nothing. On disk when it returns. */
  transact<T>(change: () => T): T {
    if (this.#closed) throw new RunnerError('STATE_INVALID', `${this.path} is closed`);
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

  /** As `transact`; changes of the same turn of the event loop go to disk together. `change` runs again when a neighbour failed. */
  write<T>(change: () => T): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#queue.push({ change, resolve, reject }) === 1) setImmediate(() => this.#flush());
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#flush();
    this.#closed = true;
    this.#database.close();
  }

  #flush(): void {
    const group = this.#queue;
    this.#queue = [];
    if (group.length === 0) return;
    try {
      const values = this.transact(() => group.map(({ change }) => change()));
      for (const [index, { resolve }] of group.entries()) resolve(values[index] as never);
    } catch {
      for (const { change, resolve, reject } of group) {
        try {
          resolve(this.transact(change) as never);
        } catch (thrown) {
          reject(thrown);
        }
      }
    }
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

  #failure(thrown: unknown): RunnerError {
    if (isRunnerError(thrown)) return thrown;
    const code = thrown instanceof Error && 'errcode' in thrown && typeof thrown.errcode === 'number' ? thrown.errcode & 0xff : undefined;
    const what = BUSY.includes(code) ? 'it is used by another process' : thrown instanceof Error ? thrown.message : String(thrown);
    return new RunnerError('STORE_FAILED', `${this.path} failed: ${what}`, {
      cause: thrown,
      details: { path: this.path, sqliteCode: code },
    });
  }
}
