/**
 * Follows the job calls of a contract.
 *
 * Every block is read once, in order, and its parent is known: far from the head in ranges whose ends are compared with what was read
 * before, near it block by block, each chained to the one before and its logs asked for by hash. What is pushed only says when to look.
 * When the last block read is not on the chain any more, the follower goes back to the last one that is, says so, and reads on from there.
 */

import type { Clock } from '../clock.ts';
import type { RunnerError } from '../errors.ts';
import { toRunnerError } from '../errors.ts';
import type { Address, ChainCall } from '../job/call.ts';
import type { BlockRef, Cursor } from '../ledger/ledger.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { CallsRead } from './call-reader.ts';
import { CallReader, MOVED, RangeSize, hex, isRangeRefusal } from './call-reader.ts';
import type { ChainUpdate, FollowOptions } from './chain.ts';
import type { BlockHeader } from './heads.ts';
import { FAILURES_TOLD, HeadWatch, parseHeader } from './heads.ts';
import { checkChainId } from './rpc-answers.ts';
import type { RpcTransport } from './transport.ts';

export interface FollowSettings {
  readonly transport: Pick<RpcTransport, 'request' | 'batch'>;
  readonly chainId: number;
  /** Lower case. */
  readonly contract: Address;
  /** Heads are pushed from here; without it they are polled. */
  readonly wsUrl?: string;
  readonly wsHeaders?: Readonly<Record<string, string>>;
  /** Default 1000. */
  readonly pollIntervalMs?: number;
  /** How often a silent websocket is suspected. Default 10,000. */
  readonly pushCheckMs?: number;
  /** Blocks of the first range; it grows and shrinks with what the endpoint takes. Default 2000. */
  readonly rangeBlocks?: number;
  /** Default 10,000. */
  readonly rangeBlocksMax?: number;
  /** Blocks below the head that are read one by one, because a reorg can reach them. Default 64. */
  readonly unsettledDepth?: number;
  /** Blocks whose hashes are remembered. Default 256. */
  readonly trailBlocks?: number;
  /** How far to go back when no block in memory is on the chain any more. Default 256. */
  readonly maxReorgDepth?: number;
  /** An update carries more calls only when one block does. Default 1000. */
  readonly callsPerUpdate?: number;
  readonly clock: Clock;
  readonly telemetry: Telemetry;
}

/** Never throws: failures of the endpoints are waited out. Ends when the signal fires. */
export function followChain(settings: FollowSettings, options: FollowOptions): AsyncGenerator<ChainUpdate, void, undefined> {
  return new Follower(settings, options).run();
}

const BACKOFF_MS_MIN = 250;
const BACKOFF_MS_MAX = 5000;
/** A head below everything read is believed after so many looks, some two seconds: before, the endpoint may only lag. */
const BEHIND_LOOKS = 4;
/** Blocks per step near the head, where an endpoint takes so many requests at once. */
const NEAR_BLOCKS = 32n;

class Stopped extends Error {}

/** What one step gave; `done`: everything up to this head was read. */
type Step =
  | { readonly type: 'read'; readonly read: CallsRead }
  | { readonly type: 'reorg'; readonly ancestor: BlockRef }
  | { readonly type: 'done'; readonly head: BlockHeader };

interface RangeRead {
  readonly after: BlockRef;
  readonly to: bigint;
  readonly read: Promise<CallsRead | typeof MOVED>;
}

class Follower {
  readonly #settings: FollowSettings;
  readonly #options: FollowOptions;
  readonly #heads: HeadWatch;
  readonly #reader: CallReader;
  readonly #range: RangeSize;
  #near = NEAR_BLOCKS;
  readonly #unsettled: bigint;
  readonly #metrics;
  /** Blocks read lately, ascending; the last one is where we are. */
  #trail: BlockRef[] = [];
  /** The range after the present one, under way while the present one is consumed. */
  #ahead: RangeRead | undefined;
  /** The head that was told last. */
  #reported: BlockHeader | undefined;
  /** Looks in a row at a head below all blocks in memory. */
  #behind = 0;
  /** Reads in a row that failed. */
  #failures = 0;

  constructor(settings: FollowSettings, options: FollowOptions) {
    const { transport, chainId, contract, wsUrl, wsHeaders, clock, telemetry } = settings;
    this.#settings = settings;
    this.#options = options;
    this.#reader = new CallReader({
      transport,
      chainId,
      contract,
      serviceIds: options.serviceIds ?? [],
      telemetry,
      onSkipped: options.onProblem,
    });
    this.#heads = new HeadWatch({
      request: transport.request,
      ...(wsUrl !== undefined && { wsUrl }),
      ...(wsHeaders && { wsHeaders }),
      chainId,
      onProblem: (error) => options.onProblem?.(error),
      pollIntervalMs: settings.pollIntervalMs ?? 1000,
      pushCheckMs: settings.pushCheckMs ?? 10_000,
      clock,
      telemetry,
    });
    this.#range = new RangeSize(settings.rangeBlocks ?? 2000, settings.rangeBlocksMax ?? 10_000);
    this.#unsettled = BigInt(settings.unsettledDepth ?? 64);
    const { metrics } = telemetry;
    this.#metrics = {
      calls: metrics.counter({ name: 'blueprint_chain_calls_total', help: 'Job calls read from the chain.' }),
      reorgs: metrics.counter({ name: 'blueprint_chain_reorgs_total', help: 'Reorgs that reached blocks already read.' }),
      failures: metrics.counter({ name: 'blueprint_chain_read_failures_total', help: 'Reads of the chain that failed and were repeated.' }),
      head: metrics.gauge({ name: 'blueprint_chain_head_block', help: 'Head of the chain.' }),
      cursor: metrics.gauge({ name: 'blueprint_chain_cursor_block', help: 'Block up to which the chain was read.' }),
    };
  }

  async *run(): AsyncGenerator<ChainUpdate, void, undefined> {
    const { signal } = this.#options;
    if (signal.aborted) return;
    this.#heads.start();
    try {
      this.#trail = [await this.#begin()];
      yield { type: 'calls', calls: [], cursor: this.#cursor(this.#position) };
      for (;;) {
        await this.#untilStopped(this.#heads.next(this.#reported));
        yield* this.#readToHead();
      }
    } catch (error) {
      if (!(error instanceof Stopped)) throw error;
    } finally {
      this.#heads.stop();
    }
  }

  get #position(): BlockRef {
    const last = this.#trail.at(-1);
    if (!last) throw new Error('the follower has not begun');
    return last;
  }

  /** The block after which reading begins. */
  async #begin(): Promise<BlockRef> {
    const { cursor, fromBlock } = this.#options;
    if (cursor) return cursor.block;
    let head = await this.#untilStopped(this.#heads.next(undefined));
    if (fromBlock === undefined) return head;
    // The genesis block has no logs.
    const before = fromBlock > 0n ? fromBlock - 1n : 0n;
    while (head.number < before) head = await this.#untilStopped(this.#heads.next(head));
    return this.#retrying(() => this.#block(before));
  }

  async *#readToHead(): AsyncGenerator<ChainUpdate, void, undefined> {
    for (;;) {
      const step = await this.#retrying(() => this.#step());
      if (step.type === 'reorg') yield this.#goBack(step.ancestor);
      if (step.type === 'read') yield* this.#deliver(step.read);
      // Confirmations go on while the reader catches up.
      const head = step.type === 'done' ? step.head : this.#heads.latest;
      if (head && head.hash !== this.#reported?.hash) {
        this.#reported = head;
        this.#metrics.head.set(Number(head.number));
        yield { type: 'head', block: { number: head.number, hash: head.hash }, timestamp: head.timestamp };
      }
      if (step.type === 'done') return;
    }
  }

  async #step(): Promise<Step> {
    const position = this.#position;
    const head = this.#heads.latest;
    if (!head) throw new Error('the head is not known');
    if (position.hash === head.hash) return { type: 'done', head };
    if (head.number > position.number) {
      const read = await this.#read(position, head);
      if (read !== MOVED) return { type: 'read', read };
    }
    this.#ahead = undefined;
    const ancestor = await this.#findAncestor(head);
    if (ancestor.hash !== position.hash) {
      // An endpoint that serves another chain for a while shows no reorg of this one.
      const { chainId, transport } = this.#settings;
      checkChainId(await transport.request('eth_chainId', []), chainId);
      return { type: 'reorg', ancestor };
    }
    // Still on the chain: the head is an older one, or the endpoints disagree for the moment.
    if (head.number <= position.number) return { type: 'done', head };
    throw new Error(`block ${head.number} does not descend from block ${position.number}, which is on the chain`);
  }

  async #read(position: BlockRef, head: BlockHeader): Promise<CallsRead | typeof MOVED> {
    const settled = head.number - this.#unsettled;
    if (settled > position.number) return this.#readRange(position, settled);
    return this.#readNear(position, head);
  }

  async #readNear(position: BlockRef, head: BlockHeader): Promise<CallsRead | typeof MOVED> {
    const to = position.number + this.#near < head.number ? position.number + this.#near : head.number;
    try {
      const read = await this.#reader.blocks(position, to, head);
      if (this.#near < NEAR_BLOCKS) this.#near += 1n;
      return read;
    } catch (thrown) {
      const error = toRunnerError(thrown);
      // The same step would break the rate, or be too large, again, however long it waits before.
      if (this.#near > 1n && (error.code === 'RPC_RATE_LIMITED' || isRangeRefusal(error))) this.#near /= 2n;
      throw error;
    }
  }

  async #readRange(position: BlockRef, settled: bigint): Promise<CallsRead | typeof MOVED> {
    const ahead = this.#ahead?.after.hash === position.hash ? this.#ahead : this.#startRange(position, settled);
    this.#ahead = undefined;
    try {
      const read = await ahead.read;
      if (read === MOVED) return MOVED;
      this.#range.succeed(read.calls.length);
      const end = read.blocks.at(-1);
      if (end && end.number < settled) this.#ahead = this.#startRange(end, settled);
      return read;
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (!isRangeRefusal(error) || !this.#range.refuse()) {
        // Endpoints refuse a range in words of their own, too, or in those of a rate: the next try is a smaller one.
        if (error.code === 'RPC_ERROR' || error.code === 'RPC_RATE_LIMITED') this.#range.refuse();
        throw error;
      }
      this.#settings.telemetry.log.debug('a range of blocks was refused', {
        blocks: String(ahead.to - ahead.after.number),
        error: error.message,
      });
      return this.#readRange(position, settled);
    }
  }

  #startRange(after: BlockRef, settled: bigint): RangeRead {
    const end = after.number + BigInt(this.#range.blocks);
    const to = end < settled ? end : settled;
    const read = this.#reader.range(after, to);
    // It may fail before anybody waits for it.
    read.catch(() => undefined);
    return { after, to, read };
  }

  /** The latest block in memory that is on the chain. */
  async #findAncestor(head: BlockHeader): Promise<BlockRef> {
    const trail = this.#trail;
    const highest = trail.findLastIndex((block) => block.number <= head.number);
    if (highest < 0 && ++this.#behind < BEHIND_LOOKS)
      throw new Error(`the head is block ${head.number}, below everything that was read: the endpoint may lag`);
    this.#behind = 0;
    const onChain = async (index: number): Promise<boolean> => {
      const block = trail[index];
      if (!block) return false;
      return (block.number === head.number ? head : await this.#block(block.number)).hash === block.hash;
    };
    // Most reorgs are short: back by 1, 2, 4 ... blocks, then bisect.
    let [good, bad] = [highest, highest + 1];
    for (let distance = 1; good >= 0 && !(await onChain(good)); distance *= 2) {
      bad = good;
      good = good > 0 ? Math.max(0, good - distance) : -1;
    }
    while (good >= 0 && bad - good > 1) {
      const middle = Math.floor((good + bad) / 2);
      if (await onChain(middle)) good = middle;
      else bad = middle;
    }
    return trail[good] ?? this.#startOver(head);
  }

  /** Nothing in memory is on the chain: a reorg deeper than the memory, or another chain in the place of the old one. */
  async #startOver(head: BlockHeader): Promise<BlockRef> {
    const position = this.#position.number;
    const { fromBlock = 0n } = this.#options;
    const depth = BigInt(this.#settings.maxReorgDepth ?? 256);
    const first = fromBlock > 0n ? fromBlock - 1n : 0n;
    const base = head.number < position ? head.number : position;
    const back = base - depth > first && head.number + depth >= position ? base - depth : first;
    const block = await this.#block(back < head.number ? back : head.number);
    this.#settings.telemetry.log.warn('no block in memory is on the chain: going back', {
      position: String(position),
      to: String(block.number),
      head: String(head.number),
    });
    return { number: block.number, hash: block.hash };
  }

  /** A block that must exist. */
  async #block(number: bigint): Promise<BlockHeader> {
    const block = parseHeader(await this.#settings.transport.request('eth_getBlockByNumber', [hex(number), false]));
    if (!block) throw new Error(`the endpoint does not have block ${number}`);
    return block;
  }

  #goBack(ancestor: BlockRef): ChainUpdate {
    const depth = Number(this.#position.number - ancestor.number);
    this.#trail = [...this.#trail.filter((block) => block.number < ancestor.number), ancestor];
    this.#metrics.reorgs.add();
    this.#metrics.cursor.set(Number(ancestor.number));
    this.#settings.telemetry.log.info('reorg', { ancestor: String(ancestor.number), depth });
    return { type: 'reorg', cursor: this.#cursor(ancestor), depth };
  }

  *#deliver({ calls, blocks }: CallsRead): Generator<ChainUpdate, void, undefined> {
    const max = this.#settings.callsPerUpdate ?? 1000;
    let start = 0;
    let blockStart = 0;
    for (const [index, call] of calls.entries()) {
      if (call.blockHash !== calls[index - 1]?.blockHash) blockStart = index;
      const last = calls[blockStart - 1];
      if (index - start < max || blockStart === start || !last) continue;
      yield this.#callsUpdate(calls.slice(start, blockStart), { number: last.blockNumber, hash: last.blockHash });
      start = blockStart;
    }
    this.#trail = [...this.#trail, ...blocks].slice(-(this.#settings.trailBlocks ?? 256));
    yield this.#callsUpdate(start === 0 ? calls : calls.slice(start), this.#position);
  }

  #callsUpdate(calls: readonly ChainCall[], block: BlockRef): ChainUpdate {
    this.#metrics.calls.add(calls.length);
    this.#metrics.cursor.set(Number(block.number));
    return { type: 'calls', calls, cursor: this.#cursor(block) };
  }

  #cursor({ number, hash }: BlockRef): Cursor {
    return { chainId: this.#settings.chainId, contract: this.#settings.contract, block: { number, hash } };
  }

  /** Repeats until it succeeds. Rejects only with Stopped. */
  async #retrying<T>(work: () => Promise<T>): Promise<T> {
    const { clock, telemetry } = this.#settings;
    for (let backoffMs = BACKOFF_MS_MIN; ; backoffMs = Math.min(BACKOFF_MS_MAX, backoffMs * 2)) {
      try {
        const result = await this.#untilStopped(work());
        if (this.#failures > 0) telemetry.log.info('the chain can be read again');
        this.#failures = 0;
        return result;
      } catch (thrown) {
        if (thrown instanceof Stopped) throw thrown;
        this.#warn(toRunnerError(thrown, 'RPC_RESPONSE_INVALID'));
        this.#ahead = undefined;
        this.#heads.hurry();
        await this.#untilStopped(clock.sleep(backoffMs, this.#options.signal));
      }
    }
  }

  #warn(error: RunnerError): void {
    this.#metrics.failures.add();
    this.#failures += 1;
    const { code, message } = error;
    if (this.#failures === 1) this.#settings.telemetry.log.warn('the chain cannot be read: trying again', { code, error: message });
    if (this.#failures === FAILURES_TOLD) this.#options.onProblem?.(error);
  }

  async #untilStopped<T>(work: Promise<T>): Promise<T> {
    const { signal } = this.#options;
    return new Promise((resolve, reject) => {
      const stop = (): void => reject(new Stopped());
      if (signal.aborted) stop();
      signal.addEventListener('abort', stop, { once: true });
      const done = (): void => signal.removeEventListener('abort', stop);
      work.then(
        (value) => {
          done();
          resolve(value);
        },
        (error: unknown) => {
          done();
          reject(signal.aborted ? new Stopped() : toRunnerError(error));
        },
      );
    });
  }
}
