/**
 * Results to the chain, exactly once.
 *
 * Executed calls are taken from the ledger, put into batches, simulated, checked against the canonical chain and then signed, in this
 * order and in one turn: between the check and the signature nothing else happens, because after a reorg the same call id can carry
 * other inputs. A signed transaction is in the ledger before it is sent, so a crash at any point leaves either an executed call or a
 * journaled transaction, and the next start goes on from there. Nothing here throws at the runner: failures are waited out.
 */

import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { Address } from '../job/call.ts';
import type { BlockRef } from '../ledger/ledger.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { SettlementChain, SettlementLedger, Signer, TransactionSender } from './chain.ts';
import { checkFeePolicy } from './fees.ts';
import { LaneKeeper } from './lane-keeper.ts';
import type { LaneEvent } from './nonce-lane.ts';
import { NonceLane } from './nonce-lane.ts';
import { OwnTransactions } from './own-transactions.ts';
import type { ResultEvent } from './result-batches.ts';
import { ResultBatches } from './result-batches.ts';
import { DEFAULTS, checkOptions } from './settlement-defaults.ts';
import { settlementMetrics } from './settlement-metrics.ts';
import { within } from './within.ts';

export type SettlementEvent = LaneEvent | ResultEvent;

export interface SettlementOptions {
  readonly chain: SettlementChain;
  readonly ledger: SettlementLedger;
  /** Without one, results stay executed and `SIGNER_MISSING` is reported once. */
  readonly signer?: Signer;
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  /** Blocks on top of the event of a call before its result is signed. Default 1. */
  readonly confirmations?: number;
  /** Blocks on top of a transaction before it is final. Default 12. */
  readonly finality?: number;
  /** Results per transaction. Default 100. */
  readonly batchMax?: number;
  /** How long a result waits for others; doubled per transaction in flight, so that batches grow under load. Default 20. */
  readonly batchWaitMs?: number;
  /** Transactions in flight. Default 16. */
  readonly inFlightMax?: number;
  /** How often the chain is asked while something is in flight and no head is announced. Default 1000. */
  readonly pollMs?: number;
  /** A transaction that the node does not know is sent again after this. Default 3000. */
  readonly resendAfterMs?: number;
  /** A transaction that is not mined gets a higher fee after this time and `resubmitAfterBlocks`. Defaults 30000 and 3. */
  readonly resubmitAfterMs?: number;
  readonly resubmitAfterBlocks?: number;
  /** At least 12.5. Default 12.5. */
  readonly feeBumpPercent?: number;
  /** Never offer more, wei per gas. Default 1000 gwei. */
  readonly maxFeePerGas?: bigint;
  /** Gas of a transaction with several results. Default 15 million: networks cap a transaction at 2^24. */
  readonly gasMax?: bigint;
  /** Gas above the estimate, in percent: whoever completes a call pays for its distribution. Default 30. */
  readonly gasMarginPercent?: number;
  /** Bytes of a transaction with several results. Default 120000: public pools take 128 KiB. */
  readonly transactionBytesMax?: number;
  /** Bytes of a transaction with one result; a larger one is rejected. Default 130048. */
  readonly transactionBytesHardMax?: number;
  /** All but signing and sending; calls stay executed. */
  readonly dryRun?: boolean;
  readonly onEvent?: (event: SettlementEvent) => void;
}

export interface SettlementStatus {
  readonly account: Address | undefined;
  readonly head: bigint | undefined;
  readonly nextNonce: number | undefined;
  /** Nonces in flight. */
  readonly pending: number;
  readonly oldestPendingMs: number | undefined;
  readonly lastError: RunnerError | undefined;
}

const BACKOFF_MS = 250;
const BACKOFF_MAX_MS = 10_000;
const WAIT_MAX_MS = 5_000;
/** Longer than a request may take. */
const UNANSWERED_MS = 15_000;
/** What an operator has to hear. Some nodes find out about the money when they simulate. */
const SAID_ONCE: readonly string[] = ['TX_UNDERFUNDED', 'LEDGER_FULL', 'LEDGER_CORRUPT'];
const ANY_BLOCK = (1n << 63n) - 1n;

/** What works for one account. */
interface Desk {
  readonly lane: NonceLane;
  readonly keeper: LaneKeeper;
  readonly results: ResultBatches;
  readonly own: OwnTransactions;
}

/**
 * Settles results for one account. `start`, then tell it of heads (`onHead`) and of new results (`wake`); one serial loop does the rest.
 * At most one result is settled per call: the ledger gives a call to one transaction at a time, the log of the call is checked right
 * before signing, and a nonce is used by one transaction only. Order: by arrival per service, as far as nothing is put off.
 *
 * @example
 * const settlement = new Settlement({ chain, ledger, signer, clock: systemClock, telemetry: silentTelemetry });
 * await settlement.start();
 * settlement.wake(); // a result was journaled
 * await settlement.drain(Date.now() + 30_000);
 */
export class Settlement {
  readonly #options: SettlementOptions & typeof DEFAULTS;
  readonly #desk: Desk | undefined;
  readonly #count: (event: SettlementEvent) => void;
  #state: 'new' | 'running' | 'draining' | 'closed' = 'new';
  #turn: Promise<void> | undefined;
  #closing: Promise<void> | undefined;
  #pollDueMs = 0;
  #workDueMs = 0;
  #polledAtMs = Number.NEGATIVE_INFINITY;
  #notBeforeMs = 0;
  #failures = 0;
  #wakes = 0;
  /** Results wait for a free nonce. */
  #waitsForSlot = false;
  #saidSignerMissing = false;
  #headHash: string | undefined;
  #cancelTimer: (() => void) | undefined;

  /** Throws `CONFIG_INVALID`. */
  constructor(options: SettlementOptions) {
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
    this.#options = checkOptions({ ...options, ...DEFAULTS, ...given });
    this.#count = settlementMetrics(options.telemetry.metrics);
    if (options.signer) this.#desk = this.#openDesk(options.signer);
  }

  /**
   * Takes up what the last run left: every transaction in flight is looked up, and recorded as mined or sent again. Resolves after the
   * first look at the chain, also when it failed or nobody answers; the loop goes on.
   */
  async start(): Promise<void> {
    if (this.#state !== 'new') throw new RunnerError('STATE_INVALID', `settlement is ${this.#state}; it can be started once`);
    this.#state = 'running';
    this.#go();
    await within(this.#options.clock, UNANSWERED_MS, this.#turn);
  }

  /** The chain has a new head. */
  onHead(block: BlockRef): void {
    if (block.hash === this.#headHash) return;
    this.#headHash = block.hash;
    this.#pollDueMs = 0;
    this.#workDueMs = 0;
    this.#go();
  }

  /** A result was journaled. Results that come close together go together. */
  wake(): void {
    this.#wakes += 1;
    const { batchMax, batchWaitMs } = this.#options;
    const waitMs = this.#wakes >= batchMax ? 0 : Math.min(WAIT_MAX_MS, batchWaitMs * 2 ** this.#inFlight());
    const dueMs = this.#nowMs() + waitMs;
    if (dueMs >= this.#workDueMs) return;
    this.#workDueMs = dueMs;
    this.#go();
  }

  /** Sends transactions of the operator through the same nonces. Throws `SIGNER_MISSING`, or `STATE_INVALID` in a dry run. */
  sender(): TransactionSender {
    if (!this.#desk) throw signerMissing();
    if (this.#options.dryRun) throw new RunnerError('STATE_INVALID', 'this is a dry run: no transaction is sent');
    return this.#desk.own;
  }

  status(): SettlementStatus {
    const lane = this.#desk?.lane;
    const oldest = lane?.pending().reduce((at, version) => Math.min(at, version.createdAt), Number.POSITIVE_INFINITY);
    return {
      account: lane?.address,
      head: lane?.head?.number,
      nextNonce: lane?.head && lane.nextNonce(),
      pending: this.#inFlight(),
      oldestPendingMs:
        oldest === undefined || oldest === Number.POSITIVE_INFINITY ? undefined : Math.max(0, this.#options.clock.now() - oldest),
      lastError: lane?.lastError,
    };
  }

  /**
   * Waits for what is on its way and for what can be signed now, then closes; at the latest at `deadline` (milliseconds since the
   * epoch). Resolves with whether all was mined. What was not, and results that wait for blocks, are taken up at the next start.
   */
  async drain(deadline: number): Promise<boolean> {
    const { clock, pollMs, dryRun } = this.#options;
    const endMs = this.#nowMs() + deadline - clock.now();
    const turnEnds = (): Promise<void> => within(clock, endMs - this.#nowMs(), this.#turn);
    if (this.#state === 'running') this.#state = 'draining';
    while (this.#state === 'draining') {
      this.#pollDueMs = 0;
      this.#workDueMs = 0;
      // A turn that is going on may have looked before the last result or head.
      await turnEnds();
      this.#go();
      await turnEnds();
      const leftMs = dryRun ? 0 : endMs - this.#nowMs();
      if (leftMs <= 0 || (this.#inFlight() === 0 && !this.#desk?.results.ready)) break;
      await clock.sleep(Math.min(pollMs, leftMs));
    }
    const settled = this.#isSettled();
    await this.close();
    return settled;
  }

  /** Ends after the turn that is going on, unless nobody answers it. What is in flight stays in the ledger. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#state = 'closed';
    this.#cancelTimer?.();
    const { lane, own } = this.#desk ?? {};
    await within(
      this.#options.clock,
      UNANSWERED_MS,
      Promise.resolve(this.#turn).then(() => lane?.quiet()),
    );
    own?.close();
  }

  #openDesk(signer: Signer): Desk {
    const { chain, ledger, clock, telemetry, finality, inFlightMax, resendAfterMs, ...rest } = this.#options;
    const withGasMargin = (gas: bigint): bigint => gas + (gas * BigInt(Math.ceil(rest.gasMarginPercent))) / 100n;
    const emit = (event: SettlementEvent): void => this.#emit(event);
    const fees = checkFeePolicy({ bumpPercent: rest.feeBumpPercent, maxFeePerGasCap: rest.maxFeePerGas });
    const lane = new NonceLane({
      chain,
      ledger,
      signer,
      clock,
      log: telemetry.log.child({ room: 'settlement' }),
      fees,
      finality,
      inFlightMax,
      resendAfterMs,
      bumpAfterMs: rest.resubmitAfterMs,
      bumpAfterBlocks: rest.resubmitAfterBlocks,
      emit,
    });
    const results = new ResultBatches(lane, {
      confirmations: rest.confirmations,
      batchMax: rest.batchMax,
      gasMax: rest.gasMax,
      withGasMargin,
      bytesMax: rest.transactionBytesMax,
      bytesHardMax: rest.transactionBytesHardMax,
      retryMs: rest.pollMs,
      dryRun: rest.dryRun ?? false,
      emit,
    });
    const wake = (): void => {
      this.#pollDueMs = 0;
      this.#go();
    };
    return { lane, keeper: new LaneKeeper(lane), results, own: new OwnTransactions(lane.address, { chain, wake, withGasMargin }) };
  }

  #emit(event: SettlementEvent): void {
    this.#count(event);
    if (this.#desk && event.type !== 'rejected' && event.type !== 'closed' && event.type !== 'dry-run') {
      this.#desk.results.observe(event);
      this.#desk.own.observe(event);
    }
    try {
      this.#options.onEvent?.(event);
    } catch (error) {
      this.#options.telemetry.log.error('a listener of settlement threw', { event: event.type, error });
    }
  }

  #nowMs(): number {
    return this.#options.clock.monotonic();
  }

  #inFlight(): number {
    return this.#desk?.lane.inFlight() ?? 0;
  }

  #isSettled(): boolean {
    return this.#inFlight() === 0 && this.#options.ledger.settleable(ANY_BLOCK, 1).length === 0;
  }

  /** Runs turns while something is due, one after the other; then waits for the next. */
  #go(): void {
    if (this.#turn || (this.#state !== 'running' && this.#state !== 'draining')) return;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const dueMs = Math.max(this.#notBeforeMs, Math.min(this.#pollDueMs, this.#workDueMs));
    if (dueMs === Number.POSITIVE_INFINITY) return;
    const waitMs = dueMs - this.#nowMs();
    if (waitMs > 0) {
      this.#cancelTimer = this.#options.clock.after(waitMs, () => this.#go());
      return;
    }
    this.#turn = this.#oneTurn().finally(() => {
      this.#turn = undefined;
      this.#go();
    });
  }

  /** Never rejects. */
  async #oneTurn(): Promise<void> {
    const workIsDue = this.#nowMs() >= this.#workDueMs;
    try {
      if (workIsDue) this.#workDueMs = Number.POSITIVE_INFINITY;
      if (this.#desk) await this.#work(this.#desk, workIsDue);
      else this.#sayWithoutSigner();
      this.#failures = 0;
      for (const code of SAID_ONCE) this.#desk?.lane.unstall(`${code} in a turn`);
    } catch (thrown) {
      const error = toRunnerError(thrown);
      this.#desk?.lane.note(error);
      if (SAID_ONCE.includes(error.code)) this.#desk?.lane.stall(`${error.code} in a turn`, error);
      const waitMs = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** Math.min(this.#failures, 10));
      this.#failures += 1;
      this.#notBeforeMs = this.#nowMs() + waitMs;
      this.#pollDueMs = 0;
      this.#workDueMs = 0;
    }
  }

  async #work({ lane, keeper, results, own }: Desk, workIsDue: boolean): Promise<void> {
    const { chain, dryRun, pollMs } = this.#options;
    const errorBefore = lane.lastError;
    if (!lane.knowsChain) await chain.head();
    if (!own.waiting && lane.mined().length === 0 && this.#isSettled()) {
      this.#pollDueMs = Number.POSITIVE_INFINITY;
      this.#wakes = 0;
      return;
    }
    let mayWork = workIsDue;
    let failure: RunnerError | undefined;
    const headBefore = lane.head?.hash;
    if (this.#nowMs() >= this.#pollDueMs || this.#nowMs() - this.#polledAtMs >= pollMs) {
      this.#pollDueMs = Number.POSITIVE_INFINITY;
      await (dryRun ? keeper.look() : keeper.poll());
      this.#polledAtMs = this.#nowMs();
      if (!dryRun)
        failure = await keeper.tend().then(
          () => undefined,
          (thrown: unknown) => toRunnerError(thrown),
        );
      mayWork ||= this.#waitsForSlot || lane.head?.hash !== headBefore;
    }
    if (own.waiting) await own.submit(lane);
    if (mayWork) {
      this.#wakes = 0;
      const end = await results.settle();
      this.#waitsForSlot = end.next === 'slot';
      const inMs = end.next === 'now' ? 0 : (end.retryInMs ?? Number.POSITIVE_INFINITY);
      this.#workDueMs = Math.min(this.#workDueMs, this.#nowMs() + inMs);
    }
    if (failure) throw failure;
    // Also without anybody who announces heads. What a dry run has shown stays executed for ever: there only heads count.
    if (!dryRun) this.#pollDueMs = Math.min(this.#pollDueMs, this.#polledAtMs + pollMs);
    if (lane.lastError === errorBefore) lane.note(undefined);
  }

  #sayWithoutSigner(): void {
    this.#pollDueMs = Number.POSITIVE_INFINITY;
    if (this.#saidSignerMissing || this.#options.ledger.settleable(ANY_BLOCK, 1).length === 0) return;
    this.#saidSignerMissing = true;
    this.#emit({ type: 'stalled', error: signerMissing() });
  }
}

function signerMissing(): RunnerError {
  return new RunnerError('SIGNER_MISSING', 'results are to be settled, but no account is configured: they stay in the ledger');
}
