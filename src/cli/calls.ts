/** Calls as the ledger tells them, for the commands that read it beside a running runner. */

import { hash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { InvalidArgumentError } from 'commander';
import type { Command } from 'commander';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { CallRecord, CallState, Ledger } from '../ledger/ledger.ts';
import { redactText } from '../telemetry/redact.ts';
import { ledgerFileOf } from './environment.ts';
import type { DataFlags } from './environment.ts';
import { printable } from './output.ts';
import type { Io } from './output.ts';

/** What each state means to an operator, and what comes next. */
export const STATES: Readonly<Record<CallState, string>> = {
  seen: 'it is journaled and waits to be executed',
  executing: 'an attempt was started and has not ended yet',
  executed: 'its result is durable and waits to be settled; it is not executed again',
  submitted: 'its result is in a signed transaction that is not mined yet',
  mined: 'its result is on chain and waits for enough confirmations',
  final: 'its result is on chain for good',
  failed: 'it is not tried again',
  ignored: 'nobody takes the job, or it has no result',
  rejected: 'the contract refuses the result',
  closed: 'the contract needs no result of ours any more',
  orphaned: 'its block left the chain; it goes on when the call is mined again',
};

/** What the state of a call means. One that no chain asked for has nothing to settle. */
export function meaningOf({ state, call }: CallRecord): string {
  return state === 'final' && !call.origin ? 'its result is journaled; no chain asked for it, so none gets it' : STATES[state];
}

export interface LedgerFlags extends DataFlags {
  readonly json?: true;
}

export function withLedgerOptions(command: Command): Command {
  return command
    .option('--data-dir <dir>', 'where the runner keeps its data (default: BPR_DATA_DIR)')
    .option('--ledger <file>', 'the ledger, when it is not in the data directory')
    .option('--json', 'print one JSON document');
}

function existingLedger(io: Io, flags: LedgerFlags): string {
  const path = ledgerFileOf(io, flags);
  if (!existsSync(path)) throw new RunnerError('NOT_FOUND', `there is no ledger ${path}; name it with --data-dir or --ledger`);
  return path;
}

/** Reads beside the runner that owns the ledger. Throws `NOT_FOUND` when there is none; nothing is made. */
export async function readLedger<T>(io: Io, flags: LedgerFlags, read: (ledger: Ledger) => T): Promise<T> {
  const path = existingLedger(io, flags);
  const { SqliteLedger } = await import('../ledger/sqlite.ts');
  const ledger = SqliteLedger.open({ path, readonly: true });
  try {
    return read(ledger);
  } finally {
    await ledger.close();
  }
}

/** What `findCalls` takes, for help. */
export const CALL_ARGUMENT = 'its call id, seq: and its row in the ledger, or the id of a call of a producer';

/**
 * By call id, by `seq:` and the row in the ledger, or by the id that a producer gave. Call ids count per service, and a reorg can give one to
 * another call: there can be several. Throws `NOT_FOUND`.
 */
export function findCalls(ledger: Ledger, name: string, serviceId: bigint | undefined): CallRecord[] {
  const row = /^seq:(\d{1,15})$/.exec(name)?.[1];
  if (row !== undefined) {
    const record = ledger.get(Number(row));
    if (record) return [record];
    throw new RunnerError('NOT_FOUND', `the ledger has no row ${row}`, { details: { call: name } });
  }
  const which = /^\d{1,20}$/.test(name) ? { callId: BigInt(name) } : { id: name };
  const found = ledger.find({ ...which, ...(serviceId !== undefined && { serviceId }), limit: 100 });
  if (found.length > 0) return found;
  const where = serviceId === undefined ? '' : ` of service ${serviceId}`;
  throw new RunnerError('NOT_FOUND', `the ledger has no call ${name}${where}`, { details: { call: name } });
}

/** Changes the ledger while no runner uses it. Throws `NOT_FOUND`, and `LEDGER_LOCKED` when one does. */
export async function changeLedger<T>(io: Io, flags: LedgerFlags, change: (ledger: Ledger) => Promise<T>): Promise<T> {
  const path = existingLedger(io, flags);
  const { SqliteLedger } = await import('../ledger/sqlite.ts');
  const ledger = openToChange(() => SqliteLedger.open({ path }), path);
  try {
    return await change(ledger);
  } finally {
    await ledger.close();
  }
}

function openToChange(open: () => Ledger, path: string): Ledger {
  try {
    return open();
  } catch (cause) {
    if (!isRunnerError(cause) || cause.code !== 'LEDGER_LOCKED') throw cause;
    const advice = 'stop it, run this command again, then start it; or call retry(seq) of the runner in its own program';
    throw new RunnerError('LEDGER_LOCKED', `a runner uses the ledger ${path}, and only it may change calls now: ${advice}`, { cause });
  }
}

export interface CallDocument {
  readonly seq: number;
  readonly id: string;
  readonly jobId: bigint;
  readonly serviceId?: bigint;
  readonly callId?: bigint;
  readonly state: CallState;
  readonly attempts: number;
  readonly executor?: string;
  readonly errorCode?: string;
  readonly errorMessage?: string;
  /** Of the transaction that carries the result. */
  readonly transactionHash?: string;
  readonly seenAt: string;
  readonly updatedAt: string;
}

export function callDocument({ call, seenAt, updatedAt, seq, state, attempts, ...rest }: CallRecord): CallDocument {
  const { id, jobId, origin } = call;
  const { executor, errorCode, errorMessage, transactionHash } = rest;
  return {
    seq,
    id,
    jobId,
    ...(origin && { serviceId: origin.serviceId, callId: origin.callId }),
    state,
    attempts,
    ...(executor !== undefined && { executor }),
    ...(errorCode !== undefined && { errorCode }),
    ...(errorMessage !== undefined && { errorMessage: redactText(errorMessage) }),
    ...(transactionHash !== undefined && { transactionHash }),
    seenAt: new Date(seenAt).toISOString(),
    updatedAt: new Date(updatedAt).toISOString(),
  };
}

/** `call 7 of service 1 (job 0)`, or the id of a call that another producer made. */
export function callTitle({ call }: CallRecord): string {
  const { origin, jobId, id } = call;
  return origin ? `call ${origin.callId} of service ${origin.serviceId} (job ${jobId})` : `call ${printable(id)} (job ${jobId})`;
}

/** Size and hash: enough to compare two outputs. */
export function fingerprint(bytes: Uint8Array): { readonly bytes: number; readonly sha256: string } {
  return { bytes: bytes.length, sha256: hash('sha256', bytes) };
}

const UINT64_MAX = 2n ** 64n - 1n;

/** For ids of services on the command line. */
export function parseUint64(text: string): bigint {
  if (!/^\d{1,20}$/.test(text) || BigInt(text) > UINT64_MAX) throw new InvalidArgumentError('It must be an unsigned integer below 2^64.');
  return BigInt(text);
}

export function parseCount(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new InvalidArgumentError('It must be a number from 1 to 999999.');
  return Number(text);
}

/** Public chains have ids of eight digits and more. */
export function parseChainId(text: string): number {
  if (!/^[1-9]\d{0,14}$/.test(text)) throw new InvalidArgumentError('It must be the id of a chain, a number like 8453.');
  return Number(text);
}

/** For sizes of what may be large. */
export function parseBytes(text: string): number {
  if (!/^[1-9]\d{0,14}$/.test(text)) throw new InvalidArgumentError('It must be a number of bytes from 1 to 999999999999999.');
  return Number(text);
}

export function parseNumber(text: string): number {
  if (!/^\d{1,5}$/.test(text)) throw new InvalidArgumentError('It must be a number from 0 to 99999.');
  return Number(text);
}

export function parsePort(text: string): number {
  const port = parseNumber(text);
  if (port > 65_535) throw new InvalidArgumentError('It must be a port: a number from 0 to 65535.');
  return port;
}

const UNITS_MS: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `30s`, `15m`, `2h`, `7d` ago, or a date: milliseconds since the epoch. */
export function parseSince(text: string): number {
  const [, count, unit = ''] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  const time =
    count === undefined ? Date.parse(/^\d{4}-\d\d-\d\d/.test(text) ? text : '') : Date.now() - Number(count) * (UNITS_MS[unit] ?? 0);
  if (Number.isNaN(time))
    throw new InvalidArgumentError('It must be a time span like 30s, 15m, 2h or 7d, or a date like 2026-11-21T07:00:00Z.');
  return time;
}

const UINT256_MAX = 2n ** 256n - 1n;

export function parseJobId(text: string): bigint {
  if (!/^\d{1,78}$/.test(text) || BigInt(text) > UINT256_MAX) throw new InvalidArgumentError('It must be an unsigned integer below 2^256.');
  return BigInt(text);
}

/** One state or several, comma-separated. */
export function parseStates(text: string): CallState[] {
  return text.split(',').map((name) => {
    const state = (Object.keys(STATES) as CallState[]).find((known) => known === name.trim());
    if (!state) throw new InvalidArgumentError(`${name} is not a state; the states are ${Object.keys(STATES).join(', ')}.`);
    return state;
  });
}
