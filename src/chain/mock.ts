/** A `ChainClient` over the mock chain: the same guarantees as the real one, with faults on demand. Never settles anything real. */

import type { Clock } from '../clock.ts';
import { RunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import type { BlockRef, Cursor } from '../ledger/ledger.ts';
import type {
  BlueprintMetadata,
  ChainClient,
  ChainUpdate,
  FeeEstimate,
  FollowOptions,
  JobDefinition,
  OperatorState,
  Receipt,
  ResultBatch,
  SendOutcome,
  ServiceState,
  Simulation,
  TransactionRequest,
} from './chain.ts';
import type { MockBlock } from './mock-block.ts';
import type { MockChain } from './mock-chain.ts';
import { encodeResults } from './results-encoding.ts';

export type MockMethod =
  | 'head'
  | 'confirm'
  | 'simulate'
  | 'nonce'
  | 'fees'
  | 'send'
  | 'receipts'
  | 'blockHash'
  | 'follow'
  | 'blueprint'
  | 'service'
  | 'operator';

/**
 * - `drop`: says sent, and forgets it; `delay`: says sent, and takes it later; `duplicate`: hands it in twice
 * - `refuse`: rejects with `RPC_RATE_LIMITED` and does not take it; `lose-reply`: takes it, and rejects with `RPC_UNREACHABLE`
 */
export type SendFault = 'drop' | 'delay' | 'duplicate' | 'refuse' | 'lose-reply';

export interface MockFaults {
  readonly send?: (raw: Hex) => SendFault | undefined;
  /** An error for one request; for `follow`, one look at the chain fails and is made again. */
  readonly rpc?: (method: MockMethod) => RunnerError | undefined;
  /** How long a request takes, milliseconds; default: no time. */
  readonly latencyMs?: (method: MockMethod) => number;
  /** How late a delayed transaction is taken, milliseconds; default 5000. */
  readonly delayMs?: () => number;
}

export interface MockChainClientOptions {
  readonly chain: MockChain;
  readonly clock: Clock;
  readonly faults?: MockFaults;
  /** Instead of a blueprint of two jobs without a schema. */
  readonly blueprint?: Partial<Omit<BlueprintMetadata, 'source' | 'blueprintId'>>;
  /** Wei per gas. Default 1 gwei. */
  readonly maxPriorityFeePerGas?: bigint;
  /** Calls in one update; a block is never split. Default 500. */
  readonly callsPerUpdate?: number;
}

const FOLLOW_RETRY_MS = 250;
const DELAY_MS = 5_000;
const ZERO_ADDRESS: Address = '0x0000000000000000000000000000000000000000';

export class MockChainClient implements ChainClient {
  readonly source = 'mock';
  readonly chainId: number;
  readonly contract: Address;
  readonly #options: MockChainClientOptions;
  readonly #closing = new AbortController();

  constructor(options: MockChainClientOptions) {
    this.#options = options;
    this.chainId = options.chain.chainId;
    this.contract = options.chain.contract;
  }

  async *follow(options: FollowOptions): AsyncIterable<ChainUpdate> {
    const { chain, clock } = this.#options;
    const signal = AbortSignal.any([options.signal, this.#closing.signal]);
    const changes = new Changes(chain, signal);
    const view = new View(this.#options, options);
    try {
      while (!signal.aborted) {
        if (await this.#lookFails(signal)) {
          await clock.sleep(FOLLOW_RETRY_MS, signal).catch(() => undefined);
          continue;
        }
        const update = view.next();
        if (update) yield update;
        else await changes.wait();
      }
    } finally {
      changes.close();
    }
  }

  async head(): Promise<BlockRef & { readonly timestamp: bigint }> {
    await this.#request('head');
    const { number, hash, timestamp } = this.#options.chain.head;
    return { number, hash, timestamp };
  }

  async confirm(calls: readonly ChainCall[]): Promise<boolean[]> {
    await this.#request('confirm');
    return calls.map((call) => {
      const block = this.#options.chain.block(call.blockNumber);
      return block?.hash === call.blockHash && block.calls.some((other) => sameCall(call, other));
    });
  }

  encodeResults(batch: ResultBatch): TransactionRequest {
    return { to: this.contract, data: encodeResults(batch) };
  }

  async simulate(from: Address, request: TransactionRequest): Promise<Simulation> {
    await this.#request('simulate');
    return this.#options.chain.simulate(from, request);
  }

  async nonce(account: Address, tag: 'latest' | 'pending'): Promise<number> {
    await this.#request('nonce');
    return this.#options.chain.nonce(account, tag);
  }

  async fees(): Promise<FeeEstimate> {
    await this.#request('fees');
    return { baseFeePerGas: this.#options.chain.baseFeePerGas, maxPriorityFeePerGas: this.#options.maxPriorityFeePerGas ?? 1_000_000_000n };
  }

  async send(raw: Hex): Promise<SendOutcome> {
    const { chain, clock, faults } = this.#options;
    await this.#request('send');
    const fault = faults?.send?.(raw);
    switch (fault) {
      case 'drop':
        return 'sent';
      case 'delay':
        // Whoever sent it was told so: that the pool refuses it later, or knows it by then, reaches nobody.
        clock.after(faults?.delayMs?.() ?? DELAY_MS, () => void chain.accept(raw).catch(() => undefined));
        return 'sent';
      case 'duplicate':
        await chain.accept(raw);
        return chain.accept(raw);
      case 'refuse':
        throw new RunnerError('RPC_RATE_LIMITED', 'the mock endpoint refuses the transaction because of its rate');
      case 'lose-reply':
        await chain.accept(raw);
        throw new RunnerError('RPC_UNREACHABLE', 'the mock endpoint took the transaction and lost the connection');
      case undefined:
        return chain.accept(raw);
    }
  }

  async receipts(hashes: readonly Hex[]): Promise<(Receipt | undefined)[]> {
    await this.#request('receipts');
    return hashes.map((hash) => this.#options.chain.receipt(hash));
  }

  async blockHash(number: bigint): Promise<Hex | undefined> {
    await this.#request('blockHash');
    return this.#options.chain.block(number)?.hash;
  }

  async blueprint(blueprintId: bigint): Promise<BlueprintMetadata> {
    await this.#request('blueprint');
    return {
      name: 'mock blueprint',
      description: 'Made up: no chain was asked.',
      metadataUri: '',
      manager: ZERO_ADDRESS,
      owner: ZERO_ADDRESS,
      jobs: [mockJob(0), mockJob(1)],
      verified: false,
      ...this.#options.blueprint,
      blueprintId,
      source: 'mock',
    };
  }

  async service(serviceId: bigint): Promise<ServiceState> {
    await this.#request('service');
    const service = this.#options.chain.service(serviceId);
    if (!service) throw new RunnerError('SERVICE_NOT_FOUND', `the mock chain has no service ${serviceId}: make it with addService()`);
    const { blueprintId, owner, status, createdAt, ttl, operators } = service;
    return { serviceId, blueprintId, owner, status, createdAt, ttl, operators };
  }

  async operator(blueprintId: bigint, address: Address): Promise<OperatorState> {
    await this.#request('operator');
    const rpcAddress = this.#options.chain.rpcAddressOf(blueprintId, address);
    return { address, registered: rpcAddress !== undefined, ...(rpcAddress !== undefined && { rpcAddress }) };
  }

  /** It keeps no state of blocks that are over. */
  async completed(calls: readonly ChainCall[], _block: bigint): Promise<boolean[]> {
    return calls.map(() => false);
  }

  async close(): Promise<void> {
    this.#closing.abort();
  }

  async #request(method: MockMethod): Promise<void> {
    const { clock, faults } = this.#options;
    const latencyMs = faults?.latencyMs?.(method) ?? 0;
    if (latencyMs > 0) await clock.sleep(latencyMs);
    const error = faults?.rpc?.(method);
    if (error) throw error;
  }

  async #lookFails(signal: AbortSignal): Promise<boolean> {
    const { clock, faults } = this.#options;
    const latencyMs = faults?.latencyMs?.('follow') ?? 0;
    if (latencyMs > 0) await clock.sleep(latencyMs, signal).catch(() => undefined);
    return faults?.rpc?.('follow') !== undefined;
  }
}

/** What one follower was told so far, and what it must be told next. */
class View {
  readonly #chain: MockChain;
  readonly #callsPerUpdate: number;
  readonly #serviceIds: ReadonlySet<bigint>;
  readonly #startsAfter: bigint;
  /** All calls up to here were told. Undefined: the block after which it starts is still to come. */
  #position: BlockRef | undefined;
  #head: BlockRef | undefined;

  constructor(client: MockChainClientOptions, options: FollowOptions) {
    this.#chain = client.chain;
    this.#callsPerUpdate = client.callsPerUpdate ?? 500;
    this.#serviceIds = new Set(options.serviceIds);
    const { fromBlock, cursor } = options;
    // The first block holds nothing.
    this.#startsAfter = fromBlock === undefined ? this.#chain.head.number : fromBlock > 0n ? fromBlock - 1n : 0n;
    this.#position = cursor?.block;
  }

  next(): ChainUpdate | undefined {
    if (!this.#position) return this.#begin();
    const ancestor = this.#ancestor(this.#position);
    if (ancestor.hash !== this.#position.hash) {
      const depth = Number(this.#position.number - ancestor.number);
      this.#position = ancestor;
      this.#head = undefined;
      return { type: 'reorg', cursor: this.#cursor(ancestor), depth };
    }
    const head = this.#chain.head;
    if (this.#position.number < head.number) return this.#read(this.#position, head);
    if (this.#head?.hash === head.hash) return undefined;
    this.#head = head;
    return { type: 'head', block: refOf(head), timestamp: head.timestamp };
  }

  /** Says at once where it starts: a follower that is gone before the first call must not start at a later head. */
  #begin(): ChainUpdate | undefined {
    const block = this.#chain.block(this.#startsAfter);
    if (!block) return undefined;
    this.#position = refOf(block);
    return { type: 'calls', calls: [], cursor: this.#cursor(this.#position) };
  }

  /** The last block of what was told that is still on the chain; the first one for a cursor of another chain. */
  #ancestor(position: BlockRef): BlockRef {
    let block: MockBlock | undefined = this.#chain.blockByHash(position.hash);
    while (block && !this.#chain.isCanonical(block)) block = this.#chain.blockByHash(block.parentHash);
    return refOf(block ?? this.#chain.first);
  }

  #read(position: BlockRef, head: BlockRef): ChainUpdate {
    const calls: ChainCall[] = [];
    let last = position;
    while (last.number < head.number && calls.length < this.#callsPerUpdate) {
      const block = this.#chain.block(last.number + 1n);
      if (!block) break;
      last = refOf(block);
      for (const call of block.calls) if (this.#serviceIds.size === 0 || this.#serviceIds.has(call.serviceId)) calls.push(call);
    }
    this.#position = last;
    return { type: 'calls', calls, cursor: this.#cursor(last) };
  }

  #cursor(block: BlockRef): Cursor {
    return { chainId: this.#chain.chainId, contract: this.#chain.contract, block };
  }
}

function refOf({ number, hash }: BlockRef): BlockRef {
  return { number, hash };
}

/** Wakes a follower when something happened since it last looked. */
class Changes {
  #changed = false;
  #wake: (() => void) | undefined;
  readonly #stop: () => void;

  constructor(chain: MockChain, signal: AbortSignal) {
    const notice = (): void => {
      this.#changed = true;
      this.#wake?.();
    };
    const cancel = chain.onChange(notice);
    signal.addEventListener('abort', notice);
    this.#stop = () => {
      cancel();
      signal.removeEventListener('abort', notice);
    };
  }

  async wait(): Promise<void> {
    const woken = Promise.withResolvers<void>();
    this.#wake = woken.resolve;
    if (!this.#changed) await woken.promise;
    this.#changed = false;
    this.#wake = undefined;
  }

  close(): void {
    this.#stop();
  }
}

function mockJob(index: number): JobDefinition {
  return { index, name: `job ${index}`, description: '', metadataUri: '', paramsSchema: new Uint8Array(), resultSchema: new Uint8Array() };
}

function sameCall(a: ChainCall, b: ChainCall): boolean {
  const sameName = a.serviceId === b.serviceId && a.callId === b.callId && a.jobIndex === b.jobIndex && a.logIndex === b.logIndex;
  return sameName && a.caller === b.caller && a.transactionHash === b.transactionHash && Buffer.compare(a.inputs, b.inputs) === 0;
}
