/** The SQLite file of the ledger: its tables, and how its errors are called. */

import { SqliteFile } from '../sqlite-file.ts';

const SCHEMA = `
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
CREATE INDEX IF NOT EXISTS calls_state ON calls (state, updated_at);
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
`;

export interface LedgerFileOptions {
  readonly path: string;
  /** For the command line: reads beside the runner that owns the file. */
  readonly readonly?: boolean;
}

export function openLedgerFile({ path, readonly = false }: LedgerFileOptions): SqliteFile {
  return new SqliteFile({
    path,
    readonly,
    noun: 'ledger',
    mark: 'BPRL',
    version: 1,
    schema: SCHEMA,
    codes: { corrupt: 'LEDGER_CORRUPT', full: 'LEDGER_FULL', locked: 'LEDGER_LOCKED', version: 'LEDGER_VERSION' },
    remedy: 'start with fromBlock',
  });
}
