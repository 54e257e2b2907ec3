/** The versions of functions in the tables: read, written, numbered. */

import { hash } from 'node:crypto';
import { RunnerError } from '../errors.ts';
import { fingerprintOf } from './fingerprint.ts';
import type { Provider } from '../executor/limits.ts';
import { LIMITS } from '../executor/limits.ts';
import type { FunctionVersion } from './runtime.ts';
import type { BlobStore } from './store-blobs.ts';
import type { FunctionRecord, Page, PageOptions } from './store-records.ts';
import { pageLimit, toPage } from './store-records.ts';
import type { Row, StoreParts, VersionDraft } from './store-schema.ts';
import { LATEST, checkRevision, nextNumber, notFound, settingsOf, toRecord, versionName, versionNumber } from './store-schema.ts';
import { checkDescription, checkSettings, refuse } from './store-settings.ts';

const SELECT = 'SELECT versions.*, profile FROM versions JOIN functions USING (name)';

/** All but the facade is within a transaction of its caller. */
export class FunctionVersions {
  readonly #parts: Pick<StoreParts, 'database' | 'clock' | 'newId'>;
  readonly #blobs: BlobStore;

  constructor(parts: Pick<StoreParts, 'database' | 'clock' | 'newId'>, blobs: BlobStore) {
    this.#parts = parts;
    this.#blobs = blobs;
  }

  /** Throws `FUNCTION_NOT_FOUND`. */
  get(name: string, version: string = LATEST): FunctionRecord {
    const row = this.#row(name, version);
    return toRecord(row, row['profile'] as Provider);
  }

  /** `$LATEST` of each, by name. */
  latest(options: PageOptions): Page<FunctionRecord> {
    const limit = pageLimit(options);
    const sql = `${SELECT} WHERE version = 0 AND name > ? ORDER BY name LIMIT ?`;
    return toPage(this.#records(sql, options.after ?? '', limit + 1), limit, ({ name }) => name);
  }

  /** `$LATEST` first, then the numbers upwards. */
  of(name: string, options: PageOptions): Page<FunctionRecord> {
    const limit = pageLimit(options);
    const sql = `${SELECT} WHERE name = ? AND version > ? ORDER BY version LIMIT ?`;
    const after = options.after === undefined ? -1 : (versionNumber(options.after) ?? -1);
    return toPage(this.#records(sql, name, after, limit + 1), limit, ({ version }) => version);
  }

  /** Another `$LATEST`. Throws `FUNCTION_NOT_FOUND`, `REVISION_MISMATCH`, `CONFIG_INVALID`. */
  change(name: string, revisionId: string | undefined, next: (present: FunctionRecord) => VersionDraft): FunctionRecord {
    const present = this.get(name);
    checkRevision(revisionId, present.revisionId);
    const draft = next(present);
    checkSettings(draft, draft.profile, draft.code.kind);
    return this.write(draft);
  }

  /** The next number, or the newest version when it came from just this `$LATEST`. */
  publish(latest: FunctionRecord, description: string | undefined): FunctionRecord {
    if (description !== undefined) checkDescription(description);
    const newest = this.#parts.database.prepare(`${SELECT} WHERE name = ? ORDER BY version DESC LIMIT 1`).get(latest.name);
    if (newest && newest['version'] !== 0 && newest['origin'] === originOf(latest)) return toRecord(newest, latest.profile);
    const version = versionName(nextNumber(this.#parts.database, 'version', latest.name));
    return this.write({ ...latest, version, description: description ?? latest.description }, originOf(latest));
  }

  write(draft: Omit<VersionDraft, 'fingerprint'>, origin?: string): FunctionRecord {
    checkTotal(draft);
    const { fingerprint } = this.toVersion({ ...draft, fingerprint: '' });
    const record: FunctionRecord = { ...draft, fingerprint, revisionId: this.#parts.newId(), modifiedAt: this.#parts.clock.now() };
    this.#parts.database
      .prepare('INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)')
      .run(
        record.name,
        versionNumber(record.version) ?? 0,
        record.revisionId,
        record.modifiedAt,
        record.code.kind === 'zip' ? record.code.sha256 : null,
        record.layerTree ?? null,
        fingerprint,
        JSON.stringify(settingsOf(record)),
        JSON.stringify(record.code),
        JSON.stringify(record.layers),
        origin ?? originOf(record),
      );
    return record;
  }

  /** What an instance runs. Throws `CODE_MISSING`. */
  toVersion(record: VersionDraft): FunctionVersion {
    const {
      name,
      version,
      code,
      layerTree,
      runtime,
      handler,
      memoryMb,
      timeoutMs,
      ephemeralMb,
      environment,
      concurrencyPerInstance,
      network,
      profile,
    } = record;
    if (code.kind === 'zip' && !this.#blobs.has(code.sha256)) throw new RunnerError('CODE_MISSING', `the code of ${name}:${version} is not on disk any more; upload it again`); // prettier-ignore
    const fn: Omit<FunctionVersion, 'fingerprint'> = {
      name,
      version,
      code: code.kind === 'zip' ? { kind: 'folder', path: this.#blobs.treeOf(code.sha256), sha256: code.sha256 } : code,
      layers: layerTree === undefined ? [] : [{ path: this.#blobs.treeOf(layerTree), sha256: layerTree }],
      runtime,
      handler,
      memoryMb,
      timeoutMs,
      ephemeralMb,
      environment,
      concurrencyPerInstance,
      network,
      answerBytesMax: LIMITS[profile].responseBytesMax,
    };
    return { ...fn, fingerprint: fingerprintOf(fn) };
  }

  fingerprints(name: string): string[] {
    return this.#parts.database.prepare('SELECT fingerprint FROM versions WHERE name = ?').all(name).map((row) => String(row['fingerprint'])); // prettier-ignore
  }

  #row(name: string, version: string): Row {
    const number = versionNumber(version);
    const row =
      number === undefined ? undefined : this.#parts.database.prepare(`${SELECT} WHERE name = ? AND version = ?`).get(name, number);
    if (!row) throw notFound(name, version);
    return row;
  }

  #records(sql: string, ...values: (string | number)[]): FunctionRecord[] {
    return this.#parts.database.prepare(sql).all(...values).map((row) => toRecord(row, row['profile'] as Provider)); // prettier-ignore
  }
}

/** Code and layers share one limit. */
export function checkTotal({ code, layers, profile }: Pick<VersionDraft, 'code' | 'layers' | 'profile'>): void {
  if (code.kind === 'image') return;
  const bytes = layers.reduce((sum, { unpackedBytes }) => sum + unpackedBytes, code.unpackedBytes);
  const limit = LIMITS[profile].unpackedBytesMax;
  if (bytes > limit) throw refuse('layers', `code and layers unpack to ${bytes} bytes; the limit is ${limit}`);
}

/** Of `$LATEST`: whether a version was published from just this. */
function originOf(record: Omit<VersionDraft, 'fingerprint'>): string {
  return hash('sha256', JSON.stringify([settingsOf({ ...record, fingerprint: '' }), record.code, record.layers]), 'hex');
}
