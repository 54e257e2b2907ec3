import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bumpedFees, checkFeePolicy, firstFees } from './fees.ts';

const policy = { bumpPercent: 12.5, maxFeePerGasCap: 1_000n };

describe('fees', () => {
  it('leaves room for the base fee to double', () => {
    expect(firstFees({ baseFeePerGas: 100n, maxPriorityFeePerGas: 5n }, policy)).toEqual({ maxFeePerGas: 205n, maxPriorityFeePerGas: 5n });
  });

  it('offers the cap when double the base fee is above it', () => {
    expect(firstFees({ baseFeePerGas: 900n, maxPriorityFeePerGas: 5n }, policy)).toEqual({
      maxFeePerGas: 1_000n,
      maxPriorityFeePerGas: 5n,
    });
  });

  it('offers nothing when the present fee is above the cap', () => {
    expect(firstFees({ baseFeePerGas: 996n, maxPriorityFeePerGas: 5n }, policy)).toBeUndefined();
    expect(firstFees({ baseFeePerGas: 995n, maxPriorityFeePerGas: 5n }, policy)).toEqual({
      maxFeePerGas: 1_000n,
      maxPriorityFeePerGas: 5n,
    });
  });

  it('refuses a policy that nodes would not follow', () => {
    expect(() => checkFeePolicy({ bumpPercent: 12, maxFeePerGasCap: 1n })).toThrow(/feeBumpPercent is 12; it must be at least 12.5/);
    expect(() => checkFeePolicy({ bumpPercent: Number.NaN, maxFeePerGasCap: 1n })).toThrow(/feeBumpPercent/);
    expect(() => checkFeePolicy({ bumpPercent: 12.5, maxFeePerGasCap: 0n })).toThrow(/maxFeePerGasCap is 0/);
  });

  it('raises both fees by at least the percentage, follows the market, and never goes above the cap', () => {
    const wei = fc.bigInt({ min: 0n, max: 2_000n });
    fc.assert(
      fc.property(wei, wei, wei, wei, (max, tip, base, marketTip) => {
        const previous = { maxFeePerGas: max > tip ? max : tip, maxPriorityFeePerGas: tip };
        const bumped = bumpedFees(previous, { baseFeePerGas: base, maxPriorityFeePerGas: marketTip }, policy);
        const atLeast = (before: bigint): bigint => (before * 1125n + 999n) / 1000n;
        if (!bumped) {
          expect(atLeast(previous.maxFeePerGas) > policy.maxFeePerGasCap || previous.maxFeePerGas + 1n > policy.maxFeePerGasCap).toBe(true);
          return;
        }
        expect(bumped.maxFeePerGas).toBeLessThanOrEqual(policy.maxFeePerGasCap);
        expect(bumped.maxFeePerGas).toBeGreaterThanOrEqual(atLeast(previous.maxFeePerGas));
        expect(bumped.maxFeePerGas).toBeGreaterThan(previous.maxFeePerGas);
        expect(bumped.maxPriorityFeePerGas).toBeGreaterThanOrEqual(atLeast(tip));
        expect(bumped.maxPriorityFeePerGas).toBeGreaterThan(tip);
        expect(bumped.maxPriorityFeePerGas).toBeLessThanOrEqual(bumped.maxFeePerGas);
        const wanted = 2n * base + marketTip;
        if (wanted <= policy.maxFeePerGasCap) expect(bumped.maxFeePerGas).toBeGreaterThanOrEqual(wanted);
      }),
    );
  });
});
