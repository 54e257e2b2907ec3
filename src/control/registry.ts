/** What a control plane must not forget: its tickets, who enrolled with them, and the sessions that it gave. */

import { join } from 'node:path';
import type { SQLOutputValue } from 'node:sqlite';
import { SqliteFile } from '../sqlite-file.ts';
import type { TicketScope } from '../queue/ticket.ts';
import { isScope } from '../queue/ticket.ts';

export interface TicketRecord {
  readonly id: string;
  /** For people. */
  readonly name: string;
  readonly scopes: readonly TicketScope[];
  readonly capabilities: readonly string[] | undefined;
  /** Milliseconds since the epoch, like all times here. */
  readonly notBefore: number;
  readonly expiresAt: number;
  readonly uses: number;
  readonly createdAt: number;
  /** Nobody new enrols with it any more; who has goes on. */
  readonly closedAt: number | undefined;
  /** Its workers are refused, too. */
  readonly revokedAt: number | undefined;
}

export interface EnrolmentRecord {
  readonly workerId: string;
  readonly ticketId: string;
  readonly publicKey: string;
  readonly enrolledAt: number;
  readonly revokedAt: number | undefined;
}

export interface SessionRecord {
  /** SHA-256 of the token, hexadecimal. */
  readonly tokenSha256: string;
  readonly workerId: string;
  readonly ticketId: string;
  readonly expiresAt: number;
}

const SCHEMA = `
CREATE TABLE IF NOT EXISTS tickets (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, scopes TEXT NOT NULL, capabilities TEXT, not_before INTEGER NOT NULL, expires_at INTEGER NOT NULL,
  uses INTEGER NOT NULL, created_at INTEGER NOT NULL, closed_at INTEGER, revoked_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS enrolments (
  worker_id TEXT NOT NULL, ticket_id TEXT NOT NULL, public_key TEXT NOT NULL, enrolled_at INTEGER NOT NULL, revoked_at INTEGER,
  PRIMARY KEY (ticket_id, worker_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
  token_sha256 TEXT PRIMARY KEY, worker_id TEXT NOT NULL, ticket_id TEXT NOT NULL, expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;`;

const PUT_TICKET = `INSERT INTO tickets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET closed_at = coalesce(closed_at, excluded.closed_at), revoked_at = coalesce(revoked_at, excluded.revoked_at)`;
const PUT_ENROLMENT = `INSERT INTO enrolments VALUES (?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET revoked_at = coalesce(revoked_at, excluded.revoked_at)`;

type Row = Record<string, SQLOutputValue>;

/**
 * Everything is in memory for reading; a change is on disk when its promise resolves, and is seen from then on; a revocation is seen at once. What is
 * closed or revoked stays so, whatever is put by who has read it before.
 */
export class Registry {
  readonly #file: SqliteFile;
  readonly #tickets = new Map<string, TicketRecord>();
  /** By ticket, then by worker. */
  readonly #enrolments = new Map<string, Map<string, EnrolmentRecord>>();
  readonly #sessions = new Map<string, SessionRecord>();
  /** When, by worker. */
  readonly #revoked = new Map<string, number>();

  /** Throws `QUEUE_LOCKED` when another control plane runs on the folder, `QUEUE_CORRUPT`, `QUEUE_VERSION`, `QUEUE_DISK_FULL`, `CONFIG_INVALID`. */
  static open(folder: string): Registry {
    return new Registry(folder);
  }

  private constructor(folder: string) {
    this.#file = new SqliteFile({
      path: folder === ':memory:' ? folder : join(folder, 'control.db'),
      noun: 'registry of tickets and workers',
      mark: 'BPRC',
      version: 1,
      schema: SCHEMA,
      codes: { corrupt: 'QUEUE_CORRUPT', full: 'QUEUE_DISK_FULL', locked: 'QUEUE_LOCKED', version: 'QUEUE_VERSION' },
      remedy: 'make tickets anew; workers enrol again',
    });
    this.#file.read(() => {
      for (const row of this.#file.prepare('SELECT * FROM tickets').all()) this.#keepTicket(ticketOf(row));
      for (const row of this.#file.prepare('SELECT * FROM enrolments').all()) this.#keepEnrolment(enrolmentOf(row));
      for (const row of this.#file.prepare('SELECT * FROM sessions').all()) this.#keepSession(sessionOf(row));
    });
  }

  /** Oldest first. */
  tickets(): TicketRecord[] {
    return [...this.#tickets.values()].toSorted((left, right) => left.createdAt - right.createdAt);
  }

  ticket(id: string): TicketRecord | undefined {
    return this.#tickets.get(id);
  }

  enrolments(): EnrolmentRecord[] {
    return [...this.#enrolments.values()].flatMap((ofTicket) => [...ofTicket.values()]);
  }

  enrolmentsOf(ticketId: string): ReadonlyMap<string, EnrolmentRecord> {
    return this.#enrolments.get(ticketId) ?? NO_ENROLMENTS;
  }

  /** When the worker was revoked. */
  revokedAt(workerId: string): number | undefined {
    return this.#revoked.get(workerId);
  }

  sessions(): Iterable<SessionRecord> {
    return this.#sessions.values();
  }

  async putTicket(ticket: TicketRecord): Promise<void> {
    const { id, name, scopes, capabilities, notBefore, expiresAt, uses, createdAt, closedAt = null, revokedAt = null } = ticket;
    const list = capabilities === undefined ? null : capabilities.join(' ');
    if (revokedAt !== null) this.#keepTicket(ticket);
    await this.#file.write(() =>
      this.#file.prepare(PUT_TICKET).run(id, name, scopes.join(' '), list, notBefore, expiresAt, uses, createdAt, closedAt, revokedAt),
    );
    this.#keepTicket(ticket);
  }

  /** Unless as many others as `uses` have enrolled: decided when it is written. */
  async putEnrolment(enrolment: EnrolmentRecord, uses: number): Promise<boolean> {
    const { workerId, ticketId, publicKey, enrolledAt, revokedAt = null } = enrolment;
    if (revokedAt !== null) this.#keepEnrolment(enrolment);
    const isPut = await this.#file.write(() => {
      const others = this.#file
        .prepare('SELECT count(*) AS count FROM enrolments WHERE ticket_id = ? AND worker_id <> ?')
        .get(ticketId, workerId);
      if (Number(others?.['count']) >= uses) return false;
      this.#file.prepare(PUT_ENROLMENT).run(workerId, ticketId, publicKey, enrolledAt, revokedAt);
      return true;
    });
    if (isPut) this.#keepEnrolment(enrolment);
    return isPut;
  }

  async putSession(session: SessionRecord): Promise<void> {
    const { tokenSha256, workerId, ticketId, expiresAt } = session;
    await this.#file.write(() =>
      this.#file.prepare('INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)').run(tokenSha256, workerId, ticketId, expiresAt),
    );
    this.#keepSession(session);
  }

  async removeSessions(which: (session: SessionRecord) => boolean): Promise<void> {
    const gone = [...this.#sessions.values()].filter(which);
    for (const { tokenSha256 } of gone) this.#sessions.delete(tokenSha256);
    await this.#file.write(() => {
      const remove = this.#file.prepare('DELETE FROM sessions WHERE token_sha256 = ?');
      for (const { tokenSha256 } of gone) remove.run(tokenSha256);
    });
  }

  /** Rejects when it cannot be written any more. */
  async check(): Promise<void> {
    await this.#file.write(() => this.#file.prepare('SELECT 1').get());
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #keepTicket(ticket: TicketRecord): void {
    const { closedAt = ticket.closedAt, revokedAt = ticket.revokedAt } = this.#tickets.get(ticket.id) ?? {};
    this.#tickets.set(ticket.id, { ...ticket, closedAt, revokedAt });
  }

  #keepEnrolment(enrolment: EnrolmentRecord): void {
    const ofTicket = this.#enrolments.get(enrolment.ticketId) ?? new Map<string, EnrolmentRecord>();
    const { revokedAt = enrolment.revokedAt } = ofTicket.get(enrolment.workerId) ?? {};
    this.#enrolments.set(enrolment.ticketId, ofTicket.set(enrolment.workerId, { ...enrolment, revokedAt }));
    if (revokedAt !== undefined) this.#revoked.set(enrolment.workerId, revokedAt);
  }

  #keepSession(session: SessionRecord): void {
    this.#sessions.set(session.tokenSha256, session);
  }
}

const NO_ENROLMENTS: ReadonlyMap<string, EnrolmentRecord> = new Map();

function ticketOf(row: Row): TicketRecord {
  return {
    id: String(row['id']),
    name: String(row['name']),
    scopes: words(row['scopes']).filter(isScope),
    capabilities: row['capabilities'] === null ? undefined : words(row['capabilities']),
    notBefore: Number(row['not_before']),
    expiresAt: Number(row['expires_at']),
    uses: Number(row['uses']),
    createdAt: Number(row['created_at']),
    closedAt: timeOf(row['closed_at']),
    revokedAt: timeOf(row['revoked_at']),
  };
}

function enrolmentOf(row: Row): EnrolmentRecord {
  return {
    workerId: String(row['worker_id']),
    ticketId: String(row['ticket_id']),
    publicKey: String(row['public_key']),
    enrolledAt: Number(row['enrolled_at']),
    revokedAt: timeOf(row['revoked_at']),
  };
}

function sessionOf(row: Row): SessionRecord {
  return {
    tokenSha256: String(row['token_sha256']),
    workerId: String(row['worker_id']),
    ticketId: String(row['ticket_id']),
    expiresAt: Number(row['expires_at']),
  };
}

function words(value: SQLOutputValue | undefined): string[] {
  return String(value ?? '')
    .split(' ')
    .filter((word) => word !== '');
}

function timeOf(value: SQLOutputValue | undefined): number | undefined {
  return value === null || value === undefined ? undefined : Number(value);
}
