/**
 * Brings what one account sent to its end: reads receipts, notices reorgs, sends again, raises fees, replaces what carries orphaned
 * calls, fills gaps. Everything follows from the journal and the chain, so this is also the recovery after a crash.
 */

import { RunnerError, toRunnerError } from '../errors.ts';
import type { BlockRef, LedgerTransaction } from '../ledger/ledger.ts';
import { mapLimited } from '../map-limited.ts';
import type { Receipt, ResultBatch, TransactionRequest } from './chain.ts';
import type { Draft, NonceLane, Sighting } from './nonce-lane.ts';
import { transactionContent } from './signed-transaction.ts';

interface View {
  readonly head: BlockRef;
  /** Nonces below are used on the chain. */
  readonly latest: number;
  /** Nonces below are known to the node. */
  readonly known: number;
  /** Whether the head differs from that of the view before. */
  readonly moved: boolean;
}

interface Repair {
  readonly how: 'resend' | 'bump' | 'replace' | 'give-up';
  readonly newest: LedgerTransaction;
  /** The calls that still want this transaction. */
  readonly keep: readonly number[];
  /** The node does not know it. */
  readonly unknown: boolean;
}

/** A nonce that seems used by something else, or by nothing, must seem so for this long: endpoints lag behind each other. */
const SURE_AFTER_BLOCKS = 2n;
const SURE_AFTER_MS = 15_000;
/** Where blocks come faster than endpoints learn of them. */
const SURE_MS_MIN = 3_000;
const RPC_PARALLEL = 8;
const CANCEL_GAS = 21_000n;
/** Nonces that are filled below one in flight; more of them are no gap, but a count that an endpoint got wrong once. */
const GAPS_MAX = 256;

export class LaneKeeper {
  readonly #lane: NonceLane;
  #view: View | undefined;
  readonly #usedSince = new Map<number, Sighting>();
  readonly #gapSince = new Map<number, Sighting>();

  constructor(lane: NonceLane) {
    this.#lane = lane;
  }

  /** Learns the head and nothing else: for a dry run. */
  async look(): Promise<void> {
    this.#lane.observe(await this.#lane.options.chain.head(), 0, false);
  }

  /** Looks at the chain and writes down what happened there. Failures of the chain and the ledger reject. */
  async poll(): Promise<void> {
    const { chain } = this.#lane.options;
    const { address } = this.#lane;
    const inFlight = this.#lane.pending().length > 0;
    // Nonces are read before receipts: a nonce that is used has its receipt then, when one of ours used it.
    const [head, latest, known] = await Promise.all([
      chain.head(),
      chain.nonce(address, 'latest'),
      inFlight ? chain.nonce(address, 'pending') : 0,
    ]);
    const moved = head.hash !== this.#view?.head.hash;
    const reorganised = moved && (await this.#checkMined(head));
    this.#lane.observe(head, latest, reorganised);
    this.#view = { head, latest, known: Math.max(known, latest), moved };
    await this.#readReceipts();
  }

  /** Acts on what the last poll showed. */
  async tend(): Promise<void> {
    const view = this.#view;
    if (!view) return;
    const nonces = Map.groupBy(this.#lane.pending(), (version) => version.nonce);
    const claimed = new Set<number>();
    const repairs: Repair[] = [];
    for (const [nonce, versions] of nonces) {
      if (nonce < view.latest) {
        await this.#judgeUsed(nonce, versions);
        continue;
      }
      this.#usedSince.delete(nonce);
      const newest = versions.at(-1);
      const repair = newest && this.#repairOf(newest, view, claimed);
      if (repair) repairs.push(repair);
    }
    await this.#perform(repairs);
    await this.#fillGaps(view);
    for (const nonce of this.#usedSince.keys()) if (!nonces.has(nonce)) this.#usedSince.delete(nonce);
    this.#lane.forget();
  }

  /** Are the blocks of what is mined still on the chain? True when one is not. Makes final what is deep enough. */
  async #checkMined(head: BlockRef): Promise<boolean> {
    const { chain, ledger, finality, emit } = this.#lane.options;
    const mined = this.#lane.mined();
    if (mined.length === 0) return false;
    const numbers = [...new Set(mined.map((version) => blockOf(version).number))];
    const hashes = new Map(await mapLimited(numbers, RPC_PARALLEL, async (number) => [number, await chain.blockHash(number)] as const));
    const gone = mined.filter((version) => {
      const { number, hash } = blockOf(version);
      const now = hashes.get(number);
      return now === undefined ? number > head.number : now !== hash;
    });
    await Promise.all(gone.map((version) => ledger.recordUnmined(version.id)));
    this.#lane.reread();
    for (const { nonce, calls } of gone) emit({ type: 'healed', how: 'unmined', nonce, calls });
    // What this endpoint could not show must not become final with the rest.
    const unseen = numbers.filter((number) => hashes.get(number) === undefined);
    const throughBlock = unseen.reduce((through, number) => (number <= through ? number - 1n : through), head.number - BigInt(finality));
    const deep = this.#lane.mined().filter((version) => blockOf(version).number <= throughBlock);
    if (deep.length > 0) {
      await ledger.recordFinal(chain.chainId, throughBlock);
      this.#lane.reread();
      const calls = deep.filter((version) => version.state === 'mined').flatMap((version) => version.calls);
      if (calls.length > 0) emit({ type: 'final', calls, throughBlock });
    }
    return gone.length > 0;
  }

  async #readReceipts(): Promise<void> {
    const pending = this.#lane.pending();
    if (pending.length === 0) return;
    const receipts = await this.#lane.options.chain.receipts(pending.map((version) => version.hash));
    await this.#recordMined(pending, receipts);
  }

  async #recordMined(versions: readonly LedgerTransaction[], receipts: readonly (Receipt | undefined)[]): Promise<boolean> {
    const { clock, ledger, emit } = this.#lane.options;
    const mined = versions.flatMap((version, index) => {
      const receipt = receipts[index];
      return receipt ? [{ version, receipt }] : [];
    });
    await Promise.all(mined.map(({ version, receipt }) => ledger.recordMined(version.id, receipt)));
    if (mined.length > 0) this.#lane.reread();
    for (const { version, receipt } of mined) {
      const { hash, nonce, purpose, calls } = version;
      const signedAt = versions.reduce((at, other) => (other.nonce === nonce ? Math.min(at, other.createdAt) : at), version.createdAt);
      emit({ type: 'mined', hash, nonce, purpose, calls, receipt, waitedMs: Math.max(0, clock.now() - signedAt) });
    }
    return mined.length > 0;
  }

  /** The nonce is used on the chain, and no version in flight has a receipt. */
  async #judgeUsed(nonce: number, versions: readonly LedgerTransaction[]): Promise<void> {
    const { chain, ledger, emit } = this.#lane.options;
    if (!this.#isSure(this.#usedSince, nonce)) return;
    this.#usedSince.delete(nonce);
    // A version that another one had replaced may be the one that a reorg brought back.
    const flying = new Set(versions.map((version) => version.id));
    const seqs = new Set(versions.flatMap((version) => version.calls));
    const others = [...seqs]
      .flatMap((seq) => ledger.transactionsOf(seq))
      .filter((version) => version.nonce === nonce && version.account === versions[0]?.account && !flying.has(version.id));
    const unique = [...new Map(others.map((version) => [version.id, version])).values()];
    if (unique.length > 0 && (await this.#recordMined(unique, await chain.receipts(unique.map((version) => version.hash))))) return;
    await Promise.all(versions.map((version) => ledger.recordDropped(version.id, `nonce ${nonce} was used by another transaction`)));
    this.#lane.reread();
    emit({ type: 'healed', how: 'dropped', nonce, calls: [...seqs] });
  }

  #repairOf(newest: LedgerTransaction, view: View, claimed: Set<number>): Repair | undefined {
    const { clock, ledger } = this.#lane.options;
    const sent = this.#lane.sentAt(newest);
    const unknown = sent === undefined || (newest.nonce >= view.known && clock.monotonic() - sent.lastMs >= this.#lane.resendAfterMs());
    const bump = !this.#lane.underfunded && (this.#lane.isOutbid(newest.nonce) || this.#isStuck(newest, view));
    const refused = newest.purpose !== 'cancel' && this.#lane.isRefused(newest);
    if (!view.moved && !unknown && !bump && !refused) return undefined;
    const keep = newest.calls.filter((seq) => !claimed.has(seq) && ledger.get(seq)?.state === 'submitted');
    for (const seq of newest.calls) claimed.add(seq);
    if (refused) return { how: 'give-up', newest, keep: [], unknown };
    if (keep.length < newest.calls.length) return { how: 'replace', newest, keep, unknown };
    if (bump) return { how: 'bump', newest, keep, unknown };
    return unknown ? { how: 'resend', newest, keep, unknown } : undefined;
  }

  /** The first in line is known and not mined, for long. */
  #isStuck(newest: LedgerTransaction, view: View): boolean {
    const { clock, bumpAfterMs, bumpAfterBlocks } = this.#lane.options;
    const sent = this.#lane.sentAt(newest);
    if (newest.nonce !== view.latest || sent === undefined) return false;
    // The time of the signature outlasts a restart, that of the sending a clock that was set back.
    const waitedMs = Math.max(clock.now() - newest.createdAt, clock.monotonic() - sent.atMs);
    return waitedMs >= bumpAfterMs && view.head.number - sent.head >= BigInt(bumpAfterBlocks);
  }

  /** One repair that fails does not stop the others; the first failure is thrown at the end. */
  async #perform(repairs: readonly Repair[]): Promise<void> {
    if (repairs.length === 0) return;
    const { ledger } = this.#lane.options;
    const origins = repairs.flatMap((repair) =>
      repair.keep.flatMap((seq) => {
        const origin = ledger.get(seq)?.call.origin;
        return origin ? [{ seq, origin }] : [];
      }),
    );
    const confirmed = await this.#lane.confirm(origins);
    let failure: RunnerError | undefined;
    for (const repair of repairs) {
      try {
        await this.#performOne(repair, confirmed);
      } catch (thrown) {
        failure ??= toRunnerError(thrown);
      }
    }
    if (failure) throw failure;
  }

  async #performOne({ how, newest, keep, unknown }: Repair, confirmed: ReadonlySet<number>): Promise<void> {
    const { emit } = this.#lane.options;
    const sure = keep.filter((seq) => confirmed.has(seq));
    if (how === 'give-up') {
      const { nonce, calls } = newest;
      if (await this.#reissue(newest, await this.#cancel())) emit({ type: 'healed', how: 'refused', nonce, calls });
      return;
    }
    if (how === 'replace') {
      await this.#reissue(newest, sure.length > 0 ? this.#resultsAgain(newest, sure) : await this.#cancel());
      return;
    }
    // Not seen on the chain just now: it may be orphaned, or the endpoint lags. Nothing of it is signed or sent before that is known.
    if (sure.length < keep.length) return;
    if (how === 'bump') {
      const bumped = await this.#reissue(newest, {
        purpose: newest.purpose,
        request: transactionContent(newest.raw),
        gas: newest.gas,
        calls: keep,
      });
      if (bumped || !unknown) return;
    }
    const again = this.#lane.sentAt(newest) !== undefined;
    await this.#lane.send(newest);
    if (again) emit({ type: 'healed', how: 'resent', nonce: newest.nonce, calls: newest.calls });
  }

  async #reissue(newest: LedgerTransaction, draft: Draft): Promise<boolean> {
    const fees = await this.#lane.fees(newest);
    const version = fees && (await this.#lane.reissue(draft, newest.nonce, fees));
    if (!version) return false;
    const { hash, nonce, calls, maxFeePerGas } = version;
    this.#lane.options.emit({ type: 'bumped', hash, nonce, calls, maxFeePerGas });
    return true;
  }

  /** The same transaction with fewer calls: it needs less gas than it had. */
  #resultsAgain(newest: LedgerTransaction, calls: readonly number[]): Draft {
    const { chain, ledger } = this.#lane.options;
    const batch: { serviceId: bigint; callIds: bigint[]; results: Uint8Array[] } = { serviceId: 0n, callIds: [], results: [] };
    for (const seq of calls) {
      const record = ledger.get(seq);
      if (!record?.call.origin || !record.output)
        throw new RunnerError('INTERNAL', `call ${seq} is submitted without a result in the ledger`);
      batch.serviceId = record.call.origin.serviceId;
      batch.callIds.push(record.call.origin.callId);
      batch.results.push(record.output);
    }
    return { purpose: 'results', request: chain.encodeResults(batch satisfies ResultBatch), gas: newest.gas, calls };
  }

  /** Does nothing but use its nonce. */
  async #cancel(): Promise<Draft> {
    const request: TransactionRequest = { to: this.#lane.address, data: '0x' };
    const simulation = await this.#lane.options.chain.simulate(this.#lane.address, request);
    const gas = simulation.outcome === 'ok' && simulation.gas > CANCEL_GAS ? simulation.gas : CANCEL_GAS;
    return { purpose: 'cancel', request, gas, calls: [] };
  }

  /** Nonces that nothing uses, below one in flight: what stood there left the chain and is not in the journal any more. */
  async #fillGaps(view: View): Promise<void> {
    const used = new Set([...this.#lane.pending(), ...this.#lane.mined()].map((version) => version.nonce));
    for (const nonce of this.#gapSince.keys()) if (used.has(nonce) || nonce < view.latest) this.#gapSince.delete(nonce);
    if (await this.#dropFar(view, used)) return;
    const highest = this.#lane.pending().at(-1)?.nonce ?? 0;
    for (let nonce = view.latest; nonce < highest; nonce += 1) {
      if (used.has(nonce) || !this.#isSure(this.#gapSince, nonce)) continue;
      const fees = await this.#lane.fees();
      if (!fees) return;
      await (
        await this.#lane.issue(await this.#cancel(), fees, nonce)
      )?.journaled;
      this.#lane.options.emit({ type: 'healed', how: 'filled', nonce, calls: [] });
    }
  }

  /** To fill the nonces below would cost more than the results are worth: their calls go with nonces that are next. False: none is so far up. */
  async #dropFar(view: View, used: ReadonlySet<number>): Promise<boolean> {
    const { ledger, emit } = this.#lane.options;
    const ahead = [...used].filter((nonce) => nonce >= view.latest).toSorted((a, b) => a - b);
    const far = ahead.find((nonce, below) => nonce - view.latest - below > GAPS_MAX);
    const versions = this.#lane.pending().filter((version) => far !== undefined && version.nonce >= far);
    if (far === undefined || versions.length === 0) return false;
    if (!this.#isSure(this.#gapSince, far - 1)) return true;
    const reason = `the next nonce of the account is ${view.latest}`;
    await Promise.all(versions.map((version) => ledger.recordDropped(version.id, reason)));
    this.#lane.reread();
    this.#lane.observe(view.head, view.latest, true);
    for (const [nonce, dropped] of Map.groupBy(versions, (version) => version.nonce))
      emit({ type: 'healed', how: 'dropped', nonce, calls: [...new Set(dropped.flatMap((version) => version.calls))] });
    return true;
  }

  #isSure(since: Map<number, Sighting>, nonce: number): boolean {
    const now: Sighting = { head: this.#view?.head.number ?? 0n, atMs: this.#lane.options.clock.monotonic() };
    const first = since.get(nonce);
    if (!first) {
      since.set(nonce, now);
      return false;
    }
    const passedMs = now.atMs - first.atMs;
    return passedMs >= SURE_AFTER_MS || (passedMs >= SURE_MS_MIN && now.head - first.head >= SURE_AFTER_BLOCKS);
  }
}

function blockOf(version: LedgerTransaction): BlockRef {
  if (!version.block) throw new RunnerError('INTERNAL', `transaction ${version.hash} is mined without a block in the ledger`);
  return version.block;
}
