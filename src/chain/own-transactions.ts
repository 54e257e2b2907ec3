/** Transactions of the operator itself (registration, heartbeat) that wait for their turn in the nonce lane. */

import { RunnerError, toRunnerError } from '../errors.ts';
import type { Address } from '../job/call.ts';
import type { Receipt, SettlementChain, Simulation, TransactionRequest, TransactionSender } from './chain.ts';
import type { LaneEvent, NonceLane } from './nonce-lane.ts';

interface Waiting {
  readonly request: TransactionRequest;
  readonly resolve: (receipt: Receipt) => void;
  readonly reject: (error: RunnerError) => void;
}

const QUEUE_MAX = 64;

export class OwnTransactions implements TransactionSender {
  readonly address: Address;
  readonly #chain: SettlementChain;
  readonly #wake: () => void;
  readonly #withGasMargin: (gas: bigint) => bigint;
  readonly #queue: Waiting[] = [];
  readonly #signed = new Map<number, Waiting>();
  #closed = false;

  constructor(
    address: Address,
    options: { readonly chain: SettlementChain; readonly wake: () => void; readonly withGasMargin: (gas: bigint) => bigint },
  ) {
    this.address = address;
    this.#chain = options.chain;
    this.#wake = options.wake;
    this.#withGasMargin = options.withGasMargin;
  }

  /** Something waits to be signed. */
  get waiting(): boolean {
    return this.#queue.length > 0;
  }

  async send(request: TransactionRequest, options: { readonly signal?: AbortSignal } = {}): Promise<Receipt> {
    const { signal } = options;
    if (this.#closed) throw new RunnerError('STATE_INVALID', 'settlement is closed: nothing is sent any more');
    if (signal?.aborted) throw new RunnerError('ABORTED', 'the transaction was cancelled before it was signed', { cause: signal.reason });
    if (this.#queue.length >= QUEUE_MAX)
      throw new RunnerError('QUEUE_FULL', `${QUEUE_MAX} transactions of ${this.address} wait to be signed`);
    const { promise, resolve, reject } = Promise.withResolvers<Receipt>();
    const item: Waiting = { request, resolve, reject };
    const onAbort = (): void => {
      const index = this.#queue.indexOf(item);
      if (index >= 0) this.#queue.splice(index, 1);
      reject(
        new RunnerError(
          'ABORTED',
          index >= 0
            ? 'the transaction was cancelled before it was signed'
            : 'nobody waits for the transaction any more; it stays in flight',
          { cause: signal?.reason },
        ),
      );
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#queue.push(item);
    this.#wake();
    return promise.finally(() => signal?.removeEventListener('abort', onAbort));
  }

  /** Signs and sends what waits, as far as the lane has room. Failures of chain and ledger reject; the item stays in the queue. */
  async submit(lane: NonceLane): Promise<void> {
    while (this.#queue.length > 0 && lane.slots() > 0) {
      const [item] = this.#queue;
      if (!item) return;
      const simulation = await this.#simulate(item);
      if (!simulation) continue;
      if (simulation.outcome === 'revert') {
        this.#take(item);
        item.reject(
          new RunnerError(
            'RESULT_REJECTED',
            `the contract refuses the transaction: ${simulation.error}(${simulation.args.map(String).join(', ')})`,
            { details: { error: simulation.error } },
          ),
        );
        continue;
      }
      const fees = await lane.fees();
      if (!fees || !this.#queue.includes(item)) return;
      const issued = await lane.issue(
        { purpose: 'other', request: item.request, gas: this.#withGasMargin(simulation.gas), calls: [] },
        fees,
      );
      if (!issued) return;
      this.#take(item);
      this.#signed.set(issued.nonce, item);
      try {
        await issued.journaled;
      } catch (error) {
        this.#signed.delete(issued.nonce);
        this.#queue.unshift(item);
        throw error;
      }
    }
  }

  observe(event: LaneEvent): void {
    if (event.type === 'mined') {
      const item = this.#signed.get(event.nonce);
      this.#signed.delete(event.nonce);
      if (!item) return;
      if (event.purpose !== 'other') this.#queue.unshift(item);
      else if (event.receipt.success) item.resolve(event.receipt);
      else
        item.reject(
          new RunnerError('RESULT_REJECTED', `transaction ${event.hash} reverted in block ${event.receipt.block.number}`, {
            details: { hash: event.hash },
          }),
        );
    } else if (event.type === 'healed' && (event.how === 'dropped' || event.how === 'refused')) {
      const item = this.#signed.get(event.nonce);
      this.#signed.delete(event.nonce);
      if (event.how === 'dropped' && item) this.#queue.unshift(item);
      else item?.reject(new RunnerError('RPC_ERROR', 'every node refuses the transaction'));
    }
  }

  /** Nobody gets an answer any more; what is signed stays in the journal. */
  close(): void {
    this.#closed = true;
    for (const item of [...this.#queue.splice(0), ...this.#signed.values()])
      item.reject(new RunnerError('ABORTED', 'settlement was closed while the transaction was in flight'));
    this.#signed.clear();
  }

  /** Undefined: the endpoint refuses this request; the others must not wait for it. */
  async #simulate(item: Waiting): Promise<Simulation | undefined> {
    try {
      return await this.#chain.simulate(this.address, item.request);
    } catch (thrown) {
      const error = toRunnerError(thrown);
      if (error.code !== 'RPC_ERROR') throw error;
      this.#take(item);
      item.reject(error);
      return undefined;
    }
  }

  #take(item: Waiting): void {
    const index = this.#queue.indexOf(item);
    if (index >= 0) this.#queue.splice(index, 1);
  }
}
