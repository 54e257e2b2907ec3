/** What must hold in every simulated history, and the history itself. */

import { createHash, hash as digest } from 'node:crypto';
import type { Clock } from '../clock.ts';
import type { ResultBatch } from '../chain/chain.ts';
import type { MockBlock } from '../chain/mock-block.ts';
import type { MockChain } from '../chain/mock-chain.ts';
import type { Address, ChainCall, Hex } from '../job/call.ts';
import type { Random } from './fake-clock.ts';

export type Rule =
  /** Every result on chain is the one that belongs to the inputs of its call. */
  | 'own-inputs'
  /**
   * A result is signed for the first time only while its call is on the chain, with these inputs, under as many blocks as there must be
   * confirmations.
   */
  | 'confirmed'
  /** Every call that can be answered is answered. */
  | 'answered'
  /** At the end the journal of the system holds nothing that is not ended. */
  | 'settled'
  /** No transaction carries a result that the contract has from us already. */
  | 'once'
  /** Nothing is executed after its output was journaled. */
  | 'no-rerun'
  /** A consumer gets the result of a call at most once, after it was journaled. */
  | 'delivered-once'
  /** At the end no nonce is a gap, and nothing waits in the pool. */
  | 'nonces'
  | 'bounded'
  | 'start'
  | 'stop';

export interface Violation {
  readonly rule: Rule;
  readonly message: string;
  readonly atMs: number;
}

/** The first byte of inputs says what becomes of the call. */
const KIND = { plain: 0, jobFails: 1, contractRefuses: 2 } as const;

const TAIL_MAX = 200;
const VIOLATIONS_MAX = 50;

/** Inputs that no other call has: most can be answered, some make the job fail, some results the contract refuses. */
export function inputsFor(count: number, random: Random): Uint8Array {
  const kinds = [
    KIND.plain,
    KIND.plain,
    KIND.plain,
    KIND.plain,
    KIND.plain,
    KIND.plain,
    KIND.plain,
    KIND.plain,
    KIND.jobFails,
    KIND.contractRefuses,
  ];
  const inputs = new Uint8Array(random.int(5, 70));
  inputs[0] = random.pick(kinds);
  new DataView(inputs.buffer).setUint32(1, count);
  return inputs;
}

/** False when the contract refuses what we answer. */
export function isAnswerable(inputs: Uint8Array): boolean {
  return inputs[0] === KIND.plain;
}

/** The job of the simulation; undefined: it throws. */
export function resultFor(jobIndex: number, inputs: Uint8Array): Uint8Array | undefined {
  if (inputs[0] === KIND.jobFails) return undefined;
  return new Uint8Array(Buffer.from(digest('sha256', Buffer.concat([Uint8Array.of(jobIndex), inputs])), 'hex'));
}

/** A transaction of ours. */
export interface Sent {
  readonly nonce: number;
  /** As `service/call`. */
  readonly calls: readonly string[];
}

export interface CheckerOptions {
  readonly clock: Clock;
  readonly chain: MockChain;
  readonly operator: Address;
  readonly onEvent?: (line: string) => void;
}

export class Checker {
  readonly violations: Violation[] = [];
  /** The last events. */
  readonly tail: string[] = [];
  readonly #clock: Clock;
  readonly #chain: MockChain;
  readonly #operator: Address;
  readonly #onEvent: ((line: string) => void) | undefined;
  readonly #history = createHash('sha256');
  readonly #journaled = new Set<string>();
  readonly #delivered = new Set<string>();
  readonly #sent = new Map<Hex, Sent>();
  /** Calls, each with its result, that a transaction carried which was given to a node. */
  readonly #carried = new Set<string>();

  constructor(options: CheckerOptions) {
    this.#clock = options.clock;
    this.#chain = options.chain;
    this.#operator = options.operator;
    this.#onEvent = options.onEvent;
    this.#chain.onChange((event) => {
      if (event.type === 'block') this.#checkBlock(event.block);
    });
  }

  /** One line of the history. */
  note(event: string, detail: Readonly<Record<string, unknown>>): void {
    const line = `${this.#clock.monotonic()} ${event} ${JSON.stringify(detail, (_, value: unknown) => (typeof value === 'bigint' ? value.toString() : value))}`;
    this.#history.update(line);
    this.#onEvent?.(line);
    this.tail.push(line);
    if (this.tail.length > TAIL_MAX) this.tail.shift();
  }

  readonly historyHash = (): string => this.#history.copy().digest('hex');

  violate(rule: Rule, message: string): void {
    if (this.violations.length >= VIOLATIONS_MAX) return;
    this.note('violation', { rule, message });
    this.violations.push({ rule, message, atMs: this.#clock.monotonic() });
  }

  journaled(callKey: string): void {
    this.note('journaled', { callKey });
    this.#journaled.add(callKey);
  }

  delivered(callKey: string): void {
    this.note('delivered', { callKey });
    if (!this.#journaled.has(callKey)) this.violate('delivered-once', `the result of ${callKey} is delivered, and not journaled`);
    if (this.#delivered.has(callKey)) this.violate('delivered-once', `the result of ${callKey} is delivered again`);
    this.#delivered.add(callKey);
  }

  executing(callKey: string, attempt: number): void {
    this.note('execute', { callKey, attempt });
    if (this.#journaled.has(callKey)) this.violate('no-rerun', `call ${callKey} is executed although its output is journaled`);
  }

  /** Another version of a transaction may be signed at any time: what it carries is with the nodes already. */
  signing(batch: ResultBatch, confirmations: number): void {
    const { serviceId, callIds, results } = batch;
    for (const [index, callId] of callIds.entries()) {
      const output = results[index] ?? new Uint8Array();
      if (this.#carried.has(carriedKey({ serviceId, callId, output }))) continue;
      const call = this.#chain.calls().find((other) => other.serviceId === serviceId && other.callId === callId);
      const name = `the result for call ${serviceId}/${callId}`;
      if (!call) this.violate('confirmed', `${name} is signed, and the call is not on the chain`);
      else if (!isResultOf(call, output))
        this.violate('confirmed', `${name} is signed, and belongs to other inputs than those on the chain`);
      else if (this.#chain.head.number - call.blockNumber < BigInt(confirmations))
        this.violate('confirmed', `${name} is signed at block ${this.#chain.head.number}, the call is in block ${call.blockNumber}`);
    }
  }

  /** A transaction of ours is about to be sent. */
  sending(hash: Hex, transaction: { readonly nonce: number; readonly batch: ResultBatch | undefined }): void {
    const { nonce, batch } = transaction;
    const { serviceId = 0n, callIds = [], results = [] } = batch ?? {};
    const sent = { nonce, calls: callIds.map((callId) => `${serviceId}/${callId}`) };
    for (const [index, callId] of callIds.entries())
      this.#carried.add(carriedKey({ serviceId, callId, output: results[index] ?? new Uint8Array() }));
    this.note('send', { hash, ...sent });
    // The last one sent stands last.
    this.#sent.delete(hash);
    this.#sent.set(hash, sent);
  }

  /** Whether everything that can be answered is, and nothing of ours waits. */
  nothingOpen(): boolean {
    return this.#unanswered().length === 0 && this.#chain.pooled(this.#operator).length === 0;
  }

  /** `open`: what the journal of the system does not call ended. */
  checkEnd(open = 0): void {
    if (open > 0) this.violate('settled', `${open} calls in the journal are not ended`);
    for (const call of this.#unanswered()) this.violate('answered', `${nameOf(call)} in block ${call.blockNumber} has no result`);
    for (const { nonce, hash } of this.#chain.pooled(this.#operator)) {
      const next = this.#chain.nonce(this.#operator, 'latest');
      this.violate('nonces', `transaction ${hash} waits with nonce ${nonce}; the next one is ${next}`);
    }
    this.note('end', { head: this.#chain.head.hash, results: this.#chain.results().length });
  }

  #unanswered(): ChainCall[] {
    const answered = new Set(this.#chain.results().map((result) => `${result.serviceId}/${result.callId}`));
    return this.#chain.calls().filter((call) => isAnswerable(call.inputs) && !answered.has(`${call.serviceId}/${call.callId}`));
  }

  #checkBlock(block: MockBlock): void {
    this.note('block', { number: block.number, hash: block.hash, calls: block.calls.length, results: block.results.length });
    for (const result of block.results) {
      if (result.operator !== this.#operator) continue;
      if (!isResultOf(result.call, result.output))
        this.violate('own-inputs', `the result of ${nameOf(result.call)} in block ${block.number} does not belong to its inputs`);
    }
    this.#checkReverts(block);
  }

  /** A nonce is used after all lower ones: only what those carried can have been there before. */
  #checkReverts(block: MockBlock): void {
    const answeredBy = new Map<string, Sent>();
    for (const { operator, serviceId, callId, transactionHash } of this.#chain.results()) {
      const sent = this.#sent.get(transactionHash);
      if (operator === this.#operator && sent) answeredBy.set(`${serviceId}/${callId}`, sent);
    }
    for (const [hash, { nonce, calls }] of this.#sent) {
      const receipt = this.#chain.receipt(hash);
      if (receipt?.block.hash !== block.hash || receipt.success) continue;
      this.note('reverted', { hash, calls });
      // A version that was to be replaced by one without the call may be mined all the same.
      const wanted = new Set([...this.#sent.values()].findLast((sent) => sent.nonce === nonce)?.calls);
      const twice = calls.filter((call) => wanted.has(call) && (answeredBy.get(call)?.nonce ?? nonce) < nonce);
      if (twice.length > 0) this.violate('once', `transaction ${hash} reverted: it carries ${twice.join(', ')}, answered by us before`);
    }
  }
}

function isResultOf(call: Pick<ChainCall, 'jobIndex' | 'inputs'>, output: Uint8Array): boolean {
  const expected = resultFor(call.jobIndex, call.inputs);
  return expected !== undefined && Buffer.compare(expected, output) === 0;
}

function carriedKey({ serviceId, callId, output }: { serviceId: bigint; callId: bigint; output: Uint8Array }): string {
  return `${serviceId}/${callId}/${Buffer.from(output).toString('hex')}`;
}

function nameOf(call: ChainCall): string {
  return `call ${call.serviceId}/${call.callId}`;
}
