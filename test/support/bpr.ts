import { join } from 'node:path';

/** The command line from source. */
export const BPR = join(import.meta.dirname, '../fixtures/cli/bpr.ts');
