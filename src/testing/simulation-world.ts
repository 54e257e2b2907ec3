/** One life of a simulated process: what it touches fails now and then, and after its crash does nothing any more. */

import { keccak256, parseTransaction } from 'viem/utils';
import type { ChainClient, ChainUpdate, FollowOptions, Signer } from '../chain/chain.ts';
import type { MockChain } from '../chain/mock-chain.ts';
import { decodeSubmission } from '../chain/mock-contract.ts';
import type { MockFaults, SendFault } from '../chain/mock.ts';
import { MockChainClient } from '../chain/mock.ts';
import type { CancelTimer, Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { FaasExecutor } from '../executor/executor.ts';
import type { ChainCall, Hex } from '../job/call.ts';
import type { Ledger } from '../ledger/ledger.ts';
import type { Random } from './fake-clock.ts';
import type { Checker } from './simulation-checker.ts';
import { SimulatedExecutor } from './simulation-executor.ts';

/** Probabilities, 0 to 1, and where they apply. */
export interface FaultRates {
  /** Per request: the endpoint does not answer. */
  readonly rpcError: number;
  /** Per request: the endpoint that answers is up to three blocks behind. */
  readonly lag: number;
  /** Per block: no endpoint answers for a while. */
  readonly outage: number;
  /** Per raw transaction: dropped, delayed, doubled, refused, or its reply lost. */
  readonly send: number;
  /** Per block. */
  readonly reorg: number;
  /** Per attempt: a failure that may be tried again, or no answer before the deadline. */
  readonly executor: number;
  /** Per block: writes fail for a while. */
  readonly diskFull: number;
  /** Per step over a border (chain, executor, ledger), before and after it: the process is gone. */
  readonly crash: number;
  /** Per call: another operator answers it first. */
  readonly rival: number;
  /** Per block: the base fee changes, up to twentyfold. */
  readonly feeSpike: number;
  /** Per block: the wall clock is set, by up to ten minutes in either direction. */
  readonly clockJump: number;
}

export const STORM: FaultRates = {
  rpcError: 0.05,
  lag: 0.03,
  outage: 0.04,
  send: 0.33,
  reorg: 0.15,
  executor: 0.15,
  diskFull: 0.04,
  crash: 0.006,
  rival: 0.08,
  feeSpike: 0.1,
  clockJump: 0.03,
};

/** What one life of the system, from start to crash, is given. After the crash none of it does anything any more. */
export interface SimulationWorld {
  readonly clock: Clock;
  readonly chain: ChainClient;
  /** Runs every job; declares nothing idempotent, and its failures say what may be tried again. */
  readonly executor: FaasExecutor;
  readonly signer: Signer;
  readonly serviceIds: readonly bigint[];
  /** Blocks on top of a call before its result may be signed. */
  readonly confirmations: number;
  readonly finality: number;
  /** Counts lives, from 0. */
  readonly life: number;
  readonly random: Random;
  /** A ledger whose disk fills up and whose every write is a point where the process can be gone. */
  ledger<L extends Pick<Ledger, 'get'>>(ledger: L): L;
  /** For a system without a `Ledger`: a step at which the process can be gone; then it never resolves. */
  step(name: string): Promise<void>;
  /** For a system without a `Ledger`: the output of this call (its `JobCall.id`) is durable. */
  journaled(callKey: string): void;
  /** A consumer got the result of this call. */
  delivered(callKey: string): void;
}

export interface IncarnationOptions {
  readonly clock: Clock;
  readonly chain: MockChain;
  readonly checker: Checker;
  readonly random: Random;
  /** Undefined: nothing fails any more. */
  readonly rates: () => FaultRates | undefined;
  readonly isOutage: () => boolean;
  readonly isDiskFull: () => boolean;
  readonly mayCrash: () => boolean;
  /** The process is gone. */
  readonly onCrash: (at: string) => void;
}

const LATENCY_MS_MAX = 120;
const LAG_BLOCKS_MAX = 3;
const SEND_DELAY_MS_MAX = 15_000;
const SEND_FAULTS: readonly SendFault[] = ['drop', 'delay', 'duplicate', 'refuse', 'lose-reply'];

export class Incarnation {
  readonly #options: IncarnationOptions;
  readonly #clock: Clock;
  readonly #end = new AbortController();
  readonly #timers = new Set<CancelTimer>();
  readonly #crashes: Random;
  #armed = false;

  constructor(options: IncarnationOptions) {
    this.#options = options;
    this.#clock = this.#ownClock();
    this.#crashes = options.random.fork('crashes');
  }

  world(given: Pick<SimulationWorld, 'signer' | 'serviceIds' | 'confirmations' | 'finality' | 'life' | 'random'>): SimulationWorld {
    return {
      ...given,
      clock: this.#clock,
      chain: this.#chain(),
      executor: this.#executor(),
      ledger: (ledger) => this.#ledger(ledger),
      step: (name) => this.#cross(name, async () => undefined),
      journaled: (callKey) => this.#options.checker.journaled(callKey),
      delivered: (callKey) => this.#options.checker.delivered(callKey),
      signer: this.#signer(given.signer, given.confirmations),
    };
  }

  /** From now on it can crash. */
  arm(): void {
    this.#armed = true;
  }

  get #isGone(): boolean {
    return this.#end.signal.aborted;
  }

  /** Is the process gone at this step? */
  #goneAt(step: string): boolean {
    if (this.#isGone) return true;
    const crashes = this.#crashes.chance(this.#options.rates()?.crash ?? 0);
    if (!crashes || !this.#armed || !this.#options.mayCrash()) return false;
    this.#end.abort();
    for (const cancel of this.#timers) cancel();
    this.#timers.clear();
    this.#options.onCrash(step);
    return true;
  }

  /** A step over the border of the process. It can be gone before the step, or after it and before it hears of the outcome. */
  async #cross<T>(name: string, step: () => Promise<T>): Promise<T> {
    if (this.#goneAt(`before ${name}`)) return never();
    try {
      const value = await step();
      return this.#goneAt(`after ${name}`) ? await never() : value;
    } catch (error) {
      if (this.#isGone) return never();
      throw error;
    }
  }

  #ownClock(): Clock {
    const { clock } = this.#options;
    const after: Clock['after'] = (delayMs, action) => {
      if (this.#isGone) return () => undefined;
      const cancel = clock.after(delayMs, () => {
        this.#timers.delete(cancel);
        action();
      });
      this.#timers.add(cancel);
      return () => {
        this.#timers.delete(cancel);
        cancel();
      };
    };
    return {
      now: () => clock.now(),
      monotonic: () => clock.monotonic(),
      after,
      sleep: (delayMs, signal) => this.#sleep(after, delayMs, signal),
    };
  }

  /** After a crash it neither resolves nor rejects. */
  #sleep(after: Clock['after'], delayMs: number, signal: AbortSignal | undefined): Promise<void> {
    const slept = Promise.withResolvers<void>();
    const abort = (): void => {
      cancel();
      if (!this.#isGone) slept.reject(new RunnerError('ABORTED', 'the wait was cancelled', { cause: signal?.reason }));
    };
    const cancel = after(delayMs, () => {
      signal?.removeEventListener('abort', abort);
      slept.resolve();
    });
    if (signal?.aborted) abort();
    else signal?.addEventListener('abort', abort, { once: true });
    return slept.promise;
  }

  #chain(): ChainClient {
    const { checker, chain } = this.#options;
    const client = new MockChainClient({ chain, clock: this.#clock, faults: this.#chainFaults() });
    const lagging = new LaggingReads(client, { chain, blocks: this.#lag() });
    return this.#fence('chain', client, {
      follow: (options: FollowOptions) => this.#follow(client, options),
      encodeResults: client.encodeResults.bind(client),
      head: () => this.#cross('chain.head', () => lagging.head()),
      confirm: (calls: readonly ChainCall[]) => this.#cross('chain.confirm', () => lagging.confirm(calls)),
      receipts: (hashes: readonly Hex[]) => this.#cross('chain.receipts', () => lagging.receipts(hashes)),
      blockHash: (number: bigint) => this.#cross('chain.blockHash', () => lagging.blockHash(number)),
      send: (raw: Hex) => {
        const { data, nonce = 0 } = parseTransaction(raw);
        checker.sending(keccak256(raw), { nonce, batch: data && decodeSubmission(data) });
        return this.#cross('chain.send', () => client.send(raw));
      },
    });
  }

  /** The moment that counts: what is signed cannot be taken back. */
  #signer(signer: Signer, confirmations: number): Signer {
    return {
      address: signer.address,
      signTransaction: (transaction) => {
        if (this.#isGone) return never();
        const batch = decodeSubmission(transaction.data);
        if (batch) this.#options.checker.signing(batch, confirmations);
        return signer.signTransaction(transaction);
      },
    };
  }

  #lag(): () => bigint {
    const random = this.#options.random.fork('lag');
    return () => {
      const blocks = random.int(1, LAG_BLOCKS_MAX);
      return random.chance(this.#options.rates()?.lag ?? 0) ? BigInt(blocks) : 0n;
    };
  }

  async *#follow(client: MockChainClient, options: FollowOptions): AsyncIterable<ChainUpdate> {
    const signal = AbortSignal.any([options.signal, this.#end.signal]);
    for await (const update of client.follow({ ...options, signal })) {
      if (this.#goneAt('chain.follow')) break;
      yield update;
    }
    if (this.#isGone) await never();
  }

  #chainFaults(): MockFaults {
    const { rates, isOutage } = this.#options;
    const [rpc, send] = [this.#options.random.fork('rpc'), this.#options.random.fork('send')];
    return {
      latencyMs: () => rpc.int(0, LATENCY_MS_MAX),
      rpc: (method) => {
        const fails = rpc.chance(rates()?.rpcError ?? 0);
        return fails || isOutage() ? new RunnerError('RPC_UNREACHABLE', `${method}: the simulated endpoint does not answer`) : undefined;
      },
      send: () => {
        const fault = send.pick(SEND_FAULTS);
        return send.chance(rates()?.send ?? 0) ? fault : undefined;
      },
      delayMs: () => send.int(1, SEND_DELAY_MS_MAX),
    };
  }

  #ledger<L extends Pick<Ledger, 'get'>>(ledger: L): L {
    const write = <T>(name: string, change: () => Promise<T>): Promise<T> =>
      this.#cross(`ledger.${name}`, () => {
        if (this.#options.isDiskFull()) return Promise.reject(new RunnerError('LEDGER_FULL', 'the simulated disk is full'));
        return change();
      });
    return new Proxy(ledger, {
      get: (target, key) => {
        const value: unknown = Reflect.get(target, key, target);
        if (typeof value !== 'function') return value;
        return (...args: unknown[]): unknown => {
          if (typeof key !== 'string' || !isWrite(key)) return Reflect.apply(value, target, args);
          const change = (): Promise<unknown> => Reflect.apply(value, target, args) as Promise<unknown>; // every write returns a promise
          return write(key, key === 'recordExecuted' ? () => this.#noteExecuted(target, args[0], change) : change);
        };
      },
    });
  }

  async #noteExecuted(ledger: Pick<Ledger, 'get'>, seq: unknown, change: () => Promise<unknown>): Promise<unknown> {
    const changed = await change();
    const record = changed === true && typeof seq === 'number' ? ledger.get(seq) : undefined;
    if (record) this.#options.checker.journaled(record.call.id);
    return changed;
  }

  #executor(): FaasExecutor {
    const { checker, random, rates } = this.#options;
    const executor = new SimulatedExecutor({ clock: this.#clock, checker, random, failureRate: () => rates()?.executor ?? 0 });
    return this.#fence('executor', executor, {});
  }

  /** The same object, each of whose methods is a step over the border; but for those given. */
  #fence<T extends object>(room: string, target: T, others: Readonly<Record<string, unknown>>): T {
    return new Proxy(target, {
      get: (_, key) => {
        if (typeof key === 'string' && Object.hasOwn(others, key)) return others[key];
        const value: unknown = Reflect.get(target, key, target);
        if (typeof value !== 'function') return value;
        return (...args: unknown[]) =>
          this.#cross(`${room}.${String(key)}`, async (): Promise<unknown> => Reflect.apply(value, target, args));
      },
    });
  }
}

/** Reads of an endpoint that is some blocks behind, for one request each. */
class LaggingReads {
  readonly #client: MockChainClient;
  readonly #chain: MockChain;
  readonly #blocks: () => bigint;

  constructor(client: MockChainClient, options: { readonly chain: MockChain; readonly blocks: () => bigint }) {
    this.#client = client;
    this.#chain = options.chain;
    this.#blocks = options.blocks;
  }

  async head(): ReturnType<ChainClient['head']> {
    const head = await this.#client.head();
    const { number, hash, timestamp } = this.#chain.block(head.number - this.#blocks()) ?? head;
    return { number, hash, timestamp };
  }

  async confirm(calls: readonly ChainCall[]): Promise<boolean[]> {
    const answers = await this.#client.confirm(calls);
    const last = this.#last();
    return answers.map((isThere, index) => isThere && (calls[index]?.blockNumber ?? 0n) <= last);
  }

  async receipts(hashes: readonly Hex[]): ReturnType<ChainClient['receipts']> {
    const receipts = await this.#client.receipts(hashes);
    const last = this.#last();
    return receipts.map((receipt) => (receipt && receipt.block.number <= last ? receipt : undefined));
  }

  async blockHash(number: bigint): Promise<Hex | undefined> {
    const hash = await this.#client.blockHash(number);
    return number <= this.#last() ? hash : undefined;
  }

  #last(): bigint {
    return this.#chain.head.number - this.#blocks();
  }
}

function isWrite(method: string): boolean {
  return method.startsWith('record') || method === 'retry' || method === 'setValue' || method === 'compact';
}

function never(): Promise<never> {
  return Promise.withResolvers<never>().promise;
}
