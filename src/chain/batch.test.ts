import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RunnerError } from '../errors.ts';
import type { PendingResult } from '../ledger/ledger.ts';
import { planBatches, resultBytes, siftBatch } from './batch.ts';
import type { Simulation } from './chain.ts';

function result(seq: number, options: { serviceId?: bigint; jobIndex?: number; bytes?: number } = {}): PendingResult {
  const { serviceId = 0n, jobIndex = 0, bytes = 4 } = options;
  return {
    seq,
    output: new Uint8Array(bytes),
    origin: {
      chainId: 31337,
      contract: '0x00000000000000000000000000000000000000aa',
      serviceId,
      callId: BigInt(seq + 1000),
      jobIndex,
      caller: '0x00000000000000000000000000000000000000bb',
      inputs: new Uint8Array(0),
      blockNumber: 1n,
      blockHash: `0x${'11'.repeat(32)}`,
      transactionHash: `0x${'22'.repeat(32)}`,
      logIndex: seq,
    },
  };
}

const results = (count: number): PendingResult[] => Array.from({ length: count }, (_, index) => result(index));
const revert = (error: string, args: readonly unknown[] = [], callId?: bigint): Simulation => ({
  outcome: 'revert',
  error,
  args,
  data: '0x',
  ...(callId !== undefined && { callId }),
});
const ok = (calls: readonly PendingResult[]): Simulation => ({ outcome: 'ok', gas: BigInt(calls.length) * 100n });
const seqs = (calls: readonly PendingResult[] | undefined): number[] => (calls ?? []).map((call) => call.seq);

/** Counts what it is asked. */
function simulator(answer: (calls: readonly PendingResult[]) => Simulation): {
  simulate: (calls: readonly PendingResult[]) => Promise<Simulation>;
  parallel: number;
  asked: number[];
} {
  const asked: number[] = [];
  return {
    asked,
    parallel: 4,
    simulate: async (calls) => {
      asked.push(calls.length);
      return answer(calls);
    },
  };
}

describe('planning batches', () => {
  const limits = { callsMax: () => 3, bytesMax: 10_000, bytesHardMax: 20_000, alone: () => false };

  it('keeps the services apart and the order of arrival in each', () => {
    const list = [0, 1, 2, 3, 4, 5].map((seq) => result(seq, { serviceId: BigInt(seq % 2) }));
    expect(planBatches(list, limits).batches.map(seqs)).toEqual([
      [0, 2, 4],
      [1, 3, 5],
    ]);
  });

  it('begins another batch when the calls are enough, or the bytes', () => {
    expect(planBatches(results(7), limits).batches.map(seqs)).toEqual([[0, 1, 2], [3, 4, 5], [6]]);
    const big = [0, 1, 2].map((seq) => result(seq, { bytes: 4_600 }));
    expect(planBatches(big, limits).batches.map(seqs)).toEqual([[0, 1], [2]]);
  });

  it('lets a result above the limit go alone, and refuses one that no node would take', () => {
    const plan = planBatches([result(0), result(1, { bytes: 15_000 }), result(2), result(3, { bytes: 20_000 }), result(4)], limits);
    expect(plan.batches.map(seqs)).toEqual([[0], [1], [2, 4]]);
    expect(seqs(plan.tooLarge)).toEqual([3]);
  });

  it('isolates what took batches with it before', () => {
    expect(planBatches(results(4), { ...limits, alone: (seq) => seq === 1 }).batches.map(seqs)).toEqual([[0, 2, 3], [1]]);
  });

  it('counts calldata in whole words', () => {
    expect(resultBytes(new Uint8Array(0))).toBe(96);
    expect(resultBytes(new Uint8Array(1))).toBe(128);
    expect(resultBytes(new Uint8Array(32))).toBe(128);
    expect(resultBytes(new Uint8Array(33))).toBe(160);
  });
});

describe('sifting a batch', () => {
  it('simulates once when all is well', async () => {
    const simulation = simulator(ok);
    const { good, verdicts } = await siftBatch(results(100), simulation);
    expect(seqs(good?.calls)).toEqual(seqs(results(100)));
    expect(good?.gas).toBe(10_000n);
    expect(verdicts.size).toBe(0);
    expect(simulation.asked).toEqual([100]);
  });

  it('finds every poisoned call that the contract does not name, with few simulations', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 128 }), fc.array(fc.nat(127), { maxLength: 12 }), async (count, picks) => {
        const poison = new Set(picks.filter((seq) => seq < count));
        const simulation = simulator((calls) =>
          calls.some((call) => poison.has(call.seq)) ? revert('SchemaValidationFailed', [3, 0n, 0n, 1n]) : ok(calls),
        );
        const { good, verdicts } = await siftBatch(results(count), simulation);
        expect(seqs(good?.calls)).toEqual(seqs(results(count)).filter((seq) => !poison.has(seq)));
        expect([...verdicts.keys()].map((call) => call.seq).toSorted((a, b) => a - b)).toEqual([...poison].toSorted((a, b) => a - b));
        for (const verdict of verdicts.values())
          expect(verdict).toEqual({ kind: 'rejected', reason: 'SchemaValidationFailed(3, 0, 0, 1)' });
        const depth = Math.ceil(Math.log2(count));
        expect(simulation.asked.length).toBeLessThanOrEqual(2 + 2 * poison.size * Math.max(1, depth));
      }),
      { numRuns: 200 },
    );
  });

  it('finds every call that the contract names, with at most two simulations for each', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 128 }), fc.array(fc.nat(127), { maxLength: 128 }), async (count, picks) => {
        const done = new Set(picks.filter((seq) => seq < count));
        const simulation = simulator((calls) => {
          const first = calls.find((call) => done.has(call.seq));
          return first ? revert('JobAlreadyCompleted', [0n, first.origin.callId], first.origin.callId) : ok(calls);
        });
        const { good, verdicts } = await siftBatch(results(count), simulation);
        expect(seqs(good?.calls)).toEqual(seqs(results(count)).filter((seq) => !done.has(seq)));
        expect(new Set([...verdicts.keys()].map((call) => call.seq))).toEqual(done);
        for (const [call, verdict] of verdicts)
          expect(verdict).toEqual({ kind: 'closed', reason: `JobAlreadyCompleted(0, ${call.origin.callId})` });
        expect(simulation.asked.length).toBeLessThanOrEqual(2 + 2 * done.size);
      }),
      { numRuns: 200 },
    );
  });

  it.each(['ServiceNotActive', 'ServiceExpired', 'OperatorNotInService', 'OperatorNotActive', 'ServiceNotFound'])(
    'rejects a whole service for %s without looking for a culprit',
    async (error) => {
      const simulation = simulator(() => revert(error, [0n]));
      const { good, verdicts } = await siftBatch(results(50), simulation);
      expect(good).toBeUndefined();
      expect(verdicts.size).toBe(50);
      expect(new Set([...verdicts.values()].map((verdict) => verdict.kind))).toEqual(new Set(['rejected']));
      expect(simulation.asked).toEqual([50]);
    },
  );

  it('rejects the calls of a job that wants aggregation and keeps the others', async () => {
    const list = [0, 1, 2, 3, 4].map((seq) => result(seq, { jobIndex: seq % 2 }));
    const simulation = simulator((calls) =>
      calls.some((call) => call.origin.jobIndex === 1) ? revert('AggregationRequired', [0n, 1]) : ok(calls),
    );
    const { good, verdicts } = await siftBatch(list, simulation);
    expect(seqs(good?.calls)).toEqual([0, 2, 4]);
    expect([...verdicts.keys()].map((call) => call.seq)).toEqual([1, 3]);
    expect(simulation.asked).toEqual([5, 3]);
  });

  it('says so when the contract is paused, and judges nobody', async () => {
    const simulation = simulator(() => revert('EnforcedPause'));
    const sifted = await siftBatch(results(10), simulation);
    expect(sifted).toEqual({ good: undefined, verdicts: new Map(), paused: 'EnforcedPause()' });
    expect(simulation.asked).toEqual([10]);
  });

  it('keeps apart what the contract does not know', async () => {
    const simulation = simulator((calls) => {
      const unknown = calls.find((call) => call.seq === 2);
      return unknown ? revert('JobCallNotFound', [0n, unknown.origin.callId], unknown.origin.callId) : ok(calls);
    });
    const { good, verdicts } = await siftBatch(results(4), simulation);
    expect(seqs(good?.calls)).toEqual([0, 1, 3]);
    expect([...verdicts.values()].map((verdict) => verdict.kind)).toEqual(['unknown-call']);
  });

  it('takes one part when the parts are fine and all together are not', async () => {
    const simulation = simulator((calls) => (calls.length > 5 ? revert('', []) : ok(calls)));
    const { good, verdicts } = await siftBatch(results(10), simulation);
    expect(seqs(good?.calls)).toEqual([0, 1, 2, 3, 4]);
    expect(verdicts.size).toBe(0);
  });

  it('puts off the one request that the endpoint refuses, and settles the others', async () => {
    const simulation = simulator((calls) => {
      if (calls.some((call) => call.seq === 3)) throw new RunnerError('RPC_ERROR', 'gas required exceeds allowance');
      return ok(calls);
    });
    const { good, verdicts } = await siftBatch(results(8), simulation);
    expect(seqs(good?.calls)).toEqual([0, 1, 2, 4, 5, 6, 7]);
    expect([...verdicts].map(([call, verdict]) => [call.seq, verdict.kind])).toEqual([[3, 'later']]);
  });

  it('puts off what is too large for the endpoint, and settles the others', async () => {
    const simulation = simulator((calls) => {
      if (calls.some((call) => call.seq === 3) || calls.length > 4)
        throw new RunnerError('RPC_RESPONSE_INVALID', 'eth_estimateGas: HTTP 413', { details: { reason: 'too-large' } });
      return ok(calls);
    });
    const { good, verdicts } = await siftBatch(results(8), simulation);
    expect(seqs(good?.calls)).toEqual([0, 1, 2, 4]);
    expect([...verdicts].map(([call, verdict]) => [call.seq, verdict.kind])).toEqual([[3, 'later']]);
  });

  it('rejects when the endpoint cannot be reached', async () => {
    const unreachable = new RunnerError('RPC_UNREACHABLE', 'no endpoint answers');
    await expect(siftBatch(results(3), { parallel: 1, simulate: () => Promise.reject(unreachable) })).rejects.toBe(unreachable);
  });

  it('puts off what cannot be settled because the state changes all the time', async () => {
    let turn = 0;
    const simulation = simulator((calls) => {
      turn += 1;
      const victim = calls[turn % calls.length];
      return victim && calls.length > 0 ? revert('NotQuotedOperator', [0n, victim.origin.callId], victim.origin.callId) : ok(calls);
    });
    const { good, verdicts } = await siftBatch(results(64), simulation);
    expect(seqs(good?.calls).length + verdicts.size).toBe(64);
  });

  it('explains a revert without a name', async () => {
    const { verdicts } = await siftBatch(
      [result(0)],
      simulator(() => revert('')),
    );
    expect([...verdicts.values()]).toEqual([{ kind: 'rejected', reason: 'reverted without a reason' }]);
  });
});
