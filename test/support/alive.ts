/** Whether processes run. */

import { readFileSync } from 'node:fs';

/** One that has ended, but that its parent has not asked for yet, does not run. */
export function isAlive(pid: number | string): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}
