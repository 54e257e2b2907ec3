/**
 * The durable journal of every call: what was seen, tried, computed, signed and mined.
 *
 * A method that returns a promise resolves when the change is on disk. Changes made in the same turn of the event loop share one
 * transaction (group commit). Rejects with `LEDGER_FULL` while the disk is full (the change is not applied, try again) and with
 * `LEDGER_CORRUPT` when the file is damaged.
 *
 * Life of a call:
 * ```
 * seen -> executing -> executed -> submitted -> mined -> final
 *                   \-> failed   \-> rejected | closed
 *                   \-> ignored
 * any state before final -> orphaned (its block left the chain) -> seen or executed again when it is mined again
 * ```
 */

import type { Address, ChainCall, Hex, JobCall, JobResult } from '../job/call.ts';

/**
 * - `seen` waits for execution; `executing` an attempt was started; `executed` its result waits for settlement
 * - `submitted` is in a signed transaction; `mined` the transaction succeeded; `final` it has enough confirmations
 * - `failed` will not be tried again; `ignored` nobody takes the job, or it has no result
 * - `rejected` the contract refuses the result; `closed` the contract needs no result of ours any more (completed by others, or
 *   already answered by us)
 * - `orphaned` its block left the chain
 */
export type CallState =
  | 'seen'
  | 'executing'
  | 'executed'
  | 'submitted'
  | 'mined'
  | 'final'
  | 'failed'
  | 'ignored'
  | 'rejected'
  | 'closed'
  | 'orphaned';

export interface BlockRef {
  readonly number: bigint;
  readonly hash: Hex;
}

/** How far the chain was read: everything up to and including `block` is in the ledger. */
export interface Cursor {
  readonly chainId: number;
  readonly contract: Address;
  readonly block: BlockRef;
}

export interface CallRecord {
  /** Row number: arrival order. */
  readonly seq: number;
  readonly call: JobCall;
  readonly state: CallState;
  /** Attempts started. */
  readonly attempts: number;
  readonly output?: Uint8Array;
  readonly executor?: string;
  readonly errorCode?: string;
  readonly errorMessage?: string;
  /** The transaction that carries the result, once there is one. */
  readonly transactionHash?: Hex;
  /** Milliseconds since the epoch. */
  readonly seenAt: number;
  readonly updatedAt: number;
}

/** What settlement needs of an executed call; light enough to hold thousands. */
export interface PendingResult {
  readonly seq: number;
  readonly origin: ChainCall;
  readonly output: Uint8Array;
}

/** One signed transaction, or one of several versions with the same nonce. */
export interface LedgerTransaction {
  readonly id: number;
  readonly chainId: number;
  readonly account: Address;
  readonly nonce: number;
  readonly hash: Hex;
  /** The signed bytes: what is sent again after a crash. */
  readonly raw: Hex;
  readonly maxFeePerGas: bigint;
  readonly maxPriorityFeePerGas: bigint;
  readonly gas: bigint;
  /** `results` carries results; `cancel` only fills its nonce; `other` is a transaction of the operator (registration, heartbeat). */
  readonly purpose: 'results' | 'cancel' | 'other';
  readonly state: 'pending' | 'mined' | 'reverted' | 'replaced' | 'dropped';
  readonly block?: BlockRef;
  /** `seq` of the calls whose results it carries. */
  readonly calls: readonly number[];
  readonly createdAt: number;
}

export interface NewTransaction {
  readonly account: Address;
  readonly nonce: number;
  readonly hash: Hex;
  readonly raw: Hex;
  readonly maxFeePerGas: bigint;
  readonly maxPriorityFeePerGas: bigint;
  readonly gas: bigint;
  readonly purpose: LedgerTransaction['purpose'];
  readonly calls: readonly number[];
}

/** One line of the story of a call, for `bpr why`. */
export interface LedgerEvent {
  readonly at: number;
  readonly kind: string;
  readonly detail: Readonly<Record<string, unknown>>;
}

/** `completed`: new, and closed at once because the contract needs no result of it. */
export type SeenOutcome = 'new' | 'known' | 'restored' | 'completed';

export interface LedgerStats {
  readonly byState: Readonly<Record<CallState, number>>;
  readonly transactionsPending: number;
  readonly bytes: number;
}

export interface Ledger {
  /** Where the last run stopped. */
  cursor(chainId: number, contract: Address): Cursor | undefined;

  /**
   * Journals calls of the chain together with the new cursor, in one transaction. Idempotent: a call is known by (chain, contract,
   * service, call id, job, caller, hash of inputs). A known call whose block changed gets the new block; an orphaned one comes back with the
   * state it had (`restored`), or, when the contract had ended it, with the one before: the contract is asked again. A new one
   * at whose place `completed` is true is closed: it is never executed.
   */
  recordSeen(calls: readonly ChainCall[], cursor: Cursor, completed?: readonly boolean[]): Promise<SeenOutcome[]>;

  /** Journals a call that some other producer made; false when its id is known already. */
  recordProduced(call: JobCall): Promise<boolean>;

  /**
   * The chain left its old branch: calls above `ancestor` become orphaned unless they are final. The cursor goes back to
   * `ancestor` in the same transaction. Resolves with the orphaned calls' `seq`.
   */
  recordReorg(cursor: Cursor): Promise<number[]>;

  /** One call turned out not to be on the canonical chain any more. */
  recordOrphaned(seq: number, reason: string): Promise<void>;

  /** The next calls to execute, of one job or of all, in arrival order, after `afterSeq`. Reads only. At most `limit`. */
  waiting(afterSeq: number, limit: number, jobId?: bigint): CallRecord[];

  recordAttempt(seq: number, attempt: { readonly number: number; readonly executor: string; readonly reason?: string }): Promise<void>;
  recordAttemptFailed(
    seq: number,
    attempt: { readonly number: number; readonly code: string; readonly message: string; readonly nextAt?: number },
  ): Promise<void>;
  /**
   * Before anything is executed: attempts of this executor that were under way when the last process ended without `recordStopping` are noted.
   * Resolves with how often that happened to each open call since somebody asked for another try of it.
   */
  recordCrashes(executor: string): Promise<ReadonlyMap<number, number>>;
  /** The process is about to end, and not because of a call that is being executed. */
  recordStopping(): Promise<void>;
  /**
   * The result is durable: from here on the call is never executed again. Without a result the call is `ignored`. Resolves false,
   * and changes nothing, when the call was orphaned meanwhile.
   */
  recordExecuted(
    seq: number,
    result: JobResult | undefined,
    detail: { readonly executor: string; readonly durationMs: number },
  ): Promise<boolean>;
  recordFailed(seq: number, error: { readonly code: string; readonly message: string }): Promise<void>;
  recordIgnored(seq: number, reason: { readonly code: string; readonly message: string }): Promise<void>;
  /** An operator asks for another try of a call that is `failed`, `rejected`, or `ignored` without having run. False when it is in another state. */
  retry(seq: number): Promise<boolean>;

  /** Executed calls that wait for settlement, whose event is in block `throughBlock` or before; in arrival order. Reads only. */
  settleable(throughBlock: bigint, limit: number): PendingResult[];
  /**
   * A signed transaction, before it is sent. Its calls go to `submitted`. With `replaces` the earlier version of the same nonce
   * stays known: whichever is mined counts.
   */
  recordTransaction(chainId: number, transaction: NewTransaction): Promise<LedgerTransaction>;
  /** All versions of all nonces that are not settled yet, in nonce order. */
  pendingTransactions(chainId: number, account: Address): LedgerTransaction[];
  /** The transaction is in a block. Its calls go to `mined` (success) or back to `executed` (reverted); other versions of its nonce become `replaced`. */
  recordMined(
    id: number,
    outcome: { readonly block: BlockRef; readonly success: boolean; readonly gasUsed: bigint; readonly effectiveGasPrice: bigint },
  ): Promise<void>;
  /** Its block left the chain: back to `pending`, its calls back to `submitted`. */
  recordUnmined(id: number): Promise<void>;
  /** The nonce was used by something else: its calls go back to `executed`. */
  recordDropped(id: number, reason: string): Promise<void>;
  /** Mined transactions that are not final. */
  minedTransactions(chainId: number, account: Address): LedgerTransaction[];
  /** Everything mined at or below this block is final. */
  recordFinal(chainId: number, throughBlock: bigint): Promise<number>;
  recordRejected(seq: number, reason: { readonly code: string; readonly message: string }): Promise<void>;
  /** A benign end: the contract needs no result of ours. */
  recordClosed(seq: number, reason: string): Promise<void>;

  get(seq: number): CallRecord | undefined;
  find(filter: {
    readonly callId?: bigint;
    readonly serviceId?: bigint;
    readonly id?: string;
    readonly jobId?: bigint;
    readonly states?: readonly CallState[];
    /** Seen at this time or later, milliseconds since the epoch. */
    readonly seenSince?: number;
    readonly limit?: number;
    /** Default: in order of arrival. */
    readonly newestFirst?: boolean;
  }): CallRecord[];
  events(seq: number): LedgerEvent[];
  transactionsOf(seq: number): LedgerTransaction[];
  stats(): LedgerStats;
  /** Small durable values of other rooms (blocks read lately, last heartbeat). */
  getValue(name: string): string | undefined;
  setValue(name: string, value: string): Promise<void>;

  /**
   * Removes what ended longer than `olderThanMs` ago and is in no transaction in flight, some at a time, and gives the space back. Resolves with
   * the number of removed calls: fewer than there were when the ledger is closed meanwhile.
   */
  compact(olderThanMs: number): Promise<number>;
  /** Waits for what is being written, then closes the file. Idempotent. */
  close(): Promise<void>;
}
