/** Transactions that wait for the mock chain: one per account and nonce, replaced only by one that offers a tenth more. */

import { RunnerError } from '../errors.ts';
import type { Address, Hex } from '../job/call.ts';
import type { SendOutcome } from './chain.ts';
import type { JobSubmission, ResultSubmission } from './mock-contract.ts';
import type { DecodedTransaction } from './mock-transaction.ts';

/** What the script of a test does on the chain. */
export type ScriptAction =
  | { readonly kind: 'job'; readonly job: JobSubmission & { readonly caller: Address } }
  | { readonly kind: 'result'; readonly result: ResultSubmission }
  | { readonly kind: 'terminate'; readonly serviceId: bigint };

export interface ScriptTransaction {
  readonly kind: 'script';
  readonly hash: Hex;
  readonly from: Address;
  readonly action: ScriptAction;
  /** Arrival. */
  readonly order: number;
}

export interface AccountTransaction extends DecodedTransaction {
  readonly kind: 'account';
  /** Arrival. */
  readonly order: number;
}

export type PoolTransaction = ScriptTransaction | AccountTransaction;

const TRANSACTIONS_MAX = 20_000;
const NOBODY: Address = '0x0000000000000000000000000000000000000000';

export class MockPool {
  /** What a transaction must offer at least, wei per gas. */
  floor = 0n;
  #order = 0;
  readonly #scripts = new Map<Hex, ScriptTransaction>();
  readonly #accounts = new Map<Address, Map<number, AccountTransaction>>();
  readonly #hashes = new Set<Hex>();

  has(hash: Hex): boolean {
    return this.#hashes.has(hash);
  }

  script(hash: Hex, action: ScriptAction): ScriptTransaction {
    this.#checkRoom();
    const transaction: ScriptTransaction = { kind: 'script', hash, from: senderOf(action), action, order: this.#nextOrder() };
    this.#scripts.set(hash, transaction);
    this.#hashes.add(hash);
    return transaction;
  }

  add(transaction: DecodedTransaction): SendOutcome {
    this.#checkRoom();
    if (transaction.maxFeePerGas < this.floor) return 'fee-too-low';
    const before = this.#accounts.get(transaction.from)?.get(transaction.nonce);
    if (before && !outbids(transaction, before)) return 'underpriced';
    this.#place({ ...transaction, kind: 'account', order: this.#nextOrder() });
    return 'sent';
  }

  /** What a reorg takes from its block, with the place in the order that it had. */
  putBack(transaction: PoolTransaction): void {
    if (transaction.kind === 'account') this.#place(transaction);
    else {
      this.#scripts.set(transaction.hash, transaction);
      this.#hashes.add(transaction.hash);
    }
  }

  /** What is mined, and what can never be because its nonce is used. */
  remove(mined: readonly PoolTransaction[], nonceOf: (account: Address) => number): void {
    for (const transaction of mined) {
      if (transaction.kind === 'account') continue;
      this.#scripts.delete(transaction.hash);
      this.#hashes.delete(transaction.hash);
    }
    for (const [account, byNonce] of this.#accounts) {
      const next = nonceOf(account);
      for (const transaction of byNonce.values()) {
        if (transaction.nonce >= next) continue;
        byNonce.delete(transaction.nonce);
        this.#hashes.delete(transaction.hash);
      }
    }
  }

  /** By arrival. */
  inOrder(): PoolTransaction[] {
    const all: PoolTransaction[] = [...this.#scripts.values()];
    for (const byNonce of this.#accounts.values()) all.push(...byNonce.values());
    return all.toSorted((a, b) => a.order - b.order);
  }

  /** By nonce. */
  of(account: Address): AccountTransaction[] {
    return [...(this.#accounts.get(account)?.values() ?? [])].toSorted((a, b) => a.nonce - b.nonce);
  }

  /** The first nonce from `latest` on that nothing here uses. */
  nextNonce(account: Address, latest: number): number {
    const byNonce = this.#accounts.get(account);
    let nonce = latest;
    while (byNonce?.has(nonce)) nonce += 1;
    return nonce;
  }

  #place(transaction: AccountTransaction): void {
    const byNonce = this.#accounts.get(transaction.from) ?? new Map<number, AccountTransaction>();
    this.#accounts.set(transaction.from, byNonce);
    const before = byNonce.get(transaction.nonce);
    if (before) this.#hashes.delete(before.hash);
    byNonce.set(transaction.nonce, transaction);
    this.#hashes.add(transaction.hash);
  }

  #nextOrder(): number {
    this.#order += 1;
    return this.#order;
  }

  #checkRoom(): void {
    if (this.#hashes.size >= TRANSACTIONS_MAX) throw new RunnerError('RPC_ERROR', `txpool is full: ${TRANSACTIONS_MAX} transactions wait`);
  }
}

function outbids(transaction: DecodedTransaction, before: DecodedTransaction): boolean {
  const enough = (offered: bigint, previous: bigint): boolean => offered * 10n >= previous * 11n;
  return enough(transaction.maxFeePerGas, before.maxFeePerGas) && enough(transaction.maxPriorityFeePerGas, before.maxPriorityFeePerGas);
}

function senderOf(action: ScriptAction): Address {
  switch (action.kind) {
    case 'job':
      return action.job.caller;
    case 'result':
      return action.result.operator;
    case 'terminate':
      return NOBODY;
  }
}
