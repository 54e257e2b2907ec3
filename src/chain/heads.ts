/** Where the chain is now: polled, and pushed when there is a websocket. */

import type { Clock } from '../clock.ts';
import { RunnerError, toRunnerError } from '../errors.ts';
import type { Hex } from '../job/call.ts';
import type { BlockRef } from '../ledger/ledger.ts';
import type { Telemetry } from '../telemetry/telemetry.ts';
import type { RpcRequest } from './chain.ts';
import { HeadPush } from './push.ts';

export interface BlockHeader extends BlockRef {
  readonly parentHash: Hex;
  /** Seconds since the epoch. */
  readonly timestamp: bigint;
}

const HASH = /^0x[0-9a-f]{64}$/i;
const QUANTITY = /^0x[0-9a-f]{1,16}$/i;

/** A block or header of the protocol; undefined for null. Throws `RPC_RESPONSE_INVALID`. */
export function parseHeader(raw: unknown): BlockHeader | undefined {
  if (raw === null) return undefined;
  const { number, hash, parentHash, timestamp } = (raw ?? {}) as Readonly<Record<string, unknown>>; // as: each field is checked below
  const quantities = [number, timestamp].every((value) => typeof value === 'string' && QUANTITY.test(value));
  const hashes = [hash, parentHash].every((value) => typeof value === 'string' && HASH.test(value));
  if (!quantities || !hashes)
    throw new RunnerError(
      'RPC_RESPONSE_INVALID',
      `a block header has number ${String(number)}, hash ${String(hash)}, parent ${String(parentHash)}, timestamp ${String(timestamp)}`,
    );
  return {
    number: BigInt(String(number)),
    hash: String(hash).toLowerCase() as Hex, // as: matched by HASH
    parentHash: String(parentHash).toLowerCase() as Hex, // as: matched by HASH
    timestamp: BigInt(String(timestamp)),
  };
}

export interface HeadWatchOptions {
  readonly request: RpcRequest;
  readonly wsUrl?: string;
  readonly wsHeaders?: Readonly<Record<string, string>>;
  readonly chainId: number;
  /** Between two looks at the head when nothing is pushed. */
  readonly pollIntervalMs: number;
  /** Between two looks at the head while heads are pushed: finds out whether the socket fell silent. */
  readonly pushCheckMs: number;
  /** The head could not be read several times in a row. */
  readonly onProblem?: (error: RunnerError) => void;
  readonly clock: Clock;
  readonly telemetry: Telemetry;
}

/** Failures in a row, some two seconds of them, that are more than a hiccup. */
export const FAILURES_TOLD = 4;
const BACKOFF_MS_MIN = 250;
const BACKOFF_MS_MAX = 5000;

/** A node that lags looks like a chain that lost blocks: a lower head is believed when it was polled so many times. */
const LOWER_HEAD_LOOKS = 3;

/** Watches the head from `start` to `stop`. */
export class HeadWatch {
  readonly #options: HeadWatchOptions;
  readonly #push: HeadPush | undefined;
  readonly #connected;
  readonly #failures;
  #latest: BlockHeader | undefined;
  /** The highest block that the present subscription must know of. */
  #announced: bigint | undefined;
  /** A polled block that should be announced any moment. */
  #expected: bigint | undefined;
  /** Polls in a row that saw a lower head than the one known. */
  #lowered = 0;
  /** Polls in a row that failed. */
  #failed = 0;
  #stopped = false;
  #nap: AbortController | undefined;
  #waiting: (() => void) | undefined;

  constructor(options: HeadWatchOptions) {
    this.#options = options;
    const { metrics } = options.telemetry;
    this.#connected = metrics.gauge({ name: 'blueprint_chain_push_connected', help: '1 while heads are pushed over the websocket.' });
    this.#failures = metrics.counter({ name: 'blueprint_chain_head_failures_total', help: 'Looks at the head that failed.' });
    if (options.wsUrl !== undefined) {
      this.#push = new HeadPush({
        url: options.wsUrl,
        ...(options.wsHeaders && { headers: options.wsHeaders }),
        chainId: options.chainId,
        clock: options.clock,
        onHead: (header) => this.#receive(header),
        onState: (connected, reason) => this.#changeState(connected, reason),
      });
    }
  }

  get latest(): BlockHeader | undefined {
    return this.#latest;
  }

  start(): void {
    this.#push?.start();
    void this.#poll();
  }

  stop(): void {
    this.#stopped = true;
    this.#nap?.abort();
    this.#push?.close();
  }

  /** Looks at the head now. */
  hurry(): void {
    this.#nap?.abort();
  }

  /** Resolves with the head as soon as it is another one than `seen`. For one waiter at a time. */
  async next(seen: BlockHeader | undefined): Promise<BlockHeader> {
    for (;;) {
      if (this.#latest && this.#latest.hash !== seen?.hash) return this.#latest;
      await new Promise<void>((resolve) => (this.#waiting = resolve));
    }
  }

  #see(head: BlockHeader): void {
    if (head.hash === this.#latest?.hash) return;
    this.#latest = head;
    this.#waiting?.();
  }

  #receive(raw: unknown): void {
    try {
      const head = parseHeader(raw);
      if (!head) return;
      this.#announced = head.number;
      this.#lowered = 0;
      this.#see(head);
    } catch (error) {
      this.#push?.restart(toRunnerError(error).message);
    }
  }

  #changeState(connected: boolean, reason?: string): void {
    const { log } = this.#options.telemetry;
    this.#connected.set(connected ? 1 : 0);
    if (connected) log.info('chain heads are pushed', { endpoint: this.#push?.label });
    else log.warn('chain heads are not pushed: polling', { endpoint: this.#push?.label, reason });
    this.#announced = undefined;
    this.#expected = undefined;
    // Whatever was announced meanwhile was missed.
    this.hurry();
  }

  /** Never rejects. */
  async #poll(): Promise<void> {
    const { request, pollIntervalMs, pushCheckMs, telemetry } = this.#options;
    let backoffMs = BACKOFF_MS_MIN;
    while (!this.#stopped) {
      let waitMs = this.#push?.connected ? pushCheckMs : pollIntervalMs;
      try {
        const head = parseHeader(await request('eth_getBlockByNumber', ['latest', false]));
        if (this.#failed > 0) telemetry.log.info('the head of the chain can be read again');
        this.#failed = 0;
        backoffMs = BACKOFF_MS_MIN;
        if (head && this.#judge(head)) waitMs = Math.min(waitMs, pollIntervalMs);
      } catch (thrown) {
        this.#failures.add();
        const error = toRunnerError(thrown);
        const { code, message } = error;
        if (this.#failed === 0 && !this.#stopped) telemetry.log.warn('the head of the chain cannot be read', { code, error: message });
        this.#failed += 1;
        if (this.#failed === FAILURES_TOLD && !this.#stopped) this.#options.onProblem?.(error);
        waitMs = backoffMs;
        backoffMs = Math.min(BACKOFF_MS_MAX, backoffMs * 2);
      }
      await this.#sleep(waitMs);
    }
  }

  /** Takes a polled head. True: look again soon. */
  #judge(head: BlockHeader): boolean {
    const silent = this.#isSilent(head);
    const lower = this.#latest !== undefined && head.number < this.#latest.number;
    this.#lowered = lower ? this.#lowered + 1 : 0;
    const doubtful = lower && this.#lowered < LOWER_HEAD_LOOKS;
    if (!doubtful) this.#see(head);
    return doubtful || silent;
  }

  /** A socket can stay open and say nothing any more. True when a block that exists was not announced (yet). */
  #isSilent(head: BlockHeader): boolean {
    if (!this.#push?.connected) return false;
    // What was there before the subscription is not announced.
    this.#announced ??= head.number;
    if (this.#expected !== undefined && this.#announced < this.#expected) {
      this.#push.restart(`it did not announce block ${this.#expected}`);
      return true;
    }
    this.#expected = head.number > this.#announced ? head.number : undefined;
    return this.#expected !== undefined;
  }

  async #sleep(waitMs: number): Promise<void> {
    this.#nap = new AbortController();
    await this.#options.clock.sleep(waitMs, this.#nap.signal).catch(() => undefined);
  }
}
