/** A chain in memory: blocks, a transaction pool, reorgs, and the job contract. Its script is the test. */

import { hash as digest } from 'node:crypto';
import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import type { BlockRef } from '../ledger/ledger.ts';
import type { BlockSite, MockBlock, MockResult } from './mock-block.ts';
import { BlockBuilder } from './mock-block.ts';
import type { Receipt, SendOutcome, Simulation, TransactionRequest } from './chain.ts';
import { decodeRevert } from './contracts.ts';
import type { JobSubmission, MockService, RefuseResult, ResultSubmission } from './mock-contract.ts';
import { encodeRevert, UndoLog } from './mock-contract.ts';
import { MockMachine } from './mock-machine.ts';
import type { AccountTransaction, PoolTransaction, ScriptAction } from './mock-pool.ts';
import { MockPool } from './mock-pool.ts';
import { decodeTransaction } from './mock-transaction.ts';

export interface MockChainOptions {
  readonly clock: Clock;
  /** Default 31337. */
  readonly chainId?: number;
  readonly contract?: Address;
  /** Wei per gas. Default 1 gwei. */
  readonly baseFeePerGas?: bigint;
  /** Default 30 million. */
  readonly blockGasLimit?: bigint;
  /** What every account owns at the start, wei. Default 10000 ether. */
  readonly balance?: bigint;
}

export type MockChainEvent =
  | { readonly type: 'block'; readonly block: MockBlock }
  | { readonly type: 'reorg'; readonly ancestor: BlockRef; readonly depth: number };

export interface ReorgOptions {
  /**
   * Which transactions of the blocks that leave are forgotten; default: none. The others go back to the pool and are mined again, behind
   * `replaceWith`, where their calls can get other ids.
   */
  readonly dropTransactions?: boolean | ((transaction: { readonly hash: Hex; readonly from: Address }) => boolean);
  /** Job calls that come first in the new branch. */
  readonly replaceWith?: readonly JobSubmission[];
  /** New blocks; default: as many as leave. */
  readonly blocks?: number;
}

interface Sealed {
  readonly block: MockBlock;
  readonly undoMark: number;
  readonly transactions: readonly PoolTransaction[];
}

const NO_HASH: Hex = `0x${'0'.repeat(64)}`;
const CONTRACT: Address = '0x6d6f636b00000000000000000000000000000001';
const CALLER: Address = '0x6d6f636b000000000000000000000000000ca11e';

/**
 * A deterministic chain with the job contract on it. It is moved by its script alone: nothing is mined unless `mine` is called.
 *
 * It never touches a network and settles nothing real; every client of it says `source: 'mock'`.
 *
 * @example
 * const chain = new MockChain({ clock });
 * const { serviceId } = chain.addService({ operators: [operator] });
 * chain.submitJob({ serviceId, jobIndex: 0, inputs });
 * chain.mine();
 */
export class MockChain {
  readonly chainId: number;
  readonly contract: Address;
  readonly #clock: Clock;
  readonly #blockGasLimit: bigint;
  readonly #undo = new UndoLog();
  readonly #machine: MockMachine;
  readonly #pool = new MockPool();
  readonly #sealed: Sealed[] = [];
  readonly #byHash = new Map<Hex, MockBlock>();
  readonly #receipts = new Map<Hex, Receipt>();
  readonly #callByKey = new Map<string, ChainCall>();
  readonly #listeners = new Set<(event: MockChainEvent) => void>();
  #baseFeePerGas: bigint;
  #sealCount = 0;
  #scriptCount = 0;

  constructor(options: MockChainOptions) {
    this.chainId = options.chainId ?? 31_337;
    this.contract = (options.contract ?? CONTRACT).toLowerCase() as Address; // stays hexadecimal
    this.#clock = options.clock;
    this.#baseFeePerGas = options.baseFeePerGas ?? 1_000_000_000n;
    this.#blockGasLimit = options.blockGasLimit ?? 30_000_000n;
    this.#machine = new MockMachine({ contract: this.contract, undo: this.#undo, balance: options.balance ?? 10_000n * 10n ** 18n });
    this.#seal([]);
  }

  /** A service; default: the next free id, blueprint 0, one result completes a call, no end, open to every caller. */
  addService(service: Partial<MockService> & { readonly operators: readonly Address[] }): MockService {
    const ids = this.#machine.job.serviceIds();
    const complete: MockService = {
      serviceId: ids.reduce((next, id) => (id >= next ? id + 1n : next), 0n),
      blueprintId: 0n,
      owner: CALLER,
      requiredResults: 1,
      ttl: 0n,
      ...service,
    };
    this.#machine.job.addService(complete, this.head.timestamp);
    return complete;
  }

  /** A job call, in the next block. Resolves nothing by itself: the call id is known once it is mined (`callOf`). */
  submitJob(job: JobSubmission): Hex {
    return this.#script({ kind: 'job', job: { ...job, caller: job.caller ?? CALLER } });
  }

  /** A result of another operator, in the next block. */
  submitResult(result: ResultSubmission): Hex {
    return this.#script({ kind: 'result', result });
  }

  terminateService(serviceId: bigint): Hex {
    return this.#script({ kind: 'terminate', serviceId });
  }

  /** From now on the contract refuses the results for which this says why: poison calls. */
  refuseResults(rule: RefuseResult | undefined): void {
    this.#machine.job.refuse = rule;
  }

  /** From now on the contract takes nothing from anybody. */
  setPaused(paused: boolean): void {
    this.#machine.job.paused = paused;
  }

  /** Wei per gas from the next block on. */
  setBaseFee(baseFeePerGas: bigint): void {
    this.#baseFeePerGas = baseFeePerGas;
  }

  /** What the pool takes at least, wei per gas; default 0. */
  setPoolFloor(maxFeePerGas: bigint): void {
    this.#pool.floor = maxFeePerGas;
  }

  setBalance(account: Address, wei: bigint): void {
    this.#machine.setBalance(lower(account), wei);
  }

  /** Blocks with what the pool holds, as far as it fits. */
  mine(count = 1): BlockRef {
    for (let index = 0; index < count; index += 1) this.#seal(this.#pool.inOrder());
    return this.head;
  }

  /**
   * The last `depth` blocks leave the chain and others take their place. Call ids are given anew.
   *
   * @returns the last block that both branches share.
   */
  reorg(depth: number, options: ReorgOptions = {}): BlockRef {
    const ancestor = this.#unwind(depth, options.dropTransactions ?? false);
    this.#emit({ type: 'reorg', ancestor, depth });
    const replacing: readonly PoolTransaction[] = (options.replaceWith ?? []).map((job) =>
      this.#pool.script(this.#nextScriptHash(), { kind: 'job', job: { ...job, caller: job.caller ?? CALLER } }),
    );
    const blocks = options.blocks ?? depth;
    if (blocks > 0) this.#seal([...replacing, ...this.#pool.inOrder().filter((transaction) => !replacing.includes(transaction))]);
    this.mine(Math.max(0, blocks - 1));
    return ancestor;
  }

  /** The last `depth` blocks leave with all that was in them, and nothing takes their place: the head goes down. */
  rollback(depth: number): BlockRef {
    return this.reorg(depth, { dropTransactions: true, blocks: 0 });
  }

  get head(): MockBlock {
    return this.#at(this.#sealed.length - 1).block;
  }

  /** The block before everything; it holds nothing. */
  get first(): MockBlock {
    return this.#at(0).block;
  }

  get baseFeePerGas(): bigint {
    return this.#baseFeePerGas;
  }

  /** The block at this height of the present branch. */
  block(number: bigint): MockBlock | undefined {
    return number < 0n ? undefined : this.#sealed[Number(number)]?.block;
  }

  /** A block of any branch. */
  blockByHash(hash: Hex): MockBlock | undefined {
    return this.#byHash.get(hash);
  }

  isCanonical(block: BlockRef): boolean {
    return this.block(block.number)?.hash === block.hash;
  }

  /** Job calls of the present branch, in order. */
  calls(): ChainCall[] {
    return this.#sealed.flatMap(({ block }) => block.calls);
  }

  /** The call that a `submitJob` of the present branch became. */
  callOf(transactionHash: Hex): ChainCall | undefined {
    return this.calls().find((call) => call.transactionHash === transactionHash);
  }

  /** Results of the present branch, in order. */
  results(): MockResult[] {
    return this.#sealed.flatMap(({ block }) => block.results);
  }

  service(serviceId: bigint): ReturnType<MockMachine['job']['service']> {
    return this.#machine.job.service(serviceId, this.#now());
  }

  rpcAddressOf(blueprintId: bigint, operator: Address): string | undefined {
    return this.#machine.job.rpcAddressOf(blueprintId, operator);
  }

  nonce(account: Address, tag: 'latest' | 'pending'): number {
    const latest = this.#machine.nonce(lower(account));
    return tag === 'latest' ? latest : this.#pool.nextNonce(lower(account), latest);
  }

  receipt(transactionHash: Hex): Receipt | undefined {
    return this.#receipts.get(transactionHash);
  }

  /** Transactions of an account that wait, in nonce order. */
  pooled(account: Address): readonly AccountTransaction[] {
    return this.#pool.of(lower(account));
  }

  /** What a transaction would do if it were mined now. */
  simulate(from: Address, request: TransactionRequest): Simulation {
    const mark = this.#undo.mark();
    const executed = this.#machine.call(lower(from), request, this.#now());
    this.#undo.rewind(mark);
    const { revert, gas } = executed;
    if (!revert) return { outcome: 'ok', gas };
    const data = encodeRevert(revert);
    const { error, args, callId } = decodeRevert(data);
    return { outcome: 'revert', error, args, data, ...(callId !== undefined && { callId }) };
  }

  /** Takes a raw transaction into the pool, by the rules of a node. Rejects with `RPC_ERROR` when it is none of this chain. */
  async accept(raw: Hex): Promise<SendOutcome> {
    const transaction = await decodeTransaction(raw);
    if (transaction.chainId !== this.chainId)
      throw new RunnerError('RPC_ERROR', `invalid chain id: the transaction is for ${transaction.chainId}, this is ${this.chainId}`);
    if (transaction.gas > this.#blockGasLimit)
      throw new RunnerError('RPC_ERROR', `exceeds block gas limit: ${transaction.gas} > ${this.#blockGasLimit}`);
    if (this.#pool.has(transaction.hash)) return 'known';
    if (transaction.nonce < this.nonce(transaction.from, 'latest')) return 'nonce-too-low';
    if (this.#machine.balance(transaction.from) < transaction.gas * transaction.maxFeePerGas + transaction.value) return 'underfunded';
    return this.#pool.add(transaction);
  }

  /** Calls the listener for every block and reorg until cancelled. */
  onChange(listener: (event: MockChainEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #seal(candidates: readonly PoolTransaction[]): void {
    const undoMark = this.#undo.mark();
    const number = BigInt(this.#sealed.length);
    const parentHash = this.#sealed.at(-1)?.block.hash ?? NO_HASH;
    const timestamp = this.#now();
    this.#sealCount += 1;
    const hash: Hex = `0x${digest('sha256', `${this.chainId}/${parentHash}/${number}/${timestamp}/${this.#sealCount}`)}`;
    const fees = { baseFeePerGas: this.#baseFeePerGas, gasLimit: this.#blockGasLimit };
    const builder = new BlockBuilder({ number, hash, parentHash, timestamp, ...fees }, this.#site());
    const included: PoolTransaction[] = [];
    let waiting = [...candidates];
    // A transaction can make way for one that arrived before it: the nonces of an account need not arrive in order.
    for (let before = -1; before !== included.length;) {
      before = included.length;
      waiting = waiting.filter((transaction) => {
        if (!builder.takes(transaction)) return true;
        this.#undo.set(this.#receipts, transaction.hash, builder.include(transaction));
        included.push(transaction);
        return false;
      });
    }
    this.#pool.remove(included, (account) => this.nonce(account, 'latest'));
    const block = builder.build();
    this.#sealed.push({ block, undoMark, transactions: included });
    this.#byHash.set(hash, block);
    this.#emit({ type: 'block', block });
  }

  #site(): BlockSite {
    return {
      chainId: this.chainId,
      contract: this.contract,
      machine: this.#machine,
      callAt: (serviceId, callId) => this.#callByKey.get(`${serviceId}/${callId}`),
      onCall: (call) => this.#undo.set(this.#callByKey, `${call.serviceId}/${call.callId}`, call),
    };
  }

  #unwind(depth: number, drop: NonNullable<ReorgOptions['dropTransactions']>): BlockRef {
    if (!Number.isInteger(depth) || depth < 1 || depth >= this.#sealed.length) {
      throw new RunnerError(
        'CONFIG_INVALID',
        `a reorg of ${depth} blocks is not possible: the chain has ${this.#sealed.length - 1} above its first`,
      );
    }
    const leaving = this.#sealed.splice(this.#sealed.length - depth);
    const first = leaving[0];
    if (first) this.#undo.rewind(first.undoMark);
    const dropped = typeof drop === 'function' ? drop : () => drop;
    for (const transaction of leaving.flatMap((sealed) => sealed.transactions)) {
      if (!dropped({ hash: transaction.hash, from: transaction.from })) this.#pool.putBack(transaction);
    }
    return { number: this.head.number, hash: this.head.hash };
  }

  #script(action: ScriptAction): Hex {
    return this.#pool.script(this.#nextScriptHash(), action).hash;
  }

  #nextScriptHash(): Hex {
    this.#scriptCount += 1;
    return `0x${digest('sha256', `${this.chainId}/script/${this.#scriptCount}`)}`;
  }

  /** Seconds; never before the head. */
  #now(): bigint {
    const now = BigInt(Math.floor(this.#clock.now() / 1_000));
    const last = this.#sealed.at(-1)?.block.timestamp ?? 0n;
    return now > last ? now : last;
  }

  #at(index: number): Sealed {
    const sealed = this.#sealed[index];
    if (!sealed) throw new RunnerError('INTERNAL', `the mock chain has no block ${index}`);
    return sealed;
  }

  #emit(event: MockChainEvent): void {
    for (const listener of this.#listeners) listener(event);
  }
}

function lower(address: Address): Address {
  return address.toLowerCase() as Address; // stays hexadecimal
}
