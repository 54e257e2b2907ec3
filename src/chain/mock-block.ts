/** One block of the mock chain, while it is made and afterwards. */

import { RunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import type { BlockRef } from '../ledger/ledger.ts';
import type { Receipt } from './chain.ts';
import type { Executed, ResultSubmission } from './mock-contract.ts';
import type { MockMachine } from './mock-machine.ts';
import type { PoolTransaction } from './mock-pool.ts';

export interface MockBlock extends BlockRef {
  readonly parentHash: Hex;
  /** Seconds since the epoch. */
  readonly timestamp: bigint;
  readonly calls: readonly ChainCall[];
  readonly results: readonly MockResult[];
}

/** A result that the contract took. */
export interface MockResult extends ResultSubmission {
  /** The call that it answers. */
  readonly call: ChainCall;
  readonly transactionHash: Hex;
  readonly block: BlockRef;
}

export interface BlockHeader extends BlockRef {
  readonly parentHash: Hex;
  readonly timestamp: bigint;
  readonly baseFeePerGas: bigint;
  readonly gasLimit: bigint;
}

/** What the chain knows besides the block. */
export interface BlockSite {
  readonly chainId: number;
  readonly contract: Address;
  readonly machine: MockMachine;
  readonly callAt: (serviceId: bigint, callId: bigint) => ChainCall | undefined;
  readonly onCall: (call: ChainCall) => void;
}

/** Of a scripted transaction. */
const SCRIPT_GAS = 172_000n;

export class BlockBuilder {
  readonly #header: BlockHeader;
  readonly #site: BlockSite;
  readonly #calls: ChainCall[] = [];
  readonly #results: MockResult[] = [];
  #gasUsed = 0n;

  constructor(header: BlockHeader, site: BlockSite) {
    this.#header = header;
    this.#site = site;
  }

  /** Whether there is room for it, and its account may send it now. */
  takes(transaction: PoolTransaction): boolean {
    const { baseFeePerGas, gasLimit } = this.#header;
    if (transaction.kind === 'script') return this.#gasUsed + SCRIPT_GAS <= gasLimit;
    const { machine } = this.#site;
    const affordable = machine.balance(transaction.from) >= transaction.gas * transaction.maxFeePerGas + transaction.value;
    const isNext = transaction.nonce === machine.nonce(transaction.from);
    return isNext && affordable && transaction.maxFeePerGas >= baseFeePerGas && this.#gasUsed + transaction.gas <= gasLimit;
  }

  include(transaction: PoolTransaction): Receipt {
    const { number, hash, timestamp, baseFeePerGas } = this.#header;
    const { executed, effectiveGasPrice } = this.#site.machine.run(transaction, { now: timestamp, baseFeePerGas });
    this.#gasUsed += executed.gas;
    this.#addCalls(executed, transaction.hash);
    this.#addResults(executed, transaction.hash);
    return {
      transactionHash: transaction.hash,
      block: { number, hash },
      success: !executed.revert,
      gasUsed: executed.gas,
      effectiveGasPrice,
    };
  }

  build(): MockBlock {
    const { number, hash, parentHash, timestamp } = this.#header;
    return { number, hash, parentHash, timestamp, calls: this.#calls, results: this.#results };
  }

  #addCalls(executed: Executed, transactionHash: Hex): void {
    const { chainId, contract, onCall } = this.#site;
    const { number: blockNumber, hash: blockHash, timestamp } = this.#header;
    for (const submitted of executed.calls) {
      const { serviceId, callId, jobIndex, caller, inputs, quotedOperators } = submitted;
      const call: ChainCall = {
        chainId,
        contract,
        serviceId,
        callId,
        jobIndex,
        caller,
        inputs,
        blockNumber,
        blockHash,
        transactionHash,
        logIndex: this.#calls.length + this.#results.length,
        timestamp,
        ...(quotedOperators && { quotedOperators }),
      };
      onCall(call);
      this.#calls.push(call);
    }
  }

  #addResults(executed: Executed, transactionHash: Hex): void {
    const block: BlockRef = { number: this.#header.number, hash: this.#header.hash };
    for (const result of executed.results) {
      const call = this.#site.callAt(result.serviceId, result.callId);
      if (!call) throw new RunnerError('INTERNAL', `the mock contract took a result for call ${result.callId}, which it does not have`);
      this.#results.push({ ...result, call, transactionHash, block });
    }
  }
}
