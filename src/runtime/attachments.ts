/** What is attached to a function, a version or an alias, and goes when it goes: permissions, the rules for queued calls, and more. */

import { hash } from 'node:crypto';
import { RunnerError } from '../errors.ts';
import type { AsyncConfig, JsonObject, Page, PageOptions } from './store-records.ts';
import { pageLimit, toPage } from './store-records.ts';
import type { Row, StoreParts } from './store-schema.ts';
import { LATEST, checkRevision, parse } from './store-schema.ts';
import { checkAsyncConfig } from './store-settings.ts';

/** `permission`: one statement of a policy. `async`: rules for queued calls. `provisioned`: instances kept warm. */
export type AttachmentKind = 'permission' | 'async' | 'provisioned';

export interface AttachmentKey {
  readonly name: string;
  /** A version or an alias. Default `$LATEST`. */
  readonly qualifier?: string | undefined;
  readonly kind: AttachmentKind;
  /** Where there may be several of a kind. */
  readonly id?: string;
}

export interface Attachment<T> {
  readonly name: string;
  readonly qualifier: string;
  readonly id: string;
  readonly value: T;
  readonly revisionId: string;
  /** Milliseconds since the epoch. */
  readonly modifiedAt: number;
}

export interface FunctionQualifier {
  readonly name: string;
  readonly qualifier?: string | undefined;
}

export interface Policy {
  readonly statements: readonly JsonObject[];
  readonly revisionId: string;
}

export class FunctionAttachments {
  readonly #parts: StoreParts;
  readonly #checkQualifier: (name: string, qualifier: string) => void;

  /** `checkQualifier` throws `FUNCTION_NOT_FOUND` unless there is such a version or alias. */
  constructor(parts: StoreParts, checkQualifier: (name: string, qualifier: string) => void) {
    this.#parts = parts;
    this.#checkQualifier = checkQualifier;
  }

  /** Throws `FUNCTION_NOT_FOUND` unless function, version or alias are there. */
  put<T extends object>(key: AttachmentKey, value: T): Attachment<T> {
    return this.#transact(key.name, () => this.#write(key, value));
  }

  /** The caller knows what was put under this kind. */
  get<T>({ name, qualifier = LATEST, kind, id = '' }: AttachmentKey): Attachment<T> | undefined {
    const sql = 'SELECT * FROM attachments WHERE name = ? AND qualifier = ? AND kind = ? AND id = ?';
    const row = this.#parts.database.prepare(sql).get(name, qualifier, kind, id);
    return row && toAttachment<T>(row);
  }

  /** False when it was not there. */
  remove({ name, qualifier = LATEST, kind, id = '' }: AttachmentKey): boolean {
    return this.#transact(name, () => {
      const sql = 'DELETE FROM attachments WHERE name = ? AND qualifier = ? AND kind = ? AND id = ?';
      return Number(this.#parts.database.prepare(sql).run(name, qualifier, kind, id).changes) > 0;
    });
  }

  /** Of all qualifiers of a function, by qualifier. */
  list<T>(name: string, kind: AttachmentKind, options: PageOptions = {}): Page<Attachment<T>> {
    const limit = pageLimit(options);
    const sql = "SELECT * FROM attachments WHERE name = ? AND kind = ? AND id = '' AND qualifier > ? ORDER BY qualifier LIMIT ?";
    const rows = this.#parts.database.prepare(sql).all(name, kind, options.after ?? '', limit + 1);
    return toPage(rows.map((row) => toAttachment<T>(row)), limit, ({ qualifier }) => qualifier); // prettier-ignore
  }

  /** Throws `STATE_INVALID` when there is a statement of this id, `REVISION_MISMATCH`. */
  addPermission(
    where: FunctionQualifier,
    id: string,
    { statement, revisionId }: { readonly statement: JsonObject; readonly revisionId?: string },
  ): void {
    this.#transact(where.name, () => {
      if (revisionId !== undefined) checkRevision(revisionId, this.#policy(where)?.revisionId ?? '');
      const key: AttachmentKey = { ...where, kind: 'permission', id };
      if (this.get(key)) throw new RunnerError('STATE_INVALID', `the statement id (${id}) is in the policy already`, { details: { id } });
      this.#write(key, statement);
    });
  }

  /** Throws `NOT_FOUND`, `REVISION_MISMATCH`. */
  removePermission(where: FunctionQualifier, id: string, revisionId?: string): void {
    this.#transact(where.name, () => {
      const policy = this.#policy(where);
      if (!policy || !this.get({ ...where, kind: 'permission', id }))
        throw new RunnerError('NOT_FOUND', `the policy has no statement ${id}`);
      checkRevision(revisionId, policy.revisionId);
      const sql = "DELETE FROM attachments WHERE name = ? AND qualifier = ? AND kind = 'permission' AND id = ?";
      this.#parts.database.prepare(sql).run(where.name, where.qualifier ?? LATEST, id);
    });
  }

  /** Throws `NOT_FOUND` when there is none. */
  policy(where: FunctionQualifier): Policy {
    const policy = this.#policy(where);
    if (!policy) throw new RunnerError('NOT_FOUND', 'there is no policy');
    return policy;
  }

  /** Throws `CONFIG_INVALID`, `FUNCTION_NOT_FOUND`. */
  putAsync({ name, qualifier }: FunctionQualifier, config: AsyncConfig): Attachment<AsyncConfig> {
    checkAsyncConfig(config);
    return this.put({ name, qualifier, kind: 'async' }, config);
  }

  async({ name, qualifier }: FunctionQualifier): Attachment<AsyncConfig> | undefined {
    return this.get<AsyncConfig>({ name, qualifier, kind: 'async' });
  }

  #policy({ name, qualifier = LATEST }: FunctionQualifier): Policy | undefined {
    const sql = "SELECT * FROM attachments WHERE name = ? AND qualifier = ? AND kind = 'permission' ORDER BY modified_at, id";
    const found = this.#parts.database.prepare(sql).all(name, qualifier).map((row) => toAttachment<JsonObject>(row)); // prettier-ignore
    if (found.length === 0) return undefined;
    return {
      statements: found.map(({ value }) => value),
      revisionId: hash('sha256', found.map(({ revisionId }) => revisionId).join(), 'hex').slice(0, 36),
    };
  }

  #transact<T>(name: string, change: () => T): T {
    const value = this.#parts.database.transact(change);
    this.#parts.changed(name);
    return value;
  }

  #write<T extends object>({ name, qualifier = LATEST, kind, id = '' }: AttachmentKey, value: T): Attachment<T> {
    this.#checkQualifier(name, qualifier);
    const attachment = { name, qualifier, id, value, revisionId: this.#parts.newId(), modifiedAt: this.#parts.clock.now() };
    this.#parts.database
      .prepare('INSERT OR REPLACE INTO attachments VALUES (?, ?, ?, ?, ?, ?, ?)')
      .run(name, qualifier, kind, id, JSON.stringify(value), attachment.revisionId, attachment.modifiedAt);
    return attachment;
  }
}

function toAttachment<T>(row: Row): Attachment<T> {
  return {
    name: String(row['name']),
    qualifier: String(row['qualifier']),
    id: String(row['id']),
    value: parse<T>(row['value']),
    revisionId: String(row['revision_id']),
    modifiedAt: Number(row['modified_at']),
  };
}
