/**
 * Which results go into one transaction, and which of them the contract would refuse.
 *
 * `submitResults` is all or nothing: one call that the contract refuses takes the whole batch with it. So a batch is simulated
 * before it is signed, and split until what is to blame is known.
 */

import { isRunnerError } from '../errors.ts';
import type { PendingResult } from '../ledger/ledger.ts';
import { mapLimited } from '../map-limited.ts';
import type { Simulation } from './chain.ts';
import { isRefusal } from './rpc-answers.ts';

export interface BatchLimits {
  /** Calls per transaction. */
  readonly callsMax: (serviceId: bigint) => number;
  /** Bytes of a transaction that carries several results. */
  readonly bytesMax: number;
  /** Bytes of a transaction that carries one result; above it no public pool takes it. */
  readonly bytesHardMax: number;
  /** Results that must go alone: they took a batch with them before. */
  readonly alone: (seq: number) => boolean;
}

export interface BatchPlan {
  /** One service each, in arrival order. */
  readonly batches: readonly (readonly PendingResult[])[];
  readonly tooLarge: readonly PendingResult[];
}

/**
 * Why a result is not settled.
 * - `closed`: the contract needs no result of ours any more
 * - `rejected`: the contract will never take it
 * - `too-large`: no node would take the transaction
 * - `unknown-call`: the contract does not know the call; the endpoint may be behind
 * - `later`: nothing is known against the result itself
 */
export interface Verdict {
  readonly kind: 'closed' | 'rejected' | 'too-large' | 'unknown-call' | 'later';
  readonly reason: string;
}

export interface Sifted {
  /** What may be signed. Undefined: nothing. */
  readonly good: { readonly calls: readonly PendingResult[]; readonly gas: bigint } | undefined;
  readonly verdicts: ReadonlyMap<PendingResult, Verdict>;
  /** The contract takes nothing from anybody for now. */
  readonly paused?: string;
}

/** Envelope, signature, selector and the fixed words of submitResults. */
const TRANSACTION_BYTES = 420;

/** Calldata of one result in submitResults: call id, offset, length and the padded bytes. */
export function resultBytes(output: Uint8Array): number {
  return 96 + Math.ceil(output.length / 32) * 32;
}

/** Groups results by service in arrival order. */
export function planBatches(results: readonly PendingResult[], limits: BatchLimits): BatchPlan {
  const batches: PendingResult[][] = [];
  const open = new Map<bigint, { calls: PendingResult[]; bytes: number }>();
  const tooLarge: PendingResult[] = [];
  for (const result of results) {
    const { serviceId } = result.origin;
    const bytes = resultBytes(result.output);
    if (bytes + TRANSACTION_BYTES > limits.bytesHardMax) {
      tooLarge.push(result);
      continue;
    }
    if (limits.alone(result.seq)) {
      batches.push([result]);
      continue;
    }
    const batch = open.get(serviceId);
    if (batch && batch.calls.length < limits.callsMax(serviceId) && batch.bytes + bytes <= limits.bytesMax) {
      batch.calls.push(result);
      batch.bytes += bytes;
      continue;
    }
    const calls = [result];
    batches.push(calls);
    open.set(serviceId, { calls, bytes: TRANSACTION_BYTES + bytes });
  }
  return { batches, tooLarge };
}

/** What an error of the contract says about whom. Errors that are not listed are about one call that the contract does not name. */
const CONTRACT_ERRORS: Readonly<
  Record<string, { readonly about: 'call' | 'job' | 'service' | 'contract'; readonly kind: Verdict['kind'] }>
> = {
  JobAlreadyCompleted: { about: 'call', kind: 'closed' },
  ResultAlreadySubmitted: { about: 'call', kind: 'closed' },
  JobCallNotFound: { about: 'call', kind: 'unknown-call' },
  NotQuotedOperator: { about: 'call', kind: 'rejected' },
  SchemaValidationFailed: { about: 'call', kind: 'rejected' },
  AggregationRequired: { about: 'job', kind: 'rejected' },
  ServiceNotFound: { about: 'service', kind: 'rejected' },
  ServiceNotActive: { about: 'service', kind: 'rejected' },
  ServiceExpired: { about: 'service', kind: 'rejected' },
  OperatorNotInService: { about: 'service', kind: 'rejected' },
  OperatorNotActive: { about: 'service', kind: 'rejected' },
  EnforcedPause: { about: 'contract', kind: 'later' },
};

export interface SiftOptions {
  readonly simulate: (calls: readonly PendingResult[]) => Promise<Simulation>;
  /** Simulations at the same time. */
  readonly parallel: number;
}

/** What the simulation of a part of a batch tells. */
interface Judgement {
  readonly fine: readonly PendingResult[];
  /** Known when exactly `fine` was simulated with success. */
  readonly gas?: bigint;
  readonly verdicts: readonly (readonly [PendingResult, Verdict])[];
  /** Parts that must be simulated again. */
  readonly open: readonly (readonly PendingResult[])[];
  readonly paused?: string;
}

/**
 * Finds the calls of one service that can be settled in one transaction. One simulation when all can; with p refused calls among n
 * at most 2 p log2(n) + 3 or so. Transport failures reject.
 */
export async function siftBatch(calls: readonly PendingResult[], options: SiftOptions): Promise<Sifted> {
  const verdicts = new Map<PendingResult, Verdict>();
  let rest = calls;
  // A second pass confirms that what was found fine in parts is fine together; the third is for a state that changed meanwhile.
  for (let pass = 0; pass < 3 && rest.length > 0; pass += 1) {
    const { fine, paused } = await siftOnce(rest, verdicts, options);
    if (paused !== undefined) return { good: undefined, verdicts, paused };
    const [only] = fine;
    if (only && fine.length === 1 && only.gas !== undefined) return { good: { calls: only.fine, gas: only.gas }, verdicts };
    const nothingRefused = fine.reduce((sum, part) => sum + part.fine.length, 0) === rest.length;
    const largest = fine.filter((part) => part.gas !== undefined).toSorted((a, b) => b.fine.length - a.fine.length)[0];
    // Each part alone is fine and all together are not (gas): take one part, the others follow.
    if ((pass === 2 || nothingRefused) && largest?.gas !== undefined) return { good: { calls: largest.fine, gas: largest.gas }, verdicts };
    rest = fine.flatMap((part) => part.fine).toSorted((a, b) => a.seq - b.seq);
  }
  for (const call of rest) verdicts.set(call, { kind: 'later', reason: 'the state of the contract changed while its batch was simulated' });
  return { good: undefined, verdicts };
}

async function siftOnce(
  calls: readonly PendingResult[],
  verdicts: Map<PendingResult, Verdict>,
  options: SiftOptions,
): Promise<{ readonly fine: readonly Judgement[]; readonly paused?: string }> {
  const fine: Judgement[] = [];
  let open: readonly (readonly PendingResult[])[] = [calls];
  while (open.length > 0) {
    const judgements = await mapLimited(open, options.parallel, async (part) => judge(part, await simulateOrNothing(part, options)));
    for (const judgement of judgements) {
      if (judgement.paused !== undefined) return { fine: [], paused: judgement.paused };
      if (judgement.fine.length > 0) fine.push(judgement);
      for (const [call, verdict] of judgement.verdicts) verdicts.set(call, verdict);
    }
    open = judgements.flatMap((judgement) => judgement.open);
  }
  return { fine };
}

/** An endpoint that refuses this one request must not hold up the calls that it does not refuse. */
async function simulateOrNothing(
  calls: readonly PendingResult[],
  options: SiftOptions,
): Promise<Simulation | { readonly outcome: 'refused'; readonly error: string }> {
  try {
    return await options.simulate(calls);
  } catch (error) {
    if (isRunnerError(error) && isRefusal(error)) return { outcome: 'refused', error: error.message };
    throw error;
  }
}

function judge(
  calls: readonly PendingResult[],
  simulation: Simulation | { readonly outcome: 'refused'; readonly error: string },
): Judgement {
  if (simulation.outcome === 'ok') return { fine: calls, gas: simulation.gas, verdicts: [], open: [] };
  if (simulation.outcome === 'refused') return blameUnnamed(calls, { kind: 'later', reason: simulation.error });
  const rule = CONTRACT_ERRORS[simulation.error] ?? { about: 'call', kind: 'rejected' };
  const verdict: Verdict = { kind: rule.kind, reason: describe(simulation) };
  switch (rule.about) {
    case 'contract':
      return { fine: [], verdicts: [], open: [], paused: verdict.reason };
    case 'service':
      return { fine: [], verdicts: calls.map((call) => [call, verdict]), open: [] };
    case 'job': {
      const jobIndex = Number(simulation.args[1]);
      const [refused, others] = parted(calls, (call) => call.origin.jobIndex === jobIndex);
      if (refused.length === 0) return blameUnnamed(calls, verdict);
      return { fine: [], verdicts: refused.map((call) => [call, verdict]), open: others.length > 0 ? [others] : [] };
    }
    case 'call': {
      const index = simulation.callId === undefined ? -1 : calls.findIndex((call) => call.origin.callId === simulation.callId);
      const named = calls[index];
      if (!named) return blameUnnamed(calls, verdict);
      // The contract goes through a batch in order: what stands before the refused call passed.
      return { fine: calls.slice(0, index), verdicts: [[named, verdict]], open: halves(calls.slice(index + 1)) };
    }
  }
}

function blameUnnamed(calls: readonly PendingResult[], verdict: Verdict): Judgement {
  const [only] = calls;
  if (only && calls.length === 1) return { fine: [], verdicts: [[only, verdict]], open: [] };
  return { fine: [], verdicts: [], open: halves(calls) };
}

function halves<T>(list: readonly T[]): (readonly T[])[] {
  const middle = Math.ceil(list.length / 2);
  return [list.slice(0, middle), list.slice(middle)].filter((half) => half.length > 0);
}

function parted<T>(list: readonly T[], test: (item: T) => boolean): [T[], T[]] {
  return [list.filter((item) => test(item)), list.filter((item) => !test(item))];
}

function describe(simulation: Extract<Simulation, { outcome: 'revert' }>): string {
  if (simulation.error === '')
    return simulation.data === '0x' ? 'reverted without a reason' : `reverted with ${simulation.data.slice(0, 74)}`;
  return `${simulation.error}(${simulation.args.map(String).join(', ')})`;
}
