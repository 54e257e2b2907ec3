/** Aliases: names for versions, which may share their calls between two. */

import { RunnerError } from '../errors.ts';
import type { AliasRecord, Page, PageOptions } from './store-records.ts';
import { pageLimit, toPage } from './store-records.ts';
import type { Row, StoreParts } from './store-schema.ts';
import { checkRevision, notFound, parse } from './store-schema.ts';
import { checkAlias, checkDescription, checkWeights } from './store-settings.ts';

export interface AliasSettings {
  readonly version: string;
  readonly description?: string;
  readonly weights?: Readonly<Record<string, number>>;
}

export class FunctionAliases {
  readonly #parts: StoreParts;

  constructor(parts: StoreParts) {
    this.#parts = parts;
  }

  /** Throws `FUNCTION_EXISTS` when it is there, `FUNCTION_NOT_FOUND`, `CONFIG_INVALID`. */
  create(functionName: string, name: string, settings: AliasSettings): AliasRecord {
    checkAlias(name);
    return this.#transact(functionName, () => {
      this.#parts.requireVersion(functionName, settings.version);
      if (this.#find(functionName, name)) {
        throw new RunnerError('FUNCTION_EXISTS', `the alias ${functionName}:${name} exists`, {
          details: { name: functionName, alias: name },
        });
      }
      return this.#write({ functionName, name, description: '', weights: {}, ...settings });
    });
  }

  /** What is left out stays. Throws `FUNCTION_NOT_FOUND`, `REVISION_MISMATCH`, `CONFIG_INVALID`. */
  update(
    functionName: string,
    name: string,
    { revisionId, ...patch }: Partial<AliasSettings> & { readonly revisionId?: string },
  ): AliasRecord {
    return this.#transact(functionName, () => {
      const present = this.get(functionName, name);
      checkRevision(revisionId, present.revisionId);
      return this.#write({ ...present, ...patch });
    });
  }

  /** Idempotent. What was attached to it goes with it. */
  remove(functionName: string, name: string): void {
    this.#transact(functionName, () => {
      this.#parts.requireVersion(functionName, '$LATEST');
      const { changes } = this.#parts.database.prepare('DELETE FROM aliases WHERE function_name = ? AND name = ?').run(functionName, name);
      // Versions have attachments of their own under names that no alias has.
      if (changes === 0) return;
      this.#parts.database.prepare('DELETE FROM attachments WHERE name = ? AND qualifier = ?').run(functionName, name);
    });
  }

  /** Throws `FUNCTION_NOT_FOUND`. */
  get(functionName: string, name: string): AliasRecord {
    const found = this.#find(functionName, name);
    if (!found) throw notFound(functionName, name);
    return found;
  }

  /** By name; with `version`, the ones that send calls to it. */
  list(functionName: string, options: PageOptions & { readonly version?: string } = {}): Page<AliasRecord> {
    const limit = pageLimit(options);
    const sql = `SELECT * FROM aliases WHERE function_name = ?1 AND name > ?2
      AND (?3 IS NULL OR version = ?3 OR EXISTS (SELECT 1 FROM json_each(weights) WHERE key = ?3)) ORDER BY name LIMIT ?4`;
    const rows = this.#parts.database.prepare(sql).all(functionName, options.after ?? '', options.version ?? null, limit + 1);
    return toPage(rows.map(toAlias), limit, ({ name }) => name);
  }

  #find(functionName: string, name: string): AliasRecord | undefined {
    const row = this.#parts.database.prepare('SELECT * FROM aliases WHERE function_name = ? AND name = ?').get(functionName, name);
    return row && toAlias(row);
  }

  #transact<T>(functionName: string, change: () => T): T {
    const value = this.#parts.database.transact(change);
    this.#parts.changed(functionName);
    return value;
  }

  #write(alias: Omit<AliasRecord, 'revisionId'>): AliasRecord {
    checkDescription(alias.description);
    checkWeights(alias.version, alias.weights);
    for (const version of [alias.version, ...Object.keys(alias.weights)]) this.#parts.requireVersion(alias.functionName, version);
    const record = { ...alias, revisionId: this.#parts.newId() };
    const { functionName, name, version, description, weights, revisionId } = record;
    this.#parts.database
      .prepare('INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?, ?, ?)')
      .run(functionName, name, version, description, JSON.stringify(weights), revisionId);
    return record;
  }
}

function toAlias(row: Row): AliasRecord {
  return {
    functionName: String(row['function_name']),
    name: String(row['name']),
    version: String(row['version']),
    description: String(row['description']),
    weights: parse<Record<string, number>>(row['weights']),
    revisionId: String(row['revision_id']),
  };
}

/** Which version a call goes to; `pick` gives a number from 0 up to 1. */
export function chooseVersion({ version, weights }: AliasRecord, pick: () => number): string {
  const shares = Object.entries(weights);
  if (shares.length === 0) return version;
  let rest = pick();
  for (const [other, weight] of shares) {
    if (rest < weight) return other;
    rest -= weight;
  }
  return version;
}
