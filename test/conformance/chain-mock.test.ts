import { describe, expect, test } from 'vitest';
import type { ChainClient, ChainUpdate } from '../../src/chain/chain.ts';
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

/** A client that breaks one promise. */
function broken(client: ChainClient, methods: Partial<ChainClient>): ChainClient {
  return new Proxy(client, {
    get(target, key): unknown {
      const value: unknown = Reflect.get(methods, key) ?? Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

async function* changed(
  updates: AsyncIterable<ChainUpdate>,
  change: (update: ChainUpdate) => ChainUpdate | undefined,
): AsyncIterable<ChainUpdate> {
  for await (const update of updates) {
    const now = change(update);
    if (now) yield now;
  }
}

describe('the cases find a client that', () => {
  const faults: readonly (readonly [string, string, (client: ChainClient) => Partial<ChainClient>])[] = [
    [
      'loses a call',
      'follow tells every call',
      (client) => ({
        follow: (options) =>
          changed(client.follow(options), (update) => (update.type === 'calls' ? { ...update, calls: update.calls.slice(1) } : update)),
      }),
    ],
    [
      'ignores the cursor',
      'follow goes on after a cursor',
      (client) => ({ follow: ({ cursor: _, ...options }) => client.follow({ ...options, fromBlock: 0n }) }),
    ],
    [
      'tells calls of all services',
      'follow tells only calls',
      (client) => ({ follow: ({ serviceIds: _, ...options }) => client.follow(options) }),
    ],
    [
      'hides a reorg',
      'follow reports a reorg with a block',
      (client) => ({ follow: (options) => changed(client.follow(options), (update) => (update.type === 'reorg' ? undefined : update)) }),
    ],
    ['confirms everything', 'confirm is false after a reorg', () => ({ confirm: async (calls) => calls.map(() => true) })],
    ['confirms nothing', 'confirm is true', () => ({ confirm: async (calls) => calls.map(() => false) })],
    [
      'simulates without reading the revert',
      'simulate names the error',
      () => ({ simulate: async () => ({ outcome: 'revert', error: 'Reverted', args: [], data: '0x' }) }),
    ],
    [
      'says sent whatever happens',
      'send tells what the node says',
      (client) => ({ send: async (raw) => client.send(raw).then(() => 'sent') }),
    ],
    ['shows no receipts', 'a result goes the whole way', () => ({ receipts: async (hashes) => hashes.map(() => undefined) })],
    ['knows every service', 'a service is described', (client) => ({ service: async () => client.service(0n) })],
  ];
  test.each(faults)('%s', async (_, prefix, fault) => {
    const found = chainCases.find(({ name }) => name.startsWith(prefix));
    const subject = mockSubject();
    await expect(found?.run({ ...subject, client: broken(subject.client, fault(subject.client)) })).rejects.toMatchObject({
      name: 'AssertionError',
    });
  });
});
