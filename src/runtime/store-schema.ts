/** The tables of the function store, and its rows as records. */

import type { SQLOutputValue } from 'node:sqlite';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { Provider } from '../executor/limits.ts';
import type { StoreDatabase } from './store-database.ts';
import type { CodeRecord, FunctionRecord, FunctionSettings, LayerReference } from './store-records.ts';

export type Row = Record<string, SQLOutputValue>;

/** What the parts of the store share. */
export interface StoreParts {
  readonly database: StoreDatabase;
  readonly clock: Clock;
  /** A new revision id. */
  readonly newId: () => string;
  /** Within a transaction: throws `FUNCTION_NOT_FOUND`. */
  readonly requireVersion: (name: string, version: string) => void;
  /** Of the function's instances and cached versions, some may be out of date. */
  readonly changed: (name: string) => void;
}

/** `$LATEST` is version 0 in the tables. */
export const LATEST = '$LATEST';

export const SCHEMA = `
CREATE TABLE IF NOT EXISTS functions (
  name TEXT PRIMARY KEY, profile TEXT NOT NULL, tags TEXT NOT NULL, reserved INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (
  name TEXT NOT NULL REFERENCES functions ON DELETE CASCADE, version INTEGER NOT NULL,
  revision_id TEXT NOT NULL, modified_at INTEGER NOT NULL, code_sha256 TEXT, layer_tree TEXT, fingerprint TEXT NOT NULL,
  settings TEXT NOT NULL, code TEXT NOT NULL, layers TEXT NOT NULL, origin TEXT NOT NULL,
  PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aliases (
  function_name TEXT NOT NULL REFERENCES functions ON DELETE CASCADE, name TEXT NOT NULL,
  version TEXT NOT NULL, description TEXT NOT NULL, weights TEXT NOT NULL, revision_id TEXT NOT NULL,
  PRIMARY KEY (function_name, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attachments (
  name TEXT NOT NULL REFERENCES functions ON DELETE CASCADE, qualifier TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
  value TEXT NOT NULL, revision_id TEXT NOT NULL, modified_at INTEGER NOT NULL,
  PRIMARY KEY (name, qualifier, kind, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layers (
  name TEXT NOT NULL, version INTEGER NOT NULL, sha256 TEXT NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS numbers (kind TEXT NOT NULL, name TEXT NOT NULL, last INTEGER NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID;
`;

/** The next number of its kind: never one that was given out before, whatever was removed since. */
export function nextNumber(database: StoreDatabase, kind: 'version' | 'layer', name: string): number {
  const sql = 'INSERT INTO numbers VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET last = last + 1 RETURNING last';
  return Number(database.prepare(sql).get(kind, name)?.['last']);
}

/** Text that this store wrote as JSON. */
export function parse<T>(value: SQLOutputValue | undefined): T {
  return JSON.parse(String(value)) as T;
}

export function notFound(name: string, qualifier?: string): RunnerError {
  const named = qualifier !== undefined && qualifier !== LATEST;
  return new RunnerError('FUNCTION_NOT_FOUND', `there is no function ${named ? `${name}:${qualifier}` : name}`, {
    details: { name, ...(named && { qualifier }) },
  });
}

export function checkRevision(expected: string | undefined, actual: string): void {
  if (expected === undefined || expected === actual) return;
  throw new RunnerError('REVISION_MISMATCH', `the revision is ${actual} by now, not ${expected}; read it again`, {
    details: { expected, actual },
  });
}

/** A version before it is written: without what the store gives it. */
export type VersionDraft = Omit<FunctionRecord, 'revisionId' | 'modifiedAt'>;

export function toRecord(row: Row, profile: Provider): FunctionRecord {
  const settings = parse<FunctionSettings>(row['settings']);
  const tree = row['layer_tree'];
  return {
    ...settings,
    name: String(row['name']),
    version: versionName(Number(row['version'])),
    revisionId: String(row['revision_id']),
    modifiedAt: Number(row['modified_at']),
    profile,
    code: parse<CodeRecord>(row['code']),
    layers: parse<readonly LayerReference[]>(row['layers']),
    ...(typeof tree === 'string' && { layerTree: tree }),
    fingerprint: String(row['fingerprint']),
  };
}

export function settingsOf(record: VersionDraft): Omit<FunctionSettings, 'layers'> {
  const {
    description,
    runtime,
    handler,
    memoryMb,
    timeoutMs,
    ephemeralMb,
    environment,
    concurrencyPerInstance,
    network,
    architecture,
    extra,
  } = record;
  return {
    description,
    runtime,
    handler,
    memoryMb,
    timeoutMs,
    ephemeralMb,
    environment,
    concurrencyPerInstance,
    network,
    architecture,
    extra,
  };
}

export function versionName(version: number): string {
  return version === 0 ? LATEST : String(version);
}

/** Undefined for what is no version but perhaps an alias. */
export function versionNumber(qualifier: string): number | undefined {
  if (qualifier === LATEST) return 0;
  return /^[1-9][0-9]{0,14}$/.test(qualifier) ? Number(qualifier) : undefined;
}

/** Packages and trees that the tables name. */
export function referenced(database: StoreDatabase): Set<string> {
  const sql = `SELECT code_sha256 AS sha256 FROM versions UNION SELECT layer_tree FROM versions UNION SELECT sha256 FROM layers
      UNION SELECT value ->> 'sha256' FROM versions, json_each(versions.layers)`;
  return new Set(database.prepare(sql).all().map((row) => String(row['sha256']))); // prettier-ignore
}
