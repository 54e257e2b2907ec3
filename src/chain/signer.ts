/** The account of the operator. */

import { privateKeyToAccount } from 'viem/accounts';
import { RunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import type { Signer } from './chain.ts';

/** Signs with a private key of 32 bytes, hexadecimal. Throws `CONFIG_INVALID`; the message does not repeat the key. */
export function signerFromKey(key: string): Signer {
  const digits = key.trim().replace(/^0x/i, '');
  try {
    if (!/^[0-9a-f]{64}$/i.test(digits)) throw new TypeError('it is not 64 hexadecimal digits');
    return privateKeyToAccount(`0x${digits.toLowerCase()}` satisfies Hex);
  } catch {
    throw new RunnerError(
      'CONFIG_INVALID',
      'the private key of the operator is not a key: it must be 64 hexadecimal digits, with or without 0x',
    );
  }
}
