/**
 * Transactions for the mock chain. They are EIP-1559 envelopes like any other, but the signature of `mockSigner` is none: no real
 * chain takes it.
 */

import { keccak256, parseTransaction, recoverAddress, serializeTransaction } from 'viem/utils';
import { RunnerError } from '../errors.ts';
import type { Address, Hex } from '../job/call.ts';
import type { Signer } from './chain.ts';
import { transactionHash } from './signed-transaction.ts';

/** Above the order of the curve: every real chain refuses it as malformed. */
const NO_SIGNATURE: Hex = `0x${'ff'.repeat(32)}`;

/**
 * Signs for any address, on the mock chain alone. Where a signature stands in a real transaction, this one names the address in
 * clear and is invalid everywhere else.
 *
 * @example
 * const client = new MockChainClient({ chain });
 * await client.send(await mockSigner('0x00000000000000000000000000000000000000aa').signTransaction(transaction));
 */
export function mockSigner(address: Address): Signer {
  const r: Hex = `0x${address.slice(2).toLowerCase().padStart(64, '0')}`;
  return {
    address,
    signTransaction: async (transaction) => serializeTransaction(transaction, { r, s: NO_SIGNATURE, yParity: 0 }),
  };
}

export interface DecodedTransaction {
  readonly hash: Hex;
  /** Lower case. */
  readonly from: Address;
  readonly chainId: number;
  readonly nonce: number;
  /** Lower case. */
  readonly to: Address;
  readonly data: Hex;
  readonly value: bigint;
  readonly gas: bigint;
  readonly maxFeePerGas: bigint;
  readonly maxPriorityFeePerGas: bigint;
}

/** Reads a raw transaction of `mockSigner` or of a real account. Rejects with `RPC_ERROR`, as a node does. */
export async function decodeTransaction(raw: Hex): Promise<DecodedTransaction> {
  try {
    const { r, s, yParity = 0, type, chainId, nonce = 0, to, data = '0x', value = 0n, gas = 0n, ...rest } = parseTransaction(raw);
    if (type !== 'eip1559' || !r || !s || !to) throw new Error('not a signed EIP-1559 transaction to an address');
    const { maxFeePerGas = 0n, maxPriorityFeePerGas = 0n, accessList = [] } = rest;
    const fields = { chainId, nonce, data, value, gas, maxFeePerGas, maxPriorityFeePerGas };
    const unsigned = (): Hex => serializeTransaction({ ...fields, type, to, accessList });
    const from =
      s === NO_SIGNATURE ? `0x${r.slice(-40)}` : await recoverAddress({ hash: keccak256(unsigned()), signature: { r, s, yParity } });
    return { hash: transactionHash(raw), from: lower(from), to: lower(to), ...fields };
  } catch (cause) {
    throw new RunnerError('RPC_ERROR', 'failed to decode the signed transaction', { cause });
  }
}

function lower(address: string): Address {
  return address.toLowerCase() as Address; // hexadecimal, from the parser
}
