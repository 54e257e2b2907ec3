/** Calls and transactions on a local node, through the accounts that the node holds. */

import type { Abi, ContractFunctionName, ContractFunctionReturnType } from 'viem';
import { decodeRevert } from '../chain/contracts.ts';
import { readView } from '../chain/view.ts';
import type { View } from '../chain/view.ts';
import { systemClock } from '../clock.ts';
import { RunnerError, isRunnerError } from '../errors.ts';
import type { Address, Hex } from '../job/call.ts';
import type { LocalAccount, LocalChain } from './local-chain.ts';

export const ZERO_ADDRESS: Address = '0x0000000000000000000000000000000000000000';
const GAS_MIN = 3_000_000n;
const RECEIPT_POLL_MS = 5;
const RECEIPT_TIMEOUT_MS = 30_000;

export type NodeChain = Pick<LocalChain, 'request' | 'chainId' | 'accounts'>;

/** The part of a transaction receipt that tests look at. */
export interface LocalReceipt {
  readonly transactionHash: Hex;
  readonly blockNumber: bigint;
  readonly blockHash: Hex;
  readonly gasUsed: bigint;
  /** As the node gives them. */
  readonly logs: readonly unknown[];
}

interface Transaction {
  readonly from: Address;
  readonly to?: Address;
  readonly data: Hex;
  readonly value?: bigint;
}

/** The few requests that the driver makes. What the local node answers is trusted. */
export class ContractNode {
  readonly chainId: number;
  readonly #chain: NodeChain;
  /** Of every block. */
  #gasLimit: Promise<bigint> | undefined;

  constructor(chain: NodeChain) {
    this.#chain = chain;
    this.chainId = chain.chainId;
  }

  account(index: number): LocalAccount {
    const account = this.#chain.accounts[index];
    if (account) return account;
    throw new RunnerError(
      'NOT_FOUND',
      `the local chain has ${this.#chain.accounts.length} accounts, and number ${index} is asked for: start it with more`,
    );
  }

  async deploy(data: Hex): Promise<Address> {
    const receipt = await this.send('deploy', { from: this.account(0).address, data });
    return receipt.contractAddress;
  }

  read<const A extends Abi, const N extends ContractFunctionName<A, 'view'>>(
    contract: Address,
    view: View<A, N>,
  ): Promise<ContractFunctionReturnType<A, 'view', N>> {
    return readView((method, params) => this.#orRevert(view.name, method, params), contract, view);
  }

  logs(address: Address, topics: readonly (Hex | readonly Hex[])[]): Promise<readonly unknown[]> {
    return this.#chain.request('eth_getLogs', [{ address, topics, fromBlock: '0x0', toBlock: 'latest' }]) as Promise<readonly unknown[]>;
  }

  async blockTimestamp(): Promise<bigint> {
    const { timestamp } = await this.#latestBlock();
    return BigInt(timestamp);
  }

  /** Sends a transaction and waits until it is mined. */
  async send(what: string, transaction: Transaction): Promise<LocalReceipt & { readonly contractAddress: Address }> {
    const request = { ...transaction, value: `0x${(transaction.value ?? 0n).toString(16)}` };
    const estimate = BigInt((await this.#orRevert(what, 'eth_estimateGas', [request])) as Hex);
    // What else is mined before can make it dearer: the last approval of a service activates it.
    const wanted = estimate * 2n > GAS_MIN ? estimate * 2n : GAS_MIN;
    const limit = await (this.#gasLimit ??= this.#latestBlock().then(({ gasLimit }) => BigInt(gasLimit)));
    const gas = `0x${(wanted < limit ? wanted : limit).toString(16)}`;
    const hash = await this.#chain.request('eth_sendTransaction', [{ ...request, gas }]);
    const receipt = await this.#receipt(what, hash as Hex);
    if (receipt.status !== '0x1') {
      await this.#orRevert(what, 'eth_call', [request, receipt.blockNumber]);
      throw new RunnerError('RPC_ERROR', `${what}: transaction ${String(hash)} reverted`);
    }
    return {
      transactionHash: receipt.transactionHash,
      blockNumber: BigInt(receipt.blockNumber),
      blockHash: receipt.blockHash,
      gasUsed: BigInt(receipt.gasUsed),
      logs: receipt.logs,
      contractAddress: lower(receipt.contractAddress ?? ZERO_ADDRESS),
    };
  }

  async #latestBlock(): Promise<RawBlock> {
    return (await this.#chain.request('eth_getBlockByNumber', ['latest', false])) as RawBlock;
  }

  /** The node answers eth_sendTransaction before the block is written: the receipt comes a little later. */
  async #receipt(what: string, hash: Hex): Promise<RawReceipt> {
    const deadline = systemClock.monotonic() + RECEIPT_TIMEOUT_MS;
    while (systemClock.monotonic() < deadline) {
      const receipt = await this.#chain.request('eth_getTransactionReceipt', [hash]);
      if (receipt !== null) return receipt as RawReceipt;
      await systemClock.sleep(RECEIPT_POLL_MS);
    }
    throw new RunnerError('RPC_ERROR', `${what}: transaction ${hash} was not mined within ${RECEIPT_TIMEOUT_MS} ms; is automine off?`);
  }

  async #orRevert(what: string, method: string, params: readonly unknown[]): Promise<unknown> {
    try {
      return await this.#chain.request(method, params);
    } catch (thrown) {
      const data = isRunnerError(thrown) ? thrown.details['data'] : undefined;
      if (typeof data !== 'string') throw thrown;
      const { error, args, text } = decodeRevert(data);
      throw new RunnerError('RPC_ERROR', `${what} reverts: ${text}`, { cause: thrown, details: { error, args, data } });
    }
  }
}

interface RawBlock {
  readonly timestamp: Hex;
  readonly gasLimit: Hex;
}

interface RawReceipt {
  readonly transactionHash: Hex;
  readonly blockNumber: Hex;
  readonly blockHash: Hex;
  readonly gasUsed: Hex;
  readonly status: Hex;
  readonly contractAddress: Address | null;
  readonly logs: readonly unknown[];
}

export function lower(address: string): Address {
  return address.toLowerCase() as Address;
}
