/** What the runner needs of a chain. `rpc` is the real one, `mock` a scriptable one that never settles anything real. */

import type { RunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import type { BlockRef, Cursor, Ledger } from '../ledger/ledger.ts';

/** One JSON-RPC request; rejects with the `RPC_*` codes. */
export type RpcRequest = (method: string, params: readonly unknown[]) => Promise<unknown>;

/** What happened on the chain, in order. */
export type ChainUpdate =
  /** All job calls of the followed services up to and including `cursor.block`; may be empty. */
  | { readonly type: 'calls'; readonly calls: readonly ChainCall[]; readonly cursor: Cursor }
  /** Blocks after `cursor.block` left the chain; what they held will come again if it is mined again. */
  | { readonly type: 'reorg'; readonly cursor: Cursor; readonly depth: number }
  /** A new head. Confirmations are counted from it. */
  | { readonly type: 'head'; readonly block: BlockRef; readonly timestamp: bigint };

export interface FollowOptions {
  /** Go on after this point; without it, at `fromBlock`. */
  readonly cursor?: Cursor;
  /** Where to begin without a cursor; default: the head. */
  readonly fromBlock?: bigint;
  /** Only calls of these services; empty or absent: of all. */
  readonly serviceIds?: readonly bigint[];
  /** A log was passed over (`LOG_MALFORMED`), or the chain could not be read several times in a row; reading goes on. */
  readonly onProblem?: (error: RunnerError) => void;
  readonly signal: AbortSignal;
}

/** The content of submitResults for one service. */
export interface ResultBatch {
  readonly serviceId: bigint;
  readonly callIds: readonly bigint[];
  readonly results: readonly Uint8Array[];
}

/** What a transaction would do if it were mined now. */
export type Simulation =
  | { readonly outcome: 'ok'; readonly gas: bigint }
  /** `callId` when the contract names the call that is to blame. */
  | { readonly outcome: 'revert'; readonly error: string; readonly args: readonly unknown[]; readonly callId?: bigint; readonly data: Hex };

export interface TransactionRequest {
  readonly to: Address;
  readonly data: Hex;
  readonly value?: bigint;
}

export interface FeeEstimate {
  readonly baseFeePerGas: bigint;
  readonly maxPriorityFeePerGas: bigint;
}

export interface Receipt {
  readonly transactionHash: Hex;
  readonly block: BlockRef;
  readonly success: boolean;
  readonly gasUsed: bigint;
  readonly effectiveGasPrice: bigint;
}

/** `known`: the node has it already. `nonce-too-low`: something with this nonce is mined. The others are what they say. */
export type SendOutcome = 'sent' | 'known' | 'nonce-too-low' | 'underpriced' | 'underfunded' | 'fee-too-low';

/**
 * The part of a chain that settlement uses. Everything is a read but `send`. Transport failures reject with `RPC_UNREACHABLE`,
 * `RPC_RATE_LIMITED`, `RPC_ERROR` or `RPC_RESPONSE_INVALID`.
 */
export interface SettlementChain {
  readonly source: 'rpc' | 'mock';
  /** Throws `STATE_INVALID` before it is known: from the first answer of the chain on it is. */
  readonly chainId: number;
  readonly contract: Address;
  head(): Promise<BlockRef & { readonly timestamp: bigint }>;
  /**
   * For each call: is its event, with these inputs and this caller, on the canonical chain now, in the block it names? One round trip for many calls.
   */
  confirm(calls: readonly ChainCall[]): Promise<boolean[]>;
  encodeResults(batch: ResultBatch): TransactionRequest;
  /** At the latest block. With `gas` it may be enough to find that this much gas suffices: then that is the answer. */
  simulate(from: Address, request: TransactionRequest, gas?: bigint): Promise<Simulation>;
  /** Transactions of the account that are mined (`latest`) or known to the node (`pending`). */
  nonce(account: Address, tag: 'latest' | 'pending'): Promise<number>;
  fees(): Promise<FeeEstimate>;
  send(raw: Hex): Promise<SendOutcome>;
  /** Undefined where a transaction is not mined. One round trip. */
  receipts(hashes: readonly Hex[]): Promise<(Receipt | undefined)[]>;
  /** Undefined when there is no such block. */
  blockHash(number: bigint): Promise<Hex | undefined>;
}

/** The part of the ledger that settlement uses. */
export type SettlementLedger = Pick<
  Ledger,
  | 'settleable'
  | 'recordTransaction'
  | 'pendingTransactions'
  | 'minedTransactions'
  | 'recordMined'
  | 'recordUnmined'
  | 'recordDropped'
  | 'recordFinal'
  | 'recordOrphaned'
  | 'recordRejected'
  | 'recordClosed'
  | 'get'
  | 'transactionsOf'
>;

/** Signs for one account. viem's local accounts have this shape. */
export interface Signer {
  readonly address: Address;
  signTransaction(transaction: {
    readonly type: 'eip1559';
    readonly chainId: number;
    readonly nonce: number;
    readonly to: Address;
    readonly data: Hex;
    readonly value: bigint;
    readonly gas: bigint;
    readonly maxFeePerGas: bigint;
    readonly maxPriorityFeePerGas: bigint;
  }): Promise<Hex>;
}

/**
 * Sends transactions of the operator itself (registration, heartbeat) through the same nonce lane as the results. Resolves when
 * the transaction is mined with success; rejects with `RESULT_REJECTED` and the reason of the contract when it would revert.
 */
export interface TransactionSender {
  readonly address: Address;
  send(request: TransactionRequest, options?: { readonly signal?: AbortSignal }): Promise<Receipt>;
}

/** How long a job takes and what it needs, as its author measured it. */
export interface JobProfile {
  readonly avgDurationMs: number;
  readonly p95DurationMs?: number;
  readonly peakMemoryMb: number;
  readonly stateful: boolean;
  readonly persistentConnections: boolean;
}

export interface JobDefinition {
  readonly index: number;
  /** Empty when only the view was readable: names are in the recorded event alone. */
  readonly name: string;
  readonly description: string;
  readonly metadataUri: string;
  /** Empty: the job has no schema, its arguments are ABI-encoded. Otherwise they are in the compact encoding. */
  readonly paramsSchema: Uint8Array;
  readonly resultSchema: Uint8Array;
  readonly profile?: JobProfile;
}

export interface BlueprintMetadata {
  readonly blueprintId: bigint;
  /** `mock` values are made up and never settle anything. */
  readonly source: 'chain' | 'mock';
  /** Whether the full definition was read from the recorded event and its hash verified. */
  readonly verified: boolean;
  readonly name: string;
  readonly description: string;
  readonly metadataUri: string;
  readonly manager: Address;
  readonly owner: Address;
  readonly jobs: readonly JobDefinition[];
  readonly confidentiality?: string;
  /** What could not be read or verified; the rest is usable. Absent: nothing. */
  readonly problems?: readonly RunnerError[];
}

export interface ServiceState {
  readonly serviceId: bigint;
  readonly blueprintId: bigint;
  readonly owner: Address;
  readonly status: 'pending' | 'active' | 'terminated' | 'expired';
  /** Seconds since the epoch. */
  readonly createdAt: bigint;
  /** Seconds; 0: for ever. */
  readonly ttl: bigint;
  readonly operators: readonly Address[];
}

export interface OperatorState {
  readonly address: Address;
  readonly registered: boolean;
  readonly rpcAddress?: string;
}

export interface ChainClient extends SettlementChain {
  /** Follows the chain until the signal fires; reconnects by itself and never ends otherwise. */
  follow(options: FollowOptions): AsyncIterable<ChainUpdate>;
  blueprint(blueprintId: bigint): Promise<BlueprintMetadata>;
  service(serviceId: bigint): Promise<ServiceState>;
  operator(blueprintId: bigint, address: Address): Promise<OperatorState>;
  /**
   * For each call: did it have all results that the contract asks for when `block` was the latest? Never true of one that had not; may be false of
   * one that had. Few round trips for many calls.
   */
  completed(calls: readonly ChainCall[], block: bigint): Promise<boolean[]>;
  close(): Promise<void>;
}
