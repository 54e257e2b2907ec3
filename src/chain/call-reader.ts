/** Reads the job calls of blocks, so that one answer never mixes two branches of the chain. */

import { RunnerError, isRunnerError } from '../errors.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import type { BlockRef } from '../ledger/ledger.ts';
import type { Counter, Telemetry } from '../telemetry/telemetry.ts';
import type { RpcCall } from './endpoint.ts';
import { TOPIC } from './contracts.ts';
import { decodeJobCall } from './decode.ts';
import type { LogOrigin } from './decode.ts';
import type { BlockHeader } from './heads.ts';
import { parseHeader } from './heads.ts';
import type { RpcTransport } from './transport.ts';

/** All calls in the blocks up to and including the last of `blocks`. */
export interface CallsRead {
  readonly calls: readonly ChainCall[];
  /** Blocks whose hashes were seen, ascending. */
  readonly blocks: readonly BlockRef[];
}

const DOUBTS_MAX = 2;

/** The chain is another one than what was read before: look for the place where it forked. */
export const MOVED = 'moved';

export interface CallReaderOptions extends LogOrigin {
  readonly transport: Pick<RpcTransport, 'batch'>;
  readonly serviceIds: readonly bigint[];
  readonly telemetry: Telemetry;
  readonly onSkipped?: ((error: RunnerError) => void) | undefined;
}

export class CallReader {
  readonly #transport: Pick<RpcTransport, 'batch'>;
  readonly #origin: LogOrigin;
  readonly #filter: { readonly address: Address; readonly topics: readonly (readonly Hex[])[] };
  readonly #telemetry: Telemetry;
  readonly #malformed: Counter;
  readonly #onSkipped: CallReaderOptions['onSkipped'];
  /** Reads in a row that showed broken logs. */
  #doubts = 0;

  constructor(options: CallReaderOptions) {
    this.#transport = options.transport;
    this.#origin = { chainId: options.chainId, contract: options.contract };
    const services = options.serviceIds.map((id) => hex(id, 64));
    const topics = [[TOPIC.jobSubmitted, TOPIC.jobSubmittedFromQuote], ...(services.length > 0 ? [services] : [])];
    this.#filter = { address: options.contract, topics };
    this.#telemetry = options.telemetry;
    this.#onSkipped = options.onSkipped;
    this.#malformed = options.telemetry.metrics.counter({
      name: 'blueprint_chain_logs_malformed_total',
      help: 'Logs that could not be decoded and were skipped.',
    });
  }

  /**
   * The blocks after `after` up to `to`, by number: fast, for blocks that hardly change any more. A hash stands for all blocks below it: the last
   * block is the same before and after the logs were read, so they are of one branch, and `after` is on it. Each look is a round trip of its
   * own, because nodes answer the parts of a batch in any order.
   */
  async range(after: BlockRef, to: bigint): Promise<CallsRead | typeof MOVED> {
    const from = after.number + 1n;
    const [end] = await this.#headersOf([to]);
    const [logs] = await this.#transport.batch([
      { method: 'eth_getLogs', params: [{ ...this.#filter, fromBlock: hex(from), toBlock: hex(to) }] },
    ]);
    const broken: RunnerError[] = [];
    const calls = this.#decode(valueOrThrow(logs), broken);
    const [before, endAgain] = await this.#headersOf([after.number, to]);
    if (before?.hash !== after.hash) return MOVED;
    if (!end || !endAgain) throw behind(to);
    const [first] = calls;
    const final = calls.at(-1);
    if (end.hash !== endAgain.hash || (final?.blockNumber === to && final.blockHash !== end.hash))
      throw new RunnerError('RPC_RESPONSE_INVALID', `the chain changed while blocks ${from} to ${to} were read`);
    if (first && final && (first.blockNumber < from || final.blockNumber > to)) {
      throw new RunnerError(
        'RPC_RESPONSE_INVALID',
        `eth_getLogs of blocks ${from} to ${to} answered with logs of blocks ${first.blockNumber} to ${final.blockNumber}`,
      );
    }
    this.#judge(broken);
    return { calls, blocks: [end] };
  }

  /** Undefined where the endpoint does not have the block. */
  async #headersOf(numbers: readonly bigint[]): Promise<(BlockHeader | undefined)[]> {
    const answers = await this.#transport.batch(numbers.map((number) => blockByNumber(number)));
    return answers.map((answer) => parseHeader(valueOrThrow(answer)));
  }

  /**
   * The blocks after `after` up to `to`, each by its hash: exact also at the head, where blocks come and go. Blocks that are known already
   * need not be asked for.
   */
  async blocks(after: BlockRef, to: bigint, known?: BlockHeader): Promise<CallsRead | typeof MOVED> {
    const headers = await this.#headers(after, to, known);
    if (headers === MOVED) return MOVED;
    const answers = await this.#transport.batch(
      headers.map(({ hash }) => ({ method: 'eth_getLogs', params: [{ ...this.#filter, blockHash: hash }] })),
    );
    const calls: ChainCall[] = [];
    const broken: RunnerError[] = [];
    for (const [index, header] of headers.entries()) {
      for (const call of this.#decode(valueOrThrow(answers[index]), broken)) {
        if (call.blockHash !== header.hash)
          throw new RunnerError(
            'RPC_RESPONSE_INVALID',
            `eth_getLogs of block ${header.hash} answered with a log of block ${call.blockHash}`,
          );
        calls.push(call.timestamp === undefined ? { ...call, timestamp: header.timestamp } : call);
      }
    }
    this.#judge(broken);
    return { calls, blocks: headers };
  }

  /** Headers that are chained to `after` by their parent hashes. */
  async #headers(after: BlockRef, to: bigint, known: BlockHeader | undefined): Promise<readonly BlockHeader[] | typeof MOVED> {
    if (known && known.number === to && to === after.number + 1n) return known.parentHash === after.hash ? [known] : MOVED;
    const requests: RpcCall[] = [];
    for (let number = after.number + 1n; number <= to; number++) requests.push(blockByNumber(number));
    const answers = await this.#transport.batch(requests);
    const headers: BlockHeader[] = [];
    let parent = after.hash;
    for (const answer of answers) {
      const header = parseHeader(valueOrThrow(answer));
      if (!header) throw behind(to);
      if (header.parentHash !== parent) return MOVED;
      parent = header.hash;
      headers.push(header);
    }
    return headers;
  }

  /** What cannot be decoded goes into `broken`. */
  #decode(logs: unknown, broken: RunnerError[]): ChainCall[] {
    if (!Array.isArray(logs)) throw new RunnerError('RPC_RESPONSE_INVALID', 'eth_getLogs did not answer with a list');
    const calls: ChainCall[] = [];
    let sorted = true;
    for (const log of logs) {
      const call = this.#decodeOne(log);
      if (!call) continue;
      if (isRunnerError(call)) {
        broken.push(call);
        continue;
      }
      const last = calls.at(-1);
      if (last && !isBefore(last, call)) sorted = false;
      calls.push(call);
    }
    return sorted ? calls : calls.sort((a, b) => (isBefore(a, b) ? -1 : 1));
  }

  #decodeOne(log: unknown): ChainCall | RunnerError | undefined {
    try {
      if (typeof log === 'object' && log !== null && 'removed' in log && log.removed === true) return undefined;
      return decodeJobCall(log, this.#origin);
    } catch (error) {
      if (!isRunnerError(error) || error.code !== 'LOG_MALFORMED') throw error;
      return error;
    }
  }

  /** An endpoint can be wrong for a moment, and a call that is passed over is lost: logs are broken when they are so several times. */
  #judge(broken: readonly RunnerError[]): void {
    const [first] = broken;
    if (first && this.#doubts < DOUBTS_MAX) {
      this.#doubts += 1;
      throw first;
    }
    this.#doubts = 0;
    for (const error of broken) {
      this.#malformed.add();
      this.#telemetry.log.warn('a log was skipped', { code: error.code, error: error.message, ...error.details });
      this.#onSkipped?.(error);
    }
  }
}

/** An integer of the protocol, padded to `digits`. */
export function hex(value: bigint, digits = 0): Hex {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}

export function blockByNumber(number: bigint): RpcCall {
  return { method: 'eth_getBlockByNumber', params: [hex(number), false] };
}

/** Its results stand beside its errors in a batch. */
export function valueOrThrow(result: unknown): unknown {
  if (isRunnerError(result)) throw result;
  return result;
}

function behind(number: bigint): RunnerError {
  return new RunnerError('RPC_RESPONSE_INVALID', `the endpoint does not have block ${number} yet`, { details: { reason: 'stale' } });
}

function isBefore(a: ChainCall, b: ChainCall): boolean {
  return a.blockNumber < b.blockNumber || (a.blockNumber === b.blockNumber && a.logIndex < b.logIndex);
}

const REFUSED_RANGE =
  /block range|too (many|large|wide|big)|exceed|more than|max(imum)?\b.*\b(results|blocks|logs|range)|limited to|response size|time(d )?-?out/i;

/** Whether an eth_getLogs could succeed with fewer blocks. Providers have a dozen ways to say it. */
export function isRangeRefusal(error: RunnerError): boolean {
  const { reason, rpcMessage } = error.details;
  return reason === 'too-large' || reason === 'timeout' || (error.code === 'RPC_ERROR' && REFUSED_RANGE.test(String(rpcMessage)));
}

const LOGS_WANTED = 4000;

/** How many blocks to ask for at once: as many as the endpoint takes and as give a digestible answer. */
export class RangeSize {
  #blocks: number;
  #ceiling: number;
  #successes = 0;

  constructor(start: number, max: number) {
    this.#blocks = Math.min(start, max);
    this.#ceiling = max;
    this.max = max;
  }

  readonly max: number;

  get blocks(): number {
    return this.#blocks;
  }

  /** The endpoint refused the range. False when it cannot be smaller. */
  refuse(): boolean {
    if (this.#blocks === 1) return false;
    this.#blocks = Math.floor(this.#blocks / 2);
    this.#ceiling = this.#blocks;
    this.#successes = 0;
    return true;
  }

  succeed(logs: number): void {
    // A refusal may have been due to crowded blocks or a bad moment: try more again after a while.
    if (++this.#successes % 32 === 0) this.#ceiling = Math.min(this.max, this.#ceiling * 2);
    if (logs > 2 * LOGS_WANTED) this.#blocks = Math.max(1, Math.floor(this.#blocks / 2));
    else if (logs < LOGS_WANTED / 2) this.#blocks = Math.min(this.#ceiling, this.#blocks * 2);
  }
}
