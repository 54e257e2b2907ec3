/** Rows of the ledger's tables and the values they stand for. */

import { hash } from 'node:crypto';
import type { SQLInputValue, SQLOutputValue } from 'node:sqlite';
import type { Address, ChainCall, Hex, JobCall } from '../job/call.ts';
import { Metadata, TANGLE } from '../job/call.ts';
import type { CallRecord, CallState, LedgerTransaction } from './ledger.ts';

export type Row = Record<string, SQLOutputValue>;

/** The number of a state in the file is its place here: only append. The partial indexes of the schema name 0, 1 and 2. */
const STATES: readonly CallState[] = [
  'seen',
  'executing',
  'executed',
  'submitted',
  'mined',
  'final',
  'failed',
  'ignored',
  'rejected',
  'closed',
  'orphaned',
];

export const STATE = Object.fromEntries(STATES.map((state, number) => [state, number])) as Record<CallState, number>;

export function stateOf(number: unknown): CallState {
  return STATES[Number(number)] ?? 'failed';
}

/** Who asked what: the inputs and the caller, so that a reorg that changes either makes another call. SHA-256, hexadecimal. */
function bindingOf(call: ChainCall): string {
  return hash('sha256', Buffer.concat([Buffer.from(call.caller.slice(2), 'hex'), call.inputs]), 'hex');
}

/** The id of a call of the chain: equal exactly when chain, contract, service, call, job, caller and inputs are equal. */
export function callKey(call: ChainCall): string {
  return `${call.chainId}:${call.contract}:${call.serviceId}:${call.callId}:${call.jobIndex}:${bindingOf(call)}`;
}

/** What a job finds in a call of the chain. */
export function tangleMetadata(call: ChainCall): Metadata {
  const metadata = new Metadata([
    [TANGLE.callId, String(call.callId)],
    [TANGLE.serviceId, String(call.serviceId)],
    [TANGLE.jobIndex, String(call.jobIndex)],
    [TANGLE.blockNumber, String(call.blockNumber)],
    [TANGLE.blockHash, call.blockHash],
    [TANGLE.caller, call.caller],
  ]);
  if (call.timestamp !== undefined) metadata.set(TANGLE.timestamp, String(call.timestamp));
  return metadata;
}

const text = (value: SQLOutputValue | undefined): string => String(value ?? '');
const hex = (value: SQLOutputValue | undefined): Hex => text(value) as Hex; // written by ourselves from a Hex
const whole = (value: SQLOutputValue | undefined): bigint => BigInt(text(value));
const bytes = (value: SQLOutputValue | undefined): Uint8Array => (value instanceof Uint8Array ? value : new Uint8Array());

export function originOf(row: Row): ChainCall {
  return {
    chainId: Number(row['chain_id']),
    contract: hex(row['contract']),
    serviceId: whole(row['service_id']),
    callId: whole(row['call_id']),
    jobIndex: Number(row['job_index']),
    caller: hex(row['caller']),
    inputs: bytes(row['body']),
    blockNumber: whole(row['block_number']),
    blockHash: hex(row['block_hash']),
    transactionHash: hex(row['transaction_hash']),
    logIndex: Number(row['log_index']),
    ...(row['timestamp'] !== null && { timestamp: whole(row['timestamp']) }),
    ...(row['quoted'] !== null && { quotedOperators: text(row['quoted']).split(',') as Address[] }),
  };
}

/** Name and value; what must not be logged has a third item. */
type MetadataEntry = readonly [name: string, value: string, sensitive?: true];

export function metadataText(metadata: Metadata): string {
  const entry = ([name, value]: readonly [string, string]): MetadataEntry =>
    metadata.isSensitive(name) ? [name, value, true] : [name, value];
  return JSON.stringify(Array.from(metadata, entry));
}

function metadataOf(json: string): Metadata {
  const metadata = new Metadata();
  const entries = JSON.parse(json) as readonly MetadataEntry[]; // written by metadataText
  for (const [name, value, sensitive = false] of entries) metadata.set(name, value, { sensitive });
  return metadata;
}

/** A file may hold metadata of a producer only; that of a chain call follows from its origin. */
function callOf(row: Row): JobCall {
  const id = text(row['id']);
  const jobId = whole(row['job_id']);
  if (row['chain_id'] === null) {
    return { id, jobId, body: bytes(row['body']), metadata: metadataOf(text(row['metadata'])) };
  }
  const origin = originOf(row);
  return { id, jobId, body: origin.inputs, metadata: tangleMetadata(origin), origin };
}

export function recordOf(row: Row): CallRecord {
  return {
    seq: Number(row['seq']),
    call: callOf(row),
    state: stateOf(row['state']),
    attempts: Number(row['attempts']),
    ...(row['output'] !== null && { output: bytes(row['output']) }),
    ...(row['executor'] !== null && { executor: text(row['executor']) }),
    ...(row['error_code'] !== null && { errorCode: text(row['error_code']) }),
    ...(row['error_message'] !== null && { errorMessage: text(row['error_message']) }),
    ...(row['sent_hash'] !== null && row['sent_hash'] !== undefined && { transactionHash: hex(row['sent_hash']) }),
    seenAt: Number(row['seen_at']),
    updatedAt: Number(row['updated_at']),
  };
}

export function transactionOf(row: Row, calls: readonly number[]): LedgerTransaction {
  return {
    id: Number(row['id']),
    chainId: Number(row['chain_id']),
    account: hex(row['account']),
    nonce: Number(row['nonce']),
    hash: hex(row['hash']),
    raw: hex(row['raw']),
    maxFeePerGas: whole(row['max_fee']),
    maxPriorityFeePerGas: whole(row['priority_fee']),
    gas: whole(row['gas']),
    purpose: text(row['purpose']) as LedgerTransaction['purpose'], // written by ourselves
    state: text(row['state']) as LedgerTransaction['state'], // written by ourselves
    ...(row['block_number'] !== null && { block: { number: whole(row['block_number']), hash: hex(row['block_hash']) } }),
    calls,
    createdAt: Number(row['created_at']),
  };
}

/** The values of a new call of the chain, in the order of `INSERT_CALL`. */
export function chainCallValues(call: ChainCall, id: string, now: number): SQLInputValue[] {
  return [
    id,
    String(call.jobIndex),
    call.inputs,
    null,
    call.chainId,
    call.contract,
    String(call.serviceId),
    String(call.callId),
    call.jobIndex,
    call.caller,
    call.blockNumber,
    call.blockHash,
    call.transactionHash,
    call.logIndex,
    call.timestamp ?? null,
    call.quotedOperators ? call.quotedOperators.join(',') : null,
    now,
    now,
  ];
}

export const INSERT_CALL = `INSERT INTO calls (id, job_id, body, metadata, chain_id, contract, service_id, call_id, job_index, caller,
  block_number, block_hash, transaction_hash, log_index, timestamp, quoted, state, seen_at, updated_at)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?) ON CONFLICT (id) DO NOTHING`;
