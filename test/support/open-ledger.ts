/** The ledger of the proofs and benchmarks. */

import { join } from 'node:path';
import { SqliteLedger } from '../../src/ledger/sqlite.ts';

export async function openLedger(folder: string): Promise<SqliteLedger> {
  return SqliteLedger.open({ path: join(folder, 'ledger.db') });
}
