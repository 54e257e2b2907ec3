/** What a service has on its chain: calls with their inputs, results as they come. */

import { TOPIC } from '../../src/chain/contracts.ts';
import { decodeSubmittedResult } from '../../src/chain/decode.ts';
import { encodeAbi } from '../../src/job/abi.ts';
import { parseParameters } from '../../src/job/solidity.ts';
import type { LocalChain, LocalTangle } from '../../src/testing/testing.ts';

const UINT64 = parseParameters('uint64 x');
const encode = (value: bigint): Uint8Array => encodeAbi(UINT64, [value]);
/** Of one transaction, and transactions on their way: the runner has work at once, and all the time. */
const CALLS_PER_TRANSACTION = 100;
const ON_THEIR_WAY = 3;

type Chain = Pick<LocalChain, 'request' | 'chainId'>;

export interface Judgement {
  /** Calls with one result on the chain, and that the right one. */
  readonly right: number;
  readonly lost: number;
  readonly wrong: number;
  /** Results beyond the first of a call. */
  readonly twice: number;
}

export class Calls {
  readonly #chain: Chain;
  readonly #tangle: LocalTangle;
  readonly #serviceId: bigint;
  /** The input of each call. */
  readonly #inputs = new Map<bigint, bigint>();
  readonly #outputs = new Map<bigint, Uint8Array[]>();
  #nextBlock = 0n;

  constructor(chain: Chain, tangle: LocalTangle, serviceId: bigint) {
    this.#chain = chain;
    this.#tangle = tangle;
    this.#serviceId = serviceId;
  }

  get submitted(): number {
    return this.#inputs.size;
  }

  /** Calls that have a result in what was read. */
  get settled(): number {
    return this.#outputs.size;
  }

  /** Calls of job 0 with the inputs 0, 1, 2 and so on. */
  async submit(count: number): Promise<void> {
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < count) {
        const inputs = Array.from({ length: Math.min(CALLS_PER_TRANSACTION, count - next) }, (_, index) => BigInt(next + index));
        next += inputs.length;
        const jobs = inputs.map((input) => ({ jobIndex: 0, inputs: encode(input) }));
        const ids = await this.#tangle.submitMany(this.#serviceId, jobs);
        for (const [index, id] of ids.entries()) this.#inputs.set(id, inputs[index] ?? 0n);
      }
    };
    await Promise.all(Array.from({ length: ON_THEIR_WAY }, lane));
  }

  /** The results of the blocks that came since. */
  async read(): Promise<void> {
    const head = BigInt((await this.#chain.request('eth_blockNumber', [])) as string);
    if (head < this.#nextBlock) return;
    const address = this.#tangle.contract;
    const [fromBlock, toBlock] = [this.#nextBlock, head].map((number) => `0x${number.toString(16)}`);
    const topics = [TOPIC.jobResultSubmitted, `0x${this.#serviceId.toString(16).padStart(64, '0')}`];
    const logs = (await this.#chain.request('eth_getLogs', [{ address, topics, fromBlock, toBlock }])) as readonly unknown[];
    for (const log of logs) {
      const { callId, output } = decodeSubmittedResult(log, { chainId: this.#chain.chainId, contract: address });
      const known = this.#outputs.get(callId);
      if (known) known.push(output);
      else this.#outputs.set(callId, [output]);
    }
    this.#nextBlock = head + 1n;
  }

  judge(): Judgement {
    const counts = { right: 0, lost: 0, wrong: 0, twice: 0 };
    for (const [id, input] of this.#inputs) {
      const [output, ...more] = this.#outputs.get(id) ?? [];
      counts.twice += more.length;
      if (!output) counts.lost += 1;
      else if (Buffer.compare(output, encode(input ** 2n)) !== 0) counts.wrong += 1;
      else if (more.length === 0) counts.right += 1;
    }
    return counts;
  }
}
