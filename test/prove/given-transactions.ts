/** What a runner gives to its node: every transaction with results, from a proxy between the two. */

import { keccak256, parseTransaction } from 'viem/utils';
import { decodeSubmission } from '../../src/chain/mock-contract.ts';
import { startRpcProxy } from '../../src/testing/rpc-proxy.ts';
import type { ProxiedCall, ProxyReply, RpcProxy } from '../../src/testing/rpc-proxy.ts';
import type { LocalChain } from '../../src/testing/testing.ts';

type Hex = `0x${string}`;

interface Given {
  readonly nonce: number;
  readonly calls: readonly string[];
  times: number;
}

export interface GivenReport {
  readonly transactions: number;
  /** Bytes that the node had been given before: whatever becomes of them, they are one transaction. */
  readonly again: number;
  /** What the node said to bytes given again. */
  readonly againAnswers: Readonly<Record<string, number>>;
  /** Answers other than the hash to bytes it saw for the first time. */
  readonly refused: readonly string[];
  /** Calls whose result was in transactions of more than one nonce. */
  readonly twice: number;
  /** Mined, with the contract's refusal. */
  readonly reverted: number;
}

/** `late`: the node gets it after the next one; `unheard`: the node has it, and its answer does not come through. */
export type Hold = 'late' | 'unheard';

export class GivenTransactions {
  readonly #byHash = new Map<Hex, Given>();
  readonly #againAnswers: Record<string, number> = {};
  readonly #refused: string[] = [];
  /** Those that come after the next one. */
  readonly #late: (() => void)[] = [];
  #hold: { readonly kind: Hold; readonly held: () => void; readonly released: Promise<void> } | undefined;

  /** Stops the next transaction on its way. `held` resolves when it is; `release` ends the connection that waits for the answer. */
  holdNext(kind: Hold): { readonly held: Promise<true>; readonly release: () => void } {
    const held = Promise.withResolvers<true>();
    const released = Promise.withResolvers<void>();
    this.#hold = { kind, held: () => held.resolve(true), released: released.promise };
    const release = (): void => {
      this.#hold = undefined;
      released.resolve();
    };
    return { held: held.promise, release };
  }

  /** Stands between a runner and the node until it is closed. */
  watch(chain: Pick<LocalChain, 'rpcUrl' | 'wsUrl'>): Promise<RpcProxy> {
    return startRpcProxy({
      upstream: chain.rpcUrl,
      wsUpstream: chain.wsUrl,
      onCall: (call, forward) => this.#pass(call, forward),
    });
  }

  async report(chain: Pick<LocalChain, 'request'>): Promise<GivenReport> {
    const noncesOf = new Map<string, Set<number>>();
    let reverted = 0;
    for (const [hash, { nonce, calls }] of this.#byHash) {
      for (const call of calls) noncesOf.set(call, (noncesOf.get(call) ?? new Set()).add(nonce));
      const receipt = (await chain.request('eth_getTransactionReceipt', [hash])) as { readonly status: Hex } | null;
      if (receipt?.status === '0x0') reverted += 1;
    }
    return {
      transactions: this.#byHash.size,
      again: [...this.#byHash.values()].reduce((sum, { times }) => sum + times - 1, 0),
      againAnswers: this.#againAnswers,
      refused: this.#refused,
      twice: [...noncesOf.values()].filter((nonces) => nonces.size > 1).length,
      reverted,
    };
  }

  async #pass({ method, params }: ProxiedCall, forward: () => Promise<ProxyReply>): Promise<ProxyReply> {
    if (method !== 'eth_sendRawTransaction') return forward();
    const raw = params[0] as Hex; // as: the runner's own request
    const { nonce = 0, data = '0x' } = parseTransaction(raw);
    const batch = decodeSubmission(data);
    if (!batch) return forward();
    const hold = this.#hold;
    this.#hold = undefined;
    if (hold?.kind === 'late') {
      hold.held();
      await hold.released;
      await new Promise<void>((resolve) => this.#late.push(resolve));
    }
    const known = this.#note(keccak256(raw), { nonce, calls: batch.callIds.map((callId) => `${batch.serviceId}/${callId}`) });
    const reply = await forward();
    const answer = 'error' in reply ? reply.error.message : 'taken';
    if (known) this.#againAnswers[answer] = (this.#againAnswers[answer] ?? 0) + 1;
    else if ('error' in reply) this.#refused.push(answer);
    for (const send of this.#late.splice(0)) send();
    if (hold?.kind === 'unheard') {
      hold.held();
      await hold.released;
    }
    return reply;
  }

  /** Whether the node was given it before. */
  #note(hash: Hex, transaction: Omit<Given, 'times'>): boolean {
    const known = this.#byHash.get(hash);
    if (known) known.times += 1;
    else this.#byHash.set(hash, { ...transaction, times: 1 });
    return known !== undefined;
  }
}
