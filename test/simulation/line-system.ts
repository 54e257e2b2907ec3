/** The real parts of the line in the simulated world: a ledger, the executor registry, settlement, and the loop between them. */

import { Settlement } from '../../src/chain/settlement.ts';
import type { ChainUpdate } from '../../src/chain/chain.ts';
import type { SettlementLedger } from '../../src/chain/nonce-lane.ts';
import type { Clock } from '../../src/clock.ts';
import { isRunnerError, toRunnerError } from '../../src/errors.ts';
import { ExecutorRegistry } from '../../src/executor/registry.ts';
import type { CallRecord, Ledger } from '../../src/ledger/ledger.ts';
import { silentTelemetry } from '../../src/telemetry/telemetry.ts';
import type { SimulatedSystem, SystemUnderTest } from '../../src/testing/simulation.ts';
import type { SimulationWorld } from '../../src/testing/simulation-world.ts';

export type LineLedger = SettlementLedger &
  Pick<Ledger, 'cursor' | 'recordSeen' | 'recordReorg' | 'waiting' | 'recordAttempt' | 'recordExecuted' | 'recordFailed'>;

/** Where the ledger lies between two lives. */
export interface LedgerStore {
  open(life: number, clock: Clock): Promise<LineLedger>;
  /** The process of this life is gone: what is durable now is what the next one opens. Synchronous. */
  keep(life: number): void;
  dispose(): Promise<void>;
}

const RUNNING_MAX = 16;
const RETRY_MS = 1_000;
const STOP_MS = 60_000;

export function lineSystem(store: LedgerStore): SimulatedSystem {
  return {
    start(world) {
      const line = new Line(world, () => store.keep(world.life));
      return { system: line, ready: store.open(world.life, world.clock).then((ledger) => line.start(world.ledger(ledger))) };
    },
    dispose: () => store.dispose(),
  };
}

class Line implements SystemUnderTest {
  readonly #world: SimulationWorld;
  readonly #keep: () => void;
  readonly #end = new AbortController();
  readonly #registry: ExecutorRegistry;
  readonly #running = new Map<number, Promise<void>>();
  #parts: { readonly ledger: LineLedger; readonly settlement: Settlement; readonly following: Promise<void> } | undefined;

  constructor(world: SimulationWorld, keep: () => void) {
    this.#world = world;
    this.#keep = keep;
    const { clock, executor, random } = world;
    const policy = { attemptsMax: 20, idempotent: true, timeoutMs: 30_000 };
    this.#registry = new ExecutorRegistry({ local: executor, clock, policy, random: () => random.next() });
  }

  async start(ledger: LineLedger): Promise<void> {
    const { chain, signer, clock, confirmations, finality } = this.#world;
    const settlement = new Settlement({ chain, ledger, signer, clock, telemetry: silentTelemetry, confirmations, finality });
    await settlement.start();
    this.#parts = { ledger, settlement, following: this.#follow(ledger, settlement) };
    this.#dispatch(ledger, settlement);
  }

  crash(): void {
    this.#keep();
  }

  async stop(): Promise<void> {
    this.#end.abort();
    await this.#parts?.following;
    await Promise.all(this.#running.values());
    await this.#parts?.settlement.drain(this.#world.clock.now() + STOP_MS);
    await this.#registry.close();
  }

  inspect(): { readonly queued: number; readonly queuedMax: number } {
    return { queued: this.#running.size, queuedMax: RUNNING_MAX };
  }

  async #follow(ledger: LineLedger, settlement: Settlement): Promise<void> {
    const { chain } = this.#world;
    const cursor = ledger.cursor(chain.chainId, chain.contract);
    const from = cursor ? { cursor } : { fromBlock: 0n };
    for await (const update of chain.follow({ ...from, signal: this.#end.signal })) {
      await this.#untilDiskTakes(() => this.#take(update, ledger, settlement));
      this.#dispatch(ledger, settlement);
    }
  }

  async #take(update: ChainUpdate, ledger: LineLedger, settlement: Settlement): Promise<void> {
    switch (update.type) {
      case 'calls':
        await ledger.recordSeen(update.calls, update.cursor);
        settlement.wake();
        return;
      case 'reorg':
        await ledger.recordReorg(update.cursor);
        return;
      case 'head':
        settlement.onHead(update.block);
    }
  }

  #dispatch(ledger: LineLedger, settlement: Settlement): void {
    if (this.#end.signal.aborted) return;
    const free = RUNNING_MAX - this.#running.size;
    const waiting = ledger.waiting(0, RUNNING_MAX * 2).filter((record) => !this.#running.has(record.seq));
    for (const record of waiting.slice(0, free)) {
      const done = this.#execute(record, ledger, settlement).finally(() => {
        this.#running.delete(record.seq);
        this.#dispatch(ledger, settlement);
      });
      this.#running.set(record.seq, done);
    }
  }

  async #execute({ seq, call, attempts }: CallRecord, ledger: LineLedger, settlement: Settlement): Promise<void> {
    const { clock } = this.#world;
    try {
      const { results, executor } = await this.#registry.execute(call, {
        signal: this.#end.signal,
        attemptsBefore: attempts,
        onAttempt: (number, name, reason) => ledger.recordAttempt(seq, { number, executor: name, reason }),
      });
      const kept = await this.#untilDiskTakes(() => ledger.recordExecuted(seq, results[0], { executor, durationMs: 1 }));
      if (kept) settlement.wake();
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (error.code === 'INTERNAL') throw error;
      if (error.retryable) await clock.sleep(RETRY_MS, this.#end.signal).catch(() => undefined);
      else await this.#untilDiskTakes(() => ledger.recordFailed(seq, error));
    }
  }

  async #untilDiskTakes<T>(write: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await write();
      } catch (error) {
        if (!isRunnerError(error) || error.code !== 'LEDGER_FULL') throw error;
        await this.#world.clock.sleep(RETRY_MS);
      }
    }
  }
}
