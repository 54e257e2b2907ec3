/** An account from its private key, and the name of what it signed. */

import { keccak256 } from 'viem/utils';
import { RunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import type { Signer } from './chain.ts';

/**
 * Signs with a private key: 0x and 64 hexadecimal digits, or the digits alone. Rejects with `CONFIG_INVALID`; the key is not repeated.
 *
 * @example
 * const signer = await privateKeySigner(await new Secret('env:OPERATOR_PRIVATE_KEY').read());
 */
export async function privateKeySigner(key: string): Promise<Signer> {
  const { privateKeyToAccount } = await import('viem/accounts');
  const digits = /^(?:0x)?([0-9a-f]{64})$/i.exec(key.trim())?.[1];
  if (digits === undefined) throw new RunnerError('CONFIG_INVALID', 'the private key is not 32 bytes of hexadecimal');
  try {
    const account = privateKeyToAccount(`0x${digits}`);
    return { address: account.address.toLowerCase() as Hex, signTransaction: (transaction) => account.signTransaction(transaction) }; // as: an address stays one
  } catch {
    throw new RunnerError('CONFIG_INVALID', 'the private key is not one of the curve');
  }
}

/** The hash under which the chain knows a signed transaction. */
export function transactionHash(raw: Hex): Hex {
  return keccak256(raw);
}
