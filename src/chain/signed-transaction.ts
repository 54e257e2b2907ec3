/** What is in the bytes of a signed transaction. */

import { keccak256, parseTransaction } from 'viem/utils';
import { RunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import type { TransactionRequest } from './chain.ts';

/** The hash under which the chain knows it. */
export function transactionHash(raw: Hex): Hex {
  return keccak256(raw);
}

/** What it does, for signing it again with other fees. */
export function transactionContent(raw: Hex): TransactionRequest {
  const { to, data = '0x', value = 0n } = parseTransaction(raw);
  if (!to) throw new RunnerError('INTERNAL', `transaction ${transactionHash(raw)} has no receiver`);
  return { to, data, value };
}
