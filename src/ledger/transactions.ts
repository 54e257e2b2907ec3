/** The tables of signed transactions, and what their fate means for the calls they carry. Every change runs inside a write of the ledger. */

import type { StatementSync } from 'node:sqlite';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { Address } from '../job/call.ts';
import type { SqliteFile } from '../sqlite-file.ts';
import type { CallState, Ledger, LedgerTransaction, NewTransaction } from './ledger.ts';
import { STATE, stateOf, transactionOf } from './rows.ts';
import type { Row } from './rows.ts';

type Mined = Parameters<Ledger['recordMined']>[1];

export class TransactionTable {
  readonly #clock: Clock;
  readonly #insert: StatementSync;
  readonly #carry: StatementSync;
  readonly #carried: StatementSync;
  readonly #get: StatementSync;
  readonly #versions: StatementSync;
  readonly #pending: StatementSync;
  readonly #unsettled: StatementSync;
  readonly #ofCall: StatementSync;
  readonly #setState: StatementSync;
  readonly #setMined: StatementSync;
  readonly #unmine: StatementSync;
  readonly #deep: StatementSync;
  readonly #setFinal: StatementSync;
  readonly #stateOfCall: StatementSync;
  readonly #setCallState: StatementSync;
  readonly #setStateBefore: StatementSync;

  constructor(database: SqliteFile, clock: Clock) {
    this.#clock = clock;
    const sql = (text: string): StatementSync => database.prepare(text);
    this.#insert =
      sql(`INSERT INTO transactions (chain_id, account, nonce, hash, raw, max_fee, priority_fee, gas, purpose, state, created_at)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)`);
    this.#carry = sql('INSERT OR IGNORE INTO transaction_calls (transaction_id, seq) VALUES (?, ?)');
    this.#carried = sql('SELECT seq FROM transaction_calls WHERE transaction_id = ? ORDER BY seq');
    this.#get = sql('SELECT * FROM transactions WHERE id = ?');
    this.#versions = sql('SELECT * FROM transactions WHERE chain_id = ? AND account = ? AND nonce = ? AND id <> ?');
    this.#pending = sql(
      `SELECT * FROM transactions WHERE chain_id = ? AND account = ? AND final = 0 AND state = 'pending' ORDER BY nonce, id`,
    );
    this.#unsettled = sql(
      `SELECT * FROM transactions WHERE chain_id = ? AND account = ? AND final = 0 AND state IN ('mined', 'reverted') ORDER BY nonce, id`,
    );
    this.#ofCall = sql('SELECT t.* FROM transaction_calls c JOIN transactions t ON t.id = c.transaction_id WHERE c.seq = ? ORDER BY t.id');
    this.#setState = sql('UPDATE transactions SET state = ? WHERE id = ?');
    this.#setMined = sql(
      'UPDATE transactions SET state = ?, block_number = ?, block_hash = ?, gas_used = ?, gas_price = ?, mined_at = ? WHERE id = ?',
    );
    this.#unmine = sql(
      `UPDATE transactions SET state = 'pending', block_number = NULL, block_hash = NULL, gas_used = NULL, gas_price = NULL, mined_at = NULL WHERE id = ?`,
    );
    this.#deep = sql(
      `SELECT * FROM transactions WHERE chain_id = ? AND final = 0 AND state IN ('mined', 'reverted') AND block_number <= ?`,
    );
    this.#setFinal = sql('UPDATE transactions SET final = 1 WHERE chain_id = ? AND account = ? AND nonce = ?');
    this.#stateOfCall = sql('SELECT state, before FROM calls WHERE seq = ?');
    this.#setCallState = sql('UPDATE calls SET state = ?, updated_at = ? WHERE seq = ?');
    this.#setStateBefore = sql('UPDATE calls SET before = ?, updated_at = ? WHERE seq = ?');
  }

  record(chainId: number, transaction: NewTransaction): LedgerTransaction {
    const { account, nonce, hash, raw, maxFeePerGas, maxPriorityFeePerGas, gas, purpose, calls } = transaction;
    const fees = [maxFeePerGas, maxPriorityFeePerGas, gas].map(String);
    const { lastInsertRowid } = this.#insert.run(chainId, account.toLowerCase(), nonce, hash, raw, ...fees, purpose, this.#clock.now());
    const id = Number(lastInsertRowid);
    for (const seq of calls) {
      this.#carry.run(id, seq);
      this.#move(seq, ['executed', 'submitted'], 'submitted');
    }
    return this.#read(this.#row(id));
  }

  pending(chainId: number, account: Address): LedgerTransaction[] {
    return this.#pending.all(chainId, account.toLowerCase()).map((row) => this.#read(row));
  }

  mined(chainId: number, account: Address): LedgerTransaction[] {
    return this.#unsettled.all(chainId, account.toLowerCase()).map((row) => this.#read(row));
  }

  of(seq: number): LedgerTransaction[] {
    return this.#ofCall.all(seq).map((row) => this.#read(row));
  }

  recordMined(id: number, outcome: Mined): void {
    const mined = this.#read(this.#row(id));
    this.#setMined.run(
      outcome.success ? 'mined' : 'reverted',
      outcome.block.number,
      outcome.block.hash,
      String(outcome.gasUsed),
      String(outcome.effectiveGasPrice),
      this.#clock.now(),
      id,
    );
    for (const other of this.#otherVersions(mined)) {
      if (other.state === 'pending') this.#setState.run('replaced', other.id);
      for (const seq of other.calls) if (!mined.calls.includes(seq)) this.#move(seq, ['submitted'], 'executed');
    }
    for (const seq of mined.calls) this.#move(seq, ['submitted'], outcome.success ? 'mined' : 'executed');
  }

  recordUnmined(id: number): void {
    const version = this.#read(this.#row(id));
    for (const seq of version.calls) this.#move(seq, [version.state === 'mined' ? 'mined' : 'executed'], 'submitted');
    this.#unmine.run(id);
    for (const other of this.#otherVersions(version)) if (other.state === 'replaced') this.#setState.run('pending', other.id);
  }

  recordDropped(id: number): readonly number[] {
    const version = this.#read(this.#row(id));
    this.#setState.run('dropped', id);
    for (const seq of version.calls) this.#move(seq, ['submitted'], 'executed');
    return version.calls;
  }

  /** The number of calls that became final. */
  recordFinal(chainId: number, throughBlock: bigint): number {
    let count = 0;
    for (const row of this.#deep.all(chainId, throughBlock)) {
      const version = this.#read(row);
      this.#setFinal.run(chainId, version.account, version.nonce);
      for (const seq of version.calls) if (version.state === 'mined' && this.#move(seq, ['mined'], 'final')) count += 1;
    }
    return count;
  }

  /** Also moves the state that an orphaned call comes back with; true when the call itself moved. */
  #move(seq: number, from: readonly CallState[], to: CallState): boolean {
    const row = this.#stateOfCall.get(seq);
    if (!row) return false;
    const orphaned = row['state'] === STATE.orphaned;
    if (!from.includes(stateOf(orphaned ? row['before'] : row['state']))) return false;
    (orphaned ? this.#setStateBefore : this.#setCallState).run(STATE[to], this.#clock.now(), seq);
    return !orphaned;
  }

  #otherVersions({ id, chainId, account, nonce }: LedgerTransaction): LedgerTransaction[] {
    return this.#versions.all(chainId, account, nonce, id).map((row) => this.#read(row));
  }

  #read(row: Row): LedgerTransaction {
    return transactionOf(
      row,
      this.#carried.all(Number(row['id'])).map((carried) => Number(carried['seq'])),
    );
  }

  #row(id: number): Row {
    const row = this.#get.get(id);
    if (!row) throw new RunnerError('INTERNAL', `the ledger has no transaction ${id}`);
    return row;
  }
}
