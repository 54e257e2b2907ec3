/** The file of the embedded queue: its tables, and what their rows stand for. */

import type { SQLOutputValue } from 'node:sqlite';
import { RunnerError, isErrorCode } from '../errors.ts';
import { isReference } from './queue.ts';
import type { Content, Headers, ObjectReference, QueueJobState, QueueJobStatus, QueueResult } from './queue.ts';

export type Row = Record<string, SQLOutputValue>;

/** Numbers in the file. To outsiders `ready` and `delayed` are both `queued`. */
export const STATE = {
  ready: 0,
  delayed: 1,
  claimed: 2,
  completed: 3,
  failed: 4,
  dead: 5,
  expired: 6,
  cancelled: 7,
} as const;
const SHOWN: readonly QueueJobState[] = ['queued', 'queued', 'claimed', 'completed', 'failed', 'dead', 'expired', 'cancelled'];
export const STATE_COUNT = SHOWN.length;

export function shownState(number: number): QueueJobState {
  return SHOWN[number] ?? 'failed';
}

/** A payload above this lies in a table of its own, so that a change of state does not write it again. */
export const ROW_PAYLOAD_BYTES_MAX = 1024;

export const SCHEMA = `
CREATE TABLE IF NOT EXISTS jobs (
  seq INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  type TEXT NOT NULL,
  state INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  requires TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  attempts_max INTEGER NOT NULL,
  dead_letter INTEGER NOT NULL,
  published_at INTEGER NOT NULL,
  deadline INTEGER, available_at INTEGER, due_at INTEGER,
  token TEXT, worker TEXT, lease_ms INTEGER, claimed_at INTEGER, ended_at INTEGER,
  error_code TEXT, error_message TEXT,
  headers TEXT, payload_reference TEXT, payload BLOB,
  result_headers TEXT, result_reference TEXT, result BLOB
);
CREATE INDEX IF NOT EXISTS jobs_ready ON jobs (requires, priority DESC, seq) WHERE state = ${STATE.ready};
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due_at) WHERE due_at IS NOT NULL;
DROP INDEX IF EXISTS jobs_claimed;
CREATE INDEX IF NOT EXISTS jobs_dead ON jobs (ended_at, seq) WHERE state = ${STATE.dead};
CREATE TABLE IF NOT EXISTS bodies (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
`;

/** All but the payload and the result, which may be large. */
const LIGHT = `seq, id, type, state, priority, requires, attempts, attempts_max, dead_letter, published_at, deadline, available_at, token, worker,
  lease_ms, claimed_at, ended_at, error_code, error_message, payload_reference`;

/** `LIMIT +?`: SQLite plans a statement again whenever the parameter of a plain `LIMIT ?` is bound, which takes longer than to run it. */
export const SQL = {
  savepoint: 'SAVEPOINT many',
  rollback: 'ROLLBACK TO many',
  releaseSavepoint: 'RELEASE many',
  insert: `INSERT INTO jobs (id, type, state, priority, requires, attempts_max, dead_letter, published_at, deadline, available_at, due_at, headers,
    payload_reference, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
  insertBody: 'INSERT INTO bodies (seq, payload) VALUES (?, ?)',
  body: 'SELECT payload FROM bodies WHERE seq = ?',
  next: `SELECT seq, id, type, priority, requires, attempts, attempts_max, dead_letter, published_at, deadline, headers, payload_reference, payload
    FROM jobs WHERE state = ${STATE.ready} AND requires = ? ORDER BY priority DESC, seq LIMIT +?`,
  claim: `UPDATE jobs SET state = ${STATE.claimed}, attempts = ?, due_at = NULL, token = ?, worker = ?, lease_ms = ?, claimed_at = ? WHERE seq = ?`,
  lengthen: 'UPDATE jobs SET lease_ms = ? WHERE seq = ?',
  complete: `UPDATE jobs SET state = ${STATE.completed}, ended_at = ?, error_code = NULL, error_message = NULL, result_headers = ?, result_reference = ?,
    result = ? WHERE seq = ?`,
  queue: `UPDATE jobs SET state = ?, attempts = ?, available_at = ?, due_at = ?, token = NULL, error_code = coalesce(?, error_code),
    error_message = coalesce(?, error_message) WHERE seq = ?`,
  end: `UPDATE jobs SET state = ?, ended_at = ?, due_at = NULL, token = NULL, error_code = coalesce(?, error_code),
    error_message = coalesce(?, error_message) WHERE seq = ?`,
  renew: `UPDATE jobs SET state = ${STATE.ready}, attempts = 0, deadline = NULL, available_at = NULL, ended_at = NULL, worker = NULL, claimed_at = NULL,
    error_code = NULL, error_message = NULL WHERE seq = ?`,
  get: `SELECT ${LIGHT} FROM jobs WHERE id = ?`,
  payload: 'SELECT seq, type, payload_reference, payload FROM jobs WHERE id = ?',
  result: 'SELECT id, state, token, attempts, error_code, error_message, result_headers, result_reference, result FROM jobs WHERE id = ?',
  due: `SELECT ${LIGHT} FROM jobs WHERE due_at <= ? ORDER BY due_at, seq LIMIT +?`,
  firstDue: 'SELECT due_at FROM jobs WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1',
  claimed: `SELECT ${LIGHT} FROM jobs WHERE state = ${STATE.claimed}`,
  ready: `SELECT requires, count(*) AS count FROM jobs WHERE state = ${STATE.ready} GROUP BY requires`,
  types: `SELECT type, state, count(*) AS count FROM jobs WHERE state <= ${STATE.claimed} GROUP BY type, state`,
  counts: 'SELECT state, count(*) AS count FROM jobs GROUP BY state',
  oldest: `SELECT published_at FROM jobs WHERE state = ${STATE.ready} AND requires = ? AND priority = ? ORDER BY seq LIMIT 1`,
  dead: `SELECT ${LIGHT} FROM jobs WHERE state = ${STATE.dead} AND (ended_at, seq) > (?, ?) ORDER BY ended_at, seq LIMIT +?`,
  span: 'SELECT min(seq) AS first, max(seq) AS last FROM jobs',
  ended: `SELECT ${LIGHT}, result_reference FROM jobs WHERE seq BETWEEN ? AND ? AND ended_at <= ? AND state <> ${STATE.dead}`,
  remove: 'DELETE FROM jobs WHERE seq = ?',
  removeBody: 'DELETE FROM bodies WHERE seq = ?',
} as const;

const text = (value: SQLOutputValue | undefined): string => String(value ?? '');

/** The part of a row that a number column holds, or undefined. */
export function numberOf(value: SQLOutputValue | undefined): number | undefined {
  return value === null || value === undefined ? undefined : Number(value);
}

export function referenceOf(value: SQLOutputValue | undefined): ObjectReference | undefined {
  return typeof value === 'string' ? (JSON.parse(value) as ObjectReference) : undefined; // written by contentColumns
}

export function headersOf(value: SQLOutputValue | undefined): Headers {
  return typeof value === 'string' ? (JSON.parse(value) as Headers) : {}; // written by headersColumn
}

export function headersColumn(headers: Headers | undefined): string | null {
  return headers === undefined ? null : JSON.stringify(headers);
}

/** The columns of a reference and of bytes; one of the two is null. */
export function contentColumns(content: Content): [reference: string | null, bytes: Uint8Array | null] {
  return isReference(content) ? [JSON.stringify(content), null] : [null, content];
}

function requiresOf(row: Row): readonly string[] {
  const requires = text(row['requires']);
  return requires === '' ? [] : requires.split(' ');
}

export function statusOf(row: Row, leaseUntil: number | undefined): QueueJobStatus {
  const state = Number(row['state']);
  const optional = {
    ...(state === STATE.delayed && { availableAt: Number(row['available_at']) }),
    ...(row['deadline'] !== null && { deadline: Number(row['deadline']) }),
    ...(row['worker'] !== null && { workerId: text(row['worker']), claimedAt: Number(row['claimed_at']) }),
    ...(leaseUntil !== undefined && { leaseUntil }),
    ...(row['ended_at'] !== null && { endedAt: Number(row['ended_at']) }),
    ...(row['error_code'] !== null && { error: { code: text(row['error_code']), message: text(row['error_message']) } }),
  };
  return {
    id: text(row['id']),
    type: text(row['type']),
    state: shownState(state),
    priority: Number(row['priority']),
    requires: requiresOf(row),
    attempts: Number(row['attempts']),
    attemptsMax: Number(row['attempts_max']),
    publishedAt: Number(row['published_at']),
    ...optional,
  };
}

/** How a job ended; undefined while it has not. */
export function outcomeOf(row: Row): QueueResult | RunnerError | undefined {
  const id = text(row['id']);
  const attempts = Number(row['attempts']);
  const details = { jobId: id, attempts };
  switch (Number(row['state'])) {
    case STATE.completed: {
      const headers = row['result_headers'] === null ? {} : { headers: headersOf(row['result_headers']) };
      return { body: resultOf(row), ...headers };
    }
    case STATE.failed:
    case STATE.dead: {
      const code = text(row['error_code']);
      return new RunnerError(isErrorCode(code) ? code : 'JOB_FAILED', text(row['error_message']), { details: { ...details, code } });
    }
    case STATE.expired: {
      const retry = attempts === 0 ? 'safe' : 'idempotent';
      return new RunnerError('QUEUE_TIMEOUT', `the deadline of job ${id} passed after ${attempts} attempts`, { details, retry });
    }
    case STATE.cancelled:
      return new RunnerError('ABORTED', `job ${id} was cancelled`, { details, retry: attempts === 0 ? 'safe' : 'idempotent' });
    default:
      return undefined;
  }
}

export function resultOf(row: Row): Content {
  return bytesOf(row['result']) ?? referenceOf(row['result_reference']) ?? new Uint8Array();
}

export function bytesOf(value: SQLOutputValue | undefined): Uint8Array | undefined {
  return value instanceof Uint8Array ? value : undefined;
}

/** What a change of state needs to know of a job that waits or is claimed. */
export interface Subject {
  readonly seq: number;
  readonly jobId: string;
  readonly type: string;
  readonly requires: string;
  readonly from: number;
  readonly deadline: number | undefined;
}

export function subjectOfRow(row: Row): Subject {
  return {
    seq: Number(row['seq']),
    jobId: String(row['id']),
    type: String(row['type']),
    requires: String(row['requires']),
    from: Number(row['state']),
    deadline: numberOf(row['deadline']),
  };
}
