/** The account of the operator. */

import { privateKeyToAccount } from 'viem/accounts';
import { RunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import type { Signer } from './chain.ts';

/** Signs with a private key of 32 bytes, hexadecimal. Throws `CONFIG_INVALID`, with `problem` before the reason; the message does not repeat the key. */
export function signerFromKey(key: string, problem = 'the private key of the operator is not a key'): Signer {
  const digits = key.trim().replace(/^0x/i, '');
  const invalid = (reason: string): RunnerError => new RunnerError('CONFIG_INVALID', `${problem}: ${reason}`);
  if (!/^[0-9a-f]{64}$/i.test(digits)) throw invalid('it must be 64 hexadecimal digits, with or without 0x');
  try {
    return privateKeyToAccount(`0x${digits.toLowerCase()}` satisfies Hex);
  } catch {
    throw invalid('no account has these 64 digits, which are 0 or too large');
  }
}
