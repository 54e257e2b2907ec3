/** Runners with one part that does not keep its word. The checker has to find each of them out. */

import { DatabaseSync } from 'node:sqlite';
import { parseTransaction } from 'viem/utils';
import type { ChainClient, Signer } from '../../src/chain/chain.ts';
import { isRunnerError } from '../../src/errors.ts';
import type { Hex } from '../../src/job/call.ts';
import type { Ledger } from '../../src/ledger/ledger.ts';
import { STATE } from '../../src/ledger/rows.ts';
import type { SimulationWorld } from '../../src/testing/simulation-world.ts';
import type { BrokenParts } from './runner-system.ts';

/** Whether the log of a call is still on the chain is not asked: the answer is always yes. */
export const skipsInputsCheck: BrokenParts = {
  world: (world) => withChain(world, { confirm: async (calls) => calls.map(() => true) }),
};

/** A result may be signed as soon as there is one. */
export const ignoresConfirmations: BrokenParts = {
  ledger: (ledger) => instead<Ledger>(ledger, { settleable: (_, limit) => ledger.settleable((1n << 63n) - 1n, limit) }),
};

/** What was executed and not yet signed is to be executed again when the program starts. */
export const forgetsExecuted: BrokenParts = {
  file: (path) => {
    const database = new DatabaseSync(path);
    const hasCalls = database.prepare(`SELECT 1 FROM sqlite_master WHERE name = 'calls'`).get() !== undefined;
    if (hasCalls) database.exec(`UPDATE calls SET state = ${STATE.seen}, output = NULL WHERE state = ${STATE.executed}`);
    database.close();
  },
};

export const neverFinal: BrokenParts = {
  ledger: (ledger) => instead<Ledger>(ledger, { recordFinal: async () => 0 }),
};

/** Every fifth call of each life. */
export const losesCalls: BrokenParts = {
  ledger: (ledger) => {
    let count = 0;
    const isKept = (): boolean => {
      count += 1;
      return count % 5 !== 0;
    };
    return instead<Ledger>(ledger, {
      recordSeen: async (calls, cursor) => {
        const outcomes = await ledger.recordSeen(calls.filter(isKept), cursor);
        return calls.map((_, index) => outcomes[index] ?? 'known');
      },
    });
  },
};

/** A transaction whose answer was lost is signed again, with the next nonce. */
export const sendsAgainWithNewNonce: BrokenParts = {
  world: (world) => {
    const { chain, signer } = world;
    return withChain(world, {
      send: (raw) =>
        chain.send(raw).catch(async (error: unknown) => {
          if (!isRunnerError(error) || error.code !== 'RPC_UNREACHABLE') throw error;
          return chain.send(await signAgain(raw, signer, await chain.nonce(signer.address, 'pending')));
        }),
    });
  },
};

function signAgain(raw: Hex, signer: Signer, nonce: number): Promise<Hex> {
  const { to, data = '0x', value = 0n, gas = 0n, maxFeePerGas = 0n, maxPriorityFeePerGas = 0n, chainId = 0 } = parseTransaction(raw);
  if (!to) throw new Error('a transaction of settlement has a receiver');
  return signer.signTransaction({ type: 'eip1559', chainId, nonce, to, data, value, gas, maxFeePerGas, maxPriorityFeePerGas });
}

function withChain(world: SimulationWorld, others: Partial<ChainClient>): SimulationWorld {
  return { ...world, chain: instead(world.chain, others) };
}

/** The same object, with other methods where some are given. */
function instead<T extends object>(target: T, others: Partial<T>): T {
  return new Proxy(target, {
    get: (_, key): unknown => (Object.hasOwn(others, key) ? Reflect.get(others, key) : Reflect.get(target, key, target)),
  });
}
