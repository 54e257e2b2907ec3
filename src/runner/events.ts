/** What a runner tells its listeners. */

import { EventEmitter } from 'eventemitter3';
import type { SettlementEvent } from '../chain/settlement.ts';
import type { RunnerError } from '../errors.ts';
import type { ChainCall, JobCall, JobResult } from '../job/call.ts';
import type { Cursor } from '../ledger/ledger.ts';
import type { Logger } from '../telemetry/telemetry.ts';

/**
 * - `created` -> `starting` -> `running` -> `draining` -> `stopped`
 * - `failed`: the start did not succeed, or the runner ended because of an error
 */
export type RunnerState = 'created' | 'starting' | 'running' | 'draining' | 'stopped' | 'failed';

type OfSettlement<Type extends SettlementEvent['type']> = Extract<SettlementEvent, { readonly type: Type }>;

export interface ExecutedCall {
  /** Row of the ledger; undefined without a ledger. */
  readonly seq: number | undefined;
  readonly call: JobCall;
  /** The first is settled. */
  readonly results: readonly JobResult[];
  readonly executor: string;
  readonly attempt: number;
  readonly durationMs: number;
}

export interface RunnerEvents {
  state: [state: RunnerState, before: RunnerState];
  /** A call of the chain was journaled; `restored`: it was orphaned before. */
  seen: [event: { readonly origin: ChainCall; readonly outcome: 'new' | 'restored' }];
  attempt: [
    event: { readonly seq: number; readonly call: JobCall; readonly attempt: number; readonly executor: string; readonly reason: string },
  ];
  executed: [event: ExecutedCall];
  /** The call will not be tried again by itself; with a ledger `runner.retry(seq)` does. */
  failed: [event: { readonly seq: number | undefined; readonly call: JobCall; readonly error: RunnerError }];
  submitted: [event: OfSettlement<'submitted'>];
  mined: [event: OfSettlement<'mined'>];
  final: [event: OfSettlement<'final'>];
  rejected: [event: OfSettlement<'rejected'>];
  closed: [event: OfSettlement<'closed'>];
  orphaned: [event: { readonly seq: number }];
  reorg: [event: { readonly cursor: Cursor; readonly depth: number }];
  /** Something failed and the runner goes on: `source` says what. */
  error: [error: RunnerError, source: string];
}

/** Calls what an author gave; it may be asynchronous. What it throws, now or later, changes nothing for anybody else. */
export function callAuthor(work: () => unknown, onFailed: (error: unknown) => void): void {
  try {
    const done = work();
    if (done instanceof Promise) done.catch(onFailed);
  } catch (error) {
    onFailed(error);
  }
}

/** Listeners that fail change nothing for anybody else. */
export class RunnerEmitter {
  readonly #emitter = new EventEmitter<RunnerEvents>();
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  on<Name extends keyof RunnerEvents>(name: Name, listener: (...event: RunnerEvents[Name]) => void): void {
    this.#emitter.on(name, listener);
  }

  off<Name extends keyof RunnerEvents>(name: Name, listener: (...event: RunnerEvents[Name]) => void): void {
    this.#emitter.off(name, listener);
  }

  /** Ask before making an event: most have no listener. */
  hears(name: keyof RunnerEvents): boolean {
    return this.#emitter.listenerCount(name) > 0;
  }

  emit<Name extends keyof RunnerEvents>(name: Name, ...event: RunnerEvents[Name]): void {
    for (const listener of this.#emitter.listeners(name)) {
      callAuthor(
        () => (listener as (...of: RunnerEvents[Name]) => unknown)(...event), // only `on` adds listeners
        (error) => this.#log.error('a listener of the runner failed', { event: name, error }),
      );
    }
  }
}
