/** The line of a runner that has a ledger: chain, ledger, dispatch and settlement, opened together and closed in reverse. */

import { join } from 'node:path';
import type { ChainClient } from '../chain/chain.ts';
import { mockSigner } from '../chain/mock-transaction.ts';
import type { MockChainClient } from '../chain/mock.ts';
import type { SettlementEvent } from '../chain/settlement.ts';
import { Settlement } from '../chain/settlement.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import { IN_PROCESS } from '../executor/local.ts';
import type { JobCall, JobResult } from '../job/call.ts';
import type { BlockRef, Ledger } from '../ledger/ledger.ts';
import { SqliteLedger } from '../ledger/sqlite.ts';
import { CallTraces } from './call-traces.ts';
import { JobCodecs } from './codecs.ts';
import { Dispatch } from './dispatch.ts';
import type { RunnerEmitter } from './events.ts';
import { Intake } from './intake.ts';
import type { RunnerMetrics } from './metrics.ts';
import type { RunnerParts } from './parts.ts';
import { Suspects } from './suspects.ts';

export interface LineOptions {
  readonly parts: RunnerParts;
  readonly events: RunnerEmitter;
  readonly metrics: RunnerMetrics;
  readonly deliver: (results: readonly JobResult[], call: JobCall) => Promise<void> | undefined;
  readonly onFailed: (error: RunnerError, call: JobCall) => void;
  readonly onError: (error: RunnerError, source: string) => void;
  readonly onFatal: (error: RunnerError) => void;
}

const HOUR_MS = 3_600_000;
/** Waiting for another answer would not help. */
const HOPELESS: readonly string[] = ['CHAIN_MISMATCH', 'CONTRACT_MISSING', 'CONFIG_INVALID'];

export class Line {
  readonly chain: ChainClient | undefined;
  readonly ledger: Ledger;
  readonly dispatch: Dispatch;
  readonly intake: Intake | undefined;
  readonly #options: LineOptions;
  readonly #closesChain: boolean;
  readonly #settlement: Settlement | undefined;
  readonly #traces: CallTraces | undefined;
  readonly #suspects: Suspects;
  #isConnected = false;
  #settling: Promise<void> | undefined;
  #cancelCompaction: (() => void) | undefined;

  /** Rejects when the ledger cannot be opened, or when chain and configuration do not fit. */
  static async open(options: LineOptions): Promise<Line> {
    const { parts } = options;
    const chosen = await chooseChain(options);
    const ledger = await orClose(chosen, () => parts.ledger ?? openLedger(parts, chosen.chain));
    const line = new Line(options, { chosen, ledger, suspects: await suspectsIn(ledger, options) });
    try {
      if (chosen.isReachable) await line.#connected();
    } catch (error) {
      await line.close();
      throw error;
    }
    line.#compactLater();
    return line;
  }

  private constructor(options: LineOptions, { chosen, ledger, suspects }: Opened) {
    const { parts, events, metrics, onError } = options;
    const { config, clock, telemetry, definition, executors } = parts;
    const { chain } = chosen;
    this.#options = options;
    this.chain = chain;
    this.ledger = ledger;
    this.#closesChain = chosen.isOurs;
    this.#suspects = suspects;
    const { blueprintId } = config;
    const codecs = chain && new JobCodecs({ chain, blueprintId, definition, onProblem: (error) => onError(error, 'blueprint') });
    const { confirmations, finality, maxFeePerGas, dryRun } = config;
    const signer = chain?.source === 'mock' && !parts.signer ? mockSigner(MOCK_ACCOUNT) : parts.signer;
    const settles = chain !== undefined && signer !== undefined && !dryRun;
    this.#traces = CallTraces.of(telemetry, { events, ledger, settles });
    this.dispatch = new Dispatch({
      ...options,
      ledger,
      executors,
      traces: this.#traces,
      prepare: (call) => codecs?.prepare(call),
      onResult: () => this.settlement?.wake(),
      concurrency: config.concurrency,
      suspects,
      clock,
    });
    if (!chain) return;
    this.#settlement = new Settlement({
      chain,
      ledger,
      clock,
      telemetry,
      dryRun,
      ...(signer && { signer }),
      ...(confirmations !== undefined && { confirmations }),
      ...(finality !== undefined && { finality }),
      ...(maxFeePerGas !== undefined && { maxFeePerGas }),
      onEvent: (event) => this.#tell(event),
    });
    const { dispatch } = this;
    const settlement = this.#settlement;
    this.intake = new Intake({
      chain,
      startedAt: chosen.head,
      ledger,
      settlement,
      dispatch,
      config,
      settles,
      events,
      metrics,
      onConnected: () => this.#connected(),
      onProblem: (error) => onError(error, 'chain'),
    });
    for (const serviceId of config.serviceIds)
      void codecs?.load(serviceId).catch((thrown: unknown) => onError(toRunnerError(thrown), 'blueprint'));
  }

  /** Undefined until the chain has answered: before, nothing is known of it. */
  get settlement(): Settlement | undefined {
    return this.#isConnected ? this.#settlement : undefined;
  }

  /** Once the chain answers: the ledger must be its ledger before anything is settled. */
  #connected(): Promise<void> {
    this.#settling ??= (async () => {
      await this.intake?.bind();
      this.#isConnected = true;
      await this.#settlement?.start();
    })().catch((error: unknown) => {
      this.#settling = undefined;
      throw error;
    });
    return this.#settling;
  }

  /** Takes up again what failed or was rejected. False: there is nothing of that kind. */
  async retry(seq: number): Promise<boolean> {
    const isOpen = await this.dispatch.write(() => this.ledger.retry(seq));
    if (!isOpen) return false;
    this.#suspects.forgive(seq);
    this.dispatch.rescan();
    this.settlement?.wake();
    return true;
  }

  /** Waits for running calls and unsettled results. Resolves with whether nothing is left. */
  async drain(deadline: number): Promise<boolean> {
    const { clock } = this.#options.parts;
    const endMs = clock.monotonic() + deadline - clock.now();
    // Whoever stops it may lose patience.
    this.#stopping();
    const isDone = await this.dispatch.drain(deadline);
    // The clock may have been set meanwhile.
    await this.settlement?.drain(clock.now() + endMs - clock.monotonic());
    return isDone;
  }

  /** Closes what was opened here. */
  async close(): Promise<void> {
    this.#cancelCompaction?.();
    await this.#settlement?.close();
    this.#traces?.close();
    this.#stopping();
    if (!this.#options.parts.ledger) await this.ledger.close();
    if (this.#closesChain) await this.chain?.close();
  }

  #stopping(): void {
    this.ledger.recordStopping().catch((thrown: unknown) => this.#options.onError(toRunnerError(thrown), 'ledger'));
  }

  #tell(event: SettlementEvent): void {
    const { events, onError, onFatal } = this.#options;
    switch (event.type) {
      case 'submitted':
        return events.emit('submitted', event);
      case 'mined':
        return events.emit('mined', event);
      case 'final':
        return events.emit('final', event);
      case 'rejected':
        events.emit('rejected', event);
        return this.#refused(event);
      case 'closed':
        return events.emit('closed', event);
      case 'orphaned':
        return events.emit('orphaned', event);
      case 'stalled':
        if (event.error.code === 'LEDGER_CORRUPT') return onFatal(event.error);
        return onError(event.error, 'settlement');
      case 'bumped':
      case 'healed':
      case 'dry-run':
    }
  }

  #refused({ seq, code, reason }: Extract<SettlementEvent, { readonly type: 'rejected' }>): void {
    const call = this.ledger.get(seq)?.call;
    if (call) this.#options.onFailed(new RunnerError(code, reason, { details: { seq } }), call);
  }

  #compactLater(): void {
    const { parts, onError } = this.#options;
    this.#cancelCompaction = parts.clock.after(HOUR_MS, () => {
      this.ledger.compact(parts.config.retentionMs).catch((thrown: unknown) => onError(toRunnerError(thrown), 'ledger'));
      this.#compactLater();
    });
  }
}

const MOCK_ACCOUNT = '0x6d6f636b000000000000000000000000006f7065';

interface Opened {
  readonly chosen: ChosenChain;
  readonly ledger: Ledger;
  readonly suspects: Suspects;
}

interface ChosenChain {
  readonly chain: ChainClient | undefined;
  readonly isOurs: boolean;
  readonly isReachable: boolean;
  /** Of a chain that has answered. */
  readonly head?: BlockRef;
}

async function chooseChain({ parts, onError }: LineOptions): Promise<ChosenChain> {
  const { config, telemetry } = parts;
  if (!parts.chain) {
    if (config.chainMode !== 'mock') return { chain: undefined, isOurs: false, isReachable: false };
    return { chain: await mockChain(parts), isOurs: true, isReachable: true };
  }
  const { client, isOurs } = parts.chain;
  try {
    const { number, hash } = await client.head();
    return { chain: client, isOurs, isReachable: true, head: { number, hash } };
  } catch (thrown) {
    const error = toRunnerError(thrown);
    const isHopeless = HOPELESS.includes(error.code);
    if (isOurs && (isHopeless || config.chainMode === 'auto')) await client.close();
    if (isHopeless) throw error;
    if (config.chainMode === 'auto' && error.code === 'RPC_UNREACHABLE') {
      telemetry.log.warn('no RPC endpoint answers: this runner works on a mock chain and settles nothing real', { error: error.message });
      return { chain: await mockChain(parts), isOurs: true, isReachable: true };
    }
    onError(error, 'chain');
    return { chain: client, isOurs, isReachable: false };
  }
}

async function orClose<T>({ chain, isOurs }: ChosenChain, open: () => T): Promise<T> {
  try {
    return open();
  } catch (error) {
    if (isOurs) await chain?.close();
    throw error;
  }
}

async function mockChain({ clock, config, signer }: RunnerParts): Promise<MockChainClient> {
  const [{ MockChain }, mock] = await Promise.all([import('../chain/mock-chain.ts'), import('../chain/mock.ts')]);
  const chain = new MockChain({ clock });
  for (const serviceId of config.serviceIds) chain.addService({ serviceId, operators: [signer?.address ?? MOCK_ACCOUNT] });
  return new mock.MockChainClient({ chain, clock });
}

/** While the disk is full they are not known: the calls count as others do. */
async function suspectsIn(ledger: Ledger, { parts, onError }: LineOptions): Promise<Suspects> {
  const crashes = await ledger.recordCrashes(IN_PROCESS).catch((thrown: unknown) => {
    onError(toRunnerError(thrown), 'ledger');
    return new Map<number, number>();
  });
  return new Suspects(crashes, parts.config.crashesMax);
}

/** Calls of a mock chain never get into the file of a real one. */
function openLedger({ config, clock, telemetry }: RunnerParts, chain: ChainClient | undefined): Ledger {
  const isVolatile = config.ledger === false || chain?.source === 'mock';
  if (config.ledger === false) telemetry.log.warn('the ledger is kept in memory: what is not settled is forgotten with this process');
  const path = isVolatile ? ':memory:' : config.ledger || join(config.dataDir, 'ledger.sqlite');
  return SqliteLedger.open({ path, clock, telemetry });
}
