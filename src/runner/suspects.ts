/** Calls in the middle of which the process of the runner ended. */

import { RunnerError } from '../errors.ts';
import { IN_PROCESS } from '../executor/local.ts';
import type { CallRecord } from '../ledger/ledger.ts';

/** Which of the calls that ran then ended the process nobody knows; after the second time each of them runs without the others. */
const ALONE_AFTER = 2;

/** They run one after the other, so that the one that ends the process takes no others with it, and not for ever. */
export class Suspects {
  /** By row of the ledger: how often. */
  readonly #crashes: Map<number, number>;
  readonly #crashesMax: number;
  #running: number | undefined;
  readonly #waiting = new Map<number, CallRecord>();

  constructor(crashes: ReadonlyMap<number, number>, crashesMax: number) {
    this.#crashes = new Map(crashes);
    this.#crashesMax = crashesMax;
  }

  /** False: another one runs. The call is among those that `left` gives back. */
  enter(record: CallRecord): boolean {
    const { seq } = record;
    if (this.#count(seq) < ALONE_AFTER) return true;
    if (this.#running === undefined) this.#running = seq;
    else this.#waiting.set(seq, record);
    return this.#running === seq;
  }

  /** The call does not run any more. What waited for that. */
  left(seq: number): CallRecord[] {
    if (this.#running !== seq) return [];
    this.#running = undefined;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    return waiting;
  }

  /** Before an attempt. Throws `FUNCTION_CRASHED` for what has ended the process too often, and would run in it again. */
  check({ seq, call }: CallRecord, executor: string): void {
    const count = this.#count(seq);
    if (executor !== IN_PROCESS || count < this.#crashesMax) return;
    throw new RunnerError('FUNCTION_CRASHED', `the process of the runner ended ${count} times while call ${call.id} ran in it`);
  }

  /** Somebody asks for another try. */
  forgive(seq: number): void {
    this.#crashes.delete(seq);
  }

  #count(seq: number): number {
    return this.#crashes.get(seq) ?? 0;
  }
}
