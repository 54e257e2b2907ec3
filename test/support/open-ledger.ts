/** The ledger of the proofs and benchmarks. */

import type { SettlementLedger } from '../../src/chain/nonce-lane.ts';
import { systemClock } from '../../src/clock.ts';
import type { Ledger } from '../../src/ledger/ledger.ts';
import { MemoryLedger } from './memory-ledger.ts';

export type ProofLedger = SettlementLedger & Pick<Ledger, 'recordSeen' | 'recordExecuted' | 'find' | 'close'>;

/** `folder` is where a ledger with a file keeps it. */
export async function openLedger(_folder: string): Promise<ProofLedger> {
  return new MemoryLedger(systemClock);
}
