import { expect, test } from 'vitest';
import { MockChain } from '../../src/chain/mock-chain.ts';
import { mockSigner } from '../../src/chain/mock-transaction.ts';
import { MockChainClient } from '../../src/chain/mock.ts';
import { systemClock } from '../../src/clock.ts';
import type { ChainSubject } from '../../src/conformance/chain.ts';
import { chainCases } from '../../src/conformance/chain.ts';
import type { Address } from '../../src/job/call.ts';

const OPERATOR: Address = '0x00000000000000000000000000000000000000aa';
const STRANGER: Address = '0x00000000000000000000000000000000000000bb';

function mockSubject(): ChainSubject {
  const chain = new MockChain({ clock: systemClock });
  const serviceIds = [
    chain.addService({ operators: [OPERATOR] }).serviceId,
    chain.addService({ operators: [OPERATOR] }).serviceId,
  ] as const;
  chain.mine(1);
  return {
    client: new MockChainClient({ chain, clock: systemClock }),
    operator: mockSigner(OPERATOR),
    stranger: mockSigner(STRANGER),
    serviceIds,
    submit: async (calls) => {
      for (const call of calls) chain.submitJob(call);
      chain.mine(1);
    },
    mine: async (blocks) => void chain.mine(blocks),
    reorg: async (depth, calls) => void chain.reorg(depth, { dropTransactions: true, replaceWith: calls }),
  };
}

test.each(chainCases)('mock: $name', async ({ run }) => {
  const subject = mockSubject();
  await run(subject);
  await subject.client.close();
  expect(subject.client.source).toBe('mock');
});
