/**
 * One account: which nonce is next, and the way of a transaction from signing over the journal to the node.
 *
 * Every signed transaction is in the journal before it is sent. The lane keeps no plan of its own: what it does next follows from the
 * journal and from what the chain shows, so a restarted runner does the same as one that never stopped. `lane-keeper` brings on what
 * was sent.
 */

import type { Clock } from '../clock.ts';
import { RunnerError, isRunnerError, toRunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import type { BlockRef, CallState, LedgerTransaction, NewTransaction } from '../ledger/ledger.ts';
import type { Logger } from '../telemetry/telemetry.ts';
import type { Receipt, SendOutcome, SettlementChain, SettlementLedger, Signer, TransactionRequest } from './chain.ts';
import type { FeePolicy, Fees } from './fees.ts';
import { bumpedFees, firstFees } from './fees.ts';
import { isRefusal } from './rpc-answers.ts';
import { transactionHash } from './signed-transaction.ts';

export type LaneEvent =
  | {
      readonly type: 'submitted';
      readonly hash: Hex;
      readonly nonce: number;
      readonly purpose: LedgerTransaction['purpose'];
      readonly calls: readonly number[];
    }
  | {
      readonly type: 'mined';
      readonly hash: Hex;
      readonly nonce: number;
      readonly purpose: LedgerTransaction['purpose'];
      readonly calls: readonly number[];
      /** Without success it reverted, and its calls wait for another try. */
      readonly receipt: Receipt;
      /** From the first signature to the look that found the receipt. */
      readonly waitedMs: number;
    }
  | { readonly type: 'final'; readonly calls: readonly number[]; readonly throughBlock: bigint }
  /** A new version of the same nonce, that offers more or carries other calls. */
  | {
      readonly type: 'bumped';
      readonly hash: Hex;
      readonly nonce: number;
      readonly calls: readonly number[];
      readonly maxFeePerGas: bigint;
    }
  /**
   * - `resent`: a node did not know the transaction any more
   * - `filled`: a nonce that nothing used was filled
   * - `dropped`: something else used the nonce, or it is far above the next one; the calls wait for another transaction
   * - `unmined`: the block of the transaction left the chain
   * - `refused`: nodes will not take the transaction; its nonce is used for nothing, and the calls wait for another one
   */
  | {
      readonly type: 'healed';
      readonly how: 'resent' | 'filled' | 'dropped' | 'unmined' | 'refused';
      readonly nonce: number;
      readonly calls: readonly number[];
    }
  /** A call turned out not to be on the chain any more. */
  | { readonly type: 'orphaned'; readonly seq: number }
  /** Nothing goes on until somebody acts; said once per change. */
  | { readonly type: 'stalled'; readonly error: RunnerError };

export interface LaneOptions {
  readonly chain: SettlementChain;
  readonly ledger: SettlementLedger;
  readonly signer: Signer;
  readonly clock: Clock;
  readonly log: Logger;
  readonly fees: FeePolicy;
  /** Blocks on top of a transaction before it is final. */
  readonly finality: number;
  /** Nonces in flight. */
  readonly inFlightMax: number;
  /** A transaction that the node does not know is sent again after this. */
  readonly resendAfterMs: number;
  /** A transaction that is known and not mined gets a higher fee after this time and this many blocks. */
  readonly bumpAfterMs: number;
  readonly bumpAfterBlocks: number;
  readonly emit: (event: LaneEvent) => void;
}

/** What is to be signed. */
export interface Draft {
  readonly purpose: LedgerTransaction['purpose'];
  readonly request: TransactionRequest;
  readonly gas: bigint;
  readonly calls: readonly number[];
}

export interface Issued {
  readonly nonce: number;
  readonly journaled: Promise<void>;
}

/** When something was first seen, or last done. */
export interface Sighting {
  readonly head: bigint;
  readonly atMs: number;
}

const UNDERFUNDED_RETRY_MS = 30_000;
const DOUBTS_MAX = 10_000;
/** How often nodes may answer a transaction with an error, one time after the other, before it is given up. */
const REFUSALS_MAX = 8;

export class NonceLane {
  readonly options: LaneOptions;
  /** Lower case. */
  readonly address: Address;
  readonly #reserved = new Set<number>();
  readonly #sending = new Set<Promise<void>>();
  readonly #sent = new Map<number, Sighting & { readonly lastMs: number }>();
  readonly #outbid = new Set<number>();
  readonly #refusals = new Map<number, number>();
  readonly #doubts = new Map<number, { readonly head: Hex; readonly heads: number }>();
  /** Why nothing goes on. */
  readonly #stalls = new Map<string, RunnerError>();
  #cappedNonce: number | undefined;
  #head: BlockRef | undefined;
  #usedBelow = 0;
  #pending: readonly LedgerTransaction[] | undefined;
  #mined: readonly LedgerTransaction[] | undefined;
  #lastError: RunnerError | undefined;

  constructor(options: LaneOptions) {
    this.options = options;
    this.address = options.signer.address.toLowerCase() as Address; // still the 0x form
  }

  get head(): BlockRef | undefined {
    return this.#head;
  }

  /** False until the chain has said which one it is: before, nothing is known of what is in flight. */
  get knowsChain(): boolean {
    try {
      return this.options.chain.chainId >= 0;
    } catch (thrown) {
      if (isRunnerError(thrown) && thrown.code === 'STATE_INVALID') return false;
      throw thrown;
    }
  }

  get lastError(): RunnerError | undefined {
    return [...this.#stalls.values()].at(-1) ?? this.#lastError;
  }

  get underfunded(): boolean {
    return this.#stalls.has('TX_UNDERFUNDED');
  }

  /** All versions of all nonces in flight, in nonce order, oldest version first. */
  pending(): readonly LedgerTransaction[] {
    if (!this.#pending && !this.knowsChain) return [];
    this.#pending ??= this.options.ledger
      .pendingTransactions(this.options.chain.chainId, this.address)
      .toSorted((a, b) => a.nonce - b.nonce || a.id - b.id);
    return this.#pending;
  }

  /** Mined, not final. */
  mined(): readonly LedgerTransaction[] {
    this.#mined ??= this.options.ledger.minedTransactions(this.options.chain.chainId, this.address);
    return this.#mined;
  }

  /** The journal was changed: what was read of it is old. */
  reread(): void {
    this.#pending = undefined;
    this.#mined = undefined;
  }

  /** Nonces in flight. */
  inFlight(): number {
    return new Set(this.pending().map((version) => version.nonce)).size;
  }

  /** How many fresh nonces may be used now. */
  slots(): number {
    return this.underfunded ? 0 : Math.max(0, this.options.inFlightMax - this.inFlight());
  }

  /** The lowest nonce that nothing uses. */
  nextNonce(): number {
    const taken = new Set([...this.pending(), ...this.mined()].map((version) => version.nonce));
    let nonce = this.#usedBelow;
    while (taken.has(nonce) || this.#reserved.has(nonce)) nonce += 1;
    return nonce;
  }

  /** The chain as it is now. An endpoint that lags must not make us use a nonce again: only a reorg lets the count go down. */
  observe(head: BlockRef, usedBelow: number, reorganised: boolean): void {
    this.#head = head;
    this.#usedBelow = reorganised ? usedBelow : Math.max(this.#usedBelow, usedBelow);
  }

  /**
   * Which of these calls are on the canonical chain now, with these inputs. One that is not, at two heads or more and although another
   * block stands deep in the place of its own, is orphaned.
   */
  async confirm(calls: readonly { readonly seq: number; readonly origin: ChainCall }[]): Promise<Set<number>> {
    if (calls.length === 0) return new Set();
    const answers = await this.options.chain.confirm(calls.map((call) => call.origin));
    const confirmed = new Set<number>();
    for (const [index, call] of calls.entries()) {
      if (answers[index] === true) {
        confirmed.add(call.seq);
        this.#doubts.delete(call.seq);
      } else await this.#doubt(call.seq, call.origin);
    }
    return confirmed;
  }

  /** Fees for a fresh transaction, or for another version of one; undefined, and said once, when the cap forbids them. */
  async fees(previous?: LedgerTransaction): Promise<Fees | undefined> {
    const { chain, fees: policy } = this.options;
    const estimate = await chain.fees();
    const key = `TX_FEE_CAPPED ${previous ? 'bump' : 'first'}`;
    const fees = previous ? bumpedFees(previous, estimate, policy) : firstFees(estimate, policy);
    if (fees) this.#stalls.delete(key);
    else {
      const message = `the chain asks ${estimate.baseFeePerGas + estimate.maxPriorityFeePerGas} wei per gas; ${previous ? 'a replacement would have to offer more than' : 'that is above'} the cap of ${policy.maxFeePerGasCap}`;
      if (previous) this.#cappedNonce = previous.nonce;
      this.stall(key, new RunnerError('TX_FEE_CAPPED', message, { details: { cap: String(policy.maxFeePerGasCap) } }));
    }
    return fees;
  }

  /**
   * Signs with the next free nonce, or a given one. `journaled` rejects when the journal refuses; from then on it is on its way: what could not be
   * sent is the keeper's. Undefined: a call of it is not executed any more (the chain left it meanwhile).
   */
  async issue(draft: Draft, fees: Fees, nonce = this.nextNonce()): Promise<Issued | undefined> {
    const signed = await this.#sign(draft, nonce, fees);
    if (!this.#callsAre('executed', draft.calls)) return undefined;
    const journaled = this.#journal(signed).then((version) => {
      const sending = this.send(version).finally(() => this.#sending.delete(sending));
      this.#sending.add(sending);
    });
    journaled.catch(() => undefined); // the caller looks at it later
    return { nonce, journaled };
  }

  /** Another version of a nonce, journaled and sent. Undefined as for `issue`. */
  async reissue(draft: Draft, nonce: number, fees: Fees): Promise<LedgerTransaction | undefined> {
    const signed = await this.#sign(draft, nonce, fees);
    if (!this.#callsAre('submitted', draft.calls)) return undefined;
    const version = await this.#journal(signed);
    await this.send(version);
    return version;
  }

  /** Resolves when nothing is being sent any more. */
  async quiet(): Promise<void> {
    await Promise.all(this.#sending);
  }

  /** Gives a journaled transaction to the node. Transport failures are noted: the keeper sends again. */
  async send(version: LedgerTransaction): Promise<void> {
    const { chain, clock, log } = this.options;
    const atMs = clock.monotonic();
    const now = { head: this.#head?.number ?? 0n, atMs, lastMs: atMs };
    const before = this.#sent.get(version.id) ?? now;
    this.#sent.set(version.id, now);
    let outcome: SendOutcome;
    try {
      outcome = await chain.send(version.raw);
    } catch (thrown) {
      const error = toRunnerError(thrown, 'RPC_ERROR');
      if (isRefusal(error)) this.#refusals.set(version.id, (this.#refusals.get(version.id) ?? 0) + 1);
      this.note(error);
      return;
    }
    this.#refusals.delete(version.id);
    log.debug('transaction sent', { hash: version.hash, nonce: version.nonce, outcome });
    switch (outcome) {
      case 'sent':
      case 'known':
        this.#stalls.delete('TX_UNDERFUNDED');
        // However often it is sent, it waits since the first time.
        this.#sent.set(version.id, { ...before, lastMs: atMs });
        return;
      case 'nonce-too-low': // its receipt, or the lack of it, will tell by whom the nonce was used
        return;
      case 'underpriced':
      case 'fee-too-low':
        this.#outbid.add(version.nonce);
        return;
      case 'underfunded': {
        const message = `account ${this.address} cannot pay for transaction ${version.hash} (gas ${version.gas} at up to ${version.maxFeePerGas} wei)`;
        const details = { account: this.address, nonce: version.nonce };
        return this.stall('TX_UNDERFUNDED', new RunnerError('TX_UNDERFUNDED', message, { details }));
      }
    }
  }

  /** Since when nodes take this version from this process, and when it was sent last. */
  sentAt(version: LedgerTransaction): (Sighting & { readonly lastMs: number }) | undefined {
    return this.#sent.get(version.id);
  }

  /** How long a node may not know a transaction before it is sent again. */
  resendAfterMs(): number {
    return this.underfunded ? Math.max(UNDERFUNDED_RETRY_MS, this.options.resendAfterMs) : this.options.resendAfterMs;
  }

  /** A node refused the newest version of this nonce because of its fee. */
  isOutbid(nonce: number): boolean {
    return this.#outbid.has(nonce);
  }

  /** Nodes answer this version with an error again and again. */
  isRefused(version: LedgerTransaction): boolean {
    return (this.#refusals.get(version.id) ?? 0) >= REFUSALS_MAX;
  }

  /** Drops what is remembered of transactions that are no longer in flight. */
  forget(): void {
    const ids = new Set(this.pending().map((version) => version.id));
    const nonces = new Set(this.pending().map((version) => version.nonce));
    for (const remembered of [this.#sent, this.#refusals]) for (const id of remembered.keys()) if (!ids.has(id)) remembered.delete(id);
    for (const nonce of this.#outbid) if (!nonces.has(nonce)) this.#outbid.delete(nonce);
    if (this.#doubts.size > DOUBTS_MAX) this.#doubts.clear();
    if (nonces.size === 0) this.#stalls.delete('TX_UNDERFUNDED'); // what could not be paid is gone
    if (this.#cappedNonce !== undefined && !nonces.has(this.#cappedNonce)) this.#stalls.delete('TX_FEE_CAPPED bump');
  }

  /** Says once why nothing goes on, until `unstall` takes it back. */
  stall(key: string, error: RunnerError): void {
    if (this.#stalls.has(key)) return;
    this.#stalls.set(key, error);
    this.options.emit({ type: 'stalled', error });
  }

  unstall(key: string): void {
    this.#stalls.delete(key);
  }

  note(error: RunnerError | undefined): void {
    this.#lastError = error;
    if (error) this.options.log.warn('settlement is held up', { code: error.code, reason: error.message });
  }

  async #sign(draft: Draft, nonce: number, fees: Fees): Promise<NewTransaction> {
    const { chain, signer } = this.options;
    const { to, data, value = 0n } = draft.request;
    const raw = await signer.signTransaction({ type: 'eip1559', chainId: chain.chainId, nonce, to, data, value, gas: draft.gas, ...fees });
    return {
      account: this.address,
      nonce,
      hash: transactionHash(raw),
      raw,
      ...fees,
      gas: draft.gas,
      purpose: draft.purpose,
      calls: draft.calls,
    };
  }

  /** The journal may have learned of a reorg while the transaction was signed. */
  #callsAre(state: CallState, calls: readonly number[]): boolean {
    return calls.every((seq) => this.options.ledger.get(seq)?.state === state);
  }

  async #journal(signed: NewTransaction): Promise<LedgerTransaction> {
    const { chain, ledger, emit } = this.options;
    this.#reserved.add(signed.nonce);
    try {
      const version = await ledger.recordTransaction(chain.chainId, signed);
      const { id, hash, nonce, purpose, calls } = version;
      // Whoever read the journal meanwhile has it already.
      if (this.#pending?.every((other) => other.id !== id))
        this.#pending = this.#pending.toSpliced(this.#pending.findLastIndex((other) => other.nonce <= nonce) + 1, 0, version);
      this.#outbid.delete(nonce);
      emit({ type: 'submitted', hash, nonce, purpose, calls });
      return version;
    } finally {
      this.#reserved.delete(signed.nonce);
    }
  }

  async #doubt(seq: number, { blockNumber, blockHash }: ChainCall): Promise<void> {
    const head = this.#head;
    if (!head) return;
    const before = this.#doubts.get(seq);
    const heads = before?.head === head.hash ? before.heads : (before?.heads ?? 0) + 1;
    this.#doubts.set(seq, { head: head.hash, heads });
    if (heads < 2 || head.number - blockNumber < BigInt(this.options.finality)) return;
    const standing = await this.options.chain.blockHash(blockNumber);
    // Nothing leaves a block: who has it without the log, or has no block there at all, shows half of the chain.
    if (standing === undefined || standing === blockHash)
      return this.note(new RunnerError('RPC_RESPONSE_INVALID', `block ${blockNumber} ${blockHash} is shown without call ${seq}`));
    this.#doubts.delete(seq);
    await this.options.ledger.recordOrphaned(seq, `its log is not in block ${blockNumber} ${blockHash} any more`);
    this.options.emit({ type: 'orphaned', seq });
  }
}
