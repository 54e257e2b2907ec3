/**
 * Executed calls into signed transactions.
 *
 * One turn: plan batches, simulate them (and find what the contract would refuse), then ask the canonical chain for the log of every
 * call concerned, and only then sign. The check comes last because everything before it takes time in which a reorg can give a
 * call id other inputs; and no verdict of the contract is written down for a call that is not on the chain.
 */

import { RunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import type { BlockRef, PendingResult } from '../ledger/ledger.ts';
import { mapLimited } from '../map-limited.ts';
import type { BatchLimits, Sifted, Verdict } from './batch.ts';
import { planBatches, resultBytes, siftBatch } from './batch.ts';
import type { Simulation, TransactionRequest } from './chain.ts';
import type { Fees } from './fees.ts';
import type { LaneEvent, NonceLane } from './nonce-lane.ts';

export type ResultEvent =
  /** The contract will never take this result. */
  | { readonly type: 'rejected'; readonly seq: number; readonly code: 'RESULT_REJECTED' | 'PAYLOAD_TOO_LARGE'; readonly reason: string }
  /** The contract needs no result of ours any more. */
  | { readonly type: 'closed'; readonly seq: number; readonly reason: string }
  /** What would have been signed and sent. */
  | { readonly type: 'dry-run'; readonly serviceId: bigint; readonly calls: readonly number[]; readonly gas: bigint }
  | { readonly type: 'stalled'; readonly error: RunnerError };

export interface ResultBatchesOptions {
  readonly confirmations: number;
  readonly batchMax: number;
  readonly gasMax: bigint;
  readonly withGasMargin: (gas: bigint) => bigint;
  readonly bytesMax: number;
  readonly bytesHardMax: number;
  readonly retryMs: number;
  readonly dryRun: boolean;
  readonly emit: (event: ResultEvent) => void;
}

export interface TurnEnd {
  /** More can be done: now, when a nonce becomes free, or nothing is left. */
  readonly next: 'now' | 'slot' | 'nothing';
  /** Something was put off for this long. */
  readonly retryInMs?: number;
}

interface Batch {
  readonly serviceId: bigint;
  readonly calls: readonly PendingResult[];
  readonly gas: bigint;
}

interface Present {
  readonly head: BlockRef;
  /** Hashes of earlier heads that are on the chain still. */
  readonly canonical: ReadonlySet<Hex>;
}

interface Deferral {
  readonly untilMs: number;
  readonly untilHead: bigint;
  readonly tries: number;
}

/** Batches that are simulated and signed in one turn: bounds memory and the time between looks at the chain. */
const TURN_BATCHES = 64;
const SIMULATE_PARALLEL = 8;
/** A call whose transactions reverted this often although they had been simulated with success goes alone, and at last not any more. */
const REVERTS_ALONE = 2;
const REVERTS_MAX = 5;
const DEFER_MAX_MS = 60_000;
const DEFERRED_MAX = 10_000;
const PAUSE_MS = 5_000;
const GAS_KINDS_MAX = 1_000;

export class ResultBatches {
  readonly #lane: NonceLane;
  readonly #options: ResultBatchesOptions;
  /** Results per transaction that a service takes well: halved by a revert, growing with successes. */
  readonly #callsMax = new Map<bigint, number>();
  readonly #reverts = new Map<number, number>();
  readonly #deferred = new Map<number, Deferral>();
  /** What the contract said of a call, and the head then: it counts when it still says so some blocks later. */
  readonly #judged = new Map<number, { readonly kind: Verdict['kind']; readonly head: BlockRef }>();
  /** The most that one result of a kind needed lately. */
  readonly #gas = new Map<string, bigint>();
  #paused = false;
  #capped = false;
  #bytesPerResult = 4_096;

  constructor(lane: NonceLane, options: ResultBatchesOptions) {
    this.#lane = lane;
    this.#options = options;
  }

  /** Failures of the chain and the ledger reject; what was not signed stays executed. */
  async settle(): Promise<TurnEnd> {
    const { head } = this.#lane;
    const slots = this.#options.dryRun ? TURN_BATCHES : Math.min(this.#lane.slots(), TURN_BATCHES);
    if (!head || slots === 0) return { next: 'slot' };
    const window = this.#window(slots) + this.#deferred.size;
    const executed = this.#executed(head, window);
    this.#noteBytes(executed);
    const ready = this.#withoutDeferred(executed, head);
    if (ready.length === 0) return this.#end('nothing');
    const fees = this.#options.dryRun ? undefined : await this.#lane.fees();
    this.#capped = !fees && !this.#options.dryRun;
    if (this.#capped) return { next: 'nothing', retryInMs: PAUSE_MS };

    const verdicts = new Map<PendingResult, Verdict>();
    const plan = this.#plan(ready, verdicts);
    const taken = plan.slice(0, slots);
    const sifted = await Promise.all(taken.map((calls) => this.#sift(calls)));
    if (this.#sayPaused(sifted)) return { next: 'nothing', retryInMs: PAUSE_MS };
    for (const { verdicts: found } of sifted) for (const [call, verdict] of found) verdicts.set(call, verdict);
    const batches = sifted.flatMap(({ good }) => (good ? [this.#batch(good)] : []));
    const fitting = batches.filter((batch) => this.#fits(batch));

    const confirmed = await this.#lane.confirm([...fitting.flatMap((batch) => batch.calls), ...verdicts.keys()]);
    const signed = fees ? await this.#sign(fitting, confirmed, fees) : this.#show(fitting, confirmed);
    if (!this.#options.dryRun && verdicts.size > 0) await this.#record(verdicts, confirmed);
    const more = plan.length > taken.length || executed.length === window || fitting.length < batches.length || !signed;
    return this.#end(more ? 'now' : 'nothing');
  }

  /** Something can be signed at the head that is known: not what waits for blocks, for a lower fee or for another answer of the contract. */
  get ready(): boolean {
    const { head } = this.#lane;
    if (!head || this.#paused || this.#capped) return false;
    return this.#executed(head, this.#deferred.size + 1).some((call) => !this.#isDeferred(call.seq, head));
  }

  observe(event: LaneEvent): void {
    const refused = event.type === 'healed' && event.how === 'refused';
    if (!refused && (event.type !== 'mined' || event.purpose !== 'results')) return;
    const [first] = event.calls;
    const serviceId = first === undefined ? undefined : this.#lane.options.ledger.get(first)?.call.origin?.serviceId;
    if (serviceId === undefined) return;
    const callsMax = this.#callsMax.get(serviceId) ?? this.#options.batchMax;
    if (event.type === 'mined' && event.receipt.success) {
      for (const seq of event.calls) this.#reverts.delete(seq);
      const grown = callsMax + Math.max(1, callsMax >> 2);
      if (grown >= this.#options.batchMax) this.#callsMax.delete(serviceId);
      else this.#callsMax.set(serviceId, grown);
      return;
    }
    for (const seq of event.calls) this.#reverts.set(seq, (this.#reverts.get(seq) ?? 0) + 1);
    this.#callsMax.set(serviceId, Math.max(1, Math.min(callsMax, event.calls.length) >> 1));
  }

  #executed(head: BlockRef, limit: number): PendingResult[] {
    return this.#lane.options.ledger.settleable(head.number - BigInt(this.#options.confirmations), limit);
  }

  /** How many results to read: as many as go into these transactions, by number and by what the last ones weighed. */
  #window(slots: number): number {
    const { batchMax, bytesMax } = this.#options;
    return slots * Math.min(batchMax, Math.max(1, Math.ceil(bytesMax / this.#bytesPerResult)));
  }

  #noteBytes(executed: readonly PendingResult[]): void {
    if (executed.length === 0) return;
    this.#bytesPerResult = executed.reduce((sum, call) => sum + resultBytes(call.output), 0) / executed.length;
  }

  #plan(ready: readonly PendingResult[], verdicts: Map<PendingResult, Verdict>): readonly (readonly PendingResult[])[] {
    const { batchMax, bytesMax, bytesHardMax } = this.#options;
    const worn = ready.filter((call) => (this.#reverts.get(call.seq) ?? 0) >= REVERTS_MAX);
    for (const call of worn)
      verdicts.set(call, {
        kind: 'rejected',
        reason: `its transactions reverted or were refused ${REVERTS_MAX} times although they were simulated with success`,
      });
    const limits: BatchLimits = {
      callsMax: (serviceId) => this.#callsMax.get(serviceId) ?? batchMax,
      bytesMax,
      bytesHardMax,
      alone: (seq) => (this.#reverts.get(seq) ?? 0) >= REVERTS_ALONE,
    };
    const open = ready.filter((call) => !verdicts.has(call));
    // What was refused before is looked at apart from the others: they must not be sifted for it again.
    const fresh = planBatches(
      open.filter((call) => !this.#judged.has(call.seq)),
      limits,
    );
    const refused = planBatches(
      open.filter((call) => this.#judged.has(call.seq)),
      limits,
    );
    for (const call of fresh.tooLarge)
      verdicts.set(call, {
        kind: 'too-large',
        reason: `the result has ${call.output.length} bytes; a transaction may have ${bytesHardMax}`,
      });
    return [...fresh.batches, ...refused.batches];
  }

  #sift(calls: readonly PendingResult[]): Promise<Sifted> {
    return siftBatch(calls, { simulate: (part) => this.#simulate(part), parallel: SIMULATE_PARALLEL });
  }

  /** A result alone mostly needs the gas that one like it needed. */
  async #simulate(calls: readonly PendingResult[]): Promise<Simulation> {
    const { chain } = this.#lane.options;
    const [only] = calls;
    const kind = only && calls.length === 1 ? gasKind(only) : undefined;
    const known = kind === undefined ? undefined : this.#gas.get(kind);
    const simulation = await chain.simulate(this.#lane.address, this.#request(calls), known);
    if (kind !== undefined && simulation.outcome === 'ok' && simulation.gas > (known ?? 0n)) {
      if (this.#gas.size >= GAS_KINDS_MAX) this.#gas.clear();
      this.#gas.set(kind, simulation.gas);
    }
    return simulation;
  }

  #request(calls: readonly PendingResult[]): TransactionRequest {
    const serviceId = calls[0]?.origin.serviceId ?? 0n;
    return this.#lane.options.chain.encodeResults({
      serviceId,
      callIds: calls.map((call) => call.origin.callId),
      results: calls.map((call) => call.output),
    });
  }

  #batch(good: { readonly calls: readonly PendingResult[]; readonly gas: bigint }): Batch {
    return { serviceId: good.calls[0]?.origin.serviceId ?? 0n, calls: good.calls, gas: this.#options.withGasMargin(good.gas) };
  }

  /** A batch that needs too much gas is planned again with fewer calls. */
  #fits({ serviceId, calls, gas }: Batch): boolean {
    const { gasMax } = this.#options;
    if (gas <= gasMax || calls.length === 1) return true;
    this.#callsMax.set(serviceId, Math.max(1, Math.min(calls.length - 1, Number((BigInt(calls.length) * gasMax) / gas))));
    return false;
  }

  /** False when a batch was not signed because a call of it changed meanwhile: the others of it are planned again. */
  async #sign(batches: readonly Batch[], confirmed: ReadonlySet<number>, fees: Fees): Promise<boolean> {
    const journaled: Promise<void>[] = [];
    let complete = true;
    for (const { calls, gas } of batches) {
      const sure = calls.filter((call) => confirmed.has(call.seq));
      for (const call of calls) if (!confirmed.has(call.seq)) this.#defer(call.seq);
      if (sure.length === 0) continue;
      // Fewer calls than were simulated need less gas.
      const issued = await this.#lane.issue(
        { purpose: 'results', request: this.#request(sure), gas, calls: sure.map((call) => call.seq) },
        fees,
      );
      if (issued) journaled.push(issued.journaled);
      else complete = false;
      for (const call of sure) this.#deferred.delete(call.seq);
    }
    const failed = (await Promise.allSettled(journaled)).find((outcome) => outcome.status === 'rejected');
    if (failed) throw failed.reason;
    return complete;
  }

  #show(batches: readonly Batch[], confirmed: ReadonlySet<number>): true {
    for (const { serviceId, calls, gas } of batches) {
      const sure = calls.filter((call) => confirmed.has(call.seq)).map((call) => call.seq);
      if (sure.length > 0) this.#options.emit({ type: 'dry-run', serviceId, calls: sure, gas });
      for (const seq of sure) this.#deferred.set(seq, { untilMs: Number.POSITIVE_INFINITY, untilHead: 0n, tries: 0 });
    }
    return true;
  }

  async #record(verdicts: ReadonlyMap<PendingResult, Verdict>, confirmed: ReadonlySet<number>): Promise<void> {
    const { chain, finality, ledger } = this.#lane.options;
    // Read after the simulations: what they saw is in this head or below it.
    const head = await chain.head();
    const present = { head, canonical: await this.#canonical(verdicts, head) };
    await Promise.all(
      [...verdicts].map(async ([{ seq, origin }, { kind, reason }]) => {
        const deep = head.number - origin.blockNumber >= BigInt(finality);
        if (!confirmed.has(seq) || kind === 'later' || (kind === 'unknown-call' && !deep)) {
          this.#defer(seq);
          return;
        }
        if (!this.#counts(seq, kind, present)) return;
        this.#deferred.delete(seq);
        this.#judged.delete(seq);
        this.#reverts.delete(seq);
        // The chain may have left the call while it was judged.
        if (ledger.get(seq)?.state !== 'executed') return;
        if (kind === 'closed') {
          await ledger.recordClosed(seq, reason);
          this.#options.emit({ type: 'closed', seq, reason });
          return;
        }
        const code = kind === 'too-large' ? 'PAYLOAD_TOO_LARGE' : 'RESULT_REJECTED';
        await ledger.recordRejected(seq, { code, message: reason });
        this.#options.emit({ type: 'rejected', seq, code, reason });
      }),
    );
  }

  /** The heads of earlier verdicts that are on the chain still. */
  async #canonical(verdicts: ReadonlyMap<PendingResult, Verdict>, head: BlockRef): Promise<ReadonlySet<Hex>> {
    const { chain } = this.#lane.options;
    const heads = new Map<Hex, bigint>();
    for (const { seq } of verdicts.keys()) {
      const before = this.#judged.get(seq)?.head;
      if (before && this.#isDeep(before, head)) heads.set(before.hash, before.number);
    }
    const hashes = await mapLimited([...heads.values()], SIMULATE_PARALLEL, (number) => chain.blockHash(number));
    return new Set(hashes.filter((hash) => hash !== undefined && heads.has(hash)) as Hex[]); // undefined is filtered
  }

  #isDeep(block: BlockRef, head: BlockRef): boolean {
    return head.number - block.number >= BigInt(this.#options.confirmations);
  }

  /**
   * What the contract says can leave the chain with a block, the result of another operator for one. It counts when it was said as many
   * blocks ago as an event needs; until then the call is put off.
   */
  #counts(seq: number, kind: Verdict['kind'], { head, canonical }: Present): boolean {
    if (this.#options.confirmations === 0 || kind === 'too-large') return true;
    const before = this.#judged.get(seq);
    const same = before?.kind === kind;
    if (same && this.#isDeep(before.head, head) && canonical.has(before.head.hash)) return true;
    const since = same && !this.#isDeep(before.head, head) ? before.head : head;
    if (this.#judged.size >= DEFERRED_MAX) this.#judged.clear();
    this.#judged.set(seq, { kind, head: since });
    this.#defer(seq, since.number + BigInt(this.#options.confirmations));
    return false;
  }

  #sayPaused(sifted: readonly Sifted[]): boolean {
    const reason = sifted.find((part) => part.paused !== undefined)?.paused;
    if (reason !== undefined && !this.#paused) {
      this.#options.emit({
        type: 'stalled',
        error: new RunnerError('RESULT_REJECTED', `the contract takes no results for now: ${reason}`, { retry: 'safe' }),
      });
    }
    this.#paused = reason !== undefined;
    return this.#paused;
  }

  #defer(seq: number, untilHead = 0n): void {
    if (this.#deferred.size >= DEFERRED_MAX) this.#deferred.clear();
    const tries = (this.#deferred.get(seq)?.tries ?? 0) + 1;
    const untilMs = this.#lane.options.clock.monotonic() + Math.min(DEFER_MAX_MS, this.#options.retryMs * 2 ** (tries - 1));
    this.#deferred.set(seq, { untilMs: untilHead > 0n ? 0 : untilMs, untilHead, tries });
  }

  /** Also forgets what was put off and is not executed any more. */
  #withoutDeferred(executed: readonly PendingResult[], head: BlockRef): PendingResult[] {
    const seen = new Set(executed.map((call) => call.seq));
    for (const seq of this.#deferred.keys()) if (!seen.has(seq)) this.#deferred.delete(seq);
    return executed.filter((call) => !this.#isDeferred(call.seq, head));
  }

  #isDeferred(seq: number, head: BlockRef): boolean {
    const deferral = this.#deferred.get(seq);
    return deferral !== undefined && (deferral.untilMs > this.#lane.options.clock.monotonic() || deferral.untilHead > head.number);
  }

  #end(next: TurnEnd['next']): TurnEnd {
    const nowMs = this.#lane.options.clock.monotonic();
    const dueMs = [...this.#deferred.values()].reduce((least, { untilMs }) => Math.min(least, untilMs), Number.POSITIVE_INFINITY);
    // What waits for a head looks for it as often as anything else is looked for.
    return dueMs === Number.POSITIVE_INFINITY ? { next } : { next, retryInMs: Math.max(this.#options.retryMs, dueMs - nowMs) };
  }
}

function gasKind({ origin, output }: PendingResult): string {
  return `${origin.serviceId}/${origin.jobIndex}/${Math.ceil(output.length / 32)}`;
}
