import { privateKeyToAccount } from 'viem/accounts';
import { describe, expect, test } from 'vitest';
import type { Signer } from '../../src/chain/chain.ts';
import { RpcChainClient } from '../../src/chain/rpc.ts';
import type { ChainSubject } from '../../src/conformance/chain.ts';
import { chainCases } from '../../src/conformance/chain.ts';
import type { LocalAccount, LocalChain } from '../../src/testing/testing.ts';
import { deployTangle, startLocalChain } from '../../src/testing/testing.ts';

const account = (chain: LocalChain, index: number): LocalAccount => chain.accounts[index] ?? expect.fail(`no account ${index}`);
const signerOf = ({ privateKey }: LocalAccount): Signer => privateKeyToAccount(privateKey);

/** A fresh node with the small contract, which mines only when it is told to. */
async function rpcSubject(chain: LocalChain, options: { readonly push: boolean }): Promise<ChainSubject> {
  const tangle = await deployTangle(chain);
  const { blueprintId, serviceId, operators } = await tangle.startService({
    jobs: [{ name: 'first' }, { name: 'second' }],
    operatorCount: 1,
  });
  const other = await tangle.createService({ blueprintId, operators });
  await chain.setAutomine(false);
  const { rpcUrl, wsUrl, chainId } = chain;
  return {
    client: new RpcChainClient({ rpcUrl, contract: tangle.contract, chainId, pollIntervalMs: 20, ...(options.push && { wsUrl }) }),
    operator: signerOf(account(chain, 1)),
    stranger: signerOf(account(chain, 5)),
    serviceIds: [serviceId, other],
    async submit(calls) {
      await chain.setAutomine(true);
      for (const call of calls) await tangle.submitJob(call.serviceId, call);
      await chain.setAutomine(false);
    },
    mine: (blocks) => chain.mine(blocks),
    async reorg(depth, calls) {
      await chain.reorg(
        depth,
        calls.map((call) => ({ transaction: tangle.jobTransaction(call.serviceId, call), block: 0 })),
      );
    },
  };
}

describe.each([
  { how: 'polled', push: false },
  { how: 'pushed', push: true },
])('rpc, $how', ({ push }) => {
  test.each(chainCases)('$name', async ({ run }) => {
    const chain = await startLocalChain();
    try {
      const subject = await rpcSubject(chain, { push });
      await run(subject);
      await subject.client.close();
    } finally {
      await chain.stop();
    }
  });
});
