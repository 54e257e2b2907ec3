/** The ledger in one SQLite file (WAL, synchronous FULL, group commit). */

import { statSync } from 'node:fs';
import type { SQLInputValue, StatementSync } from 'node:sqlite';
import { systemClock } from '../clock.ts';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex, JobCall, JobResult } from '../job/call.ts';
import { silentTelemetry } from '../telemetry/telemetry.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { SqliteFile } from '../sqlite-file.ts';
import { noteCrashes, pauseCalls } from './crashes.ts';
import { openLedgerFile } from './database.ts';
import type {
  CallRecord,
  CallState,
  Cursor,
  Ledger,
  LedgerEvent,
  LedgerStats,
  LedgerTransaction,
  NewTransaction,
  PendingResult,
  SeenOutcome,
} from './ledger.ts';
import { INSERT_CALL, STATE, callKey, chainCallValues, metadataText, originOf, recordOf, stateOf } from './rows.ts';
import { eventsOf } from './story.ts';
import { TransactionTable } from './transactions.ts';

export interface SqliteLedgerOptions {
  /** The file; its folder is made. `:memory:` for tests: nothing is durable. */
  readonly path: string;
  readonly clock?: Clock;
  readonly telemetry?: Telemetry;
  /** Reads beside the runner that owns the file. */
  readonly readonly?: boolean;
}

interface Reason {
  readonly code: string;
  readonly message: string;
}

interface End {
  readonly state: CallState;
  readonly code?: string;
  readonly message: string;
  /** The states that may end so, as SQL. */
  readonly from: string;
}

const { seen, executing, executed, final, failed, ignored, rejected, closed, orphaned } = STATE;
const OPEN = `(${seen}, ${executing})`;
const NOT_ORPHANED = `<> ${orphaned}`;
const ENDED = `(${final}, ${failed}, ${ignored}, ${rejected}, ${closed}, ${orphaned})`;

/** Calls that one transaction removes. */
const COMPACTED_MAX = 250;

/** The row tells of the last attempt; what it told of the one before becomes a note. */
const KEEP_ATTEMPT = `INSERT INTO notes (seq, at, kind, detail)
  SELECT seq, started_at, 'attempt', json_object('number', attempts, 'executor', executor, 'reason', reason) FROM calls WHERE seq = ? AND attempts > 0`;
const START = `UPDATE calls SET state = ${executing}, attempts = ?, executor = ?, reason = ?, started_at = ?, updated_at = ?
  WHERE seq = ? AND state IN ${OPEN}`;
/** A call of a producer has nobody to settle with: it ends here. */
const FINISH = `UPDATE calls SET state = CASE WHEN ?1 IS NULL THEN ${ignored} WHEN chain_id IS NULL THEN ${final} ELSE ${executed} END,
  output = ?1, executor = ?2, duration_ms = ?3, executed_at = ?4, updated_at = ?4, error_code = NULL, error_message = NULL
  WHERE seq = ?5 AND state IN ${OPEN}`;
/** What the contract said of a result it said on the branch that was left. */
const RESTORE = `UPDATE calls SET before = NULL, updated_at = ?, error_code = iif(before IN (${rejected}, ${closed}), NULL, error_code),
  error_message = iif(before IN (${rejected}, ${closed}), NULL, error_message),
  state = CASE WHEN before NOT IN (${rejected}, ${closed}) THEN before WHEN output IS NULL THEN ${seen} ELSE ${executed} END WHERE seq = ?`;
const INSERT_PRODUCED = `INSERT INTO calls (id, job_id, body, metadata, state, seen_at, updated_at) VALUES (?, ?, ?, ?, ${seen}, ?, ?) ON CONFLICT (id) DO NOTHING`;
const WAITING = `SELECT * FROM calls WHERE state IN ${OPEN} AND seq > ? ORDER BY seq LIMIT ?`;
const WAITING_OF_JOB = `SELECT * FROM calls WHERE state IN ${OPEN} AND seq > ? AND job_id = ? ORDER BY seq LIMIT ?`;

export class SqliteLedger implements Ledger {
  readonly #database: SqliteFile;
  readonly #clock: Clock;
  readonly #transactions: TransactionTable;
  readonly #statements = new Map<string, StatementSync>();
  readonly #telemetry: Telemetry;
  #closed = false;

  /** Throws `LEDGER_LOCKED`, `LEDGER_CORRUPT`, `LEDGER_VERSION` or `LEDGER_FULL`. */
  static open(options: SqliteLedgerOptions): SqliteLedger {
    return new SqliteLedger(options);
  }

  private constructor({ path, clock = systemClock, telemetry = silentTelemetry, readonly = false }: SqliteLedgerOptions) {
    this.#database = openLedgerFile({ path, readonly });
    this.#clock = clock;
    this.#telemetry = telemetry;
    this.#transactions = new TransactionTable(this.#database, clock);
  }

  cursor(chainId: number, contract: Address): Cursor | undefined {
    const row = this.#get('SELECT number, hash FROM cursors WHERE chain_id = ? AND contract = ?', chainId, contract.toLowerCase());
    return row && { chainId, contract, block: { number: BigInt(Number(row['number'])), hash: String(row['hash']) as Hex } };
  }

  recordSeen(calls: readonly ChainCall[], cursor: Cursor, completed: readonly boolean[] = []): Promise<SeenOutcome[]> {
    return this.#database.write(() => {
      this.#setCursor(cursor);
      return calls.map((call, index) => {
        const outcome = this.#see(call);
        if (outcome !== 'new' || completed[index] !== true) return outcome;
        this.#run(
          `UPDATE calls SET state = ${closed}, error_message = ? WHERE id = ?`,
          'it was completed before it was seen',
          callKey(call),
        );
        return 'completed';
      });
    });
  }

  recordProduced(call: JobCall): Promise<boolean> {
    return this.#database.write(() => {
      const now = this.#clock.now();
      return this.#run(INSERT_PRODUCED, call.id, String(call.jobId), call.body, metadataText(call.metadata), now, now) === 1;
    });
  }

  recordReorg(cursor: Cursor): Promise<number[]> {
    return this.#database.write(() => {
      this.#setCursor(cursor);
      const sql = `SELECT seq FROM calls WHERE chain_id = ? AND contract = ? AND block_number > ? AND state NOT IN (${final}, ${orphaned})`;
      const gone = this.#all(sql, cursor.chainId, cursor.contract.toLowerCase(), cursor.block.number).map((row) => Number(row['seq']));
      for (const seq of gone) this.#orphan(seq, `the chain left the branch above block ${cursor.block.number}`);
      return gone;
    });
  }

  recordOrphaned(seq: number, reason: string): Promise<void> {
    return this.#database.write(() => this.#orphan(seq, reason));
  }

  waiting(afterSeq: number, limit: number, jobId?: bigint): CallRecord[] {
    const rows = jobId === undefined ? this.#all(WAITING, afterSeq, limit) : this.#all(WAITING_OF_JOB, afterSeq, String(jobId), limit);
    return rows.map(recordOf);
  }

  recordAttempt(seq: number, attempt: { readonly number: number; readonly executor: string; readonly reason?: string }): Promise<void> {
    return this.#database.write(() => {
      const { number, executor, reason = null } = attempt;
      if (number > 1) this.#run(KEEP_ATTEMPT, seq);
      const now = this.#clock.now();
      this.#run(START, number, executor, reason, now, now, seq);
    });
  }

  recordAttemptFailed(
    seq: number,
    attempt: { readonly number: number; readonly code: string; readonly message: string; readonly nextAt?: number },
  ): Promise<void> {
    return this.#database.write(() => this.#note(seq, 'attempt-failed', attempt));
  }

  recordCrashes(executor: string): Promise<ReadonlyMap<number, number>> {
    return this.#database.write(() => noteCrashes(this.#database, executor, this.#clock.now()));
  }

  recordStopping(): Promise<void> {
    return this.#database.write(() => pauseCalls(this.#database));
  }

  recordExecuted(
    seq: number,
    result: JobResult | undefined,
    detail: { readonly executor: string; readonly durationMs: number },
  ): Promise<boolean> {
    return this.#database.write(() => {
      const now = this.#clock.now();
      return this.#run(FINISH, result?.body ?? null, detail.executor, detail.durationMs, now, seq) === 1;
    });
  }

  recordFailed(seq: number, { code, message }: Reason): Promise<void> {
    return this.#end(seq, { state: 'failed', code, message, from: `IN ${OPEN}` });
  }

  recordIgnored(seq: number, { code, message }: Reason): Promise<void> {
    return this.#end(seq, { state: 'ignored', code, message, from: `IN ${OPEN}` });
  }

  recordRejected(seq: number, { code, message }: Reason): Promise<void> {
    return this.#end(seq, { state: 'rejected', code, message, from: NOT_ORPHANED });
  }

  recordClosed(seq: number, reason: string): Promise<void> {
    return this.#end(seq, { state: 'closed', message: reason, from: NOT_ORPHANED });
  }

  retry(seq: number): Promise<boolean> {
    return this.#database.write(() => {
      const sql = `UPDATE calls SET state = CASE state WHEN ${rejected} THEN ${executed} ELSE ${seen} END, error_code = NULL, error_message = NULL, updated_at = ?
        WHERE seq = ? AND (state IN (${failed}, ${rejected}) OR (state = ${ignored} AND executed_at IS NULL))`;
      const changed = this.#run(sql, this.#clock.now(), seq) === 1;
      if (changed) this.#note(seq, 'retry', {});
      return changed;
    });
  }

  settleable(throughBlock: bigint, limit: number): PendingResult[] {
    const sql = `SELECT * FROM calls WHERE state = ${executed} AND block_number <= ? ORDER BY seq LIMIT ?`;
    return this.#all(sql, throughBlock, limit).flatMap((row) =>
      row['output'] instanceof Uint8Array ? [{ seq: Number(row['seq']), origin: originOf(row), output: row['output'] }] : [],
    );
  }

  recordTransaction(chainId: number, transaction: NewTransaction): Promise<LedgerTransaction> {
    return this.#database.write(() => this.#transactions.record(chainId, transaction));
  }

  pendingTransactions(chainId: number, account: Address): LedgerTransaction[] {
    return this.#database.read(() => this.#transactions.pending(chainId, account));
  }

  minedTransactions(chainId: number, account: Address): LedgerTransaction[] {
    return this.#database.read(() => this.#transactions.mined(chainId, account));
  }

  transactionsOf(seq: number): LedgerTransaction[] {
    return this.#database.read(() => this.#transactions.of(seq));
  }

  recordMined(id: number, outcome: Parameters<Ledger['recordMined']>[1]): Promise<void> {
    return this.#database.write(() => this.#transactions.recordMined(id, outcome));
  }

  recordUnmined(id: number): Promise<void> {
    return this.#database.write(() => this.#transactions.recordUnmined(id));
  }

  recordDropped(id: number, reason: string): Promise<void> {
    return this.#database.write(() => {
      for (const seq of this.#transactions.recordDropped(id)) this.#note(seq, 'dropped', { transaction: id, reason });
    });
  }

  recordFinal(chainId: number, throughBlock: bigint): Promise<number> {
    return this.#database.write(() => this.#transactions.recordFinal(chainId, throughBlock));
  }

  get(seq: number): CallRecord | undefined {
    const row = this.#get('SELECT * FROM calls WHERE seq = ?', seq);
    return row && this.#withTransaction(recordOf(row));
  }

  find(filter: Parameters<Ledger['find']>[0]): CallRecord[] {
    const conditions: [string, string | number][] = [];
    if (filter.callId !== undefined) conditions.push(['call_id = ?', String(filter.callId)]);
    if (filter.serviceId !== undefined) conditions.push(['service_id = ?', String(filter.serviceId)]);
    if (filter.id !== undefined) conditions.push(['id = ?', filter.id]);
    if (filter.jobId !== undefined) conditions.push(['job_id = ?', String(filter.jobId)]);
    if (filter.seenSince !== undefined) conditions.push(['seen_at >= ?', filter.seenSince]);
    const states = filter.states && `state IN (${filter.states.map((state) => STATE[state]).join(', ')})`;
    const where = [...conditions.map(([sql]) => sql), ...(states ? [states] : [])].join(' AND ') || 'true';
    const rows = this.#all(
      `SELECT * FROM calls WHERE ${where} ORDER BY seq ${filter.newestFirst ? 'DESC' : 'ASC'} LIMIT ?`,
      ...conditions.map(([, value]) => value),
      filter.limit ?? -1,
    );
    return rows.map((row) => this.#withTransaction(recordOf(row)));
  }

  events(seq: number): LedgerEvent[] {
    const call = this.#get('SELECT * FROM calls WHERE seq = ?', seq);
    if (!call) return [];
    const notes = this.#all('SELECT at, kind, detail FROM notes WHERE seq = ? ORDER BY rowid', seq);
    const sql = 'SELECT t.* FROM transaction_calls c JOIN transactions t ON t.id = c.transaction_id WHERE c.seq = ? ORDER BY t.id';
    return eventsOf(call, notes, this.#all(sql, seq));
  }

  stats(): LedgerStats {
    const byState = Object.fromEntries(Object.keys(STATE).map((state) => [state, 0])) as Record<CallState, number>;
    for (const row of this.#all('SELECT state, count(*) AS count FROM calls GROUP BY state'))
      byState[stateOf(row['state'])] = Number(row['count']);
    const pending = this.#get(`SELECT count(*) AS count FROM transactions WHERE state = 'pending'`);
    return { byState, transactionsPending: Number(pending?.['count']), bytes: this.#bytes() };
  }

  getValue(name: string): string | undefined {
    const value = this.#get('SELECT value FROM settings WHERE name = ?', name)?.['value'];
    return value === undefined ? undefined : String(value);
  }

  setValue(name: string, value: string): Promise<void> {
    return this.#database.write(() => {
      this.#run('INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value', name, value);
    });
  }

  async compact(olderThanMs: number): Promise<number> {
    const before = this.#clock.now() - olderThanMs;
    let removed = 0;
    // So many at a time: calls go on in between.
    for (let count = COMPACTED_MAX; count === COMPACTED_MAX && !this.#closed; removed += count)
      count = await this.#database.write(() => this.#removeOld(before));
    if (this.#closed) return removed;
    await this.#database.write(() => {
      this.#run('DELETE FROM transactions WHERE final = 1 AND id NOT IN (SELECT transaction_id FROM transaction_calls)');
    });
    if (!this.#closed) this.#database.shrink();
    this.#telemetry.log.debug('ledger compacted', { removed });
    return removed;
  }

  close(): Promise<void> {
    this.#closed = true;
    return this.#database.close();
  }

  /** A transaction that may still be mined knows by its calls whether it must be replaced. */
  #removeOld(before: number): number {
    const inFlight = `SELECT c.seq FROM transaction_calls c JOIN transactions t ON t.id = c.transaction_id WHERE t.final = 0 AND t.state = 'pending'`;
    const old = `SELECT seq FROM calls WHERE state IN ${ENDED} AND updated_at <= ? AND seq NOT IN (${inFlight}) LIMIT ${COMPACTED_MAX}`;
    const seqs = JSON.stringify(this.#all(old, before).map((row) => row['seq']));
    const these = 'seq IN (SELECT value FROM json_each(?))';
    this.#run(`DELETE FROM notes WHERE ${these}`, seqs);
    this.#run(`DELETE FROM transaction_calls WHERE ${these}`, seqs);
    return this.#run(`DELETE FROM calls WHERE ${these}`, seqs);
  }

  #see(call: ChainCall): SeenOutcome {
    const id = callKey(call);
    const now = this.#clock.now();
    if (this.#run(INSERT_CALL, ...chainCallValues(call, id, now)) === 1) return 'new';
    const known = this.#get('SELECT seq, state, block_hash FROM calls WHERE id = ?', id);
    if (!known) throw new RunnerError('INTERNAL', `the ledger neither took nor has the call ${id}`);
    const seq = Number(known['seq']);
    const moved = 'UPDATE calls SET block_number = ?, block_hash = ?, transaction_hash = ?, log_index = ?, timestamp = ? WHERE seq = ?';
    this.#run(moved, call.blockNumber, call.blockHash, call.transactionHash, call.logIndex, call.timestamp ?? null, seq);
    if (stateOf(known['state']) !== 'orphaned') return 'known';
    this.#run(RESTORE, now, seq);
    this.#note(seq, 'restored', { blockNumber: String(call.blockNumber), blockHash: call.blockHash });
    return 'restored';
  }

  /** What was being executed starts anew when the call comes back: its result will be refused. */
  #orphan(seq: number, reason: string): void {
    const sql = `UPDATE calls SET before = CASE state WHEN ${executing} THEN ${seen} ELSE state END, state = ${orphaned}, updated_at = ? WHERE seq = ? AND state NOT IN (${final}, ${orphaned})`;
    if (this.#run(sql, this.#clock.now(), seq) === 1) this.#note(seq, 'orphaned', { reason });
  }

  #end(seq: number, { state, code, message, from }: End): Promise<void> {
    return this.#database.write(() => {
      const sql = `UPDATE calls SET state = ?, error_code = ?, error_message = ?, updated_at = ? WHERE seq = ? AND state ${from}`;
      const changed = this.#run(sql, STATE[state], code ?? null, message, this.#clock.now(), seq);
      if (changed === 1) this.#note(seq, state, { ...(code && { code }), message });
    });
  }

  #note(seq: number, kind: string, detail: object): void {
    this.#run('INSERT INTO notes (seq, at, kind, detail) VALUES (?, ?, ?, ?)', seq, this.#clock.now(), kind, JSON.stringify(detail));
  }

  #setCursor({ chainId, contract, block }: Cursor): void {
    const sql =
      'INSERT INTO cursors (chain_id, contract, number, hash) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET number = excluded.number, hash = excluded.hash';
    this.#run(sql, chainId, contract.toLowerCase(), block.number, block.hash);
  }

  #withTransaction(record: CallRecord): CallRecord {
    const sent = this.#transactions
      .of(record.seq)
      .findLast((transaction) => transaction.state === 'mined' || transaction.state === 'pending');
    return sent ? { ...record, transactionHash: sent.hash } : record;
  }

  #bytes(): number {
    const size = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    return size(this.#database.path) + size(`${this.#database.path}-wal`);
  }

  #statement(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (!statement) {
      statement = this.#database.prepare(sql);
      this.#statements.set(sql, statement);
    }
    return statement;
  }

  #get(sql: string, ...values: SQLInputValue[]): ReturnType<StatementSync['get']> {
    return this.#database.read(() => this.#statement(sql).get(...values));
  }

  #all(sql: string, ...values: SQLInputValue[]): ReturnType<StatementSync['all']> {
    return this.#database.read(() => this.#statement(sql).all(...values));
  }

  #run(sql: string, ...values: SQLInputValue[]): number {
    return Number(this.#statement(sql).run(...values).changes);
  }
}
