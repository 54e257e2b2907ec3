/** From the chain into the ledger: what was read is journaled before anything else happens to it. */

import type { ChainClient, ChainUpdate } from '../chain/chain.ts';
import type { Settlement } from '../chain/settlement.ts';
import { RunnerError } from '../errors.ts';
import type { ChainCall } from '../job/call.ts';
import type { BlockRef, Ledger } from '../ledger/ledger.ts';
import type { ResolvedConfig } from './config.ts';
import type { Dispatch } from './dispatch.ts';
import type { RunnerEmitter } from './events.ts';
import type { RunnerMetrics } from './metrics.ts';

export interface IntakeOptions {
  readonly chain: ChainClient;
  /** The head when the runner was opened; undefined: the chain did not answer then. */
  readonly startedAt: BlockRef | undefined;
  readonly ledger: Pick<Ledger, 'cursor' | 'recordSeen' | 'recordReorg' | 'getValue' | 'setValue'>;
  readonly settlement: Pick<Settlement, 'onHead' | 'wake'>;
  readonly dispatch: Pick<Dispatch, 'pump' | 'orphaned' | 'rescan' | 'write'>;
  readonly config: Pick<ResolvedConfig, 'serviceIds' | 'fromBlock' | 'finality'>;
  /** Results are for the chain alone: a call that needs none is not executed. */
  readonly settles: boolean;
  readonly events: RunnerEmitter;
  readonly metrics: RunnerMetrics;
  /** Awaited when the chain has answered, before it is followed. */
  readonly onConnected: () => Promise<void>;
  /** A log, or for a while the whole chain, could not be read. */
  readonly onProblem: (error: RunnerError) => void;
}

const LEDGER_CHAIN = 'chain';
const FINALITY = 12;

export class Intake {
  readonly #options: IntakeOptions;
  #head: BlockRef | undefined;
  /** Up to here nothing changes any more, as it was when following began. */
  #finalBlock = -1n;

  constructor(options: IntakeOptions) {
    this.#options = options;
  }

  /** The last block that was seen. */
  get head(): BlockRef | undefined {
    return this.#head;
  }

  /** Follows the chain from where the ledger ends. Rejects with what the chain says when following cannot help. */
  async follow(signal: AbortSignal): Promise<void> {
    const { chain, ledger, config, onConnected, onProblem } = this.#options;
    const head = await chain.head();
    this.#finalBlock = head.number - BigInt(config.finality ?? FINALITY);
    await onConnected();
    const cursor = ledger.cursor(chain.chainId, chain.contract);
    const from = cursor ? { cursor } : config.fromBlock === undefined ? {} : { fromBlock: config.fromBlock };
    for await (const update of chain.follow({ ...from, serviceIds: config.serviceIds, onProblem, signal })) {
      if (signal.aborted) return;
      await this.#take(update);
    }
  }

  /**
   * A ledger belongs to one contract of one chain: results of another would be discarded as orphans. A new one begins where the chain was at the
   * start: what came since, however long ago that is, came to a runner that runs, also when it ends before it has read anything. Throws
   * `CHAIN_MISMATCH`.
   */
  async bind(): Promise<void> {
    const { chain, ledger, dispatch, config, startedAt } = this.#options;
    const { chainId, contract } = chain;
    const own = `${chain.source}:${chainId}:${contract}`;
    const known = ledger.getValue(LEDGER_CHAIN);
    if (known !== undefined && known !== own) {
      throw new RunnerError(
        'CHAIN_MISMATCH',
        `the ledger belongs to ${known}, the runner is configured for ${own}; use another ledger file`,
        {
          details: { ledger: known, configured: own },
        },
      );
    }
    if (known === undefined) await dispatch.write(() => ledger.setValue(LEDGER_CHAIN, own));
    if (startedAt && config.fromBlock === undefined && !ledger.cursor(chainId, contract))
      await dispatch.write(() => ledger.recordSeen([], { chainId, contract, block: startedAt }));
  }

  /**
   * What was missed may have been answered meanwhile, by others or by a runner whose ledger is not here. Only what a reorg cannot reach is
   * believed; the rest is executed, and the contract refuses what it has.
   */
  async #completed(calls: readonly ChainCall[]): Promise<readonly boolean[]> {
    const { chain, settles } = this.#options;
    const last = calls.findLastIndex(({ blockNumber }) => blockNumber <= this.#finalBlock);
    if (!settles || last < 0) return [];
    return chain.completed(calls.slice(0, last + 1), this.#finalBlock);
  }

  async #take(update: ChainUpdate): Promise<void> {
    const { ledger, settlement, dispatch, events, metrics } = this.#options;
    switch (update.type) {
      case 'calls': {
        const completed = await this.#completed(update.calls);
        const outcomes = await dispatch.write(() => ledger.recordSeen(update.calls, update.cursor, completed));
        for (const [index, origin] of update.calls.entries()) {
          const outcome = outcomes[index];
          if (outcome === 'new') metrics.seen.add();
          if ((outcome === 'new' || outcome === 'restored') && events.hears('seen')) events.emit('seen', { origin, outcome });
        }
        if (outcomes.includes('restored')) {
          settlement.wake();
          dispatch.rescan();
        } else if (outcomes.length > 0) dispatch.pump();
        return;
      }
      case 'reorg': {
        const seqs = await dispatch.write(() => ledger.recordReorg(update.cursor));
        dispatch.orphaned(seqs);
        if (events.hears('reorg')) events.emit('reorg', { cursor: update.cursor, depth: update.depth });
        if (events.hears('orphaned')) for (const seq of seqs) events.emit('orphaned', { seq });
        return;
      }
      case 'head':
        this.#head = update.block;
        metrics.head(update.block.number, update.timestamp);
        settlement.onHead(update.block);
    }
  }
}
