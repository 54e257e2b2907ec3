/** What a transaction does on the mock chain: accounts with nonces and money, and the job contract. */

import type { Address } from '../job/call.ts';
import type { TransactionRequest } from './chain.ts';
import type { Executed, UndoLog } from './mock-contract.ts';
import { MockContract } from './mock-contract.ts';
import type { AccountTransaction, PoolTransaction, ScriptAction } from './mock-pool.ts';

const TRANSFER_GAS = 21_000n;
/** Contracts other than the job contract are not imitated: they take everything. Measured for a heartbeat. */
const FOREIGN_GAS = 232_000n;

export class MockMachine {
  readonly job: MockContract;
  readonly #undo: UndoLog;
  readonly #balance: bigint;
  readonly #nonces = new Map<Address, number>();
  readonly #spent = new Map<Address, bigint>();
  readonly #deposits = new Map<Address, bigint>();

  constructor(options: { readonly contract: Address; readonly undo: UndoLog; readonly balance: bigint }) {
    this.job = new MockContract(options.contract, options.undo);
    this.#undo = options.undo;
    this.#balance = options.balance;
  }

  nonce(account: Address): number {
    return this.#nonces.get(account) ?? 0;
  }

  balance(account: Address): bigint {
    return (this.#deposits.get(account) ?? this.#balance) - (this.#spent.get(account) ?? 0n);
  }

  setBalance(account: Address, wei: bigint): void {
    this.#deposits.set(account, wei + (this.#spent.get(account) ?? 0n));
  }

  run(
    transaction: PoolTransaction,
    block: { readonly now: bigint; readonly baseFeePerGas: bigint },
  ): { readonly executed: Executed; readonly effectiveGasPrice: bigint } {
    if (transaction.kind === 'script')
      return { executed: this.#runScript(transaction.action, block.now), effectiveGasPrice: block.baseFeePerGas };
    const effectiveGasPrice = priceOf(transaction, block.baseFeePerGas);
    return { executed: this.#runPaid(transaction, block.now, effectiveGasPrice), effectiveGasPrice };
  }

  /** The effect alone, without nonce and fee. */
  call(from: Address, request: TransactionRequest, now: bigint): Executed {
    if (request.to.toLowerCase() === this.job.address) return this.job.execute(from, request.data, now);
    return { gas: request.data === '0x' ? TRANSFER_GAS : FOREIGN_GAS, calls: [], results: [] };
  }

  #runScript(action: ScriptAction, now: bigint): Executed {
    switch (action.kind) {
      case 'job':
        return this.job.submitJob(action.job, now);
      case 'result':
        return this.job.submitResults([action.result], now);
      case 'terminate':
        return this.job.terminateService(action.serviceId);
    }
  }

  /** Takes the nonce and the gas whatever the transaction does. */
  #runPaid(transaction: AccountTransaction, now: bigint, price: bigint): Executed {
    const mark = this.#undo.mark();
    let executed = this.call(transaction.from, transaction, now);
    if (executed.gas > transaction.gas) {
      this.#undo.rewind(mark);
      executed = { gas: transaction.gas, revert: { error: '', args: [] }, calls: [], results: [] };
    }
    this.#undo.set(this.#nonces, transaction.from, transaction.nonce + 1);
    const cost = executed.gas * price + (executed.revert ? 0n : transaction.value);
    this.#undo.set(this.#spent, transaction.from, (this.#spent.get(transaction.from) ?? 0n) + cost);
    return executed;
  }
}

function priceOf(transaction: AccountTransaction, baseFeePerGas: bigint): bigint {
  const offered = baseFeePerGas + transaction.maxPriorityFeePerGas;
  return offered < transaction.maxFeePerGas ? offered : transaction.maxFeePerGas;
}
