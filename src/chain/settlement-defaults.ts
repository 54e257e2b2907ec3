/** What settlement does unless it is told otherwise, and what it cannot be told. */

import { RunnerError } from '../errors.ts';

export const DEFAULTS = {
  confirmations: 1,
  finality: 12,
  batchMax: 100,
  batchWaitMs: 20,
  inFlightMax: 16,
  pollMs: 1_000,
  resendAfterMs: 3_000,
  resubmitAfterMs: 30_000,
  resubmitAfterBlocks: 3,
  feeBumpPercent: 12.5,
  maxFeePerGas: 1_000_000_000_000n,
  gasMax: 15_000_000n,
  gasMarginPercent: 30,
  transactionBytesMax: 120_000,
  transactionBytesHardMax: 128 * 1024 - 1024,
} as const;

/** Throws `CONFIG_INVALID`. */
export function checkOptions<T extends Readonly<Record<keyof typeof DEFAULTS, number | bigint>>>(options: T): T {
  for (const name of ['batchMax', 'inFlightMax', 'pollMs', 'transactionBytesMax', 'transactionBytesHardMax'] as const) {
    if (!(options[name] >= 1)) throw new RunnerError('CONFIG_INVALID', `${name} is ${options[name]}; it must be at least 1`);
  }
  for (const name of [
    'confirmations',
    'finality',
    'batchWaitMs',
    'resendAfterMs',
    'resubmitAfterMs',
    'resubmitAfterBlocks',
    'gasMarginPercent',
  ] as const) {
    if (!(options[name] >= 0)) throw new RunnerError('CONFIG_INVALID', `${name} is ${options[name]}; it must be at least 0`);
  }
  return options;
}
