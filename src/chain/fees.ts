/** What a transaction offers for its gas, and what a replacement of it must offer. Pure. */

import { RunnerError } from '../errors.ts';
import type { FeeEstimate } from './chain.ts';

/** Wei per gas, as in a type 2 transaction. */
export interface Fees {
  readonly maxFeePerGas: bigint;
  readonly maxPriorityFeePerGas: bigint;
}

export interface FeePolicy {
  /** How much more a replacement offers, in percent. Nodes refuse less than 10; some less than 12.5. */
  readonly bumpPercent: number;
  /** Never offer more than this, wei per gas. */
  readonly maxFeePerGasCap: bigint;
}

const BUMP_PERCENT_MIN = 12.5;

/** Throws `CONFIG_INVALID`. */
export function checkFeePolicy(policy: FeePolicy): FeePolicy {
  if (!(policy.bumpPercent >= BUMP_PERCENT_MIN)) {
    throw new RunnerError(
      'CONFIG_INVALID',
      `feeBumpPercent is ${policy.bumpPercent}; it must be at least ${BUMP_PERCENT_MIN}, or nodes refuse the replacement`,
    );
  }
  if (policy.maxFeePerGasCap <= 0n) {
    throw new RunnerError('CONFIG_INVALID', `maxFeePerGasCap is ${policy.maxFeePerGasCap}; it must be above 0`);
  }
  return policy;
}

/** Room for the base fee to double before the transaction is mined; undefined when not even the present fee is below the cap. */
export function firstFees(estimate: FeeEstimate, policy: FeePolicy): Fees | undefined {
  const tip = estimate.maxPriorityFeePerGas;
  if (estimate.baseFeePerGas + tip > policy.maxFeePerGasCap) return undefined;
  return { maxFeePerGas: smaller(2n * estimate.baseFeePerGas + tip, policy.maxFeePerGasCap), maxPriorityFeePerGas: tip };
}

/** Fees that replace `previous` and are worth mining now; undefined when the cap forbids them. */
export function bumpedFees(previous: Fees, estimate: FeeEstimate, policy: FeePolicy): Fees | undefined {
  const least = raised(previous.maxFeePerGas, policy.bumpPercent);
  const leastTip = raised(previous.maxPriorityFeePerGas, policy.bumpPercent);
  if (least > policy.maxFeePerGasCap || leastTip > policy.maxFeePerGasCap) return undefined;
  const tip = larger(leastTip, estimate.maxPriorityFeePerGas);
  const wanted = larger(least, 2n * estimate.baseFeePerGas + tip);
  const maxFeePerGas = larger(smaller(wanted, policy.maxFeePerGasCap), leastTip);
  return { maxFeePerGas, maxPriorityFeePerGas: smaller(tip, maxFeePerGas) };
}

/** At least `percent` more, rounded up, and never the same. */
function raised(value: bigint, percent: number): bigint {
  const bips = BigInt(Math.ceil(percent * 100));
  return larger((value * (10_000n + bips) + 9_999n) / 10_000n, value + 1n);
}

function larger(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function smaller(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}
