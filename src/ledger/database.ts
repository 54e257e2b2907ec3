/** The SQLite file beneath the ledger: opening, checking, locking, and group commit. */

import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { StatementSync } from 'node:sqlite';
import { RunnerError } from '../errors.ts';

/** "BPRL": marks the file as a ledger. */
const APPLICATION_ID = 0x42_50_52_4c;
const VERSION = 1;
/** Larger files are opened without the check of every page: it reads the whole file. */
const CHECKED_BYTES_MAX = 256 * 1024 * 1024;
/** How long a reader waits for the writer of another process. */
const BUSY_MS = 5_000;

// Primary result codes: https://www.sqlite.org/rescode.html
const SQLITE = { busy: 5, locked: 6, ioError: 10, corrupt: 11, full: 13, cantOpen: 14, tooBig: 18, notADatabase: 26 } as const;
const NO_SPACE: readonly unknown[] = ['ENOSPC', 'EDQUOT'];
const NO_ACCESS: readonly unknown[] = ['EACCES', 'EPERM', 'EROFS', 'ENOTDIR', 'EEXIST'];

const SETTINGS = 'PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;';

const SCHEMA = `BEGIN;
CREATE TABLE IF NOT EXISTS calls (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  job_id TEXT NOT NULL,
  body BLOB NOT NULL,
  metadata TEXT,
  chain_id INTEGER, contract TEXT, service_id TEXT, call_id TEXT, job_index INTEGER, caller TEXT,
  block_number INTEGER, block_hash TEXT, transaction_hash TEXT, log_index INTEGER, timestamp INTEGER, quoted TEXT,
  state INTEGER NOT NULL,
  before INTEGER,
  attempts INTEGER NOT NULL DEFAULT 0,
  executor TEXT, reason TEXT,
  output BLOB,
  duration_ms REAL,
  error_code TEXT, error_message TEXT,
  seen_at INTEGER NOT NULL, started_at INTEGER, executed_at INTEGER, updated_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS calls_waiting ON calls (seq) WHERE state IN (0, 1);
CREATE INDEX IF NOT EXISTS calls_executed ON calls (seq) WHERE state = 2;
CREATE INDEX IF NOT EXISTS calls_block ON calls (block_number) WHERE block_number IS NOT NULL;
CREATE TABLE IF NOT EXISTS notes (seq INTEGER NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS notes_seq ON notes (seq);
CREATE TABLE IF NOT EXISTS transactions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  chain_id INTEGER NOT NULL, account TEXT NOT NULL, nonce INTEGER NOT NULL,
  hash TEXT NOT NULL, raw TEXT NOT NULL,
  max_fee TEXT NOT NULL, priority_fee TEXT NOT NULL, gas TEXT NOT NULL,
  purpose TEXT NOT NULL, state TEXT NOT NULL,
  block_number INTEGER, block_hash TEXT, gas_used TEXT, gas_price TEXT,
  final INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL, mined_at INTEGER
);
CREATE INDEX IF NOT EXISTS transactions_open ON transactions (chain_id, account, nonce, id) WHERE final = 0;
CREATE TABLE IF NOT EXISTS transaction_calls (transaction_id INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (transaction_id, seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS transaction_calls_seq ON transaction_calls (seq);
CREATE TABLE IF NOT EXISTS cursors (chain_id INTEGER NOT NULL, contract TEXT NOT NULL, number INTEGER NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (chain_id, contract)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${VERSION};
COMMIT;`;

function sqliteCode(thrown: unknown): number | undefined {
  const code = typeof thrown === 'object' && thrown !== null && 'errcode' in thrown ? thrown.errcode : undefined;
  return typeof code === 'number' ? code & 0xff : undefined;
}

/** What SQLite threw, with the code that says what to do. */
function ledgerError(thrown: unknown, path: string): unknown {
  const code = sqliteCode(thrown);
  const system = typeof thrown === 'object' && thrown !== null && 'code' in thrown ? thrown.code : undefined;
  const options = { cause: thrown, details: { path, sqliteCode: code } };
  if (code === SQLITE.full || code === SQLITE.ioError || NO_SPACE.includes(system))
    return new RunnerError('LEDGER_FULL', `the ledger ${path} cannot be written: the disk is full or fails`, options);
  if (code === SQLITE.corrupt || code === SQLITE.notADatabase) return corrupt(path, 'is damaged or not a ledger', thrown);
  if (code === SQLITE.tooBig)
    return new RunnerError('PAYLOAD_TOO_LARGE', `the ledger ${path} takes no arguments or results of 1,000,000,000 bytes or more`, options);
  if (code === SQLITE.cantOpen || NO_ACCESS.includes(system))
    return new RunnerError('CONFIG_INVALID', `the ledger ${path} cannot be opened; check the path and its permissions`, options);
  if (code === SQLITE.busy || code === SQLITE.locked)
    return new RunnerError('LEDGER_LOCKED', `the ledger ${path} is used by another process`, options);
  return thrown;
}

/** The file is evidence: it is never repaired or replaced here. */
function corrupt(path: string, what: string, cause?: unknown): RunnerError {
  const remedy = `put a good copy in its place, or move it and ${path}-wal away and start with fromBlock`;
  return new RunnerError('LEDGER_CORRUPT', `the ledger ${path} ${what}; ${remedy}`, { cause, details: { path } });
}

interface Write {
  readonly change: () => unknown;
  readonly resolve: (value: never) => void;
  readonly reject: (error: unknown) => void;
}

export interface DatabaseOptions {
  readonly path: string;
  /** For the command line: reads beside the runner that owns the file. */
  readonly readonly?: boolean;
}

/** One open file. Changes made in the same turn of the event loop share one transaction. */
export class LedgerDatabase {
  readonly path: string;
  readonly #database: DatabaseSync;
  readonly #lock: DatabaseSync | undefined;
  #queue: Write[] = [];
  #scheduled = false;
  #closed = false;
  #idle: (() => void)[] = [];
  readonly #begin: StatementSync;
  readonly #commit: StatementSync;

  constructor({ path, readonly = false }: DatabaseOptions) {
    this.path = path;
    const inMemory = path === ':memory:';
    let database: DatabaseSync | undefined;
    try {
      if (!inMemory && !readonly) mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
      this.#lock = inMemory || readonly ? undefined : takeLock(path);
      if (this.#lock) makeUnlessThere(path);
      database = new DatabaseSync(path, { readOnly: readonly, timeout: BUSY_MS });
      this.#database = database;
      this.#check(inMemory);
      if (!readonly) this.#prepare();
      this.#begin = this.#database.prepare('BEGIN IMMEDIATE');
      this.#commit = this.#database.prepare('COMMIT');
    } catch (thrown) {
      database?.close();
      this.#lock?.close();
      throw ledgerError(thrown, path);
    }
  }

  prepare(sql: string): StatementSync {
    return this.#database.prepare(sql);
  }

  /** Resolves with what `change` returned once it is on disk. `change` runs later, and once more when a neighbour of its group failed. */
  write<T>(change: () => T): Promise<T> {
    if (this.#closed) return Promise.reject(new RunnerError('STATE_INVALID', `the ledger ${this.path} is closed`));
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({ change, resolve, reject });
      if (this.#scheduled) return;
      this.#scheduled = true;
      setImmediate(() => this.#flush());
    });
  }

  read<T>(query: () => T): T {
    try {
      return query();
    } catch (thrown) {
      throw ledgerError(thrown, this.path);
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#scheduled) await new Promise<void>((resolve) => this.#idle.push(resolve));
    this.#database.close();
    this.#lock?.close();
  }

  /** Gives the space of removed rows back. */
  shrink(): void {
    this.read(() => this.#database.exec('PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);'));
  }

  #flush(): void {
    this.#scheduled = false;
    const group = this.#queue;
    this.#queue = [];
    try {
      const values = this.#transact(group);
      for (const [index, write] of group.entries()) write.resolve(values[index] as never);
    } catch (thrown) {
      // Alone, each change fails or succeeds for itself.
      if (group.length === 1) group[0]?.reject(ledgerError(thrown, this.path));
      else this.#flushSingly(group);
    }
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #flushSingly(group: readonly Write[]): void {
    for (const write of group) {
      try {
        const [value] = this.#transact([write]);
        write.resolve(value as never);
      } catch (thrown) {
        write.reject(ledgerError(thrown, this.path));
      }
    }
  }

  #transact(group: readonly Write[]): unknown[] {
    this.#begin.run();
    try {
      const values = group.map((write) => write.change());
      this.#commit.run();
      return values;
    } catch (thrown) {
      if (this.#database.isTransaction) this.#database.exec('ROLLBACK');
      throw thrown;
    }
  }

  #check(inMemory: boolean): void {
    const tables = this.#number('SELECT count(*) AS value FROM sqlite_schema');
    const mark = this.#number('SELECT application_id AS value FROM pragma_application_id');
    if (tables > 0 && mark !== APPLICATION_ID) throw corrupt(this.path, 'is a database, but not a ledger');
    const version = this.#number('SELECT user_version AS value FROM pragma_user_version');
    if (version > VERSION) {
      throw new RunnerError('LEDGER_VERSION', `the ledger ${this.path} has version ${version}, this program knows ${VERSION}`, {
        details: { path: this.path, version },
      });
    }
    if (inMemory || statSync(this.path).size > CHECKED_BYTES_MAX) return;
    const verdict = this.#database.prepare('PRAGMA quick_check(1)').get()?.['quick_check'];
    if (verdict !== 'ok') throw corrupt(this.path, `is damaged (${String(verdict)})`);
  }

  #prepare(): void {
    this.#database.exec(SETTINGS);
    this.#database.exec(SCHEMA);
  }

  #number(sql: string): number {
    return Number(this.#database.prepare(sql).get()?.['value'] ?? 0);
  }
}

/**
 * A ledger comes into being with a rename, complete: a file that is empty, or one that is gone while its log is there, was a ledger once.
 * SQLite would take it for a new one.
 */
function makeUnlessThere(path: string): void {
  const size = statSync(path, { throwIfNoEntry: false })?.size;
  if (size === 0) throw corrupt(path, 'is empty: its content is gone');
  if (size !== undefined) return;
  if (existsSync(`${path}-wal`)) throw corrupt(path, `is gone, but ${path}-wal is there`);
  const fresh = `${path}.new`;
  for (const file of [fresh, `${fresh}-wal`, `${fresh}-shm`]) rmSync(file, { force: true });
  const database = new DatabaseSync(fresh);
  try {
    database.exec(SETTINGS);
    database.exec(SCHEMA);
  } finally {
    database.close();
  }
  renameSync(fresh, path);
  const folder = openSync(dirname(path), 'r');
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

/**
 * An exclusive transaction on a file beside the ledger: the system lets go of it however the process ends, and readers of the ledger
 * are not disturbed.
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
