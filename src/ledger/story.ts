/** The story of a call, put together from its row, the notes of what was unusual, and its transactions. */

import type { LedgerEvent } from './ledger.ts';
import type { Row } from './rows.ts';

function transactionEvents(row: Row): LedgerEvent[] {
  const transaction = {
    hash: row['hash'],
    nonce: row['nonce'],
    purpose: row['purpose'],
    maxFeePerGas: row['max_fee'],
    maxPriorityFeePerGas: row['priority_fee'],
    gas: row['gas'],
    state: row['state'],
  };
  const events: LedgerEvent[] = [{ at: Number(row['created_at']), kind: 'signed', detail: transaction }];
  if (row['mined_at'] !== null) {
    const detail = {
      hash: row['hash'],
      blockNumber: row['block_number'],
      blockHash: row['block_hash'],
      gasUsed: row['gas_used'],
      gasPrice: row['gas_price'],
    };
    events.push({ at: Number(row['mined_at']), kind: row['state'] === 'reverted' ? 'reverted' : 'mined', detail });
  }
  return events;
}

export function eventsOf(call: Row, notes: readonly Row[], transactions: readonly Row[]): LedgerEvent[] {
  const seen = {
    blockNumber: call['block_number'],
    blockHash: call['block_hash'],
    transactionHash: call['transaction_hash'],
    caller: call['caller'],
    jobId: call['job_id'],
  };
  const events: LedgerEvent[] = [{ at: Number(call['seen_at']), kind: 'seen', detail: seen }];
  const noted = notes.map((note): LedgerEvent => ({
    at: Number(note['at']),
    kind: String(note['kind']),
    detail: JSON.parse(String(note['detail'])) as LedgerEvent['detail'], // written by ourselves
  }));
  const attempts = noted.filter(({ kind }) => kind === 'attempt');
  if (call['started_at'] !== null) {
    const { attempts: number, executor, reason } = call;
    attempts.push({ at: Number(call['started_at']), kind: 'attempt', detail: { number, executor, ...(reason !== null && { reason }) } });
  }
  // In the same millisecond an attempt comes before its failure and before the end of the call, though it was noted after them.
  for (const event of noted.filter(({ kind }) => kind !== 'attempt')) {
    const isFailed = (attempt: LedgerEvent): boolean =>
      event.kind === 'attempt-failed' && attempt.detail['number'] === event.detail['number'];
    const at = attempts.findIndex(isFailed);
    if (at >= 0) events.push(...attempts.splice(at, 1));
    if (event.kind === 'failed') events.push(...attempts.splice(0, attempts.filter((attempt) => attempt.at <= event.at).length));
    events.push(event);
  }
  events.push(...attempts);
  if (call['executed_at'] !== null) {
    const output = call['output'];
    const detail = {
      executor: call['executor'],
      durationMs: call['duration_ms'],
      outputBytes: output instanceof Uint8Array ? output.length : 0,
    };
    events.push({ at: Number(call['executed_at']), kind: 'executed', detail });
  }
  events.push(...transactions.flatMap(transactionEvents));
  return events.toSorted((a, b) => a.at - b.at);
}
